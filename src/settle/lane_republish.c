/* SPDX-License-Identifier: Apache-2.0 */
/* What Redis is told again, from trade rows: each row's hold is released, and its wallet published as it is now. Harmless when
 * repeated: holds go by id, balances by version. Two reasons:
 *  a claim         what the former owner may not have told (F10), before anything new is settled
 *  dropped items   the publisher's ring was full, because Redis was away or slow: a piece per turn, between batches, once the
 *                  ring has room again, so that neither settlement nor new items have to wait for it
 * Which items were dropped is not remembered, only from which offset on that may be: a drop at any primary of several makes
 * every partition publish its range again, to all of them. The range is short (what was in the ring) unless Redis is away for
 * long; then it ends where nobody misses anything: holds end by their deadline, a balance is only believed for a while. */
#include <inttypes.h>

#include "gf/balance.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/point.h"
#include "lane_internal.h"

/* Wallets of so many offsets, or of one batch, are published again at a take-over (F10). The batch is of our own settings: where
 * the former owner's were larger, verify --watch finds the rest. */
#define CLAIM_OFFSETS 20000
#define LOOK_MS 100

void lane_publish(struct lane *lane, const struct publish_item *item)
{
    lane->items[lane->item_count++] = *item;
    if (lane->item_count == LANE_ITEMS)
        lane_publish_end(lane);
}

void lane_publish_end(struct lane *lane)
{
    publisher_add(lane->shared->publisher, lane->items, lane->item_count);
    lane->item_count = 0;
}

void lane_republish_begin(struct lane *lane, struct part *part)
{
    struct publisher_look look = {0};
    int64_t next = part->claim.next_offset;
    int64_t offsets = lane->batch->max > CLAIM_OFFSETS ? lane->batch->max : CLAIM_OFFSETS;

    part->republish = next > offsets ? next - offsets : 0;
    if (part->republish > part->rederive)
        part->republish = part->rederive;
    if (lane->shared->publisher != NULL)
        publisher_look(lane->shared->publisher, &look);
    else
        part->republish = next;
    part->untold = (struct untold){.below = part->republish, .mark = part->republish, .dropped = look.dropped};
}

static void add_item(void *ctx, const struct gf_wallet *wallet, const struct gf_uuid *request_id)
{
    lane_publish(ctx, &(struct publish_item){.user_id = wallet->user_id,
                                             .request_id = *request_id,
                                             .ver = wallet->ver > 0 ? wallet->ver : -1,
                                             .balance = wallet->balance,
                                             .status = wallet->status});
}

/* Moves *from on. False: MySQL did not answer; it is tried again. */
static bool add_piece(struct lane *lane, const struct part *part, int64_t *from, int64_t to)
{
    const struct store_range range = {.log = part->claim.log, .from = *from, .to = to};
    struct gf_error error;

    GF_POINT(settle_republish_before);
    if (store_wallets(lane->store, &range, add_item, lane, &error) != GF_OK) {
        lane->item_count = 0;
        gf_log(GF_WARN, "wallets_not_republished", "partition=%" PRId32 " error=\"%s\"", part->claim.partition, error.text);
        return false;
    }
    lane_publish_end(lane);
    GF_POINT(settle_republish_after);
    *from = to;
    return true;
}

bool lane_republish_claimed(struct lane *lane, struct part *part)
{
    return add_piece(lane, part, &part->republish, lane_piece_end(part->republish, part->recover_to, lane_piece(lane)));
}

/* All that has been settled has been given to the publisher by now. */
static void set_mark(struct part *part, int64_t now_ms)
{
    part->untold.mark = part->claim.next_offset;
    part->untold.mark_ms = now_ms;
}

/* Redis knows what is below the mark, or nobody misses it any more: its holds have ended, and balances that were published
 * before it are not believed any more. */
static bool mark_is_reached(const struct lane *lane, const struct untold *untold, const struct publisher_look *look,
                            int64_t now_ms)
{
    int64_t hold_ms = lane->config->ingest_hold_ttl;

    if (now_ms - untold->mark_ms > (hold_ms > GF_PUBLISHED_FRESH_MS ? hold_ms : GF_PUBLISHED_FRESH_MS))
        return true;
    return untold->from == untold->to && untold->dropped == look->dropped && look->oldest_ms > untold->mark_ms;
}

static void look_for_drops(struct lane *lane, struct part *part, const struct publisher_look *look)
{
    struct untold *untold = &part->untold;
    int64_t now_ms = gf_clock_mono_ms();

    untold->looked_ms = now_ms;
    if (mark_is_reached(lane, untold, look, now_ms)) {
        untold->below = untold->mark;
        set_mark(part, now_ms);
    }
    if (untold->dropped == look->dropped || look->room == 0)
        return;
    untold->dropped = look->dropped;
    untold->from = untold->below;
    untold->to = part->claim.next_offset;
    if (untold->from < untold->to)
        gf_log(GF_WARN, "dropped_publishes_repeated", "partition=%" PRId32 " from=%" PRId64 " to=%" PRId64,
               part->claim.partition, untold->from, untold->to);
}

bool lane_republish_dropped(struct lane *lane, struct part *part)
{
    struct untold *untold = &part->untold;
    struct publisher_look look;
    int64_t step = lane_piece(lane);

    if (lane->shared->publisher == NULL ||
        (untold->from == untold->to && gf_clock_mono_ms() - untold->looked_ms < LOOK_MS))
        return false;
    publisher_look(lane->shared->publisher, &look);
    look_for_drops(lane, part, &look);
    if (untold->from == untold->to || look.room == 0)
        return false;
    if (!add_piece(lane, part, &untold->from, lane_piece_end(untold->from, untold->to, look.room < step ? look.room : step)))
        return false;
    if (untold->from == untold->to)
        set_mark(part, gf_clock_mono_ms());
    return untold->from < untold->to;
}
