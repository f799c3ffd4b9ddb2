/* SPDX-License-Identifier: Apache-2.0 */
/* verify's pass over the logs: one scan of `trade` per log in offset order, beside the log's batches, dead letters and income,
 * which fit in memory; or over a part of one, for --watch, where each row is held against the one that it follows instead of
 * against sums kept of everybody. Logs are taken by number: a wallet lives in one log at a time and a new log starts after the old one
 * was drained or closed, so this is the order in which each wallet's trades were settled. A log may begin at any offset (that
 * of the first record that Kafka had when the log was opened): its first batch says where, and the hash chain that it is the
 * first. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gf/crypto.h"
#include "gf/hash.h"
#include "gf/num.h"
#include "verify.h"

#define PART_BATCHES 256

struct batch {
    int64_t first, next;
    int64_t settled, rejected, duplicate, dead;
    int64_t debit, credit, host, platform;
    uint8_t hash[32];
};

struct progress {
    int32_t log;
    int64_t next_offset, notified_offset, rolled_offset;
    bool rolled; /* has a rollup row */
    bool has_hash;
    uint8_t last_hash[32];
};

struct pass {
    struct verify *verify;
    const struct progress *log;
    struct verify_part *part; /* NULL: the whole log */
    int64_t from, to;         /* the offsets looked at are [from, to) */
    struct batch *batches;
    size_t batch_count, batch_cap;
    int64_t *dead; /* offsets of dead letters, rising */
    size_t dead_count, dead_cap;
    size_t at;        /* the batch that the scan is in */
    size_t dead_at;   /* the first dead letter that the scan has not passed */
    struct batch sum; /* of the rows seen of that batch */
    struct gf_sha256_ctx *sha;
};

/* -- what stands beside the trades */

static enum gf_class read_batches(struct pass *pass)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_verify_stream(pass->verify, &result,
                                           "SELECT first_offset, next_offset, settled, rejected, duplicate, dead, debit, credit, "
                                           "host, platform, hash FROM batch WHERE log = %" PRId32 " AND next_offset > %" PRId64
                                           " ORDER BY next_offset LIMIT %" PRId64, pass->log->log, pass->from,
                                           pass->part != NULL ? (int64_t)PART_BATCHES : INT64_MAX);

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct batch *batch;
        size_t len;

        if (pass->batch_count == pass->batch_cap) {
            pass->batch_cap = pass->batch_cap > 0 ? pass->batch_cap * 2 : 1024;
            pass->batches = gf_xrealloc(pass->batches, pass->batch_cap * sizeof(pass->batches[0]));
        }
        batch = &pass->batches[pass->batch_count++];
        *batch = (struct batch){gf_sql_i64(result, 0), gf_sql_i64(result, 1), gf_sql_i64(result, 2), gf_sql_i64(result, 3),
                                gf_sql_i64(result, 4), gf_sql_i64(result, 5), gf_sql_i64(result, 6), gf_sql_i64(result, 7),
                                gf_sql_i64(result, 8), gf_sql_i64(result, 9), {0}};
        memcpy(batch->hash, gf_sql_bytes(result, 10, &len), sizeof(batch->hash));
        GF_ASSERT(len == sizeof(batch->hash)); /* BINARY(32) */
    }
    return gf_verify_end(pass->verify, &result);
}

static enum gf_class read_dead(struct pass *pass)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_verify_stream(pass->verify, &result, "SELECT off FROM dead_letter WHERE log = %" PRId32
                                           " AND off >= %" PRId64 " AND off < %" PRId64 " ORDER BY off", pass->log->log, pass->from,
                                           pass->to);

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        if (pass->dead_count == pass->dead_cap) {
            pass->dead_cap = pass->dead_cap > 0 ? pass->dead_cap * 2 : 256;
            pass->dead = gf_xrealloc(pass->dead, pass->dead_cap * sizeof(pass->dead[0]));
        }
        pass->dead[pass->dead_count++] = gf_sql_i64(result, 0);
    }
    return gf_verify_end(pass->verify, &result);
}

static struct verify_receiver *find_receiver(struct verify *verify, int64_t receiver_id)
{
    struct gf_map_node *node = gf_map_find(&verify->receivers, (uint64_t)receiver_id);
    struct verify_receiver *receiver;

    if (node != NULL)
        return GF_CONTAINER(node, struct verify_receiver, node);
    receiver = gf_xcalloc(1, sizeof(*receiver));
    gf_map_add(&verify->receivers, &receiver->node, (uint64_t)receiver_id);
    return receiver;
}

