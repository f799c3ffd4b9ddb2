/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, back-off, randomness. See gf/clock.h. */
#include "gf/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#ifdef GF_POINTS
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* In test builds the real clock is wrong by as many ms as stand, as one int64, in the file that GIFTFLOW_CLOCK_STEP names; a
 * test that changes the number steps the clock of running processes. */
static pthread_once_t step_once = PTHREAD_ONCE_INIT;
static const _Atomic int64_t *step; /* written once */

static void map_step(void)
{
    const char *path = getenv("GIFTFLOW_CLOCK_STEP");
    int fd = path != NULL && *path != '\0' ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page;

    if (path == NULL || *path == '\0')
        return;
    page = fd >= 0 ? mmap(NULL, sizeof(*step), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (page == MAP_FAILED) {
        fprintf(stderr, "GIFTFLOW_CLOCK_STEP: cannot be read: %s\n", path);
        exit(2);
    }
    close(fd);
    step = page;
}

static int64_t step_ms(void)
{
    pthread_once(&step_once, map_step);
    return step != NULL ? atomic_load_explicit(step, memory_order_relaxed) : 0;
}
#else
static int64_t step_ms(void)
{
    return 0;
}
#endif

int64_t gf_clock_real_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + step_ms();
}

static int64_t clock_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t gf_clock_mono_us(void) { return clock_us(CLOCK_MONOTONIC); }

int64_t gf_clock_thread_us(void) { return clock_us(CLOCK_THREAD_CPUTIME_ID); }

int64_t gf_clock_mono_ms(void) { return gf_clock_mono_us() / 1000; }

void gf_clock_sleep_ms(int64_t ms)
{
    struct timespec rest = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

    GF_ASSERT(ms >= 0);
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        continue;
}

int64_t gf_backoff_ms(int attempt, int64_t base_ms, int64_t max_ms)
{
    uint32_t dice;
    int64_t top = base_ms;

    GF_ASSERT(attempt >= 0 && base_ms > 0 && max_ms >= base_ms);
    for (int i = 0; i < attempt && top < max_ms; i++)
        top *= 2;
    if (top > max_ms)
        top = max_ms;
    gf_random_bytes(&dice, sizeof(dice));
    return base_ms / 2 + (int64_t)(dice % (uint64_t)(top - base_ms / 2 + 1));
}

void gf_random_bytes(void *bytes, size_t len)
{
    uint8_t *at = bytes;

    while (len > 0) {
        ssize_t got = getrandom(at, len, 0);

        if (got < 0) {
            GF_ASSERT(errno == EINTR);
            continue;
        }
        at += got;
        len -= (size_t)got;
    }
}
