/* SPDX-License-Identifier: Apache-2.0 */
/* What a watch stream says without events: progress notifications (spec 3.7), and the present revision for clients of JSON. */
#include "api/watch_priv.h"

#include "base/clock.h"

#define MIN_PROGRESS_MS 100

static bool all_sent(struct stream *stream)
{
	bool ready;

	ks_mutex_lock(&stream->ready_lock);
	ready = !ks_list_empty(&stream->ready);
	ks_mutex_unlock(&stream->ready_lock);
	return !ready && !stream->parked && ks_list_empty(&stream->active);
}

void ks_api_watch_answer_progress(struct stream *stream)
{
	int64_t revision;

	if (!stream->manual_progress)
		return;
	stream->manual_progress = false;
	if (stream->watch_count == 0 || !all_sent(stream) ||
	    !ks_watch_progress(stream->hub, stream->watches, stream->watch_count, &revision))
		return;
	ks_api_watch_send(stream, &(struct response){.watch_id = -1, .revision = revision});
}

void ks_api_watch_progress_tick(struct stream *stream)
{
	for (size_t i = 0; i < stream->watch_count && !stream->finishing; i++) {
		struct watch *watch = ks_container_of(stream->watches[i], struct watch, watcher);
		bool sent = watch->sent_since_tick;
		int64_t revision;

		watch->sent_since_tick = false;
		if (!watch->progress_notify || sent || watch->parked ||
		    !ks_watch_progress(stream->hub, &stream->watches[i], 1, &revision))
			continue;
		ks_api_watch_send(stream, &(struct response){.watch_id = watch->id, .revision = revision});
	}
	ks_timer_arm(stream->api->timers, &stream->progress_timer, stream->progress_ms);
}

/* On the timers' thread: what the stream's task looks at. */
static void come_due(struct stream *stream, bool *what)
{
	ks_mutex_lock(&stream->ready_lock);
	*what = true;
	ks_api_watch_post_locked(stream);
	ks_mutex_unlock(&stream->ready_lock);
}

static void progress_fired(struct ks_timer *timer)
{
	struct stream *stream = ks_container_of(timer, struct stream, progress_timer);

	come_due(stream, &stream->tick);
}

/* One ticker for the stream, with up to 10 % of jitter chosen once, so that many streams do not tick together. */
void ks_api_watch_start_ticker(struct stream *stream)
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
void ks_api_watch_cursor_tick(struct stream *stream)
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
		ks_api_watch_write_head(stream, &out, &(struct response){.revision = revision, .watch_id = watch->id});
		ks_api_watch_note_told(stream, revision);
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

	come_due(stream, &stream->cursor_due);
}

void ks_api_watch_progress_init(struct stream *stream)
{
	ks_timer_init(&stream->progress_timer, progress_fired);
	ks_timer_init(&stream->cursor_timer, cursor_fired);
	if (stream->tells_cursor)
		ks_timer_arm(stream->api->timers, &stream->cursor_timer, stream->api->cursor_interval_ms);
}
