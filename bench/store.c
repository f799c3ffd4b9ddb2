/* SPDX-License-Identifier: Apache-2.0 */
/* giftflow-bench-store: the settlement transaction alone. The real store on a real server, windows made in memory: no Kafka,
 * no decoding, no Redis, no notices. One store per lane, each on a log of its own, one after the other on a quiet server.
 *   giftflow-bench-store --users U --gifts N [--batch B] [--lanes L] [--ids v4] [--mysql-pid P] [--seed S]; prints name=value lines.
 * Rates are noise on a busy machine; processor time per gift (server and client) is what to compare. Wallets come from
 * giftflow-bench-fill: benchmarks only. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bench.h"
#include "gf/metrics.h"
#include "settle/stage.h"
#include "settle/store_internal.h"

#define PARTITIONS 12

struct worker {
    const struct gf_config *config;
    pthread_t thread;
    int32_t lane, lanes; /* serves every partition with lane's remainder, a window each in turn */
    int64_t users, gifts, batch, server_pid, client_us;
    uint64_t random;
    bool time_ordered; /* ids of version 7, else of version 4 */
    struct claim claims[PARTITIONS];
};

static pthread_barrier_t barrier; /* between claiming and measuring */

static void must(enum gf_class class, const struct gf_error *error)
{
    if (class == GF_OK)
        return;
    fprintf(stderr, "giftflow-bench-store: %s\n", error->text);
    exit(1);
}

static struct gf_uuid make_id(struct worker *worker)
{
    uint64_t halves[2];
    struct gf_uuid id;

    if (worker->time_ordered)
        return gf_uuid_v7();
    halves[0] = bench_random(&worker->random);
    halves[1] = bench_random(&worker->random);
    memcpy(id.b, halves, sizeof(id.b));
    id.b[6] = (uint8_t)(0x40 | (id.b[6] & 0x0f));
    id.b[8] = (uint8_t)(0x80 | (id.b[8] & 0x3f));
    return id;
}

/* What Kafka and the decoder would have left. The users of a partition are those whose number has its remainder: as
 * disjoint as murmur2 makes them. */
static void make_window(struct worker *worker, struct batch *batch, int32_t partition, int64_t first_offset)
{
    for (int64_t i = 0; i < worker->batch; i++) {
        struct gf_command *command = &batch->commands[i];
        int64_t host = bench_host(&worker->random);

        *command = (struct gf_command){.off = first_offset + i,
                                       .append_ms = gf_clock_real_ms(),
                                       .readable = true,
                                       .kind = GF_KIND_GIFT,
                                       .request_id = make_id(worker),
                                       .receiver_id = host,
                                       .room_id = host - BENCH_HOST_BASE,
                                       .price = BENCH_PRICE,
                                       .gift_id = BENCH_GIFT,
                                       .quantity = 1};
        command->user_id = 1 + (int64_t)(bench_random(&worker->random) % (uint64_t)(worker->users / PARTITIONS)) * PARTITIONS +
                           partition;
        memcpy(command->fp, &command->user_id, sizeof(command->fp));
    }
    batch->partition = partition;
    batch->count = (int)worker->batch;
    batch_window(batch, 0, (int)worker->batch, first_offset);
}

/* ---- the server's thread of a lane's connection ---- */

static atomic_llong server_ns[STAGE_COUNT];
static _Thread_local char server_thread[96];
static _Thread_local int64_t server_before_ns;

/* Time on a processor so far; 0: not asked for, or another machine's. */
static int64_t read_server_ns(void)
{
    FILE *file = server_thread[0] != 0 ? fopen(server_thread, "re") : NULL;
    char text[100];
    int64_t ns = 0;

    if (!file)
        return 0;
    if (!fgets(text, sizeof(text), file) || sscanf(text, "%" SCNd64, &ns) != 1)
        ns = 0;
    (void)fclose(file);
    return ns;
}

static void probe(enum stage stage)
{
    int64_t now_ns = read_server_ns();

    atomic_fetch_add(&server_ns[stage], now_ns - server_before_ns);
    server_before_ns = now_ns;
}

static void find_server_thread(const struct store *store, int64_t pid)
{
    struct gf_sql_result *result = NULL;
    struct gf_error error;

    must(gf_sql_queryf(store->sql, &result, &error, "SELECT tid FROM information_schema.processlist WHERE id = CONNECTION_ID()"),
         &error);
    GF_ASSERT(gf_sql_next(result));
    snprintf(server_thread, sizeof(server_thread), "/proc/%" PRId64 "/task/%" PRId64 "/schedstat", pid, gf_sql_i64(result, 0));
    gf_sql_result_free(&result);
}

