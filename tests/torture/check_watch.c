/* SPDX-License-Identifier: Apache-2.0 */
/* The log out of what watchers were told, and whether each of them was told all of it. See check.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/torture/check.h"

/* What one watcher asked for, and where it is. */
struct watcher {
	unsigned number;
	bool started, ended;
	int from, to;
	bool prev, no_put, no_delete;
	int64_t next;      /* the first revision that it may still be told of */
	size_t told;       /* events of 'next' that it has been told of already */
	bool lost_its_way; /* one finding is enough */
};

void state_init(struct state *state, int64_t revision)
{
	*state = (struct state){.revision = revision};
	for (int key = 0; key < HISTORY_KEYS; key++)
		state->kvs[key].key = key;
}

void state_apply(struct state *state, const struct event *event)
{
	struct kv *kv = &state->kvs[event->kv.key];

	if (event->is_delete)
		*kv = (struct kv){.key = event->kv.key};
	else
		*kv = event->kv;
}

bool same_kv(const struct kv *a, const struct kv *b)
{
	return a->key == b->key && a->value == b->value && a->create == b->create && a->mod == b->mod &&
	       a->version == b->version && a->lease == b->lease;
}

bool same_event(const struct event *a, const struct event *b)
{
	if (a->is_delete != b->is_delete || a->kv.key != b->kv.key || a->kv.mod != b->kv.mod)
		return false;
	return a->is_delete || same_kv(&a->kv, &b->kv);
}

static int64_t newest_told(const struct history *history)
{
	int64_t newest = history->first > history->last ? history->first : history->last;

	for (size_t i = 0; i < history->watch_count; i++)
		for (size_t e = 0; e < history->watches[i].event_count; e++)
			if (history->watches[i].events[e].kv.mod > newest)
				newest = history->watches[i].events[e].kv.mod;
	return newest;
}

/* Events of one revision: a key comes only once in it, so the second time is a repetition that check_watchers will find. */
static size_t length_of_revision(const struct event *events, size_t count)
{
	bool seen[HISTORY_KEYS] = {false};
	size_t length = 0;

	while (length < count && events[length].kv.mod == events[0].kv.mod && !seen[events[length].kv.key])
		seen[events[length++].kv.key] = true;
	return length;
}

static void remember_before(struct log *log)
{
	struct state state;
	size_t count = 0;

	state_init(&state, log->first);
	for (int64_t revision = log->first + 1; revision <= log->last; revision++)
		count += log_at(log, revision)->count;
	log->before = ks_xcalloc(count + 1, sizeof(*log->before));
	count = 0;
	for (int64_t revision = log->first + 1; revision <= log->last; revision++) {
		struct log_revision *at = log_at(log, revision);

		at->before = &log->before[count];
		for (size_t i = 0; i < at->count; i++)
			log->before[count++] = state.kvs[at->events[i].kv.key];
		for (size_t i = 0; i < at->count; i++)
			state_apply(&state, &at->events[i]);
	}
}

/* From the watchers of everything, the first to speak of a revision; that the others say the same is checked later. */
void log_build(struct log *log, const struct history *history, struct findings *findings)
{
	bool complete[HISTORY_WATCHERS] = {false};

	log->first = history->first;
	log->last = newest_told(history);
	if (log->last - log->first > 1000000000) {
		found(findings, "a revision beyond reason was told of", "%" PRId64, log->last);
		log->last = log->first;
	}
	log->revisions = ks_xcalloc((size_t)(log->last - log->first) + 1, sizeof(*log->revisions));
	for (size_t i = 0; i < history->watch_count; i++) {
		const struct watch_record *record = &history->watches[i];

		if (record->kind == WATCH_STARTED)
			complete[record->watcher] = record->from == 0 && record->to == HISTORY_KEYS &&
						    !record->no_put && !record->no_delete;
		for (size_t e = 0; complete[record->watcher] && e < record->event_count;) {
			struct log_revision *revision = log_at(log, record->events[e].kv.mod);
			size_t length = length_of_revision(&record->events[e], record->event_count - e);

			if (!revision)
				found(findings, "a watcher was told of a revision from before the run",
				      "watcher %u, revision %" PRId64, record->watcher, record->events[e].kv.mod);
			else if (!revision->count)
				*revision = (struct log_revision){.events = &record->events[e], .count = length};
			e += length;
		}
	}
	for (int64_t revision = log->first + 1; revision <= log->last; revision++)
		if (!log_at(log, revision)->count)
			found(findings, "a revision is missing", "nobody was told of anything at %" PRId64, revision);
	remember_before(log);
}

