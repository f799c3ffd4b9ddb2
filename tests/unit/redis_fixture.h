/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One private redis-server, a loop with an asynchronous link, and a blocking link that looks at what is left: shared by
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
static struct gf_balance_rules rules = {.epoch = 1,
                                        .rate_per_second = 1000000,
                                        .lease_ms = 3600000,
                                        .hold_ttl_ms = 3600000,
                                        .marker_ttl_ms = 3600000,
                                        .double_click_ms = 3600000};

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

static inline const char *field(int64_t user, const char *name)
{
    char line[160];

    snprintf(line, sizeof(line), "HGET gf1:{u:%" PRId64 "}:w %s", user, name);
    return ask(line);
}

static inline void set_field(int64_t user, const char *name, const char *value)
{
    char line[160];

    snprintf(line, sizeof(line), "HSET gf1:{u:%" PRId64 "}:w %s %s", user, name, value);
    (void)ask(line);
}

/* h:<rid> fields hold a space, which ask() would split. */
static inline void set_hold(int64_t user, const char *id, const char *value)
{
    char key[GF_KEY_MAX], name[64];
    size_t key_len = gf_key_wallet(key, 1, user);
    struct gf_reply *reply = NULL;
    struct gf_error error;

    snprintf(name, sizeof(name), "h:%s", id);
    struct gf_redis_arg args[] = {{"HSET", 4}, {key, key_len}, {name, strlen(name)}, {value, strlen(value)}};
    gf_redis_sync_command(raw, args, GF_COUNT(args));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    gf_reply_free(&reply);
}

static inline struct gf_reserve request(int64_t user, uint8_t id, int64_t amount)
{
    struct gf_reserve r = {.user_id = user, .amount = amount, .price = amount, .quantity = 1};

    r.request_id.b[0] = id;
    r.request_id.b[15] = 1;
    snprintf(r.fp, sizeof(r.fp), "00000000000000%02x", id);
    snprintf(r.nonce, sizeof(r.nonce), "%016x", 0xabc);
    return r;
}

static inline const char *id_text(uint8_t id)
{
    static char text[GF_UUID_TEXT + 1];
    struct gf_reserve r = request(1, id, 1);

    gf_uuid_format(&r.request_id, text);
    return text;
}

static inline const char *marker_of(const struct gf_reserve *r)
{
    char key[GF_KEY_MAX], line[GF_KEY_MAX + 8];

    (void)gf_key_marker(key, 1, r->user_id, &r->request_id);
    snprintf(line, sizeof(line), "GET %s", key);
    return ask(line);
}

static inline void set_marker(const struct gf_reserve *r, const char *value)
{
    char key[GF_KEY_MAX];
    size_t len = gf_key_marker(key, 1, r->user_id, &r->request_id);
    struct gf_redis_arg args[] = {{"SET", 3}, {key, len}, {value, strlen(value)}};
    struct gf_reply *reply = NULL;
    struct gf_error error;

    gf_redis_sync_command(raw, args, GF_COUNT(args));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    gf_reply_free(&reply);
}

static struct gf_reserve_reply last_reserve;

static inline void on_reserved(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    assert_non_null(reply);
    if (!gf_balance_reserve_reply(reply, &last_reserve))
        fail_msg("RESERVE: %s", gf_reply_type(reply) == GF_REPLY_ERROR ? gf_reply_text(reply, NULL) : "not its reply");
    gf_loop_stop(loop);
}

static inline enum gf_reserved reserve(const struct gf_reserve *r)
{
    assert_int_equal(gf_balance_reserve(redis, &rules, r, on_reserved, NULL), GF_OK);
    run_loop();
    return last_reserve.answer;
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

/* Waits until everything sent before has been answered. */
static inline void barrier(void)
{
    struct gf_redis_arg ping[] = {{"PING", 4}};

    assert_int_equal(gf_redis_command(redis, ping, 1, on_int, NULL), GF_OK);
    run_loop();
}

static inline int64_t load(int64_t user, int64_t ver, int64_t balance, int status)
{
    struct gf_wallet_state wallet = {.user_id = user, .ver = ver, .balance = balance, .status = status};

    assert_int_equal(gf_balance_load(redis, 1, &wallet, on_int, NULL), GF_OK);
    run_loop();
    return last_int;
}

/* A wallet that stays fresh and confirmed however slow the test runs. */
static inline void given(int64_t user, int64_t ver, int64_t balance, int status)
{
    assert_int_equal(load(user, ver, balance, status), 1);
    set_field(user, "f", FAR);
    set_field(user, "c", FAR);
}

static inline int64_t publish(int64_t user, int64_t ver, int64_t balance, const struct gf_uuid *ids, size_t count)
{
    struct gf_wallet_state wallet = {.user_id = user, .ver = ver, .balance = balance, .status = 1};
    int calls = gf_balance_publish_sync(raw, 1, &wallet, ids, count);
    int64_t first = -1;

    for (int i = 0; i < calls; i++) {
        struct gf_reply *reply = NULL;
        struct gf_error error = {0};

        if (gf_redis_sync_reply(raw, &reply, &error) != GF_OK || gf_reply_type(reply) != GF_REPLY_INT)
            fail_msg("PUBLISH: %s", reply ? gf_reply_text(reply, NULL) : error.text);
        if (i == 0)
            first = gf_reply_int(reply);
        gf_reply_free(&reply);
    }
    return first;
}

static inline int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* as src/main.c does */
    redis_server_init(&server);
    redis_server_launch(&server);
    if (gf_redis_sync_connect(&server.config, &raw, &error) != GF_OK)
        return -1;
    loop = gf_loop_create();
    redis = gf_redis_create(loop, &server.config, stop_loop, NULL);
    run_loop();
    return gf_redis_up(redis) ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    gf_redis_close(&redis);
    gf_loop_destroy(&loop);
    gf_redis_sync_close(&raw);
    redis_server_stop(&server);
    return 0;
}
