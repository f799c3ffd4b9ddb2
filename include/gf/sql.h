/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One MySQL/MariaDB connection (MariaDB Connector/C behind it, src/adapter/mysql). Blocking, one per thread.
 * It is made to the first server of mysql.hosts that is a writable primary (neither read_only nor super_read_only) and reads
 * its tables; a server that takes no writes (1047, 1290, 1836 and the like) loses the connection, and the next one goes to the others.
 * Session: READ COMMITTED, STRICT_ALL_TABLES, time_zone +00:00, utf8mb4; settlement sessions also get short wait_timeout,
 * net_*_timeout and innodb_lock_wait_timeout (F6). On Galera none reads less than other nodes have committed.
 * Never reconnects by itself: a lost connection loses its transaction.
 * Statements are text built from integers, hex literals and constants only (gf_buf_add_i64, gf_buf_add_xhex).
 * Classes: RETRY = nothing was done or all was rolled back by the server or must be (deadlock, lock time-out, connection
 * lost before COMMIT, read-only server: reconnect); UNCERTAIN = gf_sql_commit failed in any way; REJECT = its values are
 * refused (constraint, range, syntax); duplicate key is REJECT with gf_sql_is_duplicate; FATAL = anything else. */
#include "gf/buf.h"
#include "gf/config.h"

struct gf_sql;
struct gf_sql_result;

enum gf_sql_session { GF_SQL_PLAIN, GF_SQL_SETTLE };
#define GF_SQL_PACKET_MIN (8u << 20) /* max_allowed_packet of a server that a settlement session is made to */

/* RETRY: no server would do; the text says what each has answered, the number stands only where all have the same. */
GF_NODISCARD enum gf_class gf_sql_connect(const struct gf_config *config, enum gf_sql_session session,
                                          struct gf_sql **sql_r, struct gf_error *error_r);
/* ": why" of the process's last attempt to connect, nothing if it succeeded: for /readyz. Any thread. */
void gf_sql_add_trouble(struct gf_buf *reason);
void gf_sql_close(struct gf_sql **sql);
/* True once the connection is known dead: close it and connect again. */
bool gf_sql_lost(const struct gf_sql *sql);
/* Keeps the session awake and asks whether its server is still the primary; the connection is lost if not. */
GF_NODISCARD enum gf_class gf_sql_ping(struct gf_sql *sql, struct gf_error *error_r);

/* A statement without a result set. affected_r may be NULL (found rows are not counted as affected: CLIENT_FOUND_ROWS off). */
GF_NODISCARD enum gf_class gf_sql_exec(struct gf_sql *sql, const char *text, size_t len, int64_t *affected_r,
                                       struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_sql_execf(struct gf_sql *sql, struct gf_error *error_r, const char *fmt, ...) GF_PRINTF(3, 4);
/* A query; the whole result is stored in client memory unless streamed. Free it in every case where OK was returned. */
GF_NODISCARD enum gf_class gf_sql_query(struct gf_sql *sql, const char *text, size_t len, struct gf_sql_result **result_r,
                                        struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_sql_queryf(struct gf_sql *sql, struct gf_sql_result **result_r, struct gf_error *error_r,
                                         const char *fmt, ...) GF_PRINTF(4, 5);
/* Rows are fetched as they come (mysql_use_result): for scans of large tables. Read until gf_sql_next says false, then
 * gf_sql_result_failed tells whether the end was real. */
GF_NODISCARD enum gf_class gf_sql_stream(struct gf_sql *sql, const char *text, size_t len, struct gf_sql_result **result_r,
                                         struct gf_error *error_r);
int64_t gf_sql_result_count(const struct gf_sql_result *result); /* stored results only */
bool gf_sql_next(struct gf_sql_result *result);
bool gf_sql_result_failed(struct gf_sql_result *result, struct gf_error *error_r);
bool gf_sql_is_null(const struct gf_sql_result *result, int column);
int64_t gf_sql_i64(const struct gf_sql_result *result, int column);           /* NULL: 0; asserts that the column is a number */
const char *gf_sql_bytes(const struct gf_sql_result *result, int column, size_t *len_r); /* borrowed until the next row */
void gf_sql_uuid(const struct gf_sql_result *result, int column, struct gf_uuid *id_r);  /* asserts 16 bytes */
void gf_sql_result_free(struct gf_sql_result **result);

/* Client-side escaped string literal with quotes, for free text of admins (names, reasons): the connection's charset rules. */
void gf_sql_add_text(struct gf_sql *sql, struct gf_buf *out, const char *text, size_t len);

/* One prepared statement for an array of rows in one round trip: the cheapest way to write thousands (no text to parse).
 * Rows are structs of the caller: each ? of the statement has a column here that says where its value stands. Belongs to its
 * connection: close it first. A failed run may have written some rows: roll back. */
struct gf_sql_column {
    size_t offset;      /* of an int64_t, or of `bytes` bytes */
    size_t bytes;       /* 0: int64_t */
    size_t null_offset; /* of a bool that means NULL; 0: never NULL */
};
struct gf_sql_bulk_spec {
    const char *text;
    const struct gf_sql_column *columns; /* one for each ? */
    size_t count, row_size;
};
struct gf_sql_bulk;
/* REJECT also where server or client library has no such protocol (MySQL), or it is not to be trusted (Galera): write text instead. */
GF_NODISCARD enum gf_class gf_sql_bulk_open(struct gf_sql *sql, const struct gf_sql_bulk_spec *spec,
                                            struct gf_sql_bulk **bulk_r, struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_sql_bulk_run(struct gf_sql_bulk *bulk, const void *rows, size_t count, int64_t *affected_r,
                                           struct gf_error *error_r);
void gf_sql_bulk_close(struct gf_sql_bulk **bulk); /* NULL-safe */

GF_NODISCARD enum gf_class gf_sql_begin(struct gf_sql *sql, struct gf_error *error_r);
/* Any failure is UNCERTAIN: the answer is only `SELECT .. FROM progress .. FOR UPDATE` on a primary (F7). */
GF_NODISCARD enum gf_class gf_sql_commit(struct gf_sql *sql, struct gf_error *error_r);
/* The same in two halves; after the first one the server works on it. Each failure is UNCERTAIN. */
GF_NODISCARD enum gf_class gf_sql_commit_send(struct gf_sql *sql, struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_sql_commit_answer(struct gf_sql *sql, struct gf_error *error_r);
void gf_sql_rollback(struct gf_sql *sql); /* a failure marks the connection lost */
bool gf_sql_is_duplicate(const struct gf_error *error); /* 1062 */
/* An error of the server that nobody has met: its number tells nothing about whose fault it is. */
bool gf_sql_is_unknown(const struct gf_error *error);
void gf_sql_library_init(void); /* once, in main, before threads */
