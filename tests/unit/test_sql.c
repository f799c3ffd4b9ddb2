/* SPDX-License-Identifier: Apache-2.0 */
/* gf/sql.h against a real server: sessions, values, and above all the class of each error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/metrics.h"
#include "mariadb.h"
#include "two_addresses.h"

static bool named; /* both.test is */
static struct mariadb db, second;

static struct gf_sql *connect_as(enum gf_sql_session session)
{
    struct gf_sql *sql = NULL;
    struct gf_error error;

    assert_int_equal(gf_sql_connect(&db.config, session, &sql, &error), GF_OK);
    return sql;
}

static void must(struct gf_sql *sql, const char *text)
{
    struct gf_error error = {0};

    if (gf_sql_exec(sql, text, strlen(text), NULL, &error) != GF_OK)
        fail_msg("%s: %s", text, error.text);
}

/* MySQL has no CREATE OR REPLACE. */
static void renew(struct gf_sql *sql, const char *table, const char *columns)
{
    struct gf_error error = {0};

    if (gf_sql_execf(sql, &error, "DROP TABLE IF EXISTS %s", table) != GF_OK ||
        gf_sql_execf(sql, &error, "CREATE TABLE %s %s", table, columns) != GF_OK)
        fail_msg("%s: %s", table, error.text);
}

static enum gf_class try(struct gf_sql *sql, const char *text, struct gf_error *error_r)
{
    return gf_sql_exec(sql, text, strlen(text), NULL, error_r);
}

static int64_t value_of(struct gf_sql *sql, const char *text)
{
    struct gf_sql_result *result = NULL;
    struct gf_error error;
    int64_t value;

    assert_int_equal(gf_sql_query(sql, text, strlen(text), &result, &error), GF_OK);
    assert_true(gf_sql_next(result));
    value = gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return value;
}

static void a_settle_session_has_short_timeouts_and_strict_mode(void **state)
{
    struct gf_sql *sql = connect_as(GF_SQL_SETTLE);

    (void)state;
    assert_int_equal(value_of(sql, "SELECT @@wait_timeout"), 10);
    assert_int_equal(value_of(sql, "SELECT @@net_read_timeout"), 10);
    assert_int_equal(value_of(sql, "SELECT @@net_write_timeout"), 10);
    assert_int_equal(value_of(sql, "SELECT @@innodb_lock_wait_timeout"), 5);
    assert_int_equal(value_of(sql, mariadb_is_mysql() ? "SELECT @@transaction_isolation='READ-COMMITTED'"
                                                      : "SELECT @@tx_isolation='READ-COMMITTED'"), 1);
    assert_int_equal(value_of(sql, "SELECT @@sql_mode LIKE '%STRICT_ALL_TABLES%'"), 1);
    assert_int_equal(value_of(sql, "SELECT @@time_zone='+00:00'"), 1);
    if (!mariadb_is_mysql())
        assert_int_equal(value_of(sql, "SELECT @@in_predicate_conversion_threshold"), 0);
    assert_int_equal(value_of(sql, "SELECT @@character_set_client='utf8mb4'"), 1);
    gf_sql_close(&sql);
    assert_null(sql);
}

/* Of a Galera cluster. */
static void a_session_reads_what_other_nodes_have_committed(void **state)
{
    struct gf_sql *plain = connect_as(GF_SQL_PLAIN), *settle = connect_as(GF_SQL_SETTLE);

    (void)state;
    if (!mariadb_is_mysql()) { /* which has no such variable */
        assert_int_equal(value_of(plain, "SELECT @@wsrep_sync_wait"), 7);
        assert_int_equal(value_of(settle, "SELECT @@wsrep_sync_wait"), 7);
    }
    gf_sql_close(&plain);
    gf_sql_close(&settle);
}

