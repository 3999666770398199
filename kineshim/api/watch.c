/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Watch service: one gRPC stream carries many watchers; each is a position in the store's history (store/watch_hub.h).
 *
 *   message ──create──► watch in the hub ──► created response
 *   publish ──wake────► ready list ──task──► pump(): reads forward for each active watch, as long as the stream's queue has
 *                                            room ──► responses, shared event bytes by reference
 *   queue ran empty ──► writable ──► pump()
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
 */
#include "api/watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/access.h"
#include "api/api.h"
#include "api/errors.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"
#include "proto/rpc.pb-c.h"
#include "store/watch_hub.h"

/* Responses given to the transport before a client has to take some (spec 3.9 has the same purpose). */
#define QUEUE_RESPONSES 128
#define QUEUE_BYTES (4u << 20)
/* One response during catch-up (spec 3.4), and one step under the store's lock. */
#define BATCH_REVISIONS 1000
#define BATCH_EVENTS 16384
#define BATCH_BYTES (4u << 20)
#define BATCH_SCANNED 16384
/* Reads of one pump before other calls of the same thread get their turn. */
#define PUMP_READS 256
/* Watches that get one and the same read, while its events are not more than a few: each response has a copy of theirs. */
#define TOGETHER_WATCHES 64
#define TOGETHER_BYTES 16384
/* Watches on one stream; each costs a few hundred bytes and its key. */
#define MAX_WATCHES 1000000
#define MIN_PROGRESS_MS 100
/*
 * A round is what one wake-up makes a stream send. After one with so many responses the next may wait as long as that one took, up to this: a
 * response costs nearly the same with one revision and with several. It waits where such responses came lately: a writer that waits for its events, or
 * puts now and then, would only get them later. Since rests themselves let a writer get ahead, there is a trial now and then.
 */
#define ROUND_RESPONSES 64
#define REST_MAX_US 2000
#define RESTS_WHERE_JOINED 8 /* after a round of responses with several revisions */
#define RESTS_OF_TRIAL 4
#define REST_TRIAL 256 /* rounds without a rest */

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
	/* The round that is being sent. */
	int64_t round_began_us; /* 0: none is */
	size_t round_responses;
	size_t round_joined;        /* of them those with several revisions */
	unsigned rests_left;        /* before it is certain that they do not pay */
	unsigned rounds_since_rest; /* with many responses */
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

static void pump(struct stream *stream);
static void run_task(struct ks_task *task);

/* ---- references and the way back to the cq thread ---- */

static void stream_unref_locked(struct stream *stream) KS_RELEASES(stream->ready_lock) KS_NO_TSA
{
	bool last = --stream->refs == 0;

	ks_mutex_unlock(&stream->ready_lock);
	if (!last)
		return;
	ks_mutex_fini(&stream->ready_lock);
	free(stream->buckets);
	free(stream->watches);
	free(stream->compacted_ids);
	free(stream);
}

static void stream_unref(struct stream *stream) KS_NO_TSA
{
	ks_mutex_lock(&stream->ready_lock);
	stream_unref_locked(stream);
}

/* Runs run_task soon. ready_lock is held. */
static void post_locked(struct stream *stream)
{
	if (stream->posted || stream->closed)
		return;
	stream->posted = true;
	stream->refs++;
	ks_call_post(stream->call, &stream->task);
}

/* A round begins soon, or when the rest is over. ready_lock is held. */
static void begin_soon_locked(struct stream *stream)
{
	int64_t left_us;

	if (stream->posted || stream->resting || stream->closed)
		return;
	left_us = stream->rest_until_us ? stream->rest_until_us - ks_clock_us() : 0;
	if (left_us <= 0) {
		post_locked(stream);
		return;
	}
	stream->resting = true;
	ks_timer_arm(stream->api->timers, &stream->rest_timer, (left_us + 999) / 1000);
}

static void rest_over(struct ks_timer *timer)
{
	struct stream *stream = ks_container_of(timer, struct stream, rest_timer);

	ks_mutex_lock(&stream->ready_lock);
	stream->resting = false;
	post_locked(stream);
	ks_mutex_unlock(&stream->ready_lock);
}

static void wake(struct ks_watcher *watcher)
{
	struct watch *watch = ks_container_of(watcher, struct watch, watcher);
	struct stream *stream = watch->stream;

	ks_mutex_lock(&stream->ready_lock);
	if (!watch->woken) {
		watch->woken = true;
		ks_list_append(&stream->ready, &watch->link);
	}
	begin_soon_locked(stream);
	ks_mutex_unlock(&stream->ready_lock);
}

/* Streams of few watches have no rounds that others would wait behind, and need not look at the clock for each event. */
static void begin_round(struct stream *stream)
{
	if (stream->round_began_us || stream->watch_count < ROUND_RESPONSES || ks_list_empty(&stream->active))
		return;
	stream->round_began_us = ks_clock_us();
	stream->round_responses = stream->round_joined = 0;
}

