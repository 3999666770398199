/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepts connections, looks at their first bytes and hands them on: the HTTP/2 preface goes to gRPC (ks_rpc_adopt), HTTP/1.x
 * to the HTTP/1.1 server (ks_http_adopt), a TLS handshake to TLS (ks_tls_adopt), anything else is closed. A port speaks TLS,
 * plaintext, or both: when its URL was given with https and with http.
 *
 * Threads: one of its own (epoll). Owner: the listener owns sockets until they are handed over. Limits: at most
 * max_half_open connections may be waiting for their first bytes, each for at most first_bytes_ms; the oldest one is
 * closed for a new one. Running out of file descriptors pauses accepting for a moment and is logged, never fatal.
 */
#ifndef KS_NET_LISTENER_H
#define KS_NET_LISTENER_H

#include "base/status.h"
#include "net/http.h"
#include "net/rpc.h"
#include "net/tls.h"

struct ks_listener;

/* A listening socket of a service manager, and its name there; see ks_ports_take for what names mean. */
struct ks_listener_socket {
	int fd;
	const char *name;
};

struct ks_listener_config {
	const char *
		urls; /* comma separated: http(s)://host:port, unix(s):///path, unix(s)://name; port 0 = any free one; NULL: none */
	/* Optional, like urls. With http_urls these serve HTTP/1.1, and the others only gRPC. */
	const char *http_urls, *metrics_urls;
	/* When there are any, they stand in for urls. Taken over, also by a start that fails. */
	const struct ks_listener_socket *sockets;
	size_t socket_count;
	struct ks_rpc *rpc;
	struct ks_http *http; /* NULL: HTTP/1.x is not served */
	struct ks_tls *tls;   /* NULL: https:// and unixs:// are refused */
	int first_bytes_ms;   /* default 10000 */
	size_t max_half_open; /* default 1024 */
	bool reuse_port;      /* other processes may listen on the same port */
};

/* KS_INVALID_ARGUMENT for a bad URL, KS_UNAVAILABLE when an address is in use; texts name the URL. */
struct ks_listener *ks_listener_start(const struct ks_listener_config *config, struct ks_err *err);
/* Where clients are listened to, comma separated ("http://127.0.0.1:2379"). Valid until stop. */
const char *ks_listener_urls(const struct ks_listener *listener);
void ks_listener_stop(struct ks_listener *listener); /* stops accepting and closes what was not handed over */

#endif
