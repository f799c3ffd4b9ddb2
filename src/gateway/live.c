/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/live?room=&since=&user_since=: who may enter, and what a client's life is.
 * Other paths are the page's. Order of checks: 400 room and resume points, 403 origin, 401 token, 503 full or draining, then
 * the handshake itself (400/426 by gf_ws_accept). The token travels as a second sub-protocol, `bearer.<jwt>`, because browsers cannot set
 * headers on a WebSocket and a token in the URL would be in every log; the answer names giftflow.v1 only.
 * Clients have nothing to say: any JSON text is ignored (an application's keep-alive, say), other text closes with 1007. */
#include "gateway.h"

#include <strings.h>

#include "gf/clock.h"
#include "gf/json.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"

#define PROTOCOL "giftflow.v1"
#define BEARER "bearer."
#define REFUSED_MIN 64

struct entry { /* what a client asks for */
    int64_t room_id;
    bool since, user_since;
    struct gf_jwt_claims claims;
};

static bool refuse(struct gf_http_req *req, int status, const char *code, const char *detail)
{
    struct gf_http_problem problem = {
        .status = status,
        .code = code,
        .detail = detail,
        .headers = status == 401   ? "WWW-Authenticate: Bearer\r\n"
                   : status == 503 ? "Retry-After: 1\r\n"
                                   : NULL,
        .close = true,
    };

    gf_metric_add(GF_M_WS_REFUSED, 1);
    gf_http_respond_problem(req, &problem);
    return false;
}

static bool read_query(struct gf_http_req *req, struct entry *entry)
{
    struct gf_slice room = gf_http_query(req, "room");
    struct gf_slice since = gf_http_query(req, "since"), user_since = gf_http_query(req, "user_since");
    int64_t seq;

    entry->since = since.ptr != NULL;
    entry->user_since = user_since.ptr != NULL;
    return room.ptr != NULL && gf_num_parse_i64(room.ptr, room.len, 1, GF_ID_MAX, &entry->room_id) &&
           (!entry->since || gf_num_parse_i64(since.ptr, since.len, 0, INT64_MAX, &seq)) &&
           (!entry->user_since || gf_num_parse_i64(user_since.ptr, user_since.len, 0, INT64_MAX, &seq));
}

/* The next item of a comma-separated list, without white space around it; empty at the end. */
static struct gf_slice next_item(struct gf_slice *list)
{
    const char *at = list->ptr, *end = list->ptr + list->len, *to;
    struct gf_slice item;

    while (at < end && (*at == ' ' || *at == '\t' || *at == ','))
        at++;
    for (to = at; to < end && *to != ','; to++)
        ;
    *list = (struct gf_slice){to, (size_t)(end - to)};
    while (to > at && (to[-1] == ' ' || to[-1] == '\t'))
        to--;
    item = (struct gf_slice){at, (size_t)(to - at)};
    return item;
}

static bool slices_equal(struct gf_slice a, struct gf_slice b)
{
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

/* Pages of other sites must not open rooms with a visitor's token. Exact match of scheme, host and port. A client that is no
 * browser sends no Origin. */
static bool origin_allowed(const struct gateway *gateway, const struct gf_http_req *req)
{
    int count = 0;
    struct gf_slice origin = gf_http_header(req, "origin", &count), host = gf_http_header(req, "host", NULL);
    struct gf_slice list = {gateway->config->gateway_origins, strlen(gateway->config->gateway_origins)}, item;
    static const char *const schemes[] = {"http://", "https://"};

    if (origin.ptr == NULL)
        return true;
    if (count != 1)
        return false;
    for (size_t i = 0; list.len == 0 && host.ptr != NULL && i < GF_COUNT(schemes); i++) {
        size_t len = strlen(schemes[i]);

        if (origin.len == len + host.len && memcmp(origin.ptr, schemes[i], len) == 0 &&
            strncasecmp(origin.ptr + len, host.ptr, host.len) == 0)
            return true;
    }
    while ((item = next_item(&list)).len > 0)
        if (slices_equal(item, origin))
            return true;
    return false;
}

static bool read_token(struct gateway *gateway, const struct gf_http_req *req, struct entry *entry,
                       struct gf_error *error_r)
{
    int count = 0;
    struct gf_slice list = gf_http_header(req, "sec-websocket-protocol", &count), item, token = {NULL, 0};
    bool ours = false;

    if (list.ptr == NULL || count != 1) {
        (void)gf_fail(error_r, GF_REJECT, 0, "Sec-WebSocket-Protocol must be " PROTOCOL ", " BEARER "<token>");
        return false;
    }
    while ((item = next_item(&list)).len > 0) {
        if (gf_slice_is(item, PROTOCOL))
            ours = true;
        else if (item.len > strlen(BEARER) && memcmp(item.ptr, BEARER, strlen(BEARER)) == 0)
            token = (struct gf_slice){item.ptr + strlen(BEARER), item.len - strlen(BEARER)};
    }
    if (!ours || token.ptr == NULL) {
        (void)gf_fail(error_r, GF_REJECT, 0, "Sec-WebSocket-Protocol must be " PROTOCOL ", " BEARER "<token>");
        return false;
    }
    return gf_jwt_verify(gateway->jwt, token.ptr, token.len, gf_clock_real_ms() / 1000, &entry->claims, error_r) == GF_OK;
}

/* True: answered nothing, the client may enter. */
static bool may_enter(struct gateway *gateway, struct gf_http_req *req, struct entry *entry)
{
    struct gf_error error;

    if (!read_query(req, entry))
        return refuse(req, 400, "malformed", "room must be 1..2^53-1, since and user_since are seqs of frames");
    if (!origin_allowed(gateway, req))
        return refuse(req, 403, "origin_not_allowed", "pages of this origin may not connect");
    if (!read_token(gateway, req, entry, &error))
        return refuse(req, 401, "unauthorized", error.text);
    if (gateway->draining)
        return refuse(req, 503, "unavailable", "restarting");
    if (gateway->hub.client_count >= (size_t)gateway->connections_max)
        return refuse(req, 503, "unavailable", "too many connections");
    return true;
}

/* This gateway keeps no history: who resumes reads what it has missed elsewhere, from this seq on. */
static void send_history_lost(struct gf_ws *ws, const char *channel, int64_t seq)
{
    struct gf_ws_frame *frame;
    struct gf_buf text;

    gf_buf_init(&text, 128);
    gf_buf_addf(&text, "{\"code\":\"history_lost\",\"ch\":\"%s\",\"seq\":%lld}", channel, (long long)seq);
    frame = gf_ws_frame_text(text.data, text.len, 1);
    (void)gf_ws_send(ws, frame, false);
    gf_ws_frame_release(&frame);
    gf_buf_free(&text);
}

/* Those who have not entered have the descriptors that clients leave; a few always, to be refused. */
static void share_connections(struct gateway *gateway)
{
    int left = gateway->connections_max - (int)gateway->hub.client_count;

    if (gateway->http != NULL)
        gf_http_server_limit(gateway->http, left > REFUSED_MIN ? left : REFUSED_MIN);
}

bool live_on_upgrade(struct gf_http_req *req, void *ctx)
{
    struct gateway *gateway = ctx;
    struct entry entry = {0};
    struct hub_client *client;
    struct gf_ws *ws;

    if (!gf_slice_is(gf_http_path(req), "/v1/live"))
        return false; /* an offer may be ignored, of HTTP/2 say */
    if (!may_enter(gateway, req, &entry))
        return true;
    ws = gf_ws_accept(req, PROTOCOL, &gateway->ws_handler);
    if (ws == NULL)
        return true;
    client = hub_join(&gateway->hub, ws, entry.claims.user_id, entry.room_id);
    share_connections(gateway);
    client->expires_s = entry.claims.expires_s;
    if (client->expires_s < gateway->next_expiry_s)
        gateway->next_expiry_s = client->expires_s;
    gf_ws_set_user(ws, client);
    if (entry.since)
        send_history_lost(ws, "room", client->room->last_seq);
    if (entry.user_since)
        send_history_lost(ws, "user", 0);
    return true;
}

static void on_text(void *ctx, struct gf_ws *ws, const char *text, size_t len)
{
    (void)ctx;
    if (gf_json_valid(text, len))
        return;
    gf_metric_add(GF_M_WS_BAD, 1);
    gf_ws_close(ws, GATEWAY_CLOSE_NOT_JSON, "not JSON");
}

static void on_close(void *ctx, struct gf_ws *ws)
{
    struct gateway *gateway = ctx;

    hub_leave(&gateway->hub, gf_ws_user(ws));
    share_connections(gateway);
}

void live_setup(struct gateway *gateway)
{
    const struct gf_config *config = gateway->config;

    gateway->next_expiry_s = INT64_MAX;
    gateway->ws_handler = (struct gf_ws_handler){
        .on_text = on_text,
        .on_close = on_close,
        .ctx = gateway,
        .message_max = (size_t)config->gateway_message_max,
        .queue_frames = (int)config->gateway_queue_frames,
        .queue_bytes = config->gateway_queue_bytes,
        .ping_ms = config->gateway_ping,
    };
}

/* Once a second; looks at the clients only when one of them has expired. */
void live_close_expired(struct gateway *gateway)
{
    int64_t now_s = gf_clock_real_ms() / 1000, next_s = INT64_MAX;

    if (now_s < gateway->next_expiry_s)
        return;
    for (struct hub_client *client = gateway->hub.clients; client != NULL; client = client->next) {
        if (!gf_ws_is_open(client->ws))
            continue;
        if (client->expires_s <= now_s)
            gf_ws_close(client->ws, GATEWAY_CLOSE_EXPIRED, "token expired");
        else if (client->expires_s < next_s)
            next_s = client->expires_s;
    }
    gateway->next_expiry_s = next_s;
}
