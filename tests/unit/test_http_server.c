/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over a real loopback socket: raw bytes in, status and what becomes of the connection out.
 * The server runs on a thread of its own; the test is a plain blocking client with long deadlines. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "gf/clock.h"
#include "gf/http.h"
#include "gf/http_client.h"

#define PATIENCE_MS 20000
#define HOST "Host: a\r\n"

struct fixture {
    pthread_t thread;
    struct gf_loop *loop;
    struct gf_http_server *server;
    struct gf_async *stop, *late, *drain;
    struct gf_http_req *parked;
    struct gf_timer *timer;
    int port;
    int requests, echoed, freed; /* the server thread's until it has been joined */
};

/* ---- the server's side ---- */

static void on_free(void *user)
{
    (*(int *)user)++;
}

static void echo(struct gf_http_req *req, struct fixture *fixture)
{
    struct gf_slice path = gf_http_path(req), body = gf_http_body(req), query = gf_http_query(req, "q");
    struct gf_slice header = gf_http_header(req, "x-echo", NULL);
    char text[4096];
    int len = snprintf(text, sizeof(text), "%d %.*s q=%.*s x=%.*s b=%.*s n=%d", (int)gf_http_method(req), (int)path.len,
                       path.ptr, (int)query.len, query.ptr, (int)header.len, header.ptr, (int)(body.len < 2000 ? body.len : 0),
                       body.ptr, (int)body.len);
    const struct gf_http_answer answer = {
        .status = 200, .content_type = "text/plain", .body = text, .body_len = (size_t)len};

    fixture->echoed++;
    gf_http_set_user(req, &fixture->freed, on_free);
    gf_http_respond(req, &answer);
}

static void on_later(void *ctx)
{
    struct fixture *fixture = ctx;
    struct gf_http_req *req = fixture->parked;

    gf_timer_close(&fixture->timer);
    fixture->parked = NULL;
    echo(req, fixture);
}

static void on_request(struct gf_http_req *req, void *ctx)
{
    static char large[3 << 20];
    struct fixture *fixture = ctx;
    struct gf_slice path = gf_http_path(req);
    const struct gf_http_answer big = {
        .status = 200, .content_type = "text/plain", .body = large, .body_len = sizeof(large)};

    fixture->requests++;
    if (gf_slice_is(path, "/park")) {
        fixture->parked = req;
    } else if (gf_slice_is(path, "/later")) {
        fixture->parked = req;
        fixture->timer = gf_timer_start(fixture->loop, 5, 0, on_later, fixture);
    } else if (gf_slice_is(path, "/large")) {
        memset(large, 'x', sizeof(large));
        gf_http_respond(req, &big);
    } else {
        echo(req, fixture);
    }
}

static bool on_upgrade(struct gf_http_req *req, void *ctx)
{
    const struct gf_http_problem problem = {.status = 426, .code = "upgrade", .detail = "seen"};

    (void)ctx;
    if (!gf_slice_is(gf_http_path(req), "/ws"))
        return false;
    gf_http_respond_problem(req, &problem);
    return true;
}

static void on_stop(void *ctx)
{
    struct fixture *fixture = ctx;

    gf_http_server_close(&fixture->server);
    if (fixture->parked != NULL)
        echo(fixture->parked, fixture);
    gf_async_close(&fixture->stop);
    gf_async_close(&fixture->late);
    gf_async_close(&fixture->drain);
    gf_loop_stop(fixture->loop);
}

static void on_late(void *ctx)
{
    struct fixture *fixture = ctx;

    if (fixture->parked != NULL)
        echo(fixture->parked, fixture);
    fixture->parked = NULL;
}

static void on_drain(void *ctx)
{
    gf_http_server_drain(((struct fixture *)ctx)->server);
}

static void *serve(void *arg)
{
    struct fixture *fixture = arg;

    gf_loop_run(fixture->loop);
    gf_loop_destroy(&fixture->loop);
    return NULL;
}