/* Does the next round wait? This one says whether there is more than one revision to wait for. */
static bool rests_next(struct stream *stream)
{
	if (stream->round_responses < ROUND_RESPONSES)
		return false;
	if (stream->round_joined * 2 > stream->round_responses)
		stream->rests_left = RESTS_WHERE_JOINED;
	else if (++stream->rounds_since_rest >= REST_TRIAL)
		stream->rests_left = RESTS_OF_TRIAL;
	if (stream->rests_left == 0)
		return false;
	stream->rests_left--;
	stream->rounds_since_rest = 0;
	return true;
}

/* All that was woken is read, and the transport has taken it: how long does the next round wait? */
static void end_round(struct stream *stream)
{
	int64_t now, rest_us;

	if (!stream->round_began_us || !ks_list_empty(&stream->active) || ks_stream_queued(stream->call, NULL) > 0)
		return;
	now = ks_clock_us();
	rest_us = now - stream->round_began_us;
	if (rest_us > REST_MAX_US)
		rest_us = REST_MAX_US;
	if (!rests_next(stream))
		rest_us = 0;
	ks_mutex_lock(&stream->ready_lock);
	stream->rest_until_us = rest_us ? now + rest_us : 0;
	ks_mutex_unlock(&stream->ready_lock);
	stream->round_began_us = 0;
}

/* ---- the watches of a stream ---- */

static struct watch **bucket_of(struct stream *stream, int64_t id)
{
	uint64_t hash = (uint64_t)id * 0x9e3779b97f4a7c15u;

	return &stream->buckets[(hash >> 32) & (stream->bucket_count - 1)];
}

static struct watch *find_watch(struct stream *stream, int64_t id)
{
	struct watch *watch = stream->bucket_count ? *bucket_of(stream, id) : NULL;

	while (watch && watch->id != id)
		watch = watch->next;
	return watch;
}

static bool grow_tables(struct stream *stream)
{
	size_t count = stream->bucket_count ? stream->bucket_count * 2 : 8;
	struct ks_watcher **watches;
	struct watch **buckets;

	if (stream->watch_count < stream->watch_capacity)
		return true;
	watches = realloc(stream->watches, count * sizeof(struct ks_watcher *));
	if (!watches)
		return false;
	stream->watches = watches;
	buckets = calloc(count, sizeof(*buckets));
	if (!buckets)
		return false;
	free(stream->buckets);
	stream->buckets = buckets;
	stream->bucket_count = stream->watch_capacity = count;
	for (size_t i = 0; i < stream->watch_count; i++) {
		struct watch *watch = ks_container_of(watches[i], struct watch, watcher);

		watch->next = *bucket_of(stream, watch->id);
		*bucket_of(stream, watch->id) = watch;
	}
	return true;
}

static void link_watch(struct stream *stream, struct watch *watch)
{
	watch->slot = stream->watch_count;
	stream->watches[stream->watch_count++] = &watch->watcher;
	watch->next = *bucket_of(stream, watch->id);
	*bucket_of(stream, watch->id) = watch;
}

/* Takes 'watch' out of the hub, the tables and the lists, and frees it (later, when a batch of it is on its way). */
static void remove_watch(struct stream *stream, struct watch *watch)
{
	struct watch **chain = bucket_of(stream, watch->id);
	struct watch *last;

	ks_watch_remove(stream->hub, &watch->watcher);
	ks_mutex_lock(&stream->ready_lock);
	ks_list_remove(&watch->link);
	watch->woken = false;
	ks_mutex_unlock(&stream->ready_lock);
	while (*chain != watch)
		chain = &(*chain)->next;
	*chain = watch->next;
	last = ks_container_of(stream->watches[--stream->watch_count], struct watch, watcher);
	stream->watches[watch->slot] = &last->watcher;
	last->slot = watch->slot;
	if (watch->parked)
		watch->removed = true;
	else
		free(watch);
}

/* ---- responses ---- */

struct response {
	int64_t revision; /* of the header; 0 leaves it out (spec 3.8) */
	int64_t watch_id;
	bool created, canceled, fragment;
	int64_t compact_revision;
	const char *cancel_reason;
};

/* All but the header. */
static void write_response_fields(struct ks_out *out, const struct response *response)
{
	ks_wire_uint(&out->buf, 2, (uint64_t)response->watch_id);
	ks_wire_uint(&out->buf, 3, response->created);
	ks_wire_uint(&out->buf, 4, response->canceled);
	ks_wire_uint(&out->buf, 5, (uint64_t)response->compact_revision);
	if (response->cancel_reason)
		ks_wire_bytes(&out->buf, 6, ks_slice_str(response->cancel_reason));
	ks_wire_uint(&out->buf, 7, response->fragment);
}

static void write_response_head(struct stream *stream, struct ks_out *out, const struct response *response)
{
	ks_api_write_header(stream->api, &out->buf, 1, response->revision);
	write_response_fields(out, response);
}

/* Before each response. */
static void note_told(struct stream *stream, int64_t revision)
{
	if (!stream->tells_cursor)
		return;
	stream->told_ms = ks_clock_now(ks_clock_system());
	if (revision > stream->told_revision)
		stream->told_revision = revision;
}

static void send_response(struct stream *stream, const struct response *response)
{
	struct ks_out out;

	ks_out_init(&out, 1024);
	write_response_head(stream, &out, response);
	note_told(stream, response->revision);
	ks_stream_send(stream->call, &out);
}

