/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of money. One pass over a batch in offset order: each command is judged first (no state is touched), then
 * either applied to its wallet or recorded as rejected. Every command with a known id leaves one trade row (F1), with
 * these exceptions among dead letters:
 *  - ID_REUSED: the row of the first command with that id stands;
 *  - a version 8 id: such ids belong to `credit` rows. A record that cannot be believed (no row, wrong user, foreign key)
 *    must not use up the id, or a later, valid delivery of that credit would be taken for its duplicate (F2).
 * Pure: the caller's arrays in and out, no I/O, clock, globals or allocation. Amounts only through gf_money_*. */
#include <string.h>

#include "gf/num.h"
#include "gf/plan.h"

#define QUANTITY_MAX 9999

enum wallet_status { WALLET_NORMAL = 1, WALLET_FROZEN = 2 };
enum credit_status { CREDIT_OPEN = 1 };

/* What a command does to its wallet once it is judged settled. */
struct effect {
    int64_t amount; /* signed change of the balance */
    int64_t debt_delta;
    int64_t host; /* gifts: the host's part of -amount */
    int64_t spent, recharged;
    bool freeze;
};

/* For sums that the checks before have already bounded. */
static int64_t money_add(int64_t a, int64_t b)
{
    int64_t sum = 0;
    bool fits = gf_money_add(a, b, &sum);

    GF_ASSERT(fits);
    return sum;
}

static int64_t money_sub(int64_t a, int64_t b)
{
    int64_t difference = 0;
    bool fits = gf_money_sub(a, b, &difference);

    GF_ASSERT(fits);
    return difference;
}

