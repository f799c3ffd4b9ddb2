/* SPDX-License-Identifier: Apache-2.0 */
/* The loader of cold wallets between a real MySQL and a real Redis, with settlement coming in between its read and its LOAD. */
#include "gf/metrics.h"
#include "ingest/ingest.h"
#include "mariadb.h"
#include "redis_fixture.h"

static struct mariadb mysql;
static struct gf_sql *books;
static struct gf_ingest ingest;
static int64_t meddled; /* the user whose wallet settlement changes before each LOAD; 0: nobody's */
static int64_t shared;  /* the user whose wallet another ingest forgets first; 0: nobody's */
static int loads;

static void sql(const char *fmt, ...) GF_PRINTF(1, 2);
static void sql(const char *fmt, ...)
{
    struct gf_error error;
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (gf_sql_exec(books, text, strlen(text), NULL, &error) != GF_OK)
        fail_msg("%s", error.text);
}

static int64_t ver_of(int64_t user)
{
    struct gf_sql_result *result = NULL;
    struct gf_error error;
    int64_t ver;

    assert_int_equal(gf_sql_queryf(books, &result, &error, "SELECT ver FROM wallet WHERE user_id = %lld", (long long)user), GF_OK);
    assert_true(gf_sql_next(result));
    ver = gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return ver;
}

/* One more version: first committed, then told to Redis. The balance is ten times the version. */
static void settle_one(int64_t user)
{
    sql("UPDATE wallet SET ver = ver + 1, balance = 10 * ver WHERE user_id = %lld", (long long)user);
    (void)publish(user, ver_of(user), 10 * ver_of(user), NULL, 0);
}

enum gf_class __real_gf_balance_load(struct gf_balance *cache, const struct gf_wallet_state *wallet, gf_stored_fn on_done, void *ctx);
enum gf_class __wrap_gf_balance_load(struct gf_balance *cache, const struct gf_wallet_state *wallet, gf_stored_fn on_done, void *ctx);
enum gf_class __wrap_gf_balance_load(struct gf_balance *cache, const struct gf_wallet_state *wallet, gf_stored_fn on_done, void *ctx)
{
    loads++;
    if (wallet->user_id == meddled)
        settle_one(meddled);
    return __real_gf_balance_load(cache, wallet, on_done, ctx);
}

/* Another ingest puts the wallet right, and holds 20 coins in it. */
static void put_right(int64_t user)
{
    uint8_t bytes[50 + 32], hold[32] = {7};
    char line[GF_KEY_MAX + 8], key[GF_KEY_MAX];
    size_t len;

    (void)gf_key_wallet(key, 1, user);
    snprintf(line, sizeof(line), "DEL %s", key);
    assert_string_equal(ask(line), "1");
    assert_int_equal(publish(user, ver_of(user), 10 * ver_of(user), NULL, 0), 1);
    assert_true(peek(key, bytes, sizeof(bytes), &len));
    assert_int_equal(len, 50);
    put_le(hold + 16, 20);
    put_le(hold + 24, strtoll(FAR, NULL, 10));
    put_le(bytes + 34, 20);
    memcpy(bytes + 50, hold, sizeof(hold));
    poke(key, bytes, sizeof(bytes));
}

enum gf_class __real_gf_balance_forget(struct gf_balance *cache, int64_t user_id, int64_t ver, gf_reply_fn on_reply, void *ctx);
enum gf_class __wrap_gf_balance_forget(struct gf_balance *cache, int64_t user_id, int64_t ver, gf_reply_fn on_reply, void *ctx);
enum gf_class __wrap_gf_balance_forget(struct gf_balance *cache, int64_t user_id, int64_t ver, gf_reply_fn on_reply, void *ctx)
{
    if (user_id == shared)
        put_right(user_id);
    return __real_gf_balance_forget(cache, user_id, ver, on_reply, ctx);
}

static enum gf_class load_cold(int64_t user)
{
    loads = 0;
    gf_balance_loader_load(ingest.balances, user, on_stored, NULL);
    run_loop();
    meddled = 0;
    return last_class;
}

static void open_wallet(int64_t user)
{
    sql("INSERT INTO wallet (user_id, ver, balance, status) VALUES (%lld, 5, 50, 1)", (long long)user);
}

static void is_as_in_mysql(int64_t user)
{
    assert_int_equal(strtoll(field(user, "v"), NULL, 10), ver_of(user));
    assert_int_equal(strtoll(field(user, "b"), NULL, 10), 10 * ver_of(user));
}

