/* SPDX-License-Identifier: Apache-2.0 */
/* Group member with one queue per assigned partition.
 * Owns: the handle, the queues, one eventfd that all queues write. Threads: one thread owns a consumer and makes every call.
 * The eventfd is written only when a queue goes from empty to not empty: gf_kafka_consumer_serve clears it before it looks,
 * and a caller that takes less than everything must come again by itself: nothing wakes it for what it left behind.
 * Memory: librdkafka counts values alone, asks for more below its limit, and a record of 230 bytes costs it 600. So its limit is
 * half of what the caller allows, and one fetch may bring an eighth, which compression may have made of four times as much.
 * Failures: what a partition's log breaks (an offset out of range, bytes that cannot be read) stops that partition behind what was
 * read before, and calls on_broken; who follows the group goes on, from the end or behind the bytes. The group's transient
 * errors are RETRY; only a fatal client error or an authorisation error is FATAL. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/kafka.h"
#include "gf/log.h"
#include "kafka_internal.h"

#define TAKE_CHUNK 512
#define SEEK_TIMEOUT_MS 5000
#define COMMITTED_TIMEOUT_MS 5000
#define QUEUE_BYTES_MIN 65536
#define QUEUE_KBYTES_MAX 2097151   /* librdkafka takes no more */
#define FETCH_BYTES_MIN 16384
#define FETCH_BYTES_MAX 1048576    /* librdkafka's default */
#define FETCH_ALL_MAX (16 << 20)   /* one answer's bytes, of all partitions */
#define FETCH_BACKOFF_MS 10        /* between looks at queues that were full */
#define NUDGE_MS 5                 /* at most so often after records were taken */
#define NUDGE_AWAIT_MS 2           /* the same while the caller does nothing but wait for more */
#define AWAIT_MS 1                 /* between looks at a queue that is waited for */

struct part {
    int32_t partition;
    rd_kafka_queue_t *queue;
    bool stopped;   /* broken, or a seek did not finish: nothing is taken */
};

struct gf_kafka_consumer {
    rd_kafka_t *rk;
    rd_kafka_queue_t *events; /* rebalances, errors */
    rd_kafka_topic_t *topic;
    struct part *parts;
    int part_count;
    int fd;
    bool assigned, fatal, follows_group;
    int64_t nudged_ms;
    gf_kafka_assign_fn on_assign;
    gf_kafka_revoke_fn on_revoke;
    gf_kafka_broken_fn on_broken;
    void *ctx;
};

static struct part *find_part(struct gf_kafka_consumer *consumer, int32_t partition)
{
    for (int i = 0; i < consumer->part_count; i++)
        if (consumer->parts[i].partition == partition)
            return &consumer->parts[i];
    return NULL;
}

static void break_part(struct gf_kafka_consumer *consumer, struct part *part, bool out_of_range, const char *reason)
{
    part->stopped = true;
    gf_log(GF_ERROR, "partition_broken", "topic=%s partition=%" PRId32 " reason=\"%s\"",
           rd_kafka_topic_name(consumer->topic), part->partition, reason);
    if (consumer->on_broken != NULL)
        consumer->on_broken(consumer->ctx, part->partition, out_of_range, reason);
}

