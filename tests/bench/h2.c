/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of h2.h: RFC 9113 as far as one client with one kind of stream needs it. */
#include "tests/bench/h2.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/bench.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define FRAME_HEAD 9
#define FRAME_MAX 16384 /* what we allow, and what we write */
#define GRPC_HEAD 5
#define READ_SIZE (256 * 1024)
#define WINDOW_FIRST 65535
#define WINDOW_MAX 0x7fffffff
#define WINDOW_STEP (16 << 20) /* given back at once */
#define MESSAGE_MAX (64 << 20)

enum frame { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum flag { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };
enum setting { INITIAL_WINDOW_SIZE = 4 };

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
	uint32_t taken; /* of the connection, as of a stream */
	struct ks_mutex lock;
	struct ks_cond changed;
	/* under lock */
	struct stream **streams; /* each where it stays, the table moves */
	size_t count, capacity;
	int64_t window, first_window; /* the connection's; and of a new stream */
	bool ended, closing;
};

/* ---- writing; with the lock held, so that frames are not mixed ---- */

static bool write_all(struct h2 *h2, const uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t done = send(h2->fd, data, size, MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		data += done;
		size -= (size_t)done;
	}
	return true;
}

static void put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint32_t get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t id_of(size_t stream)
{
	return (uint32_t)stream * 2 + 1;
}

static bool write_frame(struct h2 *h2, enum frame type, int flags, uint32_t id, const void *payload, size_t size)
{
	uint8_t frame[FRAME_HEAD + FRAME_MAX];

	KS_ASSERT(size <= FRAME_MAX);
	put_u32(frame, (uint32_t)size << 8 | (uint32_t)type);
	frame[4] = (uint8_t)flags;
	put_u32(frame + 5, id);
	if (size)
		memcpy(frame + FRAME_HEAD, payload, size);
	return write_all(h2, frame, FRAME_HEAD + size);
}

static bool give_back(struct h2 *h2, uint32_t id, uint32_t bytes)
{
	uint8_t payload[4];

	put_u32(payload, bytes);
	return write_frame(h2, WINDOW_UPDATE, 0, id, payload, sizeof(payload));
}

/* A literal that neither side remembers; 'index' is a name of the static table, or 0 with a name. */
static void put_header(struct ks_buf *buf, unsigned index, const char *name, const char *value)
{
	uint8_t head[2] = {(uint8_t)(index < 15 ? index : 15), (uint8_t)(index < 15 ? 0 : index - 15)};
	uint8_t size;

	ks_buf_append(buf, head, index < 15 ? 1 : 2);
	for (const char *text = index ? value : name; text; text = text == value ? NULL : value) {
		KS_ASSERT(strlen(text) < 127);
		size = (uint8_t)strlen(text);
		ks_buf_append(buf, &size, 1);
		ks_buf_append(buf, text, size);
	}
}

