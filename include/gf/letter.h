/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Dead letters as operators handle them: finding them, showing them, and the one rule of what may be produced again. The
 * admin API, `giftflow dlq` and sweep's feed share it (src/shared). A letter is named by where its record stood: LOG-OFF.
 *
 * Its row is never deleted: it is new until sweep has fed it to the dlq topic, then fed; an operator closes it as replayed or
 * dropped, once. Replay produces first and marks second: a crash in between lets it be replayed again, and the request id
 * makes the second record a duplicate (G2).
 * Threads: those of the connection given. Classes: gf_sql's. */
#include "gf/buf.h"
#include "gf/outcome.h"
#include "gf/sql.h"

enum gf_letter_state { GF_LETTER_NEW, GF_LETTER_FED, GF_LETTER_REPLAYED, GF_LETTER_DROPPED, GF_LETTER_STATES };
#define GF_LETTER_OPEN (1u << GF_LETTER_NEW | 1u << GF_LETTER_FED)
#define GF_LETTER_ANY ((1u << GF_LETTER_STATES) - 1)
const char *gf_letter_state_text(int state); /* new, fed, replayed, dropped, else unknown */

struct gf_letter_id {
    int64_t log, off;
};
GF_NODISCARD bool gf_letter_parse_id(const char *text, size_t len, struct gf_letter_id *id_r); /* LOG-OFF */

struct gf_letter_filter {
    unsigned states;         /* bits of gf_letter_state */
    enum gf_dead reason;     /* GF_DEAD_NONE: any */
    int64_t log, partition;  /* -1: any */
    int64_t from_off, to_off; /* [from_off, to_off) */
    int64_t user_id;         /* 0: any; else the record's key, or the user of its trade row */
    int64_t from_ms, to_ms;  /* recorded in [from_ms, to_ms) */
    struct gf_letter_id after; /* the last one of the page before; {-1, -1}: from the first */
    int64_t payload_max;     /* bytes read of each payload */
    int limit;
};
void gf_letter_filter_init(struct gf_letter_filter *filter_r); /* open ones, 20 of them, all that a command may be of payload */
GF_NODISCARD bool gf_letter_parse_states(const char *text, size_t len, unsigned *states_r); /* a state, open or all */
GF_NODISCARD bool gf_letter_parse_reason(const char *text, size_t len, enum gf_dead *reason_r);

/* One row; texts are borrowed from the result until its next row. */
struct gf_letter {
    struct gf_letter_id id;
    int64_t ts_ms; /* when it was recorded */
    int state;
    enum gf_dead reason;
    const char *detail, *key, *payload, *topic; /* key and payload: NULL when there is none */
    size_t detail_len, key_len, payload_len, topic_len;
    int64_t payload_bytes; /* of the whole payload; payload_len is what was read of it */
    int64_t partition, incarnation;
    bool has_trade; /* it was recorded together with an outcome row (F1) */
    int64_t trade_user;
    struct gf_uuid trade_request;
};
/* In order of log and offset, filter->limit of them. Free the result whenever OK was returned. */
GF_NODISCARD enum gf_class gf_letter_list(struct gf_sql *sql, const struct gf_letter_filter *filter,
                                          struct gf_sql_result **result_r, struct gf_error *error_r);
/* This one in whatever state, its payload whole; no row: there is none. */
GF_NODISCARD enum gf_class gf_letter_get(struct gf_sql *sql, const struct gf_letter_id *id, struct gf_sql_result **result_r,
                                         struct gf_error *error_r);
bool gf_letter_next(struct gf_sql_result *result, struct gf_letter *letter_r);
/* {"log":..,"off":..,"reason":..,"detail":..,"key_hex":..,"payload_hex":..,"state":..,"ts":..} and where it comes from. */
void gf_letter_json(const struct gf_letter *letter, struct gf_buf *out);

/* Whether the record may be produced again. It is judged by what this program would do with it now, so that what was buried
 * for a cause which is mended since can go on, and what would only be buried again is told apart. */
enum gf_replay {
    GF_REPLAY_YES,
    GF_REPLAY_FORCED, /* this version would bury it again (or it once stopped its consumer): only if the operator insists */
    GF_REPLAY_NEVER,
};
struct gf_verdict {
    enum gf_replay replay;
    bool closed;      /* NEVER, because it was replayed or dropped before */
    char why[200];    /* for people; "" for YES */
    char key[256];    /* of the record to produce: its user's id (the right partition), or the original key */
    size_t key_len;
};
GF_NODISCARD enum gf_class gf_letter_judge(struct gf_sql *sql, const struct gf_letter *letter, struct gf_verdict *verdict_r,
                                           struct gf_error *error_r);

/* From open to replayed or dropped, in one statement, so that two operators cannot both do it. *now_r: what the letter is then:
 * another state, if somebody else was first; -1: there is no such letter. */
GF_NODISCARD enum gf_class gf_letter_mark(struct gf_sql *sql, const struct gf_letter_id *id, enum gf_letter_state state, int *now_r,
                                          struct gf_error *error_r);
