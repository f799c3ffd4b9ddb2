/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the HTTP server: accept, read, parse, hand out, time out, close.
 * Reading goes on while a request is in flight (so a client that left is noticed and no system call is spent on
 * stopping), but only into the room that the buffer has; the buffer never moves under a request. One sweep looks at the
 * deadlines of all connections, there is no timer per connection. Thread: the loop's. Failures of one connection close
 * that one. */
#include <stdlib.h>
#include <strings.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "internal.h"

#define BUF_FIRST 2048  /* most requests fit */
#define BUF_ROOM 512    /* grow when less is left */
#define CHUNK_ROOM 4096 /* framing of a chunked body on top of both limits */
#define LINGER_MS 1000
#define SWEEP_MAX_MS 250
#define REFUSED_MAX 64 /* connections over the cap that may stay long enough to read their 503 */
#define BACKLOG 4096

static void process(struct conn *conn);

static void free_server_if_done(struct gf_http_server *server)
{
    if (!server->closing || server->handles > 0)
        return;
    gf_buf_free(&server->out);
    free(server);
}

static void free_conn(struct conn *conn)
{
    if (conn->req.on_free != NULL)
        conn->req.on_free(conn->req.user);
    free(conn->buf);
    free(conn);
}

static void unlink_conn(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        server->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    conn->prev = conn->next = NULL;
    server->conn_count--;
    if (server->opts.count_metrics)
        gf_metric_set(GF_M_HTTP_CONNECTIONS, server->conn_count);
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;
    struct gf_http_server *server = conn->server;

    free(handle);
    conn->tcp = NULL;
    if (conn->req.held)
        return; /* the handler's answer frees both */
    free_conn(conn);
    server->handles--;
    free_server_if_done(server);
}

void conn_close(struct conn *conn)
{
    if (conn->state == CONN_CLOSED)
        return;
    conn->state = CONN_CLOSED;
    unlink_conn(conn);
    uv_close((uv_handle_t *)conn->tcp, on_closed);
}

void conn_arm(struct conn *conn, enum conn_state state, int64_t timeout_ms)
{
    conn->state = state;
    conn->deadline_ms = (int64_t)uv_now(conn->server->uv) + timeout_ms;
}

/* The server's own answer to input that ends the connection. */
static void refuse(struct conn *conn, int status, const char *code, const char *detail)
{
    const struct gf_http_problem problem = {
        .status = status,
        .code = code,
        .detail = detail,
        .headers = status == 503 ? "Retry-After: 1\r\n" : NULL,
        .close = true,
    };

    conn_send_problem(conn, &problem);
}

/* ---- reading ---- */

static size_t buf_max(const struct gf_http_server *server)
{
    return server->opts.header_max + server->opts.body_max + CHUNK_ROOM;
}

/* Makes room for the next read; the buffer stays where it is while a request points into it. */
static void make_room(struct conn *conn)
{
    size_t max = buf_max(conn->server), cap = conn->cap;

    if (conn->req.held)
        return;
    if (conn->start > 0) {
        memmove(conn->buf, conn->buf + conn->start, conn->len - conn->start);
        conn->len -= conn->start;
        conn->start = 0;
    }
    if (conn->cap - conn->len >= BUF_ROOM || conn->cap == max)
        return;
    cap = cap == 0 ? BUF_FIRST : cap * 2;
    conn->cap = cap < max ? cap : max;
    conn->buf = gf_xrealloc(conn->buf, conn->cap);
}

/* What make_room can make: a request that was answered leaves its place. */
static bool has_room(const struct conn *conn)
{
    return conn->req.held ? conn->len < conn->cap : conn->len - conn->start < buf_max(conn->server);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf_r)
{
    struct conn *conn = handle->data;

    (void)suggested;
    if (conn->state == CONN_LINGER) {
        *buf_r = uv_buf_init(conn->server->scratch, sizeof(conn->server->scratch));
        return;
    }
    make_room(conn);
    *buf_r = uv_buf_init(conn->buf + conn->len, (unsigned)(conn->cap - conn->len));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf);

static void set_reading(struct conn *conn, bool reading)
{
    if (conn->state == CONN_CLOSED || conn->eof || conn->reading == reading)
        return;
    conn->reading = reading;
    if (reading)
        GF_ASSERT(uv_read_start((uv_stream_t *)conn->tcp, on_alloc, on_read) == 0);
    else
        (void)uv_read_stop((uv_stream_t *)conn->tcp);
}

