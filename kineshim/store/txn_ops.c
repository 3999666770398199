/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on keys, one after the other, each seeing what those before it did. */
#include <stdlib.h>

#include "store/txn_priv.h"

bool ks_eval_add_effect(struct ks_eval *e, const struct ks_effect *effect)
{
	struct ks_entry *entry = &e->effects->entry;

	if (!ks_grow((void **)&entry->effects, &e->effect_capacity, entry->effect_count, sizeof(*entry->effects)))
		return false;
	entry->effects[entry->effect_count++] = *effect;
	e->effects->bytes += effect->key.size + effect->value.size + effect->payload.size;
	return true;
}

static struct ks_change next_change(const struct ks_eval *e)
{
	return (struct ks_change){
		.revision = e->begin + 1,
		.position = e->store->state->tail.position + 1,
		.sub = e->changes,
	};
}

static enum ks_status exec_range(struct ks_eval *e, const struct ks_range_req *req, struct ks_op_result *op)
{
	int64_t as_of = req->revision > 0 ? req->revision : e->as_of;
	struct ks_range_result *result = &op->range;
	enum ks_status status = ks_range_eval(e->store, req, &e->view, as_of, result, e->err);

	op->revision = ks_eval_revision(e);
	if (status != KS_OK || !result->unsorted || e->view.view == KS_VIEW_COMMITTED)
		return status;
	/* The writer finishes the sort by value itself. Nobody sees the tail, so others may read meanwhile. */
	ks_unlock(e->store);
	for (size_t i = 0; i < result->kv_count && e->store->config.fetch; i++) {
		if (!result->kvs[i].encoded)
			result->kvs[i].encoded = e->store->config.fetch(e->store->config.fetch_ctx, result->kvs[i].loc);
	}
	status = ks_range_result_finish(result, e->err);
	ks_lock_write(e->store);
	return status;
}

/* The value that a put leaves as it is. 'old' was there before the request (then its value is known) or came in it. */
static bool kept_value(struct ks_eval *e, struct ks_record *old, struct ks_slice *value)
{
	enum ks_status status = KS_OK;
	struct ks_bytes *encoded = ks_eval_encoding(e, old, &status);
	struct ks_kv kv;

	if (!encoded || !ks_kv_decode(ks_bytes_slice(encoded), &kv))
		return false;
	*value = kv.value;
	return true;
}

enum ks_status ks_exec_put(struct ks_eval *e, const struct ks_put_req *put, struct ks_op_result *op)
{
	struct ks_state *state = e->store->state;
	struct ks_change change = next_change(e);
	struct ks_effect effect = {.kind = KS_EFFECT_PUT};
	struct ks_record *old, *record;
	struct ks_key *key;
	struct ks_kv kv;
	bool added;

	key = ks_index_insert(&state->index, put->key, &added);
	if (!key)
		return ks_fail_memory(e->err);
	old = ks_key_newest(key);
	if (!ks_record_live(old))
		old = NULL;
	change.create_revision = old ? old->create_revision : change.revision;
	change.version = old ? old->version + 1 : 1;
	change.value = put->value;
	change.lease = put->lease;
	if (!old && (put->ignore_value || put->ignore_lease)) {
		/* It was there before the txn, and a delete of the txn itself took it away (spec 15). */
		if (added)
			ks_state_drop_key(state, key);
		return ks_eval_fail_no_key(e);
	}
	if (put->ignore_lease)
		change.lease = old->lease;
	if (put->ignore_value && !kept_value(e, old, &change.value))
		return ks_fail(e->err, KS_UNAVAILABLE, "etcdserver: no leader");
	record = ks_state_append(state, key, &change);
	if (!record) {
		if (added)
			ks_state_drop_key(state, key);
		return ks_fail_memory(e->err);
	}
	effect.key = ks_key_slice(key);
	effect.value = put->value;
	if (put->ignore_value && ks_kv_decode(ks_bytes_slice(record->encoded), &kv))
		effect.value = kv.value;
	effect.create_revision = record->create_revision;
	effect.version = record->version;
	effect.lease = record->lease;
	if (!ks_eval_add_effect(e, &effect))
		return ks_fail_memory(e->err);
	e->changes++;
	if (put->prev_kv && old)
		op->prev_kv = ks_record_kvref(old);
	op->revision = ks_eval_revision(e);
	return KS_OK;
}

