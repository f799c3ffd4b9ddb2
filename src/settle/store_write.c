/* SPDX-License-Identifier: Apache-2.0 */
/* What a planned batch writes inside its transaction: trade rows, dead letters, wallets, credits. */
#include <inttypes.h>

#include "gf/clock.h"
#include "store_internal.h"

static void add_number(struct gf_buf *text, int64_t value)
{
    gf_buf_add_i64(text, value);
    gf_buf_addc(text, ',');
}

static void add_trade(struct gf_buf *text, int32_t log, const struct gf_trade *trade)
{
    gf_buf_addc(text, '(');
    add_number(text, log);
    add_number(text, trade->off);
    add_number(text, trade->user_id);
    gf_buf_add_xhex(text, trade->request_id.b, 16);
    gf_buf_addc(text, ',');
    add_number(text, trade->kind);
    add_number(text, trade->outcome);
    add_number(text, trade->amount);
    add_number(text, trade->debt_delta);
    add_number(text, trade->seq);
    add_number(text, trade->balance_after);
    add_number(text, trade->prev_log);
    add_number(text, trade->prev_off);
    add_number(text, trade->gift_id);
    add_number(text, trade->gift_type);
    add_number(text, trade->quantity);
    add_number(text, trade->price);
    add_number(text, trade->receiver_id);
    add_number(text, trade->room_id);
    add_number(text, trade->host_coins);
    if (trade->has_ref)
        gf_buf_add_xhex(text, trade->ref.b, 16);
    else
        gf_buf_adds(text, "NULL");
    gf_buf_addc(text, ',');
    gf_buf_add_xhex(text, trade->fp, BATCH_FP);
    gf_buf_addc(text, ',');
    gf_buf_add_i64(text, trade->ts_ms);
    gf_buf_addc(text, ')');
}

static enum gf_class write_trades(struct store *store, const struct batch *batch, int32_t log, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    int rows = 0;

    for (int i = 0; i < batch->plan.trade_count && class == GF_OK; i++) {
        if (rows == 0) {
            gf_buf_reset(&store->text);
            gf_buf_adds(&store->text,
                        "INSERT INTO trade (log, off, user_id, request_id, kind, outcome, amount, debt_delta, seq, "
                        "balance_after, prev_log, prev_off, gift_id, gift_type, quantity, price, receiver_id, room_id, "
                        "host_coins, ref, fp, ts_ms) VALUES ");
        }
        gf_buf_adds(&store->text, rows++ > 0 ? "," : "");
        add_trade(&store->text, log, &batch->plan.trades[i]);
        if (store->text.len < STATEMENT_FLUSH && i + 1 < batch->plan.trade_count)
            continue;
        class = store_run(store, rows, error_r);
        rows = 0;
    }
    return class;
}

static void add_dead_letter(struct store *store, const struct batch *batch, int i, enum gf_dead reason)
{
    const struct gf_kafka_message *message = batch_message(batch, i);
    const char *detail = batch->details[batch->at + i];
    size_t payload = message->value_len < PAYLOAD_MAX ? message->value_len : PAYLOAD_MAX;
    struct gf_buf *text = &store->text;

    add_number(text, message->offset);
    add_number(text, reason);
    gf_sql_add_text(store->sql, text, detail, strnlen(detail, BATCH_DETAIL));
    gf_buf_addc(text, ',');
    if (message->key != NULL)
        gf_buf_add_xhex(text, message->key, message->key_len < 255 ? message->key_len : 255);
    else
        gf_buf_adds(text, "NULL");
    gf_buf_addc(text, ',');
    if (message->value != NULL && batch->refusals < 2)
        gf_buf_add_xhex(text, message->value, payload);
    else
        gf_buf_adds(text, "NULL");
    gf_buf_addc(text, ',');
    gf_buf_add_i64(text, gf_clock_real_ms());
    gf_buf_addc(text, ')');
}

/* The dead letters of the window, planned or not, in offset order. */
static enum gf_class write_dead_letters(struct store *store, const struct batch *batch, int32_t log,
                                        struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    int rows = 0, planned = 0;

    for (int i = 0; i < batch->n && class == GF_OK; i++) {
        enum gf_dead reason = (enum gf_dead)batch->reasons[i];

        if (batch->fates[i] == FATE_PLAN)
            reason = batch->planned[planned++].dead; /* the plan kills credits that name no row of theirs */
        if (batch->fates[i] == FATE_DUPLICATE || reason == GF_DEAD_NONE)
            continue;
        if (rows++ == 0) {
            gf_buf_reset(&store->text);
            gf_buf_adds(&store->text, "INSERT INTO dead_letter (log, off, reason, detail, rec_key, payload, ts_ms) VALUES (");
        } else {
            gf_buf_adds(&store->text, ",(");
        }
        add_number(&store->text, log);
        add_dead_letter(store, batch, i, reason);
        if (store->text.len < STATEMENT_FLUSH)
            continue;
        class = store_run(store, rows, error_r);
        rows = 0;
    }
    return class == GF_OK && rows > 0 ? store_run(store, rows, error_r) : class;
}

