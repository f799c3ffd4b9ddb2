/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow-bench-floors: what the same server does without giftflow, for comparison in the same run.
 *   one_txn    one transaction per gift, the fastest plain way: conditional UPDATE of the sender, INSERT of the trade, COMMIT;
 *              prepared statements, 16 connections
 *   bulk       INSERT of the same trade rows alone, --batch rows (2,000) a transaction: multi-row text (built before the clock starts),
 *              prepared multi-row, MariaDB's array binding, and LOAD DATA LOCAL (which drops what is doubled without a word:
 *              not for money, but it counts), each on 1 and on 2 connections; the best counts
 * Tables bench_wallet and bench_trade are made LIKE ours in the same database and dropped at the end.
 * With --mysql-pid the server's processor time per row is printed too: on a machine that does other work, it says more than
 * the rates.
 *   giftflow-bench-floors --users U --seconds S [--rows N] [--batch N] [--mysql-pid P]; prints name=value lines. */
#include <inttypes.h>
#include <mysql.h>
#include <pthread.h>

#include "bench.h"
#include "gf/buf.h"
#include "gf/command.h"

#define ONE_TXN_CONNECTIONS 16
#define PREPARED_ROWS 500
#define COLUMNS 21 /* all but ref, which is NULL in gifts */
#define CONNECTIONS_MAX 16

enum method { TEXT, PREPARED, ARRAY, LOAD };

struct worker {
    const struct gf_config *config;
    MYSQL *mysql;
    pthread_t thread;
    enum method method;
    int log; /* the key's first part: one per worker, as one per partition */
    int64_t users, deadline_us, rows, max_rows, batch, server_pid;
    uint64_t random;
    int64_t next_off;
};

static void die(MYSQL *mysql, const char *what)
{
    fprintf(stderr, "giftflow-bench-floors: %s: %s\n", what, mysql_error(mysql));
    exit(1);
}

static const unsigned local_infile = 1;

static MYSQL *connect_server(const struct gf_config *config)
{
    MYSQL *mysql = mysql_init(NULL);
    const char *socket = config->mysql_socket[0] ? config->mysql_socket : NULL;

    GF_ASSERT(mysql && mysql_options(mysql, MYSQL_OPT_LOCAL_INFILE, &local_infile) == 0);
    if (!mysql_real_connect(mysql, socket ? NULL : config->mysql_host, config->mysql_user, NULL, config->mysql_database,
                            (unsigned)config->mysql_port, socket, 0))
        die(mysql, "connect");
    if (mysql_query(mysql, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED") != 0 || mysql_autocommit(mysql, 0) != 0)
        die(mysql, "session");
    return mysql;
}

static void query(MYSQL *mysql, const char *text)
{
    if (mysql_query(mysql, text) != 0)
        die(mysql, text);
}

/* ---- the trade row: 21 values; columns in the table's order ---- */

#define TRADE_COLUMNS                                                                                                          \
    "log,off,user_id,request_id,kind,outcome,amount,debt_delta,seq,balance_after,prev_log,prev_off,gift_id,gift_type,quantity," \
    "price,receiver_id,room_id,host_coins,fp,ts_ms"

struct row { /* numbers as they are bound: all BIGINT but the two byte strings */
    int64_t number[COLUMNS];
    uint8_t request_id[16], fp[8];
};
#define REQUEST_ID 3
#define FP 19

static void make_row(struct worker *worker, struct row *row)
{
    struct gf_uuid id = gf_uuid_v7();
    int64_t host = bench_host(&worker->random), user = 1 + (int64_t)(bench_random(&worker->random) % (uint64_t)worker->users);
    const int64_t numbers[COLUMNS] = {worker->log, worker->next_off++, user, 0, GF_KIND_GIFT, 0, -BENCH_PRICE, 0, 2,
                                      BENCH_BALANCE - BENCH_PRICE, 0, -1, BENCH_GIFT, 0, 1, BENCH_PRICE, host,
                                      host - BENCH_HOST_BASE, BENCH_PRICE / 2, 0, gf_clock_real_ms()};

    memcpy(row->number, numbers, sizeof(numbers));
    memcpy(row->request_id, id.b, sizeof(id.b));
    memcpy(row->fp, &user, sizeof(row->fp));
}

static void bind_row(MYSQL_BIND *binds, struct row *row, unsigned long lengths[2])
{
    lengths[0] = sizeof(row->request_id);
    lengths[1] = sizeof(row->fp);
    for (int i = 0; i < COLUMNS; i++) {
        binds[i].buffer_type = MYSQL_TYPE_LONGLONG;
        binds[i].buffer = &row->number[i];
    }
    binds[REQUEST_ID] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_STRING, .buffer = row->request_id, .buffer_length = 16, .length = &lengths[0]};
    binds[FP] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_STRING, .buffer = row->fp, .buffer_length = 8, .length = &lengths[1]};
}

