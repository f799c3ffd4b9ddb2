/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters: reading their rows, closing them, and what may be produced again. See gf/letter.h. */
#include "gf/letter.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "gf/command.h"
#include "gf/num.h"

static const char *const states[] = {"new", "fed", "replayed", "dropped"};
_Static_assert(GF_COUNT(states) == GF_LETTER_STATES, "a text for each");

const char *gf_letter_state_text(int state)
{
    return state >= 0 && state < GF_LETTER_STATES ? states[state] : "unknown";
}

/* ---- what people write ---- */

static bool is(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && memcmp(text, word, len) == 0;
}

bool gf_letter_parse_states(const char *text, size_t len, unsigned *states_r)
{
    if (is(text, len, "open") || is(text, len, "all")) {
        *states_r = *text == 'o' ? GF_LETTER_OPEN : GF_LETTER_ANY;
        return true;
    }
    for (unsigned i = 0; i < GF_COUNT(states); i++) {
        if (is(text, len, states[i])) {
            *states_r = 1u << i;
            return true;
        }
    }
    return false;
}

bool gf_letter_parse_reason(const char *text, size_t len, enum gf_dead *reason_r)
{
#define REASON(name, number, text, message) {GF_DEAD_##name, text},
    static const struct {
        enum gf_dead reason;
        const char *text;
    } reasons[] = {GF_DEAD_MAP(REASON)};

    for (size_t i = 0; i < GF_COUNT(reasons); i++) {
        if (is(text, len, reasons[i].text)) {
            *reason_r = reasons[i].reason;
            return true;
        }
    }
    return false;
}

bool gf_letter_parse_id(const char *text, size_t len, struct gf_letter_id *id_r)
{
    const char *dash = memchr(text, '-', len);

    return dash != NULL && gf_num_parse_i64(text, (size_t)(dash - text), 0, INT16_MAX, &id_r->log) &&
           gf_num_parse_i64(dash + 1, len - (size_t)(dash - text) - 1, 0, INT64_MAX, &id_r->off);
}

/* ---- rows ---- */

void gf_letter_filter_init(struct gf_letter_filter *filter_r)
{
    *filter_r = (struct gf_letter_filter){.states = GF_LETTER_OPEN, .log = -1, .partition = -1, .to_off = INT64_MAX, .to_ms = INT64_MAX,
                                          .after = {-1, -1}, .payload_max = GF_COMMAND_MAX, .limit = 20};
}

/* A log that has no progress row (nobody deletes those) shows without its origin, but shows. */
#define FROM                                                                                                                   \
    " FROM dead_letter d LEFT JOIN progress p ON p.log = d.log LEFT JOIN trade t ON t.log = d.log AND t.off = d.off"

enum { LOG, OFF, REASON_, DETAIL, KEY, PAYLOAD, BYTES, STATE, TS, TOPIC, PART, INCARNATION, TRADE_USER, TRADE_ID };

static void add_columns(struct gf_buf *text, int64_t payload_max)
{
    gf_buf_addf(text, "SELECT d.log, d.off, d.reason, d.detail, d.rec_key, LEFT(d.payload, %" PRId64 "), LENGTH(d.payload), d.state, "
                "d.ts_ms, p.topic, p.part, p.incarnation, t.user_id, t.request_id" FROM, payload_max);
}

static void add_states(struct gf_buf *text, unsigned wanted)
{
    const char *before = " WHERE d.state IN (";

    for (int i = 0; i < GF_LETTER_STATES; i++) {
        if (!(wanted & 1u << i))
            continue;
        gf_buf_addf(text, "%s%d", before, i);
        before = ",";
    }
    gf_buf_addc(text, ')');
}

