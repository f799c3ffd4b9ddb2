/* SPDX-License-Identifier: Apache-2.0 */
/* Host income (F13). Per log, in one transaction: lock the rollup row, read the committed next_offset (a log's offsets are
 * strictly ordered, so everything below it is there), sum the trades in between by receiver, write income rows and accounts,
 * move the row. Whoever holds the row is alone with that log; settlement never touches it. A lost answer to COMMIT needs no
 * look-up: the next turn starts from what the locked row says. */
#include <inttypes.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"
#include "gf/point.h"
#include "sweep.h"

#define LOGS_MAX 4096
#define ROWS_PER_STATEMENT 1000
#define WAITS_MAX 2 /* logs of one turn that may wait for their locks in vain */

struct receiver {
    int64_t receiver_id, gross, host, trades;
};

/* Logs with something to roll up; the plain read only saves empty transactions. */
static enum gf_class find_logs(struct sweep_jobs *jobs, int32_t *logs_r, int *count_r, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(jobs->sql, &result, error_r,
                                        "SELECT r.log FROM rollup r JOIN progress p ON p.log = r.log "
                                        "WHERE r.rolled_offset < p.next_offset ORDER BY r.log LIMIT %d", LOGS_MAX);

    *count_r = 0;
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result))
        logs_r[(*count_r)++] = (int32_t)gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return GF_OK;
}

/* [from_r, to_r) of committed trades that this transaction rolls up. */
static enum gf_class lock_range(struct sweep_jobs *jobs, int32_t log, int64_t *from_r, int64_t *to_r, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(jobs->sql, &result, error_r,
                                        "SELECT rolled_offset FROM rollup WHERE log = %" PRId32 " FOR UPDATE", log);

    if (class != GF_OK)
        return class;
    *from_r = gf_sql_next(result) ? gf_sql_i64(result, 0) : 0;
    gf_sql_result_free(&result);
    GF_POINT(sweep_rollup_locked);
    class = gf_sql_queryf(jobs->sql, &result, error_r, "SELECT next_offset FROM progress WHERE log = %" PRId32, log);
    if (class != GF_OK)
        return class;
    *to_r = gf_sql_next(result) ? gf_sql_i64(result, 0) : 0;
    gf_sql_result_free(&result);
    GF_POINT(sweep_rollup_read);
    if (*to_r > *from_r + jobs->config->sweep_rollup_rows)
        *to_r = *from_r + jobs->config->sweep_rollup_rows;
    return GF_OK;
}

/* Sums by receiver, sorted by receiver: accounts are always locked in that order. */
static enum gf_class sum_range(struct sweep_jobs *jobs, int32_t log, int64_t from, int64_t to, struct gf_sql_result **result_r,
                               struct gf_error *error_r)
{
    return gf_sql_queryf(jobs->sql, result_r, error_r,
                         "SELECT receiver_id, SUM(-amount), SUM(host_coins), COUNT(*) FROM trade WHERE log = %" PRId32
                         " AND off >= %" PRId64 " AND off < %" PRId64 " AND kind = 1 AND outcome = 0 "
                         "GROUP BY receiver_id ORDER BY receiver_id", log, from, to);
}

struct range {
    int32_t log;
    int64_t from, to, now_ms;
};

static enum gf_class insert_income(struct sweep_jobs *jobs, const struct range *range, const struct receiver *rows, int count,
                                   struct gf_error *error_r)
{
    gf_buf_reset(&jobs->text);
    gf_buf_adds(&jobs->text, "INSERT INTO income (log, from_offset, receiver_id, to_offset, gross, host, created_ms) VALUES ");
    for (int i = 0; i < count; i++)
        gf_buf_addf(&jobs->text, "%s(%" PRId32 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")",
                    i > 0 ? "," : "", range->log, range->from, rows[i].receiver_id, range->to, rows[i].gross, rows[i].host,
                    range->now_ms);
    GF_ASSERT(gf_buf_ok(&jobs->text));
    return gf_sql_exec(jobs->sql, jobs->text.data, jobs->text.len, NULL, error_r);
}

static enum gf_class add_to_accounts(struct sweep_jobs *jobs, const struct range *range, const struct receiver *rows, int count,
                                     struct gf_error *error_r)
{
    gf_buf_reset(&jobs->text);
    gf_buf_adds(&jobs->text, "INSERT INTO income_account (receiver_id, balance, total_gross, total_host, ver, updated_ms) VALUES ");
    for (int i = 0; i < count; i++)
        gf_buf_addf(&jobs->text, "%s(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",1,%" PRId64 ")", i > 0 ? "," : "",
                    rows[i].receiver_id, rows[i].host, rows[i].gross, rows[i].host, range->now_ms);
    gf_buf_adds(&jobs->text, " ON DUPLICATE KEY UPDATE balance = balance + VALUES(balance), total_gross = total_gross + "
                             "VALUES(total_gross), total_host = total_host + VALUES(total_host), ver = ver + 1, "
                             "updated_ms = VALUES(updated_ms)");
    GF_ASSERT(gf_buf_ok(&jobs->text));
    return gf_sql_exec(jobs->sql, jobs->text.data, jobs->text.len, NULL, error_r);
}

/* The server's sums have no bound; what a table cannot hold is for people, and must not end the process and its other jobs. */
static enum gf_class read_receiver(const struct gf_sql_result *row, struct receiver *receiver_r, struct gf_error *error_r)
{
    const char *text;
    size_t len;

