/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Numbers from text and checked arithmetic on money. Money is int64 in the smallest unit; + - * on amounts go through
 * here, so that no amount ever wraps. */
#include "gf/base.h"

/* Decimal digits only (an optional leading '-' for the signed form), no leading zeros, whole text, within [min, max]. */
GF_NODISCARD bool gf_num_parse_i64(const char *text, size_t len, int64_t min, int64_t max, int64_t *value_r);

/* Writes the decimal form, GF_NUM_TEXT characters at most, without a NUL; returns what is behind it. */
#define GF_NUM_TEXT 20
char *gf_num_put(char *at, int64_t value);

GF_NODISCARD static inline bool gf_money_add(int64_t a, int64_t b, int64_t *sum_r)
{
    return !__builtin_add_overflow(a, b, sum_r);
}
GF_NODISCARD static inline bool gf_money_sub(int64_t a, int64_t b, int64_t *diff_r)
{
    return !__builtin_sub_overflow(a, b, diff_r);
}
GF_NODISCARD static inline bool gf_money_mul(int64_t a, int64_t b, int64_t *product_r)
{
    return !__builtin_mul_overflow(a, b, product_r);
}
/* floor(amount * share_bp / 10000) with a 128-bit product (F13); amount >= 0, share_bp in 0..10000. */
int64_t gf_money_share(int64_t amount, int share_bp);

/* User, room and receiver ids: 1..2^53-1. */
static inline bool gf_id_valid(int64_t id) { return id >= 1 && id <= GF_ID_MAX; }
