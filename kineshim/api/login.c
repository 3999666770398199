/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What takes a password: Authenticate, UserAdd, UserChangePassword (spec 7.5). bcrypt runs on threads of its own (password.h); a
 * client that does not wait any longer takes its job back.
 *
 *	Authenticate        proof ─► user ─► compare (worker) ─► unchanged? ─► token
 *	UserAdd, …          may the caller? ─► hash (worker) ─► write
 */
#include "api/access.h"
#include "api/api.h"
#include "api/handlers.h"
#include "api/password.h"
#include "api/token.h"
#include "base/metrics.h"
#include "proto/rpc.pb-c.h"

/* How often a password is compared again because users or roles changed meanwhile. */
#define LOGIN_ROUNDS 4

static const char *text(const char *text)
{
	return text ? text : "";
}

/* ---- a job on its way ---- */

struct waiting_job {
	struct ks_api *api;
	struct ks_call *call;
	struct ks_password_job job;
	struct ks_await await;
	struct ks_task cancelled;
	bool watched; /* for the call's end */
	bool running;
};

static void job_done(struct ks_password_job *job)
{
	ks_await_done(&ks_container_of(job, struct waiting_job, job)->await);
}

/* The client is gone, or the server ends. A job that runs is soon done by itself. */
static void job_cancelled(struct ks_task *task)
{
	struct waiting_job *waiting = ks_container_of(task, struct waiting_job, cancelled);

	if (waiting->running && ks_passwords_take_back(waiting->api->passwords, &waiting->job)) {
		waiting->running = false;
		ks_api_fail(waiting->call, KS_E_CANCELED);
	}
}

/* 'job' has password and hash; 'then' looks at it. The call may have ended when this returns. */
static void run_job(struct waiting_job *waiting, void (*then)(struct ks_await *await))
{
	waiting->job.done = job_done;
	waiting->cancelled.run = job_cancelled;
	if (!waiting->watched && !ks_call_on_cancel(waiting->call, &waiting->cancelled)) {
		ks_api_fail(waiting->call, KS_E_STOPPED);
		return;
	}
	waiting->watched = waiting->running = true;
	ks_await_init(&waiting->await, waiting->call, then);
	ks_passwords_run(waiting->api->passwords, &waiting->job);
	ks_await_go(&waiting->await);
}

/* ---- Authenticate ---- */

enum { LOGIN_OK, LOGIN_FAILED }; /* labels of the counter */

static void refuse(struct ks_call *call, const struct ks_err *err)
{
	KS_COUNT_AT(AUTH_LOGINS, LOGIN_FAILED, 1);
	ks_api_fail_err(call, err);
}

struct login {
	struct waiting_job waiting;
	struct ks_slice user;
	const char *password;
	uint64_t revision; /* of users and roles when the comparison began */
	int rounds;
	struct ks_await await;
	struct ks_read_proof proof;
};

static void reply_token(struct login *login, const struct ks_auth *auth, const struct ks_auth_user *user)
{
	struct ks_api *api = login->waiting.api;
	struct ks_call *call = login->waiting.call;
	struct ks_buf token;
	struct ks_out out;
	struct ks_err err;

	ks_buf_init(&token, 1u << 16);
	if (ks_tokens_issue(api->tokens, auth, user, &token, &err) != KS_OK) {
		ks_buf_fini(&token);
		ks_api_fail_err(call, &err);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, ks_store_committed(api->store).revision);
	ks_wire_bytes(&out.buf, 2, ks_slice_of(token.data, token.size));
	out.buf.failed |= token.failed;
	ks_buf_fini(&token);
	KS_COUNT_AT(AUTH_LOGINS, LOGIN_OK, 1);
	ks_call_reply(call, &out);
}

static void compare(struct login *login);

