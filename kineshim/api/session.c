/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of Lock and Election calls, see session.h. */
#include "api/session.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/panic.h"

/* Of a lease that a call has granted for itself. */
#define LEASE_TTL_S 60
/* Attempts to find a lease id that is free. */
#define GRANT_ROUNDS 4
/* Reads of the history in one turn, and how much of it one read looks at. */
#define READS 16
#define READ_SCANNED 16384

static void wait_run(struct ks_task *task);
static void end_wait(struct ks_session *session);

/* ---- ends ---- */

static void set_cancelled(struct ks_session *session)
{
	if (ks_rpc_stopping(ks_call_rpc(session->call)))
		ks_etcd_fail(&session->err, KS_E_STOPPED);
	else
		ks_fail(&session->err, KS_CANCELLED, "context canceled");
}

static void cancelled(struct ks_task *task)
{
	struct ks_session *session = ks_container_of(task, struct ks_session, cancel);

	session->cancelled = true;
	/* Every other step ends by itself. */
	if (session->waiting && !session->looking) {
		set_cancelled(session);
		end_wait(session);
	}
}

void *ks_session_new(struct ks_api *api, struct ks_call *call, size_t size, bool patient)
{
	struct ks_session *session = ks_arena_zalloc(ks_call_arena(call), size);

	if (!session) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return NULL;
	}
	session->api = api;
	session->call = call;
	session->cancel.run = cancelled;
	session->task.run = wait_run;
	if (patient && !ks_call_on_cancel(call, &session->cancel)) {
		ks_api_fail(call, KS_E_STOPPED);
		return NULL;
	}
	return session;
}

/*
 * etcd's services call a client that lives in the server, whose errors have lost their codes: whatever is etcd's own comes out
 * as UNKNOWN. A cancelled call and a server that ends or is short of memory are not the inner call's.
 */
static enum ks_status outer_status(const struct ks_session *session, const struct ks_err *err)
{
	if (session->cancelled || strncmp(err->text, "etcdserver: ", strlen("etcdserver: ")) != 0)
		return err->status;
	return KS_UNKNOWN;
}

void ks_session_fail(struct ks_session *session)
{
	ks_call_fail(session->call, outer_status(session, &session->err), session->err.text);
}

void ks_session_fail_text(struct ks_session *session, const char *text)
{
	ks_call_fail(session->call, KS_UNKNOWN, text);
}

void ks_session_reply(struct ks_session *session, struct ks_out *out)
{
	if (ks_out_failed(out)) {
		ks_out_fini(out);
		ks_api_fail(session->call, KS_E_NO_MEMORY);
		return;
	}
	ks_call_reply(session->call, out);
}

/* ---- names ---- */

bool ks_session_prefix(struct ks_arena *arena, struct ks_slice name, struct ks_interval *prefix)
{
	uint8_t *key = ks_arena_alloc(arena, name.size + 1);
	uint8_t *end = ks_arena_alloc(arena, name.size + 1);

	if (!key || !end)
		return false;
	if (name.size) {
		memcpy(key, name.data, name.size);
		memcpy(end, name.data, name.size);
	}
	key[name.size] = '/';
	end[name.size] = '/' + 1;
	*prefix = (struct ks_interval){.key = ks_slice_of(key, name.size + 1), .end = ks_slice_of(end, name.size + 1)};
	return true;
}

bool ks_session_name(struct ks_session *session, struct ks_slice name)
{
	struct ks_arena *arena = ks_call_arena(session->call);
	uint64_t number = session->lease < 0 ? -(uint64_t)session->lease : (uint64_t)session->lease;
	char hex[24];
	size_t hex_size;
	uint8_t *key;

	hex_size = (size_t)snprintf(hex, sizeof(hex), "%s%" PRIx64, session->lease < 0 ? "-" : "", number);
	key = ks_arena_alloc(arena, name.size + 1 + hex_size);
	if (!key || !ks_session_prefix(arena, name, &session->prefix)) {
		ks_etcd_fail(&session->err, KS_E_NO_MEMORY);
		return false;
	}
	memcpy(key, session->prefix.key.data, name.size + 1);
	memcpy(key + name.size + 1, hex, hex_size);
	session->key = ks_slice_of(key, name.size + 1 + hex_size);
	return true;
}

struct ks_range_req ks_session_oldest(struct ks_interval interval, bool keys_only)
{
	return (struct ks_range_req){
		.interval = interval,
		.limit = 1,
		.sort_order = KS_SORT_ASCEND,
		.sort_target = KS_SORT_CREATE,
		.keys_only = keys_only,
	};
}

int64_t ks_session_created(const struct ks_range_result *result)
{
	struct ks_kv kv;

	if (result->kv_count == 0)
		return 0;
	KS_ASSERT(result->kvs[0].encoded && ks_kv_decode(ks_bytes_slice(result->kvs[0].encoded), &kv));
	return kv.create_revision;
}

