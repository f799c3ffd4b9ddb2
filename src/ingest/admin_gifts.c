/* SPDX-License-Identifier: Apache-2.0 */
/* Gifts and their price history. A price is never changed, only ended: the open interval is closed and another one
 * opened, so that settlement can judge a command by the price at its append time. A change begins
 * `catalogue.price_lead` from now: by then every process has read it. All writers lock all gift rows (MAX(ver) FOR
 * UPDATE), so intervals cannot overlap. */
#include <stdio.h>

#include "admin.h"
#include "gf/clock.h"
#include "gf/json.h"
#include "gf/log.h"

#define NAME_MAX_BYTES 100
#define URL_MAX_BYTES 500
#define FUTURE_PRICES_MAX 8
#define SHARE_DEFAULT_BP 5000
#define ON_SALE 1
#define OFF_SHELF 2

struct gift {
    int64_t gift_id, max_quantity, price, share_bp, status;
    char name[NAME_MAX_BYTES + 1], cover_url[URL_MAX_BYTES + 1], effect_url[URL_MAX_BYTES + 1];
    bool has_id, has_name, has_cover, has_effect, has_quantity, has_price, has_share, has_status;
};

/* The gift's newest price row, open or not. */
struct last_price {
    bool found;
    int64_t from_ms, to_ms, price, share_bp;
};

static bool read_gift(struct gf_admin_job *job, struct gift *gift, bool is_new)
{
    const struct gf_json_field fields[] = {
        {"gift_id", GF_JSON_I64, is_new, 1, INT32_MAX, &gift->gift_id, NULL, &gift->has_id},
        {"name", GF_JSON_TEXT, is_new, 1, NAME_MAX_BYTES, NULL, gift->name, &gift->has_name},
        {"cover_url", GF_JSON_TEXT, false, 0, URL_MAX_BYTES, NULL, gift->cover_url, &gift->has_cover},
        {"effect_url", GF_JSON_TEXT, false, 0, URL_MAX_BYTES, NULL, gift->effect_url, &gift->has_effect},
        {"max_quantity", GF_JSON_I64, false, 1, 9999, &gift->max_quantity, NULL, &gift->has_quantity},
        {"price", GF_JSON_I64, is_new, 1, GF_ID_MAX, &gift->price, NULL, &gift->has_price},
        {"share_bp", GF_JSON_I64, false, 0, 10000, &gift->share_bp, NULL, &gift->has_share},
        {"status", GF_JSON_I64, false, ON_SALE, OFF_SHELF, &gift->status, NULL, &gift->has_status},
    };
    struct gf_slice body = gf_http_body(job->req);
    struct gf_error error;

    if (gf_json_read(body.ptr, body.len, fields, GF_COUNT(fields), &error) == GF_OK)
        return true;
    gf_admin_refuse(job, GF_PROBLEM_MALFORMED, error.text);
    return false;
}

/* ---- what an answer shows ---- */

static void add_text_field(struct gf_buf *out, const char *name, const struct gf_sql_result *row, int column)
{
    size_t len;
    const char *text = gf_sql_bytes(row, column, &len);

    gf_buf_addf(out, ",\"%s\":", name);
    gf_buf_add_json(out, text, len);
}

static void add_gift(struct gf_buf *out, const struct gf_sql_result *row)
{
    gf_buf_addf(out, "{\"gift_id\":%lld", (long long)gf_sql_i64(row, 0));
    add_text_field(out, "name", row, 1);
    add_text_field(out, "cover_url", row, 2);
    add_text_field(out, "effect_url", row, 3);
    gf_buf_addf(out, ",\"max_quantity\":%lld,\"status\":%lld,\"ver\":%lld,\"updated_ms\":%lld",
                (long long)gf_sql_i64(row, 4), (long long)gf_sql_i64(row, 5), (long long)gf_sql_i64(row, 6),
                (long long)gf_sql_i64(row, 7));
}

