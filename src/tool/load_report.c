/* SPDX-License-Identifier: Apache-2.0 */
/* What the load harness found, for people and as one JSON object. Pure: report in, text out. */
#include <inttypes.h>
#include <string.h>

#include "load.h"

static const struct {
    const char *key, *text;
} violations[] = {
#define LOAD_VIOLATION_TEXT(name, key, text) {key, text},
    LOAD_VIOLATION_MAP(LOAD_VIOLATION_TEXT)};

static const struct {
    const char *name;
    double q;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

static double per_second(int64_t count, int64_t us) { return us > 0 ? (double)count * 1e6 / (double)us : 0; }

static void human_hist(const char *name, const struct gf_hist *hist, struct gf_buf *out)
{
    gf_buf_addf(out, "  %-17s", name);
    for (size_t i = 0; i < GF_COUNT(quantiles); i++)
        gf_buf_addf(out, " %s %.2f ms ", quantiles[i].name, (double)gf_hist_quantile(hist, quantiles[i].q) / 1000);
    gf_buf_addf(out, " max %.2f ms  (%" PRId64 " measured)\n", (double)hist->max_us / 1000, hist->count);
}

static void human_names(const struct load_name names[LOAD_NAMES], struct gf_buf *out)
{
    const char *separator = " (";

    for (int i = 0; i < LOAD_NAMES; i++) {
        if (names[i].count == 0)
            continue;
        gf_buf_addf(out, "%s%s %" PRId64, separator, names[i].text, names[i].count);
        separator = ", ";
    }
    if (separator[0] == ',')
        gf_buf_addc(out, ')');
}

static void human_answers(const struct load_report *report, struct gf_buf *out)
{
    gf_buf_adds(out, "answers");
    for (size_t status = 0; status < GF_COUNT(report->answers); status++) {
        if (report->answers[status] == 0)
            continue;
        if (status == 0)
            gf_buf_addf(out, "  none %" PRId64, report->answers[0]);
        else
            gf_buf_addf(out, "  %zu %" PRId64, status, report->answers[status]);
    }
    human_names(report->codes, out);
    gf_buf_addc(out, '\n');
}

void load_report_human(const struct load_opts *opts, const struct load_report *report, struct gf_buf *out)
{
    int64_t broken = load_violations(report);

    gf_buf_addf(out, "load      %" PRId64 " senders, %" PRId64 " viewers, %" PRId64 " rooms, ", opts->senders, opts->viewers, opts->rooms);
    if (opts->rate > 0)
        gf_buf_addf(out, "%" PRId64 "/s planned", opts->rate);
    else
        gf_buf_adds(out, "closed loop");
    gf_buf_addf(out, ", seed %" PRId64 "\n", opts->seed);
    gf_buf_addf(out, "sent      %" PRId64 " in %.1f s = %.0f/s; late %" PRId64 ", dropped %" PRId64 ", repeated after doubt %" PRId64 "; "
                "all outcomes %.1f s later\n", report->sent, (double)report->send_us / 1e6, per_second(report->sent, report->send_us), report->late, report->dropped,
                report->retries, (double)report->drain_us / 1e6);
    human_answers(report, out);
    gf_buf_addf(out, "accepted  %" PRId64 "; replayed %" PRId64 ", unanswered %" PRId64 "\n", report->accepted, report->replayed,
                report->unanswered);
    gf_buf_addf(out, "settled   %" PRId64 "; rejected %" PRId64, report->settled, report->rejected);
    human_names(report->reasons, out);
    gf_buf_addf(out, "; outcome only by GET %" PRId64 "\n", report->outcome_by_get);
    gf_buf_addf(out, "frames    %" PRId64 " delivered; repeats %" PRId64 "; on screens %" PRId64 " of %" PRId64 "; of others %" PRId64
                     "; reconnects %" PRId64 "\n", report->frames, report->repeats, report->room_delivered, report->room_expected,
                report->foreign, report->reconnects);
    gf_buf_adds(out, "latency, from the planned time\n");
    human_hist("to the answer", &report->answer, out);
    human_hist("to sender's screen", &report->sender, out);
    human_hist("to all screens", &report->screen, out);
    gf_buf_addf(out, "harness   %.1f us of processor per request\n", report->sent > 0 ? (double)report->cpu_us / (double)report->sent : 0);
    for (int i = 0; i < LOAD_V_COUNT; i++)
        if (report->violations[i] > 0)
            gf_buf_addf(out, "VIOLATION %s %" PRId64 ": %s\n", violations[i].key, report->violations[i], violations[i].text);
    for (int i = 0; i < report->example_count; i++)
        gf_buf_addf(out, "  %s\n", report->examples[i]);
    gf_buf_adds(out, broken > 0 ? "verdict   VIOLATED\n"
                                : report->accepted > 0 ? "verdict   ok: each accepted gift had exactly one outcome\n"
                                                       : "verdict   nothing was accepted\n");
}

/* ---- JSON ---- */

static void add(struct gf_buf *out, const char *name, int64_t value)
{
    gf_buf_addf(out, "\"%s\":%" PRId64 ",", name, value);
}

/* In place of the last comma. */
static void close_object(struct gf_buf *out, const char *end)
{
    if (out->len > 0 && out->data[out->len - 1] == ',')
        out->data[--out->len] = '\0';
    gf_buf_adds(out, end);
}

static void json_names(const char *name, const struct load_name names[LOAD_NAMES], struct gf_buf *out)
{
    gf_buf_addf(out, "\"%s\":{", name);
    for (int i = 0; i < LOAD_NAMES; i++) {
        if (names[i].count == 0)
            continue;
        gf_buf_add_json(out, names[i].text, strlen(names[i].text));
        gf_buf_addf(out, ":%" PRId64 ",", names[i].count);
    }
    close_object(out, "},");
}

static void json_hist(const char *name, const struct gf_hist *hist, struct gf_buf *out)
{
    gf_buf_addf(out, "\"%s\":{", name);
    add(out, "count", hist->count);
    for (size_t i = 0; i < GF_COUNT(quantiles); i++)
        add(out, quantiles[i].name, gf_hist_quantile(hist, quantiles[i].q));
    add(out, "mean", hist->count > 0 ? hist->sum_us / hist->count : 0);
    add(out, "max", hist->max_us);
    close_object(out, "},");
}

void load_report_json(const struct load_opts *opts, const struct load_report *report, struct gf_buf *out)
{
    gf_buf_addc(out, '{');
    add(out, "seed", opts->seed);
    add(out, "rate", opts->rate);
    add(out, "senders", opts->senders);
    add(out, "viewers", opts->viewers);
    add(out, "rooms", opts->rooms);
    add(out, "planned", report->planned);
    add(out, "sent", report->sent);
    add(out, "late", report->late);
    add(out, "dropped", report->dropped);
    add(out, "retries", report->retries);
    add(out, "unanswered", report->unanswered);
    gf_buf_addf(out, "\"send_seconds\":%.3f,\"sent_per_s\":%.1f,\"accepted_per_s\":%.1f,", (double)report->send_us / 1e6,
                per_second(report->sent, report->send_us), per_second(report->accepted, report->send_us));
    gf_buf_addf(out, "\"drain_seconds\":%.3f,", (double)report->drain_us / 1e6);
    gf_buf_adds(out, "\"answers\":{");
    for (size_t status = 0; status < GF_COUNT(report->answers); status++)
        if (report->answers[status] > 0)
            gf_buf_addf(out, "\"%zu\":%" PRId64 ",", status, report->answers[status]);
    close_object(out, "},");
    json_names("codes", report->codes, out);
    add(out, "accepted", report->accepted);
    add(out, "replayed", report->replayed);
    add(out, "settled", report->settled);
    add(out, "rejected", report->rejected);
    json_names("reasons", report->reasons, out);
    add(out, "outcome_by_get", report->outcome_by_get);
    gf_buf_adds(out, "\"frames\":{");
    add(out, "delivered", report->frames);
    add(out, "repeated", report->repeats);
    add(out, "on_screens", report->room_delivered);
    add(out, "on_screens_expected", report->room_expected);
    add(out, "foreign", report->foreign);
    close_object(out, "},");
    add(out, "reconnects", report->reconnects);
    gf_buf_adds(out, "\"latency_us\":{");
    json_hist("answer", &report->answer, out);
    json_hist("gift_to_sender", &report->sender, out);
    json_hist("gift_to_screen", &report->screen, out);
    close_object(out, "},");
    add(out, "cpu_us", report->cpu_us);
    gf_buf_adds(out, "\"violations\":{");
    for (int i = 0; i < LOAD_V_COUNT; i++)
        add(out, violations[i].key, report->violations[i]);
    close_object(out, "},\"examples\":[");
    for (int i = 0; i < report->example_count; i++) {
        gf_buf_adds(out, i ? "," : "");
        gf_buf_add_json(out, report->examples[i], strlen(report->examples[i]));
    }
    gf_buf_addf(out, "],\"ok\":%s}\n", load_violations(report) == 0 && report->accepted > 0 ? "true" : "false");
}
