/* SPDX-License-Identifier: Apache-2.0 */
/* Growing buffer with a maximum. See gf/buf.h. */
#include "gf/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const char hex_digits[] = "0123456789abcdef";

void gf_buf_init(struct gf_buf *buf, size_t max)
{
    GF_ASSERT(max > 0 && max < SIZE_MAX / 2);
    *buf = (struct gf_buf){.max = max};
}

void gf_buf_free(struct gf_buf *buf)
{
    if (buf == NULL)
        return;
    free(buf->data);
    *buf = (struct gf_buf){0};
}

char *gf_buf_reserve(struct gf_buf *buf, size_t more)
{
    size_t need;

    GF_ASSERT(buf->max > 0);
    if (buf->overflow || more > buf->max - buf->len) {
        buf->overflow = true;
        return NULL;
    }
    need = buf->len + more + 1;
    if (need > buf->cap) {
        size_t cap = buf->cap ? buf->cap : 256;

        while (cap < need)
            cap *= 2;
        if (cap > buf->max + 1)
            cap = buf->max + 1;
        buf->data = gf_xrealloc(buf->data, cap);
        buf->cap = cap;
    }
    return buf->data + buf->len;
}

void gf_buf_add(struct gf_buf *buf, const void *bytes, size_t len)
{
    char *at = gf_buf_reserve(buf, len);

    if (at == NULL)
        return;
    if (len > 0)
        memcpy(at, bytes, len);
    at[len] = '\0';
    buf->len += len;
}

void gf_buf_adds(struct gf_buf *buf, const char *text) { gf_buf_add(buf, text, strlen(text)); }

void gf_buf_addc(struct gf_buf *buf, char c) { gf_buf_add(buf, &c, 1); }

void gf_buf_addf(struct gf_buf *buf, const char *fmt, ...)
{
    va_list ap, again;
    int len;
    char *at;

    va_start(ap, fmt);
    va_copy(again, ap);
    len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    GF_ASSERT(len >= 0);
    at = gf_buf_reserve(buf, (size_t)len);
    if (at != NULL) {
        (void)vsnprintf(at, (size_t)len + 1, fmt, again);
        buf->len += (size_t)len;
    }
    va_end(again);
}

void gf_buf_add_i64(struct gf_buf *buf, int64_t value)
{
    char text[24];
    size_t at = sizeof(text);
    uint64_t rest = value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value;

    do {
        text[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0)
        text[--at] = '-';
    gf_buf_add(buf, text + at, sizeof(text) - at);
}

void gf_buf_add_hex(struct gf_buf *buf, const void *bytes, size_t len)
{
    const uint8_t *in = bytes;
    char *at = gf_buf_reserve(buf, len * 2);

    if (at == NULL)
        return;
    for (size_t i = 0; i < len; i++) {
        *at++ = hex_digits[in[i] >> 4];
        *at++ = hex_digits[in[i] & 15];
    }
    *at = '\0';
    buf->len += len * 2;
}

void gf_buf_add_xhex(struct gf_buf *buf, const void *bytes, size_t len)
{
    gf_buf_add(buf, "x'", 2);
    gf_buf_add_hex(buf, bytes, len);
    gf_buf_addc(buf, '\'');
}

void gf_buf_add_uuid(struct gf_buf *buf, const struct gf_uuid *id)
{
    char text[GF_UUID_TEXT + 1];

    gf_uuid_format(id, text);
    gf_buf_add(buf, text, GF_UUID_TEXT);
}

void gf_buf_add_json(struct gf_buf *buf, const char *text, size_t len)
{
    gf_buf_addc(buf, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '"' || c == '\\') {
            gf_buf_addc(buf, '\\');
            gf_buf_addc(buf, (char)c);
        } else if (c < 0x20 || c == 0x7f) {
            gf_buf_addf(buf, "\\u%04x", (unsigned)c);
        } else {
            gf_buf_addc(buf, (char)c);
        }
    }
    gf_buf_addc(buf, '"');
}
