/* SPDX-License-Identifier: Apache-2.0 */
/* The asynchronous link (gf_redis).
 * States: WAITING (until retry_ms) -> RESOLVING -> CONNECTING -> GREETING (AUTH, CLIENT SETNAME, SCRIPT LOAD) -> UP;
 * every failure goes back to WAITING through mark_down. One timer drives back-off and all deadlines: replies come in
 * order, so the oldest command is the head of one list. Ownership: struct gf_redis is freed when its timer is closed
 * and no name look-up runs; `ac` belongs to hiredis, which frees it by itself after failures; mark_down forgets it
 * first, so nobody touches it afterwards. Thread: the loop's. */
#include "gf/redis.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "events.h"
#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "scripts.h"

#define IN_FLIGHT_MAX 20000
#define RETRY_BASE_MS 50
#define RETRY_MAX_MS 2000
#define IDLE_PING_MS 1000 /* a silent peer is found out within this plus the command deadline */

enum state { WAITING, RESOLVING, CONNECTING, GREETING, UP };

struct command { /* in flight, in the order of their replies */
    struct command *next;
    struct gf_redis *redis;
    gf_reply_fn on_reply;
    void *ctx;
    struct gf_resp *resp; /* kept for scripts only */
    int64_t sent_ms;
    enum gf_script script;
};

struct gf_redis {
    const struct gf_config *config;
    int shard;
    uv_loop_t *loop;
    redisAsyncContext *ac; /* NULL unless CONNECTING, GREETING or UP */
    struct command *oldest, *newest;
    int in_flight;
    enum state state;
    int attempt;
    int64_t deadline_ms; /* RESOLVING, CONNECTING, GREETING */
    int64_t retry_ms;    /* WAITING */
    int64_t active_ms;   /* last command sent */
    gf_loop_fn on_up;
    void *ctx;
    char sha[GF_SCRIPT_COUNT][GF_SHA1_TEXT + 1];
    int greetings; /* answers still missing */
    struct gf_host address;
    uv_timer_t timer;
    uv_getaddrinfo_t lookup;
    int references; /* the timer and the look-up */
    bool looking_up, closing;
};

/* ---- going down ---- */

/* Forgets the connection; hiredis frees it (now, or when it is done with its callback), which answers every command in
 * flight with NULL. */
static redisAsyncContext *mark_down(struct gf_redis *redis, const char *why)
{
    redisAsyncContext *ac = redis->ac;

    if (redis->state == WAITING)
        return NULL;
    redis->ac = NULL;
    redis->state = WAITING;
    redis->retry_ms = gf_clock_mono_ms() + gf_backoff_ms(redis->attempt++, RETRY_BASE_MS, RETRY_MAX_MS);
    if (!redis->closing) {
        gf_metric_add(GF_M_REDIS_DOWN, 1);
        gf_log(GF_WARN, "redis_disconnected", "address=%s:%d attempt=%d reason=\"%s\"", redis->address.name,
               redis->address.port, redis->attempt, why);
    }
    return ac;
}

static void drop(struct gf_redis *redis, const char *why)
{
    redisAsyncContext *ac = mark_down(redis, why);

    if (ac)
        redisAsyncFree(ac);
}

/* ---- commands ---- */

static void on_native_reply(redisAsyncContext *ac, void *native, void *ctx);

static void command_free(struct command *command)
{
    free(command->resp);
    free(command);
}

/* Takes `command` and `resp`; false: not sent, both are still the caller's. */
static bool send_command(struct gf_redis *redis, struct command *command, const struct gf_resp *resp)
{
    if (redisAsyncFormattedCommand(redis->ac, on_native_reply, command, resp->text, resp->len) != REDIS_OK)
        return false;
    command->sent_ms = redis->active_ms = (int64_t)uv_now(redis->loop);
    command->next = NULL;
    if (redis->newest)
        redis->newest->next = command;
    else
        redis->oldest = command;
    redis->newest = command;
    redis->in_flight++;
    return true;
}

/* The server forgot the script (restart, fail-over, SCRIPT FLUSH): the same call with its source. */
static bool resend_as_eval(struct gf_redis *redis, struct command *command)
{
    struct gf_resp *eval;
    bool sent;

    if (!redis->ac || redis->in_flight >= IN_FLIGHT_MAX)
        return false;
    eval = gf_resp_eval(command->resp, command->script);
    command->script = GF_SCRIPT_NONE; /* once */
    sent = send_command(redis, command, eval);
    free(eval);
    return sent;
}

