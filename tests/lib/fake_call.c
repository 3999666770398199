/* SPDX-License-Identifier: Apache-2.0 */
/* Calls without a network, see fake_call.h. */
#include "tests/lib/fake_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"

struct ks_rpc {
	const struct ks_rpc_method *methods;
	size_t method_count;
	void *context;
	bool (*idle)(void *ctx);
	void *idle_ctx;
	size_t arena_limit;
	struct ks_mutex lock;
	struct ks_task *first, **last; /* guarded */
	size_t open_calls;
	struct ks_list waiting; /* calls with on_cancel */
	bool stopping;
};

struct message {
	struct message *next;
	uint8_t *data;
	size_t size;
};

struct ks_call {
	const struct ks_rpc_method *method;
	const struct fake_metadata *metadata;
	struct ks_arena arena;
	void *context;
	struct fake_answer *answer;
	struct fake_answer own_answer; /* of a stream */
	struct message *sent, **sent_end;
	size_t queued, queued_bytes;
	struct ks_task *on_cancel;
	bool held;
	struct ks_list waiting;
	uint8_t *request; /* of fake_unary_begin */
};

static struct ks_rpc rpc;

void fake_rpc_start(const struct ks_rpc_method *methods, size_t count, void *context, bool (*idle)(void *ctx),
		    void *idle_ctx)
{
	rpc = (struct ks_rpc){
		.methods = methods,
		.method_count = count,
		.context = context,
		.idle = idle,
		.idle_ctx = idle_ctx,
		.arena_limit = 64u << 20,
	};
	rpc.last = &rpc.first;
	ks_list_init(&rpc.waiting);
	ks_mutex_init(&rpc.lock);
}

void fake_rpc_set_arena_limit(size_t limit)
{
	rpc.arena_limit = limit;
}

void fake_rpc_stop(void)
{
	fake_run();
	KS_ASSERT(rpc.open_calls == 0);
	ks_mutex_fini(&rpc.lock);
}

static bool run_one_task(void)
{
	struct ks_task *task;

	ks_mutex_lock(&rpc.lock);
	task = rpc.first;
	if (task) {
		rpc.first = task->next;
		if (!rpc.first)
			rpc.last = &rpc.first;
	}
	ks_mutex_unlock(&rpc.lock);
	if (task)
		task->run(task);
	return task != NULL;
}

void fake_run(void)
{
	while (run_one_task() || (rpc.idle && rpc.idle(rpc.idle_ctx)))
		;
}

static const struct ks_rpc_method *find_method(const char *path)
{
	for (size_t i = 0; i < rpc.method_count; i++)
		if (strcmp(rpc.methods[i].path, path) == 0)
			return &rpc.methods[i];
	ks_panic(__FILE__, __LINE__, path);
}

static struct ks_call *new_call(const char *path, const struct fake_metadata *metadata)
{
	struct ks_call *call = ks_xcalloc(1, sizeof(*call));

	call->method = find_method(path);
	call->metadata = metadata;
	call->sent_end = &call->sent;
	ks_list_init(&call->waiting);
	ks_arena_init(&call->arena, rpc.arena_limit);
	rpc.open_calls++;
	return call;
}

static void free_call(struct ks_call *call)
{
	uint8_t *data;
	size_t size;

	while (fake_stream_next(call, &data, &size))
		free(data);
	ks_arena_fini(&call->arena);
	free(call->request);
	free(call);
	rpc.open_calls--;
}

void fake_unary(const char *path, struct ks_slice request, const struct fake_metadata *metadata,
		struct fake_answer *answer)
{
	struct ks_call *call = new_call(path, metadata);

	*answer = (struct fake_answer){0};
	call->answer = answer;
	call->method->unary(call, request);
	fake_run();
	if (!answer->ended) {
		fake_unary_cancel(call);
		fake_run();
	}
	KS_ASSERT(answer->ended);
	free_call(call);
}

struct ks_call *fake_unary_begin(const char *path, struct ks_slice request, const struct fake_metadata *metadata,
				 struct fake_answer *answer)
{
	struct ks_call *call = new_call(path, metadata);

	*answer = (struct fake_answer){0};
	call->answer = answer;
	call->request = ks_xmalloc(request.size + 1);
	if (request.size)
		memcpy(call->request, request.data, request.size);
	call->method->unary(call, ks_slice_of(call->request, request.size));
	return call;
}

void fake_unary_cancel(struct ks_call *call)
{
	struct ks_task *task = call->on_cancel;

	if (!task)
		return;
	call->on_cancel = NULL;
	ks_list_remove(&call->waiting);
	task->run(task);
}

void fake_unary_end(struct ks_call *call)
{
	KS_ASSERT(call->answer->ended);
	free_call(call);
}

void fake_rpc_stopping(void)
{
	rpc.stopping = true;
	while (!ks_list_empty(&rpc.waiting))
		fake_unary_cancel(ks_container_of(rpc.waiting.next, struct ks_call, waiting));
}

void fake_answer_fini(struct fake_answer *answer)
{
	free(answer->data);
	answer->data = NULL;
}

/* ---- streams, the client's side ---- */

struct ks_call *fake_stream_open(const char *path, const struct fake_metadata *metadata)
{
	struct ks_call *call = new_call(path, metadata);

	call->answer = &call->own_answer;
	call->method->stream->open(call);
	return call;
}

void fake_stream_message(struct ks_call *call, struct ks_slice message)
{
	KS_ASSERT(!call->held);
	if (!call->answer->ended)
		call->method->stream->message(call, message);
}

void fake_stream_half_close(struct ks_call *call)
{
	if (!call->answer->ended)
		call->method->stream->half_closed(call);
}

