/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Auth service and the permissions of every call without a network, on a real store behind a fake committer: a life with users,
 * tokens and refusals, and the same with the first, second, … n-th allocation of the layer failing.
 */
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#include "tests/lib/tap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/access.h"
#include "api/api.h"
#include "base/panic.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/fake_call.h"

/* ---- the layer, set up ---- */

static bool idle(void *ctx)
{
	(void)ctx;
	return fake_committer_step(&fix.committer);
}

static void set_up(bool later)
{
	api_fixture_start(later, 1 << 20, 4, idle);
	api_fixture_first_entry();
}

/* ---- calls ---- */

static char token[256]; /* sent with each call; empty: none */

static struct fake_metadata *metadata(void)
{
	static struct fake_metadata all[2];

	all[0] = (struct fake_metadata){.key = token[0] ? "token" : NULL, .value = token};
	return all;
}

static struct ks_slice pack(const void *message)
{
	static uint8_t packed[4096];

	CU_ASSERT_FATAL(protobuf_c_message_get_packed_size(message) <= sizeof(packed));
	return ks_slice_of(packed, protobuf_c_message_pack(message, packed));
}

/* Waits for threads, too. */
static void once(const char *path, const void *message, struct fake_answer *answer)
{
	struct ks_call *call = fake_unary_begin(path, pack(message), metadata(), answer);

	while (!answer->ended) {
		fake_run();
		while (idle(NULL))
			fake_run();
		if (!answer->ended)
			(void)usleep(200);
	}
	fake_unary_end(call);
}

/* A call that met the failing allocation says so, has done nothing, and is made again. */
static void call(const char *path, const void *message, struct fake_answer *answer)
{
	bool before = atomic_load(&hit);

	once(path, message, answer);
	if (answer->status != KS_RESOURCE_EXHAUSTED && answer->status != KS_UNAVAILABLE &&
	    !(answer->status == KS_UNAUTHENTICATED || answer->status == KS_INVALID_ARGUMENT))
		return;
	if (before || !atomic_load(&hit))
		return;
	fake_answer_fini(answer);
	once(path, message, answer);
}

static void expect(const char *path, const void *message, enum ks_status status, const char *text)
{
	struct fake_answer answer;
	bool before = atomic_load(&hit);

	call(path, message, &answer);
	/* A change may have been made before its answer could not be: then the second one finds it made. */
	if (before != atomic_load(&hit) && status == KS_OK &&
	    (answer.status == KS_FAILED_PRECONDITION || answer.status == KS_INVALID_ARGUMENT)) {
		fake_answer_fini(&answer);
		return;
	}
	if (answer.status != status)
		printf("# %s: %s\n", path, answer.text);
	CU_ASSERT_EQUAL(answer.status, status);
	if (text)
		CU_ASSERT_STRING_EQUAL(answer.text, text);
	fake_answer_fini(&answer);
}

#define AUTH "/etcdserverpb.Auth/"
#define DENIED KS_PERMISSION_DENIED, "etcdserver: permission denied"
#define NOBODY KS_INVALID_ARGUMENT, "etcdserver: user name is empty"

static void user_add(const char *name, const char *password, enum ks_status status, const char *text)
{
	Etcdserverpb__AuthUserAddRequest add = ETCDSERVERPB__AUTH_USER_ADD_REQUEST__INIT;

	add.name = (char *)(uintptr_t)name;
	add.password = (char *)(uintptr_t)password;
	expect(AUTH "UserAdd", &add, status, text);
}

static void grant_role(const char *user, const char *role)
{
	Etcdserverpb__AuthUserGrantRoleRequest grant = ETCDSERVERPB__AUTH_USER_GRANT_ROLE_REQUEST__INIT;

	grant.user = (char *)(uintptr_t)user;
	grant.role = (char *)(uintptr_t)role;
	expect(AUTH "UserGrantRole", &grant, KS_OK, NULL);
}

