/* SPDX-License-Identifier: Apache-2.0 */
/* Growing buffer with a maximum. See gf/buf.h. */
#include "gf/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/num.h"

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

char *gf_buf_grow(struct gf_buf *buf, size_t more)
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
    char text[GF_NUM_TEXT];

    gf_buf_add(buf, text, (size_t)(gf_num_put(text, value) - text));
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

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\' && c != 0x7f;
}

void gf_buf_add_json(struct gf_buf *buf, const char *text, size_t len)
{
    gf_buf_addc(buf, '"');
    for (size_t i = 0; i < len; i++) {
        size_t from = i;
        unsigned char c;

        while (i < len && is_plain((unsigned char)text[i]))
            i++;
        gf_buf_add(buf, text + from, i - from);
        if (i == len)
            break;
        c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            gf_buf_addc(buf, '\\');
            gf_buf_addc(buf, (char)c);
        } else {
            gf_buf_addf(buf, "\\u%04x", (unsigned)c);
        }
    }
    gf_buf_addc(buf, '"');
}
