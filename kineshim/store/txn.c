/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests become changes of the tail, and effects for the log (spec 2.5 - 2.8, 4.1, 4.2, 5.1). In etcd's order: active
 * alarms; the caller's permissions; all compares of the path that is taken, nested ones too, against the state before; then all checks; then the operations one after the other,
 * each seeing what those before it did. Read-only txns take the same way with the committed view.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "store/alarm_priv.h"
#include "store/auth_priv.h"
#include "store/count.h"
#include "store/txn_priv.h"

/* ---- puts and txns ---- */

/* Compares and checks. KS_ABORTED when values are missing, or when a compaction overtook a long compare. */
static enum ks_status prepare_txn(struct ks_eval *e, const struct ks_txn_req *txn)
{
	enum ks_status status;

	e->path_count = e->path_next = 0;
	status = ks_eval_choose_path(e, txn);
	if (status == KS_OK && !e->missed)
		status = ks_eval_check_txn(e, txn);
	if (status == KS_RESOURCE_EXHAUSTED)
		return ks_fail_memory(e->err);
	e->path_next = 0;
	return status == KS_OK && e->missed ? KS_ABORTED : status;
}

static enum ks_status eval_put(struct ks_eval *e, const struct ks_put_req *put, struct ks_op_result *op)
{
	enum ks_status status = ks_eval_check_put(e, put, false);

	if (status == KS_RESOURCE_EXHAUSTED)
		return ks_fail_memory(e->err);
	if (status != KS_OK)
		return status;
	op->kind = KS_OP_PUT;
	return e->missed ? KS_ABORTED : ks_exec_put(e, put, op);
}

/* ---- the other requests ---- */

static enum ks_status eval_compact(struct ks_eval *e, int64_t revision)
{
	struct ks_point *tail = &e->store->state->tail;
	struct ks_effect effect = {.kind = KS_EFFECT_COMPACT, .version = revision};

	if (revision <= tail->compact_revision)
		return ks_fail_compacted(e->err);
	if (revision > tail->revision)
		return ks_fail_future(e->err);
	if (!ks_eval_add_effect(e, &effect))
		return ks_fail_memory(e->err);
	tail->compact_revision = revision;
	tail->compact_loc = (struct ks_loc){.position = tail->position + 1};
	return KS_OK;
}

static enum ks_status eval_grant(struct ks_eval *e, const struct ks_lease_grant_req *grant)
{
	struct ks_state *state = e->store->state;
	struct ks_effect effect = {.kind = KS_EFFECT_LEASE_GRANT, .lease = grant->id, .version = grant->ttl};
	struct ks_loc loc = {.position = state->tail.position + 1};

	if (ks_leases_find_tail(&state->leases, grant->id))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: lease already exists");
	if (!ks_eval_add_effect(e, &effect) || !ks_state_grant(state, grant->id, grant->ttl, loc))
		return ks_fail_memory(e->err);
	return KS_OK;
}

static int cmp_key(const void *a, const void *b)
{
	return ks_slice_cmp(ks_key_slice(*(struct ks_key *const *)a), ks_key_slice(*(struct ks_key *const *)b));
}

static bool delete_keys_of(struct ks_eval *e, const struct ks_lease *lease)
{
	struct ks_key **keys;
	size_t count = 0;
	bool ok = true;

	if (lease->used == 0)
		return true;
	keys = malloc(lease->used * sizeof(struct ks_key *));
	if (!keys)
		return false;
	for (uint32_t i = 0; i < lease->capacity; i++) {
		if (lease->keys[i] && ks_lease_has(lease, lease->keys[i], INT64_MAX))
			keys[count++] = lease->keys[i];
	}
	qsort(keys, count, sizeof(struct ks_key *), cmp_key);
	for (size_t i = 0; i < count && ok; i++) {
		ok = ks_eval_delete_key(e, keys[i]);
		/* The keys stay: only the writer removes live ones, and the set holds them. */
		if (i % KS_LOCK_CHUNK == KS_LOCK_CHUNK - 1) {
			ks_unlock(e->store);
			ks_lock_write(e->store);
		}
	}
	free(keys);
	return ok;
}

