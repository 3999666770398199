/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that change users, roles and the switch (spec 7.5): the rules, in etcd's order, and the effects. What is already as it
 * was asked for gives no effect. Whether the caller may is asked before (txn_perm.c).
 */
#include <stdlib.h>

#include "store/auth_codec.h"
#include "store/auth_priv.h"

struct auth_eval {
	const struct ks_auth *auth;
	const struct ks_auth_req *req;
	struct ks_effects *effects;
	size_t effect_room, held_room;
	uint64_t revision; /* after the request */
	struct ks_err *err;
};

/* Takes 'payload' over; NULL: memory is short. */
static enum ks_status add(struct auth_eval *e, struct ks_bytes *payload)
{
	struct ks_effects *effects = e->effects;
	struct ks_entry *entry = &effects->entry;

	if (!payload)
		return ks_fail_memory(e->err);
	if (!ks_grow((void **)&effects->held, &e->held_room, effects->held_count, sizeof(struct ks_bytes *))) {
		ks_bytes_unref(payload);
		return ks_fail_memory(e->err);
	}
	effects->held[effects->held_count++] = payload;
	if (!ks_grow((void **)&entry->effects, &e->effect_room, entry->effect_count, sizeof(*entry->effects)))
		return ks_fail_memory(e->err);
	entry->effects[entry->effect_count++] = (struct ks_effect){
		.kind = KS_EFFECT_AUTH,
		.version = (int64_t)e->revision,
		.payload = ks_bytes_slice(payload),
	};
	effects->bytes += payload->size;
	return KS_OK;
}

static bool is_root(struct ks_slice name)
{
	return ks_slice_eq(name, ks_slice_str(KS_AUTH_ROOT));
}

static enum ks_status fail_management(struct auth_eval *e)
{
	return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: invalid auth management");
}

static enum ks_status fail_no_user(struct auth_eval *e)
{
	return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: user name not found");
}

static enum ks_status fail_no_role(struct auth_eval *e)
{
	return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: role name not found");
}

/* ---- the switch ---- */

static enum ks_status enable(struct auth_eval *e)
{
	const struct ks_auth_user *root = ks_auth_find_user(e->auth, ks_slice_str(KS_AUTH_ROOT));

	if (e->auth->enabled)
		return KS_OK;
	if (!root)
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: root user does not exist");
	if (!ks_auth_user_has_role(root, ks_slice_str(KS_AUTH_ROOT)))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: root user does not have root role");
	e->revision = e->auth->revision; /* the one change that does not count */
	return add(e, ks_auth_encode_switch(true, e->req->secret));
}

static enum ks_status disable(struct auth_eval *e)
{
	return e->auth->enabled ? add(e, ks_auth_encode_switch(false, ks_slice_of(NULL, 0))) : KS_OK;
}

/* ---- users ---- */

static enum ks_status user_add(struct auth_eval *e)
{
	const struct ks_auth_req *req = e->req;
	struct ks_auth_user user = {
		.name = req->user,
		.hash = req->no_password ? ks_slice_of(NULL, 0) : req->secret,
		.no_password = req->no_password,
		.credential = e->revision,
	};

	if (req->user.size == 0)
		return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: user name is empty");
	if (ks_auth_find_user(e->auth, req->user))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: user name already exists");
	return add(e, ks_auth_encode_user(&user));
}

static enum ks_status user_delete(struct auth_eval *e)
{
	if (e->auth->enabled && is_root(e->req->user))
		return fail_management(e);
	if (!ks_auth_find_user(e->auth, e->req->user))
		return fail_no_user(e);
	return add(e, ks_auth_encode_gone(KS_AUTH_USER, e->req->user));
}

static enum ks_status user_password(struct auth_eval *e)
{
	const struct ks_auth_user *old = ks_auth_find_user(e->auth, e->req->user);
	struct ks_auth_user user;

