/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The WebSocket bridge: a GET under /v3/ that asks for an upgrade becomes a call whose request messages come as messages of the client,
 * and whose responses go out as text messages, one for each line of the HTTP answer. It wraps the ops of the same call by
 * HTTP: what comes in is unframed and given to them as the body, what they write through ks_gateway_write_* is framed.
 *
 *	I/O thread  bytes ──wslay──► frames ──► body of the stream, or the collected body of a call with one request message
 *	writer      101 · pong · pieces of a message as fragments · close
 *
 * The side of the client that closes ends the call at once, by a close frame or without. There is one pong, the one for the last
 * ping, so pings cost no memory. A message that arrives must be complete in the time for a body; between messages there is no limit.
 */
#include <openssl/evp.h>
#include <stdlib.h>
#include <wslay/wslay.h>

#include "base/metrics.h"
#include "base/panic.h"
#include "net/gateway_priv.h"

#define MAX_CONTROL 125
#define KEY_TEXT_SIZE 24 /* 16 bytes in base64 */
#define KEY_SIZE 16
#define NO_CODE 0 /* a close frame without one */

struct gateway_websocket {
	const struct http_ops *inner;
	wslay_frame_context_ptr receiver, sender;
	char accept[32]; /* base64 of a SHA-1 */
	bool bearer;     /* the client offered that subprotocol */

	/* I/O thread */
	struct ks_slice input;
	bool deaf;                 /* nothing is looked at any more */
	bool begun;                /* the inner ops know of the request */
	bool spoken;               /* a whole message arrived */
	bool in_frame, in_message; /* which is not complete yet */
	uint64_t frame_got, message_size;
	uint8_t control[MAX_CONTROL];

	/* the writer's */
	struct ks_buf *out;
	bool half_sent; /* a message was begun, but not ended */

	/* under call.lock */
	bool closing, pong_due;
	uint16_t close_code;
	uint8_t pong[MAX_CONTROL];
	size_t pong_size;
};

static struct gateway_call *call_of(const struct ks_http_request *request)
{
	return request->serving; /* of all ops under /v3/ the call is the first member */
}

static struct gateway_websocket *websocket_of(const struct ks_http_request *request)
{
	return call_of(request)->websocket;
}

/* ---- output ---- */

static ssize_t take_output(const uint8_t *data, size_t size, int flags, void *arg)
{
	struct gateway_websocket *websocket = arg;

	(void)flags;
	ks_buf_append(websocket->out, data, size);
	return (ssize_t)size;
}

static void write_frame(struct gateway_websocket *websocket, struct ks_buf *out, uint8_t opcode, bool final,
			struct ks_slice payload)
{
	struct wslay_frame_iocb frame = {.fin = final,
					 .opcode = opcode,
					 .payload_length = payload.size,
					 .data = payload.data,
					 .data_length = payload.size};

	websocket->out = out;
	/* All or nothing: the buffer takes everything, or fails as a whole later. */
	if (wslay_frame_send(websocket->sender, &frame) != (ssize_t)payload.size)
		out->failed = true;
	websocket->out = NULL;
}

void ks_gateway_websocket_write(struct gateway_websocket *websocket, struct ks_buf *out, struct ks_slice piece)
{
	bool final = piece.size > 0 && piece.data[piece.size - 1] == '\n';

	if (piece.size == 0)
		return;
	piece.size -= final;
	write_frame(websocket, out, websocket->half_sent ? WSLAY_CONTINUATION_FRAME : WSLAY_TEXT_FRAME, final, piece);
	websocket->half_sent = !final;
}

static void write_close(struct gateway_websocket *websocket, struct ks_buf *out, uint16_t code)
{
	uint8_t payload[2] = {(uint8_t)(code >> 8), (uint8_t)code};

	write_frame(websocket, out, WSLAY_CONNECTION_CLOSE, true,
		    ks_slice_of(payload, code == NO_CODE ? 0 : sizeof(payload)));
}

static void write_head(struct gateway_call *call, struct ks_buf *out)
{
	call->head_sent = true;
	KS_COUNT_AT(HTTP_REQUESTS, 0, 1);
	ks_buf_printf(out,
		      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		      "Sec-WebSocket-Accept: %s\r\n%s\r\n",
		      call->websocket->accept, call->websocket->bearer ? "Sec-WebSocket-Protocol: Bearer\r\n" : "");
}

static enum http_produced produce(struct ks_http_request *request, struct ks_buf *out)
{
	struct gateway_call *call = call_of(request);
	struct gateway_websocket *websocket = call->websocket;
	uint8_t pong[MAX_CONTROL];
	size_t pong_size = 0;
	bool closing, pong_due;
	enum http_produced produced;
	uint16_t code;

