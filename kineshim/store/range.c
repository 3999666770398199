/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Range (spec 1.3) in one view of the state: collect in key order, count, filter, sort, cut, strip.
 *
 * Counting never walks the keys: the newest state is counted by the index, an older one by the newest less what the history
 * says has changed since; only when too much has changed are the keys of the interval looked at. Values are never read
 * here but for sorting by VALUE. The walk over the keys is in scan.c.
 */
#include <stdlib.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "store/store_priv.h"

/* An older revision is counted through the history when at most so many records came after it. */
#define HISTORY_COUNT 8192u

bool ks_interval_contains(const struct ks_interval *interval, struct ks_slice key)
{
	if (interval->end.size == 0)
		return ks_slice_eq(interval->key, key);
	if (ks_slice_cmp(key, interval->key) < 0)
		return false;
	return (interval->end.size == 1 && interval->end.data[0] == 0) || ks_slice_cmp(key, interval->end) < 0;
}

struct collector {
	const struct ks_range_req *req;
	struct ks_range_result *result;
	size_t capacity;
	int64_t *ranks; /* beside result->kvs: what a sort by number needs */
	size_t rank_capacity;
	size_t wanted; /* collect no more than this */
	bool filtered, ranked, strip;
	size_t visible; /* keys seen, whether collected or not */
};

/* ---- collecting ---- */

static bool passes(const struct ks_range_req *req, const struct ks_record *record)
{
	if (req->max_mod_revision && record->revision > req->max_mod_revision)
		return false;
	if (req->min_mod_revision && record->revision < req->min_mod_revision)
		return false;
	if (req->max_create_revision && record->create_revision > req->max_create_revision)
		return false;
	return !req->min_create_revision || record->create_revision >= req->min_create_revision;
}

static struct ks_bytes *encode_stripped(const struct ks_record *record)
{
	return ks_kv_encode(&(struct ks_kv){
		.key = ks_key_slice(record->key),
		.create_revision = record->create_revision,
		.mod_revision = record->revision,
		.version = record->version,
		.lease = record->lease,
	});
}

static int64_t rank_of(const struct ks_record *record, enum ks_sort_target target)
{
	if (target == KS_SORT_VERSION)
		return record->version;
	return target == KS_SORT_CREATE ? record->create_revision : record->revision;
}

static bool collect(struct collector *c, struct ks_record *record)
{
	struct ks_range_result *result = c->result;
	struct ks_kvref ref;

	if (c->filtered && !passes(c->req, record))
		return true;
	if (!ks_grow((void **)&result->kvs, &c->capacity, result->kv_count, sizeof(*result->kvs)))
		return false;
	if (c->ranked) {
		if (!ks_grow((void **)&c->ranks, &c->rank_capacity, result->kv_count, sizeof(*c->ranks)))
			return false;
		c->ranks[result->kv_count] = rank_of(record, c->req->sort_target);
	}
	if (c->strip) {
		ref = (struct ks_kvref){.encoded = encode_stripped(record),
					.loc = {.position = record->position, .sub = record->sub}};
		if (!ref.encoded)
			return false;
	} else {
		ref = ks_record_kvref(record);
	}
	result->kvs[result->kv_count++] = ref;
	return true;
}

/* Exact room when it is known how much comes; less is fine, it grows. */
static bool reserve(struct collector *c, size_t count)
{
	struct ks_range_result *result = c->result;

	if (count == 0)
		return true;
	result->kvs = malloc(count * sizeof(*result->kvs));
	c->capacity = result->kvs ? count : 0;
	return result->kvs != NULL;
}

static bool collect_found(void *ctx, struct ks_record *const *found, uint32_t count)
{
	struct collector *c = ctx;

	c->visible += count;
	for (uint32_t i = 0; i < count && c->result->kv_count < c->wanted; i++) {
		if (!collect(c, found[i]))
			return false;
	}
	return true;
}

/* ---- counting ---- */

