/* SPDX-License-Identifier: Apache-2.0 */
/* Prepared statements over arrays of rows (MariaDB's COM_STMT_BULK_EXECUTE). Values are copied column by column into
 * arrays that grow to the longest run. Owns: the statement and those arrays; borrows the connection. */
#include <stdlib.h>

#include "sql_internal.h"

#define COLUMNS_MAX 32
#define BYTES_MAX 32 /* of one value */

struct gf_sql_bulk {
    struct gf_sql *sql;
    MYSQL_STMT *stmt;
    size_t count, row_size;
    struct gf_sql_column columns[COLUMNS_MAX];
    size_t cap; /* rows */
    int64_t *numbers[COLUMNS_MAX];
    uint8_t *bytes[COLUMNS_MAX];
    char **pointers[COLUMNS_MAX];
    unsigned long *lengths[COLUMNS_MAX];
    char *indicators[COLUMNS_MAX];
};

#if defined(MARIADB_PACKAGE_VERSION_ID)

static bool supported(struct gf_sql *sql)
{
    unsigned long extended = 0;

    return mariadb_get_infov(&sql->my, MARIADB_CONNECTION_EXTENDED_SERVER_CAPABILITIES, &extended) == 0 &&
           (extended & (MARIADB_CLIENT_STMT_BULK_OPERATIONS >> 32)) != 0;
}

/* Seen with MariaDB 10.11: where a write of another Galera node ends a transaction that sends arrays, no statement may be told; the
 * arrays' rows are gone, and what follows them is committed. Text is told 1213. */
static enum gf_class check_galera(struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SHOW VARIABLES LIKE 'wsrep_on'");
    const char *value = NULL;
    size_t len = 0;

    if (class == GF_OK && gf_sql_next(result))
        value = gf_sql_bytes(result, 1, &len);
    if (len == 2 && memcmp(value, "ON", 2) == 0)
        class = gf_fail(error_r, GF_REJECT, 0, "mysql: no arrays on Galera");
    gf_sql_result_free(&result);
    return class;
}

static enum gf_class fail(struct gf_sql_bulk *bulk, struct gf_error *error_r)
{
    return gf_sql_fail(bulk->sql, (int)mysql_stmt_errno(bulk->stmt), mysql_stmt_error(bulk->stmt), error_r);
}

enum gf_class gf_sql_bulk_open(struct gf_sql *sql, const struct gf_sql_bulk_spec *spec, struct gf_sql_bulk **bulk_r,
                               struct gf_error *error_r)
{
    struct gf_sql_bulk *bulk;
    enum gf_class class;

    GF_ASSERT(spec->count > 0 && spec->count <= COLUMNS_MAX);
    if (!supported(sql))
        return gf_fail(error_r, GF_REJECT, 0, "mysql: no bulk protocol");
    class = check_galera(sql, error_r);
    if (class != GF_OK)
        return class;
    bulk = gf_xcalloc(1, sizeof(*bulk));
    bulk->sql = sql;
    bulk->count = spec->count;
    bulk->row_size = spec->row_size;
    memcpy(bulk->columns, spec->columns, spec->count * sizeof(spec->columns[0]));
    bulk->stmt = mysql_stmt_init(&sql->my);
    GF_ASSERT(bulk->stmt != NULL); /* NULL is out of memory only */
    if (mysql_stmt_prepare(bulk->stmt, spec->text, (unsigned long)strlen(spec->text)) != 0)
        class = fail(bulk, error_r);
    if (class != GF_OK) {
        gf_sql_bulk_close(&bulk);
        return class;
    }
    GF_ASSERT(mysql_stmt_param_count(bulk->stmt) == spec->count);
    *bulk_r = bulk;
    return GF_OK;
}

