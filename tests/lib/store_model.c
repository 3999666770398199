/* SPDX-License-Identifier: Apache-2.0 */
/* See store_model.h. Written from the specification, without a look at how the store does it. */
#include "tests/lib/store_model.h"

#include <stdlib.h>

#include "base/panic.h"
#include "store/crc32c.h"

void model_init(struct model *model)
{
	*model = (struct model){.revision = 1, .compact_revision = -1};
}

void model_fini(struct model *model)
{
	for (size_t i = 0; i < model->count; i++) {
		ks_bytes_unref(model->versions[i].key);
		ks_bytes_unref(model->versions[i].value);
	}
	free(model->versions);
	model_init(model);
}

void model_copy(struct model *to, const struct model *from)
{
	model_fini(to);
	*to = *from;
	to->capacity = from->count;
	to->versions = ks_xmalloc((from->count + 1) * sizeof(*to->versions));
	for (size_t i = 0; i < from->count; i++) {
		to->versions[i] = from->versions[i];
		ks_bytes_ref(to->versions[i].key);
		ks_bytes_ref(to->versions[i].value);
	}
}

static struct model_version *add(struct model *model, const struct model_version *version)
{
	if (model->count >= model->capacity) {
		model->capacity = model->capacity * 2 + 16;
		model->versions = ks_xrealloc(model->versions, model->capacity * sizeof(*model->versions));
	}
	model->versions[model->count] = *version;
	return &model->versions[model->count++];
}

const struct model_version *model_at(const struct model *model, struct ks_slice key, int64_t revision)
{
	for (size_t i = model->count; i-- > 0;) {
		if (model->versions[i].revision <= revision && ks_slice_eq(ks_bytes_slice(model->versions[i].key), key))
			return &model->versions[i];
	}
	return NULL;
}

static const struct model_version *live_at(const struct model *model, struct ks_slice key, int64_t revision)
{
	const struct model_version *version = model_at(model, key, revision);

	return version && version->create_revision ? version : NULL;
}

bool model_has_lease(const struct model *model, int64_t id)
{
	for (size_t i = 0; i < model->lease_count; i++) {
		if (model->leases[i].id == id)
			return true;
	}
	return false;
}

struct ks_bytes *model_encode(const struct model_version *version, bool keys_only)
{
	struct ks_kv kv = {.key = ks_bytes_slice(version->key), .mod_revision = version->revision};
	struct ks_bytes *encoded;

	if (version->create_revision) {
		kv.create_revision = version->create_revision;
		kv.version = version->version;
		kv.lease = version->lease;
		if (!keys_only)
			kv.value = ks_bytes_slice(version->value);
	}
	encoded = ks_kv_encode(&kv);
	KS_ASSERT(encoded);
	return encoded;
}

/* ---- range ---- */

static bool inside(const struct ks_interval *interval, struct ks_slice key)
{
	if (interval->end.size == 0)
		return ks_slice_eq(key, interval->key);
	if (interval->end.size == 1 && interval->end.data[0] == 0)
		return ks_slice_cmp(key, interval->key) >= 0;
	return ks_slice_cmp(key, interval->key) >= 0 && ks_slice_cmp(key, interval->end) < 0;
}

static int by_key(const void *a, const void *b)
{
	const struct model_version *const *x = a, *const *y = b;

	return ks_slice_cmp(ks_bytes_slice((*x)->key), ks_bytes_slice((*y)->key));
}

/* Visible versions of the interval in key order. */
static const struct model_version **visible(const struct model *model, const struct ks_interval *interval,
					    int64_t revision, size_t *count)
{
	const struct model_version **found = ks_xmalloc((model->count + 1) * sizeof(struct model_version *));

	*count = 0;
	for (size_t i = 0; i < model->count; i++) {
		const struct model_version *version = &model->versions[i];
		struct ks_slice key = ks_bytes_slice(version->key);

		if (version->create_revision && inside(interval, key) && model_at(model, key, revision) == version)
			found[(*count)++] = version;
	}
	qsort(found, *count, sizeof(struct model_version *), by_key);
	return found;
}