/* The visible keys at an older revision: the newest ones, corrected by every key that changed since. */
static bool count_by_history(const struct ks_state *state, const struct ks_interval *interval,
			     const struct ks_range_view *view, int64_t as_of, size_t *count)
{
	struct ks_history_pos pos;
	struct ks_record *record;

	if (state->publishing && view->view == KS_VIEW_COMMITTED)
		return false;
	if (ks_history_count_after(&state->history, as_of, HISTORY_COUNT) > HISTORY_COUNT)
		return false;
	*count = ks_index_count(&state->index, interval, view->view);
	pos = ks_history_seek(&state->history, as_of + 1, 0);
	while ((record = ks_history_next(&state->history, &pos)) != NULL && record->revision <= view->newest) {
		const struct ks_key *key = record->key;
		uint32_t before;

		if (!ks_interval_contains(interval, ks_key_slice(key)))
			continue;
		before = ks_key_count_at(key, as_of);
		if (ks_key_records(key)[before] != record)
			continue; /* not the first change of its key */
		*count += before > 0 && ks_record_live(ks_key_records(key)[before - 1]);
		*count -= ks_record_live(ks_key_at(key, view->newest));
	}
	return true;
}

/* ---- sorting ---- */

struct numbered {
	int64_t number;
	size_t i;
};

struct valued {
	struct ks_slice value;
	size_t i;
};

/* Equal ones stay in key order, whatever the direction. */
static int cmp_place(size_t a, size_t b)
{
	return (a > b) - (a < b);
}

static int cmp_number_up(const void *pa, const void *pb)
{
	const struct numbered *a = pa, *b = pb;

	return a->number != b->number ? (a->number < b->number ? -1 : 1) : cmp_place(a->i, b->i);
}

static int cmp_number_down(const void *pa, const void *pb)
{
	const struct numbered *a = pa, *b = pb;

	return a->number != b->number ? (a->number > b->number ? -1 : 1) : cmp_place(a->i, b->i);
}

static int cmp_value_up(const void *pa, const void *pb)
{
	const struct valued *a = pa, *b = pb;
	int order = ks_slice_cmp(a->value, b->value);

	return order ? order : cmp_place(a->i, b->i);
}

static int cmp_value_down(const void *pa, const void *pb)
{
	const struct valued *a = pa, *b = pb;
	int order = ks_slice_cmp(b->value, a->value);

	return order ? order : cmp_place(a->i, b->i);
}

/* Puts kvs into the order of items[], whose elements hold the old place at 'offset'. */
static bool reorder(struct ks_range_result *result, const void *items, size_t item_size, size_t offset)
{
	struct ks_kvref *sorted = malloc(result->kv_count * sizeof(*sorted));

	if (!sorted)
		return false;
	for (size_t i = 0; i < result->kv_count; i++) {
		size_t from;

		memcpy(&from, (const char *)items + i * item_size + offset, sizeof(from));
		sorted[i] = result->kvs[from];
	}
	free(result->kvs);
	result->kvs = sorted;
	return true;
}

static bool sort_by_number(struct ks_range_result *result, const int64_t *ranks, bool descend)
{
	struct numbered *items = malloc(result->kv_count * sizeof(*items));
	bool ok = items != NULL;

	if (ok) {
		for (size_t i = 0; i < result->kv_count; i++)
			items[i] = (struct numbered){.number = ranks[i], .i = i};
		qsort(items, result->kv_count, sizeof(*items), descend ? cmp_number_down : cmp_number_up);
		ok = reorder(result, items, sizeof(*items), offsetof(struct numbered, i));
	}
	free(items);
	return ok;
}

