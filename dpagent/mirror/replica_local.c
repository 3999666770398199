/* SPDX-License-Identifier: Apache-2.0 */
/* Changes that are ours alone: the overlay, and what the transform makes anew. Each call is at most one local revision. */
#include <stdlib.h>

#include "base/panic.h"
#include "mirror/replica_priv.h"

#define CHUNK 1000

static int by_key(const void *a, const void *b)
{
	const struct dpa_overlay_entry *left = a, *right = b;

	return ks_slice_cmp(ks_bytes_slice(left->key), ks_bytes_slice(right->key));
}

const struct dpa_overlay_entry *dpa_overlay_of(const struct dpa_replica *replica, struct ks_slice key)
{
	size_t low = 0, high = replica->overlay_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = ks_slice_cmp(ks_bytes_slice(replica->overlay[middle].key), key);

		if (order == 0)
			return &replica->overlay[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* The key as upstream has it stays as it is; what it shows is judged again. */
static enum ks_status judge(struct dpa_draft *draft, struct ks_slice key, struct ks_err *err)
{
	struct dpa_replica *replica = draft->replica;
	struct dpa_shown shown;
	enum ks_status status = dpa_shown_get(replica, key, &shown, err);
	struct dpa_upside up;

	if (status != KS_OK)
		return status;
	up = dpa_upside_of(dpa_origins_find(&replica->origins, key), &shown);
	if (up.there || shown.held || dpa_overlay_of(replica, key))
		status = dpa_draft_key(draft, key, &up, false, err);
	dpa_shown_fini(&shown);
	return status;
}

enum ks_status dpa_draft_finish(struct dpa_draft *draft, bool jumped, struct ks_err *err)
{
	struct dpa_replica *replica = draft->replica;
	bool visible = draft->effect_count > 0;
	enum ks_status status;

	if (!visible) {
		/* No revision for what nobody sees. */
		draft->revision = replica->revision;
		return dpa_draft_commit(draft, err);
	}
	status = dpa_draft_commit(draft, err);
	if (status == KS_OK && jumped)
		status = dpa_after_jump(replica, err);
	return status;
}

/* 'status' is that of the drafting: published, or as if nothing had been. */
static enum ks_status end(struct dpa_draft *draft, enum ks_status status, bool jumped, struct ks_err *err)
{
	struct dpa_replica *replica = draft->replica;

	if (status == KS_OK)
		status = dpa_draft_finish(draft, jumped, err);
	else
		dpa_draft_fini(draft);
	if (status == KS_OK)
		dpa_settle(replica);
	else
		dpa_rollback(replica);
	return status;
}

static void free_overlay(struct dpa_overlay_entry *entries, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		ks_bytes_unref(entries[i].key);
		ks_bytes_unref(entries[i].value);
	}
	free(entries);
}

static enum ks_status copy_overlay(const struct dpa_replica *replica, const struct dpa_overlay_key *keys, size_t count,
				   struct dpa_overlay_entry **entries, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	*entries = calloc(count ? count : 1, sizeof(**entries));
	if (!*entries)
		return dpa_no_memory(err);
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		struct dpa_overlay_entry *entry = &(*entries)[i];

		if (!dpa_in_prefix(replica, keys[i].key))
			status = ks_fail(err, KS_INVALID_ARGUMENT,
					 "the overlay's key %.*s is outside of the prefix %.100s",
					 (int)(keys[i].key.size < 100 ? keys[i].key.size : 100),
					 (const char *)keys[i].key.data, replica->prefix);
		entry->key = ks_bytes_copy(keys[i].key);
		entry->value = keys[i].hide ? NULL : ks_bytes_copy(keys[i].value);
		if (!entry->key || (!keys[i].hide && !entry->value))
			status = dpa_no_memory(err);
	}
	if (status == KS_OK)
		qsort(*entries, count, sizeof(**entries), by_key);
	for (size_t i = 1; i < count && status == KS_OK; i++)
		if (by_key(&(*entries)[i - 1], &(*entries)[i]) == 0)
			status = ks_fail(err, KS_INVALID_ARGUMENT, "the overlay names a key twice");
	if (status != KS_OK) {
		free_overlay(*entries, count);
		*entries = NULL;
	}
	return status;
}

enum ks_status dpa_replica_set_overlay(struct dpa_replica *replica, const struct dpa_overlay_key *keys, size_t count,
				       struct ks_err *err)
{
	struct dpa_overlay_entry *entries, *old;
	size_t old_count;
	enum ks_status status = copy_overlay(replica, keys, count, &entries, err);
	struct dpa_draft draft;
	bool jumped;

