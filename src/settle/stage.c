/* SPDX-License-Identifier: Apache-2.0 */
/* The stages' counters. See stage.h. */
#include "stage.h"

#include "gf/clock.h"
#include "gf/metrics.h"

static const struct {
    enum gf_metric wall, cpu;
} counters[STAGE_COUNT] = {
    [STAGE_POLL] = {GF_M_STAGE_POLL, GF_M_STAGE_CPU_POLL},
    [STAGE_DECODE] = {GF_M_STAGE_DECODE, GF_M_STAGE_CPU_DECODE},
    [STAGE_FENCE] = {GF_M_STAGE_FENCE, GF_M_STAGE_CPU_FENCE},
    [STAGE_CREDITS] = {GF_M_STAGE_CREDITS, GF_M_STAGE_CPU_CREDITS},
    [STAGE_WALLETS] = {GF_M_STAGE_WALLETS, GF_M_STAGE_CPU_WALLETS},
    [STAGE_PLAN] = {GF_M_STAGE_PLAN, GF_M_STAGE_CPU_PLAN},
    [STAGE_TRADES] = {GF_M_STAGE_TRADES, GF_M_STAGE_CPU_TRADES},
    [STAGE_UPDATE] = {GF_M_STAGE_UPDATE, GF_M_STAGE_CPU_UPDATE},
    [STAGE_CHAIN] = {GF_M_STAGE_CHAIN, GF_M_STAGE_CPU_CHAIN},
    [STAGE_CLOSE] = {GF_M_STAGE_CLOSE, GF_M_STAGE_CPU_CLOSE},
    [STAGE_COMMIT] = {GF_M_STAGE_COMMIT, GF_M_STAGE_CPU_COMMIT},
    [STAGE_PUBLISH] = {GF_M_STAGE_PUBLISH, GF_M_STAGE_CPU_PUBLISH},
    [STAGE_NOTICES] = {GF_M_STAGE_NOTICES, GF_M_STAGE_CPU_NOTICES},
    [STAGE_ACKS] = {GF_M_STAGE_ACKS, GF_M_STAGE_CPU_ACKS},
};

stage_probe_fn stage_probe;

void stage_start(struct stage_clock *clock)
{
    clock->wall_us = gf_clock_mono_us();
    clock->cpu_us = gf_clock_thread_us();
}

void stage_end(struct stage_clock *clock, enum stage stage)
{
    struct stage_clock before = *clock;

    GF_ASSERT(stage < STAGE_COUNT);
    stage_start(clock);
    gf_metric_add(counters[stage].wall, clock->wall_us - before.wall_us);
    gf_metric_add(counters[stage].cpu, clock->cpu_us - before.cpu_us);
    if (stage_probe != NULL)
        stage_probe(stage);
}
