/* SPDX-License-Identifier: Apache-2.0 */
/* The operations port: three read-only paths. Owns its HTTP server. Thread: the loop's. */
#include <stdlib.h>

#include "gf/http.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/ops.h"

#define METRICS_MAX (1u << 20)
#define REASON_MAX 1024

struct gf_ops {
    struct gf_http_server *server;
    const char *role;
    gf_ops_ready_fn on_ready;
    void *ctx;
    bool draining;
    struct gf_buf out;
};

static void answer_text(struct gf_http_req *req, int status, const char *type, const struct gf_buf *body)
{
    const struct gf_http_answer answer = {
        .status = status, .content_type = type, .body = body->data, .body_len = body->len};

    gf_http_respond(req, &answer);
}

static void answer_ready(struct gf_ops *ops, struct gf_http_req *req)
{
    struct gf_buf reason;
    bool ready = false;

    gf_buf_init(&reason, REASON_MAX);
    if (ops->draining)
        gf_buf_adds(&reason, "draining");
    else
        ready = ops->on_ready == NULL || ops->on_ready(ops->ctx, &reason);
    gf_buf_reset(&ops->out);
    if (ready)
        gf_buf_adds(&ops->out, "ready");
    else
        gf_buf_add(&ops->out, reason.data, reason.len);
    gf_buf_addc(&ops->out, '\n');
    answer_text(req, ready ? 200 : 503, "text/plain; charset=utf-8", &ops->out);
    gf_buf_free(&reason);
}

static void on_request(struct gf_http_req *req, void *ctx)
{
    static const struct gf_http_problem not_found = {.status = 404, .code = "not_found", .detail = "no such path"};
    static const struct gf_http_problem not_allowed = {
        .status = 405, .code = "method_not_allowed", .detail = "only GET is served", .headers = "Allow: GET, HEAD\r\n"};
    struct gf_ops *ops = ctx;
    struct gf_slice path = gf_http_path(req);

    gf_buf_reset(&ops->out);
    if (gf_http_method(req) != GF_HTTP_GET) {
        gf_http_respond_problem(req, &not_allowed);
    } else if (gf_slice_is(path, "/healthz")) {
        gf_buf_adds(&ops->out, "ok\n");
        answer_text(req, 200, "text/plain; charset=utf-8", &ops->out);
    } else if (gf_slice_is(path, "/readyz")) {
        answer_ready(ops, req);
    } else if (gf_slice_is(path, "/metrics")) {
        gf_metrics_render(ops->role, &ops->out);
        answer_text(req, 200, "text/plain; version=0.0.4; charset=utf-8", &ops->out);
    } else {
        gf_http_respond_problem(req, &not_found);
    }
}

enum gf_class gf_ops_start(struct gf_loop *loop, const struct gf_config *config, const char *role,
                           gf_ops_ready_fn on_ready, void *ctx, struct gf_ops **ops_r, struct gf_error *error_r)
{
    const struct gf_http_opts opts = {
        .bind = config->ops_bind,
        .port = (int)config->ops_port,
        .header_max = 8192,
        .body_max = 1024,
        .connections_max = 64,
        .header_timeout_ms = 5000,
        .body_timeout_ms = 5000,
        .idle_timeout_ms = 60000, /* longer than a scrape interval */
        .request_timeout_ms = 5000,
    };
    struct gf_ops *ops = gf_xcalloc(1, sizeof(*ops));
    enum gf_class class;

    ops->role = role;
    ops->on_ready = on_ready;
    ops->ctx = ctx;
    gf_buf_init(&ops->out, METRICS_MAX);
    class = gf_http_server_create(loop, &opts, on_request, ops, &ops->server, error_r);
    if (class != GF_OK) {
        gf_ops_close(&ops);
        return class;
    }
    gf_log(GF_INFO, "ops_started", "address=%s:%d", config->ops_bind, gf_http_server_port(ops->server));
    *ops_r = ops;
    return GF_OK;
}

void gf_ops_draining(struct gf_ops *ops)
{
    ops->draining = true;
}

void gf_ops_close(struct gf_ops **ops)
{
    if (*ops == NULL)
        return;
    gf_http_server_close(&(*ops)->server);
    gf_buf_free(&(*ops)->out);
    free(*ops);
    *ops = NULL;
}