static int cmp_by(const struct model_version *a, const struct model_version *b, enum ks_sort_target target)
{
	int64_t x = 0, y = 0;

	switch (target) {
	case KS_SORT_KEY:
		return ks_slice_cmp(ks_bytes_slice(a->key), ks_bytes_slice(b->key));
	case KS_SORT_VALUE:
		return ks_slice_cmp(ks_bytes_slice(a->value), ks_bytes_slice(b->value));
	case KS_SORT_VERSION:
		x = a->version, y = b->version;
		break;
	case KS_SORT_CREATE:
		x = a->create_revision, y = b->create_revision;
		break;
	case KS_SORT_MOD:
		x = a->revision, y = b->revision;
		break;
	}
	return (x > y) - (x < y);
}

/* Insertion sort: stable, so equal ones stay in key order. */
static void sort(const struct model_version **kvs, size_t count, enum ks_sort_target target, bool descend)
{
	for (size_t i = 1; i < count; i++) {
		const struct model_version *moving = kvs[i];
		size_t j = i;

		for (; j > 0; j--) {
			int order = cmp_by(kvs[j - 1], moving, target);

			if (descend ? order >= 0 : order <= 0)
				break;
			kvs[j] = kvs[j - 1];
		}
		kvs[j] = moving;
	}
}

static void range_at(const struct model *model, const struct ks_range_req *req, int64_t revision,
		     struct ks_range_result *result)
{
	const struct model_version **kvs;
	bool usual = req->sort_order == KS_SORT_NONE ||
		     (req->sort_target == KS_SORT_KEY && req->sort_order == KS_SORT_ASCEND);
	bool filters =
		req->max_mod_revision || req->min_mod_revision || req->max_create_revision || req->min_create_revision;
	size_t count, kept = 0;

	*result = (struct ks_range_result){0};
	kvs = visible(model, &req->interval, revision, &count);
	result->count = (int64_t)count;
	if (req->count_only)
		count = 0;
	if (usual && !filters && req->limit > 0 && count > (size_t)req->limit + 1)
		count = (size_t)req->limit + 1;
	for (size_t i = 0; i < count; i++) {
		const struct model_version *kv = kvs[i];

		if ((req->max_mod_revision && kv->revision > req->max_mod_revision) ||
		    (req->min_mod_revision && kv->revision < req->min_mod_revision) ||
		    (req->max_create_revision && kv->create_revision > req->max_create_revision) ||
		    (req->min_create_revision && kv->create_revision < req->min_create_revision))
			continue;
		kvs[kept++] = kv;
	}
	if (req->sort_order != KS_SORT_NONE || req->sort_target != KS_SORT_KEY)
		sort(kvs, kept, req->sort_target, req->sort_order == KS_SORT_DESCEND);
	if (req->limit > 0 && kept > (size_t)req->limit) {
		kept = (size_t)req->limit;
		result->more = true;
	}
	result->kvs = ks_xcalloc(kept + 1, sizeof(*result->kvs));
	result->kv_count = kept;
	for (size_t i = 0; i < kept; i++)
		result->kvs[i].encoded = model_encode(kvs[i], req->keys_only);
	free(kvs);
}

enum ks_status model_range(const struct model *model, const struct ks_range_req *req, struct ks_range_result *result)
{
	*result = (struct ks_range_result){0};
	if (req->revision > model->revision)
		return KS_OUT_OF_RANGE;
	if (req->revision > 0 && req->revision < model->compact_revision)
		return KS_OUT_OF_RANGE;
	range_at(model, req, req->revision > 0 ? req->revision : INT64_MAX, result);
	return KS_OK;
}

/* ---- txn ---- */

struct run {
	struct model *model;
	struct ks_effects *effects; /* NULL: read only */
	int64_t begin;
	int32_t changes;
	bool path[256];
	size_t path_count, next;
};

static bool decide(int order, int result)
{
	if (result == KS_CMP_EQUAL)
		return order == 0;
	if (result == KS_CMP_GREATER)
		return order > 0;
	if (result == KS_CMP_LESS)
		return order < 0;
	if (result == KS_CMP_NOT_EQUAL)
		return order != 0;
	return true;
}

static bool holds_for(const struct ks_compare *compare, const struct model_version *version)
{
	int64_t actual = 0;

	if (compare->target == KS_CMP_VALUE) {
		if (!version)
			return false;
		return decide(ks_slice_cmp(ks_bytes_slice(version->value), compare->value), compare->result);
	}
	if (compare->target < 0 || compare->target > KS_CMP_LEASE)
		return decide(0, compare->result);
	if (version && compare->target == KS_CMP_VERSION)
		actual = version->version;
	if (version && compare->target == KS_CMP_CREATE)
		actual = version->create_revision;
	if (version && compare->target == KS_CMP_MOD)
		actual = version->revision;
	if (version && compare->target == KS_CMP_LEASE)
		actual = version->lease;
	return decide(actual < compare->number ? -1 : actual > compare->number, compare->result);
}

