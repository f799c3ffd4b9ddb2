/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The numbered migrations of schemas/sql, embedded at build time, in order. Text without a final NUL. */
#include <stddef.h>

struct gf_migration {
    int number;
    const char *name; /* file name without .sql */
    const char *text;
    size_t len;
};
extern const struct gf_migration gf_migrations[];
extern const size_t gf_migration_count;

/* Next statement of `text` from *pos, without comments and without its semicolon, into out_r (size bytes); its length, or 0
 * at the end. Knows quotes, `--` and C comments. */
size_t gf_migration_statement(const char *text, size_t len, size_t *pos, char *out_r, size_t size);
