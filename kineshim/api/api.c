/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame around the handlers: the method table, the checks every call passes (spec 0.4), decoding, headers, and the
 * watchdog of streams.
 */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/access.h"
#include "api/handlers.h"
#include "api/methods.h"
#include "api/password.h"
#include "api/token.h"
#include "api/validate.h"
#include "api/watch.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "proto/election.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/lock.pb-c.h"
#include "proto/rpc.pb-c.h"
#include "store/watch_hub.h"

/* Spec 3.10: three election timeouts of a second. */
#define WATCHDOG_MS 1000
#define LEADERLESS_TICKS 3

/* ---- the method table ---- */

static ks_unary_fn dispatch;

#define UNARY_RPC(handler) .unary = dispatch
#define SERVER_RPC(handler) .stream = &handler##_ops, .single_request = true
#define BIDI_RPC(handler) .stream = &handler##_ops
#define UNARY_HANDLER(handler) handler
#define SERVER_HANDLER(handler) NULL
#define BIDI_HANDLER(handler) NULL

#define RPC(service, method, request_type, response_type, kind, handler, http_routes) \
	{.path = "/" service "/" #method,                                             \
	 .request = &request_type##__descriptor,                                      \
	 .response = &response_type##__descriptor,                                    \
	 .routes = http_routes,                                                       \
	 kind##_RPC(handler)},
static const struct ks_rpc_method rpc_methods[] = {KS_API_METHODS(RPC)};
#undef RPC

struct row {
	const ProtobufCMessageDescriptor *request;
	ks_api_handler_fn *handler; /* NULL for streams */
};
#define ROW(service, method, request_type, response_type, kind, handler_fn, routes) \
	{.request = &request_type##__descriptor, .handler = kind##_HANDLER(handler_fn)},
static const struct row rows[] = {KS_API_METHODS(ROW)};
#undef ROW

const struct ks_rpc_method *ks_api_methods(size_t *count)
{
	*count = sizeof(rpc_methods) / sizeof(*rpc_methods);
	return rpc_methods;
}

/* ---- checks in front of every call ---- */

static bool utf8_valid(struct ks_slice text)
{
	size_t i = 0;

	while (i < text.size) {
		uint8_t lead = text.data[i++];
		uint32_t point, least;
		int more;

		if (lead < 0x80)
			continue;
		if (lead >= 0xc2 && lead <= 0xdf) {
			point = lead & 0x1fu;
			least = 0x80;
			more = 1;
		} else if (lead >= 0xe0 && lead <= 0xef) {
			point = lead & 0x0fu;
			least = 0x800;
			more = 2;
		} else if (lead >= 0xf0 && lead <= 0xf4) {
			point = lead & 0x07u;
			least = 0x10000;
			more = 3;
		} else {
			return false;
		}
		for (; more > 0; more--) {
			if (i == text.size || (text.data[i] & 0xc0) != 0x80)
				return false;
			point = point << 6 | (text.data[i++] & 0x3fu);
		}
		if (point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
			return false;
	}
	return true;
}

static bool wants_leader(struct ks_call *call)
{
	return ks_slice_eq(ks_call_metadata(call, "hasleader"), ks_slice_str("true"));
}

/*
 * What clients want to know with "hasleader" is whether writes can go on. That takes the database; it does not take a
 * housekeeper, which for a few seconds there may be none of.
 */
static bool has_leader(const struct ks_api *api)
{
	struct ks_cluster_status status;

	api->committer->ops->status(api->committer, &status);
	return status.available;
}

/* "3.0" to "3.7" are counted one by one; a client can put anything there, and each new label would cost memory for ever. */
static void count_client(struct ks_call *call, struct ks_slice version)
{
	bool stream = ks_call_method(call)->stream != NULL;
	size_t index = 0;

	if (version.size == 3 && memcmp(version.data, "3.", 2) == 0 && version.data[2] >= '0' &&
	    version.data[2] - '0' < KS_METRIC_LABEL_SIZE_CLIENT - 1)
		index = (size_t)(1 + version.data[2] - '0');
	KS_COUNT_AT(CLIENT_REQUESTS, stream * KS_METRIC_LABEL_SIZE_CLIENT + index, 1);
}

/* Spec 0.4, step 2. */
static enum ks_status check_metadata(const struct ks_api *api, struct ks_call *call, struct ks_err *err)
{
	struct ks_slice version = ks_call_metadata(call, "client-api-version");

	count_client(call, version);
	if (!utf8_valid(version))
		return ks_etcd_fail(err, KS_E_INVALID_CLIENT_API_VERSION);
	if (wants_leader(call) && !has_leader(api))
		return ks_etcd_fail(err, KS_E_NO_LEADER);
	return KS_OK;
}

/* ---- decoding ---- */

struct unpacker {
	ProtobufCAllocator allocator;
	struct ks_arena *arena;
	bool full;
};

static void *unpack_alloc(void *ctx, size_t size)
{
	struct unpacker *unpacker = ctx;
	void *memory = ks_arena_alloc(unpacker->arena, size);

	if (!memory)
		unpacker->full = true;
	return memory;
}

static void unpack_free(void *ctx, void *memory)
{
	(void)ctx;
	(void)memory;
}

ProtobufCMessage *ks_api_unpack(const ProtobufCMessageDescriptor *type, struct ks_arena *arena, struct ks_slice bytes,
				struct ks_err *err)
{
	struct unpacker unpacker = {.allocator = {.alloc = unpack_alloc, .free = unpack_free}, .arena = arena};
	ProtobufCMessage *message;

	unpacker.allocator.allocator_data = &unpacker;
	message = protobuf_c_message_unpack(type, &unpacker.allocator, bytes.size, bytes.data);
	if (!message)
		ks_etcd_fail(err, unpacker.full ? KS_E_NO_MEMORY : KS_E_MALFORMED);
	return message;
}

static void handle(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	size_t method = (size_t)(ks_call_method(call) - rpc_methods);
	struct ks_err err;

	if (ks_access_check_rule(api, call, api->rules[method], message, &err) == KS_OK)
		rows[method].handler(api, call, message, size);
	else
		ks_api_fail_err(call, &err);
}

static void serve(struct ks_api *api, struct ks_call *call, struct ks_slice request)
{
	const struct row *row = &rows[ks_call_method(call) - rpc_methods];
	const ProtobufCMessage *message;
	struct ks_err err;

	if (row->request == &etcdserverpb__txn_request__descriptor &&
	    ks_txn_shape_check(request, api->max_txn_ops, &err) != KS_OK) {
		ks_api_fail_err(call, &err);
		return;
	}
	message = ks_api_unpack(row->request, ks_call_arena(call), request, &err);
	if (!message) {
		ks_api_fail_err(call, &err);
		return;
	}
	/* Room comes before permissions (spec 0.4). */
	ks_quota_judge(api, call, message, request.size, handle);
}

/* A call whose token is newer than what we know of users: it waits until we have caught up. */
struct early {
	struct ks_api *api;
	struct ks_slice request;
	struct ks_await await;
	struct ks_read_proof proof;
};

static void caught_up(struct ks_await *await)
{
	struct early *early = ks_container_of(await, struct early, await);

	if (early->proof.err.status == KS_OK)
		serve(early->api, await->call, early->request);
	else
		ks_api_fail_err(await->call, &early->proof.err);
}

static void catch_up_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct early, proof)->await);
}

