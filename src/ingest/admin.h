/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside of the admin API: one struct for a request that is answered after a database job. */
#include "ingest.h"

struct gf_admin_job {
    struct gf_job job; /* first */
    struct gf_produced produced;
    struct gf_ingest *ingest;
    struct gf_http_req *req;
    const char *done_so_far; /* what a 503 of the database has to say; NULL: this is the first step, and has no key */
    /* Left by `run`, which returns OK when it refuses by rule. */
    bool refused;
    enum gf_problem problem;
    const char *detail;
    int status;
    struct gf_buf body;
    /* Instead of the plain answer; may be NULL. Thread: the loop. Takes the job. */
    void (*on_ok)(struct gf_admin_job *job);
    /* Inputs and outputs of the handlers. */
    int64_t now_ms, id, log, off, ver, balance, coins;
    int wallet_status;
    bool created, replayed;
    struct gf_uuid key, credit_id;
    char reason[256];
    void *extra; /* freed with the job */
    struct gf_buf record;
};

typedef enum gf_class (*gf_admin_run_fn)(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r);

struct gf_admin_job *gf_admin_create(const struct gf_call *call);
void gf_admin_submit(struct gf_admin_job *job, gf_admin_run_fn run);
/* Answer and free. */
void gf_admin_refuse(struct gf_admin_job *job, enum gf_problem problem, const char *detail);
void gf_admin_unavailable(struct gf_admin_job *job, const char *detail);
void gf_admin_answer(struct gf_admin_job *job, const char *headers);
/* Free without an answer: somebody else gives it. */
void gf_admin_forget(struct gf_admin_job *job);
/* For `run`: the outcome is a problem. */
enum gf_class gf_admin_problem(struct gf_admin_job *job, enum gf_problem problem, const char *detail);
/* A decimal id from the path; false: it was refused. */
GF_NODISCARD bool gf_admin_id(struct gf_admin_job *job, struct gf_slice text, int64_t max, int64_t *id_r);

/* admin_gifts.c */
void gf_admin_gift_post(const struct gf_call *call);
void gf_admin_gift_put(const struct gf_call *call);
void gf_admin_gift_get(const struct gf_call *call);
void gf_admin_gift_list(const struct gf_call *call);
/* admin_wallets.c */
void gf_admin_wallet_post(const struct gf_call *call);
void gf_admin_wallet_get(const struct gf_call *call);
void gf_admin_wallet_freeze(const struct gf_call *call);
void gf_admin_wallet_unfreeze(const struct gf_call *call);
void gf_admin_adjustment_post(const struct gf_call *call);
void gf_admin_request_get(const struct gf_call *call);
/* admin_dead.c */
void gf_admin_dead_list(const struct gf_call *call);
void gf_admin_dead_drop(const struct gf_call *call);
void gf_admin_dead_replay(const struct gf_call *call);
