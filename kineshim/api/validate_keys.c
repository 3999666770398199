/* SPDX-License-Identifier: Apache-2.0 */
/*
 * May the puts and deletes of a transaction stand together? (spec 2.4, rule 4)
 *
 * Each list of operations yields the keys it puts, P, and the ranges it deletes, D; nested lists are folded into
 * their parent's in the order of the spec, and each fold looks for keys that meet. P is a sorted array of distinct keys, D a sorted
 * array of ranges that neither overlap nor touch, so a fold is a merge and a lookup a binary search: no hostile nesting gets past
 * O(n · depth · log n). All arrays of the recursion lie in two stacks, one for keys and one for ranges; a nested list builds
 * its own directly above its parent's and is then merged down:
 *
 *	keys:  | P of the list | P of nested success | P of nested failure | free …
 */
#include "api/validate_keys.h"

#include <stdlib.h>

#include "api/errors.h"
#include "base/bytes.h"

/* A range's end: the key itself, or the first key after it (as if a zero byte were appended) for the delete of one key. */
struct bound {
	struct ks_slice key;
	bool after;
};

struct range {
	struct ks_slice from;
	struct bound to;
};

struct stacks {
	struct ks_slice *keys;
	struct ks_slice *key_scratch;
	struct range *ranges;
	struct range *range_scratch;
};

/* Part of the stacks. */
struct sets {
	size_t key_at, key_count;
	size_t range_at, range_count;
};

static size_t keys_end(const struct sets *sets)
{
	return sets->key_at + sets->key_count;
}

static size_t ranges_end(const struct sets *sets)
{
	return sets->range_at + sets->range_count;
}

static struct ks_slice slice_of(ProtobufCBinaryData data)
{
	return ks_slice_of(data.data, data.len);
}

/* ---- order ---- */

/* 'after' adds one zero byte at the end: it decides only against equal bytes, or against the same bytes with a zero behind. */
static int cmp_bound(struct bound a, struct bound b)
{
	size_t common = a.key.size < b.key.size ? a.key.size : b.key.size;
	int order = common ? memcmp(a.key.data, b.key.data, common) : 0;

	if (order)
		return order;
	if (a.key.size == b.key.size)
		return (int)a.after - (int)b.after;
	if (a.key.size > b.key.size)
		return -cmp_bound(b, a);
	if (!a.after || b.key.data[common] != 0)
		return -1;
	/* a is b's first common + 1 bytes. */
	return b.key.size > common + 1 || b.after ? -1 : 0;
}

static int cmp_keys(const void *a, const void *b)
{
	return ks_slice_cmp(*(const struct ks_slice *)a, *(const struct ks_slice *)b);
}

static int cmp_ranges(const void *a, const void *b)
{
	return ks_slice_cmp(((const struct range *)a)->from, ((const struct range *)b)->from);
}

/* ---- lookups ---- */

static bool has_key(const struct ks_slice *keys, size_t count, struct ks_slice key)
{
	return count > 0 && bsearch(&key, keys, count, sizeof(key), cmp_keys) != NULL;
}

static bool share_a_key(const struct ks_slice *a, size_t a_count, const struct ks_slice *b, size_t b_count)
{
	if (a_count > b_count)
		return share_a_key(b, b_count, a, a_count);
	for (size_t i = 0; i < a_count; i++)
		if (has_key(b, b_count, a[i]))
			return true;
	return false;
}

/* Index of the first key that is not before 'key'. */
static size_t lower_key(const struct ks_slice *keys, size_t count, struct ks_slice key)
{
	size_t low = 0;

	while (low < count) {
		size_t middle = low + (count - low) / 2;

		if (ks_slice_cmp(keys[middle], key) < 0)
			low = middle + 1;
		else
			count = middle;
	}
	return low;
}

static bool in_range(const struct range *range, struct ks_slice key)
{
	return ks_slice_cmp(range->from, key) <= 0 && cmp_bound((struct bound){key, false}, range->to) < 0;
}

static bool key_in_ranges(const struct range *ranges, size_t count, struct ks_slice key)
{
	size_t low = 0;

	while (low < count) {
		size_t middle = low + (count - low) / 2;

		if (ks_slice_cmp(ranges[middle].from, key) <= 0)
			low = middle + 1;
		else
			count = middle;
	}
	return low > 0 && in_range(&ranges[low - 1], key);
}

