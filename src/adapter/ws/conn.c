/* SPDX-License-Identifier: Apache-2.0 */
/* A WebSocket connection, either side: reading through wslay, the send queue, heartbeat, close.
 * Owns the socket and every frame reference in its queue. Threads: the loop's.
 * Failures: a broken socket ends in on_close at once; a broken protocol or a slow client gets a close frame first, and
 * whatever the other side does, close_ms later the connection is gone. Nothing is freed inside a callback of wslay or
 * of the handler: closing handles brings on_close in a later turn. */
#include "conn.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "gf/clock.h"
#include "gf/hash.h"
#include "gf/metrics.h"

#define WRITE_BUFS 64
#define SILENT_PINGS 2
#define REASON_MAX 123
#define CODE_TOO_SLOW 4408

static _Thread_local char read_buffer[WS_READ_MAX]; /* libuv fills it and hands it to on_read before it asks again */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(read_buffer, sizeof(read_buffer));
}

/* ---- end of life */

static void queue_free(struct ws_queue **queue)
{
    struct ws_queue *q = *queue;

    if (q == NULL)
        return;
    for (unsigned i = 0; i < q->count; i++)
        gf_ws_frame_release(&q->ring[(q->head + i) & (q->cap - 1)]);
    free(q->ring);
    free(q);
    *queue = NULL;
}

static void reader_free(struct ws_reader **reader)
{
    if (*reader == NULL)
        return;
    wslay_event_context_free((*reader)->wslay);
    gf_buf_free(&(*reader)->out);
    free(*reader);
    *reader = NULL;
}

static void rest_free(struct gf_ws *ws)
{
    if (ws->rest != NULL)
        gf_buf_free(ws->rest);
    free(ws->rest);
    ws->rest = NULL;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct gf_ws *ws = handle->data;

    if (--ws->handles > 0)
        return;
    if (ws->client == NULL)
        gf_metric_add(GF_M_WS_CONNECTIONS, -1);
    if (ws->handler->on_close != NULL)
        ws->handler->on_close(ws->handler->ctx, ws);
    queue_free(&ws->queue);
    reader_free(&ws->reader);
    rest_free(ws);
    free(ws->tcp);
    if (ws->client != NULL) {
        gf_buf_free(&ws->client->request);
        gf_buf_free(&ws->client->answer);
        free(ws->client);
    }
    free(ws);
}

void gf_ws_conn_kill(struct gf_ws *ws)
{
    if (ws->state == WS_GONE)
        return;
    ws->state = WS_GONE;
    uv_close((uv_handle_t *)ws->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&ws->timer, on_handle_closed);
}

void gf_ws_abort(struct gf_ws *ws)
{
    gf_ws_conn_kill(ws);
}

/* ---- sending */

static void flush(struct gf_ws *ws);

/* Our close frame has left. */
static void after_close_sent(struct gf_ws *ws)
{
    uv_os_fd_t fd;

    if (ws->peer_closed) {
        gf_ws_conn_kill(ws);
        return;
    }
    if (!ws->failed)
        return; /* the other side's close frame ends it, or the deadline */
    /* We no longer read its frames, so its answer cannot be seen: say that we are done and wait for its end of stream.
     * Closing at once with unread input would reset the connection and could destroy the close frame on its way. */
    if (uv_fileno((uv_handle_t *)ws->tcp, &fd) != 0 || shutdown(fd, SHUT_WR) != 0)
        gf_ws_conn_kill(ws);
}

static void queue_pop(struct ws_queue *q, unsigned count)
{
    for (; count > 0; count--) {
        struct gf_ws_frame **frame = &q->ring[q->head & (q->cap - 1)];

        q->bytes -= (int64_t)(*frame)->len;
        gf_ws_frame_release(frame);
        q->head++;
        q->count--;
    }
    q->offset = 0;
}

static void on_written(uv_write_t *write, int status)
{
    struct gf_ws *ws = write->data;

    if (ws->state == WS_GONE)
        return; /* the queue goes with the connection */
    if (status < 0) {
        gf_ws_conn_kill(ws);
        return;
    }
    queue_pop(ws->queue, ws->queue->flying);
    ws->queue->flying = 0;
    if (ws->queue->count > 0) {
        flush(ws);
        return;
    }
    queue_free(&ws->queue);
    if (ws->state == WS_CLOSING)
        after_close_sent(ws);
}

