/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* `giftflow verify --watch`: what its two files share. Private to src/tool. Thread: the worker, but for the atomics. */
#include <stdatomic.h>

#include "verify.h"

/* A cached wallet that did not look right. It is drift only if it still does not after WATCH_GRACE_MS, by which time every
 * publish that was on its way has come. */
#define WATCH_GRACE_MS 5000
#define WATCH_SUSPECTS 1024
struct watch_suspect {
    int64_t user_id, ver; /* ver: MySQL's at the first look */
    int64_t due_ms;
};

struct watch_redis {
    struct verify_scan *scan; /* NULL: not connected */
    bool walking;             /* scan is somewhere in the middle */
    struct watch_suspect suspects[WATCH_SUSPECTS]; /* a ring, the oldest first */
    size_t first, count;
};

struct watch {
    struct verify verify;
    const struct verify_watch_options *options;
    struct watch_redis redis;
    int64_t next_ms; /* pacing: nothing more is read before this */
    atomic_bool stopping, mysql_ok;
};

/* Waits until `rows` more fit the rate. */
void watch_pace(struct watch *watch, int64_t rows);

/* The next page of cached wallets against MySQL; *done_r: that was the last one. GF_OK also without Redis: then it is done. */
GF_NODISCARD enum gf_class watch_redis_page(struct watch *watch, bool *done_r);
/* Looks again at the suspects whose time has come; what is still wrong is drift, counted and mended. */
GF_NODISCARD enum gf_class watch_redis_suspects(struct watch *watch);
void watch_redis_close(struct watch *watch);
