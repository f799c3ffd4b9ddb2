/* SPDX-License-Identifier: Apache-2.0 */
/* verify's look at Redis: every cached wallet of this epoch, by SCAN, one primary after the other. Each value is read at one
 * moment, so its held sum and its holds must agree by themselves; its balance is kept and compared with MySQL later. A hold that is
 * due is fine: one whose gift never came to anything stays until its room is needed. Redis is a cache: what cannot be read is no
 * violation, only not checked. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/balance.h"
#include "verify.h"

#define PIPELINE 500

struct verify_scan {
    struct verify *verify;
    struct gf_redis_sync **links; /* one per primary */
    int shards, at;               /* which of them is walked */
    char cursor[32];
    int64_t users[PIPELINE * 8];
    size_t user_count;
};

static enum gf_class ask(struct verify_scan *scan, const struct gf_redis_arg *args, size_t count, struct gf_reply **reply_r)
{
    struct gf_redis_sync *link = scan->links[scan->at];
    struct gf_error *error = &scan->verify->error;
    enum gf_class class;
    size_t len;

    gf_redis_sync_command(link, args, count);
    class = gf_redis_sync_reply(link, reply_r, error);
    if (class != GF_OK || gf_reply_type(*reply_r) != GF_REPLY_ERROR)
        return class;
    class = gf_fail(error, GF_RETRY, 0, "redis: %.200s", gf_reply_text(*reply_r, &len));
    gf_reply_free(reply_r);
    return class;
}

/* -- one wallet */

static void check_holds(struct verify *verify, const struct gf_cached_wallet *wallet, struct verify_cached *cached)
{
    int64_t sum = 0;

    for (size_t i = 0; i < wallet->count; i++)
        sum = gf_verify_sum(sum, gf_cached_wallet_hold(wallet, i).amount);
    verify->results[VERIFY_REDIS_HOLDS].checked += (int64_t)wallet->count;
    cached->holds_wrong = wallet->held < 0 || wallet->held != sum;
    if (cached->holds_wrong)
        gf_verify_fail(verify, VERIFY_REDIS_HOLDS, "user %" PRId64 ": %" PRId64 " held, but the %zu holds are %" PRId64, cached->user_id,
                       wallet->held, wallet->count, sum);
}

static void keep(struct verify *verify, const struct verify_cached *cached)
{
    if (verify->cached_count == verify->cached_cap) {
        verify->cached_cap = verify->cached_cap > 0 ? verify->cached_cap * 2 : 4096;
        verify->cached = gf_xrealloc(verify->cached, verify->cached_cap * sizeof(verify->cached[0]));
    }
    verify->cached[verify->cached_count++] = *cached;
}

static void read_wallet(struct verify_scan *scan, int64_t user_id, const struct gf_reply *reply)
{
    struct verify_cached cached = {.user_id = user_id};
    struct gf_cached_wallet wallet;
    const char *text = NULL;
    size_t len = 0;

    if (gf_reply_type(reply) == GF_REPLY_NIL)
        return; /* expired meanwhile */
    if (gf_reply_type(reply) == GF_REPLY_TEXT)
        text = gf_reply_text(reply, &len);
    if (text != NULL && gf_cached_wallet_parse(text, len, &wallet)) {
        cached.loaded = true;
        cached.ver = wallet.ver;
        cached.balance = wallet.balance;
        cached.status = wallet.status;
        check_holds(scan->verify, &wallet, &cached);
    } else {
        gf_verify_fail(scan->verify, VERIFY_REDIS_HOLDS, "user %" PRId64 ": what is cached is no wallet", user_id);
        cached.holds_wrong = true;
    }
    keep(scan->verify, &cached);
}

static enum gf_class read_some(struct verify_scan *scan, const int64_t *users, size_t count)
{
    char key[GF_KEY_MAX];
    struct gf_redis_arg args[] = {{"GET", 3}, {key, 0}};

