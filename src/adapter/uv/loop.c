/* SPDX-License-Identifier: Apache-2.0 */
/* Event loop on libuv. Owns its handles; each object's memory is freed by its close callback. Threads: the loop's own,
 * except gf_async_wake. Failures of libuv's constructors mean lack of memory or descriptors at start: they abort. */
#include "gf/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>
#include <uv.h>

#include "gf/clock.h"
#include "gf/log.h"

#define TURN_HOOKS_MAX 8
#define SAME_MS 100 /* timeout(1) signals its child, and then the child's group: one wish */
#define OTHER_DESCRIPTORS 1000 /* servers, other roles, connections that are being refused */

struct hook {
    gf_loop_fn run;
    void *ctx;
};

struct gf_loop {
    uv_loop_t uv;
    uv_prepare_t prepare; /* also keeps the loop alive while nothing else does */
    struct hook turn[TURN_HOOKS_MAX];
    int turn_count;
    struct gf_poll *asked; /* of end.fd, once signals are ours */
    struct hook drain;
    bool stopped;
};

struct gf_timer {
    uv_timer_t uv;
    struct hook hook;
};

struct gf_async {
    uv_async_t uv;
    struct hook hook;
};

struct gf_poll {
    uv_poll_t uv;
    struct hook hook;
};

/* The last thing before the loop sleeps: what timers, I/O and close callbacks gathered during the turn leaves now.
 * (A check handle would leave work gathered by timers waiting for the next I/O.) */
static void on_prepare(uv_prepare_t *prepare)
{
    struct gf_loop *loop = prepare->data;

    for (int i = 0; i < loop->turn_count; i++)
        loop->turn[i].run(loop->turn[i].ctx);
}

int gf_loop_allow_sockets(int64_t wanted)
{
    rlim_t need = (rlim_t)wanted + OTHER_DESCRIPTORS, room;
    struct rlimit limit;

    GF_ASSERT(wanted >= 0 && wanted <= INT32_MAX && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < need) {
        limit.rlim_cur = limit.rlim_max < need ? limit.rlim_max : need;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            GF_ASSERT(getrlimit(RLIMIT_NOFILE, &limit) == 0); /* as it was, then */
    }
    if (limit.rlim_cur >= need)
        return (int)wanted;
    room = limit.rlim_cur > 2 * OTHER_DESCRIPTORS ? limit.rlim_cur - OTHER_DESCRIPTORS : limit.rlim_cur / 2;
    if (room > (rlim_t)wanted)
        room = (rlim_t)wanted;
    gf_log(GF_WARN, "descriptors_limited", "limit=%llu wanted=%llu connections_max=%llu", (unsigned long long)limit.rlim_cur,
           (unsigned long long)need, (unsigned long long)room);
    return (int)room;
}

struct gf_loop *gf_loop_create(void)
{
    struct gf_loop *loop = gf_xcalloc(1, sizeof(*loop));

    GF_ASSERT(uv_loop_init(&loop->uv) == 0);
    GF_ASSERT(uv_prepare_init(&loop->uv, &loop->prepare) == 0);
    loop->prepare.data = loop;
    GF_ASSERT(uv_prepare_start(&loop->prepare, on_prepare) == 0);
    return loop;
}

/* Our own objects carry their free function in the handle's close callback; at destruction we only know the type. */
static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

static void close_left(uv_handle_t *handle, void *arg)
{
    struct gf_loop *loop = arg;

    if (uv_is_closing(handle))
        return;
    if (handle == (uv_handle_t *)&loop->prepare)
        uv_close(handle, NULL);
    else if (handle->type == UV_TIMER || handle->type == UV_ASYNC || handle->type == UV_POLL)
        uv_close(handle, handle->data == handle ? free_handle : NULL); /* only ours point at themselves */
    else
        uv_close(handle, NULL);
}

/* ---- the end of the process: nobody promises that the loop turns, so signals and deadline are the kernel's ---- */

static const int ends[2] = {SIGTERM, SIGINT};

static struct {
    _Atomic int64_t begun_ms; /* a signal has come, or the loop was stopped; 0: neither */
    int64_t overdue_ms;
    int fd; /* eventfd: tells the loop of the first signal */
} end;

static void set_alarm(int64_t ms)
{
    struct itimerval timer = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};

    GF_ASSERT(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* False: it had begun. */
static bool begin_end(void)
{
    int64_t not_yet = 0;

    if (!atomic_compare_exchange_strong(&end.begun_ms, &not_yet, gf_clock_mono_ms()))
        return false;
    set_alarm(end.overdue_ms);
    return true;
}

static void on_end_signal(int number)
{
    const uint64_t one = 1;
    int saved = errno;

    (void)number;
    if (!begin_end()) {
        if (gf_clock_mono_ms() - atomic_load(&end.begun_ms) >= SAME_MS)
            _exit(1); /* asked twice: the person does not want to wait */
    } else if (write(end.fd, &one, sizeof(one)) < 0) {
        _exit(1); /* never: nobody else writes to it */
    }
    errno = saved;
}

/* A drain that does not end by itself: a library that waits for its server at the close, say. */
static void leave_overdue(int number)
{
    static const char text[] = "level=error event=drain_overdue reason=\"the process did not end in time\"\n";

    (void)number;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* nowhere left to complain */
    }
    _exit(1);
}

static void handle(int number, void (*handler)(int))
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART; /* whatever thread it comes to, its calls go on */
    GF_ASSERT(sigaction(number, &action, NULL) == 0);
}

static void forget_signals(struct gf_loop *loop)
{
    for (int i = 0; i < 2; i++)
        handle(ends[i], SIG_DFL);
    set_alarm(0);
    handle(SIGALRM, SIG_DFL);
    gf_poll_close(&loop->asked);
    (void)close(end.fd);
}

