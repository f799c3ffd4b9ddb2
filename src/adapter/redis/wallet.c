/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values of the balance cache: see gf/balance.h. Pure: no connection, no memory. */
#include "wallet.h"

#include "gf/num.h"

#define WALLET_HEAD 50
#define HOLD_BYTES 32

/* ---- keys ---- */

/* "gf<E>:{u:": what the epoch decides. */
static char *put_epoch(char *at, int64_t epoch)
{
    at = mempcpy(at, "gf", 2);
    at = gf_num_put(at, epoch);
    return mempcpy(at, ":{u:", 4);
}

/* "gf<E>:{u:<id>}:": at most 47 bytes, so that what follows fits as well. */
static char *put_user(char *at, int64_t epoch, int64_t user_id)
{
    at = gf_num_put(put_epoch(at, epoch), user_id);
    return mempcpy(at, "}:", 2);
}

size_t gf_key_wallet(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id)
{
    char *at = mempcpy(put_user(key_r, epoch, user_id), "w2", 2);

    *at = '\0';
    return (size_t)(at - key_r);
}

size_t gf_key_marker(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const struct gf_uuid *request_id)
{
    char *at = mempcpy(put_user(key_r, epoch, user_id), "q2:", 3);

    gf_uuid_format(request_id, at);
    return (size_t)(at - key_r) + GF_UUID_TEXT;
}

size_t gf_key_click(char key_r[GF_KEY_MAX], int64_t epoch, int64_t user_id, const char *fp)
{
    char *at = mempcpy(mempcpy(put_user(key_r, epoch, user_id), "d2:", 3), fp, GF_FP_TEXT);

    *at = '\0';
    return (size_t)(at - key_r);
}

bool gf_key_wallet_user(const char *key, size_t len, int64_t epoch, int64_t *user_id_r)
{
    char prefix[GF_KEY_MAX];
    size_t prefix_len = (size_t)(put_epoch(prefix, epoch) - prefix);

    return len > prefix_len + 4 && memcmp(key, prefix, prefix_len) == 0 && memcmp(key + len - 4, "}:w2", 4) == 0 &&
           gf_num_parse_i64(key + prefix_len, len - prefix_len - 4, 1, GF_ID_MAX, user_id_r);
}

/* ---- values ---- */

bool gf_cached_wallet_parse(const char *text, size_t len, struct gf_cached_wallet *wallet_r)
{
    const uint8_t *at = (const uint8_t *)text;

    if (len < WALLET_HEAD || at[0] != 'w' || (len - WALLET_HEAD) % HOLD_BYTES != 0)
        return false;
    *wallet_r = (struct gf_cached_wallet){
        .status = at[1],
        .balance = gf_take_i64(at + 2),
        .ver = gf_take_i64(at + 10),
        .fresh_ms = gf_take_i64(at + 18),
        .confirmed_ms = gf_take_i64(at + 26),
        .held = gf_take_i64(at + 34),
        .count = (len - WALLET_HEAD) / HOLD_BYTES,
        .holds = at + WALLET_HEAD,
    };
    return true;
}

struct gf_hold gf_cached_wallet_hold(const struct gf_cached_wallet *wallet, size_t index)
{
    const uint8_t *at = wallet->holds + index * HOLD_BYTES;
    struct gf_hold hold = {.amount = gf_take_i64(at + 16), .deadline_ms = gf_take_i64(at + 24)};

    GF_ASSERT(index < wallet->count);
    memcpy(hold.request_id.b, at, sizeof(hold.request_id.b));
    return hold;
}

bool gf_marker_parse(const char *text, size_t len, struct gf_marker *marker_r)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = (const uint8_t *)text;
    struct gf_marker marker = {0};

    if (len != GF_MARKER_BYTES || (at[0] != 'A' && at[0] != 'P' && at[0] != 'T'))
        return false;
    marker.accepted = at[0] == 'A';
    marker.lease_ms = gf_take_i64(at + 1);
    for (int i = 0; i < 8; i++) {
        marker.fp[2 * i] = digits[at[9 + i] >> 4];
        marker.fp[2 * i + 1] = digits[at[9 + i] & 15];
    }
    marker.price = gf_take_i64(at + 25);
    marker.quantity = gf_take_i64(at + 33);
    if (marker.price < 1 || marker.price > GF_ID_MAX || marker.quantity < 1 || marker.quantity > INT32_MAX)
        return false;
    *marker_r = marker;
    return true;
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    GF_ASSERT(digit >= 'a' && digit <= 'f');
    return digit - 'a' + 10;
}

uint8_t *gf_put_hex(uint8_t *at, const char *hex)
{
    for (int i = 0; i < GF_FP_TEXT; i += 2)
        *at++ = (uint8_t)(hex_value(hex[i]) << 4 | hex_value(hex[i + 1]));
    return at;
}

/* ---- STORE ---- */

void gf_store_begin(struct gf_store *store, int64_t fresh_ms)
{
    store->wallets = store->ids = 0;
    store->len = (size_t)(gf_put_i64(store->blob, fresh_ms) - store->blob);
}

bool gf_store_fits(const struct gf_store *store, size_t ids)
{
    return store->wallets < GF_STORE_WALLETS && store->ids + ids <= GF_STORE_IDS;
}

void gf_store_add(struct gf_store *store, int64_t epoch, const struct gf_wallet_state *wallet, const struct gf_uuid *ids,
                  size_t count)
{
    char *key = store->key[store->wallets];
    uint8_t *at = store->blob + store->len;

    GF_ASSERT(gf_id_valid(wallet->user_id) && wallet->ver >= GF_PUBLISH_RELEASE && wallet->balance >= 0);
    GF_ASSERT(gf_store_fits(store, count));
    store->arg[store->wallets++] = (struct gf_redis_arg){key, gf_key_wallet(key, epoch, wallet->user_id)};
    *at++ = 'w';
    *at++ = (uint8_t)wallet->status;
    at = gf_put_i64(at, wallet->balance);
    at = gf_put_i64(at, wallet->ver);
    *at++ = (uint8_t)count;
    *at++ = (uint8_t)(count >> 8);
    for (size_t i = 0; i < count; i++)
        at = gf_put_bytes(at, ids[i].b, sizeof(ids[i].b));
    store->ids += count;
    store->len = (size_t)(at - store->blob);
}

size_t gf_store_end(struct gf_store *store)
{
    store->arg[store->wallets] = (struct gf_redis_arg){GF_WALLET_TTL, strlen(GF_WALLET_TTL)};
    store->arg[store->wallets + 1] = (struct gf_redis_arg){(const char *)store->blob, store->len};
    return store->wallets + 2;
}
