/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow verify --watch`: the checks beside a live system, for ever, with a bounded load on it. Each turn follows every log's
 * new batches, then goes on with a slow round over everything: cached wallets, wallets, and all batches from the first one.
 * MySQL is read in short snapshots of whole batches; nothing is kept per wallet: a trade is held against the row that it
 * follows, a wallet against its last row, so that by induction each balance is the sum of its trades. Redis is mended, MySQL
 * never is: what is wrong there is logged, counted, and the exit status 3.
 * Threads: the main thread runs the loop (operations port, signals); one worker reads. They share the atomics and metrics.
 * Failures: MySQL away makes it not ready; it goes on where it was once MySQL is back. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/ops.h"
#include "verify_watch.h"

#define CHUNK 2000 /* rows in one snapshot, about */
#define STEP_MS 50 /* how fast a pause sees the end */
#define PAUSE_MAX_MS 5000
#define LOGS_MAX 4096

enum stage { STAGE_REDIS, STAGE_WALLETS, STAGE_HISTORY };

struct round { /* over everything; goes on where it was, turn by turn */
    enum stage stage;
    int64_t user_id;         /* wallets up to this one are done */
    int log;                 /* history: index of the log at hand */
    struct verify_part part; /* of it */
    int64_t to;              /* of it: what was settled when its turn came */
    int64_t violations;      /* when the round began */
};

struct watcher {
    struct watch watch; /* first */
    struct verify_part parts[LOGS_MAX]; /* where following each log has come to */
    int part_count;
    struct round round;
    struct verify_head *heads, *old_heads; /* of following, of the round */
    struct gf_loop *loop;
    struct gf_async *ended;
    struct gf_ops *ops;
    pthread_t worker;
};

static _Atomic int64_t violations; /* in MySQL, ever */

static void on_fail(enum verify_check check, const char *text)
{
    if (check == VERIFY_REDIS_BALANCE || check == VERIFY_REDIS_HOLDS)
        return; /* suspects: looked at again */
    atomic_fetch_add(&violations, 1);
    gf_metric_add(GF_M_VERIFY_DRIFT_MYSQL, 1);
    gf_log(GF_ERROR, "books_broken", "check=%s what=\"%s\"", gf_verify_check_name(check), text);
}

/* ---- pace ---- */

static void pause_until(struct watch *watch, int64_t until_ms)
{
    int64_t left_ms;

    while (!atomic_load(&watch->stopping) && (left_ms = until_ms - gf_clock_mono_ms()) > 0)
        gf_clock_sleep_ms(left_ms < STEP_MS ? left_ms : STEP_MS);
}

void watch_pace(struct watch *watch, int64_t rows)
{
    int64_t now_ms = gf_clock_mono_ms();

    if (watch->next_ms < now_ms)
        watch->next_ms = now_ms;
    watch->next_ms += rows * 1000 / watch->options->rate;
    pause_until(watch, watch->next_ms);
}

/* ---- MySQL ---- */

static enum gf_class execute(struct verify *verify, const char *text)
{
    return gf_sql_exec(verify->sql, text, strlen(text), NULL, &verify->error);
}

static enum gf_class connect_mysql(struct verify *verify)
{
    enum gf_class class;

    /* A session that only reads is told by nobody that its server is no longer the primary. */
    if (verify->sql != NULL && !gf_sql_lost(verify->sql) && gf_sql_ping(verify->sql, &verify->error) == GF_OK)
        return GF_OK;
    gf_sql_close(&verify->sql);
    class = gf_sql_connect(verify->config, GF_SQL_PLAIN, &verify->sql, &verify->error);
    return class == GF_OK ? execute(verify, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ") : class;
}

/* The next batches of a log, with the catalogue of the same snapshot: a later one may lack nothing that they name. */
static enum gf_class check_part(struct watch *watch, struct verify_part *part)
{
    struct verify *verify = &watch->verify;
    enum gf_class class = execute(verify, "START TRANSACTION WITH CONSISTENT SNAPSHOT");

    part->rows_max = CHUNK;
    gf_verify_free_catalogue(verify);
    if (class == GF_OK)
        class = gf_verify_catalogue(verify);
    if (class == GF_OK)
        class = gf_verify_part(verify, part);
    if (class != GF_OK)
        return class;
    gf_sql_rollback(verify->sql); /* ends the snapshot */
    gf_metric_add(GF_M_VERIFY_TRADES, part->rows);
    watch_pace(watch, part->rows);
    return GF_OK;
}

/* ---- following the logs ---- */

static struct verify_part *find_part(struct watcher *watcher, int32_t log)
{
    for (int i = 0; i < watcher->part_count; i++)
        if (watcher->parts[i].log == log)
            return &watcher->parts[i];
    return NULL;
}

/* A log that was there at the start is followed from its end, as the round looks at all that was before; a newer one from
 * its first batch. *left_r: offsets that were settled and not looked at yet. */
static enum gf_class find_logs(struct watcher *watcher, int64_t *left_r)
{
    struct verify *verify = &watcher->watch.verify;
    bool start = watcher->part_count == 0;
    struct gf_sql_result *result;
    size_t len;
    enum gf_class class = gf_sql_queryf(verify->sql, &result, &verify->error,
                                        "SELECT log, next_offset, last_hash FROM progress ORDER BY log LIMIT %d", LOGS_MAX);

    *left_r = 0;
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        int32_t log = (int32_t)gf_sql_i64(result, 0);
        struct verify_part *part = find_part(watcher, log);

        if (part == NULL && watcher->part_count < LOGS_MAX) {
            part = &watcher->parts[watcher->part_count++];
            *part = (struct verify_part){.log = log, .heads = watcher->heads, .known = start, .from = gf_sql_i64(result, 1)};
            if (start && !gf_sql_is_null(result, 2))
                memcpy(part->hash, gf_sql_bytes(result, 2, &len), sizeof(part->hash));
        }
        if (part == NULL)
            continue;
        part->left = part->known ? gf_sql_i64(result, 1) - part->from : 1;
        *left_r += part->left > 0 ? part->left : 0;
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

/* What came since the last turn, log by log; what does not fit the turn is the next one's. */
static enum gf_class follow(struct watcher *watcher, int64_t until_ms)
{
    struct watch *watch = &watcher->watch;
    int64_t left = 0;
    enum gf_class class = find_logs(watcher, &left);

    for (int i = 0; class == GF_OK && i < watcher->part_count; i++) {
        struct verify_part *part = &watcher->parts[i];

        while (class == GF_OK && part->left != 0 && !atomic_load(&watch->stopping)) {
            class = check_part(watch, part);
            if (gf_clock_mono_ms() >= until_ms)
                break;
        }
    }
    gf_metric_set(GF_M_VERIFY_LEFT, left);
    return class;
}

/* ---- the slow round ---- */

enum { USER, BALANCE, DEBT, VER, LAST_LOG, LAST_OFF, TRADE_USER, TRADE_OUTCOME, TRADE_SEQ, TRADE_BALANCE };

static void check_wallet(struct verify *verify, const struct gf_sql_result *row)
{
    bool has_rows = gf_sql_i64(row, LAST_OFF) >= 0;
    int64_t user_id = gf_sql_i64(row, USER), balance = gf_sql_i64(row, BALANCE);

    if (balance < 0 || gf_sql_i64(row, DEBT) < 0)
        gf_verify_fail(verify, VERIFY_WALLET_SIGN, "user %" PRId64 ": balance %" PRId64 ", debt %" PRId64, user_id, balance,
                       gf_sql_i64(row, DEBT));
    if (has_rows && (gf_sql_is_null(row, TRADE_USER) || gf_sql_i64(row, TRADE_USER) != user_id ||
                     gf_sql_i64(row, TRADE_OUTCOME) != 0 || gf_sql_i64(row, TRADE_SEQ) > gf_sql_i64(row, VER)))
        gf_verify_fail(verify, VERIFY_STATEMENT, "user %" PRId64 ": wallet names %" PRId64 ":%" PRId64 " version %" PRId64
                       ", which is no such settled row", user_id, gf_sql_i64(row, LAST_LOG), gf_sql_i64(row, LAST_OFF),
                       gf_sql_i64(row, VER));
    else if (balance != (has_rows ? gf_sql_i64(row, TRADE_BALANCE) : 0))
        gf_verify_fail(verify, VERIFY_WALLET_BALANCE, "user %" PRId64 ": balance %" PRId64 ", its trades come to %" PRId64, user_id, balance,
                       has_rows ? gf_sql_i64(row, TRADE_BALANCE) : 0);
}

/* One statement is one snapshot: each wallet is seen together with its last row. */
static enum gf_class check_wallets(struct watcher *watcher, bool *done_r)
{
    struct verify *verify = &watcher->watch.verify;
    struct gf_sql_result *result;
    int64_t rows = 0;
    enum gf_class class = gf_sql_queryf(verify->sql, &result, &verify->error,
                                        "SELECT w.user_id, w.balance, w.debt, w.ver, w.last_log, w.last_off, t.user_id, t.outcome, t.seq, "
                                        "t.balance_after FROM wallet w LEFT JOIN trade t ON t.log = w.last_log AND t.off = w.last_off "
                                        "WHERE w.user_id > %" PRId64 " ORDER BY w.user_id LIMIT %d", watcher->round.user_id, CHUNK);

    if (class != GF_OK)
        return class;
    for (; gf_sql_next(result); rows++) {
        check_wallet(verify, result);
        watcher->round.user_id = gf_sql_i64(result, USER);
    }
    gf_sql_result_free(&result);
    *done_r = rows < CHUNK;
    gf_metric_add(GF_M_VERIFY_WALLETS, rows);
    watch_pace(&watcher->watch, rows);
    return GF_OK;
}

static void begin_log(struct watcher *watcher)
{
    struct round *round = &watcher->round;

    round->part = (struct verify_part){.heads = watcher->old_heads};
    if (round->log < watcher->part_count) {
        const struct verify_part *followed = &watcher->parts[round->log];

        round->part.log = followed->log;
        round->to = followed->from + followed->left; /* what comes later is followed: a busy log would have no end */
    }
}

static enum gf_class check_history(struct watcher *watcher, bool *done_r)
{
    struct round *round = &watcher->round;
    enum gf_class class;

    *done_r = round->log == watcher->part_count;
    if (*done_r)
        return GF_OK;
    class = check_part(&watcher->watch, &round->part);
    if (class == GF_OK && (round->part.left <= 0 || round->part.from >= round->to)) {
        round->log++;
        begin_log(watcher);
    }
    return class;
}

static void begin_round(struct watcher *watcher)
{
    watcher->round = (struct round){.violations = atomic_load(&violations)};
    memset(watcher->old_heads, 0, VERIFY_HEADS * sizeof(watcher->old_heads[0]));
}

static void end_round(struct watcher *watcher)
{
    int64_t found = atomic_load(&violations) - watcher->round.violations;

    gf_metric_set(GF_M_VERIFY_FULL_PASS, gf_clock_real_ms() / 1000);
    gf_metric_add(GF_M_VERIFY_ROUNDS, 1);
    gf_log(found > 0 ? GF_ERROR : GF_DEBUG, "full_pass_ended", "violations=%" PRId64, found);
    begin_round(watcher);
}

/* One piece of it; *ended_r: the round is through. */
static enum gf_class go_on(struct watcher *watcher, bool *ended_r)
{
    bool done = false;
    enum gf_class class = GF_OK;

    switch (watcher->round.stage) {
    case STAGE_REDIS:
        class = watch_redis_page(&watcher->watch, &done);
        break;
    case STAGE_WALLETS:
        class = check_wallets(watcher, &done);
        break;
    case STAGE_HISTORY:
        class = check_history(watcher, &done);
        break;
    }
    if (class != GF_OK || !done)
        return class;
    *ended_r = watcher->round.stage == STAGE_HISTORY;
    if (*ended_r)
        end_round(watcher);
    else if (++watcher->round.stage == STAGE_HISTORY)
        begin_log(watcher);
    return GF_OK;
}

/* ---- the worker ---- */

static enum gf_class turn(struct watcher *watcher, int64_t until_ms)
{
    struct watch *watch = &watcher->watch;
    bool ended = false;
    enum gf_class class = connect_mysql(&watch->verify);

    if (class == GF_OK)
        class = follow(watcher, until_ms);
    if (class == GF_OK)
        atomic_store(&watch->mysql_ok, true);
    do {
        if (class == GF_OK)
            class = watch_redis_suspects(watch);
        if (class == GF_OK)
            class = go_on(watcher, &ended);
    } while (class == GF_OK && !ended && !atomic_load(&watch->stopping) && gf_clock_mono_ms() < until_ms);
    return class;
}

static void *work(void *arg)
{
    struct watcher *watcher = arg;
    struct watch *watch = &watcher->watch;
    int failures = 0;

    begin_round(watcher);
    while (!atomic_load(&watch->stopping)) {
        int64_t until_ms = gf_clock_mono_ms() + watch->options->interval_s * 1000;
        enum gf_class class = turn(watcher, until_ms);

        if (class == GF_OK) {
            failures = 0;
            pause_until(watch, until_ms);
            continue;
        }
        atomic_store(&watch->mysql_ok, false);
        gf_metric_add(GF_M_VERIFY_ERRORS, 1);
        gf_log(GF_WARN, "turn_failed", "class=%s error=\"%s\"", gf_class_name(class), watch->verify.error.text);
        gf_sql_close(&watch->verify.sql); /* and the snapshot with it */
        failures = failures < 10 ? failures + 1 : failures;
        pause_until(watch, gf_clock_mono_ms() + gf_backoff_ms(failures, 100, PAUSE_MAX_MS));
    }
    gf_sql_close(&watch->verify.sql);
    watch_redis_close(watch);
    gf_async_wake(watcher->ended);
    return NULL;
}

static bool on_ready(void *ctx, struct gf_buf *reason)
{
    struct watcher *watcher = ctx;

    if (atomic_load(&watcher->watch.mysql_ok))
        return true;
    gf_buf_adds(reason, "MySQL is not reachable");
    return false;
}

static void on_drain(void *ctx)
{
    struct watcher *watcher = ctx;

    gf_ops_draining(watcher->ops);
    atomic_store(&watcher->watch.stopping, true);
}

static void on_ended(void *ctx)
{
    struct watcher *watcher = ctx;

    gf_loop_stop(watcher->loop);
}

int gf_verify_watch(const struct gf_config *config, const struct verify_watch_options *options)
{
    static struct watcher watcher;
    struct gf_error error;
    int status = 1;

    watcher.watch.verify.config = config;
    watcher.watch.verify.on_fail = on_fail;
    watcher.watch.options = options;
    watcher.heads = gf_xcalloc(VERIFY_HEADS, sizeof(watcher.heads[0]));
    watcher.old_heads = gf_xcalloc(VERIFY_HEADS, sizeof(watcher.old_heads[0]));
    watcher.loop = gf_loop_create();
    watcher.ended = gf_async_create(watcher.loop, on_ended, &watcher);
    gf_loop_on_signal(watcher.loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, &watcher);
    if (gf_ops_start(watcher.loop, config, "verify", on_ready, &watcher, &watcher.ops, &error) != GF_OK) {
        gf_log(GF_ERROR, "start_failed", "error=\"%s\"", error.text);
    } else if (pthread_create(&watcher.worker, NULL, work, &watcher) != 0) {
        gf_log(GF_ERROR, "start_failed", "error=\"cannot start the worker thread\"");
    } else {
        gf_log(GF_INFO, "watch_started", "interval_s=%" PRId64 " rate=%" PRId64, options->interval_s, options->rate);
        gf_loop_run(watcher.loop);
        pthread_join(watcher.worker, NULL);
        status = atomic_load(&violations) > 0 ? 3 : 0;
        gf_log(status > 0 ? GF_ERROR : GF_INFO, "watch_stopped", "violations=%" PRId64, atomic_load(&violations));
    }
    gf_loop_stop(watcher.loop); /* also of one that has not run */
    gf_async_close(&watcher.ended);
    gf_ops_close(&watcher.ops);
    gf_loop_destroy(&watcher.loop);
    gf_verify_free(&watcher.watch.verify);
    free(watcher.heads);
    free(watcher.old_heads);
    return status;
}
