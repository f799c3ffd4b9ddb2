/* SPDX-License-Identifier: Apache-2.0 */
/* The command decoder against jansson on mutated records: the same bytes are JSON to both or to neither, and what is
 * accepted has the values that jansson reads and is encoded and decoded to itself. A space in front takes a record past the fast path of
 * the encoder's own spelling: both ways must say the same; what took that path is encoded to the very bytes. Prints its seed;
 * `test_command_fuzz SEED [RECORDS]` repeats a run. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"

#define RECORDS 400000

static uint64_t state;
static int differences, accepted, exact_ones, json;

static uint64_t next(void)
{
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(size_t n)
{
    return (size_t)(next() % n);
}

static const char *const seeds[] = {
    ("{\"v\":1,\"type\":\"gift\",\"request_id\":\"018f6f2e-7b1c-7c3a-9d2e-0123456789ab\",\"user_id\":1,\"receiver_id\":2,"
     "\"room_id\":3,\"gift_id\":22,\"price\":90,\"quantity\":1,\"gift_type\":0,\"ts\":1714000000000}"),
    "{\"v\":1,\"type\":\"credit\",\"request_id\":\"018f6f2e-7b1c-8c3a-9d2e-0123456789ab\",\"user_id\":1,\"kind\":\"adjust\",\"ts\":5}",
    "{\"v\":2,\"a\":[1,-2.5e+3,true,false,null,\"\\ud83d\\ude00 \\u20ac \xe2\x82\xac\",{\"b\":{}}],\"v\":1}",
};
static const char *const pieces[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u0041", "\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00", "0", "-", "-0", "1e5", ".5", "1.0",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "null", "true", "false", " ", "\n", "\xc3\xa9", "\xff", "\xed\xa0\x80",
    "\xf0\x9f\x98\x80", "\"v\":1", "\"v\":1,", "\"price\":7,", ",\"x\":[[]]", "\"\"", "\t", "\x7f", "\x01", "E-2", "1E400",
};

#define TEXT_MAX 1024

struct span {
    size_t at, len;
};

/* Puts a piece in the place of a span; nothing changes when there is no room. */
static size_t splice(char *text, size_t len, struct span cut, const char *piece)
{
    size_t add = strlen(piece);

    if (len - cut.len + add > TEXT_MAX)
        return len;
    memmove(text + cut.at + add, text + cut.at + cut.len, len - cut.at - cut.len);
    memcpy(text + cut.at, piece, add);
    return len - cut.len + add;
}

/* One of the members "name":value of a flat object without commas in its strings; false when there is none. */
static bool some_member(const char *text, size_t len, struct span *span_r)
{
    struct span members[16];
    size_t count = 0, from = 1;

    for (size_t i = 1; i < len && count < GF_COUNT(members); i++) {
        if (text[i] != ',' && text[i] != '}')
            continue;
        members[count++] = (struct span){.at = from, .len = i - from};
        from = i + 1;
    }
    if (count == 0)
        return false;
    *span_r = members[below(count)];
    return true;
}

static const char *const numbers[] = {
    "0", "00", "01", "-0", "-1", "7", "127", "128", "2147483647", "2147483648", "-2147483648", "12345678", "123456789", "1234567:", "1234567/",
    "9007199254740991", "9007199254740992", "99999999999999999", "999999999999999999", "1000000000000000000", "9223372036854775807",
    "9223372036854775808", "18446744073709551616", "18446744073709551617", "00000001", "100000000000000000000000000001", "1e0", "1.0", "12 ", " 12",
    "\"12\"", "",
};
static const char *const ids[] = {
    "018F6F2E-7B1C-7C3A-9D2E-0123456789AB", "018f6f2e-7b1c-8c3a-9d2e-0123456789ab", "018f6f2e-7b1c-4c3a-9d2e-0123456789aB",
    "00000000-0000-0000-0000-000000000000", "018f6f2e-7b1c-7c3a-9d2e-0123456789a", "018f6f2e-7b1c-7c3a-9d2e-0123456789abc",
    "018f6f2e-7b1c-7c3a-9d2e-0123456789ag", "018f6f2e-7b1c-7c3a-9d2e_0123456789ab", "018f6f2e7b1c-7c3a-9d2e-00123456789ab", "\\u0030018f6f2e-7b1c-7c3a-9d2e-012345",
};

