/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests posted to the core, unary calls from arrival to end, refusals.
 *
 * A unary call costs two events: its arrival, together with the whole request message, and the end of the one batch that
 * answers it; one that waits for long costs a third, which tells that its client has gone. Calls to methods we do not know are answered here, too.
 */
#include "net/rpc_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"

/*
 * Few at first: Debian builds the core without NDEBUG, so it looks for each completion's tag among all that are outstanding in the queue, one by
 * one, and with four requests for each of our methods that was a seventh of what a watch's message costs.
 */
#define FIRST_WISH 1
#define MOST_POSTED 128

static void unary_arrived(struct rpc_tag *tag, bool ok);
static void unary_ended(struct rpc_tag *tag, bool ok);
static void fail(struct rpc_call *call, enum ks_status status, const char *text);
static const struct ks_call_ops unary_ops;

static struct rpc_call *new_call(struct rpc_queue *queue, struct rpc_slot *slot)
{
	struct rpc_call *call = queue->free_calls;

	if (call)
		queue->free_calls = call->next_free;
	else
		call = ks_xmalloc(sizeof(*call));
	ks_rpc_call_init(call, &unary_ops, queue, slot);
	return call;
}

static void recycle(struct rpc_call *call)
{
	call->next_free = call->home->free_calls;
	call->home->free_calls = call;
}

void ks_rpc_free_calls(struct rpc_queue *queue)
{
	struct rpc_call *call;

	while ((call = queue->free_calls)) {
		queue->free_calls = call->next_free;
		free(call);
	}
}

void ks_rpc_call_init(struct rpc_call *call, const struct ks_call_ops *ops, struct rpc_queue *queue,
		      struct rpc_slot *slot)
{
	*call = (struct rpc_call){.slot = slot, .home = queue, .fd = -1};
	ks_call_init(&call->base, ops, queue, slot->method);
	call->text = grpc_empty_slice();
}

void ks_rpc_call_fini(struct rpc_call *call)
{
	if (call->payload)
		grpc_byte_buffer_destroy(call->payload);
	ks_rpc_free_reply(call->base.rpc, call->reply_bytes);
	ks_grpc_message_close(&call->request);
	ks_call_fini(&call->base);
	grpc_metadata_array_destroy(&call->metadata);
	if (!call->slot->method)
		grpc_call_details_destroy(&call->details);
	grpc_slice_unref(call->text);
	free(call->peer);
	ks_identity_unref(call->identity);
	if (call->call) {
		grpc_call_unref(call->call);
		ks_rpc_call_gone(call->base.rpc);
	}
}

static void post_call(struct rpc_queue *queue, struct rpc_slot *slot)
{
	struct rpc_call *call = new_call(queue, slot);
	grpc_server *server = queue->rpc->server;
	grpc_call_error error;

	ks_rpc_tag_is(&call->tag, unary_arrived);
	grpc_metadata_array_init(&call->metadata);
	if (slot->method) {
		error = grpc_server_request_registered_call(server, slot->handle, &call->call, &call->deadline,
							    &call->metadata, &call->payload, queue->cq, queue->cq,
							    &call->tag);
	} else {
		grpc_call_details_init(&call->details);
		error = grpc_server_request_call(server, &call->call, &call->details, &call->metadata, queue->cq,
						 queue->cq, &call->tag);
	}
	KS_ASSERT(error == GRPC_CALL_OK);
}

void ks_rpc_post_requests(struct rpc_queue *queue, struct rpc_slot *slot)
{
	bool stream = slot->method && slot->method->stream;

	if (!ks_rpc_load_serves(queue, slot))
		return;
	if (slot->posted == 0 && slot->wish < MOST_POSTED)
		slot->wish = slot->wish ? slot->wish * 2 : FIRST_WISH;
	ks_mutex_lock(&queue->requesting);
	for (; slot->posted < slot->wish && !atomic_load(&queue->rpc->stopping); slot->posted++) {
		if (stream)
			ks_rpc_post_stream(queue, slot);
		else
			post_call(queue, slot);
	}
	ks_mutex_unlock(&queue->requesting);
}

const char *ks_rpc_request_arrived(struct rpc_queue *queue, struct rpc_call *call, enum ks_status *status)
{
	call->slot->posted--;
	ks_rpc_post_requests(queue, call->slot);
	return ks_rpc_call_begin(call->base.rpc, status);
}

enum ks_status ks_rpc_check_message(struct ks_rpc *rpc, grpc_byte_buffer *buffer, char *text, size_t size)
{
	const char *encoding = ks_grpc_bytes_encoding(buffer);