static bool holds(const struct model *model, const struct ks_compare *compare)
{
	size_t count;
	const struct model_version **kvs = visible(model, &compare->interval, INT64_MAX, &count);
	bool all = count > 0 || holds_for(compare, NULL);

	for (size_t i = 0; i < count; i++)
		all = all && holds_for(compare, kvs[i]);
	free(kvs);
	return all;
}

static void choose(struct run *run, const struct ks_txn_req *txn)
{
	bool all = true;

	for (size_t i = 0; i < txn->compare_count; i++)
		all = all && holds(run->model, &txn->compares[i]);
	run->path[run->path_count++] = all;
	KS_ASSERT(run->path_count < 256);
	for (size_t i = 0; i < (all ? txn->success_count : txn->failure_count); i++) {
		const struct ks_op *op = all ? &txn->success[i] : &txn->failure[i];

		if (op->kind == KS_OP_TXN)
			choose(run, op->txn);
	}
}

/* Seen at a real etcd: a plain put looks for the lease first, a put in a txn for the key. */
static enum ks_status check_put(const struct model *model, const struct ks_put_req *put, bool in_txn)
{
	bool no_lease = put->lease && !model_has_lease(model, put->lease);
	bool no_key = (put->ignore_value || put->ignore_lease) && !live_at(model, put->key, INT64_MAX);

	if (no_lease && no_key)
		return in_txn ? KS_INVALID_ARGUMENT : KS_NOT_FOUND;
	if (no_lease)
		return KS_NOT_FOUND;
	return no_key ? KS_INVALID_ARGUMENT : KS_OK;
}

static enum ks_status check(struct run *run, const struct ks_txn_req *txn)
{
	bool taken = run->path[run->next++];
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < (taken ? txn->success_count : txn->failure_count) && status == KS_OK; i++) {
		const struct ks_op *op = taken ? &txn->success[i] : &txn->failure[i];

		if (op->kind == KS_OP_TXN)
			status = check(run, op->txn);
		else if (op->kind == KS_OP_PUT)
			status = check_put(run->model, &op->put, true);
		else if (op->kind == KS_OP_RANGE && op->range.revision != 0)
			status = op->range.revision > run->begin || op->range.revision < run->model->compact_revision
					 ? KS_OUT_OF_RANGE
					 : KS_OK;
	}
	return status;
}

static void effect(struct run *run, const struct model_version *version)
{
	struct ks_entry *entry = &run->effects->entry;

	entry->effects = ks_xrealloc(entry->effects, (entry->effect_count + 1) * sizeof(*entry->effects));
	entry->effects[entry->effect_count++] = (struct ks_effect){
		.kind = version->create_revision ? KS_EFFECT_PUT : KS_EFFECT_DELETE,
		.key = ks_bytes_slice(version->key),
		.value = ks_bytes_slice(version->value),
		.create_revision = version->create_revision,
		.version = version->version,
		.lease = version->lease,
	};
	run->changes++;
}

static enum ks_status exec_put(struct run *run, const struct ks_put_req *put, struct ks_op_result *result)
{
	const struct model_version *old = live_at(run->model, put->key, INT64_MAX);
	struct model_version version = {
		.revision = run->begin + 1,
		.sub = run->changes,
		.create_revision = old ? old->create_revision : run->begin + 1,
		.version = old ? old->version + 1 : 1,
		.lease = put->ignore_lease && old ? old->lease : put->lease,
	};

	if ((put->ignore_value || put->ignore_lease) && !old)
		return KS_INVALID_ARGUMENT;
	version.key = ks_bytes_copy(put->key);
	version.value = put->ignore_value ? ks_bytes_ref(old->value) : ks_bytes_copy(put->value);
	if (put->prev_kv && old)
		result->prev_kv.encoded = model_encode(old, false);
	effect(run, add(run->model, &version));
	return KS_OK;
}

static void delete_key(struct run *run, struct ks_slice key)
{
	struct model_version version = {
		.key = ks_bytes_copy(key),
		.revision = run->begin + 1,
		.sub = run->changes,
	};

	effect(run, add(run->model, &version));
}