static void flush(struct gf_ws *ws)
{
    struct ws_queue *q = ws->queue;
    uv_buf_t bufs[WRITE_BUFS];
    unsigned count = q->count < WRITE_BUFS ? q->count : WRITE_BUFS;

    GF_ASSERT(q->flying == 0 && count > 0);
    for (unsigned i = 0; i < count; i++) {
        struct gf_ws_frame *frame = q->ring[(q->head + i) & (q->cap - 1)];
        size_t skip = i == 0 ? q->offset : 0;

        bufs[i] = uv_buf_init(frame->data + skip, (unsigned)(frame->len - skip));
    }
    q->write.data = ws;
    q->flying = count;
    if (uv_write(&q->write, (uv_stream_t *)ws->tcp, bufs, count, on_written) < 0)
        gf_ws_conn_kill(ws);
}

static void queue_add(struct ws_queue *q, struct gf_ws_frame *frame)
{
    if (q->count == q->cap) {
        unsigned cap = q->cap ? q->cap * 2 : 8;
        struct gf_ws_frame **ring = gf_xmalloc(cap * sizeof(ring[0]));

        for (unsigned i = 0; i < q->count; i++)
            ring[i] = q->ring[(q->head + i) & (q->cap - 1)];
        free(q->ring);
        q->ring = ring;
        q->head = 0;
        q->cap = cap;
    }
    q->ring[(q->head + q->count) & (q->cap - 1)] = frame;
    q->count++;
    q->bytes += (int64_t)frame->len;
}

void gf_ws_conn_push(struct gf_ws *ws, struct gf_ws_frame *frame)
{
    uv_buf_t buf = uv_buf_init(frame->data, (unsigned)frame->len);
    int rc;

    GF_ASSERT(ws->state != WS_GONE);
    if (ws->queue != NULL) {
        queue_add(ws->queue, frame); /* on_written takes it along */
        return;
    }
    rc = uv_try_write((uv_stream_t *)ws->tcp, &buf, 1);
    if (rc == (int)frame->len) {
        gf_ws_frame_release(&frame);
        return;
    }
    if (rc < 0 && rc != UV_EAGAIN) {
        gf_ws_frame_release(&frame);
        gf_ws_conn_kill(ws);
        return;
    }
    ws->queue = gf_xcalloc(1, sizeof(*ws->queue));
    queue_add(ws->queue, frame);
    ws->queue->offset = rc > 0 ? (size_t)rc : 0;
    flush(ws);
}

/* Everything that is not on its way already is dropped: the close frame must not wait behind it. */
static void drop_unsent(struct gf_ws *ws)
{
    struct ws_queue *q = ws->queue;

    while (q != NULL && q->count > q->flying) {
        struct gf_ws_frame **last = &q->ring[(q->head + q->count - 1) & (q->cap - 1)];

        q->bytes -= (int64_t)(*last)->len;
        gf_ws_frame_release(last);
        q->count--;
    }
}

static void close_slow(struct gf_ws *ws, const char *reason)
{
    gf_metric_add(GF_M_WS_SLOW, 1);
    drop_unsent(ws);
    gf_ws_close(ws, CODE_TOO_SLOW, reason);
}

bool gf_ws_send(struct gf_ws *ws, struct gf_ws_frame *frame, bool droppable)
{
    const struct ws_queue *q = ws->queue;

    GF_ASSERT(ws->client == NULL); /* shared frames are not masked */
    if (ws->state != WS_OPEN)
        return false;
    if (q != NULL && q->bytes + (int64_t)frame->len > ws->handler->queue_bytes) {
        close_slow(ws, "too slow");
        return false;
    }
    if (q != NULL && q->count >= (unsigned)ws->handler->queue_frames) {
        if (droppable)
            gf_metric_add(GF_M_WS_DROPPED, frame->messages);
        else
            close_slow(ws, "too slow");
        return false;
    }
    frame->refs++;
    gf_metric_add(GF_M_WS_FRAMES, frame->messages);
    gf_ws_conn_push(ws, frame);
    return ws->state == WS_OPEN;
}

static void begin_close(struct gf_ws *ws)
{
    ws->state = WS_CLOSING;
    gf_ws_conn_set_deadline(ws, ws->handler->close_ms != 0 ? ws->handler->close_ms : WS_CLOSE_MS);
}

