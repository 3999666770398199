/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of store/ share: the replicated state, the tail in front of it, and the store around both.
 *
 * struct ks_state is everything that the log says. It can be replaced as a whole (reset, jump). The writer changes it under the
 * write lock, and may let go of the lock between two changes, for readers never look at the tail:
 *
 *	history  ... committed records ... | ... records of the tail ...
 *	index    keys live in the committed view and in the tail: two bits each
 *	leases   by positions              | undo: what the tail granted and revoked
 *
 * Lock order: the hub's lock, then store->lock. The writer reads what only it changes without the lock where it says so.
 */
#ifndef KS_STORE_PRIV_H
#define KS_STORE_PRIV_H

#include <pthread.h>
#include <stdalign.h>

#include "store/history.h"
#include "store/key_index.h"
#include "store/lease.h"
#include "store/store.h"

struct ks_point {
	int64_t position;
	int64_t revision;
	int64_t compact_revision;
	struct ks_loc compact_loc; /* of the entry that said so */
};

struct ks_lease_undo {
	struct ks_lease *lease;
	bool granted; /* else revoked */
};

struct ks_locs {
	struct ks_loc *items;
	size_t first, count, capacity; /* items[first] … items[first + count - 1] */
	bool forgot;                   /* some for which there was no memory */
};

struct ks_state {
	struct ks_slab slab;
	struct ks_index index;
	struct ks_history history;
	struct ks_leases leases;
	struct ks_point committed;
	struct ks_point tail;
	/* Of the tail, in order: the part that is published next ends at the first, if there is one; only records lie behind it. */
	struct ks_point cuts[KS_STORE_CUTS];
	size_t cut_count;
	struct ks_lease_undo *undo; /* what the tail did to leases, in order */
	size_t undo_count, undo_capacity;
	/* Users and roles (auth_priv.h): committed, and with what the tail did; the same version while it did nothing. While loading
	 * only the second goes on. */
	struct ks_auth *auth;
	struct ks_auth *auth_tail;
	struct ks_locs auth_dropped; /* rows that the tail made superfluous */
	/* Alarms (alarm_priv.h), in the same way. */
	struct ks_alarms *alarms;
	struct ks_alarms *alarms_tail;
	struct ks_locs alarms_dropped;
	bool direct; /* loading: what is applied is committed at once */
	/* A large tail is published in pieces. Until the last one readers see the state before it, but must not go by the
	 * live bits of the committed view. */
	bool publishing;
	int64_t publish_revision; /* next record to publish */
	int32_t publish_sub;

	/* compaction: compact.c */
	int64_t compact_done;    /* everything that a compaction at this revision removes is gone */
	int64_t compact_target;  /* what the pass under way removes */
	int64_t cursor_revision; /* next record that it looks at */
	int32_t cursor_sub;
	int64_t removed; /* the greatest revision of a record that was removed */
	/* rows of leases, users, roles, alarms and compactions that nobody needs, oldest first */
	struct ks_locs garbage;

	/* cache: value_cache.c */
	size_t cached_bytes;
	int64_t hand_revision; /* where the clock's hand stands */
	int32_t hand_sub;
};

struct ks_store {
	struct ks_store_config config;
	struct ks_watch_hub *hub;
	struct ks_state *state;  /* the pointer and what it points to: under the lock */
	struct ks_state *jump;   /* [writer] */
	bool loading;            /* [writer] */
	uint64_t generation;     /* +1 whenever 'state' is replaced; under the lock */
	_Atomic unsigned copies; /* open ones: changed under the lock, in either mode */
	alignas(64) pthread_rwlock_t lock;
	/* The committed point for readers without the lock: a sequence lock, see ks_store_committed. */
	alignas(64) _Atomic uint32_t sequence;
	_Atomic int64_t position;
	_Atomic int64_t revision;
	_Atomic int64_t compact_revision;
	_Atomic bool auth_enabled;
};

/* Keys or records that are looked at before others get the lock. */
#ifndef KS_LOCK_CHUNK
#define KS_LOCK_CHUNK 2000u
#endif

void ks_lock_read(struct ks_store *store);
void ks_lock_write(struct ks_store *store);
void ks_unlock(struct ks_store *store);

enum ks_status ks_fail_memory(struct ks_err *err);
enum ks_status ks_fail_compacted(struct ks_err *err);
enum ks_status ks_fail_future(struct ks_err *err);

/* ---- state.c: changes of the tail, all under the write lock ---- */

struct ks_state *ks_state_new(void);
void ks_state_free(struct ks_state *state);

