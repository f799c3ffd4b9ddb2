/* SPDX-License-Identifier: Apache-2.0 */
/* A partition comes, goes or breaks. Taking one over means: its live log, the same partition count as at init (F4), the
 * same records as when the last owner read them (F5), a new epoch (F8), and the range whose notices and balances the last
 * owner may not have told. What does not fit stops the partition, loudly, and only this one. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/point.h"
#include "lane_internal.h"

#define CLAIM_TRIES 2    /* the second one on a fresh connection */
#define CAREFUL_STALLS 3 /* assignments without progress after which records are taken singly (F12 a) */
#define COMPARE_MS 30000
#define LOOK_MS 2000 /* between questions for a partition that waits */
#define LATE_MS 1000
#define LATE_SHARE 4 /* after a late answer so many times as long without a question */
#define AGAIN_MS 30000 /* before bytes that could not be read are read again */
#define AGAIN_MAX_MS 600000
#define AGAINS_MAX 10     /* more would not wait longer */
#define CALM_MS 3600000 /* after an hour without such bytes the first wait is short again */

void lane_stop_part(struct lane *lane, int32_t partition, const char *fmt, ...)
{
    struct part *part = lane_part(lane, partition);
    struct shared *shared = lane->shared;
    char reason[sizeof(lane->parts[0].broken) + 40];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(reason, sizeof(reason), fmt, args);
    va_end(args);
    lane_drop_part(lane, part);
    if (!part->stopped) {
        part->stopped = true;
        atomic_fetch_add(&lane->status.stopped, 1);
        gf_metric_add(GF_M_SETTLE_STOPPED, 1);
    }
    pthread_mutex_lock(&shared->stop_lock);
    (void)snprintf(shared->stop_reason, sizeof(shared->stop_reason), "partition %" PRId32 " is stopped: %s", partition, reason);
    pthread_mutex_unlock(&shared->stop_lock);
    gf_log(GF_ERROR, "partition_stopped", "topic=%s partition=%" PRId32 " reason=\"%s\"", shared->topic, partition, reason);
}

static void set_compares(struct part *part, bool compares)
{
    if (part->compares != compares)
        gf_metric_add(GF_M_SETTLE_WAITING, compares ? 1 : -1);
    part->compares = compares;
}

/* Not consumed any more, whatever the reason. */
void lane_drop_part(struct lane *lane, struct part *part)
{
    part->generation++;
    set_compares(part, false);
    notice_queue_drop(lane->notifier, &part->notices);
    if (!part->owned)
        return;
    part->owned = false;
    gf_metric_add(GF_M_SETTLE_PARTITIONS, -1);
}

enum gf_class lane_watermarks(struct lane *lane, int32_t partition, struct gf_kafka_range *range_r, struct gf_error *error_r)
{
    struct shared *shared = lane->shared;
    enum gf_class class;

    pthread_mutex_lock(&shared->lock);
    class = gf_kafka_watermarks(shared->admin, shared->topic, partition, range_r, error_r);
    pthread_mutex_unlock(&shared->lock);
    return class;
}

static enum gf_class ask_partitions(struct lane *lane, int *count_r, struct gf_error *error_r)
{
    struct shared *shared = lane->shared;
    enum gf_class class;

    pthread_mutex_lock(&shared->lock);
    class = gf_kafka_topic_partitions(shared->admin, shared->topic, count_r, error_r);
    pthread_mutex_unlock(&shared->lock);
    if (class == GF_OK)
        atomic_store(&shared->partitions_seen, *count_r);
    return class;
}

int lane_partition_count(struct lane *lane)
{
    int count = atomic_load(&lane->shared->partitions_seen);
    struct gf_error error;

    if (count == 0 && ask_partitions(lane, &count, &error) != GF_OK)
        gf_log(GF_WARN, "partition_count_unknown", "error=\"%s\"", error.text);
    return count;
}

/* Every 30 s one lane asks; every lane looks at the answer (F4). */
void lane_compare_partitions(struct lane *lane)
{
    int64_t now_ms = gf_clock_mono_ms();
    struct gf_error error;
    int count = 0;

    if (lane->index == 0 && now_ms - lane->looked_ms >= COMPARE_MS) {
        lane->looked_ms = now_ms;
        if (ask_partitions(lane, &count, &error) != GF_OK)
            gf_log(GF_WARN, "partition_count_unknown", "error=\"%s\"", error.text);
    }
    count = atomic_load(&lane->shared->partitions_seen);
    for (int32_t i = 0; count > 0 && i < lane->part_end; i++)
        if (lane->parts[i].owned && lane->parts[i].claim.partitions != count)
            lane_stop_part(lane, i, "the topic has %d partitions, the log was made for %" PRId32, count,
                           lane->parts[i].claim.partitions);
}

static enum gf_class claim(struct lane *lane, int32_t partition, enum claimed *claimed_r, struct gf_error *error_r)
{
    const struct claim_request request = {
        .topic = lane->shared->topic, .partition = partition, .owner = lane->shared->owner};
    struct part *part = lane_part(lane, partition);
    enum gf_class class = GF_RETRY;

