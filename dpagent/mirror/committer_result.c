/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Upstream's answers, see committer_result.h.
 *
 * A key that the mirror has just as the answer shows it gets the numbers that are served here, so that a client can compare with them later. Any
 * other (what was before a write, what has changed again since) is moved by the offset, which is all that is known of it.
 */
#include "mirror/committer_result.h"

#include <stdlib.h>

struct making {
	struct dpa_committer *committer;
	int64_t offset;            /* local - up */
	int64_t up_header, header; /* of the whole answer, up and local */
	int64_t most;              /* the local revision of now */
};

static enum ks_status no_memory(struct ks_err *err)
{
	/* As for an unknown outcome: it was written, and cannot be told. */
	return ks_fail(err, KS_UNAVAILABLE, "etcdserver: request timed out");
}

static int64_t at_least(int64_t number, int64_t least)
{
	return number < least ? least : number;
}

/* ---- revisions ---- */

static int64_t header_of(const Etcdserverpb__ResponseHeader *header)
{
	return header ? header->revision : 0;
}

static int64_t local_revision(const struct making *making, int64_t up_revision)
{
	int64_t local;

	if (up_revision == making->up_header && making->header)
		return making->header;
	local = up_revision + making->offset;
	return at_least(local, 1);
}

/* Exactly, by a key that was written at this revision. */
static bool revision_by_key(struct making *making, struct ks_slice key)
{
	struct dpa_numbers numbers;

	if (!dpa_replica_numbers(making->committer->config.replica, key, &numbers) ||
	    numbers.up_mod != making->up_header || numbers.mod == 0)
		return false;
	making->header = numbers.mod;
	return true;
}

static void revision_by_txn(struct making *making, const struct ks_txn_req *request, bool succeeded)
{
	const struct ks_op *ops = succeeded ? request->success : request->failure;
	size_t count = succeeded ? request->success_count : request->failure_count;

	for (size_t i = 0; i < count; i++)
		if (ops[i].kind == KS_OP_PUT && revision_by_key(making, ops[i].put.key))
			return;
}

/* ---- keys ---- */

static void translate(const struct making *making, const Mvccpb__KeyValue *from, struct ks_kv *to)
{
	struct dpa_numbers numbers;
	bool there = dpa_replica_numbers(making->committer->config.replica, to->key, &numbers);

	if (there && numbers.mod && numbers.up_mod == from->mod_revision) {
		to->create_revision = numbers.create;
		to->mod_revision = numbers.mod;
		to->version = numbers.version;
		return;
	}
	to->mod_revision = local_revision(making, from->mod_revision);
	to->create_revision = from->create_revision == from->mod_revision
				      ? to->mod_revision
				      : local_revision(making, from->create_revision);
	to->version = from->version;
	if (there && numbers.create && numbers.up_create == from->create_revision) {
		to->create_revision = numbers.create;
		to->version = at_least(numbers.version - (numbers.up_version - from->version), 1);
	}
	if (to->create_revision > to->mod_revision)
		to->create_revision = to->mod_revision;
}

/* As it is served, when overlay or discovery made it; NULL: it is as upstream has it, or is not that one any more. */
static struct ks_bytes *altered_kv(const struct making *making, struct ks_slice key, int64_t up_mod)
{
	const struct ks_range_req ask = {.interval.key = key};
	struct ks_bytes *encoded = NULL;
	struct ks_range_result result;
	struct dpa_numbers numbers;
	int64_t revision;
	struct ks_err err;

	if (!dpa_replica_numbers(making->committer->config.replica, key, &numbers) || !numbers.altered ||
	    numbers.up_mod != up_mod)
		return NULL;
	if (ks_store_range(making->committer->store, &ask, &result, &revision, &err) != KS_OK)
		return NULL;
	if (result.kv_count == 1)
		encoded = ks_bytes_ref(result.kvs[0].encoded);
	ks_range_result_fini(&result);
	return encoded;
}

static enum ks_status make_kv(const struct making *making, const Mvccpb__KeyValue *from, bool keys_only,
			      struct ks_kvref *to, struct ks_err *err)
{
	struct ks_kv kv = {
		.key = ks_slice_of(from->key.data, from->key.len),
		.value = ks_slice_of(from->value.data, from->value.len),
	};

	to->encoded = keys_only ? NULL : altered_kv(making, kv.key, from->mod_revision);
	if (to->encoded)
		return KS_OK;
	translate(making, from, &kv);
	to->encoded = ks_kv_encode(&kv);
	return to->encoded ? KS_OK : no_memory(err);
}

