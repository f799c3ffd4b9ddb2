/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One private redis-server, a loop with an asynchronous link and a balance cache, and a blocking link that looks at what is left: shared by
 * the tests of the links and of the scripts. Times inside Redis are set by hand where a rule depends on them, so that
 * no test depends on how fast the machine is. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/balance.h"
#include "redis_server.h"

#define FAR "9000000000000000" /* a time that no test lives to see */

static struct redis_server server;
static struct gf_redis_sync *raw; /* looks at what the scripts left */
static struct gf_loop *loop;
static struct gf_redis *redis;
static struct gf_balance *balance;

/* ---- helpers ---- */

static inline void stop_loop(void *ctx)
{
    (void)ctx;
    gf_loop_stop(loop);
}

static inline void on_deadline(void *ctx)
{
    (void)ctx;
    fail_msg("nothing came in 60 s");
}

static inline void run_loop(void)
{
    struct gf_timer *guard = gf_timer_start(loop, 60000, 0, on_deadline, NULL);

    gf_loop_run(loop);
    gf_timer_close(&guard);
}

/* A raw command of words divided by spaces; the reply as text ("" for nil). */
static inline const char *ask(const char *line)
{
    static char answer[512];
    struct gf_redis_arg args[16];
    struct gf_reply *reply = NULL;
    struct gf_error error;
    size_t count = 0, len;
    const char *text;

    while (*line) {
        size_t word = strcspn(line, " ");

        args[count++] = (struct gf_redis_arg){line, word};
        line += word + (line[word] == ' ');
    }
    gf_redis_sync_command(raw, args, count);
    if (gf_redis_sync_reply(raw, &reply, &error) != GF_OK)
        fail_msg("%s", error.text);
    answer[0] = '\0';
    switch (gf_reply_type(reply)) {
    case GF_REPLY_INT:
        snprintf(answer, sizeof(answer), "%" PRId64, gf_reply_int(reply));
        break;
    case GF_REPLY_TEXT:
    case GF_REPLY_STATUS:
    case GF_REPLY_ERROR:
        text = gf_reply_text(reply, &len);
        snprintf(answer, sizeof(answer), "%.*s", (int)len, text);
        break;
    case GF_REPLY_NIL:
    case GF_REPLY_ARRAY:
    default:
        break;
    }
    gf_reply_free(&reply);
    return answer;
}

/* What a key holds; false: nothing. */
static inline bool peek(const char *key, uint8_t *bytes_r, size_t size, size_t *len_r)
{
    struct gf_redis_arg get[] = {{"GET", 3}, {key, strlen(key)}};
    struct gf_reply *reply = NULL;
    struct gf_error error;
    const char *text;
    bool found;

    gf_redis_sync_command(raw, get, GF_COUNT(get));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    found = gf_reply_type(reply) == GF_REPLY_TEXT;
    if (found) {
        text = gf_reply_text(reply, len_r);
        assert_true(*len_r <= size);
        memcpy(bytes_r, text, *len_r);
    }
    gf_reply_free(&reply);
    return found;
}

static inline void poke(const char *key, const uint8_t *bytes, size_t len)
{
    struct gf_redis_arg set[] = {{"SET", 3}, {key, strlen(key)}, {(const char *)bytes, len}, {"KEEPTTL", 7}};
    struct gf_reply *reply = NULL;
    struct gf_error error;

    gf_redis_sync_command(raw, set, GF_COUNT(set));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    assert_int_equal(gf_reply_type(reply), GF_REPLY_STATUS);
    gf_reply_free(&reply);
}

static inline void put_le(uint8_t *at, int64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)((uint64_t)value >> (8 * i));
}

