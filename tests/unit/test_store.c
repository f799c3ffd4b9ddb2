/* SPDX-License-Identifier: Apache-2.0 */
/* The settlement transaction against a real server, without Kafka: who is a duplicate of whom, what is written, the fence,
 * the hash chain, what a refused window leaves. Each test of what is written runs twice: rows as arrays and rows as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mariadb.h"
#include "settle/store_internal.h"

#define SENDER INT64_C(7) /* in partition 0 of 1 */
#define NOW INT64_C(1800000000000)

static struct mariadb db;
static struct gf_sql *admin;
static struct store *store;
static struct batch *batch;
static struct claim claim;
static const struct claim_request request = {.topic = "t", .owner = "test"};
static char values[64][512];
static char keys[64][24];

static GF_PRINTF(1, 2) void must(const char *fmt, ...)
{
    struct gf_error error = {0};
    char text[1024];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (gf_sql_exec(admin, text, strlen(text), NULL, &error) != GF_OK)
        fail_msg("%s: %s", text, error.text);
}

static GF_PRINTF(1, 2) int64_t value_of(const char *fmt, ...)
{
    struct gf_sql_result *result = NULL;
    struct gf_error error = {0};
    char text[1024];
    int64_t value;
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (gf_sql_query(admin, text, strlen(text), &result, &error) != GF_OK)
        fail_msg("%s: %s", text, error.text);
    assert_true(gf_sql_next(result));
    value = gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return value;
}

static void apply_schema(void)
{
    char *text = NULL, *at, *end;
    struct gf_error error;
    size_t size = 0;
    FILE *file = fopen(GF_SOURCE_DIR "/schemas/sql/001_foundation.sql", "r");

    assert_non_null(file);
    assert_true(getdelim(&text, &size, '\0', file) > 0);
    (void)fclose(file);
    for (at = text; (end = strstr(at, ";\n")) != NULL; at = end + 2)
        if (gf_sql_exec(admin, at, (size_t)(end - at), NULL, &error) != GF_OK)
            fail_msg("%s", error.text);
    free(text);
}

/* An empty log, one gift, one wallet. `bulk`: as the server likes it best; else text. */
static void start(bool bulk)
{
    static const char *const tables[] = {"wallet", "trade", "progress", "batch", "dead_letter", "gift", "gift_price", "credit"};
    enum claimed claimed;
    struct gf_error error;

    for (size_t i = 0; i < GF_COUNT(tables); i++)
        must("DELETE FROM %s", tables[i]);
    must("INSERT INTO progress (log, topic, part, incarnation, live, partitions) VALUES (3, 't', 0, 1, 1, 1)");
    must("INSERT INTO gift VALUES (22, 'Heart', '', 'https://e', 9999, 1, 1, 0)");
    must("INSERT INTO gift_price VALUES (22, 0, 9223372036854775807, 90, 5000)");
    must("INSERT INTO wallet (user_id, balance, created_ms, updated_ms) VALUES (%lld, 1000, 0, 0)", (long long)SENDER);
    store_destroy(&store);
    store = store_create(&db.config);
    assert_int_equal(store_claim(store, &request, &claim, &claimed, &error), GF_OK);
    assert_int_equal(claimed, CLAIMED);
    assert_int_equal(store->insert_trades == NULL, mariadb_is_mysql()); /* who has the protocol */
    if (!bulk)
        store_close_bulk(store);
}

/* Record i of the next batch: a gift of SENDER with id number `id`. */
static void gift(int i, int64_t offset, int id, int quantity)
{
    struct gf_kafka_message *message = &batch->piece[i];

    (void)snprintf(keys[i], sizeof(keys[i]), "%lld", (long long)SENDER);
    (void)snprintf(values[i], sizeof(values[i]),
                   "{\"v\":1,\"type\":\"gift\",\"request_id\":\"01980000-0000-7000-8000-%012d\",\"user_id\":%lld,"
                   "\"receiver_id\":9,\"room_id\":5,\"gift_id\":22,\"price\":90,\"quantity\":%d,\"gift_type\":0,\"ts\":1}",
                   id, (long long)SENDER, quantity);
    *message = (struct gf_kafka_message){.partition = 0,
                                         .offset = offset,
                                         .timestamp_ms = NOW,
                                         .key = keys[i],
                                         .key_len = strlen(keys[i]),
                                         .value = values[i],
                                         .value_len = strlen(values[i])};
}

