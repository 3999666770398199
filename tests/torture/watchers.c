/* SPDX-License-Identifier: Apache-2.0 */
/* Watchers of everything and of parts, which record all they are told. See torture.h. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/panic.h"
#include "tests/torture/torture.h"

struct watcher {
	struct run *run;
	unsigned number;
	int from, to;
	bool prev, progress, fragment, no_put, no_delete;
	unsigned slow_ms;
	struct etcdc *etcd;
	struct etcdc_watcher *watch;
	/* The client's thread, or nobody's while there is no watch. */
	int64_t next; /* the first revision it may still be told of */
	uint64_t random;
	_Atomic bool compacted; /* its watch is over, another one is due from 'next' on */
};

struct watchers {
	struct run *run;
	struct watcher items[MAX_WATCHERS];
	unsigned count;
	pthread_t care;
	_Atomic bool stop;
};

static struct event event_of(struct run *run, const Mvccpb__Event *from)
{
	struct event event = {.is_delete = from->type == MVCCPB__EVENT__EVENT_TYPE__DELETE};

	event.kv = kv_of(from->kv);
	if (event.is_delete)
		event.kv.value = 0;
	if (from->prev_kv) {
		event.has_prev = true;
		event.prev = kv_of(from->prev_kv);
	}
	if (event.kv.key < 0 || event.kv.value < 0 || (event.has_prev && event.prev.value < 0)) {
		complain(run, "a key or a value of an event is damaged, at revision %" PRId64, event.kv.mod);
		event.kv.key = event.kv.key < 0 ? 0 : event.kv.key;
	}
	return event;
}

static void on_events(struct watcher *self, const struct etcdc_watch_event *told, struct watch_record *record)
{
	struct event *events = ks_xcalloc(told->event_count + 1, sizeof(*events));

	for (size_t i = 0; i < told->event_count; i++)
		events[i] = event_of(self->run, told->events[i]);
	record->event_count = told->event_count;
	record->events = events;
	record_watch(self->run, record);
	if (told->event_count)
		self->next = events[told->event_count - 1].kv.mod + 1;
	see_revision(&self->run->newest, told->revision);
	free(events);
}

static void on_told(void *arg, const struct etcdc_watch_event *told)
{
	struct watcher *self = arg;
	struct watch_record record = {.watcher = self->number, .at_ns = now_ns(), .revision = told->revision};

	switch (told->kind) {
	case ETCDC_WATCH_CREATED:
	case ETCDC_WATCH_LOST:
		return;
	case ETCDC_WATCH_EVENTS:
		record.kind = WATCH_EVENTS;
		on_events(self, told, &record);
		if (self->slow_ms && !atomic_load(&self->run->stop_nemesis))
			sleep_ms((long)draw(&self->random, self->slow_ms));
		break;
	case ETCDC_WATCH_PROGRESS:
		record.kind = WATCH_PROGRESS;
		record_watch(self->run, &record);
		if (told->revision >= self->next)
			self->next = told->revision + 1;
		break;
	case ETCDC_WATCH_RESUMED:
		record.kind = WATCH_RESUMED;
		record_watch(self->run, &record);
		return;
	case ETCDC_WATCH_COMPACTED:
		record.kind = WATCH_COMPACTED;
		record.revision = told->compact_revision;
		say("watcher %u: compacted at %" PRId64 ", next was %" PRId64, self->number, told->compact_revision,
		    self->next);
		record_watch(self->run, &record);
		self->next = told->compact_revision + 1;
		atomic_store(&self->compacted, true);
		return;
	case ETCDC_WATCH_CANCELLED:
		say("watcher %u: cancelled: %s", self->number, told->text);
		record.kind = WATCH_CANCELLED;
		record_watch(self->run, &record);
		return;
	}
	atomic_store(&self->run->told[self->number], self->next);
}

static void begin(struct watcher *self, struct etcdc *etcd)
{
	char from[KEY_SIZE], to[KEY_SIZE];
	struct etcdc_watch_options options = {.start_revision = self->next,
					      .prev_kv = self->prev,
					      .progress_notify = self->progress,
					      .no_put = self->no_put,
					      .no_delete = self->no_delete,
					      .fragment = self->fragment,
					      .on_event = on_told,
					      .arg = self};
	struct watch_record record = {.kind = WATCH_STARTED,
				      .watcher = self->number,
				      .at_ns = now_ns(),
				      .revision = self->next,
				      .from = self->from,
				      .to = self->to,
				      .prev = self->prev,
				      .no_put = self->no_put,
				      .no_delete = self->no_delete};

	options.key = ks_slice_of(from, key_text(self->from, from));
	options.range_end = ks_slice_of(to, key_text(self->to, to));
	record_watch(self->run, &record);
	self->etcd = etcd;
	self->watch = etcdc_watch(etcd, &options);
}

