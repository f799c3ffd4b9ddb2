/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside of the ingest role: one loop thread that owns everything but the database threads (db.c). Handlers never
 * block: they answer at once, or go on in callbacks of Redis, Kafka or a database job. Everything is bounded; what
 * cannot be done now is a 503 with Retry-After. */
#include "gf/balance.h"
#include "gf/crypto.h"
#include "gf/http.h"
#include "gf/kafka.h"
#include "gf/ops.h"
#include "gf/sql.h"

struct gf_ingest;

/* ---- db.c: threads with one MySQL connection each ---- */

/* Embedded in (or the first member of) the caller's own struct, which it owns until on_done has run. */
struct gf_job {
    /* Thread: a database thread. Reads its input from the caller's struct and leaves its result there. */
    enum gf_class (*run)(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r);
    /* Thread: the loop. RETRY: MySQL is away or too slow; it may have run or not. */
    void (*on_done)(struct gf_job *job, enum gf_class class, const struct gf_error *error);
    int64_t deadline_ms; /* monotonic; 0: ingest.request_timeout from now. Not started before it: RETRY */
    /* db.c's own */
    struct gf_job *next;
    enum gf_class class;
    struct gf_error error;
};

struct gf_db;
struct gf_db *gf_db_start(struct gf_loop *loop, const struct gf_config *config);
/* RETRY: the queue is full, MySQL is away, or the threads have been stopped (NULL); on_done does not come. */
GF_NODISCARD enum gf_class gf_db_submit(struct gf_db *db, struct gf_job *job);
bool gf_db_up(const struct gf_db *db);
int gf_db_pending(const struct gf_db *db);
void gf_db_stop(struct gf_db **db); /* waits for running jobs; the rest is done with RETRY */

/* ---- problem.c: answers ---- */

/* X(id, status, code, title). Codes are stable: clients branch on them. */
#define GF_PROBLEM_MAP(X)                                                                                              \
    X(MALFORMED, 400, "malformed", "the request is not understood")                                                    \
    X(UNAUTHORIZED, 401, "unauthorized", "a valid bearer token is needed")                                             \
    X(INSUFFICIENT_BALANCE, 402, "insufficient_balance", "the balance is too low")                                     \
    X(WALLET_FROZEN, 403, "wallet_frozen", "the wallet is frozen")                                                     \
    X(NOT_FOUND, 404, "not_found", "there is nothing here")                                                            \
    X(GIFT_NOT_FOUND, 404, "gift_not_found", "the gift does not exist or is not on sale")                              \
    X(WALLET_NOT_FOUND, 404, "wallet_not_found", "the user has no wallet")                                             \
    X(UNKNOWN_REQUEST, 404, "unknown_request", "nothing is known of this request (yet)")                               \
    X(METHOD_NOT_ALLOWED, 405, "method_not_allowed", "the method is not allowed here")                                 \
    X(IN_PROGRESS, 409, "in_progress", "the first call with this key is not answered yet")                             \
    X(CONFLICT, 409, "conflict", "the resource is not in the state for this")                                          \
    X(SELF_GIFT, 422, "self_gift", "sender and receiver are the same user")                                            \
    X(MISMATCH, 422, "idempotency_mismatch", "this key was used with another body")                                    \
    X(QUANTITY, 422, "quantity_out_of_range", "the quantity is not allowed for this gift")                             \
    X(AMOUNT, 422, "amount_out_of_range", "price x quantity is too large")                                             \
    X(RATE_LIMITED, 429, "rate_limited", "too many requests of this user")                                             \
    X(TOO_MANY_IN_FLIGHT, 429, "too_many_in_flight", "too many unsettled gifts of this user")                          \
    X(INTERNAL, 500, "internal_error", "something went wrong here")                                                    \
    X(UNAVAILABLE, 503, "unavailable", "the service cannot do this right now")

#define GF_PROBLEM_ENUM(id, status, code, title) GF_PROBLEM_##id,
enum gf_problem { GF_PROBLEM_MAP(GF_PROBLEM_ENUM) GF_PROBLEM_COUNT };

struct gf_problem_opts {
    const char *detail;               /* NULL: the title says it all */
    const struct gf_uuid *request_id; /* NULL: the one given to gf_http_set_request_id, else a fresh one */
    int64_t retry_after_s;            /* 0: none (503 and 429 always get at least 1) */
};
/* application/problem+json with type, title, status, detail, code, request_id. opts may be NULL. Takes the request. */
void gf_problem_respond(struct gf_http_req *req, enum gf_problem problem, const struct gf_problem_opts *opts);
/* Answers `body` as application/json. headers: more header lines or NULL. Takes the request, not the buffer. */
void gf_json_respond(struct gf_http_req *req, int status, const char *headers, const struct gf_buf *body);
/* The one way to say 503: MySQL, Redis or Kafka is away. */
void gf_unavailable_respond(struct gf_http_req *req, const char *detail, const struct gf_uuid *request_id);

