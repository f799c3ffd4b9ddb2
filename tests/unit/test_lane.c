/* SPDX-License-Identifier: Apache-2.0 */
/* What a lane does with a partition that it has just taken over, step by step. The linker puts this file's functions in the
 * place of Kafka, MySQL and the pause (see CMakeLists.txt), so that a rebalance comes exactly when it hurts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "settle/lane_internal.h"

#define CLAIMED_AGAIN_AT 4

static struct gf_config config;
static struct shared shared;
static struct lane lane;
static char steps[64]; /* t trades, w wallets, k Kafka's records, p pause */
static enum gf_class trades_class;
static struct store_range asked;
static bool rebalanced; /* in the next pause */

static void note(char step)
{
    size_t len = strlen(steps);

    assert_true(len + 1 < sizeof(steps));
    steps[len] = step;
    steps[len + 1] = '\0';
}

enum gf_class __wrap_store_trades(struct store *store, const struct store_range *range, store_trade_fn on_trade, void *ctx,
                                  struct gf_error *error_r);
enum gf_class __wrap_store_wallets(struct store *store, const struct store_range *range, store_wallet_fn on_wallet, void *ctx,
                                   struct gf_error *error_r);
int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition,
                                  struct gf_kafka_message *messages_r, int max);
void __wrap_lane_pause(struct lane *paused, int64_t ms);

enum gf_class __wrap_store_trades(struct store *store, const struct store_range *range, store_trade_fn on_trade, void *ctx,
                                  struct gf_error *error_r)
{
    (void)store, (void)on_trade, (void)ctx;
    note('t');
    asked = *range;
    return trades_class == GF_OK ? GF_OK : gf_fail(error_r, trades_class, 0, "away");
}

enum gf_class __wrap_store_wallets(struct store *store, const struct store_range *range, store_wallet_fn on_wallet, void *ctx,
                                   struct gf_error *error_r)
{
    (void)store, (void)on_wallet, (void)ctx, (void)error_r;
    note('w');
    asked = *range;
    return GF_OK;
}

int __wrap_gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition,
                                  struct gf_kafka_message *messages_r, int max)
{
    (void)consumer, (void)partition, (void)messages_r, (void)max;
    note('k');
    return 0;
}

static void own(struct part *part, int64_t notified, int64_t next)
{
    *part = (struct part){.assigned = true,
                          .owned = true,
                          .generation = part->generation + 1,
                          .claim = {.log = 1, .partitions = 1, .epoch = 1, .next_offset = next, .notified = notified,
                                    .notified_written = notified, .last_off = -1},
                          .rederive = notified,
                          .republish = 0,
                          .recover_to = next,
                          .careful_to = next,
                          .notified_ms = INT64_MAX / 2 /* not due: there is no MySQL */};
}

/* The partition goes, a former owner's claim moves it less far than ours was going to, and it comes back. */
void __wrap_lane_pause(struct lane *paused, int64_t ms)
{
    (void)ms;
    note('p');
    if (!rebalanced)
        return;
    rebalanced = false;
    lane_drop_part(paused, &paused->parts[0]);
    own(&paused->parts[0], CLAIMED_AGAIN_AT, 30);
}

static int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_OK);
    (void)snprintf(config.kafka_brokers, sizeof(config.kafka_brokers), "127.0.0.1:1"); /* nobody */
    shared.config = &config;
    lane = (struct lane){.shared = &shared, .config = &config, .part_end = 1, .batch = batch_create(100)};
    assert_int_equal(notifier_create(&config, &lane.notifier, &error), GF_OK);
    steps[0] = '\0';
    trades_class = GF_OK;
    rebalanced = false;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lane_drop_part(&lane, &lane.parts[0]);
    notifier_destroy(&lane.notifier);
    batch_destroy(&lane.batch);
    return 0;
}

static void what_the_former_owner_left_comes_before_anything_new(void **state)
{
    (void)state;
    own(&lane.parts[0], 10, 20);
    assert_true(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, 10);
    assert_int_equal(asked.to, 20);
    assert_true(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, 0);
    assert_int_equal(asked.to, 20);
    (void)lane_serve_part(&lane, 0);
    assert_string_equal(steps, "twk");
}

static void a_range_is_rederived_piece_by_piece(void **state)
{
    (void)state;
    own(&lane.parts[0], 10, 250);
    for (int64_t from = 10; from < 250; from += 100) {
        assert_true(lane_serve_part(&lane, 0));
        assert_int_equal(asked.from, from);
        assert_int_equal(asked.to, from + 100 < 250 ? from + 100 : 250);
    }
    assert_string_equal(steps, "ttt");
}

/* MySQL does not answer, and in the pause that follows the partition goes and comes back: the new claim's notices begin
 * where it says, not where the old one was going to go on. */
static void a_claim_that_comes_in_the_pause_starts_where_it_says(void **state)
{
    (void)state;
    own(&lane.parts[0], 10, 20);
    trades_class = GF_RETRY;
    rebalanced = true;
    assert_true(lane_serve_part(&lane, 0));
    assert_string_equal(steps, "tp");
    trades_class = GF_OK;
    assert_true(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, CLAIMED_AGAIN_AT);
    assert_int_equal(asked.to, 30);
}

/* The same without a rebalance: the range is made again before anything else. */
static void a_range_that_could_not_be_read_is_read_again(void **state)
{
    (void)state;
    own(&lane.parts[0], 10, 20);
    trades_class = GF_RETRY;
    assert_true(lane_serve_part(&lane, 0));
    trades_class = GF_OK;
    assert_true(lane_serve_part(&lane, 0));
    assert_string_equal(steps, "tptw");
    assert_int_equal(lane.parts[0].claim.notified, 10); /* nothing is known to be told before its tracker has ended */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_the_former_owner_left_comes_before_anything_new, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_is_rederived_piece_by_piece, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_claim_that_comes_in_the_pause_starts_where_it_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_that_could_not_be_read_is_read_again, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
