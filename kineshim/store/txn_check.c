/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of the operations that will be done, before the first of them changes anything (spec 2.6). */
#include "store/txn_priv.h"

struct ks_record *ks_eval_newest_live(const struct ks_eval *e, struct ks_slice name)
{
	const struct ks_key *key = ks_index_find(&e->store->state->index, name);
	struct ks_record *record = key ? ks_key_at(key, e->as_of) : NULL;

	return ks_record_live(record) ? record : NULL;
}

enum ks_status ks_eval_fail_no_key(struct ks_eval *e)
{
	return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: key not found");
}

static enum ks_status check_lease(struct ks_eval *e, const struct ks_put_req *put)
{
	if (put->lease && !ks_leases_find_tail(&e->store->state->leases, put->lease))
		return ks_fail(e->err, KS_NOT_FOUND, "etcdserver: requested lease not found");
	return KS_OK;
}

static enum ks_status check_existing(struct ks_eval *e, const struct ks_put_req *put)
{
	enum ks_status status = KS_OK;
	struct ks_record *record;

	if (!put->ignore_value && !put->ignore_lease)
		return KS_OK;
	record = ks_eval_newest_live(e, put->key);
	if (!record)
		return ks_eval_fail_no_key(e);
	if (put->ignore_value)
		(void)ks_eval_encoding(e, record, &status);
	return status;
}

/* Which error wins: etcd looks for the lease first in a plain put, and for the key first in a transaction. */
enum ks_status ks_eval_check_put(struct ks_eval *e, const struct ks_put_req *put, bool in_txn)
{
	enum ks_status status = in_txn ? check_existing(e, put) : check_lease(e, put);

	if (status != KS_OK)
		return status;
	return in_txn ? check_lease(e, put) : check_existing(e, put);
}

static enum ks_status check_range(struct ks_eval *e, const struct ks_range_req *range)
{
	if (range->revision == 0)
		return KS_OK;
	if (range->revision > e->current)
		return ks_fail_future(e->err);
	if (range->revision < e->compacted)
		return ks_fail_compacted(e->err);
	return KS_OK;
}

/* In the order of the list (spec 2.6): it shows in which error wins. */
static enum ks_status check_ops(struct ks_eval *e, const struct ks_txn_req *txn)
{
	bool succeeded = e->path[e->path_next++];
	const struct ks_op *ops = succeeded ? txn->success : txn->failure;
	size_t count = succeeded ? txn->success_count : txn->failure_count;
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < count && status == KS_OK; i++) {
		if (ops[i].kind == KS_OP_TXN)
			status = check_ops(e, ops[i].txn);
		else if (ops[i].kind == KS_OP_PUT)
			status = ks_eval_check_put(e, &ops[i].put, true);
		else if (ops[i].kind == KS_OP_RANGE)
			status = check_range(e, &ops[i].range);
	}
	return status;
}

enum ks_status ks_eval_check_txn(struct ks_eval *e, const struct ks_txn_req *txn)
{
	e->path_next = 0;
	return check_ops(e, txn);
}
