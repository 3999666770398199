/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A committer without a log: operations take effect on a store in memory. Either at once, inside the call, or when
 * fake_committer_step is called, so that tests can look at what waits. One thread.
 */
#ifndef TESTS_LIB_FAKE_COMMITTER_H
#define TESTS_LIB_FAKE_COMMITTER_H

#include <stdatomic.h>

#include "store/committer.h"

struct fake_committer {
	struct ks_committer base; /* first */
	struct ks_store *store;
	bool later;             /* operations wait for fake_committer_step */
	bool away;              /* everything answers UNAVAILABLE "etcdserver: no leader" */
	struct ks_list waiting; /* of struct pending */
	struct ks_cluster_status status;
	const char *name, *client_urls;
	struct fake_row *rows; /* "the database": what was put, for fetches */
	size_t row_count;
	size_t submits, proofs, keepalives;
	_Atomic size_t fetches; /* snapshots fetch on threads of their own */
};

/* 'store' may be set later: a store wants fake_committer_find as its fetch, with the committer as its context. */
void fake_committer_init(struct fake_committer *fake, struct ks_store *store);
void fake_committer_fini(struct fake_committer *fake);
/* A ks_store_fetch_fn. */
struct ks_bytes *fake_committer_find(void *ctx, struct ks_loc loc);
/* "Trims" the first rows, so that fetching them fails. */
void fake_committer_trim(struct fake_committer *fake, size_t count);
/* Finishes the oldest waiting operation; false when there was none. */
bool fake_committer_step(struct fake_committer *fake);

#endif