static void replace_value(int i, const char *value)
{
    (void)snprintf(values[i], sizeof(values[i]), "%s", value);
    batch->piece[i].value_len = strlen(value);
}

static enum gf_class settle(int count, bool *fenced_r)
{
    struct gf_error error = {0};
    enum gf_class class;

    batch_release(batch);
    batch_add(batch, count, 1);
    batch_window(batch, 0, count, claim.next_offset);
    class = store_settle(store, batch, &claim, fenced_r, &error);
    if (class == GF_OK && !*fenced_r)
        claim.next_offset = batch->next_offset;
    else if (class != GF_OK && class != GF_REJECT)
        fail_msg("%s", error.text);
    return class;
}

static void settles(int count)
{
    bool fenced = true;

    assert_int_equal(settle(count, &fenced), GF_OK);
    assert_false(fenced);
}

/* ---- what is written --------------------------------------------------------------------------------------------- */

static void one_batch_leaves_every_trace(bool bulk)
{
    start(bulk);
    gift(0, 10, 1, 2);  /* settled */
    gift(1, 11, 1, 2);  /* the same again */
    gift(2, 12, 1, 3);  /* the same id, another content */
    gift(3, 13, 2, 50); /* more than there is */
    gift(4, 14, 3, 1);
    replace_value(4, "no json");
    gift(5, 15, 4, 1);
    keys[5][0] = '8'; /* foreign key */
    gift(6, 16, 5, 1);  /* settled */
    settles(7);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade"), 4);
    assert_int_equal(value_of("SELECT amount FROM trade WHERE off=10"), -180);
    assert_int_equal(value_of("SELECT outcome FROM trade WHERE off=13"), GF_OUTCOME_INSUFFICIENT_BALANCE);
    assert_int_equal(value_of("SELECT outcome FROM trade WHERE off=15"), GF_OUTCOME_INTERNAL_ERROR);
    assert_int_equal(value_of("SELECT balance_after FROM trade WHERE off=16"), 730);
    assert_int_equal(value_of("SELECT prev_off FROM trade WHERE off=16"), 10);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade WHERE ref IS NULL AND log=3"), 4);
    assert_int_equal(value_of("SELECT reason FROM dead_letter WHERE off=12"), GF_DEAD_ID_REUSED);
    assert_int_equal(value_of("SELECT reason FROM dead_letter WHERE off=14"), GF_DEAD_NOT_JSON);
    assert_int_equal(value_of("SELECT payload='no json' FROM dead_letter WHERE off=14"), 1);
    assert_int_equal(value_of("SELECT reason FROM dead_letter WHERE off=15"), GF_DEAD_KEY);
    assert_int_equal(value_of("SELECT COUNT(*) FROM dead_letter"), 3);
    assert_int_equal(value_of("SELECT balance=730 AND ver=3 AND total_spent=270 AND last_log=3 AND last_off=16 AND status=1 "
                              "AND created_ms=0 FROM wallet WHERE user_id=%lld", (long long)SENDER), 1);
    assert_int_equal(value_of("SELECT first_offset=0 AND next_offset=17 AND settled=2 AND rejected=1 AND duplicate=1 AND dead=3 "
                              "AND debit=270 AND host=135 AND platform=135 AND epoch=1 FROM batch"), 1);
    assert_int_equal(value_of("SELECT next_offset=17 AND last_off=16 AND last_hash=(SELECT hash FROM batch) FROM progress"), 1);
}

static void the_chain_covers_previous_hash_and_rows(bool bulk)
{
    uint8_t bytes[GF_TRADE_BYTES], hash[32] = {0};
    struct gf_buf text;
    struct gf_sha256_ctx *sha = gf_sha256_create();

    start(bulk);
    gf_buf_init(&text, 4096);
    for (int i = 0; i < 3; i++) {
        gift(0, i, i, 1);
        settles(1);
        gf_sha256_begin(sha);
        gf_sha256_add(sha, hash, sizeof(hash));
        gf_sha256_add(sha, bytes, gf_trade_bytes(3, &batch->plan.trades[0], bytes));
        gf_sha256_end(sha, hash);
        gf_buf_reset(&text);
        gf_buf_add_hex(&text, hash, sizeof(hash));
        assert_int_equal(value_of("SELECT hash=x'%s' FROM batch WHERE next_offset=%d", text.data, i + 1), 1);
    }
    gf_buf_free(&text);
    gf_sha256_destroy(&sha);
}

