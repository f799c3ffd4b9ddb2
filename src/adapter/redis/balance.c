/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments and replies of the balance scripts; see gf/balance.h. */
#include "gf/balance.h"

#include <string.h>

#include "gf/num.h"

#define WALLET_TTL_MS (15 * 60 * 1000)
#define LOADED_FRESH_MS 5000                /* what a reader said */
#define PUBLISHED_FRESH_MS (10 * 60 * 1000) /* what settlement said: it will say so again when it changes */
#define NUMBER_MAX 24

/* ---- keys ---- */

/* Keys and numbers are written by hand: formatted printing would cost as much as the rest of a call. */
static char *put_i64(char *at, int64_t value)
{
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    char digits[20];
    size_t n = 0;

    if (value < 0)
        *at++ = '-';
    do
        digits[n++] = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    while (n > 0)
        *at++ = digits[--n];
    return at;
}

static char *put_text(char *at, const char *text, size_t len)
{
    memcpy(at, text, len);
    return at + len;
}

/* "gf<E>:{u:<id>}:": at most 47 bytes, so that what follows fits as well. */
static char *put_user(char *at, int64_t epoch, int64_t user_id)
{
    at = put_text(at, "gf", 2);
    at = put_i64(at, epoch);
    at = put_text(at, ":{u:", 4);
    at = put_i64(at, user_id);
    return put_text(at, "}:", 2);
}

size_t gf_key_wallet(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id)
{
    char *at = put_user(key_r, epoch, user_id);

    *at++ = 'w';
    *at = '\0';
    return (size_t)(at - key_r);
}

size_t gf_key_marker(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const struct gf_uuid *request_id)
{
    char *at = put_text(put_user(key_r, epoch, user_id), "q:", 2);

    gf_uuid_format(request_id, at);
    return (size_t)(at - key_r) + GF_UUID_TEXT;
}

size_t gf_key_click(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const char *fp)
{
    char *at = put_text(put_text(put_user(key_r, epoch, user_id), "d:", 2), fp, GF_FP_TEXT);

    *at = '\0';
    return (size_t)(at - key_r);
}

void gf_balance_rules_init(struct gf_balance_rules *rules_r, const struct gf_config *config)
{
    *rules_r = (struct gf_balance_rules){
        .epoch = config->redis_epoch,
        .rate_per_second = config->ingest_rate_per_second,
        .lease_ms = config->ingest_lease,
        .hold_ttl_ms = config->ingest_hold_ttl,
        .marker_ttl_ms = config->ingest_marker_ttl,
        .double_click_ms = config->ingest_double_click,
    };
}

/* ---- arguments: texts stay in place while the command is encoded ---- */

struct call {
    struct gf_redis_arg arg[20];
    size_t count, keys;
    char key[3][GF_KEY_MAX];
    char number[14][NUMBER_MAX];
    size_t numbers;
    char id[GF_UUID_TEXT + 1];
};

static void add(struct call *call, const char *text, size_t len)
{
    GF_ASSERT(call->count < GF_COUNT(call->arg));
    call->arg[call->count++] = (struct gf_redis_arg){text, len};
}

static void add_key(struct call *call, size_t len)
{
    add(call, call->key[call->keys], len);
    call->keys++;
}

static void add_i64(struct call *call, int64_t value)
{
    char *text = call->number[call->numbers++];

    GF_ASSERT(call->numbers <= GF_COUNT(call->number));
    add(call, text, (size_t)(put_i64(text, value) - text));
}

/* Keys and id of the scripts about one request. */
static void begin_request(struct call *call, const struct gf_balance_rules *rules, const struct gf_reserve *request)
{
    call->count = call->keys = call->numbers = 0;
    add_key(call, gf_key_wallet(call->key[0], rules->epoch, request->user_id));
    add_key(call, gf_key_marker(call->key[1], rules->epoch, request->user_id, &request->request_id));
    if (request->keyless && rules->double_click_ms > 0)
        add_key(call, gf_key_click(call->key[2], rules->epoch, request->user_id, request->fp));
    gf_uuid_format(&request->request_id, call->id);
    add(call, call->id, GF_UUID_TEXT);
}