	if (!old)
		return fail_no_user(e);
	user = *old;
	user.credential = e->revision;
	if (!user.no_password)
		user.hash = e->req->secret;
	return add(e, ks_auth_encode_user(&user));
}

/* 'roles' has room for one more; the names stay in order. */
static size_t copy_roles(const struct ks_auth_user *user, struct ks_slice without, struct ks_slice with,
			 struct ks_slice *roles)
{
	size_t count = 0;
	bool added = with.size == 0;

	for (size_t i = 0; i < user->role_count; i++) {
		if (without.size && ks_slice_eq(user->roles[i], without))
			continue;
		if (!added && ks_slice_cmp(user->roles[i], with) > 0) {
			roles[count++] = with;
			added = true;
		}
		roles[count++] = user->roles[i];
	}
	if (!added)
		roles[count++] = with;
	return count;
}

static enum ks_status set_roles(struct auth_eval *e, const struct ks_auth_user *old, struct ks_slice without,
				struct ks_slice with)
{
	struct ks_slice *roles = calloc(old->role_count + 1, sizeof(*roles));
	struct ks_auth_user user = *old;
	enum ks_status status;

	if (!roles)
		return ks_fail_memory(e->err);
	user.roles = roles;
	user.role_count = copy_roles(old, without, with, roles);
	status = add(e, ks_auth_encode_user(&user));
	free(roles);
	return status;
}

static enum ks_status user_grant(struct auth_eval *e)
{
	const struct ks_auth_user *user = ks_auth_find_user(e->auth, e->req->user);

	if (!user)
		return fail_no_user(e);
	if (!is_root(e->req->role) && !ks_auth_find_role(e->auth, e->req->role))
		return fail_no_role(e);
	if (ks_auth_user_has_role(user, e->req->role))
		return KS_OK;
	return set_roles(e, user, ks_slice_of(NULL, 0), e->req->role);
}

static enum ks_status user_revoke(struct auth_eval *e)
{
	const struct ks_auth_user *user = ks_auth_find_user(e->auth, e->req->user);

	if (e->auth->enabled && is_root(e->req->user) && is_root(e->req->role))
		return fail_management(e);
	if (!user)
		return fail_no_user(e);
	if (!ks_auth_user_has_role(user, e->req->role))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: role is not granted to the user");
	return set_roles(e, user, e->req->role, ks_slice_of(NULL, 0));
}

/* ---- roles ---- */

static enum ks_status role_add(struct auth_eval *e)
{
	struct ks_auth_role role = {.name = e->req->role};

	if (role.name.size == 0)
		return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: role name is empty");
	if (ks_auth_find_role(e->auth, role.name))
		return ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: role name already exists");
	return add(e, ks_auth_encode_role(&role));
}

/* Takes the role from everybody who has it. */
static enum ks_status role_delete(struct auth_eval *e)
{
	enum ks_status status;

	if (e->auth->enabled && is_root(e->req->role))
		return fail_management(e);
	if (!ks_auth_find_role(e->auth, e->req->role))
		return fail_no_role(e);
	status = add(e, ks_auth_encode_gone(KS_AUTH_ROLE, e->req->role));
	for (size_t i = 0; i < e->auth->user_count && status == KS_OK; i++) {
		const struct ks_auth_user *user = &e->auth->users[i].object->user;

		if (ks_auth_user_has_role(user, e->req->role))
			status = set_roles(e, user, e->req->role, ks_slice_of(NULL, 0));
	}
	return status;
}

static bool valid_interval(const struct ks_interval *interval)
{
	bool open = interval->end.size == 1 && interval->end.data[0] == 0;

	return interval->key.size &&
	       (interval->end.size == 0 || open || ks_slice_cmp(interval->key, interval->end) < 0);
}

static bool same_interval(const struct ks_interval *a, const struct ks_interval *b)
{
	return ks_slice_eq(a->key, b->key) && ks_slice_eq(a->end, b->end);
}

