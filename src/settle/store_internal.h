/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of the store share: the connection, and statements that outgrow one packet. */
#include "stage.h"
#include "store.h"

#define STATEMENT_MAX (GF_SQL_PACKET_MIN - 64)
#define STATEMENT_FLUSH (3u << 19) /* a multi-row statement is sent when it has grown past this: below 4 MiB in all */
#define WALLETS_PER_SELECT 500     /* longer lists lose the range scan in key order, and with it the lock order */
#define WALLETS_PER_UPDATE 1000
#define ROWS_PER_BULK 1024 /* of one array: longer ones save nothing and their copies cost memory */
#define PAIRS_PER_SELECT 300
#define CREDITS_PER_UPDATE 500
#define PAYLOAD_MAX (1u << 20) /* of a dead letter */

/* A row for a bulk statement: numbers in the order of its ?s. */
struct store_row {
    int64_t n[19];
    uint8_t request_id[16], ref[16], fp[BATCH_FP];
    bool no_ref;
};

struct store {
    const struct gf_config *config;
    struct gf_sql *sql;
    struct catalogue *catalogue;
    struct gf_sql_bulk *insert_trades, *update_wallets; /* NULL: this server takes text only */
    struct store_row *rows;                             /* [ROWS_PER_BULK], for those two */
    struct gf_buf text;
    struct gf_sha256_ctx *sha;
    struct stage_clock stage; /* of the transaction at work */
    int64_t pinged_ms;
};

/* Runs store->text; OK only if exactly `rows` rows were affected (-1: any number). */
enum gf_class store_run(struct store *store, int64_t rows, struct gf_error *error_r);

/* store_write.c: prepares the bulk statements on a new connection; closes them before it is closed. */
enum gf_class store_open_bulk(struct store *store, struct gf_error *error_r);
void store_close_bulk(struct store *store);
/* Closes the connection with all that belongs to it. */
void store_disconnect(struct store *store);

/* store_write.c: what a planned batch writes, in this order. */
enum gf_class store_write(struct store *store, struct batch *batch, int32_t log, struct gf_error *error_r);
/* store_dedupe.c: marks the pairs that `trade` has; all pairs or those of credits only. *found_r counts the new ones. */
enum gf_class store_find_known(struct store *store, struct batch *batch, bool all, int *found_r, struct gf_error *error_r);
