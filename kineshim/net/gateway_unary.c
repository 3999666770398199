/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unary calls through JSON. The body is collected on the I/O thread; the rest happens on the cq thread: JSON to wire bytes, the
 * handler, wire bytes to JSON, and the sending of as much as the socket takes. Large answers are written piece by piece as the
 * client reads them; only their wire bytes (mostly references to what the store has anyway) are held until then.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "net/gateway_priv.h"

struct unary {
	struct gateway_call call;
	struct ks_task cancel;
	struct ks_buf wire;  /* the request */
	struct ks_out reply; /* on its way to the cq thread */
	size_t counted;      /* in the server's large replies */
	/* the writer's, once answered */
	struct ks_json_writer *writer; /* NULL: an error */
	/* under call.lock */
	bool answered;      /* writer, or status and text, say how */
	bool ended;         /* the handler is done with the call */
	bool watched;       /* the handler wants to know when nobody waits any more */
	bool cancel_posted; /* once for a call */
	bool gone;          /* nobody waits any more */
};

static struct unary *unary_of(struct ks_call *base)
{
	return ks_container_of(base, struct unary, call.base);
}

/* ---- the end of a call ---- */

/* 'out' NULL: it failed with 'status'. On the cq thread, or before the handler began. */
static void end(struct unary *unary, struct ks_out *out, enum ks_status status, const char *text)
{
	struct ks_http_request *request = unary->call.request;
	struct ks_rpc *rpc = unary->call.base.rpc;
	struct ks_json_writer *writer = NULL;

	if (out) {
		writer = ks_json_writer_new(unary->call.base.method->response, out);
		if (!writer) {
			status = KS_RESOURCE_EXHAUSTED;
			text = "out of memory";
		}
	}
	ks_mutex_lock(&unary->call.lock);
	unary->ended = true;
	if (!unary->answered) {
		unary->answered = true;
		unary->writer = writer;
		writer = NULL;
		if (!unary->writer)
			ks_gateway_set_status(&unary->call, status, text);
	}
	ks_mutex_unlock(&unary->call.lock);
	ks_call_count_end(&unary->call.base, status);
	ks_json_writer_free(writer); /* the deadline was faster */
	ks_buf_fini(&unary->wire);
	ks_http_release_body(request);
	ks_http_flush(request);
	ks_rpc_call_gone(rpc);
	ks_http_request_unref(request);
}

static void end_with_reply(struct unary *unary)
{
	struct ks_out *out = &unary->reply;
	char text[96];

	if (ks_out_failed(out)) {
		(void)snprintf(text, sizeof(text), "grpc: response is larger than max (%zu)", out->max);
		ks_out_fini(out);
		end(unary, NULL, KS_RESOURCE_EXHAUSTED, text);
	} else if (!ks_rpc_claim_reply(unary->call.base.rpc, ks_out_size(out), &unary->counted)) {
		ks_out_fini(out);
		end(unary, NULL, KS_RESOURCE_EXHAUSTED, KS_TEXT_TOO_MANY_REPLIES);
	} else {
		end(unary, out, KS_OK, "");
	}
}

static void run_reply(struct ks_task *task)
{
	end_with_reply(ks_container_of(task, struct unary, call.task));
}

static void run_failure(struct ks_task *task)
{
	struct unary *unary = ks_container_of(task, struct unary, call.task);
	char text[GATEWAY_TEXT_MAX]; /* 'end' sets the original, unless the deadline did so meanwhile */
	enum ks_status status;

	ks_mutex_lock(&unary->call.lock);
	status = unary->call.status;
	memcpy(text, unary->call.text, sizeof(text));
	ks_mutex_unlock(&unary->call.lock);
	end(unary, NULL, status, text);
}

static void reply(struct ks_call *base, struct ks_out *out)
{
	struct unary *unary = unary_of(base);

	unary->reply = *out;
	ks_out_init(out, out->max);
	if (ks_rpc_queue_is_mine(base->queue)) {
		end_with_reply(unary);
		return;
	}
	unary->call.task.run = run_reply;
	ks_rpc_queue_post(base->queue, &unary->call.task);
}

static void fail(struct ks_call *base, enum ks_status status, const char *text)
{
	struct unary *unary = unary_of(base);
	bool late;

	if (ks_rpc_queue_is_mine(base->queue)) {
		end(unary, NULL, status, text);
		return;
	}
	ks_mutex_lock(&unary->call.lock);
	late = unary->answered;
	if (!late)
		ks_gateway_set_status(&unary->call, status, text);
	ks_mutex_unlock(&unary->call.lock);
	unary->call.task.run = run_failure;
	ks_rpc_queue_post(base->queue, &unary->call.task);
}

/* ---- nobody waits any more ---- */

static void run_cancel(struct ks_task *task)
{
	struct unary *unary = ks_container_of(task, struct unary, cancel);
	struct ks_http_request *request = unary->call.request;
	bool ended;

	ks_mutex_lock(&unary->call.lock);
	ended = unary->ended;
	ks_mutex_unlock(&unary->call.lock);
	if (!ended)
		ks_call_cancelled(&unary->call.base);
	ks_http_request_unref(request);
}

static void post_cancel_locked(struct unary *unary) KS_REQUIRES(unary->call.lock)
{
	if (!unary->watched || unary->cancel_posted || unary->ended)
		return;
	unary->cancel_posted = true;
	ks_http_request_ref(unary->call.request);
	unary->cancel.run = run_cancel;
	ks_rpc_queue_post(unary->call.base.queue, &unary->cancel);
}

static void cancel(struct ks_http_request *request)
{
	struct unary *unary = request->serving;

	ks_mutex_lock(&unary->call.lock);
	unary->gone = true;
	post_cancel_locked(unary);
	ks_mutex_unlock(&unary->call.lock);
}

