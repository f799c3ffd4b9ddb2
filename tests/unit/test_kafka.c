/* SPDX-License-Identifier: Apache-2.0 */
/* Producer and consumer against librdkafka's mock cluster: acknowledgements, Java's partitions, start offsets, seek,
 * headers, rebalances between two members, and what happens when there is no broker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>

#include "gf/clock.h"
#include "gf/hash.h"
#include "gf/kafka.h"
#include "gf/log.h"

#define PARTITIONS 12
#define DEADLINE_MS 60000 /* for a broken program, not a slow one */

static struct gf_config config;
static rd_kafka_t *mock_handle;
static rd_kafka_mock_cluster_t *mock;
static int topic_number;

static int start_mock(void **state)
{
    struct gf_error error;
    char text[200];

    (void)state;
    gf_log_init("test", GF_ERROR);
    assert_int_equal(gf_config_load(&config, NULL, &error), GF_OK);
    mock_handle = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), text, sizeof(text));
    assert_non_null(mock_handle);
    mock = rd_kafka_mock_cluster_new(mock_handle, 1);
    assert_non_null(mock);
    gf_copy(config.kafka_brokers, sizeof(config.kafka_brokers), rd_kafka_mock_cluster_bootstraps(mock));
    config.kafka_session_timeout = 6000; /* the mock cluster gives who comes second his partitions a second before */
    config.kafka_message_timeout = DEADLINE_MS;
    return 0;
}

static int stop_mock(void **state)
{
    (void)state;
    rd_kafka_mock_cluster_destroy(mock);
    rd_kafka_destroy(mock_handle);
    return 0;
}

