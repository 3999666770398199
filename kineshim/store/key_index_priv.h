/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the B+tree share (key_index.h): its nodes, and what is done with one of them.
 *
 *	inner   children  c0   c1   c2  …     c1 holds the keys in [seps[1], seps[2])
 *	        seps       –    s1   s2 …     own short byte strings: the first key of a child, cut after the byte that tells
 *	        live       n0   n1   n2 …     it from the key before; live keys below each child, for each view
 *	leaf    prefix, keys, live bits; leaves are linked in order
 */
#ifndef KS_STORE_KEY_INDEX_PRIV_H
#define KS_STORE_KEY_INDEX_PRIV_H

#include "store/key_index.h"

#define FANOUT KS_LEAF_KEYS

struct ks_separator {
	uint32_t size;
	uint8_t bytes[];
};

struct ks_inner {
	uint32_t count; /* of children */
	uint32_t skip;  /* leading bytes that seps[1] … seps[count-1] share */
	uint64_t prefix[FANOUT];
	struct ks_separator *seps[FANOUT]; /* [0] is not used */
	void *children[FANOUT];
	uint32_t live[KS_VIEWS][FANOUT];
};

/* ---- comparing ---- */

static inline struct ks_slice ks_sep_slice(const struct ks_separator *sep)
{
	return ks_slice_of(sep->bytes, sep->size);
}

/* The number of leading bytes that both share. */
static inline uint32_t ks_common_bytes(struct ks_slice a, struct ks_slice b)
{
	size_t size = a.size < b.size ? a.size : b.size;
	size_t i = 0;

	for (; i + 8 <= size; i += 8) {
		uint64_t x, y;

		memcpy(&x, a.data + i, 8);
		memcpy(&y, b.data + i, 8);
		if (x != y)
			break;
	}
	while (i < size && a.data[i] == b.data[i])
		i++;
	return (uint32_t)i;
}

/* Where 'key' lies relative to everything that begins with the first 'skip' bytes of 'reference'. */
static inline int ks_cmp_common(struct ks_slice key, struct ks_slice reference, uint32_t skip)
{
	size_t size = key.size < skip ? key.size : skip;
	int order = size ? memcmp(key.data, reference.data, size) : 0;

	if (order)
		return order;
	return key.size < skip ? -1 : 0;
}

static inline uint64_t ks_prefix_at(struct ks_slice key, uint32_t skip)
{
	uint64_t value = 0;

	if (key.size >= (size_t)skip + 8) {
		memcpy(&value, key.data + skip, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		value = __builtin_bswap64(value);
#endif
		return value;
	}
	for (size_t i = skip; i < key.size; i++)
		value |= (uint64_t)key.data[i] << (56 - 8 * (i - skip));
	return value;
}

static inline uint64_t ks_bits_below(uint32_t i)
{
	return i < 64 ? ((uint64_t)1 << i) - 1 : UINT64_MAX;
}

/* ---- key_index.c: searching ---- */

/* The leaf that 'key' belongs to; and the way there, if 'path' is not NULL. */
struct ks_leaf *ks_index_descend(const struct ks_index *index, struct ks_slice key, struct ks_index_path *path);
/* The first key of the leaf that is >= 'key'. */
uint32_t ks_leaf_lower(const struct ks_leaf *leaf, struct ks_slice key, bool *exact);

/* ---- key_index_node.c: one node; what makes one is NULL without memory ---- */

void *ks_index_new_node(struct ks_index *index, size_t size); /* all zeros */
void ks_index_free_leaf(struct ks_index *index, struct ks_leaf *leaf);
void ks_index_free_inner(struct ks_index *index, struct ks_inner *inner);
struct ks_separator *ks_index_new_sep(struct ks_index *index, uint32_t size); /* its bytes are the caller's to fill */
void ks_index_free_sep(struct ks_index *index, struct ks_separator *sep);
struct ks_key *ks_index_new_key(struct ks_index *index, struct ks_slice bytes);

void ks_leaf_set_prefixes(struct ks_leaf *leaf);
/* After keys were moved, with their prefixes, from a leaf that had 'old_skip'. */
void ks_leaf_fix_skip(struct ks_leaf *leaf, uint32_t old_skip);
void ks_inner_fix_skip(struct ks_inner *inner);
/* There is room. */
void ks_leaf_insert(struct ks_leaf *leaf, uint32_t at, struct ks_key *key);
void ks_inner_insert(struct ks_inner *inner, uint32_t at, struct ks_separator *sep, void *child, bool child_is_leaf);
/* How many keys in it, or below it, are live. */
uint32_t ks_node_live(const void *node, bool is_leaf, unsigned view);

#endif
