/* SPDX-License-Identifier: Apache-2.0 */
/* The Redis publisher: a ring and a thread per primary. See publisher.h. */
#include "publisher.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gf/balance.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/point.h"

#define ROUND 4096        /* items merged by user and sent in one pipeline */
#define REPLAY_MS 30000   /* a new connection gets the items of this long again */
#define PING_MS 1000      /* an idle connection that died is noticed this fast */
#define BACKOFF_MAX_MS 1000

struct outlet { /* to one primary */
    const struct gf_config *config;
    int shard;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t added;
    /* locks: lock */
    struct publish_item *ring;
    uint64_t head, sent; /* positions only grow; ring[position % cap] */
    uint64_t cap, dropped;
    int64_t pending; /* its share of the metric */
    int64_t stop_ms; /* 0: goes on */
    /* thread: its own */
    struct gf_redis_sync *redis;
    struct publish_item round[ROUND];
    struct publish_item *order[ROUND];
    struct gf_uuid ids[ROUND];
    struct gf_publish wallets[ROUND];
};

struct publisher {
    int count;
    struct outlet outlets[];
};

/* locks: lock is held */
static void count_pending(struct outlet *outlet)
{
    int64_t pending = (int64_t)(outlet->head - outlet->sent);

    gf_metric_add(GF_M_PUBLISH_PENDING, pending - outlet->pending);
    outlet->pending = pending;
}

/* The items of one primary. */
static void add_to(struct outlet *outlet, int shards, const struct publish_item *items, int count)
{
    uint64_t dropped = 0;

    pthread_mutex_lock(&outlet->lock);
    for (int i = 0; i < count; i++)
        if (gf_redis_shard(items[i].user_id, shards) == outlet->shard)
            outlet->ring[outlet->head++ % outlet->cap] = items[i];
    if (outlet->head - outlet->sent > outlet->cap) {
        dropped = outlet->head - outlet->sent - outlet->cap;
        outlet->sent += dropped;
        outlet->dropped += dropped;
    }
    count_pending(outlet);
    pthread_cond_signal(&outlet->added);
    pthread_mutex_unlock(&outlet->lock);
    if (dropped > 0)
        gf_metric_add(GF_M_PUBLISH_DROPPED, (int64_t)dropped);
}

void publisher_add(struct publisher *publisher, struct publish_item *items, int count)
{
    int64_t now_ms = gf_clock_mono_ms();

    if (publisher == NULL || count == 0)
        return;
    for (int i = 0; i < count; i++)
        items[i].added_ms = now_ms;
    for (int i = 0; i < publisher->count; i++)
        add_to(&publisher->outlets[i], publisher->count, items, count);
}

/* Drops and what is left are read in one piece: no item can leave unseen between the two. */
static void look_at(struct outlet *outlet, struct publisher_look *look)
{
    uint64_t quarter = outlet->cap / 4, pending;
    int room = (int)(quarter / (uint64_t)outlet->config->settle_lanes);

    pthread_mutex_lock(&outlet->lock);
    pending = outlet->head - outlet->sent;
    look->dropped += outlet->dropped;
    if (pending > 0 && outlet->ring[outlet->sent % outlet->cap].added_ms < look->oldest_ms)
        look->oldest_ms = outlet->ring[outlet->sent % outlet->cap].added_ms;
    pthread_mutex_unlock(&outlet->lock);
    if (pending > quarter) /* all lanes at once fill half of it so, and the other half is for new batches */
        room = 0;
    else if (room == 0)
        room = 1;
    look->room = room < look->room ? room : look->room;
}

void publisher_look(struct publisher *publisher, struct publisher_look *look_r)
{
    *look_r = (struct publisher_look){.oldest_ms = INT64_MAX, .room = INT_MAX};
    for (int i = 0; i < publisher->count; i++)
        look_at(&publisher->outlets[i], look_r);
}

/* Waits for items, at most PING_MS; returns how many were copied to round. False: time to end. */
static bool take_round(struct outlet *outlet, int *count_r, uint64_t *end_r)
{
    struct timespec until;
    uint64_t count;
    bool go_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PING_MS / 1000;
    pthread_mutex_lock(&outlet->lock);
    while (outlet->head == outlet->sent && outlet->stop_ms == 0)
        if (pthread_cond_timedwait(&outlet->added, &outlet->lock, &until) != 0)
            break;
    count = outlet->head - outlet->sent;
    if (count > ROUND)
        count = ROUND;
    for (uint64_t i = 0; i < count; i++)
        outlet->round[i] = outlet->ring[(outlet->sent + i) % outlet->cap];
    *end_r = outlet->sent + count;
    *count_r = (int)count;
    go_on = outlet->stop_ms == 0 || (count > 0 && gf_clock_mono_ms() < outlet->stop_ms);
    pthread_mutex_unlock(&outlet->lock);
    return go_on;
}

