/* SPDX-License-Identifier: Apache-2.0 */
/* The base library: each function's promise, with the awkward values. */
#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* cmocka needs the three above */
#include <cmocka.h>

#include "gf/buf.h"
#include "gf/clock.h"
#include "gf/config.h"
#include "gf/hash.h"
#include "gf/hist.h"
#include "gf/log.h"
#include "gf/map.h"
#include "gf/metrics.h"
#include "gf/num.h"

static void numbers_are_strict(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } rows[] = {
        {"0", true, 0}, {"7", true, 7}, {"-7", true, -7}, {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN}, {"9223372036854775808", false, 0}, {"", false, 0}, {"-", false, 0},
        {"-0", false, 0}, {"01", false, 0}, {"+1", false, 0}, {" 1", false, 0}, {"1 ", false, 0}, {"1e3", false, 0}, {"0x1", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        int64_t value = 99;

        assert_int_equal(gf_num_parse_i64(rows[i].text, strlen(rows[i].text), INT64_MIN, INT64_MAX, &value), rows[i].ok);
        assert_true(value == (rows[i].ok ? rows[i].value : 99));
    }
    int64_t value = 99;
    assert_false(gf_num_parse_i64("11", 2, 0, 10, &value));
    assert_int_equal(value, 99);
}

static void numbers_are_written_as_printf_does(void **state)
{
    int64_t values[2 * 20 * 3 + 2] = {INT64_MIN, INT64_MAX}, power = 1;
    size_t count = 2;

    (void)state;
    for (int i = 0; i < 19; i++, power = i < 19 ? power * 10 : power)
        for (int64_t near = power - 1; near <= power + 1; near++) {
            values[count++] = near;
            values[count++] = -near;
        }
    for (size_t i = 0; i < count; i++) {
        char text[GF_NUM_TEXT + 1], wanted[GF_NUM_TEXT + 2];
        char *end = gf_num_put(text, values[i]);

        *end = '\0';
        (void)snprintf(wanted, sizeof(wanted), "%" PRId64, values[i]);
        assert_string_equal(text, wanted);
    }
}

static void share_is_floor_without_overflow(void **state)
{
    (void)state;
    assert_int_equal(gf_money_share(99, 5000), 49);
    assert_int_equal(gf_money_share(0, 10000), 0);
    assert_int_equal(gf_money_share(1, 9999), 0);
    assert_true(gf_money_share(INT64_MAX, 10000) == INT64_MAX);
    assert_true(gf_money_share(INT64_MAX, 5000) == INT64_MAX / 2);
}

static void murmur2_equals_java(void **state)
{
    /* Vectors of Apache Kafka's UtilsTest.testMurmur2. */
    static const struct {
        const char *text;
        int32_t hash;
    } rows[] = {{"21", -973932308}, {"foobar", -790332482}, {"a-little-bit-long-string", -985981536},
                {"a-little-bit-longer-string", -1486304829}, {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
                {"abc", 479470107}};
    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++)
        assert_int_equal((int32_t)gf_murmur2(rows[i].text, strlen(rows[i].text)), rows[i].hash);
    assert_int_equal(gf_kafka_partition_for_user(21, 12), gf_kafka_partition("21", 2, 12));
}

static void uuids_round_trip(void **state)
{
    struct gf_uuid id, again;
    char text[GF_UUID_TEXT + 1];
    static const char *const bad[] = {"00000000-0000-0000-0000-000000000000", "0197a000-0000-7000-8000-00000000000",
                                      "0197a000-0000-7000-8000-0000000000000", "0197a000x0000-7000-8000-000000000000",
                                      "0197g000-0000-7000-8000-000000000000", "{197a000-0000-7000-8000-00000000000}"};
    (void)state;
    for (size_t i = 0; i < GF_COUNT(bad); i++)
        assert_false(gf_uuid_parse(bad[i], strlen(bad[i]), &id));
    assert_true(gf_uuid_parse("0197A000-BEEF-7abc-8000-00000000cafe", 36, &id));
    gf_uuid_format(&id, text);
    assert_string_equal(text, "0197a000-beef-7abc-8000-00000000cafe");
    assert_int_equal(gf_uuid_version(&id), 7);
    id = gf_uuid_v8();
    again = gf_uuid_v7();
    assert_int_equal(gf_uuid_version(&id), 8);
    assert_int_equal(gf_uuid_version(&again), 7);
    assert_true(llabs(gf_uuid_v7_ms(&again) - gf_clock_real_ms()) < 60000);
    assert_int_not_equal(gf_uuid_compare(&id, &again), 0);
}

