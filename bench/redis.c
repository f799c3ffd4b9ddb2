/* SPDX-License-Identifier: Apache-2.0 */
/* What one gift costs Redis: the calls of gf/balance.h against a redis-server of its own, in processor time of that server
 * (from /proc, so that it matters little what else the machine does). Each step runs --rounds times; the best counts.
 * `giftflow-bench-redis [--json yes] [--gifts N] [--senders N] [--window N] [--rounds N]`; window: requests under way at a time, as
 * many as an ingest process has per turn of its loop. */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "gf/balance.h"
#include "gf/loop.h"

#define ROUND 1024 /* wallets in one pipeline of settle's publisher */

enum step { LOAD, RESERVE, ACCEPT, PUBLISH, STEPS };
static const char *const names[STEPS] = {"load", "reserve", "accept", "publish"};

static struct {
    struct gf_config config;
    char dir[64], socket[96];
    pid_t server;
    struct gf_loop *loop;
    struct gf_balance *balance;
    struct gf_redis_sync *sync;
    struct gf_reserve *gifts;
    int64_t count, senders, window;
    int64_t sent, answered, bad, version;
    enum step step;
    double best_us[STEPS];
} bench;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "giftflow-bench-redis: %s failed\n", what);
    exit(1);
}

/* ---- the server ---- */

static void start_server(void)
{
    struct gf_error error;

    snprintf(bench.dir, sizeof(bench.dir), "/tmp/gf-bench-XXXXXX");
    must(mkdtemp(bench.dir) != NULL, "mkdtemp");
    snprintf(bench.socket, sizeof(bench.socket), "%s/s", bench.dir);
    snprintf(bench.config.redis_url, sizeof(bench.config.redis_url), "unix://%s", bench.socket);
    bench.server = fork();
    must(bench.server >= 0, "fork");
    if (bench.server == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(open("/dev/null", O_WRONLY), 1);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", bench.socket, "--save", "", "--dir", bench.dir,
               (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && !bench.sync; i++) {
        gf_clock_sleep_ms(20);
        must(waitpid(bench.server, NULL, WNOHANG) == 0, "redis-server");
        if (gf_redis_sync_connect(&bench.config, &bench.sync, &error) != GF_OK)
            bench.sync = NULL;
    }
    must(bench.sync != NULL, "connect to redis-server");
}

static void stop_server(void)
{
    (void)kill(bench.server, SIGKILL);
    (void)waitpid(bench.server, NULL, 0);
    (void)unlink(bench.socket);
    (void)rmdir(bench.dir);
}

static int64_t server_cpu_ns(void)
{
    char path[64];
    long long ns = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)bench.server);
    file = fopen(path, "r");
    must(file != NULL && fscanf(file, "%lld", &ns) == 1, path);
    fclose(file);
    return ns;
}

/* ---- the steps ---- */

static void issue(void);

static void on_answer(bool good)
{
    bench.bad += !good;
    if (++bench.answered == bench.count)
        gf_loop_stop(bench.loop);
    issue();
}

static void on_reserved(void *ctx, const struct gf_reserve_reply *reply)
{
    (void)ctx;
    on_answer(reply && reply->answer == GF_RESERVED_OK);
}

static void on_stored(void *ctx, enum gf_class class)
{
    (void)ctx;
    on_answer(class == GF_OK);
}

static void on_marker(void *ctx, const struct gf_reply *reply)
{
    const struct gf_reserve *gift = ctx;
    struct gf_marker marker;
    const char *text = NULL;
    size_t len = 0;

    if (reply && gf_reply_type(reply) == GF_REPLY_TEXT)
        text = gf_reply_text(reply, &len);
    on_answer(text && gf_marker_parse(text, len, &marker) && marker.accepted && marker.price == gift->price);
}

/* An acceptance has no answer: the last of a window is looked at. */
static void issue_accept(int64_t i)
{
    gf_balance_accept(bench.balance, &bench.gifts[i]);
    if (i % bench.window < bench.window - 1 && i < bench.count - 1)
        bench.answered++;
    else
        must(gf_balance_get_marker(bench.balance, bench.gifts[i].user_id, &bench.gifts[i].request_id, on_marker, &bench.gifts[i]) ==
                 GF_OK, "look at a marker");
}

static void issue(void)
{
    while (bench.sent < bench.count && bench.sent - bench.answered < bench.window) {
        int64_t i = bench.sent++;
        struct gf_wallet_state wallet = {.user_id = bench.gifts[i].user_id, .ver = bench.version, .balance = BENCH_BALANCE, .status = 1};

        if (bench.step == LOAD)
            must(gf_balance_load(bench.balance, &wallet, on_stored, NULL) == GF_OK, "load");
        else if (bench.step == RESERVE)
            must(gf_balance_reserve(bench.balance, &bench.gifts[i], on_reserved, NULL) == GF_OK, "reserve");
        else
            issue_accept(i);
    }
}

