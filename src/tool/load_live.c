/* SPDX-License-Identifier: Apache-2.0 */
/* The live-room clients of the load harness: each sender and each viewer holds one WebSocket connection to its room. What
 * they see decides whether a request had its one outcome, and when it was on a screen. A lost connection is opened again
 * at the next gateway; a frame that was missed meanwhile is not a violation, its outcome is asked for by GET instead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/hash.h"
#include "gf/notice.h"
#include "load.h"

#define CONNECTING_MAX 64
#define RETRY_MS 250
#define SCAN_MS 50
#define MESSAGE_MAX ((size_t)1 << 20) /* 64 frames of 4 KiB, with room */

static uint64_t hash_slice(struct gf_slice slice)
{
    uint64_t hash = slice.len, word;

    while (slice.len >= sizeof(word)) {
        memcpy(&word, slice.ptr, sizeof(word));
        hash = gf_hash_u64(hash ^ word);
        slice.ptr += sizeof(word);
        slice.len -= sizeof(word);
    }
    word = 0;
    memcpy(&word, slice.ptr, slice.len);
    return gf_hash_u64(hash ^ word) | 1; /* never 0: an empty place in `seen` */
}

/* No early exit: the loop compiles to vector compares. A tag that is there by chance is told by the whole hash. */
static bool seen_before(struct load_client *client, uint64_t frame)
{
    uint32_t tag = (uint32_t)(frame >> 32), hit = 0;
    unsigned at = client->seen_count % LOAD_SEEN;

    for (int i = 0; i < LOAD_SEEN; i++)
        hit |= client->tags[i] == tag;
    for (int i = 0; hit != 0 && i < LOAD_SEEN; i++)
        if (client->seen[i] == frame)
            return true;
    client->seen_count++;
    client->tags[at] = tag;
    client->seen[at] = frame;
    return false;
}

static void count_first(struct load *load, struct load_request *request, const struct load_frame *frame, int room)
{
    struct load_report *report = &load->report;

    if (frame->code == GF_NOTICE_GIFT) {
        report->settled++;
        report->room_expected += load->rooms[room].open;
    } else {
        report->rejected++;
        load_count_name(report->reasons, frame->reason.ptr, frame->reason.len);
    }
    if (request->accepted)
        load->awaiting--;
}

static void judge(struct load_client *client, struct load_request *request, const struct load_frame *frame, uint64_t hash)
{
    struct load *load = client->load;
    const struct load_sender *sender = &load->senders[request->sender];
    char detail[80];

    if (frame->code == GF_NOTICE_GIFT_FAILED && sender->user_id != client->user_id)
        load_violate(&load->report, LOAD_V_LEAKED, &request->id, "another user's failure");
    switch (load_request_outcome(request, (uint16_t)frame->code, hash)) {
    case LOAD_FIRST:
        count_first(load, request, frame, sender->room);
        break;
    case LOAD_CONFLICT:
        snprintf(detail, sizeof(detail), "then %.*s", (int)(frame->id.len < 60 ? frame->id.len : 60), frame->id.ptr);
        load_violate(&load->report, LOAD_V_TWO_OUTCOMES, &request->id, detail);
        break;
    case LOAD_SAME:
        break;
    }
}

static void on_frame(struct load_client *client, const struct load_message_frame *seen)
{
    const struct load_frame *frame = &seen->frame;
    struct load *load = client->load;
    struct load_request *request;
    int64_t us;

    if (frame->code != GF_NOTICE_GIFT && frame->code != GF_NOTICE_GIFT_FAILED) {
        load->report.control++;
        return;
    }
    if (seen_before(client, seen->hash)) {
        load->report.repeats++;
        return;
    }
    load->report.frames++;
    if (!seen->named) {
        load_violate(&load->report, LOAD_V_BAD_FRAME, NULL, "request_id is not a UUID");
        return;
    }
    if (frame->code == GF_NOTICE_GIFT && frame->room_id != load_room_id(load, client->room))
        load_violate(&load->report, LOAD_V_LEAKED, &seen->id, "a gift of another room");
    if (seen->row == LOAD_NONE) {
        load->report.foreign++; /* somebody else's gift in our room */
        return;
    }
    request = &load->table.rows[seen->row];
    judge(client, request, frame, seen->hash);
    us = gf_clock_mono_us() - request->planned_us;
    if (frame->code == GF_NOTICE_GIFT) {
        load->report.room_delivered++;
        gf_hist_add(&load->report.screen, us);
    }
    if (client->sender == request->sender)
        gf_hist_add(&load->report.sender, us);
}

static void collect(void *ctx, const struct load_frame *frame)
{
    struct load_room *room = ctx;
    struct load_message_frame *seen = &room->frames[room->count++];

    GF_ASSERT(room->count <= LOAD_MESSAGE_FRAMES); /* load_frames_read gives no more */
    seen->frame = *frame;
    seen->hash = hash_slice(frame->id);
    seen->named = gf_uuid_parse(frame->request_id.ptr, frame->request_id.len, &seen->id);
    seen->row = seen->named ? load_table_find(&room->load->table, &seen->id) : LOAD_NONE;
}

