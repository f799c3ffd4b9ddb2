/* SPDX-License-Identifier: Apache-2.0 */
/* Notices: written by hand into a buffer (they leave in batches of thousands), read by their fixed head. Thread-safe: no
 * state. A notice that does not fit its buffer sets the buffer's overflow flag, as any gf_buf writer does. */
#include "gf/notice.h"

#include <string.h>

#include "gf/num.h"

static void add_text(struct gf_buf *out, const char *name, const char *text)
{
    gf_buf_adds(out, name);
    gf_buf_add_json(out, text, strlen(text));
}

static enum gf_notice_code code_of(const struct gf_trade *trade)
{
    bool settled = trade->outcome == GF_OUTCOME_SETTLED;

    if (trade->kind == GF_KIND_GIFT)
        return settled ? GF_NOTICE_GIFT : GF_NOTICE_GIFT_FAILED;
    return settled ? GF_NOTICE_CREDITED : GF_NOTICE_CREDIT_FAILED;
}

/* To the whole room: nothing about anybody's balance. */
static void add_gift(const struct gf_trade *trade, const char *name, const char *effect_url, struct gf_buf *out)
{
    int64_t paid = 0;
    bool fits = gf_money_sub(0, trade->amount, &paid);

    GF_ASSERT(fits && paid > 0);
    gf_buf_add_field(out, ",\"sender_id\":", trade->user_id);
    gf_buf_add_field(out, ",\"receiver_id\":", trade->receiver_id);
    gf_buf_add_field(out, ",\"gift_id\":", trade->gift_id);
    gf_buf_add_field(out, ",\"gift_type\":", trade->gift_type);
    add_text(out, ",\"name\":", name);
    add_text(out, ",\"effect_url\":", effect_url);
    gf_buf_add_field(out, ",\"quantity\":", trade->quantity);
    gf_buf_add_field(out, ",\"price\":", trade->price);
    gf_buf_add_field(out, ",\"amount\":", paid);
}

static void add_failure(const struct gf_trade *trade, struct gf_buf *out)
{
    add_text(out, ",\"code\":", gf_outcome_text(trade->outcome));
    add_text(out, ",\"message\":", gf_outcome_message(trade->outcome));
}

static void add_data(const struct gf_trade *trade, const char *name, const char *effect_url, struct gf_buf *out)
{
    gf_buf_adds(out, ",\"data\":{\"request_id\":\"");
    gf_buf_add_uuid(out, &trade->request_id);
    gf_buf_addc(out, '"');
    switch (code_of(trade)) {
    case GF_NOTICE_GIFT:
        add_gift(trade, name, effect_url, out);
        break;
    case GF_NOTICE_GIFT_FAILED:
        gf_buf_add_field(out, ",\"gift_id\":", trade->gift_id);
        gf_buf_add_field(out, ",\"quantity\":", trade->quantity);
        add_failure(trade, out);
        break;
    case GF_NOTICE_CREDITED:
        add_text(out, ",\"kind\":", gf_kind_text(trade->kind));
        gf_buf_add_field(out, ",\"amount\":", trade->amount);
        gf_buf_add_field(out, ",\"debt_delta\":", trade->debt_delta);
        gf_buf_add_field(out, ",\"balance_after\":", trade->balance_after);
        break;
    case GF_NOTICE_CREDIT_FAILED:
        add_text(out, ",\"kind\":", gf_kind_text(trade->kind));
        add_failure(trade, out);
        break;
    }
    gf_buf_add_field(out, ",\"ts\":", trade->ts_ms);
    gf_buf_adds(out, "}}");
}

void gf_notice_key(const struct gf_trade *trade, struct gf_buf *key)
{
    bool room = code_of(trade) == GF_NOTICE_GIFT;

    gf_buf_add_field(key, room ? "r:" : "u:", room ? trade->room_id : trade->user_id);
}

void gf_notice_encode(int32_t log, const struct gf_trade *trade, const char *name, const char *effect_url,
                      struct gf_buf *key, struct gf_buf *value)
{
    enum gf_notice_code code = code_of(trade);
    bool room = code == GF_NOTICE_GIFT;

