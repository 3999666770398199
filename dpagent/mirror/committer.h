/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The api's seam (store/committer.h) over the replica: reads need no proof, values are always in memory, maintenance has nothing to do.
 * Writes are refused with KS_FAILED_PRECONDITION and advice, or passed upstream: translated to upstream's numbers, answered when the mirror shows
 * what was written. Keys outside of the prefix are never passed. Users and roles are upstream's: their changes are always refused.
 *
 * Threads: any. 'client' NULL: read-only.
 */
#ifndef DPA_COMMITTER_H
#define DPA_COMMITTER_H

#include "client/etcdc.h"
#include "mirror/board.h"
#include "mirror/replica.h"
#include "store/committer.h"

struct dpa_committer_config {
	struct dpa_replica *replica;
	struct dpa_board *board;
	struct etcdc *client;    /* for forwarding; NULL: writes are refused */
	int64_t timeout_ms;      /* of a write; 0: a default */
	uint64_t member_id;      /* ours */
	const char *name;        /* borrowed */
	const char *client_urls; /* borrowed: what MemberList says */
	/* Takes out of a value that is put what discovery had put in; false: it stays. NULL: nothing does. (dpa_discovery_strip) */
	bool (*strip)(struct ks_slice value, struct ks_buf *out);
};

struct ks_committer *dpa_committer_start(const struct dpa_committer_config *config, struct ks_err *err);
/* After the api stopped: ends what waits, and frees it. NULL is fine. */
void dpa_committer_stop(struct ks_committer *base);

#endif
