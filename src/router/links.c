/* SPDX-License-Identifier: Apache-2.0 */
/* Links to gateways. Redis names them (gf<E>:gws, see src/gateway/announce.c); each is told apart by the id that it says in
 * its HELLO, so a new process at an old address is never taken for the old one, nor linked twice. Redis is needed to find
 * new gateways only: a link that stands stays, whatever Redis says.
 * Failures: a link that breaks is tried again, at once if it stood for a while, then with back-off, while Redis names the
 * gateway or is away, and forgotten when it does not. */
#include "router.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"

#define RETRY_BASE_MS 100
#define RETRY_MAX_MS 5000
#define HELLO_MS 10000 /* from the attempt to connect */
#define STOOD_MS 1000  /* a link that stood so long is made again at once: no loop with a gateway that always breaks it */
#define GATEWAYS_MAX 4096

struct link_room {
    struct gf_map_node node;
};

static void free_room(void *ctx, struct gf_map_node *node)
{
    (void)ctx;
    free(GF_CONTAINER(node, struct link_room, node));
}

static void forget_rooms(struct link *link)
{
    gf_map_each(&link->rooms, free_room, NULL);
    gf_map_free(&link->rooms);
}

static void free_link(struct links *links, struct link *link)
{
    struct link **at = &links->all;

    GF_ASSERT(link->peer == NULL);
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    forget_rooms(link);
    gf_buf_free(&link->batch);
    free(link);
}

/* ---- one link */

static void take_changes(struct link *link, struct gf_link_cursor *cursor)
{
    struct gf_map_node *node;
    int64_t room_id;
    bool join;

    while (gf_link_next_change(cursor, &join, &room_id)) {
        node = gf_map_find(&link->rooms, (uint64_t)room_id);
        if (join && node == NULL) {
            struct link_room *room = gf_xcalloc(1, sizeof(*room));

            gf_map_add(&link->rooms, &room->node, (uint64_t)room_id);
        } else if (!join && node != NULL) {
            gf_map_remove(&link->rooms, node);
            free_room(NULL, node);
        }
    }
    if (cursor->bad)
        gf_framed_close(link->peer, "malformed changes");
}

static void take_hello(struct link *link, const char *bytes, size_t len)
{
    char id[GF_LINK_ID + 1];

    if (!gf_link_read_hello(bytes, len, id)) {
        gf_framed_close(link->peer, "malformed hello or another version");
    } else if (strcmp(id, link->id) != 0) {
        gf_framed_close(link->peer, "another gateway lives at this address now");
    } else {
        link->state = LINK_UP;
        link->attempts = 0;
        link->missed = false;
        link->up_ms = gf_clock_mono_ms();
        gf_metric_set(GF_M_ROUTER_GATEWAYS, ++link->links->up);
        gf_log(GF_INFO, "gateway_linked", "gateway=%s address=%s:%d", link->id, link->host, link->port);
        link->links->on_change(link->links->ctx);
    }
}

static void take_ack(struct link *link, const char *bytes, size_t len)
{
    uint64_t number;

    if (!gf_link_read_ack(bytes, len, &number) || number > link->sent || number < link->acked) {
        gf_framed_close(link->peer, "malformed acknowledgement");
        return;
    }
    link->acked = number;
    link->links->on_change(link->links->ctx);
}

static void on_message(void *ctx, struct gf_framed *peer, const char *bytes, size_t len)
{
    struct link *link = ctx;
    struct gf_link_cursor cursor;

    if (gf_link_read_changes(bytes, len, &cursor))
        take_changes(link, &cursor);
    else if (link->state == LINK_CONNECTING)
        take_hello(link, bytes, len);
    else if (link->state == LINK_UP)
        take_ack(link, bytes, len);
    else
        gf_framed_close(peer, "malformed message");
}

static bool owes(const struct link *link)
{
    return link->state == LINK_UP && link->acked < link->sent;
}

static void connect_link(struct link *link);

