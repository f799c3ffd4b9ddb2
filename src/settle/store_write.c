/* SPDX-License-Identifier: Apache-2.0 */
/* What a planned batch writes inside its transaction: trade rows, dead letters, wallets, credits. Trades and wallets go as
 * arrays of rows where the server takes them (MariaDB), else as text; the effect is the same. */
#include <inttypes.h>
#include <stddef.h>

#include "gf/clock.h"
#include "gf/point.h"
#include "store_internal.h"

#define TRADE_COLUMNS                                                                                        \
    "log, off, user_id, request_id, kind, outcome, amount, debt_delta, seq, balance_after, prev_log, prev_off, gift_id, " \
    "gift_type, quantity, price, receiver_id, room_id, host_coins, ref, fp, ts_ms"

#define NUMBER(i) {.offset = offsetof(struct store_row, n) + (i) * sizeof(int64_t)}
#define BYTES(field) {.offset = offsetof(struct store_row, field), .bytes = sizeof(((struct store_row *)NULL)->field)}

static const struct gf_sql_column trade_columns[] = {
    NUMBER(0),  NUMBER(1),  NUMBER(2),  BYTES(request_id), NUMBER(3),  NUMBER(4),  NUMBER(5),  NUMBER(6),
    NUMBER(7),  NUMBER(8),  NUMBER(9),  NUMBER(10),        NUMBER(11), NUMBER(12), NUMBER(13), NUMBER(14),
    NUMBER(15), NUMBER(16), NUMBER(17),
    {.offset = offsetof(struct store_row, ref), .bytes = 16, .null_offset = offsetof(struct store_row, no_ref)},
    BYTES(fp),  NUMBER(18),
};
static const struct gf_sql_column wallet_columns[] = {NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4), NUMBER(5),
                                                      NUMBER(6), NUMBER(7), NUMBER(8), NUMBER(9), NUMBER(10)};

static const struct gf_sql_bulk_spec insert_trades = {
    .text = "INSERT INTO trade (" TRADE_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    .columns = trade_columns,
    .count = GF_COUNT(trade_columns),
    .row_size = sizeof(struct store_row)};
static const struct gf_sql_bulk_spec update_wallets = {
    .text = "INSERT INTO wallet (user_id, balance, debt, ver, total_recharged, total_spent, last_log, last_off, status, "
            "created_ms, updated_ms) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON DUPLICATE KEY UPDATE balance=VALUES(balance), "
            "debt=VALUES(debt), ver=VALUES(ver), total_recharged=VALUES(total_recharged), total_spent=VALUES(total_spent), "
            "last_log=VALUES(last_log), last_off=VALUES(last_off), status=VALUES(status), updated_ms=VALUES(updated_ms)",
    .columns = wallet_columns,
    .count = GF_COUNT(wallet_columns),
    .row_size = sizeof(struct store_row)};

enum gf_class store_open_bulk(struct store *store, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_bulk_open(store->sql, &insert_trades, &store->insert_trades, error_r);

    if (class == GF_OK)
        class = gf_sql_bulk_open(store->sql, &update_wallets, &store->update_wallets, error_r);
    if (class == GF_REJECT) { /* no such protocol: text does the same */
        store_close_bulk(store);
        class = GF_OK;
    }
    return class;
}

void store_close_bulk(struct store *store)
{
    gf_sql_bulk_close(&store->insert_trades);
    gf_sql_bulk_close(&store->update_wallets);
}

/* Like store_run: the affected count must be exact. */
static enum gf_class run_bulk(struct store *store, struct gf_sql_bulk *bulk, int rows, int64_t wanted,
                              struct gf_error *error_r)
{
    int64_t affected = -1;
    enum gf_class class = gf_sql_bulk_run(bulk, store->rows, (size_t)rows, &affected, error_r);

    if (class == GF_OK && affected != wanted)
        return gf_fail(error_r, GF_FATAL, 0, "bulk statement: affected count %" PRId64 ", not %" PRId64, affected, wanted);
    return class;
}

static void fill_trade(struct store_row *row, int32_t log, const struct gf_trade *trade)
{
    const int64_t numbers[] = {log,
                               trade->off,
                               trade->user_id,
                               trade->kind,
                               trade->outcome,
                               trade->amount,
                               trade->debt_delta,
                               trade->seq,
                               trade->balance_after,
                               trade->prev_log,
                               trade->prev_off,
                               trade->gift_id,
                               trade->gift_type,
                               trade->quantity,
                               trade->price,
                               trade->receiver_id,
                               trade->room_id,
                               trade->host_coins,
                               trade->ts_ms};

    _Static_assert(GF_COUNT(numbers) == GF_COUNT(row->n), "one number for each ?");
    memcpy(row->n, numbers, sizeof(numbers));
    memcpy(row->request_id, trade->request_id.b, sizeof(row->request_id));
    memcpy(row->ref, trade->ref.b, sizeof(row->ref));
    memcpy(row->fp, trade->fp, sizeof(row->fp));
    row->no_ref = !trade->has_ref;
}