void gf_ws_close(struct gf_ws *ws, int code, const char *reason)
{
    char payload[2 + REASON_MAX];
    size_t len = strlen(reason) < REASON_MAX ? strlen(reason) : REASON_MAX;

    if (ws->state == WS_CONNECTING)
        gf_ws_conn_kill(ws);
    if (ws->state != WS_OPEN)
        return;
    payload[0] = (char)(code >> 8);
    payload[1] = (char)code;
    memcpy(payload + 2, reason, len);
    if (ws->close_code == 0)
        ws->close_code = (uint16_t)code;
    begin_close(ws);
    gf_ws_conn_push(ws, gf_ws_frame_control(WSLAY_CONNECTION_CLOSE, payload, 2 + len, ws->client != NULL));
    if (ws->state == WS_CLOSING && ws->queue == NULL)
        after_close_sent(ws);
}

void gf_ws_conn_fail(struct gf_ws *ws, int code, const char *reason)
{
    if (ws->client == NULL)
        gf_metric_add(GF_M_WS_BAD, 1);
    ws->failed = true;
    if (ws->state == WS_OPEN)
        gf_ws_close(ws, code, reason);
    else
        gf_ws_conn_kill(ws);
}

/* ---- receiving */

static ssize_t on_wslay_recv(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, int flags, void *arg)
{
    struct ws_reader *reader = arg;
    size_t count = len < reader->len ? len : reader->len;

    (void)flags;
    if (count == 0) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    memcpy(buf, reader->bytes, count);
    reader->bytes += count;
    reader->len -= count;
    return (ssize_t)count;
}

static ssize_t on_wslay_send(wslay_event_context_ptr wslay, const uint8_t *bytes, size_t len, int flags, void *arg)
{
    struct ws_reader *reader = arg;

    (void)wslay;
    (void)flags;
    gf_buf_add(&reader->out, bytes, len);
    return (ssize_t)len;
}

static int on_wslay_mask(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, void *arg)
{
    (void)wslay;
    (void)arg;
    gf_random_bytes(buf, len);
    return 0;
}

/* Keeps the stream position at which this frame ends, so that between messages the reader can be freed. */
static void on_wslay_frame(wslay_event_context_ptr wslay, const struct wslay_event_on_frame_recv_start_arg *arg, void *ctx)
{
    struct ws_reader *reader = ctx;
    uint64_t len = arg->payload_length;

    (void)wslay;
    reader->expected += 2 + (len < 126 ? 0U : len <= UINT16_MAX ? 2U : 8U) + (reader->ws->client == NULL ? 4U : 0U) + len;
    if (!wslay_is_ctrl_frame(arg->opcode))
        reader->in_message = !arg->fin;
}

static void on_wslay_message(wslay_event_context_ptr wslay, const struct wslay_event_on_msg_recv_arg *arg, void *ctx)
{
    struct ws_reader *reader = ctx;
    struct gf_ws *ws = reader->ws;

    (void)wslay;
    if (arg->opcode == WSLAY_CONNECTION_CLOSE && ws->close_code == 0)
        ws->close_code = arg->status_code != 0 ? arg->status_code : WSLAY_CODE_NO_STATUS_RCVD;
    if (arg->opcode == WSLAY_CONNECTION_CLOSE && arg->msg_length == 1)
        reader->bad_close = true;
    if (ws->state != WS_OPEN)
        return;
    if (arg->opcode == WSLAY_TEXT_FRAME && ws->handler->on_text != NULL)
        ws->handler->on_text(ws->handler->ctx, ws, arg->msg_length > 0 ? (const char *)arg->msg : "", arg->msg_length);
    else if (arg->opcode == WSLAY_BINARY_FRAME && ws->client == NULL)
        gf_ws_conn_fail(ws, WSLAY_CODE_UNSUPPORTED_DATA, "text messages only");
}