static void exec_delete(struct run *run, const struct ks_delete_req *del, struct ks_op_result *result)
{
	size_t count;
	const struct model_version **kvs = visible(run->model, &del->interval, INT64_MAX, &count);
	struct ks_bytes **keys = ks_xmalloc((count + 1) * sizeof(struct ks_bytes *));

	result->del.deleted = (int64_t)count;
	if (del->prev_kv && count > 0)
		result->del.prev_kvs = ks_xcalloc(count, sizeof(*result->del.prev_kvs));
	for (size_t i = 0; i < count; i++) {
		if (del->prev_kv)
			result->del.prev_kvs[i].encoded = model_encode(kvs[i], false);
		keys[i] = ks_bytes_ref(kvs[i]->key);
	}
	for (size_t i = 0; i < count; i++) {
		delete_key(run, ks_bytes_slice(keys[i]));
		ks_bytes_unref(keys[i]);
	}
	free(keys);
	free(kvs);
}

static enum ks_status exec_txn(struct run *run, const struct ks_txn_req *txn, struct ks_txn_result *result);

static enum ks_status exec(struct run *run, const struct ks_op *op, struct ks_op_result *result)
{
	enum ks_status status = KS_OK;

	result->kind = op->kind;
	switch (op->kind) {
	case KS_OP_RANGE:
		range_at(run->model, &op->range, op->range.revision > 0 ? op->range.revision : INT64_MAX,
			 &result->range);
		break;
	case KS_OP_PUT:
		status = exec_put(run, &op->put, result);
		break;
	case KS_OP_DELETE:
		exec_delete(run, &op->del, result);
		break;
	case KS_OP_TXN:
		result->txn = ks_xcalloc(1, sizeof(*result->txn));
		return exec_txn(run, op->txn, result->txn);
	}
	result->revision = run->begin + (run->changes > 0);
	return status;
}

static enum ks_status exec_txn(struct run *run, const struct ks_txn_req *txn, struct ks_txn_result *result)
{
	bool taken = run->path[run->next++];
	size_t count = taken ? txn->success_count : txn->failure_count;
	enum ks_status status = KS_OK;

	result->succeeded = taken;
	result->ops = ks_xcalloc(count + 1, sizeof(*result->ops));
	result->op_count = count;
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = exec(run, taken ? &txn->success[i] : &txn->failure[i], &result->ops[i]);
	return status;
}

static enum ks_status run_txn(struct run *run, const struct ks_txn_req *txn, struct ks_txn_result *result)
{
	enum ks_status status;

	choose(run, txn);
	status = check(run, txn);
	run->next = 0;
	return status == KS_OK ? exec_txn(run, txn, result) : status;
}

enum ks_status model_read_txn(const struct model *model, const struct ks_txn_req *req, struct ks_txn_result *result)
{
	struct run run = {.model = (struct model *)(uintptr_t)model, .begin = model->revision};
	enum ks_status status;

	*result = (struct ks_txn_result){0};
	status = run_txn(&run, req, result);
	if (status != KS_OK)
		ks_txn_result_fini(result);
	return status;
}

/* ---- the other requests ---- */

/* Spec 5.2. */
static void compact(struct model *model, int64_t revision)
{
	size_t kept = 0;

	for (size_t i = 0; i < model->count; i++) {
		struct model_version version = model->versions[i];
		bool keep = version.revision > revision;

		if (!keep) {
			const struct model_version *newest = NULL;

			for (size_t j = i; j < model->count && model->versions[j].revision <= revision; j++) {
				if (ks_slice_eq(ks_bytes_slice(model->versions[j].key), ks_bytes_slice(version.key)))
					newest = &model->versions[j];
			}
			keep = newest == &model->versions[i] &&
			       (version.create_revision != 0 || version.revision == revision);
		}
		if (keep) {
			model->versions[kept++] = version;
		} else {
			/* Moves nothing that is still looked at: kept <= i. */
			ks_bytes_unref(version.key);
			ks_bytes_unref(version.value);
		}
	}
	model->count = kept;
}

static void other_effect(struct run *run, const struct ks_effect *effect)
{
	struct ks_entry *entry = &run->effects->entry;

	entry->effects = ks_xrealloc(entry->effects, (entry->effect_count + 1) * sizeof(*entry->effects));
	entry->effects[entry->effect_count++] = *effect;
}

