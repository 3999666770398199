/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches that live longer than their stream.
 *
 *	NEW ──create sent──► CREATING ──created──► LIVE ──cancel from the server──► OVER
 *	 ▲                       │                   │
 *	 └──── stream broke ─────┴───────────────────┘
 *
 * One hub for each client holds all watchers and their one stream. Created responses come in the order of the creates, so a
 * queue matches them. What a watcher has handed out moves 'next_revision', from which it is created again on the next
 * stream, as clientv3 does: the revision after the last event or progress; without either, the start revision, or the revision in
 * the header of the first created response.
 *
 * A watcher that its owner closes while CREATING stays in the queue, for the id in the answer must be cancelled.
 */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "client/client_priv.h"

/* Called with the lock of the watcher's hub; clang cannot see that this is the hub its callers have locked. */
#define HUB_LOCKED KS_NO_TSA

#define LOGIN_POLL_MS 20
#define BUCKETS 1024u

enum state { NEW, CREATING, LIVE, OVER };

struct etcdc_watcher {
	struct etcdc_watch_hub *hub;
	struct etcdc_watch_options options; /* with copies of the keys */
	struct ks_list link;                /* hub->watchers, until closed */
	struct ks_list place;               /* CREATING: hub->creating; LIVE: a bucket */
	struct ks_list notice;              /* hub->notices */
	enum state state;
	int64_t id;            /* LIVE */
	int64_t next_revision; /* once created */
	unsigned logins;       /* since it was created last: refused for want of a token */
	bool was_created;
	bool closed, in_callback;
	bool orphan;           /* closed from its own call-back, which frees it when it returns */
	Mvccpb__Event **parts; /* events of fragments before the last one */
	size_t part_count;
};

struct etcdc_watch_hub {
	struct etcdc *client;
	struct ks_mutex mutex;
	struct ks_cond returned; /* a call-back did */
	struct ks_list watchers;
	struct ks_list creating; /* in the order of their creates on this stream */
	struct ks_list buckets[BUCKETS];
	struct ks_list notices; /* watchers that are still to be told what happened to all of them */
	struct etcdc_stream *stream;
	struct etcdc_timer reopen;
	bool reopening;
	bool stopped;
	unsigned failures;
	struct ks_backoff backoff;
};

static const struct etcdc_stream_ops stream_ops;

static struct ks_list *bucket_of(struct etcdc_watch_hub *hub, int64_t id)
{
	return &hub->buckets[(uint64_t)id % BUCKETS];
}

static struct etcdc_watcher *find(struct etcdc_watch_hub *hub, int64_t id) KS_REQUIRES(hub->mutex)
{
	struct ks_list *bucket = bucket_of(hub, id);

	for (struct ks_list *link = bucket->next; link != bucket; link = link->next) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, place);

		if (watcher->id == id)
			return watcher;
	}
	return NULL;
}

static void drop_parts(struct etcdc_watcher *watcher)
{
	for (size_t i = 0; i < watcher->part_count; i++)
		etcdc_free(watcher->parts[i]);
	free(watcher->parts);
	watcher->parts = NULL;
	watcher->part_count = 0;
}

static void watcher_free(struct etcdc_watcher *watcher)
{
	ks_list_remove(&watcher->link);
	ks_list_remove(&watcher->place);
	ks_list_remove(&watcher->notice);
	drop_parts(watcher);
	free((void *)(uintptr_t)watcher->options.key.data);
	free((void *)(uintptr_t)watcher->options.range_end.data);
	free(watcher);
}

/* ---- To the server ---- */

static void send_create(struct etcdc_watcher *watcher) HUB_LOCKED
{
	const struct etcdc_watch_options *options = &watcher->options;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchCreateRequest__FilterType filters[2];

	create.key = (ProtobufCBinaryData){options->key.size, (uint8_t *)(uintptr_t)options->key.data};
	create.range_end =
		(ProtobufCBinaryData){options->range_end.size, (uint8_t *)(uintptr_t)options->range_end.data};
	create.start_revision = watcher->was_created ? watcher->next_revision : options->start_revision;
	create.progress_notify = options->progress_notify;
	create.prev_kv = options->prev_kv;
	create.fragment = options->fragment;
	create.filters = filters;
	if (options->no_put)
		filters[create.n_filters++] = ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT;
	if (options->no_delete)
		filters[create.n_filters++] = ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	/* A stream that takes no more is about to end; the next one gets it. */
	(void)etcdc_stream_send(watcher->hub->stream, &request);
	watcher->state = CREATING;
	ks_list_append(&watcher->hub->creating, &watcher->place);
}

