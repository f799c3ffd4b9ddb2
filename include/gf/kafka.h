/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Kafka producer, consumer and admin (librdkafka behind it, src/adapter/kafka).
 *
 * Producer: acks=all, murmur2 (Java's) partitioner, not idempotent (settlement dedupes; librdkafka 2.0.2's idempotent
 * producer can go fatal). One acknowledgement callback per accepted record, on the thread that serves the producer:
 * the loop it is attached to, or the caller of gf_kafka_producer_serve.
 *
 * Consumer: member of a group; each assigned partition has its own queue, so reading one partition never touches another
 * and not reading is back-pressure, while gf_kafka_consumer_serve keeps the member alive and runs rebalance callbacks.
 * Start offsets come from the caller (MySQL). Eager (range) assignment. One thread owns a consumer. */
#include "gf/base.h"
#include "gf/config.h"
#include "gf/loop.h"

enum gf_kafka_ack { GF_KAFKA_PERSISTED, GF_KAFKA_NOT_PERSISTED, GF_KAFKA_MAYBE };

struct gf_kafka_header {
    const char *name;
    const void *value;
    size_t len;
};
struct gf_kafka_record {
    const char *topic;  /* full name; must be one of those given at creation */
    const void *key;
    size_t key_len;
    const void *value;  /* copied */
    size_t value_len;
    const struct gf_kafka_header *headers;
    size_t header_count;
};

struct gf_kafka_producer;
/* offset is -1 unless PERSISTED. */
typedef void (*gf_kafka_ack_fn)(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset);

struct gf_kafka_producer_opts {
    const char *const *topics; /* full names, at most 8; their metadata is fetched in the background */
    size_t topic_count;
    int64_t linger_ms;
    int64_t queue_records; /* most that are not acknowledged; above it gf_kafka_produce is RETRY; 0: 200,000 */
    gf_kafka_ack_fn on_ack; /* NULL: results are only counted in metrics */
    void *ctx;
};
GF_NODISCARD enum gf_class gf_kafka_producer_create(const struct gf_config *config, const struct gf_kafka_producer_opts *opts,
                                                    struct gf_kafka_producer **producer_r, struct gf_error *error_r);
void gf_kafka_producer_attach(struct gf_kafka_producer *producer, struct gf_loop *loop);
int gf_kafka_producer_serve(struct gf_kafka_producer *producer, int64_t timeout_ms); /* returns records acknowledged */
/* OK: on_ack will come with `opaque`. RETRY: queue full, nothing was taken. REJECT: too large. */
GF_NODISCARD enum gf_class gf_kafka_produce(struct gf_kafka_producer *producer, const struct gf_kafka_record *record,
                                            void *opaque, struct gf_error *error_r);
int gf_kafka_producer_pending(struct gf_kafka_producer *producer);
/* True while some broker is connected. */
bool gf_kafka_producer_ready(struct gf_kafka_producer *producer);
/* Serves until nothing is pending or the deadline has passed; returns what is left. */
int gf_kafka_producer_flush(struct gf_kafka_producer *producer, int64_t timeout_ms);
void gf_kafka_producer_close(struct gf_kafka_producer **producer); /* purges what is left: its acks come as MAYBE or NOT_PERSISTED */

struct gf_kafka_message { /* borrowed until gf_kafka_batch_free */
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms;
    bool append_time;      /* timestamp_ms is the broker's (LogAppendTime), not the producer's */
    const char *key;       /* NULL: no key */
    size_t key_len;
    const char *value;     /* NULL: no value */
    size_t value_len;
    void *native;
};
/* Value of a header of a message; NULL if absent. */
const char *gf_kafka_message_header(const struct gf_kafka_message *message, const char *name, size_t *len_r);

struct gf_kafka_consumer;
/* Rebalance callbacks run inside gf_kafka_consumer_serve. on_assign is asked for each partition's first offset:
 * >= 0, GF_KAFKA_BEGINNING, GF_KAFKA_STORED (the group's committed offset, else the end) or GF_KAFKA_SKIP (do not consume). */
#define GF_KAFKA_BEGINNING INT64_C(-2)
#define GF_KAFKA_STORED INT64_C(-1000)
#define GF_KAFKA_SKIP INT64_C(-9999)
typedef int64_t (*gf_kafka_assign_fn)(void *ctx, int32_t partition);
/* Comes for every partition of the assignment, those that on_assign skipped included. */
typedef void (*gf_kafka_revoke_fn)(void *ctx, int32_t partition, bool lost);
/* The next offset is out of range (another start may serve), or bytes cannot be read, or another promise of the log is broken: no more
 * is taken of the partition. Comes inside gf_kafka_consumer_take, which may return what stood before it. */
typedef void (*gf_kafka_broken_fn)(void *ctx, int32_t partition, bool out_of_range, const char *reason);

