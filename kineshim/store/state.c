/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replicated state and the single changes that the tail is made of: a record for a key, a lease granted or revoked, and
 * the way back. See store_priv.h.
 */
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "store/alarm_priv.h"
#include "store/auth_priv.h"
#include "store/store_priv.h"

struct ks_state *ks_state_new(void)
{
	struct ks_state *state = calloc(1, sizeof(*state));

	if (!state)
		return NULL;
	ks_slab_init(&state->slab);
	ks_history_init(&state->history, &state->slab);
	state->committed = (struct ks_point){.revision = 1, .compact_revision = -1};
	state->tail = state->committed;
	state->compact_done = state->compact_target = -1;
	state->auth = ks_auth_new();
	state->auth_tail = state->auth ? ks_auth_ref(state->auth) : NULL;
	if (!state->auth || !ks_index_init(&state->index, &state->slab) ||
	    !ks_leases_init(&state->leases, &state->index)) {
		ks_state_free(state);
		return NULL;
	}
	return state;
}

void ks_state_free(struct ks_state *state)
{
	struct ks_history_pos pos = {0};
	struct ks_record *record;

	if (!state)
		return;
	while ((record = ks_history_next(&state->history, &pos)) != NULL) {
		ks_bytes_unref(record->encoded);
		ks_slab_free(&state->slab, record, sizeof(*record));
	}
	ks_history_fini(&state->history);
	ks_leases_fini(&state->leases);
	ks_index_fini(&state->index);
	free(state->undo);
	free(state->garbage.items);
	ks_auth_unref(state->auth);
	ks_auth_unref(state->auth_tail);
	free(state->auth_dropped.items);
	ks_alarms_unref(state->alarms);
	ks_alarms_unref(state->alarms_tail);
	free(state->alarms_dropped.items);
	ks_slab_fini(&state->slab);
	free(state);
}

/* ---- records ---- */

struct ks_bytes *ks_state_take_record(struct ks_state *state, struct ks_record *record)
{
	struct ks_bytes *encoded = record->encoded;

	ks_cache_unaccount(state, record);
	ks_history_remove(&state->history, record);
	ks_slab_free(&state->slab, record, sizeof(*record));
	return encoded;
}

void ks_state_drop_key(struct ks_state *state, struct ks_key *key)
{
	KS_ASSERT(key->count == 0);
	ks_index_remove(&state->index, key);
	if (key->lease_refs == 0)
		ks_index_free_key(&state->index, key);
}

static struct ks_bytes *encode(struct ks_slice key, const struct ks_change *change)
{
	struct ks_kv kv = {.key = key, .mod_revision = change->revision};

	if (change->create_revision) {
		kv.create_revision = change->create_revision;
		kv.version = change->version;
		kv.value = change->value;
		kv.lease = change->lease;
	}
	return ks_kv_encode(&kv);
}

static struct ks_record *new_record(struct ks_state *state, struct ks_key *key, const struct ks_change *change)
{
	struct ks_record *record = ks_slab_alloc(&state->slab, sizeof(*record));
	size_t units;

	if (!record)
		return NULL;
	*record = (struct ks_record){
		.encoded = encode(ks_key_slice(key), change),
		.key = key,
		.revision = change->revision,
		.create_revision = change->create_revision,
		.version = change->create_revision ? change->version : 0,
		.lease = change->create_revision ? change->lease : 0,
		.position = change->position,
		.sub = change->sub,
	};
	if (!record->encoded) {
		ks_slab_free(&state->slab, record, sizeof(*record));
		return NULL;
	}
	units = ((size_t)record->encoded->size + KS_RECORD_SIZE_UNIT - 1) / KS_RECORD_SIZE_UNIT;
	record->size_units = units < UINT16_MAX ? (uint16_t)units : UINT16_MAX;
	return record;
}

static bool attach_lease(struct ks_state *state, struct ks_key *key, int64_t id)
{
	struct ks_lease *lease = id ? ks_leases_find_tail(&state->leases, id) : NULL;

	return !lease || ks_lease_attach(&state->leases, lease, key, state->committed.revision);
}

struct ks_record *ks_state_append(struct ks_state *state, struct ks_key *key, const struct ks_change *change)
{
	bool was_live = ks_record_live(ks_key_newest(key)), live = change->create_revision != 0;
	struct ks_record *record = new_record(state, key, change);

	if (!record)
		return NULL;
	if (live && !attach_lease(state, key, change->lease))
		goto no_push;
	if (!ks_key_push(key, record))
		goto no_push;
	if (!ks_history_append(&state->history, record))
		goto no_history;
	if (was_live != live) {
		ks_index_set_live(&state->index, key, KS_VIEW_TAIL, live);
		if (state->direct)
			ks_index_set_live(&state->index, key, KS_VIEW_COMMITTED, live);
		else
			record->toggles = true;
	}
	ks_cache_account(state, record);
	return record;
no_history:
	ks_key_pop_newest(key);
no_push:
	ks_bytes_unref(record->encoded);
	ks_slab_free(&state->slab, record, sizeof(*record));
	return NULL;
}

struct ks_record *ks_state_append_named(struct ks_state *state, struct ks_slice name, const struct ks_change *change)
{
	bool added;
	struct ks_key *key = ks_index_insert(&state->index, name, &added);
	struct ks_record *record = key ? ks_state_append(state, key, change) : NULL;

	if (!record && key && added)
		ks_state_drop_key(state, key);
	return record;
}

