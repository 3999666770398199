/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The physical half of compaction (spec 5.2). The logical half is a number in the committed point.
 *
 * A pass for revision C looks at the records in (last C, C], oldest first, and removes what each of them supersedes: all older
 * records of its key; and the record itself when it is a delete below C. So its cost is that of what changed since the last
 * pass, not of what is stored. A delete at exactly C stays for watchers that start there; the next pass begins with C
 * itself and takes it. Records of the tail are never looked at.
 */
#include "store/store_priv.h"

/* Records read ahead of the cursor; removing changes the history under a walk. */
#define AHEAD 64u

struct step {
	struct ks_state *state;
	struct ks_dropped *dropped;
	size_t max;
};

/* False when there is no room for another row. */
static bool report(struct step *step, struct ks_loc loc)
{
	struct ks_dropped *dropped = step->dropped;

	if (dropped->count == step->max)
		return false;
	dropped->encoded[dropped->count] = NULL;
	dropped->locs[dropped->count++] = loc;
	return true;
}

static bool remove_oldest(struct step *step, struct ks_key *key)
{
	struct ks_record *record = ks_key_records(key)[0];
	struct ks_state *state = step->state;

	if (!report(step, (struct ks_loc){.position = record->position, .sub = record->sub}))
		return false;
	if (state->removed < record->revision)
		state->removed = record->revision;
	ks_key_pop_oldest(key);
	step->dropped->encoded[step->dropped->count - 1] = ks_state_take_record(state, record);
	if (key->count == 0)
		ks_state_drop_key(state, key);
	return true;
}

static bool process(struct step *step, struct ks_record *record)
{
	struct ks_key *key = record->key;

	while (ks_key_records(key)[0] != record) {
		if (!remove_oldest(step, key))
			return false;
	}
	if (record->create_revision == 0 && record->revision < step->state->compact_target)
		return remove_oldest(step, key);
	return true;
}

static size_t read_ahead(const struct ks_state *state, struct ks_record **ahead)
{
	struct ks_history_pos pos = ks_history_seek(&state->history, state->cursor_revision, state->cursor_sub);
	struct ks_record *record;
	size_t count = 0;

	while (count < AHEAD && (record = ks_history_next(&state->history, &pos)) != NULL &&
	       record->revision <= state->compact_target) {
		__builtin_prefetch(record->key);
		ahead[count++] = record;
	}
	return count;
}

static void begin_pass(struct ks_state *state, int64_t target)
{
	if (state->compact_target == target)
		return;
	/* The pass goes on with a later goal: deletes at exactly the old one stay no longer. */
	if (state->cursor_revision == state->compact_target)
		state->cursor_sub = 0;
	state->compact_target = target;
}

static void drain_garbage(struct step *step)
{
	struct ks_state *state = step->state;
	struct ks_locs *garbage = &state->garbage;

	while (garbage->count > 0 && garbage->items[garbage->first].position < state->committed.compact_loc.position) {
		if (!report(step, garbage->items[garbage->first]))
			return;
		garbage->first++;
		garbage->count--;
	}
}

bool ks_state_compact(struct ks_state *state, struct ks_dropped *dropped, size_t max)
{
	struct step step = {.state = state, .dropped = dropped, .max = max};
	struct ks_record *ahead[AHEAD];
	size_t looks = 0;

	dropped->count = 0;
	/* Said before anything that is reported from now on: that may be what ended a forgotten row, and must not go first. */
	dropped->forgot = state->garbage.forgot;
	state->garbage.forgot = false;
	begin_pass(state, state->committed.compact_revision);
	while (state->compact_done < state->compact_target && looks < KS_DROPPED_MOST && dropped->count < max) {
		size_t count = read_ahead(state, ahead);

		if (count == 0) {
			state->compact_done = state->cursor_revision = state->compact_target;
			state->cursor_sub = 0;
		}
		for (size_t i = 0; i < count; i++) {
			int64_t revision = ahead[i]->revision;
			int32_t sub = ahead[i]->sub;

			state->cursor_revision = revision;
			state->cursor_sub = sub;
			if (!process(&step, ahead[i]))
				break;
			state->cursor_sub = sub + 1; /* never INT32_MAX: one entry has fewer rows */
			looks++;
		}
	}
	if (state->compact_done == state->compact_target)
		drain_garbage(&step);
	return state->compact_done < state->compact_target ||
	       (state->garbage.count > 0 &&
		state->garbage.items[state->garbage.first].position < state->committed.compact_loc.position);
}

void ks_dropped_free(struct ks_dropped *dropped)
{
	for (size_t i = 0; i < dropped->count; i++)
		ks_bytes_unref(dropped->encoded[i]);
}

bool ks_store_compact_step(struct ks_store *store, size_t max_records, ks_dropped_fn *visit, void *ctx)
{
	struct ks_dropped dropped;
	bool more = true;

	if (max_records == 0 || max_records > KS_DROPPED_MOST)
		max_records = KS_DROPPED_MOST;
	dropped.count = 0;
	dropped.forgot = false;
	ks_lock_write(store);
	if (!ks_store_copying(store))
		more = ks_state_compact(store->state, &dropped, max_records);
	ks_unlock(store);
	/* Without the lock: free() may give a large piece back to the system, which takes its time. */
	ks_dropped_free(&dropped);
	if (dropped.forgot && visit)
		visit(ctx, NULL, 0);
	if (dropped.count > 0 && visit)
		visit(ctx, dropped.locs, dropped.count);
	return more;
}
