/* SPDX-License-Identifier: Apache-2.0 */
/* Callers and permissions of reads; access.h has the contract. */
#include "api/access.h"

#include "api/token.h"
#include "net/identity.h"
#include "proto/rpc.pb-c.h"

#define BEARER "Bearer "

/* ---- who calls ---- */

/* Spec 7.2: 'data' NULL when there is none. */
static struct ks_slice token_of(struct ks_call *call)
{
	struct ks_slice token = ks_call_metadata(call, "token");

	if (!token.data)
		token = ks_call_metadata(call, "authorization");
	if (token.size >= sizeof(BEARER) - 1 && memcmp(token.data, BEARER, sizeof(BEARER) - 1) == 0) {
		token.data += sizeof(BEARER) - 1;
		token.size -= sizeof(BEARER) - 1;
	}
	return token;
}

/*
 * A certificate's name counts on JSON as well: unlike etcd's gateway, which calls the server with a certificate of its own, this
 * one sees the client's.
 */
static const char *certified_name(struct ks_call *call)
{
	const struct ks_identity *identity = ks_call_identity(call);

	return identity && identity->common_name[0] ? identity->common_name : NULL;
}

static enum ks_status identify(struct ks_api *api, struct ks_call *call, const struct ks_auth *auth,
			       struct ks_arena *arena, struct ks_caller *caller, struct ks_err *err)
{
	struct ks_slice token = token_of(call);
	const char *name;

	*caller = (struct ks_caller){.identified = true};
	if (token.data) {
		if (ks_tokens_verify(api->tokens, auth, token, arena, caller))
			return KS_OK;
		return ks_etcd_fail(err, KS_E_INVALID_AUTH_TOKEN);
	}
	name = certified_name(call);
	if (name) {
		caller->user = ks_slice_str(name);
		caller->auth_revision = ks_auth_revision(auth);
	}
	return KS_OK;
}

enum ks_status ks_api_caller(struct ks_api *api, struct ks_call *call, struct ks_arena *arena, struct ks_caller *caller,
			     struct ks_err *err)
{
	enum ks_status status = KS_OK;
	struct ks_auth *auth;

	*caller = (struct ks_caller){0};
	if (!ks_store_auth_enabled(api->store))
		return KS_OK;
	auth = ks_store_auth(api->store);
	if (ks_auth_enabled(auth))
		status = identify(api, call, auth, arena, caller, err);
	ks_auth_unref(auth);
	return status;
}

bool ks_api_caller_is_stale(const struct ks_caller *caller, const struct ks_err *err)
{
	return err->status == KS_INVALID_ARGUMENT && !caller->internal && (!caller->frozen || !caller->identified) &&
	       strcmp(err->text, ks_etcd_text(KS_E_AUTH_OLD_REVISION)) == 0;
}

bool ks_access_is_ahead(struct ks_api *api, struct ks_call *call)
{
	struct ks_slice token;
	struct ks_auth *auth;
	bool ahead;

	if (!ks_store_auth_enabled(api->store))
		return false;
	token = token_of(call);
	if (!token.data)
		return false;
	auth = ks_store_auth(api->store);
	ahead = ks_tokens_is_ahead(api->tokens, auth, token);
	ks_auth_unref(auth);
	return ahead;
}

/* ---- checks ---- */

enum ks_status ks_access_open(struct ks_api *api, struct ks_call *call, struct ks_arena *arena,
			      struct ks_access *access, struct ks_err *err)
{
	enum ks_status status;

	*access = (struct ks_access){0};
	if (!ks_store_auth_enabled(api->store))
		return KS_OK;
	access->auth = ks_store_auth(api->store);
	if (!ks_auth_enabled(access->auth)) {
		ks_access_close(access);
		return KS_OK;
	}
	status = identify(api, call, access->auth, arena, &access->caller, err);
	if (status != KS_OK)
		ks_access_close(access);
	return status;
}

void ks_access_close(struct ks_access *access)
{
	ks_auth_unref(access->auth);
	access->auth = NULL;
}

bool ks_access_holds(struct ks_api *api, const struct ks_access *access)
{
	struct ks_auth *now;

	if (!access->auth)
		return !ks_store_auth_enabled(api->store);
	now = ks_store_auth(api->store);
	ks_auth_unref(now); /* only compared: ours is still held, so its address is nobody else's */
	return now == access->auth;
}

enum ks_status ks_access_check(const struct ks_access *access, const struct ks_interval *interval,
			       enum ks_perm_type need, struct ks_err *err)
{
	return access->auth ? ks_auth_check(access->auth, &access->caller, interval, need, err) : KS_OK;
}

enum ks_status ks_access_check_txn(const struct ks_access *access, const struct ks_txn_req *txn, struct ks_err *err)
{
	return access->auth ? ks_auth_check_txn(access->auth, &access->caller, txn, err) : KS_OK;
}

enum ks_status ks_access_check_user(const struct ks_access *access, struct ks_err *err)
{
	return access->auth ? ks_auth_check_user(access->auth, &access->caller, err) : KS_OK;
}

enum ks_status ks_access_check_admin(const struct ks_access *access, struct ks_err *err)
{
	return access->auth ? ks_auth_check_admin(access->auth, &access->caller, err) : KS_OK;
}

