/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's behaviour once more, as plainly as it can be written: an array of all versions that is searched from end to
 * end. Tests do the same to both and compare everything that comes back, byte for byte.
 *
 * The model has no tail: a test copies it (model_copy) where the store has one. Memory failures abort.
 */
#ifndef TESTS_LIB_STORE_MODEL_H
#define TESTS_LIB_STORE_MODEL_H

#include "store/store.h"

struct model_version {
	struct ks_bytes *key;
	struct ks_bytes *value;
	int64_t revision;
	int32_t sub;
	int64_t create_revision; /* 0: deleted */
	int64_t version;
	int64_t lease;
};

struct model_lease {
	int64_t id, ttl;
};

struct model {
	struct model_version *versions; /* in (revision, sub) order */
	size_t count, capacity;
	struct model_lease leases[64];
	size_t lease_count;
	int64_t position, revision, compact_revision;
};

void model_init(struct model *model);
void model_fini(struct model *model);
/* 'to' is freed first. */
void model_copy(struct model *to, const struct model *from);

/* As ks_store_eval; 'entry' gets effects whose bytes live as long as the model is not changed. */
enum ks_status model_eval(struct model *model, const struct ks_request *req, struct ks_result *result,
			  struct ks_effects *effects);
enum ks_status model_range(const struct model *model, const struct ks_range_req *req, struct ks_range_result *result);
enum ks_status model_read_txn(const struct model *model, const struct ks_txn_req *req, struct ks_txn_result *result);
/* Spec 6.5, on what a finished compaction leaves. */
uint32_t model_hash(const struct model *model, int64_t revision);
/* Newest version of the key at the revision, also a delete; NULL when there is none. */
const struct model_version *model_at(const struct model *model, struct ks_slice key, int64_t revision);
bool model_has_lease(const struct model *model, int64_t id);
struct ks_bytes *model_encode(const struct model_version *version, bool keys_only);

/* The first difference as text, or NULL. */
const char *model_diff_range(const struct ks_range_result *a, const struct ks_range_result *b);
const char *model_diff_txn(const struct ks_txn_result *a, const struct ks_txn_result *b);
const char *model_diff_result(const struct ks_result *a, const struct ks_result *b);
const char *model_diff_entry(const struct ks_entry *a, const struct ks_entry *b);

#endif
