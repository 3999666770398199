/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing from the B+tree. A node that falls below a quarter is merged with a neighbour under the same parent when both fill at most
 * three quarters.
 */
#include <string.h>

#include "base/panic.h"
#include "store/key_index_priv.h"

#define SMALL (FANOUT / 4)
#define MERGED (FANOUT * 3 / 4)

/* Takes the child that 'path' leads through out of its parent at 'level'; parents left without children go, too. Returns
 * the level of the parent that stayed. */
static uint32_t drop_child(struct ks_index *index, struct ks_index_path *path, uint32_t level)
{
	struct ks_inner *inner = path->node[level];
	uint32_t at = path->child[level];
	uint32_t sep = at ? at : 1;
	uint32_t after = inner->count - at - 1;

	if (inner->count == 1) {
		KS_ASSERT(level > 0);
		ks_index_free_inner(index, inner);
		return drop_child(index, path, level - 1);
	}
	ks_index_free_sep(index, inner->seps[sep]);
	memmove(inner->seps + sep, inner->seps + sep + 1, (inner->count - sep - 1) * sizeof(inner->seps[0]));
	memmove(inner->prefix + sep, inner->prefix + sep + 1, (inner->count - sep - 1) * sizeof(inner->prefix[0]));
	memmove(inner->children + at, inner->children + at + 1, after * sizeof(inner->children[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		memmove(inner->live[view] + at, inner->live[view] + at + 1, after * sizeof(inner->live[0][0]));
	inner->count--;
	return level;
}

static void collapse_root(struct ks_index *index)
{
	while (index->height > 0) {
		struct ks_inner *inner = index->root;

		if (inner->count > 1)
			return;
		index->root = inner->children[0];
		index->height--;
		ks_index_free_inner(index, inner);
	}
}

/* Chooses the neighbour pair (left, left + 1) around 'at' for a merge; false when both sides would be too full. */
static bool find_pair(const struct ks_inner *parent, uint32_t at, bool leaves, uint32_t *left)
{
	for (unsigned side = 0; side < 2; side++) {
		uint32_t first = side == 0 ? at : at - 1;
		const void *a, *b;
		uint32_t sum;

		if ((side == 1 && at == 0) || first + 1 >= parent->count)
			continue;
		a = parent->children[first];
		b = parent->children[first + 1];
		sum = leaves ? ((const struct ks_leaf *)a)->count + ((const struct ks_leaf *)b)->count
			     : ((const struct ks_inner *)a)->count + ((const struct ks_inner *)b)->count;
		if (sum <= MERGED) {
			*left = first;
			return true;
		}
	}
	return false;
}

static void merge_live(struct ks_inner *parent, uint32_t left)
{
	for (unsigned view = 0; view < KS_VIEWS; view++)
		parent->live[view][left] += parent->live[view][left + 1];
}

static void unlink_leaf(struct ks_index *index, struct ks_leaf *leaf)
{
	if (leaf->prev)
		leaf->prev->next = leaf->next;
	else
		index->first = leaf->next;
	if (leaf->next)
		leaf->next->prev = leaf->prev;
	ks_index_free_leaf(index, leaf);
}

static void merge_leaves(struct ks_index *index, struct ks_index_path *path, uint32_t first)
{
	struct ks_inner *parent = path->node[index->height - 1];
	struct ks_leaf *left = parent->children[first], *right = parent->children[first + 1];

	memcpy(left->keys + left->count, right->keys, right->count * sizeof(left->keys[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		left->live[view] |= right->live[view] << left->count;
	left->count += right->count;
	left->skip = ks_common_bytes(ks_key_slice(left->keys[0]), ks_key_slice(left->keys[left->count - 1]));
	ks_leaf_set_prefixes(left);
	unlink_leaf(index, right);
	merge_live(parent, first);
	path->child[index->height - 1] = first + 1;
	drop_child(index, path, index->height - 1);
}

/* Merges the inner node at 'level' with a neighbour when it became small. */
static void merge_inner(struct ks_index *index, struct ks_index_path *path, uint32_t level)
{
	struct ks_inner *parent = path->node[level - 1];
	struct ks_inner *left, *right;
	uint32_t first;

	if (path->node[level]->count >= SMALL || !find_pair(parent, path->child[level - 1], false, &first))
		return;
	left = parent->children[first];
	right = parent->children[first + 1];
	left->seps[left->count] = parent->seps[first + 1]; /* comes down, so it is not freed with the child */
	parent->seps[first + 1] = NULL;
	memcpy(left->seps + left->count + 1, right->seps + 1, (right->count - 1) * sizeof(left->seps[0]));
	memcpy(left->children + left->count, right->children, right->count * sizeof(left->children[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		memcpy(left->live[view] + left->count, right->live[view], right->count * sizeof(left->live[0][0]));
	left->count += right->count;
	ks_inner_fix_skip(left);
	ks_index_free_inner(index, right);
	merge_live(parent, first);
	path->child[level - 1] = first + 1;
	drop_child(index, path, level - 1);
	if (level > 1)
		merge_inner(index, path, level - 1);
}

void ks_index_remove(struct ks_index *index, struct ks_key *key)
{
	struct ks_index_path path;
	struct ks_leaf *leaf;
	uint32_t at, after, first, level;
	bool exact;

	for (unsigned view = 0; view < KS_VIEWS; view++)
		ks_index_set_live(index, key, view, false);
	leaf = ks_index_descend(index, ks_key_slice(key), &path);
	at = ks_leaf_lower(leaf, ks_key_slice(key), &exact);
	KS_ASSERT(exact && leaf->keys[at] == key);
	after = leaf->count - at - 1;
	memmove(leaf->keys + at, leaf->keys + at + 1, after * sizeof(leaf->keys[0]));
	memmove(leaf->prefix + at, leaf->prefix + at + 1, after * sizeof(leaf->prefix[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		uint64_t live = leaf->live[view];

		leaf->live[view] = (live & ks_bits_below(at)) | (live >> 1 & ~ks_bits_below(at));
	}
	leaf->count--;
	index->keys--;
	if (index->height == 0 || leaf->count >= SMALL)
		return;
	if (leaf->count == 0) {
		index->finger.leaf = NULL;
		if (index->keys == 0) {
			/* The last key: every node above has one child. */
			for (level = 0; level < index->height; level++)
				ks_index_free_inner(index, path.node[level]);
			index->root = leaf;
			index->height = 0;
			leaf->skip = 0;
			return;
		}
		unlink_leaf(index, leaf);
		level = drop_child(index, &path, index->height - 1);
		if (level > 0)
			merge_inner(index, &path, level);
		collapse_root(index);
		return;
	}
	if (!find_pair(path.node[index->height - 1], path.child[index->height - 1], true, &first))
		return;
	index->finger.leaf = NULL;
	merge_leaves(index, &path, first);
	if (index->height > 1)
		merge_inner(index, &path, index->height - 1);
	collapse_root(index);
}
