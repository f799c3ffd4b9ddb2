/* SPDX-License-Identifier: Apache-2.0 */
/* Database threads of ingest: a bounded queue of jobs, N threads with one MySQL connection each, results posted back to
 * the loop. Threads: gf_db_submit, gf_db_stop and on_done: the loop's; run: a database thread; `lock` guards both lists
 * and the flags. Failures: a job never waits longer than its deadline for its start (the loop looks for overdue ones),
 * and is refused at once while no thread is connected. Each thread reconnects by itself with back-off. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "gf/clock.h"
#include "gf/log.h"
#include "ingest.h"

#define CHECK_MS 1000
#define RETRY_BASE_MS 100
#define RETRY_MAX_MS 2000
#define OVERDUE_MS 100 /* how often the loop looks for jobs past their deadline */

struct list {
    struct gf_job *first, *last;
    int count;
};

struct gf_db {
    const struct gf_config *config;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list waiting, finished; /* locks: lock */
    bool stopping;                 /* locks: lock */
    atomic_int up;                 /* connected threads */
    int pending;                   /* loop's: submitted, on_done not run yet */
    struct gf_async *async;
    struct gf_timer *timer;
    pthread_t *threads;
    size_t thread_count;
};

static void list_push(struct list *list, struct gf_job *job)
{
    job->next = NULL;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
    list->count++;
}

static struct gf_job *list_pop(struct list *list)
{
    struct gf_job *job = list->first;

    if (!job)
        return NULL;
    list->first = job->next;
    if (!list->first)
        list->last = NULL;
    list->count--;
    return job;
}

/* ---- a database thread ---- */

/* thread: database; locks: lock is held. Waits for work, at most timeout_ms. */
static struct gf_job *wait_for_job(struct gf_db *db, int64_t timeout_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (!db->stopping && !db->waiting.first)
        if (pthread_cond_timedwait(&db->wake, &db->lock, &until) != 0)
            break;
    return db->stopping ? NULL : list_pop(&db->waiting);
}

static void finish(struct gf_db *db, struct gf_job *job)
{
    bool first;

    pthread_mutex_lock(&db->lock);
    first = db->finished.first == NULL;
    list_push(&db->finished, job);
    pthread_mutex_unlock(&db->lock);
    if (first)
        gf_async_wake(db->async);
}

static bool stopping(struct gf_db *db)
{
    bool stop;

    pthread_mutex_lock(&db->lock);
    stop = db->stopping;
    pthread_mutex_unlock(&db->lock);
    return stop;
}

/* Serves jobs until the connection is lost, its server is no primary any more, or the pool stops. */
static void serve(struct gf_db *db, struct gf_sql *sql)
{
    int64_t checked_ms = gf_clock_mono_ms();
    struct gf_error error;

    while (!stopping(db)) {
        struct gf_job *job;

        pthread_mutex_lock(&db->lock);
        job = wait_for_job(db, CHECK_MS);
        pthread_mutex_unlock(&db->lock);
        if (job) {
            job->error = (struct gf_error){0};
            job->class = job->run(job, sql, &job->error);
            finish(db, job);
        }
        if (!gf_sql_lost(sql) && gf_clock_mono_ms() - checked_ms >= CHECK_MS) {
            checked_ms = gf_clock_mono_ms();
            if (gf_sql_ping(sql, &error) != GF_OK)
                gf_log(GF_WARN, "mysql_checked", "error=\"%s\"", error.text);
        }
        if (gf_sql_lost(sql))
            return;
    }
}

/* Sleeps in small steps, so that a stop is not held up. */
static void pause_before_retry(struct gf_db *db, int attempt)
{
    int64_t until_ms = gf_clock_mono_ms() + gf_backoff_ms(attempt, RETRY_BASE_MS, RETRY_MAX_MS);

    while (!stopping(db) && gf_clock_mono_ms() < until_ms)
        gf_clock_sleep_ms(50);
}

static void *run_thread(void *arg)
{
    struct gf_db *db = arg;
    struct gf_error error;
    int attempt = 0;

    while (!stopping(db)) {
        struct gf_sql *sql = NULL;

        if (gf_sql_connect(db->config, GF_SQL_PLAIN, &sql, &error) != GF_OK) {
            gf_log(GF_WARN, "mysql_refused", "attempt=%d error=\"%s\"", attempt, error.text);
            pause_before_retry(db, attempt++);
            continue;
        }
        attempt = 0;
        atomic_fetch_add(&db->up, 1);
        serve(db, sql);
        atomic_fetch_sub(&db->up, 1);
        if (gf_sql_lost(sql))
            gf_log(GF_WARN, "mysql_disconnected", "threads_up=%d", atomic_load(&db->up));
        gf_sql_close(&sql);
    }
    return NULL;
}

