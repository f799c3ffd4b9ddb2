/* SPDX-License-Identifier: Apache-2.0 */
/* The records of one partition: taken from Kafka, settled in windows, told to Redis and to the notices topic.
 * One window is one transaction. Its failures, by class:
 *  RETRY, FATAL  rolled back: again after a bounded back-off, serving the group meanwhile; after settle.retry_max the lane
 *                leaves the group and everything is read again from MySQL (F20)
 *  UNCERTAIN     COMMIT's answer is lost: nothing is done before a locking read has told (F7)
 *  REJECT        MySQL refuses what is in it: the window is halved down to one record, which becomes a dead letter (F12 b);
 *                or it moves more coins than the sums of one batch hold, which a single record never does
 *  UNCERTAIN, and looked up as not done, three times: the window is halved, it may be too large to be committed
 *  an error that nobody has met is FATAL, but the window is halved at the second one; the single record that still fails
 *                after settle.retry_max becomes a dead letter, if MySQL settles other gifts meanwhile: a server that takes dead
 *                letters and no gifts must not turn all gifts into dead letters. Without that proof it waits longer
 *  fenced        another process owns the log: the partition is dropped (F8) */
#include <inttypes.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/point.h"
#include "lane_internal.h"
#include "tally.h"

#define BACKOFF_MS 20
#define BACKOFF_MAX_MS 2000
#define FILL_MS 250 /* most that a batch waits for records that the log is known to have */
#define COMMIT_MS 1000       /* how often Kafka is told the offset, for lag tools */
#define TRIES_MAX 5
#define CAREFUL_WINDOW 200 /* records of one try: a stall that is nobody's fault costs 250 short transactions, not 50,000 */
#define REFUSALS_MAX 2
#define UNKNOWN_MAX 2 /* failures for an unknown reason before the record is looked for */
#define UNDONE_MAX 3  /* COMMITs that were not, before a shorter window is tried */
#define UNPROVED 4    /* assignments without progress, of anybody, that stand for the proof that MySQL settles others */
#define ER_PARSE_ERROR 1064 /* our text, never the record's fault */
#define LOOK_MS 2000        /* for a new log of a stopped partition */
#define FENCED_MS 30000     /* fenced out and still assigned after this: claim again */

enum done { DONE_OK, DONE_DROPPED, DONE_REFUSED };

static bool is_careful(const struct part *part)
{
    return part->careful_to > part->claim.next_offset;
}

/* Waits before another try. False: the partition is not ours any more, or time is over and the lane will leave the group. */
static bool wait_again(struct lane *lane, const struct part *part, uint32_t generation, int attempt, int64_t deadline_ms)
{
    if (gf_clock_mono_ms() >= deadline_ms || lane_stopping(lane)) {
        lane->rejoin = true;
        return false;
    }
    if (attempt > 0) /* one deadlock is no outage */
        atomic_store(&lane->status.sql_ok, false);
    lane_pause(lane, gf_backoff_ms(attempt < 16 ? attempt : 16, BACKOFF_MS, BACKOFF_MAX_MS));
    return lane_is_mine(part, generation) && !lane->rejoin;
}

/* In the order of users, so that what one wallet had in the whole batch leaves together. */
static void publish(struct lane *lane)
{
    const struct batch *batch = lane->batch;
    const struct gf_wallet *wallet = batch->wallets, *end = wallet + batch->wallet_count;

    if (lane->shared->publisher == NULL)
        return;
    for (int i = 0; i < batch->by_user_count; i++) {
        const struct gf_command *command = batch_command(batch, batch->by_user[i].record);
        bool has_wallet;

        while (wallet < end && wallet->user_id < command->user_id)
            wallet++;
        has_wallet = wallet < end && wallet->user_id == command->user_id;
        lane_publish(lane, &(struct publish_item){.user_id = command->user_id,
                                                  .request_id = command->request_id,
                                                  .ver = has_wallet ? wallet->ver : -1,
                                                  .balance = has_wallet ? wallet->balance : 0,
                                                  .status = has_wallet ? wallet->status : 1});
    }
    lane_publish_end(lane);
}

static void count_batch(struct lane *lane)
{
    const struct batch *batch = lane->batch;

    tally_batch(batch, gf_clock_real_ms());
    if (batch->plan.dead + batch->dead > 0)
        gf_log(GF_WARN, "dead_letters_recorded", "partition=%" PRId32 " count=%d first_offset=%" PRId64, batch->partition,
               batch->plan.dead + batch->dead, batch->first_offset);
}