static MYSQL_STMT *prepare(MYSQL *mysql, const char *text, size_t len)
{
    MYSQL_STMT *stmt = mysql_stmt_init(mysql);

    GF_ASSERT(stmt);
    if (mysql_stmt_prepare(stmt, text, len) != 0)
        die(mysql, "prepare");
    return stmt;
}

static void add_marks(struct gf_buf *text, int rows)
{
    gf_buf_adds(text, "INSERT INTO bench_trade (" TRADE_COLUMNS ") VALUES ");
    for (int i = 0; i < rows; i++) {
        gf_buf_adds(text, i ? ",(" : "(");
        for (int c = 0; c < COLUMNS; c++)
            gf_buf_adds(text, c ? ",?" : "?");
        gf_buf_addc(text, ')');
    }
    GF_ASSERT(gf_buf_ok(text));
}

/* ---- one transaction per gift ---- */

static void *one_txn(void *arg)
{
    struct worker *worker = arg;
    static const char debit_text[] = "UPDATE bench_wallet SET balance=balance-90, ver=ver+1, total_spent=total_spent+90 "
                                     "WHERE user_id=? AND balance>=90 AND status=1";
    struct gf_buf text;
    MYSQL_BIND debit_bind[1] = {0}, insert_bind[COLUMNS];
    unsigned long lengths[2];
    struct row row;
    MYSQL_STMT *debit, *insert;

    memset(insert_bind, 0, sizeof(insert_bind));
    mysql_thread_init();
    gf_buf_init(&text, 65536);
    add_marks(&text, 1);
    debit = prepare(worker->mysql, debit_text, strlen(debit_text));
    insert = prepare(worker->mysql, text.data, text.len);
    debit_bind[0].buffer_type = MYSQL_TYPE_LONGLONG;
    debit_bind[0].buffer = &row.number[2];
    bind_row(insert_bind, &row, lengths);
    if (mysql_stmt_bind_param(debit, debit_bind) != 0 || mysql_stmt_bind_param(insert, insert_bind) != 0)
        die(worker->mysql, "bind");
    while (gf_clock_mono_us() < worker->deadline_us) {
        make_row(worker, &row);
        if (mysql_stmt_execute(debit) != 0 || mysql_stmt_affected_rows(debit) != 1 || mysql_stmt_execute(insert) != 0 ||
            mysql_commit(worker->mysql) != 0)
            die(worker->mysql, "one transaction per gift");
        worker->rows++;
    }
    mysql_stmt_close(debit);
    mysql_stmt_close(insert);
    gf_buf_free(&text);
    mysql_thread_end();
    return NULL;
}

/* ---- bulk insert ---- */

static void add_text_row(struct gf_buf *text, const struct row *row, bool first)
{
    gf_buf_adds(text, first ? "(" : ",(");
    for (int c = 0; c < COLUMNS; c++) {
        if (c)
            gf_buf_addc(text, ',');
        if (c == REQUEST_ID)
            gf_buf_add_xhex(text, row->request_id, 16);
        else if (c == FP)
            gf_buf_add_xhex(text, row->fp, 8);
        else
            gf_buf_add_i64(text, row->number[c]);
    }
    gf_buf_addc(text, ')');
}

static void add_escaped(struct gf_buf *text, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == '\\' || bytes[i] == '\t' || bytes[i] == '\n' || bytes[i] == 0)
            gf_buf_addc(text, '\\');
        gf_buf_addc(text, bytes[i] == 0 ? '0' : (char)bytes[i]);
    }
}

