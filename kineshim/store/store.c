/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life cycle of the store, and the moments at which its state changes for readers: publish, rollback, reset, load, jump.
 * What a tail is made of is in state.c, who makes it in txn.c (evaluation) and apply.c (entries of the log).
 */
#include <stdlib.h>

#include "base/panic.h"
#include "store/alarm_priv.h"
#include "store/auth_priv.h"
#include "store/store_priv.h"
#include "store/watch_hub.h"

/* ---- the lock ---- */

void ks_lock_read(struct ks_store *store)
{
	KS_ASSERT(pthread_rwlock_rdlock(&store->lock) == 0);
}

void ks_lock_write(struct ks_store *store)
{
	KS_ASSERT(pthread_rwlock_wrlock(&store->lock) == 0);
}

void ks_unlock(struct ks_store *store)
{
	KS_ASSERT(pthread_rwlock_unlock(&store->lock) == 0);
}

static void init_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	KS_ASSERT(pthread_rwlockattr_init(&attr) == 0);
	/* Else a steady stream of readers would keep the writer out for ever. */
	KS_ASSERT(pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP) == 0);
	KS_ASSERT(pthread_rwlock_init(lock, &attr) == 0);
	pthread_rwlockattr_destroy(&attr);
}

/* ---- the committed point ---- */

/*
 * A sequence lock: odd while the writer is at it. Each release store of a number comes after the odd sequence; a reader that
 * saw one of them (acquire) also sees a changed sequence in its second look, and tries again.
 */
static void set_committed(struct ks_store *store)
{
	const struct ks_point *point = &store->state->committed;
	uint32_t sequence = atomic_load_explicit(&store->sequence, memory_order_relaxed);

	atomic_store_explicit(&store->sequence, sequence + 1, memory_order_relaxed);
	atomic_store_explicit(&store->position, point->position, memory_order_release);
	atomic_store_explicit(&store->revision, point->revision, memory_order_release);
	atomic_store_explicit(&store->compact_revision, point->compact_revision, memory_order_release);
	atomic_store_explicit(&store->sequence, sequence + 2, memory_order_release);
	/* Who reads it has a proof, or takes what comes: it needs no more than to become visible. */
	atomic_store_explicit(&store->auth_enabled, ks_auth_enabled(store->state->auth), memory_order_release);
}

struct ks_position ks_store_committed(struct ks_store *store)
{
	struct ks_position position;
	uint32_t before, after;

	do {
		before = atomic_load_explicit(&store->sequence, memory_order_acquire);
		position.position = atomic_load_explicit(&store->position, memory_order_acquire);
		position.revision = atomic_load_explicit(&store->revision, memory_order_acquire);
		position.compact_revision = atomic_load_explicit(&store->compact_revision, memory_order_acquire);
		after = atomic_load_explicit(&store->sequence, memory_order_relaxed);
	} while ((before & 1) || before != after);
	return position;
}

bool ks_store_auth_enabled(const struct ks_store *store)
{
	return atomic_load_explicit(&store->auth_enabled, memory_order_acquire);
}

struct ks_auth *ks_store_auth(struct ks_store *store)
{
	struct ks_auth *auth;

	ks_lock_read(store);
	auth = ks_auth_ref(store->state->auth);
	ks_unlock(store);
	return auth;
}

/* ---- life cycle ---- */

struct ks_store *ks_store_new(const struct ks_store_config *config, struct ks_err *err)
{
	struct ks_store *store = aligned_alloc(alignof(struct ks_store), sizeof(*store));

	if (!store)
		goto no_memory;
	*store = (struct ks_store){.config = *config, .state = ks_state_new()};
	if (!store->state)
		goto no_memory;
	init_lock(&store->lock);
	set_committed(store);
	store->hub = ks_watch_hub_new(store, err);
	if (!store->hub) {
		ks_store_free(store);
		return NULL;
	}
	return store;
no_memory:
	free(store);
	ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the store");
	return NULL;
}

void ks_store_free(struct ks_store *store)
{
	if (!store)
		return;
	ks_watch_hub_free(store->hub);
	ks_state_free(store->jump);
	ks_state_free(store->state);
	pthread_rwlock_destroy(&store->lock);
	free(store);
}

struct ks_watch_hub *ks_store_hub(struct ks_store *store)
{
	return store->hub;
}

/* ---- the tail ---- */

/* Cheap records, so more than elsewhere: reading without the live bits, as others must in between, is slow. */
#define PUBLISH_CHUNK (8u * KS_LOCK_CHUNK)

void ks_store_publish(struct ks_store *store)
{
	struct ks_state *state = store->state;
	int64_t from;

	if (store->loading)
		return;
	ks_watch_hub_begin(store->hub);
	ks_lock_write(store);
	from = state->committed.revision;
	while (!ks_state_publish(state, PUBLISH_CHUNK)) {
		ks_unlock(store);
		ks_lock_write(store);
	}
	set_committed(store);
	ks_cache_evict(store, state);
	ks_unlock(store);
	ks_watch_hub_publish(store->hub, from, state->committed.revision);
}