static enum gf_class add_prices(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    const char *comma = "";
    enum gf_class class = gf_sql_queryf(sql, &result, error_r,
                                        "SELECT valid_from_ms, valid_to_ms, price, share_bp FROM gift_price"
                                        " WHERE gift_id = %lld ORDER BY valid_from_ms DESC LIMIT 1000",
                                        (long long)job->id);

    if (class != GF_OK)
        return class;
    gf_buf_adds(&job->body, ",\"prices\":[");
    for (; gf_sql_next(result); comma = ",") {
        gf_buf_addf(&job->body, "%s{\"valid_from_ms\":%lld,\"valid_to_ms\":", comma, (long long)gf_sql_i64(result, 0));
        if (gf_sql_i64(result, 1) == INT64_MAX)
            gf_buf_adds(&job->body, "null");
        else
            gf_buf_add_i64(&job->body, gf_sql_i64(result, 1));
        gf_buf_addf(&job->body, ",\"price\":%lld,\"share_bp\":%lld}", (long long)gf_sql_i64(result, 2),
                    (long long)gf_sql_i64(result, 3));
    }
    gf_buf_addc(&job->body, ']');
    gf_sql_result_free(&result);
    return GF_OK;
}

#define GIFT_COLUMNS "g.gift_id, g.name, g.cover_url, g.effect_url, g.max_quantity, g.status, g.ver, g.updated_ms"

/* Thread: database. */
static enum gf_class run_get(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(
        sql, &result, error_r, "SELECT " GIFT_COLUMNS " FROM gift g WHERE g.gift_id = %lld", (long long)job->id);

    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result)) {
        gf_sql_result_free(&result);
        return gf_admin_problem(job, GF_PROBLEM_GIFT_NOT_FOUND, NULL);
    }
    gf_buf_reset(&job->body);
    add_gift(&job->body, result);
    job->ver = gf_sql_i64(result, 6);
    gf_sql_result_free(&result);
    class = add_prices(job, sql, error_r);
    gf_buf_addc(&job->body, '}');
    return class;
}

/* Thread: database. */
static enum gf_class run_list(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    struct gf_sql_result *result = NULL;
    const char *comma = "";
    enum gf_class class =
        gf_sql_queryf(sql, &result, error_r,
                      "SELECT " GIFT_COLUMNS ", p.price, p.share_bp FROM gift g LEFT JOIN gift_price p"
                      " ON p.gift_id = g.gift_id AND p.valid_from_ms <= %lld AND p.valid_to_ms > %lld"
                      " ORDER BY g.gift_id",
                      (long long)job->now_ms, (long long)job->now_ms);

    if (class != GF_OK)
        return class;
    gf_buf_adds(&job->body, "{\"gifts\":[");
    for (; gf_sql_next(result); comma = ",") {
        gf_buf_adds(&job->body, comma);
        add_gift(&job->body, result);
        if (gf_sql_is_null(result, 8))
            gf_buf_adds(&job->body, ",\"price\":null,\"share_bp\":null}");
        else
            gf_buf_addf(&job->body, ",\"price\":%lld,\"share_bp\":%lld}", (long long)gf_sql_i64(result, 8),
                        (long long)gf_sql_i64(result, 9));
    }
    gf_buf_adds(&job->body, "]}");
    gf_sql_result_free(&result);
    return GF_OK;
}

/* ---- writing ---- */

/* Locks every gift: versions are handed out in commit order, and price intervals have one writer. What waited for it looks at
 * the clock again: a price that has begun meanwhile, and may have been paid, must not be taken for one that never did. */
