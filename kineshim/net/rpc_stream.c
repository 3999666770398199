/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams. Up to three batches of a stream are in the core at a time, and 'closed' is called when all are back:
 *
 *	recv    the next message; not posted while too much is unsent, nor after the client's last message
 *	close   from the first moment without a recv to the end: tells that the client cancelled, or that the status is out
 *	send    one message, or the status behind the last one
 *
 * A recv comes back when the client cancels, so a stream that is read needs no close yet. Thousands of idle streams have one batch in
 * the core each, then, and not two: for each completion the core looks through all that are outstanding (rpc_call.c).
 *
 * A stream whose handler allows it does not always ask for the next message at once: see rest.h.
 *
 * Any thread puts messages into the stream's queue. The queue's thread sends at the end of its turn, so that what one turn
 * produced leaves together: all but the last message carry the hint that more is coming, and the core gathers them.
 */
#include "net/rpc_priv.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/rest.h"

#define MAX_UNSENT_MESSAGES 256
#define MAX_UNSENT_BYTES (1024 * 1024)

struct message {
	struct message *next;
	struct ks_out out;
	size_t size;
};

struct rpc_stream {
	/* queue thread */
	struct rpc_call call; /* its tag: the posted request, later the close batch */
	struct rpc_tag recv_tag, send_tag;
	grpc_byte_buffer *incoming;
	grpc_byte_buffer *sending; /* made for the first message, and filled anew for each */
	bool in_flight;            /* a message is in the core, of this size */
	size_t in_flight_size;
	unsigned batches;  /* in the core */
	bool receiving;    /* a recv batch is in the core */
	bool closing;      /* the close batch was started */
	bool received_all; /* half-closed, or we do not want more */
	bool held;         /* the handler does not take messages yet */
	struct ks_rest rest;
	struct ks_list resting; /* queue->resting, or nowhere */
	int64_t asked_us;       /* when the recv batch was started */
	int64_t rested_us;      /* when the rest is over */
	bool headers_sent, status_sent;
	bool writes; /* the batch that sends does not only leave the message with the core */
	bool on_unsent;
	struct rpc_stream *next_unsent;
	struct ks_list node; /* queue->streams */
	struct ks_task wake; /* puts the stream on queue->unsent */

	/* any thread */
	struct ks_mutex lock;
	struct message *first, **end;      /* guarded: not yet given to the core */
	size_t unsent_count, unsent_bytes; /* guarded: these, and the one in flight */
	bool wake_posted;                  /* guarded */
	bool finished, dead;               /* guarded: no more sends; call.status is set; the client is gone */
};

static void stream_arrived(struct rpc_tag *tag, bool ok);
static void stream_begins(struct ks_task *task);
static void stream_refused(struct rpc_tag *tag, bool ok);
static void stream_close_done(struct rpc_tag *tag, bool ok);
static void stream_recv_done(struct rpc_tag *tag, bool ok);
static void stream_send_done(struct rpc_tag *tag, bool ok);
static void stream_woken(struct ks_task *task);
static void stream_finish(struct ks_call *call, enum ks_status status, const char *text);
static const struct ks_call_ops stream_ops;

static struct rpc_stream *stream_of(struct ks_call *call)
{
	return ks_container_of(call, struct rpc_stream, call.base);
}

static const struct ks_stream_ops *ops_of(const struct rpc_stream *stream)
{
	return stream->call.slot->method->stream;
}

static struct rpc_stream *new_stream(struct rpc_queue *queue, struct rpc_slot *slot)
{
	struct rpc_stream *stream = ks_xmalloc(sizeof(*stream));

	*stream = (struct rpc_stream){
		.wake.run = stream_woken,
	};
	ks_rpc_call_init(&stream->call, &stream_ops, queue, slot);
	stream->call.task.run = stream_begins;
	ks_list_init(&stream->node);
	ks_list_init(&stream->resting);
	ks_mutex_init(&stream->lock);
	stream->end = &stream->first;
	return stream;
}

