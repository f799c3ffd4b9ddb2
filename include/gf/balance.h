/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The balance cache in Redis: keys, values, and the scripts of src/adapter/redis/lua as typed calls. Redis is a cache: its
 * "yes" is judged again by settlement, its "no" is at most one second old.
 *
 * Keys (E = redis.epoch; {u:<id>} keeps a user's keys in one slot; the 2 is the number of the format, so that processes of
 * different formats never misread each other); numbers in values are little-endian, times are Redis TIME in unix ms:
 *
 * - gf<E>:{u:<id>}:w2, TTL 15 min, 50 + 32 n bytes for n holds: 'w', s status u8, b balance i64, v version i64 (wallet.ver;
 *   0 = no such wallet), f fresh until i64, c confirmed at i64, h sum held i64, r/k rate second and count u32; then per hold:
 *   request id 16, amount i64, deadline i64, in the order in which they came
 * - gf<E>:{u:<id>}:q2:<rid>, marker of one request id, TTL ingest.marker_ttl, 41 bytes: 'P' produced or about to be, 'T' the
 *   same by a call that has taken an earlier one over, 'A' answered 202; lease until i64, fingerprint 8, nonce 8, price i64, quantity i64
 * - gf<E>:{u:<id>}:d2:<fp>, id (16) of the last equal keyless request, TTL ingest.double_click
 *
 * <rid> is the canonical lower-case text of the UUID; fp and nonce are 16 lower-case hex digits outside of values.
 * Several primaries (redis.url with commas): a user lives on number crc16("u:<id>") % count, see gf_redis_shard. */
#include "gf/redis.h"
#include "gf/uuid.h"

#define GF_KEY_MAX 128
#define GF_FP_TEXT 16
#define GF_PUBLISH_IDS_MAX 256 /* released holds per entry of a call; longer lists become more entries */
#define GF_HOLDS_MAX 512       /* live holds per wallet */
#define GF_PUBLISHED_FRESH_MS (10 * 60 * 1000) /* a balance that settlement published is believed so long; it publishes changes */

size_t gf_key_wallet(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id);
size_t gf_key_marker(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const struct gf_uuid *request_id);
size_t gf_key_click(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const char *fp);
/* Whose wallet's key this is; false: no wallet's of this epoch. */
GF_NODISCARD bool gf_key_wallet_user(const char *key, size_t len, int64_t epoch, int64_t *user_id_r);

/* ---- values ---- */

struct gf_hold {
    struct gf_uuid request_id;
    int64_t amount, deadline_ms;
};
struct gf_cached_wallet {
    int64_t balance, ver, fresh_ms, confirmed_ms, held;
    int status;
    size_t count;         /* holds */
    const uint8_t *holds; /* in the parsed text */
};
/* False: not a wallet's value. */
GF_NODISCARD bool gf_cached_wallet_parse(const char *text, size_t len, struct gf_cached_wallet *wallet_r);
struct gf_hold gf_cached_wallet_hold(const struct gf_cached_wallet *wallet, size_t index);

struct gf_marker {
    bool accepted; /* A */
    char fp[GF_FP_TEXT + 1];
    int64_t price, quantity, lease_ms;
};
/* False: not a marker's value. */
GF_NODISCARD bool gf_marker_parse(const char *text, size_t len, struct gf_marker *marker_r);

/* ---- for a role on a loop ----
 * Calls made in one turn of the loop leave together at its end, loads many in one script call; so do reservations, once the
 * first of them has waited for ingest.gather or 32 wait. Every call goes to the user's primary; RETRY means that nothing was
 * sent and no callback comes: that one is away, or too much waits for it. Callbacks never run inside a call. All functions copy
 * what they are given. Thread: the loop's. */

struct gf_balance;
struct gf_balance *gf_balance_create(struct gf_loop *loop, const struct gf_config *config); /* connects in the background */
bool gf_balance_up(const struct gf_balance *balance, int64_t user_id); /* the user's primary is connected */
bool gf_balance_all_up(const struct gf_balance *balance);
bool gf_balance_any_up(const struct gf_balance *balance); /* one of several that is away touches its own users only */
void gf_balance_close(struct gf_balance **balance); /* pending callbacks get NULL */

