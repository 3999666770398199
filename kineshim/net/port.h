/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening sockets of a server: opened from lists of URLs, or handed over by a service manager.
 *
 * Owner: the list owns its sockets and socket files until ks_ports_close. Ports move while the list grows, so pointers to them are
 * taken afterwards. Threads: one at a time; constant once everything is open.
 */
#ifndef KS_NET_PORT_H
#define KS_NET_PORT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum ks_port_kind {
	KS_PORT_CLIENTS, /* gRPC and HTTP/1.1 */
	KS_PORT_GRPC,    /* HTTP/1.1 has ports of its own (--listen-client-http-urls) */
	KS_PORT_HTTP,    /* those */
	KS_PORT_METRICS, /* HTTP/1.1 without /v3/ (--listen-metrics-urls) */
};

struct ks_port {
	int fd;
	enum ks_port_kind kind;
	bool secure;       /* TLS is spoken: https:// or unixs:// … */
	bool plain;        /* … and plaintext, on the same port when both URLs were given */
	char *unlink_path; /* of a socket file that we made; NULL otherwise */
	char *url;         /* what is really listened on: "http://127.0.0.1:2379" */
	char *twin;        /* secure and plain: "https://127.0.0.1:2379"; NULL otherwise */
};

struct ks_ports {
	struct ks_port *list;
	size_t count;
};

/* Opens each of the comma separated 'urls'; texts name the URL. What was opened before an error stays in the list. */
enum ks_status ks_ports_open(struct ks_ports *ports, const char *urls, enum ks_port_kind kind, bool reuse_port,
			     struct ks_err *err) KS_MUST_CHECK;
/*
 * Takes over a listening socket. Its name in the socket unit says what it is for: "https", "metrics", "metrics-https"; any other
 * is for plaintext clients.
 */
enum ks_status ks_ports_take(struct ks_ports *ports, int fd, const char *name, struct ks_err *err) KS_MUST_CHECK;
/* The URLs of ports that clients connect to, comma separated; the caller frees it. */
char *ks_ports_urls(const struct ks_ports *ports);
void ks_ports_close(struct ks_ports *ports);

#endif
