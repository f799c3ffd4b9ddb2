/* SPDX-License-Identifier: Apache-2.0 */
/* Random batches against a model that knows nothing of the plan's code: each user's coins as wide integers, one command
 * after the other, linear search everywhere. Prints its seed; `test_settle_property SEED` repeats a run. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "gf/plan.h"

#define USERS 12
#define GIFTS 6
#define BATCHES 2000
#define BATCH_MAX 60
#define CREDITS_MAX 40
#define NOW 10000000

__extension__ typedef __int128 wide;

static uint64_t state;
static uint64_t seed;

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t below(int64_t n)
{
    return (int64_t)(next() % (uint64_t)n);
}

static bool one_in(int64_t n)
{
    return below(n) == 0;
}

#define CHECK(expr) ((expr) ? (void)0 : broken(#expr, __LINE__))

GF_NORETURN static void broken(const char *expr, int line)
{
    fprintf(stderr, "%s:%d: does not hold with seed %" PRIu64 ": %s\n", __FILE__, line, seed, expr);
    exit(1);
}

/* ---- the model */

struct model {
    bool exists, frozen;
    wide balance, debt, spent, recharged;
};
static struct model model[USERS + 1]; /* by user id */

#define PRICES 4
static struct gf_price prices[GIFTS][PRICES];
static struct gf_gift gifts[GIFTS];
static struct gf_catalogue catalogue = {.gifts = gifts, .gift_count = GIFTS, .lead_ms = 5000, .grace_ms = 120000};

/* F11, and the shelf: the row that makes a price good at that time, the one in force before any other, the newer before the older.
 * any: whatever the price. */
static const struct gf_price *model_row(const struct gf_gift *gift, const struct gf_command *c, bool any)
{
    const struct gf_price *best = NULL;
    wide at = c->append_ms;

    for (int i = gift->price_count - 1; i >= 0; i--) { /* the oldest first */
        const struct gf_price *row = &gift->prices[i];
        bool open = row->valid_to_ms == INT64_MAX;

        if ((!any && row->price != c->price) || (open && gift->status != 1))
            continue;
        if (at + 5000 < row->valid_from_ms || (!open && at >= (wide)row->valid_to_ms + 120000))
            continue;
        if (best && best->valid_from_ms <= at && at < best->valid_to_ms)
            continue;
        best = row;
    }
    return best;
}

static enum gf_outcome model_gift(const struct gf_command *c, wide *paid_r, wide *host_r)
{
    struct model *m = &model[c->user_id];
    const struct gf_price *row = NULL;
    const struct gf_gift *gift = NULL;

    for (int i = 0; i < GIFTS; i++)
        if (gifts[i].gift_id == c->gift_id)
            gift = &gifts[i];
    if (!gift || !model_row(gift, c, true))
        return GF_OUTCOME_GIFT_NOT_FOUND;
    row = model_row(gift, c, false);
    if (!row)
        return GF_OUTCOME_PRICE_MISMATCH;
    if (c->quantity <= 0 || c->quantity > (gift->max_quantity < 9999 ? gift->max_quantity : 9999))
        return GF_OUTCOME_QUANTITY_OUT_OF_RANGE;
    *paid_r = (wide)c->price * c->quantity;
    *host_r = *paid_r * row->share_bp / 10000;
    if (*paid_r >= (wide)1 << 53)
        return GF_OUTCOME_AMOUNT_OUT_OF_RANGE;
    if (c->user_id == c->receiver_id)
        return GF_OUTCOME_SELF_GIFT;
    if (!m->exists)
        return GF_OUTCOME_WALLET_NOT_FOUND;
    if (m->frozen)
        return GF_OUTCOME_WALLET_FROZEN;
    if (m->balance < *paid_r)
        return GF_OUTCOME_INSUFFICIENT_BALANCE;
    m->balance -= *paid_r;
    m->spent += *paid_r;
    return GF_OUTCOME_SETTLED;
}

static enum gf_outcome model_credit(enum gf_kind kind, wide coins, struct model *m)
{
    wide part;