static void send_cancel(struct etcdc_watch_hub *hub, int64_t id) KS_REQUIRES(hub->mutex)
{
	Etcdserverpb__WatchCancelRequest cancel = ETCDSERVERPB__WATCH_CANCEL_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

	if (!hub->stream)
		return;
	cancel.watch_id = id;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST;
	request.cancel_request = &cancel;
	(void)etcdc_stream_send(hub->stream, &request);
}

static void open_stream(struct etcdc_watch_hub *hub) KS_REQUIRES(hub->mutex)
{
	struct etcdc_stream_options options = {.ops = &stream_ops, .arg = hub};

	hub->stream = etcdc_stream_open(hub->client, &etcdc_method_watch, &options);
	for (struct ks_list *link = hub->watchers.next; link != &hub->watchers; link = link->next) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, link);

		if (watcher->state == NEW)
			send_create(watcher);
	}
}

static bool has_new(const struct etcdc_watch_hub *hub) KS_REQUIRES(hub->mutex)
{
	for (const struct ks_list *link = hub->watchers.next; link != &hub->watchers; link = link->next) {
		if (ks_container_of(link, struct etcdc_watcher, link)->state == NEW)
			return true;
	}
	return false;
}

static void reopen(struct etcdc_timer *timer)
{
	struct etcdc_watch_hub *hub = ks_container_of(timer, struct etcdc_watch_hub, reopen);

	ks_mutex_lock(&hub->mutex);
	/* A stream has the token that there is when it is opened. */
	if (!hub->stopped && etcdc_logging_in(hub->client)) {
		etcdc_timer_arm(hub->client, &hub->reopen, LOGIN_POLL_MS);
		ks_mutex_unlock(&hub->mutex);
		return;
	}
	hub->reopening = false;
	if (!hub->stopped && !hub->stream && has_new(hub))
		open_stream(hub);
	ks_mutex_unlock(&hub->mutex);
}

/* ---- To the watcher ---- */

static int64_t revision_of(const Etcdserverpb__WatchResponse *response)
{
	return response->header ? response->header->revision : 0;
}

static uint64_t cluster_of(const Etcdserverpb__WatchResponse *response)
{
	return response->header ? response->header->cluster_id : 0;
}

/* Calls back without the lock. The watcher may be gone afterwards. */
static void deliver(struct etcdc_watcher *watcher, const struct etcdc_watch_event *event) HUB_LOCKED
{
	struct etcdc_watch_hub *hub = watcher->hub;

	if (watcher->closed)
		return;
	watcher->in_callback = true;
	ks_mutex_unlock(&hub->mutex);
	watcher->options.on_event(watcher->options.arg, event);
	ks_mutex_lock(&hub->mutex);
	watcher->in_callback = false;
	if (watcher->orphan)
		watcher_free(watcher);
	ks_cond_broadcast(&hub->returned);
}

/* Puts all watchers in 'state' on the list of those to tell. */
static void notice_all(struct etcdc_watch_hub *hub, enum state state) KS_REQUIRES(hub->mutex)
{
	for (struct ks_list *link = hub->watchers.next; link != &hub->watchers; link = link->next) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, link);

		if (watcher->state == state)
			ks_list_append(&hub->notices, &watcher->notice);
	}
}

/* Tells those on the list, one after the other; any of them may be closed meanwhile. */
static void deliver_notices(struct etcdc_watch_hub *hub, const struct etcdc_watch_event *event) KS_REQUIRES(hub->mutex)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&hub->notices))) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, notice);

		if (event->kind == ETCDC_WATCH_PROGRESS && watcher->next_revision <= event->revision)
			watcher->next_revision = event->revision + 1;
		if (event->kind == ETCDC_WATCH_CANCELLED)
			watcher->state = OVER;
		deliver(watcher, event);
	}
}

