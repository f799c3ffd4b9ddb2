/* SPDX-License-Identifier: Apache-2.0 */
/* What a lane does with windows that MySQL does not take: when it halves, buries or waits. The linker puts this file's functions in the
 * place of Kafka, MySQL, the clock and the pause (see CMakeLists.txt): half an hour passes at once. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "settle/lane_internal.h"

#define RECORDS 10
#define UNKNOWN 9876
#define RETRY_MAX_MS 30000
#define UNPROVED_MS (4 * (RETRY_MAX_MS + REJOIN_MS))
#define REJOIN_MS 5000

static struct gf_config config;
static struct shared shared;
static struct lane lane;
static struct part *part;
static char values[RECORDS][400];
static int64_t now_ms, position;
static int64_t bad_from, bad_to; /* windows that hold one of these records fail .. */
static enum gf_class bad_class;  /* .. so */
static bool all_is_bad;          /* what is written besides, too */
static bool row_is_bad;          /* the row of a dead letter, too */
static int longest;              /* window whose COMMIT is one */
static char fate[RECORDS + 1];   /* s settled, b buried, - neither */

void __wrap_lane_pause(struct lane *paused, int64_t ms);
int64_t __wrap_gf_clock_mono_ms(void);
int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r,
                                  int max);
int64_t __wrap_gf_kafka_consumer_end(struct gf_kafka_consumer *consumer, int32_t partition);
enum gf_class __wrap_store_settle(struct store *store, struct batch *batch, struct claim *claim, bool *fenced_r,
                                  struct gf_error *error_r);
enum gf_class __wrap_store_lookup(struct store *store, const struct claim *claim, int64_t *next_offset_r, int64_t *epoch_r,
                                  struct gf_error *error_r);

void __wrap_lane_pause(struct lane *paused, int64_t ms)
{
    (void)paused;
    now_ms += ms;
}

int64_t __wrap_gf_clock_mono_ms(void)
{
    return now_ms;
}

int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r,
                                  int max)
{
    int count = 0;

    (void)consumer;
    for (; count < max && position < RECORDS; position++)
        messages_r[count++] = (struct gf_kafka_message){.partition = partition,
                                                        .offset = position,
                                                        .timestamp_ms = 1700000000000,
                                                        .append_time = true,
                                                        .key = "7",
                                                        .key_len = 1,
                                                        .value = values[position],
                                                        .value_len = strlen(values[position])};
    return count;
}

int64_t __wrap_gf_kafka_consumer_end(struct gf_kafka_consumer *consumer, int32_t partition)
{
    (void)consumer, (void)partition;
    return RECORDS;
}

enum gf_class __wrap_store_settle(struct store *store, struct batch *batch, struct claim *claim, bool *fenced_r,
                                  struct gf_error *error_r)
{
    (void)store, (void)claim;
    now_ms++; /* no transaction takes no time */
    *fenced_r = false;
    if (batch->first_offset < bad_to && batch->next_offset > bad_from && (batch->refusals == 0 || (row_is_bad && batch->refusals == 1) || all_is_bad))
        return gf_fail(error_r, batch->refusals > 0 ? GF_FATAL : bad_class, UNKNOWN, "nobody has met this");
    if (batch->n > longest)
        return gf_fail(error_r, GF_UNCERTAIN, 0, "no answer");
    batch->plan.settled = batch->refusals > 0 ? 0 : batch->n;
    memset(fate + batch->first_offset, batch->refusals > 0 ? 'b' : 's', (size_t)batch->n);
    return GF_OK;
}

enum gf_class __wrap_store_lookup(struct store *store, const struct claim *claim, int64_t *next_offset_r, int64_t *epoch_r,
                                  struct gf_error *error_r)
{
    (void)store, (void)error_r;
    *next_offset_r = claim->next_offset; /* it was none */
    *epoch_r = claim->epoch;
    return GF_OK;
}

static int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_OK);
    (void)snprintf(config.kafka_brokers, sizeof(config.kafka_brokers), "127.0.0.1:1"); /* nobody */
    config.settle_notices = false;
    config.settle_retry_max = RETRY_MAX_MS;
    shared.config = &config;
    atomic_store(&shared.settles, false);
    lane = (struct lane){.shared = &shared, .config = &config, .part_end = 1, .batch = batch_create(RECORDS)};
    assert_int_equal(notifier_create(&config, &lane.notifier, &error), GF_OK);
    part = &lane.parts[0];
    *part = (struct part){.assigned = true, .owned = true, .claim = {.log = 1, .partitions = 1, .epoch = 1, .last_off = -1},
                          .committed_ms = INT64_MAX / 2 /* there is no Kafka */};
    for (int i = 0; i < RECORDS; i++)
        (void)snprintf(values[i], sizeof(values[i]),
                       "{\"v\":1,\"type\":\"gift\",\"request_id\":\"01890a5d-ac96-7ccc-8ccc-%012d\",\"user_id\":7,\"receiver_id\":2,"
                       "\"room_id\":3,\"gift_id\":22,\"price\":90,\"quantity\":1,\"gift_type\":0,\"ts\":1}", i);
    now_ms = 1000000;
    position = 0;
    bad_from = bad_to = 0;
    bad_class = GF_FATAL;
    row_is_bad = all_is_bad = false;
    longest = RECORDS;
    memset(fate, '-', RECORDS);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lane_drop_part(&lane, part);
    notifier_destroy(&lane.notifier);
    batch_destroy(&lane.batch);
    return 0;
}

