/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of api/convert.h: every field arrives, operands follow their target, borrowed bytes are not copied. */
#include "tests/lib/tap.h"

#include "api/convert.h"

static uint8_t key[] = "key", end[] = "kez", value[] = "value";

static ProtobufCBinaryData data_of(uint8_t *bytes, size_t size)
{
	return (ProtobufCBinaryData){.len = size, .data = bytes};
}

static void range_keeps_every_field(void)
{
	Etcdserverpb__RangeRequest from = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct ks_range_req to;

	from.key = data_of(key, 3);
	from.range_end = data_of(end, 3);
	from.limit = -5;
	from.revision = 7;
	from.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
	from.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
	from.serializable = from.keys_only = from.count_only = true;
	from.min_mod_revision = 1;
	from.max_mod_revision = 2;
	from.min_create_revision = 3;
	from.max_create_revision = -4;
	ks_convert_range(&from, &to);
	CU_ASSERT_PTR_EQUAL(to.interval.key.data, key);
	CU_ASSERT_EQUAL(to.interval.key.size, 3);
	CU_ASSERT_PTR_EQUAL(to.interval.end.data, end);
	CU_ASSERT_EQUAL(to.limit, -5);
	CU_ASSERT_EQUAL(to.revision, 7);
	CU_ASSERT_EQUAL(to.sort_order, KS_SORT_DESCEND);
	CU_ASSERT_EQUAL(to.sort_target, KS_SORT_VALUE);
	CU_ASSERT_TRUE(to.serializable && to.keys_only && to.count_only);
	CU_ASSERT_EQUAL(to.min_mod_revision, 1);
	CU_ASSERT_EQUAL(to.max_mod_revision, 2);
	CU_ASSERT_EQUAL(to.min_create_revision, 3);
	CU_ASSERT_EQUAL(to.max_create_revision, -4);
}

static void put_and_delete_keep_every_field(void)
{
	Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__DeleteRangeRequest del = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	struct ks_put_req put_req;
	struct ks_delete_req del_req;

	put.key = data_of(key, 3);
	put.value = data_of(value, 5);
	put.lease = -9;
	put.prev_kv = put.ignore_lease = true;
	ks_convert_put(&put, &put_req);
	CU_ASSERT_PTR_EQUAL(put_req.value.data, value);
	CU_ASSERT_EQUAL(put_req.lease, -9);
	CU_ASSERT_TRUE(put_req.prev_kv && put_req.ignore_lease && !put_req.ignore_value);
	del.key = data_of(key, 3);
	del.prev_kv = true;
	ks_convert_delete(&del, &del_req);
	CU_ASSERT_PTR_EQUAL(del_req.interval.key.data, key);
	CU_ASSERT_EQUAL(del_req.interval.end.size, 0);
	CU_ASSERT_TRUE(del_req.prev_kv);
}

static struct ks_compare convert_compare(Etcdserverpb__Compare *from, struct ks_arena *arena)
{
	Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
	struct ks_txn_req txn;

	request.n_compare = 1;
	request.compare = &from;
	CU_ASSERT_TRUE_FATAL(ks_convert_txn(arena, &request, &txn));
	return txn.compares[0];
}

static void operand_counts_only_in_the_arm_of_its_target(void)
{
	static const struct {
		int target, arm;
	} arms[] = {{KS_CMP_VERSION, ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION},
		    {KS_CMP_CREATE, ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION},
		    {KS_CMP_MOD, ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION},
		    {KS_CMP_LEASE, ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE},
		    {17, ETCDSERVERPB__COMPARE__TARGET_UNION__NOT_SET}};
	struct ks_arena arena;

	ks_arena_init(&arena, 65536);
	for (size_t t = 0; t < 5; t++) {
		for (size_t a = 0; a < 5; a++) {
			Etcdserverpb__Compare from = ETCDSERVERPB__COMPARE__INIT;
			struct ks_compare to;

			from.result = (Etcdserverpb__Compare__CompareResult)99;
			from.target = (Etcdserverpb__Compare__CompareTarget)arms[t].target;
			from.target_union_case = (Etcdserverpb__Compare__TargetUnionCase)arms[a].arm;
			from.version = 42; /* all numeric arms share their place */
			from.key = data_of(key, 3);
			to = convert_compare(&from, &arena);
			CU_ASSERT_EQUAL(to.result, 99);
			CU_ASSERT_EQUAL(to.target, arms[t].target);
			CU_ASSERT_EQUAL(to.number, t == a && t < 4 ? 42 : 0);
			CU_ASSERT_EQUAL(to.value.size, 0);
		}
	}
	ks_arena_fini(&arena);
}

static void value_operand_is_borrowed(void)
{
	Etcdserverpb__Compare from = ETCDSERVERPB__COMPARE__INIT;
	struct ks_compare to;
	struct ks_arena arena;

	ks_arena_init(&arena, 65536);
	from.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
	from.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
	from.value = data_of(value, 5);
	to = convert_compare(&from, &arena);
	CU_ASSERT_PTR_EQUAL(to.value.data, value);
	from.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	to = convert_compare(&from, &arena);
	CU_ASSERT_EQUAL(to.number, 0);
	CU_ASSERT_EQUAL(to.value.size, 0);
	ks_arena_fini(&arena);
}

