/* SPDX-License-Identifier: Apache-2.0 */
/* UUID text and versions (RFC 9562). See gf/uuid.h. */
#include "gf/uuid.h"

#include <string.h>

#include "gf/clock.h"

#define HEX 0x10u

/* HEX and the value of a hexadecimal digit, 0 for other characters; a table because every command's id goes through it. */
static const uint8_t hex_values[256] = {
    ['0'] = HEX | 0, ['1'] = HEX | 1, ['2'] = HEX | 2, ['3'] = HEX | 3, ['4'] = HEX | 4, ['5'] = HEX | 5,
    ['6'] = HEX | 6, ['7'] = HEX | 7, ['8'] = HEX | 8, ['9'] = HEX | 9,
    ['a'] = HEX | 10, ['b'] = HEX | 11, ['c'] = HEX | 12, ['d'] = HEX | 13, ['e'] = HEX | 14, ['f'] = HEX | 15,
    ['A'] = HEX | 10, ['B'] = HEX | 11, ['C'] = HEX | 12, ['D'] = HEX | 13, ['E'] = HEX | 14, ['F'] = HEX | 15,
};

bool gf_uuid_parse(const char *text, size_t len, struct gf_uuid *id_r)
{
    static const uint8_t places[] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
    unsigned all = HEX, any = 0;
    struct gf_uuid id;

    if (len != GF_UUID_TEXT || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-')
        return false;
    for (size_t i = 0; i < sizeof(id.b); i++) {
        unsigned high = hex_values[(unsigned char)text[places[i]]], low = hex_values[(unsigned char)text[places[i] + 1]];

        all &= high & low & HEX;
        id.b[i] = (uint8_t)((high << 4 | (low & 15)) & 0xff);
        any |= id.b[i];
    }
    if (all != HEX || any == 0) /* something is no digit; the nil UUID */
        return false;
    *id_r = id;
    return true;
}

void gf_uuid_format(const struct gf_uuid *id, char text_r[GF_UUID_TEXT + 1])
{
    static const char digits[] = "0123456789abcdef";
    char *at = text_r;

    for (size_t i = 0; i < sizeof(id->b); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *at++ = '-';
        *at++ = digits[id->b[i] >> 4];
        *at++ = digits[id->b[i] & 15];
    }
    *at = '\0';
    GF_ASSERT(at - text_r == GF_UUID_TEXT);
}

int gf_uuid_version(const struct gf_uuid *id) { return id->b[6] >> 4; }

int64_t gf_uuid_v7_ms(const struct gf_uuid *id)
{
    int64_t ms = 0;

    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id->b[i];
    return ms;
}

struct gf_uuid gf_uuid_make(int version, int64_t now_ms, const uint8_t random[10])
{
    struct gf_uuid id;

    GF_ASSERT(version == 7 || version == 8);
    GF_ASSERT(now_ms >= 0 && now_ms < INT64_C(1) << 48);
    for (int i = 0; i < 6; i++)
        id.b[i] = (uint8_t)(now_ms >> (40 - 8 * i));
    memcpy(id.b + 6, random, 10);
    id.b[6] = (uint8_t)(version << 4 | (id.b[6] & 0x0f));
    id.b[8] = (uint8_t)(0x80 | (id.b[8] & 0x3f));
    return id;
}

static struct gf_uuid make_now(int version)
{
    uint8_t random[10];

    gf_random_bytes(random, sizeof(random));
    return gf_uuid_make(version, gf_clock_real_ms(), random);
}

struct gf_uuid gf_uuid_v7(void) { return make_now(7); }

struct gf_uuid gf_uuid_v8(void) { return make_now(8); }

int gf_uuid_compare(const struct gf_uuid *a, const struct gf_uuid *b) { return memcmp(a->b, b->b, sizeof(a->b)); }
