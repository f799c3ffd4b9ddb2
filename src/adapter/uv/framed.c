/* SPDX-License-Identifier: Apache-2.0 */
/* Length-prefixed messages over TCP: u32 big-endian length, then the bytes.
 * Owns: listeners and peers; a peer's memory goes after its on_close. Threads: the loop's.
 * Sending: what the socket takes at once is never copied; the rest gathers in `out` while one write (`flying`) is under
 * way. Failures: every broken peer ends in on_close with a reason. A name's addresses are tried one after the other, each
 * for its share of the deadline; nothing else is retried here. */
#include "gf/framed.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

#include "gf/buf.h"

#define PREFIX 4
#define BACKLOG 128
#define CONNECT_TIMEOUT_MS 5000
#define KEEPALIVE_S 30

struct gf_framed_listener {
    uv_tcp_t tcp;
    struct gf_framed_handler handler;
    int port;
};

struct gf_framed {
    uv_tcp_t tcp;
    uv_timer_t timer; /* connect deadline */
    uv_getaddrinfo_t *lookup;
    struct addrinfo *found, *next; /* of a name: owned; the first one that was not tried yet */
    uint64_t attempt_ms;           /* for each of them */
    uv_connect_t connect;
    uv_write_t write;
    struct gf_framed_handler handler;
    struct gf_buf in;          /* an incomplete message */
    struct gf_buf out, flying; /* unsent; the part that libuv holds now */
    void *user;
    const char *reason; /* set: closing */
    int parts;          /* while closing: what has not ended yet */
    bool open, writing;
};

/* libuv fills it and hands it to on_read before it asks for another: one per thread is enough. */
static _Thread_local char read_buffer[65536];

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(read_buffer, sizeof(read_buffer));
}

/* Both handles, and a look-up if one is under way. */
static void part_ended(struct gf_framed *peer)
{
    if (--peer->parts > 0)
        return;
    peer->handler.on_close(peer->handler.ctx, peer, peer->reason);
    gf_buf_free(&peer->in);
    gf_buf_free(&peer->out);
    gf_buf_free(&peer->flying);
    uv_freeaddrinfo(peer->found);
    free(peer);
}

static void on_handle_closed(uv_handle_t *handle)
{
    part_ended(handle->data);
}

void gf_framed_close(struct gf_framed *peer, const char *reason)
{
    if (peer->reason != NULL)
        return;
    peer->reason = reason;
    peer->parts = peer->lookup != NULL ? 3 : 2;
    if (peer->lookup != NULL)
        (void)uv_cancel((uv_req_t *)peer->lookup); /* its callback comes in any case */
    if (!uv_is_closing((uv_handle_t *)&peer->tcp)) /* between two attempts: on_attempt_closed is on its way */
        uv_close((uv_handle_t *)&peer->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&peer->timer, on_handle_closed);
}

static uint32_t get_u32(const char *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof(value));
    return ntohl(value);
}

/* Delivers whole messages of [bytes, bytes + len); returns what was used. Stops when a callback closes the peer. */
static size_t deliver(struct gf_framed *peer, const char *bytes, size_t len)
{
    size_t used = 0;

    while (peer->reason == NULL && len - used >= PREFIX) {
        size_t size = get_u32(bytes + used);

        if (size > peer->handler.message_max) {
            gf_framed_close(peer, "message too long");
            break;
        }
        if (len - used - PREFIX < size)
            break;
        peer->handler.on_message(peer->handler.ctx, peer, bytes + used + PREFIX, size);
        used += PREFIX + size;
    }
    return used;
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct gf_framed *peer = stream->data;
    const char *bytes = buf->base;
    size_t len = (size_t)count, used;

    if (count < 0) {
        gf_framed_close(peer, count == UV_EOF ? "closed by the other side" : uv_strerror((int)count));
        return;
    }
    if (peer->in.len > 0) {
        gf_buf_add(&peer->in, bytes, len);
        bytes = peer->in.data;
        len = peer->in.len;
    }
    GF_ASSERT(gf_buf_ok(&peer->in)); /* its maximum is a whole message and one read */
    used = deliver(peer, bytes, len);
    if (bytes != peer->in.data) {
        gf_buf_add(&peer->in, bytes + used, len - used);
    } else if (used == len) {
        gf_buf_free(&peer->in); /* an idle peer holds no buffer */
        gf_buf_init(&peer->in, PREFIX + peer->handler.message_max + sizeof(read_buffer));
    } else if (used > 0) {
        memmove(peer->in.data, peer->in.data + used, len - used);
        peer->in.len = len - used;
    }
}

static void flush(struct gf_framed *peer);

static void on_written(uv_write_t *write, int status)
{
    struct gf_framed *peer = write->data;

    peer->writing = false;
    if (peer->reason != NULL)
        return;
    if (status < 0) {
        gf_framed_close(peer, uv_strerror(status));
        return;
    }
    gf_buf_reset(&peer->flying);
    if (peer->out.len > 0)
        flush(peer);
}