static void add_load_row(struct gf_buf *text, const struct row *row)
{
    for (int c = 0; c < COLUMNS; c++) {
        if (c)
            gf_buf_addc(text, '\t');
        if (c == REQUEST_ID)
            add_escaped(text, row->request_id, 16);
        else if (c == FP)
            add_escaped(text, row->fp, 8);
        else
            gf_buf_add_i64(text, row->number[c]);
    }
    gf_buf_addc(text, '\n');
}

/* All statements are written before the clock starts: only the server and the wire are measured. */
struct texts {
    struct gf_buf *items;
    int64_t count;
};

static struct texts make_texts(struct worker *worker)
{
    struct texts texts = {.count = worker->max_rows / worker->batch};
    struct row row;

    texts.items = gf_xcalloc((size_t)texts.count, sizeof(*texts.items));
    for (int64_t i = 0; i < texts.count; i++) {
        gf_buf_init(&texts.items[i], 64 << 20);
        if (worker->method == TEXT)
            gf_buf_adds(&texts.items[i], "INSERT INTO bench_trade (" TRADE_COLUMNS ") VALUES ");
        for (int r = 0; r < worker->batch; r++) {
            make_row(worker, &row);
            if (worker->method == TEXT)
                add_text_row(&texts.items[i], &row, r == 0);
            else
                add_load_row(&texts.items[i], &row);
        }
        GF_ASSERT(gf_buf_ok(&texts.items[i]));
    }
    return texts;
}

static void free_texts(struct texts *texts)
{
    for (int64_t i = 0; i < texts->count; i++)
        gf_buf_free(&texts->items[i]);
    free(texts->items);
}

static pthread_barrier_t barrier; /* between preparing and measuring */

static void bulk_text(struct worker *worker)
{
    struct texts texts = make_texts(worker);

    pthread_barrier_wait(&barrier);
    for (int64_t i = 0; i < texts.count; i++) {
        if (mysql_real_query(worker->mysql, texts.items[i].data, texts.items[i].len) != 0 || mysql_commit(worker->mysql) != 0)
            die(worker->mysql, "bulk insert");
        worker->rows += worker->batch;
    }
    pthread_barrier_wait(&barrier);
    free_texts(&texts);
}

/* LOAD DATA LOCAL asks for a file: what it reads is one of the texts. */
struct load_file {
    const struct gf_buf *text;
    size_t at;
};

static int load_open(void **ctx, const char *name, void *file)
{
    (void)name;
    *ctx = file;
    return 0;
}

static int load_read(void *ctx, char *bytes, unsigned int size)
{
    struct load_file *file = ctx;
    size_t left = file->text->len - file->at, len = left < size ? left : size;

    memcpy(bytes, file->text->data + file->at, len);
    file->at += len;
    return (int)len;
}

static void load_close(void *ctx) { (void)ctx; }

static int load_error(void *ctx, char *text, unsigned int size)
{
    (void)ctx;
    snprintf(text, size, "cannot happen");
    return 1;
}

static void bulk_load(struct worker *worker)
{
    struct texts texts = make_texts(worker);
    struct load_file file;

    mysql_set_local_infile_handler(worker->mysql, load_open, load_read, load_close, load_error, &file);
    pthread_barrier_wait(&barrier);
    for (int64_t i = 0; i < texts.count; i++) {
        file = (struct load_file){.text = &texts.items[i]};
        query(worker->mysql, "LOAD DATA LOCAL INFILE 'rows' INTO TABLE bench_trade CHARACTER SET binary (" TRADE_COLUMNS ")");
        if (mysql_affected_rows(worker->mysql) != (my_ulonglong)worker->batch || mysql_commit(worker->mysql) != 0)
            die(worker->mysql, "load data");
        worker->rows += worker->batch;
    }
    pthread_barrier_wait(&barrier);
    free_texts(&texts);
}