/* The money has moved: tell everybody. Nothing here can fail the batch. */
static void after_commit(struct lane *lane, struct part *part)
{
    int64_t now_ms = gf_clock_mono_ms();

    atomic_store(&lane->status.sql_ok, true);
    if (lane->batch->plan.settled > 0)
        atomic_store(&lane->shared->settles, true);
    part->claim.stalls = 0;
    part->claim.next_offset = lane->batch->next_offset;
    part->claim.notified_written = part->claim.notified; /* the transaction has carried it */
    part->notified_ms = now_ms;
    count_batch(lane);
    GF_POINT(settle_committed);
    stage_start(&lane->stage);
    publish(lane);
    stage_end(&lane->stage, STAGE_PUBLISH);
    GF_POINT(settle_publish_queued);
    lane_notify(lane, part);
    stage_end(&lane->stage, STAGE_NOTICES);
    if (now_ms - part->committed_ms < COMMIT_MS)
        return;
    part->committed_ms = now_ms;
    GF_POINT(settle_offset_before);
    gf_kafka_consumer_commit(lane->consumer, part->claim.partition, part->claim.next_offset);
    GF_POINT(settle_offset_after);
}

static enum done fenced(struct lane *lane, struct part *part)
{
    gf_log(GF_WARN, "partition_fenced", "partition=%" PRId32 " log=%" PRId32 " epoch=%" PRId64, part->claim.partition,
           part->claim.log, part->claim.epoch);
    gf_metric_add(GF_M_SETTLE_FENCED, 1);
    lane_drop_part(lane, part);
    part->fenced_ms = gf_clock_mono_ms();
    return DONE_DROPPED;
}

/* DONE_OK: the lost COMMIT was one. DONE_REFUSED stands for "it was not: again". */
static enum done resolve_commit(struct lane *lane, struct part *part)
{
    int64_t deadline_ms = gf_clock_mono_ms() + lane->config->settle_retry_max;
    uint32_t generation = part->generation;
    int64_t next_offset = 0, epoch = 0;
    struct gf_error error;

    gf_metric_add(GF_M_SETTLE_UNCERTAIN, 1);
    GF_POINT(settle_lookup_before);
    for (int attempt = 0; store_lookup(lane->store, &part->claim, &next_offset, &epoch, &error) != GF_OK; attempt++) {
        gf_log(GF_WARN, "commit_lookup_failed", "partition=%" PRId32 " error=\"%s\"", part->claim.partition, error.text);
        if (!wait_again(lane, part, generation, attempt, deadline_ms))
            return DONE_DROPPED;
    }
    GF_POINT(settle_lookup_after);
    gf_log(GF_WARN, "commit_looked_up", "partition=%" PRId32 " next_offset=%" PRId64 " wanted=%" PRId64,
           part->claim.partition, next_offset, lane->batch->next_offset);
    if (epoch == part->claim.epoch && next_offset == lane->batch->next_offset)
        return DONE_OK;
    if (epoch == part->claim.epoch && next_offset == lane->batch->first_offset)
        return DONE_REFUSED;
    return fenced(lane, part);
}

/* The process has survived the record, and MySQL's absence is not its fault: the try does not count (F12 a). */
static void forgive(struct lane *lane, const struct claim *claim)
{
    struct gf_error error;

    if (store_untry(lane->store, claim, lane->batch->commands[0].off, &error) != GF_OK)
        gf_log(GF_WARN, "try_not_forgiven", "partition=%" PRId32 " error=\"%s\"", claim->partition, error.text);
}

static void count_retry(enum gf_class class)
{
    static const enum gf_metric metrics[] = {[GF_RETRY] = GF_M_SETTLE_RETRY,
                                             [GF_REJECT] = GF_M_SETTLE_RETRY_REJECT,
                                             [GF_UNCERTAIN] = GF_M_SETTLE_RETRY_UNCERTAIN,
                                             [GF_FATAL] = GF_M_SETTLE_RETRY_FATAL};

    GF_ASSERT(class != GF_OK);
    gf_metric_add(metrics[class], 1);
}

/* How a window has fared. */
struct tries {
    int attempt, undone; /* failures; COMMITs that were none */
    int64_t deadline_ms;
};

/* For an unknown error it may be the server: it gets another chance each time, the single record all of settle.retry_max. Then
 * the proof that it is the record's: some gift was settled since this batch failed as a whole. Without one the partition is given
 * back some times more, and then the record is not buried without its row: that is refused by the table. Who takes nothing
 * of a record at all takes nothing of any. */
