/* SPDX-License-Identifier: Apache-2.0 */
/* The balance cache for a role on a loop: see gf/balance.h. Loads of one turn, and reservations of ingest.gather, gather per
 * primary and leave as few script calls just before the loop sleeps; one of them that fails fails alone. A call owns itself: it
 * is freed by its reply, which hiredis gives in any case (NULL when the link dies). Bounded by WAITING_MAX requests per primary.
 * Thread: the loop's. */
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"
#include "scripts.h"
#include "wallet.h"

#define RESERVES_MAX 32 /* requests in one call: Redis serves nobody else meanwhile; so many do not wait for more */
#define WAITING_MAX 20000
#define ABORTS_MAX 10000 /* waiting for one primary; what is more runs out by its deadline */
#define ABORTS_TURN 256  /* of them in one turn of the loop */
#define RESERVE_HEAD 32
#define RESERVE_BYTES 57
#define ANSWER_BYTES 17
#define ANSWER_REPLACED 128 /* flag: what stood in the marker's key was none */
#define TTL_MAX 24

struct reserves { /* one call of RESERVE */
    struct reserves *next;
    struct primary *primary;
    size_t count, keys, len;
    struct {
        gf_reserved_fn on_reserved;
        void *ctx;
    } waiters[RESERVES_MAX];
    struct gf_redis_arg arg[3 * RESERVES_MAX + 4];
    char key[3 * RESERVES_MAX][GF_KEY_MAX];
    uint8_t blob[RESERVE_HEAD + RESERVES_MAX * RESERVE_BYTES];
};

struct loads { /* one call of STORE */
    struct loads *next;
    struct primary *primary;
    struct {
        gf_stored_fn on_stored;
        void *ctx;
    } waiters[GF_STORE_WALLETS];
    struct gf_store store;
};

struct abort { /* one call of ABORT: in flight, or waiting for its primary */
    struct abort *next;
    struct primary *primary;
    struct gf_reserve request;
};

struct primary {
    struct gf_balance *balance;
    struct gf_redis *redis;
    struct reserves *reserves, *last_reserves; /* gathered */
    struct loads *loads, *last_loads;          /* gathered in this turn */
    size_t waiting; /* requests gathered or in flight */
    struct abort *aborts; /* waiting */
    size_t abort_count;
};

struct gf_balance {
    const struct gf_config *config;
    uv_prepare_t prepare;
    struct gf_timer *timer; /* runs while `armed`: since the first reservation that waits */
    bool armed, due;        /* due: it has run out, reservations leave at the end of this turn */
    char marker_ttl[TTL_MAX], click_ttl[TTL_MAX];
    int count;
    struct primary primaries[];
};

static struct primary *primary_of(struct gf_balance *balance, int64_t user_id)
{
    return &balance->primaries[gf_redis_shard(user_id, balance->count)];
}

/* ---- reservations ---- */

/* What the i-th answer says; false: Redis did not judge. */
static bool read_answer(const char *text, size_t i, struct gf_reserve_reply *reply_r)
{
    const uint8_t *at = (const uint8_t *)text + i * ANSWER_BYTES;
    int64_t x = gf_take_i64(at + 1);

    if (at[0] & ANSWER_REPLACED)
        gf_metric_add(GF_M_REDIS_FOREIGN, 1);
    *reply_r = (struct gf_reserve_reply){.answer = (enum gf_reserved)(at[0] & ~ANSWER_REPLACED)};
    switch (reply_r->answer) {
    case GF_RESERVED_OK:
    case GF_RESERVED_REPLAY:
        reply_r->price = x;
        reply_r->quantity = gf_take_i64(at + 9);
        return true;
    case GF_RESERVED_INSUFFICIENT:
        reply_r->available = x;
        return true;
    case GF_RESERVED_IN_PROGRESS:
    case GF_RESERVED_LIMITED:
        reply_r->wait_ms = x;
        return true;
    case GF_RESERVED_MISMATCH:
    case GF_RESERVED_STALE:
    case GF_RESERVED_NO_WALLET:
    case GF_RESERVED_FROZEN:
    case GF_RESERVED_BUSY:
    case GF_RESERVED_DOUBLE_CLICK:
    case GF_RESERVED_NONE:
        return true;
    default:
        return false;
    }
}

static void log_failure(const char *event, const char *text, size_t len)
{
    if (len > 0)
        gf_log(GF_ERROR, event, "error=\"%.*s\"", (int)(len < 200 ? len : 200), text);
}