static void end(struct watcher *self)
{
	etcdc_watch_close(self->watch);
	etcdc_close(self->etcd);
	self->watch = NULL;
	self->etcd = NULL;
}

static void again(struct watcher *self)
{
	end(self);
	atomic_store(&self->compacted, false);
	begin(self, open_client(self->run, draw(&self->random, self->run->options.instances), true, 10000));
}

/* Opens those anew that a compaction ended, and one now and then for no reason. */
static void *care(void *arg)
{
	struct watchers *watchers = arg;
	struct watcher *restless = &watchers->items[watchers->count - 1];
	int64_t next_ns = 0;

	while (!atomic_load(&watchers->stop)) {
		for (unsigned i = 0; i < watchers->count; i++)
			if (atomic_load(&watchers->items[i].compacted))
				again(&watchers->items[i]);
		if (now_ns() > next_ns) {
			again(restless);
			next_ns = now_ns() + (int64_t)(200 + draw(&restless->random, 2500)) * 1000000;
		}
		sleep_ms(50);
	}
	return NULL;
}

struct watchers *watchers_start(struct run *run)
{
	/* The first REFERENCES see everything with all there is to it; the last is the restless one. */
	static const struct watcher kinds[] = {
		{.to = HISTORY_KEYS, .prev = true},
		{.to = HISTORY_KEYS, .prev = true, .fragment = true},
		{.to = HISTORY_KEYS, .prev = true, .progress = true},
		{.to = HISTORY_KEYS, .slow_ms = 30, .progress = true},
		{.from = 0, .to = HISTORY_GROUP_KEYS, .prev = true},
		{.from = HISTORY_GROUP_KEYS, .to = 2 * HISTORY_GROUP_KEYS, .no_delete = true},
		{.to = HISTORY_KEYS, .no_put = true, .prev = true},
		{.from = 2, .to = HISTORY_KEYS - 2, .slow_ms = 200},
		{.to = HISTORY_KEYS, .prev = true},
	};
	struct watchers *watchers = ks_xcalloc(1, sizeof(*watchers));

	watchers->run = run;
	watchers->count = sizeof(kinds) / sizeof(kinds[0]);
	for (unsigned i = 0; i < watchers->count; i++) {
		struct watcher *watcher = &watchers->items[i];

		*watcher = kinds[i];
		watcher->run = run;
		watcher->number = i;
		watcher->random = (uint64_t)run->options.seed << 32 | (1000 + i);
		watcher->next = run->first + 1;
		atomic_store(&run->told[i], watcher->next);
		begin(watcher, open_client(run, i, true, 10000));
	}
	KS_ASSERT(pthread_create(&watchers->care, NULL, care, watchers) == 0);
	return watchers;
}

bool watchers_await(struct watchers *watchers, int64_t revision, int64_t wait_ms)
{
	struct run *run = watchers->run;
	int64_t end_ns = now_ns() + wait_ms * 1000000;
	bool all = false;

	/* The one that cares must not open any of them anew meanwhile. */
	if (!atomic_exchange(&watchers->stop, true))
		pthread_join(watchers->care, NULL);
	while (!all && now_ns() < end_ns) {
		all = true;
		for (unsigned i = 0; i < watchers->count; i++) {
			if (atomic_load(&watchers->items[i].compacted))
				again(&watchers->items[i]);
			if (atomic_load(&run->told[i]) > revision)
				continue;
			all = false;
			/* Where there is nothing to tell, progress says so. */
			etcdc_watch_request_progress(watchers->items[i].etcd);
		}
		sleep_ms(100);
	}
	for (unsigned i = 0; i < watchers->count; i++)
		if (atomic_load(&run->told[i]) <= revision)
			complain(run, "watcher %u was not told of more than %" PRId64 " of %" PRId64 " (at %s)", i,
				 atomic_load(&run->told[i]) - 1, revision, etcdc_endpoint(watchers->items[i].etcd));
	return all;
}

void watchers_add_fresh(struct watchers *watchers, const struct instance *instance, int64_t start)
{
	struct watcher *watcher = &watchers->items[watchers->count];

	KS_ASSERT(watchers->count < MAX_WATCHERS);
	*watcher = (struct watcher){
		.run = watchers->run, .number = watchers->count, .to = HISTORY_KEYS, .prev = true, .next = start};
	atomic_store(&watchers->run->told[watcher->number], start);
	watchers->count++;
	begin(watcher, open_direct(instance, 10000));
}

void watchers_stop(struct watchers *watchers)
{
	if (!atomic_exchange(&watchers->stop, true))
		pthread_join(watchers->care, NULL);
	for (unsigned i = 0; i < watchers->count; i++)
		end(&watchers->items[i]);
	free(watchers);
}