/* Processes that have failed together must not come back together: the waits of one attempt differ. */
static void backoff_grows_to_its_bound_and_is_spread(void **state)
{
    (void)state;
    for (int attempt = 0; attempt <= 40; attempt += attempt < 8 ? 1 : 8) {
        int64_t top = attempt < 7 ? INT64_C(20) << attempt : 2000, least = INT64_MAX, most = 0;

        for (int i = 0; i < 1000; i++) {
            int64_t wait_ms = gf_backoff_ms(attempt, 20, 2000);

            least = wait_ms < least ? wait_ms : least;
            most = wait_ms > most ? wait_ms : most;
        }
        assert_in_range(least, 10, 10 + (top - 10) / 4); /* by chance once in 10^100 runs */
        assert_in_range(most, top - (top - 10) / 4, top);
    }
}

static void buffers_stop_at_their_maximum(void **state)
{
    struct gf_buf buf;

    (void)state;
    gf_buf_init(&buf, 10);
    gf_buf_adds(&buf, "12345");
    gf_buf_add_i64(&buf, -4321);
    assert_true(gf_buf_ok(&buf));
    assert_string_equal(buf.data, "12345-4321");
    gf_buf_addc(&buf, 'x');
    assert_false(gf_buf_ok(&buf));
    assert_int_equal(buf.len, 10);
    gf_buf_reset(&buf);
    gf_buf_add_i64(&buf, 7);
    assert_true(gf_buf_ok(&buf));
    gf_buf_free(&buf);
    gf_buf_init(&buf, 1000);
    gf_buf_add_i64(&buf, INT64_MIN);
    gf_buf_add_json(&buf, "a\"\\\n\x01", 5);
    gf_buf_add_xhex(&buf, "\x00\xff", 2);
    assert_string_equal(buf.data, "-9223372036854775808\"a\\\"\\\\\\u000a\\u0001\"x'00ff'");
    gf_buf_free(&buf);
}

static void histogram_quantiles_are_close(void **state)
{
    static struct gf_hist hist;

    (void)state;
    assert_int_equal(gf_hist_quantile(&hist, 0.5), 0);
    for (int64_t us = 1; us <= 100000; us++)
        gf_hist_add(&hist, us);
    assert_in_range(gf_hist_quantile(&hist, 0.5), 50000, 50000 * 1.016);
    assert_in_range(gf_hist_quantile(&hist, 0.99), 99000, 100000);
    assert_int_equal(gf_hist_quantile(&hist, 1), 100000);
    assert_int_equal(hist.count, 100000);
    gf_hist_add(&hist, INT64_MAX);
    assert_true(hist.max_us > 0);
}

static enum gf_class load_text(const char *text, struct gf_config *config, struct gf_error *error)
{
    char path[] = "/tmp/gf-config-XXXXXX";
    int fd = mkstemp(path);
    enum gf_class class;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    class = gf_config_load(config, path, error);
    unlink(path);
    return class;
}

static void configuration_names_what_and_where(void **state)
{
    static struct gf_config config;
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_OK);
    assert_int_equal(config.settle_lanes, 2);
    assert_int_equal(config.catalogue_refresh, 90000);
    assert_int_equal(load_text("[settle]\nlanes = 4\nretry_max = 5s\n", &config, &error), GF_OK);
    assert_int_equal(config.settle_lanes, 4);
    assert_int_equal(config.settle_retry_max, 5000);
    assert_int_equal(load_text("[settle]\nlanes = 4\nlans = 5\n", &config, &error), GF_REJECT);
    assert_non_null(strstr(error.text, ":3: unknown key settle.lans (did you mean lanes?)"));
    assert_int_equal(load_text("[settle]\nlanes = 0\n", &config, &error), GF_REJECT);
    assert_non_null(strstr(error.text, ":2: settle.lanes: 0 is out of range"));
    assert_int_equal(load_text("[settle]\nretry_max = 5\n", &config, &error), GF_REJECT);
    assert_int_equal(setenv("GIFTFLOW_SETTLE_LANES", "3", 1), 0);
    assert_int_equal(load_text("[settle]\nlanes = 4\n", &config, &error), GF_OK);
    assert_int_equal(config.settle_lanes, 3);
    assert_int_equal(setenv("GIFTFLOW_SETTLE_LANES", "many", 1), 0);
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_REJECT);
    assert_non_null(strstr(error.text, "GIFTFLOW_SETTLE_LANES"));
    unsetenv("GIFTFLOW_SETTLE_LANES");
    assert_int_equal(gf_config_load(&config, "/nonexistent", &error), GF_REJECT);
}

