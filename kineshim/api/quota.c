/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The space quota (spec 0.4 step 3, 2.9, 6.1): what a write would cost is weighed before anything else is checked of it, and who
 * finds that it does not fit raises the alarm NOSPACE for this member. From then on evaluation refuses on every
 * instance (store/alarm.h), until somebody makes room and lifts the alarm.
 */
#include "api/api.h"
#include "base/diag.h"
#include "proto/rpc.pb-c.h"
#include "store/alarm.h"

#define PUT_COST 256 /* besides key and value */
#define LEASE_COST 64

static int64_t txn_cost(const Etcdserverpb__TxnRequest *txn);

static int64_t put_cost(const Etcdserverpb__PutRequest *put)
{
	return PUT_COST + (int64_t)put->key.len + (int64_t)put->value.len;
}

static int64_t ops_cost(Etcdserverpb__RequestOp *const *ops, size_t count)
{
	int64_t cost = 0;

	for (size_t i = 0; i < count; i++) {
		if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT)
			cost += put_cost(ops[i]->request_put);
		else if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN)
			cost += txn_cost(ops[i]->request_txn);
	}
	return cost;
}

/* The dearer branch, whichever will run. The depth was bounded before the message was decoded. */
static int64_t txn_cost(const Etcdserverpb__TxnRequest *txn)
{
	int64_t success = ops_cost(txn->success, txn->n_success), failure = ops_cost(txn->failure, txn->n_failure);

	return success > failure ? success : failure;
}

static int64_t cost_of(const ProtobufCMessage *message)
{
	if (message->descriptor == &etcdserverpb__put_request__descriptor)
		return put_cost((const Etcdserverpb__PutRequest *)message);
	if (message->descriptor == &etcdserverpb__txn_request__descriptor)
		return txn_cost((const Etcdserverpb__TxnRequest *)message);
	return message->descriptor == &etcdserverpb__lease_grant_request__descriptor ? LEASE_COST : 0;
}

/* ---- the alarm ---- */

struct raising {
	struct ks_call *call;
	struct ks_await await;
	struct ks_submit submit;
};

static void raised(struct ks_await *await)
{
	struct raising *raising = ks_container_of(await, struct raising, await);

	/* Also when it could not be raised: there is no room all the same. */
	if (raising->submit.err.status == KS_OK)
		ks_result_fini(&raising->submit.result);
	ks_api_fail(raising->call, KS_E_NO_SPACE);
}

static void raising_done(struct ks_submit *submit)
{
	ks_await_done(&ks_container_of(submit, struct raising, submit)->await);
}

static void raise_alarm(struct ks_api *api, struct ks_call *call, uint64_t member_id)
{
	struct raising *raising = ks_arena_zalloc(ks_call_arena(call), sizeof(*raising));

	if (!raising) {
		ks_api_fail(call, KS_E_NO_SPACE);
		return;
	}
	raising->call = call;
	raising->submit.request = (struct ks_request){
		.kind = KS_REQ_ALARM,
		.caller = {.internal = true},
		.alarm = {.activate = true, .member = member_id, .type = KS_ALARM_NOSPACE},
	};
	raising->submit.done = raising_done;
	ks_await_init(&raising->await, call, raised);
	api->committer->ops->submit(api->committer, &raising->submit);
	ks_await_go(&raising->await);
}

bool ks_quota_admits(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message)
{
	struct ks_cluster_status status;
	int64_t cost, size;

	if (api->quota_bytes <= 0)
		return true;
	cost = cost_of(message);
	if (cost == 0)
		return true;
	size = api->committer->ops->db_size(api->committer);
	if (size + cost < api->quota_bytes)
		return true;
	api->committer->ops->status(api->committer, &status);
	if (ks_store_alarm_active(api->store, status.member_id, KS_ALARM_NOSPACE)) {
		ks_api_fail(call, KS_E_NO_SPACE);
		return false;
	}
	KS_DIAG_LIMITED(KS_ERROR, "api",
			"the quota is used up, writes are refused until room is made (docs/maintenance.md) size=%lld "
			"quota=%lld",
			(long long)size, (long long)api->quota_bytes);
	raise_alarm(api, call, status.member_id);
	return false;
}
