/* SPDX-License-Identifier: Apache-2.0 */
/* The router: reads the notices topic and sends each frame to the gateways that have its room.
 * Adds seq = (incarnation << 40) + offset: rising per channel, because a channel's key is always in one partition, and the
 * same whichever router reads it. The incarnation is a row of MySQL's `topic`, read by a thread of its own at the start, and again
 * with each assignment and when offsets fall: init may have made the topic anew.
 * One batch is on its way at a time: take what is there, send it, wait until every gateway concerned has acknowledged (or is
 * dropped after router.ack_timeout). Only then may its offsets be committed, several times a second. So a notice is repeated,
 * never skipped, when a router dies; while one batch waits the next gathers, which is how batches grow with the load.
 * A link that is lost is made again at once. Until then, or for router.ack_timeout more, nothing is taken, and the batch that it
 * owed is taken again, once: its gateway may be alive, with clients that would miss what comes meanwhile.
 * Notices that concern no linked gateway are done with: sockets are best effort plus resume (G4). Owns: consumer, links.
 * Threads: one loop, and the short-lived reader of the incarnation. */
#include "router.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/kafka.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/notice.h"
#include "gf/ops.h"
#include "gf/role.h"
#include "gf/sql.h"

#define GROUP "giftflow-router"
#define QUEUE_BYTES (24 * 1024 * 1024) /* prefetch of all partitions, which one router may come to own; memory is about 2.5 times it */
#define SERVE_MS 500
#define FIRST_LINKS_MS 2000 /* notices are not dropped before gateways had this long to be linked */
#define LATE_MS 1
#define BATCHES_PER_TURN 8
#define SEQ_BITS 40
#define LINK_EXTRA 64 /* at most, what seq and link add to a notice */
#define PARTITIONS_MAX 1024
#define INCARNATION_RETRY_MS 500
/* Between commits: a successor may repeat so much, and a batch. A client remembers 512 ids of its room: fewer than may be
 * repeated only where one room has thousands of gifts a second, and then some effects show twice. */
#define COMMIT_MS 200

struct part {
    int32_t partition;
    int64_t from, taken; /* the batch on its way: its first record, and after its last one; taken -1: none */
    int64_t again;       /* the batch from here on was taken again; -1: none */
    int64_t done;        /* acknowledged and not yet committed; -1: nothing */
    int64_t next;        /* no record below it is still to come; 0: not known */
};

struct router {
    const struct gf_config *config;
    struct gf_loop *loop;
    struct gf_ops *ops;
    struct links links;
    struct gf_kafka_consumer *consumer;
    struct gf_poll *poll;
    struct gf_timer *serve, *ack, *drain;
    struct gf_async *again; /* more batches in a later turn; the incarnation is there */
    struct gf_kafka_message *messages; /* router.batch of them */
    struct part parts[PARTITIONS_MAX];
    int part_count, turn; /* turn: which partition is asked first */
    struct gf_buf frame;
    int64_t commit_ms;     /* the next commit, not before */
    int64_t hold_until_ms; /* no batch before, unless all gateways are linked */
    bool waiting;          /* a batch is on its way */
    bool late;             /* for too long, as seen before this turn's acknowledgements */
    bool draining, failed;
    pthread_t reader;
    bool reader_started;
    _Atomic int64_t incarnation; /* 0: not known yet */
    atomic_bool stop_reader;
};

/* ---- the incarnation */

static enum gf_class read_incarnation(struct router *router, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    char topic[200];
    struct gf_buf text;
    enum gf_class class;

    snprintf(topic, sizeof(topic), "%.100s.notices", router->config->kafka_prefix);
    gf_buf_init(&text, 1024);
    gf_buf_adds(&text, "SELECT incarnation FROM topic WHERE topic=");
    gf_buf_add_xhex(&text, topic, strlen(topic));
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result))
        class = gf_fail(error_r, GF_RETRY, 0, "topic %s is not pinned in MySQL: run giftflow init", topic);
    else
        atomic_store(&router->incarnation, gf_sql_i64(result, 0));
    gf_sql_result_free(&result);
    return class;
}

static void *run_reader(void *arg)
{
    struct router *router = arg;

    while (!atomic_load(&router->stop_reader)) {
        struct gf_sql *sql = NULL;
        struct gf_error error;
        enum gf_class class = gf_sql_connect(router->config, GF_SQL_PLAIN, &sql, &error);

        if (class == GF_OK)
            class = read_incarnation(router, sql, &error);
        gf_sql_close(&sql);
        if (class == GF_OK)
            break;
        gf_log(GF_WARN, "incarnation_read_failed", "error=\"%s\"", error.text);
        gf_clock_sleep_ms(INCARNATION_RETRY_MS);
    }
    gf_async_wake(router->again);
    return NULL;
}

