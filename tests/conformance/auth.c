/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users, roles, permissions and tokens (spec 7, cases 86 - 98). Each scenario leaves auth off and nobody behind, so that the next one
 * begins like the first.
 */
#include "tests/conformance/conf.h"

#define AUTH(method, ...) conf_call(conf, &etcdc_method_##method, __VA_ARGS__)

/* ---- words ---- */

static void anonymous(struct conf *conf)
{
	conf_note(conf, "nobody");
	etcdc_set_token(conf->client, NULL);
}

/* The token is not for the transcript. */
static void login(struct conf *conf, const char *user, const char *password)
{
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	Etcdserverpb__AuthenticateResponse *response;
	struct etcdc_err err;

	conf_note(conf, "login %s", user);
	etcdc_set_token(conf->client, NULL); /* 3.4 minds one that has ended */
	request.name = (char *)(uintptr_t)user;
	request.password = (char *)(uintptr_t)password;
	if (etcdc_authenticate(conf->client, &request, &response, &err) == KS_OK) {
		conf_check(conf, response->header && strchr(response->token, '.'), "a header and a token with a dot");
		etcdc_set_token(conf->client, response->token);
	} else {
		conf_note(conf, "%s %s", ks_status_name(err.status), err.text);
		etcdc_set_token(conf->client, NULL);
	}
	etcdc_free(response);
}

static void enable(struct conf *conf)
{
	AUTH(user_add, "name:'root' password:'rpw'");
	AUTH(user_grant_role, "user:'root' role:'root'");
	AUTH(auth_enable, " ");
	login(conf, "root", "rpw");
}

static void user_with_role(struct conf *conf, const char *user, const char *role)
{
	AUTH(user_add, "name:'%s' password:'pw'", user);
	AUTH(role_add, "name:'%s'", role);
	AUTH(user_grant_role, "user:'%s' role:'%s'", user, role);
}

static void clean_up(struct conf *conf)
{
	Etcdserverpb__AuthUserListRequest list_users = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
	Etcdserverpb__AuthRoleListRequest list_roles = ETCDSERVERPB__AUTH_ROLE_LIST_REQUEST__INIT;
	Etcdserverpb__AuthUserListResponse *users;
	Etcdserverpb__AuthRoleListResponse *roles;

	login(conf, "root", "rpw");
	AUTH(auth_disable, " ");
	anonymous(conf);
	(void)etcdc_user_list(conf->client, &list_users, &users, NULL);
	for (size_t i = 0; users && i < users->n_users; i++)
		AUTH(user_delete, "name:'%s'", users->users[i]);
	(void)etcdc_role_list(conf->client, &list_roles, &roles, NULL);
	for (size_t i = 0; roles && i < roles->n_roles; i++)
		AUTH(role_delete, "role:'%s'", roles->roles[i]);
	etcdc_free(users);
	etcdc_free(roles);
}

/* ---- 86 - 89, 94 - 96: the rules ---- */

static void switching_on_and_off(struct conf *conf)
{
	AUTH(auth_enable, " ");
	AUTH(auth_disable, " ");
	AUTH(authenticate, "name:'root' password:'rpw'");
	AUTH(user_add, "name:'root' password:'rpw'");
	AUTH(auth_enable, " ");
	AUTH(user_grant_role, "user:'root' role:'root'");
	AUTH(auth_enable, " ");
	AUTH(auth_enable, " ");
	login(conf, "root", "rpw");
	AUTH(auth_enable, " ");
	AUTH(user_delete, "name:'root'");
	AUTH(user_revoke_role, "name:'root' role:'root'");
	AUTH(role_delete, "role:'root'");
	AUTH(role_add, "name:'root'");
	AUTH(role_delete, "role:'root'");
	AUTH(user_get, "name:'root'");
	clean_up(conf);
}

