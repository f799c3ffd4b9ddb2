/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* UUIDs (RFC 9562): 16 bytes, canonical text, and the versions we make: 7 (time-ordered) and 8 (ours, for credits). */
#include "gf/base.h"

#define GF_UUID_TEXT 36

struct gf_uuid {
    uint8_t b[16];
};

/* Accepts exactly 8-4-4-4-12 hex digits of any case; the nil UUID is refused. */
GF_NODISCARD bool gf_uuid_parse(const char *text, size_t len, struct gf_uuid *id_r);
void gf_uuid_format(const struct gf_uuid *id, char text_r[GF_UUID_TEXT + 1]);
int gf_uuid_version(const struct gf_uuid *id);
int64_t gf_uuid_v7_ms(const struct gf_uuid *id); /* the embedded unix milliseconds */
/* `random` are 10 bytes of randomness; version and variant bits are set over them. */
struct gf_uuid gf_uuid_make(int version, int64_t now_ms, const uint8_t random[10]);
struct gf_uuid gf_uuid_v7(void); /* from the real-time clock and getrandom(2) */
struct gf_uuid gf_uuid_v8(void); /* same layout, version 8: credit ids */
int gf_uuid_compare(const struct gf_uuid *a, const struct gf_uuid *b);
