/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images into and out of the replica. A copy is made while changes go on: some keys at a time under the lock, and in the end, in one piece, once more
 * those that changed meanwhile; so it is of the instant of its end.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "mirror/board.h"
#include "mirror/replica_priv.h"

#define CHUNK 1000

/* ---- loading ---- */

struct order {
	struct ks_kv kv;
};

static int by_revision(const void *a, const void *b)
{
	const struct order *left = a, *right = b;

	if (left->kv.mod_revision != right->kv.mod_revision)
		return left->kv.mod_revision < right->kv.mod_revision ? -1 : 1;
	return ks_slice_cmp(left->kv.key, right->kv.key);
}

static enum ks_status broken(struct ks_err *err, const char *what)
{
	return ks_fail(err, KS_DATA_LOSS, "the image contradicts itself: %s", what);
}

/* The keys that are served, oldest first. */
static enum ks_status sort_keys(const struct dpa_replica *replica, const struct dpa_image *image, struct order **order,
				size_t *count, struct ks_err *err)
{
	struct ks_slice before = {0}, name;

	*count = 0;
	*order = calloc(image->key_count ? image->key_count : 1, sizeof(**order));
	if (!*order)
		return dpa_no_memory(err);
	for (size_t i = 0; i < image->key_count; i++) {
		const struct dpa_image_key *key = &image->keys[i];
		struct ks_kv *kv = &(*order)[*count].kv;

		if (!dpa_image_key_name(key, &name) || !dpa_in_prefix(replica, name))
			return broken(err, "a key is outside of the prefix");
		if (i > 0 && ks_slice_cmp(before, name) >= 0)
			return broken(err, "its keys are out of order");
		if (key->up_mod < 0 || key->up_mod > image->up_revision || (!key->kv && key->up_mod == 0))
			return broken(err, "a key's revision upstream is out of range");
		before = name;
		if (!key->kv)
			continue;
		if (!ks_kv_decode(ks_bytes_slice(key->kv), kv) || kv->mod_revision < 1 ||
		    kv->mod_revision > image->revision || kv->create_revision < 1 ||
		    kv->create_revision > kv->mod_revision || kv->version < 1)
			return broken(err, "a key's revisions are out of range");
		(*count)++;
	}
	qsort(*order, *count, sizeof(**order), by_revision);
	return KS_OK;
}

/* Keys of one revision. */
static enum ks_status apply_group(struct dpa_replica *replica, const struct order *group, size_t count,
				  struct ks_err *err)
{
	struct ks_effect one, *effects = count == 1 ? &one : calloc(count, sizeof(*effects));
	struct ks_entry entry = {.position = replica->position + 1,
				 .revision = group->kv.mod_revision,
				 .effects = effects,
				 .effect_count = count};
	enum ks_status status;

	if (!effects)
		return dpa_no_memory(err);
	for (size_t i = 0; i < count; i++)
		effects[i] = (struct ks_effect){.kind = KS_EFFECT_PUT,
						.key = group[i].kv.key,
						.value = group[i].kv.value,
						.create_revision = group[i].kv.create_revision,
						.version = group[i].kv.version};
	status = ks_store_apply(replica->store, &entry, err);
	if (effects != &one)
		free(effects);
	if (status == KS_OK)
		replica->position++;
	return status;
}

static enum ks_status apply_keys(struct dpa_replica *replica, const struct order *order, size_t count, int64_t revision,
				 struct ks_err *err)
{
	struct ks_effect compact = {.kind = KS_EFFECT_COMPACT, .version = revision};
	struct ks_entry last = {.revision = revision, .effects = &compact, .effect_count = 1};
	enum ks_status status = KS_OK;

	for (size_t i = 0, end; i < count && status == KS_OK; i = end) {
		for (end = i + 1; end < count && order[end].kv.mod_revision == order[i].kv.mod_revision;)
			end++;
		status = apply_group(replica, order + i, end - i, err);
	}
	last.position = replica->position + 1;
	if (status == KS_OK)
		status = ks_store_apply(replica->store, &last, err);
	if (status == KS_OK)
		replica->position++;
	return status;
}

/* Is what upstream says of the key something else than what is served? */
static bool needs_origin(const struct dpa_image_key *key)
{
	struct ks_kv kv;

	if (!key->kv || key->raw || !ks_kv_decode(ks_bytes_slice(key->kv), &kv))
		return true;
	return kv.create_revision != key->up_create || kv.mod_revision != key->up_mod || kv.version != key->up_version;
}