static enum gf_class start_reader(struct router *router, struct gf_error *error_r)
{
    if (router->reader_started)
        GF_ASSERT(pthread_join(router->reader, NULL) == 0); /* it has said what it read, and ends */
    atomic_store(&router->incarnation, 0);
    router->reader_started = pthread_create(&router->reader, NULL, run_reader, router) == 0;
    return router->reader_started ? GF_OK : gf_fail(error_r, GF_FATAL, 0, "cannot start a thread");
}

/* ---- batches */

static void route(struct router *router, const struct gf_kafka_message *message)
{
    struct gf_notice_head head;
    struct gf_link_entry entry = {.ts_ms = message->timestamp_ms > 0 ? message->timestamp_ms : 0};

    gf_metric_add(GF_M_ROUTER_NOTICES, 1);
    if (message->value == NULL || !gf_notice_head(message->value, message->value_len, &head)) {
        gf_metric_add(GF_M_ROUTER_BAD, 1);
        gf_log(GF_WARN, "notice_malformed", "partition=%" PRId32 " offset=%" PRId64, message->partition, message->offset);
        return;
    }
    entry.room_id = head.room_id;
    entry.user_id = head.user_id;
    entry.seq = (atomic_load(&router->incarnation) << SEQ_BITS) + message->offset;
    if (head.room)
        entry.to = GF_LINK_TO_ROOM;
    else if (head.code == GF_NOTICE_GIFT_FAILED && head.room_id != 0)
        entry.to = GF_LINK_TO_USER_IN_ROOM;
    else
        entry.to = GF_LINK_TO_USER;
    gf_buf_reset(&router->frame);
    gf_notice_frame(message->value, message->value_len, entry.seq, &router->frame);
    GF_ASSERT(gf_buf_ok(&router->frame));
    entry.text = router->frame.data;
    entry.len = router->frame.len;
    links_add(&router->links, &entry);
}

static int take_batch(struct router *router)
{
    int max = (int)router->config->router_batch, count = 0;

    router->turn++;
    for (int i = 0; i < router->part_count && count < max; i++) {
        struct part *part = &router->parts[(router->turn + i) % router->part_count];
        int got = gf_kafka_consumer_take(router->consumer, part->partition, router->messages + count, max - count);

        if (got > 0) {
            part->from = router->messages[count].offset;
            part->taken = router->messages[count + got - 1].offset + 1;
        }
        count += got;
    }
    return count;
}

static void commit(struct router *router)
{
    router->commit_ms = gf_clock_mono_ms() + COMMIT_MS;
    for (int i = 0; i < router->part_count; i++) {
        struct part *part = &router->parts[i];

        if (part->done >= 0)
            gf_kafka_consumer_commit(router->consumer, part->partition, part->done);
        part->done = -1;
    }
}

/* Every gateway concerned has the batch. The broker pays for a commit as for a batch of records, so they are gathered. */
static void finish_batch(struct router *router)
{
    for (int i = 0; i < router->part_count; i++) {
        struct part *part = &router->parts[i];

        if (part->taken >= 0)
            part->done = part->next = part->taken;
        part->taken = -1;
    }
    if (gf_clock_mono_ms() >= router->commit_ms)
        commit(router);
}

static void fail(struct router *router, const struct gf_error *error)
{
    gf_log(GF_ERROR, "router_failed", "error=\"%s\"", error->text);
    router->failed = true;
    gf_loop_stop(router->loop);
}

/* What is taken next is this batch again. */
static void give_back(struct router *router)
{
    struct gf_error error;

    for (int i = 0; i < router->part_count; i++) {
        struct part *part = &router->parts[i];

        if (part->taken < 0)
            continue;
        if (gf_kafka_consumer_seek(router->consumer, part->partition, part->from, &error) != GF_OK)
            fail(router, &error); /* who starts next reads it from the committed offset */
        part->again = part->from;
        part->taken = -1;
    }
}

/* The batch again, for a gateway that was lost with it. False: it was already, and others do not wait for ever. */
static bool take_again(struct router *router)
{
    for (int i = 0; i < router->part_count; i++)
        if (router->parts[i].taken >= 0 && router->parts[i].again == router->parts[i].from)
            return false;
    give_back(router);
    return true;
}

/* The batch has offsets that were there before: seqs must not fall with them. */
static bool is_made_anew(const struct router *router)
{
    for (int i = 0; i < router->part_count; i++)
        if (router->parts[i].taken >= 0 && router->parts[i].from < router->parts[i].next)
            return true;
    return false;
}

