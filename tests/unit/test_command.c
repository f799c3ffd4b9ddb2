/* SPDX-License-Identifier: Apache-2.0 */
/* The command decoder: good records, every kind of bad one with its reason, the key check, encoder and fingerprint text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gf/command.h"
#include "gf/hash.h"
#include "gf/num.h"

#define V7 "018f6f2e-7b1c-7c3a-9d2e-0123456789ab"
#define V8 "018f6f2e-7b1c-8c3a-9d2e-0123456789ab"
#define GIFT_HEAD "{\"v\":1,\"type\":\"gift\",\"request_id\":\"" V7 "\",\"user_id\":1,"
#define GIFT_TAIL "\"receiver_id\":2,\"room_id\":3,\"gift_id\":22,\"price\":90,\"quantity\":1,\"gift_type\":0,\"ts\":5}"
#define GIFT GIFT_HEAD GIFT_TAIL
#define CREDIT "{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":\"adjust\",\"ts\":5}"
/* A gift with one field's text replaced. */
#define WITH(id, user, receiver, room, gift, price, quantity, type, ts)                                             \
    "{\"v\":1,\"type\":\"gift\",\"request_id\":" id ",\"user_id\":" user ",\"receiver_id\":" receiver ",\"room_id\":" \
    room ",\"gift_id\":" gift ",\"price\":" price ",\"quantity\":" quantity ",\"gift_type\":" type ",\"ts\":" ts "}"
#define QV7 "\"" V7 "\""

static struct gf_command decode(const char *text, size_t len, char *detail_r)
{
    struct gf_command command;
    char *copy = gf_xmalloc(len ? len : 1); /* exact size: a read past the end is seen by the sanitizer */

    memset(&command, 0x5a, sizeof(command));
    command.off = 7;
    command.append_ms = 8;
    memcpy(copy, text, len);
    gf_command_decode(copy, len, &command, detail_r);
    free(copy);
    return command;
}

static void good_gift_is_read_whole(void **s)
{
    struct gf_command c = decode(GIFT, strlen(GIFT), NULL);
    char id[GF_UUID_TEXT + 1];

    (void)s;
    assert_int_equal(c.dead, GF_DEAD_NONE);
    assert_true(c.readable);
    assert_int_equal(c.off, 7);
    assert_int_equal(c.append_ms, 8);
    assert_int_equal(c.kind, GF_KIND_GIFT);
    gf_uuid_format(&c.request_id, id);
    assert_string_equal(id, V7);
    assert_int_equal(c.user_id, 1);
    assert_int_equal(c.receiver_id, 2);
    assert_int_equal(c.room_id, 3);
    assert_int_equal(c.gift_id, 22);
    assert_int_equal(c.price, 90);
    assert_int_equal(c.quantity, 1);
    assert_int_equal(c.gift_type, 0);
    assert_int_equal(c.ts_ms, 5);
}

static void good_credit_is_read_whole(void **s)
{
    static const char *const kinds[] = {"recharge", "adjust", "gift_refund", "chargeback"};

    (void)s;
    for (int i = 0; i < 4; i++) {
        char text[256];
        struct gf_command c;

        snprintf(text, sizeof(text), "{\"kind\":\"%s\",\"ts\":5,\"user_id\":9007199254740991,\"request_id\":\"" V8 "\",\"type\":\"credit\",\"v\":1}", kinds[i]);
        c = decode(text, strlen(text), NULL);
        assert_int_equal(c.dead, GF_DEAD_NONE);
        assert_int_equal(c.kind, GF_KIND_RECHARGE + i);
        assert_int_equal(c.user_id, GF_ID_MAX);
        assert_int_equal(c.receiver_id, 0);
        assert_int_equal(c.room_id, 0);
        assert_int_equal(c.price, 0);
    }
}

static void order_and_white_space_do_not_matter(void **s)
{
    const char *text = " \t\r\n{ \"ts\" : 5 , \"gift_type\":1,\n\"quantity\":-0, \"price\":-9223372036854775808,\"gift_id\":2147483647,"
                       "\"room_id\":9007199254740991,\"receiver_id\":2,\"user_id\":1,\"request_id\":\"018F6F2E-7B1C-4C3A-9D2E-0123456789AB\","
                       "\"type\":\"gift\",\"v\":1 } \n";
    struct gf_command c = decode(text, strlen(text), NULL);

    (void)s;
    assert_int_equal(c.dead, GF_DEAD_NONE);
    assert_int_equal(c.quantity, 0);
    assert_true(c.price == INT64_MIN);
    assert_int_equal(c.gift_id, INT32_MAX);
}

