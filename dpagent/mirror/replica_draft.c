/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a key shows: raw, overlay, transform, in this order. A draft collects what that changes for some keys, becomes one entry of the
 * store, and only when the store took it, changes of the origins.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "mirror/replica_priv.h"

#define VALUE_MOST ((size_t)256 << 20) /* a transformed value */
#define RECORD_BYTES 128               /* about what the store has of a record besides */

/* ---- a key as served, and as upstream has it ---- */

enum ks_status dpa_shown_get(struct dpa_replica *replica, struct ks_slice key, struct dpa_shown *shown,
			     struct ks_err *err)
{
	const struct ks_range_req req = {.interval.key = key, .serializable = true};
	struct ks_range_result result = {0};
	int64_t revision;
	enum ks_status status = ks_store_range(replica->store, &req, &result, &revision, err);

	*shown = (struct dpa_shown){0};
	if (status != KS_OK)
		return status;
	if (result.kv_count > 0 && result.kvs[0].encoded) {
		shown->held = ks_bytes_ref(result.kvs[0].encoded);
		KS_ASSERT(ks_kv_decode(ks_bytes_slice(shown->held), &shown->kv));
	}
	ks_range_result_fini(&result);
	return KS_OK;
}

void dpa_shown_fini(struct dpa_shown *shown)
{
	ks_bytes_unref(shown->held);
	*shown = (struct dpa_shown){0};
}

struct dpa_upside dpa_upside_of(const struct dpa_origin *origin, const struct dpa_shown *shown)
{
	struct dpa_upside up = {.there = shown->held != NULL,
				.create = shown->kv.create_revision,
				.mod = shown->kv.mod_revision,
				.version = shown->kv.version,
				.raw = shown->kv.value};

	if (!origin)
		return up;
	up.there = origin->up_mod != 0;
	up.create = origin->up_create;
	up.mod = origin->up_mod;
	up.version = origin->up_version;
	if (origin->raw)
		up.raw = ks_bytes_slice(origin->raw);
	return up;
}

/* ---- the draft ---- */

void dpa_draft_begin(struct dpa_draft *draft, struct dpa_replica *replica, int64_t revision, int64_t up_revision)
{
	*draft = (struct dpa_draft){.replica = replica, .revision = revision, .up_revision = up_revision};
}

static void free_pending(struct dpa_pending *pending)
{
	ks_bytes_unref(pending->origin.key);
	ks_bytes_unref(pending->origin.raw);
	ks_bytes_unref(pending->value);
}

void dpa_draft_fini(struct dpa_draft *draft)
{
	for (size_t i = 0; i < draft->pending_count; i++)
		free_pending(&draft->pending[i]);
	free(draft->pending);
	free(draft->effects);
	*draft = (struct dpa_draft){0};
}

static bool grow(void **items, size_t *capacity, size_t count, size_t item_size)
{
	size_t wanted = *capacity ? *capacity * 2 : 8;
	void *grown;

	if (count < *capacity)
		return true;
	grown = reallocarray(*items, wanted, item_size);
	if (!grown)
		return false;
	*items = grown;
	*capacity = wanted;
	return true;
}

static struct ks_effect *new_effect(struct dpa_draft *draft)
{
	if (!grow((void **)&draft->effects, &draft->effect_capacity, draft->effect_count, sizeof(*draft->effects)))
		return NULL;
	return &draft->effects[draft->effect_count++];
}

enum ks_status dpa_draft_plain(struct dpa_draft *draft, const struct dpa_change *change, struct ks_err *err)
{
	struct ks_effect *effect = new_effect(draft);

	if (!effect)
		return dpa_no_memory(err);
	*effect = (struct ks_effect){.kind = change->is_delete ? KS_EFFECT_DELETE : KS_EFFECT_PUT, .key = change->key};
	if (!change->is_delete) {
		effect->value = change->value;
		effect->create_revision = change->create_revision;
		effect->version = change->version;
	}
	return KS_OK;
}

/* What the key is to show: false for nothing. The value is raw, the overlay's, or in 'made'. */
struct wanted {
	bool there, overlaid, transformed;
	struct ks_slice value;
	struct ks_buf made;
};

