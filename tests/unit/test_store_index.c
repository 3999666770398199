/* SPDX-License-Identifier: Apache-2.0 */
/* The B+tree against a sorted array, with keys of many shapes; its invariants are checked as it grows and shrinks. */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "store/key_index.h"
#include "tests/lib/tap.h"

static struct ks_slab slab;
static struct ks_index tree;
static uint64_t seed;

/* The sorted array. */
static struct entry {
	struct ks_key *key;
	bool live[KS_VIEWS];
} * entries;
static size_t count;

static uint64_t rnd(uint64_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 33) % below;
}

static void setup(size_t most)
{
	seed = 42;
	count = 0;
	entries = ks_xcalloc(most, sizeof(*entries));
	ks_slab_init(&slab);
	CU_ASSERT_FATAL(ks_index_init(&tree, &slab));
}

static void teardown(void)
{
	ks_index_fini(&tree);
	ks_slab_fini(&slab);
	free(entries);
}

static size_t lower(struct ks_slice key)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (ks_slice_cmp(ks_key_slice(entries[middle].key), key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void insert(struct ks_slice key)
{
	size_t at = lower(key);
	bool added, expected = at == count || !ks_slice_eq(ks_key_slice(entries[at].key), key);
	struct ks_key *inserted = ks_index_insert(&tree, key, &added);

	CU_ASSERT_PTR_NOT_NULL_FATAL(inserted);
	CU_ASSERT_EQUAL_FATAL(added, expected);
	if (!added) {
		CU_ASSERT_PTR_EQUAL(inserted, entries[at].key);
		return;
	}
	memmove(entries + at + 1, entries + at, (count - at) * sizeof(*entries));
	entries[at] = (struct entry){.key = inserted};
	count++;
}

static void remove_at(size_t at)
{
	ks_index_remove(&tree, entries[at].key);
	ks_index_free_key(&tree, entries[at].key);
	memmove(entries + at, entries + at + 1, (count - at - 1) * sizeof(*entries));
	count--;
}

static void toggle(size_t at)
{
	enum ks_view view = (enum ks_view)rnd(KS_VIEWS);

	entries[at].live[view] = !entries[at].live[view];
	ks_index_set_live(&tree, entries[at].key, view, entries[at].live[view]);
}

static void compare_all(void)
{
	struct ks_index_pos pos = ks_index_seek(&tree, ks_slice_of("", 0));

	ks_index_check(&tree);
	CU_ASSERT_EQUAL_FATAL(tree.keys, count);
	for (size_t i = 0; i < count; i++) {
		CU_ASSERT_PTR_NOT_NULL_FATAL(pos.leaf);
		CU_ASSERT_PTR_EQUAL_FATAL(pos.leaf->keys[pos.i], entries[i].key);
		for (unsigned view = 0; view < KS_VIEWS; view++)
			CU_ASSERT_EQUAL((pos.leaf->live[view] >> pos.i & 1) != 0, entries[i].live[view]);
		if (++pos.i == pos.leaf->count)
			pos = (struct ks_index_pos){.leaf = pos.leaf->next};
	}
	CU_ASSERT_PTR_NULL(pos.leaf);
}

static void compare_interval(struct ks_slice from, struct ks_slice to)
{
	struct ks_interval interval = {.key = from, .end = to};
	size_t expected[KS_VIEWS] = {0};
	struct ks_index_pos end;
	size_t behind;

	for (size_t i = 0; i < count; i++) {
		struct ks_slice key = ks_key_slice(entries[i].key);
		bool inside = to.size == 0 ? ks_slice_eq(key, from)
					   : ks_slice_cmp(key, from) >= 0 &&
						     ((to.size == 1 && !to.data[0]) || ks_slice_cmp(key, to) < 0);

		for (unsigned view = 0; view < KS_VIEWS; view++)
			expected[view] += inside && entries[i].live[view];
	}
	for (unsigned view = 0; view < KS_VIEWS; view++)
		CU_ASSERT_EQUAL(ks_index_count(&tree, &interval, (enum ks_view)view), expected[view]);
	if (to.size == 0 || (to.size == 1 && !to.data[0]) || ks_slice_cmp(from, to) >= 0)
		return;
	behind = lower(to);
	end = ks_index_seek_end(&tree, &interval);
	if (behind == count) {
		CU_ASSERT_PTR_NULL(end.leaf);
	} else {
		CU_ASSERT_PTR_EQUAL(end.leaf->keys[end.i], entries[behind].key);
	}
}

/* ---- shapes of keys ---- */

static char bytes[512];

static struct ks_slice random_key(unsigned shape, size_t n)
{
	size_t size;

	switch (shape) {
	case 0: /* short, few different bytes, many prefixes of each other, zeros and 0xff */
		size = 1 + rnd(6);
		for (size_t i = 0; i < size; i++)
			bytes[i] = "\0\1\xff"[rnd(3)];
		return ks_slice_of(bytes, size);
	case 1: /* a long common beginning */
		size = (size_t)snprintf(bytes, sizeof(bytes), "/registry/apps/deployments/namespace-%llu/%llu",
					(unsigned long long)rnd(9), (unsigned long long)rnd(5000));
		return ks_slice_of(bytes, size);
	case 2: /* ascending */
		size = (size_t)snprintf(bytes, sizeof(bytes), "key-%08zu", n);
		return ks_slice_of(bytes, size);
	case 3: /* descending */
		size = (size_t)snprintf(bytes, sizeof(bytes), "key-%08zu", 90000000 - n);
		return ks_slice_of(bytes, size);
	case 4: /* differences far behind, beyond the number that a node keeps of a key */
		memset(bytes, 'p', 300);
		size = 100 + rnd(200);
		bytes[size / 2] = (char)('a' + rnd(3));
		return ks_slice_of(bytes, size);
	default: /* random bytes of random length */
		size = 1 + rnd(40);
		for (size_t i = 0; i < size; i++)
			bytes[i] = (char)rnd(256);
		return ks_slice_of(bytes, size);
	}
}

static void shape_matches_a_sorted_array(unsigned shape)
{
	const size_t most = 6000;

	setup(most);
	for (size_t n = 0; n < most; n++) {
		insert(random_key(shape, n));
		if (rnd(3) == 0)
			toggle(rnd(count));
		if (n % 1000 == 999)
			compare_all();
	}
	for (unsigned i = 0; i < 50; i++) {
		struct ks_key *from = entries[rnd(count)].key, *to = entries[rnd(count)].key;

		compare_interval(ks_key_slice(from), ks_key_slice(to));
		compare_interval(ks_key_slice(from), ks_slice_of("", 1));
		compare_interval(ks_key_slice(from), ks_slice_of(NULL, 0));
		compare_interval(ks_key_slice(from), random_key(shape, rnd(most)));
	}
	/* Shrinks with insertions in between, down to nothing. */
	for (size_t n = 0; count > 0; n++) {
		remove_at(shape == 2 ? 0 : shape == 3 ? count - 1 : rnd(count));
		if (rnd(4) == 0 && count < most)
			insert(random_key(shape, rnd(most)));
		if (count > 0 && rnd(3) == 0)
			toggle(rnd(count));
		if (n % 1000 == 999)
			compare_all();
	}
	compare_all();
	insert(ks_slice_of("again", 5));
	compare_all();
	teardown();
}

#define SHAPE(name, number)                           \
	static void name(void)                        \
	{                                             \
		shape_matches_a_sorted_array(number); \
	}

SHAPE(short_keys_with_zeros_and_prefixes, 0)
SHAPE(keys_with_a_long_common_beginning, 1)
SHAPE(ascending_keys, 2)
SHAPE(descending_keys, 3)
SHAPE(keys_that_differ_far_behind, 4)
SHAPE(keys_of_random_bytes, 5)

static void find_gives_exactly_the_key(void)
{
	setup(10);
	insert(ks_slice_of("a", 1));
	insert(ks_slice_of("a\0", 2));
	insert(ks_slice_of("b", 1));
	CU_ASSERT_PTR_EQUAL(ks_index_find(&tree, ks_slice_of("a", 1)), entries[0].key);
	CU_ASSERT_PTR_EQUAL(ks_index_find(&tree, ks_slice_of("a\0", 2)), entries[1].key);
	CU_ASSERT_PTR_NULL(ks_index_find(&tree, ks_slice_of("a\0\0", 3)));
	CU_ASSERT_PTR_NULL(ks_index_find(&tree, ks_slice_of("aa", 2)));
	CU_ASSERT_PTR_NULL(ks_index_find(&tree, ks_slice_of("", 0)));
	teardown();
}

static void ascending_keys_leave_full_leaves(void)
{
	size_t leaves = 0;

	setup(6400);
	for (size_t n = 0; n < 6400; n++)
		insert(random_key(2, n));
	for (const struct ks_leaf *leaf = tree.first; leaf; leaf = leaf->next)
		leaves++;
	CU_ASSERT_EQUAL(leaves, 100);
	teardown();
}

static void leaves_are_merged_when_keys_go(void)
{
	size_t leaves = 0;

	setup(6400);
	for (size_t n = 0; n < 6400; n++)
		insert(random_key(2, n));
	for (size_t i = count; i-- > 0;) {
		if (i % 16 != 0)
			remove_at(i);
	}
	compare_all();
	for (const struct ks_leaf *leaf = tree.first; leaf; leaf = leaf->next)
		leaves++;
	CU_ASSERT(leaves <= 400 / (KS_LEAF_KEYS / 4));
	teardown();
}

#define T(name)             \
	{                   \
#name, name \
	}

int main(void)
{
	return tap_run("store_index", (const struct tap_test[]){
					      T(find_gives_exactly_the_key),
					      T(short_keys_with_zeros_and_prefixes),
					      T(keys_with_a_long_common_beginning),
					      T(ascending_keys),
					      T(descending_keys),
					      T(keys_that_differ_far_behind),
					      T(keys_of_random_bytes),
					      T(ascending_keys_leave_full_leaves),
					      T(leaves_are_merged_when_keys_go),
					      {NULL, NULL},
				      });
}
