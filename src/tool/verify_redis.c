/* SPDX-License-Identifier: Apache-2.0 */
/* verify's look at Redis: every cached wallet of this epoch, by SCAN. Each hash is read at one moment, so its held sum and its
 * holds must agree by themselves; its balance is kept and compared with MySQL later. Redis is a cache: what cannot be read is
 * no violation, only not checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/num.h"
#include "gf/redis.h"
#include "verify.h"

#define PIPELINE 500
#define HOLD_GRACE_MS 60000 /* a hold is purged when its room is needed, not at its deadline */

struct verify_scan {
    struct verify *verify;
    struct gf_redis_sync *redis;
    char prefix[32], cursor[32];
    int64_t now_ms; /* Redis's clock: deadlines are by it */
    int64_t users[PIPELINE * 8];
    size_t user_count;
};

static enum gf_class ask(struct verify_scan *scan, const struct gf_redis_arg *args, size_t count, struct gf_reply **reply_r)
{
    struct gf_error *error = &scan->verify->error;
    enum gf_class class;
    size_t len;

    gf_redis_sync_command(scan->redis, args, count);
    class = gf_redis_sync_reply(scan->redis, reply_r, error);
    if (class != GF_OK || gf_reply_type(*reply_r) != GF_REPLY_ERROR)
        return class;
    class = gf_fail(error, GF_RETRY, 0, "redis: %.200s", gf_reply_text(*reply_r, &len));
    gf_reply_free(reply_r);
    return class;
}

static bool text_i64(const struct gf_reply *reply, int64_t *value_r)
{
    size_t len;
    const char *text;

    if (gf_reply_type(reply) != GF_REPLY_TEXT)
        return false;
    text = gf_reply_text(reply, &len);
    return gf_num_parse_i64(text, len, INT64_MIN, INT64_MAX, value_r);
}

static enum gf_class read_clock(struct verify_scan *scan)
{
    static const struct gf_redis_arg args[] = {{"TIME", 4}};
    struct gf_reply *reply;
    int64_t seconds = 0;
    enum gf_class class = ask(scan, args, 1, &reply);

    if (class != GF_OK)
        return class;
    if (gf_reply_type(reply) != GF_REPLY_ARRAY || gf_reply_count(reply) != 2 || !text_i64(gf_reply_at(reply, 0), &seconds))
        class = gf_fail(&scan->verify->error, GF_RETRY, 0, "redis: TIME is not understood");
    scan->now_ms = seconds * 1000;
    gf_reply_free(&reply);
    return class;
}

/* -- one wallet */

struct holds {
    int64_t held, count;       /* fields h and n */
    int64_t sum, seen, oldest; /* of the h: fields */
    bool odd;
};

static void read_hold(const char *text, size_t len, struct holds *holds)
{
    const char *space = memchr(text, ' ', len);
    int64_t amount, deadline_ms;

    if (space == NULL || !gf_num_parse_i64(text, (size_t)(space - text), 0, GF_ID_MAX, &amount) ||
        !gf_num_parse_i64(space + 1, len - (size_t)(space - text) - 1, 0, GF_ID_MAX, &deadline_ms)) {
        holds->odd = true;
        return;
    }
    holds->sum += amount;
    holds->seen++;
    if (holds->oldest == 0 || deadline_ms < holds->oldest)
        holds->oldest = deadline_ms;
}