static enum gf_class bulk_trades(struct store *store, const struct batch *batch, int32_t log, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    int rows = 0;

    for (int i = 0; i < batch->plan.trade_count && class == GF_OK; i++) {
        fill_trade(&store->rows[rows++], log, &batch->plan.trades[i]);
        if (rows < ROWS_PER_BULK && i + 1 < batch->plan.trade_count)
            continue;
        class = run_bulk(store, store->insert_trades, rows, rows, error_r);
        rows = 0;
    }
    return class;
}

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
            gf_buf_adds(&store->text, "INSERT INTO trade (" TRADE_COLUMNS ") VALUES ");
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

static void add_dead_letter(struct store *store, struct batch *batch, int i, enum gf_dead reason)
{
    const struct gf_kafka_message message = batch_record(batch, i);
    const char *detail = batch_detail(batch, i);
    size_t payload = message.value_len < PAYLOAD_MAX ? message.value_len : PAYLOAD_MAX;
    struct gf_buf *text = &store->text;

    add_number(text, message.offset);
    add_number(text, reason);
    gf_sql_add_text(store->sql, text, detail, strnlen(detail, BATCH_DETAIL));
    gf_buf_addc(text, ',');
    if (message.key != NULL)
        gf_buf_add_xhex(text, message.key, message.key_len < 255 ? message.key_len : 255);
    else
        gf_buf_adds(text, "NULL");
    gf_buf_addc(text, ',');
    if (message.value != NULL && batch->refusals < 2)
        gf_buf_add_xhex(text, message.value, payload);
    else
        gf_buf_adds(text, "NULL");
    gf_buf_addc(text, ',');
    gf_buf_add_i64(text, gf_clock_real_ms());
    gf_buf_addc(text, ')');
}

/* The dead letters of the window, planned or not, in offset order. */
static enum gf_class write_dead_letters(struct store *store, struct batch *batch, int32_t log,
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

/* An array of UPDATEs costs twice as much as this one statement. The rows are locked and exist; a changed row counts 2 and a
 * new one would count 1, so the exact count proves that no row was made. */
static enum gf_class bulk_wallets(struct store *store, const struct batch *batch, struct gf_error *error_r)
{
    int64_t now_ms = gf_clock_real_ms();
    enum gf_class class = GF_OK;
    int rows = 0;

    for (int i = 0; i < batch->wallet_count && class == GF_OK; i++) {
        const struct gf_wallet *wallet = &batch->wallets[i];
        const int64_t numbers[] = {wallet->user_id,         wallet->balance,     wallet->debt,     wallet->ver,
                                   wallet->total_recharged, wallet->total_spent, wallet->last_log, wallet->last_off,
                                   wallet->status,          now_ms,              now_ms};

        if (wallet->dirty)
            memcpy(store->rows[rows++].n, numbers, sizeof(numbers));
        if (rows < ROWS_PER_BULK)
            continue;
        class = run_bulk(store, store->update_wallets, rows, INT64_C(2) * rows, error_r);
        rows = 0;
    }
    return class == GF_OK && rows > 0 ? run_bulk(store, store->update_wallets, rows, INT64_C(2) * rows, error_r) : class;
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
    enum gf_class class;
    int64_t rows = 0;

    gf_buf_reset(&store->text);
    gf_buf_adds(&store->text, settled ? "UPDATE credit SET status=2, due_ms=NULL WHERE status=1 AND credit_id IN ("
                                      : "UPDATE credit SET status=3, due_ms=NULL WHERE status=1 AND credit_id IN (");
    for (; *at < batch->plan.trade_count && rows < CREDITS_PER_UPDATE; (*at)++) {
        const struct gf_trade *trade = &batch->plan.trades[*at];

        if (trade->kind == GF_KIND_GIFT || trade->outcome == GF_OUTCOME_INTERNAL_ERROR ||
            settled != (trade->outcome == GF_OUTCOME_SETTLED))
            continue;
        gf_buf_adds(&store->text, rows++ > 0 ? "," : "");
        gf_buf_add_xhex(&store->text, trade->request_id.b, 16);
    }
    gf_buf_addc(&store->text, ')');
    if (rows == 0)
        return GF_OK;
    class = store_run(store, rows, error_r);
    if (class == GF_OK)
        GF_POINT(settle_credits_closed);
    return class;
}

/* Both outcomes close the row: 2 credited, 3 refused. */
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
    enum gf_class class = store->insert_trades != NULL ? bulk_trades(store, batch, log, error_r)
                                                       : write_trades(store, batch, log, error_r);

    if (class != GF_OK)
        return class;
    GF_POINT(settle_trades_inserted);
    class = write_dead_letters(store, batch, log, error_r);
    if (class != GF_OK)
        return class;
    GF_POINT(settle_dead_letters_inserted);
    stage_end(&store->stage, STAGE_TRADES);
    class = store->update_wallets != NULL ? bulk_wallets(store, batch, error_r) : write_wallets(store, batch, error_r);
    if (class != GF_OK)
        return class;
    GF_POINT(settle_wallets_written);
    return write_credits(store, batch, error_r);
}
