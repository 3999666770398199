/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's output, see http_priv.h: who may write, what is written next, and what happens when it is out. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "net/http_priv.h"

/* Of one connection in a row on somebody's thread; then the I/O thread goes on, after the others' turn. */
#define MAX_TURN_BYTES ((size_t)1 << 20)
#define KEPT_CAPACITY 4096

enum outcome {
	IDLE,     /* nothing to send now */
	BLOCKED,  /* the socket is full */
	BUSY,     /* others' turn */
	FINISHED, /* the answer is out */
	FAILED    /* the connection is of no use any more */
};

/* Sends what is unsent; IDLE when all of it is out. */
static enum outcome send_unsent(struct http_conn *conn)
{
	while (conn->unsent_at < conn->unsent.size) {
		ssize_t size = send(conn->fd, conn->unsent.data + conn->unsent_at, conn->unsent.size - conn->unsent_at,
				    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return errno == EAGAIN ? BLOCKED : FAILED;
		conn->unsent_at += (size_t)size;
	}
	conn->unsent_at = 0;
	if (conn->unsent.capacity > KEPT_CAPACITY)
		ks_buf_fini(&conn->unsent);
	else
		ks_buf_reset(&conn->unsent);
	return IDLE;
}

/* Lets the request fill the buffer. False when it has nothing (more) to say now. */
static bool produce(struct http_conn *conn, struct ks_http_request *request)
{
	enum http_produced produced = HTTP_MORE;

	while (produced == HTTP_MORE && conn->unsent.size < HTTP_PIECE_BYTES)
		produced = request->ops->produce(request, &conn->unsent);
	if (conn->unsent.failed)
		produced = HTTP_ABORT;
	if (produced == HTTP_DONE || produced == HTTP_ABORT)
		conn->ended = produced;
	return produced != HTTP_WAIT || conn->unsent.size > 0;
}

static enum outcome write_some(struct http_conn *conn, struct ks_http_request *request)
{
	size_t turn_bytes = 0;

