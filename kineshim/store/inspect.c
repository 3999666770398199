/* SPDX-License-Identifier: Apache-2.0 */
/* Questions about the committed view that are not reads of keys: leases, rows that are still needed, numbers. */
#include <stdlib.h>

#include "store/alarm_priv.h"
#include "store/auth_priv.h"
#include "store/store_priv.h"

/* ---- leases ---- */

static bool copy_keys(const struct ks_lease *lease, int64_t revision, struct ks_lease_info *info)
{
	if (lease->used == 0)
		return true;
	info->keys = malloc(lease->used * sizeof(struct ks_bytes *));
	if (!info->keys)
		return false;
	for (uint32_t i = 0; i < lease->capacity; i++) {
		const struct ks_key *key = lease->keys[i];

		if (!key || !ks_lease_has(lease, key, revision))
			continue;
		info->keys[info->key_count] = ks_bytes_copy(ks_key_slice(key));
		if (!info->keys[info->key_count])
			return false;
		info->key_count++;
	}
	return true;
}

void ks_lease_info_fini(struct ks_lease_info *info)
{
	for (size_t i = 0; i < info->key_count; i++)
		ks_bytes_unref(info->keys[i]);
	free(info->keys);
	info->keys = NULL;
	info->key_count = 0;
}

bool ks_store_lease(struct ks_store *store, int64_t id, bool want_keys, struct ks_lease_info *info)
{
	const struct ks_lease *lease;
	const struct ks_state *state;

	*info = (struct ks_lease_info){.id = id};
	ks_lock_read(store);
	state = store->state;
	lease = ks_leases_find_committed(&state->leases, id, state->committed.position);
	if (lease) {
		info->ttl = lease->ttl;
		info->no_memory = want_keys && !copy_keys(lease, state->committed.revision, info);
	}
	ks_unlock(store);
	if (info->no_memory)
		ks_lease_info_fini(info);
	return lease != NULL;
}

enum ks_status ks_store_leases(struct ks_store *store, struct ks_lease_info **infos, size_t *count)
{
	enum ks_status status = KS_OK;
	const struct ks_leases *leases;
	const struct ks_state *state;

	*infos = NULL;
	*count = 0;
	ks_lock_read(store);
	state = store->state;
	leases = &state->leases;
	if (leases->count > 0) {
		*infos = calloc(leases->count, sizeof(**infos));
		status = *infos ? KS_OK : KS_RESOURCE_EXHAUSTED;
	}
	for (size_t i = 0; *infos && i < leases->bucket_count; i++) {
		for (const struct ks_lease *lease = leases->buckets[i]; lease; lease = lease->next) {
			if (ks_lease_committed(lease, state->committed.position))
				(*infos)[(*count)++] = (struct ks_lease_info){.id = lease->id, .ttl = lease->ttl};
		}
	}
	ks_unlock(store);
	return status;
}

/* ---- rows ---- */

static bool has_record(const struct ks_state *state, struct ks_slice name, struct ks_loc loc)
{
	const struct ks_key *key = ks_index_find(&state->index, name);
	struct ks_record *const *records;
	uint32_t low = 0, high;

	if (!key)
		return false;
	records = ks_key_records(key);
	high = key->count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct ks_record *record = records[middle];

		if (record->position == loc.position && record->sub == loc.sub)
			return true;
		if (record->position < loc.position || (record->position == loc.position && record->sub < loc.sub))
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static bool is_needed(const struct ks_state *state, const struct ks_effect *effect, struct ks_loc loc)
{
	const struct ks_lease *lease;

	/* Holes must have the compaction behind them, and the newest entry stays. */
	if (loc.position >= state->committed.compact_loc.position || loc.position >= state->committed.position)
		return true;
	switch (effect->kind) {
	case KS_EFFECT_PUT:
	case KS_EFFECT_DELETE:
		return has_record(state, effect->key, loc);
	case KS_EFFECT_LEASE_GRANT:
		lease = ks_leases_find_committed(&state->leases, effect->lease, state->committed.position);
		return lease && lease->granted.position == loc.position && lease->granted.sub == loc.sub;
	case KS_EFFECT_LEASE_REVOKE: /* of a lease whose grant comes before, and goes first */
	case KS_EFFECT_COMPACT:
	case KS_EFFECT_NOOP:
		return false;
	case KS_EFFECT_AUTH:
		return ks_auth_row_needed(state->auth, effect, loc);
	case KS_EFFECT_ALARM:
		return ks_alarms_row_needed(state->alarms, effect, loc);
	case KS_EFFECT_IMPORT: /* one that ends an import must not go before the one that began it */
		return true;
	}
	return true;
}

bool ks_store_row_needed(struct ks_store *store, const struct ks_effect *effect, struct ks_loc loc)
{
	bool needed;

	ks_lock_read(store);
	needed = is_needed(store->state, effect, loc);
	ks_unlock(store);
	return needed;
}

void ks_store_stats(struct ks_store *store, struct ks_store_stats *stats)
{
	const struct ks_state *state;

	ks_lock_read(store);
	state = store->state;
	stats->keys = ks_index_count_all(&state->index, KS_VIEW_COMMITTED);
	stats->records = state->history.records;
	stats->leases = state->leases.count;
	stats->cached_bytes = state->cached_bytes;
	ks_unlock(store);
}
