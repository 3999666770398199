/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent shows itself upstream, so that a control plane sees its nodes: a permanent key PREFIX/nodes/ID and one under a lease, PREFIX/live/ID. The live key is
 * renewed by keepalives and rewritten when source or revision changed (at most each 'interval_ms'). The lease's end makes the node "lost".
 *
 * Threads: one of its own. Errors go to the board (an upstream that refuses writes is an alarm, and tried again seldom).
 */
#ifndef DPA_REGISTRY_H
#define DPA_REGISTRY_H

#include "client/etcdc.h"
#include "mirror/board.h"
#include "mirror/replica.h"

struct dpa_registry;

struct dpa_registry_config {
	struct etcdc *client;
	struct dpa_replica *replica;
	struct dpa_board *board;
	const char *prefix; /* "/dpagent" */
	const char *id, *role, *urls;
	int64_t ttl_s;       /* 0: a default (15) */
	int64_t interval_ms; /* 0: a default (5 s) */
};

struct dpa_registry *dpa_registry_start(const struct dpa_registry_config *config, struct ks_err *err);
void dpa_registry_stop(struct dpa_registry *registry); /* revokes the lease when upstream is there; NULL is fine */

#endif
