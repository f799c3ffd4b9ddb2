/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Notices of committed trades, at least once (G4). Each range of offsets whose notices were produced has a tracker; the
 * trackers of a log stand in offset order, and progress.notified_offset follows the acknowledged ones from the front. A
 * tracker with a failed notice is made again from the trade rows, at whatever pace Kafka takes them. Owns: the producer and the trackers.
 * Thread: the lane's; acknowledgements come inside notifier_serve. */
#include "catalogue.h"
#include "gf/kafka.h"
#include "gf/plan.h"

struct notifier;
struct tracker;

struct notice_queue { /* of one log; zero-initialised */
    struct tracker *head, *tail;
};

GF_NODISCARD enum gf_class notifier_create(const struct gf_config *config, struct notifier **notifier_r,
                                           struct gf_error *error_r);
void notifier_destroy(struct notifier **notifier);
void notifier_serve(struct notifier *notifier, int64_t timeout_ms);
bool notifier_connected(struct notifier *notifier);
/* True while more than two batches' worth of notices (or 5,000) is not acknowledged: settlement waits (F20). */
bool notifier_blocked(const struct notifier *notifier);
bool notifier_waiting(const struct notifier *notifier); /* something is not acknowledged */
/* Serves until all is acknowledged or the time is over. */
void notifier_flush(struct notifier *notifier, int64_t timeout_ms);

/* A tracker for [from, next) at the queue's end, then send each trade, then close. Needs !notifier_blocked. */
struct tracker *notifier_open(struct notifier *notifier, struct notice_queue *queue, int64_t from, int64_t next);
void notifier_send(struct notifier *notifier, struct tracker *tracker, int32_t log, const struct gf_trade *trade,
                   const struct catalogue *catalogue);
/* The same for all of a batch, those of one partition of the notices topic together: each keeps its place among those of its
 * key, and the producer's requests are few and full (it sends one for each partition and linger time). */
void notifier_send_all(struct notifier *notifier, struct tracker *tracker, int32_t log, const struct gf_plan *plan,
                       const struct catalogue *catalogue);
void notifier_close(struct notifier *notifier, struct tracker *tracker);

/* Takes acknowledged trackers off the front; *notified_r moves to where the first one that is left begins, or has got to. */
void notice_queue_advance(struct notifier *notifier, struct notice_queue *queue, int64_t *notified_r);
/* The first tracker that must be made again, reopened for sending; NULL: none, or not yet: at once the first time, then ever more
 * rarely. The first time it is all of its range; a piece that fails is halved, what follows one that does not is twice as long. */
struct tracker *notice_queue_again(struct notice_queue *queue, int64_t now_ms, int64_t *from_r, int64_t *next_r);
/* The tracker could not be made: it will be asked for again. */
void notifier_fail(struct notifier *notifier, struct tracker *tracker);
/* The log is not ours any more: acknowledgements under way find nothing to do. */
void notice_queue_drop(struct notifier *notifier, struct notice_queue *queue);