/* ---- writes ---- */

static size_t bytes_of_op(const struct ks_op *op)
{
	size_t size = 0;

	switch (op->kind) {
	case KS_OP_RANGE:
		size = ks_wire_bytes_size(1, op->range.interval.key.size) +
		       ks_wire_bytes_size(2, op->range.interval.end.size) + 6;
		break;
	case KS_OP_PUT:
		size = ks_wire_bytes_size(1, op->put.key.size) + ks_wire_bytes_size(2, op->put.value.size) +
		       ks_wire_uint_size(3, (uint64_t)op->put.lease);
		break;
	case KS_OP_DELETE:
		size = ks_wire_bytes_size(1, op->del.interval.key.size);
		break;
	case KS_OP_TXN:
		break;
	}
	return ks_wire_nested_size(2, ks_wire_nested_size(1, size));
}

/* What the request would take on the wire, within a few bytes: etcd refuses large ones (spec 2.9). */
static size_t bytes_of(const struct ks_request *request)
{
	size_t size = 32;

	if (request->kind == KS_REQ_DELETE)
		return size + request->del.interval.key.size;
	if (request->kind != KS_REQ_TXN)
		return size;
	for (size_t i = 0; i < request->txn.compare_count; i++)
		size += request->txn.compares[i].interval.key.size;
	for (size_t i = 0; i < request->txn.success_count; i++)
		size += bytes_of_op(&request->txn.success[i]);
	for (size_t i = 0; i < request->txn.failure_count; i++)
		size += bytes_of_op(&request->txn.failure[i]);
	return size;
}

static void submitted(struct ks_write *write)
{
	struct ks_session *session = ks_container_of(write, struct ks_session, write);

	session->err = write->submit.err;
	session->then(session);
}

static void submit(struct ks_session *session, bool internal, ks_session_fn *then)
{
	struct ks_write *write = &session->write;

	write->submit.request.caller = (struct ks_caller){.internal = internal};
	*write = (struct ks_write){
		.submit = {.request = write->submit.request, .bytes = bytes_of(&write->submit.request)},
		.done = submitted,
		.has_caller = internal,
		.api = session->api,
		.call = session->call,
	};
	session->then = then;
	if (ks_write_fits(session->api, write->submit.bytes)) {
		ks_write_go(write);
		return;
	}
	ks_etcd_fail(&session->err, KS_E_REQUEST_TOO_LARGE);
	then(session);
}

void ks_session_submit(struct ks_session *session, ks_session_fn *then)
{
	submit(session, false, then);
}

static void gave_up(struct ks_session *session)
{
	if (session->err.status == KS_OK)
		ks_result_fini(&session->write.submit.result);
	session->err = session->cause;
	ks_session_fail(session);
}

void ks_session_give_up(struct ks_session *session)
{
	if (session->err.status == KS_OK)
		set_cancelled(session);
	session->cause = session->err;
	/*
	 * Not as the caller, whose token may have run out while it waited, or who may do less than before: the key was put
	 * with their rights, and would stand in the way of others for as long as its lease lives.
	 */
	submit(session, true, gave_up);
}

static void grant(struct ks_session *session);

static void granted(struct ks_session *session)
{
	if (session->err.status == KS_FAILED_PRECONDITION && ++session->grants < GRANT_ROUNDS) {
		grant(session); /* somebody else has the id that we chose */
		return;
	}
	if (session->err.status == KS_OK) {
		session->lease = session->write.submit.request.grant.id;
		ks_result_fini(&session->write.submit.result);
		if (session->cancelled)
			set_cancelled(session);
	}
	session->opened(session);
}

static void grant(struct ks_session *session)
{
	struct ks_api *api = session->api;

	session->write.submit.request = (struct ks_request){
		.kind = KS_REQ_LEASE_GRANT,
		.grant = {.id = ks_api_choose_lease_id(api),
			  .ttl = api->min_lease_ttl_s > LEASE_TTL_S ? api->min_lease_ttl_s : LEASE_TTL_S},
	};
	ks_session_submit(session, granted);
}

void ks_session_open(struct ks_session *session, int64_t lease, ks_session_fn *then)
{
	session->lease = lease;
	session->opened = then;
	if (lease)
		then(session);
	else
		grant(session);
}

/* ---- ranges ---- */

static void ranged(struct ks_read *read)
{
	struct ks_session *session = ks_container_of(read, struct ks_session, read);

	session->err = read->err;
	if (session->err.status == KS_OK && session->cancelled) {
		ks_range_result_fini(&read->result);
		set_cancelled(session);
	}
	session->then(session);
}

