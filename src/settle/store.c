/* SPDX-License-Identifier: Apache-2.0 */
/* The settlement transaction: fence, locks, plan, commit. See store.h; what it writes is in store_write.c. */
#include "store_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/point.h"

#define PRECHECK_WINDOWS 16
#define INSERT_ATTEMPTS 4
#define PING_MS 3000 /* below the session's wait_timeout */

struct store *store_create(const struct gf_config *config)
{
    struct store *store = gf_xcalloc(1, sizeof(*store));

    store->config = config;
    store->catalogue = catalogue_create(config);
    store->sha = gf_sha256_create();
    gf_buf_init(&store->text, STATEMENT_MAX);
    store->rows = gf_xcalloc(ROWS_PER_BULK, sizeof(store->rows[0]));
    return store;
}

void store_disconnect(struct store *store)
{
    store_close_bulk(store);
    gf_sql_close(&store->sql);
}

void store_destroy(struct store **store)
{
    if (*store == NULL)
        return;
    store_disconnect(*store);
    free((*store)->rows);
    catalogue_destroy(&(*store)->catalogue);
    gf_sha256_destroy(&(*store)->sha);
    gf_buf_free(&(*store)->text);
    free(*store);
    *store = NULL;
}

struct catalogue *store_catalogue(struct store *store)
{
    return store->catalogue;
}

enum gf_class store_ready(struct store *store, struct gf_error *error_r)
{
    enum gf_class class;

    if (store->sql != NULL && !gf_sql_lost(store->sql))
        return GF_OK;
    store_disconnect(store);
    class = gf_sql_connect(store->config, GF_SQL_SETTLE, &store->sql, error_r);
    if (class == GF_OK)
        class = store_open_bulk(store, error_r);
    if (class == GF_OK)
        class = catalogue_load(store->catalogue, store->sql, error_r);
    if (class != GF_OK) {
        store_disconnect(store);
        class = error_r->class = GF_RETRY; /* whatever it was: no record is at fault, none may be buried for it */
    }
    store->pinged_ms = gf_clock_mono_ms();
    return class;
}

enum gf_class store_poll(struct store *store, struct gf_error *error_r)
{
    enum gf_class class = store_ready(store, error_r);
    int64_t now_ms = gf_clock_mono_ms();

    if (class != GF_OK)
        return class;
    class = catalogue_poll(store->catalogue, store->sql, error_r);
    if (class != GF_OK || now_ms - store->pinged_ms < PING_MS)
        return class;
    store->pinged_ms = now_ms;
    return gf_sql_ping(store->sql, error_r);
}

enum gf_class store_run(struct store *store, int64_t rows, struct gf_error *error_r)
{
    int64_t affected = -1;
    enum gf_class class;

    if (!gf_buf_ok(&store->text))
        return gf_fail(error_r, GF_REJECT, 0, "statement is longer than %u bytes", STATEMENT_MAX);
    class = gf_sql_exec(store->sql, store->text.data, store->text.len, &affected, error_r);
    if (class == GF_OK && rows >= 0 && affected != rows)
        return gf_fail(error_r, GF_FATAL, 0, "%.60s...: %" PRId64 " rows affected, not %" PRId64, store->text.data, affected,
                       rows);
    return class;
}

/* One run of the transaction. */
struct attempt {
    const struct claim *claim;
    uint8_t hash[32]; /* of the batch before, then of this one */
    bool fenced;
};

/* The fence: this row is locked until the end of the transaction, and every owner starts here. */
static enum gf_class lock_progress(struct store *store, const struct batch *batch, struct attempt *attempt,
                                   struct gf_error *error_r)
{
    const struct claim *claim = attempt->claim;
    struct gf_sql_result *result = NULL;
    enum gf_class class;
    const char *hash;
    size_t len;