struct bad {
    const char *text;
    size_t len; /* 0: strlen */
    enum gf_dead dead;
    bool readable;
};

static const struct bad bad[] = {
    /* nothing, not JSON, not an object */
    {"", 0, GF_DEAD_EMPTY, false},
    {" ", 0, GF_DEAD_NOT_JSON, false},
    {"gift", 0, GF_DEAD_NOT_JSON, false},
    {"[]", 0, GF_DEAD_NOT_JSON, false},
    {"null", 0, GF_DEAD_NOT_JSON, false},
    {"\"gift\"", 0, GF_DEAD_NOT_JSON, false},
    {"1", 0, GF_DEAD_NOT_JSON, false},
    {"{", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\"", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1,", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1,}", 0, GF_DEAD_NOT_JSON, false},
    {"{,\"v\":1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1 \"type\":2}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\" 1}", 0, GF_DEAD_NOT_JSON, false},
    {"{v:1}", 0, GF_DEAD_NOT_JSON, false},
    {"{'v':1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":tru}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":NaN}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":+1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":01}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1.}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":.1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1e}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":-}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":0x1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"v\":1}//", 0, GF_DEAD_NOT_JSON, false},
    {GIFT "x", 0, GF_DEAD_NOT_JSON, false},
    {GIFT GIFT, 0, GF_DEAD_NOT_JSON, false},
    {GIFT "\0", sizeof(GIFT), GF_DEAD_NOT_JSON, false},
    {"\xef\xbb\xbf" GIFT, 0, GF_DEAD_NOT_JSON, false},
    {"\0" GIFT, sizeof(GIFT), GF_DEAD_NOT_JSON, false},
    {"{\"v\":1,\"a\0b\":1}", 15, GF_DEAD_NOT_JSON, false},
    {"{\"a\\u0000\":1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\u00\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\x\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\ud800\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\udc00\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\\ud800\\u0041\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\n\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xff\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\x80\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xc0\xaf\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xe0\x80\xaf\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xed\xa0\x80\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xf4\x90\x80\x80\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xf5\x80\x80\x80\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":\"\xe2\x82\"}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"\xff\":1}", 0, GF_DEAD_NOT_JSON, false},
    {"{\"a\":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}", 0, GF_DEAD_NOT_JSON, false},
    /* version, whatever else is in it */
    {"{}", 0, GF_DEAD_VERSION, false},
    {"{\"v\":2}", 0, GF_DEAD_VERSION, false},
    {"{\"v\":2,\"request_id\":\"" V7 "\",\"user_id\":4,\"new\":{\"a\":[1,2.5e3,null,true,\"\\u20ac\"]}}", 0, GF_DEAD_VERSION, true},
    {"{\"v\":\"1\"}", 0, GF_DEAD_VERSION, false},
    {"{\"v\":1.0}", 0, GF_DEAD_VERSION, false},
    {"{\"v\":1,\"v\":1}", 0, GF_DEAD_VERSION, false},
    {"{\"\\u0076\":1}", 0, GF_DEAD_VERSION, false},
    {"{\"v\":99999999999999999999999999}", 0, GF_DEAD_VERSION, false},
    /* type */
    {"{\"v\":1}", 0, GF_DEAD_TYPE, false},
    {"{\"v\":1,\"type\":\"transfer\",\"request_id\":\"" V7 "\",\"user_id\":4}", 0, GF_DEAD_TYPE, true},
    {"{\"v\":1,\"type\":\"Gift\"}", 0, GF_DEAD_TYPE, false},
    {"{\"v\":1,\"type\":\"gif\\u0074\"}", 0, GF_DEAD_TYPE, false},
    {"{\"v\":1,\"type\":7}", 0, GF_DEAD_TYPE, false},
    {"{\"v\":1,\"type\":null}", 0, GF_DEAD_TYPE, false},
    {"{\"v\":1,\"type\":\"gift\",\"type\":\"gift\"}", 0, GF_DEAD_TYPE, false},
    /* fields */
    {"{\"v\":1,\"type\":\"gift\"}", 0, GF_DEAD_FIELD, false},
    {GIFT_HEAD "\"extra\":1," GIFT_TAIL, 0, GF_DEAD_FIELD, true},
    {GIFT_HEAD "\"\":1," GIFT_TAIL, 0, GF_DEAD_FIELD, true},
    {GIFT_HEAD "\"kind\":\"adjust\"," GIFT_TAIL, 0, GF_DEAD_FIELD, true},
    {GIFT_HEAD "\"price\":90," GIFT_TAIL, 0, GF_DEAD_FIELD, true},
    {GIFT_HEAD "\"user_id\":1," GIFT_TAIL, 0, GF_DEAD_FIELD, false},
    {GIFT_HEAD "\"request_id\":\"" V7 "\"," GIFT_TAIL, 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "\"1\"", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "0", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "-1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "9007199254740992", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "1.0", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "1e2", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH(QV7, "1", "0", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "0", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "0", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "2147483648", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "9223372036854775808", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "-9223372036854775809", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "18446744073709551617", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90.0", "1", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "2147483648", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "null", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "true", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "[1]", "0", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "1", "128", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "1", "-1", "5"), 0, GF_DEAD_FIELD, true},
    {WITH(QV7, "1", "2", "3", "22", "90", "1", "0", "-5"), 0, GF_DEAD_FIELD, true},
    {WITH("7", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH("\"\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH("\"00000000-0000-0000-0000-000000000000\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH("\"018f6f2e7b1c7c3a9d2e0123456789ab\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH("\"{" V7 "}\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {WITH("\"018f6f2e-7b1c-7c3a-9d2e-0123456789ag\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_FIELD, false},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":\"gift\",\"ts\":5}", 0, GF_DEAD_FIELD, true},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":\"mint\",\"ts\":5}", 0, GF_DEAD_FIELD, true},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":3,\"ts\":5}", 0, GF_DEAD_FIELD, true},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":\"adjust\",\"coins\":1000000,\"ts\":5}", 0, GF_DEAD_FIELD, true},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V8 "\",\"user_id\":1,\"kind\":\"adjust\",\"price\":5,\"ts\":5}", 0, GF_DEAD_FIELD, true},
    /* versions of ids (F2) */
    {WITH("\"" V8 "\"", "1", "2", "3", "22", "90", "1", "0", "5"), 0, GF_DEAD_ID_VERSION, true},
    {"{\"v\":1,\"type\":\"credit\",\"request_id\":\"" V7 "\",\"user_id\":1,\"kind\":\"adjust\",\"ts\":5}", 0, GF_DEAD_ID_VERSION, true},
};

