/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short words for auth requests on the store of store_fixture.h. They run as the server itself; 'af_as' makes callers for the
 * others.
 */
#ifndef TESTS_LIB_AUTH_FIXTURE_H
#define TESTS_LIB_AUTH_FIXTURE_H

#include "store/auth.h"
#include "tests/lib/store_fixture.h"

#define AF_SECRET "0123456789abcdef0123456789abcdef"

enum ks_status af_do(const struct ks_auth_req *req);
enum ks_status af_user(const char *name, const char *hash);
enum ks_status af_user_delete(const char *name);
enum ks_status af_password(const char *name, const char *hash);
enum ks_status af_grant(const char *user, const char *role);
enum ks_status af_revoke(const char *user, const char *role);
enum ks_status af_role(const char *name);
enum ks_status af_role_delete(const char *name);
enum ks_status af_perm(const char *role, int type, const char *key, const char *end);
enum ks_status af_perm_revoke(const char *role, const char *key, const char *end);
enum ks_status af_enable(void);
enum ks_status af_disable(void);
/* User root with role root, and auth on. */
void af_enable_with_root(void);

/* Somebody at the committed auth revision; NULL: nobody. */
struct ks_caller af_as(const char *user);
uint64_t af_revision(void);
/* The whole committed state as a text: "rev 3 on s=… root:hash#2[root] ; reader{r a-c}". Valid until the next call. */
const char *af_state(struct ks_store *store);

#endif
