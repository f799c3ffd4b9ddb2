/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration table made real: defaults, INI file, environment, reference. See gf/config.h. */
#include "gf/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/num.h"

#define LINE_SIZE 2048 /* the longest value is a quarter of it */
#define SECTION_SIZE 32
#define WHY_SIZE 200
#define ALPHANUMERICS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define BLANKS " \t\r\n"

enum type { TYPE_INT, TYPE_BOOL, TYPE_MS, TYPE_BYTES, TYPE_TEXT };

struct key {
    const char *section, *name, *def, *help;
    enum type type;
    int64_t min, max;
    size_t at; /* offset in struct gf_config */
};

#define KEY_ROW(section_, key_, type_, def_, min_, max_, help_) \
    {#section_, #key_, def_, help_, TYPE_##type_, min_, max_, offsetof(struct gf_config, section_##_##key_)},
static const struct key keys[] = {GF_CONFIG_MAP(KEY_ROW)};

static const char *const type_names[] = {"integer", "yes/no", "duration", "size", "text"};

static bool parse_scaled(const char *text, const char *const *units, const int64_t *factors, size_t count, int64_t *value_r)
{
    size_t digits = strspn(text, "0123456789");
    int64_t value;

    if (!gf_num_parse_i64(text, digits, 0, INT64_MAX, &value))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(text + digits, units[i]) == 0)
            return gf_money_mul(value, factors[i], value_r);
    return false;
}

static bool parse_number(const struct key *key, const char *text, int64_t *value_r)
{
    static const char *const time_units[] = {"ms", "s", "m", "h", "d"};
    static const int64_t time_factors[] = {1, 1000, 60000, 3600000, 86400000};
    static const char *const size_units[] = {"", "KiB", "MiB", "GiB"};
    static const int64_t size_factors[] = {1, 1024, 1048576, 1073741824};

    switch (key->type) {
    case TYPE_INT:
        return gf_num_parse_i64(text, strlen(text), INT64_MIN, INT64_MAX, value_r);
    case TYPE_MS:
        return parse_scaled(text, time_units, time_factors, GF_COUNT(time_units), value_r);
    case TYPE_BYTES:
        return parse_scaled(text, size_units, size_factors, GF_COUNT(size_units), value_r);
    case TYPE_BOOL:
        *value_r = strcmp(text, "yes") == 0;
        return *value_r == 1 || strcmp(text, "no") == 0;
    case TYPE_TEXT:
        break;
    }
    GF_ASSERT(key->type != TYPE_TEXT);
    return false;
}

/* Texts that are no free choice. */
static const struct text_rule {
    const char *section, *name;
    const char *words;   /* one of them, or NULL */
    const char *letters; /* of these only, or NULL */
} text_rules[] = {
    {"ingest", "redis_down", "accept refuse", NULL},
    {"kafka", "compression", "none lz4 gzip snappy zstd", NULL},
    {"kafka", "prefix", NULL, ALPHANUMERICS "._-"},
    {"log", "level", "debug info warn error", NULL},
    {"mysql", "database", NULL, ALPHANUMERICS "_"},
};

static bool is_one_of(const char *text, const char *words)
{
    size_t len = strlen(text), word;

    for (; *words != '\0'; words += word + (words[word] == ' ')) {
        word = strcspn(words, " ");
        if (word == len && memcmp(words, text, len) == 0)
            return true;
    }
    return false;
}

static bool text_fits(const struct key *key, const char *text, char why[WHY_SIZE])
{
    if ((int64_t)strlen(text) < key->min || (int64_t)strlen(text) > key->max) {
        snprintf(why, WHY_SIZE, "%s.%s must have %lld..%lld characters", key->section, key->name, (long long)key->min,
                 (long long)key->max);
        return false;
    }
    for (size_t i = 0; i < GF_COUNT(text_rules); i++) {
        const struct text_rule *rule = &text_rules[i];

        if (strcmp(rule->section, key->section) != 0 || strcmp(rule->name, key->name) != 0)
            continue;
        if (rule->words != NULL && !is_one_of(text, rule->words)) {
            snprintf(why, WHY_SIZE, "%s.%s: '%.40s' is none of: %s", key->section, key->name, text, rule->words);
            return false;
        }
        if (rule->letters != NULL && text[strspn(text, rule->letters)] != '\0') {
            snprintf(why, WHY_SIZE, "%s.%s: '%.40s' has another character than %s", key->section, key->name, text, rule->letters);
            return false;
        }
    }
    return true;
}

