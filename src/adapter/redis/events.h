/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* hiredis' asynchronous context on a libuv loop. Not hiredis' own adapter: that one never reports a refused connection
 * (libuv tells it by a negative status, which it ignores), and it calls epoll_ctl for each write. Here a write is only
 * marked, and leaves in one piece right before the loop waits (gf_redis_events_flush). */
#include <hiredis/async.h>
#include <uv.h>

#include "gf/base.h"

struct gf_redis_events;

/* Takes over ac->ev; the returned object dies by itself when hiredis frees `ac`. NULL: the descriptor cannot be polled. */
struct gf_redis_events *gf_redis_events_attach(redisAsyncContext *ac, uv_loop_t *loop);
/* Writes what was marked. `ac` may be gone afterwards. */
void gf_redis_events_flush(redisAsyncContext *ac);
