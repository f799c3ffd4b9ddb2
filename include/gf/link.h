/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Messages between router and gateway, inside gf_framed's length prefix; integers big-endian.
 *
 * The router connects. The gateway says its whole room set as CHANGES, then HELLO (its id: the set is complete), then every
 * join and leave as it happens: the rooms travel on the link itself and not through Redis, so that who has joined gets the very next gift, and
 * a dead Redis or a slow poll stops no screen. Redis only tells routers where the gateways are. The router sends BATCHes,
 * numbered from 1 on each link; the gateway ACKs a number once it has queued the frames to its clients, which covers all
 * numbers before. Joins are idempotent. Anything malformed closes the link.
 *
 * HELLO   'H' u8 version, id[16]                CHANGES 'C' (u8 1 join | 0 leave, u64 room)*
 * ACK     'A' u64 number                        BATCH   'B' u64 number (u8 to, u64 room, u64 user, u64 seq, u64 ts, u32 len, frame)* */
#include "gf/buf.h"

#define GF_LINK_VERSION 1
#define GF_LINK_ID 16                       /* hex digits, chosen at random by each gateway process */
#define GF_LINK_MESSAGE_MAX (4 * 1024 * 1024)
#define GF_LINK_UNSENT_MAX (64 * 1024 * 1024)
#define GF_LINK_BATCH_BYTES (1024 * 1024)   /* a batch message is closed when it is longer than this */
#define GF_LINK_CHANGES_MAX 100000          /* in one message */

enum gf_link_type { GF_LINK_HELLO = 'H', GF_LINK_CHANGES = 'C', GF_LINK_BATCH = 'B', GF_LINK_ACK = 'A' };

enum gf_link_to {
    GF_LINK_TO_ROOM = 0,         /* every client of room_id */
    GF_LINK_TO_USER_IN_ROOM = 1, /* user_id's clients in room_id */
    GF_LINK_TO_USER = 2,         /* user_id's clients in any room */
};

struct gf_link_entry {
    enum gf_link_to to;
    int64_t room_id, user_id;
    int64_t seq;
    int64_t ts_ms;    /* when Kafka took the notice */
    const char *text; /* borrowed */
    size_t len;
};

/* Walks the body of a CHANGES or BATCH message. */
struct gf_link_cursor {
    const char *at, *end;
    bool bad; /* the message is malformed */
};

void gf_link_add_hello(struct gf_buf *out, const char *id);
void gf_link_add_ack(struct gf_buf *out, uint64_t number);
void gf_link_begin_changes(struct gf_buf *out);
void gf_link_add_change(struct gf_buf *out, bool join, int64_t room_id);
void gf_link_begin_batch(struct gf_buf *out, uint64_t number);
void gf_link_add_entry(struct gf_buf *out, const struct gf_link_entry *entry);

/* The type is the first byte; each reader takes the whole message and returns false if it is not well-formed. */
GF_NODISCARD bool gf_link_read_hello(const char *bytes, size_t len, char id_r[GF_LINK_ID + 1]);
GF_NODISCARD bool gf_link_read_ack(const char *bytes, size_t len, uint64_t *number_r);
GF_NODISCARD bool gf_link_read_batch(const char *bytes, size_t len, uint64_t *number_r, struct gf_link_cursor *cursor_r);
GF_NODISCARD bool gf_link_read_changes(const char *bytes, size_t len, struct gf_link_cursor *cursor_r);
/* False at the end; then cursor->bad tells whether the end was real. */
GF_NODISCARD bool gf_link_next_entry(struct gf_link_cursor *cursor, struct gf_link_entry *entry_r);
GF_NODISCARD bool gf_link_next_change(struct gf_link_cursor *cursor, bool *join_r, int64_t *room_id_r);
