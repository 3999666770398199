/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may do what (spec 7.3). The permissions of all roles of a user become two lists of ranges, merged where they overlap or touch,
 * so that a check is one search. They are computed when somebody first asks, and kept as long as neither the user nor
 * one of the roles changes.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "store/auth_priv.h"

#define AUTHPB_READ 0
#define AUTHPB_WRITE 1
#define AUTHPB_READWRITE 2

/* ---- ranges ---- */

static bool open_ended(struct ks_slice end)
{
	return end.size == 1 && end.data[0] == 0;
}

/* -1, 0, 1; an end without data is behind everything. */
static int cmp_ends(struct ks_slice a, struct ks_slice b)
{
	if (!a.data || !b.data)
		return (!a.data) - (!b.data);
	return ks_slice_cmp(a, b);
}

static bool behind(struct ks_slice end, struct ks_slice key)
{
	return !end.data || ks_slice_cmp(end, key) > 0;
}

static int cmp_ranges(const void *a, const void *b)
{
	const struct ks_auth_range *left = a, *right = b;
	int order = ks_slice_cmp(left->begin, right->begin);

	return order ? order : cmp_ends(left->end, right->end);
}

static void merge(struct ks_auth_ranges *ranges)
{
	size_t kept = 0;

	if (ranges->count == 0)
		return;
	qsort(ranges->items, ranges->count, sizeof(*ranges->items), cmp_ranges);
	for (size_t i = 1; i < ranges->count; i++) {
		struct ks_auth_range *last = &ranges->items[kept], *next = &ranges->items[i];

		if (last->end.data && ks_slice_cmp(last->end, next->begin) < 0)
			ranges->items[++kept] = *next;
		else if (cmp_ends(last->end, next->end) < 0)
			last->end = next->end;
	}
	ranges->count = kept + 1;
}

/* The last range that begins at or before 'key'. */
static const struct ks_auth_range *find_range(const struct ks_auth_ranges *ranges, struct ks_slice key)
{
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ks_slice_cmp(ranges->items[middle].begin, key) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &ranges->items[low - 1] : NULL;
}

/* An interval that ends before it begins finds no keys; it is allowed when it lies within what is permitted. */
static bool covers(const struct ks_auth_ranges *ranges, const struct ks_interval *interval)
{
	const struct ks_auth_range *range = find_range(ranges, interval->key);

	if (!range || !behind(range->end, interval->key))
		return false;
	if (interval->end.size == 0)
		return true;
	if (open_ended(interval->end))
		return !range->end.data;
	return (!range->end.data || ks_slice_cmp(range->end, interval->end) >= 0) &&
	       ks_slice_cmp(range->begin, interval->end) < 0;
}

/* ---- grants ---- */