static void start_range(struct ks_session *session, const struct ks_range_req *request,
			void (*done)(struct ks_read *read))
{
	session->read = (struct ks_read){
		.request = *request,
		.done = done,
		.api = session->api,
		.call = session->call,
	};
	ks_read_go(&session->read);
}

void ks_session_range(struct ks_session *session, const struct ks_range_req *request, ks_session_fn *then)
{
	session->then = then;
	start_range(session, request, ranged);
}

/* ---- waiting ---- */

/*
 * Only the newest of the older keys is watched, so that one deletion wakes one waiter. When it is gone the next one is looked
 * for, in what is committed here. That needs no proof: whoever is older was there at our own transaction, which this
 * instance has applied, so what an old view can show too much is a key that will be seen to go.
 */

static void look(struct ks_session *session);

/* On the writer thread, under the hub's lock. The watcher is then pending, so this does not come again before it was read. */
static void wake(struct ks_watcher *watcher)
{
	struct ks_session *session = ks_container_of(watcher, struct ks_session, watcher);

	ks_call_post(session->call, &session->task);
}

static void stop_watching(struct ks_session *session)
{
	if (session->watching)
		ks_watch_remove(ks_store_hub(session->api->store), &session->watcher); /* no wake comes any more */
	(void)ks_call_unpost(session->call, &session->task);
	session->watching = false;
	ks_bytes_unref(session->older);
	session->older = NULL;
}

/* With the outcome in err. */
static void end_wait(struct ks_session *session)
{
	stop_watching(session);
	session->waiting = false;
	session->then(session);
}

static void fail_wait(struct ks_session *session, enum ks_etcd_error error)
{
	ks_etcd_fail(&session->err, error);
	end_wait(session);
}

static void count_event(void *ctx, const struct ks_event *event)
{
	(void)ctx;
	(void)event;
}

/* Reads the history on from where the watcher is, until it has the deletion or is idle. */
static void read_on(struct ks_session *session)
{
	struct ks_watch_hub *hub = ks_store_hub(session->api->store);

	for (int i = 0; i < READS; i++) {
		struct ks_watch_read read = {
			.max_revisions = 1,
			.max_events = 1,
			.max_bytes = SIZE_MAX,
			.max_scanned = READ_SCANNED,
			.visit = count_event,
		};

		switch (ks_watch_read(hub, &session->watcher, &read)) {
		case KS_WATCH_READ:
			if (read.events == 0 && read.caught_up)
				return;
			if (read.events == 0)
				continue;
			break;
		case KS_WATCH_COMPACTED: /* whether the key is there is all that matters */
			break;
		case KS_WATCH_RESET:
			fail_wait(session, KS_E_NO_LEADER);
			return;
		}
		stop_watching(session);
		break;
	}
	ks_call_post(session->call, &session->task);
}

static void wait_run(struct ks_task *task)
{
	struct ks_session *session = ks_container_of(task, struct ks_session, task);

	if (session->watching)
		read_on(session);
	else
		look(session);
}

static void watch(struct ks_session *session)
{
	struct ks_watch_hub *hub = ks_store_hub(session->api->store);
	int64_t read_at = session->read.revision, current;
	struct ks_kv kv;

	KS_ASSERT(ks_kv_decode(ks_bytes_slice(session->older), &kv));
	session->watcher = (struct ks_watcher){.interval.key = kv.key, .no_put = true, .wake = wake};
	if (ks_watch_add(hub, &session->watcher, read_at + 1, &current) != KS_OK) {
		fail_wait(session, KS_E_NO_MEMORY);
		return;
	}
	session->watching = true;
	/* The log has lost its end, and what was read is of no history any more: its revisions may be far in the future. */
	if (ks_watch_hub_epoch(hub) != session->epoch)
		fail_wait(session, KS_E_NO_LEADER);
	else if (current > read_at)
		read_on(session);
}

static void looked(struct ks_read *read)
{
	struct ks_session *session = ks_container_of(read, struct ks_session, read);

	session->looking = false;
	session->err = read->err;
	if (session->err.status == KS_OK) {
		if (read->result.kv_count)
			session->older = ks_bytes_ref(read->result.kvs[0].encoded);
		ks_range_result_fini(&read->result);
	}
	if (session->cancelled)
		set_cancelled(session);
	if (session->older && session->err.status == KS_OK)
		watch(session);
	else
		end_wait(session);
}

static void look(struct ks_session *session)
{
	struct ks_range_req request = ks_session_oldest(session->prefix, true);

	request.sort_order = KS_SORT_DESCEND;
	request.max_create_revision = session->revision - 1;
	request.serializable = true;
	session->epoch = ks_watch_hub_epoch(ks_store_hub(session->api->store));
	session->looking = true;
	start_range(session, &request, looked);
}

void ks_session_wait(struct ks_session *session, ks_session_fn *then)
{
	session->then = then;
	session->waiting = true;
	look(session);
}