static void users(struct conf *conf)
{
	AUTH(user_add, " ");
	AUTH(user_add, "name:'bob' password:'pw'");
	AUTH(user_add, "name:'bob' password:'other'");
	AUTH(user_add, "name:'alice'");
	AUTH(user_add, "name:'nopass' options{no_password:1}");
	AUTH(user_add,
	     "name:'long' password:'123456789012345678901234567890123456789012345678901234567890123456789012'");
	AUTH(user_list, " ");
	AUTH(user_get, "name:'bob'");
	AUTH(user_get, "name:'eve'");
	AUTH(user_get, " ");
	AUTH(user_delete, "name:'eve'");
	AUTH(user_change_password, "name:'eve' password:'x'");
	AUTH(user_change_password, "name:'bob' password:'y'");
	AUTH(user_change_password, "name:'nopass' password:'y'");
	AUTH(user_grant_role, "user:'eve' role:'r'");
	AUTH(user_grant_role, "user:'bob' role:'r'");
	AUTH(role_add, "name:'r'");
	AUTH(user_grant_role, "user:'bob' role:'r'");
	AUTH(user_grant_role, "user:'bob' role:'r'");
	AUTH(role_add, "name:'a'");
	AUTH(user_grant_role, "user:'bob' role:'a'");
	AUTH(user_get, "name:'bob'");
	AUTH(user_revoke_role, "name:'bob' role:'z'");
	AUTH(user_revoke_role, "name:'eve' role:'r'");
	AUTH(user_revoke_role, "name:'bob' role:'r'");
	AUTH(user_get, "name:'bob'");
	AUTH(role_delete, "role:'a'");
	AUTH(user_get, "name:'bob'");
	enable(conf);
	anonymous(conf);
	AUTH(authenticate, "name:'eve' password:'x'");
	AUTH(authenticate, "name:'bob' password:'pw'");
	AUTH(authenticate, "name:'bob'");
	AUTH(authenticate, "name:'nopass' password:'y'");
	AUTH(authenticate, "name:'nopass'");
	AUTH(authenticate, " ");
	login(conf, "bob", "y");
	AUTH(user_get, "name:'bob'");
	clean_up(conf);
}

static void roles(struct conf *conf)
{
	AUTH(role_add, " ");
	AUTH(role_add, "name:'r'");
	AUTH(role_add, "name:'r'");
	AUTH(role_get, "role:'s'");
	AUTH(role_get, "role:'root'");
	AUTH(role_delete, "role:'s'");
	AUTH(role_grant_permission, "name:'s' perm{key:'b'}");
	AUTH(role_grant_permission, "name:'r' perm{permType:WRITE key:'b' range_end:'\\x00'}");
	AUTH(role_grant_permission, "name:'r' perm{permType:READ key:'a' range_end:'c'}");
	AUTH(role_grant_permission, "name:'r' perm{permType:READWRITE key:'c'}");
	AUTH(role_get, "role:'r'");
	AUTH(role_grant_permission, "name:'r' perm{permType:READ key:'c'}");
	AUTH(role_get, "role:'r'");
	AUTH(role_grant_permission, "name:'r' perm{permType:READ key:'c' range_end:'d'}");
	AUTH(role_grant_permission, "name:'r' perm{permType:WRITE key:'c' range_end:'d'}");
	AUTH(role_get, "role:'r'");
	AUTH(role_revoke_permission, "role:'r' key:'a' range_end:'b'");
	AUTH(role_revoke_permission, "role:'s' key:'a' range_end:'b'");
	AUTH(role_revoke_permission, "role:'r' key:'a' range_end:'c'");
	AUTH(role_revoke_permission, "role:'r' key:'c' range_end:'d'");
	AUTH(role_get, "role:'r'");
	AUTH(role_add, "name:'b'");
	AUTH(role_list, " ");
	enable(conf);
	clean_up(conf);
}

/* ---- 87, 88, 90 - 93: who may what ---- */

