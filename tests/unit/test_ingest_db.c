/* SPDX-License-Identifier: Apache-2.0 */
/* Database threads of ingest against a server that is there, gone, silent and back; and the limiter of one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gf/metrics.h"
#include "ingest/ingest.h"
#include "mariadb.h"

#define JOBS 200

struct count_job {
    struct gf_job job;
    int64_t value, seconds;
    enum gf_class class;
    bool done;
};

static struct mariadb mysql;
static struct gf_config config;
static struct gf_loop *loop;
static struct gf_db *db;
static int left;                    /* on_done not seen yet */
static atomic_int at_gate;          /* threads that wait_at_gate keeps */
static atomic_bool gate_open;

static enum gf_class run_job(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct count_job *count = (struct count_job *)(void *)job;
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SELECT %lld + SLEEP(%lld)", (long long)count->value,
                                        (long long)count->seconds);

    if (class != GF_OK)
        return class;
    if (gf_sql_next(result))
        count->value = -gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return GF_OK;
}

/* Keeps its thread for as long as the test wants, however fast or slow the machine is. */
static enum gf_class wait_at_gate(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    (void)job;
    (void)sql;
    (void)error_r;
    atomic_fetch_add(&at_gate, 1);
    while (!atomic_load(&gate_open))
        gf_clock_sleep_ms(5);
    return GF_OK;
}

static void on_done(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct count_job *count = (struct count_job *)(void *)job;

    assert_false(count->done); /* exactly once */
    assert_true(class == GF_OK || error->text[0] != '\0');
    count->done = true;
    count->class = class;
    if (--left == 0)
        gf_loop_stop(loop);
}

static void on_deadline(void *ctx)
{
    (void)ctx;
    atomic_store(&gate_open, true); /* else the end would wait for the threads behind it */
    fail_msg("nothing came in 60 s");
}

static void run_loop(void)
{
    struct gf_timer *guard = gf_timer_start(loop, 60000, 0, on_deadline, NULL);

    gf_loop_run(loop);
    gf_timer_close(&guard);
}

static enum gf_class submit(struct count_job *count, int64_t value, int64_t seconds)
{
    enum gf_class class;

    *count = (struct count_job){.job = {.run = run_job, .on_done = on_done}, .value = value, .seconds = seconds};
    class = gf_db_submit(db, &count->job);
    if (class == GF_OK)
        left++;
    return class;
}

static void look_up(void *ctx)
{
    if (gf_db_up(db) == *(bool *)ctx)
        gf_loop_stop(loop);
}

static void wait_until_up_is(bool up)
{
    struct gf_timer *timer = gf_timer_start(loop, 1, 10, look_up, &up);

    run_loop();
    gf_timer_close(&timer);
}

static void jobs_run_on_threads_and_end_on_the_loop(void **state)
{
    static struct count_job jobs[JOBS];

    (void)state;
    wait_until_up_is(true);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(submit(&jobs[i], i + 1, 0), GF_OK);
    assert_int_equal(gf_db_pending(db), JOBS);
    run_loop();
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(jobs[i].class, GF_OK);
        assert_int_equal(jobs[i].value, -(i + 1));
    }
    assert_int_equal(gf_db_pending(db), 0);
}

static void look_at_gate(void *ctx)
{
    (void)ctx;
    if (atomic_load(&at_gate) == config.ingest_db_threads)
        gf_loop_stop(loop);
}

/* No thread is free until the gate opens. */
static void keep_threads(struct count_job busy[2])
{
    struct gf_timer *timer = gf_timer_start(loop, 1, 5, look_at_gate, NULL);

    atomic_store(&gate_open, false);
    atomic_store(&at_gate, 0);
    for (int i = 0; i < 2; i++) {
        busy[i] = (struct count_job){.job = {.run = wait_at_gate, .on_done = on_done}};
        assert_int_equal(gf_db_submit(db, &busy[i].job), GF_OK);
        left++;
    }
    run_loop();
    gf_timer_close(&timer);
}

static void a_full_queue_refuses(void **state)
{
    static struct count_job jobs[JOBS], busy[2];
    int taken = 0;

    (void)state;
    keep_threads(busy);
    config.ingest_db_queue = 4;
    while (taken < JOBS && submit(&jobs[taken], 1, 0) == GF_OK)
        taken++;
    assert_int_equal(taken, 4);
    config.ingest_db_queue = 1000;
    atomic_store(&gate_open, true);
    run_loop();
}

static void on_late_done(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    on_done(job, class, error);
    gf_loop_stop(loop); /* the others are still out */
}