static void compared(struct ks_await *await)
{
	struct login *login = ks_container_of(await, struct login, waiting.await);
	struct waiting_job *waiting = &login->waiting;
	const struct ks_auth_user *user;
	struct ks_auth *auth;

	waiting->running = false;
	if (waiting->job.err.status == KS_OK && !waiting->job.matches)
		ks_etcd_fail(&waiting->job.err, KS_E_AUTH_FAILED);
	if (waiting->job.err.status != KS_OK) {
		refuse(waiting->call, &waiting->job.err);
		return;
	}
	auth = ks_store_auth(waiting->api->store);
	user = ks_auth_find_user(auth, login->user);
	if (ks_auth_enabled(auth) && ks_auth_revision(auth) == login->revision && user)
		reply_token(login, auth, user);
	else if (++login->rounds < LOGIN_ROUNDS)
		compare(login);
	else
		ks_api_fail(waiting->call, KS_E_AUTH_OLD_REVISION);
	ks_auth_unref(auth);
}

static enum ks_status prepare(struct login *login, const struct ks_auth *auth, struct ks_err *err)
{
	const struct ks_auth_user *user = ks_auth_find_user(auth, login->user);
	struct ks_password_job *job = &login->waiting.job;
	uint8_t *hash;

	if (!ks_auth_enabled(auth))
		return ks_etcd_fail(err, KS_E_AUTH_NOT_ENABLED);
	if (!user)
		return ks_etcd_fail(err, KS_E_AUTH_FAILED);
	if (user->no_password)
		return ks_etcd_fail(err, KS_E_NO_PASSWORD_USER);
	if (user->hash.size == 0)
		return ks_etcd_fail(err, KS_E_AUTH_FAILED);
	hash = ks_arena_alloc(ks_call_arena(login->waiting.call), user->hash.size);
	if (!hash)
		return ks_etcd_fail(err, KS_E_NO_MEMORY);
	memcpy(hash, user->hash.data, user->hash.size);
	*job = (struct ks_password_job){
		.password = login->password,
		.hash = ks_slice_of(hash, user->hash.size),
	};
	login->revision = ks_auth_revision(auth);
	return KS_OK;
}

static void compare(struct login *login)
{
	struct ks_auth *auth = ks_store_auth(login->waiting.api->store);
	struct ks_err err;
	enum ks_status status = prepare(login, auth, &err);

	ks_auth_unref(auth);
	if (status == KS_OK)
		run_job(&login->waiting, compared);
	else
		refuse(login->waiting.call, &err);
}

static void login_proved(struct ks_await *await)
{
	struct login *login = ks_container_of(await, struct login, await);

	if (login->proof.err.status == KS_OK)
		compare(login);
	else
		refuse(login->waiting.call, &login->proof.err);
}

static void login_proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct login, proof)->await);
}

void ks_api_authenticate(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthenticateRequest *request = (const Etcdserverpb__AuthenticateRequest *)message;
	struct login *login = ks_arena_zalloc(ks_call_arena(call), sizeof(*login));

	(void)size;
	if (!login) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	login->waiting.api = api;
	login->waiting.call = call;
	login->user = ks_slice_str(text(request->name));
	login->password = text(request->password);
	login->proof.done = login_proof_done;
	ks_await_init(&login->await, call, login_proved);
	api->committer->ops->prove_read(api->committer, &login->proof);
	ks_await_go(&login->await);
}

/* ---- UserAdd, UserChangePassword ---- */

struct hashing {
	struct waiting_job waiting;
	struct ks_write *write;
};

static void encode_header(struct ks_write *write, struct ks_out *out)
{
	ks_api_write_header(write->api, &out->buf, 1, write->submit.result.revision);
}

static void hashed(struct ks_await *await)
{
	struct hashing *hashing = ks_container_of(await, struct hashing, waiting.await);
	struct waiting_job *waiting = &hashing->waiting;

	waiting->running = false;
	if (waiting->job.err.status != KS_OK) {
		ks_api_fail_err(waiting->call, &waiting->job.err);
		return;
	}
	hashing->write->submit.request.auth.secret = ks_slice_of(waiting->job.made, KS_PASSWORD_HASH_BYTES);
	ks_write_go(hashing->write);
}

