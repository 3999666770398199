/* SPDX-License-Identifier: Apache-2.0 */
/* May the caller do what it asks for (spec 7.4)? Judged on the tail: in the order of the log. */
#include "store/auth.h"
#include "store/txn_priv.h"

static enum ks_status may_write_keys_of(struct ks_eval *e, const struct ks_caller *caller, int64_t id)
{
	const struct ks_auth *auth = e->store->state->auth_tail;
	const struct ks_lease *lease = id ? ks_leases_find_tail(&e->store->state->leases, id) : NULL;
	enum ks_status status = KS_OK;

	/* As etcd: with ten thousand keys on a lease, each of root's puts would look at all of them. */
	if (!lease || ks_auth_check_admin(auth, caller, NULL) == KS_OK)
		return KS_OK;
	for (uint32_t i = 0; i < lease->capacity && status == KS_OK; i++) {
		struct ks_key *key = lease->keys[i];
		struct ks_interval interval;

		if (!key || !ks_lease_has(lease, key, INT64_MAX))
			continue;
		interval = (struct ks_interval){.key = ks_key_slice(key)};
		status = ks_auth_check(auth, caller, &interval, KS_PERM_WRITE, e->err);
	}
	return status;
}

/* Which leases the puts of a transaction name. */
static enum ks_status may_attach(struct ks_eval *e, const struct ks_caller *caller, const struct ks_txn_req *txn)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < txn->success_count + txn->failure_count && status == KS_OK; i++) {
		const struct ks_op *op =
			i < txn->success_count ? &txn->success[i] : &txn->failure[i - txn->success_count];

		if (op->kind == KS_OP_PUT)
			status = may_write_keys_of(e, caller, op->put.lease);
		else if (op->kind == KS_OP_TXN)
			status = may_attach(e, caller, op->txn);
	}
	return status;
}

enum ks_status ks_eval_may(struct ks_eval *e, const struct ks_request *req)
{
	const struct ks_auth *auth = e->store->state->auth_tail;
	const struct ks_caller *caller = &req->caller;
	enum ks_status status;
	struct ks_op op;

	switch (req->kind) {
	case KS_REQ_PUT:
		op = (struct ks_op){.kind = KS_OP_PUT, .put = req->put};
		break;
	case KS_REQ_DELETE:
		op = (struct ks_op){.kind = KS_OP_DELETE, .del = req->del};
		break;
	case KS_REQ_TXN:
		op = (struct ks_op){.kind = KS_OP_TXN, .txn = &req->txn};
		break;
	case KS_REQ_LEASE_GRANT:
		return ks_auth_check_user(auth, caller, e->err);
	case KS_REQ_LEASE_REVOKE:
		status = ks_auth_check_user(auth, caller, e->err);
		return status == KS_OK ? may_write_keys_of(e, caller, req->revoke.id) : status;
	case KS_REQ_COMPACT:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
	default:
		return ks_auth_check_admin(auth, caller, e->err);
	}
	status = ks_auth_check_txn(auth, caller, &(struct ks_txn_req){.success = &op, .success_count = 1}, e->err);
	if (status == KS_OK)
		status = may_attach(e, caller, &(struct ks_txn_req){.success = &op, .success_count = 1});
	return status;
}
