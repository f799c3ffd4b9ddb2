/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Structured log: one logfmt line per event on stderr: ts, level, role, pid, event, then the caller's key=value pairs.
 * `event` is a fixed <noun>_<past verb>. Threads: any. Each call site is limited to 20 lines a second; the next line
 * that passes carries suppressed=n. What stands between the format's quotes is a value: quotes and backslashes in it are written
 * with a backslash before them, line breaks as blanks (it is UTF-8, or at least without the bytes 0xFE and 0xFF). So whatever may
 * hold other than names and numbers needs quotes: error=\"%s\". Never log tokens, passwords or whole payloads. */
#include "gf/base.h"

enum gf_log_level { GF_DEBUG = 0, GF_INFO, GF_WARN, GF_ERROR };

struct gf_log_site { /* one per call site; zero-initialised */
    _Atomic int64_t second;
    _Atomic int count;
    _Atomic int suppressed;
};

void gf_log_init(const char *role, enum gf_log_level level);
enum gf_log_level gf_log_level_parse(const char *text); /* unknown text: GF_INFO */
bool gf_log_enabled(enum gf_log_level level);
void gf_log_write(struct gf_log_site *site, enum gf_log_level level, const char *event, const char *fmt, ...)
    GF_PRINTF(4, 5);

#define gf_log(level, event, ...)                                   \
    do {                                                            \
        static struct gf_log_site gf_site_;                         \
        if (gf_log_enabled(level))                                  \
            gf_log_write(&gf_site_, (level), (event), __VA_ARGS__); \
    } while (0)
