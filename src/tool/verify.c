/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow verify`: reads MySQL, and Redis where it is there, and proves that the books balance: G1, G2 and G3 as far as the
 * tables show them. Exit 0: they do; 3: a violation; 1: it could not be checked. Blocking, one thread, reads only. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/num.h"
#include "gf/role.h"
#include "tool.h"
#include "verify.h"

#define USAGE "[--json] [--redis=auto|yes|no] [--wait SECONDS] | --watch [--interval SECONDS] [--rate ROWS] [--redis=auto|no]"

#define VERIFY_NAME(id, name, what) {name, what},
static const struct {
    const char *name, *what;
} checks[] = {VERIFY_CHECKS(VERIFY_NAME)};

void gf_verify_fail(struct verify *verify, enum verify_check check, const char *fmt, ...)
{
    struct verify_result *result = &verify->results[check];
    char text[300];
    va_list args;

    if (result->violations++ >= VERIFY_EXAMPLES && verify->on_fail == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (verify->on_fail != NULL)
        verify->on_fail(check, text);
    else
        result->examples[result->violations - 1] = gf_xstrdup(text);
}

const char *gf_verify_check_name(enum verify_check check)
{
    return checks[check].name;
}

int64_t gf_verify_sum(int64_t a, int64_t b)
{
    int64_t sum;

    if (!__builtin_add_overflow(a, b, &sum))
        return sum;
    return a < 0 ? INT64_MIN : INT64_MAX;
}

enum gf_class gf_verify_stream(struct verify *verify, struct gf_sql_result **result_r, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    GF_ASSERT(len > 0 && (size_t)len < sizeof(text));
    return gf_sql_stream(verify->sql, text, (size_t)len, result_r, &verify->error);
}

enum gf_class gf_verify_end(struct verify *verify, struct gf_sql_result **result)
{
    bool failed = gf_sql_result_failed(*result, &verify->error);

    gf_sql_result_free(result);
    return failed ? verify->error.class : GF_OK;
}

/* One snapshot for everything. Streams are read at our own pace: the server must not give up on us meanwhile. */
static enum gf_class take_snapshot(struct verify *verify)
{
    static const char *const statements[] = {
        "SET SESSION net_write_timeout = 600, net_read_timeout = 600",
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    };
    enum gf_class class = GF_OK;

    for (size_t i = 0; i < GF_COUNT(statements) && class == GF_OK; i++)
        class = gf_sql_exec(verify->sql, statements[i], strlen(statements[i]), NULL, &verify->error);
    return class;
}

static enum gf_class check_all(struct verify *verify)
{
    enum gf_class class = take_snapshot(verify);

    if (class == GF_OK)
        class = gf_verify_catalogue(verify);
    if (class == GF_OK)
        class = gf_verify_logs(verify);
    if (class == GF_OK)
        class = gf_verify_wallets(verify);
    if (class == GF_OK)
        class = gf_verify_credits(verify);
    if (class == GF_OK)
        class = gf_verify_accounts(verify);
    return class;
}

static int count_broken(const struct verify *verify)
{
    int broken = 0;

    for (size_t i = 0; i < GF_COUNT(checks); i++)
        broken += verify->results[i].violations > 0 ? 1 : 0;
    return broken;
}

static void print_text(const struct verify *verify, double seconds)
{
    const struct verify_totals *totals = &verify->totals;
    int broken = count_broken(verify);

    for (size_t i = 0; i < GF_COUNT(checks); i++) {
        const struct verify_result *result = &verify->results[i];
        const char *verdict = result->skipped != NULL ? "skip" : result->violations > 0 ? "FAIL" : "ok";

        printf("%-5s %-20s %12" PRId64 "  %s%s%s\n", verdict, checks[i].name, result->checked, checks[i].what,
               result->skipped != NULL ? "; not checked: " : "", result->skipped != NULL ? result->skipped : "");
        for (int64_t k = 0; k < result->violations && k < VERIFY_EXAMPLES; k++)
            printf("        %s\n", result->examples[k]);
        if (result->violations > VERIFY_EXAMPLES)
            printf("        and %" PRId64 " more\n", result->violations - VERIFY_EXAMPLES);
    }
    printf("%" PRId64 " wallets with %" PRId64 " coins; %" PRId64 " trades: %" PRId64 " settled, %" PRId64 " rejected; %" PRId64
           " duplicates, %" PRId64 " dead letters\n",
           totals->wallets, totals->coins, totals->trades, totals->settled, totals->rejected, totals->duplicates, totals->dead);
    printf("credited %" PRId64 ", spent %" PRId64 " = host %" PRId64 " + platform %" PRId64 "; checked in %.2f s\n", totals->credit,
           totals->debit, totals->host, totals->platform, seconds);
    if (broken > 0)
        printf("verdict: BROKEN, %d of %zu checks failed\n", broken, GF_COUNT(checks));
    else
        printf("verdict: OK, the books balance\n");
}

static void json_result(const struct verify_result *result, size_t i, struct gf_buf *out)
{
    gf_buf_addf(out, "%s{\"name\":\"%s\",\"checked\":%" PRId64 ",\"violations\":%" PRId64 ",\"skipped\":", i > 0 ? "," : "",
                checks[i].name, result->checked, result->violations);
    if (result->skipped != NULL)
        gf_buf_add_json(out, result->skipped, strlen(result->skipped));
    else
        gf_buf_adds(out, "null");
    gf_buf_adds(out, ",\"examples\":[");
    for (int64_t k = 0; k < result->violations && k < VERIFY_EXAMPLES; k++) {
        gf_buf_adds(out, k > 0 ? "," : "");
        gf_buf_add_json(out, result->examples[k], strlen(result->examples[k]));
    }
    gf_buf_adds(out, "]}");
}

static void print_json(const struct verify *verify, double seconds)
{
    const struct verify_totals *totals = &verify->totals;
    struct gf_buf out;

    gf_buf_init(&out, 1 << 20);
    gf_buf_addf(&out, "{\"verdict\":\"%s\",\"seconds\":%.3f,\"totals\":{\"wallets\":%" PRId64 ",\"coins\":%" PRId64
                ",\"trades\":%" PRId64 ",\"settled\":%" PRId64 ",\"rejected\":%" PRId64 ",\"duplicates\":%" PRId64
                ",\"dead\":%" PRId64 ",",
                count_broken(verify) > 0 ? "broken" : "ok", seconds, totals->wallets, totals->coins, totals->trades,
                totals->settled, totals->rejected, totals->duplicates, totals->dead);
    gf_buf_addf(&out, "\"debit\":%" PRId64 ",\"credit\":%" PRId64 ",\"host\":%" PRId64 ",\"platform\":%" PRId64 "},\"checks\":[",
                totals->debit, totals->credit, totals->host, totals->platform);
    for (size_t i = 0; i < GF_COUNT(checks); i++)
        json_result(&verify->results[i], i, &out);
    gf_buf_adds(&out, "]}");
    GF_ASSERT(gf_buf_ok(&out));
    puts(out.data);
    gf_buf_free(&out);
}

struct options {
    bool json, watch, redis, redis_required;
    int64_t wait_s;
    struct verify_watch_options watching;
};

static bool take_number(const char *value, int64_t min, int64_t max, int64_t *number_r)
{
    return value != NULL && gf_num_parse_i64(value, strlen(value), min, max, number_r);
}

static bool take_redis(const char *value, struct options *options)
{
    if (value == NULL)
        return false;
    options->redis = strcmp(value, "no") != 0;
    options->redis_required = strcmp(value, "yes") == 0;
    return !options->redis || options->redis_required || strcmp(value, "auto") == 0;
}

/* --interval and --rate are --watch's alone. */
static bool parse_options(int argc, char **argv, struct options *options)
{
    bool ok = true, watching = false;

    for (int i = 1; i < argc && ok; i++) {
        const char *value;

        if (strcmp(argv[i], "--json") == 0)
            options->json = true;
        else if (strcmp(argv[i], "--watch") == 0)
            options->watch = true;
        else if (gf_tool_option(argc, argv, &i, "--interval", &value))
            ok = watching = take_number(value, 1, 86400, &options->watching.interval_s);
        else if (gf_tool_option(argc, argv, &i, "--rate", &value))
            ok = watching = take_number(value, 1, 100000000, &options->watching.rate);
        else if (gf_tool_option(argc, argv, &i, "--redis", &value))
            ok = take_redis(value, options);
        else if (gf_tool_option(argc, argv, &i, "--wait", &value))
            ok = take_number(value, 0, 3600, &options->wait_s);
        else
            ok = false;
    }
    return ok && (options->watch ? !options->json && !options->redis_required : !watching);
}

static void skip_redis(struct verify *verify, const char *why)
{
    verify->results[VERIFY_REDIS_BALANCE].skipped = verify->results[VERIFY_REDIS_HOLDS].skipped = why;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct verify verify;
    struct options options = {.redis = true, .wait_s = 5, .watching = {.interval_s = 5, .rate = 10000}};
    int64_t start_ms = gf_clock_mono_ms();
    enum gf_class class;
    int status = 1;

    if (!parse_options(argc, argv, &options))
        return gf_tool_usage("verify", USAGE, "does not know one of these arguments");
    options.watching.redis = options.redis;
    if (options.watch)
        return gf_verify_watch(config, &options.watching);
    verify.config = config;
    class = gf_tool_connect(config, options.wait_s * 1000, &verify.sql, &verify.error);
    if (class == GF_OK && options.redis)
        gf_verify_read_redis(&verify); /* before the snapshot */
    if (!options.redis)
        skip_redis(&verify, "--redis=no");
    else if (verify.redis_error != NULL)
        skip_redis(&verify, verify.redis_error);
    if (class == GF_OK && options.redis_required && verify.redis_error != NULL)
        class = gf_fail(&verify.error, GF_RETRY, 0, "redis: %s", verify.redis_error);
    if (class == GF_OK)
        class = check_all(&verify);
    if (class != GF_OK) {
        fprintf(stderr, "giftflow verify: could not check: %s\n", verify.error.text);
    } else {
        (options.json ? print_json : print_text)(&verify, (double)(gf_clock_mono_ms() - start_ms) / 1000.0);
        status = count_broken(&verify) > 0 ? 3 : 0;
    }
    gf_sql_close(&verify.sql);
    gf_verify_free(&verify);
    return status;
}

const struct gf_role gf_role_verify = {
    .name = "verify",
    .summary = "prove that the books balance: MySQL, and Redis where it is there",
    .usage = USAGE,
    .details =
        "Exit status: 0 the books balance, 3 they do not, 1 it could not be checked, 2 wrong arguments.\n"
        "\n"
        "--watch stays beside a live system until SIGTERM: every --interval seconds (5) it follows what was settled since, then goes\n"
        "on with a slow round over the cached wallets, the wallets and all trades, reading at most --rate rows a second (10000).\n"
        "Cached wallets that drifted are mended; MySQL never is: what is wrong there is an ERROR line, a metric, and exit status 3.\n"
        "It serves /healthz, /readyz and /metrics on the operations port.\n",
    .needs_config = true,
    .run = run,
};
