/* SPDX-License-Identifier: Apache-2.0 */
/* Asserts, errors, memory that cannot fail. See gf/base.h. */
#include "gf/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void gf_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "ASSERT %s:%d: %s\n", file, line, expr);
    fflush(stderr);
    abort();
}

enum gf_class gf_fail(struct gf_error *error_r, enum gf_class class, int native, const char *fmt, ...)
{
    va_list ap;

    GF_ASSERT(class != GF_OK);
    if (error_r == NULL)
        return class;
    error_r->class = class;
    error_r->native = native;
    va_start(ap, fmt);
    (void)vsnprintf(error_r->text, sizeof(error_r->text), fmt, ap); /* truncation is fine in a message */
    va_end(ap);
    return class;
}

const char *gf_class_name(enum gf_class class)
{
    switch (class) {
    case GF_OK:
        return "ok";
    case GF_RETRY:
        return "retry";
    case GF_REJECT:
        return "reject";
    case GF_UNCERTAIN:
        return "uncertain";
    case GF_FATAL:
        return "fatal";
    }
    gf_assert_failed("class in range", __FILE__, __LINE__);
}

static void *not_null(void *ptr, size_t size)
{
    if (ptr == NULL) {
        fprintf(stderr, "ASSERT out of memory: %zu bytes\n", size);
        abort();
    }
    return ptr;
}

void *gf_xmalloc(size_t size) { return not_null(malloc(size ? size : 1), size); }

void *gf_xcalloc(size_t count, size_t size) { return not_null(calloc(count ? count : 1, size ? size : 1), size); }

void *gf_xrealloc(void *ptr, size_t size) { return not_null(realloc(ptr, size ? size : 1), size); }

char *gf_xstrdup(const char *text)
{
    size_t size = strlen(text) + 1;

    return memcpy(gf_xmalloc(size), text, size);
}

void gf_copy(char *dst, size_t size, const char *src)
{
    size_t len = strlen(src);

    GF_ASSERT(size > 0);
    GF_ASSERT(len < size);
    memcpy(dst, src, len + 1);
}
