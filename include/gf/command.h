/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* giftflow.commands, version 1 (schemas/command.schema.json): decoded form, decoder, encoder, fingerprint. */
#include "gf/buf.h"
#include "gf/outcome.h"
#include "gf/uuid.h"

enum gf_kind { GF_KIND_GIFT = 1, GF_KIND_RECHARGE, GF_KIND_ADJUST, GF_KIND_GIFT_REFUND, GF_KIND_CHARGEBACK };
const char *gf_kind_text(enum gf_kind kind); /* gift, recharge, adjust, gift_refund, chargeback */

#define GF_COMMAND_MAX 4096 /* bytes of one record's value */

struct gf_command {
    int64_t off;       /* Kafka offset */
    int64_t append_ms; /* broker's append time */
    enum gf_dead dead; /* != NONE: not a command; only what `readable` says is filled in */
    bool readable;     /* request_id and user_id are known (F1: such a dead letter still gets a trade row) */
    bool exact;        /* gf_command_encode writes the value byte for byte; false: it may or may not */
    enum gf_kind kind;
    struct gf_uuid request_id;
    int64_t user_id, receiver_id, room_id; /* credits: receiver and room are 0 */
    int64_t price;
    int64_t ts_ms; /* the producer's, informative only */
    int32_t gift_id, quantity, gift_type;
    uint8_t fp[8];
};

/* Decodes one record's value, strictly (unknown or doubled fields, wrong types, trailing bytes are dead letters).
 * Checks the shape only; key and partition are the caller's (gf_command_check_key). fp is not filled in.
 * Never fails operationally: what is wrong ends in command_r->dead. `detail_r` (size >= 96, may be NULL) says where. */
void gf_command_decode(const char *value, size_t len, struct gf_command *command_r, char *detail_r);
/* Sets dead = KEY or PARTITION when the key is not the user id or the partition is not murmur2's. */
void gf_command_check_key(struct gf_command *command, const char *key, size_t key_len, int32_t partition, int32_t partitions);
void gf_command_encode(const struct gf_command *command, struct gf_buf *out);
/* Canonical text whose SHA-256 prefix is the fingerprint: "/v1/gifts,<user>,<room>,<receiver>,<gift>,<quantity>,<type>";
 * for credits "credit,<user>,<kind number>". Returns its length (< 160). */
size_t gf_command_fp_text(const struct gf_command *command, char text_r[160]);
