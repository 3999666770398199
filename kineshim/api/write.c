/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of a write through the API: the caller, size check, submit, fetch what the response shows of the past, answer (api.h).
 */
#include "api/access.h"
#include "api/api.h"

#define BRIEF_OPS 8 /* of a transaction whose answer may be written on the committer's thread */

/*
 * Spec 2.9: etcd measures the request inside its own envelope: a tag, the length, and a header with the request's id.
 */
bool ks_write_fits(const struct ks_api *api, size_t size)
{
	size_t envelope = ks_wire_nested_size(4, size) - size + 2 + 1 + 10;

	return size + envelope <= api->max_request_bytes;
}

static void submit_done(struct ks_submit *submit)
{
	ks_await_done_by(&ks_container_of(submit, struct ks_write, submit)->await, submit->alone);
}

static void fetch_done(struct ks_fetch *fetch)
{
	ks_await_done(&ks_container_of(fetch, struct ks_write, values.fetch)->await);
}

static void reply(struct ks_write *write)
{
	struct ks_call *call = write->call;
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	write->encode(write, &out);
	ks_result_fini(&write->submit.result);
	ks_call_reply(call, &out);
}

/* submit.err says how it ended. */
static void end(struct ks_write *write)
{
	if (write->done)
		write->done(write);
	else if (write->submit.err.status == KS_OK)
		reply(write);
	else
		ks_api_fail_err(write->call, &write->submit.err);
}

static void end_without_result(struct ks_write *write, enum ks_etcd_error error)
{
	ks_result_fini(&write->submit.result);
	ks_etcd_fail(&write->submit.err, error);
	end(write);
}

static void fetched(struct ks_await *await)
{
	struct ks_write *write = ks_container_of(await, struct ks_write, await);

	ks_values_fini(&write->values);
	/*
	 * The write stands, only its past cannot be shown: the database went away, or a compaction was faster. An answer
	 * without prev_kv would say that there was none, so it is the error of an unknown outcome.
	 */
	if (write->values.fetch.err.status == KS_OK)
		end(write);
	else
		end_without_result(write, KS_E_TIMEOUT);
}

static void committed(struct ks_await *await)
{
	struct ks_write *write = ks_container_of(await, struct ks_write, await);
	struct ks_committer *committer = write->api->committer;
	int missing;

	if (ks_api_caller_is_stale(&write->submit.request.caller, &write->submit.err) &&
	    write->renewals++ < KS_ACCESS_ROUNDS) {
		write->has_caller = false;
		ks_write_go(write);
		return;
	}
	if (write->submit.err.status != KS_OK) {
		if (!write->failed || !write->failed(write))
			end(write);
		return;
	}
	missing = ks_values_of_result(&write->values, &write->submit.result);
	if (missing == 0) {
		end(write);
		return;
	}
	if (missing < 0) {
		end_without_result(write, KS_E_NO_MEMORY);
		return;
	}
	write->values.fetch.done = fetch_done;
	ks_await_init(&write->await, write->call, fetched);
	committer->ops->fetch(committer, &write->values.fetch);
	ks_await_go(&write->await);
}

static bool op_is_brief(const struct ks_op *op)
{
	switch (op->kind) {
	case KS_OP_RANGE:
		return op->range.interval.end.size == 0;
	case KS_OP_PUT:
		return true;
	case KS_OP_DELETE:
		return !op->del.prev_kv || op->del.interval.end.size == 0;
	case KS_OP_TXN:
		return false;
	}
	return false;
}

static bool ops_are_brief(const struct ks_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!op_is_brief(&ops[i]))
			return false;
	return count <= BRIEF_OPS;
}

/* Is the answer soon written, whatever it will be? */
static bool answer_is_brief(const struct ks_request *request)
{
	switch (request->kind) {
	case KS_REQ_PUT:
		return true;
	case KS_REQ_DELETE:
		return op_is_brief(&(struct ks_op){.kind = KS_OP_DELETE, .del = request->del});
	case KS_REQ_TXN:
		return ops_are_brief(request->txn.success, request->txn.success_count) &&
		       ops_are_brief(request->txn.failure, request->txn.failure_count);
	default:
		return false;
	}
}

struct ks_write *ks_write_new(struct ks_api *api, struct ks_call *call, size_t size,
			      void (*encode)(struct ks_write *write, struct ks_out *out))
{
	struct ks_write *write = ks_arena_zalloc(ks_call_arena(call), sizeof(*write));
	struct ks_caller caller;
	struct ks_err err;

	if (!write) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return NULL;
	}
	if (ks_api_caller(api, call, ks_call_arena(call), &caller, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return NULL;
	}
	if (!ks_write_fits(api, size)) {
		ks_api_fail(call, KS_E_REQUEST_TOO_LARGE);
		return NULL;
	}
	write->submit.request.caller = caller;
	write->has_caller = true;
	write->api = api;
	write->call = call;
	write->encode = encode;
	write->submit.bytes = size;
	return write;
}

void ks_write_go(struct ks_write *write)
{
	struct ks_committer *committer = write->api->committer;

	write->submit.err = (struct ks_err){.status = KS_OK};
	if (!write->has_caller && ks_api_caller(write->api, write->call, ks_call_arena(write->call),
						&write->submit.request.caller, &write->submit.err) != KS_OK) {
		end(write);
		return;
	}
	write->has_caller = true;
	write->submit.alone = false;
	write->submit.done = submit_done;
	ks_await_init(&write->await, write->call, committed);
	write->await.brief = answer_is_brief(&write->submit.request);
	committer->ops->submit(committer, &write->submit);
	ks_await_go(&write->await);
}
