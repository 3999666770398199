/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests become changes of the tail, and effects for the log (spec 2.5 - 2.8, 4.1, 4.2, 5.1). In etcd's order: active
 * alarms; the caller's permissions; all compares of the path that is taken, nested ones too, against the state before; then all checks; then the operations one after the other,
 * each seeing what those before it did. Read-only txns take the same way with the committed view.
 *
 * Values that are not in memory: compares and checks note what they miss; the writer fetches it without the lock and
 * starts again, for nothing has changed yet.
 */
#include <stdlib.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "store/alarm_priv.h"
#include "store/auth_priv.h"
#include "store/count.h"
#include "store/store_priv.h"

struct eval {
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

/* ---- values that may have to be fetched ---- */

static int cmp_loc(const struct ks_loc *a, const struct ks_loc *b)
{
	if (a->position != b->position)
		return a->position < b->position ? -1 : 1;
	return (a->sub > b->sub) - (a->sub < b->sub);
}

static int cmp_miss(const void *a, const void *b)
{
	return cmp_loc(&((const struct ks_kvref *)a)->loc, &((const struct ks_kvref *)b)->loc);
}

/* Sorts and throws out what is there twice; of those the one that has its value stays. */
static void sort_misses(struct ks_misses *misses)
{
	size_t kept = 0;

	if (misses->count < 2)
		return;
	qsort(misses->refs, misses->count, sizeof(*misses->refs), cmp_miss);
	for (size_t i = 1; i < misses->count; i++) {
		struct ks_kvref *last = &misses->refs[kept], *next = &misses->refs[i];

		if (cmp_miss(last, next) != 0) {
			misses->refs[++kept] = *next;
		} else if (!last->encoded) {
			last->encoded = next->encoded;
		} else {
			ks_bytes_unref(next->encoded);
		}
	}
	misses->count = kept + 1;
}

static struct ks_bytes *find_fetched(const struct eval *e, struct ks_loc loc)
{
	struct ks_kvref wanted = {.loc = loc};
	const struct ks_kvref *found = NULL;

	if (e->known)
		found = bsearch(&wanted, e->misses->refs, e->known, sizeof(wanted), cmp_miss);
	return found ? found->encoded : NULL;
}

/* The record's encoding, borrowed; NULL when it was noted as missing, or without memory (then 'status' says so). */
static struct ks_bytes *encoding_of(struct eval *e, struct ks_record *record, enum ks_status *status)
{
	struct ks_loc loc = {.position = record->position, .sub = record->sub};
	struct ks_bytes *encoded = record->encoded;

