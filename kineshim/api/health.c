/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.health.v1 (spec 6.9): the server as a whole, service "", serves once its log is loaded. Other names are unknown. Watch
 * sends the state now and whenever the watchdog finds it changed.
 */
#include "api/api.h"
#include "api/handlers.h"
#include "proto/health.pb-c.h"

enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

static int serving(const struct ks_api *api)
{
	return ks_api_loaded(api) ? SERVING : NOT_SERVING;
}

void ks_api_health_check(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size)
{
	const Grpc__Health__V1__HealthCheckRequest *request = (const Grpc__Health__V1__HealthCheckRequest *)message;
	struct ks_out out;

	(void)size;
	if (request->service[0] != '\0') {
		ks_api_fail(call, KS_E_UNKNOWN_HEALTH_SERVICE);
		return;
	}
	ks_out_init(&out, 64);
	ks_wire_uint(&out.buf, 1, (uint64_t)serving(api));
	ks_call_reply(call, &out);
}

struct health_watch {
	struct ks_api *api;
	struct ks_api_stream stream;
	bool asked;
	int told; /* the last state sent; 0: none yet. Under the watchdog's lock. */
};

static void tell(struct health_watch *watch, int state)
{
	struct ks_out out;

	watch->told = state;
	ks_out_init(&out, 64);
	ks_wire_uint(&out.buf, 1, (uint64_t)state);
	ks_stream_send(watch->stream.call, &out);
}

static void health_tick(struct ks_api_stream *stream)
{
	struct health_watch *watch = ks_container_of(stream, struct health_watch, stream);
	int state = serving(watch->api);

	if (watch->told != 0 && watch->told != SERVICE_UNKNOWN && watch->told != state)
		tell(watch, state);
}

static void health_open(struct ks_call *call)
{
	struct ks_api *api = ks_api_of(call);
	struct health_watch *watch = ks_arena_zalloc(ks_call_arena(call), sizeof(*watch));

	ks_call_set_context(call, watch);
	if (!watch) {
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_MEMORY), ks_etcd_text(KS_E_NO_MEMORY));
		return;
	}
	watch->api = api;
	watch->stream.tick = health_tick;
	ks_api_stream_open(api, call, &watch->stream);
}

static void health_message(struct ks_call *call, struct ks_slice message)
{
	struct health_watch *watch = ks_call_context(call);
	Grpc__Health__V1__HealthCheckRequest *request;
	struct ks_err err;

	if (!watch || watch->asked)
		return;
	watch->asked = true;
	request = (Grpc__Health__V1__HealthCheckRequest *)ks_api_unpack(
		&grpc__health__v1__health_check_request__descriptor, ks_call_arena(call), message, &err);
	if (!request) {
		ks_stream_finish(call, err.status, err.text);
		return;
	}
	ks_mutex_lock(&watch->api->lock);
	tell(watch, request->service[0] == '\0' ? serving(watch->api) : SERVICE_UNKNOWN);
	ks_mutex_unlock(&watch->api->lock);
}

static void health_half_closed(struct ks_call *call)
{
	struct health_watch *watch = ks_call_context(call);

	if (watch && !watch->asked)
		ks_stream_finish(call, ks_etcd_status(KS_E_NO_REQUEST), ks_etcd_text(KS_E_NO_REQUEST));
}

static void health_closed(struct ks_call *call)
{
	struct health_watch *watch = ks_call_context(call);

	if (watch)
		ks_api_stream_closed(watch->api, &watch->stream);
}

const struct ks_stream_ops ks_api_health_watch_ops = {
	.open = health_open,
	.message = health_message,
	.half_closed = health_half_closed,
	.writable = ks_api_ignore,
	.closed = health_closed,
};
