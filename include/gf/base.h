/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What every module may use: attributes, the assert that stays on, operational errors, memory that cannot fail.
 * Three kinds of trouble, three tools: a rejection by rule is data (gf/outcome.h), an operational error is a
 * struct gf_error with a class, a programmer's error is GF_ASSERT. Callers branch on the class, never on text. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GF_NODISCARD __attribute__((warn_unused_result))
#define GF_NORETURN __attribute__((noreturn))
#define GF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define GF_UNUSED __attribute__((unused))
#define GF_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define GF_ID_MAX ((INT64_C(1) << 53) - 1) /* users, rooms, receivers and amounts: exact in a double (Lua, JSON) */

GF_NORETURN void gf_assert_failed(const char *expr, const char *file, int line);
#define GF_ASSERT(expr) ((expr) ? (void)0 : gf_assert_failed(#expr, __FILE__, __LINE__))

enum gf_class {
    GF_OK = 0,
    GF_RETRY,     /* nothing happened; the same call may succeed later */
    GF_REJECT,    /* this input can never succeed */
    GF_UNCERTAIN, /* it may or may not have happened: ask before anything else */
    GF_FATAL,     /* this process or its configuration cannot go on */
};

/* Caller's storage; no allocation on error paths. `native` is the library's own code (errno, MySQL, librdkafka). */
struct gf_error {
    enum gf_class class;
    int native;
    char text[256];
};

/* Fills error_r (may be NULL) and returns class, so that `return gf_fail(...)` reads as one step. */
enum gf_class gf_fail(struct gf_error *error_r, enum gf_class class, int native, const char *fmt, ...)
    GF_PRINTF(4, 5);
const char *gf_class_name(enum gf_class class);

/* Allocation failure ends the process on purpose: every cap in the configuration is sized not to reach it. */
void *gf_xmalloc(size_t size) __attribute__((malloc));
void *gf_xcalloc(size_t count, size_t size) __attribute__((malloc));
void *gf_xrealloc(void *ptr, size_t size);
char *gf_xstrdup(const char *text);

/* Copies text that is known to fit (asserted). */
void gf_copy(char *dst, size_t size, const char *src);
