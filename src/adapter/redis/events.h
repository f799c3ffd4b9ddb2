/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* hiredis' asynchronous context on a libuv loop. Not hiredis' own adapter: that one never reports a refused connection
 * (libuv tells it by a negative status, which it ignores), and it calls epoll_ctl for each write. Here a write is only
 * marked, and all of a turn leave in one piece before the loop waits. */
#include <hiredis/async.h>
#include <uv.h>

#include "gf/base.h"

/* Takes over ac->ev; what it allocates dies when hiredis frees `ac`. False: the descriptor cannot be polled. */
/* Writes now what waits for the end of the turn. */
void gf_redis_events_flush(redisAsyncContext *ac);
GF_NODISCARD bool gf_redis_events_attach(redisAsyncContext *ac, uv_loop_t *loop);