static void finish(struct stream *stream, enum ks_status status, const char *text)
{
	if (stream->finishing)
		return;
	stream->finishing = true;
	ks_stream_finish(stream->call, status, text);
}

static size_t event_size(const struct ks_event *event)
{
	size_t size = ks_wire_uint_size(1, event->is_delete) + ks_wire_nested_size(2, event->kv.encoded->size);

	if (event->prev.encoded)
		size += ks_wire_nested_size(3, event->prev.encoded->size);
	return size;
}

static void write_event(struct ks_out *out, const struct ks_event *event)
{
	ks_wire_nested(&out->buf, 11, event_size(event));
	ks_wire_uint(&out->buf, 1, event->is_delete);
	ks_wire_nested(&out->buf, 2, event->kv.encoded->size);
	ks_out_bytes(out, event->kv.encoded);
	if (event->prev.encoded) {
		ks_wire_nested(&out->buf, 3, event->prev.encoded->size);
		ks_out_bytes(out, event->prev.encoded);
	}
}

/* What the responses of a batch have in common. */
struct encoded {
	struct ks_buf header;
	struct ks_out events; /* empty: each response writes them itself */
};

/* The events from 'first' up to 'end' as one response. False when that failed. */
static bool send_piece(struct stream *stream, const struct batch *batch, const struct encoded *encoded,
		       const struct response *response, size_t first, size_t end, size_t size)
{
	struct ks_out out;

	ks_out_init(&out, SIZE_MAX);
	ks_buf_reserve(&out.buf, size < 65536 ? size : 65536);
	ks_buf_append(&out.buf, encoded->header.data, encoded->header.size);
	write_response_fields(&out, response);
	ks_buf_append(&out.buf, encoded->events.buf.data, encoded->events.buf.size);
	for (size_t i = first; i < end && !encoded->events.buf.size; i++)
		write_event(&out, &batch->events[i]);
	if (ks_out_failed(&out)) {
		ks_out_fini(&out);
		finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch response");
		return false;
	}
	note_told(stream, response->revision);
	KS_COUNT(EVENTS, end - first);
	ks_stream_send(stream->call, &out);
	return true;
}

/*
 * Sends a watch its events, in fragments when the client asked for them (spec 3.5): pieces below the limit, at least one event
 * each, all but the last marked.
 */
static void send_events(struct stream *stream, const struct batch *batch, const struct watch *watch,
			const struct encoded *encoded)
{
	size_t limit = watch->fragment ? stream->api->max_request_bytes + 512u * 1024 : SIZE_MAX;
	struct response response = {.revision = batch->header_revision, .watch_id = watch->id};
	size_t head = encoded->header.size + ks_wire_uint_size(2, (uint64_t)watch->id) + ks_wire_uint_size(7, 1);
	size_t first = 0;

	if (encoded->events.buf.size) { /* they are few */
		(void)send_piece(stream, batch, encoded, &response, 0, batch->count, head + encoded->events.buf.size);
		return;
	}
	while (first < batch->count && !stream->finishing) {
		size_t size = head;
		size_t end = first;

		while (end < batch->count) {
			size_t next = ks_wire_nested_size(11, event_size(&batch->events[end]));

			if (end > first && size + next >= limit)
				break;
			size += next;
			end++;
		}
		response.fragment = end < batch->count;
		if (!send_piece(stream, batch, encoded, &response, first, end, size))
			return;
		first = end;
	}
}

/* Several watches get copies of one encoding, unless values are so large that they go out by reference. */
static void encode_once(struct encoded *encoded, const struct batch *batch)
{
	ks_out_init(&encoded->events, TOGETHER_BYTES);
	if (batch->watch_count < 2)
		return;
	for (size_t i = 0; i < batch->count; i++)
		write_event(&encoded->events, &batch->events[i]);
	if (ks_out_failed(&encoded->events) || encoded->events.insert_count > 0)
		ks_out_fini(&encoded->events);
}

static void send_batch(struct stream *stream, const struct batch *batch)
{
	struct encoded encoded;

	if (!batch->count)
		return;
	if (batch->events[0].revision != batch->events[batch->count - 1].revision)
		stream->round_joined += batch->watch_count;
	ks_buf_init(&encoded.header, 1024);
	ks_api_write_header(stream->api, &encoded.header, 1, batch->header_revision);
	encode_once(&encoded, batch);
	if (encoded.header.failed)
		finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch response");
	for (size_t i = 0; i < batch->watch_count && !stream->finishing; i++)
		send_events(stream, batch, batch->watches[i], &encoded);
	ks_buf_fini(&encoded.header);
	ks_out_fini(&encoded.events);
}

/* ---- reading forward ---- */

/* Not zeroed as a whole: most of it is room for watches. */
static void batch_init(struct batch *batch, struct watch *watch)
{
	memset(batch, 0, offsetof(struct batch, watches));
	batch->watches[0] = watch;
	batch->watch_count = 1;
}

static void batch_free(struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++) {
		ks_bytes_unref(batch->events[i].kv.encoded);
		ks_bytes_unref(batch->events[i].prev.encoded);
	}
	free(batch->events);
	free(batch->fetch.refs);
	free(batch);
}

