/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of `giftflow load`. Addresses come from the configuration unless given. No state. */
#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "load.h"

#define CLIENTS_MAX 100000

static bool parse_address(const char *text, size_t len, struct load_address *address_r)
{
    static const char *const schemes[] = {"http://", "ws://"};
    const char *colon;
    int64_t port;

    for (size_t i = 0; i < GF_COUNT(schemes); i++) {
        if (len <= strlen(schemes[i]) || memcmp(text, schemes[i], strlen(schemes[i])) != 0)
            continue;
        text += strlen(schemes[i]);
        len -= strlen(schemes[i]);
        break;
    }
    if (len > 0 && text[len - 1] == '/')
        len--;
    colon = memchr(text, ':', len);
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof(address_r->host))
        return false;
    if (!gf_num_parse_i64(colon + 1, len - (size_t)(colon + 1 - text), 1, 65535, &port))
        return false;
    memset(address_r, 0, sizeof(*address_r));
    memcpy(address_r->host, text, (size_t)(colon - text));
    address_r->port = (int)port;
    return true;
}

static bool parse_addresses(const char *text, struct load_address *addresses_r, int *count_r)
{
    *count_r = 0;
    for (;;) {
        size_t len = strcspn(text, ",");

        if (*count_r == LOAD_ADDRESSES || !parse_address(text, len, &addresses_r[*count_r]))
            return false;
        (*count_r)++;
        if (text[len] == '\0')
            return true;
        text += len + 1;
    }
}

static bool parse_range(const char *text, int64_t *from_r, int64_t *to_r)
{
    size_t len = strcspn(text, "-");

    return text[len] == '-' && gf_num_parse_i64(text, len, 1, GF_ID_MAX, from_r) &&
           gf_num_parse_i64(text + len + 1, strlen(text + len + 1), *from_r, GF_ID_MAX, to_r);
}

static bool parse_gifts(const char *text, struct load_opts *opts)
{
    opts->gift_count = 0;
    for (;;) {
        size_t len = strcspn(text, ",");

        if (opts->gift_count == LOAD_GIFTS || !gf_num_parse_i64(text, len, 1, INT32_MAX, &opts->gifts[opts->gift_count]))
            return false;
        opts->gift_count++;
        if (text[len] == '\0')
            return true;
        text += len + 1;
    }
}

/* True when it was one of the numbers; *ok_r tells whether its value is good. */
static bool parse_number(const char *name, const char *value, struct load_opts *opts, bool *ok_r)
{
    const struct {
        const char *name;
        int64_t min, max, *target;
    } numbers[] = {
        {"--rooms", 1, CLIENTS_MAX, &opts->rooms},         {"--room-base", 1, GF_ID_MAX / 2, &opts->room_base},
        {"--viewers", 0, CLIENTS_MAX, &opts->viewers},     {"--senders", 1, CLIENTS_MAX, &opts->senders},
        {"--rate", 0, 1000000, &opts->rate},               {"--seconds", 1, 86400, &opts->seconds},
        {"--drain", 0, 3600, &opts->drain_s},              {"--warmup", 0, 60000, &opts->warmup_ms},
        {"--bad-percent", 0, 100, &opts->bad_percent},     {"--seed", 0, INT64_MAX, &opts->seed},
        {"--count", 0, 10000000, &opts->count},
    };

    for (size_t i = 0; i < GF_COUNT(numbers); i++) {
        if (strcmp(name, numbers[i].name) != 0)
            continue;
        *ok_r = gf_num_parse_i64(value, strlen(value), numbers[i].min, numbers[i].max, numbers[i].target);
        return true;
    }
    return false;
}

static bool parse_option(const char *name, const char *value, struct load_opts *opts, bool *known_r)
{
    bool ok = false;

    *known_r = true;
    if (strcmp(name, "--ingest") == 0)
        return parse_addresses(value, opts->ingest, &opts->ingest_count);
    if (strcmp(name, "--gateway") == 0)
        return parse_addresses(value, opts->gateway, &opts->gateway_count);
    if (strcmp(name, "--users") == 0)
        return parse_range(value, &opts->user_from, &opts->user_to);
    if (strcmp(name, "--poor") == 0)
        return parse_range(value, &opts->poor_from, &opts->poor_to);
    if (strcmp(name, "--gift") == 0)
        return parse_gifts(value, opts);
    *known_r = parse_number(name, value, opts, &ok);
    return ok;
}

static void set_defaults(const struct gf_config *config, struct load_opts *opts)
{
    uint64_t seed;

    memset(opts, 0, sizeof(*opts));
    opts->user_from = 1;
    opts->user_to = 500;
    opts->rooms = 10;
    opts->room_base = 1001;
    opts->viewers = 200;
    opts->senders = 100;
    opts->rate = 300;
    opts->seconds = 10;
    opts->drain_s = 20;
    opts->warmup_ms = 2500; /* routers look for gateways each second */
    gf_random_bytes(&seed, sizeof(seed));
    opts->seed = (int64_t)(seed >> 16);
    gf_copy(opts->ingest[0].host, sizeof(opts->ingest[0].host), config->ingest_bind);
    opts->ingest[0].port = (int)config->ingest_port;
    gf_copy(opts->gateway[0].host, sizeof(opts->gateway[0].host), config->gateway_bind);
    opts->gateway[0].port = (int)config->gateway_port;
    opts->ingest_count = opts->gateway_count = 1;
}

static enum gf_class check(const struct load_opts *opts, struct gf_error *error_r)
{
    if (opts->ingest[0].port == 0 || opts->gateway[0].port == 0)
        return gf_fail(error_r, GF_REJECT, 0, "the configuration leaves a port open: give --ingest and --gateway");
    if (opts->count > 0 && opts->rate > 0)
        return gf_fail(error_r, GF_REJECT, 0, "--count is for --rate 0");
    if (opts->user_to - opts->user_from + 1 < opts->senders)
        return gf_fail(error_r, GF_REJECT, 0, "--users holds fewer users than --senders");
    return GF_OK;
}

enum gf_class load_opts_parse(const struct gf_config *config, int argc, char **argv, struct load_opts *opts_r,
                              struct gf_error *error_r)
{
    set_defaults(config, opts_r);
    for (int i = 1; i < argc; i++) {
        bool known;

        if (strcmp(argv[i], "--json") == 0) {
            opts_r->json = true;
            continue;
        }
        if (i + 1 == argc)
            return gf_fail(error_r, GF_REJECT, 0, "%s: unknown, or its value is missing", argv[i]);
        if (!parse_option(argv[i], argv[i + 1], opts_r, &known))
            return gf_fail(error_r, GF_REJECT, 0, known ? "%s: the value '%s' is not acceptable" : "%s: no such option (%s)", argv[i],
                           argv[i + 1]);
        i++;
    }
    return check(opts_r, error_r);
}
