/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Growing byte buffer with a maximum given at birth. Appending past the maximum sets `overflow` and drops the bytes;
 * the flag is sticky until gf_buf_reset, so a writer appends freely and checks once at the end (gf_buf_ok).
 * Owns its memory. Not thread-safe. `data` is always NUL-terminated once anything was appended. */
#include <string.h>

#include "gf/base.h"
#include "gf/uuid.h"

struct gf_buf {
    char *data;
    size_t len, cap, max;
    bool overflow;
};

void gf_buf_init(struct gf_buf *buf, size_t max);
void gf_buf_free(struct gf_buf *buf); /* NULL-safe; the buffer may be initialised again */
static inline void gf_buf_reset(struct gf_buf *buf) { buf->len = 0; buf->overflow = false; }
static inline bool gf_buf_ok(const struct gf_buf *buf) { return !buf->overflow; }
char *gf_buf_grow(struct gf_buf *buf, size_t more); /* gf_buf_reserve's rare half */
/* Makes room for `more` bytes plus NUL; NULL on overflow. The caller may write there and raise len. */
static inline char *gf_buf_reserve(struct gf_buf *buf, size_t more)
{
    return !buf->overflow && more < buf->cap - buf->len ? buf->data + buf->len : gf_buf_grow(buf, more);
}
/* Inline, because of a literal the length is known then and the copy is a few moves. */
static inline void gf_buf_add(struct gf_buf *buf, const void *bytes, size_t len)
{
    char *at = gf_buf_reserve(buf, len);

    if (at == NULL)
        return;
    if (len > 0)
        memcpy(at, bytes, len);
    at[len] = '\0';
    buf->len += len;
}
static inline void gf_buf_adds(struct gf_buf *buf, const char *text) { gf_buf_add(buf, text, strlen(text)); }
static inline void gf_buf_addc(struct gf_buf *buf, char c) { gf_buf_add(buf, &c, 1); }
void gf_buf_addf(struct gf_buf *buf, const char *fmt, ...) GF_PRINTF(2, 3);
void gf_buf_add_i64(struct gf_buf *buf, int64_t value);         /* decimal */
/* `name` as it stands, with its quotes and colon, then the number. */
static inline void gf_buf_add_field(struct gf_buf *buf, const char *name, int64_t value)
{
    gf_buf_adds(buf, name);
    gf_buf_add_i64(buf, value);
}
void gf_buf_add_hex(struct gf_buf *buf, const void *bytes, size_t len); /* lower case */
void gf_buf_add_xhex(struct gf_buf *buf, const void *bytes, size_t len); /* SQL literal x'..' */
void gf_buf_add_uuid(struct gf_buf *buf, const struct gf_uuid *id);      /* canonical text, 36 chars */
void gf_buf_add_json(struct gf_buf *buf, const char *text, size_t len);  /* quoted, escaped JSON string */
