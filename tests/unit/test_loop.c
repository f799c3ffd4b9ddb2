/* SPDX-License-Identifier: Apache-2.0 */
/* The loop's promises: timers re-arm, wakes come from any thread, turn hooks see a timer's work before the loop sleeps.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gf/clock.h"
#include "gf/loop.h"

#define APART_MS 200 /* signals that are two wishes */

static int64_t still_ms; /* what the clock says; 0: the time */

int64_t __real_gf_clock_mono_ms(void);
int64_t __wrap_gf_clock_mono_ms(void);
int64_t __wrap_gf_clock_mono_ms(void)
{
    return still_ms != 0 ? still_ms : __real_gf_clock_mono_ms();
}

struct probe {
    struct gf_loop *loop;
    struct gf_timer *timer;
    struct gf_async *async;
    int fd, fired, turns, gathered, flushed;
};

static void on_repeat(void *ctx)
{
    struct probe *probe = ctx;

    if (++probe->fired == 3)
        gf_loop_stop(probe->loop);
}

static void timers_repeat_until_stopped(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};

    (void)state;
    probe.timer = gf_timer_start(probe.loop, 1, 1, on_repeat, &probe);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 3);
    gf_timer_close(&probe.timer);
    assert_null(probe.timer);
    gf_timer_close(&probe.timer); /* NULL-safe */
    gf_loop_destroy(&probe.loop);
    assert_null(probe.loop);
}

static void on_once(void *ctx)
{
    struct probe *probe = ctx;

    if (++probe->fired == 2)
        gf_loop_stop(probe->loop);
    else
        gf_timer_reset(probe->timer, 1, 0);
}

static void a_finished_one_shot_can_be_armed_again(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};

    (void)state;
    probe.timer = gf_timer_start(probe.loop, 1, 0, on_once, &probe);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 2);
    gf_loop_destroy(&probe.loop); /* frees the timer that is left: ASan tells */
}

static void on_gather(void *ctx)
{
    struct probe *probe = ctx;

    probe->gathered++;
}

static void on_turn(void *ctx)
{
    struct probe *probe = ctx;

    probe->turns++;
    if (probe->gathered > probe->flushed) {
        probe->flushed = probe->gathered;
        gf_loop_stop(probe->loop);
    }
}

/* With nothing else to wake the loop, work that a timer gathered must not wait for the next event. */
static void turn_hooks_run_before_the_loop_sleeps(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};

    (void)state;
    gf_loop_on_turn(probe.loop, on_turn, &probe);
    probe.timer = gf_timer_start(probe.loop, 1, 0, on_gather, &probe);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.flushed, 1);
    gf_loop_destroy(&probe.loop);
}

static void on_wake(void *ctx)
{
    struct probe *probe = ctx;

    probe->fired++;
    gf_loop_stop(probe->loop);
}

static void *wake_thread(void *arg)
{
    struct probe *probe = arg;

    gf_async_wake(probe->async);
    return NULL;
}

static void another_thread_can_wake_the_loop(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};
    pthread_t thread;

    (void)state;
    probe.async = gf_async_create(probe.loop, on_wake, &probe);
    assert_int_equal(pthread_create(&thread, NULL, wake_thread, &probe), 0);
    gf_loop_run(probe.loop);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(probe.fired, 1);
    gf_async_close(&probe.async);
    gf_loop_destroy(&probe.loop);
}

static void on_readable(void *ctx)
{
    struct probe *probe = ctx;
    uint64_t value;

    assert_int_equal(read(probe->fd, &value, sizeof(value)), sizeof(value));
    probe->fired += (int)value;
    gf_loop_stop(probe->loop);
}

static void a_readable_descriptor_calls_back(void **state)
{
    struct probe probe = {.loop = gf_loop_create(), .fd = eventfd(0, EFD_NONBLOCK)};
    struct gf_poll *poll = gf_poll_start(probe.loop, probe.fd, on_readable, &probe);

    (void)state;
    assert_int_equal(eventfd_write(probe.fd, 7), 0);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 7);
    gf_poll_close(&poll);
    gf_loop_destroy(&probe.loop);
    (void)close(probe.fd);
}

static void raise_term(void *ctx)
{
    (void)ctx;
    assert_int_equal(raise(SIGTERM), 0);
}

static void the_first_sigterm_asks_to_drain(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};

    (void)state;
    gf_loop_on_signal(probe.loop, 0, on_wake, &probe);
    probe.timer = gf_timer_start(probe.loop, 0, 0, raise_term, &probe);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 1);
    gf_loop_destroy(&probe.loop);
}

/* ---- a drain that is stuck, in a process of its own ---- */

struct stuck {
    struct gf_loop *loop;
    int told; /* written to when the drain has begun */
};

static void hang(void *ctx)
{
    const struct stuck *stuck = ctx;

    if (write(stuck->told, "!", 1) != 1)
        _exit(3);
    for (;;)
        gf_clock_sleep_ms(1000);
}

