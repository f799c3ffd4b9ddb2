/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Gifts and their price history, as plain values: what the core judges by. Immutable snapshot once built. */
#include "gf/base.h"

struct gf_price {
    int64_t valid_from_ms, valid_to_ms; /* [from, to); to = INT64_MAX while open */
    int64_t price;
    int share_bp;
};
#define GF_GIFT_ON_SALE 1
struct gf_gift {
    int32_t gift_id;
    int32_t max_quantity;
    int32_t status; /* GF_GIFT_ON_SALE or not */
    int64_t ver;
    const struct gf_price *prices; /* newest first */
    int price_count;
};
struct gf_catalogue { /* gifts sorted by gift_id */
    const struct gf_gift *gifts;
    int gift_count;
    int64_t lead_ms, grace_ms; /* tolerance before valid_from and after valid_to (F11) */
};

/* Binary search; NULL: no such gift. */
const struct gf_gift *gf_catalogue_find(const struct gf_catalogue *catalogue, int32_t gift_id);
/* The price row that makes `price` acceptable at append_ms: valid_from <= append + lead and append < valid_to + grace (F11).
 * A gift that is not on sale has its closed rows alone. NULL: none. */
const struct gf_price *gf_gift_accepts(const struct gf_catalogue *catalogue, const struct gf_gift *gift, int64_t price,
                                       int64_t append_ms);
/* Whether any price could be accepted at that time: not on sale and wrong price are told apart. */
bool gf_gift_on_sale(const struct gf_catalogue *catalogue, const struct gf_gift *gift, int64_t append_ms);
/* The price to ask at now_ms: the row with valid_from <= now < valid_to; NULL: off shelf. */
const struct gf_price *gf_gift_price(const struct gf_gift *gift, int64_t now_ms);
