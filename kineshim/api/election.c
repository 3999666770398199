/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Election service (spec 8), but for Observe, which is in observe.c. The leader is the oldest key below the election's name; its
 * value is what the leader has to say.
 *
 *	Campaign: open ─► run ─► (the key was there, with another value: proclaim) ─► wait ─► answer
 */
#include "api/convert.h"
#include "api/handlers.h"
#include "api/session.h"
#include "proto/election.pb-c.h"

#define TEXT_NOT_LEADER "election: not leader"
#define TEXT_NO_LEADER "election: no leader"
#define TEXT_NO_KEY "\"leader\" field must be provided"

struct election {
	struct ks_session session; /* first */
	struct ks_slice name, value;
	int64_t header_revision;
	struct ks_compare compare;
	struct ks_op success, failure;
};

static struct election *election_of(struct ks_session *session)
{
	return ks_container_of(session, struct election, session);
}

/* A transaction that puts or deletes the key, if it is the one that was created at 'revision'; 0: if it is not there. */
static void prepare(struct election *election, int64_t revision, const struct ks_op *op)
{
	struct ks_session *session = &election->session;

	election->compare = (struct ks_compare){
		.target = KS_CMP_CREATE,
		.interval.key = session->key,
		.number = revision,
	};
	election->success = *op;
	session->write.submit.request = (struct ks_request){
		.kind = KS_REQ_TXN,
		.txn = {.compares = &election->compare,
			.compare_count = 1,
			.success = &election->success,
			.success_count = 1,
			.failure = &election->failure},
	};
}

static struct ks_op put_value(const struct election *election)
{
	const struct ks_session *session = &election->session;

	return (struct ks_op){
		.kind = KS_OP_PUT,
		.put = {.key = session->key, .value = election->value, .lease = session->lease},
	};
}

static struct ks_op delete_key(const struct election *election)
{
	return (struct ks_op){.kind = KS_OP_DELETE, .del.interval.key = election->session.key};
}

static void resign(struct election *election)
{
	struct ks_op op = delete_key(election);

	prepare(election, election->session.revision, &op);
	ks_session_give_up(&election->session);
}

/* ---- Campaign ---- */

static void elected(struct ks_session *session)
{
	struct election *election = election_of(session);
	struct ks_out out;
	size_t size;

	/* As etcd: the key stays, with its place in the line, unless the client is gone. */
	if (session->cancelled) {
		resign(election);
		return;
	}
	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	size = ks_wire_bytes_size(1, election->name.size) + ks_wire_bytes_size(2, session->key.size) +
	       ks_wire_uint_size(3, (uint64_t)session->revision) + ks_wire_uint_size(4, (uint64_t)session->lease);
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(session->api, &out.buf, 1, election->header_revision);
	ks_wire_nested(&out.buf, 2, size);
	ks_wire_bytes(&out.buf, 1, election->name);
	ks_wire_bytes(&out.buf, 2, session->key);
	ks_wire_uint(&out.buf, 3, (uint64_t)session->revision);
	ks_wire_uint(&out.buf, 4, (uint64_t)session->lease);
	ks_session_reply(session, &out);
}

/* The candidate was in the line already, with another value. */
static void changed_value(struct ks_session *session)
{
	bool succeeded = false;

	if (session->err.status == KS_OK) {
		succeeded = session->write.submit.result.txn.succeeded;
		ks_result_fini(&session->write.submit.result);
		if (!succeeded)
			ks_fail(&session->err, KS_UNKNOWN, TEXT_NOT_LEADER);
	}
	if (succeeded)
		ks_session_wait(session, elected);
	else
		resign(election_of(session));
}

/* The candidate's key was there: has it another value? */
static bool value_differs(const struct election *election, const struct ks_range_result *own)
{
	struct ks_kv kv;

	return !ks_kv_decode(ks_bytes_slice(own->kvs[0].encoded), &kv) || !ks_slice_eq(kv.value, election->value);
}

static void stood(struct ks_session *session)
{
	struct election *election = election_of(session);
	struct ks_result *result = &session->write.submit.result;
	struct ks_op op = put_value(election);
	bool differs = false;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	election->header_revision = session->revision = result->revision;
	if (!result->txn.succeeded) {
		session->revision = ks_session_created(&result->txn.ops[0].range);
		differs = value_differs(election, &result->txn.ops[0].range);
	}
	ks_result_fini(result);
	if (!differs) {
		ks_session_wait(session, elected);
		return;
	}
	prepare(election, session->revision, &op);
	ks_session_submit(session, changed_value);
}