static enum gf_class read_income(struct pass *pass)
{
    struct verify *verify = pass->verify;
    struct gf_sql_result *result;
    enum gf_class class = gf_verify_stream(verify, &result,
                                           "SELECT receiver_id, gross, host, from_offset, to_offset FROM income WHERE log = %" PRId32,
                                           pass->log->log);

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct verify_receiver *receiver = find_receiver(verify, gf_sql_i64(result, 0));
        int64_t from = gf_sql_i64(result, 3), to = gf_sql_i64(result, 4);

        receiver->income_gross = gf_verify_sum(receiver->income_gross, gf_sql_i64(result, 1));
        receiver->income_host = gf_verify_sum(receiver->income_host, gf_sql_i64(result, 2));
        verify->results[VERIFY_INCOME].checked++;
        if (from < 0 || from >= to || to > pass->log->rolled_offset)
            gf_verify_fail(verify, VERIFY_INCOME, "log %" PRId32 ": income row [%" PRId64 ", %" PRId64 ") of receiver %" PRId64
                           ", rolled up to %" PRId64, pass->log->log, from, to, gf_sql_i64(result, 0), pass->log->rolled_offset);
    }
    return gf_verify_end(verify, &result);
}

/* -- batches */

static void check_batch_row(struct pass *pass, const struct batch *batch, int64_t expected_first)
{
    int64_t counted = batch->settled + batch->rejected + batch->duplicate + batch->dead;
    struct verify *verify = pass->verify;

    if (batch->first != expected_first || batch->next <= batch->first)
        gf_verify_fail(verify, VERIFY_OFFSETS, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") stands where %" PRId64
                       " was to be consumed", pass->log->log, batch->first, batch->next, expected_first);
    if (counted != batch->next - batch->first)
        gf_verify_fail(verify, VERIFY_OFFSETS, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") has %" PRId64 " offsets, but its counts"
                       " add up to %" PRId64 "%s", pass->log->log, batch->first, batch->next, batch->next - batch->first, counted,
                       counted < batch->next - batch->first ? ": commands are lost, or a producer was transactional" : "");
    if (batch->debit != gf_verify_sum(batch->host, batch->platform))
        gf_verify_fail(verify, VERIFY_BATCH_SUMS, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") debit %" PRId64 " is not host %"
                       PRId64 " + platform %" PRId64, pass->log->log, batch->first, batch->next, batch->debit, batch->host,
                       batch->platform);
}

static void check_progress(struct pass *pass)
{
    const struct progress *log = pass->log;
    /* Where nothing was consumed yet, nothing was rolled up either. */
    int64_t end = pass->batch_count > 0 ? pass->batches[pass->batch_count - 1].next : log->rolled_offset;
    const uint8_t *head = pass->batch_count > 0 ? pass->batches[pass->batch_count - 1].hash : NULL;

    if (end != log->next_offset)
        gf_verify_fail(pass->verify, VERIFY_OFFSETS, "log %" PRId32 ": next_offset is %" PRId64 ", the last batch ends at %" PRId64,
                       log->log, log->next_offset, end);
    if (log->notified_offset > log->next_offset)
        gf_verify_fail(pass->verify, VERIFY_OFFSETS, "log %" PRId32 ": notified_offset %" PRId64 " is past next_offset %" PRId64,
                       log->log, log->notified_offset, log->next_offset);
    if (log->rolled_offset > log->next_offset)
        gf_verify_fail(pass->verify, VERIFY_INCOME, "log %" PRId32 ": rolled_offset %" PRId64 " is past next_offset %" PRId64, log->log,
                       log->rolled_offset, log->next_offset);
    if (!log->rolled)
        gf_verify_fail(pass->verify, VERIFY_INCOME, "log %" PRId32 ": has no rollup row", log->log);
    if ((head != NULL) != log->has_hash || (head != NULL && memcmp(head, log->last_hash, 32) != 0))
        gf_verify_fail(pass->verify, VERIFY_HASH_CHAIN, "log %" PRId32 ": progress.last_hash is not the last batch's hash", log->log);
}

static void begin_batch(struct pass *pass)
{
    static const uint8_t zero[32];

    memset(&pass->sum, 0, sizeof(pass->sum));
    gf_sha256_begin(pass->sha);
    if (pass->at > 0)
        gf_sha256_add(pass->sha, pass->batches[pass->at - 1].hash, 32);
    else
        gf_sha256_add(pass->sha, pass->part != NULL ? pass->part->hash : zero, 32);
}

