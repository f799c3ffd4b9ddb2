/* SPDX-License-Identifier: Apache-2.0 */
/* verify's passes over catalogue, wallets, credits and income accounts, each against what the logs' scan has summed up. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gf/uuid.h"
#include "verify.h"

/* -- catalogue: small, kept whole */

/* F11's tolerances. The configured ones count where they are wider; narrower ones say nothing of gifts that were settled before. */
#define LEAD_MS 5000
#define GRACE_MS 120000

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

enum gf_class gf_verify_catalogue(struct verify *verify)
{
    struct gf_sql_result *result;
    struct gf_gift *gifts;
    struct gf_price *prices;
    int gift_count = 0, price_count = 0;
    enum gf_class class = gf_sql_queryf(verify->sql, &result, &verify->error,
                                        "SELECT gift_id, valid_from_ms, valid_to_ms, price, share_bp FROM gift_price "
                                        "ORDER BY gift_id, valid_from_ms DESC");

    if (class != GF_OK)
        return class;
    gifts = gf_xcalloc((size_t)gf_sql_result_count(result) + 1, sizeof(gifts[0]));
    prices = gf_xcalloc((size_t)gf_sql_result_count(result) + 1, sizeof(prices[0]));
    while (gf_sql_next(result)) {
        int32_t gift_id = (int32_t)gf_sql_i64(result, 0);

        if (gift_count == 0 || gifts[gift_count - 1].gift_id != gift_id)
            gifts[gift_count++] = (struct gf_gift){.gift_id = gift_id, .prices = &prices[price_count]};
        prices[price_count++] = (struct gf_price){gf_sql_i64(result, 1), gf_sql_i64(result, 2), gf_sql_i64(result, 3),
                                                  (int)gf_sql_i64(result, 4)};
        gifts[gift_count - 1].price_count++;
    }
    gf_sql_result_free(&result);
    verify->catalogue = (struct gf_catalogue){.gifts = gifts, .gift_count = gift_count,
                                              .lead_ms = larger(verify->config->catalogue_price_lead, LEAD_MS),
                                              .grace_ms = larger(verify->config->catalogue_price_grace, GRACE_MS)};
    if (gift_count == 0)
        free(prices); /* otherwise reached through the first gift */
    return GF_OK;
}

/* -- wallets, and what Redis says of them */

struct wallet {
    int64_t user_id, balance, debt, ver, status;
    int64_t recharged, spent;
    int64_t last_log, last_off;
};

static void check_wallet(struct verify *verify, const struct wallet *wallet)
{
    static const struct verify_user nothing = {.last_off = -1};
    struct gf_map_node *node = gf_map_find(&verify->users, (uint64_t)wallet->user_id);
    const struct verify_user *user = node != NULL ? GF_CONTAINER(node, struct verify_user, node) : &nothing;

    if (node != NULL)
        GF_CONTAINER(node, struct verify_user, node)->seen = true;
    if (wallet->balance != user->balance)
        gf_verify_fail(verify, VERIFY_WALLET_BALANCE, "user %" PRId64 ": balance %" PRId64 ", trades sum to %" PRId64, wallet->user_id,
                       wallet->balance, user->balance);
    if (wallet->debt != user->debt)
        gf_verify_fail(verify, VERIFY_WALLET_DEBT, "user %" PRId64 ": debt %" PRId64 ", trades sum to %" PRId64, wallet->user_id,
                       wallet->debt, user->debt);
    if (wallet->balance < 0 || wallet->debt < 0)
        gf_verify_fail(verify, VERIFY_WALLET_SIGN, "user %" PRId64 ": balance %" PRId64 ", debt %" PRId64, wallet->user_id,
                       wallet->balance, wallet->debt);
    if (wallet->spent != user->spent || wallet->recharged != user->recharged)
        gf_verify_fail(verify, VERIFY_WALLET_TOTALS, "user %" PRId64 ": spent %" PRId64 ", recharged %" PRId64 "; trades sum to %" PRId64
                       ", %" PRId64, wallet->user_id, wallet->spent, wallet->recharged, user->spent, user->recharged);
    if (wallet->last_log != user->last_log || wallet->last_off != user->last_off || wallet->ver < user->last_seq)
        gf_verify_fail(verify, VERIFY_STATEMENT, "user %" PRId64 ": wallet names %" PRId64 ":%" PRId64 " version %" PRId64
                       ", the last settled row is %" PRId32 ":%" PRId64 " version %" PRId64, wallet->user_id, wallet->last_log,
                       wallet->last_off, wallet->ver, user->last_log, user->last_off, user->last_seq);
}