static bool is_unknown_refusal(struct lane *lane, const struct part *part, const struct tries *tries)
{
    const struct batch *batch = lane->batch;

    if (tries->attempt == 0 && batch->n == batch->count)
        atomic_store(&lane->shared->settles, false);
    if (batch->n > 1 || (batch->refusals == 1 && lane->proved))
        return tries->attempt + 1 >= UNKNOWN_MAX;
    if (batch->refusals > 0 || gf_clock_mono_ms() < tries->deadline_ms)
        return false;
    lane->proved = atomic_exchange(&lane->shared->settles, false); /* the next one needs a proof of its own */
    return lane->proved || part->claim.stalls >= UNPROVED;
}

/* Whether the window is to be halved, or its single record buried, for this error (F12 b). */
static bool is_refusal(struct lane *lane, const struct part *part, const struct tries *tries, enum gf_class class,
                       const struct gf_error *error)
{
    if (class == GF_UNCERTAIN)
        return lane->batch->n > 1 && tries->undone >= UNDONE_MAX;
    if (class != GF_REJECT)
        return class == GF_FATAL && gf_sql_is_unknown(error) && is_unknown_refusal(lane, part, tries);
    lane->proved = true; /* no server says that of its own trouble */
    return error->native != ER_PARSE_ERROR;
}

static enum done settle_window(struct lane *lane, struct part *part)
{
    struct tries tries = {.deadline_ms = gf_clock_mono_ms() + lane->config->settle_retry_max};
    const struct claim claim = part->claim; /* a pause may take the partition away */
    bool lost_fence, careful = is_careful(part);
    uint32_t generation = part->generation;
    struct gf_error error = {0};

    for (;; tries.attempt++) {
        int64_t began_us = gf_clock_mono_us();
        enum gf_class class = store_settle(lane->store, lane->batch, &part->claim, &lost_fence, &error);
        enum done done = DONE_OK;

        if (class == GF_OK && lost_fence)
            return fenced(lane, part);
        if (class == GF_UNCERTAIN)
            done = resolve_commit(lane, part);
        if (class == GF_OK || (class == GF_UNCERTAIN && done == DONE_OK)) {
            gf_histogram_observe_us(GF_H_SETTLE_SECONDS, gf_clock_mono_us() - began_us);
            after_commit(lane, part);
            return DONE_OK;
        }
        if (done == DONE_DROPPED)
            return DONE_DROPPED;
        count_retry(class);
        tries.undone += class == GF_UNCERTAIN ? 1 : 0;
        if (is_refusal(lane, part, &tries, class, &error))
            break;
        gf_log(class == GF_RETRY ? GF_WARN : GF_ERROR, "batch_retried", "partition=%" PRId32 " offset=%" PRId64
               " records=%d class=%s error=\"%s\"", part->claim.partition, lane->batch->first_offset, lane->batch->n,
               gf_class_name(class), error.text);
        if (!wait_again(lane, part, generation, tries.attempt, tries.deadline_ms)) {
            /* A known error is the server's, a lost grant say. Row counts that are not as planned may be the record's. */
            if (careful && (class != GF_FATAL || error.native != 0))
                forgive(lane, &claim);
            return DONE_DROPPED;
        }
    }
    gf_log(GF_WARN, "batch_refused", "partition=%" PRId32 " offset=%" PRId64 " records=%d error=\"%s\"",
           part->claim.partition, lane->batch->first_offset, lane->batch->n, error.text);
    return DONE_REFUSED;
}

/* A single record that MySQL refuses: first as a dead letter with its trade row, then without anything of its content. */
static enum done bury(struct lane *lane, struct part *part)
{
    enum done done = DONE_REFUSED;

    while (done == DONE_REFUSED && lane->batch->refusals < REFUSALS_MAX) {
        lane->batch->refusals++;
        done = settle_window(lane, part);
    }
    if (done == DONE_REFUSED) {
        lane_stop_part(lane, part->claim.partition, "MySQL refuses even the dead letter of offset %" PRId64,
                       lane->batch->first_offset);
        done = DONE_DROPPED;
    }
    return done;
}

/* All records that were taken, in as many windows as it needs: one, unless MySQL refuses something. */
static void settle_taken(struct lane *lane, struct part *part)
{
    struct batch *batch = lane->batch;
    int size = batch->count;

    for (int at = 0; at < batch->count;) {
        enum done done;

        if (at > 0 && !lane_wait_for_notices(lane, part))
            return;
        stage_start(&lane->stage);
        batch_window(batch, at, size < batch->count - at ? size : batch->count - at, part->claim.next_offset);
        stage_end(&lane->stage, STAGE_PLAN);
        done = settle_window(lane, part);
        if (done == DONE_REFUSED && batch->n > 1) {
            size = (batch->n + 1) / 2;
            continue;
        }
        if (done == DONE_REFUSED)
            done = bury(lane, part);
        if (done == DONE_DROPPED)
            return;
        at += batch->n;
        size = size < batch->max ? size * 2 : size;
    }
}