static void catch_up(struct ks_api *api, struct ks_call *call, struct ks_slice request)
{
	struct early *early = ks_arena_zalloc(ks_call_arena(call), sizeof(*early));

	if (!early) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	early->api = api;
	early->request = request;
	early->proof.done = catch_up_done;
	ks_await_init(&early->await, call, caught_up);
	api->committer->ops->prove_read(api->committer, &early->proof);
	ks_await_go(&early->await);
}

static void dispatch(struct ks_call *call, struct ks_slice request)
{
	struct ks_api *api = ks_api_of(call);
	struct ks_err err;

	if (check_metadata(api, call, &err) != KS_OK)
		ks_api_fail_err(call, &err);
	else if (rows[ks_call_method(call) - rpc_methods].handler == ks_api_unimplemented)
		ks_api_unimplemented(api, call, NULL, request.size);
	else if (ks_access_is_ahead(api, call))
		catch_up(api, call, request);
	else
		serve(api, call, request);
}

/* ---- what is not there ---- */

/* As a server answers that never heard of the method (spec 10). */
static void unimplemented_text(struct ks_call *call, char *text, size_t size)
{
	const char *path = ks_call_method(call)->path;
	const char *slash = strrchr(path, '/');

	snprintf(text, size, "unknown method %s for service %.*s", slash + 1, (int)(slash - path - 1), path + 1);
}

void ks_api_unimplemented(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	char text[KS_ERR_TEXT_MAX];

	(void)api;
	(void)message;
	(void)size;
	unimplemented_text(call, text, sizeof(text));
	ks_call_fail(call, KS_UNIMPLEMENTED, text);
}

static void unimplemented_open(struct ks_call *call)
{
	char text[KS_ERR_TEXT_MAX];

	unimplemented_text(call, text, sizeof(text));
	ks_stream_finish(call, KS_UNIMPLEMENTED, text);
}