	if (!call->head_sent)
		write_head(call, out);
	ks_mutex_lock(&call->lock);
	closing = websocket->closing;
	code = websocket->close_code;
	pong_due = websocket->pong_due;
	websocket->pong_due = false;
	if (pong_due) {
		pong_size = websocket->pong_size;
		memcpy(pong, websocket->pong, pong_size);
	}
	ks_mutex_unlock(&call->lock);
	if (pong_due)
		write_frame(websocket, out, WSLAY_PONG, true, ks_slice_of(pong, pong_size));
	if (closing) {
		write_close(websocket, out, code);
		return HTTP_DONE;
	}
	produced = websocket->inner->produce(request, out);
	if (produced == HTTP_DONE)
		write_close(websocket, out,
			    atomic_load(&request->conn->io->http->stopping) ? WSLAY_CODE_GOING_AWAY
									    : WSLAY_CODE_NORMAL_CLOSURE);
	else if (produced == HTTP_ABORT)
		write_close(websocket, out, WSLAY_CODE_INTERNAL_SERVER_ERROR);
	return produced;
}

/* ---- the end ---- */

/* I/O thread: a close frame is the next that the client gets, and the call is over. */
static void close_with(struct ks_http_request *request, uint16_t code)
{
	struct gateway_call *call = call_of(request);
	struct gateway_websocket *websocket = call->websocket;

	websocket->deaf = true;
	ks_mutex_lock(&call->lock);
	if (!websocket->closing) {
		websocket->closing = true;
		websocket->close_code = code;
	}
	ks_mutex_unlock(&call->lock);
	if (websocket->begun && websocket->inner->gone)
		websocket->inner->gone(request);
	ks_http_flush(request);
}

static void gone(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	if (websocket->begun && websocket->inner->gone)
		websocket->inner->gone(request);
}

static void stop(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	if (!websocket->begun)
		close_with(request, WSLAY_CODE_GOING_AWAY);
	else if (websocket->inner->stop)
		websocket->inner->stop(request);
}

static void expired(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	if (!websocket->begun)
		close_with(request, WSLAY_CODE_POLICY_VIOLATION);
	else if (websocket->inner->expired)
		websocket->inner->expired(request);
}

/* ---- input ---- */

static ssize_t give_input(uint8_t *to, size_t size, int flags, void *arg)
{
	struct gateway_websocket *websocket = arg;

	(void)flags;
	size = size < websocket->input.size ? size : websocket->input.size;
	if (size == 0)
		return -1; /* no more for now */
	memcpy(to, websocket->input.data, size);
	websocket->input.data += size;
	websocket->input.size -= size;
	return (ssize_t)size;
}

static bool is_control(const struct wslay_frame_iocb *frame)
{
	return frame->opcode & 8;
}

/* The code that a frame which begins so is answered with; NO_CODE: none, it is as it should be. */
static uint16_t frame_error(const struct gateway_websocket *websocket, const struct wslay_frame_iocb *frame, size_t max)
{
	bool known = frame->opcode <= WSLAY_BINARY_FRAME ||
		     (frame->opcode >= WSLAY_CONNECTION_CLOSE && frame->opcode <= WSLAY_PONG);

	if (!frame->mask || frame->rsv || !known)
		return WSLAY_CODE_PROTOCOL_ERROR;
	if (is_control(frame))
		return frame->fin && frame->payload_length <= MAX_CONTROL ? NO_CODE : WSLAY_CODE_PROTOCOL_ERROR;
	if (websocket->in_message != (frame->opcode == WSLAY_CONTINUATION_FRAME))
		return WSLAY_CODE_PROTOCOL_ERROR;
	return frame->payload_length > max - websocket->message_size ? WSLAY_CODE_MESSAGE_TOO_BIG : NO_CODE;
}

/* Of a call with one request message. False: the connection closes. */
static bool collect(struct ks_http_request *request, struct ks_slice data)
{
	if (!ks_http_claim(request, data.size)) {
		close_with(request, WSLAY_CODE_INTERNAL_SERVER_ERROR);
		return false;
	}
	request->body_counted += data.size;
	ks_buf_append_slice(&request->body, data);
	if (request->body.failed)
		close_with(request, WSLAY_CODE_INTERNAL_SERVER_ERROR);
	return !request->body.failed;
}

/* True while there is room for more. What follows the only message of a call is thrown away. */
static bool message_data(struct ks_http_request *request, struct ks_slice data)
{
	struct gateway_websocket *websocket = websocket_of(request);

	if (websocket->inner->body)
		return data.size == 0 || websocket->inner->body(request, data);
	if (!websocket->begun && data.size > 0)
		(void)collect(request, data);
	return true;
}