/* F5: the log must still begin with the record that was consumed last. False: the partition was stopped or given up. */
static bool check_last(struct lane *lane, struct part *part, const struct gf_kafka_message *first)
{
    int32_t partition = part->claim.partition;
    struct gf_kafka_range range = {0};
    struct gf_error error;
    uint8_t fp[BATCH_FP];

    if (first->offset == part->claim.last_off) {
        batch_record_fp(lane->batch, first, fp);
        if (memcmp(fp, part->claim.last_fp, BATCH_FP) == 0) {
            part->check_last = false;
            GF_POINT(settle_last_checked);
            return true;
        }
        lane_stop_part(lane, partition, "the record at %" PRId64 " is not the one that was settled: the topic was made "
                                        "anew; see giftflow init --help", first->offset);
        return false;
    }
    if (lane_watermarks(lane, partition, &range, &error) != GF_OK) {
        lane->rejoin = true;
        return false;
    }
    if (range.low <= part->claim.last_off || range.low > part->claim.next_offset) {
        lane_stop_part(lane, partition, "the settled record at %" PRId64 " is missing (the partition begins at %" PRId64 ")",
                       part->claim.last_off, range.low);
        return false;
    }
    part->check_last = false; /* retention has taken it */
    return true;
}

/* F11: prices are judged at the broker's time. Records with their producer's would choose their own price. */
static bool check_times(struct lane *lane, const struct part *part, const struct gf_kafka_message *messages, int count)
{
    for (int i = 0; i < count; i++) {
        if (messages[i].append_time)
            continue;
        lane_stop_part(lane, part->claim.partition, "the record at %" PRId64 " has its producer's time: the topic needs "
                       "message.timestamp.type=LogAppendTime", messages[i].offset);
        return false;
    }
    return true;
}

/* Takes records off the front that were settled before. */
static int drop_settled(const struct part *part, struct gf_kafka_message *messages, int count)
{
    int settled = 0;

    while (settled < count && messages[settled].offset < part->claim.next_offset)
        settled++;
    gf_kafka_batch_free(messages, settled);
    memmove(messages, messages + settled, (size_t)(count - settled) * sizeof(messages[0]));
    return count - settled;
}

/* F12 a: the try is on record before the record is touched, and before those that are settled with it. Once it has ended a
 * consumer, it and they are taken singly; a record that has ended five is not parsed again. */
static bool load_careful(struct lane *lane, struct part *part)
{
    int64_t deadline_ms = gf_clock_mono_ms() + lane->config->settle_retry_max;
    uint32_t generation = part->generation;
    int64_t tries = 0, off = lane->batch->piece[0].offset;
    struct gf_error error;

    GF_POINT(settle_try_before);
    for (int attempt = 0; store_try(lane->store, &part->claim, off, &tries, &error) != GF_OK; attempt++)
        if (!wait_again(lane, part, generation, attempt, deadline_ms))
            return false;
    GF_POINT(settle_try_after);
    if (tries > 1 && part->single_to <= off)
        part->single_to = off + CAREFUL_WINDOW;
    if (tries > TRIES_MAX)
        batch_add_unparsed(lane->batch);
    else
        batch_add(lane->batch, 1, part->claim.partitions);
    return true;
}

/* How many more records this batch may take at once. */
static int room(const struct part *part, const struct batch *batch)
{
    int left = batch_room(batch), careful_left = CAREFUL_WINDOW - batch->count;

    if (part->check_last)
        return 1;
    if (!is_careful(part))
        return left;
    if (batch->count == 0)
        return 1;
    if (part->single_to > batch->commands[0].off)
        return 0;
    return left < careful_left ? left : careful_left;
}

