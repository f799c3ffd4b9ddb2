/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The load harness: live-room clients and senders on one loop, every request followed from its planned time to its outcome
 * on the screens. load.c: options and phases; load_send.c: HTTP; load_live.c: WebSocket; load_frame.c: reading frames;
 * load_track.c: requests and violations; load_report.c: what is printed. Thread: the loop's. */
#include "gf/buf.h"
#include "gf/config.h"
#include "gf/crypto.h"
#include "gf/hist.h"
#include "gf/http_client.h"
#include "gf/loop.h"
#include "gf/uuid.h"
#include "gf/ws.h"

#define LOAD_ADDRESSES 16
#define LOAD_GIFTS 64
#define LOAD_NAMES 32
#define LOAD_EXAMPLES 10
#define LOAD_SEEN 512 /* a client drops ids seen among its last 512 frames: design.md 3.3 */
#define LOAD_MESSAGE_FRAMES 64 /* in one message: a contract */
#define LOAD_NONE UINT32_MAX

struct load_address {
    char host[100];
    int port;
};
struct load_opts {
    struct load_address ingest[LOAD_ADDRESSES], gateway[LOAD_ADDRESSES];
    int ingest_count, gateway_count;
    int64_t user_from, user_to;
    int64_t poor_from, poor_to; /* 0: no poor users */
    int64_t rooms, room_base, viewers, senders;
    int64_t gifts[LOAD_GIFTS];
    int gift_count; /* 0: all that ingest has on sale */
    int64_t rate;   /* 0: closed loop */
    int64_t count;  /* closed loop: ends after this many; 0: after `seconds` */
    int64_t seconds, drain_s, warmup_ms;
    int64_t bad_percent;
    int64_t seed;
    bool json;
};
/* Fills opts from the configuration, then from the arguments. REJECT names the argument. */
GF_NODISCARD enum gf_class load_opts_parse(const struct gf_config *config, int argc, char **argv, struct load_opts *opts_r,
                                           struct gf_error *error_r);

/* X(name, text): what must never be seen. */
#define LOAD_VIOLATION_MAP(X)                                                                  \
    X(NO_OUTCOME, "no_outcome", "accepted, but no final outcome by the drain deadline")         \
    X(NO_FRAME, "no_frame", "settled or rejected, but its frame never came on a live connection") \
    X(TWO_OUTCOMES, "two_outcomes", "two different outcomes of one request")                   \
    X(REFUSED_HAD_EFFECT, "refused_had_effect", "refused with 4xx, but an outcome came")        \
    X(WRONG_ANSWER, "wrong_answer", "an HTTP answer that this request must not get")            \
    X(NEVER_LIVE, "never_live", "a live connection that never came about: nothing can be said of what it missed") \
    X(LEAKED, "leaked_frame", "a frame for another room or user")                              \
    X(BAD_FRAME, "bad_frame", "a message that is not of the documented form")
#define LOAD_VIOLATION_ENUM(name, key, text) LOAD_V_##name,
enum load_violation { LOAD_VIOLATION_MAP(LOAD_VIOLATION_ENUM) LOAD_V_COUNT };

enum load_kind { /* what a request is meant to be; all but GOOD and INSUFFICIENT never become a row of trade */
    LOAD_GOOD,
    LOAD_INSUFFICIENT,
    LOAD_SELF_GIFT,
    LOAD_UNKNOWN_GIFT,
    LOAD_ZERO_QUANTITY,
    LOAD_NOT_JSON,
    LOAD_NO_TOKEN,
    LOAD_REPEAT,   /* the target's key and body again */
    LOAD_MISMATCH, /* the target's key, another body */
    LOAD_ASK,      /* GET /v1/requests/<target> after the drain */
    LOAD_CATALOGUE,
};

struct load_request {
    struct gf_uuid id;
    int64_t planned_us, sent_us;
    uint64_t frame;  /* hash of the outcome frame's id */
    uint32_t next;   /* in the sender's queue or the retry list */
    uint32_t sender; /* index */
    uint32_t target; /* the request that REPEAT, MISMATCH and ASK are about */
    int32_t gift_id, quantity;
    int32_t due_ms;  /* of a retry, since the start */
    uint16_t status; /* last answer; 0: none yet, or none that is certain */
    uint16_t code;   /* 5556, 5557; 0: no outcome yet */
    uint8_t kind, attempts;
    bool accepted, by_get;
};
/* Requests by index (stable) and by id (open addressing). */
struct load_table {
    struct load_request *rows;
    uint32_t *slots; /* index + 1 */
    uint32_t count, cap, slot_mask, indexed;
};
void load_table_init(struct load_table *table, uint32_t expected);
void load_table_free(struct load_table *table);
uint32_t load_table_add(struct load_table *table);                        /* zeroed row; pointers to rows move */
void load_table_index(struct load_table *table, uint32_t row);            /* its id becomes findable */
uint32_t load_table_find(const struct load_table *table, const struct gf_uuid *id); /* LOAD_NONE */

enum load_seen { LOAD_FIRST, LOAD_SAME, LOAD_CONFLICT };
enum load_seen load_request_outcome(struct load_request *request, uint16_t code, uint64_t frame);

