/* SPDX-License-Identifier: Apache-2.0 */
/* One command to Kafka. Thread: the loop's. */
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/num.h"
#include "ingest.h"

#define TRACEPARENT_LEN 55

static bool lower_hex(const char *text, size_t len, bool *zero_r)
{
    *zero_r = true;
    for (size_t i = 0; i < len; i++) {
        if ((text[i] < '0' || text[i] > '9') && (text[i] < 'a' || text[i] > 'f'))
            return false;
        *zero_r = *zero_r && text[i] == '0';
    }
    return true;
}

/* W3C trace context, version 00: "00-<32 hex>-<16 hex>-<2 hex>", ids not zero. */
static bool traceparent_valid(struct gf_slice text)
{
    bool zero_trace, zero_span, zero;

    return text.len == TRACEPARENT_LEN && memcmp(text.ptr, "00-", 3) == 0 && text.ptr[35] == '-' &&
           text.ptr[52] == '-' && lower_hex(text.ptr + 3, 32, &zero_trace) && !zero_trace &&
           lower_hex(text.ptr + 36, 16, &zero_span) && !zero_span && lower_hex(text.ptr + 53, 2, &zero);
}

void gf_ingest_random(struct gf_ingest *ingest, void *bytes, size_t len)
{
    GF_ASSERT(len <= sizeof(ingest->random));
    if (ingest->random_left < len) {
        gf_random_bytes(ingest->random, sizeof(ingest->random));
        ingest->random_left = sizeof(ingest->random);
    }
    ingest->random_left -= len;
    memcpy(bytes, ingest->random + ingest->random_left, len);
}

static void traceparent_make(struct gf_ingest *ingest, char text_r[TRACEPARENT_LEN])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t random[24];

    gf_ingest_random(ingest, random, sizeof(random));
    random[0] |= 1; /* neither id may be zero */
    random[16] |= 1;
    memcpy(text_r, "00-", 3);
    for (size_t i = 0; i < sizeof(random); i++) {
        size_t at = i < 16 ? 3 + 2 * i : 36 + 2 * (i - 16);

        text_r[at] = digits[random[i] >> 4];
        text_r[at + 1] = digits[random[i] & 15];
    }
    text_r[35] = '-';
    memcpy(text_r + 52, "-01", 3);
}

enum gf_class gf_ingest_produce(struct gf_ingest *ingest, const struct gf_command *command, struct gf_slice traceparent,
                                struct gf_produced *produced)
{
    const char *type = command->kind == GF_KIND_GIFT ? "giftflow.gift" : "giftflow.credit";
    char id[GF_UUID_TEXT + 1], trace[TRACEPARENT_LEN], key[GF_NUM_TEXT];
    struct gf_kafka_header headers[] = {
        {"ce_id", id, GF_UUID_TEXT}, {"ce_type", type, strlen(type)}, {"traceparent", trace, sizeof(trace)}};
    struct gf_kafka_record record = {
        .topic = ingest->commands_topic, .key = key, .headers = headers, .header_count = GF_COUNT(headers)};

    if (!gf_pins_ok(ingest->pins))
        return GF_RETRY; /* another partition count would split a wallet's order (F4) */
    gf_uuid_format(&command->request_id, id);
    if (traceparent.ptr && traceparent_valid(traceparent))
        memcpy(trace, traceparent.ptr, sizeof(trace));
    else
        traceparent_make(ingest, trace);
    gf_buf_reset(&ingest->scratch);
    gf_command_encode(command, &ingest->scratch);
    GF_ASSERT(gf_buf_ok(&ingest->scratch));
    record.key_len = (size_t)(gf_num_put(key, command->user_id) - key);
    record.value = ingest->scratch.data;
    record.value_len = ingest->scratch.len;
    return gf_kafka_produce(ingest->producer, &record, produced, NULL) == GF_OK ? GF_OK : GF_RETRY;
}