/* An array of its own; NULL and KS_OK for none. */
static enum ks_status make_kvs(const struct making *making, Mvccpb__KeyValue *const *from, size_t count, bool keys_only,
			       struct ks_kvref **to, size_t *to_count, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	*to_count = 0;
	*to = count ? calloc(count, sizeof(**to)) : NULL;
	if (count && !*to)
		return no_memory(err);
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		status = make_kv(making, from[i], keys_only, &(*to)[i], err);
		if (status == KS_OK)
			++*to_count;
	}
	return status;
}

/* ---- operations ---- */

static enum ks_status make_range(const struct making *making, const Etcdserverpb__RangeResponse *from, bool keys_only,
				 struct ks_op_result *to, struct ks_err *err)
{
	to->kind = KS_OP_RANGE;
	to->revision = local_revision(making, header_of(from->header));
	to->range.count = from->count;
	to->range.more = from->more;
	return make_kvs(making, from->kvs, from->n_kvs, keys_only, &to->range.kvs, &to->range.kv_count, err);
}

static enum ks_status make_put(const struct making *making, const Etcdserverpb__PutResponse *from,
			       struct ks_op_result *to, struct ks_err *err)
{
	to->kind = KS_OP_PUT;
	to->revision = local_revision(making, header_of(from->header));
	return from->prev_kv ? make_kv(making, from->prev_kv, false, &to->prev_kv, err) : KS_OK;
}

static enum ks_status make_delete(const struct making *making, const Etcdserverpb__DeleteRangeResponse *from,
				  struct ks_op_result *to, struct ks_err *err)
{
	size_t count = 0;
	enum ks_status status;

	to->kind = KS_OP_DELETE;
	to->revision = local_revision(making, header_of(from->header));
	status = make_kvs(making, from->prev_kvs, from->n_prev_kvs, false, &to->del.prev_kvs, &count, err);
	/* Either all of them or none: there are as many as 'deleted' says. */
	to->del.deleted = (int64_t)count;
	if (status == KS_OK && (int64_t)from->n_prev_kvs != from->deleted) {
		for (size_t i = 0; i < count; i++)
			ks_bytes_unref(to->del.prev_kvs[i].encoded);
		free(to->del.prev_kvs);
		to->del.prev_kvs = NULL;
		to->del.deleted = from->deleted;
	}
	return status;
}

static enum ks_status make_txn(const struct making *making, const struct ks_txn_req *request,
			       const Etcdserverpb__TxnResponse *from, struct ks_txn_result *to, struct ks_err *err);

static enum ks_status make_op(const struct making *making, const struct ks_op *op, const Etcdserverpb__ResponseOp *from,
			      struct ks_op_result *to, struct ks_err *err)
{
	switch (op->kind) {
	case KS_OP_RANGE:
		if (from->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE)
			return make_range(making, from->response_range, op->range.keys_only, to, err);
		break;
	case KS_OP_PUT:
		if (from->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT)
			return make_put(making, from->response_put, to, err);
		break;
	case KS_OP_DELETE:
		if (from->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE)
			return make_delete(making, from->response_delete_range, to, err);
		break;
	case KS_OP_TXN:
		if (from->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_TXN)
			break;
		to->txn = calloc(1, sizeof(*to->txn));
		if (!to->txn)
			return no_memory(err);
		to->kind = KS_OP_TXN;
		return make_txn(making, op->txn, from->response_txn, to->txn, err);
	}
	return ks_fail(err, KS_INTERNAL, "dpagent: the control plane's answer does not fit to the transaction");
}

static enum ks_status make_txn(const struct making *making, const struct ks_txn_req *request,
			       const Etcdserverpb__TxnResponse *from, struct ks_txn_result *to, struct ks_err *err)
{
	const struct ks_op *ops = from->succeeded ? request->success : request->failure;
	size_t count = from->succeeded ? request->success_count : request->failure_count;
	enum ks_status status = KS_OK;

	to->succeeded = from->succeeded;
	if (from->n_responses != count)
		return ks_fail(err, KS_INTERNAL, "dpagent: the control plane's answer does not fit to the transaction");
	to->ops = count ? calloc(count, sizeof(*to->ops)) : NULL;
	if (count && !to->ops)
		return no_memory(err);
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		to->op_count = i + 1;
		status = make_op(making, &ops[i], from->responses[i], &to->ops[i], err);
	}
	return status;
}

/* ---- the whole ---- */

