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

/* The reply as text; "" for none. */
static const char *ask(const char *a, const char *b, const char *c)
{
    const struct gf_redis_arg args[] = {{a, strlen(a)}, {b, strlen(b)}, {c, strlen(c)}};
    static char text[200];
    struct gf_reply *reply = NULL;
    struct gf_error error;
    size_t len = 0;

    gf_redis_sync_command(redis, args, 3);
    assert_int_equal(gf_redis_sync_reply(redis, &reply, &error), GF_OK);
    text[0] = '\0';
    if (gf_reply_type(reply) == GF_REPLY_TEXT)
        snprintf(text, sizeof(text), "%s", gf_reply_text(reply, &len));
    gf_reply_free(&reply);
    return text;
}

static void publish(struct publisher *publisher, int64_t user_id, int64_t ver, int64_t balance)
{
    struct publish_item item = {.user_id = user_id, .ver = ver, .balance = balance, .status = 1};

    publisher_add(publisher, &item, 1);
}

static bool balance_becomes(const char *key, const char *balance)
{
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(10))
        if (strcmp(ask("HGET", key, "b"), balance) == 0)
            return true;
    return false;
}

static void a_wallet_key_of_another_type_holds_up_nobody(void **state)
{
    int64_t down = gf_metric_get(GF_M_REDIS_DOWN), refused = gf_metric_get(GF_M_PUBLISH_REFUSED);
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    ask("SET", "gf1:{u:1}:w", "not a hash");
    publish(publisher, 1, 5, 10);
    publish(publisher, 2, 5, 20);
    assert_true(balance_becomes("gf1:{u:2}:w", "20"));
    publish(publisher, 1, 6, 9);
    publish(publisher, 2, 6, 19); /* the connection is still good, and nothing old comes back */
    assert_true(balance_becomes("gf1:{u:2}:w", "19"));
    publisher_stop(&publisher, 60000);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_REFUSED) - refused, 2);
    assert_int_equal(gf_metric_get(GF_M_REDIS_DOWN) - down, 0);
    assert_int_equal(gf_metric_get(GF_M_PUBLISH_PENDING), 0);
}

static void a_lost_connection_is_made_anew_and_hears_the_last_30_s_again(void **state)
{
    struct publisher *publisher = publisher_start(&server.config);

    (void)state;
    publish(publisher, 3, 5, 30);
    assert_true(balance_becomes("gf1:{u:3}:w", "30"));
    gf_redis_sync_close(&redis);
    redis_server_kill(&server);
    redis_server_launch(&server); /* empty */
    assert_int_equal(gf_redis_sync_connect(&server.config, &redis, &(struct gf_error){0}), GF_OK);
    assert_true(balance_becomes("gf1:{u:3}:w", "30"));
    publisher_stop(&publisher, 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wallet_key_of_another_type_holds_up_nobody),
        cmocka_unit_test(a_lost_connection_is_made_anew_and_hears_the_last_30_s_again),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
