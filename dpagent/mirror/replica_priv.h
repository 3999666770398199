/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the replica share. Everything below runs under the replica's lock.
 *
 *	replica.c         life cycle, upstream's events, the point, waits, history
 *	replica_draft.c   what a key shows, and entries of the store made of that
 *	replica_image.c   loading and copying
 *	replica_local.c   overlay and refresh
 *	resync.c          a full listing
 */
#ifndef DPA_REPLICA_PRIV_H
#define DPA_REPLICA_PRIV_H

#include "base/thread.h"
#include "mirror/origin.h"
#include "mirror/replica.h"

/*
 * How far local revisions jump when clients may know more of them than we: at least so far, and further the older the image is, so that one that
 * is loaded twice, as the first start ended before it wrote another one, does not lead to the same revisions again.
 */
#define DPA_REVISION_JUMP ((int64_t)1 << 20)
#define DPA_JUMP_PER_MS 10 /* no agent sees so many revisions for long */
#define DPA_JUMP_AGE_MS ((int64_t)86400000)
#define DPA_HISTORY_MARKS 32
/* Upstream's revisions above that are refused, and local ones an image may have: numbers never overflow, and what is saved can be loaded. */
#define DPA_UP_REVISION_MAX (INT64_MAX / 8)
#define DPA_REVISION_MAX (INT64_MAX / 4)

struct dpa_overlay_entry {
	struct ks_bytes *key;
	struct ks_bytes *value; /* NULL: hidden */
};

struct dpa_replica {
	struct dpa_replica_config config;
	char *prefix;
	char *reports_prefix;        /* "": none */
	struct ks_interval interval; /* of the prefix */
	uint8_t *interval_memory;
	struct ks_store *store;

	struct ks_mutex copy_lock; /* one image at a time; before the lock */
	struct ks_mutex lock;      /* guards what follows, and makes its holder the store's writer */
	struct dpa_origins origins;
	struct dpa_overlay_entry *overlay; /* ascending */
	size_t overlay_count;
	bool loaded;
	bool uncertain; /* loaded from an image that was not final, without a jump: clients may know newer revisions */
	int64_t jump;   /* how far, then */
	int64_t certain_at; /* upstream's revision that ends that */
	bool dirty;         /* the store's tail has unpublished entries */
	uint64_t cluster_id;
	int64_t up_revision; /* of what is published */
	int64_t position;    /* the store's tail's */
	int64_t revision;    /* the store's tail's, local */
	int64_t confirmed_ms;
	uint64_t changes, key_changes;
	struct ks_bytes *witness; /* NULL: to be found when it is asked for */
	int64_t witness_mod;
	/* History: how many events there were when, and of how many bytes, to know what to compact. */
	struct dpa_history_mark {
		int64_t revision;
		uint64_t events, bytes;
	} marks[DPA_HISTORY_MARKS];
	size_t mark_count;
	uint64_t events, bytes;  /* all that there were */
	uint64_t settled_events; /* as it was after the last change */
	bool compacting;
	struct dpa_wait *waits;
	bool resyncing; /* one listing at a time */
	/* An image is being copied: names of the keys that changed meanwhile (replica_image.c). */
	struct dpa_recorder {
		struct ks_bytes **keys;
		size_t count, capacity;
		bool failed;
	} * recorder;
};

/* ---- replica_draft.c ---- */

/* A key as served: 'held' keeps what 'kv' points to. */
struct dpa_shown {
	struct ks_bytes *held; /* NULL: not served */
	struct ks_kv kv;
};
/* In the committed view: publish first (dpa_publish). KS_RESOURCE_EXHAUSTED without memory. */
enum ks_status dpa_shown_get(struct dpa_replica *replica, struct ks_slice key, struct dpa_shown *shown,
			     struct ks_err *err) KS_MUST_CHECK;
void dpa_shown_fini(struct dpa_shown *shown);

/* A key as upstream has it. */
struct dpa_upside {
	bool there;
	int64_t create, mod, version;
	struct ks_slice raw; /* borrowed from the shown or the origin */
};
struct dpa_upside dpa_upside_of(const struct dpa_origin *origin, const struct dpa_shown *shown);

