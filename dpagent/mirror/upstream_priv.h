/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the upstream share.
 *
 *	upstream.c         life cycle, the thread: judge → list where it must → watch and attend → again
 *	upstream_call.c    one Range, and walks over the prefix in pages
 *	upstream_judge.c   is it the same history?
 *	upstream_list.c    a full listing, fed into a resync
 *	upstream_watch.c   etcdc's call-back: events into the replica
 *	upstream_attend.c  what the thread does while the watch lives: silence, progress, verification
 *	upstream_verify.c  comparing keys and revisions of the whole prefix
 *
 * Threads: functions belong to the upstream's thread, but for the watch's call-back, which is on etcdc's. Locks, in this order:
 * upstream, replica; upstream, board. The call-back holds no lock while it calls the replica.
 */
#ifndef DPA_UPSTREAM_PRIV_H
#define DPA_UPSTREAM_PRIV_H

#include "base/backoff.h"
#include "base/list.h"
#include "base/thread.h"
#include "mirror/prefix.h"
#include "mirror/upstream.h"

/* Of one answer that is short, and of a page of a listing. */
#define DPA_ASK_MS 5000
#define DPA_PAGE_MS 15000

struct dpa_call;

/* Why the thread is to leave the watch; the first reason counts. */
enum dpa_leave {
	DPA_STAY,
	DPA_LEAVE_JUDGE, /* perhaps it is another history: find out at once */
	DPA_LEAVE_LOST,  /* the connection broke, or the server ended the watch */
	DPA_LEAVE_LIST,  /* the state may differ: list the whole */
};

struct dpa_upstream {
	struct dpa_upstream_config config;
	struct ks_interval prefix;
	uint8_t *prefix_memory;
	pthread_t thread;

	/* The thread's. */
	struct ks_backoff backoff;
	bool must_list; /* whatever the judgement says */
	bool was_connected;
	bool failing; /* said on the log */
	int64_t verify_at_ms;
	struct etcdc_watcher *watcher;

	struct ks_mutex lock; /* guards what follows */
	struct ks_cond changed;
	bool stopping, settled, connected;
	struct dpa_call *call; /* that the thread waits for */
	uint64_t cluster_id;   /* of the history that is watched */
	int64_t known;         /* upstream's revision that is reached: the watch began behind it */
	bool held;             /* the watched history is not in the replica, as it is empty */
	/* The watch. */
	int64_t goal;        /* upstream's revision when the watch was created */
	bool created, eager; /* eager: the thread wants to know of each event */
	bool refilled;       /* held, and a key has appeared, or a person has released the hold */
	bool accept_once;    /* the next listing may be empty */
	enum dpa_leave leave;
	struct ks_err why;
	int64_t heard_ms;
	int64_t progress, progress_ms; /* a revision that was announced, and not yet believed; 0: none */
	/* The call-back's own. */
	struct dpa_change *changes;
	size_t capacity;
};

/* ---- upstream.c ---- */

bool dpa_upstream_stopping(struct dpa_upstream *up);
/* The replica equals upstream (or holds). */
void dpa_upstream_settle(struct dpa_upstream *up);
int64_t dpa_now_ms(void);

/* ---- upstream_call.c ---- */

/* The whole prefix. */
void dpa_range_init(const struct dpa_upstream *up, Etcdserverpb__RangeRequest *request);
/* One attempt on the endpoint in use. The response, for etcdc_free, has a header. KS_CANCELLED when the upstream is to stop. */
enum ks_status dpa_range(struct dpa_upstream *up, const Etcdserverpb__RangeRequest *request, int64_t timeout_ms,
			 Etcdserverpb__RangeResponse **response, struct ks_err *err) KS_MUST_CHECK;
void dpa_call_abandon(struct dpa_call *call); /* under the upstream's lock */
bool dpa_is_compacted(const struct ks_err *err);

/* All keys under the prefix at one revision, ascending, in pages of bounded size. KS_OUT_OF_RANGE: compacted meanwhile. */
struct dpa_walk {
	bool keys_only;
	int64_t revision;    /* 0: the newest; then what that is */
	uint64_t cluster_id; /* of the answers */
	/* Once, before the first key. NULL: none. */
	enum ks_status (*begin)(struct dpa_walk *walk, struct ks_err *err);
	enum ks_status (*key)(struct dpa_walk *walk, const Mvccpb__KeyValue *kv, struct ks_err *err);
};
enum ks_status dpa_walk(struct dpa_upstream *up, struct dpa_walk *walk, struct ks_err *err) KS_MUST_CHECK;

/* ---- upstream_judge.c ---- */

enum dpa_verdict {
	DPA_SAME,      /* watch from up->known + 1 */
	DPA_COMPACTED, /* the same history, but what is next was compacted: list */
	DPA_OTHER,     /* list, as another history */
};
/* Sets up->known and up->cluster_id when the verdict is DPA_SAME; settles when nothing changed meanwhile. */
enum ks_status dpa_judge(struct dpa_upstream *up, enum dpa_verdict *verdict, struct ks_err *err) KS_MUST_CHECK;
/* Nothing under the prefix is newer upstream than in the replica, now. False also when that cannot be found out. */
bool dpa_is_current(struct dpa_upstream *up);

/* ---- upstream_list.c ---- */

enum ks_status dpa_list(struct dpa_upstream *up, bool same_history, struct ks_err *err) KS_MUST_CHECK;

/* ---- upstream_watch.c ---- */

void dpa_watch_open(struct dpa_upstream *up);
void dpa_watch_close(struct dpa_upstream *up);

/* ---- upstream_attend.c ---- */

/* From the opening of the watch until it is to be left. KS_OK: judge again at once; else what is wrong. */
enum ks_status dpa_attend(struct dpa_upstream *up, struct ks_err *err) KS_MUST_CHECK;

/* ---- upstream_verify.c ---- */

/* How many keys differ from upstream at the replica's own revision. */
enum ks_status dpa_verify(struct dpa_upstream *up, uint64_t *differences, struct ks_err *err) KS_MUST_CHECK;

#endif
