/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the five files of a lane share. lane.c: the thread, its turns, joining and leaving the group. lane_claim.c: what
 * happens when a partition comes or goes. lane_settle.c: records of a partition, from Kafka to what follows the commit.
 * lane_notices.c: what clients are told. lane_republish.c: what Redis is told again.
 * Thread: the lane's, for everything here. */
#include "batch.h"
#include "lane.h"
#include "notify.h"
#include "stage.h"
#include "store.h"

#define PARTS_MAX 1024 /* kafka.partitions' bound */
#define LANE_ITEMS 1024

/* What Redis was not told because the publisher's ring was full (lane_republish.c). */
struct untold {
    int64_t from, to;      /* offsets that are being published again */
    int64_t below;         /* nothing is untold below this offset but what is missed by nobody any more */
    int64_t mark, mark_ms; /* at mark_ms the offsets below `mark` had been given to the publisher: the next `below` */
    int64_t looked_ms;
    uint64_t dropped; /* the publisher's count that is dealt with by from, to */
};

/* A partition of the topic, as this lane knows it. */
struct part {
    bool assigned;       /* by the group */
    bool owned;          /* claimed in MySQL, consumed */
    bool stopped;        /* must not go on before somebody has looked .. */
    bool unreadable;     /* .. or before it can be read */
    bool compares;       /* claimed, but Kafka has not told yet what its log is: nothing is taken before that */
    uint32_t generation; /* changes with each assignment and revocation */
    struct claim claim;
    struct notice_queue notices;
    int64_t rederive, republish, recover_to; /* what a former owner may not have told: [.., recover_to) */
    struct untold untold;
    int64_t careful_to; /* below this offset short batches, the try of each on record (F12 a) */
    int64_t single_to;  /* below this one a record at a time */
    bool check_last;    /* the first record must be the last consumed one (F5) */
    int64_t notified_ms, committed_ms, fenced_ms, looked_ms;
    char broken[160]; /* what cannot be read of it: to be stopped for a while. "": nothing is known of */
};

struct lane {
    struct shared *shared;
    const struct gf_config *config;
    int index;
    pthread_t thread;
    struct lane_status status;
    struct gf_kafka_consumer *consumer;
    struct store *store;
    struct notifier *notifier;
    struct batch *batch;
    struct publish_item items[LANE_ITEMS]; /* on their way to the publisher */
    int item_count;
    struct part parts[PARTS_MAX];
    int part_end;     /* highest partition seen + 1 */
    bool rejoin;      /* leave the group and come back: the assignment cannot be served as it is */
    int rejoins;      /* in a row */
    bool started;
    unsigned turns;
    struct stage_clock stage; /* of what is done outside the transaction */
    int64_t joined_ms;
    int64_t down_ms;  /* since when MySQL does not answer; 0: it does */
    bool proved;      /* the record that is being buried is at fault: others were settled meanwhile (F12 b) */
    int64_t ask_ms;    /* Kafka is not asked for a partition's log before */
    int64_t again_ms;  /* when partitions that could not be read are read again, by another assignment */
    int agains;        /* such waits in a row */
    int64_t looked_ms; /* when the partition count was last compared */
    int64_t lag_looked_ms;
};

/* After a pause a partition may have gone, or have come back as another claim. */
static inline bool lane_is_mine(const struct part *part, uint32_t generation)
{
    return part->owned && part->generation == generation;
}

/* lane.c */
/* Serves group and producer for `ms`; callbacks of a rebalance may run inside. */
void lane_pause(struct lane *lane, int64_t ms);
static inline bool lane_stopping(const struct lane *lane) { return atomic_load(&lane->shared->stopping); }
static inline struct part *lane_part(struct lane *lane, int32_t partition)
{
    GF_ASSERT(partition >= 0 && partition < PARTS_MAX);
    return &lane->parts[partition];
}

/* lane_claim.c: callbacks of the consumer, and stopping a partition. */
int64_t lane_on_assign(void *ctx, int32_t partition);
void lane_on_revoke(void *ctx, int32_t partition, bool lost);
void lane_on_broken(void *ctx, int32_t partition, bool out_of_range, const char *reason);
void lane_stop_part(struct lane *lane, int32_t partition, const char *fmt, ...) GF_PRINTF(3, 4);
void lane_drop_part(struct lane *lane, struct part *part);
void lane_tend_broken(struct lane *lane, int32_t partition); /* part->broken: stops it; then waits for the next look */
enum gf_class lane_watermarks(struct lane *lane, int32_t partition, struct gf_kafka_range *range_r, struct gf_error *error_r);
void lane_compare_partitions(struct lane *lane);
void lane_compare_again(struct lane *lane, int32_t partition); /* part->compares: asks, if it is time */
int lane_partition_count(struct lane *lane); /* as Kafka last said; 0: it has not answered */

/* Rows of `trade` that are read again at once: they take more memory than a batch's records. */
static inline int64_t lane_piece(const struct lane *lane) { return (lane->batch->max + 1) / 2; }

/* Where a piece of [from, to) ends. */
static inline int64_t lane_piece_end(int64_t from, int64_t to, int64_t step) { return to - from < step ? to : from + step; }

/* lane_republish.c. One item for Redis; the end of a series, which hands the rest over. */
void lane_publish(struct lane *lane, const struct publish_item *item);
void lane_publish_end(struct lane *lane);
/* Begin: of a claim. Claimed: one piece of [republish, recover_to); false: MySQL did not answer. Dropped:
 * notices drops, and adds one piece of what they took when there is room; true if there may be more to do at once. */
void lane_republish_begin(struct lane *lane, struct part *part);
bool lane_republish_claimed(struct lane *lane, struct part *part);
bool lane_republish_dropped(struct lane *lane, struct part *part);

/* lane_notices.c. Notify: of the batch that was committed. Again: of [from, next), from MySQL, for the tracker. Tend: acknowledged
 * ones move claim.notified, lost ones are made again. Wait: until there is room for more; false: the partition was taken away
 * meanwhile. Write: how far they got, if no batch carries it. */
void lane_notify(struct lane *lane, struct part *part);
void lane_notices_again(struct lane *lane, struct part *part, struct tracker *tracker, int64_t from, int64_t next);
void lane_tend_notices(struct lane *lane, struct part *part);
bool lane_wait_for_notices(struct lane *lane, struct part *part);
void lane_write_notified(struct lane *lane, struct part *part);

/* lane_settle.c: one step for one partition; true if there may be more to do at once. */
bool lane_serve_part(struct lane *lane, int32_t partition);
