/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The event loop that roles see (libuv behind it, src/adapter/uv). One loop per thread; everything here belongs to the
 * loop's thread, except gf_async_wake. Callbacks get the caller's ctx. Objects are created on the heap, closed by
 * gf_*_close (NULL-safe, sets NULL); memory is freed by the loop after its close callbacks ran. */
#include "gf/base.h"

struct gf_loop;
struct gf_timer;
struct gf_async;
struct gf_poll;
typedef void (*gf_loop_fn)(void *ctx);

struct gf_loop *gf_loop_create(void);
void gf_loop_destroy(struct gf_loop **loop); /* closes what is left, runs the close callbacks */
void gf_loop_run(struct gf_loop *loop);      /* until gf_loop_stop */
void gf_loop_stop(struct gf_loop *loop);
/* Runs once per loop turn after I/O callbacks: the place for work gathered during the turn. At most 8 hooks. */
void gf_loop_on_turn(struct gf_loop *loop, gf_loop_fn on_turn, void *ctx);
/* SIGTERM and SIGINT: the first one calls on_drain, once the loop turns; one that comes 0.1 s later, or more, or so long after
 * gf_loop_stop, exits the process with status 1, whatever it is at, and so does the end of overdue_ms (0: none) from then on, until
 * the loop is destroyed. Whoever fails before the loop has run calls gf_loop_stop, so that its end, too, has one. SIGPIPE is
 * ignored. One loop per process. */
void gf_loop_on_signal(struct gf_loop *loop, int64_t overdue_ms, gf_loop_fn on_drain, void *ctx);
/* Raises the process's limit of descriptors for so many sockets and some more (the usual soft limit is 1024). Returns for how many
 * there is room: less than asked for where the hard limit is lower, because a process that clients have left no descriptor for
 * Redis, MySQL, Kafka or its own /healthz is dead. */
int gf_loop_allow_sockets(int64_t wanted);

struct gf_timer *gf_timer_start(struct gf_loop *loop, int64_t first_ms, int64_t repeat_ms, gf_loop_fn on_timer, void *ctx);
void gf_timer_reset(struct gf_timer *timer, int64_t first_ms, int64_t repeat_ms); /* also re-arms a finished one-shot */
void gf_timer_close(struct gf_timer **timer);

struct gf_async *gf_async_create(struct gf_loop *loop, gf_loop_fn on_wake, void *ctx);
void gf_async_wake(struct gf_async *async); /* thread: any */
void gf_async_close(struct gf_async **async);

/* Calls on_readable whenever fd (an eventfd, say) is readable; the callback must read it. Does not own fd. */
struct gf_poll *gf_poll_start(struct gf_loop *loop, int fd, gf_loop_fn on_readable, void *ctx);
void gf_poll_close(struct gf_poll **poll);

void *gf_loop_native(struct gf_loop *loop); /* uv_loop_t *, for adapters only */
