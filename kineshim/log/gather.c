/* SPDX-License-Identifier: Apache-2.0 */
/* See gather.h. */
#include "log/gather.h"

/* Do so many come that a full wait may be worth it? */
static bool busy(const struct ks_gather *gather, int64_t now_ms)
{
	return (int64_t)gather->lately * KS_GATHER_MS >= (now_ms - gather->since_ms) * KS_GATHER_WORTH;
}

void ks_gather_begin(struct ks_gather *gather, int64_t now_ms)
{
	if (now_ms - gather->since_ms >= KS_GATHER_TRY_MS) {
		gather->enough = busy(gather, now_ms) ? SIZE_MAX : 0;
		gather->lately = 0;
		gather->since_ms = now_ms;
	}
	gather->wanted = gather->enough;
	gather->until_ms = gather->wanted ? now_ms + KS_GATHER_MS : 0;
}

bool ks_gather_waits(const struct ks_gather *gather, size_t arrived, int64_t now_ms)
{
	return gather->until_ms && arrived < gather->wanted && now_ms < gather->until_ms;
}

void ks_gather_take(struct ks_gather *gather, size_t arrived, int64_t now_ms)
{
	gather->lately += arrived;
	if (gather->until_ms && now_ms >= gather->until_ms && gather->enough == SIZE_MAX)
		gather->enough = arrived < KS_GATHER_WORTH ? 0 : arrived / 4 * 3;
	gather->until_ms = 0;
}

void ks_gather_stop(struct ks_gather *gather)
{
	gather->until_ms = 0;
}
