/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP/1.1 server. It has no sockets of its own: the listener hands connections over (ks_http_adopt), plaintext, be it that
 * they came so or that TLS ended in the listener. Requests under /v3/ (and /v3beta/) are RPCs in JSON (gateway.h); every other
 * request goes to the 'plain' call-back: /version, /health, /metrics and their kin.
 *
 * Threads: a few I/O threads, each with its connections. 'plain' is called on one of them and must not block: it answers at
 * once, or keeps the request and answers it later from any thread, in either case exactly once. ks_http_adopt: any thread.
 *
 * Ownership: a request is alive until it was answered, also when its client has gone meanwhile (the answer is thrown
 * away then). What the getters return is borrowed and lives as long.
 *
 * Limits, each with its 4xx: header 64 KiB (431), body max_body_bytes (413), all bodies together (503), header complete within
 * header_ms and body within body_ms (408), idle connections end after idle_ms, clients that stop reading after stall_ms.
 * Malformed requests get 400 and a closed connection. Pipelined requests are answered in order, one at a time.
 */
#ifndef KS_NET_HTTP_H
#define KS_NET_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/status.h"

struct ks_http;
struct ks_http_request;
struct ks_identity; /* net/identity.h */
struct ks_rpc;

/* Where a connection came in; a plain handler may serve less on some. */
enum ks_http_port {
	KS_HTTP_CLIENTS, /* everything */
	KS_HTTP_METRICS, /* no /v3/; 'plain' sees to the rest (--listen-metrics-urls) */
};

struct ks_http_config {
	struct ks_rpc *rpc; /* whose methods stand behind /v3/; must outlive the HTTP server */
	void (*plain)(void *ctx, struct ks_http_request *request); /* NULL: 404 */
	void *plain_ctx;
	const char *cors; /* comma separated origins that browsers may come from; NULL or "*": all; "": no CORS */
	const char *host_whitelist; /* comma separated, for plaintext connections; NULL, "" or "*": all (spec 9.2) */
	int threads;                /* 0: a default */
	size_t max_connections;     /* 0: 65536; over it: 503 */
	size_t max_body_bytes;      /* 0: four times the largest message */
	/* Milliseconds; 0: 20 s, 60 s, 300 s, 120 s. */
	int64_t header_ms, body_ms, idle_ms, stall_ms;
};

struct ks_http *ks_http_start(const struct ks_http_config *config, struct ks_err *err);
/*
 * Takes over an accepted, connected socket in any case. 'peer' is for the log; 'identity' is who the client's
 * certificate says it is (NULL: none), of which a reference is taken; 'secure': the client came by TLS.
 */
struct ks_http_peer {
	const char *text;
	struct ks_identity *identity;
	bool secure;
	enum ks_http_port port;
};
void ks_http_adopt(struct ks_http *http, int fd, const struct ks_http_peer *peer);
/*
 * Graceful end: nothing new is begun, streams end with UNAVAILABLE "etcdserver: server stopped", running requests get up to
 * drain_ms; then all is closed. Before ks_rpc_stop. NULL is fine.
 */
void ks_http_stop(struct ks_http *http, int drain_ms);

struct ks_http_stats {
	uint64_t connections_open, requests_started, bad_requests;
};
void ks_http_stats(struct ks_http *http, struct ks_http_stats *stats);

/* ---- a plain request ---- */

struct ks_slice ks_http_method(const struct ks_http_request *request); /* "GET" */
struct ks_slice ks_http_path(const struct ks_http_request *request); /* "/health", percent-decoded, without the query */
/* The n-th value of a query parameter, decoded ("" for a bare name). False: there is none. */
bool ks_http_query(const struct ks_http_request *request, const char *name, size_t index, struct ks_slice *value);
struct ks_slice ks_http_header(const struct ks_http_request *request,
			       const char *name); /* any case; data NULL: absent */
struct ks_slice ks_http_body(const struct ks_http_request *request);
const char *ks_http_peer_text(const struct ks_http_request *request);
const struct ks_identity *ks_http_identity(const struct ks_http_request *request);
enum ks_http_port ks_http_port(const struct ks_http_request *request);

/*
 * Answers and ends the request. 'headers' is NULL or whole lines ("Allow: GET\r\n"); 'content_type' NULL: none is sent. Takes
 * what 'body' (which may be NULL) holds; a failed one becomes a 500. A HEAD request gets no body, but its length.
 */
void ks_http_answer(struct ks_http_request *request, int status, const char *content_type, const char *headers,
		    struct ks_buf *body);
/* The same for a short text. */
void ks_http_answer_text(struct ks_http_request *request, int status, const char *text);

#endif
