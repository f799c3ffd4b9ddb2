/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of the public and the admin API; see ingest.h. */
#include <inttypes.h>
#include <stdio.h>

#include "ingest.h"

static const struct {
    int status;
    const char *code, *title;
} problems[GF_PROBLEM_COUNT] = {
#define ROW(id, status, code, title) [GF_PROBLEM_##id] = {status, code, title},
    GF_PROBLEM_MAP(ROW)
#undef ROW
};

void gf_problem_respond(struct gf_http_req *req, enum gf_problem problem, const struct gf_problem_opts *opts)
{
    static const struct gf_problem_opts none = {0};
    char headers[128] = "";
    int64_t retry_after_s;
    int status;

    GF_ASSERT(problem < GF_PROBLEM_COUNT);
    if (!opts)
        opts = &none;
    status = problems[problem].status;
    retry_after_s = opts->retry_after_s;
    if (retry_after_s == 0 && (status == 503 || status == 429))
        retry_after_s = 1;
    if (retry_after_s > 0)
        snprintf(headers, sizeof(headers), "Retry-After: %" PRId64 "\r\n", retry_after_s);
    else if (status == 401)
        snprintf(headers, sizeof(headers), "WWW-Authenticate: Bearer\r\n");
    gf_http_respond_problem(req, &(struct gf_http_problem){
                                     .status = status,
                                     .code = problems[problem].code,
                                     .detail = opts->detail ? opts->detail : problems[problem].title,
                                     .request_id = opts->request_id,
                                     .headers = headers[0] ? headers : NULL,
                                 });
}

void gf_json_respond(struct gf_http_req *req, int status, const char *headers, const struct gf_buf *body)
{
    GF_ASSERT(gf_buf_ok(body) && body->len > 0);
    gf_http_respond(req, &(struct gf_http_answer){
                             .status = status,
                             .content_type = "application/json",
                             .headers = headers,
                             .body = body->data,
                             .body_len = body->len,
                         });
}

void gf_unavailable_respond(struct gf_http_req *req, const char *detail, const struct gf_uuid *request_id)
{
    gf_problem_respond(req, GF_PROBLEM_UNAVAILABLE,
                       &(struct gf_problem_opts){.detail = detail, .request_id = request_id});
}