static void bad_records_have_their_reason(void **s)
{
    (void)s;
    for (size_t i = 0; i < GF_COUNT(bad); i++) {
        char detail[96];
        size_t len = bad[i].len ? bad[i].len : strlen(bad[i].text);
        struct gf_command c = decode(bad[i].text, len, detail);

        if (c.dead != bad[i].dead || c.readable != bad[i].readable)
            fail_msg("#%zu %s: %s (%s), readable %d", i, bad[i].text, gf_dead_text(c.dead), detail, c.readable);
        assert_true(detail[0] != 0);
        assert_int_equal(c.off, 7);
        if (!c.readable) {
            assert_int_equal(c.user_id, 0);
        } else {
            assert_true(gf_id_valid(c.user_id));
        }
    }
}

static void every_cut_of_a_good_record_is_bad(void **s)
{
    (void)s;
    for (size_t len = 0; len < strlen(GIFT); len++)
        assert_int_equal(decode(GIFT, len, NULL).dead, len ? GF_DEAD_NOT_JSON : GF_DEAD_EMPTY);
    for (size_t len = 1; len < strlen(CREDIT); len++)
        assert_int_equal(decode(CREDIT, len, NULL).dead, GF_DEAD_NOT_JSON);
}

static void each_field_is_required(void **s)
{
    static const char *const cuts[] = {"\"v\":1,", "\"type\":\"gift\",", "\"request_id\":\"" V7 "\",", "\"user_id\":1,", "\"receiver_id\":2,",
                                       "\"room_id\":3,", "\"gift_id\":22,", "\"price\":90,", "\"quantity\":1,", "\"gift_type\":0,"};

    (void)s;
    for (size_t i = 0; i < GF_COUNT(cuts); i++) {
        char text[512];
        char *at;

        snprintf(text, sizeof(text), "%s", GIFT);
        at = strstr(text, cuts[i]);
        assert_non_null(at);
        memmove(at, at + strlen(cuts[i]), strlen(at + strlen(cuts[i])) + 1);
        assert_int_equal(decode(text, strlen(text), NULL).dead, i == 0 ? GF_DEAD_VERSION : i == 1 ? GF_DEAD_TYPE : GF_DEAD_FIELD);
    }
}

