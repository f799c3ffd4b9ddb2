/* SPDX-License-Identifier: Apache-2.0 */
/* The watcher of the partition count (F4). Its own thread, because it asks Kafka and MySQL blocking questions; each
 * look opens and closes its own connection, so that it never keeps one idle. What it found is one atomic flag.
 * Failures: what cannot be asked changes nothing; before the first answer the flag is false. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "ingest.h"

#define LOOK_MS 30000
#define RETRY_MS 500

struct gf_pins {
    const struct gf_config *config;
    char topic[GF_TOPIC_MAX];
    pthread_t thread;
    atomic_bool stopping, ok;
};

/* What a look tells when it gets its answers. */
enum seen { AGREED, DISAGREED, UNKNOWN };

/* Rows of the live logs: their number and the count that each has pinned; -1 when they disagree among themselves. */
static enum gf_class read_pinned(struct gf_pins *pins, int64_t *partitions_r, struct gf_error *error_r)
{
    struct gf_sql *sql = NULL;
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;
    int64_t rows = 0, min = 0, max = 0;

    gf_buf_init(&text, 4096);
    gf_buf_adds(&text, "SELECT COUNT(*), MIN(partitions), MAX(partitions) FROM progress WHERE live=1 AND topic=");
    gf_buf_add_xhex(&text, pins->topic, strlen(pins->topic));
    class = gf_sql_connect(pins->config, GF_SQL_PLAIN, &sql, error_r);
    if (class == GF_OK)
        class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    if (class != GF_OK)
        goto out;
    if (gf_sql_next(result)) {
        rows = gf_sql_i64(result, 0);
        min = gf_sql_i64(result, 1);
        max = gf_sql_i64(result, 2);
    }
    *partitions_r = rows == min && rows == max ? rows : -1;
    if (rows == 0)
        class = gf_fail(error_r, GF_RETRY, 0, "no live log of this topic: run giftflow init");
out:
    gf_sql_result_free(&result);
    gf_sql_close(&sql);
    gf_buf_free(&text);
    return class;
}

static enum seen look(struct gf_pins *pins, struct gf_error *error_r)
{
    struct gf_kafka_admin *admin = NULL;
    int64_t pinned = 0;
    int partitions = 0;
    enum gf_class class = read_pinned(pins, &pinned, error_r);

    if (class == GF_OK)
        class = gf_kafka_admin_create(pins->config, &admin, error_r);
    if (class == GF_OK)
        class = gf_kafka_topic_partitions(admin, pins->topic, &partitions, error_r);
    gf_kafka_admin_close(&admin);
    if (class != GF_OK)
        return UNKNOWN;
    if (partitions == pinned)
        return AGREED;
    (void)gf_fail(error_r, GF_FATAL, 0, "Kafka has %d partitions, pinned are %lld (-1: not one number)", partitions,
                  (long long)pinned);
    return DISAGREED;
}

static void *run_thread(void *arg)
{
    struct gf_pins *pins = arg;

    while (!atomic_load(&pins->stopping)) {
        struct gf_error error;
        enum seen seen = look(pins, &error);
        int64_t next_ms = gf_clock_mono_ms() + (seen == AGREED ? LOOK_MS : RETRY_MS);

        if (seen != UNKNOWN)
            atomic_store(&pins->ok, seen == AGREED);
        if (seen == DISAGREED)
            gf_log(GF_ERROR, "partitions_mismatched", "topic=%s error=\"%s\"", pins->topic, error.text);
        else if (seen == UNKNOWN)
            gf_log(GF_WARN, "partitions_unknown", "topic=%s error=\"%s\"", pins->topic, error.text);
        while (!atomic_load(&pins->stopping) && gf_clock_mono_ms() < next_ms)
            gf_clock_sleep_ms(50);
    }
    return NULL;
}

struct gf_pins *gf_pins_start(const struct gf_config *config, const char *topic)
{
    struct gf_pins *pins = gf_xcalloc(1, sizeof(*pins));

    pins->config = config;
    gf_copy(pins->topic, sizeof(pins->topic), topic);
    GF_ASSERT(pthread_create(&pins->thread, NULL, run_thread, pins) == 0);
    return pins;
}

bool gf_pins_ok(const struct gf_pins *pins)
{
    return atomic_load_explicit(&pins->ok, memory_order_relaxed);
}

void gf_pins_stop(struct gf_pins **pins)
{
    if (!pins || !*pins)
        return;
    atomic_store(&(*pins)->stopping, true);
    GF_ASSERT(pthread_join((*pins)->thread, NULL) == 0);
    free(*pins);
    *pins = NULL;
}