static struct ws_reader *reader_create(struct gf_ws *ws)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_wslay_recv,
        .send_callback = on_wslay_send,
        .genmask_callback = on_wslay_mask,
        .on_frame_recv_start_callback = on_wslay_frame,
        .on_msg_recv_callback = on_wslay_message,
    };
    struct ws_reader *reader = gf_xcalloc(1, sizeof(*reader));
    int rc;

    reader->ws = ws;
    gf_buf_init(&reader->out, 4 * WS_READ_MAX); /* a ping of 2 bytes is answered by 6 at most */
    rc = ws->client == NULL ? wslay_event_context_server_init(&reader->wslay, &callbacks, reader)
                            : wslay_event_context_client_init(&reader->wslay, &callbacks, reader);
    GF_ASSERT(rc == 0); /* it fails only without memory */
    wslay_event_config_set_max_recv_msg_length(reader->wslay, ws->handler->message_max);
    return reader;
}

/* A pong, or the echo of a close frame: a client that makes us answer more than it reads is slow too. */
static void push_answer(struct gf_ws *ws, const struct gf_buf *out)
{
    const struct ws_queue *q = ws->queue;

    if (q != NULL && ws->client == NULL &&
        (q->count >= (unsigned)ws->handler->queue_frames || q->bytes > ws->handler->queue_bytes)) {
        close_slow(ws, "too slow");
        return;
    }
    gf_ws_conn_push(ws, gf_ws_frame_raw(out->data, out->len));
}

static void on_peer_close(struct gf_ws *ws, const struct gf_buf *out)
{
    ws->peer_closed = true;
    if (ws->state == WS_OPEN) {
        begin_close(ws);
        gf_ws_conn_push(ws, gf_ws_frame_raw(out->data, out->len));
    }
    if (ws->state == WS_CLOSING && ws->queue == NULL)
        after_close_sent(ws);
}

static bool is_between_messages(const struct ws_reader *reader)
{
    return reader->fed == reader->expected && !reader->in_message;
}

static bool is_ascii(const char *bytes, size_t len)
{
    unsigned char all = 0;

    for (size_t i = 0; i < len; i++) /* no early exit: the compiler makes vectors of it */
        all |= (unsigned char)bytes[i];
    return all < 0x80;
}

/* What a load harness reads a million times: whole unmasked text frames without escapes to UTF-8. They need neither wslay nor
 * a copy. Returns what was used; the rest is wslay's. */
static size_t feed_plain(struct gf_ws *ws, const char *bytes, size_t len)
{
    size_t used = 0;

    while (ws->state == WS_OPEN && ws->handler->on_text != NULL && len - used >= 4 && bytes[used] == (char)(0x80 | WSLAY_TEXT_FRAME)) {
        const unsigned char *head = (const unsigned char *)bytes + used;
        size_t head_len = head[1] < 126 ? 2 : 4, text_len = head[1];

        if (head[1] > 126)
            break; /* masked, or 64 KiB and longer */
        if (head[1] == 126)
            text_len = (size_t)head[2] << 8 | head[3];
        if (text_len > len - used - head_len || text_len > ws->handler->message_max ||
            !is_ascii(bytes + used + head_len, text_len))
            break;
        ws->handler->on_text(ws->handler->ctx, ws, bytes + used + head_len, text_len);
        used += head_len + text_len;
    }
    return used;
}

void gf_ws_conn_feed(struct gf_ws *ws, const char *bytes, size_t len)
{
    struct ws_reader *reader;
    int rc, code;

    if (ws->state == WS_GONE || ws->failed || ws->peer_closed)
        return;
    if (ws->client != NULL && ws->reader == NULL) {
        size_t used = feed_plain(ws, bytes, len);

        bytes += used;
        len -= used;
        if (len == 0 || ws->state == WS_GONE)
            return;
    }
    if (ws->reader == NULL)
        ws->reader = reader_create(ws);
    reader = ws->reader;
    reader->bytes = (const uint8_t *)bytes;
    reader->len = len;
    reader->fed += len;
    rc = wslay_event_recv(reader->wslay);
    while (wslay_event_want_write(reader->wslay) && wslay_event_send(reader->wslay) == 0)
        ;
    if (ws->state == WS_GONE || ws->failed)
        return;
    if (wslay_event_get_close_received(reader->wslay) && !reader->bad_close) {
        on_peer_close(ws, &reader->out);
        return;
    }
    if (rc != 0 || reader->bad_close || !wslay_event_get_read_enabled(reader->wslay)) {
        code = wslay_event_get_status_code_sent(reader->wslay); /* absent for errors of frame headers */
        gf_ws_conn_fail(ws, code == WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA || code == WSLAY_CODE_MESSAGE_TOO_BIG
                                ? code : WSLAY_CODE_PROTOCOL_ERROR, "protocol error");
        return;
    }
    if (reader->out.len > 0 && ws->state == WS_OPEN)
        push_answer(ws, &reader->out);
    gf_buf_reset(&reader->out);
    if (is_between_messages(reader))
        reader_free(&ws->reader);
}