/* Totals are figures for people: they stop at the end of int64 rather than stop money. */
static int64_t total_add(int64_t total, int64_t more)
{
    int64_t sum;

    GF_ASSERT(total >= 0);
    GF_ASSERT(more >= 0);
    return gf_money_add(total, more, &sum) ? sum : INT64_MAX;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct gf_wallet *find_wallet(const struct gf_plan_input *input, int64_t user_id)
{
    int low = 0;
    int high = input->wallet_count;

    GF_ASSERT(high == 0 || input->wallets != NULL);
    GF_ASSERT(gf_id_valid(user_id));
    while (low < high) {
        int middle = low + (high - low) / 2;

        if (input->wallets[middle].user_id < user_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == input->wallet_count || input->wallets[low].user_id != user_id)
        return NULL;
    return &input->wallets[low];
}

static struct gf_credit *find_credit(const struct gf_plan_input *input, const struct gf_uuid *credit_id)
{
    int low = 0;
    int high = input->credit_count;

    GF_ASSERT(high == 0 || input->credits != NULL);
    GF_ASSERT(gf_uuid_version(credit_id) == 8);
    while (low < high) {
        int middle = low + (high - low) / 2;

        if (gf_uuid_compare(&input->credits[middle].credit_id, credit_id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == input->credit_count || gf_uuid_compare(&input->credits[low].credit_id, credit_id) != 0)
        return NULL;
    return &input->credits[low];
}

/* The order of the checks is the order of GF_OUTCOME_MAP. *effect_r is set when the gift is settled. */
static enum gf_outcome judge_gift(const struct gf_plan_input *input, const struct gf_command *command,
                                  const struct gf_wallet *wallet, struct effect *effect_r)
{
    const struct gf_gift *gift = gf_catalogue_find(input->catalogue, command->gift_id);
    const struct gf_price *row;
    int64_t total;

    GF_ASSERT(command->kind == GF_KIND_GIFT);
    if (!gift || !gf_gift_on_sale(input->catalogue, gift, command->append_ms))
        return GF_OUTCOME_GIFT_NOT_FOUND;
    row = gf_gift_accepts(input->catalogue, gift, command->price, command->append_ms);
    if (!row)
        return GF_OUTCOME_PRICE_MISMATCH;
    GF_ASSERT(row->price == command->price && row->price > 0);
    if (command->quantity < 1 || command->quantity > QUANTITY_MAX || command->quantity > gift->max_quantity)
        return GF_OUTCOME_QUANTITY_OUT_OF_RANGE;
    if (!gf_money_mul(command->price, command->quantity, &total) || total > GF_ID_MAX)
        return GF_OUTCOME_AMOUNT_OUT_OF_RANGE;
    if (command->receiver_id == command->user_id)
        return GF_OUTCOME_SELF_GIFT;
    if (!wallet)
        return GF_OUTCOME_WALLET_NOT_FOUND;
    if (wallet->status != WALLET_NORMAL)
        return GF_OUTCOME_WALLET_FROZEN;
    if (wallet->balance < total)
        return GF_OUTCOME_INSUFFICIENT_BALANCE;
    *effect_r = (struct effect){.amount = money_sub(0, total), .host = gf_money_share(total, row->share_bp), .spent = total};
    return GF_OUTCOME_SETTLED;
}

/* Later credits pay debt first. */
static enum gf_outcome judge_payment(const struct gf_credit *credit, const struct gf_wallet *wallet,
                                     struct effect *effect_r)
{
    int64_t repaid = smaller(wallet->debt, credit->coins);
    int64_t amount = money_sub(credit->coins, repaid);
    int64_t after;

    GF_ASSERT(credit->coins > 0);
    GF_ASSERT(repaid >= 0 && amount >= 0);
    if (!gf_money_add(wallet->balance, amount, &after) || after > GF_ID_MAX)
        return GF_OUTCOME_CREDIT_REFUSED;
    *effect_r = (struct effect){.amount = amount,
                                .debt_delta = money_sub(0, repaid),
                                .recharged = credit->kind == GF_KIND_RECHARGE ? credit->coins : 0};
    return GF_OUTCOME_SETTLED;
}

/* What was already spent becomes debt; the wallet is frozen until somebody looks at it. */
static enum gf_outcome judge_chargeback(const struct gf_credit *credit, const struct gf_wallet *wallet,
                                        struct effect *effect_r)
{
    int64_t taken = smaller(wallet->balance, credit->coins);
    int64_t owed = money_sub(credit->coins, taken);
    int64_t after;

    GF_ASSERT(credit->coins > 0);
    GF_ASSERT(taken >= 0 && owed >= 0);
    if (!gf_money_add(wallet->debt, owed, &after) || after > GF_ID_MAX)
        return GF_OUTCOME_CREDIT_REFUSED;
    *effect_r = (struct effect){.amount = money_sub(0, taken), .debt_delta = owed, .freeze = true};
    return GF_OUTCOME_SETTLED;
}

/* An adjustment that takes coins: the only credit that a frozen or an empty wallet stops. */
static enum gf_outcome judge_deduction(const struct gf_credit *credit, const struct gf_wallet *wallet,
                                       struct effect *effect_r)
{
    GF_ASSERT(credit->kind == GF_KIND_ADJUST);
    GF_ASSERT(credit->coins < 0);
    if (wallet->status != WALLET_NORMAL)
        return GF_OUTCOME_WALLET_FROZEN;
    if (money_add(wallet->balance, credit->coins) < 0)
        return GF_OUTCOME_INSUFFICIENT_BALANCE;
    *effect_r = (struct effect){.amount = credit->coins};
    return GF_OUTCOME_SETTLED;
}

static enum gf_outcome judge_credit(const struct gf_credit *credit, const struct gf_wallet *wallet,
                                    struct effect *effect_r)
{
    GF_ASSERT(credit->kind > GF_KIND_GIFT && credit->kind <= GF_KIND_CHARGEBACK);
    GF_ASSERT(wallet->user_id == credit->user_id);
    if (credit->coins == 0 || credit->coins > GF_ID_MAX || credit->coins < -GF_ID_MAX)
        return GF_OUTCOME_CREDIT_REFUSED; /* a row that cannot be meant */
    if (credit->coins < 0 && credit->kind != GF_KIND_ADJUST)
        return GF_OUTCOME_CREDIT_REFUSED;
    if (credit->coins < 0)
        return judge_deduction(credit, wallet, effect_r);
    if (credit->kind == GF_KIND_CHARGEBACK)
        return judge_chargeback(credit, wallet, effect_r);
    return judge_payment(credit, wallet, effect_r);
}

/* The row as it stands when nothing moves: amounts 0, the wallet as it is, the statement chain untouched. */
static void start_trade(const struct gf_command *command, const struct gf_wallet *wallet, struct gf_trade *trade_r)
{
    GF_ASSERT(gf_id_valid(command->user_id));
    GF_ASSERT(command->off >= 0);
    *trade_r = (struct gf_trade){
        .off = command->off,
        .user_id = command->user_id,
        .request_id = command->request_id,
        .kind = command->kind ? command->kind : GF_KIND_GIFT,
        .seq = wallet ? wallet->ver : 0,
        .balance_after = wallet ? wallet->balance : 0,
        .prev_off = -1,
        .gift_id = command->gift_id,
        .gift_type = command->gift_type,
        .quantity = command->quantity,
        .price = command->price,
        .receiver_id = command->receiver_id,
        .room_id = command->room_id,
        .ts_ms = command->append_ms,
    };
    memcpy(trade_r->fp, command->fp, sizeof(trade_r->fp));
}

static void apply(int32_t log, const struct effect *effect, struct gf_wallet *wallet, struct gf_trade *trade)
{
    wallet->balance = money_add(wallet->balance, effect->amount);
    wallet->debt = money_add(wallet->debt, effect->debt_delta);
    GF_ASSERT(wallet->balance >= 0);
    GF_ASSERT(wallet->debt >= 0);
    wallet->total_spent = total_add(wallet->total_spent, effect->spent);
    wallet->total_recharged = total_add(wallet->total_recharged, effect->recharged);
    wallet->ver++;
    if (effect->freeze)
        wallet->status = WALLET_FROZEN;
    wallet->dirty = true;

    trade->amount = effect->amount;
    trade->debt_delta = effect->debt_delta;
    trade->host_coins = effect->host;
    trade->seq = wallet->ver;
    trade->balance_after = wallet->balance;
    trade->prev_log = wallet->last_log;
    trade->prev_off = wallet->last_off;
    wallet->last_log = log;
    wallet->last_off = trade->off;
}

/* Counts the judged command and, when it is settled, moves its coins. False: the batch's sums do not hold them. */
static bool finish(const struct gf_plan_input *input, const struct effect *effect, struct gf_wallet *wallet,
                   struct gf_trade *trade, struct gf_plan *plan)
{
    if (trade->outcome != GF_OUTCOME_SETTLED) {
        GF_ASSERT(trade->amount == 0 && trade->debt_delta == 0 && trade->host_coins == 0);
        plan->rejected++;
        return true;
    }
    GF_ASSERT(wallet != NULL);
    apply(input->log, effect, wallet, trade);
    plan->settled++;
    if (trade->kind == GF_KIND_GIFT) {
        int64_t paid = money_sub(0, trade->amount);
        int64_t platform = money_sub(paid, trade->host_coins);

        GF_ASSERT(paid > 0 && trade->host_coins >= 0 && platform >= 0);
        if (!gf_money_add(plan->debit, paid, &plan->debit))
            return false;
        plan->host = money_add(plan->host, trade->host_coins);
        plan->platform = money_add(plan->platform, platform);
        return true;
    }
    return gf_money_add(plan->credit, trade->amount, &plan->credit);
}

static bool plan_gift(const struct gf_plan_input *input, const struct gf_command *command, struct gf_plan *plan)
{
    struct gf_trade *trade = &plan->trades[plan->trade_count++];
    struct gf_wallet *wallet = find_wallet(input, command->user_id);
    struct effect effect = {0};

    GF_ASSERT(gf_uuid_version(&command->request_id) != 8);
    start_trade(command, wallet, trade);
    trade->outcome = judge_gift(input, command, wallet, &effect);
    return finish(input, &effect, wallet, trade, plan);
}

static void plan_dead(const struct gf_plan_input *input, const struct gf_command *command, struct gf_plan *plan)
{
    struct gf_trade *trade;

    GF_ASSERT(command->dead != GF_DEAD_NONE);
    plan->dead++;
    if (!command->readable || command->dead == GF_DEAD_ID_REUSED || gf_uuid_version(&command->request_id) == 8)
        return;
    trade = &plan->trades[plan->trade_count++];
    start_trade(command, find_wallet(input, command->user_id), trade);
    trade->outcome = GF_OUTCOME_INTERNAL_ERROR;
}

static bool plan_credit(const struct gf_plan_input *input, struct gf_command *command, struct gf_plan *plan)
{
    struct gf_credit *credit = find_credit(input, &command->request_id);
    struct effect effect = {0};
    struct gf_wallet *wallet;
    struct gf_trade *trade;

    if (!credit) {
        command->dead = GF_DEAD_NO_CREDIT;
        plan_dead(input, command, plan);
        return true;
    }
    if (credit->user_id != command->user_id || credit->kind != command->kind || credit->status != CREDIT_OPEN ||
        credit->credited) {
        command->dead = GF_DEAD_CREDIT_STATE;
        plan_dead(input, command, plan);
        return true;
    }
    wallet = find_wallet(input, command->user_id);
    GF_ASSERT(wallet != NULL); /* the store opens the wallet of every credit before it plans */
    GF_ASSERT(command->receiver_id == 0 && command->room_id == 0);
    trade = &plan->trades[plan->trade_count++];
    start_trade(command, wallet, trade);
    trade->has_ref = credit->has_ref;
    trade->ref = credit->ref;
    trade->outcome = judge_credit(credit, wallet, &effect);
    credit->credited = trade->outcome == GF_OUTCOME_SETTLED;
    return finish(input, &effect, wallet, trade, plan);
}

/* Sum of all balances modulo 2^64: differences of such sums are exact. */
static uint64_t balances(const struct gf_plan_input *input)
{
    uint64_t sum = 0;

    for (int i = 0; i < input->wallet_count; i++) {
        const struct gf_wallet *wallet = &input->wallets[i];

        GF_ASSERT(i == 0 || input->wallets[i - 1].user_id < wallet->user_id);
        GF_ASSERT(wallet->balance >= 0 && wallet->debt >= 0);
        sum += (uint64_t)wallet->balance;
    }
    return sum;
}

bool gf_settle_plan(const struct gf_plan_input *input, struct gf_command *commands, struct gf_plan *plan)
{
    uint64_t before = balances(input);
    bool fits = true;

    GF_ASSERT(input->commands == commands);
    GF_ASSERT(input->command_count == 0 || (commands != NULL && plan->trades != NULL));
    *plan = (struct gf_plan){.trades = plan->trades};
    for (int i = 0; i < input->credit_count; i++)
        GF_ASSERT(i == 0 || gf_uuid_compare(&input->credits[i - 1].credit_id, &input->credits[i].credit_id) < 0);
    for (int i = 0; i < input->command_count && fits; i++) {
        GF_ASSERT(i == 0 || commands[i - 1].off < commands[i].off);
        if (commands[i].dead != GF_DEAD_NONE)
            plan_dead(input, &commands[i], plan);
        else if (commands[i].kind == GF_KIND_GIFT)
            fits = plan_gift(input, &commands[i], plan);
        else
            fits = plan_credit(input, &commands[i], plan);
    }
    if (!fits)
        return false;
    GF_ASSERT(plan->settled + plan->rejected + plan->dead == input->command_count);
    GF_ASSERT(plan->trade_count <= input->command_count);
    GF_ASSERT(plan->debit == money_add(plan->host, plan->platform)); /* G1 */
    GF_ASSERT(balances(input) - before + (uint64_t)plan->debit == (uint64_t)plan->credit);
    return true;
}