static enum gf_class lock_catalogue(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SELECT COALESCE(MAX(ver), 0) + 1 FROM gift FOR UPDATE");

    if (class != GF_OK)
        return class;
    GF_ASSERT(gf_sql_next(result));
    job->ver = gf_sql_i64(result, 0);
    job->now_ms = gf_clock_real_ms();
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class open_price(struct gf_admin_job *job, struct gf_sql *sql, int64_t from_ms, struct gf_error *error_r)
{
    const struct gift *gift = job->extra;

    return gf_sql_execf(sql, error_r,
                        "INSERT INTO gift_price (gift_id, valid_from_ms, valid_to_ms, price, share_bp)"
                        " VALUES (%lld, %lld, %lld, %lld, %lld)",
                        (long long)job->id, (long long)from_ms, (long long)INT64_MAX, (long long)gift->price,
                        (long long)gift->share_bp);
}

static enum gf_class insert_gift(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    const struct gift *gift = job->extra;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 16384);
    gf_buf_addf(
        &text,
        "INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (%lld, ",
        (long long)job->id);
    gf_sql_add_text(sql, &text, gift->name, strlen(gift->name));
    gf_buf_adds(&text, ", ");
    gf_sql_add_text(sql, &text, gift->cover_url, strlen(gift->cover_url));
    gf_buf_adds(&text, ", ");
    gf_sql_add_text(sql, &text, gift->effect_url, strlen(gift->effect_url));
    gf_buf_addf(&text, ", %lld, %lld, %lld, %lld)", (long long)gift->max_quantity, (long long)gift->status,
                (long long)job->ver, (long long)job->now_ms);
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_exec(sql, text.data, text.len, NULL, error_r);
    gf_buf_free(&text);
    return class;
}

static enum gf_class create_gift(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    const struct gift *gift = job->extra;
    struct gf_error error;
    enum gf_class class = lock_catalogue(job, sql, error_r);

    if (class != GF_OK)
        return class;
    class = insert_gift(job, sql, &error);
    if (class == GF_REJECT && gf_sql_is_duplicate(&error))
        return gf_admin_problem(job, GF_PROBLEM_CONFLICT, "there is a gift with this id");
    if (class != GF_OK) {
        *error_r = error;
        return class;
    }
    return gift->status == ON_SALE ? open_price(job, sql, job->now_ms, error_r) : GF_OK;
}

static enum gf_class read_last_price(struct gf_admin_job *job, struct gf_sql *sql, struct last_price *last_r,
                                     struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r,
                                        "SELECT valid_from_ms, valid_to_ms, price, share_bp FROM gift_price"
                                        " WHERE gift_id = %lld ORDER BY valid_from_ms DESC LIMIT %d",
                                        (long long)job->id, FUTURE_PRICES_MAX);
    int future = 0;

    if (class != GF_OK)
        return class;
    *last_r = (struct last_price){.found = false};
    while (gf_sql_next(result)) {
        if (!last_r->found)
            *last_r = (struct last_price){true, gf_sql_i64(result, 0), gf_sql_i64(result, 1), gf_sql_i64(result, 2),
                                          gf_sql_i64(result, 3)};
        if (gf_sql_i64(result, 0) > job->now_ms)
            future++;
    }
    gf_sql_result_free(&result);
    if (future == FUTURE_PRICES_MAX)
        return gf_admin_problem(job, GF_PROBLEM_CONFLICT,
                                "too many price changes wait to begin; try again in a moment");
    return GF_OK;
}

/* Off the shelf now: what is queued keeps its price for the grace time. A price that is about to begin will be paid where
 * this change is not known yet: it ends one millisecond after its beginning, and has its grace time, too. */
static enum gf_class close_prices(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    int64_t known_ms = job->now_ms + job->ingest->config->catalogue_price_lead; /* by then everybody knows it */
    enum gf_class class =
        gf_sql_execf(sql, error_r, "DELETE FROM gift_price WHERE gift_id = %lld AND valid_from_ms > %lld",
                     (long long)job->id, (long long)known_ms);

    if (class != GF_OK)
        return class;
    return gf_sql_execf(sql, error_r,
                        "UPDATE gift_price SET valid_to_ms = GREATEST(%lld, valid_from_ms + 1)"
                        " WHERE gift_id = %lld AND valid_to_ms > %lld",
                        (long long)job->now_ms, (long long)job->id, (long long)job->now_ms);
}

