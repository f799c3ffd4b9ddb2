/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters: list, drop, replay. dead_letter.state: 0 new, 1 fed to the dlq topic, 2 replayed, 3 dropped. Only a
 * record without a trade row can be replayed: one with a row has used up its request id for ever and needs a new one.
 */
#include <stdio.h>

#include "admin.h"
#include "gf/log.h"
#include "gf/num.h"
#include "gf/outcome.h"

#define LIST_DEFAULT 20
#define LIST_MAX 100
#define PAYLOAD_SHOWN 4096 /* bytes of one payload in a list */

static const char *const states[] = {"new", "fed", "replayed", "dropped"};
enum { NEW, FED, REPLAYED, DROPPED, OPEN }; /* OPEN: new or fed */

struct list {
    int state, limit;
    int64_t after_log, after_off;
};

static void add_hex(struct gf_buf *out, const char *name, const struct gf_sql_result *row, int column)
{
    size_t len;
    const char *bytes = gf_sql_bytes(row, column, &len);

    gf_buf_addf(out, ",\"%s\":", name);
    if (bytes == NULL) {
        gf_buf_adds(out, "null");
        return;
    }
    gf_buf_addc(out, '"');
    gf_buf_add_hex(out, bytes, len);
    gf_buf_addc(out, '"');
}

static void add_dead(struct gf_buf *out, const struct gf_sql_result *row)
{
    int state = (int)gf_sql_i64(row, 6);
    size_t len;
    const char *detail = gf_sql_bytes(row, 3, &len);

    gf_buf_addf(out, "{\"log\":%lld,\"off\":%lld,\"reason\":\"%s\",\"detail\":", (long long)gf_sql_i64(row, 0),
                (long long)gf_sql_i64(row, 1), gf_dead_text((enum gf_dead)gf_sql_i64(row, 2)));
    gf_buf_add_json(out, detail, len);
    add_hex(out, "key_hex", row, 4);
    add_hex(out, "payload_hex", row, 5);
    gf_buf_addf(out, ",\"state\":\"%s\",\"ts\":%lld}", state >= NEW && state <= DROPPED ? states[state] : "unknown",
                (long long)gf_sql_i64(row, 7));
}

/* Thread: database. */
static enum gf_class run_list(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    const struct list *list = job->extra;
    struct gf_sql_result *result = NULL;
    int64_t last_log = 0, last_off = 0;
    char filter[32];
    int count = 0;
    enum gf_class class;

    if (list->state == OPEN)
        (void)snprintf(filter, sizeof(filter), "IN (%d, %d)", NEW, FED);
    else
        (void)snprintf(filter, sizeof(filter), "= %d", list->state);
    class = gf_sql_queryf(sql, &result, error_r,
                          "SELECT log, off, reason, detail, rec_key, LEFT(payload, %d), state, ts_ms FROM dead_letter"
                          " WHERE state %s AND (log > %lld OR (log = %lld AND off > %lld)) ORDER BY log, off LIMIT %d",
                          PAYLOAD_SHOWN, filter, (long long)list->after_log, (long long)list->after_log,
                          (long long)list->after_off, list->limit + 1);
    if (class != GF_OK)
        return class;
    gf_buf_adds(&job->body, "{\"dead_letters\":[");
    for (; count < list->limit && gf_sql_next(result); count++) {
        gf_buf_adds(&job->body, count > 0 ? "," : "");
        add_dead(&job->body, result);
        last_log = gf_sql_i64(result, 0);
        last_off = gf_sql_i64(result, 1);
    }
    if (gf_sql_result_count(result) > list->limit)
        gf_buf_addf(&job->body, "],\"next_cursor\":\"%lld-%lld\"}", (long long)last_log, (long long)last_off);
    else
        gf_buf_adds(&job->body, "],\"next_cursor\":null}");
    gf_sql_result_free(&result);
    return GF_OK;
}

static bool read_state(struct gf_slice text, int *state_r)
{
    if (text.ptr == NULL || gf_slice_is(text, "open")) {
        *state_r = OPEN;
        return true;
    }
    for (int i = 0; i < (int)GF_COUNT(states); i++) {
        if (gf_slice_is(text, states[i])) {
            *state_r = i;
            return true;
        }
    }
    return false;
}

static bool read_cursor(struct gf_slice text, int64_t *log_r, int64_t *off_r)
{
    const char *dash = text.ptr != NULL ? memchr(text.ptr, '-', text.len) : NULL;

    if (text.ptr == NULL) {
        *log_r = 0;
        *off_r = -1;
        return true;
    }
    return dash != NULL && gf_num_parse_i64(text.ptr, (size_t)(dash - text.ptr), 0, INT16_MAX, log_r) &&
           gf_num_parse_i64(dash + 1, text.len - (size_t)(dash - text.ptr) - 1, 0, INT64_MAX, off_r);
}

void gf_admin_dead_list(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);
    struct list *list = gf_xcalloc(1, sizeof(*list));
    struct gf_slice limit = gf_http_query(call->req, "limit");
    int64_t count = LIST_DEFAULT;

    job->extra = list;
    if (!read_state(gf_http_query(call->req, "state"), &list->state))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "state must be open, new, fed, replayed or dropped");
    else if (limit.ptr != NULL && !gf_num_parse_i64(limit.ptr, limit.len, 1, LIST_MAX, &count))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "limit must be 1..100");
    else if (!read_cursor(gf_http_query(call->req, "cursor"), &list->after_log, &list->after_off))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "cursor is not one that was returned here");
    else {
        list->limit = (int)count;
        gf_admin_submit(job, run_list);
    }
}

/* ---- one dead letter ---- */

static enum gf_class set_state(struct gf_admin_job *job, struct gf_sql *sql, int state, struct gf_error *error_r)
{
    struct gf_buf text;
    int64_t affected = 0;
    enum gf_class class;