static enum ks_status revoke(struct run *run, int64_t id)
{
	static const struct ks_interval everything = {.key = {(const uint8_t *)"", 1}, .end = {(const uint8_t *)"", 1}};
	struct model *model = run->model;
	const struct model_version **kvs;
	struct ks_bytes **keys;
	size_t count, attached = 0;

	if (!model_has_lease(model, id))
		return KS_NOT_FOUND;
	kvs = visible(model, &everything, INT64_MAX, &count);
	keys = ks_xmalloc((count + 1) * sizeof(struct ks_bytes *));
	for (size_t i = 0; i < count; i++) {
		if (kvs[i]->lease == id)
			keys[attached++] = ks_bytes_ref(kvs[i]->key);
	}
	for (size_t i = 0; i < attached; i++) {
		delete_key(run, ks_bytes_slice(keys[i]));
		ks_bytes_unref(keys[i]);
	}
	free(keys);
	free(kvs);
	other_effect(run, &(struct ks_effect){.kind = KS_EFFECT_LEASE_REVOKE, .lease = id});
	for (size_t i = 0; i < model->lease_count; i++) {
		if (model->leases[i].id == id)
			model->leases[i--] = model->leases[--model->lease_count];
	}
	return KS_OK;
}

static enum ks_status other(struct run *run, const struct ks_request *req)
{
	struct model *model = run->model;

	switch (req->kind) {
	case KS_REQ_COMPACT:
		if (req->compact_revision <= model->compact_revision || req->compact_revision > model->revision)
			return KS_OUT_OF_RANGE;
		model->compact_revision = req->compact_revision;
		compact(model, req->compact_revision);
		other_effect(run, &(struct ks_effect){.kind = KS_EFFECT_COMPACT, .version = req->compact_revision});
		return KS_OK;
	case KS_REQ_LEASE_GRANT:
		if (model_has_lease(model, req->grant.id))
			return KS_FAILED_PRECONDITION;
		KS_ASSERT(model->lease_count < 64);
		model->leases[model->lease_count++] = (struct model_lease){req->grant.id, req->grant.ttl};
		other_effect(run, &(struct ks_effect){.kind = KS_EFFECT_LEASE_GRANT,
						      .lease = req->grant.id,
						      .version = req->grant.ttl});
		return KS_OK;
	case KS_REQ_LEASE_REVOKE:
		return revoke(run, req->revoke.id);
	case KS_REQ_PUT:
	case KS_REQ_DELETE:
	case KS_REQ_TXN:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	return KS_INTERNAL;
}

enum ks_status model_eval(struct model *model, const struct ks_request *req, struct ks_result *result,
			  struct ks_effects *effects)
{
	struct run run = {.model = model, .effects = effects, .begin = model->revision};
	struct model before = {0};
	struct ks_op op = {0};
	enum ks_status status;

