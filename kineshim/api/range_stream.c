/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV.RangeStream (spec 1.5): one revision, pinned at the start, read and sent in chunks. The next chunk is read only when the
 * transport has taken most of what was sent, so a slow client holds little memory whatever it asked for.
 *
 *	message ─► PROVING ─► READING ◄──────────► FETCHING (values outside the cache)
 *	                        │  ▲
 *	             queue full ▼  │ writable
 *	                      WAITING                          … ─► ENDED after the last chunk or an error
 */
#include <stdlib.h>

#include "api/access.h"
#include "api/api.h"
#include "api/convert.h"
#include "api/encode.h"
#include "api/handlers.h"
#include "api/validate.h"

#define FIRST_CHUNK_KEYS 10
#define MAX_CHUNK_KEYS (1 << 20)
#define QUEUE_BYTES (4u << 20)
#define QUEUE_RESPONSES 8

enum state { IDLE, PROVING, READING, FETCHING, WAITING, ENDED };

struct range_stream {
	struct ks_guard guard; /* first: freed with it */
	struct ks_api *api;
	struct ks_api_stream stream;
	struct ks_arena arena; /* holds the request */
	enum state state;
	struct ks_range_req request; /* interval.key moves on */
	int64_t header_revision;
	int64_t total; /* keys in the range at that revision; known after the first chunk */
	int64_t sent, wanted;
	int64_t chunk_keys;
	uint8_t *next_key;
	uint64_t epoch; /* of the store when the stream began */
	struct ks_read_proof proof;
	struct ks_range_result chunk;
	struct ks_values values;
};

static void end(struct range_stream *range, enum ks_status status, const char *text)
{
	range->state = ENDED;
	ks_stream_finish(range->guard.call, status, text);
}

static void fail(struct range_stream *range, enum ks_etcd_error error)
{
	end(range, ks_etcd_status(error), ks_etcd_text(error));
}

static void free_stream(struct ks_guard *guard)
{
	struct range_stream *range = ks_container_of(guard, struct range_stream, guard);

	ks_range_result_fini(&range->chunk);
	ks_values_fini(&range->values);
	ks_arena_fini(&range->arena);
	free(range->next_key);
	free(range);
}

/* The next chunk begins right behind the last key of this one. */
static bool move_on(struct range_stream *range)
{
	const struct ks_kvref *last = &range->chunk.kvs[range->chunk.kv_count - 1];
	struct ks_kv kv;
	uint8_t *key;

	if (!ks_kv_decode(ks_bytes_slice(last->encoded), &kv))
		return false;
	key = malloc(kv.key.size + 1);
	if (!key)
		return false;
	memcpy(key, kv.key.data, kv.key.size);
	key[kv.key.size] = 0;
	free(range->next_key);
	range->next_key = key;
	range->request.interval.key = ks_slice_of(key, kv.key.size + 1);
	return true;
}

/* Chunks aim at half of to twice the size of the largest request. */
static void adapt(struct range_stream *range, size_t size)
{
	if (size < range->api->max_request_bytes / 2 && range->chunk_keys < MAX_CHUNK_KEYS)
		range->chunk_keys *= 2;
	else if (size > range->api->max_request_bytes * 2 && range->chunk_keys > 1)
		range->chunk_keys /= 2;
}

static void send_chunk(struct range_stream *range)
{
	bool last;
	struct ks_out out;

	range->sent += (int64_t)range->chunk.kv_count;
	last = range->request.count_only || range->sent >= range->wanted || range->chunk.kv_count == 0;
	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_encode_range_chunk(range->api, &out, &range->chunk, last, range->total,
			      !range->request.count_only && range->wanted < range->total, range->header_revision);
	if (ks_out_failed(&out) || (!last && !move_on(range))) {
		ks_out_fini(&out);
		fail(range, KS_E_NO_MEMORY);
		return;
	}
	adapt(range, ks_out_size(&out));
	ks_stream_send(range->guard.call, &out);
	ks_range_result_fini(&range->chunk);
	range->chunk = (struct ks_range_result){0};
	range->state = READING;
	if (last)
		end(range, KS_OK, "");
}

static void fetch_done(struct ks_fetch *fetch)
{
	ks_guard_done(&ks_container_of(fetch, struct range_stream, values.fetch)->guard);
}

/* Whoever lost his right in the middle gets no more. */
static enum ks_status read_judged(struct range_stream *range, int64_t *revision, struct ks_err *err)
{
	struct ks_access access;
	struct ks_arena arena;
	enum ks_status status;
	bool holds = false;

	ks_arena_init(&arena, 65536);
	for (int i = 0; i < KS_ACCESS_ROUNDS && !holds; i++) {
		status = ks_access_open(range->api, range->guard.call, &arena, &access, err);
		if (status != KS_OK)
			break;
		status = ks_access_check(&access, &range->request.interval, KS_PERM_READ, err);
		if (status == KS_OK)
			status = ks_store_range(range->api->store, &range->request, &range->chunk, revision, err);
		holds = ks_access_holds(range->api, &access);
		ks_access_close(&access);
		if (!holds && status == KS_OK) {
			ks_range_result_fini(&range->chunk);
			range->chunk = (struct ks_range_result){0};
			status = ks_etcd_fail(err, KS_E_AUTH_OLD_REVISION);
		}
	}
	ks_arena_fini(&arena);
	return status;
}