/* ---- the loop's side ---- */

static void run_done(struct gf_db *db, struct gf_job *job)
{
    db->pending--;
    job->on_done(job, job->class, &job->error);
}

static void on_finished(void *ctx)
{
    struct gf_db *db = ctx;
    struct list finished;

    pthread_mutex_lock(&db->lock);
    finished = db->finished;
    db->finished = (struct list){0};
    pthread_mutex_unlock(&db->lock);
    for (struct gf_job *job; (job = list_pop(&finished)) != NULL;)
        run_done(db, job);
}

/* Takes jobs that may not wait any longer: the overdue ones, or all. */
static void give_up(struct gf_db *db, bool all, const char *why)
{
    struct list kept = {0}, given_up = {0};
    int64_t now_ms = gf_clock_mono_ms();

    pthread_mutex_lock(&db->lock);
    for (struct gf_job *job; (job = list_pop(&db->waiting)) != NULL;)
        list_push(all || job->deadline_ms <= now_ms ? &given_up : &kept, job);
    db->waiting = kept;
    pthread_mutex_unlock(&db->lock);
    for (struct gf_job *job; (job = list_pop(&given_up)) != NULL;) {
        job->class = gf_fail(&job->error, GF_RETRY, 0, "mysql: %s", why);
        run_done(db, job);
    }
}

static void on_timer(void *ctx)
{
    struct gf_db *db = ctx;

    if (db->pending > 0)
        give_up(db, !gf_db_up(db), gf_db_up(db) ? "no answer in time" : "not connected");
}

struct gf_db *gf_db_start(struct gf_loop *loop, const struct gf_config *config)
{
    struct gf_db *db = gf_xcalloc(1, sizeof(*db));
    pthread_condattr_t attr;

    db->config = config;
    db->thread_count = (size_t)config->ingest_db_threads;
    db->threads = gf_xcalloc(db->thread_count, sizeof(db->threads[0]));
    GF_ASSERT(pthread_mutex_init(&db->lock, NULL) == 0);
    GF_ASSERT(pthread_condattr_init(&attr) == 0);
    GF_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    GF_ASSERT(pthread_cond_init(&db->wake, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
    db->async = gf_async_create(loop, on_finished, db);
    db->timer = gf_timer_start(loop, OVERDUE_MS, OVERDUE_MS, on_timer, db);
    for (size_t i = 0; i < db->thread_count; i++)
        GF_ASSERT(pthread_create(&db->threads[i], NULL, run_thread, db) == 0);
    return db;
}

enum gf_class gf_db_submit(struct gf_db *db, struct gf_job *job)
{
    bool taken;

    GF_ASSERT(job->run && job->on_done);
    if (!db || !gf_db_up(db))
        return GF_RETRY;
    if (job->deadline_ms == 0)
        job->deadline_ms = gf_clock_mono_ms() + db->config->ingest_request_timeout;
    pthread_mutex_lock(&db->lock);
    taken = !db->stopping && db->waiting.count < db->config->ingest_db_queue;
    if (taken) {
        list_push(&db->waiting, job);
        pthread_cond_signal(&db->wake);
    }
    pthread_mutex_unlock(&db->lock);
    if (!taken)
        return GF_RETRY;
    db->pending++;
    return GF_OK;
}

bool gf_db_up(const struct gf_db *db)
{
    return atomic_load_explicit(&db->up, memory_order_relaxed) > 0;
}

int gf_db_pending(const struct gf_db *db)
{
    return db->pending;
}

void gf_db_stop(struct gf_db **db)
{
    struct gf_db *stopped;

    if (!db || !*db)
        return;
    stopped = *db;
    pthread_mutex_lock(&stopped->lock);
    stopped->stopping = true;
    pthread_cond_broadcast(&stopped->wake);
    pthread_mutex_unlock(&stopped->lock);
    for (size_t i = 0; i < stopped->thread_count; i++)
        GF_ASSERT(pthread_join(stopped->threads[i], NULL) == 0);
    on_finished(stopped);
    give_up(stopped, true, "stopping");
    GF_ASSERT(stopped->pending == 0);
    gf_timer_close(&stopped->timer);
    gf_async_close(&stopped->async);
    (void)pthread_cond_destroy(&stopped->wake);
    (void)pthread_mutex_destroy(&stopped->lock);
    free(stopped->threads);
    free(stopped);
    *db = NULL;
}
