/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lock service (spec 8): a lock is the oldest key below its name, and lives as long as that key.
 *
 *	open ─► try ─► (the oldest: answer) ─► wait ─► check ─► answer
 *	         │                               │        └─ the lease ended meanwhile: "session is expired"
 *	         └───────────────────────────────┴─ cancelled or failed: release
 */
#include "api/convert.h"
#include "api/handlers.h"
#include "api/session.h"
#include "proto/lock.pb-c.h"

struct lock {
	struct ks_session session; /* first */
	struct ks_slice name;
	bool created; /* by this call; it may be an earlier one's */
	struct ks_compare absent;
	struct ks_op success[2], failure[2];
};

static struct lock *lock_of(struct ks_session *session)
{
	return ks_container_of(session, struct lock, session);
}

static void reply(struct ks_session *session, int64_t revision)
{
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(session->api, &out.buf, 1, revision);
	ks_wire_bytes(&out.buf, 2, session->key);
	ks_session_reply(session, &out);
}

static void release(struct ks_session *session)
{
	session->write.submit.request = (struct ks_request){
		.kind = KS_REQ_DELETE,
		.del.interval.key = session->key,
	};
	ks_session_give_up(session);
}

static void checked(struct ks_session *session)
{
	bool there;

	if (session->err.status != KS_OK) {
		release(session);
		return;
	}
	there = session->read.result.kv_count > 0;
	ks_range_result_fini(&session->read.result);
	if (there)
		reply(session, session->read.revision);
	else
		ks_session_fail_text(session, "mutex: session is expired");
}

/* Nobody is older. The own key may have gone with its lease. */
static void waited(struct ks_session *session)
{
	const struct ks_range_req own = {.interval.key = session->key, .keys_only = true};

	if (session->err.status == KS_OK)
		ks_session_range(session, &own, checked);
	else
		release(session);
}

static void tried(struct ks_session *session)
{
	struct lock *lock = lock_of(session);
	struct ks_result *result = &session->write.submit.result;
	int64_t revision = result->revision, oldest;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	lock->created = result->txn.succeeded;
	session->revision = lock->created ? revision : ks_session_created(&result->txn.ops[0].range);
	oldest = ks_session_created(&result->txn.ops[1].range);
	ks_result_fini(result);
	if (oldest != 0 && oldest != session->revision)
		ks_session_wait(session, waited);
	else if (session->cancelled && lock->created)
		release(session); /* a lock that nobody knows of */
	else
		reply(session, revision);
}

/* Puts the key, unless this lease has one, and looks who was first. */
static void try(struct ks_session *session)
{
	struct lock *lock = lock_of(session);
	struct ks_op owner = {.kind = KS_OP_RANGE};

	if (session->err.status != KS_OK || !ks_session_name(session, lock->name)) {
		ks_session_fail(session);
		return;
	}
	owner.range = ks_session_oldest(session->prefix, true);
	lock->absent = (struct ks_compare){.target = KS_CMP_CREATE, .interval.key = session->key};
	lock->success[0] = (struct ks_op){.kind = KS_OP_PUT, .put = {.key = session->key, .lease = session->lease}};
	lock->failure[0] =
		(struct ks_op){.kind = KS_OP_RANGE, .range = {.interval.key = session->key, .keys_only = true}};
	lock->success[1] = lock->failure[1] = owner;
	session->write.submit.request = (struct ks_request){
		.kind = KS_REQ_TXN,
		.txn = {.compares = &lock->absent,
			.compare_count = 1,
			.success = lock->success,
			.success_count = 2,
			.failure = lock->failure,
			.failure_count = 2},
	};
	ks_session_submit(session, tried);
}

void ks_api_lock(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3lockpb__LockRequest *request = (const V3lockpb__LockRequest *)message;
	struct lock *lock = ks_session_new(api, call, sizeof(*lock), true);

	(void)size;
	if (!lock)
		return;
	lock->name = ks_slice_pb(request->name);
	ks_session_open(&lock->session, request->lease, try);
}

static void unlocked(struct ks_session *session)
{
	int64_t revision = session->write.submit.result.revision;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	ks_result_fini(&session->write.submit.result);
	ks_api_reply_header(session->api, session->call, revision);
}

/* Whoever knows the key may give the lock back; one that is not there is not an error. */
void ks_api_unlock(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3lockpb__UnlockRequest *request = (const V3lockpb__UnlockRequest *)message;
	struct ks_session *session = ks_session_new(api, call, sizeof(*session), false);

	(void)size;
	if (!session)
		return;
	if (request->key.len == 0) {
		ks_session_fail_text(session, ks_etcd_text(KS_E_EMPTY_KEY));
		return;
	}
	session->write.submit.request = (struct ks_request){
		.kind = KS_REQ_DELETE,
		.del.interval.key = ks_slice_pb(request->key),
	};
	ks_session_submit(session, unlocked);
}
