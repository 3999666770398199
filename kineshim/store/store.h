/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MVCC state machine in memory: an ordered index of keys with all their retained revisions, the history of
 * events, leases and the compaction state. It is a replica of the log: it knows no SQL, no socket and no gRPC.
 *
 * Committed view and tail. Readers see the state as of the committed revision. One thread, the *writer*, evaluates
 * requests on the tentative tail in front of it: ks_store_eval and ks_store_apply extend the tail,
 * ks_store_publish makes it the committed view, ks_store_rollback throws it away. The tail is invisible to readers.
 *
 * Threads: functions marked [writer] belong to the writer thread; all others may be called from any thread. Inside, one
 * read-write lock guards everything (writer preferred); it is held for a bounded number of keys at a time, never across a
 * call-back that blocks. Visitors and call-backs say whether they run under it.
 *
 * Ownership: requests are borrowed for the call. What a result holds is counted and freed with ks_result_fini.
 * Errors: enum ks_status with etcd's code and exact text (spec/etcd.md section 10); KS_RESOURCE_EXHAUSTED when
 * an allocation whose size comes from outside fails.
 */
#ifndef KS_STORE_STORE_H
#define KS_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/status.h"

struct ks_store;
struct ks_watch_hub;
struct ks_auth;

/* Where a record's row lies in the log, to fetch a value that the cache has let go. position 0 = nowhere. */
struct ks_loc {
	int64_t position;
	int32_t sub;
};

/*
 * A key-value as of some revision: 'encoded' is the canonical proto3 encoding of mvccpb.KeyValue (fields ascending,
 * zero ones left out), shared and counted. When the value is not in memory, 'encoded' is NULL and 'loc' says where it
 * is: fetch it through the committer. Neither: absent.
 */
struct ks_kvref {
	struct ks_bytes *encoded;
	struct ks_loc loc;
};

static inline bool ks_kvref_present(const struct ks_kvref *ref)
{
	return ref->encoded != NULL || ref->loc.position != 0;
}
static inline bool ks_kvref_missing(const struct ks_kvref *ref) /* present, but the value must be fetched */
{
	return ref->encoded == NULL && ref->loc.position != 0;
}

/* The fields of a KeyValue, and its canonical encoding. */
struct ks_kv {
	struct ks_slice key;
	struct ks_slice value;
	int64_t create_revision;
	int64_t mod_revision;
	int64_t version;
	int64_t lease;
};
/* NULL when memory is short. */
struct ks_bytes *ks_kv_encode(const struct ks_kv *kv);
/* Slices point into 'encoded'. False when it is not a well-formed KeyValue. */
bool ks_kv_decode(struct ks_slice encoded, struct ks_kv *kv);

/* [key, end) by the convention of spec/etcd.md 1.1: end empty = the one key; the single byte 0 = every key >= key. */
struct ks_interval {
	struct ks_slice key;
	struct ks_slice end;
};
bool ks_interval_contains(const struct ks_interval *interval, struct ks_slice key);

/* ---- requests: the fields of etcd's messages, already validated (spec 1.6, 2.1, 2.4) ---- */

enum ks_sort_order { KS_SORT_NONE, KS_SORT_ASCEND, KS_SORT_DESCEND };
enum ks_sort_target { KS_SORT_KEY, KS_SORT_VERSION, KS_SORT_CREATE, KS_SORT_MOD, KS_SORT_VALUE };

struct ks_range_req {
	struct ks_interval interval;
	int64_t limit;
	int64_t revision;
	enum ks_sort_order sort_order;
	enum ks_sort_target sort_target;
	bool serializable;
	bool keys_only;
	bool count_only;
	int64_t min_mod_revision, max_mod_revision, min_create_revision, max_create_revision;
};

/* Do keys have to be looked at, each, for whether they count? */
static inline bool ks_range_is_filtered(const struct ks_range_req *req)
{
	return req->min_mod_revision || req->max_mod_revision || req->min_create_revision || req->max_create_revision;
}

struct ks_put_req {
	struct ks_slice key;
	struct ks_slice value;
	int64_t lease;
	bool prev_kv, ignore_value, ignore_lease;
};

struct ks_delete_req {
	struct ks_interval interval;
	bool prev_kv;
};

/* Values as on the wire; unknown 'result' or 'target' numbers keep spec 2.8's meaning. */
enum ks_compare_result { KS_CMP_EQUAL, KS_CMP_GREATER, KS_CMP_LESS, KS_CMP_NOT_EQUAL };
enum ks_compare_target { KS_CMP_VERSION, KS_CMP_CREATE, KS_CMP_MOD, KS_CMP_VALUE, KS_CMP_LEASE };

