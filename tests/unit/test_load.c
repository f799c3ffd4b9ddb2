/* SPDX-License-Identifier: Apache-2.0 */
/* The load harness against a fake ingest and gateway on its own loop, which break one promise at a time: a harness that
 * cannot see a lost or doubled outcome proves nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "tool/load.h"

enum fault {
    NONE,
    LOSE_FRAME,          /* settled, but nobody sees it */
    LOSE_OUTCOME,        /* accepted, then forgotten */
    REPEAT_FRAME,        /* same id again: allowed */
    SECOND_OUTCOME,      /* 5556, then 5557 */
    SECOND_SETTLEMENT,   /* 5556 under two offsets */
    SETTLE_REFUSED,      /* 402, and yet a frame */
    LEAK_FAILURE,        /* 5557 to the whole room */
    WRONG_ROOM,          /* 5556 in another room */
    BAD_JSON,
    FIRST_503,           /* then 202 under the same key */
    DROP_CONNECTIONS,    /* live connections are cut and come back; no fault of the books */
    REJECT,              /* 5557 to the sender alone: an outcome like another */
    HOLD_ANSWERS,        /* of the first gift of each sender, until sending is over; no fault of the books */
    NO_SCREENS,          /* nobody may enter: all is settled and nobody sees it */
};

#define FAULTY 10 /* the gift that meets the fault */
#define CLIENTS 64
#define USERS 30
#define SENDERS 6

struct fake {
    struct gf_loop *loop;
    struct gf_http_server *server;
    struct gf_jwt *jwt;
    struct {
        struct gf_ws *ws;
        int64_t room, user;
    } clients[CLIENTS];
    struct gf_ws_handler handler;
    enum fault fault;
    int64_t seconds; /* --seconds */
    int gifts, offset, frames_sent;
    int gifts_of[USERS + 1];
    struct gf_uuid doubted; /* FIRST_503: the key that must come again */
    bool doubt_resolved;
    struct gf_http_req *held[SENDERS]; /* HOLD_ANSWERS */
    int held_count, refused;
    int64_t released_us;
};

static char folder[] = "/tmp/gf-load-XXXXXX";
static struct gf_config config;

static int64_t user_of(struct fake *fake, struct gf_slice token)
{
    struct gf_jwt_claims claims;
    struct gf_error error;

    if (gf_jwt_verify(fake->jwt, token.ptr, token.len, gf_clock_real_ms() / 1000, &claims, &error) != GF_OK)
        fail_msg("the harness sent a bad token: %s", error.text);
    assert_true(claims.expires_s >= gf_clock_real_ms() / 1000 + fake->seconds); /* it must not end before the run */
    return claims.user_id;
}

static struct gf_slice after(struct gf_slice text, const char *prefix)
{
    const char *at = memmem(text.ptr, text.len, prefix, strlen(prefix));

    assert_non_null(at);
    at += strlen(prefix);
    return (struct gf_slice){at, (size_t)(text.ptr + text.len - at)};
}

/* user 0: the whole room. */
static void show(struct fake *fake, int64_t room, int64_t user, const char *text)
{
    struct gf_ws_frame *frame = gf_ws_frame_text(text, strlen(text), 1);

    for (int i = 0; i < CLIENTS; i++)
        if (fake->clients[i].ws && fake->clients[i].room == room && (user == 0 || fake->clients[i].user == user))
            fake->frames_sent += gf_ws_send(fake->clients[i].ws, frame, false);
    gf_ws_frame_release(&frame);
}