    for (int i = 0; i < CLAIM_TRIES && class != GF_OK; i++)
        class = store_claim(lane->store, &request, &part->claim, claimed_r, error_r);
    return class;
}

/* Compares the log as MySQL knows it with the topic as it is. False: the partition was stopped. */
static bool fits(struct lane *lane, int32_t partition, int count, const struct gf_kafka_range *range)
{
    const struct claim *claim = &lane_part(lane, partition)->claim;

    if (count != claim->partitions)
        lane_stop_part(lane, partition, "the topic has %d partitions, the log was made for %" PRId32, count,
                       claim->partitions);
    else if (range->low > claim->next_offset)
        lane_stop_part(lane, partition, "records [%" PRId64 ", %" PRId64 ") are gone unsettled; see giftflow init --help",
                       claim->next_offset, range->low);
    else if (range->high < claim->next_offset)
        lane_stop_part(lane, partition, "the partition ends at %" PRId64 ", before the settled offset %" PRId64
                                        ": truncated or made anew; see giftflow init --help", range->high, claim->next_offset);
    else
        return true;
    return false;
}

/* Where reading begins: at the record that was consumed last, if it may be there still (F5). */
static int64_t start_offset(const struct claim *claim, int64_t low)
{
    bool check = claim->last_off >= 0 && claim->last_off >= low && claim->last_off < claim->next_offset;

    return check ? claim->last_off : claim->next_offset;
}

static void begin(struct lane *lane, int32_t partition, const struct gf_kafka_range *range)
{
    struct part *part = lane_part(lane, partition);
    struct claim *claim = &part->claim;

    part->owned = true;
    part->check_last = start_offset(claim, range->low) < claim->next_offset;
    if (!lane->config->settle_notices)
        claim->notified = claim->next_offset;
    part->rederive = claim->notified;
    part->recover_to = claim->next_offset;
    lane_republish_begin(lane, part);
    /* Only a record can have stopped its consumers: none waits, none is suspect. */
    part->careful_to = claim->stalls >= CAREFUL_STALLS && range->high > claim->next_offset
                           ? claim->next_offset + lane->config->settle_batch
                           : claim->next_offset;
    if (part->careful_to > claim->next_offset)
        gf_log(GF_WARN, "partition_stalled", "partition=%" PRId32 " offset=%" PRId64 " stalls=%" PRId64, partition,
               claim->next_offset, claim->stalls);
    gf_metric_add(GF_M_SETTLE_PARTITIONS, 1);
    gf_log(GF_INFO, "partition_claimed", "partition=%" PRId32 " log=%" PRId32 " epoch=%" PRId64 " next_offset=%" PRId64
                                         " end=%" PRId64, partition, claim->log, claim->epoch, claim->next_offset, range->high);
}

/* What the claimed log is compared with. After a question that was answered late or not at all the lane turns to its other work
 * first. */
static enum gf_class ask_log(struct lane *lane, int32_t partition, int *count_r, struct gf_kafka_range *range_r,
                             struct gf_error *error_r)
{
    int64_t began_ms = gf_clock_mono_ms(), now_ms;
    enum gf_class class;

    if (began_ms < lane->ask_ms)
        return gf_fail(error_r, GF_RETRY, 0, "kafka answers late");
    class = ask_partitions(lane, count_r, error_r);
    if (class == GF_OK && *count_r == 0) /* a broker that has just started does not know it yet */
        class = gf_fail(error_r, GF_RETRY, 0, "kafka does not know topic %s", lane->shared->topic);
    if (class == GF_OK)
        class = lane_watermarks(lane, partition, range_r, error_r);
    now_ms = gf_clock_mono_ms();
    if (class != GF_OK && now_ms - began_ms >= LATE_MS)
        lane->ask_ms = now_ms + LATE_SHARE * (now_ms - began_ms);
    return class;
}

/* Where Kafka has no answer, for want of a leader say, this one partition waits: leaving the group for it would take the others
 * along, again and again. Returns where reading begins: nothing is taken of a partition that waits. */
static int64_t compare(struct lane *lane, int32_t partition)
{
    struct part *part = lane_part(lane, partition);
    struct gf_kafka_range range = {0};
    struct gf_error error;
    int count = 0;
    enum gf_class class = ask_log(lane, partition, &count, &range, &error);

    set_compares(part, class != GF_OK);
    part->looked_ms = gf_clock_mono_ms();
    if (class != GF_OK) {
        gf_log(GF_WARN, "partition_waits", "partition=%" PRId32 " error=\"%s\"", partition, error.text);
        return start_offset(&part->claim, 0);
    }
    if (!fits(lane, partition, count, &range))
        return GF_KAFKA_SKIP;
    GF_POINT(settle_compared);
    begin(lane, partition, &range);
    return start_offset(&part->claim, range.low);
}