/* One entry in the making, and what becomes of the origins when it is committed. */
struct dpa_draft {
	struct dpa_replica *replica;
	int64_t revision;    /* local */
	int64_t up_revision; /* at which puts show upstream's own numbers; 0: none does */
	struct ks_effect *effects;
	size_t effect_count, effect_capacity;
	struct dpa_pending {
		struct dpa_origin origin; /* owned references; key always set */
		struct ks_bytes *value;   /* the served one that an effect points to; owned, may be NULL */
		bool keep;                /* an entry in the table; else none */
	} * pending;
	size_t pending_count, pending_capacity;
};
void dpa_draft_begin(struct dpa_draft *draft, struct dpa_replica *replica, int64_t revision, int64_t up_revision);
void dpa_draft_fini(struct dpa_draft *draft);
/*
 * The key, as upstream has it from now on. 'touch': upstream wrote it, so there is an event even when the value is the same. Slices
 * are copied, but for those of dpa_draft_plain.
 */
enum ks_status dpa_draft_key(struct dpa_draft *draft, struct ks_slice key, const struct dpa_upside *up, bool touch,
			     struct ks_err *err) KS_MUST_CHECK;
/* Upstream's change as it is; key and value are borrowed until the commit. */
enum ks_status dpa_draft_plain(struct dpa_draft *draft, const struct dpa_change *change,
			       struct ks_err *err) KS_MUST_CHECK;
/* Applies it to the tail, and changes the origins; an empty one only raises the revision. Then fini. */
enum ks_status dpa_draft_commit(struct dpa_draft *draft, struct ks_err *err) KS_MUST_CHECK;

/* ---- replica.c ---- */
enum ks_status dpa_no_memory(struct ks_err *err);
bool dpa_in_prefix(const struct dpa_replica *replica, struct ks_slice key);
void dpa_publish(struct dpa_replica *replica);
void dpa_rollback(struct dpa_replica *replica);
/* The local revision for upstream's 'up_revision'. */
int64_t dpa_local_of(const struct dpa_replica *replica, int64_t up_revision);
/* The local revision of a change of our own; *jumped: watches are to be cancelled after it was published (dpa_after_jump). */
int64_t dpa_local_next(const struct dpa_replica *replica, bool *jumped);
enum ks_status dpa_after_jump(struct dpa_replica *replica, struct ks_err *err) KS_MUST_CHECK;
/* Raises the local revision to that without changing keys. */
enum ks_status dpa_raise(struct dpa_replica *replica, int64_t revision, struct ks_err *err) KS_MUST_CHECK;
/* After a publish: waits, history, whoever wants to know. */
void dpa_settle(struct dpa_replica *replica);
const struct dpa_overlay_entry *dpa_overlay_of(const struct dpa_replica *replica, struct ks_slice key);
/* Visits the served keys after 'after' (exclusive; empty: from the first), at most 'limit'; free with ks_range_result_fini. */
enum ks_status dpa_served_after(struct dpa_replica *replica, struct ks_slice after, int64_t limit,
				struct ks_range_result *result, struct ks_err *err) KS_MUST_CHECK;

/* ---- replica_image.c ---- */
void dpa_record_change(struct dpa_replica *replica, struct ks_slice key);
/* An image that names none is of any. These two need no lock. */
bool dpa_is_of_prefix(const struct dpa_replica *replica, const struct dpa_image *image);
enum ks_status dpa_other_prefix(const struct dpa_image *image, struct ks_err *err);
/* The replica is empty; does not ask overlay and transform. */
enum ks_status dpa_load_image(struct dpa_replica *replica, const struct dpa_image *image,
			      struct ks_err *err) KS_MUST_CHECK;

/* ---- replica_local.c ---- */
/* What overlay and transform make of the state that was just loaded. */
enum ks_status dpa_recompute_all(struct dpa_replica *replica, struct ks_err *err) KS_MUST_CHECK;
/* Commits a draft of dpa_local_next's revision; without it when nobody sees a change. Uses it up. */
enum ks_status dpa_draft_finish(struct dpa_draft *draft, bool jumped, struct ks_err *err) KS_MUST_CHECK;

#endif