void ks_auth_grants_unref(struct ks_auth_grants *grants)
{
	if (!grants || atomic_fetch_sub_explicit(&grants->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(grants->read.items);
	free(grants->write.items);
	free(grants->bytes);
	free(grants);
}

struct sizes {
	size_t perms, bytes;
};

static bool usable(const struct ks_auth_perm *perm)
{
	const struct ks_interval *interval = &perm->interval;

	/* What no RoleGrantPermission lets through may still be in a table that people edited. */
	return interval->end.size == 0 || open_ended(interval->end) || ks_slice_cmp(interval->key, interval->end) < 0;
}

static struct sizes measure(const struct ks_auth *auth, const struct ks_auth_user *user)
{
	struct sizes sizes = {0};

	for (size_t i = 0; i < user->role_count; i++) {
		const struct ks_auth_role *role = ks_auth_find_role(auth, user->roles[i]);

		for (size_t p = 0; role && p < role->perm_count; p++) {
			const struct ks_interval *interval = &role->perms[p].interval;

			sizes.perms++;
			sizes.bytes += 2 * interval->key.size + interval->end.size + 1;
		}
	}
	return sizes;
}

static struct ks_slice keep(uint8_t **at, struct ks_slice from, bool successor)
{
	struct ks_slice kept = {.data = *at, .size = from.size + successor};

	if (from.size)
		memcpy(*at, from.data, from.size);
	if (successor)
		(*at)[from.size] = 0;
	*at += kept.size;
	return kept;
}

static void add_perm(struct ks_auth_grants *grants, const struct ks_auth_perm *perm, uint8_t **at)
{
	const struct ks_interval *interval = &perm->interval;
	struct ks_auth_range range = {.begin = keep(at, interval->key, false)};

	if (interval->end.size == 0)
		range.end = keep(at, interval->key, true);
	else if (!open_ended(interval->end))
		range.end = keep(at, interval->end, false);
	if (perm->type == AUTHPB_READ || perm->type == AUTHPB_READWRITE)
		grants->read.items[grants->read.count++] = range;
	if (perm->type == AUTHPB_WRITE || perm->type == AUTHPB_READWRITE)
		grants->write.items[grants->write.count++] = range;
}

static struct ks_auth_grants *compute(const struct ks_auth *auth, const struct ks_auth_user *user)
{
	struct ks_auth_grants *grants = calloc(1, sizeof(*grants));
	struct sizes sizes = measure(auth, user);
	uint8_t *at;

	if (!grants)
		return NULL;
	atomic_init(&grants->refs, 1);
	grants->root = ks_auth_user_has_role(user, ks_slice_str(KS_AUTH_ROOT));
	grants->read.items = calloc(sizes.perms + 1, sizeof(*grants->read.items));
	grants->write.items = calloc(sizes.perms + 1, sizeof(*grants->write.items));
	grants->bytes = at = malloc(sizes.bytes + 1);
	if (!grants->read.items || !grants->write.items || !grants->bytes) {
		ks_auth_grants_unref(grants);
		return NULL;
	}
	for (size_t i = 0; i < user->role_count; i++) {
		const struct ks_auth_role *role = ks_auth_find_role(auth, user->roles[i]);

		for (size_t p = 0; role && p < role->perm_count; p++)
			if (usable(&role->perms[p]))
				add_perm(grants, &role->perms[p], &at);
	}
	merge(&grants->read);
	merge(&grants->write);
	return grants;
}

/* Borrowed from the slot; NULL without memory. Several threads may compute at once: the first one's stay. */
static const struct ks_auth_grants *grants_of(const struct ks_auth *auth, struct ks_auth_slot *slot)
{
	struct ks_auth_grants *grants = atomic_load_explicit(&slot->grants, memory_order_acquire);
	struct ks_auth_grants *fresh;

	if (grants)
		return grants;
	fresh = compute(auth, &slot->object->user);
	if (!fresh)
		return NULL;
	if (atomic_compare_exchange_strong_explicit(&slot->grants, &grants, fresh, memory_order_acq_rel,
						    memory_order_acquire))
		return fresh;
	ks_auth_grants_unref(fresh);
	return grants;
}

/* ---- checks ---- */

static bool unchecked(const struct ks_auth *auth, const struct ks_caller *caller)
{
	return !auth->enabled || caller->internal;
}

static enum ks_status fail_nobody(struct ks_err *err)
{
	return ks_fail(err, KS_INVALID_ARGUMENT, "etcdserver: user name is empty");
}

static enum ks_status fail_denied(struct ks_err *err)
{
	return ks_fail(err, KS_PERMISSION_DENIED, "etcdserver: permission denied");
}

static enum ks_status fail_old(struct ks_err *err)
{
	return ks_fail(err, KS_INVALID_ARGUMENT, "etcdserver: revision of auth store is old");
}

enum ks_status ks_auth_check_revision(const struct ks_auth *auth, const struct ks_caller *caller, struct ks_err *err)
{
	if (unchecked(auth, caller))
		return KS_OK;
	if (!caller->identified)
		return fail_old(err);
	if (caller->auth_revision == 0)
		return fail_nobody(err);
	return caller->auth_revision < auth->revision ? fail_old(err) : KS_OK;
}

enum ks_status ks_auth_check(const struct ks_auth *auth, const struct ks_caller *caller,
			     const struct ks_interval *interval, enum ks_perm_type need, struct ks_err *err)
{
	enum ks_status status = ks_auth_check_revision(auth, caller, err);
	const struct ks_auth_grants *grants;
	struct ks_auth_slot *slot;

	if (status != KS_OK || unchecked(auth, caller))
		return status;
	slot = ks_auth_find_slot(auth, caller->user);
	if (!slot)
		return fail_denied(err);
	grants = grants_of(auth, slot);
	if (!grants)
		return ks_fail_memory(err);
	if (grants->root || covers(need == KS_PERM_READ ? &grants->read : &grants->write, interval))
		return KS_OK;
	return fail_denied(err);
}

enum ks_status ks_auth_check_user(const struct ks_auth *auth, const struct ks_caller *caller, struct ks_err *err)
{
	if (unchecked(auth, caller))
		return KS_OK;
	if (!caller->identified)
		return fail_old(err);
	return caller->user.size ? KS_OK : fail_nobody(err);
}

enum ks_status ks_auth_check_admin(const struct ks_auth *auth, const struct ks_caller *caller, struct ks_err *err)
{
	enum ks_status status = ks_auth_check_user(auth, caller, err);
	const struct ks_auth_user *user;

	if (status != KS_OK || unchecked(auth, caller))
		return status;
	user = ks_auth_find_user(auth, caller->user);
	if (!user)
		return ks_fail(err, KS_FAILED_PRECONDITION, "etcdserver: user name not found");
	return ks_auth_user_has_role(user, ks_slice_str(KS_AUTH_ROOT)) ? KS_OK : fail_denied(err);
}

/* ---- transactions ---- */

static enum ks_status check_op(const struct ks_auth *auth, const struct ks_caller *caller, const struct ks_op *op,
			       struct ks_err *err)
{
	struct ks_interval key;
	enum ks_status status;

	switch (op->kind) {
	case KS_OP_RANGE:
		return ks_auth_check(auth, caller, &op->range.interval, KS_PERM_READ, err);
	case KS_OP_PUT:
		key = (struct ks_interval){.key = op->put.key};
		status = ks_auth_check(auth, caller, &key, KS_PERM_WRITE, err);
		if (status == KS_OK && op->put.prev_kv)
			status = ks_auth_check(auth, caller, &key, KS_PERM_READ, err);
		return status;
	case KS_OP_DELETE:
		status = ks_auth_check(auth, caller, &op->del.interval, KS_PERM_WRITE, err);
		if (status == KS_OK && op->del.prev_kv)
			status = ks_auth_check(auth, caller, &op->del.interval, KS_PERM_READ, err);
		return status;
	case KS_OP_TXN:
		return ks_auth_check_txn(auth, caller, op->txn, err);
	}
	return KS_OK;
}

enum ks_status ks_auth_check_txn(const struct ks_auth *auth, const struct ks_caller *caller,
				 const struct ks_txn_req *txn, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	if (unchecked(auth, caller))
		return KS_OK;
	for (size_t i = 0; i < txn->compare_count && status == KS_OK; i++)
		status = ks_auth_check(auth, caller, &txn->compares[i].interval, KS_PERM_READ, err);
	for (size_t i = 0; i < txn->success_count && status == KS_OK; i++)
		status = check_op(auth, caller, &txn->success[i], err);
	for (size_t i = 0; i < txn->failure_count && status == KS_OK; i++)
		status = check_op(auth, caller, &txn->failure[i], err);
	return status;
}