/* Nothing is taken until it is known. */
static void ask_incarnation(struct router *router)
{
    struct gf_error error;

    if (start_reader(router, &error) != GF_OK)
        fail(router, &error);
}

static void begin_anew(struct router *router)
{
    gf_log(GF_WARN, "notices_made_anew", "incarnation=%" PRId64, atomic_load(&router->incarnation));
    give_back(router);
    for (int i = 0; i < router->part_count; i++)
        router->parts[i].next = 0;
    ask_incarnation(router);
}

/* Nobody owes an acknowledgement of it any more. Who drains takes nothing again: not committed, it is the next one's. */
static void end_batch(struct router *router)
{
    bool owed = router->links.owed;

    router->links.owed = false;
    if (!owed || (!router->draining && !take_again(router)))
        finish_batch(router);
}

static bool may_consume(struct router *router)
{
    if (router->consumer == NULL || router->draining || router->waiting || atomic_load(&router->incarnation) == 0)
        return false;
    if (router->hold_until_ms == 0)
        return true;
    if (!links_settled(&router->links) && gf_clock_mono_ms() < router->hold_until_ms)
        return false;
    router->hold_until_ms = 0;
    return true;
}

static void pump(struct router *router)
{
    for (int i = 0; may_consume(router); i++) {
        int count;

        if (i == BATCHES_PER_TURN) { /* others want the loop too */
            gf_async_wake(router->again);
            return;
        }
        count = take_batch(router);
        if (count == 0)
            return; /* the eventfd tells when there is more */
        if (is_made_anew(router)) {
            gf_kafka_batch_free(router->messages, count);
            begin_anew(router);
            return;
        }
        for (int k = 0; k < count; k++)
            route(router, &router->messages[k]);
        gf_kafka_batch_free(router->messages, count);
        links_send(&router->links);
        if (links_acked(&router->links)) {
            end_batch(router); /* it concerned nobody */
        } else {
            router->waiting = true;
            router->late = false;
            gf_timer_reset(router->ack, router->config->router_ack_timeout, 0);
        }
    }
}

static void on_links_change(void *ctx)
{
    struct router *router = ctx;

    if (router->links.lost)
        router->hold_until_ms = gf_clock_mono_ms() + router->config->router_ack_timeout;
    router->links.lost = false;
    if (router->waiting && links_acked(&router->links)) {
        router->waiting = false;
        gf_timer_reset(router->ack, INT32_MAX, 0);
        end_batch(router);
    } else if (router->consumer != NULL && router->hold_until_ms == 0) {
        return;
    }
    gf_async_wake(router->again); /* not from here: this may run inside links_send */
}

static void on_ack_timeout(void *ctx)
{
    struct router *router = ctx;

    if (!router->waiting)
        return;
    if (router->late) {
        links_drop_late(&router->links); /* their end comes as on_links_change */
        return;
    }
    router->late = true; /* timers run before sockets are read: after a long turn the answer may be there */
    gf_timer_reset(router->ack, LATE_MS, 0);
}

/* ---- the consumer */

static int64_t on_assign(void *ctx, int32_t partition)
{
    struct router *router = ctx;

    GF_ASSERT(router->part_count < PARTITIONS_MAX);
    if (atomic_load(&router->incarnation) != 0) /* else it is being read */
        ask_incarnation(router);
    router->parts[router->part_count++] = (struct part){.partition = partition, .taken = -1, .again = -1, .done = -1};
    return GF_KAFKA_STORED;
}

/* What is on its way for it is sent again by the next owner: the same ids, and clients drop them. */
static void on_revoke(void *ctx, int32_t partition, bool lost)
{
    struct router *router = ctx;

    for (int i = 0; i < router->part_count; i++) {
        struct part *part = &router->parts[i];

        if (part->partition != partition)
            continue;
        if (part->done >= 0 && !lost && router->consumer != NULL) /* stop() has committed before it closes */
            gf_kafka_consumer_commit(router->consumer, partition, part->done);
        *part = router->parts[--router->part_count];
        return;
    }
}

static void start_consumer(struct router *router)
{
    char topic[200];
    struct gf_kafka_consumer_opts opts = {
        .topic = topic,
        .group = GROUP,
        .client_id = GROUP,
        .queue_bytes = QUEUE_BYTES / router->config->kafka_partitions,
        .follows_group = true,
        .on_assign = on_assign,
        .on_revoke = on_revoke,
        .ctx = router,
    };
    struct gf_error error;

    snprintf(topic, sizeof(topic), "%.100s.notices", router->config->kafka_prefix);
    if (gf_kafka_consumer_create(router->config, &opts, &router->consumer, &error) != GF_OK)
        fail(router, &error);
}

