/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages come in packets of eight bytes of head and a piece of the message; answers are streams of tokens, in packets
 * as well. Numbers are little-endian but for the packet's size. Texts are UTF-16: of those that come in only ASCII is
 * kept, which is all that the backend sends.
 */
#include "tests/lib/tds_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/panic.h"

enum {
	PACKET_SIZE = 4096,
	MESSAGE_MAX = 64 << 20,
	CONNECTIONS_MAX = 32,
	PARAMS_MAX = 2200,

	KIND_BATCH = 0x01,
	KIND_RPC = 0x03,
	KIND_ANSWER = 0x04,
	KIND_ATTENTION = 0x06,
	KIND_TRANSACTION = 0x0e,
	KIND_LOGIN = 0x10,
	KIND_PRELOGIN = 0x12,

	DONE = 0xfd,
	DONE_PROC = 0xfe,
	DONE_IN_PROC = 0xff,
	STATUS_MORE = 0x01,
	STATUS_ERROR = 0x02,
	STATUS_ATTENTION = 0x20,

	PROC_EXECUTESQL = 10,
};

struct peer {
	struct tds_server *server;
	pthread_t thread;
	int fd;
	unsigned number;
	bool running; /* with the server's lock */
	SSL *tls;     /* NULL: plain */
	struct ks_buf message;
	struct tds_param params[PARAMS_MAX];
};

struct tds_server {
	tds_handler_fn *handler;
	void *ctx;
	int listen_fd;
	SSL_CTX *tls; /* NULL: plain */
	pthread_t thread;
	pthread_mutex_t lock;
	struct peer *peers[CONNECTIONS_MAX];
	unsigned peer_count;
	bool stopping;
};

/* ---- writing tokens ---- */

static void put(struct ks_buf *buf, uint64_t value, size_t size)
{
	uint8_t bytes[8];

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
	ks_buf_append(buf, bytes, size);
}

/* A text in UTF-16 behind its length in characters. */
static void put_text(struct ks_buf *buf, const char *text, size_t length_size)
{
	put(buf, strlen(text), length_size);
	for (; *text; text++)
		put(buf, (uint8_t)*text, 2);
}

static void put_done(struct ks_buf *buf, unsigned token, unsigned status)
{
	put(buf, token, 1);
	put(buf, status, 2);
	put(buf, 0, 2);
	put(buf, 0, 8);
}

void tds_columns(struct tds_reply *reply, const char *types)
{
	struct ks_buf *buf = &reply->tokens;

	put(buf, 0x81, 1);
	put(buf, strlen(types), 2);
	for (; *types; types++) {
		put(buf, 0, 4);
		put(buf, 0x0009, 2); /* may be NULL, and be written to */
		if (*types == 'n') {
			put(buf, 0x26, 1);
			put(buf, 8, 1);
		} else {
			put(buf, 0xa5, 1);
			put(buf, 0xffff, 2);
		}
		put_text(buf, "c", 1);
	}
}

void tds_row(struct tds_reply *reply)
{
	put(&reply->tokens, 0xd1, 1);
}

void tds_number(struct tds_reply *reply, int64_t value)
{
	put(&reply->tokens, 8, 1);
	put(&reply->tokens, (uint64_t)value, 8);
}

void tds_null_number(struct tds_reply *reply)
{
	put(&reply->tokens, 0, 1);
}

void tds_bytes(struct tds_reply *reply, struct ks_slice value)
{
	struct ks_buf *buf = &reply->tokens;

	if (!value.data) {
		put(buf, UINT64_MAX, 8);
		return;
	}
	put(buf, value.size, 8);
	/* In pieces, as a server does. */
	for (size_t i = 0; i < value.size; i += 8000) {
		size_t size = value.size - i < 8000 ? value.size - i : 8000;

		put(buf, size, 4);
		ks_buf_append(buf, value.data + i, size);
	}
	put(buf, 0, 4);
}

void tds_statement(struct tds_reply *reply)
{
	put_done(&reply->tokens, reply->proc ? DONE_IN_PROC : DONE, STATUS_MORE);
}

