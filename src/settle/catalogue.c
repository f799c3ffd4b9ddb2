/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot of gift and gift_price. See catalogue.h. Texts and prices live in two flat arrays that are rebuilt by each load. */
#include "catalogue.h"

#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "gf/metrics.h"

#define TEXT_BYTES_MAX (256u << 20)

struct texts {
    size_t name, effect_url; /* positions in catalogue->text */
};

struct catalogue {
    struct gf_catalogue view;
    struct gf_gift *gifts;
    struct texts *texts; /* beside gifts */
    struct gf_price *prices;
    struct gf_buf text;
    int64_t poll_ms, due_ms;
    int64_t count, ver_max, ver_sum; /* what the versions were */
};

struct catalogue *catalogue_create(const struct gf_config *config)
{
    struct catalogue *catalogue = gf_xcalloc(1, sizeof(*catalogue));

    catalogue->view.lead_ms = config->catalogue_price_lead;
    catalogue->view.grace_ms = config->catalogue_price_grace;
    catalogue->poll_ms = config->catalogue_poll;
    catalogue->count = -1;
    gf_buf_init(&catalogue->text, TEXT_BYTES_MAX);
    return catalogue;
}

void catalogue_destroy(struct catalogue **catalogue)
{
    if (*catalogue == NULL)
        return;
    free((*catalogue)->gifts);
    free((*catalogue)->texts);
    free((*catalogue)->prices);
    gf_buf_free(&(*catalogue)->text);
    free(*catalogue);
    *catalogue = NULL;
}

static size_t keep_text(struct catalogue *catalogue, const struct gf_sql_result *result, int column)
{
    size_t at = catalogue->text.len, len;
    const char *bytes = gf_sql_bytes(result, column, &len);

    gf_buf_add(&catalogue->text, bytes, strnlen(bytes, len));
    gf_buf_addc(&catalogue->text, '\0');
    return at;
}

static void take_gifts(struct catalogue *catalogue, struct gf_sql_result *result)
{
    size_t rows = (size_t)gf_sql_result_count(result);
    int count = 0;

    gf_buf_reset(&catalogue->text);
    catalogue->gifts = gf_xrealloc(catalogue->gifts, (rows + 1) * sizeof(catalogue->gifts[0]));
    catalogue->texts = gf_xrealloc(catalogue->texts, (rows + 1) * sizeof(catalogue->texts[0]));
    catalogue->count = catalogue->ver_max = catalogue->ver_sum = 0;
    while (gf_sql_next(result)) {
        struct gf_gift *gift = &catalogue->gifts[count];

        *gift = (struct gf_gift){.gift_id = (int32_t)gf_sql_i64(result, 0),
                                 .max_quantity = (int32_t)gf_sql_i64(result, 1),
                                 .status = (int32_t)gf_sql_i64(result, 2),
                                 .ver = gf_sql_i64(result, 3)};
        catalogue->texts[count].name = keep_text(catalogue, result, 4);
        catalogue->texts[count].effect_url = keep_text(catalogue, result, 5);
        catalogue->ver_max = gift->ver > catalogue->ver_max ? gift->ver : catalogue->ver_max;
        catalogue->ver_sum += gift->ver;
        count++;
    }
    GF_ASSERT(gf_buf_ok(&catalogue->text));
    catalogue->count = count;
    catalogue->view.gifts = catalogue->gifts;
    catalogue->view.gift_count = count;
}

