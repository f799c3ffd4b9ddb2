/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/gifts. Order of checks: shape, token, key; catalogue, quantity, amount, self; then Redis: what this key was
 * used for, rate, wallet, balance; then Kafka. Answered 202 only after the acknowledgement of all replicas.
 *
 *   post -> offered -> checked -> (old key: trade row) -> reserve <-> load balance -> produce -> on_ack
 *
 * Ownership: struct gift belongs to the request, from `post` until `done`; every path ends in exactly one answer.
 * Failures: whatever may be in Kafka keeps its hold and its marker, so that a repeat with the same key is safe; only
 * what is certainly not there is given back (ABORT), whether Redis has told of it or not. Thread: the loop's, but read_trade. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/json.h"
#include "gf/log.h"
#include "gf/metrics.h"
#include "gf/num.h"
#include "gf/point.h"
#include "ingest.h"

#define QUANTITY_MAX 9999
#define LOADS_MAX 2
#define TRIES_MAX 2 /* of a script whose reply was lost */
#define NO_PROBLEM GF_PROBLEM_COUNT

struct gift {
    struct gf_produced produced;
    struct gf_job job; /* read_trade */
    struct gf_ingest *ingest;
    struct gf_http_req *req;
    int64_t gift_id, quantity; /* as sent; in the command only when in range */
    struct gf_command command;
    struct gf_reserve reserve;
    enum gf_problem problem; /* a verdict, answered unless the key has a better one */
    int64_t available;       /* of an insufficient balance */
    int loads, tries;
    bool held;    /* the script said OK: there are a hold and a marker of ours */
    bool unheard; /* a reply of the script is lost: there may be */
    bool queued;  /* the command may be in Kafka */
    struct {
        bool found;
        int64_t kind, price;
        uint8_t fp[8];
    } trade;
};

static struct gift *of_produced(struct gf_produced *produced)
{
    return (struct gift *)(void *)produced;
}

static struct gift *of_job(struct gf_job *job)
{
    return (struct gift *)(void *)((char *)job - offsetof(struct gift, job));
}

/* ---- answers: each of them ends the gift ---- */

static void done(struct gift *gift)
{
    if ((gift->held || gift->unheard) && !gift->queued && !gift->ingest->closing) /* what is said while closing is not sent */
        gf_balance_abort(gift->ingest->balance, &gift->reserve);
    gift->ingest->gifts_in_flight--;
    free(gift);
}

static void refuse_with(struct gift *gift, enum gf_problem problem, struct gf_problem_opts opts)
{
    gf_metric_add(problem == GF_PROBLEM_RATE_LIMITED  ? GF_M_GIFT_LIMITED
                  : problem == GF_PROBLEM_UNAVAILABLE ? GF_M_GIFT_UNAVAILABLE
                                                      : GF_M_GIFT_REFUSED,
                  1);
    opts.request_id = &gift->command.request_id;
    gf_problem_respond(gift->req, problem, &opts);
    done(gift);
}

static void refuse(struct gift *gift, enum gf_problem problem)
{
    refuse_with(gift, problem, (struct gf_problem_opts){0});
}

/* Always "retry with this key": a new key could pay twice (F15). */
static void unavailable(struct gift *gift, const char *why)
{
    char detail[160];

    snprintf(detail, sizeof(detail), "%s; retry with this key", why);
    refuse_with(gift, GF_PROBLEM_UNAVAILABLE, (struct gf_problem_opts){.detail = detail});
}

static void accepted(struct gift *gift, int64_t price, int64_t quantity, bool replayed)
{
    struct gf_buf *body = &gift->ingest->scratch;
    int64_t amount;

    if (!gf_money_mul(price, quantity, &amount)) { /* no such thing was ever accepted: the marker is not ours */
        unavailable(gift, "the key's history cannot be read");
        return;
    }
    gf_buf_reset(body);
    gf_buf_adds(body, "{\"request_id\":\"");
    gf_buf_add_uuid(body, &gift->command.request_id);
    gf_buf_add_field(body, "\",\"status\":\"accepted\",\"price\":", price);
    gf_buf_add_field(body, ",\"quantity\":", quantity);
    gf_buf_add_field(body, ",\"amount\":", amount);
    gf_buf_addc(body, '}');
    gf_metric_add(replayed ? GF_M_GIFT_REPLAYED : GF_M_GIFT_ACCEPTED, 1);
    gf_json_respond(gift->req, 202, replayed ? "Idempotency-Replayed: true\r\n" : NULL, body);
    done(gift);
}

