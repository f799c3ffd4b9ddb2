/* SPDX-License-Identifier: Apache-2.0 */
/* Strict decimal numbers and the share of a gift. See gf/num.h. */
#include "gf/num.h"

#include <string.h>

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

static const char two_digits[] =
    "0001020304050607080910111213141516171819"
    "2021222324252627282930313233343536373839"
    "4041424344454647484950515253545556575859"
    "6061626364656667686970717273747576777879"
    "8081828384858687888990919293949596979899";

/* From the end, two digits at a time. */
char *gf_num_put(char *at, int64_t value)
{
    uint64_t rest = value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value;
    char digits[GF_NUM_TEXT];
    size_t from = sizeof(digits);

    while (rest >= 100) {
        from -= 2;
        memcpy(digits + from, two_digits + 2 * (rest % 100), 2);
        rest /= 100;
    }
    if (rest >= 10) {
        from -= 2;
        memcpy(digits + from, two_digits + 2 * rest, 2);
    } else {
        digits[--from] = (char)('0' + rest);
    }
    if (value < 0)
        *at++ = '-';
    memcpy(at, digits + from, sizeof(digits) - from);
    return at + (sizeof(digits) - from);
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