static void free_stream(struct rpc_stream *stream)
{
	ks_rpc_call_fini(&stream->call);
	if (stream->sending)
		grpc_byte_buffer_destroy(stream->sending);
	if (stream->call.call) /* it arrived */
		atomic_fetch_sub_explicit(&stream->call.base.queue->streams_given, 1, memory_order_relaxed);
	ks_mutex_fini(&stream->lock);
	free(stream);
}

static void free_message(struct message *message)
{
	KS_COUNT(PENDING_EVENTS, -1);
	ks_out_fini(&message->out);
	free(message);
}

void ks_rpc_post_stream(struct rpc_queue *queue, struct rpc_slot *slot)
{
	struct rpc_queue *place = ks_rpc_load_place(queue->rpc, slot->method->stream);
	struct rpc_stream *stream = new_stream(place, slot);
	struct rpc_call *call = &stream->call;
	grpc_call_error error;

	ks_rpc_tag_is(&call->tag, stream_arrived);
	grpc_metadata_array_init(&call->metadata);
	error = grpc_server_request_registered_call(queue->rpc->server, slot->handle, &call->call, &call->deadline,
						    &call->metadata, NULL, place->cq, queue->cq, &call->tag);
	KS_ASSERT(error == GRPC_CALL_OK);
}

static void refuse(struct rpc_stream *stream, enum ks_status status, const char *text)
{
	grpc_op ops[3];

	ks_rpc_set_status(&stream->call, status, text);
	ops[0] = ks_rpc_op(GRPC_OP_SEND_INITIAL_METADATA);
	ops[1] = ks_rpc_status_op(&stream->call);
	ops[2] = ks_rpc_op(GRPC_OP_RECV_CLOSE_ON_SERVER);
	ops[2].data.recv_close_on_server.cancelled = &stream->call.cancelled;
	ks_rpc_start_batch(&stream->call, ops, 3, &stream->call.tag, stream_refused);
}

static void stream_refused(struct rpc_tag *tag, bool ok)
{
	(void)ok;
	free_stream(ks_container_of(tag, struct rpc_stream, call.tag));
}

static void start_close(struct rpc_stream *stream)
{
	grpc_op op = ks_rpc_op(GRPC_OP_RECV_CLOSE_ON_SERVER);

	if (stream->closing)
		return;
	op.data.recv_close_on_server.cancelled = &stream->call.cancelled;
	stream->closing = true;
	stream->batches++;
	ks_rpc_start_batch(&stream->call, &op, 1, &stream->call.tag, stream_close_done);
}

static bool reading_paused(struct rpc_stream *stream)
{
	bool paused;

	ks_mutex_lock(&stream->lock);
	paused = stream->unsent_count > MAX_UNSENT_MESSAGES || stream->unsent_bytes > MAX_UNSENT_BYTES ||
		 stream->finished || stream->dead;
	ks_mutex_unlock(&stream->lock);
	return paused;
}

static bool rests(const struct rpc_stream *stream)
{
	return !ks_list_empty(&stream->resting);
}

static void receive_next(struct rpc_stream *stream)
{
	grpc_op op = ks_rpc_op(GRPC_OP_RECV_MESSAGE);

	if (stream->receiving)
		return;
	if (stream->received_all || stream->held || rests(stream) || reading_paused(stream)) {
		start_close(stream);
		return;
	}
	if (ops_of(stream)->rests)
		stream->asked_us = ks_clock_us();
	op.data.recv_message.recv_message = &stream->incoming;
	stream->receiving = true;
	stream->batches++;
	ks_rpc_start_batch(&stream->call, &op, 1, &stream->recv_tag, stream_recv_done);
}

static void rest_when_it_pays(struct rpc_stream *stream)
{
	int64_t now = ops_of(stream)->rests ? ks_clock_us() : 0;

	if (!now || !ks_rest_begins(&stream->rest, now - stream->asked_us))
		return;
	stream->rested_us = now + KS_REST_MS * 1000;
	ks_list_append(&stream->call.base.queue->resting, &stream->resting);
}

