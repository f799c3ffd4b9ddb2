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
#define LINE_BYTES 1024
#define TAIL_BYTES 32 /* of a line: how many were suppressed, and its end */
#define FORMAT_BYTES 512
#define MARK_OPEN '\xfe' /* bytes that are in no UTF-8 */
#define MARK_CLOSE '\xff'

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

/* The format's quotes become marks, so that those of a value are known from them. */
__attribute__((format_arg(3))) static const char *mark_quotes(char *marked, size_t size, const char *fmt)
{
    bool open = false;
    size_t len = 0;

    for (; fmt[len] != '\0'; len++) {
        GF_ASSERT(len < size - 1);
        if (fmt[len] == '"')
            open = !open;
        marked[len] = fmt[len] != '"' ? fmt[len] : open ? MARK_OPEN : MARK_CLOSE;
    }
    marked[len] = '\0';
    return marked;
}

/* One event, one line, and each value ends where its quote is: text from outside cannot forge another. What is too long is
 * cut. Returns the length. */
static size_t add_pairs(char *line, size_t room, const char *text)
{
    bool quoted = false;
    size_t len = 0;

    for (; *text != '\0' && len + 3 <= room; text++) { /* an escape, and the last quote */
        bool mark = *text == MARK_OPEN || *text == MARK_CLOSE;

        if (mark)
            quoted = *text == MARK_OPEN;
        else if (quoted && (*text == '"' || *text == '\\'))
            line[len++] = '\\';
        line[len++] = mark ? '"' : (unsigned char)*text < ' ' ? ' ' : *text;
    }
    if (quoted)
        line[len++] = '"';
    return len;
}

void gf_log_write(struct gf_log_site *site, enum gf_log_level level, const char *event, const char *fmt, ...)
{
    char line[LINE_BYTES], text[LINE_BYTES], marked[FORMAT_BYTES];
    struct timespec now;
    struct tm tm;
    int len, suppressed = 0;
    va_list ap;

    clock_gettime(CLOCK_REALTIME, &now);
    if (!admit(site, now.tv_sec, &suppressed))
        return;
    gmtime_r(&now.tv_sec, &tm);
    len = snprintf(line, sizeof(line), "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ level=%s role=%s pid=%d event=%s ",
                   tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                   now.tv_nsec / 1000000, level_names[level], state.role, (int)getpid(), event);
    GF_ASSERT(len > 0 && (size_t)len < sizeof(line) - TAIL_BYTES);
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof(text), mark_quotes(marked, sizeof(marked), fmt), ap) < 0)
        text[0] = '\0';
    va_end(ap);
    len += (int)add_pairs(line + len, sizeof(line) - TAIL_BYTES - (size_t)len, text);
    if (suppressed > 0)
        len += snprintf(line + len, TAIL_BYTES - 1, " suppressed=%d", suppressed);
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)len) < 0) {
        /* nowhere left to complain */
    }
}
