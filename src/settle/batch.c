/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding and classification of consumed records. See batch.h. */
#include "batch.h"

#include <stdlib.h>
#include <string.h>

#include "gf/hash.h"
#include "gf/num.h"

#define ALIGN 8
#define KEPT_MAX (sizeof(struct kept) + BATCH_DETAIL + GF_COMMAND_MAX + ALIGN)
#define PIECE_BLOCKS ((int)(BATCH_PIECE / (BATCH_BLOCK / KEPT_MAX) + 1)) /* of the longest commands */

static uint32_t table_size(int max)
{
    uint32_t size = 16;

    while (size < (uint32_t)max * 2)
        size *= 2;
    return size;
}

struct batch *batch_create(int max)
{
    struct batch *batch = gf_xcalloc(1, sizeof(*batch));
    size_t n = (size_t)max;

    GF_ASSERT(max > 0);
    batch->max = max;
    batch->sha = gf_sha256_create();
    gf_buf_init(&batch->text, GF_COMMAND_MAX);
    batch->commands = gf_xcalloc(n, sizeof(batch->commands[0]));
    batch->kept = gf_xcalloc(n, sizeof(batch->kept[0]));
    batch->slots = gf_xcalloc(table_size(max), sizeof(batch->slots[0]));
    batch->known_fps = gf_xcalloc(n, sizeof(batch->known_fps[0]));
    batch->fates = gf_xcalloc(n, 1);
    batch->reasons = gf_xcalloc(n, 1);
    batch->copies = gf_xcalloc(n, sizeof(batch->copies[0]));
    batch->by_user = gf_xcalloc(n, sizeof(batch->by_user[0]));
    batch->spare = gf_xcalloc(n, sizeof(batch->spare[0]));
    batch->users = gf_xcalloc(n, sizeof(batch->users[0]));
    batch->credit_ids = gf_xcalloc(n, sizeof(batch->credit_ids[0]));
    batch->wallets = gf_xcalloc(n, sizeof(batch->wallets[0]));
    batch->credits = gf_xcalloc(n, sizeof(batch->credits[0]));
    batch->plan.trades = gf_xcalloc(n, sizeof(batch->plan.trades[0]));
    return batch;
}

void batch_destroy(struct batch **batch)
{
    struct batch *old = *batch;

    if (old == NULL)
        return;
    batch_release(old);
    gf_sha256_destroy(&old->sha);
    for (int i = 0; i < old->block_count; i++)
        free(old->blocks[i]);
    gf_buf_free(&old->text);
    free(old->commands);
    free(old->kept);
    free(old->slots);
    free(old->known_fps);
    free(old->fates);
    free(old->reasons);
    free(old->copies);
    free(old->by_user);
    free(old->spare);
    free(old->users);
    free(old->credit_ids);
    free(old->wallets);
    free(old->credits);
    free(old->plan.trades);
    free(old);
    *batch = NULL;
}

void batch_release(struct batch *batch)
{
    for (int i = 0; i < batch->count && batch->full; i++)
        if (batch->kept[i] != NULL)
            gf_kafka_batch_free(&batch->kept[i]->message, 1);
    batch->count = batch->at = batch->n = 0;
    batch->block_at = 0;
    batch->block_used = 0;
    batch->full = false;
}

static void digest_prefix(struct batch *batch, const void *bytes, size_t len, uint8_t fp_r[BATCH_FP])
{
    uint8_t digest[32];

    gf_sha256_begin(batch->sha);
    if (len > 0)
        gf_sha256_add(batch->sha, bytes, len);
    gf_sha256_end(batch->sha, digest);
    memcpy(fp_r, digest, BATCH_FP);
}

void batch_record_fp(struct batch *batch, const struct gf_kafka_message *message, uint8_t fp_r[BATCH_FP])
{
    digest_prefix(batch, message->value, message->value != NULL ? message->value_len : 0, fp_r);
}

static void start_command(const struct gf_kafka_message *message, struct gf_command *command_r)
{
    *command_r = (struct gf_command){.off = message->offset,
                                     .append_ms = message->timestamp_ms > 0 ? message->timestamp_ms : 0};
}

static void *take_bytes(struct batch *batch, size_t len)
{
    char *at;

    len = (len + ALIGN - 1) / ALIGN * ALIGN;
    GF_ASSERT(len <= BATCH_BLOCK);
    if (batch->block_used + len > BATCH_BLOCK) {
        batch->block_at++;
        batch->block_used = 0;
    }
    GF_ASSERT(batch->block_at < BATCH_BLOCKS_MAX);
    if (batch->block_at == batch->block_count)
        batch->blocks[batch->block_count++] = gf_xmalloc(BATCH_BLOCK);
    at = batch->blocks[batch->block_at] + batch->block_used;
    batch->block_used += len;
    return at;
}