static bool reply_starts(const redisReply *reply, const char *prefix)
{
    return reply && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, prefix, strlen(prefix)) == 0;
}

static void on_native_reply(redisAsyncContext *ac, void *native, void *ctx)
{
    struct command *command = ctx;
    struct gf_redis *redis = command->redis;
    redisReply *reply = native;

    GF_ASSERT(redis->oldest == command);
    redis->oldest = command->next;
    if (!redis->oldest)
        redis->newest = NULL;
    redis->in_flight--;
    if (!reply)
        (void)mark_down(redis, ac->errstr ? ac->errstr : "connection lost");
    if (command->script != GF_SCRIPT_NONE && reply_starts(reply, "NOSCRIPT") && resend_as_eval(redis, command))
        return;
    if (reply_starts(reply, "READONLY") || reply_starts(reply, "MASTERDOWN") || reply_starts(reply, "NOAUTH"))
        drop(redis, reply->str); /* an old primary: look for the new one */
    if (command->on_reply)
        command->on_reply(command->ctx, (const struct gf_reply *)(const void *)reply);
    command_free(command);
}

/* Takes resp. `keep`: for a later EVAL. */
static enum gf_class submit(struct gf_redis *redis, struct gf_resp *resp, enum gf_script script, gf_reply_fn on_reply,
                            void *ctx)
{
    struct command *command = gf_xcalloc(1, sizeof(*command));
    bool keep = script != GF_SCRIPT_NONE, sent;

    command->redis = redis;
    command->on_reply = on_reply;
    command->ctx = ctx;
    command->script = script;
    command->resp = keep ? resp : NULL;
    sent = send_command(redis, command, resp);
    if (!keep)
        free(resp);
    if (!sent)
        command_free(command);
    return sent ? GF_OK : GF_RETRY;
}

enum gf_class gf_redis_command(struct gf_redis *redis, const struct gf_redis_arg *args, size_t count,
                               gf_reply_fn on_reply, void *ctx)
{
    GF_ASSERT(count > 0 && count <= GF_REDIS_ARGS_MAX);
    if (redis->state != UP || redis->in_flight >= IN_FLIGHT_MAX)
        return GF_RETRY;
    return submit(redis, gf_resp_command(args, count), GF_SCRIPT_NONE, on_reply, ctx);
}

enum gf_class gf_redis_script(struct gf_redis *redis, enum gf_script script, const struct gf_redis_arg *args,
                              size_t count, size_t key_count, gf_reply_fn on_reply, void *ctx)
{
    GF_ASSERT(script < GF_SCRIPT_COUNT && count <= GF_REDIS_ARGS_MAX);
    if (redis->state != UP || redis->in_flight >= IN_FLIGHT_MAX)
        return GF_RETRY;
    return submit(redis, gf_resp_evalsha(redis->sha[script], args, count, key_count), script, on_reply, ctx);
}

void gf_redis_flush(struct gf_redis *redis)
{
    if (redis->state == UP)
        gf_redis_events_flush(redis->ac);
}

/* ---- coming up ---- */

static void greeted(struct gf_redis *redis)
{
    if (--redis->greetings > 0 || redis->state != GREETING)
        return;
    redis->state = UP;
    redis->attempt = 0;
    gf_log(GF_INFO, "redis_connected", "address=%s:%d", redis->address.name, redis->address.port);
    if (redis->on_up)
        redis->on_up(redis->ctx);
}

static bool greeting_refused(struct gf_redis *redis, const struct gf_reply *reply)
{
    if (!reply)
        return true;
    if (gf_reply_type(reply) != GF_REPLY_ERROR)
        return false;
    drop(redis, gf_reply_text(reply, NULL)); /* LOADING, WRONGPASS, NOAUTH ... */
    return true;
}

static void on_greeting(void *ctx, const struct gf_reply *reply)
{
    struct gf_redis *redis = ctx;

    if (!greeting_refused(redis, reply))
        greeted(redis);
}

