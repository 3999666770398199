/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Auth service (spec 7.5) but for what has to do with passwords, which is in login.c. Changes are writes like others: the store
 * judges them on the tail. What shows users and roles comes behind a read proof, as in etcd.
 */
#include <openssl/rand.h>

#include "api/access.h"
#include "api/api.h"
#include "api/handlers.h"
#include "proto/rpc.pb-c.h"

static struct ks_slice text(const char *text)
{
	return ks_slice_str(text ? text : "");
}

static struct ks_slice bytes(const ProtobufCBinaryData *data)
{
	return ks_slice_of(data->data, data->len);
}

/* ---- changes ---- */

static void encode_header(struct ks_write *write, struct ks_out *out)
{
	ks_api_write_header(write->api, &out->buf, 1, write->submit.result.revision);
}

static void change(struct ks_api *api, struct ks_call *call, size_t size, const struct ks_auth_req *request)
{
	struct ks_write *write = ks_write_new(api, call, size, encode_header);

	if (!write)
		return;
	write->submit.request.kind = KS_REQ_AUTH;
	write->submit.request.auth = *request;
	ks_write_go(write);
}

void ks_api_auth_enable(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	uint8_t *secret = ks_arena_alloc(ks_call_arena(call), KS_AUTH_SECRET_BYTES);

	(void)message;
	if (secret && RAND_bytes(secret, KS_AUTH_SECRET_BYTES) == 1)
		change(api, call, size,
		       &(struct ks_auth_req){.op = KS_AUTH_ENABLE,
					     .secret = ks_slice_of(secret, KS_AUTH_SECRET_BYTES)});
	else
		ks_api_fail(call, KS_E_NO_MEMORY);
}

void ks_api_auth_disable(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)message;
	change(api, call, size, &(struct ks_auth_req){.op = KS_AUTH_DISABLE});
}

void ks_api_user_delete(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthUserDeleteRequest *request = (const Etcdserverpb__AuthUserDeleteRequest *)message;

	change(api, call, size, &(struct ks_auth_req){.op = KS_AUTH_USER_DELETE, .user = text(request->name)});
}

void ks_api_user_grant_role(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthUserGrantRoleRequest *request = (const Etcdserverpb__AuthUserGrantRoleRequest *)message;

	change(api, call, size,
	       &(struct ks_auth_req){
		       .op = KS_AUTH_USER_GRANT, .user = text(request->user), .role = text(request->role)});
}

void ks_api_user_revoke_role(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthUserRevokeRoleRequest *request =
		(const Etcdserverpb__AuthUserRevokeRoleRequest *)message;

	change(api, call, size,
	       &(struct ks_auth_req){
		       .op = KS_AUTH_USER_REVOKE, .user = text(request->name), .role = text(request->role)});
}

void ks_api_role_add(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthRoleAddRequest *request = (const Etcdserverpb__AuthRoleAddRequest *)message;

	change(api, call, size, &(struct ks_auth_req){.op = KS_AUTH_ROLE_ADD, .role = text(request->name)});
}

void ks_api_role_delete(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthRoleDeleteRequest *request = (const Etcdserverpb__AuthRoleDeleteRequest *)message;

	change(api, call, size, &(struct ks_auth_req){.op = KS_AUTH_ROLE_DELETE, .role = text(request->role)});
}

void ks_api_role_grant_permission(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message,
				  size_t size)
{
	const Etcdserverpb__AuthRoleGrantPermissionRequest *request =
		(const Etcdserverpb__AuthRoleGrantPermissionRequest *)message;
	const Authpb__Permission *perm = request->perm;
	struct ks_auth_req grant = {
		.op = KS_AUTH_ROLE_GRANT,
		.role = text(request->name),
		.no_perm = !perm,
	};

	if (perm) {
		grant.perm = (int)perm->permtype;
		grant.interval = (struct ks_interval){.key = bytes(&perm->key), .end = bytes(&perm->range_end)};
	}
	change(api, call, size, &grant);
}

void ks_api_role_revoke_permission(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message,
				   size_t size)
{
	const Etcdserverpb__AuthRoleRevokePermissionRequest *request =
		(const Etcdserverpb__AuthRoleRevokePermissionRequest *)message;

	change(api, call, size,
	       &(struct ks_auth_req){
		       .op = KS_AUTH_ROLE_REVOKE,
		       .role = text(request->role),
		       .interval = {.key = bytes(&request->key), .end = bytes(&request->range_end)},
	       });
}

/* ---- looks ---- */

struct look {
	struct ks_api *api;
	struct ks_call *call;
	const ProtobufCMessage *message;
	/* Writes what comes behind the header. 'auth' is the state, 'access' says who asks (its auth is NULL while auth is off). */
	enum ks_status (*write)(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				struct ks_out *out, struct ks_err *err);
	struct ks_await await;
	struct ks_read_proof proof;
};

static void look_proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct look, proof)->await);
}

