/* SPDX-License-Identifier: Apache-2.0 */
/* The reading half of the public API. MySQL is the truth and is read in db.c's threads; Redis adds what is still on its
 * way (a request's marker, a wallet's holds). Each query is an object of its own from handler to answer; the request
 * outlives its client, so no query has to be called off. */
#include <stdlib.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/log.h"
#include "gf/num.h"
#include "gf/outcome.h"
#include "ingest.h"
#include "queries.h"

#define TRADES_DEFAULT 20
#define TRADES_MAX 100
#define BODY_MAX (128u << 10)
#define CURSOR_BYTES 10 /* log, off: big-endian */
#define CURSOR_TEXT 14

struct query {
    struct gf_job job;
    struct gf_ingest *ingest;
    struct gf_http_req *req;
    void (*on_read)(struct query *query);
    int64_t user_id;
    struct gf_uuid id;
    bool found, from_cursor;
    int limit;
    int64_t log, off; /* cursor in; next cursor out, off -1: none */
    int64_t balance, total_recharged, total_spent;
    int status;
    uint64_t generation;
    int64_t now_ms, expires_ms;
    struct gf_buf body;
    struct query *next; /* of those who wait for the same read */
};

static void free_query(struct query *query)
{
    gf_buf_free(&query->body);
    free(query);
}

static void answer(struct query *query)
{
    gf_json_respond(query->req, 200, NULL, &query->body);
    free_query(query);
}

static void refuse(struct query *query, enum gf_problem problem, const char *detail)
{
    gf_problem_respond(query->req, problem, &(struct gf_problem_opts){.detail = detail});
    free_query(query);
}

static void refuse_all(struct query *query, enum gf_problem problem, const char *detail)
{
    for (struct query *next; query != NULL; query = next) {
        next = query->next;
        refuse(query, problem, detail);
    }
}

static void unavailable(struct query *query, const char *detail)
{
    gf_unavailable_respond(query->req, detail, NULL);
    free_query(query);
}

static void on_done(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct query *query = (struct query *)job;
    struct gf_gift_list *list = gf_catalogue_cache_list(query->ingest->catalogue);

    if (list->reader == query)
        list->reader = NULL;
    if (class == GF_OK) {
        query->on_read(query);
        return;
    }
    gf_log(class == GF_RETRY ? GF_WARN : GF_ERROR, "query_failed", "error=\"%s\"", error->text);
    if (class == GF_RETRY)
        refuse_all(query, GF_PROBLEM_UNAVAILABLE, "the database does not answer");
    else
        refuse_all(query, GF_PROBLEM_INTERNAL, NULL);
}

static struct query *create(const struct gf_call *call, void (*on_read)(struct query *query))
{
    struct query *query = gf_xcalloc(1, sizeof(*query));

    query->ingest = call->ingest;
    query->req = call->req;
    query->user_id = call->user_id;
    query->on_read = on_read;
    query->now_ms = gf_clock_real_ms();
    query->job.on_done = on_done;
    gf_buf_init(&query->body, BODY_MAX);
    return query;
}

/* False: refused, and gone. */
static bool submit(struct query *query, enum gf_class (*run)(struct gf_job *, struct gf_sql *, struct gf_error *))
{
    query->job.run = run;
    if (gf_db_submit(query->ingest->db, &query->job) == GF_OK)
        return true;
    unavailable(query, "the database is away or too busy");
    return false;
}

/* ---- GET /v1/requests/{id}, GET /admin/v1/requests/{user}/{id} ---- */

static void add_request_head(struct query *query, const char *status, const char *code, int64_t amount)
{
    gf_buf_adds(&query->body, "{\"request_id\":\"");
    gf_buf_add_uuid(&query->body, &query->id);
    gf_buf_addf(&query->body, "\",\"status\":\"%s\",\"code\":\"%s\",\"amount\":%lld", status, code, (long long)amount);
}

/* `amount` is what was asked: a rejected trade moved nothing, its price and quantity still say what it would have been.
 */