static struct fixture *start(const struct gf_http_opts *opts)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    struct gf_error error;

    (void)signal(SIGPIPE, SIG_IGN);
    fixture->loop = gf_loop_create();
    assert_int_equal(gf_http_server_create(fixture->loop, opts, on_request, fixture, &fixture->server, &error), GF_OK);
    gf_http_server_on_upgrade(fixture->server, on_upgrade);
    fixture->port = gf_http_server_port(fixture->server);
    fixture->stop = gf_async_create(fixture->loop, on_stop, fixture);
    fixture->late = gf_async_create(fixture->loop, on_late, fixture);
    fixture->drain = gf_async_create(fixture->loop, on_drain, fixture);
    assert_int_equal(pthread_create(&fixture->thread, NULL, serve, fixture), 0);
    return fixture;
}

static struct gf_http_opts patient(void)
{
    return (struct gf_http_opts){
        .bind = "127.0.0.1",
        .header_max = 2048,
        .body_max = 1024,
        .connections_max = 8,
        .header_timeout_ms = PATIENCE_MS,
        .body_timeout_ms = PATIENCE_MS,
        .idle_timeout_ms = PATIENCE_MS,
        .request_timeout_ms = PATIENCE_MS,
    };
}

static void stop(struct fixture *fixture)
{
    gf_async_wake(fixture->stop);
    assert_int_equal(pthread_join(fixture->thread, NULL), 0);
    assert_int_equal(fixture->freed, fixture->echoed); /* each user pointer was freed once, answered or not */
    free(fixture);
}

/* ---- the client's side ---- */

static int dial(const struct fixture *fixture)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fixture->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void put(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);

        if (sent <= 0)
            return; /* the server has had enough: its answer is what counts */
        bytes += sent;
        len -= (size_t)sent;
    }
}

/* Reads one answer; its status, 0 when the connection ended, -1 on a time-out. The body goes to body_r. */
static int take(int fd, char *body_r, size_t size)
{
    static char head[8192];
    size_t len = 0, want;
    char *end, *field;
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    for (;;) {
        if (poll(&ready, 1, PATIENCE_MS) <= 0)
            return -1;
        if (recv(fd, head + len, 1, 0) <= 0)
            return 0;
        head[++len] = '\0';
        end = strstr(head, "\r\n\r\n");
        if (end != NULL)
            break;
        assert_true(len < sizeof(head) - 1);
    }
    field = strstr(head, "Content-Length: ");
    want = field == NULL ? 0 : strtoul(field + 16, NULL, 10);
    assert_true(want < size);
    for (len = 0; len < want;) {
        ssize_t got;

        if (poll(&ready, 1, PATIENCE_MS) <= 0)
            return -1;
        got = recv(fd, body_r + len, want - len, 0);
        if (got <= 0)
            return 0;
        len += (size_t)got;
    }
    body_r[len] = '\0';
    return (int)strtol(head + 9, NULL, 10);
}

static bool is_closed(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    char c;

    return poll(&ready, 1, PATIENCE_MS) > 0 && recv(fd, &c, 1, 0) <= 0;
}

struct row {
    const char *name, *bytes;
    size_t len;
    int status;
    bool closes;
};
#define ROW(name, bytes, status, closes) {name, bytes, sizeof(bytes) - 1, status, closes}