	ks_record_touch(record);
	if (!encoded)
		encoded = find_fetched(e, loc);
	if (encoded)
		return encoded;
	e->missed = true;
	if (e->miss_capacity < e->misses->count)
		e->miss_capacity = e->misses->count;
	if (!ks_grow((void **)&e->misses->refs, &e->miss_capacity, e->misses->count, sizeof(*e->misses->refs)))
		*status = KS_RESOURCE_EXHAUSTED;
	else
		e->misses->refs[e->misses->count++] = (struct ks_kvref){.loc = loc};
	return NULL;
}

/* ---- compares ---- */

static int cmp_number(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

static int64_t number_of(const struct ks_record *record, int target)
{
	switch (target) {
	case KS_CMP_VERSION:
		return record->version;
	case KS_CMP_CREATE:
		return record->create_revision;
	case KS_CMP_MOD:
		return record->revision;
	default:
		return record->lease;
	}
}

struct comparing {
	struct eval *e;
	const struct ks_compare *compare;
	bool any, holds;
	enum ks_status status;
};

static bool known_target(int target)
{
	return target >= KS_CMP_VERSION && target <= KS_CMP_LEASE;
}

static bool compare_one(struct comparing *c, struct ks_record *record)
{
	const struct ks_compare *compare = c->compare;
	struct ks_bytes *encoded;
	struct ks_kv kv;
	int order = 0;

	if (compare->target == KS_CMP_VALUE) {
		encoded = encoding_of(c->e, record, &c->status);
		if (!encoded)
			return true; /* go on: what else is missing? */
		order = ks_kv_decode(ks_bytes_slice(encoded), &kv) ? ks_slice_cmp(kv.value, compare->value) : 0;
	} else if (known_target(compare->target)) {
		order = cmp_number(number_of(record, compare->target), compare->number);
	}
	return ks_compare_holds(order, compare->result);
}

static bool compare_found(void *ctx, struct ks_record *const *found, uint32_t count)
{
	struct comparing *c = ctx;

	c->any = true;
	for (uint32_t i = 0; i < count && c->holds && c->status == KS_OK; i++)
		c->holds = compare_one(c, found[i]);
	return c->holds && c->status == KS_OK;
}

static enum ks_status eval_compare(struct eval *e, const struct ks_compare *compare, bool *holds)
{
	struct comparing c = {.e = e, .compare = compare, .holds = true, .status = KS_OK};
	enum ks_status status = KS_OK;

	if (compare->interval.end.size == 0) {
		const struct ks_key *key = ks_index_find(&e->store->state->index, compare->interval.key);
		struct ks_record *record = key ? ks_key_at(key, e->as_of) : NULL;

		if (ks_record_live(record))
			compare_found(&c, &record, 1);
	} else {
		status = ks_scan_visible(e->store, &compare->interval, &e->view, e->as_of, SIZE_MAX, compare_found, &c);
	}
	if (c.status != KS_OK)
		return c.status;
	if (!c.holds) {
		*holds = false;
		return KS_OK;
	}
	if (!c.any && compare->target == KS_CMP_VALUE)
		*holds = false;
	else if (!c.any)
		*holds = ks_compare_holds(known_target(compare->target) ? cmp_number(0, compare->number) : 0,
					  compare->result);
	else
		*holds = true;
	return status;
}

/* Decides this txn and, on the branch taken, the nested ones. */
static enum ks_status choose_path(struct eval *e, const struct ks_txn_req *txn)
{
	enum ks_status status = KS_OK;
	const struct ks_op *ops;
	bool succeeded = true;
	size_t count;

	for (size_t i = 0; i < txn->compare_count && succeeded && status == KS_OK; i++)
		status = eval_compare(e, &txn->compares[i], &succeeded);
	if (status != KS_OK)
		return status;
	if (succeeded && e->missed)
		return KS_OK; /* not known yet */
	if (!ks_grow((void **)&e->path, &e->path_capacity, e->path_count, sizeof(*e->path)))
		return KS_RESOURCE_EXHAUSTED;
	e->path[e->path_count++] = succeeded;
	ops = succeeded ? txn->success : txn->failure;
	count = succeeded ? txn->success_count : txn->failure_count;
	for (size_t i = 0; i < count && status == KS_OK; i++) {
		if (ops[i].kind == KS_OP_TXN)
			status = choose_path(e, ops[i].txn);
	}
	return status;
}

/* ---- checks ---- */

static struct ks_record *newest_live(const struct eval *e, struct ks_slice name)
{
	const struct ks_key *key = ks_index_find(&e->store->state->index, name);
	struct ks_record *record = key ? ks_key_at(key, e->as_of) : NULL;

	return ks_record_live(record) ? record : NULL;
}

static enum ks_status fail_no_key(struct eval *e)
{
	return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: key not found");
}

static enum ks_status check_lease(struct eval *e, const struct ks_put_req *put)
{
	if (put->lease && !ks_leases_find_tail(&e->store->state->leases, put->lease))
		return ks_fail(e->err, KS_NOT_FOUND, "etcdserver: requested lease not found");
	return KS_OK;
}

static enum ks_status check_existing(struct eval *e, const struct ks_put_req *put)
{
	enum ks_status status = KS_OK;
	struct ks_record *record;

	if (!put->ignore_value && !put->ignore_lease)
		return KS_OK;
	record = newest_live(e, put->key);
	if (!record)
		return fail_no_key(e);
	if (put->ignore_value)
		(void)encoding_of(e, record, &status);
	return status;
}

/* Which error wins: etcd looks for the lease first in a plain put, and for the key first in a transaction. */
static enum ks_status check_put(struct eval *e, const struct ks_put_req *put, bool in_txn)
{
	enum ks_status status = in_txn ? check_existing(e, put) : check_lease(e, put);

	if (status != KS_OK)
		return status;
	return in_txn ? check_lease(e, put) : check_existing(e, put);
}

static enum ks_status check_range(struct eval *e, const struct ks_range_req *range)
{
	if (range->revision == 0)
		return KS_OK;
	if (range->revision > e->current)
		return ks_fail_future(e->err);
	if (range->revision < e->compacted)
		return ks_fail_compacted(e->err);
	return KS_OK;
}

/* In the order of the list (spec 2.6): it shows in which error wins. */
static enum ks_status check_ops(struct eval *e, const struct ks_txn_req *txn)
{
	bool succeeded = e->path[e->path_next++];
	const struct ks_op *ops = succeeded ? txn->success : txn->failure;
	size_t count = succeeded ? txn->success_count : txn->failure_count;
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < count && status == KS_OK; i++) {
		if (ops[i].kind == KS_OP_TXN)
			status = check_ops(e, ops[i].txn);
		else if (ops[i].kind == KS_OP_PUT)
			status = check_put(e, &ops[i].put, true);
		else if (ops[i].kind == KS_OP_RANGE)
			status = check_range(e, &ops[i].range);
	}
	return status;
}

static enum ks_status check_txn(struct eval *e, const struct ks_txn_req *txn)
{
	e->path_next = 0;
	return check_ops(e, txn);
}

/* ---- operations ---- */

static int64_t revision_now(const struct eval *e)
{
	return e->begin + (e->changes > 0);
}

static bool add_effect(struct eval *e, const struct ks_effect *effect)
{
	struct ks_entry *entry = &e->effects->entry;

	if (!ks_grow((void **)&entry->effects, &e->effect_capacity, entry->effect_count, sizeof(*entry->effects)))
		return false;
	entry->effects[entry->effect_count++] = *effect;
	e->effects->bytes += effect->key.size + effect->value.size + effect->payload.size;
	return true;
}

static struct ks_change next_change(const struct eval *e)
{
	return (struct ks_change){
		.revision = e->begin + 1,
		.position = e->store->state->tail.position + 1,
		.sub = e->changes,
	};
}

static enum ks_status exec_range(struct eval *e, const struct ks_range_req *req, struct ks_op_result *op)
{
	int64_t as_of = req->revision > 0 ? req->revision : e->as_of;
	struct ks_range_result *result = &op->range;
	enum ks_status status = ks_range_eval(e->store, req, &e->view, as_of, result, e->err);