static void stand(struct ks_session *session)
{
	struct election *election = election_of(session);
	struct ks_op op;

	if (session->err.status != KS_OK || !ks_session_name(session, election->name)) {
		ks_session_fail(session);
		return;
	}
	op = put_value(election);
	prepare(election, 0, &op);
	election->failure = (struct ks_op){.kind = KS_OP_RANGE, .range.interval.key = session->key};
	session->write.submit.request.txn.failure_count = 1;
	ks_session_submit(session, stood);
}

void ks_api_campaign(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3electionpb__CampaignRequest *request = (const V3electionpb__CampaignRequest *)message;
	struct election *election = ks_session_new(api, call, sizeof(*election), true);

	(void)size;
	if (!election)
		return;
	election->name = ks_slice_pb(request->name);
	election->value = ks_slice_pb(request->value);
	ks_session_open(&election->session, request->lease, stand);
}

/* ---- Proclaim, Resign ---- */

static void proclaimed(struct ks_session *session)
{
	struct ks_result *result = &session->write.submit.result;
	int64_t revision = result->revision;
	bool succeeded;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	succeeded = result->txn.succeeded;
	ks_result_fini(result);
	if (succeeded)
		ks_api_reply_header(session->api, session->call, revision);
	else
		ks_session_fail_text(session, TEXT_NOT_LEADER);
}

/* Whether there was something to give up is not said. */
static void resigned(struct ks_session *session)
{
	struct ks_result *result = &session->write.submit.result;
	int64_t revision = result->revision;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	ks_result_fini(result);
	ks_api_reply_header(session->api, session->call, revision);
}

static bool may_submit(struct ks_session *session)
{
	if (session->err.status == KS_OK && session->key.size == 0)
		ks_etcd_fail(&session->err, KS_E_EMPTY_KEY);
	if (session->err.status == KS_OK)
		return true;
	ks_session_fail(session);
	return false;
}

static void proclaim(struct ks_session *session)
{
	struct election *election = election_of(session);
	struct ks_op op = put_value(election);

	if (!may_submit(session))
		return;
	prepare(election, session->revision, &op);
	ks_session_submit(session, proclaimed);
}

static void step_down(struct ks_session *session)
{
	struct election *election = election_of(session);
	struct ks_op op = delete_key(election);

	if (!may_submit(session))
		return;
	prepare(election, session->revision, &op);
	ks_session_submit(session, resigned);
}

/* The leader's key says what the session was. etcd opens it again, so that without a lease there is a new one, here too. */
static struct election *resume(struct ks_api *api, struct ks_call *call, const V3electionpb__LeaderKey *leader)
{
	struct election *election;

	if (!leader) {
		ks_call_fail(call, KS_UNKNOWN, TEXT_NO_KEY);
		return NULL;
	}
	election = ks_session_new(api, call, sizeof(*election), false);
	if (!election)
		return NULL;
	election->session.key = ks_slice_pb(leader->key);
	election->session.revision = leader->rev;
	return election;
}

void ks_api_proclaim(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3electionpb__ProclaimRequest *request = (const V3electionpb__ProclaimRequest *)message;
	struct election *election = resume(api, call, request->leader);

	(void)size;
	if (!election)
		return;
	election->value = ks_slice_pb(request->value);
	ks_session_open(&election->session, request->leader->lease, proclaim);
}

void ks_api_resign(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3electionpb__ResignRequest *request = (const V3electionpb__ResignRequest *)message;
	struct election *election = resume(api, call, request->leader);

	(void)size;
	if (election)
		ks_session_open(&election->session, request->leader->lease, step_down);
}

/* ---- Leader ---- */

static void found(struct ks_session *session)
{
	struct ks_range_result *result = &session->read.result;
	struct ks_out out;

	if (session->err.status != KS_OK) {
		ks_session_fail(session);
		return;
	}
	if (result->kv_count == 0) {
		ks_range_result_fini(result);
		ks_session_fail_text(session, TEXT_NO_LEADER);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(session->api, &out.buf, 1, session->read.revision);
	ks_wire_nested(&out.buf, 2, result->kvs[0].encoded->size);
	ks_out_bytes(&out, result->kvs[0].encoded);
	ks_range_result_fini(result);
	ks_session_reply(session, &out);
}

void ks_api_leader(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const V3electionpb__LeaderRequest *request = (const V3electionpb__LeaderRequest *)message;
	struct ks_session *session = ks_session_new(api, call, sizeof(*session), false);
	struct ks_range_req oldest;

	(void)size;
	if (!session)
		return;
	if (!ks_session_prefix(ks_call_arena(call), ks_slice_pb(request->name), &session->prefix)) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	oldest = ks_session_oldest(session->prefix, false);
	ks_session_range(session, &oldest, found);
}
