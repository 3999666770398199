/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Validation of requests, see validate.h. The check for duplicate keys is in validate_keys.c.
 */
#include "api/validate.h"

#include "api/validate_keys.h"

/* ---- the shape of an undecoded transaction ---- */

enum { TXN_COMPARE = 1, TXN_SUCCESS = 2, TXN_FAILURE = 3, OP_TXN = 4 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct field {
	uint64_t number;
	struct ks_slice bytes; /* of a length-delimited one; else empty */
};

static bool read_varint(struct ks_slice *in, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 70 && in->size > 0; shift += 7) {
		uint8_t byte = *in->data;

		in->data++;
		in->size--;
		if (shift < 64)
			*value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

/* Takes one field off 'in'. False at the end, and at anything malformed: the decoder will say so. */
static bool read_field(struct ks_slice *in, struct field *field)
{
	uint64_t tag, size;

	if (!read_varint(in, &tag))
		return false;
	field->number = tag >> 3;
	field->bytes = ks_slice_of(NULL, 0);
	switch (tag & 7) {
	case WIRE_VARINT:
		return read_varint(in, &size);
	case WIRE_FIXED64:
		size = 8;
		break;
	case WIRE_FIXED32:
		size = 4;
		break;
	case WIRE_BYTES:
		if (!read_varint(in, &size))
			return false;
		break;
	default:
		return false;
	}
	if (size > in->size)
		return false;
	if ((tag & 7) == WIRE_BYTES)
		field->bytes = ks_slice_of(in->data, (size_t)size);
	in->data += size;
	in->size -= (size_t)size;
	return true;
}

/* Visits each field once: a level reads its own fields and steps over what is inside them. */
static bool shape_fits(struct ks_slice txn, size_t max_txn_ops, unsigned depth)
{
	size_t counts[4] = {0};
	struct field field, inner;

	if (depth > KS_TXN_MAX_DEPTH)
		return false;
	while (read_field(&txn, &field)) {
		if (field.number < TXN_COMPARE || field.number > TXN_FAILURE)
			continue;
		if (++counts[field.number] > max_txn_ops)
			return false;
		if (field.number == TXN_COMPARE)
			continue;
		while (read_field(&field.bytes, &inner))
			if (inner.number == OP_TXN && !shape_fits(inner.bytes, max_txn_ops, depth + 1))
				return false;
	}
	return true;
}

enum ks_status ks_txn_shape_check(struct ks_slice bytes, size_t max_txn_ops, struct ks_err *err)
{
	return shape_fits(bytes, max_txn_ops, 1) ? KS_OK : ks_etcd_fail(err, KS_E_TOO_MANY_OPS);
}

/* ---- single requests ---- */

enum ks_status ks_validate_range(const Etcdserverpb__RangeRequest *request, struct ks_err *err)
{
	if (request->key.len == 0)
		return ks_etcd_fail(err, KS_E_EMPTY_KEY);
	if ((int)request->sort_order < 0 ||
	    (int)request->sort_order > ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND ||
	    (int)request->sort_target < 0 ||
	    (int)request->sort_target > ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE)
		return ks_etcd_fail(err, KS_E_INVALID_SORT_OPTION);
	return KS_OK;
}

/* Spec 1.5; what counts as the default order is in 1.3. */
enum ks_status ks_validate_range_stream(const Etcdserverpb__RangeRequest *request, struct ks_err *err)
{
	enum ks_status status = ks_validate_range(request, err);
	bool ascending_keys;

	if (status != KS_OK)
		return status;
	ascending_keys = request->sort_target == ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY &&
			 request->sort_order == ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
	if (request->sort_order != ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__NONE && !ascending_keys)
		return ks_etcd_fail(err, KS_E_STREAM_SORT);
	if (request->min_mod_revision || request->max_mod_revision || request->min_create_revision ||
	    request->max_create_revision)
		return ks_etcd_fail(err, KS_E_STREAM_FILTER);
	return KS_OK;
}

enum ks_status ks_validate_put(const Etcdserverpb__PutRequest *request, struct ks_err *err)
{
	if (request->key.len == 0)
		return ks_etcd_fail(err, KS_E_EMPTY_KEY);
	if (request->ignore_value && request->value.len != 0)
		return ks_etcd_fail(err, KS_E_VALUE_PROVIDED);
	if (request->ignore_lease && request->lease != 0)
		return ks_etcd_fail(err, KS_E_LEASE_PROVIDED);
	return KS_OK;
}

enum ks_status ks_validate_delete(const Etcdserverpb__DeleteRangeRequest *request, struct ks_err *err)
{
	return request->key.len == 0 ? ks_etcd_fail(err, KS_E_EMPTY_KEY) : KS_OK;
}

/* ---- transactions ---- */

static enum ks_status validate_txn(const Etcdserverpb__TxnRequest *request, size_t limit, unsigned depth,
				   struct ks_err *err);

static enum ks_status validate_op(const Etcdserverpb__RequestOp *op, size_t limit, unsigned depth, struct ks_err *err)
{
	switch (op->request_case) {
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
		return ks_validate_range(op->request_range, err);
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT:
		return ks_validate_put(op->request_put, err);
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE:
		return ks_validate_delete(op->request_delete_range, err);
	case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN:
		return validate_txn(op->request_txn, limit, depth, err);
	default:
		return ks_etcd_fail(err, KS_E_KEY_NOT_FOUND);
	}
}

static enum ks_status validate_ops(Etcdserverpb__RequestOp *const *ops, size_t count, size_t limit, unsigned depth,
				   struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = validate_op(ops[i], limit, depth, err);
	return status;
}

static size_t max3(size_t a, size_t b, size_t c)
{
	size_t ab = a > b ? a : b;

	return ab > c ? ab : c;
}

static enum ks_status validate_txn(const Etcdserverpb__TxnRequest *request, size_t limit, unsigned depth,
				   struct ks_err *err)
{
	size_t ops = max3(request->n_compare, request->n_success, request->n_failure);
	enum ks_status status;

	if (ops > limit || depth > KS_TXN_MAX_DEPTH)
		return ks_etcd_fail(err, KS_E_TOO_MANY_OPS);
	for (size_t i = 0; i < request->n_compare; i++)
		if (request->compare[i]->key.len == 0)
			return ks_etcd_fail(err, KS_E_EMPTY_KEY);
	status = validate_ops(request->success, request->n_success, limit - ops, depth + 1, err);
	if (status != KS_OK)
		return status;
	return validate_ops(request->failure, request->n_failure, limit - ops, depth + 1, err);
}

enum ks_status ks_validate_txn(const Etcdserverpb__TxnRequest *request, size_t max_txn_ops, struct ks_err *err)
{
	enum ks_status status = validate_txn(request, max_txn_ops, 1, err);

	if (status != KS_OK)
		return status;
	status = ks_validate_keys(request->success, request->n_success, err);
	if (status != KS_OK)
		return status;
	return ks_validate_keys(request->failure, request->n_failure, err);
}