static void add_filter(struct gf_buf *text, const struct gf_letter_filter *filter)
{
    char key[24];

    add_states(text, filter->states);
    if (filter->reason != GF_DEAD_NONE)
        gf_buf_addf(text, " AND d.reason = %d", (int)filter->reason);
    if (filter->log >= 0)
        gf_buf_addf(text, " AND d.log = %" PRId64, filter->log);
    if (filter->partition >= 0)
        gf_buf_addf(text, " AND p.part = %" PRId64, filter->partition);
    gf_buf_addf(text, " AND d.off >= %" PRId64 " AND d.off < %" PRId64 " AND d.ts_ms >= %" PRId64 " AND d.ts_ms < %" PRId64,
                filter->from_off, filter->to_off, filter->from_ms, filter->to_ms);
    if (filter->user_id > 0) {
        gf_buf_addf(text, " AND (t.user_id = %" PRId64 " OR d.rec_key = ", filter->user_id);
        gf_buf_add_xhex(text, key, (size_t)snprintf(key, sizeof(key), "%" PRId64, filter->user_id));
        gf_buf_addc(text, ')');
    }
    gf_buf_addf(text, " AND (d.log > %" PRId64 " OR (d.log = %" PRId64 " AND d.off > %" PRId64 ")) ORDER BY d.log, d.off LIMIT %d",
                filter->after.log, filter->after.log, filter->after.off, filter->limit);
}

static enum gf_class query(struct gf_sql *sql, struct gf_buf *text, struct gf_sql_result **result_r, struct gf_error *error_r)
{
    enum gf_class class;

    GF_ASSERT(gf_buf_ok(text));
    class = gf_sql_query(sql, text->data, text->len, result_r, error_r);
    gf_buf_free(text);
    return class;
}

enum gf_class gf_letter_list(struct gf_sql *sql, const struct gf_letter_filter *filter, struct gf_sql_result **result_r,
                             struct gf_error *error_r)
{
    struct gf_buf text;

    GF_ASSERT((filter->states & GF_LETTER_ANY) != 0 && filter->limit > 0);
    gf_buf_init(&text, 4096);
    add_columns(&text, filter->payload_max);
    add_filter(&text, filter);
    return query(sql, &text, result_r, error_r);
}

enum gf_class gf_letter_get(struct gf_sql *sql, const struct gf_letter_id *id, struct gf_sql_result **result_r,
                            struct gf_error *error_r)
{
    struct gf_buf text;

    gf_buf_init(&text, 4096);
    add_columns(&text, INT32_MAX);
    gf_buf_addf(&text, " WHERE d.log = %" PRId64 " AND d.off = %" PRId64, id->log, id->off);
    return query(sql, &text, result_r, error_r);
}

bool gf_letter_next(struct gf_sql_result *result, struct gf_letter *letter_r)
{
    if (!gf_sql_next(result))
        return false;
    *letter_r = (struct gf_letter){
        .id = {gf_sql_i64(result, LOG), gf_sql_i64(result, OFF)}, .ts_ms = gf_sql_i64(result, TS),
        .state = (int)gf_sql_i64(result, STATE), .reason = (enum gf_dead)gf_sql_i64(result, REASON_),
        .payload_bytes = gf_sql_i64(result, BYTES), .partition = gf_sql_i64(result, PART),
        .incarnation = gf_sql_i64(result, INCARNATION), .has_trade = !gf_sql_is_null(result, TRADE_USER),
        .trade_user = gf_sql_i64(result, TRADE_USER),
    };
    letter_r->detail = gf_sql_bytes(result, DETAIL, &letter_r->detail_len);
    letter_r->key = gf_sql_bytes(result, KEY, &letter_r->key_len);
    letter_r->payload = gf_sql_bytes(result, PAYLOAD, &letter_r->payload_len);
    letter_r->topic = gf_sql_bytes(result, TOPIC, &letter_r->topic_len);
    if (letter_r->has_trade)
        gf_sql_uuid(result, TRADE_ID, &letter_r->trade_request);
    return true;
}

static void add_hex(struct gf_buf *out, const char *name, const char *bytes, size_t len)
{
    gf_buf_addf(out, ",\"%s\":", name);
    if (bytes == NULL) {
        gf_buf_adds(out, "null");
        return;
    }
    gf_buf_addc(out, '"');
    gf_buf_add_hex(out, bytes, len);
    gf_buf_addc(out, '"');
}

