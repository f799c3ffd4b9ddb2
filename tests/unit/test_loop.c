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
#include <unistd.h>

#include <cmocka.h>

#include "gf/clock.h"
#include "gf/loop.h"

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
    gf_loop_on_signal(probe.loop, on_wake, &probe);
    probe.timer = gf_timer_start(probe.loop, 0, 0, raise_term, &probe);
    gf_loop_run(probe.loop);
    assert_int_equal(probe.fired, 1);
    gf_loop_destroy(&probe.loop);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