/* What an url of redis.url means: "name port" of each in turn, or "" when the configuration is refused. */
static void expect_redis(const char *url, const char *expected)
{
    static struct gf_config config;
    struct gf_host host;
    struct gf_error error;
    char text[300], found[300] = "";
    size_t len = 0;

    (void)snprintf(text, sizeof(text), "[redis]\nurl = %s\n", url);
    if (load_text(text, &config, &error) == GF_OK)
        for (int i = 0; i < gf_config_redis_shards(&config); i++) {
            assert_int_equal(gf_config_redis_host(&config, i, &host, &error), GF_OK);
            len += (size_t)snprintf(found + len, sizeof(found) - len, "%s%s %d", i > 0 ? "|" : "", host.name, host.port);
        }
    else
        assert_non_null(strstr(error.text, "redis.url"));
    assert_string_equal(found, expected);
}

static void a_redis_url_that_cannot_work_is_refused(void **state)
{
    static const char *const bad[] = {"redis://h:0",        "redis://h:65536", "redis://h:x",     "redis://h:1:2",
                                      "redis://:6379",      "redis://",        "redis:///",       "redis://u:p@h:1",
                                      "redis://h:6379/3",   "redis://[::1",    "rediss://h:6379", "h:6379",
                                      "redis://a,redis://", "redis://a,",      ",redis://a",      "redis://a,,redis://b",
                                      "unix://rel",         "unix:/a"};

    (void)state;
    expect_redis("redis://h", "h 6379");
    expect_redis("redis://h:7000/", "h 7000");
    expect_redis("redis://a:1,redis://b, unix:///run/r.sock ,redis://10.0.0.1:4", "a 1|b 6379|/run/r.sock 0|10.0.0.1 4");
    expect_redis("redis://[::1]:6380,redis://[fe80::2]", "::1 6380|fe80::2 6379");
    for (size_t i = 0; i < GF_COUNT(bad); i++)
        expect_redis(bad[i], "");
}

static void metrics_render_every_series_once(void **state)
{
    struct gf_buf out;

    (void)state;
    gf_buf_init(&out, 1 << 20);
    gf_metric_add(GF_M_BATCHES, 3);
    gf_histogram_observe_us(GF_H_SETTLE_SECONDS, 400);
    gf_histogram_observe_count(GF_H_SETTLE_BATCH, 3);
    gf_metrics_render("test", &out);
    assert_true(gf_buf_ok(&out));
    assert_non_null(strstr(out.data, "\ngiftflow_batches_total 3\n"));
    assert_non_null(strstr(out.data, "giftflow_settle_batch_duration_seconds_bucket{le=\"0.00025\"} 0\n"));
    assert_non_null(strstr(out.data, "giftflow_settle_batch_duration_seconds_bucket{le=\"0.0005\"} 1\n"));
    assert_non_null(strstr(out.data, "giftflow_settle_batch_duration_seconds_count 1\n"));
    assert_non_null(strstr(out.data, "giftflow_settle_batch_commands_bucket{le=\"2\"} 0\n"));
    assert_non_null(strstr(out.data, "giftflow_settle_batch_commands_bucket{le=\"4\"} 1\n"));
    gf_buf_free(&out);
}