/* By user, then as they came. */
static int compare_items(const void *a, const void *b)
{
    const struct publish_item *x = *(const struct publish_item *const *)a, *y = *(const struct publish_item *const *)b;

    if (x->user_id != y->user_id)
        return x->user_id < y->user_id ? -1 : 1;
    return (x > y) - (x < y);
}

/* Appends the round: for each user the newest balance and every hold, in the order in which they came (STORE is fastest so).
 * Returns the replies to wait for. */
static int append_round(struct outlet *outlet, int count)
{
    size_t users = 0;

    GF_POINT(settle_publish_before);
    for (int i = 0; i < count; i++)
        outlet->order[i] = &outlet->round[i];
    qsort(outlet->order, (size_t)count, sizeof(outlet->order[0]), compare_items);
    for (int i = 0, next; i < count; i = next) {
        const struct publish_item *newest = outlet->order[i];

        for (next = i; next < count && outlet->order[next]->user_id == newest->user_id; next++) {
            outlet->ids[next] = outlet->order[next]->request_id;
            if (outlet->order[next]->ver > newest->ver)
                newest = outlet->order[next];
        }
        outlet->wallets[users++] = (struct gf_publish){
            .wallet = {.user_id = newest->user_id, .ver = newest->ver, .balance = newest->balance, .status = newest->status},
            .ids = &outlet->ids[i],
            .count = (size_t)(next - i)};
    }
    gf_metric_add(GF_M_PUBLISHED, (int64_t)users);
    return gf_balance_publish_many_sync(outlet->redis, outlet->config->redis_epoch, outlet->wallets, users);
}

/* The whole server is not serving now, or takes no writes, and will: as good as a lost connection. */
static bool is_away(const char *text)
{
    static const char *const codes[] = {"LOADING ", "BUSY ", "MASTERDOWN ", "NOREPLICAS ", "MISCONF ", "CLUSTERDOWN ", "TRYAGAIN "};

    for (size_t i = 0; i < GF_COUNT(codes); i++)
        if (strncmp(text, codes[i], strlen(codes[i])) == 0)
            return true;
    return false;
}

/* Another error is about one key or this memory and may never go away: sending it again, with all others of the last 30 s,
 * would hold everybody up. The cache is behind for these wallets then, as after any loss of it. */
static enum gf_class judge_reply(const struct gf_reply *reply, struct gf_error *error_r)
{
    struct gf_published published;
    const char *text;
    size_t len;

    if (gf_balance_published(reply, &published)) {
        gf_metric_add(GF_M_REDIS_FOREIGN, published.replaced);
        gf_metric_add(GF_M_PUBLISH_REFUSED, published.failed);
        if (published.failed > 0)
            gf_log(GF_ERROR, "publish_refused", "wallets=%lld error=\"%s\"", (long long)published.failed, published.error);
        return GF_OK;
    }
    if (gf_reply_type(reply) != GF_REPLY_ERROR)
        return GF_OK; /* PONG */
    text = gf_reply_text(reply, &len);
    if (is_away(text))
        return gf_fail(error_r, GF_RETRY, 0, "redis: %.*s", (int)(len < 200 ? len : 200), text);
    gf_metric_add(GF_M_PUBLISH_REFUSED, 1);
    gf_log(GF_ERROR, "publish_refused", "error=\"%.*s\"", (int)(len < 200 ? len : 200), text);
    return GF_OK;
}

static enum gf_class read_reply(struct outlet *outlet, struct gf_error *error_r)
{
    struct gf_reply *reply = NULL;
    enum gf_class class = gf_redis_sync_reply(outlet->redis, &reply, error_r);

    if (class == GF_OK)
        class = judge_reply(reply, error_r);
    gf_reply_free(&reply);
    return class;
}

static enum gf_class read_replies(struct outlet *outlet, int calls, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    for (int i = 0; i < calls && class == GF_OK; i++) {
        class = read_reply(outlet, error_r);
        if (class == GF_OK)
            GF_POINT(settle_publish_part);
    }
    return class;
}

static enum gf_class ping(struct outlet *outlet, struct gf_error *error_r)
{
    const struct gf_redis_arg arg = {"PING", 4};

