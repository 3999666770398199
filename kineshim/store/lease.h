/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases and which keys hang on them.
 *
 * A lease's set holds at least the keys whose newest record, committed or in the tail, is a put with this lease; it may hold
 * others, and whoever uses it looks at the key's newest record. So a put, a delete and a rollback never have to take
 * anything out; what is out of date is thrown away when the set is full.
 *
 * A lease that the tail granted has a grant position beyond the committed one, one that the tail revoked has a revoke
 * position: committed readers compare positions. An id may be granted again behind its revoke in one tail: those are
 * two leases.
 *
 * Owner: the table owns leases and their sets; a set keeps its keys from being freed (ks_key.lease_refs), even when they have
 * left the index. Threads: the store's lock. Errors: false or NULL when memory is short; then nothing has changed.
 */
#ifndef KS_STORE_LEASE_H
#define KS_STORE_LEASE_H

#include "store/key_index.h"

struct ks_lease {
	struct ks_lease *next; /* hash chain */
	int64_t id;
	int64_t ttl;
	struct ks_loc granted;
	struct ks_loc revoked; /* position 0: it is not */
	struct ks_key **keys;  /* hash set by address, NULL = free; capacity is 0 or a power of two */
	uint32_t used;
	uint32_t capacity;
};

struct ks_leases {
	struct ks_index *index; /* borrowed: frees keys that only a set kept */
	struct ks_lease **buckets;
	size_t bucket_count;
	size_t count; /* all in the table, also revoked ones */
};

bool ks_leases_init(struct ks_leases *leases, struct ks_index *index) KS_MUST_CHECK;
void ks_leases_fini(struct ks_leases *leases); /* before the index */

static inline bool ks_lease_in_tail(const struct ks_lease *lease)
{
	return lease->revoked.position == 0;
}

static inline bool ks_lease_committed(const struct ks_lease *lease, int64_t position)
{
	return lease->granted.position <= position &&
	       (lease->revoked.position == 0 || lease->revoked.position > position);
}

/* The lease of that id that lives in the tail, or as of a committed position. */
struct ks_lease *ks_leases_find_tail(const struct ks_leases *leases, int64_t id);
struct ks_lease *ks_leases_find_committed(const struct ks_leases *leases, int64_t id, int64_t position);
struct ks_lease *ks_leases_add(struct ks_leases *leases, int64_t id, int64_t ttl, struct ks_loc granted);
void ks_leases_remove(struct ks_leases *leases, struct ks_lease *lease); /* frees it */

/* 'committed' tells what is out of date. */
bool ks_lease_attach(struct ks_leases *leases, struct ks_lease *lease, struct ks_key *key,
		     int64_t committed) KS_MUST_CHECK;
/* Does the key hang on the lease as of 'revision' (INT64_MAX: the tail)? */
bool ks_lease_has(const struct ks_lease *lease, const struct ks_key *key, int64_t revision);

#endif
