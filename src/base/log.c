/* SPDX-License-Identifier: Apache-2.0 */
/* Logfmt lines on stderr, one write(2) each, limited per call site. See gf/log.h. */
#include "gf/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINES_PER_SECOND 20

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static struct {
    char role[32];
    _Atomic int level;
} state = {.role = "-", .level = GF_INFO};

void gf_log_init(const char *role, enum gf_log_level level)
{
    gf_copy(state.role, sizeof(state.role), role);
    atomic_store(&state.level, (int)level);
}

enum gf_log_level gf_log_level_parse(const char *text)
{
    for (size_t i = 0; i < GF_COUNT(level_names); i++)
        if (strcmp(text, level_names[i]) == 0)
            return (enum gf_log_level)i;
    return GF_INFO;
}

bool gf_log_enabled(enum gf_log_level level) { return (int)level >= atomic_load_explicit(&state.level, memory_order_relaxed); }

/* Returns false when this line is suppressed, else how many lines were suppressed before it. Two threads may race for
 * the new second: the worst case is one line more or less. */
static bool admit(struct gf_log_site *site, int64_t second, int *suppressed_r)
{
    if (atomic_exchange(&site->second, second) != second)
        atomic_store(&site->count, 0);
    if (atomic_fetch_add(&site->count, 1) >= LINES_PER_SECOND) {
        atomic_fetch_add(&site->suppressed, 1);
        return false;
    }
    *suppressed_r = atomic_exchange(&site->suppressed, 0);
    return true;
}

void gf_log_write(struct gf_log_site *site, enum gf_log_level level, const char *event, const char *fmt, ...)
{
    char line[1024];
    struct timespec now;
    struct tm tm;
    int len, more, suppressed = 0;
    va_list ap;

    clock_gettime(CLOCK_REALTIME, &now);
    if (!admit(site, now.tv_sec, &suppressed))
        return;
    gmtime_r(&now.tv_sec, &tm);
    len = snprintf(line, sizeof(line), "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ level=%s role=%s pid=%d event=%s ",
                   tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                   now.tv_nsec / 1000000, level_names[level], state.role, (int)getpid(), event);
    GF_ASSERT(len > 0 && (size_t)len < sizeof(line));
    va_start(ap, fmt);
    more = vsnprintf(line + len, sizeof(line) - (size_t)len, fmt, ap);
    va_end(ap);
    len = more < 0 || (size_t)(len + more) >= sizeof(line) - 32 ? (int)sizeof(line) - 32 : len + more;
    for (int i = 0; i < len; i++) /* one event, one line: text from outside cannot forge another */
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    if (suppressed > 0)
        len += snprintf(line + len, 30, " suppressed=%d", suppressed);
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)len) < 0) {
        /* nowhere left to complain */
    }
}