void gf_letter_json(const struct gf_letter *letter, struct gf_buf *out)
{
    gf_buf_addf(out, "{\"log\":%" PRId64 ",\"off\":%" PRId64 ",\"reason\":\"%s\",\"detail\":", letter->id.log, letter->id.off,
                gf_dead_text(letter->reason));
    gf_buf_add_json(out, letter->detail, letter->detail_len);
    gf_buf_adds(out, ",\"topic\":");
    gf_buf_add_json(out, letter->topic != NULL ? letter->topic : "", letter->topic_len);
    gf_buf_addf(out, ",\"partition\":%" PRId64 ",\"incarnation\":%" PRId64, letter->partition, letter->incarnation);
    add_hex(out, "key_hex", letter->key, letter->key_len);
    add_hex(out, "payload_hex", letter->payload, letter->payload_len);
    gf_buf_addf(out, ",\"payload_bytes\":%" PRId64 ",\"request_id\":", letter->payload_bytes);
    if (letter->has_trade) {
        gf_buf_addc(out, '"');
        gf_buf_add_uuid(out, &letter->trade_request);
        gf_buf_addf(out, "\",\"user_id\":%" PRId64, letter->trade_user);
    } else {
        gf_buf_adds(out, "null,\"user_id\":null");
    }
    gf_buf_addf(out, ",\"state\":\"%s\",\"ts\":%" PRId64 "}", gf_letter_state_text(letter->state), letter->ts_ms);
}

static enum gf_class read_state(struct gf_sql *sql, const struct gf_letter_id *id, int *state_r, struct gf_error *error_r)
{
    struct gf_sql_result *result;
    enum gf_class class = gf_sql_queryf(sql, &result, error_r, "SELECT state FROM dead_letter WHERE log = %" PRId64 " AND off = %" PRId64,
                                        id->log, id->off);

    if (class != GF_OK)
        return class;
    *state_r = gf_sql_next(result) ? (int)gf_sql_i64(result, 0) : -1;
    gf_sql_result_free(&result);
    return GF_OK;
}

enum gf_class gf_letter_mark(struct gf_sql *sql, const struct gf_letter_id *id, enum gf_letter_state state, int *now_r,
                             struct gf_error *error_r)
{
    int64_t affected = 0;
    struct gf_buf text;
    enum gf_class class;

    GF_ASSERT(state == GF_LETTER_REPLAYED || state == GF_LETTER_DROPPED);
    gf_buf_init(&text, 512);
    gf_buf_addf(&text, "UPDATE dead_letter SET state = %d WHERE log = %" PRId64 " AND off = %" PRId64 " AND state IN (%d, %d)", (int)state,
                id->log, id->off, GF_LETTER_NEW, GF_LETTER_FED);
    class = gf_sql_exec(sql, text.data, text.len, &affected, error_r);
    gf_buf_free(&text);
    if (class != GF_OK)
        return class;
    if (affected == 0)
        return read_state(sql, id, now_r, error_r);
    *now_r = (int)state;
    return GF_OK;
}

/* ---- what may be produced again ---- */

static void say(struct gf_verdict *verdict, enum gf_replay replay, const char *fmt, ...) GF_PRINTF(3, 4);
static void say(struct gf_verdict *verdict, enum gf_replay replay, const char *fmt, ...)
{
    va_list args;

    verdict->replay = replay;
    va_start(args, fmt);
    vsnprintf(verdict->why, sizeof(verdict->why), fmt, args);
    va_end(args);
}

/* Where the request already has its outcome, whoever's record that was. */
static enum gf_class find_outcome(struct gf_sql *sql, const struct gf_command *command, struct gf_verdict *verdict,
                                  struct gf_error *error_r)
{
    struct gf_sql_result *result;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 512);
    gf_buf_adds(&text, "SELECT log, off, outcome FROM trade WHERE request_id = ");
    gf_buf_add_xhex(&text, command->request_id.b, sizeof(command->request_id.b));
    gf_buf_addf(&text, " AND user_id = %" PRId64, command->user_id);
    class = query(sql, &text, &result, error_r);
    if (class != GF_OK)
        return class;
    if (gf_sql_next(result))
        say(verdict, GF_REPLAY_NEVER, "its request id has its outcome (%s, at %" PRId64 "-%" PRId64 "): send it with a new id",
            gf_outcome_text((enum gf_outcome)gf_sql_i64(result, 2)), gf_sql_i64(result, 0), gf_sql_i64(result, 1));
    gf_sql_result_free(&result);
    return GF_OK;
}

/* A credit is believed only as far as its row goes (F2). */
static enum gf_class find_credit(struct gf_sql *sql, const struct gf_command *command, struct gf_verdict *verdict,
                                 struct gf_error *error_r)
{
    struct gf_sql_result *result;
    struct gf_buf text;
    enum gf_class class;