/* The rows of the batch at hand have all been seen. */
static void finish_batch(struct pass *pass)
{
    const struct batch *batch = &pass->batches[pass->at];
    struct batch *sum = &pass->sum;
    struct verify *verify = pass->verify;
    uint8_t hash[32];

    for (; pass->dead_at < pass->dead_count && pass->dead[pass->dead_at] < batch->next; pass->dead_at++)
        sum->dead++;
    sum->platform = gf_verify_sum(sum->debit, -sum->host);
    if (sum->settled != batch->settled || sum->rejected != batch->rejected || sum->dead != batch->dead)
        gf_verify_fail(verify, VERIFY_OFFSETS, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") says %" PRId64 " settled, %" PRId64
                       " rejected, %" PRId64 " dead; the rows are %" PRId64 ", %" PRId64 ", %" PRId64, pass->log->log, batch->first,
                       batch->next, batch->settled, batch->rejected, batch->dead, sum->settled, sum->rejected, sum->dead);
    if (sum->debit != batch->debit || sum->credit != batch->credit || sum->host != batch->host || sum->platform != batch->platform)
        gf_verify_fail(verify, VERIFY_BATCH_SUMS, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") says debit %" PRId64 " credit %"
                       PRId64 " host %" PRId64 "; its trades %" PRId64 ", %" PRId64 ", %" PRId64, pass->log->log, batch->first,
                       batch->next, batch->debit, batch->credit, batch->host, sum->debit, sum->credit, sum->host);
    gf_sha256_end(pass->sha, hash);
    if (memcmp(hash, batch->hash, sizeof(hash)) != 0)
        gf_verify_fail(verify, VERIFY_HASH_CHAIN, "log %" PRId32 ": batch [%" PRId64 ", %" PRId64 ") does not have the hash of its rows",
                       pass->log->log, batch->first, batch->next);
    verify->totals.debit = gf_verify_sum(verify->totals.debit, sum->debit);
    verify->totals.credit = gf_verify_sum(verify->totals.credit, sum->credit);
    verify->totals.host = gf_verify_sum(verify->totals.host, sum->host);
    verify->totals.platform = gf_verify_sum(verify->totals.platform, sum->platform);
    verify->totals.duplicates += batch->duplicate;
    verify->totals.dead += sum->dead;
    verify->results[VERIFY_OFFSETS].checked += batch->next - batch->first;
    verify->results[VERIFY_BATCH_SUMS].checked++;
    verify->results[VERIFY_HASH_CHAIN].checked++;
    pass->at++;
    begin_batch(pass);
}

/* -- trades */

static void read_trade(const struct gf_sql_result *result, struct gf_trade *trade_r)
{
    size_t len;

    *trade_r = (struct gf_trade){
        .off = gf_sql_i64(result, 0), .user_id = gf_sql_i64(result, 1), .kind = (enum gf_kind)gf_sql_i64(result, 3),
        .outcome = (enum gf_outcome)gf_sql_i64(result, 4), .amount = gf_sql_i64(result, 5), .debt_delta = gf_sql_i64(result, 6),
        .seq = gf_sql_i64(result, 7), .balance_after = gf_sql_i64(result, 8), .prev_log = (int32_t)gf_sql_i64(result, 9),
        .prev_off = gf_sql_i64(result, 10), .gift_id = (int32_t)gf_sql_i64(result, 11),
        .gift_type = (int32_t)gf_sql_i64(result, 12), .quantity = (int32_t)gf_sql_i64(result, 13),
        .price = gf_sql_i64(result, 14), .receiver_id = gf_sql_i64(result, 15), .room_id = gf_sql_i64(result, 16),
        .host_coins = gf_sql_i64(result, 17), .has_ref = !gf_sql_is_null(result, 18), .ts_ms = gf_sql_i64(result, 20),
    };
    gf_sql_uuid(result, 2, &trade_r->request_id);
    if (trade_r->has_ref)
        gf_sql_uuid(result, 18, &trade_r->ref);
    memcpy(trade_r->fp, gf_sql_bytes(result, 19, &len), sizeof(trade_r->fp));
    GF_ASSERT(len == sizeof(trade_r->fp)); /* BINARY(8) */
}

