/* SPDX-License-Identifier: Apache-2.0 */
/* Notices: the text of each code, what router and gateway read of it, and the frame with its seq. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gf/notice.h"

#define ID "018f6f2e-7b1c-7c3a-9d2e-0123456789ab"

static struct gf_buf key, value;

static int setup(void **s)
{
    (void)s;
    gf_buf_init(&key, 100);
    gf_buf_init(&value, GF_NOTICE_MAX);
    return 0;
}

static int teardown(void **s)
{
    (void)s;
    gf_buf_free(&key);
    gf_buf_free(&value);
    return 0;
}

static struct gf_trade trade(enum gf_kind kind, enum gf_outcome outcome)
{
    struct gf_trade row = {.off = 77, .user_id = 1, .kind = kind, .outcome = outcome, .balance_after = 910, .seq = 4, .ts_ms = 5};
    bool parsed = gf_uuid_parse(ID, GF_UUID_TEXT, &row.request_id);

    assert_true(parsed);
    if (kind == GF_KIND_GIFT) {
        row.receiver_id = 2;
        row.room_id = 3;
        row.gift_id = 22;
        row.quantity = 2;
        row.price = 90;
        if (outcome == GF_OUTCOME_SETTLED)
            row.amount = -180;
    } else if (outcome == GF_OUTCOME_SETTLED) {
        row.amount = 60;
        row.debt_delta = -40;
    }
    return row;
}

static void a_gift_goes_to_its_room_without_balances(void **s)
{
    struct gf_trade row = trade(GF_KIND_GIFT, GF_OUTCOME_SETTLED);

    (void)s;
    gf_notice_key(&row, &key);
    assert_string_equal(key.data, "r:3");
    gf_buf_reset(&key);
    gf_notice_encode(4, &row, "Rocket \"9\"\n", "https://x/y.svga", &key, &value);
    assert_string_equal(key.data, "r:3");
    assert_string_equal(value.data, "{\"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{\"request_id\":\"" ID
                                    "\",\"sender_id\":1,\"receiver_id\":2,\"gift_id\":22,\"gift_type\":0,\"name\":\"Rocket \\\"9\\\"\\u000a\","
                                    "\"effect_url\":\"https://x/y.svga\",\"quantity\":2,\"price\":90,\"amount\":180,\"ts\":5}}");
    assert_null(strstr(value.data, "910"));
}

static void a_failed_gift_goes_to_its_sender_with_the_reason(void **s)
{
    struct gf_trade row = trade(GF_KIND_GIFT, GF_OUTCOME_INSUFFICIENT_BALANCE);

    (void)s;
    gf_notice_encode(4, &row, "Rocket", "u", &key, &value);
    assert_string_equal(key.data, "u:1");
    assert_string_equal(value.data, "{\"id\":\"4-77:5557\",\"ch\":\"user\",\"code\":5557,\"room_id\":3,\"user_id\":1,\"data\":{\"request_id\":\"" ID
                                    "\",\"gift_id\":22,\"quantity\":2,\"code\":\"insufficient_balance\",\"message\":\"the balance is too low\",\"ts\":5}}");
}

static void credits_go_to_their_user(void **s)
{
    struct gf_trade row = trade(GF_KIND_ADJUST, GF_OUTCOME_SETTLED);

    (void)s;
    gf_notice_encode(0, &row, "", "", &key, &value);
    assert_string_equal(key.data, "u:1");
    assert_string_equal(value.data, "{\"id\":\"0-77:5558\",\"ch\":\"user\",\"code\":5558,\"room_id\":0,\"user_id\":1,\"data\":{\"request_id\":\"" ID
                                    "\",\"kind\":\"adjust\",\"amount\":60,\"debt_delta\":-40,\"balance_after\":910,\"ts\":5}}");
    gf_buf_reset(&value);
    row = trade(GF_KIND_RECHARGE, GF_OUTCOME_CREDIT_REFUSED);
    gf_notice_encode(0, &row, "", "", &key, &value);
    assert_non_null(strstr(value.data, "\"code\":5559,"));
    assert_non_null(strstr(value.data, "\"kind\":\"recharge\",\"code\":\"credit_refused\""));
}

static void every_notice_has_a_readable_head(void **s)
{
    (void)s;
    for (enum gf_kind kind = GF_KIND_GIFT; kind <= GF_KIND_CHARGEBACK; kind++) {
        for (int outcome = GF_OUTCOME_SETTLED; outcome <= GF_OUTCOME_CREDIT_REFUSED; outcome++) {
            struct gf_trade row = trade(kind, (enum gf_outcome)outcome);
            struct gf_notice_head head;
            bool gift = kind == GF_KIND_GIFT, settled = outcome == GF_OUTCOME_SETTLED;

            gf_buf_reset(&value);
            gf_notice_encode(INT16_MAX, &row, "\xe7\x81\xab\xe7\xae\xad}}", "", &key, &value);
            assert_true(gf_notice_head(value.data, value.len, &head));
            assert_int_equal(head.code, 5556 + (gift ? 0 : 2) + (settled ? 0 : 1));
            assert_int_equal(head.room, gift && settled);
            assert_int_equal(head.room_id, gift ? 3 : 0);
            assert_int_equal(head.user_id, 1);
        }
    }
}

static void what_is_not_ours_has_no_head(void **s)
{
    struct gf_trade row = trade(GF_KIND_GIFT, GF_OUTCOME_SETTLED);
    struct gf_notice_head head;
    static const char *const bad[] = {
        "", "{}", "null", "{\"id\":\"4-77:5556\"}",
        "{\"id\":\"4-77:5557\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}}",
        "{\"id\":\"4-77:5556\",\"ch\":\"all\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}}",
        "{\"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":0,\"user_id\":1,\"data\":{}}",
        "{\"id\":\"4-77:5557\",\"ch\":\"user\",\"code\":5557,\"room_id\":3,\"user_id\":0,\"data\":{}}",
        "{\"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":99999999999999999999,\"user_id\":1,\"data\":{}}",
        "{\"id\":\"4--7:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}}",
        "{ \"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}}",
        "{\"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}",
        "{\"id\":\"4-77:5556\",\"ch\":\"room\",\"code\":5556,\"room_id\":3,\"user_id\":1,\"data\":{}}\n",
    };

    (void)s;
    for (size_t i = 0; i < GF_COUNT(bad); i++)
        if (gf_notice_head(bad[i], strlen(bad[i]), &head))
            fail_msg("accepted: %s", bad[i]);
    gf_notice_encode(4, &row, "Rocket", "u", &key, &value);
    for (size_t len = 0; len < value.len; len++) {
        char *cut = gf_xmalloc(len ? len : 1); /* exact size: a read past the end is seen by the sanitizer */

        memcpy(cut, value.data, len);
        assert_false(gf_notice_head(cut, len, &head));
        free(cut);
    }
}