/* Under the store's lock: takes references. */
static void collect(void *ctx, const struct ks_event *event)
{
	struct batch *batch = ctx;
	struct ks_event *copy;

	if (batch->failed)
		return;
	if (batch->count == batch->capacity) {
		size_t capacity = batch->capacity ? batch->capacity * 2 : 4;
		struct ks_event *events = realloc(batch->events, capacity * sizeof(*events));

		if (!events) {
			batch->failed = true;
			return;
		}
		batch->events = events;
		batch->capacity = capacity;
	}
	copy = &batch->events[batch->count++];
	*copy = *event;
	copy->key = ks_slice_of(NULL, 0);
	ks_bytes_ref(copy->kv.encoded);
	ks_bytes_ref(copy->prev.encoded);
}

static void fetch_done(struct ks_fetch *fetch)
{
	struct batch *batch = ks_container_of(fetch, struct batch, fetch);
	struct stream *stream = batch->stream;

	ks_mutex_lock(&stream->ready_lock);
	if (!stream->closed) {
		ks_call_post(stream->call, &batch->task); /* run_fetched takes over the batch's reference */
		ks_mutex_unlock(&stream->ready_lock);
		return;
	}
	/* The stream is gone, and with it the thread that would free the watch. */
	free(batch->watches[0]);
	batch_free(batch);
	stream_unref_locked(stream);
}

/* ---- compacted watches ---- */

#define COMPACTED_IDS 1024 /* remembered; clients that cancel such a watch do so at once */

/* True when the id was remembered. */
static bool forget_compacted(struct stream *stream, int64_t id)
{
	for (size_t i = 0; i < stream->compacted_count; i++) {
		if (stream->compacted_ids[i] == id) {
			stream->compacted_ids[i] = stream->compacted_ids[--stream->compacted_count];
			return true;
		}
	}
	return false;
}

static void remember_compacted(struct stream *stream, int64_t id)
{
	if (!stream->compacted_ids)
		stream->compacted_ids = calloc(COMPACTED_IDS, sizeof(stream->compacted_ids[0]));
	if (stream->compacted_ids && stream->compacted_count < COMPACTED_IDS)
		stream->compacted_ids[stream->compacted_count++] = id;
}

static void end_compacted(struct stream *stream, struct watch *watch, int64_t compact_revision)
{
	send_response(stream, &(struct response){
				      .watch_id = watch->id, .canceled = true, .compact_revision = compact_revision});
	remember_compacted(stream, watch->id);
	remove_watch(stream, watch);
}

static void run_fetched(struct ks_task *task)
{
	struct batch *batch = ks_container_of(task, struct batch, task);
	struct stream *stream = batch->stream;
	struct watch *watch = batch->watches[0];
	bool closed;

	ks_mutex_lock(&stream->ready_lock);
	closed = stream->closed;
	ks_mutex_unlock(&stream->ready_lock);
	stream->parked--;
	watch->parked = false;
	if (watch->removed || closed) {
		free(watch);
	} else if (batch->fetch.err.status == KS_OUT_OF_RANGE) {
		/* A compaction trimmed a row that the batch still needed. */
		int64_t compacted = ks_store_committed(stream->api->store).compact_revision;

		end_compacted(stream, watch, compacted);
	} else if (batch->fetch.err.status != KS_OK) {
		/* The values cannot be had now: the client resumes where it was. */
		finish(stream, KS_UNAVAILABLE, batch->fetch.err.text);
	} else {
		send_batch(stream, batch);
		if (watch->unread)
			ks_list_append(&stream->active, &watch->link);
	}
	batch_free(batch);
	if (!closed)
		pump(stream);
	stream_unref(stream);
}

/* True when values are missing and were asked for: the batch, which is of one watch, then belongs to the fetch. */
static bool fetch_missing(struct stream *stream, struct batch *batch)
{
	size_t missing = 0;

	for (size_t i = 0; i < batch->count; i++)
		missing += (size_t)ks_kvref_missing(&batch->events[i].kv) +
			   (size_t)ks_kvref_missing(&batch->events[i].prev);
	if (!missing)
		return false;
	batch->fetch.refs = calloc(missing, sizeof(struct ks_kvref *));
	if (!batch->fetch.refs) {
		batch->failed = true;
		return false;
	}
	for (size_t i = 0; i < batch->count; i++) {
		if (ks_kvref_missing(&batch->events[i].kv))
			batch->fetch.refs[batch->fetch.count++] = &batch->events[i].kv;
		if (ks_kvref_missing(&batch->events[i].prev))
			batch->fetch.refs[batch->fetch.count++] = &batch->events[i].prev;
	}
	batch->stream = stream;
	batch->fetch.done = fetch_done;
	batch->task.run = run_fetched;
	batch->watches[0]->parked = true;
	stream->parked++;
	ks_mutex_lock(&stream->ready_lock);
	stream->refs++;
	ks_mutex_unlock(&stream->ready_lock);
	stream->api->committer->ops->fetch(stream->api->committer, &batch->fetch);
	return true;
}

static struct watch *first_active(struct stream *stream)
{
	return ks_container_of(stream->active.next, struct watch, link);
}