static bool sort_by_value(struct ks_range_result *result, bool descend)
{
	struct valued *items = malloc(result->kv_count * sizeof(*items));
	bool ok = items != NULL;

	for (size_t i = 0; ok && i < result->kv_count; i++) {
		struct ks_kv kv = {0};

		/* What cannot be decoded sorts as empty; it was checked where it came from. */
		if (!ks_kv_decode(ks_bytes_slice(result->kvs[i].encoded), &kv))
			kv.value = ks_slice_of(NULL, 0);
		items[i] = (struct valued){.value = kv.value, .i = i};
	}
	if (ok) {
		qsort(items, result->kv_count, sizeof(*items), descend ? cmp_value_down : cmp_value_up);
		ok = reorder(result, items, sizeof(*items), offsetof(struct valued, i));
	}
	free(items);
	return ok;
}

static void reverse(struct ks_range_result *result)
{
	for (size_t i = 0, j = result->kv_count; i + 1 < j; i++) {
		struct ks_kvref swap = result->kvs[i];

		result->kvs[i] = result->kvs[--j];
		result->kvs[j] = swap;
	}
}

/* ---- the rest ---- */

static void cut(struct ks_range_result *result, int64_t limit)
{
	result->more = limit > 0 && result->kv_count > (uint64_t)limit;
	while (result->more && result->kv_count > (uint64_t)limit)
		ks_bytes_unref(result->kvs[--result->kv_count].encoded);
}

static bool strip_values(struct ks_range_result *result)
{
	for (size_t i = 0; i < result->kv_count; i++) {
		struct ks_kvref *ref = &result->kvs[i];
		struct ks_bytes *stripped;
		struct ks_kv kv;

		if (!ks_kv_decode(ks_bytes_slice(ref->encoded), &kv))
			continue;
		kv.value.size = 0;
		stripped = ks_kv_encode(&kv);
		if (!stripped)
			return false;
		ks_bytes_unref(ref->encoded);
		ref->encoded = stripped;
	}
	return true;
}

enum ks_status ks_range_result_finish(struct ks_range_result *result, struct ks_err *err)
{
	if (!result->unsorted)
		return KS_OK;
	for (size_t i = 0; i < result->kv_count; i++) {
		if (!result->kvs[i].encoded)
			return ks_fail(err, KS_UNAVAILABLE, "etcdserver: no leader");
	}
	if (result->kv_count > 0 && !sort_by_value(result, result->pending.descend))
		return ks_fail_memory(err);
	cut(result, result->pending.limit);
	if (result->pending.keys_only && !strip_values(result))
		return ks_fail_memory(err);
	result->unsorted = false;
	return KS_OK;
}

static enum ks_status sort_and_cut(struct collector *c, struct ks_err *err)
{
	const struct ks_range_req *req = c->req;
	struct ks_range_result *result = c->result;
	bool descend = req->sort_order == KS_SORT_DESCEND;

	if (req->sort_target == KS_SORT_VALUE) {
		result->unsorted = true;
		result->pending.limit = req->limit;
		result->pending.descend = descend;
		result->pending.keys_only = req->keys_only;
		for (size_t i = 0; i < result->kv_count; i++) {
			if (!result->kvs[i].encoded)
				return KS_OK; /* the caller fetches, and finishes */
		}
		return ks_range_result_finish(result, err);
	}
	if (c->ranked && result->kv_count > 0 && !sort_by_number(result, c->ranks, descend))
		return ks_fail_memory(err);
	if (req->sort_target == KS_SORT_KEY && descend)
		reverse(result);
	cut(result, req->limit);
	return KS_OK;
}

static enum ks_status eval_single(struct ks_store *store, struct collector *c, int64_t as_of)
{
	const struct ks_key *key = ks_index_find(&store->state->index, c->req->interval.key);
	struct ks_record *record = key ? ks_key_at(key, as_of) : NULL;

	if (!ks_record_live(record))
		return KS_OK;
	c->result->count = 1;
	if (c->req->count_only)
		return KS_OK;
	return reserve(c, 1) && collect(c, record) ? KS_OK : KS_RESOURCE_EXHAUSTED;
}

