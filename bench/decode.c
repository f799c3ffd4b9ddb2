/* SPDX-License-Identifier: Apache-2.0 */
/* Records per second of processor time of the command decoder, beside jansson reading the same records into the same fields, on one core.
 * `giftflow-bench-decode [--json] [SECONDS]`. Rounds of both alternate, so that a noisy neighbour hits both. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/num.h"

#define RECORDS 2048
#define ROUNDS_PER_LOOK 16

struct record {
    char text[256];
    size_t len;
};
static struct record records[RECORDS];

static void make_records(void)
{
    struct gf_buf buf;
    size_t bytes = 0;

    gf_buf_init(&buf, GF_COMMAND_MAX);
    for (int i = 0; i < RECORDS; i++) {
        struct gf_command command = {.kind = GF_KIND_GIFT, .request_id = gf_uuid_v7(), .receiver_id = 20000 + i % 1000,
                                     .room_id = 1000 + i % 1000, .price = 90, .gift_id = 22, .quantity = 1 + i % 9,
                                     .ts_ms = gf_clock_real_ms()};

        command.user_id = 1000000 + INT64_C(7919) * i;
        gf_buf_reset(&buf);
        gf_command_encode(&command, &buf);
        GF_ASSERT(buf.len < sizeof(records[i].text));
        memcpy(records[i].text, buf.data, buf.len);
        records[i].len = buf.len;
        bytes += buf.len;
    }
    gf_buf_free(&buf);
    GF_ASSERT(bytes > 0);
}

static int64_t ours(void)
{
    int64_t sum = 0;

    for (int i = 0; i < RECORDS; i++) {
        struct gf_command command = {.off = i};

        gf_command_decode(records[i].text, records[i].len, &command, NULL);
        GF_ASSERT(command.dead == GF_DEAD_NONE);
        sum += command.user_id + command.quantity;
    }
    return sum;
}

/* The usual way: parse, then unpack strictly. */
static int64_t theirs(void)
{
    int64_t sum = 0;

    for (int i = 0; i < RECORDS; i++) {
        struct gf_command command = {.off = i};
        json_int_t version, user, receiver, room, gift, price, quantity, gift_type, ts;
        const char *type, *id;
        json_t *object = json_loadb(records[i].text, records[i].len, JSON_REJECT_DUPLICATES, NULL);
        int rc = json_unpack_ex(object, NULL, JSON_STRICT, "{s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "v", &version, "type", &type,
                                "request_id", &id, "user_id", &user, "receiver_id", &receiver, "room_id", &room, "gift_id", &gift,
                                "price", &price, "quantity", &quantity, "gift_type", &gift_type, "ts", &ts);
        bool good = rc == 0 && version == 1 && strcmp(type, "gift") == 0 && gf_uuid_parse(id, strlen(id), &command.request_id);

        GF_ASSERT(good);
        sum += user + quantity;
        json_decref(object);
    }
    return sum;
}

/* Processor time: what else the machine does is not the decoder's. */
static int64_t cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static double per_second(int64_t (*round_fn)(void), int64_t want, int64_t *us_r, int64_t *records_r)
{
    int64_t began = cpu_us();

    for (int i = 0; i < ROUNDS_PER_LOOK; i++) {
        int64_t sum = round_fn();

        GF_ASSERT(sum == want); /* both read the same values */
    }
    *us_r += cpu_us() - began;
    *records_r += ROUNDS_PER_LOOK * RECORDS;
    return (double)*records_r * 1e6 / (double)(*us_r > 0 ? *us_r : 1);
}

int main(int argc, char **argv)
{
    bool json = false;
    int64_t seconds = 3;
    int64_t our_us = 0, our_records = 0, their_us = 0, their_records = 0;
    double our_rate = 0, their_rate = 0;
    int64_t want;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (!gf_num_parse_i64(argv[i], strlen(argv[i]), 1, 600, &seconds)) {
            fprintf(stderr, "usage: %s [--json] [SECONDS]\n", argv[0]);
            return 2;
        }
    }
    make_records();
    want = ours();
    while (our_us + their_us < seconds * 1000000) {
        our_rate = per_second(ours, want, &our_us, &our_records);
        their_rate = per_second(theirs, want, &their_us, &their_records);
    }
    if (json)
        printf("{\"bytes\":%zu,\"decode_per_s\":%.0f,\"jansson_per_s\":%.0f,\"ratio\":%.2f}\n", records[0].len, our_rate, their_rate,
               our_rate / their_rate);
    else
        printf("%zu-byte gifts on one core: gf_command_decode %.0f/s, jansson %.0f/s, ratio %.1f\n", records[0].len, our_rate, their_rate,
               our_rate / their_rate);
    return 0;
}
