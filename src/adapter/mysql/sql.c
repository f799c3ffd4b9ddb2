/* SPDX-License-Identifier: Apache-2.0 */
/* One MySQL/MariaDB connection by the client library's blocking calls. See gf/sql.h for the contract.
 * How it is opened is in connect.c. Owns the handle and its results. One thread per connection. Only API that MariaDB Connector/C and Oracle's libmysqlclient
 * share is used; errors are told apart by number, never by text (texts differ between servers and versions). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"
#include "sql_internal.h"

#define STATEMENT_MAX (16u << 20) /* of gf_sql_execf and gf_sql_queryf; large statements are built in a gf_buf */

enum {
    ERR_DUPLICATE = 1062,
    CLIENT_FIRST = 2000, /* 2000..2999: raised by the client library */
    CLIENT_LAST = 2999,
    CLIENT_PACKET_TOO_LARGE = 2020,
};

struct gf_sql_result {
    struct gf_sql *sql;
    MYSQL_RES *res;
    MYSQL_ROW row;
    unsigned long *lengths;
    int columns;
    bool stored;
};

/* What a server error means. REJECT is said only of errors that the values of a statement cause: settlement buries the
 * record for it. Numbers not listed are FATAL, and unknown: settlement finds out by halving whether a record is at fault. */
struct error_row {
    int number;
    enum gf_class class;
    bool lost;
};