static enum ks_status login(const char *name, const char *password)
{
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	Etcdserverpb__AuthenticateResponse *response = NULL;
	struct fake_answer answer;
	enum ks_status status;

	token[0] = 0;
	request.name = (char *)(uintptr_t)name;
	request.password = (char *)(uintptr_t)password;
	call(AUTH "Authenticate", &request, &answer);
	status = answer.status;
	/* A comparison without memory looks like a wrong password. */
	if (status == KS_OK)
		response = etcdserverpb__authenticate_response__unpack(NULL, answer.size, answer.data);
	if (response)
		snprintf(token, sizeof(token), "%s", response->token);
	if (response)
		etcdserverpb__authenticate_response__free_unpacked(response, NULL);
	fake_answer_fini(&answer);
	return status;
}

static void put(const char *key, enum ks_status status, const char *text)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;

	request.key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
	expect("/etcdserverpb.KV/Put", &request, status, text);
}

static void range(const char *key, enum ks_status status, const char *text)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT, *ops[] = {&op};
	Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;

	request.key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
	expect("/etcdserverpb.KV/Range", &request, status, text);
	op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	op.request_range = &request;
	txn.n_success = 1;
	txn.success = ops;
	expect("/etcdserverpb.KV/Txn", &txn, status, text);
}

/* The reason why a watch was refused, "" when it was not; the stream's own end for those that have one. */
static void watch(const char *key, const char *reason)
{
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchResponse *response;
	struct fake_answer end;
	uint8_t *data = NULL;
	size_t size = 0;
	bool before = atomic_load(&hit);
	struct ks_call *stream;

	create.key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	do {
		stream = fake_stream_open("/etcdserverpb.Watch/Watch", metadata());
		fake_stream_message(stream, pack(&request));
		if (fake_stream_next(stream, &data, &size)) {
			response = etcdserverpb__watch_response__unpack(NULL, size, data);
			CU_ASSERT_PTR_NOT_NULL_FATAL(response);
			if (before == atomic_load(&hit))
				CU_ASSERT_STRING_EQUAL(response->cancel_reason, reason);
			etcdserverpb__watch_response__free_unpacked(response, NULL);
			free(data);
		} else {
			CU_ASSERT(fake_stream_finished(stream, &end) && before != atomic_load(&hit));
			fake_answer_fini(&end);
		}
		fake_stream_close(stream);
	} while (before != atomic_load(&hit) && (before = true));
}

static void keepalive(int64_t lease, enum ks_status status)
{
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	struct fake_answer end;
	uint8_t *data;
	size_t size;
	bool before = atomic_load(&hit);
	struct ks_call *stream;

	request.id = lease;
	do {
		stream = fake_stream_open("/etcdserverpb.Lease/LeaseKeepAlive", metadata());
		fake_stream_message(stream, pack(&request));
		while (idle(NULL))
			fake_run();
		fake_run();
		if (fake_stream_next(stream, &data, &size)) {
			CU_ASSERT_EQUAL(status, KS_OK);
			free(data);
		} else {
			CU_ASSERT(fake_stream_finished(stream, &end));
			CU_ASSERT(end.status == status || before != atomic_load(&hit));
			fake_answer_fini(&end);
		}
		fake_stream_close(stream);
	} while (before != atomic_load(&hit) && (before = true));
}

/* ---- a life ---- */

