/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket connections over real sockets: a server on its own loop thread, a raw client in the test that can also say what
 * no proper client says. Waits have generous deadlines; nothing depends on speed. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "gf/clock.h"
#include "gf/metrics.h"
#include "gf/ws.h"

#define DEADLINE_MS 20000
#define MESSAGE_MAX 1000
#define QUEUE_FRAMES 16
#define PING_MS 2500 /* two of them are what a starved test may be late with its pong */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="

/* ---- the server under test */

struct server {
    struct gf_loop *loop;
    struct gf_async *stop;
    struct gf_http_server *http;
    struct gf_ws_handler handler;
    pthread_t thread;
    int port;
    atomic_int closed; /* on_close calls */
};

static struct server server;

static void send_text(struct gf_ws *ws, const char *text, size_t len, int times, bool droppable)
{
    struct gf_ws_frame *frame = gf_ws_frame_text(text, len, 1);

    for (int i = 0; i < times; i++)
        (void)gf_ws_send(ws, frame, droppable);
    gf_ws_frame_release(&frame);
}

/* Echoes; "flood" sends much that may be dropped, "must" much that may not, "big" a frame past the queue's bytes twice,
 * "expire" closes. */
static void on_text(void *ctx, struct gf_ws *ws, const char *text, size_t len)
{
    static char block[60000];

    (void)ctx;
    memset(block, 'x', sizeof(block));
    if (len == 5 && memcmp(text, "flood", 5) == 0)
        send_text(ws, block, 1000, 20000, true);
    else if (len == 4 && memcmp(text, "must", 4) == 0)
        send_text(ws, block, 1000, 20000, false);
    else if (len == 3 && memcmp(text, "big", 3) == 0)
        send_text(ws, block, sizeof(block), 1000, true);
    else if (len == 6 && memcmp(text, "expire", 6) == 0)
        gf_ws_close(ws, 4401, "token expired");
    else
        send_text(ws, text, len, 1, false);
}

static void on_close(void *ctx, struct gf_ws *ws)
{
    struct server *s = ctx;

    (void)ws;
    s->closed++;
}

static bool on_upgrade(struct gf_http_req *req, void *ctx)
{
    struct server *s = ctx;

    (void)gf_ws_accept(req, "giftflow.v1", &s->handler);
    return true;
}

static void on_request(struct gf_http_req *req, void *ctx)
{
    struct gf_http_answer answer = {.status = 404};

    (void)ctx;
    gf_http_respond(req, &answer);
}

static void on_stop(void *ctx)
{
    struct server *s = ctx;

    gf_loop_stop(s->loop);
}

static void *run_server(void *arg)
{
    struct server *s = arg;

    gf_loop_run(s->loop);
    gf_http_server_close(&s->http);
    gf_async_close(&s->stop);
    gf_loop_destroy(&s->loop);
    return NULL;
}

static void start_server(int64_t ping_ms, int64_t close_ms)
{
    struct gf_http_opts opts = {
        .bind = "127.0.0.1", .header_max = 8192, .body_max = 1024, .connections_max = 1000, .header_timeout_ms = DEADLINE_MS,
        .body_timeout_ms = DEADLINE_MS, .idle_timeout_ms = DEADLINE_MS, .request_timeout_ms = DEADLINE_MS};
    struct gf_error error;

    memset(&server, 0, sizeof(server));
    server.handler = (struct gf_ws_handler){.on_text = on_text, .on_close = on_close, .ctx = &server, .message_max = MESSAGE_MAX,
                                            .queue_frames = QUEUE_FRAMES, .queue_bytes = 100000, .ping_ms = ping_ms, .close_ms = close_ms};
    server.loop = gf_loop_create();
    server.stop = gf_async_create(server.loop, on_stop, &server);
    assert_int_equal(gf_http_server_create(server.loop, &opts, on_request, &server, &server.http, &error), GF_OK);
    gf_http_server_on_upgrade(server.http, on_upgrade);
    server.port = gf_http_server_port(server.http);
    assert_int_equal(pthread_create(&server.thread, NULL, run_server, &server), 0);
}