static void a_map_keeps_all_of_a_key(void **state)
{
    static struct gf_map_node nodes[500];
    struct gf_map map = {0};
    size_t left;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(nodes); i++)
        gf_map_add(&map, &nodes[i], i % 7);
    for (size_t removed = 0; removed < GF_COUNT(nodes); removed++) {
        struct gf_map_node *node = &nodes[removed * 77 % GF_COUNT(nodes)];

        left = 0;
        for (const struct gf_map_node *at = gf_map_find(&map, node->key); at != NULL; at = gf_map_next(at))
            left++;
        gf_map_remove(&map, node);
        for (const struct gf_map_node *at = gf_map_find(&map, node->key); at != NULL; at = gf_map_next(at)) {
            assert_ptr_not_equal(at, node);
            left--;
        }
        assert_int_equal(left, 1);
        assert_int_equal(map.count, GF_COUNT(nodes) - removed - 1);
    }
    gf_map_free(&map);
}

/* One user may have tens of thousands of connections, and all of them may end at once. */
static void removing_one_of_a_key_looks_at_its_neighbours_only(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct gf_map_node *far = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct gf_map_node near[2];
    struct gf_map map = {0};

    (void)state;
    assert_ptr_not_equal(far, MAP_FAILED);
    gf_map_add(&map, &near[0], 1);
    gf_map_add(&map, &near[1], 1);
    gf_map_add(&map, far, 1);
    assert_int_equal(mprotect(far, page, PROT_NONE), 0);
    gf_map_remove(&map, &near[0]);
    assert_int_equal(mprotect(far, page, PROT_READ), 0);
    assert_ptr_equal(gf_map_next(far), &near[1]);
    assert_null(gf_map_next(&near[1]));
    gf_map_free(&map);
    assert_int_equal(munmap(far, page), 0);
}

/* What one call writes on stderr, from its pairs on. */
static const char *logged(void (*call)(const char *value), const char *value)
{
    static char line[4096];
    int saved = dup(STDERR_FILENO), ends[2];
    const char *pairs;
    ssize_t got;

    assert_true(saved >= 0);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    call(value);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    (void)close(ends[1]);
    got = read(ends[0], line, sizeof(line) - 1);
    (void)close(ends[0]);
    assert_in_range(got, 1, 1024);
    line[got] = '\0';
    pairs = strstr(line, " event=was_tried ");
    assert_non_null(pairs);
    return pairs + strlen(" event=was_tried ");
}

static void log_value(const char *value)
{
    gf_log(GF_ERROR, "was_tried", "lane=%d error=\"%s\" id=%s reason=\"of %.*s\"", 7, value, "a", 3, value);
}

static void a_value_in_a_log_line_ends_at_its_quote(void **state)
{
    static const char *const rows[][2] = {
        {"plain", "lane=7 error=\"plain\" id=a reason=\"of pla\"\n"},
        {"", "lane=7 error=\"\" id=a reason=\"of \"\n"},
        {"x\" level=debug y=\"", "lane=7 error=\"x\\\" level=debug y=\\\"\" id=a reason=\"of x\\\" \"\n"},
        {"\\", "lane=7 error=\"\\\\\" id=a reason=\"of \\\\\"\n"},
        {"a\nb\r\x1b[2J", "lane=7 error=\"a b  [2J\" id=a reason=\"of a b\"\n"},
    };
    char longest[3000];
    const char *line;
    size_t len;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++)
        assert_string_equal(logged(log_value, rows[i][0]), rows[i][1]);
    memset(longest, '"', sizeof(longest) - 1); /* cut, and still one value */
    longest[sizeof(longest) - 1] = '\0';
    line = logged(log_value, longest);
    len = strlen(line);
    assert_true(len > 800 && len % 2 == strlen("lane=7 error=\"\"\n") % 2);
    assert_string_equal(line + len - 4, "\\\"\"\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(a_map_keeps_all_of_a_key),
        cmocka_unit_test(removing_one_of_a_key_looks_at_its_neighbours_only),
        cmocka_unit_test(a_value_in_a_log_line_ends_at_its_quote),
        cmocka_unit_test(numbers_are_written_as_printf_does),
        cmocka_unit_test(share_is_floor_without_overflow),
        cmocka_unit_test(murmur2_equals_java),
        cmocka_unit_test(uuids_round_trip),
        cmocka_unit_test(backoff_grows_to_its_bound_and_is_spread),
        cmocka_unit_test(buffers_stop_at_their_maximum),
        cmocka_unit_test(histogram_quantiles_are_close),
        cmocka_unit_test(configuration_names_what_and_where),
        cmocka_unit_test(a_redis_url_that_cannot_work_is_refused),
        cmocka_unit_test(metrics_render_every_series_once),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