/* Is a compare's result true when what is there is before (< 0), at or behind (> 0) the operand? Unknown results come from clients (spec 2.8). */
static inline bool ks_compare_holds(int order, int result)
{
	switch (result) {
	case KS_CMP_EQUAL:
		return order == 0;
	case KS_CMP_GREATER:
		return order > 0;
	case KS_CMP_LESS:
		return order < 0;
	case KS_CMP_NOT_EQUAL:
		return order != 0;
	default:
		return true;
	}
}

struct ks_compare {
	int result;
	int target;
	struct ks_interval interval;
	int64_t number;        /* operand for VERSION, CREATE, MOD, LEASE: 0 unless the matching arm was set */
	struct ks_slice value; /* operand for VALUE: empty unless the matching arm was set */
};

struct ks_txn_req;

enum ks_op_kind { KS_OP_RANGE, KS_OP_PUT, KS_OP_DELETE, KS_OP_TXN };

struct ks_op {
	enum ks_op_kind kind;
	union {
		struct ks_range_req range;
		struct ks_put_req put;
		struct ks_delete_req del;
		const struct ks_txn_req *txn;
	};
};

struct ks_txn_req {
	const struct ks_compare *compares;
	size_t compare_count;
	const struct ks_op *success;
	size_t success_count;
	const struct ks_op *failure;
	size_t failure_count;
};

enum ks_request_kind {
	KS_REQ_PUT,
	KS_REQ_DELETE,
	KS_REQ_TXN,
	KS_REQ_COMPACT,
	KS_REQ_LEASE_GRANT,
	KS_REQ_LEASE_REVOKE,
	KS_REQ_AUTH,
	KS_REQ_ALARM,
};

/*
 * Who asks. All zero is nobody, who may do nothing while auth is on; the server's own requests say 'internal' and may do
 * everything. A caller was identified on some committed view of the auth state (store/auth.h); when the tail has moved on
 * from that, ks_store_eval says "revision of auth store is old", and whoever submitted the request may look again.
 */
struct ks_caller {
	struct ks_slice user;   /* empty: nobody */
	uint64_t auth_revision; /* at which the identity holds; 0: nobody */
	bool identified;        /* auth was on when the caller was looked up */
	bool frozen;            /* the revision is part of what the caller showed: looking again gives no newer one */
	bool internal;
};

struct ks_lease_grant_req {
	int64_t id;  /* not 0: the API layer chose one when the client did not */
	int64_t ttl; /* seconds, already raised to the minimum */
};

struct ks_lease_revoke_req {
	int64_t id;
	bool expired; /* housekeeping: append only while the lease is past its deadline (sqlb_append.leases_expired) */
};

/* Auth.* requests that change something (spec 7.5). Validated by evaluation, on the tail: what is possible depends on the state. */
enum ks_auth_op {
	KS_AUTH_ENABLE,
	KS_AUTH_DISABLE,
	KS_AUTH_USER_ADD,
	KS_AUTH_USER_DELETE,
	KS_AUTH_USER_PASSWORD,
	KS_AUTH_USER_GRANT,
	KS_AUTH_USER_REVOKE,
	KS_AUTH_ROLE_ADD,
	KS_AUTH_ROLE_DELETE,
	KS_AUTH_ROLE_GRANT,
	KS_AUTH_ROLE_REVOKE,
};

enum ks_perm_type { KS_PERM_READ, KS_PERM_WRITE, KS_PERM_READWRITE };

struct ks_auth_req {
	enum ks_auth_op op;
	struct ks_slice user;
	struct ks_slice role;
	struct ks_slice
		secret;   /* USER_ADD, USER_PASSWORD: the hash to be stored; ENABLE: what tokens are signed with */
	bool no_password; /* USER_ADD */
	bool no_perm;     /* ROLE_GRANT: the request had none */
	int perm;         /* ROLE_GRANT: authpb.Permission.Type as it came */
	struct ks_interval interval; /* ROLE_GRANT, ROLE_REVOKE */
};

struct ks_alarm_req {
	bool activate;
	uint64_t member;
	int type; /* enum ks_alarm_type (alarm.h); others are never active */
};