void tds_transaction(struct tds_reply *reply, bool began)
{
	static const uint64_t which = 0x0123456789;
	struct ks_buf *buf = &reply->tokens;

	put(buf, 0xe3, 1);
	put(buf, 1 + 1 + 8 + 1, 2);
	put(buf, began ? 8 : 9, 1);
	/* The new one and the old one. */
	put(buf, began ? 8 : 0, 1);
	if (began)
		put(buf, which, 8);
	put(buf, began ? 0 : 8, 1);
	if (!began)
		put(buf, which, 8);
}

void tds_error(struct tds_reply *reply, int number, int severity, const char *text)
{
	struct ks_buf *buf = &reply->tokens;

	put(buf, 0xaa, 1);
	put(buf, 4 + 1 + 1 + 2 + 2 * strlen(text) + 1 + 1 + 4, 2);
	put(buf, (uint64_t)number, 4);
	put(buf, 1, 1);
	put(buf, (uint64_t)severity, 1);
	put_text(buf, text, 2);
	put_text(buf, "", 1);
	put_text(buf, "", 1);
	put(buf, 1, 4);
	put_done(buf, reply->proc ? DONE_IN_PROC : DONE, STATUS_MORE | STATUS_ERROR);
}

void tds_packet(struct tds_reply *reply)
{
	KS_ASSERT(reply->break_count < sizeof(reply->breaks) / sizeof(reply->breaks[0]));
	reply->breaks[reply->break_count++] = reply->tokens.size;
}

/* ---- the socket ---- */

static bool read_all(struct peer *peer, void *data, size_t size)
{
	uint8_t *at = data;

	while (size > 0) {
		ssize_t got = peer->tls ? SSL_read(peer->tls, at, (int)size) : recv(peer->fd, at, size, 0);

		if (got <= 0)
			return false;
		at += got;
		size -= (size_t)got;
	}
	return true;
}

static bool write_all(struct peer *peer, const uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t sent =
			peer->tls ? SSL_write(peer->tls, data, (int)size) : send(peer->fd, data, size, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		data += sent;
		size -= (size_t)sent;
	}
	return true;
}

/* In packets; at most 'limit' bytes of them. */
static bool send_message(struct peer *peer, unsigned kind, const struct tds_reply *reply, size_t limit)
{
	const struct ks_buf *tokens = &reply->tokens;
	size_t at = 0, next_break = 0;

	do {
		size_t piece = tokens->size - at;
		uint8_t packet[PACKET_SIZE];

		while (next_break < reply->break_count && reply->breaks[next_break] <= at)
			next_break++;
		if (next_break < reply->break_count && piece > reply->breaks[next_break] - at)
			piece = reply->breaks[next_break] - at;
		if (piece > PACKET_SIZE - 8)
			piece = PACKET_SIZE - 8;
		memset(packet, 0, 8);
		packet[0] = (uint8_t)kind;
		packet[1] = at + piece == tokens->size;
		packet[2] = (uint8_t)((piece + 8) >> 8);
		packet[3] = (uint8_t)(piece + 8);
		memcpy(packet + 8, tokens->data + at, piece);
		if (!write_all(peer, packet, piece + 8 < limit ? piece + 8 : limit))
			return false;
		limit -= piece + 8 < limit ? piece + 8 : limit;
		at += piece;
	} while (at < tokens->size && limit > 0);
	return true;
}

static bool send_bytes(struct peer *peer, unsigned kind, const uint8_t *data, size_t size)
{
	struct tds_reply reply = {0};
	bool sent;

	ks_buf_init(&reply.tokens, PACKET_SIZE);
	ks_buf_append(&reply.tokens, data, size);
	sent = send_message(peer, kind, &reply, SIZE_MAX);
	ks_buf_fini(&reply.tokens);
	return sent;
}

