/* SPDX-License-Identifier: Apache-2.0 */
/* The pinned partition count against Kafka's. See gf/pinned.h. */
#include "gf/pinned.h"

#include <string.h>

#include "gf/kafka.h"
#include "gf/sql.h"

/* Rows of the live logs: their number and the count that each has pinned; -1 when they disagree among themselves. */
static enum gf_class read_pinned(const struct gf_config *config, const char *topic, int64_t *partitions_r,
                                 struct gf_error *error_r)
{
    struct gf_sql *sql = NULL;
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;
    int64_t rows = 0, min = 0, max = 0;

    gf_buf_init(&text, 4096);
    gf_buf_adds(&text, "SELECT COUNT(*), MIN(partitions), MAX(partitions) FROM progress WHERE live=1 AND topic=");
    gf_buf_add_xhex(&text, topic, strlen(topic));
    class = gf_sql_connect(config, GF_SQL_PLAIN, &sql, error_r);
    if (class == GF_OK)
        class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    if (class != GF_OK)
        goto out;
    if (gf_sql_next(result)) {
        rows = gf_sql_i64(result, 0);
        min = gf_sql_i64(result, 1);
        max = gf_sql_i64(result, 2);
    }
    *partitions_r = rows == min && rows == max ? rows : -1;
    if (rows == 0)
        class = gf_fail(error_r, GF_RETRY, 0, "no live log of this topic: run giftflow init");
out:
    gf_sql_result_free(&result);
    gf_sql_close(&sql);
    gf_buf_free(&text);
    return class;
}

enum gf_class gf_pinned_check(const struct gf_config *config, const char *topic, bool *agreed_r, struct gf_error *error_r)
{
    struct gf_kafka_admin *admin = NULL;
    int64_t pinned = 0;
    int partitions = 0;
    enum gf_class class = read_pinned(config, topic, &pinned, error_r);

    if (class == GF_OK)
        class = gf_kafka_admin_create(config, &admin, error_r);
    if (class == GF_OK)
        class = gf_kafka_topic_partitions(admin, topic, &partitions, error_r);
    gf_kafka_admin_close(&admin);
    if (class != GF_OK)
        return class;
    *agreed_r = partitions == pinned;
    if (!*agreed_r)
        (void)gf_fail(error_r, GF_FATAL, 0, "Kafka has %d partitions, pinned are %lld (-1: not one number)", partitions,
                      (long long)pinned);
    return GF_OK;
}
