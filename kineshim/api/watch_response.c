/* SPDX-License-Identifier: Apache-2.0 */
/* Responses of a watch stream: from events to bytes, shared where several watches get the same. */
#include "api/watch_priv.h"

/* All but the header. */
static void write_response_fields(struct ks_out *out, const struct response *response)
{
	ks_wire_uint(&out->buf, 2, (uint64_t)response->watch_id);
	ks_wire_uint(&out->buf, 3, response->created);
	ks_wire_uint(&out->buf, 4, response->canceled);
	ks_wire_uint(&out->buf, 5, (uint64_t)response->compact_revision);
	if (response->cancel_reason)
		ks_wire_bytes(&out->buf, 6, ks_slice_str(response->cancel_reason));
	ks_wire_uint(&out->buf, 7, response->fragment);
}

void ks_api_watch_write_head(struct stream *stream, struct ks_out *out, const struct response *response)
{
	ks_api_write_header(stream->api, &out->buf, 1, response->revision);
	write_response_fields(out, response);
}

/* Before each response. */
void ks_api_watch_note_told(struct stream *stream, int64_t revision)
{
	if (!stream->tells_cursor)
		return;
	stream->told_ms = ks_clock_now(ks_clock_system());
	if (revision > stream->told_revision)
		stream->told_revision = revision;
}

void ks_api_watch_send(struct stream *stream, const struct response *response)
{
	struct ks_out out;

	ks_out_init(&out, 1024);
	ks_api_watch_write_head(stream, &out, response);
	ks_api_watch_note_told(stream, response->revision);
	ks_stream_send(stream->call, &out);
}

static size_t event_size(const struct ks_event *event)
{
	size_t size = ks_wire_uint_size(1, event->is_delete) + ks_wire_nested_size(2, event->kv.encoded->size);

	if (event->prev.encoded)
		size += ks_wire_nested_size(3, event->prev.encoded->size);
	return size;
}

static void write_event(struct ks_out *out, const struct ks_event *event)
{
	ks_wire_nested(&out->buf, 11, event_size(event));
	ks_wire_uint(&out->buf, 1, event->is_delete);
	ks_wire_nested(&out->buf, 2, event->kv.encoded->size);
	ks_out_bytes(out, event->kv.encoded);
	if (event->prev.encoded) {
		ks_wire_nested(&out->buf, 3, event->prev.encoded->size);
		ks_out_bytes(out, event->prev.encoded);
	}
}

/* What the responses of a batch have in common. */
struct encoded {
	struct ks_buf header;
	struct ks_out events; /* empty: each response writes them itself */
};

/* The events from 'first' up to 'end' as one response. False when that failed. */
static bool send_piece(struct stream *stream, const struct batch *batch, const struct encoded *encoded,
		       const struct response *response, size_t first, size_t end, size_t size)
{
	struct ks_out out;

	ks_out_init(&out, SIZE_MAX);
	ks_buf_reserve(&out.buf, size < 65536 ? size : 65536);
	ks_buf_append(&out.buf, encoded->header.data, encoded->header.size);
	write_response_fields(&out, response);
	ks_buf_append(&out.buf, encoded->events.buf.data, encoded->events.buf.size);
	for (size_t i = first; i < end && !encoded->events.buf.size; i++)
		write_event(&out, &batch->events[i]);
	if (ks_out_failed(&out)) {
		ks_out_fini(&out);
		ks_api_watch_finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch response");
		return false;
	}
	ks_api_watch_note_told(stream, response->revision);
	KS_COUNT(EVENTS, end - first);
	ks_stream_send(stream->call, &out);
	return true;
}

/*
 * Sends a watch its events, in fragments when the client asked for them (spec 3.5): pieces below the limit, at least one event
 * each, all but the last marked.
 */
static void send_events(struct stream *stream, const struct batch *batch, const struct watch *watch,
			const struct encoded *encoded)
{
	size_t limit = watch->fragment ? stream->api->max_request_bytes + 512u * 1024 : SIZE_MAX;
	struct response response = {.revision = batch->header_revision, .watch_id = watch->id};
	size_t head = encoded->header.size + ks_wire_uint_size(2, (uint64_t)watch->id) + ks_wire_uint_size(7, 1);
	size_t first = 0;

	if (encoded->events.buf.size) { /* they are few */
		(void)send_piece(stream, batch, encoded, &response, 0, batch->count, head + encoded->events.buf.size);
		return;
	}
	while (first < batch->count && !stream->finishing) {
		size_t size = head;
		size_t end = first;

		while (end < batch->count) {
			size_t next = ks_wire_nested_size(11, event_size(&batch->events[end]));

			if (end > first && size + next >= limit)
				break;
			size += next;
			end++;
		}
		response.fragment = end < batch->count;
		if (!send_piece(stream, batch, encoded, &response, first, end, size))
			return;
		first = end;
	}
}

/* Several watches get copies of one encoding, unless values are so large that they go out by reference. */
static void encode_once(struct encoded *encoded, const struct batch *batch)
{
	ks_out_init(&encoded->events, TOGETHER_BYTES);
	if (batch->watch_count < 2)
		return;
	for (size_t i = 0; i < batch->count; i++)
		write_event(&encoded->events, &batch->events[i]);
	if (ks_out_failed(&encoded->events) || encoded->events.insert_count > 0)
		ks_out_fini(&encoded->events);
}

void ks_api_watch_send_batch(struct stream *stream, const struct batch *batch)
{
	struct encoded encoded;

	if (!batch->count)
		return;
	if (batch->events[0].revision != batch->events[batch->count - 1].revision)
		stream->rounds.joined += batch->watch_count;
	ks_buf_init(&encoded.header, 1024);
	ks_api_write_header(stream->api, &encoded.header, 1, batch->header_revision);
	encode_once(&encoded, batch);
	if (encoded.header.failed)
		ks_api_watch_finish(stream, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory for a watch response");
	for (size_t i = 0; i < batch->watch_count && !stream->finishing; i++)
		send_events(stream, batch, batch->watches[i], &encoded);
	ks_buf_fini(&encoded.header);
	ks_out_fini(&encoded.events);
}