/* Near the encoder's own spelling: members that change places, come twice or are gone, other numbers and ids, spaces, a cut end. */
static size_t mutate_members(char *text, size_t len)
{
    char member[256], *at;
    struct span span;
    size_t name;

    if (!some_member(text, len, &span) || span.len >= sizeof(member) - 2)
        return len;
    memcpy(member, text + span.at, span.len);
    member[span.len] = '\0';
    at = strchr(member, ':');
    name = at != NULL ? (size_t)(at - member) + 1 : span.len;
    switch (below(7)) {
    case 0: /* to the front */
        len = splice(text, len, (struct span){span.at, span.len + (text[span.at + span.len] == ',')}, "");
        member[span.len] = ',', member[span.len + 1] = '\0';
        return splice(text, len, (struct span){1, 0}, member);
    case 1: /* twice */
        member[span.len] = ',', member[span.len + 1] = '\0';
        return splice(text, len, (struct span){span.at, 0}, member);
    case 2:
        return splice(text, len, (struct span){span.at, span.len + below(2)}, "");
    case 3:
        return splice(text, len, (struct span){span.at + below(span.len + 1), 0}, below(2) ? " " : "\t");
    case 4:
        at = strchr(member, '-');
        if (at != NULL && span.len - name == 38)
            return splice(text, len, (struct span){span.at + name + 1, 36}, ids[below(GF_COUNT(ids))]);
        return splice(text, len, (struct span){span.at + name, span.len - name}, numbers[below(GF_COUNT(numbers))]);
    case 5:
        return splice(text, len, (struct span){span.at + name, span.len - name}, numbers[below(GF_COUNT(numbers))]);
    default:
        return below(len + 1);
    }
}

static size_t mutate(char *text, size_t len)
{
    size_t count = 1 + below(3);

    for (size_t i = 0; i < count; i++) {
        size_t at = below(len + 1);
        size_t cut = below(4) == 0 && at < len ? 1 + below(len - at < 12 ? len - at : 12) : 0;
        const char *piece = below(4) == 0 ? "" : pieces[below(GF_COUNT(pieces))];

        len = splice(text, len, (struct span){at, cut}, piece);
        if (len > 0 && below(4) == 0)
            text[below(len)] = (char)next();
    }
    return len;
}

static void differ(const char *what, const char *text, size_t len, const char *detail)
{
    differences++;
    fprintf(stderr, "%s: %.*s (%s)\n", what, (int)len, text, detail);
}

static bool same_number(json_t *object, const char *name, int64_t value)
{
    json_t *field = json_object_get(object, name);

    return json_is_integer(field) && json_integer_value(field) == value;
}

static bool same_values(json_t *object, const struct gf_command *c)
{
    bool gift = c->kind == GF_KIND_GIFT;
    const char *type = json_string_value(json_object_get(object, "type"));
    const char *id = json_string_value(json_object_get(object, "request_id"));
    struct gf_uuid parsed;

    if (!type || strcmp(type, gift ? "gift" : "credit") != 0 || json_object_size(object) != (gift ? 11u : 6u))
        return false;
    if (!id || !gf_uuid_parse(id, strlen(id), &parsed) || gf_uuid_compare(&parsed, &c->request_id) != 0)
        return false;
    if (!same_number(object, "v", 1) || !same_number(object, "user_id", c->user_id) || !same_number(object, "ts", c->ts_ms))
        return false;
    if (!gift)
        return strcmp(json_string_value(json_object_get(object, "kind")), gf_kind_text(c->kind)) == 0;
    return same_number(object, "receiver_id", c->receiver_id) && same_number(object, "room_id", c->room_id) &&
           same_number(object, "gift_id", c->gift_id) && same_number(object, "price", c->price) &&
           same_number(object, "quantity", c->quantity) && same_number(object, "gift_type", c->gift_type);
}

static bool same_again(const struct gf_command *command, struct gf_buf *buf)
{
    struct gf_command again = {.off = command->off, .append_ms = command->append_ms};

    gf_buf_reset(buf);
    gf_command_encode(command, buf);
    gf_command_decode(buf->data, buf->len, &again, NULL);
    return gf_buf_ok(buf) && again.dead == GF_DEAD_NONE && again.kind == command->kind && again.user_id == command->user_id &&
           again.price == command->price && again.quantity == command->quantity && again.ts_ms == command->ts_ms &&
           gf_uuid_compare(&again.request_id, &command->request_id) == 0;
}

