/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Election.Observe (spec 8): a stream of who leads, and of what leaders have to say.
 *
 *	message ─► PROVING ─► look ─── a leader ──► (FETCHING) ─► send ─► FOLLOWING its key ── put ────► (FETCHING) ─► send
 *	              ▲         │                                   ▲        │    ▲                                     │
 *	              │         └─ none ─► EXPECTING the first put ─┘        │    └─────────────────────────────────────┘
 *	              └──────────────────────────────────────────────────────┴ deleted
 *
 * As etcd's, it may skip values while nobody leads, or between two leaders. Whatever fails ends it with one and the same text.
 *
 * Reading on from a watch takes one revision at a time, and none while the client has not taken what was sent before, so the
 * memory of an observer is that of its name and of a few values.
 * Threads: the call's cq thread, but for 'wake' (writer, under the hub's lock) and the ends of operations (any).
 */
#include <stdlib.h>

#include "api/access.h"
#include "api/convert.h"
#include "api/handlers.h"
#include "api/session.h"
#include "proto/election.pb-c.h"

#define TEXT_CLOSED "election: observe closed early"
#define QUEUE_RESPONSES 8
#define QUEUE_BYTES (1u << 20)
#define READS 16
#define READ_SCANNED 16384

enum state { IDLE, PROVING, EXPECTING, FOLLOWING, FETCHING, ENDED };

struct observer {
	struct ks_guard guard; /* first: freed with it */
	struct ks_api *api;
	struct ks_api_stream stream;
	struct ks_arena arena; /* holds the request */
	struct ks_interval prefix;
	enum state state;
	struct ks_read_proof proof;
	uint64_t epoch; /* of the store since it was looked at */
	struct ks_watcher watcher;
	bool watching;
	bool pending;        /* the watcher has something to read, and nobody else will say so */
	bool yielded;        /* 'task' was posted by ourselves */
	struct ks_task task; /* read on */
	/* The next response: a value, which may have to be fetched, and the revision of the header. */
	struct ks_kvref value;
	int64_t revision;
	bool deleted; /* and the key is gone again */
	struct ks_fetch fetch;
	struct ks_kvref *fetched[1];
	struct ks_bytes *leader; /* KeyValue that was sent last; holds the key that is watched */
};

static void look(struct observer *observer);
static void read_on(struct observer *observer);

/* ---- ends ---- */

static void stop_watching(struct observer *observer)
{
	if (!observer->watching)
		return;
	ks_watch_remove(ks_store_hub(observer->api->store), &observer->watcher); /* no wake comes any more */
	(void)ks_call_unpost(observer->guard.call, &observer->task);
	observer->watching = observer->pending = observer->yielded = false;
}

static void drop_value(struct observer *observer)
{
	ks_bytes_unref(observer->value.encoded);
	observer->value = (struct ks_kvref){0};
}

static void end(struct observer *observer, enum ks_status status, const char *text)
{
	stop_watching(observer);
	observer->state = ENDED;
	ks_stream_finish(observer->guard.call, status, text);
}

static void close_early(struct observer *observer)
{
	end(observer, KS_UNKNOWN, TEXT_CLOSED);
}

static void free_observer(struct ks_guard *guard)
{
	struct observer *observer = ks_container_of(guard, struct observer, guard);

	drop_value(observer);
	ks_bytes_unref(observer->leader);
	ks_arena_fini(&observer->arena);
	free(observer);
}

/* ---- watching ---- */

static void wake(struct ks_watcher *watcher)
{
	struct observer *observer = ks_container_of(watcher, struct observer, watcher);

	ks_call_post(observer->guard.call, &observer->task);
}

/* From the revision after 'read_at', at which the key or the lack of any was read. */
static void watch(struct observer *observer, enum state state, struct ks_interval interval, int64_t read_at)
{
	struct ks_watch_hub *hub = ks_store_hub(observer->api->store);
	int64_t current;

	observer->state = state;
	observer->watcher = (struct ks_watcher){.interval = interval, .no_delete = state == EXPECTING, .wake = wake};
	if (ks_watch_add(hub, &observer->watcher, read_at + 1, &current) != KS_OK) {
		close_early(observer);
		return;
	}
	observer->watching = true;
	observer->pending = current > read_at;
	/* The log has lost its end: what was read is of another history. */
	if (ks_watch_hub_epoch(hub) != observer->epoch)
		close_early(observer);
	else
		read_on(observer);
}