/* The next message; false: the connection ended. */
static bool read_message(struct peer *peer, unsigned *kind)
{
	uint8_t head[8];

	ks_buf_reset(&peer->message);
	do {
		size_t size;

		if (!read_all(peer, head, sizeof(head)))
			return false;
		size = (size_t)head[2] << 8 | head[3];
		if (size < 8 || !ks_buf_reserve(&peer->message, size - 8) ||
		    !read_all(peer, peer->message.data + peer->message.size, size - 8))
			return false;
		peer->message.size += size - 8;
	} while (!(head[1] & 0x01));
	*kind = head[0];
	return true;
}

/* ---- reading requests ---- */

struct reader {
	const uint8_t *at;
	size_t left;
	bool bad;
};

static const uint8_t *take(struct reader *reader, size_t size)
{
	const uint8_t *at = reader->at;

	if (reader->left < size) {
		reader->bad = true;
		return NULL;
	}
	reader->at += size;
	reader->left -= size;
	return at;
}

static uint64_t get(struct reader *reader, size_t size)
{
	const uint8_t *at = take(reader, size);
	uint64_t value = 0;

	for (size_t i = 0; at && i < size; i++)
		value |= (uint64_t)at[i] << 8 * i;
	return value;
}

/* ASCII out of UTF-16; the caller frees it. */
static char *ascii(const uint8_t *data, size_t size)
{
	char *text = ks_xcalloc(size / 2 + 1, 1);

	for (size_t i = 0; i + 1 < size; i += 2)
		text[i / 2] = data[i + 1] ? '?' : (char)data[i];
	return text;
}

/* In pieces, or NULL. The pieces are put together where they lie. */
static void get_pieces(struct reader *reader, struct tds_param *param)
{
	uint64_t total = get(reader, 8), size;
	uint8_t *out = (uint8_t *)(uintptr_t)reader->at;

	param->null = total == UINT64_MAX;
	param->bytes = ks_slice_of(param->null ? NULL : out, 0);
	if (param->null)
		return;
	while (!reader->bad && (size = get(reader, 4)) > 0) {
		const uint8_t *at = take(reader, size);

		if (at)
			memmove(out + param->bytes.size, at, size);
		param->bytes.size += size;
	}
}

static void get_sized(struct reader *reader, struct tds_param *param, size_t length_size)
{
	uint64_t size = get(reader, length_size);

	param->null = size == (length_size == 2 ? UINT16_MAX : UINT32_MAX);
	param->bytes = ks_slice_of(param->null ? NULL : take(reader, size), param->null ? 0 : size);
}

static void get_number(struct reader *reader, struct tds_param *param)
{
	unsigned shift;

	param->type = 'n';
	param->width = (unsigned)get(reader, 1);
	shift = (unsigned)get(reader, 1);
	param->null = shift == 0;
	param->number = (int64_t)get(reader, shift);
	if (shift == 0 || shift >= 8)
		return;
	shift = 64 - 8 * shift;
	param->number = (int64_t)((uint64_t)param->number << shift) >> shift;
}

static bool get_param(struct reader *reader, struct tds_param *param)
{
	uint64_t type;

	*param = (struct tds_param){.type = 'b'};
	take(reader, 2 * get(reader, 1)); /* its name */
	get(reader, 1);
	type = get(reader, 1);
	switch (type) {
	case 0x26: /* INTN */
		get_number(reader, param);
		break;
	case 0x22: /* IMAGE */
		get(reader, 4);
		get_sized(reader, param, 4);
		break;
	case 0x63: /* NTEXT */
		param->type = 't';
		take(reader, 9);
		get_sized(reader, param, 4);
		break;
	case 0xa5: /* VARBINARY */
	case 0xe7: /* NVARCHAR */ {
		bool max = get(reader, 2) == UINT16_MAX;

		if (type == 0xe7) {
			param->type = 't';
			take(reader, 5);
		}
		if (max)
			get_pieces(reader, param);
		else
			get_sized(reader, param, 2);
		break;
	}
	default:
		return false;
	}
	return !reader->bad;
}

static void skip_headers(struct reader *reader)
{
	uint64_t size = get(reader, 4);

	take(reader, size < 4 ? reader->left + 1 : size - 4);
}