static const struct row rows[] = {
    /* ordinary */
    ROW("get", "GET /a?q=1 HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("post", "POST /a HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 200, false),
    ROW("chunked", "POST /a HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, false),
    ROW("chunked, capitals", "POST /a HTTP/1.1\r\n" HOST "TRANSFER-encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", 200, false),
    ROW("empty lines first", "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("close asked", "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", 200, true),
    ROW("http 1.0", "GET / HTTP/1.0\r\n\r\n", 200, true),
    ROW("http 1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, false),
    ROW("empty value", "GET / HTTP/1.1\r\n" HOST "X-Echo:\r\n\r\n", 200, false),
    ROW("patch", "PATCH / HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("upgrade unanswered", "GET / HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: x\r\n\r\n", 200, false),
    ROW("upgrade taken", "GET /ws HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: x\r\n\r\n", 426, false),
    /* smuggling: length */
    ROW("TE and CL", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400, true),
    ROW("CL and TE", "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("CL twice, same", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, true),
    ROW("CL twice, other", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, true),
    ROW("CL list", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\nabc", 400, true),
    ROW("CL plus", "POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc", 400, true),
    ROW("CL minus", "POST / HTTP/1.1\r\n" HOST "Content-Length: -3\r\n\r\nabc", 400, true),
    ROW("CL hex", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc", 400, true),
    ROW("CL empty", "POST / HTTP/1.1\r\n" HOST "Content-Length: \r\n\r\n", 400, true),
    ROW("CL words", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3 3\r\n\r\nabc", 400, true),
    ROW("CL overflow", "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n\r\na", 400, true),
    ROW("TE twice", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE list", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE not last", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE xchunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE identity", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 400, true),
    ROW("TE empty", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n", 400, true),
    ROW("TE tab", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE space colon", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("CL tab colon", "POST / HTTP/1.1\r\n" HOST "Content-Length\t: 3\r\n\r\nabc", 400, true),
    ROW("TE in 1.0", "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true),
    /* smuggling: lines */
    ROW("bare LF, request line", "GET / HTTP/1.1\n" HOST "\r\n", 400, true),
    ROW("bare LF, header", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400, true),
    ROW("bare LF, end", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, true),
    ROW("bare CR", "GET / HTTP/1.1\r\n" HOST "X: a\rb\r\n\r\n", 400, true),
    ROW("obs-fold", "GET / HTTP/1.1\r\n" HOST "X: a\r\n b\r\n\r\n", 400, true),
    ROW("obs-fold tab", "GET / HTTP/1.1\r\n" HOST "X: a\r\n\tb\r\n\r\n", 400, true),
    ROW("fold before any field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, true),
    ROW("NUL in value", "GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n", 400, true),
    ROW("NUL in target", "GET /\0 HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("DEL in value", "GET / HTTP/1.1\r\n" HOST "X: a\x7f" "b\r\n\r\n", 400, true),
    ROW("no colon", "GET / HTTP/1.1\r\n" HOST "X\r\n\r\n", 400, true),
    ROW("no name", "GET / HTTP/1.1\r\n" HOST ": a\r\n\r\n", 400, true),
    ROW("space in name", "GET / HTTP/1.1\r\n" HOST "X Y: a\r\n\r\n", 400, true),
    ROW("no host", "GET / HTTP/1.1\r\n\r\n", 400, true),
    ROW("two hosts", "GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, true),
    ROW("absolute target", "GET http://a/ HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("asterisk", "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("no target", "GET HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("space in target", "GET /a b HTTP/1.1\r\n" HOST "\r\n", 400, true),
    /* smuggling: chunks */
    ROW("chunk extension", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk extension, empty", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk extension, last", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0;x\r\n\r\n", 400, true),
    ROW("chunk bare LF", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk data LF", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", 400, true),
    ROW("chunk data too long", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400, true),
    ROW("chunk 0x", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk plus", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk minus", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk underscore", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0_3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk space", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk size missing", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk overflow", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("trailer", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n\r\n", 400, true),
    /* other limits and words */
    ROW("unknown method", "BREW / HTTP/1.1\r\n" HOST "\r\n", 501, true),
    ROW("lower-case method", "get / HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("connect", "CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n", 501, true),
    ROW("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, true),
    ROW("http 2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, true),
    ROW("http 2.0", "GET / HTTP/2.0\r\n" HOST "\r\n", 505, true),
    ROW("http 1.2", "GET / HTTP/1.2\r\n" HOST "\r\n", 505, true),
    ROW("http 0.9", "GET / HTTP/0.9\r\n" HOST "\r\n", 505, true),
    ROW("version lower-case", "GET / http/1.1\r\n" HOST "\r\n", 400, true),
    ROW("version with junk", "GET / HTTP/1.1x\r\n" HOST "\r\n", 505, true),
    ROW("expect other", "POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\na", 417, true),
    ROW("body too long", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1025\r\n\r\na", 413, true),
};

static void each_row_gets_its_status(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    char body[8192];

    (void)state;
    for (size_t i = 0; i < GF_COUNT(rows); i++) {
        int fd = dial(fixture), status;

        put(fd, rows[i].bytes, rows[i].len);
        status = take(fd, body, sizeof(body));
        if (status != rows[i].status)
            fail_msg("%s: got %d, not %d (%s)", rows[i].name, status, rows[i].status, body);
        if (status >= 400)
            assert_non_null(strstr(body, "\"code\":\""));
        if (rows[i].closes) {
            if (!is_closed(fd))
                fail_msg("%s: still open", rows[i].name);
        } else {
            put(fd, "GET /again HTTP/1.1\r\n" HOST "\r\n", strlen("GET /again HTTP/1.1\r\n" HOST "\r\n"));
            if (take(fd, body, sizeof(body)) != 200 || strncmp(body, "0 /again ", 9) != 0)
                fail_msg("%s: the connection is not usable afterwards", rows[i].name);
        }
        (void)close(fd);
    }
    stop(fixture);
}

/* The same answer wherever the network cuts the bytes in two. */
static void a_request_may_be_split_anywhere(void **state)
{
    static const char plain[] = "POST /s?q=v HTTP/1.1\r\n" HOST "X-Echo: one two \r\nContent-Length: 5\r\n\r\nhello";
    static const char chunked[] = "\r\nPOST /s?a=b&q=v HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nX-Echo:  one two\r\n\r\n"
                                  "2\r\nhe\r\n03\r\nllo\r\n0\r\n\r\n";
    static const char *const requests[] = {plain, chunked};
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture), one = 1;
    char body[4096];

    (void)state;
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof(one)), 0);
    for (size_t r = 0; r < GF_COUNT(requests); r++) {
        for (size_t i = 1; i < strlen(requests[r]); i++) {
            put(fd, requests[r], i);
            gf_clock_sleep_ms(1); /* makes two reads likely; the answer does not depend on it */
            put(fd, requests[r] + i, strlen(requests[r]) - i);
            assert_int_equal(take(fd, body, sizeof(body)), 200);
            assert_string_equal(body, "1 /s q=v x=one two b=hello n=5");
        }
    }
    (void)close(fd);
    stop(fixture);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);
    char text[65536], body[4096], want[64];
    size_t len = 0;

    (void)state;
    for (int i = 0; i < 300; i++) /* more than the connection's buffer holds, every third answered in a later turn */
        len += (size_t)snprintf(text + len, sizeof(text) - len, "POST %s?q=%d HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nok",
                                i % 3 == 0 ? "/later" : "/now", i);
    put(fd, text, len);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(take(fd, body, sizeof(body)), 200);
        (void)snprintf(want, sizeof(want), "1 %s q=%d x= b=ok n=2", i % 3 == 0 ? "/later" : "/now", i);
        assert_string_equal(body, want);
    }
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n", 2 * strlen("GET /1 HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(shutdown(fd, SHUT_WR), 0); /* half-closed: both are still answered */
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_memory_equal(body, "0 /2 ", 5);
    assert_true(is_closed(fd));
    (void)close(fd);
    stop(fixture);
}

static void too_large_input_is_cut(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    char text[16384], body[4096];
    size_t len;
    int fd;

    (void)state;
    fd = dial(fixture); /* one endless field */
    len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n" HOST "X: ");
    memset(text + len, 'a', 3000);
    put(fd, text, len + 3000);
    assert_int_equal(take(fd, body, sizeof(body)), 431);
    assert_true(is_closed(fd));
    (void)close(fd);

    fd = dial(fixture); /* too many fields */
    len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < 64; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "X: a\r\n");
    len += (size_t)snprintf(text + len, sizeof(text) - len, "\r\n");
    put(fd, text, len);
    assert_int_equal(take(fd, body, sizeof(body)), 431);
    (void)close(fd);

    fd = dial(fixture); /* nothing but empty lines */
    for (size_t i = 0; i < 4000; i += 2)
        memcpy(text + i, "\r\n", 2);
    put(fd, text, 4000);
    assert_int_equal(take(fd, body, sizeof(body)), 431);
    (void)close(fd);

    fd = dial(fixture); /* chunks that add up */
    len = (size_t)snprintf(text, sizeof(text), "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 65; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "10\r\n0123456789abcdef\r\n");
    put(fd, text, len);
    assert_int_equal(take(fd, body, sizeof(body)), 413);
    (void)close(fd);

    fd = dial(fixture); /* exactly the limit, in the smallest chunks: framing does not count */
    len = (size_t)snprintf(text, sizeof(text), "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 1024; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "1\r\nx\r\n");
    len += (size_t)snprintf(text + len, sizeof(text) - len, "0\r\n\r\n");
    put(fd, text, len);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_non_null(strstr(body, "n=1024"));
    (void)close(fd);
    stop(fixture);
}

static void a_body_is_asked_for_with_100_continue(void **state)
{
    static const char head[] = "POST /e HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);
    char body[4096];

    (void)state;
    put(fd, head, strlen(head));
    assert_int_equal(take(fd, body, sizeof(body)), 100);
    put(fd, "hi", 2);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_string_equal(body, "1 /e q= x= b=hi n=2");
    (void)close(fd);
    stop(fixture);
}

static void head_has_the_length_but_no_body(void **state)
{
    static const char both[] = "HEAD / HTTP/1.1\r\n" HOST "\r\nGET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n";
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);
    char all[4096] = "";
    size_t len = 0;
    ssize_t got;

    (void)state;
    put(fd, both, strlen(both));
    while ((got = recv(fd, all + len, sizeof(all) - 1 - len, 0)) > 0)
        len += (size_t)got;
    all[len] = '\0';
    assert_non_null(strstr(all, "Content-Length: 16\r\n\r\nHTTP/1.1 200 OK\r\n"));
    (void)close(fd);
    stop(fixture);
}

/* Everything the server says to these bytes, which end with a request that closes the connection. */
static void exchange(const struct fixture *fixture, const char *bytes, char *all_r, size_t size)
{
    int fd = dial(fixture);
    size_t len = 0;
    ssize_t got;

    put(fd, bytes, strlen(bytes));
    while ((got = recv(fd, all_r + len, size - 1 - len, 0)) > 0)
        len += (size_t)got;
    all_r[len] = '\0';
    (void)close(fd);
}

static void only_pages_of_named_origins_may_call(void **state)
{
#define ASK(origin) "OPTIONS /v1 HTTP/1.1\r\n" HOST "Connection: close\r\nOrigin: " origin "\r\nAccess-Control-Request-Method: POST\r\n\r\n"
#define CALL(origin) "GET /v1 HTTP/1.1\r\n" HOST "Connection: close\r\nOrigin: " origin "\r\n\r\n"
    static const struct {
        const char *bytes, *first, *allowed;
    } cases[] = {
        {ASK("http://b.test:81"), "HTTP/1.1 204 ", "Access-Control-Allow-Origin: http://b.test:81\r\n"},
        {ASK("http://a.test"), "HTTP/1.1 204 ", "Access-Control-Allow-Methods: GET, POST"},
        {CALL("http://a.test"), "HTTP/1.1 200 ", "Access-Control-Allow-Origin: http://a.test\r\nVary: Origin\r\n"},
        {ASK("http://b.test"), "HTTP/1.1 200 ", NULL}, /* the handler's: it is no preflight of ours */
        {CALL("http://b.test:8"), "HTTP/1.1 200 ", NULL},
        {CALL("http://a.test,http://b.test:81"), "HTTP/1.1 200 ", NULL},
        {CALL(""), "HTTP/1.1 200 ", NULL},
        {CALL("http://a.test\r\nOrigin: http://a.test"), "HTTP/1.1 200 ", NULL},
        {"GET /v1 HTTP/1.1\r\nOrigin: http://a.test\r\n\r\n", "HTTP/1.1 400 ", NULL},
    };
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    char all[8192];

    (void)state;
    opts.origins = "http://a.test, http://b.test:81";
    fixture = start(&opts);
    for (size_t i = 0; i < GF_COUNT(cases); i++) {
        exchange(fixture, cases[i].bytes, all, sizeof(all));
        assert_ptr_equal(strstr(all, cases[i].first), all);
        if (cases[i].allowed != NULL)
            assert_non_null(strstr(all, cases[i].allowed));
        else
            assert_null(strstr(all, "Access-Control"));
    }
    stop(fixture);
}

static void slow_clients_get_408(void **state)
{
    static const char *const starts[] = {"G", "GET / HTTP/1.1\r\nHost", "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nab"};
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    char body[4096];
    int fd;

    (void)state;
    opts.header_timeout_ms = opts.body_timeout_ms = opts.idle_timeout_ms = 60;
    fixture = start(&opts);
    for (size_t i = 0; i < GF_COUNT(starts); i++) {
        fd = dial(fixture);
        put(fd, starts[i], strlen(starts[i]));
        assert_int_equal(take(fd, body, sizeof(body)), 408);
        assert_true(is_closed(fd));
        (void)close(fd);
    }
    fd = dial(fixture); /* a byte now and then does not help */
    put(fd, "GET / HTTP/1.1\r\nX: ", 19);
    for (int i = 0; i < 1000; i++) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};

        put(fd, "a", 1);
        if (poll(&ready, 1, 5) > 0)
            break;
    }
    assert_int_equal(take(fd, body, sizeof(body)), 408);
    (void)close(fd);
    fd = dial(fixture); /* silence is just closed */
    assert_int_equal(take(fd, body, sizeof(body)), 0);
    (void)close(fd);
    stop(fixture);
}

static void a_late_answer_is_dropped_after_503(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    char body[4096];
    int fd;

    (void)state;
    opts.request_timeout_ms = 60;
    fixture = start(&opts);
    fd = dial(fixture);
    put(fd, "GET /park HTTP/1.1\r\n" HOST "\r\n", strlen("GET /park HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(fd, body, sizeof(body)), 503);
    assert_non_null(strstr(body, "\"code\":\"unavailable\""));
    assert_true(is_closed(fd));
    (void)close(fd);
    gf_async_wake(fixture->late);
    fd = dial(fixture); /* and the server goes on */
    put(fd, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    (void)close(fd);
    stop(fixture);
}

/* The request outlives its client, and even its server (on_stop answers what is parked). */
static void a_request_outlives_its_client(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    struct linger cut = {.l_onoff = 1, .l_linger = 0};
    char body[4096];
    int fd = dial(fixture);

    (void)state;
    put(fd, "GET /park HTTP/1.1\r\n" HOST "\r\n", strlen("GET /park HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &cut, sizeof(cut)), 0);
    (void)close(fd); /* a reset */
    fd = dial(fixture);
    put(fd, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    (void)close(fd);
    stop(fixture);
}

static void connections_over_the_cap_get_503(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    char body[4096];
    int fds[9];

    (void)state;
    for (int i = 0; i < 9; i++) {
        fds[i] = dial(fixture);
        if (i == 8)
            break;
        put(fds[i], "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
        assert_int_equal(take(fds[i], body, sizeof(body)), 200);
    }
    assert_int_equal(take(fds[8], body, sizeof(body)), 503);
    assert_true(is_closed(fds[8]));
    for (int i = 0; i < 9; i++)
        (void)close(fds[i]);
    stop(fixture);
}

static void an_answer_larger_than_the_socket_arrives_whole(void **state)
{
    static char body[(3 << 20) + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);

    (void)state;
    put(fd, "GET /large HTTP/1.1\r\n" HOST "\r\nGET /large HTTP/1.1\r\n" HOST "\r\n",
        2 * strlen("GET /large HTTP/1.1\r\n" HOST "\r\n"));
    gf_clock_sleep_ms(20); /* lets the socket fill up */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take(fd, body, sizeof(body)), 200);
        assert_int_equal(strlen(body), 3 << 20);
    }
    (void)close(fd);
    stop(fixture);
}

static void draining_closes_idle_connections_and_finishes_the_rest(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int idle = dial(fixture), busy = dial(fixture);
    char body[4096];

    (void)state;
    put(idle, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(idle, body, sizeof(body)), 200);
    put(busy, "GET /park HTTP/1.1\r\n" HOST "\r\n", strlen("GET /park HTTP/1.1\r\n" HOST "\r\n"));
    put(idle, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n")); /* /park was read before this */
    assert_int_equal(take(idle, body, sizeof(body)), 200);
    gf_clock_sleep_ms(50);
    gf_async_wake(fixture->drain);
    assert_true(is_closed(idle));
    gf_async_wake(fixture->late);
    assert_int_equal(take(busy, body, sizeof(body)), 200);
    assert_true(is_closed(busy));
    (void)close(idle);
    (void)close(busy);
    stop(fixture);
}

/* ---- the client module against the server ---- */

struct caller {
    struct gf_loop *loop;
    struct gf_http_conn *conn;
    const char *request;
    int status, replies, wanted;
    char body[4096];
};

static void on_reply(void *ctx, struct gf_http_conn *conn, int status, const char *body, size_t len)
{
    struct caller *caller = ctx;

    caller->status = status;
    (void)snprintf(caller->body, sizeof(caller->body), "%.*s", (int)len, len > 0 ? body : "");
    if (++caller->replies == caller->wanted) {
        gf_loop_stop(caller->loop);
        return;
    }
    gf_http_conn_send(conn, caller->request, strlen(caller->request), on_reply, caller);
}

static void call(struct caller *caller, int port, const char *request, int wanted, int64_t timeout_ms)
{
    *caller = (struct caller){.loop = gf_loop_create(), .request = request, .wanted = wanted};
    caller->conn = gf_http_conn_create(caller->loop, "127.0.0.1", port, timeout_ms);
    gf_http_conn_send(caller->conn, request, strlen(request), on_reply, caller);
    gf_loop_run(caller->loop);
    gf_http_conn_close(&caller->conn);
    gf_loop_destroy(&caller->loop);
}

static void the_client_keeps_its_connection_and_reconnects(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    struct caller caller;
    int port = fixture->port;

    (void)state;
    call(&caller, port, "POST /c HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx", 50, PATIENCE_MS);
    assert_int_equal(caller.status, 200);
    assert_string_equal(caller.body, "1 /c q= x= b=x n=1");
    call(&caller, port, "GET /c HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", 20, PATIENCE_MS);
    assert_int_equal(caller.status, 200);
    call(&caller, port, "GET /park HTTP/1.1\r\n" HOST "\r\n", 1, 30);
    assert_int_equal(caller.status, 0);
    stop(fixture);
    call(&caller, port, "GET / HTTP/1.1\r\n" HOST "\r\n", 1, PATIENCE_MS);
    assert_int_equal(caller.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_gets_its_status),
        cmocka_unit_test(a_request_may_be_split_anywhere),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(too_large_input_is_cut),
        cmocka_unit_test(a_body_is_asked_for_with_100_continue),
        cmocka_unit_test(head_has_the_length_but_no_body),
        cmocka_unit_test(only_pages_of_named_origins_may_call),
        cmocka_unit_test(slow_clients_get_408),
        cmocka_unit_test(a_late_answer_is_dropped_after_503),
        cmocka_unit_test(a_request_outlives_its_client),
        cmocka_unit_test(connections_over_the_cap_get_503),
        cmocka_unit_test(an_answer_larger_than_the_socket_arrives_whole),
        cmocka_unit_test(draining_closes_idle_connections_and_finishes_the_rest),
        cmocka_unit_test(the_client_keeps_its_connection_and_reconnects),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