static void too_large_records_are_not_parsed(void **s)
{
    static char text[GF_COMMAND_MAX + 2];

    (void)s;
    memset(text, ' ', sizeof(text));
    memcpy(text, GIFT, strlen(GIFT));
    assert_int_equal(decode(text, GF_COMMAND_MAX, NULL).dead, GF_DEAD_NONE);
    assert_int_equal(decode(text, GF_COMMAND_MAX + 1, NULL).dead, GF_DEAD_TOO_LARGE);
}

static void a_bad_record_keeps_its_room(void **s)
{
    const char *text = WITH(QV7, "1", "0", "33", "22", "90", "1", "0", "5");
    struct gf_command c = decode(text, strlen(text), NULL);

    (void)s;
    assert_int_equal(c.dead, GF_DEAD_FIELD);
    assert_int_equal(c.room_id, 33);
    assert_int_equal(c.gift_id, 0);
}

static void keys_and_partitions_are_checked(void **s)
{
    struct gf_command good = decode(GIFT, strlen(GIFT), NULL);
    int32_t right = gf_kafka_partition("1", 1, 12);
    static const struct {
        const char *key;
        int32_t shift;
        enum gf_dead dead;
    } table[] = {
        {"1", 0, GF_DEAD_NONE}, {"1", 1, GF_DEAD_PARTITION}, {"2", 0, GF_DEAD_KEY}, {"", 0, GF_DEAD_KEY}, {NULL, 0, GF_DEAD_KEY},
        {"01", 0, GF_DEAD_KEY}, {"1 ", 0, GF_DEAD_KEY},      {"+1", 0, GF_DEAD_KEY}, {"-1", 0, GF_DEAD_KEY}, {"18446744073709551617", 0, GF_DEAD_KEY},
    };

    (void)s;
    for (size_t i = 0; i < GF_COUNT(table); i++) {
        struct gf_command c = good;

        gf_command_check_key(&c, table[i].key, table[i].key ? strlen(table[i].key) : 0, (right + table[i].shift) % 12, 12);
        assert_int_equal(c.dead, table[i].dead);
        assert_true(c.readable);
    }
}

static void the_first_reason_stands(void **s)
{
    struct gf_command c = decode("[", 1, NULL);

    (void)s;
    gf_command_check_key(&c, "x", 1, 0, 12);
    assert_int_equal(c.dead, GF_DEAD_NOT_JSON);
}

static void what_is_encoded_is_decoded(void **s)
{
    struct gf_buf buf;
    struct gf_command c = decode(GIFT, strlen(GIFT), NULL);

    (void)s;
    gf_buf_init(&buf, GF_COMMAND_MAX);
    gf_command_encode(&c, &buf);
    assert_string_equal(buf.data, GIFT);
    c = decode(CREDIT, strlen(CREDIT), NULL);
    gf_buf_reset(&buf);
    gf_command_encode(&c, &buf);
    assert_string_equal(buf.data, CREDIT);
    gf_buf_free(&buf);
}

static void fingerprint_text_is_the_documented_one(void **s)
{
    char text[160];
    size_t len;
    struct gf_command c = {.kind = GF_KIND_GIFT, .user_id = GF_ID_MAX, .room_id = 3, .receiver_id = 2, .gift_id = 22, .quantity = INT32_MIN, .gift_type = 1};

    (void)s;
    len = gf_command_fp_text(&c, text);
    assert_int_equal(len, strlen(text));
    assert_string_equal(text, "/v1/gifts,9007199254740991,3,2,22,-2147483648,1");
    c = (struct gf_command){.kind = GF_KIND_ADJUST, .user_id = 7};
    len = gf_command_fp_text(&c, text);
    assert_int_equal(len, strlen(text));
    assert_string_equal(text, "credit,7,3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_gift_is_read_whole),
        cmocka_unit_test(good_credit_is_read_whole),
        cmocka_unit_test(order_and_white_space_do_not_matter),
        cmocka_unit_test(bad_records_have_their_reason),
        cmocka_unit_test(every_cut_of_a_good_record_is_bad),
        cmocka_unit_test(each_field_is_required),
        cmocka_unit_test(too_large_records_are_not_parsed),
        cmocka_unit_test(a_bad_record_keeps_its_room),
        cmocka_unit_test(keys_and_partitions_are_checked),
        cmocka_unit_test(the_first_reason_stands),
        cmocka_unit_test(what_is_encoded_is_decoded),
        cmocka_unit_test(fingerprint_text_is_the_documented_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
