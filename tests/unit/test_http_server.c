/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over a real loopback socket: pipelining, limits, slow clients, time-outs, drain; and our client
 * against it. */
#include "gf/metrics.h"
#include "http_fixture.h"

/* All that was put before has been read when this returns: the server looks at its connections in turn. */
static void see_that_the_server_has_read(const struct fixture *fixture)
{
    int fd = dial(fixture);
    char body[4096];

    put(fd, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    (void)close(fd);
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
        len += (size_t)snprintf(text + len, sizeof(text) - len,
                                "POST %s?q=%d HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nok",
                                i % 3 == 0 ? "/later" : "/now", i);
    put(fd, text, len);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(take(fd, body, sizeof(body)), 200);
        (void)snprintf(want, sizeof(want), "1 %s q=%d x= b=ok n=2", i % 3 == 0 ? "/later" : "/now", i);
        assert_string_equal(body, want);
    }
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n",
        2 * strlen("GET /1 HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(shutdown(fd, SHUT_WR), 0); /* half-closed: both are still answered */
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_memory_equal(body, "0 /2 ", 5);
    assert_true(is_closed(fd));
    (void)close(fd);
    fd = dial(fixture); /* half a request behind a whole one: it will never be complete */
    put(fd, "GET /later HTTP/1.1\r\n" HOST "\r\nGET /", strlen("GET /later HTTP/1.1\r\n" HOST "\r\nGET /"));
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
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

    for (size_t extra = 0; extra < 2; extra++) { /* a head of the limit, and one byte more */
        fd = dial(fixture);
        len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n" HOST "X: ");
        memset(text + len, 'a', opts.header_max + extra - len);
        memcpy(text + opts.header_max + extra - 4, "\r\n\r\n", 4);
        put(fd, text, opts.header_max + extra);
        assert_int_equal(take(fd, body, sizeof(body)), extra == 0 ? 200 : 431);
        (void)close(fd);
    }

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
    static const char ask[] = "POST /e HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    static const char old[] = "POST /e HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);
    char body[4096];

    (void)state;
    put(fd, ask, strlen(ask));
    assert_int_equal(take(fd, body, sizeof(body)), 100);
    put(fd, "hi", 2);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_string_equal(body, "1 /e q= x= b=hi n=2");
    put(fd, old, strlen(old)); /* who speaks 1.0 would take it for the answer */
    see_that_the_server_has_read(fixture);
    put(fd, "hi", 2);
    assert_int_equal(take(fd, body, sizeof(body)), 200);
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
#define ASK(origin)                                                                                                    \
    "OPTIONS /v1 HTTP/1.1\r\n" HOST "Connection: close\r\nOrigin: " origin                                             \
    "\r\nAccess-Control-Request-Method: POST\r\n\r\n"
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

/* A client all of whose bytes are there when the server hears of it: else the silence before them could be too long already. */
static int dial_with(struct fixture *fixture, const char *bytes)
{
    int fd;

    stall(fixture);
    fd = dial(fixture);
    put(fd, bytes, strlen(bytes));
    go_on(fixture);
    return fd;
}

static void slow_clients_get_408(void **state)
{
    static const char *const starts[] = {"G", "GET / HTTP/1.1\r\nHost",
                                         "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nab"};
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    char body[4096];
    int fd;

    (void)state;
    opts.header_timeout_ms = opts.body_timeout_ms = opts.idle_timeout_ms = 60;
    fixture = start(&opts);
    for (size_t i = 0; i < GF_COUNT(starts); i++) {
        fd = dial_with(fixture, starts[i]);
        assert_int_equal(take(fd, body, sizeof(body)), 408);
        assert_true(is_closed(fd));
        (void)close(fd);
    }
    fd = dial_with(fixture, "GET / HTTP/1.1\r\nX: "); /* a byte now and then does not help */
    for (int i = 0; i < 1000; i++) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};

        put(fd, "a", 1);
        if (poll(&ready, 1, 5) > 0)
            break;
    }
    assert_int_equal(take(fd, body, sizeof(body)), 408);
    (void)close(fd);
    fd = dial_with(fixture, "GET / HTTP/1.1\r\n" HOST "\r\nGET /"); /* nor does a whole request before it */
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_int_equal(take(fd, body, sizeof(body)), 408);
    (void)close(fd);
    fd = dial(fixture); /* silence is just closed, */
    assert_int_equal(take(fd, body, sizeof(body)), 0);
    (void)close(fd);
    fd = dial_with(fixture, "GET / HTTP/1.1\r\n" HOST "\r\n"); /* after an answer, too */
    assert_int_equal(take(fd, body, sizeof(body)), 200);
    assert_int_equal(take(fd, body, sizeof(body)), 0);
    (void)close(fd);
    stop(fixture);
}

