/* SPDX-License-Identifier: Apache-2.0 */
/* Notices and their trackers. See notify.h. */
#include "notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/hash.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/notice.h"
#include "gf/point.h"

#define TRACKERS 512
#define QUEUE_RECORDS 6000 /* in librdkafka, at about 900 bytes each, however long batches are: sending waits for room */
#define UNACKED_MAX 5000   /* a broker that answers comes below this at once */
#define LINGER_MS 1        /* a transaction's notices are produced in one go: waiting longer gathers no more of them */
#define AHEAD_ROWS 4
#define CACHE_LINE 64
#define QUEUE_FULL_TRIES 200
#define QUEUE_FULL_WAIT_MS 10
#define AGAIN_MS 50 /* between repeats of a range: what fails at once, a topic that was deleted say, costs MySQL a read each time */
#define AGAIN_MAX_MS 2000

struct tracker {
    struct tracker *next_in_queue; /* or next free one */
    int64_t from, next;
    int64_t made;     /* [from, made) is produced, the rest of it not yet: that is made again piece by piece */
    int64_t piece;    /* so many offsets at once */
    int outstanding;  /* notices under way, plus one while open */
    int agains;       /* how often it was made again because it had failed */
    int64_t again_ms; /* not before */
    bool failed;      /* one of them is not in the log, or may not be */
    bool orphan;      /* of no queue: freed with its last acknowledgement */
};

struct notifier {
    struct gf_kafka_producer *producer;
    char topic[GF_CONFIG_TEXT_MAX + 16];
    int64_t unacked, unacked_max;
    struct gf_buf key, value;
    int32_t partitions;
    int32_t *order, *partition_of; /* [settle.batch] */
    int32_t *starts;               /* [partitions + 1] */
    struct tracker trackers[TRACKERS];
    struct tracker *free;
};

static void give_back(struct notifier *notifier, struct tracker *tracker)
{
    tracker->next_in_queue = notifier->free;
    notifier->free = tracker;
}

static void settle_one(struct notifier *notifier, struct tracker *tracker)
{
    GF_ASSERT(tracker->outstanding > 0);
    if (--tracker->outstanding == 0 && tracker->orphan)
        give_back(notifier, tracker);
}

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    struct notifier *notifier = ctx;
    struct tracker *tracker = opaque;

    (void)partition;
    (void)offset;
    notifier->unacked--;
    if (ack == GF_KAFKA_PERSISTED)
        GF_POINT(settle_notice_acked);
    if (ack == GF_KAFKA_PERSISTED)
        gf_metric_add(GF_M_NOTICES, 1);
    else
        tracker->failed = true;
    settle_one(notifier, tracker);
}

enum gf_class notifier_create(const struct gf_config *config, struct notifier **notifier_r, struct gf_error *error_r)
{
    struct notifier *notifier = gf_xcalloc(1, sizeof(*notifier));
    const char *topics[1] = {notifier->topic};
    const struct gf_kafka_producer_opts opts = {
        .topics = topics, .topic_count = 1, .linger_ms = LINGER_MS, .queue_records = QUEUE_RECORDS, .on_ack = on_ack, .ctx = notifier};
    enum gf_class class;

    (void)snprintf(notifier->topic, sizeof(notifier->topic), "%s.notices", config->kafka_prefix);
    notifier->unacked_max = config->settle_batch < UNACKED_MAX / 2 ? 2 * config->settle_batch : UNACKED_MAX;
    notifier->partitions = (int32_t)config->kafka_partitions;
    notifier->order = gf_xcalloc((size_t)config->settle_batch, sizeof(notifier->order[0]));
    notifier->partition_of = gf_xcalloc((size_t)config->settle_batch, sizeof(notifier->partition_of[0]));
    notifier->starts = gf_xcalloc((size_t)notifier->partitions + 1, sizeof(notifier->starts[0]));
    gf_buf_init(&notifier->key, 64);
    gf_buf_init(&notifier->value, GF_NOTICE_MAX);
    for (size_t i = 0; i < TRACKERS; i++)
        give_back(notifier, &notifier->trackers[i]);
    class = gf_kafka_producer_create(config, &opts, &notifier->producer, error_r);
    if (class == GF_OK)
        *notifier_r = notifier;
    else
        notifier_destroy(&notifier);
    return class;
}

