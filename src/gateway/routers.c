/* SPDX-License-Identifier: Apache-2.0 */
/* Links from routers (gf/link.h): tells each of them the room set, takes batches of frames, acknowledges.
 * A router that breaks the protocol or does not read is dropped; it comes back and is told everything again. */
#include "gateway.h"

#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"

static void send_changes(struct routers *routers, struct gf_framed *only)
{
    if (routers->change_count == 0)
        return;
    GF_ASSERT(gf_buf_ok(&routers->changes));
    for (struct router_link *link = routers->links; only == NULL && link != NULL; link = link->next)
        (void)gf_framed_send(link->peer, routers->changes.data, routers->changes.len); /* a failed one closes by itself */
    if (only != NULL)
        (void)gf_framed_send(only, routers->changes.data, routers->changes.len);
    gf_buf_reset(&routers->changes);
    routers->change_count = 0;
}

static void add_change(struct routers *routers, struct gf_framed *only, int64_t room_id, bool opened)
{
    if (routers->change_count == 0)
        gf_link_begin_changes(&routers->changes);
    gf_link_add_change(&routers->changes, opened, room_id);
    if (++routers->change_count == GF_LINK_CHANGES_MAX)
        send_changes(routers, only);
}

struct telling {
    struct routers *routers;
    struct gf_framed *peer;
};

static void tell_room(void *ctx, struct gf_map_node *node)
{
    struct telling *telling = ctx;

    add_change(telling->routers, telling->peer, (int64_t)node->key, true);
}

static void on_open(void *ctx, struct gf_framed *peer)
{
    struct routers *routers = ctx;
    struct router_link *link = gf_xcalloc(1, sizeof(*link));
    struct telling telling = {.routers = routers, .peer = peer};
    struct gf_buf hello;

    send_changes(routers, NULL); /* the buffer is needed for the whole set */
    routers->ever_linked = true;
    link->peer = peer;
    link->next = routers->links;
    routers->links = link;
    gf_framed_set_user(peer, link);
    gf_map_each(&routers->hub->rooms, tell_room, &telling);
    send_changes(routers, peer);
    gf_buf_init(&hello, 64);
    gf_link_add_hello(&hello, routers->id);
    (void)gf_framed_send(peer, hello.data, hello.len);
    gf_buf_free(&hello);
    gf_log(GF_INFO, "router_linked", "rooms=%zu", routers->hub->rooms.count);
}

static void take_entry(struct hub *hub, const struct gf_link_entry *entry, int64_t now_ms)
{
    if (entry->ts_ms > 0 && now_ms >= entry->ts_ms)
        gf_histogram_observe_us(GF_H_NOTICE_AGE_SECONDS, (now_ms - entry->ts_ms) * 1000);
    if (entry->to == GF_LINK_TO_ROOM)
        hub_push_room(hub, entry->room_id, entry->seq, entry->text, entry->len);
    else
        hub_push_user(hub, entry->user_id, entry->to == GF_LINK_TO_USER ? 0 : entry->room_id, entry->text, entry->len);
}

static void on_message(void *ctx, struct gf_framed *peer, const char *bytes, size_t len)
{
    struct routers *routers = ctx;
    struct gf_link_cursor cursor;
    struct gf_link_entry entry;
    int64_t now_ms = gf_clock_real_ms();
    struct gf_buf ack;
    uint64_t number;

    if (!gf_link_read_batch(bytes, len, &number, &cursor)) {
        gf_framed_close(peer, "malformed message");
        return;
    }
    while (gf_link_next_entry(&cursor, &entry)) {
        if (entry.len > HUB_FRAME_BYTES)
            cursor.bad = true;
        else
            take_entry(routers->hub, &entry, now_ms);
    }
    if (cursor.bad) {
        gf_framed_close(peer, "malformed batch");
        return;
    }
    gf_buf_init(&ack, 16);
    gf_link_add_ack(&ack, number);
    (void)gf_framed_send(peer, ack.data, ack.len);
    gf_buf_free(&ack);
}

static void on_close(void *ctx, struct gf_framed *peer, const char *reason)
{
    struct routers *routers = ctx;
    struct router_link *gone = gf_framed_user(peer), **at = &routers->links;

    if (gone == NULL)
        return; /* it never opened */
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    free(gone);
    gf_log(GF_INFO, "router_lost", "reason=\"%s\"", reason);
}

enum gf_class routers_listen(struct routers *routers, struct gf_loop *loop, const struct gf_config *config,
                             struct gf_error *error_r)
{
    struct gf_framed_handler handler = {
        .on_open = on_open,
        .on_message = on_message,
        .on_close = on_close,
        .ctx = routers,
        .message_max = GF_LINK_MESSAGE_MAX,
        .unsent_max = GF_LINK_UNSENT_MAX,
    };

    gf_buf_init(&routers->changes, GF_LINK_MESSAGE_MAX);
    return gf_framed_listen(loop, config->gateway_link_bind, (int)config->gateway_link_port, &handler, &routers->listener,
                            error_r);
}

void routers_change(struct routers *routers, int64_t room_id, bool opened)
{
    if (routers->links != NULL && !routers->closed) /* who links later is told the whole set */
        add_change(routers, NULL, room_id, opened);
}

void routers_flush(struct routers *routers)
{
    send_changes(routers, NULL);
}

void routers_close(struct routers *routers)
{
    routers->closed = true;
    gf_framed_listener_close(&routers->listener);
    for (struct router_link *link = routers->links; link != NULL; link = link->next)
        gf_framed_close(link->peer, "gateway stops"); /* on_close comes later: the list holds */
    gf_buf_free(&routers->changes);
    routers->change_count = 0;
}