    gf_buf_init(&text, 512);
    gf_buf_addf(&text, "UPDATE dead_letter SET state = %d WHERE log = %lld AND off = %lld AND state IN (%d, %d)", state,
                (long long)job->log, (long long)job->off, NEW, FED);
    class = gf_sql_exec(sql, text.data, text.len, &affected, error_r);
    gf_buf_free(&text);
    job->created = affected == 1;
    return class;
}

/* Reads the row; what is not open is refused. */
static enum gf_class read_dead(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class =
        gf_sql_queryf(sql, &result, error_r,
                      "SELECT d.state, d.rec_key, d.payload, (SELECT COUNT(*) FROM trade t WHERE t.log = d.log"
                      " AND t.off = d.off) FROM dead_letter d WHERE d.log = %lld AND d.off = %lld",
                      (long long)job->log, (long long)job->off);
    const char *bytes;
    size_t len;

    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result)) {
        class = gf_admin_problem(job, GF_PROBLEM_NOT_FOUND, "there is no such dead letter");
    } else if (gf_sql_i64(result, 0) > FED) {
        class = gf_admin_problem(job, GF_PROBLEM_CONFLICT, "this dead letter was replayed or dropped before");
    } else if (gf_sql_i64(result, 3) != 0) {
        class = gf_admin_problem(job, GF_PROBLEM_CONFLICT, "its request id has a final outcome; send it with a new id");
    } else if (gf_sql_is_null(result, 1) || gf_sql_is_null(result, 2)) {
        class = gf_admin_problem(job, GF_PROBLEM_CONFLICT, "a record without key or value cannot become a command");
    } else {
        bytes = gf_sql_bytes(result, 1, &len);
        gf_buf_add(&job->record_key, bytes, len);
        bytes = gf_sql_bytes(result, 2, &len);
        gf_buf_add(&job->record, bytes, len);
    }
    gf_sql_result_free(&result);
    return class;
}

static void add_state(struct gf_admin_job *job, const char *state)
{
    gf_buf_addf(&job->body, "{\"log\":%lld,\"off\":%lld,\"state\":\"%s\"}", (long long)job->log, (long long)job->off,
                state);
}

/* Thread: database. */
static enum gf_class run_drop(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_sql_result *result = NULL;
    enum gf_class class = set_state(job, sql, DROPPED, error_r);
    int state = -1;

    if (class != GF_OK)
        return class;
    class = gf_sql_queryf(sql, &result, error_r, "SELECT state FROM dead_letter WHERE log = %lld AND off = %lld",
                          (long long)job->log, (long long)job->off);
    if (class != GF_OK)
        return class;
    if (gf_sql_next(result))
        state = (int)gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    if (state == -1)
        return gf_admin_problem(job, GF_PROBLEM_NOT_FOUND, "there is no such dead letter");
    if (state != DROPPED)
        return gf_admin_problem(job, GF_PROBLEM_CONFLICT, "this dead letter was replayed before");
    add_state(job, states[DROPPED]);
    return GF_OK;
}

/* Thread: database. */
static enum gf_class run_replay(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    return read_dead((struct gf_admin_job *)base, sql, error_r);
}

/* Thread: database. */
static enum gf_class run_replayed(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;

    add_state(job, states[REPLAYED]);
    return set_state(job, sql, REPLAYED, error_r);
}

/* The record is in the log again. If the mark is lost now, a second replay is possible and without effect (G2). */
static void on_ack(struct gf_produced *produced, enum gf_kafka_ack ack)
{
    struct gf_admin_job *job = (struct gf_admin_job *)((char *)produced - offsetof(struct gf_admin_job, produced));

    if (ack != GF_KAFKA_PERSISTED) {
        gf_admin_unavailable(job, "the log does not answer; try again");
        return;
    }
    gf_log(GF_INFO, "dead_letter_replayed", "log=%lld off=%lld", (long long)job->log, (long long)job->off);
    job->status = 202;
    job->on_ok = NULL;
    gf_admin_submit(job, run_replayed);
}

static void on_dead_read(struct gf_admin_job *job)
{
    const struct gf_kafka_record record = {
        .topic = job->ingest->commands_topic,
        .key = job->record_key.data,
        .key_len = job->record_key.len,
        .value = job->record.data,
        .value_len = job->record.len,
    };
    struct gf_error error;
    enum gf_class class = GF_RETRY; /* another partition count would split a wallet's order (F4) */

    job->produced.on_ack = on_ack;
    if (job->record_key.len == 0 || job->record.len == 0) {
        gf_admin_refuse(job, GF_PROBLEM_CONFLICT, "a record without key or value cannot become a command");
        return;
    }
    if (gf_pins_ok(job->ingest->pins))
        class = gf_kafka_produce(job->ingest->producer, &record, &job->produced, &error);
    if (class == GF_REJECT)
        gf_admin_refuse(job, GF_PROBLEM_CONFLICT, "the log does not take this record");
    else if (class != GF_OK)
        gf_admin_unavailable(job, "the log does not answer; try again");
}

static struct gf_admin_job *create_one(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);

    if (!gf_admin_id(job, call->param[0], INT16_MAX, &job->log) ||
        !gf_admin_id(job, call->param[1], INT64_MAX, &job->off))
        return NULL;
    return job;
}

void gf_admin_dead_drop(const struct gf_call *call)
{
    struct gf_admin_job *job = create_one(call);

    if (job != NULL)
        gf_admin_submit(job, run_drop);
}

void gf_admin_dead_replay(const struct gf_call *call)
{
    struct gf_admin_job *job = create_one(call);

    if (job == NULL)
        return;
    job->on_ok = on_dead_read;
    gf_admin_submit(job, run_replay);
}
