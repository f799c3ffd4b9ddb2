/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of the router share. router.c is the role and the consumer; links.c finds gateways and keeps the links to
 * them. One loop thread. */
#include "gf/config.h"
#include "gf/framed.h"
#include "gf/link.h"
#include "gf/loop.h"
#include "gf/map.h"
#include "gf/redis.h"

enum link_state {
    LINK_DOWN,       /* the next tick connects again, not before retry_ms */
    LINK_CONNECTING, /* until the gateway's HELLO */
    LINK_UP,
};

struct link {
    struct links *links;
    char id[GF_LINK_ID + 1];
    char host[256];
    int port;
    enum link_state state;
    struct gf_framed *peer; /* NULL: down and closed */
    struct gf_map rooms;    /* of struct link_room */
    struct gf_buf batch;    /* begun and not yet sent */
    uint64_t sent, acked;   /* batch numbers */
    int64_t retry_ms, connected_ms, up_ms; /* monotonic: not before; last attempt; its HELLO */
    int attempts;
    bool listed; /* in Redis at the last look-up */
    bool missed; /* it was up, and the attempt to link it again has not ended yet */
    struct link *next;
};

struct links {
    struct gf_loop *loop;
    struct gf_redis *redis;
    const struct gf_config *config;
    struct link *all;
    struct gf_timer *timer;
    char index_key[64];
    int up;
    bool looked;  /* the index was read at least once */
    bool looking; /* a reply is awaited */
    bool lost;    /* a gateway that Redis names was lost; the router takes it back */
    bool owed;    /* some link has ended that owed an acknowledgement; the router takes it back */
    gf_loop_fn on_change; /* a gateway has acknowledged, is linked or gone; the index was read */
    void *ctx;
};

void links_start(struct links *links);
void links_add(struct links *links, const struct gf_link_entry *entry); /* to every gateway concerned; leaves at links_send */
void links_send(struct links *links);
bool links_acked(const struct links *links);  /* nobody owes an acknowledgement */
void links_drop_late(struct links *links);    /* closes those who do */
bool links_settled(const struct links *links); /* every gateway that Redis names is linked or has been tried, a lost one again */
void links_stop(struct links *links);