	op->revision = revision_now(e);
	if (status != KS_OK || !result->unsorted || e->view.view == KS_VIEW_COMMITTED)
		return status;
	/* The writer finishes the sort by value itself. Nobody sees the tail, so others may read meanwhile. */
	ks_unlock(e->store);
	for (size_t i = 0; i < result->kv_count && e->store->config.fetch; i++) {
		if (!result->kvs[i].encoded)
			result->kvs[i].encoded = e->store->config.fetch(e->store->config.fetch_ctx, result->kvs[i].loc);
	}
	status = ks_range_result_finish(result, e->err);
	ks_lock_write(e->store);
	return status;
}

/* The value that a put leaves as it is. 'old' was there before the request (then its value is known) or came in it. */
static bool kept_value(struct eval *e, struct ks_record *old, struct ks_slice *value)
{
	enum ks_status status = KS_OK;
	struct ks_bytes *encoded = encoding_of(e, old, &status);
	struct ks_kv kv;

	if (!encoded || !ks_kv_decode(ks_bytes_slice(encoded), &kv))
		return false;
	*value = kv.value;
	return true;
}

static enum ks_status exec_put(struct eval *e, const struct ks_put_req *put, struct ks_op_result *op)
{
	struct ks_state *state = e->store->state;
	struct ks_change change = next_change(e);
	struct ks_effect effect = {.kind = KS_EFFECT_PUT};
	struct ks_record *old, *record;
	struct ks_key *key;
	struct ks_kv kv;
	bool added;

