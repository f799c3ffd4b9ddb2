/* SPDX-License-Identifier: Apache-2.0 */
/* `giftflow load`: the load harness. Phases, each with a deadline: open the live connections, let routers learn the rooms,
 * send, drain (until every 202 has its outcome), linger (late repeats), ask by GET what is still open, close, report.
 * Exit status: 0 all is well, 1 a violation or it could not begin, 2 usage. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "gf/clock.h"
#include "gf/hash.h"
#include "gf/notice.h"
#include "gf/role.h"
#include "load.h"

#define OPEN_DEADLINE_US 60000000
#define ASK_DEADLINE_US 15000000
#define CLOSE_DEADLINE_US 5000000
#define LINGER_US 500000
#define ASK_MAX 10000
#define ROWS_MAX 50000000 /* closed loop: stops sending at this many requests */
#define POOR_SENDERS 10
#define TOKEN_SPARE_S 3600 /* the other phases, and a machine that stands still for a while */

uint64_t load_random(struct load *load)
{
    return gf_hash_u64(load->random += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
}

int64_t load_room_id(const struct load *load, int room) { return load->opts.room_base + room; }

/* Hosts live far above the senders' ids, so that nobody gives to himself by accident. */
int64_t load_receiver_id(const struct load *load, int room) { return INT64_C(9000000000) + load_room_id(load, room); }

int64_t load_token_end_s(const struct load *load)
{
    return gf_clock_real_ms() / 1000 + load->opts.seconds + load->opts.drain_s + TOKEN_SPARE_S;
}

static void enter(struct load *load, enum load_phase phase)
{
    GF_ASSERT(phase > load->phase || (phase == LOAD_OPENING && load->phase <= LOAD_OPENING));
    load->phase = phase;
    load->phase_us = gf_clock_mono_us();
}

/* ---- after the drain ---- */

static bool frame_could_come(const struct load *load, const struct load_request *request)
{
    const struct load_client *client = &load->clients[load->senders[request->sender].client];

    return client->opened_us != 0 && client->opened_us <= request->sent_us; /* open, without a break, since before it was sent */
}

static void ask_missing(struct load *load)
{
    uint32_t count = load->table.count, asked = 0;

    for (uint32_t row = 0; row < count && asked < ASK_MAX; row++) {
        if (!load->table.rows[row].accepted || load->table.rows[row].code != 0)
            continue;
        load_send_ask(load, row);
        asked++;
    }
}

/* The verdict over each request, when nothing more can come. */
static void judge_rows(struct load *load)
{
    struct load_report *report = &load->report;
    char detail[80];

    for (uint32_t row = 0; row < load->table.count; row++) {
        const struct load_request *request = &load->table.rows[row];
        bool refused = request->status >= 400 && request->status < 500 && request->attempts == 1;

        if (request->kind >= LOAD_REPEAT)
            continue;
        if (request->accepted && request->code == 0) {
            snprintf(detail, sizeof(detail), "user %" PRId64 ", sent at %.3f s", load->senders[request->sender].user_id,
                     (double)(request->sent_us - load->start_us) / 1e6);
            if (!request->by_get)
                load_violate(report, LOAD_V_NO_OUTCOME, &request->id, detail);
            else if (frame_could_come(load, request))
                load_violate(report, LOAD_V_NO_FRAME, &request->id, detail);
        }
        if (refused && request->code != 0) {
            snprintf(detail, sizeof(detail), "answer %d, then frame %d", request->status, request->code);
            load_violate(report, LOAD_V_REFUSED_HAD_EFFECT, &request->id, detail);
        }
    }
}

/* A gateway that lets nobody in shows no fault in what it sends. */
static void judge_clients(struct load *load)
{
    char detail[80];

    for (uint32_t i = 0; i < load->client_count && !load->interrupted; i++) {
        if (load->clients[i].opened_before)
            continue;
        snprintf(detail, sizeof(detail), "user %" PRId64 ", room %" PRId64, load->clients[i].user_id, load_room_id(load, load->clients[i].room));
        load_violate(&load->report, LOAD_V_NEVER_LIVE, NULL, detail);
    }
}

/* ---- phases ---- */

static void start_sending(struct load *load)
{
    load->start_us = gf_clock_mono_us();
    enter(load, LOAD_SENDING);
}

static void tick_before(struct load *load, int64_t in_phase_us)
{
    if (load->phase == LOAD_ASKING_GIFTS && load->asking == 0)
        enter(load, LOAD_OPENING);
    if (load->phase == LOAD_OPENING &&
        (load->open_count == load->client_count || load->interrupted || in_phase_us > OPEN_DEADLINE_US))
        enter(load, LOAD_WARMUP);
    else if (load->phase == LOAD_WARMUP && (in_phase_us >= load->opts.warmup_ms * 1000 || load->interrupted))
        start_sending(load);
}

static void tick_sending(struct load *load, int64_t in_phase_us)
{
    int64_t planned = load->opts.rate * load->opts.seconds;

    load_send_retries(load);
    if (!load->interrupted && load->table.count < ROWS_MAX && !(load_send_enough(load) && load->busy == 0)) {
        load_send_plan(load);
        if (in_phase_us < load->opts.seconds * 1000000)
            return;
        load->report.dropped += planned - load->next_planned; /* a generator that is too slow says so */
    }
    load->report.send_us = in_phase_us;
    enter(load, LOAD_DRAINING);
}

static void tick_after(struct load *load, int64_t in_phase_us)
{
    bool quiet = load->busy == 0 && load->awaiting == 0;

    switch (load->phase) {
    case LOAD_DRAINING:
        load_send_retries(load);
        if (!quiet && in_phase_us < load->opts.drain_s * 1000000)
            break;
        load->report.unanswered = load->busy;
        load->report.drain_us = gf_clock_mono_us() - load->start_us - load->report.send_us;
        load_send_purge(load);
        enter(load, LOAD_LINGER);
        break;
    case LOAD_LINGER:
        if (in_phase_us < LINGER_US)
            break;
        enter(load, LOAD_ASKING);
        ask_missing(load);
        break;
    case LOAD_ASKING:
        if (load->asking > 0 && in_phase_us < ASK_DEADLINE_US)
            break;
        judge_rows(load);
        judge_clients(load);
        enter(load, LOAD_CLOSING);
        load_live_close(load);
        break;
    case LOAD_CLOSING:
        if (load->open_count + load->connecting > 0 && in_phase_us < CLOSE_DEADLINE_US)
            break;
        enter(load, LOAD_DONE);
        gf_loop_stop(load->loop);
        break;
    case LOAD_ASKING_GIFTS:
    case LOAD_OPENING:
    case LOAD_WARMUP:
    case LOAD_SENDING:
    case LOAD_DONE:
        break;
    }
}

static void on_tick(void *ctx)
{
    struct load *load = ctx;
    int64_t in_phase_us = gf_clock_mono_us() - load->phase_us;

    if (load->phase == LOAD_ASKING_GIFTS && load->asking == 0 && load->opts.gift_count == 0) {
        gf_loop_stop(load->loop); /* load_run says why */
        return;
    }
    load_live_tick(load);
    if (load->phase < LOAD_SENDING)
        tick_before(load, in_phase_us);
    else if (load->phase == LOAD_SENDING)
        tick_sending(load, in_phase_us);
    else
        tick_after(load, in_phase_us);
}

static int64_t processor_us(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * INT64_C(1000000) + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

struct load *load_create(const struct gf_config *config, const struct load_opts *opts)
{
    struct load *load = gf_xcalloc(1, sizeof(*load));

    load->config = config;
    load->opts = *opts;
    load->random = (uint64_t)opts->seed;
    load->retry_head = LOAD_NONE;
    return load;
}

enum gf_class load_run(struct load *load, struct gf_loop *loop, struct gf_error *error_r)
{
    int64_t poor = load->opts.poor_from ? load->opts.poor_to - load->opts.poor_from + 1 : 0;
    int64_t expected = load->opts.rate * load->opts.seconds + 1024;
    char token[GF_JWT_MAX];
    enum gf_class class = gf_jwt_create(load->config, &load->jwt, error_r);

    if (class == GF_OK)
        class = gf_jwt_sign(load->jwt, load->opts.user_from, load_token_end_s(load), token, sizeof(token), error_r);
    if (class != GF_OK)
        return class;
    load->loop = loop;
    load->poor_first = (uint32_t)load->opts.senders;
    load->sender_count = load->poor_first + (uint32_t)(poor < POOR_SENDERS ? poor : POOR_SENDERS);
    load_table_init(&load->table, (uint32_t)(expected > 1000000 ? 1000000 : expected));
    load_send_init(load);
    load_live_init(load);
    (void)gf_loop_allow_sockets((int64_t)load->sender_count + load->client_count); /* it says where there is less */
    load->phase_us = load->start_us = gf_clock_mono_us();
    if (load->opts.gift_count == 0)
        load_send_catalogue(load);
    else
        enter(load, LOAD_OPENING);
    gf_loop_on_turn(loop, load_send_turn, load);
    load->tick = gf_timer_start(loop, 1, 1, on_tick, load);
    gf_loop_run(loop);
    gf_timer_close(&load->tick);
    load->report.cpu_us = processor_us();
    if (load->phase == LOAD_ASKING_GIFTS)
        return gf_fail(error_r, GF_FATAL, 0, "GET /v1/gifts at %s:%d gave no gift: is ingest there, is anything on sale?",
                       load->opts.ingest[0].host, load->opts.ingest[0].port);
    return GF_OK;
}

void load_destroy(struct load **load)
{
    if (!*load)
        return;
    if ((*load)->open_count + (*load)->connecting > 0)
        return; /* connections that did not close in time still point here; the process is about to end */
    load_send_free(*load);
    load_live_free(*load);
    load_table_free(&(*load)->table);
    gf_jwt_destroy(&(*load)->jwt);
    free(*load);
    *load = NULL;
}

static void on_signal(void *ctx) { ((struct load *)ctx)->interrupted = true; }

static int run(const struct gf_config *config, int argc, char **argv)
{
    static struct load_opts opts;
    struct gf_error error;
    struct gf_loop *loop = NULL;
    struct load *load = NULL;
    struct gf_buf out;
    int status = 1;

    if (load_opts_parse(config, argc, argv, &opts, &error) != GF_OK) {
        fprintf(stderr, "giftflow load: %s\n", error.text);
        return 2;
    }
    gf_buf_init(&out, 1 << 20);
    loop = gf_loop_create();
    load = load_create(config, &opts);
    gf_loop_on_signal(loop, 0, on_signal, load);
    if (load_run(load, loop, &error) != GF_OK) {
        fprintf(stderr, "giftflow load: %s\n", error.text);
        goto out;
    }
    if (opts.json)
        load_report_json(&load->opts, &load->report, &out);
    else
        load_report_human(&load->opts, &load->report, &out);
    GF_ASSERT(gf_buf_ok(&out));
    fputs(out.data, stdout);
    status = load_violations(&load->report) > 0 || load->report.accepted == 0 ? 1 : 0;
out:
    load_destroy(&load);
    gf_loop_destroy(&loop);
    gf_buf_free(&out);
    return status;
}

const struct gf_role gf_role_load = {
    .name = "load",
    .summary = "sends gifts, watches the screens, and checks that each accepted gift has one outcome",
    .usage = "[--ingest URL,..] [--gateway URL,..] [--users FROM-TO] [--poor FROM-TO]\n"
             "       [--rooms N] [--room-base ID] [--viewers N] [--senders N] [--gift ID,..] [--rate N] [--seconds N] [--drain N]\n"
             "       [--count N] [--warmup MS] [--bad-percent N] [--seed N] [--json]\n\n"
             "  --rate N         gifts a second, sent at planned times; latencies count from those. 0: as fast as it may\n"
             "  --count N        with --rate 0: that many requests, then waits for their outcomes (--seconds at most)\n"
             "  --bad-percent N  that share are repeats, other bodies under used keys, self-gifts, unknown gifts, bad shapes\n"
             "  --poor FROM-TO   users with (nearly) no coins: ten more senders whose gifts are mostly refused\n"
             "  --gift ID,..     default: all that GET /v1/gifts lists",
    .needs_config = true,
    .run = run,
};
