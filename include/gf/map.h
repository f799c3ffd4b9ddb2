/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Hash table of caller's objects by a 64-bit key: the node is a member of the object, so nothing is allocated per entry.
 * Several entries may have the same key (gf_map_next walks them); removing one costs the same however many they are. Grows, never
 * shrinks. Not thread-safe. */
#include "gf/base.h"

struct gf_map_node {
    uint64_t key;
    struct gf_map_node *next;
    struct gf_map_node **link; /* what points at it */
};
struct gf_map {
    struct gf_map_node **buckets; /* cap is a power of two, or 0 while nothing was ever added */
    size_t count, cap;
};

#define GF_CONTAINER(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

void gf_map_add(struct gf_map *map, struct gf_map_node *node, uint64_t key);
void gf_map_remove(struct gf_map *map, struct gf_map_node *node); /* it must be there */
struct gf_map_node *gf_map_find(const struct gf_map *map, uint64_t key);
struct gf_map_node *gf_map_next(const struct gf_map_node *node); /* the next one of the same key */
/* All entries in no order; the callback may remove and free the entry it gets, and no other. */
void gf_map_each(const struct gf_map *map, void (*on_node)(void *ctx, struct gf_map_node *node), void *ctx);
void gf_map_free(struct gf_map *map); /* the table only */
