/* SPDX-License-Identifier: Apache-2.0 */
#include "mirror/replica.h"

#include <stdlib.h>

#include "base/panic.h"
#include "mirror/board.h"
#include "mirror/prefix.h"
#include "mirror/replica_priv.h"
#include "store/watch_hub.h"

#define HISTORY_EVENTS 100000
#define HISTORY_BYTES ((size_t)256 << 20)
/* Records that one call removes: what an event may have to wait for. */
#define COMPACT_STEP 256
/* Of these the newest one that upstream has is the witness. */
#define WITNESS_LOOKS 64

enum ks_status dpa_no_memory(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- life cycle ---- */

struct dpa_replica *dpa_replica_new(const struct dpa_replica_config *config, struct ks_err *err)
{
	const struct ks_store_config store_config = {.values_kept = true, .sparse_revisions = true};
	struct dpa_replica *replica = ks_xcalloc(1, sizeof(*replica));

	replica->config = *config;
	if (replica->config.history_events == 0)
		replica->config.history_events = HISTORY_EVENTS;
	if (replica->config.history_bytes == 0)
		replica->config.history_bytes = HISTORY_BYTES;
	replica->prefix = ks_xstrdup(config->prefix);
	replica->reports_prefix = ks_xstrdup(config->reports_prefix ? config->reports_prefix : "");
	replica->interval = dpa_prefix_interval(config->prefix, &replica->interval_memory);
	ks_mutex_init(&replica->lock);
	ks_mutex_init(&replica->copy_lock);
	dpa_origins_init(&replica->origins);
	replica->store = ks_store_new(&store_config, err);
	if (!replica->store) {
		dpa_replica_free(replica);
		return NULL;
	}
	replica->revision = ks_store_committed(replica->store).revision;
	return replica;
}

void dpa_replica_free(struct dpa_replica *replica)
{
	if (!replica)
		return;
	ks_store_free(replica->store);
	dpa_origins_fini(&replica->origins);
	for (size_t i = 0; i < replica->overlay_count; i++) {
		ks_bytes_unref(replica->overlay[i].key);
		ks_bytes_unref(replica->overlay[i].value);
	}
	free(replica->overlay);
	ks_bytes_unref(replica->witness);
	ks_mutex_fini(&replica->copy_lock);
	ks_mutex_fini(&replica->lock);
	free(replica->prefix);
	free(replica->reports_prefix);
	free(replica->interval_memory);
	free(replica);
}

struct ks_store *dpa_replica_store(struct dpa_replica *replica)
{
	return replica->store;
}

const char *dpa_replica_prefix(const struct dpa_replica *replica)
{
	return replica->prefix;
}

bool dpa_in_prefix(const struct dpa_replica *replica, struct ks_slice key)
{
	size_t size = strlen(replica->prefix);

	return key.size > 0 && key.size >= size && memcmp(key.data, replica->prefix, size) == 0;
}

/* ---- revisions ---- */

int64_t dpa_local_of(const struct dpa_replica *replica, int64_t up_revision)
{
	int64_t local = up_revision + (replica->revision - replica->up_revision);

	return local > replica->revision ? local : replica->revision + 1;
}

int64_t dpa_local_next(const struct dpa_replica *replica, bool *jumped)
{
	*jumped = replica->uncertain;
	return replica->revision + 1 + (replica->uncertain ? replica->jump : 0);
}

void dpa_publish(struct dpa_replica *replica)
{
	if (!replica->dirty)
		return;
	ks_store_publish(replica->store);
	replica->dirty = false;
}

void dpa_rollback(struct dpa_replica *replica)
{
	struct ks_position committed;

	ks_store_rollback(replica->store);
	committed = ks_store_committed(replica->store);
	replica->position = committed.position;
	replica->revision = committed.revision;
	replica->dirty = false;
}

enum ks_status dpa_raise(struct dpa_replica *replica, int64_t revision, struct ks_err *err)
{
	struct dpa_draft draft;

	if (revision <= replica->revision)
		return KS_OK;
	dpa_draft_begin(&draft, replica, revision, 0);
	return dpa_draft_commit(&draft, err);
}

static enum ks_status compact_at(struct dpa_replica *replica, int64_t revision, struct ks_err *err)
{
	struct ks_effect effect = {.kind = KS_EFFECT_COMPACT, .version = revision};
	const struct ks_entry entry = {.position = replica->position + 1,
				       .revision = replica->revision,
				       .effects = &effect,
				       .effect_count = 1};
	enum ks_status status = ks_store_apply(replica->store, &entry, err);

	if (status != KS_OK)
		return status;
	replica->position = entry.position;
	replica->dirty = true;
	replica->compacting = true;
	dpa_publish(replica);
	return KS_OK;
}

enum ks_status dpa_replica_compact(struct dpa_replica *replica, int64_t revision, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	ks_mutex_lock(&replica->lock);
	if (replica->loaded && revision <= replica->revision &&
	    revision > ks_store_committed(replica->store).compact_revision)
		status = compact_at(replica, revision, err);
	ks_mutex_unlock(&replica->lock);
	return status;
}

enum ks_status dpa_after_jump(struct dpa_replica *replica, struct ks_err *err)
{
	enum ks_status status;

	dpa_publish(replica);
	replica->uncertain = false;
	status = compact_at(replica, replica->revision, err);
	/* Who waits for a revision in the gap learns by asking again. */
	ks_watch_hub_reset(ks_store_hub(replica->store), replica->revision);
	return status;
}

/* ---- after a publish ---- */

static bool is_since(const struct dpa_replica *replica, const struct dpa_history_mark *mark, uint64_t events,
		     uint64_t bytes)
{
	return replica->events - mark->events >= events || replica->bytes - mark->bytes >= bytes;
}

/* As many marks for the events as for the bytes are within what is kept; an older one is not needed. */
static void set_mark(struct dpa_replica *replica)
{
	uint64_t parts = DPA_HISTORY_MARKS / 2 - 2;
	size_t last = replica->mark_count;

	if (last > 0 && !is_since(replica, &replica->marks[last - 1], replica->config.history_events / parts + 1,
				  replica->config.history_bytes / parts + 1))
		return;
	if (last == DPA_HISTORY_MARKS) {
		memmove(replica->marks, replica->marks + 1, sizeof(replica->marks) - sizeof(*replica->marks));
		last--;
	}
	replica->marks[last] = (struct dpa_history_mark){replica->revision, replica->events, replica->bytes};
	replica->mark_count = last + 1;
}

/* Goes on with a compaction, twice as fast as history grows, so that it ends also when very much comes at once. */
static void remove_old(struct dpa_replica *replica)
{
	uint64_t steps = 1 + 2 * (replica->events - replica->settled_events) / COMPACT_STEP;

	for (; replica->compacting && steps > 0; steps--)
		replica->compacting = ks_store_compact_step(replica->store, COMPACT_STEP, NULL, NULL);
}

/* Old events go once there are more than wanted, or larger ones: back to the newest mark that leaves enough. */
static void bound_history(struct dpa_replica *replica)
{
	uint64_t most = replica->config.history_events, most_bytes = replica->config.history_bytes;
	size_t old = 0;

	set_mark(replica);
	while (old + 1 < replica->mark_count && is_since(replica, &replica->marks[old + 1], most, most_bytes))
		old++;
	if (is_since(replica, &replica->marks[old], most, most_bytes) &&
	    replica->marks[old].revision > ks_store_committed(replica->store).compact_revision) {
		struct ks_err err;

		if (compact_at(replica, replica->marks[old].revision, &err) == KS_OK) {
			replica->mark_count -= old + 1;
			memmove(replica->marks, replica->marks + old + 1,
				replica->mark_count * sizeof(*replica->marks));
		}
	}
	remove_old(replica);
	replica->settled_events = replica->events;
}

static void release_waits(struct dpa_replica *replica)
{
	struct dpa_wait **at = &replica->waits, *wait;

	while ((wait = *at)) {
		if (wait->up_revision > replica->up_revision) {
			at = &wait->next;
			continue;
		}
		*at = wait->next;
		wait->reached(wait);
	}
}

void dpa_settle(struct dpa_replica *replica)
{
	dpa_publish(replica);
	replica->changes++;
	release_waits(replica);
	bound_history(replica);
	if (replica->config.changed)
		replica->config.changed(replica->config.changed_ctx);
}

/* ---- upstream's events ---- */

static void forget_witness(struct dpa_replica *replica)
{
	ks_bytes_unref(replica->witness);
	replica->witness = NULL;
}

/* A key that was put lately is the witness as long as it lives. */
static void note_witness(struct dpa_replica *replica, const struct dpa_change *changes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct dpa_change *change = &changes[i];

		if (change->is_delete) {
			if (replica->witness && ks_slice_eq(ks_bytes_slice(replica->witness), change->key))
				forget_witness(replica);
		} else if (i + 1 == count ||
			   (replica->witness && ks_slice_eq(ks_bytes_slice(replica->witness), change->key))) {
			forget_witness(replica);
			replica->witness = ks_bytes_copy(change->key);
			replica->witness_mod = change->revision;
		}
	}
}