static void show_outcome(struct fake *fake, const struct gf_uuid *id, int64_t room, int64_t user, int code, int offset, bool all)
{
    char text[400], uuid[GF_UUID_TEXT + 1];

    gf_uuid_format(id, uuid);
    snprintf(text, sizeof(text), "%s{\"id\":\"3-%d:%d\",\"ch\":\"%s\",\"seq\":%d,\"code\":%d,\"room_id\":%" PRId64 ",\"user_id\":%" PRId64
             ",\"data\":{\"request_id\":\"%s\",\"code\":\"wallet_frozen\",\"message\":\"a \\\"b\\\\\",\"x\":[{\"id\":[1.5,null]}]}}%s",
             offset % 2 ? "[" : "", offset, code, code == 5556 ? "room" : "user", offset, code, room, user, uuid, offset % 2 ? "]" : "");
    show(fake, room, all ? 0 : user, text);
}

static void cut_connections(struct fake *fake)
{
    for (int i = 0; i < CLIENTS; i++)
        if (fake->clients[i].ws)
            gf_ws_close(fake->clients[i].ws, 1012, "restart");
}

static void show_faulty(struct fake *fake, const struct gf_uuid *id, int64_t room, int64_t user)
{
    int offset = fake->offset;

    switch (fake->fault) {
    case LOSE_FRAME:
    case LOSE_OUTCOME:
        return;
    case DROP_CONNECTIONS:
        cut_connections(fake);
        return;
    case LEAK_FAILURE:
        show_outcome(fake, id, room, user, 5557, offset, true);
        return;
    case REJECT:
        show_outcome(fake, id, room, user, 5557, offset, false);
        return;
    case BAD_JSON:
        show(fake, room, 0, "[{\"id\":\"3-1:5556\",\"code\":5556");
        break;
    case WRONG_ROOM:
        show_outcome(fake, id, room, user, 5556, offset, true);
        /* the same frame reaches the neighbours, room_id as it was */
        for (int i = 0; i < CLIENTS; i++)
            fake->clients[i].room = -fake->clients[i].room;
        for (int i = 0; i < CLIENTS; i++)
            if (fake->clients[i].room != 0 && fake->clients[i].room != -room)
                fake->clients[i].room = room;
        show_outcome(fake, id, room, user, 5556, offset, true);
        return;
    case NONE:
    case REPEAT_FRAME:
    case SECOND_OUTCOME:
    case SECOND_SETTLEMENT:
    case SETTLE_REFUSED:
    case FIRST_503:
    case HOLD_ANSWERS:
    case NO_SCREENS:
        break;
    }
    show_outcome(fake, id, room, user, 5556, offset, true);
    if (fake->fault == REPEAT_FRAME)
        show_outcome(fake, id, room, user, 5556, offset, true);
    if (fake->fault == SECOND_OUTCOME)
        show_outcome(fake, id, room, user, 5557, offset, false);
    if (fake->fault == SECOND_SETTLEMENT)
        show_outcome(fake, id, room, user, 5556, offset + 1000000, true);
}

static void respond(struct gf_http_req *req, int status, const char *body)
{
    struct gf_http_answer answer = {.status = status, .content_type = "application/json", .body = body, .body_len = strlen(body)};

    gf_http_respond(req, &answer);
}

static void on_gift(struct fake *fake, struct gf_http_req *req)
{
    struct gf_slice key = gf_http_header(req, "idempotency-key", NULL), body = gf_http_body(req);
    int64_t user = user_of(fake, after(gf_http_header(req, "authorization", NULL), "Bearer "));
    struct gf_slice digits = after(body, "\"room_id\":");
    struct gf_uuid id;
    int64_t room;
    bool faulty = ++fake->gifts == FAULTY;

    assert_in_range(user, 1, USERS);
    fake->gifts_of[user]++;
    digits.len = strspn(digits.ptr, "0123456789");
    assert_true(gf_num_parse_i64(digits.ptr, digits.len, 1, GF_ID_MAX, &room));
    assert_true(gf_uuid_parse(key.ptr, key.len, &id));
    assert_int_equal(gf_uuid_version(&id), 7);
    if (fake->fault == FIRST_503 && faulty) {
        fake->doubted = id;
        respond(req, 503, "{\"code\":\"unavailable\"}");
        return;
    }
    fake->doubt_resolved |= fake->fault == FIRST_503 && gf_uuid_compare(&id, &fake->doubted) == 0;
    fake->offset++;
    if (faulty)
        show_faulty(fake, &id, room, user); /* before the answer: a frame may be faster */
    if (faulty && fake->fault == SETTLE_REFUSED)
        respond(req, 402, "{\"type\":\"about:blank\",\"code\":\"insufficient_balance\"}");
    else if (fake->fault == HOLD_ANSWERS && fake->gifts <= SENDERS)
        fake->held[fake->held_count++] = req;
    else
        respond(req, 202, "{\"status\":\"accepted\"}");
    if (!faulty)
        show_outcome(fake, &id, room, user, 5556, fake->offset, true);
}

