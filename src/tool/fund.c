/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow fund FROM-TO COINS`: opens these users' wallets and credits each by the normal path, in bulk: a `credit` row
 * (kind adjust, actor 'fund') first, then the command that names it; settlement does the rest. Waits until all are credited.
 * A command that is lost on the way is produced again by sweep (due_ms). Blocking; bounded by --wait. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/kafka.h"
#include "gf/num.h"
#include "gf/role.h"
#include "tool.h"

#define USERS_MAX 1000000
#define CHUNK 500           /* rows per INSERT and ids per look-up: below the server's IN-list conversions */
#define REDELIVER_MS 60000  /* sweep takes over after this */
#define STATEMENT_MAX (1u << 20)
#define USAGE "FROM-TO COINS [--wait SECONDS]"

struct fund {
    const struct gf_config *config;
    int64_t from, count, coins;
    int64_t deadline_ms;
    struct gf_uuid *ids; /* one per user */
    struct gf_sql *sql;
    struct gf_kafka_producer *producer;
    struct gf_buf text;
    char topic[GF_CONFIG_TEXT_MAX + 16];
    int64_t unacknowledged;
    struct gf_error error;
};

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    struct fund *fund = ctx;

    (void)opaque;
    (void)partition;
    (void)offset;
    fund->unacknowledged += ack == GF_KAFKA_PERSISTED ? 0 : 1;
}

static enum gf_class insert_rows(struct fund *fund, int64_t at, int64_t end)
{
    int64_t now_ms = gf_clock_real_ms();

    gf_buf_reset(&fund->text);
    gf_buf_adds(&fund->text, "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms, due_ms) VALUES ");
    for (int64_t i = at; i < end; i++) {
        fund->ids[i] = gf_uuid_v8();
        gf_buf_adds(&fund->text, i > at ? ",(" : "(");
        gf_buf_add_xhex(&fund->text, fund->ids[i].b, sizeof(fund->ids[i].b));
        gf_buf_addf(&fund->text, ",%d,%" PRId64 ",%" PRId64 ",'fund','giftflow fund',1,%" PRId64 ",%" PRId64 ")", GF_KIND_ADJUST,
                    fund->from + i, fund->coins, now_ms, now_ms + REDELIVER_MS);
    }
    GF_ASSERT(gf_buf_ok(&fund->text));
    return gf_sql_exec(fund->sql, fund->text.data, fund->text.len, NULL, &fund->error);
}

static enum gf_class produce_one(struct fund *fund, int64_t i)
{
    struct gf_command command = {.kind = GF_KIND_ADJUST, .request_id = fund->ids[i], .user_id = fund->from + i,
                                 .ts_ms = gf_clock_real_ms()};
    struct gf_kafka_record record = {.topic = fund->topic};
    enum gf_class class;
    char key[24];

    gf_buf_reset(&fund->text);
    gf_command_encode(&command, &fund->text);
    GF_ASSERT(gf_buf_ok(&fund->text));
    record.key = key;
    record.key_len = (size_t)snprintf(key, sizeof(key), "%" PRId64, command.user_id);
    record.value = fund->text.data;
    record.value_len = fund->text.len;
    while ((class = gf_kafka_produce(fund->producer, &record, NULL, &fund->error)) == GF_RETRY &&
           gf_clock_mono_ms() < fund->deadline_ms)
        (void)gf_kafka_producer_serve(fund->producer, 20); /* the queue is full: let it shrink */
    return class;
}

static enum gf_class send_all(struct fund *fund)
{
    enum gf_class class = GF_OK;

    for (int64_t at = 0; at < fund->count && class == GF_OK; at += CHUNK) {
        int64_t end = at + CHUNK < fund->count ? at + CHUNK : fund->count;

        class = insert_rows(fund, at, end);
        for (int64_t i = at; i < end && class == GF_OK; i++)
            class = produce_one(fund, i);
        (void)gf_kafka_producer_serve(fund->producer, 0);
    }
    if (class == GF_OK && gf_kafka_producer_flush(fund->producer, fund->deadline_ms - gf_clock_mono_ms()) > 0)
        return gf_fail(&fund->error, GF_RETRY, 0, "Kafka did not acknowledge all commands in time; sweep sends them again");
    return class;
}

static enum gf_class count_closed(struct fund *fund, int64_t at, int64_t end, int64_t *credited_r, int64_t *refused_r)
{
    struct gf_sql_result *result;
    enum gf_class class;

    gf_buf_reset(&fund->text);
    gf_buf_adds(&fund->text, "SELECT COALESCE(SUM(status = 2), 0), COALESCE(SUM(status = 3), 0) FROM credit WHERE credit_id IN (");
    for (int64_t i = at; i < end; i++) {
        gf_buf_adds(&fund->text, i > at ? "," : "");
        gf_buf_add_xhex(&fund->text, fund->ids[i].b, sizeof(fund->ids[i].b));
    }
    gf_buf_addc(&fund->text, ')');
    GF_ASSERT(gf_buf_ok(&fund->text));
    class = gf_sql_query(fund->sql, fund->text.data, fund->text.len, &result, &fund->error);
    if (class != GF_OK)
        return class;
    if (gf_sql_next(result)) {
        *credited_r = gf_sql_i64(result, 0);
        *refused_r = gf_sql_i64(result, 1);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class await_all(struct fund *fund)
{
    int64_t at = 0, done = 0;

    while (at < fund->count) {
        int64_t end = at + CHUNK < fund->count ? at + CHUNK : fund->count, credited = 0, refused = 0;
        enum gf_class class = count_closed(fund, at, end, &credited, &refused);

        if (class != GF_OK)
            return class;
        if (refused > 0)
            return gf_fail(&fund->error, GF_REJECT, 0, "%" PRId64 " of the wallets %" PRId64 "-%" PRId64 " would have more than 2^53-1 coins, "
                           "and are not credited", refused, fund->from + at, fund->from + end - 1);
        if (credited == end - at) {
            at = end;
            done = at;
            continue;
        }
        done = at + credited;
        if (gf_clock_mono_ms() >= fund->deadline_ms)
            return gf_fail(&fund->error, GF_RETRY, 0, "only %" PRId64 " of %" PRId64 " wallets are credited yet: is settle running?",
                           done, fund->count);
        gf_clock_sleep_ms(20);
    }
    return GF_OK;
}

static enum gf_class fund_all(struct fund *fund)
{
    const char *topic = fund->topic;
    struct gf_kafka_producer_opts opts = {.topics = &topic, .topic_count = 1, .linger_ms = 5, .on_ack = on_ack, .ctx = fund};
    enum gf_class class = gf_tool_connect(fund->config, fund->deadline_ms - gf_clock_mono_ms(), &fund->sql, &fund->error);

    if (class == GF_OK)
        class = gf_kafka_producer_create(fund->config, &opts, &fund->producer, &fund->error);
    if (class == GF_OK)
        class = send_all(fund);
    if (class == GF_OK)
        class = await_all(fund);
    return class;
}

static bool parse_args(struct fund *fund, int argc, char **argv, int64_t *wait_s_r)
{
    int64_t to = 0;
    const char *value, *dash;
    int words = 0;

    for (int i = 1; i < argc; i++) {
        if (gf_tool_option(argc, argv, &i, "--wait", &value)) {
            if (value == NULL || !gf_num_parse_i64(value, strlen(value), 1, 86400, wait_s_r))
                return false;
        } else if (words++ == 0) {
            dash = strchr(argv[i], '-');
            if (dash == NULL || !gf_num_parse_i64(argv[i], (size_t)(dash - argv[i]), 1, GF_ID_MAX, &fund->from) ||
                !gf_num_parse_i64(dash + 1, strlen(dash + 1), fund->from, GF_ID_MAX, &to))
                return false;
        } else if (!gf_num_parse_i64(argv[i], strlen(argv[i]), 1, GF_ID_MAX, &fund->coins)) {
            return false;
        }
    }
    fund->count = to - fund->from + 1;
    return words == 2 && fund->count <= USERS_MAX;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    struct fund fund = {.config = config};
    int64_t wait_s = 60, start_ms = gf_clock_mono_ms();
    enum gf_class class;

    if (!parse_args(&fund, argc, argv, &wait_s))
        return gf_tool_usage("fund", USAGE, "takes a range of user ids (1..2^53-1, at most a million) and a number of coins above 0");
    fund.deadline_ms = start_ms + wait_s * 1000;
    fund.ids = gf_xcalloc((size_t)fund.count, sizeof(fund.ids[0]));
    snprintf(fund.topic, sizeof(fund.topic), "%s.commands", config->kafka_prefix);
    gf_buf_init(&fund.text, STATEMENT_MAX);
    class = fund_all(&fund);
    gf_kafka_producer_close(&fund.producer);
    gf_sql_close(&fund.sql);
    gf_buf_free(&fund.text);
    free(fund.ids);
    if (fund.unacknowledged > 0)
        fprintf(stderr, "giftflow fund: %" PRId64 " commands were not acknowledged; sweep sends them again\n", fund.unacknowledged);
    if (class != GF_OK) {
        fprintf(stderr, "giftflow fund: %s\n", fund.error.text);
        return 1;
    }
    printf("%" PRId64 " wallets credited with %" PRId64 " coins each in %.2f s\n", fund.count, fund.coins,
           (double)(gf_clock_mono_ms() - start_ms) / 1000.0);
    return 0;
}

const struct gf_role gf_role_fund = {
    .name = "fund",
    .summary = "open wallets and credit them through the normal path",
    .usage = USAGE,
    .needs_config = true,
    .run = run,
};
