/* SPDX-License-Identifier: Apache-2.0 */
/* See tally.h. Reasons are looked for only in batches that have some. */
#include "tally.h"

#include "gf/metrics.h"

static void tally_rejected(const struct gf_trade *trade)
{
    static const enum gf_metric metrics[] = {
        [GF_OUTCOME_GIFT_NOT_FOUND] = GF_M_REJECTED_GIFT_NOT_FOUND,
        [GF_OUTCOME_PRICE_MISMATCH] = GF_M_REJECTED_PRICE_MISMATCH,
        [GF_OUTCOME_QUANTITY_OUT_OF_RANGE] = GF_M_REJECTED_QUANTITY_OUT_OF_RANGE,
        [GF_OUTCOME_AMOUNT_OUT_OF_RANGE] = GF_M_REJECTED_AMOUNT_OUT_OF_RANGE,
        [GF_OUTCOME_SELF_GIFT] = GF_M_REJECTED_SELF_GIFT,
        [GF_OUTCOME_WALLET_NOT_FOUND] = GF_M_REJECTED_WALLET_NOT_FOUND,
        [GF_OUTCOME_WALLET_FROZEN] = GF_M_REJECTED_WALLET_FROZEN,
        [GF_OUTCOME_INSUFFICIENT_BALANCE] = GF_M_REJECTED_INSUFFICIENT_BALANCE,
        [GF_OUTCOME_CREDIT_REFUSED] = GF_M_REJECTED_CREDIT_REFUSED,
    };

    if (trade->outcome == GF_OUTCOME_SETTLED || trade->outcome == GF_OUTCOME_INTERNAL_ERROR)
        return; /* INTERNAL_ERROR is the row of a dead letter */
    GF_ASSERT(trade->outcome < GF_COUNT(metrics) && metrics[trade->outcome] != 0);
    gf_metric_add(metrics[trade->outcome], 1);
}

static void tally_dead(enum gf_dead reason)
{
    static const enum gf_metric metrics[] = {
        [GF_DEAD_EMPTY] = GF_M_DEAD_EMPTY,
        [GF_DEAD_NOT_JSON] = GF_M_DEAD_NOT_JSON,
        [GF_DEAD_VERSION] = GF_M_DEAD_VERSION,
        [GF_DEAD_TYPE] = GF_M_DEAD_TYPE,
        [GF_DEAD_FIELD] = GF_M_DEAD_FIELD,
        [GF_DEAD_KEY] = GF_M_DEAD_KEY,
        [GF_DEAD_PARTITION] = GF_M_DEAD_PARTITION,
        [GF_DEAD_ID_VERSION] = GF_M_DEAD_ID_VERSION,
        [GF_DEAD_NO_CREDIT] = GF_M_DEAD_NO_CREDIT,
        [GF_DEAD_CREDIT_STATE] = GF_M_DEAD_CREDIT_STATE,
        [GF_DEAD_ID_REUSED] = GF_M_DEAD_ID_REUSED,
        [GF_DEAD_SQL_REFUSED] = GF_M_DEAD_SQL_REFUSED,
        [GF_DEAD_CRASH_LOOP] = GF_M_DEAD_CRASH_LOOP,
        [GF_DEAD_TOO_LARGE] = GF_M_DEAD_TOO_LARGE,
    };

    if (reason == GF_DEAD_NONE)
        return;
    GF_ASSERT(reason < GF_COUNT(metrics) && metrics[reason] != 0);
    gf_metric_add(metrics[reason], 1);
}

static void tally_reasons(const struct batch *batch)
{
    for (int i = 0; i < batch->plan.trade_count && batch->plan.rejected > 0; i++)
        tally_rejected(&batch->plan.trades[i]);
    for (int i = 0; i < batch->planned_count && batch->plan.dead > 0; i++)
        tally_dead(batch->planned[i].dead);
    for (int i = 0; i < batch->n && batch->dead > 0; i++)
        if (batch->fates[i] == FATE_DEAD)
            tally_dead((enum gf_dead)batch->reasons[i]);
}

void tally_batch(const struct batch *batch, int64_t now_ms)
{
    gf_metric_add(GF_M_BATCHES, 1);
    gf_metric_add(GF_M_COMMANDS_SETTLED, batch->plan.settled);
    gf_metric_add(GF_M_COMMANDS_REJECTED, batch->plan.rejected);
    gf_metric_add(GF_M_COMMANDS_DUPLICATE, batch->duplicates);
    gf_metric_add(GF_M_COMMANDS_DEAD, batch->plan.dead + batch->dead);
    gf_histogram_observe_count(GF_H_SETTLE_BATCH, batch->n);
    for (int i = 0; i < batch->n; i++) {
        int64_t age_ms = now_ms - batch_command(batch, i)->append_ms;

        gf_histogram_observe_us(GF_H_SETTLE_AGE_SECONDS, age_ms > 0 ? age_ms * 1000 : 0);
    }
    tally_reasons(batch);
}