static enum gf_class change_price(struct gf_admin_job *job, struct gf_sql *sql, const struct last_price *last,
                                  struct gf_error *error_r)
{
    const struct gift *gift = job->extra;
    int64_t from_ms = job->now_ms + job->ingest->config->catalogue_price_lead;
    enum gf_class class;

    if (last->to_ms == INT64_MAX && last->price == gift->price && last->share_bp == gift->share_bp)
        return GF_OK;
    if (last->to_ms != INT64_MAX) /* nothing is in force: begin now, after what was */
        return open_price(job, sql, last->found && last->to_ms > job->now_ms ? last->to_ms : job->now_ms, error_r);
    if (from_ms <= last->from_ms)
        from_ms = last->from_ms + 1; /* the clock went back, or two changes in one millisecond */
    class = gf_sql_execf(sql, error_r,
                         "UPDATE gift_price SET valid_to_ms = %lld WHERE gift_id = %lld AND valid_from_ms = %lld",
                         (long long)from_ms, (long long)job->id, (long long)last->from_ms);
    return class == GF_OK ? open_price(job, sql, from_ms, error_r) : class;
}

/* Fills what the request left out from the row. */
static enum gf_class merge(struct gf_admin_job *job, struct gf_sql *sql, int64_t *old_status_r,
                           struct gf_error *error_r)
{
    struct gift *gift = job->extra;
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_queryf(
        sql, &result, error_r, "SELECT status, max_quantity FROM gift WHERE gift_id = %lld", (long long)job->id);

    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result)) {
        gf_sql_result_free(&result);
        return gf_admin_problem(job, GF_PROBLEM_GIFT_NOT_FOUND, NULL);
    }
    *old_status_r = gf_sql_i64(result, 0);
    gift->status = gift->has_status ? gift->status : *old_status_r;
    gift->max_quantity = gift->has_quantity ? gift->max_quantity : gf_sql_i64(result, 1);
    gf_sql_result_free(&result);
    return GF_OK;
}

static enum gf_class update_row(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    const struct gift *gift = job->extra;
    const struct {
        bool present;
        const char *column, *text;
    } texts[] = {
        {gift->has_name, "name", gift->name},
        {gift->has_cover, "cover_url", gift->cover_url},
        {gift->has_effect, "effect_url", gift->effect_url},
    };
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 16384);
    gf_buf_addf(&text, "UPDATE gift SET status = %lld, max_quantity = %lld, ver = %lld, updated_ms = %lld",
                (long long)gift->status, (long long)gift->max_quantity, (long long)job->ver, (long long)job->now_ms);
    for (size_t i = 0; i < GF_COUNT(texts); i++) {
        if (!texts[i].present)
            continue;
        gf_buf_addf(&text, ", %s = ", texts[i].column);
        gf_sql_add_text(sql, &text, texts[i].text, strlen(texts[i].text));
    }
    gf_buf_addf(&text, " WHERE gift_id = %lld", (long long)job->id);
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_exec(sql, text.data, text.len, NULL, error_r);
    gf_buf_free(&text);
    return class;
}

static enum gf_class update_gift(struct gf_admin_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gift *gift = job->extra;
    struct last_price last = {.found = false};
    int64_t old_status = OFF_SHELF;
    enum gf_class class = lock_catalogue(job, sql, error_r);

    if (class == GF_OK)
        class = merge(job, sql, &old_status, error_r);
    if (class == GF_OK && !job->refused)
        class = read_last_price(job, sql, &last, error_r);
    if (class != GF_OK || job->refused)
        return class;
    gift->price = gift->has_price ? gift->price : last.price;
    gift->share_bp = gift->has_share ? gift->share_bp : last.found ? last.share_bp : SHARE_DEFAULT_BP;
    if (gift->status == ON_SALE && gift->price == 0)
        return gf_admin_problem(job, GF_PROBLEM_MALFORMED, "a gift that never had a price needs one to be sold");
    class = update_row(job, sql, error_r);
    if (class != GF_OK)
        return class;
    return gift->status == OFF_SHELF ? close_prices(job, sql, error_r) : change_price(job, sql, &last, error_r);
}

