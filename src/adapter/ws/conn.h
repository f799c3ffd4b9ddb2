/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What server.c, client.c, conn.c and frame.c of this folder share: the connection and the frame. */
#include <uv.h>
#include <wslay/wslay.h>

#include "gf/buf.h"
#include "gf/ws.h"

#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define WS_CLOSE_MS 3000 /* gf_ws_handler.close_ms */
#define WS_READ_MAX 65536 /* bytes of one read */
#define WS_NO_CLOSE_FRAME 1006

struct gf_ws_frame {
    int refs;
    int messages;
    size_t len;
    char data[];
};

enum ws_state {
    WS_CONNECTING, /* client: TCP, then the HTTP answer */
    WS_OPEN,
    WS_CLOSING, /* a close frame of ours is sent or queued: nothing else leaves any more */
    WS_GONE,    /* handles are closing; on_close follows */
};

/* Unsent frames. Exists only while something is unsent. */
struct ws_queue {
    uv_write_t write;
    struct gf_ws_frame **ring; /* cap is a power of two */
    unsigned head, count, cap;
    unsigned flying; /* the first frames, which libuv holds now */
    size_t offset;   /* bytes of the first frame that are sent */
    int64_t bytes;
};

/* Receiving side. Exists only while a message is incomplete (wslay's buffers are 8 KiB). */
struct ws_reader {
    wslay_event_context_ptr wslay;
    struct gf_ws *ws;
    const uint8_t *bytes; /* input of the current call */
    size_t len;
    struct gf_buf out; /* answers of the current call: pongs, the echo of a close frame */
    uint64_t fed, expected; /* stream positions: bytes given, and the end of the frames seen so far */
    bool in_message;        /* between the fragments of a message */
    bool bad_close;         /* a close frame with half a code, which wslay lets pass */
};

/* Client only: until the handshake is answered. */
struct ws_client {
    struct gf_ws_handler handler;
    void (*on_open)(void *ctx, struct gf_ws *ws);
    uv_connect_t connect;
    struct gf_buf request, answer;
    char accept[32];
};

struct gf_ws {
    uv_tcp_t *tcp; /* heap; owned */
    uv_timer_t timer; /* heartbeat, close deadline, connect deadline: one at a time */
    const struct gf_ws_handler *handler;
    void *user;
    struct ws_queue *queue;
    struct ws_reader *reader;
    struct ws_client *client; /* NULL: server */
    struct gf_buf *rest;      /* bytes that came together with the upgrade request */
    enum ws_state state;
    int8_t silent;       /* heartbeats since the last byte */
    int8_t handles;      /* open or closing */
    uint16_t close_code; /* 0: none yet */
    bool failed;         /* what arrives is no longer read */
    bool peer_closed;    /* a close frame came */
};

/* conn.c */
struct gf_ws *gf_ws_conn_create(uv_tcp_t *tcp, const struct gf_ws_handler *handler, enum ws_state state);
int gf_ws_conn_start_reading(struct gf_ws *ws);
void gf_ws_conn_start_heartbeat(struct gf_ws *ws);
void gf_ws_conn_set_deadline(struct gf_ws *ws, int64_t ms); /* instead of the heartbeat */
void gf_ws_conn_push(struct gf_ws *ws, struct gf_ws_frame *frame); /* takes the caller's reference; no bounds */
void gf_ws_conn_feed(struct gf_ws *ws, const char *bytes, size_t len);
void gf_ws_conn_fail(struct gf_ws *ws, int code, const char *reason); /* protocol error: counted, closed */
void gf_ws_conn_kill(struct gf_ws *ws); /* no more handshakes: handles close now, on_close follows */

/* client.c */
void gf_ws_client_answer(struct gf_ws *ws, const char *bytes, size_t len);
void gf_ws_client_delay_acks(struct gf_ws *ws);

/* frame.c */
struct gf_ws_frame *gf_ws_frame_raw(const void *bytes, size_t len);
struct gf_ws_frame *gf_ws_frame_control(int opcode, const void *payload, size_t len, bool mask);
