/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stream: a queue of messages to send (gRPC takes one at a time), and reading one message after the other, either into a
 * call-back or when somebody asks for one.
 *
 * Three batches are in flight at most: status (with the metadata, from open to end), one send, one receive. The stream has
 * ended when the status is known and a receive came back empty. It is freed by whoever is last: its owner or a batch.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/panic.h"
#include "client/client_priv.h"

struct outgoing {
	struct ks_list link;
	grpc_slice bytes;
};

struct etcdc_stream {
	struct etcdc *client;
	const struct etcdc_method *method;
	const struct etcdc_stream_ops *ops;
	void *arg;
	grpc_call *call;
	size_t endpoint;
	struct etcdc_tag on_status, on_send, on_receive;
	grpc_metadata_array initial, trailing;
	grpc_status_code code;
	grpc_slice details;
	grpc_byte_buffer *incoming;

	struct ks_mutex mutex;
	/* All below: under mutex. */
	struct ks_cond changed; /* a message is ready, the stream has ended, or a call-back has returned */
	unsigned refs;          /* the owner and each batch in flight */
	struct ks_list queue;   /* struct outgoing */
	size_t queued_bytes;
	bool sending, half_close, half_closed;
	bool receiving, at_end; /* at_end: a receive came back empty */
	bool has_status, ended;
	bool closed; /* by the owner: no more call-backs */
	bool in_callback;
	void *ready;          /* read and not yet taken by etcdc_stream_recv */
	struct etcdc_err err; /* valid with has_status */
};

static void unlock_and_unref(struct etcdc_stream *stream) KS_RELEASES(stream->mutex)
{
	struct etcdc *client = stream->client;
	bool last = --stream->refs == 0;
	struct ks_list *link;

	ks_mutex_unlock(&stream->mutex);
	if (!last)
		return;
	while ((link = ks_list_pop(&stream->queue))) {
		struct outgoing *outgoing = ks_container_of(link, struct outgoing, link);

		grpc_slice_unref(outgoing->bytes);
		free(outgoing);
	}
	if (stream->incoming)
		grpc_byte_buffer_destroy(stream->incoming);
	etcdc_free(stream->ready);
	grpc_slice_unref(stream->details);
	grpc_metadata_array_destroy(&stream->initial);
	grpc_metadata_array_destroy(&stream->trailing);
	grpc_call_unref(stream->call);
	ks_cond_fini(&stream->changed);
	ks_mutex_fini(&stream->mutex);
	free(stream);
	etcdc_user_done(client);
}

/* Counts the batch before it starts, because it may end on the client's thread at once. */
static void start(struct etcdc_stream *stream, const grpc_op *ops, size_t count, struct etcdc_tag *tag)
	KS_REQUIRES(stream->mutex)
{
	stream->refs++;
	etcdc_start_batch(stream->call, ops, count, tag);
}

static void send_next(struct etcdc_stream *stream) KS_REQUIRES(stream->mutex)
{
	struct ks_list *link;
	grpc_op op;

	if (stream->sending || stream->has_status)
		return;
	memset(&op, 0, sizeof(op));
	link = ks_list_pop(&stream->queue);
	if (link) {
		struct outgoing *outgoing = ks_container_of(link, struct outgoing, link);
		grpc_byte_buffer *buffer = etcdc_buffer_of(outgoing->bytes);

		stream->queued_bytes -= GRPC_SLICE_LENGTH(outgoing->bytes);
		op.op = GRPC_OP_SEND_MESSAGE;
		op.data.send_message.send_message = buffer;
		stream->sending = true;
		start(stream, &op, 1, &stream->on_send);
		grpc_byte_buffer_destroy(buffer);
		grpc_slice_unref(outgoing->bytes);
		free(outgoing);
	} else if (stream->half_close && !stream->half_closed) {
		op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		stream->half_closed = true;
		stream->sending = true;
		start(stream, &op, 1, &stream->on_send);
	}
}

static void sent(struct etcdc_tag *tag, bool ok)
{
	struct etcdc_stream *stream = ks_container_of(tag, struct etcdc_stream, on_send);

	ks_mutex_lock(&stream->mutex);
	stream->sending = false;
	if (ok)
		send_next(stream);
	unlock_and_unref(stream);
}

static void receive(struct etcdc_stream *stream) KS_REQUIRES(stream->mutex)
{
	grpc_op op;

	if (stream->receiving || stream->at_end)
		return;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &stream->incoming;
	stream->receiving = true;
	start(stream, &op, 1, &stream->on_receive);
}

