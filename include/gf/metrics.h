/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Metrics: every series is declared once in the table below; storage, names, HELP texts and the Prometheus text format
 * come from it. Series of one family stand together. Threads: any (relaxed atomics). Labels never hold ids of users,
 * rooms or requests, so the number of series is fixed. */
#include "gf/base.h"

/* X(id, kind, family, labels, help) */
#define GF_METRIC_MAP(X)                                                                                              \
    X(HTTP_2XX, COUNTER, "giftflow_http_responses_total", "class=\"2xx\"", "HTTP responses by status class")           \
    X(HTTP_4XX, COUNTER, "giftflow_http_responses_total", "class=\"4xx\"", "HTTP responses by status class")           \
    X(HTTP_5XX, COUNTER, "giftflow_http_responses_total", "class=\"5xx\"", "HTTP responses by status class")           \
    X(HTTP_CUT, COUNTER, "giftflow_http_connections_cut_total", "", "connections closed for slow or malformed input, or slow reading") \
    X(HTTP_CONNECTIONS, GAUGE, "giftflow_http_connections", "", "open HTTP connections")                              \
    X(HTTP_IN_FLIGHT, GAUGE, "giftflow_http_in_flight", "", "requests being answered")                                \
    X(GIFT_ACCEPTED, COUNTER, "giftflow_gifts_total", "answer=\"accepted\"", "POST /v1/gifts by answer")               \
    X(GIFT_REPLAYED, COUNTER, "giftflow_gifts_total", "answer=\"replayed\"", "POST /v1/gifts by answer")               \
    X(GIFT_REFUSED, COUNTER, "giftflow_gifts_total", "answer=\"refused\"", "POST /v1/gifts by answer")                 \
    X(GIFT_LIMITED, COUNTER, "giftflow_gifts_total", "answer=\"rate_limited\"", "POST /v1/gifts by answer")            \
    X(GIFT_UNAVAILABLE, COUNTER, "giftflow_gifts_total", "answer=\"unavailable\"", "POST /v1/gifts by answer")         \
    X(RESERVE_STALE, COUNTER, "giftflow_reserve_stale_total", "", "reservations that first had to load the balance")  \
    X(INGEST_LAG_MS, GAUGE, "giftflow_ingest_oldest_unsettled_milliseconds", "", "age of the oldest unsettled record produced here") \
    X(WALLET_LOADS, COUNTER, "giftflow_wallet_loads_total", "", "wallets read from MySQL into Redis")                 \
    X(WALLET_BEHIND, COUNTER, "giftflow_wallet_behind_total", "", "loads older than Redis (replica or restore)")      \
    X(REDIS_DOWN, COUNTER, "giftflow_redis_disconnects_total", "", "connections to Redis lost or refused")            \
    X(REDIS_FOREIGN, COUNTER, "giftflow_redis_foreign_values_total", "", "values in Redis of no known format, replaced") \
    X(REDIS_TIMEOUTS, COUNTER, "giftflow_redis_timeouts_total", "", "Redis commands past their deadline")             \
    X(KAFKA_PERSISTED, COUNTER, "giftflow_kafka_records_total", "result=\"persisted\"", "records produced by result")  \
    X(KAFKA_NOT_PERSISTED, COUNTER, "giftflow_kafka_records_total", "result=\"not_persisted\"", "records produced by result") \
    X(KAFKA_MAYBE, COUNTER, "giftflow_kafka_records_total", "result=\"uncertain\"", "records produced by result")      \
    X(COMMANDS_SETTLED, COUNTER, "giftflow_commands_total", "outcome=\"settled\"", "consumed commands by outcome")     \
    X(COMMANDS_REJECTED, COUNTER, "giftflow_commands_total", "outcome=\"rejected\"", "consumed commands by outcome")   \
    X(COMMANDS_DUPLICATE, COUNTER, "giftflow_commands_total", "outcome=\"duplicate\"", "consumed commands by outcome") \
    X(COMMANDS_DEAD, COUNTER, "giftflow_commands_total", "outcome=\"dead\"", "consumed commands by outcome")           \
    X(REJECTED_GIFT_NOT_FOUND, COUNTER, "giftflow_commands_rejected_total", "reason=\"gift_not_found\"", "rejected commands by reason") \
    X(REJECTED_PRICE_MISMATCH, COUNTER, "giftflow_commands_rejected_total", "reason=\"price_mismatch\"", "rejected commands by reason") \
    X(REJECTED_QUANTITY_OUT_OF_RANGE, COUNTER, "giftflow_commands_rejected_total", "reason=\"quantity_out_of_range\"", "rejected commands by reason") \
    X(REJECTED_AMOUNT_OUT_OF_RANGE, COUNTER, "giftflow_commands_rejected_total", "reason=\"amount_out_of_range\"", "rejected commands by reason") \
    X(REJECTED_SELF_GIFT, COUNTER, "giftflow_commands_rejected_total", "reason=\"self_gift\"", "rejected commands by reason") \
    X(REJECTED_WALLET_NOT_FOUND, COUNTER, "giftflow_commands_rejected_total", "reason=\"wallet_not_found\"", "rejected commands by reason") \
    X(REJECTED_WALLET_FROZEN, COUNTER, "giftflow_commands_rejected_total", "reason=\"wallet_frozen\"", "rejected commands by reason") \
    X(REJECTED_INSUFFICIENT_BALANCE, COUNTER, "giftflow_commands_rejected_total", "reason=\"insufficient_balance\"", "rejected commands by reason") \
    X(REJECTED_CREDIT_REFUSED, COUNTER, "giftflow_commands_rejected_total", "reason=\"credit_refused\"", "rejected commands by reason") \
    X(DEAD_EMPTY, COUNTER, "giftflow_dead_letters_total", "reason=\"empty_record\"", "dead letters recorded, by reason") \
    X(DEAD_NOT_JSON, COUNTER, "giftflow_dead_letters_total", "reason=\"not_json\"", "dead letters recorded, by reason") \
    X(DEAD_VERSION, COUNTER, "giftflow_dead_letters_total", "reason=\"unknown_version\"", "dead letters recorded, by reason") \
    X(DEAD_TYPE, COUNTER, "giftflow_dead_letters_total", "reason=\"unknown_type\"", "dead letters recorded, by reason") \
    X(DEAD_FIELD, COUNTER, "giftflow_dead_letters_total", "reason=\"bad_field\"", "dead letters recorded, by reason") \
    X(DEAD_KEY, COUNTER, "giftflow_dead_letters_total", "reason=\"foreign_key\"", "dead letters recorded, by reason") \
    X(DEAD_PARTITION, COUNTER, "giftflow_dead_letters_total", "reason=\"foreign_partition\"", "dead letters recorded, by reason") \
    X(DEAD_ID_VERSION, COUNTER, "giftflow_dead_letters_total", "reason=\"bad_request_id\"", "dead letters recorded, by reason") \
    X(DEAD_NO_CREDIT, COUNTER, "giftflow_dead_letters_total", "reason=\"no_credit\"", "dead letters recorded, by reason") \
    X(DEAD_CREDIT_STATE, COUNTER, "giftflow_dead_letters_total", "reason=\"bad_credit\"", "dead letters recorded, by reason") \
    X(DEAD_ID_REUSED, COUNTER, "giftflow_dead_letters_total", "reason=\"id_reused\"", "dead letters recorded, by reason") \
    X(DEAD_SQL_REFUSED, COUNTER, "giftflow_dead_letters_total", "reason=\"sql_refused\"", "dead letters recorded, by reason") \
    X(DEAD_CRASH_LOOP, COUNTER, "giftflow_dead_letters_total", "reason=\"crash_loop\"", "dead letters recorded, by reason") \
    X(DEAD_TOO_LARGE, COUNTER, "giftflow_dead_letters_total", "reason=\"too_large\"", "dead letters recorded, by reason") \
    X(BATCHES, COUNTER, "giftflow_batches_total", "", "settlement transactions committed")                            \
    X(SETTLE_RETRY, COUNTER, "giftflow_settle_retries_total", "class=\"retry\"", "settlement transactions that failed, by class of the error") \
    X(SETTLE_RETRY_UNCERTAIN, COUNTER, "giftflow_settle_retries_total", "class=\"uncertain\"", "settlement transactions that failed, by class of the error") \
    X(SETTLE_RETRY_REJECT, COUNTER, "giftflow_settle_retries_total", "class=\"reject\"", "settlement transactions that failed, by class of the error") \
    X(SETTLE_RETRY_FATAL, COUNTER, "giftflow_settle_retries_total", "class=\"fatal\"", "settlement transactions that failed, by class of the error") \
    X(SETTLE_UNCERTAIN, COUNTER, "giftflow_settle_uncertain_commits_total", "", "COMMITs whose answer was lost and looked up") \
    X(SETTLE_FENCED, COUNTER, "giftflow_settle_fenced_total", "", "batches dropped because another process took over") \
    X(SETTLE_PARTITIONS, GAUGE, "giftflow_settle_partitions", "", "partitions owned")                                 \
    X(SETTLE_STOPPED, GAUGE, "giftflow_settle_stopped_partitions", "", "partitions that must not go on, or not before their bytes can be read: see the log") \
    X(SETTLE_WAITING, GAUGE, "giftflow_settle_waiting_partitions", "", "claimed partitions of which Kafka tells nothing") \
    X(SETTLE_LAG_RECORDS, GAUGE, "giftflow_settle_lag_records", "", "records of the owned partitions that are not settled, as the last fetch told: a full prefetch asks for no more") \
    X(SETTLE_LAG_MS, GAUGE, "giftflow_settle_oldest_age_milliseconds", "", "age of the oldest command taken: seconds of lag, rising while it cannot be settled") \
    X(STAGE_POLL, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"poll\"", "time of the lanes by stage of a batch") \
    X(STAGE_DECODE, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"decode\"", "time of the lanes by stage of a batch") \
    X(STAGE_FENCE, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"fence\"", "time of the lanes by stage of a batch") \
    X(STAGE_CREDITS, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"credits\"", "time of the lanes by stage of a batch") \
    X(STAGE_WALLETS, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"wallets\"", "time of the lanes by stage of a batch") \
    X(STAGE_PLAN, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"plan\"", "time of the lanes by stage of a batch") \
    X(STAGE_TRADES, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"trades\"", "time of the lanes by stage of a batch") \
    X(STAGE_UPDATE, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"update\"", "time of the lanes by stage of a batch") \
    X(STAGE_CHAIN, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"chain\"", "time of the lanes by stage of a batch") \
    X(STAGE_CLOSE, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"close\"", "time of the lanes by stage of a batch") \
    X(STAGE_COMMIT, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"commit\"", "time of the lanes by stage of a batch") \
    X(STAGE_PUBLISH, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"publish\"", "time of the lanes by stage of a batch") \
    X(STAGE_NOTICES, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"notices\"", "time of the lanes by stage of a batch") \
    X(STAGE_ACKS, COUNTER, "giftflow_settle_stage_microseconds_total", "stage=\"acks\"", "time of the lanes by stage of a batch") \
    X(STAGE_CPU_POLL, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"poll\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_DECODE, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"decode\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_FENCE, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"fence\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_CREDITS, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"credits\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_WALLETS, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"wallets\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_PLAN, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"plan\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_TRADES, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"trades\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_UPDATE, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"update\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_CHAIN, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"chain\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_CLOSE, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"close\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_COMMIT, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"commit\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_PUBLISH, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"publish\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_NOTICES, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"notices\"", "processor time of the lanes by stage of a batch") \
    X(STAGE_CPU_ACKS, COUNTER, "giftflow_settle_stage_cpu_microseconds_total", "stage=\"acks\"", "processor time of the lanes by stage of a batch") \
    X(PUBLISH_PENDING, GAUGE, "giftflow_publish_pending", "", "outcomes waiting for their Redis publish")             \
    X(PUBLISH_DROPPED, COUNTER, "giftflow_publish_dropped_total", "", "publishes dropped because Redis could not keep up; told again later") \
    X(PUBLISH_REFUSED, COUNTER, "giftflow_publish_refused_total", "", "publishes that Redis answered with an error")  \
    X(PUBLISHED, COUNTER, "giftflow_wallets_published_total", "", "wallets published to Redis")                       \
    X(NOTICES, COUNTER, "giftflow_notices_total", "", "notices acknowledged by Kafka")                                \
    X(ROUTER_NOTICES, COUNTER, "giftflow_router_notices_total", "", "notices read by the router")                     \
    X(ROUTER_BAD, COUNTER, "giftflow_router_bad_notices_total", "", "notices that do not parse")                      \
    X(ROUTER_GATEWAYS, GAUGE, "giftflow_router_gateways", "", "gateways linked")                                      \
    X(ROUTER_ACK_TIMEOUTS, COUNTER, "giftflow_router_ack_timeouts_total", "", "gateways that did not acknowledge in time") \
    X(WS_CONNECTIONS, GAUGE, "giftflow_ws_connections", "", "open live-room connections")                             \
    X(WS_REFUSED, COUNTER, "giftflow_ws_refused_total", "", "handshakes refused")                                     \
    X(WS_FRAMES, COUNTER, "giftflow_ws_frames_total", "", "frames sent to clients")                                   \
    X(WS_DROPPED, COUNTER, "giftflow_ws_dropped_frames_total", "", "room frames dropped for slow clients")            \
    X(WS_SLOW, COUNTER, "giftflow_ws_slow_closed_total", "", "clients closed for being too slow (4408)")              \
    X(WS_BAD, COUNTER, "giftflow_ws_protocol_errors_total", "", "clients closed for protocol errors")                 \
    X(ROLLUP_ROWS, COUNTER, "giftflow_rollup_trades_total", "", "trades rolled up into host income")                  \
    X(DLQ_FED, COUNTER, "giftflow_dlq_fed_total", "", "dead letters produced to the dlq topic")                       \
    X(VERIFY_TRADES, COUNTER, "giftflow_verify_checked_total", "what=\"trades\"", "rows that verify --watch has checked") \
    X(VERIFY_WALLETS, COUNTER, "giftflow_verify_checked_total", "what=\"wallets\"", "rows that verify --watch has checked") \
    X(VERIFY_CACHED, COUNTER, "giftflow_verify_checked_total", "what=\"cached\"", "rows that verify --watch has checked") \
    X(VERIFY_DRIFT_MYSQL, COUNTER, "giftflow_verify_drift_total", "where=\"mysql\"", "times that verify --watch found something wrong: an alarm where it is MySQL") \
    X(VERIFY_DRIFT_REDIS, COUNTER, "giftflow_verify_drift_total", "where=\"redis\"", "times that verify --watch found something wrong: an alarm where it is MySQL") \
    X(VERIFY_REPAIRED, COUNTER, "giftflow_verify_repaired_total", "", "cached wallets that verify --watch has mended") \
    X(VERIFY_LEFT, GAUGE, "giftflow_verify_unfollowed_records", "", "records settled that verify --watch had not looked at when its turn began") \
    X(VERIFY_ROUNDS, COUNTER, "giftflow_verify_full_passes_total", "", "rounds of verify --watch over everything")     \
    X(VERIFY_FULL_PASS, GAUGE, "giftflow_verify_last_full_pass_timestamp_seconds", "", "when the last round over everything ended") \
    X(VERIFY_ERRORS, COUNTER, "giftflow_verify_errors_total", "", "turns of verify --watch that could not be made")    \
    X(MYSQL_DOWN, COUNTER, "giftflow_mysql_disconnects_total", "", "connections to MySQL lost or refused")            \
    X(CATALOGUE_RELOADS, COUNTER, "giftflow_catalogue_reloads_total", "", "reloads of the gift catalogue")