/* Writes what is wrong into why (it then names no place: the caller knows file or variable). */
static bool set_key(struct gf_config *config, const struct key *key, const char *text, char why[WHY_SIZE])
{
    char *field = (char *)config + key->at;
    int64_t value;

    if (key->type == TYPE_TEXT) {
        if (!text_fits(key, text, why))
            return false;
        gf_copy(field, GF_CONFIG_TEXT_MAX, text);
        return true;
    }
    if (!parse_number(key, text, &value)) {
        snprintf(why, WHY_SIZE, "%s.%s: '%.60s' is not a %s", key->section, key->name, text, type_names[key->type]);
        return false;
    }
    if (value < key->min || value > key->max) {
        snprintf(why, WHY_SIZE, "%s.%s: %.60s is out of range (%lld..%lld%s)", key->section, key->name, text,
                 (long long)key->min, (long long)key->max, key->type == TYPE_MS ? " ms" : "");
        return false;
    }
    if (key->type == TYPE_BOOL) {
        bool flag = value == 1;

        memcpy(field, &flag, sizeof(flag));
    } else {
        memcpy(field, &value, sizeof(value));
    }
    return true;
}

static const struct key *find_key(const char *section, const char *name)
{
    for (size_t i = 0; i < GF_COUNT(keys); i++)
        if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

/* The key with the most letters in common at its start: a hint for a typing error. */
static const struct key *nearest_key(const char *section, const char *name)
{
    const struct key *best = NULL;
    size_t best_common = 1;

    for (size_t i = 0; i < GF_COUNT(keys); i++) {
        size_t common = 0;

        if (strcmp(keys[i].section, section) != 0)
            continue;
        while (name[common] != '\0' && name[common] == keys[i].name[common])
            common++;
        if (common > best_common) {
            best_common = common;
            best = &keys[i];
        }
    }
    return best;
}

static bool set_named(struct gf_config *config, const char *section, const char *name, const char *value, char why[WHY_SIZE])
{
    const struct key *key = find_key(section, name);
    const struct key *near;

    if (key != NULL)
        return set_key(config, key, value, why);
    near = nearest_key(section, name);
    snprintf(why, WHY_SIZE, "unknown key %.60s.%.60s%s%s%s", section, name, near ? " (did you mean " : "", near ? near->name : "",
             near ? "?)" : "");
    return false;
}

static char *trim(char *text)
{
    size_t len;

    text += strspn(text, BLANKS);
    len = strlen(text);
    while (len > 0 && strchr(BLANKS, text[len - 1]) != NULL)
        text[--len] = '\0';
    return text;
}

/* Behind a blank a ';' begins a comment, within a word it does not. */
static void cut_comment(char *text)
{
    for (char *at = text; (at = strchr(at, ';')) != NULL; at++)
        if (at == text || strchr(BLANKS, at[-1]) != NULL) {
            *at = '\0';
            return;
        }
}

/* One line is one thing, however it is indented: nothing goes on in the next one. */
static bool take_line(struct gf_config *config, char section[SECTION_SIZE], char *line, char why[WHY_SIZE])
{
    char *text = trim(line), *equals;

    cut_comment(text);
    text = trim(text);
    if (text[0] == '\0' || text[0] == '#')
        return true;
    if (text[0] == '[') {
        size_t len = strcspn(++text, "]");

        if (text[len] == ']' && text[len + 1] == '\0' && len < SECTION_SIZE) {
            text[len] = '\0';
            gf_copy(section, SECTION_SIZE, text);
            return true;
        }
    } else if ((equals = strchr(text, '=')) != NULL) {
        *equals = '\0';
        return set_named(config, section, trim(text), trim(equals + 1), why);
    }
    snprintf(why, WHY_SIZE, "neither '[section]' nor 'key = value'");
    return false;
}

static enum gf_class read_lines(struct gf_config *config, FILE *file, const char *path, struct gf_error *error_r)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    char line[LINE_SIZE], section[SECTION_SIZE] = "", why[WHY_SIZE];

    for (int number = 1; fgets(line, sizeof(line), file) != NULL; number++) {
        bool marked = number == 1 && strncmp(line, byte_order_mark, sizeof(byte_order_mark) - 1) == 0;

        if (strlen(line) == sizeof(line) - 1 && line[sizeof(line) - 2] != '\n')
            return gf_fail(error_r, GF_REJECT, 0, "%s:%d: longer than %zu characters", path, number, sizeof(line) - 2);
        if (!take_line(config, section, line + (marked ? sizeof(byte_order_mark) - 1 : 0), why))
            return gf_fail(error_r, GF_REJECT, 0, "%s:%d: %s", path, number, why);
    }
    if (ferror(file)) /* a directory can be opened, for one */
        return gf_fail(error_r, GF_REJECT, errno, "%s: cannot be read: %s", path, strerror(errno));
    return GF_OK;
}

static enum gf_class load_file(struct gf_config *config, const char *path, struct gf_error *error_r)
{
    FILE *file = fopen(path, "re");
    enum gf_class class;

    if (file == NULL)
        return gf_fail(error_r, GF_REJECT, errno, "%s: cannot be read: %s", path, strerror(errno));
    class = read_lines(config, file, path, error_r);
    (void)fclose(file); /* read only: nothing to lose */
    return class;
}

static void env_name(const struct key *key, char *name, size_t size)
{
    int len = snprintf(name, size, "GIFTFLOW_%s_%s", key->section, key->name);

    GF_ASSERT(len > 0 && (size_t)len < size);
    for (char *at = name; *at != '\0'; at++)
        *at = (char)toupper((unsigned char)*at);
}