static void wait_connections(int64_t count)
{
    int64_t end = gf_clock_mono_ms() + DEADLINE_MS;

    while (gf_metric_get(GF_M_WS_CONNECTIONS) != count && gf_clock_mono_ms() < end)
        gf_clock_sleep_ms(5);
    assert_int_equal(gf_metric_get(GF_M_WS_CONNECTIONS), count);
}

/* Every connection must be gone by itself: a leak would show here (and in the address sanitizer). */
static int teardown(void **state)
{
    (void)state;
    wait_connections(0);
    gf_async_wake(server.stop);
    return pthread_join(server.thread, NULL);
}

/* ---- a raw client */

static int dial(int receive_buffer)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    if (receive_buffer > 0)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer)), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
    return fd;
}

static void put(int fd, const void *bytes, size_t len)
{
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads exactly len bytes; false at the end of the stream. */
static bool get(int fd, void *bytes, size_t len)
{
    char *to = bytes;

    while (len > 0) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        ssize_t got;

        if (poll(&poller, 1, DEADLINE_MS) != 1)
            fail_msg("nothing came within the deadline");
        got = recv(fd, to, len, 0);
        if (got <= 0)
            return false;
        to += got;
        len -= (size_t)got;
    }
    return true;
}

static int read_status(int fd, char *head, size_t size)
{
    size_t len = 0;
    int status = 0;

    head[0] = '\0';
    while (strstr(head, "\r\n\r\n") == NULL) {
        if (len + 1 == size || !get(fd, head + len, 1))
            return 0;
        head[++len] = '\0';
    }
    return sscanf(head, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

#define REQUEST(method, lines) method " /live HTTP/1.1\r\nHost: a\r\n" lines "\r\n"
#define GOOD "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n"

static int enter(int receive_buffer)
{
    int fd = dial(receive_buffer);
    char head[2048];

    put(fd, REQUEST("GET", GOOD), strlen(REQUEST("GET", GOOD)));
    assert_int_equal(read_status(fd, head, sizeof(head)), 101);
    return fd;
}

#define FIN 0x80
#define NO_MASK 0x100 /* in `first`: do not mask */

/* A frame with first byte `first`; returns its length in out. */
static size_t frame(char *out, int first, const void *payload, size_t len)
{
    static const char key[4] = {0x12, 0x34, 0x56, 0x78};
    const char *from = payload;
    bool mask = (first & NO_MASK) == 0;
    size_t at = 2;

    out[0] = (char)first;
    if (len < 126) {
        out[1] = (char)((mask ? 0x80 : 0) | (int)len);
    } else {
        out[1] = (char)((mask ? 0x80 : 0) | 126);
        out[2] = (char)(len >> 8);
        out[3] = (char)len;
        at = 4;
    }
    if (mask) {
        memcpy(out + at, key, 4);
        at += 4;
    }
    for (size_t i = 0; i < len; i++)
        out[at + i] = (char)(from[i] ^ (mask ? key[i & 3] : 0));
    return at + len;
}

static void say(int fd, int first, const void *payload, size_t len)
{
    static char bytes[70000];

    put(fd, bytes, frame(bytes, first, payload, len));
}

/* One frame of the server; returns its opcode, -1 at the end of the stream. */
static int hear(int fd, char *payload, size_t size, size_t *len_r)
{
    unsigned char head[8];
    uint64_t len;

    if (!get(fd, head, 2))
        return -1;
    assert_int_equal(head[1] & 0x80, 0); /* a server does not mask */
    assert_int_equal(head[0] & 0x70, 0);
    len = head[1];
    if (len >= 126) {
        int bytes = len == 126 ? 2 : 8;
        unsigned char ext[8];

        assert_true(get(fd, ext, (size_t)bytes));
        len = 0;
        for (int i = 0; i < bytes; i++)
            len = len << 8 | ext[i];
    }
    assert_true(len < size);
    if (len > 0)
        assert_true(get(fd, payload, len));
    payload[len] = '\0';
    *len_r = len;
    return head[0] & 0x0f;
}

/* Reads until the close frame; returns its code (1005: without one; -1: the stream ended without a close frame). */
static int hear_close(int fd)
{
    static char payload[70000];
    size_t len;
    int opcode;

    do
        opcode = hear(fd, payload, sizeof(payload), &len);
    while (opcode != 8 && opcode != -1);
    if (opcode == -1)
        return -1;
    return len >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
}

static void expect_text(int fd, const char *text)
{
    char payload[4096];
    size_t len;

    assert_int_equal(hear(fd, payload, sizeof(payload), &len), 1);
    assert_string_equal(payload, text);
}

static void expect_end(int fd)
{
    char byte;

    assert_false(get(fd, &byte, 1));
    close(fd);
}

/* ---- tests */

static void the_handshake_is_checked(void **state)
{
    static const struct {
        const char *name, *request;
        int status;
    } cases[] = {
        {"good", REQUEST("GET", GOOD), 101},
        {"any case, several tokens", REQUEST("GET", "upgrade: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n"
         "sec-websocket-version: 13\r\nsec-websocket-key: " KEY "\r\n"), 101},
        {"no upgrade", REQUEST("GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n"), 404},
        {"other upgrade", REQUEST("GET", "Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
         "Sec-WebSocket-Key: " KEY "\r\n"), 400},
        {"post", REQUEST("POST", GOOD), 400},
        {"version 8", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
         "Sec-WebSocket-Key: " KEY "\r\n"), 426},
        {"no version", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"), 426},
        {"no key", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"), 400},
        {"two keys", REQUEST("GET", GOOD "Sec-WebSocket-Key: " KEY "\r\n"), 400},
        {"short key", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
         "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"), 400},
        {"long key", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWFiYw==\r\n"), 400},
        {"key not base64", REQUEST("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q==\r\n"), 400},
    };

    (void)state;
    for (size_t i = 0; i < GF_COUNT(cases); i++) {
        int fd = dial(0), status;
        char head[2048];

        put(fd, cases[i].request, strlen(cases[i].request));
        status = read_status(fd, head, sizeof(head));
        if (status != cases[i].status)
            fail_msg("%s: %d, not %d", cases[i].name, status, cases[i].status);
        if (status == 101) { /* RFC 6455, section 1.3: the example's answer */
            assert_non_null(strstr(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
            assert_non_null(strstr(head, "Sec-WebSocket-Protocol: giftflow.v1\r\n"));
        }
        close(fd);
    }
}

static void a_broken_rule_has_its_close_code(void **state)
{
    static const char long_text[MESSAGE_MAX + 1];
    static const struct {
        const char *name;
        int first;
        const char *payload;
        size_t len;
        int first2; /* a second frame; 0: none */
        const char *payload2;
        size_t len2;
        int code;
    } cases[] = {
        {"unmasked", FIN | 1 | NO_MASK, "hi", 2, 0, NULL, 0, 1002},
        {"rsv1", FIN | 0x40 | 1, "hi", 2, 0, NULL, 0, 1002},
        {"rsv2", FIN | 0x20 | 1, "hi", 2, 0, NULL, 0, 1002},
        {"rsv3 on a ping", FIN | 0x10 | 9, "", 0, 0, NULL, 0, 1002},
        {"reserved data opcode", FIN | 3, "hi", 2, 0, NULL, 0, 1002},
        {"reserved control opcode", FIN | 0xb, "", 0, 0, NULL, 0, 1002},
        {"fragmented ping", 9, "hi", 2, 0, NULL, 0, 1002},
        {"long ping", FIN | 9, long_text, 126, 0, NULL, 0, 1002},
        {"continuation of nothing", FIN | 0, "hi", 2, 0, NULL, 0, 1002},
        {"new message inside a message", 1, "hi", 2, FIN | 1, "ho", 2, 1002},
        {"too long", FIN | 1, long_text, sizeof(long_text), 0, NULL, 0, 1009},
        {"too long in sum", 1, long_text, 600, FIN | 0, long_text, 401, 1009},
        {"invalid UTF-8", FIN | 1, "a\xff", 2, 0, NULL, 0, 1007},
        {"overlong UTF-8", FIN | 1, "\xc0\x80", 2, 0, NULL, 0, 1007},
        {"surrogate", FIN | 1, "\xed\xa0\x80", 3, 0, NULL, 0, 1007},
        {"UTF-8 cut at the end", FIN | 1, "\xe2\x82", 2, 0, NULL, 0, 1007},
        {"UTF-8 cut over fragments", 1, "\xe2\x82", 2, FIN | 0, "a", 1, 1007},
        {"binary", FIN | 2, "hi", 2, 0, NULL, 0, 1003},
        {"close with a reserved code", FIN | 8, "\x03\xed", 2, 0, NULL, 0, 1002},
        {"close with half a code", FIN | 8, "\x03", 1, 0, NULL, 0, 1002},
        {"close with invalid UTF-8", FIN | 8, "\x03\xe8\xff", 3, 0, NULL, 0, 1007},
        {"normal close", FIN | 8, "\x03\xe8" "bye", 5, 0, NULL, 0, 1000},
        {"close without a code", FIN | 8, "", 0, 0, NULL, 0, 1005},
    };

    (void)state;
    for (size_t i = 0; i < GF_COUNT(cases); i++) {
        int64_t bad = gf_metric_get(GF_M_WS_BAD);
        bool clean = cases[i].code == 1000 || cases[i].code == 1005;
        int fd = enter(0), code;

        say(fd, cases[i].first, cases[i].payload, cases[i].len);
        if (cases[i].first2 != 0)
            say(fd, cases[i].first2, cases[i].payload2, cases[i].len2);
        code = hear_close(fd);
        if (code != cases[i].code)
            fail_msg("%s: closed with %d, not %d", cases[i].name, code, cases[i].code);
        expect_end(fd);
        if (gf_metric_get(GF_M_WS_BAD) != bad + (clean ? 0 : 1))
            fail_msg("%s: counted %d", cases[i].name, (int)(gf_metric_get(GF_M_WS_BAD) - bad));
    }
}

static void a_length_that_is_not_minimal_is_an_error(void **state)
{
    static const char bytes[] = {(char)(FIN | 1), (char)(0x80 | 126), 0, 2, 0, 0, 0, 0, 'h', 'i'};
    int fd = enter(0);

    (void)state;
    put(fd, bytes, sizeof(bytes));
    assert_int_equal(hear_close(fd), 1002);
    expect_end(fd);
}

static void messages_come_whole_wherever_the_stream_is_cut(void **state)
{
    char bytes[512];
    size_t len = 0;

    (void)state;
    len += frame(bytes + len, 1, "one \xe2\x82", 6); /* a character cut by fragmentation */
    len += frame(bytes + len, FIN | 9, "ping", 4);
    len += frame(bytes + len, 0, "\xac two", 5);
    len += frame(bytes + len, FIN | 0, "", 0);
    len += frame(bytes + len, FIN | 1, "", 0);
    len += frame(bytes + len, FIN | 1, "three", 5);
    for (size_t cut = 0; cut <= len; cut++) {
        int fd = enter(0);
        char payload[128];
        size_t size;

        put(fd, bytes, cut);
        gf_clock_sleep_ms(1); /* mostly two reads; the answer is the same if it is one */
        put(fd, bytes + cut, len - cut);
        for (int i = 0, text = 0; i < 4; i++) { /* the pong comes at any place, the messages in order */
            static const char *const texts[] = {"one \xe2\x82\xac two", "", "three"};
            int opcode = hear(fd, payload, sizeof(payload), &size);

            assert_true(opcode == 1 || opcode == 10);
            assert_true(opcode == 10 || text < 3);
            assert_string_equal(payload, opcode == 10 ? "ping" : texts[text++]);
        }
        say(fd, FIN | 8, "\x03\xe8", 2);
        assert_int_equal(hear_close(fd), 1000);
        expect_end(fd);
    }
}

static void frames_may_come_together_with_the_handshake(void **state)
{
    (void)state;
    for (int count = 1; count <= 500; count += 499) { /* 500: more than the reader of the request takes at once */
        char bytes[20000], head[2048], text[32];
        size_t len = (size_t)snprintf(bytes, sizeof(bytes), "%s", REQUEST("GET", GOOD));
        int fd = dial(0);

        for (int i = 0; i < count; i++)
            len += frame(bytes + len, FIN | 1, text, (size_t)snprintf(text, sizeof(text), "early %d", i));
        put(fd, bytes, len);
        assert_int_equal(read_status(fd, head, sizeof(head)), 101);
        for (int i = 0; i < count && snprintf(text, sizeof(text), "early %d", i) > 0; i++)
            expect_text(fd, text);
        close(fd);
    }
}

static void the_server_closes_with_its_code_even_if_nobody_answers(void **state)
{
    int fd = enter(0);

    (void)state;
    say(fd, FIN | 1, "expire", 6);
    assert_int_equal(hear_close(fd), 4401);
    expect_end(fd); /* we never sent a close frame: its deadline ends it */
}

static void a_slow_reader_loses_room_frames_and_is_counted(void **state)
{
    int64_t dropped = gf_metric_get(GF_M_WS_DROPPED), slow = gf_metric_get(GF_M_WS_SLOW);
    int64_t frames = gf_metric_get(GF_M_WS_FRAMES);
    static char payload[70000];
    int64_t heard = 0;
    size_t len;
    int fd = enter(4096);

    (void)state;
    say(fd, FIN | 1, "flood", 5);
    say(fd, FIN | 1, "last", 4);
    for (;;) { /* the last one is not droppable: it came, or it closed us because the queue was full */
        int opcode = hear(fd, payload, sizeof(payload), &len);

        assert_int_not_equal(opcode, -1);
        if (opcode == 8)
            break;
        if (opcode == 1 && len == 4)
            break;
        assert_int_equal(len, 1000);
        heard++;
    }
    dropped = gf_metric_get(GF_M_WS_DROPPED) - dropped;
    assert_true(dropped > 0);
    assert_true(heard + dropped <= 20000);
    assert_true(heard + dropped >= 20000 - QUEUE_FRAMES); /* if "last" closed us, what was queued is gone too */
    assert_true(gf_metric_get(GF_M_WS_FRAMES) - frames >= heard);
    assert_true(gf_metric_get(GF_M_WS_SLOW) - slow <= 1);
    close(fd);
}

static void what_must_arrive_closes_a_slow_reader(void **state)
{
    int64_t slow = gf_metric_get(GF_M_WS_SLOW);
    int fd = enter(4096);

    (void)state;
    say(fd, FIN | 1, "must", 4);
    assert_int_equal(hear_close(fd), 4408);
    assert_int_equal(gf_metric_get(GF_M_WS_SLOW), slow + 1);
    say(fd, FIN | 8, "\x11\x38", 2);
    expect_end(fd);
}

static void too_many_bytes_close_a_slow_reader(void **state)
{
    int64_t slow = gf_metric_get(GF_M_WS_SLOW);
    int fd = enter(4096);

    (void)state;
    say(fd, FIN | 1, "big", 3);
    assert_int_equal(hear_close(fd), 4408);
    assert_int_equal(gf_metric_get(GF_M_WS_SLOW), slow + 1);
    say(fd, FIN | 8, "\x11\x38", 2);
    expect_end(fd);
}

static void a_client_that_never_reads_is_cut_off_in_bounded_time(void **state)
{
    int64_t slow = gf_metric_get(GF_M_WS_SLOW);
    int fd = enter(4096);

    (void)state;
    say(fd, FIN | 1, "flood", 5);
    wait_connections(0); /* by the heartbeat, then by the deadline of the close handshake: we never read a byte */
    assert_int_equal(gf_metric_get(GF_M_WS_SLOW), slow + 1);
    close(fd);
}

static void a_silent_client_is_closed_and_one_that_answers_is_not(void **state)
{
    int64_t slow = gf_metric_get(GF_M_WS_SLOW);
    int silent = enter(0), alive = enter(0);
    char payload[128];
    size_t len;

    (void)state;
    for (int i = 0; i < 4; i++) { /* more heartbeats than a silent client survives */
        assert_int_equal(hear(alive, payload, sizeof(payload), &len), 9);
        say(alive, FIN | 10, payload, len);
    }
    assert_int_equal(hear_close(silent), 4408); /* it is long there: this does not wait */
    assert_int_equal(gf_metric_get(GF_M_WS_SLOW), slow + 1);
    say(alive, FIN | 1, "still here", 10);
    while (hear(alive, payload, sizeof(payload), &len) == 9)
        ;
    assert_string_equal(payload, "still here");
    close(alive);
    close(silent);
}

/* ---- our own client against our own server */

struct dialogue {
    struct gf_loop *loop;
    int opened, texts, closed, code;
};

static void on_client_open(void *ctx, struct gf_ws *ws)
{
    struct dialogue *dialogue = ctx;

    assert_true(gf_ws_is_open(ws));
    dialogue->opened++;
}

static void on_client_text(void *ctx, struct gf_ws *ws, const char *text, size_t len)
{
    struct dialogue *dialogue = ctx;

    (void)text;
    (void)len;
    if (++dialogue->texts == 1)
        gf_ws_close(ws, 1000, "enough");
}

static void on_client_close(void *ctx, struct gf_ws *ws)
{
    struct dialogue *dialogue = ctx;

    dialogue->closed++;
    dialogue->code = gf_ws_close_code(ws);
    gf_loop_stop(dialogue->loop);
}

static struct dialogue talk(int port)
{
    struct dialogue dialogue = {.loop = gf_loop_create()};
    struct gf_ws_client_opts opts = {
        .host = "127.0.0.1", .port = port, .path = "/live", .protocols = "giftflow.v1, bearer.x", .on_open = on_client_open,
        .handler = {.on_text = on_client_text, .on_close = on_client_close, .ctx = &dialogue}};

    assert_non_null(gf_ws_connect(dialogue.loop, &opts));
    gf_loop_run(dialogue.loop);
    gf_loop_destroy(&dialogue.loop);
    return dialogue;
}

static void the_client_answers_pings_and_closes(void **state)
{
    struct gf_loop *loop = gf_loop_create();
    struct dialogue dialogue = {.loop = loop};
    struct gf_ws_client_opts opts = {
        .host = "localhost", .port = server.port, .path = "/live", .on_open = on_client_open,
        .handler = {.on_close = on_client_close, .ctx = &dialogue}};
    struct gf_ws *ws = gf_ws_connect(loop, &opts);
    struct gf_timer *timer = gf_timer_start(loop, PING_MS * 7 / 2, 0, (gf_loop_fn)gf_loop_stop, loop);

    (void)state;
    gf_loop_run(loop); /* it answers pings by itself: after three heartbeats it is still there */
    assert_int_equal(dialogue.opened, 1);
    assert_int_equal(dialogue.closed, 0);
    gf_ws_close(ws, 1000, "done");
    gf_loop_run(loop);
    assert_int_equal(dialogue.closed, 1);
    assert_int_equal(dialogue.code, 1000);
    gf_timer_close(&timer);
    gf_loop_destroy(&loop);
}

static void the_client_reports_a_server_that_is_not_there(void **state)
{
    int fd = dial(0), port;
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    struct dialogue dialogue;

    (void)state;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    port = ntohs(addr.sin_port); /* in use by us, and nobody listens there */
    dialogue = talk(port);
    assert_int_equal(dialogue.opened, 0);
    assert_int_equal(dialogue.closed, 1);
    assert_int_equal(dialogue.code, 1006);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_handshake_is_checked),
        cmocka_unit_test(a_broken_rule_has_its_close_code),
        cmocka_unit_test(a_length_that_is_not_minimal_is_an_error),
        cmocka_unit_test(messages_come_whole_wherever_the_stream_is_cut),
        cmocka_unit_test(frames_may_come_together_with_the_handshake),
        cmocka_unit_test(the_server_closes_with_its_code_even_if_nobody_answers),
        cmocka_unit_test(the_client_reports_a_server_that_is_not_there),
    };
    const struct CMUnitTest slow[] = {
        cmocka_unit_test(a_slow_reader_loses_room_frames_and_is_counted),
        cmocka_unit_test(what_must_arrive_closes_a_slow_reader),
        cmocka_unit_test(too_many_bytes_close_a_slow_reader),
    };
    const struct CMUnitTest heartbeat[] = {
        cmocka_unit_test(a_client_that_never_reads_is_cut_off_in_bounded_time),
        cmocka_unit_test(a_silent_client_is_closed_and_one_that_answers_is_not),
        cmocka_unit_test(the_client_answers_pings_and_closes),
    };
    int failed;

    start_server(0, 0); /* no heartbeat: nothing but what the test causes */
    failed = cmocka_run_group_tests(tests, NULL, teardown);
    start_server(0, 10 * DEADLINE_MS); /* who reads slowly gets to the close frame, however slow the machine makes him */
    failed += cmocka_run_group_tests(slow, NULL, teardown);
    start_server(PING_MS, 0);
    return failed + cmocka_run_group_tests(heartbeat, NULL, teardown);
}
