/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV.Range (spec 1). The usual one never leaves its thread but for the proof that nothing newer exists; values outside
 * the cache are fetched before the answer is written.
 */
#include "api/api.h"
#include "api/convert.h"
#include "api/encode.h"
#include "api/handlers.h"
#include "api/validate.h"

/* How often a range is read again because compaction trimmed a row between reading and fetching. */
#define ROUNDS 16

struct range {
	struct ks_api *api;
	struct ks_call *call;
	struct ks_range_req request;
	struct ks_await await;
	struct ks_read_proof proof;
	struct ks_range_result result;
	int64_t revision;
	struct ks_values values;
	int rounds;
};

static void run(struct range *range);

static void reply(struct range *range)
{
	struct ks_call *call = range->call;
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_encode_range(range->api, &out, &range->result, range->revision);
	ks_range_result_fini(&range->result);
	ks_call_reply(call, &out);
}

static void fetch_done(struct ks_fetch *fetch)
{
	ks_await_done(&ks_container_of(fetch, struct range, values.fetch)->await);
}

static void fetched(struct ks_await *await)
{
	struct range *range = ks_container_of(await, struct range, await);
	struct ks_err err = range->values.fetch.err;

	ks_values_fini(&range->values);
	if (err.status == KS_OK && ks_range_result_finish(&range->result, &err) == KS_OK) {
		reply(range);
		return;
	}
	ks_range_result_fini(&range->result);
	/* A range of an old revision will find out by itself that it was compacted; one of the newest must not fail. */
	if (err.status == KS_OUT_OF_RANGE && ++range->rounds < ROUNDS)
		run(range);
	else
		ks_api_fail_err(range->call, &err);
}

static void run(struct range *range)
{
	struct ks_committer *committer = range->api->committer;
	struct ks_err err;
	uint64_t epoch;
	int missing;

	if (!ks_api_view_begin(range->api, &epoch)) {
		ks_api_fail(range->call, KS_E_NO_LEADER);
		return;
	}
	if (ks_store_range(range->api->store, &range->request, &range->result, &range->revision, &err) != KS_OK) {
		ks_api_fail_err(range->call, &err);
		return;
	}
	if (!ks_api_view_holds(range->api, epoch)) {
		ks_range_result_fini(&range->result);
		ks_api_fail(range->call, KS_E_NO_LEADER);
		return;
	}
	missing = ks_values_of_range(&range->values, &range->result);
	if (missing == 0) {
		reply(range);
		return;
	}
	if (missing < 0) {
		ks_range_result_fini(&range->result);
		ks_api_fail(range->call, KS_E_NO_MEMORY);
		return;
	}
	range->values.fetch.done = fetch_done;
	ks_await_init(&range->await, range->call, fetched);
	committer->ops->fetch(committer, &range->values.fetch);
	ks_await_go(&range->await);
}

static void proved(struct ks_await *await)
{
	struct range *range = ks_container_of(await, struct range, await);

	if (range->proof.err.status == KS_OK)
		run(range);
	else
		ks_api_fail_err(range->call, &range->proof.err);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct range, proof)->await);
}

void ks_api_range(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__RangeRequest *request = (const Etcdserverpb__RangeRequest *)message;
	struct range *range;
	struct ks_err err;

	(void)size;
	if (ks_validate_range(request, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	range = ks_arena_zalloc(ks_call_arena(call), sizeof(*range));
	if (!range) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	range->api = api;
	range->call = call;
	ks_convert_range(request, &range->request);
	if (request->serializable) {
		run(range);
		return;
	}
	range->proof.done = proof_done;
	ks_await_init(&range->await, call, proved);
	api->committer->ops->prove_read(api->committer, &range->proof);
	ks_await_go(&range->await);
}