static enum ks_status eval_revoke(struct ks_eval *e, int64_t id)
{
	struct ks_state *state = e->store->state;
	struct ks_lease *lease = ks_leases_find_tail(&state->leases, id);
	struct ks_effect effect = {.kind = KS_EFFECT_LEASE_REVOKE, .lease = id};
	struct ks_loc loc = {.position = state->tail.position + 1};

	if (!lease)
		return ks_fail(e->err, KS_NOT_FOUND, "etcdserver: requested lease not found");
	if (!delete_keys_of(e, lease))
		return ks_fail_memory(e->err);
	loc.sub = e->changes;
	if (!ks_eval_add_effect(e, &effect) || !ks_state_revoke(state, lease, loc))
		return ks_fail_memory(e->err);
	return KS_OK;
}

static enum ks_status eval_auth(struct ks_eval *e, const struct ks_auth_req *req)
{
	struct ks_state *state = e->store->state;
	struct ks_auth *before = ks_auth_ref(state->auth_tail);
	size_t dropped_count = state->auth_dropped.count;
	enum ks_status status = ks_auth_eval(before, req, e->effects, e->err);

	for (size_t i = 0; status == KS_OK && i < e->effects->entry.effect_count; i++) {
		struct ks_loc loc = {.position = state->tail.position + 1, .sub = (int32_t)i};

		if (!ks_auth_apply(&state->auth_tail, &e->effects->entry.effects[i], loc, &state->auth_dropped))
			status = ks_fail_memory(e->err);
	}
	if (status == KS_OK)
		ks_auth_unref(before);
	else
		ks_state_undo_auth(state, before, dropped_count);
	return status;
}

static enum ks_status eval_alarm(struct ks_eval *e, const struct ks_alarm_req *req, bool *was_active)
{
	struct ks_state *state = e->store->state;
	struct ks_loc loc = {.position = state->tail.position + 1};
	enum ks_status status = ks_alarms_eval(state->alarms_tail, req, was_active, e->effects, e->err);

	if (status == KS_OK && e->effects->entry.effect_count &&
	    !ks_alarms_apply(&state->alarms_tail, e->effects->entry.effects, loc, &state->alarms_dropped))
		status = ks_fail_memory(e->err);
	return status;
}

/* ---- the writer's entrance ---- */

static enum ks_status eval_request(struct ks_eval *e, const struct ks_request *req, struct ks_result *result)
{
	enum ks_status status = ks_alarms_allow(e->store->state->alarms_tail, req, e->err);

	if (status == KS_OK && !req->caller.internal && ks_auth_enabled(e->store->state->auth_tail))
		status = ks_eval_may(e, req);
	if (status != KS_OK)
		return status;
	switch (req->kind) {
	case KS_REQ_PUT:
		return eval_put(e, &req->put, &result->op);
	case KS_REQ_DELETE:
		result->op.kind = KS_OP_DELETE;
		return ks_exec_delete(e, &req->del, &result->op);
	case KS_REQ_TXN:
		status = prepare_txn(e, &req->txn);
		return status == KS_OK ? ks_exec_txn(e, &req->txn, &result->txn) : status;
	case KS_REQ_COMPACT:
		return eval_compact(e, req->compact_revision);
	case KS_REQ_LEASE_GRANT:
		return eval_grant(e, &req->grant);
	case KS_REQ_LEASE_REVOKE:
		return eval_revoke(e, req->revoke.id);
	case KS_REQ_AUTH:
		return eval_auth(e, &req->auth);
	case KS_REQ_ALARM:
		return eval_alarm(e, &req->alarm, &result->alarm_was_active);
	}
	return ks_fail(e->err, KS_UNIMPLEMENTED, "unknown kind of request");
}

