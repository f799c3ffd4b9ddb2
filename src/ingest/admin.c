/* SPDX-License-Identifier: Apache-2.0 */
/* The admin API: its routes, and the life of a request that waits for a database job. Nothing here moves coins: an
 * adjustment is a `credit` row and a command, and settlement does the rest. */
#include "admin.h"

#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/num.h"

#define BODY_MAX (4u << 20)
#define RECORD_MAX (16u << 20)

const struct gf_route gf_admin_routes[] = {
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/gifts", .run = gf_admin_gift_post},
    {.method = GF_HTTP_GET, .pattern = "/admin/v1/gifts", .run = gf_admin_gift_list},
    {.method = GF_HTTP_GET, .pattern = "/admin/v1/gifts/{}", .run = gf_admin_gift_get},
    {.method = GF_HTTP_PUT, .pattern = "/admin/v1/gifts/{}", .run = gf_admin_gift_put},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/wallets", .run = gf_admin_wallet_post},
    {.method = GF_HTTP_GET, .pattern = "/admin/v1/wallets/{}", .run = gf_admin_wallet_get},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/wallets/{}/freeze", .run = gf_admin_wallet_freeze},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/wallets/{}/unfreeze", .run = gf_admin_wallet_unfreeze},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/adjustments", .run = gf_admin_adjustment_post},
    {.method = GF_HTTP_GET, .pattern = "/admin/v1/requests/{}/{}", .run = gf_admin_request_get},
    {.method = GF_HTTP_GET, .pattern = "/admin/v1/dead-letters", .run = gf_admin_dead_list},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/dead-letters/{}/{}/drop", .run = gf_admin_dead_drop},
    {.method = GF_HTTP_POST, .pattern = "/admin/v1/dead-letters/{}/{}/replay", .run = gf_admin_dead_replay},
    {.method = GF_HTTP_OTHER, .pattern = NULL, .run = NULL},
};

void gf_admin_forget(struct gf_admin_job *job)
{
    gf_buf_free(&job->body);
    gf_buf_free(&job->record);
    free(job->extra);
    free(job);
}

void gf_admin_refuse(struct gf_admin_job *job, enum gf_problem problem, const char *detail)
{
    gf_problem_respond(job->req, problem, &(struct gf_problem_opts){.detail = detail});
    gf_admin_forget(job);
}

void gf_admin_unavailable(struct gf_admin_job *job, const char *detail)
{
    gf_unavailable_respond(job->req, detail, NULL);
    gf_admin_forget(job);
}

void gf_admin_answer(struct gf_admin_job *job, const char *headers)
{
    if (!gf_buf_ok(&job->body)) {
        gf_admin_refuse(job, GF_PROBLEM_INTERNAL, "the answer is too large");
        return;
    }
    gf_json_respond(job->req, job->status, headers, &job->body);
    gf_admin_forget(job);
}

enum gf_class gf_admin_problem(struct gf_admin_job *job, enum gf_problem problem, const char *detail)
{
    job->refused = true;
    job->problem = problem;
    job->detail = detail;
    return GF_OK;
}

static void on_done(struct gf_job *base, enum gf_class class, const struct gf_error *error)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;

    if (class != GF_OK) {
        gf_log(class == GF_RETRY ? GF_WARN : GF_ERROR, "admin_request_failed", "class=%s error=\"%s\"",
               gf_class_name(class), error->text);
        if (class == GF_RETRY || class == GF_UNCERTAIN)
            gf_admin_unavailable(job, job->done_so_far ? job->done_so_far : "the database did not answer: it may or may not have happened");
        else
            gf_admin_refuse(job, GF_PROBLEM_INTERNAL, NULL);
    } else if (job->refused) {
        gf_admin_refuse(job, job->problem, job->detail);
    } else if (job->on_ok != NULL) {
        job->on_ok(job);
    } else {
        gf_admin_answer(job, NULL);
    }
}

struct gf_admin_job *gf_admin_create(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_xcalloc(1, sizeof(*job));

    job->ingest = call->ingest;
    job->req = call->req;
    job->status = 200;
    job->now_ms = gf_clock_real_ms();
    job->job.on_done = on_done;
    gf_buf_init(&job->body, BODY_MAX);
    gf_buf_init(&job->record, RECORD_MAX);
    return job;
}

void gf_admin_submit(struct gf_admin_job *job, gf_admin_run_fn run)
{
    job->job.run = run;
    if (gf_db_submit(job->ingest->db, &job->job) != GF_OK)
        gf_admin_unavailable(job, job->done_so_far ? job->done_so_far : "the database is away or too busy; nothing has happened");
}

bool gf_admin_id(struct gf_admin_job *job, struct gf_slice text, int64_t max, int64_t *id_r)
{
    if (gf_num_parse_i64(text.ptr, text.len, 0, max, id_r))
        return true;
    gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "an id in the path is not a number in range");
    return false;
}