static void on_close(void *ctx, struct gf_framed *peer, const char *reason)
{
    struct link *link = ctx;
    struct links *links = link->links;
    int64_t now_ms = gf_clock_mono_ms();

    GF_ASSERT(link->peer == peer);
    if (link->state == LINK_UP)
        gf_metric_set(GF_M_ROUTER_GATEWAYS, --links->up);
    gf_log(link->state == LINK_UP ? GF_WARN : GF_INFO, "gateway_lost", "gateway=%s address=%s:%d reason=\"%s\"", link->id,
           link->host, link->port, reason);
    links->owed |= owes(link);
    link->missed = link->state == LINK_UP && link->listed && now_ms >= link->up_ms + STOOD_MS;
    links->lost |= link->missed;
    link->state = LINK_DOWN;
    link->peer = NULL;
    link->sent = link->acked = 0;
    forget_rooms(link);
    gf_buf_reset(&link->batch);
    if (!link->missed)
        link->retry_ms = now_ms + gf_backoff_ms(link->attempts++, RETRY_BASE_MS, RETRY_MAX_MS);
    if (!link->listed)
        free_link(links, link);
    else if (link->missed)
        connect_link(link);
    if (links->on_change != NULL)
        links->on_change(links->ctx);
}

static void connect_link(struct link *link)
{
    struct gf_framed_handler handler = {
        .on_message = on_message,
        .on_close = on_close,
        .ctx = link,
        .message_max = GF_LINK_MESSAGE_MAX,
        .unsent_max = GF_LINK_UNSENT_MAX,
    };

    link->state = LINK_CONNECTING;
    link->connected_ms = gf_clock_mono_ms();
    link->peer = gf_framed_connect(link->links->loop, link->host, link->port, &handler);
}

/* ---- sending */

static void send_batch(struct link *link)
{
    GF_ASSERT(gf_buf_ok(&link->batch));
    (void)gf_framed_send(link->peer, link->batch.data, link->batch.len); /* a failed link closes by itself */
    gf_buf_reset(&link->batch);
}

static bool concerns(const struct link *link, const struct gf_link_entry *entry)
{
    return entry->to == GF_LINK_TO_USER || gf_map_find(&link->rooms, (uint64_t)entry->room_id) != NULL;
}

void links_add(struct links *links, const struct gf_link_entry *entry)
{
    for (struct link *link = links->all; link != NULL; link = link->next) {
        if (link->state != LINK_UP || !concerns(link, entry))
            continue;
        if (link->batch.len == 0)
            gf_link_begin_batch(&link->batch, ++link->sent);
        gf_link_add_entry(&link->batch, entry);
        if (link->batch.len > GF_LINK_BATCH_BYTES)
            send_batch(link);
    }
}

void links_send(struct links *links)
{
    for (struct link *link = links->all; link != NULL; link = link->next)
        if (link->batch.len > 0)
            send_batch(link);
}

bool links_acked(const struct links *links)
{
    for (const struct link *link = links->all; link != NULL; link = link->next)
        if (owes(link))
            return false;
    return true;
}

void links_drop_late(struct links *links)
{
    for (struct link *link = links->all; link != NULL; link = link->next) {
        if (!owes(link))
            continue;
        gf_metric_add(GF_M_ROUTER_ACK_TIMEOUTS, 1);
        gf_framed_close(link->peer, "no acknowledgement in time");
    }
}

/* ---- discovery */

static struct link *find_link(const struct links *links, const char *id)
{
    struct link *link = links->all;

    while (link != NULL && strcmp(link->id, id) != 0)
        link = link->next;
    return link;
}

/* "<id> <host>:<port>" */
static bool parse_member(const char *text, size_t len, struct link *link)
{
    const char *host = text + GF_LINK_ID + 1, *colon = memrchr(text, ':', len);
    size_t host_len;
    int64_t port;

    if (len < GF_LINK_ID + 4 || text[GF_LINK_ID] != ' ' || colon == NULL || colon <= host)
        return false;
    host_len = (size_t)(colon - host);
    if (host_len >= sizeof(link->host) ||
        !gf_num_parse_i64(colon + 1, (size_t)(text + len - colon - 1), 1, UINT16_MAX, &port))
        return false;
    memcpy(link->id, text, GF_LINK_ID);
    link->id[GF_LINK_ID] = '\0';
    memcpy(link->host, host, host_len);
    link->host[host_len] = '\0';
    link->port = (int)port;
    return true;
}