/* The caller frees request->text and ->declared. */
static void read_rpc(struct peer *peer, struct reader *reader, struct tds_request *request)
{
	size_t count = 0;

	request->kind = TDS_STRANGE;
	if (get(reader, 2) != UINT16_MAX || get(reader, 2) != PROC_EXECUTESQL) {
		request->text = ks_xstrdup("not sp_executesql");
		return;
	}
	get(reader, 2);
	while (reader->left > 0 && count < PARAMS_MAX)
		if (!get_param(reader, &peer->params[count++])) {
			request->text = ks_xstrdup("a parameter of unknown type");
			return;
		}
	if (count < 1 || peer->params[0].type != 't' || (count > 1 && peer->params[1].type != 't')) {
		request->text = ks_xstrdup("no statement");
		return;
	}
	request->kind = TDS_RPC;
	request->text = ascii(peer->params[0].bytes.data, peer->params[0].bytes.size);
	request->declared = count > 1 ? ascii(peer->params[1].bytes.data, peer->params[1].bytes.size) : ks_xstrdup("");
	request->params = peer->params + 2;
	request->param_count = count > 2 ? count - 2 : 0;
}

/* A text that the head of a login points to. */
static char *login_text(const struct ks_buf *message, size_t head, bool secret)
{
	const uint8_t *at = message->data + head;
	size_t offset, size;
	uint8_t *plain;
	char *text;

	if (message->size < head + 4)
		return ks_xstrdup("?");
	offset = (size_t)at[0] | (size_t)at[1] << 8;
	size = 2 * ((size_t)at[2] | (size_t)at[3] << 8);
	if (offset + size > message->size)
		return ks_xstrdup("?");
	plain = ks_xcalloc(size + 1, 1);
	for (size_t i = 0; i < size; i++) {
		uint8_t byte = message->data[offset + i] ^ (secret ? 0xa5 : 0);

		plain[i] = (uint8_t)(secret ? byte << 4 | byte >> 4 : byte);
	}
	text = ascii(plain, size);
	free(plain);
	return text;
}

/* ---- answering ---- */

/* The handshake, piece by piece in packets; then TLS has the socket to itself. */
static bool shake_hands(struct peer *peer)
{
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL *tls = SSL_new(peer->server->tls);
	bool done = false;

	KS_ASSERT(in && out && tls);
	SSL_set_bio(tls, in, out);
	SSL_set_accept_state(tls);
	while (!done) {
		unsigned kind;
		char *data;
		long size;

		if (!read_message(peer, &kind) || kind != KIND_PRELOGIN)
			break;
		KS_ASSERT(BIO_write(in, peer->message.data, (int)peer->message.size) == (int)peer->message.size);
		done = SSL_do_handshake(tls) == 1;
		size = BIO_get_mem_data(out, &data);
		if (size > 0 && !send_bytes(peer, KIND_PRELOGIN, (const uint8_t *)data, (size_t)size))
			break;
		(void)BIO_reset(out);
	}
	if (!done || SSL_set_fd(tls, peer->fd) != 1) {
		SSL_free(tls);
		return false;
	}
	peer->tls = tls;
	return true;
}

static bool answer_prelogin(struct peer *peer)
{
	uint8_t options[] = {
		0x00, 0, 11,   0,    6,         /* the version is at 11 and has 6 bytes */
		0x01, 0, 17,   0,    1,         /* encryption */
		0xff,                           /* no more */
		15,   0, 0x07, 0xd0, 0, 0, 0x02 /* 15.0.2000; not supported */
	};

	if (peer->server->tls)
		options[sizeof(options) - 1] = 0x01; /* on */
	return send_bytes(peer, KIND_ANSWER, options, sizeof(options)) && (!peer->server->tls || shake_hands(peer));
}

