/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Configuration: one table. Every key is declared once below with its type, default (as text), bounds and help; the
 * struct, the INI parser, the environment overrides (GIFTFLOW_<SECTION>_<KEY>) and the reference all come from it.
 * Precedence: environment, then file, then default. An unknown key is an error with its line number. A line is '[section]',
 * 'key = value' or, behind ';' or '#', a comment; " ;" begins one behind a value too. Blanks around all of them mean nothing.
 * Types: INT, BOOL (yes/no), MS (250ms, 5s, 2m, 1h), BYTES (512, 16KiB, 1MiB), TEXT (fixed array).
 * Read-only after gf_config_load; shared by all threads. */
#include "gf/base.h"

#define GF_CONFIG_TEXT_MAX 512

/* X(section, key, type, default, min, max, help): sorted by section. For TEXT, max is the longest length. */
#define GF_CONFIG_MAP(X)                                                                                             \
    X(auth, hs256_secret_file, TEXT, "", 0, 500, "file with the HS256 secret (at least 32 bytes)")                   \
    X(auth, hs256_kid, TEXT, "", 0, 100, "key id of the HS256 key; required in tokens when two keys are set")         \
    X(auth, rs256_public_key_file, TEXT, "", 0, 500, "file with the RS256 public key (PEM)")                         \
    X(auth, rs256_kid, TEXT, "", 0, 100, "key id of the RS256 key; required in tokens when two keys are set")         \
    X(auth, issuer, TEXT, "", 0, 200, "required `iss`; empty: not checked")                                          \
    X(auth, audience, TEXT, "", 0, 200, "required `aud`; empty: not checked")                                        \
    X(auth, admin_key_file, TEXT, "", 0, 500, "file with the admin API's bearer key; empty: admin API off")          \
    X(catalogue, refresh, MS, "90s", 100, 3600000, "age at which a cached gift is read again")                       \
    X(catalogue, poll, MS, "500ms", 50, 60000, "how often max(ver) is polled; changes are seen this fast")            \
    X(catalogue, entries, INT, "1000", 1, 1000000, "gifts kept in the local cache, unknown ids included")            \
    X(catalogue, price_lead, MS, "5s", 0, 60000, "a changed price is valid from now plus this")                      \
    X(catalogue, price_grace, MS, "120s", 0, 3600000, "a price is honoured this long after its end (append time)")   \
    X(gateway, bind, TEXT, "127.0.0.1", 1, 100, "address of the WebSocket port")                                     \
    X(gateway, port, INT, "8081", 0, 65535, "WebSocket port; 0: any free port")                                      \
    X(gateway, link_bind, TEXT, "127.0.0.1", 1, 100, "address on which routers connect")                             \
    X(gateway, link_port, INT, "8082", 0, 65535, "port on which routers connect; 0: any free port")                  \
    X(gateway, link_advertise, TEXT, "", 0, 200, "host:port that routers use; empty: link_bind:link_port, which is then no 0.0.0.0 or ::") \
    X(gateway, origins, TEXT, "", 0, 500, "allowed Origin values, comma-separated; empty: same host only")           \
    X(gateway, connections_max, INT, "60000", 1, 1000000, "open client connections; fewer where `ulimit -Hn` is lower") \
    X(gateway, message_max, BYTES, "4KiB", 128, 1048576, "longest client message")                                   \
    X(gateway, queue_frames, INT, "256", 4, 65536, "frames queued per client before room frames are dropped")        \
    X(gateway, queue_bytes, BYTES, "1MiB", 4096, 67108864, "bytes queued per client before it is closed (4408)")     \
    X(gateway, ping, MS, "20s", 100, 600000, "heartbeat interval; a client silent for two of them is closed")        \
    X(gateway, handshake_timeout, MS, "10s", 100, 60000, "time to complete the WebSocket handshake")                 \
    X(gateway, announce, MS, "5s", 100, 60000, "how often the room set is published in Redis (TTL is three of these)") \
    X(ingest, bind, TEXT, "127.0.0.1", 1, 100, "address of the public API")                                          \
    X(ingest, port, INT, "8080", 0, 65535, "port of the public API; 0: any free port")                               \
    X(ingest, admin_bind, TEXT, "127.0.0.1", 1, 100, "address of the admin API")                                     \
    X(ingest, admin_port, INT, "8090", 0, 65535, "port of the admin API; 0: any free port")                          \
    X(ingest, body_max, BYTES, "16KiB", 256, 1048576, "longest request body")                                        \
    X(ingest, header_max, BYTES, "16KiB", 1024, 1048576, "longest request line plus headers")                        \
    X(ingest, connections_max, INT, "10000", 1, 1000000, "open client connections; fewer where `ulimit -Hn` is lower") \
    X(ingest, in_flight_max, INT, "5000", 1, 1000000, "requests being answered; more get 503")                       \
    X(ingest, header_timeout, MS, "10s", 100, 60000, "time to send the request line and headers")                    \
    X(ingest, body_timeout, MS, "10s", 100, 60000, "time to send the body")                                          \
    X(ingest, idle_timeout, MS, "30s", 100, 600000, "keep-alive idle time")                                          \
    X(ingest, request_timeout, MS, "12s", 100, 60000, "time in which a request is answered")                         \
    X(ingest, origins, TEXT, "", 0, 500, "web pages that may call the API: Origin values, comma-separated")          \
    X(ingest, rate_per_second, INT, "20", 1, 1000000, "gifts per user and second")                                   \
    X(ingest, gather, MS, "3ms", 0, 100, "reservations wait so long for others, which share a call to Redis with them") \
    X(ingest, double_click, MS, "500ms", 0, 10000, "equal keyless requests of a user within this time get 409")      \
    X(ingest, lease, MS, "15s", 1000, 600000, "how long an unanswered first call blocks its repeats")                \
    X(ingest, hold_ttl, MS, "10m", 1000, 86400000, "how long a hold lives when settlement never comes")              \
    X(ingest, marker_ttl, MS, "24h", 1000, 604800000, "how long an accepted key is replayed from Redis")             \
    X(ingest, redis_down, TEXT, "accept", 1, 10, "without Redis: accept (no hold, limiter per process) or refuse")   \
    X(ingest, lag_max, MS, "30s", 0, 3600000, "503 while the oldest unsettled command is older; 0: never")            \
    X(ingest, db_threads, INT, "2", 1, 64, "threads that read MySQL for cold balances and queries")                  \
    X(ingest, db_queue, INT, "10000", 16, 1000000, "reads waiting for those threads; more get 503")                  \
    X(kafka, brokers, TEXT, "127.0.0.1:9092", 1, 500, "bootstrap brokers, comma-separated")                          \
    X(kafka, prefix, TEXT, "giftflow", 1, 100, "topics are <prefix>.commands, .notices, .catalogue, .dlq, .pay.*")    \
    X(kafka, partitions, INT, "12", 1, 1024, "partitions of commands and notices, chosen at init and pinned")        \
    X(kafka, replication, INT, "1", 1, 7, "replication factor used by init")                                         \
    X(kafka, min_insync, INT, "1", 1, 7, "min.insync.replicas used by init")                                         \
    X(kafka, message_timeout, MS, "10s", 1000, 300000, "time in which a record must be acknowledged")                \
    X(kafka, linger, MS, "5ms", 0, 1000, "how long ingest lets commands gather before they are sent")                \
    X(kafka, fetch_wait, MS, "10ms", 1, 1000, "how long the broker waits until it has something for a consumer")      \
    X(kafka, compression, TEXT, "lz4", 1, 10, "producer compression: none, lz4, gzip, snappy, zstd")                 \
    X(kafka, session_timeout, MS, "10s", 1000, 300000, "consumer group session time-out (brokers refuse below 6s by default)") \
    X(log, level, TEXT, "info", 1, 10, "debug, info, warn or error")                                                 \
    X(mysql, hosts, TEXT, "", 0, 500, "servers, comma-separated: host:port or /path of a socket; the writable primary among them is used; empty: the three below") \
    X(mysql, socket, TEXT, "", 0, 200, "the one server's unix socket; empty: TCP")                                   \
    X(mysql, host, TEXT, "127.0.0.1", 1, 200, "the one server's address")                                            \
    X(mysql, port, INT, "3306", 1, 65535, "its port, and that of mysql.hosts without one")                           \
    X(mysql, user, TEXT, "giftflow", 1, 100, "user")                                                                 \
    X(mysql, password_file, TEXT, "", 0, 500, "file with the password; empty: none")                                 \
    X(mysql, database, TEXT, "giftflow", 1, 64, "database (letters, digits, _)")                                     \
    X(mysql, connect_timeout, MS, "2s", 1000, 60000, "connect time-out of each server (whole seconds)")              \
    X(mysql, read_timeout, MS, "20s", 1000, 600000, "read and write time-out (whole seconds; above lock waits)")     \
    X(ops, bind, TEXT, "127.0.0.1", 1, 100, "address of /healthz, /readyz and /metrics")                             \
    X(ops, port, INT, "0", 0, 65535, "operations port; 0: any free port (written to the log)")                       \
    X(ops, drain_timeout, MS, "25s", 100, 600000, "how long SIGTERM waits for work in flight; 10 s later the process ends as it is")                       \
    X(redis, url, TEXT, "redis://127.0.0.1:6379", 1, 500, "redis://host:port or unix:///path; several primaries with commas between, users are spread over them") \
    X(redis, password_file, TEXT, "", 0, 500, "file with the password; empty: none")                                 \
    X(redis, epoch, INT, "1", 1, 1000000, "prefix gf<epoch>: of every key; raise it after a MySQL restore")          \
    X(redis, timeout, MS, "2s", 50, 60000, "deadline of one command")                                                \
    X(router, ack_timeout, MS, "2s", 50, 60000, "a gateway that does not acknowledge in time is linked again; notices wait as long, at most, for one that was lost") \
    X(router, discover, MS, "1s", 50, 60000, "how often gateways are looked up in Redis")                            \
    X(router, batch, INT, "2000", 1, 16000, "notices handled at a time")                                             \
    X(settle, lanes, INT, "2", 1, 64, "settlement threads, each with one MySQL connection and its partitions")       \
    X(settle, batch, INT, "50000", 1, 100000, "most commands in one transaction: taken only when so many wait")        \
    X(settle, group, TEXT, "giftflow-settle", 1, 200, "consumer group")                                              \
    X(settle, queue_bytes, BYTES, "12MiB", 1048576, 17179869184, "prefetched commands, all partitions together; memory is about 2.5 times it") \
    X(settle, fetch_bytes, BYTES, "64KiB", 1, 1048576, "commands gather until they are so many bytes or kafka.fetch_wait is over; 1: no wait, more and smaller transactions") \
    X(settle, retry_max, MS, "30s", 1000, 600000, "a batch is retried this long, then given back")                   \
    X(settle, dirty_max, INT, "200000", 100, 10000000, "outcomes that may wait for their Redis publish")             \
    X(settle, publish, BOOL, "yes", 0, 1, "publish balances to Redis")                                               \
    X(settle, notices, BOOL, "yes", 0, 1, "produce notices")                                                         \
    X(sweep, rollup, MS, "1s", 50, 3600000, "how often host income is rolled up")                                    \
    X(sweep, rollup_rows, INT, "50000", 100, 1000000, "offsets per roll-up transaction")                             \
    X(sweep, dlq, MS, "1s", 50, 3600000, "how often dead letters are fed to the dlq topic")

