/* SPDX-License-Identifier: Apache-2.0 */
/* What a lane does with a partition that it has just taken over, step by step. The linker puts this file's functions in the
 * place of Kafka, MySQL, the clock and the pause (see CMakeLists.txt), so that a rebalance comes exactly when it hurts. */
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
static char steps[256]; /* t trades, w wallets, k Kafka's records, p pause */
static enum gf_class trades_class;
static struct store_range asked;
static bool rebalanced; /* in the next pause */
static struct publisher_look look; /* what the publisher says of itself */
static int rows;                   /* of each range of trade rows */
static int64_t told;               /* so many offsets can be told before their time is over */
static int added;                  /* to the publisher at once */
static int64_t now_ms;

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
void __wrap_publisher_look(struct publisher *publisher, struct publisher_look *look_r);
void __wrap_publisher_add(struct publisher *publisher, struct publish_item *items, int count);
int64_t __wrap_gf_clock_mono_ms(void);

int64_t __wrap_gf_clock_mono_ms(void)
{
    return now_ms;
}

enum gf_class __wrap_store_trades(struct store *store, const struct store_range *range, store_trade_fn on_trade, void *ctx,
                                  struct gf_error *error_r)
{
    (void)store, (void)on_trade, (void)ctx;
    note('t');
    asked = *range;
    if (range->to - range->from > told)
        return gf_fail(error_r, GF_RETRY, 0, "too many");
    return trades_class == GF_OK ? GF_OK : gf_fail(error_r, trades_class, 0, "away");
}

enum gf_class __wrap_store_wallets(struct store *store, const struct store_range *range, store_wallet_fn on_wallet, void *ctx,
                                   struct gf_error *error_r)
{
    const struct gf_wallet wallet = {.user_id = 7, .ver = 1};
    const struct gf_uuid id = {{0}};

    (void)store, (void)error_r;
    note('w');
    asked = *range;
    for (int i = 0; i < rows; i++)
        on_wallet(ctx, &wallet, &id);
    return GF_OK;
}

void __wrap_publisher_look(struct publisher *publisher, struct publisher_look *look_r)
{
    (void)publisher;
    *look_r = look;
}

