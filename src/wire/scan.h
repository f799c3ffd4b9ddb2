/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A strict JSON scanner (RFC 8259) over borrowed bytes: walks the members of one object without allocating, checks
 * everything that it steps over (nested values too) and hands out scalars as slices. Strings are checked but not
 * unescaped; `escaped` says that the slice is not the text. Refused although RFC 8259 allows it: NUL (\u0000), lone
 * surrogates, nesting deeper than GF_SCAN_DEPTH. Private to src/wire. */
#include "gf/base.h"

#define GF_SCAN_DEPTH 16

enum gf_scan_token { GF_SCAN_STRING = 1, GF_SCAN_INTEGER, GF_SCAN_HUGE /* integer beyond int64 */, GF_SCAN_OTHER };

struct gf_scan_value {
    enum gf_scan_token token;
    bool escaped;
    const char *text; /* STRING: between the quotes */
    size_t len;
    int64_t i64; /* INTEGER */
};

struct gf_scan {
    const char *begin, *at, *end;
    const char *error; /* NULL while all is well; fixed text */
    bool first;        /* no member read yet */
};

void gf_scan_begin(struct gf_scan *scan, const char *bytes, size_t len);
GF_NODISCARD bool gf_scan_object_begin(struct gf_scan *scan);
/* False at the end of the object and on errors; gf_scan_end tells them apart. */
GF_NODISCARD bool gf_scan_object_next(struct gf_scan *scan, struct gf_scan_value *key_r, struct gf_scan_value *value_r);
/* True when the object ended well and only white space follows it. */
GF_NODISCARD bool gf_scan_end(struct gf_scan *scan);
static inline size_t gf_scan_at(const struct gf_scan *scan) { return (size_t)(scan->at - scan->begin); }
