/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HashKV, exactly as spec 6.5 has it, whatever of a compaction is still to be removed: records that a finished compaction
 * would have removed are passed over.
 *
 * The history is read in chunks under the lock; values that are not in memory are fetched and everything is hashed
 * without it. When a compaction (or a new state) comes in between, it all begins again.
 */
#include <stdlib.h>

#include "store/crc32c.h"
#include "store/store_priv.h"

#define CHUNK 512u

struct item {
	int64_t revision;
	int32_t sub;
	bool is_delete;
};

struct hashing {
	struct ks_store *store;
	int64_t revision; /* hashed */
	int64_t compact_revision;
	const struct ks_state *state; /* only to see that it was replaced */
	bool any_live;                /* a key is live at 'revision' */
	int64_t next_revision;        /* where the next chunk begins */
	int32_t next_sub;
	uint32_t crc;
	/* the chunk */
	size_t count;
	struct item items[CHUNK];
	struct ks_bytes *encoded[CHUNK];
	struct ks_loc locs[CHUNK];
};

static bool counts(const struct hashing *h, const struct ks_record *record)
{
	bool is_delete = record->create_revision == 0;

	if (record->revision > h->compact_revision)
		return true;
	if (is_delete) /* below it is removed, at it it is left out */
		return false;
	return ks_key_at(record->key, h->any_live ? h->revision : h->compact_revision) == record;
}

static void drop_chunk(struct hashing *h)
{
	for (size_t i = 0; i < h->count; i++)
		ks_bytes_unref(h->encoded[i]);
	h->count = 0;
}

/* Fills the chunk; false when the hash has to begin again. */
static bool read_chunk(struct hashing *h, bool *end)
{
	struct ks_record *record = NULL;
	const struct ks_state *state;
	struct ks_history_pos pos;
	bool same;

	ks_lock_read(h->store);
	state = h->store->state;
	same = state == h->state && state->committed.compact_revision == h->compact_revision;
	if (same) {
		pos = ks_history_seek(&state->history, h->next_revision, h->next_sub);
		for (size_t looks = 0; looks < KS_LOCK_CHUNK && h->count < CHUNK; looks++) {
			record = ks_history_next(&state->history, &pos);
			if (!record || record->revision > h->revision) {
				record = NULL;
				break;
			}
			h->next_revision = record->revision;
			h->next_sub = record->sub + 1;
			if (!counts(h, record))
				continue;
			h->items[h->count] = (struct item){.revision = record->revision,
							   .sub = record->sub,
							   .is_delete = record->create_revision == 0};
			h->encoded[h->count] = ks_bytes_ref(record->encoded);
			h->locs[h->count++] = (struct ks_loc){.position = record->position, .sub = record->sub};
		}
	}
	ks_unlock(h->store);
	*end = record == NULL;
	return same;
}

static bool fetch_chunk(struct hashing *h, ks_hash_fetch_fn *fetch, void *ctx)
{
	struct ks_bytes *out[CHUNK] = {0};
	struct ks_loc locs[CHUNK];
	size_t places[CHUNK];
	size_t count = 0;
	bool ok;

	for (size_t i = 0; i < h->count; i++) {
		if (h->encoded[i])
			continue;
		places[count] = i;
		locs[count++] = h->locs[i];
	}
	if (count == 0)
		return true;
	ok = fetch && fetch(ctx, locs, out, count);
	for (size_t i = 0; i < count; i++) {
		h->encoded[places[i]] = out[i];
		ok = ok && out[i];
	}
	return ok;
}

static uint8_t *put_be64(uint8_t *out, uint64_t value)
{
	for (int shift = 56; shift >= 0; shift -= 8)
		*out++ = (uint8_t)(value >> shift);
	return out;
}

static void hash_chunk(struct hashing *h)
{
	for (size_t i = 0; i < h->count; i++) {
		const struct item *item = &h->items[i];
		struct ks_slice value = ks_bytes_slice(h->encoded[i]);
		uint8_t key[18], *end = put_be64(key, (uint64_t)item->revision);
		struct ks_kv kv;

		*end++ = '_';
		end = put_be64(end, (uint64_t)item->sub);
		if (item->is_delete) {
			*end++ = 't';
			/* Ours has the mod revision behind the key, etcd's has the key alone. */
			if (ks_kv_decode(value, &kv))
				value.size = (size_t)(kv.key.data + kv.key.size - value.data);
		}
		h->crc = ks_crc32c(h->crc, key, (size_t)(end - key));
		h->crc = ks_crc32c(h->crc, value.data, value.size);
	}
}

static enum ks_status begin(struct hashing *h, int64_t revision, struct ks_hash_result *result, struct ks_err *err)
{
	struct ks_range_req everything = {
		.interval = {.key = ks_slice_of("", 1), .end = ks_slice_of("", 1)},
		.count_only = true,
	};
	struct ks_range_view view = {.view = KS_VIEW_COMMITTED};
	enum ks_status status = KS_OK;
	struct ks_range_result all;

	ks_lock_read(h->store);
	h->state = h->store->state;
	view.newest = h->state->committed.revision;
	h->compact_revision = h->state->committed.compact_revision;
	h->revision =
		revision ? revision : view.newest; /* before a negative one there is nothing, which etcd hashes too */
	h->next_revision = 0;
	h->next_sub = 0;
	h->crc = ks_crc32c(0, "key", 3);
	result->revision = view.newest;
	if (h->revision > view.newest)
		status = ks_fail_future(err);
	else if (revision > 0 && revision < h->compact_revision)
		status = ks_fail_compacted(err);
	if (status == KS_OK && h->compact_revision >= 0 && h->revision >= h->compact_revision) {
		status = ks_range_eval(h->store, &everything, &view, h->revision, &all, err);
		h->any_live = status == KS_OK && all.count > 0;
	}
	ks_unlock(h->store);
	return status;
}

/* KS_ABORTED: begin again. */
static enum ks_status hash_once(struct hashing *h, int64_t revision, ks_hash_fetch_fn *fetch, void *ctx,
				struct ks_hash_result *result, struct ks_err *err)
{
	enum ks_status status = begin(h, revision, result, err);
	bool fetched = true, end = false;

	while (status == KS_OK && !end) {
		if (!read_chunk(h, &end)) {
			status = KS_ABORTED;
		} else {
			fetched = fetch_chunk(h, fetch, ctx);
			if (fetched)
				hash_chunk(h);
			else if (ks_store_committed(h->store).compact_revision != h->compact_revision)
				status = KS_ABORTED; /* its rows were trimmed */
			else
				status = ks_fail(err, KS_UNAVAILABLE, "etcdserver: no leader");
		}
		drop_chunk(h);
	}
	return status;
}

enum ks_status ks_store_hash_kv(struct ks_store *store, int64_t revision, ks_hash_fetch_fn *fetch, void *ctx,
				struct ks_hash_result *result, struct ks_err *err)
{
	struct hashing *h = calloc(1, sizeof(*h));
	enum ks_status status;

	*result = (struct ks_hash_result){0};
	if (!h)
		return ks_fail_memory(err);
	h->store = store;
	do {
		status = hash_once(h, revision, fetch, ctx, result, err);
	} while (status == KS_ABORTED);
	if (status == KS_OK) {
		result->hash = h->crc;
		result->compact_revision = h->compact_revision;
		result->hash_revision = h->revision;
	}
	free(h);
	return status;
}