static void created(struct etcdc_watch_hub *hub, const Etcdserverpb__WatchResponse *response) KS_REQUIRES(hub->mutex)
{
	struct ks_list *link = ks_list_pop(&hub->creating);
	struct etcdc_watch_event event = {
		.revision = revision_of(response), .cluster_id = cluster_of(response), .text = ""};
	struct etcdc_watcher *watcher;

	if (!link)
		return; /* an answer without a question: not ours to judge */
	watcher = ks_container_of(link, struct etcdc_watcher, place);
	hub->failures = 0;
	ks_backoff_succeeded(&hub->backoff);
	if (watcher->closed) {
		if (!response->canceled)
			send_cancel(hub, response->watch_id);
		watcher_free(watcher);
		return;
	}
	/* All go over to a new stream, which takes the new token. */
	if (response->canceled && hub->stream &&
	    etcdc_login_helps(hub->client, KS_UNAUTHENTICATED, response->cancel_reason, watcher->logins)) {
		watcher->logins++;
		watcher->state = NEW;
		etcdc_login(hub->client, NULL);
		etcdc_stream_cancel(hub->stream);
		return;
	}
	if (response->canceled) {
		watcher->state = OVER;
		event.kind = response->compact_revision ? ETCDC_WATCH_COMPACTED : ETCDC_WATCH_CANCELLED;
		event.compact_revision = response->compact_revision;
		event.text = response->cancel_reason;
		deliver(watcher, &event);
		return;
	}
	watcher->logins = 0;
	watcher->state = LIVE;
	watcher->id = response->watch_id;
	ks_list_append(bucket_of(hub, watcher->id), &watcher->place);
	event.kind = watcher->was_created ? ETCDC_WATCH_RESUMED : ETCDC_WATCH_CREATED;
	if (!watcher->was_created)
		watcher->next_revision =
			watcher->options.start_revision ? watcher->options.start_revision : event.revision;
	watcher->was_created = true;
	deliver(watcher, &event);
}

static void cancelled(struct etcdc_watcher *watcher, const Etcdserverpb__WatchResponse *response) HUB_LOCKED
{
	struct etcdc_watch_event event = {
		.kind = response->compact_revision ? ETCDC_WATCH_COMPACTED : ETCDC_WATCH_CANCELLED,
		.revision = revision_of(response),
		.cluster_id = cluster_of(response),
		.compact_revision = response->compact_revision,
		.text = response->cancel_reason,
	};

	/* etcd keeps the id of a compacted watcher until it is cancelled (spec 3.2); the second answer finds nobody. */
	if (response->compact_revision)
		send_cancel(watcher->hub, watcher->id);
	ks_list_remove(&watcher->place);
	watcher->state = OVER;
	deliver(watcher, &event);
}

/* Takes the events of 'response' away from it. */
static void keep_part(struct etcdc_watcher *watcher, Etcdserverpb__WatchResponse *response)
{
	size_t count = watcher->part_count + response->n_events;

	watcher->parts = ks_xrealloc(watcher->parts, (count + 1) * sizeof(watcher->parts[0]));
	if (response->n_events)
		memcpy(watcher->parts + watcher->part_count, response->events,
		       response->n_events * sizeof(response->events[0]));
	watcher->part_count = count;
	response->n_events = 0;
	free(response->events);
	response->events = NULL;
}

static void events(struct etcdc_watcher *watcher, Etcdserverpb__WatchResponse *response) HUB_LOCKED
{
	struct etcdc_watch_event event = {
		.kind = ETCDC_WATCH_EVENTS,
		.revision = revision_of(response),
		.cluster_id = cluster_of(response),
		.event_count = response->n_events,
		.events = response->events,
		.text = "",
	};
	Mvccpb__Event **parts = NULL;
	size_t part_count = 0;

	if (response->fragment) {
		keep_part(watcher, response);
		return;
	}
	if (watcher->part_count > 0) {
		keep_part(watcher, response);
		event.events = parts = watcher->parts;
		event.event_count = part_count = watcher->part_count;
		watcher->parts = NULL;
		watcher->part_count = 0;
	}
	if (event.event_count == 0) {
		event.kind = ETCDC_WATCH_PROGRESS;
		if (watcher->next_revision <= event.revision)
			watcher->next_revision = event.revision + 1;
	} else {
		const Mvccpb__Event *last = event.events[event.event_count - 1];

		if (last->kv && last->kv->mod_revision >= watcher->next_revision)
			watcher->next_revision = last->kv->mod_revision + 1;
	}
	deliver(watcher, &event);
	for (size_t i = 0; i < part_count; i++)
		etcdc_free(parts[i]);
	free(parts);
}

