/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What producer, consumer and admin share: settings, log lines, error classes. Private to this folder. */
#include <librdkafka/rdkafka.h>

#include "gf/config.h"

/* Settings every client has (brokers, sockets, reconnects, log). The caller owns the conf. Asserts on unknown names: all
 * names are constants here; values that come from the configuration are checked and give REJECT. */
GF_NODISCARD enum gf_class gf_kafka_conf_new(const struct gf_config *config, rd_kafka_conf_t **conf_r,
                                             struct gf_error *error_r);
GF_NODISCARD enum gf_class gf_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value,
                                             struct gf_error *error_r);
void gf_kafka_conf_set_i64(rd_kafka_conf_t *conf, const char *name, int64_t value);
/* Fills error_r from a librdkafka code: transport and broker trouble is RETRY, what cannot heal is FATAL or REJECT. */
enum gf_class gf_kafka_fail(struct gf_error *error_r, rd_kafka_resp_err_t err, const char *what);
/* An eventfd wakes a loop when `queue` goes from empty to not empty; read it first, then drain. */
void gf_kafka_queue_wake(rd_kafka_queue_t *queue, int fd);
void gf_kafka_queue_hush(rd_kafka_queue_t *queue);
int gf_kafka_eventfd(void);
void gf_kafka_eventfd_clear(int fd);
