/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mirror's state: kineshim's store with the keys as served, and each key's numbers upstream. All changes go through here,
 * whoever makes them, and get their local revision here (docs/internals/agent.md, "Revisions").
 *
 * Threads: any; one lock inside orders all changes. Call-backs that run under it say so. Readers use the store directly.
 * Ownership: slices are borrowed for the call. Errors: enum ks_status; after an error nothing has changed.
 */
#ifndef DPA_REPLICA_H
#define DPA_REPLICA_H

#include "base/buf.h"
#include "mirror/image.h"
#include "store/store.h"

struct dpa_replica;

/*
 * What is served instead of upstream's 'raw': true and the value in 'out' (empty at the call), false to serve raw itself. raw NULL: the key
 * is gone, whatever is known about it can be forgotten. Runs under the replica's lock: must not call the replica.
 */
typedef bool dpa_transform_fn(void *ctx, struct ks_slice key, const struct ks_slice *raw, struct ks_buf *out);

struct dpa_replica_config {
	const char *prefix;          /* keys that begin with it; "": all */
	size_t history_events;       /* records kept beyond the live keys; 0: a default */
	size_t history_bytes;        /* of them, with keys and values; 0: a default (256 MiB) */
	dpa_transform_fn *transform; /* NULL: none */
	void *transform_ctx;
	bool own_changes; /* there is an overlay or a transform: revisions of our own may come at any time */
	/* Where nodes report upstream: what changes below it in nodes/ and live/ is no news of the configuration (key_changes), or each report would
	 * be a reason for the next one where these keys are mirrored, too. NULL: nowhere. */
	const char *reports_prefix;
	/* After anything changed; under the lock: only signals (the saver). NULL: nobody. */
	void (*changed)(void *ctx);
	void *changed_ctx;
};

struct dpa_replica *dpa_replica_new(const struct dpa_replica_config *config, struct ks_err *err);
void dpa_replica_free(struct dpa_replica *replica); /* after its users stopped; NULL is fine */
struct ks_store *dpa_replica_store(struct dpa_replica *replica);
const char *dpa_replica_prefix(const struct dpa_replica *replica);

struct dpa_point {
	bool loaded;         /* there is a state, perhaps without keys */
	uint64_t cluster_id; /* upstream's, 0: not known yet */
	int64_t up_revision;
	int64_t revision;     /* local */
	int64_t confirmed_ms; /* wall clock, 0: never */
	uint64_t changes;     /* grows whenever an image would be another one (also by progress) */
	uint64_t key_changes; /* grows when keys changed, not by mere progress or reports of nodes */
	size_t keys;          /* upstream's */
	size_t overlaid;      /* keys that an overlay sets or hides */
	size_t transformed;   /* keys whose nodes come from discovery */
	/* The name of a live key that upstream changed lately, and its mod_revision there, to recognise the history: counted, NULL
	 * without keys. */
	struct ks_bytes *witness;
	int64_t witness_mod;
};
/* dpa_point_fini gives the witness back. */
void dpa_replica_point(struct dpa_replica *replica, struct dpa_point *point);
void dpa_point_fini(struct dpa_point *point);
/* Only these two of it, of one instant: cheap. */
void dpa_replica_revisions(struct dpa_replica *replica, int64_t *up_revision, int64_t *revision);

/* ---- images ---- */

/* Only before anything else was applied. KS_DATA_LOSS for an image that contradicts itself; then the replica is as new. */
enum ks_status dpa_replica_load(struct dpa_replica *replica, const struct dpa_image *image,
				struct ks_err *err) KS_MUST_CHECK;
/* The present state, consistent, while changes go on (the lock is held for a bounded number of keys at a time). 'image' is to be
 * zeroed. KS_UNAVAILABLE when nothing is loaded. */
enum ks_status dpa_replica_image(struct dpa_replica *replica, struct dpa_image *image,
				 struct ks_err *err) KS_MUST_CHECK;

/* ---- upstream's changes ---- */

struct dpa_change {
	int64_t revision; /* upstream's mod_revision */
	bool is_delete;
	struct ks_slice key, value;
	int64_t create_revision, version; /* upstream's; of puts */
};

/*
 * Events of whole upstream revisions, ascending, up to 'up_revision' (the header's revision, not below the last event's). What is not
 * above the up revision that is reached already is skipped. Keys outside of the prefix are refused: KS_INVALID_ARGUMENT.
 */
enum ks_status dpa_replica_apply(struct dpa_replica *replica, const struct dpa_change *changes, size_t count,
				 int64_t up_revision, struct ks_err *err) KS_MUST_CHECK;