static void on_message(void *arg, const void *message)
{
	struct etcdc_watch_hub *hub = arg;
	/* The stream frees it after this call-back and does not look at it before. */
	Etcdserverpb__WatchResponse *response = (Etcdserverpb__WatchResponse *)(uintptr_t)message;
	struct etcdc_watcher *watcher;

	ks_mutex_lock(&hub->mutex);
	if (response->created) {
		created(hub, response);
	} else if (response->watch_id == -1 && !response->canceled && response->n_events == 0) {
		struct etcdc_watch_event event = {
			.kind = ETCDC_WATCH_PROGRESS,
			.revision = revision_of(response),
			.cluster_id = cluster_of(response),
			.text = "",
		};

		notice_all(hub, LIVE);
		deliver_notices(hub, &event);
	} else if ((watcher = find(hub, response->watch_id))) {
		if (response->canceled)
			cancelled(watcher, response);
		else
			events(watcher, response);
	}
	ks_mutex_unlock(&hub->mutex);
}

/* What a server says on purpose ends all watchers; what looks like a lost connection or server does not. */
static bool is_final(enum ks_status status)
{
	switch (status) {
	case KS_INVALID_ARGUMENT:
	case KS_NOT_FOUND:
	case KS_ALREADY_EXISTS:
	case KS_PERMISSION_DENIED:
	case KS_FAILED_PRECONDITION:
	case KS_OUT_OF_RANGE:
	case KS_UNIMPLEMENTED:
	case KS_DATA_LOSS:
	case KS_UNAUTHENTICATED:
		return true;
	case KS_OK:
	case KS_CANCELLED:
	case KS_UNKNOWN:
	case KS_DEADLINE_EXCEEDED:
	case KS_RESOURCE_EXHAUSTED:
	case KS_ABORTED:
	case KS_INTERNAL:
	case KS_UNAVAILABLE:
		break;
	}
	return false;
}

/* All watchers are without a stream. */
static void reset(struct etcdc_watch_hub *hub) KS_REQUIRES(hub->mutex)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&hub->creating))) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, place);

		if (watcher->closed)
			watcher_free(watcher);
	}
	for (link = hub->watchers.next; link != &hub->watchers; link = link->next) {
		struct etcdc_watcher *watcher = ks_container_of(link, struct etcdc_watcher, link);

		ks_list_remove(&watcher->place);
		drop_parts(watcher);
		if (watcher->state != OVER)
			watcher->state = NEW;
	}
}

static void on_end(void *arg, const struct etcdc_err *err)
{
	struct etcdc_watch_hub *hub = arg;
	struct etcdc_watch_event event = {.text = err->text};

	ks_mutex_lock(&hub->mutex);
	if (hub->stopped) {
		ks_mutex_unlock(&hub->mutex);
		return;
	}
	if (err->status == KS_UNAVAILABLE)
		etcdc_endpoint_failed(hub->client, etcdc_stream_endpoint(hub->stream));
	etcdc_stream_close(hub->stream);
	hub->stream = NULL;
	event.kind = is_final(err->status) ? ETCDC_WATCH_CANCELLED : ETCDC_WATCH_LOST;
	if (event.kind == ETCDC_WATCH_LOST)
		notice_all(hub, LIVE);
	reset(hub);
	if (event.kind == ETCDC_WATCH_CANCELLED)
		notice_all(hub, NEW);
	hub->failures++;
	hub->reopening = true;
	deliver_notices(hub, &event);
	etcdc_timer_arm(hub->client, &hub->reopen, etcdc_retry_delay(hub->client, &hub->backoff, hub->failures));
	ks_mutex_unlock(&hub->mutex);
}

static const struct etcdc_stream_ops stream_ops = {.message = on_message, .ended = on_end};

/* ---- From the user ---- */

static struct ks_slice copy_of(struct ks_slice from)
{
	uint8_t *data = ks_xmalloc(from.size + 1);

	if (from.size)
		memcpy(data, from.data, from.size);
	return ks_slice_of(data, from.size);
}