static enum ks_status load_origins(struct dpa_replica *replica, const struct dpa_image *image, struct ks_err *err)
{
	for (size_t i = 0; i < image->key_count; i++) {
		const struct dpa_image_key *key = &image->keys[i];
		struct dpa_origin origin = {.up_create = key->up_create,
					    .up_mod = key->up_mod,
					    .up_version = key->up_version,
					    .hidden = !key->kv};
		struct ks_slice name;

		if (!needs_origin(key))
			continue;
		KS_ASSERT(dpa_image_key_name(key, &name));
		origin.key = ks_bytes_copy(name);
		origin.raw = ks_bytes_ref(key->raw);
		/* Which of the two it was does not matter: both are judged again after a load. */
		origin.overlaid = key->raw != NULL || origin.hidden || key->up_mod == 0;
		if (!origin.key || !dpa_origins_set(&replica->origins, &origin)) {
			ks_bytes_unref(origin.key);
			ks_bytes_unref(origin.raw);
			return dpa_no_memory(err);
		}
	}
	return KS_OK;
}

static void start_anew(struct dpa_replica *replica)
{
	ks_store_reset(replica->store);
	ks_store_load_end(replica->store);
	dpa_origins_fini(&replica->origins);
	replica->position = 0;
}

static int64_t jump_of(const struct dpa_image *image)
{
	int64_t age_ms = image->saved_ms > 0 ? dpa_wall_ms() - image->saved_ms : 0;

	if (age_ms < 0 || age_ms > DPA_JUMP_AGE_MS)
		age_ms = age_ms < 0 ? 0 : DPA_JUMP_AGE_MS;
	return DPA_REVISION_JUMP + age_ms * DPA_JUMP_PER_MS;
}

enum ks_status dpa_load_image(struct dpa_replica *replica, const struct dpa_image *image, struct ks_err *err)
{
	/* Clients may know local revisions that are ours alone, and newer: all of them stay below. The first of these may have been lost with
	 * the image that was not written any more. */
	bool jump = !image->final && (image->revision != image->up_revision || replica->config.own_changes);
	int64_t far = jump_of(image), revision = image->revision + (jump ? far : 0);
	struct order *order = NULL;
	size_t count = 0;
	enum ks_status status;

	if (image->revision < 1 || image->up_revision < 0 || image->revision > DPA_REVISION_MAX)
		return broken(err, "a revision is out of range");
	status = sort_keys(replica, image, &order, &count, err);
	if (status == KS_OK)
		status = load_origins(replica, image, err);
	if (status != KS_OK) {
		dpa_origins_fini(&replica->origins);
		free(order);
		return status;
	}
	ks_store_load_begin(replica->store);
	status = apply_keys(replica, order, count, revision, err);
	free(order);
	if (status != KS_OK) {
		start_anew(replica);
		return status;
	}
	ks_store_load_end(replica->store);
	replica->loaded = true;
	replica->uncertain = !image->final && !jump;
	replica->jump = far;
	replica->cluster_id = image->cluster_id;
	replica->up_revision = image->up_revision;
	replica->revision = revision;
	replica->confirmed_ms = image->confirmed_ms;
	replica->key_changes++;
	return KS_OK;
}

bool dpa_is_of_prefix(const struct dpa_replica *replica, const struct dpa_image *image)
{
	return !image->prefix || ks_slice_eq(ks_bytes_slice(image->prefix), ks_slice_str(replica->prefix));
}

enum ks_status dpa_other_prefix(const struct dpa_image *image, struct ks_err *err)
{
	return ks_fail(err, KS_DATA_LOSS, "the image is of another prefix: %.*s",
		       (int)(image->prefix->size < 100 ? image->prefix->size : 100), (const char *)image->prefix->data);
}

enum ks_status dpa_replica_load(struct dpa_replica *replica, const struct dpa_image *image, struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&replica->lock);
	if (replica->loaded)
		status = ks_fail(err, KS_FAILED_PRECONDITION, "there is a state already");
	else if (!dpa_is_of_prefix(replica, image))
		status = dpa_other_prefix(image, err);
	else
		status = dpa_load_image(replica, image, err);
	if (status == KS_OK) {
		status = dpa_recompute_all(replica, err);
		if (status != KS_OK)
			dpa_rollback(replica);
		dpa_settle(replica);
	}
	ks_mutex_unlock(&replica->lock);
	return status;
}

/* ---- copying ---- */