static void bulk_prepared(struct worker *worker)
{
    struct row *rows = gf_xcalloc((size_t)worker->max_rows, sizeof(*rows));
    MYSQL_BIND *binds = gf_xcalloc((size_t)PREPARED_ROWS * COLUMNS, sizeof(*binds));
    unsigned long(*lengths)[2] = gf_xcalloc(PREPARED_ROWS, sizeof(*lengths));
    struct gf_buf text;
    MYSQL_STMT *stmt;

    gf_buf_init(&text, 1 << 20);
    add_marks(&text, PREPARED_ROWS);
    stmt = prepare(worker->mysql, text.data, text.len);
    for (int64_t i = 0; i < worker->max_rows; i++)
        make_row(worker, &rows[i]);
    pthread_barrier_wait(&barrier);
    for (int64_t at = 0; at + PREPARED_ROWS <= worker->max_rows; at += PREPARED_ROWS) {
        for (int r = 0; r < PREPARED_ROWS; r++)
            bind_row(binds + (size_t)r * COLUMNS, &rows[at + r], lengths[r]);
        if (mysql_stmt_bind_param(stmt, binds) != 0 || mysql_stmt_execute(stmt) != 0)
            die(worker->mysql, "prepared insert");
        worker->rows += PREPARED_ROWS;
        if (worker->rows % worker->batch == 0 && mysql_commit(worker->mysql) != 0)
            die(worker->mysql, "commit");
    }
    if (mysql_commit(worker->mysql) != 0)
        die(worker->mysql, "commit");
    pthread_barrier_wait(&barrier);
    mysql_stmt_close(stmt);
    gf_buf_free(&text);
    free(lengths);
    free(binds);
    free(rows);
}

/* MariaDB's COM_STMT_BULK_EXECUTE: one statement, an array of rows (row-wise binding). */
static void bulk_array(struct worker *worker)
{
    struct array_row {
        struct row row;
        unsigned long lengths[2];
    } *rows = gf_xcalloc((size_t)worker->max_rows, sizeof(*rows));
    MYSQL_BIND binds[COLUMNS];
    unsigned int batch = (unsigned int)worker->batch;
    size_t row_size = sizeof(rows[0]);
    struct gf_buf text;
    MYSQL_STMT *stmt;

    memset(binds, 0, sizeof(binds));
    gf_buf_init(&text, 65536);
    add_marks(&text, 1);
    stmt = prepare(worker->mysql, text.data, text.len);
    for (int64_t i = 0; i < worker->max_rows; i++) {
        make_row(worker, &rows[i].row);
        rows[i].lengths[0] = 16;
        rows[i].lengths[1] = 8;
    }
    mysql_stmt_attr_set(stmt, STMT_ATTR_ARRAY_SIZE, &batch);
    mysql_stmt_attr_set(stmt, STMT_ATTR_ROW_SIZE, &row_size);
    pthread_barrier_wait(&barrier);
    for (int64_t at = 0; at + worker->batch <= worker->max_rows; at += worker->batch) {
        bind_row(binds, &rows[at].row, rows[at].lengths);
        if (mysql_stmt_bind_param(stmt, binds) != 0 || mysql_stmt_execute(stmt) != 0 || mysql_commit(worker->mysql) != 0)
            die(worker->mysql, "array insert");
        worker->rows += worker->batch;
    }
    pthread_barrier_wait(&barrier);
    mysql_stmt_close(stmt);
    gf_buf_free(&text);
    free(rows);
}

static void *bulk(void *arg)
{
    struct worker *worker = arg;

    mysql_thread_init();
    if (worker->method == TEXT)
        bulk_text(worker);
    else if (worker->method == PREPARED)
        bulk_prepared(worker);
    else if (worker->method == ARRAY)
        bulk_array(worker);
    else
        bulk_load(worker);
    mysql_thread_end();
    return NULL;
}

/* ---- runs ---- */

static void fresh_tables(MYSQL *mysql, int64_t users)
{
    char text[300];

    query(mysql, "DROP TABLE IF EXISTS bench_trade, bench_wallet");
    query(mysql, "CREATE TABLE bench_trade LIKE trade");
    query(mysql, "CREATE TABLE bench_wallet LIKE wallet");
    snprintf(text, sizeof(text), "INSERT INTO bench_wallet (user_id, balance, created_ms, updated_ms) "
                                 "SELECT user_id, %" PRId64 ", 0, 0 FROM wallet WHERE user_id BETWEEN 1 AND %" PRId64, BENCH_BALANCE, users);
    query(mysql, text);
    GF_ASSERT(mysql_affected_rows(mysql) == (my_ulonglong)users);
    query(mysql, "COMMIT");
}

