/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks of clock.h: the system's, and one that moves only when it is told. */
#include "base/clock.h"

#include <time.h>

#include "base/panic.h"

static int64_t system_now_ms(struct ks_clock *clock)
{
	struct timespec now;

	(void)clock;
	KS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t ks_clock_us(void)
{
	struct timespec now;

	KS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t fake_now_ms(struct ks_clock *clock)
{
	return atomic_load(&clock->fake_ms);
}

struct ks_clock *ks_clock_system(void)
{
	static struct ks_clock clock = {.now_ms = system_now_ms};

	return &clock;
}

void ks_clock_init_fake(struct ks_clock *clock, int64_t start_ms)
{
	clock->now_ms = fake_now_ms;
	atomic_init(&clock->fake_ms, start_ms);
}

void ks_clock_advance(struct ks_clock *clock, int64_t ms)
{
	KS_ASSERT(clock->now_ms == fake_now_ms);
	KS_ASSERT(ms >= 0);
	atomic_fetch_add(&clock->fake_ms, ms);
}