void dpa_record_change(struct dpa_replica *replica, struct ks_slice key)
{
	struct dpa_recorder *recorder = replica->recorder;
	struct ks_bytes *copy;

	if (!recorder || recorder->failed)
		return;
	if (recorder->count == recorder->capacity) {
		size_t capacity = recorder->capacity ? recorder->capacity * 2 : 64;
		struct ks_bytes **grown = reallocarray(recorder->keys, capacity, sizeof(*grown));

		if (grown) {
			recorder->keys = grown;
			recorder->capacity = capacity;
		}
	}
	copy = recorder->count < recorder->capacity ? ks_bytes_copy(key) : NULL;
	if (copy)
		recorder->keys[recorder->count++] = copy;
	else
		recorder->failed = true;
}

static int by_name(const void *a, const void *b)
{
	return ks_slice_cmp(ks_bytes_slice(*(struct ks_bytes *const *)a), ks_bytes_slice(*(struct ks_bytes *const *)b));
}

static void free_recorder(struct dpa_recorder *recorder)
{
	for (size_t i = 0; i < recorder->count; i++)
		ks_bytes_unref(recorder->keys[i]);
	free(recorder->keys);
}

struct keys {
	struct dpa_image_key *items;
	size_t count, capacity;
};

static struct dpa_image_key *add_key(struct keys *keys)
{
	if (keys->count == keys->capacity) {
		size_t capacity = keys->capacity ? keys->capacity * 2 : CHUNK;
		struct dpa_image_key *grown = reallocarray(keys->items, capacity, sizeof(*grown));

		if (!grown)
			return NULL;
		keys->items = grown;
		keys->capacity = capacity;
	}
	keys->items[keys->count] = (struct dpa_image_key){0};
	return &keys->items[keys->count++];
}

static void free_keys(struct keys *keys)
{
	struct dpa_image image = {.keys = keys->items, .key_count = keys->count};

	dpa_image_fini(&image);
	*keys = (struct keys){0};
}

/* One key as it is now; nothing is added when it is neither served nor upstream. 'encoded' is what is served, or NULL. */
static enum ks_status copy_key(const struct dpa_replica *replica, struct ks_slice name, struct ks_bytes *encoded,
			       struct keys *keys, struct ks_err *err)
{
	const struct dpa_origin *origin = dpa_origins_find(&replica->origins, name);
	struct dpa_shown shown = {.held = encoded};
	struct dpa_image_key *key;
	struct dpa_upside up;

	if (encoded)
		KS_ASSERT(ks_kv_decode(ks_bytes_slice(encoded), &shown.kv));
	up = dpa_upside_of(origin, &shown);
	if (!encoded && !up.there)
		return KS_OK;
	key = add_key(keys);
	if (!key)
		return dpa_no_memory(err);
	key->kv = ks_bytes_ref(encoded);
	key->hidden = encoded ? NULL : ks_bytes_ref(origin->key);
	key->raw = origin ? ks_bytes_ref(origin->raw) : NULL;
	if (up.there) {
		key->up_create = up.create;
		key->up_mod = up.mod;
		key->up_version = up.version;
	}
	return KS_OK;
}

/* The next keys that are served; *last is the name of the last one, NULL at the end. */
static enum ks_status copy_chunk(struct dpa_replica *replica, struct ks_bytes **last, struct keys *keys,
				 struct ks_err *err)
{
	struct ks_range_result result = {0};
	enum ks_status status;
	size_t count;

	ks_mutex_lock(&replica->lock);
	status = dpa_served_after(replica, ks_bytes_slice(*last), CHUNK, &result, err);
	ks_bytes_unref(*last);
	*last = NULL;
	count = result.kv_count;
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		struct ks_kv kv;

		KS_ASSERT(ks_kv_decode(ks_bytes_slice(result.kvs[i].encoded), &kv));
		status = copy_key(replica, kv.key, result.kvs[i].encoded, keys, err);
		if (status == KS_OK && i + 1 == CHUNK) {
			*last = ks_bytes_copy(kv.key);
			if (!*last)
				status = dpa_no_memory(err);
		}
	}
	ks_range_result_fini(&result);
	ks_mutex_unlock(&replica->lock);
	return status;
}

/* Under the lock: the keys that changed since the copy began, and those that are hidden, ascending. */
static enum ks_status copy_changed(struct dpa_replica *replica, struct keys *keys, struct ks_err *err)
{
	struct dpa_recorder *recorder = replica->recorder;