static void add_request_row(struct query *query, const struct gf_sql_result *row)
{
    enum gf_kind kind = (enum gf_kind)gf_sql_i64(row, 0);
    enum gf_outcome outcome = (enum gf_outcome)gf_sql_i64(row, 1);
    int64_t amount = gf_sql_i64(row, 2);

    if (kind == GF_KIND_GIFT && !gf_money_mul(gf_sql_i64(row, 4), gf_sql_i64(row, 5), &amount))
        amount = 0; /* out of range is why it was rejected */
    query->found = true;
    add_request_head(query, outcome == GF_OUTCOME_SETTLED ? "settled" : "rejected", gf_outcome_text(outcome), amount);
    if (outcome == GF_OUTCOME_SETTLED)
        gf_buf_addf(&query->body, ",\"balance_after\":%lld", (long long)gf_sql_i64(row, 3));
    gf_buf_addc(&query->body, '}');
}

/* Thread: database. */
static enum gf_class run_request(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct query *query = (struct query *)job;
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 1024);
    gf_buf_adds(&text, "SELECT kind, outcome, amount, balance_after, price, quantity FROM trade WHERE request_id = ");
    gf_buf_add_xhex(&text, query->id.b, sizeof(query->id.b));
    gf_buf_addf(&text, " AND user_id = %lld", (long long)query->user_id);
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    if (gf_sql_next(result))
        add_request_row(query, result);
    gf_sql_result_free(&result);
    return GF_OK;
}

static void on_marker(void *ctx, const struct gf_reply *reply)
{
    struct query *query = ctx;
    struct gf_marker marker;
    const char *text;
    size_t len;
    int64_t amount;

    if (reply == NULL || gf_reply_type(reply) == GF_REPLY_ERROR) {
        unavailable(query, "it cannot be told now whether this request is on its way");
        return;
    }
    text = gf_reply_type(reply) == GF_REPLY_TEXT ? gf_reply_text(reply, &len) : NULL;
    if (text == NULL || !gf_marker_parse(text, len, &marker) || !gf_money_mul(marker.price, marker.quantity, &amount)) {
        refuse(query, GF_PROBLEM_UNKNOWN_REQUEST, NULL);
        return;
    }
    add_request_head(query, "accepted", "accepted", amount);
    gf_buf_addc(&query->body, '}');
    answer(query);
}

/* No trade yet. The marker tells that it is on its way, first calls not yet answered included: they may well be in
 * Kafka. */
static void on_request_read(struct query *query)
{
    if (query->found)
        answer(query);
    else if (gf_balance_get_marker(query->ingest->balance, query->user_id, &query->id, on_marker, query) != GF_OK)
        unavailable(query, "it cannot be told now whether this request is on its way");
}

void gf_query_request_of(const struct gf_call *call, int64_t user_id, struct gf_slice id)
{
    struct query *query = create(call, on_request_read);

    query->user_id = user_id;
    if (!gf_uuid_parse(id.ptr, id.len, &query->id))
        refuse(query, GF_PROBLEM_MALFORMED, "the request id is not a UUID");
    else
        (void)submit(query, run_request);
}

void gf_query_request(const struct gf_call *call)
{
    gf_query_request_of(call, call->user_id, call->param[0]);
}

/* ---- GET /v1/wallet ---- */

