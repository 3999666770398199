/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV.Range (spec 1). The usual one never leaves its thread but for the proof that nothing newer exists; values outside
 * the cache are fetched before the answer is written. Permissions are looked at behind the proof, and must still be what they
 * were when it was read.
 */
#include "api/access.h"
#include "api/api.h"
#include "api/convert.h"
#include "api/encode.h"
#include "api/handlers.h"
#include "api/validate.h"

/* How often a range is read again because compaction trimmed a row between reading and fetching. */
#define ROUNDS 16
#define LONG_KEYS 1000

static void run(struct ks_read *read);

static void end(struct ks_read *read, const struct ks_err *err)
{
	read->err = *err;
	KS_OBSERVE_AT(RANGE_TIME, err->status == KS_OK, ks_metrics_now() - read->began_ns);
	read->done(read);
}

static void end_with(struct ks_read *read, enum ks_etcd_error error)
{
	struct ks_err err;

	ks_etcd_fail(&err, error);
	end(read, &err);
}

static void fetch_done(struct ks_fetch *fetch)
{
	ks_await_done(&ks_container_of(fetch, struct ks_read, values.fetch)->await);
}

static void fetched(struct ks_await *await)
{
	struct ks_read *read = ks_container_of(await, struct ks_read, await);
	struct ks_err err = read->values.fetch.err;

	ks_values_fini(&read->values);
	if (err.status == KS_OK && ks_range_result_finish(&read->result, &err) == KS_OK) {
		end(read, &err);
		return;
	}
	ks_range_result_fini(&read->result);
	/* A range of an old revision will find out by itself that it was compacted; one of the newest must not fail. */
	if (err.status == KS_OUT_OF_RANGE && ++read->rounds < ROUNDS)
		run(read);
	else
		end(read, &err);
}

/* KS_OK with a result, or neither. */
static enum ks_status read_once(struct ks_read *read, bool *holds, struct ks_err *err)
{
	struct ks_access access;
	struct ks_arena arena; /* not the call's: one that waits for a lock reads as often as others give up */
	enum ks_status status;

	ks_arena_init(&arena, 65536);
	status = ks_access_open(read->api, read->call, &arena, &access, err);
	*holds = true;
	if (status == KS_OK) {
		status = ks_access_check(&access, &read->request.interval, KS_PERM_READ, err);
		if (status == KS_OK)
			status = ks_store_range(read->api->store, &read->request, &read->result, &read->revision, err);
		*holds = ks_access_holds(read->api, &access);
		ks_access_close(&access);
	}
	ks_arena_fini(&arena);
	return status;
}

/* Users and roles were the same before and after the read. */
static enum ks_status read_judged(struct ks_read *read, struct ks_err *err)
{
	for (int i = 0; i < KS_ACCESS_ROUNDS; i++) {
		bool holds;
		enum ks_status status = read_once(read, &holds, err);

		if (holds)
			return status;
		if (status == KS_OK)
			ks_range_result_fini(&read->result);
	}
	return ks_etcd_fail(err, KS_E_AUTH_OLD_REVISION);
}

static void run(struct ks_read *read)
{
	struct ks_committer *committer = read->api->committer;
	struct ks_err err = {.status = KS_OK};
	uint64_t epoch;
	int missing;

	if (!ks_api_view_begin(read->api, &epoch)) {
		end_with(read, KS_E_NO_LEADER);
		return;
	}
	if (read_judged(read, &err) != KS_OK) {
		end(read, &err);
		return;
	}
	if (!ks_api_view_holds(read->api, epoch)) {
		ks_range_result_fini(&read->result);
		end_with(read, KS_E_NO_LEADER);
		return;
	}
	missing = ks_values_of_range(&read->values, &read->result);
	if (missing == 0) {
		end(read, &err);
		return;
	}
	if (missing < 0) {
		ks_range_result_fini(&read->result);
		end_with(read, KS_E_NO_MEMORY);
		return;
	}
	read->values.fetch.done = fetch_done;
	ks_await_init(&read->await, read->call, fetched);
	committer->ops->fetch(committer, &read->values.fetch);
	ks_await_go(&read->await);
}

static void proved(struct ks_await *await)
{
	struct ks_read *read = ks_container_of(await, struct ks_read, await);

	if (read->proof.err.status == KS_OK)
		run(read);
	else
		end(read, &read->proof.err);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_await_done_by(&ks_container_of(proof, struct ks_read, proof)->await, proof->alone);
}

void ks_read_go(struct ks_read *read)
{
	struct ks_committer *committer = read->api->committer;

	read->began_ns = ks_metrics_now();
	if (read->request.serializable) {
		run(read);
		return;
	}
	read->proof.done = proof_done;
	ks_await_init(&read->await, read->call, proved);
	read->await.brief = read->request.interval.end.size == 0;
	committer->ops->prove_read(committer, &read->proof);
	ks_await_go(&read->await);
}

static void reply(struct ks_read *read)
{
	struct ks_call *call = read->call;
	struct ks_out out;

	if (read->err.status != KS_OK) {
		ks_api_fail_err(call, &read->err);
		return;
	}
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_encode_range(read->api, &out, &read->result, read->revision);
	ks_range_result_fini(&read->result);
	ks_call_reply(call, &out);
}

bool ks_read_is_long(const struct ks_api *api, const struct ks_range_req *request)
{
	bool page = request->limit > 0 && request->limit <= LONG_KEYS && request->sort_order == KS_SORT_NONE;
	bool counted = request->count_only && request->revision == 0;

	return request->interval.end.size && (ks_range_is_filtered(request) || (!page && !counted)) &&
	       ks_store_keys_in(api->store, &request->interval) > LONG_KEYS;
}

static void moved(struct ks_task *task)
{
	ks_read_go(ks_container_of(task, struct ks_read, moved));
}

void ks_api_range(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__RangeRequest *request = (const Etcdserverpb__RangeRequest *)message;
	struct ks_read *read;
	struct ks_err err;

	(void)size;
	if (ks_validate_range(request, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	read = ks_arena_zalloc(ks_call_arena(call), sizeof(*read));
	if (!read) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	read->api = api;
	read->call = call;
	read->done = reply;
	read->moved.run = moved;
	ks_convert_range(request, &read->request);
	if (!ks_read_is_long(api, &read->request) || !ks_call_move(call, &read->moved))
		ks_read_go(read);
}
