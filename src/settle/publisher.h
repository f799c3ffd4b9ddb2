/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Tells Redis what committed batches left: released holds first, then the balance by version; what waits for one user leaves
 * as one. A ring, a thread and a connection per Redis primary, so that one that is away holds up nobody else's users.
 * Never blocks money: lanes append to a ring and go on. The ring is at once the queue and the memory of the last 30 s: on
 * every new connection it is read again from there, because a Redis that failed over may have forgotten (F10). When Redis
 * cannot keep up, the oldest entries are dropped and counted: holds then end by their deadline, balances by the loader.
 * So is what Redis answers with an error (a key of another type, no memory): only a lost connection is made anew.
 * Threads: publisher_add from any; the rest from the role's. */
#include "gf/config.h"
#include "gf/uuid.h"

struct publisher;

struct publish_item {
    int64_t user_id;
    struct gf_uuid request_id; /* its hold is released */
    int64_t ver, balance;      /* ver -1: release only */
    int64_t added_ms;          /* filled in by publisher_add */
    int32_t status;
};

struct publisher *publisher_start(const struct gf_config *config);
void publisher_add(struct publisher *publisher, struct publish_item *items, int count);
/* Sends what is there for at most wait_ms, then ends the thread. */
void publisher_stop(struct publisher **publisher, int64_t wait_ms);