#define WALLET_BYTES (50 + 32 * 600)
/* Field b, v, s, f, c, h or n of a wallet as text; "" for no wallet. */
static inline const char *field(int64_t user, const char *name)
{
    static uint8_t bytes[WALLET_BYTES];
    static char text[32];
    struct gf_cached_wallet w;
    char key[GF_KEY_MAX];
    size_t len;
    int64_t value;

    (void)gf_key_wallet(key, 1, user);
    if (!peek(key, bytes, sizeof(bytes), &len))
        return "";
    assert_true(gf_cached_wallet_parse((const char *)bytes, len, &w));
    switch (name[0]) {
    case 'b': value = w.balance; break;
    case 'v': value = w.ver; break;
    case 's': value = w.status; break;
    case 'f': value = w.fresh_ms; break;
    case 'c': value = w.confirmed_ms; break;
    case 'h': value = w.held; break;
    default: value = (int64_t)w.count; break;
    }
    snprintf(text, sizeof(text), "%" PRId64, value);
    return text;
}

static inline void set_field(int64_t user, const char *name, const char *value)
{
    static uint8_t bytes[WALLET_BYTES];
    char key[GF_KEY_MAX];
    size_t len;

    (void)gf_key_wallet(key, 1, user);
    assert_true(peek(key, bytes, sizeof(bytes), &len));
    if (name[0] == 's')
        bytes[1] = (uint8_t)strtoll(value, NULL, 10);
    else
        put_le(bytes + (name[0] == 'f' ? 18 : 26), strtoll(value, NULL, 10));
    poke(key, bytes, len);
}

/* Another deadline for a hold that is there. */
static inline void set_deadline(int64_t user, const struct gf_uuid *id, int64_t deadline_ms)
{
    static uint8_t bytes[WALLET_BYTES];
    char key[GF_KEY_MAX];
    size_t len;

    (void)gf_key_wallet(key, 1, user);
    assert_true(peek(key, bytes, sizeof(bytes), &len));
    for (size_t at = 50; at < len; at += 32)
        if (memcmp(bytes + at, id->b, sizeof(id->b)) == 0) {
            put_le(bytes + at + 24, deadline_ms);
            poke(key, bytes, len);
            return;
        }
    fail_msg("no such hold");
}

static inline struct gf_reserve request(int64_t user, uint8_t id, int64_t amount)
{
    struct gf_reserve r = {.user_id = user, .amount = amount, .price = amount, .quantity = 1, .begun_ms = gf_clock_mono_ms()};

    r.request_id.b[0] = id;
    r.request_id.b[15] = 1;
    snprintf(r.fp, sizeof(r.fp), "00000000000000%02x", id);
    snprintf(r.nonce, sizeof(r.nonce), "%016x", 0xabc);
    return r;
}

/* False: there is none. */
static inline bool marker_of(const struct gf_reserve *r, struct gf_marker *marker_r)
{
    char key[GF_KEY_MAX];
    uint8_t bytes[64];
    size_t len;

    (void)gf_key_marker(key, 1, r->user_id, &r->request_id);
    if (!peek(key, bytes, sizeof(bytes), &len))
        return false;
    assert_true(gf_marker_parse((const char *)bytes, len, marker_r));
    return true;
}

static inline bool has_marker(const struct gf_reserve *r)
{
    struct gf_marker marker;

    return marker_of(r, &marker);
}

/* The marker of a call with this nonce that nobody answered, its lease long over. */
static inline void set_overdue(const struct gf_reserve *r, uint16_t nonce, int64_t price)
{
    char key[GF_KEY_MAX];
    uint8_t bytes[41] = {'P'};

    (void)gf_key_marker(key, 1, r->user_id, &r->request_id);
    put_le(bytes + 1, 5);
    bytes[16] = (uint8_t)strtoll(r->fp + 14, NULL, 16);
    bytes[23] = (uint8_t)(nonce >> 8);
    bytes[24] = (uint8_t)nonce;
    put_le(bytes + 25, price);
    put_le(bytes + 33, 1);
    poke(key, bytes, sizeof(bytes));
}

static struct gf_reserve_reply last_reserve;

static inline void on_reserved(void *ctx, const struct gf_reserve_reply *reply)
{
    (void)ctx;
    last_reserve = reply ? *reply : (struct gf_reserve_reply){0};
    gf_loop_stop(loop);
}

static inline enum gf_reserved reserve(const struct gf_reserve *r)
{
    assert_int_equal(gf_balance_reserve(balance, r, on_reserved, NULL), GF_OK);
    run_loop();
    return last_reserve.answer;
}

