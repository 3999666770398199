/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets, see port.h. */
#include "net/port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/panic.h"
#include "net/address.h"

#define URLS_MAX 65536

static const char *kind_name(enum ks_port_kind kind)
{
	switch (kind) {
	case KS_PORT_CLIENTS:
		return "clients";
	case KS_PORT_GRPC:
		return "gRPC";
	case KS_PORT_HTTP:
		return "HTTP/1.1";
	case KS_PORT_METRICS:
		return "metrics";
	}
	return "?";
}

static bool is_for_clients(const struct ks_port *port)
{
	return port->kind == KS_PORT_CLIENTS || port->kind == KS_PORT_GRPC;
}

static struct ks_port *add_port(struct ks_ports *ports, int fd, enum ks_port_kind kind, bool secure)
{
	struct ks_port *port;

	ports->list = ks_xrealloc(ports->list, (ports->count + 1) * sizeof(*ports->list));
	port = &ports->list[ports->count++];
	*port = (struct ks_port){.fd = fd, .kind = kind, .secure = secure, .plain = !secure};
	return port;
}

/* The URL with the port that the system chose. */
static void name_port(struct ks_port *port)
{
	struct ks_address real = {.size = sizeof(real.storage)};
	const char *s = port->secure ? "s" : "";
	char text[KS_ADDRESS_TEXT_MAX];
	int size;

	KS_ASSERT(getsockname(port->fd, (struct sockaddr *)&real.storage, &real.size) == 0);
	ks_address_text(&real, text);
	if (real.storage.ss_family != AF_UNIX)
		size = asprintf(&port->url, "http%s://%s", s, text);
	else
		size = asprintf(&port->url, "unix%s://%s", s,
				port->unlink_path ? port->unlink_path : text + strlen("unix:"));
	KS_ASSERT(size >= 0);
	if (!is_for_clients(port))
		ks_diag(KS_INFO, "listener", "listening for=%s url=%s", kind_name(port->kind), port->url);
}

static bool same_address(const struct ks_port *port, const struct ks_address *address)
{
	struct ks_address own = {.size = sizeof(own.storage)};
	char text[KS_ADDRESS_TEXT_MAX], own_text[KS_ADDRESS_TEXT_MAX];

	KS_ASSERT(getsockname(port->fd, (struct sockaddr *)&own.storage, &own.size) == 0);
	ks_address_text(&own, own_text);
	ks_address_text(address, text);
	return strcmp(own_text, text) == 0;
}

/* As etcd, one port may be given twice, with TLS and without: the first byte tells. False when it was not. */
static bool join_port(struct ks_ports *ports, const struct ks_address *address, enum ks_port_kind kind, bool secure)
{
	for (size_t i = 0; i < ports->count; i++) {
		struct ks_port *port = &ports->list[i];
		const char *rest = strchr(port->url, ':') + 1;
		bool is_unix = address->storage.ss_family == AF_UNIX;

		if (port->kind != kind || port->twin || port->secure == secure || !same_address(port, address))
			continue;
		KS_ASSERT(asprintf(&port->twin, "%s%s:%s", is_unix ? "unix" : "http", secure ? "s" : "", rest) >= 0);
		port->secure = port->plain = true;
		return true;
	}
	return false;
}

static enum ks_status open_port(struct ks_ports *ports, const char *url, enum ks_port_kind kind, bool reuse_port,
				struct ks_err *err)
{
	struct ks_address address;
	struct ks_port *port;
	enum ks_status status = ks_address_parse(url, &address, err);
	int fd;

	if (status != KS_OK || join_port(ports, &address, kind, ks_address_is_secure(url)))
		return status;
	fd = ks_address_listen(url, &address, reuse_port, err);
	if (fd < 0)
		return KS_UNAVAILABLE;
	port = add_port(ports, fd, kind, ks_address_is_secure(url));
	if (address.storage.ss_family == AF_UNIX)
		port->unlink_path = ks_xstrdup(((const struct sockaddr_un *)&address.storage)->sun_path);
	name_port(port);
	return KS_OK;
}

enum ks_status ks_ports_open(struct ks_ports *ports, const char *urls, enum ks_port_kind kind, bool reuse_port,
			     struct ks_err *err)
{
	char *copy = ks_xstrdup(urls), *rest = copy, *url;
	enum ks_status status = KS_OK;

	while (status == KS_OK && (url = strsep(&rest, ",")))
		status = open_port(ports, url, kind, reuse_port, err);
	free(copy);
	return status;
}

enum ks_status ks_ports_take(struct ks_ports *ports, int fd, const char *name, struct ks_err *err)
{
	static const struct {
		const char *name;
		enum ks_port_kind kind;
		bool secure;
	} names[] = {{"https", KS_PORT_CLIENTS, true},
		     {"metrics", KS_PORT_METRICS, false},
		     {"metrics-https", KS_PORT_METRICS, true}};
	struct ks_port *port = add_port(ports, fd, KS_PORT_CLIENTS, false);
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "cannot use the socket that was handed over: %s",
			       strerrordesc_np(errno));
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (strcmp(name, names[i].name) == 0) {
			port->kind = names[i].kind;
			port->secure = names[i].secure;
			port->plain = !names[i].secure;
		}
	}
	name_port(port);
	return KS_OK;
}

char *ks_ports_urls(const struct ks_ports *ports)
{
	struct ks_buf urls;
	size_t size;

	ks_buf_init(&urls, URLS_MAX);
	for (size_t i = 0; i < ports->count; i++) {
		const struct ks_port *port = &ports->list[i];

		if (!is_for_clients(port))
			continue;
		ks_buf_printf(&urls, "%s%s", urls.size ? "," : "", port->url);
		if (port->twin)
			ks_buf_printf(&urls, ",%s", port->twin);
	}
	ks_buf_append(&urls, "", 1);
	KS_ASSERT(!urls.failed);
	return (char *)ks_buf_take(&urls, &size);
}

void ks_ports_close(struct ks_ports *ports)
{
	for (size_t i = 0; i < ports->count; i++) {
		struct ks_port *port = &ports->list[i];

		(void)close(port->fd);
		if (port->unlink_path)
			(void)unlink(port->unlink_path);
		free(port->unlink_path);
		free(port->url);
		free(port->twin);
	}
	free(ports->list);
	*ports = (struct ks_ports){0};
}
