/* SPDX-License-Identifier: Apache-2.0 */
/* The senders of the load harness. Each has one keep-alive connection with one request in flight and a bounded queue. In
 * the open loop a request's time is planned before it is known whether its sender is free, so a slow server cannot slow
 * the measurement down (no coordinated omission). An uncertain answer (none, or 503) is repeated with the same key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "load.h"

#define QUEUE_MAX 1000
#define ATTEMPTS_MAX 6
#define RETRY_MS 300
#define LATE_US 10000
#define TIMEOUT_MS 15000
#define REQUEST_MAX 8192
#define UNKNOWN_GIFT 2000000000
#define PLANS_PER_TURN 4096 /* a generator that is behind still serves its sockets */

static void on_reply(void *ctx, struct gf_http_conn *conn, int status, const char *body, size_t len);

static bool has_token(enum load_kind kind) { return kind != LOAD_NO_TOKEN; }

/* ---- one request as text ---- */

static void write_body(const struct load *load, const struct load_sender *sender, const struct load_request *request,
                       struct gf_buf *body)
{
    int64_t receiver = request->kind == LOAD_SELF_GIFT ? sender->user_id : load_receiver_id(load, sender->room);

    gf_buf_add_field(body, "{\"room_id\":", load_room_id(load, sender->room));
    gf_buf_add_field(body, ",\"receiver_id\":", receiver);
    gf_buf_add_field(body, ",\"gift_id\":", request->gift_id);
    gf_buf_add_field(body, ",\"quantity\":", request->quantity);
    gf_buf_adds(body, request->kind == LOAD_NOT_JSON ? ",\"type\":}" : ",\"type\":0}");
}

static void write_request(const struct load *load, struct load_sender *sender, const struct load_request *request)
{
    const struct load_address *to = &load->opts.ingest[sender->ingest];
    bool get = request->kind == LOAD_ASK || request->kind == LOAD_CATALOGUE;
    struct gf_buf *out = &sender->request, body;

    gf_buf_reset(out);
    if (request->kind == LOAD_CATALOGUE) {
        gf_buf_adds(out, "GET /v1/gifts");
    } else if (get) {
        gf_buf_adds(out, "GET /v1/requests/");
        gf_buf_add_uuid(out, &request->id);
    } else {
        gf_buf_adds(out, "POST /v1/gifts");
    }
    gf_buf_adds(out, " HTTP/1.1\r\nHost: ");
    gf_buf_adds(out, to->host);
    gf_buf_addc(out, ':');
    gf_buf_add_i64(out, to->port);
    gf_buf_adds(out, "\r\n");
    if (has_token(request->kind))
        gf_buf_add(out, sender->authorization.data, sender->authorization.len);
    if (!get) {
        gf_buf_init(&body, 512);
        write_body(load, sender, request, &body);
        gf_buf_adds(out, "Content-Type: application/json\r\nIdempotency-Key: ");
        gf_buf_add_uuid(out, &request->id);
        gf_buf_adds(out, "\r\nContent-Length: ");
        gf_buf_add_i64(out, (int64_t)body.len);
        gf_buf_adds(out, "\r\n\r\n");
        gf_buf_add(out, body.data, body.len);
        gf_buf_free(&body);
    } else {
        gf_buf_adds(out, "\r\n");
    }
    GF_ASSERT(gf_buf_ok(out));
}

/* ---- queueing ---- */

static void make_ready(struct load_sender *sender)
{
    if (sender->ready_listed)
        return;
    sender->ready_listed = true;
    sender->load->ready[sender->load->ready_count++] = sender->index;
}

static void enqueue(struct load_sender *sender, uint32_t row)
{
    struct load_request *rows = sender->load->table.rows;

    rows[row].next = LOAD_NONE;
    if (sender->queued++ == 0)
        sender->head = row;
    else
        rows[sender->tail].next = row;
    sender->tail = row;
    make_ready(sender);
}

static uint32_t dequeue(struct load_sender *sender)
{
    uint32_t row = sender->head;

    GF_ASSERT(sender->queued > 0);
    sender->head = sender->load->table.rows[row].next;
    sender->queued--;
    return row;
}