static void calls_of_a_user(void)
{
	Etcdserverpb__LeaseTimeToLiveRequest ttl = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__LeaseLeasesRequest leases = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	Etcdserverpb__AuthUserGetRequest get = ETCDSERVERPB__AUTH_USER_GET_REQUEST__INIT;
	Etcdserverpb__AuthRoleGetRequest role = ETCDSERVERPB__AUTH_ROLE_GET_REQUEST__INIT;
	Etcdserverpb__AuthUserListRequest list = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
	Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	Etcdserverpb__HashKVRequest hash = ETCDSERVERPB__HASH_KVREQUEST__INIT;
	Etcdserverpb__StatusRequest status = ETCDSERVERPB__STATUS_REQUEST__INIT;

	put("k", KS_OK, NULL);
	put("z", DENIED);
	range("k", KS_OK, NULL);
	range("z", DENIED);
	watch("k", "");
	watch("z", "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
	ttl.id = 7;
	expect("/etcdserverpb.Lease/LeaseTimeToLive", &ttl, KS_OK, NULL);
	ttl.keys = true;
	expect("/etcdserverpb.Lease/LeaseTimeToLive", &ttl, DENIED);
	expect("/etcdserverpb.Lease/LeaseLeases", &leases, DENIED);
	keepalive(7, KS_PERMISSION_DENIED);
	keepalive(8, KS_OK);
	get.name = (char *)(uintptr_t) "alice";
	expect(AUTH "UserGet", &get, KS_OK, NULL);
	get.name = (char *)(uintptr_t) "root";
	expect(AUTH "UserGet", &get, DENIED);
	role.role = (char *)(uintptr_t) "r";
	expect(AUTH "RoleGet", &role, KS_OK, NULL);
	expect(AUTH "UserList", &list, DENIED);
	expect("/etcdserverpb.KV/Compact", &compact, DENIED);
	expect("/etcdserverpb.Maintenance/HashKV", &hash, DENIED);
	expect("/etcdserverpb.Maintenance/Status", &status, KS_OK, NULL);
	user_add("eve", "pw", DENIED);
}

static void life(void)
{
	Etcdserverpb__AuthEnableRequest enable = ETCDSERVERPB__AUTH_ENABLE_REQUEST__INIT;
	Etcdserverpb__AuthDisableRequest disable = ETCDSERVERPB__AUTH_DISABLE_REQUEST__INIT;
	Etcdserverpb__AuthStatusRequest auth_status = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
	Etcdserverpb__StatusRequest status = ETCDSERVERPB__STATUS_REQUEST__INIT;
	Etcdserverpb__AuthRoleAddRequest role = ETCDSERVERPB__AUTH_ROLE_ADD_REQUEST__INIT;
	Etcdserverpb__AuthUserListRequest list = ETCDSERVERPB__AUTH_USER_LIST_REQUEST__INIT;
	Etcdserverpb__AuthRoleListRequest roles = ETCDSERVERPB__AUTH_ROLE_LIST_REQUEST__INIT;
	Etcdserverpb__AuthRoleGrantPermissionRequest perm = ETCDSERVERPB__AUTH_ROLE_GRANT_PERMISSION_REQUEST__INIT;
	Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Etcdserverpb__PutRequest attach = ETCDSERVERPB__PUT_REQUEST__INIT;
	Authpb__Permission permission = AUTHPB__PERMISSION__INIT;

	token[0] = 0;
	CU_ASSERT_EQUAL(login("root", "rpw"), KS_FAILED_PRECONDITION);
	user_add("root", "rpw", KS_OK, NULL);
	grant_role("root", "root");
	user_add("alice", "pw", KS_OK, NULL);
	role.name = perm.name = (char *)(uintptr_t) "r";
	expect(AUTH "RoleAdd", &role, KS_OK, NULL);
	permission.key = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)(uintptr_t) "k"};
	permission.permtype = AUTHPB__PERMISSION__TYPE__READWRITE;
	perm.perm = &permission;
	expect(AUTH "RoleGrantPermission", &perm, KS_OK, NULL);
	grant_role("alice", "r");
	grant.ttl = 100;
	grant.id = 7;
	expect("/etcdserverpb.Lease/LeaseGrant", &grant, KS_OK, NULL);
	grant.id = 8;
	expect("/etcdserverpb.Lease/LeaseGrant", &grant, KS_OK, NULL);
	attach.key = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)(uintptr_t) "z"};
	attach.lease = 7;
	expect("/etcdserverpb.KV/Put", &attach, KS_OK, NULL);
	expect(AUTH "AuthEnable", &enable, KS_OK, NULL);

	put("k", NOBODY);
	range("k", NOBODY);
	watch("k", "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");
	keepalive(8, KS_INVALID_ARGUMENT);
	expect("/etcdserverpb.Maintenance/Status", &status, NOBODY);
	expect(AUTH "AuthStatus", &auth_status, KS_OK, NULL);
	snprintf(token, sizeof(token), "xyz");
	put("k", KS_UNAUTHENTICATED, "etcdserver: invalid auth token");
	expect(AUTH "AuthStatus", &auth_status, KS_UNAUTHENTICATED, "etcdserver: invalid auth token");
	watch("k", "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token");

	CU_ASSERT_EQUAL(login("alice", "wrong"), KS_INVALID_ARGUMENT);
	CU_ASSERT_EQUAL(login("alice", "pw"), KS_OK);
	calls_of_a_user();
	CU_ASSERT_EQUAL(login("root", "rpw"), KS_OK);
	put("any", KS_OK, NULL);
	expect(AUTH "UserList", &list, KS_OK, NULL);
	expect(AUTH "RoleList", &roles, KS_OK, NULL);
	keepalive(7, KS_OK);
	expect(AUTH "AuthDisable", &disable, KS_OK, NULL);
	token[0] = 0;
	put("any", KS_OK, NULL);
}

