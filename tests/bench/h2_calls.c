/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sockets and the thread of a group of connections (h2_call.h).
 *
 * What calls put is written when all that was read at once has been handed out. A socket that takes no more does not keep the thread from
 * reading: the rest is written when there is room.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/h2_call_priv.h"

#define SILENCE_S 60 /* after which a server that says nothing counts as gone */
#define SILENCE "no answer for a minute"
#define READY_MAX 64
#define PACKED_MAX (16 << 20)
#define MOVE_MIN (1 << 20)

/* ---- writing ---- */

static void await_room(struct h2_connection *connection, bool full)
{
	struct epoll_event event = {.events = full ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = connection};

	if (full == connection->full || connection->ended)
		return;
	connection->full = full;
	KS_ASSERT(epoll_ctl(connection->calls->epoll, EPOLL_CTL_MOD, connection->fd, &event) == 0);
}

/* Bytes of 'out' are gone. Those that a socket did not take for long are moved to its beginning, so that it stays small. */
static void note_written(struct h2_connection *connection, size_t bytes)
{
	struct ks_buf *out = &connection->out;

	connection->written += bytes;
	if (connection->written < out->size && connection->written < MOVE_MIN)
		return;
	memmove(out->data, out->data + connection->written, out->size - connection->written);
	out->size -= connection->written;
	connection->written = 0;
}

/* Until there is nothing left, or no room in the socket. */
static void flush(struct h2_connection *connection)
{
	struct ks_buf *out = &connection->out;

	while (!connection->ended) {
		ssize_t done;

		if (!h2_put_waiting(connection)) {
			h2_end(connection, "no more calls on this connection");
			return;
		}
		if (out->failed) {
			h2_end(connection, "the server takes nothing");
			return;
		}
		if (connection->written == out->size)
			break;
		done = send(connection->fd, out->data + connection->written, out->size - connection->written,
			    MSG_NOSIGNAL | MSG_DONTWAIT);
		if (done < 0 && errno == EAGAIN)
			break;
		if (done < 0 && errno != EINTR) {
			h2_end(connection, strerror(errno));
			return;
		}
		note_written(connection, done > 0 ? (size_t)done : 0);
	}
	await_room(connection, connection->written < out->size);
}

static void flush_all(struct h2_calls *calls)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&calls->dirty)))
		flush(ks_container_of(link, struct h2_connection, link));
}

/* ---- reading ---- */

static void receive(struct h2_connection *connection, int flags)
{
	struct h2_calls *calls = connection->calls;
	size_t size = connection->rest.size;
	ssize_t got, taken;

	if (size > 0)
		memcpy(calls->data, connection->rest.data, size);
	do
		got = recv(connection->fd, calls->data + size, H2_READ_SIZE - size, flags);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno == EAGAIN && (flags & MSG_DONTWAIT))
		return;
	if (got <= 0) {
		h2_end(connection, got == 0 ? "the connection ended" : errno == EAGAIN ? SILENCE : strerror(errno));
		return;
	}
	size += (size_t)got;
	ks_buf_reset(&connection->rest);
	taken = h2_take_frames(calls->data, size, h2_on_frame, connection);
	if (taken < 0) {
		h2_end(connection, "what came is not to be understood");
		return;
	}
	h2_keep_held(calls);
	ks_buf_append(&connection->rest, calls->data + taken, size - (size_t)taken);
}

static void end_silent(struct h2_calls *calls)
{
	for (size_t i = 0; i < calls->count; i++)
		if (calls->connections[i]->count > 0 || !ks_list_empty(&calls->connections[i]->waiting))
			h2_end(calls->connections[i], SILENCE);
}

static void receive_ready(struct h2_calls *calls)
{
	struct epoll_event events[READY_MAX];
	int ready = epoll_wait(calls->epoll, events, READY_MAX, SILENCE_S * 1000);

	if (ready == 0)
		end_silent(calls);
	for (int i = 0; i < ready; i++) {
		struct h2_connection *connection = events[i].data.ptr;

		if (connection->ended) /* since epoll_wait */
			continue;
		if (events[i].events & ~(uint32_t)EPOLLOUT)
			receive(connection, MSG_DONTWAIT);
		if (events[i].events & EPOLLOUT)
			h2_mark_dirty(connection);
		flush_all(calls);
	}
}

static void *run(void *arg)
{
	struct h2_calls *calls = arg;

	flush_all(calls);
	while (calls->unanswered > 0) {
		/* One that is alone need not be asked for. */
		if (calls->count == 1 && !calls->connections[0]->full)
			receive(calls->connections[0], 0);
		else
			receive_ready(calls);
		flush_all(calls);
	}
	return NULL;
}

/* ---- life ---- */

struct h2_calls *h2_calls_new(void)
{
	struct h2_calls *calls = ks_xcalloc(1, sizeof(*calls));

	calls->epoll = epoll_create1(EPOLL_CLOEXEC);
	KS_ASSERT(calls->epoll >= 0);
	calls->data = ks_xmalloc(H2_READ_SIZE);
	ks_buf_init(&calls->packed, PACKED_MAX);
	ks_list_init(&calls->dirty);
	ks_list_init(&calls->held);
	ks_list_init(&calls->spare);
	return calls;
}

struct h2_connection *h2_calls_connect(struct h2_calls *calls, const char *endpoint)
{
	struct h2_connection *connection;
	struct timeval silence = {.tv_sec = SILENCE_S};
	int fd = h2_connect(endpoint);
	struct epoll_event event = {.events = EPOLLIN};

	if (fd < 0)
		return NULL;
	connection = h2_connection_new(calls, endpoint, fd);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof(silence));
	event.data.ptr = connection;
	KS_ASSERT(epoll_ctl(calls->epoll, EPOLL_CTL_ADD, fd, &event) == 0);
	if (calls->count == calls->capacity) {
		calls->capacity = calls->capacity ? calls->capacity * 2 : 16;
		calls->connections = ks_xrealloc(calls->connections, calls->capacity * sizeof(struct h2_connection *));
	}
	calls->connections[calls->count++] = connection;
	flush(connection);
	return connection;
}

void h2_calls_run(struct h2_calls *calls)
{
	struct ks_err err;

	if (ks_thread_start(&calls->thread, "h2_calls", run, calls, &err) == KS_OK)
		return;
	(void)fprintf(stderr, "kineshim-bench: %s\n", err.text);
	exit(1);
}

void h2_calls_wait(struct h2_calls *calls)
{
	ks_thread_join(calls->thread);
}

void h2_calls_serve(struct h2_calls *calls)
{
	(void)run(calls);
}

void h2_calls_free(struct h2_calls *calls)
{
	struct ks_list *link;

	if (!calls)
		return;
	KS_ASSERT(calls->unanswered == 0);
	for (size_t i = 0; i < calls->count; i++) {
		(void)close(calls->connections[i]->fd);
		h2_connection_free(calls->connections[i]);
	}
	free(calls->connections);
	while ((link = ks_list_pop(&calls->spare)))
		h2_call_free(ks_container_of(link, struct call, link));
	(void)close(calls->epoll);
	ks_buf_fini(&calls->packed);
	free(calls->data);
	free(calls);
}
