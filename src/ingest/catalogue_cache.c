/* SPDX-License-Identifier: Apache-2.0 */
/* Local cache of gifts, one entry per id, unknown ids included. An entry holds the gift's prices of now and of the near
 * future, so a price change needs no reload at the moment it begins.
 *
 * Freshness: every catalogue.poll one small query sums up the versions of all gifts; when the sum moved, something was
 * committed and the whole cache is forgotten (a sum, not max(ver): of two commits the higher version may come first).
 * An entry is also read again after catalogue.refresh. A read that overlaps such a change is thrown away and repeated:
 * it may be old. The catalogue topic is produced by the admin API for others; polling alone keeps us well within its
 * second.
 *
 * Bounds: catalogue.entries slots, a quarter of them for unknown ids, so that made-up ids cannot push real gifts out;
 * each part is a ring, the oldest entry gives way. Thread: the loop's; reads run in db.c's threads. */
#include <stdlib.h>

#include "gf/catalogue.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "ingest.h"

#define PRICES_MAX 16 /* of one gift: now and to come; the admin API allows half of that to come */
#define LOADS_MAX 256 /* different ids being read at a time */
#define NONE (-1)

struct entry {
    int32_t gift_id; /* 0: the slot is free */
    int32_t next;    /* in its bucket */
    int64_t loaded_ms;
    struct gf_gift gift; /* status 0: no such gift */
    struct gf_price prices[PRICES_MAX];
};

struct waiter {
    struct waiter *next;
    gf_catalogue_loaded_fn on_loaded;
    void *ctx;
};

struct load {
    struct gf_job job;
    struct gf_catalogue_cache *cache;
    struct load *next;
    uint64_t generation;
    struct waiter *waiters;
    struct entry entry; /* filled in by the database thread */
};

struct poll_job {
    struct gf_job job;
    struct gf_catalogue_cache *cache;
    int64_t count, sum;
};

struct ring {
    int32_t first, size, next; /* slots[first..first+size) */
};

struct gf_catalogue_cache {
    struct gf_ingest *ingest;
    struct gf_timer *poll_timer, *kick_timer;
    struct poll_job poll;
    bool polling, closing;
    int64_t count, sum; /* of the last poll; -1: none yet */
    uint64_t generation;
    struct ring known, unknown;
    struct entry *slots;
    int32_t *buckets;
    uint32_t mask;
    struct load *loads;
    int load_count;
    struct waiter *refused; /* told RETRY in the next turn */
    struct gf_gift_list list;
};

/* ---- table ---- */

static int32_t *bucket_of(struct gf_catalogue_cache *cache, int32_t gift_id)
{
    return &cache->buckets[((uint32_t)gift_id * 2654435769u >> 7) & cache->mask];
}

static struct entry *find(struct gf_catalogue_cache *cache, int32_t gift_id)
{
    for (int32_t i = *bucket_of(cache, gift_id); i != NONE; i = cache->slots[i].next)
        if (cache->slots[i].gift_id == gift_id)
            return &cache->slots[i];
    return NULL;
}

static void forget(struct gf_catalogue_cache *cache, struct entry *entry)
{
    int32_t index = (int32_t)(entry - cache->slots), *link = bucket_of(cache, entry->gift_id);

    while (*link != index) {
        GF_ASSERT(*link != NONE);
        link = &cache->slots[*link].next;
    }
    *link = entry->next;
    entry->gift_id = 0;
}

static void forget_all(struct gf_catalogue_cache *cache)
{
    for (int32_t i = 0; i < cache->known.size + cache->unknown.size; i++)
        cache->slots[i].gift_id = 0;
    for (uint32_t i = 0; i <= cache->mask; i++)
        cache->buckets[i] = NONE;
}

static void keep(struct gf_catalogue_cache *cache, const struct entry *loaded)
{
    struct ring *ring = loaded->gift.status == 0 ? &cache->unknown : &cache->known;
    struct entry *entry = find(cache, loaded->gift_id);
    int32_t *bucket = bucket_of(cache, loaded->gift_id);

    if (entry != NULL)
        forget(cache, entry);
    entry = &cache->slots[ring->first + ring->next];
    ring->next = (ring->next + 1) % ring->size;
    if (entry->gift_id != 0)
        forget(cache, entry);
    *entry = *loaded;
    entry->next = *bucket;
    *bucket = (int32_t)(entry - cache->slots);
}

/* ---- reading one gift ---- */

