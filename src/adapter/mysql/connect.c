/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a connection, the same way for every role and tool: the servers of mysql.hosts in turn, at every address of their
 * names, until one is a writable primary that reads its tables. The server that worked last is tried first, so that after a
 * failover nobody waits for the dead one again and again, nor for the look-up of its name. Threads: any; which server that was,
 * and why none was found, is shared by the process.
 * Failures: every address is given up after mysql.connect_timeout, and its statements after mysql.read_timeout; a name's look-up
 * takes as long as the resolver lets it. What each has said is in the error. There is no loop here: callers retry with their own
 * pauses. */
#include <errmsg.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sql_internal.h"

#define ADDRESSES_MAX 16 /* of one name */

enum {
    ERR_UNKNOWN_TABLE = 1109, /* information_schema says it so: where init stands before our database exists */
    ERR_NO_SUCH_TABLE = 1146,
    ERR_UNKNOWN_VARIABLE = 1193,
    ERR_READ_ONLY = 1290,
};

/* What connecting needs, gathered once for all servers. */
struct target {
    const struct gf_config *config;
    enum gf_sql_session session;
    struct gf_host hosts[GF_MYSQL_HOSTS_MAX];
    int count;
    char password[256];
};

/* Of the server that worked last, or the one behind it: which of mysql.hosts, which address of its name. Only a hint. */
static atomic_int good_host, good_address;
static struct {
    pthread_mutex_t lock;
    char text[sizeof((struct gf_error *)0)->text];
} trouble = {.lock = PTHREAD_MUTEX_INITIALIZER};

void gf_sql_avoid(const struct gf_sql *sql)
{
    int host = sql->host;

    if (!sql->last_address)
        atomic_store(&good_address, sql->address + 1);
    else if (atomic_compare_exchange_strong(&good_host, &host, host + 1)) /* else another thread has moved it */
        atomic_store(&good_address, 0);
}

static void set_trouble(const char *text)
{
    pthread_mutex_lock(&trouble.lock);
    gf_copy(trouble.text, sizeof(trouble.text), text);
    pthread_mutex_unlock(&trouble.lock);
}

void gf_sql_add_trouble(struct gf_buf *reason)
{
    pthread_mutex_lock(&trouble.lock);
    if (trouble.text[0] != '\0') {
        gf_buf_adds(reason, ": ");
        gf_buf_adds(reason, trouble.text);
    }
    pthread_mutex_unlock(&trouble.lock);
}

/* The protocol: left to themselves the libraries take the name "localhost" for their own default socket. */
static enum gf_class set_options(struct gf_sql *sql, const struct gf_config *config, bool socket, struct gf_error *error_r)
{
    unsigned protocol = socket ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP;
    unsigned connect_s = (unsigned)((config->mysql_connect_timeout + 999) / 1000);
    unsigned io_s = (unsigned)((config->mysql_read_timeout + 999) / 1000);
    unsigned no_local_infile = 0;
    int bad = 0;

    bad |= mysql_options(&sql->my, MYSQL_OPT_PROTOCOL, &protocol);
    bad |= mysql_options(&sql->my, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s); /* covers the server's greeting too */
    bad |= mysql_options(&sql->my, MYSQL_OPT_READ_TIMEOUT, &io_s);
    bad |= mysql_options(&sql->my, MYSQL_OPT_WRITE_TIMEOUT, &io_s);
    bad |= mysql_options(&sql->my, MYSQL_OPT_LOCAL_INFILE, &no_local_infile);
    bad |= mysql_options(&sql->my, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    return bad ? gf_fail(error_r, GF_FATAL, 0, "mysql client refuses an option") : GF_OK;
}

/* A variable that this server has not is no failure. */
static enum gf_class set_if_known(struct gf_sql *sql, const char *text, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_exec(sql, text, strlen(text), NULL, error_r);

    return class != GF_OK && error_r->native == ERR_UNKNOWN_VARIABLE ? GF_OK : class;
}

static enum gf_class set_session(struct gf_sql *sql, enum gf_sql_session session, struct gf_error *error_r)
{
    static const char *const texts[] = {
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone='+00:00', autocommit=1",
        /* MariaDB turns IN lists of 1000 and more into a join that locks in list order; MySQL has no such variable. */
        "SET SESSION in_predicate_conversion_threshold=0",
        /* F6: a stopped owner must not hold its locks longer than a take-over waits. */
        "SET SESSION wait_timeout=10, net_read_timeout=10, net_write_timeout=10, innodb_lock_wait_timeout=5",
    };
    size_t count = session == GF_SQL_SETTLE ? GF_COUNT(texts) : GF_COUNT(texts) - 1;
    enum gf_class class = GF_OK;