void __wrap_publisher_add(struct publisher *publisher, struct publish_item *items, int count)
{
    (void)publisher, (void)items;
    added = count;
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
    shared.publisher = NULL;
    lane = (struct lane){.shared = &shared, .config = &config, .part_end = 1, .batch = batch_create(200)}; /* pieces of 100 */
    look = (struct publisher_look){.oldest_ms = INT64_MAX, .room = 40};
    rows = 0;
    told = INT64_MAX;
    assert_int_equal(notifier_create(&config, &lane.notifier, &error), GF_OK);
    steps[0] = '\0';
    trades_class = GF_OK;
    rebalanced = false;
    now_ms = 1000000;
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

/* Nor is MySQL asked again and again while it stays so. */
static void a_range_that_fails_again_is_read_ever_more_rarely(void **state)
{
    struct part *part = &lane.parts[0];

    (void)state;
    own(part, 10, 20);
    part->republish = 20;
    trades_class = GF_RETRY;
    for (int i = 0; i < 20; i++)
        (void)lane_serve_part(&lane, 0);
    assert_string_equal(steps, "tptpkkkkkkkkkkkkkkkkkkk"); /* settlement goes on */
    steps[0] = '\0';
    for (int i = 0; i < 600; i++) {
        now_ms += 100;
        (void)lane_serve_part(&lane, 0);
        *strrchr(steps, 'k') = '\0';
    }
    assert_in_range(strlen(steps), 2 * 30, 2 * 100); /* a minute; at most 2 s apart */
    trades_class = GF_OK;
    now_ms += 2000;
    for (int i = 0; i < 6; i++)
        (void)lane_serve_part(&lane, 0);
    assert_int_equal(part->claim.notified, 20);
}

/* Kafka takes less of it than was lost, before the time of what waits behind is over: what it has taken is not told again. */
static void a_range_that_fails_as_a_whole_gets_on_in_pieces(void **state)
{
    struct part *part = &lane.parts[0];
    bool grown = false;

    (void)state;
    own(part, 10, 260);
    part->rederive = part->republish = 260;
    notifier_fail(lane.notifier, notifier_open(lane.notifier, &part->notices, 10, 260));
    told = 60;
    for (int i = 0; i < 40; i++) {
        int64_t notified = part->claim.notified, piece = asked.to - asked.from;

        steps[0] = '\0';
        now_ms += 2000;
        (void)lane_serve_part(&lane, 0);
        assert_true(part->claim.notified >= notified);
        assert_true(steps[0] != 't' || asked.from >= notified);
        grown = grown || (steps[0] == 't' && asked.to - asked.from > piece);
    }
    assert_int_equal(part->claim.notified, 260);
    assert_true(grown);
}

/* What failed for the first time may be of a partition of Kafka's that is well again, whatever becomes of the batch before it. */
static void a_range_behind_one_that_fails_has_its_first_turn(void **state)
{
    struct part *part = &lane.parts[0];

    (void)state;
    own(part, 10, 300);
    part->rederive = part->republish = 300;
    notifier_fail(lane.notifier, notifier_open(lane.notifier, &part->notices, 10, 260));
    notifier_fail(lane.notifier, notifier_open(lane.notifier, &part->notices, 260, 300));
    told = 60;
    (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.from, 10);
    (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.from, 260);
    assert_int_equal(part->claim.notified, 10);
}

/* A batch's notices may be many more than are looked at at once. */
static void a_batch_whose_notices_are_lost_is_told_again_piece_by_piece(void **state)
{
    struct part *part = &lane.parts[0];

    (void)state;
    own(part, 10, 260);
    part->rederive = part->republish = 260;
    notifier_fail(lane.notifier, notifier_open(lane.notifier, &part->notices, 10, 260));
    (void)lane_serve_part(&lane, 0);
    assert_string_equal(steps, "tttk");
    assert_int_equal(asked.from, 210);
    assert_int_equal(asked.to, 260);
    (void)lane_serve_part(&lane, 0);
    assert_string_equal(steps, "tttkk"); /* once */
    assert_int_equal(part->claim.notified, 260);
}

/* A partition whose claim is told, at the offset 1000, with a publisher. */
static struct part *publishing(void)
{
    struct part *part = &lane.parts[0];

    shared.publisher = (struct publisher *)&shared; /* never looked into */
    own(part, 1000, 1000);
    part->republish = 1000;
    part->untold = (struct untold){.below = 1000, .mark = 1000};
    return part;
}

/* Everything up to the offset has been settled and given to the publisher, and it is time to look. */
static void settle_to(struct part *part, int64_t offset)
{
    part->claim.next_offset = offset;
    part->untold.looked_ms = 0;
}

static void what_was_dropped_is_told_again_in_pieces_when_there_is_room(void **state)
{
    struct part *part = publishing();

    (void)state;
    rows = 3;
    look = (struct publisher_look){.oldest_ms = 1, .room = 0, .dropped = 5};
    settle_to(part, 1100);
    assert_false(lane_serve_part(&lane, 0));
    assert_string_equal(steps, "k"); /* no room: later */
    look.room = 40;
    settle_to(part, 1110);
    for (int64_t from = 1000; from < 1110; from += 40) {
        assert_int_equal(lane_serve_part(&lane, 0), from + 40 < 1110);
        assert_int_equal(asked.from, from);
        assert_int_equal(asked.to, from + 40 < 1110 ? from + 40 : 1110);
        assert_int_equal(added, 3);
    }
    assert_string_equal(steps, "kwkwkwk"); /* settlement goes on between them */
    settle_to(part, 1120);
    assert_false(lane_serve_part(&lane, 0));
    assert_string_equal(steps, "kwkwkwkk"); /* once */
}

static void what_has_left_the_ring_is_not_told_again(void **state)
{
    struct part *part = publishing();

    (void)state;
    settle_to(part, 1100);
    (void)lane_serve_part(&lane, 0); /* below 1100 all is given */
    look.oldest_ms = 1;
    settle_to(part, 1200);
    (void)lane_serve_part(&lane, 0); /* and something of it has not left */
    look.dropped = 1;
    settle_to(part, 1201);
    (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.from, 1000);
    look.room = 1000;
    for (int i = 0; i < 3; i++)
        (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.to, 1201);
    look.oldest_ms = INT64_MAX; /* now all has */
    settle_to(part, 1300);
    (void)lane_serve_part(&lane, 0);
    look.dropped = 2;
    settle_to(part, 1301);
    (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.to, 1301);
    assert_int_equal(asked.from, 1201);
}

/* Items that were added again can be dropped like all others. */
static void a_drop_in_the_middle_begins_anew(void **state)
{
    struct part *part = publishing();

    (void)state;
    look.dropped = 1;
    look.oldest_ms = 1;
    settle_to(part, 1100);
    assert_true(lane_serve_part(&lane, 0));
    assert_true(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, 1040);
    look.dropped = 2;
    look.room = 100;
    assert_false(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, 1000);
    assert_int_equal(asked.to, 1100);
    look.dropped = 3; /* of those that were just added */
    settle_to(part, 1100);
    assert_false(lane_serve_part(&lane, 0));
    assert_int_equal(asked.from, 1000);
}

/* While Redis is away for long the range does not grow for ever. */
static void what_nobody_misses_any_more_is_not_told_again(void **state)
{
    struct part *part = publishing();

    (void)state;
    look = (struct publisher_look){.oldest_ms = 1, .dropped = 1};
    for (int64_t offset = 1100; offset <= 1500; offset += 100) {
        settle_to(part, offset);
        part->untold.mark_ms -= 11 * 60 * 1000; /* so long after the last look */
        assert_false(lane_serve_part(&lane, 0));
    }
    look.room = 1000;
    settle_to(part, 1500);
    (void)lane_serve_part(&lane, 0);
    assert_int_equal(asked.from, 1400);
    assert_int_equal(asked.to, 1500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_the_former_owner_left_comes_before_anything_new, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_is_rederived_piece_by_piece, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_claim_that_comes_in_the_pause_starts_where_it_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_that_could_not_be_read_is_read_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_that_fails_again_is_read_ever_more_rarely, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_that_fails_as_a_whole_gets_on_in_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_range_behind_one_that_fails_has_its_first_turn, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_batch_whose_notices_are_lost_is_told_again_piece_by_piece, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_dropped_is_told_again_in_pieces_when_there_is_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_left_the_ring_is_not_told_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_drop_in_the_middle_begins_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_nobody_misses_any_more_is_not_told_again, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