/* ---- route.c: which handler, for whom ---- */

struct gf_call {
    struct gf_ingest *ingest;
    struct gf_http_req *req;
    int64_t user_id;          /* from the token; 0 on the admin port */
    struct gf_slice param[2]; /* the {} of the pattern, not percent-decoded */
};
typedef void (*gf_route_fn)(const struct gf_call *call); /* `call` itself lives for the handler's turn only */
struct gf_route {
    enum gf_http_method method;
    const char *pattern; /* "/v1/requests/{}" */
    gf_route_fn run;
    bool late_auth; /* the handler looks at the body first and calls gf_request_auth itself */
};
/* Handlers of the public API get a verified token; of the admin API, the admin key has been compared. */
void gf_route_api(struct gf_http_req *req, void *ingest);
void gf_route_admin(struct gf_http_req *req, void *ingest);

/* Bearer token of the request; false: 401 was answered. */
GF_NODISCARD bool gf_request_auth(struct gf_ingest *ingest, struct gf_http_req *req, int64_t *user_id_r);
/* Idempotency-Key: canonical UUID, any case, optional quotes, not version 8. False: 400 was answered. *keyless_r: there
 * was no header and id_r is a fresh v7. Problems of this request carry the id from now on. */
GF_NODISCARD bool gf_request_key(struct gf_http_req *req, struct gf_uuid *id_r, bool *keyless_r);

/* ---- handlers ---- */

void gf_gift_post(const struct gf_call *call);   /* gift.c */
void gf_query_gifts(const struct gf_call *call); /* queries.c */
void gf_query_wallet(const struct gf_call *call);
void gf_query_trades(const struct gf_call *call);
void gf_query_request(const struct gf_call *call);
extern const struct gf_route gf_admin_routes[]; /* admin.c; ends with a NULL pattern */

/* ---- catalogue_cache.c: gifts and their prices ---- */

struct gf_offer {
    int32_t gift_id, max_quantity;
    int64_t price;
};
enum gf_offered {
    GF_OFFERED_YES,
    GF_OFFERED_NO,   /* unknown, off sale or without a price now: known for certain */
    GF_OFFERED_MISS, /* not in the cache: gf_catalogue_cache_load */
};
struct gf_catalogue_cache;
struct gf_catalogue_cache *gf_catalogue_cache_create(struct gf_ingest *ingest);
enum gf_offered gf_catalogue_cache_find(struct gf_catalogue_cache *cache, int32_t gift_id, int64_t now_ms,
                                        struct gf_offer *offer_r);
/* After a MISS. on_loaded comes later, on the loop: OK = find again, RETRY = MySQL is away. */
typedef void (*gf_catalogue_loaded_fn)(void *ctx, enum gf_class class);
void gf_catalogue_cache_load(struct gf_catalogue_cache *cache, int32_t gift_id, gf_catalogue_loaded_fn on_loaded,
                             void *ctx);
void gf_catalogue_cache_close(struct gf_catalogue_cache **cache); /* after gf_db_stop */
/* Looks for changes now instead of at the next poll. */
void gf_catalogue_cache_poll(struct gf_catalogue_cache *cache);
/* Moves with every change seen in the catalogue; what was read before is old. */
uint64_t gf_catalogue_cache_generation(const struct gf_catalogue_cache *cache);
/* The answer of GET /v1/gifts, kept by queries.c. */
#define GF_GIFT_LIST_MAX (8u << 20)
struct query;
struct gf_gift_list {
    struct query *reader; /* of this generation or an older one; NULL: nobody reads */
    struct gf_buf body;
    bool valid;
    uint64_t generation;
    int64_t expires_ms; /* real time: a price begins or ends, or catalogue.refresh */
};
struct gf_gift_list *gf_catalogue_cache_list(struct gf_catalogue_cache *cache);

/* ---- balance.c: cold wallets from MySQL into Redis ---- */

struct gf_balance_loader;
struct gf_balance_loader *gf_balance_loader_create(struct gf_ingest *ingest);
/* OK: Redis knows the wallet now; REJECT: MySQL has told, and Redis did not take it; RETRY: one of them could not be asked. */
typedef void (*gf_balance_loaded_fn)(void *ctx, enum gf_class class);
/* Loads of one user share one read. on_loaded comes later, on the loop. */
void gf_balance_loader_load(struct gf_balance_loader *loader, int64_t user_id, gf_balance_loaded_fn on_loaded,
                            void *ctx);
