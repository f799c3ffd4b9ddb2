/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow dlq list|show|replay|drop`: the dead letters for operators. Reads and marks rows of dead_letter, produces to the
 * commands topic, deletes nothing. Blocking, one thread. Exit 0: done; 1: could not; 2: wrong arguments. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dlq.h"
#include "gf/command.h"
#include "gf/role.h"
#include "tool.h"

#define USAGE "list|show|replay|drop [LOG-OFFSET...] [FILTER...] [--limit N] [--json] [--dry-run] [--force] [--all]"
#define LIST_DEFAULT 20
#define CHANGE_DEFAULT 100000
#define PAGE 50
#define OUT_MAX (8u << 20) /* one letter as JSON: twice its 1 MiB, and more */

/* ---- list ---- */

static void print_listed(struct dlq *dlq, const struct gf_letter *letter, int64_t at)
{
    if (!dlq->options.json) {
        gf_dlq_print_row(letter);
        return;
    }
    gf_buf_reset(&dlq->out);
    gf_letter_json(letter, &dlq->out);
    GF_ASSERT(gf_buf_ok(&dlq->out));
    printf("%s%.*s", at > 0 ? "," : "", (int)dlq->out.len, dlq->out.data);
}

/* One page; *after_r is its last letter. */
static enum gf_class list_page(struct dlq *dlq, struct gf_letter_filter *filter, int64_t *count, int *taken_r)
{
    struct gf_sql_result *result;
    struct gf_letter letter;
    enum gf_class class = gf_letter_list(dlq->sql, filter, &result, &dlq->error);

    *taken_r = 0;
    if (class != GF_OK)
        return class;
    while (gf_letter_next(result, &letter)) {
        print_listed(dlq, &letter, (*count)++);
        filter->after = letter.id;
        (*taken_r)++;
    }
    gf_sql_result_free(&result);
    return GF_OK;
}

/* Whether there is a letter behind the last one that was printed. */
static enum gf_class look_behind(struct dlq *dlq, struct gf_letter_filter filter, bool *more_r)
{
    struct gf_sql_result *result;
    enum gf_class class;

    filter.limit = 1;
    class = gf_letter_list(dlq->sql, &filter, &result, &dlq->error);
    if (class != GF_OK)
        return class;
    *more_r = gf_sql_result_count(result) > 0;
    gf_sql_result_free(&result);
    return GF_OK;
}

static int list(struct dlq *dlq)
{
    struct gf_letter_filter filter = dlq->options.filter;
    int64_t count = 0, left = filter.limit;
    int taken = 0;
    bool more = false;
    enum gf_class class = GF_OK;

    if (dlq->options.json)
        printf("{\"dead_letters\":[");
    else
        gf_dlq_print_head(dlq);
    do {
        filter.limit = left < PAGE ? (int)left : PAGE;
        class = list_page(dlq, &filter, &count, &taken);
        left -= taken;
    } while (class == GF_OK && taken == filter.limit && left > 0);
    if (class == GF_OK && left == 0)
        class = look_behind(dlq, filter, &more);
    if (class != GF_OK)
        return 1;
    if (dlq->options.json && more)
        printf("],\"next_cursor\":\"%" PRId64 "-%" PRId64 "\"}\n", filter.after.log, filter.after.off);
    else if (dlq->options.json)
        printf("],\"next_cursor\":null}\n");
    else if (more)
        printf("%" PRId64 " dead letters; there are more: --after %" PRId64 "-%" PRId64 "\n", count, filter.after.log, filter.after.off);
    else
        printf("%" PRId64 " dead letters\n", count);
    return 0;
}

/* ---- show ---- */

static const char *replay_text(enum gf_replay replay)
{
    static const char *const texts[] = {[GF_REPLAY_YES] = "yes", [GF_REPLAY_FORCED] = "forced", [GF_REPLAY_NEVER] = "never"};

    return texts[replay];
}

static void show_json(struct dlq *dlq, const struct gf_letter *letter, const struct gf_verdict *verdict, bool first)
{
    gf_buf_reset(&dlq->out);
    gf_letter_json(letter, &dlq->out);
    dlq->out.len--; /* the object goes on */
    gf_buf_addf(&dlq->out, ",\"replay\":\"%s\",\"why\":", replay_text(verdict->replay));
    gf_buf_add_json(&dlq->out, verdict->why, strlen(verdict->why));
    gf_buf_addc(&dlq->out, '}');
    GF_ASSERT(gf_buf_ok(&dlq->out));
    printf("%s%.*s", first ? "" : ",", (int)dlq->out.len, dlq->out.data);
}

static enum gf_class show_one(struct dlq *dlq, const struct gf_letter_id *id, bool first, bool *found_r)
{
    struct gf_sql_result *result;
    struct gf_letter letter;
    struct gf_verdict verdict;
    enum gf_class class = gf_letter_get(dlq->sql, id, &result, &dlq->error);

    if (class != GF_OK)
        return class;
    *found_r = gf_letter_next(result, &letter);
    if (*found_r)
        class = gf_letter_judge(dlq->sql, &letter, &verdict, &dlq->error);
    if (class == GF_OK && *found_r && dlq->options.json)
        show_json(dlq, &letter, &verdict, first);
    else if (class == GF_OK && *found_r)
        gf_dlq_print_letter(&letter, &verdict);
    gf_sql_result_free(&result);
    return class;
}

static int show(struct dlq *dlq)
{
    const struct dlq_options *options = &dlq->options;
    int missing = 0, shown = 0;

    if (options->json)
        printf("{\"dead_letters\":[");
    for (size_t i = 0; i < options->id_count; i++) {
        const struct gf_letter_id *id = &options->ids[i];
        bool found = false;

        if (show_one(dlq, id, shown == 0, &found) != GF_OK)
            return 1;
        shown += found ? 1 : 0;
        if (!found) {
            missing++;
            fprintf(stderr, "giftflow dlq: there is no dead letter %" PRId64 "-%" PRId64 "\n", id->log, id->off);
        }
    }
    if (options->json)
        printf("]}\n");
    return missing > 0 ? 1 : 0;
}

/* ---- which of them ---- */

static int listed(struct dlq *dlq)
{
    int status = list(dlq);

    if (status != 0)
        fprintf(stderr, "giftflow dlq: %s\n", dlq->error.text);
    return status;
}

static int shown(struct dlq *dlq)
{
    int status;

    dlq->error.text[0] = '\0';
    status = show(dlq);
    if (status != 0 && dlq->error.text[0] != '\0')
        fprintf(stderr, "giftflow dlq: %s\n", dlq->error.text);
    return status;
}

static const struct verb {
    const char *name;
    int (*run)(struct dlq *dlq);
    bool names, changes; /* takes letters by name; changes something */
    int limit;
} verbs[] = {
    {"list", listed, false, false, LIST_DEFAULT},
    {"show", shown, true, false, 1},
    {"replay", gf_dlq_replay, true, true, CHANGE_DEFAULT},
    {"drop", gf_dlq_drop, true, true, CHANGE_DEFAULT},
};

/* What does not fit the verb; NULL: all does. */
static const char *misfit(const struct verb *verb, const struct dlq_options *options)
{
    if (!verb->names && options->id_count > 0)
        return "list takes filters; letters by name are for show";
    if (verb->names && !verb->changes && options->id_count == 0)
        return "show wants the letters by name: LOG-OFFSET, as `dlq list` prints them";
    if (verb->changes && options->id_count == 0 && !options->filtered && !options->all)
        return "name letters (LOG-OFFSET) or give filters; --all takes every open one";
    if (!verb->changes && (options->dry_run || options->all))
        return "--dry-run and --all are for replay and drop";
    if (options->force && strcmp(verb->name, "replay") != 0)
        return "--force is for replay";
    return NULL;
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    struct dlq dlq = {.config = config};
    const struct verb *verb = NULL;
    const char *problem;
    int status = 1;

    for (size_t i = 0; argc > 1 && i < GF_COUNT(verbs); i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            verb = &verbs[i];
    if (verb == NULL)
        return gf_tool_usage("dlq", USAGE, argc > 1 ? "the first word is list, show, replay or drop" : "wants list, show, replay or drop");
    if (gf_dlq_parse(argc, argv, &dlq.options, &dlq.error) != GF_OK)
        problem = dlq.error.text;
    else
        problem = misfit(verb, &dlq.options);
    if (problem != NULL) {
        status = gf_tool_usage("dlq", USAGE, problem);
        goto out;
    }
    if (dlq.options.filter.limit == 0)
        dlq.options.filter.limit = verb->limit;
    gf_buf_init(&dlq.out, OUT_MAX);
    if (gf_tool_connect(config, dlq.options.wait_s * 1000, &dlq.sql, &dlq.error) == GF_OK)
        status = verb->run(&dlq);
    else
        fprintf(stderr, "giftflow dlq: %s\n", dlq.error.text);
out:
    gf_sql_close(&dlq.sql);
    gf_buf_free(&dlq.out);
    free(dlq.options.ids);
    return status;
}

const struct gf_role gf_role_dlq = {
    .name = "dlq",
    .summary = "dead letters: list them, show one, produce them again, drop them",
    .usage = USAGE,
    .details =
        "  list [FILTER...]           a page of them (--limit 20), the oldest of the lowest log first\n"
        "  show LOG-OFFSET...         everything about them: reason, origin, key and value as they came, whether they may be replayed\n"
        "  replay LOG-OFFSET...|FILTER...|--all\n"
        "                             produces them to the commands topic again, the value as it came, under its user's key;\n"
        "                             twice has no second effect. --force also takes what this version would only bury again\n"
        "  drop LOG-OFFSET...|FILTER...|--all\n"
        "                             marks them as dealt with; nothing is ever deleted\n"
        "\n"
        "Filters (all must hold): --state open|all|new|fed|replayed|dropped (default open), --reason NAME, --log N, --partition N,\n"
        "--offsets FROM-TO, --user ID, --since TIME, --until TIME (unix milliseconds, 2026-01-31T23:59:59Z, or an age: 15m, 2h, 7d),\n"
        "--after LOG-OFFSET (the page behind that one). replay and drop take what is there when they begin, --limit N of it at most\n"
        "(default 100000). --dry-run says what they would do, and does nothing. --wait SECONDS waits for MySQL (default 5).\n"
        "Exit status: 0 each was dealt with, or refused with a reason; 1 one could not be, or there is no such letter; 2 wrong arguments.\n",
    .needs_config = true,
    .run = run,
};