enum ks_status ks_access_check_keys(const struct ks_access *access, const struct ks_lease_info *lease,
				    enum ks_perm_type need, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	if (lease->no_memory)
		return ks_etcd_fail(err, KS_E_NO_MEMORY);
	if (ks_access_check_admin(access, NULL) == KS_OK)
		return KS_OK;
	for (size_t i = 0; i < lease->key_count && status == KS_OK; i++) {
		struct ks_interval key = {.key = ks_bytes_slice(lease->keys[i])};

		status = ks_access_check(access, &key, need, err);
	}
	return status;
}

enum ks_status ks_access_check_lease(struct ks_api *api, const struct ks_access *access, int64_t lease,
				     enum ks_perm_type need, struct ks_err *err)
{
	enum ks_status status;
	struct ks_lease_info info;

	if (ks_access_check_admin(access, NULL) == KS_OK || !ks_store_lease(api->store, lease, true, &info))
		return KS_OK;
	status = ks_access_check_keys(access, &info, need, err);
	ks_lease_info_fini(&info);
	return status;
}

enum ks_status ks_access_for_lease(struct ks_api *api, struct ks_call *call, struct ks_arena *arena, int64_t lease,
				   enum ks_perm_type need, struct ks_err *err)
{
	struct ks_access access;
	enum ks_status status = ks_access_open(api, call, arena, &access, err);

	if (status != KS_OK)
		return status;
	status = ks_access_check_user(&access, err);
	if (status == KS_OK)
		status = ks_access_check_lease(api, &access, lease, need, err);
	ks_access_close(&access);
	return status;
}

/* ---- the table (spec 7.4) ---- */

enum ks_access_rule ks_access_rule_of(const char *path)
{
	/* Reads, writes and leases judge what they touch; Lock and Election are made of such; Auth's are in auth.c. */
	static const char *const open[] = {
		"/etcdserverpb.KV/Range",
		"/etcdserverpb.KV/RangeStream",
		"/etcdserverpb.KV/Put",
		"/etcdserverpb.KV/DeleteRange",
		"/etcdserverpb.KV/Txn",
		"/etcdserverpb.KV/Compact",
		"/etcdserverpb.Watch/Watch",
		"/etcdserverpb.Lease/LeaseGrant",
		"/etcdserverpb.Lease/LeaseRevoke",
		"/etcdserverpb.Lease/LeaseKeepAlive",
		"/etcdserverpb.Lease/LeaseTimeToLive",
		"/etcdserverpb.Lease/LeaseLeases",
		"/etcdserverpb.Auth/Authenticate",
		"/etcdserverpb.Auth/AuthStatus",
		"/etcdserverpb.Auth/AuthEnable",
		"/etcdserverpb.Auth/AuthDisable",
		"/etcdserverpb.Auth/UserAdd",
		"/etcdserverpb.Auth/UserGet",
		"/etcdserverpb.Auth/UserList",
		"/etcdserverpb.Auth/UserDelete",
		"/etcdserverpb.Auth/UserChangePassword",
		"/etcdserverpb.Auth/UserGrantRole",
		"/etcdserverpb.Auth/UserRevokeRole",
		"/etcdserverpb.Auth/RoleAdd",
		"/etcdserverpb.Auth/RoleGet",
		"/etcdserverpb.Auth/RoleList",
		"/etcdserverpb.Auth/RoleDelete",
		"/etcdserverpb.Auth/RoleGrantPermission",
		"/etcdserverpb.Auth/RoleRevokePermission",
		"/v3electionpb.Election/Campaign",
		"/v3electionpb.Election/Proclaim",
		"/v3electionpb.Election/Leader",
		"/v3electionpb.Election/Observe",
		"/v3electionpb.Election/Resign",
		"/v3lockpb.Lock/Lock",
		"/v3lockpb.Lock/Unlock",
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch",
	};
	static const char *const user[] = {
		"/etcdserverpb.Cluster/MemberList",
		"/etcdserverpb.Maintenance/Status",
	};

	for (size_t i = 0; i < sizeof(open) / sizeof(*open); i++)
		if (strcmp(path, open[i]) == 0)
			return KS_ACCESS_OPEN;
	for (size_t i = 0; i < sizeof(user) / sizeof(*user); i++)
		if (strcmp(path, user[i]) == 0)
			return KS_ACCESS_USER;
	return strcmp(path, "/etcdserverpb.Maintenance/Alarm") == 0 ? KS_ACCESS_ALARM : KS_ACCESS_ADMIN;
}

static bool user_is_enough(enum ks_access_rule rule, const ProtobufCMessage *message)
{
	if (rule == KS_ACCESS_USER)
		return true;
	return rule == KS_ACCESS_ALARM && message &&
	       ((const Etcdserverpb__AlarmRequest *)message)->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET;
}

enum ks_status ks_access_check_rule(struct ks_api *api, struct ks_call *call, enum ks_access_rule rule,
				    const ProtobufCMessage *message, struct ks_err *err)
{
	struct ks_access access;
	enum ks_status status;

	if (rule == KS_ACCESS_OPEN)
		return KS_OK;
	status = ks_access_open(api, call, ks_call_arena(call), &access, err);
	if (status != KS_OK)
		return status;
	status = user_is_enough(rule, message) ? ks_access_check_user(&access, err)
					       : ks_access_check_admin(&access, err);
	ks_access_close(&access);
	return status;
}
