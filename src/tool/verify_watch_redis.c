/* SPDX-License-Identifier: Apache-2.0 */
/* verify --watch's look at Redis. Redis is read before MySQL, so it can never rightly be ahead; it may well be behind, while a
 * publish is on its way. What looks wrong is looked at again, both sides, after five seconds; what is wrong then is mended by the
 * calls that everybody uses: PUBLISH, which takes a version only if it is not older, or DEL, after which the next request loads
 * the wallet. Either may meet a publish at any moment without harm, and Redis's "yes" is judged again by settlement anyway.
 * Failures: Redis away is logged and tried again with the next page; it is no failure of the watch. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gf/balance.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "verify_watch.h"

struct truth { /* a row of `wallet` */
    int64_t user_id, ver, balance, status;
};

enum drift { DRIFT_NONE, DRIFT_BEHIND, DRIFT_OTHER, DRIFT_AHEAD, DRIFT_NO_WALLET, DRIFT_HOLDS };

static const char *const drift_texts[] = {"none",      "behind MySQL for more than five seconds", "another balance or status at the same version",
                                          "ahead of MySQL", "has no wallet in MySQL",             "its holds do not add up"};

static enum drift judge(const struct verify_cached *cached, const struct truth *truth)
{
    if (cached->holds_wrong)
        return DRIFT_HOLDS;
    if (!cached->loaded)
        return DRIFT_NONE;
    if (truth == NULL)
        return cached->ver > 0 ? DRIFT_NO_WALLET : DRIFT_NONE; /* 0: known not to exist */
    if (cached->ver > truth->ver)
        return DRIFT_AHEAD;
    if (cached->ver < truth->ver)
        return DRIFT_BEHIND;
    return cached->balance != truth->balance || cached->status != truth->status ? DRIFT_OTHER : DRIFT_NONE;
}

static int by_user(const void *a, const void *b)
{
    const struct truth *x = a, *y = b;

    return (x->user_id > y->user_id) - (x->user_id < y->user_id);
}

/* The wallets of verify->cached, sorted by user as those are. Free *truths_r after GF_OK. */
static enum gf_class read_truth(struct watch *watch, struct truth **truths_r, size_t *count_r)
{
    struct verify *verify = &watch->verify;
    struct gf_sql_result *result;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 256 + verify->cached_count * 24);
    gf_buf_adds(&text, "SELECT user_id, ver, balance, status FROM wallet WHERE user_id IN (");
    for (size_t i = 0; i < verify->cached_count; i++) {
        gf_buf_adds(&text, i > 0 ? "," : "");
        gf_buf_add_i64(&text, verify->cached[i].user_id);
    }
    gf_buf_adds(&text, ") ORDER BY user_id");
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_query(verify->sql, text.data, text.len, &result, &verify->error);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    *truths_r = gf_xcalloc((size_t)gf_sql_result_count(result) + 1, sizeof((*truths_r)[0]));
    for (*count_r = 0; gf_sql_next(result); (*count_r)++)
        (*truths_r)[*count_r] = (struct truth){gf_sql_i64(result, 0), gf_sql_i64(result, 1), gf_sql_i64(result, 2), gf_sql_i64(result, 3)};
    gf_sql_result_free(&result);
    return GF_OK;
}

static bool connected(struct watch *watch)
{
    struct watch_redis *redis = &watch->redis;

    if (redis->scan != NULL)
        return true;
    redis->walking = false;
    if (gf_verify_scan_open(&watch->verify, &redis->scan) == GF_OK)
        return true;
    gf_log(GF_WARN, "redis_not_checked", "error=\"%s\"", watch->verify.error.text);
    return false;
}

static void lose(struct watch *watch)
{
    gf_log(GF_WARN, "redis_not_checked", "error=\"%s\"", watch->verify.error.text);
    watch_redis_close(watch);
}

void watch_redis_close(struct watch *watch)
{
    gf_verify_scan_close(&watch->redis.scan);
    watch->redis.walking = false;
}

/* ---- a page ---- */

static void suspect(struct watch *watch, int64_t user_id, int64_t ver)
{
    struct watch_redis *redis = &watch->redis;

    if (redis->count == WATCH_SUSPECTS)
        return; /* the next round finds it again */
    redis->suspects[(redis->first + redis->count++) % WATCH_SUSPECTS] =
        (struct watch_suspect){user_id, ver, gf_clock_mono_ms() + WATCH_GRACE_MS};
}

/* NULL: MySQL has no such wallet. */
static const struct truth *find_truth(const struct truth *truths, size_t count, int64_t user_id)
{
    const struct truth key = {.user_id = user_id};

    return count > 0 ? bsearch(&key, truths, count, sizeof(key), by_user) : NULL; /* there may be no array at all */
}

enum gf_class watch_redis_page(struct watch *watch, bool *done_r)
{
    struct verify *verify = &watch->verify;
    struct truth *truths = NULL;
    size_t count = 0;
    enum gf_class class;

    verify->cached_count = 0;
    *done_r = true;
    if (!watch->options->redis || !connected(watch))
        return GF_OK;
    if (gf_verify_scan_page(watch->redis.scan, &watch->redis.walking) != GF_OK) {
        lose(watch);
        return GF_OK;
    }
    gf_verify_sort_cached(verify);
    *done_r = !watch->redis.walking;
    watch_pace(watch, (int64_t)verify->cached_count);
    if (verify->cached_count == 0)
        return GF_OK;
    class = read_truth(watch, &truths, &count);
    for (size_t i = 0; class == GF_OK && i < verify->cached_count; i++) {
        const struct verify_cached *cached = &verify->cached[i];
        const struct truth *truth = find_truth(truths, count, cached->user_id);

        if (judge(cached, truth) != DRIFT_NONE)
            suspect(watch, cached->user_id, truth != NULL ? truth->ver : 0);
    }
    gf_metric_add(GF_M_VERIFY_CACHED, (int64_t)verify->cached_count);
    free(truths);
    return class;
}

