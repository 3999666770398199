/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's input, see http_priv.h: bytes go through http_parser, whose call-backs fill a request. Everything here runs on
 * the connection's I/O thread.
 *
 * The parser pauses at the end of each message, and nothing is read while a request is served: pipelined requests wait in the
 * socket, but for what one read brought along. Whoever ends a request nudges the connection when input waits.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/http_priv.h"

#define LINGER_MS 1000
#define MAX_DISCARDED ((size_t)4 << 20)
#define TURNS 16 /* requests of one connection in a row before others get their turn */

static void advance(struct http_conn *conn);

static void set_deadline(struct http_conn *conn, int64_t delay_ms)
{
	ks_mutex_lock(&conn->lock);
	conn->deadline_ms = delay_ms ? ks_http_now() + delay_ms : 0;
	ks_mutex_unlock(&conn->lock);
}

static struct ks_http *http_of(const struct http_conn *conn)
{
	return conn->io->http;
}

/* ---- the parser's call-backs ---- */

static int refuse_in_parser(struct http_conn *conn, int status, const char *text)
{
	conn->refusal = status;
	conn->refusal_text = text;
	return -1;
}

static int message_begin(http_parser *parser)
{
	struct http_conn *conn = parser->data;

	conn->parsing = ks_http_request_new(conn);
	if (!conn->parsing)
		return refuse_in_parser(conn, 503, "out of memory");
	set_deadline(conn, http_of(conn)->header_ms);
	return 0;
}

static int append_text(struct http_conn *conn, const char *at, size_t size)
{
	ks_buf_append(&conn->parsing->text, at, size);
	return conn->parsing->text.failed ? refuse_in_parser(conn, 431, "the header is too large") : 0;
}

static int url_part(http_parser *parser, const char *at, size_t size)
{
	struct http_conn *conn = parser->data;

	conn->parsing->target_size += size;
	return append_text(conn, at, size);
}

static int header_name(http_parser *parser, const char *at, size_t size)
{
	struct http_conn *conn = parser->data;
	struct ks_http_request *request = conn->parsing;
	struct http_header *header;

	if (conn->state != HTTP_HEADER) /* a trailer behind a chunked body */
		return 0;
	if (!request->header_open) {
		if (request->header_count == HTTP_MAX_HEADERS)
			return refuse_in_parser(conn, 431, "too many header lines");
		header = &request->headers[request->header_count++];
		*header = (struct http_header){.name = request->text.size};
		request->header_open = true;
	}
	request->headers[request->header_count - 1].name_size += size;
	return append_text(conn, at, size);
}

static int header_value(http_parser *parser, const char *at, size_t size)
{
	struct http_conn *conn = parser->data;
	struct ks_http_request *request = conn->parsing;
	struct http_header *header;

	if (conn->state != HTTP_HEADER)
		return 0;
	header = &request->headers[request->header_count - 1];
	if (request->header_open) {
		header->value = request->text.size;
		request->header_open = false;
	}
	header->value_size += size;
	return append_text(conn, at, size);
}

/* Hands the request over: from now on its answer is what is written. */
static void dispatch(struct http_conn *conn, struct ks_http_request *request)
{
	atomic_fetch_add_explicit(&http_of(conn)->requests_started, 1, memory_order_relaxed);
	ks_http_request_ref(request);
	ks_mutex_lock(&conn->lock);
	conn->request = request;
	ks_mutex_unlock(&conn->lock);
}

static void send_continue(struct http_conn *conn)
{
	static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";

	ks_buf_append(&conn->unsent, line, sizeof(line) - 1);
	ks_http_flush_conn(conn);
}

static int check_expectation(struct http_conn *conn, struct ks_http_request *request)
{
	struct ks_slice expected = ks_http_header(request, "expect");

	if (!expected.data || request->http10)
		return 0;
	if (expected.size != 12 || strncasecmp((const char *)expected.data, "100-continue", 12) != 0)
		return refuse_in_parser(conn, 417, "unknown expectation");
	send_continue(conn);
	return 0;
}

static bool is_token(const char *name, size_t size)
{
	static const char others[] = "!#$%&'*+-.^_`|~";

	for (size_t at = 0; at < size; at++)
		if (!isalnum((unsigned char)name[at]) && !memchr(others, name[at], sizeof(others) - 1))
			return false;
	return true;
}

