/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a stream of many watches waits a little before it sends again. A round is what one wake-up makes it send. A response costs nearly the
 * same with one revision and with several, so after a round of many responses the next one waits as long as that one took: then
 * each response carries more.
 *
 * It waits only where responses carried several revisions lately: a writer that waits for its events, or puts now and then, would only get
 * them later. Since rests themselves let a writer get ahead, there is a trial now and then.
 *
 * A pure state machine that is told the time. Owner: none inside. One thread.
 */
#ifndef KS_API_WATCH_ROUNDS_H
#define KS_API_WATCH_ROUNDS_H

#include <stddef.h>
#include <stdint.h>

#define KS_WATCH_ROUND_RESPONSES 64 /* fewer are nothing that others would wait behind */
#define KS_WATCH_REST_MAX_US 2000
#define KS_WATCH_RESTS_JOINED 8 /* after a round of responses with several revisions */
#define KS_WATCH_RESTS_TRIAL 4
#define KS_WATCH_TRIAL_ROUNDS 256 /* without a rest */

/* Starts zeroed. 'responses' and 'joined' are counted by the owner during a round. */
struct ks_watch_rounds {
	int64_t began_us; /* 0: no round is under way */
	size_t responses;
	size_t joined;       /* of them those with several revisions */
	unsigned rests_left; /* before it is certain that they do not pay */
	unsigned since_rest; /* rounds with many responses */
};

void ks_watch_rounds_begin(struct ks_watch_rounds *rounds, int64_t now_us);
/* Ends the round. How long the next one waits, in microseconds up to KS_WATCH_REST_MAX_US; 0: it does not. */
int64_t ks_watch_rounds_end(struct ks_watch_rounds *rounds, int64_t now_us);

#endif