gpr_timespec ks_rpc_end_rests(struct rpc_queue *queue, gpr_timespec never)
{
	int64_t now = ks_list_empty(&queue->resting) ? 0 : ks_clock_us();

	while (!ks_list_empty(&queue->resting)) {
		struct rpc_stream *stream = ks_container_of(queue->resting.next, struct rpc_stream, resting);

		if (stream->rested_us > now)
			return (gpr_timespec){.tv_sec = stream->rested_us / 1000000,
					      .tv_nsec = (int32_t)(stream->rested_us % 1000000 * 1000),
					      .clock_type = GPR_CLOCK_MONOTONIC};
		ks_list_remove(&stream->resting);
		receive_next(stream);
	}
	return never;
}

static void stream_arrived(struct rpc_tag *tag, bool ok)
{
	struct rpc_stream *stream = ks_container_of(tag, struct rpc_stream, call.tag);
	enum ks_status status;
	const char *refusal;

	if (!ok) {
		free_stream(stream);
		return;
	}
	/* Before the next request is placed. */
	atomic_fetch_add_explicit(&stream->call.base.queue->streams_given, 1, memory_order_relaxed);
	refusal = ks_rpc_request_arrived(stream->call.base.rpc->queues, &stream->call, &status);
	if (refusal)
		refuse(stream, status, refusal);
	else if (ks_rpc_queue_is_mine(stream->call.base.queue))
		stream_begins(&stream->call.task);
	else
		ks_rpc_queue_post(stream->call.base.queue, &stream->call.task);
}

/* On the thread of the queue that has it. */
static void stream_begins(struct ks_task *task)
{
	struct rpc_stream *stream = ks_container_of(task, struct rpc_stream, call.task);

	ks_list_append(&stream->call.base.queue->streams, &stream->node);
	ks_call_count_begin(&stream->call.base);
	ops_of(stream)->open(&stream->call.base);
	receive_next(stream);
	/* The end may have come to this queue before the stream. */
	if (ks_rpc_stopping(stream->call.base.rpc))
		stream_finish(&stream->call.base, KS_UNAVAILABLE, KS_TEXT_STOPPED);
}

/* With the lock held: nothing that is queued will ever be sent. */
static struct message *drop_unsent(struct rpc_stream *stream)
{
	struct message *dropped = stream->first;

	for (struct message *message = dropped; message; message = message->next) {
		stream->unsent_count--;
		stream->unsent_bytes -= message->size;
	}
	stream->first = NULL;
	stream->end = &stream->first;
	return dropped;
}

static void mark_dead(struct rpc_stream *stream)
{
	struct message *dropped;

	ks_mutex_lock(&stream->lock);
	stream->dead = true;
	dropped = drop_unsent(stream);
	ks_mutex_unlock(&stream->lock);
	while (dropped) {
		struct message *next = dropped->next;

		free_message(dropped);
		dropped = next;
	}
}

static void remove_unsent(struct rpc_stream *stream)
{
	struct rpc_stream **at = &stream->call.base.queue->unsent;

	if (!stream->on_unsent)
		return;
	while (*at != stream)
		at = &(*at)->next_unsent;
	*at = stream->next_unsent;
	stream->on_unsent = false;
}

/* A batch came back. After the last one nothing of the core's points here any more. */
static void batch_done(struct rpc_stream *stream)
{
	if (--stream->batches > 0)
		return;
	mark_dead(stream);
	ks_list_remove(&stream->resting);
	ks_list_remove(&stream->node);
	ks_call_count_end(&stream->call.base, stream->finished ? stream->call.status : KS_CANCELLED);
	ops_of(stream)->closed(&stream->call.base);
	/* Dead streams post no wake, so only an earlier one can be waiting. */
	if (stream->wake_posted)
		(void)ks_rpc_queue_unpost(stream->call.base.queue, &stream->wake);
	remove_unsent(stream);
	free_stream(stream);
}

static void stream_close_done(struct rpc_tag *tag, bool ok)
{
	struct rpc_stream *stream = ks_container_of(tag, struct rpc_stream, call.tag);

	(void)ok;
	mark_dead(stream);
	batch_done(stream);
}