bool ks_state_undo_records(struct ks_state *state, int64_t revision, size_t max)
{
	struct ks_record *record;

	while ((record = ks_history_last(&state->history)) != NULL && record->revision > revision) {
		struct ks_key *key = record->key;

		if (max-- == 0)
			return false;
		ks_cache_unaccount(state, record);
		ks_history_pop(&state->history);
		KS_ASSERT(ks_key_newest(key) == record);
		ks_key_pop_newest(key);
		if (key->count == 0)
			ks_state_drop_key(state, key);
		else if (record->toggles)
			ks_index_set_live(&state->index, key, KS_VIEW_TAIL, ks_record_live(ks_key_newest(key)));
		ks_bytes_unref(record->encoded);
		ks_slab_free(&state->slab, record, sizeof(*record));
	}
	return true;
}

/* ---- leases ---- */

static bool note_undo(struct ks_state *state, struct ks_lease *lease, bool granted)
{
	if (!ks_grow((void **)&state->undo, &state->undo_capacity, state->undo_count, sizeof(*state->undo)))
		return false;
	state->undo[state->undo_count++] = (struct ks_lease_undo){.lease = lease, .granted = granted};
	return true;
}

bool ks_state_grant(struct ks_state *state, int64_t id, int64_t ttl, struct ks_loc loc)
{
	struct ks_lease *lease = ks_leases_add(&state->leases, id, ttl, loc);

	if (!lease)
		return false;
	if (!note_undo(state, lease, true)) {
		ks_leases_remove(&state->leases, lease);
		return false;
	}
	return true;
}

bool ks_state_revoke(struct ks_state *state, struct ks_lease *lease, struct ks_loc loc)
{
	if (!note_undo(state, lease, false))
		return false;
	lease->revoked = loc;
	return true;
}

void ks_state_undo_leases(struct ks_state *state, size_t count)
{
	while (state->undo_count > count) {
		struct ks_lease_undo undo = state->undo[--state->undo_count];

		if (undo.granted)
			ks_leases_remove(&state->leases, undo.lease);
		else
			undo.lease->revoked = (struct ks_loc){0};
	}
}

/* ---- users and roles ---- */

void ks_state_undo_auth(struct ks_state *state, struct ks_auth *version, size_t count)
{
	ks_auth_unref(state->auth_tail);
	state->auth_tail = version;
	state->auth_dropped.count = count;
}

void ks_state_publish_auth(struct ks_state *state)
{
	if (state->auth == state->auth_tail)
		return;
	ks_auth_unref(state->auth);
	state->auth = ks_auth_ref(state->auth_tail);
	ks_locs_move(&state->garbage, &state->auth_dropped);
}

/* ---- alarms ---- */

void ks_state_undo_alarms(struct ks_state *state, struct ks_alarms *version, size_t count)
{
	ks_alarms_unref(state->alarms_tail);
	state->alarms_tail = version;
	state->alarms_dropped.count = count;
}

void ks_state_publish_alarms(struct ks_state *state)
{
	if (state->alarms != state->alarms_tail) {
		ks_alarms_unref(state->alarms);
		state->alarms = ks_alarms_ref(state->alarms_tail);
	}
	ks_locs_move(&state->garbage, &state->alarms_dropped);
}

/* ---- publish ---- */

void ks_locs_add(struct ks_locs *locs, struct ks_loc loc)
{
	if (locs->first > locs->count) {
		memmove(locs->items, locs->items + locs->first, locs->count * sizeof(*locs->items));
		locs->first = 0;
	}
	if (ks_grow((void **)&locs->items, &locs->capacity, locs->first + locs->count, sizeof(*locs->items)))
		locs->items[locs->first + locs->count++] = loc;
	else
		locs->forgot = true;
}

void ks_locs_move(struct ks_locs *to, struct ks_locs *from)
{
	for (size_t i = 0; i < from->count; i++)
		ks_locs_add(to, from->items[from->first + i]);
	to->forgot = to->forgot || from->forgot;
	from->count = 0;
	from->forgot = false;
}

/* The keys that live in the tail up to 'end' now live in the committed view. False when 'max' records were not enough. */
static bool publish_keys(struct ks_state *state, int64_t end, size_t max)
{
	struct ks_history_pos pos;
	struct ks_record *record;

	if (!state->publishing) {
		state->publish_revision = state->committed.revision + 1;
		state->publish_sub = 0;
	}
	pos = ks_history_seek(&state->history, state->publish_revision, state->publish_sub);
	while ((record = ks_history_next(&state->history, &pos)) != NULL && record->revision <= end) {
		if (max-- == 0) {
			state->publish_revision = record->revision;
			state->publish_sub = record->sub;
			state->publishing = true;
			return false;
		}
		if (!record->toggles)
			continue;
		/* A later record of the key may toggle it again. */
		ks_index_set_live(&state->index, record->key, KS_VIEW_COMMITTED, ks_record_live(record));
		record->toggles = false;
	}
	state->publishing = false;
	return true;
}

bool ks_state_publish(struct ks_state *state, size_t max)
{
	const struct ks_point *end = state->cut_count ? &state->cuts[0] : &state->tail;

	if (!state->direct && !publish_keys(state, end->revision, max))
		return false;
	for (size_t i = 0; i < state->undo_count; i++) {
		struct ks_lease *lease = state->undo[i].lease;

		if (state->undo[i].granted)
			continue;
		ks_locs_add(&state->garbage, lease->granted);
		ks_locs_add(&state->garbage, lease->revoked);
		ks_leases_remove(&state->leases, lease);
	}
	state->undo_count = 0;
	if (state->committed.compact_loc.position != end->compact_loc.position && state->committed.compact_loc.position)
		ks_locs_add(&state->garbage, state->committed.compact_loc);
	if (!state->direct) {
		ks_state_publish_auth(state);
		ks_state_publish_alarms(state);
	}
	state->committed = *end;
	if (state->cut_count)
		memmove(&state->cuts[0], &state->cuts[1], --state->cut_count * sizeof(state->cuts[0]));
	return true;
}
