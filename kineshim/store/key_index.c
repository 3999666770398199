/* SPDX-License-Identifier: Apache-2.0 */
/*
 * B+tree, see key_index.h.
 *
 *	inner   children  c0   c1   c2  …     c1 holds the keys in [seps[1], seps[2])
 *	        seps       –    s1   s2 …     own short byte strings: the first key of a child, cut after the byte that tells
 *	        live       n0   n1   n2 …     it from the key before; live keys below each child, for each view
 *	leaf    prefix, keys, live bits; leaves are linked in order
 *
 * A full node splits in half, except at its ends: keys that arrive in order leave full leaves behind. A node that falls
 * below a quarter is merged with a neighbour under the same parent when both fill at most three quarters.
 */
#include "store/key_index.h"

#include <stdlib.h>

#include "base/panic.h"

#define FANOUT KS_LEAF_KEYS
#define SMALL (FANOUT / 4)
#define MERGED (FANOUT * 3 / 4)

_Static_assert(FANOUT == 64, "the live bits of a leaf are one uint64_t");

struct separator {
	uint32_t size;
	uint8_t bytes[];
};

struct ks_inner {
	uint32_t count; /* of children */
	uint32_t skip;  /* leading bytes that seps[1] … seps[count-1] share */
	uint64_t prefix[FANOUT];
	struct separator *seps[FANOUT]; /* [0] is not used */
	void *children[FANOUT];
	uint32_t live[KS_VIEWS][FANOUT];
};

/* ---- comparing ---- */

static struct ks_slice sep_slice(const struct separator *sep)
{
	return ks_slice_of(sep->bytes, sep->size);
}

/* The number of leading bytes that both share. */
static uint32_t common(struct ks_slice a, struct ks_slice b)
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
static int cmp_common(struct ks_slice key, struct ks_slice reference, uint32_t skip)
{
	size_t size = key.size < skip ? key.size : skip;
	int order = size ? memcmp(key.data, reference.data, size) : 0;

	if (order)
		return order;
	return key.size < skip ? -1 : 0;
}

static uint64_t prefix_at(struct ks_slice key, uint32_t skip)
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

