/* SPDX-License-Identifier: Apache-2.0 */
/* Which (request_id, user_id) pairs of a window `trade` has already. Rows never go away, so the answer is good outside of a
 * transaction; a pair that appears meanwhile is caught by the unique key. */
#include "store_internal.h"

static enum gf_class find_chunk(struct store *store, struct batch *batch, int *found_r, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class = gf_sql_query(store->sql, store->text.data, store->text.len, &result, error_r);
    struct gf_uuid id;
    size_t len;

    if (class != GF_OK)
        return class;
    while (gf_sql_next(result)) {
        const char *fp = gf_sql_bytes(result, 2, &len);
        uint8_t bytes[BATCH_FP];

        GF_ASSERT(fp != NULL && len == BATCH_FP);
        memcpy(bytes, fp, BATCH_FP);
        gf_sql_uuid(result, 0, &id);
        *found_r += batch_mark_known(batch, &id, gf_sql_i64(result, 1), bytes);
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

enum gf_class store_find_known(struct store *store, struct batch *batch, bool all, int *found_r, struct gf_error *error_r)
{
    enum gf_class class = GF_OK;
    int pairs = 0;

    *found_r = 0;
    gf_buf_reset(&store->text);
    for (int i = 0; i < batch->n && class == GF_OK; i++) {
        const struct gf_command *command = batch_command(batch, i);

        if (!command->readable || (!all && command->kind == GF_KIND_GIFT))
            continue;
        if (pairs == 0)
            gf_buf_adds(&store->text, "SELECT request_id, user_id, fp FROM trade WHERE (request_id, user_id) IN (");
        gf_buf_adds(&store->text, pairs == 0 ? "(" : ",(");
        gf_buf_add_xhex(&store->text, command->request_id.b, 16);
        gf_buf_addc(&store->text, ',');
        gf_buf_add_i64(&store->text, command->user_id);
        gf_buf_addc(&store->text, ')');
        if (++pairs < PAIRS_PER_SELECT)
            continue;
        gf_buf_addc(&store->text, ')');
        class = find_chunk(store, batch, found_r, error_r);
        gf_buf_reset(&store->text);
        pairs = 0;
    }
    if (class == GF_OK && pairs > 0) {
        gf_buf_addc(&store->text, ')');
        class = find_chunk(store, batch, found_r, error_r);
    }
    return class;
}
