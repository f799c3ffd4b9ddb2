/* SPDX-License-Identifier: Apache-2.0 */
/* The settle role. The main thread runs the loop: operations port and signals. The work is done by settle.lanes threads
 * (lane.h), each with its own group member, MySQL connection and notices producer, and one publisher thread for Redis.
 * SIGTERM: each lane ends its batch, waits for its notices, writes notified_offset and leaves the group. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/ops.h"
#include "gf/role.h"
#include "gf/sql.h"
#include "lane.h"
#include "store.h"

#define LANES_MAX 64
#define STUCK_MS 60000 /* a lane that did not go round for this long is not ready; its longest single wait is shorter */
#define PUBLISH_WAIT_MS 2000
#define LAG_MS 1000

struct settle {
    struct shared shared;
    struct gf_loop *loop;
    struct gf_ops *ops;
    struct gf_timer *lag_timer, *drain_timer;
    struct lane *lanes[LANES_MAX];
    int lane_count;
};

static bool lane_ready(const struct lane_status *status, int index, struct gf_buf *reason)
{
    if (!atomic_load(&status->sql_ok)) {
        gf_buf_addf(reason, "lane %d: MySQL does not answer", index);
        gf_sql_add_trouble(reason);
    } else if (!atomic_load(&status->connected))
        gf_buf_addf(reason, "lane %d: Kafka does not answer", index);
    else if (gf_clock_mono_ms() - atomic_load(&status->turned_ms) > STUCK_MS)
        gf_buf_addf(reason, "lane %d is stuck", index);
    else
        return true;
    return false;
}

static bool on_ready(void *ctx, struct gf_buf *reason)
{
    struct settle *settle = ctx;

    for (int i = 0; i < settle->lane_count; i++) {
        const struct lane_status *status = lane_status(settle->lanes[i]);

        if (!lane_ready(status, i, reason))
            return false;
        if (atomic_load(&status->stopped) == 0)
            continue;
        pthread_mutex_lock(&settle->shared.stop_lock);
        gf_buf_adds(reason, settle->shared.stop_reason);
        pthread_mutex_unlock(&settle->shared.stop_lock);
        return false;
    }
    return true;
}

static void on_lag(void *ctx)
{
    const struct settle *settle = ctx;
    int64_t now_ms = gf_clock_real_ms(), lag_ms = 0, records = 0;

    for (int i = 0; i < settle->lane_count; i++) {
        const struct lane_status *status = lane_status(settle->lanes[i]);
        int64_t oldest_ms = atomic_load(&status->oldest_ms);

        records += atomic_load(&status->lag_records);
        if (oldest_ms > 0 && now_ms - oldest_ms > lag_ms)
            lag_ms = now_ms - oldest_ms;
    }
    gf_metric_set(GF_M_SETTLE_LAG_MS, lag_ms);
    gf_metric_set(GF_M_SETTLE_LAG_RECORDS, records);
}

static void on_overdue(void *ctx)
{
    (void)ctx;
    gf_log(GF_ERROR, "drain_overdue", "reason=\"a lane did not end in time\"");
    _exit(1); /* nothing is lost: MySQL knows where to go on */
}

static void on_drain(void *ctx)
{
    struct settle *settle = ctx;

    gf_log(GF_INFO, "drain_started", "lanes=%d", settle->lane_count);
    gf_ops_draining(settle->ops);
    atomic_store(&settle->shared.stopping, true);
    settle->drain_timer = gf_timer_start(settle->loop, settle->shared.config->ops_drain_timeout, 0, on_overdue, settle);
}

static void on_ended(void *ctx)
{
    struct settle *settle = ctx;

    for (int i = 0; i < settle->lane_count; i++)
        if (!atomic_load(&lane_status(settle->lanes[i])->ended))
            return;
    gf_loop_stop(settle->loop);
}

static enum gf_class open_shared(struct settle *settle, const struct gf_config *config, struct gf_error *error_r)
{
    struct shared *shared = &settle->shared;
    char host[64] = "";

    shared->config = config;
    (void)snprintf(shared->topic, sizeof(shared->topic), "%s.commands", config->kafka_prefix);
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(shared->owner, sizeof(shared->owner), "%.60s:%ld", host, (long)getpid());
    pthread_mutex_init(&shared->lock, NULL);
    pthread_mutex_init(&shared->stop_lock, NULL);
    shared->ended = gf_async_create(settle->loop, on_ended, settle);
    if (config->settle_publish)
        shared->publisher = publisher_start(config);
    return gf_kafka_admin_create(config, &shared->admin, error_r);
}

static enum gf_class start_lanes(struct settle *settle, const struct gf_config *config, struct gf_error *error_r)
{
    for (int i = 0; i < config->settle_lanes; i++) {
        settle->lanes[i] = lane_start(&settle->shared, i);
        if (settle->lanes[i] == NULL)
            return gf_fail(error_r, GF_FATAL, 0, "lane %d could not be started", i);
        settle->lane_count++;
    }
    return GF_OK;
}

static void close_settle(struct settle *settle)
{
    atomic_store(&settle->shared.stopping, true);
    for (int i = 0; i < settle->lane_count; i++)
        lane_join(&settle->lanes[i]);
    publisher_stop(&settle->shared.publisher, PUBLISH_WAIT_MS);
    if (settle->shared.admin != NULL)
        gf_kafka_admin_close(&settle->shared.admin);
    gf_timer_close(&settle->lag_timer);
    gf_timer_close(&settle->drain_timer);
    gf_async_close(&settle->shared.ended);
    gf_ops_close(&settle->ops);
    gf_loop_destroy(&settle->loop);
    pthread_mutex_destroy(&settle->shared.lock);
    pthread_mutex_destroy(&settle->shared.stop_lock);
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct settle settle;
    struct gf_error error;
    enum gf_class class;

#ifdef GF_NULL_STORE
    if (argc > 2 || (argc == 2 && strcmp(argv[1], "--null-store") != 0)) {
        fprintf(stderr, "giftflow settle: unknown argument '%s'\n", argv[argc - 1]);
        return 2;
    }
    if (argc == 2) {
        fprintf(stderr, "giftflow settle --null-store: NOTHING IS SETTLED. What is told to Redis and to the notices topic is made up.\n");
        store_null = true;
    }
#else
    (void)argc;
    (void)argv;
#endif
    settle.loop = gf_loop_create();
    gf_loop_on_signal(settle.loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, &settle);
    class = open_shared(&settle, config, &error);
    if (class == GF_OK)
        class = gf_ops_start(settle.loop, config, "settle", on_ready, &settle, &settle.ops, &error);
    if (class == GF_OK)
        class = start_lanes(&settle, config, &error);
    if (class == GF_OK) {
        settle.lag_timer = gf_timer_start(settle.loop, LAG_MS, LAG_MS, on_lag, &settle);
        gf_loop_run(settle.loop);
    } else {
        gf_log(GF_ERROR, "settle_failed", "error=\"%s\"", error.text);
        gf_loop_stop(settle.loop);
    }
    close_settle(&settle);
    return class == GF_OK ? 0 : 1;
}

const struct gf_role gf_role_settle = {
    .name = "settle",
    .summary = "batch consumer: settles commands in MySQL",
#ifdef GF_NULL_STORE
    .usage = "[--null-store]",
#endif
    .needs_config = true,
    .run = run,
};