/* Runs the call-back that fits without the lock, unless the owner has closed the stream. */
static void call_back(struct etcdc_stream *stream, const void *message, grpc_slice bytes) KS_REQUIRES(stream->mutex)
{
	struct etcdc_err err = stream->err;

	if (stream->closed || !stream->ops)
		return;
	stream->in_callback = true;
	ks_mutex_unlock(&stream->mutex);
	if (message)
		stream->ops->message(stream->arg, message);
	else if (stream->ended)
		stream->ops->ended(stream->arg, &err);
	else
		stream->ops->bytes(stream->arg, ks_slice_of(GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes)));
	ks_mutex_lock(&stream->mutex);
	stream->in_callback = false;
	ks_cond_broadcast(&stream->changed);
}

static void end_if_over(struct etcdc_stream *stream) KS_REQUIRES(stream->mutex)
{
	if (!stream->has_status || !stream->at_end || stream->ended)
		return;
	stream->ended = true;
	ks_cond_broadcast(&stream->changed);
	call_back(stream, NULL, grpc_empty_slice());
}

static void received(struct etcdc_tag *tag, bool ok)
{
	struct etcdc_stream *stream = ks_container_of(tag, struct etcdc_stream, on_receive);
	bool raw = stream->ops && stream->ops->bytes, got = ok && stream->incoming, broken = false;
	grpc_slice bytes = grpc_empty_slice();
	void *message = NULL;

	if (got && raw) {
		bytes = etcdc_flatten(stream->incoming);
	} else if (got) {
		message = etcdc_decode(stream->method->response, stream->incoming);
		broken = !message;
	}
	if (stream->incoming)
		grpc_byte_buffer_destroy(stream->incoming);
	stream->incoming = NULL;

	ks_mutex_lock(&stream->mutex);
	stream->receiving = false;
	if (broken) {
		(void)grpc_call_cancel_with_status(stream->call, GRPC_STATUS_INTERNAL,
						   "etcdc: a message cannot be decoded", NULL);
		receive(stream);
	} else if (!got) {
		stream->at_end = true;
		end_if_over(stream);
	} else if (stream->ops) {
		call_back(stream, message, bytes);
		etcdc_free(message);
		if (!stream->closed)
			receive(stream);
	} else {
		stream->ready = message;
		ks_cond_broadcast(&stream->changed);
	}
	grpc_slice_unref(bytes);
	unlock_and_unref(stream);
}

static void status_received(struct etcdc_tag *tag, bool ok)
{
	struct etcdc_stream *stream = ks_container_of(tag, struct etcdc_stream, on_status);
	bool reached;

	(void)ok; /* a batch that receives the status always succeeds */
	reached = etcdc_call_was_sent(stream->client, stream->endpoint, stream->call, stream->code, stream->details);
	ks_mutex_lock(&stream->mutex);
	etcdc_err_of(&stream->err, stream->code, stream->details, reached);
	stream->has_status = true;
	end_if_over(stream);
	unlock_and_unref(stream);
	/* 'stream' may be gone. */
}

struct etcdc_stream *etcdc_stream_open(struct etcdc *client, const struct etcdc_method *method,
				       const struct etcdc_stream_options *options)
{
	struct etcdc_stream *stream = ks_xcalloc(1, sizeof(*stream));
	grpc_metadata metadata[ETCDC_METADATA_MAX];
	size_t metadata_count;
	grpc_op ops[3];

	stream->client = client;
	stream->method = method;
	stream->ops = options ? options->ops : NULL;
	stream->arg = options ? options->arg : NULL;
	stream->on_status.done = status_received;
	stream->on_send.done = sent;
	stream->on_receive.done = received;
	grpc_metadata_array_init(&stream->initial);
	grpc_metadata_array_init(&stream->trailing);
	stream->details = grpc_empty_slice();
	ks_mutex_init(&stream->mutex);
	ks_cond_init(&stream->changed);
	ks_list_init(&stream->queue);
	stream->refs = 1;

	ks_mutex_lock(&client->mutex);
	KS_ASSERT(!client->closing);
	client->users++;
	client->open_streams++;
	metadata_count = etcdc_metadata(client, true, metadata);
	stream->call = etcdc_call_new(client, method->path, etcdc_deadline(options ? options->timeout_ms : 0),
				      &stream->endpoint);
	ks_mutex_unlock(&client->mutex);

	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[0].data.send_initial_metadata.count = metadata_count;
	ops[0].data.send_initial_metadata.metadata = metadata;
	ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[1].data.recv_initial_metadata.recv_initial_metadata = &stream->initial;
	ops[2].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[2].data.recv_status_on_client.trailing_metadata = &stream->trailing;
	ops[2].data.recv_status_on_client.status = &stream->code;
	ops[2].data.recv_status_on_client.status_details = &stream->details;
	ks_mutex_lock(&stream->mutex);
	start(stream, ops, 3, &stream->on_status);
	if (stream->ops)
		receive(stream);
	ks_mutex_unlock(&stream->mutex);
	etcdc_metadata_done(metadata, metadata_count);
	return stream;
}