static void check_holds(struct verify_scan *scan, const struct holds *holds, struct verify_cached *cached)
{
    struct verify *verify = scan->verify;
    int64_t user_id = cached->user_id, violations = verify->results[VERIFY_REDIS_HOLDS].violations;

    verify->results[VERIFY_REDIS_HOLDS].checked += holds->seen;
    if (holds->odd || holds->held < 0 || holds->count < 0 || holds->held != holds->sum || holds->count != holds->seen)
        gf_verify_fail(verify, VERIFY_REDIS_HOLDS, "user %" PRId64 ": %" PRId64 " held in %" PRId64 " holds, but the holds are %" PRId64
                       " with %" PRId64, user_id, holds->held, holds->count, holds->seen, holds->sum);
    if (holds->seen > 0 && holds->oldest + HOLD_GRACE_MS < scan->now_ms)
        gf_verify_fail(verify, VERIFY_REDIS_HOLDS, "user %" PRId64 ": a hold has outlived its deadline by %" PRId64 " ms", user_id,
                       scan->now_ms - holds->oldest);
    cached->holds_wrong = verify->results[VERIFY_REDIS_HOLDS].violations > violations;
}

static void keep(struct verify *verify, const struct verify_cached *cached)
{
    if (verify->cached_count == verify->cached_cap) {
        verify->cached_cap = verify->cached_cap > 0 ? verify->cached_cap * 2 : 4096;
        verify->cached = gf_xrealloc(verify->cached, verify->cached_cap * sizeof(verify->cached[0]));
    }
    verify->cached[verify->cached_count++] = *cached;
}

static void read_field(const char *name, size_t len, const struct gf_reply *value, struct verify_cached *cached,
                       struct holds *holds)
{
    size_t value_len;
    const char *text = gf_reply_text(value, &value_len);

    if (len > 2 && memcmp(name, "h:", 2) == 0)
        read_hold(text, value_len, holds);
    else if (len == 1 && *name == 'h')
        holds->odd |= !text_i64(value, &holds->held);
    else if (len == 1 && *name == 'n')
        holds->odd |= !text_i64(value, &holds->count);
    else if (len == 1 && *name == 'v')
        cached->loaded = text_i64(value, &cached->ver);
    else if (len == 1 && *name == 'b')
        (void)text_i64(value, &cached->balance);
    else if (len == 1 && *name == 's')
        (void)text_i64(value, &cached->status);
}

static void read_wallet(struct verify_scan *scan, int64_t user_id, const struct gf_reply *reply)
{
    struct verify_cached cached = {.user_id = user_id};
    struct holds holds = {0};

    if (gf_reply_type(reply) != GF_REPLY_ARRAY || gf_reply_count(reply) == 0)
        return; /* expired meanwhile */
    for (size_t i = 0; i + 1 < gf_reply_count(reply); i += 2) {
        size_t len;
        const char *name = gf_reply_text(gf_reply_at(reply, i), &len);

        read_field(name, len, gf_reply_at(reply, i + 1), &cached, &holds);
    }
    check_holds(scan, &holds, &cached);
    keep(scan->verify, &cached);
}

static enum gf_class read_some(struct verify_scan *scan, const int64_t *users, size_t count)
{
    char key[64];
    struct gf_redis_arg args[] = {{"HGETALL", 7}, {key, 0}};

    for (size_t i = 0; i < count; i++) {
        args[1].len = (size_t)snprintf(key, sizeof(key), "%s%" PRId64 "}:w", scan->prefix, users[i]);
        gf_redis_sync_command(scan->redis, args, GF_COUNT(args));
    }
    for (size_t i = 0; i < count; i++) {
        struct gf_reply *reply;
        enum gf_class class = gf_redis_sync_reply(scan->redis, &reply, &scan->verify->error);

        if (class != GF_OK)
            return class;
        read_wallet(scan, users[i], reply);
        gf_reply_free(&reply);
    }
    return GF_OK;
}

enum gf_class gf_verify_scan_users(struct verify_scan *scan, const int64_t *users, size_t count)
{
    enum gf_class class = read_clock(scan);

    for (size_t at = 0; at < count && class == GF_OK; at += PIPELINE)
        class = read_some(scan, users + at, at + PIPELINE < count ? PIPELINE : count - at);
    return class;
}

/* -- all of them */