/* One that is too long for a command stays Kafka's: it will be a dead letter. */
static struct kept *keep(struct batch *batch, struct gf_kafka_message *message, const char *detail)
{
    size_t key_len = message->key != NULL ? message->key_len : 0, value_len = message->value != NULL ? message->value_len : 0;
    size_t detail_size = detail[0] != 0 ? strnlen(detail, BATCH_DETAIL - 1) + 1 : 0;
    bool long_one = key_len + value_len > GF_COMMAND_MAX;
    struct kept *kept = take_bytes(batch, sizeof(*kept) + detail_size + (long_one ? 0 : key_len + value_len));
    char *at = (char *)(kept + 1);

    *kept = (struct kept){.message = *message};
    if (detail_size > 0) {
        gf_copy(at, detail_size, detail);
        kept->detail = at;
        at += detail_size;
    }
    if (long_one) {
        batch->full = true;
        message->native = NULL; /* given back by batch_release */
        return kept;
    }
    if (message->key != NULL)
        kept->message.key = memcpy(at, message->key, key_len);
    if (message->value != NULL)
        kept->message.value = memcpy(at + key_len, message->value, value_len);
    kept->message.native = NULL;
    return kept;
}

static void add(struct batch *batch, struct gf_kafka_message *message, int32_t partitions)
{
    struct gf_command *command = &batch->commands[batch->count];
    char text[160], detail[BATCH_DETAIL] = "";

    GF_ASSERT(message->partition == batch->partition);
    start_command(message, command);
    gf_command_decode(message->value, message->value_len, command, detail);
    if (command->dead == GF_DEAD_NONE)
        digest_prefix(batch, text, gf_command_fp_text(command, text), command->fp);
    else if (command->readable) /* nothing else stands for its content */
        batch_record_fp(batch, message, command->fp);
    gf_command_check_key(command, message->key, message->key_len, message->partition, partitions);
    batch->kept[batch->count++] = command->exact && command->dead == GF_DEAD_NONE ? NULL : keep(batch, message, detail);
    gf_kafka_batch_free(message, 1);
}

void batch_add(struct batch *batch, int more, int32_t partitions)
{
    GF_ASSERT(more > 0 && more <= batch_room(batch));
    if (batch->count == 0)
        batch->partition = batch->piece[0].partition;
    for (int i = 0; i < more; i++)
        add(batch, &batch->piece[i], partitions);
}

void batch_add_unparsed(struct batch *batch)
{
    struct gf_kafka_message *message = &batch->piece[0];
    struct gf_command *command = &batch->commands[0];
    const char *id;
    size_t len = 0;

    GF_ASSERT(batch->count == 0);
    batch->partition = message->partition;
    start_command(message, command);
    command->kind = GF_KIND_GIFT;
    command->dead = GF_DEAD_CRASH_LOOP;
    id = gf_kafka_message_header(message, "ce_id", &len);
    command->readable = id != NULL && gf_uuid_parse(id, len, &command->request_id) && message->key != NULL &&
                        gf_num_parse_i64(message->key, message->key_len, 1, GF_ID_MAX, &command->user_id);
    if (command->readable)
        batch_record_fp(batch, message, command->fp);
    batch->kept[batch->count++] = keep(batch, message, "not parsed");
    gf_kafka_batch_free(message, 1);
}

int batch_room(const struct batch *batch)
{
    int left = batch->max - batch->count;

    if (batch->full || batch->block_at + PIECE_BLOCKS >= BATCH_BLOCKS_MAX)
        return 0;
    return left < BATCH_PIECE ? left : BATCH_PIECE;
}

struct gf_kafka_message batch_record(struct batch *batch, int i)
{
    const struct kept *kept = batch->kept[batch->at + i];
    const struct gf_command *command = batch_command(batch, i);
    size_t key_len;

    if (kept != NULL)
        return kept->message;
    gf_buf_reset(&batch->text);
    gf_buf_add_i64(&batch->text, command->user_id);
    key_len = batch->text.len;
    gf_command_encode(command, &batch->text);
    GF_ASSERT(gf_buf_ok(&batch->text));
    return (struct gf_kafka_message){.partition = batch->partition,
                                     .offset = command->off,
                                     .timestamp_ms = command->append_ms,
                                     .append_time = true,
                                     .key = batch->text.data,
                                     .key_len = key_len,
                                     .value = batch->text.data + key_len,
                                     .value_len = batch->text.len - key_len};
}

