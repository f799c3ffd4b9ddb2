/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds the dlq topic from dead_letter (F12): rows of state 0 are locked, produced, and set to state 1 once the record is in
 * the log. A crash in between produces them again: readers drop repeats by ce_id = "<log>:<off>".
 * Bounded by letters and by bytes: payloads are read one at a time and wait only in the producer's queue. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/letter.h"
#include "gf/metrics.h"
#include "sweep.h"

#define LETTERS 200
#define BYTES (8 << 20) /* of one feed: the letter that passes this is its last */
#define CUT_BYTES 524288
#define ACK_WAIT_MS 5000 /* shorter than the session's idle time-out, which would give the locks away */

struct feed_item {
    struct gf_letter_id id;
    bool fed;
};

/* The names alone, which are all in the index. */
static enum gf_class lock_letters(struct sweep_jobs *jobs, struct feed_item *items_r, int *count_r, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(jobs->sql, &result, error_r,
                                        "SELECT log, off FROM dead_letter WHERE state = 0 ORDER BY log, off LIMIT %d FOR UPDATE", LETTERS);

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result))
        items_r[(*count_r)++] = (struct feed_item){{gf_sql_i64(result, 0), gf_sql_i64(result, 1)}, false};
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class produce_letter(struct sweep_jobs *jobs, const struct gf_letter *letter, bool *fed, struct gf_error *error_r)
{
    char id[48], partition[24], offset[24];
    const char *reason = gf_dead_text(letter->reason);
    struct gf_kafka_header headers[] = {
        {"ce_id", id, 0}, {"ce_type", "giftflow.dead_letter", 20}, {"reason", reason, strlen(reason)},
        {"detail", letter->detail, letter->detail_len}, {"topic", letter->topic != NULL ? letter->topic : "", letter->topic_len},
        {"partition", partition, 0}, {"offset", offset, 0},
    };
    struct gf_kafka_record record = {.topic = jobs->dlq, .key = letter->key, .key_len = letter->key_len, .value = letter->payload,
                                     .value_len = letter->payload_len, .headers = headers, .header_count = GF_COUNT(headers)};
    enum gf_class class;

    headers[0].len = (size_t)snprintf(id, sizeof(id), "%" PRId64 ":%" PRId64, letter->id.log, letter->id.off);
    headers[5].len = (size_t)snprintf(partition, sizeof(partition), "%" PRId64, letter->partition);
    headers[6].len = (size_t)snprintf(offset, sizeof(offset), "%" PRId64, letter->id.off);
    class = gf_kafka_produce(jobs->producer, &record, fed, error_r);
    if (class != GF_REJECT)
        return class;
    /* With its headers the record has grown past the limit; the whole of it stays in the table. */
    record.value_len = record.value_len < CUT_BYTES ? record.value_len : CUT_BYTES;
    return gf_kafka_produce(jobs->producer, &record, fed, error_r);
}

static enum gf_class feed_one(struct sweep_jobs *jobs, struct feed_item *item, int64_t *bytes, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    struct gf_letter letter;
    enum gf_class class = gf_letter_get(jobs->sql, &item->id, &result, error_r);

    if (class != GF_OK)
        return class;
    if (gf_letter_next(result, &letter)) {
        class = produce_letter(jobs, &letter, &item->fed, error_r);
        *bytes += (int64_t)letter.payload_len;
    }
    gf_sql_result_free(&result);
    return class;
}

static enum gf_class mark_fed(struct sweep_jobs *jobs, const struct feed_item *items, int count, struct gf_error *error_r)
{
    int marked = 0;
    enum gf_class class;

    gf_buf_reset(&jobs->text);
    gf_buf_adds(&jobs->text, "UPDATE dead_letter SET state = 1 WHERE state = 0 AND (log, off) IN (");
    for (int i = 0; i < count; i++)
        if (items[i].fed)
            gf_buf_addf(&jobs->text, "%s(%" PRId64 ",%" PRId64 ")", marked++ > 0 ? "," : "", items[i].id.log, items[i].id.off);
    gf_buf_addc(&jobs->text, ')');
    GF_ASSERT(gf_buf_ok(&jobs->text));
    if (marked == 0)
        return gf_fail(error_r, GF_RETRY, 0, "Kafka acknowledged none of %d dead letters", count);
    class = gf_sql_exec(jobs->sql, jobs->text.data, jobs->text.len, NULL, error_r);
    if (class == GF_OK)
        class = gf_sql_commit(jobs->sql, error_r);
    if (class == GF_OK)
        gf_metric_add(GF_M_DLQ_FED, marked);
    return class;
}

/* Waits until no acknowledgement can touch the items any more. */
static void await_acks(struct sweep_jobs *jobs)
{
    if (gf_kafka_producer_flush(jobs->producer, ACK_WAIT_MS) > 0)
        (void)gf_kafka_producer_flush(jobs->producer, jobs->config->kafka_message_timeout + 5000);
    GF_ASSERT(gf_kafka_producer_pending(jobs->producer) == 0); /* each record ends by its own time-out */
}

enum gf_class gf_sweep_dlq(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r)
{
    static struct feed_item items[LETTERS];
    enum gf_class class = gf_sql_begin(jobs->sql, error_r);
    int64_t bytes = 0;
    int locked = 0, count = 0;

    if (class == GF_OK)
        class = lock_letters(jobs, items, &locked, error_r);
    while (class == GF_OK && count < locked && bytes < BYTES) {
        class = feed_one(jobs, &items[count], &bytes, error_r);
        count += class == GF_OK ? 1 : 0;
    }
    await_acks(jobs);
    if (count > 0) {
        *more_r = (count == LETTERS || count < locked) && class == GF_OK;
        return mark_fed(jobs, items, count, error_r);
    }
    gf_sql_rollback(jobs->sql);
    return class;
}
