/* SPDX-License-Identifier: Apache-2.0 */
/*
 * B+tree, see key_index.h; what its nodes are made of is in key_index_priv.h. Here are its life and all searching: nothing here changes
 * where a key lies.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "store/key_index_priv.h"

_Static_assert(FANOUT == 64, "the live bits of a leaf are one uint64_t");

/* ---- life cycle ---- */

bool ks_index_init(struct ks_index *index, struct ks_slab *slab)
{
	*index = (struct ks_index){.slab = slab};
	index->root = index->first = ks_index_new_node(index, sizeof(struct ks_leaf));
	return index->first != NULL;
}

static void free_node(struct ks_index *index, void *node, uint32_t height)
{
	if (height > 0) {
		struct ks_inner *inner = node;

		for (uint32_t i = 0; i < inner->count; i++) {
			free_node(index, inner->children[i], height - 1);
			if (i > 0)
				ks_index_free_sep(index, inner->seps[i]);
		}
		ks_index_free_inner(index, inner);
	} else {
		struct ks_leaf *leaf = node;

		for (uint32_t i = 0; i < leaf->count; i++) {
			if (leaf->keys[i]->count > 1)
				free(leaf->keys[i]->list);
			ks_index_free_key(index, leaf->keys[i]);
		}
		ks_index_free_leaf(index, leaf);
	}
}

void ks_index_fini(struct ks_index *index)
{
	if (index->root)
		free_node(index, index->root, index->height);
	*index = (struct ks_index){0};
}

/* ---- searching ---- */

/* How many of the ascending numbers are smaller than 'limit'; without branches that depend on them. */
static uint32_t count_less(const uint64_t *numbers, uint32_t count, uint64_t limit)
{
	uint32_t base = 0;

	while (count > 1) {
		uint32_t half = count / 2;

		base += numbers[base + half - 1] < limit ? half : 0;
		count -= half;
	}
	return base + (count == 1 && numbers[base] < limit);
}

/* All lines of a node's numbers at once, instead of one after the other as the search needs them. */
static void prefetch_numbers(const uint64_t *numbers)
{
	for (uint32_t i = 0; i < FANOUT; i += 8)
		__builtin_prefetch(&numbers[i]);
}

static uint32_t count_equal(const uint64_t *numbers, uint32_t count, uint32_t from, uint64_t value)
{
	if (from == count || numbers[from] != value)
		return 0;
	if (from + 1 == count || numbers[from + 1] != value)
		return 1;
	return value == UINT64_MAX ? count - from : count_less(numbers + from, count - from, value + 1);
}

