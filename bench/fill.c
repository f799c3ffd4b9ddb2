/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow-bench-fill: makes the work for `bench settle`: a gift, wallets (written by SQL: bench databases only, so
 * `giftflow verify` will rightly complain about them) and N gift commands in the commands topic.
 *   giftflow-bench-fill --gifts N --users U [--hot PERCENT of the gifts, user 1's] [--seed S]
 *   giftflow-bench-fill --wallets-only 1 --users U */
#include <inttypes.h>

#include "bench.h"
#include "gf/command.h"
#include "gf/kafka.h"
#include "gf/sql.h"

#define ROWS 2000
#define PENDING_MAX 50000

static int64_t persisted, failed;

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    (void)ctx;
    (void)opaque;
    (void)partition;
    (void)offset;
    if (ack == GF_KAFKA_PERSISTED)
        persisted++;
    else
        failed++;
}

static void must(enum gf_class class, const struct gf_error *error)
{
    if (class == GF_OK)
        return;
    fprintf(stderr, "giftflow-bench-fill: %s\n", error->text);
    exit(1);
}

static void fill_tables(const struct gf_config *config, int64_t users)
{
    struct gf_sql *sql = NULL;
    struct gf_error error;
    struct gf_buf text;
    int64_t now_ms = gf_clock_real_ms();

    must(gf_sql_connect(config, GF_SQL_PLAIN, &sql, &error), &error);
    must(gf_sql_execf(sql, &error, "INSERT IGNORE INTO gift (gift_id, name, cover_url, effect_url, status, ver, updated_ms) "
                                   "VALUES (%d, 'Bench', '', '', 1, 1, %" PRId64 ")", BENCH_GIFT, now_ms), &error);
    must(gf_sql_execf(sql, &error, "INSERT IGNORE INTO gift_price (gift_id, valid_from_ms, valid_to_ms, price, share_bp) "
                                   "VALUES (%d, 0, %" PRId64 ", %d, %d)", BENCH_GIFT, INT64_MAX, BENCH_PRICE, BENCH_SHARE_BP), &error);
    gf_buf_init(&text, 1 << 20);
    for (int64_t user = 1; user <= users;) {
        gf_buf_reset(&text);
        gf_buf_adds(&text, "INSERT IGNORE INTO wallet (user_id, balance, created_ms, updated_ms) VALUES ");
        for (int i = 0; i < ROWS && user <= users; i++, user++)
            gf_buf_addf(&text, "%s(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")", i ? "," : "", user, BENCH_BALANCE, now_ms, now_ms);
        must(gf_sql_exec(sql, text.data, text.len, NULL, &error), &error);
    }
    gf_buf_free(&text);
    gf_sql_close(&sql);
}

static void produce(struct gf_kafka_producer *producer, const struct gf_kafka_record *record)
{
    struct gf_error error;
    enum gf_class class;

    while (gf_kafka_producer_pending(producer) > PENDING_MAX)
        (void)gf_kafka_producer_serve(producer, 10);
    while ((class = gf_kafka_produce(producer, record, NULL, &error)) == GF_RETRY)
        (void)gf_kafka_producer_serve(producer, 10);
    must(class, &error);
}

struct senders {
    int64_t count, hot_percent;
    uint64_t random;
};

static int64_t next_sender(struct senders *senders)
{
    if (senders->hot_percent > 0 && (int64_t)(bench_random(&senders->random) % 100) < senders->hot_percent)
        return 1;
    return 1 + (int64_t)(bench_random(&senders->random) % (uint64_t)senders->count);
}

static void fill_topic(const struct gf_config *config, int64_t gifts, struct senders senders)
{
    char topic[256], key[24];
    const char *topics[] = {topic};
    const struct gf_kafka_producer_opts opts = {.topics = topics, .topic_count = 1, .linger_ms = 20, .on_ack = on_ack};
    struct gf_kafka_producer *producer = NULL;
    struct gf_error error;
    struct gf_buf value;

    snprintf(topic, sizeof(topic), "%.200s.commands", config->kafka_prefix);
    must(gf_kafka_producer_create(config, &opts, &producer, &error), &error);
    gf_buf_init(&value, GF_COMMAND_MAX);
    for (int64_t i = 0; i < gifts; i++) {
        struct gf_command command = {.kind = GF_KIND_GIFT, .request_id = gf_uuid_v7(), .gift_id = BENCH_GIFT, .price = BENCH_PRICE,
                                     .quantity = 1, .ts_ms = gf_clock_real_ms()};
        struct gf_kafka_record record = {.topic = topic, .key = key};

        command.user_id = next_sender(&senders);
        command.receiver_id = bench_host(&senders.random);
        command.room_id = command.receiver_id - BENCH_HOST_BASE;
        gf_buf_reset(&value);
        gf_command_encode(&command, &value);
        record.key_len = (size_t)snprintf(key, sizeof(key), "%" PRId64, command.user_id);
        record.value = value.data;
        record.value_len = value.len;
        produce(producer, &record);
        if (i % 256 == 0)
            (void)gf_kafka_producer_serve(producer, 0);
    }
    (void)gf_kafka_producer_flush(producer, 60000);
    gf_buf_free(&value);
    gf_kafka_producer_close(&producer);
    if (persisted != gifts) {
        fprintf(stderr, "giftflow-bench-fill: %" PRId64 " of %" PRId64 " records acknowledged, %" PRId64 " failed\n", persisted, gifts, failed);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static struct gf_config config;
    int64_t users = bench_arg(argc, argv, "--users", 100000);
    int64_t began_ms = gf_clock_mono_ms();

    bench_config(&config);
    gf_sql_library_init();
    fill_tables(&config, users);
    if (bench_arg(argc, argv, "--wallets-only", 0) == 0) {
        int64_t gifts = bench_arg(argc, argv, "--gifts", 1000000);

        fill_topic(&config, gifts, (struct senders){.count = users,
                                                    .hot_percent = bench_arg(argc, argv, "--hot", 0),
                                                    .random = (uint64_t)bench_arg(argc, argv, "--seed", 1)});
        fprintf(stderr, "%" PRId64 " gifts of %" PRId64 " users in the topic after %.1f s\n", gifts, users,
                (double)(gf_clock_mono_ms() - began_ms) / 1000);
    }
    return 0;
}