/* The end as a number, committed at once: a member that dies before its first commit must not move the group's start. */
static int64_t end_offset(struct gf_kafka_consumer *consumer, int32_t partition)
{
    int64_t low, high;

    if (rd_kafka_query_watermark_offsets(consumer->rk, rd_kafka_topic_name(consumer->topic), partition, &low, &high,
                                         COMMITTED_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return RD_KAFKA_OFFSET_END;
    gf_kafka_consumer_commit(consumer, partition, high); /* lost: the next commit says more */
    return high;
}

/* The group's committed offsets, else the ends. One question for all: while it is unanswered, the caller's thread waits. A
 * failed look-up leaves the choice to librdkafka. */
static void ask_group(struct gf_kafka_consumer *consumer, rd_kafka_topic_partition_list_t *list)
{
    bool known = list->cnt > 0 &&
                 rd_kafka_committed(consumer->rk, list, COMMITTED_TIMEOUT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *elem = &list->elems[i];

        if (!known || elem->err != RD_KAFKA_RESP_ERR_NO_ERROR)
            elem->offset = RD_KAFKA_OFFSET_STORED;
        else if (elem->offset < 0)
            elem->offset = end_offset(consumer, elem->partition);
    }
}

/* The queue is taken out of the consumer's own before rd_kafka_assign: afterwards it would lose a race with the fetcher. */
static void open_part(struct gf_kafka_consumer *consumer, int32_t partition)
{
    struct part *part = &consumer->parts[consumer->part_count++];

    memset(part, 0, sizeof(*part));
    part->partition = partition;
    part->queue = rd_kafka_queue_get_partition(consumer->rk, rd_kafka_topic_name(consumer->topic), partition);
    GF_ASSERT(part->queue != NULL);
    rd_kafka_queue_forward(part->queue, NULL);
    gf_kafka_queue_wake(part->queue, consumer->fd);
}

static void close_parts(struct gf_kafka_consumer *consumer)
{
    for (int i = 0; i < consumer->part_count; i++) {
        gf_kafka_queue_hush(consumer->parts[i].queue);
        rd_kafka_queue_destroy(consumer->parts[i].queue);
    }
    consumer->part_count = 0;
}

static void assign_parts(struct gf_kafka_consumer *consumer, const rd_kafka_topic_partition_list_t *offered)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(offered->cnt);
    rd_kafka_topic_partition_list_t *stored = rd_kafka_topic_partition_list_new(offered->cnt);
    rd_kafka_resp_err_t err;

    GF_ASSERT(consumer->part_count == 0); /* eager: everything was revoked before */
    consumer->parts = gf_xrealloc(consumer->parts, sizeof(consumer->parts[0]) * (size_t)(offered->cnt + 1));
    for (int i = 0; i < offered->cnt; i++) {
        int32_t partition = offered->elems[i].partition;
        int64_t offset = consumer->on_assign(consumer->ctx, partition);
        bool from_group = offset == GF_KAFKA_STORED;

        if (offset == GF_KAFKA_SKIP)
            continue;
        GF_ASSERT(offset >= 0 || offset == GF_KAFKA_BEGINNING || (from_group && consumer->follows_group));
        open_part(consumer, partition);
        rd_kafka_topic_partition_list_add(from_group ? stored : list, offered->elems[i].topic, partition)->offset = offset;
    }
    ask_group(consumer, stored);
    for (int i = 0; i < stored->cnt; i++)
        rd_kafka_topic_partition_list_add(list, stored->elems[i].topic, stored->elems[i].partition)->offset =
            stored->elems[i].offset;
    err = rd_kafka_assign(consumer->rk, list);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        gf_log(GF_ERROR, "assign_failed", "error=\"%s\"", rd_kafka_err2str(err));
    consumer->assigned = err == RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_topic_partition_list_destroy(stored);
    rd_kafka_topic_partition_list_destroy(list);
}

static void revoke_parts(struct gf_kafka_consumer *consumer, const rd_kafka_topic_partition_list_t *list)
{
    bool lost = rd_kafka_assignment_lost(consumer->rk) != 0;
    rd_kafka_resp_err_t err;

    for (int i = 0; i < list->cnt && consumer->on_revoke != NULL; i++)
        consumer->on_revoke(consumer->ctx, list->elems[i].partition, lost); /* skipped ones too: their owner knows of them */
    close_parts(consumer);
    consumer->assigned = false;
    err = rd_kafka_assign(consumer->rk, NULL);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        gf_log(GF_ERROR, "revoke_failed", "error=\"%s\"", rd_kafka_err2str(err));
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err, rd_kafka_topic_partition_list_t *list, void *opaque)
{
    struct gf_kafka_consumer *consumer = opaque;

    (void)rk;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        assign_parts(consumer, list);
        return;
    }
    if (err != RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS)
        gf_log(GF_ERROR, "rebalance_failed", "error=\"%s\"", rd_kafka_err2str(err));
    revoke_parts(consumer, list);
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    struct gf_kafka_consumer *consumer = opaque;

    (void)rk;
    if (err == RD_KAFKA_RESP_ERR__FATAL)
        consumer->fatal = true;
    gf_log(GF_WARN, "kafka_consumer_failed", "error=\"%s\" reason=\"%s\"", rd_kafka_err2str((rd_kafka_resp_err_t)err),
           reason);
}