    if (kind == GF_KIND_CHARGEBACK) {
        part = coins < m->balance ? coins : m->balance;
        if (m->debt + coins - part >= (wide)1 << 53)
            return GF_OUTCOME_CREDIT_REFUSED;
        m->balance -= part;
        m->debt += coins - part;
        m->frozen = true;
        return GF_OUTCOME_SETTLED;
    }
    if (coins < 0) {
        if (m->frozen)
            return GF_OUTCOME_WALLET_FROZEN;
        if (m->balance + coins < 0)
            return GF_OUTCOME_INSUFFICIENT_BALANCE;
        m->balance += coins;
        return GF_OUTCOME_SETTLED;
    }
    part = coins < m->debt ? coins : m->debt;
    if (m->balance + coins - part >= (wide)1 << 53)
        return GF_OUTCOME_CREDIT_REFUSED;
    m->debt -= part;
    m->balance += coins - part;
    m->recharged += kind == GF_KIND_RECHARGE ? coins : 0;
    return GF_OUTCOME_SETTLED;
}

/* ---- random input */

static struct gf_wallet wallets[USERS];
static struct gf_credit credits[CREDITS_MAX];
static struct gf_command commands[BATCH_MAX];
static struct gf_trade trades[BATCH_MAX];
static struct gf_trade history[BATCHES * BATCH_MAX]; /* by offset */
static int wallet_count, credit_count;
static int64_t next_off, next_credit;

static struct gf_uuid uuid(int version, int64_t number)
{
    struct gf_uuid id = {{0}};

    for (int i = 0; i < 6; i++)
        id.b[i] = (uint8_t)((uint64_t)number >> (8 * (5 - i)));
    id.b[6] = (uint8_t)(version << 4);
    id.b[8] = 0x80;
    return id;
}

/* Rows that follow one another, with gaps or not, around the time of the commands; few prices, so that rows share them. The
 * newest may be open. */
static void make_prices(struct gf_price *rows, int count, int64_t scale)
{
    int64_t end_ms = NOW + below(300000);

    for (int i = 0; i < count; i++) {
        int64_t from_ms = end_ms - 1 - (one_in(3) ? below(10) : below(200000));

        rows[i] = (struct gf_price){.valid_from_ms = from_ms,
                                    .valid_to_ms = i == 0 && !one_in(4) ? INT64_MAX : end_ms,
                                    .price = one_in(2) ? scale : 1 + below(scale),
                                    .share_bp = (int)below(10001)};
        end_ms = one_in(2) ? from_ms : from_ms - below(150000);
    }
}

static void make_catalogue(void)
{
    static const int64_t scale[] = {1, 10, 90, 5000, INT64_C(1) << 40, GF_ID_MAX};

    for (int i = 0; i < GIFTS; i++) {
        gifts[i] = (struct gf_gift){.gift_id = 10 + 3 * i,
                                    .max_quantity = (int32_t)(one_in(2) ? 9999 : 1 + below(50)),
                                    .status = one_in(8) ? 2 : 1,
                                    .prices = prices[i],
                                    .price_count = (int)below(PRICES + 1)};
        make_prices(prices[i], gifts[i].price_count, scale[i]);
    }
}

/* Each batch has its own rows, in the order of their ids; few of them are wrong. */
static void make_credits(void)
{
    credit_count = (int)below(CREDITS_MAX);
    for (int i = 0; i < credit_count; i++) {
        struct gf_credit *credit = &credits[i];

        *credit = (struct gf_credit){.credit_id = uuid(8, ++next_credit),
                                     .user_id = 1 + below(USERS),
                                     .coins = 1 + below(one_in(20) ? GF_ID_MAX : 20000),
                                     .kind = (enum gf_kind)(GF_KIND_RECHARGE + (int)below(4)),
                                     .status = one_in(20) ? 2 : 1};
        if (credit->kind == GF_KIND_ADJUST && one_in(2))
            credit->coins = -credit->coins;
        if (model[credit->user_id].exists)
            continue; /* the store opens the wallet of a credit */
        model[credit->user_id] = (struct model){.exists = true};
        wallets[wallet_count++] = (struct gf_wallet){.user_id = credit->user_id, .ver = 1, .status = 1, .last_off = -1};
    }
    for (int i = 1; i < wallet_count; i++)
        for (int j = i; j > 0 && wallets[j - 1].user_id > wallets[j].user_id; j--) {
            struct gf_wallet swap = wallets[j];

            wallets[j] = wallets[j - 1];
            wallets[j - 1] = swap;
        }
}

