/* SPDX-License-Identifier: Apache-2.0 */
/* What a lane does when Kafka does not tell what a claimed log is to be compared with, or what it gives cannot be read. The linker puts this file's functions in the place of
 * Kafka, MySQL and the clock (see CMakeLists.txt). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "settle/lane_internal.h"

#define PARTITIONS 3
#define NEXT 20
#define LOOK_MS 2000

static struct gf_config config;
static struct shared shared;
static struct lane lane;
static int64_t now_ms;
static int claims, questions, late_ms;
static bool topic_known, leader[PARTITIONS];
static int64_t last_off, low, high;

enum gf_class __wrap_store_claim(struct store *store, const struct claim_request *request, struct claim *claim_r,
                                 enum claimed *claimed_r, struct gf_error *error_r);
enum gf_class __wrap_store_live_log(struct store *store, const struct claim_request *request, int32_t *log_r,
                                    struct gf_error *error_r);
enum gf_class __wrap_gf_kafka_topic_partitions(struct gf_kafka_admin *admin, const char *topic, int *partitions_r,
                                               struct gf_error *error_r);
enum gf_class __wrap_gf_kafka_watermarks(struct gf_kafka_admin *admin, const char *topic, int32_t partition,
                                         struct gf_kafka_range *range_r, struct gf_error *error_r);
int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r,
                                  int max);
int64_t __wrap_gf_clock_mono_ms(void);

enum gf_class __wrap_store_claim(struct store *store, const struct claim_request *request, struct claim *claim_r,
                                 enum claimed *claimed_r, struct gf_error *error_r)
{
    (void)store, (void)request, (void)error_r;
    claims++;
    *claim_r = (struct claim){.log = 1, .partition = request->partition, .partitions = PARTITIONS, .epoch = 1, .next_offset = NEXT,
                              .notified = NEXT, .notified_written = NEXT, .last_off = last_off};
    *claimed_r = CLAIMED;
    return GF_OK;
}

enum gf_class __wrap_store_live_log(struct store *store, const struct claim_request *request, int32_t *log_r,
                                    struct gf_error *error_r)
{
    (void)store, (void)request, (void)error_r;
    *log_r = 1; /* no new one */
    return GF_OK;
}

enum gf_class __wrap_gf_kafka_topic_partitions(struct gf_kafka_admin *admin, const char *topic, int *partitions_r,
                                               struct gf_error *error_r)
{
    (void)admin, (void)topic;
    questions++;
    now_ms += late_ms;
    *partitions_r = PARTITIONS;
    return topic_known ? GF_OK : gf_fail(error_r, GF_RETRY, 0, "no broker");
}

enum gf_class __wrap_gf_kafka_watermarks(struct gf_kafka_admin *admin, const char *topic, int32_t partition,
                                         struct gf_kafka_range *range_r, struct gf_error *error_r)
{
    (void)admin, (void)topic;
    *range_r = (struct gf_kafka_range){.low = low, .high = high};
    return leader[partition] ? GF_OK : gf_fail(error_r, GF_RETRY, 0, "no leader");
}

int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r,
                                  int max)
{
    (void)consumer, (void)partition, (void)messages_r, (void)max;
    assert_true(lane.parts[partition].owned);
    return 0;
}

int64_t __wrap_gf_clock_mono_ms(void)
{
    return now_ms;
}

static int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_OK);
    (void)snprintf(config.kafka_brokers, sizeof(config.kafka_brokers), "127.0.0.1:1"); /* nobody */
    shared.config = &config;
    assert_int_equal(pthread_mutex_init(&shared.lock, NULL), 0);
    assert_int_equal(pthread_mutex_init(&shared.stop_lock, NULL), 0);
    lane = (struct lane){.shared = &shared, .config = &config, .batch = batch_create(10)};
    assert_int_equal(notifier_create(&config, &lane.notifier, &error), GF_OK);
    now_ms = 1000000;
    claims = questions = late_ms = 0;
    topic_known = true;
    for (int i = 0; i < PARTITIONS; i++)
        leader[i] = true;
    last_off = NEXT - 1;
    low = 0;
    high = NEXT;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int32_t i = 0; i < PARTITIONS; i++)
        lane_drop_part(&lane, &lane.parts[i]);
    notifier_destroy(&lane.notifier);
    batch_destroy(&lane.batch);
    pthread_mutex_destroy(&shared.lock);
    pthread_mutex_destroy(&shared.stop_lock);
    return 0;
}

static int owned(void)
{
    int count = 0;

    for (int i = 0; i < PARTITIONS; i++)
        count += lane.parts[i].owned ? 1 : 0;
    return count;
}

static void turn(void)
{
    now_ms += LOOK_MS / 2;
    for (int32_t i = 0; i < PARTITIONS; i++)
        (void)lane_serve_part(&lane, i);
}

static void a_partition_without_a_leader_waits_alone(void **state)
{
    (void)state;
    leader[0] = false;
    for (int32_t i = 0; i < PARTITIONS; i++)
        assert_int_equal(lane_on_assign(&lane, i), last_off);
    for (int i = 0; i < 10; i++)
        turn();
    assert_false(lane.rejoin);
    assert_int_equal(owned(), 2);
    assert_in_range(questions, PARTITIONS + 4, PARTITIONS + 6);
    leader[0] = true;
    turn();
    turn();
    assert_int_equal(owned(), PARTITIONS);
    assert_true(lane.parts[0].check_last);
    assert_int_equal(claims, PARTITIONS);
}

