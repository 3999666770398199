/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the history forward, for watchers: whole revisions only, from the history, or for a single key from its own
 * records. What is visited is borrowed, so that nothing is copied or allocated under the lock.
 */
#include "base/panic.h"
#include "store/store_priv.h"

struct scanning {
	const struct ks_event_scan *scan;
	ks_event_fn *visit;
	void *ctx;
	struct ks_event_scanned *scanned;
	int64_t compact_revision;
	int64_t revision; /* being visited */
	bool matched;     /* something of it was */
	size_t looks, bytes;
};

static struct ks_kvref borrow(const struct ks_record *record)
{
	return (struct ks_kvref){
		.encoded = record->encoded,
		.loc = {.position = record->position, .sub = record->sub},
	};
}

static size_t size_of(const struct ks_record *record)
{
	return record->encoded ? record->encoded->size : (size_t)record->size_units * KS_RECORD_SIZE_UNIT;
}

/* The state of the key at the revision before (spec 3.3); NULL when there is none to show. */
static const struct ks_record *previous(const struct scanning *s, const struct ks_record *record)
{
	const struct ks_record *prev;

	if (record->create_revision == record->revision)
		return NULL;
	/* A reader that comes from below the compaction may see what is still there. */
	if (record->revision - 1 < s->compact_revision && s->scan->from >= s->compact_revision)
		return NULL;
	prev = ks_key_at(record->key, record->revision - 1);
	return ks_record_live(prev) ? prev : NULL;
}

static bool enough(const struct scanning *s)
{
	const struct ks_event_scan *scan = s->scan;

	return s->looks > 0 &&
	       (s->scanned->revisions >= scan->max_revisions || s->scanned->events >= scan->max_events ||
		s->bytes >= scan->max_bytes || s->looks >= scan->max_scanned);
}

static void visit(struct scanning *s, const struct ks_record *record)
{
	struct ks_event event = {
		.revision = record->revision,
		.sub = record->sub,
		.is_delete = record->create_revision == 0,
		.key = ks_key_slice(record->key),
		.kv = borrow(record),
	};
	const struct ks_record *prev;

	if (event.is_delete ? s->scan->no_delete : s->scan->no_put)
		return;
	s->bytes += size_of(record);
	if (s->scan->prev_kv && (prev = previous(s, record)) != NULL) {
		event.prev = borrow(prev);
		s->bytes += size_of(prev);
	}
	s->scanned->events++;
	s->scanned->revisions += !s->matched;
	s->matched = true;
	s->visit(s->ctx, &event);
}

/* False when it stops before this record. */
static bool take(struct scanning *s, const struct ks_record *record, bool matches)
{
	if (record->revision != s->revision) {
		if (enough(s)) {
			s->scanned->next = record->revision;
			return false;
		}
		s->revision = record->revision;
		s->matched = false;
	}
	s->looks++;
	if (matches)
		visit(s, record);
	return true;
}

static void scan_key(struct scanning *s, const struct ks_state *state, int64_t to)
{
	const struct ks_key *key = ks_index_find(&state->index, s->scan->interval.key);

	if (!key)
		return;
	for (uint32_t i = ks_key_count_at(key, s->scan->from - 1); i < key->count; i++) {
		const struct ks_record *record = ks_key_records(key)[i];

		if (record->revision > to || !take(s, record, true))
			return;
	}
}

static void scan_history(struct scanning *s, const struct ks_state *state, int64_t to)
{
	struct ks_history_pos pos = ks_history_seek(&state->history, s->scan->from, 0);
	const struct ks_record *record;

	while ((record = ks_history_next(&state->history, &pos)) != NULL && record->revision <= to) {
		if (!take(s, record, ks_interval_contains(&s->scan->interval, ks_key_slice(record->key))))
			return;
	}
}

enum ks_status ks_store_scan_events(struct ks_store *store, const struct ks_event_scan *scan, ks_event_fn *visit_event,
				    void *ctx, struct ks_event_scanned *scanned, int64_t *compact_revision)
{
	struct scanning s = {.scan = scan, .visit = visit_event, .ctx = ctx, .scanned = scanned};
	const struct ks_state *state;
	enum ks_status status = KS_OK;
	int64_t to;

	KS_ASSERT(scan->from >= 1);
	ks_lock_read(store);
	state = store->state;
	s.compact_revision = state->committed.compact_revision;
	to = scan->to < state->committed.revision ? scan->to : state->committed.revision;
	*scanned = (struct ks_event_scanned){
		.current = state->committed.revision,
		.next = scan->from > to ? scan->from : to + 1,
	};
	if (scan->from < s.compact_revision && scan->from <= state->removed) {
		*compact_revision = s.compact_revision;
		status = KS_OUT_OF_RANGE;
	} else if (scan->from <= to && scan->interval.end.size == 0) {
		scan_key(&s, state, to);
	} else if (scan->from <= to) {
		scan_history(&s, state, to);
	}
	ks_unlock(store);
	return status;
}