/* Hands everything unsent to libuv as one write. */
static void flush(struct gf_framed *peer)
{
    struct gf_buf swap = peer->flying;
    uv_buf_t buf;
    int rc;

    GF_ASSERT(!peer->writing && swap.len == 0);
    peer->flying = peer->out;
    peer->out = swap;
    buf = uv_buf_init(peer->flying.data, (unsigned)peer->flying.len);
    peer->write.data = peer;
    rc = uv_write(&peer->write, (uv_stream_t *)&peer->tcp, &buf, 1, on_written);
    if (rc < 0)
        gf_framed_close(peer, uv_strerror(rc));
    else
        peer->writing = true;
}

bool gf_framed_send(struct gf_framed *peer, const void *bytes, size_t len)
{
    uint32_t prefix = htonl((uint32_t)len);
    union { const void *in; char *out; } borrowed = {.in = bytes}; /* uv_buf_t has no const; a write only reads */
    size_t sent = 0;

    GF_ASSERT(len <= peer->handler.message_max);
    if (peer->reason != NULL || !peer->open)
        return false;
    if (!peer->writing) {
        uv_buf_t bufs[2] = {uv_buf_init((char *)&prefix, PREFIX), uv_buf_init(borrowed.out, (unsigned)len)};
        int rc = uv_try_write((uv_stream_t *)&peer->tcp, bufs, 2);

        if (rc < 0 && rc != UV_EAGAIN) {
            gf_framed_close(peer, uv_strerror(rc));
            return false;
        }
        sent = rc > 0 ? (size_t)rc : 0;
    }
    if (peer->out.len + peer->flying.len + PREFIX + len - sent > peer->handler.unsent_max) {
        gf_framed_close(peer, "too much unsent");
        return false;
    }
    if (sent < PREFIX)
        gf_buf_add(&peer->out, (const char *)&prefix + sent, PREFIX - sent);
    sent = sent > PREFIX ? sent - PREFIX : 0;
    if (sent < len)
        gf_buf_add(&peer->out, (const char *)bytes + sent, len - sent);
    GF_ASSERT(gf_buf_ok(&peer->out));
    if (peer->out.len > 0 && !peer->writing)
        flush(peer);
    return peer->reason == NULL;
}

static struct gf_framed *peer_create(uv_loop_t *uv, const struct gf_framed_handler *handler)
{
    struct gf_framed *peer = gf_xcalloc(1, sizeof(*peer));

    GF_ASSERT(uv_tcp_init(uv, &peer->tcp) == 0);
    GF_ASSERT(uv_timer_init(uv, &peer->timer) == 0);
    peer->tcp.data = peer;
    peer->timer.data = peer;
    peer->handler = *handler;
    gf_buf_init(&peer->in, PREFIX + handler->message_max + sizeof(read_buffer));
    gf_buf_init(&peer->out, handler->unsent_max);
    gf_buf_init(&peer->flying, handler->unsent_max);
    return peer;
}

static void peer_opened(struct gf_framed *peer)
{
    int rc;

    (void)uv_tcp_nodelay(&peer->tcp, 1); /* both only hasten; a socket that refuses them still works */
    (void)uv_tcp_keepalive(&peer->tcp, 1, KEEPALIVE_S);
    peer->open = true;
    rc = uv_read_start((uv_stream_t *)&peer->tcp, on_alloc, on_read);
    if (rc < 0) {
        gf_framed_close(peer, uv_strerror(rc));
        return;
    }
    if (peer->handler.on_open != NULL)
        peer->handler.on_open(peer->handler.ctx, peer);
}

/* ---- connecting */

static void connect_next(struct gf_framed *peer);

static void on_attempt_closed(uv_handle_t *handle)
{
    struct gf_framed *peer = handle->data;

    if (peer->reason != NULL) { /* closed meanwhile */
        part_ended(peer);
        return;
    }
    GF_ASSERT(uv_tcp_init(peer->timer.loop, &peer->tcp) == 0);
    connect_next(peer);
}

/* A handle that has failed to connect cannot be used again. */
static void end_attempt(struct gf_framed *peer, const char *reason)
{
    if (peer->next == NULL)
        gf_framed_close(peer, reason);
    else if (!uv_is_closing((uv_handle_t *)&peer->tcp))
        uv_close((uv_handle_t *)&peer->tcp, on_attempt_closed);
}

static void on_connect_timeout(uv_timer_t *timer)
{
    end_attempt(timer->data, "connect timed out");
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct gf_framed *peer = connect->data;

    if (peer->reason != NULL || uv_is_closing((uv_handle_t *)&peer->tcp))
        return;
    (void)uv_timer_stop(&peer->timer);
    if (status < 0)
        end_attempt(peer, uv_strerror(status));
    else
        peer_opened(peer);
}

static void connect_to(struct gf_framed *peer, const struct sockaddr *addr)
{
    int rc;

    peer->connect.data = peer;
    rc = uv_tcp_connect(&peer->connect, &peer->tcp, addr, on_connected);
    if (rc < 0)
        end_attempt(peer, uv_strerror(rc));
}