/* Thread: database. */
static enum gf_class run_write(struct gf_job *base, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_admin_job *job = (struct gf_admin_job *)base;
    enum gf_class class = gf_sql_begin(sql, error_r);

    if (class != GF_OK)
        return class;
    class = job->created ? create_gift(job, sql, error_r) : update_gift(job, sql, error_r);
    if (class != GF_OK || job->refused) {
        gf_sql_rollback(sql);
        return class;
    }
    class = gf_sql_commit(sql, error_r);
    return class == GF_OK ? run_get(base, sql, error_r) : class;
}

/* Others are told; a lost record costs them at most one poll. */
static void on_written(struct gf_admin_job *job)
{
    struct gf_ingest *ingest = job->ingest;
    struct gf_kafka_record record = {.topic = ingest->catalogue_topic};
    struct gf_error error;
    char key[24], value[96];

    record.key = key;
    record.key_len = (size_t)snprintf(key, sizeof(key), "%lld", (long long)job->id);
    record.value = value;
    record.value_len = (size_t)snprintf(value, sizeof(value), "{\"v\":1,\"gift_id\":%lld,\"ver\":%lld}",
                                        (long long)job->id, (long long)job->ver);
    if (gf_kafka_produce(ingest->producer, &record, NULL, &error) != GF_OK)
        gf_log(GF_WARN, "catalogue_hint_lost", "gift=%lld error=\"%s\"", (long long)job->id, error.text);
    gf_catalogue_cache_poll(ingest->catalogue);
    gf_log(GF_INFO, "gift_changed", "gift=%lld ver=%lld", (long long)job->id, (long long)job->ver);
    gf_admin_answer(job, NULL);
}

static struct gf_admin_job *create_write(const struct gf_call *call, bool is_new)
{
    struct gf_admin_job *job = gf_admin_create(call);
    struct gift *gift = gf_xcalloc(1, sizeof(*gift));

    job->extra = gift;
    job->created = is_new;
    job->on_ok = on_written;
    gift->max_quantity = 9999;
    gift->share_bp = SHARE_DEFAULT_BP;
    gift->status = ON_SALE;
    return job;
}

void gf_admin_gift_post(const struct gf_call *call)
{
    struct gf_admin_job *job = create_write(call, true);

    if (!read_gift(job, job->extra, true))
        return;
    job->id = ((struct gift *)job->extra)->gift_id;
    job->status = 201;
    gf_admin_submit(job, run_write);
}

void gf_admin_gift_put(const struct gf_call *call)
{
    struct gf_admin_job *job = create_write(call, false);
    struct gift *gift = job->extra;

    gift->price = 0;
    if (!gf_admin_id(job, call->param[0], INT32_MAX, &job->id) || !read_gift(job, gift, false))
        return;
    if (gift->has_id && gift->gift_id != job->id)
        gf_admin_refuse(job, GF_PROBLEM_MALFORMED, "gift_id is not the one in the path");
    else
        gf_admin_submit(job, run_write);
}

void gf_admin_gift_get(const struct gf_call *call)
{
    struct gf_admin_job *job = gf_admin_create(call);

    if (gf_admin_id(job, call->param[0], INT32_MAX, &job->id))
        gf_admin_submit(job, run_get);
}

void gf_admin_gift_list(const struct gf_call *call)
{
    gf_admin_submit(gf_admin_create(call), run_list);
}