/* Hashes, then writes. Whoever may not do this at all does not cost a hash. */
static void hash_and_write(struct ks_write *write, const char *password)
{
	struct ks_api *api = write->api;
	struct ks_call *call = write->call;
	struct hashing *hashing = ks_arena_zalloc(ks_call_arena(call), sizeof(*hashing));
	struct ks_err err;

	if (!hashing) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	if (ks_access_check_rule(api, call, KS_ACCESS_ADMIN, NULL, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	hashing->waiting.api = api;
	hashing->waiting.call = call;
	hashing->waiting.job.password = password;
	hashing->write = write;
	run_job(&hashing->waiting, hashed);
}

static struct ks_write *new_write(struct ks_api *api, struct ks_call *call, size_t size, enum ks_auth_op op,
				  const char *name)
{
	struct ks_write *write = ks_write_new(api, call, size, encode_header);

	if (!write)
		return NULL;
	write->submit.request.kind = KS_REQ_AUTH;
	write->submit.request.auth = (struct ks_auth_req){.op = op, .user = ks_slice_str(text(name))};
	return write;
}

void ks_api_user_add(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthUserAddRequest *request = (const Etcdserverpb__AuthUserAddRequest *)message;
	bool no_password = request->options && request->options->no_password;
	struct ks_write *write;

	if (!no_password && strlen(text(request->password)) > KS_PASSWORD_MAX) {
		ks_api_fail(call, KS_E_PASSWORD_TOO_LONG);
		return;
	}
	write = new_write(api, call, size, KS_AUTH_USER_ADD, request->name);
	if (!write)
		return;
	write->submit.request.auth.no_password = no_password;
	if (no_password)
		ks_write_go(write);
	else
		hash_and_write(write, text(request->password));
}

/* Standard base64 with padding, as Go reads it. NULL: it is not, or no memory. */
static uint8_t *decode_base64(struct ks_arena *arena, const char *encoded, size_t *size)
{
	static const char digits[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t length = strlen(encoded);
	uint8_t *out = ks_arena_alloc(arena, length / 4 * 3 + 3);
	uint32_t bits = 0;
	int have = 0;

	*size = 0;
	if (!out || length % 4 != 0)
		return NULL;
	while (length > 0 && encoded[length - 1] == '=' && have < 2) {
		length--;
		have++;
	}
	have = 0;
	for (size_t i = 0; i < length; i++) {
		const char *digit = strchr(digits, encoded[i]);

		if (!digit || !*digit)
			return NULL;
		bits = bits << 6 | (uint32_t)(digit - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[(*size)++] = (uint8_t)(bits >> have);
		}
	}
	return out;
}

/* An empty password takes the hash that the client made, or takes the password away (spec 7.5). */
void ks_api_user_change_password(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__AuthUserChangePasswordRequest *request =
		(const Etcdserverpb__AuthUserChangePasswordRequest *)message;
	const char *password = text(request->password);
	struct ks_write *write;
	size_t hash_size;
	uint8_t *hash;

	if (strlen(password) > KS_PASSWORD_MAX) {
		ks_api_fail(call, KS_E_PASSWORD_TOO_LONG);
		return;
	}
	write = new_write(api, call, size, KS_AUTH_USER_PASSWORD, request->name);
	if (!write)
		return;
	if (password[0]) {
		hash_and_write(write, password);
		return;
	}
	hash = decode_base64(ks_call_arena(call), text(request->hashedpassword), &hash_size);
	if (!hash) {
		ks_api_fail(call, KS_E_BAD_BASE64);
		return;
	}
	write->submit.request.auth.secret = ks_slice_of(hash, hash_size);
	ks_write_go(write);
}
