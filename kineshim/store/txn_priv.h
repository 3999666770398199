/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of an evaluation share; txn.c says in which order they are called. struct ks_eval is one request's, on the stack of the
 * entrance, whose lock is held throughout: the store's for writing (the tail, with effects), or for reading (a read-only txn). Whoever
 * lets go of it on the way says so.
 * Errors: a status with a text in e->err; but KS_RESOURCE_EXHAUSTED comes without one from what is not an operation.
 */
#ifndef KS_STORE_TXN_PRIV_H
#define KS_STORE_TXN_PRIV_H

#include "store/store_priv.h"

struct ks_eval {
	struct ks_store *store;
	struct ks_range_view view;
	int64_t as_of;              /* what compares and ranges of the newest state read */
	int64_t begin;              /* revision before the request */
	int64_t current, compacted; /* what explicit revisions are checked against */
	struct ks_misses *misses;
	size_t miss_capacity;
	size_t known; /* the first misses were there when it began, sorted */
	bool missed;
	bool *path; /* outcome of each txn on the path, depth first */
	size_t path_count, path_capacity, path_next;
	struct ks_err *err;
	/* the writer's */
	struct ks_effects *effects;
	size_t effect_capacity;
	int32_t changes;
};

/* With what has been changed so far. */
static inline int64_t ks_eval_revision(const struct ks_eval *e)
{
	return e->begin + (e->changes > 0);
}

/* ---- txn_values.c: values that are not in memory ---- */

/* The record's encoding, borrowed; NULL when it was noted as missing, or without memory (then 'status' says so). */
struct ks_bytes *ks_eval_encoding(struct ks_eval *e, struct ks_record *record, enum ks_status *status);
/* Gets all that was noted, so that it is there at the next try. Without the lock. */
enum ks_status ks_eval_fetch(struct ks_eval *e) KS_MUST_CHECK;
void ks_misses_sort(struct ks_misses *misses);

/* ---- txn_compare.c ---- */

/* Decides this txn and, on the branch taken, the nested ones: e->path. May let go of the lock, and be KS_ABORTED then. */
enum ks_status ks_eval_choose_path(struct ks_eval *e, const struct ks_txn_req *txn) KS_MUST_CHECK;

/* ---- txn_perm.c ---- */

/* May the caller do that? Auth is on, and it is nobody of our own. */
enum ks_status ks_eval_may(struct ks_eval *e, const struct ks_request *req) KS_MUST_CHECK;

/* ---- txn_check.c: what must hold before anything is changed ---- */

enum ks_status ks_eval_check_put(struct ks_eval *e, const struct ks_put_req *put, bool in_txn) KS_MUST_CHECK;
/* All operations on the path. */
enum ks_status ks_eval_check_txn(struct ks_eval *e, const struct ks_txn_req *txn) KS_MUST_CHECK;
enum ks_status ks_eval_fail_no_key(struct ks_eval *e);
/* The key's newest record; NULL when it is not there. */
struct ks_record *ks_eval_newest_live(const struct ks_eval *e, struct ks_slice name);

/* ---- txn_ops.c: operations, checked before. Ranges and deletes may let go of the lock ---- */

enum ks_status ks_exec_put(struct ks_eval *e, const struct ks_put_req *put, struct ks_op_result *op) KS_MUST_CHECK;
enum ks_status ks_exec_delete(struct ks_eval *e, const struct ks_delete_req *del,
			      struct ks_op_result *op) KS_MUST_CHECK;
enum ks_status ks_exec_txn(struct ks_eval *e, const struct ks_txn_req *txn, struct ks_txn_result *result) KS_MUST_CHECK;
/* False without memory. */
bool ks_eval_delete_key(struct ks_eval *e, struct ks_key *key) KS_MUST_CHECK;
bool ks_eval_add_effect(struct ks_eval *e, const struct ks_effect *effect) KS_MUST_CHECK;

#endif
