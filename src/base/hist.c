/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear latency histogram. See gf/hist.h. */
#include "gf/hist.h"

#define SUB_COUNT (INT64_C(1) << GF_HIST_SUB_BITS)

/* Values below SUB_COUNT have their own bucket; above, each power of two is cut into SUB_COUNT parts. */
static int bucket_of(int64_t us)
{
    int shift;

    if (us < SUB_COUNT)
        return (int)us;
    shift = 63 - __builtin_clzll((unsigned long long)us) - GF_HIST_SUB_BITS;
    return (int)(((int64_t)shift << GF_HIST_SUB_BITS) + (us >> shift));
}

static int64_t bucket_top(int bucket)
{
    int shift = bucket < 2 * SUB_COUNT ? 0 : (int)(bucket >> GF_HIST_SUB_BITS) - 1;
    int64_t base = bucket - ((int64_t)shift << GF_HIST_SUB_BITS);

    return ((base + 1) << shift) - 1;
}

void gf_hist_add(struct gf_hist *hist, int64_t us)
{
    int bucket;

    if (us < 0)
        us = 0;
    if (us >= INT64_C(1) << 39)
        us = (INT64_C(1) << 39) - 1;
    bucket = bucket_of(us);
    GF_ASSERT(bucket >= 0 && bucket < GF_HIST_BUCKETS);
    hist->bucket[bucket]++;
    hist->count++;
    hist->sum_us += us;
    if (us > hist->max_us)
        hist->max_us = us;
}

void gf_hist_merge(struct gf_hist *into, const struct gf_hist *from)
{
    for (int i = 0; i < GF_HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum_us += from->sum_us;
    if (from->max_us > into->max_us)
        into->max_us = from->max_us;
}

int64_t gf_hist_quantile(const struct gf_hist *hist, double q)
{
    int64_t want, seen = 0;

    GF_ASSERT(q >= 0 && q <= 1);
    if (hist->count == 0)
        return 0;
    want = (int64_t)(q * (double)hist->count + 0.5);
    if (want < 1)
        want = 1;
    for (int i = 0; i < GF_HIST_BUCKETS; i++) {
        seen += hist->bucket[i];
        if (seen >= want)
            return bucket_top(i) < hist->max_us ? bucket_top(i) : hist->max_us;
    }
    return hist->max_us;
}