static void send_row(struct load_sender *sender, uint32_t row)
{
    struct load *load = sender->load;
    struct load_request *request = &load->table.rows[row];
    int64_t now_us = gf_clock_mono_us();

    if (sender->move) {
        gf_http_conn_close(&sender->conn);
        sender->ingest = (sender->ingest + 1) % load->opts.ingest_count;
        sender->move = false;
    }
    if (!sender->conn) {
        const struct load_address *to = &load->opts.ingest[sender->ingest];

        sender->conn = gf_http_conn_create(load->loop, to->host, to->port, TIMEOUT_MS);
    }
    if (request->kind < LOAD_ASK)
        load->report.send_us = now_us - load->start_us; /* also during the drain: a server that falls behind is not as fast as planned */
    if (request->attempts++ == 0) {
        request->sent_us = now_us;
        load->report.sent += request->kind < LOAD_ASK;
        load->report.late += request->kind < LOAD_ASK && now_us - request->planned_us > LATE_US;
    }
    write_request(load, sender, request);
    sender->current = row;
    gf_http_conn_send(sender->conn, sender->request.data, sender->request.len, on_reply, sender);
}

/* ---- planning ---- */

static enum load_kind pick_kind(struct load *load, const struct load_sender *sender)
{
    static const enum load_kind bad[] = {LOAD_REPEAT,       LOAD_REPEAT,        LOAD_MISMATCH, LOAD_SELF_GIFT,
                                         LOAD_UNKNOWN_GIFT, LOAD_ZERO_QUANTITY, LOAD_NOT_JSON, LOAD_NO_TOKEN};
    uint64_t random = load_random(load);
    enum load_kind kind;

    if (sender->index >= load->poor_first)
        return LOAD_INSUFFICIENT;
    if ((int64_t)(random % 100) >= load->opts.bad_percent)
        return LOAD_GOOD;
    kind = bad[(random >> 32) % GF_COUNT(bad)];
    if ((kind == LOAD_REPEAT || kind == LOAD_MISMATCH) && sender->last_accepted == LOAD_NONE)
        return LOAD_GOOD;
    return kind;
}

static void plan_one(struct load *load, struct load_sender *sender, int64_t planned_us)
{
    enum load_kind kind = pick_kind(load, sender);
    uint32_t row = load_table_add(&load->table);
    struct load_request *request = &load->table.rows[row];
    uint64_t random[2] = {load_random(load), load_random(load)};

    load->report.planned++;
    *request = (struct load_request){.planned_us = planned_us, .sender = sender->index, .kind = (uint8_t)kind,
                                     .target = LOAD_NONE, .quantity = kind == LOAD_ZERO_QUANTITY ? 0 : 1};
    if (kind == LOAD_REPEAT || kind == LOAD_MISMATCH) {
        const struct load_request *target = &load->table.rows[sender->last_accepted];

        request->target = sender->last_accepted;
        request->id = target->id;
        request->gift_id = target->gift_id;
        request->quantity = target->quantity + (kind == LOAD_MISMATCH);
    } else {
        request->id = gf_uuid_make(7, gf_clock_real_ms(), (const uint8_t *)random);
        request->gift_id = kind == LOAD_UNKNOWN_GIFT
                               ? UNKNOWN_GIFT
                               : (int32_t)load->opts.gifts[load_random(load) % (uint64_t)load->opts.gift_count];
        load_table_index(&load->table, row);
    }
    if (sender->queued >= QUEUE_MAX) {
        load->report.dropped++;
        return;
    }
    load->busy++;
    enqueue(sender, row);
}

bool load_send_enough(const struct load *load) { return load->opts.count > 0 && load->report.planned >= load->opts.count; }

void load_send_plan(struct load *load)
{
    int64_t now_us = gf_clock_mono_us(), planned_us;

    if (load->opts.rate == 0) {
        for (uint32_t i = 0; i < load->sender_count && !load_send_enough(load); i++)
            if (load->senders[i].current == LOAD_NONE && load->senders[i].queued == 0)
                plan_one(load, &load->senders[i], now_us);
        return;
    }
    for (int i = 0; i < PLANS_PER_TURN && load->next_planned < load->opts.rate * load->opts.seconds; i++) {
        planned_us = load->start_us + load->next_planned * 1000000 / load->opts.rate;
        if (planned_us > now_us)
            return;
        plan_one(load, &load->senders[load->next_planned % load->sender_count], planned_us);
        load->next_planned++;
    }
}

void load_send_turn(void *ctx)
{
    struct load *load = ctx;
    uint32_t count = load->ready_count;

    for (uint32_t i = 0; i < count; i++) {
        struct load_sender *sender = &load->senders[load->ready[i]];

        sender->ready_listed = false;
        if (sender->current != LOAD_NONE)
            continue; /* its reply lists it again */
        if (sender->queued == 0 && load->phase == LOAD_SENDING && load->opts.rate == 0 && !load_send_enough(load))
            plan_one(load, sender, gf_clock_mono_us());
        if (sender->queued > 0)
            send_row(sender, dequeue(sender));
    }
    /* Those that were listed meanwhile (a send may fail at once) wait for the next turn. */
    memmove(load->ready, load->ready + count, (load->ready_count - count) * sizeof(*load->ready));
    load->ready_count -= count;
}