/* Reads one chunk and sends it, or has its values fetched first. */
static void read_chunk(struct range_stream *range)
{
	struct ks_committer *committer = range->api->committer;
	int64_t left = range->wanted - range->sent;
	bool first = range->total < 0;
	enum ks_status status;
	int64_t revision;
	struct ks_err err;
	int missing;

	range->request.limit = range->chunk_keys;
	if (!first && left < range->chunk_keys)
		range->request.limit = left;
	else if (first && range->wanted > 0 && range->wanted < range->chunk_keys)
		range->request.limit = range->wanted;
	status = read_judged(range, &revision, &err);
	/* All chunks come from one history: the log may have lost its end meanwhile. */
	if (!ks_api_view_holds(range->api, range->epoch)) {
		fail(range, KS_E_NO_LEADER);
		return;
	}
	if (status != KS_OK) {
		end(range, err.status, err.text);
		return;
	}
	if (first) {
		range->total = range->chunk.count;
		range->header_revision = revision;
		if (range->request.revision <= 0)
			range->request.revision = revision;
		if (range->wanted <= 0 || range->wanted > range->total)
			range->wanted = range->total;
	}
	missing = ks_values_of_range(&range->values, &range->chunk);
	if (missing < 0) {
		fail(range, KS_E_NO_MEMORY);
	} else if (missing > 0) {
		range->state = FETCHING;
		range->values.fetch.done = fetch_done;
		ks_guard_begin(&range->guard);
		committer->ops->fetch(committer, &range->values.fetch);
	} else {
		send_chunk(range);
	}
}

static void pump(struct range_stream *range)
{
	size_t bytes;

	while (range->state == READING) {
		if (ks_stream_queued(range->guard.call, &bytes) >= QUEUE_RESPONSES || bytes >= QUEUE_BYTES)
			range->state = WAITING;
		else
			read_chunk(range);
	}
}

static void continue_after_proof(struct range_stream *range)
{
	if (range->proof.err.status != KS_OK) {
		end(range, range->proof.err.status, range->proof.err.text);
	} else if (!ks_api_view_begin(range->api, &range->epoch)) {
		fail(range, KS_E_NO_LEADER);
	} else {
		range->state = READING;
		pump(range);
	}
}

static void continue_after_fetch(struct range_stream *range)
{
	ks_values_fini(&range->values);
	if (range->values.fetch.err.status != KS_OK) {
		end(range, range->values.fetch.err.status, range->values.fetch.err.text);
		return;
	}
	send_chunk(range);
	pump(range);
}

static void run(struct ks_guard *guard)
{
	struct range_stream *range = ks_container_of(guard, struct range_stream, guard);

	if (range->state == PROVING)
		continue_after_proof(range);
	else if (range->state == FETCHING)
		continue_after_fetch(range);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_guard_done(&ks_container_of(proof, struct range_stream, proof)->guard);
}

static void start(struct range_stream *range, const Etcdserverpb__RangeRequest *request)
{
	struct ks_committer *committer = range->api->committer;

	ks_convert_range(request, &range->request);
	range->request.sort_order = KS_SORT_NONE;
	range->request.sort_target = KS_SORT_KEY;
	range->wanted = request->limit;
	range->total = -1;
	range->chunk_keys = FIRST_CHUNK_KEYS;
	range->state = PROVING;
	if (request->serializable) {
		continue_after_proof(range);
		return;
	}
	range->proof.done = proof_done;
	ks_guard_begin(&range->guard);
	committer->ops->prove_read(committer, &range->proof);
}

static void stream_message(struct ks_call *call, struct ks_slice message)
{
	struct range_stream *range = ks_call_context(call);
	Etcdserverpb__RangeRequest *request;
	struct ks_err err;

	if (!range || range->state != IDLE)
		return;
	request = (Etcdserverpb__RangeRequest *)ks_api_unpack(&etcdserverpb__range_request__descriptor, &range->arena,
							      message, &err);
	if (!request || ks_validate_range_stream(request, &err) != KS_OK)
		end(range, err.status, err.text);
	else
		start(range, request);
}

static void stream_open(struct ks_call *call)
{
	struct ks_api *api = ks_api_of(call);
	struct range_stream *range = calloc(1, sizeof(*range));

	ks_call_set_context(call, range);
	if (!range) {
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	range->api = api;
	ks_arena_init(&range->arena, api->max_request_bytes * 4 + 65536);
	ks_guard_init(&range->guard, call, run, free_stream);
	if (!ks_api_stream_open(api, call, &range->stream))
		range->state = ENDED;
}

static void stream_half_closed(struct ks_call *call)
{
	struct range_stream *range = ks_call_context(call);

	if (range && range->state == IDLE)
		fail(range, KS_E_NO_REQUEST);
}

static void stream_writable(struct ks_call *call)
{
	struct range_stream *range = ks_call_context(call);

	if (!range || range->state != WAITING)
		return;
	range->state = READING;
	pump(range);
}

static void stream_closed(struct ks_call *call)
{
	struct range_stream *range = ks_call_context(call);

	if (!range)
		return;
	range->state = ENDED;
	ks_api_stream_closed(range->api, &range->stream);
	ks_guard_close(&range->guard);
}

const struct ks_stream_ops ks_api_range_stream_ops = {
	.open = stream_open,
	.message = stream_message,
	.half_closed = stream_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
};
