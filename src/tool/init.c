/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow init`: database, numbered migrations, topics, and the rows that pin them (topic, progress, rollup).
 * A repeat changes nothing; two inits at once wait for each other (a named lock of the server). Blocking; waiting for
 * servers is bounded by --wait, a statement by an hour. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "gf/role.h"
#include "init.h"
#include "migrations.h"
#include "tool.h"

#define STATEMENT_MAX 16384
#define LOCK_WAIT_S 60
#define STATEMENT_MS 3600000 /* of one statement: a migration of a large table takes its time, and so does another init */
#define USAGE "[--wait SECONDS] [--new-log PARTITION|all [--accept-loss] [--yes]]"

enum gf_class gf_init_query_i64(struct init *init, int64_t *value_r, const char *text)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_query(init->sql, text, strlen(text), &result, &init->error);

    if (class != GF_OK)
        return class;
    *value_r = gf_sql_next(result) ? gf_sql_i64(result, 0) : 0;
    gf_sql_result_free(&result);
    return GF_OK;
}

/* A server always has information_schema: the place to stand while our own database does not exist. Whether it does is asked there,
 * not read from a refused connection: of several servers each says something else, as one that is down does. */
static enum gf_class make_database(struct init *init)
{
    struct gf_config *config = gf_xmalloc(sizeof(*config));
    const char *name = init->config->mysql_database;
    char query[GF_CONFIG_TEXT_MAX + 128];
    enum gf_class class;
    int64_t there = 0;

    *config = *init->config;
    gf_copy(config->mysql_database, sizeof(config->mysql_database), "information_schema");
    class = gf_tool_connect(config, init->deadline_ms - gf_clock_mono_ms(), &init->sql, &init->error);
    free(config);
    if (class != GF_OK)
        return class;
    snprintf(query, sizeof(query), "SELECT COUNT(*) FROM schemata WHERE schema_name = '%s'", name);
    class = gf_init_query_i64(init, &there, query);
    if (class == GF_OK && there == 0)
        class = gf_sql_execf(init->sql, &init->error, "CREATE DATABASE IF NOT EXISTS `%s` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", name);
    if (class == GF_OK && there == 0)
        printf("database %s: created\n", name);
    gf_sql_close(&init->sql);
    return class;
}

static enum gf_class open_database(struct init *init)
{
    enum gf_class class = make_database(init);
    int64_t locked = 0;

    if (class == GF_OK)
        class = gf_tool_connect(init->config, init->deadline_ms - gf_clock_mono_ms(), &init->sql, &init->error);
    if (class == GF_OK)
        class = gf_init_query_i64(init, &locked, "SELECT GET_LOCK('giftflow.init', 60)");
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
    enum gf_class class = gf_init_query_i64(init, &tables,
                                    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND "
                                    "table_name = 'schema_migration'");

    if (class == GF_OK && tables > 0)
        class = gf_init_query_i64(init, &applied, "SELECT COALESCE(MAX(number), 0) FROM schema_migration");
    if (class == GF_OK && applied > gf_migrations[gf_migration_count - 1].number)
        return gf_fail(&init->error, GF_REJECT, 0, "the database has migration %" PRId64 ", this program knows %d: it is too old",
                       applied, gf_migrations[gf_migration_count - 1].number);
    for (size_t i = 0; i < gf_migration_count && class == GF_OK; i++)
        if (gf_migrations[i].number > applied)
            class = apply(init, &gf_migrations[i]);
    return class;
}

static enum gf_class init_all(struct init *init)
{
    enum gf_class class = open_database(init);

    if (class == GF_OK)
        class = migrate(init);
    if (class == GF_OK)
        class = gf_kafka_admin_create(init->config, &init->admin, &init->error);
    if (class == GF_OK)
        class = gf_init_topics(init);
    if (class == GF_OK && init->new_log != GF_INIT_NO_PARTITION)
        class = gf_init_new_logs(init);
    return class;
}

/* NULL, or what is wrong with the arguments. */
static const char *parse(struct init *init, int argc, char **argv, int64_t *wait_s_r)
{
    for (int i = 1; i < argc; i++) {
        const char *value;
        int64_t number;

        if (strcmp(argv[i], "--accept-loss") == 0) {
            init->accept_loss = true;
        } else if (strcmp(argv[i], "--yes") == 0) {
            init->yes = true;
        } else if (gf_tool_option(argc, argv, &i, "--new-log", &value)) {
            init->new_log = GF_INIT_ALL_PARTITIONS;
            if (value == NULL)
                return "--new-log takes a partition's number or all";
            if (strcmp(value, "all") == 0)
                continue;
            if (!gf_num_parse_i64(value, strlen(value), 0, 1023, &number))
                return "--new-log takes a partition's number or all";
            init->new_log = (int)number;
        } else if (!gf_tool_option(argc, argv, &i, "--wait", &value)) {
            return "does not know one of these arguments";
        } else if (value == NULL || !gf_num_parse_i64(value, strlen(value), 0, 3600, wait_s_r)) {
            return "--wait takes 0..3600 seconds";
        }
    }
    if (init->new_log == GF_INIT_NO_PARTITION && (init->accept_loss || init->yes))
        return "--accept-loss and --yes belong to --new-log";
    return NULL;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    struct init init = {.new_log = GF_INIT_NO_PARTITION};
    struct gf_config *patient;
    int64_t wait_s = 60;
    const char *problem = parse(&init, argc, argv, &wait_s);
    enum gf_class class;

    if (problem != NULL)
        return gf_tool_usage("init", USAGE, problem);
    patient = gf_xmalloc(sizeof(*patient));
    *patient = *config;
    patient->mysql_read_timeout = STATEMENT_MS;
    init.config = patient;
    init.deadline_ms = gf_clock_mono_ms() + wait_s * 1000;
    class = init_all(&init);
    gf_kafka_admin_close(&init.admin);
    gf_sql_close(&init.sql); /* releases the named lock */
    free(patient);
    if (class == GF_OK)
        return 0;
    fprintf(stderr, "giftflow init: %s\n", init.error.text);
    return 1;
}

const struct gf_role gf_role_init = {
    .name = "init",
    .summary = "database, schema and topics; a repeat changes nothing",
    .usage = USAGE,
    .details = "After settle has stopped a partition because the commands topic was made anew or truncated, or lost records by\n"
               "retention, --new-log closes the partition's log and opens a new one at the first record that Kafka has now.\n"
               "Nothing settled is lost or done twice: a request that comes again is a duplicate. A running settle goes on by\n"
               "itself within seconds. Outcomes of the closed log that were not yet told on the screens stay untold, and what a\n"
               "topic held unsettled when it was deleted is lost: nobody knows any more how much that was.\n"
               "  --new-log PARTITION|all  the partition; all: each one of which something was settled. Makes a lost topic anew\n"
               "  --accept-loss            needed when Kafka begins behind what is settled: those between get no outcome\n"
               "  --yes                    also when the log looks healthy: a topic made anew that is longer already does\n"
               "  --wait SECONDS           how long to wait for MySQL and Kafka (60)\n",
    .needs_config = true,
    .run = run,
};