void lane_compare_again(struct lane *lane, int32_t partition)
{
    const struct part *part = lane_part(lane, partition);
    int64_t began = start_offset(&part->claim, 0), start, now_ms = gf_clock_mono_ms();

    if (now_ms - part->looked_ms < LOOK_MS || now_ms < lane->ask_ms)
        return;
    start = compare(lane, partition);
    if (start != began && start != GF_KAFKA_SKIP)
        lane->rejoin = true; /* retention has taken the last record: the reader has failed at it, and cannot seek */
}

static enum gf_class take_over(struct lane *lane, int32_t partition, int64_t *start_r, struct gf_error *error_r)
{
    enum claimed claimed = CLAIM_NO_LOG;
    enum gf_class class;

    *start_r = GF_KAFKA_SKIP;
    GF_POINT(settle_assigned);
    class = claim(lane, partition, &claimed, error_r);
    if (class != GF_OK)
        return class;
    if (claimed == CLAIM_NO_LOG) {
        lane_stop_part(lane, partition, "it has no live log: was `giftflow init` run for this topic?");
        return GF_OK;
    }
    GF_POINT(settle_claimed);
    *start_r = compare(lane, partition);
    return GF_OK;
}

int64_t lane_on_assign(void *ctx, int32_t partition)
{
    struct lane *lane = ctx;
    struct part *part;
    struct gf_error error;
    int64_t start;

    if (partition >= PARTS_MAX) {
        gf_log(GF_ERROR, "partition_stopped", "partition=%" PRId32 " reason=\"more than %d partitions\"", partition, PARTS_MAX);
        return GF_KAFKA_SKIP;
    }
    part = lane_part(lane, partition);
    GF_ASSERT(!part->owned && part->notices.head == NULL);
    *part = (struct part){.assigned = true, .generation = part->generation + 1};
    lane->part_end = partition + 1 > lane->part_end ? partition + 1 : lane->part_end;
    atomic_store(&lane->status.joined, true);
    if (lane->rejoin || lane_stopping(lane))
        return GF_KAFKA_SKIP; /* it leaves anyway: no further server is waited for, and the group with it */
    if (take_over(lane, partition, &start, &error) == GF_OK)
        return start;
    gf_log(GF_WARN, "claim_failed", "partition=%" PRId32 " error=\"%s\"", partition, error.text);
    lane->rejoin = true; /* a later assignment may succeed */
    return GF_KAFKA_SKIP;
}

void lane_on_revoke(void *ctx, int32_t partition, bool lost)
{
    struct lane *lane = ctx;
    struct part *part;
    struct gf_error error;

    if (partition >= PARTS_MAX)
        return;
    part = lane_part(lane, partition);
    if (part->owned) {
        notice_queue_advance(lane->notifier, &part->notices, &part->claim.notified);
        /* Spares the next owner the repeats; never worth waiting for. */
        if (!lost && lane->down_ms == 0 && part->claim.notified > part->claim.notified_written &&
            store_notified(lane->store, &part->claim, &error) != GF_OK)
            gf_log(GF_WARN, "notified_not_written", "partition=%" PRId32 " error=\"%s\"", partition, error.text);
    }
    lane_drop_part(lane, part);
    GF_POINT(settle_revoked);
    if (part->stopped) {
        atomic_fetch_sub(&lane->status.stopped, 1);
        gf_metric_add(GF_M_SETTLE_STOPPED, -1);
    }
    *part = (struct part){.generation = part->generation};
}

/* Comes while a batch is taken: what stood before the break is settled first. An offset that is gone may be the record that was
 * settled last, which retention has taken since it was compared: another claim compares again, and stops what does not fit. */
void lane_on_broken(void *ctx, int32_t partition, bool out_of_range, const char *reason)
{
    struct lane *lane = ctx;

    if (out_of_range)
        lane->rejoin = true;
    else
        (void)snprintf(lane_part(lane, partition)->broken, sizeof(lane->parts[0].broken), "%s", reason);
}

/* Bytes that cannot be read may be mended: by a person, by a replica whose copy is good and which leads now, or they were whole and
 * broke on their way. Only another assignment reads them again: librdkafka loses its place behind them and refuses to seek. The
 * others of the group are assigned anew with it, so one wait is for all such partitions of the lane, whichever assignment they are
 * of, and it grows. */
void lane_tend_broken(struct lane *lane, int32_t partition)
{
    struct part *part = lane_part(lane, partition);
    int64_t now_ms = gf_clock_mono_ms();

    if (part->unreadable && now_ms >= lane->again_ms)
        lane->rejoin = true;
    if (part->stopped)
        return;
    if (now_ms - lane->again_ms > CALM_MS)
        lane->agains = 0;
    if (now_ms >= lane->again_ms)
        lane->again_ms = now_ms + gf_backoff_ms(lane->agains < AGAINS_MAX ? lane->agains++ : AGAINS_MAX, AGAIN_MS, AGAIN_MAX_MS);
    lane_stop_part(lane, partition, "%s; read again in %" PRId64 " s", part->broken, (lane->again_ms - now_ms) / 1000);
    part->unreadable = true;
}