static void put_login_answer(struct ks_buf *buf)
{
	static const char name[] = "Microsoft SQL Server";
	static const uint8_t version[] = {0x74, 0, 0, 4};
	static const uint8_t collation[] = {5, 0x09, 0x04, 0xd0, 0x00, 0x34, 0};

	put(buf, 0xe3, 1); /* the collation */
	put(buf, 1 + sizeof(collation), 2);
	put(buf, 7, 1);
	ks_buf_append(buf, collation, sizeof(collation));
	put(buf, 0xad, 1);
	put(buf, 1 + 4 + 1 + 2 * strlen(name) + 4, 2);
	put(buf, 1, 1);
	ks_buf_append(buf, version, sizeof(version));
	put_text(buf, name, 1);
	put(buf, 0xd007000f, 4);
	put(buf, 0xe3, 1); /* the packet size */
	put(buf, 1 + 2 * (1 + 2 * 4), 2);
	put(buf, 4, 1);
	put_text(buf, "4096", 1);
	put_text(buf, "4096", 1);
}

/* False: the connection ends. */
static bool answer(struct peer *peer, struct tds_request *request)
{
	struct tds_reply reply = {.proc = request->kind == TDS_RPC};
	bool go_on = true;

	ks_buf_init(&reply.tokens, MESSAGE_MAX);
	request->connection = peer->number;
	peer->server->handler(peer->server->ctx, request, &reply);
	if (request->kind == TDS_LOGIN && reply.tokens.size == 0)
		put_login_answer(&reply.tokens);
	if (reply.proc) { /* what sp_executesql returns */
		put(&reply.tokens, 0x79, 1);
		put(&reply.tokens, 0, 4);
	}
	put_done(&reply.tokens, reply.proc ? DONE_PROC : DONE, 0);
	if (reply.tokens.failed)
		go_on = false;
	else if (reply.end == TDS_ANSWER)
		go_on = send_message(peer, KIND_ANSWER, &reply, SIZE_MAX);
	else if (reply.end == TDS_CUT)
		go_on = reply.cut_at > 0 && send_message(peer, KIND_ANSWER, &reply, reply.cut_at) && false;
	ks_buf_fini(&reply.tokens);
	if (reply.end == TDS_DEAF) {
		unsigned kind;

		while (read_message(peer, &kind))
			;
		return false;
	}
	return go_on;
}

static bool acknowledge_attention(struct peer *peer)
{
	struct ks_buf buf;
	bool sent;

	ks_buf_init(&buf, PACKET_SIZE);
	put_done(&buf, DONE, STATUS_ATTENTION);
	sent = send_bytes(peer, KIND_ANSWER, buf.data, buf.size);
	ks_buf_fini(&buf);
	return sent;
}

static bool serve(struct peer *peer, unsigned kind)
{
	struct reader reader = {peer->message.data, peer->message.size, false};
	struct tds_request request = {.kind = TDS_STRANGE};
	char *secret = NULL;
	bool go_on;

	switch (kind) {
	case KIND_PRELOGIN:
		return answer_prelogin(peer);
	case KIND_LOGIN:
		request.kind = TDS_LOGIN;
		request.text = login_text(&peer->message, 40, false);
		secret = login_text(&peer->message, 44, true);
		request.declared = login_text(&peer->message, 68, false);
		break;
	case KIND_BATCH:
		skip_headers(&reader);
		request.kind = TDS_BATCH;
		request.text = ascii(reader.at, reader.left);
		break;
	case KIND_RPC:
		skip_headers(&reader);
		read_rpc(peer, &reader, &request);
		break;
	case KIND_TRANSACTION:
		request.kind = TDS_TRANSACTION;
		break;
	case KIND_ATTENTION:
		request.kind = TDS_ATTENTION;
		break;
	default:
		break;
	}
	request.secret = secret;
	if (request.kind == TDS_ATTENTION) {
		struct tds_reply ignored = {.end = TDS_SILENT};

		ks_buf_init(&ignored.tokens, 1);
		request.connection = peer->number;
		peer->server->handler(peer->server->ctx, &request, &ignored);
		ks_buf_fini(&ignored.tokens);
		return acknowledge_attention(peer);
	}
	go_on = answer(peer, &request);
	free((void *)(uintptr_t)request.text);
	free((void *)(uintptr_t)request.declared);
	free(secret);
	return go_on;
}

