/* SPDX-License-Identifier: Apache-2.0 */
/* See command_fast.h. The one spelling is gf_command_encode's; a byte that differs ends the attempt. Nothing at or after `end` is
 * read: each literal and each number looks at what is left first. */
#include "command_fast.h"

#include <string.h>

#define DIGITS_MAX 18 /* 10^18 - 1 fits in int64 */

struct cursor {
    const char *at, *end;
};

#define TAKE(cursor, literal) take(cursor, literal, sizeof(literal) - 1)

/* Inlined with a constant length, memcmp is a few wide compares. */
static inline bool take(struct cursor *cursor, const char *literal, size_t len)
{
    if ((size_t)(cursor->end - cursor->at) < len || memcmp(cursor->at, literal, len) != 0)
        return false;
    cursor->at += len;
    return true;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* Eight digits at once: all are tested, then pairs, fours and eights are added up in one multiplication each. */
static inline bool eight_digits(const char *at, uint64_t *value_r)
{
    uint64_t x;

    memcpy(&x, at, sizeof(x));
    if (((x & UINT64_C(0xf0f0f0f0f0f0f0f0)) | (((x + UINT64_C(0x0606060606060606)) & UINT64_C(0xf0f0f0f0f0f0f0f0)) >> 4)) !=
        UINT64_C(0x3333333333333333))
        return false;
    x = (x & UINT64_C(0x0f0f0f0f0f0f0f0f)) * 2561 >> 8;
    x = (x & UINT64_C(0x00ff00ff00ff00ff)) * 6553601 >> 16;
    *value_r = (x & UINT64_C(0x0000ffff0000ffff)) * UINT64_C(42949672960001) >> 32;
    return true;
}
#else
static inline bool eight_digits(const char *at, uint64_t *value_r)
{
    (void)at, (void)value_r;
    return false;
}
#endif

/* Digits without a leading zero, up to DIGITS_MAX, in [min, max]. */
static inline bool number(struct cursor *cursor, int64_t min, int64_t max, int64_t *value_r)
{
    const char *from = cursor->at, *at = from;
    const char *end = cursor->end - at > DIGITS_MAX ? at + DIGITS_MAX : cursor->end;
    uint64_t value = 0;

    if (end - at >= 8 && eight_digits(at, &value))
        at += 8;
    for (; at < end && (unsigned char)(*at - '0') <= 9; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    if (at == from || (*from == '0' && at - from > 1) || (int64_t)value < min || (int64_t)value > max)
        return false; /* of a longer one the next literal finds the rest */
    cursor->at = at;
    *value_r = (int64_t)value;
    return true;
}

static inline bool number_i32(struct cursor *cursor, int32_t min, int32_t max, int32_t *value_r)
{
    int64_t value;

    if (!number(cursor, min, max, &value))
        return false;
    *value_r = (int32_t)value;
    return true;
}

/* Of digits, '-' and letters only capitals have this bit clear. */
static inline bool has_capitals(const char *id)
{
    unsigned char bits = 0x20;

    for (size_t i = 0; i < GF_UUID_TEXT; i++)
        bits &= (unsigned char)id[i];
    return bits == 0;
}

static inline bool request_id(struct cursor *cursor, struct gf_uuid *id_r)
{
    if (cursor->end - cursor->at < GF_UUID_TEXT || has_capitals(cursor->at) ||
        !gf_uuid_parse(cursor->at, GF_UUID_TEXT, id_r))
        return false;
    cursor->at += GF_UUID_TEXT;
    return gf_uuid_version(id_r) != 8;
}

bool gf_command_decode_fast(const char *value, size_t len, struct gf_command *command_r)
{
    struct cursor cursor = {.at = value, .end = value + len};
    struct gf_command c = {.off = command_r->off, .append_ms = command_r->append_ms, .readable = true, .exact = true,
                           .kind = GF_KIND_GIFT};

    if (!TAKE(&cursor, "{\"v\":1,\"type\":\"gift\",\"request_id\":\"") || !request_id(&cursor, &c.request_id) ||
        !TAKE(&cursor, "\",\"user_id\":") || !number(&cursor, 1, GF_ID_MAX, &c.user_id) ||
        !TAKE(&cursor, ",\"receiver_id\":") || !number(&cursor, 1, GF_ID_MAX, &c.receiver_id) ||
        !TAKE(&cursor, ",\"room_id\":") || !number(&cursor, 1, GF_ID_MAX, &c.room_id) ||
        !TAKE(&cursor, ",\"gift_id\":") || !number_i32(&cursor, 1, INT32_MAX, &c.gift_id) ||
        !TAKE(&cursor, ",\"price\":") || !number(&cursor, 0, INT64_MAX, &c.price) ||
        !TAKE(&cursor, ",\"quantity\":") || !number_i32(&cursor, 0, INT32_MAX, &c.quantity) ||
        !TAKE(&cursor, ",\"gift_type\":") || !number_i32(&cursor, 0, INT8_MAX, &c.gift_type) ||
        !TAKE(&cursor, ",\"ts\":") || !number(&cursor, 0, GF_ID_MAX, &c.ts_ms) || !TAKE(&cursor, "}") || cursor.at != cursor.end)
        return false;
    *command_r = c;
    return true;
}