	key = ks_index_insert(&state->index, put->key, &added);
	if (!key)
		return ks_fail_memory(e->err);
	old = ks_key_newest(key);
	if (!ks_record_live(old))
		old = NULL;
	change.create_revision = old ? old->create_revision : change.revision;
	change.version = old ? old->version + 1 : 1;
	change.value = put->value;
	change.lease = put->lease;
	if (!old && (put->ignore_value || put->ignore_lease)) {
		/* It was there before the txn, and a delete of the txn itself took it away (spec 15). */
		if (added)
			ks_state_drop_key(state, key);
		return fail_no_key(e);
	}
	if (put->ignore_lease)
		change.lease = old->lease;
	if (put->ignore_value && !kept_value(e, old, &change.value))
		return ks_fail(e->err, KS_UNAVAILABLE, "etcdserver: no leader");
	record = ks_state_append(state, key, &change);
	if (!record) {
		if (added)
			ks_state_drop_key(state, key);
		return ks_fail_memory(e->err);
	}
	effect.key = ks_key_slice(key);
	effect.value = put->value;
	if (put->ignore_value && ks_kv_decode(ks_bytes_slice(record->encoded), &kv))
		effect.value = kv.value;
	effect.create_revision = record->create_revision;
	effect.version = record->version;
	effect.lease = record->lease;
	if (!add_effect(e, &effect))
		return ks_fail_memory(e->err);
	e->changes++;
	if (put->prev_kv && old)
		op->prev_kv = ks_record_kvref(old);
	op->revision = revision_now(e);
	return KS_OK;
}

struct deleting {
	struct eval *e;
	struct ks_op_result *op;
	size_t capacity;
	bool prev_kv, too_many;
};

static bool delete_one(struct eval *e, struct ks_key *key)
{
	struct ks_change change = next_change(e);
	struct ks_effect effect = {.kind = KS_EFFECT_DELETE, .key = ks_key_slice(key)};

	if (e->changes == INT32_MAX || !ks_state_append(e->store->state, key, &change))
		return false;
	e->changes++;
	return add_effect(e, &effect);
}

static bool delete_found(void *ctx, struct ks_record *const *found, uint32_t count)
{
	struct deleting *d = ctx;
	struct ks_op_result *op = d->op;

	for (uint32_t i = 0; i < count; i++) {
		if (d->prev_kv) {
			if (!ks_grow((void **)&op->del.prev_kvs, &d->capacity, (size_t)op->del.deleted,
				     sizeof(*op->del.prev_kvs)))
				return false;
			op->del.prev_kvs[op->del.deleted] = ks_record_kvref(found[i]);
		}
		op->del.deleted++;
		if (!delete_one(d->e, found[i]->key))
			return false;
	}
	return true;
}

static enum ks_status exec_delete(struct eval *e, const struct ks_delete_req *del, struct ks_op_result *op)
{
	struct deleting d = {.e = e, .op = op, .prev_kv = del->prev_kv};
	enum ks_status status = KS_OK;
	struct ks_record *record;

