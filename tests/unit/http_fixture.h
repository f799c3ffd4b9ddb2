/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* An HTTP server on a thread of its own for tests, and a plain blocking client with long deadlines. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
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
#define LARGE_ANSWER (3 << 20)
#define HUGE_ANSWER (12 << 20)

struct fixture {
    pthread_t thread;
    struct gf_loop *loop;
    struct gf_http_server *server;
    struct gf_async *stop, *late, *drain, *stall;
    sem_t stalled, go_on; /* see stall() */
    struct gf_http_req *parked;
    struct gf_timer *timer;
    int port;
    atomic_int left; /* in flight when the drain began, plus one */
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
    static char large[HUGE_ANSWER];
    struct fixture *fixture = ctx;
    struct gf_slice path = gf_http_path(req);
    const struct gf_http_answer big = {.status = 200,
                                       .content_type = "text/plain",
                                       .body = large,
                                       .body_len = gf_slice_is(path, "/huge") ? HUGE_ANSWER : LARGE_ANSWER};

    fixture->requests++;
    if (gf_slice_is(path, "/park")) {
        fixture->parked = req;
    } else if (gf_slice_is(path, "/later")) {
        fixture->parked = req;
        fixture->timer = gf_timer_start(fixture->loop, 5, 0, on_later, fixture);
    } else if (gf_slice_is(path, "/large") || gf_slice_is(path, "/huge")) {
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
    gf_async_close(&fixture->stall);
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
    struct fixture *fixture = ctx;

    gf_http_server_drain(fixture->server);
    atomic_store(&fixture->left, gf_http_server_in_flight(fixture->server) + 1);
}

static void on_stall(void *ctx)
{
    struct fixture *fixture = ctx;

    assert_int_equal(sem_post(&fixture->stalled), 0);
    while (sem_wait(&fixture->go_on) != 0)
        ;
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
    fixture->stall = gf_async_create(fixture->loop, on_stall, fixture);
    assert_int_equal(sem_init(&fixture->stalled, 0, 0), 0);
    assert_int_equal(sem_init(&fixture->go_on, 0, 0), 0);
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
    (void)sem_destroy(&fixture->stalled);
    (void)sem_destroy(&fixture->go_on);
    free(fixture);
}

/* The server stands still until go_on(): whatever is sent meanwhile comes at once, however slow the test is. */
static inline void stall(struct fixture *fixture)
{
    gf_async_wake(fixture->stall);
    while (sem_wait(&fixture->stalled) != 0)
        ;
}

static inline void go_on(struct fixture *fixture)
{
    assert_int_equal(sem_post(&fixture->go_on), 0);
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

static char head[8192]; /* of the last answer */

/* Reads one answer; its status, 0 when the connection ended, -1 on a time-out. The body goes to body_r. */
static int take(int fd, char *body_r, size_t size)
{
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
