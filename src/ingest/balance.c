/* SPDX-License-Identifier: Apache-2.0 */
/* Loader of cold wallets (F10): ids gather for at most 2 ms or 500, one SELECT reads them from the primary, LOAD writes
 * each into Redis. Loads of one user share one read (single flight).
 *
 * A wallet that Redis knows newer: settlement was faster, or MySQL is behind (a restored or lagging server) and Redis is wrong.
 * So what Redis has is looked at, then MySQL is read once more; only if that is older does Redis lie: the key is deleted, if it
 * still has what was looked at, and what MySQL says after that is loaded, as what settlement tells in between may come before
 * the deletion.
 *
 * Thread: the loop's, but read_wallets. Bounded by the callers: each load waits for one request in flight. */
#include <stdlib.h>

#include "gf/hash.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "ingest.h"

#define GATHER_MS 2
#define BATCH_MAX 500
#define BUCKETS 4096 /* a power of two */

struct waiter {
    struct waiter *next;
    gf_balance_loaded_fn on_loaded;
    void *ctx;
};

struct load { /* one user being loaded */
    struct load *next_in_bucket;
    struct load *next; /* gathering */
    struct gf_balance_loader *loader;
    struct gf_wallet_state wallet;
    struct waiter *waiters;
    enum { FIRST, AGAIN, FORGOTTEN } read;
    int64_t cached_ver; /* AGAIN: what Redis had before this read */
};

struct batch { /* one SELECT */
    struct gf_job job;
    struct gf_balance_loader *loader;
    size_t count;
    struct load *loads[BATCH_MAX];
    struct gf_wallet_state wallets[BATCH_MAX]; /* user_id in, the rest out; by ascending user_id */
};

struct gf_balance_loader {
    struct gf_ingest *ingest;
    struct load *buckets[BUCKETS];
    struct load *gathering;
    size_t gathered;
    struct gf_timer *timer;
};

static struct load **find(struct gf_balance_loader *loader, int64_t user_id)
{
    struct load **at = &loader->buckets[gf_hash_u64((uint64_t)user_id) & (BUCKETS - 1)];

    while (*at && (*at)->wallet.user_id != user_id)
        at = &(*at)->next_in_bucket;
    return at;
}

/* Takes the load out of everything and tells its waiters. */
static void finish(struct load *load, enum gf_class class)
{
    struct load **at = find(load->loader, load->wallet.user_id);
    struct waiter *waiter = load->waiters, *next;

    GF_ASSERT(*at == load);
    *at = load->next_in_bucket;
    free(load);
    for (; waiter; waiter = next) {
        next = waiter->next;
        waiter->on_loaded(waiter->ctx, class);
        free(waiter);
    }
}

static void gather(struct load *load);

/* ---- into Redis ---- */

static void on_forgotten(void *ctx, const struct gf_reply *reply)
{
    struct load *load = ctx;

    if (!reply || gf_reply_type(reply) != GF_REPLY_INT) {
        finish(load, GF_RETRY);
        return;
    }
    load->read = FORGOTTEN;
    gather(load);
}

/* MySQL is the truth. Where another process has been faster, nothing is deleted, and what it loaded is loaded once more. */
static void forget(struct load *load)
{
    gf_metric_add(GF_M_WALLET_BEHIND, 1);
    gf_log(GF_ERROR, "wallet_behind", "ver=%lld cached_ver=%lld", (long long)load->wallet.ver, (long long)load->cached_ver);
    if (gf_balance_forget(load->loader->ingest->balance, load->wallet.user_id, load->cached_ver, on_forgotten, load) != GF_OK)
        finish(load, GF_RETRY);
}

static void on_looked_at(void *ctx, const struct gf_reply *reply)
{
    struct load *load = ctx;
    struct gf_cached_wallet cached = {0};
    size_t len;
    const char *text;

    if (!reply || gf_reply_type(reply) == GF_REPLY_ERROR) {
        finish(load, GF_RETRY);
        return;
    }
    text = gf_reply_type(reply) == GF_REPLY_TEXT ? gf_reply_text(reply, &len) : NULL;
    load->cached_ver = text && gf_cached_wallet_parse(text, len, &cached) ? cached.ver : 0;
    load->read = AGAIN;
    gather(load);
}

static void on_stored(void *ctx, enum gf_class class)
{
    struct load *load = ctx;

    if (class == GF_RETRY)
        finish(load, GF_REJECT);
    else if (class == GF_OK)
        finish(load, GF_OK);
    else if (load->read != FIRST)
        finish(load, GF_OK); /* settlement was faster: it knows best */
    else if (gf_balance_get_wallet(load->loader->ingest->balance, load->wallet.user_id, on_looked_at, load) != GF_OK)
        finish(load, GF_RETRY);
}

static void store(struct load *load)
{
    if (load->read == AGAIN && load->wallet.ver < load->cached_ver)
        forget(load);
    else if (gf_balance_load(load->loader->ingest->balance, &load->wallet, on_stored, load) != GF_OK)
        finish(load, GF_RETRY);
}

/* ---- from MySQL ---- */