/* A piece of what is there, checked and decoded. False: nothing of the batch may be settled. */
static bool take_piece(struct lane *lane, struct part *part, int max, int *taken_r)
{
    struct batch *batch = lane->batch;
    struct gf_kafka_message *piece = batch->piece;
    int count = gf_kafka_consumer_take(lane->consumer, part->claim.partition, piece, max);
    bool go_on = true;
    int before = batch->count;

    *taken_r = count;
    if (count == 0)
        return true;
    GF_POINT(settle_polled);
    stage_end(&lane->stage, STAGE_POLL);
    if (part->check_last)
        go_on = check_last(lane, part, piece);
    if (go_on)
        count = drop_settled(part, piece, count);
    if (go_on)
        go_on = check_times(lane, part, piece, count);
    if (go_on && count > 0) {
        if (before == 0)
            atomic_store(&lane->status.oldest_ms, piece[0].timestamp_ms);
        if (is_careful(part) && before == 0)
            go_on = load_careful(lane, part);
        else
            batch_add(batch, count, part->claim.partitions);
    }
    if (!go_on && batch->count == before)
        gf_kafka_batch_free(piece, count);
    stage_end(&lane->stage, STAGE_DECODE);
    return go_on;
}

/* Under a backlog the queue runs dry before the batch is full, and the rest is on its way: waits a little for it, as long batches
 * cost MySQL and Redis less a record. */
static bool more_comes(struct lane *lane, const struct part *part, int64_t until_ms)
{
    const struct batch *batch = lane->batch;
    int64_t next, left_ms = until_ms - gf_clock_mono_ms();

    if (batch->count == 0 || is_careful(part) || left_ms <= 0 || lane_stopping(lane))
        return false;
    next = batch->commands[batch->count - 1].off + 1;
    return gf_kafka_consumer_end(lane->consumer, part->claim.partition) - next >= BATCH_PIECE &&
           gf_kafka_consumer_await(lane->consumer, part->claim.partition, next, left_ms);
}

/* Piece by piece: librdkafka fetches the next ones meanwhile, so that one batch can be longer than its queue. */
static bool take_and_settle(struct lane *lane, struct part *part)
{
    struct batch *batch = lane->batch;
    int64_t until_ms = gf_clock_mono_ms() + FILL_MS;
    bool some = false, go_on;
    int taken;

    stage_start(&lane->stage);
    do {
        go_on = take_piece(lane, part, room(part, batch), &taken);
        some = some || taken > 0;
    } while (go_on && room(part, batch) > 0 && (taken > 0 || more_comes(lane, part, until_ms)));
    if (go_on && batch->count > 0)
        settle_taken(lane, part);
    batch_release(batch);
    return some;
}

/* One piece of what the former owner may not have told. False: MySQL did not answer; it is tried again. */
static bool recover(struct lane *lane, struct part *part)
{
    if (part->rederive < part->recover_to) {
        int64_t from = part->rederive, to = lane_piece_end(from, part->recover_to, lane_piece(lane));

        part->rederive = to; /* before the call, which may pause: afterwards the partition may be a newly claimed one */
        GF_POINT(settle_rederive_before);
        lane_notices_again(lane, part, notifier_open(lane->notifier, &part->notices, from, to), from, to);
        GF_POINT(settle_rederive_after);
        return true;
    }
    return lane_republish_claimed(lane, part);
}

/* Another live log than the one at which it was stopped is the one thing that mends a partition without anybody's doubt: init
 * has run later than we, or with --new-log. */
static void look_for_log(struct lane *lane, struct part *part, int32_t partition)
{
    const struct claim_request request = {.topic = lane->shared->topic, .partition = partition};
    int64_t now_ms = gf_clock_mono_ms();
    struct gf_error error;
    int32_t log = -1;

    if (now_ms - part->looked_ms < LOOK_MS)
        return;
    part->looked_ms = now_ms;
    if (store_live_log(lane->store, &request, &log, &error) == GF_OK && log >= 0 && log != part->claim.log)
        lane->rejoin = true;
}

bool lane_serve_part(struct lane *lane, int32_t partition)
{
    struct part *part = lane_part(lane, partition);
    bool more;

    if (part->stopped)
        look_for_log(lane, part, partition);
    if (part->fenced_ms > 0 && gf_clock_mono_ms() - part->fenced_ms > FENCED_MS) {
        gf_log(GF_ERROR, "partition_contested", "partition=%" PRId32 " reason=\"fenced out and still assigned\"", partition);
        part->fenced_ms = 0;
        lane->rejoin = true;
    }
    if (part->broken[0] != '\0')
        lane_tend_broken(lane, partition);
    if (part->compares)
        lane_compare_again(lane, partition);
    if (!part->owned)
        return false;
    lane_tend_notices(lane, part);
    if (!part->owned || notifier_blocked(lane->notifier))
        return false;
    if (part->rederive < part->recover_to || part->republish < part->recover_to)
        return recover(lane, part);
    more = lane_republish_dropped(lane, part);
    if (take_and_settle(lane, part))
        return true;
    if (part->owned)
        lane_write_notified(lane, part);
    return more;
}
