/* SPDX-License-Identifier: Apache-2.0 */
/* Who owns a log (F8), where it stands after a lost COMMIT (F7), and what is read back from its trade rows. */
#include <inttypes.h>

#include "gf/point.h"
#include "store_internal.h"

#define TAKE_OVER_WAIT_S 15 /* above the wait_timeout of a stopped owner's session (F6) */
#define LOCK_WAIT_S 5

static enum gf_class set_lock_wait(struct store *store, int seconds, struct gf_error *error_r)
{
    return gf_sql_execf(store->sql, error_r, "SET SESSION innodb_lock_wait_timeout=%d", seconds);
}

static enum gf_class find_log(struct store *store, const struct claim_request *request, int32_t *log_r, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class;

    gf_buf_reset(&store->text);
    gf_buf_adds(&store->text, "SELECT log FROM progress WHERE topic=");
    gf_sql_add_text(store->sql, &store->text, request->topic, strlen(request->topic));
    gf_buf_addf(&store->text, " AND part=%" PRId32 " AND live=1", request->partition);
    class = gf_sql_query(store->sql, store->text.data, store->text.len, &result, error_r);
    if (class != GF_OK)
        return class;
    *log_r = gf_sql_next(result) ? (int32_t)gf_sql_i64(result, 0) : -1;
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class read_claim(struct store *store, struct claim *claim, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class;
    const char *fp;
    size_t len;

    class = gf_sql_queryf(store->sql, &result, error_r,
                          "SELECT part, partitions, epoch, next_offset, notified_offset, last_off, stalls, last_fp "
                          "FROM progress WHERE log=%" PRId32 " AND live=1",
                          claim->log);
    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result)) {
        gf_sql_result_free(&result);
        return gf_fail(error_r, GF_RETRY, 0, "log %" PRId32 " is no longer live", claim->log);
    }
    claim->partition = (int32_t)gf_sql_i64(result, 0);
    claim->partitions = (int32_t)gf_sql_i64(result, 1);
    claim->epoch = gf_sql_i64(result, 2);
    claim->next_offset = gf_sql_i64(result, 3);
    claim->notified = claim->notified_written = gf_sql_i64(result, 4);
    claim->last_off = gf_sql_i64(result, 5);
    claim->stalls = gf_sql_i64(result, 6);
#ifdef GF_NULL_STORE
    if (store_null)
        claim->stalls = 0; /* nothing moves the log on: no record is to blame */
#endif
    fp = gf_sql_bytes(result, 7, &len);
    if (fp == NULL)
        claim->last_off = -1; /* nothing to compare with */
    else
        memcpy(claim->last_fp, fp, BATCH_FP);
    gf_sql_result_free(&result);
    return GF_OK;
}

/* Assignments run from left to right: `stalls` still sees the old stalled_at. */
static enum gf_class take_over(struct store *store, const char *owner, struct claim *claim, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_begin(store->sql, error_r);

    if (class != GF_OK)
        return class;
    GF_POINT(settle_claim_begun);
    gf_buf_reset(&store->text);
    gf_buf_adds(&store->text, "UPDATE progress SET epoch=epoch+1, owner=");
    gf_sql_add_text(store->sql, &store->text, owner, strnlen(owner, 100));
    gf_buf_addf(&store->text, ", stalls=IF(stalled_at=next_offset,stalls+1,0), stalled_at=next_offset WHERE log=%" PRId32,
                claim->log);
    class = store_run(store, 1, error_r);
    if (class == GF_OK) {
        GF_POINT(settle_claim_raised);
        class = read_claim(store, claim, error_r);
    }
    if (class == GF_OK) {
        GF_POINT(settle_claim_read);
        class = gf_sql_commit_send(store->sql, error_r);
    }
    if (class == GF_OK) {
        GF_POINT(settle_claim_commit_sent);
        class = gf_sql_commit_answer(store->sql, error_r);
    }
    if (class != GF_OK)
        gf_sql_rollback(store->sql);
    return class == GF_UNCERTAIN ? GF_RETRY : class; /* one epoch more does no harm */
}

enum gf_class store_live_log(struct store *store, const struct claim_request *request, int32_t *log_r,
                             struct gf_error *error_r)
{
    enum gf_class class = store_ready(store, error_r);