static void a_cold_wallet_is_loaded(void **state)
{
    (void)state;
    open_wallet(1);
    assert_int_equal(load_cold(1), GF_OK);
    is_as_in_mysql(1);
    assert_int_equal(load_cold(2), GF_OK);
    assert_string_equal(field(2, "v"), "0"); /* no such wallet */
}

/* Redis has heard of each version after it was committed: MySQL is not behind, and what is held stays held. */
static void settlement_that_is_always_faster_is_believed(void **state)
{
    int64_t behind = gf_metric_get(GF_M_WALLET_BEHIND);
    struct gf_reserve r = request(3, 1, 20);

    (void)state;
    open_wallet(3);
    given(3, 5, 50, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    meddled = 3;
    assert_int_equal(load_cold(3), GF_OK);
    assert_int_equal(loads, 2);
    is_as_in_mysql(3);
    assert_string_equal(field(3, "h"), "20");
    assert_int_equal(gf_metric_get(GF_M_WALLET_BEHIND), behind);
}

/* MySQL was restored, say. What settlement tells meanwhile is too old for Redis, until the wallet is forgotten there. */
static void a_redis_that_is_ahead_is_put_right(void **state)
{
    int64_t behind = gf_metric_get(GF_M_WALLET_BEHIND);

    (void)state;
    for (int64_t user = 4; user <= 5; user++) {
        open_wallet(user);
        assert_int_equal(publish(user, 1000, 77, NULL, 0), 1);
        meddled = user == 5 ? user : 0;
        assert_int_equal(load_cold(user), GF_OK);
        is_as_in_mysql(user);
    }
    assert_int_equal(gf_metric_get(GF_M_WALLET_BEHIND), behind + 2);
}

/* Two processes see the same; the second one must not forget what the first one has loaded, and holds. */
static void a_wallet_that_another_ingest_put_right_keeps_its_holds(void **state)
{
    (void)state;
    open_wallet(6);
    assert_int_equal(publish(6, 1000, 77, NULL, 0), 1);
    shared = 6;
    assert_int_equal(load_cold(6), GF_OK);
    shared = 0;
    is_as_in_mysql(6);
    assert_string_equal(field(6, "h"), "20");
    assert_string_equal(field(6, "n"), "1");
}

static void look_up(void *ctx)
{
    (void)ctx;
    if (gf_db_up(ingest.db))
        gf_loop_stop(loop);
}

static int start(void **state)
{
    struct gf_timer *poll;
    struct gf_error error;

    if (set_up(state) != 0)
        return -1;
    mariadb_start(&mysql);
    gf_copy(server.config.mysql_socket, sizeof(server.config.mysql_socket), mysql.config.mysql_socket);
    gf_copy(server.config.mysql_user, sizeof(server.config.mysql_user), mysql.config.mysql_user);
    gf_copy(server.config.mysql_database, sizeof(server.config.mysql_database), mysql.config.mysql_database);
    server.config.mysql_connect_timeout = server.config.mysql_read_timeout = 60000;
    server.config.ingest_db_threads = 1;
    server.config.ingest_db_queue = 1000;
    server.config.ingest_request_timeout = 60000;
    if (gf_sql_connect(&mysql.config, GF_SQL_PLAIN, &books, &error) != GF_OK)
        return -1;
    sql("CREATE TABLE wallet (user_id BIGINT PRIMARY KEY, ver BIGINT, balance BIGINT, status TINYINT) ENGINE=InnoDB");
    ingest = (struct gf_ingest){.config = &server.config, .loop = loop, .balance = balance};
    ingest.db = gf_db_start(loop, &server.config);
    ingest.balances = gf_balance_loader_create(&ingest);
    poll = gf_timer_start(loop, 1, 1, look_up, NULL);
    run_loop();
    gf_timer_close(&poll);
    return 0;
}

static int end(void **state)
{
    gf_db_stop(&ingest.db);
    gf_balance_loader_close(&ingest.balances);
    gf_sql_close(&books);
    mariadb_stop(&mysql);
    return tear_down(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cold_wallet_is_loaded),
        cmocka_unit_test(settlement_that_is_always_faster_is_believed),
        cmocka_unit_test(a_redis_that_is_ahead_is_put_right),
        cmocka_unit_test(a_wallet_that_another_ingest_put_right_keeps_its_holds),
    };

    return cmocka_run_group_tests(tests, start, end);
}
