/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls and their frames (h2_call.h). The way of a call:
 *
 *   waiting ──(the server has a stream for it)──> open ──(its last frame)──> answered, and free for the next one
 *                                                 │  ▲
 *                       (larger than the windows) ▼  │ (all is put)
 *                                                sending
 *
 * Frames are put into the connection's 'out', which h2_calls.c writes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/panic.h"
#include "tests/bench/h2_call_priv.h"

#define OUT_FULL (1 << 20) /* of a connection; more waits in its calls */
#define OUT_MAX (64 << 20) /* with what a server makes us answer, and does not take */
#define PLACES_FIRST 64
#define REASON_CANCEL 8

void h2_mark_dirty(struct h2_connection *connection)
{
	if (ks_list_empty(&connection->link))
		ks_list_append(&connection->calls->dirty, &connection->link);
}

/* ---- calls by the number of their stream ---- */

static struct call **place_of(const struct h2_connection *connection, uint32_t id)
{
	return &connection->open[id / 2 & (connection->places - 1)];
}

/* The pointer to it; to NULL when there is none. */
static struct call **find(const struct h2_connection *connection, uint32_t id)
{
	struct call **at = place_of(connection, id);

	while (*at && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

static void grow(struct h2_connection *connection)
{
	struct call **old = connection->open;
	size_t places = connection->places;

	connection->places = places ? places * 2 : PLACES_FIRST;
	connection->open = ks_xcalloc(connection->places, sizeof(struct call *));
	for (size_t i = 0; i < places; i++) {
		for (struct call *call = old[i], *next; call; call = next) {
			struct call **at = place_of(connection, call->id);

			next = call->next;
			call->next = *at;
			*at = call;
		}
	}
	free(old);
}

/* ---- the end of a call ---- */

static void answer(struct h2_connection *connection, struct call *call, const struct etcdc_err *err,
		   struct ks_slice bytes)
{
	struct etcdc_result result = {.err = err, .bytes = bytes};

	ks_list_remove(&call->link);
	connection->calls->unanswered--;
	call->done(call->arg, &result);
	/* Only now: what 'bytes' are in is not to be the next call's. */
	call->message = ks_slice_of(NULL, 0);
	ks_buf_reset(&call->at);
	ks_buf_reset(&call->request);
	ks_list_append(&connection->calls->spare, &call->link);
}

static void fail(struct h2_connection *connection, struct call *call, enum ks_status status, const char *why)
{
	struct etcdc_err err = {.status = status, .sent = true};

	(void)snprintf(err.text, sizeof(err.text), "%s: %s", connection->endpoint, why);
	answer(connection, call, &err, ks_slice_of(NULL, 0));
}

static void take_from_open(struct h2_connection *connection, struct call **at)
{
	struct call *call = *at;

	*at = call->next;
	connection->count--;
	if (!ks_list_empty(&connection->waiting))
		h2_mark_dirty(connection);
}

/* The server is done with it. */
static void finish(struct h2_connection *connection, struct call **at)
{
	static const struct etcdc_err none = {.status = KS_OK};
	struct call *call = *at;
	uint8_t reason[4];

	take_from_open(connection, at);
	if (call->put < call->request.size) {
		h2_put_u32(reason, REASON_CANCEL);
		h2_put_frame(&connection->out, H2_RST_STREAM, 0, call->id, reason, sizeof(reason));
		h2_mark_dirty(connection);
	}
	if (call->message.data && !call->at.size)
		answer(connection, call, &none, call->message);
	else if (call->at.size && h2_message_size(call->at.data, call->at.size) == call->at.size)
		answer(connection, call, &none,
		       ks_slice_of(call->at.data + H2_GRPC_HEAD, call->at.size - H2_GRPC_HEAD));
	else
		fail(connection, call, KS_UNKNOWN, "an answer without a message; --grpc tells why");
}

void h2_end(struct h2_connection *connection, const char *why)
{
	struct ks_list *link;

	if (connection->ended)
		return;
	connection->ended = true;
	(void)epoll_ctl(connection->calls->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
	(void)shutdown(connection->fd, SHUT_RDWR);
	ks_list_remove(&connection->link);
	while ((link = ks_list_pop(&connection->waiting)))
		fail(connection, ks_container_of(link, struct call, link), KS_UNAVAILABLE, why);
	for (size_t i = 0; i < connection->places; i++) {
		while (connection->open[i]) {
			struct call *call = connection->open[i];

			take_from_open(connection, &connection->open[i]);
			fail(connection, call, KS_UNAVAILABLE, why);
		}
	}
}

/* ---- writing ---- */

static bool has_room(const struct h2_connection *connection)
{
	return connection->out.size - connection->written < OUT_FULL;
}

static bool has_stream(const struct h2_connection *connection)
{
	return connection->settled && connection->count < connection->limit && has_room(connection);
}

/* False: it has no more numbers. */
static bool open_call(struct h2_connection *connection, struct call *call)
{
	struct call **at;

	if (connection->next_id > H2_WINDOW_MAX)
		return false;
	if (connection->count >= connection->places)
		grow(connection);
	call->id = connection->next_id;
	connection->next_id += 2;
	call->window = connection->first_window;
	at = place_of(connection, call->id);
	call->next = *at;
	*at = call;
	connection->count++;
	h2_put_headers(&connection->out, &connection->table, call->id, call->path, connection->endpoint);
	return true;
}

/* The whole request as one frame, when that may be. */
static bool put_at_once(struct h2_connection *connection, struct call *call, struct ks_slice request)
{
	int64_t size = H2_GRPC_HEAD + (int64_t)request.size;

	if (size > H2_FRAME_MAX || size > connection->window || size > call->window ||
	    !ks_list_empty(&connection->sending))
		return false;
	connection->window -= size;
	h2_put_frame_head(&connection->out, H2_DATA, H2_END_STREAM, call->id, (size_t)size);
	h2_put_message_head(&connection->out, request.size);
	ks_buf_append_slice(&connection->out, request);
	return true;
}

/* As much of the request as the windows have room for. */
static void put_more(struct h2_connection *connection, struct call *call)
{
	while (call->put < call->request.size && connection->window > 0 && call->window > 0 && has_room(connection)) {
		int64_t size = (int64_t)(call->request.size - call->put);
		bool last;

		size = size < H2_FRAME_MAX ? size : H2_FRAME_MAX;
		size = size < connection->window ? size : connection->window;
		size = size < call->window ? size : call->window;
		last = call->put + (size_t)size == call->request.size;
		h2_put_frame(&connection->out, H2_DATA, last ? H2_END_STREAM : 0, call->id,
			     call->request.data + call->put, (size_t)size);
		connection->window -= size;
		call->window -= size;
		call->put += (size_t)size;
	}
}

bool h2_put_waiting(struct h2_connection *connection)
{
	while (!ks_list_empty(&connection->waiting) && has_stream(connection)) {
		struct call *call = ks_container_of(connection->waiting.next, struct call, link);

		if (!open_call(connection, call))
			return false;
		ks_list_remove(&call->link);
		ks_list_append(&connection->sending, &call->link);
	}
	for (struct ks_list *at = connection->sending.next, *next; at != &connection->sending; at = next) {
		struct call *call = ks_container_of(at, struct call, link);

		if (connection->window <= 0 || !has_room(connection))
			break;
		next = at->next;
		put_more(connection, call);
		if (call->put == call->request.size)
			ks_list_remove(&call->link);
	}
	return true;
}

/* ---- reading ---- */

/* The whole answer; a call whose request is not all sent is in another list than 'held'. */
static bool lies_whole(const struct call *call, const struct h2_frame *frame)
{
	return call->put == call->request.size && !call->message.data && !call->at.size && frame->size > 0 &&
	       h2_message_size(frame->payload, frame->size) == frame->size;
}

static bool on_data(struct h2_connection *connection, const struct h2_frame *frame)
{
	struct call **at = find(connection, frame->id), *call = *at;

	if (frame->flags & H2_PADDED)
		return false;
	if (h2_count_taken(&connection->taken, frame->size)) {
		h2_put_window_update(&connection->out, 0, connection->taken);
		connection->taken = 0;
		h2_mark_dirty(connection);
	}
	if (!call) /* what was still under way when it ended */
		return true;
	if (lies_whole(call, frame)) {
		call->message = ks_slice_of(frame->payload + H2_GRPC_HEAD, frame->size - H2_GRPC_HEAD);
		ks_list_append(&connection->calls->held, &call->link);
	} else {
		ks_buf_append(&call->at, frame->payload, frame->size);
	}
	if (call->at.failed)
		return false;
	if (frame->flags & H2_END_STREAM)
		finish(connection, at);
	return true;
}

static bool on_reset(struct h2_connection *connection, const struct h2_frame *frame)
{
	struct call **at = find(connection, frame->id), *call = *at;
	char why[64];

	if (frame->size != 4)
		return false;
	if (!call)
		return true;
	(void)snprintf(why, sizeof(why), "the server reset the call, reason %u", (unsigned)h2_get_u32(frame->payload));
	take_from_open(connection, at);
	fail(connection, call, KS_CANCELLED, why);
	return true;
}

static void set_first_window(struct h2_connection *connection, int64_t window)
{
	for (struct ks_list *at = connection->sending.next; at != &connection->sending; at = at->next)
		ks_container_of(at, struct call, link)->window += window - connection->first_window;
	connection->first_window = window;
}

static void on_settings(struct h2_connection *connection, const struct h2_frame *frame)
{
	unsigned setting;
	uint32_t value;

	if (frame->flags & H2_ACK)
		return;
	connection->settled = true;
	for (uint32_t at = 0; h2_setting(frame, at, &setting, &value); at += 6) {
		if (setting == H2_HEADER_TABLE_SIZE)
			h2_table_limit(&connection->table, value);
		if (setting == H2_MAX_CONCURRENT_STREAMS)
			connection->limit = value;
		if (setting == H2_INITIAL_WINDOW_SIZE)
			set_first_window(connection, value);
	}
	h2_put_frame(&connection->out, H2_SETTINGS, H2_ACK, 0, NULL, 0);
	h2_mark_dirty(connection);
}

static bool on_window_update(struct h2_connection *connection, const struct h2_frame *frame)
{
	struct call *call;
	uint32_t bytes;

	if (frame->size != 4)
		return false;
	bytes = h2_get_u32(frame->payload) & H2_WINDOW_MAX;
	if (frame->id == 0)
		connection->window += bytes;
	else if ((call = *find(connection, frame->id)))
		call->window += bytes;
	if (!ks_list_empty(&connection->sending))
		h2_mark_dirty(connection);
	return true;
}

bool h2_on_frame(void *arg, const struct h2_frame *frame)
{
	struct h2_connection *connection = arg;
	struct call **at;

	switch (frame->type) {
	case H2_DATA:
		return on_data(connection, frame);
	case H2_HEADERS:
		at = frame->flags & H2_END_STREAM ? find(connection, frame->id) : NULL;
		if (at && *at)
			finish(connection, at);
		return true;
	case H2_RST_STREAM:
		return on_reset(connection, frame);
	case H2_SETTINGS:
		on_settings(connection, frame);
		return true;
	case H2_PING:
		if (frame->flags & H2_ACK)
			return true;
		h2_put_frame(&connection->out, H2_PING, H2_ACK, 0, frame->payload, frame->size);
		h2_mark_dirty(connection);
		return true;
	case H2_GOAWAY:
		h2_end(connection, "the server goes away");
		return false;
	case H2_WINDOW_UPDATE:
		return on_window_update(connection, frame);
	default: /* priorities, continuations of headers that we do not read, and what is not invented yet */
		return true;
	}
}

void h2_keep_held(struct h2_calls *calls)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&calls->held))) {
		struct call *call = ks_container_of(link, struct call, link);

		ks_buf_append(&call->at, call->message.data - H2_GRPC_HEAD, call->message.size + H2_GRPC_HEAD);
		call->message = ks_slice_of(NULL, 0);
	}
}

