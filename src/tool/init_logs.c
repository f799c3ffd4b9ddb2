/* SPDX-License-Identifier: Apache-2.0 */
/* init --new-log (F5): the commands topic was made anew or truncated, or retention took what was not settled. A log is what one
 * incarnation of a partition said, so it is closed as it stands and a new one begins at the first record that Kafka has now:
 * records that were settled before are duplicates by their request ids. The closed log's epoch moves, so an owner that still
 * writes to it is fenced out. All in one transaction. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "init.h"

struct live_log {
    int32_t log;
    int part, partitions;
    int64_t next, notified;
    struct gf_kafka_range kafka; /* what is there */
    bool renew;
};

static enum gf_class read_live(struct init *init, const char *topic, struct live_log **logs_r, size_t *count_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(init->sql, &result, &init->error,
                                        "SELECT log, part, partitions, next_offset, notified_offset FROM progress "
                                        "WHERE topic = '%s' AND live = 1 AND (part = %d OR %d) ORDER BY part FOR UPDATE",
                                        topic, init->new_log, init->new_log == GF_INIT_ALL_PARTITIONS ? 1 : 0);

    if (class != GF_OK)
        return class;
    *logs_r = gf_xcalloc((size_t)gf_sql_result_count(result) + 1, sizeof((*logs_r)[0]));
    while (gf_sql_next(result))
        (*logs_r)[(*count_r)++] = (struct live_log){
            .log = (int32_t)gf_sql_i64(result, 0), .part = (int)gf_sql_i64(result, 1), .partitions = (int)gf_sql_i64(result, 2),
            .next = gf_sql_i64(result, 3), .notified = gf_sql_i64(result, 4)};
    gf_sql_result_free(&result);
    if (*count_r == 0)
        return gf_fail(&init->error, GF_REJECT, 0, "topic %s has no partition %d", topic, init->new_log);
    return GF_OK;
}

/* Whether this partition needs a new log, may have one, or must not. */
static enum gf_class judge(struct init *init, const char *topic, struct live_log *log)
{
    enum gf_class class = gf_kafka_watermarks(init->admin, topic, log->part, &log->kafka, &init->error);

    if (class != GF_OK)
        return class;
    log->renew = log->next > 0 || log->kafka.low > 0;
    if (log->kafka.low > log->next && !init->accept_loss)
        return gf_fail(&init->error, GF_REJECT, 0,
                       "partition %d: records [%" PRId64 ", %" PRId64 ") are gone unsettled: --accept-loss goes on without them",
                       log->part, log->next, log->kafka.low);
    if (log->renew && log->kafka.low <= log->next && log->next <= log->kafka.high && !init->yes)
        return gf_fail(&init->error, GF_REJECT, 0,
                       "partition %d looks healthy: settled up to %" PRId64 ", Kafka has [%" PRId64 ", %" PRId64
                       "). If its records are others now, add --yes", log->part, log->next, log->kafka.low, log->kafka.high);
    return GF_OK;
}

static enum gf_class renew(struct init *init, const char *topic, const struct live_log *log, int32_t number)
{
    int64_t incarnation = 0;
    char query[GF_CONFIG_TEXT_MAX + 128];
    enum gf_class class;

    snprintf(query, sizeof(query), "SELECT MAX(incarnation) FROM progress WHERE topic = '%s' AND part = %d", topic, log->part);
    class = gf_init_query_i64(init, &incarnation, query);
    if (class == GF_OK)
        class = gf_sql_execf(init->sql, &init->error,
                             "UPDATE progress SET live = NULL, epoch = epoch + 1, owner = '' WHERE log = %" PRId32, log->log);
    if (class == GF_OK)
        class = gf_sql_execf(init->sql, &init->error,
                             "INSERT INTO progress (log, topic, part, incarnation, live, partitions, next_offset, notified_offset) "
                             "VALUES (%" PRId32 ", '%s', %d, %" PRId64 ", 1, %d, %" PRId64 ", %" PRId64 ")",
                             number, topic, log->part, incarnation + 1, log->partitions, log->kafka.low, log->kafka.low);
    if (class == GF_OK)
        class = gf_sql_execf(init->sql, &init->error, "INSERT INTO rollup (log, rolled_offset) VALUES (%" PRId32 ", %" PRId64 ")",
                             number, log->kafka.low);
    return class;
}

static void tell(const struct live_log *log, int32_t number)
{
    if (!log->renew) {
        printf("partition %d: nothing was settled of log %" PRId32 ", it stays\n", log->part, log->log);
        return;
    }
    printf("partition %d: log %" PRId32 " closed at %" PRId64 ", log %" PRId32 " begins at %" PRId64 "\n", log->part, log->log,
           log->next, number, log->kafka.low);
    if (log->kafka.low > log->next)
        printf("partition %d: records [%" PRId64 ", %" PRId64 ") are lost, their requests get no outcome\n", log->part, log->next,
               log->kafka.low);
    if (log->kafka.high < log->next) /* how far the lost topic went, nobody knows any more */
        printf("partition %d: requests from %" PRId64 " on that the lost records held, if any, get no outcome\n", log->part, log->next);
    if (log->notified < log->next)
        printf("partition %d: outcomes [%" PRId64 ", %" PRId64 ") of log %" PRId32 " may not have been told on the screens\n",
               log->part, log->notified, log->next, log->log);
}

enum gf_class gf_init_new_logs(struct init *init)
{
    char topic[GF_CONFIG_TEXT_MAX + 16];
    struct live_log *logs = NULL;
    int64_t last = 0;
    size_t count = 0;
    int32_t number;
    enum gf_class class = gf_sql_begin(init->sql, &init->error);

    snprintf(topic, sizeof(topic), "%s.commands", init->config->kafka_prefix);
    if (class == GF_OK)
        class = read_live(init, topic, &logs, &count);
    if (class == GF_OK)
        class = gf_init_query_i64(init, &last, "SELECT COALESCE(MAX(log), 0) FROM progress FOR UPDATE");
    for (size_t i = 0; i < count && class == GF_OK; i++)
        class = judge(init, topic, &logs[i]);
    number = (int32_t)last;
    for (size_t i = 0; i < count && class == GF_OK; i++)
        if (logs[i].renew)
            class = renew(init, topic, &logs[i], ++number);
    if (class == GF_OK)
        class = gf_sql_commit(init->sql, &init->error);
    if (class != GF_OK)
        gf_sql_rollback(init->sql);
    number = (int32_t)last;
    for (size_t i = 0; i < count && class == GF_OK; i++)
        tell(&logs[i], logs[i].renew ? ++number : number);
    free(logs);
    return class;
}