/* Is one of the keys in one of the ranges? Searches for the fewer in the more. */
static bool meet(const struct ks_slice *keys, size_t key_count, const struct range *ranges, size_t range_count)
{
	if (key_count < range_count) {
		for (size_t i = 0; i < key_count; i++)
			if (key_in_ranges(ranges, range_count, keys[i]))
				return true;
		return false;
	}
	for (size_t i = 0; i < range_count; i++) {
		size_t first = lower_key(keys, key_count, ranges[i].from);

		if (first < key_count && in_range(&ranges[i], keys[first]))
			return true;
	}
	return false;
}

/* ---- merging neighbours on the stacks ---- */

/* keys[at, +a) and the b keys behind them become one sorted array without repetitions; returns its size. */
static size_t merge_keys(const struct stacks *stacks, size_t at, size_t a_count, size_t b_count)
{
	struct ks_slice *a = stacks->keys + at;
	struct ks_slice *b = a + a_count;
	size_t count = 0;
	size_t i = 0, j = 0;

	if (a_count == 0 || b_count == 0)
		return a_count + b_count;
	while (i < a_count || j < b_count) {
		int order = i == a_count ? 1 : j == b_count ? -1 : ks_slice_cmp(a[i], b[j]);

		stacks->key_scratch[count++] = order <= 0 ? a[i] : b[j];
		i += order <= 0;
		j += order >= 0;
	}
	memcpy(a, stacks->key_scratch, count * sizeof(*a));
	return count;
}

/* Joins ranges of a sorted array that overlap or touch. */
static size_t join_ranges(struct range *ranges, size_t count)
{
	size_t last = 0;

	if (count == 0)
		return 0;
	for (size_t i = 1; i < count; i++) {
		if (cmp_bound((struct bound){ranges[i].from, false}, ranges[last].to) > 0)
			ranges[++last] = ranges[i];
		else if (cmp_bound(ranges[i].to, ranges[last].to) > 0)
			ranges[last].to = ranges[i].to;
	}
	return last + 1;
}

static size_t merge_ranges(const struct stacks *stacks, size_t at, size_t a_count, size_t b_count)
{
	struct range *a = stacks->ranges + at;
	struct range *b = a + a_count;
	size_t count = 0;
	size_t i = 0, j = 0;

	if (a_count == 0 || b_count == 0)
		return a_count + b_count;
	while (i < a_count || j < b_count) {
		bool take_a = j == b_count || (i < a_count && ks_slice_cmp(a[i].from, b[j].from) <= 0);

		stacks->range_scratch[count++] = take_a ? a[i++] : b[j++];
	}
	memcpy(a, stacks->range_scratch, count * sizeof(*a));
	return join_ranges(a, count);
}

/* ---- the rule ---- */

/* Step a: the deletes of this very list. */
static void collect_ranges(const struct stacks *stacks, Etcdserverpb__RequestOp *const *ops, size_t count,
			   struct sets *sets)
{
	struct range *ranges = stacks->ranges + sets->range_at;
	size_t found = 0;

	for (size_t i = 0; i < count; i++) {
		const Etcdserverpb__DeleteRangeRequest *request = ops[i]->request_delete_range;
		struct range range;

		if (ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE)
			continue;
		range.from = slice_of(request->key);
		range.to = request->range_end.len ? (struct bound){slice_of(request->range_end), false}
						  : (struct bound){range.from, true};
		/* The end is taken literally: "every key from here on" is a range that holds nothing (quirk i). */
		if (cmp_bound((struct bound){range.from, false}, range.to) < 0)
			ranges[found++] = range;
	}
	qsort(ranges, found, sizeof(*ranges), cmp_ranges);
	sets->range_count = join_ranges(ranges, found);
}

static bool collect_sets(const struct stacks *stacks, Etcdserverpb__RequestOp *const *ops, size_t count,
			 struct sets *sets);