/* success: [range serializable, txn{success: put}], failure: [range] */
struct sample {
	Etcdserverpb__RangeRequest range[2];
	Etcdserverpb__PutRequest put;
	Etcdserverpb__TxnRequest inner, outer;
	Etcdserverpb__RequestOp ops[4];
	Etcdserverpb__RequestOp *success[2], *failure[1], *nested[1];
};

static void make_sample(struct sample *s)
{
	for (int i = 0; i < 4; i++)
		etcdserverpb__request_op__init(&s->ops[i]);
	etcdserverpb__range_request__init(&s->range[0]);
	etcdserverpb__range_request__init(&s->range[1]);
	etcdserverpb__put_request__init(&s->put);
	etcdserverpb__txn_request__init(&s->inner);
	etcdserverpb__txn_request__init(&s->outer);
	s->range[0].serializable = true;
	s->put.key = data_of(key, 3);
	s->ops[0].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	s->ops[0].request_range = &s->range[0];
	s->ops[1].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
	s->ops[1].request_txn = &s->inner;
	s->ops[2].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	s->ops[2].request_put = &s->put;
	s->ops[3].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	s->ops[3].request_range = &s->range[1];
	s->success[0] = &s->ops[0];
	s->success[1] = &s->ops[1];
	s->nested[0] = &s->ops[2];
	s->failure[0] = &s->ops[3];
	s->inner.success = s->nested;
	s->inner.n_success = 1;
	s->outer.success = s->success;
	s->outer.n_success = 2;
	s->outer.failure = s->failure;
	s->outer.n_failure = 1;
}

static void nested_txn_keeps_its_shape(void)
{
	struct sample sample;
	struct ks_arena arena;
	struct ks_txn_req txn;

	make_sample(&sample);
	ks_arena_init(&arena, 65536);
	CU_ASSERT_TRUE_FATAL(ks_convert_txn(&arena, &sample.outer, &txn));
	CU_ASSERT_EQUAL_FATAL(txn.success_count, 2);
	CU_ASSERT_EQUAL(txn.failure_count, 1);
	CU_ASSERT_EQUAL(txn.success[0].kind, KS_OP_RANGE);
	CU_ASSERT_TRUE(txn.success[0].range.serializable);
	CU_ASSERT_EQUAL_FATAL(txn.success[1].kind, KS_OP_TXN);
	CU_ASSERT_EQUAL(txn.success[1].txn->success_count, 1);
	CU_ASSERT_EQUAL(txn.success[1].txn->success[0].kind, KS_OP_PUT);
	CU_ASSERT_PTR_EQUAL(txn.success[1].txn->success[0].put.key.data, key);
	CU_ASSERT_EQUAL(txn.failure[0].kind, KS_OP_RANGE);
	ks_arena_fini(&arena);
}

static void full_arena_fails_at_every_allocation(void)
{
	struct sample sample;
	struct ks_arena arena;
	struct ks_txn_req txn;
	size_t failures = 0;

	make_sample(&sample);
	for (size_t limit = 0;; limit += 16) {
		bool done;

		ks_arena_init(&arena, limit);
		done = ks_convert_txn(&arena, &sample.outer, &txn);
		ks_arena_fini(&arena);
		if (done)
			break;
		failures++;
		CU_ASSERT_TRUE_FATAL(limit < 65536);
	}
	CU_ASSERT_TRUE(failures > 4);
}

static void read_only_means_nothing_but_ranges(void)
{
	struct sample sample;
	bool serializable;

	make_sample(&sample);
	CU_ASSERT_FALSE(ks_txn_is_read_only(&sample.outer, &serializable));
	sample.outer.n_success = 1;
	CU_ASSERT_TRUE(ks_txn_is_read_only(&sample.outer, &serializable));
	CU_ASSERT_FALSE(serializable);
	sample.range[1].serializable = true;
	CU_ASSERT_TRUE(ks_txn_is_read_only(&sample.outer, &serializable));
	CU_ASSERT_TRUE(serializable);
	sample.outer.n_success = sample.outer.n_failure = 0;
	CU_ASSERT_TRUE(ks_txn_is_read_only(&sample.outer, &serializable));
	CU_ASSERT_TRUE(serializable);
	/* A nested txn disqualifies, even an empty one. */
	sample.inner.n_success = 0;
	sample.outer.success = &sample.success[1];
	sample.outer.n_success = 1;
	CU_ASSERT_FALSE(ks_txn_is_read_only(&sample.outer, &serializable));
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"range_keeps_every_field", range_keeps_every_field},
		{"put_and_delete_keep_every_field", put_and_delete_keep_every_field},
		{"operand_counts_only_in_the_arm_of_its_target", operand_counts_only_in_the_arm_of_its_target},
		{"value_operand_is_borrowed", value_operand_is_borrowed},
		{"nested_txn_keeps_its_shape", nested_txn_keeps_its_shape},
		{"full_arena_fails_at_every_allocation", full_arena_fails_at_every_allocation},
		{"read_only_means_nothing_but_ranges", read_only_means_nothing_but_ranges},
		{NULL, NULL},
	};

	return tap_run("convert", tests);
}
