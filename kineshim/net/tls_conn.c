/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One TLS connection: its handshake, then both directions of the pump. See tls_priv.h for its life.
 *
 * OpenSSL reads and writes through a BIO of ours. Reading takes up to 64 KiB of records from the socket at once (read-ahead). Writing
 * only appends to a chunk, which is sent with one call when OpenSSL is done, so OpenSSL never waits for the socket to
 * take something. The chunks belong to the thread while nobody has to wait; a connection whose reader is slow takes the chunk along
 * with what is left in it, and gives it back, or frees it, once that has gone.
 */
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/tls_priv.h"

/* Turns of one connection before the others get theirs. */
#define SHARE 8

enum step { STEP_IDLE, STEP_MOVED, STEP_BROKEN };

struct tls_chunk *ks_tls_new_chunk(size_t capacity)
{
	struct tls_chunk *chunk = ks_xmalloc(sizeof(*chunk) + capacity);

	chunk->start = chunk->end = 0;
	chunk->capacity = capacity;
	return chunk;
}

/* ---- chunks: the thread's, until a connection must take one along ---- */

static struct tls_chunk *records_of(struct tls_conn *conn)
{
	if (conn->records)
		return conn->records;
	if (!conn->io->records)
		conn->io->records = ks_tls_new_chunk(TLS_RECORDS_BYTES);
	return conn->io->records;
}

static struct tls_chunk *plain_of(struct tls_conn *conn)
{
	if (conn->plain)
		return conn->plain;
	if (!conn->io->plain)
		conn->io->plain = ks_tls_new_chunk(TLS_PLAIN_BYTES);
	return conn->io->plain;
}

/* After a look at the socket: what is left stays with the connection, an empty chunk with the thread. */
static void settle(struct tls_chunk **own, struct tls_chunk **spare)
{
	if (*own && (*own)->start == (*own)->end) {
		(*own)->start = (*own)->end = 0;
		if (*spare)
			free(*own);
		else
			*spare = *own;
		*own = NULL;
	} else if (!*own && *spare && (*spare)->start < (*spare)->end) {
		*own = *spare;
		*spare = NULL;
	} else if (!*own && *spare) {
		(*spare)->start = (*spare)->end = 0;
	}
}

/* Sends what is in the chunk; false when the socket is broken. */
static bool send_chunk(struct tls_end *end, struct tls_chunk *chunk)
{
	while (chunk->start < chunk->end && end->writable) {
		ssize_t size = send(end->fd, chunk->data + chunk->start, chunk->end - chunk->start, MSG_NOSIGNAL);

		if (size >= 0)
			chunk->start += (size_t)size;
		else if (errno == EAGAIN)
			end->writable = false;
		else if (errno != EINTR)
			return false;
	}
	return true;
}

static bool flush_records(struct tls_conn *conn)
{
	bool fine = send_chunk(&conn->net, records_of(conn));

	settle(&conn->records, &conn->io->records);
	return fine;
}

/* ---- OpenSSL's way to the socket ---- */

static int bio_read(BIO *bio, char *data, size_t size, size_t *got)
{
	struct tls_conn *conn = BIO_get_data(bio);
	struct tls_end *net = &conn->net;
	ssize_t received;

	BIO_clear_retry_flags(bio);
	if (!net->readable) {
		BIO_set_retry_read(bio);
		return 0;
	}
	do {
		received = recv(net->fd, data, size, 0);
	} while (received < 0 && errno == EINTR);
	if (received > 0) {
		/* Less than there was room for: that was all, and more will be announced. */
		if ((size_t)received < size && !net->hung_up)
			net->readable = false;
		*got = (size_t)received;
		return 1;
	}
	if (received < 0 && errno == EAGAIN) {
		net->readable = false;
		BIO_set_retry_read(bio);
	} else if (received == 0) {
		BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
	}
	return 0;
}

static int bio_write(BIO *bio, const char *data, size_t size, size_t *written)
{
	struct tls_conn *conn = BIO_get_data(bio);
	struct tls_chunk *chunk = records_of(conn);

	BIO_clear_retry_flags(bio);
	if (conn->net.fd < 0) /* the end of a connection that is gone */
		return 0;
	if (chunk->start == chunk->end)
		chunk->start = chunk->end = 0;
	/* Only a client that asks for answers and does not read them gets this far. */
	if (size > chunk->capacity - chunk->end)
		return 0;
	memcpy(chunk->data + chunk->end, data, size);
	chunk->end += size;
	*written = size;
	return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)number;
	(void)pointer;
	switch (command) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
	default:
		return 0;
	}
}

static int bio_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