struct ks_request {
	enum ks_request_kind kind;
	struct ks_caller caller;
	union {
		struct ks_put_req put;
		struct ks_delete_req del;
		struct ks_txn_req txn;
		int64_t compact_revision;
		struct ks_lease_grant_req grant;
		struct ks_lease_revoke_req revoke;
		struct ks_auth_req auth;
		struct ks_alarm_req alarm;
	};
};

/* A put, a delete or a transaction. */
static inline bool ks_request_is_kv(const struct ks_request *request)
{
	return request->kind == KS_REQ_PUT || request->kind == KS_REQ_DELETE || request->kind == KS_REQ_TXN;
}

/* ---- results ---- */

struct ks_range_result {
	struct ks_kvref *kvs; /* in result order; with keys_only the encodings have no value (3.6 form: lease kept) */
	size_t kv_count;
	int64_t count; /* spec 1.3 */
	bool more;
	/*
	 * Sorting by VALUE met values that are not in memory: kvs are everything that matched, in key order. Fill the missing
	 * ones (ks_range_result_each_missing), then call ks_range_result_finish, which sorts, cuts and strips values.
	 * Results of ks_store_eval are never like this, those of ks_store_range and ks_store_read_txn may be.
	 */
	bool unsorted;
	struct {
		int64_t limit;
		bool descend;
		bool keys_only;
	} pending;
};

struct ks_op_result {
	enum ks_op_kind kind;
	int64_t revision; /* header revision of this op (spec 2.7); 0 for nested txns */
	union {
		struct ks_range_result range;
		struct ks_kvref prev_kv; /* put: present only when asked for and the key existed */
		struct {
			int64_t deleted;
			struct ks_kvref *prev_kvs; /* count = deleted when asked for, else NULL */
		} del;
		struct ks_txn_result *txn;
	};
};

struct ks_txn_result {
	bool succeeded;
	struct ks_op_result *ops;
	size_t op_count;
};

/* Result of ks_store_eval: for PUT and DELETE the matching arm of 'op', for TXN 'txn', for ALARM its own; nothing for the
 * others. */
struct ks_result {
	int64_t revision; /* top header revision */
	enum ks_request_kind kind;
	union {
		struct ks_op_result op;
		struct ks_txn_result txn;
		bool alarm_was_active;
	};
};

void ks_range_result_fini(struct ks_range_result *result);
void ks_result_fini(struct ks_result *result); /* also of a zeroed one */
/*
 * Calls 'fill' for every missing kvref inside 'result' (depth first, in order). Lets a caller collect what must be
 * fetched and put the bytes in: fill(ctx, ref) may set ref->encoded (it then owns that reference).
 */