/* ---- the beginning of a call ---- */

static struct call *new_call(struct h2_calls *calls)
{
	struct ks_list *link = ks_list_pop(&calls->spare);
	struct call *call;

	if (link)
		return ks_container_of(link, struct call, link);
	call = ks_xcalloc(1, sizeof(*call));
	ks_list_init(&call->link);
	ks_buf_init(&call->request, H2_MESSAGE_MAX);
	ks_buf_init(&call->at, H2_MESSAGE_MAX);
	return call;
}

static void refuse(const struct h2_connection *connection, etcdc_done_fn *done, void *arg)
{
	struct etcdc_err err = {.status = KS_UNAVAILABLE};
	struct etcdc_result result = {.err = &err};

	(void)snprintf(err.text, sizeof(err.text), "%s: the connection has ended", connection->endpoint);
	done(arg, &result);
}

static struct ks_slice pack(struct ks_buf *packed, const ProtobufCMessage *request)
{
	size_t size = protobuf_c_message_get_packed_size(request);

	KS_ASSERT(ks_buf_reserve(packed, size));
	(void)protobuf_c_message_pack(request, packed->data);
	return ks_slice_of(packed->data, size);
}

void h2_call(struct h2_connection *connection, const struct etcdc_method *method, const void *message,
	     etcdc_done_fn *done, void *arg)
{
	struct ks_slice request;
	struct call *call;
	bool opened;

	if (connection->ended) {
		refuse(connection, done, arg);
		return;
	}
	request = pack(&connection->calls->packed, message);
	call = new_call(connection->calls);
	call->path = method->path;
	call->done = done;
	call->arg = arg;
	call->put = 0;
	connection->calls->unanswered++;
	h2_mark_dirty(connection);
	opened = ks_list_empty(&connection->waiting) && has_stream(connection) && open_call(connection, call);
	if (opened && put_at_once(connection, call, request))
		return;
	h2_put_message_head(&call->request, request.size);
	ks_buf_append_slice(&call->request, request);
	KS_ASSERT(!call->request.failed);
	ks_list_append(opened ? &connection->sending : &connection->waiting, &call->link);
}

void h2_call_free(struct call *call)
{
	ks_buf_fini(&call->request);
	ks_buf_fini(&call->at);
	free(call);
}

/* ---- connections ---- */

struct h2_connection *h2_connection_new(struct h2_calls *calls, const char *endpoint, int fd)
{
	struct h2_connection *connection = ks_xcalloc(1, sizeof(*connection));

	*connection = (struct h2_connection){.calls = calls,
					     .endpoint = endpoint,
					     .fd = fd,
					     .window = H2_WINDOW_FIRST,
					     .first_window = H2_WINDOW_FIRST,
					     .limit = UINT32_MAX,
					     .next_id = 1};
	ks_list_init(&connection->link);
	ks_list_init(&connection->waiting);
	ks_list_init(&connection->sending);
	ks_buf_init(&connection->rest, H2_FRAME_HEAD + H2_FRAME_MAX);
	ks_buf_init(&connection->out, OUT_MAX);
	grow(connection);
	h2_put_greeting(&connection->out);
	return connection;
}

void h2_connection_free(struct h2_connection *connection)
{
	ks_buf_fini(&connection->rest);
	ks_buf_fini(&connection->out);
	free(connection->open);
	free(connection);
}