static void read_message(struct load_room *room, const char *text, size_t len)
{
    if (len > room->cap) {
        room->cap = len;
        room->text = gf_xrealloc(room->text, len);
    }
    memcpy(room->text, text, len);
    room->len = len;
    room->count = 0;
    room->good = load_frames_read(room->text, len, collect, room);
}

static void on_text(void *ctx, struct gf_ws *ws, const char *text, size_t len)
{
    struct load_client *client = ctx;
    struct load_room *room = &client->load->rooms[client->room];

    (void)ws;
    if (len == 0 || len != room->len || memcmp(text, room->text, len) != 0)
        read_message(room, text, len);
    for (int i = 0; i < room->count; i++)
        on_frame(client, &room->frames[i]);
    if (!room->good) {
        char detail[80];

        snprintf(detail, sizeof(detail), "%.*s", (int)(len < 70 ? len : 70), text);
        load_violate(&client->load->report, LOAD_V_BAD_FRAME, NULL, detail);
    }
}

static void on_open(void *ctx, struct gf_ws *ws)
{
    struct load_client *client = ctx;
    struct load *load = client->load;

    GF_ASSERT(client->ws == ws || !client->ws);
    client->ws = ws;
    client->opened_us = gf_clock_mono_us();
    load->connecting--;
    load->open_count++;
    load->rooms[client->room].open++;
    if (client->opened_before)
        load->report.reconnects++;
    client->opened_before = true;
}

static void on_close(void *ctx, struct gf_ws *ws)
{
    struct load_client *client = ctx;
    struct load *load = client->load;

    (void)ws;
    if (client->opened_us != 0) {
        load->open_count--;
        load->rooms[client->room].open--;
    } else {
        load->connecting--;
    }
    client->ws = NULL;
    client->opened_us = 0;
    client->gateway = (client->gateway + 1) % load->opts.gateway_count;
    client->retry_ms = gf_clock_mono_ms() + RETRY_MS;
    load->closed_count++;
}

static void open_client(struct load_client *client)
{
    struct load *load = client->load;
    const struct load_address *address = &load->opts.gateway[client->gateway];
    char token[GF_JWT_MAX], path[64], protocols[GF_JWT_MAX + 32];
    enum gf_class class;
    struct gf_error error;
    struct gf_ws_client_opts opts = {
        .host = address->host,
        .port = address->port,
        .path = path,
        .protocols = protocols,
        .on_open = on_open,
        .handler = {.on_text = on_text, .on_close = on_close, .ctx = client, .message_max = MESSAGE_MAX, .queue_frames = 64,
                    .queue_bytes = 65536, .ping_ms = 60000},
    };

    class = gf_jwt_sign(load->jwt, client->user_id, load_token_end_s(load), token, sizeof(token), &error);
    GF_ASSERT(class == GF_OK); /* load_run has made one */
    snprintf(path, sizeof(path), "/v1/live?room=%lld", (long long)load_room_id(load, client->room));
    snprintf(protocols, sizeof(protocols), "giftflow.v1, bearer.%s", token);
    load->closed_count--;
    load->connecting++;
    client->ws = gf_ws_connect(load->loop, &opts);
}

void load_live_tick(struct load *load)
{
    int64_t now_ms;

    if (load->closed_count == 0 || load->phase >= LOAD_CLOSING)
        return;
    now_ms = gf_clock_mono_ms();
    if (load->phase != LOAD_OPENING && now_ms < load->scan_ms)
        return;
    load->scan_ms = now_ms + SCAN_MS;
    for (uint32_t i = 0; i < load->client_count && load->connecting < CONNECTING_MAX; i++) {
        struct load_client *client = &load->clients[i];

        if (!client->ws && client->opened_us == 0 && client->retry_ms <= now_ms)
            open_client(client);
    }
}

void load_live_close(struct load *load)
{
    for (uint32_t i = 0; i < load->client_count; i++)
        if (load->clients[i].ws)
            gf_ws_close(load->clients[i].ws, 1000, "");
}

void load_live_init(struct load *load)
{
    int64_t users = load->opts.user_to - load->opts.user_from + 1;

    load->client_count = load->sender_count + (uint32_t)load->opts.viewers;
    load->clients = gf_xcalloc(load->client_count, sizeof(*load->clients));
    load->rooms = gf_xcalloc((size_t)load->opts.rooms, sizeof(*load->rooms));
    for (int64_t i = 0; i < load->opts.rooms; i++)
        load->rooms[i].load = load;
    load->closed_count = load->client_count;
    for (uint32_t i = 0; i < load->client_count; i++) {
        struct load_client *client = &load->clients[i];
        bool viewer = i >= load->sender_count;
        uint32_t nth = viewer ? i - load->sender_count : i;

        client->load = load;
        client->sender = viewer ? LOAD_NONE : i;
        /* Viewers come after the senders in the range of users, and begin again when it is short. */
        client->user_id = viewer ? load->opts.user_from + (load->opts.senders + nth) % users : load->senders[i].user_id;
        client->room = viewer ? (int)(nth % load->opts.rooms) : load->senders[i].room;
        client->gateway = (int)(i % (uint32_t)load->opts.gateway_count);
        if (!viewer)
            load->senders[i].client = i;
    }
}

void load_live_free(struct load *load)
{
    for (int64_t i = 0; load->rooms && i < load->opts.rooms; i++)
        free(load->rooms[i].text);
    free(load->clients);
    free(load->rooms);
}
