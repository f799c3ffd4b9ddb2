/* SPDX-License-Identifier: Apache-2.0 */
/* The Redis publisher's ring and thread. See publisher.h. */
#include "publisher.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gf/balance.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/point.h"

#define ROUND 1024        /* items sent in one pipeline */
#define REPLAY_MS 30000   /* a new connection gets the items of this long again */
#define PING_MS 1000      /* an idle connection that died is noticed this fast */
#define BACKOFF_MAX_MS 1000

struct publisher {
    const struct gf_config *config;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t added;
    /* locks: lock */
    struct publish_item *ring;
    uint64_t mask, head, sent; /* positions only grow; ring[position & mask] */
    uint64_t cap;
    int64_t stop_ms; /* 0: goes on */
    /* thread: publisher */
    struct gf_redis_sync *redis;
    struct publish_item round[ROUND];
    struct gf_uuid ids[ROUND];
    struct gf_publish wallets[ROUND];
};

static uint64_t smallest_power(uint64_t at_least)
{
    uint64_t power = 2 * ROUND;

    while (power < at_least)
        power *= 2;
    return power;
}

void publisher_add(struct publisher *publisher, struct publish_item *items, int count)
{
    int64_t now_ms = gf_clock_mono_ms();
    uint64_t dropped = 0;

    if (publisher == NULL || count == 0)
        return;
    pthread_mutex_lock(&publisher->lock);
    for (int i = 0; i < count; i++) {
        items[i].added_ms = now_ms;
        publisher->ring[publisher->head++ & publisher->mask] = items[i];
    }
    if (publisher->head - publisher->sent > publisher->cap) {
        dropped = publisher->head - publisher->sent - publisher->cap;
        publisher->sent += dropped;
    }
    gf_metric_set(GF_M_PUBLISH_PENDING, (int64_t)(publisher->head - publisher->sent));
    pthread_cond_signal(&publisher->added);
    pthread_mutex_unlock(&publisher->lock);
    if (dropped > 0)
        gf_metric_add(GF_M_PUBLISH_DROPPED, (int64_t)dropped);
}

/* Waits for items, at most PING_MS; returns how many were copied to round. False: time to end. */
static bool take_round(struct publisher *publisher, int *count_r, uint64_t *end_r)
{
    struct timespec until;
    uint64_t count;
    bool go_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PING_MS / 1000;
    pthread_mutex_lock(&publisher->lock);
    while (publisher->head == publisher->sent && publisher->stop_ms == 0)
        if (pthread_cond_timedwait(&publisher->added, &publisher->lock, &until) != 0)
            break;
    count = publisher->head - publisher->sent;
    if (count > ROUND)
        count = ROUND;
    for (uint64_t i = 0; i < count; i++)
        publisher->round[i] = publisher->ring[(publisher->sent + i) & publisher->mask];
    *end_r = publisher->sent + count;
    *count_r = (int)count;
    go_on = publisher->stop_ms == 0 || (count > 0 && gf_clock_mono_ms() < publisher->stop_ms);
    pthread_mutex_unlock(&publisher->lock);
    return go_on;
}

static int compare_items(const void *a, const void *b)
{
    const struct publish_item *x = a, *y = b;

    if (x->user_id != y->user_id)
        return x->user_id < y->user_id ? -1 : 1;
    return (x->ver < y->ver) - (x->ver > y->ver); /* newest first */
}

/* Appends the round: for each user the newest balance and every hold. Returns the replies to wait for. */
static int append_round(struct publisher *publisher, int count)
{
    size_t users = 0;

    GF_POINT(settle_publish_before);
    qsort(publisher->round, (size_t)count, sizeof(publisher->round[0]), compare_items);
    for (int i = 0, next; i < count; i = next) {
        const struct publish_item *item = &publisher->round[i];
        struct gf_publish *one = &publisher->wallets[users++];

        *one = (struct gf_publish){
            .wallet = {.user_id = item->user_id, .ver = item->ver, .balance = item->balance, .status = item->status},
            .ids = &publisher->ids[i]};
        for (next = i; next < count && publisher->round[next].user_id == item->user_id; next++)
            publisher->ids[next] = publisher->round[next].request_id;
        one->count = (size_t)(next - i);
    }
    gf_metric_add(GF_M_PUBLISHED, (int64_t)users);
    return gf_balance_publish_many_sync(publisher->redis, publisher->config->redis_epoch, publisher->wallets, users);
}

/* The whole server is not serving now, and will: as good as a lost connection. */
static bool is_away(const char *text)
{
    static const char *const codes[] = {"LOADING ", "BUSY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN "};

    for (size_t i = 0; i < GF_COUNT(codes); i++)
        if (strncmp(text, codes[i], strlen(codes[i])) == 0)
            return true;
    return false;
}

/* Another error reply is about this key or this memory and may never go away: sending it again, with all others of the
 * last 30 s, would hold everybody up. The cache is behind for one wallet then, as after any loss of it. */
static enum gf_class judge_reply(const struct gf_reply *reply, struct gf_error *error_r)
{
    const char *text;
    size_t len;