struct gf_reserve {
    int64_t user_id;
    struct gf_uuid request_id;
    char fp[GF_FP_TEXT + 1];
    char nonce[GF_FP_TEXT + 1]; /* of this call; a repeat after a lost reply carries the same */
    int64_t amount, price, quantity;
    int64_t begun_ms; /* monotonic, not after the first reservation with this nonce */
    bool keyless; /* the client gave no key: equal requests within ingest.double_click are a double click */
    bool lookup;  /* the catalogue check has failed: only what the marker says; amount and price are not used */
};

/* What the script says; the numbers are the script's. */
enum gf_reserved {
    GF_RESERVED_OK = 1,      /* produce it: with price and quantity, an earlier call's if this one has taken it over */
    GF_RESERVED_REPLAY,      /* answered 202 before: price, quantity */
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
    int64_t wait_ms;         /* LIMITED, IN_PROGRESS */
    int64_t available;       /* INSUFFICIENT */
};
typedef void (*gf_reserved_fn)(void *ctx, const struct gf_reserve_reply *reply); /* NULL: Redis did not judge, or nobody knows */
GF_NODISCARD enum gf_class gf_balance_reserve(struct gf_balance *balance, const struct gf_reserve *request,
                                              gf_reserved_fn on_reserved, void *ctx);
/* After the 202: the marker says A from now on. Lost: harmless (the lease runs out, settlement dedupes). */
void gf_balance_accept(struct gf_balance *balance, const struct gf_reserve *request);
/* Only when the command is certainly not in Kafka: releases the hold and frees the key, if both are still this call's and it has
 * taken no earlier one over. Also after a lost reply. While the primary is away it waits, bounded, and not longer than
 * ingest.lease from begun_ms: after that another call may have taken the key over, which a Redis that comes back with older data
 * (a restored snapshot, a replica that lagged) does not know. Lost: the hold runs out. So it does where the network delivers
 * RESERVE after its ABORT (a proxy that repeats or reorders what two connections carry): Redis does not remember aborts. */
void gf_balance_abort(struct gf_balance *balance, const struct gf_reserve *request);

struct gf_wallet_state {
    int64_t user_id;
    int64_t ver; /* 0: no such wallet (LOAD), GF_PUBLISH_RELEASE: release holds only (PUBLISH) */
    int64_t balance;
    int status;
};
#define GF_PUBLISH_RELEASE INT64_C(-1)

/* What the primary database says. OK: taken; REJECT: Redis has a newer version (if the database, read once more, is behind what
 * Redis has: gf_balance_forget, then read and load); RETRY: not known. */
typedef void (*gf_stored_fn)(void *ctx, enum gf_class class);
GF_NODISCARD enum gf_class gf_balance_load(struct gf_balance *balance, const struct gf_wallet_state *wallet,
                                           gf_stored_fn on_stored, void *ctx);
/* Deletes the wallet, holds included, if it still has this version: another process may have put it right already, and hold
 * coins in it. The reply is a number: 1 deleted, 0 not. */
GF_NODISCARD enum gf_class gf_balance_forget(struct gf_balance *balance, int64_t user_id, int64_t ver, gf_reply_fn on_reply,
                                             void *ctx);
/* What a transaction of the role itself left (freeze, new wallet). Best effort. */
void gf_balance_publish(struct gf_balance *balance, const struct gf_wallet_state *wallet);
/* GET of the marker or the wallet, to be parsed with the functions above. */
GF_NODISCARD enum gf_class gf_balance_get_marker(struct gf_balance *balance, int64_t user_id, const struct gf_uuid *request_id,
                                                 gf_reply_fn on_reply, void *ctx);
GF_NODISCARD enum gf_class gf_balance_get_wallet(struct gf_balance *balance, int64_t user_id, gf_reply_fn on_reply, void *ctx);

/* ---- for a thread with a blocking link ---- */

/* What a committed transaction left, and the holds it decided: holds go first and always, the balance only if it is not
 * older. All items belong on the link's primary. Returns the number of calls appended: each has its reply. */
struct gf_publish {
    struct gf_wallet_state wallet;
    const struct gf_uuid *ids;
    size_t count;
};
int gf_balance_publish_many_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_publish *items, size_t count);
struct gf_published {
    int64_t taken;    /* balances */
    int64_t replaced; /* of them in place of something that was no wallet */
    int64_t failed;   /* wallets that could not be written (no memory, say) */
    char error[128];  /* why the last of them failed */
};
/* Reads one reply of it. False: an error reply, nothing was written. */
GF_NODISCARD bool gf_balance_published(const struct gf_reply *reply, struct gf_published *published_r);