/* ---- suspects ---- */

/* REJECT: Redis refuses this wallet, for want of memory, say. RETRY: the link is lost, or leads to a primary that is none any more. */
static enum gf_class read_mended(struct watch *watch, struct gf_redis_sync *link, bool publish)
{
    struct gf_error *error = &watch->verify.error;
    struct gf_published published = {0};
    struct gf_reply *reply = NULL;
    enum gf_class class = gf_redis_sync_reply(link, &reply, error);
    const char *text;
    size_t len;

    if (class != GF_OK)
        return class;
    if (gf_reply_type(reply) == GF_REPLY_ERROR) {
        text = gf_reply_text(reply, &len);
        class = gf_fail(error, strncmp(text, "READONLY", 8) == 0 ? GF_RETRY : GF_REJECT, 0, "redis: %.200s", text);
    } else if (publish && (!gf_balance_published(reply, &published) || published.failed > 0)) {
        class = gf_fail(error, GF_REJECT, 0, "redis: %s", published.error);
    }
    gf_reply_free(&reply);
    return class;
}

/* Whether Redis has changed the wallet does not matter: then somebody newer has. */
static enum gf_class mend(struct watch *watch, const struct truth *truth, int64_t user_id, enum drift drift)
{
    struct gf_redis_sync *link = gf_verify_scan_link(watch->redis.scan, user_id);
    int64_t epoch = watch->verify.config->redis_epoch;
    bool publish = drift == DRIFT_BEHIND || drift == DRIFT_OTHER;
    char key[GF_KEY_MAX];

    if (publish) {
        const struct gf_wallet_state wallet = {truth->user_id, truth->ver, truth->balance, (int)truth->status};
        int calls = gf_balance_publish_many_sync(link, epoch, &(struct gf_publish){.wallet = wallet}, 1);

        GF_ASSERT(calls == 1);
    } else {
        const struct gf_redis_arg del[] = {{"DEL", 3}, {key, gf_key_wallet(key, epoch, user_id)}};

        gf_redis_sync_command(link, del, GF_COUNT(del));
    }
    return read_mended(watch, link, publish);
}

/* The second look. A wallet that is behind may have been published meanwhile and be behind again, rightly. */
static bool is_drift(const struct watch_suspect *first, const struct verify_cached *cached, enum drift drift)
{
    return drift != DRIFT_NONE && (drift != DRIFT_BEHIND || cached->ver < first->ver);
}

/* RETRY: Redis is lost. */
static enum gf_class look_again(struct watch *watch, const struct watch_suspect *first, const struct truth *truths, size_t count)
{
    struct verify *verify = &watch->verify;
    const struct verify_cached *cached = NULL;
    const struct truth *truth = find_truth(truths, count, first->user_id);
    enum gf_class class;
    enum drift drift;

    for (size_t i = 0; i < verify->cached_count && cached == NULL; i++)
        if (verify->cached[i].user_id == first->user_id)
            cached = &verify->cached[i];
    if (cached == NULL)
        return GF_OK; /* expired meanwhile */
    drift = judge(cached, truth);
    if (!is_drift(first, cached, drift))
        return GF_OK;
    gf_metric_add(GF_M_VERIFY_DRIFT_REDIS, 1);
    gf_log(GF_WARN, "redis_drift_found", "user_id=%" PRId64 " what=\"%s\" cached_ver=%" PRId64 " ver=%" PRId64 " cached_balance=%" PRId64
           " balance=%" PRId64, first->user_id, drift_texts[drift], cached->ver, truth != NULL ? truth->ver : 0, cached->balance,
           truth != NULL ? truth->balance : 0);
    class = mend(watch, truth, first->user_id, drift);
    if (class == GF_OK)
        gf_metric_add(GF_M_VERIFY_REPAIRED, 1);
    else if (class == GF_REJECT)
        gf_log(GF_WARN, "redis_drift_left", "user_id=%" PRId64 " error=\"%s\"", first->user_id, verify->error.text);
    return class == GF_REJECT ? GF_OK : class;
}

enum gf_class watch_redis_suspects(struct watch *watch)
{
    struct watch_redis *redis = &watch->redis;
    struct verify *verify = &watch->verify;
    int64_t users[WATCH_SUSPECTS], now_ms = gf_clock_mono_ms();
    struct truth *truths = NULL;
    size_t due = 0, count = 0;
    enum gf_class class;

    while (due < redis->count && redis->suspects[(redis->first + due) % WATCH_SUSPECTS].due_ms <= now_ms) {
        users[due] = redis->suspects[(redis->first + due) % WATCH_SUSPECTS].user_id;
        due++;
    }
    if (due == 0 || !connected(watch))
        return GF_OK;
    watch_pace(watch, (int64_t)due);
    verify->cached_count = 0;
    if (gf_verify_scan_users(redis->scan, users, due) != GF_OK) {
        lose(watch);
        return GF_OK;
    }
    gf_verify_sort_cached(verify);
    class = verify->cached_count > 0 ? read_truth(watch, &truths, &count) : GF_OK;
    for (; class == GF_OK && due > 0; due--) {
        const struct watch_suspect suspect = redis->suspects[redis->first];

        /* Whatever comes of it: the next round finds it again, and nobody waits behind one that cannot be mended. */
        redis->first = (redis->first + 1) % WATCH_SUSPECTS;
        redis->count--;
        if (look_again(watch, &suspect, truths, count) != GF_OK) {
            lose(watch);
            break;
        }
    }
    free(truths);
    return class;
}
