/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Where the time of settlement goes: the stages of a batch, each counted in the metrics as time that passed and as processor
 * time of the lane's thread. A clock is started, then each stage ends where the next one begins. Thread: the clock's owner. */
#include "gf/base.h"

enum stage {
    STAGE_POLL,    /* records from Kafka's queue */
    STAGE_DECODE,  /* ... into commands, with their fingerprints */
    STAGE_FENCE,   /* BEGIN, progress locked */
    STAGE_CREDITS, /* credit rows locked, their wallets opened */
    STAGE_WALLETS, /* wallets locked and read */
    STAGE_PLAN,
    STAGE_TRADES,  /* trade rows and dead letters inserted */
    STAGE_UPDATE,  /* wallets and credits written */
    STAGE_CHAIN,   /* SHA-256 over the trade rows */
    STAGE_CLOSE,   /* batch row, progress moved */
    STAGE_COMMIT,
    STAGE_PUBLISH, /* handed to the publisher's thread */
    STAGE_NOTICES, /* notices encoded and handed to the producer */
    STAGE_ACKS,    /* the producer's acknowledgements */
    STAGE_COUNT,
};

struct stage_clock {
    int64_t wall_us, cpu_us;
};

void stage_start(struct stage_clock *clock);
/* What has passed since the stage before belongs to this one. */
void stage_end(struct stage_clock *clock, enum stage stage);

/* Benchmarks that look at the server too are called at the end of each stage; set before the first lane starts. */
typedef void (*stage_probe_fn)(enum stage stage);
extern stage_probe_fn stage_probe;
