/* SPDX-License-Identifier: Apache-2.0 */
/* The writes of the KV service, and Txn (spec 2, 5.1). Range is in range.c, RangeStream in range_stream.c. */
#include "api/access.h"
#include "api/api.h"
#include "api/convert.h"
#include "api/encode.h"
#include "api/handlers.h"
#include "api/validate.h"

/* ---- Put, DeleteRange ---- */

static void encode_put(struct ks_write *write, struct ks_out *out)
{
	ks_encode_put(write->api, out, &write->submit.result);
}

void ks_api_put(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__PutRequest *request = (const Etcdserverpb__PutRequest *)message;
	struct ks_write *write;
	struct ks_err err;

	if (ks_validate_put(request, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	write = ks_write_new(api, call, size, encode_put);
	if (!write)
		return;
	write->submit.request.kind = KS_REQ_PUT;
	ks_convert_put(request, &write->submit.request.put);
	ks_write_go(write);
}

static void encode_delete(struct ks_write *write, struct ks_out *out)
{
	ks_encode_delete(write->api, out, &write->submit.result);
}

void ks_api_delete_range(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__DeleteRangeRequest *request = (const Etcdserverpb__DeleteRangeRequest *)message;
	struct ks_write *write;
	struct ks_err err;

	if (ks_validate_delete(request, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	write = ks_write_new(api, call, size, encode_delete);
	if (!write)
		return;
	write->submit.request.kind = KS_REQ_DELETE;
	ks_convert_delete(request, &write->submit.request.del);
	ks_write_go(write);
}

/* ---- Txn that may write ---- */

static void encode_txn(struct ks_write *write, struct ks_out *out)
{
	ks_encode_txn(write->api, ks_call_arena(write->call), out, &write->submit.result.txn,
		      write->submit.result.revision);
}

static void submit_txn(struct ks_api *api, struct ks_call *call, const struct ks_txn_req *txn, size_t size)
{
	struct ks_write *write = ks_write_new(api, call, size, encode_txn);

	if (!write)
		return;
	write->submit.request.kind = KS_REQ_TXN;
	write->submit.request.txn = *txn;
	ks_write_go(write);
}

/* ---- Txn that only reads ---- */

/*
 * After this many rounds (values fetched for compares, or races lost against compaction) the transaction goes the way of
 * a write, where the writer fetches what it compares: that always ends.
 */
#define READ_TXN_ROUNDS 16

struct read_txn {
	struct ks_api *api;
	struct ks_call *call;
	struct ks_txn_req request;
	size_t size;
	bool serializable;
	int rounds;
	struct ks_task moved; /* to another thread, because it is long */
	struct ks_await await;
	struct ks_read_proof proof;
	struct ks_result result;
	struct ks_misses misses; /* values that compares needed, over all rounds */
	struct ks_values values;
};

static void read_txn_run(struct read_txn *read);

/* Both ways to end the call; nothing of 'read' may be touched afterwards. */
static void read_txn_fail(struct read_txn *read, const struct ks_err *err)
{
	ks_result_fini(&read->result);
	ks_misses_fini(&read->misses);
	ks_api_fail_err(read->call, err);
}

static void read_txn_reply(struct read_txn *read)
{
	struct ks_call *call = read->call;
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_encode_txn(read->api, ks_call_arena(call), &out, &read->result.txn, read->result.revision);
	ks_result_fini(&read->result);
	ks_misses_fini(&read->misses);
	ks_call_reply(call, &out);
}

static void read_txn_fetch_done(struct ks_fetch *fetch)
{
	ks_await_done(&ks_container_of(fetch, struct read_txn, values.fetch)->await);
}

static void read_txn_fetch(struct read_txn *read, void (*then)(struct ks_await *await))
{
	struct ks_committer *committer = read->api->committer;

	read->values.fetch.done = read_txn_fetch_done;
	ks_await_init(&read->await, read->call, then);
	committer->ops->fetch(committer, &read->values.fetch);
	ks_await_go(&read->await);
}

/* The result's own values have come. One that was trimmed meanwhile means that the state has moved on: read again. */
static void read_txn_fetched(struct ks_await *await)
{
	struct read_txn *read = ks_container_of(await, struct read_txn, await);
	struct ks_err err = read->values.fetch.err;

	ks_values_fini(&read->values);
	if (err.status == KS_OUT_OF_RANGE) {
		ks_result_fini(&read->result);
		read_txn_run(read);
	} else if (err.status != KS_OK || ks_txn_result_finish(&read->result.txn, &err) != KS_OK) {
		read_txn_fail(read, &err);
	} else {
		read_txn_reply(read);
	}
}

/* Values for compares have come, or one is gone with its record: compare again. */
static void read_txn_missed(struct ks_await *await)
{
	struct read_txn *read = ks_container_of(await, struct read_txn, await);
	const struct ks_err *err = &read->values.fetch.err;

	ks_values_fini(&read->values);
	if (err->status == KS_OUT_OF_RANGE)
		ks_misses_fini(&read->misses);
	else if (err->status != KS_OK) {
		read_txn_fail(read, err);
		return;
	}
	read_txn_run(read);
}

static enum ks_status read_txn_once(struct read_txn *read, bool *holds, struct ks_err *err)
{
	struct ks_access access;
	enum ks_status status = ks_access_open(read->api, read->call, ks_call_arena(read->call), &access, err);

	*holds = true;
	if (status != KS_OK)
		return status;
	status = ks_access_check_txn(&access, &read->request, err);
	if (status == KS_OK)
		status = ks_store_read_txn(read->api->store, &read->request, &read->result.txn, &read->result.revision,
					   &read->misses, err);
	*holds = ks_access_holds(read->api, &access);
	ks_access_close(&access);
	return status;
}

/* Users and roles were the same before and after the read. */
static enum ks_status read_txn_judged(struct read_txn *read, struct ks_err *err)
{
	for (int i = 0; i < KS_ACCESS_ROUNDS; i++) {
		enum ks_status status;
		bool holds;

		read->result = (struct ks_result){.kind = KS_REQ_TXN};
		status = read_txn_once(read, &holds, err);
		if (holds)
			return status;
		ks_result_fini(&read->result);
	}
	return ks_etcd_fail(err, KS_E_AUTH_OLD_REVISION);
}

static void read_txn_run(struct read_txn *read)
{
	struct ks_err err = {.status = KS_OK};
	enum ks_status status;
	uint64_t epoch;
	int missing;

	if (read->rounds++ == READ_TXN_ROUNDS) {
		ks_misses_fini(&read->misses);
		submit_txn(read->api, read->call, &read->request, read->size);
		return;
	}
	if (!ks_api_view_begin(read->api, &epoch)) {
		ks_etcd_fail(&err, KS_E_NO_LEADER);
		read_txn_fail(read, &err);
		return;
	}
	status = read_txn_judged(read, &err);
	if (!ks_api_view_holds(read->api, epoch))
		status = ks_etcd_fail(&err, KS_E_NO_LEADER);
	if (status == KS_ABORTED)
		missing = ks_values_of_misses(&read->values, &read->misses);
	else if (status == KS_OK)
		missing = ks_values_of_result(&read->values, &read->result);
	else
		missing = -1;
	if (missing > 0) {
		read_txn_fetch(read, status == KS_OK ? read_txn_fetched : read_txn_missed);
	} else if (missing == 0 && status == KS_OK) {
		read_txn_reply(read);
	} else {
		if (status == KS_OK || status == KS_ABORTED)
			ks_etcd_fail(&err, KS_E_NO_MEMORY);
		read_txn_fail(read, &err);
	}
}

static void read_txn_proved(struct ks_await *await)
{
	struct read_txn *read = ks_container_of(await, struct read_txn, await);

	if (read->proof.err.status == KS_OK)
		read_txn_run(read);
	else
		ks_api_fail_err(read->call, &read->proof.err);
}

static void read_txn_proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct read_txn, proof)->await);
}

static void read_txn_go(struct read_txn *read)
{
	struct ks_committer *committer = read->api->committer;

	if (read->serializable) {
		read_txn_run(read);
		return;
	}
	read->proof.done = read_txn_proof_done;
	ks_await_init(&read->await, read->call, read_txn_proved);
	committer->ops->prove_read(committer, &read->proof);
	ks_await_go(&read->await);
}

static void read_txn_moved(struct ks_task *task)
{
	read_txn_go(ks_container_of(task, struct read_txn, moved));
}

static bool txn_is_long(const struct ks_api *api, const struct ks_txn_req *txn);

static bool any_is_long(const struct ks_api *api, const struct ks_op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (ops[i].kind == KS_OP_RANGE && ks_read_is_long(api, &ops[i].range))
			return true;
		if (ops[i].kind == KS_OP_TXN && txn_is_long(api, ops[i].txn))
			return true;
	}
	return false;
}

