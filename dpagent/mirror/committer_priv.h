/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the committer share.
 *
 *	committer.c           the seam: reads, status, members, chores; what is refused
 *	committer_forward.c   writes on their way upstream, and the thread that answers them when the mirror shows them
 *	committer_lease.c     leases: they are upstream's alone
 *	committer_request.c   requests of the api → etcd's messages, local numbers → upstream's
 *	committer_result.c    etcd's answers → results for the api, upstream's numbers → local ones
 *
 * Locks: the committer's is taken under the replica's (when a wait ends), so nothing is called with it held.
 */
#ifndef DPA_COMMITTER_PRIV_H
#define DPA_COMMITTER_PRIV_H

#include "base/arena.h"
#include "base/list.h"
#include "base/thread.h"
#include "mirror/committer.h"
#include "mirror/prefix.h"

struct dpa_leases;

struct dpa_committer {
	struct ks_committer base; /* first */
	struct dpa_committer_config config;
	struct ks_store *store;
	struct ks_interval prefix;
	uint8_t *prefix_memory;
	_Atomic uint64_t cluster_id;         /* the first one that was known */
	_Atomic int64_t size, size_until_ms; /* of the store's values, as counted lately */
	struct dpa_leases *leases;           /* NULL: read-only */
	pthread_t thread;                    /* forwarding only */

	struct ks_mutex lock;
	struct ks_cond changed;
	/* All below: under the lock. */
	struct ks_list waiting; /* struct dpa_job: answered upstream, the mirror is behind */
	struct ks_list ready;   /* to be answered */
	size_t jobs;            /* not yet done, wherever they are */
	bool stopping;
};

static inline struct dpa_committer *dpa_committer_of(struct ks_committer *base)
{
	return ks_container_of(base, struct dpa_committer, base);
}

/* ---- committer.c ---- */

enum ks_status dpa_refuse(struct ks_err *err);
/* KS_OK when upstream is there to be written to. */
enum ks_status dpa_writable(struct dpa_committer *committer, struct ks_err *err) KS_MUST_CHECK;

/* ---- committer_forward.c ---- */

enum ks_status dpa_forward_start(struct dpa_committer *committer, struct ks_err *err) KS_MUST_CHECK;
void dpa_forward_stop(struct dpa_committer *committer);
void dpa_forward(struct dpa_committer *committer, struct ks_submit *submit);
/* What etcdc says of a failed call, for a client of ours; counts it. */
void dpa_forward_error(struct dpa_committer *committer, const struct etcdc_err *from, struct ks_err *err);

/* ---- committer_lease.c ---- */

struct dpa_leases *dpa_leases_new(struct dpa_committer *committer);
/* Ends what waits. */
void dpa_leases_free(struct dpa_leases *leases);
void dpa_lease_keepalive(struct dpa_committer *committer, struct ks_keepalive *keepalive);
void dpa_lease_times(struct dpa_committer *committer, struct ks_lease_times *times);
/* From time to time: keepalives that wait for too long end. */
void dpa_leases_expire(struct dpa_leases *leases);

#endif
