/* SPDX-License-Identifier: Apache-2.0 */
/* sweep: the jobs that run beside the stream: host income, dead letters to their topic, credits that are due again.
 * Threads: the main thread runs the loop (operations port, signals); one worker owns the MySQL connection and the producer and
 * does the blocking jobs. They share the atomics below and nothing else.
 * Failures: MySQL or Kafka down makes it not ready; the worker tries again with a growing pause. Any number of copies. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/ops.h"
#include "gf/role.h"
#include "sweep.h"

#define STATEMENT_MAX (4u << 20)
#define TURN_MS 20          /* the worker's step: how fast it sees the end */
#define CREDITS_MS 1000
#define PAUSE_MAX_MS 5000

typedef enum gf_class (*job_fn)(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r);

struct job {
    const char *name;
    job_fn run;
    int64_t every_ms, due_ms;
};

struct sweep {
    struct sweep_jobs jobs;
    struct job list[3];
    struct gf_loop *loop;
    struct gf_async *ended;
    struct gf_ops *ops;
    pthread_t worker;
    atomic_bool stopping, mysql_ok, kafka_ok;
};

void gf_sweep_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    (void)ctx;
    (void)partition;
    (void)offset;
    if (opaque != NULL && ack == GF_KAFKA_PERSISTED)
        *(bool *)opaque = true;
}

static bool connected(struct sweep *sweep)
{
    struct gf_error error;

    if (sweep->jobs.sql != NULL && !gf_sql_lost(sweep->jobs.sql))
        return true;
    gf_sql_close(&sweep->jobs.sql);
    if (gf_sql_connect(sweep->jobs.config, GF_SQL_SETTLE, &sweep->jobs.sql, &error) == GF_OK)
        return true;
    gf_log(GF_WARN, "mysql_connect_failed", "error=\"%s\"", error.text);
    return false;
}

/* Runs what is due, and a job whatever became of the one before it; false after a failure. */
static bool run_jobs(struct sweep *sweep)
{
    bool ok = true;

    for (size_t i = 0; i < GF_COUNT(sweep->list) && !gf_sql_lost(sweep->jobs.sql); i++) {
        struct job *job = &sweep->list[i];
        struct gf_error error;
        bool more = false;

        if (job->due_ms > gf_clock_mono_ms() || atomic_load(&sweep->stopping))
            continue;
        if (job->run(&sweep->jobs, &more, &error) != GF_OK) {
            gf_log(GF_WARN, "job_failed", "job=%s class=%s error=\"%s\"", job->name, gf_class_name(error.class), error.text);
            gf_sql_rollback(sweep->jobs.sql);
            ok = false;
            continue;
        }
        job->due_ms = gf_clock_mono_ms() + (more ? 0 : job->every_ms);
    }
    return ok;
}

/* Serves acknowledgements for a while, in steps short enough to see the end. */
static void pause_worker(struct sweep *sweep, int64_t pause_ms)
{
    int64_t until_ms = gf_clock_mono_ms() + pause_ms;

    do {
        (void)gf_kafka_producer_serve(sweep->jobs.producer, TURN_MS);
    } while (gf_clock_mono_ms() < until_ms && !atomic_load(&sweep->stopping));
    atomic_store(&sweep->kafka_ok, gf_kafka_producer_ready(sweep->jobs.producer));
}

static void *work(void *arg)
{
    struct sweep *sweep = arg;
    int64_t pinged_ms = 0;
    int failures = 0;

    while (!atomic_load(&sweep->stopping)) {
        struct gf_error error;
        bool ok = connected(sweep);

        /* Jobs may be far apart; the session must not idle out in between, and readiness should know. */
        if (ok && gf_clock_mono_ms() - pinged_ms > 2000) {
            ok = gf_sql_ping(sweep->jobs.sql, &error) == GF_OK;
            pinged_ms = gf_clock_mono_ms();
        }
        atomic_store(&sweep->mysql_ok, ok);
        ok = ok && run_jobs(sweep);
        failures = ok ? 0 : failures + 1;
        pause_worker(sweep, ok ? 0 : gf_backoff_ms(failures < 10 ? failures : 10, 50, PAUSE_MAX_MS));
    }
    (void)gf_kafka_producer_flush(sweep->jobs.producer, 2000);
    gf_sql_close(&sweep->jobs.sql);
    gf_async_wake(sweep->ended);
    return NULL;
}

