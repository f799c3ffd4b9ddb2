/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway: WebSockets of live-room clients. Routers connect to it and send it the frames of its rooms.
 * Owns everything of the process; one loop thread. Once a turn: tell routers about joins and leaves, send what rooms have
 * gathered. It keeps no state that matters: a client that is cut off reconnects to any gateway.
 * SIGTERM: the entry in Redis goes, then the links: what reaches no client any more is not acknowledged. Clients are told to
 * move (1012), then it ends. */
#include "gateway.h"

#include <inttypes.h>
#include <stdio.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/role.h"

#define HEADER_MAX (16 * 1024)
#define BODY_MAX 1024
#define EXPIRY_MS 1000
#define DRAIN_STEP_MS 20
#define FIRST_ROUTER_MS 15000
#define LOOK_MARGIN_MS 500

static void on_change(void *ctx, int64_t room_id, bool opened)
{
    struct gateway *gateway = ctx;

    routers_change(&gateway->routers, room_id, opened);
    announce_change(&gateway->announce);
}

static void on_turn(void *ctx)
{
    struct gateway *gateway = ctx;

    routers_flush(&gateway->routers);
    hub_flush(&gateway->hub);
}

static void on_expiry(void *ctx)
{
    live_close_expired(ctx);
}

static void on_redis_up(void *ctx)
{
    struct gateway *gateway = ctx;

    announce_now(&gateway->announce);
}

/* A new gateway takes clients once the routers have found it, so that the first of them misses nothing. How many routers there
 * are nobody knows: one has linked, and all had the time in which they look. When there is none, a while later. Once linked it stays ready: if all gateways left when the last router restarts, every client would
 * have to reconnect for nothing. */
static bool on_ready(void *ctx, struct gf_buf *reason)
{
    struct gateway *gateway = ctx;
    int64_t now_ms = gf_clock_mono_ms(), look_ms = gateway->config->router_discover + LOOK_MARGIN_MS;

    if (gateway->routers.ever_linked && gateway->announce.first_ms != 0 && now_ms > gateway->announce.first_ms + look_ms)
        gateway->found = true;
    if (gateway->found || now_ms > gateway->started_ms + FIRST_ROUTER_MS)
        return true;
    gf_buf_adds(reason, gf_redis_up(gateway->redis) ? "no router has linked yet"
                                                    : "redis is not connected: routers cannot find this gateway");
    return false;
}

static void on_drain_step(void *ctx)
{
    struct gateway *gateway = ctx;

    if (gateway->hub.client_count == 0 || gf_clock_mono_ms() > gateway->drain_until_ms)
        gf_loop_stop(gateway->loop);
}

static void on_drain(void *ctx)
{
    struct gateway *gateway = ctx;

    gf_log(GF_INFO, "drain_started", "clients=%zu", gateway->hub.client_count);
    gateway->draining = true;
    gf_ops_draining(gateway->ops);
    announce_remove(&gateway->announce);
    gf_http_server_drain(gateway->http);
    routers_close(&gateway->routers); /* before the clients: what is acknowledged must have reached them */
    hub_flush(&gateway->hub);
    for (struct hub_client *client = gateway->hub.clients; client != NULL; client = client->next)
        gf_ws_close(client->ws, GATEWAY_CLOSE_RESTART, "restart"); /* they leave in later turns: the list holds */
    gateway->drain_until_ms = gf_clock_mono_ms() + gateway->config->ops_drain_timeout;
    gateway->drain = gf_timer_start(gateway->loop, DRAIN_STEP_MS, DRAIN_STEP_MS, on_drain_step, gateway);
}

static enum gf_class start_http(struct gateway *gateway, struct gf_error *error_r)
{
    const struct gf_config *config = gateway->config;
    struct gf_http_opts opts = {
        .bind = config->gateway_bind,
        .port = (int)config->gateway_port,
        .header_max = HEADER_MAX,
        .body_max = BODY_MAX,
        .connections_max = gateway->connections_max,
        .header_timeout_ms = config->gateway_handshake_timeout,
        .body_timeout_ms = config->gateway_handshake_timeout,
        .idle_timeout_ms = config->gateway_handshake_timeout,
        .request_timeout_ms = config->gateway_handshake_timeout,
        .count_metrics = true,
    };
    enum gf_class class =
        gf_http_server_create(gateway->loop, &opts, page_on_request, gateway, &gateway->http, error_r);

