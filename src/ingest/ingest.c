/* SPDX-License-Identifier: Apache-2.0 */
/* The ingest role: wiring, readiness, drain. One loop thread; database threads in db.c, one watcher in pins.c.
 * Every part may be away at start and at any time later: the process stays up, /readyz says what is missing, requests
 * that need it get 503 with Retry-After, and all of it comes back by itself. SIGTERM: /readyz goes red, no new
 * connections, what is in flight is answered (its records are acknowledged), exit 0. */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/command.h"
#include "gf/log.h"
#include "gf/role.h"

#define DRAIN_LOOK_MS 20

struct drain {
    struct gf_timer *timer;
    int64_t deadline_ms;
};

struct role {
    struct gf_ingest ingest;
    struct drain drain;
};

/* ---- readiness ---- */

static bool on_ready(void *ctx, struct gf_buf *reason)
{
    struct gf_ingest *ingest = ctx;
    const struct {
        bool ok;
        const char *text;
    } checks[] = {
        {gf_db_up(ingest->db), "mysql is away"},
        {gf_balance_any_up(ingest->balance), "redis is away"},
        {gf_kafka_producer_ready(ingest->producer), "kafka is away"},
        {gf_pins_ok(ingest->pins), "kafka's partitions are not the pinned ones (or not known yet)"},
    };

    for (size_t i = 0; i < GF_COUNT(checks); i++) {
        if (checks[i].ok)
            continue;
        if (reason->len > 0)
            gf_buf_adds(reason, "; ");
        gf_buf_adds(reason, checks[i].text);
        if (i == 0)
            gf_sql_add_trouble(reason);
    }
    return reason->len == 0;
}

/* ---- Kafka ---- */

static void on_ack(void *ctx, void *opaque, enum gf_kafka_ack ack, int32_t partition, int64_t offset)
{
    struct gf_ingest *ingest = ctx;
    struct gf_produced *produced = opaque;

    if (!produced)
        return; /* a catalogue notice: nobody waits for it */
    if (ack == GF_KAFKA_PERSISTED)
        gf_lag_acked(ingest->lag, partition, offset);
    produced->on_ack(produced, ack);
}

static enum gf_class start_producer(struct gf_ingest *ingest, struct gf_error *error_r)
{
    const char *topics[] = {ingest->commands_topic, ingest->catalogue_topic};
    const struct gf_kafka_producer_opts opts = {.topics = topics,
                                                .topic_count = GF_COUNT(topics),
                                                .linger_ms = ingest->config->kafka_linger,
                                                .on_ack = on_ack,
                                                .ctx = ingest};
    enum gf_class class = gf_kafka_producer_create(ingest->config, &opts, &ingest->producer, error_r);

    if (class == GF_OK)
        gf_kafka_producer_attach(ingest->producer, ingest->loop);
    return class;
}

/* ---- ports ---- */

static enum gf_class start_ports(struct gf_ingest *ingest, struct gf_error *error_r)
{
    const struct gf_config *config = ingest->config;
    struct gf_http_opts opts = {
        .bind = config->ingest_bind,
        .port = (int)config->ingest_port,
        .header_max = (size_t)config->ingest_header_max,
        .body_max = (size_t)config->ingest_body_max,
        .origins = config->ingest_origins,
        .connections_max = gf_loop_allow_sockets(config->ingest_connections_max),
        .header_timeout_ms = config->ingest_header_timeout,
        .body_timeout_ms = config->ingest_body_timeout,
        .idle_timeout_ms = config->ingest_idle_timeout,
        .request_timeout_ms = config->ingest_request_timeout,
        .count_metrics = true,
    };
    enum gf_class class = gf_http_server_create(ingest->loop, &opts, gf_route_api, ingest, &ingest->api, error_r);

    if (class != GF_OK)
        return class;
    gf_log(GF_INFO, "api_started", "address=%s:%d", opts.bind, gf_http_server_port(ingest->api));
    if (ingest->admin_key_len == 0)
        return GF_OK;
    opts.bind = config->ingest_admin_bind;
    opts.port = (int)config->ingest_admin_port;
    opts.connections_max = 256;
    opts.origins = NULL; /* no page has business here */
    opts.count_metrics = false;
    class = gf_http_server_create(ingest->loop, &opts, gf_route_admin, ingest, &ingest->admin, error_r);
    if (class == GF_OK)
        gf_log(GF_INFO, "admin_started", "address=%s:%d", opts.bind, gf_http_server_port(ingest->admin));
    return class;
}

static enum gf_class read_admin_key(struct gf_ingest *ingest, struct gf_error *error_r)
{
    const char *path = ingest->config->auth_admin_key_file;

    if (path[0] == '\0')
        return GF_OK;
    return gf_config_secret(path, ingest->admin_key, sizeof(ingest->admin_key), &ingest->admin_key_len, error_r);
}