enum gf_class gf_balance_reserve(struct gf_redis *redis, const struct gf_balance_rules *rules,
                                 const struct gf_reserve *request, gf_reply_fn on_reply, void *ctx)
{
    struct call call;

    GF_ASSERT(request->lookup || (request->amount > 0 && request->amount <= GF_ID_MAX));
    begin_request(&call, rules, request);
    add(&call, request->fp, GF_FP_TEXT);
    add_i64(&call, request->lookup ? -1 : request->amount);
    add_i64(&call, request->price);
    add_i64(&call, request->quantity);
    add(&call, request->nonce, GF_FP_TEXT);
    add_i64(&call, rules->rate_per_second);
    add_i64(&call, rules->lease_ms);
    add_i64(&call, rules->hold_ttl_ms);
    add_i64(&call, rules->marker_ttl_ms);
    add_i64(&call, WALLET_TTL_MS);
    add_i64(&call, rules->double_click_ms);
    add_i64(&call, GF_HOLDS_MAX);
    return gf_redis_script(redis, GF_SCRIPT_RESERVE, call.arg, call.count, call.keys, on_reply, ctx);
}

bool gf_balance_reserve_reply(const struct gf_reply *reply, struct gf_reserve_reply *reply_r)
{
    int64_t number[3];

    if (!reply || gf_reply_type(reply) != GF_REPLY_ARRAY || gf_reply_count(reply) != 3)
        return false;
    for (size_t i = 0; i < 3; i++) {
        if (gf_reply_type(gf_reply_at(reply, i)) != GF_REPLY_INT)
            return false;
        number[i] = gf_reply_int(gf_reply_at(reply, i));
    }
    if (number[0] < GF_RESERVED_OK || number[0] > GF_RESERVED_NONE)
        return false;
    *reply_r = (struct gf_reserve_reply){.answer = (enum gf_reserved)number[0]};
    if (reply_r->answer == GF_RESERVED_OK || reply_r->answer == GF_RESERVED_REPLAY) {
        reply_r->price = number[1];
        reply_r->quantity = number[2];
    } else if (reply_r->answer == GF_RESERVED_INSUFFICIENT) {
        reply_r->available = number[1];
    } else {
        reply_r->wait_ms = number[1];
    }
    return true;
}

void gf_balance_accept(struct gf_redis *redis, const struct gf_balance_rules *rules, const struct gf_reserve *request)
{
    char key[GF_KEY_MAX], value[128], ttl[NUMBER_MAX], *at = value;
    size_t key_len = gf_key_marker(key, rules->epoch, request->user_id, &request->request_id);
    size_t ttl_len = (size_t)(put_i64(ttl, rules->marker_ttl_ms) - ttl);
    struct gf_redis_arg set[] = {{"SET", 3}, {key, key_len}, {value, 0}, {"XX", 2}, {"PX", 2}, {ttl, ttl_len}};

    at = put_text(put_text(at, "A ", 2), request->fp, GF_FP_TEXT);
    *at++ = ' ';
    at = put_i64(at, request->price);
    *at++ = ' ';
    at = put_i64(at, request->quantity);
    at = put_text(put_text(at, " 0 ", 3), request->nonce, GF_FP_TEXT);
    set[2].len = (size_t)(at - value);
    if (gf_redis_command(redis, set, GF_COUNT(set), NULL, NULL) != GF_OK)
        return; /* harmless: the lease runs out and settlement dedupes */
}

void gf_balance_abort(struct gf_redis *redis, const struct gf_balance_rules *rules, const struct gf_reserve *request)
{
    struct call call;

    begin_request(&call, rules, request);
    add(&call, request->nonce, GF_FP_TEXT);
    if (gf_redis_script(redis, GF_SCRIPT_ABORT, call.arg, call.count, call.keys, NULL, NULL) != GF_OK)
        return; /* the hold runs out by its deadline */
}

