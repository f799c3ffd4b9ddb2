/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Final outcomes of a command (trade.outcome) and reasons of dead letters (dead_letter.reason).
 * Numbers are append-only: they are stored for ever and are part of the contract. Rows stand in order of precedence:
 * when a command breaks several rules, the first row wins. `text` is the stable code that clients see. */
#include "gf/base.h"

/* X(name, number, text, message for people) */
#define GF_OUTCOME_MAP(X)                                                                            \
    X(SETTLED, 0, "settled", "settled")                                                              \
    X(INTERNAL_ERROR, 1, "internal_error", "the request could not be settled")                       \
    X(GIFT_NOT_FOUND, 2, "gift_not_found", "the gift does not exist or is not on sale")              \
    X(PRICE_MISMATCH, 3, "price_mismatch", "the price is not the catalogue's at that time")          \
    X(QUANTITY_OUT_OF_RANGE, 4, "quantity_out_of_range", "the quantity is not allowed for this gift") \
    X(AMOUNT_OUT_OF_RANGE, 5, "amount_out_of_range", "price x quantity is too large")                \
    X(SELF_GIFT, 6, "self_gift", "sender and receiver are the same user")                            \
    X(WALLET_NOT_FOUND, 7, "wallet_not_found", "the sender has no wallet")                           \
    X(WALLET_FROZEN, 8, "wallet_frozen", "the sender's wallet is frozen")                            \
    X(INSUFFICIENT_BALANCE, 9, "insufficient_balance", "the balance is too low")                     \
    X(CREDIT_REFUSED, 10, "credit_refused", "the credit cannot be applied")

/* Why a record is a dead letter. */
#define GF_DEAD_MAP(X)                                                                    \
    X(EMPTY, 1, "empty_record", "the record has no value")                                \
    X(NOT_JSON, 2, "not_json", "the value is not a JSON object of the documented shape")  \
    X(VERSION, 3, "unknown_version", "the record's version is not supported")             \
    X(TYPE, 4, "unknown_type", "the record's type is not supported")                      \
    X(FIELD, 5, "bad_field", "a field is missing, unknown, doubled or out of range")      \
    X(KEY, 6, "foreign_key", "the record's key is not its user id")                       \
    X(PARTITION, 7, "foreign_partition", "the record is not in its key's partition")      \
    X(ID_VERSION, 8, "bad_request_id", "the request id's version is not allowed here")    \
    X(NO_CREDIT, 9, "no_credit", "the credit names no row")                               \
    X(CREDIT_STATE, 10, "bad_credit", "the credit's row does not match or is not payable") \
    X(ID_REUSED, 11, "id_reused", "another command with this id came first")              \
    X(SQL_REFUSED, 12, "sql_refused", "the database refuses the record")                  \
    X(CRASH_LOOP, 13, "crash_loop", "the record stopped its consumer again and again")    \
    X(TOO_LARGE, 14, "too_large", "the record is larger than a command may be")

#define GF_OUTCOME_ENUM(name, number, text, message) GF_OUTCOME_##name = number,
#define GF_DEAD_ENUM(name, number, text, message) GF_DEAD_##name = number,
enum gf_outcome { GF_OUTCOME_MAP(GF_OUTCOME_ENUM) };
enum gf_dead { GF_DEAD_NONE = 0, GF_DEAD_MAP(GF_DEAD_ENUM) };

const char *gf_outcome_text(enum gf_outcome outcome);
const char *gf_outcome_message(enum gf_outcome outcome);
const char *gf_dead_text(enum gf_dead dead);
const char *gf_dead_message(enum gf_dead dead);