/* H(id, family, help): histograms with base-2 buckets. Families that end in _seconds: from 0.25 ms to 32 s. Others: counts of 1 to 131072. */
#define GF_HISTOGRAM_MAP(H)                                                                        \
    H(HTTP_SECONDS, "giftflow_http_request_duration_seconds", "time from the last request byte to the answer") \
    H(SETTLE_SECONDS, "giftflow_settle_batch_duration_seconds", "time of one settlement transaction") \
    H(SETTLE_BATCH, "giftflow_settle_batch_commands", "commands of one settlement transaction") \
    H(SETTLE_AGE_SECONDS, "giftflow_settle_age_seconds", "from Kafka's append to the settled commit") \
    H(NOTICE_AGE_SECONDS, "giftflow_gateway_notice_age_seconds", "from Kafka's append of the notice to the gateway")

#define GF_METRIC_ENUM(id, kind, family, labels, help) GF_M_##id,
#define GF_HISTOGRAM_ENUM(id, family, help) GF_H_##id,
enum gf_metric { GF_METRIC_MAP(GF_METRIC_ENUM) GF_METRIC_COUNT };
enum gf_histogram { GF_HISTOGRAM_MAP(GF_HISTOGRAM_ENUM) GF_HISTOGRAM_COUNT };

struct gf_buf;
void gf_metric_add(enum gf_metric metric, int64_t delta);
void gf_metric_set(enum gf_metric metric, int64_t value);
int64_t gf_metric_get(enum gf_metric metric);
void gf_histogram_observe_us(enum gf_histogram histogram, int64_t us);
void gf_histogram_observe_count(enum gf_histogram histogram, int64_t count);
/* Appends the whole registry in Prometheus text format 0.0.4, process figures and giftflow_build_info included. */
void gf_metrics_render(const char *role, struct gf_buf *out);
