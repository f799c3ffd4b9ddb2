/* SPDX-License-Identifier: Apache-2.0 */
/* The ring behind ingest's lag: what it remembers, forgets and bounds. Time is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/clock.h"
#include "ingest/ingest.h"

#define SECOND 1000

static void the_oldest_unsettled_sample_counts(void **state)
{
    struct gf_lag_ring ring = {0};

    (void)state;
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), INT64_MAX);
    gf_lag_ring_acked(&ring, SECOND, 10, 5000);
    gf_lag_ring_acked(&ring, SECOND, 11, 5999); /* too soon after the last sample */
    gf_lag_ring_acked(&ring, SECOND, 12, 6000);
    assert_int_equal(ring.count, 2);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5000);
    gf_lag_ring_settled(&ring, 1, 10); /* the next one to settle */
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5000);
    gf_lag_ring_settled(&ring, 1, 11);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 6000);
    gf_lag_ring_settled(&ring, 1, 13);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), INT64_MAX);
}

/* Of what came together a part is settled, and then nothing more: the rest grows old without a sample of its own. */
static void what_came_after_the_last_sample_is_not_forgotten(void **state)
{
    struct gf_lag_ring ring = {0};

    (void)state;
    gf_lag_ring_acked(&ring, SECOND, 10, 5000);
    gf_lag_ring_acked(&ring, SECOND, 11, 5300);
    gf_lag_ring_acked(&ring, SECOND, 12, 5600);
    gf_lag_ring_settled(&ring, 1, 11);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5600); /* late by less than a sample's time */
    gf_lag_ring_acked(&ring, SECOND, 13, 90000);
    gf_lag_ring_settled(&ring, 1, 11);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5600);
    gf_lag_ring_settled(&ring, 1, 13);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 90000);
    gf_lag_ring_settled(&ring, 1, 14);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), INT64_MAX);
}

static void a_new_log_drops_what_will_never_settle(void **state)
{
    static const int64_t settled[] = {900, 0}; /* of the old log; none of it, too */

    (void)state;
    for (size_t i = 0; i < GF_COUNT(settled); i++) {
        struct gf_lag_ring ring = {0};

        gf_lag_ring_acked(&ring, SECOND, 1000, 5000); /* before the first look */
        gf_lag_ring_settled(&ring, 1, settled[i]);
        assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5000);
        gf_lag_ring_settled(&ring, 2, 0);
        assert_int_equal(gf_lag_ring_oldest_ms(&ring), INT64_MAX);
        gf_lag_ring_acked(&ring, SECOND, 3, 7000);
        gf_lag_ring_settled(&ring, 2, 3);
        assert_int_equal(gf_lag_ring_oldest_ms(&ring), 7000);
    }
}

static void a_full_ring_keeps_its_oldest_and_goes_round(void **state)
{
    struct gf_lag_ring ring = {0};

    (void)state;
    for (int i = 0; i < 3 * GF_LAG_SAMPLES; i++)
        gf_lag_ring_acked(&ring, SECOND, i, (int64_t)i * SECOND);
    assert_int_equal(ring.count, GF_LAG_SAMPLES);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 0);
    gf_lag_ring_settled(&ring, 1, 5);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 5 * SECOND);
    for (int i = 0; i < 5; i++)
        gf_lag_ring_acked(&ring, SECOND, 1000 + i, (1000 + (int64_t)i) * SECOND);
    gf_lag_ring_settled(&ring, 1, 1004);
    assert_int_equal(gf_lag_ring_oldest_ms(&ring), 1004 * SECOND);
    assert_int_equal(ring.count, 1);
}

/* However long the lag may be, a lag that long is still seen. */
static void the_ring_spans_more_than_the_longest_allowed_lag(void **state)
{
    static const int64_t allowed_ms[] = {0, 30 * SECOND, 64 * SECOND, 65 * SECOND, 3600 * SECOND};

    (void)state;
    for (size_t i = 0; i < GF_COUNT(allowed_ms); i++) {
        int64_t sample_ms = gf_lag_sample_ms(allowed_ms[i]), now_ms = 0;
        struct gf_lag_ring ring = {0};

        assert_true(sample_ms >= SECOND);
        for (int64_t off = 0; ring.count < GF_LAG_SAMPLES; off++, now_ms += 100)
            gf_lag_ring_acked(&ring, sample_ms, off, now_ms);
        assert_true(now_ms - gf_lag_ring_oldest_ms(&ring) > allowed_ms[i]);
    }
}

/* init has pinned their number: what this process's kafka.partitions says does not matter. */
static void partitions_beyond_the_configured_ones_count(void **state)
{
    struct gf_config config = {.kafka_partitions = 2, .ingest_lag_max = 30 * SECOND};
    struct gf_ingest ingest = {.config = &config, .loop = gf_loop_create()};

    (void)state;
    ingest.lag = gf_lag_start(&ingest);
    gf_lag_acked(ingest.lag, -1, 7); /* not told by Kafka */
    gf_clock_sleep_ms(2);
    assert_int_equal(gf_lag_ms(ingest.lag), 0);
    gf_lag_acked(ingest.lag, 23, 7);
    gf_clock_sleep_ms(2);
    assert_in_range(gf_lag_ms(ingest.lag), 1, INT32_MAX);
    gf_lag_stop(&ingest.lag);
    gf_loop_destroy(&ingest.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_unsettled_sample_counts),
        cmocka_unit_test(what_came_after_the_last_sample_is_not_forgotten),
        cmocka_unit_test(a_new_log_drops_what_will_never_settle),
        cmocka_unit_test(a_full_ring_keeps_its_oldest_and_goes_round),
        cmocka_unit_test(the_ring_spans_more_than_the_longest_allowed_lag),
        cmocka_unit_test(partitions_beyond_the_configured_ones_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