void notifier_destroy(struct notifier **notifier)
{
    if (*notifier == NULL)
        return;
    if ((*notifier)->producer != NULL)
        gf_kafka_producer_close(&(*notifier)->producer);
    gf_buf_free(&(*notifier)->key);
    gf_buf_free(&(*notifier)->value);
    free((*notifier)->order);
    free((*notifier)->partition_of);
    free((*notifier)->starts);
    free(*notifier);
    *notifier = NULL;
}

void notifier_serve(struct notifier *notifier, int64_t timeout_ms)
{
    (void)gf_kafka_producer_serve(notifier->producer, timeout_ms);
}

bool notifier_connected(struct notifier *notifier)
{
    return gf_kafka_producer_ready(notifier->producer);
}

bool notifier_blocked(const struct notifier *notifier)
{
    return notifier->unacked > notifier->unacked_max || notifier->free == NULL;
}

bool notifier_waiting(const struct notifier *notifier)
{
    return notifier->unacked > 0;
}

void notifier_flush(struct notifier *notifier, int64_t timeout_ms)
{
    (void)gf_kafka_producer_flush(notifier->producer, timeout_ms); /* what is left is told by notified_offset */
}

struct tracker *notifier_open(struct notifier *notifier, struct notice_queue *queue, int64_t from, int64_t next)
{
    struct tracker *tracker = notifier->free;

    GF_ASSERT(tracker != NULL && from <= next);
    GF_ASSERT(queue->tail == NULL || queue->tail->next == from);
    notifier->free = tracker->next_in_queue;
    *tracker = (struct tracker){.from = from, .next = next, .made = next, .piece = next - from, .outstanding = 1};
    if (queue->tail != NULL)
        queue->tail->next_in_queue = tracker;
    else
        queue->head = tracker;
    queue->tail = tracker;
    return tracker;
}

/* The id that stands first in our own format: {"id":"<log>-<offset>:<code>",... */
static struct gf_kafka_header id_header(const struct gf_buf *value)
{
    static const size_t prefix = sizeof("{\"id\":\"") - 1;
    const char *end = memchr(value->data + prefix, '"', value->len - prefix);

    GF_ASSERT(end != NULL);
    return (struct gf_kafka_header){
        .name = "ce_id", .value = value->data + prefix, .len = (size_t)(end - value->data) - prefix};
}

static enum gf_class produce(struct notifier *notifier, struct tracker *tracker, struct gf_error *error_r)
{
    static const char type[] = "giftflow.notice";
    const struct gf_kafka_header headers[] = {{.name = "ce_type", .value = type, .len = sizeof(type) - 1},
                                              id_header(&notifier->value)};
    const struct gf_kafka_record record = {.topic = notifier->topic,
                                           .key = notifier->key.data,
                                           .key_len = notifier->key.len,
                                           .value = notifier->value.data,
                                           .value_len = notifier->value.len,
                                           .headers = headers,
                                           .header_count = GF_COUNT(headers)};
    enum gf_class class = gf_kafka_produce(notifier->producer, &record, tracker, error_r);

    for (int i = 0; class == GF_RETRY && i < QUEUE_FULL_TRIES; i++) {
        notifier_serve(notifier, QUEUE_FULL_WAIT_MS);
        class = gf_kafka_produce(notifier->producer, &record, tracker, error_r);
    }
    return class;
}

void notifier_send(struct notifier *notifier, struct tracker *tracker, int32_t log, const struct gf_trade *trade,
                   const struct catalogue *catalogue)
{
    const char *name, *effect_url;
    struct gf_error error;

    if (tracker->failed)
        return; /* it will be made again from the start */
    gf_buf_reset(&notifier->key);
    gf_buf_reset(&notifier->value);
    catalogue_texts(catalogue, trade->gift_id, &name, &effect_url);
    gf_notice_encode(log, trade, name, effect_url, &notifier->key, &notifier->value);
    GF_ASSERT(gf_buf_ok(&notifier->key));
    if (!gf_buf_ok(&notifier->value)) { /* texts of control characters, each six bytes long: the outcome matters more */
        gf_buf_reset(&notifier->key);
        gf_buf_reset(&notifier->value);
        gf_notice_encode(log, trade, "", "", &notifier->key, &notifier->value);
    }
    tracker->outstanding++;
    notifier->unacked++;
    GF_POINT(settle_notice_before);
    if (produce(notifier, tracker, &error) == GF_OK) {
        GF_POINT(settle_notice_after);
        return;
    }
    tracker->outstanding--;
    notifier->unacked--;
    tracker->failed = true;
    gf_log(GF_WARN, "notice_failed", "log=%d offset=%lld error=\"%s\"", (int)log, (long long)trade->off, error.text);
}