/*
 * NULL, or what a proxy might read otherwise than we do: the library lets spaces in names pass, and of several hosts one takes the
 * first, the next the last.
 */
static const char *header_fault(const struct ks_http_request *request)
{
	size_t hosts = 0;

	for (size_t i = 0; i < request->header_count; i++) {
		const struct http_header *header = &request->headers[i];
		const char *name = (const char *)request->text.data + header->name;

		if (!is_token(name, header->name_size))
			return "invalid header name";
		hosts += header->name_size == 4 && strncasecmp(name, "host", 4) == 0;
	}
	if (hosts > 1)
		return "too many Host headers";
	return hosts == 0 && !request->http10 ? "missing required Host header" : NULL;
}

static bool has_body(const http_parser *parser)
{
	return (parser->flags & F_CHUNKED) || (parser->content_length > 0 && parser->content_length != UINT64_MAX);
}

static int headers_complete(http_parser *parser)
{
	struct http_conn *conn = parser->data;
	struct ks_http_request *request = conn->parsing;
	struct ks_http *http = http_of(conn);
	const char *fault;

	request->method = parser->method;
	request->head = parser->method == HTTP_HEAD;
	request->http10 = parser->http_major == 1 && parser->http_minor == 0;
	request->keep_alive = http_should_keep_alive(parser);
	request->upgrade_asked = parser->upgrade;
	parser->upgrade = 0; /* h2c and their kin: not here */
	if (parser->http_major != 1)
		return refuse_in_parser(conn, 505, "HTTP/1.1 is spoken here");
	if (parser->method == HTTP_CONNECT)
		return refuse_in_parser(conn, 405, "Method Not Allowed");
	fault = header_fault(request);
	if (fault)
		return refuse_in_parser(conn, 400, fault);
	if (!ks_http_request_prepare(request))
		return refuse_in_parser(conn, 400, "malformed request target");
	if (!(parser->flags & F_CHUNKED) && parser->content_length != UINT64_MAX &&
	    parser->content_length > http->max_body_bytes)
		return refuse_in_parser(conn, 413, "the request body is too large");
	conn->state = HTTP_BODY;
	set_deadline(conn, http->body_ms);
	if (has_body(parser) && check_expectation(conn, request))
		return -1;
	ks_http_request_route(request);
	if (request->ops->body) {
		request->started = true;
		dispatch(conn, request);
		if (request->ops->begin)
			request->ops->begin(request);
	}
	return request->upgrade ? 2 : 0; /* 2: the message ends here, and what follows is no HTTP */
}

static int collect(struct http_conn *conn, struct ks_http_request *request, const char *at, size_t size)
{
	if (request->body.size + size > http_of(conn)->max_body_bytes)
		return refuse_in_parser(conn, 413, "the request body is too large");
	if (!ks_http_claim(request, size))
		return refuse_in_parser(conn, 503, "too many large requests at a time");
	request->body_counted += size;
	ks_buf_append(&request->body, at, size);
	return request->body.failed ? refuse_in_parser(conn, 503, "out of memory") : 0;
}

/* The ops take it all, but may ask for a pause then. */
static void stream_body(struct http_conn *conn, struct ks_http_request *request, struct ks_slice piece)
{
	bool room;

	/* Before, not after: ks_http_resume may come at any time from now on. */
	ks_mutex_lock(&conn->lock);
	conn->body_paused = true;
	ks_mutex_unlock(&conn->lock);
	room = request->ops->body(request, piece);
	ks_mutex_lock(&conn->lock);
	if (room)
		conn->body_paused = false;
	if (request->patient)
		conn->deadline_ms = 0;
	else if (request->upgrade && !conn->deadline_ms)
		conn->deadline_ms = ks_http_now() + http_of(conn)->body_ms; /* of the message that began */
	ks_mutex_unlock(&conn->lock);
}

static int body_part(http_parser *parser, const char *at, size_t size)
{
	struct http_conn *conn = parser->data;
	struct ks_http_request *request = conn->parsing;

	if (!request->started)
		return collect(conn, request, at, size);
	stream_body(conn, request, ks_slice_of(at, size));
	return 0;
}