void load_send_retries(struct load *load)
{
    int32_t now_ms = (int32_t)((gf_clock_mono_us() - load->start_us) / 1000);
    uint32_t row = load->retry_head, next;

    load->retry_head = LOAD_NONE;
    for (; row != LOAD_NONE; row = next) {
        struct load_request *request = &load->table.rows[row];

        next = request->next;
        if (request->due_ms <= now_ms) {
            enqueue(&load->senders[request->sender], row);
        } else {
            request->next = load->retry_head;
            load->retry_head = row;
        }
    }
}

/* ---- answers ---- */

static bool answer_allowed(enum load_kind kind, int status)
{
    if (status == 0 || status == 429 || status == 503)
        return true; /* overload and faults: any request may meet them */
    switch (kind) {
    case LOAD_GOOD:
    case LOAD_INSUFFICIENT:
        return status == 202 || status == 402 || status == 403 || status == 404 || status == 409;
    case LOAD_SELF_GIFT:
    case LOAD_MISMATCH:
        return status == 422;
    case LOAD_UNKNOWN_GIFT:
        return status == 404;
    case LOAD_ZERO_QUANTITY:
        return status == 400 || status == 422;
    case LOAD_NOT_JSON:
        return status == 400;
    case LOAD_NO_TOKEN:
        return status == 401;
    case LOAD_REPEAT:
        return status == 202;
    case LOAD_ASK:
    case LOAD_CATALOGUE:
        return true;
    }
    return false;
}

/* The text value of "name" in a small JSON body; len 0: not there. */
static struct gf_slice body_text(const char *body, size_t len, const char *name)
{
    char key[40];
    int key_len = snprintf(key, sizeof(key), "\"%s\":", name);
    const char *at = len ? memmem(body, len, key, (size_t)key_len) : NULL, *end = body + len, *stop;

    if (!at)
        return (struct gf_slice){"", 0};
    for (at += key_len; at < end && *at == ' ';)
        at++;
    if (at == end || *at != '"')
        return (struct gf_slice){"", 0};
    stop = memchr(at + 1, '"', (size_t)(end - at - 1));
    return stop ? (struct gf_slice){at + 1, (size_t)(stop - at - 1)} : (struct gf_slice){"", 0};
}

/* True: the request is over. */
static bool retry(struct load *load, struct load_request *request, uint32_t row, int status)
{
    if ((status != 0 && status != 503) || request->attempts >= ATTEMPTS_MAX || load->phase >= LOAD_LINGER)
        return false;
    load->report.retries++;
    request->due_ms = (int32_t)((gf_clock_mono_us() - load->start_us) / 1000 + RETRY_MS);
    request->next = load->retry_head;
    load->retry_head = row;
    return true;
}

static void on_accepted(struct load_sender *sender, struct load_request *request, uint32_t row)
{
    struct load *load = sender->load;

    gf_hist_add(&load->report.answer, gf_clock_mono_us() - request->planned_us);
    if (request->kind == LOAD_REPEAT) {
        load->report.replayed++;
        return;
    }
    load->report.accepted++;
    request->accepted = true;
    sender->last_accepted = row;
    if (request->code == 0)
        load->awaiting++;
}

static void on_asked(struct load *load, struct load_request *request, int status, struct gf_slice text)
{
    struct load_request *target = &load->table.rows[request->target];
    bool is_final = status == 200 && (gf_slice_is(text, "settled") || gf_slice_is(text, "rejected"));

    if (!is_final || target->code != 0)
        return;
    target->by_get = true;
    load->report.outcome_by_get++;
}

/* Every "gift_id": of the list. */
static void on_catalogue(struct load *load, int status, const char *body, size_t len)
{
    static const char key[] = "\"gift_id\":";
    const char *at = body, *end = body + len;

    load->catalogue_failed = status != 200;
    while (status == 200 && load->opts.gift_count < LOAD_GIFTS && (at = memmem(at, (size_t)(end - at), key, strlen(key)))) {
        const char *digits = at += strlen(key);

        while (at < end && *at >= '0' && *at <= '9')
            at++;
        if (gf_num_parse_i64(digits, (size_t)(at - digits), 1, INT32_MAX, &load->opts.gifts[load->opts.gift_count]))
            load->opts.gift_count++;
    }
}