enum ks_status ks_store_eval(struct ks_store *store, const struct ks_request *req, struct ks_result *result,
			     struct ks_effects *effects, struct ks_err *err)
{
	struct ks_state *state = store->state;
	struct ks_point before = state->tail; /* the writer's own: read without the lock */
	size_t undo_count = state->undo_count;
	struct ks_misses misses = {0};
	struct ks_eval e = {
		.store = store,
		.view = {.view = KS_VIEW_TAIL, .write_locked = true, .newest = INT64_MAX},
		.as_of = INT64_MAX,
		.begin = before.revision,
		.current = before.revision,
		.compacted = before.compact_revision,
		.misses = &misses,
		.err = err,
		.effects = effects,
	};
	enum ks_status status;

	KS_ASSERT(!store->loading && !store->jump);
	KS_ASSERT(!state->cut_count || ks_request_is_kv(req));
	*effects = (struct ks_effects){0};
	ks_lock_write(store);
	for (;;) {
		*result = (struct ks_result){.kind = req->kind};
		status = eval_request(&e, req, result);
		if (status != KS_ABORTED)
			break;
		ks_unlock(store);
		status = ks_eval_fetch(&e);
		ks_lock_write(store);
		if (status != KS_OK)
			break;
	}
	if (status == KS_OK && effects->entry.effect_count > 0) {
		state->tail.position++;
		state->tail.revision = ks_eval_revision(&e);
		effects->entry.position = state->tail.position;
		effects->entry.revision = state->tail.revision;
	} else if (status != KS_OK) {
		ks_state_undo_records(state, before.revision, SIZE_MAX);
		ks_state_undo_leases(state, undo_count);
		state->tail = before;
	}
	ks_unlock(store);
	result->revision = state->tail.revision;
	if (status != KS_OK) {
		ks_result_fini(result);
		ks_effects_fini(effects);
	}
	ks_misses_fini(&misses);
	free(e.path);
	return status;
}

/* ---- read-only txns ---- */

static bool only_ranges(const struct ks_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (ops[i].kind != KS_OP_RANGE)
			return false;
	}
	return true;
}

static enum ks_status read_once(struct ks_eval *e, const struct ks_txn_req *req, struct ks_txn_result *result)
{
	const struct ks_point *committed;
	enum ks_status status;

	ks_lock_read(e->store);
	committed = &e->store->state->committed;
	e->begin = e->current = e->as_of = e->view.newest = committed->revision;
	e->compacted = committed->compact_revision;
	status = prepare_txn(e, req);
	if (status == KS_OK)
		status = ks_exec_txn(e, req, result);
	ks_unlock(e->store);
	return status;
}

enum ks_status ks_store_read_txn(struct ks_store *store, const struct ks_txn_req *req, struct ks_txn_result *result,
				 int64_t *revision, struct ks_misses *misses, struct ks_err *err)
{
	struct ks_eval e = {
		.store = store,
		.view = {.view = KS_VIEW_COMMITTED},
		.misses = misses,
		.known = misses->count,
		.miss_capacity = misses->count,
		.err = err,
	};
	enum ks_status status;

	*result = (struct ks_txn_result){0};
	if (!only_ranges(req->success, req->success_count) || !only_ranges(req->failure, req->failure_count))
		return ks_fail(err, KS_INVALID_ARGUMENT, "not a read-only txn");
	do {
		ks_txn_result_fini(result);
		status = read_once(&e, req, result);
	} while (status == KS_ABORTED && !e.missed); /* a compaction overtook a long one */
	*revision = e.begin;
	if (status == KS_OK)
		ks_count_read_txn(result);
	else
		ks_txn_result_fini(result);
	if (e.missed)
		ks_misses_sort(misses);
	free(e.path);
	return status == KS_ABORTED ? ks_fail(err, status, "values must be fetched first") : status;
}