	for (;;) {
		enum outcome outcome = send_unsent(conn);

		if (outcome != IDLE)
			return outcome;
		if (conn->ended)
			return conn->ended == HTTP_DONE ? FINISHED : FAILED;
		if (!request)
			return IDLE;
		if (turn_bytes >= MAX_TURN_BYTES)
			return BUSY;
		if (!produce(conn, request))
			return IDLE;
		turn_bytes += conn->unsent.size;
	}
}

static void nudge(struct http_conn *conn) KS_REQUIRES(conn->lock)
{
	ks_http_nudge_locked(conn);
}

/* With the lock held. */
static void finish_request(struct http_conn *conn, struct ks_http_request *request) KS_REQUIRES(conn->lock)
{
	conn->ended = HTTP_MORE;
	if (conn->request != request)
		return;
	conn->request = NULL;
	if (!request->body_complete || !request->keep_alive)
		conn->close_after = true;
	conn->deadline_ms = ks_http_now() + conn->io->http->idle_ms;
	if (conn->close_after || conn->wants_input)
		nudge(conn);
}

/* With the lock held. True when there is more to do at once. */
static bool after_write(struct http_conn *conn, struct ks_http_request *request, enum outcome outcome)
	KS_REQUIRES(conn->lock)
{
	conn->stalled_ms = 0;
	switch (outcome) {
	case IDLE:
		return conn->write_again;
	case BLOCKED:
		conn->blocked = true;
		conn->stalled_ms = ks_http_now() + conn->io->http->stall_ms;
		return conn->write_again; /* the socket may have become writable meanwhile, and said so */
	case BUSY:
		nudge(conn);
		return false;
	case FINISHED:
		finish_request(conn, request);
		return false;
	case FAILED:
		conn->broken = true;
		nudge(conn);
		return false;
	}
	return false;
}

/* 'only': nothing is done when this request is not, or no longer, the one whose answer is next. NULL: in any case. */
static void flush(struct http_conn *conn, const struct ks_http_request *only)
{
	struct ks_http_request *request, *gone = NULL;
	bool again = true, owns = false;

	ks_mutex_lock(&conn->lock);
	if (only && conn->request != only) {
		ks_mutex_unlock(&conn->lock);
		return;
	}
	if (conn->writing || conn->dead) {
		conn->write_again = true;
		ks_mutex_unlock(&conn->lock);
		return;
	}
	conn->writing = true;
	request = conn->request;
	if (request)
		ks_http_request_ref(request);
	while (again && !conn->dead) {
		enum outcome outcome;

		conn->write_again = false;
		ks_mutex_unlock(&conn->lock);
		outcome = write_some(conn, request);
		ks_mutex_lock(&conn->lock);
		owns = outcome == FINISHED && conn->request == request;
		again = after_write(conn, request, outcome);
	}
	conn->writing = false;
	if (conn->gone_due) {
		conn->gone_due = false;
		gone = conn->request;
		conn->request = NULL;
	}
	ks_mutex_unlock(&conn->lock);
	if (gone) {
		if (gone->ops->gone)
			gone->ops->gone(gone);
		ks_http_request_unref(gone);
	}
	if (owns)
		ks_http_request_unref(request); /* the connection's */
	if (request)
		ks_http_request_unref(request);
}

/* I/O thread. */
void ks_http_flush_conn(struct http_conn *conn)
{
	flush(conn, NULL);
}

/* Between two requests 'unsent' is the I/O thread's, which writes there without asking: whoever comes late must keep off. */
void ks_http_flush(struct ks_http_request *request)
{
	flush(request->conn, request);
}

void ks_http_resume(struct ks_http_request *request)
{
	struct http_conn *conn = request->conn;

	ks_mutex_lock(&conn->lock);
	conn->body_paused = false;
	ks_http_nudge_locked(conn);
	ks_mutex_unlock(&conn->lock);
}

void ks_http_watch_peer(struct ks_http_request *request)
{
	struct http_conn *conn = request->conn;

	ks_mutex_lock(&conn->lock);
	request->watch_peer = true;
	if (conn->peer_closed)
		ks_http_nudge_locked(conn);
	ks_mutex_unlock(&conn->lock);
}

/* ---- heads ---- */

const char *ks_http_status_text(int status)
{
	switch (status) {
	case 408:
		return "Request Timeout";
	case 421:
		return "Misdirected Request";
	case 499:
		return "Client Closed Request";
	default:
		return http_status_str((enum http_status)status);
	}
}

/* One text a second, for each thread. */
void ks_http_write_date(struct ks_buf *out)
{
	static _Thread_local time_t written;
	static _Thread_local char line[64];
	static _Thread_local size_t size;
	time_t now = time(NULL);
	struct tm tm;

	if (now != written && gmtime_r(&now, &tm)) {
		size = strftime(line, sizeof(line), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
		written = now;
	}
	ks_buf_append(out, line, size);
}

static void append(struct ks_buf *out, const char *text)
{
	ks_buf_append(out, text, strlen(text));
}

static void write_cors(struct ks_http_request *request, struct ks_buf *out)
{
	struct ks_slice origin;

	if (!ks_http_origin(request, &origin))
		return;
	append(out, "Access-Control-Allow-Headers: accept, content-type, authorization\r\n"
		    "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"
		    "Access-Control-Allow-Origin: ");
	ks_buf_append_slice(out, origin);
	append(out, "\r\n");
}

void ks_http_write_head(struct ks_http_request *request, struct ks_buf *out, int status, const char *content_type)
{
	struct http_conn *conn = request->conn;
	bool close;

	ks_mutex_lock(&conn->lock);
	conn->close_after |= !request->body_complete || !request->keep_alive;
	close = conn->close_after;
	ks_mutex_unlock(&conn->lock);
	KS_COUNT_AT(HTTP_REQUESTS, status / 100 - 1, 1);
	if (status == 200)
		append(out, "HTTP/1.1 200 OK\r\n");
	else
		ks_buf_printf(out, "HTTP/1.1 %d %s\r\n", status, ks_http_status_text(status));
	write_cors(request, out);
	if (content_type) {
		append(out, "Content-Type: ");
		append(out, content_type);
		append(out, "\r\n");
	}
	ks_http_write_date(out);
	if (close)
		append(out, "Connection: close\r\n");
	else if (request->http10)
		append(out, "Connection: keep-alive\r\n");
}