static void on_reserves(void *ctx, const struct gf_reply *reply)
{
    struct reserves *call = ctx;
    const char *text = NULL;
    size_t len = 0;

    call->primary->waiting -= call->count;
    if (reply && (gf_reply_type(reply) == GF_REPLY_TEXT || gf_reply_type(reply) == GF_REPLY_ERROR))
        text = gf_reply_text(reply, &len);
    if (text && gf_reply_type(reply) == GF_REPLY_ERROR) {
        log_failure("reserve_failed", text, len);
        text = NULL;
    } else if (len < call->count * ANSWER_BYTES) {
        text = NULL;
    } else {
        log_failure("reserve_failed", text + call->count * ANSWER_BYTES, len - call->count * ANSWER_BYTES);
    }
    for (size_t i = 0; i < call->count; i++) {
        struct gf_reserve_reply answer;
        bool judged = text && read_answer(text, i, &answer);

        call->waiters[i].on_reserved(call->waiters[i].ctx, judged ? &answer : NULL);
    }
    free(call);
}

static void send_reserves(struct reserves *call)
{
    struct gf_balance *balance = call->primary->balance;
    const struct gf_config *config = balance->config;
    uint8_t *at = call->blob;
    size_t args = call->keys;

    at = gf_put_i64(at, config->ingest_rate_per_second);
    at = gf_put_i64(at, config->ingest_lease);
    at = gf_put_i64(at, config->ingest_hold_ttl);
    at = gf_put_u32(at, GF_HOLDS_MAX);
    (void)gf_put_u32(at, (uint32_t)call->count);
    call->arg[args++] = (struct gf_redis_arg){GF_WALLET_TTL, strlen(GF_WALLET_TTL)};
    call->arg[args++] = (struct gf_redis_arg){balance->marker_ttl, strlen(balance->marker_ttl)};
    call->arg[args++] = (struct gf_redis_arg){balance->click_ttl, strlen(balance->click_ttl)};
    call->arg[args++] = (struct gf_redis_arg){(const char *)call->blob, call->len};
    if (gf_redis_script(call->primary->redis, GF_SCRIPT_RESERVE, call->arg, args, call->keys, on_reserves, call) != GF_OK)
        on_reserves(call, NULL);
}

/* The call that has room for one more. */
static struct reserves *gather_reserves(struct primary *primary)
{
    struct reserves *call = primary->last_reserves;

    if (call && call->count < RESERVES_MAX)
        return call;
    call = gf_xmalloc(sizeof(*call));
    call->next = NULL;
    call->primary = primary;
    call->count = call->keys = 0;
    call->len = RESERVE_HEAD;
    if (primary->last_reserves)
        primary->last_reserves->next = call;
    else
        primary->reserves = call;
    primary->last_reserves = call;
    return call;
}

/* Fingerprint, nonce, price, quantity: the end of a request and of a marker. */
static uint8_t *put_terms(uint8_t *at, const struct gf_reserve *request)
{
    at = gf_put_hex(at, request->fp);
    at = gf_put_hex(at, request->nonce);
    at = gf_put_i64(at, request->price);
    return gf_put_i64(at, request->quantity);
}

static void add_key(struct reserves *call, size_t len)
{
    call->arg[call->keys] = (struct gf_redis_arg){call->key[call->keys], len};
    call->keys++;
}

enum gf_class gf_balance_reserve(struct gf_balance *balance, const struct gf_reserve *request, gf_reserved_fn on_reserved,
                                 void *ctx)
{
    struct primary *primary = primary_of(balance, request->user_id);
    bool keyless = request->keyless && balance->config->ingest_double_click > 0;
    int64_t epoch = balance->config->redis_epoch;
    struct reserves *call;
    uint8_t *at;

    GF_ASSERT(request->lookup || (request->amount > 0 && request->amount <= GF_ID_MAX));
    if (!gf_redis_up(primary->redis) || primary->waiting >= WAITING_MAX)
        return GF_RETRY;
    if (!balance->armed && balance->config->ingest_gather > 0) {
        balance->armed = true;
        gf_timer_reset(balance->timer, balance->config->ingest_gather, 0);
    }
    call = gather_reserves(primary);
    call->waiters[call->count].on_reserved = on_reserved;
    call->waiters[call->count++].ctx = ctx;
    primary->waiting++;
    add_key(call, gf_key_wallet(call->key[call->keys], epoch, request->user_id));
    add_key(call, gf_key_marker(call->key[call->keys], epoch, request->user_id, &request->request_id));
    if (keyless)
        add_key(call, gf_key_click(call->key[call->keys], epoch, request->user_id, request->fp));
    at = gf_put_bytes(call->blob + call->len, request->request_id.b, sizeof(request->request_id.b));
    at = gf_put_i64(at, request->lookup ? -1 : request->amount);
    at = put_terms(at, request);
    *at = keyless;
    call->len += RESERVE_BYTES;
    return GF_OK;
}

