/* SPDX-License-Identifier: Apache-2.0 */
/* Users, roles and permissions in the store: the rules of spec 7.3 - 7.5 and cases 86 - 97 as far as the store knows them. */
#include <stdio.h>

#include "tests/lib/auth_fixture.h"

#define REFUSED(call, status, message)                        \
	do {                                                  \
		uint64_t before = af_revision();              \
                                                              \
		CU_ASSERT_EQUAL(call, status);                \
		CU_ASSERT_STRING_EQUAL(sf_err.text, message); \
		CU_ASSERT_EQUAL(af_revision(), before);       \
	} while (0)
/* Done, and the auth revision went up by 'more'. */
#define DONE(call, more)                                       \
	do {                                                   \
		uint64_t before = af_revision();               \
                                                               \
		CU_ASSERT_EQUAL(call, KS_OK);                  \
		CU_ASSERT_EQUAL(af_revision(), before + more); \
	} while (0)

#define NO_USER "etcdserver: user name not found"
#define NO_ROLE "etcdserver: role name not found"
#define MANAGEMENT "etcdserver: invalid auth management"
#define NOBODY "etcdserver: user name is empty"
#define DENIED "etcdserver: permission denied"
#define OLD "etcdserver: revision of auth store is old"

static void auth_is_enabled_with_root_only(void)
{
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 1 off");
	REFUSED(af_enable(), KS_FAILED_PRECONDITION, "etcdserver: root user does not exist");
	DONE(af_user("root", "h"), 1);
	REFUSED(af_enable(), KS_FAILED_PRECONDITION, "etcdserver: root user does not have root role");
	DONE(af_grant("root", "root"), 1); /* the role need not exist */
	DONE(af_enable(), 0);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 3 on " AF_SECRET " root:h#2=root");
	DONE(af_enable(), 0);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 0);
	DONE(af_disable(), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 4 off root:h#2=root");
	DONE(af_disable(), 0);
	CU_ASSERT_EQUAL(sf_revision(), 1); /* nothing of all this is a revision of keys */
}

