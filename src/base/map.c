/* SPDX-License-Identifier: Apache-2.0 */
/* Hash table with chains through the caller's nodes. See gf/map.h. */
#include "gf/map.h"

#include <stdlib.h>

#include "gf/hash.h"

#define FIRST_CAP 16

static struct gf_map_node **bucket_of(const struct gf_map *map, uint64_t key)
{
    return &map->buckets[gf_hash_u64(key) & (map->cap - 1)];
}

static void put(const struct gf_map *map, struct gf_map_node *node)
{
    struct gf_map_node **bucket = bucket_of(map, node->key);

    node->next = *bucket;
    node->link = bucket;
    if (node->next != NULL)
        node->next->link = &node->next;
    *bucket = node;
}

static void grow(struct gf_map *map)
{
    struct gf_map old = *map;

    map->cap = old.cap ? old.cap * 2 : FIRST_CAP;
    map->buckets = gf_xcalloc(map->cap, sizeof(map->buckets[0]));
    for (size_t i = 0; i < old.cap; i++) {
        struct gf_map_node *node = old.buckets[i], *next;

        for (; node != NULL; node = next) {
            next = node->next;
            put(map, node);
        }
    }
    free(old.buckets);
}

void gf_map_add(struct gf_map *map, struct gf_map_node *node, uint64_t key)
{
    if (map->count >= map->cap)
        grow(map);
    node->key = key;
    put(map, node);
    map->count++;
}

void gf_map_remove(struct gf_map *map, struct gf_map_node *node)
{
    GF_ASSERT(map->count > 0 && node->link != NULL && *node->link == node);
    *node->link = node->next;
    if (node->next != NULL)
        node->next->link = node->link;
    node->next = NULL;
    node->link = NULL;
    map->count--;
}

static struct gf_map_node *first_of(struct gf_map_node *node, uint64_t key)
{
    while (node != NULL && node->key != key)
        node = node->next;
    return node;
}

struct gf_map_node *gf_map_find(const struct gf_map *map, uint64_t key)
{
    return map->count > 0 ? first_of(*bucket_of(map, key), key) : NULL;
}

struct gf_map_node *gf_map_next(const struct gf_map_node *node)
{
    return first_of(node->next, node->key);
}

void gf_map_each(const struct gf_map *map, void (*on_node)(void *ctx, struct gf_map_node *node), void *ctx)
{
    for (size_t i = 0; i < map->cap; i++) {
        struct gf_map_node *node = map->buckets[i], *next;

        for (; node != NULL; node = next) {
            next = node->next;
            on_node(ctx, node);
        }
    }
}

void gf_map_free(struct gf_map *map)
{
    free(map->buckets);
    *map = (struct gf_map){0};
}
