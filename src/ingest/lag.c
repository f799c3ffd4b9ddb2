/* SPDX-License-Identifier: Apache-2.0 */
/* How far settlement is behind what this process has produced: the age of its oldest acknowledged record that no
 * committed transaction has consumed. Once a second progress.next_offset is read; per partition an acknowledged
 * offset is remembered with its time about once a second (lag_max / 32 when that is longer), so the answer is late by that
 * at most. While MySQL is away nothing settles, and the age rightly grows. Thread: the loop's, but read_progress. */
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/metrics.h"
#include "ingest.h"

#define POLL_MS 1000
#define SAMPLE_MIN_MS 1000
#define PARTITIONS_MAX 1024 /* init makes no more; how many it made is pinned, and not this process's configuration */

struct partition {
    struct gf_lag_ring ring;
    int64_t read_log, read_offset; /* of the last poll; written by the job, read when it is done */
};

struct gf_lag {
    struct gf_ingest *ingest;
    struct gf_timer *timer;
    struct gf_job job;
    bool polling;
    int64_t sample_ms;
    int partition_count; /* up to the last one that has acknowledged */
    struct partition partitions[PARTITIONS_MAX];
};

void gf_lag_ring_acked(struct gf_lag_ring *ring, int64_t sample_ms, int64_t offset, int64_t now_ms)
{
    ring->end = offset + 1;
    ring->end_ms = now_ms;
    if (ring->count == GF_LAG_SAMPLES || (ring->count > 0 && now_ms - ring->sampled_ms < sample_ms))
        return;
    ring->samples[(ring->first + ring->count++) % GF_LAG_SAMPLES] = (struct gf_lag_sample){offset, now_ms};
    ring->sampled_ms = now_ms;
}

void gf_lag_ring_settled(struct gf_lag_ring *ring, int64_t log, int64_t next_offset)
{
    if (ring->log != 0 && log != ring->log) {
        ring->count = 0;
        ring->end = 0;
    }
    ring->log = log;
    while (ring->count > 0 && ring->samples[ring->first].offset < next_offset) {
        ring->first = (ring->first + 1) % GF_LAG_SAMPLES;
        ring->count--;
    }
    if (ring->count == 0 && ring->end > next_offset) /* what came since the last sample */
        ring->samples[(ring->first + ring->count++) % GF_LAG_SAMPLES] = (struct gf_lag_sample){ring->end - 1, ring->end_ms};
}

int64_t gf_lag_ring_oldest_ms(const struct gf_lag_ring *ring)
{
    return ring->count > 0 ? ring->samples[ring->first].acked_ms : INT64_MAX;
}

int64_t gf_lag_sample_ms(int64_t lag_max_ms)
{
    int64_t sample_ms = lag_max_ms / (GF_LAG_SAMPLES / 2);

    return sample_ms > SAMPLE_MIN_MS ? sample_ms : SAMPLE_MIN_MS;
}

static struct gf_lag *of_job(struct gf_job *job)
{
    return (struct gf_lag *)(void *)((char *)job - offsetof(struct gf_lag, job));
}

void gf_lag_acked(struct gf_lag *lag, int32_t number, int64_t offset)
{
    if (number < 0 || number >= PARTITIONS_MAX)
        return;
    if (number >= lag->partition_count)
        lag->partition_count = number + 1;
    gf_lag_ring_acked(&lag->partitions[number].ring, lag->sample_ms, offset, gf_clock_mono_ms());
}

int64_t gf_lag_ms(const struct gf_lag *lag)
{
    int64_t oldest_ms = INT64_MAX;

    for (int i = 0; i < lag->partition_count; i++) {
        int64_t acked_ms = gf_lag_ring_oldest_ms(&lag->partitions[i].ring);

        oldest_ms = acked_ms < oldest_ms ? acked_ms : oldest_ms;
    }
    return oldest_ms == INT64_MAX ? 0 : gf_clock_mono_ms() - oldest_ms;
}

/* thread: database */
static enum gf_class read_progress(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_lag *lag = of_job(job);
    const char *topic = lag->ingest->commands_topic;
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 1024);
    gf_buf_adds(&text, "SELECT part, log, next_offset FROM progress WHERE live=1 AND topic=");
    gf_buf_add_xhex(&text, topic, strlen(topic));
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        int64_t number = gf_sql_i64(result, 0);

        if (number < 0 || number >= PARTITIONS_MAX)
            continue;
        lag->partitions[number].read_log = gf_sql_i64(result, 1);
        lag->partitions[number].read_offset = gf_sql_i64(result, 2);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void on_read(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct gf_lag *lag = of_job(job);

    (void)error;
    lag->polling = false;
    for (int i = 0; class == GF_OK && i < lag->partition_count; i++)
        gf_lag_ring_settled(&lag->partitions[i].ring, lag->partitions[i].read_log, lag->partitions[i].read_offset);
}

static void on_timer(void *ctx)
{
    struct gf_lag *lag = ctx;

    gf_metric_set(GF_M_INGEST_LAG_MS, gf_lag_ms(lag));
    if (lag->polling)
        return;
    lag->job = (struct gf_job){.run = read_progress, .on_done = on_read};
    lag->polling = gf_db_submit(lag->ingest->db, &lag->job) == GF_OK;
}

struct gf_lag *gf_lag_start(struct gf_ingest *ingest)
{
    struct gf_lag *lag = gf_xcalloc(1, sizeof(*lag)); /* zero pages until used */

    lag->ingest = ingest;
    lag->sample_ms = gf_lag_sample_ms(ingest->config->ingest_lag_max);
    lag->timer = gf_timer_start(ingest->loop, POLL_MS, POLL_MS, on_timer, lag);
    return lag;
}

/* After gf_db_stop and the producer's end. */
void gf_lag_stop(struct gf_lag **lag)
{
    if (!lag || !*lag)
        return;
    gf_timer_close(&(*lag)->timer);
    free(*lag);
    *lag = NULL;
}