/* A topic of its own for each test. */
static const char *new_topic(void)
{
    static char name[32];

    snprintf(name, sizeof(name), "topic%d", ++topic_number);
    assert_int_equal(rd_kafka_mock_topic_create(mock, name, PARTITIONS, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
    return name;
}

struct acks {
    int count[3];
    int32_t partition;
    int64_t offset;
    void *opaque;
};

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    struct acks *acks = ctx;

    acks->count[ack]++;
    acks->partition = partition;
    acks->offset = offset;
    acks->opaque = opaque;
}

static struct gf_kafka_producer *new_producer(const char *topic, struct acks *acks)
{
    struct gf_kafka_producer_opts opts = {.topics = &topic, .topic_count = 1, .on_ack = on_ack, .ctx = acks};
    struct gf_kafka_producer *producer = NULL;
    struct gf_error error;

    assert_int_equal(gf_kafka_producer_create(&config, &opts, &producer, &error), GF_OK);
    return producer;
}

static void produce(struct gf_kafka_producer *producer, const char *topic, const char *key, const char *value)
{
    struct gf_kafka_header header = {"ce_id", value, strlen(value)};
    struct gf_kafka_record record = {.topic = topic, .key = key, .key_len = strlen(key), .value = value,
                                     .value_len = strlen(value), .headers = &header, .header_count = 1};
    struct gf_error error;

    assert_int_equal(gf_kafka_produce(producer, &record, &topic_number, &error), GF_OK);
}

static void java_chooses_the_same_partition(void **state)
{
    static const struct {
        const char *key;
        int32_t hash; /* org.apache.kafka.common.utils.UtilsTest */
    } vectors[] = {
        {"21", -973932308},
        {"foobar", -790332482},
        {"a-little-bit-long-string", -985981536},
        {"a-little-bit-longer-string", -1486304829},
        {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
        {"abc", 479470107},
    };
    const char *topic = new_topic();
    struct acks acks = {0};
    struct gf_kafka_producer *producer = new_producer(topic, &acks);
    int64_t end_ms = gf_clock_mono_ms() + DEADLINE_MS;

    (void)state;
    for (size_t i = 0; i < GF_COUNT(vectors); i++) {
        int32_t expected = (int32_t)(((uint32_t)vectors[i].hash & 0x7fffffff) % PARTITIONS);

        produce(producer, topic, vectors[i].key, "v");
        assert_int_equal(gf_kafka_producer_flush(producer, DEADLINE_MS), 0);
        assert_int_equal(acks.partition, expected);
        assert_int_equal(gf_kafka_partition(vectors[i].key, strlen(vectors[i].key), PARTITIONS), expected);
    }
    assert_int_equal(acks.count[GF_KAFKA_PERSISTED], (int)GF_COUNT(vectors));
    assert_ptr_equal(acks.opaque, &topic_number);
    while (!gf_kafka_producer_ready(producer) && gf_clock_mono_ms() < end_ms)
        (void)gf_kafka_producer_serve(producer, 20);
    assert_true(gf_kafka_producer_ready(producer));
    gf_kafka_producer_close(&producer);
    assert_null(producer);
}

static void without_brokers_create_returns_and_records_time_out(void **state)
{
    struct gf_config lonely = config;
    const char *topic = "nowhere";
    struct gf_kafka_producer_opts opts = {.topics = &topic, .topic_count = 1, .on_ack = on_ack};
    struct gf_kafka_record record = {.topic = topic, .key = "1", .key_len = 1, .value = "v", .value_len = 1};
    struct gf_kafka_producer *producer = NULL;
    struct acks acks = {0};
    struct gf_error error;

    (void)state;
    gf_copy(lonely.kafka_brokers, sizeof(lonely.kafka_brokers), "127.0.0.1:1");
    lonely.kafka_message_timeout = 1000;
    opts.ctx = &acks;
    assert_int_equal(gf_kafka_producer_create(&lonely, &opts, &producer, &error), GF_OK);
    assert_int_equal(gf_kafka_produce(producer, &record, NULL, &error), GF_OK);
    assert_int_equal(gf_kafka_producer_pending(producer), 1);
    assert_int_equal(gf_kafka_producer_flush(producer, DEADLINE_MS), 0);
    assert_int_equal(acks.count[GF_KAFKA_NOT_PERSISTED], 1);
    assert_int_equal(acks.offset, -1);
    assert_false(gf_kafka_producer_ready(producer));
    assert_int_equal(gf_kafka_produce(producer, &record, NULL, &error), GF_OK);
    gf_kafka_producer_close(&producer); /* every accepted record is acknowledged, even now */
    assert_int_equal(acks.count[GF_KAFKA_NOT_PERSISTED], 2);
}

struct member {
    struct gf_kafka_consumer *consumer;
    int64_t *next; /* per partition, shared by the members of a group */
    bool mine[PARTITIONS];
    int assigned, revoked, taken;
    int broken, out_of_range;
    int64_t session_ms; /* 0: the configuration's. One that stands still with its machine for so long is put out, and assigned anew */
    bool follows_group;
};

static int64_t on_assign(void *ctx, int32_t partition)
{
    struct member *member = ctx;

    member->mine[partition] = member->next[partition] != GF_KAFKA_SKIP;
    member->assigned++;
    return member->next[partition];
}

static void on_revoke(void *ctx, int32_t partition, bool lost)
{
    struct member *member = ctx;

    (void)lost;
    member->mine[partition] = false;
    member->revoked++;
}

static void on_broken(void *ctx, int32_t partition, bool out_of_range, const char *reason)
{
    struct member *member = ctx;

    (void)partition;
    (void)reason;
    member->broken++;
    member->out_of_range += out_of_range ? 1 : 0;
}

static void join(struct member *member, const char *topic, const char *group)
{
    struct gf_kafka_consumer_opts opts = {.topic = topic, .group = group, .client_id = "test", .queue_bytes = 1 << 20,
                                          .on_assign = on_assign, .on_revoke = on_revoke, .on_broken = on_broken,
                                          .follows_group = member->follows_group, .ctx = member};
    struct gf_config own = config;
    struct gf_error error;

    if (member->session_ms != 0)
        own.kafka_session_timeout = member->session_ms;
    assert_int_equal(gf_kafka_consumer_create(&own, &opts, &member->consumer, &error), GF_OK);
}

/* settle.queue_bytes may be all of the memory, and there may be one partition: librdkafka's own bound is lower. */
static void a_queue_may_be_as_long_as_the_configuration_allows(void **state)
{
    const struct gf_kafka_consumer_opts opts = {
        .topic = new_topic(), .group = "long", .client_id = "test", .queue_bytes = INT64_C(17179869184), .on_assign = on_assign};
    struct gf_kafka_consumer *consumer = NULL;
    struct gf_error error;

    (void)state;
    assert_int_equal(gf_kafka_consumer_create(&config, &opts, &consumer, &error), GF_OK);
    gf_kafka_consumer_close(&consumer);
}

static void wait_a_little(struct member *member)
{
    struct pollfd fd = {.fd = gf_kafka_consumer_fd(member->consumer), .events = POLLIN};

    (void)poll(&fd, 1, 50);
}

/* One round: serve, then take what each own partition has; each record must be the next one of its partition. */
static void turn(struct member *member)
{
    struct gf_kafka_message messages[64];
    struct gf_error error;
    enum gf_class class = gf_kafka_consumer_serve(member->consumer, &error);

    assert_true(class == GF_OK || class == GF_RETRY);
    for (int32_t partition = 0; partition < PARTITIONS; partition++) {
        int count = member->mine[partition] ? gf_kafka_consumer_take(member->consumer, partition, messages, 64) : 0;

        for (int i = 0; i < count; i++) {
            assert_int_equal(messages[i].partition, partition);
            if (member->next[partition] >= 0)
                assert_int_equal(messages[i].offset, member->next[partition]);
            member->next[partition] = messages[i].offset + 1;
        }
        member->taken += count;
        gf_kafka_batch_free(messages, count);
    }
}

static void produce_many(const char *topic, int count)
{
    struct acks acks = {0};
    struct gf_kafka_producer *producer = new_producer(topic, &acks);

    for (int i = 0; i < count; i++) {
        char key[16], value[16];

        snprintf(key, sizeof(key), "%d", i % 97);
        snprintf(value, sizeof(value), "v%d", i);
        produce(producer, topic, key, value);
    }
    assert_int_equal(gf_kafka_producer_flush(producer, DEADLINE_MS), 0);
    assert_int_equal(acks.count[GF_KAFKA_PERSISTED], count);
    gf_kafka_producer_close(&producer);
}

static void records_come_in_order_and_seek_reads_again(void **state)
{
    int64_t next[PARTITIONS] = {0};
    struct member member = {.next = next, .session_ms = DEADLINE_MS};
    struct gf_kafka_message message;
    int64_t end_ms = gf_clock_mono_ms() + DEADLINE_MS;
    int32_t partition = gf_kafka_partition("5", 1, PARTITIONS);
    const char *topic = new_topic();
    struct gf_error error;
    const char *header;
    int64_t before;
    size_t len = 0;

    (void)state;
    produce_many(topic, 970);
    join(&member, topic, "order");
    while (member.taken < 970 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    assert_int_equal(member.taken, 970);
    assert_int_equal(member.assigned, PARTITIONS);

    before = next[partition];
    assert_true(before > 3);
    assert_int_equal(gf_kafka_consumer_seek(member.consumer, partition, before - 3, &error), GF_OK);
    next[partition] = before - 3;
    while (gf_kafka_consumer_take(member.consumer, partition, &message, 1) == 0 && gf_clock_mono_ms() < end_ms)
        wait_a_little(&member);
    assert_int_equal(message.offset, before - 3);
    assert_false(message.append_time); /* the mock broker keeps the producer's time */
    header = gf_kafka_message_header(&message, "ce_id", &len);
    assert_non_null(header);
    assert_int_equal(len, message.value_len);
    assert_memory_equal(header, message.value, len);
    assert_null(gf_kafka_message_header(&message, "absent", &len));
    gf_kafka_batch_free(&message, 1);
    next[partition] = before - 2;
    while (next[partition] < before && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    assert_int_equal(next[partition], before);
    gf_kafka_consumer_close(&member.consumer);
    assert_int_equal(member.revoked, PARTITIONS);
}

static void a_stored_start_follows_the_commits(void **state)
{
    int64_t next[PARTITIONS], end_ms = gf_clock_mono_ms() + DEADLINE_MS;
    struct member member = {.next = next};
    int32_t partition = gf_kafka_partition("5", 1, PARTITIONS);
    const char *topic = new_topic();

    (void)state;
    produce_many(topic, 97 * 4);
    for (int i = 0; i < PARTITIONS; i++)
        next[i] = i == partition ? 0 : GF_KAFKA_SKIP;
    join(&member, topic, "stored");
    while (member.taken < 4 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    gf_kafka_consumer_commit(member.consumer, partition, 2);
    gf_kafka_consumer_close(&member.consumer); /* waits for the commit */

    member = (struct member){.next = next, .follows_group = true};
    for (int i = 0; i < PARTITIONS; i++)
        next[i] = GF_KAFKA_STORED;
    join(&member, topic, "stored");
    while (next[partition] < 4 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    assert_true(next[partition] >= 4);
    for (int i = 0; i < PARTITIONS; i++) /* the others had no commit: they start at their end */
        if (i != partition)
            assert_int_equal(next[i], GF_KAFKA_STORED);
    assert_int_equal(member.taken, (int)(next[partition] - 2));
    gf_kafka_consumer_close(&member.consumer);
}

static void an_offset_out_of_range_breaks_the_partition_loudly(void **state)
{
    int64_t next[PARTITIONS] = {0}, end_ms = gf_clock_mono_ms() + DEADLINE_MS;
    struct member member = {.next = next};
    const char *topic = new_topic();

    (void)state;
    produce_many(topic, 97);
    next[3] = 100000;
    join(&member, topic, "range");
    while (member.broken == 0 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    assert_int_equal(member.broken, 1);
    assert_int_equal(member.out_of_range, 1);
    assert_int_equal(next[3], 100000);
    gf_kafka_consumer_close(&member.consumer);
}

/* Its records were gone before the group came back, or the topic was made anew. */
static void who_follows_the_group_goes_on_at_the_end(void **state)
{
    int64_t next[PARTITIONS], end_ms = gf_clock_mono_ms() + DEADLINE_MS;
    struct member member = {.next = next};
    int32_t partition = gf_kafka_partition("5", 1, PARTITIONS);
    const char *topic = new_topic();

    (void)state;
    produce_many(topic, 97);
    for (int i = 0; i < PARTITIONS; i++)
        next[i] = i == partition ? 0 : GF_KAFKA_SKIP;
    join(&member, topic, "gone");
    while (member.taken < 1 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&member);
        turn(&member);
    }
    gf_kafka_consumer_commit(member.consumer, partition, 100000);
    gf_kafka_consumer_close(&member.consumer);

    member = (struct member){.next = next, .follows_group = true};
    next[partition] = GF_KAFKA_STORED;
    join(&member, topic, "gone");
    while (member.taken == 0 && gf_clock_mono_ms() < end_ms) {
        produce_many(topic, 97); /* when it has come to the end nobody tells */
        wait_a_little(&member);
        turn(&member);
    }
    assert_true(member.taken > 0);
    assert_int_equal(member.broken, 0);
    gf_kafka_consumer_close(&member.consumer);
}

static int owned(const struct member *member)
{
    int count = 0;

    for (int i = 0; i < PARTITIONS; i++)
        count += member->mine[i] ? 1 : 0;
    return count;
}

static void two_members_share_without_loss(void **state)
{
    int64_t next[PARTITIONS] = {0}, end_ms = gf_clock_mono_ms() + DEADLINE_MS;
    struct member one = {.next = next, .session_ms = 12000}, two = {.next = next, .session_ms = 12000};
    const char *topic = new_topic();

    (void)state;
    produce_many(topic, 970);
    join(&one, topic, "share");
    while (one.taken < 970 && gf_clock_mono_ms() < end_ms) {
        wait_a_little(&one);
        turn(&one);
    }
    join(&two, topic, "share");
    while ((owned(&one) != PARTITIONS / 2 || owned(&two) != PARTITIONS / 2) && gf_clock_mono_ms() < end_ms) {
        turn(&one);
        wait_a_little(&two);
        turn(&two);
    }
    assert_int_equal(owned(&one) + owned(&two), PARTITIONS);
    for (int i = 0; i < PARTITIONS; i++)
        assert_false(one.mine[i] && two.mine[i]);
    produce_many(topic, 970);
    while (one.taken + two.taken < 2 * 970 && gf_clock_mono_ms() < end_ms) {
        turn(&one);
        wait_a_little(&two);
        turn(&two);
    }
    assert_int_equal(one.taken + two.taken, 2 * 970);
    assert_true(two.taken > 0);
    gf_kafka_consumer_close(&two.consumer);
    gf_kafka_consumer_close(&one.consumer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(java_chooses_the_same_partition),
        cmocka_unit_test(without_brokers_create_returns_and_records_time_out),
        cmocka_unit_test(a_queue_may_be_as_long_as_the_configuration_allows),
        cmocka_unit_test(records_come_in_order_and_seek_reads_again),
        cmocka_unit_test(a_stored_start_follows_the_commits),
        cmocka_unit_test(an_offset_out_of_range_breaks_the_partition_loudly),
        cmocka_unit_test(who_follows_the_group_goes_on_at_the_end),
        cmocka_unit_test(two_members_share_without_loss),
    };

    return cmocka_run_group_tests(tests, start_mock, stop_mock);
}