    GF_ASSERT(log >= 0 && trade->off >= 0);
    GF_ASSERT(gf_id_valid(trade->user_id));
    GF_ASSERT(!room || gf_id_valid(trade->room_id));
    gf_notice_key(trade, key);
    gf_buf_add_field(value, "{\"id\":\"", log);
    gf_buf_add_field(value, "-", trade->off);
    gf_buf_add_field(value, ":", code);
    gf_buf_adds(value, room ? "\",\"ch\":\"room\"" : "\",\"ch\":\"user\"");
    gf_buf_add_field(value, ",\"code\":", code);
    gf_buf_add_field(value, ",\"room_id\":", trade->room_id);
    gf_buf_add_field(value, ",\"user_id\":", trade->user_id);
    add_data(trade, name, effect_url, value);
}

struct cursor {
    const char *at, *end;
};

static bool expect(struct cursor *cursor, const char *text)
{
    size_t len = strlen(text);

    if ((size_t)(cursor->end - cursor->at) < len || memcmp(cursor->at, text, len) != 0)
        return false;
    cursor->at += len;
    return true;
}

static bool expect_number(struct cursor *cursor, int64_t max, int64_t *value_r)
{
    const char *from = cursor->at;

    while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9')
        cursor->at++;
    return gf_num_parse_i64(from, (size_t)(cursor->at - from), 0, max, value_r);
}

/* Up to the point where the frame gets its seq: {"id":"<log>-<offset>:<code>","ch":"room|user" */
static bool read_id(struct cursor *cursor, int64_t *id_code_r, bool *room_r)
{
    int64_t log, off;

    if (!expect(cursor, "{\"id\":\"") || !expect_number(cursor, INT16_MAX, &log) || !expect(cursor, "-") ||
        !expect_number(cursor, INT64_MAX, &off) || !expect(cursor, ":") || !expect_number(cursor, INT32_MAX, id_code_r) ||
        !expect(cursor, "\",\"ch\":"))
        return false;
    *room_r = expect(cursor, "\"room\"");
    return *room_r || expect(cursor, "\"user\"");
}

bool gf_notice_head(const char *value, size_t len, struct gf_notice_head *head_r)
{
    struct cursor cursor = {.at = value, .end = value + len};
    int64_t id_code, code, room_id, user_id;
    bool room;

    if (len == 0 || len > GF_NOTICE_MAX || !read_id(&cursor, &id_code, &room))
        return false;
    if (!expect(&cursor, ",\"code\":") || !expect_number(&cursor, INT32_MAX, &code) || code != id_code)
        return false;
    if (!expect(&cursor, ",\"room_id\":") || !expect_number(&cursor, GF_ID_MAX, &room_id) ||
        !expect(&cursor, ",\"user_id\":") || !expect_number(&cursor, GF_ID_MAX, &user_id))
        return false;
    if (!expect(&cursor, ",\"data\":{") || cursor.end - cursor.at < 2 || memcmp(cursor.end - 2, "}}", 2) != 0)
        return false;
    if (room ? !gf_id_valid(room_id) : !gf_id_valid(user_id))
        return false;
    *head_r = (struct gf_notice_head){.code = (int)code, .room = room, .room_id = room_id, .user_id = user_id};
    return true;
}

void gf_notice_frame(const char *value, size_t len, int64_t seq, struct gf_buf *frame)
{
    struct cursor cursor = {.at = value, .end = value + len};
    int64_t code;
    bool room;
    bool ours = read_id(&cursor, &code, &room);

    GF_ASSERT(ours); /* gf_notice_head accepted it */
    GF_ASSERT(seq >= 0);
    gf_buf_add(frame, value, (size_t)(cursor.at - value));
    gf_buf_add_field(frame, ",\"seq\":", seq);
    gf_buf_add(frame, cursor.at, (size_t)(cursor.end - cursor.at));
}
