/* SPDX-License-Identifier: Apache-2.0 */
/* Strict reading of small flat objects with jansson. Targets are written only when the whole object is good.
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

enum gf_class gf_json_read(const char *text, size_t len, const struct gf_json_field *fields, size_t count,
                           struct gf_error *error_r)
{
    json_error_t parse_error;
    json_t *object = NULL;
    enum gf_class class;

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