static enum ks_status want(struct dpa_replica *replica, struct ks_slice key, const struct dpa_upside *up,
			   struct wanted *wanted, struct ks_err *err)
{
	const struct dpa_overlay_entry *overlay = dpa_overlay_of(replica, key);

	*wanted = (struct wanted){.there = up->there, .value = up->raw, .overlaid = overlay != NULL};
	ks_buf_init(&wanted->made, VALUE_MOST);
	if (overlay) {
		wanted->there = overlay->value != NULL;
		wanted->value = ks_bytes_slice(overlay->value);
	}
	if (!replica->config.transform)
		return KS_OK;
	wanted->transformed = replica->config.transform(replica->config.transform_ctx, key,
							wanted->there ? &wanted->value : NULL, &wanted->made) &&
			      wanted->there;
	if (wanted->made.failed)
		return dpa_no_memory(err);
	if (wanted->transformed)
		wanted->value = ks_slice_of(wanted->made.data, wanted->made.size);
	return KS_OK;
}

/* The numbers that a put of ours shows. */
static void count_versions(const struct dpa_draft *draft, const struct dpa_upside *up, const struct wanted *wanted,
			   const struct dpa_shown *shown, struct ks_effect *effect)
{
	if (up->there && !wanted->overlaid && draft->up_revision == draft->revision && up->mod == draft->revision) {
		effect->create_revision = up->create;
		effect->version = up->version;
	} else if (shown->held) {
		effect->create_revision = shown->kv.create_revision;
		effect->version = shown->kv.version + 1;
	} else {
		effect->create_revision = draft->revision;
		effect->version = 1;
	}
}

static struct dpa_pending *new_pending(struct dpa_draft *draft, struct ks_slice key)
{
	struct dpa_pending *pending;

	if (!grow((void **)&draft->pending, &draft->pending_capacity, draft->pending_count, sizeof(*draft->pending)))
		return NULL;
	pending = &draft->pending[draft->pending_count];
	*pending = (struct dpa_pending){.origin.key = ks_bytes_copy(key)};
	if (!pending->origin.key)
		return NULL;
	draft->pending_count++;
	return pending;
}

/* 'create', 'mod' and 'version' are the served ones. */
static bool set_origin(struct dpa_pending *pending, const struct dpa_upside *up, const struct wanted *wanted,
		       int64_t create, int64_t mod, int64_t version)
{
	struct dpa_origin *origin = &pending->origin;
	bool differs = up->there && (!wanted->there || !ks_slice_eq(up->raw, wanted->value));

	origin->hidden = up->there && !wanted->there;
	origin->overlaid = wanted->overlaid;
	origin->transformed = wanted->transformed;
	if (up->there) {
		origin->up_create = up->create;
		origin->up_mod = up->mod;
		origin->up_version = up->version;
	}
	pending->keep = wanted->there || up->there;
	if (pending->keep)
		pending->keep = !up->there || wanted->overlaid || wanted->transformed || differs ||
				up->create != create || up->mod != mod || up->version != version;
	if (!pending->keep || !differs)
		return true;
	origin->raw = ks_bytes_copy(up->raw);
	return origin->raw != NULL;
}

static enum ks_status stage(struct dpa_draft *draft, struct ks_slice key, const struct dpa_upside *up, bool touch,
			    const struct dpa_shown *shown, const struct wanted *wanted, struct ks_err *err)
{
	struct dpa_pending *pending = new_pending(draft, key);
	int64_t create = shown->kv.create_revision, mod = shown->kv.mod_revision, version = shown->kv.version;
	struct ks_effect *effect;

	if (!pending)
		return dpa_no_memory(err);
	if (wanted->there && (!shown->held || !ks_slice_eq(shown->kv.value, wanted->value) ||
			      (touch && up->there && !wanted->overlaid))) {
		pending->value = ks_bytes_copy(wanted->value);
		effect = pending->value ? new_effect(draft) : NULL;
		if (!effect)
			return dpa_no_memory(err);
		*effect = (struct ks_effect){.kind = KS_EFFECT_PUT,
					     .key = ks_bytes_slice(pending->origin.key),
					     .value = ks_bytes_slice(pending->value)};
		count_versions(draft, up, wanted, shown, effect);
		create = effect->create_revision;
		mod = draft->revision;
		version = effect->version;
	} else if (!wanted->there && shown->held) {
		effect = new_effect(draft);
		if (!effect)
			return dpa_no_memory(err);
		*effect = (struct ks_effect){.kind = KS_EFFECT_DELETE, .key = ks_bytes_slice(pending->origin.key)};
	}
	return set_origin(pending, up, wanted, create, mod, version) ? KS_OK : dpa_no_memory(err);
}