/* One of many tries is enough: each needs the client to be accepted, and its time not to be over, before the server stalls. */
static void what_came_while_the_server_stalled_came_in_time(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    int64_t end_ms = gf_clock_mono_ms() + PATIENCE_MS;
    char body[4096];
    int status;

    (void)state;
    opts.header_timeout_ms = opts.idle_timeout_ms = 200;
    fixture = start(&opts);
    do {
        int fd = dial(fixture);

        stall(fixture);
        put(fd, "GET / HTTP/1.1\r\n" HOST "\r\n", strlen("GET / HTTP/1.1\r\n" HOST "\r\n"));
        gf_clock_sleep_ms(400);
        go_on(fixture);
        status = take(fd, body, sizeof(body));
        (void)close(fd);
    } while (status != 200 && gf_clock_mono_ms() < end_ms);
    assert_int_equal(status, 200);
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
    static char body[LARGE_ANSWER + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);

    (void)state;
    put(fd, "GET /large HTTP/1.1\r\n" HOST "\r\nGET /large HTTP/1.1\r\n" HOST "\r\n",
        2 * strlen("GET /large HTTP/1.1\r\n" HOST "\r\n"));
    gf_clock_sleep_ms(20); /* lets the socket fill up */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take(fd, body, sizeof(body)), 200);
        assert_int_equal(strlen(body), LARGE_ANSWER);
    }
    (void)close(fd);
    stop(fixture);
}

#define LARGE 4

