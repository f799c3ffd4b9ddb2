/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters for people. What came from outside is never written to the terminal as it is, unless it is plain text: anybody
 * may have produced it. */
#include <inttypes.h>
#include <stdio.h>

#include "dlq.h"

#define ROW "%-14s %-9s %-21s %-18s %-18.18s %-9s %s\n"
#define PER_LINE 16

static bool is_plain(const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((bytes[i] < 0x20 || bytes[i] > 0x7e) && bytes[i] != '\n' && bytes[i] != '\t')
            return false;
    return true;
}

/* One line of at most size - 1 characters, with dots for what does not print. */
static const char *one_line(const char *bytes, size_t len, char *text_r, size_t size)
{
    size_t n = len < size - 1 ? len : size - 1;

    if (bytes == NULL)
        return "-";
    for (size_t i = 0; i < n; i++)
        text_r[i] = bytes[i] < 0x20 || bytes[i] > 0x7e ? '.' : bytes[i];
    text_r[n] = '\0';
    return text_r;
}

void gf_dlq_print_head(const struct dlq *dlq)
{
    (void)dlq;
    printf(ROW, "LETTER", "STATE", "RECORDED", "REASON", "KEY", "OUTCOME", "DETAIL");
}

void gf_dlq_print_row(const struct gf_letter *letter)
{
    char id[48], time[32], key[32], detail[128];

    snprintf(id, sizeof(id), "%" PRId64 "-%" PRId64, letter->id.log, letter->id.off);
    gf_dlq_format_time(letter->ts_ms, time);
    printf(ROW, id, gf_letter_state_text(letter->state), time, gf_dead_text(letter->reason),
           one_line(letter->key, letter->key_len, key, sizeof(key)), letter->has_trade ? "recorded" : "none",
           one_line(letter->detail, letter->detail_len, detail, sizeof(detail)));
}

static void print_dump(const char *bytes, size_t len)
{
    for (size_t at = 0; at < len; at += PER_LINE) {
        char text[PER_LINE + 1];
        size_t n = len - at < PER_LINE ? len - at : PER_LINE;

        printf("    %08zx ", at);
        for (size_t i = 0; i < PER_LINE; i++) {
            if (i < n)
                printf(" %02x", (unsigned)(unsigned char)bytes[at + i]);
            else
                printf("   ");
        }
        printf("  |%s|\n", one_line(bytes + at, n, text, sizeof(text)));
    }
}

static void print_bytes(const char *name, const char *bytes, size_t len, int64_t whole)
{
    if (bytes == NULL) {
        printf("  %-10s none\n", name);
        return;
    }
    printf("  %-10s %" PRId64 " bytes\n", name, whole);
    if (is_plain(bytes, len))
        printf("    %.*s\n", (int)len, bytes);
    else
        print_dump(bytes, len);
}

static void print_verdict(const struct gf_verdict *verdict)
{
    switch (verdict->replay) {
    case GF_REPLAY_YES:
        printf("  %-10s yes, with key %.*s\n", "replay", (int)verdict->key_len, verdict->key);
        return;
    case GF_REPLAY_FORCED:
        printf("  %-10s only with --force: %s\n", "replay", verdict->why);
        return;
    case GF_REPLAY_NEVER:
        printf("  %-10s no: %s\n", "replay", verdict->why);
        return;
    }
}

void gf_dlq_print_letter(const struct gf_letter *letter, const struct gf_verdict *verdict)
{
    char text[300], time[32], id[GF_UUID_TEXT + 1];

    gf_dlq_format_time(letter->ts_ms, time);
    printf("dead letter %" PRId64 "-%" PRId64 "\n", letter->id.log, letter->id.off);
    printf("  %-10s %s\n  %-10s %s\n", "state", gf_letter_state_text(letter->state), "recorded", time);
    printf("  %-10s %s: %s\n", "reason", gf_dead_text(letter->reason), gf_dead_message(letter->reason));
    printf("  %-10s %s\n", "detail", one_line(letter->detail, letter->detail_len, text, sizeof(text)));
    printf("  %-10s topic %s, partition %" PRId64 ", offset %" PRId64 ", incarnation %" PRId64 "\n", "origin",
           one_line(letter->topic, letter->topic_len, text, sizeof(text)), letter->partition, letter->id.off, letter->incarnation);
    if (letter->has_trade) {
        gf_uuid_format(&letter->trade_request, id);
        printf("  %-10s recorded as internal_error: request %s of user %" PRId64 "\n", "outcome", id, letter->trade_user);
    } else {
        printf("  %-10s none\n", "outcome");
    }
    print_verdict(verdict);
    print_bytes("key", letter->key, letter->key_len, (int64_t)letter->key_len);
    print_bytes("value", letter->payload, letter->payload_len, letter->payload_bytes);
}
