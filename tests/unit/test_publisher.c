/* SPDX-License-Identifier: Apache-2.0 */
/* settle's publisher against a real server: what it refuses for one wallet holds up nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/balance.h"
#include "gf/metrics.h"
#include "redis_server.h"
#include "settle/publisher.h"

static struct redis_server server;
static struct gf_redis_sync *redis;

static int setup(void **state)
{
    struct gf_error error;

    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* as main does */
    redis_server_init(&server);
    server.config.settle_dirty_max = 1000;
    server.config.settle_lanes = 2;
    redis_server_launch(&server);
    return gf_redis_sync_connect(&server.config, &redis, &error) == GF_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    gf_redis_sync_close(&redis);
    redis_server_stop(&server);
    return 0;
}

static void tell(const char *a, const char *b, const char *c, const char *d)
{
    const struct gf_redis_arg args[] = {{a, strlen(a)}, {b, strlen(b)}, {c, strlen(c)}, {d, d ? strlen(d) : 0}};
    struct gf_reply *reply = NULL;
    struct gf_error error;

    gf_redis_sync_command(redis, args, d ? 4 : 3);
    assert_int_equal(gf_redis_sync_reply(redis, &reply, &error), GF_OK);
    assert_int_not_equal(gf_reply_type(reply), GF_REPLY_ERROR);
    gf_reply_free(&reply);
}

/* -1: none. */
static int64_t balance_of(int64_t user_id)
{
    char key[GF_KEY_MAX];
    const struct gf_redis_arg args[] = {{"GET", 3}, {key, gf_key_wallet(key, 1, user_id)}};
    struct gf_cached_wallet wallet = {.balance = -1};
    struct gf_reply *reply = NULL;
    struct gf_error error;

    gf_redis_sync_command(redis, args, 2);
    assert_int_equal(gf_redis_sync_reply(redis, &reply, &error), GF_OK);
    if (gf_reply_type(reply) == GF_REPLY_TEXT) {
        size_t len;
        const char *text = gf_reply_text(reply, &len);

        assert_true(gf_cached_wallet_parse(text, len, &wallet));
    }
    gf_reply_free(&reply);
    return wallet.balance;
}

static void publish(struct publisher *publisher, int64_t user_id, int64_t ver, int64_t balance)
{
    struct publish_item item = {.user_id = user_id, .ver = ver, .balance = balance, .status = 1};

    publisher_add(publisher, &item, 1);
}

static bool balance_becomes(int64_t user_id, int64_t balance)
{
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(10))
        if (balance_of(user_id) == balance)
            return true;
    return false;
}

static void what_redis_refuses_for_a_while_holds_up_nobody(void **state)
{
    int64_t down = gf_metric_get(GF_M_REDIS_DOWN), refused = gf_metric_get(GF_M_PUBLISH_REFUSED);
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    tell("CONFIG", "SET", "maxmemory", "1"); /* nothing can be evicted: every write is refused */
    publish(publisher, 1, 5, 10);
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(10))
        if (gf_metric_get(GF_M_PUBLISH_REFUSED) - refused == 1)
            break;
    tell("CONFIG", "SET", "maxmemory", "0");
    publish(publisher, 2, 5, 20); /* the connection is still good, and nothing old comes back */
    assert_true(balance_becomes(2, 20));
    publisher_stop(&publisher, 60000);
    assert_int_equal(balance_of(1), -1);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_REFUSED) - refused, 1);
    assert_int_equal(gf_metric_get(GF_M_REDIS_DOWN) - down, 0);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_PENDING), 0);
}

/* A primary without replicas, in a fail-over say, refuses all writes and will take them: what was settled meanwhile is told then. */
static void what_redis_refuses_of_everybody_is_told_later(void **state)
{
    int64_t down = gf_metric_get(GF_M_REDIS_DOWN), refused = gf_metric_get(GF_M_PUBLISH_REFUSED);
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    tell("CONFIG", "SET", "min-replicas-to-write", "1");
    publish(publisher, 3, 5, 30);
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(10))
        if (gf_metric_get(GF_M_REDIS_DOWN) > down || gf_metric_get(GF_M_PUBLISH_REFUSED) > refused)
            break;
    tell("CONFIG", "SET", "min-replicas-to-write", "0");
    assert_true(balance_becomes(3, 30));
    publisher_stop(&publisher, 60000);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_REFUSED) - refused, 0);
}