/* Often the first or the last millisecond at which one of the gift's rows counts, or the one beside it. */
static int64_t at_edge(const struct gf_gift *gift, int64_t at_ms)
{
    const struct gf_price *row;

    if (gift->price_count == 0 || one_in(2))
        return at_ms;
    row = &gift->prices[below(gift->price_count)];
    if (row->valid_to_ms == INT64_MAX || one_in(2))
        return row->valid_from_ms - below(2) - (one_in(2) ? 5000 : 0);
    return row->valid_to_ms - below(2) + (one_in(2) ? 120000 : 0);
}

static void make_command(struct gf_command *command)
{
    const struct gf_gift *gift = &gifts[below(GIFTS)];

    next_off += 1 + (one_in(10) ? 1 : 0); /* offsets may have gaps */
    *command = (struct gf_command){.off = next_off, .append_ms = NOW, .readable = true, .kind = GF_KIND_GIFT};
    command->request_id = uuid(7, next_off);
    command->user_id = 1 + below(USERS);
    command->receiver_id = one_in(10) ? command->user_id : 500 + below(5);
    command->room_id = 3;
    command->gift_id = one_in(20) ? 11 : gift->gift_id;
    command->price = one_in(20) || gift->price_count == 0 ? below(100) - 50 : gift->prices[below(gift->price_count)].price;
    command->append_ms = at_edge(gift, NOW + below(400000) - 200000);
    command->quantity = (int32_t)(one_in(10) ? below(30000) - 10000 : 1 + below(20));
    if (credit_count > 0 && one_in(4)) {
        const struct gf_credit *credit = &credits[below(credit_count)];

        *command = (struct gf_command){.off = next_off, .append_ms = NOW, .readable = true, .kind = credit->kind};
        command->request_id = one_in(20) ? uuid(8, next_credit + 1 + below(9)) : credit->credit_id;
        command->user_id = one_in(20) ? 1 + below(USERS) : credit->user_id;
    } else if (one_in(25)) {
        command->dead = (enum gf_dead)(GF_DEAD_EMPTY + (int)below(GF_DEAD_TOO_LARGE));
        command->readable = one_in(2);
    }
}

/* ---- the comparison */

struct sums {
    wide debit, credit, host;
    int settled, rejected, dead, rows;
};

static const struct gf_credit *believed(const struct gf_command *command, const bool *used)
{
    for (int i = 0; i < credit_count; i++)
        if (memcmp(&credits[i].credit_id, &command->request_id, 16) == 0)
            return credits[i].user_id == command->user_id && credits[i].kind == command->kind && credits[i].status == 1 &&
                           !used[i]
                       ? &credits[i]
                       : NULL;
    return NULL;
}

static void compare_settled(const struct gf_command *command, const struct gf_trade *trade, struct model before, wide host)
{
    const struct model *after = &model[command->user_id];

    CHECK(trade->amount == after->balance - before.balance);
    CHECK(trade->debt_delta == after->debt - before.debt);
    CHECK(trade->balance_after == after->balance);
    CHECK(trade->host_coins == (command->kind == GF_KIND_GIFT ? host : 0));
    CHECK(trade->off < (int64_t)GF_COUNT(history));
    history[trade->off] = *trade;
}

/* Judges one command with the model and compares the row that the plan made for it. */
static void compare(const struct gf_command *command, bool *used, const struct gf_trade *trade, struct sums *sums)
{
    struct model before = model[command->user_id];
    enum gf_outcome outcome = GF_OUTCOME_INTERNAL_ERROR;
    wide paid = 0, host = 0;
    bool gift = command->kind == GF_KIND_GIFT;
    const struct gf_credit *credit = gift ? NULL : believed(command, used);
    bool dead = gift ? command->dead != GF_DEAD_NONE : !credit; /* of credits the plan says so, and may be wrong */

    if (!gift)
        CHECK((command->dead != GF_DEAD_NONE) == dead);
    if (gift && !dead)
        outcome = model_gift(command, &paid, &host);
    if (credit)
        outcome = model_credit(credit->kind, credit->coins, &model[command->user_id]);
    if (dead) {
        sums->dead++;
        if (!command->readable || command->dead == GF_DEAD_ID_REUSED || !gift)
            return; /* no row */
    } else if (outcome == GF_OUTCOME_SETTLED) {
        sums->settled++;
        if (credit)
            used[credit - credits] = true;
    } else {
        sums->rejected++;
    }
    sums->rows++;
    CHECK(trade->off == command->off && trade->user_id == command->user_id);
    if (trade->outcome != outcome)
        fprintf(stderr, "plan says %s, the model %s\n", gf_outcome_text(trade->outcome), gf_outcome_text(outcome));
    CHECK(trade->outcome == outcome);
    if (outcome != GF_OUTCOME_SETTLED) {
        CHECK(trade->amount == 0 && trade->debt_delta == 0 && trade->host_coins == 0 && trade->prev_off == -1);
        CHECK(trade->balance_after == (before.exists ? before.balance : 0));
        return;
    }
    compare_settled(command, trade, before, host);
    sums->debit += gift ? paid : 0;
    sums->host += gift ? host : 0;
    sums->credit += gift ? 0 : trade->amount;
}

