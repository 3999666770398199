/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk over the visible keys of an interval, leaf by leaf, that ranges, range compares and range deletes share. It lets go
 * of the lock every KS_LOCK_CHUNK keys and finds its way back by the last key it saw.
 */
#include "store/store_priv.h"

static uint64_t bits_between(uint32_t from, uint32_t to)
{
	uint64_t below = to < 64 ? ((uint64_t)1 << to) - 1 : UINT64_MAX;

	return from < 64 ? below & (UINT64_MAX << from) : 0;
}

static uint64_t lowest_bits(uint64_t bits, size_t count)
{
	uint64_t kept = 0;

	for (; bits && count > 0; count--) {
		kept |= bits & -bits;
		bits &= bits - 1;
	}
	return kept;
}

/*
 * The visible ones of some keys of a leaf. Each step touches one level of memory for all of them and asks for the next, so
 * that the cache misses of different keys overlap.
 */
static uint32_t find_visible(const struct ks_leaf *leaf, uint64_t keys, int64_t as_of, struct ks_record **found)
{
	uint32_t count = 0;

	for (uint64_t rest = keys; rest; rest &= rest - 1)
		__builtin_prefetch(leaf->keys[__builtin_ctzll(rest)]);
	for (uint64_t rest = keys; rest; rest &= rest - 1)
		__builtin_prefetch(ks_key_newest(leaf->keys[__builtin_ctzll(rest)]));
	for (uint64_t rest = keys; rest; rest &= rest - 1) {
		struct ks_record *record = ks_key_at(leaf->keys[__builtin_ctzll(rest)], as_of);

		if (!ks_record_live(record))
			continue;
		__builtin_prefetch(record->encoded, 1);
		found[count++] = record;
	}
	return count;
}

/* Lets others in. False when the state at 'as_of' is gone. */
static bool let_in(struct ks_store *store, const struct ks_range_view *view, int64_t as_of)
{
	const struct ks_point *committed;

	ks_unlock(store);
	if (view->write_locked)
		ks_lock_write(store);
	else
		ks_lock_read(store);
	committed = &store->state->committed;
	return view->view == KS_VIEW_TAIL || (as_of >= committed->compact_revision && as_of <= committed->revision);
}

bool ks_scan_at_newest(const struct ks_state *state, const struct ks_range_view *view, int64_t as_of)
{
	if (view->view == KS_VIEW_TAIL)
		return as_of == INT64_MAX;
	return as_of == state->committed.revision && !state->publishing;
}

static struct ks_index_pos seek_behind(const struct ks_index *index, struct ks_slice key)
{
	return ks_index_seek_end(index, &(struct ks_interval){.key = key});
}

enum ks_status ks_scan_visible(struct ks_store *store, const struct ks_interval *interval,
			       const struct ks_range_view *view, int64_t as_of, size_t most, ks_found_fn *visit,
			       void *ctx)
{
	struct ks_bytes *last = NULL; /* key that was seen last, while the lock is let go */
	enum ks_status status = KS_OK;
	size_t seen = 0;

	for (;;) {
		const struct ks_state *state = store->state;
		struct ks_index_pos pos = last ? seek_behind(&state->index, ks_bytes_slice(last))
					       : ks_index_seek(&state->index, interval->key);
		struct ks_index_pos end = ks_index_seek_end(&state->index, interval);
		/* In the newest state the visible keys are those whose bit is set. */
		bool by_bits = ks_scan_at_newest(state, view, as_of);

		for (size_t looks = 0; looks < KS_LOCK_CHUNK;) {
			const struct ks_leaf *leaf = pos.leaf;
			struct ks_record *found[KS_LEAF_KEYS];
			uint32_t to, count;
			uint64_t keys;

			if (seen >= most || (pos.leaf == end.leaf && pos.i == end.i))
				goto out;
			to = leaf == end.leaf ? end.i : leaf->count;
			keys = bits_between(pos.i, to);
			if (by_bits)
				keys = lowest_bits(keys & leaf->live[view->view], most - seen);
			count = find_visible(leaf, keys, as_of, found);
			if (count > most - seen)
				count = (uint32_t)(most - seen);
			seen += count;
			looks += to - pos.i;
			if (count > 0 && !visit(ctx, found, count)) {
				status = KS_RESOURCE_EXHAUSTED;
				goto out;
			}
			if (looks >= KS_LOCK_CHUNK) {
				ks_bytes_unref(last);
				last = ks_bytes_copy(ks_key_slice(leaf->keys[to - 1]));
			}
			pos = to < leaf->count ? end : (struct ks_index_pos){.leaf = leaf->next};
		}
		if (!last) {
			status = KS_RESOURCE_EXHAUSTED;
			goto out;
		}
		if (seen >= most || (pos.leaf == end.leaf && pos.i == end.i))
			goto out;
		if (!let_in(store, view, as_of)) {
			status = KS_ABORTED;
			goto out;
		}
	}
out:
	ks_bytes_unref(last);
	return status;
}