/* POST, http, then the names of RFC 7541's static table: 4 :path, 1 :authority, 31 content-type. */
static bool write_headers(struct h2 *h2, uint32_t id)
{
	static const uint8_t indexed[] = {0x83, 0x86};
	struct ks_buf buf;
	bool written;

	ks_buf_init(&buf, FRAME_MAX);
	ks_buf_append(&buf, indexed, sizeof(indexed));
	put_header(&buf, 4, NULL, h2->path);
	put_header(&buf, 1, NULL, h2->endpoint);
	put_header(&buf, 31, NULL, "application/grpc");
	put_header(&buf, 0, "te", "trailers");
	KS_ASSERT(!buf.failed);
	written = write_frame(h2, HEADERS, END_HEADERS, id, buf.data, buf.size);
	ks_buf_fini(&buf);
	return written;
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

/* The size of the message at 'data' with its head; 0: not yet to be seen. */
static size_t message_size(const uint8_t *data, size_t size)
{
	return size < GRPC_HEAD ? 0 : GRPC_HEAD + (size_t)get_u32(data + 1);
}

/* Fills up what is begun; then messages are handed out where they lie. */
static bool take_data(struct h2 *h2, struct stream *stream, const uint8_t *data, size_t size, uint64_t received_ns)
{
	while (size > 0) {
		const uint8_t *from = stream->at.size ? stream->at.data : data;
		size_t there = stream->at.size ? stream->at.size : size, whole = message_size(from, there), more;

		if (whole && whole <= there) {
			h2->ops->message(h2->arg, ks_slice_of(from + GRPC_HEAD, whole - GRPC_HEAD), received_ns);
			if (from == data) {
				data += whole;
				size -= whole;
			} else {
				ks_buf_reset(&stream->at);
			}
			continue;
		}
		more = (whole ? whole : GRPC_HEAD) - (from == data ? 0 : there);
		more = more < size ? more : size;
		ks_buf_append(&stream->at, data, more);
		if (stream->at.failed)
			return false;
		data += more;
		size -= more;
	}
	/* The last of it may have completed what was begun. */
	if (stream->at.size && message_size(stream->at.data, stream->at.size) == stream->at.size) {
		h2->ops->message(h2->arg, ks_slice_of(stream->at.data + GRPC_HEAD, stream->at.size - GRPC_HEAD),
				 received_ns);
		ks_buf_reset(&stream->at);
	}
	return true;
}

static bool count_taken(struct h2 *h2, uint32_t *taken, uint32_t id, uint32_t size)
{
	bool written;

	*taken += size;
	if (*taken < WINDOW_STEP)
		return true;
	ks_mutex_lock(&h2->lock);
	written = give_back(h2, id, *taken);
	ks_mutex_unlock(&h2->lock);
	*taken = 0;
	return written;
}

static bool on_data(struct h2 *h2, int flags, uint32_t id, const uint8_t *payload, uint32_t size, uint64_t received_ns)
{
	struct stream *stream = find_stream(h2, id);

	if (!stream || (flags & PADDED))
		return false;
	return take_data(h2, stream, payload, size, received_ns) && count_taken(h2, &h2->taken, 0, size) &&
	       count_taken(h2, &stream->taken, id, size);
}

static bool on_settings(struct h2 *h2, int flags, const uint8_t *payload, uint32_t size)
{
	bool written;

	if (flags & ACK)
		return true;
	ks_mutex_lock(&h2->lock);
	for (uint32_t i = 0; i + 6 <= size; i += 6) {
		int64_t value = get_u32(payload + i + 2);

		if ((payload[i] << 8 | payload[i + 1]) != INITIAL_WINDOW_SIZE)
			continue;
		for (size_t s = 0; s < h2->count; s++)
			h2->streams[s]->window += value - h2->first_window;
		h2->first_window = value;
	}
	written = write_frame(h2, SETTINGS, ACK, 0, NULL, 0);
	ks_cond_broadcast(&h2->changed);
	ks_mutex_unlock(&h2->lock);
	return written;
}

static bool on_window_update(struct h2 *h2, uint32_t id, const uint8_t *payload, uint32_t size)
{
	if (size != 4)
		return false;
	ks_mutex_lock(&h2->lock);
	if (id == 0)
		h2->window += get_u32(payload) & WINDOW_MAX;
	else if (id / 2 < h2->count)
		h2->streams[id / 2]->window += get_u32(payload) & WINDOW_MAX;
	ks_cond_broadcast(&h2->changed);
	ks_mutex_unlock(&h2->lock);
	return true;
}

static bool on_ping(struct h2 *h2, int flags, const uint8_t *payload, uint32_t size)
{
	bool written;

	if (flags & ACK)
		return true;
	ks_mutex_lock(&h2->lock);
	written = write_frame(h2, PING, ACK, 0, payload, size);
	ks_mutex_unlock(&h2->lock);
	return written;
}

/* False: the connection is of no more use. */
static bool on_frame(struct h2 *h2, const uint8_t *frame, uint32_t size, uint64_t received_ns)
{
	const uint8_t *payload = frame + FRAME_HEAD;
	uint32_t id = get_u32(frame + 5) & WINDOW_MAX;
	int flags = frame[4];

	switch (frame[3]) {
	case DATA:
		return on_data(h2, flags, id, payload, size, received_ns);
	case HEADERS:
		if (flags & END_STREAM)
			ended(h2, "the server ended a stream");
		return true;
	case RST_STREAM:
		ended(h2, "the server reset a stream");
		return true;
	case SETTINGS:
		return on_settings(h2, flags, payload, size);
	case PING:
		return on_ping(h2, flags, payload, size);
	case GOAWAY:
		return false;
	case WINDOW_UPDATE:
		return on_window_update(h2, id, payload, size);
	default: /* priorities, continuations of headers that we do not read, and what is not invented yet */
		return true;
	}
}

/* Frames in a row; how much of it was taken, or -1. */
static ssize_t take_frames(struct h2 *h2, const uint8_t *data, size_t size, uint64_t received_ns)
{
	size_t at = 0;

	while (size - at >= FRAME_HEAD) {
		uint32_t payload = get_u32(data + at) >> 8;

		if (payload > FRAME_MAX)
			return -1;
		if (size - at < FRAME_HEAD + payload)
			break;
		if (!on_frame(h2, data + at, payload, received_ns))
			return -1;
		at += FRAME_HEAD + payload;
	}
	return (ssize_t)at;
}

static void *run(void *arg)
{
	uint8_t *data = ks_xmalloc(READ_SIZE);
	struct h2 *h2 = arg;
	size_t size = 0;

	for (;;) {
		ssize_t got = recv(h2->fd, data + size, READ_SIZE - size, 0), taken;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		size += (size_t)got;
		taken = take_frames(h2, data, size, now_ns());
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

static int connect_to(const char *endpoint)
{
	const char *colon = strrchr(endpoint, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char host[256];
	int fd = -1, on = 1;

	if (!colon || (size_t)(colon - endpoint) >= sizeof(host))
		return -1;
	memcpy(host, endpoint, (size_t)(colon - endpoint));
	host[colon - endpoint] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &found) != 0)
		return -1;
	for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
		fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
		if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) < 0) {
			(void)close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(found);
	if (fd >= 0)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

/* Windows so large that the server never waits for us, but for TCP. */
static bool greet(struct h2 *h2)
{
	uint8_t settings[6] = {0, INITIAL_WINDOW_SIZE};

	put_u32(settings + 2, WINDOW_MAX);
	return write_all(h2, (const uint8_t *)PREFACE, strlen(PREFACE)) &&
	       write_frame(h2, SETTINGS, 0, 0, settings, sizeof(settings)) &&
	       give_back(h2, 0, WINDOW_MAX - WINDOW_FIRST);
}

struct h2 *h2_open(const char *endpoint, const char *path, const struct h2_ops *ops, void *arg)
{
	struct h2 *h2 = ks_xcalloc(1, sizeof(*h2));
	struct ks_err err;

	*h2 = (struct h2){.endpoint = endpoint,
			  .path = path,
			  .ops = ops,
			  .arg = arg,
			  .fd = connect_to(endpoint),
			  .window = WINDOW_FIRST,
			  .first_window = WINDOW_FIRST};
	ks_mutex_init(&h2->lock);
	ks_cond_init(&h2->changed);
	if (h2->fd >= 0 && greet(h2) && ks_thread_start(&h2->thread, "h2", run, h2, &err) == KS_OK)
		return h2;
	(void)fprintf(stderr, "kineshim-bench: cannot connect to %s\n", endpoint);
	if (h2->fd >= 0)
		(void)close(h2->fd);
	ks_cond_fini(&h2->changed);
	ks_mutex_fini(&h2->lock);
	free(h2);
	return NULL;
}

size_t h2_stream_open(struct h2 *h2)
{
	struct stream *stream = ks_xcalloc(1, sizeof(*stream));
	size_t number;

	ks_buf_init(&stream->at, MESSAGE_MAX);
	ks_mutex_lock(&h2->lock);
	if (h2->count == h2->capacity) {
		h2->capacity = h2->capacity ? h2->capacity * 2 : 16;
		h2->streams = ks_xrealloc(h2->streams, h2->capacity * sizeof(struct stream *));
	}
	number = h2->count++;
	h2->streams[number] = stream;
	stream->window = h2->first_window;
	if (!write_headers(h2, id_of(number)))
		(void)shutdown(h2->fd, SHUT_RDWR); /* the reader tells */
	ks_mutex_unlock(&h2->lock);
	return number;
}

bool h2_send(struct h2 *h2, size_t number, struct ks_slice message)
{
	uint8_t payload[FRAME_MAX];
	int64_t size = GRPC_HEAD + (int64_t)message.size;
	struct stream *stream;
	bool sent;

	KS_ASSERT(size <= FRAME_MAX);
	payload[0] = 0;
	put_u32(payload + 1, (uint32_t)message.size);
	memcpy(payload + GRPC_HEAD, message.data, message.size);
	ks_mutex_lock(&h2->lock);
	stream = h2->streams[number];
	while (!h2->ended && (h2->window < size || stream->window < size))
		(void)ks_cond_wait(&h2->changed, &h2->lock, -1);
	h2->window -= size;
	stream->window -= size;
	sent = !h2->ended && write_frame(h2, DATA, 0, id_of(number), payload, (size_t)size);
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
	ks_cond_fini(&h2->changed);
	ks_mutex_fini(&h2->lock);
	free(h2);
}
