/* SPDX-License-Identifier: Apache-2.0 */
/* Settlement's side of the balance cache, on a blocking link: see gf/balance.h. */
#include <stdio.h>
#include <stdlib.h>

#include "wallet.h"

static int send(struct gf_store *store, struct gf_redis_sync *redis)
{
    size_t wallets = store->wallets;

    if (wallets == 0)
        return 0;
    gf_redis_sync_script(redis, GF_SCRIPT_STORE, store->arg, gf_store_end(store), wallets);
    gf_store_begin(store, GF_PUBLISHED_FRESH_MS);
    return 1;
}

int gf_balance_publish_many_sync(struct gf_redis_sync *redis, int64_t epoch, const struct gf_publish *items, size_t count)
{
    struct gf_store *store = gf_xmalloc(sizeof(*store));
    int calls = 0;

    gf_store_begin(store, GF_PUBLISHED_FRESH_MS);
    for (size_t i = 0; i < count; i++) {
        struct gf_wallet_state state = items[i].wallet;
        size_t done = 0;

        do { /* a long list of holds becomes several entries; the first carries the balance */
            size_t take = items[i].count - done < GF_PUBLISH_IDS_MAX ? items[i].count - done : GF_PUBLISH_IDS_MAX;

            if (!gf_store_fits(store, take))
                calls += send(store, redis);
            gf_store_add(store, epoch, &state, take > 0 ? items[i].ids + done : NULL, take);
            done += take;
            state.ver = GF_PUBLISH_RELEASE;
        } while (done < items[i].count);
    }
    calls += send(store, redis);
    free(store);
    return calls;
}

bool gf_balance_published(const struct gf_reply *reply, struct gf_published *published_r)
{
    const char *text;
    size_t len, at;

    *published_r = (struct gf_published){0};
    if (gf_reply_type(reply) != GF_REPLY_TEXT)
        return false;
    text = gf_reply_text(reply, &len);
    for (at = 0; at < len && text[at] >= '0' && text[at] <= '3'; at++) {
        published_r->taken += text[at] == '1' || text[at] == '2';
        published_r->replaced += text[at] == '2';
        published_r->failed += text[at] == '3';
    }
    snprintf(published_r->error, sizeof(published_r->error), "%.*s", (int)(len - at), text + at);
    return true;
}