bool fake_stream_next(struct ks_call *call, uint8_t **data, size_t *size)
{
	struct message *message = call->sent;

	if (!message)
		return false;
	call->sent = message->next;
	if (!call->sent)
		call->sent_end = &call->sent;
	call->queued--;
	call->queued_bytes -= message->size;
	*data = message->data;
	*size = message->size;
	free(message);
	if (call->queued == 0 && !call->answer->ended)
		call->method->stream->writable(call);
	return true;
}

bool fake_stream_finished(struct ks_call *call, struct fake_answer *answer)
{
	*answer = *call->answer;
	return call->answer->ended;
}

void fake_stream_close(struct ks_call *call)
{
	call->answer->ended = true;
	call->method->stream->closed(call);
	free_call(call);
}

/* ---- net/rpc.h ---- */

/* What 'out' holds, as one piece of memory. */
static uint8_t *flatten(struct ks_out *out, size_t *size)
{
	uint8_t *data;
	size_t from = 0, to = 0;

	*size = ks_out_size(out);
	data = ks_xmalloc(*size + 1);
	for (size_t i = 0; i <= out->insert_count; i++) {
		size_t end = i < out->insert_count ? out->inserts[i].at : out->buf.size;

		if (end > from)
			memcpy(data + to, out->buf.data + from, end - from);
		to += end - from;
		from = end;
		if (i < out->insert_count) {
			memcpy(data + to, out->inserts[i].bytes->data, out->inserts[i].bytes->size);
			to += out->inserts[i].bytes->size;
		}
	}
	KS_ASSERT(to == *size);
	return data;
}

static void end(struct ks_call *call, enum ks_status status, const char *text)
{
	KS_ASSERT(!call->answer->ended);
	call->on_cancel = NULL;
	ks_list_remove(&call->waiting);
	call->answer->ended = true;
	call->answer->status = status;
	(void)snprintf(call->answer->text, sizeof(call->answer->text), "%s", text);
}

void ks_call_reply(struct ks_call *call, struct ks_out *out)
{
	if (ks_out_failed(out)) {
		end(call, KS_RESOURCE_EXHAUSTED, "grpc: response is larger than max");
	} else {
		call->answer->data = flatten(out, &call->answer->size);
		end(call, KS_OK, "");
	}
	ks_out_fini(out);
}

void ks_call_fail(struct ks_call *call, enum ks_status status, const char *text)
{
	end(call, status, text);
}

bool ks_call_on_cancel(struct ks_call *call, struct ks_task *task)
{
	KS_ASSERT(call->method->unary && !call->on_cancel);
	if (rpc.stopping)
		return false;
	call->on_cancel = task;
	ks_list_append(&rpc.waiting, &call->waiting);
	return true;
}

bool ks_rpc_stopping(const struct ks_rpc *server)
{
	return server->stopping;
}

void ks_call_post(struct ks_call *call, struct ks_task *task)
{
	(void)call;
	task->next = NULL;
	ks_mutex_lock(&rpc.lock);
	*rpc.last = task;
	rpc.last = &task->next;
	ks_mutex_unlock(&rpc.lock);
}

/* Its thread, the test's, is always busy. */
void ks_call_run(struct ks_call *call, struct ks_task *task)
{
	ks_call_post(call, task);
}

/* It is the only one. */
bool ks_call_move(struct ks_call *call, struct ks_task *task)
{
	(void)call;
	(void)task;
	return false;
}

bool ks_call_unpost(struct ks_call *call, struct ks_task *task)
{
	bool found = false;

	(void)call;
	ks_mutex_lock(&rpc.lock);
	for (struct ks_task **at = &rpc.first; *at && !found; at = &(*at)->next) {
		if (*at != task)
			continue;
		found = true;
		*at = task->next;
		if (!*at)
			rpc.last = at;
		break;
	}
	ks_mutex_unlock(&rpc.lock);
	return found;
}

void ks_stream_send(struct ks_call *call, struct ks_out *out)
{
	struct message *message;

	if (ks_out_failed(out)) {
		ks_stream_finish(call, KS_RESOURCE_EXHAUSTED, "grpc: response is larger than max");
	} else if (!call->answer->ended) {
		message = ks_xcalloc(1, sizeof(*message));
		message->data = flatten(out, &message->size);
		*call->sent_end = message;
		call->sent_end = &message->next;
		call->queued++;
		call->queued_bytes += message->size;
	}
	ks_out_fini(out);
}

void ks_stream_send_empty_list(struct ks_call *call, struct ks_out *out, const char *list)
{
	(void)list;
	ks_stream_send(call, out);
}

size_t ks_stream_queued(struct ks_call *call, size_t *bytes)
{
	if (bytes)
		*bytes = call->queued_bytes;
	return call->queued;
}

void ks_stream_hold(struct ks_call *call)
{
	call->held = true;
}

void ks_stream_release(struct ks_call *call)
{
	call->held = false;
}

void ks_stream_finish(struct ks_call *call, enum ks_status status, const char *text)
{
	if (!call->answer->ended)
		end(call, status, text);
}

void *ks_rpc_context(struct ks_rpc *server)
{
	return server->context;
}

struct ks_rpc *ks_call_rpc(struct ks_call *call)
{
	(void)call;
	return &rpc;
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
	for (const struct fake_metadata *pair = call->metadata; pair && pair->key; pair++)
		if (strcmp(pair->key, key) == 0)
			return ks_slice_str(pair->value);
	return ks_slice_of(NULL, 0);
}

const char *ks_call_peer(struct ks_call *call)
{
	(void)call;
	return "test";
}

const struct ks_identity *ks_call_identity(const struct ks_call *call)
{
	(void)call;
	return NULL;
}

bool ks_call_is_http(const struct ks_call *call)
{
	(void)call;
	return false;
}
