/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The jobs of sweep. Each call does one bounded piece of work on the worker's connection; *more_r says that another piece is
 * waiting already. Any number of copies may run: every job claims what it does by row locks or by compare-and-set.
 * After anything but OK the caller rolls back, and reconnects if the connection is lost. Thread: the worker. */
#include "gf/kafka.h"
#include "gf/sql.h"

struct sweep_jobs {
    const struct gf_config *config;
    struct gf_sql *sql;
    struct gf_kafka_producer *producer; /* its acknowledgements go to gf_sweep_ack */
    struct gf_buf text;
    char commands[GF_CONFIG_TEXT_MAX + 16], dlq[GF_CONFIG_TEXT_MAX + 16]; /* full topic names */
};
/* opaque: a bool set to true once the record is in the log, or NULL. */
void gf_sweep_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset);

/* Host income, one transaction for each log that has something to roll up (F13). */
GF_NODISCARD enum gf_class gf_sweep_rollup(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r);
/* Dead letters to the dlq topic, at least once, id "<log>:<off>" (F12). */
GF_NODISCARD enum gf_class gf_sweep_dlq(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r);
/* Commands of credits that are due again. */
GF_NODISCARD enum gf_class gf_sweep_credits(struct sweep_jobs *jobs, bool *more_r, struct gf_error *error_r);