#define GF_CONFIG_C_INT(name) int64_t name;
#define GF_CONFIG_C_BOOL(name) bool name;
#define GF_CONFIG_C_MS(name) int64_t name;
#define GF_CONFIG_C_BYTES(name) int64_t name;
#define GF_CONFIG_C_TEXT(name) char name[GF_CONFIG_TEXT_MAX];
#define GF_CONFIG_FIELD(section, key, type, def, min, max, help) GF_CONFIG_C_##type(section##_##key)

/* Fields are <section>_<key>, e.g. config->settle_lanes; durations in ms, sizes in bytes. */
struct gf_config {
    GF_CONFIG_MAP(GF_CONFIG_FIELD)
};

/* Defaults, then the file (path may be NULL), then the environment. REJECT names file, line and key. */
GF_NODISCARD enum gf_class gf_config_load(struct gf_config *config, const char *path, struct gf_error *error_r);
/* What only ingest needs: other roles may have another kafka.message_timeout, from their environment. */
GF_NODISCARD enum gf_class gf_config_check_ingest(const struct gf_config *config, struct gf_error *error_r);
/* Prints every key with its default and help: as an INI file (`config defaults`) or as a Markdown table (`config doc`). */
void gf_config_print_defaults(void);
void gf_config_print_doc(void);
/* Reads a secret file whole, without trailing newline, into secret_r[size]; REJECT if missing, empty or too long. */
GF_NODISCARD enum gf_class gf_config_secret(const char *path, char *secret_r, size_t size, size_t *len_r,
                                            struct gf_error *error_r);

/* One server: host and port, or the path of a socket with port 0. */
struct gf_host {
    char name[256];
    int port;
};
#define GF_MYSQL_HOSTS_MAX 8
/* The servers of mysql.hosts in order; without it the one of mysql.socket, or mysql.host and mysql.port. Returns their
 * number, -1 when the text is no such list. */
int gf_config_mysql_hosts(const struct gf_config *config, struct gf_host hosts_r[GF_MYSQL_HOSTS_MAX]);
/* Several primaries: redis.url names them, divided by commas, in the same order for every process. A user's keys live on one
 * of them, everything else on the first. Changing the list moves users, whose cache is then cold: no more than that. */
int gf_config_redis_shards(const struct gf_config *config);
/* The shard-th of them; REJECT says what is wrong with it. */
GF_NODISCARD enum gf_class gf_config_redis_host(const struct gf_config *config, int shard, struct gf_host *host_r,
                                                struct gf_error *error_r);
