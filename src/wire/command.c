/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow.commands: fingerprint text, key check, encoder and the strict decoder, which allocates nothing.
 * A gift in the encoder's own spelling is read by command_fast.c. For all others the decoder walks the record once with a small JSON scanner (scan.h), notes the fields that version 1 knows and judges
 * afterwards, so that the reason of a bad record does not depend on the order of its fields. Thread-safe: no state. */
#include "gf/command.h"

#include <stdio.h>
#include <string.h>

#include "command_fast.h"
#include "gf/hash.h"
#include "gf/num.h"
#include "scan.h"

#define DETAIL_SIZE 96

enum field { F_V, F_TYPE, F_REQUEST_ID, F_USER_ID, F_RECEIVER_ID, F_ROOM_ID, F_GIFT_ID, F_PRICE, F_QUANTITY, F_GIFT_TYPE,
             F_KIND, F_TS, F_COUNT };

/* In the encoder's order: the decoder first looks at the field after the one it saw last. */
static const struct {
    const char *name;
    size_t len;
    bool text;
    bool gift, credit; /* who has it */
    int64_t min, max;
} fields[F_COUNT] = {
#define FIELD(field, name_, text_, gift_, credit_, min_, max_) \
    [field] = {.name = name_, .len = sizeof(name_) - 1, .text = text_, .gift = gift_, .credit = credit_, .min = min_, .max = max_}
    FIELD(F_V, "v", false, true, true, 1, 1),
    FIELD(F_TYPE, "type", true, true, true, 0, 0),
    FIELD(F_REQUEST_ID, "request_id", true, true, true, 0, 0),
    FIELD(F_USER_ID, "user_id", false, true, true, 1, GF_ID_MAX),
    FIELD(F_RECEIVER_ID, "receiver_id", false, true, false, 1, GF_ID_MAX),
    FIELD(F_ROOM_ID, "room_id", false, true, false, 1, GF_ID_MAX),
    FIELD(F_GIFT_ID, "gift_id", false, true, false, 1, INT32_MAX),
    FIELD(F_PRICE, "price", false, true, false, INT64_MIN, INT64_MAX),           /* judged by settlement */
    FIELD(F_QUANTITY, "quantity", false, true, false, INT32_MIN, INT32_MAX),     /* judged by settlement */
    FIELD(F_GIFT_TYPE, "gift_type", false, true, false, 0, INT8_MAX),
    FIELD(F_KIND, "kind", true, false, true, 0, 0),
    FIELD(F_TS, "ts", false, true, true, 0, GF_ID_MAX),
#undef FIELD
};

struct record {
    struct gf_scan_value values[F_COUNT];
    unsigned seen, doubled; /* bit per field */
    bool unknown;           /* a field that version 1 does not know */
};

const char *gf_kind_text(enum gf_kind kind)
{
    switch (kind) {
    case GF_KIND_GIFT:
        return "gift";
    case GF_KIND_RECHARGE:
        return "recharge";
    case GF_KIND_ADJUST:
        return "adjust";
    case GF_KIND_GIFT_REFUND:
        return "gift_refund";
    case GF_KIND_CHARGEBACK:
        return "chargeback";
    }
    return "unknown";
}

static bool is(const struct gf_scan_value *value, const char *text)
{
    return value->token == GF_SCAN_STRING && !value->escaped && value->len == strlen(text) &&
           memcmp(value->text, text, value->len) == 0;
}

static int field_of(const struct gf_scan_value *key, int last)
{
    int next = (last + 1) % F_COUNT;

    if (key->escaped)
        return -1; /* our names need no escapes: \u0076 is not v */
    if (key->len == fields[next].len && memcmp(key->text, fields[next].name, key->len) == 0)
        return next;
    for (int i = 0; i < F_COUNT; i++)
        if (key->len == fields[i].len && memcmp(key->text, fields[i].name, key->len) == 0)
            return i;
    return -1;
}

/* False: not one JSON object with nothing after it. */
static bool read_record(struct gf_scan *scan, struct record *record)
{
    struct gf_scan_value key, value;
    int last = F_COUNT - 1;

    record->seen = record->doubled = 0;
    record->unknown = false;
    if (!gf_scan_object_begin(scan))
        return false;
    while (gf_scan_object_next(scan, &key, &value)) {
        int field = field_of(&key, last);

        if (field < 0) {
            record->unknown = true;
            continue;
        }
        if (record->seen & 1u << field)
            record->doubled |= 1u << field;
        record->seen |= 1u << field;
        record->values[field] = value;
        last = field;
    }
    return gf_scan_end(scan);
}

static bool once(const struct record *record, enum field field)
{
    return (record->seen & ~record->doubled) >> field & 1u;
}