static void values_come_back_as_they_went_in(void **state)
{
    struct gf_sql *sql = connect_as(GF_SQL_PLAIN);
    struct gf_sql_result *result = NULL;
    struct gf_error error;
    struct gf_buf text;
    struct gf_uuid id;
    size_t len;

    (void)state;
    renew(sql, "v", "(id BINARY(16) NOT NULL, n BIGINT NULL, t VARCHAR(50)) CHARSET utf8mb4");
    gf_buf_init(&text, 4096);
    gf_buf_adds(&text, "INSERT INTO v VALUES (x'000102030405060708090a0b0c0d0e00', -9223372036854775808, ");
    gf_sql_add_text(sql, &text, "a'b\\c\0d", 7);
    gf_buf_adds(&text, "), (x'00', NULL, '')");
    assert_true(gf_buf_ok(&text));
    assert_int_equal(gf_sql_exec(sql, text.data, text.len, NULL, &error), GF_OK);
    assert_int_equal(gf_sql_queryf(sql, &result, &error, "SELECT id, n, t FROM v ORDER BY id DESC"), GF_OK);
    assert_int_equal(gf_sql_result_count(result), 2);
    assert_true(gf_sql_next(result));
    gf_sql_uuid(result, 0, &id);
    assert_int_equal(id.b[14], 14);
    assert_int_equal(id.b[15], 0);
    assert_true(gf_sql_i64(result, 1) == INT64_MIN);
    assert_memory_equal(gf_sql_bytes(result, 2, &len), "a'b\\c\0d", 7);
    assert_int_equal(len, 7);
    assert_true(gf_sql_next(result));
    assert_true(gf_sql_is_null(result, 1));
    assert_int_equal(gf_sql_i64(result, 1), 0);
    assert_false(gf_sql_next(result));
    assert_false(gf_sql_result_failed(result, &error));
    gf_sql_result_free(&result);
    gf_buf_free(&text);
    gf_sql_close(&sql);
}

static void affected_counts_changed_rows_only(void **state)
{
    struct gf_sql *sql = connect_as(GF_SQL_PLAIN);
    struct gf_error error;
    int64_t affected = -1;

    (void)state;
    renew(sql, "a", "(id INT PRIMARY KEY, n INT)");
    must(sql, "INSERT INTO a VALUES (1,1),(2,2),(3,3)");
    assert_int_equal(gf_sql_exec(sql, "UPDATE a SET n=2", 16, &affected, &error), GF_OK);
    assert_int_equal(affected, 2); /* row 2 was 2 already */
    gf_sql_close(&sql);
}

static void data_errors_are_rejects_and_keep_the_connection(void **state)
{
    const struct {
        const char *text;
        int native;
    } rows[] = {
        {"INSERT INTO e VALUES (1, 'x', 1)", 1062},          {"INSERT INTO e VALUES (2, 'x', -1)", mariadb_is_mysql() ? 3819 : 4025},
        {"INSERT INTO e VALUES (3, 'xxxxx', 1)", 1406},      {"INSERT INTO e VALUES (99999999999, 'x', 1)", 1264},
        {"INSERT INTO e VALUES (4, 'x', NULL)", 1048},       {"INSERT INTO e VALUES (5, 'x', 'abc')", 1366},
        {"SELEC 1", 1064},
    };
    struct gf_sql *sql = connect_as(GF_SQL_SETTLE);
    struct gf_error error;

    (void)state;
    renew(sql, "e", "(id INT PRIMARY KEY, t VARCHAR(3) NOT NULL, n INT NOT NULL, CHECK (n >= 0))");
    must(sql, "INSERT INTO e VALUES (1, 'a', 1)");
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        assert_int_equal(try(sql, rows[i].text, &error), GF_REJECT);
        assert_int_equal(error.native, rows[i].native);
        assert_int_equal(error.class, GF_REJECT);
        assert_int_equal(gf_sql_is_duplicate(&error), rows[i].native == 1062);
        assert_false(gf_sql_lost(sql));
    }
    assert_int_equal(value_of(sql, "SELECT COUNT(*) FROM e"), 1);
    gf_sql_close(&sql);
}

static void schema_errors_are_fatal_not_the_records_fault(void **state)
{
    struct gf_sql *sql = connect_as(GF_SQL_PLAIN);
    struct gf_error error;

    (void)state;
    assert_int_equal(try(sql, "INSERT INTO no_such_table VALUES (1)", &error), GF_FATAL);
    renew(sql, "f", "(id INT)");
    assert_int_equal(try(sql, "UPDATE f SET no_such_column=1", &error), GF_FATAL);
    gf_sql_close(&sql);
}

