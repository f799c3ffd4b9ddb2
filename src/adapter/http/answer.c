/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes out: the head and body of an answer in one buffer, written at once where the socket takes it. What it does not
 * take is copied and waits; at most one answer per connection is unsent, because the next request waits for it, and
 * UNSENT_MAX of all of them: who would get a long one beyond that is told to come again, a short one that the socket does not
 * take is cut, and before it comes to that those who read slowly are. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gf/clock.h"
#include "gf/metrics.h"
#include "internal.h"

#define UNSENT_MAX (64u << 20) /* bytes: clients that ask for long answers and read none must not take all memory */
#define LONG_BYTES 16384 /* an answer that a socket may not take at once */
#define SLOW_MS 1000 /* gf_http_opts.slow_timeout_ms */

struct pending {
    uv_write_t write;
    struct conn *conn;
    size_t len;
    char bytes[];
};

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };

    for (size_t i = 0; i < GF_COUNT(table); i++)
        if (table[i].status == status)
            return table[i].text;
    return "Status";
}

static const char *date_of(struct gf_http_server *server)
{
    int64_t now_s = gf_clock_real_ms() / 1000;
    time_t seconds = (time_t)now_s;
    struct tm tm;

    if (now_s != server->date_s && gmtime_r(&seconds, &tm) != NULL) {
        GF_ASSERT(strftime(server->date, sizeof(server->date), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm) > 0);
        server->date_s = now_s;
    }
    return server->date;
}

static void build(struct conn *conn, const struct gf_http_answer *answer)
{
    struct gf_buf *out = &conn->server->out;

    gf_buf_reset(out);
    gf_buf_adds(out, "HTTP/1.1 ");
    gf_buf_add_i64(out, answer->status);
    gf_buf_addc(out, ' ');
    gf_buf_adds(out, reason(answer->status));
    gf_buf_adds(out, "\r\n");
    gf_buf_adds(out, date_of(conn->server));
    if (answer->content_type != NULL) {
        gf_buf_adds(out, "Content-Type: ");
        gf_buf_adds(out, answer->content_type);
        gf_buf_adds(out, "\r\n");
    }
    if (answer->status != 204) {
        gf_buf_adds(out, "Content-Length: ");
        gf_buf_add_i64(out, (int64_t)answer->body_len);
        gf_buf_adds(out, "\r\n");
    }
    if (answer->headers != NULL)
        gf_buf_adds(out, answer->headers);
    cors_headers(conn, out);
    if (conn->close_after)
        gf_buf_adds(out, "Connection: close\r\n");
    else if (conn->parser.ll.http_minor == 0)
        gf_buf_adds(out, "Connection: keep-alive\r\n");
    gf_buf_adds(out, "\r\n");
    if (!conn->parser.head_only && answer->status != 204)
        gf_buf_add(out, answer->body, answer->body_len);
    GF_ASSERT(gf_buf_ok(out));
}

void conn_cut(const struct conn *conn)
{
    if (conn->server->opts.count_metrics)
        gf_metric_add(GF_M_HTTP_CUT, 1);
}

static void on_written(uv_write_t *write, int status)
{
    struct pending *pending = (struct pending *)write;
    struct conn *conn = pending->conn;

    conn->server->unsent -= pending->len;
    free(pending);
    if (conn->state == CONN_CLOSED)
        return;
    if (status != 0) {
        conn->gone = true;
        conn_close(conn);
        return;
    }
    conn_written(conn);
}

/* Where much waits for slow readers they have less time: else a few of them could keep all others from their answers. */
int64_t conn_deadline(const struct conn *conn)
{
    const struct gf_http_opts *opts = &conn->server->opts;
    int64_t slow_ms = opts->slow_timeout_ms != 0 ? opts->slow_timeout_ms : SLOW_MS;

    if (conn->state == CONN_WRITING && conn->server->unsent > UNSENT_MAX / 2 && opts->idle_timeout_ms > slow_ms)
        return conn->deadline_ms - opts->idle_timeout_ms + slow_ms;
    return conn->deadline_ms;
}