static void users_come_and_go(void)
{
	REFUSED(af_user("", "h"), KS_INVALID_ARGUMENT, NOBODY);
	DONE(af_user("bob", "h"), 1);
	DONE(af_user("alice", NULL), 1);
	REFUSED(af_user("bob", "x"), KS_FAILED_PRECONDITION, "etcdserver: user name already exists");
	REFUSED(af_password("eve", "x"), KS_FAILED_PRECONDITION, NO_USER);
	DONE(af_password("bob", "x"), 1);
	DONE(af_password("alice", "x"), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 5 off alice!#5 bob:x#4");
	REFUSED(af_user_delete("eve"), KS_FAILED_PRECONDITION, NO_USER);
	DONE(af_user_delete("bob"), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 6 off alice!#5");
}

static void roles_are_granted_and_revoked(void)
{
	REFUSED(af_role(""), KS_INVALID_ARGUMENT, "etcdserver: role name is empty");
	DONE(af_role("reader"), 1);
	REFUSED(af_role("reader"), KS_FAILED_PRECONDITION, "etcdserver: role name already exists");
	DONE(af_role("a"), 1);
	DONE(af_role("z"), 1);
	REFUSED(af_grant("eve", "reader"), KS_FAILED_PRECONDITION, NO_USER);
	DONE(af_user("bob", "h"), 1);
	DONE(af_user("alice", "h"), 1);
	REFUSED(af_grant("bob", "writer"), KS_FAILED_PRECONDITION, NO_ROLE);
	DONE(af_grant("bob", "reader"), 1);
	DONE(af_grant("bob", "reader"), 0);
	DONE(af_grant("bob", "z"), 1);
	DONE(af_grant("bob", "a"), 1);
	DONE(af_grant("alice", "z"), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 10 off alice:h#6=z bob:h#5=a,reader,z a{} reader{} z{}");
	REFUSED(af_revoke("eve", "a"), KS_FAILED_PRECONDITION, NO_USER);
	REFUSED(af_revoke("alice", "a"), KS_FAILED_PRECONDITION, "etcdserver: role is not granted to the user");
	DONE(af_revoke("bob", "a"), 1);
	REFUSED(af_role_delete("w"), KS_FAILED_PRECONDITION, NO_ROLE);
	DONE(af_role_delete("z"), 1);
	CU_ASSERT_EQUAL(sf_effects.entry.effect_count, 3); /* the role, and both who had it */
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 12 off alice:h#6 bob:h#5=reader a{} reader{}");
}

static void root_cannot_be_taken_away_while_auth_is_on(void)
{
	DONE(af_role("root"), 1);
	af_enable_with_root();
	REFUSED(af_user_delete("root"), KS_INVALID_ARGUMENT, MANAGEMENT);
	REFUSED(af_role_delete("root"), KS_INVALID_ARGUMENT, MANAGEMENT);
	REFUSED(af_revoke("root", "root"), KS_INVALID_ARGUMENT, MANAGEMENT);
	DONE(af_disable(), 1);
	DONE(af_role_delete("root"), 1);
	REFUSED(af_revoke("root", "root"), KS_FAILED_PRECONDITION, "etcdserver: role is not granted to the user");
	DONE(af_user_delete("root"), 1);
}

static void permissions_are_kept_in_order(void)
{
	DONE(af_role("r"), 1);
	REFUSED(af_perm("r", 0, "", NULL), KS_INVALID_ARGUMENT, MANAGEMENT);
	REFUSED(af_perm("r", 0, "b", "a"), KS_INVALID_ARGUMENT, MANAGEMENT);
	REFUSED(af_perm("r", 0, "b", "b"), KS_INVALID_ARGUMENT, MANAGEMENT);
	REFUSED(af_perm("x", 0, "b", NULL), KS_FAILED_PRECONDITION, NO_ROLE);
	DONE(af_perm("r", 0, "b", SF_ALL), 1);
	DONE(af_perm("r", 1, "a", "c"), 1);
	DONE(af_perm("r", 2, "c", NULL), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 5 off r{ w a-c r b-* rw c}");
	DONE(af_perm("r", 0, "c", NULL), 1);
	DONE(af_perm("r", 0, "c", NULL), 1); /* also when it changes nothing */
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 7 off r{ w a-c r b-* r c}");
	/* etcd looks only at the first permission of a key: the second interval comes twice, and goes at once. */
	DONE(af_perm("r", 0, "c", "d"), 1);
	DONE(af_perm("r", 1, "c", "d"), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 9 off r{ w a-c r b-* r c r c-d w c-d}");
	REFUSED(af_perm_revoke("r", "a", "b"), KS_FAILED_PRECONDITION,
		"etcdserver: permission is not granted to the role");
	REFUSED(af_perm_revoke("x", "a", "c"), KS_FAILED_PRECONDITION, NO_ROLE);
	DONE(af_perm_revoke("r", "c", "d"), 1);
	DONE(af_perm_revoke("r", "b", SF_ALL), 1);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 11 off r{ w a-c r c}");
	DONE(af_perm("r", 77, "q", NULL), 1); /* numbers that nobody knows are stored, and permit nothing */
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 12 off r{ w a-c r c ? q}");
}

/* ---- checks ---- */

static enum ks_status check(const struct ks_caller *caller, const char *key, const char *end, enum ks_perm_type need)
{
	struct ks_interval interval = sf_interval(key, end);
	struct ks_auth *auth = ks_store_auth(sf_store);
	enum ks_status status;

	sf_err = (struct ks_err){0};
	status = ks_auth_check(auth, caller, &interval, need, &sf_err);
	ks_auth_unref(auth);
	return status;
}

static bool may_read(const char *user, const char *key, const char *end)
{
	struct ks_caller caller = af_as(user);
	enum ks_status status = check(&caller, key, end, KS_PERM_READ);

	CU_ASSERT(status == KS_OK || strcmp(sf_err.text, DENIED) == 0);
	return status == KS_OK;
}

static void intervals_of_all_roles_are_merged(void)
{
	static const struct {
		const char *key, *end;
		bool allowed;
	} cases[] = {
		{"a", NULL, true},     {"b", NULL, true},    {"d", NULL, true},      {"dzz", NULL, true},
		{"e", NULL, false},    {"Z", NULL, false},   {"a", "c", true},       {"a", "e", true},
		{"c", "e", true},      {"b", "d", true},     {"a", "e\001", false},  {"a", "f", false},
		{"A", "b", false},     {"a", SF_ALL, false}, {"p", NULL, true},      {"p\001", NULL, false},
		{"p", "p\001", false}, {"q", "qa", false},   {"x", NULL, true},      {"x", SF_ALL, true},
		{"xyz", SF_ALL, true}, {"w", SF_ALL, false}, {"xa", "zzzzzz", true}, {SF_ALL, SF_ALL, false},
		{"m", "o", true},      {"m", "oo", false},   {"n", "nn", true},      {"m1", NULL, true},
		{"c", "b", true},      {"e", "a", false},    {"z", "y", true},       {"k", "j", false},
	};

	af_enable_with_root();
	af_user("alice", "h");
	for (const char *const *role = (const char *const[]){"r1", "r2", "r3", NULL}; *role; role++) {
		af_role(*role);
		af_grant("alice", *role);
	}
	af_perm("r1", KS_PERM_READ, "a", "c");
	af_perm("r2", KS_PERM_READWRITE, "c", "e"); /* touches */
	af_perm("r1", KS_PERM_READ, "p", NULL);
	af_perm("r2", KS_PERM_READ, "x", SF_ALL);
	af_perm("r2", KS_PERM_READ, "xx", "xz");
	af_perm("r3", KS_PERM_READ, "m", "n"); /* overlap, and one inside another */
	af_perm("r1", KS_PERM_READ, "m5", "o");
	af_perm("r2", KS_PERM_READ, "n1", "n2");
	af_perm("r3", KS_PERM_WRITE, "q", SF_ALL); /* of the other kind: does not join */
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		bool allowed = may_read("alice", cases[i].key, cases[i].end);

		if (allowed != cases[i].allowed)
			printf("# [%s, %s) is %s\n", cases[i].key, cases[i].end ? cases[i].end : "",
			       allowed ? "allowed" : "denied");
		CU_ASSERT_EQUAL(allowed, cases[i].allowed);
	}
}

/* [k, k\0) is one key: it joins what begins right behind it. */
static void single_keys_join_their_successors(void)
{
	struct ks_interval successor = {.key = S("a\0"), .end = S("b")};
	struct ks_interval wanted = {.key = S("a"), .end = S("b")};
	struct ks_interval both = {.key = S("a"), .end = S("a\0")};
	struct ks_caller alice;
	struct ks_auth *auth;

	af_enable_with_root();
	af_user("alice", "h");
	af_role("r");
	af_grant("alice", "r");
	af_perm("r", KS_PERM_READ, "a", NULL);
	alice = af_as("alice");
	auth = ks_store_auth(sf_store);
	CU_ASSERT_EQUAL(ks_auth_check(auth, &alice, &both, KS_PERM_READ, NULL), KS_OK);
	CU_ASSERT_EQUAL(ks_auth_check(auth, &alice, &wanted, KS_PERM_READ, NULL), KS_PERMISSION_DENIED);
	ks_auth_unref(auth);
	af_do(&(struct ks_auth_req){.op = KS_AUTH_ROLE_GRANT, .role = S("r"), .interval = successor});
	alice = af_as("alice");
	auth = ks_store_auth(sf_store);
	CU_ASSERT_EQUAL(ks_auth_check(auth, &alice, &wanted, KS_PERM_READ, NULL), KS_OK);
	ks_auth_unref(auth);
}

static void checks_follow_every_change(void)
{
	af_enable_with_root();
	af_user("alice", "h");
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	CU_ASSERT(may_read("root", "a", NULL) && may_read("root", SF_ALL, SF_ALL));
	af_role("r");
	af_perm("r", KS_PERM_READ, "a", NULL);
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_grant("alice", "r");
	CU_ASSERT(may_read("alice", "a", NULL));
	af_perm("r", KS_PERM_WRITE, "a", NULL);
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_perm("r", KS_PERM_READWRITE, "a", NULL);
	CU_ASSERT(may_read("alice", "a", NULL));
	af_perm_revoke("r", "a", NULL);
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_perm("r", KS_PERM_READ, "a", NULL);
	CU_ASSERT(may_read("alice", "a", NULL));
	af_revoke("alice", "r");
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_grant("alice", "r");
	af_role_delete("r");
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_role("r"); /* a new one of that name is nobody's */
	af_perm("r", KS_PERM_READ, "a", NULL);
	CU_ASSERT_FALSE(may_read("alice", "a", NULL));
	af_grant("alice", "root");
	CU_ASSERT(may_read("alice", "a", NULL));
	CU_ASSERT_FALSE(may_read("eve", "a", NULL));
	af_disable();
	CU_ASSERT(may_read("eve", "a", NULL) && may_read(NULL, "a", NULL));
}

static void identity_must_hold(void)
{
	struct ks_caller nobody = af_as(NULL), alice, server = {.internal = true}, early = {0};

	CU_ASSERT_EQUAL(check(&early, "a", NULL, KS_PERM_READ), KS_OK);
	af_enable_with_root();
	af_user("alice", "h");
	af_role("r");
	af_perm("r", KS_PERM_READ, "a", NULL);
	af_grant("alice", "r");
	alice = af_as("alice");
	CU_ASSERT_EQUAL(check(&nobody, "a", NULL, KS_PERM_READ), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(sf_err.text, NOBODY);
	CU_ASSERT_EQUAL(check(&early, "a", NULL, KS_PERM_READ), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(sf_err.text, OLD); /* looked up while auth was off: look again */
	CU_ASSERT_EQUAL(check(&alice, "a", NULL, KS_PERM_READ), KS_OK);
	af_role("another");
	CU_ASSERT_EQUAL(check(&alice, "a", NULL, KS_PERM_READ), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(sf_err.text, OLD);
	CU_ASSERT_EQUAL(check(&server, "a", NULL, KS_PERM_WRITE), KS_OK);
}

/* ---- requests on the tail ---- */

static enum ks_status as(const struct ks_caller *caller, struct ks_request req)
{
	req.caller = *caller;
	return sf_eval(&req);
}

static struct ks_caller alice_with(int type, const char *key, const char *end)
{
	af_enable_with_root();
	af_user("alice", "h");
	af_role("r");
	af_perm("r", type, key, end);
	af_grant("alice", "r");
	return af_as("alice");
}

static struct ks_request put(const char *key, int64_t lease, bool prev_kv)
{
	return (struct ks_request){.kind = KS_REQ_PUT,
				   .put = {.key = sf_text(key), .value = S("v"), .lease = lease, .prev_kv = prev_kv}};
}

static struct ks_request del(const char *key, const char *end, bool prev_kv)
{
	return (struct ks_request){.kind = KS_REQ_DELETE,
				   .del = {.interval = sf_interval(key, end), .prev_kv = prev_kv}};
}

#define ALLOWED(caller, ...) CU_ASSERT_EQUAL(as(&caller, __VA_ARGS__), KS_OK)
#define IS_DENIED(caller, ...)                                                   \
	do {                                                                     \
		int64_t before = sf_revision();                                  \
                                                                                 \
		CU_ASSERT_EQUAL(as(&caller, __VA_ARGS__), KS_PERMISSION_DENIED); \
		CU_ASSERT_STRING_EQUAL(sf_err.text, DENIED);                     \
		CU_ASSERT_EQUAL(sf_revision(), before);                          \
	} while (0)
#define FAILS(caller, status, message, ...)                        \
	do {                                                       \
		CU_ASSERT_EQUAL(as(&caller, __VA_ARGS__), status); \
		CU_ASSERT_STRING_EQUAL(sf_err.text, message);      \
	} while (0)

static void writes_need_permission_to_write(void)
{
	struct ks_caller alice = alice_with(KS_PERM_WRITE, "a", "c");
	struct ks_caller nobody = af_as(NULL);

	ALLOWED(alice, put("a", 0, false));
	IS_DENIED(alice, put("c", 0, false));
	IS_DENIED(alice, put("a", 0, true)); /* shows the old value */
	ALLOWED(alice, del("a", NULL, false));
	ALLOWED(alice, del("a", "c", false));
	IS_DENIED(alice, del("a", "d", false));
	IS_DENIED(alice, del("a", NULL, true));
	FAILS(nobody, KS_INVALID_ARGUMENT, NOBODY, put("a", 0, false));
	/* Permissions are looked at before leases and keys (spec 0.4). */
	IS_DENIED(alice, put("z", 404, false));
	FAILS(alice, KS_NOT_FOUND, "etcdserver: requested lease not found", put("a", 404, false));
}

static void both_branches_and_all_compares_count(void)
{
	struct ks_caller alice = alice_with(KS_PERM_READWRITE, "a", "c");
	struct ks_op good = {.kind = KS_OP_PUT, .put = {.key = S("a")}},
		     bad = {.kind = KS_OP_PUT, .put = {.key = S("z")}};
	struct ks_op look = {.kind = KS_OP_RANGE, .range = {.interval = {.key = S("z")}}};
	struct ks_op sweep = {.kind = KS_OP_DELETE, .del = {.interval = {.key = S("b"), .end = S("d")}}};
	struct ks_compare mine = {.target = KS_CMP_VERSION, .interval = {.key = S("a")}}, other = mine;
	struct ks_txn_req inner = {.failure = &bad, .failure_count = 1};
	struct ks_op nested = {.kind = KS_OP_TXN, .txn = &inner};
	struct ks_request req = {.kind = KS_REQ_TXN};

	other.interval.key = S("z");
	req.txn = (struct ks_txn_req){.compares = &mine, .compare_count = 1, .success = &good, .success_count = 1};
	ALLOWED(alice, req);
	req.txn.failure = &bad; /* never taken */
	req.txn.failure_count = 1;
	IS_DENIED(alice, req);
	req.txn.failure = &look;
	IS_DENIED(alice, req);
	req.txn.failure = &sweep;
	IS_DENIED(alice, req);
	req.txn.failure = &nested;
	IS_DENIED(alice, req);
	req.txn.failure = &good;
	ALLOWED(alice, req);
	req.txn.compares = &other;
	IS_DENIED(alice, req);
	good.put.prev_kv = true;
	req.txn.compares = &mine;
	ALLOWED(alice, req);
}

static void leases_of_foreign_keys_are_out_of_reach(void)
{
	struct ks_caller alice = alice_with(KS_PERM_WRITE, "a", NULL), root = af_as("root"), nobody = af_as(NULL);
	struct ks_request grant = {.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 5, .ttl = 60}};
	struct ks_request revoke = {.kind = KS_REQ_LEASE_REVOKE, .revoke = {.id = 5}};
	struct ks_op attach = {.kind = KS_OP_PUT, .put = {.key = S("a"), .lease = 5}};
	struct ks_request txn = {.kind = KS_REQ_TXN, .txn = {.success = &attach, .success_count = 1}};

	FAILS(nobody, KS_INVALID_ARGUMENT, NOBODY, grant);
	ALLOWED(alice, grant);
	ALLOWED(alice, put("a", 5, false));
	ALLOWED(alice, txn);
	ALLOWED(root, put("z", 5, false));
	IS_DENIED(alice, put("a", 5, false));
	IS_DENIED(alice, txn);
	IS_DENIED(alice, revoke);
	FAILS(nobody, KS_INVALID_ARGUMENT, NOBODY, revoke);
	ALLOWED(root, put("z", 0, false)); /* z leaves the lease */
	ALLOWED(alice, put("a", 5, false));
	ALLOWED(alice, revoke);
	FAILS(alice, KS_NOT_FOUND, "etcdserver: requested lease not found", revoke);
	CU_ASSERT_STRING_EQUAL(sf_value("a", 0), "-");
	/* Whoever is root is not asked about the keys one by one, so not for his auth revision either (as etcd). */
	ALLOWED(root, grant);
	ALLOWED(root, put("z", 5, false));
	root.auth_revision--;
	FAILS(root, KS_INVALID_ARGUMENT, OLD, put("z", 5, false));
	ALLOWED(root, revoke);
	CU_ASSERT_STRING_EQUAL(sf_value("z", 0), "-");
}

static void administration_is_for_root(void)
{
	struct ks_caller alice = alice_with(KS_PERM_READWRITE, "a", NULL), root = af_as("root"), nobody = af_as(NULL);
	struct ks_caller ghost = af_as("ghost");
	struct ks_request compact = {.kind = KS_REQ_COMPACT, .compact_revision = 1};
	struct ks_request add = {.kind = KS_REQ_AUTH, .auth = {.op = KS_AUTH_ROLE_ADD, .role = S("new")}};
	struct ks_request password = {.kind = KS_REQ_AUTH, .auth = {.op = KS_AUTH_USER_PASSWORD, .user = S("alice")}};

	IS_DENIED(alice, compact);
	IS_DENIED(alice, add);
	IS_DENIED(alice, password);
	FAILS(nobody, KS_INVALID_ARGUMENT, NOBODY, add);
	FAILS(ghost, KS_FAILED_PRECONDITION, NO_USER, add);
	ALLOWED(root, add);
	/* The auth revision is not asked for here (spec 7.3). */
	ALLOWED(root, compact);
	FAILS(root, KS_FAILED_PRECONDITION, "etcdserver: role name already exists", add);
	FAILS(root, KS_INVALID_ARGUMENT, OLD, put("a", 0, false));
}

/* Requests of one batch: the second is judged by what the first one did. */
static void the_tail_judges(void)
{
	struct ks_caller alice = alice_with(KS_PERM_WRITE, "a", NULL), early = {0};

	sf_hold = true;
	CU_ASSERT_EQUAL(af_perm_revoke("r", "a", NULL), KS_OK);
	FAILS(alice, KS_INVALID_ARGUMENT, OLD, put("a", 0, false));
	alice.auth_revision++; /* as if looked up behind it */
	CU_ASSERT_EQUAL(as(&alice, put("a", 0, false)), KS_PERMISSION_DENIED);
	CU_ASSERT_STRING_EQUAL(af_state(sf_store), "rev 7 on " AF_SECRET " alice:h#4=r root:hash#2=root r{ w a}");
	ks_store_rollback(sf_store);
	alice.auth_revision--;
	CU_ASSERT_EQUAL(as(&alice, put("a", 0, false)), KS_OK);
	CU_ASSERT_EQUAL(af_disable(), KS_OK);
	CU_ASSERT_EQUAL(as(&early, put("z", 0, false)), KS_OK);
	CU_ASSERT(ks_store_auth_enabled(sf_store));
	ks_store_publish(sf_store);
	CU_ASSERT_FALSE(ks_store_auth_enabled(sf_store));
}

SF_WITH_STORE(auth_is_enabled_with_root_only)
SF_WITH_STORE(users_come_and_go)
SF_WITH_STORE(roles_are_granted_and_revoked)
SF_WITH_STORE(root_cannot_be_taken_away_while_auth_is_on)
SF_WITH_STORE(permissions_are_kept_in_order)
SF_WITH_STORE(intervals_of_all_roles_are_merged)
SF_WITH_STORE(single_keys_join_their_successors)
SF_WITH_STORE(checks_follow_every_change)
SF_WITH_STORE(identity_must_hold)
SF_WITH_STORE(writes_need_permission_to_write)
SF_WITH_STORE(both_branches_and_all_compares_count)
SF_WITH_STORE(leases_of_foreign_keys_are_out_of_reach)
SF_WITH_STORE(administration_is_for_root)
SF_WITH_STORE(the_tail_judges)

int main(void)
{
	return tap_run("store_auth", (const struct tap_test[]){
					     SF_TEST(auth_is_enabled_with_root_only),
					     SF_TEST(users_come_and_go),
					     SF_TEST(roles_are_granted_and_revoked),
					     SF_TEST(root_cannot_be_taken_away_while_auth_is_on),
					     SF_TEST(permissions_are_kept_in_order),
					     SF_TEST(intervals_of_all_roles_are_merged),
					     SF_TEST(single_keys_join_their_successors),
					     SF_TEST(checks_follow_every_change),
					     SF_TEST(identity_must_hold),
					     SF_TEST(writes_need_permission_to_write),
					     SF_TEST(both_branches_and_all_compares_count),
					     SF_TEST(leases_of_foreign_keys_are_out_of_reach),
					     SF_TEST(administration_is_for_root),
					     SF_TEST(the_tail_judges),
					     {NULL, NULL},
				     });
}