/* clang-format off */
static const struct error_row error_rows[] = {
    {1048, GF_REJECT, false}, /* column cannot be NULL */
    {1062, GF_REJECT, false}, /* duplicate key */
    {1064, GF_REJECT, false}, /* syntax */
    {1264, GF_REJECT, false}, /* out of range */
    {1265, GF_REJECT, false}, /* truncated */
    {1292, GF_REJECT, false}, /* incorrect value */
    {1295, GF_REJECT, false}, /* not a statement that can be prepared: text will do */
    {1300, GF_REJECT, false}, /* invalid character string */
    {1366, GF_REJECT, false}, /* incorrect integer or string */
    {1367, GF_REJECT, false}, /* illegal value */
    {1406, GF_REJECT, false}, /* data too long */
    {1411, GF_REJECT, false}, /* incorrect value for a function */
    {1451, GF_REJECT, false}, /* foreign key (an operator's own) */
    {1452, GF_REJECT, false},
    {1644, GF_REJECT, false}, /* SIGNAL (an operator's trigger) */
    {1690, GF_REJECT, false}, /* arithmetic out of range */
    {3819, GF_REJECT, false}, /* MySQL: CHECK */
    {4025, GF_REJECT, false}, /* MariaDB: CHECK */
    {1016, GF_FATAL, false}, /* a table's file cannot be opened */
    {1017, GF_FATAL, false}, /* .. found */
    {1020, GF_RETRY, false}, /* record changed since last read (snapshot isolation) */
    {1021, GF_RETRY, false}, /* disk full */
    {1030, GF_RETRY, false}, /* storage engine error */
    {1033, GF_FATAL, false}, /* a table's definition is damaged */
    {1034, GF_FATAL, false}, /* .. its index */
    {1036, GF_RETRY, true},  /* the table is read-only: the engine is, innodb_force_recovery say */
    {1037, GF_RETRY, false}, /* out of memory */
    {1038, GF_RETRY, false}, /* out of sort memory */
    {1040, GF_RETRY, true},  /* too many connections */
    {1041, GF_RETRY, false}, /* out of resources */
    {1044, GF_FATAL, false}, /* access denied to database */
    {1045, GF_FATAL, false}, /* access denied */
    {1046, GF_FATAL, false}, /* no database */
    {1047, GF_RETRY, true},  /* Galera: node not ready */
    {1049, GF_FATAL, false}, /* unknown database */
    {1053, GF_RETRY, true},  /* server shutdown */
    {1054, GF_FATAL, false}, /* unknown column: schema and program differ */
    {1079, GF_RETRY, true},  /* shutdown */
    {1114, GF_RETRY, false}, /* table is full (disk) */
    {1129, GF_RETRY, true},  /* host blocked */
    {1136, GF_FATAL, false}, /* column count: schema and program differ */
    {1142, GF_FATAL, false}, /* command denied */
    {1143, GF_FATAL, false}, /* column denied */
    {1146, GF_FATAL, false}, /* no such table */
    {1152, GF_RETRY, true},  /* aborted connection */
    {1153, GF_REJECT, true}, /* packet larger than max_allowed_packet: the server closes */
    {1158, GF_RETRY, true},  /* network errors and time-outs of the server's side */
    {1159, GF_RETRY, true},
    {1160, GF_RETRY, true},
    {1161, GF_RETRY, true},
    {1180, GF_RETRY, false}, /* error during commit */
    {1184, GF_RETRY, true},  /* aborting connection */
    {1194, GF_FATAL, false}, /* table is marked as crashed */
    {1195, GF_FATAL, false},
    {1203, GF_RETRY, true},  /* too many connections of this user */
    {1205, GF_RETRY, false}, /* lock wait time-out: rolls back the statement only */
    {1206, GF_RETRY, false}, /* lock table full */
    {1213, GF_RETRY, false}, /* deadlock: rolled back */
    {1226, GF_RETRY, false}, /* user's resource limit */
    {1243, GF_RETRY, true},  /* the server does not know our prepared statement any more */
    {1290, GF_RETRY, true},  /* --read-only: no longer the primary */
    {1317, GF_RETRY, false}, /* interrupted (KILL QUERY) */
    {1364, GF_FATAL, false}, /* a column of somebody's own without a default */
    {1370, GF_FATAL, false}, /* routine denied (an operator's trigger) */
    {1449, GF_FATAL, false}, /* its definer is gone */
    {1637, GF_RETRY, false}, /* too many transactions */
    {1712, GF_FATAL, false}, /* an index is corrupted */
    {1792, GF_RETRY, true},  /* read-only transaction */
    {1812, GF_FATAL, false}, /* tablespace is missing */
    {1814, GF_FATAL, false}, /* tablespace is discarded */
    {1836, GF_RETRY, true},  /* read-only mode */
    {1877, GF_FATAL, false}, /* table is corrupted */
    {1878, GF_RETRY, false}, /* temporary file write failure */
    {1881, GF_RETRY, true},  /* not while innodb_force_recovery is on */
    {1927, GF_RETRY, true},  /* MariaDB: connection was killed */
    {1932, GF_FATAL, false}, /* the engine has no such table */
    {1969, GF_RETRY, false}, /* MariaDB: max_statement_time */
    {3024, GF_RETRY, false}, /* MySQL: max_execution_time */
    {3100, GF_RETRY, false}, /* group replication: commit refused */
    {3101, GF_RETRY, false}, /* group replication: rolled back by certification */
    {4031, GF_RETRY, true},  /* MySQL: closed for inactivity */
    {8002, GF_RETRY, false}, /* TiDB: write conflict and friends */
    {8022, GF_RETRY, false},
    {8028, GF_RETRY, false},
    {9001, GF_RETRY, false},
    {9002, GF_RETRY, false},
    {9003, GF_RETRY, false},
    {9004, GF_RETRY, false},
    {9005, GF_RETRY, false},
    {9007, GF_RETRY, false},
};
/* clang-format on */

static struct error_row classify(int number)
{
    struct error_row row = {.number = number, .class = GF_FATAL, .lost = false};

    if (number >= CLIENT_FIRST && number <= CLIENT_LAST) {
        row.class = number == CLIENT_PACKET_TOO_LARGE ? GF_REJECT : GF_RETRY;
        row.lost = true;
        return row;
    }
    for (size_t i = 0; i < GF_COUNT(error_rows); i++)
        if (error_rows[i].number == number)
            return error_rows[i];
    return row;
}

/* Answers of a server that is no primary, or no longer, though it may say read_only=OFF: innodb_force_recovery, say. */
static bool takes_no_writes(int number)
{
    return number == 1036 || number == 1047 || number == 1290 || number == 1792 || number == 1836 || number == 1881;
}

void gf_sql_lose(struct gf_sql *sql)
{
    if (!sql->lost)
        gf_metric_add(GF_M_MYSQL_DOWN, 1);
    sql->lost = true;
}

enum gf_class gf_sql_fail(struct gf_sql *sql, int number, const char *text, struct gf_error *error_r)
{
    struct error_row row = classify(number);