static enum ks_status eval_interval(struct ks_store *store, struct collector *c, const struct ks_range_view *view,
				    int64_t as_of)
{
	const struct ks_state *state = store->state;
	const struct ks_interval *interval = &c->req->interval;
	bool newest = ks_scan_at_newest(state, view, as_of);
	bool counted = true;
	bool unlimited;
	size_t count = 0;
	enum ks_status status = KS_OK;

	if (newest)
		count = ks_index_count(&state->index, interval, view->view);
	else if (c->wanted < SIZE_MAX)
		counted = count_by_history(state, interval, view, as_of, &count);
	else
		counted = false; /* all keys are looked at anyway */
	if (newest && !c->filtered && !reserve(c, count < c->wanted ? count : c->wanted))
		return KS_RESOURCE_EXHAUSTED;
	unlimited = !counted || c->filtered;
	if (c->wanted > 0 || !counted)
		status = ks_scan_visible(store, interval, view, as_of, unlimited ? SIZE_MAX : c->wanted, collect_found,
					 c);
	c->result->count = (int64_t)(counted ? count : c->visible);
	return status;
}

enum ks_status ks_range_eval(struct ks_store *store, const struct ks_range_req *req, const struct ks_range_view *view,
			     int64_t as_of, struct ks_range_result *result, struct ks_err *err)
{
	bool usual_order = req->sort_order == KS_SORT_NONE ||
			   (req->sort_order == KS_SORT_ASCEND && req->sort_target == KS_SORT_KEY);
	struct collector c = {
		.req = req,
		.result = result,
		.wanted = SIZE_MAX,
		.filtered = ks_range_is_filtered(req),
		.ranked = req->sort_target == KS_SORT_VERSION || req->sort_target == KS_SORT_CREATE ||
			  req->sort_target == KS_SORT_MOD,
		.strip = req->keys_only && req->sort_target != KS_SORT_VALUE,
	};
	enum ks_status status;

	*result = (struct ks_range_result){0};
	if (req->count_only)
		c.wanted = 0;
	else if (req->limit > 0 && req->limit < INT32_MAX && usual_order && !c.filtered)
		c.wanted = (size_t)req->limit + 1;
	if (req->interval.end.size == 0)
		status = eval_single(store, &c, as_of);
	else
		status = eval_interval(store, &c, view, as_of);
	if (status == KS_OK && !req->count_only)
		status = sort_and_cut(&c, err);
	else if (status == KS_RESOURCE_EXHAUSTED)
		ks_fail_memory(err);
	if (status != KS_OK)
		ks_range_result_fini(result);
	free(c.ranks);
	return status;
}

enum ks_status ks_store_range(struct ks_store *store, const struct ks_range_req *req, struct ks_range_result *result,
			      int64_t *revision, struct ks_err *err)
{
	enum ks_status status;

	do {
		const struct ks_point *committed;
		struct ks_range_view view = {.view = KS_VIEW_COMMITTED};

		*result = (struct ks_range_result){0};
		ks_lock_read(store);
		committed = &store->state->committed;
		view.newest = *revision = committed->revision;
		if (req->revision > committed->revision)
			status = ks_fail_future(err);
		else if (req->revision > 0 && req->revision < committed->compact_revision)
			status = ks_fail_compacted(err);
		else
			status = ks_range_eval(store, req, &view, req->revision > 0 ? req->revision : view.newest,
					       result, err);
		ks_unlock(store);
		/* Aborted: a compaction overtook it. The newest state is read anew, an older one now gives the error. */
	} while (status == KS_ABORTED);
	if (status == KS_OK)
		KS_COUNT(RANGES, 1);
	return status;
}

size_t ks_store_keys_in(struct ks_store *store, const struct ks_interval *interval)
{
	size_t count;

	ks_lock_read(store);
	count = ks_index_count(&store->state->index, interval, KS_VIEW_COMMITTED);
	ks_unlock(store);
	return count;
}
