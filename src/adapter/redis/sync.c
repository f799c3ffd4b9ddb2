/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking, pipelined link (gf_redis_sync). Owns its connection, the encoded scripts whose replies are missing (for
 * EVAL after NOSCRIPT) and replies read ahead of their turn. Any I/O failure or time-out is final: close and connect
 * anew. Thread: one at a time. */
#include "gf/redis.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "address.h"
#include "scripts.h"

struct pending { /* one missing reply, oldest first */
    struct pending *next;
    enum gf_script script;
    struct gf_resp *resp; /* NULL for plain commands */
    redisReply *early;    /* read while an older one was sent again */
};

struct gf_redis_sync {
    redisContext *context;
    struct pending *oldest, *newest;
    char sha[GF_SCRIPT_COUNT][GF_SHA1_TEXT + 1];
    bool append_failed; /* told by the next reply */
};

static enum gf_class lost(const struct gf_redis_sync *redis, struct gf_error *error_r)
{
    const redisContext *context = redis->context;

    return gf_fail(error_r, GF_RETRY, context->err, "redis: %s", context->err ? context->errstr : "connection lost");
}

/* One command, one reply: for the greeting. */
static enum gf_class ask(struct gf_redis_sync *redis, const struct gf_redis_arg *args, size_t count,
                         redisReply **reply_r, struct gf_error *error_r)
{
    struct gf_resp *resp = gf_resp_command(args, count);
    redisReply *reply = NULL;
    enum gf_class class;

    if (redisAppendFormattedCommand(redis->context, resp->text, resp->len) != REDIS_OK ||
        redisGetReply(redis->context, (void **)&reply) != REDIS_OK) {
        free(resp);
        return lost(redis, error_r);
    }
    free(resp);
    if (reply->type == REDIS_REPLY_ERROR) {
        class = gf_fail(error_r, GF_RETRY, 0, "redis: %.200s", reply->str);
        freeReplyObject(reply);
        return class;
    }
    *reply_r = reply;
    return GF_OK;
}

static enum gf_class greet(struct gf_redis_sync *redis, const struct gf_config *config, struct gf_error *error_r)
{
    char password[256];
    struct gf_redis_arg auth[] = {{"AUTH", 4}, {password, 0}};
    redisReply *reply = NULL;
    enum gf_class class = gf_redis_password(config, password, sizeof(password), error_r);

    auth[1].len = class == GF_OK ? strlen(password) : 0;
    if (class == GF_OK && auth[1].len > 0) {
        class = ask(redis, auth, GF_COUNT(auth), &reply, error_r);
        if (class == GF_OK)
            freeReplyObject(reply);
    }
    explicit_bzero(password, sizeof(password));
    for (unsigned i = 0; i < GF_SCRIPT_COUNT && class == GF_OK; i++) {
        const char *source = gf_script_text((enum gf_script)i);
        struct gf_redis_arg load[] = {{"SCRIPT", 6}, {"LOAD", 4}, {source, strlen(source)}};

        class = ask(redis, load, GF_COUNT(load), &reply, error_r);
        if (class != GF_OK)
            break;
        if (reply->type == REDIS_REPLY_STRING && strlen(reply->str) == GF_SHA1_TEXT)
            memcpy(redis->sha[i], reply->str, GF_SHA1_TEXT);
        else
            class = gf_fail(error_r, GF_RETRY, 0, "redis: SCRIPT LOAD gave no digest");
        freeReplyObject(reply);
    }
    return class;
}

/* hiredis would take the first address of a name and no other. */
static enum gf_class dial(const struct gf_host *address, struct timeval timeout, redisContext **context_r,
                          struct gf_error *error_r)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char host[INET6_ADDRSTRLEN];
    bool found;
    int rc;

    if (address->port == 0) {
        *context_r = redisConnectUnixWithTimeout(address->name, timeout);
        return GF_OK;
    }
    rc = getaddrinfo(address->name, NULL, &hints, &list);
    if (rc != 0)
        return gf_fail(error_r, GF_RETRY, 0, "redis: %s: %s", address->name, gai_strerror(rc));
    found = gf_redis_choose(list, host);
    freeaddrinfo(list);
    if (!found)
        return gf_fail(error_r, GF_RETRY, 0, "redis: %s has no address", address->name);
    *context_r = redisConnectWithTimeout(host, address->port, timeout);
    return GF_OK;
}

enum gf_class gf_redis_sync_connect(const struct gf_config *config, struct gf_redis_sync **redis_r,
                                    struct gf_error *error_r)
{
    return gf_redis_sync_connect_shard(config, 0, redis_r, error_r);
}