/* What a new record says; create_revision 0 makes it a delete. */
struct ks_change {
	int64_t revision;
	int64_t position;
	int32_t sub;
	int64_t create_revision;
	int64_t version;
	int64_t lease;
	struct ks_slice value;
};
/* Appends a record to 'key', which is in the index. NULL without memory, with nothing changed. */
struct ks_record *ks_state_append(struct ks_state *state, struct ks_key *key, const struct ks_change *change);
/* The same for the key of that name, which is made when it is new. */
struct ks_record *ks_state_append_named(struct ks_state *state, struct ks_slice name, const struct ks_change *change);
bool ks_state_grant(struct ks_state *state, int64_t id, int64_t ttl, struct ks_loc loc) KS_MUST_CHECK;
bool ks_state_revoke(struct ks_state *state, struct ks_lease *lease, struct ks_loc loc) KS_MUST_CHECK;
/* Makes 'max' records at most of the tail after 'revision' undone; false when some are left. */
bool ks_state_undo_records(struct ks_state *state, int64_t revision, size_t max);
void ks_state_undo_leases(struct ks_state *state, size_t count);
/* Makes 'version' (taken over) the tail's again, and the first 'count' dropped rows all. */
void ks_state_undo_auth(struct ks_state *state, struct ks_auth *version, size_t count);
void ks_state_publish_auth(struct ks_state *state);
/* The same for alarms. */
void ks_state_undo_alarms(struct ks_state *state, struct ks_alarms *version, size_t count);
void ks_state_publish_alarms(struct ks_state *state);
/* Makes the tail the committed state. False after 'max' records: call again, others may have the lock in between. */
bool ks_state_publish(struct ks_state *state, size_t max) KS_MUST_CHECK;
/* Takes a record that its key has let go out of the history and frees it; the caller gets its encoding. */
struct ks_bytes *ks_state_take_record(struct ks_state *state, struct ks_record *record) KS_MUST_CHECK;
/* Takes a key without records out of the index. */
void ks_state_drop_key(struct ks_state *state, struct ks_key *key);
void ks_locs_add(struct ks_locs *locs, struct ks_loc loc);   /* without memory it is forgotten, and locs->forgot */
void ks_locs_move(struct ks_locs *to, struct ks_locs *from); /* all of them, with what was forgotten */

/* ---- compact.c ---- */
#define KS_DROPPED_MOST 1024u
struct ks_dropped {
	size_t count;
	bool forgot; /* rows before these, of which nobody knows any more */
	struct ks_loc locs[KS_DROPPED_MOST];
	struct ks_bytes *encoded[KS_DROPPED_MOST]; /* taken over; may be NULL */
};
/* One bounded step: removes 'max' records at most. True while there is more to do. */
bool ks_state_compact(struct ks_state *state, struct ks_dropped *dropped, size_t max);
void ks_dropped_free(struct ks_dropped *dropped);

/* ---- value_cache.c ---- */
void ks_cache_account(struct ks_state *state, struct ks_record *record);   /* its value came into memory */
void ks_cache_unaccount(struct ks_state *state, struct ks_record *record); /* it goes: before encoded is cleared */
/* Lets go of values until the cache fits, or the hand went round twice. */
void ks_cache_evict(struct ks_store *store, struct ks_state *state);

/* ---- scan.c, range.c: one evaluation for readers, read-only txns and the writer ---- */

struct ks_range_view {
	enum ks_view view;
	bool write_locked; /* how the lock is held, and taken again after it was let go */
	int64_t newest;    /* newest revision that the view sees; INT64_MAX in the tail */
};
/* Some visible records in key order. False ends the walk: memory is short, or 'ctx' says why. */
typedef bool ks_found_fn(void *ctx, struct ks_record *const *found, uint32_t count);
/*
 * Visits the visible keys of the interval, at most 'most' of them. Lets go of the lock on the way. KS_ABORTED: the state at 'as_of'
 * was compacted or replaced meanwhile; KS_RESOURCE_EXHAUSTED: memory is short, or the visitor ended it. 'visit' may add
 * records to the keys it is given, not keys.
 */
enum ks_status ks_scan_visible(struct ks_store *store, const struct ks_interval *interval,
			       const struct ks_range_view *view, int64_t as_of, size_t most, ks_found_fn *visit,
			       void *ctx) KS_MUST_CHECK;
bool ks_scan_at_newest(const struct ks_state *state, const struct ks_range_view *view, int64_t as_of);

/*
 * 'as_of' is checked already: the view's newest, or an older revision. Lets go of the lock on the way; KS_ABORTED when a compaction
 * passed 'as_of' meanwhile.
 */
enum ks_status ks_range_eval(struct ks_store *store, const struct ks_range_req *req, const struct ks_range_view *view,
			     int64_t as_of, struct ks_range_result *result, struct ks_err *err) KS_MUST_CHECK;

/* ---- result.c ---- */
/* Room for one more item in a growing array: doubles. False without memory. */
bool ks_grow(void **items, size_t *capacity, size_t count, size_t item_size) KS_MUST_CHECK;

#endif
