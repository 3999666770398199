/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the reader of a stream of many small messages rests. Each message that has to be waited for costs a great deal more than one
 * that is there already: the core tells the client at once, with a write of its own, that its window is open again; another thread is
 * woken, and comes back for the next one. A reader that does not ask for a while finds several, and they leave with one write too.
 *
 * Whether that pays is measured: after so many messages that were waited for there is a trial, and as long as a rest is followed by
 * KS_REST_WORTH messages that were there, the next one that has to be waited for begins another. So somebody who sends now and then, or
 * only after the answer, is read at once.
 *
 * A pure state machine that is told the time. Owner: none inside. One thread.
 */
#ifndef KS_NET_REST_H
#define KS_NET_REST_H

#include <stdbool.h>
#include <stdint.h>

#define KS_REST_MS 10       /* the longest rest */
#define KS_REST_SOON_US 200 /* what takes no longer was there */
#define KS_REST_WORTH 3
#define KS_REST_TRY 256

struct ks_rest {
	bool pays;
	unsigned found; /* messages that were there, since the last one that was waited for */
	unsigned tries; /* messages that were waited for since the last trial */
};

/* A message came, so long after it was asked for. Shall the reader rest before it asks for the next one? */
bool ks_rest_begins(struct ks_rest *rest, int64_t waited_us);

#endif
