/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises of api/validate.h. Transactions are written in a small language: "pk;" puts k, "dk;" deletes k, "da-b;"
 * deletes [a, b) (an end of "*" is the zero byte), "rk;" reads k, "!" is an operation without an arm, "(a|b)" a nested transaction with
 * success a and failure b. The duplicate-key check is also compared with the rule of spec 2.4 written down naively.
 */
#include "tests/lib/tap.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/validate.h"
#include "base/arena.h"
#include "base/buf.h"

#define OPS_MAX 512

static struct ks_arena arena;

static void *get(size_t size)
{
	void *memory = ks_arena_zalloc(&arena, size);

	if (!memory)
		abort();
	return memory;
}

/* ---- the language ---- */

static ProtobufCBinaryData binary(const char *text, size_t size)
{
	ProtobufCBinaryData data = {.len = size, .data = get(size + 1)};

	memcpy(data.data, text, size);
	if (size == 1 && *text == '*')
		data.data[0] = 0;
	return data;
}

static size_t read_list(const char **text, Etcdserverpb__RequestOp ***list);

static Etcdserverpb__TxnRequest *read_txn(const char **text)
{
	Etcdserverpb__TxnRequest *txn = get(sizeof(*txn));

	etcdserverpb__txn_request__init(txn);
	txn->n_success = read_list(text, &txn->success);
	if (**text == '|') {
		++*text;
		txn->n_failure = read_list(text, &txn->failure);
	}
	return txn;
}

static void read_delete(const char *key, size_t size, Etcdserverpb__RequestOp *op)
{
	const char *dash = memchr(key, '-', size);

	op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
	op->request_delete_range = get(sizeof(*op->request_delete_range));
	etcdserverpb__delete_range_request__init(op->request_delete_range);
	op->request_delete_range->key = binary(key, dash ? (size_t)(dash - key) : size);
	if (dash)
		op->request_delete_range->range_end = binary(dash + 1, size - (size_t)(dash - key) - 1);
}

static Etcdserverpb__RequestOp *read_op(const char **text)
{
	Etcdserverpb__RequestOp *op = get(sizeof(*op));
	char kind = *(*text)++;
	const char *key = *text;
	size_t size;

	etcdserverpb__request_op__init(op);
	if (kind == '!')
		return op;
	if (kind == '(') {
		op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
		op->request_txn = read_txn(text);
		++*text;
		return op;
	}
	size = strcspn(key, ";");
	*text += size + 1;
	if (kind == 'd') {
		read_delete(key, size, op);
	} else if (kind == 'p') {
		op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		op->request_put = get(sizeof(*op->request_put));
		etcdserverpb__put_request__init(op->request_put);
		op->request_put->key = binary(key, size);
	} else {
		op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
		op->request_range = get(sizeof(*op->request_range));
		etcdserverpb__range_request__init(op->request_range);
		op->request_range->key = binary(key, size);
	}
	return op;
}

static size_t read_list(const char **text, Etcdserverpb__RequestOp ***list)
{
	Etcdserverpb__RequestOp *ops[OPS_MAX];
	size_t count = 0;

	while (**text && **text != '|' && **text != ')')
		ops[count++] = read_op(text);
	*list = get((count + 1) * sizeof(*ops));
	memcpy(*list, ops, count * sizeof(*ops));
	return count;
}

static Etcdserverpb__TxnRequest *txn_of(const char *text)
{
	return read_txn(&text);
}

static enum ks_status check(const char *text, struct ks_err *err)
{
	enum ks_status status;

	ks_arena_init(&arena, SIZE_MAX);
	status = ks_validate_txn(txn_of(text), 128, err);
	ks_arena_fini(&arena);
	return status;
}

static void accepted(const char *text)
{
	struct ks_err err = {0};

	if (check(text, &err) != KS_OK)
		printf("# %s: %s\n", text, err.text);
	CU_ASSERT_EQUAL(check(text, &err), KS_OK);
}

static void refused(const char *text, enum ks_etcd_error error)
{
	struct ks_err err = {0};
	enum ks_status status = check(text, &err);

	if (status != ks_etcd_status(error) || strcmp(err.text, ks_etcd_text(error)) != 0)
		printf("# %s: %s\n", text, err.text);
	CU_ASSERT_EQUAL(status, ks_etcd_status(error));
	CU_ASSERT_STRING_EQUAL(err.text, ks_etcd_text(error));
}

/* ---- single requests ---- */

static uint8_t some[] = "x";

static enum ks_status check_range(int order, int target, bool with_key, struct ks_err *err)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;

	if (with_key)
		request.key = (ProtobufCBinaryData){1, some};
	request.sort_order = (Etcdserverpb__RangeRequest__SortOrder)order;
	request.sort_target = (Etcdserverpb__RangeRequest__SortTarget)target;
	return ks_validate_range(&request, err);
}

