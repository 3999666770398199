/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A full listing becomes the differences to what is here. While it comes in, each key is compared, and only values that differ are kept; at
 * its end, in one piece under the lock, the list is merged with the keys that upstream had until now.
 *
 * With the same history the differences take upstream's own revisions, as the events would have; else they are one revision of ours.
 */
#include <malloc.h>
#include <stdlib.h>

#include "base/panic.h"
#include "mirror/board.h"
#include "mirror/replica_priv.h"

#define CHUNK 1000

struct listed {
	struct ks_bytes *key;
	struct ks_bytes *value; /* NULL: the same as here */
	int64_t create, mod, version;
	bool marker;
};

struct dpa_resync {
	struct dpa_replica *replica;
	uint64_t cluster_id;
	int64_t up_revision, confirmed_ms;
	bool same_history;
	bool is_image; /* of somebody else: counts only while it is newer */
	struct listed *items;
	size_t count, capacity;
	bool has_keys; /* other than markers */
};

struct dpa_resync *dpa_resync_begin(struct dpa_replica *replica, uint64_t cluster_id, int64_t up_revision,
				    bool same_history, int64_t confirmed_ms, struct ks_err *err)
{
	struct dpa_resync *resync;
	bool busy;

	if (up_revision < 1 || up_revision > DPA_UP_REVISION_MAX) {
		ks_fail(err, KS_INVALID_ARGUMENT, "the listing's revision is out of range");
		return NULL;
	}
	ks_mutex_lock(&replica->lock);
	busy = replica->resyncing;
	replica->resyncing = true;
	same_history = same_history && replica->loaded && up_revision >= replica->up_revision;
	ks_mutex_unlock(&replica->lock);
	if (busy) {
		ks_fail(err, KS_ABORTED, "another listing is under way");
		return NULL;
	}
	resync = ks_xcalloc(1, sizeof(*resync));
	*resync = (struct dpa_resync){.replica = replica,
				      .cluster_id = cluster_id,
				      .up_revision = up_revision,
				      .same_history = same_history,
				      .confirmed_ms = confirmed_ms};
	return resync;
}

void dpa_resync_abort(struct dpa_resync *resync)
{
	if (!resync)
		return;
	ks_mutex_lock(&resync->replica->lock);
	resync->replica->resyncing = false;
	ks_mutex_unlock(&resync->replica->lock);
	for (size_t i = 0; i < resync->count; i++) {
		ks_bytes_unref(resync->items[i].key);
		ks_bytes_unref(resync->items[i].value);
	}
	free(resync->items);
	free(resync);
}

/* Has upstream had this very value until now? */
static bool is_same(struct dpa_replica *replica, const struct dpa_change *kv)
{
	struct dpa_shown shown;
	struct dpa_upside up;
	struct ks_err err;
	bool same = false;

	ks_mutex_lock(&replica->lock);
	if (replica->loaded && dpa_shown_get(replica, kv->key, &shown, &err) == KS_OK) {
		up = dpa_upside_of(dpa_origins_find(&replica->origins, kv->key), &shown);
		same = up.there && ks_slice_eq(up.raw, kv->value);
		dpa_shown_fini(&shown);
	}
	ks_mutex_unlock(&replica->lock);
	return same;
}

static enum ks_status check_key(const struct dpa_resync *resync, const struct dpa_change *kv, struct ks_err *err)
{
	if (!dpa_in_prefix(resync->replica, kv->key))
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream listed a key outside of the prefix");
	if (resync->count > 0 && ks_slice_cmp(ks_bytes_slice(resync->items[resync->count - 1].key), kv->key) >= 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream's listing is out of order");
	if (kv->create_revision < 1 || kv->revision < kv->create_revision || kv->revision > resync->up_revision ||
	    kv->version < 1)
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream listed a key with impossible revisions");
	return KS_OK;
}

enum ks_status dpa_resync_key(struct dpa_resync *resync, const struct dpa_change *kv, struct ks_err *err)
{
	struct listed *item;
	enum ks_status status = check_key(resync, kv, err);