static void life_with_users(void)
{
	set_up(false);
	life();
	api_fixture_stop();
}

static void life_with_users_when_the_committer_takes_its_time(void)
{
	set_up(true);
	life();
	api_fixture_stop();
}

static void nth_allocation_fails(void)
{
	size_t n;

	for (n = 1;; n++) {
		set_up(n % 2);
		atomic_store(&allocations, 0);
		atomic_store(&hit, false);
		atomic_store(&failing, n);
		life();
		atomic_store(&failing, 0);
		api_fixture_stop();
		if (!atomic_load(&hit))
			break;
	}
	printf("# %zu allocations\n", n);
	CU_ASSERT(n > 100);
}

/* A client that goes away while its password waits to be compared. */
static void waiting_login_is_cancelled(void)
{
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	Etcdserverpb__AuthEnableRequest enable = ETCDSERVERPB__AUTH_ENABLE_REQUEST__INIT;
	struct fake_answer answers[32];
	struct ks_call *calls[32];
	size_t cancelled = 0;

	set_up(false);
	token[0] = 0;
	user_add("root", "rpw", KS_OK, NULL);
	grant_role("root", "root");
	expect(AUTH "AuthEnable", &enable, KS_OK, NULL);
	request.name = (char *)(uintptr_t) "root";
	request.password = (char *)(uintptr_t) "rpw";
	for (size_t i = 0; i < 32; i++)
		calls[i] = fake_unary_begin(AUTH "Authenticate", pack(&request), NULL, &answers[i]);
	for (size_t i = 0; i < 32; i++)
		fake_unary_cancel(calls[i]);
	for (size_t i = 0; i < 32; i++) {
		while (!answers[i].ended) {
			fake_run();
			(void)usleep(200);
		}
		CU_ASSERT(answers[i].status == KS_OK || answers[i].status == KS_CANCELLED);
		cancelled += answers[i].status == KS_CANCELLED;
		fake_unary_end(calls[i]);
		fake_answer_fini(&answers[i]);
	}
	CU_ASSERT(cancelled > 0);
	api_fixture_stop();
}

/* Hangs the key "z" on lease 7 and takes it off again, beside all that the calls do. */
static _Atomic bool toggling;

