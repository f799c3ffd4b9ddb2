/* SPDX-License-Identifier: Apache-2.0 */
/* Wallets: open, look, freeze; adjustments: a `credit` row that settlement believes, and a command that names it. The
 * row is there before the command, so a command that is lost on the way is produced again, by a repeat of the request
 * or by sweep (credit.due_ms); settlement credits it once. */
#include "admin.h"
#include "gf/command.h"
#include "gf/json.h"
#include "gf/log.h"
#include "queries.h"

#define AGAIN_MS 5000    /* after which sweep produces a command that was not credited */
#define PART_ADJUST (-1) /* credit.part of adjustments: refunds of a gift with this request id have parts >= 0 */

static bool read_wallet(struct gf_admin_job *job, struct gf_sql *sql, enum gf_class *class_r, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    bool found;

    *class_r = gf_sql_queryf(sql, &result, error_r,
                             "SELECT balance, status, ver, debt, total_recharged, total_spent FROM wallet"
                             " WHERE user_id = %lld",
                             (long long)job->id);
    if (*class_r != GF_OK)
        return false;
    found = gf_sql_next(result);
    if (found) {
        job->balance = gf_sql_i64(result, 0);
        job->wallet_status = (int)gf_sql_i64(result, 1);
        job->ver = gf_sql_i64(result, 2);
        gf_buf_addf(&job->body,
                    "{\"user_id\":%lld,\"balance\":%lld,\"debt\":%lld,\"status\":\"%s\",\"ver\":%lld,"
                    "\"total_recharged\":%lld,\"total_spent\":%lld}",
                    (long long)job->id, (long long)job->balance, (long long)gf_sql_i64(result, 3),
                    job->wallet_status == 1 ? "normal" : "frozen", (long long)job->ver,
                    (long long)gf_sql_i64(result, 4), (long long)gf_sql_i64(result, 5));
    }
    gf_sql_result_free(&result);
    return found;
}

/* Redis takes it if it knows nothing newer; settlement's own publish may overtake ours. */
static void on_wallet_changed(struct gf_admin_job *job)
{
    const struct gf_wallet_state wallet = {
        .user_id = job->id, .ver = job->ver, .balance = job->balance, .status = job->wallet_status};

    gf_balance_publish(job->ingest->balance, &wallet);
    gf_admin_answer(job, NULL);
}

/* Thread: database. */
static enum gf_class run_open(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_error error;
    enum gf_class class = gf_sql_execf(sql, &error,
                                       "INSERT INTO wallet (user_id, balance, created_ms, updated_ms)"
                                       " VALUES (%lld, 0, %lld, %lld)",
                                       (long long)job->id, (long long)job->now_ms, (long long)job->now_ms);

    if (class == GF_OK)
        job->status = 201;
    else if (class != GF_REJECT || !gf_sql_is_duplicate(&error)) {
        *error_r = error;
        return class;
    }
    GF_ASSERT(read_wallet(job, sql, &class, error_r) || class != GF_OK);
    return class;
}

void gf_admin_wallet_post(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);
    const struct gf_json_field fields[] = {{"user_id", GF_JSON_I64, true, 1, GF_ID_MAX, &job->id, NULL, NULL}};
    struct gf_slice body = gf_http_body(call->req);
    struct gf_error error;

    job->on_ok = on_wallet_changed;
    if (gf_json_read(body.ptr, body.len, fields, GF_COUNT(fields), &error) != GF_OK)
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, error.text);
    else
        gf_admin_submit(job, run_open);
}

/* Thread: database. */
static enum gf_class run_show(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    enum gf_class class;

    if (!read_wallet(job, sql, &class, error_r) && class == GF_OK)
        return gf_admin_problem(job, GF_PROBLEM_WALLET_NOT_FOUND, NULL);
    return class;
}

void gf_admin_wallet_get(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);

    if (gf_admin_id(job, call->param[0], GF_ID_MAX, &job->id))
        gf_admin_submit(job, run_show);
}

/* Thread: database. A wallet that has the status already is left alone: its version is Redis's order. */
static enum gf_class run_freeze(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    enum gf_class class =
        gf_sql_execf(sql, error_r,
                     "UPDATE wallet SET status = %d, ver = ver + 1, updated_ms = %lld"
                     " WHERE user_id = %lld AND status <> %d",
                     job->wallet_status, (long long)job->now_ms, (long long)job->id, job->wallet_status);

    return class == GF_OK ? run_show(base, sql, error_r) : class;
}

static void set_status(const struct gf_call *call, int status)
{
    struct gf_admin_job *job = gf_admin_create(call);

    job->on_ok = on_wallet_changed;
    job->wallet_status = status;
    if (!gf_admin_id(job, call->param[0], GF_ID_MAX, &job->id))
        return;
    gf_log(GF_INFO, "wallet_status_asked", "user=%lld status=%d", (long long)job->id, status);
    gf_admin_submit(job, run_freeze);
}

void gf_admin_wallet_freeze(const struct gf_call *call)
{
    set_status(call, 2);
}

void gf_admin_wallet_unfreeze(const struct gf_call *call)
{
    set_status(call, 1);
}

/* ---- adjustments ---- */