void gf_balance_loader_close(struct gf_balance_loader **loader);

/* ---- pins.c: is Kafka's partition count still the one pinned in MySQL? (F4) ---- */

struct gf_pins;
struct gf_pins *gf_pins_start(const struct gf_config *config, const char *topic);
/* True once both were seen and agreed; stays so while either is away, until a disagreement is seen. False once stopped (NULL). */
bool gf_pins_ok(const struct gf_pins *pins);
void gf_pins_stop(struct gf_pins **pins);

/* ---- limiter.c: what one process can still limit while Redis is away ---- */

enum gf_limited { GF_LIMITED_NO, GF_LIMITED_RATE, GF_LIMITED_DOUBLE_CLICK };
struct gf_limiter;
struct gf_limiter *gf_limiter_create(int64_t rate_per_second, int64_t double_click_ms);
/* fp: of a keyless request, else NULL. */
enum gf_limited gf_limiter_check(struct gf_limiter *limiter, int64_t user_id, const char *fp, int64_t now_ms);
void gf_limiter_destroy(struct gf_limiter **limiter);

/* ---- lag.c: how old is the oldest record of this process that is not settled? ---- */

struct gf_lag;
struct gf_lag *gf_lag_start(struct gf_ingest *ingest);
void gf_lag_acked(struct gf_lag *lag, int32_t number, int64_t offset); /* a record is in that partition */
int64_t gf_lag_ms(const struct gf_lag *lag);
void gf_lag_stop(struct gf_lag **lag);

/* Of one partition: offsets that were acknowledged and are not settled, with their times. Bounded: one sample per sample_ms,
 * and a full ring keeps its oldest, for they are what counts. */
#define GF_LAG_SAMPLES 64
struct gf_lag_sample {
    int64_t offset, acked_ms;
};
struct gf_lag_ring {
    struct gf_lag_sample samples[GF_LAG_SAMPLES]; /* oldest first, from `first` on */
    int first, count;
    int64_t sampled_ms, log;
    int64_t end, end_ms; /* behind the newest acknowledged offset; when that came */
};
/* Chosen so that the ring spans twice lag_max: it is full only when ingest refuses gifts anyway. */
int64_t gf_lag_sample_ms(int64_t lag_max_ms);
void gf_lag_ring_acked(struct gf_lag_ring *ring, int64_t sample_ms, int64_t offset, int64_t now_ms);
/* Samples of another log (`giftflow init --new-log`) will never be settled and are dropped; log 0: none is known. */
void gf_lag_ring_settled(struct gf_lag_ring *ring, int64_t log, int64_t next_offset);
int64_t gf_lag_ring_oldest_ms(const struct gf_lag_ring *ring); /* INT64_MAX: none */

/* ---- ingest.c
 * ----------------------------------------------------------------------------------------------------------------------
 */

#define GF_TOPIC_MAX 200

struct gf_ingest {
    const struct gf_config *config;
    struct gf_loop *loop;
    struct gf_balance *balance;
    struct gf_kafka_producer *producer; /* opaque of each record: see gf_produced */
    struct gf_db *db;
    struct gf_jwt *jwt;
    struct gf_ops *ops;
    struct gf_http_server *api, *admin; /* admin: NULL without an admin key */
    struct gf_catalogue_cache *catalogue;
    struct gf_balance_loader *balances;
    struct gf_pins *pins;
    struct gf_limiter *limiter;
    struct gf_lag *lag;
    uint8_t random[4096]; /* drawn ahead, see gf_ingest_random */
    size_t random_left;
    struct gf_buf scratch; /* for encoding a record; empty between calls */
    char commands_topic[GF_TOPIC_MAX], catalogue_topic[GF_TOPIC_MAX];
    char admin_key[256];
    size_t admin_key_len;
    int gifts_in_flight;
    bool draining; /* no new work; what is in flight is answered */
    bool closing;  /* the drain's time is over: callbacks answer 503 and start nothing */
};

/* Random bytes for names that must be unique, not secret: drawn from the kernel 4 KiB at a time. */
void gf_ingest_random(struct gf_ingest *ingest, void *bytes, size_t len);

/* The opaque pointer of a produced command, embedded in the caller's struct. (Catalogue notices have none.) */
struct gf_produced {
    void (*on_ack)(struct gf_produced *produced, enum gf_kafka_ack ack);
};
/* Produces one command under its user's key with the headers ce_id, ce_type and traceparent (the request's, if it is a
 * valid one, else a new one). RETRY: queue full or the log is not usable; nothing was taken. */
struct gf_command;
GF_NODISCARD enum gf_class gf_ingest_produce(struct gf_ingest *ingest, const struct gf_command *command,
                                             struct gf_slice traceparent, struct gf_produced *produced);
