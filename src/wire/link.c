/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between router and gateway. Pure; bounds are checked on every read. See gf/link.h. */
#include "gf/link.h"

#include "gf/num.h"

static void add_u64(struct gf_buf *out, uint64_t value)
{
    char bytes[8];

    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(value >> (56 - 8 * i));
    gf_buf_add(out, bytes, sizeof(bytes));
}

static void add_u32(struct gf_buf *out, uint32_t value)
{
    char bytes[4];

    for (int i = 0; i < 4; i++)
        bytes[i] = (char)(value >> (24 - 8 * i));
    gf_buf_add(out, bytes, sizeof(bytes));
}

/* Big-endian integer of `size` bytes; sets bad and returns 0 if they are not there. */
static uint64_t take(struct gf_link_cursor *cursor, size_t size)
{
    uint64_t value = 0;

    if (cursor->bad || (size_t)(cursor->end - cursor->at) < size) {
        cursor->bad = true;
        return 0;
    }
    for (size_t i = 0; i < size; i++)
        value = value << 8 | (uint8_t)cursor->at[i];
    cursor->at += size;
    return value;
}

static int64_t take_i64(struct gf_link_cursor *cursor, int64_t max)
{
    uint64_t value = take(cursor, 8);

    if (value > (uint64_t)max)
        cursor->bad = true;
    return cursor->bad ? 0 : (int64_t)value;
}

static bool begin(const char *bytes, size_t len, enum gf_link_type type, struct gf_link_cursor *cursor_r)
{
    *cursor_r = (struct gf_link_cursor){.at = bytes, .end = bytes + len};
    return take(cursor_r, 1) == (uint64_t)type && !cursor_r->bad;
}

void gf_link_add_hello(struct gf_buf *out, const char *id)
{
    GF_ASSERT(strlen(id) == GF_LINK_ID);
    gf_buf_addc(out, GF_LINK_HELLO);
    gf_buf_addc(out, GF_LINK_VERSION);
    gf_buf_add(out, id, GF_LINK_ID);
}

bool gf_link_read_hello(const char *bytes, size_t len, char id_r[GF_LINK_ID + 1])
{
    struct gf_link_cursor cursor;

    if (!begin(bytes, len, GF_LINK_HELLO, &cursor) || take(&cursor, 1) != GF_LINK_VERSION ||
        cursor.end - cursor.at != GF_LINK_ID)
        return false;
    memcpy(id_r, cursor.at, GF_LINK_ID);
    id_r[GF_LINK_ID] = '\0';
    return true;
}

void gf_link_add_ack(struct gf_buf *out, uint64_t number)
{
    gf_buf_addc(out, GF_LINK_ACK);
    add_u64(out, number);
}

bool gf_link_read_ack(const char *bytes, size_t len, uint64_t *number_r)
{
    struct gf_link_cursor cursor;

    if (!begin(bytes, len, GF_LINK_ACK, &cursor))
        return false;
    *number_r = take(&cursor, 8);
    return !cursor.bad && cursor.at == cursor.end;
}

void gf_link_begin_changes(struct gf_buf *out)
{
    gf_buf_addc(out, GF_LINK_CHANGES);
}

void gf_link_add_change(struct gf_buf *out, bool join, int64_t room_id)
{
    gf_buf_addc(out, join ? 1 : 0);
    add_u64(out, (uint64_t)room_id);
}

bool gf_link_read_changes(const char *bytes, size_t len, struct gf_link_cursor *cursor_r)
{
    return begin(bytes, len, GF_LINK_CHANGES, cursor_r);
}

bool gf_link_next_change(struct gf_link_cursor *cursor, bool *join_r, int64_t *room_id_r)
{
    uint64_t join;

    if (cursor->bad || cursor->at == cursor->end)
        return false;
    join = take(cursor, 1);
    *room_id_r = take_i64(cursor, GF_ID_MAX);
    if (join > 1 || !gf_id_valid(*room_id_r))
        cursor->bad = true;
    *join_r = join == 1;
    return !cursor->bad;
}

void gf_link_begin_batch(struct gf_buf *out, uint64_t number)
{
    gf_buf_addc(out, GF_LINK_BATCH);
    add_u64(out, number);
}

void gf_link_add_entry(struct gf_buf *out, const struct gf_link_entry *entry)
{
    gf_buf_addc(out, (char)entry->to);
    add_u64(out, (uint64_t)entry->room_id);
    add_u64(out, (uint64_t)entry->user_id);
    add_u64(out, (uint64_t)entry->seq);
    add_u64(out, (uint64_t)entry->ts_ms);
    add_u32(out, (uint32_t)entry->len);
    gf_buf_add(out, entry->text, entry->len);
}

bool gf_link_read_batch(const char *bytes, size_t len, uint64_t *number_r, struct gf_link_cursor *cursor_r)
{
    if (!begin(bytes, len, GF_LINK_BATCH, cursor_r))
        return false;
    *number_r = take(cursor_r, 8);
    return !cursor_r->bad;
}

bool gf_link_next_entry(struct gf_link_cursor *cursor, struct gf_link_entry *entry_r)
{
    struct gf_link_entry entry;
    uint64_t to;

    if (cursor->bad || cursor->at == cursor->end)
        return false;
    to = take(cursor, 1);
    entry.room_id = take_i64(cursor, GF_ID_MAX);
    entry.user_id = take_i64(cursor, GF_ID_MAX);
    entry.seq = take_i64(cursor, INT64_MAX);
    entry.ts_ms = take_i64(cursor, INT64_MAX);
    entry.len = (size_t)take(cursor, 4);
    if (to > GF_LINK_TO_USER || entry.len == 0 || entry.len > (size_t)(cursor->end - cursor->at))
        cursor->bad = true;
    if (cursor->bad)
        return false;
    entry.to = (enum gf_link_to)to;
    entry.text = cursor->at;
    cursor->at += entry.len;
    *entry_r = entry;
    return true;
}