static int message_complete(http_parser *parser)
{
	struct http_conn *conn = parser->data;
	struct ks_http_request *request = conn->parsing;

	http_parser_pause(parser, 1);
	if (request->upgrade) {
		conn->state = HTTP_UPGRADED;
		return 0;
	}
	conn->parsing = NULL;
	conn->state = HTTP_SERVING;
	ks_mutex_lock(&conn->lock);
	request->body_complete = true;
	conn->body_paused = false;
	conn->deadline_ms = 0;
	ks_mutex_unlock(&conn->lock);
	if (!request->started)
		dispatch(conn, request);
	if (request->deadline_ms && request->deadline_ms < conn->io->next_sweep_ms)
		conn->io->next_sweep_ms = request->deadline_ms;
	request->ops->complete(request);
	ks_http_request_unref(request); /* the parser's */
	return 0;
}

static const http_parser_settings settings = {
	.on_message_begin = message_begin,
	.on_url = url_part,
	.on_header_field = header_name,
	.on_header_value = header_value,
	.on_headers_complete = headers_complete,
	.on_body = body_part,
	.on_message_complete = message_complete,
};

/* ---- input ---- */

static void malformed(struct http_conn *conn)
{
	enum http_errno code = HTTP_PARSER_ERRNO(&conn->parser);

	conn->deaf = true;
	atomic_fetch_add_explicit(&http_of(conn)->bad_requests, 1, memory_order_relaxed);
	if (conn->parsing && conn->parsing->started) { /* it answers for itself */
		ks_mutex_lock(&conn->lock);
		conn->close_after = conn->body_paused = true;
		ks_mutex_unlock(&conn->lock);
		conn->parsing->ops->body_failed(conn->parsing);
	} else if (conn->refusal)
		ks_http_conn_refuse(conn, conn->refusal, conn->refusal_text);
	else if (code == HPE_HEADER_OVERFLOW)
		ks_http_conn_refuse(conn, 431, "the header is too large");
	else if (code == HPE_INVALID_VERSION)
		ks_http_conn_refuse(conn, 505, "HTTP/1.1 is spoken here");
	else
		ks_http_conn_refuse(conn, 400, http_errno_description(code));
}

/* Parses; what the parser left because a message ended is kept for later. */
static void parse(struct http_conn *conn, const uint8_t *data, size_t size)
{
	size_t parsed;

	if (conn->state == HTTP_UPGRADED) {
		stream_body(conn, conn->parsing, ks_slice_of(data, size));
		return;
	}
	http_parser_pause(&conn->parser, 0);
	parsed = http_parser_execute(&conn->parser, &settings, (const char *)data, size);
	switch (HTTP_PARSER_ERRNO(&conn->parser)) {
	case HPE_OK:
		return;
	case HPE_PAUSED:
		if (parsed < size) {
			conn->input_size = size - parsed;
			conn->input = ks_xmalloc(conn->input_size);
			memcpy(conn->input, data + parsed, conn->input_size);
		}
		return;
	default:
		malformed(conn);
	}
}

static void parse_kept(struct http_conn *conn)
{
	uint8_t *input = conn->input;

	conn->input = NULL;
	parse(conn, input, conn->input_size);
	free(input);
}

/* Our last bytes are out: the client is told so, and may still send what we throw away, or it would never see the answer. */
static void linger(struct http_conn *conn)
{
	if (conn->state == HTTP_LINGER)
		return;
	conn->state = HTTP_LINGER;
	if (conn->parsing)
		ks_http_request_unref(conn->parsing);
	conn->parsing = NULL;
	free(conn->input);
	conn->input = NULL;
	(void)shutdown(conn->fd, SHUT_WR);
	set_deadline(conn, LINGER_MS);
}

static void discard(struct http_conn *conn)
{
	for (;;) {
		ssize_t size = recv(conn->fd, conn->io->read_buffer, sizeof(conn->io->read_buffer), MSG_DONTWAIT);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && errno == EAGAIN)
			return;
		if (size <= 0 || (conn->lingered += (size_t)size) > MAX_DISCARDED) {
			ks_http_conn_close(conn);
			return;
		}
	}
}