static bool enqueue(struct etcdc_stream *stream, grpc_slice bytes)
{
	struct outgoing *outgoing = ks_xmalloc(sizeof(*outgoing));
	bool taken = false;

	outgoing->bytes = bytes;
	ks_list_init(&outgoing->link);
	ks_mutex_lock(&stream->mutex);
	if (!stream->has_status && !stream->half_close &&
	    stream->queued_bytes + GRPC_SLICE_LENGTH(bytes) <= ETCDC_STREAM_QUEUE_MAX) {
		stream->queued_bytes += GRPC_SLICE_LENGTH(bytes);
		ks_list_append(&stream->queue, &outgoing->link);
		send_next(stream);
		taken = true;
	}
	ks_mutex_unlock(&stream->mutex);
	if (!taken) {
		grpc_slice_unref(bytes);
		free(outgoing);
	}
	return taken;
}

bool etcdc_stream_send(struct etcdc_stream *stream, const void *message)
{
	return enqueue(stream, etcdc_encode(message));
}

bool etcdc_stream_send_raw(struct etcdc_stream *stream, struct ks_slice message)
{
	return enqueue(stream, grpc_slice_from_copied_buffer((const char *)message.data, message.size));
}

void etcdc_stream_half_close(struct etcdc_stream *stream)
{
	ks_mutex_lock(&stream->mutex);
	stream->half_close = true;
	send_next(stream);
	ks_mutex_unlock(&stream->mutex);
}

void etcdc_stream_cancel(struct etcdc_stream *stream)
{
	(void)grpc_call_cancel(stream->call, NULL);
}

enum ks_status etcdc_stream_recv(struct etcdc_stream *stream, int64_t wait_ms, void **message, struct etcdc_err *err)
{
	int64_t deadline_ms = ks_clock_now(ks_clock_system()) + wait_ms, left_ms = wait_ms;
	enum ks_status status;

	KS_ASSERT(!stream->ops && !etcdc_on_thread(stream->client));
	*message = NULL;
	ks_mutex_lock(&stream->mutex);
	if (!stream->ready)
		receive(stream);
	while (!stream->ready && !stream->ended) {
		if (wait_ms >= 0 && left_ms <= 0)
			break;
		(void)ks_cond_wait(&stream->changed, &stream->mutex, left_ms);
		left_ms = wait_ms < 0 ? -1 : deadline_ms - ks_clock_now(ks_clock_system());
	}
	if (stream->ready) {
		*message = stream->ready;
		stream->ready = NULL;
		status = etcdc_fail(err, KS_OK, true, "");
	} else if (stream->ended) {
		status = stream->err.status;
		if (err)
			*err = stream->err;
	} else {
		status = etcdc_fail(err, KS_DEADLINE_EXCEEDED, true, "no message yet");
	}
	ks_mutex_unlock(&stream->mutex);
	return status;
}

void etcdc_stream_close(struct etcdc_stream *stream)
{
	if (!stream)
		return;
	ks_mutex_lock(&stream->client->mutex);
	stream->client->open_streams--;
	ks_mutex_unlock(&stream->client->mutex);
	ks_mutex_lock(&stream->mutex);
	stream->closed = true;
	if (!stream->has_status)
		(void)grpc_call_cancel(stream->call, NULL);
	while (stream->in_callback && !etcdc_on_thread(stream->client))
		(void)ks_cond_wait(&stream->changed, &stream->mutex, -1);
	unlock_and_unref(stream);
}

size_t etcdc_stream_endpoint(const struct etcdc_stream *stream)
{
	return stream->endpoint;
}
