/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP client connection: connects when needed, one request at a time, one deadline over connect, send and answer.
 * A failure is status 0 and says nothing about what the server did. Thread: the loop's. The socket with its pending
 * libuv requests is an object of its own (struct link), so that a connection can be dropped at any moment. */
#include <llhttp.h>
#include <netdb.h>
#include <stdlib.h>
#include <uv.h>

#include "gf/buf.h"
#include "gf/http_client.h"

#define REPLY_MAX (16u << 20)

struct link {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct gf_http_conn *conn; /* NULL: dropped, about to close */
};

struct gf_http_conn {
    uv_loop_t *uv;
    struct sockaddr_storage address;
    bool resolved, connected, in_flight;
    int64_t timeout_ms;
    struct gf_timer *timer;
    struct link *link;
    struct gf_buf out, body;
    llhttp_t ll;
    gf_http_reply_fn on_reply;
    void *ctx;
};

static void on_link_closed(uv_handle_t *handle)
{
    free(handle);
}

static void drop_link(struct gf_http_conn *conn)
{
    if (conn->link == NULL)
        return;
    conn->link->conn = NULL;
    uv_close((uv_handle_t *)&conn->link->tcp, on_link_closed);
    conn->link = NULL;
    conn->connected = false;
}

static void reply(struct gf_http_conn *conn, int status)
{
    conn->in_flight = false;
    gf_timer_reset(conn->timer, INT32_MAX, 0);
    conn->on_reply(conn->ctx, conn, status, conn->body.data, status == 0 ? 0 : conn->body.len);
}

static void fail(struct gf_http_conn *conn)
{
    drop_link(conn);
    if (conn->in_flight)
        reply(conn, 0);
}

static void on_timeout(void *ctx)
{
    fail(ctx);
}

static int on_body(llhttp_t *ll, const char *at, size_t len)
{
    struct gf_http_conn *conn = ll->data;

    gf_buf_add(&conn->body, at, len);
    return gf_buf_ok(&conn->body) ? 0 : -1;
}

static int on_message_complete(llhttp_t *ll)
{
    (void)ll;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {.on_body = on_body, .on_message_complete = on_message_complete};

/* An answer is complete: bytes after it mean a server that lost count, and end the connection. */
static void complete(struct gf_http_conn *conn, const char *end)
{
    int status = conn->ll.status_code;
    bool keep = llhttp_should_keep_alive(&conn->ll) != 0 && llhttp_get_error_pos(&conn->ll) == end;

    if (!keep)
        drop_link(conn);
    reply(conn, status);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct gf_http_conn *conn = ((struct link *)stream)->conn;
    llhttp_errno_t error;
    const char *at = buf->base;

    if (conn == NULL || got == 0)
        return;
    if (got < 0 || !conn->in_flight) {
        fail(conn);
        return;
    }
    error = llhttp_execute(&conn->ll, at, (size_t)got);
    if (error == HPE_PAUSED && conn->ll.status_code == 100) { /* interim: the answer itself follows */
        at = llhttp_get_error_pos(&conn->ll);
        llhttp_init(&conn->ll, HTTP_RESPONSE, &settings);
        conn->ll.data = conn;
        error = llhttp_execute(&conn->ll, at, (size_t)(buf->base + got - at));
    }
    if (error == HPE_PAUSED)
        complete(conn, buf->base + got);
    else if (error != HPE_OK)
        fail(conn);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf_r)
{
    static _Thread_local char scratch[65536]; /* read, parsed and done with inside one callback */

    (void)handle;
    (void)suggested;
    *buf_r = uv_buf_init(scratch, sizeof(scratch));
}

static void on_written(uv_write_t *write, int status)
{
    struct link *link = write->data;

    if (status != 0 && link->conn != NULL)
        fail(link->conn);
}

static void send_request(struct gf_http_conn *conn)
{
    uv_stream_t *stream = (uv_stream_t *)&conn->link->tcp;
    uv_buf_t buf = uv_buf_init(conn->out.data, (unsigned)conn->out.len);
    int sent = uv_try_write(stream, &buf, 1);

    if (sent == (int)buf.len)
        return;
    if (sent < 0 && sent != UV_EAGAIN) {
        gf_timer_reset(conn->timer, 0, 0); /* fails in a turn of its own: the caller may be gf_http_conn_send */
        return;
    }
    sent = sent < 0 ? 0 : sent;
    buf = uv_buf_init(conn->out.data + sent, (unsigned)(conn->out.len - (size_t)sent));
    conn->link->write.data = conn->link;
    if (uv_write(&conn->link->write, stream, &buf, 1, on_written) != 0)
        gf_timer_reset(conn->timer, 0, 0);
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct link *link = connect->data;
    struct gf_http_conn *conn = link->conn;

    if (conn == NULL)
        return;
    if (status != 0 || uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_read) != 0) {
        fail(conn);
        return;
    }
    conn->connected = true;
    send_request(conn);
}

static void start_link(struct gf_http_conn *conn)
{
    struct link *link = gf_xcalloc(1, sizeof(*link));

    GF_ASSERT(uv_tcp_init(conn->uv, &link->tcp) == 0);
    link->conn = conn;
    link->connect.data = link;
    conn->link = link;
    (void)uv_tcp_nodelay(&link->tcp, 1);
    if (!conn->resolved ||
        uv_tcp_connect(&link->connect, &link->tcp, (const struct sockaddr *)&conn->address, on_connect) != 0)
        gf_timer_reset(conn->timer, 0, 0);
}

static bool resolve(struct gf_http_conn *conn, const char *host, int port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;

    if (uv_ip4_addr(host, port, (struct sockaddr_in *)&conn->address) == 0)
        return true;
    if (getaddrinfo(host, NULL, &hints, &found) != 0)
        return false;
    memcpy(&conn->address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    if (conn->address.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&conn->address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)&conn->address)->sin_port = htons((uint16_t)port);
    return true;
}

struct gf_http_conn *gf_http_conn_create(struct gf_loop *loop, const char *host, int port, int64_t timeout_ms)
{
    struct gf_http_conn *conn = gf_xcalloc(1, sizeof(*conn));

    conn->uv = gf_loop_native(loop);
    conn->resolved = resolve(conn, host, port);
    conn->timeout_ms = timeout_ms;
    conn->timer = gf_timer_start(loop, INT32_MAX, 0, on_timeout, conn);
    gf_buf_init(&conn->out, REPLY_MAX);
    gf_buf_init(&conn->body, REPLY_MAX);
    return conn;
}

void gf_http_conn_send(struct gf_http_conn *conn, const char *request, size_t len, gf_http_reply_fn on_reply, void *ctx)
{
    GF_ASSERT(!conn->in_flight);
    conn->in_flight = true;
    conn->on_reply = on_reply;
    conn->ctx = ctx;
    gf_buf_reset(&conn->out);
    gf_buf_add(&conn->out, request, len);
    GF_ASSERT(gf_buf_ok(&conn->out));
    gf_buf_reset(&conn->body);
    llhttp_init(&conn->ll, HTTP_RESPONSE, &settings);
    conn->ll.data = conn;
    gf_timer_reset(conn->timer, conn->timeout_ms, 0);
    if (conn->connected)
        send_request(conn);
    else
        start_link(conn);
}

void gf_http_conn_close(struct gf_http_conn **conn)
{
    if (*conn == NULL)
        return;
    drop_link(*conn);
    gf_timer_close(&(*conn)->timer);
    gf_buf_free(&(*conn)->out);
    gf_buf_free(&(*conn)->body);
    free(*conn);
    *conn = NULL;
}