static void a_repeat_in_a_later_batch_is_found_and_looked_for_from_then_on(bool bulk)
{
    start(bulk);
    gift(0, 0, 1, 1);
    settles(1);
    gift(0, 1, 2, 1);
    gift(1, 2, 1, 1); /* known */
    gift(2, 3, 1, 2); /* known, with another content */
    settles(3);
    assert_int_equal(batch->duplicates, 1);
    assert_int_equal(batch->dead, 1);
    assert_int_equal(claim.precheck, 15); /* F17 */
    gift(0, 4, 2, 1);
    settles(1);
    assert_int_equal(batch->duplicates, 1);
    assert_int_equal(claim.precheck, 14);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade"), 2);
    assert_int_equal(value_of("SELECT balance FROM wallet"), 820);
    assert_int_equal(value_of("SELECT SUM(duplicate) FROM batch"), 2);
}

static void who_was_overtaken_writes_nothing(bool bulk)
{
    bool fenced = false;

    start(bulk);
    must("UPDATE progress SET epoch=epoch+1"); /* another owner */
    gift(0, 0, 1, 1);
    assert_int_equal(settle(1, &fenced), GF_OK);
    assert_true(fenced);
    must("UPDATE progress SET epoch=epoch-1, next_offset=1"); /* the same epoch, but moved: a second life of this owner */
    assert_int_equal(settle(1, &fenced), GF_OK);
    assert_true(fenced);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade"), 0);
    assert_int_equal(value_of("SELECT balance FROM wallet"), 1000);
}

static void a_refused_record_is_buried_without_its_content(bool bulk)
{
    struct gf_error error;
    bool fenced = true;

    start(bulk);
    must("CREATE TRIGGER refuse BEFORE INSERT ON trade FOR EACH ROW IF NEW.room_id=5 THEN SIGNAL SQLSTATE '45000'; END IF");
    gift(0, 0, 1, 1);
    assert_int_equal(settle(1, &fenced), GF_REJECT);
    batch->refusals = 1; /* a dead letter with its trade row, which the trigger refuses as well */
    assert_int_equal(store_settle(store, batch, &claim, &fenced, &error), GF_REJECT);
    batch->refusals = 2;
    assert_int_equal(store_settle(store, batch, &claim, &fenced, &error), GF_OK);
    assert_false(fenced);
    must("DROP TRIGGER refuse");
    assert_int_equal(value_of("SELECT reason=%d AND payload IS NULL FROM dead_letter WHERE off=0", GF_DEAD_SQL_REFUSED), 1);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade"), 0);
    assert_int_equal(value_of("SELECT dead FROM batch"), 1);
}

#define TWICE(name)                                            \
    static void name##_as_arrays(void **state)                 \
    {                                                          \
        (void)state;                                           \
        name(true);                                            \
    }                                                          \
    static void name##_as_text(void **state)                   \
    {                                                          \
        (void)state;                                           \
        name(false);                                           \
    }
TWICE(one_batch_leaves_every_trace)
TWICE(the_chain_covers_previous_hash_and_rows)
TWICE(a_repeat_in_a_later_batch_is_found_and_looked_for_from_then_on)
TWICE(who_was_overtaken_writes_nothing)
TWICE(a_refused_record_is_buried_without_its_content)

/* ---- claim and look-up ------------------------------------------------------------------------------------------- */

static void a_claim_counts_assignments_without_progress(void **state)
{
    const struct claim_request other = {.topic = "other", .owner = "test"};
    struct gf_error error;
    enum claimed claimed;

    (void)state;
    start(true);
    assert_int_equal(claim.epoch, 1);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(store_claim(store, &request, &claim, &claimed, &error), GF_OK);
        assert_int_equal(claim.epoch, 1 + i);
        assert_int_equal(claim.stalls, i);
    }
    gift(0, 0, 1, 1);
    settles(1);
    assert_int_equal(store_claim(store, &request, &claim, &claimed, &error), GF_OK);
    assert_int_equal(claim.stalls, 0);
    assert_int_equal(claim.last_off, 0);
    assert_int_equal(store_claim(store, &other, &claim, &claimed, &error), GF_OK);
    assert_int_equal(claimed, CLAIM_NO_LOG);
}

static void a_lost_commit_is_told_by_the_progress_row(void **state)
{
    int64_t next_offset = -1, epoch = -1;
    struct gf_error error;

    (void)state;
    start(true);
    gift(0, 0, 1, 1);
    settles(1);
    assert_int_equal(store_lookup(store, &claim, &next_offset, &epoch, &error), GF_OK);
    assert_int_equal(next_offset, 1);
    assert_int_equal(epoch, claim.epoch);
    gift(0, 1, 2, 1); /* the look-up has left no lock and a connection that settles */
    settles(1);
}