    return class == GF_OK ? find_log(store, request, log_r, error_r) : class;
}

enum gf_class store_claim(struct store *store, const struct claim_request *request, struct claim *claim_r,
                          enum claimed *claimed_r, struct gf_error *error_r)
{
    enum gf_class class = store_ready(store, error_r);
    struct gf_error ignored;

    *claim_r = (struct claim){0};
    if (class == GF_OK)
        class = find_log(store, request, &claim_r->log, error_r);
    if (class != GF_OK)
        return class;
    *claimed_r = claim_r->log >= 0 ? CLAIMED : CLAIM_NO_LOG;
    if (*claimed_r == CLAIM_NO_LOG)
        return GF_OK;
    class = set_lock_wait(store, TAKE_OVER_WAIT_S, error_r);
    if (class == GF_OK)
        class = take_over(store, request->owner, claim_r, error_r);
    if (!gf_sql_lost(store->sql) && set_lock_wait(store, LOCK_WAIT_S, &ignored) != GF_OK)
        return class == GF_OK ? gf_fail(error_r, GF_RETRY, ignored.native, "%s", ignored.text) : class;
    return class;
}

enum gf_class store_lookup(struct store *store, const struct claim *claim, int64_t *next_offset_r, int64_t *epoch_r,
                           struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class;

    store_disconnect(store); /* whatever its state: the old session must not answer */
    class = store_ready(store, error_r);
    if (class == GF_OK)
        class = set_lock_wait(store, TAKE_OVER_WAIT_S, error_r); /* the old session may still hold its locks */
    if (class == GF_OK)
        class = gf_sql_begin(store->sql, error_r);
    if (class != GF_OK)
        return class;
    class = gf_sql_queryf(store->sql, &result, error_r,
                          "SELECT next_offset, epoch FROM progress WHERE log=%" PRId32 " FOR UPDATE", claim->log);
    if (class == GF_OK)
        GF_POINT(settle_lookup_locked);
    if (class == GF_OK && gf_sql_next(result)) {
        *next_offset_r = gf_sql_i64(result, 0);
        *epoch_r = gf_sql_i64(result, 1);
    } else if (class == GF_OK) {
        class = gf_fail(error_r, GF_RETRY, 0, "log %" PRId32 " has no progress row", claim->log);
    }
    gf_sql_result_free(&result);
    gf_sql_rollback(store->sql);
    return class == GF_OK ? set_lock_wait(store, LOCK_WAIT_S, error_r) : class;
}

enum gf_class store_notified(struct store *store, struct claim *claim, struct gf_error *error_r)
{
    int64_t notified = claim->notified;
    enum gf_class class = store_ready(store, error_r);

#ifdef GF_NULL_STORE
    if (store_null) {
        claim->notified_written = notified;
        return class;
    }
#endif
    GF_POINT(settle_notified_before);
    if (class == GF_OK)
        class = gf_sql_execf(store->sql, error_r,
                             "UPDATE progress SET notified_offset=GREATEST(notified_offset,%" PRId64 ") WHERE log=%" PRId32
                             " AND epoch=%" PRId64 " AND next_offset>=%" PRId64,
                             notified, claim->log, claim->epoch, notified);
    if (class != GF_OK)
        return class;
    GF_POINT(settle_notified_after);
    claim->notified_written = notified;
    return GF_OK;
}

enum gf_class store_try(struct store *store, const struct claim *claim, int64_t off, int64_t *tries,
                        struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = store_ready(store, error_r);

    if (class == GF_OK && *tries == 0) {
        class = gf_sql_queryf(store->sql, &result, error_r,
                              "SELECT tries FROM progress WHERE log=%" PRId32 " AND tried_offset=%" PRId64, claim->log, off);
        if (class == GF_OK)
            *tries = gf_sql_next(result) ? gf_sql_i64(result, 0) + 1 : 1;
        gf_sql_result_free(&result);
    }
    if (class == GF_OK)
        class = gf_sql_execf(store->sql, error_r,
                             "UPDATE progress SET tries=%" PRId64 ", tried_offset=%" PRId64 " WHERE log=%" PRId32
                             " AND epoch=%" PRId64,
                             *tries, off, claim->log, claim->epoch);
    return class;
}

