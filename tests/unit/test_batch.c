/* SPDX-License-Identifier: Apache-2.0 */
/* Which record of a window stands for a request id, and what becomes of the others. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "settle/batch.h"

#define RECORDS 8
#define USER 7
#define CREDIT "01890a5d-ac96-8ccc-8ccc-0242ac120002"
#define GIFT "01890a5d-ac96-7ccc-8ccc-0242ac120002"

static struct batch *batch;
static char values[RECORDS][400];
static int count;

static int set_up(void **state)
{
    (void)state;
    batch = batch_create(RECORDS);
    count = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    batch_destroy(&batch);
    return 0;
}

static void add(const char *key)
{
    batch->piece[count] = (struct gf_kafka_message){.offset = 100 + count,
                                                    .timestamp_ms = 1700000000000,
                                                    .key = key,
                                                    .key_len = strlen(key),
                                                    .value = values[count],
                                                    .value_len = strlen(values[count])};
    count++;
}

static void add_credit(const char *key, const char *kind, int v)
{
    (void)snprintf(values[count], sizeof(values[0]),
                   "{\"v\":%d,\"type\":\"credit\",\"request_id\":\"" CREDIT "\",\"user_id\":%d,\"kind\":\"%s\",\"ts\":1}", v, USER,
                   kind);
    add(key);
}

static void add_gift(const char *key, int quantity)
{
    (void)snprintf(values[count], sizeof(values[0]),
                   "{\"v\":1,\"type\":\"gift\",\"request_id\":\"" GIFT "\",\"user_id\":%d,\"receiver_id\":2,\"room_id\":3,"
                   "\"gift_id\":22,\"price\":90,\"quantity\":%d,\"gift_type\":0,\"ts\":1}", USER, quantity);
    add(key);
}

static void classify(void)
{
    batch_release(batch);
    batch_add(batch, count, 1);
    batch_window(batch, 0, count, 100);
    batch_classify(batch);
}

/* F2: a record that is not believed must not stand in the way of the credit's own command, in one batch as in two. */
static void a_dead_record_does_not_hide_the_credit_behind_it(void **state)
{
    (void)state;
    add_credit("8", "adjust", 1); /* foreign key, the very content */
    add_credit("7", "adjust", 2); /* another version */
    add_credit("7", "adjust", 1);
    classify();
    assert_int_equal(batch->fates[0], FATE_DEAD);
    assert_int_equal(batch->reasons[0], GF_DEAD_KEY);
    assert_int_equal(batch->fates[1], FATE_DEAD);
    assert_int_equal(batch->reasons[1], GF_DEAD_VERSION);
    assert_int_equal(batch->fates[2], FATE_PLAN);
    assert_int_equal(batch->reasons[2], GF_DEAD_NONE);
    assert_int_equal(batch->planned_count, 1);
    assert_int_equal(batch->credit_id_count, 1);
}

/* Only the row knows the kind: each is judged by it. */
static void a_credit_of_another_kind_does_not_hide_the_right_one(void **state)
{
    (void)state;
    add_credit("7", "recharge", 1);
    add_credit("7", "adjust", 1);
    add_credit("7", "adjust", 1);
    classify();
    assert_int_equal(batch->fates[0], FATE_PLAN);
    assert_int_equal(batch->fates[1], FATE_PLAN);
    assert_int_equal(batch->fates[2], FATE_DUPLICATE);
    assert_int_equal(batch->credit_id_count, 1);
}

static void a_known_credit_is_a_duplicate_and_another_kind_is_the_rows_to_judge(void **state)
{
    struct gf_uuid id;

    (void)state;
    add_credit("7", "recharge", 1);
    add_credit("7", "adjust", 1);
    classify();
    assert_true(gf_uuid_parse(CREDIT, strlen(CREDIT), &id));
    assert_true(batch_mark_known(batch, &id, USER, batch->commands[1].fp));
    assert_false(batch_mark_known(batch, &id, USER, batch->commands[1].fp));
    batch_classify(batch);
    assert_int_equal(batch->fates[0], FATE_PLAN);
    assert_int_equal(batch->fates[1], FATE_DUPLICATE);
}

/* F1, F17: a gift's first record decides, also a dead one that leaves a row; another content is a dead letter. */
static void the_first_record_of_a_gift_stands(void **state)
{
    struct gf_uuid id;

    (void)state;
    add_gift("7", 1);
    add_gift("7", 1);
    add_gift("7", 2);
    add_gift("8", 1);
    classify();
    assert_int_equal(batch->fates[0], FATE_PLAN);
    assert_int_equal(batch->fates[1], FATE_DUPLICATE);
    assert_int_equal(batch->fates[2], FATE_DEAD);
    assert_int_equal(batch->reasons[2], GF_DEAD_ID_REUSED);
    assert_int_equal(batch->fates[3], FATE_DEAD);
    assert_int_equal(batch->reasons[3], GF_DEAD_KEY);
    assert_true(gf_uuid_parse(GIFT, strlen(GIFT), &id));
    assert_true(batch_mark_known(batch, &id, USER, batch->commands[2].fp));
    batch_classify(batch);
    assert_int_equal(batch->reasons[0], GF_DEAD_ID_REUSED);
    assert_int_equal(batch->fates[2], FATE_DUPLICATE);
    assert_int_equal(batch->planned_count, 0);
}

static void what_mysql_refuses_is_planned_dead_and_then_only_recorded(void **state)
{
    (void)state;
    add_gift("7", 1);
    classify();
    batch->refusals = 1;
    batch_classify(batch);
    assert_int_equal(batch->fates[0], FATE_PLAN);
    assert_int_equal(batch->planned[0].dead, GF_DEAD_SQL_REFUSED);
    batch->refusals = 2;
    batch_classify(batch);
    assert_int_equal(batch->fates[0], FATE_DEAD);
    assert_int_equal(batch->reasons[0], GF_DEAD_SQL_REFUSED);
}

