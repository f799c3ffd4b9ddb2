/* SPDX-License-Identifier: Apache-2.0 */
/* Strict reading of small flat objects: the common ones at once, all others with jansson. Targets are written only when the whole object is good.
 * Thread-safe after the process has seeded jansson's hashing (it does so itself, atomically, on first use). */
#include "gf/json.h"

#include <jansson.h>
#include <string.h>

#define DEPTH_MAX 4

/* jansson recurses up to 2,048 levels; our bodies are flat. Counts brackets outside strings before it is let loose. */
static bool shallow(const char *text, size_t len)
{
    bool in_string = false;
    int depth = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DEPTH_MAX)
                return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

static enum gf_class check_i64(const struct gf_json_field *field, const json_t *value, struct gf_error *error_r)
{
    json_int_t number;

    if (!json_is_integer(value))
        return gf_fail(error_r, GF_REJECT, 0, "%s must be an integer", field->name);
    number = json_integer_value(value);
    if (field->min <= field->max && (number < field->min || number > field->max))
        return gf_fail(error_r, GF_REJECT, 0, "%s must be %lld..%lld", field->name, (long long)field->min,
                       (long long)field->max);
    return GF_OK;
}

static enum gf_class check_text(const struct gf_json_field *field, const json_t *value, struct gf_error *error_r)
{
    size_t len;

    if (!json_is_string(value))
        return gf_fail(error_r, GF_REJECT, 0, "%s must be a string", field->name);
    len = json_string_length(value);
    if (len < (size_t)field->min || len > (size_t)field->max)
        return gf_fail(error_r, GF_REJECT, 0, "%s must be %lld..%lld bytes long", field->name, (long long)field->min,
                       (long long)field->max);
    if (memchr(json_string_value(value), 0, len))
        return gf_fail(error_r, GF_REJECT, 0, "%s contains NUL", field->name);
    return GF_OK;
}

/* Fixed texts: jansson's own quote the input, which need not be fit to be quoted. */
static const char *parse_problem(const json_error_t *error)
{
    enum json_error_code code = json_error_code(error);

    if (code == json_error_duplicate_key)
        return "a field is given twice";
    if (code == json_error_invalid_utf8)
        return "the body is not UTF-8";
    if (code == json_error_numeric_overflow)
        return "a number is too large";
    if (code == json_error_null_character || code == json_error_null_byte_in_key)
        return "the body contains NUL";
    return "the body is not a JSON object";
}

static bool quotable(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++)
        if ((name[i] < 'a' || name[i] > 'z') && name[i] != '_')
            return false;
    return len > 0 && len <= 64;
}

static const struct gf_json_field *find(const struct gf_json_field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static enum gf_class check(json_t *object, const struct gf_json_field *fields, size_t count, struct gf_error *error_r)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value)
    {
        const struct gf_json_field *field = find(fields, count, name);
        enum gf_class class;

        if (!field)
            return gf_fail(error_r, GF_REJECT, 0, "unknown field %s", quotable(name) ? name : "with an odd name");
        class = field->type == GF_JSON_I64 ? check_i64(field, value, error_r) : check_text(field, value, error_r);
        if (class != GF_OK)
            return class;
    }
    for (size_t i = 0; i < count; i++)
        if (fields[i].required && !json_object_get(object, fields[i].name))
            return gf_fail(error_r, GF_REJECT, 0, "%s is missing", fields[i].name);
    return GF_OK;
}

static void store(json_t *object, const struct gf_json_field *field)
{
    const json_t *value = json_object_get(object, field->name);

    if (field->present_r)
        *field->present_r = value != NULL;
    if (!value)
        return;
    if (field->type == GF_JSON_I64)
        *field->i64_r = json_integer_value(value);
    else
        memcpy(field->text_r, json_string_value(value), json_string_length(value) + 1);
}

/* ---- the common case, without a document ---- */

#define PLAIN_FIELDS 16
#define PLAIN_DIGITS 18 /* always an int64 */

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at;
}

/* `"name" :`; NULL: something else. */
static const char *plain_name(const char *at, const char *end, const struct gf_json_field *fields, size_t count, size_t *which_r)
{
    const char *name = at + 1, *stop;
    size_t len;

    if (at == end || *at != '"' || !(stop = memchr(name, '"', (size_t)(end - name))))
        return NULL;
    len = (size_t)(stop - name);
    for (*which_r = 0; *which_r < count; (*which_r)++)
        if (strlen(fields[*which_r].name) == len && memcmp(fields[*which_r].name, name, len) == 0)
            break;
    at = skip_space(stop + 1, end);
    return *which_r < count && at < end && *at == ':' ? skip_space(at + 1, end) : NULL;
}

/* A natural number of few digits; NULL: something else. */
static const char *plain_number(const char *at, const char *end, int64_t *value_r)
{
    const char *from = at;
    int64_t value = 0;

    for (; at < end && *at >= '0' && *at <= '9' && at - from < PLAIN_DIGITS; at++)
        value = value * 10 + (*at - '0');
    if (at == from || (at < end && *at >= '0' && *at <= '9') || (*from == '0' && at - from > 1))
        return NULL;
    *value_r = value;
    return skip_space(at, end);
}

/* A flat object of natural numbers under known names, each once and within its bounds: what clients send all day. True: it was
 * one and is stored. False: whatever else it is, jansson says. */
static bool read_plain(const char *text, size_t len, const struct gf_json_field *fields, size_t count)
{
    const char *end = text + len, *at = skip_space(text, end);
    int64_t values[PLAIN_FIELDS];
    uint32_t seen = 0;
    size_t which;

    if (count > PLAIN_FIELDS || at == end || *at != '{')
        return false;
    do {
        if (!(at = plain_name(skip_space(at + 1, end), end, fields, count, &which)) ||
            !(at = plain_number(at, end, &values[which])) || at == end)
            return false;
        if (fields[which].type != GF_JSON_I64 || (seen & 1U << which) != 0 ||
            (fields[which].min <= fields[which].max && (values[which] < fields[which].min || values[which] > fields[which].max)))
            return false;
        seen |= 1U << which;
    } while (*at == ',');
    if (*at != '}' || skip_space(at + 1, end) != end)
        return false;
    for (size_t i = 0; i < count; i++)
        if (fields[i].required && (seen & 1U << i) == 0)
            return false;
    for (size_t i = 0; i < count; i++) {
        if (fields[i].present_r)
            *fields[i].present_r = (seen & 1U << i) != 0;
        if ((seen & 1U << i) != 0)
            *fields[i].i64_r = values[i];
    }
    return true;
}

enum gf_class gf_json_read(const char *text, size_t len, const struct gf_json_field *fields, size_t count,
                           struct gf_error *error_r)
{
    json_error_t parse_error;
    json_t *object = NULL;
    enum gf_class class;

    if (read_plain(text, len, fields, count))
        return GF_OK;
    if (memchr(text, 0, len)) /* jansson 2.14 swallows a NUL byte that follows a number */
        return gf_fail(error_r, GF_REJECT, 0, "the body contains NUL");
    if (!shallow(text, len))
        return gf_fail(error_r, GF_REJECT, 0, "the body is nested too deeply");
    object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &parse_error);
    if (!object)
        return gf_fail(error_r, GF_REJECT, 0, "%s (byte %d)", parse_problem(&parse_error), parse_error.position);
    if (json_is_object(object))
        class = check(object, fields, count, error_r);
    else
        class = gf_fail(error_r, GF_REJECT, 0, "the body must be a JSON object");
    for (size_t i = 0; class == GF_OK && i < count; i++)
        store(object, &fields[i]);
    json_decref(object);
    return class;
}