	if (status != KS_OK)
		return status;
	if (resync->count == resync->capacity) {
		size_t capacity = resync->capacity ? resync->capacity * 2 : CHUNK;
		struct listed *grown = reallocarray(resync->items, capacity, sizeof(*grown));

		if (!grown)
			return dpa_no_memory(err);
		resync->items = grown;
		resync->capacity = capacity;
	}
	item = &resync->items[resync->count];
	*item = (struct listed){.key = ks_bytes_copy(kv->key),
				.create = kv->create_revision,
				.mod = kv->revision,
				.version = kv->version,
				.marker = dpa_is_marker(kv->value)};
	if (!item->key)
		return dpa_no_memory(err);
	resync->count++;
	resync->has_keys = resync->has_keys || !item->marker;
	if (is_same(resync->replica, kv))
		return KS_OK;
	item->value = ks_bytes_copy(kv->value);
	return item->value ? KS_OK : dpa_no_memory(err);
}

/* ---- the end: nothing was here ---- */

static enum ks_status load(struct dpa_resync *resync, struct dpa_resync_summary *summary, struct ks_err *err)
{
	struct dpa_replica *replica = resync->replica;
	struct dpa_image image = {.cluster_id = resync->cluster_id,
				  .up_revision = resync->up_revision,
				  .revision = resync->up_revision,
				  .final = true, /* the source itself, no copy of it */
				  .keys = calloc(resync->count ? resync->count : 1, sizeof(*image.keys)),
				  .key_count = resync->count};
	enum ks_status status = image.keys ? KS_OK : dpa_no_memory(err);

	for (size_t i = 0; i < resync->count && status == KS_OK; i++) {
		struct listed *item = &resync->items[i];
		const struct ks_kv kv = {.key = ks_bytes_slice(item->key),
					 .value = ks_bytes_slice(item->value),
					 .create_revision = item->create,
					 .mod_revision = item->mod,
					 .version = item->version};

		image.keys[i] = (struct dpa_image_key){.kv = ks_kv_encode(&kv),
						       .up_create = item->create,
						       .up_mod = item->mod,
						       .up_version = item->version};
		if (!image.keys[i].kv)
			status = dpa_no_memory(err);
		ks_bytes_unref(item->value);
		item->value = NULL;
	}
	if (!image.keys)
		image.key_count = 0;
	if (status == KS_OK)
		status = dpa_load_image(replica, &image, err);
	if (status == KS_OK) {
		status = dpa_recompute_all(replica, err);
		if (status != KS_OK)
			dpa_rollback(replica);
	}
	summary->put = resync->count;
	dpa_image_fini(&image);
	return status;
}

/* ---- the end: differences ---- */

struct difference {
	struct ks_bytes *key;        /* counted */
	const struct listed *listed; /* NULL: it is gone */
	int64_t at;                  /* upstream's revision of the change */
	bool touch;                  /* an event, whatever the value */
	bool numbers;                /* only upstream's numbers are others */
};

struct differences {
	struct difference *items;
	size_t count, capacity;
	bool had_keys; /* upstream had others than markers until now */
};

static enum ks_status add(struct differences *differences, struct ks_slice key, const struct difference *difference,
			  struct ks_err *err)
{
	struct difference *item;

	if (differences->count == differences->capacity) {
		size_t capacity = differences->capacity ? differences->capacity * 2 : 64;
		struct difference *grown = reallocarray(differences->items, capacity, sizeof(*grown));

		if (!grown)
			return dpa_no_memory(err);
		differences->items = grown;
		differences->capacity = capacity;
	}
	item = &differences->items[differences->count];
	*item = *difference;
	item->key = difference->listed ? ks_bytes_ref(difference->listed->key) : ks_bytes_copy(key);
	if (!item->key)
		return dpa_no_memory(err);
	differences->count++;
	return KS_OK;
}

static void free_differences(struct differences *differences)
{
	for (size_t i = 0; i < differences->count; i++)
		ks_bytes_unref(differences->items[i].key);
	free(differences->items);
}

/* With the same history at the revision of the listed key, if that is new; else at the end. */
static int64_t revision_of(const struct dpa_resync *resync, const struct listed *listed)
{
	bool own = resync->same_history && listed->mod > resync->replica->up_revision;

	return own ? listed->mod : resync->up_revision;
}

/* A listed key, and what upstream had of it until now. */
static enum ks_status compare(const struct dpa_resync *resync, const struct listed *listed, const struct dpa_upside *up,
			      struct differences *differences, struct dpa_resync_summary *summary, struct ks_err *err)
{
	bool renumbered =
		!up->there || up->mod != listed->mod || up->create != listed->create || up->version != listed->version;
	struct difference difference = {.listed = listed, .at = revision_of(resync, listed)};