/* Wallets and cached entries both rise by user id. Entries below `user_id` have no wallet. */
static void check_cached(struct verify *verify, size_t *at, int64_t user_id, const struct wallet *wallet)
{
    for (; *at < verify->cached_count && verify->cached[*at].user_id <= user_id; (*at)++) {
        const struct verify_cached *cached = &verify->cached[*at];

        verify->results[VERIFY_REDIS_BALANCE].checked++;
        if (!cached->loaded)
            continue;
        if (wallet == NULL || cached->user_id < user_id) {
            if (cached->ver > 0) /* 0: known not to exist */
                gf_verify_fail(verify, VERIFY_REDIS_BALANCE, "user %" PRId64 ": cached at version %" PRId64 ", but has no wallet",
                               cached->user_id, cached->ver);
        } else if (cached->ver > wallet->ver) {
            gf_verify_fail(verify, VERIFY_REDIS_BALANCE, "user %" PRId64 ": cached version %" PRId64 " is ahead of %" PRId64,
                           cached->user_id, cached->ver, wallet->ver);
        } else if (cached->ver == wallet->ver && (cached->balance != wallet->balance || cached->status != wallet->status)) {
            gf_verify_fail(verify, VERIFY_REDIS_BALANCE, "user %" PRId64 ": cached balance %" PRId64 " status %" PRId64
                           " at version %" PRId64 ", MySQL has %" PRId64 " status %" PRId64, cached->user_id, cached->balance,
                           cached->status, cached->ver, wallet->balance, wallet->status);
        }
    }
}

static void check_seen(void *ctx, struct gf_map_node *node)
{
    const struct verify_user *user = GF_CONTAINER(node, struct verify_user, node);

    if (!user->seen)
        gf_verify_fail(ctx, VERIFY_WALLET_BALANCE, "user %" PRIu64 ": has settled trades, but no wallet", node->key);
}

enum gf_class gf_verify_wallets(struct verify *verify)
{
    struct gf_sql_result *result;
    size_t at = 0;
    enum gf_class class = gf_verify_stream(verify, &result,
                                           "SELECT user_id, balance, debt, ver, status, total_recharged, total_spent, last_log, "
                                           "last_off FROM wallet ORDER BY user_id");

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct wallet wallet = {gf_sql_i64(result, 0), gf_sql_i64(result, 1), gf_sql_i64(result, 2), gf_sql_i64(result, 3),
                                gf_sql_i64(result, 4), gf_sql_i64(result, 5), gf_sql_i64(result, 6), gf_sql_i64(result, 7),
                                gf_sql_i64(result, 8)};

        verify->totals.wallets++;
        verify->totals.coins = gf_verify_sum(verify->totals.coins, wallet.balance);
        check_wallet(verify, &wallet);
        check_cached(verify, &at, wallet.user_id, &wallet);
    }
    class = gf_verify_end(verify, &result);
    if (class != GF_OK)
        return class;
    check_cached(verify, &at, INT64_MAX, NULL);
    gf_map_each(&verify->users, check_seen, verify);
    verify->results[VERIFY_WALLET_BALANCE].checked = verify->results[VERIFY_WALLET_DEBT].checked =
        verify->results[VERIFY_WALLET_SIGN].checked = verify->results[VERIFY_WALLET_TOTALS].checked = verify->totals.wallets;
    return GF_OK;
}

/* -- credits */

enum { CREDIT_ID, CREDIT_KIND, CREDIT_USER, CREDIT_COINS, CREDIT_STATUS, TRADE_OUTCOME, TRADE_KIND, TRADE_AMOUNT, TRADE_DEBT };

/* What the row's trade makes of its status: open, credited or refused. */
static int64_t status_of(const struct gf_sql_result *row)
{
    if (gf_sql_is_null(row, TRADE_OUTCOME))
        return 1;
    return gf_sql_i64(row, TRADE_OUTCOME) == GF_OUTCOME_SETTLED ? 2 : 3;
}

static void check_credit(struct verify *verify, const struct gf_sql_result *row, int64_t *settled)
{
    static const char *const traces[] = {"no", "a settled", "a rejected"};
    int64_t kind = gf_sql_i64(row, CREDIT_KIND), coins = gf_sql_i64(row, CREDIT_COINS);
    int64_t moved = gf_verify_sum(gf_sql_i64(row, TRADE_AMOUNT), -gf_sql_i64(row, TRADE_DEBT));
    int64_t status = status_of(row);
    char id[GF_UUID_TEXT + 1];
    struct gf_uuid uuid;

    gf_sql_uuid(row, CREDIT_ID, &uuid);
    gf_uuid_format(&uuid, id);
    verify->results[VERIFY_CREDITS].checked++;
    *settled += status == 2 ? 1 : 0;
    if (gf_sql_i64(row, CREDIT_STATUS) != status) {
        gf_verify_fail(verify, VERIFY_CREDITS, "credit %s of user %" PRId64 " has status %" PRId64 " and %s trade", id,
                       gf_sql_i64(row, CREDIT_USER), gf_sql_i64(row, CREDIT_STATUS), traces[status - 1]);
        return;
    }
    /* A chargeback takes the coins that its row names; every other kind gives them. */
    if (status == 2 && (gf_sql_i64(row, TRADE_KIND) != kind || moved != (kind == GF_KIND_CHARGEBACK ? -coins : coins)))
        gf_verify_fail(verify, VERIFY_CREDITS, "credit %s of user %" PRId64 " is %" PRId64 " coins of kind %" PRId64
                       ", its trade moved %" PRId64 " of kind %" PRId64, id, gf_sql_i64(row, CREDIT_USER), coins, kind, moved,
                       gf_sql_i64(row, TRADE_KIND));
}