    class = gf_sql_queryf(store->sql, &result, error_r,
                          "SELECT next_offset, epoch, last_hash FROM progress WHERE log=%" PRId32 " FOR UPDATE", claim->log);
    if (class != GF_OK)
        return class;
    attempt->fenced =
        !gf_sql_next(result) || gf_sql_i64(result, 0) != batch->first_offset || gf_sql_i64(result, 1) != claim->epoch;
    if (!attempt->fenced) {
        hash = gf_sql_bytes(result, 2, &len);
        GF_ASSERT(hash == NULL || len == 32);
        memset(attempt->hash, 0, 32); /* the first batch of a log follows 32 zero bytes */
        if (hash != NULL)
            memcpy(attempt->hash, hash, 32);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void take_credit(const struct gf_sql_result *result, struct gf_credit *credit_r)
{
    int ref = gf_sql_is_null(result, 5) ? 6 : 5; /* the refunded request, else the order */

    memset(credit_r, 0, sizeof(*credit_r));
    gf_sql_uuid(result, 0, &credit_r->credit_id);
    credit_r->kind = (enum gf_kind)gf_sql_i64(result, 1);
    credit_r->user_id = gf_sql_i64(result, 2);
    credit_r->coins = gf_sql_i64(result, 3);
    credit_r->status = (int32_t)gf_sql_i64(result, 4);
    credit_r->has_ref = credit_r->kind != GF_KIND_ADJUST && !gf_sql_is_null(result, ref); /* an adjustment's is its key */
    if (credit_r->has_ref)
        gf_sql_uuid(result, ref, &credit_r->ref);
}

static enum gf_class lock_credits(struct store *store, struct batch *batch, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = GF_OK;

    for (int from = 0; from < batch->credit_id_count && class == GF_OK; from += PAIRS_PER_SELECT) {
        gf_buf_reset(&store->text);
        gf_buf_adds(&store->text, "SELECT credit_id, kind, user_id, coins, status, target_request, order_id FROM credit "
                                  "WHERE credit_id IN (");
        for (int i = from; i < batch->credit_id_count && i < from + PAIRS_PER_SELECT; i++) {
            gf_buf_adds(&store->text, i > from ? "," : "");
            gf_buf_add_xhex(&store->text, batch->credit_ids[i].b, 16);
        }
        gf_buf_adds(&store->text, ") ORDER BY credit_id FOR UPDATE");
        class = gf_sql_query(store->sql, store->text.data, store->text.len, &result, error_r);
        if (class != GF_OK)
            break;
        while (gf_sql_next(result))
            take_credit(result, &batch->credits[batch->credit_count++]);
        gf_sql_result_free(&result);
        GF_POINT(settle_credits_locked);
    }
    return class;
}

static int compare_credit(const void *id, const void *credit)
{
    return gf_uuid_compare(id, &((const struct gf_credit *)credit)->credit_id);
}

/* Whether the credit that a command names is its user's. */
static bool names_own_credit(const struct batch *batch, const struct gf_command *command)
{
    const struct gf_credit *credit;

    if (command->dead != GF_DEAD_NONE || command->kind == GF_KIND_GIFT)
        return false;
    credit = bsearch(&command->request_id, batch->credits, (size_t)batch->credit_count, sizeof(*credit), compare_credit);
    return credit != NULL && credit->user_id == command->user_id;
}

/* A believed credit opens its user's wallet. */
static enum gf_class open_wallets(struct store *store, const struct batch *batch, struct gf_error *error_r)
{
    int64_t now_ms = gf_clock_real_ms();
    int count = 0;

    gf_buf_reset(&store->text);
    gf_buf_adds(&store->text, "INSERT INTO wallet (user_id, balance, created_ms, updated_ms) VALUES ");
    for (int i = 0; i < batch->planned_count; i++)
        if (names_own_credit(batch, &batch->planned[i]))
            gf_buf_addf(&store->text, "%s(%" PRId64 ",0,%" PRId64 ",%" PRId64 ")", count++ > 0 ? "," : "",
                        batch->planned[i].user_id, now_ms, now_ms);
    gf_buf_adds(&store->text, " ON DUPLICATE KEY UPDATE user_id=user_id");
    return count > 0 ? store_run(store, -1, error_r) : GF_OK;
}

static void take_wallet(const struct gf_sql_result *result, struct gf_wallet *wallet_r)
{
    *wallet_r = (struct gf_wallet){.user_id = gf_sql_i64(result, 0),
                                   .balance = gf_sql_i64(result, 1),
                                   .debt = gf_sql_i64(result, 2),
                                   .ver = gf_sql_i64(result, 3),
                                   .total_recharged = gf_sql_i64(result, 4),
                                   .total_spent = gf_sql_i64(result, 5),
                                   .last_log = (int32_t)gf_sql_i64(result, 6),
                                   .last_off = gf_sql_i64(result, 7),
                                   .status = (int32_t)gf_sql_i64(result, 8)};
}

/* The only place that balances come from: locked, read and written in one transaction (F3). */
static enum gf_class lock_wallets(struct store *store, struct batch *batch, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = GF_OK;

    for (int from = 0; from < batch->user_count && class == GF_OK; from += WALLETS_PER_SELECT) {
        gf_buf_reset(&store->text);
        gf_buf_adds(&store->text, "SELECT user_id, balance, debt, ver, total_recharged, total_spent, last_log, last_off, "
                                  "status FROM wallet WHERE user_id IN (");
        for (int i = from; i < batch->user_count && i < from + WALLETS_PER_SELECT; i++) {
            if (i > from)
                gf_buf_addc(&store->text, ',');
            gf_buf_add_i64(&store->text, batch->users[i]);
        }
        gf_buf_adds(&store->text, ") ORDER BY user_id FOR UPDATE");
        class = gf_sql_query(store->sql, store->text.data, store->text.len, &result, error_r);
        if (class != GF_OK)
            break;
        while (gf_sql_next(result))
            take_wallet(result, &batch->wallets[batch->wallet_count++]);
        gf_sql_result_free(&result);
        GF_POINT(settle_wallets_locked);
    }
    return class;
}

static enum gf_class plan(struct store *store, struct batch *batch, int32_t log, struct gf_error *error_r)
{
    const struct gf_plan_input input = {.log = log,
                                        .commands = batch->planned,
                                        .command_count = batch->planned_count,
                                        .wallets = batch->wallets,
                                        .wallet_count = batch->wallet_count,
                                        .credits = batch->credits,
                                        .credit_count = batch->credit_count,
                                        .catalogue = catalogue_view(store->catalogue)};

    if (!gf_settle_plan(&input, batch->planned, &batch->plan))
        return gf_fail(error_r, GF_REJECT, 0, "the coins of %d records do not fit the sums of one batch", batch->n);
    GF_ASSERT(batch->plan.settled + batch->plan.rejected + batch->plan.dead + batch->duplicates + batch->dead == batch->n);
    return GF_OK;
}

/* The documented chain: SHA-256(previous hash, then each trade row's bytes in offset order). */
static void chain(struct store *store, const struct batch *batch, int32_t log, uint8_t hash[32])
{
    uint8_t bytes[GF_TRADE_BYTES];

    gf_sha256_begin(store->sha);
    gf_sha256_add(store->sha, hash, 32);
    for (int i = 0; i < batch->plan.trade_count; i++)
        gf_sha256_add(store->sha, bytes, gf_trade_bytes(log, &batch->plan.trades[i], bytes));
    gf_sha256_end(store->sha, hash);
}

static enum gf_class write_batch(struct store *store, const struct batch *batch, const struct attempt *attempt,
                                 struct gf_error *error_r)
{
    const struct claim *claim = attempt->claim;
    const struct gf_plan *done = &batch->plan;

    gf_buf_reset(&store->text);
    gf_buf_addf(&store->text,
                "INSERT INTO batch (log, next_offset, first_offset, epoch, settled, rejected, duplicate, dead, debit, credit, "
                "host, platform, committed_ms, hash) VALUES (%" PRId32 ",%" PRId64 ",%" PRId64 ",%" PRId64
                ",%d,%d,%d,%d,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",",
                claim->log, batch->next_offset, batch->first_offset, claim->epoch, done->settled, done->rejected,
                batch->duplicates, done->dead + batch->dead, done->debit, done->credit, done->host, done->platform,
                gf_clock_real_ms());
    gf_buf_add_xhex(&store->text, attempt->hash, 32);
    gf_buf_addc(&store->text, ')');
    return store_run(store, 1, error_r);
}

/* The other half of the fence: compare and set. Without notices to send, all is notified. */
static enum gf_class move_progress(struct store *store, struct batch *batch, struct attempt *attempt,
                                   struct gf_error *error_r)
{
    const struct claim *claim = attempt->claim;
    int64_t notified = store->config->settle_notices ? claim->notified : batch->next_offset;
    const struct gf_kafka_message last = batch_record(batch, batch->n - 1);
    uint8_t fp[BATCH_FP];
    int64_t affected = 0;
    enum gf_class class;

    batch_record_fp(batch, &last, fp);
    gf_buf_reset(&store->text);
    gf_buf_addf(&store->text, "UPDATE progress SET next_offset=%" PRId64 ", last_off=%" PRId64 ", last_fp=",
                batch->next_offset, last.offset);
    gf_buf_add_xhex(&store->text, fp, BATCH_FP);
    gf_buf_adds(&store->text, ", last_hash=");
    gf_buf_add_xhex(&store->text, attempt->hash, 32);
    gf_buf_addf(&store->text,
                ", notified_offset=GREATEST(notified_offset,%" PRId64 ") WHERE log=%" PRId32 " AND epoch=%" PRId64
                " AND next_offset=%" PRId64,
                notified, claim->log, claim->epoch, batch->first_offset);
    class = gf_sql_exec(store->sql, store->text.data, store->text.len, &affected, error_r);
    attempt->fenced = class == GF_OK && affected != 1;
    return class;
}

static enum gf_class read_and_plan(struct store *store, struct batch *batch, int32_t log, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    batch_classify(batch);
    stage_end(&store->stage, STAGE_PLAN);
    if (batch->credit_id_count > 0)
        class = lock_credits(store, batch, error_r);
    if (class == GF_OK && batch->credit_count > 0)
        class = open_wallets(store, batch, error_r);
    if (class == GF_OK && batch->credit_count > 0)
        GF_POINT(settle_wallets_opened);
    stage_end(&store->stage, STAGE_CREDITS);
    if (class == GF_OK)
        class = lock_wallets(store, batch, error_r);
    stage_end(&store->stage, STAGE_WALLETS);
    if (class == GF_OK && catalogue_doubts(store->catalogue, batch)) /* F11 */
        class = catalogue_load(store->catalogue, store->sql, error_r);
    if (class == GF_OK)
        class = plan(store, batch, log, error_r);
    stage_end(&store->stage, STAGE_PLAN);
    return class;
}

static enum gf_class commit(struct store *store, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_commit_send(store->sql, error_r);

    if (class != GF_OK)
        return class;
    GF_POINT(settle_commit_sent);
    return gf_sql_commit_answer(store->sql, error_r);
}

/* protocols.md section 2. Everything but a failed COMMIT is rolled back by the caller. */
static enum gf_class transact(struct store *store, struct batch *batch, struct attempt *attempt, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_begin(store->sql, error_r);

    if (class != GF_OK)
        return class;
    GF_POINT(settle_begun);
    class = lock_progress(store, batch, attempt, error_r);
    stage_end(&store->stage, STAGE_FENCE);
    if (class != GF_OK || attempt->fenced)
        return class;
    GF_POINT(settle_progress_locked);
    class = read_and_plan(store, batch, attempt->claim->log, error_r);
    if (class != GF_OK)
        return class;
    GF_POINT(settle_planned);
    class = store_write(store, batch, attempt->claim->log, error_r);
    if (class != GF_OK)
        return class;
    stage_end(&store->stage, STAGE_UPDATE);
    chain(store, batch, attempt->claim->log, attempt->hash);
    stage_end(&store->stage, STAGE_CHAIN);
    class = write_batch(store, batch, attempt, error_r);
    if (class != GF_OK)
        return class;
    GF_POINT(settle_batch_inserted);
    class = move_progress(store, batch, attempt, error_r);
    if (class != GF_OK || attempt->fenced)
        return class;
    GF_POINT(settle_progress_moved);
    stage_end(&store->stage, STAGE_CLOSE);
    class = commit(store, error_r);
    stage_end(&store->stage, STAGE_COMMIT);
    return class;
}

static bool has_credits(const struct batch *batch)
{
    for (int i = 0; i < batch->n; i++)
        if (batch_command(batch, i)->dead == GF_DEAD_NONE && batch_command(batch, i)->kind != GF_KIND_GIFT)
            return true;
    return false;
}

#ifdef GF_NULL_STORE
bool store_null;

static enum gf_class settle_nowhere(struct store *store, struct batch *batch, int32_t log, struct gf_error *error_r)
{
    uint8_t hash[32] = {0};
    enum gf_class class;

    batch_classify(batch);
    for (int i = 0; i < batch->user_count; i++)
        batch->wallets[batch->wallet_count++] = (struct gf_wallet){
            .user_id = batch->users[i], .balance = INT64_C(1000000000000), .ver = 1, .last_off = -1, .status = 1};
    class = plan(store, batch, log, error_r);
    stage_end(&store->stage, STAGE_PLAN);
    if (class != GF_OK)
        return class;
    chain(store, batch, log, hash);
    stage_end(&store->stage, STAGE_CHAIN);
    return GF_OK;
}
#endif

enum gf_class store_settle(struct store *store, struct batch *batch, struct claim *claim, bool *fenced_r,
                           struct gf_error *error_r)
{
    enum gf_class class = store_ready(store, error_r);
    struct attempt attempt = {.claim = claim};
    int found = 0;

    *fenced_r = false;
    stage_start(&store->stage);
#ifdef GF_NULL_STORE
    if (class == GF_OK && store_null)
        return settle_nowhere(store, batch, claim->log, error_r);
#endif
    /* A repeated credit leaves no row that an INSERT could collide with, so credits are always looked up. */
    if (class == GF_OK && (claim->precheck > 0 || has_credits(batch)))
        class = store_find_known(store, batch, claim->precheck > 0, &found, error_r);
    if (class == GF_OK)
        GF_POINT(settle_known_read);
    for (int i = 0; class == GF_OK && i < INSERT_ATTEMPTS; i++) {
        class = transact(store, batch, &attempt, error_r);
        *fenced_r = attempt.fenced;
        if (class == GF_UNCERTAIN || (class == GF_OK && !*fenced_r))
            break;
        gf_sql_rollback(store->sql);
        GF_POINT(settle_rolled_back);
        if (class != GF_REJECT || !gf_sql_is_duplicate(error_r))
            break;
        claim->precheck = PRECHECK_WINDOWS; /* F17: duplicates come in storms */
        if (store_find_known(store, batch, true, &found, error_r) != GF_OK)
            return GF_RETRY;
        if (found == 0)
            return class; /* not a repeated command: something else is doubled */
        GF_POINT(settle_repeats_found);
        class = i + 1 < INSERT_ATTEMPTS ? GF_OK : gf_fail(error_r, GF_RETRY, 0, "repeats keep appearing");
    }
    if (class == GF_OK && claim->precheck > 0)
        claim->precheck--;
    return class;
}