	if (!listed->value && !renumbered) {
		summary->same++;
		return KS_OK;
	}
	difference.touch = listed->value != NULL || (resync->same_history && up->mod != listed->mod);
	difference.numbers = !difference.touch;
	if (difference.touch)
		summary->put++;
	else
		summary->same++;
	return add(differences, ks_slice_of(NULL, 0), &difference, err);
}

struct merger {
	struct dpa_resync *resync;
	struct differences *differences;
	struct dpa_resync_summary *summary;
	size_t next; /* listed key */
	struct ks_bytes **hidden;
	size_t hidden_count, next_hidden;
};

/* A key that upstream had until now, in ascending order. */
static enum ks_status merge_known(struct merger *merger, struct ks_slice key, const struct dpa_upside *up,
				  struct ks_err *err)
{
	const struct dpa_resync *resync = merger->resync;
	static const struct dpa_upside nothing;
	enum ks_status status = KS_OK;
	int order = 1;

	if (!dpa_is_marker(up->raw))
		merger->differences->had_keys = true;
	while (status == KS_OK && merger->next < resync->count &&
	       (order = ks_slice_cmp(ks_bytes_slice(resync->items[merger->next].key), key)) < 0)
		status = compare(resync, &resync->items[merger->next++], &nothing, merger->differences, merger->summary,
				 err);
	if (status != KS_OK)
		return status;
	if (merger->next < resync->count && order == 0)
		return compare(resync, &resync->items[merger->next++], up, merger->differences, merger->summary, err);
	merger->summary->deleted++;
	return add(merger->differences, key, &(struct difference){.at = resync->up_revision, .touch = true}, err);
}

static enum ks_status merge_hidden(struct merger *merger, const struct ks_slice *before, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	while (status == KS_OK && merger->next_hidden < merger->hidden_count) {
		struct ks_bytes *key = merger->hidden[merger->next_hidden];
		struct dpa_shown shown = {0};
		struct dpa_upside up;

		if (before && ks_slice_cmp(ks_bytes_slice(key), *before) > 0)
			break;
		up = dpa_upside_of(dpa_origins_find(&merger->resync->replica->origins, ks_bytes_slice(key)), &shown);
		status = merge_known(merger, ks_bytes_slice(key), &up, err);
		merger->next_hidden++;
	}
	return status;
}

static int by_name(const void *a, const void *b)
{
	return ks_slice_cmp(ks_bytes_slice(*(struct ks_bytes *const *)a), ks_bytes_slice(*(struct ks_bytes *const *)b));
}

/* The table owns the keys; nothing changes it before the merge is done. */
static enum ks_status list_hidden(struct merger *merger, struct ks_err *err)
{
	const struct dpa_origins *origins = &merger->resync->replica->origins;

	merger->hidden = calloc(origins->hidden ? origins->hidden : 1, sizeof(struct ks_bytes *));
	if (!merger->hidden)
		return dpa_no_memory(err);
	for (size_t i = 0; i < origins->slot_count; i++)
		if (origins->slots[i] && origins->slots[i]->hidden)
			merger->hidden[merger->hidden_count++] = origins->slots[i]->key;
	qsort(merger->hidden, merger->hidden_count, sizeof(struct ks_bytes *), by_name);
	return KS_OK;
}

static enum ks_status merge_served(struct merger *merger, struct ks_err *err)
{
	struct dpa_replica *replica = merger->resync->replica;
	struct ks_range_result result = {0};
	struct ks_bytes *last = NULL;
	enum ks_status status;
	size_t count;

	do {
		status = dpa_served_after(replica, ks_bytes_slice(last), CHUNK, &result, err);
		count = result.kv_count;
		for (size_t i = 0; i < count && status == KS_OK; i++) {
			struct dpa_shown shown = {.held = result.kvs[i].encoded};
			struct dpa_upside up;

			KS_ASSERT(ks_kv_decode(ks_bytes_slice(shown.held), &shown.kv));
			up = dpa_upside_of(dpa_origins_find(&replica->origins, shown.kv.key), &shown);
			if (up.there)
				status = merge_hidden(merger, &shown.kv.key, err);
			if (up.there && status == KS_OK)
				status = merge_known(merger, shown.kv.key, &up, err);
			if (i + 1 == CHUNK) {
				ks_bytes_unref(last);
				last = ks_bytes_copy(shown.kv.key);
				if (!last && status == KS_OK)
					status = dpa_no_memory(err);
			}
		}
		ks_range_result_fini(&result);
	} while (status == KS_OK && count == CHUNK);
	ks_bytes_unref(last);
	return status;
}

static enum ks_status find_differences(struct dpa_resync *resync, struct differences *differences,
				       struct dpa_resync_summary *summary, struct ks_err *err)
{
	static const struct dpa_upside nothing;
	struct merger merger = {.resync = resync, .differences = differences, .summary = summary};
	enum ks_status status = list_hidden(&merger, err);

