/* SPDX-License-Identifier: Apache-2.0 */
/* The public side of struct ks_call, see rpc.h: getters, and the way to the transport that a call came by. */
#include "net/call.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"

void ks_call_init(struct ks_call *call, const struct ks_call_ops *ops, struct rpc_queue *queue,
		  const struct ks_rpc_method *method)
{
	struct ks_rpc *rpc = ks_rpc_queue_rpc(queue);

	*call = (struct ks_call){.ops = ops, .rpc = rpc, .queue = queue, .method = method};
	ks_list_init(&call->waiting);
	ks_arena_init(&call->arena, ks_rpc_max_arena_bytes(rpc));
}

void ks_call_fini(struct ks_call *call)
{
	ks_call_count_end(call, KS_CANCELLED);
	ks_arena_fini(&call->arena);
}

/* ---- metrics ---- */

static size_t method_index(const struct ks_call *call)
{
	size_t count;

	return (size_t)(call->method - ks_rpc_methods(call->rpc, &count));
}

void ks_call_name_metrics(const struct ks_rpc_method *methods, size_t count)
{
	struct ks_metrics_method names[KS_METRIC_LABEL_SIZE_METHOD];

	KS_ASSERT(count <= KS_METRIC_LABEL_SIZE_METHOD);
	for (size_t i = 0; i < count; i++) {
		names[i].path = methods[i].path;
		names[i].type = "unary";
		if (methods[i].stream)
			names[i].type = methods[i].single_request ? "server_stream" : "bidi_stream";
	}
	ks_metrics_name_methods(names, count);
}

void ks_call_count_begin(struct ks_call *call)
{
	KS_COUNT_AT(GRPC_STARTED, method_index(call), 1);
	KS_COUNT_AT(CALLS_OPEN, call->method->stream != NULL, 1);
	call->counted = true;
	if (ks_metrics_extensive())
		call->began_ns = ks_metrics_now();
}

void ks_call_count_message(struct ks_call *call, size_t size)
{
	KS_COUNT_AT(GRPC_RECEIVED, method_index(call), 1);
	KS_COUNT(RECEIVED_BYTES, size);
}

static void count_sent(struct ks_call *call, const struct ks_out *out)
{
	KS_COUNT(SENT_BYTES, ks_out_size(out));
	if (call->method->stream)
		KS_COUNT_AT(GRPC_SENT, method_index(call), 1);
}

void ks_call_count_end(struct ks_call *call, enum ks_status status)
{
	size_t index;

	if (!call->counted)
		return;
	call->counted = false;
	index = method_index(call);
	KS_COUNT_AT(GRPC_HANDLED, index * KS_METRIC_LABEL_SIZE_CODE + (size_t)status, 1);
	KS_COUNT_AT(CALLS_OPEN, call->method->stream != NULL, -1);
	if (status == KS_OK && call->method->unary)
		KS_COUNT_AT(GRPC_SENT, index, 1);
	if (call->began_ns)
		KS_OBSERVE_AT(GRPC_HANDLING, index, ks_metrics_now() - call->began_ns);
}

bool ks_call_on_cancel(struct ks_call *call, struct ks_task *task)
{
	KS_ASSERT(call->method && call->method->unary && !call->on_cancel);
	KS_ASSERT(ks_rpc_queue_is_mine(call->queue));
	/* A server that begins to end after this look finds the call in the list. */
	if (ks_rpc_stopping(call->rpc))
		return false;
	call->on_cancel = task;
	call->served_ms = 0; /* it waits on purpose, so nobody calls it slow */
	ks_list_append(ks_rpc_queue_waiting(call->queue), &call->waiting);
	if (call->ops->watch)
		call->ops->watch(call);
	return true;
}

static struct ks_task *forget_cancel(struct ks_call *call)
{
	struct ks_task *task = call->on_cancel;

	if (!task)
		return NULL;
	KS_ASSERT(ks_rpc_queue_is_mine(call->queue));
	call->on_cancel = NULL;
	ks_list_remove(&call->waiting);
	return task;
}

void ks_call_cancelled(struct ks_call *call)
{
	struct ks_task *task = forget_cancel(call);

	if (task)
		task->run(task);
}

void ks_call_serve(struct ks_call *call, struct ks_slice request)
{
	call->served_ms = ks_clock_now(ks_clock_system());
	call->request_bytes = request.size;
	ks_call_count_begin(call);
	ks_call_count_message(call, request.size);
	call->method->unary(call, request);
}

