/* SPDX-License-Identifier: Apache-2.0 */
/* Gifts per user and second, and double clicks, of one process: used only while Redis is away. A fixed table without
 * chains: two users of one slot push each other out, which lets a gift pass that might have been refused; settlement
 * judges it anyhow. Thread: the loop's. */
#include <stdlib.h>
#include <string.h>

#include "gf/hash.h"
#include "ingest.h"

#define SLOTS 65536 /* a power of two */

struct slot {
    int64_t user_id, second, count;
    int64_t click_ms;
    char fp[GF_FP_TEXT];
};

struct gf_limiter {
    int64_t rate_per_second, double_click_ms;
    struct slot slots[SLOTS];
};

struct gf_limiter *gf_limiter_create(int64_t rate_per_second, int64_t double_click_ms)
{
    struct gf_limiter *limiter = gf_xcalloc(1, sizeof(*limiter));

    limiter->rate_per_second = rate_per_second;
    limiter->double_click_ms = double_click_ms;
    return limiter;
}

enum gf_limited gf_limiter_check(struct gf_limiter *limiter, int64_t user_id, const char *fp, int64_t now_ms)
{
    struct slot *slot = &limiter->slots[gf_hash_u64((uint64_t)user_id) & (SLOTS - 1)];

    if (slot->user_id != user_id)
        *slot = (struct slot){.user_id = user_id, .click_ms = INT64_MIN / 2};
    if (fp && memcmp(slot->fp, fp, GF_FP_TEXT) == 0 && now_ms - slot->click_ms < limiter->double_click_ms)
        return GF_LIMITED_DOUBLE_CLICK;
    if (slot->second != now_ms / 1000) {
        slot->second = now_ms / 1000;
        slot->count = 0;
    }
    if (slot->count >= limiter->rate_per_second)
        return GF_LIMITED_RATE;
    slot->count++;
    if (fp) {
        memcpy(slot->fp, fp, GF_FP_TEXT);
        slot->click_ms = now_ms;
    }
    return GF_LIMITED_NO;
}

void gf_limiter_destroy(struct gf_limiter **limiter)
{
    if (!limiter)
        return;
    free(*limiter);
    *limiter = NULL;
}