/* A client that writes all its requests before it reads: the buffer is full to the brim, and ends inside of one of them. */
static void a_full_buffer_is_read_on_once_requests_have_left_it(void **state)
{
    static char body[LARGE_ANSWER + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int fd = dial(fixture);
    char text[65536], want[64];
    size_t len = 0;

    (void)state;
    for (int i = 0; i < LARGE; i++) /* more than the socket takes */
        len += (size_t)snprintf(text + len, sizeof(text) - len, "GET /large HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 400; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "GET /?q=%d HTTP/1.1\r\n" HOST "\r\n", i);
    put(fd, text, len);
    gf_clock_sleep_ms(50); /* lets both buffers fill up */
    for (int i = 0; i < LARGE; i++)
        assert_int_equal(take(fd, body, sizeof(body)), 200);
    for (int i = 0; i < 400; i++) {
        assert_int_equal(take(fd, body, sizeof(body)), 200);
        (void)snprintf(want, sizeof(want), "0 / q=%d x= b= n=0", i);
        assert_string_equal(body, want);
    }
    (void)close(fd);
    stop(fixture);
}

/* A client that takes next to nothing before it is read from. */
static int dial_narrow(const struct fixture *fixture)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fixture->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), bytes = 4096;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* Who asks for long answers on many connections and reads none must not take all memory. Who comes too late for it is told so. */
static void what_slow_readers_leave_unsent_is_bounded(void **state)
{
    static char body[HUGE_ANSWER + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    int fds[20], whole = 0, refused = 0, status;

    (void)state;
    opts.connections_max = GF_COUNT(fds) + 1;
    opts.idle_timeout_ms = opts.slow_timeout_ms = 10 * PATIENCE_MS; /* nobody is cut */
    fixture = start(&opts);
    for (size_t i = 0; i < GF_COUNT(fds); i++) {
        fds[i] = dial_narrow(fixture);
        put(fds[i], "GET /huge HTTP/1.1\r\n" HOST "\r\n", strlen("GET /huge HTTP/1.1\r\n" HOST "\r\n"));
    }
    see_that_the_server_has_read(fixture); /* and it serves others meanwhile */
    for (size_t i = 0; i < GF_COUNT(fds); i++) {
        status = take(fds[i], body, sizeof(body));
        whole += status == 200;
        refused += status == 503;
        (void)close(fds[i]);
    }
    assert_int_equal(whole + refused, GF_COUNT(fds));
    assert_in_range(whole, 5, 12); /* 64 MiB of answers of 12 MiB, of which the kernel may hold a half */
    fds[0] = dial_narrow(fixture);
    put(fds[0], "GET /huge HTTP/1.1\r\n" HOST "\r\n", strlen("GET /huge HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(fds[0], body, sizeof(body)), 200); /* what has left counts no more */
    (void)close(fds[0]);
    stop(fixture);
}

static void slow_readers_make_room_for_others(void **state)
{
    static const char request[] = "GET /huge HTTP/1.1\r\n" HOST "\r\n";
    static char body[HUGE_ANSWER + 1];
    struct fixture *fixture;
    struct gf_http_opts opts = patient();
    int64_t end_ms = gf_clock_mono_ms() + PATIENCE_MS, cut = gf_metric_get(GF_M_HTTP_CUT);
    int fds[20], other, status;

    (void)state;
    opts.idle_timeout_ms = 10 * PATIENCE_MS;
    opts.slow_timeout_ms = 50;
    opts.connections_max = GF_COUNT(fds) + 1;
    opts.count_metrics = true;
    fixture = start(&opts);
    for (size_t i = 0; i < GF_COUNT(fds); i++) {
        fds[i] = dial_narrow(fixture);
        put(fds[i], request, strlen(request));
    }
    while (gf_metric_get(GF_M_HTTP_CUT) == cut && gf_clock_mono_ms() < end_ms)
        gf_clock_sleep_ms(10);
    assert_true(gf_metric_get(GF_M_HTTP_CUT) > cut);
    do {
        other = dial(fixture);
        put(other, request, strlen(request));
        status = take(other, body, sizeof(body));
        (void)close(other);
    } while (status != 200 && gf_clock_mono_ms() < end_ms);
    assert_int_equal(status, 200);
    for (size_t i = 0; i < GF_COUNT(fds); i++)
        (void)close(fds[i]);
    stop(fixture);
}

/* With room for one connection the next one tells when the first has ended. */
static void who_does_not_read_the_answer_is_cut(void **state)
{
    static char body[HUGE_ANSWER + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture;
    int64_t end_ms = gf_clock_mono_ms() + PATIENCE_MS;
    int slow, next, status;

    (void)state;
    opts.connections_max = 1;
    opts.idle_timeout_ms = 60;
    fixture = start(&opts);
    slow = dial_narrow(fixture);
    put(slow, "GET /huge HTTP/1.1\r\n" HOST "\r\n", strlen("GET /huge HTTP/1.1\r\n" HOST "\r\n"));
    do {
        next = dial_with(fixture, "GET / HTTP/1.1\r\n" HOST "\r\n");
        status = take(next, body, sizeof(body));
        (void)close(next);
        gf_clock_sleep_ms(5);
    } while (status != 200 && gf_clock_mono_ms() < end_ms);
    assert_int_equal(status, 200);
    assert_int_equal(take(slow, body, sizeof(body)), 0); /* in the middle of its answer */
    (void)close(slow);
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
    put(idle, "GET / HTTP/1.1\r\n" HOST "\r\n",
        strlen("GET / HTTP/1.1\r\n" HOST "\r\n")); /* /park was read before this */
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

/* Who drains waits for what counts as in flight, and cuts the rest. */
static void what_has_begun_is_in_flight_until_its_answer_has_left(void **state)
{
    static const char ask[] = "POST /b HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n";
    static char body[LARGE_ANSWER + 1];
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    int slow = dial(fixture), half = dial(fixture), begun = dial(fixture), answers = 0, status;

    (void)state;
    for (int i = 0; i < LARGE; i++)
        put(slow, "GET /large HTTP/1.1\r\n" HOST "\r\n", strlen("GET /large HTTP/1.1\r\n" HOST "\r\n"));
    put(half, ask, strlen(ask));
    put(begun, "G", 1);
    see_that_the_server_has_read(fixture);
    gf_async_wake(fixture->drain);
    while (atomic_load(&fixture->left) == 0)
        gf_clock_sleep_ms(1);
    assert_int_equal(atomic_load(&fixture->left), 3 + 1);
    while ((status = take(slow, body, sizeof(body))) == 200)
        answers++;
    assert_int_equal(status, 0);
    assert_in_range(answers, 1, LARGE);
    put(half, "ok", 2);
    assert_int_equal(take(half, body, sizeof(body)), 200);
    assert_non_null(strstr(head, "Connection: close\r\n"));
    put(begun, "ET /c HTTP/1.1\r\n" HOST "\r\n", strlen("ET /c HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(take(begun, body, sizeof(body)), 200);
    assert_true(is_closed(begun));
    (void)close(slow);
    (void)close(half);
    (void)close(begun);
    stop(fixture);
}

/* ---- the client module against the server ---- */

struct caller {
    struct gf_loop *loop;
    struct gf_http_conn *conn;
    const char *request;
    int status, replies, wanted;
    int good; /* replies with status 200 */
    char body[4096];
};

static void on_reply(void *ctx, struct gf_http_conn *conn, int status, const char *body, size_t len)
{
    struct caller *caller = ctx;

    caller->status = status;
    caller->good += status == 200;
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

/* A server that takes one connection ever: who dials a second time is refused. */
static void *serve_one_connection(void *arg)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept";
    int listener = *(int *)arg, fd = accept(listener, NULL, NULL);
    char byte;
    int ends = 0; /* of the four bytes \r\n\r\n */

    (void)close(listener);
    while (fd >= 0 && recv(fd, &byte, 1, 0) == 1) {
        ends = byte == "\r\n\r\n"[ends] ? ends + 1 : byte == '\r';
        if (ends < 4)
            continue;
        ends = 0;
        put(fd, answer, strlen(answer));
    }
    (void)close(fd);
    return NULL;
}

static void the_client_keeps_its_connection(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct caller caller;
    pthread_t thread;

    (void)state;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve_one_connection, &listener), 0);
    call(&caller, ntohs(address.sin_port), "GET /c HTTP/1.1\r\n" HOST "\r\n", 50, PATIENCE_MS);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(caller.good, 50);
    assert_string_equal(caller.body, "kept");
}

static void the_client_reconnects_and_says_when_it_cannot(void **state)
{
    struct gf_http_opts opts = patient();
    struct fixture *fixture = start(&opts);
    struct caller caller;
    int port = fixture->port;

    (void)state;
    call(&caller, port, "POST /c HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx", 50, PATIENCE_MS);
    assert_int_equal(caller.good, 50);
    assert_string_equal(caller.body, "1 /c q= x= b=x n=1");
    call(&caller, port, "GET /c HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", 20, PATIENCE_MS);
    assert_int_equal(caller.good, 20);
    call(&caller, port, "GET /park HTTP/1.1\r\n" HOST "\r\n", 1, 30);
    assert_int_equal(caller.status, 0);
    stop(fixture);
    call(&caller, port, "GET / HTTP/1.1\r\n" HOST "\r\n", 1, PATIENCE_MS);
    assert_int_equal(caller.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(too_large_input_is_cut),
        cmocka_unit_test(a_body_is_asked_for_with_100_continue),
        cmocka_unit_test(head_has_the_length_but_no_body),
        cmocka_unit_test(only_pages_of_named_origins_may_call),
        cmocka_unit_test(slow_clients_get_408),
        cmocka_unit_test(what_came_while_the_server_stalled_came_in_time),
        cmocka_unit_test(a_late_answer_is_dropped_after_503),
        cmocka_unit_test(a_request_outlives_its_client),
        cmocka_unit_test(connections_over_the_cap_get_503),
        cmocka_unit_test(an_answer_larger_than_the_socket_arrives_whole),
        cmocka_unit_test(a_full_buffer_is_read_on_once_requests_have_left_it),
        cmocka_unit_test(what_slow_readers_leave_unsent_is_bounded),
        cmocka_unit_test(slow_readers_make_room_for_others),
        cmocka_unit_test(who_does_not_read_the_answer_is_cut),
        cmocka_unit_test(draining_closes_idle_connections_and_finishes_the_rest),
        cmocka_unit_test(what_has_begun_is_in_flight_until_its_answer_has_left),
        cmocka_unit_test(the_client_keeps_its_connection),
        cmocka_unit_test(the_client_reconnects_and_says_when_it_cannot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