static struct verify_user *find_user(struct verify *verify, int64_t user_id)
{
    struct gf_map_node *node = gf_map_find(&verify->users, (uint64_t)user_id);
    struct verify_user *user;

    if (node != NULL)
        return GF_CONTAINER(node, struct verify_user, node);
    user = gf_xcalloc(1, sizeof(*user));
    user->last_off = -1;
    gf_map_add(&verify->users, &user->node, (uint64_t)user_id);
    return user;
}

/* What has been spent is owed: a chargeback takes all there is before it makes a debt, and what comes pays the debt before it
 * is anybody's to spend. Nothing else touches a debt. `user` is as the row leaves it. */
static bool pays_debt_first(const struct verify_user *user, const struct gf_trade *trade)
{
    if (trade->kind == GF_KIND_CHARGEBACK)
        return trade->amount <= 0 && trade->debt_delta >= 0 && (trade->debt_delta == 0 || user->balance == 0);
    if (trade->kind == GF_KIND_GIFT || trade->amount < 0)
        return trade->debt_delta == 0;
    return trade->debt_delta <= 0 && (trade->amount == 0 || user->debt == 0);
}

static void check_statement(struct pass *pass, const struct gf_trade *trade)
{
    struct verify_user *user = find_user(pass->verify, trade->user_id);
    struct verify *verify = pass->verify;
    int32_t log = pass->log->log;

    verify->results[VERIFY_STATEMENT].checked++;
    if (trade->prev_log != user->last_log || trade->prev_off != user->last_off)
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " follows %" PRId32 ":%" PRId64
                       ", the row before it is %" PRId32 ":%" PRId64, log, trade->off, trade->user_id, trade->prev_log, trade->prev_off,
                       user->last_log, user->last_off);
    if (trade->seq <= user->last_seq)
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " has seq %" PRId64 " after %" PRId64, log,
                       trade->off, trade->user_id, trade->seq, user->last_seq);
    user->balance = gf_verify_sum(user->balance, trade->amount);
    if (trade->balance_after != user->balance)
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " says balance_after %" PRId64
                       ", the rows up to it sum to %" PRId64, log, trade->off, trade->user_id, trade->balance_after, user->balance);
    user->debt = gf_verify_sum(user->debt, trade->debt_delta);
    if (user->balance < 0 || user->debt < 0)
        gf_verify_fail(verify, VERIFY_WALLET_SIGN, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " leaves balance %" PRId64 ", debt %"
                       PRId64, log, trade->off, trade->user_id, user->balance, user->debt);
    if (!pays_debt_first(user, trade))
        gf_verify_fail(verify, VERIFY_WALLET_DEBT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " moves %" PRId64 " and the debt by %"
                       PRId64 ", which leaves %" PRId64 " and a debt of %" PRId64, log, trade->off, trade->user_id, trade->amount,
                       trade->debt_delta, user->balance, user->debt);
    if (trade->kind == GF_KIND_GIFT)
        user->spent = gf_verify_sum(user->spent, -trade->amount);
    if (trade->kind == GF_KIND_RECHARGE)
        user->recharged = gf_verify_sum(user->recharged, gf_verify_sum(trade->amount, -trade->debt_delta));
    user->last_seq = trade->seq;
    user->last_log = log;
    user->last_off = trade->off;
}

/* Whether some price of the gift explains the row. Which of two equal prices with different shares settlement saw is not
 * written down, so either is right. */
static bool explained(const struct gf_catalogue *catalogue, const struct gf_trade *trade, int64_t total)
{
    const struct gf_gift *gift = gf_catalogue_find(catalogue, trade->gift_id);

    for (int i = 0; gift != NULL && i < gift->price_count; i++) {
        const struct gf_price *row = &gift->prices[i];

        if (row->price == trade->price && row->valid_from_ms <= trade->ts_ms + catalogue->lead_ms &&
            trade->ts_ms - catalogue->grace_ms < row->valid_to_ms && trade->host_coins == gf_money_share(total, row->share_bp))
            return true;
    }
    return false;
}