static bool txn_is_long(const struct ks_api *api, const struct ks_txn_req *txn)
{
	return any_is_long(api, txn->success, txn->success_count) || any_is_long(api, txn->failure, txn->failure_count);
}

static void start_read_txn(struct ks_api *api, struct ks_call *call, const struct ks_txn_req *txn, size_t size,
			   bool serializable)
{
	struct read_txn *read = ks_arena_zalloc(ks_call_arena(call), sizeof(*read));

	if (!read) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	read->api = api;
	read->call = call;
	read->request = *txn;
	read->size = size;
	read->serializable = serializable;
	read->moved.run = read_txn_moved;
	if (!txn_is_long(api, txn) || !ks_call_move(call, &read->moved))
		read_txn_go(read);
}

void ks_api_txn(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__TxnRequest *request = (const Etcdserverpb__TxnRequest *)message;
	struct ks_txn_req txn;
	struct ks_err err;
	bool serializable;

	if (ks_validate_txn(request, api->max_txn_ops, &err) != KS_OK)
		ks_api_fail_err(call, &err);
	else if (!ks_convert_txn(ks_call_arena(call), request, &txn))
		ks_api_fail(call, KS_E_NO_MEMORY);
	else if (ks_txn_is_read_only(request, &serializable))
		start_read_txn(api, call, &txn, size, serializable);
	else
		submit_txn(api, call, &txn, size);
}