void gf_loop_destroy(struct gf_loop **loop)
{
    if (*loop == NULL)
        return;
    if ((*loop)->asked != NULL)
        forget_signals(*loop);
    uv_walk(&(*loop)->uv, close_left, *loop);
    while (uv_run(&(*loop)->uv, UV_RUN_DEFAULT) != 0)
        ;
    GF_ASSERT(uv_loop_close(&(*loop)->uv) == 0);
    free(*loop);
    *loop = NULL;
}

void gf_loop_run(struct gf_loop *loop)
{
    loop->stopped = false;
    while (!loop->stopped)
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT); /* the count of active handles says nothing here */
}

void gf_loop_stop(struct gf_loop *loop)
{
    if (loop->asked != NULL)
        (void)begin_end(); /* if it ends by itself, what follows may be as long */
    loop->stopped = true;
    uv_stop(&loop->uv);
}

void gf_loop_on_turn(struct gf_loop *loop, gf_loop_fn on_turn, void *ctx)
{
    GF_ASSERT(loop->turn_count < TURN_HOOKS_MAX);
    loop->turn[loop->turn_count++] = (struct hook){.run = on_turn, .ctx = ctx};
}

static void on_asked(void *ctx)
{
    struct gf_loop *loop = ctx;
    uint64_t count;

    if (read(end.fd, &count, sizeof(count)) == (ssize_t)sizeof(count) && !loop->stopped)
        loop->drain.run(loop->drain.ctx);
}

void gf_loop_on_signal(struct gf_loop *loop, int64_t overdue_ms, gf_loop_fn on_drain, void *ctx)
{
    GF_ASSERT(loop->asked == NULL && overdue_ms >= 0);
    GF_ASSERT(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    loop->drain = (struct hook){.run = on_drain, .ctx = ctx};
    end.overdue_ms = overdue_ms;
    end.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    GF_ASSERT(end.fd >= 0);
    atomic_store(&end.begun_ms, 0);
    loop->asked = gf_poll_start(loop, end.fd, on_asked, loop);
    handle(SIGALRM, leave_overdue);
    for (int i = 0; i < 2; i++)
        handle(ends[i], on_end_signal);
}

static void on_timer(uv_timer_t *handle)
{
    struct gf_timer *timer = (struct gf_timer *)handle;

    timer->hook.run(timer->hook.ctx);
}

struct gf_timer *gf_timer_start(struct gf_loop *loop, int64_t first_ms, int64_t repeat_ms, gf_loop_fn on_fire,
                                void *ctx)
{
    struct gf_timer *timer = gf_xcalloc(1, sizeof(*timer));

    GF_ASSERT(uv_timer_init(&loop->uv, &timer->uv) == 0);
    timer->uv.data = timer;
    timer->hook = (struct hook){.run = on_fire, .ctx = ctx};
    gf_timer_reset(timer, first_ms, repeat_ms);
    return timer;
}

void gf_timer_reset(struct gf_timer *timer, int64_t first_ms, int64_t repeat_ms)
{
    GF_ASSERT(first_ms >= 0 && repeat_ms >= 0);
    uv_update_time(timer->uv.loop); /* the cached time is the turn's start: after long work a timer would fire early */
    GF_ASSERT(uv_timer_start(&timer->uv, on_timer, (uint64_t)first_ms, (uint64_t)repeat_ms) == 0);
}

void gf_timer_close(struct gf_timer **timer)
{
    if (*timer == NULL)
        return;
    uv_close((uv_handle_t *)&(*timer)->uv, free_handle);
    *timer = NULL;
}

static void on_async(uv_async_t *handle)
{
    struct gf_async *async = (struct gf_async *)handle;

    async->hook.run(async->hook.ctx);
}

struct gf_async *gf_async_create(struct gf_loop *loop, gf_loop_fn on_wake, void *ctx)
{
    struct gf_async *async = gf_xcalloc(1, sizeof(*async));

    GF_ASSERT(uv_async_init(&loop->uv, &async->uv, on_async) == 0);
    async->uv.data = async;
    async->hook = (struct hook){.run = on_wake, .ctx = ctx};
    return async;
}

void gf_async_wake(struct gf_async *async)
{
    GF_ASSERT(uv_async_send(&async->uv) == 0);
}

void gf_async_close(struct gf_async **async)
{
    if (*async == NULL)
        return;
    uv_close((uv_handle_t *)&(*async)->uv, free_handle);
    *async = NULL;
}

/* An error (EBADF, say) also calls back: the reader's read(2) then reports it. */
static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct gf_poll *poll = (struct gf_poll *)handle;

    (void)status;
    (void)events;
    poll->hook.run(poll->hook.ctx);
}

struct gf_poll *gf_poll_start(struct gf_loop *loop, int fd, gf_loop_fn on_readable, void *ctx)
{
    struct gf_poll *poll = gf_xcalloc(1, sizeof(*poll));

    GF_ASSERT(uv_poll_init(&loop->uv, &poll->uv, fd) == 0);
    poll->uv.data = poll;
    poll->hook = (struct hook){.run = on_readable, .ctx = ctx};
    GF_ASSERT(uv_poll_start(&poll->uv, UV_READABLE, on_poll) == 0);
    return poll;
}

void gf_poll_close(struct gf_poll **poll)
{
    if (*poll == NULL)
        return;
    uv_close((uv_handle_t *)&(*poll)->uv, free_handle);
    *poll = NULL;
}

void *gf_loop_native(struct gf_loop *loop)
{
    return &loop->uv;
}