static void a_job_is_not_started_after_its_deadline(void **state)
{
    static struct count_job busy[2], late;

    (void)state;
    keep_threads(busy);
    late = (struct count_job){
        .job = {.run = run_job, .on_done = on_late_done, .deadline_ms = gf_clock_mono_ms() + 200}, .value = 7};
    assert_int_equal(gf_db_submit(db, &late.job), GF_OK);
    left++;
    run_loop();
    assert_true(late.done);
    assert_int_equal(late.class, GF_RETRY);
    assert_true(gf_clock_mono_ms() >= late.job.deadline_ms); /* it had its time, and no more */
    assert_int_equal(late.value, 7);                         /* never run */
    atomic_store(&gate_open, true);
    run_loop();
    assert_int_equal(busy[0].class, GF_OK);
    assert_int_equal(busy[1].class, GF_OK);
    assert_int_equal(late.value, 7);
}

static void a_lost_server_is_told_at_once_and_found_again(void **state)
{
    static struct count_job running[2], waiting, after;

    (void)state;
    assert_int_equal(submit(&running[0], 1, 30), GF_OK);
    assert_int_equal(submit(&running[1], 1, 30), GF_OK);
    assert_int_equal(submit(&waiting, 1, 0), GF_OK);
    mariadb_kill(&mysql);
    run_loop();
    assert_int_equal(running[0].class, GF_RETRY);
    assert_int_equal(running[1].class, GF_RETRY);
    assert_int_equal(waiting.class, GF_RETRY);
    wait_until_up_is(false);
    assert_int_equal(submit(&after, 1, 0), GF_RETRY);
    mariadb_launch(&mysql);
    wait_until_up_is(true);
    assert_int_equal(submit(&after, 5, 0), GF_OK);
    run_loop();
    assert_int_equal(after.value, -5);
}

static enum gf_class kill_own_connection(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    (void)job;
    if (gf_sql_execf(sql, error_r, "KILL CONNECTION_ID()") == GF_OK) /* interrupted or lost: the next one is lost */
        return GF_FATAL;
    return gf_sql_execf(sql, error_r, "DO 1");
}

static void each_lost_connection_is_counted_once(void **state)
{
    static struct count_job victim;
    int64_t before;

    (void)state;
    gf_db_stop(&db);
    db = gf_db_start(loop, &config);
    wait_until_up_is(true);
    before = gf_metric_get(GF_M_MYSQL_DOWN);
    victim = (struct count_job){.job = {.run = kill_own_connection, .on_done = on_done}};
    assert_int_equal(gf_db_submit(db, &victim.job), GF_OK);
    left++;
    run_loop();
    assert_int_equal(victim.class, GF_RETRY);
    gf_db_stop(&db); /* its threads have ended */
    assert_int_equal(gf_metric_get(GF_M_MYSQL_DOWN) - before, 1);
    db = gf_db_start(loop, &config);
    wait_until_up_is(true);
}

static void a_stop_ends_every_job(void **state)
{
    static struct count_job jobs[20];

    (void)state;
    for (int i = 0; i < 20; i++)
        assert_int_equal(submit(&jobs[i], i + 1, i < 2 ? 1 : 0), GF_OK);
    gf_db_stop(&db);
    assert_null(db);
    assert_int_equal(left, 0);
    assert_int_equal(submit(&(struct count_job){0}, 1, 0), GF_RETRY); /* what Kafka acknowledges even later may ask */
    for (int i = 0; i < 20; i++) {
        assert_true(jobs[i].done);
        assert_true(jobs[i].class == GF_RETRY || jobs[i].value == -(i + 1)); /* told no, or really run */
    }
}

static void the_limiter_counts_per_user_and_second(void **state)
{
    struct gf_limiter *limiter = gf_limiter_create(2, 500);
    const char *fp = "0123456789abcdef", *other = "fedcba9876543210";

    (void)state;
    assert_int_equal(gf_limiter_check(limiter, 1, NULL, 10000), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 1, NULL, 10999), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 1, NULL, 10999), GF_LIMITED_RATE);
    assert_int_equal(gf_limiter_check(limiter, 2, NULL, 10999), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 1, NULL, 11000), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 3, fp, 20000), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 3, fp, 20499), GF_LIMITED_DOUBLE_CLICK);
    assert_int_equal(gf_limiter_check(limiter, 3, other, 20499), GF_LIMITED_NO);
    assert_int_equal(gf_limiter_check(limiter, 3, other, 21000), GF_LIMITED_NO);
    gf_limiter_destroy(&limiter);
    assert_null(limiter);
}

static int set_up(void **state)
{
    (void)state;
    mariadb_start(&mysql);
    config = mysql.config;
    config.ingest_db_threads = 2;
    config.ingest_db_queue = 1000;
    config.ingest_request_timeout = 60000;
    config.mysql_read_timeout = 60000;
    loop = gf_loop_create();
    db = gf_db_start(loop, &config);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    gf_db_stop(&db);
    gf_loop_destroy(&loop);
    mariadb_stop(&mysql);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_run_on_threads_and_end_on_the_loop),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(a_job_is_not_started_after_its_deadline),
        cmocka_unit_test(a_lost_server_is_told_at_once_and_found_again),
        cmocka_unit_test(each_lost_connection_is_counted_once),
        cmocka_unit_test(a_stop_ends_every_job),
        cmocka_unit_test(the_limiter_counts_per_user_and_second),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
