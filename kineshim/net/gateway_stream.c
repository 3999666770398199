/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams through JSON (spec 9.5): the body is a sequence of JSON values, each a request message; each response is one line
 * {"result":…} and one chunk.
 *
 *	I/O thread   cuts the body into values ──► incoming ──┐ task
 *	cq thread    open · message … · half_closed · writable · closed ◄─┘      ks_stream_send ──► unsent
 *	writer       takes one response after the other from unsent, and writes it: a line that it shares with other streams, which was
 *	             made when it was sent (json.h); a large one in pieces, as the client reads
 *
 * As with gRPC, the next request message is read only while little is unsent, and the body is not read while many wait. One task
 * does everything on the cq thread; it is posted when there is something to do, once at a time.
 */
#include <stdlib.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "net/gateway_priv.h"

#define MAX_UNSENT_MESSAGES 256
#define MAX_UNSENT_BYTES (1024 * 1024)
/* Of the body, in values that wait for the handler. */
#define MAX_INCOMING_BYTES 65536
/* Messages in a row before other calls of the thread get their turn. */
#define MESSAGES_PER_TURN 64

struct incoming {
	struct incoming *next;
	size_t size;
	uint8_t data[];
};

struct message {
	struct message *next;
	struct ks_bytes *line;         /* all of it, or NULL: */
	struct ks_json_writer *writer; /* the same to be written in pieces */
	size_t size;                   /* on the wire */
};

struct stream {
	struct gateway_call call;

	/* I/O thread */
	struct ks_json_split split;
	struct ks_buf partial; /* the value that is being received */

	/* cq thread */
	bool opened, held, half_closed, closed;

	/* the writer's */
	struct message *sending;
	bool end_sent;

	/* under call.lock */
	bool posted;
	struct incoming *first_in, **last_in;
	size_t incoming_bytes; /* of these; counted in the server's bodies, as is what is partial */
	bool input_done, input_paused;
	struct message *first, **last;
	size_t unsent_count, unsent_bytes; /* of these, and the one that is being sent */
	bool writable_due;
	bool finished; /* call.status says how; sent behind all messages */
	bool dead;     /* nothing is sent any more: the client is gone, or all is said */
};

static struct stream *stream_of(struct ks_call *base)
{
	return ks_container_of(base, struct stream, call.base);
}

static const struct ks_stream_ops *ops_of(const struct stream *stream)
{
	return stream->call.base.method->stream;
}

static void post_locked(struct stream *stream) KS_REQUIRES(stream->call.lock)
{
	if (stream->posted)
		return;
	stream->posted = true;
	ks_http_request_ref(stream->call.request); /* the task's */
	ks_rpc_queue_post(stream->call.base.queue, &stream->call.task);
}

/* ---- what handlers do ---- */

static void free_message(struct message *message)
{
	ks_bytes_unref(message->line);
	ks_json_writer_free(message->writer);
	free(message);
}

static void finish(struct ks_call *base, enum ks_status status, const char *text)
{
	struct stream *stream = stream_of(base);

	ks_mutex_lock(&stream->call.lock);
	if (!stream->dead && !stream->finished) {
		stream->finished = true;
		ks_gateway_set_status(&stream->call, status, status == KS_OK ? "" : text);
		post_locked(stream);
	}
	ks_mutex_unlock(&stream->call.lock);
}

/* Takes what 'out' holds. NULL when memory is short. */
static struct message *new_message(struct ks_call *base, struct ks_out *out, const char *empty_list)
{
	const ProtobufCMessageDescriptor *type = base->method->response;
	struct message *message = ks_xcalloc(1, sizeof(*message));

	message->size = ks_out_size(out);
	if (message->size <= KS_JSON_SHARED_MAX && !empty_list && ks_rpc_queue_is_mine(base->queue))
		message->line = ks_json_shared_line(ks_rpc_queue_lines(base->queue), type, out);
	else
		message->writer = ks_json_writer_new(type, out);
	if (!message->line && !message->writer) {
		free_message(message);
		return NULL;
	}
	if (empty_list)
		ks_json_writer_empty_list(message->writer, empty_list);
	return message;
}

