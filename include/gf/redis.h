/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Redis (hiredis behind it, src/adapter/redis). Redis is a cache: every caller must be right without it.
 * gf_redis: asynchronous link on a loop; commands of one loop turn leave in one write; own timers (connect, command
 * deadline), reconnects with back-off and jitter, replays nothing: a command in flight when the link dies gets a NULL reply,
 * which means "unknown whether executed" (every script is idempotent).
 * gf_redis_sync: blocking, pipelined, for the settle publisher and tools. */
#include "gf/base.h"
#include "gf/config.h"
#include "gf/loop.h"

enum gf_reply_type { GF_REPLY_NIL, GF_REPLY_INT, GF_REPLY_TEXT, GF_REPLY_STATUS, GF_REPLY_ERROR, GF_REPLY_ARRAY };
struct gf_reply; /* borrowed during the callback, or until gf_reply_free for the blocking form */
enum gf_reply_type gf_reply_type(const struct gf_reply *reply);
int64_t gf_reply_int(const struct gf_reply *reply);                      /* asserts INT */
const char *gf_reply_text(const struct gf_reply *reply, size_t *len_r);  /* TEXT, STATUS or ERROR */
size_t gf_reply_count(const struct gf_reply *reply);                     /* ARRAY */
const struct gf_reply *gf_reply_at(const struct gf_reply *reply, size_t index);

struct gf_redis_arg {
    const char *ptr;
    size_t len;
};
#define GF_REDIS_ARGS_MAX 1024

/* The Lua scripts of src/adapter/redis/lua. Sent as EVALSHA; NOSCRIPT is answered by EVAL of that one call. */
enum gf_script { GF_SCRIPT_RESERVE, GF_SCRIPT_ABORT, GF_SCRIPT_STORE, GF_SCRIPT_FORGET, GF_SCRIPT_COUNT };

int gf_redis_shard(int64_t user_id, int shards); /* 0..shards-1: crc16("u:<id>") % shards, as a cluster would hash the tag */

struct gf_redis;
typedef void (*gf_reply_fn)(void *ctx, const struct gf_reply *reply); /* NULL: unknown whether executed */
/* Never fails: it connects in the background. on_up (may be NULL) runs after each successful connect. */
struct gf_redis *gf_redis_create(struct gf_loop *loop, const struct gf_config *config, gf_loop_fn on_up, void *ctx);
struct gf_redis *gf_redis_create_shard(struct gf_loop *loop, const struct gf_config *config, int shard, gf_loop_fn on_up,
                                       void *ctx);
bool gf_redis_up(const struct gf_redis *redis);
/* RETRY: not connected or too many commands in flight; nothing was sent and no callback comes. on_reply may be NULL. */
GF_NODISCARD enum gf_class gf_redis_command(struct gf_redis *redis, const struct gf_redis_arg *args, size_t count,
                                            gf_reply_fn on_reply, void *ctx);
/* args: keys first (key_count of them), then the rest. */
GF_NODISCARD enum gf_class gf_redis_script(struct gf_redis *redis, enum gf_script script, const struct gf_redis_arg *args,
                                           size_t count, size_t key_count, gf_reply_fn on_reply, void *ctx);
void gf_redis_flush(struct gf_redis *redis); /* sends now what would leave at the end of the loop turn */
void gf_redis_close(struct gf_redis **redis); /* pending callbacks get NULL */

struct gf_redis_sync;
GF_NODISCARD enum gf_class gf_redis_sync_connect(const struct gf_config *config, struct gf_redis_sync **redis_r,
                                                 struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_redis_sync_connect_shard(const struct gf_config *config, int shard,
                                                       struct gf_redis_sync **redis_r, struct gf_error *error_r);
void gf_redis_sync_close(struct gf_redis_sync **redis);
/* Appends to the pipeline; nothing is sent before gf_redis_sync_reply, which must be called once for each. */
void gf_redis_sync_command(struct gf_redis_sync *redis, const struct gf_redis_arg *args, size_t count);
void gf_redis_sync_script(struct gf_redis_sync *redis, enum gf_script script, const struct gf_redis_arg *args, size_t count,
                          size_t key_count);
/* Next reply in order (NOSCRIPT handled inside). RETRY: connection lost, everything pending is unknown: close it. */
GF_NODISCARD enum gf_class gf_redis_sync_reply(struct gf_redis_sync *redis, struct gf_reply **reply_r, struct gf_error *error_r);
void gf_reply_free(struct gf_reply **reply);