void gf_balance_accept(struct gf_balance *balance, const struct gf_reserve *request)
{
    struct primary *primary = primary_of(balance, request->user_id);
    char key[GF_KEY_MAX];
    uint8_t value[GF_MARKER_BYTES];
    size_t key_len = gf_key_marker(key, balance->config->redis_epoch, request->user_id, &request->request_id);
    struct gf_redis_arg set[] = {{"SET", 3}, {key, key_len}, {(const char *)value, sizeof(value)}, {"XX", 2}, {"KEEPTTL", 7}};

    value[0] = 'A';
    (void)put_terms(gf_put_i64(value + 1, 0), request);
    if (gf_redis_command(primary->redis, set, GF_COUNT(set), NULL, NULL) != GF_OK)
        return; /* harmless: the lease runs out and settlement dedupes */
}

/* ---- aborts ---- */

static void wait_with_abort(struct abort *abort)
{
    struct primary *primary = abort->primary;

    if (primary->abort_count == ABORTS_MAX) {
        free(abort);
        return;
    }
    abort->next = primary->aborts;
    primary->aborts = abort;
    primary->abort_count++;
}

/* Without a reply nobody knows, and an error that took the link along (READONLY) was not the primary's: once more, when it is
 * back. Any other error would only come again. */
static void on_abort(void *ctx, const struct gf_reply *reply)
{
    struct abort *abort = ctx;
    bool refused = reply && gf_reply_type(reply) == GF_REPLY_ERROR;

    if (!reply || (refused && !gf_redis_up(abort->primary->redis)))
        wait_with_abort(abort);
    else
        free(abort);
}

/* RETRY: it was not sent. */
static enum gf_class send_abort(struct abort *abort)
{
    const struct gf_reserve *request = &abort->request;
    const struct gf_config *config = abort->primary->balance->config;
    char key[3][GF_KEY_MAX];
    uint8_t nonce[GF_FP_TEXT / 2];
    struct gf_redis_arg arg[6] = {{key[0], gf_key_wallet(key[0], config->redis_epoch, request->user_id)},
                                  {key[1], gf_key_marker(key[1], config->redis_epoch, request->user_id, &request->request_id)}};
    size_t keys = 2;

    if (request->keyless && config->ingest_double_click > 0) {
        arg[keys] = (struct gf_redis_arg){key[2], gf_key_click(key[2], config->redis_epoch, request->user_id, request->fp)};
        keys++;
    }
    (void)gf_put_hex(nonce, request->nonce);
    arg[keys] = (struct gf_redis_arg){GF_WALLET_TTL, strlen(GF_WALLET_TTL)};
    arg[keys + 1] = (struct gf_redis_arg){(const char *)request->request_id.b, sizeof(request->request_id.b)};
    arg[keys + 2] = (struct gf_redis_arg){(const char *)nonce, sizeof(nonce)};
    return gf_redis_script(abort->primary->redis, GF_SCRIPT_ABORT, arg, keys + 3, keys, on_abort, abort);
}

void gf_balance_abort(struct gf_balance *balance, const struct gf_reserve *request)
{
    struct abort *abort = gf_xmalloc(sizeof(*abort));

    *abort = (struct abort){.primary = primary_of(balance, request->user_id), .request = *request};
    if (send_abort(abort) != GF_OK)
        wait_with_abort(abort);
}

/* A piece per turn, so that they are in nobody's way when the primary comes back; gf/balance.h says why not the old ones. */
static void send_waiting_aborts(struct primary *primary)
{
    for (int i = 0; i < ABORTS_TURN && primary->aborts && gf_redis_up(primary->redis); i++) {
        struct abort *abort = primary->aborts;

        primary->aborts = abort->next;
        primary->abort_count--;
        if (gf_clock_mono_ms() - abort->request.begun_ms >= primary->balance->config->ingest_lease) {
            free(abort);
        } else if (send_abort(abort) != GF_OK) {
            wait_with_abort(abort);
            return;
        }
    }
}

/* ---- loads ---- */