static void a_wallet_key_of_another_type_is_replaced_and_counted(void **state)
{
    int64_t foreign = gf_metric_get(GF_M_REDIS_FOREIGN);
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    tell("HSET", "gf1:{u:4}:w2", "b", "1");
    publish(publisher, 4, 5, 10);
    publisher_stop(&publisher, 60000);
    assert_int_equal(balance_of(4), 10);
    assert_int_equal(gf_metric_get(GF_M_REDIS_FOREIGN) - foreign, 1);
}

/* Of many items of one user the newest balance leaves, in whatever order they came, and one call carries them all. */
static void what_waits_for_one_user_leaves_as_one(void **state)
{
    struct publish_item items[300];
    int64_t published = gf_metric_get(GF_M_PUBLISHED);
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    for (int i = 0; i < 300; i++)
        items[i] = (struct publish_item){
            .user_id = 5 + i % 2, .ver = i % 7 == 0 ? -1 : 1 + (i * 31) % 300, .balance = 1 + (i * 31) % 300, .status = 1};
    publisher_add(publisher, items, 300);
    publisher_stop(&publisher, 60000);
    for (int user = 5; user <= 6; user++) {
        int64_t newest = -1;

        for (int i = 0; i < 300; i++)
            if (items[i].user_id == user && items[i].ver > newest)
                newest = items[i].ver;
        assert_int_equal(balance_of(user), newest);
    }
    assert_int_equal(gf_metric_get(GF_M_PUBLISHED) - published, 2);
}

static void a_lost_connection_is_made_anew_and_hears_the_last_30_s_again(void **state)
{
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    publish(publisher, 3, 5, 30);
    assert_true(balance_becomes(3, 30));
    gf_redis_sync_close(&redis);
    redis_server_kill(&server);
    redis_server_launch(&server); /* empty */
    assert_int_equal(gf_redis_sync_connect(&server.config, &redis, &(struct gf_error){0}), GF_OK);
    assert_true(balance_becomes(3, 30));
    publisher_stop(&publisher, 60000);
}

/* Redis hangs: the ring keeps the newest, says how many it has lost and that there is no room; afterwards that there is. */
static void drops_and_room_can_be_seen(void **state)
{
    int64_t dropped = gf_metric_get(GF_M_PUBLISH_DROPPED), before_ms = gf_clock_mono_ms();
    struct publisher *publisher = publisher_start(&server.config);
    struct publisher_look look;

    (void)state;
    publisher_look(publisher, &look);
    assert_int_equal(look.dropped, 0);
    assert_int_equal(look.oldest_ms, INT64_MAX);
    assert_int_equal(look.room, 1000 / 4 / 2);
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(server.pid, NULL, WUNTRACED), server.pid); /* from now on it answers nothing */
    for (int i = 0; i < 1300; i++)
        publish(publisher, 100 + i, 5, 10);
    publisher_look(publisher, &look);
    assert_int_equal(look.dropped, 300);
    assert_int_equal(look.room, 0);
    assert_true(look.oldest_ms >= before_ms && look.oldest_ms <= gf_clock_mono_ms());
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    for (int64_t end = gf_clock_mono_ms() + 60000; look.oldest_ms != INT64_MAX && gf_clock_mono_ms() < end;) {
        gf_clock_sleep_ms(10);
        publisher_look(publisher, &look);
    }
    assert_int_equal(look.oldest_ms, INT64_MAX);
    assert_int_equal(look.dropped, 300);
    assert_true(look.room > 0);
    publisher_stop(&publisher, 60000);
    assert_int_equal(balance_of(100 + 1299), 10);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_DROPPED) - dropped, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_redis_refuses_for_a_while_holds_up_nobody),
        cmocka_unit_test(what_redis_refuses_of_everybody_is_told_later),
        cmocka_unit_test(a_wallet_key_of_another_type_is_replaced_and_counted),
        cmocka_unit_test(what_waits_for_one_user_leaves_as_one),
        cmocka_unit_test(a_lost_connection_is_made_anew_and_hears_the_last_30_s_again),
        cmocka_unit_test(drops_and_room_can_be_seen),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
