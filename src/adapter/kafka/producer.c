/* SPDX-License-Identifier: Apache-2.0 */
/* Producer: acks=all, Java's partitioner, one acknowledgement per accepted record.
 * Owns: the handle, its topics, an eventfd, and one watcher thread.
 * Threads: gf_kafka_produce may be called from any thread; acknowledgements come on the thread that serves (or on the loop).
 * The watcher asks for metadata once a second: it is what makes the first record of a topic leave at once (2.0.2 waits up
 * to a second otherwise) without making create wait for brokers, and what gf_kafka_producer_ready answers from.
 * Failures: a record whose fate is unknown is MAYBE: it may still be in the log. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/kafka.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "kafka_internal.h"

#define TOPICS_MAX 8
#define QUEUE_RECORDS 200000
#define WATCH_MS 1000
#define METADATA_TIMEOUT_MS 1000
#define PURGE_WAIT_MS 2000

struct gf_kafka_producer {
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    rd_kafka_topic_t *topics[TOPICS_MAX];
    size_t topic_count;
    gf_kafka_ack_fn on_ack;
    void *ctx;
    int fd;
    struct gf_poll *poll;
    pthread_t watcher;
    pthread_mutex_t lock;
    pthread_cond_t stop; /* locks: lock */
    bool stopping;       /* locks: lock */
    atomic_bool ready;
    atomic_int pending; /* accepted, not acknowledged; librdkafka's own count has its events in it too */
};

/* Sleeps until the next look or the end; true while the watcher goes on. */
static bool watch_wait(struct gf_kafka_producer *producer)
{
    struct timespec until;
    bool stopping;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WATCH_MS / 1000;
    pthread_mutex_lock(&producer->lock);
    while (!producer->stopping && pthread_cond_timedwait(&producer->stop, &producer->lock, &until) == 0)
        ;
    stopping = producer->stopping;
    pthread_mutex_unlock(&producer->lock);
    return !stopping;
}

/* True when the topic's partitions are known, or the cluster answers that there is no such topic. */
static bool fetch_metadata(struct gf_kafka_producer *producer, rd_kafka_topic_t *topic)
{
    const struct rd_kafka_metadata *metadata;

    if (rd_kafka_metadata(producer->rk, 0, topic, &metadata, METADATA_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return false;
    rd_kafka_metadata_destroy(metadata);
    return true;
}

static void *watch(void *arg)
{
    struct gf_kafka_producer *producer = arg;
    size_t known = 0; /* the first `known` topics have been asked for since the cluster was last reachable */

    do {
        bool reached = true;

        if (known == producer->topic_count)
            reached = fetch_metadata(producer, producer->topics[0]);
        while (reached && known < producer->topic_count) {
            reached = fetch_metadata(producer, producer->topics[known]);
            known += reached ? 1 : 0;
        }
        atomic_store_explicit(&producer->ready, reached, memory_order_relaxed);
        if (!reached)
            known = 0;
    } while (watch_wait(producer));
    return NULL;
}

static enum gf_class make_conf(const struct gf_config *config, const struct gf_kafka_producer_opts *opts,
                               rd_kafka_conf_t **conf_r, struct gf_error *error_r)
{
    rd_kafka_conf_t *conf;
    enum gf_class class = gf_kafka_conf_new(config, &conf, error_r);

    if (class != GF_OK)
        return class;
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
    gf_kafka_conf_set_i64(conf, "acks", -1);
    gf_kafka_conf_set_i64(conf, "linger.ms", opts->linger_ms);
    gf_kafka_conf_set_i64(conf, "message.timeout.ms", config->kafka_message_timeout);
    /* One request never outlives the record's own deadline by much: its answer would come too late to matter. */
    gf_kafka_conf_set_i64(conf, "request.timeout.ms", config->kafka_message_timeout);
    gf_kafka_conf_set_i64(conf, "queue.buffering.max.messages", opts->queue_records > 0 ? opts->queue_records : QUEUE_RECORDS);
    gf_kafka_conf_set_i64(conf, "max.in.flight.requests.per.connection", 5);
    gf_kafka_conf_set_i64(conf, "retry.backoff.ms", 50);
    class = gf_kafka_conf_set(conf, "partitioner", "murmur2_random", error_r);
    if (class == GF_OK)
        class = gf_kafka_conf_set(conf, "compression.codec", config->kafka_compression, error_r);
    if (class != GF_OK) {
        rd_kafka_conf_destroy(conf);
        return class;
    }
    *conf_r = conf;
    return GF_OK;
}

static void start_watcher(struct gf_kafka_producer *producer)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&producer->stop, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&producer->lock, NULL);
    if (pthread_create(&producer->watcher, NULL, watch, producer) != 0)
        abort();
}

