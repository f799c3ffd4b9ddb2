/* SPDX-License-Identifier: Apache-2.0 */
/* The Redis links and the balance scripts against a real server. Times inside Redis are set by hand where a rule
 * depends on them, so that no test depends on how fast the machine is. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/balance.h"
#include "redis_server.h"

#define FAR "9000000000000000"

static struct redis_server server;
static struct gf_redis_sync *raw; /* looks at what the scripts left */
static struct gf_loop *loop;
static struct gf_redis *redis;
static struct gf_balance_rules rules = {.epoch = 1,
                                        .rate_per_second = 1000000,
                                        .lease_ms = 3600000,
                                        .hold_ttl_ms = 3600000,
                                        .marker_ttl_ms = 3600000,
                                        .double_click_ms = 3600000};

/* ---- helpers ---- */

static void stop_loop(void *ctx)
{
    (void)ctx;
    gf_loop_stop(loop);
}

static void on_deadline(void *ctx)
{
    (void)ctx;
    fail_msg("nothing came in 60 s");
}

static void run_loop(void)
{
    struct gf_timer *guard = gf_timer_start(loop, 60000, 0, on_deadline, NULL);

    gf_loop_run(loop);
    gf_timer_close(&guard);
}

/* A raw command of words divided by spaces; the reply as text ("" for nil). */
static const char *ask(const char *line)
{
    static char answer[512];
    struct gf_redis_arg args[16];
    struct gf_reply *reply = NULL;
    struct gf_error error;
    size_t count = 0, len;
    const char *text;

    while (*line) {
        size_t word = strcspn(line, " ");

        args[count++] = (struct gf_redis_arg){line, word};
        line += word + (line[word] == ' ');
    }
    gf_redis_sync_command(raw, args, count);
    if (gf_redis_sync_reply(raw, &reply, &error) != GF_OK)
        fail_msg("%s", error.text);
    answer[0] = '\0';
    switch (gf_reply_type(reply)) {
    case GF_REPLY_INT:
        snprintf(answer, sizeof(answer), "%" PRId64, gf_reply_int(reply));
        break;
    case GF_REPLY_TEXT:
    case GF_REPLY_STATUS:
    case GF_REPLY_ERROR:
        text = gf_reply_text(reply, &len);
        snprintf(answer, sizeof(answer), "%.*s", (int)len, text);
        break;
    case GF_REPLY_NIL:
    case GF_REPLY_ARRAY:
    default:
        break;
    }
    gf_reply_free(&reply);
    return answer;
}

static const char *field(int64_t user, const char *name)
{
    char line[160];

    snprintf(line, sizeof(line), "HGET gf1:{u:%" PRId64 "}:w %s", user, name);
    return ask(line);
}

static void set_field(int64_t user, const char *name, const char *value)
{
    char line[160];

    snprintf(line, sizeof(line), "HSET gf1:{u:%" PRId64 "}:w %s %s", user, name, value);
    (void)ask(line);
}

/* h:<rid> fields hold a space, which ask() would split. */
static void set_hold(int64_t user, const char *id, const char *value)
{
    char key[GF_KEY_MAX], name[64];
    size_t key_len = gf_key_wallet(key, 1, user);
    struct gf_reply *reply = NULL;
    struct gf_error error;

    snprintf(name, sizeof(name), "h:%s", id);
    struct gf_redis_arg args[] = {{"HSET", 4}, {key, key_len}, {name, strlen(name)}, {value, strlen(value)}};
    gf_redis_sync_command(raw, args, GF_COUNT(args));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    gf_reply_free(&reply);
}

static struct gf_reserve request(int64_t user, uint8_t id, int64_t amount)
{
    struct gf_reserve r = {.user_id = user, .amount = amount, .price = amount, .quantity = 1};

    r.request_id.b[0] = id;
    r.request_id.b[15] = 1;
    snprintf(r.fp, sizeof(r.fp), "00000000000000%02x", id);
    snprintf(r.nonce, sizeof(r.nonce), "%016x", 0xabc);
    return r;
}

