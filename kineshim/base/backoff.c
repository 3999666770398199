/* SPDX-License-Identifier: Apache-2.0 */
/* The doubling and the jitter of backoff.h. */
#include "base/backoff.h"

#include "base/panic.h"

/* splitmix64: every seed, 0 included, gives a good sequence. */
static uint64_t next_random(uint64_t *seed)
{
	uint64_t z = (*seed += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

void ks_backoff_init(struct ks_backoff *backoff, int64_t min_ms, int64_t max_ms, uint64_t seed)
{
	KS_ASSERT(min_ms > 0 && min_ms <= max_ms);
	*backoff = (struct ks_backoff){.min_ms = min_ms, .max_ms = max_ms, .seed = seed};
}

void ks_backoff_succeeded(struct ks_backoff *backoff)
{
	backoff->current_ms = 0;
}

int64_t ks_backoff_failed(struct ks_backoff *backoff)
{
	int64_t half;

	if (backoff->current_ms == 0)
		backoff->current_ms = backoff->min_ms;
	else if (backoff->current_ms > backoff->max_ms / 2)
		backoff->current_ms = backoff->max_ms;
	else
		backoff->current_ms *= 2;

	half = backoff->current_ms / 2;
	return half + (int64_t)(next_random(&backoff->seed) % (uint64_t)(backoff->current_ms - half + 1));
}