static void on_request(struct gf_http_req *req, void *ctx)
{
    struct fake *fake = ctx;

    if (gf_http_method(req) == GF_HTTP_POST)
        on_gift(fake, req);
    else if (gf_slice_is(gf_http_path(req), "/v1/gifts"))
        respond(req, 200, "{\"gifts\":[{\"gift_id\":22,\"name\":\"Rose\",\"price\":90},{\"gift_id\":7,\"price\":1}]}");
    else
        respond(req, 200, fake->fault == LOSE_OUTCOME ? "{\"status\":\"accepted\"}" : "{\"status\":\"settled\",\"code\":\"settled\"}");
}

static bool on_upgrade(struct gf_http_req *req, void *ctx)
{
    struct fake *fake = ctx;
    struct gf_slice room = gf_http_query(req, "room");
    int64_t user = user_of(fake, after(gf_http_header(req, "sec-websocket-protocol", NULL), "giftflow.v1, bearer."));
    int i = 0;

    if (fake->fault == NO_SCREENS) {
        fake->refused++;
        respond(req, 503, "{\"code\":\"unavailable\"}");
        return true;
    }
    while (i < CLIENTS && fake->clients[i].ws)
        i++;
    assert_true(i < CLIENTS);
    assert_true(gf_num_parse_i64(room.ptr, room.len, 1, GF_ID_MAX, &fake->clients[i].room));
    fake->clients[i].user = user;
    fake->clients[i].ws = gf_ws_accept(req, "giftflow.v1", &fake->handler);
    assert_non_null(fake->clients[i].ws);
    return true;
}

static void on_ws_close(void *ctx, struct gf_ws *ws)
{
    struct fake *fake = ctx;

    for (int i = 0; i < CLIENTS; i++)
        if (fake->clients[i].ws == ws) {
            fake->clients[i].ws = NULL;
            fake->clients[i].room = 0;
        }
}

static void on_ws_text(void *ctx, struct gf_ws *ws, const char *text, size_t len)
{
    (void)ctx;
    (void)ws;
    fail_msg("the harness sent %.*s", (int)len, text);
}

static struct fake *start_fake(enum fault fault)
{
    static const struct gf_http_opts opts = {.bind = "127.0.0.1", .header_max = 16384, .body_max = 16384, .connections_max = 256,
                                             .header_timeout_ms = 60000, .body_timeout_ms = 60000, .idle_timeout_ms = 60000,
                                             .request_timeout_ms = 60000};
    struct fake *fake = gf_xcalloc(1, sizeof(*fake));
    struct gf_error error;

    fake->fault = fault;
    fake->loop = gf_loop_create();
    fake->handler = (struct gf_ws_handler){.on_text = on_ws_text, .on_close = on_ws_close, .ctx = fake, .message_max = 4096,
                                           .queue_frames = 1024, .queue_bytes = 1 << 20};
    assert_int_equal(gf_jwt_create(&config, &fake->jwt, &error), GF_OK);
    assert_int_equal(gf_http_server_create(fake->loop, &opts, on_request, fake, &fake->server, &error), GF_OK);
    gf_http_server_on_upgrade(fake->server, on_upgrade);
    return fake;
}