static void attach_z(int64_t lease)
{
	struct ks_request request = {.kind = KS_REQ_PUT, .caller = {.internal = true}};
	struct ks_effects effects = {0};
	struct ks_result result = {0};
	struct ks_err err;

	request.put = (struct ks_put_req){.key = ks_slice_str("z"), .lease = lease};
	KS_ASSERT(ks_store_eval(fix.store, &request, &result, &effects, &err) == KS_OK);
	ks_store_publish(fix.store);
	ks_result_fini(&result);
	ks_effects_fini(&effects);
}

static void *toggle(void *arg)
{
	while (atomic_load(&toggling)) {
		attach_z(7);
		attach_z(0);
	}
	return arg;
}

/* One look is either refused or shows what the user may read: which keys are judged and which are shown is the same. */
static void keys_that_come_while_one_looks_are_not_shown(void)
{
	Etcdserverpb__LeaseTimeToLiveRequest ttl = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__AuthEnableRequest enable = ETCDSERVERPB__AUTH_ENABLE_REQUEST__INIT;
	Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	struct fake_answer answer;
	size_t shown = 0, denied = 0;
	pthread_t thread;

	set_up(false);
	token[0] = 0;
	user_add("root", "rpw", KS_OK, NULL);
	grant_role("root", "root");
	user_add("alice", "pw", KS_OK, NULL);
	grant.ttl = 100;
	grant.id = ttl.id = 7;
	ttl.keys = true;
	expect("/etcdserverpb.Lease/LeaseGrant", &grant, KS_OK, NULL);
	expect(AUTH "AuthEnable", &enable, KS_OK, NULL);
	CU_ASSERT_EQUAL_FATAL(login("alice", "pw"), KS_OK);
	atomic_store(&toggling, true);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, toggle, NULL), 0);
	while (shown < 2000 || denied < 2000) {
		Etcdserverpb__LeaseTimeToLiveResponse *response = NULL;

		once("/etcdserverpb.Lease/LeaseTimeToLive", &ttl, &answer);
		denied += answer.status == KS_PERMISSION_DENIED;
		if (answer.status == KS_OK)
			response = etcdserverpb__lease_time_to_live_response__unpack(NULL, answer.size, answer.data);
		if (response) {
			shown++;
			CU_ASSERT_EQUAL_FATAL(response->n_keys, 0);
			etcdserverpb__lease_time_to_live_response__free_unpacked(response, NULL);
		}
		fake_answer_fini(&answer);
	}
	atomic_store(&toggling, false);
	CU_ASSERT_EQUAL_FATAL(pthread_join(thread, NULL), 0);
	api_fixture_stop();
}

/* What the table does not name is for administrators: nothing new is open by mistake. */
static void unknown_methods_are_for_administrators(void)
{
	CU_ASSERT_EQUAL(ks_access_rule_of("/etcdserverpb.Maintenance/Something"), KS_ACCESS_ADMIN);
	CU_ASSERT_EQUAL(ks_access_rule_of("/etcdserverpb.Maintenance/Snapshot"), KS_ACCESS_ADMIN);
	CU_ASSERT_EQUAL(ks_access_rule_of("/etcdserverpb.Cluster/MemberAdd"), KS_ACCESS_ADMIN);
	CU_ASSERT_EQUAL(ks_access_rule_of("/etcdserverpb.Cluster/MemberList"), KS_ACCESS_USER);
	CU_ASSERT_EQUAL(ks_access_rule_of("/etcdserverpb.KV/Range"), KS_ACCESS_OPEN);
}

int main(void)
{
	return tap_run(
		"auth_api",
		(const struct tap_test[]){
			{"life_with_users", life_with_users},
			{"life_with_users_when_the_committer_takes_its_time",
			 life_with_users_when_the_committer_takes_its_time},
			{"nth_allocation_fails", nth_allocation_fails},
			{"waiting_login_is_cancelled", waiting_login_is_cancelled},
			{"keys_that_come_while_one_looks_are_not_shown", keys_that_come_while_one_looks_are_not_shown},
			{"unknown_methods_are_for_administrators", unknown_methods_are_for_administrators},
			{NULL, NULL},
		});
}
