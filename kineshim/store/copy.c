/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of the store for snapshots. Records never change, and new ones come behind the point that is copied; so it is
 * enough that nothing is removed meanwhile. The lock is held for a bounded number of records at a time.
 */
#include <stdlib.h>

#include "store/auth.h"
#include "store/store_priv.h"

bool ks_store_copying(const struct ks_store *store)
{
	/* Relaxed: whoever must not miss it holds the write lock. */
	return atomic_load_explicit(&store->copies, memory_order_relaxed) > 0;
}

static enum ks_status copy_leases(const struct ks_state *state, struct ks_store_copy *copy, struct ks_err *err)
{
	const struct ks_leases *leases = &state->leases;

	if (leases->count == 0)
		return KS_OK;
	copy->leases = calloc(leases->count, sizeof(*copy->leases));
	if (!copy->leases)
		return ks_fail_memory(err);
	for (size_t i = 0; i < leases->bucket_count; i++)
		for (const struct ks_lease *lease = leases->buckets[i]; lease; lease = lease->next)
			if (ks_lease_committed(lease, state->committed.position))
				copy->leases[copy->lease_count++] =
					(struct ks_lease_info){.id = lease->id, .ttl = lease->ttl};
	return KS_OK;
}

enum ks_status ks_store_copy_begin(struct ks_store *store, struct ks_store_copy *copy, struct ks_err *err)
{
	const struct ks_state *state;
	enum ks_status status;

	*copy = (struct ks_store_copy){0};
	ks_lock_read(store);
	state = store->state;
	status = copy_leases(state, copy, err);
	if (status == KS_OK) {
		copy->point = (struct ks_position){
			.position = state->committed.position,
			.revision = state->committed.revision,
			.compact_revision = state->committed.compact_revision,
		};
		copy->compact_done = state->compact_done;
		copy->auth = ks_auth_ref(state->auth);
		copy->generation = store->generation;
		atomic_fetch_add_explicit(&store->copies, 1, memory_order_relaxed);
	}
	ks_unlock(store);
	return status;
}

enum ks_status ks_store_copy_next(struct ks_store *store, struct ks_store_copy *copy, struct ks_store_record *records,
				  size_t room, size_t *count, struct ks_err *err)
{
	struct ks_history_pos pos;
	struct ks_record *record;
	bool same;

	*count = 0;
	if (room > KS_LOCK_CHUNK)
		room = KS_LOCK_CHUNK;
	ks_lock_read(store);
	same = store->generation == copy->generation;
	if (same) {
		pos = ks_history_seek(&store->state->history, copy->next_revision, copy->next_sub);
		while (*count < room && (record = ks_history_next(&store->state->history, &pos)) != NULL &&
		       record->revision <= copy->point.revision) {
			records[(*count)++] = (struct ks_store_record){
				.revision = record->revision,
				.sub = record->sub,
				.is_delete = record->create_revision == 0,
				.ref = {.encoded = ks_bytes_ref(record->encoded),
					.loc = {.position = record->position, .sub = record->sub}},
			};
			copy->next_revision = record->revision;
			copy->next_sub = record->sub + 1;
		}
	}
	ks_unlock(store);
	return same ? KS_OK : ks_fail(err, KS_ABORTED, "etcdserver: the log was loaded again");
}

void ks_store_copy_end(struct ks_store *store, struct ks_store_copy *copy)
{
	ks_lock_read(store);
	atomic_fetch_sub_explicit(&store->copies, 1, memory_order_relaxed);
	ks_unlock(store);
	free(copy->leases);
	ks_auth_unref(copy->auth);
	*copy = (struct ks_store_copy){0};
}
