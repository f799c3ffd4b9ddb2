/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Settlement's side of MySQL: the claim on a log (epoch fence), the transaction of one batch window, and what is read back
 * from trade rows after a crash. Lock order of every transaction here: progress, credit, wallet (sorted).
 * Owns: one connection and the statement buffer. One store per lane; blocking calls. Thread: the lane's.
 * Failures: RETRY and FATAL mean rolled back; UNCERTAIN only from store_settle: call store_lookup before anything else;
 * REJECT means that MySQL refuses what the window holds. */
#include "batch.h"
#include "catalogue.h"
#include "gf/sql.h"

struct store;

/* What this process knows of one log it has claimed. */
struct claim {
    int32_t log, partition, partitions;
    int64_t epoch, next_offset;
    int64_t notified;         /* all notices below are acknowledged by Kafka */
    int64_t notified_written; /* ... and MySQL knows up to here */
    int64_t last_off;         /* last consumed record, -1: none known */
    uint8_t last_fp[BATCH_FP];
    int64_t stalls;
    int precheck; /* so many windows still look for duplicates before they insert (F17) */
};

enum claimed { CLAIMED, CLAIM_NO_LOG };

struct store *store_create(const struct gf_config *config);
void store_destroy(struct store **store);
/* Connects if there is no live connection, and loads the catalogue with it. Fails with RETRY only. */
GF_NODISCARD enum gf_class store_ready(struct store *store, struct gf_error *error_r);
/* Keeps the catalogue fresh and the connection alive; cheap when nothing is due. */
GF_NODISCARD enum gf_class store_poll(struct store *store, struct gf_error *error_r);
struct catalogue *store_catalogue(struct store *store);

struct claim_request {
    const char *topic;
    int32_t partition;
    const char *owner;
};
/* The number of the partition's live log; -1: it has none. */
GF_NODISCARD enum gf_class store_live_log(struct store *store, const struct claim_request *request, int32_t *log_r,
                                          struct gf_error *error_r);
/* F8: takes the live log of this partition over: epoch + 1. Waits up to 15 s for a former owner's transaction. */
GF_NODISCARD enum gf_class store_claim(struct store *store, const struct claim_request *request, struct claim *claim_r,
                                       enum claimed *claimed_r, struct gf_error *error_r);
/* One window in one transaction. *fenced_r: somebody else owns the log now; nothing was written. */
GF_NODISCARD enum gf_class store_settle(struct store *store, struct batch *batch, struct claim *claim, bool *fenced_r,
                                        struct gf_error *error_r);
/* F7: where the log stands, by a locking read on the primary. */
GF_NODISCARD enum gf_class store_lookup(struct store *store, const struct claim *claim, int64_t *next_offset_r,
                                        int64_t *epoch_r, struct gf_error *error_r);
/* Writes claim->notified; a fenced or repeated write changes nothing. */
GF_NODISCARD enum gf_class store_notified(struct store *store, struct claim *claim, struct gf_error *error_r);
/* F12 a: counts this try of `off` before the record is touched. *tries is 0 at first; called again with what it has become, after a
 * failure, it counts the same try, whether or not the lost answer said that it was counted. */
GF_NODISCARD enum gf_class store_try(struct store *store, const struct claim *claim, int64_t off, int64_t *tries,
                                     struct gf_error *error_r);

/* Takes one counted try of `off` back. */
GF_NODISCARD enum gf_class store_untry(struct store *store, const struct claim *claim, int64_t off, struct gf_error *error_r);

struct store_range { /* trade rows [from, to) of a log */
    int32_t log;
    int64_t from, to;
};
typedef void (*store_trade_fn)(void *ctx, const struct gf_trade *trade);
/* In offset order: what notices are made of after a crash. */
GF_NODISCARD enum gf_class store_trades(struct store *store, const struct store_range *range, store_trade_fn on_trade,
                                        void *ctx, struct gf_error *error_r);
typedef void (*store_wallet_fn)(void *ctx, const struct gf_wallet *wallet, const struct gf_uuid *request_id);
/* Each row with its wallet as it is now (ver 0: there is none), in the order of users. */
GF_NODISCARD enum gf_class store_wallets(struct store *store, const struct store_range *range, store_wallet_fn on_wallet,
                                         void *ctx, struct gf_error *error_r);

#ifdef GF_NULL_STORE
/* Benchmark builds only: windows are settled against wallets that do not exist, and nothing is written. Set before lanes start. */
extern bool store_null;
#endif