	if (del->interval.end.size == 0) {
		record = newest_live(e, del->interval.key);
		if (record && !delete_found(&d, &record, 1))
			status = KS_RESOURCE_EXHAUSTED;
	} else {
		status = ks_scan_visible(e->store, &del->interval, &e->view, e->as_of, SIZE_MAX, delete_found, &d);
	}
	op->revision = revision_now(e);
	return status == KS_OK ? KS_OK : ks_fail_memory(e->err);
}

static enum ks_status exec_txn(struct eval *e, const struct ks_txn_req *txn, struct ks_txn_result *result);

static enum ks_status exec_op(struct eval *e, const struct ks_op *op, struct ks_op_result *result)
{
	result->kind = op->kind;
	switch (op->kind) {
	case KS_OP_RANGE:
		return exec_range(e, &op->range, result);
	case KS_OP_PUT:
		return exec_put(e, &op->put, result);
	case KS_OP_DELETE:
		return exec_delete(e, &op->del, result);
	case KS_OP_TXN:
		result->txn = calloc(1, sizeof(*result->txn));
		return result->txn ? exec_txn(e, op->txn, result->txn) : ks_fail_memory(e->err);
	}
	return KS_OK;
}

static enum ks_status exec_txn(struct eval *e, const struct ks_txn_req *txn, struct ks_txn_result *result)
{
	enum ks_status status = KS_OK;
	const struct ks_op *ops;
	size_t count;

	result->succeeded = e->path[e->path_next++];
	ops = result->succeeded ? txn->success : txn->failure;
	count = result->succeeded ? txn->success_count : txn->failure_count;
	if (count == 0)
		return KS_OK;
	result->ops = calloc(count, sizeof(*result->ops));
	if (!result->ops)
		return ks_fail_memory(e->err);
	result->op_count = count;
	for (size_t i = 0; i < count; i++)
		result->ops[i].kind = ops[i].kind; /* so that all of it can be freed at any time */
	for (size_t i = 0; i < count && status == KS_OK; i++)
		status = exec_op(e, &ops[i], &result->ops[i]);
	return status;
}

/* Compares and checks. KS_ABORTED when values are missing, or when a compaction overtook a long compare. */
static enum ks_status prepare_txn(struct eval *e, const struct ks_txn_req *txn)
{
	enum ks_status status;

	e->path_count = e->path_next = 0;
	status = choose_path(e, txn);
	if (status == KS_OK && !e->missed)
		status = check_txn(e, txn);
	if (status == KS_RESOURCE_EXHAUSTED)
		return ks_fail_memory(e->err);
	e->path_next = 0;
	return status == KS_OK && e->missed ? KS_ABORTED : status;
}

/* ---- the other requests ---- */

static enum ks_status eval_compact(struct eval *e, int64_t revision)
{
	struct ks_point *tail = &e->store->state->tail;
	struct ks_effect effect = {.kind = KS_EFFECT_COMPACT, .version = revision};

	if (revision <= tail->compact_revision)
		return ks_fail_compacted(e->err);
	if (revision > tail->revision)
		return ks_fail_future(e->err);
	if (!add_effect(e, &effect))
		return ks_fail_memory(e->err);
	tail->compact_revision = revision;
	tail->compact_loc = (struct ks_loc){.position = tail->position + 1};
	return KS_OK;
}

static enum ks_status eval_grant(struct eval *e, const struct ks_lease_grant_req *grant)
{
	struct ks_state *state = e->store->state;
	struct ks_effect effect = {.kind = KS_EFFECT_LEASE_GRANT, .lease = grant->id, .version = grant->ttl};
	struct ks_loc loc = {.position = state->tail.position + 1};

	if (ks_leases_find_tail(&state->leases, grant->id))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: lease already exists");
	if (!add_effect(e, &effect) || !ks_state_grant(state, grant->id, grant->ttl, loc))
		return ks_fail_memory(e->err);
	return KS_OK;
}

static int cmp_key(const void *a, const void *b)
{
	return ks_slice_cmp(ks_key_slice(*(struct ks_key *const *)a), ks_key_slice(*(struct ks_key *const *)b));
}

static bool delete_keys_of(struct eval *e, const struct ks_lease *lease)
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
		ok = delete_one(e, keys[i]);
		/* The keys stay: only the writer removes live ones, and the set holds them. */
		if (i % KS_LOCK_CHUNK == KS_LOCK_CHUNK - 1) {
			ks_unlock(e->store);
			ks_lock_write(e->store);
		}
	}
	free(keys);
	return ok;
}

