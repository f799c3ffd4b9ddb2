/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The rules of money: pure. A batch of commands of one log in offset order, the wallets and credits that it names as locked
 * and read in the settling transaction, and the catalogue go in; trade rows, new wallet values and totals come out.
 * No I/O, clock, globals or allocation: the caller owns every array. protocols.md section 2 step 5. */
#include "gf/catalogue.h"
#include "gf/command.h"

struct gf_wallet {
    int64_t user_id, balance, debt, ver;
    int64_t total_recharged, total_spent;
    int64_t last_off; /* head of the statement chain: last settled trade; -1: none */
    int32_t last_log;
    int32_t status; /* 1 normal, 2 frozen */
    bool dirty;     /* out: the plan changed it */
};

/* A locked credit (or, later, pay_order) row, by credit_id. */
struct gf_credit {
    struct gf_uuid credit_id;
    int64_t user_id, coins; /* adjust: signed; others > 0 */
    enum gf_kind kind;
    int32_t status; /* 1 open, 2 credited, 3 refused */
    bool has_ref;
    struct gf_uuid ref; /* gift refund: the refunded request; recharge, chargeback: the order */
    bool credited;      /* out: this batch credits it */
};

/* One row of `trade`, in the table's column order. */
struct gf_trade {
    int64_t off, user_id;
    struct gf_uuid request_id;
    enum gf_kind kind;
    enum gf_outcome outcome;
    int64_t amount, debt_delta, seq, balance_after;
    int32_t prev_log;
    int64_t prev_off;
    int32_t gift_id, gift_type, quantity;
    int64_t price, receiver_id, room_id, host_coins;
    bool has_ref;
    struct gf_uuid ref;
    uint8_t fp[8];
    int64_t ts_ms; /* the broker's append time */
};

struct gf_plan_input {
    int32_t log;
    const struct gf_command *commands; /* offset order; duplicates already taken out */
    int command_count;
    struct gf_wallet *wallets; /* sorted by user_id, unique; changed in place */
    int wallet_count;
    struct gf_credit *credits; /* sorted by credit_id, unique; `credited` set in place */
    int credit_count;
    const struct gf_catalogue *catalogue;
};

struct gf_plan {
    struct gf_trade *trades; /* caller's array of command_count */
    int trade_count;
    int settled, rejected, dead; /* dead letters are counted here and nowhere else, also when they have a trade row */
    /* Sums of this batch. G1: debit = host + platform; debit counts gifts, credit all other kinds (net: a negative adjustment
     * lowers it), so that the batch's wallets moved by credit - debit. */
    int64_t debit, credit, host, platform;
};

/* `commands` is input->commands. commands[i].dead is set by the plan for credits that name no row or not their own
 * (NO_CREDIT, CREDIT_STATE). A dead letter with a known id leaves a row internal_error (F1), except ID_REUSED and ids of
 * version 8: those belong to credit rows, and a record that is not believed must not use one up (F2).
 * The wallet of each believed credit must be in `wallets`. Asserts G1 before it returns true.
 * False: the batch moves more coins than its sums can hold (1,023 commands always fit), and whatever was written to the
 * wallets, credits and plan means nothing: a shorter batch is to be planned, from rows that were read again. */
GF_NODISCARD bool gf_settle_plan(const struct gf_plan_input *input, struct gf_command *commands, struct gf_plan *plan);

/* The documented byte order of one trade row for batch.hash: columns in the table's order, integers big-endian and as wide
 * as their column, `ref` as a presence byte and 16 bytes. Always GF_TRADE_BYTES long. */
#define GF_TRADE_BYTES 153
size_t gf_trade_bytes(int32_t log, const struct gf_trade *trade, uint8_t bytes_r[GF_TRADE_BYTES]);
