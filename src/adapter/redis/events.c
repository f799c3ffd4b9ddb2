/* SPDX-License-Identifier: Apache-2.0 */
/* See events.h. hiredis may free `ac` inside any of its handlers; cleanup() tells us, and the poll handle then outlives
 * it until libuv's close callback. */
#include "events.h"

#include <stdlib.h>

struct gf_redis_events {
    uv_poll_t poll;
    uv_idle_t idle;        /* active while something is marked for writing: runs before the loop waits */
    redisAsyncContext *ac; /* NULL after cleanup */
    int mask;              /* what libuv watches */
    int open_handles;
};

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct gf_redis_events *ev, int mask)
{
    int rc;

    if (mask == ev->mask)
        return;
    ev->mask = mask;
    rc = mask ? uv_poll_start(&ev->poll, mask, on_poll) : uv_poll_stop(&ev->poll);
    GF_ASSERT(rc == 0);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct gf_redis_events *ev = poll->data;

    if (status < 0) { /* a refused connection, say: let hiredis find out by itself what is wrong */
        events = ev->mask;
        ev->mask = 0; /* libuv has stopped the handle */
    }
    if (ev->ac && (events & UV_READABLE))
        redisAsyncHandleRead(ev->ac);
    if (ev->ac && (events & UV_WRITABLE))
        redisAsyncHandleWrite(ev->ac);
}

static void add_read(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    watch(ev, ev->mask | UV_READABLE);
}

static void del_read(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    watch(ev, ev->mask & ~UV_READABLE);
}

/* What the turn gathered leaves in one write. Marked again by hiredis: the socket is full, so wait for it. */
static void on_idle(uv_idle_t *idle)
{
    struct gf_redis_events *ev = idle->data;

    if (!uv_is_active((uv_handle_t *)idle))
        return;
    uv_idle_stop(idle);
    if (ev->ac)
        redisAsyncHandleWrite(ev->ac);
    if (ev->ac && uv_is_active((uv_handle_t *)idle)) {
        uv_idle_stop(idle);
        watch(ev, ev->mask | UV_WRITABLE);
    }
}

static void add_write(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    if (!(ev->ac->c.flags & REDIS_CONNECTED))
        watch(ev, ev->mask | UV_WRITABLE); /* connecting: being writable is the answer */
    else if (!(ev->mask & UV_WRITABLE))
        (void)uv_idle_start(&ev->idle, on_idle); /* cannot fail: there is a callback */
}

static void del_write(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    uv_idle_stop(&ev->idle);
    watch(ev, ev->mask & ~UV_WRITABLE);
}

static void on_closed(uv_handle_t *handle)
{
    struct gf_redis_events *ev = handle->data;

    if (--ev->open_handles == 0)
        free(ev);
}

static void cleanup(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    ev->ac = NULL;
    ev->mask = 0;
    uv_close((uv_handle_t *)&ev->poll, on_closed);
    uv_close((uv_handle_t *)&ev->idle, on_closed);
}

void gf_redis_events_flush(redisAsyncContext *ac)
{
    struct gf_redis_events *ev = ac->ev.data;

    on_idle(&ev->idle);
}

bool gf_redis_events_attach(redisAsyncContext *ac, uv_loop_t *loop)
{
    struct gf_redis_events *ev = gf_xcalloc(1, sizeof(*ev));

    GF_ASSERT(ac->ev.data == NULL);
    if (uv_poll_init(loop, &ev->poll, ac->c.fd) != 0) {
        free(ev);
        return false;
    }
    (void)uv_idle_init(loop, &ev->idle); /* cannot fail */
    ev->open_handles = 2;
    ev->ac = ac;
    ev->poll.data = ev;
    ev->idle.data = ev;
    ac->ev.data = ev;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    return true;
}
