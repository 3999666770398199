/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ordered index of keys: a B+tree with wide nodes. Each node knows how many leading bytes all its keys share and keeps
 * the 8 bytes after them as numbers side by side, so that a search touches a key's own bytes only to confirm.
 *
 * Each leaf has two bit sets that say which of its keys are live, one for each view (committed, tail), and inner nodes
 * count them: so counting an interval of any size costs two descents, and scans pass over dead keys.
 *
 * Owner: the index owns its nodes, and makes and frees keys; what hangs on a key is the caller's.
 * Threads: the caller's lock. Positions are valid until the next insert or removal.
 * Errors: NULL or false when memory is short; then nothing has changed.
 */
#ifndef KS_STORE_KEY_INDEX_H
#define KS_STORE_KEY_INDEX_H

#include "store/record.h"

enum ks_view { KS_VIEW_COMMITTED, KS_VIEW_TAIL, KS_VIEWS };

#define KS_LEAF_KEYS 64u

struct ks_leaf {
	uint32_t count;
	uint32_t skip; /* leading bytes that all keys share */
	struct ks_leaf *prev, *next;
	uint64_t live[KS_VIEWS];       /* bit i: keys[i] */
	uint64_t prefix[KS_LEAF_KEYS]; /* big-endian bytes skip … skip+7, zeros where the key ends */
	struct ks_key *keys[KS_LEAF_KEYS];
};

#define KS_INDEX_LEVELS 16u

struct ks_inner;

struct ks_index_path {
	struct ks_inner *node[KS_INDEX_LEVELS]; /* from the root */
	uint32_t child[KS_INDEX_LEVELS];
	struct ks_leaf *leaf;
};

struct ks_index {
	struct ks_slab *slab; /* borrowed: keys and separators */
	void *root;           /* a leaf when height == 0 */
	uint32_t height;
	struct ks_leaf *first;
	size_t keys;
	struct ks_index_path finger; /* to the leaf changed last; leaf NULL: none */
};

struct ks_index_pos {
	struct ks_leaf *leaf; /* NULL: behind the last key */
	uint32_t i;
};

bool ks_index_init(struct ks_index *index, struct ks_slab *slab) KS_MUST_CHECK;
void ks_index_fini(struct ks_index *index); /* also the keys that are in it */

struct ks_key *ks_index_find(const struct ks_index *index, struct ks_slice key);
/* Finds 'key' or adds it, without records and live in no view; NULL without memory. */
struct ks_key *ks_index_insert(struct ks_index *index, struct ks_slice key, bool *added);
/* Takes 'key' out; it must be in. Does not free it. */
void ks_index_remove(struct ks_index *index, struct ks_key *key);
void ks_index_free_key(struct ks_index *index, struct ks_key *key);

/* The first key >= 'key', and the first one behind the interval. */
struct ks_index_pos ks_index_seek(const struct ks_index *index, struct ks_slice key);
struct ks_index_pos ks_index_seek_end(const struct ks_index *index, const struct ks_interval *interval);

bool ks_index_is_live(const struct ks_index *index, struct ks_slice key, enum ks_view view);
/* Sets the bit of a key that is in the index. */
void ks_index_set_live(struct ks_index *index, const struct ks_key *key, enum ks_view view, bool live);
/* The number of live keys in the interval. */
size_t ks_index_count(const struct ks_index *index, const struct ks_interval *interval, enum ks_view view);
size_t ks_index_count_all(const struct ks_index *index, enum ks_view view);

/* Panics when an invariant of the tree is broken. For tests. */
void ks_index_check(const struct ks_index *index);

#endif
