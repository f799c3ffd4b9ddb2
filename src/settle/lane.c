/* SPDX-License-Identifier: Apache-2.0 */
/* A lane's thread. Each turn: rebalances and errors of the group first, then acknowledgements, then one step for each owned
 * partition, then sleep if nothing moved. The lane is a member of the group only while MySQL answers: without MySQL it
 * leaves after settle.retry_max, so that it blocks nobody's rebalance, and comes back by itself (F20). */
#include "lane.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "lane_internal.h"

#define IDLE_MS 50
#define ACK_MS 5      /* while notices are under way */
#define SLICE_MS 20   /* of a pause */
#define DOWN_MS 100   /* between looks at a MySQL that does not answer */
#define CALM_MS 10000 /* after this long in the group, leaving it starts with a short pause again */
#define FLUSH_MAX_MS 5000
#define LAG_LOOK_MS 200
#define SHARE_MIN 131072 /* of the prefetch, per partition: a lane that waits for each fetch would be slow */

static void serve_group(struct lane *lane)
{
    struct gf_error error;
    enum gf_class class;

    if (lane->consumer == NULL)
        return;
    class = gf_kafka_consumer_serve(lane->consumer, &error);
    if (class == GF_OK)
        return;
    gf_log(GF_WARN, "group_failed", "lane=%d class=%s error=\"%s\"", lane->index, gf_class_name(class), error.text);
    if (class == GF_FATAL)
        lane->rejoin = true;
}

static void wait_readable(struct lane *lane, int64_t ms)
{
    struct pollfd fd = {.events = POLLIN};

    if (lane->consumer == NULL) {
        gf_clock_sleep_ms(ms);
        return;
    }
    fd.fd = gf_kafka_consumer_fd(lane->consumer);
    (void)poll(&fd, 1, (int)ms); /* an error or a signal only makes the turn come earlier */
}

/* The fetcher's answers tell where partitions end, also while nothing is taken; nobody is asked. */
static void look_at_lag(struct lane *lane)
{
    int64_t now_ms = gf_clock_mono_ms(), records = 0;

    if (now_ms - lane->lag_looked_ms < LAG_LOOK_MS)
        return;
    lane->lag_looked_ms = now_ms;
    for (int32_t i = 0; i < lane->part_end && lane->consumer != NULL; i++) {
        int64_t left = lane->parts[i].owned ? gf_kafka_consumer_end(lane->consumer, i) - lane->parts[i].claim.next_offset : 0;

        records += left > 0 ? left : 0;
    }
    atomic_store(&lane->status.lag_records, records);
    if (records > 0 && atomic_load(&lane->status.oldest_ms) == 0)
        atomic_store(&lane->status.oldest_ms, gf_clock_real_ms()); /* nothing can be taken: time runs from now on */
}

void lane_pause(struct lane *lane, int64_t ms)
{
    int64_t end_ms = gf_clock_mono_ms() + ms;

    do {
        int64_t left_ms = end_ms - gf_clock_mono_ms();

        if (left_ms > 0)
            wait_readable(lane, left_ms < SLICE_MS ? left_ms : SLICE_MS);
        serve_group(lane);
        notifier_serve(lane->notifier, 0);
        look_at_lag(lane);
        atomic_store(&lane->status.turned_ms, gf_clock_mono_ms());
    } while (gf_clock_mono_ms() < end_ms && !lane->rejoin);
}

static bool database_up(struct lane *lane)
{
    int64_t now_ms = gf_clock_mono_ms();
    struct gf_error error;
    bool up = store_poll(lane->store, &error) == GF_OK;

    atomic_store(&lane->status.sql_ok, up);
    if (up) {
        lane->down_ms = 0;
        return true;
    }
    gf_log(GF_WARN, "mysql_failed", "lane=%d error=\"%s\"", lane->index, error.text);
    if (lane->down_ms == 0)
        lane->down_ms = now_ms;
    if (lane->consumer != NULL && now_ms - lane->down_ms > lane->config->settle_retry_max)
        lane->rejoin = true;
    return false;
}

/* A process may come to own every partition, and a lane, too: each gets an equal part of what all may take. */
static int64_t prefetch_share(struct lane *lane)
{
    int64_t partitions = lane_partition_count(lane);
    int64_t share = lane->config->settle_queue_bytes / (partitions > 0 ? partitions : lane->config->kafka_partitions);

    return share > SHARE_MIN ? share : SHARE_MIN;
}

static void join_group(struct lane *lane)
{
    char client_id[32];
    const struct gf_kafka_consumer_opts opts = {.topic = lane->shared->topic,
                                                .group = lane->config->settle_group,
                                                .client_id = client_id,
                                                .queue_bytes = prefetch_share(lane),
                                                .fetch_bytes = lane->config->settle_fetch_bytes,
                                                .on_assign = lane_on_assign,
                                                .on_revoke = lane_on_revoke,
                                                .on_broken = lane_on_broken,
                                                .ctx = lane};
    struct gf_error error;

    (void)snprintf(client_id, sizeof(client_id), "giftflow-settle-%d", lane->index);
    if (gf_kafka_consumer_create(lane->config, &opts, &lane->consumer, &error) != GF_OK) {
        gf_log(GF_ERROR, "join_failed", "lane=%d error=\"%s\"", lane->index, error.text);
        gf_clock_sleep_ms(DOWN_MS);
        return;
    }
    lane->joined_ms = gf_clock_mono_ms();
}