static void check_gift(struct pass *pass, const struct gf_trade *trade)
{
    struct verify *verify = pass->verify;
    int64_t total = 0;

    verify->results[VERIFY_GIFT_PRICE].checked++;
    if (!gf_money_mul(trade->price, trade->quantity, &total) || total <= 0 || total != -trade->amount ||
        trade->user_id == trade->receiver_id || !explained(&verify->catalogue, trade, total))
        gf_verify_fail(verify, VERIFY_GIFT_PRICE, "trade %" PRId32 ":%" PRId64 ": %" PRId32 " x gift %" PRId32 " at %" PRId64 " cost %"
                       PRId64 ", host %" PRId64 ": no price of that time explains it", pass->log->log, trade->off, trade->quantity,
                       trade->gift_id, trade->price, -trade->amount, trade->host_coins);
}

static void tally_income(struct pass *pass, const struct gf_trade *trade)
{
    struct verify_receiver *receiver;

    if (trade->off >= pass->log->rolled_offset)
        return;
    receiver = find_receiver(pass->verify, trade->receiver_id);
    receiver->trade_gross = gf_verify_sum(receiver->trade_gross, -trade->amount);
    receiver->trade_host = gf_verify_sum(receiver->trade_host, trade->host_coins);
}

/* The columns behind the trade's own, of the row that it names as its wallet's previous one. */
enum { PREVIOUS_USER = 21, PREVIOUS_OUTCOME, PREVIOUS_SEQ, PREVIOUS_BALANCE };

/* What a user's last row of this log was, as far as the table of heads still knows: two rows must not follow the same one. */
static void check_head(struct pass *pass, const struct gf_trade *trade)
{
    struct verify_head *head = &pass->part->heads[gf_hash_u64((uint64_t)trade->user_id) % VERIFY_HEADS];
    int32_t log = pass->log->log;

    if (head->user_id == trade->user_id && head->log == log && trade->prev_log == log && trade->prev_off != head->off)
        gf_verify_fail(pass->verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " follows %" PRId32 ":%" PRId64
                       ", the row before it is %" PRId32 ":%" PRId64, log, trade->off, trade->user_id, trade->prev_log,
                       trade->prev_off, log, head->off);
    *head = (struct verify_head){trade->user_id, trade->off, log};
}

/* By induction over the rows of a wallet, balance_after of its last one is the sum of them all. */
static void check_previous(struct pass *pass, const struct gf_trade *trade, const struct gf_sql_result *row)
{
    bool first = trade->prev_off < 0, is_there = !gf_sql_is_null(row, PREVIOUS_USER);
    int64_t before = first ? 0 : gf_sql_i64(row, PREVIOUS_BALANCE);
    struct verify *verify = pass->verify;
    int32_t log = pass->log->log;

    verify->results[VERIFY_STATEMENT].checked++;
    check_head(pass, trade);
    if (!first && (!is_there || gf_sql_i64(row, PREVIOUS_USER) != trade->user_id || gf_sql_i64(row, PREVIOUS_OUTCOME) != GF_OUTCOME_SETTLED)) {
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " follows %" PRId32 ":%" PRId64
                       ", which is no settled row of that user", log, trade->off, trade->user_id, trade->prev_log, trade->prev_off);
        return;
    }
    if (!first && trade->seq <= gf_sql_i64(row, PREVIOUS_SEQ))
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " has seq %" PRId64 " after %" PRId64, log,
                       trade->off, trade->user_id, trade->seq, gf_sql_i64(row, PREVIOUS_SEQ));
    if (trade->balance_after < 0)
        gf_verify_fail(verify, VERIFY_WALLET_SIGN, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " leaves balance %" PRId64, log,
                       trade->off, trade->user_id, trade->balance_after);
    if (trade->balance_after != gf_verify_sum(before, trade->amount))
        gf_verify_fail(verify, VERIFY_STATEMENT, "trade %" PRId32 ":%" PRId64 " of user %" PRId64 " moves %" PRId64 " from %" PRId64
                       ", but says balance_after %" PRId64, log, trade->off, trade->user_id, trade->amount, before, trade->balance_after);
}

static void tally_settled(struct pass *pass, const struct gf_trade *trade, const struct gf_sql_result *row)
{
    pass->sum.settled++;
    pass->verify->totals.settled++;
    if (pass->part != NULL)
        check_previous(pass, trade, row);
    else
        check_statement(pass, trade);
    if (trade->kind == GF_KIND_GIFT) {
        pass->sum.debit = gf_verify_sum(pass->sum.debit, -trade->amount);
        pass->sum.host = gf_verify_sum(pass->sum.host, trade->host_coins);
        check_gift(pass, trade);
        if (pass->part == NULL)
            tally_income(pass, trade);
        return;
    }
    pass->sum.credit = gf_verify_sum(pass->sum.credit, trade->amount);
    pass->verify->totals.credits_settled++;
}