/* The client sends no more. It may still read: a request in flight is answered, half a request is not. */
static void on_eof(struct conn *conn)
{
    set_reading(conn, false);
    conn->eof = true;
    if (conn->state == CONN_FLIGHT || conn->state == CONN_WRITING)
        return;
    conn_close(conn);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct conn *conn = stream->data;

    (void)buf;
    if (got == 0)
        return;
    if (got == UV_EOF) {
        on_eof(conn);
        return;
    }
    if (got < 0) {
        conn->gone = true;
        conn_close(conn);
        return;
    }
    if (conn->state == CONN_LINGER)
        return;
    conn->len += (size_t)got;
    if (conn->state == CONN_IDLE)
        conn_arm(conn, CONN_HEAD, conn->server->opts.header_timeout_ms);
    process(conn);
}

/* ---- requests ---- */

static void begin_request(struct conn *conn)
{
    conn->req = (struct gf_http_req){.conn = conn};
    conn->parsed = 0;
    conn->continued = false;
    http_parser_begin(&conn->parser);
}

static void upgrade(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    if (!server->on_upgrade(&conn->req, server->ctx) && conn->state == CONN_FLIGHT && !conn->taken)
        server->on_request(&conn->req, server->ctx);
}

static void dispatch(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    conn->req.held = true;
    conn->req.received_us = gf_clock_mono_us();
    conn_arm(conn, CONN_FLIGHT, server->opts.request_timeout_ms);
    server->in_flight++;
    if (server->opts.count_metrics)
        gf_metric_set(GF_M_HTTP_IN_FLIGHT, server->in_flight);
    if (conn->parser.upgrade && server->on_upgrade != NULL)
        upgrade(conn);
    else if (!cors_preflight(conn))
        server->on_request(&conn->req, server->ctx);
}

/* The request has left the handler's hands. */
static void release(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    conn->req.held = false;
    server->in_flight--;
    if (server->opts.count_metrics)
        gf_metric_set(GF_M_HTTP_IN_FLIGHT, server->in_flight);
}

static void free_taken(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    release(conn);
    unlink_conn(conn);
    free_conn(conn);
    server->handles--;
    free_server_if_done(server);
}

/* One step of the parser; true when the next request may be looked at. */
static bool step(struct conn *conn)
{
    size_t len = conn->len - conn->start;
    enum http_step result = http_parse(&conn->parser, conn->buf + conn->start, &len, &conn->parsed);

    conn->len = conn->start + len;
    if (result == HTTP_BAD) {
        conn_cut(conn);
        refuse(conn, conn->parser.status, conn->parser.code, conn->parser.detail);
        return false;
    }
    if (result == HTTP_COMPLETE) {
        dispatch(conn);
        return !conn->taken && (conn->state == CONN_IDLE || conn->state == CONN_HEAD);
    }
    if (conn->parser.state == IN_BODY && conn->state == CONN_HEAD)
        conn_arm(conn, CONN_BODY, conn->server->opts.body_timeout_ms);
    if (conn->parser.expect_continue && !conn->continued && conn->parser.state == IN_BODY)
        conn_send_continue(conn);
    return false;
}

static void process(struct conn *conn)
{
    if (conn->processing)
        return; /* answered inside its own handler: the loop below goes on */
    conn->processing = true;
    while ((conn->state == CONN_HEAD || conn->state == CONN_BODY) && conn->start + conn->parsed < conn->len)
        if (!step(conn))
            break;
    conn->processing = false;
    if (conn->taken) {
        free_taken(conn);
        return;
    }
    if (conn->eof && (conn->state == CONN_HEAD || conn->state == CONN_BODY || conn->state == CONN_IDLE))
        conn_close(conn);
    if (conn->state != CONN_CLOSED) /* the socket's buffer is the client's brake, once ours is full */
        set_reading(conn, has_room(conn));
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    (void)status; /* what matters is the end of the linger time */
    free(request);
}