/* How many of the active watches behind the first one stand where it stands and want what it wants. */
static size_t count_alike(struct stream *stream, size_t most)
{
	const struct watch *first = first_active(stream);
	size_t count = 0;

	for (struct ks_list *at = first->link.next; at != &stream->active && count < most; at = at->next) {
		const struct watch *watch = ks_container_of(at, struct watch, link);

		if (!ks_watch_alike(&watch->watcher, &first->watcher) || watch->live != first->live ||
		    watch->fragment != first->fragment)
			break;
		count++;
	}
	return count;
}

/* Each response has a copy, and a value that is not there yet may be of any size. */
static bool is_small(const struct batch *batch)
{
	size_t size = 0;

	for (size_t i = 0; i < batch->count; i++) {
		const struct ks_event *event = &batch->events[i];

		if (ks_kvref_missing(&event->kv) || ks_kvref_missing(&event->prev))
			return false;
		size += event->kv.encoded->size + (event->prev.encoded ? event->prev.encoded->size : 0);
	}
	return !batch->failed && size <= TOGETHER_BYTES;
}

/*
 * The 'count' watches behind the one that has just read, which are like it, join its batch: a thousand watches of one key are one
 * read of the history and not a thousand. Nobody loses a place by it, for they are next to each other in the list. They
 * leave the list before they can be woken again.
 */
static void let_others_follow(struct stream *stream, struct batch *batch, size_t count, int64_t next)
{
	struct ks_watcher *followers[TOGETHER_WATCHES];
	bool followed, caught_up;

	if (count == 0 || !is_small(batch))
		return;
	for (size_t i = 0; i < count; i++)
		followers[i] = &ks_container_of(ks_list_pop(&stream->active), struct watch, link)->watcher;
	followed = ks_watch_follow(stream->hub, followers, count, next, &caught_up);
	for (size_t i = 0; i < count; i++) {
		struct watch *watch = ks_container_of(followers[i], struct watch, watcher);

		if (!followed) {
			ks_list_append(&stream->active, &watch->link);
			continue;
		}
		watch->sent_since_tick |= batch->count > 0;
		watch->live |= caught_up;
		watch->unread = !caught_up;
		batch->watches[batch->watch_count++] = watch;
	}
}

static void mark_unread(struct stream *stream, const struct batch *batch)
{
	for (size_t i = 0; i < batch->watch_count; i++) {
		if (batch->watches[i]->unread)
			ks_list_append(&stream->active, &batch->watches[i]->link);
	}
}

/* One read of the first active watch, and of those like it, as far as there is room for so many responses. How many watches it was. */
static size_t read_watches(struct stream *stream, size_t room)
{
	struct watch *watch = first_active(stream);
	size_t alike = count_alike(stream, (room < TOGETHER_WATCHES ? room : TOGETHER_WATCHES) - 1);
	struct batch *batch = malloc(sizeof(*batch));
	struct ks_watch_read read = {
		.max_revisions = BATCH_REVISIONS,
		.max_events = BATCH_EVENTS,
		.max_bytes = BATCH_BYTES,
		.max_scanned = BATCH_SCANNED,
		.visit = collect,
		.ctx = batch,
	};
	size_t count = 1;

	ks_list_remove(&watch->link);
	if (!batch) {
		finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch");
		return count;
	}
	batch_init(batch, watch);
	switch (ks_watch_read(stream->hub, &watch->watcher, &read)) {
	case KS_WATCH_READ:
		break;
	case KS_WATCH_COMPACTED:
		end_compacted(stream, watch, read.compact_revision);
		goto out;
	case KS_WATCH_RESET:
		/*
		 * What was sent last may never have happened, and revisions have gone back: a client that resumed at its
		 * next one would wait in silence while others' writes pass below it. "Compacted" makes every client
		 * read everything again; the whole history from 1 on is what one gets who goes on from there.
		 */
		end_compacted(stream, watch, 1);
		goto out;
	}
	if (batch->count) {
		batch->header_revision = watch->live ? batch->events[batch->count - 1].revision : read.current;
		/* Clients of JSON take a revision that does not grow for a server that was set back. */
		if (stream->tells_cursor && !read.caught_up)
			batch->header_revision = batch->events[batch->count - 1].revision;
		watch->sent_since_tick = true;
	}
	if (read.caught_up)
		watch->live = true;
	watch->unread = !read.caught_up;
	let_others_follow(stream, batch, alike, read.next);
	count = batch->watch_count;
	if (!batch->failed && batch->count && fetch_missing(stream, batch))
		return count;
	mark_unread(stream, batch);
	if (batch->failed)
		finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch");
	else
		send_batch(stream, batch);
out:
	batch_free(batch);
	return count;
}

/* Responses that the queue still takes. */
static size_t room_of(struct stream *stream)
{
	size_t bytes, queued = ks_stream_queued(stream->call, &bytes);

	return queued < QUEUE_RESPONSES && bytes < QUEUE_BYTES ? QUEUE_RESPONSES - queued : 0;
}