BIO_METHOD *ks_tls_new_bio(void)
{
	int type = BIO_get_new_index();
	BIO_METHOD *method = type < 0 ? NULL : BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "kineshim");

	if (!method)
		return NULL;
	if (BIO_meth_set_read_ex(method, bio_read) && BIO_meth_set_write_ex(method, bio_write) &&
	    BIO_meth_set_ctrl(method, bio_ctrl) && BIO_meth_set_create(method, bio_create))
		return method;
	BIO_meth_free(method);
	return NULL;
}

/* ---- handshake ---- */

static void end_handshake(struct tls_conn *conn, const char *why)
{
	KS_COUNT_AT(TLS_HANDSHAKES, 1, 1);
	KS_DIAG_LIMITED(KS_INFO, "tls", "handshake failed: %s peer=%s", why, conn->peer);
	if (!flush_records(conn)) {
		ks_tls_close(conn);
		return;
	}
	(void)shutdown(conn->net.fd, SHUT_WR);
	ks_tls_set_linger(conn);
}

/* Gives the plaintext's other end to whom the protocol belongs. */
static bool hand_over(struct tls_conn *conn)
{
	struct ks_tls *tls = conn->tls;
	/* Without ALPN, the client speaks what the port does. */
	bool http2 = conn->protocols.chose_http2 || !conn->protocols.http1;
	struct ks_identity *identity;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) {
		KS_DIAG_LIMITED(KS_WARN, "tls", "cannot serve a connection: %s", strerrordesc_np(errno));
		return false;
	}
	conn->app.fd = ends[0];
	identity = ks_tls_context_identity(tls->context, conn->ssl);
	if (http2) {
		ks_rpc_adopt(tls->rpc, ends[1], conn->peer, identity);
	} else {
		const struct ks_http_peer peer = {
			.text = conn->peer,
			.identity = identity,
			.secure = true,
			.port = conn->port,
		};

		ks_http_adopt(tls->http, ends[1], &peer);
	}
	ks_identity_unref(identity);
	return true;
}

static void shake_hands(struct tls_conn *conn)
{
	char why[160] = "the client went away";
	int result, code;

	ERR_clear_error();
	result = SSL_accept(conn->ssl);
	code = result == 1 ? SSL_ERROR_NONE : SSL_get_error(conn->ssl, result);
	if (code == SSL_ERROR_WANT_READ) {
		if (!flush_records(conn))
			ks_tls_close(conn);
		return;
	}
	if (code != SSL_ERROR_NONE) {
		if (code == SSL_ERROR_SSL)
			ks_tls_context_why(conn->ssl, why, sizeof(why));
		end_handshake(conn, why);
		return;
	}
	if (!flush_records(conn) || !hand_over(conn)) {
		ks_tls_close(conn);
		return;
	}
	KS_COUNT_AT(TLS_HANDSHAKES, 0, 1);
	ks_tls_pass_on(conn);
}

/* ---- client → server ---- */

/* Fills the chunk with plaintext; false when the connection is broken. */
static bool read_records(struct tls_conn *conn, struct tls_chunk *chunk)
{
	while (chunk->end < chunk->capacity) {
		size_t size;

		ERR_clear_error();
		if (SSL_read_ex(conn->ssl, chunk->data + chunk->end, chunk->capacity - chunk->end, &size) == 1) {
			chunk->end += size;
			continue;
		}
		switch (SSL_get_error(conn->ssl, 0)) {
		case SSL_ERROR_WANT_READ:
			return true;
		case SSL_ERROR_ZERO_RETURN: /* close_notify, or the end of the connection without one */
			conn->in_ended = true;
			return true;
		default:
			return false;
		}
	}
	return true;
}

/* The server does not listen any more: what comes is thrown away, so that the client's end is still noticed. */
static void stop_listening(struct tls_conn *conn, struct tls_chunk *chunk)
{
	conn->in_closed = true;
	chunk->start = chunk->end = 0;
}

static enum step move_in(struct tls_conn *conn)
{
	struct tls_chunk *chunk = plain_of(conn);
	bool waited = conn->plain != NULL, moved;

	if (conn->in_ended && conn->in_closed)
		return STEP_IDLE;
	if (waited && !conn->app.writable)
		return STEP_IDLE;
	if (!waited && !conn->in_ended && !read_records(conn, chunk)) {
		stop_listening(conn, chunk);
		return STEP_BROKEN;
	}
	moved = chunk->end > chunk->start;
	if (conn->in_closed)
		stop_listening(conn, chunk);
	else if (moved && !send_chunk(&conn->app, chunk))
		stop_listening(conn, chunk);
	settle(&conn->plain, &conn->io->plain);
	if (conn->in_ended && !conn->plain && !conn->in_closed) {
		conn->in_closed = true;
		(void)shutdown(conn->app.fd, SHUT_WR);
	}
	return moved ? STEP_MOVED : STEP_IDLE;
}

