/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the gateway*.c files share: a call that came as JSON.
 *
 * gateway.c        routes, metadata, errors
 * gateway_unary.c  one request, one answer
 * gateway_stream.c sequences of either
 * gateway_websocket.c either over a WebSocket
 *
 * A call lives as long as its HTTP request (http_priv.h), which has two owners: the connection, until the answer is out or the
 * client has gone; and the handler, until it ended the call. Requests arrive on the I/O thread, handlers run on the call's cq thread,
 * answers are produced by whoever writes to the connection. 'lock' guards what these share.
 */
#ifndef KS_NET_GATEWAY_PRIV_H
#define KS_NET_GATEWAY_PRIV_H

#include "base/list.h"
#include "net/call.h"
#include "net/gateway.h"
#include "net/http_priv.h"
#include "net/json.h"

#define GATEWAY_TEXT_MAX 512
#define GATEWAY_TEXT_EXPIRED "context deadline exceeded"

struct gateway_websocket;

struct gateway_call {
	struct ks_call base;
	struct ks_http_request *request;
	struct gateway_websocket *websocket; /* NULL: the answer is one of HTTP */
	struct ks_task task;

	/* the writer's */
	struct ks_buf piece; /* JSON that is about to be sent */
	bool head_sent;

	struct ks_mutex lock;
	enum ks_status status;       /* guarded: how the call ended */
	char text[GATEWAY_TEXT_MAX]; /* guarded */
};

/* 'call' is zeroed and embedded in what the request's ops take for 'serving'. */
void ks_gateway_call_init(struct gateway_call *call, const struct ks_call_ops *ops, struct ks_http_request *request,
			  const struct ks_rpc_method *method);
void ks_gateway_call_fini(struct gateway_call *call);
void ks_gateway_set_status(struct gateway_call *call, enum ks_status status, const char *text);

struct ks_slice ks_gateway_metadata(struct ks_call *base, const char *key);
const char *ks_gateway_peer(struct ks_call *base);
const struct ks_identity *ks_gateway_identity(struct ks_call *base);

int ks_gateway_http_status(enum ks_status status);
/* The head of an answer of JSON; the caller adds the length or the encoding and the empty line. */
void ks_gateway_write_head(struct gateway_call *call, struct ks_buf *out, int status);
/* Head and body of a call that ended with an error before anything was sent; also the line of a stream's error. */
void ks_gateway_write_error(struct gateway_call *call, struct ks_buf *out);
void ks_gateway_write_error_line(struct gateway_call *call, struct ks_buf *line);
/*
 * Sends what is in 'piece' as one chunk, as far as the client knows chunks, and empties it. On a WebSocket it is part of a message,
 * which ends with the line.
 */
void ks_gateway_write_chunk(struct gateway_call *call, struct ks_buf *out);
/* The same for a whole line that lies elsewhere; nothing may be left in 'piece'. */
void ks_gateway_write_line(struct gateway_call *call, struct ks_buf *out, struct ks_slice line);
void ks_gateway_write_last_chunk(struct gateway_call *call, struct ks_buf *out);

void ks_gateway_unary_route(struct ks_http_request *request, const struct ks_rpc_method *method);
void ks_gateway_stream_route(struct ks_http_request *request, const struct ks_rpc_method *method);

/* Is this an upgrade to a WebSocket, and may it be one? If not, the refusal is set up. I/O thread. */
bool ks_gateway_websocket_asked(const struct ks_http_request *request);
bool ks_gateway_websocket_check(struct ks_http_request *request);
/* Puts the bridge around the ops that the request was routed to. */
void ks_gateway_websocket_wrap(struct ks_http_request *request);
/* Borrowed from the request's headers; data NULL: none. */
struct ks_slice ks_gateway_websocket_token(const struct ks_http_request *request);
/* The next part of a message; with its line's end it is complete. */
void ks_gateway_websocket_write(struct gateway_websocket *websocket, struct ks_buf *out, struct ks_slice piece);

#endif