/* A number in its range, given once. */
static bool number(const struct record *record, enum field field, int64_t *value_r)
{
    const struct gf_scan_value *value = &record->values[field];

    if (!once(record, field) || value->token != GF_SCAN_INTEGER || value->i64 < fields[field].min ||
        value->i64 > fields[field].max)
        return false;
    *value_r = value->i64;
    return true;
}

static bool request_id(const struct record *record, struct gf_uuid *id_r)
{
    const struct gf_scan_value *value = &record->values[F_REQUEST_ID];

    return once(record, F_REQUEST_ID) && value->token == GF_SCAN_STRING && !value->escaped &&
           gf_uuid_parse(value->text, value->len, id_r);
}

static bool credit_kind(const struct record *record, enum gf_kind *kind_r)
{
    if (!once(record, F_KIND))
        return false;
    for (enum gf_kind kind = GF_KIND_RECHARGE; kind <= GF_KIND_CHARGEBACK; kind++) {
        if (is(&record->values[F_KIND], gf_kind_text(kind))) {
            *kind_r = kind;
            return true;
        }
    }
    return false;
}

static enum gf_dead dead(enum gf_dead reason, char *detail_r, const char *what, const char *name)
{
    if (detail_r)
        snprintf(detail_r, DETAIL_SIZE, "%s%s%s", name, name[0] ? ": " : "", what);
    return reason;
}

/* Presence, number and range of every field; what the record has and what its type may have must be the same set. */
static enum gf_dead check_fields(const struct record *record, bool gift, char *detail_r)
{
    if (record->unknown)
        return dead(GF_DEAD_FIELD, detail_r, "a field that version 1 does not know", "");
    for (int i = 0; i < F_COUNT; i++) {
        bool wanted = gift ? fields[i].gift : fields[i].credit;
        const struct gf_scan_value *value = &record->values[i];

        if (record->doubled >> i & 1u)
            return dead(GF_DEAD_FIELD, detail_r, "given twice", fields[i].name);
        if (wanted != (record->seen >> i & 1u))
            return dead(GF_DEAD_FIELD, detail_r, wanted ? "missing" : "not a field of this type", fields[i].name);
        if (!wanted)
            continue;
        if (fields[i].text && value->token != GF_SCAN_STRING)
            return dead(GF_DEAD_FIELD, detail_r, "not a string", fields[i].name);
        if (!fields[i].text && value->token != GF_SCAN_INTEGER)
            return dead(GF_DEAD_FIELD, detail_r, value->token == GF_SCAN_HUGE ? "out of range" : "not an integer",
                        fields[i].name);
        if (!fields[i].text && (value->i64 < fields[i].min || value->i64 > fields[i].max))
            return dead(GF_DEAD_FIELD, detail_r, "out of range", fields[i].name);
    }
    return GF_DEAD_NONE;
}

/* The order of the reasons is the order of GF_DEAD_MAP. */
static enum gf_dead judge(const struct record *record, struct gf_command *command, char *detail_r)
{
    const struct gf_scan_value *type = &record->values[F_TYPE];
    enum gf_dead reason;
    bool gift;
    int64_t version;

    if (!number(record, F_V, &version))
        return dead(GF_DEAD_VERSION, detail_r, "not 1", "v");
    gift = once(record, F_TYPE) && is(type, "gift");
    if (!gift && !(once(record, F_TYPE) && is(type, "credit")))
        return dead(GF_DEAD_TYPE, detail_r, "neither gift nor credit", "type");
    reason = check_fields(record, gift, detail_r);
    if (reason != GF_DEAD_NONE)
        return reason;
    if (!gift && !credit_kind(record, &command->kind))
        return dead(GF_DEAD_FIELD, detail_r, "not a kind of credit", "kind");
    if (!request_id(record, &command->request_id))
        return dead(GF_DEAD_FIELD, detail_r, "not a canonical UUID", "request_id");
    if ((gf_uuid_version(&command->request_id) == 8) == gift)
        return dead(GF_DEAD_ID_VERSION, detail_r, gift ? "version 8 is for credits" : "not version 8", "request_id");
    return GF_DEAD_NONE;
}

/* All that judge() has checked. */
static void fill(const struct record *record, struct gf_command *command)
{
    command->user_id = record->values[F_USER_ID].i64;
    command->ts_ms = record->values[F_TS].i64;
    if (command->kind != GF_KIND_GIFT)
        return;
    command->receiver_id = record->values[F_RECEIVER_ID].i64;
    command->room_id = record->values[F_ROOM_ID].i64;
    command->gift_id = (int32_t)record->values[F_GIFT_ID].i64;
    command->price = record->values[F_PRICE].i64;
    command->quantity = (int32_t)record->values[F_QUANTITY].i64;
    command->gift_type = (int32_t)record->values[F_GIFT_TYPE].i64;
}

