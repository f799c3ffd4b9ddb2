/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow init`: database, numbered migrations, topics, and the rows that pin them (topic, progress, rollup).
 * A repeat changes nothing; two inits at once wait for each other (a named lock of the server). What was pinned and differs
 * now is an error that names both sides: partitions decide which process owns a wallet, so they never change by accident.
 * Blocking; every wait is bounded by --wait. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/kafka.h"
#include "gf/num.h"
#include "gf/role.h"
#include "migrations.h"
#include "tool.h"

#define STATEMENT_MAX 16384
#define LOCK_WAIT_S 60
#define USAGE "[--wait SECONDS]"

struct init {
    const struct gf_config *config;
    struct gf_sql *sql;
    struct gf_kafka_admin *admin;
    int64_t deadline_ms;
    struct gf_error error;
};

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

static enum gf_class query_i64(struct init *init, int64_t *value_r, const char *text)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_query(init->sql, text, strlen(text), &result, &init->error);

    if (class != GF_OK)
        return class;
    *value_r = gf_sql_next(result) ? gf_sql_i64(result, 0) : 0;
    gf_sql_result_free(&result);
    return GF_OK;
}

/* A server always has information_schema: the place to stand while our own database does not exist. */
static enum gf_class create_database(struct init *init)
{
    struct gf_config *config = gf_xmalloc(sizeof(*config));
    enum gf_class class;

    *config = *init->config;
    gf_copy(config->mysql_database, sizeof(config->mysql_database), "information_schema");
    class = gf_tool_connect(config, 0, &init->sql, &init->error);
    free(config);
    if (class != GF_OK)
        return class;
    class = gf_sql_execf(init->sql, &init->error,
                         "CREATE DATABASE IF NOT EXISTS `%s` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                         init->config->mysql_database);
    gf_sql_close(&init->sql);
    return class;
}

static enum gf_class open_database(struct init *init)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    const char *name = init->config->mysql_database;
    int64_t wait_ms = init->deadline_ms - gf_clock_mono_ms();
    enum gf_class class;
    int64_t locked = 0;

    if (name[strspn(name, allowed)] != '\0')
        return gf_fail(&init->error, GF_REJECT, 0, "mysql.database may have letters, digits and _ only");
    class = gf_tool_connect(init->config, wait_ms, &init->sql, &init->error);
    if (class != GF_OK && init->error.native == 1049) { /* unknown database */
        class = create_database(init);
        if (class == GF_OK)
            class = gf_tool_connect(init->config, wait_ms, &init->sql, &init->error);
        if (class == GF_OK)
            printf("database %s: created\n", name);
    }
    if (class == GF_OK)
        class = query_i64(init, &locked, "SELECT GET_LOCK('giftflow.init', 60)");
    if (class == GF_OK && locked != 1)
        return gf_fail(&init->error, GF_RETRY, 0, "another init has been running for %d s", LOCK_WAIT_S);
    return class;
}

static enum gf_class apply(struct init *init, const struct gf_migration *migration)
{
    static char statement[STATEMENT_MAX];
    size_t pos = 0, len;

    while ((len = gf_migration_statement(migration->text, migration->len, &pos, statement, sizeof(statement))) > 0) {
        enum gf_class class = gf_sql_exec(init->sql, statement, len, NULL, &init->error);

        if (class != GF_OK)
            return class;
    }
    printf("migration %s: applied\n", migration->name);
    return gf_sql_execf(init->sql, &init->error, "INSERT INTO schema_migration VALUES (%d, '%s', %" PRId64 ")",
                        migration->number, migration->name, gf_clock_real_ms());
}

static enum gf_class migrate(struct init *init)
{
    int64_t applied = 0, tables = 0;
    enum gf_class class = query_i64(init, &tables,
                                    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND "
                                    "table_name = 'schema_migration'");

    if (class == GF_OK && tables > 0)
        class = query_i64(init, &applied, "SELECT COALESCE(MAX(number), 0) FROM schema_migration");
    if (class == GF_OK && applied > gf_migrations[gf_migration_count - 1].number)
        return gf_fail(&init->error, GF_REJECT, 0, "the database has migration %" PRId64 ", this program knows %d: it is too old",
                       applied, gf_migrations[gf_migration_count - 1].number);
    for (size_t i = 0; i < gf_migration_count && class == GF_OK; i++)
        if (gf_migrations[i].number > applied)
            class = apply(init, &gf_migrations[i]);
    return class;
}

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
    class = query_i64(init, &consumed, "SELECT COALESCE(MAX(next_offset), 0) FROM progress WHERE live = 1");
    if (class == GF_OK && consumed > 0)
        return gf_fail(&init->error, GF_REJECT, 0, "topic %s is gone from Kafka although records of it were settled", name);
    return class;
}

/* Log numbers are handed out here and nowhere else, from max + 1. */
static enum gf_class insert_logs(struct init *init, const char *name, int partitions)
{
    int64_t log = 0;
    enum gf_class class = query_i64(init, &log, "SELECT COALESCE(MAX(log), 0) FROM progress FOR UPDATE");

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
    if (class == GF_OK && incarnation == 0)
        class = pin(init, topic, name);
    if (class == GF_OK)
        printf("topic %s: %s\n", name, created ? "created" : "there");
    return class;
}

static enum gf_class init_all(struct init *init)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *prefix = init->config->kafka_prefix;
    enum gf_class class;

    if (prefix[strspn(prefix, allowed)] != '\0')
        return gf_fail(&init->error, GF_REJECT, 0, "kafka.prefix may have letters, digits, '.', '_' and '-' only");
    class = open_database(init);
    if (class == GF_OK)
        class = migrate(init);
    if (class == GF_OK)
        class = gf_kafka_admin_create(init->config, &init->admin, &init->error);
    for (size_t i = 0; i < GF_COUNT(topics) && class == GF_OK; i++)
        class = prepare_topic(init, &topics[i]);
    return class;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    struct init init = {.config = config};
    int64_t wait_s = 60;
    enum gf_class class;

    for (int i = 1; i < argc; i++) {
        const char *value;

        if (!gf_tool_option(argc, argv, &i, "--wait", &value) || value == NULL ||
            !gf_num_parse_i64(value, strlen(value), 0, 3600, &wait_s))
            return gf_tool_usage("init", USAGE, "--wait takes 0..3600 seconds and is the only option");
    }
    init.deadline_ms = gf_clock_mono_ms() + wait_s * 1000;
    class = init_all(&init);
    gf_kafka_admin_close(&init.admin);
    gf_sql_close(&init.sql); /* releases the named lock */
    if (class == GF_OK)
        return 0;
    fprintf(stderr, "giftflow init: %s\n", init.error.text);
    return 1;
}

const struct gf_role gf_role_init = {
    .name = "init",
    .summary = "database, schema and topics; a repeat changes nothing",
    .usage = USAGE,
    .needs_config = true,
    .run = run,
};