	for (size_t i = 0; i < replica->origins.slot_count; i++)
		if (replica->origins.slots[i] && replica->origins.slots[i]->hidden)
			dpa_record_change(replica, ks_bytes_slice(replica->origins.slots[i]->key));
	if (recorder->failed)
		return dpa_no_memory(err);
	if (recorder->count > 1)
		qsort(recorder->keys, recorder->count, sizeof(*recorder->keys), by_name);
	for (size_t i = 0; i < recorder->count; i++) {
		struct ks_slice name = ks_bytes_slice(recorder->keys[i]);
		struct dpa_shown shown;
		enum ks_status status;

		if (i > 0 && ks_slice_eq(name, ks_bytes_slice(recorder->keys[i - 1])))
			continue;
		status = dpa_shown_get(replica, name, &shown, err);
		if (status == KS_OK)
			status = copy_key(replica, name, shown.held, keys, err);
		dpa_shown_fini(&shown);
		if (status != KS_OK)
			return status;
	}
	return KS_OK;
}

static struct ks_slice name_of(const struct dpa_image_key *key)
{
	struct ks_slice name;

	KS_ASSERT(dpa_image_key_name(key, &name));
	return name;
}

/* 'copied' without what changed, merged with 'changed' (both are used up). */
static enum ks_status merge(struct keys *copied, struct keys *changed, const struct dpa_recorder *recorder,
			    struct keys *merged, struct ks_err *err)
{
	size_t i = 0, j = 0, r = 0;

	while (i < copied->count || j < changed->count) {
		bool from_changed = j < changed->count &&
				    (i == copied->count ||
				     ks_slice_cmp(name_of(&changed->items[j]), name_of(&copied->items[i])) <= 0);
		struct dpa_image_key *from = from_changed ? &changed->items[j] : &copied->items[i], *to;
		struct ks_slice name = name_of(from);

		while (!from_changed && r < recorder->count &&
		       ks_slice_cmp(ks_bytes_slice(recorder->keys[r]), name) < 0)
			r++;
		if (!from_changed && r < recorder->count && ks_slice_eq(ks_bytes_slice(recorder->keys[r]), name)) {
			i++; /* an older state of it */
			continue;
		}
		to = add_key(merged);
		if (!to)
			return dpa_no_memory(err);
		*to = *from;
		*from = (struct dpa_image_key){0};
		if (from_changed)
			j++;
		else
			i++;
	}
	return KS_OK;
}

static void fill_header(const struct dpa_replica *replica, struct dpa_image *image)
{
	image->cluster_id = replica->cluster_id;
	image->up_revision = replica->up_revision;
	image->revision = replica->revision;
	image->confirmed_ms = replica->confirmed_ms;
}

static enum ks_status make_image(struct dpa_replica *replica, struct dpa_image *image, struct ks_err *err)
{
	struct dpa_recorder recorder = {0};
	struct keys copied = {0}, changed = {0}, merged = {0};
	struct ks_bytes *last = NULL;
	enum ks_status status = KS_OK;

	ks_mutex_lock(&replica->lock);
	if (!replica->loaded)
		status = ks_fail(err, KS_UNAVAILABLE, "there is no configuration yet");
	else
		replica->recorder = &recorder;
	ks_mutex_unlock(&replica->lock);
	if (status != KS_OK)
		return status;
	do
		status = copy_chunk(replica, &last, &copied, err);
	while (status == KS_OK && last);
	ks_bytes_unref(last);
	ks_mutex_lock(&replica->lock);
	if (status == KS_OK)
		status = copy_changed(replica, &changed, err);
	fill_header(replica, image);
	replica->recorder = NULL;
	ks_mutex_unlock(&replica->lock);
	if (status == KS_OK)
		status = merge(&copied, &changed, &recorder, &merged, err);
	image->prefix = status == KS_OK ? ks_bytes_copy(ks_slice_str(replica->prefix)) : NULL;
	if (status == KS_OK && !image->prefix)
		status = dpa_no_memory(err);
	free_keys(&copied);
	free_keys(&changed);
	free_recorder(&recorder);
	if (status != KS_OK) {
		free_keys(&merged);
		*image = (struct dpa_image){0};
		return status;
	}
	image->keys = merged.items;
	image->key_count = merged.count;
	return KS_OK;
}

enum ks_status dpa_replica_image(struct dpa_replica *replica, struct dpa_image *image, struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&replica->copy_lock);
	status = make_image(replica, image, err);
	ks_mutex_unlock(&replica->copy_lock);
	return status;
}