	if (encoding) {
		(void)snprintf(text, size, "grpc: Decompressor is not installed for grpc-encoding \"%s\"", encoding);
		return KS_UNIMPLEMENTED;
	}
	return ks_rpc_check_size(rpc, grpc_byte_buffer_length(buffer), text, size);
}

/* Known is a service when one of its methods is registered. */
static bool service_known(const struct ks_rpc *rpc, struct ks_slice service)
{
	for (size_t i = 0; i < rpc->method_count; i++) {
		const char *name = rpc->methods[i].path + 1;
		const char *end = strrchr(name, '/');

		if (end && ks_slice_eq(service, ks_slice_of(name, (size_t)(end - name))))
			return true;
	}
	return false;
}

static void refuse_unknown(struct rpc_call *call)
{
	const char *path = (const char *)GRPC_SLICE_START_PTR(call->details.method);
	int size = (int)GRPC_SLICE_LENGTH(call->details.method);
	const char *slash = size > 0 ? memrchr(path, '/', (size_t)size) : NULL;
	char text[512];
	int service_size;

	if (!slash || *path != '/' || slash == path) {
		(void)snprintf(text, sizeof(text), "malformed method name: \"%.*s\"", size, path);
		fail(call, KS_UNIMPLEMENTED, text);
		return;
	}
	service_size = (int)(slash - path) - 1;
	if (service_known(call->base.rpc, ks_slice_of(path + 1, (size_t)service_size)))
		(void)snprintf(text, sizeof(text), "unknown method %.*s for service %.*s", size - service_size - 2,
			       slash + 1, service_size, path + 1);
	else
		(void)snprintf(text, sizeof(text), "unknown service %.*s", service_size, path + 1);
	fail(call, KS_UNIMPLEMENTED, text);
}