/* A dead letter whose user and id could be read has a trade row too (F1): it is counted as dead and nowhere else. */
static bool is_dead(struct pass *pass, const struct gf_trade *trade)
{
    for (; pass->dead_at < pass->dead_count && pass->dead[pass->dead_at] < trade->off; pass->dead_at++)
        pass->sum.dead++;
    return pass->dead_at < pass->dead_count && pass->dead[pass->dead_at] == trade->off;
}

static void check_trade(struct pass *pass, const struct gf_trade *trade, const struct gf_sql_result *row)
{
    struct verify *verify = pass->verify;
    uint8_t bytes[GF_TRADE_BYTES];
    bool dead;

    while (pass->at < pass->batch_count && trade->off >= pass->batches[pass->at].next)
        finish_batch(pass);
    verify->totals.trades++;
    if (pass->at == pass->batch_count || trade->off < pass->batches[pass->at].first) {
        gf_verify_fail(verify, VERIFY_OFFSETS, "trade %" PRId32 ":%" PRId64 " is in no batch", pass->log->log, trade->off);
        return;
    }
    gf_sha256_add(pass->sha, bytes, gf_trade_bytes(pass->log->log, trade, bytes));
    dead = is_dead(pass, trade);
    verify->results[VERIFY_OUTCOME].checked++;
    if (trade->outcome != GF_OUTCOME_SETTLED && (trade->amount != 0 || trade->debt_delta != 0 || trade->host_coins != 0))
        gf_verify_fail(verify, VERIFY_OUTCOME, "trade %" PRId32 ":%" PRId64 " is not settled, but moves %" PRId64, pass->log->log,
                       trade->off, trade->amount);
    if (dead && trade->outcome != GF_OUTCOME_INTERNAL_ERROR)
        gf_verify_fail(verify, VERIFY_OUTCOME, "trade %" PRId32 ":%" PRId64 " is of a dead letter, but its outcome is %d", pass->log->log,
                       trade->off, (int)trade->outcome);
    if (trade->outcome == GF_OUTCOME_SETTLED) {
        tally_settled(pass, trade, row);
    } else if (!dead) {
        pass->sum.rejected++;
        verify->totals.rejected++;
    }
}

/* The trade's columns, as read_trade takes them. */
#define TRADE                                                                                                                \
    "t.off, t.user_id, t.request_id, t.kind, t.outcome, t.amount, t.debt_delta, t.seq, t.balance_after, t.prev_log, t.prev_off, " \
    "t.gift_id, t.gift_type, t.quantity, t.price, t.receiver_id, t.room_id, t.host_coins, t.ref, t.fp, t.ts_ms"

static enum gf_class open_trades(struct pass *pass, struct gf_sql_result **result_r)
{
    if (pass->part == NULL)
        return gf_verify_stream(pass->verify, result_r, "SELECT " TRADE " FROM trade t WHERE t.log = %" PRId32 " ORDER BY t.off",
                                pass->log->log);
    return gf_verify_stream(pass->verify, result_r,
                            "SELECT " TRADE ", p.user_id, p.outcome, p.seq, p.balance_after FROM trade t LEFT JOIN trade p "
                            "ON p.log = t.prev_log AND p.off = t.prev_off AND t.outcome = 0 WHERE t.log = %" PRId32
                            " AND t.off >= %" PRId64 " AND t.off < %" PRId64 " ORDER BY t.off",
                            pass->log->log, pass->from, pass->to);
}

static enum gf_class scan_trades(struct pass *pass)
{
    struct gf_sql_result *result;
    struct gf_trade trade;
    enum gf_class class = open_trades(pass, &result);

    if (class != GF_OK)
        return class;
    begin_batch(pass);
    while (gf_sql_next(result)) {
        read_trade(result, &trade);
        check_trade(pass, &trade, result);
    }
    class = gf_verify_end(pass->verify, &result);
    if (class != GF_OK)
        return class; /* cut off: what has no row yet may have one */
    while (pass->at < pass->batch_count)
        finish_batch(pass);
    for (; pass->dead_at < pass->dead_count; pass->dead_at++)
        gf_verify_fail(pass->verify, VERIFY_OFFSETS, "dead letter %" PRId32 ":%" PRId64 " is in no batch", pass->log->log,
                       pass->dead[pass->dead_at]);
    return GF_OK;
}

