/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the watch*.c files share: a stream of the Watch service, its watches, what it reads and sends.
 *
 * watch.c           life of the stream, its requests, what wakes it
 * watch_table.c     the watches of a stream
 * watch_read.c      reads the history forward for the active ones
 * watch_response.c  responses, from events to bytes
 * watch_progress.c  progress notifications, and the silence of JSON clients
 * watch_rounds.[ch] when the next round waits
 *
 * A slow client therefore holds at most one queue's worth of responses; what it has not taken stays in the history.
 *
 * A watch is in one of these places:
 *   idle     in the hub, nothing to read       (neither list)
 *   ready    woken, the task has not run yet   (stream->ready, under ready_lock)
 *   active   has history to read               (stream->active)
 *   parked   a batch waits for evicted values  (batch->watches)
 *
 * Threads: everything runs on the call's cq thread, except wake (writer thread, under the hub's lock), the fetch's done (any)
 * and the timers; those only touch 'ready_lock' and post the task. Lock order: hub, then ready_lock, then the timers'.
 *
 * Everything here is for the call's cq thread, but for the functions that say so.
 */
#ifndef KS_API_WATCH_PRIV_H
#define KS_API_WATCH_PRIV_H

#include "api/api.h"
#include "api/watch_rounds.h"
#include "base/list.h"
#include "base/thread.h"
#include "base/timer.h"
#include "store/watch_hub.h"

/* Watches that get one and the same read, while its events are not more than a few: each response has a copy of theirs. */
#define TOGETHER_WATCHES 64
#define TOGETHER_BYTES 16384

struct watch {
	struct ks_watcher watcher; /* first: the hub hands it back */
	struct stream *stream;
	struct ks_list link; /* ready or active */
	struct watch *next;  /* hash chain of stream->buckets */
	size_t slot;         /* index in stream->watches */
	int64_t id;
	bool woken;   /* under ready_lock: in the ready list */
	bool parked;  /* a batch of it waits for values */
	bool unread;  /* while parked: becomes active when the batch is sent */
	bool removed; /* while parked: free it when the batch comes back */
	bool live;    /* has caught up once: headers carry the event's revision (spec 3.8) */
	bool fragment;
	bool progress_notify;
	bool sent_since_tick;
	uint8_t bytes[]; /* key and range end */
};

/* Events read for a watch, or for several that wait for the same, and the values they may still lack. */
struct batch {
	struct stream *stream;
	struct ks_event *events; /* kv and prev are owned references; key is not used */
	size_t count, capacity;
	bool failed; /* out of memory while collecting */
	int64_t header_revision;
	struct ks_fetch fetch;
	struct ks_task task;
	size_t watch_count;
	struct watch *watches[TOGETHER_WATCHES];
};

struct stream {
	struct ks_api_stream base;
	struct ks_call *call;
	struct ks_api *api;
	struct ks_watch_hub *hub;
	/* the cq thread's */
	struct watch **buckets;
	size_t bucket_count;
	struct ks_watcher **watches; /* all of them, dense, for progress */
	size_t watch_count, watch_capacity;
	int64_t next_id;
	/* Ids of watches that a compaction ended: a cancel of one is still answered, once (spec 3.2). */
	int64_t *compacted_ids;
	size_t compacted_count;
	struct ks_list active;
	size_t parked;
	bool finishing;       /* a status was sent: nothing may follow */
	bool manual_progress; /* asked for, waits for nothing: answered or dropped in pump order */
	struct ks_timer progress_timer;
	int64_t progress_ms; /* 0: not armed yet */
	struct ks_watch_rounds rounds;
	/* Through JSON only: what was told last, and when. */
	bool tells_cursor;
	int64_t told_revision, told_ms;
	struct ks_timer cursor_timer;
	/* under ready_lock */
	struct ks_mutex ready_lock;
	struct ks_list ready;
	struct ks_task task;
	bool posted;
	bool tick;             /* the progress timer fired */
	bool cursor_due;       /* the cursor timer fired */
	int64_t rest_until_us; /* no round begins before */
	bool resting;          /* what was woken waits for the timer */
	struct ks_timer rest_timer;
	bool closed;
	/* references: the open stream, a posted task, batches on their way */
	unsigned refs;
};

struct response {
	int64_t revision; /* of the header; 0 leaves it out (spec 3.8) */
	int64_t watch_id;
	bool created, canceled, fragment;
	int64_t compact_revision;
	const char *cancel_reason;
};

/* ---- watch.c ---- */

/* Lets go of a reference; any thread. The stream may be gone afterwards. */
void ks_api_watch_unref(struct stream *stream);
void ks_api_watch_unref_locked(struct stream *stream) KS_RELEASES(stream->ready_lock);
/* Lets the stream's task run soon; any thread, with ready_lock held. */
void ks_api_watch_post_locked(struct stream *stream);
/* Ends the stream with a status, behind what was sent. Once; later ones are ignored. */
void ks_api_watch_finish(struct stream *stream, enum ks_status status, const char *text);

/* ---- watch_table.c ---- */

struct watch *ks_api_watch_find(struct stream *stream, int64_t id);
/* Room for one more; false without memory. */
bool ks_api_watch_reserve(struct stream *stream) KS_MUST_CHECK;
/* There must be room, and no other with its id. */
void ks_api_watch_link(struct stream *stream, struct watch *watch);
/* Takes 'watch' out of the hub, the tables and the lists, and frees it (later, when a batch of it is on its way). */
void ks_api_watch_remove(struct stream *stream, struct watch *watch);
/* Ids of watches that a compaction ended. forget: true when it was remembered. */
void ks_api_watch_remember_compacted(struct stream *stream, int64_t id);
bool ks_api_watch_forget_compacted(struct stream *stream, int64_t id);

/* ---- watch_read.c ---- */

/* Reads for the active watches and sends what it finds, as far as the stream's queue has room. */
void ks_api_watch_pump(struct stream *stream);

/* ---- watch_response.c ---- */

void ks_api_watch_send(struct stream *stream, const struct response *response);
/* The same without events as bytes, for a response that is sent in another way; ks_api_watch_note_told comes before that. */
void ks_api_watch_write_head(struct stream *stream, struct ks_out *out, const struct response *response);
void ks_api_watch_note_told(struct stream *stream, int64_t revision);
/* All values must be there. */
void ks_api_watch_send_batch(struct stream *stream, const struct batch *batch);

/* ---- watch_progress.c (spec 3.7) ---- */

void ks_api_watch_progress_init(struct stream *stream);
void ks_api_watch_start_ticker(struct stream *stream); /* a watch with progress_notify has come */
void ks_api_watch_answer_progress(struct stream *stream);
void ks_api_watch_progress_tick(struct stream *stream);
void ks_api_watch_cursor_tick(struct stream *stream);

#endif
