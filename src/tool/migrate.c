/* SPDX-License-Identifier: Apache-2.0 */
/* Splits a migration into statements. Pure. */
#include <string.h>

#include "gf/base.h"
#include "migrations.h"

/* Length of the comment at text[pos], 0 if none starts there. */
static size_t comment_len(const char *text, size_t len, size_t pos)
{
    const char *end;

    if (len - pos < 2)
        return 0;
    if (text[pos] == '-' && text[pos + 1] == '-') {
        end = memchr(text + pos, '\n', len - pos);
        return end != NULL ? (size_t)(end - (text + pos)) : len - pos;
    }
    if (text[pos] == '/' && text[pos + 1] == '*') {
        end = memmem(text + pos, len - pos, "*/", 2);
        return end != NULL ? (size_t)(end - (text + pos)) + 2 : len - pos;
    }
    return 0;
}

size_t gf_migration_statement(const char *text, size_t len, size_t *pos, char *out_r, size_t size)
{
    size_t at = *pos, out = 0;
    char quote = '\0';

    for (; at < len; at++) {
        size_t skip = quote == '\0' ? comment_len(text, len, at) : 0;
        char c = text[at];

        if (skip > 0) {
            at += skip - 1;
            continue;
        }
        if (c == ';' && quote == '\0')
            break;
        if (quote != '\0')
            quote = c == quote ? '\0' : quote;
        else if (c == '\'' || c == '"' || c == '`')
            quote = c;
        if (out == 0 && (c == ' ' || c == '\n'))
            continue;
        GF_ASSERT(out + 1 < size);
        out_r[out++] = c;
    }
    GF_ASSERT(quote == '\0');
    *pos = at < len ? at + 1 : len;
    while (out > 0 && (out_r[out - 1] == ' ' || out_r[out - 1] == '\n'))
        out--;
    out_r[out] = '\0';
    return out;
}