/* Where the connection stands after what other threads did. True when it may be read from. */
static bool settle(struct http_conn *conn)
{
	bool over, ready, dead;

	ks_mutex_lock(&conn->lock);
	if (conn->state == HTTP_SERVING && !conn->request)
		conn->state = HTTP_HEADER;
	dead = conn->dead;
	over = !dead && !conn->request && conn->close_after && conn->unsent_at == conn->unsent.size && !conn->writing;
	ready = !dead && !conn->deaf && conn->state != HTTP_SERVING && !conn->body_paused;
	conn->wants_input = !ready;
	ks_mutex_unlock(&conn->lock);
	if (over)
		linger(conn);
	return conn->state == HTTP_LINGER ? !dead : ready;
}

/* True when something was read. */
static bool read_some(struct http_conn *conn)
{
	struct http_io *io = conn->io;
	ssize_t size;

	do {
		size = recv(conn->fd, io->read_buffer, sizeof(io->read_buffer), MSG_DONTWAIT);
	} while (size < 0 && errno == EINTR);
	if (size < 0 && errno == EAGAIN) {
		conn->readable = false;
		return false;
	}
	if (size <= 0) {
		ks_http_conn_close(conn);
		return false;
	}
	parse(conn, io->read_buffer, (size_t)size);
	return true;
}

static void advance(struct http_conn *conn)
{
	for (int turn = 0; settle(conn); turn++) {
		if (conn->state == HTTP_LINGER) {
			discard(conn);
			return;
		}
		if (turn == TURNS) {
			ks_mutex_lock(&conn->lock);
			ks_http_nudge_locked(conn);
			ks_mutex_unlock(&conn->lock);
			return;
		}
		if (conn->input)
			parse_kept(conn);
		else if (!conn->readable || !read_some(conn))
			return;
	}
}

/* ---- what the I/O thread calls ---- */

void ks_http_conn_start(struct http_io *io, struct http_conn *conn)
{
	struct ks_http *http = io->http;

	atomic_fetch_add(&conn->refs, 1);
	http_parser_init(&conn->parser, HTTP_REQUEST);
	conn->parser.data = conn;
	conn->readable = true;
	set_deadline(conn, http->header_ms);
	if (atomic_load_explicit(&http->conn_count, memory_order_relaxed) > http->max_connections)
		ks_http_conn_refuse(conn, 503, "too many connections");
	advance(conn);
	ks_http_conn_unref(conn);
}

/* With the lock held: whoever asked has gone, and nobody else wants the answer. */
static bool abandoned(const struct http_conn *conn)
{
	return conn->peer_closed && conn->request && (conn->request->ops->stream || conn->request->watch_peer);
}

void ks_http_conn_event(struct http_conn *conn, uint32_t events)
{
	bool flush, gone;

	atomic_fetch_add(&conn->refs, 1);
	ks_mutex_lock(&conn->lock);
	conn->peer_closed |= (events & EPOLLRDHUP) != 0;
	gone = events & (EPOLLERR | EPOLLHUP) || abandoned(conn);
	flush = (events & EPOLLOUT) && conn->blocked;
	if (events & EPOLLOUT) {
		conn->blocked = false;
		/* Whoever writes at this moment may be about to find the socket full. */
		conn->write_again |= conn->writing;
	}
	ks_mutex_unlock(&conn->lock);
	if (gone) {
		ks_http_conn_close(conn);
		goto out;
	}
	if (flush)
		ks_http_flush_conn(conn);
	conn->readable |= (events & (EPOLLIN | EPOLLRDHUP)) != 0;
	advance(conn);
out:
	ks_http_conn_unref(conn);
}

void ks_http_conn_nudged(struct http_conn *conn)
{
	bool close;

	ks_mutex_lock(&conn->lock);
	close = conn->broken || abandoned(conn);
	ks_mutex_unlock(&conn->lock);
	if (close) {
		ks_http_conn_close(conn);
		return;
	}
	ks_http_flush_conn(conn);
	advance(conn);
}