/* "gf<E>:{u:<id>}:w" -> id */
static bool key_user(const struct verify_scan *scan, const char *key, size_t len, int64_t *user_id_r)
{
    size_t prefix = strlen(scan->prefix);

    return len > prefix + 3 && memcmp(key, scan->prefix, prefix) == 0 && memcmp(key + len - 3, "}:w", 3) == 0 &&
           gf_num_parse_i64(key + prefix, len - prefix - 3, 1, GF_ID_MAX, user_id_r);
}

enum gf_class gf_verify_scan_page(struct verify_scan *scan, bool *more_r)
{
    char match[64];
    struct gf_redis_arg args[] = {{"SCAN", 4}, {scan->cursor, strlen(scan->cursor)}, {"MATCH", 5}, {match, 0}, {"COUNT", 5}, {"1000", 4}};
    struct gf_reply *reply;
    const struct gf_reply *keys;
    enum gf_class class;
    size_t len;

    args[3].len = (size_t)snprintf(match, sizeof(match), "%s*}:w", scan->prefix);
    class = ask(scan, args, GF_COUNT(args), &reply);
    if (class != GF_OK)
        return class;
    keys = gf_reply_at(reply, 1);
    snprintf(scan->cursor, sizeof(scan->cursor), "%s", gf_reply_text(gf_reply_at(reply, 0), &len));
    *more_r = strcmp(scan->cursor, "0") != 0;
    scan->user_count = 0;
    for (size_t i = 0; i < gf_reply_count(keys) && scan->user_count < GF_COUNT(scan->users); i++) {
        const char *key = gf_reply_text(gf_reply_at(keys, i), &len);

        if (key_user(scan, key, len, &scan->users[scan->user_count]))
            scan->user_count++;
    }
    gf_reply_free(&reply);
    return gf_verify_scan_users(scan, scan->users, scan->user_count);
}

static int by_user(const void *a, const void *b)
{
    const struct verify_cached *x = a, *y = b;

    return (x->user_id > y->user_id) - (x->user_id < y->user_id);
}

void gf_verify_sort_cached(struct verify *verify)
{
    size_t kept = 0;

    if (verify->cached_count == 0)
        return;
    qsort(verify->cached, verify->cached_count, sizeof(verify->cached[0]), by_user);
    for (size_t i = 1; i < verify->cached_count; i++)
        if (verify->cached[i].user_id != verify->cached[kept].user_id)
            verify->cached[++kept] = verify->cached[i];
    verify->cached_count = kept + 1;
}

enum gf_class gf_verify_scan_open(struct verify *verify, struct verify_scan **scan_r)
{
    struct verify_scan *scan = gf_xcalloc(1, sizeof(*scan));
    enum gf_class class = gf_redis_sync_connect(verify->config, &scan->redis, &verify->error);

    if (class != GF_OK) {
        free(scan);
        return class;
    }
    scan->verify = verify;
    gf_copy(scan->cursor, sizeof(scan->cursor), "0");
    snprintf(scan->prefix, sizeof(scan->prefix), "gf%" PRId64 ":{u:", verify->config->redis_epoch);
    *scan_r = scan;
    return GF_OK;
}

struct gf_redis_sync *gf_verify_scan_link(struct verify_scan *scan)
{
    return scan->redis;
}

void gf_verify_scan_close(struct verify_scan **scan)
{
    if (*scan != NULL)
        gf_redis_sync_close(&(*scan)->redis);
    free(*scan);
    *scan = NULL;
}

void gf_verify_read_redis(struct verify *verify)
{
    struct verify_scan *scan = NULL;
    bool more = true;
    enum gf_class class = gf_verify_scan_open(verify, &scan);

    while (class == GF_OK && more)
        class = gf_verify_scan_page(scan, &more);
    gf_verify_scan_close(&scan);
    if (class != GF_OK)
        verify->redis_error = gf_xstrdup(verify->error.text);
    gf_verify_sort_cached(verify);
}
