/* SPDX-License-Identifier: Apache-2.0 */
/* See watch_rounds.h. */
#include "api/watch_rounds.h"

#include <stdbool.h>

void ks_watch_rounds_begin(struct ks_watch_rounds *rounds, int64_t now_us)
{
	rounds->began_us = now_us;
	rounds->responses = rounds->joined = 0;
}

/* Does the next round wait? This one says whether there is more than one revision to wait for. */
static bool rests_next(struct ks_watch_rounds *rounds)
{
	if (rounds->responses < KS_WATCH_ROUND_RESPONSES)
		return false;
	if (rounds->joined * 2 > rounds->responses)
		rounds->rests_left = KS_WATCH_RESTS_JOINED;
	else if (++rounds->since_rest >= KS_WATCH_TRIAL_ROUNDS)
		rounds->rests_left = KS_WATCH_RESTS_TRIAL;
	if (rounds->rests_left == 0)
		return false;
	rounds->rests_left--;
	rounds->since_rest = 0;
	return true;
}

int64_t ks_watch_rounds_end(struct ks_watch_rounds *rounds, int64_t now_us)
{
	int64_t took_us = now_us - rounds->began_us;

	rounds->began_us = 0;
	if (!rests_next(rounds))
		return 0;
	return took_us < KS_WATCH_REST_MAX_US ? took_us : KS_WATCH_REST_MAX_US;
}
