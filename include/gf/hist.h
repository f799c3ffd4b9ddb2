/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Latency histogram, log-linear (HdrHistogram's bucketing, 64 sub-buckets: below 1.6 % error), 1 us .. 2^40 us.
 * Fixed size, no allocation, not thread-safe: one per thread, then gf_hist_merge. */
#include "gf/base.h"

#define GF_HIST_SUB_BITS 6
#define GF_HIST_BUCKETS ((40 - GF_HIST_SUB_BITS + 1) << GF_HIST_SUB_BITS)

struct gf_hist {
    int64_t count, sum_us, max_us;
    int64_t bucket[GF_HIST_BUCKETS];
};

void gf_hist_add(struct gf_hist *hist, int64_t us);
void gf_hist_merge(struct gf_hist *into, const struct gf_hist *from);
int64_t gf_hist_quantile(const struct gf_hist *hist, double q); /* upper bound of the bucket that holds q; 0 if empty */