static int by_user(const void *a, const void *b)
{
    const struct gf_wallet_state *x = a, *y = b;

    return (x->user_id > y->user_id) - (x->user_id < y->user_id);
}

/* thread: database. Users without a row keep ver 0: no such wallet. */
static enum gf_class read_wallets(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct batch *batch = (struct batch *)(void *)job;
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 64 + BATCH_MAX * 20);
    gf_buf_adds(&text, "SELECT user_id, ver, balance, status FROM wallet WHERE user_id IN (");
    for (size_t i = 0; i < batch->count; i++) {
        if (i > 0)
            gf_buf_addc(&text, ',');
        gf_buf_add_i64(&text, batch->wallets[i].user_id);
    }
    gf_buf_addc(&text, ')');
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct gf_wallet_state key = {.user_id = gf_sql_i64(result, 0)};
        struct gf_wallet_state *wallet = bsearch(&key, batch->wallets, batch->count, sizeof(key), by_user);

        GF_ASSERT(wallet != NULL);
        wallet->ver = gf_sql_i64(result, 1);
        wallet->balance = gf_sql_i64(result, 2);
        wallet->status = (int)gf_sql_i64(result, 3);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void on_read(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct batch *batch = (struct batch *)(void *)job;

    if (class != GF_OK)
        gf_log(GF_WARN, "wallets_unread", "count=%zu error=\"%s\"", batch->count, error->text);
    else
        gf_metric_add(GF_M_WALLET_LOADS, (int64_t)batch->count);
    for (size_t i = 0; i < batch->count; i++) {
        struct load *load = batch->loads[i];
        struct gf_wallet_state key = {.user_id = load->wallet.user_id};
        const struct gf_wallet_state *read = bsearch(&key, batch->wallets, batch->count, sizeof(key), by_user);

        load->wallet = *read;
        if (class == GF_OK)
            store(load);
        else
            finish(load, GF_RETRY);
    }
    free(batch);
}

static void send_batch(struct gf_balance_loader *loader)
{
    struct batch *batch;

    if (loader->gathered == 0)
        return;
    batch = gf_xcalloc(1, sizeof(*batch));
    batch->loader = loader;
    batch->job.run = read_wallets;
    batch->job.on_done = on_read;
    while (loader->gathering && batch->count < BATCH_MAX) {
        struct load *load = loader->gathering;

        loader->gathering = load->next;
        loader->gathered--;
        batch->loads[batch->count] = load;
        batch->wallets[batch->count++].user_id = load->wallet.user_id;
    }
    qsort(batch->wallets, batch->count, sizeof(batch->wallets[0]), by_user);
    if (gf_db_submit(loader->ingest->db, &batch->job) == GF_OK)
        return;
    batch->job.error = (struct gf_error){.class = GF_RETRY, .text = "MySQL is away"};
    on_read(&batch->job, GF_RETRY, &batch->job.error);
}

static void on_timer(void *ctx)
{
    struct gf_balance_loader *loader = ctx;
    size_t batches = (loader->gathered + BATCH_MAX - 1) / BATCH_MAX; /* one turn may have gathered more than one */

    while (batches-- > 0)
        send_batch(loader);
}

static void gather(struct load *load)
{
    struct gf_balance_loader *loader = load->loader;

    load->next = loader->gathering;
    loader->gathering = load;
    if (++loader->gathered == 1)
        gf_timer_reset(loader->timer, GATHER_MS, 0);
    if (loader->gathered == BATCH_MAX) /* the timer does it: the caller must not be called back inside its call */
        gf_timer_reset(loader->timer, 0, 0);
}

/* ---- interface ---- */

void gf_balance_loader_load(struct gf_balance_loader *loader, int64_t user_id, gf_balance_loaded_fn on_loaded,
                            void *ctx)
{
    struct load **at = find(loader, user_id), *load = *at;
    struct waiter *waiter = gf_xcalloc(1, sizeof(*waiter));

    waiter->on_loaded = on_loaded;
    waiter->ctx = ctx;
    if (!load) {
        load = gf_xcalloc(1, sizeof(*load));
        load->loader = loader;
        load->wallet.user_id = user_id;
        *at = load;
        gather(load);
    }
    waiter->next = load->waiters;
    load->waiters = waiter;
}

struct gf_balance_loader *gf_balance_loader_create(struct gf_ingest *ingest)
{
    struct gf_balance_loader *loader = gf_xcalloc(1, sizeof(*loader));

    loader->ingest = ingest;
    loader->timer = gf_timer_start(ingest->loop, 1, 0, on_timer, loader); /* finds nothing; armed by gather */
    return loader;
}

/* After gf_db_stop and gf_redis_close: what still gathers is told no. */
void gf_balance_loader_close(struct gf_balance_loader **loader)
{
    if (!loader || !*loader)
        return;
    while ((*loader)->gathering) {
        struct load *load = (*loader)->gathering;

        (*loader)->gathering = load->next;
        finish(load, GF_RETRY);
    }
    gf_timer_close(&(*loader)->timer);
    free(*loader);
    *loader = NULL;
}