/* Whoever waits for a slow request wants to know which; what is in it is nobody's business. */
static void report_slow(struct ks_call *call)
{
	int64_t slow_ms = ks_rpc_slow_ms(call->rpc), took_ms;

	if (slow_ms == 0 || call->served_ms == 0)
		return;
	took_ms = ks_clock_now(ks_clock_system()) - call->served_ms;
	if (took_ms > slow_ms)
		KS_DIAG_LIMITED(KS_WARN, "rpc", "slow request method=%s took_ms=%lld request_bytes=%zu peer=%s",
				call->method->path, (long long)took_ms, call->request_bytes, ks_call_peer(call));
}

void ks_call_reply(struct ks_call *call, struct ks_out *out)
{
	KS_ASSERT(call->method && call->method->unary);
	(void)forget_cancel(call);
	report_slow(call);
	count_sent(call, out);
	call->ops->reply(call, out);
}

void ks_call_fail(struct ks_call *call, enum ks_status status, const char *text)
{
	KS_ASSERT(status != KS_OK);
	KS_ASSERT(!call->method || call->method->unary);
	(void)forget_cancel(call);
	report_slow(call);
	call->ops->fail(call, status, text);
}

void ks_stream_send(struct ks_call *call, struct ks_out *out)
{
	KS_ASSERT(call->method && call->method->stream);
	count_sent(call, out);
	call->ops->send(call, out, NULL);
}

void ks_stream_send_empty_list(struct ks_call *call, struct ks_out *out, const char *list)
{
	KS_ASSERT(call->method && call->method->stream);
	count_sent(call, out);
	call->ops->send(call, out, list);
}

size_t ks_stream_queued(struct ks_call *call, size_t *bytes)
{
	KS_ASSERT(call->method && call->method->stream);
	return call->ops->queued(call, bytes);
}

void ks_stream_finish(struct ks_call *call, enum ks_status status, const char *text)
{
	KS_ASSERT(call->method && call->method->stream);
	call->ops->finish(call, status, text);
}

void ks_stream_hold(struct ks_call *call)
{
	call->ops->hold(call, true);
}

void ks_stream_release(struct ks_call *call)
{
	KS_ASSERT(ks_rpc_queue_is_mine(call->queue));
	call->ops->hold(call, false);
}

void ks_call_post(struct ks_call *call, struct ks_task *task)
{
	ks_rpc_queue_post(call->queue, task);
}

void ks_call_run(struct ks_call *call, struct ks_task *task)
{
	if (!ks_rpc_queue_visit(call->queue, task))
		ks_rpc_queue_post(call->queue, task);
}

bool ks_call_move(struct ks_call *call, struct ks_task *task)
{
	KS_ASSERT(call->method && call->method->unary && !call->on_cancel);
	KS_ASSERT(ks_rpc_queue_is_mine(call->queue));
	if (ks_rpc_queue_is_worker(call->queue))
		return false;
	call->queue = ks_rpc_pick_queue(call->rpc);
	ks_rpc_queue_post(call->queue, task);
	return true;
}

bool ks_call_unpost(struct ks_call *call, struct ks_task *task)
{
	KS_ASSERT(ks_rpc_queue_is_mine(call->queue));
	return ks_rpc_queue_unpost(call->queue, task);
}

struct ks_rpc *ks_call_rpc(struct ks_call *call)
{
	return call->rpc;
}

struct ks_arena *ks_call_arena(struct ks_call *call)
{
	return &call->arena;
}

void ks_call_set_context(struct ks_call *call, void *context)
{
	call->context = context;
}

void *ks_call_context(struct ks_call *call)
{
	return call->context;
}

const struct ks_rpc_method *ks_call_method(const struct ks_call *call)
{
	return call->method;
}

struct ks_slice ks_call_metadata(struct ks_call *call, const char *key)
{
	return call->ops->metadata(call, key);
}

const char *ks_call_peer(struct ks_call *call)
{
	return call->ops->peer(call);
}

const struct ks_identity *ks_call_identity(const struct ks_call *call)
{
	/* The transport may look it up once and remember it, which the caller need not know. */
	return call->ops->identity((struct ks_call *)(uintptr_t)call);
}

bool ks_call_is_http(const struct ks_call *call)
{
	return call->ops->is_http;
}
