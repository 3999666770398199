/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread and one heap of deadlines (system clock) for everything that must happen later.
 *
 * Owner: a struct ks_timer is embedded in its user, who keeps it alive until it fired or ks_timer_cancel returned.
 * Threads: any may arm and cancel; call-backs run on the timer thread without any lock held, must not block, and may
 * re-arm their own timer. ks_timer_cancel returns only when the call-back is not running (unless called from it).
 */
#ifndef KS_BASE_TIMER_H
#define KS_BASE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct ks_timer;
struct ks_timers;
typedef void ks_timer_fn(struct ks_timer *timer);

struct ks_timer {
	ks_timer_fn *fire;
	int64_t deadline_ms;
	size_t slot; /* index in the heap + 1; 0 = not armed */
};

struct ks_timers *ks_timers_start(struct ks_err *err);
void ks_timers_stop(struct ks_timers *timers); /* joins; armed timers never fire; NULL is fine */
void ks_timer_init(struct ks_timer *timer, ks_timer_fn *fire);
void ks_timer_arm(struct ks_timers *timers, struct ks_timer *timer, int64_t delay_ms);
void ks_timer_cancel(struct ks_timers *timers, struct ks_timer *timer);

#endif