void log_free(struct log *log)
{
	free(log->before);
	free(log->revisions);
	log->revisions = NULL;
}

/* ---- One watcher ---- */

static bool wants(const struct watcher *watcher, const struct event *event)
{
	return event->kv.key >= watcher->from && event->kv.key < watcher->to &&
	       !(event->is_delete ? watcher->no_delete : watcher->no_put);
}

/* The next event that it must be told of, up to revision 'limit'; NULL: there is none. */
static const struct event *due(struct watcher *watcher, const struct log *log, int64_t limit)
{
	for (; watcher->next <= limit && watcher->next <= log->last; watcher->next++, watcher->told = 0) {
		const struct log_revision *revision = log_at(log, watcher->next);
		size_t matching = 0;

		for (size_t i = 0; revision && i < revision->count; i++)
			if (wants(watcher, &revision->events[i]) && matching++ == watcher->told)
				return &revision->events[i];
	}
	return NULL;
}

static void check_event(struct watcher *watcher, const struct log *log, const struct event *event,
			struct findings *findings)
{
	const struct event *expected = due(watcher, log, log->last);

	if (expected && same_event(expected, event)) {
		watcher->told++;
		return;
	}
	watcher->lost_its_way = true;
	if (!expected || event->kv.mod < expected->kv.mod)
		found(findings, "a watcher was told of something again, or out of order",
		      "watcher %u: key %d at revision %" PRId64 " where %" PRId64 " is next", watcher->number,
		      event->kv.key, event->kv.mod, expected ? expected->kv.mod : log->last + 1);
	else if (event->kv.mod > expected->kv.mod)
		found(findings, "a watcher missed an event",
		      "watcher %u: key %d at revision %" PRId64 ", but it was told of %" PRId64, watcher->number,
		      expected->kv.key, expected->kv.mod, event->kv.mod);
	else
		found(findings, "two watchers were told different things of a revision",
		      "watcher %u, revision %" PRId64 ", keys %d and %d", watcher->number, event->kv.mod, event->kv.key,
		      expected->kv.key);
}

static void check_told_up_to(struct watcher *watcher, const struct log *log, int64_t revision, const char *when,
			     struct findings *findings)
{
	const struct event *missed = due(watcher, log, revision);

	if (!missed)
		return;
	watcher->lost_its_way = true;
	found(findings, "a watcher missed an event", "watcher %u: key %d at revision %" PRId64 ", %s %" PRId64,
	      watcher->number, missed->kv.key, missed->kv.mod, when, revision);
}

static void start(struct watcher *watcher, const struct watch_record *record)
{
	*watcher = (struct watcher){.number = record->watcher,
				    .started = true,
				    .from = record->from,
				    .to = record->to,
				    .prev = record->prev,
				    .no_put = record->no_put,
				    .no_delete = record->no_delete,
				    .next = record->revision};
}

/* An instance that loads again cannot know what its watchers were told and lost: "compacted at 1", read everything again. */
static bool was_overtaken(const struct history *history)
{
	for (size_t i = 0; i < history->fault_count; i++)
		if (!strcmp(history->faults[i].kind, OVERTAKEN))
			return true;
	return false;
}

