/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* WebSocket connections (wslay for what arrives; frames that we send are built once and shared by all members of a room).
 * A server connection starts from an HTTP upgrade that gf_http_take hands over. Close codes that a server gives by itself:
 * 1002 protocol error, 1003 binary message, 1007 invalid UTF-8, 1009 too long, 4408 too slow or silent. Every close is
 * bounded in time. A connection holds buffers only while something is pending. Thread: the loop's. */
#include "gf/http.h"

struct gf_ws;
struct gf_ws_frame; /* an encoded, unmasked server frame; reference-counted */

struct gf_ws_handler {
    void (*on_text)(void *ctx, struct gf_ws *ws, const char *text, size_t len); /* whole message, valid UTF-8 */
    void (*on_close)(void *ctx, struct gf_ws *ws); /* the last call; ws is gone afterwards */
    void *ctx;
    size_t message_max; /* longer: close 1009 */
    int queue_frames;
    int64_t queue_bytes;
    int64_t ping_ms; /* a client silent for two of them is closed; 0: no pings */
    int64_t close_ms; /* a close handshake ends by then, whatever the other side does; 0: three seconds */
};
/* Checks the handshake headers of an upgrade request (version 13, key) and answers 101 with `protocol`; takes the
 * connection. NULL: it answered an error itself (400/426) through gf_http_respond. `handler` is borrowed: it must outlive
 * the connection. Nothing is delivered before the caller is back in the loop. */
struct gf_ws *gf_ws_accept(struct gf_http_req *req, const char *protocol, const struct gf_ws_handler *handler);
void gf_ws_set_user(struct gf_ws *ws, void *user);
void *gf_ws_user(const struct gf_ws *ws);

struct gf_ws_frame *gf_ws_frame_text(const char *text, size_t len, int messages); /* one reference; `messages` for metrics */
void gf_ws_frame_release(struct gf_ws_frame **frame);
/* Queues the frame (takes its own reference). Over queue_frames: a droppable frame is dropped and counted (false);
 * over queue_bytes, or not droppable and full: the client is closed with 4408. */
bool gf_ws_send(struct gf_ws *ws, struct gf_ws_frame *frame, bool droppable);
void gf_ws_close(struct gf_ws *ws, int code, const char *reason); /* close handshake, bounded; on_close follows */
void gf_ws_abort(struct gf_ws *ws); /* closes without a handshake; on_close follows */
bool gf_ws_is_open(const struct gf_ws *ws); /* handshake done and no close begun by either side */
int gf_ws_close_code(const struct gf_ws *ws); /* of the close frame that came first, in either direction; 1006: none */

/* Client side, for the load harness: connects, does the handshake, answers pings, delivers text messages. */
struct gf_ws_client_opts {
    const char *host;
    int port;
    const char *path;     /* with query */
    const char *protocols; /* Sec-WebSocket-Protocol value */
    void (*on_open)(void *ctx, struct gf_ws *ws);
    struct gf_ws_handler handler; /* copied; on_close also when the connection or handshake fails */
};
struct gf_ws *gf_ws_connect(struct gf_loop *loop, const struct gf_ws_client_opts *opts);