void ks_api_ignore_message(struct ks_call *call, struct ks_slice message)
{
	(void)call;
	(void)message;
}

void ks_api_ignore(struct ks_call *call)
{
	(void)call;
}

const struct ks_stream_ops ks_api_unimplemented_stream_ops = {
	.open = unimplemented_open,
	.message = ks_api_ignore_message,
	.half_closed = ks_api_ignore,
	.writable = ks_api_ignore,
	.closed = ks_api_ignore,
};

void ks_api_fail(struct ks_call *call, enum ks_etcd_error error)
{
	ks_call_fail(call, ks_etcd_status(error), ks_etcd_text(error));
}

void ks_api_fail_err(struct ks_call *call, const struct ks_err *err)
{
	ks_call_fail(call, err->status, err->text);
}

/* ---- headers ---- */

static size_t header_body_size(const struct ks_cluster_status *status, int64_t revision)
{
	return ks_wire_uint_size(1, status->cluster_id) + ks_wire_uint_size(2, status->member_id) +
	       ks_wire_uint_size(3, (uint64_t)revision) + ks_wire_uint_size(4, status->raft_term);
}

size_t ks_api_header_size(const struct ks_api *api, uint32_t field, int64_t revision)
{
	struct ks_cluster_status status;

	api->committer->ops->status(api->committer, &status);
	return ks_wire_nested_size(field, header_body_size(&status, revision));
}

void ks_api_write_header(const struct ks_api *api, struct ks_buf *buf, uint32_t field, int64_t revision)
{
	struct ks_cluster_status status;

	api->committer->ops->status(api->committer, &status);
	ks_wire_nested(buf, field, header_body_size(&status, revision));
	ks_wire_uint(buf, 1, status.cluster_id);
	ks_wire_uint(buf, 2, status.member_id);
	ks_wire_uint(buf, 3, (uint64_t)revision);
	ks_wire_uint(buf, 4, status.raft_term);
}

void ks_api_reply_header(const struct ks_api *api, struct ks_call *call, int64_t revision)
{
	struct ks_out out;

	ks_out_init(&out, KS_ETCD_MAX_SEND_BYTES);
	ks_api_write_header(api, &out.buf, 1, revision);
	ks_call_reply(call, &out);
}

bool ks_api_loaded(const struct ks_api *api)
{
	return ks_store_committed(api->store).position > 0;
}

/*
 * A reset first swaps the state, then changes the epoch, and only later is anything loaded again. So a reader that finds
 * the store loaded and the epoch unchanged after its read has seen neither the empty state nor the next one.
 */
bool ks_api_view_begin(const struct ks_api *api, uint64_t *epoch)
{
	*epoch = ks_watch_hub_epoch(ks_store_hub(api->store));
	return ks_api_loaded(api);
}

bool ks_api_view_holds(const struct ks_api *api, uint64_t epoch)
{
	return ks_api_loaded(api) && ks_watch_hub_epoch(ks_store_hub(api->store)) == epoch;
}

/* ---- streams ---- */

/* The same as 'struct early', for a stream. */
struct ks_early_stream {
	struct ks_api *api;
	struct ks_guard guard;
	struct ks_read_proof proof;
};

static enum ks_status check_caller(struct ks_api *api, struct ks_call *call, struct ks_err *err)
{
	return ks_access_check_rule(api, call, api->rules[ks_call_method(call) - rpc_methods], NULL, err);
}

static void early_proved(struct ks_read_proof *proof)
{
	ks_guard_done(&ks_container_of(proof, struct ks_early_stream, proof)->guard);
}

static void early_run(struct ks_guard *guard)
{
	struct ks_early_stream *early = ks_container_of(guard, struct ks_early_stream, guard);
	struct ks_err *err = &early->proof.err;

	if (err->status != KS_OK || check_caller(early->api, guard->call, err) != KS_OK)
		ks_stream_finish(guard->call, err->status, err->text);
	else
		ks_stream_release(guard->call);
}

static void early_free(struct ks_guard *guard)
{
	free(ks_container_of(guard, struct ks_early_stream, guard));
}

static bool wait_for_caller(struct ks_api *api, struct ks_api_stream *stream)
{
	struct ks_early_stream *early = calloc(1, sizeof(*early));

	if (!early)
		return false;
	stream->early = early;
	early->api = api;
	early->proof.done = early_proved;
	ks_guard_init(&early->guard, stream->call, early_run, early_free);
	ks_stream_hold(stream->call);
	ks_guard_begin(&early->guard);
	api->committer->ops->prove_read(api->committer, &early->proof);
	return true;
}

