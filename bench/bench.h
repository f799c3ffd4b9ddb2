/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the benchmark programs share: arguments, random numbers, the gift that they send. Benchmarks only: they write wallets
 * by SQL, which nothing else in giftflow may do, so their database is thrown away. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/config.h"
#include "gf/hash.h"
#include "gf/num.h"

#define BENCH_GIFT 22
#define BENCH_PRICE 90
#define BENCH_SHARE_BP 5000
#define BENCH_BALANCE INT64_C(1000000000)
#define BENCH_HOSTS 10000
#define BENCH_HOST_BASE INT64_C(9000000000)

static inline uint64_t bench_random(uint64_t *state) { return gf_hash_u64(*state += UINT64_C(0x9e3779b97f4a7c15)); }

/* Host k of BENCH_HOSTS with a density of about 1/k (Zipf, exponent 1): inverse of the continuous distribution. */
static inline int64_t bench_host(uint64_t *state)
{
    double u = (double)(bench_random(state) >> 11) / 9007199254740992.0;

    return BENCH_HOST_BASE + (int64_t)pow((double)BENCH_HOSTS, u);
}

/* The value of `--name N`, or otherwise. */
static inline int64_t bench_arg(int argc, char **argv, const char *name, int64_t otherwise)
{
    int64_t value = otherwise;

    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0 && !gf_num_parse_i64(argv[i + 1], strlen(argv[i + 1]), 0, INT64_MAX, &value)) {
            fprintf(stderr, "%s: not a number: %s\n", name, argv[i + 1]);
            exit(2);
        }
    return value;
}

static inline const char *bench_text(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

static inline void bench_config(struct gf_config *config)
{
    struct gf_error error;

    if (gf_config_load(config, getenv("GIFTFLOW_CONFIG"), &error) != GF_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(2);
    }
}

/* User and system time of a process so far; 0: no process was named. */
static inline int64_t bench_process_us(int64_t pid)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;
    const char *fields;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%" PRId64 "/stat", pid);
    file = pid ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    fields = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
    (void)fclose(file);
    if (!fields || sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return 0;
    return (int64_t)(user + system) * 1000000 / sysconf(_SC_CLK_TCK);
}