    *receiver_r = (struct receiver){.receiver_id = gf_sql_i64(row, 0), .trades = gf_sql_i64(row, 3)};
    text = gf_sql_bytes(row, 1, &len);
    if (!gf_num_parse_i64(text, len, INT64_MIN, INT64_MAX, &receiver_r->gross)) /* the host's share is no more than that */
        return gf_fail(error_r, GF_REJECT, 0, "receiver %" PRId64 " got %.*s coins in one piece", receiver_r->receiver_id, (int)len, text);
    receiver_r->host = gf_sql_i64(row, 2);
    return GF_OK;
}

/* The result is stored on the client, so the connection is free for the writes between its rows. */
static enum gf_class write_rows(struct sweep_jobs *jobs, const struct range *range, struct gf_sql_result *result,
                                int64_t *trades_r, struct gf_error *error_r)
{
    struct receiver *rows = gf_xcalloc(ROWS_PER_STATEMENT, sizeof(rows[0]));
    enum gf_class class = GF_OK;
    bool more = true;

    while (more && class == GF_OK) {
        int count = 0;

        while (class == GF_OK && count < ROWS_PER_STATEMENT && (more = gf_sql_next(result))) {
            class = read_receiver(result, &rows[count], error_r);
            *trades_r += rows[count++].trades;
        }
        if (class != GF_OK || count == 0)
            break;
        class = insert_income(jobs, range, rows, count, error_r);
        if (class != GF_OK)
            break;
        GF_POINT(sweep_rollup_income);
        class = add_to_accounts(jobs, range, rows, count, error_r);
        if (class == GF_OK)
            GF_POINT(sweep_rollup_accounts);
    }
    free(rows);
    return class;
}

static enum gf_class move_row(struct sweep_jobs *jobs, const struct range *range, struct gf_error *error_r)
{
    int64_t affected = 0;
    enum gf_class class;

    gf_buf_reset(&jobs->text);
    gf_buf_addf(&jobs->text, "UPDATE rollup SET rolled_offset = %" PRId64 " WHERE log = %" PRId32 " AND rolled_offset = %" PRId64,
                range->to, range->log, range->from);
    class = gf_sql_exec(jobs->sql, jobs->text.data, jobs->text.len, &affected, error_r);
    if (class == GF_OK && affected != 1)
        return gf_fail(error_r, GF_RETRY, 0, "rollup row of log %" PRId32 " moved although it is locked", range->log);
    return class;
}

static enum gf_class commit(struct sweep_jobs *jobs, struct gf_error *error_r)
{
    enum gf_class class;

    GF_POINT(sweep_rollup_moved);
    class = gf_sql_commit_send(jobs->sql, error_r);
    if (class != GF_OK)
        return class;
    GF_POINT(sweep_rollup_commit_sent);
    class = gf_sql_commit_answer(jobs->sql, error_r);
    if (class == GF_OK)
        GF_POINT(sweep_rollup_committed);
    return class;
}

static enum gf_class roll_log(struct sweep_jobs *jobs, int32_t log, bool *more_r, struct gf_error *error_r)
{
    struct range range = {.log = log, .now_ms = gf_clock_real_ms()};
    struct gf_sql_result *result = NULL;
    int64_t trades = 0;
    enum gf_class class = gf_sql_begin(jobs->sql, error_r);

    if (class != GF_OK)
        return class;
    GF_POINT(sweep_rollup_begun);
    class = lock_range(jobs, log, &range.from, &range.to, error_r);
    if (class != GF_OK)
        return class;
    if (range.to <= range.from) { /* another copy was faster */
        gf_sql_rollback(jobs->sql);
        return GF_OK;
    }
    class = sum_range(jobs, log, range.from, range.to, &result, error_r);
    if (class == GF_OK) {
        GF_POINT(sweep_rollup_summed);
        class = write_rows(jobs, &range, result, &trades, error_r);
    }
    gf_sql_result_free(&result);
    if (class == GF_OK)
        class = move_row(jobs, &range, error_r);
    if (class == GF_OK)
        class = commit(jobs, error_r);
    if (class != GF_OK)
        return class;
    gf_metric_add(GF_M_ROLLUP_ROWS, trades);
    gf_log(GF_DEBUG, "income_rolled", "log=%" PRId32 " from=%" PRId64 " to=%" PRId64 " trades=%" PRId64, log, range.from, range.to,
           trades);
    if (range.to - range.from == jobs->config->sweep_rollup_rows)
        *more_r = true;
    return GF_OK;
}

/* A log that fails holds no other one up: their hosts have nothing to do with it. A second one that waited in vain ends the
 * turn: it is the server's matter, and the other jobs' time. */
enum gf_class gf_sweep_rollup(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r)
{
    static int32_t logs[LOGS_MAX];
    enum gf_class class, failed = GF_OK;
    struct gf_error error;
    int count = 0, waits = 0;

    class = find_logs(jobs, logs, &count, error_r);
    for (int i = 0; i < count && waits < WAITS_MAX && !gf_sql_lost(jobs->sql); i++) {
        if (roll_log(jobs, logs[i], more_r, &error) == GF_OK)
            continue;
        gf_sql_rollback(jobs->sql);
        waits += error.class == GF_RETRY;
        failed = gf_fail(error_r, error.class, error.native, "log %" PRId32 ": %s", logs[i], error.text);
    }
    return class == GF_OK ? failed : class;
}