static void slow(struct http_conn *conn)
{
	struct ks_http_request *request = conn->parsing;

	if (conn->state == HTTP_LINGER || !request) {
		ks_http_conn_close(conn);
	} else if (request->started) {
		if (request->ops->expired)
			request->ops->expired(request);
		set_deadline(conn, 0);
	} else {
		atomic_fetch_add_explicit(&http_of(conn)->bad_requests, 1, memory_order_relaxed);
		ks_http_conn_refuse(conn, 408, "the request was not complete in time");
		advance(conn);
	}
}

void ks_http_conn_sweep(struct http_conn *conn, int64_t now)
{
	struct ks_http_request *request = NULL;
	bool expired, stalled;

	ks_mutex_lock(&conn->lock);
	expired = conn->deadline_ms && conn->deadline_ms <= now;
	stalled = conn->stalled_ms && conn->stalled_ms <= now;
	if (conn->request && conn->request->deadline_ms) {
		request = conn->request;
		if (request->deadline_ms > now) {
			int64_t *next = &conn->io->next_sweep_ms;

			*next = request->deadline_ms < *next ? request->deadline_ms : *next;
			request = NULL;
		} else {
			request->deadline_ms = 0;
			ks_http_request_ref(request);
		}
	}
	ks_mutex_unlock(&conn->lock);
	atomic_fetch_add(&conn->refs, 1);
	if (stalled) {
		KS_DIAG_LIMITED(KS_INFO, "http", "closing a connection whose client stopped reading peer=%s",
				conn->peer);
		ks_http_conn_close(conn);
	} else if (expired) {
		slow(conn);
	} else if (request && request->ops->expired) {
		request->ops->expired(request);
	}
	if (request)
		ks_http_request_unref(request);
	ks_http_conn_unref(conn);
}

void ks_http_conn_stop(struct http_conn *conn)
{
	struct ks_http_request *request;

	ks_mutex_lock(&conn->lock);
	conn->close_after = true;
	request = conn->request;
	if (request)
		ks_http_request_ref(request);
	ks_mutex_unlock(&conn->lock);
	if (!request && conn->state != HTTP_LINGER) {
		ks_http_conn_close(conn);
	} else if (request) {
		if (request->ops->stop)
			request->ops->stop(request);
		ks_http_request_unref(request);
	}
}

void ks_http_conn_close(struct http_conn *conn)
{
	struct ks_http_request *gone = NULL;

	ks_mutex_lock(&conn->lock);
	if (conn->dead) {
		ks_mutex_unlock(&conn->lock);
		return;
	}
	conn->dead = true;
	if (conn->writing) {
		conn->gone_due = true;
	} else {
		gone = conn->request;
		conn->request = NULL;
	}
	ks_mutex_unlock(&conn->lock);
	(void)epoll_ctl(conn->io->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
	(void)shutdown(conn->fd, SHUT_RDWR);
	ks_list_remove(&conn->node);
	if (gone) {
		if (gone->ops->gone)
			gone->ops->gone(gone);
		ks_http_request_unref(gone);
	}
	if (conn->parsing)
		ks_http_request_unref(conn->parsing);
	conn->parsing = NULL;
	ks_http_conn_unref(conn);
}

void ks_http_conn_refuse(struct http_conn *conn, int status, const char *text)
{
	bool started;

	ks_mutex_lock(&conn->lock);
	started = conn->request != NULL || conn->dead;
	conn->close_after = true;
	if (!started)
		conn->deadline_ms = 0;
	ks_mutex_unlock(&conn->lock);
	if (started) { /* an answer is under way; this one would end up in its middle */
		ks_http_conn_close(conn);
		return;
	}
	if (conn->parsing)
		ks_http_request_unref(conn->parsing);
	conn->parsing = NULL;
	conn->deaf = true;
	conn->state = HTTP_HEADER;
	KS_COUNT_AT(HTTP_REQUESTS, status / 100 - 1, 1);
	ks_buf_printf(&conn->unsent,
		      "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n"
		      "X-Content-Type-Options: nosniff\r\n",
		      status, ks_http_status_text(status), strlen(text) + 1);
	ks_http_write_date(&conn->unsent);
	ks_buf_printf(&conn->unsent, "Connection: close\r\n\r\n%s\n", text);
	ks_http_flush_conn(conn);
}