/* SCRIPT LOAD answers the digest; scripts are loaded in the order of their numbers and answered in it. */
static void on_script_loaded(void *ctx, const struct gf_reply *reply)
{
    struct gf_redis *redis = ctx;
    size_t len, index = (size_t)(GF_SCRIPT_COUNT - redis->greetings);
    const char *sha;

    if (greeting_refused(redis, reply))
        return;
    GF_ASSERT(index < GF_SCRIPT_COUNT);
    sha = gf_reply_type(reply) == GF_REPLY_TEXT ? gf_reply_text(reply, &len) : "";
    if (sha[0] == '\0' || len != GF_SHA1_TEXT) {
        drop(redis, "SCRIPT LOAD gave no digest");
        return;
    }
    memcpy(redis->sha[index], sha, GF_SHA1_TEXT);
    greeted(redis);
}

static bool greet(struct gf_redis *redis, const struct gf_redis_arg *args, size_t count, gf_reply_fn on_reply)
{
    redis->greetings++;
    return submit(redis, gf_resp_command(args, count), GF_SCRIPT_NONE, on_reply, redis) == GF_OK;
}

#define ARG(text)                                                                                                      \
    {                                                                                                                  \
        (text), strlen(text)                                                                                           \
    }

static bool greet_all(struct gf_redis *redis, const char *password)
{
    struct gf_redis_arg auth[] = {{"AUTH", 4}, ARG(password)};
    struct gf_redis_arg name[] = {{"CLIENT", 6}, {"SETNAME", 7}, {"giftflow", 8}};

    redis->greetings = 0;
    if (password[0] != '\0' && !greet(redis, auth, GF_COUNT(auth), on_greeting))
        return false;
    if (!greet(redis, name, GF_COUNT(name), on_greeting))
        return false;
    for (unsigned i = 0; i < GF_SCRIPT_COUNT; i++) {
        const char *source = gf_script_text((enum gf_script)i);
        struct gf_redis_arg load[] = {{"SCRIPT", 6}, {"LOAD", 4}, ARG(source)};

        if (!greet(redis, load, GF_COUNT(load), on_script_loaded))
            return false;
    }
    return true;
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct gf_redis *redis = ac->data;
    char password[256];
    struct gf_error error;

    if (redis->ac != ac)
        return; /* given up before; hiredis is only cleaning */
    if (status != REDIS_OK) {
        (void)mark_down(redis, ac->errstr ? ac->errstr : "cannot connect"); /* hiredis frees ac after this callback */
        return;
    }
    redis->state = GREETING;
    if (gf_redis_password(redis->config, password, sizeof(password), &error) != GF_OK) {
        gf_log(GF_ERROR, "redis_misconfigured", "reason=\"%s\"", error.text);
        redis->deadline_ms = 0; /* hiredis 0.14 must not lose ac inside this callback: the timer drops it */
    } else if (!greet_all(redis, password)) {
        redis->deadline_ms = 0;
    }
    explicit_bzero(password, sizeof(password));
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct gf_redis *redis = ac->data;

    (void)status;
    if (redis->ac == ac)
        (void)mark_down(redis, ac->errstr ? ac->errstr : "closed by the server");
}

static void dial(struct gf_redis *redis, const char *host)
{
    redisAsyncContext *ac =
        redis->address.port ? redisAsyncConnect(host, redis->address.port) : redisAsyncConnectUnix(host);
    bool attached;

    GF_ASSERT(ac != NULL); /* NULL is out of memory only */
    redis->state = CONNECTING;
    if (ac->err != 0) {
        (void)mark_down(redis, ac->errstr ? ac->errstr : "cannot connect");
        redisAsyncFree(ac);
        return;
    }
    redis->ac = ac;
    ac->data = redis;
    attached = gf_redis_events_attach(ac, redis->loop) && redisAsyncSetConnectCallback(ac, on_connect) == REDIS_OK &&
               redisAsyncSetDisconnectCallback(ac, on_disconnect) == REDIS_OK;
    if (!attached)
        drop(redis, "cannot watch the socket");
}

static void release(struct gf_redis *redis)
{
    if (--redis->references == 0)
        free(redis);
}

static void on_resolved(uv_getaddrinfo_t *lookup, int status, struct addrinfo *info)
{
    struct gf_redis *redis = lookup->data;
    char host[INET6_ADDRSTRLEN];
    bool found = status == 0 && gf_redis_choose(info, host);

    redis->looking_up = false;
    uv_freeaddrinfo(info);
    if (!redis->closing && redis->state == RESOLVING) {
        if (found)
            dial(redis, host);
        else
            (void)mark_down(redis, status != 0 ? uv_strerror(status) : "name has no address");
    }
    release(redis);
}

