/* SPDX-License-Identifier: Apache-2.0 */
/* Gifts and prices by id and by time. Pure: reads the caller's snapshot, keeps nothing. */
#include "gf/catalogue.h"

const struct gf_gift *gf_catalogue_find(const struct gf_catalogue *catalogue, int32_t gift_id)
{
    int low = 0;
    int high;

    GF_ASSERT(catalogue->gift_count >= 0);
    GF_ASSERT(catalogue->gift_count == 0 || catalogue->gifts != NULL);
    high = catalogue->gift_count;
    while (low < high) {
        int middle = low + (high - low) / 2;

        if (catalogue->gifts[middle].gift_id < gift_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == catalogue->gift_count || catalogue->gifts[low].gift_id != gift_id)
        return NULL;
    return &catalogue->gifts[low];
}

static bool valid_at(const struct gf_price *row, int64_t at_ms)
{
    GF_ASSERT(row->valid_from_ms < row->valid_to_ms);
    GF_ASSERT(row->price > 0);
    return row->valid_from_ms <= at_ms && at_ms < row->valid_to_ms;
}

/* In force at that time, or as good as that (F11). A gift is taken off the shelf by closing its interval, and its last price
 * keeps its grace; an interval that nobody closed does not outlive the status. */
static bool tolerated(const struct gf_catalogue *catalogue, const struct gf_gift *gift, const struct gf_price *row, int64_t append_ms)
{
    GF_ASSERT(catalogue->lead_ms >= 0 && catalogue->lead_ms <= GF_ID_MAX);
    GF_ASSERT(catalogue->grace_ms >= 0 && catalogue->grace_ms <= GF_ID_MAX);
    if (append_ms < 0 || append_ms > GF_ID_MAX)
        return false; /* a record without a usable time has no price; the tolerances below cannot wrap */
    return (gift->status == GF_GIFT_ON_SALE || row->valid_to_ms != INT64_MAX) &&
           row->valid_from_ms <= append_ms + catalogue->lead_ms && append_ms - catalogue->grace_ms < row->valid_to_ms;
}

const struct gf_price *gf_gift_accepts(const struct gf_catalogue *catalogue, const struct gf_gift *gift, int64_t price,
                                       int64_t append_ms)
{
    const struct gf_price *found = NULL;

    for (int i = 0; i < gift->price_count; i++) {
        const struct gf_price *row = &gift->prices[i];

        if (row->price != price || !tolerated(catalogue, gift, row, append_ms))
            continue;
        if (valid_at(row, append_ms))
            return row; /* two rows may have one price and different shares: the one in force goes first */
        found = found ? found : row;
    }
    return found;
}

bool gf_gift_on_sale(const struct gf_catalogue *catalogue, const struct gf_gift *gift, int64_t append_ms)
{
    GF_ASSERT(gift->price_count >= 0);
    GF_ASSERT(gift->price_count == 0 || gift->prices != NULL);
    for (int i = 0; i < gift->price_count; i++)
        if (tolerated(catalogue, gift, &gift->prices[i], append_ms))
            return true;
    return false;
}

const struct gf_price *gf_gift_price(const struct gf_gift *gift, int64_t now_ms)
{
    GF_ASSERT(now_ms >= 0);
    GF_ASSERT(gift->price_count == 0 || gift->prices != NULL);
    for (int i = 0; i < gift->price_count; i++)
        if (valid_at(&gift->prices[i], now_ms))
            return &gift->prices[i];
    return NULL;
}