static void open_workers(struct worker *workers, int count, const struct worker *model)
{
    for (int i = 0; i < count; i++) {
        workers[i] = *model;
        workers[i].log = 1 + i;
        workers[i].random = (uint64_t)i + 1;
        workers[i].mysql = connect_server(model->config);
    }
}

static int64_t close_workers(struct worker *workers, int count)
{
    int64_t rows = 0;

    for (int i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
        mysql_close(workers[i].mysql);
        rows += workers[i].rows;
    }
    return rows;
}

struct result {
    double per_s, server_us; /* per row */
};

static struct result run_one_txn(const struct worker *model, int64_t seconds)
{
    struct worker workers[CONNECTIONS_MAX];
    int64_t began_us = gf_clock_mono_us(), cpu_us = bench_process_us(model->server_pid), rows;

    open_workers(workers, ONE_TXN_CONNECTIONS, model);
    for (int i = 0; i < ONE_TXN_CONNECTIONS; i++) {
        workers[i].deadline_us = began_us + seconds * 1000000;
        GF_ASSERT(pthread_create(&workers[i].thread, NULL, one_txn, &workers[i]) == 0);
    }
    rows = close_workers(workers, ONE_TXN_CONNECTIONS);
    return (struct result){(double)rows * 1e6 / (double)(gf_clock_mono_us() - began_us),
                           (double)(bench_process_us(model->server_pid) - cpu_us) / (double)rows};
}

static struct result run_bulk(const struct worker *model, int connections)
{
    struct worker workers[CONNECTIONS_MAX];
    int64_t began_us, ended_us, cpu_us, rows;

    GF_ASSERT(pthread_barrier_init(&barrier, NULL, (unsigned)connections + 1) == 0);
    open_workers(workers, connections, model);
    for (int i = 0; i < connections; i++) {
        workers[i].max_rows = model->max_rows / connections / model->batch * model->batch;
        GF_ASSERT(pthread_create(&workers[i].thread, NULL, bulk, &workers[i]) == 0);
    }
    pthread_barrier_wait(&barrier);
    began_us = gf_clock_mono_us();
    cpu_us = bench_process_us(model->server_pid);
    pthread_barrier_wait(&barrier);
    ended_us = gf_clock_mono_us();
    cpu_us = bench_process_us(model->server_pid) - cpu_us;
    rows = close_workers(workers, connections);
    pthread_barrier_destroy(&barrier);
    return (struct result){(double)rows * 1e6 / (double)(ended_us - began_us), (double)cpu_us / (double)rows};
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"text", "prepared", "array", "load"};
    static struct gf_config config;
    struct worker model = {.config = &config};
    int64_t seconds = bench_arg(argc, argv, "--seconds", 10);
    double best = 0;
    struct result result;
    MYSQL *mysql;

    bench_config(&config);
    model.users = bench_arg(argc, argv, "--users", 100000);
    model.server_pid = bench_arg(argc, argv, "--mysql-pid", 0);
    model.batch = bench_arg(argc, argv, "--batch", 2000);
    model.max_rows = bench_arg(argc, argv, "--rows", 600000);
    GF_ASSERT(mysql_library_init(0, NULL, NULL) == 0);
    mysql = connect_server(&config);
    fresh_tables(mysql, model.users);
    result = run_one_txn(&model, seconds);
    printf("one_txn_per_s=%.0f\none_txn_mysql_us=%.1f\n", result.per_s, result.server_us);
    for (int method = TEXT; method <= LOAD; method++)
        for (int connections = 1; connections <= 2; connections++) {
            model.method = (enum method)method;
            fresh_tables(mysql, model.users);
            result = run_bulk(&model, connections);
            best = result.per_s > best ? result.per_s : best;
            printf("bulk_%s_%d_per_s=%.0f\nbulk_%s_%d_mysql_us=%.1f\n", names[method], connections, result.per_s, names[method],
                   connections, result.server_us);
            fflush(stdout);
        }
    printf("bulk_insert_per_s=%.0f\n", best);
    query(mysql, "DROP TABLE bench_trade, bench_wallet");
    mysql_close(mysql);
    return 0;
}