    gf_buf_init(&text, 512);
    gf_buf_adds(&text, "SELECT kind, user_id, status FROM credit WHERE credit_id = ");
    gf_buf_add_xhex(&text, command->request_id.b, sizeof(command->request_id.b));
    class = query(sql, &text, &result, error_r);
    if (class != GF_OK)
        return class;
    if (!gf_sql_next(result))
        say(verdict, GF_REPLAY_FORCED, "there is still no credit with its id: it would be buried again");
    else if (gf_sql_i64(result, 0) != (int64_t)command->kind || gf_sql_i64(result, 1) != command->user_id)
        say(verdict, GF_REPLAY_FORCED, "the credit with its id is of another user or kind: it would be buried again");
    else if (gf_sql_i64(result, 2) != 1)
        say(verdict, GF_REPLAY_FORCED, "the credit that it names is closed (status %" PRId64 "): it would be buried again",
            gf_sql_i64(result, 2));
    gf_sql_result_free(&result);
    return GF_OK;
}

/* What its bytes are to this version of the program. */
static enum gf_class judge_command(struct gf_sql *sql, const struct gf_letter *letter, struct gf_verdict *verdict,
                                   struct gf_error *error_r)
{
    struct gf_command command = {.off = letter->id.off};
    enum gf_class class = GF_OK;
    char detail[96];

    gf_command_decode(letter->payload, letter->payload_len, &command, detail);
    if (command.readable)
        class = find_outcome(sql, &command, verdict, error_r);
    if (class != GF_OK || verdict->replay == GF_REPLAY_NEVER)
        return class;
    if (command.dead != GF_DEAD_NONE) {
        if (verdict->key_len > 0)
            say(verdict, GF_REPLAY_FORCED, "this version of giftflow would bury it again: %s (%s)", gf_dead_text(command.dead), detail);
        else
            say(verdict, GF_REPLAY_NEVER, "a record without a key cannot become a command");
        return GF_OK;
    }
    /* The key says only which partition it is; the value says whose it is. So one with a foreign key comes home too. */
    verdict->key_len = (size_t)snprintf(verdict->key, sizeof(verdict->key), "%" PRId64, command.user_id);
    if (command.kind != GF_KIND_GIFT)
        class = find_credit(sql, &command, verdict, error_r);
    if (class == GF_OK && verdict->replay == GF_REPLAY_YES && letter->reason == GF_DEAD_CRASH_LOOP)
        say(verdict, GF_REPLAY_FORCED, "it has stopped its consumer again and again: only after that is mended");
    return class;
}

enum gf_class gf_letter_judge(struct gf_sql *sql, const struct gf_letter *letter, struct gf_verdict *verdict_r,
                              struct gf_error *error_r)
{
    char id[GF_UUID_TEXT + 1];

    *verdict_r = (struct gf_verdict){.replay = GF_REPLAY_YES};
    if (letter->state != GF_LETTER_NEW && letter->state != GF_LETTER_FED) {
        verdict_r->closed = true;
        say(verdict_r, GF_REPLAY_NEVER, "it was %s before", gf_letter_state_text(letter->state));
    } else if (letter->has_trade) {
        gf_uuid_format(&letter->trade_request, id);
        say(verdict_r, GF_REPLAY_NEVER, "its request id %s of user %" PRId64 " has a final outcome; send it with a new id", id,
            letter->trade_user);
    } else if (letter->payload == NULL || letter->payload_bytes == 0) {
        say(verdict_r, GF_REPLAY_NEVER,
            letter->reason == GF_DEAD_SQL_REFUSED ? "its bytes were not kept: the database refused them"
                                                  : "a record without a value cannot become a command");
    } else if (letter->payload_bytes > GF_COMMAND_MAX) {
        say(verdict_r, GF_REPLAY_NEVER, "its %" PRId64 " bytes are more than the %d of a command", letter->payload_bytes, GF_COMMAND_MAX);
    }
    if (verdict_r->replay == GF_REPLAY_NEVER)
        return GF_OK;
    GF_ASSERT((int64_t)letter->payload_len == letter->payload_bytes); /* read whole */
    if (letter->key != NULL && letter->key_len > 0 && letter->key_len < sizeof(verdict_r->key)) {
        memcpy(verdict_r->key, letter->key, letter->key_len);
        verdict_r->key_len = letter->key_len;
    }
    return judge_command(sql, letter, verdict_r, error_r);
}