/* The log's income rows against its trades; then the receiver is ready for the next log. */
static void close_receiver(void *ctx, struct gf_map_node *node)
{
    struct pass *pass = ctx;
    struct verify_receiver *receiver = GF_CONTAINER(node, struct verify_receiver, node);

    if (receiver->income_gross != receiver->trade_gross || receiver->income_host != receiver->trade_host)
        gf_verify_fail(pass->verify, VERIFY_INCOME, "log %" PRId32 ", receiver %" PRIu64 ": income rows sum to %" PRId64 " of %" PRId64
                       ", the trades to %" PRId64 " of %" PRId64, pass->log->log, node->key, receiver->income_host,
                       receiver->income_gross, receiver->trade_host, receiver->trade_gross);
    receiver->total_gross = gf_verify_sum(receiver->total_gross, receiver->income_gross);
    receiver->total_host = gf_verify_sum(receiver->total_host, receiver->income_host);
    receiver->income_gross = receiver->income_host = receiver->trade_gross = receiver->trade_host = 0;
}

static enum gf_class check_log(struct verify *verify, const struct progress *log)
{
    struct pass pass = {.verify = verify, .log = log, .from = -1, .to = INT64_MAX, .sha = gf_sha256_create()};
    int64_t expected_first;
    enum gf_class class = read_batches(&pass);

    if (class == GF_OK)
        class = read_dead(&pass);
    if (class == GF_OK)
        class = read_income(&pass);
    if (class != GF_OK)
        goto out;
    expected_first = pass.batch_count > 0 && pass.batches[0].first > 0 ? pass.batches[0].first : 0;
    for (size_t i = 0; i < pass.batch_count; i++) {
        check_batch_row(&pass, &pass.batches[i], expected_first);
        expected_first = pass.batches[i].next;
    }
    check_progress(&pass);
    class = scan_trades(&pass);
    if (class == GF_OK)
        gf_map_each(&verify->receivers, close_receiver, &pass);
out:
    gf_sha256_destroy(&pass.sha);
    free(pass.batches);
    free(pass.dead);
    return class;
}

/* Rows that no log's pass would come to. */
static enum gf_class check_strays(struct verify *verify)
{
    static const struct {
        const char *table;
        enum verify_check check;
    } tables[] = {{"trade", VERIFY_OFFSETS}, {"batch", VERIFY_OFFSETS}, {"dead_letter", VERIFY_OFFSETS}, {"income", VERIFY_INCOME}};
    enum gf_class class = GF_OK;

    for (size_t i = 0; i < GF_COUNT(tables) && class == GF_OK; i++) {
        struct gf_sql_result *result;

        class = gf_sql_queryf(verify->sql, &result, &verify->error,
                              "SELECT l.log FROM (SELECT DISTINCT log FROM %s) l LEFT JOIN progress p ON p.log = l.log "
                              "WHERE p.log IS NULL", tables[i].table);
        if (class != GF_OK)
            return class;
        while (gf_sql_next(result))
            gf_verify_fail(verify, tables[i].check, "log %" PRId64 " has rows in %s, but there is no such log", gf_sql_i64(result, 0),
                           tables[i].table);
        gf_sql_result_free(&result);
    }
    return class;
}

enum gf_class gf_verify_logs(struct verify *verify)
{
    struct progress *logs = NULL;
    struct gf_sql_result *result;
    size_t count = 0;
    enum gf_class class = gf_sql_queryf(verify->sql, &result, &verify->error,
                                        "SELECT p.log, p.next_offset, p.notified_offset, p.last_hash, r.rolled_offset "
                                        "FROM progress p LEFT JOIN rollup r ON r.log = p.log ORDER BY p.log");

    if (class != GF_OK)
        return class;
    logs = gf_xcalloc((size_t)gf_sql_result_count(result) + 1, sizeof(logs[0]));
    while (gf_sql_next(result)) {
        struct progress *log = &logs[count++];
        size_t len;

        *log = (struct progress){.log = (int32_t)gf_sql_i64(result, 0), .next_offset = gf_sql_i64(result, 1),
                                 .notified_offset = gf_sql_i64(result, 2), .has_hash = !gf_sql_is_null(result, 3),
                                 .rolled = !gf_sql_is_null(result, 4), .rolled_offset = gf_sql_i64(result, 4)};
        if (log->has_hash)
            memcpy(log->last_hash, gf_sql_bytes(result, 3, &len), sizeof(log->last_hash));
    }
    gf_sql_result_free(&result);
    for (size_t i = 0; i < count && class == GF_OK; i++)
        class = check_log(verify, &logs[i]);
    free(logs);
    return class == GF_OK ? check_strays(verify) : class;
}