static enum ks_status check_changes(const struct dpa_replica *replica, const struct dpa_change *changes, size_t count,
				    int64_t up_revision, struct ks_err *err)
{
	if (up_revision > DPA_UP_REVISION_MAX)
		return ks_fail(err, KS_INVALID_ARGUMENT, "upstream's revision is out of range");
	for (size_t i = 0; i < count; i++) {
		const struct dpa_change *change = &changes[i];

		if (!dpa_in_prefix(replica, change->key))
			return ks_fail(err, KS_INVALID_ARGUMENT, "upstream sent a key outside of the prefix");
		if (change->revision < 1 || change->revision > up_revision ||
		    (i > 0 && change->revision < changes[i - 1].revision))
			return ks_fail(err, KS_INVALID_ARGUMENT, "upstream's revisions are out of order");
		if (!change->is_delete &&
		    (change->create_revision < 1 || change->create_revision > change->revision || change->version < 1))
			return ks_fail(err, KS_INVALID_ARGUMENT, "upstream sent a key with impossible revisions");
	}
	return KS_OK;
}

/* Nothing of ours changes what keys show: upstream's events can be taken as they are. */
static bool is_plain(const struct dpa_replica *replica, int64_t local, int64_t up_revision)
{
	return local == up_revision && replica->overlay_count == 0 && !replica->config.transform &&
	       replica->origins.count == 0;
}