static void lock_waits_and_deadlocks_are_retries(void **state)
{
    struct gf_sql *a = connect_as(GF_SQL_SETTLE), *b = connect_as(GF_SQL_SETTLE);
    struct gf_error error;

    (void)state;
    renew(a, "l", "(id INT PRIMARY KEY, n INT) ENGINE=InnoDB");
    must(a, "INSERT INTO l VALUES (1,1),(2,2)");
    must(b, "SET SESSION innodb_lock_wait_timeout=1");
    assert_int_equal(gf_sql_begin(a, &error), GF_OK);
    must(a, "UPDATE l SET n=n+1 WHERE id=1");
    assert_int_equal(gf_sql_begin(b, &error), GF_OK);
    assert_int_equal(try(b, "UPDATE l SET n=n+1 WHERE id=1", &error), GF_RETRY);
    assert_int_equal(error.native, 1205);
    assert_false(gf_sql_lost(b));
    gf_sql_rollback(b);
    assert_int_equal(gf_sql_commit(a, &error), GF_OK);
    assert_int_equal(value_of(b, "SELECT n FROM l WHERE id=1"), 2);
    gf_sql_close(&a);
    gf_sql_close(&b);
}

static void a_killed_connection_is_lost_and_its_commit_uncertain(void **state)
{
    struct gf_sql *a = connect_as(GF_SQL_SETTLE), *b = connect_as(GF_SQL_PLAIN);
    struct gf_error error;
    int64_t id = value_of(a, "SELECT CONNECTION_ID()");

    (void)state;
    renew(a, "k", "(id INT PRIMARY KEY) ENGINE=InnoDB");
    assert_int_equal(gf_sql_begin(a, &error), GF_OK);
    must(a, "INSERT INTO k VALUES (1)");
    assert_int_equal(gf_sql_execf(b, &error, "KILL %lld", (long long)id), GF_OK);
    while (value_of(b, "SELECT COUNT(*) FROM information_schema.innodb_trx") != 0)
        gf_clock_sleep_ms(150); /* the server rolls back on its own time, and renews this table only when nobody has read it for 100 ms */
    assert_int_equal(gf_sql_commit(a, &error), GF_UNCERTAIN);
    assert_int_equal(error.class, GF_UNCERTAIN);
    assert_true(gf_sql_lost(a));
    gf_sql_rollback(a); /* harmless on a lost connection */
    assert_int_equal(gf_sql_ping(a, &error), GF_RETRY);
    assert_int_equal(value_of(b, "SELECT COUNT(*) FROM k"), 0);
    gf_sql_close(&a);
    gf_sql_close(&b);
}

static void a_read_only_server_takes_no_settlement(void **state)
{
    struct gf_sql *plain = connect_as(GF_SQL_PLAIN), *user = NULL, *settle = NULL;
    struct gf_error error;
    struct gf_config config = db.config;
    int64_t lost;

    (void)state;
    must(plain, "DROP USER IF EXISTS small@localhost");
    must(plain, "CREATE USER small@localhost");
    must(plain, "GRANT ALL ON giftflow.* TO small@localhost");
    renew(plain, "ro", "(id INT PRIMARY KEY)");
    gf_copy(config.mysql_user, sizeof(config.mysql_user), "small");
    assert_int_equal(gf_sql_connect(&config, GF_SQL_SETTLE, &user, &error), GF_OK);
    must(plain, "SET GLOBAL read_only=1");
    lost = gf_metric_get(GF_M_MYSQL_DOWN);
    assert_int_equal(try(user, "INSERT INTO ro VALUES (1)", &error), GF_RETRY); /* 1290: fail over, reconnect */
    assert_true(gf_sql_lost(user));
    assert_int_equal(gf_sql_connect(&config, GF_SQL_SETTLE, &settle, &error), GF_RETRY);
    assert_null(settle);
    assert_int_equal(gf_metric_get(GF_M_MYSQL_DOWN) - lost, 2); /* one lost, one refused */
    must(plain, "SET GLOBAL read_only=0");
    gf_sql_close(&user);
    gf_sql_close(&plain);
}

