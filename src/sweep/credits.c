/* SPDX-License-Identifier: Apache-2.0 */
/* Produces again the commands of open credits whose due_ms has come: their first command was lost between the row and Kafka.
 * A copy claims a credit by moving its due_ms with compare-and-set; settlement sets it to NULL when the credit is final, and
 * drops every repeat as a duplicate. A credit that settlement can only bury (a dead letter each time) stays open, so the
 * pause grows with the credit's age: six or seven repeats in the first hour, then one an hour. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/log.h"
#include "gf/num.h"
#include "sweep.h"

#define CREDITS 500
#define AGAIN_MIN_MS 60000
#define AGAIN_MAX_MS 3600000

struct due {
    struct gf_uuid id;
    enum gf_kind kind;
    int64_t user_id, due_ms, created_ms;
};

static enum gf_class find_due(struct sweep_jobs *jobs, int64_t now_ms, struct due *due_r, int *count_r, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(jobs->sql, &result, error_r,
                                        "SELECT credit_id, kind, user_id, due_ms, created_ms FROM credit WHERE due_ms <= %" PRId64
                                        " AND status = 1 ORDER BY due_ms LIMIT %d", now_ms, CREDITS);

    *count_r = 0;
    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        struct due *due = &due_r[(*count_r)++];

        gf_sql_uuid(result, 0, &due->id);
        due->kind = (enum gf_kind)gf_sql_i64(result, 1);
        due->user_id = gf_sql_i64(result, 2);
        due->due_ms = gf_sql_i64(result, 3);
        due->created_ms = gf_sql_i64(result, 4);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

/* As old again as the credit is now: 1, 2, 4, 8 minutes .. */
static int64_t again_ms(const struct due *due, int64_t now_ms)
{
    int64_t age_ms = now_ms - due->created_ms;

    if (age_ms < AGAIN_MIN_MS)
        return now_ms + AGAIN_MIN_MS;
    return now_ms + (age_ms < AGAIN_MAX_MS ? age_ms : AGAIN_MAX_MS);
}

static enum gf_class claim(struct sweep_jobs *jobs, const struct due *due, int64_t now_ms, bool *mine_r, struct gf_error *error_r)
{
    int64_t affected = 0;
    enum gf_class class;

    gf_buf_reset(&jobs->text);
    gf_buf_addf(&jobs->text, "UPDATE credit SET due_ms = %" PRId64 " WHERE credit_id = ", again_ms(due, now_ms));
    gf_buf_add_xhex(&jobs->text, due->id.b, sizeof(due->id.b));
    gf_buf_addf(&jobs->text, " AND due_ms = %" PRId64 " AND status = 1", due->due_ms);
    GF_ASSERT(gf_buf_ok(&jobs->text));
    class = gf_sql_exec(jobs->sql, jobs->text.data, jobs->text.len, &affected, error_r);
    *mine_r = affected == 1;
    return class;
}

static enum gf_class produce(struct sweep_jobs *jobs, const struct due *due, int64_t now_ms, struct gf_error *error_r)
{
    struct gf_command command = {.kind = due->kind, .request_id = due->id, .user_id = due->user_id, .ts_ms = now_ms};
    struct gf_kafka_record record = {.topic = jobs->commands};
    char key[24];

    /* A row that another hand wrote: no command can name it, and it must not hold up the others. */
    if (gf_uuid_version(&due->id) != 8 || !gf_id_valid(due->user_id) || due->kind <= GF_KIND_GIFT ||
        due->kind > GF_KIND_CHARGEBACK) {
        gf_log(GF_ERROR, "credit_unusable", "user_id=%" PRId64 " kind=%d created_ms=%" PRId64, due->user_id, (int)due->kind,
               due->created_ms);
        return GF_OK;
    }
    gf_buf_reset(&jobs->text);
    gf_command_encode(&command, &jobs->text);
    GF_ASSERT(gf_buf_ok(&jobs->text));
    record.key = key;
    record.key_len = (size_t)snprintf(key, sizeof(key), "%" PRId64, due->user_id);
    record.value = jobs->text.data;
    record.value_len = jobs->text.len;
    return gf_kafka_produce(jobs->producer, &record, NULL, error_r); /* lost again: due again */
}

enum gf_class gf_sweep_credits(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r)
{
    static struct due due[CREDITS];
    int64_t now_ms = gf_clock_real_ms();
    int count = 0, produced = 0;
    enum gf_class class = find_due(jobs, now_ms, due, &count, error_r);

    for (int i = 0; i < count && class == GF_OK; i++) {
        bool mine = false;

        class = claim(jobs, &due[i], now_ms, &mine, error_r);
        if (class == GF_OK && mine)
            class = produce(jobs, &due[i], now_ms, error_r);
        produced += class == GF_OK && mine ? 1 : 0;
    }
    if (produced > 0)
        gf_log(GF_INFO, "credits_repeated", "count=%d", produced);
    *more_r = count == CREDITS;
    return class;
}