static void requests(struct conf *conf)
{
	RANGE("key:'a'");
	RANGE("key:'a' serializable:1");
	PUT("key:'a' value:'1'");
	DELETE("key:'a'");
	TXN("success{request_range{key:'a'}}");
	TXN("success{request_put{key:'a'}}");
	AUTH(user_list, " ");
	AUTH(role_list, " ");
	AUTH(user_add, "name:'new' password:'x'");
	AUTH(role_add, "name:'new'");
	AUTH(auth_disable, " ");
}

static void nobody_may_nothing(struct conf *conf)
{
	struct etcdc_stream *watch;

	put(conf, "a", "1");
	enable(conf);
	anonymous(conf);
	requests(conf);
	watch = stream_open(conf, &etcdc_method_watch);
	stream_send(conf, watch, "create_request{key:'a'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'b' range_end:'a'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
	conf_note(conf, "a token that is none");
	etcdc_set_token(conf->client, "xyz");
	requests(conf);
	watch = stream_open(conf, &etcdc_method_watch);
	stream_send(conf, watch, "create_request{key:'a'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
	etcdc_set_token(conf->client, "abcdefghijklmnop.7");
	RANGE("key:'a'");
	clean_up(conf);
}

static void ranges_are_merged(struct conf *conf)
{
	struct etcdc_stream *watch;

	enable(conf);
	user_with_role(conf, "alice", "r1");
	AUTH(role_add, "name:'r2'");
	AUTH(user_grant_role, "user:'alice' role:'r2'");
	AUTH(role_grant_permission, "name:'r1' perm{permType:READ key:'a' range_end:'c'}");
	AUTH(role_grant_permission, "name:'r2' perm{permType:READ key:'c' range_end:'e'}");
	AUTH(role_grant_permission, "name:'r2' perm{permType:READ key:'x' range_end:'\\x00'}");
	AUTH(role_grant_permission, "name:'r1' perm{permType:READ key:'p'}");
	AUTH(role_grant_permission, "name:'r1' perm{permType:WRITE key:'e' range_end:'g'}");
	login(conf, "alice", "pw");
	RANGE("key:'a' range_end:'e'");
	RANGE("key:'a' range_end:'f'");
	RANGE("key:'d'");
	RANGE("key:'e'");
	RANGE("key:'p'");
	RANGE("key:'p' range_end:'p\\x00'");
	RANGE("key:'p' range_end:'q'");
	RANGE("key:'x' range_end:'\\x00'");
	RANGE("key:'y' range_end:'\\x00'");
	RANGE("key:'w' range_end:'\\x00'");
	RANGE("key:'zzz'");
	RANGE("key:'\\x00' range_end:'\\x00'");
	PUT("key:'a'");
	PUT("key:'e'");
	PUT("key:'f' prev_kv:1");
	DELETE("key:'e' range_end:'g'");
	DELETE("key:'e' range_end:'h'");
	DELETE("key:'e' prev_kv:1");
	TXN("success{request_range{key:'a'}} failure{request_range{key:'e'}}");
	TXN("success{request_put{key:'e'}} failure{request_put{key:'a'}}");
	TXN("compare{target:VERSION key:'e' version:0} success{request_put{key:'e'}}");
	TXN("compare{target:VERSION key:'a' version:0} success{request_put{key:'e'}}");
	watch = stream_open(conf, &etcdc_method_watch);
	stream_send(conf, watch, "create_request{key:'a' range_end:'e'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'f'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
	clean_up(conf);
}

static void leases(struct conf *conf)
{
	struct etcdc_stream *keepalive;

	enable(conf);
	user_with_role(conf, "alice", "r");
	AUTH(role_grant_permission, "name:'r' perm{permType:WRITE key:'a'}");
	login(conf, "alice", "pw");
	GRANT("TTL:600 ID:5");
	PUT("key:'a' value:'1' lease:5");
	TTL("ID:5");
	keepalive = stream_open(conf, &etcdc_method_lease_keep_alive);
	stream_send(conf, keepalive, "ID:5");
	stream_recv(conf, keepalive);
	etcdc_stream_close(keepalive);
	login(conf, "root", "rpw");
	PUT("key:'z' value:'1' lease:5");
	login(conf, "alice", "pw");
	PUT("key:'a' value:'2' lease:5");
	PUT("key:'a' value:'2' lease:404");
	PUT("key:'z' value:'2' lease:404");
	REVOKE("ID:5");
	TTL("ID:5");
	login(conf, "root", "rpw");
	REVOKE("ID:5");
	clean_up(conf);
}

static void administration(struct conf *conf)
{
	enable(conf);
	user_with_role(conf, "alice", "r");
	user_with_role(conf, "bob", "s");
	login(conf, "alice", "pw");
	AUTH(user_list, " ");
	AUTH(role_list, " ");
	AUTH(user_get, "name:'alice'");
	AUTH(user_get, "name:'bob'");
	AUTH(user_get, "name:'eve'");
	AUTH(role_get, "role:'r'");
	AUTH(role_get, "role:'s'");
	AUTH(role_get, "role:'t'");
	AUTH(user_change_password, "name:'alice' password:'x'");
	AUTH(user_grant_role, "user:'alice' role:'root'");
	AUTH(auth_disable, " ");
	AUTH(auth_enable, " ");
	login(conf, "root", "rpw");
	AUTH(user_grant_role, "user:'alice' role:'root'");
	login(conf, "alice", "pw");
	AUTH(user_list, " ");
	PUT("key:'any'");
	clean_up(conf);
}

/* ---- 98: what ends a token ---- */

static void tokens_end(struct conf *conf)
{
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	Etcdserverpb__AuthenticateResponse *alice = NULL;
	struct etcdc_err err;

	enable(conf);
	user_with_role(conf, "alice", "r");
	AUTH(role_grant_permission, "name:'r' perm{permType:READWRITE key:'a'}");
	request.name = (char *)(uintptr_t) "alice";
	request.password = (char *)(uintptr_t) "pw";
	anonymous(conf);
	conf_check(conf, etcdc_authenticate(conf->client, &request, &alice, &err) == KS_OK, "alice gets a token");
	for (int i = 0; alice && i < 2; i++) {
		etcdc_set_token(conf->client, alice->token);
		PUT("key:'a' value:'1'");
		login(conf, "root", "rpw");
		if (i == 0)
			AUTH(role_add, "name:'other'"); /* it always has the newest revision */
		else
			AUTH(user_change_password, "name:'alice' password:'other'");
		etcdc_set_token(conf->client, alice->token);
		PUT("key:'a' value:'1'");
	}
	login(conf, "alice", "other");
	PUT("key:'a' value:'1'");
	etcdc_free(alice);
	alice = NULL;
	request.password = (char *)(uintptr_t) "other";
	conf_check(conf, etcdc_authenticate(conf->client, &request, &alice, &err) == KS_OK, "alice gets a token");
	login(conf, "root", "rpw");
	AUTH(user_delete, "name:'alice'");
	if (alice)
		etcdc_set_token(conf->client, alice->token);
	RANGE("key:'a'");
	etcdc_free(alice);
	clean_up(conf);
}

const struct scenario auth_scenarios[] = {
	{"auth/switching_on_and_off", switching_on_and_off, false},
	{"auth/users", users, false},
	{"auth/roles", roles, false},
	{"auth/nobody_may_nothing", nobody_may_nothing, false},
	{"auth/ranges_are_merged", ranges_are_merged, false},
	{"auth/leases", leases, false},
	{"auth/administration", administration, false},
	{"auth/tokens_end", tokens_end, false},
	{NULL, NULL, false},
};

/*
 * What 3.4 does not have, or judges otherwise: compared with what the spec wants (auth-newer.expected), which newer ones do
 * (README.md).
 */
static void newer_rules(struct conf *conf)
{
	AUTH(role_add, "name:'r'");
	AUTH(role_grant_permission, "name:'r'"); /* ends a 3.4 */
	AUTH(role_grant_permission, "name:'none'");
	AUTH(role_grant_permission, "name:'r' perm{}");
	AUTH(role_grant_permission, "name:'r' perm{key:'b' range_end:'a'}");
	AUTH(role_grant_permission, "name:'r' perm{key:'b' range_end:'b'}");
	AUTH(role_grant_permission, "name:'none' perm{key:'b' range_end:'b'}");
	AUTH(role_get, "role:'root'");
	AUTH(role_add, "name:'root'");
	AUTH(role_get, "role:'root'");
	AUTH(user_add,
	     "name:'long' password:'1234567890123456789012345678901234567890123456789012345678901234567890123'");
	AUTH(user_add, "name:'alice' password:'pw'");
	AUTH(user_change_password, "name:'alice'");
	enable(conf);
	login(conf, "alice", "");
	login(conf, "alice", "pw");
	login(conf, "root", "rpw");
	AUTH(user_change_password,
	     "name:'alice' "
	     "hashedPassword:'JDJhJDA1JENDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQy5FNVlQTzlrbXl1UkdyZWgwWG91UVliNFlNSkt2eU9lVw=='");
	AUTH(user_change_password, "name:'alice' password:'pw'");
	login(conf, "alice", "pw");
	AUTH(user_get, "name:'alice'");
	clean_up(conf);
}

static void newer_calls(struct conf *conf)
{
	COMPACT("revision:1");
	HASHKV(" ");
	AUTH(defragment, " ");
	AUTH(status, " ");
	AUTH(member_list, " ");
	AUTH(alarm, " ");
	GRANT("TTL:600 ID:5");
	REVOKE("ID:404");
	AUTH(lease_leases, " ");
	TTL("ID:5");
	TTL("ID:5 keys:1");
	TTL("ID:404 keys:1");
	TXN(" ");
	REVOKE("ID:5");
}

static void newer_permissions(struct conf *conf)
{
	enable(conf);
	anonymous(conf);
	newer_calls(conf);
	etcdc_set_token(conf->client, "xyz");
	conf_note(conf, "a token that is none");
	newer_calls(conf);
	login(conf, "root", "rpw");
	user_with_role(conf, "alice", "r");
	GRANT("TTL:600 ID:7");
	PUT("key:'z' lease:7");
	login(conf, "alice", "pw");
	newer_calls(conf);
	TTL("ID:7");
	TTL("ID:7 keys:1");
	REVOKE("ID:7");
	TXN("success{request_txn{success{request_put{key:'q'}}}}");
	TXN("success{request_txn{success{request_range{key:'z'}}}}");
	login(conf, "root", "rpw");
	AUTH(role_grant_permission, "name:'r' perm{permType:READ key:'z'}");
	login(conf, "alice", "pw");
	AUTH(lease_leases, " ");
	TTL("ID:7 keys:1");
	TXN("success{request_txn{success{request_range{key:'z'}}}}");
	clean_up(conf);
}

static void newer_status(struct conf *conf)
{
	Etcdserverpb__AuthStatusRequest request = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
	Etcdserverpb__AuthStatusResponse *before = NULL, *after = NULL;

	(void)etcdc_auth_status(conf->client, &request, &before, NULL);
	enable(conf);
	anonymous(conf);
	conf_check(conf,
		   etcdc_auth_status(conf->client, &request, &after, NULL) == KS_OK && after->enabled && before &&
			   after->authrevision == before->authrevision + 2,
		   "nobody sees the status");
	etcdc_free(before);
	etcdc_free(after);
	etcdc_set_token(conf->client, "xyz");
	AUTH(auth_status, " ");
	clean_up(conf);
}

const struct scenario auth_newer_scenarios[] = {
	{"auth-newer/rules", newer_rules, false},
	{"auth-newer/permissions", newer_permissions, false},
	{"auth-newer/status", newer_status, false},
	{NULL, NULL, false},
};
