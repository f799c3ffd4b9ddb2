/* SPDX-License-Identifier: Apache-2.0 */
/* UUID text and versions (RFC 9562). See gf/uuid.h. */
#include "gf/uuid.h"

#include <string.h>

#include "gf/clock.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool gf_uuid_parse(const char *text, size_t len, struct gf_uuid *id_r)
{
    struct gf_uuid id;
    uint8_t any = 0;
    size_t out = 0;

    if (len != GF_UUID_TEXT)
        return false;
    for (size_t i = 0; i < len;) {
        int high, low;

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i++] != '-')
                return false;
            continue;
        }
        high = hex_value(text[i]);
        low = hex_value(text[i + 1]);
        if (high < 0 || low < 0)
            return false;
        id.b[out] = (uint8_t)(high << 4 | low);
        any |= id.b[out++];
        i += 2;
    }
    GF_ASSERT(out == sizeof(id.b));
    if (any == 0)
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
