/* SPDX-License-Identifier: Apache-2.0 */
/* The balance scripts (gf/balance.h) against a real server: each branch of RESERVE, ABORT, LOAD and PUBLISH. */
#include "gf/metrics.h"
#include "redis_fixture.h"

/* ---- RESERVE ---- */

static void an_unknown_or_old_balance_is_stale_and_leaves_nothing(void **state)
{
    struct gf_reserve r = request(1, 1, 10);

    (void)state;
    assert_int_equal(reserve(&r), GF_RESERVED_STALE);
    assert_string_equal(ask("EXISTS gf1:{u:1}:w2"), "0");
    given(1, 3, 100, 1);
    set_field(1, "f", "1");
    assert_int_equal(reserve(&r), GF_RESERVED_STALE);
    assert_string_equal(field(1, "n"), "0");
    assert_false(has_marker(&r));
}

static void a_hold_lowers_what_is_available_and_a_repeat_holds_once(void **state)
{
    struct gf_reserve r = request(2, 1, 60), other = request(2, 2, 41), third = request(2, 3, 1);

    (void)state;
    given(2, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(reserve(&r), GF_RESERVED_OK); /* the reply was lost, say: own nonce */
    assert_int_equal(last_reserve.price, 60);
    assert_int_equal(last_reserve.quantity, 1);
    assert_string_equal(field(2, "h"), "60");
    assert_string_equal(field(2, "n"), "1");
    assert_int_equal(refused_with(&other), 40);
    assert_string_equal(field(2, "h"), "60");
    assert_false(has_marker(&other)); /* a refusal leaves the key unused */
    other.amount = 40;
    assert_int_equal(reserve(&other), GF_RESERVED_OK);
    assert_string_equal(field(2, "h"), "100");
    given(2, 4, 30, 1); /* a debit comes before what is held */
    assert_int_equal(refused_with(&third), 0);
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
    gf_balance_accept(balance, &r);
    barrier();
    assert_true(marker_of(&r, &marker));
    assert_true(marker.accepted);
    assert_string_equal(marker.fp, r.fp);
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
    gf_balance_accept(balance, &r);
    barrier();
    assert_false(has_marker(&r));
}

static void an_overdue_lease_is_taken_over_with_the_first_price(void **state)
{
    struct gf_reserve r = request(5, 1, 60), twin = r;

    (void)state;
    given(5, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    set_overdue(&r, 0xabc, 60);
    snprintf(twin.nonce, sizeof(twin.nonce), "%016x", 0xdef);
    twin.price = twin.amount = 70;
    assert_int_equal(reserve(&twin), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, 60); /* the first call may be in Kafka */
    assert_string_equal(field(5, "h"), "60");
    assert_string_equal(field(5, "n"), "1");
    assert_int_equal(reserve(&r), GF_RESERVED_IN_PROGRESS); /* the first caller is out */
    gf_balance_abort(balance, &r);
    barrier();
    assert_string_equal(field(5, "h"), "60"); /* and can no longer release */
    assert_int_equal(reserve(&twin), GF_RESERVED_OK); /* the reply was lost, say */
    gf_balance_abort(balance, &twin);
    barrier();
    assert_string_equal(field(5, "h"), "60"); /* nor can the second, for the same reason */
    assert_true(has_marker(&twin));
}

static void a_take_over_without_hold_starts_anew(void **state)
{
    struct gf_reserve r = request(6, 1, 60);

    (void)state;
    given(6, 3, 100, 1);
    set_overdue(&r, 0xdef, 50);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(last_reserve.price, 60);
    assert_string_equal(field(6, "h"), "60");
    assert_string_equal(field(6, "n"), "1");
    gf_balance_abort(balance, &r);
    barrier();
    assert_string_equal(field(6, "h"), "60"); /* the first call may be in Kafka */
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
    assert_string_equal(field(8, "n"), "0");
}

static void the_rate_is_per_second_and_replays_are_free(void **state)
{
    struct gf_reserve first = request(9, 255, 1);
    int ok = 0, limited = 0, refused = 0;

    (void)state;
    given(9, 3, 1000000, 1);
    given(15, 0, 0, 0); /* nor may who has no wallet ask without end */
    server.config.ingest_rate_per_second = 1;
    assert_int_equal(reserve(&first), GF_RESERVED_OK);
    for (int i = 0; i < 200; i++) { /* far more than seconds pass meanwhile */
        struct gf_reserve r = request(9, (uint8_t)i, 1), poor = request(15, (uint8_t)i, 1);

        refused += reserve(&poor) == GF_RESERVED_LIMITED;
        if (reserve(&r) == GF_RESERVED_OK)
            ok++;
        else if (last_reserve.answer == GF_RESERVED_LIMITED)
            limited++;
        assert_int_equal(reserve(&first), GF_RESERVED_OK);
    }
    server.config.ingest_rate_per_second = 1000000;
    assert_true(ok + limited == 200 && limited > 0 && refused > 0);
    assert_true(last_reserve.wait_ms <= 1000);
}

static void due_holds_are_purged_when_they_are_in_the_way(void **state)
{
    struct gf_reserve due = request(10, 1, 60), live = request(10, 2, 30), r = request(10, 3, 70);

    (void)state;
    given(10, 3, 100, 1);
    assert_int_equal(reserve(&due), GF_RESERVED_OK);
    assert_int_equal(reserve(&live), GF_RESERVED_OK);
    set_deadline(10, &due.request_id, 5);
    r.amount = 71;
    assert_int_equal(refused_with(&r), 70);
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
    struct gf_uuid first = {{0}};

    (void)state;
    given(11, 3, 1000000, 1);
    for (int i = 0; i < GF_HOLDS_MAX; i++) {
        r.request_id.b[1] = (uint8_t)(i >> 8);
        r.request_id.b[2] = (uint8_t)i;
        if (i == 0)
            first = r.request_id;
        assert_int_equal(reserve(&r), GF_RESERVED_OK);
    }
    r.request_id.b[3] = 1;
    assert_int_equal(reserve(&r), GF_RESERVED_BUSY);
    assert_string_equal(field(11, "n"), "512");
    set_deadline(11, &first, 5);
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
    gf_balance_abort(balance, &r);
    barrier();
    assert_string_equal(field(12, "h"), "60"); /* the call that held first may be in Kafka */
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
    gf_balance_abort(balance, &r); /* the first never happened */
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
    assert_string_equal(field(14, "n"), "0");
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(reserve(&look), GF_RESERVED_IN_PROGRESS);
    gf_balance_accept(balance, &r);
    barrier();
    assert_int_equal(reserve(&look), GF_RESERVED_REPLAY);
    assert_int_equal(last_reserve.price, 60);
    /* A first call that nobody answered is taken over, so that settlement decides it. */
    set_overdue(&r, 0xabc, 60);
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
    gf_balance_abort(balance, &other);
    barrier();
    assert_string_equal(field(20, "h"), "60");
    gf_balance_abort(balance, &r);
    gf_balance_abort(balance, &r); /* a repeat is safe */
    barrier();
    assert_string_equal(field(20, "h"), "0");
    assert_string_equal(field(20, "n"), "0");
    assert_false(has_marker(&r));
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    gf_balance_accept(balance, &r);
    gf_balance_abort(balance, &r); /* answered: never undone */
    barrier();
    assert_string_equal(field(20, "h"), "60");
}

static void load_takes_what_is_not_older_and_keeps_holds(void **state)
{
    struct gf_reserve r = request(21, 1, 60);

    (void)state;
    given(21, 5, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    assert_int_equal(load(21, 4, 900, 1), GF_REJECT);
    assert_string_equal(field(21, "b"), "100");
    assert_int_equal(load(21, 5, 100, 1), GF_OK);
    assert_int_equal(load(21, 6, 70, 2), GF_OK);
    assert_string_equal(field(21, "b"), "70");
    assert_string_equal(field(21, "v"), "6");
    assert_string_equal(field(21, "s"), "2");
    assert_string_equal(field(21, "h"), "60");
    assert_int_equal(load(22, 0, 0, 0), GF_OK); /* no such wallet */
    assert_int_equal(load(22, 1, 0, 1), GF_OK); /* now there is one */
    assert_true(strtoll(ask("PTTL gf1:{u:21}:w2"), NULL, 10) > 0);
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
    assert_string_equal(ask("DEL gf1:{u:25}:w2"), "1");
    assert_int_equal(publish(25, GF_PUBLISH_RELEASE, 0, &a.request_id, 1), 0);
    assert_string_equal(ask("EXISTS gf1:{u:25}:w2"), "0"); /* a release alone creates nothing */
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

/* Many wallets in one call, each for itself: old balances, long and doubled lists, something that is no wallet. */
static void many_wallets_are_published_each_for_itself(void **state)
{
    enum { WALLETS = 150 };
    static struct gf_publish items[WALLETS];
    static struct gf_uuid ids[WALLETS][2], many[600];
    struct gf_published sum;
    int calls, taken = 0;

    (void)state;
    for (int i = 0; i < WALLETS; i++) {
        struct gf_reserve a = request(5000 + i, 1, 60), b = request(5000 + i, 2, 30);

        given(5000 + i, 5, 100, 1);
        assert_int_equal(reserve(&a), GF_RESERVED_OK);
        assert_int_equal(reserve(&b), GF_RESERVED_OK);
        ids[i][0] = a.request_id;
        ids[i][1] = b.request_id;
        items[i] = (struct gf_publish){
            .wallet = {.user_id = 5000 + i, .ver = 4 + i % 3, .balance = 40, .status = 1}, .ids = ids[i], .count = (size_t)(1 + i % 2)};
        taken += i % 3 != 0 || i == 70;
    }
    for (int i = 0; i < 600; i++)
        many[i] = ids[7][i % 2];
    items[7].ids = many;
    items[7].count = GF_COUNT(many);
    assert_string_equal(ask("SET gf1:{u:5070}:w2 text"), "OK");
    calls = gf_balance_publish_many_sync(raw, 1, items, WALLETS);
    assert_in_range(calls, 3, 10);
    sum = published(raw, calls);
    assert_int_equal(sum.taken, taken);
    assert_int_equal(sum.replaced, 1);
    assert_int_equal(sum.failed, 0);
    for (int i = 0; i < WALLETS; i++) {
        assert_string_equal(field(5000 + i, "b"), i % 3 == 0 && i != 70 ? "100" : "40"); /* version 4 is older than 5 */
        if (i == 70)
            continue;
        assert_string_equal(field(5000 + i, "h"), items[i].count > 1 ? "0" : "30");
        assert_string_equal(field(5000 + i, "n"), items[i].count > 1 ? "0" : "1");
    }
}

/* ---- what others left ---- */

/* value NULL: a key of another type. */
static void put_foreign(const char *key, const char *value)
{
    char line[GF_KEY_MAX + 80];

    snprintf(line, sizeof(line), "DEL %s", key);
    (void)ask(line);
    if (value)
        snprintf(line, sizeof(line), "SET %s %s", key, value);
    else
        snprintf(line, sizeof(line), "HSET %s b 1", key);
    assert_string_equal(ask(line), value ? "OK" : "1");
}

/* Values of another type or length, or of a process that went mad: absent, replaced, counted; never an error. */
static void what_is_no_wallet_is_absent_and_replaced(void **state)
{
    static const char *const values[] = {"text", "w12345678901234567890123456789012345678901234567890",
                                         "x1234567890123456789012345678901234567890123456789", NULL}; /* NULL: another type */
    int64_t foreign = gf_metric_get(GF_M_REDIS_FOREIGN);

    (void)state;
    for (int i = 0; i < (int)GF_COUNT(values); i++) {
        struct gf_reserve r = request(6000 + i, 1, 60);
        char key[GF_KEY_MAX];

        (void)gf_key_wallet(key, 1, 6000 + i);
        for (int round = 0; round < 2; round++) {
            put_foreign(key, values[i]);
            assert_int_equal(reserve(&r), GF_RESERVED_STALE);
            gf_balance_abort(balance, &r);
            barrier();
            assert_int_equal(publish(6000 + i, GF_PUBLISH_RELEASE, 0, &r.request_id, 1), 0);
            assert_true(round == 0 ? load(6000 + i, 3, 100, 1) == GF_OK : publish(6000 + i, 3, 100, &r.request_id, 1) == 1);
            set_field(6000 + i, "f", FAR);
            assert_int_equal(reserve(&r), GF_RESERVED_OK);
            assert_string_equal(field(6000 + i, "h"), "60");
            gf_balance_abort(balance, &r);
            barrier();
        }
    }
    assert_int_equal(gf_metric_get(GF_M_REDIS_FOREIGN) - foreign, GF_COUNT(values)); /* the loads; a publisher counts for itself */
}

static void what_is_no_marker_is_absent_and_replaced(void **state)
{
    static const char *const values[] = {"text", NULL};
    int64_t foreign = gf_metric_get(GF_M_REDIS_FOREIGN);

    (void)state;
    given(6010, 3, 1000, 1);
    for (int i = 0; i < (int)GF_COUNT(values); i++) {
        struct gf_reserve r = request(6010, (uint8_t)(1 + i), 60);
        char key[GF_KEY_MAX];

        (void)gf_key_marker(key, 1, 6010, &r.request_id);
        put_foreign(key, values[i]);
        gf_balance_abort(balance, &r);
        barrier();
        assert_int_equal(reserve(&r), GF_RESERVED_OK);
        assert_true(has_marker(&r));
    }
    assert_int_equal(gf_metric_get(GF_M_REDIS_FOREIGN) - foreign, GF_COUNT(values));
}

/* An id may stand anywhere in a wallet's bytes: only where a hold begins it is one. */
static void bytes_that_look_like_an_id_are_no_hold(void **state)
{
    struct gf_reserve r = request(6020, 1, 60), look = request(6020, 2, 1);

    (void)state;
    given(6020, 3, 100, 1);
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
    memcpy(look.request_id.b, r.request_id.b + 8, 8); /* the end of the id and the amount behind it */
    memset(look.request_id.b + 8, 0, 8);
    look.request_id.b[8] = 60;
    assert_int_equal(publish(6020, GF_PUBLISH_RELEASE, 0, &look.request_id, 1), 0);
    assert_string_equal(field(6020, "n"), "1");
    assert_int_equal(reserve(&look), GF_RESERVED_OK);
    assert_string_equal(field(6020, "n"), "2");
    assert_string_equal(field(6020, "h"), "61");
    assert_int_equal(publish(6020, 3, 100, &look.request_id, 1), 1);
    assert_string_equal(field(6020, "n"), "1");
    assert_string_equal(field(6020, "h"), "60");
}

/* ---- many in one turn ---- */

struct turn {
    int expected;
    struct gf_reserve_reply replies[100];
};
static struct turn turn;
static int turn_index[100];

static void on_turn_reply(void *ctx, const struct gf_reserve_reply *reply)
{
    int *index = ctx;

    assert_non_null(reply);
    turn.replies[*index] = *reply;
    if (--turn.expected == 0)
        gf_loop_stop(loop);
}

/* More requests in one turn than one call takes, of all kinds and of one wallet: each is judged after the one before it. */
static void requests_of_one_turn_are_judged_one_after_the_other(void **state)
{
    struct gf_reserve r[100];

    (void)state;
    given(6030, 3, 100, 1);
    for (int i = 0; i < 100; i++) {
        turn_index[i] = i;
        r[i] = request(i % 2 ? 6030 : 6031 + i, (uint8_t)i, 3); /* the odd ones have a wallet: 33 of 50 fit */
        r[i].keyless = i % 4 == 1;
    }
    r[99] = r[1]; /* a repeat of a request in the same turn */
    turn.expected = 100;
    for (int i = 0; i < 100; i++)
        assert_int_equal(gf_balance_reserve(balance, &r[i], on_turn_reply, &turn_index[i]), GF_OK);
    run_loop();
    for (int i = 0; i < 99; i++) {
        enum gf_reserved expected = i % 2 == 0 ? GF_RESERVED_STALE : i / 2 < 33 ? GF_RESERVED_OK : GF_RESERVED_INSUFFICIENT;

        assert_int_equal(turn.replies[i].answer, expected);
        if (expected == GF_RESERVED_OK)
            assert_int_equal(turn.replies[i].price, 3);
        if (expected == GF_RESERVED_INSUFFICIENT)
            assert_int_equal(turn.replies[i].available, 1);
    }
    assert_int_equal(turn.replies[99].answer, GF_RESERVED_OK);
    assert_string_equal(field(6030, "h"), "99");
    assert_string_equal(field(6030, "n"), "33");
}

static long script_calls(void)
{
    static const char field[] = "cmdstat_evalsha:calls=";
    const struct gf_redis_arg info[] = {{"INFO", 4}, {"commandstats", 12}};
    struct gf_reply *reply = NULL;
    struct gf_error error;
    const char *at;
    size_t len;
    long calls;

    gf_redis_sync_command(raw, info, GF_COUNT(info));
    assert_int_equal(gf_redis_sync_reply(raw, &reply, &error), GF_OK);
    at = strstr(gf_reply_text(reply, &len), field);
    assert_non_null(at);
    calls = strtol(at + strlen(field), NULL, 10);
    gf_reply_free(&reply);
    return calls;
}

/* Of several turns, in one call: when it is full, or when the first of them has waited for ingest.gather. */
static void reservations_gather_over_turns(void **state)
{
    struct gf_reserve first;
    long before;

    (void)state;
    given(6250, 3, 100, 1);
    server.config.ingest_gather = 1;
    first = request(6250, 99, 1);
    assert_int_equal(reserve(&first), GF_RESERVED_OK);
    before = script_calls();
    server.config.ingest_gather = 3600000;
    turn.expected = 32;
    for (int i = 0; i < 32; i++) {
        struct gf_reserve r = request(6250, (uint8_t)i, 1);
        struct gf_timer *pause = i % 8 == 7 && i < 31 ? gf_timer_start(loop, 1, 0, stop_loop, NULL) : NULL;

        turn_index[i] = i;
        assert_int_equal(gf_balance_reserve(balance, &r, on_turn_reply, &turn_index[i]), GF_OK);
        if (pause) {
            run_loop();
            gf_timer_close(&pause);
            assert_int_equal(turn.expected, 32);
        }
    }
    run_loop();
    assert_int_equal(turn.expected, 0);
    assert_int_equal(script_calls() - before, 1);
    assert_string_equal(field(6250, "n"), "33");
    server.config.ingest_gather = 0;
}

/* One that Redis cannot write fails alone; the others of the call are judged. */
static void a_request_that_fails_fails_alone(void **state)
{
    struct gf_reserve r = request(6200, 1, 60);

    (void)state;
    given(6200, 3, 100, 1);
    assert_string_equal(ask("CONFIG SET maxmemory 1"), "OK"); /* nothing can be evicted: every write is refused */
    assert_string_equal(ask("CONFIG SET maxmemory-policy noeviction"), "OK");
    assert_int_equal(reserve(&r), 0);
    assert_string_equal(ask("CONFIG SET maxmemory 0"), "OK");
    assert_string_equal(field(6200, "n"), "0");
    assert_false(has_marker(&r));
    assert_int_equal(reserve(&r), GF_RESERVED_OK);
}

static void markers_are_parsed_strictly(void **state)
{
    uint8_t good[41] = {'P', 5};
    struct gf_marker marker;

    (void)state;
    good[16] = 0x1f;
    good[25] = 60;
    good[33] = 2;
    assert_true(gf_marker_parse((const char *)good, sizeof(good), &marker));
    assert_false(marker.accepted);
    assert_string_equal(marker.fp, "000000000000001f");
    assert_int_equal(marker.price, 60);
    assert_int_equal(marker.quantity, 2);
    assert_int_equal(marker.lease_ms, 5);
    assert_false(gf_marker_parse((const char *)good, sizeof(good) - 1, &marker));
    good[0] = 'X';
    assert_false(gf_marker_parse((const char *)good, sizeof(good), &marker));
    good[0] = 'A';
    good[33] = 0;
    assert_false(gf_marker_parse((const char *)good, sizeof(good), &marker)); /* no quantity */
    good[33] = 1;
    good[32] = 0x80;
    assert_false(gf_marker_parse((const char *)good, sizeof(good), &marker)); /* a negative price */
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
        cmocka_unit_test(many_wallets_are_published_each_for_itself),
        cmocka_unit_test(what_is_no_wallet_is_absent_and_replaced),
        cmocka_unit_test(what_is_no_marker_is_absent_and_replaced),
        cmocka_unit_test(bytes_that_look_like_an_id_are_no_hold),
        cmocka_unit_test(requests_of_one_turn_are_judged_one_after_the_other),
        cmocka_unit_test(reservations_gather_over_turns),
        cmocka_unit_test(a_request_that_fails_fails_alone),
        cmocka_unit_test(markers_are_parsed_strictly),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