static void assert_record(int i, const char *key, const char *value)
{
    struct gf_kafka_message record = batch_record(batch, i);

    assert_int_equal(record.key_len, strlen(key));
    assert_memory_equal(record.key, key, record.key_len);
    assert_int_equal(record.value_len, strlen(value));
    assert_memory_equal(record.value, value, record.value_len);
}

/* What Kafka's memory held is gone; a dead letter still gets the very bytes, whether they were kept or are written again. */
static void records_can_be_told_byte_for_byte(void **state)
{
    static const char *const keys[] = {"7", "07", "8", "7"};
    char sent[4][sizeof(values[0])];

    (void)state;
    add_gift("7", 1);  /* the encoder's spelling */
    add_gift("07", 2); /* dead, as the next: no number is written so */
    add_gift("8", 3);
    add_credit("7", "adjust", 1);
    memcpy(sent, values, sizeof(sent));
    batch_add(batch, count, 1);
    memset(values, '#', sizeof(values));
    batch_window(batch, 0, 4, 100);
    assert_true(batch->commands[0].exact);
    assert_null(batch->kept[0]);
    for (int i = 0; i < 4; i++)
        assert_record(i, keys[i], sent[i]);
    assert_string_equal(batch_detail(batch, 0), "");
    batch_window(batch, 2, 2, 102);
    assert_record(1, keys[3], sent[3]);
}

/* A batch of up to settle.batch records that only Kafka's memory can hold would have no bound. */
static void a_record_too_long_to_be_kept_ends_the_batch(void **state)
{
    static char text[GF_COMMAND_MAX + 1];

    (void)state;
    memset(text, ' ', sizeof(text));
    add_gift("7", 1);
    batch->piece[0].value = text;
    batch->piece[0].value_len = sizeof(text);
    assert_true(batch_room(batch) > 0);
    batch_add(batch, 1, 1);
    assert_int_equal(batch_room(batch), 0);
    assert_ptr_equal(batch->kept[0]->message.value, text);
    assert_true(strlen(batch->kept[0]->detail) > 0);
    batch_release(batch);
    assert_true(batch_room(batch) > 0);
}

/* A plan of gifts alone needs no copies; what is dead or a credit must not be written to where it is decided anew. */
static void only_living_gifts_are_planned_where_they_stand(void **state)
{
    (void)state;
    add_gift("7", 1);
    classify();
    assert_ptr_equal(batch->planned, batch->commands);
    add_credit("7", "adjust", 1);
    classify();
    assert_ptr_equal(batch->planned, batch->copies);
    assert_int_equal(batch->planned_count, 2);
}

static void add_gift_of(int64_t user_id)
{
    static char keys[RECORDS][24];

    (void)snprintf(keys[count], sizeof(keys[0]), "%" PRId64, user_id);
    (void)snprintf(values[count], sizeof(values[0]),
                   "{\"v\":1,\"type\":\"gift\",\"request_id\":\"01890a5d-ac96-7ccc-8ccc-%012d\",\"user_id\":%" PRId64
                   ",\"receiver_id\":9,\"room_id\":3,\"gift_id\":22,\"price\":90,\"quantity\":1,\"gift_type\":0,\"ts\":1}",
                   count, user_id);
    add(keys[count]);
}

static void assert_sorted(const int64_t *users, const int32_t *records, int n)
{
    assert_int_equal(batch->by_user_count, n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(batch->by_user[i].user_id, users[i]);
        assert_int_equal(batch->by_user[i].record, records[i]);
    }
}

/* Wallets are locked in this order, and what one user did leaves together, first things first. The ids differ in each byte. */
static void records_are_sorted_by_user_then_as_they_came(void **state)
{
    static const int64_t big = GF_ID_MAX, p40 = 1LL << 40, p32 = 1LL << 32, p24 = 1LL << 24;
    const int64_t users[RECORDS] = {big, 3, p40 + 1, 2, p32 + 2, 3, p24 + 0x10100, 2};

    (void)state;
    for (int i = 0; i < RECORDS; i++)
        add_gift_of(users[i]);
    classify();
    assert_sorted((const int64_t[]){2, 2, 3, 3, p24 + 0x10100, p32 + 2, p40 + 1, big},
                  (const int32_t[]){3, 7, 1, 5, 6, 4, 2, 0}, RECORDS);
    assert_int_equal(batch->user_count, 6);
    for (int i = 0; i < batch->user_count; i++)
        assert_int_equal(batch->users[i], ((const int64_t[]){2, 3, p24 + 0x10100, p32 + 2, p40 + 1, big})[i]);
    batch_window(batch, 2, 4, 102); /* sorted anew, wherever the last one was left */
    assert_sorted((const int64_t[]){2, 3, p32 + 2, p40 + 1}, (const int32_t[]){1, 3, 2, 0}, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_dead_record_does_not_hide_the_credit_behind_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_credit_of_another_kind_does_not_hide_the_right_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_known_credit_is_a_duplicate_and_another_kind_is_the_rows_to_judge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_record_of_a_gift_stands, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_mysql_refuses_is_planned_dead_and_then_only_recorded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(records_can_be_told_byte_for_byte, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_record_too_long_to_be_kept_ends_the_batch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_living_gifts_are_planned_where_they_stand, set_up, tear_down),
        cmocka_unit_test_setup_teardown(records_are_sorted_by_user_then_as_they_came, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
