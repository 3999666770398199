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

/* ---- the judgement ---- */

struct weighing {
	struct ks_api *api;
	struct ks_call *call;
	const ProtobufCMessage *message;
	size_t size;
	ks_quota_fn *then;
	struct ks_await await;
	struct ks_chore chore;
};

static bool fits(const struct ks_api *api, const ProtobufCMessage *message)
{
	return api->committer->ops->db_size(api->committer) + cost_of(message) < api->quota_bytes;
}

static void weighed(struct ks_await *await)
{
	struct weighing *weighing = ks_container_of(await, struct weighing, await);
	struct ks_api *api = weighing->api;
	struct ks_cluster_status status;

	if (weighing->chore.err.status != KS_OK) {
		ks_api_fail_err(weighing->call, &weighing->chore.err);
		return;
	}
	if (fits(api, weighing->message)) {
		weighing->then(api, weighing->call, weighing->message, weighing->size);
		return;
	}
	api->committer->ops->status(api->committer, &status);
	KS_DIAG_LIMITED(KS_ERROR, "api",
			"the quota is used up, writes are refused until room is made (docs/maintenance.md) size=%lld "
			"quota=%lld",
			(long long)api->committer->ops->db_size(api->committer), (long long)api->quota_bytes);
	raise_alarm(api, weighing->call, status.member_id);
}

static void weighing_done(struct ks_chore *chore)
{
	ks_await_done(&ks_container_of(chore, struct weighing, chore)->await);
}

/* What we know of the size may be older than the room that another instance has made: no alarm without a fresh look. */
static void weigh(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size,
		  ks_quota_fn *then)
{
	struct weighing *weighing = ks_arena_zalloc(ks_call_arena(call), sizeof(*weighing));

	if (!weighing) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	weighing->api = api;
	weighing->call = call;
	weighing->message = message;
	weighing->size = size;
	weighing->then = then;
	weighing->chore.kind = KS_CHORE_SIZE;
	weighing->chore.done = weighing_done;
	ks_await_init(&weighing->await, call, weighed);
	api->committer->ops->chore(api->committer, &weighing->chore);
	ks_await_go(&weighing->await);
}

void ks_quota_judge(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size,
		    ks_quota_fn *then)
{
	struct ks_cluster_status status;

	if (api->quota_bytes <= 0 || cost_of(message) == 0 || fits(api, message)) {
		then(api, call, message, size);
		return;
	}
	api->committer->ops->status(api->committer, &status);
	if (ks_store_alarm_active(api->store, status.member_id, KS_ALARM_NOSPACE))
		ks_api_fail(call, KS_E_NO_SPACE);
	else
		weigh(api, call, message, size, then);
}