static void feed_rest(struct gf_ws *ws)
{
    if (ws->state == WS_OPEN)
        gf_ws_conn_start_heartbeat(ws);
    gf_ws_conn_feed(ws, ws->rest->data, ws->rest->len);
    rest_free(ws);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct gf_ws *ws = stream->data;

    if (count < 0) {
        gf_ws_conn_kill(ws);
        return;
    }
    ws->silent = 0;
    if (ws->rest != NULL)
        feed_rest(ws); /* libuv reads on at once where the request's reader took all that it had room for */
    if (ws->client != NULL)
        gf_ws_client_delay_acks(ws);
    if (ws->state == WS_CONNECTING)
        gf_ws_client_answer(ws, buf->base, (size_t)count);
    else
        gf_ws_conn_feed(ws, buf->base, (size_t)count);
}

/* ---- time */

static void heartbeat(struct gf_ws *ws)
{
    const struct ws_queue *q = ws->queue;

    if (ws->silent >= SILENT_PINGS) {
        close_slow(ws, "no answer to pings");
        return;
    }
    ws->silent++;
    if (q != NULL && q->count >= (unsigned)ws->handler->queue_frames)
        close_slow(ws, "too slow"); /* full for so long that not even a ping fits */
    else
        gf_ws_conn_push(ws, gf_ws_frame_control(WSLAY_PING, "", 0, ws->client != NULL));
}

static void on_timer(uv_timer_t *timer)
{
    struct gf_ws *ws = timer->data;

    if (ws->state == WS_GONE)
        return;
    if (ws->state != WS_OPEN) {
        gf_ws_conn_kill(ws); /* the deadline of connecting or closing */
    } else if (ws->rest != NULL) {
        feed_rest(ws);
    } else {
        heartbeat(ws);
    }
}

void gf_ws_conn_start_heartbeat(struct gf_ws *ws)
{
    uint64_t ping_ms = (uint64_t)ws->handler->ping_ms;
    uint64_t spread = gf_hash_u64((uintptr_t)ws) % (ping_ms / 2 + 1); /* not all of them in one turn */

    if (ping_ms == 0)
        GF_ASSERT(uv_timer_stop(&ws->timer) == 0);
    else
        GF_ASSERT(uv_timer_start(&ws->timer, on_timer, ping_ms - spread, ping_ms) == 0);
}

void gf_ws_conn_set_deadline(struct gf_ws *ws, int64_t ms)
{
    GF_ASSERT(uv_timer_start(&ws->timer, on_timer, (uint64_t)ms, 0) == 0);
}

/* ---- life */

struct gf_ws *gf_ws_conn_create(uv_tcp_t *tcp, const struct gf_ws_handler *handler, enum ws_state state)
{
    struct gf_ws *ws = gf_xcalloc(1, sizeof(*ws));

    GF_ASSERT(uv_timer_init(tcp->loop, &ws->timer) == 0);
    ws->timer.data = ws;
    tcp->data = ws;
    ws->tcp = tcp;
    ws->handles = 2;
    ws->handler = handler;
    ws->state = state;
    return ws;
}

int gf_ws_conn_start_reading(struct gf_ws *ws)
{
    (void)uv_tcp_nodelay(ws->tcp, 1); /* only hastens */
    return uv_read_start((uv_stream_t *)ws->tcp, on_alloc, on_read);
}

void gf_ws_set_user(struct gf_ws *ws, void *user)
{
    ws->user = user;
}

void *gf_ws_user(const struct gf_ws *ws)
{
    return ws->user;
}

bool gf_ws_is_open(const struct gf_ws *ws)
{
    return ws->state == WS_OPEN;
}

int gf_ws_close_code(const struct gf_ws *ws)
{
    return ws->close_code != 0 ? ws->close_code : WS_NO_CLOSE_FRAME;
}
