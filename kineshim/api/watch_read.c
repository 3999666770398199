/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the history forward for the active watches of a stream. A batch is the events of one read; it waits for values that
 * the cache let go, and then goes out.
 */
#include <stdlib.h>

#include "api/watch_priv.h"

/*
 * Responses given to the transport before a client has to take some (spec 3.9 has the same purpose). Each stream whose client does not read costs so
 * much memory, and a batch; so where there are many streams, each gets a share of what all may have.
 */
#define QUEUE_RESPONSES 128
#define QUEUE_BYTES (512u << 10)
#define SHARED_BYTES ((size_t)256 << 20)
#define SHARE_LEAST (32u << 10)
/* One response during catch-up (spec 3.4), and one step under the store's lock. */
#define BATCH_REVISIONS 1000
#define BATCH_EVENTS 16384
#define BATCH_BYTES (4u << 20) /* the most; BATCH_REVISIONS are fewer then */
#define BATCH_SCANNED 16384
/* Reads of one pump before other calls of the same thread get their turn. */
#define PUMP_READS 256
/* Copies of its events that the watches of one read get. */
#define COPIES_BYTES (256u << 10)

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
	ks_api_watch_unref_locked(stream);
}

static void end_compacted(struct stream *stream, struct watch *watch, int64_t compact_revision)
{
	ks_api_watch_send(
		stream,
		&(struct response){.watch_id = watch->id, .canceled = true, .compact_revision = compact_revision});
	ks_api_watch_remember_compacted(stream, watch->id);
	ks_api_watch_remove(stream, watch);
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
		ks_api_watch_finish(stream, KS_UNAVAILABLE, batch->fetch.err.text);
	} else {
		ks_api_watch_send_batch(stream, batch);
		if (watch->unread)
			ks_list_append(&stream->active, &watch->link);
	}
	batch_free(batch);
	if (!closed)
		ks_api_watch_pump(stream);
	ks_api_watch_unref(stream);
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

/* How many more watches may have a copy each. A value that is not there yet may be of any size. */
static size_t most_followers(const struct batch *batch)
{
	size_t size = 1;

	for (size_t i = 0; i < batch->count; i++) {
		const struct ks_event *event = &batch->events[i];

		if (ks_kvref_missing(&event->kv) || ks_kvref_missing(&event->prev))
			return 0;
		size += event->kv.encoded->size + (event->prev.encoded ? event->prev.encoded->size : 0);
	}
	return batch->failed || size > TOGETHER_BYTES ? 0 : COPIES_BYTES / size;
}

/*
 * The 'count' watches behind the one that has just read, which are like it, join its batch: a thousand watches of one key are one
 * read of the history and not a thousand. Nobody loses a place by it, for they are next to each other in the list. They
 * leave the list before they can be woken again.
 */
static void let_others_follow(struct stream *stream, struct batch *batch, size_t count, int64_t next)
{
	struct ks_watcher *followers[TOGETHER_WATCHES];
	size_t most = count ? most_followers(batch) : 0;
	bool followed, caught_up;

	if (count > most)
		count = most;
	if (count == 0)
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

/* What this stream may have of the bytes that all share, and 'most' at the most. */
static size_t share_of(const struct stream *stream, size_t most)
{
	size_t share = SHARED_BYTES / (atomic_load_explicit(&stream->api->watch_streams, memory_order_relaxed) + 1);

	if (share < SHARE_LEAST)
		share = SHARE_LEAST;
	return share < most ? share : most;
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
		.max_bytes = share_of(stream, BATCH_BYTES),
		.max_scanned = BATCH_SCANNED,
		.visit = collect,
		.ctx = batch,
	};
	size_t count = 1;

	ks_list_remove(&watch->link);
	if (!batch) {
		ks_api_watch_finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch");
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
		ks_api_watch_finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch");
	else
		ks_api_watch_send_batch(stream, batch);
out:
	batch_free(batch);
	return count;
}

/* Responses that the queue still takes. */
static size_t room_of(struct stream *stream)
{
	size_t bytes, queued = ks_stream_queued(stream->call, &bytes);

	return queued < QUEUE_RESPONSES && bytes < share_of(stream, QUEUE_BYTES) ? QUEUE_RESPONSES - queued : 0;
}

void ks_api_watch_pump(struct stream *stream)
{
	size_t reads = 0, read, room;

	while (!stream->finishing && !ks_list_empty(&stream->active) && (room = room_of(stream)) > 0) {
		if (reads >= PUMP_READS) {
			ks_mutex_lock(&stream->ready_lock);
			ks_api_watch_post_locked(stream);
			ks_mutex_unlock(&stream->ready_lock);
			return;
		}
		read = read_watches(stream, room);
		reads += read;
		stream->rounds.responses += read;
	}
}
