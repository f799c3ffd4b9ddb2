/* SPDX-License-Identifier: Apache-2.0 */
/* Request bodies: what is read, and every kind of body that is refused, with targets untouched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "gf/json.h"

static int64_t number, any;
static char text[9];
static bool has_text;
static const struct gf_json_field fields[] = {
    {.name = "number", .type = GF_JSON_I64, .required = true, .min = 1, .max = 100, .i64_r = &number},
    {.name = "any", .type = GF_JSON_I64, .min = 1, .max = 0, .i64_r = &any},
    {.name = "text", .type = GF_JSON_TEXT, .min = 2, .max = 8, .text_r = text, .present_r = &has_text},
};

static enum gf_class read_body(const char *body, size_t len, struct gf_error *error)
{
    number = any = -1;
    gf_copy(text, sizeof(text), "before");
    has_text = false;
    return gf_json_read(body, len, fields, GF_COUNT(fields), error);
}

static void good_bodies_are_read(void **s)
{
    struct gf_error error;
    const char *body = " {\"text\":\"h\\u00e9llo\",\"any\":-9223372036854775808,\"number\":100}\n";

    (void)s;
    assert_int_equal(read_body(body, strlen(body), &error), GF_OK);
    assert_int_equal(number, 100);
    assert_true(any == INT64_MIN);
    assert_true(has_text);
    assert_string_equal(text, "h\xc3\xa9llo");
    assert_int_equal(read_body("{\"number\":1}", 12, &error), GF_OK);
    assert_int_equal(number, 1);
    assert_int_equal(any, -1);
    assert_false(has_text);
    assert_string_equal(text, "before");
}

static void bad_bodies_are_refused_with_a_reason(void **s)
{
    static const struct {
        const char *body;
        size_t len; /* 0: strlen */
        const char *reason;
    } bad[] = {
        {"", 0, "not a JSON object"},
        {"{", 0, "not a JSON object"},
        {"[]", 0, "must be a JSON object"},
        {"7", 0, "not a JSON object"},
        {"{\"number\":1}x", 0, "not a JSON object"},
        {"{\"number\":1}\0", 13, "NUL"},
        {"{\"number\":1\0}", 13, "NUL"},
        {"{\"number\":1,\"text\":\"a\\u0000b\"}", 0, "NUL"},
        {"{\"number\":1,\"text\":\"\xff\xff\"}", 0, "UTF-8"},
        {"{\"number\":1,\"number\":1}", 0, "given twice"},
        {"{\"number\":99999999999999999999}", 0, "too large"},
        {"{\"number\":1,\"extra\":2}", 0, "unknown field extra"},
        {"{\"number\":1,\"\xc3\xa9\":2}", 0, "unknown field with an odd name"},
        {"{\"number\":1,\"NUMBER\":2}", 0, "unknown field"},
        {"{\"any\":1}", 0, "number is missing"},
        {"{}", 0, "number is missing"},
        {"{\"number\":null}", 0, "number must be an integer"},
        {"{\"number\":\"1\"}", 0, "number must be an integer"},
        {"{\"number\":1.0}", 0, "number must be an integer"},
        {"{\"number\":1e1}", 0, "number must be an integer"},
        {"{\"number\":true}", 0, "number must be an integer"},
        {"{\"number\":[1]}", 0, "number must be an integer"},
        {"{\"number\":0}", 0, "number must be 1..100"},
        {"{\"number\":101}", 0, "number must be 1..100"},
        {"{\"number\":-1}", 0, "number must be 1..100"},
        {"{\"number\":1,\"text\":7}", 0, "text must be a string"},
        {"{\"number\":1,\"text\":\"a\"}", 0, "text must be 2..8 bytes"},
        {"{\"number\":1,\"text\":\"123456789\"}", 0, "text must be 2..8 bytes"},
        {"{\"number\":1,\"text\":\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80.\"}", 0, "text must be 2..8 bytes"},
        {"{\"number\":[[[[[1]]]]]}", 0, "nested too deeply"},
    };

    (void)s;
    for (size_t i = 0; i < GF_COUNT(bad); i++) {
        struct gf_error error = {0};
        enum gf_class class = read_body(bad[i].body, bad[i].len ? bad[i].len : strlen(bad[i].body), &error);

        if (class != GF_REJECT || !strstr(error.text, bad[i].reason))
            fail_msg("%s: class %d, '%s' instead of '%s'", bad[i].body, class, error.text, bad[i].reason);
        assert_int_equal(number, -1);
        assert_string_equal(text, "before");
    }
}

static void very_deep_bodies_do_not_recurse(void **s)
{
    static char deep[16384];
    const char *brackets = "{\"number\":1,\"text\":\"[[\\\"[[[\"}"; /* in a string they are text */
    struct gf_error error;

    (void)s;
    memset(deep, '[', sizeof(deep));
    assert_int_equal(read_body(deep, sizeof(deep), &error), GF_REJECT);
    assert_non_null(strstr(error.text, "nested"));
    assert_int_equal(read_body(brackets, strlen(brackets), &error), GF_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_bodies_are_read),
        cmocka_unit_test(bad_bodies_are_refused_with_a_reason),
        cmocka_unit_test(very_deep_bodies_do_not_recurse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