/* Returns the process once it hangs in its drain. */
static pid_t start_stuck(int64_t overdue_ms)
{
    int ends[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct stuck stuck = {.loop = gf_loop_create(), .told = ends[1]};

        gf_loop_on_signal(stuck.loop, overdue_ms, hang, &stuck);
        (void)gf_timer_start(stuck.loop, 0, 0, raise_term, NULL);
        gf_loop_run(stuck.loop);
        _exit(4);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return pid;
}

/* Exit status of the process; one that is there after a minute is killed. */
static int end_of(pid_t pid)
{
    int64_t deadline_ms = gf_clock_mono_ms() + 60000;
    int status = 0;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (gf_clock_mono_ms() > deadline_ms)
            (void)kill(pid, SIGKILL);
        gf_clock_sleep_ms(10);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What becomes of a process that does this once signals are its loop's. */
static int end_of_one_that(void (*does)(struct gf_loop *loop), int64_t overdue_ms)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct probe probe = {.loop = gf_loop_create()};

        gf_loop_on_signal(probe.loop, overdue_ms, on_wake, &probe);
        does(probe.loop);
        _exit(4);
    }
    return end_of(pid);
}

static void hang_for_ever(void)
{
    for (;;)
        gf_clock_sleep_ms(1000);
}

static void a_second_signal_ends_a_process_whose_loop_does_not_turn(void **state)
{
    static const int numbers[] = {SIGTERM, SIGINT};

    (void)state;
    for (size_t i = 0; i < GF_COUNT(numbers); i++) {
        pid_t pid = start_stuck(0);

        gf_clock_sleep_ms(APART_MS);
        assert_int_equal(kill(pid, numbers[i]), 0);
        assert_int_equal(end_of(pid), 1);
    }
}

static void be_asked_twice(struct gf_loop *loop)
{
    (void)raise(SIGTERM);
    gf_clock_sleep_ms(APART_MS);
    (void)raise(SIGTERM);
    gf_loop_run(loop);
}

/* The second one comes before the loop has seen the first. */
static void a_second_signal_before_the_loop_turns_ends_a_process(void **state)
{
    (void)state;
    assert_int_equal(end_of_one_that(be_asked_twice, 0), 1);
}

static void be_asked_and_hang(struct gf_loop *loop)
{
    (void)loop;
    (void)raise(SIGINT);
    hang_for_ever();
}

/* It waits for a server before the loop has run, say. */
static void who_is_asked_before_the_loop_turns_has_an_end(void **state)
{
    (void)state;
    assert_int_equal(end_of_one_that(be_asked_and_hang, 50), 1);
}

/* At once twice, as timeout(1) does. */
static void who_is_asked_before_the_loop_turns_drains(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};

    (void)state;
    gf_loop_on_signal(probe.loop, 0, on_wake, &probe);
    still_ms = gf_clock_mono_ms(); /* the machine may stand still between the two */
    raise_term(NULL);
    raise_term(NULL);
    still_ms = 0;
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 1);
    gf_loop_destroy(&probe.loop);
}

static void a_drain_that_does_not_end_is_ended(void **state)
{
    (void)state;
    assert_int_equal(end_of(start_stuck(50)), 1);
}

static void stop_and_hang(struct gf_loop *loop)
{
    gf_loop_stop(loop);
    hang_for_ever();
}

/* A process that has failed, say, closes what it has, and that may wait for ever. */
static void a_loop_that_stops_by_itself_has_an_end_too(void **state)
{
    (void)state;
    assert_int_equal(end_of_one_that(stop_and_hang, 50), 1);
}

static void on_drain_look(void *ctx)
{
    struct itimerval left;

    assert_int_equal(getitimer(ITIMER_REAL, &left), 0);
    assert_true(left.it_value.tv_sec > 0);
    on_wake(ctx);
}

static void a_loop_that_is_gone_ends_nobody(void **state)
{
    struct probe probe = {.loop = gf_loop_create()};
    struct itimerval left;

    (void)state;
    gf_loop_on_signal(probe.loop, 3600000, on_drain_look, &probe);
    probe.timer = gf_timer_start(probe.loop, 0, 0, raise_term, &probe);
    gf_loop_run(probe.loop);
    gf_loop_destroy(&probe.loop);
    assert_int_equal(probe.fired, 1);
    assert_int_equal(getitimer(ITIMER_REAL, &left), 0);
    assert_true(left.it_value.tv_sec == 0 && left.it_value.tv_usec == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_repeat_until_stopped),
        cmocka_unit_test(a_finished_one_shot_can_be_armed_again),
        cmocka_unit_test(turn_hooks_run_before_the_loop_sleeps),
        cmocka_unit_test(another_thread_can_wake_the_loop),
        cmocka_unit_test(a_readable_descriptor_calls_back),
        cmocka_unit_test(the_first_sigterm_asks_to_drain),
        cmocka_unit_test(a_second_signal_ends_a_process_whose_loop_does_not_turn),
        cmocka_unit_test(a_second_signal_before_the_loop_turns_ends_a_process),
        cmocka_unit_test(who_is_asked_before_the_loop_turns_has_an_end),
        cmocka_unit_test(who_is_asked_before_the_loop_turns_drains),
        cmocka_unit_test(a_drain_that_does_not_end_is_ended),
        cmocka_unit_test(a_loop_that_stops_by_itself_has_an_end_too),
        cmocka_unit_test(a_loop_that_is_gone_ends_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