/* The lane's turns for so long; it comes back into the group whenever it has left it. */
static void run(int64_t ms)
{
    for (int64_t end_ms = now_ms + ms; now_ms < end_ms && part->claim.next_offset < RECORDS;) {
        (void)lane_serve_part(&lane, 0);
        if (!lane.rejoin)
            continue;
        lane.rejoin = false;
        now_ms += REJOIN_MS;
        part->claim.stalls++; /* as the next claim finds it */
        position = part->claim.next_offset;
    }
}

static void a_record_that_fails_alone_is_buried_alone(void **state)
{
    (void)state;
    bad_from = 5;
    bad_to = 6;
    run(2 * RETRY_MAX_MS);
    assert_string_equal(fate, "sssssbssss");
}

/* No gift has settled since the trouble began: it may be the server. */
static void a_record_that_nothing_can_be_compared_with_is_waited_for(void **state)
{
    (void)state;
    bad_from = 0;
    bad_to = 1;
    run(UNPROVED_MS - RETRY_MAX_MS);
    assert_string_equal(fate, "----------");
    run(3 * RETRY_MAX_MS);
    assert_string_equal(fate, "bsssssssss");
}

static void two_in_a_row_are_buried_and_no_third(void **state)
{
    (void)state;
    bad_from = 5;
    bad_to = 7;
    run(2 * RETRY_MAX_MS);
    assert_string_equal(fate, "sssssb----");
    run(2 * UNPROVED_MS);
    assert_string_equal(fate, "sssssbbsss");
}

/* Long before it, an error and settled gifts. */
static void a_proof_of_the_past_is_none(void **state)
{
    (void)state;
    bad_from = 0;
    bad_to = 1;
    bad_class = GF_RETRY;
    run(1);
    atomic_store(&shared.settles, true);
    bad_class = GF_FATAL;
    bad_to = RECORDS;
    run(2 * RETRY_MAX_MS);
    assert_string_equal(fate, "----------");
}

/* Its values are refused, its dead letter's row for a reason that nobody has met. */
static void a_refused_record_with_a_strange_row_is_buried_without_it(void **state)
{
    (void)state;
    bad_from = 3;
    bad_to = 4;
    bad_class = GF_REJECT;
    row_is_bad = true;
    run(RETRY_MAX_MS);
    assert_string_equal(fate, "sssbssssss");
}

static void a_server_that_takes_no_gifts_does_not_bury_them(void **state)
{
    (void)state;
    bad_to = RECORDS;
    run(UNPROVED_MS - RETRY_MAX_MS);
    bad_to = 0;
    run(RETRY_MAX_MS);
    assert_string_equal(fate, "ssssssssss");
}

/* A trigger of somebody's own, say, that looks at the row. */
static void a_record_whose_row_is_refused_too_is_buried_without_it(void **state)
{
    (void)state;
    bad_from = 5;
    bad_to = 6;
    row_is_bad = true;
    run(2 * RETRY_MAX_MS);
    assert_string_equal(fate, "sssssbssss");
}

static void a_table_that_takes_no_rows_buries_nothing(void **state)
{
    (void)state;
    bad_to = RECORDS;
    row_is_bad = true;
    run(10 * UNPROVED_MS);
    assert_string_equal(fate, "----------");
    bad_to = 0;
    run(RETRY_MAX_MS);
    assert_string_equal(fate, "ssssssssss");
}

static void a_commit_that_is_never_one_is_tried_with_less(void **state)
{
    (void)state;
    longest = 3;
    run(RETRY_MAX_MS);
    assert_string_equal(fate, "ssssssssss");
}

/* Nothing of a window is taken, though others were settled not long ago. */
static void a_server_that_takes_nothing_any_more_buries_nothing(void **state)
{
    (void)state;
    bad_from = 2;
    bad_to = 3;
    run(2 * RETRY_MAX_MS);
    assert_string_equal(fate, "ssbsssssss");
    position = part->claim.next_offset = 5; /* as if they had been records of long ago */
    memset(fate + 5, '-', 5);
    bad_from = 0;
    bad_to = RECORDS;
    all_is_bad = true;
    run(10 * UNPROVED_MS);
    assert_false(part->stopped);
    all_is_bad = false;
    bad_to = 0;
    run(RETRY_MAX_MS);
    assert_string_equal(fate, "ssbsssssss");
}

/* Not even of one record: it may be anything but the record. */
static void a_single_commit_that_is_never_one_buries_nothing(void **state)
{
    (void)state;
    longest = 0;
    run(2 * UNPROVED_MS);
    assert_string_equal(fate, "----------");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_that_fails_alone_is_buried_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_record_that_nothing_can_be_compared_with_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_in_a_row_are_buried_and_no_third, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_proof_of_the_past_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_record_with_a_strange_row_is_buried_without_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_server_that_takes_no_gifts_does_not_bury_them, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_record_whose_row_is_refused_too_is_buried_without_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_table_that_takes_no_rows_buries_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_server_that_takes_nothing_any_more_buries_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_commit_that_is_never_one_is_tried_with_less, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_single_commit_that_is_never_one_buries_nothing, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