static void write_later(struct conn *conn, const char *bytes, size_t len)
{
    struct gf_http_server *server = conn->server;
    struct pending *pending;
    uv_buf_t buf;

    if (len > UNSENT_MAX - server->unsent) {
        conn_cut(conn);
        conn_close(conn);
        return;
    }
    pending = gf_xmalloc(sizeof(*pending) + len);
    pending->conn = conn;
    pending->len = len;
    memcpy(pending->bytes, bytes, len);
    buf = uv_buf_init(pending->bytes, (unsigned)len);
    conn_arm(conn, CONN_WRITING, server->opts.idle_timeout_ms);
    if (uv_write(&pending->write, (uv_stream_t *)conn->tcp, &buf, 1, on_written) == 0) {
        server->unsent += len;
        return;
    }
    free(pending);
    conn->gone = true;
    conn_close(conn);
}

static void count(struct conn *conn, int status)
{
    if (!conn->server->opts.count_metrics)
        return;
    gf_metric_add(status >= 500 ? GF_M_HTTP_5XX : status >= 400 ? GF_M_HTTP_4XX : GF_M_HTTP_2XX, 1);
    if (conn->req.received_us != 0) /* not for what never became a request */
        gf_histogram_observe_us(GF_H_HTTP_SECONDS, gf_clock_mono_us() - conn->req.received_us);
}

static bool has_room(const struct conn *conn, const struct gf_http_answer *answer)
{
    return answer->body_len <= LONG_BYTES || conn->parser.head_only ||
           answer->body_len <= UNSENT_MAX - conn->server->unsent;
}

void conn_send(struct conn *conn, const struct gf_http_answer *answer)
{
    struct gf_buf *out = &conn->server->out;
    uv_buf_t buf;
    int sent;

    if (!has_room(conn, answer)) { /* once a part of it has left there is no other status */
        conn_send_problem(conn, &(struct gf_http_problem){.status = 503,
                                                          .code = "unavailable",
                                                          .detail = "too many answers wait to be read; try again",
                                                          .headers = "Retry-After: 1\r\n",
                                                          .close = answer->close});
        return;
    }
    if (answer->close || !conn->parser.keep_alive || conn->server->draining ||
        (conn->eof && conn->start + conn->parsed == conn->len))
        conn->close_after = true;
    count(conn, answer->status);
    build(conn, answer);
    buf = uv_buf_init(out->data, (unsigned)out->len);
    sent = uv_try_write((uv_stream_t *)conn->tcp, &buf, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
        conn->gone = true;
        conn_close(conn);
        return;
    }
    sent = sent < 0 ? 0 : sent;
    if ((size_t)sent == out->len)
        conn_written(conn);
    else
        write_later(conn, out->data + sent, out->len - (size_t)sent);
}

void conn_send_problem(struct conn *conn, const struct gf_http_problem *problem)
{
    const struct gf_uuid *id = problem->request_id;
    struct gf_http_answer answer = {
        .status = problem->status,
        .content_type = "application/problem+json",
        .headers = problem->headers,
        .close = problem->close,
    };
    struct gf_buf body;

    if (id == NULL && !conn->req.has_id) { /* so that people can name what they saw */
        conn->req.id = gf_uuid_v7();
        conn->req.has_id = true;
    }
    if (id == NULL)
        id = &conn->req.id;
    gf_buf_init(&body, 65536);
    gf_buf_addf(&body, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":", reason(problem->status),
                problem->status);
    gf_buf_add_json(&body, problem->detail, strlen(problem->detail));
    gf_buf_addf(&body, ",\"code\":\"%s\"", problem->code);
    gf_buf_adds(&body, ",\"request_id\":\"");
    gf_buf_add_uuid(&body, id);
    gf_buf_adds(&body, "\"}");
    GF_ASSERT(gf_buf_ok(&body));
    answer.body = body.data;
    answer.body_len = body.len;
    conn_send(conn, &answer);
    gf_buf_free(&body);
}

/* Informal: when the socket does not even take this, the client waits its moment and sends the body anyhow. */
void conn_send_continue(struct conn *conn)
{
    static char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    uv_buf_t buf = uv_buf_init(text, sizeof(text) - 1);
    int sent = uv_try_write((uv_stream_t *)conn->tcp, &buf, 1);

    conn->continued = true;
    if (sent != (int)buf.len && sent != UV_EAGAIN) { /* half of it would garble our answer */
        conn->gone = true;
        conn_close(conn);
    }
}