struct gf_kafka_consumer_opts {
    const char *topic, *group, *client_id;
    int64_t queue_bytes; /* of values that wait in one partition's queue; a busy one's memory is about 2.5 times as much */
    int64_t fetch_bytes; /* a fetch is answered when so much is there (no more than it may bring of a partition), or after
                          * kafka.fetch_wait; 0: by the first record */
    bool follows_group; /* on_assign may return GF_KAFKA_STORED; where an offset or bytes are gone, reading goes on, and nothing breaks */
    gf_kafka_assign_fn on_assign;
    gf_kafka_revoke_fn on_revoke; /* may be NULL */
    gf_kafka_broken_fn on_broken; /* may be NULL */
    void *ctx;
};
GF_NODISCARD enum gf_class gf_kafka_consumer_create(const struct gf_config *config, const struct gf_kafka_consumer_opts *opts,
                                                    struct gf_kafka_consumer **consumer_r, struct gf_error *error_r);
/* eventfd, readable when some partition's queue or the event queue has something; for poll(2) or gf_poll_start. */
int gf_kafka_consumer_fd(const struct gf_kafka_consumer *consumer);
/* Serves rebalances and errors without blocking; returns RETRY (and stays usable) on transient errors, FATAL when the
 * member cannot go on. Call at least every few seconds. Read the fd (clears it) inside. */
GF_NODISCARD enum gf_class gf_kafka_consumer_serve(struct gf_kafka_consumer *consumer, struct gf_error *error_r);
/* Waits at most timeout_ms for messages of one partition whose log goes on at next_offset; true when some are here. */
bool gf_kafka_consumer_await(struct gf_kafka_consumer *consumer, int32_t partition, int64_t next_offset, int64_t timeout_ms);
/* Up to `max` messages of one partition that are here already, in offset order; 0 when there are none. */
int gf_kafka_consumer_take(struct gf_kafka_consumer *consumer, int32_t partition, struct gf_kafka_message *messages_r, int max);
void gf_kafka_batch_free(struct gf_kafka_message *messages, int count); /* a second time does nothing */
/* The group has said which partitions are this member's; they may be none. */
bool gf_kafka_consumer_assigned(const struct gf_kafka_consumer *consumer);
/* Where the partition ended when it was fetched last; negative: not known yet. Asks nobody. */
int64_t gf_kafka_consumer_end(struct gf_kafka_consumer *consumer, int32_t partition);
/* Reads the partition again from `offset` (after a batch was given back). */
GF_NODISCARD enum gf_class gf_kafka_consumer_seek(struct gf_kafka_consumer *consumer, int32_t partition, int64_t offset,
                                                  struct gf_error *error_r);
/* For lag tools only: asynchronous, failures are counted, never acted on. */
void gf_kafka_consumer_commit(struct gf_kafka_consumer *consumer, int32_t partition, int64_t next_offset);
void gf_kafka_consumer_close(struct gf_kafka_consumer **consumer); /* leaves the group (revoke callbacks run) */

/* Blocking questions, each with its deadline. */
struct gf_kafka_admin;
GF_NODISCARD enum gf_class gf_kafka_admin_create(const struct gf_config *config, struct gf_kafka_admin **admin_r,
                                                 struct gf_error *error_r);
void gf_kafka_admin_close(struct gf_kafka_admin **admin);
struct gf_kafka_topic_spec {
    const char *name;
    int partitions, replication;
    const char *const *settings; /* name, value, name, value, ..., NULL */
};
/* OK also when the topic exists with the same partition count; REJECT when it differs. *created_r tells. */
GF_NODISCARD enum gf_class gf_kafka_topic_create(struct gf_kafka_admin *admin, const struct gf_kafka_topic_spec *spec,
                                                 bool *created_r, struct gf_error *error_r);
/* 0 partitions: the cluster has no such topic. */
GF_NODISCARD enum gf_class gf_kafka_topic_partitions(struct gf_kafka_admin *admin, const char *topic, int *partitions_r,
                                                     struct gf_error *error_r);
/* Of the partition that has the fewest, whether its brokers are up or not. */
GF_NODISCARD enum gf_class gf_kafka_topic_copies(struct gf_kafka_admin *admin, const char *topic, int *copies_r,
                                                 struct gf_error *error_r);
struct gf_kafka_setting {
    const char *name;
    char value[64]; /* as Kafka writes it; cut when longer, "" when the broker does not know the name */
};
/* What holds for the topic now, whether set on it or the broker's default. */
GF_NODISCARD enum gf_class gf_kafka_topic_settings(struct gf_kafka_admin *admin, const char *topic,
                                                   struct gf_kafka_setting *settings, size_t count, struct gf_error *error_r);
struct gf_kafka_range {
    int64_t low, high; /* the first record that is there; where the next one will be */
};
/* Without a leader it fails at once. */
GF_NODISCARD enum gf_class gf_kafka_watermarks(struct gf_kafka_admin *admin, const char *topic, int32_t partition,
                                               struct gf_kafka_range *range_r, struct gf_error *error_r);