uint32_t ks_leaf_lower(const struct ks_leaf *leaf, struct ks_slice key, bool *exact)
{
	uint64_t prefix;
	uint32_t low, high;

	*exact = false;
	prefetch_numbers(leaf->prefix);
	if (leaf->count == 0)
		return 0;
	prefix = ks_prefix_at(key, leaf->skip);
	low = count_less(leaf->prefix, leaf->count, prefix);
	if (leaf->skip) {
		/* Any key will do; this one is read below, too. */
		const struct ks_key *near = leaf->keys[low < leaf->count ? low : low - 1];
		int order = ks_cmp_common(key, ks_key_slice(near), leaf->skip);

		if (order)
			return order < 0 ? 0 : leaf->count;
	}
	high = low + count_equal(leaf->prefix, leaf->count, low, prefix);
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = ks_slice_cmp(ks_key_slice(leaf->keys[middle]), key);

		if (order == 0) {
			*exact = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The child whose keys 'key' belongs to. */
static uint32_t inner_child(const struct ks_inner *inner, struct ks_slice key)
{
	uint32_t seps = inner->count - 1;
	uint64_t prefix;
	uint32_t low, high;

	prefetch_numbers(inner->prefix);
	if (seps == 0)
		return 0;
	prefix = ks_prefix_at(key, inner->skip);
	low = count_less(inner->prefix + 1, seps, prefix);
	if (inner->skip) {
		int order = ks_cmp_common(key, ks_sep_slice(inner->seps[low < seps ? low + 1 : low]), inner->skip);

		if (order)
			return order < 0 ? 0 : seps;
	}
	high = low + count_equal(inner->prefix + 1, seps, low, prefix);
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (ks_slice_cmp(ks_sep_slice(inner->seps[middle + 1]), key) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct ks_leaf *ks_index_descend(const struct ks_index *index, struct ks_slice key, struct ks_index_path *path)
{
	void *node = index->root;

	for (uint32_t level = 0; level < index->height; level++) {
		struct ks_inner *inner = node;
		uint32_t child = inner_child(inner, key);

		if (path) {
			path->node[level] = inner;
			path->child[level] = child;
		}
		node = inner->children[child];
	}
	if (path)
		path->leaf = node;
	return node;
}

/* ---- keys and places ---- */

struct ks_key *ks_index_find(const struct ks_index *index, struct ks_slice key)
{
	const struct ks_leaf *leaf = ks_index_descend(index, key, NULL);
	bool exact;
	uint32_t at = ks_leaf_lower(leaf, key, &exact);

	return exact ? leaf->keys[at] : NULL;
}

static struct ks_index_pos position(struct ks_leaf *leaf, uint32_t i)
{
	if (i < leaf->count)
		return (struct ks_index_pos){.leaf = leaf, .i = i};
	return (struct ks_index_pos){.leaf = leaf->next, .i = 0};
}

struct ks_index_pos ks_index_seek(const struct ks_index *index, struct ks_slice key)
{
	struct ks_leaf *leaf = ks_index_descend(index, key, NULL);
	bool exact;

	return position(leaf, ks_leaf_lower(leaf, key, &exact));
}

static bool unbounded(struct ks_slice end)
{
	return end.size == 1 && end.data[0] == 0;
}

struct ks_index_pos ks_index_seek_end(const struct ks_index *index, const struct ks_interval *interval)
{
	struct ks_leaf *leaf;
	uint32_t at;
	bool exact;

	if (unbounded(interval->end))
		return (struct ks_index_pos){0};
	if (interval->end.size == 0) {
		leaf = ks_index_descend(index, interval->key, NULL);
		at = ks_leaf_lower(leaf, interval->key, &exact);
		return position(leaf, at + exact);
	}
	/* An inverted interval is empty. */
	return ks_index_seek(index, ks_slice_cmp(interval->key, interval->end) < 0 ? interval->end : interval->key);
}

/* ---- what is live ---- */

bool ks_index_is_live(const struct ks_index *index, struct ks_slice key, enum ks_view view)
{
	const struct ks_leaf *leaf = ks_index_descend(index, key, NULL);
	bool exact;
	uint32_t at = ks_leaf_lower(leaf, key, &exact);

	return exact && (leaf->live[view] >> at & 1);
}

static struct ks_index_path *finger_to(struct ks_index *index, const struct ks_key *key, uint32_t *at)
{
	struct ks_index_path *path = &index->finger;
	struct ks_slice bytes = ks_key_slice(key);
	bool exact = false;

	if (path->leaf)
		*at = ks_leaf_lower(path->leaf, bytes, &exact);
	if (!exact)
		*at = ks_leaf_lower(ks_index_descend(index, bytes, path), bytes, &exact);
	KS_ASSERT(exact && path->leaf->keys[*at] == key);
	return path;
}

void ks_index_set_live(struct ks_index *index, const struct ks_key *key, enum ks_view view, bool live)
{
	uint32_t at;
	struct ks_index_path *path = finger_to(index, key, &at);

	if ((path->leaf->live[view] >> at & 1) == live)
		return;
	path->leaf->live[view] ^= (uint64_t)1 << at;
	for (uint32_t level = 0; level < index->height; level++) {
		uint32_t *count = &path->node[level]->live[view][path->child[level]];

		*count += live ? 1u : UINT32_MAX;
	}
}

/* The number of live keys before 'key'. */
static size_t rank(const struct ks_index *index, struct ks_slice key, enum ks_view view)
{
	const void *node = index->root;
	const struct ks_leaf *leaf;
	size_t live = 0;
	bool exact;

	for (uint32_t level = 0; level < index->height; level++) {
		const struct ks_inner *inner = node;
		uint32_t child = inner_child(inner, key);

		for (uint32_t i = 0; i < child; i++)
			live += inner->live[view][i];
		node = inner->children[child];
	}
	leaf = node;
	return live + (size_t)__builtin_popcountll(leaf->live[view] & ks_bits_below(ks_leaf_lower(leaf, key, &exact)));
}

size_t ks_index_count_all(const struct ks_index *index, enum ks_view view)
{
	return ks_node_live(index->root, index->height == 0, view);
}

size_t ks_index_count(const struct ks_index *index, const struct ks_interval *interval, enum ks_view view)
{
	size_t before;

	if (interval->end.size == 0)
		return ks_index_is_live(index, interval->key, view);
	before = rank(index, interval->key, view);
	if (unbounded(interval->end))
		return ks_index_count_all(index, view) - before;
	if (ks_slice_cmp(interval->key, interval->end) >= 0)
		return 0;
	return rank(index, interval->end, view) - before;
}