	model_copy(&before, model);
	*result = (struct ks_result){.kind = req->kind};
	*effects = (struct ks_effects){0};
	if (req->kind == KS_REQ_TXN) {
		status = run_txn(&run, &req->txn, &result->txn);
	} else if (req->kind == KS_REQ_PUT) {
		op.kind = result->op.kind = KS_OP_PUT;
		op.put = req->put;
		status = check_put(model, &req->put, false);
		if (status == KS_OK)
			status = exec(&run, &op, &result->op);
	} else if (req->kind == KS_REQ_DELETE) {
		op.kind = KS_OP_DELETE;
		op.del = req->del;
		status = exec(&run, &op, &result->op);
	} else {
		status = other(&run, req);
	}
	if (status != KS_OK) {
		ks_result_fini(result);
		ks_effects_fini(effects);
		model_copy(model, &before);
	} else if (effects->entry.effect_count > 0) {
		model->revision += run.changes > 0;
		effects->entry.revision = model->revision;
		effects->entry.position = ++model->position;
	}
	if (status == KS_OK)
		result->revision = model->revision;
	model_fini(&before);
	return status;
}

/* ---- hash ---- */

uint32_t model_hash(const struct model *model, int64_t revision)
{
	uint32_t crc = ks_crc32c_portable(0, "key", 3);
	bool any_kept = false;

	for (size_t i = 0; i < model->count; i++)
		any_kept = any_kept || live_at(model, ks_bytes_slice(model->versions[i].key), revision);
	for (size_t i = 0; i < model->count; i++) {
		const struct model_version *v = &model->versions[i];
		bool deleted = v->create_revision == 0;
		struct ks_bytes *encoded;
		uint8_t key[18];

		if (v->revision > revision)
			continue;
		if (v->revision <= model->compact_revision && any_kept &&
		    (deleted || model_at(model, ks_bytes_slice(v->key), revision) != v))
			continue;
		if (v->revision == model->compact_revision && deleted)
			continue;
		for (unsigned b = 0; b < 8; b++) {
			key[b] = (uint8_t)((uint64_t)v->revision >> (56 - 8 * b));
			key[9 + b] = (uint8_t)((uint64_t)v->sub >> (56 - 8 * b));
		}
		key[8] = '_';
		key[17] = 't';
		crc = ks_crc32c_portable(crc, key, deleted ? 18 : 17);
		if (deleted) {
			struct ks_kv kv = {.key = ks_bytes_slice(v->key)};

			encoded = ks_kv_encode(&kv);
		} else {
			encoded = model_encode(v, false);
		}
		crc = ks_crc32c_portable(crc, encoded->data, encoded->size);
		ks_bytes_unref(encoded);
	}
	return crc;
}

/* ---- differences ---- */

static bool same_ref(const struct ks_kvref *a, const struct ks_kvref *b)
{
	if (!a->encoded || !b->encoded)
		return a->encoded == b->encoded;
	return ks_slice_eq(ks_bytes_slice(a->encoded), ks_bytes_slice(b->encoded));
}

const char *model_diff_range(const struct ks_range_result *a, const struct ks_range_result *b)
{
	if (a->count != b->count)
		return "range: count";
	if (a->more != b->more)
		return "range: more";
	if (a->kv_count != b->kv_count)
		return "range: number of kvs";
	for (size_t i = 0; i < a->kv_count; i++) {
		if (!same_ref(&a->kvs[i], &b->kvs[i]))
			return "range: a kv";
	}
	return NULL;
}

static const char *diff_op(const struct ks_op_result *a, const struct ks_op_result *b)
{
	if (a->kind != b->kind)
		return "op: kind";
	if (a->revision != b->revision)
		return "op: revision";
	switch (a->kind) {
	case KS_OP_RANGE:
		return model_diff_range(&a->range, &b->range);
	case KS_OP_PUT:
		return same_ref(&a->prev_kv, &b->prev_kv) ? NULL : "put: prev_kv";
	case KS_OP_DELETE:
		if (a->del.deleted != b->del.deleted || !a->del.prev_kvs != !b->del.prev_kvs)
			return "delete: number";
		for (int64_t i = 0; a->del.prev_kvs && i < a->del.deleted; i++) {
			if (!same_ref(&a->del.prev_kvs[i], &b->del.prev_kvs[i]))
				return "delete: prev_kv";
		}
		return NULL;
	case KS_OP_TXN:
		return model_diff_txn(a->txn, b->txn);
	}
	return "op: unknown";
}

const char *model_diff_txn(const struct ks_txn_result *a, const struct ks_txn_result *b)
{
	if (a->succeeded != b->succeeded)
		return "txn: succeeded";
	if (a->op_count != b->op_count)
		return "txn: number of ops";
	for (size_t i = 0; i < a->op_count; i++) {
		const char *diff = diff_op(&a->ops[i], &b->ops[i]);

		if (diff)
			return diff;
	}
	return NULL;
}

const char *model_diff_result(const struct ks_result *a, const struct ks_result *b)
{
	if (a->kind != b->kind)
		return "result: kind";
	if (a->revision != b->revision)
		return "result: revision";
	if (a->kind == KS_REQ_PUT || a->kind == KS_REQ_DELETE)
		return diff_op(&a->op, &b->op);
	return a->kind == KS_REQ_TXN ? model_diff_txn(&a->txn, &b->txn) : NULL;
}

const char *model_diff_entry(const struct ks_entry *a, const struct ks_entry *b)
{
	if (a->effect_count != b->effect_count)
		return "entry: number of effects";
	if (a->effect_count == 0)
		return NULL;
	if (a->position != b->position || a->revision != b->revision)
		return "entry: position or revision";
	for (size_t i = 0; i < a->effect_count; i++) {
		const struct ks_effect *x = &a->effects[i], *y = &b->effects[i];

		if (x->kind != y->kind || x->create_revision != y->create_revision || x->version != y->version ||
		    x->lease != y->lease || !ks_slice_eq(x->key, y->key) || !ks_slice_eq(x->value, y->value))
			return "entry: an effect";
	}
	return NULL;
}