static void claim_logs(struct worker *worker, struct store *store)
{
    char topic[300];
    struct claim_request request = {.topic = topic, .owner = "bench-store"};
    enum claimed claimed;
    struct gf_error error;

    snprintf(topic, sizeof(topic), "%.200s.commands", worker->config->kafka_prefix);
    must(store_ready(store, &error), &error);
    for (request.partition = worker->lane; request.partition < PARTITIONS; request.partition += worker->lanes) {
        must(store_claim(store, &request, &worker->claims[request.partition], &claimed, &error), &error);
        GF_ASSERT(claimed == CLAIMED);
    }
}

static void *run(void *arg)
{
    struct worker *worker = arg;
    struct store *store = store_create(worker->config);
    struct batch *batch = batch_create((int)worker->batch);
    int32_t partition = worker->lane;
    struct gf_error error;

    claim_logs(worker, store);
    if (worker->server_pid)
        find_server_thread(store, worker->server_pid);
    pthread_barrier_wait(&barrier);
    for (int64_t done = 0; done < worker->gifts; done += worker->batch) {
        struct claim *claim = &worker->claims[partition];
        int64_t began_us;
        bool fenced;

        make_window(worker, batch, partition, claim->next_offset);
        began_us = gf_clock_thread_us();
        server_before_ns = read_server_ns();
        must(store_settle(store, batch, claim, &fenced, &error), &error);
        worker->client_us += gf_clock_thread_us() - began_us;
        GF_ASSERT(!fenced);
        if (batch->plan.settled != batch->n) {
            fprintf(stderr, "giftflow-bench-store: %d of %d settled\n", batch->plan.settled, batch->n);
            exit(1);
        }
        claim->next_offset = batch->next_offset;
        partition = partition + worker->lanes < PARTITIONS ? partition + worker->lanes : worker->lane;
    }
    batch_destroy(&batch);
    store_destroy(&store);
    return NULL;
}

static const struct {
    const char *name;
    enum gf_metric cpu;
} stages[] = {{"fence", GF_M_STAGE_CPU_FENCE},   {"credits", GF_M_STAGE_CPU_CREDITS}, {"wallets", GF_M_STAGE_CPU_WALLETS},
              {"plan", GF_M_STAGE_CPU_PLAN},     {"trades", GF_M_STAGE_CPU_TRADES},   {"update", GF_M_STAGE_CPU_UPDATE},
              {"chain", GF_M_STAGE_CPU_CHAIN},   {"close", GF_M_STAGE_CPU_CLOSE},     {"commit", GF_M_STAGE_CPU_COMMIT}};

int main(int argc, char **argv)
{
    static struct gf_config config;
    struct worker workers[PARTITIONS] = {0};
    int64_t lanes = bench_arg(argc, argv, "--lanes", 2), gifts = bench_arg(argc, argv, "--gifts", 500000);
    int64_t pid = bench_arg(argc, argv, "--mysql-pid", 0), seed = bench_arg(argc, argv, "--seed", gf_clock_real_ms());
    int64_t began_us, server, client_us = 0, took_us;
    double count;

    bench_config(&config);
    GF_ASSERT(lanes > 0 && lanes <= PARTITIONS);
    gf_sql_library_init();
    stage_probe = probe;
    config.settle_batch = bench_arg(argc, argv, "--batch", config.settle_batch);
    GF_ASSERT(pthread_barrier_init(&barrier, NULL, (unsigned)lanes + 1) == 0);
    for (int64_t i = 0; i < lanes; i++) {
        workers[i] = (struct worker){.config = &config,
                                     .lane = (int32_t)i,
                                     .lanes = (int32_t)lanes,
                                     .users = bench_arg(argc, argv, "--users", 100000),
                                     .gifts = gifts / lanes,
                                     .batch = config.settle_batch,
                                     .server_pid = pid,
                                     .time_ordered = strcmp(bench_text(argc, argv, "--ids", "v7"), "v4") != 0,
                                     .random = (uint64_t)(seed + i * 7919)};
        GF_ASSERT(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
    }
    pthread_barrier_wait(&barrier);
    began_us = gf_clock_mono_us();
    server = bench_process_us(pid);
    for (int64_t i = 0; i < lanes; i++) {
        pthread_join(workers[i].thread, NULL);
        client_us += workers[i].client_us;
    }
    took_us = gf_clock_mono_us() - began_us;
    count = (double)((gifts / lanes + config.settle_batch - 1) / config.settle_batch * config.settle_batch * lanes);
    printf("settled_per_s=%.0f\nmysql_us=%.2f\nclient_us=%.2f\n", count * 1e6 / (double)took_us,
           (double)(bench_process_us(pid) - server) / count, (double)client_us / count);
    printf("# us per gift: server's thread, client's thread\n");
    for (int i = STAGE_FENCE; i <= STAGE_COMMIT; i++)
        printf("%s=%.2f,%.2f\n", stages[i - STAGE_FENCE].name, (double)atomic_load(&server_ns[i]) / 1000 / count,
               (double)gf_metric_get(stages[i - STAGE_FENCE].cpu) / count);
    return 0;
}