/* hiredis would resolve names with a blocking call; numbers and sockets go to it directly. */
static void connect_start(struct gf_redis *redis)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct in6_addr binary;
    int rc;

    redis->state = RESOLVING;
    redis->deadline_ms = gf_clock_mono_ms() + redis->config->redis_timeout;
    if (redis->address.port == 0 || inet_pton(AF_INET, redis->address.name, &binary) == 1) {
        dial(redis, redis->address.name);
        return;
    }
    if (redis->looking_up)
        return; /* the last look-up still runs in its thread: its answer will do */
    redis->lookup.data = redis;
    rc = uv_getaddrinfo(redis->loop, &redis->lookup, on_resolved, redis->address.name, NULL, &hints);
    if (rc != 0) {
        (void)mark_down(redis, uv_strerror(rc));
        return;
    }
    redis->looking_up = true;
    redis->references++;
}

/* ---- time ---- */

static void ping_idle(struct gf_redis *redis, int64_t now_ms)
{
    struct gf_redis_arg ping[] = {{"PING", 4}};

    if (redis->in_flight > 0 || now_ms - redis->active_ms < IDLE_PING_MS)
        return;
    if (gf_redis_command(redis, ping, 1, NULL, NULL) !=
        GF_OK) /* nobody reads the answer: its deadline is what matters */
        drop(redis, "cannot send");
}

static void on_timer(uv_timer_t *timer)
{
    struct gf_redis *redis = timer->data;
    int64_t now_ms = gf_clock_mono_ms(), loop_ms = (int64_t)uv_now(redis->loop);

    switch (redis->state) {
    case WAITING:
        if (now_ms >= redis->retry_ms)
            connect_start(redis);
        break;
    case RESOLVING:
    case CONNECTING:
    case GREETING:
        if (now_ms >= redis->deadline_ms)
            drop(redis, "connect deadline");
        break;
    case UP:
        if (redis->oldest && loop_ms - redis->oldest->sent_ms > redis->config->redis_timeout) {
            gf_metric_add(GF_M_REDIS_TIMEOUTS, redis->in_flight);
            drop(redis, "command deadline");
        } else {
            ping_idle(redis, loop_ms);
        }
        break;
    default:
        GF_ASSERT(false && "a state");
    }
}

/* ---- life ---- */

struct gf_redis *gf_redis_create(struct gf_loop *loop, const struct gf_config *config, gf_loop_fn on_up, void *ctx)
{
    return gf_redis_create_shard(loop, config, 0, on_up, ctx);
}

struct gf_redis *gf_redis_create_shard(struct gf_loop *loop, const struct gf_config *config, int shard, gf_loop_fn on_up,
                                       void *ctx)
{
    struct gf_redis *redis = gf_xcalloc(1, sizeof(*redis));
    int64_t tick_ms = config->redis_timeout / 8;
    struct gf_error error;
    int rc;

    redis->config = config;
    redis->shard = shard;
    redis->loop = gf_loop_native(loop);
    redis->on_up = on_up;
    redis->ctx = ctx;
    redis->references = 1;
    rc = uv_timer_init(redis->loop, &redis->timer);
    GF_ASSERT(rc == 0);
    redis->timer.data = redis;
    tick_ms = tick_ms < 10 ? 10 : tick_ms > 100 ? 100 : tick_ms;
    if (gf_config_redis_host(config, shard, &redis->address, &error) != GF_OK) {
        gf_log(GF_ERROR, "redis_misconfigured", "reason=\"%s\"",
               error.text); /* stays down: roles report it as not ready */
        return redis;
    }
    rc = uv_timer_start(&redis->timer, on_timer, 0, (uint64_t)tick_ms);
    GF_ASSERT(rc == 0);
    return redis;
}

bool gf_redis_up(const struct gf_redis *redis)
{
    return redis->state == UP;
}

static void on_handle_closed(uv_handle_t *handle)
{
    release(handle->data);
}

void gf_redis_close(struct gf_redis **redis)
{
    struct gf_redis *closed;

    if (!redis || !*redis)
        return;
    closed = *redis;
    closed->closing = true;
    closed->on_up = NULL;
    drop(closed, "closing"); /* callbacks still find a link, a dead one */
    *redis = NULL;
    if (closed->looking_up)
        (void)uv_cancel((uv_req_t *)&closed->lookup); /* its callback comes in either case */
    uv_close((uv_handle_t *)&closed->timer, on_handle_closed);
}
