/* SPDX-License-Identifier: Apache-2.0 */
/* Random good commands and notices: what is encoded is decoded to the same values. For tests/tidy/test_schemas.py:
 * `test_records --print` writes the encoded records, `test_records --decode` answers each line of stdin with the reason
 * that the decoder gives ("none" when it accepts). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/notice.h"
#include "gf/num.h"

#define RECORDS 300

static int64_t between(int64_t low, int64_t high)
{
    uint64_t bits;
    uint64_t width = (uint64_t)high - (uint64_t)low + 1; /* 0: all of int64 */

    gf_random_bytes(&bits, sizeof(bits));
    if (bits % 8 == 0)
        return bits & 8 ? low : high; /* ends matter most */
    return (int64_t)((uint64_t)low + (width ? bits % width : bits));
}

static struct gf_command random_command(void)
{
    struct gf_command c = {.readable = true, .kind = (enum gf_kind)between(GF_KIND_GIFT, GF_KIND_CHARGEBACK)};

    c.user_id = between(1, GF_ID_MAX);
    c.ts_ms = between(0, GF_ID_MAX);
    if (c.kind != GF_KIND_GIFT) {
        c.request_id = gf_uuid_v8();
        return c;
    }
    c.request_id = gf_uuid_v7();
    c.receiver_id = between(1, GF_ID_MAX);
    c.room_id = between(1, GF_ID_MAX);
    c.gift_id = (int32_t)between(1, INT32_MAX);
    c.price = between(INT64_MIN, INT64_MAX);
    c.quantity = (int32_t)between(INT32_MIN, INT32_MAX);
    c.gift_type = (int32_t)between(0, INT8_MAX);
    return c;
}

static struct gf_trade random_trade(void)
{
    struct gf_command c = random_command();
    struct gf_trade t = {.off = between(0, INT64_MAX), .user_id = c.user_id, .request_id = c.request_id, .kind = c.kind};

    t.outcome = (enum gf_outcome)(between(0, 1) ? GF_OUTCOME_SETTLED : between(1, GF_OUTCOME_CREDIT_REFUSED));
    t.balance_after = between(0, GF_ID_MAX);
    t.ts_ms = between(0, GF_ID_MAX);
    t.receiver_id = c.receiver_id;
    t.room_id = c.room_id;
    t.gift_id = c.gift_id;
    t.gift_type = c.gift_type;
    if (t.outcome == GF_OUTCOME_SETTLED) {
        t.quantity = (int32_t)between(1, 9999);
        t.price = between(1, GF_ID_MAX / 9999);
        t.amount = c.kind == GF_KIND_GIFT ? -between(1, GF_ID_MAX) : between(-GF_ID_MAX, GF_ID_MAX);
        t.debt_delta = c.kind == GF_KIND_GIFT ? 0 : between(-GF_ID_MAX, GF_ID_MAX);
    }
    return t;
}

static bool same(const struct gf_command *a, const struct gf_command *b)
{
    return a->dead == b->dead && a->readable == b->readable && a->kind == b->kind && a->user_id == b->user_id && a->ts_ms == b->ts_ms &&
           a->receiver_id == b->receiver_id && a->room_id == b->room_id && a->gift_id == b->gift_id && a->price == b->price &&
           a->quantity == b->quantity && a->gift_type == b->gift_type && gf_uuid_compare(&a->request_id, &b->request_id) == 0;
}

static bool command_survives(struct gf_buf *buf, bool print)
{
    struct gf_command c = random_command();
    struct gf_command back = {.off = c.off};

    gf_buf_reset(buf);
    gf_command_encode(&c, buf);
    gf_command_decode(buf->data, buf->len, &back, NULL);
    if (print)
        printf("command - %s\n", buf->data);
    if (!same(&c, &back))
        fprintf(stderr, "decoded to something else: %s\n", buf->data);
    return same(&c, &back);
}

static bool notice_survives(struct gf_buf *key, struct gf_buf *buf, bool print)
{
    struct gf_trade t = random_trade();
    struct gf_notice_head head;
    bool room = t.kind == GF_KIND_GIFT && t.outcome == GF_OUTCOME_SETTLED;
    bool good;

    gf_buf_reset(key);
    gf_buf_reset(buf);
    gf_notice_encode((int32_t)between(0, INT16_MAX), &t, "\"Rocket\" \\ \xe7\x81\xab\t", "https://cdn/e.svga?a=1&b=2", key, buf);
    good = gf_notice_head(buf->data, buf->len, &head) && head.room == room && head.room_id == t.room_id && head.user_id == t.user_id;
    if (!good)
        fprintf(stderr, "head is read as something else: %s\n", buf->data);
    if (print)
        printf("notice %s %s\n", key->data, buf->data);
    gf_buf_reset(key);
    gf_notice_frame(buf->data, buf->len, between(0, GF_ID_MAX), key);
    if (print)
        printf("frame - %s\n", key->data);
    return good && gf_buf_ok(key) && gf_buf_ok(buf);
}

static int decode_lines(void)
{
    char line[GF_COMMAND_MAX];

    while (fgets(line, sizeof(line), stdin)) {
        struct gf_command c = {.off = 1};

        gf_command_decode(line, strcspn(line, "\n"), &c, NULL);
        printf("%s %d\n", gf_dead_text(c.dead), c.readable);
    }
    return 0;
}

int main(int argc, char **argv)
{
    bool print = argc > 1 && strcmp(argv[1], "--print") == 0;
    struct gf_buf key, buf;
    int bad = 0;

    if (argc > 1 && strcmp(argv[1], "--decode") == 0)
        return decode_lines();
    gf_buf_init(&key, GF_NOTICE_MAX + 64);
    gf_buf_init(&buf, GF_NOTICE_MAX);
    for (int i = 0; i < RECORDS; i++) {
        bad += !command_survives(&buf, print);
        bad += !notice_survives(&key, &buf, print);
    }
    gf_buf_free(&key);
    gf_buf_free(&buf);
    return bad ? 1 : 0;
}
