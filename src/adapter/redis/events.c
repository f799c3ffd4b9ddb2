/* SPDX-License-Identifier: Apache-2.0 */
/* See events.h. hiredis may free `ac` inside any of its handlers; cleanup() tells us, and the poll handle then outlives
 * it until libuv's close callback. */
#include "events.h"

#include <stdlib.h>

struct gf_redis_events {
    uv_poll_t poll;
    redisAsyncContext *ac; /* NULL after cleanup */
    int mask;              /* what libuv watches */
    bool write_marked;
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

static void add_write(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    if (ev->ac->c.flags & REDIS_CONNECTED)
        ev->write_marked = true;
    else
        watch(ev, ev->mask | UV_WRITABLE); /* connecting: being writable is the answer */
}

static void del_write(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    ev->write_marked = false;
    watch(ev, ev->mask & ~UV_WRITABLE);
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static void cleanup(void *ctx)
{
    struct gf_redis_events *ev = ctx;

    ev->ac = NULL;
    ev->mask = 0;
    uv_close((uv_handle_t *)&ev->poll, on_closed);
}

struct gf_redis_events *gf_redis_events_attach(redisAsyncContext *ac, uv_loop_t *loop)
{
    struct gf_redis_events *ev = gf_xcalloc(1, sizeof(*ev));

    GF_ASSERT(ac->ev.data == NULL);
    if (uv_poll_init(loop, &ev->poll, ac->c.fd) != 0) {
        free(ev);
        return NULL;
    }
    ev->ac = ac;
    ev->poll.data = ev;
    ac->ev.data = ev;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    return ev;
}

void gf_redis_events_flush(redisAsyncContext *ac)
{
    struct gf_redis_events *ev = ac->ev.data;

    if (!ev->write_marked)
        return;
    ev->write_marked = false;
    redisAsyncHandleWrite(ac);
    /* Still marked: the socket is full, so wait for it. `ev` is alive (libuv frees it later), `ac` perhaps not. */
    if (ev->ac && ev->write_marked)
        watch(ev, ev->mask | UV_WRITABLE);
}