    if (class == GF_OK)
        gf_http_server_on_upgrade(gateway->http, live_on_upgrade);
    return class;
}

static void make_id(char id_r[GF_LINK_ID + 1])
{
    uint8_t bytes[GF_LINK_ID / 2];

    gf_random_bytes(bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(id_r + 2 * i, 3, "%02x", bytes[i]);
}

static enum gf_class start(struct gateway *gateway, struct gf_error *error_r)
{
    const struct gf_config *config = gateway->config;
    enum gf_class class = gf_jwt_create(config, &gateway->jwt, error_r);

    if (class == GF_OK)
        class = routers_listen(&gateway->routers, gateway->loop, config, error_r);
    if (class == GF_OK)
        class = start_http(gateway, error_r);
    if (class != GF_OK)
        return class;
    if (config->gateway_link_advertise[0] != '\0')
        snprintf(gateway->announce.address, sizeof(gateway->announce.address), "%.200s", config->gateway_link_advertise);
    else
        snprintf(gateway->announce.address, sizeof(gateway->announce.address), "%.100s:%d", config->gateway_link_bind,
                 gf_framed_port(gateway->routers.listener));
    announce_start(&gateway->announce, gateway->loop, gateway->id);
    gateway->redis = gf_redis_create(gateway->loop, config, on_redis_up, gateway);
    gateway->announce.redis = gateway->redis;
    gateway->expiry = gf_timer_start(gateway->loop, EXPIRY_MS, EXPIRY_MS, on_expiry, gateway);
    gf_loop_on_turn(gateway->loop, on_turn, gateway);
    gf_log(GF_INFO, "gateway_started", "id=%s port=%d link=%s", gateway->id, gf_http_server_port(gateway->http),
           gateway->announce.address);
    return gf_ops_start(gateway->loop, config, "gateway", on_ready, gateway, &gateway->ops, error_r);
}

static void stop(struct gateway *gateway)
{
    gf_timer_close(&gateway->drain);
    gf_timer_close(&gateway->expiry);
    if (gateway->announce.timer != NULL)
        announce_close(&gateway->announce);
    gf_ops_close(&gateway->ops);
    gf_http_server_close(&gateway->http);
    for (struct hub_client *client = gateway->hub.clients; client != NULL; client = client->next)
        gf_ws_abort(client->ws); /* those that the drain did not wait for */
    if (gateway->redis != NULL)
        gf_redis_close(&gateway->redis);
    if (gateway->routers.listener != NULL)
        routers_close(&gateway->routers);
    gf_loop_destroy(&gateway->loop);
    gf_jwt_destroy(&gateway->jwt);
    hub_free(&gateway->hub);
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct gateway gateway; /* one per process */
    struct gf_error error;
    int status = 0;

    (void)argc;
    (void)argv;
    gateway.config = config;
    gateway.loop = gf_loop_create();
    gateway.hub.on_change = on_change;
    gateway.hub.ctx = &gateway;
    gateway.routers.hub = &gateway.hub;
    gateway.routers.id = gateway.id;
    gateway.announce.hub = &gateway.hub;
    gateway.announce.config = config;
    gateway.started_ms = gf_clock_mono_ms();
    make_id(gateway.id);
    gateway.connections_max = gf_loop_allow_sockets(config->gateway_connections_max);
    live_setup(&gateway);
    gf_loop_on_signal(gateway.loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, &gateway);
    if (start(&gateway, &error) == GF_OK) {
        gf_loop_run(gateway.loop);
        gf_log(GF_INFO, "gateway_stopped", "clients=%zu", gateway.hub.client_count);
    } else {
        gf_log(GF_ERROR, "start_failed", "error=\"%s\"", error.text);
        gf_loop_stop(gateway.loop);
        status = 1;
    }
    stop(&gateway);
    return status;
}

const struct gf_role gf_role_gateway = {
    .name = "gateway", .summary = "WebSockets of live-room clients", .needs_config = true, .run = run};
