/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The balance cache in Redis: names of keys, the four Lua scripts and their arguments, as typed calls. Redis is a
 * cache: its "yes" is judged again by settlement, its "no" is at most one second old.
 *
 * Keys (E = redis.epoch; {u:<id>} keeps a user's keys in one cluster slot; times are Redis TIME in unix ms):
 *
 * - gf<E>:{u:<id>}:w, hash, TTL 15 min: b balance, v version (wallet.ver; 0 = no such wallet), s status, f fresh until,
 *   c confirmed at, h sum held, n number of holds, r/k rate second and count, h:<rid> = "<amount> <deadline>" per hold
 * - gf<E>:{u:<id>}:q:<rid>, marker of one request id, TTL ingest.marker_ttl:
 *   "<P|A> <fp> <price> <quantity> <lease> <nonce>"; P = produced or about to be, A = answered 202
 * - gf<E>:{u:<id>}:d:<fp>, rid of the last equal keyless request, TTL ingest.double_click
 *
 * <rid> is the canonical lower-case text of the UUID, fp and nonce are 16 lower-case hex digits.
 * Threads: the link's. All functions copy what they are given. */
#include "gf/redis.h"
#include "gf/uuid.h"

#define GF_KEY_MAX 128
#define GF_FP_TEXT 16
#define GF_PUBLISH_IDS_MAX 256 /* released holds per PUBLISH call; longer lists become more calls */
#define GF_HOLDS_MAX 512       /* live holds per wallet */

size_t gf_key_wallet(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id);
size_t gf_key_marker(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const struct gf_uuid *request_id);
size_t gf_key_click(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const char *fp);

struct gf_balance_rules { /* from the configuration, once */
    int64_t epoch, rate_per_second, lease_ms, hold_ttl_ms, marker_ttl_ms, double_click_ms;
};
void gf_balance_rules_init(struct gf_balance_rules *rules_r, const struct gf_config *config);

struct gf_reserve {
    int64_t user_id;
    struct gf_uuid request_id;
    char fp[GF_FP_TEXT + 1];
    char nonce[GF_FP_TEXT + 1]; /* of this call; a repeat after a lost reply carries the same */
    int64_t amount, price, quantity;
    bool keyless; /* the client gave no key: equal requests within rules->double_click_ms are a double click */
    bool lookup;  /* the catalogue check has failed: only what the marker says; amount and price are not used */
};

/* What the script says; the numbers are the script's. */
enum gf_reserved {
    GF_RESERVED_OK = 1,      /* produce it: with price_r and quantity_r (an overtaken first call's, if there was one) */
    GF_RESERVED_REPLAY,      /* answered 202 before: price_r, quantity_r */
    GF_RESERVED_MISMATCH,    /* same key, other body */
    GF_RESERVED_IN_PROGRESS, /* first call unanswered */
    GF_RESERVED_STALE,       /* load the balance, then call again */
    GF_RESERVED_NO_WALLET,
    GF_RESERVED_LIMITED, /* wait_ms */
    GF_RESERVED_FROZEN,
    GF_RESERVED_BUSY,         /* too many holds */
    GF_RESERVED_INSUFFICIENT, /* available */
    GF_RESERVED_DOUBLE_CLICK,
    GF_RESERVED_NONE, /* lookup only: the key is unused */
};
struct gf_reserve_reply {
    enum gf_reserved answer;
    int64_t price, quantity; /* OK, REPLAY */
    int64_t wait_ms;         /* LIMITED */
    int64_t available;       /* INSUFFICIENT */
};

/* Classes of all calls below are gf_redis_script's: RETRY means that nothing was sent and no callback comes. */
GF_NODISCARD enum gf_class gf_balance_reserve(struct gf_redis *redis, const struct gf_balance_rules *rules,
                                              const struct gf_reserve *request, gf_reply_fn on_reply, void *ctx);
/* False when the reply is none of RESERVE's (NULL, an error reply): Redis did not judge. */
GF_NODISCARD bool gf_balance_reserve_reply(const struct gf_reply *reply, struct gf_reserve_reply *reply_r);
/* After the 202: the marker says A from now on. Lost: harmless (the lease runs out, settlement dedupes). */
void gf_balance_accept(struct gf_redis *redis, const struct gf_balance_rules *rules, const struct gf_reserve *request);
/* Only when the command is certainly not in Kafka: releases the hold and frees the key, if both are still this call's.
 */
void gf_balance_abort(struct gf_redis *redis, const struct gf_balance_rules *rules, const struct gf_reserve *request);

struct gf_wallet_state {
    int64_t user_id;
    int64_t ver; /* 0: no such wallet (LOAD), GF_PUBLISH_RELEASE: release holds only (PUBLISH) */
    int64_t balance;
    int status;
};
#define GF_PUBLISH_RELEASE INT64_C(-1)

/* What the primary says. Reply INT 1: taken, 0: Redis has a newer version (read again once; still: delete the key). */
GF_NODISCARD enum gf_class gf_balance_load(struct gf_redis *redis, int64_t epoch, const struct gf_wallet_state *wallet,
                                           gf_reply_fn on_reply, void *ctx);
/* What a committed transaction left, and the holds it decided: holds go first and always, the balance only if it is not
 * older. Replies INT 1: balance taken, 0: not. Returns the number of calls appended (one per 256 ids, at least one):
 * each has its reply. */
int gf_balance_publish_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_wallet_state *wallet,
                            const struct gf_uuid *ids, size_t count);
/* The same for many wallets, many in one call. Each reply is INT: how many of its wallets could not be written (a key of
 * another type, say). Returns the number of calls appended: each has its reply. */
struct gf_publish {
    struct gf_wallet_state wallet;
    const struct gf_uuid *ids;
    size_t count;
};
int gf_balance_publish_many_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_publish *items, size_t count);
/* The same for a role on a loop, without holds (freeze, new wallet). Best effort: the reply is not looked at. */
void gf_balance_publish(struct gf_redis *redis, int64_t epoch, const struct gf_wallet_state *wallet);

struct gf_marker {
    bool accepted; /* A */
    char fp[GF_FP_TEXT + 1];
    int64_t price, quantity, lease_ms;
};
/* A marker's value as read by GET; false: not a marker. */
GF_NODISCARD bool gf_marker_parse(const char *text, size_t len, struct gf_marker *marker_r);