enum gf_class store_untry(struct store *store, const struct claim *claim, int64_t off, struct gf_error *error_r)
{
    enum gf_class class = store_ready(store, error_r);

    return class != GF_OK ? class
                          : gf_sql_execf(store->sql, error_r,
                                         "UPDATE progress SET tries=tries-1 WHERE log=%" PRId32 " AND tried_offset=%" PRId64
                                         " AND tries>0",
                                         claim->log, off);
}

static void take_trade(const struct gf_sql_result *result, struct gf_trade *trade_r)
{
    size_t len;
    const char *fp = gf_sql_bytes(result, 20, &len);

    *trade_r = (struct gf_trade){.off = gf_sql_i64(result, 1),
                                 .user_id = gf_sql_i64(result, 2),
                                 .kind = (enum gf_kind)gf_sql_i64(result, 4),
                                 .outcome = (enum gf_outcome)gf_sql_i64(result, 5),
                                 .amount = gf_sql_i64(result, 6),
                                 .debt_delta = gf_sql_i64(result, 7),
                                 .seq = gf_sql_i64(result, 8),
                                 .balance_after = gf_sql_i64(result, 9),
                                 .prev_log = (int32_t)gf_sql_i64(result, 10),
                                 .prev_off = gf_sql_i64(result, 11),
                                 .gift_id = (int32_t)gf_sql_i64(result, 12),
                                 .gift_type = (int32_t)gf_sql_i64(result, 13),
                                 .quantity = (int32_t)gf_sql_i64(result, 14),
                                 .price = gf_sql_i64(result, 15),
                                 .receiver_id = gf_sql_i64(result, 16),
                                 .room_id = gf_sql_i64(result, 17),
                                 .host_coins = gf_sql_i64(result, 18),
                                 .has_ref = !gf_sql_is_null(result, 19),
                                 .ts_ms = gf_sql_i64(result, 21)};
    gf_sql_uuid(result, 3, &trade_r->request_id);
    if (trade_r->has_ref)
        gf_sql_uuid(result, 19, &trade_r->ref);
    GF_ASSERT(fp != NULL && len == BATCH_FP);
    memcpy(trade_r->fp, fp, BATCH_FP);
}

enum gf_class store_trades(struct store *store, const struct store_range *range, store_trade_fn on_trade, void *ctx,
                           struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = store_ready(store, error_r);
    struct gf_trade trade;

    if (class == GF_OK)
        class = gf_sql_queryf(store->sql, &result, error_r,
                              "SELECT log, off, user_id, request_id, kind, outcome, amount, debt_delta, seq, balance_after, "
                              "prev_log, prev_off, gift_id, gift_type, quantity, price, receiver_id, room_id, host_coins, "
                              "ref, fp, ts_ms FROM trade WHERE log=%" PRId32 " AND off>=%" PRId64 " AND off<%" PRId64
                              " ORDER BY off",
                              range->log, range->from, range->to);
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        take_trade(result, &trade);
        on_trade(ctx, &trade);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

enum gf_class store_wallets(struct store *store, const struct store_range *range, store_wallet_fn on_wallet, void *ctx,
                            struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = store_ready(store, error_r);
    struct gf_wallet wallet = {0};
    struct gf_uuid id;

    if (class == GF_OK)
        class = gf_sql_queryf(store->sql, &result, error_r,
                              "SELECT t.user_id, t.request_id, w.balance, w.ver, w.status FROM trade t "
                              "LEFT JOIN wallet w ON w.user_id=t.user_id WHERE t.log=%" PRId32 " AND t.off>=%" PRId64
                              " AND t.off<%" PRId64 " ORDER BY t.user_id, t.off",
                              range->log, range->from, range->to);
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        gf_sql_uuid(result, 1, &id);
        wallet.user_id = gf_sql_i64(result, 0);
        wallet.balance = gf_sql_i64(result, 2);
        wallet.ver = gf_sql_i64(result, 3); /* NULL: 0 */
        wallet.status = (int32_t)gf_sql_i64(result, 4);
        on_wallet(ctx, &wallet, &id);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}