/* Beyond it the connection breaks and says nothing: the longest statement must fit before there is one. */
static void a_server_of_short_packets_takes_no_settlement(void **state)
{
    struct gf_sql *plain = connect_as(GF_SQL_PLAIN), *settle = NULL;
    struct gf_error error = {0};

    (void)state;
    must(plain, "SET GLOBAL max_allowed_packet=4194304");
    assert_int_equal(gf_sql_connect(&db.config, GF_SQL_SETTLE, &settle, &error), GF_RETRY);
    assert_null(settle);
    assert_non_null(strstr(error.text, "max_allowed_packet is 4194304"));
    must(plain, "SET GLOBAL max_allowed_packet=8388608");
    settle = connect_as(GF_SQL_SETTLE);
    gf_sql_close(&settle);
    gf_sql_close(&plain);
}

static void streamed_rows_end_with_a_known_end(void **state)
{
    static const char text[] = "SELECT a.n+b.n*10+c.n*100+d.n*1000+e.n*10000+1 FROM digit a, digit b, digit c, digit d, digit e";
    struct gf_sql *sql = connect_as(GF_SQL_PLAIN);
    struct gf_sql_result *result = NULL;
    struct gf_error error;
    int64_t sum = 0;

    (void)state;
    renew(sql, "digit", "(n INT PRIMARY KEY)");
    must(sql, "INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)");
    assert_int_equal(gf_sql_stream(sql, text, strlen(text), &result, &error), GF_OK);
    while (gf_sql_next(result))
        sum += gf_sql_i64(result, 0);
    assert_false(gf_sql_result_failed(result, &error));
    gf_sql_result_free(&result);
    assert_true(sum == INT64_C(5000050000));
    gf_sql_close(&sql);
}

static void a_server_that_is_gone_is_a_retry(void **state)
{
    struct gf_sql *sql = connect_as(GF_SQL_PLAIN), *other = NULL;
    struct gf_sql_result *result = NULL;
    struct gf_error error;
    struct gf_config stranger = db.config;
    int64_t lost = gf_metric_get(GF_M_MYSQL_DOWN);

    (void)state;
    gf_copy(stranger.mysql_user, sizeof(stranger.mysql_user), "nobody_knows");
    assert_int_equal(gf_sql_connect(&stranger, GF_SQL_PLAIN, &other, &error), GF_RETRY);
    mariadb_kill(&db);
    assert_int_equal(gf_sql_queryf(sql, &result, &error, "SELECT 1"), GF_RETRY);
    assert_true(gf_sql_lost(sql));
    assert_int_equal(gf_sql_connect(&db.config, GF_SQL_PLAIN, &other, &error), GF_RETRY);
    assert_int_equal(gf_metric_get(GF_M_MYSQL_DOWN) - lost, 3); /* one lost, two refused */
    mariadb_launch(&db);
    assert_int_equal(gf_sql_connect(&db.config, GF_SQL_PLAIN, &other, &error), GF_OK);
    gf_sql_close(&other);
    gf_sql_close(&sql);
}