    gf_redis_sync_command(outlet->redis, &arg, 1);
    return read_reply(outlet, error_r);
}

/* What a new connection has to hear again: everything of the last 30 s that the ring still has. */
static void rewind_ring(struct outlet *outlet)
{
    int64_t from_ms = gf_clock_mono_ms() - REPLAY_MS;
    uint64_t oldest, at;

    pthread_mutex_lock(&outlet->lock);
    oldest = outlet->head > outlet->cap ? outlet->head - outlet->cap : 0;
    at = outlet->sent;
    while (at > oldest && outlet->ring[(at - 1) % outlet->cap].added_ms >= from_ms)
        at--;
    outlet->sent = at;
    count_pending(outlet);
    pthread_mutex_unlock(&outlet->lock);
}

static enum gf_class ensure_redis(struct outlet *outlet, struct gf_error *error_r)
{
    enum gf_class class;

    if (outlet->redis != NULL)
        return GF_OK;
    class = gf_redis_sync_connect_shard(outlet->config, outlet->shard, &outlet->redis, error_r);
    if (class == GF_OK)
        rewind_ring(outlet);
    return class;
}

static void advance(struct outlet *outlet, uint64_t end)
{
    pthread_mutex_lock(&outlet->lock);
    if (outlet->sent < end) /* else an overrun has moved it further */
        outlet->sent = end;
    count_pending(outlet);
    pthread_mutex_unlock(&outlet->lock);
}

static void *publish(void *arg)
{
    struct outlet *outlet = arg;
    struct gf_error error;
    uint64_t end;
    int count, failures = 0;

    for (;;) {
        enum gf_class class = ensure_redis(outlet, &error);

        if (!take_round(outlet, &count, &end))
            break;
        if (class == GF_OK)
            class = count > 0 ? read_replies(outlet, append_round(outlet, count), &error) : ping(outlet, &error);
        if (class == GF_OK) {
            if (count > 0)
                GF_POINT(settle_publish_after);
            failures = 0;
            advance(outlet, end);
            continue;
        }
        gf_redis_sync_close(&outlet->redis);
        gf_metric_add(GF_M_REDIS_DOWN, 1);
        gf_log(GF_WARN, "publish_failed", "shard=%d error=\"%s\"", outlet->shard, error.text);
        gf_clock_sleep_ms(gf_backoff_ms(failures < 10 ? failures++ : 10, 50, BACKOFF_MAX_MS));
    }
    gf_redis_sync_close(&outlet->redis);
    return NULL;
}

static void start(struct outlet *outlet, const struct gf_config *config, int shard, int shards)
{
    pthread_condattr_t attr;

    outlet->config = config;
    outlet->shard = shard;
    outlet->cap = ((uint64_t)config->settle_dirty_max + (uint64_t)shards - 1) / (uint64_t)shards;
    outlet->ring = gf_xcalloc(outlet->cap, sizeof(outlet->ring[0]));
    pthread_mutex_init(&outlet->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&outlet->added, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&outlet->thread, NULL, publish, outlet) != 0)
        abort();
}

struct publisher *publisher_start(const struct gf_config *config)
{
    int count = gf_config_redis_shards(config);
    struct publisher *publisher = gf_xcalloc(1, sizeof(*publisher) + (size_t)count * sizeof(publisher->outlets[0]));

    publisher->count = count;
    for (int i = 0; i < count; i++)
        start(&publisher->outlets[i], config, i, count);
    return publisher;
}

static void begin_stop(struct outlet *outlet, int64_t stop_ms)
{
    pthread_mutex_lock(&outlet->lock);
    outlet->stop_ms = stop_ms;
    pthread_cond_signal(&outlet->added);
    pthread_mutex_unlock(&outlet->lock);
}

static void end_stop(struct outlet *outlet)
{
    pthread_join(outlet->thread, NULL);
    gf_metric_add(GF_M_PUBLISH_PENDING, -outlet->pending);
    pthread_cond_destroy(&outlet->added);
    pthread_mutex_destroy(&outlet->lock);
    free(outlet->ring);
}

void publisher_stop(struct publisher **publisher, int64_t wait_ms)
{
    struct publisher *old = *publisher;
    int64_t stop_ms = gf_clock_mono_ms() + wait_ms;

    if (old == NULL)
        return;
    *publisher = NULL;
    for (int i = 0; i < old->count; i++)
        begin_stop(&old->outlets[i], stop_ms);
    for (int i = 0; i < old->count; i++)
        end_stop(&old->outlets[i]);
    free(old);
}