/* What is available to one that is insufficient. */
static inline int64_t refused_with(const struct gf_reserve *r)
{
    assert_int_equal(reserve(r), GF_RESERVED_INSUFFICIENT);
    return last_reserve.available;
}

static int64_t last_int;

static inline void on_int(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    assert_non_null(reply);
    if (gf_reply_type(reply) == GF_REPLY_ERROR)
        fail_msg("%s", gf_reply_text(reply, NULL));
    last_int = gf_reply_type(reply) == GF_REPLY_INT ? gf_reply_int(reply) : -1;
    gf_loop_stop(loop);
}

static inline void on_any(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    assert_non_null(reply);
    gf_loop_stop(loop);
}

/* Waits until every command of the balance cache that was sent before has been answered. */
static inline void barrier(void)
{
    assert_int_equal(gf_balance_get_wallet(balance, 1, on_any, NULL), GF_OK);
    run_loop();
}

static enum gf_class last_class;

static inline void on_stored(void *ctx, enum gf_class class)
{
    (void)ctx;
    last_class = class;
    gf_loop_stop(loop);
}

static inline enum gf_class load(int64_t user, int64_t ver, int64_t coins, int status)
{
    struct gf_wallet_state wallet = {.user_id = user, .ver = ver, .balance = coins, .status = status};

    assert_int_equal(gf_balance_load(balance, &wallet, on_stored, NULL), GF_OK);
    run_loop();
    return last_class;
}

/* A wallet that stays fresh and confirmed however slow the test runs. */
static inline void given(int64_t user, int64_t ver, int64_t coins, int status)
{
    assert_int_equal(load(user, ver, coins, status), GF_OK);
    set_field(user, "f", FAR);
    set_field(user, "c", FAR);
}

/* Replies of `calls` calls of publish_many. */
static inline struct gf_published published(struct gf_redis_sync *link, int calls)
{
    struct gf_published sum = {0}, one;

    for (int i = 0; i < calls; i++) {
        struct gf_reply *reply = NULL;
        struct gf_error error = {0};

        if (gf_redis_sync_reply(link, &reply, &error) != GF_OK || !gf_balance_published(reply, &one))
            fail_msg("PUBLISH: %s", reply ? gf_reply_text(reply, NULL) : error.text);
        sum.taken += one.taken;
        sum.replaced += one.replaced;
        sum.failed += one.failed;
        gf_reply_free(&reply);
    }
    return sum;
}

/* How many balances were taken: 1 or 0. */
static inline int64_t publish(int64_t user, int64_t ver, int64_t coins, const struct gf_uuid *ids, size_t count)
{
    struct gf_publish item = {
        .wallet = {.user_id = user, .ver = ver, .balance = coins, .status = 1}, .ids = ids, .count = count};

    return published(raw, gf_balance_publish_many_sync(raw, 1, &item, 1)).taken;
}

static inline void poll_all_up(void *ctx)
{
    (void)ctx;
    if (gf_balance_all_up(balance))
        gf_loop_stop(loop);
}

static inline int set_up(void **state)
{
    struct gf_timer *poll;
    struct gf_error error;

    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* as src/main.c does */
    redis_server_init(&server);
    redis_server_launch(&server);
    server.config.ingest_rate_per_second = 1000000;
    server.config.ingest_lease = server.config.ingest_hold_ttl = server.config.ingest_marker_ttl = 3600000;
    server.config.ingest_double_click = 3600000;
    if (gf_redis_sync_connect(&server.config, &raw, &error) != GF_OK)
        return -1;
    loop = gf_loop_create();
    redis = gf_redis_create(loop, &server.config, stop_loop, NULL);
    run_loop();
    balance = gf_balance_create(loop, &server.config);
    poll = gf_timer_start(loop, 1, 1, poll_all_up, NULL);
    run_loop();
    gf_timer_close(&poll);
    return gf_redis_up(redis) && gf_balance_all_up(balance) ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    gf_balance_close(&balance);
    gf_redis_close(&redis);
    gf_loop_destroy(&loop);
    gf_redis_sync_close(&raw);
    redis_server_stop(&server);
    return 0;
}