static void linger(struct conn *conn)
{
    uv_shutdown_t *request;

    if (conn->eof) {
        conn_close(conn);
        return;
    }
    request = gf_xmalloc(sizeof(*request));
    conn_arm(conn, CONN_LINGER, LINGER_MS);
    set_reading(conn, true);
    if (uv_shutdown(request, (uv_stream_t *)conn->tcp, on_shutdown) == 0)
        return;
    free(request);
    conn_close(conn);
}

void conn_written(struct conn *conn)
{
    struct gf_http_server *server = conn->server;

    if (conn->close_after) {
        linger(conn);
        return;
    }
    GF_ASSERT(!conn->req.held);
    conn->start += conn->parsed;
    begin_request(conn);
    if (conn->start == conn->len) {
        conn->start = conn->len = 0;
        conn_arm(conn, CONN_IDLE, server->opts.idle_timeout_ms);
        if (server->draining)
            conn_close(conn);
    } else {
        conn_arm(conn, CONN_HEAD, server->opts.header_timeout_ms);
    }
    process(conn);
}

/* ---- deadlines ---- */

static void expire(struct conn *conn)
{
    switch (conn->state) {
    case CONN_HEAD:
    case CONN_BODY:
        conn_cut(conn);
        refuse(conn, 408, "request_timeout", "the request did not arrive in time");
        break;
    case CONN_FLIGHT: /* the handler still holds the request; its answer will be dropped */
        conn->req.answered = true;
        refuse(conn, 503, "unavailable", "no answer in time; retry with this key");
        break;
    case CONN_WRITING:
        conn_cut(conn);
        conn_close(conn);
        break;
    case CONN_IDLE:
    case CONN_LINGER:
        conn_close(conn);
        break;
    case CONN_CLOSED:
        break;
    }
}

static int64_t sweep_ms(const struct gf_http_opts *opts)
{
    int64_t ms = SWEEP_MAX_MS;
    const int64_t timeouts[] = {opts->header_timeout_ms, opts->body_timeout_ms, opts->idle_timeout_ms,
                                opts->request_timeout_ms};

    for (size_t i = 0; i < GF_COUNT(timeouts); i++)
        if (timeouts[i] / 4 < ms)
            ms = timeouts[i] / 4;
    return ms < 10 ? 10 : ms;
}

static void on_sweep(void *ctx)
{
    struct gf_http_server *server = ctx;
    int64_t now_ms = (int64_t)uv_now(server->uv);
    bool stalled = now_ms - server->swept_ms > 2 * sweep_ms(&server->opts) && !server->spared;
    struct conn *next;

    server->swept_ms = now_ms;
    server->spared = stalled; /* what came while we did not look is read first; but only once, or who is slow had no deadline */
    for (struct conn *conn = stalled ? NULL : server->conns; conn != NULL; conn = next) {
        next = conn->next;
        if (conn_deadline(conn) <= now_ms)
            expire(conn);
    }
}

/* ---- accepting ---- */

static void link_conn(struct gf_http_server *server, struct conn *conn)
{
    conn->next = server->conns;
    if (conn->next != NULL)
        conn->next->prev = conn;
    server->conns = conn;
    server->conn_count++;
    if (server->opts.count_metrics)
        gf_metric_set(GF_M_HTTP_CONNECTIONS, server->conn_count);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct gf_http_server *server = listener->data;
    int64_t first_ms = server->opts.header_timeout_ms;
    struct conn *conn;

    if (status != 0) {
        gf_log(GF_WARN, "accept_failed", "error=%s", uv_err_name(status));
        return;
    }
    conn = gf_xcalloc(1, sizeof(*conn));
    conn->server = server;
    conn->parser.header_max = server->opts.header_max;
    conn->parser.body_max = server->opts.body_max;
    conn->tcp = gf_xmalloc(sizeof(*conn->tcp));
    GF_ASSERT(uv_tcp_init(server->uv, conn->tcp) == 0);
    conn->tcp->data = conn;
    server->handles++;
    link_conn(server, conn);
    begin_request(conn);
    conn_arm(conn, CONN_IDLE, first_ms < server->opts.idle_timeout_ms ? first_ms : server->opts.idle_timeout_ms);
    if (uv_accept(listener, (uv_stream_t *)conn->tcp) != 0 ||
        server->conn_count > server->opts.connections_max + REFUSED_MAX) {
        conn_close(conn);
        return;
    }
    (void)uv_tcp_nodelay(conn->tcp, 1); /* only latency depends on it */
    if (server->conn_count > server->opts.connections_max)
        refuse(conn, 503, "unavailable", "too many connections");
    else
        set_reading(conn, true);
}