/* A bad record whose sender and id can be read still gets an outcome (F1); with its room, so that the sender hears of it. */
static void fill_dead(const struct record *record, struct gf_command *command)
{
    struct gf_command known = {.off = command->off,
                               .append_ms = command->append_ms,
                               .dead = command->dead,
                               .kind = command->kind};

    known.readable = request_id(record, &known.request_id) && number(record, F_USER_ID, &known.user_id);
    if (known.readable && known.kind == GF_KIND_GIFT && !number(record, F_ROOM_ID, &known.room_id))
        known.room_id = 0;
    if (!known.readable) {
        known.request_id = (struct gf_uuid){{0}};
        known.user_id = 0;
    }
    *command = known;
}

void gf_command_decode(const char *value, size_t len, struct gf_command *command_r, char *detail_r)
{
    struct gf_scan scan;
    struct record record;

    if (detail_r)
        detail_r[0] = 0;
    if (value && len <= GF_COMMAND_MAX && gf_command_decode_fast(value, len, command_r))
        return;
    *command_r = (struct gf_command){.kind = GF_KIND_GIFT, .off = command_r->off, .append_ms = command_r->append_ms};
    if (!value || len == 0) {
        command_r->dead = dead(GF_DEAD_EMPTY, detail_r, "no value", "");
        return;
    }
    if (len > GF_COMMAND_MAX) {
        command_r->dead = dead(GF_DEAD_TOO_LARGE, detail_r, "more than 4096 bytes", "");
        return;
    }
    gf_scan_begin(&scan, value, len);
    if (!read_record(&scan, &record)) {
        command_r->dead = GF_DEAD_NOT_JSON;
        if (detail_r)
            snprintf(detail_r, DETAIL_SIZE, "at byte %zu: %s", gf_scan_at(&scan), scan.error);
        return;
    }
    command_r->dead = judge(&record, command_r, detail_r);
    if (command_r->dead != GF_DEAD_NONE) {
        fill_dead(&record, command_r);
        return;
    }
    command_r->readable = true;
    fill(&record, command_r);
}

void gf_command_check_key(struct gf_command *command, const char *key, size_t key_len, int32_t partition, int32_t partitions)
{
    int64_t owner;

    GF_ASSERT(partitions > 0 && partition >= 0 && partition < partitions);
    if (command->dead != GF_DEAD_NONE)
        return; /* the first reason stands */
    GF_ASSERT(gf_id_valid(command->user_id));
    if (!key || !gf_num_parse_i64(key, key_len, 1, GF_ID_MAX, &owner) || owner != command->user_id)
        command->dead = GF_DEAD_KEY;
    else if (gf_kafka_partition(key, key_len, partitions) != partition)
        command->dead = GF_DEAD_PARTITION;
}

void gf_command_encode(const struct gf_command *command, struct gf_buf *out)
{
    bool gift = command->kind == GF_KIND_GIFT;

    GF_ASSERT(command->dead == GF_DEAD_NONE);
    GF_ASSERT(gf_id_valid(command->user_id));
    GF_ASSERT((gf_uuid_version(&command->request_id) == 8) == !gift);
    gf_buf_adds(out, gift ? "{\"v\":1,\"type\":\"gift\",\"request_id\":\"" : "{\"v\":1,\"type\":\"credit\",\"request_id\":\"");
    gf_buf_add_uuid(out, &command->request_id);
    gf_buf_add_field(out, "\",\"user_id\":", command->user_id);
    if (gift) {
        gf_buf_add_field(out, ",\"receiver_id\":", command->receiver_id);
        gf_buf_add_field(out, ",\"room_id\":", command->room_id);
        gf_buf_add_field(out, ",\"gift_id\":", command->gift_id);
        gf_buf_add_field(out, ",\"price\":", command->price);
        gf_buf_add_field(out, ",\"quantity\":", command->quantity);
        gf_buf_add_field(out, ",\"gift_type\":", command->gift_type);
    } else {
        gf_buf_adds(out, ",\"kind\":\"");
        gf_buf_adds(out, gf_kind_text(command->kind));
        gf_buf_addc(out, '"');
    }
    gf_buf_add_field(out, ",\"ts\":", command->ts_ms);
    gf_buf_addc(out, '}');
}

/* By hand: snprintf would cost more than decoding the record did. Six numbers of at most 20 characters fit. */
size_t gf_command_fp_text(const struct gf_command *command, char text_r[160])
{
    bool gift = command->kind == GF_KIND_GIFT;
    const int64_t values[] = {command->user_id, gift ? command->room_id : (int64_t)command->kind, command->receiver_id,
                              command->gift_id, command->quantity, command->gift_type};
    size_t count = gift ? GF_COUNT(values) : 2;
    char *at = gift ? mempcpy(text_r, "/v1/gifts", 9) : mempcpy(text_r, "credit", 6);

    for (size_t i = 0; i < count; i++) {
        *at++ = ',';
        at = gf_num_put(at, values[i]);
    }
    *at = '\0';
    GF_ASSERT(at - text_r < 160);
    return (size_t)(at - text_r);
}