static void set_prefetch(rd_kafka_conf_t *conf, const struct gf_kafka_consumer_opts *opts)
{
    int64_t bytes = opts->queue_bytes > QUEUE_BYTES_MIN ? opts->queue_bytes : QUEUE_BYTES_MIN, fetch = bytes / 8;
    int64_t wanted = opts->fetch_bytes > 0 ? opts->fetch_bytes : 1;

    fetch = fetch < FETCH_BYTES_MIN ? FETCH_BYTES_MIN : fetch > FETCH_BYTES_MAX ? FETCH_BYTES_MAX : fetch;
    gf_kafka_conf_set_i64(conf, "queued.max.messages.kbytes", bytes / 2048 < QUEUE_KBYTES_MAX ? bytes / 2048 : QUEUE_KBYTES_MAX);
    gf_kafka_conf_set_i64(conf, "fetch.message.max.bytes", fetch);
    gf_kafka_conf_set_i64(conf, "fetch.max.bytes", FETCH_ALL_MAX);
    /* The broker counts no more of a partition than it may send: asked for more, one busy partition would always wait. */
    gf_kafka_conf_set_i64(conf, "fetch.min.bytes", wanted < fetch ? wanted : fetch);
#if RD_KAFKA_VERSION >= 0x020200ff
    gf_kafka_conf_set_i64(conf, "fetch.queue.backoff.ms", FETCH_BACKOFF_MS);
#endif
}

static enum gf_class make_conf(const struct gf_config *config, const struct gf_kafka_consumer_opts *opts,
                               rd_kafka_conf_t **conf_r, struct gf_error *error_r)
{
    const char *const settings[][2] = {
        {"group.id", opts->group},
        {"client.id", opts->client_id},
        {"enable.auto.commit", "false"},
        {"enable.auto.offset.store", "false"},
        /* An offset that is gone must be loud, never a silent jump, where more than screens depends on it. Nobody could go on from
         * the error: librdkafka refuses to seek then. */
        {"auto.offset.reset", opts->follows_group ? "latest" : "error"},
        {"partition.assignment.strategy", "range"}, /* cooperative hangs and crashes in 2.0.2 */
        {"max.poll.interval.ms", "300000"},
        {"fetch.error.backoff.ms", "100"},
        {"queued.min.messages", "100000"}, /* less means 1 s fetch pauses in 2.0.2; bytes are the real bound */
        {"check.crcs", "true"},
    };
    rd_kafka_conf_t *conf;
    enum gf_class class = gf_kafka_conf_new(config, &conf, error_r);
    int64_t heartbeat_ms = config->kafka_session_timeout / 5;

    if (class != GF_OK)
        return class;
    for (size_t i = 0; i < GF_COUNT(settings) && class == GF_OK; i++)
        class = gf_kafka_conf_set(conf, settings[i][0], settings[i][1], error_r);
    if (class != GF_OK) {
        rd_kafka_conf_destroy(conf);
        return class;
    }
    gf_kafka_conf_set_i64(conf, "session.timeout.ms", config->kafka_session_timeout);
    gf_kafka_conf_set_i64(conf, "heartbeat.interval.ms", heartbeat_ms > 3000 ? 3000 : heartbeat_ms);
    set_prefetch(conf, opts);
    /* The wait is short because there is one fetch per broker: while it waits for partitions without records, one that has room
     * again gets none. */
    gf_kafka_conf_set_i64(conf, "fetch.wait.max.ms", config->kafka_fetch_wait);
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    rd_kafka_conf_set_error_cb(conf, on_error);
    *conf_r = conf;
    return GF_OK;
}