/* Follows each wallet's statement chain to its end: balance and debt are the sums of the trades, versions count down. */
static void check_chains(void)
{
    for (int i = 0; i < wallet_count; i++) {
        wide balance = 0, debt = 0;
        int64_t off = wallets[i].last_off;
        int64_t ver = wallets[i].ver;

        while (off != -1) {
            const struct gf_trade *trade = &history[off];

            CHECK(trade->off == off && trade->user_id == wallets[i].user_id && trade->seq == ver);
            balance += trade->amount;
            debt += trade->debt_delta;
            off = trade->prev_off;
            ver--;
        }
        CHECK(ver == 1);
        CHECK(balance == wallets[i].balance && debt == wallets[i].debt);
    }
}

static void compare_wallets(void)
{
    for (int i = 0; i < wallet_count; i++) {
        const struct model *m = &model[wallets[i].user_id];

        CHECK(wallets[i].balance >= 0 && wallets[i].debt >= 0);
        CHECK(wallets[i].balance == m->balance && wallets[i].debt == m->debt);
        CHECK((wallets[i].status == 2) == m->frozen);
        CHECK(wallets[i].total_spent == (m->spent < INT64_MAX ? m->spent : INT64_MAX));
        CHECK(wallets[i].total_recharged == (m->recharged < INT64_MAX ? m->recharged : INT64_MAX));
    }
}

/* The same batch once more from the same state makes the same rows; from the new state its credits are all refused. */
static void check_repeat(const struct gf_plan_input *input, const struct gf_wallet *before, const struct gf_plan *plan)
{
    static struct gf_command again[BATCH_MAX];
    static struct gf_trade rows[BATCH_MAX];
    struct gf_wallet copy[USERS];
    struct gf_plan_input repeat = *input;
    struct gf_plan second = {.trades = rows};

    memcpy(copy, before, sizeof(copy));
    memcpy(again, commands, sizeof(again));
    for (int i = 0; i < input->command_count; i++)
        if (again[i].kind != GF_KIND_GIFT)
            again[i].dead = GF_DEAD_NONE;
    for (int i = 0; i < credit_count; i++)
        credits[i].credited = false;
    repeat.commands = again;
    repeat.wallets = copy;
    CHECK(gf_settle_plan(&repeat, again, &second));
    CHECK(second.trade_count == plan->trade_count && second.debit == plan->debit && second.credit == plan->credit);
    for (int i = 0; i < plan->trade_count; i++) {
        uint8_t a[GF_TRADE_BYTES], b[GF_TRADE_BYTES];

        CHECK(gf_trade_bytes(3, &trades[i], a) == GF_TRADE_BYTES && gf_trade_bytes(3, &rows[i], b) == GF_TRADE_BYTES);
        CHECK(memcmp(a, b, GF_TRADE_BYTES) == 0);
    }
    for (int i = 0; i < input->command_count; i++)
        if (again[i].kind == GF_KIND_GIFT) {
            again[i].dead = GF_DEAD_NOT_JSON;
            again[i].readable = false;
        } else {
            again[i].dead = GF_DEAD_NONE;
        }
    for (int i = 0; i < credit_count; i++)
        credits[i].status = 2;
    CHECK(gf_settle_plan(&repeat, again, &second));
    CHECK(second.settled == 0 && second.rejected == 0 && second.credit == 0);
}