	if (status != KS_OK)
		return status;
	ks_mutex_lock(&replica->lock);
	old = replica->overlay;
	old_count = replica->overlay_count;
	replica->overlay = entries;
	replica->overlay_count = count;
	if (replica->loaded) {
		dpa_draft_begin(&draft, replica, dpa_local_next(replica, &jumped), 0);
		for (size_t i = 0; i < count && status == KS_OK; i++)
			status = judge(&draft, ks_bytes_slice(entries[i].key), err);
		for (size_t i = 0; i < old_count && status == KS_OK; i++)
			if (!dpa_overlay_of(replica, ks_bytes_slice(old[i].key)))
				status = judge(&draft, ks_bytes_slice(old[i].key), err);
		status = end(&draft, status, jumped, err);
	}
	if (status != KS_OK) {
		replica->overlay = old;
		replica->overlay_count = old_count;
		old = entries;
		old_count = count;
	}
	ks_mutex_unlock(&replica->lock);
	free_overlay(old, old_count);
	return status;
}

enum ks_status dpa_replica_refresh(struct dpa_replica *replica, const struct ks_slice *keys, size_t count,
				   struct ks_err *err)
{
	enum ks_status status = KS_OK;
	struct dpa_draft draft;
	bool jumped;

	ks_mutex_lock(&replica->lock);
	if (replica->loaded) {
		dpa_draft_begin(&draft, replica, dpa_local_next(replica, &jumped), 0);
		for (size_t i = 0; i < count && status == KS_OK; i++)
			status = judge(&draft, keys[i], err);
		status = end(&draft, status, jumped, err);
	}
	ks_mutex_unlock(&replica->lock);
	return status;
}

/* All keys that are served. */
static enum ks_status judge_served(struct dpa_draft *draft, struct ks_err *err)
{
	struct ks_range_result result = {0};
	struct ks_bytes *last = NULL;
	enum ks_status status;
	size_t count;

	do {
		status = dpa_served_after(draft->replica, ks_bytes_slice(last), CHUNK, &result, err);
		count = result.kv_count;
		for (size_t i = 0; i < count && status == KS_OK; i++) {
			struct ks_kv kv;

			KS_ASSERT(ks_kv_decode(ks_bytes_slice(result.kvs[i].encoded), &kv));
			status = judge(draft, kv.key, err);
			if (i + 1 < count)
				continue;
			ks_bytes_unref(last);
			last = ks_bytes_copy(kv.key);
			if (!last)
				status = dpa_no_memory(err);
		}
		ks_range_result_fini(&result);
	} while (status == KS_OK && count == CHUNK);
	ks_bytes_unref(last);
	return status;
}

/* Those that are hidden by now, or not served yet. */
static enum ks_status judge_others(struct dpa_draft *draft, struct ks_err *err)
{
	const struct dpa_replica *replica = draft->replica;
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < replica->origins.slot_count && status == KS_OK; i++) {
		const struct dpa_origin *origin = replica->origins.slots[i];

		if (origin && origin->hidden)
			status = judge(draft, ks_bytes_slice(origin->key), err);
	}
	for (size_t i = 0; i < replica->overlay_count && status == KS_OK; i++) {
		struct dpa_shown shown;

		status = dpa_shown_get(draft->replica, ks_bytes_slice(replica->overlay[i].key), &shown, err);
		if (status == KS_OK && !shown.held &&
		    !dpa_origins_find(&replica->origins, ks_bytes_slice(replica->overlay[i].key)))
			status = judge(draft, ks_bytes_slice(replica->overlay[i].key), err);
		dpa_shown_fini(&shown);
	}
	return status;
}

enum ks_status dpa_recompute_all(struct dpa_replica *replica, struct ks_err *err)
{
	struct dpa_draft draft;
	enum ks_status status;
	bool jumped;

	if (replica->overlay_count == 0 && !replica->config.transform && replica->origins.overlaid == 0 &&
	    replica->origins.transformed == 0)
		return KS_OK;
	dpa_draft_begin(&draft, replica, dpa_local_next(replica, &jumped), 0);
	status = judge_served(&draft, err);
	if (status == KS_OK)
		status = judge_others(&draft, err);
	if (status != KS_OK) {
		dpa_draft_fini(&draft);
		return status;
	}
	return dpa_draft_finish(&draft, jumped, err);
}