static enum gf_class subscribe(struct gf_kafka_consumer *consumer, const char *topic, struct gf_error *error_r)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_resp_err_t err;

    rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA);
    err = rd_kafka_subscribe(consumer->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return err == RD_KAFKA_RESP_ERR_NO_ERROR ? GF_OK : gf_kafka_fail(error_r, err, "subscribe");
}

enum gf_class gf_kafka_consumer_create(const struct gf_config *config, const struct gf_kafka_consumer_opts *opts,
                                       struct gf_kafka_consumer **consumer_r, struct gf_error *error_r)
{
    struct gf_kafka_consumer *consumer = NULL;
    rd_kafka_conf_t *conf = NULL;
    enum gf_class class;
    char text[200];

    GF_ASSERT(opts->on_assign != NULL);
    class = make_conf(config, opts, &conf, error_r);
    if (class != GF_OK)
        return class;
    consumer = gf_xcalloc(1, sizeof(*consumer));
    rd_kafka_conf_set_opaque(conf, consumer);
    consumer->fd = -1;
    consumer->follows_group = opts->follows_group;
    consumer->on_assign = opts->on_assign;
    consumer->on_revoke = opts->on_revoke;
    consumer->on_broken = opts->on_broken;
    consumer->ctx = opts->ctx;
    consumer->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
    if (consumer->rk == NULL) {
        rd_kafka_conf_destroy(conf); /* taken only on success */
        free(consumer);
        return gf_fail(error_r, GF_FATAL, errno, "kafka consumer: %s", text);
    }
    consumer->fd = gf_kafka_eventfd();
    consumer->topic = rd_kafka_topic_new(consumer->rk, opts->topic, NULL);
    GF_ASSERT(consumer->topic != NULL);
    (void)rd_kafka_poll_set_consumer(consumer->rk);
    consumer->events = rd_kafka_queue_get_consumer(consumer->rk);
    gf_kafka_queue_wake(consumer->events, consumer->fd);
    class = subscribe(consumer, opts->topic, error_r);
    if (class != GF_OK) {
        gf_kafka_consumer_close(&consumer);
        return class;
    }
    *consumer_r = consumer;
    return GF_OK;
}

int gf_kafka_consumer_fd(const struct gf_kafka_consumer *consumer) { return consumer->fd; }

bool gf_kafka_consumer_assigned(const struct gf_kafka_consumer *consumer) { return consumer->assigned; }

enum gf_class gf_kafka_consumer_serve(struct gf_kafka_consumer *consumer, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    rd_kafka_message_t *message;

    gf_kafka_eventfd_clear(consumer->fd);
    while ((message = rd_kafka_consumer_poll(consumer->rk, 0)) != NULL) {
        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            struct part *part = find_part(consumer, message->partition);

            /* Partitions have their own queues; a record here would be missing there. Never go on past it. */
            if (part != NULL)
                break_part(consumer, part, false, "record outside its partition's queue");
        } else if (message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            class = gf_kafka_fail(error_r, message->err, "group");
        }
        rd_kafka_message_destroy(message);
    }
    if (consumer->fatal)
        return gf_fail(error_r, GF_FATAL, (int)RD_KAFKA_RESP_ERR__FATAL, "kafka: the group member cannot go on");
    return class;
}

