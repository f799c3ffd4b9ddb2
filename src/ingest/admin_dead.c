/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters over the admin API: list, drop, replay. What a letter is and what may be produced again is gf/letter.h's. Whoever
 * names one record here insists on it, so one that this version would bury again is produced as well. */
#include "admin.h"
#include "gf/letter.h"
#include "gf/log.h"
#include "gf/num.h"

#define LIST_MAX 100

/* Thread: database. */
static enum gf_class run_list(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_letter_filter filter = *(const struct gf_letter_filter *)job->extra;
    struct gf_sql_result *result = NULL;
    struct gf_letter letter = {0};
    int count = 0, limit = filter.limit;
    enum gf_class class;

    filter.limit = limit + 1; /* whether there is another page */
    class = gf_letter_list(sql, &filter, &result, error_r);
    if (class != GF_OK)
        return class;
    gf_buf_adds(&job->body, "{\"dead_letters\":[");
    for (; count < limit && gf_letter_next(result, &letter); count++) {
        gf_buf_adds(&job->body, count > 0 ? "," : "");
        gf_letter_json(&letter, &job->body);
    }
    if (gf_sql_result_count(result) > limit)
        gf_buf_addf(&job->body, "],\"next_cursor\":\"%lld-%lld\"}", (long long)letter.id.log, (long long)letter.id.off);
    else
        gf_buf_adds(&job->body, "],\"next_cursor\":null}");
    gf_sql_result_free(&result);
    return GF_OK;
}

void gf_admin_dead_list(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);
    struct gf_letter_filter *filter = gf_xcalloc(1, sizeof(*filter));
    struct gf_slice state = gf_http_query(call->req, "state"), limit = gf_http_query(call->req, "limit");
    struct gf_slice cursor = gf_http_query(call->req, "cursor");
    int64_t count;

    job->extra = filter;
    gf_letter_filter_init(filter);
    count = filter->limit;
    if (state.ptr != NULL && !gf_letter_parse_states(state.ptr, state.len, &filter->states))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "state must be open, all, new, fed, replayed or dropped");
    else if (limit.ptr != NULL && !gf_num_parse_i64(limit.ptr, limit.len, 1, LIST_MAX, &count))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "limit must be 1..100");
    else if (cursor.ptr != NULL && !gf_letter_parse_id(cursor.ptr, cursor.len, &filter->after))
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "cursor is not one that was returned here");
    else {
        filter->limit = (int)count;
        gf_admin_submit(job, run_list);
    }
}

/* ---- one dead letter ---- */

static void add_state(struct gf_admin_job *job, int state)
{
    gf_buf_addf(&job->body, "{\"log\":%lld,\"off\":%lld,\"state\":\"%s\"}", (long long)job->log, (long long)job->off,
                gf_letter_state_text(state));
}

/* Judges the letter and keeps what is to be produced. Thread: database. */
static enum gf_class run_replay(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_verdict *verdict = job->extra;
    struct gf_sql_result *result = NULL;
    struct gf_letter letter;
    enum gf_class class = gf_letter_get(sql, &(struct gf_letter_id){job->log, job->off}, &result, error_r);

    if (class != GF_OK)
        return class;
    if (!gf_letter_next(result, &letter)) {
        class = gf_admin_problem(job, GF_PROBLEM_NOT_FOUND, "there is no such dead letter");
        goto out;
    }
    class = gf_letter_judge(sql, &letter, verdict, error_r);
    if (class == GF_OK && verdict->replay == GF_REPLAY_NEVER)
        class = gf_admin_problem(job, GF_PROBLEM_CONFLICT, verdict->why);
    else if (class == GF_OK)
        gf_buf_add(&job->record, letter.payload, letter.payload_len);
out:
    gf_sql_result_free(&result);
    return class;
}

/* Thread: database. */
static enum gf_class run_drop(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    int state = -1;
    enum gf_class class = gf_letter_mark(sql, &(struct gf_letter_id){job->log, job->off}, GF_LETTER_DROPPED, &state, error_r);

    if (class != GF_OK)
        return class;
    if (state < 0)
        return gf_admin_problem(job, GF_PROBLEM_NOT_FOUND, "there is no such dead letter");
    if (state != GF_LETTER_DROPPED)
        return gf_admin_problem(job, GF_PROBLEM_CONFLICT, "this dead letter was replayed before");
    add_state(job, state);
    return GF_OK;
}

/* The record is in the log again, whatever the letter is now: somebody may have dropped it meanwhile. Thread: database. */
static enum gf_class run_replayed(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    int state = -1;
    enum gf_class class = gf_letter_mark(sql, &(struct gf_letter_id){job->log, job->off}, GF_LETTER_REPLAYED, &state, error_r);

    if (class == GF_OK)
        add_state(job, state);
    return class;
}

/* The record is in the log again. If the mark is lost now, a second replay is possible and without effect (G2). */
static void on_ack(struct gf_produced *produced, enum gf_kafka_ack ack)
{
    struct gf_admin_job *job = (struct gf_admin_job *)((char *)produced - offsetof(struct gf_admin_job, produced));

    if (ack != GF_KAFKA_PERSISTED) {
        gf_admin_unavailable(job, "the log did not confirm the record; another replay does no harm");
        return;
    }
    gf_log(GF_INFO, "dead_letter_replayed", "log=%lld off=%lld", (long long)job->log, (long long)job->off);
    job->status = 202;
    job->on_ok = NULL;
    job->done_so_far = "the record is in the log again, but may not be marked as replayed; another replay does no harm";
    gf_admin_submit(job, run_replayed);
}

static void on_judged(struct gf_admin_job *job)
{
    const struct gf_verdict *verdict = job->extra;
    const struct gf_kafka_record record = {
        .topic = job->ingest->commands_topic,
        .key = verdict->key,
        .key_len = verdict->key_len,
        .value = job->record.data,
        .value_len = job->record.len,
    };
    struct gf_error error;
    enum gf_class class = GF_RETRY; /* another partition count would split a wallet's order (F4) */

    job->produced.on_ack = on_ack;
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
    job->extra = gf_xcalloc(1, sizeof(struct gf_verdict));
    job->on_ok = on_judged;
    gf_admin_submit(job, run_replay);
}
