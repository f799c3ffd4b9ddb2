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
#include "gf/pinned.h"
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

static enum seen look(struct gf_pins *pins, struct gf_error *error_r)
{
    bool agreed = false;

    if (gf_pinned_check(pins->config, pins->topic, &agreed, error_r) != GF_OK)
        return UNKNOWN;
    return agreed ? AGREED : DISAGREED;
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
    return pins && atomic_load_explicit(&pins->ok, memory_order_relaxed);
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
