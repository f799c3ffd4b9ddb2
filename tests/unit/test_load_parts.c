/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the load harness, each by itself: reading frames, the table of requests, the reports, the options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/num.h"
#include "tool/load.h"

static struct gf_config config;

struct collected {
    int count;
    struct load_frame last;
};
static void collect(void *ctx, const struct load_frame *frame)
{
    struct collected *collected = ctx;

    collected->count++;
    collected->last = *frame;
}

static void frames_are_read(void **state)
{
    static const struct {
        const char *text;
        int count; /* -1: refused */
    } rows[] = {
        {"{\"code\":\"history_lost\",\"ch\":\"room\",\"seq\":5}", 1},
        {" [ {\"id\":\"1-2:5558\",\"ch\":\"user\",\"code\":5558} , {\"code\":5560,\"a\":[[],{}],\"ch\":\"room\"} ] ", 2},
        {"{}", 1},
        {"[{}]", 1},
        {"", -1},
        {"[]", -1},
        {"{", -1},
        {"[{}", -1},
        {"{}x", -1},
        {"{}{}", -1},
        {"\"text\"", -1},
        {"{\"code\":5556,\"ch\":\"room\"}", -1},                     /* no id, no request */
        {"{\"code\":5556,\"id\":\"1-2:5556\",\"data\":{\"request_id\":\"short\"}}", -1},
        {"{\"ch\":\"all\"}", -1},
        {"{\"id\":\"unfinished}", -1},
        {"{\"id\":\"x\\\"}", -1},
        {"{\"a\":}", -1},
        {"{\"a\" 1}", -1},
        {"{\"a\":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}", -1},
        {"{\"room_id\":1.5}", -1},
        {"{\"room_id\":99999999999999999999}", -1},
    };

    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        struct collected collected = {0};
        bool ok = load_frames_read(rows[i].text, strlen(rows[i].text), collect, &collected);

        if (ok != (rows[i].count >= 0) || (ok && collected.count != rows[i].count))
            fail_msg("row %zu: %s", i, rows[i].text);
    }
}

static void the_table_finds_every_request(void **state)
{
    struct load_table table;
    struct gf_uuid absent = gf_uuid_v7();

    (void)state;
    load_table_init(&table, 0);
    for (uint32_t i = 0; i < 20000; i++) { /* grows several times */
        uint32_t row = load_table_add(&table);

        assert_int_equal(row, i);
        table.rows[row].id = gf_uuid_v7();
        load_table_index(&table, row);
    }
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(load_table_find(&table, &table.rows[i].id), i);
    assert_int_equal(load_table_find(&table, &absent), LOAD_NONE);
    load_table_free(&table);
}

static void names_beyond_the_table_are_counted_as_other(void **state)
{
    struct load_name names[LOAD_NAMES] = {0};
    int64_t sum = 0;
    char text[16];

    (void)state;
    for (int i = 0; i < 100; i++)
        load_count_name(names, text, (size_t)snprintf(text, sizeof(text), "code%d", i % 50));
    for (int i = 0; i < LOAD_NAMES; i++)
        sum += names[i].count;
    assert_int_equal(sum, 100);
    assert_int_equal(names[0].count, 2);
    assert_string_equal(names[LOAD_NAMES - 1].text, "other");
}

static void both_reports_say_what_was_found(void **state)
{
    struct load_report *report = gf_xcalloc(1, sizeof(*report));
    struct load_opts opts = {.rate = 100, .seed = 5};
    struct gf_buf out;
    json_t *json;

    (void)state;
    gf_buf_init(&out, 65536);
    report->accepted = 7;
    report->answers[202] = 7;
    gf_hist_add(&report->answer, 1500);
    load_count_name(report->codes, "rate_limited", 12);
    load_violate(report, LOAD_V_NO_OUTCOME, NULL, "user \"7\"");
    load_report_json(&opts, report, &out);
    json = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        fail_msg("not JSON: %s", out.data);
    assert_int_equal(json_integer_value(json_object_get(json, "accepted")), 7);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "answers"), "202")), 7);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "violations"), "no_outcome")), 1);
    assert_true(json_is_false(json_object_get(json, "ok")));
    json_decref(json);
    gf_buf_reset(&out);
    load_report_human(&opts, report, &out);
    assert_non_null(strstr(out.data, "VIOLATION no_outcome 1"));
    assert_non_null(strstr(out.data, "verdict   VIOLATED"));
    gf_buf_free(&out);
    free(report);
}

static void options_are_checked(void **state)
{
    static const char *const bad[][3] = {
        {"--rate", "-1"},       {"--rate", "x"},      {"--rate", NULL},        {"--nothing", "1"},      {"--users", "5"},
        {"--users", "9-3"},     {"--gift", "1,,2"},   {"--gift", "0"},         {"--ingest", "host"},    {"--ingest", "http://h:0"},
        {"--ingest", "http://h:70000"}, {"--senders", "501"}, {"--bad-percent", "101"}, {"stray", "x"}, {"--gateway", "ws://:80"},
    };
    char *good[] = {"load", "--ingest", "http://a:1,http://b:2/", "--gateway", "ws://c:3", "--gift", "5,6", "--poor", "7-9", "--json"};
    struct load_opts opts;
    struct gf_error error;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(bad); i++) {
        char name[40], value[40];
        char *argv[] = {"load", name, value};

        snprintf(name, sizeof(name), "%s", bad[i][0]);
        snprintf(value, sizeof(value), "%s", bad[i][1] ? bad[i][1] : "");
        if (load_opts_parse(&config, bad[i][1] ? 3 : 2, argv, &opts, &error) != GF_REJECT)
            fail_msg("accepted %s %s", name, value);
    }
    assert_int_equal(load_opts_parse(&config, (int)GF_COUNT(good), good, &opts, &error), GF_OK);
    assert_int_equal(opts.ingest_count, 2);
    assert_string_equal(opts.ingest[1].host, "b");
    assert_int_equal(opts.ingest[1].port, 2);
    assert_int_equal(opts.gateway[0].port, 3);
    assert_int_equal(opts.gifts[1], 6);
    assert_int_equal(opts.poor_to, 9);
    assert_true(opts.json);
}

static int set_addresses(void **state)
{
    (void)state;
    gf_copy(config.ingest_bind, sizeof(config.ingest_bind), "127.0.0.1");
    gf_copy(config.gateway_bind, sizeof(config.gateway_bind), "127.0.0.1");
    config.ingest_port = config.gateway_port = 1;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_read),
        cmocka_unit_test(the_table_finds_every_request),
        cmocka_unit_test(names_beyond_the_table_are_counted_as_other),
        cmocka_unit_test(both_reports_say_what_was_found),
        cmocka_unit_test(options_are_checked),
    };

    return cmocka_run_group_tests(tests, set_addresses, NULL);
}
