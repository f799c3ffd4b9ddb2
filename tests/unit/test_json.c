/* SPDX-License-Identifier: Apache-2.0 */
/* Request bodies: what is read, and every kind of body that is refused, with targets untouched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/hash.h"
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
        {"{\"number\":01}", 0, "not a JSON object"},
        {"{\"number\":1,}", 0, "not a JSON object"},
        {"{\"number\":1,\"any\":}", 0, "not a JSON object"},
        {"{\"number\":}", 0, "not a JSON object"},
        {"{\"number\" 1}", 0, "not a JSON object"},
        {"{\"number\":1", 0, "not a JSON object"},
        {"{\"number\":1,\"any\":2,\"any\":3}", 0, "given twice"},
        {"{\"number\0\":1}", 13, "NUL"},
        {"{\"numbe\":1}", 0, "unknown field numbe"},
        {"{\"any\":2}", 0, "number is missing"},
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

/* jansson alone, for bodies without text. */
static bool oracle(const char *body, size_t len, int64_t *number_r, int64_t *any_r)
{
    json_error_t error;
    json_t *object = memchr(body, 0, len) ? NULL : json_loadb(body, len, JSON_REJECT_DUPLICATES, &error), *value;
    const char *name;
    bool ok = json_is_object(object) && json_object_get(object, "number");

    *number_r = *any_r = -1;
    json_object_foreach(object, name, value)
    {
        bool is_number = strcmp(name, "number") == 0;

        ok = ok && json_is_integer(value) && (is_number || strcmp(name, "any") == 0);
        ok = ok && (!is_number || (json_integer_value(value) >= 1 && json_integer_value(value) <= 100));
        if (ok)
            *(is_number ? number_r : any_r) = json_integer_value(value);
    }
    json_decref(object);
    return ok;
}

static void plain_bodies_are_read_as_jansson_reads_them(void **s)
{
    static const char *const bodies[] = {"{\"number\":7,\"any\":123456789012345678}", " { \"any\" : 0 ,\n\"number\": 100 } ", "{\"number\":1}",
                                         "{\"any\":9223372036854775807,\"number\":99}"};
    static const char alphabet[] = "{}\":,0123456789-+.eE \n\t[]numberay\\";
    uint64_t random = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 20261121;
    int good = 0;

    (void)s;
    printf("SEED=%llu\n", (unsigned long long)random);
    for (int i = 0; i < 50000; i++) {
        char body[64];
        int64_t want_number, want_any;
        struct gf_error error;
        size_t len = strlen(bodies[i % 4]);
        bool want;

        memcpy(body, bodies[i % 4], len);
        for (int edits = (int)((random = gf_hash_u64(random + 1)) % 4); edits > 0; edits--) {
            size_t at = (random = gf_hash_u64(random + 1)) % len;

            random = gf_hash_u64(random + 1);
            if (random % 3 == 0) {
                memmove(body + at, body + at + 1, --len - at);
            } else {
                if (random % 3 == 1)
                    memmove(body + at + 1, body + at, len++ - at);
                body[at] = alphabet[(random >> 8) % (sizeof(alphabet) - 1)];
            }
        }
        want = oracle(body, len, &want_number, &want_any);
        if ((read_body(body, len, &error) == GF_OK) != want)
            fail_msg("%.*s: jansson says %d", (int)len, body, want);
        if (want && (number != want_number || any != want_any))
            fail_msg("%.*s: other values", (int)len, body);
        good += want;
    }
    assert_true(good > 5000 && good < 45000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_bodies_are_read),
        cmocka_unit_test(bad_bodies_are_refused_with_a_reason),
        cmocka_unit_test(plain_bodies_are_read_as_jansson_reads_them),
        cmocka_unit_test(very_deep_bodies_do_not_recurse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