/* -- a part of a log */

/* As many whole batches as have about part->rows_max offsets, one at least; it ends where they end. */
static void cut_part(struct pass *pass)
{
    struct verify_part *part = pass->part;
    size_t count = 0;

    if (pass->batch_count == 0)
        return;
    if (!part->known)
        pass->from = pass->batches[0].first;
    while (count < pass->batch_count && (count == 0 || pass->batches[count].next - pass->from <= part->rows_max))
        count++;
    pass->batch_count = count;
    pass->to = pass->batches[count - 1].next;
}

/* Where the log stands now against where the part ends. A log that went back was put back from an older copy. */
static void check_end(struct pass *pass)
{
    const struct progress *log = pass->log;
    struct verify *verify = pass->verify;
    const uint8_t *head = pass->batch_count > 0 ? pass->batches[pass->batch_count - 1].hash : pass->part->hash;

    if (pass->to > log->next_offset || (pass->batch_count == 0 && pass->to < log->next_offset && pass->part->known))
        gf_verify_fail(verify, VERIFY_OFFSETS, "log %" PRId32 ": next_offset is %" PRId64 ", the last batch ends at %" PRId64, log->log,
                       log->next_offset, pass->to);
    else if (pass->to == log->next_offset && log->has_hash && memcmp(head, log->last_hash, 32) != 0)
        gf_verify_fail(verify, VERIFY_HASH_CHAIN, "log %" PRId32 ": progress.last_hash is not the last batch's hash", log->log);
}

static void leave_part(struct pass *pass)
{
    struct verify_part *part = pass->part;

    part->rows = 0;
    part->left = pass->log->next_offset - pass->to;
    if (pass->batch_count > 0) {
        part->rows = pass->to - pass->from;
        part->known = true;
        part->from = pass->to;
        memcpy(part->hash, pass->batches[pass->batch_count - 1].hash, sizeof(part->hash));
    } else if (part->known && part->left != 0) { /* told; go on from where the log says it is */
        part->from = pass->log->next_offset;
        memcpy(part->hash, pass->log->last_hash, sizeof(part->hash));
    }
    if (pass->batch_count == 0)
        part->left = 0;
}

static enum gf_class read_progress(struct verify *verify, struct progress *log)
{
    struct gf_sql_result *result;
    size_t len;
    enum gf_class class = gf_sql_queryf(verify->sql, &result, &verify->error,
                                        "SELECT next_offset, last_hash FROM progress WHERE log = %" PRId32, log->log);

    if (class != GF_OK)
        return class;
    if (gf_sql_next(result)) {
        log->next_offset = gf_sql_i64(result, 0);
        log->has_hash = !gf_sql_is_null(result, 1);
        if (log->has_hash)
            memcpy(log->last_hash, gf_sql_bytes(result, 1, &len), sizeof(log->last_hash));
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

enum gf_class gf_verify_part(struct verify *verify, struct verify_part *part)
{
    struct progress log = {.log = part->log};
    struct pass pass = {.verify = verify, .log = &log, .part = part, .from = part->known ? part->from : -1, .sha = gf_sha256_create()};
    int64_t expected_first;
    enum gf_class class = read_progress(verify, &log);

    pass.to = pass.from;
    if (class == GF_OK)
        class = read_batches(&pass);
    if (class != GF_OK)
        goto out;
    cut_part(&pass);
    expected_first = pass.from;
    for (size_t i = 0; i < pass.batch_count; i++) {
        check_batch_row(&pass, &pass.batches[i], expected_first);
        expected_first = pass.batches[i].next;
    }
    if (pass.batch_count > 0)
        class = read_dead(&pass);
    if (class == GF_OK && pass.batch_count > 0)
        class = scan_trades(&pass);
    if (class != GF_OK) { /* the rows come again: those that were seen must not be taken for earlier ones */
        memset(part->heads, 0, VERIFY_HEADS * sizeof(part->heads[0]));
        goto out;
    }
    check_end(&pass);
    leave_part(&pass);
out:
    gf_sha256_destroy(&pass.sha);
    free(pass.batches);
    free(pass.dead);
    return class;
}