	if (status == KS_OK)
		status = merge_served(&merger, err);
	if (status == KS_OK)
		status = merge_hidden(&merger, NULL, err);
	while (status == KS_OK && merger.next < resync->count)
		status = compare(resync, &resync->items[merger.next++], &nothing, differences, summary, err);
	free(merger.hidden);
	return status;
}

static int by_revision(const void *a, const void *b)
{
	const struct difference *left = a, *right = b;

	if (left->at != right->at)
		return left->at < right->at ? -1 : 1;
	return ks_slice_cmp(ks_bytes_slice(left->key), ks_bytes_slice(right->key));
}

/* The raw value that is here already, for a key whose listed value is the same. */
static enum ks_status draft_difference(struct dpa_draft *draft, const struct difference *difference, struct ks_err *err)
{
	struct dpa_replica *replica = draft->replica;
	const struct listed *listed = difference->listed;
	struct dpa_upside up = {0};
	struct dpa_shown shown = {0};
	enum ks_status status = KS_OK;

	if (listed && listed->value)
		up.raw = ks_bytes_slice(listed->value);
	if (listed && !listed->value) {
		status = dpa_shown_get(replica, ks_bytes_slice(difference->key), &shown, err);
		if (status == KS_OK)
			up = dpa_upside_of(dpa_origins_find(&replica->origins, ks_bytes_slice(difference->key)),
					   &shown);
	}
	if (listed) {
		up.there = true;
		up.create = listed->create;
		up.mod = listed->mod;
		up.version = listed->version;
	}
	if (status == KS_OK)
		status = dpa_draft_key(draft, ks_bytes_slice(difference->key), &up, difference->touch, err);
	dpa_shown_fini(&shown);
	return status;
}

static enum ks_status apply_group(struct dpa_replica *replica, const struct difference *group, size_t count,
				  int64_t local, struct ks_err *err)
{
	struct dpa_draft draft;
	enum ks_status status = KS_OK;

	dpa_draft_begin(&draft, replica, local, group->at);
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = draft_difference(&draft, &group[i], err);
	if (status == KS_OK)
		return dpa_draft_commit(&draft, err);
	dpa_draft_fini(&draft);
	return status;
}

/* Upstream's own revisions; what is applied stays when a later one fails, and is found again by the next listing. */
static enum ks_status apply_same_history(struct dpa_resync *resync, const struct differences *differences,
					 struct ks_err *err)
{
	struct dpa_replica *replica = resync->replica;
	enum ks_status status = KS_OK;

	for (size_t i = 0, end; i < differences->count && status == KS_OK; i = end) {
		const struct difference *group = &differences->items[i];

		for (end = i + 1; end < differences->count && differences->items[end].at == group->at;)
			end++;
		status = apply_group(replica, group, end - i, dpa_local_of(replica, group->at), err);
		dpa_publish(replica);
		/* Not the last one's: deletes come with it, and until then the listing counts as not applied. */
		if (status == KS_OK && end < differences->count)
			replica->up_revision = group->at;
	}
	if (status == KS_OK && resync->up_revision > replica->up_revision && differences->count == 0)
		status = dpa_raise(replica, dpa_local_of(replica, resync->up_revision), err);
	else if (status == KS_OK && differences->count > 0 &&
		 differences->items[differences->count - 1].at < resync->up_revision) {
		replica->up_revision = differences->items[differences->count - 1].at;
		status = dpa_raise(replica, dpa_local_of(replica, resync->up_revision), err);
	}
	return status;
}

static enum ks_status apply_other_history(struct dpa_resync *resync, const struct differences *differences,
					  struct dpa_resync_summary *summary, struct ks_err *err)
{
	struct dpa_replica *replica = resync->replica;
	struct dpa_draft draft;
	enum ks_status status = KS_OK;
	bool jumped;

	dpa_draft_begin(&draft, replica, dpa_local_next(replica, &jumped), 0);
	for (size_t i = 0; i < differences->count && status == KS_OK; i++) {
		struct difference difference = differences->items[i];

		/* The same value is no event: upstream only counts it otherwise. */
		difference.touch = false;
		status = draft_difference(&draft, &difference, err);
	}
	if (status != KS_OK) {
		dpa_draft_fini(&draft);
		return status;
	}
	/* The transform may show the same value otherwise by now: what counts is what came of it. */
	if (!jumped)
		return dpa_draft_finish(&draft, false, err);
	/* In doubt also without any change: clients may know what was never of this history, and have to list again. */
	summary->jumped = true;
	status = dpa_draft_commit(&draft, err);
	return status == KS_OK ? dpa_after_jump(replica, err) : status;
}

static enum ks_status converge(struct dpa_resync *resync, bool accept_empty, struct dpa_resync_summary *summary,
			       struct ks_err *err)
{
	struct dpa_replica *replica = resync->replica;
	struct differences differences = {0};
	enum ks_status status = find_differences(resync, &differences, summary, err);