const char *batch_detail(const struct batch *batch, int i)
{
    const struct kept *kept = batch->kept[batch->at + i];

    if (batch->refusals > 0)
        return "the database refused it";
    return kept != NULL && kept->detail != NULL ? kept->detail : "";
}

/* Version 8 names a `credit` row, which says itself what is its command: anybody may write a record with the id of another's
 * credit, so one of other content is no repeat, and one that is dead says nothing about the id (F2). */
static bool names_credit(const struct gf_uuid *request_id)
{
    return gf_uuid_version(request_id) == 8;
}

static struct pair_slot *find_slot(struct batch *batch, const struct gf_uuid *request_id, int64_t user_id,
                                   const uint8_t fp[BATCH_FP])
{
    bool credit = names_credit(request_id);
    uint64_t halves[2];
    uint32_t at;

    memcpy(halves, request_id->b, sizeof(halves));
    at = (uint32_t)gf_hash_u64(halves[0] ^ gf_hash_u64(halves[1] ^ gf_hash_u64((uint64_t)user_id)));
    for (;; at++) { /* ends: the table is at most half full */
        struct pair_slot *slot = &batch->slots[at & batch->slot_mask];
        const struct gf_command *first;

        if (slot->record == 0)
            return slot;
        first = batch_command(batch, slot->record - 1);
        if (first->user_id == user_id && gf_uuid_compare(&first->request_id, request_id) == 0 &&
            (!credit || memcmp(first->fp, fp, BATCH_FP) == 0))
            return slot;
    }
}

/* One stable pass of a radix sort, by the byte at `shift`. */
static void sort_pass(const struct batch_user *from, struct batch_user *to, int count, int shift)
{
    int32_t starts[257] = {0};

    for (int i = 0; i < count; i++)
        starts[((uint64_t)from[i].user_id >> shift & 0xff) + 1]++;
    for (int b = 0; b < 256; b++)
        starts[b + 1] += starts[b];
    for (int i = 0; i < count; i++)
        to[starts[(uint64_t)from[i].user_id >> shift & 0xff]++] = from[i];
}

/* Only by the bytes in which ids differ: two or three of eight, as a rule. Records are in order already, and ids are positive. */
static void sort_by_user(struct batch *batch)
{
    uint64_t differ = 0;
    int count = 0;

    for (int i = 0; i < batch->n; i++) {
        const struct gf_command *command = batch_command(batch, i);

        if (!command->readable)
            continue;
        GF_ASSERT(gf_id_valid(command->user_id));
        batch->by_user[count] = (struct batch_user){.user_id = command->user_id, .record = i};
        differ |= (uint64_t)(command->user_id ^ batch->by_user[0].user_id);
        count++;
    }
    batch->by_user_count = count;
    for (int shift = 0; shift < 64; shift += 8) {
        struct batch_user *sorted = batch->spare;

        if ((differ >> shift & 0xff) == 0)
            continue;
        sort_pass(batch->by_user, sorted, count, shift);
        batch->spare = batch->by_user;
        batch->by_user = sorted;
    }
}

void batch_window(struct batch *batch, int at, int n, int64_t first_offset)
{
    GF_ASSERT(at >= 0 && n > 0 && at + n <= batch->count);
    batch->at = at;
    batch->n = n;
    batch->refusals = 0;
    batch->first_offset = first_offset;
    batch->next_offset = batch->commands[at + n - 1].off + 1;
    GF_ASSERT(batch->commands[at].off >= first_offset);
    batch->slot_mask = table_size(n) - 1; /* a short window must not pay for the longest one's table */
    batch->known_count = 0;
    batch->repeats = false;
    memset(batch->slots, 0, sizeof(batch->slots[0]) * ((size_t)batch->slot_mask + 1));
    for (int i = 0; i < n; i++) {
        const struct gf_command *command = batch_command(batch, i);
        struct pair_slot *slot;

        if (!command->readable || (command->dead != GF_DEAD_NONE && names_credit(&command->request_id)))
            continue;
        slot = find_slot(batch, &command->request_id, command->user_id, command->fp);
        batch->repeats = batch->repeats || slot->record != 0;
        if (slot->record == 0)
            slot->record = i + 1;
    }
    sort_by_user(batch);
}

bool batch_mark_known(struct batch *batch, const struct gf_uuid *request_id, int64_t user_id, const uint8_t fp[BATCH_FP])
{
    struct pair_slot *slot = find_slot(batch, request_id, user_id, fp);

    if (slot->record == 0 || slot->known != 0)
        return false;
    memcpy(batch->known_fps[batch->known_count++], fp, BATCH_FP);
    slot->known = batch->known_count;
    return true;
}

