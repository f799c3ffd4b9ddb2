/* SPDX-License-Identifier: Apache-2.0 */
/* Blocking questions to the cluster: topics, their settings, partition counts, watermarks. One handle, any thread at a time; every call
 * ends within CALL_MS. The handle is a consumer without a group: unlike a producer's, its metadata requests never create
 * topics. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/clock.h"
#include "gf/kafka.h"
#include "kafka_internal.h"

#define CALL_MS 5000
#define CREATE_MS 15000

struct gf_kafka_admin {
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
};

enum gf_class gf_kafka_admin_create(const struct gf_config *config, struct gf_kafka_admin **admin_r,
                                    struct gf_error *error_r)
{
    rd_kafka_conf_t *conf = NULL;
    char text[200];
    enum gf_class class = gf_kafka_conf_new(config, &conf, error_r);
    rd_kafka_t *rk;

    if (class != GF_OK)
        return class;
    rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
    if (rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return gf_fail(error_r, GF_FATAL, errno, "kafka admin: %s", text);
    }
    *admin_r = gf_xcalloc(1, sizeof(**admin_r));
    (*admin_r)->rk = rk;
    (*admin_r)->queue = rd_kafka_queue_new(rk);
    return GF_OK;
}

void gf_kafka_admin_close(struct gf_kafka_admin **admin)
{
    if (*admin == NULL)
        return;
    rd_kafka_queue_destroy((*admin)->queue);
    rd_kafka_destroy((*admin)->rk);
    free(*admin);
    *admin = NULL;
}

/* OK: of this one topic. */
static enum gf_class get_metadata(struct gf_kafka_admin *admin, const char *topic, const struct rd_kafka_metadata **metadata_r,
                                  struct gf_error *error_r)
{
    rd_kafka_topic_t *handle = rd_kafka_topic_new(admin->rk, topic, NULL);
    rd_kafka_resp_err_t err;

    if (handle == NULL)
        return gf_fail(error_r, GF_REJECT, errno, "kafka: '%s' cannot be a topic's name", topic);
    err = rd_kafka_metadata(admin->rk, 0, handle, metadata_r, CALL_MS);
    rd_kafka_topic_destroy(handle);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return gf_kafka_fail(error_r, err, "metadata");
    if ((*metadata_r)->topic_cnt == 1)
        return GF_OK;
    rd_kafka_metadata_destroy(*metadata_r);
    return gf_fail(error_r, GF_RETRY, 0, "kafka: no metadata for topic %s", topic);
}

enum gf_class gf_kafka_topic_partitions(struct gf_kafka_admin *admin, const char *topic, int *partitions_r,
                                        struct gf_error *error_r)
{
    const struct rd_kafka_metadata *metadata;
    enum gf_class class = get_metadata(admin, topic, &metadata, error_r);

    if (class != GF_OK)
        return class;
    if (metadata->topics[0].err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        *partitions_r = 0;
    else if (metadata->topics[0].err != RD_KAFKA_RESP_ERR_NO_ERROR)
        class = gf_kafka_fail(error_r, metadata->topics[0].err, topic);
    else
        *partitions_r = metadata->topics[0].partition_cnt;
    rd_kafka_metadata_destroy(metadata);
    return class;
}

enum gf_class gf_kafka_topic_copies(struct gf_kafka_admin *admin, const char *topic, int *copies_r, struct gf_error *error_r)
{
    const struct rd_kafka_metadata *metadata;
    enum gf_class class = get_metadata(admin, topic, &metadata, error_r);
    const struct rd_kafka_metadata_topic *about;

    if (class != GF_OK)
        return class;
    about = &metadata->topics[0];
    *copies_r = 0;
    if (about->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        class = gf_kafka_fail(error_r, about->err, topic);
    for (int i = 0; i < about->partition_cnt; i++)
        if (i == 0 || about->partitions[i].replica_cnt < *copies_r)
            *copies_r = about->partitions[i].replica_cnt;
    rd_kafka_metadata_destroy(metadata);
    return class;
}

/* librdkafka would wait all of its time for a leader. */
static enum gf_class find_leader(struct gf_kafka_admin *admin, const char *topic, int32_t partition, struct gf_error *error_r)
{
    const struct rd_kafka_metadata *metadata;
    enum gf_class class = get_metadata(admin, topic, &metadata, error_r);
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;

    if (class != GF_OK)
        return class;
    for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
        if (metadata->topics[0].partitions[i].id == partition)
            err = metadata->topics[0].partitions[i].err;
    rd_kafka_metadata_destroy(metadata);
    return err == RD_KAFKA_RESP_ERR_NO_ERROR ? GF_OK : gf_kafka_fail(error_r, err, "watermarks");
}

enum gf_class gf_kafka_watermarks(struct gf_kafka_admin *admin, const char *topic, int32_t partition,
                                  struct gf_kafka_range *range_r, struct gf_error *error_r)
{
    enum gf_class class = find_leader(admin, topic, partition, error_r);
    struct gf_kafka_range range;
    rd_kafka_resp_err_t err;

