/* SPDX-License-Identifier: Apache-2.0 */
/* Compares, all against the state before the request; they decide which branch of each txn is taken. */
#include "store/txn_priv.h"

static int cmp_number(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

static int64_t number_of(const struct ks_record *record, int target)
{
	switch (target) {
	case KS_CMP_VERSION:
		return record->version;
	case KS_CMP_CREATE:
		return record->create_revision;
	case KS_CMP_MOD:
		return record->revision;
	default:
		return record->lease;
	}
}

struct comparing {
	struct ks_eval *e;
	const struct ks_compare *compare;
	bool any, holds;
	enum ks_status status;
};

static bool known_target(int target)
{
	return target >= KS_CMP_VERSION && target <= KS_CMP_LEASE;
}

static bool compare_one(struct comparing *c, struct ks_record *record)
{
	const struct ks_compare *compare = c->compare;
	struct ks_bytes *encoded;
	struct ks_kv kv;
	int order = 0;

	if (compare->target == KS_CMP_VALUE) {
		encoded = ks_eval_encoding(c->e, record, &c->status);
		if (!encoded)
			return true; /* go on: what else is missing? */
		order = ks_kv_decode(ks_bytes_slice(encoded), &kv) ? ks_slice_cmp(kv.value, compare->value) : 0;
	} else if (known_target(compare->target)) {
		order = cmp_number(number_of(record, compare->target), compare->number);
	}
	return ks_compare_holds(order, compare->result);
}

static bool compare_found(void *ctx, struct ks_record *const *found, uint32_t count)
{
	struct comparing *c = ctx;

	c->any = true;
	for (uint32_t i = 0; i < count && c->holds && c->status == KS_OK; i++)
		c->holds = compare_one(c, found[i]);
	return c->holds && c->status == KS_OK;
}

static enum ks_status eval_compare(struct ks_eval *e, const struct ks_compare *compare, bool *holds)
{
	struct comparing c = {.e = e, .compare = compare, .holds = true, .status = KS_OK};
	enum ks_status status = KS_OK;

	if (compare->interval.end.size == 0) {
		const struct ks_key *key = ks_index_find(&e->store->state->index, compare->interval.key);
		struct ks_record *record = key ? ks_key_at(key, e->as_of) : NULL;

		if (ks_record_live(record))
			compare_found(&c, &record, 1);
	} else {
		status = ks_scan_visible(e->store, &compare->interval, &e->view, e->as_of, SIZE_MAX, compare_found, &c);
	}
	if (c.status != KS_OK)
		return c.status;
	if (!c.holds) {
		*holds = false;
		return KS_OK;
	}
	if (!c.any && compare->target == KS_CMP_VALUE)
		*holds = false;
	else if (!c.any)
		*holds = ks_compare_holds(known_target(compare->target) ? cmp_number(0, compare->number) : 0,
					  compare->result);
	else
		*holds = true;
	return status;
}

enum ks_status ks_eval_choose_path(struct ks_eval *e, const struct ks_txn_req *txn)
{
	enum ks_status status = KS_OK;
	const struct ks_op *ops;
	bool succeeded = true;
	size_t count;

	for (size_t i = 0; i < txn->compare_count && succeeded && status == KS_OK; i++)
		status = eval_compare(e, &txn->compares[i], &succeeded);
	if (status != KS_OK)
		return status;
	if (succeeded && e->missed)
		return KS_OK; /* not known yet */
	if (!ks_grow((void **)&e->path, &e->path_capacity, e->path_count, sizeof(*e->path)))
		return KS_RESOURCE_EXHAUSTED;
	e->path[e->path_count++] = succeeded;
	ops = succeeded ? txn->success : txn->failure;
	count = succeeded ? txn->success_count : txn->failure_count;
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		if (ops[i].kind == KS_OP_TXN)
			status = ks_eval_choose_path(e, ops[i].txn);
	}
	return status;
}
