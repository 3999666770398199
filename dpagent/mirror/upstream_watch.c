/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch's call-back, on etcdc's thread: events go into the replica right here, so that clients below see them without a change of
 * threads. Whatever is strange makes it deaf (up->leave), and the upstream's thread closes the watch and finds out.
 */
#include <stdlib.h>

#include "mirror/upstream_priv.h"

static void leave(struct dpa_upstream *up, enum dpa_leave leave, enum ks_status status, const char *text)
{
	ks_mutex_lock(&up->lock);
	if (up->leave == DPA_STAY) {
		up->leave = leave;
		(void)ks_fail(&up->why, status, "%s", text);
	}
	ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
}

/* False: not of the history that is watched, or older than what was seen of it, as a balancer may have several servers. */
static bool belongs(const struct dpa_upstream *up, const struct etcdc_watch_event *event) KS_REQUIRES(up->lock)
{
	return event->revision >= up->known && (event->cluster_id == up->cluster_id || event->cluster_id == 0);
}

static bool make_room(struct dpa_upstream *up, size_t count)
{
	struct dpa_change *grown;

	if (count <= up->capacity)
		return true;
	grown = reallocarray(up->changes, count, sizeof(*grown));
	if (!grown)
		return false;
	up->changes = grown;
	up->capacity = count;
	return true;
}

/* What came must go on behind 'known', in order; *last gets its end. False for what no etcd sends. */
static bool convert(struct dpa_upstream *up, const struct etcdc_watch_event *event, int64_t known, int64_t *last)
{
	*last = known + 1;
	for (size_t i = 0; i < event->event_count; i++) {
		const Mvccpb__Event *from = event->events[i];
		const Mvccpb__KeyValue *kv = from->kv;
		bool is_delete = from->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;

		if (!kv || kv->mod_revision < *last ||
		    (!is_delete &&
		     (kv->create_revision < 1 || kv->create_revision > kv->mod_revision || kv->version < 1)))
			return false;
		*last = kv->mod_revision;
		up->changes[i] = (struct dpa_change){
			.revision = kv->mod_revision,
			.is_delete = is_delete,
			.key = ks_slice_of(kv->key.data, kv->key.len),
			.value = ks_slice_of(kv->value.data, kv->value.len),
			.create_revision = kv->create_revision,
			.version = kv->version,
		};
	}
	return true;
}

/* Not the header's revision: a watcher that catches up gets the server's newest there, while more events are to come. */
static void take_events(struct dpa_upstream *up, const struct etcdc_watch_event *event, int64_t known)
{
	struct ks_err err = {.status = KS_RESOURCE_EXHAUSTED, .text = "out of memory"};
	int64_t last;
	bool overtaken;

	if (!make_room(up, event->event_count)) {
		leave(up, DPA_LEAVE_LIST, err.status, err.text);
		return;
	}
	if (!convert(up, event, known, &last)) {
		leave(up, DPA_LEAVE_LIST, KS_DATA_LOSS,
		      "upstream sent events that are malformed, or not in their order");
		return;
	}
	if (dpa_replica_apply(up->config.replica, up->changes, event->event_count, last, &err) != KS_OK) {
		leave(up, DPA_LEAVE_LIST, err.status, err.text);
		return;
	}
	ks_mutex_lock(&up->lock);
	/* A revision was believed while these were on their way into the replica, which then may have passed them over. */
	overtaken = up->known != known;
	if (!overtaken)
		up->known = last;
	if (up->progress <= last)
		up->progress = 0;
	if (up->eager)
		ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
	if (overtaken)
		leave(up, DPA_LEAVE_LIST, KS_OUT_OF_RANGE, "events came later than their revision was announced");
}