bool ks_api_stream_open(struct ks_api *api, struct ks_call *call, struct ks_api_stream *stream)
{
	struct ks_err err;

	ks_list_init(&stream->link);
	stream->call = call;
	stream->early = NULL;
	if (check_metadata(api, call, &err) != KS_OK) {
		ks_stream_finish(call, err.status, err.text);
		return false;
	}
	if (ks_access_is_ahead(api, call)) {
		if (!wait_for_caller(api, stream)) {
			ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
			return false;
		}
	} else if (check_caller(api, call, &err) != KS_OK) {
		ks_stream_finish(call, err.status, err.text);
		return false;
	}
	stream->require_leader = wants_leader(call);
	if (!stream->require_leader && !stream->tick)
		return true;
	ks_mutex_lock(&api->lock);
	ks_list_append(&api->streams, &stream->link);
	ks_mutex_unlock(&api->lock);
	return true;
}

void ks_api_stream_closed(struct ks_api *api, struct ks_api_stream *stream)
{
	if (stream->early)
		ks_guard_close(&stream->early->guard);
	ks_mutex_lock(&api->lock);
	ks_list_remove(&stream->link);
	ks_mutex_unlock(&api->lock);
}

static void watchdog_fired(struct ks_timer *timer)
{
	struct ks_api *api = ks_container_of(timer, struct ks_api, watchdog);
	bool leader = has_leader(api);

	ks_mutex_lock(&api->lock);
	api->leaderless_ticks = leader ? 0 : api->leaderless_ticks + 1;
	for (struct ks_list *item = api->streams.next; item != &api->streams; item = item->next) {
		struct ks_api_stream *stream = ks_container_of(item, struct ks_api_stream, link);

		if (stream->tick)
			stream->tick(stream);
		if (stream->require_leader && api->leaderless_ticks >= LEADERLESS_TICKS)
			ks_stream_finish(stream->call, KS_UNAVAILABLE, KS_TEXT_NO_LEADER);
	}
	ks_mutex_unlock(&api->lock);
	ks_timer_arm(api->timers, &api->watchdog, WATCHDOG_MS);
}

/* ---- life ---- */

static bool start_parts(struct ks_api *api, const struct ks_api_config *config, struct ks_err *err)
{
	const struct ks_tokens_config tokens = {.spec = config->auth_token, .ttl_s = config->auth_token_ttl_s};
	const struct ks_passwords_config passwords = {.cost = config->bcrypt_cost};
	size_t count = sizeof(rpc_methods) / sizeof(*rpc_methods);

	ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the API");
	api->rules = calloc(count, sizeof(*api->rules));
	for (size_t i = 0; api->rules && i < count; i++)
		api->rules[i] = (uint8_t)ks_access_rule_of(rpc_methods[i].path);
	api->snapshots = ks_snapshots_new(config->snapshot_dir);
	if (!api->rules || !api->snapshots)
		return false;
	api->tokens = ks_tokens_new(&tokens, err);
	if (api->tokens)
		api->passwords = ks_passwords_start(&passwords, err);
	return api->passwords != NULL;
}

static void free_api(struct ks_api *api)
{
	ks_passwords_stop(api->passwords);
	ks_tokens_free(api->tokens);
	if (api->snapshots)
		ks_snapshots_free(api->snapshots);
	free(api->rules);
	ks_mutex_fini(&api->lock);
	free(api);
}

struct ks_api *ks_api_start(const struct ks_api_config *config, struct ks_err *err)
{
	struct ks_api *api = calloc(1, sizeof(*api));

	if (!api) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the API");
		return NULL;
	}
	api->store = config->store;
	api->committer = config->committer;
	api->timers = config->timers;
	api->max_txn_ops = config->max_txn_ops;
	api->max_request_bytes = config->max_request_bytes;
	api->progress_interval_ms = config->progress_interval_ms;
	api->cursor_interval_ms = config->cursor_interval_ms;
	api->quota_bytes = config->quota_bytes;
	api->min_lease_ttl_s = config->min_lease_ttl_s > 0 ? config->min_lease_ttl_s : KS_ETCD_MIN_LEASE_TTL_S;
	ks_mutex_init(&api->lock);
	ks_list_init(&api->streams);
	if (!start_parts(api, config, err)) {
		free_api(api);
		return NULL;
	}
	ks_timer_init(&api->watchdog, watchdog_fired);
	ks_timer_arm(api->timers, &api->watchdog, WATCHDOG_MS);
	ks_api_gauges_start(api);
	return api;
}

void ks_api_stop(struct ks_api *api)
{
	if (!api)
		return;
	ks_api_gauges_stop(api);
	ks_timer_cancel(api->timers, &api->watchdog);
	free_api(api);
}
