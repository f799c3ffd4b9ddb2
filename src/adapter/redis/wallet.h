/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Bytes of the balance cache: what the scripts read and write (gf/balance.h), shared by the calls of this folder. */
#include <string.h>

#include "gf/balance.h"

#define GF_WALLET_TTL "900000"  /* 15 min */
#define GF_LOADED_FRESH_MS 5000 /* what a reader said */
#define GF_MARKER_BYTES 41

/* Keys and numbers are written by hand: formatted printing would cost as much as the rest of a call. */
static inline uint8_t *gf_put_i64(uint8_t *at, int64_t value)
{
    for (int i = 0; i < 8; i++)
        *at++ = (uint8_t)((uint64_t)value >> (8 * i));
    return at;
}

static inline uint8_t *gf_put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static inline uint8_t *gf_put_bytes(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static inline int64_t gf_take_i64(const uint8_t *at)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return (int64_t)value;
}

/* 8 bytes from 16 hex digits. */
uint8_t *gf_put_hex(uint8_t *at, const char *hex);

/* One call of STORE under construction. */
#define GF_STORE_WALLETS 64
#define GF_STORE_IDS 512
struct gf_store {
    size_t wallets, ids, len;
    struct gf_redis_arg arg[GF_STORE_WALLETS + 2];
    char key[GF_STORE_WALLETS][GF_KEY_MAX];
    uint8_t blob[8 + GF_STORE_WALLETS * 20 + GF_STORE_IDS * 16];
};
void gf_store_begin(struct gf_store *store, int64_t fresh_ms);
bool gf_store_fits(const struct gf_store *store, size_t ids);
void gf_store_add(struct gf_store *store, int64_t epoch, const struct gf_wallet_state *wallet, const struct gf_uuid *ids,
                  size_t count);
/* Completes arg: keys, TTL, blob. Returns their number; the keys are store->wallets. */
size_t gf_store_end(struct gf_store *store);