enum gf_class gf_kafka_producer_create(const struct gf_config *config, const struct gf_kafka_producer_opts *opts,
                                       struct gf_kafka_producer **producer_r, struct gf_error *error_r)
{
    struct gf_kafka_producer *producer;
    rd_kafka_conf_t *conf = NULL;
    char text[200];
    enum gf_class class;
    rd_kafka_t *rk;

    GF_ASSERT(opts->topic_count >= 1 && opts->topic_count <= TOPICS_MAX);
    class = make_conf(config, opts, &conf, error_r);
    if (class != GF_OK)
        return class;
    rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    if (rk == NULL) {
        rd_kafka_conf_destroy(conf); /* taken only on success */
        return gf_fail(error_r, GF_FATAL, errno, "kafka producer: %s", text);
    }
    producer = gf_xcalloc(1, sizeof(*producer));
    producer->rk = rk;
    producer->queue = rd_kafka_queue_get_main(rk);
    producer->on_ack = opts->on_ack;
    producer->ctx = opts->ctx;
    producer->fd = -1;
    for (size_t i = 0; i < opts->topic_count; i++) {
        producer->topics[i] = rd_kafka_topic_new(rk, opts->topics[i], NULL);
        GF_ASSERT(producer->topics[i] != NULL);
        producer->topic_count++;
    }
    start_watcher(producer);
    *producer_r = producer;
    return GF_OK;
}

static void acknowledge(struct gf_kafka_producer *producer, const rd_kafka_message_t *message)
{
    enum gf_kafka_ack ack = GF_KAFKA_MAYBE;

    switch (rd_kafka_message_status(message)) {
    case RD_KAFKA_MSG_STATUS_PERSISTED:
        ack = GF_KAFKA_PERSISTED;
        break;
    case RD_KAFKA_MSG_STATUS_NOT_PERSISTED:
        ack = GF_KAFKA_NOT_PERSISTED;
        break;
    case RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED:
        break;
    }
    gf_metric_add(ack == GF_KAFKA_PERSISTED       ? GF_M_KAFKA_PERSISTED
                  : ack == GF_KAFKA_NOT_PERSISTED ? GF_M_KAFKA_NOT_PERSISTED
                                                  : GF_M_KAFKA_MAYBE,
                  1);
    atomic_fetch_sub(&producer->pending, 1);
    if (producer->on_ack != NULL)
        producer->on_ack(producer->ctx, message->_private, ack, message->partition,
                         ack == GF_KAFKA_PERSISTED ? message->offset : -1);
}

/* Handles one event and frees it; returns the records it acknowledged. */
static int handle_event(struct gf_kafka_producer *producer, rd_kafka_event_t *event)
{
    const rd_kafka_message_t *message;
    int count = 0;

    if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR) {
        while ((message = rd_kafka_event_message_next(event)) != NULL) {
            acknowledge(producer, message);
            count++;
        }
    } else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR) {
        if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
            atomic_store_explicit(&producer->ready, false, memory_order_relaxed);
        gf_log(GF_WARN, "kafka_producer_failed", "error=\"%s\"", rd_kafka_err2str(rd_kafka_event_error(event)));
    }
    rd_kafka_event_destroy(event);
    return count;
}

int gf_kafka_producer_serve(struct gf_kafka_producer *producer, int64_t timeout_ms)
{
    rd_kafka_event_t *event;
    int count = 0;

    while ((event = rd_kafka_queue_poll(producer->queue, count > 0 ? 0 : (int)timeout_ms)) != NULL) {
        count += handle_event(producer, event);
        timeout_ms = 0; /* one wait, then only what is there */
    }
    return count;
}

static void on_readable(void *ctx)
{
    struct gf_kafka_producer *producer = ctx;

    gf_kafka_eventfd_clear(producer->fd); /* first: what arrives from now on writes it again */
    (void)gf_kafka_producer_serve(producer, 0);
}

void gf_kafka_producer_attach(struct gf_kafka_producer *producer, struct gf_loop *loop)
{
    static const uint64_t one = 1;
    ssize_t written;

    GF_ASSERT(producer->poll == NULL);
    producer->fd = gf_kafka_eventfd();
    gf_kafka_queue_wake(producer->queue, producer->fd);
    producer->poll = gf_poll_start(loop, producer->fd, on_readable, producer);
    /* What was queued before the wake-up was set up would never announce itself. */
    written = write(producer->fd, &one, sizeof(one));
    GF_ASSERT(written == (ssize_t)sizeof(one));
}