    for (size_t i = 0; i < count && class == GF_OK; i++)
        class = set_if_known(sql, texts[i], error_r);
    return class;
}

/* SHOW and not SELECT @@: not every server has super_read_only, and newer ones say more than 0 and 1 for read_only. */
static enum gf_class check_writable(struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "%s",
                                        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only','super_read_only')");
    bool writable = true;

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        size_t len;
        const char *value = gf_sql_bytes(result, 1, &len);

        writable = writable && len == 3 && memcmp(value, "OFF", 3) == 0;
    }
    gf_sql_result_free(&result);
    if (writable)
        return GF_OK;
    gf_sql_lose(sql); /* whatever it is asked for: the next connection goes to the primary */
    return gf_fail(error_r, GF_RETRY, ERR_READ_ONLY, "server is read-only: no primary");
}

/* A longer packet only breaks the connection, as a network would: settlement would repeat one dead letter for ever. */
static enum gf_class check_packet(struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SELECT @@max_allowed_packet");
    int64_t max;

    if (class != GF_OK)
        return class;
    max = gf_sql_next(result) ? gf_sql_i64(result, 0) : 0;
    gf_sql_result_free(&result);
    return max >= GF_SQL_PACKET_MIN ? GF_OK
                                    : gf_fail(error_r, GF_RETRY, 0, "max_allowed_packet is %lld, at least %u is needed",
                                              (long long)max, GF_SQL_PACKET_MIN);
}

/* A Galera node without its cluster answers everything but statements on tables (1047). One that has it may lag behind what
 * another node has committed; the session reads nothing from before that, in a transaction from BEGIN on: it resolves unknown
 * COMMITs of other nodes (F7), compares with Redis, which may have heard of a commit before its node, and would bury a credit's
 * command that stands in Kafka before the credit has come to its node. */
static enum gf_class check_tables(struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = set_if_known(sql, "SET SESSION wsrep_sync_wait=7", error_r);

    if (class == GF_OK)
        class = gf_sql_queryf(sql, &result, error_r, "SELECT 1 FROM progress LIMIT 1");
    gf_sql_result_free(&result);
    if (class != GF_OK && (error_r->native == ERR_NO_SUCH_TABLE || error_r->native == ERR_UNKNOWN_TABLE)) /* init has not run */
        class = GF_OK;
    return class;
}

static enum gf_class connect_one(const struct target *target, const struct gf_host *host, struct gf_sql **sql_r,
                                 struct gf_error *error_r)
{
    const struct gf_config *config = target->config;
    struct gf_sql *sql = gf_xcalloc(1, sizeof(*sql));
    bool socket = host->port == 0;
    enum gf_class class;

    GF_ASSERT(mysql_init(&sql->my) != NULL);
    class = set_options(sql, config, socket, error_r);
    if (class == GF_OK && mysql_real_connect(&sql->my, socket ? NULL : host->name, config->mysql_user, target->password,
                                             config->mysql_database, (unsigned)host->port, socket ? host->name : NULL,
                                             0) == NULL) {
        /* Whatever the reason (down, starting, password just rotated): later it may work. */
        (void)gf_sql_fail(sql, (int)mysql_errno(&sql->my), mysql_error(&sql->my), error_r);
        class = error_r->class = GF_RETRY;
    }
    if (class == GF_OK)
        class = set_session(sql, target->session, error_r);
    if (class == GF_OK)
        class = check_writable(sql, error_r);
    if (class == GF_OK)
        class = check_tables(sql, error_r);
    if (class == GF_OK && target->session == GF_SQL_SETTLE)
        class = check_packet(sql, error_r);
    if (class == GF_OK) {
        *sql_r = sql;
        return GF_OK;
    }
    gf_sql_lose(sql);
    gf_sql_close(&sql);
    return class;
}

/* Adds what one of so many servers has said, each with its share of the text. A number remains only where all have the same. */
static void add_failure(const struct target *target, int at, const struct gf_error *error, struct gf_error *all_r)
{
    const struct gf_host *host = &target->hosts[at];
    bool first = all_r->text[0] == '\0';
    int room = (int)sizeof(all_r->text) / target->count - 8; /* 8: the port and what stands between */
    int name = (int)strlen(host->name) < room / 2 ? (int)strlen(host->name) : room / 2;
    enum gf_class class = first || error->class == GF_RETRY ? error->class : all_r->class;
    int native = first || all_r->native == error->native ? error->native : 0;
    char said[sizeof(all_r->text)], port[16] = "";

    gf_copy(said, sizeof(said), all_r->text);
    if (host->port != 0)
        (void)snprintf(port, sizeof(port), ":%d", host->port);
    (void)gf_fail(all_r, class, native, "%s%s%.*s%s: %.*s", said, first ? "" : "; ", name, host->name, port, room - name,
                  error->text);
}