    if (class != GF_OK)
        return class;
    err = rd_kafka_query_watermark_offsets(admin->rk, topic, partition, &range.low, &range.high, CALL_MS);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return gf_kafka_fail(error_r, err, "watermarks");
    *range_r = range;
    return GF_OK;
}

/* Sends the request and waits for its one result event; NULL when none came in time. */
static rd_kafka_event_t *request_create(struct gf_kafka_admin *admin, rd_kafka_NewTopic_t *topic)
{
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(admin->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_resp_err_t err;
    char text[200];

    err = rd_kafka_AdminOptions_set_request_timeout(options, CREATE_MS, text, sizeof(text));
    GF_ASSERT(err == RD_KAFKA_RESP_ERR_NO_ERROR);
    err = rd_kafka_AdminOptions_set_operation_timeout(options, CALL_MS, text, sizeof(text));
    GF_ASSERT(err == RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_CreateTopics(admin->rk, &topic, 1, options, admin->queue);
    rd_kafka_AdminOptions_destroy(options);
    return rd_kafka_queue_poll(admin->queue, CREATE_MS + 1000);
}

/* The topic's own error, else the request's. */
static rd_kafka_resp_err_t create_result(rd_kafka_event_t *event, char *text_r, size_t size)
{
    const rd_kafka_topic_result_t **topics;
    const char *text = rd_kafka_event_error_string(event);
    rd_kafka_resp_err_t err = rd_kafka_event_error(event);
    size_t count = 0;

    if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
        GF_ASSERT(count == 1);
        err = rd_kafka_topic_result_error(topics[0]);
        text = rd_kafka_topic_result_error_string(topics[0]);
    }
    snprintf(text_r, size, "%s", text != NULL ? text : rd_kafka_err2str(err));
    return err;
}

/* A new topic is seen by all brokers a little later than its creation is answered. */
static enum gf_class await_partitions(struct gf_kafka_admin *admin, const struct gf_kafka_topic_spec *spec,
                                      struct gf_error *error_r)
{
    int64_t deadline_ms = gf_clock_mono_ms() + CALL_MS;
    enum gf_class class;
    int partitions = 0;

    for (;;) {
        class = gf_kafka_topic_partitions(admin, spec->name, &partitions, error_r);
        if ((class != GF_RETRY && (class != GF_OK || partitions != 0)) || gf_clock_mono_ms() >= deadline_ms)
            break;
        gf_clock_sleep_ms(50);
    }
    if (class == GF_OK && partitions != spec->partitions)
        return gf_fail(error_r, GF_REJECT, 0, "kafka: topic %s has %d partitions, not %d", spec->name, partitions,
                       spec->partitions);
    return class;
}

enum gf_class gf_kafka_topic_create(struct gf_kafka_admin *admin, const struct gf_kafka_topic_spec *spec, bool *created_r,
                                    struct gf_error *error_r)
{
    char text[200] = "";
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(spec->name, spec->partitions, spec->replication, text, sizeof(text));
    rd_kafka_resp_err_t err;
    rd_kafka_event_t *event;
    enum gf_class class;

    if (topic == NULL)
        return gf_fail(error_r, GF_REJECT, 0, "kafka: topic %s: %s", spec->name, text);
    for (size_t i = 0; spec->settings != NULL && spec->settings[i] != NULL; i += 2) {
        err = rd_kafka_NewTopic_set_config(topic, spec->settings[i], spec->settings[i + 1]);
        GF_ASSERT(err == RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    event = request_create(admin, topic);
    rd_kafka_NewTopic_destroy(topic);
    if (event == NULL)
        return gf_fail(error_r, GF_RETRY, 0, "kafka: topic %s: no answer", spec->name);
    text[0] = '\0';
    err = create_result(event, text, sizeof(text));
    rd_kafka_event_destroy(event);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR && err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) {
        class = gf_kafka_fail(error_r, err, spec->name);
        return gf_fail(error_r, class, (int)err, "kafka: topic %s: %s", spec->name, text);
    }
    class = await_partitions(admin, spec, error_r);
    if (class == GF_OK)
        *created_r = err == RD_KAFKA_RESP_ERR_NO_ERROR;
    return class;
}

static rd_kafka_event_t *request_settings(struct gf_kafka_admin *admin, const char *topic)
{
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(admin->rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    rd_kafka_resp_err_t err;
    char text[200];

    GF_ASSERT(resource != NULL);
    err = rd_kafka_AdminOptions_set_request_timeout(options, CALL_MS, text, sizeof(text));
    GF_ASSERT(err == RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_DescribeConfigs(admin->rk, &resource, 1, options, admin->queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ConfigResource_destroy(resource);
    return rd_kafka_queue_poll(admin->queue, CALL_MS + 1000);
}

static void read_settings(const rd_kafka_ConfigResource_t *resource, struct gf_kafka_setting *settings, size_t count)
{
    size_t entry_count = 0;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resource, &entry_count);

    for (size_t i = 0; i < count; i++)
        settings[i].value[0] = '\0';
    for (size_t i = 0; i < entry_count; i++) {
        const char *name = rd_kafka_ConfigEntry_name(entries[i]), *value = rd_kafka_ConfigEntry_value(entries[i]);

        for (size_t k = 0; k < count && value != NULL; k++)
            if (strcmp(settings[k].name, name) == 0)
                gf_copy(settings[k].value, sizeof(settings[k].value), value);
    }
}

enum gf_class gf_kafka_topic_settings(struct gf_kafka_admin *admin, const char *topic, struct gf_kafka_setting *settings,
                                      size_t count, struct gf_error *error_r)
{
    rd_kafka_event_t *event = request_settings(admin, topic);
    const rd_kafka_ConfigResource_t **resources;
    enum gf_class class = GF_OK;
    rd_kafka_resp_err_t err;
    size_t resource_count = 0;

    if (event == NULL)
        return gf_fail(error_r, GF_RETRY, 0, "kafka: settings of topic %s: no answer", topic);
    err = rd_kafka_event_error(event);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        class = gf_kafka_fail(error_r, err, "settings");
        goto out;
    }
    resources = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &resource_count);
    GF_ASSERT(resource_count == 1);
    err = rd_kafka_ConfigResource_error(resources[0]);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
        class = gf_kafka_fail(error_r, err, topic);
    else
        read_settings(resources[0], settings, count);
out:
    rd_kafka_event_destroy(event);
    return class;
}