static enum ks_status eval_revoke(struct eval *e, int64_t id)
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
	if (!add_effect(e, &effect) || !ks_state_revoke(state, lease, loc))
		return ks_fail_memory(e->err);
	return KS_OK;
}

static enum ks_status eval_auth(struct eval *e, const struct ks_auth_req *req)
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

static enum ks_status eval_alarm(struct eval *e, const struct ks_alarm_req *req, bool *was_active)
{
	struct ks_state *state = e->store->state;
	struct ks_loc loc = {.position = state->tail.position + 1};
	enum ks_status status = ks_alarms_eval(state->alarms_tail, req, was_active, e->effects, e->err);

	if (status == KS_OK && e->effects->entry.effect_count &&
	    !ks_alarms_apply(&state->alarms_tail, e->effects->entry.effects, loc, &state->alarms_dropped))
		status = ks_fail_memory(e->err);
	return status;
}

static enum ks_status eval_put(struct eval *e, const struct ks_put_req *put, struct ks_op_result *op)
{
	enum ks_status status = check_put(e, put, false);

	if (status == KS_RESOURCE_EXHAUSTED)
		return ks_fail_memory(e->err);
	if (status != KS_OK)
		return status;
	op->kind = KS_OP_PUT;
	return e->missed ? KS_ABORTED : exec_put(e, put, op);
}

/* ---- permissions (spec 7.4) ---- */

static enum ks_status may_write_keys_of(struct eval *e, const struct ks_caller *caller, int64_t id)
{
	const struct ks_auth *auth = e->store->state->auth_tail;
	const struct ks_lease *lease = id ? ks_leases_find_tail(&e->store->state->leases, id) : NULL;
	enum ks_status status = KS_OK;

	/* As etcd: with ten thousand keys on a lease, each of root's puts would look at all of them. */
	if (!lease || ks_auth_check_admin(auth, caller, NULL) == KS_OK)
		return KS_OK;
	for (uint32_t i = 0; i < lease->capacity && status == KS_OK; i++) {
		struct ks_key *key = lease->keys[i];
		struct ks_interval interval;

		if (!key || !ks_lease_has(lease, key, INT64_MAX))
			continue;
		interval = (struct ks_interval){.key = ks_key_slice(key)};
		status = ks_auth_check(auth, caller, &interval, KS_PERM_WRITE, e->err);
	}
	return status;
}

/* Which leases the puts of a transaction name. */
static enum ks_status may_attach(struct eval *e, const struct ks_caller *caller, const struct ks_txn_req *txn)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < txn->success_count + txn->failure_count && status == KS_OK; i++) {
		const struct ks_op *op =
			i < txn->success_count ? &txn->success[i] : &txn->failure[i - txn->success_count];

		if (op->kind == KS_OP_PUT)
			status = may_write_keys_of(e, caller, op->put.lease);
		else if (op->kind == KS_OP_TXN)
			status = may_attach(e, caller, op->txn);
	}
	return status;
}

static enum ks_status may(struct eval *e, const struct ks_request *req)
{
	const struct ks_auth *auth = e->store->state->auth_tail;
	const struct ks_caller *caller = &req->caller;
	enum ks_status status;
	struct ks_op op;

