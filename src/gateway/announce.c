/* SPDX-License-Identifier: Apache-2.0 */
/* This gateway's entry in Redis, by which routers find it. Two keys, written every gateway.announce and soon after a change:
 *   gf<E>:gw:<id>   JSON: address for routers and the room set; TTL three times gateway.announce
 *   gf<E>:gws       sorted set of "<id> <address>", score = when the entry ends (ms): the index that routers read. Looking
 *                   for gf<E>:gw:* with SCAN would walk every wallet in Redis each time.
 * Entries of gateways that died are taken out by the others, by the clock of Redis: a gateway whose own is ahead would take
 * out the living. Nothing here is needed while links stand: Redis may be away or be flushed at any moment. */
#include "gateway.h"

#include <inttypes.h>
#include <stdio.h>

#include "gf/clock.h"
#include "gf/log.h"

#define SOON_MS 250
#define ROOMS_PER_MS 10
#define VALUE_MAX (32 * 1024 * 1024)

static struct gf_redis_arg text_arg(const char *text)
{
    return (struct gf_redis_arg){text, strlen(text)};
}

/* A grant that is missing, say, or a key of another type: routers do not find this gateway, and nothing else would tell. */
static void on_answer(void *ctx, const struct gf_reply *reply)
{
    const struct announce *announce = ctx;

    if (reply != NULL && gf_reply_type(reply) == GF_REPLY_ERROR)
        gf_log(GF_WARN, "announce_refused", "key=%s index=%s error=\"%s\"", announce->key, announce->index_key,
               gf_reply_text(reply, NULL));
}

static void send(struct announce *announce, const struct gf_redis_arg *args, size_t count)
{
    if (gf_redis_command(announce->redis, args, count, on_answer, announce) != GF_OK)
        announce->changed = true; /* not connected: on_up announces again */
}

static void add_room(void *ctx, struct gf_map_node *node)
{
    struct gf_buf *value = ctx;

    if (value->data[value->len - 1] != '[')
        gf_buf_addc(value, ',');
    gf_buf_add_i64(value, (int64_t)node->key);
}

static void put_key(struct announce *announce, int64_t ttl_ms)
{
    struct gf_redis_arg args[5];
    struct gf_buf value;
    char ttl[24];

    gf_buf_init(&value, VALUE_MAX);
    gf_buf_addf(&value, "{\"address\":\"%s\",\"rooms\":[", announce->address);
    gf_map_each(&announce->hub->rooms, add_room, &value);
    gf_buf_adds(&value, "]}");
    snprintf(ttl, sizeof(ttl), "%" PRId64, ttl_ms);
    args[0] = text_arg("SET");
    args[1] = text_arg(announce->key);
    args[2] = (struct gf_redis_arg){value.data, value.len};
    args[3] = text_arg("PX");
    args[4] = text_arg(ttl);
    if (gf_buf_ok(&value))
        send(announce, args, GF_COUNT(args));
    gf_buf_free(&value);
}

static void put_index(struct announce *announce, int64_t ttl_ms)
{
    static const char script[] =
        "local time = redis.call('TIME')\n"
        "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
        "redis.call('ZADD', KEYS[1], string.format('%d', now + ARGV[2]), ARGV[1])\n"
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now))\n";
    struct gf_redis_arg args[6];
    char ttl[24];

    snprintf(ttl, sizeof(ttl), "%" PRId64, ttl_ms);
    args[0] = text_arg("EVAL");
    args[1] = text_arg(script);
    args[2] = text_arg("1");
    args[3] = text_arg(announce->index_key);
    args[4] = text_arg(announce->member);
    args[5] = text_arg(ttl);
    send(announce, args, GF_COUNT(args));
}

void announce_now(struct announce *announce)
{
    int64_t ttl_ms = 3 * announce->config->gateway_announce;

    if (announce->gone || announce->redis == NULL || !gf_redis_up(announce->redis))
        return;
    announce->changed = false;
    if (announce->first_ms == 0)
        announce->first_ms = gf_clock_mono_ms();
    put_key(announce, ttl_ms);
    put_index(announce, ttl_ms);
}

static void on_timer(void *ctx)
{
    announce_now(ctx);
}

static void on_soon(void *ctx)
{
    struct announce *announce = ctx;

    if (announce->changed && gf_redis_up(announce->redis))
        announce_now(announce);
}

void announce_change(struct announce *announce)
{
    if (announce->changed || announce->gone)
        return;
    announce->changed = true;
    /* Many joins, one write; and the longer the list, the rarer: routers do not wait for it. */
    gf_timer_reset(announce->soon, SOON_MS + (int64_t)announce->hub->rooms.count / ROOMS_PER_MS, 0);
}

void announce_start(struct announce *announce, struct gf_loop *loop, const char *id)
{
    int64_t every_ms = announce->config->gateway_announce;

    snprintf(announce->key, sizeof(announce->key), "gf%" PRId64 ":gw:%s", announce->config->redis_epoch, id);
    snprintf(announce->index_key, sizeof(announce->index_key), "gf%" PRId64 ":gws", announce->config->redis_epoch);
    snprintf(announce->member, sizeof(announce->member), "%s %s", id, announce->address);
    announce->timer = gf_timer_start(loop, every_ms, every_ms, on_timer, announce);
    announce->soon = gf_timer_start(loop, every_ms, 0, on_soon, announce);
}

void announce_remove(struct announce *announce)
{
    struct gf_redis_arg del[2] = {text_arg("DEL"), text_arg(announce->key)};
    struct gf_redis_arg rem[3] = {text_arg("ZREM"), text_arg(announce->index_key), text_arg(announce->member)};

    announce->gone = true;
    send(announce, del, GF_COUNT(del)); /* not there: the entry ends by itself */
    send(announce, rem, GF_COUNT(rem));
}

void announce_close(struct announce *announce)
{
    gf_timer_close(&announce->timer);
    gf_timer_close(&announce->soon);
}