static void watch(struct ks_call *base)
{
	struct unary *unary = unary_of(base);

	ks_mutex_lock(&unary->call.lock);
	unary->watched = true;
	if (unary->gone)
		post_cancel_locked(unary);
	ks_mutex_unlock(&unary->call.lock);
	ks_http_watch_peer(unary->call.request);
}

static void expired(struct ks_http_request *request)
{
	struct unary *unary = request->serving;

	ks_mutex_lock(&unary->call.lock);
	if (!unary->answered) {
		unary->answered = true;
		ks_gateway_set_status(&unary->call, KS_DEADLINE_EXCEEDED, GATEWAY_TEXT_EXPIRED);
	}
	ks_mutex_unlock(&unary->call.lock);
	cancel(request);
	ks_http_flush(request);
}

/* ---- the way in ---- */

static const struct ks_call_ops unary_call_ops = {
	.is_http = true,
	.reply = reply,
	.fail = fail,
	.watch = watch,
	.metadata = ks_gateway_metadata,
	.peer = ks_gateway_peer,
	.identity = ks_gateway_identity,
};

static void run_handler(struct ks_task *task)
{
	struct unary *unary = ks_container_of(task, struct unary, call.task);
	const struct ks_rpc_method *method = unary->call.base.method;
	struct ks_http_request *request = unary->call.request;
	enum ks_status status;
	struct ks_err err;
	char text[128];

	ks_buf_init(&unary->wire, SIZE_MAX); /* less than the body, which has its limit */
	status = ks_json_to_wire(method->request, ks_http_body(request), &unary->wire, &err);
	if (status != KS_OK) {
		end(unary, NULL, status, err.text);
		return;
	}
	status = ks_rpc_check_size(unary->call.base.rpc, unary->wire.size, text, sizeof(text));
	if (status != KS_OK) {
		end(unary, NULL, status, text);
		return;
	}
	ks_call_serve(&unary->call.base, ks_slice_of(unary->wire.data, unary->wire.size));
}

static void complete(struct ks_http_request *request)
{
	struct unary *unary = request->serving;
	enum ks_status status;
	const char *refusal;

	ks_http_request_ref(request); /* the handler's */
	refusal = ks_rpc_call_begin(unary->call.base.rpc, &status);
	if (refusal) {
		end(unary, NULL, status, refusal);
		return;
	}
	unary->call.task.run = run_handler;
	ks_rpc_queue_post(unary->call.base.queue, &unary->call.task);
}

/* ---- the answer ---- */

static enum http_produced begin_answer(struct unary *unary, struct ks_buf *out)
{
	struct gateway_call *call = &unary->call;

	switch (ks_json_write(unary->writer, &call->piece, HTTP_PIECE_BYTES)) {
	case KS_JSON_FAILED:
		ks_gateway_set_status(call, KS_INTERNAL, "the response is malformed");
		ks_gateway_write_error(call, out);
		return HTTP_DONE;
	case KS_JSON_DONE:
		ks_gateway_write_head(call, out, 200);
		ks_buf_printf(out, "Content-Length: %zu\r\n\r\n", call->piece.size);
		ks_buf_append(out, call->piece.data, call->piece.size);
		ks_buf_fini(&call->piece);
		return HTTP_DONE;
	case KS_JSON_MORE:
		break;
	}
	/* Too long to be counted in advance. A client of HTTP/1.0 sees the end by that of the connection. */
	call->request->keep_alive &= !call->request->http10;
	ks_gateway_write_head(call, out, 200);
	ks_buf_printf(out, "%s\r\n", call->request->http10 ? "" : "Transfer-Encoding: chunked\r\n");
	ks_gateway_write_chunk(call, out);
	return HTTP_MORE;
}

static enum http_produced produce(struct ks_http_request *request, struct ks_buf *out)
{
	struct unary *unary = request->serving;
	struct gateway_call *call = &unary->call;
	enum ks_json_written written;
	bool answered;

	ks_mutex_lock(&call->lock);
	answered = unary->answered;
	ks_mutex_unlock(&call->lock);
	if (!answered)
		return HTTP_WAIT;
	if (!unary->writer) {
		ks_gateway_write_error(call, out);
		return HTTP_DONE;
	}
	if (!call->head_sent)
		return begin_answer(unary, out);
	written = ks_json_write(unary->writer, &call->piece, HTTP_PIECE_BYTES);
	if (written == KS_JSON_FAILED)
		return HTTP_ABORT;
	if (written == KS_JSON_DONE && call->websocket)
		ks_buf_append(&call->piece, "\n", 1); /* the end of a message there */
	ks_gateway_write_chunk(call, out);
	if (written == KS_JSON_MORE)
		return HTTP_MORE;
	ks_gateway_write_last_chunk(call, out);
	return HTTP_DONE;
}

static void fini(struct ks_http_request *request)
{
	struct unary *unary = request->serving;

	ks_json_writer_free(unary->writer);
	ks_rpc_free_reply(unary->call.base.rpc, unary->counted);
	ks_buf_fini(&unary->wire);
	ks_gateway_call_fini(&unary->call);
	free(unary);
}

static const struct http_ops unary_ops = {
	.complete = complete,
	.produce = produce,
	.gone = cancel,
	.stop = cancel,
	.expired = expired,
	.fini = fini,
};

void ks_gateway_unary_route(struct ks_http_request *request, const struct ks_rpc_method *method)
{
	struct unary *unary = ks_xcalloc(1, sizeof(*unary));

	ks_gateway_call_init(&unary->call, &unary_call_ops, request, method);
	request->serving = unary;
	request->ops = &unary_ops;
}