static void send_out(struct ks_call *base, struct ks_out *out, const char *empty_list)
{
	struct stream *stream = stream_of(base);
	struct message *message;
	bool taken = false;

	if (ks_out_failed(out)) {
		ks_out_fini(out);
		finish(base, KS_RESOURCE_EXHAUSTED, "grpc: response is larger than max");
		return;
	}
	message = new_message(base, out, empty_list);
	if (!message) {
		finish(base, KS_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	ks_mutex_lock(&stream->call.lock);
	if (!stream->dead && !stream->finished) {
		*stream->last = message;
		stream->last = &message->next;
		stream->unsent_count++;
		stream->unsent_bytes += message->size;
		post_locked(stream);
		taken = true;
	}
	ks_mutex_unlock(&stream->call.lock);
	if (!taken)
		free_message(message);
}

static size_t queued(struct ks_call *base, size_t *bytes)
{
	struct stream *stream = stream_of(base);
	size_t count;

	ks_mutex_lock(&stream->call.lock);
	count = stream->unsent_count;
	if (bytes)
		*bytes = stream->unsent_bytes;
	ks_mutex_unlock(&stream->call.lock);
	return count;
}

static void hold(struct ks_call *base, bool held)
{
	struct stream *stream = stream_of(base);

	stream->held = held;
	if (held)
		return;
	ks_mutex_lock(&stream->call.lock);
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
}

static const struct ks_call_ops stream_call_ops = {
	.is_http = true,
	.send = send_out,
	.queued = queued,
	.finish = finish,
	.hold = hold,
	.metadata = ks_gateway_metadata,
	.peer = ks_gateway_peer,
	.identity = ks_gateway_identity,
};

/* ---- the cq thread ---- */

/* The next value for the handler; NULL: none, or not now. */
static struct incoming *take_incoming(struct stream *stream)
{
	struct incoming *taken = NULL;
	bool resume = false;

	ks_mutex_lock(&stream->call.lock);
	if (stream->first_in && !stream->finished && !stream->dead && stream->unsent_count <= MAX_UNSENT_MESSAGES &&
	    stream->unsent_bytes <= MAX_UNSENT_BYTES) {
		taken = stream->first_in;
		stream->first_in = taken->next;
		if (!stream->first_in)
			stream->last_in = &stream->first_in;
		stream->incoming_bytes -= taken->size;
		resume = stream->input_paused && stream->incoming_bytes < MAX_INCOMING_BYTES / 2;
		if (resume)
			stream->input_paused = false;
	}
	ks_mutex_unlock(&stream->call.lock);
	if (taken)
		ks_http_unclaim(stream->call.request, taken->size);
	if (resume)
		ks_http_resume(stream->call.request);
	return taken;
}

static void deliver(struct stream *stream, struct ks_slice value)
{
	struct ks_call *base = &stream->call.base;
	enum ks_status status;
	struct ks_buf wire;
	struct ks_err err;
	char text[128];

	ks_buf_init(&wire, SIZE_MAX);
	status = ks_json_to_wire(base->method->request, value, &wire, &err);
	if (status != KS_OK) {
		finish(base, status, err.text);
	} else if ((status = ks_rpc_check_size(base->rpc, wire.size, text, sizeof(text))) != KS_OK) {
		finish(base, status, text);
	} else {
		ks_call_count_message(base, wire.size);
		ops_of(stream)->message(base, ks_slice_of(wire.data, wire.size));
	}
	ks_buf_fini(&wire);
}

/* False when there may be more to deliver at once. */
static bool deliver_some(struct stream *stream)
{
	struct incoming *value;

	for (int i = 0; i < MESSAGES_PER_TURN; i++) {
		value = take_incoming(stream);
		if (!value)
			return true;
		deliver(stream, ks_slice_of(value->data, value->size));
		free(value);
	}
	return false;
}

static void half_close_when_due(struct stream *stream)
{
	bool due;

	ks_mutex_lock(&stream->call.lock);
	due = stream->input_done && !stream->first_in && !stream->finished && !stream->dead && !stream->half_closed;
	ks_mutex_unlock(&stream->call.lock);
	if (!due)
		return;
	stream->half_closed = true;
	ops_of(stream)->half_closed(&stream->call.base);
}

static void tell_writable(struct stream *stream)
{
	bool due;

	ks_mutex_lock(&stream->call.lock);
	due = stream->writable_due && !stream->finished && !stream->dead;
	stream->writable_due = false;
	ks_mutex_unlock(&stream->call.lock);
	if (due)
		ops_of(stream)->writable(&stream->call.base);
}

/* The handler's part is over. */
static void close_when_due(struct stream *stream)
{
	bool due;

	ks_mutex_lock(&stream->call.lock);
	due = stream->dead && !stream->closed;
	ks_mutex_unlock(&stream->call.lock);
	if (!due)
		return;
	stream->closed = true;
	ks_call_count_end(&stream->call.base, stream->finished ? stream->call.status : KS_CANCELLED);
	if (stream->opened) {
		KS_COUNT(HTTP_STREAMS, -1);
		ops_of(stream)->closed(&stream->call.base);
	}
	ks_rpc_call_gone(stream->call.base.rpc);
	ks_http_request_unref(stream->call.request); /* the handler's */
}

static void run(struct ks_task *task)
{
	struct stream *stream = ks_container_of(task, struct stream, call.task);
	struct ks_http_request *request = stream->call.request;
	bool over;

	ks_mutex_lock(&stream->call.lock);
	stream->posted = false;
	over = stream->finished || stream->dead;
	ks_mutex_unlock(&stream->call.lock);
	if (!stream->opened && !over) {
		stream->opened = true;
		ks_call_count_begin(&stream->call.base);
		KS_COUNT(HTTP_STREAMS, 1);
		ops_of(stream)->open(&stream->call.base);
	}
	if (stream->opened && !stream->closed) {
		if (!stream->held && !deliver_some(stream)) {
			ks_mutex_lock(&stream->call.lock);
			post_locked(stream);
			ks_mutex_unlock(&stream->call.lock);
		}
		if (!stream->held)
			half_close_when_due(stream);
		tell_writable(stream);
	}
	ks_http_flush(request);
	close_when_due(stream);
	ks_http_request_unref(request); /* the task's */
}

/* ---- the writer ---- */

/* The next response in line; *over when the status comes next. */
static struct message *take_message(struct stream *stream, bool *over)
{
	struct message *message;

	ks_mutex_lock(&stream->call.lock);
	message = stream->first;
	if (message) {
		stream->first = message->next;
		if (!stream->first)
			stream->last = &stream->first;
	}
	*over = !message && stream->finished;
	ks_mutex_unlock(&stream->call.lock);
	return message;
}

static void message_sent(struct stream *stream)
{
	struct message *message = stream->sending;

	stream->sending = NULL;
	ks_mutex_lock(&stream->call.lock);
	stream->unsent_count--;
	stream->unsent_bytes -= message->size;
	if (stream->unsent_count == 0 && !stream->finished) {
		stream->writable_due = true;
		post_locked(stream);
	} else if (stream->first_in) {
		post_locked(stream);
	}
	ks_mutex_unlock(&stream->call.lock);
	free_message(message);
}

static void begin_answer(struct stream *stream, struct ks_buf *out)
{
	struct ks_http_request *request = stream->call.request;

	request->keep_alive &= !request->http10;
	ks_gateway_write_head(&stream->call, out, 200);
	ks_buf_printf(out, "%s\r\n", request->http10 ? "" : "Transfer-Encoding: chunked\r\n");
}

static enum http_produced write_end(struct stream *stream, struct ks_buf *out)
{
	struct gateway_call *call = &stream->call;

	if (call->status != KS_OK && !call->head_sent) {
		ks_gateway_write_error(call, out);
	} else {
		if (!call->head_sent)
			begin_answer(stream, out);
		if (call->status != KS_OK)
			ks_gateway_write_error_line(call, &call->piece);
		ks_gateway_write_chunk(call, out);
		ks_gateway_write_last_chunk(call, out);
	}
	ks_mutex_lock(&stream->call.lock);
	stream->dead = true;
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
	return HTTP_DONE;
}

static enum http_produced produce(struct ks_http_request *request, struct ks_buf *out)
{
	struct stream *stream = request->serving;
	struct gateway_call *call = &stream->call;
	enum ks_json_written written;
	bool over = false;

	if (!stream->sending) {
		stream->sending = take_message(stream, &over);
		if (over)
			return write_end(stream, out);
		if (!stream->sending)
			return HTTP_WAIT;
		if (!call->head_sent)
			begin_answer(stream, out);
		if (stream->sending->line) {
			ks_gateway_write_line(call, out, ks_bytes_slice(stream->sending->line));
			message_sent(stream);
			return HTTP_MORE;
		}
		ks_buf_append(&call->piece, "{\"result\":", 10);
	}
	written = ks_json_write(stream->sending->writer, &call->piece, HTTP_PIECE_BYTES);
	if (written == KS_JSON_FAILED)
		return HTTP_ABORT;
	if (written == KS_JSON_DONE)
		ks_buf_append(&call->piece, "}\n", 2);
	ks_gateway_write_chunk(call, out);
	if (written == KS_JSON_DONE)
		message_sent(stream);
	return HTTP_MORE;
}

/* ---- the I/O thread ---- */

/* Hands the value in 'partial' to the handler. */
static bool push_value(struct stream *stream)
{
	struct incoming *value = malloc(sizeof(*value) + stream->partial.size);
	bool room;

	if (!value) {
		finish(&stream->call.base, KS_RESOURCE_EXHAUSTED, "out of memory");
		return false;
	}
	*value = (struct incoming){.size = stream->partial.size};
	if (stream->partial.size)
		memcpy(value->data, stream->partial.data, stream->partial.size);
	ks_buf_fini(&stream->partial);
	ks_mutex_lock(&stream->call.lock);
	*stream->last_in = value;
	stream->last_in = &value->next;
	stream->incoming_bytes += value->size;
	room = stream->incoming_bytes < MAX_INCOMING_BYTES;
	stream->input_paused = !room;
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
	return room;
}

/* False: the stream ends with an error instead. */
static bool keep(struct stream *stream, struct ks_slice piece)
{
	struct ks_http *http = stream->call.request->conn->io->http;

	if (piece.size > http->max_body_bytes - stream->partial.size) {
		finish(&stream->call.base, KS_RESOURCE_EXHAUSTED, "the request message is too large");
		return false;
	}
	if (!ks_http_claim(stream->call.request, piece.size)) {
		finish(&stream->call.base, KS_RESOURCE_EXHAUSTED, "too many large requests at a time");
		return false;
	}
	ks_buf_append_slice(&stream->partial, piece);
	if (!stream->partial.failed)
		return true;
	ks_http_unclaim(stream->call.request, piece.size);
	finish(&stream->call.base, KS_RESOURCE_EXHAUSTED, "out of memory");
	return false;
}

static bool body(struct ks_http_request *request, struct ks_slice piece)
{
	struct stream *stream = request->serving;
	bool room = true, good;

	while (piece.size > 0) {
		size_t taken;
		enum ks_json_found found = ks_json_split(&stream->split, piece, &taken);

		good = found != KS_JSON_BAD;
		if (!good)
			finish(&stream->call.base, KS_INVALID_ARGUMENT, "json: no sequence of JSON values");
		/* White space between values is not kept. */
		if (good && (found == KS_JSON_WHOLE || stream->split.begun))
			good = keep(stream, ks_slice_of(piece.data, taken));
		if (!good)
			return false; /* nothing of the body is looked at any more */
		if (found == KS_JSON_WHOLE) {
			request->patient = true;
			room = push_value(stream);
		}
		piece.data += taken;
		piece.size -= taken;
	}
	return room;
}

static void begin(struct ks_http_request *request)
{
	struct stream *stream = request->serving;
	enum ks_status status;
	const char *refusal;

	ks_http_request_ref(request); /* the handler's */
	refusal = ks_rpc_call_begin(stream->call.base.rpc, &status);
	if (refusal)
		finish(&stream->call.base, status, refusal);
	ks_mutex_lock(&stream->call.lock);
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
}

static void body_complete(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	/* A number at the end, or a value that was cut off, which the parser will tell. */
	if (stream->split.begun)
		(void)push_value(stream);
	ks_mutex_lock(&stream->call.lock);
	stream->input_done = true;
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
}

static void body_failed(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	finish(&stream->call.base, KS_INVALID_ARGUMENT, "the HTTP body is malformed");
}

/* One request message, which may be empty: the body was collected. */
static void single_complete(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	stream->partial = request->body; /* already counted in the server's bodies; the count goes along */
	ks_buf_init(&request->body, SIZE_MAX);
	request->body_counted = 0;
	begin(request);
	(void)push_value(stream);
	body_complete(request);
}

static void gone(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	ks_mutex_lock(&stream->call.lock);
	stream->dead = true;
	post_locked(stream);
	ks_mutex_unlock(&stream->call.lock);
}

static void stop(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	finish(&stream->call.base, KS_UNAVAILABLE, KS_TEXT_STOPPED);
}

static void expired(struct ks_http_request *request)
{
	struct stream *stream = request->serving;

	finish(&stream->call.base, KS_DEADLINE_EXCEEDED, GATEWAY_TEXT_EXPIRED);
}

static void fini(struct ks_http_request *request)
{
	struct stream *stream = request->serving;
	struct incoming *value;
	struct message *message;

	while ((value = stream->first_in)) {
		stream->first_in = value->next;
		ks_http_unclaim(request, value->size);
		free(value);
	}
	while ((message = stream->first)) {
		stream->first = message->next;
		free_message(message);
	}
	if (stream->sending)
		free_message(stream->sending);
	ks_http_unclaim(request, stream->partial.size);
	ks_buf_fini(&stream->partial);
	ks_gateway_call_fini(&stream->call);
	free(stream);
}

static const struct http_ops sequence_ops = {
	.begin = begin,
	.body = body,
	.complete = body_complete,
	.body_failed = body_failed,
	.produce = produce,
	.stream = true,
	.gone = gone,
	.stop = stop,
	.expired = expired,
	.fini = fini,
};

static const struct http_ops single_ops = {
	.complete = single_complete,
	.produce = produce,
	.stream = true,
	.gone = gone,
	.stop = stop,
	.expired = expired,
	.fini = fini,
};

void ks_gateway_stream_route(struct ks_http_request *request, const struct ks_rpc_method *method)
{
	struct stream *stream = ks_xcalloc(1, sizeof(*stream));

	ks_gateway_call_init(&stream->call, &stream_call_ops, request, method);
	stream->call.task.run = run;
	stream->last_in = &stream->first_in;
	stream->last = &stream->first;
	ks_buf_init(&stream->partial, SIZE_MAX);
	request->serving = stream;
	request->ops = method->single_request ? &single_ops : &sequence_ops;
}