/* A password file that is being written anew, say: no answer of MySQL, so nothing that a record could be buried for. */
static void who_cannot_connect_refuses_nothing(void **state)
{
    struct gf_error error = {0};
    bool fenced = false;

    (void)state;
    start(true);
    gift(0, 0, 1, 1);
    batch_release(batch);
    batch_add(batch, 1, 1);
    batch_window(batch, 0, 1, claim.next_offset);
    gf_copy(db.config.mysql_password_file, sizeof(db.config.mysql_password_file), "/nowhere/password");
    store_disconnect(store);
    assert_int_equal(store_settle(store, batch, &claim, &fenced, &error), GF_RETRY);
    assert_int_equal(error.class, GF_RETRY);
    assert_non_null(strstr(error.text, "/nowhere/password"));
    db.config.mysql_password_file[0] = '\0';
    assert_int_equal(store_settle(store, batch, &claim, &fenced, &error), GF_OK);
    assert_int_equal(value_of("SELECT COUNT(*) FROM trade WHERE outcome=0"), 1);
}

static void tries_of_one_record_add_up(void **state)
{
    struct gf_error error;
    int64_t tries;

    (void)state;
    start(true);
    for (int i = 1; i <= 3; i++) {
        tries = 0;
        for (int call = 0; call < 2; call++) { /* the second time as if the first one's answer had been lost */
            assert_int_equal(store_try(store, &claim, 40, &tries, &error), GF_OK);
            assert_int_equal(tries, i);
        }
    }
    tries = 0;
    assert_int_equal(store_try(store, &claim, 41, &tries, &error), GF_OK);
    assert_int_equal(tries, 1);
}

static void count_trade(void *ctx, const struct gf_trade *trade)
{
    int64_t *sum = ctx;

    *sum += trade->amount;
}

static void trades_and_notified_are_read_back(void **state)
{
    const struct store_range range = {.log = 3, .from = 1, .to = 2};
    struct gf_error error;
    int64_t sum = 0;

    (void)state;
    start(true);
    gift(0, 0, 1, 1);
    gift(1, 1, 2, 1);
    settles(2);
    assert_int_equal(store_trades(store, &range, count_trade, &sum, &error), GF_OK);
    assert_int_equal(sum, -90);
    claim.notified = 2;
    assert_int_equal(store_notified(store, &claim, &error), GF_OK);
    assert_int_equal(value_of("SELECT notified_offset FROM progress"), 2);
    claim.notified = 1; /* it only grows */
    assert_int_equal(store_notified(store, &claim, &error), GF_OK);
    assert_int_equal(value_of("SELECT notified_offset FROM progress"), 2);
}

static int set_up(void **state)
{
    struct gf_error error;

    (void)state;
    gf_sql_library_init();
    (void)signal(SIGPIPE, SIG_IGN);
    mariadb_start(&db);
    db.config.settle_batch = 64;
    db.config.settle_notices = true;
    db.config.catalogue_poll = 500;
    db.config.catalogue_price_lead = 5000;
    db.config.catalogue_price_grace = 120000;
    assert_int_equal(gf_sql_connect(&db.config, GF_SQL_PLAIN, &admin, &error), GF_OK);
    apply_schema();
    batch = batch_create(64);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    batch_destroy(&batch);
    store_destroy(&store);
    gf_sql_close(&admin);
    mariadb_stop(&db);
    return 0;
}

#define BOTH(name) cmocka_unit_test(name##_as_arrays), cmocka_unit_test(name##_as_text)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(one_batch_leaves_every_trace),
        BOTH(the_chain_covers_previous_hash_and_rows),
        BOTH(a_repeat_in_a_later_batch_is_found_and_looked_for_from_then_on),
        BOTH(who_was_overtaken_writes_nothing),
        BOTH(a_refused_record_is_buried_without_its_content),
        cmocka_unit_test(a_claim_counts_assignments_without_progress),
        cmocka_unit_test(a_lost_commit_is_told_by_the_progress_row),
        cmocka_unit_test(who_cannot_connect_refuses_nothing),
        cmocka_unit_test(tries_of_one_record_add_up),
        cmocka_unit_test(trades_and_notified_are_read_back),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
