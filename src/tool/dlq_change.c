/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow dlq replay|drop`. Letters are found first, then taken page by page; each ends in one printed line. Replay produces a
 * page, waits for Kafka's acknowledgements, then marks what is in the log: whatever is cut short in between stays open and may be
 * replayed again, without a second effect (G2). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "dlq.h"
#include "gf/command.h"
#include "gf/pinned.h"

#define PAGE 50
#define FOUND_PAGE 1000 /* names only */

enum end { END_DONE, END_WOULD, END_REFUSED, END_NEEDS_FORCE, END_MISSING, END_FAILED, END_COUNT };

struct attempt {
    struct gf_letter_id id;
    enum end end;
    bool produced, acknowledged;
    char why[220];
};

struct change {
    struct dlq *dlq;
    struct gf_kafka_producer *producer; /* replay, not with --dry-run */
    char topic[GF_CONFIG_TEXT_MAX + 16];
    bool replay;
    struct attempt page[PAGE];
    int count;
    int64_t ends[END_COUNT], printed;
};

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    (void)ctx;
    (void)partition;
    (void)offset;
    ((struct attempt *)opaque)->acknowledged = ack == GF_KAFKA_PERSISTED;
}

static void set(struct attempt *attempt, enum end end, const char *why)
{
    attempt->end = end;
    gf_copy(attempt->why, sizeof(attempt->why), why);
}

/* ---- printing ---- */

static const char *word(const struct change *change, enum end end)
{
    static const char *const words[END_COUNT] = {"replayed", "would_replay", "refused", "needs_force", "missing", "failed"};

    if (!change->replay && end <= END_WOULD)
        return end == END_DONE ? "dropped" : "would_drop";
    return words[end];
}

static void print_page(struct change *change)
{
    struct dlq *dlq = change->dlq;

    for (int i = 0; i < change->count; i++) {
        const struct attempt *attempt = &change->page[i];

        change->ends[attempt->end]++;
        if (!dlq->options.json) {
            printf("%" PRId64 "-%" PRId64 " %s%s%s\n", attempt->id.log, attempt->id.off, word(change, attempt->end),
                   attempt->why[0] != '\0' ? ": " : "", attempt->why);
            continue;
        }
        gf_buf_reset(&dlq->out);
        gf_buf_addf(&dlq->out, "%s{\"log\":%" PRId64 ",\"off\":%" PRId64 ",\"result\":\"%s\",\"why\":", change->printed++ > 0 ? "," : "",
                    attempt->id.log, attempt->id.off, word(change, attempt->end));
        gf_buf_add_json(&dlq->out, attempt->why, strlen(attempt->why));
        printf("%.*s}", (int)dlq->out.len, dlq->out.data);
    }
    (void)fflush(stdout);
}

static void print_sums(const struct change *change)
{
    bool json = change->dlq->options.json;

    if (json)
        printf("]");
    for (enum end end = 0; end < END_COUNT; end++) {
        if (json)
            printf(",\"%s\":%" PRId64, word(change, end), change->ends[end]);
        else
            printf("%s%" PRId64 " %s", end > 0 ? ", " : "", change->ends[end], word(change, end));
    }
    printf(json ? "}\n" : "\n");
}

/* ---- one letter ---- */

static enum gf_class produce(struct change *change, const struct gf_letter *letter, const struct gf_verdict *verdict,
                             struct attempt *attempt)
{
    struct gf_kafka_record record = {.topic = change->topic, .key = verdict->key, .key_len = verdict->key_len,
                                     .value = letter->payload, .value_len = letter->payload_len};
    enum gf_class class = gf_kafka_produce(change->producer, &record, attempt, &change->dlq->error);

    if (class == GF_OK)
        attempt->produced = true;
    else
        set(attempt, END_FAILED, change->dlq->error.text);
    return class == GF_FATAL ? class : GF_OK;
}

static enum gf_class replay_letter(struct change *change, const struct gf_letter *letter, struct attempt *attempt)
{
    const struct dlq_options *options = &change->dlq->options;
    struct gf_verdict verdict;
    enum gf_class class = gf_letter_judge(change->dlq->sql, letter, &verdict, &change->dlq->error);

    if (class != GF_OK)
        return class;
    if (verdict.replay == GF_REPLAY_NEVER)
        set(attempt, END_REFUSED, verdict.why);
    else if (verdict.replay == GF_REPLAY_FORCED && !options->force)
        set(attempt, END_NEEDS_FORCE, verdict.why);
    else if (options->dry_run)
        set(attempt, END_WOULD, "");
    else
        return produce(change, letter, &verdict, attempt);
    return GF_OK;
}

static enum gf_class drop_letter(struct change *change, const struct gf_letter *letter, struct attempt *attempt)
{
    struct dlq *dlq = change->dlq;
    bool open = (1u << letter->state & GF_LETTER_OPEN) != 0;
    int state = letter->state;
    enum gf_class class = GF_OK;

    if (open && dlq->options.dry_run)
        set(attempt, END_WOULD, "");
    else if (open)
        class = gf_letter_mark(dlq->sql, &letter->id, GF_LETTER_DROPPED, &state, &dlq->error);
    if (class == GF_OK && (!open || state == GF_LETTER_REPLAYED))
        set(attempt, END_REFUSED, state == GF_LETTER_REPLAYED ? "it was replayed before" : "it was dropped before");
    return class;
}

static enum gf_class take(struct change *change, const struct gf_letter *letter)
{
    struct attempt *attempt = &change->page[change->count++];
    enum gf_class class;

    *attempt = (struct attempt){.id = letter->id, .end = END_DONE};
    class = change->replay ? replay_letter(change, letter, attempt) : drop_letter(change, letter, attempt);
    if (class != GF_OK)
        set(attempt, END_FAILED, change->dlq->error.text);
    return class;
}

/* ---- a page ---- */

/* What was acknowledged is in the log again, whatever can be said of its letter. */
static void mark_replayed(struct change *change, struct attempt *attempt)
{
    struct dlq *dlq = change->dlq;
    int state = -1;

    if (!attempt->produced)
        return;
    if (!attempt->acknowledged)
        set(attempt, END_FAILED, "Kafka has not acknowledged it; it stays open, another replay does no harm");
    else if (gf_letter_mark(dlq->sql, &attempt->id, GF_LETTER_REPLAYED, &state, &dlq->error) != GF_OK)
        set(attempt, END_FAILED, "its record is in the log again, but it could not be marked; another replay does no harm");
    else if (state == GF_LETTER_DROPPED)
        set(attempt, END_DONE, "its record is in the log again; somebody has dropped the letter meanwhile");
}

/* After this nothing is in flight, so that no acknowledgement meets the next page. */
static enum gf_class end_page(struct change *change)
{
    if (change->producer != NULL && gf_kafka_producer_flush(change->producer, change->dlq->config->kafka_message_timeout + 5000) > 0)
        return gf_fail(&change->dlq->error, GF_FATAL, 0, "Kafka's client neither sends nor gives up; nothing was marked");
    for (int i = 0; i < change->count; i++)
        mark_replayed(change, &change->page[i]);
    print_page(change);
    return GF_OK;
}

/* The letters that the filters find now, by name. A record that is only buried again is a new letter: a search that went on behind
 * what it has replayed would find that one, too, and the next one, without end. */
static enum gf_class find_letters(struct dlq *dlq, bool *more_r)
{
    struct dlq_options *options = &dlq->options;
    struct gf_letter_filter filter = options->filter;
    int left = filter.limit + 1, taken; /* one more: whether there are more */

    options->ids = gf_xrealloc(options->ids, (size_t)left * sizeof(options->ids[0]));
    filter.payload_max = 0;
    do {
        struct gf_sql_result *result;
        struct gf_letter letter;
        enum gf_class class;

        filter.limit = left < FOUND_PAGE ? left : FOUND_PAGE;
        class = gf_letter_list(dlq->sql, &filter, &result, &dlq->error);
        if (class != GF_OK)
            return class;
        for (taken = 0; gf_letter_next(result, &letter); taken++)
            filter.after = options->ids[options->id_count++] = letter.id;
        gf_sql_result_free(&result);
        left -= taken;
    } while (taken == filter.limit && left > 0);
    *more_r = left == 0;
    options->id_count -= *more_r ? 1 : 0;
    return GF_OK;
}

static enum gf_class take_named(struct change *change, const struct gf_letter_id *id)
{
    struct dlq *dlq = change->dlq;
    struct gf_sql_result *result;
    struct gf_letter letter;
    enum gf_class class = gf_letter_get(dlq->sql, id, &result, &dlq->error);

    if (class != GF_OK)
        return class;
    if (gf_letter_next(result, &letter)) {
        class = take(change, &letter);
    } else {
        change->page[change->count] = (struct attempt){.id = *id};
        set(&change->page[change->count++], END_MISSING, "there is no such dead letter");
    }
    gf_sql_result_free(&result);
    return class;
}

/* What was taken before a failure is told all the same: it may be in the log. */
static enum gf_class take_page(struct change *change, const struct gf_letter_id *ids, size_t count)
{
    enum gf_class class = GF_OK, ended;
    struct gf_error error;

    change->count = 0;
    for (size_t i = 0; i < count && class == GF_OK; i++)
        class = take_named(change, &ids[i]);
    error = change->dlq->error;
    ended = end_page(change);
    if (class == GF_OK)
        return ended;
    change->dlq->error = error;
    return class;
}

static enum gf_class start_producer(struct change *change)
{
    struct dlq *dlq = change->dlq;
    const char *topic = change->topic;
    struct gf_kafka_producer_opts opts = {.topics = &topic, .topic_count = 1, .linger_ms = 1, .on_ack = on_ack};
    bool agreed = false;
    enum gf_class class;

    snprintf(change->topic, sizeof(change->topic), "%s.commands", dlq->config->kafka_prefix);
    class = gf_pinned_check(dlq->config, change->topic, &agreed, &dlq->error);
    if (class == GF_OK && !agreed)
        class = GF_FATAL; /* the error says which counts differ */
    return class == GF_OK ? gf_kafka_producer_create(dlq->config, &opts, &change->producer, &dlq->error) : class;
}

/* Page by page; where Kafka or MySQL has failed one, the next page would fare no better. */
static enum gf_class take_all(struct change *change)
{
    struct dlq_options *options = &change->dlq->options;
    enum gf_class class = GF_OK;
    bool more = false;
    size_t at = 0;

    if (options->id_count == 0)
        class = find_letters(change->dlq, &more);
    while (class == GF_OK && at < options->id_count && change->ends[END_FAILED] == 0) {
        size_t left = options->id_count - at, count = left < PAGE ? left : PAGE;

        class = take_page(change, options->ids + at, count);
        at += count;
    }
    if (class == GF_OK && at < options->id_count)
        fprintf(stderr, "giftflow dlq: %zu letters behind these were not tried\n", options->id_count - at);
    if (class == GF_OK && more)
        fprintf(stderr, "giftflow dlq: there are more letters than --limit %d\n", options->filter.limit);
    return class;
}

static int run(struct dlq *dlq, bool replay)
{
    static struct change change;
    const struct dlq_options *options = &dlq->options;
    enum gf_class class = GF_OK;

    change.dlq = dlq;
    change.replay = replay;
    if (replay && !options->dry_run)
        class = start_producer(&change);
    if (class == GF_OK && options->json)
        printf("{\"letters\":[");
    if (class == GF_OK)
        class = take_all(&change);
    gf_kafka_producer_close(&change.producer);
    if (class != GF_OK) {
        fprintf(stderr, "%sgiftflow dlq: %s\n", options->json ? "\n" : "", dlq->error.text);
        return 1;
    }
    print_sums(&change);
    return change.ends[END_FAILED] + change.ends[END_MISSING] > 0 ? 1 : 0;
}

int gf_dlq_replay(struct dlq *dlq)
{
    return run(dlq, true);
}

int gf_dlq_drop(struct dlq *dlq)
{
    return run(dlq, false);
}
