/* SPDX-License-Identifier: Apache-2.0 */
/* Runs tests/core/settle_plan.tbl (its head explains the lines). Prints file:line of every line that does not hold and
 * fails when an outcome has no line at all. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/num.h"
#include "gf/plan.h"

#define TABLE GF_SOURCE_DIR "/tests/core/settle_plan.tbl"
#define MANY 32
#define LOG 3
#define UNSET INT64_MIN

struct line {
    int number;
    char left[256], right[256]; /* of the arrow */
};

static struct {
    char name[128];
    struct gf_wallet wallets[MANY];
    struct gf_gift gifts[MANY];
    struct gf_price prices[MANY][MANY];
    struct gf_credit credits[MANY];
    struct gf_command commands[MANY];
    struct line expected[MANY]; /* by command */
    struct line after[MANY];
    int wallet_count, gift_count, credit_count, command_count, after_count;
} now;

static int failures, checks;
static bool outcome_seen[64], dead_seen[64];

static void wrong(const struct line *line, const char *what, int64_t got, int64_t want)
{
    failures++;
    fprintf(stderr, "%s:%d: %s is %" PRId64 ", expected %" PRId64 " (case: %s)\n", TABLE, line->number, what, got, want, now.name);
}

static void malformed(const struct line *line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n", TABLE, line->number, what);
    exit(2);
}

/* The value of ` name=` in the text; `absent` when it is not there. LOG/OFF is log * 2^40 + off. */
static int64_t value(const char *text, const char *name, int64_t absent)
{
    char pattern[64];
    const char *at;
    char *end;
    int64_t number;

    snprintf(pattern, sizeof(pattern), " %s=", name);
    at = strstr(text, pattern);
    if (!at)
        return absent;
    number = strtoll(at + strlen(pattern), &end, 10);
    if (*end == '/')
        number = number * (INT64_C(1) << 40) + strtoll(end + 1, NULL, 10);
    return number;
}

static int64_t place(int32_t log, int64_t off)
{
    return log * (INT64_C(1) << 40) + off;
}

static void expect(const struct line *line, const char *text, const char *name, int64_t got)
{
    int64_t want = value(text, name, UNSET);

    if (want == UNSET)
        return;
    checks++;
    if (got != want)
        wrong(line, name, got, want);
}

static struct gf_uuid uuid(int version, int64_t number)
{
    struct gf_uuid id = {{0}};

    for (int i = 0; i < 6; i++)
        id.b[i] = (uint8_t)((uint64_t)number >> (8 * (5 - i)));
    id.b[6] = (uint8_t)(version << 4);
    id.b[8] = 0x80;
    return id;
}

static enum gf_kind kind_of(const struct line *line)
{
    for (enum gf_kind kind = GF_KIND_GIFT; kind <= GF_KIND_CHARGEBACK; kind++) {
        char text[64];

        snprintf(text, sizeof(text), "kind=%s", gf_kind_text(kind));
        if (strstr(line->left, text) && !(kind == GF_KIND_GIFT && strstr(line->left, "kind=gift_refund")))
            return kind;
    }
    malformed(line, "no kind");
    return GF_KIND_GIFT;
}

static void add_wallet(const struct line *line, int64_t id)
{
    struct gf_wallet *wallet = &now.wallets[now.wallet_count++];
    int64_t last = value(line->left, "last", UNSET);

    *wallet = (struct gf_wallet){.user_id = id,
                                 .balance = value(line->left, "balance", 0),
                                 .debt = value(line->left, "debt", 0),
                                 .ver = value(line->left, "ver", 1),
                                 .status = value(line->left, "frozen", 0) ? 2 : 1,
                                 .last_off = -1};
    if (last != UNSET) {
        wallet->last_log = (int32_t)(last >> 40);
        wallet->last_off = last & ((INT64_C(1) << 40) - 1);
    }
}

static void add_price(const struct line *line, int64_t id)
{
    long long price;

    for (int i = 0; i < now.gift_count; i++) {
        struct gf_gift *gift = &now.gifts[i];

        if (gift->gift_id != id || sscanf(line->left, "price %*d %lld", &price) != 1)
            continue;
        now.prices[i][gift->price_count++] = (struct gf_price){.price = price,
                                                               .share_bp = (int)value(line->left, "share", 5000),
                                                               .valid_from_ms = value(line->left, "from", 0),
                                                               .valid_to_ms = value(line->left, "to", INT64_MAX)};
        return;
    }
    malformed(line, "price of no gift");
}

static struct gf_command *add_command(const struct line *line, int64_t user)
{
    struct gf_command *command = &now.commands[now.command_count];

    if (line->right[0] == 0)
        malformed(line, "a command without an expected outcome");
    now.expected[now.command_count] = *line;
    *command = (struct gf_command){.off = 100 + now.command_count,
                                   .append_ms = value(line->left, "at", 1000000),
                                   .readable = true,
                                   .kind = GF_KIND_GIFT,
                                   .request_id = uuid(7, 1000 + now.command_count),
                                   .user_id = user};
    now.command_count++;
    return command;
}