static enum ks_status draft_change(struct dpa_draft *draft, const struct dpa_change *change, bool plain,
				   struct ks_err *err)
{
	const struct dpa_upside up = {.there = !change->is_delete,
				      .create = change->create_revision,
				      .mod = change->revision,
				      .version = change->version,
				      .raw = change->value};

	/* A delete must be of a key that is there, which only the published view tells. */
	if (plain && !change->is_delete)
		return dpa_draft_plain(draft, change, err);
	return dpa_draft_key(draft, change->key, &up, true, err);
}

/* One upstream revision. */
static enum ks_status apply_revision(struct dpa_replica *replica, const struct dpa_change *changes, size_t count,
				     struct ks_err *err)
{
	int64_t up_revision = changes[0].revision, local = dpa_local_of(replica, up_revision);
	bool plain = is_plain(replica, local, up_revision);
	enum ks_status status = KS_OK;
	struct dpa_draft draft;

	dpa_draft_begin(&draft, replica, local, up_revision);
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = draft_change(&draft, &changes[i], plain, err);
	if (status != KS_OK)
		dpa_draft_fini(&draft);
	else
		status = dpa_draft_commit(&draft, err);
	if (status == KS_OK)
		replica->up_revision = up_revision;
	return status;
}

enum ks_status dpa_replica_apply(struct dpa_replica *replica, const struct dpa_change *changes, size_t count,
				 int64_t up_revision, struct ks_err *err)
{
	enum ks_status status = check_changes(replica, changes, count, up_revision, err);
	size_t i = 0;

	if (status != KS_OK)
		return status;
	ks_mutex_lock(&replica->lock);
	if (!replica->loaded)
		status = ks_fail(err, KS_FAILED_PRECONDITION, "nothing was listed yet");
	while (status == KS_OK && i < count) {
		size_t end = i + 1;

		while (end < count && changes[end].revision == changes[i].revision)
			end++;
		if (changes[i].revision > replica->up_revision) {
			status = apply_revision(replica, changes + i, end - i, err);
			if (status == KS_OK)
				note_witness(replica, changes + i, end - i);
		}
		i = end;
	}
	if (status == KS_OK && up_revision > replica->up_revision) {
		status = dpa_raise(replica, dpa_local_of(replica, up_revision), err);
		if (status == KS_OK)
			replica->up_revision = up_revision;
	}
	if (status == KS_OK && replica->up_revision >= replica->certain_at)
		replica->uncertain = false;
	/* What came before an error is whole revisions: it stays. */
	replica->confirmed_ms = dpa_wall_ms();
	dpa_settle(replica);
	ks_mutex_unlock(&replica->lock);
	return status;
}

