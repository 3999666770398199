/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Watch service: one gRPC stream carries many watchers; each is a position in the store's history (store/watch_hub.h).
 *
 *   message ──create──► watch in the hub ──► created response
 *   publish ──wake────► ready list ──task──► pump: reads forward for each active watch, as long as the stream's queue has
 *                                            room ──► responses, shared event bytes by reference
 *   queue ran empty ──► writable ──► pump
 */
#include "api/watch.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/access.h"
#include "api/errors.h"
#include "api/watch_priv.h"
#include "base/clock.h"
#include "base/panic.h"
#include "proto/rpc.pb-c.h"

/* Watches on one stream; each costs a few hundred bytes and its key. */
#define MAX_WATCHES 1000000

/* ---- references and the way back to the cq thread ---- */

void ks_api_watch_unref_locked(struct stream *stream) KS_RELEASES(stream->ready_lock) KS_NO_TSA
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

void ks_api_watch_unref(struct stream *stream) KS_NO_TSA
{
	ks_mutex_lock(&stream->ready_lock);
	ks_api_watch_unref_locked(stream);
}

/* Runs run_task soon. ready_lock is held. */
void ks_api_watch_post_locked(struct stream *stream)
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
		ks_api_watch_post_locked(stream);
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
	ks_api_watch_post_locked(stream);
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
	if (!stream->rounds.began_us && stream->watch_count >= KS_WATCH_ROUND_RESPONSES &&
	    !ks_list_empty(&stream->active))
		ks_watch_rounds_begin(&stream->rounds, ks_clock_us());
}

/* All that was woken is read, and the transport has taken it: how long does the next round wait? */
static void end_round(struct stream *stream)
{
	int64_t now, rest_us;

	if (!stream->rounds.began_us || !ks_list_empty(&stream->active) || ks_stream_queued(stream->call, NULL) > 0)
		return;
	now = ks_clock_us();
	rest_us = ks_watch_rounds_end(&stream->rounds, now);
	ks_mutex_lock(&stream->ready_lock);
	stream->rest_until_us = rest_us ? now + rest_us : 0;
	ks_mutex_unlock(&stream->ready_lock);
}

void ks_api_watch_finish(struct stream *stream, enum ks_status status, const char *text)
{
	if (stream->finishing)
		return;
	stream->finishing = true;
	ks_stream_finish(stream->call, status, text);
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

static void run_task(struct ks_task *task)
{
	struct stream *stream = ks_container_of(task, struct stream, task);
	bool tick, cursor_due;

	if (take_ready(stream, &tick, &cursor_due)) {
		begin_round(stream);
		ks_api_watch_pump(stream);
		end_round(stream);
		if (tick && !stream->finishing)
			ks_api_watch_progress_tick(stream);
		ks_api_watch_answer_progress(stream);
		if (cursor_due && !stream->finishing)
			ks_api_watch_cursor_tick(stream);
	}
	ks_api_watch_unref(stream);
}

/* ---- requests ---- */

static void refuse_create(struct stream *stream, const char *reason)
{
	ks_api_watch_send(stream, &(struct response){.revision = ks_store_committed(stream->api->store).revision,
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
	if (id != 0 && ks_api_watch_find(stream, id)) {
		refuse_create(stream, "mvcc: duplicate watch ID provided on the WatchStream");
		return;
	}
	if (id == 0) {
		while (ks_api_watch_find(stream, stream->next_id))
			stream->next_id++;
		id = stream->next_id++;
	}
	if (stream->watch_count < MAX_WATCHES && ks_api_watch_reserve(stream))
		watch = new_watch(stream, request, &interval);
	if (!watch || ks_watch_add(stream->hub, &watch->watcher, request->start_revision, &current) != KS_OK) {
		free(watch);
		ks_api_watch_finish(stream, KS_RESOURCE_EXHAUSTED,
				    "etcdserver: too many watchers on one stream, or out of memory");
		return;
	}
	watch->id = id;
	(void)ks_api_watch_forget_compacted(stream, id);
	/* Whoever asks for nothing old is live from the start. */
	watch->live = request->start_revision == 0 || request->start_revision > current;
	ks_api_watch_link(stream, watch);
	ks_api_watch_send(stream, &(struct response){.revision = current, .watch_id = id, .created = true});
	if (request->start_revision > 0 && request->start_revision <= current)
		ks_list_append(&stream->active, &watch->link);
	if (watch->progress_notify)
		ks_api_watch_start_ticker(stream);
}

static void cancel_watch(struct stream *stream, int64_t id)
{
	struct watch *watch = ks_api_watch_find(stream, id);

	if (watch)
		ks_api_watch_remove(stream, watch);
	else if (!ks_api_watch_forget_compacted(stream, id))
		return;
	ks_api_watch_send(stream, &(struct response){.revision = ks_store_committed(stream->api->store).revision,
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
		ks_api_watch_finish(stream, KS_UNAVAILABLE, KS_TEXT_NO_LEADER);
		return;
	}
	ks_arena_init(&arena, 4 * message.size + 65536);
	request = (Etcdserverpb__WatchRequest *)ks_api_unpack(&etcdserverpb__watch_request__descriptor, &arena, message,
							      &err);
	if (!request) {
		ks_api_watch_finish(stream, err.status, err.text);
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
	ks_api_watch_pump(stream);
	if (stream->manual_progress) {
		/* What was woken but not yet looked at may be all that keeps this stream from being in sync. */
		ks_mutex_lock(&stream->ready_lock);
		ks_api_watch_post_locked(stream);
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
	atomic_fetch_add(&api->watch_streams, 1);
	stream->call = call;
	stream->api = api;
	stream->hub = ks_store_hub(api->store);
	stream->refs = 1;
	stream->task.run = run_task;
	ks_mutex_init(&stream->ready_lock);
	ks_list_init(&stream->ready);
	ks_list_init(&stream->active);
	ks_timer_init(&stream->rest_timer, rest_over);
	stream->tells_cursor = ks_call_is_http(call) && api->cursor_interval_ms > 0;
	stream->finishing = !ks_api_stream_open(api, call, &stream->base);
	ks_api_watch_progress_init(stream);
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
	ks_api_watch_pump(stream);
	end_round(stream);
}

static void watch_closed(struct ks_call *call)
{
	struct stream *stream = ks_call_context(call);

	if (!stream)
		return;
	KS_COUNT(WATCH_STREAMS, -1);
	atomic_fetch_sub(&stream->api->watch_streams, 1);
	stream->finishing = true;
	ks_api_stream_closed(stream->api, &stream->base);
	ks_timer_cancel(stream->api->timers, &stream->progress_timer);
	ks_timer_cancel(stream->api->timers, &stream->cursor_timer);
	/* First out of the hub: then no wake can come, and what was woken is forgotten with its watch. */
	while (stream->watch_count > 0) {
		struct watch *watch = ks_container_of(stream->watches[stream->watch_count - 1], struct watch, watcher);

		ks_api_watch_remove(stream, watch);
	}
	ks_timer_cancel(stream->api->timers, &stream->rest_timer);
	ks_mutex_lock(&stream->ready_lock);
	stream->closed = true;
	ks_api_watch_unref_locked(stream);
}

const struct ks_stream_ops ks_api_watch_ops = {
	.open = watch_open,
	.message = watch_message,
	.half_closed = watch_half_closed,
	.writable = watch_writable,
	.closed = watch_closed,
};