/* Counting sort by partition: stable. Were the topic made with another count, this would only gather less well. */
static void order_by_partition(struct notifier *notifier, const struct gf_plan *plan)
{
    int32_t *starts = notifier->starts;

    memset(starts, 0, ((size_t)notifier->partitions + 1) * sizeof(starts[0]));
    for (int i = 0; i < plan->trade_count; i++) {
        gf_buf_reset(&notifier->key);
        gf_notice_key(&plan->trades[i], &notifier->key);
        notifier->partition_of[i] = gf_kafka_partition(notifier->key.data, notifier->key.len, notifier->partitions);
        starts[notifier->partition_of[i] + 1]++;
    }
    for (int32_t p = 0; p < notifier->partitions; p++)
        starts[p + 1] += starts[p];
    for (int i = 0; i < plan->trade_count; i++)
        notifier->order[starts[notifier->partition_of[i]]++] = i;
}

/* In the order of partitions no row follows its neighbour: the processor would wait for each. */
static void fetch_ahead(const struct gf_trade *trade)
{
    for (size_t at = 0; at < sizeof(*trade); at += CACHE_LINE)
        __builtin_prefetch((const char *)trade + at);
}

void notifier_send_all(struct notifier *notifier, struct tracker *tracker, int32_t log, const struct gf_plan *plan,
                       const struct catalogue *catalogue)
{
    order_by_partition(notifier, plan);
    for (int i = 0; i < plan->trade_count; i++) {
        if (i + AHEAD_ROWS < plan->trade_count)
            fetch_ahead(&plan->trades[notifier->order[i + AHEAD_ROWS]]);
        notifier_send(notifier, tracker, log, &plan->trades[notifier->order[i]], catalogue);
    }
}

void notifier_close(struct notifier *notifier, struct tracker *tracker)
{
    settle_one(notifier, tracker);
}

void notifier_fail(struct notifier *notifier, struct tracker *tracker)
{
    tracker->failed = true;
    settle_one(notifier, tracker);
}

void notice_queue_advance(struct notifier *notifier, struct notice_queue *queue, int64_t *notified_r)
{
    while (queue->head != NULL && queue->head->outstanding == 0 && !queue->head->failed) {
        struct tracker *done = queue->head;

        *notified_r = done->made;
        if (done->made < done->next)
            return;
        queue->head = done->next_in_queue;
        if (queue->head == NULL)
            queue->tail = NULL;
        give_back(notifier, done);
    }
}

/* What failed as a whole, since Kafka takes less than that before its time is over, or nothing of one partition, gets on in halves;
 * what did not, grows again. */
static void begin_piece(struct tracker *tracker, int64_t now_ms)
{
    if (tracker->failed) {
        if (tracker->agains > 0)
            tracker->piece = (tracker->piece + 1) / 2;
        tracker->again_ms = now_ms + gf_backoff_ms(tracker->agains++, AGAIN_MS, AGAIN_MAX_MS);
    } else {
        tracker->from = tracker->made;
        tracker->piece *= 2;
    }
    tracker->made = tracker->next - tracker->from > tracker->piece ? tracker->from + tracker->piece : tracker->next;
    tracker->failed = false;
    tracker->outstanding = 1;
}

struct tracker *notice_queue_again(struct notice_queue *queue, int64_t now_ms, int64_t *from_r, int64_t *next_r)
{
    bool busy = false; /* with one that has failed before: what is like it would fail for the same reason, or take its place */

    for (struct tracker *tracker = queue->head; tracker != NULL; tracker = tracker->next_in_queue) {
        bool again = tracker->agains > 0;

        if (tracker->outstanding > 0 || (tracker->failed && now_ms < tracker->again_ms)) {
            busy = busy || again;
            continue;
        }
        if ((!tracker->failed && tracker->made == tracker->next) || (again && busy))
            continue; /* told, or not its turn; what fails for the first time may be of a Kafka partition that is well again */
        begin_piece(tracker, now_ms);
        *from_r = tracker->from;
        *next_r = tracker->made;
        return tracker;
    }
    return NULL;
}

void notice_queue_drop(struct notifier *notifier, struct notice_queue *queue)
{
    for (struct tracker *tracker = queue->head, *next; tracker != NULL; tracker = next) {
        next = tracker->next_in_queue;
        tracker->orphan = true;
        if (tracker->outstanding == 0)
            give_back(notifier, tracker);
    }
    *queue = (struct notice_queue){0};
}