/* Whoever has the command has the record's bytes. */
static bool is_exact(const struct gf_command *command, const char *text, size_t len, struct gf_buf *buf)
{
    gf_buf_reset(buf);
    gf_command_encode(command, buf);
    return buf->len == len && memcmp(buf->data, text, len) == 0;
}

/* What the strict decoder alone says. */
static bool same_without_fast_path(const char *text, size_t len, const struct gf_command *command)
{
    struct gf_command strict = {.off = command->off};
    char *copy = gf_xmalloc(len + 1);
    bool same;

    copy[0] = ' ';
    memcpy(copy + 1, text, len);
    gf_command_decode(copy, len + 1, &strict, NULL);
    free(copy);
    same = strict.dead == command->dead && strict.readable == command->readable && strict.kind == command->kind &&
           strict.user_id == command->user_id && strict.receiver_id == command->receiver_id && strict.room_id == command->room_id;
    return same && strict.price == command->price && strict.ts_ms == command->ts_ms && strict.gift_id == command->gift_id &&
           strict.quantity == command->quantity && strict.gift_type == command->gift_type &&
           gf_uuid_compare(&strict.request_id, &command->request_id) == 0;
}

static void one(const char *text, size_t len, struct gf_buf *buf)
{
    struct gf_command command = {.off = 1};
    char detail[96];
    json_error_t error;
    json_t *any = json_loadb(text, len, 0, &error); /* doubled fields are JSON; ours judges them as fields */
    bool overflow = !any && json_error_code(&error) == json_error_numeric_overflow;
    json_t *strict = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    bool is_json = json_is_object(any) && !memchr(text, 0, len); /* jansson 2.14 swallows a NUL byte after a number */

    gf_command_decode(text, len, &command, detail);
    if (len == 0) {
        if (command.dead != GF_DEAD_EMPTY)
            differ("an empty record is not EMPTY", text, len, detail);
    } else if (!overflow && strstr(detail, "nested too deeply") == NULL && (command.dead != GF_DEAD_NOT_JSON) != is_json) {
        differ(is_json ? "only jansson takes it for JSON" : "only jansson refuses it", text, len, is_json ? detail : error.text);
    }
    if (len > 0 && !same_without_fast_path(text, len, &command))
        differ("a space in front changes what it means", text, len, detail);
    if (command.dead == GF_DEAD_NONE && !(strict && same_values(strict, &command)))
        differ("accepted with other values than jansson reads", text, len, "");
    if (command.dead == GF_DEAD_NONE && !same_again(&command, buf))
        differ("not encoded to itself", text, len, "");
    if (command.exact && (command.dead != GF_DEAD_NONE || !is_exact(&command, text, len, buf)))
        differ("said to be exact, and is not", text, len, "");
    exact_ones += command.exact;
    if (overflow && command.dead == GF_DEAD_NONE)
        differ("a number beyond int64 was accepted", text, len, "");
    accepted += command.dead == GF_DEAD_NONE;
    json += is_json;
    json_decref(any);
    json_decref(strict);
}

int main(int argc, char **argv)
{
    uint64_t seed;
    int records = argc > 2 ? (int)strtol(argv[2], NULL, 10) : RECORDS;
    struct gf_buf buf;

    gf_random_bytes(&seed, sizeof(seed));
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    state = seed;
    printf("seed %" PRIu64 "\n", seed);
    gf_buf_init(&buf, GF_COMMAND_MAX);
    for (int i = 0; i < records && differences < 10; i++) {
        char text[TEXT_MAX];
        const char *from = seeds[below(GF_COUNT(seeds))];
        size_t len = strlen(from);
        char *exact;

        memcpy(text, from, len);
        for (size_t changes = below(3); changes > 0; changes--)
            len = mutate_members(text, len);
        if (below(2) == 0)
            len = mutate(text, len);
        exact = gf_xmalloc(len ? len : 1); /* a read past the end is seen by the sanitizer */
        memcpy(exact, text, len);
        one(exact, len, &buf);
        free(exact);
    }
    gf_buf_free(&buf);
    printf("%d records, %d of them JSON, %d accepted, %d exact, %d differences\n", records, json, accepted, exact_ones, differences);
    if (argc <= 2 && (accepted < records / 100 || exact_ones < records / 100 || json < records / 20)) {
        fprintf(stderr, "the mutations leave too few good records: nothing was tested\n");
        return 1;
    }
    return differences ? 1 : 0;
}