static enum gf_class stored_class(char said)
{
    if (said == '2')
        gf_metric_add(GF_M_REDIS_FOREIGN, 1);
    return said == '1' || said == '2' ? GF_OK : said == '0' ? GF_REJECT : GF_RETRY;
}

static void on_loads(void *ctx, const struct gf_reply *reply)
{
    struct loads *call = ctx;
    size_t count = call->store.wallets, len = 0;
    const char *text = NULL;

    call->primary->waiting -= count;
    if (reply && (gf_reply_type(reply) == GF_REPLY_TEXT || gf_reply_type(reply) == GF_REPLY_ERROR))
        text = gf_reply_text(reply, &len);
    if (text && gf_reply_type(reply) == GF_REPLY_ERROR) {
        log_failure("load_failed", text, len);
        text = NULL;
    } else if (len < count) {
        text = NULL;
    } else {
        log_failure("load_failed", text + count, len - count);
    }
    for (size_t i = 0; i < count; i++)
        if (call->waiters[i].on_stored)
            call->waiters[i].on_stored(call->waiters[i].ctx, text ? stored_class(text[i]) : GF_RETRY);
    free(call);
}

static void send_loads(struct loads *call)
{
    struct gf_store *store = &call->store;
    size_t args = gf_store_end(store);

    if (gf_redis_script(call->primary->redis, GF_SCRIPT_STORE, store->arg, args, store->wallets, on_loads, call) != GF_OK)
        on_loads(call, NULL);
}

static struct loads *new_loads(struct primary *primary, int64_t fresh_ms)
{
    struct loads *call = gf_xmalloc(sizeof(*call));

    call->next = NULL;
    call->primary = primary;
    gf_store_begin(&call->store, fresh_ms);
    return call;
}

static void add_load(struct loads *call, const struct gf_wallet_state *wallet, gf_stored_fn on_stored, void *ctx)
{
    call->waiters[call->store.wallets].on_stored = on_stored;
    call->waiters[call->store.wallets].ctx = ctx;
    gf_store_add(&call->store, call->primary->balance->config->redis_epoch, wallet, NULL, 0);
    call->primary->waiting++;
}

enum gf_class gf_balance_load(struct gf_balance *balance, const struct gf_wallet_state *wallet, gf_stored_fn on_stored,
                              void *ctx)
{
    struct primary *primary = primary_of(balance, wallet->user_id);

    if (!gf_redis_up(primary->redis) || primary->waiting >= WAITING_MAX)
        return GF_RETRY;
    if (!primary->last_loads || !gf_store_fits(&primary->last_loads->store, 0)) {
        struct loads *call = new_loads(primary, GF_LOADED_FRESH_MS);

        if (primary->last_loads)
            primary->last_loads->next = call;
        else
            primary->loads = call;
        primary->last_loads = call;
    }
    add_load(primary->last_loads, wallet, on_stored, ctx);
    return GF_OK;
}

/* Readers ask MySQL when theirs is no longer fresh, should it be lost. */
void gf_balance_publish(struct gf_balance *balance, const struct gf_wallet_state *wallet)
{
    struct loads *call = new_loads(primary_of(balance, wallet->user_id), GF_PUBLISHED_FRESH_MS);

    add_load(call, wallet, NULL, NULL);
    send_loads(call);
}

enum gf_class gf_balance_forget(struct gf_balance *balance, int64_t user_id, int64_t ver, gf_reply_fn on_reply, void *ctx)
{
    char key[GF_KEY_MAX];
    uint8_t version[8];
    struct gf_redis_arg arg[] = {{key, gf_key_wallet(key, balance->config->redis_epoch, user_id)},
                                 {(const char *)version, sizeof(version)}};

    (void)gf_put_i64(version, ver);
    return gf_redis_script(primary_of(balance, user_id)->redis, GF_SCRIPT_FORGET, arg, GF_COUNT(arg), 1, on_reply, ctx);
}

/* ---- plain commands ---- */

enum gf_class gf_balance_get_marker(struct gf_balance *balance, int64_t user_id, const struct gf_uuid *request_id,
                                    gf_reply_fn on_reply, void *ctx)
{
    char key[GF_KEY_MAX];
    struct gf_redis_arg get[] = {{"GET", 3}, {key, gf_key_marker(key, balance->config->redis_epoch, user_id, request_id)}};

    return gf_redis_command(primary_of(balance, user_id)->redis, get, GF_COUNT(get), on_reply, ctx);
}

