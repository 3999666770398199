/* SPDX-License-Identifier: Apache-2.0 */
/* See auth_fixture.h. */
#include "tests/lib/auth_fixture.h"

#include <inttypes.h>
#include <stdio.h>

static char state_text[1u << 16];

enum ks_status af_do(const struct ks_auth_req *req)
{
	return sf_eval(&(struct ks_request){.kind = KS_REQ_AUTH, .caller = {.internal = true}, .auth = *req});
}

enum ks_status af_user(const char *name, const char *hash)
{
	return af_do(&(struct ks_auth_req){
		.op = KS_AUTH_USER_ADD, .user = sf_text(name), .secret = sf_text(hash), .no_password = hash == NULL});
}

enum ks_status af_user_delete(const char *name)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_USER_DELETE, .user = sf_text(name)});
}

enum ks_status af_password(const char *name, const char *hash)
{
	return af_do(
		&(struct ks_auth_req){.op = KS_AUTH_USER_PASSWORD, .user = sf_text(name), .secret = sf_text(hash)});
}

enum ks_status af_grant(const char *user, const char *role)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_USER_GRANT, .user = sf_text(user), .role = sf_text(role)});
}

enum ks_status af_revoke(const char *user, const char *role)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_USER_REVOKE, .user = sf_text(user), .role = sf_text(role)});
}

enum ks_status af_role(const char *name)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_ROLE_ADD, .role = sf_text(name)});
}

enum ks_status af_role_delete(const char *name)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_ROLE_DELETE, .role = sf_text(name)});
}

enum ks_status af_perm(const char *role, int type, const char *key, const char *end)
{
	return af_do(&(struct ks_auth_req){
		.op = KS_AUTH_ROLE_GRANT, .role = sf_text(role), .perm = type, .interval = sf_interval(key, end)});
}

enum ks_status af_perm_revoke(const char *role, const char *key, const char *end)
{
	return af_do(&(struct ks_auth_req){
		.op = KS_AUTH_ROLE_REVOKE, .role = sf_text(role), .interval = sf_interval(key, end)});
}

enum ks_status af_enable(void)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_ENABLE, .secret = S(AF_SECRET)});
}

enum ks_status af_disable(void)
{
	return af_do(&(struct ks_auth_req){.op = KS_AUTH_DISABLE});
}

void af_enable_with_root(void)
{
	CU_ASSERT_EQUAL(af_user("root", "hash"), KS_OK);
	CU_ASSERT_EQUAL(af_grant("root", "root"), KS_OK);
	CU_ASSERT_EQUAL(af_enable(), KS_OK);
}

uint64_t af_revision(void)
{
	struct ks_auth *auth = ks_store_auth(sf_store);
	uint64_t revision = ks_auth_revision(auth);

	ks_auth_unref(auth);
	return revision;
}

struct ks_caller af_as(const char *user)
{
	return (struct ks_caller){.user = sf_text(user), .auth_revision = user ? af_revision() : 0, .identified = true};
}

static size_t add(size_t size, const char *before, struct ks_slice slice)
{
	CU_ASSERT_FATAL(size + slice.size + 64 < sizeof(state_text));
	return size + (size_t)snprintf(state_text + size, sizeof(state_text) - size, "%s%.*s", before, (int)slice.size,
				       slice.size ? (const char *)slice.data : "");
}

static size_t add_number(size_t size, const char *before, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64, number);
	return add(size, before, ks_slice_str(text));
}

static size_t add_end(size_t size, struct ks_slice end)
{
	return end.size == 1 && end.data[0] == 0 ? add(size, "-", S("*")) : end.size ? add(size, "-", end) : size;
}

const char *af_state(struct ks_store *store)
{
	static const char *const types[] = {" r ", " w ", " rw "};
	struct ks_auth *auth = ks_store_auth(store);
	size_t size = add_number(0, "rev ", ks_auth_revision(auth));

	CU_ASSERT_EQUAL(ks_store_auth_enabled(store), ks_auth_enabled(auth));
	size = add(size, ks_auth_enabled(auth) ? " on " : " off", ks_auth_secret(auth));
	for (size_t i = 0; i < ks_auth_user_count(auth); i++) {
		const struct ks_auth_user *user = ks_auth_user_at(auth, i);

		CU_ASSERT_PTR_EQUAL(ks_auth_find_user(auth, user->name), user);
		CU_ASSERT_PTR_EQUAL(ks_auth_find_credential(auth, user->credential), user);
		size = add(size, " ", user->name);
		size = add(size, user->no_password ? "!" : ":", user->hash);
		size = add_number(size, "#", user->credential);
		for (size_t r = 0; r < user->role_count; r++)
			size = add(size, r ? "," : "=", user->roles[r]);
	}
	for (size_t i = 0; i < ks_auth_role_count(auth); i++) {
		const struct ks_auth_role *role = ks_auth_role_at(auth, i);

		CU_ASSERT_PTR_EQUAL(ks_auth_find_role(auth, role->name), role);
		size = add(size, " ", role->name);
		size = add(size, "{", ks_slice_of(NULL, 0));
		for (size_t p = 0; p < role->perm_count; p++) {
			size = add(size, role->perms[p].type < 3 ? types[role->perms[p].type] : " ? ",
				   role->perms[p].interval.key);
			size = add_end(size, role->perms[p].interval.end);
		}
		size = add(size, "}", ks_slice_of(NULL, 0));
	}
	ks_auth_unref(auth);
	return state_text;
}