static void look_proved(struct ks_await *await)
{
	struct look *look = ks_container_of(await, struct look, await);
	struct ks_call *call = look->call;
	struct ks_err err = look->proof.err;
	struct ks_access access = {0};
	enum ks_status status = err.status;
	struct ks_auth *auth;
	struct ks_out out;

	if (status == KS_OK)
		status = ks_access_open(look->api, call, ks_call_arena(call), &access, &err);
	if (status != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	auth = access.auth ? ks_auth_ref(access.auth) : ks_store_auth(look->api->store);
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(look->api, &out.buf, 1, ks_store_committed(look->api->store).revision);
	status = look->write(look, auth, &access, &out, &err);
	ks_auth_unref(auth);
	ks_access_close(&access);
	if (status == KS_OK) {
		ks_call_reply(call, &out);
	} else {
		ks_out_fini(&out);
		ks_api_fail_err(call, &err);
	}
}

static void look(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message,
		 enum ks_status (*write)(const struct look *look, const struct ks_auth *auth,
					 const struct ks_access *access, struct ks_out *out, struct ks_err *err))
{
	struct look *look = ks_arena_zalloc(ks_call_arena(call), sizeof(*look));

	if (!look) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	look->api = api;
	look->call = call;
	look->message = message;
	look->write = write;
	look->proof.done = look_proof_done;
	ks_await_init(&look->await, call, look_proved);
	api->committer->ops->prove_read(api->committer, &look->proof);
	ks_await_go(&look->await);
}

static enum ks_status write_status(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				   struct ks_out *out, struct ks_err *err)
{
	(void)look;
	(void)access;
	(void)err;
	ks_wire_uint(&out->buf, 2, ks_auth_enabled(auth));
	ks_wire_uint(&out->buf, 3, ks_auth_revision(auth));
	return KS_OK;
}

void ks_api_auth_status(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	look(api, call, message, write_status);
}

/* Also an empty name is written: a list's elements are counted by their tags. */
static void write_name(struct ks_out *out, uint32_t field, struct ks_slice name)
{
	ks_wire_nested(&out->buf, field, name.size);
	ks_buf_append_slice(&out->buf, name);
}

static enum ks_status write_user(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				 struct ks_out *out, struct ks_err *err)
{
	struct ks_slice name = text(((const Etcdserverpb__AuthUserGetRequest *)look->message)->name);
	const struct ks_auth_user *user = ks_auth_find_user(auth, name);
	enum ks_status status = ks_access_check_admin(access, err);

	if (status != KS_OK && !ks_slice_eq(access->caller.user, name))
		return status;
	if (!user)
		return ks_etcd_fail(err, KS_E_USER_NOT_FOUND);
	for (size_t i = 0; i < user->role_count; i++)
		write_name(out, 2, user->roles[i]);
	return KS_OK;
}

void ks_api_user_get(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	look(api, call, message, write_user);
}

static enum ks_status write_users(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				  struct ks_out *out, struct ks_err *err)
{
	enum ks_status status = ks_access_check_admin(access, err);

	(void)look;
	for (size_t i = 0; status == KS_OK && i < ks_auth_user_count(auth); i++)
		write_name(out, 2, ks_auth_user_at(auth, i)->name);
	return status;
}

void ks_api_user_list(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	look(api, call, message, write_users);
}

static void write_perm(struct ks_out *out, const struct ks_auth_perm *perm)
{
	const struct ks_interval *interval = &perm->interval;

	ks_wire_nested(&out->buf, 2,
		       ks_wire_uint_size(1, (uint64_t)perm->type) + ks_wire_bytes_size(2, interval->key.size) +
			       ks_wire_bytes_size(3, interval->end.size));
	ks_wire_uint(&out->buf, 1, (uint64_t)perm->type);
	ks_wire_bytes(&out->buf, 2, interval->key);
	ks_wire_bytes(&out->buf, 3, interval->end);
}

static enum ks_status write_role(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				 struct ks_out *out, struct ks_err *err)
{
	static const struct ks_auth_perm everything = {.type = KS_PERM_READWRITE,
						       .interval = {.end = {(const uint8_t *)"", 1}}};
	struct ks_slice name = text(((const Etcdserverpb__AuthRoleGetRequest *)look->message)->role);
	const struct ks_auth_user *user = ks_auth_find_user(auth, access->caller.user);
	const struct ks_auth_role *role = ks_auth_find_role(auth, name);
	enum ks_status status = ks_access_check_admin(access, err);

	if (status != KS_OK && !(user && ks_auth_user_has_role(user, name)))
		return status;
	if (!role)
		return ks_etcd_fail(err, KS_E_ROLE_NOT_FOUND);
	if (ks_slice_eq(name, ks_slice_str(KS_AUTH_ROOT))) {
		write_perm(out, &everything);
		return KS_OK;
	}
	for (size_t i = 0; i < role->perm_count; i++)
		write_perm(out, &role->perms[i]);
	return KS_OK;
}

void ks_api_role_get(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	look(api, call, message, write_role);
}

static enum ks_status write_roles(const struct look *look, const struct ks_auth *auth, const struct ks_access *access,
				  struct ks_out *out, struct ks_err *err)
{
	enum ks_status status = ks_access_check_admin(access, err);

	(void)look;
	for (size_t i = 0; status == KS_OK && i < ks_auth_role_count(auth); i++)
		write_name(out, 2, ks_auth_role_at(auth, i)->name);
	return status;
}

void ks_api_role_list(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	(void)size;
	look(api, call, message, write_roles);
}