/* ---- server → client ---- */

static bool say_goodbye(struct tls_conn *conn)
{
	ERR_clear_error();
	(void)SSL_shutdown(conn->ssl); /* its record is in the chunk; 0 and 1 are both fine, an error leaves none */
	conn->out_ended = true;
	return flush_records(conn);
}

static bool write_records(struct tls_conn *conn, const uint8_t *data, size_t size)
{
	size_t written;

	ERR_clear_error();
	return SSL_write_ex(conn->ssl, data, size, &written) == 1 && written == size && flush_records(conn);
}

static enum step move_out(struct tls_conn *conn)
{
	struct tls_end *app = &conn->app;
	uint8_t *plain = conn->io->from_server;
	ssize_t size;

	if (conn->records) {
		if (!conn->net.writable)
			return STEP_IDLE;
		if (!flush_records(conn))
			return STEP_BROKEN;
		if (conn->records)
			return STEP_IDLE;
		if (conn->out_ended)
			(void)shutdown(conn->net.fd, SHUT_WR);
	}
	if (conn->out_ended || !app->readable)
		return STEP_IDLE;
	do {
		size = recv(app->fd, plain, TLS_PLAIN_BYTES, 0);
	} while (size < 0 && errno == EINTR);
	if (size < 0 && errno == EAGAIN) {
		app->readable = false;
		return STEP_IDLE;
	}
	if (size <= 0) { /* closed; with unread bytes, that is a reset here */
		if (!say_goodbye(conn))
			return STEP_BROKEN;
		if (!conn->records)
			(void)shutdown(conn->net.fd, SHUT_WR);
		return STEP_MOVED;
	}
	if ((size_t)size < TLS_PLAIN_BYTES && !app->hung_up)
		app->readable = false;
	return write_records(conn, plain, (size_t)size) ? STEP_MOVED : STEP_BROKEN;
}

/* ---- the pump ---- */

/* The server has closed its end altogether, so nobody will read what the client may still send. */
static bool server_gone(const struct tls_conn *conn)
{
	return conn->out_ended && conn->app.closed;
}

static void pump(struct tls_conn *conn)
{
	for (int i = 0; i < SHARE; i++) {
		enum step out = move_out(conn), in = out == STEP_BROKEN ? STEP_BROKEN : move_in(conn);

		/* OpenSSL may have answered what it read: an alert, a new key. */
		if (in != STEP_BROKEN && !conn->records && !flush_records(conn))
			in = STEP_BROKEN;
		if (in == STEP_BROKEN) {
			(void)flush_records(conn); /* the alert, if it will go */
			ks_tls_close(conn);
			return;
		}
		if (conn->out_ended && !conn->records && (conn->in_ended || server_gone(conn))) {
			if (conn->in_ended)
				ks_tls_close(conn);
			else
				ks_tls_set_linger(conn);
			return;
		}
		if (out == STEP_IDLE && in == STEP_IDLE)
			return;
	}
	if (ks_list_empty(&conn->ready))
		ks_list_append(&conn->io->ready, &conn->ready);
}

static void linger(struct tls_conn *conn)
{
	uint8_t unwanted[16384];
	ssize_t size;

	if (conn->records && !flush_records(conn)) {
		ks_tls_close(conn);
		return;
	}
	for (int i = 0; i < SHARE; i++) {
		do {
			size = recv(conn->net.fd, unwanted, sizeof(unwanted), 0);
		} while (size < 0 && errno == EINTR);
		if (size < 0 && errno == EAGAIN)
			return;
		if (size <= 0) {
			ks_tls_close(conn);
			return;
		}
	}
	if (ks_list_empty(&conn->ready))
		ks_list_append(&conn->io->ready, &conn->ready);
}

static bool is_empty(const struct tls_chunk *chunk)
{
	return !chunk || chunk->start == chunk->end;
}

void ks_tls_conn_run(struct tls_conn *conn)
{
	/* Nobody's bytes reach somebody else. */
	KS_ASSERT(is_empty(conn->io->records) && is_empty(conn->io->plain));
	switch (conn->state) {
	case TLS_HANDSHAKE:
		shake_hands(conn);
		break;
	case TLS_OPEN:
		pump(conn);
		break;
	case TLS_LINGER:
		linger(conn);
		break;
	}
}

void ks_tls_conn_event(struct tls_end *end, uint32_t events)
{
	if (end->fd < 0) /* closed in this very turn */
		return;
	if (events & EPOLLOUT)
		end->writable = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		end->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		end->hung_up = true;
	if (events & (EPOLLHUP | EPOLLERR) && end == &end->conn->app && !end->closed) {
		end->closed = true;
		ks_tls_set_closing(end->conn);
	}
	ks_tls_conn_run(end->conn);
}