static void pump(struct stream *stream)
{
	size_t reads = 0, read, room;

	while (!stream->finishing && !ks_list_empty(&stream->active) && (room = room_of(stream)) > 0) {
		if (reads >= PUMP_READS) {
			ks_mutex_lock(&stream->ready_lock);
			post_locked(stream);
			ks_mutex_unlock(&stream->ready_lock);
			return;
		}
		read = read_watches(stream, room);
		reads += read;
		stream->round_responses += read;
	}
}

/* Woken watches become active; a parked one when its fetch ends. */
static bool take_ready(struct stream *stream, bool *tick, bool *cursor_due)
{
	struct ks_list ready;
	struct ks_list *item;
	bool closed;

	ks_list_init(&ready);
	ks_mutex_lock(&stream->ready_lock);
	stream->posted = false;
	closed = stream->closed;
	*tick = stream->tick;
	stream->tick = false;
	*cursor_due = stream->cursor_due;
	stream->cursor_due = false;
	ks_list_splice(&ready, &stream->ready);
	for (item = ready.next; item != &ready; item = item->next)
		ks_container_of(item, struct watch, link)->woken = false;
	ks_mutex_unlock(&stream->ready_lock);
	while ((item = ks_list_pop(&ready))) {
		struct watch *watch = ks_container_of(item, struct watch, link);

		if (watch->parked)
			watch->unread = true;
		else
			ks_list_append(&stream->active, item);
	}
	return !closed;
}

/* ---- progress (spec 3.7) ---- */

static bool all_sent(struct stream *stream)
{
	bool ready;

	ks_mutex_lock(&stream->ready_lock);
	ready = !ks_list_empty(&stream->ready);
	ks_mutex_unlock(&stream->ready_lock);
	return !ready && !stream->parked && ks_list_empty(&stream->active);
}

static void answer_progress(struct stream *stream)
{
	int64_t revision;

	if (!stream->manual_progress)
		return;
	stream->manual_progress = false;
	if (stream->watch_count == 0 || !all_sent(stream) ||
	    !ks_watch_progress(stream->hub, stream->watches, stream->watch_count, &revision))
		return;
	send_response(stream, &(struct response){.watch_id = -1, .revision = revision});
}

static void progress_tick(struct stream *stream)
{
	for (size_t i = 0; i < stream->watch_count && !stream->finishing; i++) {
		struct watch *watch = ks_container_of(stream->watches[i], struct watch, watcher);
		bool sent = watch->sent_since_tick;
		int64_t revision;

		watch->sent_since_tick = false;
		if (!watch->progress_notify || sent || watch->parked ||
		    !ks_watch_progress(stream->hub, &stream->watches[i], 1, &revision))
			continue;
		send_response(stream, &(struct response){.watch_id = watch->id, .revision = revision});
	}
	ks_timer_arm(stream->api->timers, &stream->progress_timer, stream->progress_ms);
}

static void progress_fired(struct ks_timer *timer)
{
	struct stream *stream = ks_container_of(timer, struct stream, progress_timer);

	ks_mutex_lock(&stream->ready_lock);
	stream->tick = true;
	post_locked(stream);
	ks_mutex_unlock(&stream->ready_lock);
}

/* One ticker for the stream, with up to 10 % of jitter chosen once, so that many streams do not tick together. */
static void start_ticker(struct stream *stream)
{
	int64_t interval = stream->api->progress_interval_ms;
	uint64_t random = (uint64_t)(uintptr_t)stream * 0x9e3779b97f4a7c15u >> 40;

	if (stream->progress_ms)
		return;
	if (interval < MIN_PROGRESS_MS)
		interval = MIN_PROGRESS_MS;
	stream->progress_ms = interval + (int64_t)(random % (uint64_t)(interval / 10 + 1));
	ks_timer_arm(stream->api->timers, &stream->progress_timer, stream->progress_ms);
}

/*
 * Clients of JSON (lua-resty-etcd, that is APISIX) resume from the last revision that a line told them, and know no progress
 * notifications. A watch of keys that do not change would resume from a revision that was compacted meanwhile, and load
 * everything again. So after some silence it is told the present revision, in a line with an empty list of events: {"result":
 * {"header":{…},"events":[]}}. As with progress, everything up to that revision was sent before. Only with one watch on the
 * stream, for the revision would be one watch's and the events another's.
 */
static void cursor_tick(struct stream *stream)
{
	/* The clock shows whole milliseconds: with one more the silence was never shorter than it must be. */
	int64_t interval_ms = stream->api->cursor_interval_ms + 1;
	int64_t silent_ms = ks_clock_now(ks_clock_system()) - stream->told_ms, revision;
	struct ks_out out;

	if (silent_ms >= interval_ms && stream->watch_count == 1 && all_sent(stream) &&
	    ks_stream_queued(stream->call, NULL) == 0 &&
	    ks_watch_progress(stream->hub, stream->watches, 1, &revision) && revision > stream->told_revision) {
		const struct watch *watch = ks_container_of(stream->watches[0], struct watch, watcher);

		ks_out_init(&out, 1024);
		write_response_head(stream, &out, &(struct response){.revision = revision, .watch_id = watch->id});
		note_told(stream, revision);
		KS_COUNT(CURSOR_LINES, 1);
		ks_stream_send_empty_list(stream->call, &out, "events");
		silent_ms = 0;
	}
	ks_timer_arm(stream->api->timers, &stream->cursor_timer,
		     silent_ms < interval_ms ? interval_ms - silent_ms : interval_ms);
}