/* ---- Compact ---- */

struct compaction {
	struct ks_api *api;
	struct ks_call *call;
	bool physical;
	int renewals;
	struct ks_await await;
	struct ks_submit submit;
	struct ks_chore chore;
};

static void compaction_end(struct compaction *compaction)
{
	int64_t revision = compaction->submit.result.revision;

	if (compaction->submit.err.status != KS_OK) {
		ks_api_fail_err(compaction->call, &compaction->submit.err);
		return;
	}
	ks_result_fini(&compaction->submit.result);
	ks_api_reply_header(compaction->api, compaction->call, revision);
}

static void compaction_submit(struct compaction *compaction);

static void compaction_chore_done(struct ks_chore *chore)
{
	ks_await_done(&ks_container_of(chore, struct compaction, chore)->await);
}

static void compaction_swept(struct ks_await *await)
{
	struct compaction *compaction = ks_container_of(await, struct compaction, await);

	if (compaction->chore.err.status == KS_OK)
		compaction_end(compaction);
	else
		ks_api_fail_err(compaction->call, &compaction->chore.err);
}

/* With 'physical' the call waits for the sweep, also when the revision was compacted before (spec 5.1). */
static void compaction_committed(struct ks_await *await)
{
	struct compaction *compaction = ks_container_of(await, struct compaction, await);
	struct ks_committer *committer = compaction->api->committer;
	const struct ks_err *err = &compaction->submit.err;
	bool compacted = err->status == KS_OUT_OF_RANGE && strcmp(err->text, KS_TEXT_COMPACTED) == 0;

	if (ks_api_caller_is_stale(&compaction->submit.request.caller, err) &&
	    compaction->renewals++ < KS_ACCESS_ROUNDS) {
		compaction_submit(compaction);
		return;
	}
	if (!compaction->physical || (err->status != KS_OK && !compacted)) {
		compaction_end(compaction);
		return;
	}
	compaction->chore.kind = KS_CHORE_COMPACT_PHYSICAL;
	compaction->chore.done = compaction_chore_done;
	ks_await_init(&compaction->await, compaction->call, compaction_swept);
	committer->ops->chore(committer, &compaction->chore);
	ks_await_go(&compaction->await);
}

static void compaction_submit_done(struct ks_submit *submit)
{
	ks_await_done(&ks_container_of(submit, struct compaction, submit)->await);
}

static void compaction_submit(struct compaction *compaction)
{
	struct ks_committer *committer = compaction->api->committer;
	struct ks_err err;

	if (ks_api_caller(compaction->api, compaction->call, ks_call_arena(compaction->call),
			  &compaction->submit.request.caller, &err) != KS_OK) {
		ks_api_fail_err(compaction->call, &err);
		return;
	}
	compaction->submit.err = (struct ks_err){.status = KS_OK};
	ks_await_init(&compaction->await, compaction->call, compaction_committed);
	committer->ops->submit(committer, &compaction->submit);
	ks_await_go(&compaction->await);
}

void ks_api_compact(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Etcdserverpb__CompactionRequest *request = (const Etcdserverpb__CompactionRequest *)message;
	struct compaction *compaction = ks_arena_zalloc(ks_call_arena(call), sizeof(*compaction));

	if (!compaction) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	compaction->api = api;
	compaction->call = call;
	compaction->physical = request->physical;
	compaction->submit.request.kind = KS_REQ_COMPACT;
	compaction->submit.request.compact_revision = request->revision;
	compaction->submit.bytes = size;
	compaction->submit.done = compaction_submit_done;
	compaction_submit(compaction);
}