enum ks_status dpa_draft_key(struct dpa_draft *draft, struct ks_slice key, const struct dpa_upside *up, bool touch,
			     struct ks_err *err)
{
	struct wanted wanted;
	struct dpa_shown shown;
	enum ks_status status;

	dpa_publish(draft->replica);
	status = dpa_shown_get(draft->replica, key, &shown, err);
	if (status != KS_OK)
		return status;
	status = want(draft->replica, key, up, &wanted, err);
	if (status == KS_OK)
		status = stage(draft, key, up, touch, &shown, &wanted, err);
	ks_buf_fini(&wanted.made);
	dpa_shown_fini(&shown);
	return status;
}

static bool begins_with(struct ks_slice key, const char *text)
{
	return key.size >= strlen(text) && memcmp(key.data, text, strlen(text)) == 0;
}

static bool is_report(const struct dpa_replica *replica, struct ks_slice key)
{
	size_t size = strlen(replica->reports_prefix);

	if (size == 0 || !begins_with(key, replica->reports_prefix))
		return false;
	key = ks_slice_of(key.data + size, key.size - size);
	return begins_with(key, "/nodes/") || begins_with(key, "/live/");
}

static void note_keys(struct dpa_replica *replica, const struct dpa_draft *draft)
{
	bool news = false;

	for (size_t i = 0; i < draft->effect_count; i++) {
		struct ks_slice key = draft->effects[i].key;

		dpa_record_change(replica, key);
		replica->bytes += key.size + draft->effects[i].value.size + RECORD_BYTES;
		news = news || !is_report(replica, key);
	}
	for (size_t i = 0; i < draft->pending_count; i++) {
		struct ks_slice key = ks_bytes_slice(draft->pending[i].origin.key);

		dpa_record_change(replica, key);
		news = news || !is_report(replica, key);
	}
	replica->events += draft->effect_count;
	replica->key_changes += news;
}

enum ks_status dpa_draft_commit(struct dpa_draft *draft, struct ks_err *err)
{
	struct dpa_replica *replica = draft->replica;
	struct ks_effect noop = {.kind = KS_EFFECT_NOOP};
	struct ks_entry entry = {
		.position = replica->position + 1,
		.revision = draft->revision,
		.effects = draft->effect_count ? draft->effects : &noop,
		.effect_count = draft->effect_count ? draft->effect_count : 1,
	};
	enum ks_status status = KS_OK;

	if (!dpa_origins_reserve(&replica->origins, draft->pending_count))
		status = dpa_no_memory(err);
	if (status == KS_OK && (draft->effect_count > 0 || draft->revision > replica->revision)) {
		status = ks_store_apply(replica->store, &entry, err);
		if (status == KS_OK) {
			replica->position = entry.position;
			replica->revision = entry.revision;
			replica->dirty = true;
		}
	}
	if (status == KS_OK) {
		note_keys(replica, draft);
		for (size_t i = 0; i < draft->pending_count; i++) {
			struct dpa_pending *pending = &draft->pending[i];

			if (!pending->keep) {
				dpa_origins_remove(&replica->origins, ks_bytes_slice(pending->origin.key));
			} else if (dpa_origins_set(&replica->origins, &pending->origin)) {
				pending->origin.key = pending->origin.raw = NULL; /* taken over */
			} else {
				/* Of a few bytes, with the slot reserved: as good as never; the next verification repairs it. */
				replica->key_changes++;
			}
		}
	}
	dpa_draft_fini(draft);
	return status;
}