static rd_kafka_topic_t *find_topic(struct gf_kafka_producer *producer, const char *name)
{
    for (size_t i = 0; i < producer->topic_count; i++)
        if (strcmp(rd_kafka_topic_name(producer->topics[i]), name) == 0)
            return producer->topics[i];
    GF_ASSERT(false && "topic was not named at creation");
    return NULL;
}

static rd_kafka_headers_t *make_headers(const struct gf_kafka_record *record)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(record->header_count);

    for (size_t i = 0; i < record->header_count; i++) {
        const struct gf_kafka_header *header = &record->headers[i];
        rd_kafka_resp_err_t err =
            rd_kafka_header_add(headers, header->name, -1, header->value, (ssize_t)header->len);

        GF_ASSERT(err == RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    return headers;
}

/* librdkafka never writes through the pointer when it copies, but its older call takes it without const. */
static void *mutable_bytes(const void *bytes)
{
    union {
        const void *in;
        void *out;
    } cast = {.in = bytes};

    return cast.out;
}

enum gf_class gf_kafka_produce(struct gf_kafka_producer *producer, const struct gf_kafka_record *record, void *opaque,
                               struct gf_error *error_r)
{
    rd_kafka_topic_t *topic = find_topic(producer, record->topic);
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

    atomic_fetch_add(&producer->pending, 1); /* first: its acknowledgement may be served by another thread at once */
    if (record->header_count == 0) {
        if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, mutable_bytes(record->value),
                             record->value_len, record->key, record->key_len, opaque) != 0)
            err = rd_kafka_last_error();
    } else {
        rd_kafka_headers_t *headers = make_headers(record);

        err = rd_kafka_producev(producer->rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                RD_KAFKA_V_VALUE(mutable_bytes(record->value), record->value_len),
                                RD_KAFKA_V_KEY(record->key, record->key_len), RD_KAFKA_V_HEADERS(headers),
                                RD_KAFKA_V_OPAQUE(opaque), RD_KAFKA_V_END);
        if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
            rd_kafka_headers_destroy(headers); /* taken only on success */
    }
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
        return GF_OK;
    atomic_fetch_sub(&producer->pending, 1);
    if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
        return gf_fail(error_r, GF_REJECT, (int)err, "kafka produce: %s", rd_kafka_err2str(err));
    return gf_kafka_fail(error_r, err, "produce");
}

int gf_kafka_producer_pending(struct gf_kafka_producer *producer) { return atomic_load(&producer->pending); }

bool gf_kafka_producer_ready(struct gf_kafka_producer *producer)
{
    return atomic_load_explicit(&producer->ready, memory_order_relaxed);
}

int gf_kafka_producer_flush(struct gf_kafka_producer *producer, int64_t timeout_ms)
{
    int64_t deadline_ms = gf_clock_mono_ms() + timeout_ms;

    while (gf_kafka_producer_pending(producer) > 0) {
        int64_t left_ms = deadline_ms - gf_clock_mono_ms();

        if (left_ms <= 0)
            break;
        (void)gf_kafka_producer_serve(producer, left_ms < 20 ? left_ms : 20);
    }
    return gf_kafka_producer_pending(producer);
}

static void stop_watcher(struct gf_kafka_producer *producer)
{
    pthread_mutex_lock(&producer->lock);
    producer->stopping = true;
    pthread_cond_signal(&producer->stop);
    pthread_mutex_unlock(&producer->lock);
    pthread_join(producer->watcher, NULL);
    pthread_cond_destroy(&producer->stop);
    pthread_mutex_destroy(&producer->lock);
}

void gf_kafka_producer_close(struct gf_kafka_producer **producer)
{
    struct gf_kafka_producer *old = *producer;

    if (old == NULL)
        return;
    *producer = NULL;
    stop_watcher(old);
    (void)gf_kafka_producer_serve(old, 0);
    if (gf_kafka_producer_pending(old) > 0) {
        (void)rd_kafka_purge(old->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
        if (gf_kafka_producer_flush(old, PURGE_WAIT_MS) > 0)
            gf_log(GF_ERROR, "kafka_acks_lost", "records=%d", gf_kafka_producer_pending(old));
    }
    if (old->poll != NULL) {
        gf_poll_close(&old->poll);
        gf_kafka_queue_hush(old->queue);
        close(old->fd);
    }
    for (size_t i = 0; i < old->topic_count; i++)
        rd_kafka_topic_destroy(old->topics[i]);
    rd_kafka_queue_destroy(old->queue);
    rd_kafka_destroy(old->rk);
    free(old);
}