static void follow(struct observer *observer)
{
	struct ks_kv kv;

	if (!ks_kv_decode(ks_bytes_slice(observer->leader), &kv))
		close_early(observer);
	else
		watch(observer, FOLLOWING, (struct ks_interval){.key = kv.key}, observer->revision);
}

/* ---- responses ---- */

static void send(struct observer *observer)
{
	struct ks_bytes *encoded = observer->value.encoded;
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(observer->api, &out.buf, 1, observer->revision);
	ks_wire_nested(&out.buf, 2, encoded->size);
	ks_out_bytes(&out, encoded);
	if (ks_out_failed(&out)) {
		ks_out_fini(&out);
		close_early(observer);
		return;
	}
	ks_stream_send(observer->guard.call, &out);
	ks_bytes_unref(observer->leader);
	observer->leader = encoded;
	observer->value.encoded = NULL;
	drop_value(observer);
}

/* The value is there: sends it and goes on with what comes after it. */
static void answer(struct observer *observer)
{
	observer->state = FOLLOWING;
	send(observer);
	if (observer->state == ENDED)
		return;
	if (observer->deleted)
		look(observer);
	else if (observer->watching)
		read_on(observer);
	else
		follow(observer);
}

static void fetch_done(struct ks_fetch *fetch)
{
	ks_guard_done(&ks_container_of(fetch, struct observer, fetch)->guard);
}

static void take_value(struct observer *observer)
{
	struct ks_committer *committer = observer->api->committer;

	if (!ks_kvref_missing(&observer->value)) {
		answer(observer);
		return;
	}
	observer->state = FETCHING;
	observer->fetched[0] = &observer->value;
	observer->fetch = (struct ks_fetch){.refs = observer->fetched, .count = 1, .done = fetch_done};
	ks_guard_begin(&observer->guard);
	committer->ops->fetch(committer, &observer->fetch);
}

static void continue_after_fetch(struct observer *observer)
{
	if (observer->fetch.err.status == KS_OK) {
		answer(observer);
	} else if (observer->fetch.err.status == KS_OUT_OF_RANGE) {
		/* A compaction was faster, so there is a newer value, or none. */
		stop_watching(observer);
		drop_value(observer);
		look(observer);
	} else {
		close_early(observer);
	}
}

/* ---- looking ---- */

/* The right to read what is under the name, asked for with each look, as etcd's inner calls do. */
static bool may_observe(struct observer *observer)
{
	struct ks_access access;
	struct ks_arena arena;
	enum ks_status status;
	struct ks_err err;

	ks_arena_init(&arena, 65536);
	status = ks_access_open(observer->api, observer->guard.call, &arena, &access, &err);
	if (status == KS_OK) {
		status = ks_access_check(&access, &observer->prefix, KS_PERM_READ, &err);
		ks_access_close(&access);
	}
	ks_arena_fini(&arena);
	return status == KS_OK;
}

static void continue_after_proof(struct observer *observer)
{
	struct ks_range_req request = ks_session_oldest(observer->prefix, false);
	struct ks_range_result result = {0};
	struct ks_err err;

	if (observer->proof.err.status != KS_OK || !may_observe(observer) ||
	    !ks_api_view_begin(observer->api, &observer->epoch) ||
	    ks_store_range(observer->api->store, &request, &result, &observer->revision, &err) != KS_OK) {
		close_early(observer);
		return;
	}
	if (result.kv_count) {
		observer->value = result.kvs[0];
		ks_bytes_ref(observer->value.encoded);
	}
	ks_range_result_fini(&result);
	observer->deleted = false;
	if (!ks_api_view_holds(observer->api, observer->epoch))
		close_early(observer);
	else if (ks_kvref_present(&observer->value))
		take_value(observer);
	else
		watch(observer, EXPECTING, observer->prefix, observer->revision);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_guard_done(&ks_container_of(proof, struct observer, proof)->guard);
}

static void look(struct observer *observer)
{
	struct ks_committer *committer = observer->api->committer;

	stop_watching(observer);
	observer->state = PROVING;
	observer->proof = (struct ks_read_proof){.done = proof_done};
	ks_guard_begin(&observer->guard);
	committer->ops->prove_read(committer, &observer->proof);
}

/* An operation is over. */
static void run(struct ks_guard *guard)
{
	struct observer *observer = ks_container_of(guard, struct observer, guard);

	if (observer->state == PROVING)
		continue_after_proof(observer);
	else if (observer->state == FETCHING)
		continue_after_fetch(observer);
}

/* ---- reading on ---- */

