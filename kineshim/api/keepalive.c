/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lease.LeaseKeepAlive (spec 4.3): a stream of ids in, one answer for each out, in their order. The renewals run side by side in
 * the committer; an answer waits in the queue until all before it are sent.
 */
#include <stdlib.h>

#include "api/access.h"
#include "api/api.h"
#include "api/handlers.h"
#include "proto/rpc.pb-c.h"

/* Renewals of one stream on their way. A client that is so far ahead of the database does not listen. */
#define MAX_RENEWALS (1u << 18)

struct renewals {
	struct ks_guard guard; /* its lock guards 'done' of each renewal */
	struct ks_api *api;
	struct ks_api_stream stream;
	struct ks_list queue;
	size_t count;
	bool half_closed, ended;
};

struct renewal {
	struct ks_list link;
	struct renewals *renewals;
	struct ks_keepalive keepalive;
	int64_t revision; /* before the renewal (spec 0.3) */
	bool done;
};

static void end(struct renewals *renewals, enum ks_status status, const char *text)
{
	if (renewals->ended)
		return;
	renewals->ended = true;
	ks_stream_finish(renewals->guard.call, status, text);
}

static void fail(struct renewals *renewals, enum ks_etcd_error error)
{
	end(renewals, ks_etcd_status(error), ks_etcd_text(error));
}

static void free_renewals(struct ks_guard *guard)
{
	struct renewals *renewals = ks_container_of(guard, struct renewals, guard);
	struct ks_list *item;

	while ((item = ks_list_pop(&renewals->queue)))
		free(ks_container_of(item, struct renewal, link));
	free(renewals);
}

static void answer(struct renewals *renewals, const struct renewal *renewal)
{
	struct ks_out out;

	ks_out_init(&out, 1024);
	ks_api_write_header(renewals->api, &out.buf, 1, renewal->revision);
	ks_wire_uint(&out.buf, 2, (uint64_t)renewal->keepalive.id);
	ks_wire_uint(&out.buf, 3, (uint64_t)renewal->keepalive.ttl);
	if (ks_out_failed(&out)) {
		ks_out_fini(&out);
		fail(renewals, KS_E_NO_MEMORY);
		return;
	}
	ks_stream_send(renewals->guard.call, &out);
}

/* The oldest renewal, when it is done. */
static struct renewal *pop_done(struct renewals *renewals)
{
	struct renewal *renewal = NULL;

	ks_mutex_lock(&renewals->guard.lock);
	if (!ks_list_empty(&renewals->queue)) {
		renewal = ks_container_of(renewals->queue.next, struct renewal, link);
		if (renewal->done)
			ks_list_remove(&renewal->link);
		else
			renewal = NULL;
	}
	ks_mutex_unlock(&renewals->guard.lock);
	return renewal;
}

static void run(struct ks_guard *guard)
{
	struct renewals *renewals = ks_container_of(guard, struct renewals, guard);
	struct renewal *renewal;

	while ((renewal = pop_done(renewals))) {
		renewals->count--;
		if (renewal->keepalive.err.status != KS_OK)
			end(renewals, renewal->keepalive.err.status, renewal->keepalive.err.text);
		else if (!renewals->ended)
			answer(renewals, renewal);
		free(renewal);
	}
	if (renewals->half_closed && renewals->count == 0)
		end(renewals, KS_OK, "");
}

static void keepalive_done(struct ks_keepalive *keepalive)
{
	struct renewal *renewal = ks_container_of(keepalive, struct renewal, keepalive);
	struct renewals *renewals = renewal->renewals;

	ks_mutex_lock(&renewals->guard.lock);
	renewal->done = true;
	ks_mutex_unlock(&renewals->guard.lock);
	ks_guard_done(&renewals->guard);
}

static void renew(struct renewals *renewals, int64_t id, struct ks_arena *arena)
{
	struct ks_committer *committer = renewals->api->committer;
	struct renewal *renewal;
	struct ks_err err;

	if (ks_access_for_lease(renewals->api, renewals->guard.call, arena, id, KS_PERM_WRITE, &err) != KS_OK) {
		end(renewals, err.status, err.text);
		return;
	}
	if (renewals->count == MAX_RENEWALS) {
		fail(renewals, KS_E_TOO_MANY_REQUESTS);
		return;
	}
	renewal = calloc(1, sizeof(*renewal));
	if (!renewal) {
		fail(renewals, KS_E_NO_MEMORY);
		return;
	}
	renewal->renewals = renewals;
	renewal->keepalive.id = id;
	renewal->keepalive.done = keepalive_done;
	renewal->revision = ks_store_committed(renewals->api->store).revision;
	renewals->count++;
	ks_guard_begin(&renewals->guard);
	ks_mutex_lock(&renewals->guard.lock);
	ks_list_append(&renewals->queue, &renewal->link);
	ks_mutex_unlock(&renewals->guard.lock);
	committer->ops->keepalive(committer, &renewal->keepalive);
}

static void stream_message(struct ks_call *call, struct ks_slice message)
{
	struct renewals *renewals = ks_call_context(call);
	Etcdserverpb__LeaseKeepAliveRequest *request;
	struct ks_arena arena;
	struct ks_err err;

	if (!renewals || renewals->ended)
		return;
	ks_arena_init(&arena, 4 * message.size + 65536);
	request = (Etcdserverpb__LeaseKeepAliveRequest *)ks_api_unpack(
		&etcdserverpb__lease_keep_alive_request__descriptor, &arena, message, &err);
	if (request)
		renew(renewals, request->id, &arena);
	else
		end(renewals, err.status, err.text);
	ks_arena_fini(&arena);
}

static void stream_open(struct ks_call *call)
{
	struct ks_api *api = ks_api_of(call);
	struct renewals *renewals = calloc(1, sizeof(*renewals));

	ks_call_set_context(call, renewals);
	if (!renewals) {
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	renewals->api = api;
	ks_list_init(&renewals->queue);
	ks_guard_init(&renewals->guard, call, run, free_renewals);
	if (!ks_api_stream_open(api, call, &renewals->stream))
		renewals->ended = true;
}

/* Unlike a watch, this stream ends with its last request (spec 4.3). */
static void stream_half_closed(struct ks_call *call)
{
	struct renewals *renewals = ks_call_context(call);

	if (!renewals)
		return;
	renewals->half_closed = true;
	if (renewals->count == 0)
		end(renewals, KS_OK, "");
}

static void stream_closed(struct ks_call *call)
{
	struct renewals *renewals = ks_call_context(call);

	if (!renewals)
		return;
	renewals->ended = true;
	ks_api_stream_closed(renewals->api, &renewals->stream);
	ks_guard_close(&renewals->guard);
}

const struct ks_stream_ops ks_api_lease_keepalive_ops = {
	.open = stream_open,
	.message = stream_message,
	.half_closed = stream_half_closed,
	.writable = ks_api_ignore,
	.closed = stream_closed,
	.rests = true,
};