/*
 * Only the first permission of the key is looked at for one to be replaced, as in etcd: so a role can come to have the same
 * interval twice (spec 7.5).
 */
static enum ks_status role_grant(struct auth_eval *e)
{
	const struct ks_auth_role *old = ks_auth_find_role(e->auth, e->req->role);
	struct ks_auth_perm perm = {.type = e->req->perm, .interval = e->req->interval};
	struct ks_auth_perm *perms;
	struct ks_auth_role role;
	enum ks_status status;
	size_t i = 0;

	if (e->req->no_perm)
		return ks_fail(e->err, KS_INVALID_ARGUMENT, "etcdserver: permission not given");
	if (!valid_interval(&perm.interval))
		return fail_management(e);
	if (!old)
		return fail_no_role(e);
	perms = calloc(old->perm_count + 1, sizeof(*perms));
	if (!perms)
		return ks_fail_memory(e->err);
	role = (struct ks_auth_role){.name = old->name, .perms = perms, .perm_count = old->perm_count};
	for (size_t p = 0; p < old->perm_count; p++)
		perms[p] = old->perms[p];
	while (i < role.perm_count && ks_slice_cmp(perms[i].interval.key, perm.interval.key) < 0)
		i++;
	if (i < role.perm_count && same_interval(&perms[i].interval, &perm.interval)) {
		perms[i].type = perm.type;
	} else {
		while (i < role.perm_count && ks_slice_eq(perms[i].interval.key, perm.interval.key))
			i++;
		memmove(&perms[i + 1], &perms[i], (role.perm_count - i) * sizeof(*perms));
		perms[i] = perm;
		role.perm_count++;
	}
	status = add(e, ks_auth_encode_role(&role));
	free(perms);
	return status;
}

static enum ks_status role_revoke(struct auth_eval *e)
{
	const struct ks_auth_role *old = ks_auth_find_role(e->auth, e->req->role);
	struct ks_auth_perm *perms;
	struct ks_auth_role role;
	enum ks_status status;

	if (!old)
		return fail_no_role(e);
	perms = calloc(old->perm_count + 1, sizeof(*perms));
	if (!perms)
		return ks_fail_memory(e->err);
	role = (struct ks_auth_role){.name = old->name, .perms = perms};
	for (size_t i = 0; i < old->perm_count; i++)
		if (!same_interval(&old->perms[i].interval, &e->req->interval))
			perms[role.perm_count++] = old->perms[i];
	if (role.perm_count == old->perm_count)
		status = ks_fail(e->err, KS_FAILED_PRECONDITION, "etcdserver: permission is not granted to the role");
	else
		status = add(e, ks_auth_encode_role(&role));
	free(perms);
	return status;
}

enum ks_status ks_auth_eval(const struct ks_auth *auth, const struct ks_auth_req *req, struct ks_effects *effects,
			    struct ks_err *err)
{
	struct auth_eval e = {
		.auth = auth,
		.req = req,
		.effects = effects,
		.revision = auth->revision + 1,
		.err = err,
	};

	switch (req->op) {
	case KS_AUTH_ENABLE:
		return enable(&e);
	case KS_AUTH_DISABLE:
		return disable(&e);
	case KS_AUTH_USER_ADD:
		return user_add(&e);
	case KS_AUTH_USER_DELETE:
		return user_delete(&e);
	case KS_AUTH_USER_PASSWORD:
		return user_password(&e);
	case KS_AUTH_USER_GRANT:
		return user_grant(&e);
	case KS_AUTH_USER_REVOKE:
		return user_revoke(&e);
	case KS_AUTH_ROLE_ADD:
		return role_add(&e);
	case KS_AUTH_ROLE_DELETE:
		return role_delete(&e);
	case KS_AUTH_ROLE_GRANT:
		return role_grant(&e);
	case KS_AUTH_ROLE_REVOKE:
		return role_revoke(&e);
	}
	return ks_fail(err, KS_UNIMPLEMENTED, "etcdserver: unknown method");
}