/* Step b: one nested transaction is folded in. False: a key is given twice. */
static bool fold_txn(const struct stacks *stacks, const Etcdserverpb__TxnRequest *txn, struct sets *sets)
{
	struct sets success = {.key_at = keys_end(sets), .range_at = ranges_end(sets)};
	struct sets failure;
	const struct ks_slice *keys = stacks->keys;
	const struct range *ranges = stacks->ranges + sets->range_at;

	if (!collect_sets(stacks, txn->success, txn->n_success, &success))
		return false;
	failure = (struct sets){.key_at = keys_end(&success), .range_at = ranges_end(&success)};
	if (!collect_sets(stacks, txn->failure, txn->n_failure, &failure))
		return false;
	/* Only one of the two branches runs, so they may put the same key, but neither may meet what came before. */
	if (share_a_key(keys + success.key_at, success.key_count, keys + sets->key_at, sets->key_count) ||
	    share_a_key(keys + failure.key_at, failure.key_count, keys + sets->key_at, sets->key_count) ||
	    meet(keys + success.key_at, success.key_count, ranges, sets->range_count) ||
	    meet(keys + failure.key_at, failure.key_count, ranges, sets->range_count))
		return false;
	success.key_count = merge_keys(stacks, success.key_at, success.key_count, failure.key_count);
	sets->key_count = merge_keys(stacks, sets->key_at, sets->key_count, success.key_count);
	/* The nested deletes count for what follows, not for this transaction's own keys (quirk ii). */
	success.range_count = merge_ranges(stacks, success.range_at, success.range_count, failure.range_count);
	sets->range_count = merge_ranges(stacks, sets->range_at, sets->range_count, success.range_count);
	return true;
}

/* Step c: the puts of this very list. */
static bool fold_puts(const struct stacks *stacks, Etcdserverpb__RequestOp *const *ops, size_t count, struct sets *sets)
{
	struct ks_slice *puts = stacks->keys + keys_end(sets);
	size_t found = 0;

	for (size_t i = 0; i < count; i++)
		if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT)
			puts[found++] = slice_of(ops[i]->request_put->key);
	qsort(puts, found, sizeof(*puts), cmp_keys);
	for (size_t i = 1; i < found; i++)
		if (ks_slice_eq(puts[i - 1], puts[i]))
			return false;
	if (share_a_key(puts, found, stacks->keys + sets->key_at, sets->key_count) ||
	    meet(puts, found, stacks->ranges + sets->range_at, sets->range_count))
		return false;
	sets->key_count = merge_keys(stacks, sets->key_at, sets->key_count, found);
	return true;
}

static bool collect_sets(const struct stacks *stacks, Etcdserverpb__RequestOp *const *ops, size_t count,
			 struct sets *sets)
{
	collect_ranges(stacks, ops, count, sets);
	for (size_t i = 0; i < count; i++)
		if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN &&
		    !fold_txn(stacks, ops[i]->request_txn, sets))
			return false;
	return fold_puts(stacks, ops, count, sets);
}

static void count_ops(Etcdserverpb__RequestOp *const *ops, size_t count, size_t *puts, size_t *deletes)
{
	for (size_t i = 0; i < count; i++) {
		const Etcdserverpb__RequestOp *op = ops[i];

		*puts += op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		*deletes += op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
		if (op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN) {
			count_ops(op->request_txn->success, op->request_txn->n_success, puts, deletes);
			count_ops(op->request_txn->failure, op->request_txn->n_failure, puts, deletes);
		}
	}
}

enum ks_status ks_validate_keys(Etcdserverpb__RequestOp *const *ops, size_t count, struct ks_err *err)
{
	struct stacks stacks = {0};
	struct sets sets = {0};
	enum ks_status status = KS_OK;
	size_t puts = 0, deletes = 0;

	count_ops(ops, count, &puts, &deletes);
	if (puts == 0 || puts + deletes < 2)
		return KS_OK;
	stacks.keys = calloc(puts * 2, sizeof(*stacks.keys));
	stacks.ranges = calloc(deletes * 2 + 1, sizeof(*stacks.ranges));
	if (stacks.keys && stacks.ranges) {
		stacks.key_scratch = stacks.keys + puts;
		stacks.range_scratch = stacks.ranges + deletes;
		if (!collect_sets(&stacks, ops, count, &sets))
			status = ks_etcd_fail(err, KS_E_DUPLICATE_KEY);
	} else {
		status = ks_etcd_fail(err, KS_E_NO_MEMORY);
	}
	free(stacks.keys);
	free(stacks.ranges);
	return status;
}