static enum gf_class bind_and_listen(struct gf_http_server *server, struct gf_error *error_r)
{
    struct sockaddr_storage address = {0};
    int len = sizeof(address), status;

    status = uv_ip4_addr(server->opts.bind, server->opts.port, (struct sockaddr_in *)&address);
    if (status != 0)
        status = uv_ip6_addr(server->opts.bind, server->opts.port, (struct sockaddr_in6 *)&address);
    if (status != 0)
        return gf_fail(error_r, GF_REJECT, status, "'%s' is not a numeric address", server->opts.bind);
    status = uv_tcp_bind(&server->listener, (struct sockaddr *)&address, 0); /* sets SO_REUSEADDR */
    if (status == 0)
        status = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    if (status == 0)
        status = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &len);
    if (status != 0)
        return gf_fail(error_r, GF_FATAL, status, "cannot listen on %s:%d: %s", server->opts.bind, server->opts.port,
                       uv_strerror(status));
    server->port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                                      : ((struct sockaddr_in6 *)&address)->sin6_port);
    return GF_OK;
}

enum gf_class gf_http_server_create(struct gf_loop *loop, const struct gf_http_opts *opts,
                                    gf_http_handler_fn on_request, void *ctx, struct gf_http_server **server_r,
                                    struct gf_error *error_r)
{
    struct gf_http_server *server = gf_xcalloc(1, sizeof(*server));
    enum gf_class class;

    GF_ASSERT(opts->connections_max > 0 && opts->header_max > 0 && opts->header_max + opts->body_max < (1u << 30));
    server->loop = loop;
    server->uv = gf_loop_native(loop);
    server->opts = *opts;
    server->on_request = on_request;
    server->ctx = ctx;
    gf_buf_init(&server->out, (16u << 20) + 65536);
    GF_ASSERT(uv_tcp_init(server->uv, &server->listener) == 0);
    server->listener.data = server;
    server->handles = 1;
    class = bind_and_listen(server, error_r);
    if (class != GF_OK) {
        gf_http_server_close(&server);
        return class;
    }
    server->opts.bind = NULL; /* the caller's, not needed any more */
    server->sweep = gf_timer_start(loop, sweep_ms(opts), sweep_ms(opts), on_sweep, server);
    *server_r = server;
    return GF_OK;
}

void gf_http_server_on_upgrade(struct gf_http_server *server, gf_http_upgrade_fn on_upgrade)
{
    server->on_upgrade = on_upgrade;
}

void gf_http_server_limit(struct gf_http_server *server, int connections_max)
{
    GF_ASSERT(connections_max > 0);
    server->opts.connections_max = connections_max;
}

int gf_http_server_port(const struct gf_http_server *server) { return server->port; }

int gf_http_server_in_flight(const struct gf_http_server *server)
{
    int count = server->in_flight;

    for (const struct conn *conn = server->conns; conn != NULL; conn = conn->next)
        if (!conn->req.held)
            count += conn->state == CONN_HEAD || conn->state == CONN_BODY || conn->state == CONN_WRITING;
    return count;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct gf_http_server *server = handle->data;

    server->handles--;
    free_server_if_done(server);
}

static void stop_listening(struct gf_http_server *server)
{
    if (!uv_is_closing((uv_handle_t *)&server->listener))
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
}

void gf_http_server_drain(struct gf_http_server *server)
{
    struct conn *next;

    server->draining = true;
    stop_listening(server);
    for (struct conn *conn = server->conns; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->state == CONN_IDLE)
            conn_close(conn);
    }
}

void gf_http_server_close(struct gf_http_server **server)
{
    struct gf_http_server *s = *server;

    if (s == NULL)
        return;
    s->closing = true;
    gf_timer_close(&s->sweep);
    stop_listening(s);
    while (s->conns != NULL)
        conn_close(s->conns);
    *server = NULL;         /* freed by the last close callback, */
    free_server_if_done(s); /* or here, when a drain has seen them all */
}

/* ---- the handler's side ---- */

enum gf_http_method gf_http_method(const struct gf_http_req *req)
{
    return req->conn->parser.method;
}