/* Both come sorted by gift_id; prices newest first within a gift. A price without a gift is left out. */
static void take_prices(struct catalogue *catalogue, struct gf_sql_result *result)
{
    size_t rows = (size_t)gf_sql_result_count(result);
    int gift = 0, count = 0;

    catalogue->prices = gf_xrealloc(catalogue->prices, (rows + 1) * sizeof(catalogue->prices[0]));
    while (gf_sql_next(result)) {
        int32_t gift_id = (int32_t)gf_sql_i64(result, 0);

        while (gift < catalogue->view.gift_count && catalogue->gifts[gift].gift_id < gift_id)
            gift++;
        if (gift == catalogue->view.gift_count || catalogue->gifts[gift].gift_id != gift_id)
            continue;
        if (catalogue->gifts[gift].price_count++ == 0)
            catalogue->gifts[gift].prices = &catalogue->prices[count];
        catalogue->prices[count++] = (struct gf_price){.valid_from_ms = gf_sql_i64(result, 1),
                                                       .valid_to_ms = gf_sql_i64(result, 2),
                                                       .price = gf_sql_i64(result, 3),
                                                       .share_bp = (int)gf_sql_i64(result, 4)};
    }
}

enum gf_class catalogue_load(struct catalogue *catalogue, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *gifts = NULL, *prices = NULL;
    enum gf_class class;

    class = gf_sql_queryf(sql, &gifts, error_r,
                          "SELECT gift_id, max_quantity, status, ver, name, effect_url FROM gift ORDER BY gift_id");
    if (class == GF_OK)
        class = gf_sql_queryf(sql, &prices, error_r,
                              "SELECT gift_id, valid_from_ms, valid_to_ms, price, share_bp FROM gift_price "
                              "ORDER BY gift_id, valid_from_ms DESC");
    if (class == GF_OK) {
        take_gifts(catalogue, gifts);
        take_prices(catalogue, prices);
        catalogue->due_ms = gf_clock_mono_ms() + catalogue->poll_ms;
        gf_metric_add(GF_M_CATALOGUE_RELOADS, 1);
    }
    gf_sql_result_free(&gifts);
    gf_sql_result_free(&prices);
    return class;
}

/* The sum sees also a change whose transaction committed after a later-numbered one. */
enum gf_class catalogue_poll(struct catalogue *catalogue, struct gf_sql *sql, struct gf_error *error_r)
{
    struct gf_sql_result *result = NULL;
    enum gf_class class;
    bool same;

    if (gf_clock_mono_ms() < catalogue->due_ms)
        return GF_OK;
    class = gf_sql_queryf(sql, &result, error_r, "SELECT COUNT(*), MAX(ver), SUM(ver) FROM gift");
    if (class != GF_OK)
        return class;
    same = gf_sql_next(result) && gf_sql_i64(result, 0) == catalogue->count &&
           gf_sql_i64(result, 1) == catalogue->ver_max && gf_sql_i64(result, 2) == catalogue->ver_sum;
    gf_sql_result_free(&result);
    catalogue->due_ms = gf_clock_mono_ms() + catalogue->poll_ms;
    return same ? GF_OK : catalogue_load(catalogue, sql, error_r);
}

bool catalogue_doubts(const struct catalogue *catalogue, const struct batch *batch)
{
    for (int i = 0; i < batch->planned_count; i++) {
        const struct gf_command *command = &batch->planned[i];
        const struct gf_gift *gift;

        if (command->dead != GF_DEAD_NONE || command->kind != GF_KIND_GIFT)
            continue;
        gift = gf_catalogue_find(&catalogue->view, command->gift_id);
        if (gift == NULL || gift->status != 1 || command->quantity > gift->max_quantity ||
            gf_gift_accepts(&catalogue->view, gift, command->price, command->append_ms) == NULL)
            return true;
    }
    return false;
}

const struct gf_catalogue *catalogue_view(const struct catalogue *catalogue)
{
    return &catalogue->view;
}

void catalogue_texts(const struct catalogue *catalogue, int32_t gift_id, const char **name_r, const char **effect_url_r)
{
    const struct gf_gift *gift = gf_catalogue_find(&catalogue->view, gift_id);

    *name_r = *effect_url_r = "";
    if (gift == NULL)
        return;
    *name_r = catalogue->text.data + catalogue->texts[gift - catalogue->gifts].name;
    *effect_url_r = catalogue->text.data + catalogue->texts[gift - catalogue->gifts].effect_url;
}