enum gf_class gf_redis_sync_connect_shard(const struct gf_config *config, int shard, struct gf_redis_sync **redis_r,
                                          struct gf_error *error_r)
{
    struct timeval timeout = {.tv_sec = config->redis_timeout / 1000, .tv_usec = (config->redis_timeout % 1000) * 1000};
    struct gf_host address;
    redisContext *context = NULL;
    struct gf_redis_sync *redis;
    enum gf_class class = gf_config_redis_host(config, shard, &address, error_r);

    if (class == GF_OK)
        class = dial(&address, timeout, &context, error_r);
    if (class != GF_OK)
        return class;
    redis = gf_xcalloc(1, sizeof(*redis));
    redis->context = context;
    GF_ASSERT(redis->context != NULL); /* NULL is out of memory only */
    if (redis->context->err != 0 || redisSetTimeout(redis->context, timeout) != REDIS_OK)
        class = lost(redis, error_r);
    else
        class = greet(redis, config, error_r);
    if (class != GF_OK)
        gf_redis_sync_close(&redis);
    else
        *redis_r = redis;
    return class;
}

static void pop(struct gf_redis_sync *redis)
{
    struct pending *pending = redis->oldest;

    redis->oldest = pending->next;
    if (!redis->oldest)
        redis->newest = NULL;
    if (pending->early)
        freeReplyObject(pending->early);
    free(pending->resp);
    free(pending);
}

void gf_redis_sync_close(struct gf_redis_sync **redis)
{
    if (!redis || !*redis)
        return;
    while ((*redis)->oldest)
        pop(*redis);
    redisFree((*redis)->context);
    free(*redis);
    *redis = NULL;
}

/* Takes resp. */
static void append(struct gf_redis_sync *redis, struct gf_resp *resp, enum gf_script script)
{
    struct pending *pending = gf_xcalloc(1, sizeof(*pending));

    if (redisAppendFormattedCommand(redis->context, resp->text, resp->len) != REDIS_OK)
        redis->append_failed = true;
    pending->script = script;
    if (script != GF_SCRIPT_NONE)
        pending->resp = resp;
    else
        free(resp);
    if (redis->newest)
        redis->newest->next = pending;
    else
        redis->oldest = pending;
    redis->newest = pending;
}

void gf_redis_sync_command(struct gf_redis_sync *redis, const struct gf_redis_arg *args, size_t count)
{
    GF_ASSERT(count > 0 && count <= GF_REDIS_ARGS_MAX);
    append(redis, gf_resp_command(args, count), GF_SCRIPT_NONE);
}

void gf_redis_sync_script(struct gf_redis_sync *redis, enum gf_script script, const struct gf_redis_arg *args,
                          size_t count, size_t key_count)
{
    GF_ASSERT(script < GF_SCRIPT_COUNT && count <= GF_REDIS_ARGS_MAX);
    append(redis, gf_resp_evalsha(redis->sha[script], args, count, key_count), script);
}

static bool read_reply(struct gf_redis_sync *redis, redisReply **reply_r)
{
    void *reply = NULL;

    if (redis->append_failed || redisGetReply(redis->context, &reply) != REDIS_OK)
        return false;
    *reply_r = reply;
    return true;
}

/* The server forgot the script: read what is under way, then send this one call with its source. Later calls that were
 * refused too find the script there when their turn comes, or are sent again in the same way. */
static bool eval_oldest(struct gf_redis_sync *redis, redisReply **reply_r)
{
    struct pending *oldest = redis->oldest;
    struct gf_resp *eval;
    bool sent;

    for (struct pending *later = oldest->next; later; later = later->next)
        if (!later->early && !read_reply(redis, &later->early))
            return false;
    eval = gf_resp_eval(oldest->resp, oldest->script);
    sent = redisAppendFormattedCommand(redis->context, eval->text, eval->len) == REDIS_OK;
    free(eval);
    return sent && read_reply(redis, reply_r);
}

static bool is_noscript(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOSCRIPT", 8) == 0;
}

enum gf_class gf_redis_sync_reply(struct gf_redis_sync *redis, struct gf_reply **reply_r, struct gf_error *error_r)
{
    struct pending *oldest = redis->oldest;
    redisReply *reply;
    enum gf_class class = GF_OK;

    GF_ASSERT(oldest != NULL); /* as many replies as commands */
    reply = oldest->early;
    oldest->early = NULL;
    if (!reply && !read_reply(redis, &reply))
        return lost(redis, error_r);
    if (oldest->resp && is_noscript(reply)) {
        freeReplyObject(reply);
        reply = NULL;
        if (!eval_oldest(redis, &reply))
            return lost(redis, error_r);
    }
    pop(redis);
    if (reply->type == REDIS_REPLY_ERROR &&
        (strncmp(reply->str, "READONLY", 8) == 0 || strncmp(reply->str, "NOAUTH", 6) == 0)) {
        class = gf_fail(error_r, GF_RETRY, 0, "redis: %.200s", reply->str);
        freeReplyObject(reply);
        return class;
    }
    *reply_r = (struct gf_reply *)reply;
    return class;
}