static void serve(void *ctx)
{
    struct router *router = ctx;
    struct gf_error error;
    enum gf_class class;

    if (router->consumer == NULL)
        return;
    class = gf_kafka_consumer_serve(router->consumer, &error);
    if (class == GF_FATAL)
        fail(router, &error);
    else if (class != GF_OK)
        gf_log(GF_WARN, "kafka_failed", "error=\"%s\"", error.text);
    pump(router);
    if (gf_clock_mono_ms() >= router->commit_ms)
        commit(router); /* what came last before silence */
}

static void on_again(void *ctx)
{
    struct router *router = ctx;

    /* Not before Redis has named the gateways: notices that we cannot deliver are another router's, or wait in Kafka. Where it
     * names none, it may have been flushed, and they have not announced themselves again. */
    if (router->consumer == NULL && !router->draining && atomic_load(&router->incarnation) != 0 && router->links.looked) {
        router->hold_until_ms = gf_clock_mono_ms() + FIRST_LINKS_MS +
                                (router->links.all == NULL ? router->config->gateway_announce : 0);
        start_consumer(router);
        if (router->consumer != NULL)
            router->poll = gf_poll_start(router->loop, gf_kafka_consumer_fd(router->consumer), serve, router);
    }
    pump(router);
}

/* ---- the role */

/* A router beyond the number of partitions has none, and takes over when another one ends. */
static bool on_ready(void *ctx, struct gf_buf *reason)
{
    const struct router *router = ctx;

    if (router->consumer != NULL && gf_kafka_consumer_assigned(router->consumer))
        return true;
    if (atomic_load(&router->incarnation) == 0) {
        gf_buf_adds(reason, "mysql has not said the incarnation of the notices topic");
        gf_sql_add_trouble(reason);
    } else if (!router->links.looked) {
        gf_buf_adds(reason, "redis has not named the gateways");
    } else {
        gf_buf_adds(reason, "kafka has not said which partitions are ours");
    }
    return false;
}

static void on_drain_step(void *ctx)
{
    struct router *router = ctx;

    if (!router->waiting) /* at most router.ack_timeout away */
        gf_loop_stop(router->loop);
}

static void on_drain(void *ctx)
{
    struct router *router = ctx;

    gf_log(GF_INFO, "drain_started", "waiting=%d", router->waiting);
    router->draining = true;
    gf_ops_draining(router->ops);
    router->drain = gf_timer_start(router->loop, 0, 20, on_drain_step, router);
}

static enum gf_class start(struct router *router, struct gf_error *error_r)
{
    const struct gf_config *config = router->config;
    enum gf_class class = gf_ops_start(router->loop, config, "router", on_ready, router, &router->ops, error_r);

    if (class != GF_OK)
        return class;
    GF_ASSERT(config->router_batch * (GF_NOTICE_MAX + LINK_EXTRA) < GF_LINK_UNSENT_MAX); /* no batch breaks a link by itself */
    router->messages = gf_xcalloc((size_t)config->router_batch, sizeof(router->messages[0]));
    gf_buf_init(&router->frame, 2 * GF_NOTICE_MAX);
    router->links = (struct links){.loop = router->loop, .config = config, .on_change = on_links_change, .ctx = router};
    router->again = gf_async_create(router->loop, on_again, router);
    router->serve = gf_timer_start(router->loop, SERVE_MS, SERVE_MS, serve, router);
    router->ack = gf_timer_start(router->loop, INT32_MAX, 0, on_ack_timeout, router);
    links_start(&router->links);
    return start_reader(router, error_r);
}

static void stop(struct router *router)
{
    atomic_store(&router->stop_reader, true);
    if (router->reader_started)
        GF_ASSERT(pthread_join(router->reader, NULL) == 0);
    gf_poll_close(&router->poll);
    if (router->consumer != NULL)
        commit(router);
    gf_kafka_consumer_close(&router->consumer);
    gf_timer_close(&router->serve);
    gf_timer_close(&router->ack);
    gf_timer_close(&router->drain);
    gf_async_close(&router->again);
    gf_ops_close(&router->ops);
    if (router->messages != NULL)
        links_stop(&router->links);
    gf_loop_destroy(&router->loop);
    gf_buf_free(&router->frame);
    free(router->messages);
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct router router; /* one per process */
    struct gf_error error;

    (void)argc;
    (void)argv;
    router.config = config;
    router.loop = gf_loop_create();
    gf_loop_on_signal(router.loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, &router);
    if (start(&router, &error) == GF_OK)
        gf_loop_run(router.loop);
    else
        fail(&router, &error);
    stop(&router);
    return router.failed ? 1 : 0;
}

const struct gf_role gf_role_router = {
    .name = "router", .summary = "notices to the gateways", .needs_config = true, .run = run};