static enum gf_class start(struct gf_ingest *ingest, struct gf_error *error_r)
{
    enum gf_class class = gf_config_check_ingest(ingest->config, error_r);

    if (class == GF_OK)
        class = read_admin_key(ingest, error_r);
    if (class == GF_OK)
        class = gf_jwt_create(ingest->config, &ingest->jwt, error_r);
    if (class == GF_OK)
        class = start_producer(ingest, error_r);
    if (class != GF_OK)
        return class;
    ingest->lag = gf_lag_start(ingest);
    ingest->pins = gf_pins_start(ingest->config, ingest->commands_topic);
    ingest->db = gf_db_start(ingest->loop, ingest->config);
    ingest->balance = gf_balance_create(ingest->loop, ingest->config);
    ingest->catalogue = gf_catalogue_cache_create(ingest);
    ingest->balances = gf_balance_loader_create(ingest);
    ingest->limiter = gf_limiter_create(ingest->config->ingest_rate_per_second, ingest->config->ingest_double_click);
    class = start_ports(ingest, error_r);
    if (class == GF_OK)
        class = gf_ops_start(ingest->loop, ingest->config, "ingest", on_ready, ingest, &ingest->ops, error_r);
    return class;
}

/* ---- the end ---- */

static int in_flight(const struct gf_ingest *ingest)
{
    return gf_http_server_in_flight(ingest->api) + (ingest->admin ? gf_http_server_in_flight(ingest->admin) : 0) +
           gf_kafka_producer_pending(ingest->producer);
}

static void on_drain_look(void *ctx)
{
    struct role *role = ctx;
    int left = in_flight(&role->ingest);

    if (left > 0 && gf_clock_mono_ms() < role->drain.deadline_ms)
        return;
    gf_log(left > 0 ? GF_WARN : GF_INFO, "drain_finished", "left=%d", left);
    gf_timer_close(&role->drain.timer);
    gf_loop_stop(role->ingest.loop);
}

static void on_drain(void *ctx)
{
    struct role *role = ctx;
    struct gf_ingest *ingest = &role->ingest;

    gf_log(GF_INFO, "drain_started", "in_flight=%d", in_flight(ingest));
    ingest->draining = true;
    gf_ops_draining(ingest->ops);
    gf_http_server_drain(ingest->api);
    if (ingest->admin)
        gf_http_server_drain(ingest->admin);
    role->drain.deadline_ms = gf_clock_mono_ms() + ingest->config->ops_drain_timeout;
    role->drain.timer = gf_timer_start(ingest->loop, DRAIN_LOOK_MS, DRAIN_LOOK_MS, on_drain_look, role);
}

/* In this order each part's last callbacks find the parts that they use, and answer what a short drain left over. */
static void stop(struct gf_ingest *ingest)
{
    ingest->closing = true;
    gf_pins_stop(&ingest->pins);
    if (ingest->balance) {
        gf_db_stop(&ingest->db);
        gf_kafka_producer_close(&ingest->producer);
        gf_balance_close(&ingest->balance);
    }
    gf_kafka_producer_close(&ingest->producer);
    gf_lag_stop(&ingest->lag);
    gf_balance_loader_close(&ingest->balances);
    gf_catalogue_cache_close(&ingest->catalogue);
    gf_http_server_close(&ingest->api);
    gf_http_server_close(&ingest->admin);
    gf_ops_close(&ingest->ops);
    gf_limiter_destroy(&ingest->limiter);
    gf_jwt_destroy(&ingest->jwt);
    gf_buf_free(&ingest->scratch);
}

static int run(const struct gf_config *config, int argc, char **argv)
{
    struct role *role = gf_xcalloc(1, sizeof(*role));
    struct gf_ingest *ingest = &role->ingest;
    struct gf_error error;
    int status = 0;

    (void)argc;
    (void)argv;
    ingest->config = config;
    snprintf(ingest->commands_topic, sizeof(ingest->commands_topic), "%.100s.commands", config->kafka_prefix);
    snprintf(ingest->catalogue_topic, sizeof(ingest->catalogue_topic), "%.100s.catalogue", config->kafka_prefix);
    gf_buf_init(&ingest->scratch, 2 * GF_COMMAND_MAX);
    ingest->loop = gf_loop_create();
    gf_loop_on_signal(ingest->loop, config->ops_drain_timeout + GF_OPS_CLOSE_MS, on_drain, role);
    if (start(ingest, &error) == GF_OK) {
        gf_loop_run(ingest->loop);
    } else {
        gf_log(GF_ERROR, "start_failed", "error=\"%s\"", error.text);
        gf_loop_stop(ingest->loop);
        status = error.class == GF_REJECT ? 2 : 1;
    }
    stop(ingest);
    gf_loop_destroy(&ingest->loop);
    free(role);
    return status;
}

const struct gf_role gf_role_ingest = {
    .name = "ingest",
    .summary = "HTTP API: checks gifts against Redis and produces commands",
    .needs_config = true,
    .run = run,
};
