/* SPDX-License-Identifier: Apache-2.0 */
/* See scan.h. Recursion is bounded by GF_SCAN_DEPTH; no byte at or after `end` is read. */
#include "scan.h"

#include <string.h>

static bool fail(struct gf_scan *scan, const char *error)
{
    if (!scan->error)
        scan->error = error;
    return false;
}

static void skip_space(struct gf_scan *scan)
{
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t' || *scan->at == '\r'))
        scan->at++;
}

static bool take(struct gf_scan *scan, char c)
{
    if (scan->at == scan->end || *scan->at != c)
        return false;
    scan->at++;
    return true;
}

static bool is_digit(const struct gf_scan *scan)
{
    return scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9';
}

/* One character of two or more bytes: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool skip_utf8(struct gf_scan *scan)
{
    const unsigned char *p = (const unsigned char *)scan->at;
    size_t left = (size_t)(scan->end - scan->at);
    unsigned low = 0x80;
    unsigned high = 0xbf;
    size_t len;

    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        len = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        len = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        len = 4;
    else
        return fail(scan, "not UTF-8");
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (left < len || p[1] < low || p[1] > high)
        return fail(scan, "not UTF-8");
    for (size_t i = 2; i < len; i++)
        if (p[i] < 0x80 || p[i] > 0xbf)
            return fail(scan, "not UTF-8");
    scan->at += len;
    return true;
}

static bool hex4(struct gf_scan *scan, unsigned *code_r)
{
    unsigned code = 0;

    if (scan->end - scan->at < 4)
        return fail(scan, "bad escape");
    for (int i = 0; i < 4; i++) {
        char c = *scan->at++;

        code <<= 4;
        if (c >= '0' && c <= '9')
            code |= (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            code |= (unsigned)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            code |= (unsigned)(c - 'A' + 10);
        else
            return fail(scan, "bad escape");
    }
    *code_r = code;
    return true;
}

/* After the backslash. */
static bool skip_escape(struct gf_scan *scan)
{
    unsigned code, second;

    if (scan->at == scan->end)
        return fail(scan, "string without end");
    if (*scan->at != 'u') {
        if (*scan->at == 0 || !strchr("\"\\/bfnrt", *scan->at))
            return fail(scan, "bad escape");
        scan->at++;
        return true;
    }
    scan->at++;
    if (!hex4(scan, &code))
        return false;
    if (code == 0)
        return fail(scan, "NUL in a string");
    if (code >= 0xdc00 && code <= 0xdfff)
        return fail(scan, "lone surrogate");
    if (code < 0xd800 || code > 0xdbff)
        return true;
    if (!take(scan, '\\') || !take(scan, 'u') || !hex4(scan, &second) || second < 0xdc00 || second > 0xdfff)
        return fail(scan, "lone surrogate");
    return true;
}

/* Most of a record: plain ASCII up to the next character that needs a look. */
static void skip_plain(struct gf_scan *scan)
{
    const char *at = scan->at;

    while (at < scan->end && (signed char)*at >= 0x20 && *at != '"' && *at != '\\')
        at++;
    scan->at = at;
}

static bool read_string(struct gf_scan *scan, struct gf_scan_value *value_r)
{
    *value_r = (struct gf_scan_value){.token = GF_SCAN_STRING};
    if (!take(scan, '"'))
        return fail(scan, "a string was expected");
    value_r->text = scan->at;
    for (;;) {
        unsigned char c;

        skip_plain(scan);
        if (scan->at == scan->end)
            return fail(scan, "string without end");
        c = (unsigned char)*scan->at;
        if (c == '"') {
            value_r->len = (size_t)(scan->at - value_r->text);
            scan->at++;
            return true;
        }
        if (c < 0x20)
            return fail(scan, "control character in a string");
        if (c == '\\') {
            scan->at++;
            value_r->escaped = true;
            if (!skip_escape(scan))
                return false;
        } else if (!skip_utf8(scan)) {
            return false;
        }
    }
}

/* The part of a number after its integer digits; makes it OTHER when there is one. */
static bool skip_fraction(struct gf_scan *scan, struct gf_scan_value *value)
{
    if (take(scan, '.')) {
        value->token = GF_SCAN_OTHER;
        if (!is_digit(scan))
            return fail(scan, "bad number");
        while (is_digit(scan))
            scan->at++;
    }
    if (take(scan, 'e') || take(scan, 'E')) {
        value->token = GF_SCAN_OTHER;
        if (!take(scan, '+'))
            (void)take(scan, '-'); /* a sign is optional */
        if (!is_digit(scan))
            return fail(scan, "bad number");
        while (is_digit(scan))
            scan->at++;
    }
    return true;
}