/* What `hosts` means: "name port" of each, in turn. */
static void expect_hosts(const char *hosts, const char *expected)
{
    struct gf_host found[GF_MYSQL_HOSTS_MAX];
    struct gf_config config = {.mysql_port = 3306};
    char text[512] = "none";
    size_t len = 0;
    int count;

    gf_copy(config.mysql_hosts, sizeof(config.mysql_hosts), hosts);
    count = gf_config_mysql_hosts(&config, found);
    for (int i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s %d", i > 0 ? "|" : "", found[i].name, found[i].port);
    assert_string_equal(text, expected);
}

static void hosts_are_read_strictly(void **state)
{
    (void)state;
    expect_hosts("db1:3307", "db1 3307");
    expect_hosts("db1:3307, db2 ,10.0.0.3:1", "db1 3307|db2 3306|10.0.0.3 1");
    expect_hosts("/run/a.sock,[::1]:3308,[fe80::2]", "/run/a.sock 0|::1 3308|fe80::2 3306");
    expect_hosts("a,b,c,d,e,f,g,h", "a 3306|b 3306|c 3306|d 3306|e 3306|f 3306|g 3306|h 3306");
    for (size_t i = 0; i < 13; i++) {
        static const char *const bad[] = {",",     "a,",    ",a",   "a,,b",  "a:0",   "a:65536",          "a:x",
                                          "a:1:2", ":3306", "[::1", "[]:33", "a b:1", "a,b,c,d,e,f,g,h,i"};
        expect_hosts(bad[i], "none");
    }
}

/* The libraries take the name "localhost" for the socket of their own default, whatever port stands behind it. */
static void localhost_is_the_port_and_not_the_librarys_socket(void **state)
{
    struct gf_config config = db.config;
    struct gf_sql *sql = NULL;
    struct gf_error error = {0};

    (void)state;
    config.mysql_socket[0] = '\0';
    gf_copy(config.mysql_hosts, sizeof(config.mysql_hosts), "localhost:1");
    assert_int_equal(gf_sql_connect(&config, GF_SQL_PLAIN, &sql, &error), GF_RETRY); /* nobody listens there */
    assert_null(sql);
    assert_null(strstr(error.text, "socket"));
    assert_non_null(strstr(error.text, ":1: "));
    gf_copy(config.mysql_hosts, sizeof(config.mysql_hosts), "no.such.name.invalid:1");
    assert_int_equal(gf_sql_connect(&config, GF_SQL_PLAIN, &sql, &error), GF_RETRY);
    assert_non_null(strstr(error.text, "no.such.name.invalid:1: "));
}

/* Two servers, and an ordinary user whom read_only binds. */
struct pair {
    struct gf_sql *root1, *root2;
    struct gf_config config;
};

static void open_pair(struct pair *pair)
{
    struct gf_error error;

    pair->root1 = connect_as(GF_SQL_PLAIN);
    assert_int_equal(gf_sql_connect(&second.config, GF_SQL_PLAIN, &pair->root2, &error), GF_OK);
    for (int i = 0; i < 2; i++) {
        struct gf_sql *root = i == 0 ? pair->root1 : pair->root2;

        must(root, "DROP USER IF EXISTS pair@localhost");
        must(root, "CREATE USER pair@localhost");
        must(root, "GRANT ALL ON giftflow.* TO pair@localhost");
        must(root, "DROP TABLE IF EXISTS me");
        must(root, i == 0 ? "CREATE TABLE me AS SELECT 1 n" : "CREATE TABLE me AS SELECT 2 n");
    }
    pair->config = db.config;
    (void)snprintf(pair->config.mysql_hosts, sizeof(pair->config.mysql_hosts), "%s,%s", db.socket, second.socket);
    gf_copy(pair->config.mysql_user, sizeof(pair->config.mysql_user), "pair");
}

static void close_pair(struct pair *pair)
{
    gf_sql_close(&pair->root1);
    gf_sql_close(&pair->root2);
}

static int64_t server_found(const struct pair *pair)
{
    struct gf_sql *sql = NULL;
    struct gf_error error = {0};
    int64_t n;

    if (gf_sql_connect(&pair->config, GF_SQL_PLAIN, &sql, &error) != GF_OK)
        fail_msg("%s", error.text);
    n = value_of(sql, "SELECT n FROM me");
    gf_sql_close(&sql);
    return n;
}

static void the_writable_one_of_two_servers_is_found(void **state)
{
    struct pair pair = {0};
    struct gf_sql *user = NULL;
    struct gf_error error = {0};

    (void)state;
    open_pair(&pair);
    must(pair.root1, "SET GLOBAL read_only=1");
    assert_int_equal(server_found(&pair), 2);
    must(pair.root1, "SET GLOBAL read_only=0");
    assert_int_equal(server_found(&pair), 2); /* the one that worked last comes first */

    /* A switch-over: what writes is told so, what only reads finds out when it looks. */
    assert_int_equal(gf_sql_connect(&pair.config, GF_SQL_SETTLE, &user, &error), GF_OK);
    assert_int_equal(gf_sql_ping(user, &error), GF_OK);
    must(pair.root2, "SET GLOBAL read_only=1");
    assert_false(gf_sql_lost(user));
    assert_int_equal(gf_sql_ping(user, &error), GF_RETRY);
    assert_int_equal(error.native, 1290);
    assert_true(gf_sql_lost(user));
    gf_sql_close(&user);
    assert_int_equal(server_found(&pair), 1);
    must(pair.root2, "SET GLOBAL read_only=0");
    close_pair(&pair);
}

static void where_no_server_will_do_the_reason_names_each(void **state)
{
    struct pair pair = {0};
    struct gf_sql *user = NULL;
    struct gf_error error = {0};
    struct gf_buf reason;

    (void)state;
    open_pair(&pair);
    gf_buf_init(&reason, 1024);
    must(pair.root1, "SET GLOBAL read_only=1");
    must(pair.root2, "SET GLOBAL read_only=1");
    assert_int_equal(gf_sql_connect(&pair.config, GF_SQL_PLAIN, &user, &error), GF_RETRY);
    assert_null(user);
    assert_int_equal(error.native, 1290);
    assert_non_null(strstr(error.text, db.socket));
    assert_non_null(strstr(strstr(error.text, second.socket), "read-only"));
    gf_sql_add_trouble(&reason);
    assert_memory_equal(reason.data, ": ", 2);
    assert_memory_equal(reason.data + 2, error.text, strlen(error.text));

    must(pair.root2, "SET GLOBAL read_only=0");
    mariadb_kill(&second);
    assert_int_equal(gf_sql_connect(&pair.config, GF_SQL_PLAIN, &user, &error), GF_RETRY);
    assert_int_equal(error.native, 0); /* one is read-only, the other is away */
    mariadb_launch(&second);

    must(pair.root1, "SET GLOBAL read_only=0");
    (void)server_found(&pair);
    gf_buf_reset(&reason);
    gf_sql_add_trouble(&reason);
    assert_int_equal(reason.len, 0);
    gf_buf_free(&reason);
    close_pair(&pair);
}

/* It takes connections and never greets: the next address is asked after the connect time-out, not the read time-out. */
static void a_frozen_server_is_passed_by(void **state)
{
    struct gf_sql *user = NULL;
    struct gf_error error = {0};
    struct pair pair = {0};
    int64_t began_ms;

    (void)state;
    open_pair(&pair);
    must(pair.root1, "SET GLOBAL read_only=1");
    assert_int_equal(server_found(&pair), 2);
    must(pair.root1, "SET GLOBAL read_only=0");
    pair.config.mysql_connect_timeout = 2000;
    pair.config.mysql_read_timeout = 600000;
    (void)kill(second.pid, SIGSTOP);
    began_ms = gf_clock_mono_ms();
    while (gf_sql_connect(&pair.config, GF_SQL_PLAIN, &user, &error) != GF_OK) {
        assert_non_null(strstr(error.text, db.socket)); /* it was asked, and stood still with its machine */
        assert_true(gf_clock_mono_ms() - began_ms < 60000);
    }
    assert_int_equal(value_of(user, "SELECT n FROM me"), 1);
    gf_sql_close(&user);
    assert_true(gf_clock_mono_ms() - began_ms >= 1000); /* it was asked, and given up (else the test program's time is up) */
    (void)kill(second.pid, SIGCONT);
    close_pair(&pair);
}

/* An old primary whose engine takes no writes, with read_only=OFF: only a write finds it out. */
static void a_server_that_refuses_writes_is_passed_by(void **state)
{
    static char recovery[] = "--innodb-force-recovery=5";
    struct gf_sql *user = NULL;
    struct gf_error error = {0};
    struct pair pair = {0};

    (void)state;
    if (mariadb_is_mysql())
        return; /* its start-up writes */
    open_pair(&pair);
    must(pair.root1, "DROP TABLE me");
    must(pair.root1, "CREATE TABLE me ENGINE=InnoDB AS SELECT 1 n");
    must(pair.root2, "SET GLOBAL read_only=1");
    assert_int_equal(server_found(&pair), 1);
    must(pair.root2, "SET GLOBAL read_only=0");
    (void)kill(db.pid, SIGTERM);
    assert_int_equal(waitpid(db.pid, NULL, 0), db.pid);
    mariadb_launch_with(&db, recovery);
    assert_int_equal(gf_sql_connect(&pair.config, GF_SQL_SETTLE, &user, &error), GF_OK);
    assert_int_equal(value_of(user, "SELECT n FROM me"), 1);
    assert_int_equal(try(user, "INSERT INTO me VALUES (3)", &error), GF_RETRY);
    assert_true(gf_sql_lost(user));
    gf_sql_close(&user);
    assert_int_equal(server_found(&pair), 2);
    assert_int_equal(server_found(&pair), 2);
    mariadb_kill(&db);
    mariadb_launch(&db);
    close_pair(&pair);
}

/* One name in mysql.hosts, of which the resolver lists the replica first, or the primary, or a server that is gone. */
static void the_primary_is_found_among_the_addresses_of_a_name(void **state)
{
    struct pair pair = {0};
    struct gf_sql *user = NULL;
    struct gf_error error;

    (void)state;
    if (!named)
        skip(); /* no right to a namespace */
    assert_true(two_addresses(db.bind, second.bind, db.port));
    gf_copy(second.port, sizeof(second.port), db.port);
    mariadb_kill(&db);
    mariadb_kill(&second);
    mariadb_launch(&db);
    mariadb_launch(&second);
    open_pair(&pair);
    for (int i = 0; i < 2; i++) {
        must(i == 0 ? pair.root1 : pair.root2, "CREATE USER net");
        must(i == 0 ? pair.root1 : pair.root2, "GRANT ALL ON giftflow.* TO net");
    }
    (void)snprintf(pair.config.mysql_hosts, sizeof(pair.config.mysql_hosts), "both.test:%s", db.port);
    gf_copy(pair.config.mysql_user, sizeof(pair.config.mysql_user), "net");
    must(pair.root1, "SET GLOBAL read_only=1");
    assert_int_equal(server_found(&pair), 2);
    must(pair.root1, "SET GLOBAL read_only=0");
    must(pair.root2, "SET GLOBAL read_only=1");
    assert_int_equal(server_found(&pair), 1);
    must(pair.root2, "SET GLOBAL read_only=0");
    mariadb_kill(&db);
    assert_int_equal(server_found(&pair), 2);
    gf_copy(pair.config.mysql_database, sizeof(pair.config.mysql_database), "nowhere");
    assert_int_equal(gf_sql_connect(&pair.config, GF_SQL_PLAIN, &user, &error), GF_RETRY);
    assert_in_range(error.native, 1000, 1999); /* what the one has said, not that the other is gone */
    close_pair(&pair);
    db.bind[0] = '\0';
    mariadb_launch(&db);
}

static int set_up(void **state)
{
    (void)state;
    gf_sql_library_init();
    (void)signal(SIGPIPE, SIG_IGN);
    mariadb_start(&db);
    mariadb_start(&second);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mariadb_stop(&db);
    mariadb_stop(&second);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_settle_session_has_short_timeouts_and_strict_mode),
        cmocka_unit_test(a_session_reads_what_other_nodes_have_committed),
        cmocka_unit_test(values_come_back_as_they_went_in),
        cmocka_unit_test(affected_counts_changed_rows_only),
        cmocka_unit_test(data_errors_are_rejects_and_keep_the_connection),
        cmocka_unit_test(schema_errors_are_fatal_not_the_records_fault),
        cmocka_unit_test(lock_waits_and_deadlocks_are_retries),
        cmocka_unit_test(a_killed_connection_is_lost_and_its_commit_uncertain),
        cmocka_unit_test(a_read_only_server_takes_no_settlement),
        cmocka_unit_test(hosts_are_read_strictly),
        cmocka_unit_test(localhost_is_the_port_and_not_the_librarys_socket),
        cmocka_unit_test(the_writable_one_of_two_servers_is_found),
        cmocka_unit_test(where_no_server_will_do_the_reason_names_each),
        cmocka_unit_test(a_frozen_server_is_passed_by),
        cmocka_unit_test(a_server_that_refuses_writes_is_passed_by),
        cmocka_unit_test(the_primary_is_found_among_the_addresses_of_a_name),
        cmocka_unit_test(a_server_of_short_packets_takes_no_settlement),
        cmocka_unit_test(streamed_rows_end_with_a_known_end),
        cmocka_unit_test(a_server_that_is_gone_is_a_retry),
    };

    named = name_two_addresses();
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
