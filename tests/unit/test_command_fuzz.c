/* SPDX-License-Identifier: Apache-2.0 */
/* The command decoder against jansson on mutated records: the same bytes are JSON to both or to neither, and what is
 * accepted has the values that jansson reads and is encoded and decoded to itself. Prints its seed;
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
static int differences, accepted, json;

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

static size_t mutate(char *text, size_t len, size_t max)
{
    size_t count = 1 + below(3);

    for (size_t i = 0; i < count; i++) {
        size_t at = below(len + 1);
        size_t cut = below(4) == 0 && at < len ? 1 + below(len - at < 12 ? len - at : 12) : 0;
        const char *piece = below(4) == 0 ? "" : pieces[below(GF_COUNT(pieces))];
        size_t add = strlen(piece);

        if (len - cut + add > max)
            continue;
        memmove(text + at + add, text + at + cut, len - at - cut);
        memcpy(text + at, piece, add);
        len = len - cut + add;
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
    if (command.dead == GF_DEAD_NONE && !(strict && same_values(strict, &command)))
        differ("accepted with other values than jansson reads", text, len, "");
    if (command.dead == GF_DEAD_NONE && !same_again(&command, buf))
        differ("not encoded to itself", text, len, "");
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
        char text[1024];
        const char *from = seeds[below(GF_COUNT(seeds))];
        size_t len = strlen(from);
        char *exact;

        memcpy(text, from, len);
        len = mutate(text, len, sizeof(text));
        exact = gf_xmalloc(len ? len : 1); /* a read past the end is seen by the sanitizer */
        memcpy(exact, text, len);
        one(exact, len, &buf);
        free(exact);
    }
    gf_buf_free(&buf);
    printf("%d records, %d of them JSON, %d accepted, %d differences\n", records, json, accepted, differences);
    if (argc <= 2 && (accepted < records / 100 || json < records / 20)) {
        fprintf(stderr, "the mutations leave too few good records: nothing was tested\n");
        return 1;
    }
    return differences ? 1 : 0;
}
