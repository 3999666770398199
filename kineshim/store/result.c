/* SPDX-License-Identifier: Apache-2.0 */
/* What ks_store_* hands out: freeing it, and walking over the values that must be fetched first. */
#include <stdlib.h>

#include "store/store_priv.h"

bool ks_grow(void **items, size_t *capacity, size_t count, size_t item_size)
{
	size_t wanted = *capacity ? *capacity * 2 : 4;
	void *grown;

	if (count < *capacity)
		return true;
	if (wanted > SIZE_MAX / 2 / item_size)
		return false;
	grown = realloc(*items, wanted * item_size);
	if (!grown)
		return false;
	*items = grown;
	*capacity = wanted;
	return true;
}

enum ks_status ks_fail_memory(struct ks_err *err)
{
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "kineshim: out of memory for this request");
}

enum ks_status ks_fail_compacted(struct ks_err *err)
{
	return ks_fail(err, KS_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted");
}

enum ks_status ks_fail_future(struct ks_err *err)
{
	return ks_fail(err, KS_OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision");
}

static void free_refs(struct ks_kvref *refs, size_t count)
{
	for (size_t i = 0; refs && i < count; i++)
		ks_bytes_unref(refs[i].encoded);
	free(refs);
}

void ks_range_result_fini(struct ks_range_result *result)
{
	free_refs(result->kvs, result->kv_count);
	*result = (struct ks_range_result){0};
}

static void op_fini(struct ks_op_result *op)
{
	switch (op->kind) {
	case KS_OP_RANGE:
		ks_range_result_fini(&op->range);
		break;
	case KS_OP_PUT:
		ks_bytes_unref(op->prev_kv.encoded);
		break;
	case KS_OP_DELETE:
		free_refs(op->del.prev_kvs, (size_t)op->del.deleted);
		break;
	case KS_OP_TXN:
		if (op->txn)
			ks_txn_result_fini(op->txn);
		free(op->txn);
		break;
	}
}

void ks_txn_result_fini(struct ks_txn_result *result)
{
	for (size_t i = 0; i < result->op_count; i++)
		op_fini(&result->ops[i]);
	free(result->ops);
	*result = (struct ks_txn_result){0};
}

void ks_result_fini(struct ks_result *result)
{
	switch (result->kind) {
	case KS_REQ_PUT:
	case KS_REQ_DELETE:
		op_fini(&result->op);
		break;
	case KS_REQ_TXN:
		ks_txn_result_fini(&result->txn);
		break;
	case KS_REQ_COMPACT:
	case KS_REQ_LEASE_GRANT:
	case KS_REQ_LEASE_REVOKE:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	*result = (struct ks_result){0};
}

void ks_misses_fini(struct ks_misses *misses)
{
	free_refs(misses->refs, misses->count);
	*misses = (struct ks_misses){0};
}

void ks_effects_fini(struct ks_effects *effects)
{
	for (size_t i = 0; i < effects->held_count; i++)
		ks_bytes_unref(effects->held[i]);
	free(effects->held);
	free(effects->entry.effects);
	*effects = (struct ks_effects){0};
}

static void each_missing(struct ks_kvref *refs, size_t count, ks_kvref_fn *fill, void *ctx)
{
	for (size_t i = 0; i < count; i++) {
		if (ks_kvref_missing(&refs[i]))
			fill(ctx, &refs[i]);
	}
}

void ks_range_result_each_missing(struct ks_range_result *result, ks_kvref_fn *fill, void *ctx)
{
	each_missing(result->kvs, result->kv_count, fill, ctx);
}

static void op_each_missing(struct ks_op_result *op, ks_kvref_fn *fill, void *ctx)
{
	switch (op->kind) {
	case KS_OP_RANGE:
		ks_range_result_each_missing(&op->range, fill, ctx);
		break;
	case KS_OP_PUT:
		each_missing(&op->prev_kv, 1, fill, ctx);
		break;
	case KS_OP_DELETE:
		each_missing(op->del.prev_kvs, op->del.prev_kvs ? (size_t)op->del.deleted : 0, fill, ctx);
		break;
	case KS_OP_TXN:
		if (op->txn)
			ks_txn_result_each_missing(op->txn, fill, ctx);
		break;
	}
}

void ks_txn_result_each_missing(struct ks_txn_result *result, ks_kvref_fn *fill, void *ctx)
{
	for (size_t i = 0; i < result->op_count; i++)
		op_each_missing(&result->ops[i], fill, ctx);
}

void ks_result_each_missing(struct ks_result *result, ks_kvref_fn *fill, void *ctx)
{
	if (result->kind == KS_REQ_PUT || result->kind == KS_REQ_DELETE)
		op_each_missing(&result->op, fill, ctx);
	else if (result->kind == KS_REQ_TXN)
		ks_txn_result_each_missing(&result->txn, fill, ctx);
}

enum ks_status ks_txn_result_finish(struct ks_txn_result *result, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < result->op_count && status == KS_OK; i++) {
		struct ks_op_result *op = &result->ops[i];

		if (op->kind == KS_OP_RANGE)
			status = ks_range_result_finish(&op->range, err);
		else if (op->kind == KS_OP_TXN && op->txn)
			status = ks_txn_result_finish(op->txn, err);
	}
	return status;
}
