/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A lane: one thread that is one member of the consumer group with one MySQL connection and one notices producer, and
 * settles the partitions it is given, one transaction at a time. Lanes share nothing but what struct shared holds. */
#include <pthread.h>
#include <stdatomic.h>

#include "gf/kafka.h"
#include "gf/loop.h"
#include "publisher.h"

struct shared {
    const struct gf_config *config;
    char topic[GF_CONFIG_TEXT_MAX + 16];
    char owner[80]; /* host:pid, written into progress.owner */
    struct publisher *publisher; /* NULL: publishing is off */
    struct gf_async *ended;      /* a lane has ended */
    atomic_bool stopping;
    atomic_int partitions_seen; /* what Kafka last said the topic has; 0: not asked yet (F4) */
    atomic_bool settles;        /* some lane has settled a gift since MySQL failed for a reason that nobody has met (F12 b) */
    pthread_mutex_t lock;
    struct gf_kafka_admin *admin; /* locks: lock */
    pthread_mutex_t stop_lock;    /* its own: `lock` is held while Kafka is asked, and readiness must not wait for that */
    char stop_reason[280];        /* locks: stop_lock; of the partition that was stopped last */
};

/* What the role's thread may read of a lane. */
struct lane_status {
    atomic_bool sql_ok, joined, connected, ended;
    atomic_int stopped; /* partitions that must not go on */
    atomic_llong oldest_ms;   /* append time of the oldest record taken; 0: none waits */
    atomic_llong lag_records; /* of the owned partitions, as Kafka last said */
    atomic_llong turned_ms; /* monotonic; the thread went round */
};

struct lane;
struct lane *lane_start(struct shared *shared, int index);
const struct lane_status *lane_status(const struct lane *lane);
void lane_join(struct lane **lane); /* after shared->stopping was set */
