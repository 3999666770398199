/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where TLS ends: takes accepted sockets from the listener, does the handshake, and pumps records between the socket and a socket
 * pair, whose other end goes, as plaintext, to gRPC or to the HTTP/1.1 server.
 *
 *	client ══TLS══ socket ─┤ handshake threads, then pump threads ├─ socket pair ── gRPC or HTTP/1.1
 *
 * ALPN h2 is gRPC; http/1.1 or no ALPN is HTTP/1.1; other lists are refused with an alert. A client that offers both gets HTTP/1.1
 * where that is served: gRPC's clients offer h2 alone.
 *
 * Threads: handshakes have threads of their own, so that a flood of them does not hold up open connections. Adopt: any.
 * Limits: a handshake takes at most handshake_ms and the newest max_half_open are kept; a connection holds at most one
 * buffer for each direction that its reader does not take (64 KiB and 80 KiB), and nothing is read for a full one.
 * Ends: half-close passes through in both directions, close_notify is answered and sent.
 */
#ifndef KS_NET_TLS_H
#define KS_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "net/http.h"
#include "net/rpc.h"
#include "net/tls_context.h"

struct ks_tls;

struct ks_tls_config {
	struct ks_tls_settings settings;
	struct ks_rpc *rpc;
	struct ks_http *http; /* NULL: HTTP/1.1 is not served */
	int handshake_ms;     /* default 10000 */
	size_t max_half_open; /* default 1024 */
	int threads;          /* 0: a default */
};

/* Reads the files. KS_INVALID_ARGUMENT for settings that cannot be used. */
struct ks_tls *ks_tls_start(const struct ks_tls_config *config, struct ks_err *err);
/*
 * Takes over a connected, non-blocking socket in any case. 'peer' is for the log; the protocols are those that its port speaks;
 * 'port' is for the HTTP server.
 */
void ks_tls_adopt(struct ks_tls *tls, int fd, const char *peer, bool http2, bool http1, enum ks_http_port port);
/* Ends handshakes; nothing is handed to gRPC and HTTP any more. After the listener's end, before theirs. NULL is fine. */
void ks_tls_drain(struct ks_tls *tls);
/* After theirs: what is on its way out gets up to drain_ms, then everything is closed. NULL is fine. */
void ks_tls_stop(struct ks_tls *tls, int drain_ms);

struct ks_tls_stats {
	size_t half_open, open;
};
void ks_tls_stats(struct ks_tls *tls, struct ks_tls_stats *stats);

#endif