	if (!ks_auth_enabled(auth) || caller->internal)
		return KS_OK;
	switch (req->kind) {
	case KS_REQ_PUT:
		op = (struct ks_op){.kind = KS_OP_PUT, .put = req->put};
		break;
	case KS_REQ_DELETE:
		op = (struct ks_op){.kind = KS_OP_DELETE, .del = req->del};
		break;
	case KS_REQ_TXN:
		op = (struct ks_op){.kind = KS_OP_TXN, .txn = &req->txn};
		break;
	case KS_REQ_LEASE_GRANT:
		return ks_auth_check_user(auth, caller, e->err);
	case KS_REQ_LEASE_REVOKE:
		status = ks_auth_check_user(auth, caller, e->err);
		return status == KS_OK ? may_write_keys_of(e, caller, req->revoke.id) : status;
	case KS_REQ_COMPACT:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
	default:
		return ks_auth_check_admin(auth, caller, e->err);
	}
	status = ks_auth_check_txn(auth, caller, &(struct ks_txn_req){.success = &op, .success_count = 1}, e->err);
	if (status == KS_OK)
		status = may_attach(e, caller, &(struct ks_txn_req){.success = &op, .success_count = 1});
	return status;
}

static enum ks_status eval_request(struct eval *e, const struct ks_request *req, struct ks_result *result)
{
	enum ks_status status = ks_alarms_allow(e->store->state->alarms_tail, req, e->err);

	if (status == KS_OK)
		status = may(e, req);
	if (status != KS_OK)
		return status;
	switch (req->kind) {
	case KS_REQ_PUT:
		return eval_put(e, &req->put, &result->op);
	case KS_REQ_DELETE:
		result->op.kind = KS_OP_DELETE;
		return exec_delete(e, &req->del, &result->op);
	case KS_REQ_TXN:
		status = prepare_txn(e, &req->txn);
		return status == KS_OK ? exec_txn(e, &req->txn, &result->txn) : status;
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

/* ---- the writer's entrance ---- */

/* Fetches what is missing, without the lock. */
static enum ks_status fetch_misses(struct eval *e)
{
	const struct ks_store_config *config = &e->store->config;

	sort_misses(e->misses);
	for (size_t i = 0; i < e->misses->count; i++) {
		struct ks_kvref *ref = &e->misses->refs[i];

		if (ref->encoded)
			continue;
		ref->encoded = config->fetch ? config->fetch(config->fetch_ctx, ref->loc) : NULL;
		if (!ref->encoded)
			return ks_fail(e->err, KS_UNAVAILABLE, "etcdserver: no leader");
		ks_store_cache_fill(e->store, ref->encoded, ref->loc);
	}
	e->known = e->misses->count;
	e->missed = false;
	return KS_OK;
}

enum ks_status ks_store_eval(struct ks_store *store, const struct ks_request *req, struct ks_result *result,
			     struct ks_effects *effects, struct ks_err *err)
{
	struct ks_state *state = store->state;
	struct ks_point before = state->tail; /* the writer's own: read without the lock */
	size_t undo_count = state->undo_count;
	struct ks_misses misses = {0};
	struct eval e = {
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
		status = fetch_misses(&e);
		ks_lock_write(store);
		if (status != KS_OK)
			break;
	}
	if (status == KS_OK && effects->entry.effect_count > 0) {
		state->tail.position++;
		state->tail.revision = revision_now(&e);
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

static enum ks_status read_once(struct eval *e, const struct ks_txn_req *req, struct ks_txn_result *result)
{
	const struct ks_point *committed;
	enum ks_status status;

	ks_lock_read(e->store);
	committed = &e->store->state->committed;
	e->begin = e->current = e->as_of = e->view.newest = committed->revision;
	e->compacted = committed->compact_revision;
	status = prepare_txn(e, req);
	if (status == KS_OK)
		status = exec_txn(e, req, result);
	ks_unlock(e->store);
	return status;
}

enum ks_status ks_store_read_txn(struct ks_store *store, const struct ks_txn_req *req, struct ks_txn_result *result,
				 int64_t *revision, struct ks_misses *misses, struct ks_err *err)
{
	struct eval e = {
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
		sort_misses(misses);
	free(e.path);
	return status == KS_ABORTED ? ks_fail(err, status, "values must be fetched first") : status;
}
