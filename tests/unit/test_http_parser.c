/* SPDX-License-Identifier: Apache-2.0 */
/* Raw bytes in, status and what becomes of the connection out: smuggling, malformed input, splits at every byte. */
#include "http_fixture.h"

struct row {
    const char *name, *bytes;
    size_t len;
    int status;
    bool closes;
};
#define ROW(name, bytes, status, closes)                                                                               \
    {                                                                                                                  \
        name, bytes, sizeof(bytes) - 1, status, closes                                                                 \
    }

static const struct row rows[] = {
    /* ordinary */
    ROW("get", "GET /a?q=1 HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("post", "POST /a HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 200, false),
    ROW("chunked", "POST /a HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        200, false),
    ROW("chunked, capitals",
        "POST /a HTTP/1.1\r\n" HOST "TRANSFER-encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", 200, false),
    ROW("empty lines first", "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("close asked", "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", 200, true),
    ROW("http 1.0", "GET / HTTP/1.0\r\n\r\n", 200, true),
    ROW("http 1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, false),
    ROW("empty value", "GET / HTTP/1.1\r\n" HOST "X-Echo:\r\n\r\n", 200, false),
    ROW("patch", "PATCH / HTTP/1.1\r\n" HOST "\r\n", 200, false),
    ROW("upgrade unanswered", "GET / HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: x\r\n\r\n", 200, false),
    ROW("upgrade taken", "GET /ws HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: x\r\n\r\n", 426, false),
    ROW("upgrade with a body", "GET /ws HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\na",
        200, false), /* the handler's, not the other protocol's */
    ROW("100-continue in 1.0", "POST / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
        200, false),
    /* smuggling: length */
    ROW("TE and CL", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400,
        true),
    ROW("CL and TE", "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
        true),
    ROW("CL twice, same", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, true),
    ROW("CL twice, other", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, true),
    ROW("CL list", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\nabc", 400, true),
    ROW("CL plus", "POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc", 400, true),
    ROW("CL minus", "POST / HTTP/1.1\r\n" HOST "Content-Length: -3\r\n\r\nabc", 400, true),
    ROW("CL hex", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc", 400, true),
    ROW("CL empty", "POST / HTTP/1.1\r\n" HOST "Content-Length: \r\n\r\n", 400, true),
    ROW("CL words", "POST / HTTP/1.1\r\n" HOST "Content-Length: 3 3\r\n\r\nabc", 400, true),
    ROW("CL overflow", "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n\r\na", 400, true),
    ROW("TE twice",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
        true),
    ROW("TE list", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE not last", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE xchunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, true),
    ROW("TE identity", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 400, true),
    ROW("TE empty", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n", 400, true),
    ROW("TE tab",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b"
        "chunked\r\n\r\n0\r\n\r\n",
        400, true),
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
    ROW("DEL in value",
        "GET / HTTP/1.1\r\n" HOST "X: a\x7f"
        "b\r\n\r\n",
        400, true),
    ROW("no colon", "GET / HTTP/1.1\r\n" HOST "X\r\n\r\n", 400, true),
    ROW("no name", "GET / HTTP/1.1\r\n" HOST ": a\r\n\r\n", 400, true),
    ROW("space in name", "GET / HTTP/1.1\r\n" HOST "X Y: a\r\n\r\n", 400, true),
    ROW("no host", "GET / HTTP/1.1\r\n\r\n", 400, true),
    ROW("two hosts", "GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, true),
    ROW("absolute target", "GET http://a/ HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("asterisk", "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("no target", "GET HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("space in target", "GET /a b HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("two spaces before the target", "GET  / HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("two spaces before the version", "GET /  HTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("space after the version", "GET / HTTP/1.1 \r\n" HOST "\r\n", 505, true),
    ROW("tab for a space", "GET /\tHTTP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("no version", "GET /\r\n\r\n", 400, true),
    ROW("RTSP get", "GET / RTSP/1.1\r\n" HOST "\r\n", 400, true),
    ROW("RTSP post", "POST / RTSP/1.0\r\n" HOST "Content-Length: 1\r\n\r\na", 400, true),
    ROW("ICE source", "SOURCE / ICE/1.1\r\n" HOST "\r\n", 400, true),
    /* smuggling: chunks */
    ROW("chunk extension", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
        400, true),
    ROW("chunk extension, empty", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;\r\nabc\r\n0\r\n\r\n",
        400, true),
    ROW("chunk extension, last", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0;x\r\n\r\n", 400, true),
    ROW("chunk bare LF", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk data LF", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", 400, true),
    ROW("chunk data too long", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        400, true),
    ROW("chunk 0x", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk plus", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", 400, true),
    ROW("chunk minus", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400,
        true),
    ROW("chunk underscore", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0_3\r\nabc\r\n0\r\n\r\n", 400,
        true),
    ROW("chunk space", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400,
        true),
    ROW("chunk size missing", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 400,
        true),
    ROW("chunk overflow",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", 400,
        true),
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
        assert_int_equal(strstr(head, "Connection: close\r\n") != NULL, rows[i].closes);
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
    static const char chunked[] =
        "\r\nPOST /s?a=b&q=v HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nX-Echo:  one two\r\n\r\n"
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_gets_its_status),
        cmocka_unit_test(a_request_may_be_split_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