    if (number == 0) { /* a failure without a number: nothing is known about the connection any more */
        row.class = GF_RETRY;
        row.lost = true;
    }
    if (row.lost)
        gf_sql_lose(sql);
    if (takes_no_writes(number))
        gf_sql_avoid(sql);
    return gf_fail(error_r, row.class, number, "mysql %d: %.180s", number, text);
}

static enum gf_class fail(struct gf_sql *sql, struct gf_error *error_r)
{
    return gf_sql_fail(sql, (int)mysql_errno(&sql->my), mysql_error(&sql->my), error_r);
}

void gf_sql_library_init(void)
{
    GF_ASSERT(mysql_library_init(0, NULL, NULL) == 0);
}

void gf_sql_close(struct gf_sql **sql)
{
    if (sql == NULL || *sql == NULL)
        return;
    mysql_close(&(*sql)->my);
    free(*sql);
    *sql = NULL;
}

bool gf_sql_lost(const struct gf_sql *sql)
{
    return sql->lost;
}

enum gf_class gf_sql_exec(struct gf_sql *sql, const char *text, size_t len, int64_t *affected_r, struct gf_error *error_r)
{
    if (mysql_real_query(&sql->my, text, (unsigned long)len) != 0)
        return fail(sql, error_r);
    GF_ASSERT(mysql_field_count(&sql->my) == 0); /* a query belongs into gf_sql_query */
    if (affected_r != NULL)
        *affected_r = (int64_t)mysql_affected_rows(&sql->my);
    return GF_OK;
}

static GF_PRINTF(2, 0) void format_statement(struct gf_buf *text, const char *fmt, va_list args)
{
    va_list again;
    char *room;
    int len;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    GF_ASSERT(len >= 0 && (size_t)len < STATEMENT_MAX);
    gf_buf_init(text, STATEMENT_MAX);
    room = gf_buf_reserve(text, (size_t)len);
    GF_ASSERT(room != NULL);
    (void)vsnprintf(room, (size_t)len + 1, fmt, args);
    text->len += (size_t)len;
}

enum gf_class gf_sql_execf(struct gf_sql *sql, struct gf_error *error_r, const char *fmt, ...)
{
    struct gf_buf text;
    enum gf_class class;
    va_list args;

    va_start(args, fmt);
    format_statement(&text, fmt, args);
    va_end(args);
    class = gf_sql_exec(sql, text.data, text.len, NULL, error_r);
    gf_buf_free(&text);
    return class;
}

static bool query(struct gf_sql *sql, const char *text, size_t len, bool stored, struct gf_sql_result **result_r)
{
    struct gf_sql_result *result;
    MYSQL_RES *res;

    if (mysql_real_query(&sql->my, text, (unsigned long)len) != 0)
        return false;
    res = stored ? mysql_store_result(&sql->my) : mysql_use_result(&sql->my);
    if (res == NULL) {
        GF_ASSERT(mysql_errno(&sql->my) != 0); /* a statement without a result belongs into gf_sql_exec */
        return false;
    }
    result = gf_xcalloc(1, sizeof(*result));
    result->sql = sql;
    result->res = res;
    result->stored = stored;
    result->columns = (int)mysql_num_fields(res);
    *result_r = result;
    return true;
}

enum gf_class gf_sql_query(struct gf_sql *sql, const char *text, size_t len, struct gf_sql_result **result_r,
                           struct gf_error *error_r)
{
    return query(sql, text, len, true, result_r) ? GF_OK : fail(sql, error_r);
}

enum gf_class gf_sql_stream(struct gf_sql *sql, const char *text, size_t len, struct gf_sql_result **result_r,
                            struct gf_error *error_r)
{
    return query(sql, text, len, false, result_r) ? GF_OK : fail(sql, error_r);
}

enum gf_class gf_sql_queryf(struct gf_sql *sql, struct gf_sql_result **result_r, struct gf_error *error_r, const char *fmt,
                            ...)
{
    struct gf_buf text;
    enum gf_class class;
    va_list args;

    va_start(args, fmt);
    format_statement(&text, fmt, args);
    va_end(args);
    class = gf_sql_query(sql, text.data, text.len, result_r, error_r);
    gf_buf_free(&text);
    return class;
}

int64_t gf_sql_result_count(const struct gf_sql_result *result)
{
    GF_ASSERT(result->stored);
    return (int64_t)mysql_num_rows(result->res);
}

