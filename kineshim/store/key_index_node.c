/* SPDX-License-Identifier: Apache-2.0 */
/* One node of the B+tree: made and freed, filled, counted. */
#include <string.h>

#include "base/panic.h"
#include "store/key_index_priv.h"

void *ks_index_new_node(struct ks_index *index, size_t size)
{
	void *node = ks_slab_alloc(index->slab, size);

	if (node)
		memset(node, 0, size);
	return node;
}

void ks_index_free_leaf(struct ks_index *index, struct ks_leaf *leaf)
{
	ks_slab_free(index->slab, leaf, sizeof(*leaf));
}

void ks_index_free_inner(struct ks_index *index, struct ks_inner *inner)
{
	ks_slab_free(index->slab, inner, sizeof(*inner));
}

static size_t sep_size(uint32_t size)
{
	return sizeof(struct ks_separator) + size;
}

struct ks_separator *ks_index_new_sep(struct ks_index *index, uint32_t size)
{
	struct ks_separator *sep = ks_slab_alloc(index->slab, sep_size(size));

	if (sep)
		sep->size = size;
	return sep;
}

void ks_index_free_sep(struct ks_index *index, struct ks_separator *sep)
{
	if (sep)
		ks_slab_free(index->slab, sep, sep_size(sep->size));
}

struct ks_key *ks_index_new_key(struct ks_index *index, struct ks_slice bytes)
{
	struct ks_key *key;

	if (bytes.size > UINT32_MAX / 4)
		return NULL;
	key = ks_slab_alloc(index->slab, offsetof(struct ks_key, bytes) + bytes.size);
	if (!key)
		return NULL;
	key->only = NULL;
	key->count = key->lease_refs = 0;
	key->size = (uint32_t)bytes.size;
	if (bytes.size)
		memcpy(key->bytes, bytes.data, bytes.size);
	return key;
}

void ks_index_free_key(struct ks_index *index, struct ks_key *key)
{
	ks_slab_free(index->slab, key, offsetof(struct ks_key, bytes) + key->size);
}

void ks_leaf_set_prefixes(struct ks_leaf *leaf)
{
	for (uint32_t i = 0; i < leaf->count; i++)
		leaf->prefix[i] = ks_prefix_at(ks_key_slice(leaf->keys[i]), leaf->skip);
}

void ks_leaf_fix_skip(struct ks_leaf *leaf, uint32_t old_skip)
{
	leaf->skip = old_skip;
	if (leaf->count == 0)
		return;
	leaf->skip = ks_common_bytes(ks_key_slice(leaf->keys[0]), ks_key_slice(leaf->keys[leaf->count - 1]));
	if (leaf->skip != old_skip)
		ks_leaf_set_prefixes(leaf);
}

void ks_inner_fix_skip(struct ks_inner *inner)
{
	inner->skip = 0;
	if (inner->count < 2)
		return;
	inner->skip = ks_common_bytes(ks_sep_slice(inner->seps[1]), ks_sep_slice(inner->seps[inner->count - 1]));
	for (uint32_t i = 1; i < inner->count; i++)
		inner->prefix[i] = ks_prefix_at(ks_sep_slice(inner->seps[i]), inner->skip);
}

uint32_t ks_node_live(const void *node, bool is_leaf, unsigned view)
{
	const struct ks_inner *inner = node;
	uint32_t live = 0;

	if (is_leaf)
		return (uint32_t)__builtin_popcountll(((const struct ks_leaf *)node)->live[view]);
	for (uint32_t i = 0; i < inner->count; i++)
		live += inner->live[view][i];
	return live;
}

void ks_leaf_insert(struct ks_leaf *leaf, uint32_t at, struct ks_key *key)
{
	uint32_t after = leaf->count - at;
	uint32_t skip = leaf->skip;

	if (leaf->count == 0)
		leaf->skip = key->size;
	else
		leaf->skip = ks_cmp_common(ks_key_slice(key), ks_key_slice(leaf->keys[0]), skip) == 0
				     ? skip
				     : ks_common_bytes(ks_key_slice(key), ks_key_slice(leaf->keys[0]));
	memmove(leaf->keys + at + 1, leaf->keys + at, after * sizeof(leaf->keys[0]));
	memmove(leaf->prefix + at + 1, leaf->prefix + at, after * sizeof(leaf->prefix[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		uint64_t live = leaf->live[view];

		leaf->live[view] = (live & ks_bits_below(at)) | (live & ~ks_bits_below(at)) << 1;
	}
	leaf->keys[at] = key;
	leaf->count++;
	if (leaf->skip != skip)
		ks_leaf_set_prefixes(leaf);
	else
		leaf->prefix[at] = ks_prefix_at(ks_key_slice(key), skip);
}

void ks_inner_insert(struct ks_inner *inner, uint32_t at, struct ks_separator *sep, void *child, bool child_is_leaf)
{
	uint32_t after = inner->count - at;
	uint32_t skip = inner->skip;
	bool first = inner->count == 1;

	KS_ASSERT(at >= 1 && inner->count < FANOUT);
	if (!first)
		skip = ks_common_bytes(ks_sep_slice(sep), ks_sep_slice(inner->seps[1]));
	memmove(inner->seps + at + 1, inner->seps + at, after * sizeof(inner->seps[0]));
	memmove(inner->prefix + at + 1, inner->prefix + at, after * sizeof(inner->prefix[0]));
	memmove(inner->children + at + 1, inner->children + at, after * sizeof(inner->children[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		memmove(inner->live[view] + at + 1, inner->live[view] + at, after * sizeof(inner->live[0][0]));
		inner->live[view][at] = ks_node_live(child, child_is_leaf, view);
	}
	inner->seps[at] = sep;
	inner->children[at] = child;
	inner->count++;
	if (first || skip < inner->skip)
		ks_inner_fix_skip(inner);
	else
		inner->prefix[at] = ks_prefix_at(ks_sep_slice(sep), inner->skip);
}
