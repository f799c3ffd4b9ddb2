/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* `giftflow dlq`: what its files share. Private to src/tool. Threads: one; producer callbacks run inside the calls. */
#include "gf/kafka.h"
#include "gf/letter.h"

#define DLQ_IDS_MAX 1000

struct dlq_options {
    struct gf_letter_filter filter;
    bool filtered; /* some filter was given */
    bool json, dry_run, force, all;
    struct gf_letter_id *ids; /* letters that are named one by one */
    size_t id_count;
    int64_t wait_s;
};

struct dlq {
    const struct gf_config *config;
    struct dlq_options options;
    struct gf_sql *sql;
    struct gf_buf out;
    struct gf_error error;
};

/* The arguments behind the verb. REJECT: error_r says which one is wrong and what it may be. */
GF_NODISCARD enum gf_class gf_dlq_parse(int argc, char **argv, struct dlq_options *options_r, struct gf_error *error_r);
void gf_dlq_format_time(int64_t ms, char text_r[32]); /* 2026-01-31T23:59:59Z */

/* Printing. */
void gf_dlq_print_head(const struct dlq *dlq);
void gf_dlq_print_row(const struct gf_letter *letter);
void gf_dlq_print_letter(const struct gf_letter *letter, const struct gf_verdict *verdict);

/* The verbs that change something, and the process's exit status. */
int gf_dlq_replay(struct dlq *dlq);
int gf_dlq_drop(struct dlq *dlq);
