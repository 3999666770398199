/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which values stay in memory. A clock whose hand walks the history: a value that was used since the hand passed last gets a
 * second chance, others are let go until the cache fits again. So the cache needs no list of its own, one byte in a
 * record is all; segments in which nothing is cached are passed in one step.
 *
 * Only values of committed puts are let go (they can be fetched by their place in the log); deletes have none.
 */
#include "store/store_priv.h"

/* What a value costs beside its bytes: the counter, and what malloc adds. */
#define OVERHEAD 24u
/* How many records one call looks at, so that the lock is not held for long; the rest is left to the next call. */
#define LOOK 65536u

static bool is_counted(const struct ks_record *record)
{
	return record->encoded && record->create_revision != 0;
}

void ks_cache_account(struct ks_state *state, struct ks_record *record)
{
	if (!is_counted(record))
		return;
	state->cached_bytes += record->encoded->size + OVERHEAD;
	ks_history_segment_of(&state->history, record)->cached++;
}

void ks_cache_unaccount(struct ks_state *state, struct ks_record *record)
{
	if (!is_counted(record))
		return;
	state->cached_bytes -= record->encoded->size + OVERHEAD;
	ks_history_segment_of(&state->history, record)->cached--;
}

static void let_go(struct ks_state *state, struct ks_segment *segment, struct ks_record *record)
{
	state->cached_bytes -= record->encoded->size + OVERHEAD;
	segment->cached--;
	ks_bytes_unref(record->encoded);
	record->encoded = NULL;
}

void ks_cache_evict(struct ks_store *store, struct ks_state *state)
{
	const struct ks_history *history = &state->history;
	size_t limit = store->config.value_cache_bytes;
	size_t slack = limit / 16 < (1u << 20) ? limit / 16 : (1u << 20);
	struct ks_history_pos pos;
	unsigned rounds = 0;

	if (store->config.values_kept || state->cached_bytes <= limit)
		return;
	pos = ks_history_seek(history, state->hand_revision, state->hand_sub);
	for (size_t looks = 0; state->cached_bytes > limit - slack && rounds < 3 && looks < LOOK; looks++) {
		struct ks_segment *segment = NULL;
		struct ks_record *record = NULL;

		if (pos.segment < history->segment_count) {
			segment = history->segments[pos.segment].segment;
			if (segment->cached == 0 || pos.i == segment->used) {
				pos.segment++;
				pos.i = 0;
				continue;
			}
			record = segment->items[pos.i++];
			if (!record)
				continue;
		}
		if (!record || record->revision > state->committed.revision) {
			pos = (struct ks_history_pos){0};
			rounds++;
			continue;
		}
		state->hand_revision = record->revision;
		state->hand_sub = record->sub;
		if (!is_counted(record))
			continue;
		/* Relaxed: a hint, see ks_record_touch. */
		if (atomic_load_explicit(&record->touched, memory_order_relaxed))
			atomic_store_explicit(&record->touched, 0, memory_order_relaxed);
		else
			let_go(state, segment, record);
	}
	if (pos.segment >= history->segment_count)
		state->hand_revision = state->hand_sub = 0;
}

void ks_store_cache_fill(struct ks_store *store, struct ks_bytes *encoded, struct ks_loc loc)
{
	struct ks_history_pos pos;
	struct ks_record *record;
	struct ks_state *state;
	struct ks_kv kv;

	if (encoded->size > store->config.value_cache_bytes || !ks_kv_decode(ks_bytes_slice(encoded), &kv))
		return;
	ks_lock_write(store);
	state = store->state;
	pos = ks_history_seek(&state->history, kv.mod_revision, loc.sub);
	record = ks_history_next(&state->history, &pos);
	if (record && !record->encoded && record->revision == kv.mod_revision && record->sub == loc.sub &&
	    record->position == loc.position && record->create_revision == kv.create_revision &&
	    record->version == kv.version && ks_slice_eq(ks_key_slice(record->key), kv.key)) {
		record->encoded = ks_bytes_ref(encoded);
		ks_record_touch(record);
		ks_cache_account(state, record);
		ks_cache_evict(store, state);
	}
	ks_unlock(store);
}
