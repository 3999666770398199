/* SPDX-License-Identifier: Apache-2.0 */
/* The invariants of the B+tree. */
#include <string.h>

#include "base/panic.h"
#include "store/key_index_priv.h"

static void check_leaf(const struct ks_index *index, const struct ks_leaf *leaf, const struct ks_leaf **last)
{
	KS_ASSERT(leaf->prev == *last && (*last ? (*last)->next : index->first) == leaf);
	KS_ASSERT(leaf->count <= FANOUT && (leaf->count > 0 || index->height == 0));
	for (uint32_t i = 0; i < leaf->count; i++) {
		struct ks_slice key = ks_key_slice(leaf->keys[i]);

		KS_ASSERT(key.size >= leaf->skip);
		KS_ASSERT(memcmp(key.data, leaf->keys[0]->bytes, leaf->skip) == 0);
		KS_ASSERT(leaf->prefix[i] == ks_prefix_at(key, leaf->skip));
		if (i > 0)
			KS_ASSERT(ks_slice_cmp(ks_key_slice(leaf->keys[i - 1]), key) < 0);
	}
	for (unsigned view = 0; view < KS_VIEWS; view++)
		KS_ASSERT((leaf->live[view] & ~ks_bits_below(leaf->count)) == 0);
	*last = leaf;
}

static size_t check_node(const struct ks_index *index, const void *node, uint32_t height, struct ks_slice low,
			 const struct ks_separator *high, const struct ks_leaf **last)
{
	const struct ks_inner *inner = node;
	size_t keys = 0;

	if (height == 0) {
		const struct ks_leaf *leaf = node;

		check_leaf(index, leaf, last);
		if (leaf->count) {
			KS_ASSERT(ks_slice_cmp(low, ks_key_slice(leaf->keys[0])) <= 0);
			KS_ASSERT(!high ||
				  ks_slice_cmp(ks_key_slice(leaf->keys[leaf->count - 1]), ks_sep_slice(high)) < 0);
		}
		return leaf->count;
	}
	KS_ASSERT(inner->count >= 1 && inner->count <= FANOUT);
	for (uint32_t i = 0; i < inner->count; i++) {
		for (unsigned view = 0; view < KS_VIEWS; view++)
			KS_ASSERT(inner->live[view][i] == ks_node_live(inner->children[i], height == 1, view));
		if (i > 0) {
			KS_ASSERT(inner->seps[i]->size >= inner->skip);
			KS_ASSERT(memcmp(inner->seps[i]->bytes, inner->seps[1]->bytes, inner->skip) == 0);
			KS_ASSERT(inner->prefix[i] == ks_prefix_at(ks_sep_slice(inner->seps[i]), inner->skip));
		}
		keys += check_node(index, inner->children[i], height - 1, i ? ks_sep_slice(inner->seps[i]) : low,
				   i + 1 < inner->count ? inner->seps[i + 1] : high, last);
	}
	return keys;
}

void ks_index_check(const struct ks_index *index)
{
	const struct ks_leaf *last = NULL;

	KS_ASSERT(check_node(index, index->root, index->height, ks_slice_of("", 0), NULL, &last) == index->keys);
	KS_ASSERT(last && last->next == NULL);
}
