/* SPDX-License-Identifier: Apache-2.0 */
/* Messages → requests, see convert.h. The recursion is as deep as validation let transactions nest. */
#include "api/convert.h"

void ks_convert_range(const Etcdserverpb__RangeRequest *from, struct ks_range_req *to)
{
	*to = (struct ks_range_req){
		.interval = {.key = ks_slice_pb(from->key), .end = ks_slice_pb(from->range_end)},
		.limit = from->limit,
		.revision = from->revision,
		.sort_order = (enum ks_sort_order)from->sort_order,
		.sort_target = (enum ks_sort_target)from->sort_target,
		.serializable = from->serializable,
		.keys_only = from->keys_only,
		.count_only = from->count_only,
		.min_mod_revision = from->min_mod_revision,
		.max_mod_revision = from->max_mod_revision,
		.min_create_revision = from->min_create_revision,
		.max_create_revision = from->max_create_revision,
	};
}

void ks_convert_put(const Etcdserverpb__PutRequest *from, struct ks_put_req *to)
{
	*to = (struct ks_put_req){
		.key = ks_slice_pb(from->key),
		.value = ks_slice_pb(from->value),
		.lease = from->lease,
		.prev_kv = from->prev_kv,
		.ignore_value = from->ignore_value,
		.ignore_lease = from->ignore_lease,
	};
}

void ks_convert_delete(const Etcdserverpb__DeleteRangeRequest *from, struct ks_delete_req *to)
{
	*to = (struct ks_delete_req){
		.interval = {.key = ks_slice_pb(from->key), .end = ks_slice_pb(from->range_end)},
		.prev_kv = from->prev_kv,
	};
}

/* The operand counts only when the arm that is set is the target's (spec 2.8). */
static void convert_compare(const Etcdserverpb__Compare *from, struct ks_compare *to)
{
	int arm = (int)from->target_union_case;
	int target = (int)from->target;

	*to = (struct ks_compare){
		.result = (int)from->result,
		.target = target,
		.interval = {.key = ks_slice_pb(from->key), .end = ks_slice_pb(from->range_end)},
	};
	if (target == KS_CMP_VERSION && arm == ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION)
		to->number = from->version;
	else if (target == KS_CMP_CREATE && arm == ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION)
		to->number = from->create_revision;
	else if (target == KS_CMP_MOD && arm == ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION)
		to->number = from->mod_revision;
	else if (target == KS_CMP_VALUE && arm == ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE)
		to->value = ks_slice_pb(from->value);
	else if (target == KS_CMP_LEASE && arm == ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE)
		to->number = from->lease;
}

static bool convert_op(struct ks_arena *arena, const Etcdserverpb__RequestOp *from, struct ks_op *to)
{
	struct ks_txn_req *txn;

	switch (from->request_case) {
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
		to->kind = KS_OP_RANGE;
		ks_convert_range(from->request_range, &to->range);
		return true;
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT:
		to->kind = KS_OP_PUT;
		ks_convert_put(from->request_put, &to->put);
		return true;
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE:
		to->kind = KS_OP_DELETE;
		ks_convert_delete(from->request_delete_range, &to->del);
		return true;
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN:
		txn = ks_arena_zalloc(arena, sizeof(*txn));
		to->kind = KS_OP_TXN;
		to->txn = txn;
		return txn && ks_convert_txn(arena, from->request_txn, txn);
	default:
		return false; /* validation lets none through */
	}
}

static bool convert_ops(struct ks_arena *arena, Etcdserverpb__RequestOp *const *from, size_t count,
			const struct ks_op **to)
{
	struct ks_op *ops = ks_arena_array(arena, count, sizeof(*ops));

	if (!ops)
		return false;
	*to = ops;
	for (size_t i = 0; i < count; i++)
		if (!convert_op(arena, from[i], &ops[i]))
			return false;
	return true;
}

bool ks_convert_txn(struct ks_arena *arena, const Etcdserverpb__TxnRequest *from, struct ks_txn_req *to)
{
	struct ks_compare *compares = ks_arena_array(arena, from->n_compare, sizeof(*compares));

	if (!compares)
		return false;
	for (size_t i = 0; i < from->n_compare; i++)
		convert_compare(from->compare[i], &compares[i]);
	*to = (struct ks_txn_req){
		.compares = compares,
		.compare_count = from->n_compare,
		.success_count = from->n_success,
		.failure_count = from->n_failure,
	};
	return convert_ops(arena, from->success, from->n_success, &to->success) &&
	       convert_ops(arena, from->failure, from->n_failure, &to->failure);
}

static bool only_ranges(Etcdserverpb__RequestOp *const *ops, size_t count, bool *serializable)
{
	for (size_t i = 0; i < count; i++) {
		if (ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE)
			return false;
		if (!ops[i]->request_range->serializable)
			*serializable = false;
	}
	return true;
}

bool ks_txn_is_read_only(const Etcdserverpb__TxnRequest *txn, bool *serializable)
{
	*serializable = true;
	return only_ranges(txn->success, txn->n_success, serializable) &&
	       only_ranges(txn->failure, txn->n_failure, serializable);
}