struct etcdc_watcher *etcdc_watch(struct etcdc *client, const struct etcdc_watch_options *options)
{
	struct etcdc_watch_hub *hub = client->watches;
	struct etcdc_watcher *watcher = ks_xcalloc(1, sizeof(*watcher));

	watcher->hub = hub;
	watcher->options = *options;
	watcher->options.key = copy_of(options->key);
	watcher->options.range_end = copy_of(options->range_end);
	watcher->state = NEW;
	ks_list_init(&watcher->link);
	ks_list_init(&watcher->place);
	ks_list_init(&watcher->notice);

	ks_mutex_lock(&hub->mutex);
	ks_list_append(&hub->watchers, &watcher->link);
	if (hub->stream)
		send_create(watcher);
	else if (!hub->reopening)
		open_stream(hub);
	ks_mutex_unlock(&hub->mutex);
	return watcher;
}

void etcdc_watch_close(struct etcdc_watcher *watcher)
{
	struct etcdc_watch_hub *hub;
	bool in_own_callback;

	if (!watcher)
		return;
	hub = watcher->hub;
	ks_mutex_lock(&hub->mutex);
	watcher->closed = true;
	in_own_callback = watcher->in_callback && etcdc_on_thread(hub->client);
	while (watcher->in_callback && !in_own_callback)
		(void)ks_cond_wait(&hub->returned, &hub->mutex, -1);
	ks_list_remove(&watcher->link);
	ks_list_remove(&watcher->notice);
	if (watcher->state == LIVE)
		send_cancel(hub, watcher->id);
	/* While CREATING no call-back runs, and created() frees it. */
	if (watcher->state != CREATING) {
		ks_list_remove(&watcher->place);
		watcher->state = OVER;
		watcher->orphan = in_own_callback;
		if (!in_own_callback)
			watcher_free(watcher);
	}
	ks_mutex_unlock(&hub->mutex);
}

void etcdc_watch_request_progress(struct etcdc *client)
{
	struct etcdc_watch_hub *hub = client->watches;
	Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
	request.progress_request = &progress;
	ks_mutex_lock(&hub->mutex);
	if (hub->stream)
		(void)etcdc_stream_send(hub->stream, &request);
	ks_mutex_unlock(&hub->mutex);
}

void etcdc_watch_suspect(struct etcdc *client)
{
	struct etcdc_watch_hub *hub = client->watches;

	ks_mutex_lock(&hub->mutex);
	if (hub->stream) {
		etcdc_endpoint_failed(client, etcdc_stream_endpoint(hub->stream));
		etcdc_stream_cancel(hub->stream);
	}
	ks_mutex_unlock(&hub->mutex);
}

struct etcdc_watch_hub *etcdc_watch_hub_new(struct etcdc *client)
{
	struct etcdc_watch_hub *hub = ks_xcalloc(1, sizeof(*hub));

	hub->client = client;
	ks_mutex_init(&hub->mutex);
	ks_cond_init(&hub->returned);
	ks_list_init(&hub->watchers);
	ks_list_init(&hub->creating);
	ks_list_init(&hub->notices);
	for (size_t i = 0; i < BUCKETS; i++)
		ks_list_init(&hub->buckets[i]);
	etcdc_timer_init(&hub->reopen, reopen);
	etcdc_backoff_init(client, &hub->backoff);
	return hub;
}

void etcdc_watch_hub_stop(struct etcdc_watch_hub *hub)
{
	struct etcdc_stream *stream;

	ks_mutex_lock(&hub->mutex);
	KS_ASSERT(ks_list_empty(&hub->watchers));
	hub->stopped = true;
	stream = hub->stream;
	hub->stream = NULL;
	ks_mutex_unlock(&hub->mutex);
	/* Not under the lock, which their call-backs take. */
	etcdc_timer_disarm(hub->client, &hub->reopen);
	etcdc_stream_close(stream);
}

void etcdc_watch_hub_free(struct etcdc_watch_hub *hub)
{
	ks_mutex_lock(&hub->mutex);
	reset(hub);
	ks_mutex_unlock(&hub->mutex);
	ks_cond_fini(&hub->returned);
	ks_mutex_fini(&hub->mutex);
	free(hub);
}