bool gf_sql_next(struct gf_sql_result *result)
{
    result->row = mysql_fetch_row(result->res);
    result->lengths = result->row != NULL ? mysql_fetch_lengths(result->res) : NULL;
    return result->row != NULL;
}

bool gf_sql_result_failed(struct gf_sql_result *result, struct gf_error *error_r)
{
    if (result->stored || mysql_errno(&result->sql->my) == 0)
        return false;
    (void)fail(result->sql, error_r);
    return true;
}

bool gf_sql_is_null(const struct gf_sql_result *result, int column)
{
    GF_ASSERT(result->row != NULL && column >= 0 && column < result->columns);
    return result->row[column] == NULL;
}

int64_t gf_sql_i64(const struct gf_sql_result *result, int column)
{
    int64_t value = 0;

    if (gf_sql_is_null(result, column))
        return 0;
    GF_ASSERT(gf_num_parse_i64(result->row[column], (size_t)result->lengths[column], INT64_MIN, INT64_MAX, &value));
    return value;
}

const char *gf_sql_bytes(const struct gf_sql_result *result, int column, size_t *len_r)
{
    if (gf_sql_is_null(result, column)) {
        *len_r = 0;
        return NULL;
    }
    *len_r = (size_t)result->lengths[column];
    return result->row[column];
}

void gf_sql_uuid(const struct gf_sql_result *result, int column, struct gf_uuid *id_r)
{
    GF_ASSERT(!gf_sql_is_null(result, column) && result->lengths[column] == sizeof(id_r->b));
    memcpy(id_r->b, result->row[column], sizeof(id_r->b));
}

void gf_sql_result_free(struct gf_sql_result **result)
{
    if (result == NULL || *result == NULL)
        return;
    mysql_free_result((*result)->res); /* a streamed result is read to its end here */
    free(*result);
    *result = NULL;
}

void gf_sql_add_text(struct gf_sql *sql, struct gf_buf *out, const char *text, size_t len)
{
    char *room;

    gf_buf_addc(out, '\'');
    room = gf_buf_reserve(out, 2 * len + 1);
    if (room == NULL)
        return; /* the buffer remembers its overflow */
    out->len += mysql_real_escape_string(&sql->my, room, text, (unsigned long)len);
    gf_buf_addc(out, '\'');
}

enum gf_class gf_sql_begin(struct gf_sql *sql, struct gf_error *error_r)
{
    return gf_sql_exec(sql, "BEGIN", 5, NULL, error_r);
}

static enum gf_class uncertain(struct gf_sql *sql, struct gf_error *error_r)
{
    (void)fail(sql, error_r);
    if (error_r != NULL)
        error_r->class = GF_UNCERTAIN;
    return GF_UNCERTAIN;
}

enum gf_class gf_sql_commit_send(struct gf_sql *sql, struct gf_error *error_r)
{
    return mysql_send_query(&sql->my, "COMMIT", 6) == 0 ? GF_OK : uncertain(sql, error_r);
}

enum gf_class gf_sql_commit_answer(struct gf_sql *sql, struct gf_error *error_r)
{
    return mysql_read_query_result(&sql->my) == 0 ? GF_OK : uncertain(sql, error_r);
}

enum gf_class gf_sql_commit(struct gf_sql *sql, struct gf_error *error_r)
{
    enum gf_class class = gf_sql_commit_send(sql, error_r);

    return class == GF_OK ? gf_sql_commit_answer(sql, error_r) : class;
}

void gf_sql_rollback(struct gf_sql *sql)
{
    struct gf_error error;

    if (sql->lost || mysql_real_query(&sql->my, "ROLLBACK", 8) == 0)
        return;
    (void)fail(sql, &error);
    gf_sql_lose(sql);
    gf_log(GF_WARN, "rollback_failed", "error=\"%s\"", error.text);
}

bool gf_sql_is_duplicate(const struct gf_error *error)
{
    return error->native == ERR_DUPLICATE;
}

bool gf_sql_is_unknown(const struct gf_error *error)
{
    if (error->native <= 0 || (error->native >= CLIENT_FIRST && error->native <= CLIENT_LAST))
        return false;
    for (size_t i = 0; i < GF_COUNT(error_rows); i++)
        if (error_rows[i].number == error->native)
            return false;
    return true;
}