/* Thread: database. */
static enum gf_class run_wallet(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct query *query = (struct query *)job;
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(
        sql, &result, error_r, "SELECT balance, status, total_recharged, total_spent FROM wallet WHERE user_id = %lld",
        (long long)query->user_id);

    if (class != GF_OK)
        return class;
    query->found = gf_sql_next(result);
    if (query->found) {
        query->balance = gf_sql_i64(result, 0);
        query->status = (int)gf_sql_i64(result, 1);
        query->total_recharged = gf_sql_i64(result, 2);
        query->total_spent = gf_sql_i64(result, 3);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void answer_wallet(struct query *query, int64_t held)
{
    int64_t available = held < query->balance ? query->balance - held : 0;

    gf_buf_addf(&query->body,
                "{\"user_id\":%lld,\"balance\":%lld,\"available\":%lld,\"status\":\"%s\",\"total_recharged\":%lld,"
                "\"total_spent\":%lld}",
                (long long)query->user_id, (long long)query->balance, (long long)available,
                query->status == 1 ? "normal" : "frozen", (long long)query->total_recharged,
                (long long)query->total_spent);
    answer(query);
}

/* Redis is only asked for what it holds and is not yet due; without it everything is available. */
static void on_holds(void *ctx, const struct gf_reply *reply)
{
    struct query *query = ctx;
    struct gf_cached_wallet wallet = {0};
    const char *text = NULL;
    int64_t held = 0;
    size_t len = 0;

    if (reply != NULL && gf_reply_type(reply) == GF_REPLY_TEXT)
        text = gf_reply_text(reply, &len);
    if (text != NULL && gf_cached_wallet_parse(text, len, &wallet))
        for (size_t i = 0; i < wallet.count; i++) {
            struct gf_hold hold = gf_cached_wallet_hold(&wallet, i);

            if (hold.deadline_ms > query->now_ms && !gf_money_add(held, hold.amount, &held))
                held = query->balance;
        }
    answer_wallet(query, held);
}

static void on_wallet_read(struct query *query)
{
    if (!query->found)
        refuse(query, GF_PROBLEM_WALLET_NOT_FOUND, NULL);
    else if (gf_balance_get_wallet(query->ingest->balance, query->user_id, on_holds, query) != GF_OK)
        answer_wallet(query, 0);
}

void gf_query_wallet(const struct gf_call *call)
{
    (void)submit(create(call, on_wallet_read), run_wallet);
}

/* ---- GET /v1/wallet/trades ---- */

static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void format_cursor(int64_t log, int64_t off, char text_r[CURSOR_TEXT + 1])
{
    uint8_t bytes[CURSOR_BYTES + 2] = {0};

    for (int i = 0; i < 2; i++)
        bytes[i] = (uint8_t)(log >> (8 - 8 * i));
    for (int i = 0; i < 8; i++)
        bytes[2 + i] = (uint8_t)(off >> (56 - 8 * i));
    for (int i = 0; i < CURSOR_TEXT; i++) {
        int bit = i * 6, byte = bit / 8;
        unsigned pair = (unsigned)bytes[byte] << 8 | bytes[byte + 1];

        text_r[i] = base64url[pair >> (10 - bit % 8) & 63];
    }
    text_r[CURSOR_TEXT] = '\0';
}

static bool parse_cursor(struct gf_slice text, int64_t *log_r, int64_t *off_r)
{
    uint8_t bytes[CURSOR_BYTES] = {0};
    char again[CURSOR_TEXT + 1];
    uint64_t off = 0;

    if (text.len != CURSOR_TEXT)
        return false;
    for (int i = 0; i < CURSOR_TEXT; i++) {
        const char *digit = memchr(base64url, text.ptr[i], 64);
        int bit = i * 6;
        unsigned value;

        if (digit == NULL)
            return false;
        value = (unsigned)(digit - base64url) << 10 >> (bit % 8);
        bytes[bit / 8] |= (uint8_t)(value >> 8);
        if (bit / 8 + 1 < CURSOR_BYTES)
            bytes[bit / 8 + 1] |= (uint8_t)value;
    }
    for (int i = 0; i < 8; i++)
        off = off << 8 | bytes[2 + i];
    *log_r = bytes[0] << 8 | bytes[1];
    *off_r = (int64_t)off;
    if (*log_r > INT16_MAX || *off_r < 0)
        return false;
    format_cursor(*log_r, *off_r, again);
    return memcmp(again, text.ptr, CURSOR_TEXT) == 0; /* one spelling only */
}

static void add_trade(struct query *query, const struct gf_sql_result *row, bool first)
{
    struct gf_uuid id;
    size_t ref_len;
    const char *ref = gf_sql_bytes(row, 14, &ref_len);

    gf_sql_uuid(row, 5, &id);
    gf_buf_adds(&query->body, first ? "{\"request_id\":\"" : ",{\"request_id\":\"");
    gf_buf_add_uuid(&query->body, &id);
    gf_buf_addf(&query->body, "\",\"kind\":\"%s\",\"amount\":%lld,\"balance_after\":%lld,\"seq\":%lld,\"ts\":%lld",
                gf_kind_text((enum gf_kind)gf_sql_i64(row, 6)), (long long)gf_sql_i64(row, 7),
                (long long)gf_sql_i64(row, 8), (long long)gf_sql_i64(row, 9), (long long)gf_sql_i64(row, 15));
    if (gf_sql_i64(row, 6) == GF_KIND_GIFT)
        gf_buf_addf(&query->body,
                    ",\"gift_id\":%lld,\"quantity\":%lld,\"price\":%lld,\"receiver_id\":%lld,\"room_id\":%lld",
                    (long long)gf_sql_i64(row, 10), (long long)gf_sql_i64(row, 11), (long long)gf_sql_i64(row, 12),
                    (long long)gf_sql_i64(row, 13), (long long)gf_sql_i64(row, 16));
    if (ref != NULL) {
        gf_sql_uuid(row, 14, &id);
        gf_buf_adds(&query->body, ",\"ref\":\"");
        gf_buf_add_uuid(&query->body, &id);
        gf_buf_addc(&query->body, '"');
    }
    gf_buf_addc(&query->body, '}');
}

#define TRADE_COLUMNS(t)                                                                                               \
    t ".log, " t ".off, " t ".prev_log, " t ".prev_off, " t ".request_id, " t ".kind, " t ".amount, " t                \
      ".balance_after, " t ".seq, " t ".gift_id, " t ".quantity, " t ".price, " t ".receiver_id, " t ".ref, " t        \
      ".ts_ms, " t ".room_id"

/* Each settled trade points at the one before it, so a statement is read by primary key from its head: no index on
 * users is needed on the hottest table. Thread: database. */
static enum gf_class run_trades(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct query *query = (struct query *)job;
    struct gf_sql_result *result = NULL;
    char cursor[CURSOR_TEXT + 1];
    int count = 0;
    enum gf_class class;

    if (!query->from_cursor) {
        class = gf_sql_queryf(sql, &result, error_r, "SELECT last_log, last_off FROM wallet WHERE user_id = %lld",
                              (long long)query->user_id);
        if (class != GF_OK)
            return class;
        query->found = gf_sql_next(result);
        query->log = query->found ? gf_sql_i64(result, 0) : 0;
        query->off = query->found ? gf_sql_i64(result, 1) : -1;
        gf_sql_result_free(&result);
    }
    class = gf_sql_queryf(
        sql, &result, error_r,
        "WITH RECURSIVE s (n, log, off, prev_log, prev_off, request_id, kind, amount, balance_after, seq,"
        " gift_id, quantity, price, receiver_id, ref, ts_ms, room_id) AS ("
        "SELECT 1, " TRADE_COLUMNS(
            "t") " FROM trade t"
                 " WHERE t.log = %lld AND t.off = %lld AND t.user_id = %lld AND t.outcome = 0"
                 " UNION ALL SELECT s.n + 1, " TRADE_COLUMNS(
                     "p") " FROM s JOIN trade p"
                          " ON p.log = s.prev_log AND p.off = s.prev_off WHERE s.n < %d AND s.prev_off >= 0)"
                          " SELECT * FROM s ORDER BY n",
        (long long)query->log, (long long)query->off, (long long)query->user_id, query->limit);
    if (class != GF_OK)
        return class;
    query->off = -1;
    gf_buf_adds(&query->body, "{\"trades\":[");
    while (gf_sql_next(result)) {
        add_trade(query, result, count++ == 0);
        query->log = gf_sql_i64(result, 3);
        query->off = gf_sql_i64(result, 4);
    }
    gf_sql_result_free(&result);
    query->found = query->found || count > 0;
    if (query->off >= 0) {
        format_cursor(query->log, query->off, cursor);
        gf_buf_addf(&query->body, "],\"next_cursor\":\"%s\"}", cursor);
    } else {
        gf_buf_adds(&query->body, "],\"next_cursor\":null}");
    }
    return GF_OK;
}

static void on_trades_read(struct query *query)
{
    if (query->found)
        answer(query);
    else if (query->from_cursor)
        refuse(query, GF_PROBLEM_MALFORMED, "the cursor is not one of this user's");
    else
        refuse(query, GF_PROBLEM_WALLET_NOT_FOUND, NULL);
}

void gf_query_trades(const struct gf_call *call)
{
    struct gf_slice limit = gf_http_query(call->req, "limit"), cursor = gf_http_query(call->req, "cursor");
    struct query *query = create(call, on_trades_read);
    int64_t count = TRADES_DEFAULT;

    query->from_cursor = cursor.ptr != NULL;
    if (limit.ptr != NULL && !gf_num_parse_i64(limit.ptr, limit.len, 1, TRADES_MAX, &count)) {
        refuse(query, GF_PROBLEM_MALFORMED, "limit must be 1..100");
    } else if (query->from_cursor && !parse_cursor(cursor, &query->log, &query->off)) {
        refuse(query, GF_PROBLEM_MALFORMED, "cursor is not one that was returned here");
    } else {
        query->limit = (int)count;
        (void)submit(query, run_trades);
    }
}

/* ---- GET /v1/gifts ---- */

static void add_gift(struct query *query, const struct gf_sql_result *row, bool first)
{
    static const char *const names[] = {"name", "cover_url", "effect_url"};

    gf_buf_addf(&query->body, "%s{\"gift_id\":%lld,\"price\":%lld", first ? "" : ",", (long long)gf_sql_i64(row, 0),
                (long long)gf_sql_i64(row, 1));
    for (int i = 0; i < 3; i++) {
        size_t len;
        const char *text = gf_sql_bytes(row, 2 + i, &len);

        gf_buf_addf(&query->body, ",\"%s\":", names[i]);
        gf_buf_add_json(&query->body, text, len);
    }
    gf_buf_addc(&query->body, '}');
}

/* Thread: database. */
static enum gf_class run_gifts(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct query *query = (struct query *)job;
    struct gf_sql_result *result = NULL;
    long long now_ms = (long long)query->now_ms;
    bool first = true;
    enum gf_class class;

    class =
        gf_sql_queryf(sql, &result, error_r,
                      "SELECT g.gift_id, p.price, g.name, g.cover_url, g.effect_url FROM gift g"
                      " JOIN gift_price p ON p.gift_id = g.gift_id AND p.valid_from_ms <= %lld AND p.valid_to_ms > %lld"
                      " WHERE g.status = 1 ORDER BY g.gift_id",
                      now_ms, now_ms);
    if (class != GF_OK)
        return class;
    gf_buf_adds(&query->body, "{\"gifts\":[");
    for (; gf_sql_next(result); first = false)
        add_gift(query, result, first);
    gf_buf_adds(&query->body, "]}");
    gf_sql_result_free(&result);
    class =
        gf_sql_queryf(sql, &result, error_r,
                      "SELECT MIN(at) FROM (SELECT MIN(valid_from_ms) AS at FROM gift_price WHERE valid_from_ms > %lld"
                      " UNION ALL SELECT MIN(valid_to_ms) FROM gift_price WHERE valid_to_ms > %lld) boundaries",
                      now_ms, now_ms);
    if (class != GF_OK)
        return class;
    if (gf_sql_next(result) && !gf_sql_is_null(result, 0) && gf_sql_i64(result, 0) < query->expires_ms)
        query->expires_ms = gf_sql_i64(result, 0);
    gf_sql_result_free(&result);
    return GF_OK;
}

static void on_gifts_read(struct query *query)
{
    struct gf_gift_list *list = gf_catalogue_cache_list(query->ingest->catalogue);

    if (!gf_buf_ok(&query->body)) {
        gf_log(GF_ERROR, "gift_list_refused", "bytes_max=%u", GF_GIFT_LIST_MAX);
        refuse_all(query, GF_PROBLEM_INTERNAL, "the catalogue is too large for one list");
        return;
    }
    if (query->generation == gf_catalogue_cache_generation(query->ingest->catalogue)) {
        gf_buf_reset(&list->body);
        gf_buf_add(&list->body, query->body.data, query->body.len);
        list->generation = query->generation;
        list->expires_ms = query->expires_ms;
        list->valid = true;
    }
    for (struct query *waiter = query->next, *next; waiter != NULL; waiter = next) {
        next = waiter->next;
        gf_json_respond(waiter->req, 200, NULL, &query->body);
        free_query(waiter);
    }
    answer(query);
}

void gf_query_gifts(const struct gf_call *call)
{
    struct gf_gift_list *list = gf_catalogue_cache_list(call->ingest->catalogue);
    uint64_t generation = gf_catalogue_cache_generation(call->ingest->catalogue);
    struct query *query;

    if (list->valid && list->generation == generation && gf_clock_real_ms() < list->expires_ms) {
        gf_json_respond(call->req, 200, NULL, &list->body);
        return;
    }
    query = create(call, on_gifts_read);
    if (list->reader != NULL && list->reader->generation == generation) { /* all ask when it has just run out */
        query->next = list->reader->next;
        list->reader->next = query;
        return;
    }
    query->body.max = GF_GIFT_LIST_MAX;
    query->generation = generation;
    query->expires_ms = query->now_ms + call->ingest->config->catalogue_refresh;
    if (submit(query, run_gifts))
        list->reader = query;
}