/* Thread: database. */
static enum gf_class run_load(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct entry *entry = &((struct load *)job)->entry;
    struct gf_sql_result *result = NULL;
    enum gf_class class;

    /* An off-shelf gift has no price row that is still valid; the join keeps it as one row of NULLs. */
    class = gf_sql_queryf(sql, &result, error_r,
                          "SELECT g.status, g.max_quantity, g.ver, p.valid_from_ms, p.valid_to_ms, p.price, p.share_bp"
                          " FROM gift g LEFT JOIN gift_price p ON p.gift_id = g.gift_id AND p.valid_to_ms > %lld"
                          " WHERE g.gift_id = %d ORDER BY p.valid_from_ms DESC LIMIT %d",
                          (long long)gf_clock_real_ms(), (int)entry->gift_id, PRICES_MAX);
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        entry->gift.gift_id = entry->gift_id;
        entry->gift.status = (int32_t)gf_sql_i64(result, 0);
        entry->gift.max_quantity = (int32_t)gf_sql_i64(result, 1);
        entry->gift.ver = gf_sql_i64(result, 2);
        if (gf_sql_is_null(result, 3))
            continue;
        entry->prices[entry->gift.price_count++] = (struct gf_price){
            .valid_from_ms = gf_sql_i64(result, 3),
            .valid_to_ms = gf_sql_i64(result, 4),
            .price = gf_sql_i64(result, 5),
            .share_bp = (int)gf_sql_i64(result, 6),
        };
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void tell(struct waiter *waiters, enum gf_class class)
{
    while (waiters != NULL) {
        struct waiter *next = waiters->next;

        waiters->on_loaded(waiters->ctx, class);
        free(waiters);
        waiters = next;
    }
}

static void unlink_load(struct gf_catalogue_cache *cache, struct load *load)
{
    struct load **link = &cache->loads;

    while (*link != load)
        link = &(*link)->next;
    *link = load->next;
    cache->load_count--;
}

static void begin_load(struct load *load)
{
    int32_t gift_id = load->entry.gift_id;

    load->generation = load->cache->generation;
    load->entry = (struct entry){.gift_id = gift_id};
}

static void on_load_done(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct load *load = (struct load *)job;
    struct gf_catalogue_cache *cache = load->cache;
    struct waiter *waiters;

    if (class != GF_OK)
        gf_log(GF_WARN, "gift_read_failed", "gift=%d error=\"%s\"", (int)load->entry.gift_id, error->text);
    if (class == GF_OK && load->generation != cache->generation && !cache->closing) {
        begin_load(load);
        class = gf_db_submit(cache->ingest->db, job);
        if (class == GF_OK)
            return;
    }
    if (class == GF_OK && !cache->closing) {
        load->entry.loaded_ms = gf_clock_mono_ms();
        keep(cache, &load->entry);
        gf_metric_add(GF_M_CATALOGUE_RELOADS, 1);
    }
    unlink_load(cache, load);
    waiters = load->waiters;
    free(load);
    tell(waiters, class == GF_OK ? GF_OK : GF_RETRY);
}

static void on_kick(void *ctx)
{
    struct gf_catalogue_cache *cache = ctx;
    struct waiter *refused = cache->refused;

    cache->refused = NULL;
    tell(refused, GF_RETRY);
}

static struct load *start_load(struct gf_catalogue_cache *cache, int32_t gift_id)
{
    struct load *load;

    if (cache->load_count == LOADS_MAX)
        return NULL;
    load = gf_xcalloc(1, sizeof(*load));
    load->job.run = run_load;
    load->job.on_done = on_load_done;
    load->cache = cache;
    load->entry.gift_id = gift_id;
    begin_load(load);
    if (gf_db_submit(cache->ingest->db, &load->job) != GF_OK) {
        free(load);
        return NULL;
    }
    load->next = cache->loads;
    cache->loads = load;
    cache->load_count++;
    return load;
}

void gf_catalogue_cache_load(struct gf_catalogue_cache *cache, int32_t gift_id, gf_catalogue_loaded_fn on_loaded,
                             void *ctx)
{
    struct waiter *waiter = gf_xmalloc(sizeof(*waiter));
    struct load *load = cache->loads;

    while (load != NULL && load->entry.gift_id != gift_id)
        load = load->next;
    if (load == NULL)
        load = start_load(cache, gift_id);
    *waiter = (struct waiter){.on_loaded = on_loaded, .ctx = ctx};
    if (load == NULL) {
        waiter->next = cache->refused;
        cache->refused = waiter;
        gf_timer_reset(cache->kick_timer, 0, 0);
        return;
    }
    waiter->next = load->waiters;
    load->waiters = waiter;
}

enum gf_offered gf_catalogue_cache_find(struct gf_catalogue_cache *cache, int32_t gift_id, int64_t now_ms,
                                        struct gf_offer *offer_r)
{
    struct entry *entry = find(cache, gift_id);
    const struct gf_price *price;

    if (entry == NULL || gf_clock_mono_ms() - entry->loaded_ms >= cache->ingest->config->catalogue_refresh)
        return GF_OFFERED_MISS;
    if (entry->gift.status != 1)
        return GF_OFFERED_NO;
    entry->gift.prices = entry->prices; /* entries move when they are kept: set where it is used */
    price = gf_gift_price(&entry->gift, now_ms);
    if (price == NULL)
        return GF_OFFERED_NO;
    *offer_r = (struct gf_offer){.gift_id = gift_id, .max_quantity = entry->gift.max_quantity, .price = price->price};
    return GF_OFFERED_YES;
}

uint64_t gf_catalogue_cache_generation(const struct gf_catalogue_cache *cache)
{
    return cache->generation;
}

struct gf_gift_list *gf_catalogue_cache_list(struct gf_catalogue_cache *cache)
{
    return &cache->list;
}

/* ---- polling ---- */

/* Thread: database. */
static enum gf_class run_poll(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct poll_job *poll = (struct poll_job *)job;
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SELECT COUNT(*), COALESCE(SUM(ver), 0) FROM gift");

    if (class != GF_OK)
        return class;
    GF_ASSERT(gf_sql_next(result));
    poll->count = gf_sql_i64(result, 0);
    poll->sum = gf_sql_i64(result, 1);
    gf_sql_result_free(&result);
    return GF_OK;
}

static void on_poll_done(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct poll_job *poll = (struct poll_job *)job;
    struct gf_catalogue_cache *cache = poll->cache;

    cache->polling = false;
    if (class != GF_OK) {
        gf_log(GF_WARN, "catalogue_poll_failed", "error=\"%s\"", error->text);
        return;
    }
    if (poll->count == cache->count && poll->sum == cache->sum)
        return;
    cache->count = poll->count;
    cache->sum = poll->sum;
    cache->generation++;
    forget_all(cache);
    gf_log(GF_INFO, "catalogue_changed", "gifts=%lld", (long long)poll->count);
}

void gf_catalogue_cache_poll(struct gf_catalogue_cache *cache)
{
    if (cache->polling)
        return;
    cache->poll.job.deadline_ms = 0;
    cache->polling = gf_db_submit(cache->ingest->db, &cache->poll.job) == GF_OK;
}

static void on_poll_timer(void *ctx)
{
    gf_catalogue_cache_poll(ctx);
}

struct gf_catalogue_cache *gf_catalogue_cache_create(struct gf_ingest *ingest)
{
    struct gf_catalogue_cache *cache = gf_xcalloc(1, sizeof(*cache));
    int32_t entries = (int32_t)ingest->config->catalogue_entries;
    uint32_t buckets = 16;

    while (buckets < (uint32_t)entries * 2)
        buckets *= 2;
    cache->ingest = ingest;
    cache->count = cache->sum = -1;
    cache->unknown.size = entries / 4 > 0 ? entries / 4 : 1;
    cache->known.size = entries - cache->unknown.size > 0 ? entries - cache->unknown.size : 1;
    cache->unknown.first = cache->known.size;
    cache->slots = gf_xcalloc((size_t)(cache->known.size + cache->unknown.size), sizeof(cache->slots[0]));
    cache->buckets = gf_xcalloc(buckets, sizeof(cache->buckets[0]));
    cache->mask = buckets - 1;
    forget_all(cache);
    gf_buf_init(&cache->list.body, GF_GIFT_LIST_MAX);
    cache->poll.job.run = run_poll;
    cache->poll.job.on_done = on_poll_done;
    cache->poll.cache = cache;
    cache->poll_timer = gf_timer_start(ingest->loop, 0, ingest->config->catalogue_poll, on_poll_timer, cache);
    cache->kick_timer = gf_timer_start(ingest->loop, INT32_MAX, 0, on_kick, cache);
    return cache;
}

/* After gf_db_stop: no job of ours is left, so every load has been told. */
void gf_catalogue_cache_close(struct gf_catalogue_cache **cache)
{
    if (*cache == NULL)
        return;
    (*cache)->closing = true;
    GF_ASSERT((*cache)->loads == NULL && !(*cache)->polling);
    on_kick(*cache);
    gf_timer_close(&(*cache)->poll_timer);
    gf_timer_close(&(*cache)->kick_timer);
    gf_buf_free(&(*cache)->list.body);
    free((*cache)->slots);
    free((*cache)->buckets);
    free(*cache);
    *cache = NULL;
}