static void *run_peer(void *arg)
{
	struct peer *peer = arg;
	unsigned kind;

	while (read_message(peer, &kind) && serve(peer, kind))
		;
	(void)shutdown(peer->fd, SHUT_RDWR);
	pthread_mutex_lock(&peer->server->lock);
	peer->running = false;
	pthread_mutex_unlock(&peer->server->lock);
	return NULL;
}

/* ---- the server ---- */

/* With the lock. */
static void add_peer(struct tds_server *server, int fd)
{
	static const int on = 1;
	struct peer *peer;

	/* Packets of an answer follow each other without waiting for an acknowledgement. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (server->stopping || server->peer_count == CONNECTIONS_MAX) {
		close(fd);
		return;
	}
	peer = ks_xcalloc(1, sizeof(*peer));
	peer->server = server;
	peer->fd = fd;
	peer->number = server->peer_count + 1;
	peer->running = true;
	ks_buf_init(&peer->message, MESSAGE_MAX);
	if (pthread_create(&peer->thread, NULL, run_peer, peer) != 0) {
		close(fd);
		free(peer);
		return;
	}
	server->peers[server->peer_count++] = peer;
}

static void *run_server(void *arg)
{
	struct tds_server *server = arg;
	int fd;

	while ((fd = accept(server->listen_fd, NULL, NULL)) >= 0) {
		pthread_mutex_lock(&server->lock);
		add_peer(server, fd);
		pthread_mutex_unlock(&server->lock);
	}
	return NULL;
}

struct tds_server *tds_server_start(tds_handler_fn *handler, void *ctx, int *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct tds_server *server = ks_xcalloc(1, sizeof(*server));
	socklen_t size = sizeof(address);

	server->handler = handler;
	server->ctx = ctx;
	pthread_mutex_init(&server->lock, NULL);
	server->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server->listen_fd < 0 || bind(server->listen_fd, (struct sockaddr *)&address, size) != 0 ||
	    listen(server->listen_fd, 8) != 0 ||
	    getsockname(server->listen_fd, (struct sockaddr *)&address, &size) != 0 ||
	    pthread_create(&server->thread, NULL, run_server, server) != 0) {
		perror("# tds_server");
		if (server->listen_fd >= 0)
			close(server->listen_fd);
		free(server);
		return NULL;
	}
	*port = ntohs(address.sin_port);
	return server;
}

bool tds_server_encrypt(struct tds_server *server, const char *pem)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());

	if (!tls || SSL_CTX_set_max_proto_version(tls, TLS1_2_VERSION) != 1 ||
	    SSL_CTX_use_certificate_file(tls, pem, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_use_PrivateKey_file(tls, pem, SSL_FILETYPE_PEM) != 1) {
		SSL_CTX_free(tls);
		return false;
	}
	pthread_mutex_lock(&server->lock);
	KS_ASSERT(!server->tls);
	server->tls = tls;
	pthread_mutex_unlock(&server->lock);
	return true;
}

void tds_server_hang_up(struct tds_server *server)
{
	pthread_mutex_lock(&server->lock);
	for (unsigned i = 0; i < server->peer_count; i++)
		if (server->peers[i]->running)
			(void)shutdown(server->peers[i]->fd, SHUT_RDWR);
	pthread_mutex_unlock(&server->lock);
}

void tds_server_stop(struct tds_server *server)
{
	if (!server)
		return;
	pthread_mutex_lock(&server->lock);
	server->stopping = true;
	pthread_mutex_unlock(&server->lock);
	(void)shutdown(server->listen_fd, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->listen_fd);
	tds_server_hang_up(server);
	for (unsigned i = 0; i < server->peer_count; i++) {
		pthread_join(server->peers[i]->thread, NULL);
		close(server->peers[i]->fd);
		SSL_free(server->peers[i]->tls);
		ks_buf_fini(&server->peers[i]->message);
		free(server->peers[i]);
	}
	SSL_CTX_free(server->tls);
	pthread_mutex_destroy(&server->lock);
	free(server);
}
