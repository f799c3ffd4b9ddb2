/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of the load harness by index and by id, and the violations that are found. Pure bookkeeping: no I/O, no clock. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/hash.h"
#include "load.h"

static uint32_t slot_of(const struct load_table *table, const struct gf_uuid *id)
{
    uint64_t a, b;

    memcpy(&a, id->b, 8);
    memcpy(&b, id->b + 8, 8);
    return (uint32_t)gf_hash_u64(a ^ gf_hash_u64(b)) & table->slot_mask;
}

static void make_slots(struct load_table *table, uint32_t rows)
{
    uint32_t size = 1024;

    while (size < rows && size < (1U << 30))
        size *= 2;
    size *= 2; /* at most half full */
    free(table->slots);
    table->slots = gf_xcalloc(size, sizeof(*table->slots));
    table->slot_mask = size - 1;
}

void load_table_init(struct load_table *table, uint32_t expected)
{
    memset(table, 0, sizeof(*table));
    table->cap = expected < 1024 ? 1024 : expected;
    table->rows = gf_xcalloc(table->cap, sizeof(*table->rows));
    make_slots(table, table->cap);
}

void load_table_free(struct load_table *table)
{
    free(table->rows);
    free(table->slots);
    memset(table, 0, sizeof(*table));
}

uint32_t load_table_add(struct load_table *table)
{
    GF_ASSERT(table->count < (1U << 30));
    if (table->count == table->cap) {
        table->cap *= 2;
        table->rows = gf_xrealloc(table->rows, table->cap * sizeof(*table->rows));
    }
    memset(&table->rows[table->count], 0, sizeof(*table->rows));
    return table->count++;
}

static void place(struct load_table *table, uint32_t row)
{
    uint32_t slot = slot_of(table, &table->rows[row].id);

    while (table->slots[slot] != 0)
        slot = (slot + 1) & table->slot_mask;
    table->slots[slot] = row + 1;
}

void load_table_index(struct load_table *table, uint32_t row)
{
    if (table->indexed >= table->slot_mask / 2) {
        uint32_t *old = table->slots, old_size = table->slot_mask + 1;

        table->slots = NULL;
        make_slots(table, old_size);
        for (uint32_t i = 0; i < old_size; i++)
            if (old[i] != 0)
                place(table, old[i] - 1);
        free(old);
    }
    place(table, row);
    table->indexed++;
}

uint32_t load_table_find(const struct load_table *table, const struct gf_uuid *id)
{
    for (uint32_t slot = slot_of(table, id); table->slots[slot] != 0; slot = (slot + 1) & table->slot_mask)
        if (memcmp(&table->rows[table->slots[slot] - 1].id, id, sizeof(*id)) == 0)
            return table->slots[slot] - 1;
    return LOAD_NONE;
}

enum load_seen load_request_outcome(struct load_request *request, uint16_t code, uint64_t frame)
{
    GF_ASSERT(code != 0);
    if (request->code == 0) {
        request->code = code;
        request->frame = frame;
        return LOAD_FIRST;
    }
    return request->code == code && request->frame == frame ? LOAD_SAME : LOAD_CONFLICT;
}

void load_count_name(struct load_name names[LOAD_NAMES], const char *text, size_t len)
{
    static const char other[] = "other"; /* the last row takes whatever does not fit */
    int i = 0;

    if (len == 0 || len >= sizeof(names[0].text)) {
        text = other;
        len = strlen(other);
    }
    while (i < LOAD_NAMES - 1 && names[i].count > 0 && (strlen(names[i].text) != len || memcmp(names[i].text, text, len) != 0))
        i++;
    if (i == LOAD_NAMES - 1)
        gf_copy(names[i].text, sizeof(names[i].text), other);
    else if (names[i].count == 0) {
        memcpy(names[i].text, text, len);
        names[i].text[len] = '\0';
    }
    names[i].count++;
}

void load_violate(struct load_report *report, enum load_violation violation, const struct gf_uuid *id, const char *detail)
{
    static const char *const names[] = {
#define LOAD_VIOLATION_KEY(name, key, text) key,
        LOAD_VIOLATION_MAP(LOAD_VIOLATION_KEY)};
    char text[GF_UUID_TEXT + 1] = "-";

    GF_ASSERT(violation < LOAD_V_COUNT);
    report->violations[violation]++;
    if (report->example_count == LOAD_EXAMPLES)
        return;
    if (id)
        gf_uuid_format(id, text);
    snprintf(report->examples[report->example_count++], sizeof(report->examples[0]), "%s %s %.80s", names[violation], text, detail);
}

int64_t load_violations(const struct load_report *report)
{
    int64_t sum = 0;

    for (int i = 0; i < LOAD_V_COUNT; i++)
        sum += report->violations[i];
    return sum;
}
