/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users, roles, permissions and the switch (spec 7): one immutable, counted state for each version. The writer makes new
 * versions from the effects of the log; readers take the committed one and keep it for as long as they look.
 *
 * What an effect says. Each is one object as a whole: a user, a role, or the switch; or that a user or role is gone
 * (auth_codec.h). A later effect for the same object supersedes the earlier one, whose row may then be trimmed; the row that says
 * that an object is gone comes behind those that it ended and goes after them. The rows of the newest auth entry are all kept,
 * because they carry the auth revision, which never goes back.
 *
 * Tokens. A user's 'credential' is the auth revision that created the user or changed its password last: no two are
 * ever the same, so a token that names one dies with it. The switch carries the secret that simple tokens are signed with;
 * it is new with each AuthEnable.
 *
 * Threads: any. Memory: what a state hands out lives as long as the reference to it.
 */
#ifndef KS_STORE_AUTH_H
#define KS_STORE_AUTH_H

#include "store/store.h"

#define KS_AUTH_ROOT "root"
#define KS_AUTH_SECRET_BYTES 32

struct ks_auth;

struct ks_auth_user {
	struct ks_slice name;
	struct ks_slice hash; /* bcrypt's text; empty: no password fits */
	bool no_password;
	uint64_t credential;
	const struct ks_slice *roles; /* ascending */
	size_t role_count;
};

struct ks_auth_perm {
	int type; /* authpb.Permission.Type; what is unknown permits nothing */
	struct ks_interval interval;
};

struct ks_auth_role {
	struct ks_slice name;
	const struct ks_auth_perm *perms; /* ascending by key */
	size_t perm_count;
};

/* Is auth on, in the committed view? One atomic load. */
bool ks_store_auth_enabled(const struct ks_store *store);
/* The committed state, with a reference of its own for the caller. Never NULL. */
struct ks_auth *ks_store_auth(struct ks_store *store);
struct ks_auth *ks_auth_ref(struct ks_auth *auth);
void ks_auth_unref(struct ks_auth *auth); /* NULL is fine */

bool ks_auth_enabled(const struct ks_auth *auth);
uint64_t ks_auth_revision(const struct ks_auth *auth);      /* >= 1 */
int64_t ks_auth_position(const struct ks_auth *auth);       /* of the newest auth entry; 0: none yet */
struct ks_slice ks_auth_secret(const struct ks_auth *auth); /* empty while auth is off */

size_t ks_auth_user_count(const struct ks_auth *auth);
size_t ks_auth_role_count(const struct ks_auth *auth);
/* In ascending order of names. */
const struct ks_auth_user *ks_auth_user_at(const struct ks_auth *auth, size_t i);
const struct ks_auth_role *ks_auth_role_at(const struct ks_auth *auth, size_t i);
/* NULL when there is none. */
const struct ks_auth_user *ks_auth_find_user(const struct ks_auth *auth, struct ks_slice name);
const struct ks_auth_user *ks_auth_find_credential(const struct ks_auth *auth, uint64_t credential);
const struct ks_auth_role *ks_auth_find_role(const struct ks_auth *auth, struct ks_slice name);
bool ks_auth_user_has_role(const struct ks_auth_user *user, struct ks_slice role);

/*
 * Spec 7.3. KS_OK, or etcd's error. A caller who was looked up while auth was off gets "revision of auth store is old". Nothing
 * is checked while auth is off, nor for internal callers.
 */
enum ks_status ks_auth_check(const struct ks_auth *auth, const struct ks_caller *caller,
			     const struct ks_interval *interval, enum ks_perm_type need,
			     struct ks_err *err) KS_MUST_CHECK; /* need: READ or WRITE */
enum ks_status ks_auth_check_admin(const struct ks_auth *auth, const struct ks_caller *caller,
				   struct ks_err *err) KS_MUST_CHECK;
/* Anybody who is somebody. */
enum ks_status ks_auth_check_user(const struct ks_auth *auth, const struct ks_caller *caller,
				  struct ks_err *err) KS_MUST_CHECK;
/* For reads after which the state may have moved on: KS_OK, or "revision of auth store is old" (spec 0.4, step 7). */
enum ks_status ks_auth_check_revision(const struct ks_auth *auth, const struct ks_caller *caller,
				      struct ks_err *err) KS_MUST_CHECK;
/* Every range, write and compare of both branches (spec 7.4), but for the keys of leases, which only the tail knows. */
enum ks_status ks_auth_check_txn(const struct ks_auth *auth, const struct ks_caller *caller,
				 const struct ks_txn_req *txn, struct ks_err *err) KS_MUST_CHECK;

#endif
