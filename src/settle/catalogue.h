/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A lane's own snapshot of gifts and prices, read from MySQL: at the start, whenever the gifts' versions have changed, and
 * always again before "unknown gift" or "wrong price" is said (F11). Thread: the lane's. */
#include "batch.h"
#include "gf/sql.h"

struct catalogue;

struct catalogue *catalogue_create(const struct gf_config *config);
void catalogue_destroy(struct catalogue **catalogue);
GF_NODISCARD enum gf_class catalogue_load(struct catalogue *catalogue, struct gf_sql *sql, struct gf_error *error_r);
/* Loads if catalogue.poll has passed and something has changed. */
GF_NODISCARD enum gf_class catalogue_poll(struct catalogue *catalogue, struct gf_sql *sql, struct gf_error *error_r);
/* True when the snapshot alone would reject a planned gift: read MySQL first. */
bool catalogue_doubts(const struct catalogue *catalogue, const struct batch *batch);
const struct gf_catalogue *catalogue_view(const struct catalogue *catalogue);
/* What notices show; empty texts for an unknown gift. */
void catalogue_texts(const struct catalogue *catalogue, int32_t gift_id, const char **name_r, const char **effect_url_r);
