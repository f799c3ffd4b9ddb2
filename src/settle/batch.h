/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The records taken from one partition and what one settlement transaction makes of a window of them: decoded commands,
 * who is a duplicate of whom, the wallets and credits they name, the plan. Plain memory: no I/O.
 * batch_add takes over the Kafka messages and gives them back at once, but for those that are too long to be copied: at
 * batch_release. All arrays are allocated once, for `max` records; what no window needs is never touched.
 * Thread: the lane's. */
#include "gf/crypto.h"
#include "gf/kafka.h"
#include "gf/plan.h"

#define BATCH_DETAIL 96 /* gf_command_decode's */
#define BATCH_FP 8

#define BATCH_BLOCK (256u << 10)
#define BATCH_BLOCKS_MAX 32
#define BATCH_PIECE 512 /* records taken from Kafka at once */

/* What becomes of a record of the window. */
enum fate {
    FATE_PLAN,      /* judged by the plan; leaves a trade row unless the plan says otherwise */
    FATE_DUPLICATE, /* same id, same content as one before: counted, its hold released, nothing else (F1) */
    FATE_DEAD,      /* dead letter without a trade row: id unknown, or its row stands already */
};

/* What its command does not tell of a record. */
struct kept {
    struct gf_kafka_message message; /* key and value are copies; native: of one too long to be copied they are Kafka's */
    const char *detail;              /* what is wrong with a dead one; NULL: no more than its reason says */
};

/* Open addressing over (request_id, user_id); for ids of credits, over the content too. */
struct pair_slot {
    int32_t record; /* index in the window of the first record with this pair, plus 1; 0: free */
    int32_t known;  /* index in known_fps of its row in `trade`, plus 1; 0: there is none */
};

struct batch_user { /* sorted by user, then by record */
    int64_t user_id;
    int32_t record; /* of the window */
};

struct batch {
    int max;
    int32_t partition;
    struct gf_sha256_ctx *sha;

    struct gf_kafka_message piece[BATCH_PIECE]; /* taken from Kafka by the caller, for batch_add */

    /* decoded once */
    struct gf_command *commands;
    struct kept **kept; /* NULL: a gift in the encoder's spelling, which can be written again */
    int count;
    char *blocks[BATCH_BLOCKS_MAX]; /* what is kept: Kafka's memory, twice as much, is given back at once */
    int block_count, block_at;      /* allocated; the one that is being filled */
    size_t block_used;
    bool full; /* has a record too long to be copied: takes no more */
    struct gf_buf text; /* batch_record's */

    /* the window of one transaction: records [at, at + n) */
    int at, n;
    int64_t first_offset, next_offset; /* progress.next_offset before and after */
    int refusals;                      /* of a window of one record: how often MySQL refused it (F12 b) */
    struct pair_slot *slots;
    uint32_t slot_mask;
    uint8_t (*known_fps)[BATCH_FP];
    int known_count;
    bool repeats;                 /* some pair has several records of the window */
    uint8_t *fates, *reasons;     /* [n]: enum fate; enum gf_dead, also of those that are planned dead */
    struct gf_command *planned;   /* in offset order: the window's own commands if all are living gifts, else copies */
    struct gf_command *copies;
    int planned_count;
    int duplicates, dead;         /* outside the plan */
    struct batch_user *by_user;   /* the window's readable records, sorted */
    struct batch_user *spare;     /* for sorting them: the two change places */
    int by_user_count;
    int64_t *users;               /* sorted, unique: whose wallets are locked */
    int user_count;
    struct gf_uuid *credit_ids;   /* sorted, unique */
    int credit_id_count;
    struct gf_wallet *wallets;
    int wallet_count;
    struct gf_credit *credits;
    int credit_count;
    struct gf_plan plan;
};

struct batch *batch_create(int max);
void batch_destroy(struct batch **batch);

/* Decodes piece[0..more). What the commands do not tell of them is copied, and Kafka's memory given back. */
void batch_add(struct batch *batch, int more, int32_t partitions);
/* Room for so many more at once; 0: the batch is full, of records or of bytes, or has one too long to be copied. */
int batch_room(const struct batch *batch);
/* The same for piece[0] alone, which must not be parsed again (F12 a): a dead letter whose key and ce_id header give its ids. */
void batch_add_unparsed(struct batch *batch);
void batch_release(struct batch *batch);

/* Chooses records [at, at + n) for the next transaction, which starts at progress.next_offset = first_offset. */
void batch_window(struct batch *batch, int at, int n, int64_t first_offset);
/* `trade` holds this pair. True if the window has it and did not know. */
bool batch_mark_known(struct batch *batch, const struct gf_uuid *request_id, int64_t user_id, const uint8_t fp[BATCH_FP]);
/* Decides fates and fills planned, users and credit_ids. Repeatable. */
void batch_classify(struct batch *batch);
/* Record i of the window as it stands in Kafka. It may have to be written again: it is good until the next call. */
struct gf_kafka_message batch_record(struct batch *batch, int i);
/* What is wrong with it, beside its reason; never NULL. */
const char *batch_detail(const struct batch *batch, int i);
/* First 8 bytes of SHA-256 over the record's value: progress.last_fp (F5). */
void batch_record_fp(struct batch *batch, const struct gf_kafka_message *message, uint8_t fp_r[BATCH_FP]);

static inline const struct gf_command *batch_command(const struct batch *batch, int i) { return &batch->commands[batch->at + i]; }