static void deliver(struct rpc_stream *stream, grpc_byte_buffer *buffer)
{
	struct ks_grpc_message message = {0};
	enum ks_status status;
	char text[128];

	status = ks_rpc_check_message(stream->call.base.rpc, buffer, text, sizeof(text));
	if (status) {
		grpc_byte_buffer_destroy(buffer);
		stream_finish(&stream->call.base, status, text);
	} else if (!ks_grpc_message_open(&message, buffer)) {
		stream_finish(&stream->call.base, KS_RESOURCE_EXHAUSTED, "out of memory");
	} else {
		ks_call_count_message(&stream->call.base, message.slice.size);
		ops_of(stream)->message(&stream->call.base, message.slice);
	}
	ks_grpc_message_close(&message);
}

static void stream_recv_done(struct rpc_tag *tag, bool ok)
{
	struct rpc_stream *stream = ks_container_of(tag, struct rpc_stream, recv_tag);
	grpc_byte_buffer *buffer = stream->incoming;

	stream->incoming = NULL;
	stream->receiving = false;
	if (buffer) {
		rest_when_it_pays(stream);
		deliver(stream, buffer);
		receive_next(stream);
	} else {
		stream->received_all = true;
		start_close(stream);
		if (ok && !grpc_call_failed_before_recv_message(stream->call.call))
			ops_of(stream)->half_closed(&stream->call.base);
	}
	batch_done(stream);
}

static void mark_unsent(struct rpc_stream *stream)
{
	struct rpc_queue *queue = stream->call.base.queue;

	if (stream->on_unsent)
		return;
	stream->on_unsent = true;
	stream->next_unsent = queue->unsent;
	queue->unsent = stream;
}

static void stream_woken(struct ks_task *task)
{
	struct rpc_stream *stream = ks_container_of(task, struct rpc_stream, wake);

	ks_mutex_lock(&stream->lock);
	stream->wake_posted = false;
	ks_mutex_unlock(&stream->lock);
	mark_unsent(stream);
}

/* With the lock held. See to it that the queue's thread looks at what is to be sent. */
static void wake_sender(struct rpc_stream *stream)
{
	if (ks_rpc_queue_is_mine(stream->call.base.queue)) {
		mark_unsent(stream);
	} else if (!stream->wake_posted) {
		stream->wake_posted = true;
		ks_rpc_queue_post(stream->call.base.queue, &stream->wake);
	}
}

/* Frees the message but for what it holds, which is the core's from now on. */
static grpc_byte_buffer *give_away(struct rpc_stream *stream, struct message *message)
{
	if (!stream->sending)
		stream->sending = grpc_raw_byte_buffer_create(NULL, 0);
	ks_grpc_bytes_refill(stream->sending, &message->out);
	stream->in_flight = true;
	stream->in_flight_size = message->size;
	free(message);
	return stream->sending;
}

/* Gives the next message or the status to the core, unless a send is on its way. */
static void send_next(struct rpc_stream *stream)
{
	struct message *message;
	grpc_op ops[3];
	size_t count = 0;
	bool more, status;

	if (stream->in_flight || stream->status_sent)
		return;
	ks_mutex_lock(&stream->lock);
	message = stream->first;
	if (message) {
		stream->first = message->next;
		if (!stream->first)
			stream->end = &stream->first;
	}
	more = stream->first != NULL;
	status = stream->finished && !more && !stream->dead;
	ks_mutex_unlock(&stream->lock);
	if (!message && !status)
		return;

	if (!stream->headers_sent)
		ops[count++] = ks_rpc_op(GRPC_OP_SEND_INITIAL_METADATA);
	if (message) {
		ops[count] = ks_rpc_op(GRPC_OP_SEND_MESSAGE);
		/* Never with the headers: the core would write neither, and the batch would not come back. */
		ops[count].flags = more && stream->headers_sent ? GRPC_WRITE_BUFFER_HINT : 0;
		ops[count++].data.send_message.send_message = give_away(stream, message);
	}
	if (status)
		ops[count++] = ks_rpc_status_op(&stream->call);
	stream->headers_sent = true;
	stream->status_sent = status;
	stream->batches++;
	stream->writes = count > 1 || !(ops[0].flags & GRPC_WRITE_BUFFER_HINT);
	if (stream->writes)
		ks_rpc_writes(&stream->call);
	ks_rpc_start_batch(&stream->call, ops, count, &stream->send_tag, stream_send_done);
}