static void a_frame_is_the_notice_with_its_seq(void **s)
{
    struct gf_trade row = trade(GF_KIND_ADJUST, GF_OUTCOME_SETTLED);
    struct gf_buf frame;

    (void)s;
    gf_buf_init(&frame, GF_NOTICE_MAX);
    gf_notice_encode(0, &row, "", "", &key, &value);
    gf_notice_frame(value.data, value.len, (INT64_C(1) << 40) + 6, &frame);
    assert_memory_equal(frame.data, "{\"id\":\"0-77:5558\",\"ch\":\"user\",\"seq\":1099511627782,\"code\":5558,\"room_id\":0,", 73);
    assert_int_equal(frame.len, value.len + strlen(",\"seq\":1099511627782"));
    assert_string_equal(frame.data + frame.len - 20, value.data + value.len - 20);
    gf_buf_free(&frame);
}

static void a_name_too_long_overflows_the_buffer_and_says_so(void **s)
{
    static char name[GF_NOTICE_MAX + 1];
    struct gf_trade row = trade(GF_KIND_GIFT, GF_OUTCOME_SETTLED);

    (void)s;
    memset(name, 'x', GF_NOTICE_MAX);
    gf_notice_encode(4, &row, name, "", &key, &value);
    assert_false(gf_buf_ok(&value));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_gift_goes_to_its_room_without_balances),
        TEST(a_failed_gift_goes_to_its_sender_with_the_reason),
        TEST(credits_go_to_their_user),
        TEST(every_notice_has_a_readable_head),
        TEST(what_is_not_ours_has_no_head),
        TEST(a_frame_is_the_notice_with_its_seq),
        TEST(a_name_too_long_overflows_the_buffer_and_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