enum gf_class gf_balance_get_wallet(struct gf_balance *balance, int64_t user_id, gf_reply_fn on_reply, void *ctx)
{
    char key[GF_KEY_MAX];
    struct gf_redis_arg get[] = {{"GET", 3}, {key, gf_key_wallet(key, balance->config->redis_epoch, user_id)}};

    return gf_redis_command(primary_of(balance, user_id)->redis, get, GF_COUNT(get), on_reply, ctx);
}

/* ---- life ---- */

static void send_gathered_reserves(struct primary *primary)
{
    struct reserves *call = primary->reserves, *next;

    primary->reserves = primary->last_reserves = NULL;
    for (; call; call = next) {
        next = call->next;
        send_reserves(call);
    }
}

static void send_gathered_loads(struct primary *primary)
{
    struct loads *call = primary->loads, *next;

    primary->loads = primary->last_loads = NULL;
    for (; call; call = next) {
        next = call->next;
        send_loads(call);
    }
}

static bool reserves_leave(const struct primary *primary)
{
    const struct gf_balance *balance = primary->balance;

    return primary->reserves && (balance->due || balance->config->ingest_gather == 0 || primary->reserves->count == RESERVES_MAX);
}

/* Callbacks of calls that could not be sent may gather new ones: until there are none that leave now. */
static void send_gathered(struct primary *primary)
{
    while (primary->loads || reserves_leave(primary)) {
        if (reserves_leave(primary))
            send_gathered_reserves(primary);
        send_gathered_loads(primary);
    }
}

static void on_gathered(void *ctx)
{
    struct gf_balance *balance = ctx;

    balance->armed = false;
    balance->due = true;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct gf_balance *balance = prepare->data;

    for (int i = 0; i < balance->count; i++) {
        send_waiting_aborts(&balance->primaries[i]);
        send_gathered(&balance->primaries[i]);
        gf_redis_flush(balance->primaries[i].redis);
    }
    balance->due = false;
}

struct gf_balance *gf_balance_create(struct gf_loop *loop, const struct gf_config *config)
{
    int count = gf_config_redis_shards(config);
    struct gf_balance *balance = gf_xcalloc(1, sizeof(*balance) + (size_t)count * sizeof(balance->primaries[0]));

    balance->config = config;
    balance->count = count;
    (void)snprintf(balance->marker_ttl, sizeof(balance->marker_ttl), "%lld", (long long)config->ingest_marker_ttl);
    (void)snprintf(balance->click_ttl, sizeof(balance->click_ttl), "%lld", (long long)config->ingest_double_click);
    for (int i = 0; i < count; i++) {
        balance->primaries[i].balance = balance;
        balance->primaries[i].redis = gf_redis_create_shard(loop, config, i, NULL, NULL);
    }
    (void)uv_prepare_init(gf_loop_native(loop), &balance->prepare); /* neither can fail */
    (void)uv_prepare_start(&balance->prepare, on_prepare);
    balance->prepare.data = balance;
    balance->timer = gf_timer_start(loop, 1, 0, on_gathered, balance); /* finds nothing; armed by reservations */
    return balance;
}

bool gf_balance_up(const struct gf_balance *balance, int64_t user_id)
{
    return gf_redis_up(balance->primaries[gf_redis_shard(user_id, balance->count)].redis);
}

bool gf_balance_all_up(const struct gf_balance *balance)
{
    for (int i = 0; i < balance->count; i++)
        if (!gf_redis_up(balance->primaries[i].redis))
            return false;
    return true;
}

bool gf_balance_any_up(const struct gf_balance *balance)
{
    for (int i = 0; i < balance->count; i++)
        if (gf_redis_up(balance->primaries[i].redis))
            return true;
    return false;
}

static void on_closed(uv_handle_t *handle)
{
    struct gf_balance *balance = handle->data;

    for (int i = 0; i < balance->count; i++)
        for (struct abort *abort = balance->primaries[i].aborts, *next; abort; abort = next) {
            next = abort->next;
            free(abort);
        }
    free(balance);
}

void gf_balance_close(struct gf_balance **balance)
{
    if (!balance || !*balance)
        return;
    (*balance)->due = true;
    for (int i = 0; i < (*balance)->count; i++) {
        struct gf_redis *closed = (*balance)->primaries[i].redis; /* callbacks still find it, dead: it is freed by the loop */

        gf_redis_close(&closed);
        send_gathered(&(*balance)->primaries[i]);
    }
    gf_timer_close(&(*balance)->timer);
    uv_close((uv_handle_t *)&(*balance)->prepare, on_closed);
    *balance = NULL;
}