enum ks_status dpa_replica_progress(struct dpa_replica *replica, int64_t up_revision, struct ks_err *err)
{
	return dpa_replica_apply(replica, NULL, 0, up_revision, err);
}

void dpa_replica_expect(struct dpa_replica *replica, int64_t up_revision)
{
	ks_mutex_lock(&replica->lock);
	replica->certain_at = up_revision;
	ks_mutex_unlock(&replica->lock);
}

void dpa_replica_confirm(struct dpa_replica *replica)
{
	ks_mutex_lock(&replica->lock);
	replica->confirmed_ms = dpa_wall_ms();
	ks_mutex_unlock(&replica->lock);
}

/* ---- the point ---- */

enum ks_status dpa_served_after(struct dpa_replica *replica, struct ks_slice after, int64_t limit,
				struct ks_range_result *result, struct ks_err *err)
{
	struct ks_range_req req = {.interval = replica->interval, .limit = limit, .serializable = true};
	struct ks_bytes *start = NULL;
	int64_t revision;
	enum ks_status status;

	*result = (struct ks_range_result){0};
	if (after.size > 0) {
		start = ks_bytes_new(after.size + 1);
		if (!start)
			return dpa_no_memory(err);
		memcpy(start->data, after.data, after.size);
		start->data[after.size] = 0;
		req.interval.key = ks_bytes_slice(start);
	}
	status = ks_store_range(replica->store, &req, result, &revision, err);
	ks_bytes_unref(start);
	return status;
}

/* Among the keys that changed last, one that upstream has. */
static void find_witness(struct dpa_replica *replica)
{
	const struct ks_range_req req = {.interval = replica->interval,
					 .limit = WITNESS_LOOKS,
					 .sort_order = KS_SORT_DESCEND,
					 .sort_target = KS_SORT_MOD,
					 .serializable = true};
	struct ks_range_result result = {0};
	struct ks_err err;
	int64_t revision;

	if (ks_store_range(replica->store, &req, &result, &revision, &err) != KS_OK)
		return;
	for (size_t i = 0; i < result.kv_count && !replica->witness; i++) {
		struct dpa_shown shown = {.held = result.kvs[i].encoded};
		struct dpa_upside up;

		if (!shown.held || !ks_kv_decode(ks_bytes_slice(shown.held), &shown.kv))
			continue;
		up = dpa_upside_of(dpa_origins_find(&replica->origins, shown.kv.key), &shown);
		if (!up.there)
			continue;
		replica->witness = ks_bytes_copy(shown.kv.key);
		replica->witness_mod = up.mod;
	}
	ks_range_result_fini(&result);
}

