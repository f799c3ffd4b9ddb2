/* SPDX-License-Identifier: Apache-2.0 */
/* The notices of a partition: made, acknowledged, made again from the rows of `trade`; how far they got is written into MySQL. */
#include <inttypes.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "lane_internal.h"

#define BACKOFF_MS 20
#define NOTIFIED_IDLE_MS 200 /* notified_offset alone is written when this long nothing carried it */

void lane_notify(struct lane *lane, struct part *part)
{
    const struct batch *batch = lane->batch;
    struct tracker *tracker;

    if (!lane->config->settle_notices) {
        part->claim.notified = part->claim.notified_written = batch->next_offset;
        return;
    }
    tracker = notifier_open(lane->notifier, &part->notices, batch->first_offset, batch->next_offset);
    notifier_send_all(lane->notifier, tracker, part->claim.log, &batch->plan, store_catalogue(lane->store));
    notifier_close(lane->notifier, tracker);
}

struct sending {
    struct lane *lane;
    struct tracker *tracker;
    int32_t log;
};

static void send_trade(void *ctx, const struct gf_trade *trade)
{
    struct sending *sending = ctx;

    notifier_send(sending->lane->notifier, sending->tracker, sending->log, trade, store_catalogue(sending->lane->store));
}

void lane_notices_again(struct lane *lane, struct part *part, struct tracker *tracker, int64_t from, int64_t next)
{
    struct sending sending = {.lane = lane, .tracker = tracker, .log = part->claim.log};
    struct store_range range = {.log = part->claim.log, .to = from};
    enum gf_class class = GF_OK;
    struct gf_error error;

    while (range.to < next && class == GF_OK) {
        range.from = range.to;
        range.to = lane_piece_end(range.from, next, lane_piece(lane));
        class = store_trades(lane->store, &range, send_trade, &sending, &error);
    }
    if (class == GF_OK) {
        notifier_close(lane->notifier, tracker);
        return;
    }
    gf_log(GF_WARN, "notices_not_derived", "partition=%" PRId32 " offset=%" PRId64 " error=\"%s\"", part->claim.partition,
           from, error.text);
    notifier_fail(lane->notifier, tracker);
    lane_pause(lane, BACKOFF_MS);
}

void lane_tend_notices(struct lane *lane, struct part *part)
{
    struct tracker *tracker;
    int64_t from, next;

    notice_queue_advance(lane->notifier, &part->notices, &part->claim.notified);
    tracker = notice_queue_again(&part->notices, gf_clock_mono_ms(), &from, &next);
    if (tracker != NULL)
        lane_notices_again(lane, part, tracker, from, next);
}

bool lane_wait_for_notices(struct lane *lane, struct part *part)
{
    uint32_t generation = part->generation;

    while (notifier_blocked(lane->notifier)) {
        if (lane_stopping(lane) || lane->rejoin)
            return false; /* what is taken is read again by the next owner */
        lane_pause(lane, BACKOFF_MS);
        if (!lane_is_mine(part, generation))
            return false;
        lane_tend_notices(lane, part); /* may pause, too */
    }
    return lane_is_mine(part, generation);
}

void lane_write_notified(struct lane *lane, struct part *part)
{
    int64_t now_ms = gf_clock_mono_ms();
    struct gf_error error;

    if (part->claim.notified <= part->claim.notified_written || now_ms - part->notified_ms < NOTIFIED_IDLE_MS)
        return;
    part->notified_ms = now_ms;
    if (store_notified(lane->store, &part->claim, &error) != GF_OK)
        gf_log(GF_WARN, "notified_not_written", "partition=%" PRId32 " error=\"%s\"", part->claim.partition, error.text);
}