static void add_wallet(struct gf_buf *text, const struct gf_wallet *wallet, bool first)
{
    const int64_t values[] = {wallet->user_id,     wallet->balance,  wallet->debt,   wallet->ver, wallet->total_recharged,
                              wallet->total_spent, wallet->last_log, wallet->last_off, wallet->status};
    static const char *const names[] = {" u", " b", " d", " v", " r", " s", " l", " o", " t"};

    gf_buf_adds(text, first ? "SELECT " : " UNION ALL SELECT ");
    for (size_t i = 0; i < GF_COUNT(values); i++) {
        if (i > 0)
            gf_buf_addc(text, ',');
        gf_buf_add_i64(text, values[i]);
        if (first)
            gf_buf_adds(text, names[i]);
    }
}

/* A join cannot create a row by mistake, and each changed row has a new ver: the affected count must be exact. */
static enum gf_class write_wallets(struct store *store, const struct batch *batch, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    int rows = 0;

    for (int i = 0; i <= batch->wallet_count && class == GF_OK; i++) {
        bool last = i == batch->wallet_count;

        if (!last && batch->wallets[i].dirty) {
            if (rows == 0) {
                gf_buf_reset(&store->text);
                gf_buf_adds(&store->text, "UPDATE wallet w JOIN (");
            }
            add_wallet(&store->text, &batch->wallets[i], rows++ == 0);
        }
        if (rows == 0 || (!last && rows < WALLETS_PER_UPDATE))
            continue;
        gf_buf_addf(&store->text,
                    ") d ON w.user_id=d.u SET w.balance=d.b, w.debt=d.d, w.ver=d.v, w.total_recharged=d.r, "
                    "w.total_spent=d.s, w.last_log=d.l, w.last_off=d.o, w.status=d.t, w.updated_ms=%" PRId64,
                    gf_clock_real_ms());
        class = store_run(store, rows, error_r);
        rows = 0;
    }
    return class;
}

/* One statement for up to CREDITS_PER_UPDATE of the batch's credits from *at on, settled or refused ones. */
static enum gf_class close_credits(struct store *store, const struct batch *batch, bool settled, int *at, struct gf_error *error_r)
{
    int64_t rows = 0;

    gf_buf_reset(&store->text);
    gf_buf_adds(&store->text, settled ? "UPDATE credit SET status=2, due_ms=NULL WHERE status=1 AND credit_id IN ("
                                      : "UPDATE credit SET due_ms=NULL WHERE status=1 AND credit_id IN (");
    for (; *at < batch->plan.trade_count && rows < CREDITS_PER_UPDATE; (*at)++) {
        const struct gf_trade *trade = &batch->plan.trades[*at];

        if (trade->kind == GF_KIND_GIFT || trade->outcome == GF_OUTCOME_INTERNAL_ERROR ||
            settled != (trade->outcome == GF_OUTCOME_SETTLED))
            continue;
        gf_buf_adds(&store->text, rows++ > 0 ? "," : "");
        gf_buf_add_xhex(&store->text, trade->request_id.b, 16);
    }
    gf_buf_addc(&store->text, ')');
    return rows == 0 ? GF_OK : store_run(store, settled ? rows : -1, error_r);
}

/* Credited rows are closed; a refused one keeps its status, but its command has had its outcome and is not sent again. */
static enum gf_class write_credits(struct store *store, const struct batch *batch, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    for (int at = 0; at < batch->plan.trade_count && class == GF_OK;)
        class = close_credits(store, batch, true, &at, error_r);
    for (int at = 0; at < batch->plan.trade_count && class == GF_OK;)
        class = close_credits(store, batch, false, &at, error_r);
    return class;
}

enum gf_class store_write(struct store *store, struct batch *batch, int32_t log, struct gf_error *error_r)
{
    enum gf_class class = write_trades(store, batch, log, error_r);

    if (class == GF_OK)
        class = write_dead_letters(store, batch, log, error_r);
    if (class == GF_OK)
        class = write_wallets(store, batch, error_r);
    return class == GF_OK ? write_credits(store, batch, error_r) : class;
}