/* Of the row in `trade`, else of the first record with this pair. */
static const uint8_t *slot_fp(const struct batch *batch, const struct pair_slot *slot)
{
    return slot->known != 0 ? batch->known_fps[slot->known - 1] : batch_command(batch, slot->record - 1)->fp;
}

/* The first of a pair is the plan's; every other record is judged against its content. */
static enum fate judge(struct batch *batch, int i, enum gf_dead *reason_r)
{
    const struct gf_command *command = batch_command(batch, i);
    const struct pair_slot *slot;

    *reason_r = command->dead;
    if (batch->refusals > 0)
        *reason_r = GF_DEAD_SQL_REFUSED;
    if (!command->readable || batch->refusals > 1)
        return *reason_r != GF_DEAD_NONE ? FATE_DEAD : FATE_PLAN;
    if (command->dead != GF_DEAD_NONE && names_credit(&command->request_id))
        return FATE_DEAD;
    if (!batch->repeats && batch->known_count == 0) /* the rule: each is the first of its pair */
        return FATE_PLAN;
    slot = find_slot(batch, &command->request_id, command->user_id, command->fp);
    GF_ASSERT(slot->record != 0);
    if (slot->known == 0 && slot->record == i + 1)
        return FATE_PLAN;
    if (*reason_r != GF_DEAD_NONE)
        return FATE_DEAD;
    if (memcmp(slot_fp(batch, slot), command->fp, BATCH_FP) == 0)
        return FATE_DUPLICATE;
    *reason_r = GF_DEAD_ID_REUSED;
    return FATE_DEAD;
}

static int compare_uuid(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct gf_uuid));
}

/* Dead ones move nothing; their wallet may be another partition's. */
static void collect_users(struct batch *batch)
{
    batch->user_count = 0;
    for (int i = 0; i < batch->by_user_count; i++) {
        const struct batch_user *entry = &batch->by_user[i];

        if (batch->fates[entry->record] != FATE_PLAN || batch->reasons[entry->record] != GF_DEAD_NONE)
            continue;
        if (batch->user_count == 0 || batch->users[batch->user_count - 1] != entry->user_id)
            batch->users[batch->user_count++] = entry->user_id;
    }
}

static void collect_credits(struct batch *batch)
{
    int count = 0, kept = 0;

    for (int i = 0; i < batch->planned_count; i++)
        if (batch->planned[i].dead == GF_DEAD_NONE && batch->planned[i].kind != GF_KIND_GIFT)
            batch->credit_ids[count++] = batch->planned[i].request_id;
    qsort(batch->credit_ids, (size_t)count, sizeof(batch->credit_ids[0]), compare_uuid);
    for (int i = 0; i < count; i++)
        if (kept == 0 || compare_uuid(&batch->credit_ids[kept - 1], &batch->credit_ids[i]) != 0)
            batch->credit_ids[kept++] = batch->credit_ids[i];
    batch->credit_id_count = kept;
}

static void copy_planned(struct batch *batch)
{
    batch->planned = batch->copies;
    batch->planned_count = 0;
    for (int i = 0; i < batch->n; i++) {
        if (batch->fates[i] != FATE_PLAN)
            continue;
        batch->planned[batch->planned_count] = *batch_command(batch, i);
        batch->planned[batch->planned_count++].dead = (enum gf_dead)batch->reasons[i];
    }
}

void batch_classify(struct batch *batch)
{
    bool gifts = true;

    GF_ASSERT(batch->refusals == 0 || batch->n == 1);
    batch->duplicates = batch->dead = 0;
    batch->wallet_count = batch->credit_count = 0;
    for (int i = 0; i < batch->n; i++) {
        enum gf_dead reason;
        enum fate fate = judge(batch, i, &reason);

        batch->fates[i] = (uint8_t)fate;
        batch->reasons[i] = (uint8_t)reason;
        batch->duplicates += fate == FATE_DUPLICATE;
        batch->dead += fate == FATE_DEAD;
        gifts = gifts && fate == FATE_PLAN && reason == GF_DEAD_NONE && batch_command(batch, i)->kind == GF_KIND_GIFT;
    }
    batch->planned = &batch->commands[batch->at]; /* the rule: a plan writes to credits only */
    batch->planned_count = batch->n;
    if (!gifts)
        copy_planned(batch);
    collect_users(batch);
    collect_credits(batch);
}
