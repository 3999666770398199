/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time as a value that tests can set. Monotonic milliseconds since an arbitrary start, for deadlines and back-off.
 * The system clock is ks_clock_system(); a fake one moves only when it is told. Threads: any.
 */
#ifndef KS_BASE_CLOCK_H
#define KS_BASE_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>

struct ks_clock {
	int64_t (*now_ms)(struct ks_clock *clock);
	_Atomic int64_t fake_ms; /* used by fake clocks only */
};

struct ks_clock *ks_clock_system(void);
void ks_clock_init_fake(struct ks_clock *clock, int64_t start_ms);
void ks_clock_advance(struct ks_clock *clock, int64_t ms);
/* The system clock in microseconds, for spans that are too short to be set by tests. */
int64_t ks_clock_us(void);

static inline int64_t ks_clock_now(struct ks_clock *clock)
{
	return clock->now_ms(clock);
}

#endif
