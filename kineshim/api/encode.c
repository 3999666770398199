/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Responses in wire form, see encode.h. Protobuf wants a message's size before its contents, so each kind has a size and a
 * write function. For transactions the sizes are computed once, bottom up, into an array in the order in which the
 * writer then needs them (each operation before what is nested in it).
 */
#include "api/encode.h"

enum { FIELD_HEADER = 1 };
enum { RANGE_KVS = 2, RANGE_MORE = 3, RANGE_COUNT = 4 };
enum { PUT_PREV_KV = 2 };
enum { DELETE_DELETED = 2, DELETE_PREV_KVS = 3 };
enum { TXN_SUCCEEDED = 2, TXN_RESPONSES = 3 };
enum { STREAM_RANGE_RESPONSE = 1 };

/* ---- KeyValues ---- */

static size_t kv_size(uint32_t field, const struct ks_kvref *ref)
{
	return ref->encoded ? ks_wire_nested_size(field, ref->encoded->size) : 0;
}

static void write_kv(struct ks_out *out, uint32_t field, const struct ks_kvref *ref)
{
	if (!ref->encoded)
		return;
	ks_wire_nested(&out->buf, field, ref->encoded->size);
	ks_out_bytes(out, ref->encoded);
}

/* *copied gets what will be written in place rather than by reference: the buffer is sized with it once. */
static size_t kvs_size(uint32_t field, const struct ks_kvref *kvs, size_t count, size_t *copied)
{
	size_t total = 0;

	for (size_t i = 0; i < count; i++) {
		size_t size = kv_size(field, &kvs[i]);

		total += size;
		*copied += size < KS_OUT_SHARE_SIZE ? size : 16;
	}
	return total;
}

static void write_kvs(struct ks_out *out, uint32_t field, const struct ks_kvref *kvs, size_t count)
{
	for (size_t i = 0; i < count; i++)
		write_kv(out, field, &kvs[i]);
}

/* ---- ranges ---- */

static size_t range_tail_size(bool more, int64_t count)
{
	return ks_wire_uint_size(RANGE_MORE, more) + ks_wire_uint_size(RANGE_COUNT, (uint64_t)count);
}

static void write_range_tail(struct ks_out *out, bool more, int64_t count)
{
	ks_wire_uint(&out->buf, RANGE_MORE, more);
	ks_wire_uint(&out->buf, RANGE_COUNT, (uint64_t)count);
}

void ks_encode_range(const struct ks_api *api, struct ks_out *out, const struct ks_range_result *range,
		     int64_t revision)
{
	size_t copied = ks_api_header_size(api, FIELD_HEADER, revision) + range_tail_size(range->more, range->count);

	kvs_size(RANGE_KVS, range->kvs, range->kv_count, &copied);
	ks_buf_reserve(&out->buf, copied);
	ks_api_write_header(api, &out->buf, FIELD_HEADER, revision);
	write_kvs(out, RANGE_KVS, range->kvs, range->kv_count);
	write_range_tail(out, range->more, range->count);
}

void ks_encode_range_chunk(const struct ks_api *api, struct ks_out *out, const struct ks_range_result *range, bool last,
			   int64_t count, bool more, int64_t revision)
{
	struct ks_buf header;
	size_t copied = 0;
	size_t size = kvs_size(RANGE_KVS, range->kvs, range->kv_count, &copied);

	/* Written apart, because its size must be known and a term may change in between. */
	ks_buf_init(&header, 128);
	if (last) {
		ks_api_write_header(api, &header, FIELD_HEADER, revision);
		size += header.size + range_tail_size(more, count);
	}
	out->buf.failed |= header.failed;
	ks_buf_reserve(&out->buf, copied + header.size + 32);
	ks_wire_nested(&out->buf, STREAM_RANGE_RESPONSE, size);
	ks_buf_append(&out->buf, header.data, header.size);
	write_kvs(out, RANGE_KVS, range->kvs, range->kv_count);
	if (last)
		write_range_tail(out, more, count);
	ks_buf_fini(&header);
}

/* ---- put and delete ---- */

void ks_encode_put(const struct ks_api *api, struct ks_out *out, const struct ks_result *result)
{
	ks_api_write_header(api, &out->buf, FIELD_HEADER, result->revision);
	write_kv(out, PUT_PREV_KV, &result->op.prev_kv);
}

static size_t prev_count(const struct ks_op_result *op)
{
	return op->del.prev_kvs ? (size_t)op->del.deleted : 0;
}

static void write_delete_body(struct ks_out *out, const struct ks_op_result *op)
{
	ks_wire_uint(&out->buf, DELETE_DELETED, (uint64_t)op->del.deleted);
	write_kvs(out, DELETE_PREV_KVS, op->del.prev_kvs, prev_count(op));
}

