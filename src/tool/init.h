/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of `giftflow init` share. init.c: arguments, database, migrations. init_topics.c: topics, their settings and
 * the rows that pin them. init_logs.c: --new-log. Private to src/tool. Threads: one. */
#include "gf/kafka.h"
#include "gf/sql.h"

#define GF_INIT_NO_PARTITION (-1)
#define GF_INIT_ALL_PARTITIONS (-2)

struct init {
    const struct gf_config *config;
    struct gf_sql *sql;
    struct gf_kafka_admin *admin;
    int64_t deadline_ms;
    int new_log; /* a partition, or one of the above */
    bool accept_loss, yes;
    struct gf_error error;
};

/* The first column of the first row; 0 without a row. */
GF_NODISCARD enum gf_class gf_init_query_i64(struct init *init, int64_t *value_r, const char *text);
/* All topics are there, as they must be, and pinned. */
GF_NODISCARD enum gf_class gf_init_topics(struct init *init);
/* Closes the live logs of the chosen partitions and opens new ones, all or none (F5). */
GF_NODISCARD enum gf_class gf_init_new_logs(struct init *init);