static void cursor_fired(struct ks_timer *timer)
{
	struct stream *stream = ks_container_of(timer, struct stream, cursor_timer);

	ks_mutex_lock(&stream->ready_lock);
	stream->cursor_due = true;
	post_locked(stream);
	ks_mutex_unlock(&stream->ready_lock);
}

static void run_task(struct ks_task *task)
{
	struct stream *stream = ks_container_of(task, struct stream, task);
	bool tick, cursor_due;

	if (take_ready(stream, &tick, &cursor_due)) {
		begin_round(stream);
		pump(stream);
		end_round(stream);
		if (tick && !stream->finishing)
			progress_tick(stream);
		answer_progress(stream);
		if (cursor_due && !stream->finishing)
			cursor_tick(stream);
	}
	stream_unref(stream);
}

/* ---- requests ---- */

static void refuse_create(struct stream *stream, const char *reason)
{
	send_response(stream, &(struct response){.revision = ks_store_committed(stream->api->store).revision,
						 .watch_id = -1,
						 .created = true,
						 .canceled = true,
						 .cancel_reason = reason});
}

/* Spec 3.1, step 1 and 4. False: the interval is empty. */
static bool watch_interval(const Etcdserverpb__WatchCreateRequest *request, struct ks_interval *interval)
{
	static const uint8_t zero[1] = {0};

	interval->key = ks_slice_of(request->key.data, request->key.len);
	interval->end = ks_slice_of(request->range_end.data, request->range_end.len);
	if (interval->key.size == 0)
		interval->key = ks_slice_of(zero, 1);
	if (interval->end.size == 0 || (interval->end.size == 1 && interval->end.data[0] == 0))
		return true;
	return ks_slice_cmp(interval->key, interval->end) < 0;
}

static struct watch *new_watch(struct stream *stream, const Etcdserverpb__WatchCreateRequest *request,
			       const struct ks_interval *interval)
{
	struct watch *watch = calloc(1, sizeof(*watch) + interval->key.size + interval->end.size);

	if (!watch)
		return NULL;
	memcpy(watch->bytes, interval->key.data, interval->key.size);
	if (interval->end.size)
		memcpy(watch->bytes + interval->key.size, interval->end.data, interval->end.size);
	watch->stream = stream;
	watch->watcher.interval.key = ks_slice_of(watch->bytes, interval->key.size);
	watch->watcher.interval.end = ks_slice_of(watch->bytes + interval->key.size, interval->end.size);
	watch->watcher.prev_kv = request->prev_kv;
	for (size_t i = 0; i < request->n_filters; i++) {
		watch->watcher.no_put |= request->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT;
		watch->watcher.no_delete |=
			request->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE;
	}
	watch->watcher.wake = wake;
	watch->fragment = request->fragment;
	watch->progress_notify = request->progress_notify;
	ks_list_init(&watch->link);
	return watch;
}

/*
 * Spec 3.1, step 3: permission is asked for once, here. False: refused, with the status as Go prints it.
 */
static bool may_watch(struct stream *stream, const struct ks_interval *interval, struct ks_arena *arena)
{
	struct ks_access access;
	struct ks_err err;
	enum ks_status status = ks_access_open(stream->api, stream->call, arena, &access, &err);
	const char *code = "PermissionDenied";
	char reason[KS_ERR_TEXT_MAX + 64];

	if (status == KS_OK) {
		status = ks_access_check(&access, interval, KS_PERM_READ, &err);
		ks_access_close(&access);
	}
	if (status == KS_OK)
		return true;
	if (status == KS_UNAUTHENTICATED)
		code = "Unauthenticated";
	else if (status == KS_INVALID_ARGUMENT)
		code = "InvalidArgument";
	else if (status != KS_PERMISSION_DENIED)
		ks_etcd_fail(&err, KS_E_PERMISSION_DENIED);
	(void)snprintf(reason, sizeof(reason), "rpc error: code = %s desc = %s", code, err.text);
	refuse_create(stream, reason);
	return false;
}

static void create_watch(struct stream *stream, const Etcdserverpb__WatchCreateRequest *request, struct ks_arena *arena)
{
	struct ks_interval interval;
	bool valid = watch_interval(request, &interval);
	struct watch *watch = NULL;
	int64_t current = 0;
	int64_t id = request->watch_id;

	if (request->start_revision < 0) {
		refuse_create(stream, KS_TEXT_COMPACTED);
		return;
	}
	if (!may_watch(stream, &interval, arena))
		return;
	if (!valid) {
		refuse_create(stream, "mvcc: watcher range is empty");
		return;
	}
	if (id != 0 && find_watch(stream, id)) {
		refuse_create(stream, "mvcc: duplicate watch ID provided on the WatchStream");
		return;
	}
	if (id == 0) {
		while (find_watch(stream, stream->next_id))
			stream->next_id++;
		id = stream->next_id++;
	}
	if (stream->watch_count < MAX_WATCHES && grow_tables(stream))
		watch = new_watch(stream, request, &interval);
	if (!watch || ks_watch_add(stream->hub, &watch->watcher, request->start_revision, &current) != KS_OK) {
		free(watch);
		finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: too many watchers on one stream, or out of memory");
		return;
	}
	watch->id = id;
	(void)forget_compacted(stream, id);
	/* Whoever asks for nothing old is live from the start. */
	watch->live = request->start_revision == 0 || request->start_revision > current;
	link_watch(stream, watch);
	send_response(stream, &(struct response){.revision = current, .watch_id = id, .created = true});
	if (request->start_revision > 0 && request->start_revision <= current)
		ks_list_append(&stream->active, &watch->link);
	if (watch->progress_notify)
		start_ticker(stream);
}