static void run_batch(void)
{
    struct gf_plan plan = {.trades = trades};
    struct gf_wallet before[USERS];
    struct gf_plan_input input = {.log = 3, .commands = commands, .wallets = wallets, .credits = credits, .catalogue = &catalogue};
    bool used[CREDITS_MAX] = {false};
    struct sums sums = {0};

    make_catalogue();
    make_credits();
    if (wallet_count > 0 && one_in(3)) { /* a person thaws a wallet now and then */
        struct gf_wallet *wallet = &wallets[below(wallet_count)];

        wallet->status = 1;
        model[wallet->user_id].frozen = false;
    }
    input.command_count = (int)below(BATCH_MAX + 1);
    for (int i = 0; i < input.command_count; i++)
        make_command(&commands[i]);
    input.wallet_count = wallet_count;
    input.credit_count = credit_count;
    memcpy(before, wallets, sizeof(before));
    CHECK(gf_settle_plan(&input, commands, &plan));
    for (int i = 0; i < input.command_count; i++)
        compare(&commands[i], used, &trades[sums.rows < plan.trade_count ? sums.rows : 0], &sums);
    CHECK(plan.trade_count == sums.rows);
    CHECK(plan.settled == sums.settled && plan.rejected == sums.rejected && plan.dead == sums.dead);
    CHECK(plan.debit == sums.debit && plan.credit == sums.credit && plan.host == sums.host);
    CHECK(plan.platform == sums.debit - sums.host && plan.platform >= 0);
    for (int i = 0; i < credit_count; i++)
        CHECK(credits[i].credited == used[i]);
    compare_wallets();
    check_repeat(&input, before, &plan);
}

/* 2^63 coins do not fit a batch's sums. Any 1,023 commands do, of whatever kind. */
static void check_limit(enum gf_kind kind, int count, bool fits)
{
    static struct gf_wallet many[1100];
    static struct gf_credit rows[1100];
    static struct gf_command orders[1100];
    static struct gf_trade made[1100];
    const struct gf_price price = {.valid_to_ms = INT64_MAX, .price = GF_ID_MAX, .share_bp = 10000};
    const struct gf_gift gift = {.gift_id = 1, .max_quantity = 1, .status = 1, .prices = &price, .price_count = 1};
    const struct gf_catalogue shop = {.gifts = &gift, .gift_count = 1};
    struct gf_plan plan = {.trades = made};
    const struct gf_plan_input input = {.log = 3, .commands = orders, .command_count = count, .wallets = many, .wallet_count = count,
                                        .credits = rows, .credit_count = kind == GF_KIND_GIFT ? 0 : count, .catalogue = &shop};

    for (int i = 0; i < count; i++) {
        int64_t coins = kind == GF_KIND_ADJUST ? -GF_ID_MAX : GF_ID_MAX;
        bool comes = kind == GF_KIND_RECHARGE || kind == GF_KIND_GIFT_REFUND;

        many[i] = (struct gf_wallet){.user_id = i + 1, .balance = comes ? 0 : GF_ID_MAX, .ver = 1, .status = 1, .last_off = -1};
        rows[i] = (struct gf_credit){.credit_id = uuid(8, i), .user_id = i + 1, .coins = coins, .kind = kind, .status = 1};
        orders[i] = (struct gf_command){.off = i, .append_ms = NOW, .readable = true, .kind = kind, .user_id = i + 1};
        orders[i].request_id = uuid(kind == GF_KIND_GIFT ? 7 : 8, i);
        if (kind == GF_KIND_GIFT)
            orders[i].receiver_id = 5000, orders[i].room_id = 1, orders[i].gift_id = 1, orders[i].price = GF_ID_MAX, orders[i].quantity = 1;
    }
    CHECK(gf_settle_plan(&input, orders, &plan) == fits);
    CHECK(!fits || plan.settled == count);
}

int main(int argc, char **argv)
{
    gf_random_bytes(&seed, sizeof(seed));
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    state = seed;
    printf("seed %" PRIu64 "\n", seed);
    for (int i = 0; i < BATCHES; i++)
        run_batch();
    check_chains();
    for (enum gf_kind kind = GF_KIND_GIFT; kind <= GF_KIND_CHARGEBACK; kind++) {
        check_limit(kind, 1023, true);
        check_limit(kind, 1024, true); /* of 2^53 - 1 each */
        check_limit(kind, 1026, false);
    }
    printf("%d batches agree with the model, offsets up to %" PRId64 "\n", BATCHES, next_off);
    return 0;
}
