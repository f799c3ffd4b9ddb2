/* SPDX-License-Identifier: Apache-2.0 */
/* The byte order of one trade row under batch.hash: every column in the table's order, integers big-endian and as wide as
 * their column (two's complement), BINARY columns as they are, `ref` as one presence byte and 16 bytes (zero when NULL).
 * Part of the contract: programs outside the tree recompute the chain from the table. Pure. */
#include <string.h>

#include "gf/plan.h"

static uint8_t *put(uint8_t *at, int64_t value, int width)
{
    uint64_t bits = (uint64_t)value;

    GF_ASSERT(width >= 1 && width <= 8);
    GF_ASSERT(width == 8 || (value >= -(INT64_C(1) << (8 * width - 1)) && value < INT64_C(1) << (8 * width - 1)));
    for (int i = width - 1; i >= 0; i--) {
        at[i] = (uint8_t)(bits & 0xff);
        bits >>= 8;
    }
    return at + width;
}

static uint8_t *put_bytes(uint8_t *at, const uint8_t *bytes, size_t len)
{
    GF_ASSERT(at != NULL && bytes != NULL);
    GF_ASSERT(len > 0 && len <= 16);
    memcpy(at, bytes, len);
    return at + len;
}

size_t gf_trade_bytes(int32_t log, const struct gf_trade *trade, uint8_t bytes_r[GF_TRADE_BYTES])
{
    static const uint8_t null_ref[16];
    uint8_t *at = bytes_r;

    GF_ASSERT(log >= 0);
    at = put(at, log, 2);
    at = put(at, trade->off, 8);
    at = put(at, trade->user_id, 8);
    at = put_bytes(at, trade->request_id.b, 16);
    at = put(at, trade->kind, 1);
    at = put(at, trade->outcome, 2);
    at = put(at, trade->amount, 8);
    at = put(at, trade->debt_delta, 8);
    at = put(at, trade->seq, 8);
    at = put(at, trade->balance_after, 8);
    at = put(at, trade->prev_log, 2);
    at = put(at, trade->prev_off, 8);
    at = put(at, trade->gift_id, 4);
    at = put(at, trade->gift_type, 1);
    at = put(at, trade->quantity, 4);
    at = put(at, trade->price, 8);
    at = put(at, trade->receiver_id, 8);
    at = put(at, trade->room_id, 8);
    at = put(at, trade->host_coins, 8);
    at = put(at, trade->has_ref ? 1 : 0, 1);
    at = put_bytes(at, trade->has_ref ? trade->ref.b : null_ref, 16);
    at = put_bytes(at, trade->fp, 8);
    at = put(at, trade->ts_ms, 8);
    GF_ASSERT(at == bytes_r + GF_TRADE_BYTES);
    return (size_t)(at - bytes_r);
}
