/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics registry: relaxed atomics, rendered as Prometheus text 0.0.4. See gf/metrics.h. */
#include "gf/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "gf/buf.h"

enum kind { KIND_COUNTER, KIND_GAUGE };

struct series {
    enum kind kind;
    const char *family, *labels, *help;
};

#define SERIES_ROW(id, kind, family, labels, help) {KIND_##kind, family, labels, help},
#define HISTOGRAM_ROW(id, family, help) {KIND_COUNTER, family, "", help},
static const struct series series[] = {GF_METRIC_MAP(SERIES_ROW)};
static const struct series histograms[] = {GF_HISTOGRAM_MAP(HISTOGRAM_ROW)};

#define BUCKETS 18 /* 0.25 ms << 0 .. << 17 = 32 s, or 1 .. 131072, and +Inf */
#define FIRST_US 250
struct histogram {
    _Atomic int64_t bucket[BUCKETS + 1];
    _Atomic int64_t sum; /* us, or counts */
};

static _Atomic int64_t values[GF_METRIC_COUNT];
static struct histogram histogram_values[GF_HISTOGRAM_COUNT];

void gf_metric_add(enum gf_metric metric, int64_t delta)
{
    GF_ASSERT(metric < GF_METRIC_COUNT);
    atomic_fetch_add_explicit(&values[metric], delta, memory_order_relaxed);
}

void gf_metric_set(enum gf_metric metric, int64_t value)
{
    GF_ASSERT(metric < GF_METRIC_COUNT);
    atomic_store_explicit(&values[metric], value, memory_order_relaxed);
}

int64_t gf_metric_get(enum gf_metric metric)
{
    GF_ASSERT(metric < GF_METRIC_COUNT);
    return atomic_load_explicit(&values[metric], memory_order_relaxed);
}

static void observe(enum gf_histogram histogram, int64_t value, int64_t first_bucket)
{
    int bucket = 0;

    GF_ASSERT(histogram < GF_HISTOGRAM_COUNT);
    if (value < 0)
        value = 0;
    while (bucket < BUCKETS && value > first_bucket << bucket)
        bucket++;
    atomic_fetch_add_explicit(&histogram_values[histogram].bucket[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram_values[histogram].sum, value, memory_order_relaxed);
}

void gf_histogram_observe_us(enum gf_histogram histogram, int64_t us) { observe(histogram, us, FIRST_US); }

void gf_histogram_observe_count(enum gf_histogram histogram, int64_t count) { observe(histogram, count, 1); }

static bool in_seconds(const struct series *row)
{
    static const char end[] = "_seconds";
    size_t len = strlen(row->family);

    return len > sizeof(end) - 1 && strcmp(row->family + len - (sizeof(end) - 1), end) == 0;
}

static void render_head(struct gf_buf *out, const struct series *row, const char *type)
{
    gf_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", row->family, row->help, row->family, type);
}

static void render_histogram(struct gf_buf *out, const struct series *row, struct histogram *histogram)
{
    double unit = in_seconds(row) ? 1e-6 : 1, first = in_seconds(row) ? FIRST_US : 1;
    int64_t total = 0;

    render_head(out, row, "histogram");
    for (int i = 0; i <= BUCKETS; i++) {
        total += atomic_load_explicit(&histogram->bucket[i], memory_order_relaxed);
        if (i < BUCKETS)
            gf_buf_addf(out, "%s_bucket{le=\"%g\"} %lld\n", row->family, first * unit * (double)(INT64_C(1) << i), (long long)total);
    }
    gf_buf_addf(out, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.6f\n%s_count %lld\n", row->family, (long long)total, row->family,
                (double)atomic_load_explicit(&histogram->sum, memory_order_relaxed) * unit, row->family, (long long)total);
}

static void render_process(const char *role, struct gf_buf *out)
{
    struct rusage usage;
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");

    if (file != NULL) {
        if (fscanf(file, "%*s %ld", &pages) != 1)
            pages = 0;
        (void)fclose(file);
    }
    GF_ASSERT(getrusage(RUSAGE_SELF, &usage) == 0);
    gf_buf_addf(out, "# HELP giftflow_build_info the build that runs\n# TYPE giftflow_build_info gauge\n"
                     "giftflow_build_info{version=\"%s\",role=\"%s\"} 1\n", GF_VERSION, role);
    gf_buf_addf(out, "# HELP process_cpu_seconds_total user and system time\n# TYPE process_cpu_seconds_total counter\n"
                     "process_cpu_seconds_total %.3f\n",
                (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                    (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    gf_buf_addf(out, "# HELP process_resident_memory_bytes resident memory\n# TYPE process_resident_memory_bytes gauge\n"
                     "process_resident_memory_bytes %lld\n", (long long)pages * sysconf(_SC_PAGESIZE));
}

void gf_metrics_render(const char *role, struct gf_buf *out)
{
    for (size_t i = 0; i < GF_COUNT(series); i++) {
        const struct series *row = &series[i];

        if (i == 0 || strcmp(series[i - 1].family, row->family) != 0)
            render_head(out, row, row->kind == KIND_GAUGE ? "gauge" : "counter");
        gf_buf_addf(out, "%s%s%s%s %lld\n", row->family, row->labels[0] ? "{" : "", row->labels, row->labels[0] ? "}" : "",
                    (long long)gf_metric_get((enum gf_metric)i));
    }
    for (size_t i = 0; i < GF_COUNT(histograms); i++)
        render_histogram(out, &histograms[i], &histogram_values[i]);
    render_process(role, out);
}
