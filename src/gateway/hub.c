/* SPDX-License-Identifier: Apache-2.0 */
/* Rooms, members, fan-out. See hub.h. */
#include "hub.h"

#include <stdlib.h>

#include "gf/num.h"

#define MESSAGE_BYTES (256 * 1024) /* a message is closed when it is longer than this */

static struct hub_room *find_room(const struct hub *hub, int64_t room_id)
{
    struct gf_map_node *node = gf_map_find(&hub->rooms, (uint64_t)room_id);

    return node != NULL ? GF_CONTAINER(node, struct hub_room, node) : NULL;
}

static struct hub_room *open_room(struct hub *hub, int64_t room_id)
{
    struct hub_room *room = gf_xcalloc(1, sizeof(*room));

    gf_buf_init(&room->pending, MESSAGE_BYTES + 2 * HUB_FRAME_BYTES);
    gf_map_add(&hub->rooms, &room->node, (uint64_t)room_id);
    hub->on_change(hub->ctx, room_id, true);
    return room;
}

static void close_room(struct hub *hub, struct hub_room *room)
{
    struct hub_room **at = &hub->dirty;

    while (*at != NULL && *at != room)
        at = &(*at)->next_dirty;
    if (*at != NULL)
        *at = room->next_dirty;
    gf_map_remove(&hub->rooms, &room->node);
    hub->on_change(hub->ctx, (int64_t)room->node.key, false);
    gf_buf_free(&room->pending);
    free(room->members);
    free(room);
}

struct hub_client *hub_join(struct hub *hub, struct gf_ws *ws, int64_t user_id, int64_t room_id)
{
    struct hub_client *client = gf_xcalloc(1, sizeof(*client));
    struct hub_room *room = find_room(hub, room_id);

    GF_ASSERT(gf_id_valid(user_id) && gf_id_valid(room_id));
    if (room == NULL)
        room = open_room(hub, room_id);
    if (room->count == room->cap) {
        room->cap = room->cap ? room->cap * 2 : 4;
        room->members = gf_xrealloc(room->members, room->cap * sizeof(room->members[0]));
    }
    client->index = room->count;
    room->members[room->count++] = client;
    client->room = room;
    client->ws = ws;
    gf_map_add(&hub->users, &client->node, (uint64_t)user_id);
    client->next = hub->clients;
    if (client->next != NULL)
        client->next->prev = client;
    hub->clients = client;
    hub->client_count++;
    return client;
}

void hub_leave(struct hub *hub, struct hub_client *client)
{
    struct hub_room *room = client->room;

    GF_ASSERT(room->members[client->index] == client && hub->client_count > 0);
    room->members[client->index] = room->members[room->count - 1];
    room->members[client->index]->index = client->index;
    room->count--;
    if (room->count == 0)
        close_room(hub, room);
    gf_map_remove(&hub->users, &client->node);
    if (client->prev != NULL)
        client->prev->next = client->next;
    else
        hub->clients = client->next;
    if (client->next != NULL)
        client->next->prev = client->prev;
    hub->client_count--;
    free(client);
}

/* Encodes what the room has gathered once and hands it to every member. Members that have to be closed leave in a later
 * turn, so the list does not change meanwhile. */
static void send_pending(struct hub_room *room)
{
    struct gf_ws_frame *frame;

    if (room->pending_count == 0)
        return;
    if (room->pending_count > 1) /* a single frame leaves without the bracket that stands before it */
        gf_buf_addc(&room->pending, ']');
    GF_ASSERT(gf_buf_ok(&room->pending));
    frame = room->pending_count > 1 ? gf_ws_frame_text(room->pending.data, room->pending.len, room->pending_count)
                                    : gf_ws_frame_text(room->pending.data + 1, room->pending.len - 1, 1);
    for (size_t i = 0; i < room->count; i++)
        (void)gf_ws_send(room->members[i]->ws, frame, true); /* a slow member's loss is counted there */
    gf_ws_frame_release(&frame);
    gf_buf_reset(&room->pending);
    room->pending_count = 0;
}

void hub_push_room(struct hub *hub, int64_t room_id, int64_t seq, const char *text, size_t len)
{
    struct hub_room *room = find_room(hub, room_id);

    GF_ASSERT(len > 0 && len <= HUB_FRAME_BYTES);
    if (room == NULL)
        return; /* the last member has left while the frame was on its way */
    if (seq > room->last_seq)
        room->last_seq = seq;
    if (!room->dirty) {
        room->dirty = true;
        room->next_dirty = hub->dirty;
        hub->dirty = room;
    }
    gf_buf_addc(&room->pending, room->pending_count == 0 ? '[' : ',');
    gf_buf_add(&room->pending, text, len);
    room->pending_count++;
    if (room->pending_count == HUB_FRAMES_MAX || room->pending.len > MESSAGE_BYTES)
        send_pending(room);
}

void hub_push_user(struct hub *hub, int64_t user_id, int64_t room_id, const char *text, size_t len)
{
    struct gf_map_node *node = gf_map_find(&hub->users, (uint64_t)user_id);
    struct gf_ws_frame *frame = NULL;

    for (; node != NULL; node = gf_map_next(node)) {
        struct hub_client *client = GF_CONTAINER(node, struct hub_client, node);

        if (room_id != 0 && client->room->node.key != (uint64_t)room_id)
            continue;
        if (frame == NULL)
            frame = gf_ws_frame_text(text, len, 1);
        (void)gf_ws_send(client->ws, frame, false);
    }
    gf_ws_frame_release(&frame);
}

void hub_flush(struct hub *hub)
{
    struct hub_room *room = hub->dirty, *next;

    hub->dirty = NULL;
    for (; room != NULL; room = next) {
        next = room->next_dirty;
        room->dirty = false;
        send_pending(room);
        gf_buf_free(&room->pending); /* a quiet room holds no buffer */
        gf_buf_init(&room->pending, MESSAGE_BYTES + 2 * HUB_FRAME_BYTES);
    }
}

void hub_free(struct hub *hub)
{
    GF_ASSERT(hub->client_count == 0 && hub->rooms.count == 0);
    gf_map_free(&hub->rooms);
    gf_map_free(&hub->users);
}