/* What the tail did besides records, which all lies before a cut. */
static void undo_others(struct ks_state *state)
{
	ks_state_undo_leases(state, 0);
	if (state->auth != state->auth_tail)
		ks_state_undo_auth(state, ks_auth_ref(state->auth), 0);
	ks_state_undo_alarms(state, ks_alarms_ref(state->alarms), 0);
}

/* Makes the tail end at 'end' again: the committed point, or a cut, which goes with all behind it. */
static void roll_back(struct ks_store *store, const struct ks_point *end)
{
	struct ks_state *state = store->state;
	bool done = false;

	/* Nobody looks at the tail, so others may read between two chunks of it. */
	while (!done) {
		ks_lock_write(store);
		done = ks_state_undo_records(state, end->revision, KS_LOCK_CHUNK);
		if (done) {
			if (end == &state->committed)
				undo_others(state);
			state->tail = *end;
			state->cut_count = end == &state->committed ? 0 : (size_t)(end - state->cuts);
		}
		ks_unlock(store);
	}
}

void ks_store_rollback(struct ks_store *store)
{
	if (!store->loading)
		roll_back(store, &store->state->committed);
}

void ks_store_cut(struct ks_store *store)
{
	struct ks_state *state = store->state;

	KS_ASSERT(!store->loading && state->cut_count < KS_STORE_CUTS);
	ks_lock_write(store);
	state->cuts[state->cut_count++] = state->tail;
	ks_unlock(store);
}

void ks_store_rollback_to_cut(struct ks_store *store)
{
	struct ks_state *state = store->state;

	KS_ASSERT(state->cut_count);
	roll_back(store, &state->cuts[state->cut_count - 1]);
}

void ks_store_reset(struct ks_store *store)
{
	struct ks_state *fresh = ks_state_new();
	struct ks_state *old;

	/* A few kilobytes: small and bounded. */
	KS_ASSERT(fresh);
	ks_store_jump_abort(store);
	ks_lock_write(store);
	old = store->state;
	fresh->direct = store->loading;
	store->state = fresh;
	store->generation++;
	set_committed(store);
	ks_unlock(store);
	ks_watch_hub_reset(store->hub, fresh->committed.revision);
	ks_state_free(old);
}

/* ---- loading and jumping ---- */

static void finish_compaction(struct ks_state *state)
{
	struct ks_dropped dropped;
	bool more;

	do {
		more = ks_state_compact(state, &dropped, KS_DROPPED_MOST);
		ks_dropped_free(&dropped);
	} while (more);
	ks_state_publish_auth(state);
	ks_state_publish_alarms(state);
	/* Which rows are garbage is asked with ks_store_row_needed after a load. */
	state->garbage.first = state->garbage.count = 0;
	state->garbage.forgot = false;
	state->direct = false;
}

void ks_store_load_begin(struct ks_store *store)
{
	KS_ASSERT(!store->jump && store->state->tail.position == store->state->committed.position);
	store->loading = true;
	store->state->direct = true;
}

void ks_store_load_end(struct ks_store *store)
{
	struct ks_state *state = store->state;
	int64_t from = atomic_load_explicit(&store->revision, memory_order_relaxed); /* the writer's own */

	store->loading = false;
	ks_watch_hub_begin(store->hub);
	ks_lock_write(store);
	finish_compaction(state);
	ks_cache_evict(store, state);
	set_committed(store);
	ks_unlock(store);
	ks_watch_hub_publish(store->hub, from, state->committed.revision);
}

enum ks_status ks_store_jump_begin(struct ks_store *store, struct ks_err *err)
{
	KS_ASSERT(!store->loading && store->state->tail.position == store->state->committed.position);
	ks_store_jump_abort(store);
	store->jump = ks_state_new();
	if (!store->jump)
		return ks_fail_memory(err);
	store->jump->direct = true;
	return KS_OK;
}

void ks_store_jump_abort(struct ks_store *store)
{
	ks_state_free(store->jump);
	store->jump = NULL;
}

enum ks_status ks_store_jump_end(struct ks_store *store, struct ks_err *err)
{
	struct ks_state *old = store->state, *next = store->jump;
	int64_t from = old->committed.revision, to;

	KS_ASSERT(next);
	if (next->committed.position < old->committed.position || next->committed.revision < from) {
		ks_fail(err, KS_DATA_LOSS, "the log ends at position %lld, before %lld that was applied already",
			(long long)next->committed.position, (long long)old->committed.position);
		ks_store_jump_abort(store);
		return KS_DATA_LOSS;
	}
	finish_compaction(next);
	to = next->committed.revision;
	ks_watch_hub_begin(store->hub);
	ks_lock_write(store);
	store->state = next;
	store->generation++;
	store->jump = NULL;
	ks_cache_evict(store, next);
	set_committed(store);
	ks_unlock(store);
	ks_watch_hub_publish(store->hub, from, to);
	ks_state_free(old);
	return KS_OK;
}
