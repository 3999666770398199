/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inserting into the B+tree. A full node splits in half, except at its ends: keys that arrive in order leave full leaves behind.
 */
#include <string.h>

#include "base/panic.h"
#include "store/key_index_priv.h"

/* What a split needs, allocated before anything is changed. */
struct spares {
	struct ks_leaf *leaf;
	struct ks_separator *sep;
	struct ks_inner *inner[KS_INDEX_LEVELS];
	uint32_t inner_count;
};

static void free_spares(struct ks_index *index, struct spares *spares)
{
	ks_index_free_leaf(index, spares->leaf);
	ks_index_free_sep(index, spares->sep);
	while (spares->inner_count)
		ks_index_free_inner(index, spares->inner[--spares->inner_count]);
}

static bool get_spares(struct ks_index *index, const struct ks_index_path *path, uint32_t sep_bytes,
		       struct spares *spares)
{
	uint32_t need = 0;

	while (need < index->height && path->node[index->height - 1 - need]->count == FANOUT)
		need++;
	if (need == index->height)
		need++; /* a new root */
	*spares = (struct spares){0};
	KS_ASSERT(index->height < KS_INDEX_LEVELS - 1);
	spares->leaf = ks_index_new_node(index, sizeof(*spares->leaf));
	spares->sep = ks_index_new_sep(index, sep_bytes);
	if (!spares->leaf || !spares->sep)
		goto fail;
	while (spares->inner_count < need) {
		struct ks_inner *inner = ks_index_new_node(index, sizeof(*inner));

		if (!inner)
			goto fail;
		spares->inner[spares->inner_count++] = inner;
	}
	return true;
fail:
	free_spares(index, spares);
	return false;
}

/* Moves children [at, count) of 'left' to the empty 'right'; returns the separator between the two. */
static struct ks_separator *split_inner(struct ks_inner *left, struct ks_inner *right, uint32_t at)
{
	uint32_t moved = left->count - at;
	struct ks_separator *up = left->seps[at];

	memcpy(right->children, left->children + at, moved * sizeof(left->children[0]));
	memcpy(right->seps + 1, left->seps + at + 1, (moved - 1) * sizeof(left->seps[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		memcpy(right->live[view], left->live[view] + at, moved * sizeof(left->live[0][0]));
	right->count = moved;
	left->count = at;
	ks_inner_fix_skip(left);
	ks_inner_fix_skip(right);
	return up;
}

/* Puts 'child' with the keys from 'sep' on beside the child that 'path' leads through, splitting upwards. */
static void attach(struct ks_index *index, struct ks_index_path *path, struct ks_separator *sep, void *child,
		   struct spares *spares)
{
	bool is_leaf = true;
	struct ks_inner *root;

	for (uint32_t level = index->height; level-- > 0; is_leaf = false) {
		struct ks_inner *inner = path->node[level];
		uint32_t at = path->child[level] + 1;
		struct ks_inner *right;
		struct ks_separator *up;
		uint32_t split;

		for (unsigned view = 0; view < KS_VIEWS; view++)
			inner->live[view][at - 1] = ks_node_live(inner->children[at - 1], is_leaf, view);
		if (inner->count < FANOUT) {
			ks_inner_insert(inner, at, sep, child, is_leaf);
			return;
		}
		right = spares->inner[--spares->inner_count];
		split = at == FANOUT ? FANOUT - 1 : FANOUT / 2;
		up = split_inner(inner, right, split);
		if (at > split)
			ks_inner_insert(right, at - split, sep, child, is_leaf);
		else
			ks_inner_insert(inner, at, sep, child, is_leaf);
		sep = up;
		child = right;
	}
	root = spares->inner[--spares->inner_count];
	root->children[0] = index->root;
	root->count = 1;
	for (unsigned view = 0; view < KS_VIEWS; view++)
		root->live[view][0] = ks_node_live(index->root, is_leaf, view);
	ks_inner_insert(root, 1, sep, child, is_leaf);
	index->root = root;
	index->height++;
}

static void move_keys(struct ks_leaf *from, uint32_t at, struct ks_leaf *to)
{
	uint32_t moved = from->count - at;

	memcpy(to->keys, from->keys + at, moved * sizeof(from->keys[0]));
	memcpy(to->prefix, from->prefix + at, moved * sizeof(from->prefix[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		to->live[view] = at < 64 ? from->live[view] >> at : 0;
		from->live[view] &= ks_bits_below(at);
	}
	to->count = moved;
	from->count = at;
}

/* Splits the full leaf of 'path' and adds 'key', which belongs at index 'at' of it. */
static bool split_insert(struct ks_index *index, struct ks_index_path *path, uint32_t at, struct ks_key *key)
{
	struct ks_leaf *left = path->leaf;
	uint32_t split = at == 0 || at == FANOUT ? at : FANOUT / 2;
	bool to_left = at < split || split == 0;
	struct ks_slice before = ks_key_slice(split == 0 ? key : left->keys[split - 1]);
	struct ks_slice after = ks_key_slice(split > 0 && at == split ? key : left->keys[split]);
	uint32_t sep_bytes = ks_common_bytes(before, after) + 1;
	uint32_t skip = left->skip;
	struct spares spares;
	struct ks_leaf *right;

	if (!get_spares(index, path, sep_bytes, &spares))
		return false;
	memcpy(spares.sep->bytes, after.data, sep_bytes);
	right = spares.leaf;
	move_keys(left, split, right);
	ks_leaf_fix_skip(left, skip);
	ks_leaf_fix_skip(right, skip);
	right->prev = left;
	right->next = left->next;
	if (left->next)
		left->next->prev = right;
	left->next = right;
	ks_leaf_insert(to_left ? left : right, to_left ? at : at - split, key);
	index->finger.leaf = NULL;
	attach(index, path, spares.sep, right, &spares);
	return true;
}

struct ks_key *ks_index_insert(struct ks_index *index, struct ks_slice bytes, bool *added)
{
	struct ks_index_path path;
	struct ks_leaf *leaf = ks_index_descend(index, bytes, &path);
	bool exact;
	uint32_t at = ks_leaf_lower(leaf, bytes, &exact);
	struct ks_key *key;

	*added = false;
	if (exact)
		return leaf->keys[at];
	key = ks_index_new_key(index, bytes);
	if (!key)
		return NULL;
	if (leaf->count < FANOUT) {
		ks_leaf_insert(leaf, at, key);
		index->finger = path; /* its bits are set next */
	} else if (!split_insert(index, &path, at, key)) {
		ks_index_free_key(index, key);
		return NULL;
	}
	index->keys++;
	*added = true;
	return key;
}
