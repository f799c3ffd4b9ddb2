/* SPDX-License-Identifier: Apache-2.0 */
/* Strict decimal numbers and the share of a gift. See gf/num.h. */
#include "gf/num.h"

bool gf_num_parse_i64(const char *text, size_t len, int64_t min, int64_t max, int64_t *value_r)
{
    bool negative = len > 0 && text[0] == '-';
    size_t at = negative ? 1 : 0;
    int64_t value = 0;

    if (at >= len || (text[at] == '0' && (len - at > 1 || negative)))
        return false;
    for (; at < len; at++) {
        int digit = text[at] - '0';

        if (digit < 0 || digit > 9 || !gf_money_mul(value, 10, &value))
            return false;
        if (negative ? !gf_money_sub(value, digit, &value) : !gf_money_add(value, digit, &value))
            return false;
    }
    if (value < min || value > max)
        return false;
    *value_r = value;
    return true;
}

int64_t gf_money_share(int64_t amount, int share_bp)
{
    __extension__ __int128 product;

    GF_ASSERT(amount >= 0);
    GF_ASSERT(share_bp >= 0 && share_bp <= 10000);
    product = amount;
    product = product * share_bp / 10000;
    GF_ASSERT(product <= amount);
    return (int64_t)product;
}
