/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of the gateway share. gateway.c is the role; hub.c rooms and fan-out; live.c the handshake of clients;
 * routers.c the links from routers; announce.c the entry in Redis; page.c the live-room page. One loop thread. */
#include "gf/crypto.h"
#include "gf/framed.h"
#include "gf/http.h"
#include "gf/link.h"
#include "gf/loop.h"
#include "gf/ops.h"
#include "gf/redis.h"
#include "hub.h"

#define GATEWAY_CLOSE_EXPIRED 4401
#define GATEWAY_CLOSE_RESTART 1012
#define GATEWAY_CLOSE_NOT_JSON 1007

struct router_link {
    struct gf_framed *peer;
    struct router_link *next;
};

struct routers {
    struct gf_framed_listener *listener;
    struct router_link *links;
    struct gf_buf changes; /* joins and leaves of this turn */
    int change_count;
    struct hub *hub;
    const char *id;
    bool ever_linked; /* some router has come */
    bool closed;
};

struct announce {
    struct gf_redis *redis;
    struct gf_timer *timer, *soon; /* every gateway.announce; shortly after a change */
    const struct hub *hub;
    const struct gf_config *config;
    int64_t first_ms; /* monotonic: when Redis was told of us for the first time; 0: not yet */
    char key[64], index_key[64], member[300], address[256];
    bool changed, gone;
};

struct gateway {
    const struct gf_config *config;
    struct gf_loop *loop;
    struct gf_ops *ops;
    struct gf_http_server *http;
    struct gf_jwt *jwt;
    struct gf_redis *redis;
    struct gf_ws_handler ws_handler;
    struct hub hub;
    struct routers routers;
    struct announce announce;
    struct gf_timer *expiry, *drain;
    int64_t next_expiry_s; /* the earliest of all clients */
    int64_t started_ms, drain_until_ms;
    int connections_max; /* clients, and those who are not yet */
    char id[GF_LINK_ID + 1]; /* of this process */
    bool found; /* by the routers, once: stays */
    bool draining;
};

/* live.c */
void live_setup(struct gateway *gateway);
bool live_on_upgrade(struct gf_http_req *req, void *ctx);
void live_close_expired(struct gateway *gateway);

/* page.c */
extern const char page_html[]; /* generated from page.html */
extern const size_t page_html_len;
void page_on_request(struct gf_http_req *req, void *ctx);

/* routers.c */
GF_NODISCARD enum gf_class routers_listen(struct routers *routers, struct gf_loop *loop, const struct gf_config *config,
                                          struct gf_error *error_r);
void routers_change(struct routers *routers, int64_t room_id, bool opened);
void routers_flush(struct routers *routers); /* at the end of a turn */
void routers_close(struct routers *routers);

/* announce.c */
void announce_start(struct announce *announce, struct gf_loop *loop, const char *id);
void announce_now(struct announce *announce);
void announce_change(struct announce *announce); /* the room set is another: publish soon */
void announce_remove(struct announce *announce); /* drain: routers shall not come any more */
void announce_close(struct announce *announce);