/* ---- what the trade row says of a key whose marker may be gone ---- */

/* thread: database */
static enum gf_class read_trade(struct gf_job *job, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gift *gift = of_job(job);
    struct gf_sql_result *result = NULL;
    struct gf_buf text;
    enum gf_class class;
    const char *fp;
    size_t len;

    gf_buf_init(&text, 256);
    gf_buf_adds(&text, "SELECT kind, price, fp FROM trade WHERE request_id=");
    gf_buf_add_xhex(&text, gift->command.request_id.b, sizeof(gift->command.request_id.b));
    gf_buf_adds(&text, " AND user_id=");
    gf_buf_add_i64(&text, gift->command.user_id);
    GF_ASSERT(gf_buf_ok(&text));
    class = gf_sql_query(sql, text.data, text.len, &result, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    gift->trade.found = gf_sql_next(result);
    if (gift->trade.found) {
        gift->trade.kind = gf_sql_i64(result, 0);
        gift->trade.price = gf_sql_i64(result, 1);
        fp = gf_sql_bytes(result, 2, &len);
        if (len == sizeof(gift->trade.fp))
            memcpy(gift->trade.fp, fp, len);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

static void look_at_trade(struct gift *gift, void (*on_done)(struct gf_job *, enum gf_class, const struct gf_error *))
{
    gift->job.run = read_trade;
    gift->job.on_done = on_done;
    if (gf_db_submit(gift->ingest->db, &gift->job) != GF_OK)
        unavailable(gift, "the key's history cannot be read");
}

/* False: no trade has this key. Else the gift was answered. */
static bool answered_by_trade(struct gift *gift, enum gf_class class)
{
    if (class != GF_OK)
        unavailable(gift, "the key's history cannot be read");
    else if (!gift->trade.found)
        return false;
    else if (gift->trade.kind == GF_KIND_GIFT && memcmp(gift->trade.fp, gift->command.fp, sizeof(gift->trade.fp)) == 0)
        accepted(gift, gift->trade.price, gift->quantity, true);
    else
        refuse(gift, gift->reserve.lookup ? gift->problem : GF_PROBLEM_MISMATCH);
    return true;
}

/* ---- Kafka ---- */

static void on_ack(struct gf_produced *produced, enum gf_kafka_ack ack)
{
    struct gift *gift = of_produced(produced);

    switch (ack) {
    case GF_KAFKA_PERSISTED:
        GF_POINT(ingest_accept_before);
        if (gift->held)
            gf_balance_accept(gift->ingest->balance, &gift->reserve);
        GF_POINT(ingest_accept_after);
        accepted(gift, gift->reserve.price, gift->reserve.quantity, false);
        GF_POINT(ingest_answered);
        break;
    case GF_KAFKA_NOT_PERSISTED:
        gift->queued = false;
        unavailable(gift, "the queue does not answer");
        break;
    case GF_KAFKA_MAYBE: /* it may be in the log: hold and marker stay */
        unavailable(gift, "the queue did not confirm");
        break;
    }
}

static void produce(struct gift *gift)
{
    struct gf_command *command = &gift->command;
    struct gf_slice trace = gf_http_header(gift->req, "traceparent", NULL);

    command->price = gift->reserve.price;
    command->quantity = (int32_t)gift->reserve.quantity;
    command->ts_ms = gf_clock_real_ms();
    gift->produced.on_ack = on_ack;
    if (gift->ingest->closing || gf_ingest_produce(gift->ingest, command, trace, &gift->produced) != GF_OK) {
        unavailable(gift, "the queue is full");
        return;
    }
    gift->queued = true;
    GF_POINT(ingest_produce_after);
}

/* ---- Redis ---- */

static void reserve(struct gift *gift);

/* Nobody can be asked: no hold, no replay; settlement judges and dedupes. */
static void without_redis(struct gift *gift)
{
    struct gf_ingest *ingest = gift->ingest;
    const char *fp = gift->reserve.keyless ? gift->reserve.fp : NULL;

    if (ingest->closing || strcmp(ingest->config->ingest_redis_down, "refuse") == 0 || gift->reserve.lookup) {
        unavailable(gift, "the balance cache is away");
        return;
    }
    switch (gf_limiter_check(ingest->limiter, gift->command.user_id, fp, gf_clock_mono_ms())) {
    case GF_LIMITED_RATE:
        refuse(gift, GF_PROBLEM_RATE_LIMITED);
        break;
    case GF_LIMITED_DOUBLE_CLICK:
        refuse_with(gift, GF_PROBLEM_IN_PROGRESS,
                    (struct gf_problem_opts){.detail = "an equal request came a moment ago"});
        break;
    case GF_LIMITED_NO:
        produce(gift);
        break;
    }
}

static void on_loaded(void *ctx, enum gf_class class)
{
    struct gift *gift = ctx;

    if (gift->ingest->closing)
        unavailable(gift, "the service is stopping");
    else if (class == GF_OK)
        reserve(gift);
    else if (class == GF_REJECT || !gf_balance_up(gift->ingest->balance, gift->command.user_id))
        without_redis(gift);
    else
        unavailable(gift, "the balance cannot be read");
}

static void load_balance(struct gift *gift)
{
    gf_metric_add(GF_M_RESERVE_STALE, 1);
    if (gift->loads++ < LOADS_MAX)
        gf_balance_loader_load(gift->ingest->balances, gift->command.user_id, on_loaded, gift);
    else
        unavailable(gift, "the balance does not settle down");
}

static void refuse_by_wallet(struct gift *gift)
{
    char detail[128];

    snprintf(detail, sizeof(detail), "%lld coins are needed, %lld are available", (long long)gift->reserve.amount,
             (long long)gift->available);
    refuse_with(gift, gift->problem,
                (struct gf_problem_opts){.detail = gift->problem == GF_PROBLEM_INSUFFICIENT_BALANCE ? detail : NULL});
}

static void on_refusal_looked_at(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct gift *gift = of_job(job);

    (void)error;
    if (!answered_by_trade(gift, class))
        refuse_by_wallet(gift);
}

/* Who has paid with this key must not hear that he cannot, or he pays again with another one (F15): its first call may have been
 * settled by now, and its marker be gone, or never have learned of the 202. */
static void refuse_unless_settled(struct gift *gift, enum gf_problem problem, int64_t available)
{
    gift->problem = problem;
    gift->available = available;
    if (gift->reserve.keyless)
        refuse_by_wallet(gift); /* the key is new: we have made it */
    else
        look_at_trade(gift, on_refusal_looked_at);
}

static void judge(struct gift *gift, const struct gf_reserve_reply *reply)
{
    switch (reply->answer) {
    case GF_RESERVED_OK:
        gift->held = true;
        GF_POINT(ingest_reserve_after);
        gift->reserve.price = reply->price; /* a first call's, if this one has taken it over */
        gift->reserve.quantity = reply->quantity;
        produce(gift);
        break;
    case GF_RESERVED_REPLAY:
        accepted(gift, reply->price, reply->quantity, true);
        break;
    case GF_RESERVED_MISMATCH:
        refuse(gift, gift->reserve.lookup ? gift->problem : GF_PROBLEM_MISMATCH);
        break;
    case GF_RESERVED_NONE:
        refuse(gift, gift->problem);
        break;
    case GF_RESERVED_IN_PROGRESS:
        refuse_with(gift, GF_PROBLEM_IN_PROGRESS, (struct gf_problem_opts){.retry_after_s = 1});
        break;
    case GF_RESERVED_DOUBLE_CLICK:
        refuse_with(gift, GF_PROBLEM_IN_PROGRESS,
                    (struct gf_problem_opts){.detail = "an equal request came a moment ago"});
        break;
    case GF_RESERVED_STALE:
        load_balance(gift);
        break;
    case GF_RESERVED_NO_WALLET:
        refuse(gift, GF_PROBLEM_WALLET_NOT_FOUND);
        break;
    case GF_RESERVED_LIMITED:
        refuse_with(gift, GF_PROBLEM_RATE_LIMITED,
                    (struct gf_problem_opts){.retry_after_s = (reply->wait_ms + 999) / 1000});
        break;
    case GF_RESERVED_FROZEN:
        refuse_unless_settled(gift, GF_PROBLEM_WALLET_FROZEN, 0);
        break;
    case GF_RESERVED_BUSY:
        refuse(gift, GF_PROBLEM_TOO_MANY_IN_FLIGHT);
        break;
    case GF_RESERVED_INSUFFICIENT:
        refuse_unless_settled(gift, GF_PROBLEM_INSUFFICIENT_BALANCE, reply->available);
        break;
    }
}

static void on_reserved(void *ctx, const struct gf_reserve_reply *reply)
{
    struct gift *gift = ctx;

    gift->unheard = gift->unheard || !reply;
    if (reply)
        judge(gift, reply);
    else if (gift->tries++ < TRIES_MAX && gf_balance_up(gift->ingest->balance, gift->command.user_id))
        reserve(gift); /* same nonce: a call that did run is found again */
    else
        without_redis(gift);
}

static void reserve(struct gift *gift)
{
    struct gf_ingest *ingest = gift->ingest;

    GF_POINT(ingest_reserve_before);
    if (gf_balance_reserve(ingest->balance, &gift->reserve, on_reserved, gift) == GF_OK)
        return;
    if (gf_balance_up(ingest->balance, gift->command.user_id))
        unavailable(gift, "too many requests are waiting");
    else
        without_redis(gift);
}

/* ---- keys older than their markers ---- */

static void on_trade_read(struct gf_job *job, enum gf_class class, const struct gf_error *error)
{
    struct gift *gift = of_job(job);

    (void)error;
    if (!answered_by_trade(gift, class))
        reserve(gift);
}

/* A v7 key tells its age: when its marker may be gone, the trade row remembers. */
static bool outlived_marker(const struct gift *gift)
{
    const struct gf_uuid *id = &gift->command.request_id;

    return !gift->reserve.keyless && gf_uuid_version(id) == 7 &&
           gf_clock_real_ms() - gf_uuid_v7_ms(id) > gift->ingest->config->ingest_marker_ttl;
}

static void look_up_key(struct gift *gift)
{
    if (outlived_marker(gift))
        look_at_trade(gift, on_trade_read);
    else
        reserve(gift);
}

/* ---- catalogue ---- */

static void hex16(char text_r[GF_FP_TEXT + 1], const uint8_t bytes[8])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < 8; i++) {
        text_r[2 * i] = digits[bytes[i] >> 4];
        text_r[2 * i + 1] = digits[bytes[i] & 15];
    }
    text_r[GF_FP_TEXT] = '\0';
}

/* What the scripts need beside the amount. */
static void prepare_reserve(struct gift *gift)
{
    struct gf_command *command = &gift->command;
    uint8_t digest[32], nonce[8];
    char text[160];
    size_t len;

    command->gift_id = (int32_t)gift->gift_id;
    command->quantity = (int32_t)gift->quantity;
    len = gf_command_fp_text(command, text);
    gf_sha256(text, len, digest);
    memcpy(command->fp, digest, sizeof(command->fp));
    gf_ingest_random(gift->ingest, nonce, sizeof(nonce));
    gift->reserve.user_id = command->user_id;
    gift->reserve.request_id = command->request_id;
    hex16(gift->reserve.fp, command->fp);
    hex16(gift->reserve.nonce, nonce);
    gift->reserve.quantity = gift->quantity;
    gift->reserve.begun_ms = gf_clock_mono_ms();
}

/* The catalogue says no. A key that was accepted while it still said yes gets its 202 again. */
static void refuse_by_catalogue(struct gift *gift, enum gf_problem problem)
{
    bool storable =
        gift->gift_id >= 1 && gift->gift_id <= INT32_MAX && gift->quantity >= 1 && gift->quantity <= QUANTITY_MAX;

    if (gift->reserve.keyless || !storable) {
        refuse(gift, problem);
        return;
    }
    gift->problem = problem;
    gift->reserve.lookup = true;
    prepare_reserve(gift);
    look_up_key(gift);
}

static void offered(struct gift *gift, const struct gf_offer *offer)
{
    int64_t max = offer->max_quantity < QUANTITY_MAX ? offer->max_quantity : QUANTITY_MAX;

    if (gift->quantity < 1 || gift->quantity > max) {
        refuse_by_catalogue(gift, GF_PROBLEM_QUANTITY);
        return;
    }
    if (!gf_money_mul(offer->price, gift->quantity, &gift->reserve.amount) || gift->reserve.amount > GF_ID_MAX) {
        refuse_by_catalogue(gift, GF_PROBLEM_AMOUNT);
        return;
    }
    if (gift->command.receiver_id == gift->command.user_id) {
        refuse(gift, GF_PROBLEM_SELF_GIFT);
        return;
    }
    gift->reserve.price = offer->price;
    prepare_reserve(gift);
    look_up_key(gift);
}

/* False: the cache does not know the gift. Else the gift has gone on, or was answered. */
static bool judge_by_cache(struct gift *gift)
{
    struct gf_offer offer;

    switch (gf_catalogue_cache_find(gift->ingest->catalogue, (int32_t)gift->gift_id, gf_clock_real_ms(), &offer)) {
    case GF_OFFERED_YES:
        offered(gift, &offer);
        return true;
    case GF_OFFERED_NO:
        refuse_by_catalogue(gift, GF_PROBLEM_GIFT_NOT_FOUND);
        return true;
    case GF_OFFERED_MISS:
        break;
    }
    return false;
}

static void on_catalogue_loaded(void *ctx, enum gf_class class)
{
    struct gift *gift = ctx;

    if (class != GF_OK)
        unavailable(gift, "the catalogue cannot be read");
    else if (!judge_by_cache(gift)) /* pushed out again at once: the cache is too small for what is asked */
        unavailable(gift, "the catalogue is busy");
}

static void look_at_catalogue(struct gift *gift)
{
    if (gift->gift_id < 1 || gift->gift_id > INT32_MAX)
        refuse_by_catalogue(gift, GF_PROBLEM_GIFT_NOT_FOUND);
    else if (!judge_by_cache(gift))
        gf_catalogue_cache_load(gift->ingest->catalogue, (int32_t)gift->gift_id, on_catalogue_loaded, gift);
}

/* ---- the request ---- */

struct body {
    int64_t room_id, receiver_id, gift_id, quantity, type;
};

/* False: answered. Quantity and gift are any integer here: their codes are 422 and 404. */
static bool read_body(struct gf_http_req *req, struct body *body_r)
{
    struct body body = {0};
    const struct gf_json_field fields[] = {
        {"room_id", GF_JSON_I64, true, 1, GF_ID_MAX, &body.room_id, NULL, NULL},
        {"receiver_id", GF_JSON_I64, true, 1, GF_ID_MAX, &body.receiver_id, NULL, NULL},
        {"gift_id", GF_JSON_I64, true, 1, 0, &body.gift_id, NULL, NULL},
        {"quantity", GF_JSON_I64, true, 1, 0, &body.quantity, NULL, NULL},
        {"type", GF_JSON_I64, false, 0, INT8_MAX, &body.type, NULL, NULL},
    };
    struct gf_slice text = gf_http_body(req);
    struct gf_error error;

    if (gf_json_read(text.ptr, text.len, fields, GF_COUNT(fields), &error) != GF_OK) {
        gf_problem_respond(req, GF_PROBLEM_MALFORMED, &(struct gf_problem_opts){.detail = error.text});
        return false;
    }
    *body_r = body;
    return true;
}

/* NULL: there is room. */
static const char *overloaded(const struct gf_ingest *ingest)
{
    if (ingest->gifts_in_flight >= ingest->config->ingest_in_flight_max)
        return "too many requests are being answered";
    if (!gf_kafka_producer_ready(ingest->producer))
        return "the queue is away";
    if (!gf_pins_ok(ingest->pins))
        return "the queue is not the one that was set up";
    if (ingest->config->ingest_lag_max > 0 && gf_lag_ms(ingest->lag) > ingest->config->ingest_lag_max)
        return "settlement is behind";
    return NULL;
}

void gf_gift_post(const struct gf_call *call)
{
    struct gf_ingest *ingest = call->ingest;
    struct gift *gift;
    struct gf_uuid id;
    struct body body;
    const char *why;
    int64_t user_id;
    bool keyless;

    if (!read_body(call->req, &body) || !gf_request_auth(ingest, call->req, &user_id) ||
        !gf_request_key(call->req, &id, &keyless))
        return;
    gift = gf_xcalloc(1, sizeof(*gift));
    ingest->gifts_in_flight++;
    gift->ingest = ingest;
    gift->req = call->req;
    gift->problem = NO_PROBLEM;
    gift->gift_id = body.gift_id;
    gift->quantity = body.quantity;
    gift->reserve.keyless = keyless;
    gift->command = (struct gf_command){.kind = GF_KIND_GIFT,
                                        .request_id = id,
                                        .user_id = user_id,
                                        .receiver_id = body.receiver_id,
                                        .room_id = body.room_id,
                                        .gift_type = (int32_t)body.type};
    why = overloaded(ingest);
    if (why)
        unavailable(gift, why);
    else
        look_at_catalogue(gift);
}