/* Bytes of the log that librdkafka could not read; it goes on behind them. */
static bool is_unreadable(rd_kafka_resp_err_t err)
{
    static const rd_kafka_resp_err_t errs[] = {
        RD_KAFKA_RESP_ERR__BAD_MSG,         RD_KAFKA_RESP_ERR__BAD_COMPRESSION,
        RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED, /* a format or a codec that is not built in */
        RD_KAFKA_RESP_ERR__PARTIAL,         RD_KAFKA_RESP_ERR__UNDERFLOW,
        RD_KAFKA_RESP_ERR_INVALID_MSG,      RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE,
        RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE};

    for (size_t i = 0; i < GF_COUNT(errs); i++)
        if (errs[i] == err)
            return true;
    return false;
}

static void handle_error(struct gf_kafka_consumer *consumer, struct part *part, const rd_kafka_message_t *message)
{
    bool out_of_range = message->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
                        message->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;

    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
        return;
    if (!consumer->follows_group && (out_of_range || is_unreadable(message->err)))
        break_part(consumer, part, out_of_range, rd_kafka_message_errstr(message));
    else /* librdkafka goes on by itself */
        gf_log(GF_WARN, "partition_read_failed", "partition=%" PRId32 " error=\"%s\" reason=\"%s\"", part->partition,
               rd_kafka_err2str(message->err), rd_kafka_message_errstr(message));
}

static void fill(struct gf_kafka_message *message, rd_kafka_message_t *native)
{
    rd_kafka_timestamp_type_t type;

    message->partition = native->partition;
    message->offset = native->offset;
    message->timestamp_ms = rd_kafka_message_timestamp(native, &type);
    message->append_time = type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
    message->key = native->key;
    message->key_len = native->key_len;
    message->value = native->payload;
    message->value_len = native->len;
    message->native = native;
}

#if RD_KAFKA_VERSION < 0x020200ff
/* Once all queues of a broker are full, versions before 2.2 look at them again a second later, whatever was taken meanwhile
 * (librdkafka#2879). Any request to the partition's leader wakes that thread; this one waits for no answer. A wake-up brings
 * one or two fetches, and then the queues are full again: how often it comes bounds how fast a backlog is read. */
static void nudge(struct gf_kafka_consumer *consumer, const struct part *part, int64_t next, int max, int64_t every_ms)
{
    int64_t now_ms = gf_clock_mono_ms(), queued = (int64_t)rd_kafka_queue_length(part->queue);
    rd_kafka_topic_partition_list_t *list;

    if (now_ms - consumer->nudged_ms < every_ms || queued >= max ||
        next + queued >= gf_kafka_consumer_end(consumer, part->partition))
        return; /* enough is here, or all there is */
    consumer->nudged_ms = now_ms;
    list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, rd_kafka_topic_name(consumer->topic), part->partition)->offset =
        RD_KAFKA_OFFSET_END;
    (void)rd_kafka_offsets_for_times(consumer->rk, list, 0); /* always "timed out" */
    rd_kafka_topic_partition_list_destroy(list);
}
#else
static void nudge(struct gf_kafka_consumer *consumer, const struct part *part, int64_t next, int max, int64_t every_ms)
{
    (void)consumer, (void)part, (void)next, (void)max, (void)every_ms;
}
#endif

int64_t gf_kafka_consumer_end(struct gf_kafka_consumer *consumer, int32_t partition)
{
    int64_t low, high;

    if (rd_kafka_get_watermark_offsets(consumer->rk, rd_kafka_topic_name(consumer->topic), partition, &low, &high) !=
        RD_KAFKA_RESP_ERR_NO_ERROR)
        return -1;
    return high;
}

bool gf_kafka_consumer_await(struct gf_kafka_consumer *consumer, int32_t partition, int64_t next_offset, int64_t timeout_ms)
{
    struct part *part = find_part(consumer, partition);
    int64_t end_ms = gf_clock_mono_ms() + timeout_ms;

    if (part == NULL || part->stopped)
        return false;
    while (rd_kafka_queue_length(part->queue) == 0) {
        if (next_offset >= gf_kafka_consumer_end(consumer, partition) || gf_clock_mono_ms() >= end_ms)
            return false;
        nudge(consumer, part, next_offset, 1, NUDGE_AWAIT_MS);
        gf_clock_sleep_ms(AWAIT_MS);
    }
    return true;
}

int gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r,
                           int max)
{
    rd_kafka_message_t *natives[TAKE_CHUNK];
    struct part *part = find_part(consumer, partition);
    int count = 0;

    while (part != NULL && !part->stopped && count < max) {
        int want = max - count < TAKE_CHUNK ? max - count : TAKE_CHUNK;
        /* Timeout 0: the call would otherwise wait out its whole time unless the array fills. */
        ssize_t got = rd_kafka_consume_batch_queue(part->queue, 0, natives, (size_t)want);

        for (ssize_t i = 0; i < got; i++) {
            if (natives[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR && !part->stopped) {
                fill(&messages_r[count++], natives[i]);
                continue;
            }
            if (!part->stopped)
                handle_error(consumer, part, natives[i]);
            rd_kafka_message_destroy(natives[i]);
        }
        if (got < want)
            break;
    }
    if (count > 0)
        nudge(consumer, part, messages_r[count - 1].offset + 1, max, NUDGE_MS);
    return count;
}

void gf_kafka_batch_free(struct gf_kafka_message *messages, int count)
{
    for (int i = 0; i < count; i++) {
        if (messages[i].native != NULL)
            rd_kafka_message_destroy(messages[i].native);
        messages[i].native = NULL;
    }
}

const char *gf_kafka_message_header(const struct gf_kafka_message *message, const char *name, size_t *len_r)
{
    rd_kafka_headers_t *headers;
    const void *value;

    if (rd_kafka_message_headers(message->native, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        rd_kafka_header_get_last(headers, name, &value, len_r) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return NULL;
    return value;
}

enum gf_class gf_kafka_consumer_seek(struct gf_kafka_consumer *consumer, int32_t partition, int64_t offset,
                                     struct gf_error *error_r)
{
    struct part *part = find_part(consumer, partition);
    rd_kafka_resp_err_t err;

    if (part == NULL)
        return gf_fail(error_r, GF_REJECT, 0, "kafka seek: partition %" PRId32 " is not assigned", partition);
    /* Waits for its answer, so that no record from before the seek can be taken afterwards. The newer call's time-out is
     * broken in 2.0.2. */
    err = rd_kafka_seek(consumer->topic, partition, offset, SEEK_TIMEOUT_MS);
    part->stopped = err != RD_KAFKA_RESP_ERR_NO_ERROR;
    return err == RD_KAFKA_RESP_ERR_NO_ERROR ? GF_OK : gf_kafka_fail(error_r, err, "seek");
}

void gf_kafka_consumer_commit(struct gf_kafka_consumer *consumer, int32_t partition, int64_t next_offset)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_resp_err_t err;

    rd_kafka_topic_partition_list_add(list, rd_kafka_topic_name(consumer->topic), partition)->offset = next_offset;
    err = rd_kafka_commit(consumer->rk, list, 1);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        gf_log(GF_DEBUG, "offset_commit_failed", "partition=%" PRId32 " error=\"%s\"", partition, rd_kafka_err2str(err));
    rd_kafka_topic_partition_list_destroy(list);
}

void gf_kafka_consumer_close(struct gf_kafka_consumer **consumer)
{
    struct gf_kafka_consumer *old = *consumer;

    if (old == NULL)
        return;
    *consumer = NULL;
    /* Our reference to the event queue must go first, or close waits for ever. */
    gf_kafka_queue_hush(old->events);
    rd_kafka_queue_destroy(old->events);
    (void)rd_kafka_consumer_close(old->rk); /* revoke callbacks run inside; an error only means that leaving was not told */
    close_parts(old);
    rd_kafka_topic_destroy(old->topic);
    rd_kafka_destroy(old->rk);
    close(old->fd);
    free(old->parts);
    free(old);
}