static enum gf_class insert_credit(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 4096);
    gf_buf_adds(&text,
                "INSERT INTO credit (credit_id, kind, user_id, coins, target_user, target_request, part, actor, reason,"
                " status, created_ms, due_ms) VALUES (");
    gf_buf_add_xhex(&text, job->credit_id.b, sizeof(job->credit_id.b));
    gf_buf_addf(&text, ", %d, %lld, %lld, %lld, ", GF_KIND_ADJUST, (long long)job->id, (long long)job->coins,
                (long long)job->id);
    gf_buf_add_xhex(&text, job->key.b, sizeof(job->key.b));
    gf_buf_addf(&text, ", %d, 'admin', ", PART_ADJUST);
    gf_sql_add_text(sql, &text, job->reason, strlen(job->reason));
    gf_buf_addf(&text, ", 1, %lld, %lld)", (long long)job->now_ms, (long long)(job->now_ms + AGAIN_MS));
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_exec(sql, text.data, text.len, NULL, error_r);
    gf_buf_free(&text);
    return class;
}

/* The key was used before: the same adjustment is told again, another one is a mistake of the caller. */
static enum gf_class read_credit(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;
    size_t len;
    const char *reason;

    gf_buf_init(&text, 1024);
    gf_buf_adds(&text, "SELECT credit_id, coins, reason, status FROM credit WHERE target_request = ");
    gf_buf_add_xhex(&text, job->key.b, sizeof(job->key.b));
    gf_buf_addf(&text, " AND target_user = %lld AND part = %d", (long long)job->id, PART_ADJUST);
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    GF_ASSERT(gf_sql_next(result)); /* credits are never deleted */
    gf_sql_uuid(result, 0, &job->credit_id);
    reason = gf_sql_bytes(result, 2, &len);
    if (gf_sql_i64(result, 1) != job->coins || len != strlen(job->reason) || memcmp(reason, job->reason, len) != 0)
        class = gf_admin_problem(job, GF_PROBLEM_MISMATCH, NULL);
    job->replayed = true;
    job->wallet_status = (int)gf_sql_i64(result, 3);
    gf_sql_result_free(&result);
    return class;
}

/* Thread: database. */
static enum gf_class run_adjust(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_error error;
    enum gf_class class = insert_credit(job, sql, &error);

    if (class == GF_REJECT && gf_sql_is_duplicate(&error))
        return read_credit(job, sql, error_r);
    if (class != GF_OK)
        *error_r = error;
    return class;
}

static void answer_adjustment(struct gf_admin_job *job)
{
    gf_buf_adds(&job->body, "{\"request_id\":\"");
    gf_buf_add_uuid(&job->body, &job->credit_id);
    gf_buf_adds(&job->body, "\",\"status\":\"accepted\"}");
    job->status = 202;
    gf_admin_answer(job, job->replayed ? "Idempotency-Replayed: true\r\n" : NULL);
}

static void refuse_adjustment(struct gf_admin_job *job)
{
    gf_unavailable_respond(job->req,
                           "the log does not answer; the adjustment is recorded and will be made; retry with this key",
                           &job->credit_id);
    gf_admin_forget(job);
}

static void on_ack(struct gf_produced *produced, enum gf_kafka_ack ack)
{
    struct gf_admin_job *job = (struct gf_admin_job *)((char *)produced - offsetof(struct gf_admin_job, produced));

    if (ack == GF_KAFKA_PERSISTED)
        answer_adjustment(job);
    else
        refuse_adjustment(job);
}

static void on_credit_written(struct gf_admin_job *job)
{
    const struct gf_command command = {
        .kind = GF_KIND_ADJUST, .request_id = job->credit_id, .user_id = job->id, .ts_ms = job->now_ms};
    struct gf_slice traceparent = gf_http_header(job->req, "traceparent", NULL);

    if (job->replayed && job->wallet_status != 1) { /* credited or refused: nothing to produce */
        answer_adjustment(job);
        return;
    }
    job->produced.on_ack = on_ack;
    if (gf_ingest_produce(job->ingest, &command, traceparent, &job->produced) != GF_OK)
        refuse_adjustment(job);
}

void gf_admin_adjustment_post(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);
    const struct gf_json_field fields[] = {
        {"user_id", GF_JSON_I64, true, 1, GF_ID_MAX, &job->id, NULL, NULL},
        {"coins", GF_JSON_I64, true, -GF_ID_MAX, GF_ID_MAX, &job->coins, NULL, NULL},
        {"reason", GF_JSON_TEXT, true, 1, sizeof(job->reason) - 1, NULL, job->reason, NULL},
    };
    struct gf_slice body = gf_http_body(call->req);
    struct gf_error error;
    bool keyless;

    if (gf_json_read(body.ptr, body.len, fields, GF_COUNT(fields), &error) != GF_OK) {
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, error.text);
        return;
    }
    if (job->coins == 0) {
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "coins must not be 0");
        return;
    }
    if (!gf_request_key(call->req, &job->key, &keyless)) { /* answered */
        gf_admin_forget(job);
        return;
    }
    if (keyless) { /* money is not adjusted twice because somebody pressed a button twice */
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "an adjustment needs an Idempotency-Key");
        return;
    }
    job->credit_id = gf_uuid_v8();
    job->done_so_far = "the database does not answer: it may be recorded, or not; retry with this key";
    job->on_ok = on_credit_written;
    gf_admin_submit(job, run_adjust);
}

void gf_admin_request_get(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);
    int64_t user_id;

    if (!gf_admin_id(job, call->param[0], GF_ID_MAX, &user_id))
        return;
    gf_admin_forget(job);
    gf_query_request_of(call, user_id, call->param[1]);
}
