/* SPDX-License-Identifier: Apache-2.0 */
/* Listen addresses, see address.h. Names other than "localhost" are refused, as etcd does: no resolver is asked here. */
#include "net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 4096

static enum ks_status bad(struct ks_err *err, const char *url, const char *why)
{
	return ks_fail(err, KS_INVALID_ARGUMENT, "listen URL %s: %s", url, why);
}

static bool parse_port(const char *text, in_port_t *port)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || value > 65535)
		return false;
	*port = htons((uint16_t)value);
	return true;
}

static bool set_ipv4(struct ks_address *address, const char *host, in_port_t port)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&address->storage;

	in->sin_family = AF_INET;
	in->sin_port = port;
	address->size = sizeof(*in);
	return inet_pton(AF_INET, host, &in->sin_addr) == 1;
}

static bool set_ipv6(struct ks_address *address, const char *host, in_port_t port)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = port;
	address->size = sizeof(*in6);
	return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1;
}

static bool ipv6_available(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	(void)close(fd);
	return true;
}

/* Cuts "host:port" or "host:port/" in two, in place; NULL when that is fine, or what is wrong. */
static const char *split(char *text, char **host, char **port)
{
	size_t size = strcspn(text, "/?#");
	char *colon;

	if (text[size] && strcmp(text + size, "/") != 0)
		return "a listen URL has no path";
	text[size] = '\0';
	colon = strrchr(text, ':');
	if (!colon || strchr(colon, ']')) /* "[::1]" has colons but no port */
		return "the port is missing";
	*colon = '\0';
	*host = text;
	*port = colon + 1;
	return NULL;
}

static bool set_host(struct ks_address *address, char *host, in_port_t port)
{
	size_t size = strlen(host);

	if (size == 0)
		return ipv6_available() ? set_ipv6(address, "::", port) : set_ipv4(address, "0.0.0.0", port);
	if (strcmp(host, "localhost") == 0)
		return set_ipv4(address, "127.0.0.1", port);
	if (host[0] != '[' || host[size - 1] != ']')
		return set_ipv4(address, host, port);
	host[size - 1] = '\0';
	return set_ipv6(address, host + 1, port);
}

static enum ks_status parse_tcp(const char *url, const char *rest, struct ks_address *address, struct ks_err *err)
{
	char text[128], *host, *port_text;
	const char *wrong;
	in_port_t port;

	if (strlen(rest) >= sizeof(text))
		return bad(err, url, "it is too long");
	memcpy(text, rest, strlen(rest) + 1);
	wrong = split(text, &host, &port_text);
	if (wrong)
		return bad(err, url, wrong);
	if (!parse_port(port_text, &port))
		return bad(err, url, "bad port");
	if (!set_host(address, host, port))
		return bad(err, url, "the host must be an IP address or localhost");
	return KS_OK;
}

static enum ks_status parse_unix(const char *url, const char *path, struct ks_address *address, struct ks_err *err)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
	size_t size = strlen(path);

	if (size == 0)
		return bad(err, url, "the path is missing");
	if (size >= sizeof(un->sun_path))
		return bad(err, url, "the path is too long for a socket");
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, size + 1);
	address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
	return KS_OK;
}

enum ks_status ks_address_parse(const char *url, struct ks_address *address, struct ks_err *err)
{
	*address = (struct ks_address){0};
	if (strncmp(url, "http://", 7) == 0)
		return parse_tcp(url, url + 7, address, err);
	if (strncmp(url, "unix://", 7) == 0)
		return parse_unix(url, url + 7, address, err);
	if (strncmp(url, "https://", 8) == 0)
		return parse_tcp(url, url + 8, address, err);
	if (strncmp(url, "unixs://", 8) == 0)
		return parse_unix(url, url + 8, address, err);
	return bad(err, url, "the scheme must be http, https, unix or unixs");
}

bool ks_address_is_secure(const char *url)
{
	return strncmp(url, "https:", 6) == 0 || strncmp(url, "unixs:", 6) == 0;
}

void ks_address_text(const struct ks_address *address, char text[KS_ADDRESS_TEXT_MAX])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&address->storage;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;
	const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
	char host[INET6_ADDRSTRLEN] = "?";

	switch (address->storage.ss_family) {
	case AF_INET:
		(void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		(void)snprintf(text, KS_ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(in->sin_port));
		break;
	case AF_INET6:
		(void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		(void)snprintf(text, KS_ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(in6->sin6_port));
		break;
	case AF_UNIX:
		if (address->size <= offsetof(struct sockaddr_un, sun_path) || !un->sun_path[0])
			(void)snprintf(text, KS_ADDRESS_TEXT_MAX, "unix:@");
		else
			(void)snprintf(text, KS_ADDRESS_TEXT_MAX, "unix:%s", un->sun_path);
		break;
	default:
		(void)snprintf(text, KS_ADDRESS_TEXT_MAX, "unknown");
		break;
	}
}

/* Left over by a process that did not end cleanly: a socket file that refuses connections. */
static void remove_stale_socket(const struct ks_address *address)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
	struct stat stat;
	int fd;

	if (lstat(un->sun_path, &stat) < 0 || !S_ISSOCK(stat.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)un, address->size) < 0 && errno == ECONNREFUSED)
		(void)unlink(un->sun_path);
	(void)close(fd);
}

static const char *advice(int code, int family)
{
	switch (code) {
	case EADDRINUSE:
		return family == AF_UNIX ? "; another server has that socket"
					 : "; another server has that port (ss -ltnp tells which), choose another one";
	case EADDRNOTAVAIL:
		return "; this machine has no such address (ip address lists them)";
	case EACCES:
		return family == AF_UNIX ? "; the folder must be writable"
					 : "; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one";
	default:
		return "";
	}
}

int ks_address_listen(const char *url, const struct ks_address *address, bool reuse_port, struct ks_err *err)
{
	int family = address->storage.ss_family, on = 1, off = 0, code;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		goto failed;
	if (family == AF_UNIX)
		remove_stale_socket(address);
	else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		goto failed;
	if (reuse_port && family != AF_UNIX && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)
		goto failed;
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
		goto failed;
	if (bind(fd, (const struct sockaddr *)&address->storage, address->size) < 0 || listen(fd, BACKLOG) < 0)
		goto failed;
	return fd;

failed:
	code = errno;
	if (fd >= 0)
		(void)close(fd);
	(void)ks_fail(err, KS_UNAVAILABLE, "cannot listen on %s: %s%s", url, strerrordesc_np(code),
		      advice(code, family));
	return -1;
}