static bool message_end(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	websocket->spoken = true;
	websocket->message_size = 0;
	if (websocket->inner->body) /* a number may be a whole message */
		return websocket->inner->body(request, ks_slice_str("\n"));
	if (!websocket->begun) {
		websocket->begun = true;
		websocket->inner->complete(request);
	}
	return true;
}

/* A code that a client may send (RFC 6455, 7.4). */
static bool code_allowed(unsigned code)
{
	return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
	       (code >= 3000 && code <= 4999);
}

static void control_end(struct ks_http_request *request, const struct wslay_frame_iocb *frame)
{
	struct gateway_call *call = call_of(request);
	struct gateway_websocket *websocket = call->websocket;
	size_t size = (size_t)frame->payload_length;
	uint16_t code = NO_CODE;

	switch (frame->opcode) {
	case WSLAY_CONNECTION_CLOSE:
		if (size > 0) {
			code = (uint16_t)(websocket->control[0] << 8 | websocket->control[1]);
			code = size >= 2 && code_allowed(code) ? code : WSLAY_CODE_PROTOCOL_ERROR;
		}
		close_with(request, code);
		break;
	case WSLAY_PING:
		ks_mutex_lock(&call->lock);
		memcpy(websocket->pong, websocket->control, size);
		websocket->pong_size = size;
		websocket->pong_due = true;
		ks_mutex_unlock(&call->lock);
		break;
	default: /* a pong that nobody asked for */
		break;
	}
}

/* A frame's next bytes, the last ones perhaps. True while there is room for more. */
static bool frame_data(struct ks_http_request *request, const struct wslay_frame_iocb *frame)
{
	struct gateway_websocket *websocket = websocket_of(request);
	size_t max = request->conn->io->http->max_body_bytes;
	bool room = true;

	if (!websocket->in_frame) {
		uint16_t error = frame_error(websocket, frame, max);

		if (error) {
			close_with(request, error);
			return true;
		}
		websocket->in_frame = true;
		websocket->frame_got = 0;
		if (!is_control(frame)) {
			websocket->in_message = true;
			websocket->message_size += frame->payload_length;
		}
	}
	if (is_control(frame) && frame->data_length > 0)
		memcpy(websocket->control + websocket->frame_got, frame->data, frame->data_length);
	else if (!is_control(frame))
		room = message_data(request, ks_slice_of(frame->data, frame->data_length));
	websocket->frame_got += frame->data_length;
	if (websocket->frame_got < frame->payload_length || websocket->deaf)
		return room;
	websocket->in_frame = false;
	if (is_control(frame)) {
		control_end(request, frame);
	} else if (frame->fin) {
		websocket->in_message = false;
		room &= message_end(request);
	}
	return room;
}

static bool body(struct ks_http_request *request, struct ks_slice piece)
{
	struct gateway_call *call = call_of(request);
	struct gateway_websocket *websocket = call->websocket;
	bool room = true, pong_due;

	websocket->input = piece;
	while (!websocket->deaf) {
		struct wslay_frame_iocb frame = {0};
		ssize_t size = wslay_frame_recv(websocket->receiver, &frame);

		if (size == WSLAY_ERR_WANT_READ)
			break;
		if (size < 0)
			close_with(request, WSLAY_CODE_PROTOCOL_ERROR);
		else
			room &= frame_data(request, &frame);
	}
	request->patient = websocket->spoken && !websocket->in_message;
	ks_mutex_lock(&call->lock);
	pong_due = websocket->pong_due;
	ks_mutex_unlock(&call->lock);
	if (pong_due)
		ks_http_flush(request);
	return room;
}

/* For the parser, which sees no body here, and so finds no fault with it. */
static void body_failed(struct ks_http_request *request)
{
	close_with(request, WSLAY_CODE_PROTOCOL_ERROR);
}

static void begin(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	if (websocket->inner->begin) {
		websocket->begun = true;
		websocket->inner->begin(request);
	}
	ks_http_flush(request); /* the handshake's answer */
}

static void fini(struct ks_http_request *request)
{
	struct gateway_websocket *websocket = websocket_of(request);

	websocket->inner->fini(request);
	wslay_frame_context_free(websocket->receiver);
	wslay_frame_context_free(websocket->sender);
	free(websocket);
}

static const struct http_ops websocket_ops = {
	.begin = begin,
	.body = body,
	.body_failed = body_failed,
	.produce = produce,
	.stream = true,
	.gone = gone,
	.stop = stop,
	.expired = expired,
	.fini = fini,
};

/* ---- the handshake ---- */