/* Wallet key and what LOAD and PUBLISH take in common. */
static void begin_wallet(struct call *call, int64_t epoch, const struct gf_wallet_state *wallet, int64_t fresh_ms)
{
    GF_ASSERT(gf_id_valid(wallet->user_id) && wallet->ver >= GF_PUBLISH_RELEASE && wallet->balance >= 0);
    call->count = call->keys = call->numbers = 0;
    add_key(call, gf_key_wallet(call->key[0], epoch, wallet->user_id));
    add_i64(call, wallet->ver);
    add_i64(call, wallet->balance);
    add_i64(call, wallet->status);
    add_i64(call, fresh_ms);
    add_i64(call, WALLET_TTL_MS);
}

enum gf_class gf_balance_load(struct gf_redis *redis, int64_t epoch, const struct gf_wallet_state *wallet,
                              gf_reply_fn on_reply, void *ctx)
{
    struct call call;

    begin_wallet(&call, epoch, wallet, LOADED_FRESH_MS);
    return gf_redis_script(redis, GF_SCRIPT_LOAD, call.arg, call.count, call.keys, on_reply, ctx);
}

void gf_balance_publish(struct gf_redis *redis, int64_t epoch, const struct gf_wallet_state *wallet)
{
    struct call call;

    begin_wallet(&call, epoch, wallet, PUBLISHED_FRESH_MS);
    if (gf_redis_script(redis, GF_SCRIPT_PUBLISH, call.arg, call.count, call.keys, NULL, NULL) != GF_OK)
        return; /* readers ask MySQL when theirs is no longer fresh */
}

int gf_balance_publish_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_wallet_state *wallet,
                            const struct gf_uuid *ids, size_t count)
{
    struct gf_redis_arg arg[6 + GF_PUBLISH_IDS_MAX];
    char text[GF_PUBLISH_IDS_MAX][GF_UUID_TEXT + 1];
    struct gf_wallet_state state = *wallet;
    int calls = 0;

    do {
        struct call call;
        size_t take = count < GF_PUBLISH_IDS_MAX ? count : GF_PUBLISH_IDS_MAX;

        begin_wallet(&call, epoch, &state, PUBLISHED_FRESH_MS);
        memcpy(arg, call.arg, call.count * sizeof(arg[0]));
        for (size_t i = 0; i < take; i++) {
            gf_uuid_format(&ids[i], text[i]);
            arg[call.count + i] = (struct gf_redis_arg){text[i], GF_UUID_TEXT};
        }
        gf_redis_sync_script(redis, GF_SCRIPT_PUBLISH, arg, call.count + take, call.keys);
        ids += take;
        count -= take;
        calls++;
        state.ver = GF_PUBLISH_RELEASE; /* the first call carries the balance */
    } while (count > 0);
    return calls;
}

/* ---- markers ---- */

static bool take_word(const char **at, const char *end, const char **word_r, size_t *len_r)
{
    const char *stop;

    if (*at >= end)
        return false;
    stop = memchr(*at, ' ', (size_t)(end - *at));
    if (!stop)
        stop = end;
    *word_r = *at;
    *len_r = (size_t)(stop - *at);
    *at = stop < end ? stop + 1 : end;
    return *len_r > 0;
}

bool gf_marker_parse(const char *text, size_t len, struct gf_marker *marker_r)
{
    const char *end = text + len, *word[6];
    struct gf_marker marker = {0};
    size_t word_len[6];

    for (size_t i = 0; i < GF_COUNT(word); i++)
        if (!take_word(&text, end, &word[i], &word_len[i]))
            return false;
    if (text != end || word_len[0] != 1 || (word[0][0] != 'A' && word[0][0] != 'P') || word_len[1] != GF_FP_TEXT ||
        !gf_num_parse_i64(word[2], word_len[2], 1, GF_ID_MAX, &marker.price) ||
        !gf_num_parse_i64(word[3], word_len[3], 1, INT32_MAX, &marker.quantity) ||
        !gf_num_parse_i64(word[4], word_len[4], 0, GF_ID_MAX, &marker.lease_ms))
        return false;
    marker.accepted = word[0][0] == 'A';
    memcpy(marker.fp, word[1], GF_FP_TEXT);
    *marker_r = marker;
    return true;
}