static void on_post_answer(struct load_sender *sender, uint32_t row, int status, struct gf_slice code)
{
    struct load *load = sender->load;
    struct load_request *request = &load->table.rows[row];
    char detail[80];

    load->report.answers[status > 0 && status < 600 ? status : 0]++;
    if (status != 202 && status != 0)
        load_count_name(load->report.codes, code.ptr, code.len);
    if (!answer_allowed(request->kind, status)) {
        snprintf(detail, sizeof(detail), "kind %d got %d %.*s", request->kind, status, (int)(code.len < 40 ? code.len : 40), code.ptr);
        load_violate(&load->report, LOAD_V_WRONG_ANSWER, &request->id, detail);
    }
    if (retry(load, request, row, status))
        return;
    if (load->phase >= LOAD_LINGER)
        return; /* counted as unanswered already */
    load->busy--;
    request->status = (uint16_t)status;
    if (status == 202)
        on_accepted(sender, request, row);
}

static void on_reply(void *ctx, struct gf_http_conn *conn, int status, const char *body, size_t len)
{
    struct load_sender *sender = ctx;
    struct load *load = sender->load;
    uint32_t row = sender->current;
    struct load_request *request = &load->table.rows[row];

    (void)conn;
    GF_ASSERT(row != LOAD_NONE);
    sender->current = LOAD_NONE;
    sender->move = status == 0 || status == 503;
    make_ready(sender);
    if (request->kind < LOAD_ASK) {
        on_post_answer(sender, row, status, body_text(body, len, "code"));
        return;
    }
    load->asking--;
    if (request->kind == LOAD_ASK)
        on_asked(load, request, status, body_text(body, len, "status"));
    else
        on_catalogue(load, status, body, len);
}

/* ---- questions ---- */

static uint32_t add_question(struct load *load, enum load_kind kind, uint32_t sender)
{
    uint32_t row = load_table_add(&load->table);
    struct load_request *request = &load->table.rows[row];

    request->kind = (uint8_t)kind;
    request->sender = sender;
    request->planned_us = gf_clock_mono_us();
    load->asking++;
    return row;
}

void load_send_catalogue(struct load *load) { enqueue(&load->senders[0], add_question(load, LOAD_CATALOGUE, 0)); }

void load_send_ask(struct load *load, uint32_t target)
{
    uint32_t sender = load->table.rows[target].sender;
    uint32_t row = add_question(load, LOAD_ASK, sender);

    load->table.rows[row].target = target;
    load->table.rows[row].id = load->table.rows[target].id;
    enqueue(&load->senders[sender], row);
}

void load_send_purge(struct load *load)
{
    load->retry_head = LOAD_NONE;
    for (uint32_t i = 0; i < load->sender_count; i++)
        load->senders[i].queued = 0;
}

/* ---- life ---- */

void load_send_init(struct load *load)
{
    load->senders = gf_xcalloc(load->sender_count, sizeof(*load->senders));
    load->ready = gf_xcalloc((size_t)load->sender_count * 2, sizeof(*load->ready));
    for (uint32_t i = 0; i < load->sender_count; i++) {
        struct load_sender *sender = &load->senders[i];
        char token[GF_JWT_MAX];
        enum gf_class class;
        struct gf_error error;

        sender->load = load;
        sender->index = i;
        sender->current = sender->last_accepted = LOAD_NONE;
        sender->user_id = i < load->poor_first ? load->opts.user_from + i : load->opts.poor_from + (i - load->poor_first);
        sender->room = (int)(i % load->opts.rooms);
        sender->ingest = (int)(i % (uint32_t)load->opts.ingest_count);
        gf_buf_init(&sender->request, REQUEST_MAX);
        gf_buf_init(&sender->authorization, GF_JWT_MAX + 64);
        class = gf_jwt_sign(load->jwt, sender->user_id, load_token_end_s(load), token, sizeof(token), &error);
        GF_ASSERT(class == GF_OK); /* load_run has made one */
        gf_buf_addf(&sender->authorization, "Authorization: Bearer %s\r\n", token);
    }
}

void load_send_free(struct load *load)
{
    for (uint32_t i = 0; load->senders && i < load->sender_count; i++) {
        gf_buf_free(&load->senders[i].request);
        gf_buf_free(&load->senders[i].authorization);
        gf_http_conn_close(&load->senders[i].conn);
    }
    free(load->senders);
    free(load->ready);
}