void ks_encode_delete(const struct ks_api *api, struct ks_out *out, const struct ks_result *result)
{
	ks_api_write_header(api, &out->buf, FIELD_HEADER, result->revision);
	write_delete_body(out, &result->op);
}

/* ---- transactions ---- */

struct sizes {
	size_t *of_op; /* in the order of writing */
	size_t next;
};

static size_t count_ops(const struct ks_txn_result *txn)
{
	size_t count = txn->op_count;

	for (size_t i = 0; i < txn->op_count; i++)
		if (txn->ops[i].kind == KS_OP_TXN)
			count += count_ops(txn->ops[i].txn);
	return count;
}

/* ResponseOp's arms are numbered in the order of enum ks_op_kind. */
static uint32_t arm_of(const struct ks_op_result *op)
{
	return (uint32_t)op->kind + 1;
}

/* Headers of nested answers carry a revision only, and those of nested transactions nothing (spec 0.3). */
static size_t nested_header_size(int64_t revision)
{
	return ks_wire_nested_size(FIELD_HEADER, ks_wire_uint_size(3, (uint64_t)revision));
}

static void write_nested_header(struct ks_out *out, int64_t revision)
{
	ks_wire_nested(&out->buf, FIELD_HEADER, ks_wire_uint_size(3, (uint64_t)revision));
	ks_wire_uint(&out->buf, 3, (uint64_t)revision);
}

static size_t measure_txn_body(const struct ks_txn_result *txn, struct sizes *sizes);

static size_t measure_op(const struct ks_op_result *op, struct sizes *sizes)
{
	size_t *size = &sizes->of_op[sizes->next++];
	size_t copied = 0;

	*size = nested_header_size(op->kind == KS_OP_TXN ? 0 : op->revision);
	switch (op->kind) {
	case KS_OP_RANGE:
		*size += kvs_size(RANGE_KVS, op->range.kvs, op->range.kv_count, &copied) +
			 range_tail_size(op->range.more, op->range.count);
		break;
	case KS_OP_PUT:
		*size += kv_size(PUT_PREV_KV, &op->prev_kv);
		break;
	case KS_OP_DELETE:
		*size += ks_wire_uint_size(DELETE_DELETED, (uint64_t)op->del.deleted) +
			 kvs_size(DELETE_PREV_KVS, op->del.prev_kvs, prev_count(op), &copied);
		break;
	case KS_OP_TXN:
		*size += measure_txn_body(op->txn, sizes);
		break;
	}
	return ks_wire_nested_size(arm_of(op), *size);
}

/* Everything but the header. */
static size_t measure_txn_body(const struct ks_txn_result *txn, struct sizes *sizes)
{
	size_t total = ks_wire_uint_size(TXN_SUCCEEDED, txn->succeeded);

	for (size_t i = 0; i < txn->op_count; i++)
		total += ks_wire_nested_size(TXN_RESPONSES, measure_op(&txn->ops[i], sizes));
	return total;
}

static void write_txn_body(struct ks_out *out, const struct ks_txn_result *txn, struct sizes *sizes);

static void write_op(struct ks_out *out, const struct ks_op_result *op, struct sizes *sizes)
{
	size_t size = sizes->of_op[sizes->next++];

	ks_wire_nested(&out->buf, TXN_RESPONSES, ks_wire_nested_size(arm_of(op), size));
	ks_wire_nested(&out->buf, arm_of(op), size);
	write_nested_header(out, op->kind == KS_OP_TXN ? 0 : op->revision);
	switch (op->kind) {
	case KS_OP_RANGE:
		write_kvs(out, RANGE_KVS, op->range.kvs, op->range.kv_count);
		write_range_tail(out, op->range.more, op->range.count);
		break;
	case KS_OP_PUT:
		write_kv(out, PUT_PREV_KV, &op->prev_kv);
		break;
	case KS_OP_DELETE:
		write_delete_body(out, op);
		break;
	case KS_OP_TXN:
		write_txn_body(out, op->txn, sizes);
		break;
	}
}

static void write_txn_body(struct ks_out *out, const struct ks_txn_result *txn, struct sizes *sizes)
{
	ks_wire_uint(&out->buf, TXN_SUCCEEDED, txn->succeeded);
	for (size_t i = 0; i < txn->op_count; i++)
		write_op(out, &txn->ops[i], sizes);
}

void ks_encode_txn(const struct ks_api *api, struct ks_arena *arena, struct ks_out *out,
		   const struct ks_txn_result *txn, int64_t revision)
{
	struct sizes sizes = {.of_op = ks_arena_array(arena, count_ops(txn), sizeof(size_t))};

	if (!sizes.of_op) {
		out->buf.failed = true;
		return;
	}
	measure_txn_body(txn, &sizes);
	ks_api_write_header(api, &out->buf, FIELD_HEADER, revision);
	sizes.next = 0;
	write_txn_body(out, txn, &sizes);
}
