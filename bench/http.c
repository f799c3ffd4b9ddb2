/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow-bench-http: a closed-loop HTTP load on one thread, cheap enough (epoll, no parser beyond Content-Length) to leave
 * the processors to the server. Each connection has one request in flight.
 *   giftflow-bench-http --url http://H:P --path /healthz --connections N --seconds S
 *   giftflow-bench-http --url http://H:P --gifts 1 --users U ...   POST /v1/gifts, each with a new v7 key
 * Prints one JSON object; latencies in microseconds. Exit status 1 if any answer was not the expected one. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"
#include "gf/buf.h"
#include "gf/crypto.h"
#include "gf/hist.h"

#define ANSWER_MAX 16384
#define TOKEN_S 7200

struct conn {
    int fd;
    size_t have;
    int64_t sent_us;
    char answer[ANSWER_MAX];
};

struct bench {
    struct sockaddr_in address;
    const char *path;
    bool gifts;
    int64_t users;
    uint64_t random;
    struct gf_buf *tokens; /* Authorization lines, one per user */
    struct gf_buf request;
    struct gf_hist *hist;
    int64_t statuses[600], wrong, measured_from_us;
};

static void die(const char *what)
{
    fprintf(stderr, "giftflow-bench-http: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void make_tokens(struct bench *bench)
{
    static struct gf_config config;
    struct gf_jwt *jwt = NULL;
    struct gf_error error;
    char token[GF_JWT_MAX];
    int64_t expires_s = gf_clock_real_ms() / 1000 + TOKEN_S;

    bench_config(&config);
    if (gf_jwt_create(&config, &jwt, &error) != GF_OK) {
        fprintf(stderr, "giftflow-bench-http: %s\n", error.text);
        exit(1);
    }
    bench->tokens = gf_xcalloc((size_t)bench->users, sizeof(*bench->tokens));
    for (int64_t i = 0; i < bench->users; i++) {
        if (gf_jwt_sign(jwt, i + 1, expires_s, token, sizeof(token), &error) != GF_OK) {
            fprintf(stderr, "giftflow-bench-http: %s\n", error.text);
            exit(1);
        }
        gf_buf_init(&bench->tokens[i], 1024);
        gf_buf_addf(&bench->tokens[i], "Authorization: Bearer %s\r\n", token);
    }
    gf_jwt_destroy(&jwt);
}

static void write_request(struct bench *bench)
{
    struct gf_buf *out = &bench->request;
    char body[200];
    struct gf_uuid id;
    int64_t user, host;
    int len;

    gf_buf_reset(out);
    if (!bench->gifts) {
        gf_buf_addf(out, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", bench->path);
        return;
    }
    user = 1 + (int64_t)(bench_random(&bench->random) % (uint64_t)bench->users);
    host = bench_host(&bench->random);
    id = gf_uuid_v7();
    len = snprintf(body, sizeof(body), "{\"room_id\":%" PRId64 ",\"receiver_id\":%" PRId64 ",\"gift_id\":%d,\"quantity\":1,\"type\":0}",
                   host - BENCH_HOST_BASE, host, BENCH_GIFT);
    gf_buf_adds(out, "POST /v1/gifts HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n");
    gf_buf_add(out, bench->tokens[user - 1].data, bench->tokens[user - 1].len);
    gf_buf_adds(out, "Idempotency-Key: ");
    gf_buf_add_uuid(out, &id);
    gf_buf_addf(out, "\r\nContent-Length: %d\r\n\r\n%s", len, body);
}

static void send_next(struct bench *bench, struct conn *conn)
{
    write_request(bench);
    conn->have = 0;
    conn->sent_us = gf_clock_mono_us();
    if (send(conn->fd, bench->request.data, bench->request.len, MSG_NOSIGNAL) != (ssize_t)bench->request.len)
        die("send"); /* a request is far smaller than an empty socket buffer */
}

/* Length of the whole answer once its head is here; 0: not yet. */
static size_t answer_length(const struct conn *conn)
{
    static const char name[] = "Content-Length:";
    const char *end = memmem(conn->answer, conn->have, "\r\n\r\n", 4), *at;
    size_t head;

    if (!end)
        return 0;
    head = (size_t)(end - conn->answer) + 4;
    at = memmem(conn->answer, head, name, strlen(name));
    return at ? head + (size_t)strtoul(at + strlen(name), NULL, 10) : head;
}

static void on_readable(struct bench *bench, struct conn *conn)
{
    ssize_t got = recv(conn->fd, conn->answer + conn->have, ANSWER_MAX - 1 - conn->have, 0);
    size_t want;
    long status;
    int64_t now_us;

    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        die(got == 0 ? "the server closed a connection" : "recv");
    conn->have += (size_t)got;
    conn->answer[conn->have] = '\0';
    want = answer_length(conn);
    if (want == 0 || conn->have < want)
        return;
    now_us = gf_clock_mono_us();
    status = strtol(conn->answer + strlen("HTTP/1.1 "), NULL, 10);
    if (now_us >= bench->measured_from_us) {
        gf_hist_add(bench->hist, now_us - conn->sent_us);
        bench->statuses[status >= 0 && status < 600 ? status : 0]++;
        if (status != (bench->gifts ? 202 : 200) && bench->wrong++ == 0)
            fprintf(stderr, "giftflow-bench-http: %.*s\n", (int)want, conn->answer);
    }
    send_next(bench, conn);
}

static void open_conn(struct bench *bench, struct conn *conn, int epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    int one = 1;

    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (const struct sockaddr *)&bench->address, sizeof(bench->address)) != 0)
        die("connect");
    if (setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 || fcntl(conn->fd, F_SETFL, O_NONBLOCK) != 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0)
        die("socket");
}

static void run(struct bench *bench, int64_t connections, int64_t warmup_us, int64_t seconds)
{
    struct conn *conns = gf_xcalloc((size_t)connections, sizeof(*conns));
    struct epoll_event events[256];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int64_t end_us;

    for (int64_t i = 0; i < connections; i++)
        open_conn(bench, &conns[i], epoll);
    bench->measured_from_us = gf_clock_mono_us() + warmup_us;
    end_us = bench->measured_from_us + seconds * 1000000;
    for (int64_t i = 0; i < connections; i++)
        send_next(bench, &conns[i]);
    while (gf_clock_mono_us() < end_us) {
        int count = epoll_wait(epoll, events, (int)GF_COUNT(events), 1000);

        for (int i = 0; i < count; i++)
            on_readable(bench, events[i].data.ptr);
    }
    for (int64_t i = 0; i < connections; i++)
        (void)close(conns[i].fd);
    (void)close(epoll);
    free(conns);
}

static void parse_url(struct bench *bench, const char *url)
{
    char host[64] = "";
    int port = 0;

    if (sscanf(url, "http://%63[0-9.]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &bench->address.sin_addr) != 1) {
        fprintf(stderr, "giftflow-bench-http: --url http://ADDRESS:PORT\n");
        exit(2);
    }
    bench->address.sin_family = AF_INET;
    bench->address.sin_port = htons((uint16_t)port);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    int64_t seconds = bench_arg(argc, argv, "--seconds", 10), connections = bench_arg(argc, argv, "--connections", 64);
    const char *separator = "";

    bench.hist = gf_xcalloc(1, sizeof(*bench.hist));
    bench.path = bench_text(argc, argv, "--path", "/healthz");
    bench.gifts = bench_arg(argc, argv, "--gifts", 0) != 0;
    bench.users = bench_arg(argc, argv, "--users", 100000);
    bench.random = (uint64_t)bench_arg(argc, argv, "--seed", gf_clock_real_ms());
    parse_url(&bench, bench_text(argc, argv, "--url", ""));
    gf_buf_init(&bench.request, 8192);
    if (bench.gifts)
        make_tokens(&bench);
    run(&bench, connections, bench_arg(argc, argv, "--warmup-ms", 1000) * 1000, seconds);
    printf("{\"requests_per_s\":%.0f,\"p50_us\":%" PRId64 ",\"p99_us\":%" PRId64 ",\"p999_us\":%" PRId64 ",\"max_us\":%" PRId64
           ",\"connections\":%" PRId64 ",\"answers\":{", (double)bench.hist->count / (double)seconds, gf_hist_quantile(bench.hist, 0.5),
           gf_hist_quantile(bench.hist, 0.99), gf_hist_quantile(bench.hist, 0.999), bench.hist->max_us, connections);
    for (int status = 0; status < 600; status++)
        if (bench.statuses[status] > 0) {
            printf("%s\"%d\":%" PRId64, separator, status, bench.statuses[status]);
            separator = ",";
        }
    printf("}}\n");
    return bench.wrong > 0 ? 1 : 0;
}
