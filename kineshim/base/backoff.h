/* SPDX-License-Identifier: Apache-2.0 */
/* Exponential back-off with jitter as a pure state machine: time comes in as an argument, nothing sleeps here. */
#ifndef KS_BASE_BACKOFF_H
#define KS_BASE_BACKOFF_H

#include <stdint.h>

struct ks_backoff {
	int64_t min_ms, max_ms;
	int64_t current_ms; /* 0 = the last attempt succeeded */
	uint64_t seed;
};

void ks_backoff_init(struct ks_backoff *backoff, int64_t min_ms, int64_t max_ms, uint64_t seed);
void ks_backoff_succeeded(struct ks_backoff *backoff);
/* Milliseconds to wait before the next attempt, in [current/2, current]; doubles each time up to max_ms. */
int64_t ks_backoff_failed(struct ks_backoff *backoff);

#endif