/* The first key of the leaf that is >= 'key'. */
static uint32_t leaf_lower(const struct ks_leaf *leaf, struct ks_slice key, bool *exact)
{
	uint64_t prefix;
	uint32_t low, high;

	*exact = false;
	prefetch_numbers(leaf->prefix);
	if (leaf->count == 0)
		return 0;
	prefix = prefix_at(key, leaf->skip);
	low = count_less(leaf->prefix, leaf->count, prefix);
	if (leaf->skip) {
		/* Any key will do; this one is read below, too. */
		const struct ks_key *near = leaf->keys[low < leaf->count ? low : low - 1];
		int order = cmp_common(key, ks_key_slice(near), leaf->skip);

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
	prefix = prefix_at(key, inner->skip);
	low = count_less(inner->prefix + 1, seps, prefix);
	if (inner->skip) {
		int order = cmp_common(key, sep_slice(inner->seps[low < seps ? low + 1 : low]), inner->skip);

		if (order)
			return order < 0 ? 0 : seps;
	}
	high = low + count_equal(inner->prefix + 1, seps, low, prefix);
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (ks_slice_cmp(sep_slice(inner->seps[middle + 1]), key) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct ks_leaf *descend(const struct ks_index *index, struct ks_slice key, struct ks_index_path *path)
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

/* ---- nodes ---- */

static void *new_node(struct ks_index *index, size_t size)
{
	void *node = ks_slab_alloc(index->slab, size);

	if (node)
		memset(node, 0, size);
	return node;
}

static void free_leaf(struct ks_index *index, struct ks_leaf *leaf)
{
	ks_slab_free(index->slab, leaf, sizeof(*leaf));
}

static void free_inner(struct ks_index *index, struct ks_inner *inner)
{
	ks_slab_free(index->slab, inner, sizeof(*inner));
}

static void leaf_set_prefixes(struct ks_leaf *leaf)
{
	for (uint32_t i = 0; i < leaf->count; i++)
		leaf->prefix[i] = prefix_at(ks_key_slice(leaf->keys[i]), leaf->skip);
}

/* After keys were moved, with their prefixes, from a leaf that had 'old_skip'. */
static void leaf_fix_skip(struct ks_leaf *leaf, uint32_t old_skip)
{
	leaf->skip = old_skip;
	if (leaf->count == 0)
		return;
	leaf->skip = common(ks_key_slice(leaf->keys[0]), ks_key_slice(leaf->keys[leaf->count - 1]));
	if (leaf->skip != old_skip)
		leaf_set_prefixes(leaf);
}

static void inner_fix_skip(struct ks_inner *inner)
{
	inner->skip = 0;
	if (inner->count < 2)
		return;
	inner->skip = common(sep_slice(inner->seps[1]), sep_slice(inner->seps[inner->count - 1]));
	for (uint32_t i = 1; i < inner->count; i++)
		inner->prefix[i] = prefix_at(sep_slice(inner->seps[i]), inner->skip);
}

static uint32_t node_live(const void *node, bool is_leaf, unsigned view)
{
	const struct ks_inner *inner = node;
	uint32_t live = 0;

	if (is_leaf)
		return (uint32_t)__builtin_popcountll(((const struct ks_leaf *)node)->live[view]);
	for (uint32_t i = 0; i < inner->count; i++)
		live += inner->live[view][i];
	return live;
}

static uint64_t bits_below(uint32_t i)
{
	return i < 64 ? ((uint64_t)1 << i) - 1 : UINT64_MAX;
}

static void leaf_insert(struct ks_leaf *leaf, uint32_t at, struct ks_key *key)
{
	uint32_t after = leaf->count - at;
	uint32_t skip = leaf->skip;

	if (leaf->count == 0)
		leaf->skip = key->size;
	else
		leaf->skip = cmp_common(ks_key_slice(key), ks_key_slice(leaf->keys[0]), skip) == 0
				     ? skip
				     : common(ks_key_slice(key), ks_key_slice(leaf->keys[0]));
	memmove(leaf->keys + at + 1, leaf->keys + at, after * sizeof(leaf->keys[0]));
	memmove(leaf->prefix + at + 1, leaf->prefix + at, after * sizeof(leaf->prefix[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		uint64_t live = leaf->live[view];

		leaf->live[view] = (live & bits_below(at)) | (live & ~bits_below(at)) << 1;
	}
	leaf->keys[at] = key;
	leaf->count++;
	if (leaf->skip != skip)
		leaf_set_prefixes(leaf);
	else
		leaf->prefix[at] = prefix_at(ks_key_slice(key), skip);
}

static void inner_insert(struct ks_inner *inner, uint32_t at, struct separator *sep, void *child, bool child_is_leaf)
{
	uint32_t after = inner->count - at;
	uint32_t skip = inner->skip;
	bool first = inner->count == 1;

	KS_ASSERT(at >= 1 && inner->count < FANOUT);
	if (!first)
		skip = common(sep_slice(sep), sep_slice(inner->seps[1]));
	memmove(inner->seps + at + 1, inner->seps + at, after * sizeof(inner->seps[0]));
	memmove(inner->prefix + at + 1, inner->prefix + at, after * sizeof(inner->prefix[0]));
	memmove(inner->children + at + 1, inner->children + at, after * sizeof(inner->children[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		memmove(inner->live[view] + at + 1, inner->live[view] + at, after * sizeof(inner->live[0][0]));
		inner->live[view][at] = node_live(child, child_is_leaf, view);
	}
	inner->seps[at] = sep;
	inner->children[at] = child;
	inner->count++;
	if (first || skip < inner->skip)
		inner_fix_skip(inner);
	else
		inner->prefix[at] = prefix_at(sep_slice(sep), inner->skip);
}

static size_t sep_size(uint32_t size)
{
	return sizeof(struct separator) + size;
}

static void free_sep(struct ks_index *index, struct separator *sep)
{
	if (sep)
		ks_slab_free(index->slab, sep, sep_size(sep->size));
}

static struct ks_key *new_key(struct ks_index *index, struct ks_slice bytes)
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

/* ---- life cycle ---- */

bool ks_index_init(struct ks_index *index, struct ks_slab *slab)
{
	*index = (struct ks_index){.slab = slab};
	index->root = index->first = new_node(index, sizeof(struct ks_leaf));
	return index->first != NULL;
}

static void free_node(struct ks_index *index, void *node, uint32_t height)
{
	if (height > 0) {
		struct ks_inner *inner = node;

		for (uint32_t i = 0; i < inner->count; i++) {
			free_node(index, inner->children[i], height - 1);
			if (i > 0)
				free_sep(index, inner->seps[i]);
		}
		free_inner(index, inner);
	} else {
		struct ks_leaf *leaf = node;

		for (uint32_t i = 0; i < leaf->count; i++) {
			if (leaf->keys[i]->count > 1)
				free(leaf->keys[i]->list);
			ks_index_free_key(index, leaf->keys[i]);
		}
		free_leaf(index, leaf);
	}
}

void ks_index_fini(struct ks_index *index)
{
	if (index->root)
		free_node(index, index->root, index->height);
	*index = (struct ks_index){0};
}

/* ---- insert ---- */

/* What a split needs, allocated before anything is changed. */
struct spares {
	struct ks_leaf *leaf;
	struct separator *sep;
	struct ks_inner *inner[KS_INDEX_LEVELS];
	uint32_t inner_count;
};

static void free_spares(struct ks_index *index, struct spares *spares)
{
	free_leaf(index, spares->leaf);
	free_sep(index, spares->sep);
	while (spares->inner_count)
		free_inner(index, spares->inner[--spares->inner_count]);
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
	spares->leaf = new_node(index, sizeof(*spares->leaf));
	spares->sep = ks_slab_alloc(index->slab, sep_size(sep_bytes));
	if (!spares->leaf || !spares->sep)
		goto fail;
	spares->sep->size = sep_bytes;
	while (spares->inner_count < need) {
		struct ks_inner *inner = new_node(index, sizeof(*inner));

		if (!inner)
			goto fail;
		spares->inner[spares->inner_count++] = inner;
	}
	return true;
fail:
	if (spares->sep)
		spares->sep->size = sep_bytes;
	free_spares(index, spares);
	return false;
}

/* Moves children [at, count) of 'left' to the empty 'right'; returns the separator between the two. */
static struct separator *split_inner(struct ks_inner *left, struct ks_inner *right, uint32_t at)
{
	uint32_t moved = left->count - at;
	struct separator *up = left->seps[at];

	memcpy(right->children, left->children + at, moved * sizeof(left->children[0]));
	memcpy(right->seps + 1, left->seps + at + 1, (moved - 1) * sizeof(left->seps[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		memcpy(right->live[view], left->live[view] + at, moved * sizeof(left->live[0][0]));
	right->count = moved;
	left->count = at;
	inner_fix_skip(left);
	inner_fix_skip(right);
	return up;
}

/* Puts 'child' with the keys from 'sep' on beside the child that 'path' leads through, splitting upwards. */
static void attach(struct ks_index *index, struct ks_index_path *path, struct separator *sep, void *child,
		   struct spares *spares)
{
	bool is_leaf = true;
	struct ks_inner *root;

	for (uint32_t level = index->height; level-- > 0; is_leaf = false) {
		struct ks_inner *inner = path->node[level];
		uint32_t at = path->child[level] + 1;
		struct ks_inner *right;
		struct separator *up;
		uint32_t split;

		for (unsigned view = 0; view < KS_VIEWS; view++)
			inner->live[view][at - 1] = node_live(inner->children[at - 1], is_leaf, view);
		if (inner->count < FANOUT) {
			inner_insert(inner, at, sep, child, is_leaf);
			return;
		}
		right = spares->inner[--spares->inner_count];
		split = at == FANOUT ? FANOUT - 1 : FANOUT / 2;
		up = split_inner(inner, right, split);
		if (at > split)
			inner_insert(right, at - split, sep, child, is_leaf);
		else
			inner_insert(inner, at, sep, child, is_leaf);
		sep = up;
		child = right;
	}
	root = spares->inner[--spares->inner_count];
	root->children[0] = index->root;
	root->count = 1;
	for (unsigned view = 0; view < KS_VIEWS; view++)
		root->live[view][0] = node_live(index->root, is_leaf, view);
	inner_insert(root, 1, sep, child, is_leaf);
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
		from->live[view] &= bits_below(at);
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
	uint32_t sep_bytes = common(before, after) + 1;
	uint32_t skip = left->skip;
	struct spares spares;
	struct ks_leaf *right;

	if (!get_spares(index, path, sep_bytes, &spares))
		return false;
	memcpy(spares.sep->bytes, after.data, sep_bytes);
	right = spares.leaf;
	move_keys(left, split, right);
	leaf_fix_skip(left, skip);
	leaf_fix_skip(right, skip);
	right->prev = left;
	right->next = left->next;
	if (left->next)
		left->next->prev = right;
	left->next = right;
	leaf_insert(to_left ? left : right, to_left ? at : at - split, key);
	index->finger.leaf = NULL;
	attach(index, path, spares.sep, right, &spares);
	return true;
}

struct ks_key *ks_index_insert(struct ks_index *index, struct ks_slice bytes, bool *added)
{
	struct ks_index_path path;
	struct ks_leaf *leaf = descend(index, bytes, &path);
	bool exact;
	uint32_t at = leaf_lower(leaf, bytes, &exact);
	struct ks_key *key;

	*added = false;
	if (exact)
		return leaf->keys[at];
	key = new_key(index, bytes);
	if (!key)
		return NULL;
	if (leaf->count < FANOUT) {
		leaf_insert(leaf, at, key);
		index->finger = path; /* its bits are set next */
	} else if (!split_insert(index, &path, at, key)) {
		ks_index_free_key(index, key);
		return NULL;
	}
	index->keys++;
	*added = true;
	return key;
}

/* ---- remove ---- */

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
		free_inner(index, inner);
		return drop_child(index, path, level - 1);
	}
	free_sep(index, inner->seps[sep]);
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
		free_inner(index, inner);
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
	free_leaf(index, leaf);
}

static void merge_leaves(struct ks_index *index, struct ks_index_path *path, uint32_t first)
{
	struct ks_inner *parent = path->node[index->height - 1];
	struct ks_leaf *left = parent->children[first], *right = parent->children[first + 1];

	memcpy(left->keys + left->count, right->keys, right->count * sizeof(left->keys[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++)
		left->live[view] |= right->live[view] << left->count;
	left->count += right->count;
	left->skip = common(ks_key_slice(left->keys[0]), ks_key_slice(left->keys[left->count - 1]));
	leaf_set_prefixes(left);
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
	inner_fix_skip(left);
	free_inner(index, right);
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
	leaf = descend(index, ks_key_slice(key), &path);
	at = leaf_lower(leaf, ks_key_slice(key), &exact);
	KS_ASSERT(exact && leaf->keys[at] == key);
	after = leaf->count - at - 1;
	memmove(leaf->keys + at, leaf->keys + at + 1, after * sizeof(leaf->keys[0]));
	memmove(leaf->prefix + at, leaf->prefix + at + 1, after * sizeof(leaf->prefix[0]));
	for (unsigned view = 0; view < KS_VIEWS; view++) {
		uint64_t live = leaf->live[view];

		leaf->live[view] = (live & bits_below(at)) | (live >> 1 & ~bits_below(at));
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
				free_inner(index, path.node[level]);
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

/* ---- looking ---- */

struct ks_key *ks_index_find(const struct ks_index *index, struct ks_slice key)
{
	const struct ks_leaf *leaf = descend(index, key, NULL);
	bool exact;
	uint32_t at = leaf_lower(leaf, key, &exact);

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
	struct ks_leaf *leaf = descend(index, key, NULL);
	bool exact;

	return position(leaf, leaf_lower(leaf, key, &exact));
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
		leaf = descend(index, interval->key, NULL);
		at = leaf_lower(leaf, interval->key, &exact);
		return position(leaf, at + exact);
	}
	/* An inverted interval is empty. */
	return ks_index_seek(index, ks_slice_cmp(interval->key, interval->end) < 0 ? interval->end : interval->key);
}

static struct ks_index_path *finger_to(struct ks_index *index, const struct ks_key *key, uint32_t *at)
{
	struct ks_index_path *path = &index->finger;
	struct ks_slice bytes = ks_key_slice(key);
	bool exact = false;

	if (path->leaf)
		*at = leaf_lower(path->leaf, bytes, &exact);
	if (!exact)
		*at = leaf_lower(descend(index, bytes, path), bytes, &exact);
	KS_ASSERT(exact && path->leaf->keys[*at] == key);
	return path;
}

bool ks_index_is_live(const struct ks_index *index, struct ks_slice key, enum ks_view view)
{
	const struct ks_leaf *leaf = descend(index, key, NULL);
	bool exact;
	uint32_t at = leaf_lower(leaf, key, &exact);

	return exact && (leaf->live[view] >> at & 1);
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
	return live + (size_t)__builtin_popcountll(leaf->live[view] & bits_below(leaf_lower(leaf, key, &exact)));
}

size_t ks_index_count_all(const struct ks_index *index, enum ks_view view)
{
	return node_live(index->root, index->height == 0, view);
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

/* ---- check ---- */

static void check_leaf(const struct ks_index *index, const struct ks_leaf *leaf, const struct ks_leaf **last)
{
	KS_ASSERT(leaf->prev == *last && (*last ? (*last)->next : index->first) == leaf);
	KS_ASSERT(leaf->count <= FANOUT && (leaf->count > 0 || index->height == 0));
	for (uint32_t i = 0; i < leaf->count; i++) {
		struct ks_slice key = ks_key_slice(leaf->keys[i]);

		KS_ASSERT(key.size >= leaf->skip);
		KS_ASSERT(memcmp(key.data, leaf->keys[0]->bytes, leaf->skip) == 0);
		KS_ASSERT(leaf->prefix[i] == prefix_at(key, leaf->skip));
		if (i > 0)
			KS_ASSERT(ks_slice_cmp(ks_key_slice(leaf->keys[i - 1]), key) < 0);
	}
	for (unsigned view = 0; view < KS_VIEWS; view++)
		KS_ASSERT((leaf->live[view] & ~bits_below(leaf->count)) == 0);
	*last = leaf;
}

static size_t check_node(const struct ks_index *index, const void *node, uint32_t height, struct ks_slice low,
			 const struct separator *high, const struct ks_leaf **last)
{
	const struct ks_inner *inner = node;
	size_t keys = 0;

	if (height == 0) {
		const struct ks_leaf *leaf = node;

		check_leaf(index, leaf, last);
		if (leaf->count) {
			KS_ASSERT(ks_slice_cmp(low, ks_key_slice(leaf->keys[0])) <= 0);
			KS_ASSERT(!high ||
				  ks_slice_cmp(ks_key_slice(leaf->keys[leaf->count - 1]), sep_slice(high)) < 0);
		}
		return leaf->count;
	}
	KS_ASSERT(inner->count >= 1 && inner->count <= FANOUT);
	for (uint32_t i = 0; i < inner->count; i++) {
		for (unsigned view = 0; view < KS_VIEWS; view++)
			KS_ASSERT(inner->live[view][i] == node_live(inner->children[i], height == 1, view));
		if (i > 0) {
			KS_ASSERT(inner->seps[i]->size >= inner->skip);
			KS_ASSERT(memcmp(inner->seps[i]->bytes, inner->seps[1]->bytes, inner->skip) == 0);
			KS_ASSERT(inner->prefix[i] == prefix_at(sep_slice(inner->seps[i]), inner->skip));
		}
		keys += check_node(index, inner->children[i], height - 1, i ? sep_slice(inner->seps[i]) : low,
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
