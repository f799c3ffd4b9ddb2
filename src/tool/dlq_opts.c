/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of `giftflow dlq`: letters by name, filters, times. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dlq.h"
#include "gf/clock.h"
#include "gf/num.h"
#include "tool.h"

#define LIMIT_MAX 100000

void gf_dlq_format_time(int64_t ms, char text_r[32])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL || strftime(text_r, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(text_r, 32, "%" PRId64, ms);
}

/* Unix milliseconds, a time as it is printed here, or how long ago: 90s, 15m, 2h, 7d. */
static bool parse_time(const char *text, int64_t *ms_r)
{
    static const struct {
        char unit;
        int64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    size_t len = strlen(text);
    struct tm tm = {0};
    int64_t count;
    const char *end;

    if (gf_num_parse_i64(text, len, 0, GF_ID_MAX, ms_r))
        return true;
    for (size_t i = 0; i < GF_COUNT(units); i++) {
        if (len < 2 || text[len - 1] != units[i].unit || !gf_num_parse_i64(text, len - 1, 0, 1000000, &count))
            continue;
        *ms_r = gf_clock_real_ms() - count * units[i].ms;
        return true;
    }
    end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (end == NULL || *end != '\0')
        return false;
    *ms_r = (int64_t)timegm(&tm) * 1000;
    return true;
}

static bool number(const char *text, int64_t min, int64_t max, int64_t *value_r)
{
    return gf_num_parse_i64(text, strlen(text), min, max, value_r);
}

enum option { STATE, REASON, LOG, PARTITION, OFFSETS, USER, SINCE, UNTIL, AFTER, LIMIT, WAIT, OPTION_COUNT };

static const struct {
    const char *name, *wants;
    bool filters;
} table[OPTION_COUNT] = {
    [STATE] = {"--state", "open, all, new, fed, replayed or dropped", true},
    [REASON] = {"--reason", "a reason as `dlq list` prints it, such as foreign_key", true},
    [LOG] = {"--log", "a log's number, 0..32767", true},
    [PARTITION] = {"--partition", "a partition's number", true},
    [OFFSETS] = {"--offsets", "FROM-TO, both inclusive", true},
    [USER] = {"--user", "a user id, 1..2^53-1", true},
    [SINCE] = {"--since", "unix milliseconds, 2026-01-31T23:59:59Z, or an age such as 15m, 2h, 7d", true},
    [UNTIL] = {"--until", "unix milliseconds, 2026-01-31T23:59:59Z, or an age such as 15m, 2h, 7d", true},
    [AFTER] = {"--after", "the LOG-OFFSET of a letter", true},
    [LIMIT] = {"--limit", "1..100000", false},
    [WAIT] = {"--wait", "seconds, 0..3600", false},
};

static bool parse_offsets(const char *text, struct gf_letter_filter *filter)
{
    const char *dash = strchr(text, '-');
    int64_t last;

    if (dash == NULL || !gf_num_parse_i64(text, (size_t)(dash - text), 0, INT64_MAX - 1, &filter->from_off) ||
        !number(dash + 1, filter->from_off, INT64_MAX - 1, &last))
        return false;
    filter->to_off = last + 1;
    return true;
}

static bool take(enum option option, const char *value, struct dlq_options *options)
{
    struct gf_letter_filter *filter = &options->filter;
    int64_t limit;

    switch (option) {
    case STATE:
        return gf_letter_parse_states(value, strlen(value), &filter->states);
    case REASON:
        return gf_letter_parse_reason(value, strlen(value), &filter->reason);
    case LOG:
        return number(value, 0, INT16_MAX, &filter->log);
    case PARTITION:
        return number(value, 0, INT32_MAX, &filter->partition);
    case OFFSETS:
        return parse_offsets(value, filter);
    case USER:
        return number(value, 1, GF_ID_MAX, &filter->user_id);
    case SINCE:
        return parse_time(value, &filter->from_ms);
    case UNTIL:
        return parse_time(value, &filter->to_ms);
    case AFTER:
        return gf_letter_parse_id(value, strlen(value), &filter->after);
    case LIMIT:
        if (!number(value, 1, LIMIT_MAX, &limit))
            return false;
        filter->limit = (int)limit;
        return true;
    case WAIT:
        return number(value, 0, 3600, &options->wait_s);
    case OPTION_COUNT:
        break;
    }
    return false;
}

static bool take_flag(const char *arg, struct dlq_options *options)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"--json", &options->json}, {"--dry-run", &options->dry_run}, {"--force", &options->force}, {"--all", &options->all}};

    for (size_t i = 0; i < GF_COUNT(flags); i++) {
        if (strcmp(arg, flags[i].name) == 0) {
            *flags[i].flag = true;
            return true;
        }
    }
    return false;
}

static enum gf_class take_id(const char *arg, struct dlq_options *options, struct gf_error *error_r)
{
    struct gf_letter_id id;

    if (arg[0] == '-')
        return gf_fail(error_r, GF_REJECT, 0, "%s is not known here", arg);
    if (!gf_letter_parse_id(arg, strlen(arg), &id))
        return gf_fail(error_r, GF_REJECT, 0, "%s is no dead letter: they are named LOG-OFFSET, such as 3-1042", arg);
    for (size_t i = 0; i < options->id_count; i++)
        if (options->ids[i].log == id.log && options->ids[i].off == id.off)
            return GF_OK; /* named twice, meant once: a page is produced before its letters are marked */
    if (options->id_count == DLQ_IDS_MAX)
        return gf_fail(error_r, GF_REJECT, 0, "more than %d letters by name: use a filter", DLQ_IDS_MAX);
    options->ids[options->id_count++] = id;
    return GF_OK;
}

static enum gf_class take_option(int argc, char **argv, int *at, struct dlq_options *options, struct gf_error *error_r)
{
    const char *value;

    for (enum option option = 0; option < OPTION_COUNT; option++) {
        if (!gf_tool_option(argc, argv, at, table[option].name, &value))
            continue;
        options->filtered |= table[option].filters;
        if (value == NULL)
            return gf_fail(error_r, GF_REJECT, 0, "%s wants %s", table[option].name, table[option].wants);
        if (!take(option, value, options))
            return gf_fail(error_r, GF_REJECT, 0, "%s '%s': it wants %s", table[option].name, value, table[option].wants);
        return GF_OK;
    }
    return take_id(argv[*at], options, error_r);
}

enum gf_class gf_dlq_parse(int argc, char **argv, struct dlq_options *options_r, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;

    gf_letter_filter_init(&options_r->filter);
    options_r->filter.limit = 0; /* each verb has its own default */
    options_r->wait_s = 5;
    options_r->ids = gf_xcalloc(DLQ_IDS_MAX, sizeof(options_r->ids[0]));
    for (int i = 2; i < argc && class == GF_OK; i++)
        if (!take_flag(argv[i], options_r))
            class = take_option(argc, argv, &i, options_r, error_r);
    if (class == GF_OK && options_r->id_count > 0 && (options_r->filtered || options_r->all))
        class = gf_fail(error_r, GF_REJECT, 0, "name letters, or give filters, but not both");
    return class;
}