static void check_record(struct watcher *watcher, const struct watch_record *record, const struct log *log,
			 bool overtaken, struct findings *findings)
{
	if (record->kind == WATCH_STARTED) {
		/* One that was closed and opened again has a gap only behind a compaction. */
		if (watcher->started && !watcher->ended && !watcher->lost_its_way)
			check_told_up_to(watcher, log, record->revision - 1, "before it began again at", findings);
		start(watcher, record);
		return;
	}
	if (!watcher->started || watcher->lost_its_way)
		return;
	switch (record->kind) {
	case WATCH_EVENTS:
		for (size_t i = 0; i < record->event_count && !watcher->lost_its_way; i++)
			check_event(watcher, log, &record->events[i], findings);
		if (record->event_count && record->revision < record->events[record->event_count - 1].kv.mod)
			found(findings, "a watch response's header is older than its events",
			      "watcher %u, revision %" PRId64, watcher->number, record->revision);
		break;
	case WATCH_PROGRESS:
		check_told_up_to(watcher, log, record->revision, "before progress", findings);
		break;
	case WATCH_COMPACTED:
		watcher->ended = true;
		if (record->revision < watcher->next && !(overtaken && record->revision == 1))
			found(findings, "a watcher was told of a compaction that it had passed",
			      "watcher %u: compacted at %" PRId64 ", next is %" PRId64, watcher->number,
			      record->revision, watcher->next);
		break;
	case WATCH_CANCELLED:
		watcher->ended = true;
		found(findings, "a watcher was cancelled", "watcher %u at revision %" PRId64, watcher->number,
		      record->revision);
		break;
	case WATCH_STARTED:
	case WATCH_RESUMED:
		break;
	}
}

static const struct kv *before(const struct log *log, const struct event *event)
{
	const struct log_revision *revision = log_at(log, event->kv.mod);

	for (size_t i = 0; revision && i < revision->count; i++)
		if (revision->events[i].kv.key == event->kv.key)
			return &revision->before[i];
	return NULL;
}

/* A prev_kv may be missing where a compaction had taken it: 'compacted' is the newest that anybody asked for. */
static void check_prevs(const struct history *history, const struct log *log, int64_t compacted,
			struct findings *findings)
{
	bool prev[HISTORY_WATCHERS] = {false};

	for (size_t i = 0; i < history->watch_count; i++) {
		const struct watch_record *record = &history->watches[i];

		if (record->kind == WATCH_STARTED)
			prev[record->watcher] = record->prev;
		for (size_t e = 0; e < record->event_count; e++) {
			const struct event *event = &record->events[e];
			const struct kv *expected = before(log, event);

			if (!expected)
				continue;
			if (!event->has_prev) {
				if (prev[record->watcher] && expected->value && event->kv.mod > compacted)
					found(findings, "an event came without its prev_kv",
					      "watcher %u, key %d, revision %" PRId64, record->watcher, event->kv.key,
					      event->kv.mod);
			} else if (!prev[record->watcher] || !same_kv(&event->prev, expected)) {
				found(findings, "an event came with a wrong prev_kv",
				      "watcher %u, key %d, revision %" PRId64 ": %" PRId64 " instead of %" PRId64,
				      record->watcher, event->kv.key, event->kv.mod, event->prev.mod, expected->mod);
			}
		}
	}
}

void check_watchers(const struct history *history, const struct log *log, struct findings *findings)
{
	struct watcher *watchers = ks_xcalloc(HISTORY_WATCHERS, sizeof(*watchers));
	bool overtaken = was_overtaken(history);
	int64_t compacted = log->first;

	for (size_t i = 0; i < history->watch_count; i++)
		check_record(&watchers[history->watches[i].watcher], &history->watches[i], log, overtaken, findings);
	for (size_t i = 0; i < HISTORY_WATCHERS; i++)
		if (watchers[i].started && !watchers[i].ended && !watchers[i].lost_its_way)
			check_told_up_to(&watchers[i], log, log->last, "at the end", findings);
	for (size_t i = 0; i < history->op_count; i++)
		if (history->ops[i].kind == OP_COMPACT && history->ops[i].at > compacted)
			compacted = history->ops[i].at;
	check_prevs(history, log, compacted, findings);
	free(watchers);
}