static void stream_send_done(struct rpc_tag *tag, bool ok)
{
	struct rpc_stream *stream = ks_container_of(tag, struct rpc_stream, send_tag);
	bool empty = false;

	if (stream->writes)
		ks_rpc_wrote(&stream->call);
	if (stream->in_flight) {
		stream->in_flight = false;
		ks_mutex_lock(&stream->lock);
		stream->unsent_count--;
		stream->unsent_bytes -= stream->in_flight_size;
		empty = stream->unsent_count == 0 && !stream->finished && !stream->dead;
		ks_mutex_unlock(&stream->lock);
		KS_COUNT(PENDING_EVENTS, -1);
	}
	if (!ok) { /* the close batch tells why */
		mark_dead(stream);
	} else {
		send_next(stream);
		if (empty)
			ops_of(stream)->writable(&stream->call.base);
		receive_next(stream);
	}
	batch_done(stream);
}

void ks_rpc_send_unsent(struct rpc_queue *queue)
{
	struct rpc_stream *stream;

	while ((stream = queue->unsent)) {
		queue->unsent = stream->next_unsent;
		stream->on_unsent = false;
		send_next(stream);
	}
}

static void stream_send(struct ks_call *call, struct ks_out *out, const char *empty_list)
{
	struct rpc_stream *stream = stream_of(call);
	struct message *message;
	size_t size = ks_out_size(out);
	bool taken = false;

	(void)empty_list;
	if (ks_out_failed(out)) {
		ks_out_fini(out);
		stream_finish(call, KS_RESOURCE_EXHAUSTED, "grpc: response is larger than max");
		return;
	}
	message = ks_xmalloc(sizeof(*message));
	*message = (struct message){.out = *out, .size = size};
	ks_out_init(out, out->max);
	KS_COUNT(PENDING_EVENTS, 1);
	ks_mutex_lock(&stream->lock);
	if (!stream->dead && !stream->finished) {
		*stream->end = message;
		stream->end = &message->next;
		stream->unsent_count++;
		stream->unsent_bytes += size;
		wake_sender(stream);
		taken = true;
	}
	ks_mutex_unlock(&stream->lock);
	if (!taken)
		free_message(message);
}

static size_t stream_queued(struct ks_call *call, size_t *bytes)
{
	struct rpc_stream *stream = stream_of(call);
	size_t count;

	ks_mutex_lock(&stream->lock);
	count = stream->unsent_count;
	if (bytes)
		*bytes = stream->unsent_bytes;
	ks_mutex_unlock(&stream->lock);
	return count;
}

static void stream_finish(struct ks_call *call, enum ks_status status, const char *text)
{
	struct rpc_stream *stream = stream_of(call);

	ks_mutex_lock(&stream->lock);
	if (!stream->dead && !stream->finished) {
		ks_rpc_set_status(&stream->call, status, text);
		stream->finished = true;
		wake_sender(stream);
	}
	ks_mutex_unlock(&stream->lock);
}

static void stream_hold(struct ks_call *call, bool held)
{
	struct rpc_stream *stream = stream_of(call);

	stream->held = held;
	if (!held)
		receive_next(stream);
}

static const struct ks_call_ops stream_ops = {
	.send = stream_send,
	.queued = stream_queued,
	.finish = stream_finish,
	.hold = stream_hold,
	.metadata = ks_rpc_metadata,
	.peer = ks_rpc_peer,
	.identity = ks_rpc_identity,
};

void ks_rpc_end_streams(struct rpc_queue *queue)
{
	for (struct ks_list *at = queue->streams.next; at != &queue->streams; at = at->next) {
		struct rpc_stream *stream = ks_container_of(at, struct rpc_stream, node);

		stream_finish(&stream->call.base, KS_UNAVAILABLE, KS_TEXT_STOPPED);
	}
}