static void leave_group(struct lane *lane)
{
    if (lane->consumer != NULL)
        gf_kafka_consumer_close(&lane->consumer);
    for (int32_t i = 0; i < lane->part_end; i++)
        if (lane->parts[i].assigned)
            lane_on_revoke(lane, i, false);
    lane->rejoin = false;
    atomic_store(&lane->status.joined, false);
}

/* What cannot be served here may be served by another member: give everything back, pause, and ask again. */
static void rejoin_group(struct lane *lane)
{
    int64_t wait_ms;

    if (gf_clock_mono_ms() - lane->joined_ms > CALM_MS)
        lane->rejoins = 0;
    wait_ms = gf_backoff_ms(lane->rejoins < 4 ? lane->rejoins++ : 4, 500, 5000);
    gf_log(GF_WARN, "group_left", "lane=%d wait_ms=%" PRId64, lane->index, wait_ms);
    leave_group(lane);
    for (int64_t end_ms = gf_clock_mono_ms() + wait_ms; gf_clock_mono_ms() < end_ms && !lane_stopping(lane);)
        lane_pause(lane, SLICE_MS);
}

static void serve_parts(struct lane *lane)
{
    bool busy = false;

    for (int i = 0; i < lane->part_end && !lane->rejoin && !lane_stopping(lane); i++) {
        int32_t partition = (int32_t)((lane->turns + (unsigned)i) % (unsigned)lane->part_end);

        if (!lane_serve_part(lane, partition))
            continue;
        busy = true;
        serve_group(lane);
        stage_start(&lane->stage);
        notifier_serve(lane->notifier, 0);
        stage_end(&lane->stage, STAGE_ACKS);
    }
    lane->turns++;
    if (busy)
        return;
    if (notifier_blocked(lane->notifier)) { /* there may be records: the last lag stands */
        notifier_serve(lane->notifier, ACK_MS);
        return;
    }
    atomic_store(&lane->status.oldest_ms, 0);
    wait_readable(lane, notifier_waiting(lane->notifier) ? ACK_MS : IDLE_MS);
}

static void turn(struct lane *lane)
{
    atomic_store(&lane->status.turned_ms, gf_clock_mono_ms());
    atomic_store(&lane->status.connected, notifier_connected(lane->notifier));
    serve_group(lane);
    notifier_serve(lane->notifier, 0);
    look_at_lag(lane);
    if (!database_up(lane)) {
        lane_pause(lane, DOWN_MS);
    } else if (lane->consumer == NULL) {
        join_group(lane);
    } else {
        lane_compare_partitions(lane);
        serve_parts(lane);
    }
    if (lane->rejoin && !lane_stopping(lane))
        rejoin_group(lane);
}

static void *run(void *arg)
{
    struct lane *lane = arg;
    int64_t flush_ms = lane->config->ops_drain_timeout / 2;

    while (!lane_stopping(lane))
        turn(lane);
    /* The last batch is committed or dropped. Its notices first, so that leaving writes how far they got. */
    notifier_flush(lane->notifier, flush_ms < FLUSH_MAX_MS ? flush_ms : FLUSH_MAX_MS);
    leave_group(lane);
    atomic_store(&lane->status.ended, true);
    gf_async_wake(lane->shared->ended);
    return NULL;
}

struct lane *lane_start(struct shared *shared, int index)
{
    struct lane *lane = gf_xcalloc(1, sizeof(*lane));
    struct gf_error error;

    lane->shared = shared;
    lane->config = shared->config;
    lane->index = index;
    lane->batch = batch_create((int)shared->config->settle_batch);
    lane->store = store_create(shared->config);
    if (notifier_create(shared->config, &lane->notifier, &error) != GF_OK) {
        gf_log(GF_ERROR, "lane_not_started", "error=\"%s\"", error.text);
        lane_join(&lane);
        return NULL;
    }
    atomic_store(&lane->status.turned_ms, gf_clock_mono_ms());
    if (pthread_create(&lane->thread, NULL, run, lane) != 0)
        abort();
    lane->started = true;
    return lane;
}

const struct lane_status *lane_status(const struct lane *lane)
{
    return &lane->status;
}

void lane_join(struct lane **lane)
{
    struct lane *old = *lane;

    if (old == NULL)
        return;
    *lane = NULL;
    if (old->started)
        pthread_join(old->thread, NULL);
    notifier_destroy(&old->notifier);
    store_destroy(&old->store);
    batch_destroy(&old->batch);
    free(old);
}