/* Gifts [at, at + count) as settlement hands them over: one entry per sender. */
static size_t merge(int64_t at, size_t count, struct gf_uuid *ids, struct gf_publish *items)
{
    size_t users = 0;

    for (size_t i = 0; i < count; i++) {
        const struct gf_reserve *gift = &bench.gifts[at + (int64_t)i];

        ids[i] = gift->request_id;
        if (users == 0 || items[users - 1].wallet.user_id != gift->user_id)
            items[users++] = (struct gf_publish){
                .ids = &ids[i], .wallet = {.user_id = gift->user_id, .ver = bench.version, .balance = BENCH_BALANCE, .status = 1}};
        items[users - 1].count++;
    }
    return users;
}

static void read_published(void)
{
    struct gf_published published;
    struct gf_reply *reply = NULL;
    struct gf_error error;

    must(gf_redis_sync_reply(bench.sync, &reply, &error) == GF_OK && gf_balance_published(reply, &published), "publish");
    bench.bad += published.failed + published.replaced;
    gf_reply_free(&reply);
}

static void publish(void)
{
    static struct gf_publish items[ROUND];
    static struct gf_uuid ids[ROUND];

    for (int64_t at = 0; at < bench.count; at += ROUND) {
        size_t users = merge(at, (size_t)(bench.count - at < ROUND ? bench.count - at : ROUND), ids, items);
        int calls = gf_balance_publish_many_sync(bench.sync, bench.config.redis_epoch, items, users);

        while (calls-- > 0)
            read_published();
    }
}

static void run(enum step step)
{
    int64_t began_ns = server_cpu_ns();
    double us;

    bench.step = step;
    bench.sent = bench.answered = bench.bad = 0;
    if (step == PUBLISH) {
        publish();
    } else {
        issue();
        gf_loop_run(bench.loop);
    }
    must(bench.bad == 0, names[step]);
    us = (double)(server_cpu_ns() - began_ns) / 1000 / (double)bench.count;
    if (bench.best_us[step] <= 0 || us < bench.best_us[step])
        bench.best_us[step] = us;
}

/* A sender's gifts follow each other, as settlement hands them over. */
static void make_gifts(void)
{
    int64_t each = bench.count / bench.senders;

    for (int64_t i = 0; i < bench.count; i++) {
        struct gf_reserve *gift = &bench.gifts[i];

        *gift = (struct gf_reserve){.user_id = 1 + i / each, .request_id = gf_uuid_v7(), .amount = BENCH_PRICE, .price = BENCH_PRICE,
                                    .quantity = 1};
        snprintf(gift->fp, sizeof(gift->fp), "%016" PRIx64, gf_hash_u64((uint64_t)i));
        snprintf(gift->nonce, sizeof(gift->nonce), "%016" PRIx64, gf_hash_u64((uint64_t)i + 1000000000));
    }
}

static void wait_until_up(void *ctx)
{
    (void)ctx;
    if (gf_balance_all_up(bench.balance))
        gf_loop_stop(bench.loop);
}

static void report(bool json)
{
    double gift = bench.best_us[RESERVE] + bench.best_us[ACCEPT] + bench.best_us[PUBLISH];

    if (json) {
        printf("{\"window\":%" PRId64 ",\"senders\":%" PRId64, bench.window, bench.senders);
        for (int i = 0; i < STEPS; i++)
            printf(",\"%s_us\":%.2f", names[i], bench.best_us[i]);
        printf(",\"gift_us\":%.2f}\n", gift);
        return;
    }
    printf("%6" PRId64 " %8" PRId64, bench.window, bench.senders);
    for (int i = 0; i < STEPS; i++)
        printf(" %8.2f", bench.best_us[i]);
    printf(" %8.2f\n", gift);
}

int main(int argc, char **argv)
{
    struct gf_timer *timer;
    int64_t rounds = bench_arg(argc, argv, "--rounds", 3);
    struct gf_error error;

    (void)signal(SIGPIPE, SIG_IGN);
    must(gf_config_load(&bench.config, NULL, &error) == GF_OK, "the default configuration");
    bench.config.ingest_rate_per_second = 1000000000;
    bench.count = bench_arg(argc, argv, "--gifts", 100000);
    bench.senders = bench_arg(argc, argv, "--senders", bench.count);
    bench.window = bench_arg(argc, argv, "--window", 32);
    must(bench.senders > 0 && bench.count % bench.senders == 0 && bench.window > 0, "--gifts as a multiple of --senders");
    start_server();
    bench.gifts = gf_xcalloc((size_t)bench.count, sizeof(bench.gifts[0]));
    bench.loop = gf_loop_create();
    bench.balance = gf_balance_create(bench.loop, &bench.config);
    timer = gf_timer_start(bench.loop, 1, 1, wait_until_up, NULL);
    gf_loop_run(bench.loop);
    gf_timer_close(&timer);
    for (int64_t round = 0; round < rounds; round++) {
        make_gifts();
        bench.version = 1 + 2 * round;
        run(LOAD);
        publish(); /* fresh for minutes now, as a warm wallet is */
        run(RESERVE);
        run(ACCEPT);
        bench.version++;
        run(PUBLISH);
    }
    report(strcmp(bench_text(argc, argv, "--json", "no"), "yes") == 0);
    gf_balance_close(&bench.balance);
    gf_redis_sync_close(&bench.sync);
    gf_loop_destroy(&bench.loop);
    stop_server();
    free(bench.gifts);
    return 0;
}
