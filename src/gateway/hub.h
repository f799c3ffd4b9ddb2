/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Who is where: the rooms of this gateway, their members, and the fan-out of frames. Owned by the gateway; thread: the
 * loop's. Pushing only gathers; gf_hub_flush (once per loop turn) encodes what a room has gathered once and hands it to all
 * members: everything that arrives for a room during one turn leaves as one message, so the batch grows with the load and
 * no timer adds latency. */
#include "gf/buf.h"
#include "gf/map.h"
#include "gf/ws.h"

#define HUB_FRAMES_MAX 64 /* frames in one message: a contract */
#define HUB_FRAME_BYTES 8192 /* of one frame */

struct hub_room {
    struct gf_map_node node; /* by room id */
    struct hub_client **members;
    size_t count, cap;
    int64_t last_seq; /* newest seq seen while the room is open; 0: none */
    struct gf_buf pending;
    int pending_count;
    bool dirty;
    struct hub_room *next_dirty;
};

struct hub_client {
    struct gf_map_node node; /* by user id */
    struct gf_ws *ws;
    struct hub_room *room;
    size_t index; /* in room->members */
    int64_t expires_s;
    struct hub_client *prev, *next;
};

struct hub {
    struct gf_map rooms, users;
    struct hub_room *dirty;
    struct hub_client *clients; /* all */
    size_t client_count;
    void (*on_change)(void *ctx, int64_t room_id, bool opened); /* first member came, last member left */
    void *ctx;
};

struct hub_client *hub_join(struct hub *hub, struct gf_ws *ws, int64_t user_id, int64_t room_id);
void hub_leave(struct hub *hub, struct hub_client *client); /* frees it */
void hub_push_room(struct hub *hub, int64_t room_id, int64_t seq, const char *text, size_t len);
/* room_id 0: in any room. Leaves at once and is never dropped: a client that cannot take it is closed. */
void hub_push_user(struct hub *hub, int64_t user_id, int64_t room_id, const char *text, size_t len);
void hub_flush(struct hub *hub);
void hub_free(struct hub *hub); /* asserts that everybody has left */