enum gf_class gf_verify_credits(struct verify *verify)
{
    struct gf_sql_result *result;
    int64_t settled = 0;
    enum gf_class class = gf_verify_stream(verify, &result,
                                           "SELECT c.credit_id, c.kind, c.user_id, c.coins, c.status, t.outcome, t.kind, t.amount, "
                                           "t.debt_delta FROM credit c LEFT JOIN trade t ON t.request_id = c.credit_id AND "
                                           "t.user_id = c.user_id");

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result))
        check_credit(verify, result, &settled);
    if (settled < verify->totals.credits_settled)
        gf_verify_fail(verify, VERIFY_CREDITS, "%" PRId64 " settled credits name no row of `credit`",
                       verify->totals.credits_settled - settled);
    return gf_verify_end(verify, &result);
}

/* -- income accounts */

static void check_account_seen(void *ctx, struct gf_map_node *node)
{
    const struct verify_receiver *receiver = GF_CONTAINER(node, struct verify_receiver, node);

    if (!receiver->seen && (receiver->total_gross != 0 || receiver->total_host != 0))
        gf_verify_fail(ctx, VERIFY_INCOME_ACCOUNT, "receiver %" PRIu64 ": has income rows, but no account", node->key);
}

enum gf_class gf_verify_accounts(struct verify *verify)
{
    static const struct verify_receiver nothing;
    struct gf_sql_result *result;
    enum gf_class class = gf_verify_stream(verify, &result,
                                           "SELECT receiver_id, balance, total_gross, total_host FROM income_account");

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct gf_map_node *node = gf_map_find(&verify->receivers, (uint64_t)gf_sql_i64(result, 0));
        const struct verify_receiver *receiver = node != NULL ? GF_CONTAINER(node, struct verify_receiver, node) : &nothing;

        if (node != NULL)
            GF_CONTAINER(node, struct verify_receiver, node)->seen = true;
        verify->results[VERIFY_INCOME_ACCOUNT].checked++;
        if (gf_sql_i64(result, 1) != receiver->total_host || gf_sql_i64(result, 2) != receiver->total_gross ||
            gf_sql_i64(result, 3) != receiver->total_host)
            gf_verify_fail(verify, VERIFY_INCOME_ACCOUNT, "receiver %" PRId64 ": balance %" PRId64 ", host %" PRId64 " of gross %" PRId64
                           "; its income rows sum to %" PRId64 " of %" PRId64, gf_sql_i64(result, 0), gf_sql_i64(result, 1),
                           gf_sql_i64(result, 3), gf_sql_i64(result, 2), receiver->total_host, receiver->total_gross);
    }
    class = gf_verify_end(verify, &result);
    if (class == GF_OK)
        gf_map_each(&verify->receivers, check_account_seen, verify);
    return class;
}

/* -- the end */

static void free_user(void *ctx, struct gf_map_node *node)
{
    (void)ctx;
    free(GF_CONTAINER(node, struct verify_user, node));
}

static void free_receiver(void *ctx, struct gf_map_node *node)
{
    (void)ctx;
    free(GF_CONTAINER(node, struct verify_receiver, node));
}

void gf_verify_free_catalogue(struct verify *verify)
{
    union { /* built here, handed out as const */
        const void *in;
        void *out;
    } gifts = {.in = verify->catalogue.gifts}, prices = {.in = verify->catalogue.gift_count > 0 ? verify->catalogue.gifts[0].prices : NULL};

    free(prices.out);
    free(gifts.out);
    memset(&verify->catalogue, 0, sizeof(verify->catalogue));
}

void gf_verify_free(struct verify *verify)
{
    gf_map_each(&verify->users, free_user, NULL);
    gf_map_each(&verify->receivers, free_receiver, NULL);
    gf_map_free(&verify->users);
    gf_map_free(&verify->receivers);
    gf_verify_free_catalogue(verify);
    free(verify->cached);
    free(verify->redis_error);
    for (size_t i = 0; i < VERIFY_COUNT; i++)
        for (size_t k = 0; k < VERIFY_EXAMPLES; k++)
            free(verify->results[i].examples[k]);
}