static void stop_fake(struct fake **fake)
{
    gf_http_server_close(&(*fake)->server);
    gf_loop_destroy(&(*fake)->loop);
    gf_jwt_destroy(&(*fake)->jwt);
    free(*fake);
    *fake = NULL;
}

struct watched {
    struct load *load;
    struct fake *fake;
};

/* HOLD_ANSWERS: what is queued behind these leaves during the drain. */
static void release_held(struct fake *fake)
{
    if (fake->held_count == 0)
        return;
    fake->released_us = gf_clock_mono_us();
    for (int i = 0; i < fake->held_count; i++)
        respond(fake->held[i], 202, "{\"status\":\"accepted\"}");
    fake->held_count = 0;
}

/* Ends the drain when all is seen that the fake has sent and every client is back: nothing more can come, however slow the
 * machine is. */
static void look_at_drain(void *ctx)
{
    const struct watched *watched = ctx;
    struct load *load = watched->load;
    uint32_t open_count = watched->fake->fault == NO_SCREENS ? 0 : load->client_count;

    if (load->phase == LOAD_OPENING && watched->fake->refused >= (int)load->client_count)
        load->phase_us = 0; /* it has tried for long enough */
    if (load->phase == LOAD_DRAINING)
        release_held(watched->fake);
    if (load->phase == LOAD_DRAINING && load->busy == 0 && load->open_count == open_count &&
        load->report.frames + load->report.repeats == watched->fake->frames_sent)
        load->opts.drain_s = 0;
}

/* Runs the harness against a fake with this fault; the caller frees the report. */
static struct load_report *run(enum fault fault, bool closed_loop)
{
    struct fake *fake = start_fake(fault);
    struct load_report *report = gf_xcalloc(1, sizeof(*report));
    struct load_opts opts;
    struct gf_error error;
    struct watched watched = {.fake = fake};
    struct gf_timer *timer;
    char url[40];
    char *argv[] = {"load",      "--ingest", url,      "--gateway", url,      "--users", "1-30",    "--rooms",
                    "3",         "--viewers", "6",     "--senders", "6",      "--rate",  closed_loop ? "0" : "200",
                    "--count",   closed_loop ? "600" : "0",    "--seconds", closed_loop ? "86400" : "1",
                    "--drain",   "60",        "--warmup", "0"};

    snprintf(url, sizeof(url), "http://127.0.0.1:%d", gf_http_server_port(fake->server));
    if (load_opts_parse(&config, (int)GF_COUNT(argv), argv, &opts, &error) != GF_OK)
        fail_msg("%s", error.text);
    fake->seconds = opts.seconds;
    watched.load = load_create(&config, &opts);
    timer = gf_timer_start(fake->loop, 1, 1, look_at_drain, &watched);
    if (load_run(watched.load, fake->loop, &error) != GF_OK)
        fail_msg("%s", error.text);
    gf_timer_close(&timer);
    assert_int_equal(watched.load->opts.gift_count, 2); /* learnt from GET /v1/gifts */
    assert_true(fault != FIRST_503 || fake->doubt_resolved);
    if (fault == HOLD_ANSWERS) /* it has sent what was queued no earlier than that */
        assert_true(watched.load->report.send_us >= fake->released_us - watched.load->start_us);
    for (int user = 1; closed_loop && user <= SENDERS; user++)
        assert_true(fake->gifts_of[user] >= 10);
    *report = watched.load->report;
    load_destroy(&watched.load);
    assert_null(watched.load);
    stop_fake(&fake);
    return report;
}

/* Runs with the fault; expects exactly `count` violations of this kind and no other. */
static struct load_report *expect(enum fault fault, enum load_violation violation, int64_t count)
{
    struct load_report *report = run(fault, false);

    if (report->violations[violation] != count || load_violations(report) != count)
        fail_msg("fault %d: %" PRId64 " of violation %d, %" PRId64 " in all; first: %s", fault, report->violations[violation], violation,
                 load_violations(report), report->examples[0]);
    return report;
}

