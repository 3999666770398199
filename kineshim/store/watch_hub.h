/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub: who waits for which keys, and nothing else. Watchers own no queues: each holds the next revision it
 * needs and reads forward from the store's history (ks_store_scan_events), woken by publish.
 *
 * A watcher is *idle* when it has seen everything up to the committed revision; the hub then finds it by its interval
 * when a matching event is published, and calls its wake function once. From then on it is *pending*: its owner reads
 * forward with ks_watch_read until it is idle again. So a slow client costs nothing to others, memory does not grow with
 * watchers × events, and nothing is dropped.
 *
 * Threads: any, except that calls for one watcher are serialised by its owner. wake runs on the writer thread under the hub's
 * lock: it must only schedule (never call back into the hub, block or send). Lock order: owner's stream state, hub,
 * store, then leaf locks (the owner's ready list, a cq thread's inbox).
 * Owner: struct ks_watcher is embedded in its owner, who keeps it until ks_watch_remove returned.
 */
#ifndef KS_STORE_WATCH_HUB_H
#define KS_STORE_WATCH_HUB_H

#include "base/list.h"
#include "store/store.h"

struct ks_watcher;
struct ks_watch_group;
typedef void ks_watch_wake_fn(struct ks_watcher *watcher);

enum ks_watcher_state {
	KS_WATCHER_OUT,     /* not in the hub */
	KS_WATCHER_IDLE,    /* linked in its group's idle list */
	KS_WATCHER_PENDING, /* woken, or never caught up: its owner must call ks_watch_read */
};

struct ks_watcher {
	/* set by the owner before ks_watch_add, not changed afterwards */
	struct ks_interval interval; /* bytes owned by the owner for as long as the watcher is in the hub */
	bool prev_kv, no_put, no_delete;
	ks_watch_wake_fn *wake;
	/* the hub's, under its lock */
	enum ks_watcher_state state;
	struct ks_watch_group *group; /* all watchers of this very interval */
	struct ks_list link;          /* in group->idle while idle */
	struct ks_list all_link;
	uint64_t epoch; /* the hub's when added: a reset makes the two differ */
	int64_t start;  /* as asked for; 0 was replaced by the revision at registration */
	bool compacted; /* its start was below the compact revision when it was added */
	int64_t next;   /* first revision not yet seen; while pending only its owner's calls move it */
};

struct ks_watch_hub *ks_watch_hub_new(struct ks_store *store, struct ks_err *err);
void ks_watch_hub_free(struct ks_watch_hub *hub);

/*
 * Adds a watcher that wants events from 'start' on (0: from the next revision). *current gets the revision at registration.
 * With a start at or below it the watcher is pending at once, without a wake: the owner reads now. Fails without memory.
 */
enum ks_status ks_watch_add(struct ks_watch_hub *hub, struct ks_watcher *watcher, int64_t start,
			    int64_t *current) KS_MUST_CHECK;
/* After it returned no wake is running or will come. Harmless for a watcher that is not in the hub. */
void ks_watch_remove(struct ks_watch_hub *hub, struct ks_watcher *watcher);

enum ks_watch_read_status {
	KS_WATCH_READ,      /* fine: 'events' were visited (perhaps 0); see caught_up */
	KS_WATCH_COMPACTED, /* compact_revision overtook it: the owner cancels and removes it */
	KS_WATCH_RESET,     /* the store was reset: the owner ends the stream with UNAVAILABLE */
};

struct ks_watch_read {
	size_t max_revisions, max_events, max_bytes, max_scanned;
	ks_event_fn *visit; /* under the store's read lock: only takes references */
	void *ctx;
	/* out */
	size_t events;
	int64_t current; /* committed revision at that instant */
	int64_t next;    /* the position after it */
	int64_t compact_revision;
	bool caught_up; /* the watcher is idle again and will be woken; otherwise read again when there is room */
};
/* Reads the next batch of whole revisions of a pending watcher and moves its position past them. */
enum ks_watch_read_status ks_watch_read(struct ks_watch_hub *hub, struct ks_watcher *watcher,
					struct ks_watch_read *read) KS_MUST_CHECK;

/*
 * Many watchers of one owner often wait for the very same: one of them reads, and the others follow. True when a read of the one
 * would find what a read of the other does; both pending.
 */
bool ks_watch_alike(const struct ks_watcher *one, const struct ks_watcher *other);
/*
 * Moves watchers, which were like the one that has just read, to where its read ended (read.next); *caught_up as for a read,
 * the same for all. False when the store was reset meanwhile: then none was moved, and each will learn it when it reads.
 */
bool ks_watch_follow(struct ks_watch_hub *hub, struct ks_watcher *const *watchers, size_t count, int64_t next,
		     bool *caught_up) KS_MUST_CHECK;

/*
 * Progress (spec/etcd.md 3.7): true when all of the watchers are idle and no start lies in the future. Then every event
 * up to *revision (the current one) was handed out by ks_watch_read, or matches none of them.
 */
bool ks_watch_progress(struct ks_watch_hub *hub, struct ks_watcher *const *watchers, size_t count, int64_t *revision);

/*
 * [writer] Publishing is one step for the hub: begin locks it, the store makes its tail visible, publish wakes whoever
 * waits for revisions in (from, to] and unlocks.
 */
void ks_watch_hub_begin(struct ks_watch_hub *hub);
void ks_watch_hub_publish(struct ks_watch_hub *hub, int64_t from, int64_t to);
/* [writer] The store starts anew at 'revision': every watcher is woken to find KS_WATCH_RESET. */
void ks_watch_hub_reset(struct ks_watch_hub *hub, int64_t revision);

/*
 * Does a pending watcher still need a revision below 'revision'? Compaction asks before it removes history for good, so that a
 * compaction right behind a write does not take the event away from a watcher that is just about to read it.
 */
bool ks_watch_hub_needs(struct ks_watch_hub *hub, int64_t revision);

/* Changes with every reset of the store: what was read before belongs to another history. */
uint64_t ks_watch_hub_epoch(struct ks_watch_hub *hub);

struct ks_watch_stats {
	size_t watchers, pending, groups;
};
void ks_watch_hub_stats(struct ks_watch_hub *hub, struct ks_watch_stats *stats);

#endif