static bool on_ready(void *ctx, struct gf_buf *reason)
{
    struct sweep *sweep = ctx;

    if (!atomic_load(&sweep->mysql_ok)) {
        gf_buf_adds(reason, "MySQL is not reachable");
        gf_sql_add_trouble(reason);
    } else if (!atomic_load(&sweep->kafka_ok))
        gf_buf_adds(reason, "Kafka is not reachable");
    else
        return true;
    return false;
}

static void on_drain(void *ctx)
{
    struct sweep *sweep = ctx;

    gf_log(GF_INFO, "drain_started", "jobs=finishing");
    gf_ops_draining(sweep->ops);
    atomic_store(&sweep->stopping, true);
}

static void on_ended(void *ctx)
{
    struct sweep *sweep = ctx;

    gf_loop_stop(sweep->loop);
}

static enum gf_class start(struct sweep *sweep, const struct gf_config *config, struct gf_error *error_r)
{
    const char *topics[] = {sweep->jobs.commands, sweep->jobs.dlq};
    struct gf_kafka_producer_opts opts = {.topics = topics, .topic_count = GF_COUNT(topics), .linger_ms = 1,
                                          .on_ack = gf_sweep_ack};
    enum gf_class class = gf_kafka_producer_create(config, &opts, &sweep->jobs.producer, error_r);

    if (class == GF_OK)
        class = gf_ops_start(sweep->loop, config, "sweep", on_ready, sweep, &sweep->ops, error_r);
    if (class != GF_OK)
        return class;
    sweep->ended = gf_async_create(sweep->loop, on_ended, sweep);
    if (pthread_create(&sweep->worker, NULL, work, sweep) != 0)
        return gf_fail(error_r, GF_FATAL, 0, "cannot start the worker thread");
    return GF_OK;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct sweep sweep;
    struct gf_error error;
    int status = 1;

    (void)argc;
    (void)argv;
    sweep.jobs.config = config;
    sweep.list[0] = (struct job){"rollup", gf_sweep_rollup, config->sweep_rollup, 0};
    sweep.list[1] = (struct job){"dlq", gf_sweep_dlq, config->sweep_dlq, 0};
    sweep.list[2] = (struct job){"credits", gf_sweep_credits, CREDITS_MS, 0};
    snprintf(sweep.jobs.commands, sizeof(sweep.jobs.commands), "%s.commands", config->kafka_prefix);
    snprintf(sweep.jobs.dlq, sizeof(sweep.jobs.dlq), "%s.dlq", config->kafka_prefix);
    gf_buf_init(&sweep.jobs.text, STATEMENT_MAX);
    sweep.loop = gf_loop_create();
    gf_loop_on_signal(sweep.loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, &sweep);
    if (start(&sweep, config, &error) != GF_OK) {
        gf_log(GF_ERROR, "start_failed", "error=\"%s\"", error.text);
        gf_loop_stop(sweep.loop);
    } else {
        gf_log(GF_INFO, "role_started", "rollup_ms=%lld", (long long)config->sweep_rollup);
        gf_loop_run(sweep.loop);
        pthread_join(sweep.worker, NULL);
        gf_log(GF_INFO, "role_stopped", "drained=yes");
        status = 0;
    }
    gf_kafka_producer_close(&sweep.jobs.producer);
    gf_async_close(&sweep.ended);
    gf_ops_close(&sweep.ops);
    gf_loop_destroy(&sweep.loop);
    gf_buf_free(&sweep.jobs.text);
    return status;
}

const struct gf_role gf_role_sweep = {
    .name = "sweep",
    .summary = "host income, dead-letter feed, credits that are due again",
    .needs_config = true,
    .run = run,
};