static void a_faithful_stack_passes(void **state)
{
    struct load_report *report = run(NONE, false);

    (void)state;
    assert_int_equal(load_violations(report), 0);
    assert_int_equal(report->planned, 200);
    assert_int_equal(report->sent, 200);
    assert_int_equal(report->dropped, 0);
    assert_int_equal(report->accepted, 200);
    assert_int_equal(report->settled, 200);
    assert_int_equal(report->answers[202], 200);
    assert_int_equal(report->frames, 200 * 4); /* per room 2 senders and 2 viewers */
    assert_int_equal(report->room_delivered, report->room_expected);
    assert_int_equal(report->repeats, 0);
    assert_int_equal(report->answer.count, 200);
    assert_int_equal(report->sender.count, 200);
    assert_int_equal(report->screen.count, 800);
    free(report);
}

static void the_closed_loop_keeps_each_sender_busy(void **state)
{
    struct load_report *report = run(NONE, true);

    (void)state;
    assert_int_equal(load_violations(report), 0);
    assert_int_equal(report->accepted, 600); /* each of the six at least ten of them: see run() */
    assert_int_equal(report->accepted, report->settled);
    assert_int_equal(report->accepted, report->sent);
    free(report);
}

/* Else a large run would have fewer screens than it says. */
static void the_harness_asks_for_room_for_its_sockets(void **state)
{
    struct rlimit old, low, now;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = (struct rlimit){.rlim_cur = 256, .rlim_max = old.rlim_max};
    assert_true(old.rlim_max > 1000);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    free(run(NONE, false));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_true(now.rlim_cur > 1000);
}

static void a_lost_frame_is_a_violation(void **state)
{
    struct load_report *report = expect(LOSE_FRAME, LOAD_V_NO_FRAME, 1);

    (void)state;
    assert_int_equal(report->accepted, 200);
    assert_int_equal(report->settled, 199);
    assert_int_equal(report->outcome_by_get, 1);
    free(report);
}

static void a_lost_outcome_is_a_violation(void **state)
{
    (void)state;
    free(expect(LOSE_OUTCOME, LOAD_V_NO_OUTCOME, 1));
}

static void a_repeat_with_the_same_id_is_none(void **state)
{
    struct load_report *report = expect(REPEAT_FRAME, LOAD_V_NO_OUTCOME, 0);

    (void)state;
    assert_int_equal(report->repeats, 4);
    assert_int_equal(report->frames, 800);
    assert_int_equal(report->settled, 200);
    free(report);
}

static void settled_and_rejected_is_a_violation(void **state)
{
    (void)state;
    free(expect(SECOND_OUTCOME, LOAD_V_TWO_OUTCOMES, 1));
}

static void settled_twice_is_a_violation(void **state)
{
    (void)state;
    free(expect(SECOND_SETTLEMENT, LOAD_V_TWO_OUTCOMES, 4)); /* each screen of the room tells */
}

static void a_refused_gift_with_an_effect_is_a_violation(void **state)
{
    struct load_report *report = expect(SETTLE_REFUSED, LOAD_V_REFUSED_HAD_EFFECT, 1);

    (void)state;
    assert_int_equal(report->answers[402], 1);
    assert_string_equal(report->codes[0].text, "insufficient_balance");
    free(report);
}

static void a_failure_shown_to_others_is_a_violation(void **state)
{
    (void)state;
    free(expect(LEAK_FAILURE, LOAD_V_LEAKED, 3));
}

static void a_gift_shown_in_another_room_is_a_violation(void **state)
{
    struct load_report *report = run(WRONG_ROOM, false);

    (void)state;
    assert_true(report->violations[LOAD_V_LEAKED] > 0);
    free(report);
}

static void a_message_that_does_not_parse_is_a_violation(void **state)
{
    (void)state;
    free(expect(BAD_JSON, LOAD_V_BAD_FRAME, 4));
}