/* Against an empty upstream: the first key that is not a marker ends the holding. */
static void look_at_events(struct dpa_upstream *up, const struct etcdc_watch_event *event)
{
	bool refilled = false;

	for (size_t i = 0; i < event->event_count && !refilled; i++) {
		const Mvccpb__Event *from = event->events[i];

		refilled = from->type == MVCCPB__EVENT__EVENT_TYPE__PUT && from->kv &&
			   !dpa_is_marker(ks_slice_of(from->kv->value.data, from->kv->value.len));
	}
	ks_mutex_lock(&up->lock);
	if (event->event_count && event->events[event->event_count - 1]->kv)
		up->known = event->events[event->event_count - 1]->kv->mod_revision;
	up->refilled |= refilled;
	if (refilled)
		ks_cond_broadcast(&up->changed);
	ks_mutex_unlock(&up->lock);
}

/* Believed a little later: etcd before 3.4.25 and 3.5.8 announces revisions whose events are still on their way. */
static void note_progress(struct dpa_upstream *up, const struct etcdc_watch_event *event) KS_REQUIRES(up->lock)
{
	if (event->revision > up->known && up->progress == 0) {
		up->progress = event->revision;
		up->progress_ms = dpa_now_ms();
	}
	ks_cond_broadcast(&up->changed);
}

static void take_response(struct dpa_upstream *up, const struct etcdc_watch_event *event)
{
	bool good, held;
	int64_t known;

	ks_mutex_lock(&up->lock);
	good = belongs(up, event);
	held = up->held;
	known = up->known;
	up->heard_ms = dpa_now_ms();
	if (good && event->kind == ETCDC_WATCH_CREATED) {
		up->created = true;
		up->goal = event->revision;
		ks_cond_broadcast(&up->changed);
	}
	if (good && event->kind == ETCDC_WATCH_PROGRESS)
		note_progress(up, event);
	ks_mutex_unlock(&up->lock);
	/* Events that come too late were passed over by a revision that was announced too early, or it is another history. */
	if (!good)
		leave(up, event->kind == ETCDC_WATCH_EVENTS ? DPA_LEAVE_LIST : DPA_LEAVE_JUDGE, KS_ABORTED,
		      "upstream answers with another history");
	else if (event->kind == ETCDC_WATCH_EVENTS && held)
		look_at_events(up, event);
	else if (event->kind == ETCDC_WATCH_EVENTS)
		take_events(up, event, known);
	else if (event->kind == ETCDC_WATCH_PROGRESS && !held && event->revision == known)
		dpa_replica_confirm(up->config.replica);
}

static void on_event(void *arg, const struct etcdc_watch_event *event)
{
	struct dpa_upstream *up = arg;
	bool deaf;

	ks_mutex_lock(&up->lock);
	deaf = up->leave != DPA_STAY;
	ks_mutex_unlock(&up->lock);
	if (deaf)
		return;
	switch (event->kind) {
	case ETCDC_WATCH_CREATED:
	case ETCDC_WATCH_EVENTS:
	case ETCDC_WATCH_PROGRESS:
		take_response(up, event);
		break;
	case ETCDC_WATCH_LOST:
	case ETCDC_WATCH_RESUMED: /* cannot be without LOST */
		leave(up, DPA_LEAVE_LOST, KS_UNAVAILABLE, event->text[0] ? event->text : "the connection was lost");
		break;
	case ETCDC_WATCH_COMPACTED:
		leave(up, DPA_LEAVE_LIST, KS_OUT_OF_RANGE, "what is next was compacted");
		break;
	case ETCDC_WATCH_CANCELLED:
		leave(up, DPA_LEAVE_LOST, KS_UNAVAILABLE, event->text[0] ? event->text : "upstream ended the watch");
		break;
	}
}

void dpa_watch_open(struct dpa_upstream *up)
{
	struct etcdc_watch_options options = {
		.key = up->prefix.key,
		.range_end = up->prefix.end,
		.progress_notify = true,
		.fragment = true,
		.on_event = on_event,
		.arg = up,
	};

	ks_mutex_lock(&up->lock);
	options.start_revision = up->known + 1;
	up->created = up->refilled = false;
	up->leave = DPA_STAY;
	up->progress = 0;
	up->heard_ms = dpa_now_ms();
	ks_mutex_unlock(&up->lock);
	up->watcher = etcdc_watch(up->config.client, &options);
}

void dpa_watch_close(struct dpa_upstream *up)
{
	etcdc_watch_close(up->watcher);
	up->watcher = NULL;
}