	if (status == KS_OK && !resync->has_keys && differences.had_keys && !accept_empty) {
		*summary = (struct dpa_resync_summary){.held = true};
		free_differences(&differences);
		return KS_OK;
	}
	if (differences.count > 1)
		qsort(differences.items, differences.count, sizeof(*differences.items), by_revision);
	if (status == KS_OK)
		status = resync->same_history ? apply_same_history(resync, &differences, err)
					      : apply_other_history(resync, &differences, summary, err);
	free_differences(&differences);
	if (status != KS_OK)
		dpa_rollback(replica);
	return status;
}

/* Under the lock: was the state carried beyond the image while it was compared? */
static bool is_overtaken(const struct dpa_resync *resync)
{
	const struct dpa_replica *replica = resync->replica;

	if (!resync->is_image || !replica->loaded)
		return false;
	if (replica->cluster_id == resync->cluster_id && resync->cluster_id != 0)
		return resync->up_revision < replica->up_revision;
	return resync->confirmed_ms < replica->confirmed_ms;
}

enum ks_status dpa_resync_end(struct dpa_resync *resync, bool accept_empty, struct dpa_resync_summary *summary,
			      struct ks_err *err)
{
	struct dpa_replica *replica = resync->replica;
	enum ks_status status;

	*summary = (struct dpa_resync_summary){0};
	ks_mutex_lock(&replica->lock);
	if (is_overtaken(resync))
		status = ks_fail(err, KS_ABORTED, "the state is newer than the image by now");
	else
		status = replica->loaded ? converge(resync, accept_empty, summary, err) : load(resync, summary, err);
	if (status == KS_OK && !summary->held) {
		replica->cluster_id = resync->cluster_id;
		replica->up_revision = resync->up_revision;
		replica->confirmed_ms = resync->confirmed_ms ? resync->confirmed_ms : dpa_wall_ms();
		/* Upstream's own state is all that clients can know; an image is perhaps older than what they know. */
		if (resync->same_history && !resync->is_image)
			replica->uncertain = false;
		ks_bytes_unref(replica->witness);
		replica->witness = NULL;
	}
	if (!summary->held && replica->loaded)
		dpa_settle(replica);
	summary->revision = replica->revision;
	ks_mutex_unlock(&replica->lock);
	dpa_resync_abort(resync);
	/* A listing of everything leaves much behind. */
	(void)malloc_trim(0);
	return status;
}

/* ---- an image as the listing ---- */

enum ks_status dpa_replica_resync_image(struct dpa_replica *replica, const struct dpa_image *image,
					struct dpa_resync_summary *summary, struct ks_err *err)
{
	struct dpa_resync *resync;
	struct dpa_image plain = {0};
	enum ks_status status = dpa_image_plain(image, &plain, err);
	bool same;

	*summary = (struct dpa_resync_summary){0};
	if (status != KS_OK)
		return status;
	/* Of a smaller prefix it would remove all other keys. */
	if (!dpa_is_of_prefix(replica, image)) {
		dpa_image_fini(&plain);
		return dpa_other_prefix(image, err);
	}
	ks_mutex_lock(&replica->lock);
	same = replica->cluster_id == plain.cluster_id && plain.cluster_id != 0;
	ks_mutex_unlock(&replica->lock);
	resync = dpa_resync_begin(replica, plain.cluster_id, plain.up_revision, same, plain.confirmed_ms, err);
	if (resync)
		resync->is_image = true;
	else
		status = err->status;
	for (size_t i = 0; i < plain.key_count && status == KS_OK; i++) {
		struct ks_kv kv;
		struct dpa_change change;

		KS_ASSERT(ks_kv_decode(ks_bytes_slice(plain.keys[i].kv), &kv));
		change = (struct dpa_change){.revision = kv.mod_revision,
					     .key = kv.key,
					     .value = kv.value,
					     .create_revision = kv.create_revision,
					     .version = kv.version};
		status = dpa_resync_key(resync, &change, err);
	}
	if (status == KS_OK)
		status = dpa_resync_end(resync, false, summary, err);
	else
		dpa_resync_abort(resync);
	dpa_image_fini(&plain);
	return status;
}