static void a_503_is_repeated_with_the_same_key(void **state)
{
    struct load_report *report = expect(FIRST_503, LOAD_V_NO_OUTCOME, 0);

    (void)state;
    assert_int_equal(report->retries, 1);
    assert_int_equal(report->answers[503], 1);
    assert_int_equal(report->accepted, 200);
    free(report);
}

static void a_frame_missed_while_disconnected_is_asked_for(void **state)
{
    struct load_report *report = expect(DROP_CONNECTIONS, LOAD_V_NO_OUTCOME, 0);

    (void)state;
    assert_int_equal(report->reconnects, 12);
    assert_true(report->outcome_by_get >= 1);
    assert_int_equal(report->settled + report->outcome_by_get, 200);
    free(report);
}

static void what_is_sent_late_counts_for_the_rate(void **state)
{
    struct load_report *report = expect(HOLD_ANSWERS, LOAD_V_NO_OUTCOME, 0);

    (void)state;
    assert_int_equal(report->accepted, 200);
    assert_int_equal(report->sent, 200);
    free(report);
}

static void screens_that_nobody_could_open_are_violations(void **state)
{
    struct load_report *report = expect(NO_SCREENS, LOAD_V_NEVER_LIVE, 12);

    (void)state;
    assert_int_equal(report->accepted, 200);
    assert_int_equal(report->outcome_by_get, 200);
    assert_int_equal(report->frames, 0);
    free(report);
}

static void a_rejection_is_an_outcome(void **state)
{
    struct load_report *report = expect(REJECT, LOAD_V_NO_OUTCOME, 0);

    (void)state;
    assert_int_equal(report->settled, 199);
    assert_int_equal(report->rejected, 1);
    assert_string_equal(report->reasons[0].text, "wallet_frozen");
    free(report);
}

static int make_secret(void **state)
{
    char path[64];
    FILE *file;

    (void)state;
    if (!mkdtemp(folder) || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return -1;
    snprintf(path, sizeof(path), "%s/secret", folder);
    file = fopen(path, "w");
    if (!file || fputs("0123456789abcdef0123456789abcdef", file) < 0 || fclose(file) != 0)
        return -1;
    gf_copy(config.auth_hs256_secret_file, sizeof(config.auth_hs256_secret_file), path);
    gf_copy(config.ingest_bind, sizeof(config.ingest_bind), "127.0.0.1");
    gf_copy(config.gateway_bind, sizeof(config.gateway_bind), "127.0.0.1");
    config.ingest_port = config.gateway_port = 1;
    return 0;
}

static int drop_secret(void **state)
{
    (void)state;
    unlink(config.auth_hs256_secret_file);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_faithful_stack_passes),
        cmocka_unit_test(the_closed_loop_keeps_each_sender_busy),
        cmocka_unit_test(the_harness_asks_for_room_for_its_sockets),
        cmocka_unit_test(a_lost_frame_is_a_violation),
        cmocka_unit_test(a_lost_outcome_is_a_violation),
        cmocka_unit_test(a_repeat_with_the_same_id_is_none),
        cmocka_unit_test(settled_and_rejected_is_a_violation),
        cmocka_unit_test(settled_twice_is_a_violation),
        cmocka_unit_test(a_refused_gift_with_an_effect_is_a_violation),
        cmocka_unit_test(a_failure_shown_to_others_is_a_violation),
        cmocka_unit_test(a_gift_shown_in_another_room_is_a_violation),
        cmocka_unit_test(a_message_that_does_not_parse_is_a_violation),
        cmocka_unit_test(a_503_is_repeated_with_the_same_key),
        cmocka_unit_test(a_frame_missed_while_disconnected_is_asked_for),
        cmocka_unit_test(what_is_sent_late_counts_for_the_rate),
        cmocka_unit_test(screens_that_nobody_could_open_are_violations),
        cmocka_unit_test(a_rejection_is_an_outcome),
    };

    return cmocka_run_group_tests(tests, make_secret, drop_secret);
}