struct told {
	bool written;
	int64_t newest; /* mod_revision of what was read */
};

static void look_at_txn(const Etcdserverpb__TxnResponse *response, struct told *told)
{
	for (size_t i = 0; i < response->n_responses; i++) {
		const Etcdserverpb__ResponseOp *op = response->responses[i];

		if (op->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT) {
			told->written = true;
		} else if (op->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE) {
			told->written |= op->response_delete_range->deleted > 0;
		} else if (op->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_TXN) {
			look_at_txn(op->response_txn, told);
		} else if (op->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE) {
			const Etcdserverpb__RangeResponse *range = op->response_range;

			for (size_t j = 0; j < range->n_kvs; j++)
				told->newest = at_least(told->newest, range->kvs[j]->mod_revision);
		}
	}
}

/* Only what was written has an event here: the header's revision of anything else may be that of a key outside of the prefix. */
int64_t dpa_result_revision(const struct ks_request *request, const ProtobufCMessage *response, bool *bounded)
{
	struct told told = {0};

	*bounded = false;
	switch (request->kind) {
	case KS_REQ_PUT:
		return header_of(((const Etcdserverpb__PutResponse *)response)->header);
	case KS_REQ_DELETE:
		if (((const Etcdserverpb__DeleteRangeResponse *)response)->deleted == 0)
			return 0;
		return header_of(((const Etcdserverpb__DeleteRangeResponse *)response)->header);
	case KS_REQ_TXN:
		look_at_txn((const Etcdserverpb__TxnResponse *)response, &told);
		return told.written ? header_of(((const Etcdserverpb__TxnResponse *)response)->header) : told.newest;
	case KS_REQ_LEASE_REVOKE:
		*bounded = true;
		return header_of(((const Etcdserverpb__LeaseRevokeResponse *)response)->header);
	case KS_REQ_COMPACT:
	case KS_REQ_LEASE_GRANT:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	return 0;
}

static void begin(struct making *making, const Etcdserverpb__ResponseHeader *header)
{
	int64_t up_revision;

	dpa_replica_revisions(making->committer->config.replica, &up_revision, &making->most);
	making->offset = making->most - up_revision;
	making->up_header = header_of(header);
}

/* The header's revision, when no key told it exactly: changes of our own since would make it too great. */
static void end(struct making *making)
{
	if (making->header)
		return;
	making->header = at_least(making->up_header + making->offset, 1);
	if (making->header > making->most && making->up_header <= making->most - making->offset)
		making->header = making->most;
}

enum ks_status dpa_result_make(struct dpa_committer *committer, struct ks_request *request,
			       const ProtobufCMessage *response, struct ks_result *result, struct ks_err *err)
{
	struct making making = {.committer = committer};
	enum ks_status status = KS_OK;

	*result = (struct ks_result){.kind = request->kind};
	switch (request->kind) {
	case KS_REQ_PUT:
		begin(&making, ((const Etcdserverpb__PutResponse *)response)->header);
		(void)revision_by_key(&making, request->put.key);
		end(&making);
		status = make_put(&making, (const Etcdserverpb__PutResponse *)response, &result->op, err);
		break;
	case KS_REQ_DELETE:
		begin(&making, ((const Etcdserverpb__DeleteRangeResponse *)response)->header);
		end(&making);
		status = make_delete(&making, (const Etcdserverpb__DeleteRangeResponse *)response, &result->op, err);
		break;
	case KS_REQ_TXN:
		begin(&making, ((const Etcdserverpb__TxnResponse *)response)->header);
		revision_by_txn(&making, &request->txn, ((const Etcdserverpb__TxnResponse *)response)->succeeded);
		end(&making);
		status = make_txn(&making, &request->txn, (const Etcdserverpb__TxnResponse *)response, &result->txn,
				  err);
		break;
	case KS_REQ_LEASE_GRANT:
		begin(&making, ((const Etcdserverpb__LeaseGrantResponse *)response)->header);
		end(&making);
		request->grant.ttl = ((const Etcdserverpb__LeaseGrantResponse *)response)->ttl;
		break;
	case KS_REQ_LEASE_REVOKE:
		begin(&making, ((const Etcdserverpb__LeaseRevokeResponse *)response)->header);
		end(&making);
		break;
	case KS_REQ_COMPACT:
		begin(&making, ((const Etcdserverpb__CompactionResponse *)response)->header);
		end(&making);
		break;
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	result->revision = making.header;
	if (status != KS_OK)
		ks_result_fini(result);
	return status;
}