static const char *id_text(uint8_t id)
{
    static char text[GF_UUID_TEXT + 1];
    struct gf_reserve r = request(1, id, 1);

    gf_uuid_format(&r.request_id, text);
    return text;
}

static const char *marker_of(const struct gf_reserve *r)
{
    char key[GF_KEY_MAX], line[GF_KEY_MAX + 8];

    (void)gf_key_marker(key, 1, r->user_id, &r->request_id);
    snprintf(line, sizeof(line), "GET %s", key);
    return ask(line);
}

static void set_marker(const struct gf_reserve *r, const char *value)
{
    char key[GF_KEY_MAX];
    size_t len = gf_key_marker(key, 1, r->user_id, &r->request_id);
    struct gf_redis_arg args[] = {{"SET", 3}, {key, len}, {value, strlen(value)}};
    struct gf_reply *reply = NULL;
    struct gf_error error;

    gf_redis_sync_command(raw, args, GF_COUNT(args));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    gf_reply_free(&reply);
}

static struct gf_reserve_reply last_reserve;

static void on_reserved(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    assert_non_null(reply);
    if (!gf_balance_reserve_reply(reply, &last_reserve))
        fail_msg("RESERVE: %s", gf_reply_type(reply) == GF_REPLY_ERROR ? gf_reply_text(reply, NULL) : "not its reply");
    gf_loop_stop(loop);
}

static enum gf_reserved reserve(const struct gf_reserve *r)
{
    assert_int_equal(gf_balance_reserve(redis, &rules, r, on_reserved, NULL), GF_OK);
    run_loop();
    return last_reserve.answer;
}

static int64_t last_int;

static void on_int(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    assert_non_null(reply);
    if (gf_reply_type(reply) == GF_REPLY_ERROR)
        fail_msg("%s", gf_reply_text(reply, NULL));
    last_int = gf_reply_type(reply) == GF_REPLY_INT ? gf_reply_int(reply) : -1;
    gf_loop_stop(loop);
}

/* Waits until everything sent before has been answered. */
static void barrier(void)
{
    struct gf_redis_arg ping[] = {{"PING", 4}};

    assert_int_equal(gf_redis_command(redis, ping, 1, on_int, NULL), GF_OK);
    run_loop();
}

static int64_t load(int64_t user, int64_t ver, int64_t balance, int status)
{
    struct gf_wallet_state wallet = {.user_id = user, .ver = ver, .balance = balance, .status = status};

    assert_int_equal(gf_balance_load(redis, 1, &wallet, on_int, NULL), GF_OK);
    run_loop();
    return last_int;
}

/* A wallet that stays fresh and confirmed however slow the test runs. */
static void given(int64_t user, int64_t ver, int64_t balance, int status)
{
    assert_int_equal(load(user, ver, balance, status), 1);
    set_field(user, "f", FAR);
    set_field(user, "c", FAR);
}

static int64_t publish(int64_t user, int64_t ver, int64_t balance, const struct gf_uuid *ids, size_t count)
{
    struct gf_wallet_state wallet = {.user_id = user, .ver = ver, .balance = balance, .status = 1};
    int calls = gf_balance_publish_sync(raw, 1, &wallet, ids, count);
    int64_t first = -1;

    for (int i = 0; i < calls; i++) {
        struct gf_reply *reply = NULL;
        struct gf_error error = {0};

        if (gf_redis_sync_reply(raw, &reply, &error) != GF_OK || gf_reply_type(reply) != GF_REPLY_INT)
            fail_msg("PUBLISH: %s", reply ? gf_reply_text(reply, NULL) : error.text);
        if (i == 0)
            first = gf_reply_int(reply);
        gf_reply_free(&reply);
    }
    return first;
}

/* ---- RESERVE ---- */

static void an_unknown_or_old_balance_is_stale_and_leaves_nothing(void **state)
{
    struct gf_reserve r = request(1, 1, 10);

    (void)state;
    assert_int_equal(reserve(&r), GF_RESERVED_STALE);
    assert_string_equal(ask("EXISTS gf1:{u:1}:w"), "0");
    given(1, 3, 100, 1);
    set_field(1, "f", "1");
    assert_int_equal(reserve(&r), GF_RESERVED_STALE);
    assert_string_equal(field(1, "n"), "");
    assert_string_equal(marker_of(&r), "");
}

