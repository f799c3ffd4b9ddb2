/* SPDX-License-Identifier: Apache-2.0 */
/* The two Redis links against a real server: refused, killed, silent, forgetful. */
#include "redis_fixture.h"
#include "two_addresses.h"

static bool named; /* both.test is */

/* ---- links ---- */

static void forgotten_scripts_are_sent_again(void **state)
{
    struct gf_reserve r = request(30, 1, 60);
    struct gf_publish item = {.wallet = {.user_id = 30, .ver = 4, .balance = 50, .status = 1}};

    (void)state;
    given(30, 3, 100, 1);
    assert_string_equal(ask("SCRIPT FLUSH"), "OK");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_string_equal(ask("SCRIPT FLUSH"), "OK");
    /* Pipelined: order of replies stays the order of calls. */
    assert_int_equal(gf_balance_publish_many_sync(raw, 1, &item, 1), 1);
    struct gf_redis_arg echo[] = {{"ECHO", 4}, {"x", 1}};
    gf_redis_sync_command(raw, echo, 2);
    item.wallet.ver = 2;
    assert_int_equal(gf_balance_publish_many_sync(raw, 1, &item, 1), 1);
    for (int i = 0; i < 3; i++) {
        struct gf_reply *reply = NULL;
        struct gf_error error;

        assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
        if (i == 1)
            assert_string_equal(gf_reply_text(reply, NULL), "x");
        else
            assert_string_equal(gf_reply_text(reply, NULL), i == 0 ? "1" : "0");
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

/* One command to a server of the test's own. */
static void tell(struct redis_server *own, const struct gf_redis_arg *args, size_t count)
{
    struct gf_redis_sync *link = NULL;
    struct gf_reply *reply = NULL;
    struct gf_error error;

    assert_int_equal(gf_redis_sync_connect(&own->config, &link, &error), GF_OK);
    gf_redis_sync_command(link, args, count);
    assert_int_equal(gf_redis_sync_reply(link, &reply, &error), GF_OK);
    assert_int_equal(gf_reply_type(reply), GF_REPLY_STATUS);
    gf_reply_free(&reply);
    gf_redis_sync_close(&link);
}

static void write_password(const struct gf_config *config, const char *password)
{
    FILE *file = fopen(config->redis_password_file, "w");

    assert_non_null(file);
    assert_true(fputs(password, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void a_password_is_sent_and_read_anew_for_each_connect(void **state)
{
    struct gf_redis_arg require[] = {{"CONFIG", 6}, {"SET", 3}, {"requirepass", 11}, {"open sesame", 11}};
    struct gf_redis_sync *blocking = NULL;
    struct redis_server own;
    struct gf_redis *link;
    struct gf_timer *soon;
    struct gf_error error;

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    tell(&own, require, GF_COUNT(require));
    assert_int_equal(gf_redis_sync_connect(&own.config, &blocking, &error), GF_RETRY);
    snprintf(own.config.redis_password_file, sizeof(own.config.redis_password_file), "%s/password", own.dir);
    write_password(&own.config, "wrong");
    up_calls = 0;
    link = gf_redis_create(loop, &own.config, on_up, NULL);
    soon = gf_timer_start(loop, 300, 0, stop_loop, NULL);
    run_loop();
    gf_timer_close(&soon);
    assert_false(gf_redis_up(link));
    write_password(&own.config, "open sesame");
    run_loop();
    assert_int_equal(up_calls, 1);
    assert_int_equal(gf_redis_sync_connect(&own.config, &blocking, &error), GF_OK);
    gf_redis_sync_close(&blocking);
    gf_redis_close(&link);
    (void)unlink(own.config.redis_password_file);
    redis_server_stop(&own);
}

static void a_server_that_became_a_replica_is_left(void **state)
{
    struct gf_redis_arg replica[] = {{"REPLICAOF", 9}, {"127.0.0.1", 9}, {"1", 1}};
    struct gf_redis_arg set[] = {{"SET", 3}, {"x", 1}, {"y", 1}};
    struct redis_server own;
    struct gf_redis *link;

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    up_calls = 0;
    link = gf_redis_create(loop, &own.config, on_up, NULL);
    run_loop();
    tell(&own, replica, GF_COUNT(replica));
    assert_int_equal(gf_redis_command(link, set, GF_COUNT(set), NULL, NULL), GF_OK);
    run_loop(); /* until it is up again: the only way is through a new connection */
    assert_int_equal(up_calls, 2);
    gf_redis_close(&link);
    redis_server_stop(&own);
}

static void poll_any_down(void *ctx)
{
    struct gf_balance *const *cache = ctx;

    if (!gf_balance_all_up(*cache))
        gf_loop_stop(loop);
}

static void poll_up(void *ctx)
{
    struct gf_balance *const *cache = ctx;

    if (gf_balance_all_up(*cache))
        gf_loop_stop(loop);
}

static void wait_for(gf_loop_fn poll, struct gf_balance **cache)
{
    struct gf_timer *timer = gf_timer_start(loop, 1, 1, poll, cache);

    run_loop();
    gf_timer_close(&timer);
}

/* Two servers on one port: at the address that the resolver lists first, and at the other one. */
static void launch_both(struct redis_server *first, struct redis_server *other)
{
    redis_server_init(first);
    redis_server_init(other);
    assert_true(two_addresses(first->bind, other->bind, first->port));
    gf_copy(other->port, sizeof(other->port), first->port);
    redis_server_launch(first);
    redis_server_launch(other);
}

static bool took_write;

static void on_written(void *ctx, const struct gf_reply *reply)
{
    (void)ctx;
    took_write = reply && gf_reply_type(reply) == GF_REPLY_STATUS;
    gf_loop_stop(loop);
}

/* False: not at this attempt. */
static bool write_blocking(const struct gf_config *config, const struct gf_redis_arg *args, size_t count)
{
    struct gf_redis_sync *link = NULL;
    struct gf_reply *reply = NULL;
    struct gf_error error;
    bool done = false;

    if (gf_redis_sync_connect(config, &link, &error) != GF_OK)
        return false;
    gf_redis_sync_command(link, args, count);
    done = gf_redis_sync_reply(link, &reply, &error) == GF_OK && gf_reply_type(reply) == GF_REPLY_STATUS;
    gf_reply_free(&reply);
    gf_redis_sync_close(&link);
    return done;
}

/* The resolver lists the replica first, or an address where nobody listens any more, at every look-up. */
static void the_primary_is_found_among_the_addresses_of_a_name(void **state)
{
    struct gf_redis_arg replica[] = {{"REPLICAOF", 9}, {"127.0.0.1", 9}, {"1", 1}};
    struct gf_redis_arg set[] = {{"SET", 3}, {"x", 1}, {"y", 1}};
    static struct gf_config config = {.redis_timeout = REDIS_PATIENCE_MS, .redis_epoch = 1};
    struct redis_server first, other;
    struct gf_redis *link;
    int tries = 0;

    (void)state;
    if (!named)
        skip(); /* no right to a namespace */
    launch_both(&first, &other);
    (void)snprintf(config.redis_url, sizeof(config.redis_url), "redis://both.test:%s", first.port);
    tell(&first, replica, GF_COUNT(replica));
    link = gf_redis_create(loop, &config, on_up, NULL);
    for (took_write = false; !took_write;) {
        assert_true(++tries < 64);
        run_loop(); /* up */
        if (gf_redis_command(link, set, GF_COUNT(set), on_written, NULL) == GF_OK)
            run_loop();
    }
    gf_redis_close(&link);
    for (tries = 0; !write_blocking(&config, set, GF_COUNT(set));)
        assert_true(++tries < 64);
    redis_server_stop(&first);
    for (int i = 0; i < 8; i++)
        for (tries = 0; !write_blocking(&config, set, GF_COUNT(set));)
            assert_true(++tries < 64);
    redis_server_stop(&other);
}

/* The scripts catch what goes wrong for one request; that nothing can be written at all is for the link. */
static void a_script_that_may_not_write_leaves_the_server(void **state)
{
    struct gf_redis_arg replica[] = {{"REPLICAOF", 9}, {"127.0.0.1", 9}, {"1", 1}};
    struct gf_wallet_state wallet = {.user_id = 40, .ver = 1, .balance = 100, .status = 1};
    struct gf_reserve r = request(40, 1, 60);
    struct gf_balance *cache;
    struct redis_server own;

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    own.config.ingest_rate_per_second = 1000;
    own.config.ingest_lease = own.config.ingest_hold_ttl = own.config.ingest_marker_ttl = 3600000;
    cache = gf_balance_create(loop, &own.config);
    wait_for(poll_up, &cache);
    gf_balance_publish(cache, &wallet);
    assert_int_equal(gf_balance_get_wallet(cache, 40, on_any, NULL), GF_OK);
    run_loop();
    tell(&own, replica, GF_COUNT(replica));
    assert_int_equal(gf_balance_reserve(cache, &r, on_reserved, NULL), GF_OK);
    wait_for(poll_any_down, &cache);
    assert_int_equal(last_reserve.answer, 0);
    wait_for(poll_up, &cache);
    assert_int_equal(gf_balance_load(cache, &wallet, on_stored, NULL), GF_OK);
    wait_for(poll_any_down, &cache);
    assert_int_equal(last_class, GF_RETRY);
    gf_balance_close(&cache);
    redis_server_stop(&own);
}

/* A replica without its primary that serves nothing (replica-serve-stale-data no) must not be taken for Redis meanwhile. */
static void a_replica_that_has_lost_its_primary_is_left(void **state)
{
    struct gf_redis_arg stale[] = {{"CONFIG", 6}, {"SET", 3}, {"replica-serve-stale-data", 24}, {"no", 2}};
    struct gf_redis_arg replica[] = {{"REPLICAOF", 9}, {"127.0.0.1", 9}, {"1", 1}};
    struct gf_reserve r = request(40, 1, 60);
    struct gf_balance *cache;
    struct redis_server own;

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    cache = gf_balance_create(loop, &own.config);
    wait_for(poll_up, &cache);
    tell(&own, stale, GF_COUNT(stale));
    tell(&own, replica, GF_COUNT(replica));
    assert_int_equal(gf_balance_reserve(cache, &r, on_reserved, NULL), GF_OK);
    run_loop();
    assert_int_equal(last_reserve.answer, 0);
    assert_false(gf_balance_all_up(cache)); /* a new connection may lead to the primary */
    gf_balance_close(&cache);
    redis_server_stop(&own);
}

/* The server takes the call, and its reply finds nobody: the abort waits until it is back, and meets nobody else's hold. */
static void what_was_reserved_without_a_reply_is_given_back(void **state)
{
    struct gf_reserve lost = request(27, 1, 60), other = request(27, 2, 40), later = lost, old = request(27, 3, 7);

    (void)state;
    given(27, 3, 100, 1);
    assert_int_equal(reserve(&old), GF_RESERVED_OK);
    old.begun_ms -= server.config.ingest_lease + 1;
    server.config.redis_timeout = 200;
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    assert_int_equal(reserve(&lost), 0);
    assert_false(gf_balance_up(balance, 27));
    gf_balance_abort(balance, &lost);
    gf_balance_abort(balance, &other); /* of which the server never hears */
    gf_balance_abort(balance, &old); /* a later call may have taken it over */
    server.config.redis_timeout = REDIS_PATIENCE_MS;
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    do
        wait_for(poll_up, &balance);
    while (!gf_balance_all_up(balance) || !gf_redis_up(redis)); /* whose return stops the loop, too */
    barrier(); /* the first turn that could has sent them */
    barrier();
    assert_string_equal(field(27, "h"), "7");
    assert_true(has_marker(&old));
    assert_false(has_marker(&lost));
    snprintf(later.nonce, sizeof(later.nonce), "%016x", 0xdef);
    assert_int_equal(reserve(&later), GF_RESERVED_OK);
    gf_balance_abort(balance, &lost);
    barrier();
    assert_string_equal(field(27, "h"), "67");
}

static void on_held(void *ctx, const struct gf_reply *reply)
{
    struct gf_cached_wallet wallet;
    size_t len;
    const char *text = reply && gf_reply_type(reply) == GF_REPLY_TEXT ? gf_reply_text(reply, &len) : NULL;

    if (text && gf_cached_wallet_parse(text, len, &wallet))
        *(int64_t *)ctx = wallet.held;
    gf_loop_stop(loop);
}

/* The primary has become a replica, and is made the primary again: an abort that it refused meanwhile has waited. */
static void an_abort_that_a_replica_refuses_waits_for_the_primary(void **state)
{
    struct gf_redis_arg replica[] = {{"REPLICAOF", 9}, {"127.0.0.1", 9}, {"1", 1}};
    struct gf_redis_arg primary[] = {{"REPLICAOF", 9}, {"NO", 2}, {"ONE", 3}};
    struct gf_wallet_state wallet = {.user_id = 42, .ver = 1, .balance = 100, .status = 1};
    struct gf_reserve r = request(42, 1, 60);
    struct gf_balance *cache;
    struct redis_server own;
    int64_t held = -1;

    (void)state;
    redis_server_init(&own);
    redis_server_launch(&own);
    own.config.ingest_rate_per_second = 1000;
    own.config.ingest_lease = own.config.ingest_hold_ttl = own.config.ingest_marker_ttl = 3600000;
    cache = gf_balance_create(loop, &own.config);
    wait_for(poll_up, &cache);
    gf_balance_publish(cache, &wallet);
    assert_int_equal(gf_balance_reserve(cache, &r, on_reserved, NULL), GF_OK);
    run_loop();
    assert_int_equal(last_reserve.answer, GF_RESERVED_OK);
    tell(&own, replica, GF_COUNT(replica));
    gf_balance_abort(cache, &r);
    wait_for(poll_any_down, &cache);
    tell(&own, primary, GF_COUNT(primary));
    for (int i = 0; held != 0 && i < 100; i++) { /* the link may still go down for what it was told as a replica */
        wait_for(poll_up, &cache);
        if (gf_balance_get_wallet(cache, 42, on_held, &held) == GF_OK)
            run_loop();
    }
    assert_int_equal(held, 0);
    gf_balance_close(&cache);
    redis_server_stop(&own);
}

/* What was asked for in a turn whose end the link does not live to see is answered: nobody knows. */
static void what_was_gathered_is_answered_when_the_cache_closes(void **state)
{
    struct gf_wallet_state wallet = {.user_id = 41, .ver = 1, .balance = 100, .status = 1};
    struct gf_reserve r = request(41, 1, 60);
    struct gf_balance *cache = gf_balance_create(loop, &server.config);

    (void)state;
    wait_for(poll_up, &cache);
    last_reserve.answer = GF_RESERVED_OK;
    last_class = GF_OK;
    assert_int_equal(gf_balance_reserve(cache, &r, on_reserved, NULL), GF_OK);
    assert_int_equal(gf_balance_load(cache, &wallet, on_stored, NULL), GF_OK);
    gf_balance_abort(cache, &r); /* nobody waits for it */
    gf_balance_close(&cache);
    assert_int_equal(last_reserve.answer, 0);
    assert_int_equal(last_class, GF_RETRY);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forgotten_scripts_are_sent_again),
        cmocka_unit_test(commands_in_flight_get_null_when_the_server_dies_and_the_link_comes_back),
        cmocka_unit_test(a_silent_server_is_left_at_the_deadline),
        cmocka_unit_test(what_is_in_flight_is_bounded),
        cmocka_unit_test(a_password_is_sent_and_read_anew_for_each_connect),
        cmocka_unit_test(a_server_that_became_a_replica_is_left),
        cmocka_unit_test(the_primary_is_found_among_the_addresses_of_a_name),
        cmocka_unit_test(a_script_that_may_not_write_leaves_the_server),
        cmocka_unit_test(a_replica_that_has_lost_its_primary_is_left),
        cmocka_unit_test(what_was_reserved_without_a_reply_is_given_back),
        cmocka_unit_test(an_abort_that_a_replica_refuses_waits_for_the_primary),
        cmocka_unit_test(what_was_gathered_is_answered_when_the_cache_closes),
        cmocka_unit_test(a_refused_port_and_a_bad_address_leave_the_link_down),
    };

    named = name_two_addresses();
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