static enum gf_class load_environment(struct gf_config *config, struct gf_error *error_r)
{
    char name[128], why[WHY_SIZE];

    for (size_t i = 0; i < GF_COUNT(keys); i++) {
        const char *text;

        env_name(&keys[i], name, sizeof(name));
        text = getenv(name);
        if (text != NULL && !set_key(config, &keys[i], text, why))
            return gf_fail(error_r, GF_REJECT, 0, "environment %s: %s", name, why);
    }
    return GF_OK;
}

static bool is_any_address(const char *text)
{
    struct in6_addr addr6;
    struct in_addr addr;

    if (inet_pton(AF_INET, text, &addr) == 1)
        return addr.s_addr == htonl(INADDR_ANY);
    return inet_pton(AF_INET6, text, &addr6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&addr6);
}

/* "host:port", the host without the brackets that a URL needs around IPv6: behind the last colon is the port. */
static bool is_host_and_port(const char *text)
{
    const char *colon = strrchr(text, ':');
    int64_t port;

    return colon != NULL && colon != text && strpbrk(text, " []/") == NULL &&
           gf_num_parse_i64(colon + 1, strlen(colon + 1), 1, 65535, &port);
}

static enum gf_class check_addresses(const struct gf_config *config, struct gf_error *error_r)
{
    struct gf_host hosts[GF_MYSQL_HOSTS_MAX];
    const char *advertised = config->gateway_link_advertise;

    if (gf_config_mysql_hosts(config, hosts) < 0)
        return gf_fail(error_r, GF_REJECT, 0, "mysql.hosts must be 1..%d of host:port or /path, comma-separated",
                       GF_MYSQL_HOSTS_MAX);
    for (int i = 0; i < gf_config_redis_shards(config); i++)
        if (gf_config_redis_host(config, i, &hosts[0], error_r) != GF_OK)
            return GF_REJECT;
    if (advertised[0] == '\0' && is_any_address(config->gateway_link_bind))
        return gf_fail(error_r, GF_REJECT, 0, "gateway.link_advertise must say how routers reach gateway.link_bind %s",
                       config->gateway_link_bind);
    if (advertised[0] != '\0' && !is_host_and_port(advertised))
        return gf_fail(error_r, GF_REJECT, 0, "gateway.link_advertise: '%.60s' is not host:port", advertised);
    return GF_OK;
}

/* What no row of the table can say. */
static enum gf_class check(const struct gf_config *config, struct gf_error *error_r)
{
    enum gf_class class = check_addresses(config, error_r);

    if (class != GF_OK)
        return class;
    if (config->kafka_min_insync > config->kafka_replication)
        return gf_fail(error_r, GF_REJECT, 0,
                       "kafka.min_insync %lld is more than kafka.replication %lld: nothing could be acknowledged",
                       (long long)config->kafka_min_insync, (long long)config->kafka_replication);
    return GF_OK;
}

enum gf_class gf_config_check_ingest(const struct gf_config *config, struct gf_error *error_r)
{
    if (config->kafka_message_timeout >= config->ingest_request_timeout ||
        config->ingest_request_timeout >= config->ingest_lease)
        return gf_fail(error_r, GF_REJECT, 0,
                       "kafka.message_timeout < ingest.request_timeout < ingest.lease is needed: an unanswered call must "
                       "have an end before its key may be taken over");
    return GF_OK;
}

enum gf_class gf_config_load(struct gf_config *config, const char *path, struct gf_error *error_r)
{
    char why[WHY_SIZE];
    enum gf_class class = GF_OK;

    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < GF_COUNT(keys); i++)
        GF_ASSERT(set_key(config, &keys[i], keys[i].def, why));
    if (path != NULL && path[0] != '\0')
        class = load_file(config, path, error_r);
    if (class == GF_OK)
        class = load_environment(config, error_r);
    return class == GF_OK ? check(config, error_r) : class;
}

void gf_config_print_defaults(void)
{
    const char *section = "";

    for (size_t i = 0; i < GF_COUNT(keys); i++) {
        if (strcmp(section, keys[i].section) != 0)
            printf("%s[%s]\n", i > 0 ? "\n" : "", keys[i].section);
        section = keys[i].section;
        printf("; %s\n%s = %s\n", keys[i].help, keys[i].name, keys[i].def);
    }
}

void gf_config_print_doc(void)
{
    char name[128];

    printf("# Configuration reference\n\nMade by `giftflow config doc`; do not edit.\n\n"
           "| key | type | default | bounds | environment | meaning |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < GF_COUNT(keys); i++) {
        const struct key *key = &keys[i];

        env_name(key, name, sizeof(name));
        printf("| `%s.%s` | %s | `%s` | ", key->section, key->name, type_names[key->type], key->def);
        if (key->type != TYPE_BOOL)
            printf("%lld..%lld", (long long)key->min, (long long)key->max);
        printf("%s | `%s` | %s |\n", key->type == TYPE_TEXT ? " characters" : key->type == TYPE_MS ? " ms" : "", name, key->help);
    }
}
