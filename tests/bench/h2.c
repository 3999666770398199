/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of h2.h: RFC 9113 as far as one client with one kind of stream needs it. */
#include "tests/bench/h2.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/bench.h"
#include "tests/bench/h2_frame.h"

#define OUT_MAX (64 * 1024) /* of a frame or two */

struct stream {
	int64_t window;   /* under lock: what we may send */
	uint32_t taken;   /* the reader's: received and not yet given back */
	struct ks_buf at; /* the reader's: the beginning of a message */
};

struct h2 {
	const char *endpoint, *path;
	const struct h2_ops *ops;
	void *arg;
	int fd;
	pthread_t thread;
	uint32_t taken;       /* of the connection, as of a stream */
	uint64_t received_ns; /* the reader's: when it last read */
	struct ks_mutex lock;
	struct ks_cond changed;
	/* under lock */
	struct ks_buf out; /* frames to be written together */
	struct h2_table table;
	struct stream **streams; /* each where it stays, the table moves */
	size_t count, capacity;
	int64_t window, first_window; /* the connection's; and of a new stream */
	bool ended, closing;
};

/* ---- writing; with the lock held, so that frames are not mixed ---- */

/* What was put; waits until the server takes it. */
static bool write_out(struct h2 *h2)
{
	bool written = !h2->out.failed;

	for (size_t at = 0; written && at < h2->out.size;) {
		ssize_t done = send(h2->fd, h2->out.data + at, h2->out.size - at, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		written = done > 0;
		at += written ? (size_t)done : 0;
	}
	ks_buf_reset(&h2->out);
	return written;
}

static uint32_t id_of(size_t stream)
{
	return (uint32_t)stream * 2 + 1;
}

static void ended(struct h2 *h2, const char *why)
{
	bool tell;

	ks_mutex_lock(&h2->lock);
	tell = !h2->closing;
	if (tell && !h2->ended)
		(void)fprintf(stderr, "kineshim-bench: %s: %s\n", h2->endpoint, why);
	h2->ended = true;
	ks_cond_broadcast(&h2->changed);
	ks_mutex_unlock(&h2->lock);
	if (tell)
		h2->ops->ended(h2->arg);
}

/* ---- reading ---- */

static struct stream *find_stream(struct h2 *h2, uint32_t id)
{
	struct stream *stream = NULL;

	ks_mutex_lock(&h2->lock);
	if (id % 2 == 1 && id / 2 < h2->count)
		stream = h2->streams[id / 2];
	ks_mutex_unlock(&h2->lock);
	return stream;
}

/* Fills up what is begun; then messages are handed out where they lie. */
static bool take_data(struct h2 *h2, struct stream *stream, const uint8_t *data, size_t size)
{
	while (size > 0) {
		const uint8_t *from = stream->at.size ? stream->at.data : data;
		size_t there = stream->at.size ? stream->at.size : size, whole = h2_message_size(from, there), more;

		if (whole && whole <= there) {
			h2->ops->message(h2->arg, ks_slice_of(from + H2_GRPC_HEAD, whole - H2_GRPC_HEAD),
					 h2->received_ns);
			if (from == data) {
				data += whole;
				size -= whole;
			} else {
				ks_buf_reset(&stream->at);
			}
			continue;
		}
		more = (whole ? whole : H2_GRPC_HEAD) - (from == data ? 0 : there);
		more = more < size ? more : size;
		ks_buf_append(&stream->at, data, more);
		if (stream->at.failed)
			return false;
		data += more;
		size -= more;
	}
	/* The last of it may have completed what was begun. */
	if (stream->at.size && h2_message_size(stream->at.data, stream->at.size) == stream->at.size) {
		h2->ops->message(h2->arg, ks_slice_of(stream->at.data + H2_GRPC_HEAD, stream->at.size - H2_GRPC_HEAD),
				 h2->received_ns);
		ks_buf_reset(&stream->at);
	}
	return true;
}

static bool count_taken(struct h2 *h2, uint32_t *taken, uint32_t id, uint32_t size)
{
	bool written;

	if (!h2_count_taken(taken, size))
		return true;
	ks_mutex_lock(&h2->lock);
	h2_put_window_update(&h2->out, id, *taken);
	written = write_out(h2);
	ks_mutex_unlock(&h2->lock);
	*taken = 0;
	return written;
}

static bool on_data(struct h2 *h2, const struct h2_frame *frame)
{
	struct stream *stream = find_stream(h2, frame->id);

	if (!stream || (frame->flags & H2_PADDED))
		return false;
	return take_data(h2, stream, frame->payload, frame->size) && count_taken(h2, &h2->taken, 0, frame->size) &&
	       count_taken(h2, &stream->taken, frame->id, frame->size);
}

static bool on_settings(struct h2 *h2, const struct h2_frame *frame)
{
	unsigned setting;
	uint32_t value;
	bool written;

	if (frame->flags & H2_ACK)
		return true;
	ks_mutex_lock(&h2->lock);
	for (uint32_t i = 0; h2_setting(frame, i, &setting, &value); i += 6) {
		if (setting == H2_HEADER_TABLE_SIZE)
			h2_table_limit(&h2->table, value);
		if (setting != H2_INITIAL_WINDOW_SIZE)
			continue;
		for (size_t s = 0; s < h2->count; s++)
			h2->streams[s]->window += value - h2->first_window;
		h2->first_window = value;
	}
	h2_put_frame(&h2->out, H2_SETTINGS, H2_ACK, 0, NULL, 0);
	written = write_out(h2);
	ks_cond_broadcast(&h2->changed);
	ks_mutex_unlock(&h2->lock);
	return written;
}

static bool on_window_update(struct h2 *h2, const struct h2_frame *frame)
{
	if (frame->size != 4)
		return false;
	ks_mutex_lock(&h2->lock);
	if (frame->id == 0)
		h2->window += h2_get_u32(frame->payload) & H2_WINDOW_MAX;
	else if (frame->id / 2 < h2->count)
		h2->streams[frame->id / 2]->window += h2_get_u32(frame->payload) & H2_WINDOW_MAX;
	ks_cond_broadcast(&h2->changed);
	ks_mutex_unlock(&h2->lock);
	return true;
}

static bool on_ping(struct h2 *h2, const struct h2_frame *frame)
{
	bool written;

	if (frame->flags & H2_ACK)
		return true;
	ks_mutex_lock(&h2->lock);
	h2_put_frame(&h2->out, H2_PING, H2_ACK, 0, frame->payload, frame->size);
	written = write_out(h2);
	ks_mutex_unlock(&h2->lock);
	return written;
}

/* False: the connection is of no more use. */
static bool on_frame(void *arg, const struct h2_frame *frame)
{
	struct h2 *h2 = arg;

	switch (frame->type) {
	case H2_DATA:
		return on_data(h2, frame);
	case H2_HEADERS:
		if (frame->flags & H2_END_STREAM)
			ended(h2, "the server ended a stream");
		return true;
	case H2_RST_STREAM:
		ended(h2, "the server reset a stream");
		return true;
	case H2_SETTINGS:
		return on_settings(h2, frame);
	case H2_PING:
		return on_ping(h2, frame);
	case H2_GOAWAY:
		return false;
	case H2_WINDOW_UPDATE:
		return on_window_update(h2, frame);
	default: /* priorities, continuations of headers that we do not read, and what is not invented yet */
		return true;
	}
}

static void *run(void *arg)
{
	uint8_t *data = ks_xmalloc(H2_READ_SIZE);
	struct h2 *h2 = arg;
	size_t size = 0;

	for (;;) {
		ssize_t got = recv(h2->fd, data + size, H2_READ_SIZE - size, 0), taken;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		size += (size_t)got;
		h2->received_ns = now_ns();
		taken = h2_take_frames(data, size, on_frame, h2);
		if (taken < 0)
			break;
		size -= (size_t)taken;
		memmove(data, data + taken, size);
		h2->ops->pause(h2->arg);
	}
	free(data);
	ended(h2, "the connection ended");
	return NULL;
}

/* ---- life ---- */

struct h2 *h2_open(const char *endpoint, const char *path, const struct h2_ops *ops, void *arg)
{
	struct h2 *h2 = ks_xcalloc(1, sizeof(*h2));
	struct ks_err err;

	*h2 = (struct h2){.endpoint = endpoint,
			  .path = path,
			  .ops = ops,
			  .arg = arg,
			  .fd = h2_connect(endpoint),
			  .window = H2_WINDOW_FIRST,
			  .first_window = H2_WINDOW_FIRST};
	ks_buf_init(&h2->out, OUT_MAX);
	ks_mutex_init(&h2->lock);
	ks_cond_init(&h2->changed);
	h2_put_greeting(&h2->out);
	if (h2->fd >= 0 && write_out(h2) && ks_thread_start(&h2->thread, "h2", run, h2, &err) == KS_OK)
		return h2;
	if (h2->fd >= 0) {
		(void)fprintf(stderr, "kineshim-bench: cannot begin with %s\n", endpoint);
		(void)close(h2->fd);
	}
	ks_buf_fini(&h2->out);
	ks_cond_fini(&h2->changed);
	ks_mutex_fini(&h2->lock);
	free(h2);
	return NULL;
}

size_t h2_stream_open(struct h2 *h2)
{
	struct stream *stream = ks_xcalloc(1, sizeof(*stream));
	size_t number;

	ks_buf_init(&stream->at, H2_MESSAGE_MAX);
	ks_mutex_lock(&h2->lock);
	if (h2->count == h2->capacity) {
		h2->capacity = h2->capacity ? h2->capacity * 2 : 16;
		h2->streams = ks_xrealloc(h2->streams, h2->capacity * sizeof(struct stream *));
	}
	number = h2->count++;
	h2->streams[number] = stream;
	stream->window = h2->first_window;
	h2_put_headers(&h2->out, &h2->table, id_of(number), h2->path, h2->endpoint);
	if (!write_out(h2))
		(void)shutdown(h2->fd, SHUT_RDWR); /* the reader tells */
	ks_mutex_unlock(&h2->lock);
	return number;
}

bool h2_send(struct h2 *h2, size_t number, struct ks_slice message)
{
	int64_t size = H2_GRPC_HEAD + (int64_t)message.size;
	struct stream *stream;
	bool sent;

	ks_mutex_lock(&h2->lock);
	stream = h2->streams[number];
	while (!h2->ended && (h2->window < size || stream->window < size))
		(void)ks_cond_wait(&h2->changed, &h2->lock, -1);
	h2->window -= size;
	stream->window -= size;
	h2_put_frame_head(&h2->out, H2_DATA, 0, id_of(number), (size_t)size);
	h2_put_message_head(&h2->out, message.size);
	ks_buf_append_slice(&h2->out, message);
	sent = write_out(h2) && !h2->ended;
	ks_mutex_unlock(&h2->lock);
	return sent;
}

void h2_close(struct h2 *h2)
{
	if (!h2)
		return;
	ks_mutex_lock(&h2->lock);
	h2->closing = true;
	ks_mutex_unlock(&h2->lock);
	(void)shutdown(h2->fd, SHUT_RDWR);
	ks_thread_join(h2->thread);
	(void)close(h2->fd);
	for (size_t i = 0; i < h2->count; i++) {
		ks_buf_fini(&h2->streams[i]->at);
		free(h2->streams[i]);
	}
	free(h2->streams);
	ks_buf_fini(&h2->out);
	ks_cond_fini(&h2->changed);
	ks_mutex_fini(&h2->lock);
	free(h2);
}