static void add_dead(const struct line *line)
{
    struct gf_command *command = add_command(line, value(line->left, "user", 0));
    char reason[64];

    if (sscanf(line->left, "dead %63s", reason) != 1)
        malformed(line, "no reason");
    command->readable = value(line->left, "readable", 0) != 0;
    command->request_id = uuid((int)value(line->left, "version", 7), command->off);
    for (int i = 1; i < 64 && command->dead == GF_DEAD_NONE; i++)
        if (strcmp(gf_dead_text((enum gf_dead)i), reason) == 0)
            command->dead = (enum gf_dead)i;
    if (command->dead == GF_DEAD_NONE)
        malformed(line, "unknown reason");
}

static void add_line(const struct line *line)
{
    char verb[16] = "";
    long long id = 0;
    struct gf_command *command;

    (void)sscanf(line->left, "%15s %lld", verb, &id); /* `sums`, `after` and `dead` have no number */
    if (now.command_count == MANY || now.wallet_count == MANY || now.after_count == MANY || now.credit_count == MANY)
        malformed(line, "too many lines in one case");
    if (strcmp(verb, "wallet") == 0) {
        add_wallet(line, id);
    } else if (strcmp(verb, "gift") == 0) {
        now.gifts[now.gift_count] = (struct gf_gift){.gift_id = (int32_t)id,
                                                     .max_quantity = (int32_t)value(line->left, "max", 9999),
                                                     .status = (int32_t)value(line->left, "status", 1),
                                                     .prices = now.prices[now.gift_count]};
        now.gift_count++;
    } else if (strcmp(verb, "price") == 0) {
        add_price(line, id);
    } else if (strcmp(verb, "credit") == 0) {
        now.credits[now.credit_count++] = (struct gf_credit){.credit_id = uuid(8, id),
                                                             .user_id = value(line->left, "user", 0),
                                                             .coins = value(line->left, "coins", 0),
                                                             .kind = kind_of(line),
                                                             .status = (int32_t)value(line->left, "status", 1),
                                                             .has_ref = value(line->left, "ref", 0) != 0,
                                                             .ref = uuid(7, value(line->left, "ref", 0))};
    } else if (strcmp(verb, "send") == 0) {
        command = add_command(line, id);
        command->receiver_id = value(line->left, "to", 0);
        command->room_id = value(line->left, "room", 3);
        command->gift_id = (int32_t)value(line->left, "gift", 0);
        command->price = value(line->left, "price", 0);
        command->quantity = (int32_t)value(line->left, "qty", 1);
    } else if (strcmp(verb, "apply") == 0) {
        command = add_command(line, value(line->left, "user", 0));
        command->kind = kind_of(line);
        command->request_id = uuid(8, id);
    } else if (strcmp(verb, "dead") == 0) {
        add_dead(line);
    } else if (strcmp(verb, "after") == 0 || strcmp(verb, "sums") == 0) {
        now.after[now.after_count++] = *line;
    } else {
        malformed(line, "unknown line");
    }
}

static void check_row(const struct line *line, const struct gf_trade *trade)
{
    char outcome[64];

    checks++;
    if (sscanf(line->right, "%63s", outcome) != 1 || strcmp(gf_outcome_text(trade->outcome), outcome) != 0) {
        failures++;
        fprintf(stderr, "%s:%d: outcome is %s, expected %s (case: %s)\n", TABLE, line->number, gf_outcome_text(trade->outcome),
                outcome, now.name);
    }
    outcome_seen[trade->outcome] = true;
    expect(line, line->right, "amount", trade->amount);
    expect(line, line->right, "debt", trade->debt_delta);
    expect(line, line->right, "seq", trade->seq);
    expect(line, line->right, "balance", trade->balance_after);
    expect(line, line->right, "host", trade->host_coins);
    expect(line, line->right, "prev", place(trade->prev_log, trade->prev_off));
    if (value(line->right, "ref", 0)) {
        struct gf_uuid want = uuid(7, value(line->right, "ref", 0));

        expect(line, " ref=1", "ref", trade->has_ref && gf_uuid_compare(&trade->ref, &want) == 0);
    }
}

/* The row repeats what was asked for, whatever became of it. */
static void check_copy(const struct line *line, const struct gf_command *command, const struct gf_trade *trade)
{
    bool same = trade->user_id == command->user_id && trade->kind == command->kind && trade->price == command->price &&
                trade->gift_id == command->gift_id && trade->quantity == command->quantity &&
                trade->receiver_id == command->receiver_id && trade->room_id == command->room_id &&
                trade->ts_ms == command->append_ms && gf_uuid_compare(&trade->request_id, &command->request_id) == 0;

    if (!same)
        wrong(line, "copy of the command", 0, 1);
}