/* Under the store's lock. One revision may put and delete a key; nobody leads then. */
static void visit(void *ctx, const struct ks_event *event)
{
	struct observer *observer = ctx;

	if (observer->deleted)
		return;
	if (event->is_delete) {
		observer->deleted = true;
		return;
	}
	/* The first of several candidates is the leader; of one key the last value stands. */
	if (observer->state == EXPECTING && ks_kvref_present(&observer->value))
		return;
	drop_value(observer);
	observer->value = event->kv;
	ks_bytes_ref(observer->value.encoded);
	observer->revision = event->revision;
}

/* The watch went on by an event or more. */
static void take_events(struct observer *observer)
{
	/* The watch is for the first put below the name; from here on one for its key is needed. */
	if (observer->state == EXPECTING)
		stop_watching(observer);
	if (ks_kvref_present(&observer->value))
		take_value(observer);
	else if (observer->deleted)
		look(observer);
}

static bool queue_full(struct observer *observer)
{
	size_t bytes;

	return ks_stream_queued(observer->guard.call, &bytes) >= QUEUE_RESPONSES || bytes >= QUEUE_BYTES;
}

/* Ends when the watcher is idle, the queue is full, or with an event; whatever comes of those calls it again. */
static void read_on(struct observer *observer)
{
	struct ks_watch_hub *hub = ks_store_hub(observer->api->store);

	for (int i = 0; observer->pending && !observer->yielded && !queue_full(observer); i++) {
		struct ks_watch_read read = {
			.max_revisions = 1,
			.max_events = 1,
			.max_bytes = SIZE_MAX,
			.max_scanned = READ_SCANNED,
			.visit = visit,
			.ctx = observer,
		};

		if (i == READS) { /* other calls of the thread have their turn */
			observer->yielded = true;
			ks_call_post(observer->guard.call, &observer->task);
			return;
		}
		switch (ks_watch_read(hub, &observer->watcher, &read)) {
		case KS_WATCH_READ:
			break;
		case KS_WATCH_COMPACTED:
			look(observer);
			return;
		case KS_WATCH_RESET:
			close_early(observer);
			return;
		}
		observer->pending = !read.caught_up;
		if (read.events) {
			take_events(observer);
			return;
		}
	}
}

static bool may_read(const struct observer *observer)
{
	return observer->state == EXPECTING || observer->state == FOLLOWING;
}

static void run_task(struct ks_task *task)
{
	struct observer *observer = ks_container_of(task, struct observer, task);

	observer->yielded = false;
	observer->pending = true;
	if (may_read(observer))
		read_on(observer);
}

/* ---- the stream ---- */

static void stream_message(struct ks_call *call, struct ks_slice message)
{
	struct observer *observer = ks_call_context(call);
	V3electionpb__LeaderRequest *request;
	struct ks_err err;

	if (!observer || observer->state != IDLE)
		return;
	request = (V3electionpb__LeaderRequest *)ks_api_unpack(&v3electionpb__leader_request__descriptor,
							       &observer->arena, message, &err);
	if (!request)
		end(observer, err.status, err.text);
	else if (!ks_session_prefix(&observer->arena, ks_slice_pb(request->name), &observer->prefix))
		end(observer, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
	else
		look(observer);
}

static void stream_open(struct ks_call *call)
{
	struct ks_api *api = ks_api_of(call);
	struct observer *observer = calloc(1, sizeof(*observer));

	ks_call_set_context(call, observer);
	if (!observer) {
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	observer->api = api;
	observer->task.run = run_task;
	ks_arena_init(&observer->arena, api->max_request_bytes * 4 + 65536);
	ks_guard_init(&observer->guard, call, run, free_observer);
	if (!ks_api_stream_open(api, call, &observer->stream))
		observer->state = ENDED;
}

static void stream_half_closed(struct ks_call *call)
{
	struct observer *observer = ks_call_context(call);

	if (observer && observer->state == IDLE)
		end(observer, ks_etcd_status(KS_E_NO_REQUEST), ks_etcd_text(KS_E_NO_REQUEST));
}

static void stream_writable(struct ks_call *call)
{
	struct observer *observer = ks_call_context(call);

	if (observer && may_read(observer))
		read_on(observer);
}

static void stream_closed(struct ks_call *call)
{
	struct observer *observer = ks_call_context(call);

	if (!observer)
		return;
	stop_watching(observer);
	observer->state = ENDED;
	ks_api_stream_closed(observer->api, &observer->stream);
	ks_guard_close(&observer->guard);
}

const struct ks_stream_ops ks_api_observe_ops = {
	.open = stream_open,
	.message = stream_message,
	.half_closed = stream_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
};