/* Meanwhile retention has taken the record that was settled last. */
static void what_has_gone_while_it_waited_is_not_read(void **state)
{
    (void)state;
    leader[1] = false;
    assert_int_equal(lane_on_assign(&lane, 1), last_off);
    leader[1] = true;
    low = NEXT;
    turn();
    turn();
    assert_true(lane.rejoin); /* the reader cannot go on from where it has failed */
    lane.rejoin = false;
    lane_on_revoke(&lane, 1, false);
    assert_int_equal(lane_on_assign(&lane, 1), NEXT);
    assert_true(lane.parts[1].owned);
    assert_false(lane.parts[1].check_last);
}

static void what_does_not_fit_is_stopped_after_the_wait_as_before_it(void **state)
{
    (void)state;
    leader[2] = false;
    (void)lane_on_assign(&lane, 2);
    leader[2] = true;
    low = NEXT + 1;
    turn();
    turn();
    assert_true(lane.parts[2].stopped);
    assert_int_equal(owned(), 0);
}

/* All partitions at once would keep the lane from its group for minutes. */
static void a_kafka_that_does_not_answer_is_asked_once_at_a_time(void **state)
{
    (void)state;
    topic_known = false;
    late_ms = 5000;
    for (int32_t i = 0; i < PARTITIONS; i++)
        assert_int_equal(lane_on_assign(&lane, i), last_off);
    assert_int_equal(questions, 1);
    for (int i = 0; i < 9; i++) /* not before four times as long */
        turn();
    assert_int_equal(questions, 1);
    topic_known = true;
    late_ms = 0;
    for (int i = 0; i < 15; i++)
        turn();
    assert_int_equal(owned(), PARTITIONS);
    assert_false(lane.rejoin);
}

static void two_that_break_in_one_turn_have_a_reason_each(void **state)
{
    (void)state;
    for (int32_t i = 0; i < PARTITIONS; i++)
        assert_int_equal(lane_on_assign(&lane, i), last_off);
    lane_on_broken(&lane, 1, false, "a checksum");
    lane_on_broken(&lane, 0, false, "a codec");
    turn();
    assert_int_equal(owned(), 1);
    assert_false(lane.rejoin);
    assert_non_null(strstr(shared.stop_reason, "partition 1 is stopped: a checksum; read again in "));
}

/* As if the group had given the same partitions back. */
static void rejoin(void)
{
    lane.rejoin = false;
    for (int32_t i = 0; i < PARTITIONS; i++) {
        if (lane.parts[i].assigned)
            lane_on_revoke(&lane, i, false);
        assert_int_equal(lane_on_assign(&lane, i), last_off);
    }
}

/* Two of them, and still one wait. Returns its length. */
static int64_t wait_for_another_look(void)
{
    int64_t began_ms = now_ms;

    lane_on_broken(&lane, 1, false, "a checksum");
    turn();
    lane_on_broken(&lane, 2, false, "a codec");
    for (turn(); !lane.rejoin && now_ms - began_ms < 1000000; turn()) {
        assert_int_equal(owned(), 1);
        assert_int_equal(atomic_load(&lane.status.stopped), 2);
    }
    assert_true(lane.rejoin);
    return now_ms - began_ms;
}

static void what_cannot_be_read_is_read_again_ever_more_rarely(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        int64_t most_ms = i < 5 ? INT64_C(30000) << i : 600000;

        rejoin();
        assert_in_range(wait_for_another_look(), 15000, most_ms + LOOK_MS);
    }
    assert_int_equal(lane.agains, 10);
    rejoin();
    now_ms += 2 * 3600000; /* it was mended, and something else breaks now */
    assert_in_range(wait_for_another_look(), 15000, 30000 + LOOK_MS);
}

/* Another member has left, say: that is no look of ours, and no reason for one. */
static void an_assignment_in_between_changes_no_wait(void **state)
{
    int64_t again_ms;

    (void)state;
    rejoin();
    lane_on_broken(&lane, 1, false, "a checksum");
    turn();
    again_ms = lane.again_ms;
    for (int i = 0; i < 5; i++) {
        rejoin();
        lane_on_broken(&lane, 1, false, "a checksum");
        turn();
        assert_false(lane.rejoin);
    }
    assert_int_equal(lane.again_ms, again_ms);
    assert_int_equal(lane.agains, 1);
    rejoin(); /* and now it is whole */
    now_ms = again_ms;
    turn();
    assert_false(lane.rejoin);
    assert_int_equal(owned(), PARTITIONS);
    assert_int_equal(atomic_load(&lane.status.stopped), 0);
}

static void what_is_stopped_for_good_is_not_read_again(void **state)
{
    (void)state;
    rejoin();
    lane_on_broken(&lane, 1, false, "a checksum");
    lane_stop_part(&lane, 1, "the record before it has its producer's time");
    for (int i = 0; i < 1000; i++)
        turn();
    assert_false(lane.rejoin);
    assert_int_equal(atomic_load(&lane.status.stopped), 1);
}

/* Retention may have taken the record that was settled last, between claim and first fetch. */
static void an_offset_that_has_gone_since_the_claim_is_claimed_again(void **state)
{
    (void)state;
    assert_int_equal(lane_on_assign(&lane, 0), last_off);
    low = NEXT;
    lane_on_broken(&lane, 0, true, "out of range");
    assert_true(lane.rejoin);
    assert_false(lane.parts[0].stopped);
    lane.rejoin = false;
    lane_on_revoke(&lane, 0, false);
    assert_int_equal(lane_on_assign(&lane, 0), NEXT);
    turn();
    assert_int_equal(owned(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_partition_without_a_leader_waits_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_gone_while_it_waited_is_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_stopped_after_the_wait_as_before_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_kafka_that_does_not_answer_is_asked_once_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_that_break_in_one_turn_have_a_reason_each, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_read_again_ever_more_rarely, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_assignment_in_between_changes_no_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_stopped_for_good_is_not_read_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_offset_that_has_gone_since_the_claim_is_claimed_again, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