/* Upstream said that everything up to 'up_revision' was seen, now. */
enum ks_status dpa_replica_progress(struct dpa_replica *replica, int64_t up_revision, struct ks_err *err) KS_MUST_CHECK;
/*
 * Upstream's revision of now, with the history that is here: no client knows more of it. Until it is reached, revisions that clients know may be
 * ahead of ours, so that a change of our own must not take one of those. Tell it before the events.
 */
void dpa_replica_expect(struct dpa_replica *replica, int64_t up_revision);
/* Upstream was heard of just now, and the state is still its. */
void dpa_replica_confirm(struct dpa_replica *replica);

/* ---- a full listing ---- */

/* The value that APISIX gives to keys of folders, which are no configuration (spec/apisix.md 1.8). */
static inline bool dpa_is_marker(struct ks_slice value)
{
	return ks_slice_eq(value, ks_slice_str("init_dir"));
}

struct dpa_resync;

struct dpa_resync_summary {
	size_t put, deleted, same;
	bool held;        /* nothing was changed: the listing is empty and the state is not */
	bool jumped;      /* watches were cancelled */
	int64_t revision; /* local */
};

/*
 * Another source's whole state, as of its revision: key by key in ascending order, then end or abort. 'same_history': the listing
 * continues what is here (upstream after a compaction): revisions and numbers are then upstream's own. Changes by others may come in between.
 * 'confirmed_ms': 0 for now, else when the source was confirmed (an imported image). One resync at a time.
 */
struct dpa_resync *dpa_resync_begin(struct dpa_replica *replica, uint64_t cluster_id, int64_t up_revision,
				    bool same_history, int64_t confirmed_ms, struct ks_err *err);
enum ks_status dpa_resync_key(struct dpa_resync *resync, const struct dpa_change *kv, struct ks_err *err) KS_MUST_CHECK;
/* Frees it in every case. 'accept_empty': an empty listing counts. */
enum ks_status dpa_resync_end(struct dpa_resync *resync, bool accept_empty, struct dpa_resync_summary *summary,
			      struct ks_err *err) KS_MUST_CHECK;
void dpa_resync_abort(struct dpa_resync *resync);
/* The same with an image (its upstream side) as the listing. KS_ABORTED: what is here is newer than the image. */
enum ks_status dpa_replica_resync_image(struct dpa_replica *replica, const struct dpa_image *image,
					struct dpa_resync_summary *summary, struct ks_err *err) KS_MUST_CHECK;

/* ---- what is ours alone ---- */

struct dpa_overlay_key {
	struct ks_slice key, value;
	bool hide; /* as if upstream did not have it */
};
/* Replaces the whole overlay. Keys are unique and begin with the prefix, else KS_INVALID_ARGUMENT. Also before anything is loaded. */
enum ks_status dpa_replica_set_overlay(struct dpa_replica *replica, const struct dpa_overlay_key *keys, size_t count,
				       struct ks_err *err) KS_MUST_CHECK;
/* The transform would give these keys another value now. Unknown keys are skipped; all changes become one local revision. */
enum ks_status dpa_replica_refresh(struct dpa_replica *replica, const struct ks_slice *keys, size_t count,
				   struct ks_err *err) KS_MUST_CHECK;

/* Forgets the history before 'revision' (local), as a client asked for it; one that is not there yet, or gone already, is no error. */
enum ks_status dpa_replica_compact(struct dpa_replica *replica, int64_t revision, struct ks_err *err) KS_MUST_CHECK;

/* ---- translation, for writes that are passed upstream ---- */

/* Local numbers of a key that stands here, as upstream's; false when there is no such key upstream. */
struct dpa_numbers {
	int64_t up_create, up_mod, up_version;
	int64_t create, mod, version; /* as served; 0 when it is hidden */
	bool altered;                 /* overlaid or transformed: the served value is not upstream's */
};
bool dpa_replica_numbers(struct dpa_replica *replica, struct ks_slice key, struct dpa_numbers *numbers);
/* Calls 'reached' once, when upstream's revision is reached (perhaps at once). It runs under the lock: it may only schedule. The struct is lent
 * until then, or until dpa_replica_unwait. */
struct dpa_wait {
	void (*reached)(struct dpa_wait *wait);
	int64_t up_revision;
	struct dpa_wait *next;
};
void dpa_replica_wait(struct dpa_replica *replica, struct dpa_wait *wait);
/* True when it was still waiting: 'reached' will not come any more. */
bool dpa_replica_unwait(struct dpa_replica *replica, struct dpa_wait *wait);

#endif