static void serve(struct rpc_call *call)
{
	struct ks_rpc *rpc = call->base.rpc;
	grpc_byte_buffer *payload = call->payload;
	enum ks_status status;
	char text[128];

	if (!payload) {
		fail(call, KS_INTERNAL, "unexpected EOF"); /* as grpc-go, for a call without a message */
		return;
	}
	status = ks_rpc_check_message(rpc, payload, text, sizeof(text));
	if (status) {
		fail(call, status, text);
		return;
	}
	call->payload = NULL;
	if (!ks_grpc_message_open(&call->request, payload)) {
		fail(call, KS_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	ks_call_serve(&call->base, call->request.slice);
}

static void unary_arrived(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = ks_container_of(tag, struct rpc_call, tag);
	enum ks_status status;
	const char *refusal;

	if (!ok) { /* the server shuts down, this request was never used */
		ks_rpc_call_fini(call);
		recycle(call);
		return;
	}
	refusal = ks_rpc_request_arrived(call->base.queue, call, &status);
	if (refusal)
		fail(call, status, refusal);
	else if (!call->slot->method)
		refuse_unknown(call);
	else
		serve(call);
}

grpc_op ks_rpc_op(grpc_op_type type)
{
	return (grpc_op){.op = type};
}

grpc_op ks_rpc_status_op(struct rpc_call *call)
{
	grpc_op op = ks_rpc_op(GRPC_OP_SEND_STATUS_FROM_SERVER);

	op.data.send_status_from_server.status = (grpc_status_code)call->status;
	if (call->status)
		op.data.send_status_from_server.status_details = &call->text;
	return op;
}

void ks_rpc_start_batch(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag,
			rpc_complete_fn *complete)
{
	grpc_call *core = call->call;
	grpc_call_error error;

	/* Behind our last look at the call: a moved one comes back to its home's thread, perhaps at once. */
	ks_rpc_tag_is(tag, complete);
	error = grpc_call_start_batch(core, ops, count, tag, NULL);
	KS_ASSERT(error == GRPC_CALL_OK);
}

void ks_rpc_writes(struct rpc_call *call)
{
	struct rpc_queue *queue = call->base.queue;

	if (queue == call->home && queue->writing++ > 0)
		ks_cork_write(&queue->cork, ks_rpc_fd(call));
}

void ks_rpc_wrote(struct rpc_call *call)
{
	struct rpc_queue *queue = call->base.queue;

	if (queue == call->home && --queue->writing == 0)
		ks_cork_rest(&queue->cork);
}

void ks_rpc_set_status(struct rpc_call *call, enum ks_status status, const char *text)
{
	call->status = status;
	grpc_slice_unref(call->text);
	call->text = status ? grpc_slice_from_copied_string(text) : grpc_empty_slice();
}

/* Nothing of the core's points to the call any more. */
static void let_go(struct rpc_call *call)
{
	ks_rpc_call_fini(call);
	recycle(call);
}

static void unary_closed(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = ks_container_of(tag, struct rpc_call, close_tag);

	(void)ok; /* it comes before the end of the call only if the client is gone */
	call->closing = false;
	if (call->ended)
		let_go(call);
	else if (!call->ending)
		ks_call_cancelled(&call->base);
}

static void unary_watch(struct ks_call *base)
{
	struct rpc_call *call = ks_container_of(base, struct rpc_call, base);
	grpc_op op = ks_rpc_op(GRPC_OP_RECV_CLOSE_ON_SERVER);

	op.data.recv_close_on_server.cancelled = &call->cancelled;
	call->watched = call->closing = true;
	ks_rpc_start_batch(call, &op, 1, &call->close_tag, unary_closed);
}

static void start_end(struct rpc_call *call)
{
	grpc_op ops[4];
	size_t count = 0;

	ops[count++] = ks_rpc_op(GRPC_OP_SEND_INITIAL_METADATA);
	if (call->status == KS_OK) {
		ops[count] = ks_rpc_op(GRPC_OP_SEND_MESSAGE);
		ops[count++].data.send_message.send_message = call->payload;
	}
	ops[count++] = ks_rpc_status_op(call);
	if (!call->watched) {
		ops[count] = ks_rpc_op(GRPC_OP_RECV_CLOSE_ON_SERVER);
		ops[count++].data.recv_close_on_server.cancelled = &call->cancelled;
	}
	call->ending = true;
	ks_rpc_writes(call);
	ks_rpc_start_batch(call, ops, count, &call->tag, unary_ended);
}

static void unary_ended(struct rpc_tag *tag, bool ok)
{
	struct rpc_call *call = ks_container_of(tag, struct rpc_call, tag);

	(void)ok; /* the client may have gone away; nobody would want to know */
	call->ended = true;
	ks_rpc_wrote(call);
	if (!call->closing)
		let_go(call);
}

static void end_here(struct ks_task *task)
{
	start_end(ks_container_of(task, struct rpc_call, task));
}

/* Other threads only hand the reply over: sending costs a system call, and theirs is the scarcer time. */
static void end_call(struct rpc_call *call)
{
	ks_call_count_end(&call->base, call->status);
	if (ks_rpc_queue_is_mine(call->base.queue)) {
		start_end(call);
		return;
	}
	call->task.run = end_here;
	ks_rpc_queue_post(call->base.queue, &call->task);
}

static void fail(struct rpc_call *call, enum ks_status status, const char *text)
{
	ks_rpc_set_status(call, status, text);
	end_call(call);
}

static void unary_reply(struct ks_call *base, struct ks_out *out)
{
	struct rpc_call *call = ks_container_of(base, struct rpc_call, base);
	size_t max = out->max;
	char text[96];

	if (!ks_out_failed(out) && !ks_rpc_claim_reply(base->rpc, ks_out_size(out), &call->reply_bytes)) {
		ks_out_fini(out);
		fail(call, KS_RESOURCE_EXHAUSTED, KS_TEXT_TOO_MANY_REPLIES);
		return;
	}
	call->payload = ks_grpc_bytes_from_out(out);
	if (!call->payload) {
		(void)snprintf(text, sizeof(text), "grpc: response is larger than max (%zu)", max);
		ks_rpc_set_status(call, KS_RESOURCE_EXHAUSTED, text);
	}
	end_call(call);
}

static void unary_fail(struct ks_call *base, enum ks_status status, const char *text)
{
	fail(ks_container_of(base, struct rpc_call, base), status, text);
}

struct ks_slice ks_rpc_metadata(struct ks_call *base, const char *key)
{
	const struct rpc_call *call = ks_container_of(base, struct rpc_call, base);

	for (size_t i = 0; i < call->metadata.count; i++) {
		const grpc_metadata *entry = &call->metadata.metadata[i];

		if (grpc_slice_str_cmp(entry->key, key) == 0)
			return ks_slice_of(GRPC_SLICE_START_PTR(entry->value), GRPC_SLICE_LENGTH(entry->value));
	}
	return ks_slice_of(NULL, 0);
}

static const struct ks_call_ops unary_ops = {
	.reply = unary_reply,
	.fail = unary_fail,
	.watch = unary_watch,
	.metadata = ks_rpc_metadata,
	.peer = ks_rpc_peer,
	.identity = ks_rpc_identity,
};