/* The numbers of host's addresses, or its socket; 0: error_r says why there are none. */
static int find_addresses(const struct gf_host *host, struct gf_host servers_r[ADDRESSES_MAX], struct gf_error *error_r)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int count = 0, rc;

    servers_r[0] = *host;
    if (host->port == 0)
        return 1;
    rc = getaddrinfo(host->name, NULL, &hints, &list);
    if (rc != 0) {
        (void)gf_fail(error_r, GF_RETRY, 0, "%s", gai_strerror(rc));
        return 0;
    }
    for (const struct addrinfo *at = list; at != NULL && count < ADDRESSES_MAX; at = at->ai_next) {
        struct gf_host *server = &servers_r[count++];

        *server = *host;
        rc = getnameinfo(at->ai_addr, at->ai_addrlen, server->name, sizeof(server->name), NULL, 0, NI_NUMERICHOST);
        GF_ASSERT(rc == 0); /* numbers only, and room for them */
    }
    freeaddrinfo(list);
    return count;
}

static bool is_unreached(const struct gf_error *error)
{
    return error->native >= CR_MIN_ERROR && error->native <= CR_MAX_ERROR;
}

/* Every address of a name is a server of its own: the library would take the first that answers, a replica perhaps. What one has
 * said counts more than that another cannot be reached: localhost may be two addresses, of which a server has one. */
static enum gf_class connect_host(const struct target *target, int at, struct gf_sql **sql_r, struct gf_error *error_r)
{
    int first = at == atomic_load(&good_host) ? atomic_load(&good_address) : 0, count;
    struct gf_host servers[ADDRESSES_MAX];

    count = find_addresses(&target->hosts[at], servers, error_r);
    for (int i = 0; i < count; i++) {
        int address = (first + i) % count;
        struct gf_error error = {0};

        if (connect_one(target, &servers[address], sql_r, &error) == GF_OK) {
            (*sql_r)->host = at;
            (*sql_r)->address = address;
            (*sql_r)->last_address = address + 1 == count;
            atomic_store(&good_host, at);
            atomic_store(&good_address, address);
            return GF_OK;
        }
        if (i == 0 || (is_unreached(error_r) && !is_unreached(&error)))
            *error_r = error;
    }
    return error_r->class;
}

static enum gf_class connect_any(const struct target *target, struct gf_sql **sql_r, struct gf_error *error_r)
{
    int first = atomic_load(&good_host) % target->count;
    struct gf_error all = {0};

    for (int i = 0; i < target->count; i++) {
        int at = (first + i) % target->count;
        struct gf_error error = {0};

        if (connect_host(target, at, sql_r, &error) == GF_OK) {
            set_trouble("");
            return GF_OK;
        }
        add_failure(target, at, &error, &all);
    }
    set_trouble(all.text);
    if (error_r != NULL)
        *error_r = all;
    return all.class;
}

/* The file's text without its trailing newline; an empty path is an empty password. */
static enum gf_class read_password(const struct gf_config *config, char *password_r, size_t size, struct gf_error *error_r)
{
    size_t len;

    password_r[0] = '\0';
    if (config->mysql_password_file[0] == '\0')
        return GF_OK;
    return gf_config_secret(config->mysql_password_file, password_r, size, &len, error_r);
}

enum gf_class gf_sql_connect(const struct gf_config *config, enum gf_sql_session session, struct gf_sql **sql_r,
                             struct gf_error *error_r)
{
    struct target target = {.config = config, .session = session};
    enum gf_class class = read_password(config, target.password, sizeof(target.password), error_r);

    target.count = gf_config_mysql_hosts(config, target.hosts);
    GF_ASSERT(target.count > 0); /* gf_config_load has seen to it */
    if (class == GF_OK)
        class = connect_any(&target, sql_r, error_r);
    explicit_bzero(target.password, sizeof(target.password));
    return class;
}

/* A server that was the primary when the connection was made may be a replica now, with a connection that reads on. */
enum gf_class gf_sql_ping(struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_error error = {0};
    enum gf_class class = check_writable(sql, &error);

    if (class != GF_OK && error_r != NULL)
        *error_r = error;
    return class;
}
