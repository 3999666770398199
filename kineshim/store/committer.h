/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seam between the API and whatever makes changes durable. kineshim plugs the SQL log in here, tests a fake, dpagent its
 * upstream etcd. The API layer knows this and the store, nothing below.
 *
 * Every call is asynchronous: the caller fills a struct, keeps it alive, and gets exactly one 'done'. 'done' may run on any
 * thread, also before the call returned; it must only schedule (ks_call_post), never block, and never free what the caller of the operation
 * is still using when done runs inside it. Where 'alone' says so, it may take some microseconds for what it would have scheduled.
 * Errors: 'err' has status and etcd's text. While the database is away new writes and read proofs fail with KS_UNAVAILABLE
 * ("etcdserver: no leader" when nothing can be reached, "etcdserver: request timed out" when an operation waited for too long).
 */
#ifndef KS_STORE_COMMITTER_H
#define KS_STORE_COMMITTER_H

#include "base/list.h"
#include "store/store.h"

struct ks_committer;

/* A write. Result and header revision are those at its own commit. */
struct ks_submit {
	struct ks_request request; /* borrowed memory: lives until done */
	void (*done)(struct ks_submit *submit);
	/* out */
	struct ks_err err;
	struct ks_result result; /* filled when err.status == KS_OK; the receiver frees it */
	bool alone;              /* nothing else waits for the thread that calls done */
	/* the committer's */
	struct ks_list link;
	int64_t since_ms;
	size_t bytes; /* set by the submitter: about the size of the request, to bound batches and queues */
};

/* Proof that nothing committed anywhere before the call is missing from the committed view. */
struct ks_read_proof {
	void (*done)(struct ks_read_proof *proof);
	struct ks_err err;
	bool alone; /* out, as for a submit */
	/* the committer's */
	struct ks_list link;
	int64_t since_ms;
	uint64_t seq;
	int64_t target;
};

/* Values that the cache let go: sets refs[i]->encoded for all 'count' refs, or fails as a whole. A row that compaction trimmed
 * in the meantime gives KS_OUT_OF_RANGE with etcd's compacted text. */
struct ks_fetch {
	struct ks_kvref **refs;
	size_t count;
	void (*done)(struct ks_fetch *fetch);
	struct ks_err err;
	struct ks_list link;
	int64_t since_ms;
};

/* A lease's keepalive: ttl = granted seconds, or 0 when it is unknown, expired or revoked (not an error). */
struct ks_keepalive {
	int64_t id;
	void (*done)(struct ks_keepalive *keepalive);
	int64_t ttl;
	struct ks_err err;
	struct ks_list link;
	int64_t since_ms;
};

/* Remaining times. ids == NULL: all leases, ordered by remaining time. 'leases' is malloc-ed for the receiver. */
struct ks_lease_times {
	const int64_t *ids;
	size_t id_count;
	void (*done)(struct ks_lease_times *times);
	struct ks_lease_time {
		int64_t id;
		int64_t remaining_ms; /* may be negative: past the deadline, not yet revoked */
		bool found;
	} * leases;
	size_t lease_count;
	/* Only where leases_elsewhere says so, and with one id: what else there is to know, and the keys if they are wanted. The receiver's. */
	bool want_keys;
	struct ks_lease_info *info;
	struct ks_err err;
	struct ks_list link;
	int64_t since_ms;
};

/* Slow chores that run beside everything else. */
struct ks_chore {
	enum {
		KS_CHORE_DEFRAGMENT,
		KS_CHORE_COMPACT_PHYSICAL,
		KS_CHORE_HASH_KV,
		KS_CHORE_MOVE_LEADER,
		KS_CHORE_SIZE, /* asks the database: when it is done db_size() is not older than the chore */
	} kind;
	int64_t revision;   /* HASH_KV */
	uint64_t member_id; /* MOVE_LEADER: who is to lead; not 0 */
	struct ks_hash_result hash;
	void (*done)(struct ks_chore *chore);
	struct ks_err err;
	struct ks_list link;
	int64_t since_ms;
};

struct ks_member {
	uint64_t id;
	char *name;
	char *client_urls; /* comma separated */
};

struct ks_cluster_status {
	uint64_t cluster_id, member_id;
	uint64_t leader_id; /* 0: none known */
	uint64_t raft_term;
	uint64_t raft_index, raft_applied_index;
	int64_t db_size, db_size_in_use;
	bool available; /* the database answered lately */
};

struct ks_committer_ops {
	void (*submit)(struct ks_committer *committer, struct ks_submit *submit);
	/* May complete at once, on the calling thread (an exclusive database). */
	void (*prove_read)(struct ks_committer *committer, struct ks_read_proof *proof);
	void (*fetch)(struct ks_committer *committer, struct ks_fetch *fetch);
	void (*keepalive)(struct ks_committer *committer, struct ks_keepalive *keepalive);
	void (*lease_times)(struct ks_committer *committer, struct ks_lease_times *times);
	bool leases_elsewhere; /* the store knows no leases: lease_times says everything */
	void (*chore)(struct ks_committer *committer, struct ks_chore *chore);
	/* Snapshots of what is known; never block for the database. */
	void (*status)(struct ks_committer *committer, struct ks_cluster_status *status);
	/* How large the database is, with an estimate of what was written since somebody looked. Cheap: for each write. */
	int64_t (*db_size)(struct ks_committer *committer);
	/* Live members ordered by id, at least this one. One malloc-ed block, freed with free(). */
	struct ks_member *(*members)(struct ks_committer *committer, size_t *count);
};

struct ks_committer {
	const struct ks_committer_ops *ops;
};

#endif
