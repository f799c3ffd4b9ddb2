/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Two clocks: real time for stamps that people and other programs read, monotonic for every deadline and latency. */
#include "gf/base.h"

int64_t gf_clock_real_ms(void);
int64_t gf_clock_mono_ms(void);
int64_t gf_clock_mono_us(void);
int64_t gf_clock_thread_us(void); /* processor time of this thread */
void gf_clock_sleep_ms(int64_t ms);
/* Bounded exponential back-off with full jitter in [base/2, min(max, base << attempt)]. */
int64_t gf_backoff_ms(int attempt, int64_t base_ms, int64_t max_ms);
void gf_random_bytes(void *bytes, size_t len);
