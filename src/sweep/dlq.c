/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds the dlq topic from dead_letter (F12): rows of state 0 are locked, produced, and set to state 1 once the record is in
 * the log. A crash in between produces them again: readers drop repeats by ce_id = "<log>:<off>". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/metrics.h"
#include "gf/outcome.h"
#include "sweep.h"

#define LETTERS 200
#define CUT_BYTES 524288
#define ACK_WAIT_MS 5000 /* shorter than the session's idle time-out, which would give the locks away */

struct letter {
    int32_t log;
    int64_t off;
    bool fed;
};

static enum gf_class read_letters(struct sweep_jobs *jobs, struct gf_sql_result **result_r, struct gf_error *error_r)
{
    static const char text[] =
        "SELECT d.log, d.off, d.reason, d.detail, d.rec_key, d.payload, p.topic, p.part FROM dead_letter d "
        "JOIN progress p ON p.log = d.log WHERE d.state = 0 ORDER BY d.log, d.off LIMIT 200";
    static const char lock[] = "SELECT off FROM dead_letter WHERE state = 0 ORDER BY log, off LIMIT 200 FOR UPDATE";
    struct gf_sql_result *locked;
    enum gf_class class = gf_sql_query(jobs->sql, lock, sizeof(lock) - 1, &locked, error_r);

    _Static_assert(LETTERS == 200, "the limits above");
    if (class != GF_OK)
        return class;
    gf_sql_result_free(&locked);
    /* Apart from the lock: a join would lock progress rows, which belong to settlement. */
    return gf_sql_query(jobs->sql, text, sizeof(text) - 1, result_r, error_r);
}

static enum gf_class produce_letter(struct sweep_jobs *jobs, const struct gf_sql_result *result, struct letter *letter,
                                    struct gf_error *error_r)
{
    char id[48], partition[16], offset[24];
    const char *reason = gf_dead_text((enum gf_dead)gf_sql_i64(result, 2));
    size_t detail_len, topic_len;
    const char *detail = gf_sql_bytes(result, 3, &detail_len);
    const char *topic = gf_sql_bytes(result, 6, &topic_len);
    struct gf_kafka_header headers[] = {
        {"ce_id", id, 0}, {"ce_type", "giftflow.dead_letter", 20}, {"reason", reason, strlen(reason)},
        {"detail", detail, detail_len}, {"topic", topic, topic_len}, {"partition", partition, 0}, {"offset", offset, 0},
    };
    struct gf_kafka_record record = {.topic = jobs->dlq, .headers = headers, .header_count = GF_COUNT(headers)};
    enum gf_class class;

    letter->log = (int32_t)gf_sql_i64(result, 0);
    letter->off = gf_sql_i64(result, 1);
    headers[0].len = (size_t)snprintf(id, sizeof(id), "%" PRId32 ":%" PRId64, letter->log, letter->off);
    headers[5].len = (size_t)snprintf(partition, sizeof(partition), "%" PRId64, gf_sql_i64(result, 7));
    headers[6].len = (size_t)snprintf(offset, sizeof(offset), "%" PRId64, letter->off);
    if (!gf_sql_is_null(result, 4))
        record.key = gf_sql_bytes(result, 4, &record.key_len);
    if (!gf_sql_is_null(result, 5))
        record.value = gf_sql_bytes(result, 5, &record.value_len);
    class = gf_kafka_produce(jobs->producer, &record, &letter->fed, error_r);
    if (class != GF_REJECT)
        return class;
    /* With its headers the record has grown past the limit; the whole of it stays in the table. */
    record.value_len = record.value_len < CUT_BYTES ? record.value_len : CUT_BYTES;
    return gf_kafka_produce(jobs->producer, &record, &letter->fed, error_r);
}

static enum gf_class mark_fed(struct sweep_jobs *jobs, const struct letter *letters, int count, struct gf_error *error_r)
{
    int marked = 0;
    enum gf_class class;

    gf_buf_reset(&jobs->text);
    gf_buf_adds(&jobs->text, "UPDATE dead_letter SET state = 1 WHERE state = 0 AND (log, off) IN (");
    for (int i = 0; i < count; i++)
        if (letters[i].fed)
            gf_buf_addf(&jobs->text, "%s(%" PRId32 ",%" PRId64 ")", marked++ > 0 ? "," : "", letters[i].log, letters[i].off);
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

/* Waits until no acknowledgement can touch `letters` any more. */
static void await_acks(struct sweep_jobs *jobs)
{
    if (gf_kafka_producer_flush(jobs->producer, ACK_WAIT_MS) > 0)
        (void)gf_kafka_producer_flush(jobs->producer, jobs->config->kafka_message_timeout + 5000);
    GF_ASSERT(gf_kafka_producer_pending(jobs->producer) == 0); /* each record ends by its own time-out */
}

enum gf_class gf_sweep_dlq(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r)
{
    static struct letter letters[LETTERS];
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_begin(jobs->sql, error_r);
    int count = 0;

    memset(letters, 0, sizeof(letters));
    if (class == GF_OK)
        class = read_letters(jobs, &result, error_r);
    while (class == GF_OK && gf_sql_next(result)) {
        class = produce_letter(jobs, result, &letters[count], error_r);
        count += class == GF_OK ? 1 : 0;
    }
    gf_sql_result_free(&result);
    await_acks(jobs);
    if (count > 0) {
        *more_r = count == LETTERS && class == GF_OK;
        return mark_fed(jobs, letters, count, error_r);
    }
    gf_sql_rollback(jobs->sql);
    return class;
}
