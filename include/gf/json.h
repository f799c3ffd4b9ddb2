/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Strict reading of small JSON objects from untrusted input (jansson behind it, src/wire): duplicate keys, trailing bytes,
 * NUL, bad UTF-8, reals where integers belong and unknown fields are errors that name the field. */
#include "gf/base.h"

enum gf_json_type { GF_JSON_I64, GF_JSON_TEXT };
struct gf_json_field {
    const char *name;
    enum gf_json_type type;
    bool required;
    int64_t min, max; /* I64: value; TEXT: length in bytes */
    int64_t *i64_r;   /* I64 target */
    char *text_r;     /* TEXT target, max + 1 bytes */
    bool *present_r;  /* may be NULL */
};
/* REJECT with a text fit for the client. Range errors too, unless min > max (then any int64 is taken). */
GF_NODISCARD enum gf_class gf_json_read(const char *text, size_t len, const struct gf_json_field *fields, size_t count,
                                        struct gf_error *error_r);

/* One JSON value of any type and nothing else. */
GF_NODISCARD bool gf_json_valid(const char *text, size_t len);