struct load_name {
    char text[48];
    int64_t count;
};
struct load_report {
    int64_t planned, sent, late, dropped, retries, unanswered;
    int64_t accepted, replayed, settled, rejected, outcome_by_get;
    int64_t answers[600]; /* by HTTP status; [0]: none */
    struct load_name codes[LOAD_NAMES], reasons[LOAD_NAMES];
    int64_t frames, repeats, foreign, room_expected, room_delivered, control, reconnects;
    int64_t violations[LOAD_V_COUNT];
    char examples[LOAD_EXAMPLES][160];
    int example_count;
    /* From the start to the last send, with what was queued or in doubt; from then to the last outcome; processor time of this
     * process. */
    int64_t send_us, drain_us, cpu_us;
    struct gf_hist answer, sender, screen;
};
void load_count_name(struct load_name names[LOAD_NAMES], const char *text, size_t len);
void load_violate(struct load_report *report, enum load_violation violation, const struct gf_uuid *id, const char *detail);
int64_t load_violations(const struct load_report *report);
void load_report_human(const struct load_opts *opts, const struct load_report *report, struct gf_buf *out);
void load_report_json(const struct load_opts *opts, const struct load_report *report, struct gf_buf *out);

/* One IM frame; slices point into the message. */
struct load_frame {
    struct gf_slice id, request_id, reason;
    int64_t code, room_id, user_id; /* code 0: a control frame such as history_lost */
    bool room;                      /* ch */
};
typedef void (*load_frame_fn)(void *ctx, const struct load_frame *frame);
/* Calls on_frame for each frame of a message (an object, or an array of at most 64). False: not of that form; frames that
 * stood before the fault have been delivered. */
GF_NODISCARD bool load_frames_read(const char *text, size_t len, load_frame_fn on_frame, void *ctx);

/* The message that a room's clients saw last: the same bytes come to each of them, and are read once. */
struct load_message_frame {
    struct load_frame frame; /* its slices point into the room's text */
    struct gf_uuid id;
    uint64_t hash; /* of the frame's id */
    uint32_t row;  /* LOAD_NONE: not a request of ours */
    bool named;    /* request_id is a UUID */
};
struct load_room {
    struct load *load;
    int open; /* clients */
    char *text;
    size_t len, cap;
    struct load_message_frame frames[LOAD_MESSAGE_FRAMES];
    int count;
    bool good;
};

struct load_client {
    struct load *load;
    struct gf_ws *ws;
    int64_t user_id, opened_us; /* 0: not open */
    int64_t retry_ms;
    uint32_t tags[LOAD_SEEN]; /* of `seen`: half the bytes to look through */
    uint64_t seen[LOAD_SEEN];
    unsigned seen_count;
    uint32_t sender; /* LOAD_NONE: a viewer */
    int room, gateway;
    bool opened_before;
};
struct load_sender {
    struct load *load;
    struct gf_http_conn *conn;
    struct gf_buf request, authorization;
    int64_t user_id;
    uint32_t index, client;
    uint32_t head, tail, queued; /* waiting requests */
    uint32_t current;            /* in flight; LOAD_NONE */
    uint32_t last_accepted;
    int room, ingest;
    bool ready_listed, move; /* move: the next request goes to another ingest */
};

enum load_phase { LOAD_ASKING_GIFTS, LOAD_OPENING, LOAD_WARMUP, LOAD_SENDING, LOAD_DRAINING, LOAD_LINGER, LOAD_ASKING, LOAD_CLOSING, LOAD_DONE };

struct load {
    const struct gf_config *config;
    struct load_opts opts;
    struct gf_loop *loop;
    struct gf_jwt *jwt;
    struct gf_timer *tick;
    struct load_report report;
    struct load_table table;
    struct load_client *clients;
    struct load_sender *senders;
    uint32_t client_count, sender_count, poor_first; /* senders from poor_first on are poor */
    uint32_t *ready; /* senders that may have something to send */
    uint32_t ready_count;
    struct load_room *rooms;
    uint32_t retry_head;
    uint32_t connecting, open_count, closed_count;
    int64_t busy;     /* gifts queued, in flight or waiting for a retry */
    int64_t asking;   /* questions (GET) without answer */
    int64_t awaiting; /* accepted requests without outcome */
    int64_t start_us, phase_us, next_planned, scan_ms;
    uint64_t random;
    enum load_phase phase;
    bool interrupted, catalogue_failed;
};

uint64_t load_random(struct load *load);
int64_t load_room_id(const struct load *load, int room);
int64_t load_receiver_id(const struct load *load, int room);
int64_t load_token_end_s(const struct load *load); /* when a token made now may expire: after the run */

/* load_live.c */
void load_live_init(struct load *load);
void load_live_tick(struct load *load); /* opens connections, a bounded number at a time */
void load_live_close(struct load *load); /* close handshakes; open_count and connecting fall to 0 */
void load_live_free(struct load *load);

/* load_send.c */
void load_send_init(struct load *load);
void load_send_plan(struct load *load);  /* open loop: everything that is due; closed loop: senders that are free */
bool load_send_enough(const struct load *load); /* --count of them are planned */
void load_send_retries(struct load *load);
void load_send_turn(void *load);         /* turn hook: sends what became possible in this turn */
void load_send_catalogue(struct load *load);
void load_send_ask(struct load *load, uint32_t row);
void load_send_purge(struct load *load); /* what is still queued is never sent */
void load_send_free(struct load *load);

/* Runs the whole thing on `loop` until it is done; the report is in load->report. FATAL: it could not begin. The loop is
 * running when it returns control to callbacks, so that a test's servers may live on the same loop. */
GF_NODISCARD enum gf_class load_run(struct load *load, struct gf_loop *loop, struct gf_error *error_r);
struct load *load_create(const struct gf_config *config, const struct load_opts *opts);
void load_destroy(struct load **load); /* before its loop */