static void grow(struct gf_sql_bulk *bulk, size_t rows)
{
    if (rows <= bulk->cap)
        return;
    bulk->cap = rows;
    for (size_t c = 0; c < bulk->count; c++) {
        size_t bytes = bulk->columns[c].bytes;

        GF_ASSERT(bytes <= BYTES_MAX);
        bulk->indicators[c] = gf_xrealloc(bulk->indicators[c], rows);
        memset(bulk->indicators[c], STMT_INDICATOR_NONE, rows);
        if (bytes == 0) {
            bulk->numbers[c] = gf_xrealloc(bulk->numbers[c], rows * sizeof(int64_t));
            continue;
        }
        bulk->bytes[c] = gf_xrealloc(bulk->bytes[c], rows * bytes);
        bulk->pointers[c] = gf_xrealloc(bulk->pointers[c], rows * sizeof(char *));
        bulk->lengths[c] = gf_xrealloc(bulk->lengths[c], rows * sizeof(unsigned long));
        for (size_t i = 0; i < rows; i++) {
            bulk->pointers[c][i] = (char *)bulk->bytes[c] + i * bytes;
            bulk->lengths[c][i] = (unsigned long)bytes;
        }
    }
}

static void fill(struct gf_sql_bulk *bulk, size_t c, const char *rows, size_t count)
{
    const struct gf_sql_column *column = &bulk->columns[c];

    for (size_t i = 0; i < count; i++) {
        const char *row = rows + i * bulk->row_size;
        bool null = false;

        if (column->bytes == 0)
            memcpy(&bulk->numbers[c][i], row + column->offset, sizeof(int64_t));
        else
            memcpy(bulk->bytes[c] + i * column->bytes, row + column->offset, column->bytes);
        if (column->null_offset == 0)
            continue;
        memcpy(&null, row + column->null_offset, sizeof(null));
        bulk->indicators[c][i] = null ? STMT_INDICATOR_NULL : STMT_INDICATOR_NONE;
    }
}

enum gf_class gf_sql_bulk_run(struct gf_sql_bulk *bulk, const void *rows, size_t count, int64_t *affected_r,
                              struct gf_error *error_r)
{
    MYSQL_BIND binds[COLUMNS_MAX] = {0};
    unsigned int size = (unsigned int)count;

    GF_ASSERT(count > 0);
    grow(bulk, count);
    for (size_t c = 0; c < bulk->count; c++) {
        fill(bulk, c, rows, count);
        binds[c].u.indicator = bulk->columns[c].null_offset > 0 ? bulk->indicators[c] : NULL;
        binds[c].buffer_type = bulk->columns[c].bytes == 0 ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_BLOB;
        binds[c].buffer = bulk->columns[c].bytes == 0 ? (void *)bulk->numbers[c] : (void *)bulk->pointers[c];
        binds[c].length = bulk->columns[c].bytes == 0 ? NULL : bulk->lengths[c];
    }
    if (mysql_stmt_attr_set(bulk->stmt, STMT_ATTR_ARRAY_SIZE, &size) != 0 ||
        mysql_stmt_bind_param(bulk->stmt, binds) != 0 || mysql_stmt_execute(bulk->stmt) != 0)
        return fail(bulk, error_r);
    if (affected_r != NULL)
        *affected_r = (int64_t)mysql_stmt_affected_rows(bulk->stmt);
    return GF_OK;
}

#else /* Oracle's client library */

enum gf_class gf_sql_bulk_open(struct gf_sql *sql, const struct gf_sql_bulk_spec *spec, struct gf_sql_bulk **bulk_r,
                               struct gf_error *error_r)
{
    (void)sql, (void)spec, (void)bulk_r;
    return gf_fail(error_r, GF_REJECT, 0, "mysql: no bulk protocol");
}

enum gf_class gf_sql_bulk_run(struct gf_sql_bulk *bulk, const void *rows, size_t count, int64_t *affected_r,
                              struct gf_error *error_r)
{
    (void)bulk, (void)rows, (void)count, (void)affected_r;
    return gf_fail(error_r, GF_REJECT, 0, "mysql: no bulk protocol");
}

#endif

void gf_sql_bulk_close(struct gf_sql_bulk **bulk)
{
    struct gf_sql_bulk *old = bulk != NULL ? *bulk : NULL;

    if (old == NULL)
        return;
    *bulk = NULL;
    if (old->stmt != NULL)
        (void)mysql_stmt_close(old->stmt); /* on a lost connection it only frees */
    for (size_t c = 0; c < old->count; c++) {
        free(old->numbers[c]);
        free(old->bytes[c]);
        free(old->pointers[c]);
        free(old->lengths[c]);
        free(old->indicators[c]);
    }
    free(old);
}