static bool read_number(struct gf_scan *scan, struct gf_scan_value *value_r)
{
    bool negative = take(scan, '-');
    bool zero = scan->at < scan->end && *scan->at == '0';
    int64_t sum = 0; /* negative all along: INT64_MIN has no positive twin */

    *value_r = (struct gf_scan_value){.token = GF_SCAN_INTEGER};
    if (!is_digit(scan))
        return fail(scan, "bad number");
    while (is_digit(scan)) {
        int digit = *scan->at++ - '0';

        if (value_r->token == GF_SCAN_INTEGER &&
            (__builtin_mul_overflow(sum, 10, &sum) || __builtin_sub_overflow(sum, digit, &sum)))
            value_r->token = GF_SCAN_HUGE;
        if (zero)
            break;
    }
    if (zero && is_digit(scan))
        return fail(scan, "number with a leading zero");
    if (!negative && sum == INT64_MIN)
        value_r->token = GF_SCAN_HUGE;
    if (value_r->token == GF_SCAN_INTEGER)
        value_r->i64 = negative ? sum : -sum;
    return skip_fraction(scan, value_r);
}

static bool read_word(struct gf_scan *scan, const char *word, struct gf_scan_value *value_r)
{
    size_t len = strlen(word);

    *value_r = (struct gf_scan_value){.token = GF_SCAN_OTHER};
    if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
        return fail(scan, "not a JSON value");
    scan->at += len;
    return true;
}

static bool read_value(struct gf_scan *scan, int depth, struct gf_scan_value *value_r);

static bool read_member(struct gf_scan *scan, int depth, struct gf_scan_value *key_r, struct gf_scan_value *value_r)
{
    skip_space(scan);
    if (!read_string(scan, key_r))
        return false;
    skip_space(scan);
    if (!take(scan, ':'))
        return fail(scan, "a colon was expected");
    return read_value(scan, depth, value_r);
}

static bool skip_container(struct gf_scan *scan, int depth, char close)
{
    struct gf_scan_value key, value;

    if (depth >= GF_SCAN_DEPTH)
        return fail(scan, "nested too deeply");
    skip_space(scan);
    if (take(scan, close))
        return true;
    for (;;) {
        if (!(close == '}' ? read_member(scan, depth + 1, &key, &value) : read_value(scan, depth + 1, &value)))
            return false;
        skip_space(scan);
        if (take(scan, close))
            return true;
        if (!take(scan, ','))
            return fail(scan, "a comma was expected");
    }
}

static bool read_value(struct gf_scan *scan, int depth, struct gf_scan_value *value_r)
{
    skip_space(scan);
    if (scan->at == scan->end)
        return fail(scan, "a value was expected");
    switch (*scan->at) {
    case '"':
        return read_string(scan, value_r);
    case '{':
    case '[':
        *value_r = (struct gf_scan_value){.token = GF_SCAN_OTHER};
        scan->at++;
        return skip_container(scan, depth, scan->at[-1] == '{' ? '}' : ']');
    case 't':
        return read_word(scan, "true", value_r);
    case 'f':
        return read_word(scan, "false", value_r);
    case 'n':
        return read_word(scan, "null", value_r);
    default:
        return read_number(scan, value_r);
    }
}

void gf_scan_begin(struct gf_scan *scan, const char *bytes, size_t len)
{
    *scan = (struct gf_scan){.begin = bytes, .at = bytes, .end = bytes + len, .first = true};
}

bool gf_scan_object_begin(struct gf_scan *scan)
{
    skip_space(scan);
    if (!take(scan, '{'))
        return fail(scan, "not an object");
    return true;
}

bool gf_scan_object_next(struct gf_scan *scan, struct gf_scan_value *key_r, struct gf_scan_value *value_r)
{
    skip_space(scan);
    if (take(scan, '}'))
        return false;
    if (!scan->first && !take(scan, ','))
        return fail(scan, "a comma was expected");
    scan->first = false;
    return read_member(scan, 1, key_r, value_r);
}

bool gf_scan_end(struct gf_scan *scan)
{
    if (scan->error)
        return false;
    skip_space(scan);
    if (scan->at != scan->end)
        return fail(scan, "bytes after the object");
    return true;
}