    for (size_t i = 0; i < count; i++) {
        args[1].len = gf_key_wallet(key, scan->verify->config->redis_epoch, users[i]);
        gf_redis_sync_command(gf_verify_scan_link(scan, users[i]), args, GF_COUNT(args));
    }
    for (size_t i = 0; i < count; i++) {
        struct gf_reply *reply;
        enum gf_class class = gf_redis_sync_reply(gf_verify_scan_link(scan, users[i]), &reply, &scan->verify->error);

        if (class != GF_OK)
            return class;
        read_wallet(scan, users[i], reply);
        gf_reply_free(&reply);
    }
    return GF_OK;
}

enum gf_class gf_verify_scan_users(struct verify_scan *scan, const int64_t *users, size_t count)
{
    enum gf_class class = GF_OK;

    for (size_t at = 0; at < count && class == GF_OK; at += PIPELINE)
        class = read_some(scan, users + at, at + PIPELINE < count ? PIPELINE : count - at);
    return class;
}

/* -- all of them */

/* A user whom this primary does not serve (any more: the list of primaries has changed) is nobody's business. */
static bool is_at_home(const struct verify_scan *scan, int64_t user_id)
{
    return gf_redis_shard(user_id, scan->shards) == scan->at;
}

enum gf_class gf_verify_scan_page(struct verify_scan *scan, bool *more_r)
{
    int64_t epoch = scan->verify->config->redis_epoch;
    char match[64];
    struct gf_redis_arg args[] = {{"SCAN", 4}, {scan->cursor, strlen(scan->cursor)}, {"MATCH", 5}, {match, 0}, {"COUNT", 5}, {"1000", 4}};
    struct gf_reply *reply;
    const struct gf_reply *keys;
    enum gf_class class;
    size_t len;

    scan->at %= scan->shards; /* after the last page comes the first one again */
    args[3].len = (size_t)snprintf(match, sizeof(match), "gf%" PRId64 ":{u:*}:w2", epoch);
    class = ask(scan, args, GF_COUNT(args), &reply);
    if (class != GF_OK)
        return class;
    keys = gf_reply_at(reply, 1);
    snprintf(scan->cursor, sizeof(scan->cursor), "%s", gf_reply_text(gf_reply_at(reply, 0), &len));
    scan->user_count = 0;
    for (size_t i = 0; i < gf_reply_count(keys) && scan->user_count < GF_COUNT(scan->users); i++) {
        const char *key = gf_reply_text(gf_reply_at(keys, i), &len);

        if (gf_key_wallet_user(key, len, epoch, &scan->users[scan->user_count]) && is_at_home(scan, scan->users[scan->user_count]))
            scan->user_count++;
    }
    gf_reply_free(&reply);
    scan->at += strcmp(scan->cursor, "0") == 0;
    *more_r = scan->at < scan->shards;
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
    enum gf_class class = GF_OK;

    scan->verify = verify;
    scan->shards = gf_config_redis_shards(verify->config);
    scan->links = gf_xcalloc((size_t)scan->shards, sizeof(*scan->links));
    gf_copy(scan->cursor, sizeof(scan->cursor), "0");
    for (int i = 0; i < scan->shards && class == GF_OK; i++)
        class = gf_redis_sync_connect_shard(verify->config, i, &scan->links[i], &verify->error);
    if (class == GF_OK)
        *scan_r = scan;
    else
        gf_verify_scan_close(&scan);
    return class;
}

struct gf_redis_sync *gf_verify_scan_link(struct verify_scan *scan, int64_t user_id)
{
    return scan->links[gf_redis_shard(user_id, scan->shards)];
}

void gf_verify_scan_close(struct verify_scan **scan)
{
    if (*scan == NULL)
        return;
    for (int i = 0; i < (*scan)->shards; i++)
        gf_redis_sync_close(&(*scan)->links[i]);
    free((*scan)->links);
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