typedef void ks_kvref_fn(void *ctx, struct ks_kvref *ref);
void ks_result_each_missing(struct ks_result *result, ks_kvref_fn *fill, void *ctx);
void ks_range_result_each_missing(struct ks_range_result *result, ks_kvref_fn *fill, void *ctx);
void ks_txn_result_each_missing(struct ks_txn_result *result, ks_kvref_fn *fill, void *ctx);
/* Does what 'unsorted' left to do; nothing when it is not set. KS_UNAVAILABLE when a value is still missing. */
enum ks_status ks_range_result_finish(struct ks_range_result *result, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_txn_result_finish(struct ks_txn_result *result, struct ks_err *err) KS_MUST_CHECK;

/* ---- effects: what an entry of the log says; every replica applies them blindly (DESIGN.md, "effects") ---- */

enum ks_effect_kind {
	KS_EFFECT_PUT = 1,
	KS_EFFECT_DELETE = 2,
	KS_EFFECT_LEASE_GRANT = 3, /* lease = id, version = ttl in seconds */
	KS_EFFECT_LEASE_REVOKE =
		4,             /* lease = id; the deletes of its keys are DELETE effects before it in the same entry */
	KS_EFFECT_COMPACT = 5, /* version = the compact revision */
	KS_EFFECT_NOOP = 6,    /* first entry of a new log, and whatever a later format adds that may be skipped */
	KS_EFFECT_AUTH = 7, /* version = the auth revision after it; payload: one user, role or switch (auth_codec.h) */
	KS_EFFECT_ALARM = 8, /* payload: one alarm raised or lifted (alarm_priv.h) */
	/* An import into this log begins (version 1) or is finished (2); payload: from where, as text. Nothing to the store:
	 * the log serves no database whose import has begun and is not finished (log/replay.c). */
	KS_EFFECT_IMPORT = 9,
};

/* The 'version' of an IMPORT. */
#define KS_IMPORT_BEGUN 1
#define KS_IMPORT_FINISHED 2

struct ks_effect {
	enum ks_effect_kind kind;
	struct ks_slice key;
	struct ks_slice value;
	int64_t create_revision;
	int64_t version;
	int64_t lease;
	struct ks_slice payload; /* AUTH, ALARM, IMPORT: never empty; others: none */
};

struct ks_entry {
	int64_t position;
	int64_t revision;          /* etcd's main revision after this entry */
	struct ks_effect *effects; /* sub = index */
	size_t effect_count;
	/* While loading or after a jump, an entry may have lost rows to trimming: then subs[i] is the sub of effects[i]. */
	const int32_t *subs; /* NULL: 0, 1, 2 … */
};

/* ---- life cycle ---- */

/* How the writer gets a value that the cache let go while it evaluates: blocking. NULL when the database is away. */
typedef struct ks_bytes *ks_store_fetch_fn(void *ctx, struct ks_loc loc);

struct ks_store_config {
	size_t value_cache_bytes; /* encodings kept in memory; what is over is let go, oldest access first (roughly) */
	ks_store_fetch_fn *fetch; /* [writer] */
	void *fetch_ctx;
	bool values_kept; /* nothing to fetch from (memory tests, dpagent): the cache never lets go */
	/* A replica of a part of the keys (dpagent): applied entries may skip revisions, and one without keys may raise it. */
	bool sparse_revisions;
};

struct ks_store *ks_store_new(const struct ks_store_config *config, struct ks_err *err);
void ks_store_free(struct ks_store *store); /* after all its users stopped; NULL is fine */
struct ks_watch_hub *ks_store_hub(struct ks_store *store);

/* ---- the tail [writer] ---- */

/* Evaluates 'req' on the tail. On KS_OK fills 'result' and, when the state changes, appends the effects: effects->entry has
 * position = tail position + 1 and the tail moves there; otherwise entry.effect_count is 0. On error nothing has changed. */
struct ks_effects {
	struct ks_entry entry;
	size_t bytes;           /* of keys, values and payloads in it */
	struct ks_bytes **held; /* what payloads point into; owned */
	size_t held_count;
};
enum ks_status ks_store_eval(struct ks_store *store, const struct ks_request *req, struct ks_result *result,
			     struct ks_effects *effects, struct ks_err *err) KS_MUST_CHECK;
/* Effects borrow keys and values from the request and from the store's tail: valid until publish or rollback. They own payloads. */
void ks_effects_fini(struct ks_effects *effects);

/*
 * Extends the tail by an entry that somebody appended. KS_DATA_LOSS, with nothing changed, when it does not fit: the caller
 * must reload. It fits when its position is the tail's + 1 and its revision the tail's, + 1 when it has puts or deletes (with
 * sparse_revisions: not below that).
 * While loading or jumping rows may have been trimmed: position and revision must only be greater (the revision of an
 * entry without puts and deletes may be equal). What an effect says of a key's version is believed.
 */
enum ks_status ks_store_apply(struct ks_store *store, const struct ks_entry *entry, struct ks_err *err) KS_MUST_CHECK;
/* Makes the tail, up to its first cut if there is one, the committed view and wakes the watch hub. */
void ks_store_publish(struct ks_store *store);
/* Throws the whole tail away. */
void ks_store_rollback(struct ks_store *store);
/*
 * Cuts the tail where it ends: what is evaluated from now on lies behind the cut. There may be KS_STORE_CUTS of them. ks_store_publish takes the
 * first one away, with what lies before it; ks_store_rollback_to_cut the last one, with what lies behind it; ks_store_rollback all. Behind
 * a cut only puts, deletes and transactions are evaluated.
 */
#define KS_STORE_CUTS 3
void ks_store_cut(struct ks_store *store);
void ks_store_rollback_to_cut(struct ks_store *store);
/* Back to an empty store (a lost tail was noticed, or a reload): every watcher is cancelled, KS_UNAVAILABLE. */
void ks_store_reset(struct ks_store *store);
/* Loading many entries: between begin and end readers must be kept away; skips what only readers need (the hub, the lock
 * per entry), and finishes the newest compaction at the end. Each applied entry is committed at once: publish and rollback
 * do nothing meanwhile, and after an error the caller resets. Nothing can be evaluated. */
void ks_store_load_begin(struct ks_store *store);
void ks_store_load_end(struct ks_store *store);
/*
 * Jumping over holes that a compaction tore into the log in front of us. Rows behind a hole do not tell which older keys and
 * leases are gone, so a jump reads the log from its first row again: between begin and end ks_store_apply builds a
 * second state from nothing, while readers go on with the old one; end replaces the one by the other in one step, like a
 * publish (watchers go on when their revision is still there, else they find themselves compacted). Only from an empty
 * tail. End fails with KS_DATA_LOSS, like abort, when the new state is older than the old one.
 */
enum ks_status ks_store_jump_begin(struct ks_store *store, struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_store_jump_end(struct ks_store *store, struct ks_err *err) KS_MUST_CHECK;
void ks_store_jump_abort(struct ks_store *store);

/*
 * Removes up to 'max_records' records that the newest committed compaction made superfluous and reports them, so that the
 * housekeeper can trim their rows (also rows of leases that are gone and of older compactions). Returns true while there is
 * more to do. 'dropped' runs without the lock; NULL is fine. One caller at a time.
 * Trim in the order reported (several rows in one transaction are fine): a put comes before the delete that ended it, a grant
 * before its revoke, so that an interruption never brings anything back to life. Only rows of entries before the newest
 * compaction's own are reported, so a hole in the log always has a compaction after it.
 * A call with no rows says that some were forgotten because memory was short. What is reported behind it may have ended one of these: it
 * must not be trimmed before a scan with ks_store_row_needed has found them.
 */
typedef void ks_dropped_fn(void *ctx, const struct ks_loc *locs, size_t count);
bool ks_store_compact_step(struct ks_store *store, size_t max_records, ks_dropped_fn *dropped, void *ctx);

/* ---- reading the committed view ---- */

struct ks_position {
	int64_t position;         /* of the newest committed entry; 0 = nothing was loaded yet */
	int64_t revision;         /* current revision, >= 1 */
	int64_t compact_revision; /* -1 = never compacted */
};
struct ks_position ks_store_committed(struct ks_store *store); /* lock-free or nearly so */

/* Spec 1.3. *revision gets the current revision of the same instant, for the header. Long ranges let writers in between;
 * the result is nevertheless of one revision. */
enum ks_status ks_store_range(struct ks_store *store, const struct ks_range_req *req, struct ks_range_result *result,
			      int64_t *revision, struct ks_err *err) KS_MUST_CHECK;
/* How many keys there are now; O(log n). */
size_t ks_store_keys_in(struct ks_store *store, const struct ks_interval *interval);
/* Values that a call needed and did not find in memory. Starts zeroed. */
struct ks_misses {
	struct ks_kvref *refs;
	size_t count;
};
void ks_misses_fini(struct ks_misses *misses);
/*
 * Spec 2.5, 2.6: a read-only txn as one snapshot. VALUE compares on values that are not in memory end in KS_ABORTED: fill those
 * of misses->refs that are ks_kvref_missing (the array stays where it is until the next call) and call again with the
 * same misses; in the end ks_misses_fini.
 */
enum ks_status ks_store_read_txn(struct ks_store *store, const struct ks_txn_req *req, struct ks_txn_result *result,
				 int64_t *revision, struct ks_misses *misses, struct ks_err *err) KS_MUST_CHECK;
void ks_txn_result_fini(struct ks_txn_result *result);
/* Puts a fetched encoding back into the cache, if its record is still there. */
void ks_store_cache_fill(struct ks_store *store, struct ks_bytes *encoded, struct ks_loc loc);

struct ks_hash_result {
	uint32_t hash;
	int64_t compact_revision;
	int64_t hash_revision;
	int64_t revision; /* current */
};
/*
 * HashKV, spec 6.5 (exact). 'fetch' brings values that are not in memory (it may block; called without the lock, with up
 * to 'count' locs at a time; sets encodings in 'out', false when the database is away).
 */
typedef bool ks_hash_fetch_fn(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count);
enum ks_status ks_store_hash_kv(struct ks_store *store, int64_t revision, ks_hash_fetch_fn *fetch, void *ctx,
				struct ks_hash_result *result, struct ks_err *err) KS_MUST_CHECK;

/*
 * A copy of everything that is retained at one committed revision, taken in pieces while writes go on. From begin to end
 * compactions take effect, but remove nothing from the store, which grows by it: end it as soon as the last record was seen.
 * (The rows of what they would have removed may be trimmed by another instance: then a fetch says so, and the copy begins again.)
 */
struct ks_store_copy {
	struct ks_position point;
	int64_t compact_done;         /* the newest compaction that has nothing left to remove; -1: none */
	struct ks_lease_info *leases; /* of the same instant, unordered, without keys */
	size_t lease_count;
	struct ks_auth *auth; /* users and roles (auth.h), of the same instant */
	/* the store's */
	uint64_t generation;
	int64_t next_revision;
	int32_t next_sub;
};
struct ks_store_record {
	int64_t revision;
	int32_t sub;
	bool is_delete;      /* then the value is {key, mod_revision} */
	struct ks_kvref ref; /* counted: the caller unrefs ref.encoded */
};
enum ks_status ks_store_copy_begin(struct ks_store *store, struct ks_store_copy *copy,
				   struct ks_err *err) KS_MUST_CHECK;
/* Up to 'room' of the next records in (revision, sub) order; *count 0: there are no more. KS_ABORTED: what is committed was
 * replaced, as the log was loaded anew: end this copy, and begin another. */
enum ks_status ks_store_copy_next(struct ks_store *store, struct ks_store_copy *copy, struct ks_store_record *records,
				  size_t room, size_t *count, struct ks_err *err) KS_MUST_CHECK;
void ks_store_copy_end(struct ks_store *store, struct ks_store_copy *copy); /* once for each begin that was KS_OK */
/* Does any copy keep compactions from removing? ks_store_compact_step then does nothing, and says that there is more to do. */
bool ks_store_copying(const struct ks_store *store);

/* Events for watchers, in (revision, sub) order. For deletes kv is {key, mod_revision}; prev is the state at mod_revision - 1
 * (spec 3.3), looked up only when asked for; absent for creations and below the compact revision. */
struct ks_event {
	int64_t revision;
	int32_t sub;
	bool is_delete;
	struct ks_slice key; /* borrowed: valid in the visitor */
	struct ks_kvref kv;  /* borrowed: take a reference to keep */
	struct ks_kvref prev;
};
typedef void ks_event_fn(void *ctx, const struct ks_event *event);

struct ks_event_scan {
	struct ks_interval interval;
	int64_t from; /* first revision wanted, >= 1 */
	int64_t to;   /* last revision wanted; clipped to the committed revision */
	bool prev_kv, no_put, no_delete;
	size_t max_revisions; /* stop after this many distinct matching revisions (between revisions) */
	size_t max_events;    /* stop between revisions once this many events matched */
	size_t max_bytes;     /* likewise for encoded bytes; evicted values count with their size */
	size_t max_scanned;   /* likewise for history entries looked at, so that the lock is not held for long */
};
struct ks_event_scanned {
	int64_t next;     /* everything below this revision has been seen: continue here */
	int64_t current;  /* committed revision of that instant */
	size_t revisions; /* matched */
	size_t events;
};
/*
 * Visits under the read lock: the visitor only takes references. KS_OUT_OF_RANGE when 'from' < compact revision and something
 * at or after 'from' was already removed (ks_store_compact_step); then *compact_revision is filled. So a watcher that was up
 * to date is not cancelled by a compaction right behind its events; whoever starts one checks its start himself.
 */
enum ks_status ks_store_scan_events(struct ks_store *store, const struct ks_event_scan *scan, ks_event_fn *visit,
				    void *ctx, struct ks_event_scanned *scanned,
				    int64_t *compact_revision) KS_MUST_CHECK;

/* ---- leases (committed view) ---- */

struct ks_lease_info {
	int64_t id;
	int64_t ttl;            /* granted, seconds */
	struct ks_bytes **keys; /* counted; only when asked for */
	size_t key_count;
	bool no_memory; /* for the keys that were asked for: there are none in here */
};
/* False when there is no such lease. */
bool ks_store_lease(struct ks_store *store, int64_t id, bool want_keys, struct ks_lease_info *info);
void ks_lease_info_fini(struct ks_lease_info *info);
/* Ids and ttls of all leases, malloc-ed, unordered. KS_RESOURCE_EXHAUSTED without memory. */
enum ks_status ks_store_leases(struct ks_store *store, struct ks_lease_info **infos, size_t *count) KS_MUST_CHECK;

/* Is the row of this effect still needed by the committed state (housekeeping after a restart)? Trim in ascending order of
 * position. Rows at or after the newest compaction's are always needed. */
bool ks_store_row_needed(struct ks_store *store, const struct ks_effect *effect, struct ks_loc loc);

struct ks_store_stats {
	size_t keys, records, leases;
	size_t cached_bytes;
};
void ks_store_stats(struct ks_store *store, struct ks_store_stats *stats);

#endif