/* ---- many wallets in one call ---- */

#define MANY_WALLETS 64
#define MANY_IDS 512

struct many {
    struct gf_redis_arg arg[MANY_WALLETS + 2 + 4 * MANY_WALLETS + MANY_IDS];
    size_t args, wallets, ids;
    char key[MANY_WALLETS][GF_KEY_MAX];
    char number[2 + 4 * MANY_WALLETS][NUMBER_MAX];
    size_t numbers;
    char text[MANY_IDS][GF_UUID_TEXT + 1];
    struct gf_redis_arg keys[MANY_WALLETS]; /* keys stand before all other arguments: put together when the call is sent */
};

static void many_i64(struct many *many, int64_t value)
{
    char *text = many->number[many->numbers++];

    GF_ASSERT(many->numbers <= GF_COUNT(many->number) && many->args < GF_COUNT(many->arg));
    many->arg[many->args++] = (struct gf_redis_arg){text, (size_t)(put_i64(text, value) - text)};
}

static void many_begin(struct many *many)
{
    many->args = MANY_WALLETS; /* room for the keys */
    many->wallets = many->ids = many->numbers = 0;
    many_i64(many, PUBLISHED_FRESH_MS);
    many_i64(many, WALLET_TTL_MS);
}

static int many_send(struct many *many, struct gf_redis_sync *redis)
{
    size_t at = MANY_WALLETS - many->wallets;

    if (many->wallets == 0)
        return 0;
    memcpy(&many->arg[at], many->keys, many->wallets * sizeof(many->keys[0]));
    gf_redis_sync_script(redis, GF_SCRIPT_PUBLISH_MANY, &many->arg[at], many->args - at, many->wallets);
    many_begin(many);
    return 1;
}

static void many_add(struct many *many, int64_t epoch, const struct gf_wallet_state *wallet, const struct gf_uuid *ids,
                     size_t count)
{
    char *key = many->key[many->wallets];

    GF_ASSERT(gf_id_valid(wallet->user_id) && wallet->ver >= GF_PUBLISH_RELEASE && wallet->balance >= 0);
    GF_ASSERT(many->wallets < MANY_WALLETS && many->ids + count <= MANY_IDS);
    many->keys[many->wallets++] = (struct gf_redis_arg){key, gf_key_wallet(key, epoch, wallet->user_id)};
    many_i64(many, wallet->ver);
    many_i64(many, wallet->balance);
    many_i64(many, wallet->status);
    many_i64(many, (int64_t)count);
    for (size_t i = 0; i < count; i++) {
        char *text = many->text[many->ids++];

        gf_uuid_format(&ids[i], text);
        many->arg[many->args++] = (struct gf_redis_arg){text, GF_UUID_TEXT};
    }
}

int gf_balance_publish_many_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_publish *items, size_t count)
{
    struct many many;
    int calls = 0;

    many_begin(&many);
    for (size_t i = 0; i < count; i++) {
        struct gf_wallet_state state = items[i].wallet;
        size_t done = 0;

        do { /* a long list of holds becomes several entries; the first carries the balance */
            size_t take = items[i].count - done < GF_PUBLISH_IDS_MAX ? items[i].count - done : GF_PUBLISH_IDS_MAX;

            if (many.wallets == MANY_WALLETS || many.ids + take > MANY_IDS)
                calls += many_send(&many, redis);
            many_add(&many, epoch, &state, items[i].ids + done, take);
            done += take;
            state.ver = GF_PUBLISH_RELEASE;
        } while (done < items[i].count);
    }
    return calls + many_send(&many, redis);
}
