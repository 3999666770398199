/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listen addresses: from a URL to a listening socket, and back from a socket to text.
 *
 * Accepted: http://host:port where host is an IP address ([…] for IPv6), "localhost" or empty (all addresses), and
 * unix:///path or unix://name (a socket file, relative to the working directory); https and unixs are the same with TLS.
 * Threads: any.
 */
#ifndef KS_NET_ADDRESS_H
#define KS_NET_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/status.h"

#define KS_ADDRESS_TEXT_MAX 160

struct ks_address {
	struct sockaddr_storage storage;
	socklen_t size;
};

/* KS_INVALID_ARGUMENT with a text that names the URL. */
enum ks_status ks_address_parse(const char *url, struct ks_address *address, struct ks_err *err) KS_MUST_CHECK;
bool ks_address_is_secure(const char *url); /* https://, unixs:// */
/*
 * A listening, non-blocking socket, or -1: KS_UNAVAILABLE when the address is in use. A socket file that nobody listens
 * on any more is replaced. With 'reuse_port' other processes may listen on the same TCP port.
 */
int ks_address_listen(const char *url, const struct ks_address *address, bool reuse_port, struct ks_err *err);
/* "127.0.0.1:2379", "[::1]:2379" or "unix:/path"; "@" for an unnamed one. */
void ks_address_text(const struct ks_address *address, char text[KS_ADDRESS_TEXT_MAX]);

#endif