    if (gf_reply_type(reply) == GF_REPLY_INT && gf_reply_int(reply) > 0) {
        gf_metric_add(GF_M_PUBLISH_REFUSED, gf_reply_int(reply));
        gf_log(GF_ERROR, "publish_refused", "wallets=%lld", (long long)gf_reply_int(reply));
    }
    if (gf_reply_type(reply) != GF_REPLY_ERROR)
        return GF_OK;
    text = gf_reply_text(reply, &len);
    if (is_away(text))
        return gf_fail(error_r, GF_RETRY, 0, "redis: %.*s", (int)(len < 200 ? len : 200), text);
    gf_metric_add(GF_M_PUBLISH_REFUSED, 1);
    gf_log(GF_ERROR, "publish_refused", "error=\"%.*s\"", (int)(len < 200 ? len : 200), text);
    return GF_OK;
}

static enum gf_class read_reply(struct publisher *publisher, struct gf_error *error_r)
{
    struct gf_reply *reply = NULL;
    enum gf_class class = gf_redis_sync_reply(publisher->redis, &reply, error_r);

    if (class == GF_OK)
        class = judge_reply(reply, error_r);
    gf_reply_free(&reply);
    return class;
}

static enum gf_class read_replies(struct publisher *publisher, int calls, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    for (int i = 0; i < calls && class == GF_OK; i++) {
        class = read_reply(publisher, error_r);
        if (class == GF_OK)
            GF_POINT(settle_publish_part);
    }
    return class;
}

static enum gf_class ping(struct publisher *publisher, struct gf_error *error_r)
{
    const struct gf_redis_arg arg = {"PING", 4};

    gf_redis_sync_command(publisher->redis, &arg, 1);
    return read_reply(publisher, error_r);
}

/* What a new connection has to hear again: everything of the last 30 s that the ring still has. */
static void rewind_ring(struct publisher *publisher)
{
    int64_t from_ms = gf_clock_mono_ms() - REPLAY_MS;
    uint64_t oldest, at;

    pthread_mutex_lock(&publisher->lock);
    oldest = publisher->head > publisher->cap ? publisher->head - publisher->cap : 0;
    at = publisher->sent;
    while (at > oldest && publisher->ring[(at - 1) & publisher->mask].added_ms >= from_ms)
        at--;
    publisher->sent = at;
    gf_metric_set(GF_M_PUBLISH_PENDING, (int64_t)(publisher->head - publisher->sent));
    pthread_mutex_unlock(&publisher->lock);
}

static enum gf_class ensure_redis(struct publisher *publisher, struct gf_error *error_r)
{
    enum gf_class class;

    if (publisher->redis != NULL)
        return GF_OK;
    class = gf_redis_sync_connect(publisher->config, &publisher->redis, error_r);
    if (class == GF_OK)
        rewind_ring(publisher);
    return class;
}

static void advance(struct publisher *publisher, uint64_t end)
{
    pthread_mutex_lock(&publisher->lock);
    if (publisher->sent < end) /* else an overrun has moved it further */
        publisher->sent = end;
    gf_metric_set(GF_M_PUBLISH_PENDING, (int64_t)(publisher->head - publisher->sent));
    pthread_mutex_unlock(&publisher->lock);
}

static void *publish(void *arg)
{
    struct publisher *publisher = arg;
    struct gf_error error;
    uint64_t end;
    int count, failures = 0;

    for (;;) {
        enum gf_class class = ensure_redis(publisher, &error);

        if (!take_round(publisher, &count, &end))
            break;
        if (class == GF_OK)
            class = count > 0 ? read_replies(publisher, append_round(publisher, count), &error) : ping(publisher, &error);
        if (class == GF_OK) {
            if (count > 0)
                GF_POINT(settle_publish_after);
            failures = 0;
            advance(publisher, end);
            continue;
        }
        gf_redis_sync_close(&publisher->redis);
        gf_metric_add(GF_M_REDIS_DOWN, 1);
        gf_log(GF_WARN, "publish_failed", "error=\"%s\"", error.text);
        gf_clock_sleep_ms(gf_backoff_ms(failures < 10 ? failures++ : 10, 50, BACKOFF_MAX_MS));
    }
    gf_redis_sync_close(&publisher->redis);
    return NULL;
}

struct publisher *publisher_start(const struct gf_config *config)
{
    struct publisher *publisher = gf_xcalloc(1, sizeof(*publisher));
    uint64_t size = smallest_power((uint64_t)config->settle_dirty_max + ROUND);
    pthread_condattr_t attr;

    publisher->config = config;
    publisher->cap = (uint64_t)config->settle_dirty_max;
    publisher->mask = size - 1;
    publisher->ring = gf_xcalloc(size, sizeof(publisher->ring[0]));
    pthread_mutex_init(&publisher->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&publisher->added, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&publisher->thread, NULL, publish, publisher) != 0)
        abort();
    return publisher;
}

void publisher_stop(struct publisher **publisher, int64_t wait_ms)
{
    struct publisher *old = *publisher;

    if (old == NULL)
        return;
    *publisher = NULL;
    pthread_mutex_lock(&old->lock);
    old->stop_ms = gf_clock_mono_ms() + wait_ms;
    pthread_cond_signal(&old->added);
    pthread_mutex_unlock(&old->lock);
    pthread_join(old->thread, NULL);
    pthread_cond_destroy(&old->added);
    pthread_mutex_destroy(&old->lock);
    free(old->ring);
    free(old);
}