struct deleting {
	struct ks_eval *e;
	struct ks_op_result *op;
	size_t capacity;
	bool prev_kv, too_many;
};

bool ks_eval_delete_key(struct ks_eval *e, struct ks_key *key)
{
	struct ks_change change = next_change(e);
	struct ks_effect effect = {.kind = KS_EFFECT_DELETE, .key = ks_key_slice(key)};

	if (e->changes == INT32_MAX || !ks_state_append(e->store->state, key, &change))
		return false;
	e->changes++;
	return ks_eval_add_effect(e, &effect);
}

static bool delete_found(void *ctx, struct ks_record *const *found, uint32_t count)
{
	struct deleting *d = ctx;
	struct ks_op_result *op = d->op;

	for (uint32_t i = 0; i < count; i++) {
		if (d->prev_kv) {
			if (!ks_grow((void **)&op->del.prev_kvs, &d->capacity, (size_t)op->del.deleted,
				     sizeof(*op->del.prev_kvs)))
				return false;
			op->del.prev_kvs[op->del.deleted] = ks_record_kvref(found[i]);
		}
		op->del.deleted++;
		if (!ks_eval_delete_key(d->e, found[i]->key))
			return false;
	}
	return true;
}

enum ks_status ks_exec_delete(struct ks_eval *e, const struct ks_delete_req *del, struct ks_op_result *op)
{
	struct deleting d = {.e = e, .op = op, .prev_kv = del->prev_kv};
	enum ks_status status = KS_OK;
	struct ks_record *record;

	if (del->interval.end.size == 0) {
		record = ks_eval_newest_live(e, del->interval.key);
		if (record && !delete_found(&d, &record, 1))
			status = KS_RESOURCE_EXHAUSTED;
	} else {
		status = ks_scan_visible(e->store, &del->interval, &e->view, e->as_of, SIZE_MAX, delete_found, &d);
	}
	op->revision = ks_eval_revision(e);
	return status == KS_OK ? KS_OK : ks_fail_memory(e->err);
}

static enum ks_status exec_op(struct ks_eval *e, const struct ks_op *op, struct ks_op_result *result)
{
	result->kind = op->kind;
	switch (op->kind) {
	case KS_OP_RANGE:
		return exec_range(e, &op->range, result);
	case KS_OP_PUT:
		return ks_exec_put(e, &op->put, result);
	case KS_OP_DELETE:
		return ks_exec_delete(e, &op->del, result);
	case KS_OP_TXN:
		result->txn = calloc(1, sizeof(*result->txn));
		return result->txn ? ks_exec_txn(e, op->txn, result->txn) : ks_fail_memory(e->err);
	}
	return KS_OK;
}

enum ks_status ks_exec_txn(struct ks_eval *e, const struct ks_txn_req *txn, struct ks_txn_result *result)
{
	enum ks_status status = KS_OK;
	const struct ks_op *ops;
	size_t count;

	result->succeeded = e->path[e->path_next++];
	ops = result->succeeded ? txn->success : txn->failure;
	count = result->succeeded ? txn->success_count : txn->failure_count;
	if (count == 0)
		return KS_OK;
	result->ops = calloc(count, sizeof(*result->ops));
	if (!result->ops)
		return ks_fail_memory(e->err);
	result->op_count = count;
	for (size_t i = 0; i < count; i++)
		result->ops[i].kind = ops[i].kind; /* so that all of it can be freed at any time */
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = exec_op(e, &ops[i], &result->ops[i]);
	return status;
}