static size_t count_keys(struct dpa_replica *replica)
{
	const struct ks_range_req req = {.interval = replica->interval, .count_only = true, .serializable = true};
	struct ks_range_result result = {0};
	struct ks_err err;
	int64_t revision;
	size_t count = 0;

	if (ks_store_range(replica->store, &req, &result, &revision, &err) == KS_OK)
		count = (size_t)result.count;
	ks_range_result_fini(&result);
	return count + replica->origins.hidden - replica->origins.local_only;
}

void dpa_replica_point(struct dpa_replica *replica, struct dpa_point *point)
{
	ks_mutex_lock(&replica->lock);
	if (!replica->witness && replica->loaded)
		find_witness(replica);
	*point = (struct dpa_point){
		.loaded = replica->loaded,
		.cluster_id = replica->cluster_id,
		.up_revision = replica->up_revision,
		.revision = replica->revision,
		.confirmed_ms = replica->confirmed_ms,
		.changes = replica->changes,
		.key_changes = replica->key_changes,
		.keys = replica->loaded ? count_keys(replica) : 0,
		.overlaid = replica->origins.overlaid,
		.transformed = replica->origins.transformed,
		.witness = ks_bytes_ref(replica->witness),
		.witness_mod = replica->witness ? replica->witness_mod : 0,
	};
	ks_mutex_unlock(&replica->lock);
}

void dpa_replica_revisions(struct dpa_replica *replica, int64_t *up_revision, int64_t *revision)
{
	ks_mutex_lock(&replica->lock);
	*up_revision = replica->up_revision;
	*revision = replica->revision;
	ks_mutex_unlock(&replica->lock);
}

void dpa_point_fini(struct dpa_point *point)
{
	ks_bytes_unref(point->witness);
	point->witness = NULL;
}

bool dpa_replica_numbers(struct dpa_replica *replica, struct ks_slice key, struct dpa_numbers *numbers)
{
	const struct dpa_origin *origin;
	struct dpa_upside up = {0};
	struct dpa_shown shown;
	struct ks_err err;

	*numbers = (struct dpa_numbers){0};
	ks_mutex_lock(&replica->lock);
	if (dpa_shown_get(replica, key, &shown, &err) == KS_OK) {
		origin = dpa_origins_find(&replica->origins, key);
		up = dpa_upside_of(origin, &shown);
		if (up.there)
			*numbers = (struct dpa_numbers){
				.up_create = up.create, .up_mod = up.mod, .up_version = up.version};
		numbers->create = shown.kv.create_revision;
		numbers->mod = shown.kv.mod_revision;
		numbers->version = shown.kv.version;
		numbers->altered = origin && (origin->overlaid || origin->transformed);
		dpa_shown_fini(&shown);
	}
	ks_mutex_unlock(&replica->lock);
	return up.there;
}

/* ---- waiting ---- */

void dpa_replica_wait(struct dpa_replica *replica, struct dpa_wait *wait)
{
	ks_mutex_lock(&replica->lock);
	wait->next = replica->waits;
	replica->waits = wait;
	release_waits(replica);
	ks_mutex_unlock(&replica->lock);
}

bool dpa_replica_unwait(struct dpa_replica *replica, struct dpa_wait *wait)
{
	bool found = false;

	ks_mutex_lock(&replica->lock);
	for (struct dpa_wait **at = &replica->waits; *at && !found; at = &(*at)->next) {
		if (*at != wait)
			continue;
		*at = wait->next;
		found = true;
		break;
	}
	ks_mutex_unlock(&replica->lock);
	return found;
}
