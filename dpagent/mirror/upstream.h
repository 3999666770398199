/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client side: keeps the replica equal to upstream, for ever. Connects (several endpoints, fail-over by libetcdc), finds out whether
 * upstream still has the history that the replica knows, watches from there, lists the whole where it must, and compares from time to time.
 *
 * Threads: one of its own plus libetcdc's. Errors at run time go to the board, never end it.
 */
#ifndef DPA_UPSTREAM_H
#define DPA_UPSTREAM_H

#include "client/etcdc.h"
#include "mirror/board.h"
#include "mirror/replica.h"

struct dpa_upstream;

struct dpa_upstream_config {
	struct etcdc *client; /* borrowed, outlives the upstream */
	struct dpa_replica *replica;
	struct dpa_board *board;
	bool accept_empty;
	int64_t verify_interval_ms; /* comparing keys and revisions of the whole prefix; 0: never */
	int64_t page_keys;          /* of listings; 0: a default */
	int64_t idle_ms; /* silence after which progress is asked for, and after twice that the watch is opened anew; 0: a default */
};

struct dpa_upstream *dpa_upstream_start(const struct dpa_upstream_config *config, struct ks_err *err);
/* Waits until the replica once equalled upstream (or holds against an empty one). False after 'wait_ms'. */
bool dpa_upstream_wait(struct dpa_upstream *upstream, int64_t wait_ms);
/* The empty listing that is held against counts after all, once. Any thread; only signals. False: nothing is held. */
bool dpa_upstream_accept_empty(struct dpa_upstream *upstream);
bool dpa_upstream_connected(struct dpa_upstream *upstream);
void dpa_upstream_stop(struct dpa_upstream *upstream); /* NULL is fine */

#endif
