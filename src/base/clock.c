/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, back-off, randomness. See gf/clock.h. */
#include "gf/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

int64_t gf_clock_real_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
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
