/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Tells Redis what committed batches left: released holds first, then the balance by version; what waits for one user leaves
 * as one. A ring, a thread and a connection per Redis primary, so that one that is away holds up nobody else's users.
 * Never blocks money: lanes append to a ring and go on. The ring is at once the queue and the memory of the last 30 s: on
 * every new connection it is read again from there, because a Redis that failed over may have forgotten (F10). When Redis
 * cannot keep up, the oldest entries are dropped and counted; lanes see that and add them again from trade rows when there is
 * room (lane_republish.c). What Redis answers with an error (a key of another type, no memory) is counted only: holds then
 * end by their deadline, balances by the loader; only a lost connection is made anew.
 * Threads: publisher_add and publisher_look from any; the rest from the role's. */
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

struct publisher_look {
    uint64_t dropped;  /* so far, for want of room; never taken back */
    int64_t oldest_ms; /* what was added before this has left the ring: sent or counted in `dropped`; INT64_MAX: all has */
    int room;          /* so much of what is not urgent each lane may add now without an item being dropped; 0: later */
};
/* Of all primaries together: as full as the fullest, as late as the latest. */
void publisher_look(struct publisher *publisher, struct publisher_look *look_r);
/* Sends what is there for at most wait_ms, then ends the thread. */
void publisher_stop(struct publisher **publisher, int64_t wait_ms);