static void range_needs_a_key_and_a_known_order(void)
{
	struct ks_err err;

	CU_ASSERT_EQUAL(check_range(0, 0, true, &err), KS_OK);
	CU_ASSERT_EQUAL(check_range(2, 4, true, &err), KS_OK);
	CU_ASSERT_EQUAL(check_range(3, 0, true, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: invalid sort option");
	CU_ASSERT_EQUAL(check_range(0, 5, true, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(check_range(-1, 0, true, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(check_range(0, -1, true, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(check_range(3, 0, false, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: key is not provided");
}

static void range_stream_takes_key_order_and_no_filters(void)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct ks_err err;

	request.key = (ProtobufCBinaryData){1, some};
	CU_ASSERT_EQUAL(ks_validate_range_stream(&request, &err), KS_OK);
	request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
	CU_ASSERT_EQUAL(ks_validate_range_stream(&request, &err), KS_OK);
	request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD;
	CU_ASSERT_EQUAL(ks_validate_range_stream(&request, &err), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(err.text, "RangeStream does not support custom sort orders");
	request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__NONE;
	CU_ASSERT_EQUAL(ks_validate_range_stream(&request, &err), KS_OK);
	request.min_mod_revision = 1;
	CU_ASSERT_EQUAL(ks_validate_range_stream(&request, &err), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(err.text, "RangeStream does not support revision filters");
}

static void put_finds_the_first_fault(void)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	struct ks_err err;

	request.ignore_value = true;
	request.value = (ProtobufCBinaryData){1, some};
	request.ignore_lease = true;
	request.lease = 1;
	CU_ASSERT_EQUAL(ks_validate_put(&request, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: key is not provided");
	request.key = (ProtobufCBinaryData){1, some};
	CU_ASSERT_EQUAL(ks_validate_put(&request, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: value is provided");
	request.value.len = 0;
	CU_ASSERT_EQUAL(ks_validate_put(&request, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: lease is provided");
	request.lease = 0;
	CU_ASSERT_EQUAL(ks_validate_put(&request, &err), KS_OK);
}

/* ---- transactions: spec 14.3 ---- */

static void same_key_twice_in_one_path_is_refused(void)
{
	refused("pa;pa;", KS_E_DUPLICATE_KEY);
	refused("pa;pb;pa;", KS_E_DUPLICATE_KEY);
	refused("pa;(pa;|)", KS_E_DUPLICATE_KEY);
	refused("(pa;|)(|pa;)", KS_E_DUPLICATE_KEY);
	refused("|pa;pa;", KS_E_DUPLICATE_KEY);
	refused("((pa;|)|)((pa;|)|)", KS_E_DUPLICATE_KEY);
	accepted("pa;|pa;");
	accepted("(pa;|pa;)");
	accepted("((pa;|pa;)|pa;)");
	accepted("pa;pab;pb;");
}

static void put_and_covering_delete_is_refused_on_one_level(void)
{
	refused("pa;da;", KS_E_DUPLICATE_KEY);
	refused("da;pa;", KS_E_DUPLICATE_KEY);
	refused("da-z;pb;", KS_E_DUPLICATE_KEY);
	refused("pa;da-b;", KS_E_DUPLICATE_KEY);
	accepted("pabc;dabb-abc;");
	accepted("da-b;pb;");
	accepted("da;pa0;");
	accepted("da;da-b;da;");
}

static void nested_deletes_and_puts_meet_in_order(void)
{
	refused("da;(pa;|)", KS_E_DUPLICATE_KEY);
	refused("(|pa;)da;", KS_E_DUPLICATE_KEY);
	refused("(da;|)pa;", KS_E_DUPLICATE_KEY);
	refused("pa;(da;|)", KS_E_DUPLICATE_KEY);
	refused("(da;|)(pa;|)", KS_E_DUPLICATE_KEY);
	/* quirk ii of spec 2.4 */
	accepted("(pa;|)(da;|)");
	accepted("(pa;|da;)");
}

static void delete_from_a_key_on_is_never_noticed(void)
{
	/* quirk i of spec 2.4 */
	accepted("da-*;pfoo;");
	accepted("dz-a;pb;");
	refused("da-*;pfoo;pfoo;", KS_E_DUPLICATE_KEY);
}

static void operations_are_counted_level_by_level(void)
{
	char text[8 * 200];
	size_t at = 0;

	for (int i = 0; i < 128; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "pk%d;", i);
	accepted(text);
	memmove(text + 1, text, at + 1);
	text[0] = '(';
	text[at + 1] = ')';
	text[at + 2] = '\0';
	refused(text, KS_E_TOO_MANY_OPS);
	at = 0;
	for (int i = 0; i < 129; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "pk%d;", i);
	refused(text, KS_E_TOO_MANY_OPS);
}

static void every_branch_is_validated(void)
{
	refused("|!", KS_E_KEY_NOT_FOUND);
	refused("|p;", KS_E_EMPTY_KEY);
	refused("r;", KS_E_EMPTY_KEY);
	refused("(|d;)", KS_E_EMPTY_KEY);
	refused("!p;", KS_E_KEY_NOT_FOUND);
	refused("p;!", KS_E_EMPTY_KEY);
	accepted("");
	accepted("ra;ra;");
	/* field errors come before duplicates */
	refused("pa;pa;|p;", KS_E_EMPTY_KEY);
}

static void compare_needs_a_key(void)
{
	Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
	Etcdserverpb__Compare *compares[] = {&compare};
	Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
	struct ks_err err;

	request.n_compare = 1;
	request.compare = compares;
	CU_ASSERT_EQUAL(ks_validate_txn(&request, 128, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: key is not provided");
	CU_ASSERT_EQUAL(ks_validate_txn(&request, 0, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: too many operations in txn request");
}

/* ---- the rule of spec 2.4, word by word ---- */

#define SET_MAX 4096

struct naive {
	ProtobufCBinaryData puts[SET_MAX];
	const Etcdserverpb__DeleteRangeRequest *deletes[SET_MAX];
	size_t put_count, delete_count;
};

static int cmp(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
	return ks_slice_cmp(ks_slice_of(a.data, a.len), ks_slice_of(b.data, b.len));
}

static bool put_known(const struct naive *set, ProtobufCBinaryData key)
{
	for (size_t i = 0; i < set->put_count; i++)
		if (cmp(set->puts[i], key) == 0)
			return true;
	return false;
}

static bool deleted(const struct naive *set, ProtobufCBinaryData key)
{
	for (size_t i = 0; i < set->delete_count; i++) {
		const Etcdserverpb__DeleteRangeRequest *request = set->deletes[i];

		if (request->range_end.len == 0 ? cmp(request->key, key) == 0
						: cmp(request->key, key) <= 0 && cmp(key, request->range_end) < 0)
			return true;
	}
	return false;
}

static bool naive_check(Etcdserverpb__RequestOp *const *ops, size_t count, struct naive *set)
{
	for (size_t i = 0; i < count; i++)
		if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE)
			set->deletes[set->delete_count++] = ops[i]->request_delete_range;
	for (size_t i = 0; i < count; i++) {
		struct naive *then, *other;
		size_t before = set->put_count;
		bool fine = true;

		if (ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN)
			continue;
		then = calloc(1, sizeof(*then));
		other = calloc(1, sizeof(*other));
		fine = naive_check(ops[i]->request_txn->success, ops[i]->request_txn->n_success, then) &&
		       naive_check(ops[i]->request_txn->failure, ops[i]->request_txn->n_failure, other);
		for (size_t k = 0; fine && k < then->put_count; k++) {
			fine = !put_known(set, then->puts[k]) && !deleted(set, then->puts[k]);
			if (fine)
				set->puts[set->put_count++] = then->puts[k];
		}
		for (size_t k = 0; fine && k < other->put_count; k++) {
			bool known = put_known(set, other->puts[k]);

			fine = !(known && !put_known(then, other->puts[k])) && !deleted(set, other->puts[k]);
			if (fine && !known)
				set->puts[set->put_count++] = other->puts[k];
		}
		for (size_t k = 0; k < then->delete_count; k++)
			set->deletes[set->delete_count++] = then->deletes[k];
		for (size_t k = 0; k < other->delete_count; k++)
			set->deletes[set->delete_count++] = other->deletes[k];
		free(then);
		free(other);
		if (!fine)
			return false;
		CU_ASSERT_TRUE(set->put_count >= before);
	}
	for (size_t i = 0; i < count; i++) {
		if (ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT)
			continue;
		if (put_known(set, ops[i]->request_put->key) || deleted(set, ops[i]->request_put->key))
			return false;
		set->puts[set->put_count++] = ops[i]->request_put->key;
	}
	return true;
}

static uint64_t seed = 20240229;

static unsigned pick(unsigned below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 33) % below;
}

static size_t random_key(char *text)
{
	size_t size = 1 + pick(2);

	for (size_t i = 0; i < size; i++)
		text[i] = (char)('a' + pick(6));
	return size;
}

static size_t random_list(char *text, unsigned depth)
{
	size_t at = 0;

	for (unsigned count = pick(5); count > 0; count--) {
		unsigned kind = pick(depth ? 8 : 6);

		if (kind >= 6) {
			text[at++] = '(';
			at += random_list(text + at, depth - 1);
			text[at++] = '|';
			at += random_list(text + at, depth - 1);
			text[at++] = ')';
			continue;
		}
		text[at++] = kind < 3 ? 'p' : 'd';
		at += random_key(text + at);
		if (kind >= 4) {
			text[at++] = '-';
			if (pick(8) == 0)
				text[at++] = '*';
			else
				at += random_key(text + at);
		}
		text[at++] = ';';
	}
	return at;
}

static void random_transactions_get_the_same_verdict_as_the_naive_rule(void)
{
	static char text[65536];
	size_t verdicts[2] = {0};

	for (int round = 0; round < 30000; round++) {
		struct naive *set = calloc(1, sizeof(*set));
		const Etcdserverpb__TxnRequest *txn;
		struct ks_err err;
		bool expected, got;

		text[random_list(text, 3)] = '\0';
		ks_arena_init(&arena, SIZE_MAX);
		txn = txn_of(text);
		expected = naive_check(txn->success, txn->n_success, set);
		got = ks_validate_txn(txn, 128, &err) == KS_OK;
		if (got != expected)
			printf("# round %d: %s is %s\n", round, text, expected ? "fine" : "a duplicate");
		CU_ASSERT_EQUAL(got, expected);
		verdicts[got]++;
		ks_arena_fini(&arena);
		free(set);
	}
	/* Both happen often, or the comparison means little. */
	CU_ASSERT_TRUE(verdicts[0] > 3000 && verdicts[1] > 3000);
}

/* ---- shape ---- */

static enum ks_status check_shape(struct ks_buf *buf, size_t max_ops)
{
	struct ks_err err = {0};
	enum ks_status status = ks_txn_shape_check(ks_slice_of(buf->data, buf->size), max_ops, &err);

	if (status)
		CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: too many operations in txn request");
	return status;
}

/* A chain of transactions in transactions; the innermost is empty. */
static void nest(struct ks_buf *buf, unsigned depth)
{
	struct ks_buf inner;

	for (unsigned i = 0; i < depth; i++) {
		ks_buf_init(&inner, SIZE_MAX);
		ks_wire_nested(&inner, 2, ks_wire_nested_size(4, buf->size));
		ks_wire_nested(&inner, 4, buf->size);
		ks_buf_append(&inner, buf->data, buf->size);
		ks_buf_fini(buf);
		*buf = inner;
	}
}

static void hostile_depth_is_refused_before_decoding(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, SIZE_MAX);
	nest(&buf, 255);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_OK);
	nest(&buf, 1);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_INVALID_ARGUMENT);
	nest(&buf, 2000);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_INVALID_ARGUMENT);
	ks_buf_fini(&buf);
}

static void hostile_breadth_is_refused_before_decoding(void)
{
	struct ks_buf buf;

	ks_buf_init(&buf, SIZE_MAX);
	for (int i = 0; i < 128; i++)
		ks_wire_nested(&buf, 2, 0);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_OK);
	ks_wire_nested(&buf, 1, 0);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_OK);
	ks_wire_nested(&buf, 2, 0);
	CU_ASSERT_EQUAL(check_shape(&buf, 128), KS_INVALID_ARGUMENT);
	ks_buf_fini(&buf);
}

static void malformed_bytes_are_left_to_the_decoder(void)
{
	static const char *const inputs[] = {"\xff", "\x12\x7f", "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x0b",
					     "\x12\x03\x22\x05"};
	struct ks_err err;

	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		CU_ASSERT_EQUAL(ks_txn_shape_check(ks_slice_str(inputs[i]), 128, &err), KS_OK);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"range_needs_a_key_and_a_known_order", range_needs_a_key_and_a_known_order},
		{"range_stream_takes_key_order_and_no_filters", range_stream_takes_key_order_and_no_filters},
		{"put_finds_the_first_fault", put_finds_the_first_fault},
		{"same_key_twice_in_one_path_is_refused", same_key_twice_in_one_path_is_refused},
		{"put_and_covering_delete_is_refused_on_one_level", put_and_covering_delete_is_refused_on_one_level},
		{"nested_deletes_and_puts_meet_in_order", nested_deletes_and_puts_meet_in_order},
		{"delete_from_a_key_on_is_never_noticed", delete_from_a_key_on_is_never_noticed},
		{"operations_are_counted_level_by_level", operations_are_counted_level_by_level},
		{"every_branch_is_validated", every_branch_is_validated},
		{"compare_needs_a_key", compare_needs_a_key},
		{"random_transactions_get_the_same_verdict_as_the_naive_rule",
		 random_transactions_get_the_same_verdict_as_the_naive_rule},
		{"hostile_depth_is_refused_before_decoding", hostile_depth_is_refused_before_decoding},
		{"hostile_breadth_is_refused_before_decoding", hostile_breadth_is_refused_before_decoding},
		{"malformed_bytes_are_left_to_the_decoder", malformed_bytes_are_left_to_the_decoder},
		{NULL, NULL},
	};

	return tap_run("validate", tests);
}