static const char *base(const struct gf_http_req *req)
{
    return req->conn->buf + req->conn->start;
}

static struct gf_slice target(const struct gf_http_req *req)
{
    return (struct gf_slice){base(req) + req->conn->parser.target_off, req->conn->parser.target_len};
}

struct gf_slice gf_http_path(const struct gf_http_req *req)
{
    struct gf_slice path = target(req);
    const char *query = memchr(path.ptr, '?', path.len);

    if (query != NULL)
        path.len = (size_t)(query - path.ptr);
    return path;
}

struct gf_slice gf_http_body(const struct gf_http_req *req)
{
    return (struct gf_slice){base(req) + req->conn->parser.body_off, req->conn->parser.body_len};
}

struct gf_slice gf_http_header(const struct gf_http_req *req, const char *name, int *count_r)
{
    const struct http_parser *parser = &req->conn->parser;
    struct gf_slice found = {NULL, 0};
    size_t len = strlen(name);
    int count = 0;

    for (int i = 0; i < parser->header_count; i++) {
        const struct http_header *header = &parser->headers[i];

        if (header->name_len != len || strncasecmp(base(req) + header->name_off, name, len) != 0)
            continue;
        if (count++ == 0)
            found = (struct gf_slice){base(req) + header->value_off, header->value_len};
    }
    if (count_r != NULL)
        *count_r = count;
    return found;
}

struct gf_slice gf_http_query(const struct gf_http_req *req, const char *name)
{
    struct gf_slice path = gf_http_path(req), all = target(req);
    size_t len = strlen(name);
    const char *at = path.ptr + path.len, *end = all.ptr + all.len;

    while (at < end) {
        const char *field = at + 1, *stop = memchr(field, '&', (size_t)(end - field));

        stop = stop == NULL ? end : stop;
        if ((size_t)(stop - field) > len && memcmp(field, name, len) == 0 && field[len] == '=')
            return (struct gf_slice){field + len + 1, (size_t)(stop - field) - len - 1};
        at = stop;
    }
    return (struct gf_slice){NULL, 0};
}

int64_t gf_http_received_us(const struct gf_http_req *req)
{
    return req->received_us;
}

void gf_http_set_user(struct gf_http_req *req, void *user, gf_loop_fn on_free)
{
    req->user = user;
    req->on_free = on_free;
}

void *gf_http_user(const struct gf_http_req *req)
{
    return req->user;
}

void gf_http_set_request_id(struct gf_http_req *req, const struct gf_uuid *id)
{
    req->id = *id;
    req->has_id = true;
}

bool gf_http_client_gone(const struct gf_http_req *req)
{
    return req->conn->gone || req->answered;
}

/* Ends the handler's part. True: the answer can still be sent. */
static bool finish(struct gf_http_req *req)
{
    struct conn *conn = req->conn;
    gf_loop_fn on_free = req->on_free;
    struct gf_http_server *server = conn->server;
    bool live = conn->state == CONN_FLIGHT && !req->answered;

    GF_ASSERT(req->held && !conn->taken);
    req->answered = true;
    req->on_free = NULL;
    release(conn);
    if (on_free != NULL)
        on_free(req->user);
    if (conn->tcp == NULL) { /* the socket's end came first; nothing else knows this memory */
        free_conn(conn);
        server->handles--;
        free_server_if_done(server);
    }
    return live;
}

void gf_http_respond(struct gf_http_req *req, const struct gf_http_answer *answer)
{
    struct conn *conn = req->conn;

    if (finish(req))
        conn_send(conn, answer);
}

void gf_http_respond_problem(struct gf_http_req *req, const struct gf_http_problem *problem)
{
    struct conn *conn = req->conn;

    if (finish(req))
        conn_send_problem(conn, problem);
}

void *gf_http_take(struct gf_http_req *req, struct gf_slice *rest_r)
{
    struct conn *conn = req->conn;
    uv_tcp_t *tcp = conn->tcp;

    GF_ASSERT(conn->processing && conn->state == CONN_FLIGHT && !req->answered);
    set_reading(conn, false);
    conn->tcp = NULL;
    conn->taken = true;
    tcp->data = NULL;
    *rest_r = (struct gf_slice){conn->buf + conn->start + conn->parsed, conn->len - conn->start - conn->parsed};
    return tcp;
}