static void a_hold_lowers_what_is_available_and_a_repeat_holds_once(void **state)
{
    struct gf_reserve r = request(2, 1, 60), other = request(2, 2, 41);

    (void)state;
    given(2, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(reserve(&r), GF_RESERVED_OK); /* the reply was lost, say: own nonce */
    assert_int_equal(last_reserve.price, 60);
    assert_int_equal(last_reserve.quantity, 1);
    assert_string_equal(field(2, "h"), "60");
    assert_string_equal(field(2, "n"), "1");
    assert_int_equal(reserve(&other), GF_RESERVED_INSUFFICIENT);
    assert_int_equal(last_reserve.available, 40);
    assert_string_equal(field(2, "h"), "60");
    assert_string_equal(marker_of(&other), ""); /* a refusal leaves the key unused */
    other.amount = 40;
    assert_int_equal(reserve(&other), GF_RESERVED_OK);
    assert_string_equal(field(2, "h"), "100");
}

static void the_marker_decides_before_anything_else(void **state)
{
    struct gf_reserve r = request(3, 1, 60), twin = r;
    struct gf_marker marker;

    (void)state;
    given(3, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    snprintf(twin.nonce, sizeof(twin.nonce), "%016x", 0xdef);
    twin.price = 70;
    assert_int_equal(reserve(&twin), GF_RESERVED_IN_PROGRESS);
    gf_balance_accept(redis, &rules, &r);
    barrier();
    assert_true(gf_marker_parse(marker_of(&r), strlen(marker_of(&r)), &marker));
    assert_true(marker.accepted);
    set_field(3, "s", "2"); /* a replay does not care about the wallet of now */
    assert_int_equal(reserve(&twin), GF_RESERVED_REPLAY);
    assert_int_equal(last_reserve.price, 60);
    twin.fp[0] = 'f';
    assert_int_equal(reserve(&twin), GF_RESERVED_MISMATCH);
}

static void accept_does_not_bring_a_lost_marker_back(void **state)
{
    struct gf_reserve r = request(4, 1, 60);

    (void)state;
    gf_balance_accept(redis, &rules, &r);
    barrier();
    assert_string_equal(marker_of(&r), "");
}

static void an_overdue_lease_is_taken_over_with_the_first_price(void **state)
{
    struct gf_reserve r = request(5, 1, 60), twin = r;

    (void)state;
    given(5, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    set_marker(&r, "P 0000000000000001 60 1 5 0000000000000abc");
    snprintf(twin.nonce, sizeof(twin.nonce), "%016x", 0xdef);
    twin.price = twin.amount = 70;
    assert_int_equal(reserve(&twin), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, 60); /* the first call may be in Kafka */
    assert_string_equal(field(5, "h"), "60");
    assert_string_equal(field(5, "n"), "1");
    assert_int_equal(reserve(&r), GF_RESERVED_IN_PROGRESS); /* the first caller is out */
    gf_balance_abort(redis, &rules, &r);
    barrier();
    assert_string_equal(field(5, "h"), "60"); /* and can no longer release */
}

static void a_take_over_without_hold_starts_anew(void **state)
{
    struct gf_reserve r = request(6, 1, 60);

    (void)state;
    given(6, 3, 100, 1);
    set_marker(&r, "P 0000000000000001 50 1 5 0000000000000def");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, 60);
    assert_string_equal(field(6, "h"), "60");
    assert_string_equal(field(6, "n"), "1");
}

static void a_no_needs_a_balance_confirmed_within_a_second(void **state)
{
    struct gf_reserve r = request(7, 1, 200);

    (void)state;
    given(7, 3, 100, 1);
    set_field(7, "c", "1");
    assert_int_equal(reserve(&r), GF_RESERVED_STALE); /* 402 */
    r.amount = 10;
    set_field(7, "s", "2");
    assert_int_equal(reserve(&r), GF_RESERVED_STALE); /* 403 */
    set_field(7, "c", FAR);
    assert_int_equal(reserve(&r), GF_RESERVED_FROZEN);
    given(8, 0, 0, 0);
    r.user_id = 8;
    assert_int_equal(reserve(&r), GF_RESERVED_NO_WALLET);
    set_field(8, "c", "1");
    assert_int_equal(reserve(&r), GF_RESERVED_STALE); /* 404 */
    assert_string_equal(field(8, "n"), "");
}

static void the_rate_is_per_second_and_replays_are_free(void **state)
{
    struct gf_reserve first = request(9, 255, 1);
    int ok = 0, limited = 0;

    (void)state;
    given(9, 3, 1000000, 1);
    rules.rate_per_second = 1;
    assert_int_equal(reserve(&first), GF_RESERVED_OK);
    for (int i = 0; i < 200; i++) { /* far more than seconds pass meanwhile */
        struct gf_reserve r = request(9, (uint8_t)i, 1);

        if (reserve(&r) == GF_RESERVED_OK)
            ok++;
        else if (last_reserve.answer == GF_RESERVED_LIMITED)
            limited++;
        assert_int_equal(reserve(&first), GF_RESERVED_OK);
    }
    rules.rate_per_second = 1000000;
    assert_int_equal(ok + limited, 200);
    assert_true(limited > 0);
    assert_true(last_reserve.wait_ms <= 1000);
}

static void due_holds_are_purged_when_they_are_in_the_way(void **state)
{
    struct gf_reserve due = request(10, 1, 60), live = request(10, 2, 30), r = request(10, 3, 70);

    (void)state;
    given(10, 3, 100, 1);
    assert_int_equal(reserve(&due), GF_RESERVED_OK);
    assert_int_equal(reserve(&live), GF_RESERVED_OK);
    set_hold(10, id_text(1), "60 5");
    r.amount = 71;
    assert_int_equal(reserve(&r), GF_RESERVED_INSUFFICIENT);
    assert_int_equal(last_reserve.available, 70);
    assert_string_equal(field(10, "h"), "30");
    assert_string_equal(field(10, "n"), "1");
    r.amount = 70;
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_string_equal(field(10, "h"), "100");
    assert_string_equal(field(10, "n"), "2");
    /* The late release of a purged hold changes nothing (F9: no negative sum). */
    assert_int_equal(publish(10, GF_PUBLISH_RELEASE, 0, &due.request_id, 1), 0);
    assert_string_equal(field(10, "h"), "100");
    assert_string_equal(field(10, "n"), "2");
}

static void a_wallet_has_at_most_so_many_holds(void **state)
{
    struct gf_reserve r = request(11, 1, 1);

    (void)state;
    given(11, 3, 1000000, 1);
    for (int i = 0; i < GF_HOLDS_MAX; i++) {
        r.request_id.b[1] = (uint8_t)(i >> 8);
        r.request_id.b[2] = (uint8_t)i;
        assert_int_equal(reserve(&r), GF_RESERVED_OK);
    }
    r.request_id.b[3] = 1;
    assert_int_equal(reserve(&r), GF_RESERVED_BUSY);
    assert_string_equal(field(11, "n"), "512");
    set_hold(11, "01000000-0000-0000-0000-000000000001", "1 5"); /* the first of them is due */
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_string_equal(field(11, "n"), "512");
    assert_string_equal(field(11, "h"), "512");
}

static void a_hold_whose_marker_was_evicted_is_not_added_twice(void **state)
{
    struct gf_reserve r = request(12, 1, 60);
    char line[GF_KEY_MAX + 8], key[GF_KEY_MAX];

    (void)state;
    given(12, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    (void)gf_key_marker(key, 1, 12, &r.request_id);
    snprintf(line, sizeof(line), "DEL %s", key);
    assert_string_equal(ask(line), "1");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_string_equal(field(12, "h"), "60");
    assert_string_equal(field(12, "n"), "1");
}

static void an_equal_keyless_request_is_a_double_click(void **state)
{
    struct gf_reserve r = request(13, 1, 10), again = request(13, 2, 10);

    (void)state;
    given(13, 3, 100, 1);
    r.keyless = again.keyless = true;
    gf_copy(again.fp, sizeof(again.fp), r.fp);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(reserve(&again), GF_RESERVED_DOUBLE_CLICK);
    assert_string_equal(field(13, "n"), "1");
    gf_balance_abort(redis, &rules, &r); /* the first never happened */
    barrier();
    assert_int_equal(reserve(&again), GF_RESERVED_OK);
    r.fp[0] = 'a';
    assert_int_equal(reserve(&r), GF_RESERVED_OK); /* another gift is no double click */
}

static void a_lookup_says_what_the_marker_says_and_nothing_more(void **state)
{
    struct gf_reserve r = request(14, 1, 60), look = r;

    (void)state;
    given(14, 3, 100, 1);
    look.lookup = true;
    snprintf(look.nonce, sizeof(look.nonce), "%016x", 0xdef);
    assert_int_equal(reserve(&look), GF_RESERVED_NONE);
    assert_string_equal(field(14, "n"), "");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(reserve(&look), GF_RESERVED_IN_PROGRESS);
    gf_balance_accept(redis, &rules, &r);
    barrier();
    assert_int_equal(reserve(&look), GF_RESERVED_REPLAY);
    assert_int_equal(last_reserve.price, 60);
    /* A first call that nobody answered is taken over, so that settlement decides it. */
    set_marker(&r, "P 0000000000000001 60 1 5 0000000000000abc");
    assert_int_equal(publish(14, GF_PUBLISH_RELEASE, 0, &r.request_id, 1), 0);
    assert_int_equal(reserve(&look), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, 60);
}

/* ---- ABORT, LOAD, PUBLISH ---- */

static void abort_releases_only_its_own_unanswered_call(void **state)
{
    struct gf_reserve r = request(20, 1, 60), other = r;

    (void)state;
    given(20, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    snprintf(other.nonce, sizeof(other.nonce), "%016x", 0xdef);
    gf_balance_abort(redis, &rules, &other);
    barrier();
    assert_string_equal(field(20, "h"), "60");
    gf_balance_abort(redis, &rules, &r);
    gf_balance_abort(redis, &rules, &r); /* a repeat is safe */
    barrier();
    assert_string_equal(field(20, "h"), "0");
    assert_string_equal(field(20, "n"), "0");
    assert_string_equal(marker_of(&r), "");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    gf_balance_accept(redis, &rules, &r);
    gf_balance_abort(redis, &rules, &r); /* answered: never undone */
    barrier();
    assert_string_equal(field(20, "h"), "60");
}

static void load_takes_what_is_not_older_and_keeps_holds(void **state)
{
    struct gf_reserve r = request(21, 1, 60);

    (void)state;
    given(21, 5, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(load(21, 4, 900, 1), 0);
    assert_string_equal(field(21, "b"), "100");
    assert_int_equal(load(21, 5, 100, 1), 1);
    assert_int_equal(load(21, 6, 70, 2), 1);
    assert_string_equal(field(21, "b"), "70");
    assert_string_equal(field(21, "v"), "6");
    assert_string_equal(field(21, "s"), "2");
    assert_string_equal(field(21, "h"), "60");
    assert_int_equal(load(22, 0, 0, 0), 1); /* no such wallet */
    assert_int_equal(load(22, 1, 0, 1), 1); /* now there is one */
    assert_true(strtoll(ask("PTTL gf1:{u:21}:w"), NULL, 10) > 0);
}

static void large_numbers_stay_exact(void **state)
{
    struct gf_reserve r = request(23, 1, GF_ID_MAX - 1);

    (void)state;
    given(23, GF_ID_MAX, GF_ID_MAX, 1);
    assert_string_equal(field(23, "b"), "9007199254740991");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, GF_ID_MAX - 1);
    assert_string_equal(field(23, "h"), "9007199254740990");
    assert_int_equal(publish(23, GF_ID_MAX, 1, &r.request_id, 1), 1);
    assert_string_equal(field(23, "h"), "0");
}

/* F9: a rejected command leaves the version as it was, and its hold must go all the same. */
static void f9_every_publish_releases_whatever_the_version(void **state)
{
    struct gf_reserve a = request(24, 1, 60), b = request(24, 2, 30);
    struct gf_uuid ids[2] = {a.request_id, b.request_id};

    (void)state;
    given(24, 5, 100, 1);
    assert_int_equal(reserve(&a), GF_RESERVED_OK);
    assert_int_equal(reserve(&b), GF_RESERVED_OK);
    assert_int_equal(publish(24, 4, 999, ids, 1), 0); /* older balance, valid release */
    assert_string_equal(field(24, "b"), "100");
    assert_string_equal(field(24, "h"), "30");
    assert_int_equal(publish(24, 5, 100, ids, 2), 1); /* the same version, one id again */
    assert_string_equal(field(24, "h"), "0");
    assert_string_equal(field(24, "n"), "0");
    assert_int_equal(publish(24, 6, 40, ids, 2), 1);
    assert_string_equal(field(24, "h"), "0");
    assert_string_equal(field(24, "n"), "0");
    assert_string_equal(field(24, "b"), "40");
}

/* F9: the key has expired and was loaded anew; releases of the holds that died with it come late. */
static void f9_a_late_release_never_makes_holds_negative(void **state)
{
    struct gf_reserve a = request(25, 1, 90), b = request(25, 2, 10);

    (void)state;
    given(25, 5, 100, 1);
    assert_int_equal(reserve(&a), GF_RESERVED_OK);
    assert_string_equal(ask("DEL gf1:{u:25}:w"), "1");
    assert_int_equal(publish(25, GF_PUBLISH_RELEASE, 0, &a.request_id, 1), 0);
    assert_string_equal(ask("EXISTS gf1:{u:25}:w"), "0"); /* a release alone creates nothing */
    given(25, 6, 10, 1);
    assert_int_equal(publish(25, 6, 10, &a.request_id, 1), 1);
    set_field(25, "f", FAR);
    assert_int_equal(reserve(&b), GF_RESERVED_OK);
    assert_string_equal(field(25, "h"), "10");
}

static void publish_splits_long_lists_and_counts_a_doubled_id_once(void **state)
{
    static struct gf_uuid ids[600];
    struct gf_reserve r = request(26, 1, 1);

    (void)state;
    given(26, 5, 1000, 1);
    for (int i = 0; i < 500; i++) {
        r.request_id.b[1] = (uint8_t)(i >> 8);
        r.request_id.b[2] = (uint8_t)i;
        ids[i] = r.request_id;
        assert_int_equal(reserve(&r), GF_RESERVED_OK);
    }
    for (int i = 500; i < 600; i++)
        ids[i] = ids[i % 2];
    assert_int_equal(publish(26, 6, 500, ids, 600), 1);
    assert_string_equal(field(26, "n"), "0");
    assert_string_equal(field(26, "h"), "0");
    assert_string_equal(field(26, "b"), "500");
}

static void markers_are_parsed_strictly(void **state)
{
    static const char *const bad[] = {"",
                                      "A",
                                      "X 0000000000000001 60 1 5 0000000000000abc",
                                      "A 1 60 1 5 a",
                                      "A 0000000000000001 0 1 5 a",
                                      "A 0000000000000001 60 1 5 a b",
                                      "P 0000000000000001 60 1 x a",
                                      "P 0000000000000001  60 1 5"};
    struct gf_marker marker;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(bad); i++)
        assert_false(gf_marker_parse(bad[i], strlen(bad[i]), &marker));
    assert_true(gf_marker_parse("P 0000000000000001 60 2 5 0000000000000abc", 42, &marker));
    assert_false(marker.accepted);
    assert_int_equal(marker.price, 60);
    assert_int_equal(marker.quantity, 2);
    assert_int_equal(marker.lease_ms, 5);
}

/* ---- links ---- */

static void forgotten_scripts_are_sent_again(void **state)
{
    struct gf_reserve r = request(30, 1, 60);
    struct gf_wallet_state wallet = {.user_id = 30, .ver = 4, .balance = 50, .status = 1};

    (void)state;
    given(30, 3, 100, 1);
    assert_string_equal(ask("SCRIPT FLUSH"), "OK");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_string_equal(ask("SCRIPT FLUSH"), "OK");
    /* Pipelined: order of replies stays the order of calls. */
    (void)gf_balance_publish_sync(raw, 1, &wallet, NULL, 0);
    struct gf_redis_arg echo[] = {{"ECHO", 4}, {"x", 1}};
    gf_redis_sync_command(raw, echo, 2);
    wallet.ver = 2;
    (void)gf_balance_publish_sync(raw, 1, &wallet, NULL, 0);
    for (int i = 0; i < 3; i++) {
        struct gf_reply *reply = NULL;
        struct gf_error error;

        assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
        if (i == 1)
            assert_string_equal(gf_reply_text(reply, NULL), "x");
        else
            assert_int_equal(gf_reply_int(reply), i == 0 ? 1 : 0);
        gf_reply_free(&reply);
    }
}

static int null_replies, up_calls;

static void on_null(void *ctx, const struct gf_reply *reply)
{
    struct gf_redis **link = ctx;
    struct gf_redis_arg ping[] = {{"PING", 4}};

    if (reply)
        return;
    null_replies++;
    /* A callback may try again at once: it is told so, nothing is queued on the dead connection. */
    assert_int_equal(gf_redis_command(*link, ping, 1, on_null, ctx), GF_RETRY);
}

static void on_up(void *ctx)
{
    (void)ctx;
    up_calls++;
    gf_loop_stop(loop);
}

static void poll_down(void *ctx)
{
    struct gf_redis **link = ctx;

    if (!gf_redis_up(*link))
        gf_loop_stop(loop);
}

static void commands_in_flight_get_null_when_the_server_dies_and_the_link_comes_back(void **state)
{
    struct redis_server own;
    struct gf_redis *link;
    struct gf_timer *poll;
    struct gf_redis_arg block[] = {{"BLPOP", 5}, {"nothing", 7}, {"0", 1}};

    (void)state;
    redis_server_init(&own);
    link = gf_redis_create(loop, &own.config, on_up, NULL); /* refused at first: there is no socket */
    assert_int_equal(gf_redis_command(link, block, 3, on_null, &link), GF_RETRY);
    redis_server_launch(&own);
    up_calls = null_replies = 0;
    run_loop();
    assert_int_equal(up_calls, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(gf_redis_command(link, block, 3, on_null, &link), GF_OK);
    redis_server_kill(&own);
    poll = gf_timer_start(loop, 5, 5, poll_down, &link);
    run_loop();
    gf_timer_close(&poll);
    assert_int_equal(null_replies, 3);
    redis_server_launch(&own);
    run_loop();
    assert_int_equal(up_calls, 2);
    gf_redis_close(&link);
    redis_server_stop(&own);
}

static void a_silent_server_is_left_at_the_deadline(void **state)
{
    struct redis_server own;
    struct gf_redis *link;
    struct gf_timer *poll;
    struct gf_redis_arg ping[] = {{"PING", 4}};

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    own.config.redis_timeout = 200;
    up_calls = null_replies = 0;
    link = gf_redis_create(loop, &own.config, on_up, NULL);
    run_loop();
    assert_int_equal(kill(own.pid, SIGSTOP), 0);
    assert_int_equal(gf_redis_command(link, ping, 1, on_null, &link), GF_OK);
    poll = gf_timer_start(loop, 5, 5, poll_down, &link);
    run_loop();
    gf_timer_close(&poll);
    assert_int_equal(null_replies, 1);
    assert_int_equal(kill(own.pid, SIGCONT), 0);
    run_loop();
    assert_true(up_calls >= 2);
    gf_redis_close(&link);
    redis_server_stop(&own);
}

static void what_is_in_flight_is_bounded(void **state)
{
    struct gf_redis_arg ping[] = {{"PING", 4}};
    int taken = 0;

    (void)state;
    while (taken < 100000 && gf_redis_command(redis, ping, 1, NULL, NULL) == GF_OK)
        taken++;
    assert_int_equal(taken, 20000);
    while (gf_redis_command(redis, ping, 1, on_int, NULL) != GF_OK) {
        struct gf_timer *soon = gf_timer_start(loop, 1, 0, stop_loop, NULL);

        run_loop();
        gf_timer_close(&soon);
    }
    run_loop();
}

static void a_refused_port_and_a_bad_address_leave_the_link_down(void **state)
{
    static struct gf_config config = {.redis_timeout = 100, .redis_epoch = 1};
    static const char *const urls[] = {"redis://127.0.0.1:1", "redis://localhost:1", "http://x", "redis://u:p@h:1",
                                       "unix://rel"};
    struct gf_redis_sync *blocking = NULL;
    struct gf_error error;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(urls); i++) {
        struct gf_redis *link;
        struct gf_timer *soon;

        gf_copy(config.redis_url, sizeof(config.redis_url), urls[i]);
        link = gf_redis_create(loop, &config, on_up, NULL);
        soon = gf_timer_start(loop, 300, 0, stop_loop, NULL);
        run_loop();
        gf_timer_close(&soon);
        assert_false(gf_redis_up(link));
        gf_redis_close(&link);
        assert_int_not_equal(gf_redis_sync_connect(&config, &blocking, &error), GF_OK);
        assert_null(blocking);
    }
}

static int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* as src/main.c does */
    redis_server_init(&server);
    redis_server_launch(&server);
    if (gf_redis_sync_connect(&server.config, &raw, &error) != GF_OK)
        return -1;
    loop = gf_loop_create();
    redis = gf_redis_create(loop, &server.config, stop_loop, NULL);
    run_loop();
    return gf_redis_up(redis) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    gf_redis_close(&redis);
    gf_loop_destroy(&loop);
    gf_redis_sync_close(&raw);
    redis_server_stop(&server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_or_old_balance_is_stale_and_leaves_nothing),
        cmocka_unit_test(a_hold_lowers_what_is_available_and_a_repeat_holds_once),
        cmocka_unit_test(the_marker_decides_before_anything_else),
        cmocka_unit_test(accept_does_not_bring_a_lost_marker_back),
        cmocka_unit_test(an_overdue_lease_is_taken_over_with_the_first_price),
        cmocka_unit_test(a_take_over_without_hold_starts_anew),
        cmocka_unit_test(a_no_needs_a_balance_confirmed_within_a_second),
        cmocka_unit_test(the_rate_is_per_second_and_replays_are_free),
        cmocka_unit_test(due_holds_are_purged_when_they_are_in_the_way),
        cmocka_unit_test(a_wallet_has_at_most_so_many_holds),
        cmocka_unit_test(a_hold_whose_marker_was_evicted_is_not_added_twice),
        cmocka_unit_test(an_equal_keyless_request_is_a_double_click),
        cmocka_unit_test(a_lookup_says_what_the_marker_says_and_nothing_more),
        cmocka_unit_test(abort_releases_only_its_own_unanswered_call),
        cmocka_unit_test(load_takes_what_is_not_older_and_keeps_holds),
        cmocka_unit_test(large_numbers_stay_exact),
        cmocka_unit_test(f9_every_publish_releases_whatever_the_version),
        cmocka_unit_test(f9_a_late_release_never_makes_holds_negative),
        cmocka_unit_test(publish_splits_long_lists_and_counts_a_doubled_id_once),
        cmocka_unit_test(markers_are_parsed_strictly),
        cmocka_unit_test(forgotten_scripts_are_sent_again),
        cmocka_unit_test(what_is_in_flight_is_bounded),
        cmocka_unit_test(commands_in_flight_get_null_when_the_server_dies_and_the_link_comes_back),
        cmocka_unit_test(a_silent_server_is_left_at_the_deadline),
        cmocka_unit_test(a_refused_port_and_a_bad_address_leave_the_link_down),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