static void connect_next(struct gf_framed *peer)
{
    const struct addrinfo *addr = peer->next;

    peer->next = addr->ai_next;
    GF_ASSERT(uv_timer_start(&peer->timer, on_connect_timeout, peer->attempt_ms, 0) == 0);
    connect_to(peer, addr->ai_addr);
}

static void take_addresses(struct gf_framed *peer, struct addrinfo *found)
{
    uint64_t count = 0;

    for (const struct addrinfo *addr = found; addr != NULL; addr = addr->ai_next)
        count++;
    peer->found = peer->next = found;
    peer->attempt_ms = uv_timer_get_due_in(&peer->timer) / count;
    connect_next(peer);
}

static void on_lookup(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
    struct gf_framed *peer = lookup->data;

    free(peer->lookup);
    peer->lookup = NULL;
    if (peer->reason != NULL) { /* closed meanwhile */
        uv_freeaddrinfo(found);
        part_ended(peer);
    } else if (status < 0) {
        gf_framed_close(peer, uv_strerror(status));
    } else {
        take_addresses(peer, found);
    }
}

/* Names are looked up on libuv's threads; numbers need no thread. */
static void look_up(struct gf_framed *peer, const char *host, int port)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char service[16];
    int rc;

    snprintf(service, sizeof(service), "%d", port);
    peer->lookup = gf_xcalloc(1, sizeof(*peer->lookup));
    peer->lookup->data = peer;
    rc = uv_getaddrinfo(peer->tcp.loop, peer->lookup, on_lookup, host, service, &hints);
    if (rc < 0) {
        free(peer->lookup);
        peer->lookup = NULL;
        gf_framed_close(peer, uv_strerror(rc));
    }
}

static bool numeric_address(const char *host, int port, struct sockaddr_storage *addr_r)
{
    return uv_ip4_addr(host, port, (struct sockaddr_in *)addr_r) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)addr_r) == 0;
}

struct gf_framed *gf_framed_connect(struct gf_loop *loop, const char *host, int port, const struct gf_framed_handler *handler)
{
    struct gf_framed *peer = peer_create(gf_loop_native(loop), handler);
    struct sockaddr_storage addr;

    GF_ASSERT(uv_timer_start(&peer->timer, on_connect_timeout, CONNECT_TIMEOUT_MS, 0) == 0);
    if (numeric_address(host, port, &addr))
        connect_to(peer, (const struct sockaddr *)&addr);
    else
        look_up(peer, host, port);
    return peer;
}

/* ---- listening */

static void on_connection(uv_stream_t *stream, int status)
{
    struct gf_framed_listener *listener = stream->data;
    struct gf_framed *peer;
    int rc;

    if (status < 0)
        return; /* out of descriptors, say: the next connection tries again */
    peer = peer_create(stream->loop, &listener->handler);
    rc = uv_accept(stream, (uv_stream_t *)&peer->tcp);
    if (rc < 0)
        gf_framed_close(peer, uv_strerror(rc));
    else
        peer_opened(peer);
}

static void on_listener_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static int listen_on(struct gf_framed_listener *listener, const char *bind, int port)
{
    struct sockaddr_storage addr, name;
    int name_len = sizeof(name), rc;

    if (!numeric_address(bind, port, &addr))
        return UV_EINVAL;
    rc = uv_tcp_bind(&listener->tcp, (const struct sockaddr *)&addr, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&listener->tcp, BACKLOG, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&name, &name_len);
    if (rc == 0)
        listener->port = ntohs(((const struct sockaddr_in *)&name)->sin_port); /* sin6_port stands at the same place */
    return rc;
}

enum gf_class gf_framed_listen(struct gf_loop *loop, const char *bind, int port, const struct gf_framed_handler *handler,
                               struct gf_framed_listener **listener_r, struct gf_error *error_r)
{
    struct gf_framed_listener *listener = gf_xcalloc(1, sizeof(*listener));
    int rc;

    GF_ASSERT(handler->message_max > 0 && handler->unsent_max > handler->message_max);
    GF_ASSERT(uv_tcp_init(gf_loop_native(loop), &listener->tcp) == 0);
    listener->tcp.data = listener;
    listener->handler = *handler;
    rc = listen_on(listener, bind, port);
    if (rc != 0) {
        uv_close((uv_handle_t *)&listener->tcp, on_listener_closed);
        return gf_fail(error_r, GF_FATAL, -rc, "cannot listen on %s:%d: %s", bind, port, uv_strerror(rc));
    }
    *listener_r = listener;
    return GF_OK;
}

int gf_framed_port(const struct gf_framed_listener *listener)
{
    return listener->port;
}

void gf_framed_listener_close(struct gf_framed_listener **listener)
{
    if (*listener == NULL)
        return;
    uv_close((uv_handle_t *)&(*listener)->tcp, on_listener_closed);
    *listener = NULL;
}

void gf_framed_set_user(struct gf_framed *peer, void *user)
{
    peer->user = user;
}

void *gf_framed_user(const struct gf_framed *peer)
{
    return peer->user;
}
