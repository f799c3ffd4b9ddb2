/* SPDX-License-Identifier: Apache-2.0 */
/* Settings, log lines and error classes that producer, consumer and admin share. Threads: librdkafka calls on_log from its
 * own threads; everything else runs on the caller's. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "gf/log.h"
#include "kafka_internal.h"

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    gf_log(level <= 4 ? GF_WARN : GF_DEBUG, "kafka_noted", "client=%s facility=%s text=\"%.240s\"", rd_kafka_name(rk), facility,
           text);
}

enum gf_class gf_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct gf_error *error_r)
{
    char text[200];

    switch (rd_kafka_conf_set(conf, name, value, text, sizeof(text))) {
    case RD_KAFKA_CONF_OK:
        return GF_OK;
    case RD_KAFKA_CONF_INVALID:
        return gf_fail(error_r, GF_REJECT, 0, "kafka setting: %s", text);
    case RD_KAFKA_CONF_UNKNOWN:
        break;
    }
    GF_ASSERT(false && "unknown librdkafka setting");
    return GF_FATAL;
}

void gf_kafka_conf_set_i64(rd_kafka_conf_t *conf, const char *name, int64_t value)
{
    struct gf_error error;
    enum gf_class class;
    char text[24];

    snprintf(text, sizeof(text), "%" PRId64, value);
    class = gf_kafka_conf_set(conf, name, text, &error);
    GF_ASSERT(class == GF_OK); /* bounds stand in the configuration table and lie within librdkafka's */
}

enum gf_class gf_kafka_conf_new(const struct gf_config *config, rd_kafka_conf_t **conf_r, struct gf_error *error_r)
{
    static const char *const settings[][2] = {
        {"socket.keepalive.enable", "true"},
        {"socket.nagle.disable", "true"},
        {"socket.timeout.ms", "15000"},
        {"socket.connection.setup.timeout.ms", "3000"},
        /* A broker that is back is found within a second; the default climbs to ten. */
        {"reconnect.backoff.ms", "50"},
        {"reconnect.backoff.max.ms", "1000"},
        {"topic.metadata.refresh.interval.ms", "30000"},
        {"log.connection.close", "false"},
        /* Only init makes topics: a broker that may would make a lost one anew with a partition and settings of its own. */
        {"allow.auto.create.topics", "false"},
    };
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    enum gf_class class = gf_kafka_conf_set(conf, "bootstrap.servers", config->kafka_brokers, error_r);

    for (size_t i = 0; i < GF_COUNT(settings) && class == GF_OK; i++)
        class = gf_kafka_conf_set(conf, settings[i][0], settings[i][1], error_r);
    if (class != GF_OK) {
        rd_kafka_conf_destroy(conf);
        return class;
    }
    rd_kafka_conf_set_log_cb(conf, on_log);
    *conf_r = conf;
    return GF_OK;
}

enum gf_class gf_kafka_fail(struct gf_error *error_r, rd_kafka_resp_err_t err, const char *what)
{
    enum gf_class class = GF_RETRY;

    if (err == RD_KAFKA_RESP_ERR__FATAL || err == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
        err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED || err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
        err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED || err == RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL)
        class = GF_FATAL;
    else if (err == RD_KAFKA_RESP_ERR__INVALID_ARG || err == RD_KAFKA_RESP_ERR_INVALID_PARTITIONS ||
             err == RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR || err == RD_KAFKA_RESP_ERR_INVALID_CONFIG ||
             err == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION || err == RD_KAFKA_RESP_ERR_POLICY_VIOLATION)
        class = GF_REJECT;
    return gf_fail(error_r, class, (int)err, "kafka: %s: %s", what, rd_kafka_err2str(err));
}

int gf_kafka_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    if (fd < 0) /* out of descriptors: as with memory, the caps are sized not to reach it */
        abort();
    return fd;
}

void gf_kafka_eventfd_clear(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

void gf_kafka_queue_wake(rd_kafka_queue_t *queue, int fd)
{
    static const uint64_t one = 1; /* an eventfd takes exactly eight bytes */

    rd_kafka_queue_io_event_enable(queue, fd, &one, sizeof(one));
}

void gf_kafka_queue_hush(rd_kafka_queue_t *queue) { rd_kafka_queue_io_event_enable(queue, -1, NULL, 0); }