static void see_member(struct links *links, const char *text, size_t len)
{
    struct link seen = {0}, *link;

    if (!parse_member(text, len, &seen)) {
        gf_log(GF_WARN, "gateway_entry_malformed", "key=%s len=%zu", links->index_key, len);
        return;
    }
    link = find_link(links, seen.id);
    if (link == NULL) {
        link = gf_xcalloc(1, sizeof(*link));
        *link = seen;
        link->links = links;
        gf_buf_init(&link->batch, GF_LINK_MESSAGE_MAX);
        link->next = links->all;
        links->all = link;
    }
    link->listed = true;
}

static void connect_all(struct links *links)
{
    int64_t now_ms = gf_clock_mono_ms();
    struct link *link, *next;

    for (link = links->all; link != NULL; link = next) {
        next = link->next;
        if (link->state == LINK_CONNECTING && now_ms > link->connected_ms + HELLO_MS)
            gf_framed_close(link->peer, "no hello in time");
        if (link->peer != NULL)
            continue;
        if (!link->listed)
            free_link(links, link);
        else if (now_ms >= link->retry_ms)
            connect_link(link);
    }
}

static void on_members(void *ctx, const struct gf_reply *reply)
{
    struct links *links = ctx;
    size_t count;

    links->looking = false;
    if (reply != NULL && gf_reply_type(reply) == GF_REPLY_ERROR)
        gf_log(GF_WARN, "gateways_not_read", "key=%s error=\"%s\"", links->index_key, gf_reply_text(reply, NULL));
    if (reply == NULL || gf_reply_type(reply) != GF_REPLY_ARRAY)
        return; /* Redis is away, or refuses: what we know stays */
    for (struct link *link = links->all; link != NULL; link = link->next)
        link->listed = false;
    count = gf_reply_count(reply);
    for (size_t i = 0; i < count && i < GATEWAYS_MAX; i++) {
        const struct gf_reply *member = gf_reply_at(reply, i);
        size_t len;

        if (gf_reply_type(member) == GF_REPLY_TEXT) {
            const char *text = gf_reply_text(member, &len);

            see_member(links, text, len);
        }
    }
    connect_all(links);
    links->looked = true;
    links->on_change(links->ctx);
}

static void look(void *ctx)
{
    struct links *links = ctx;
    struct gf_redis_arg args[4] = {
        {"ZRANGE", 6}, {links->index_key, strlen(links->index_key)}, {"0", 1}, {"-1", 2}};

    connect_all(links); /* what is known needs no Redis */
    if (links->looking || !gf_redis_up(links->redis))
        return;
    links->looking = gf_redis_command(links->redis, args, GF_COUNT(args), on_members, links) == GF_OK;
}

static void on_redis_up(void *ctx)
{
    look(ctx);
}

void links_start(struct links *links)
{
    snprintf(links->index_key, sizeof(links->index_key), "gf%" PRId64 ":gws", links->config->redis_epoch);
    links->redis = gf_redis_create(links->loop, links->config, on_redis_up, links);
    links->timer = gf_timer_start(links->loop, links->config->router_discover, links->config->router_discover, look, links);
}

bool links_settled(const struct links *links)
{
    for (const struct link *link = links->all; link != NULL; link = link->next)
        if (link->missed || (link->state == LINK_CONNECTING && link->attempts == 0))
            return false;
    return links->looked && links->all != NULL;
}

void links_stop(struct links *links)
{
    struct link *link, *next;

    links->on_change = NULL;
    gf_timer_close(&links->timer);
    if (links->redis != NULL)
        gf_redis_close(&links->redis);
    for (link = links->all; link != NULL; link = next) {
        next = link->next;
        link->listed = false; /* its on_close frees it */
        if (link->peer != NULL)
            gf_framed_close(link->peer, "router stops");
        else
            free_link(links, link);
    }
}
