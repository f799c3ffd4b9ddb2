/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of the opening handshake (RFC 6455 section 4.2): checks the upgrade request, answers 101 and takes the
 * socket from the HTTP server. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "conn.h"
#include "gf/crypto.h"
#include "gf/metrics.h"

#define KEY_LEN 24                  /* 16 bytes in base64 */
#define SEND_BUFFER_BYTES (128 * 1024) /* the kernel's share of a slow client's backlog; doubled by Linux */

static bool is_base64(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

static bool is_key(struct gf_slice key)
{
    if (key.ptr == NULL || key.len != KEY_LEN || key.ptr[KEY_LEN - 2] != '=' || key.ptr[KEY_LEN - 1] != '=')
        return false;
    for (size_t i = 0; i < KEY_LEN - 2; i++)
        if (!is_base64(key.ptr[i]))
            return false;
    return true;
}

/* True if the comma-separated list holds the token, in any case. */
static bool has_token(struct gf_slice list, const char *token)
{
    size_t size = strlen(token), at = 0;

    while (list.ptr != NULL && at < list.len) {
        size_t end = at, from = at, to;

        while (end < list.len && list.ptr[end] != ',')
            end++;
        for (to = end; from < to && (list.ptr[from] == ' ' || list.ptr[from] == '\t'); from++)
            ;
        for (; to > from && (list.ptr[to - 1] == ' ' || list.ptr[to - 1] == '\t'); to--)
            ;
        if (to - from == size && strncasecmp(list.ptr + from, token, size) == 0)
            return true;
        at = end + 1;
    }
    return false;
}

/* NULL: the request is a WebSocket handshake. */
static const char *handshake_fault(const struct gf_http_req *req, int *status_r)
{
    int keys = 0, versions = 0;
    struct gf_slice key = gf_http_header(req, "sec-websocket-key", &keys);
    struct gf_slice version = gf_http_header(req, "sec-websocket-version", &versions);

    *status_r = 400;
    if (gf_http_method(req) != GF_HTTP_GET)
        return "the method of a handshake is GET";
    if (!has_token(gf_http_header(req, "upgrade", NULL), "websocket") ||
        !has_token(gf_http_header(req, "connection", NULL), "upgrade"))
        return "Upgrade: websocket and Connection: Upgrade are needed";
    if (versions != 1 || !gf_slice_is(version, "13")) {
        *status_r = 426;
        return "only WebSocket version 13 is spoken";
    }
    if (keys != 1 || !is_key(key))
        return "Sec-WebSocket-Key must be 16 bytes in base64";
    return NULL;
}

static void refuse(struct gf_http_req *req, int status, const char *detail)
{
    struct gf_http_problem problem = {
        .status = status,
        .code = "bad_handshake",
        .detail = detail,
        .headers = status == 426 ? "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" : NULL,
        .close = true,
    };

    gf_metric_add(GF_M_WS_REFUSED, 1);
    gf_http_respond_problem(req, &problem);
}

static struct gf_ws_frame *switching_protocols(struct gf_slice key, const char *protocol)
{
    char text[KEY_LEN + sizeof(WS_GUID)], accept[GF_BASE64_SIZE(20)], head[512];
    uint8_t digest[20];
    int len;

    memcpy(text, key.ptr, KEY_LEN);
    memcpy(text + KEY_LEN, WS_GUID, sizeof(WS_GUID));
    gf_sha1(text, KEY_LEN + sizeof(WS_GUID) - 1, digest);
    gf_base64_encode(digest, sizeof(digest), accept);
    len = snprintf(head, sizeof(head),
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
                   accept, protocol ? "Sec-WebSocket-Protocol: " : "", protocol ? protocol : "", protocol ? "\r\n" : "");
    GF_ASSERT(len > 0 && (size_t)len < sizeof(head));
    return gf_ws_frame_raw(head, (size_t)len);
}

struct gf_ws *gf_ws_accept(struct gf_http_req *req, const char *protocol, const struct gf_ws_handler *handler)
{
    int status, bytes = SEND_BUFFER_BYTES;
    const char *fault = handshake_fault(req, &status);
    struct gf_ws_frame *answer;
    struct gf_slice rest;
    struct gf_ws *ws;
    uv_tcp_t *tcp;

    GF_ASSERT(handler->message_max > 0 && handler->queue_frames > 0 && handler->queue_bytes > 0);
    if (fault != NULL) {
        refuse(req, status, fault);
        return NULL;
    }
    answer = switching_protocols(gf_http_header(req, "sec-websocket-key", NULL), protocol);
    tcp = gf_http_take(req, &rest);
    ws = gf_ws_conn_create(tcp, handler, WS_OPEN);
    gf_metric_add(GF_M_WS_CONNECTIONS, 1);
    (void)uv_send_buffer_size((uv_handle_t *)tcp, &bytes); /* a bound on memory; the heartbeat bounds time anyway */
    gf_ws_conn_push(ws, answer);
    if (ws->state == WS_OPEN && gf_ws_conn_start_reading(ws) != 0)
        gf_ws_conn_kill(ws);
    if (ws->state != WS_OPEN)
        return ws; /* the client has gone: on_close follows as for any other */
    if (rest.len > 0) {
        ws->rest = gf_xmalloc(sizeof(*ws->rest));
        gf_buf_init(ws->rest, rest.len);
        gf_buf_add(ws->rest, rest.ptr, rest.len);
        gf_ws_conn_set_deadline(ws, 0);
    } else {
        gf_ws_conn_start_heartbeat(ws);
    }
    return ws;
}
