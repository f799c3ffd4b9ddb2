/* SPDX-License-Identifier: Apache-2.0 */
/* init's topics: made with the settings that giftflow's promises rest on, or checked to have them, and pinned in MySQL. What
 * was pinned and differs now is an error that names both sides: partitions decide which process owns a wallet, so they never
 * change by accident. Blocking; every wait is bounded by init's deadline. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "init.h"

struct topic {
    const char *suffix;
    bool commands;      /* its partitions are logs: progress and rollup rows */
    bool many;          /* config.kafka_partitions, else one */
    const char *retention_ms;
};

/* Commands are the queue between "accepted" and "settled": a month of outage loses nothing. */
static const struct topic topics[] = {
    {"commands", true, true, "2592000000"},
    {"notices", false, true, "86400000"},
    {"catalogue", false, false, "86400000"},
    {"dlq", false, false, "2592000000"},
};

/* incarnation 0: not pinned yet. */
static enum gf_class read_pin(struct init *init, const char *name, int *incarnation_r, int *partitions_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(init->sql, &result, &init->error,
                                        "SELECT incarnation, partitions FROM topic WHERE topic = '%s'", name);

    if (class != GF_OK)
        return class;
    *incarnation_r = *partitions_r = 0;
    if (gf_sql_next(result)) {
        *incarnation_r = (int)gf_sql_i64(result, 0);
        *partitions_r = (int)gf_sql_i64(result, 1);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class create_topic(struct init *init, const struct topic *topic, const char *name, bool *created_r)
{
    char min_insync[16];
    const char *settings[] = {
        "message.timestamp.type", "LogAppendTime", "cleanup.policy", "delete",
        "retention.ms", topic->retention_ms, "retention.bytes", "-1",
        "min.insync.replicas", min_insync, "unclean.leader.election.enable", "false", NULL,
    };
    struct gf_kafka_topic_spec spec = {
        .name = name,
        .partitions = topic->many ? (int)init->config->kafka_partitions : 1,
        .replication = (int)init->config->kafka_replication,
        .settings = settings,
    };
    enum gf_class class;

    snprintf(min_insync, sizeof(min_insync), "%" PRId64, init->config->kafka_min_insync);
    while ((class = gf_kafka_topic_create(init->admin, &spec, created_r, &init->error)) == GF_RETRY &&
           gf_clock_mono_ms() < init->deadline_ms)
        gf_clock_sleep_ms(200);
    return class;
}

/* Kafka's own count of a pinned topic; 0 once it is gone. */
static enum gf_class ask_partitions(struct init *init, const char *name, int *partitions_r)
{
    enum gf_class class;

    while ((class = gf_kafka_topic_partitions(init->admin, name, partitions_r, &init->error)) == GF_RETRY &&
           gf_clock_mono_ms() < init->deadline_ms)
        gf_clock_sleep_ms(200);
    return class;
}

/* A pinned topic: its counts must agree. One that is gone may be made anew only if no record of it was ever needed. */
static enum gf_class check_pinned(struct init *init, const struct topic *topic, const char *name, int pinned)
{
    int wanted = topic->many ? (int)init->config->kafka_partitions : 1;
    enum gf_class class;
    int64_t consumed = 0;
    int actual = 0;

    if (pinned != wanted)
        return gf_fail(&init->error, GF_REJECT, 0, "topic %s is pinned to %d partitions, the configuration says %d", name, pinned,
                       wanted);
    class = ask_partitions(init, name, &actual);
    if (class != GF_OK)
        return class;
    if (actual == pinned)
        return GF_OK;
    if (actual != 0)
        return gf_fail(&init->error, GF_REJECT, 0, "topic %s is pinned to %d partitions, Kafka has %d", name, pinned, actual);
    if (!topic->commands)
        return gf_sql_execf(init->sql, &init->error, "UPDATE topic SET incarnation = incarnation + 1 WHERE topic = '%s'", name);
    if (init->new_log == GF_INIT_ALL_PARTITIONS)
        return GF_OK;
    class = gf_init_query_i64(init, &consumed, "SELECT COALESCE(MAX(next_offset), 0) FROM progress WHERE live = 1");
    if (class == GF_OK && consumed > 0)
        return gf_fail(&init->error, GF_REJECT, 0,
                       "topic %s is gone from Kafka although records of it were settled; --new-log all makes it anew", name);
    return class;
}

/* Log numbers are handed out here and nowhere else, from max + 1. */
static enum gf_class insert_logs(struct init *init, const char *name, int partitions)
{
    int64_t log = 0;
    enum gf_class class = gf_init_query_i64(init, &log, "SELECT COALESCE(MAX(log), 0) FROM progress FOR UPDATE");

    for (int part = 0; part < partitions && class == GF_OK; part++)
        class = gf_sql_execf(init->sql, &init->error,
                             "INSERT INTO progress (log, topic, part, incarnation, live, partitions) VALUES "
                             "(%" PRId64 ", '%s', %d, 1, 1, %d)",
                             log + 1 + part, name, part, partitions);
    if (class == GF_OK)
        class = gf_sql_execf(init->sql, &init->error,
                             "INSERT INTO rollup (log) SELECT p.log FROM progress p LEFT JOIN rollup r ON r.log = p.log "
                             "WHERE r.log IS NULL");
    return class;
}

static enum gf_class pin(struct init *init, const struct topic *topic, const char *name)
{
    int partitions = topic->many ? (int)init->config->kafka_partitions : 1;
    enum gf_class class = gf_sql_begin(init->sql, &init->error);

    if (class == GF_OK)
        class = gf_sql_execf(init->sql, &init->error, "INSERT INTO topic VALUES ('%s', 1, %d, %" PRId64 ")", name, partitions,
                             gf_clock_real_ms());
    if (class == GF_OK && topic->commands)
        class = insert_logs(init, name, partitions);
    if (class == GF_OK)
        class = gf_sql_commit(init->sql, &init->error);
    if (class != GF_OK)
        gf_sql_rollback(init->sql);
    return class;
}

/* A setting that differs loses commands, lets producers choose their price's time, or keeps what must go. */
static enum gf_class check_setting(struct init *init, const struct topic *topic, const char *name,
                                   const struct gf_kafka_setting *setting)
{
    char wanted[64];
    int64_t value = -1, at_least = -1;

    if (strcmp(setting->name, "message.timestamp.type") == 0) {
        gf_copy(wanted, sizeof(wanted), "LogAppendTime");
    } else if (strcmp(setting->name, "cleanup.policy") == 0) {
        gf_copy(wanted, sizeof(wanted), "delete");
    } else if (strcmp(setting->name, "unclean.leader.election.enable") == 0) {
        gf_copy(wanted, sizeof(wanted), "false");
    } else if (strcmp(setting->name, "min.insync.replicas") == 0) {
        at_least = init->config->kafka_min_insync;
    } else if (!topic->commands) {
        return GF_OK; /* nothing that was accepted is lost by the retention of the others */
    } else if (strcmp(setting->name, "retention.bytes") == 0) {
        gf_copy(wanted, sizeof(wanted), "-1");
    } else {
        GF_ASSERT(gf_num_parse_i64(topic->retention_ms, strlen(topic->retention_ms), 0, INT64_MAX, &at_least));
        if (strcmp(setting->value, "-1") == 0) /* for ever */
            return GF_OK;
    }
    if (at_least >= 0) {
        snprintf(wanted, sizeof(wanted), "%" PRId64 " or more", at_least);
        if (gf_num_parse_i64(setting->value, strlen(setting->value), INT64_MIN, INT64_MAX, &value) && value >= at_least)
            return GF_OK;
    } else if (strcmp(setting->value, wanted) == 0) {
        return GF_OK;
    }
    return gf_fail(&init->error, GF_REJECT, 0, "topic %s has %s=%s, wanted is %s: change the topic, then run init again", name,
                   setting->name, setting->value, wanted);
}

/* With fewer copies than planned a lost disk takes what was accepted, or min.insync.replicas can never be met. */
static enum gf_class check_copies(struct init *init, const char *name)
{
    enum gf_class class;
    int copies = 0;

    while ((class = gf_kafka_topic_copies(init->admin, name, &copies, &init->error)) == GF_RETRY &&
           gf_clock_mono_ms() < init->deadline_ms)
        gf_clock_sleep_ms(200);
    if (class == GF_OK && copies < init->config->kafka_replication)
        return gf_fail(&init->error, GF_REJECT, 0, "topic %s has %d copies of a partition, wanted is %" PRId64
                       " or more (kafka.replication): change the topic, then run init again", name, copies,
                       init->config->kafka_replication);
    return class;
}

/* A topic that was there before: somebody else may have made it, or changed it since. */
static enum gf_class check_settings(struct init *init, const struct topic *topic, const char *name)
{
    struct gf_kafka_setting settings[] = {
        {.name = "message.timestamp.type"}, {.name = "cleanup.policy"}, {.name = "retention.ms"}, {.name = "retention.bytes"},
        {.name = "min.insync.replicas"}, {.name = "unclean.leader.election.enable"},
    };
    enum gf_class class;

    while ((class = gf_kafka_topic_settings(init->admin, name, settings, GF_COUNT(settings), &init->error)) == GF_RETRY &&
           gf_clock_mono_ms() < init->deadline_ms)
        gf_clock_sleep_ms(200);
    for (size_t i = 0; i < GF_COUNT(settings) && class == GF_OK; i++)
        class = check_setting(init, topic, name, &settings[i]);
    return class == GF_OK ? check_copies(init, name) : class;
}

static enum gf_class prepare_topic(struct init *init, const struct topic *topic)
{
    int incarnation = 0, pinned = 0;
    bool created = false;
    enum gf_class class;
    char name[GF_CONFIG_TEXT_MAX + 16];

    snprintf(name, sizeof(name), "%s.%s", init->config->kafka_prefix, topic->suffix);
    class = read_pin(init, name, &incarnation, &pinned);
    if (class == GF_OK && incarnation > 0)
        class = check_pinned(init, topic, name, pinned);
    if (class == GF_OK)
        class = create_topic(init, topic, name, &created);
    if (class == GF_OK && !created)
        class = check_settings(init, topic, name);
    if (class == GF_OK && incarnation == 0)
        class = pin(init, topic, name);
    if (class == GF_OK)
        printf("topic %s: %s\n", name, created ? "created" : "there");
    return class;
}

enum gf_class gf_init_topics(struct init *init)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *prefix = init->config->kafka_prefix;
    enum gf_class class = GF_OK;

    if (prefix[strspn(prefix, allowed)] != '\0')
        return gf_fail(&init->error, GF_REJECT, 0, "kafka.prefix may have letters, digits, '.', '_' and '-' only");
    for (size_t i = 0; i < GF_COUNT(topics) && class == GF_OK; i++)
        class = prepare_topic(init, &topics[i]);
    return class;
}