static void cancel_watch(struct stream *stream, int64_t id)
{
	struct watch *watch = find_watch(stream, id);

	if (watch)
		remove_watch(stream, watch);
	else if (!forget_compacted(stream, id))
		return;
	send_response(stream, &(struct response){.revision = ks_store_committed(stream->api->store).revision,
						 .watch_id = id,
						 .canceled = true});
}

static void watch_message(struct ks_call *call, struct ks_slice message)
{
	struct stream *stream = ks_call_context(call);
	Etcdserverpb__WatchRequest *request;
	struct ks_arena arena;
	struct ks_err err;

	if (!stream || stream->finishing)
		return;
	/* Before the log is loaded there is no revision to begin at: "from now on" would be shown the whole history. */
	if (!ks_api_loaded(stream->api)) {
		finish(stream, KS_UNAVAILABLE, KS_TEXT_NO_LEADER);
		return;
	}
	ks_arena_init(&arena, 4 * message.size + 65536);
	request = (Etcdserverpb__WatchRequest *)ks_api_unpack(&etcdserverpb__watch_request__descriptor, &arena, message,
							      &err);
	if (!request) {
		finish(stream, err.status, err.text);
		goto out;
	}
	switch (request->request_union_case) {
	case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST:
		create_watch(stream, request->create_request, &arena);
		break;
	case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST:
		cancel_watch(stream, request->cancel_request->watch_id);
		break;
	case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST:
		stream->manual_progress = true;
		break;
	default: /* an unknown kind is ignored (spec 3) */
		break;
	}
	pump(stream);
	if (stream->manual_progress) {
		/* What was woken but not yet looked at may be all that keeps this stream from being in sync. */
		ks_mutex_lock(&stream->ready_lock);
		post_locked(stream);
		ks_mutex_unlock(&stream->ready_lock);
	}
out:
	ks_arena_fini(&arena);
}

/* ---- life of the stream ---- */

static void watch_open(struct ks_call *call)
{
	struct ks_api *api = ks_rpc_context(ks_call_rpc(call));
	struct stream *stream = calloc(1, sizeof(*stream));

	ks_call_set_context(call, stream);
	if (!stream) {
		ks_stream_finish(call, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch stream");
		return;
	}
	KS_COUNT(WATCH_STREAMS, 1);
	stream->call = call;
	stream->api = api;
	stream->hub = ks_store_hub(api->store);
	stream->refs = 1;
	stream->task.run = run_task;
	ks_mutex_init(&stream->ready_lock);
	ks_list_init(&stream->ready);
	ks_list_init(&stream->active);
	ks_timer_init(&stream->progress_timer, progress_fired);
	ks_timer_init(&stream->cursor_timer, cursor_fired);
	ks_timer_init(&stream->rest_timer, rest_over);
	stream->tells_cursor = ks_call_is_http(call) && api->cursor_interval_ms > 0;
	stream->finishing = !ks_api_stream_open(api, call, &stream->base);
	if (stream->tells_cursor)
		ks_timer_arm(api->timers, &stream->cursor_timer, api->cursor_interval_ms);
}

/* Spec 3.10: a client's half-close does not end a watch. */
static void watch_half_closed(struct ks_call *call)
{
	(void)call;
}

static void watch_writable(struct ks_call *call)
{
	struct stream *stream = ks_call_context(call);

	if (!stream)
		return;
	pump(stream);
	end_round(stream);
}

static void watch_closed(struct ks_call *call)
{
	struct stream *stream = ks_call_context(call);

	if (!stream)
		return;
	KS_COUNT(WATCH_STREAMS, -1);
	stream->finishing = true;
	ks_api_stream_closed(stream->api, &stream->base);
	ks_timer_cancel(stream->api->timers, &stream->progress_timer);
	ks_timer_cancel(stream->api->timers, &stream->cursor_timer);
	/* First out of the hub: then no wake can come, and what was woken is forgotten with its watch. */
	while (stream->watch_count > 0) {
		struct watch *watch = ks_container_of(stream->watches[stream->watch_count - 1], struct watch, watcher);

		remove_watch(stream, watch);
	}
	ks_timer_cancel(stream->api->timers, &stream->rest_timer);
	ks_mutex_lock(&stream->ready_lock);
	stream->closed = true;
	stream_unref_locked(stream);
}

const struct ks_stream_ops ks_api_watch_ops = {
	.open = watch_open,
	.message = watch_message,
	.half_closed = watch_half_closed,
	.writable = watch_writable,
	.closed = watch_closed,
};
