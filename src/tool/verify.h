/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* `giftflow verify`: the checks, their results, and what its files share. Private to src/tool.
 * Threads: one. Everything is read in one snapshot of MySQL, so a live system may go on meanwhile; Redis is read before the
 * snapshot is taken, so that it can never rightly be ahead of it. */
#include "gf/map.h"
#include "gf/plan.h"
#include "gf/sql.h"

/* X(id, name, what holds): in the order of the report. Names are a contract of --json. */
#define VERIFY_CHECKS(X)                                                                                              \
    X(WALLET_BALANCE, "wallet_balance", "each balance is the sum of the wallet's trades")                             \
    X(WALLET_DEBT, "wallet_debt", "each debt is the sum of the wallet's debt deltas, and paid first")                 \
    X(WALLET_SIGN, "wallet_not_negative", "no balance and no debt is negative, or ever was")                          \
    X(WALLET_TOTALS, "wallet_totals", "total_spent and total_recharged are the sums of gifts and recharges")          \
    X(STATEMENT, "statement_chain", "each settled row follows the wallet's previous one, and the wallet names the last") \
    X(OUTCOME, "outcome_rows", "a row that is not settled moves nothing")                                             \
    X(OFFSETS, "offsets", "each consumed offset is a trade, a duplicate or a dead letter")                            \
    X(BATCH_SUMS, "batch_sums", "per batch: debit = host + platform, and the sums are those of its trades")           \
    X(HASH_CHAIN, "hash_chain", "each batch hash covers the previous one and the batch's rows")                       \
    X(GIFT_PRICE, "gift_price", "each gift cost a price of the catalogue, and the host got its share of it")          \
    X(CREDITS, "credits", "a credit is credited with its coins, refused or open, as its trade says")         \
    X(INCOME, "income", "the income rows of each log are its rolled-up trades")                                       \
    X(INCOME_ACCOUNT, "income_account", "each income account is the sum of its income rows")                          \
    X(REDIS_BALANCE, "redis_balance", "no cached wallet is ahead of MySQL or differs at the same version")            \
    X(REDIS_HOLDS, "redis_holds", "held coins are the sum of the holds")

#define VERIFY_ENUM(id, name, what) VERIFY_##id,
enum verify_check { VERIFY_CHECKS(VERIFY_ENUM) VERIFY_COUNT };

#define VERIFY_EXAMPLES 10

struct verify_result {
    int64_t checked, violations;
    char *examples[VERIFY_EXAMPLES];
    const char *skipped; /* why it was not made; NULL: it was */
};

/* What a user's settled trades add up to, in the order in which they were settled. */
struct verify_user {
    struct gf_map_node node; /* key: user id */
    int64_t balance, debt, spent, recharged;
    int64_t last_seq, last_off;
    int32_t last_log;
    bool seen; /* has a wallet */
};

/* One receiver's income: of the log at hand, and of all logs. */
struct verify_receiver {
    struct gf_map_node node; /* key: receiver id */
    int64_t trade_gross, trade_host;
    int64_t income_gross, income_host;
    int64_t total_gross, total_host;
    bool seen; /* has an account */
};

struct verify_cached { /* one wallet as Redis has it */
    int64_t user_id, ver, balance, status;
    bool loaded;      /* has a balance and a version */
    bool holds_wrong; /* they do not add up */
};

/* The last row that was seen of a user; a table of them keeps as many as it has places, the newest of each. */
#define VERIFY_HEADS (1 << 20)
struct verify_head {
    int64_t user_id, off;
    int32_t log;
};

/* Some whole batches of one log: what --watch looks at in one snapshot, and where it goes on. */
struct verify_part {
    int32_t log;
    bool known;       /* from and hash are; else it begins with the log's first batch, whatever its offset */
    int64_t from;     /* where the batches looked at so far end */
    uint8_t hash[32]; /* of the last of them */
    struct verify_head *heads;
    int64_t rows_max; /* about as many offsets at once, one batch at least */
    int64_t rows, left; /* out: offsets looked at this time, and those still to come */
};

struct verify_totals {
    int64_t wallets, trades, settled, rejected, duplicates, dead;
    int64_t coins, debit, credit, host, platform;
    int64_t credits_settled; /* settled trades that name a row of `credit` */
};

struct verify {
    const struct gf_config *config;
    struct gf_sql *sql;
    struct verify_result results[VERIFY_COUNT];
    struct verify_totals totals;
    struct gf_map users, receivers;
    struct gf_catalogue catalogue;
    struct verify_cached *cached; /* sorted by user id */
    size_t cached_count, cached_cap;
    char *redis_error; /* why Redis could not be read; NULL: it could */
    void (*on_fail)(enum verify_check check, const char *text); /* --watch; may be NULL */
    struct gf_error error;
};

void gf_verify_fail(struct verify *verify, enum verify_check check, const char *fmt, ...) GF_PRINTF(3, 4);
/* Sums of what a corrupt table holds may overflow: they stop at the ends instead, and so differ from any good value. */
int64_t gf_verify_sum(int64_t a, int64_t b);
/* GF_OK with the rows to read until gf_sql_next is false; then gf_verify_end frees them and tells whether that was the end. */
GF_NODISCARD enum gf_class gf_verify_stream(struct verify *verify, struct gf_sql_result **result_r, const char *fmt, ...)
    GF_PRINTF(3, 4);
GF_NODISCARD enum gf_class gf_verify_end(struct verify *verify, struct gf_sql_result **result);

/* A walk over the cached wallets by SCAN; what it reads is added to verify->cached. Any failure: open another one. */
struct verify_scan;
struct gf_redis_sync;
GF_NODISCARD enum gf_class gf_verify_scan_open(struct verify *verify, struct verify_scan **scan_r);
GF_NODISCARD enum gf_class gf_verify_scan_page(struct verify_scan *scan, bool *more_r); /* after the last: the first again */
GF_NODISCARD enum gf_class gf_verify_scan_users(struct verify_scan *scan, const int64_t *users, size_t count); /* these only */
struct gf_redis_sync *gf_verify_scan_link(struct verify_scan *scan, int64_t user_id); /* to the user's primary */
void gf_verify_scan_close(struct verify_scan **scan); /* NULL-safe */
void gf_verify_sort_cached(struct verify *verify);    /* by user; SCAN may have returned a key twice */

/* The passes, in this order. Anything but GF_OK: could not check. */
void gf_verify_read_redis(struct verify *verify); /* sets redis_error itself */
GF_NODISCARD enum gf_class gf_verify_catalogue(struct verify *verify);
GF_NODISCARD enum gf_class gf_verify_logs(struct verify *verify);
GF_NODISCARD enum gf_class gf_verify_wallets(struct verify *verify);
GF_NODISCARD enum gf_class gf_verify_credits(struct verify *verify);
GF_NODISCARD enum gf_class gf_verify_accounts(struct verify *verify);
void gf_verify_free_catalogue(struct verify *verify);
void gf_verify_free(struct verify *verify);

/* In the snapshot that the caller has taken; verify->catalogue is of it or a later one. */
GF_NODISCARD enum gf_class gf_verify_part(struct verify *verify, struct verify_part *part);
const char *gf_verify_check_name(enum verify_check check);

/* `verify --watch`: until SIGTERM; returns the exit status. */
struct verify_watch_options {
    bool redis;
    int64_t interval_s;
    int64_t rate; /* rows a second, at most */
};
int gf_verify_watch(const struct gf_config *config, const struct verify_watch_options *options);