static bool same_word(struct ks_slice word, const char *text)
{
	return word.size == strlen(text) && strncasecmp((const char *)word.data, text, word.size) == 0;
}

bool ks_gateway_websocket_asked(const struct ks_http_request *request)
{
	/* The parser saw both headers; which protocol is meant is for us. */
	return request->upgrade_asked && same_word(ks_http_header(request, "upgrade"), "websocket");
}

/* What the client's key is answered with; false when it is none. */
static bool accept_key(struct ks_slice key, char *accept)
{
	static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	uint8_t text[KEY_TEXT_SIZE + sizeof(guid) - 1], decoded[KEY_SIZE + 2], digest[EVP_MAX_MD_SIZE];
	unsigned digest_size;

	if (key.size != KEY_TEXT_SIZE || memcmp(key.data + KEY_TEXT_SIZE - 2, "==", 2) != 0 ||
	    EVP_DecodeBlock(decoded, key.data, KEY_TEXT_SIZE) != KEY_SIZE + 2)
		return false;
	memcpy(text, key.data, KEY_TEXT_SIZE);
	memcpy(text + KEY_TEXT_SIZE, guid, sizeof(guid) - 1);
	if (!EVP_Digest(text, sizeof(text), digest, &digest_size, EVP_sha1(), NULL))
		return false;
	(void)EVP_EncodeBlock((unsigned char *)accept, digest, (int)digest_size);
	return true;
}

static void refuse(struct ks_http_request *request, int status, const char *text)
{
	request->canned = status;
	request->canned_text = text;
	request->canned_type = "text/plain; charset=utf-8";
}

/* The subprotocol "Bearer", with the token behind it as if it were another one. */
static bool offers_bearer(const struct ks_http_request *request)
{
	struct ks_slice offered = ks_http_header(request, "sec-websocket-protocol");

	return offered.size >= 6 && memcmp(offered.data, "Bearer", 6) == 0 &&
	       (offered.size == 6 || offered.data[6] == ',' || offered.data[6] == ' ');
}

struct ks_slice ks_gateway_websocket_token(const struct ks_http_request *request)
{
	struct ks_slice token = ks_http_header(request, "sec-websocket-protocol");

	if (!offers_bearer(request))
		return ks_slice_of(NULL, 0);
	token.data += 6;
	token.size -= 6;
	while (token.size > 0 && (*token.data == ' ' || *token.data == ',')) {
		token.data++;
		token.size--;
	}
	return token.size > 0 ? token : ks_slice_of(NULL, 0);
}

/* Browsers let any page open WebSockets, whatever CORS headers say; so the server must look at where the page is from. */
static bool origin_allowed(const struct ks_http_request *request)
{
	struct ks_slice origin;

	return !ks_http_header(request, "origin").data || ks_http_origin(request, &origin);
}

static bool has_body(const struct ks_http_request *request)
{
	struct ks_slice length = ks_http_header(request, "content-length");

	return ks_http_header(request, "transfer-encoding").data || (length.data && !same_word(length, "0"));
}

bool ks_gateway_websocket_check(struct ks_http_request *request)
{
	char accept[32];

	if (request->method != HTTP_GET)
		refuse(request, 405, "a WebSocket begins with GET\n");
	else if (request->http10 || has_body(request))
		refuse(request, 400, "a WebSocket begins with a request of HTTP/1.1 without a body\n");
	else if (!same_word(ks_http_header(request, "sec-websocket-version"), "13"))
		refuse(request, 426, "version 13 of the WebSocket protocol is spoken here\n");
	else if (!accept_key(ks_http_header(request, "sec-websocket-key"), accept))
		refuse(request, 400, "Sec-WebSocket-Key is missing or malformed\n");
	else if (!origin_allowed(request))
		refuse(request, 403, "the origin is none of those in --cors\n");
	else
		return true;
	if (request->canned == 426)
		request->canned_headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
	return false;
}

void ks_gateway_websocket_wrap(struct ks_http_request *request)
{
	static const struct wslay_frame_callbacks callbacks = {.send_callback = take_output,
							       .recv_callback = give_input};
	struct gateway_websocket *websocket = ks_xcalloc(1, sizeof(*websocket));

	websocket->inner = request->ops;
	websocket->bearer = offers_bearer(request);
	KS_ASSERT(accept_key(ks_http_header(request, "sec-websocket-key"), websocket->accept));
	KS_ASSERT(wslay_frame_context_init(&websocket->receiver, &callbacks, websocket) == 0);
	KS_ASSERT(wslay_frame_context_init(&websocket->sender, &callbacks, websocket) == 0);
	call_of(request)->websocket = websocket;
	request->ops = &websocket_ops;
	request->upgrade = true;
}