static void check_commands(const struct gf_plan *plan)
{
    int row = 0;

    for (int i = 0; i < now.command_count; i++) {
        const struct line *line = &now.expected[i];
        const struct gf_trade *trade = NULL;
        char reason[64];

        if (row < plan->trade_count && plan->trades[row].off == now.commands[i].off)
            trade = &plan->trades[row++];
        checks++;
        if (strncmp(line->right, "no row", 6) == 0 || sscanf(line->right, "dead %63s", reason) == 1) {
            if (trade)
                wrong(line, "number of rows", 1, 0);
            if (line->right[0] == 'd' && strcmp(gf_dead_text(now.commands[i].dead), reason) != 0)
                wrong(line, "dead reason", (int64_t)now.commands[i].dead, -1);
            dead_seen[now.commands[i].dead] = true;
        } else if (!trade) {
            wrong(line, "number of rows", 0, 1);
        } else {
            check_row(line, trade);
            check_copy(line, &now.commands[i], trade);
        }
    }
    if (row != plan->trade_count)
        wrong(&now.expected[0], "rows without a command", plan->trade_count - row, 0);
}

static void check_wallet(const struct line *line, int64_t id)
{
    for (int i = 0; i < now.wallet_count; i++) {
        const struct gf_wallet *wallet = &now.wallets[i];

        if (wallet->user_id != id)
            continue;
        expect(line, line->left, "balance", wallet->balance);
        expect(line, line->left, "debt", wallet->debt);
        expect(line, line->left, "ver", wallet->ver);
        expect(line, line->left, "frozen", wallet->status == 2);
        expect(line, line->left, "spent", wallet->total_spent);
        expect(line, line->left, "recharged", wallet->total_recharged);
        expect(line, line->left, "dirty", wallet->dirty);
        expect(line, line->left, "last", place(wallet->last_log, wallet->last_off));
        return;
    }
    malformed(line, "no such wallet");
}

static void check_after(const struct line *line, const struct gf_plan *plan)
{
    long long id;

    if (sscanf(line->left, "after wallet %lld", &id) == 1) {
        check_wallet(line, id);
    } else if (sscanf(line->left, "after credit %lld", &id) == 1) {
        struct gf_uuid credit_id = uuid(8, id);

        for (int i = 0; i < now.credit_count; i++)
            if (gf_uuid_compare(&now.credits[i].credit_id, &credit_id) == 0)
                expect(line, line->left, "credited", now.credits[i].credited);
    } else {
        expect(line, line->left, "settled", plan->settled);
        expect(line, line->left, "rejected", plan->rejected);
        expect(line, line->left, "dead", plan->dead);
        expect(line, line->left, "debit", plan->debit);
        expect(line, line->left, "credit", plan->credit);
        expect(line, line->left, "host", plan->host);
        expect(line, line->left, "platform", plan->platform);
    }
}

static void run_case(void)
{
    struct gf_trade trades[MANY];
    struct gf_catalogue catalogue = {.gifts = now.gifts, .gift_count = now.gift_count, .lead_ms = 5000, .grace_ms = 120000};
    struct gf_plan plan = {.trades = trades};
    struct gf_plan_input input = {.log = LOG,
                                  .commands = now.commands,
                                  .command_count = now.command_count,
                                  .wallets = now.wallets,
                                  .wallet_count = now.wallet_count,
                                  .credits = now.credits,
                                  .credit_count = now.credit_count,
                                  .catalogue = &catalogue};

    GF_ASSERT(gf_settle_plan(&input, now.commands, &plan));
    check_commands(&plan);
    for (int i = 0; i < now.after_count; i++)
        check_after(&now.after[i], &plan);
}

static void check_coverage(void)
{
#define SEEN(name, number, text, message)                                      \
    if (!outcome_seen[number]) {                                               \
        failures++;                                                            \
        fprintf(stderr, "%s: no line expects the outcome %s\n", TABLE, text);  \
    }
    GF_OUTCOME_MAP(SEEN)
#undef SEEN
    if (!dead_seen[GF_DEAD_NO_CREDIT] || !dead_seen[GF_DEAD_CREDIT_STATE]) {
        failures++;
        fprintf(stderr, "%s: no line expects a dead credit\n", TABLE);
    }
}

int main(void)
{
    FILE *file = fopen(TABLE, "r");
    char text[512];
    int cases = 0;
    struct line line = {0};

    if (!file) {
        perror(TABLE);
        return 2;
    }
    while (fgets(text, sizeof(text), file)) {
        char *arrow;

        line.number++;
        text[strcspn(text, "\n")] = 0;
        if (text[0] == 0 || text[0] == '#')
            continue;
        if (strncmp(text, "case ", 5) == 0) {
            if (cases++)
                run_case();
            memset(&now, 0, sizeof(now));
            snprintf(now.name, sizeof(now.name), "%.127s", text + 5);
            continue;
        }
        arrow = strstr(text, " -> ");
        snprintf(line.right, sizeof(line.right), "%s", arrow ? arrow + 4 : "");
        if (arrow)
            *arrow = 0;
        snprintf(line.left, sizeof(line.left), "%.255s", text);
        add_line(&line);
    }
    run_case();
    fclose(file);
    check_coverage();
    printf("%d cases, %d checks, %d failures\n", cases, checks, failures);
    return failures ? 1 : 0;
}
