/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accept loop, see listener.h. A connection's life here:
 *
 *	accepted ─► waiting ──TLS handshake──► handed to TLS, which ends in one of the two below
 *	               │ ──PRI * HTTP/2.0──► handed to gRPC
 *	               │ ──method──► handed to the HTTP/1.1 server
 *	               └──anything else, time is up, pushed out by newer ones──► closed
 *
 * First bytes are only peeked at, so that whoever gets the socket finds them. Sockets are watched edge-triggered: a peeked byte stays
 * readable and would wake a level-triggered loop for ever. All states end at the connection's deadline.
 */
#include "net/listener.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "base/thread.h"
#include "net/address.h"
#include "net/port.h"
#include "net/preface.h"

#define DEFAULT_FIRST_BYTES_MS 10000
#define DEFAULT_MAX_HALF_OPEN 1024
#define ACCEPTS_PER_TURN 64
#define ACCEPT_PAUSE_MS 100 /* when descriptors or memory ran out */
#define EVENTS_PER_TURN 64

/* Dead peers are noticed by TCP: after 15 s of silence a probe every 15 s, nine times. */
#define TCP_PROBE_S 15

struct half {
	struct ks_list node; /* listener->waiting */
	int fd;
	const struct ks_port *port; /* where it came in */
	int64_t deadline_ms;
	char peer[KS_ADDRESS_TEXT_MAX];
};

struct ks_listener {
	struct ks_rpc *rpc;
	struct ks_http *http;
	struct ks_tls *tls;
	int64_t first_bytes_ms;
	size_t max_half_open;
	struct ks_ports ports;
	char *urls;
	pthread_t thread;
	int epoll_fd, stop_fd;

	/* listener thread */
	struct ks_list waiting; /* by deadline: all have the same time to live */
	size_t half_count;
	int64_t resume_ms; /* accepting pauses until then; 0: it does not */
	bool stopping;
};

/* The label PROTOCOL. */
enum { TO_GRPC, TO_HTTP, BY_TLS, TO_NOBODY };

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static void close_half(struct ks_listener *listener, struct half *half)
{
	ks_list_remove(&half->node);
	listener->half_count--;
	(void)close(half->fd);
	free(half);
}

/* To whom the port belongs: some speak one protocol only. */
static void hand_over(struct ks_listener *listener, struct half *half, bool http1)
{
	enum ks_port_kind kind = half->port->kind;
	const struct ks_http_peer peer = {
		.text = half->peer,
		.port = kind == KS_PORT_METRICS ? KS_HTTP_METRICS : KS_HTTP_CLIENTS,
	};

	if (http1 ? !listener->http || kind == KS_PORT_GRPC : kind == KS_PORT_HTTP || kind == KS_PORT_METRICS) {
		KS_DIAG_LIMITED(KS_INFO, "listener", "this port does not speak %s: closed peer=%s url=%s",
				http1 ? "HTTP/1.1" : "HTTP/2", half->peer, half->port->url);
		close_half(listener, half);
		return;
	}
	KS_COUNT_AT(ACCEPTED, http1 ? TO_HTTP : TO_GRPC, 1);
	ks_list_remove(&half->node);
	listener->half_count--;
	(void)epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, half->fd, NULL);
	if (http1)
		ks_http_adopt(listener->http, half->fd, &peer);
	else
		ks_rpc_adopt(listener->rpc, half->fd, half->peer, NULL);
	free(half);
}

static void hand_to_tls(struct ks_listener *listener, struct half *half)
{
	enum ks_port_kind kind = half->port->kind;

	ks_list_remove(&half->node);
	listener->half_count--;
	(void)epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, half->fd, NULL);
	ks_tls_adopt(listener->tls, half->fd, half->peer, kind == KS_PORT_CLIENTS || kind == KS_PORT_GRPC,
		     kind != KS_PORT_GRPC, kind == KS_PORT_METRICS ? KS_HTTP_METRICS : KS_HTTP_CLIENTS);
	free(half);
}

/* A person with a browser or curl is told; a program sees its connection end. */
static void refuse_plaintext(struct ks_listener *listener, struct half *half, bool http1)
{
	static const char answer[] = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"
				     "Client sent an HTTP request to an HTTPS server.\n";
	char unwanted[4096];

	KS_DIAG_LIMITED(KS_INFO, "listener", "plaintext on a TLS port: closed peer=%s url=%s", half->peer,
			half->port->url);
	if (http1) {
		(void)send(half->fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL);
		(void)shutdown(half->fd, SHUT_WR);
		/* Unread bytes would turn the end into a reset, which may overtake the answer. */
		(void)!recv(half->fd, unwanted, sizeof(unwanted), 0);
	}
	close_half(listener, half);
}

static void classified(struct ks_listener *listener, struct half *half, enum ks_preface preface, uint8_t first)
{
	bool is_tls = preface == KS_PREFACE_TLS, http1 = preface == KS_PREFACE_HTTP1;

	if (preface == KS_PREFACE_FOREIGN || !(is_tls ? half->port->secure : half->port->plain))
		KS_COUNT_AT(ACCEPTED, TO_NOBODY, 1);
	if (is_tls && half->port->secure) {
		KS_COUNT_AT(ACCEPTED, BY_TLS, 1);
		hand_to_tls(listener, half);
	} else if (is_tls) {
		KS_DIAG_LIMITED(KS_INFO, "listener", "TLS on a plaintext port: closed peer=%s url=%s", half->peer,
				half->port->url);
		close_half(listener, half);
	} else if (preface == KS_PREFACE_FOREIGN) {
		KS_DIAG_LIMITED(KS_INFO, "listener",
				"neither HTTP/2 nor HTTP/1 nor TLS: closed peer=%s first_byte=0x%02x", half->peer,
				first);
		close_half(listener, half);
	} else if (!half->port->plain) {
		refuse_plaintext(listener, half, http1);
	} else {
		hand_over(listener, half, http1);
	}
}

static void look_at(struct ks_listener *listener, struct half *half, bool hung_up)
{
	uint8_t start[KS_PREFACE_MAX];
	enum ks_preface preface;
	ssize_t size;

	do {
		size = recv(half->fd, start, sizeof(start), MSG_PEEK);
	} while (size < 0 && errno == EINTR);
	if (size < 0 && errno == EAGAIN)
		return;
	if (size <= 0) {
		close_half(listener, half);
		return;
	}
	preface = ks_preface_classify(ks_slice_of(start, (size_t)size));
	if (preface != KS_PREFACE_MORE)
		classified(listener, half, preface, start[0]);
	else if (hung_up) /* there will be no more */
		close_half(listener, half);
}

static void push_out_oldest(struct ks_listener *listener)
{
	struct half *oldest = ks_container_of(listener->waiting.next, struct half, node);

	KS_DIAG_LIMITED(KS_WARN, "listener", "too many half-open connections: closed the oldest peer=%s limit=%zu",
			oldest->peer, listener->max_half_open);
	close_half(listener, oldest);
}

static void set_tcp_options(int fd)
{
	int on = 1, probe_s = TCP_PROBE_S;

	/* Failures only cost speed or a late notice. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe_s, sizeof(probe_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe_s, sizeof(probe_s));
}

static void add_half(struct ks_listener *listener, int fd, const struct ks_port *port, const struct ks_address *peer)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
	struct half *half;

	if (peer->storage.ss_family != AF_UNIX)
		set_tcp_options(fd);
	while (listener->half_count >= listener->max_half_open)
		push_out_oldest(listener);
	half = ks_xmalloc(sizeof(*half));
	*half = (struct half){.fd = fd, .port = port, .deadline_ms = now_ms() + listener->first_bytes_ms};
	ks_address_text(peer, half->peer);
	ks_list_append(&listener->waiting, &half->node);
	listener->half_count++;
	event.data.ptr = half;
	if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		KS_DIAG_LIMITED(KS_WARN, "listener", "epoll refuses a connection: %s", strerrordesc_np(errno));
		close_half(listener, half);
	}
	/* Bytes that are there already raise an event at once. */
}

static void watch_ports(struct ks_listener *listener, uint32_t events)
{
	for (size_t i = 0; i < listener->ports.count; i++) {
		struct epoll_event event = {.events = events, .data.ptr = &listener->ports.list[i]};

		KS_ASSERT(epoll_ctl(listener->epoll_fd, EPOLL_CTL_MOD, listener->ports.list[i].fd, &event) == 0);
	}
}

static bool accept_failed(struct ks_listener *listener, int code)
{
	switch (code) {
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		KS_DIAG_LIMITED(KS_WARN, "listener", "cannot accept connections for a moment: %s",
				strerrordesc_np(code));
		watch_ports(listener, 0);
		listener->resume_ms = now_ms() + ACCEPT_PAUSE_MS;
		return true;
	case EAGAIN:
		return true;
	default:
		return false; /* of this one connection: aborted, network trouble, a firewall's verdict */
	}
}

static void accept_some(struct ks_listener *listener, const struct ks_port *port)
{
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		struct ks_address peer = {.size = sizeof(peer.storage)};
		int fd = accept4(port->fd, (struct sockaddr *)&peer.storage, &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			add_half(listener, fd, port, &peer);
		else if (accept_failed(listener, errno))
			return;
	}
}

static bool is_port(const struct ks_listener *listener, const void *pointer)
{
	return (const struct ks_port *)pointer >= listener->ports.list &&
	       (const struct ks_port *)pointer < listener->ports.list + listener->ports.count;
}

static void expire_list(struct ks_listener *listener, struct ks_list *list, int64_t now, int64_t *next)
{
	while (!ks_list_empty(list)) {
		struct half *oldest = ks_container_of(list->next, struct half, node);

		if (oldest->deadline_ms > now) {
			*next = oldest->deadline_ms < *next ? oldest->deadline_ms : *next;
			return;
		}
		close_half(listener, oldest);
	}
}

/* Does what is due; gives the milliseconds until the next deadline, -1 when there is none. */
static int expire(struct ks_listener *listener)
{
	int64_t now = now_ms(), next = INT64_MAX;

	if (listener->resume_ms && listener->resume_ms <= now) {
		listener->resume_ms = 0;
		watch_ports(listener, EPOLLIN);
	}
	if (listener->resume_ms)
		next = listener->resume_ms;
	expire_list(listener, &listener->waiting, now, &next);
	return next == INT64_MAX ? -1 : (int)(next - now);
}

static void turn(struct ks_listener *listener)
{
	struct epoll_event events[EVENTS_PER_TURN];
	int count = epoll_wait(listener->epoll_fd, events, EVENTS_PER_TURN, expire(listener));

	KS_ASSERT(count >= 0 || errno == EINTR);
	/* Ports last: a new connection may push out one that has an event in this very turn. */
	for (int i = 0; i < count; i++) {
		if (events[i].data.ptr == listener)
			listener->stopping = true;
		else if (!is_port(listener, events[i].data.ptr))
			look_at(listener, events[i].data.ptr, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
	}
	for (int i = 0; i < count; i++) {
		if (is_port(listener, events[i].data.ptr))
			accept_some(listener, events[i].data.ptr);
	}
	KS_SET(HALF_OPEN, listener->half_count);
}

static void *run(void *arg)
{
	struct ks_listener *listener = arg;

	while (!listener->stopping)
		turn(listener);
	return NULL;
}

static enum ks_status check_tls(const struct ks_listener *listener, struct ks_err *err)
{
	for (size_t i = 0; i < listener->ports.count && !listener->tls; i++)
		if (listener->ports.list[i].secure)
			return ks_fail(err, KS_INVALID_ARGUMENT,
				       "TLS key/cert (--cert-file, --key-file) must be provided for client url %s",
				       listener->ports.list[i].url);
	return KS_OK;
}

static enum ks_status open_ports(struct ks_listener *listener, const struct ks_listener_config *config,
				 struct ks_err *err)
{
	bool reuse = config->reuse_port;
	enum ks_port_kind kind = config->http_urls && *config->http_urls ? KS_PORT_GRPC : KS_PORT_CLIENTS;
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < config->socket_count && status == KS_OK; i++)
		status = ks_ports_take(&listener->ports, config->sockets[i].fd, config->sockets[i].name, err);
	if (status == KS_OK && config->socket_count == 0 && config->urls)
		status = ks_ports_open(&listener->ports, config->urls, kind, reuse, err);
	if (status == KS_OK && config->http_urls && *config->http_urls)
		status = ks_ports_open(&listener->ports, config->http_urls, KS_PORT_HTTP, reuse, err);
	if (status == KS_OK && config->metrics_urls && *config->metrics_urls)
		status = ks_ports_open(&listener->ports, config->metrics_urls, KS_PORT_METRICS, reuse, err);
	if (status == KS_OK)
		status = check_tls(listener, err);
	if (status == KS_OK)
		listener->urls = ks_ports_urls(&listener->ports);
	return status;
}

static enum ks_status open_epoll(struct ks_listener *listener, struct ks_err *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};

	listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	listener->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (listener->epoll_fd < 0 || listener->stop_fd < 0)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot create the listener: %s", strerrordesc_np(errno));
	if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->stop_fd, &event) < 0)
		goto failed;
	for (size_t i = 0; i < listener->ports.count; i++) {
		event.data.ptr = &listener->ports.list[i];
		if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->ports.list[i].fd, &event) < 0)
			goto failed;
	}
	return KS_OK;

failed:
	return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot watch the listener: %s", strerrordesc_np(errno));
}

static void close_fd(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

static void free_listener(struct ks_listener *listener)
{
	while (!ks_list_empty(&listener->waiting))
		close_half(listener, ks_container_of(listener->waiting.next, struct half, node));
	ks_ports_close(&listener->ports);
	close_fd(listener->epoll_fd);
	close_fd(listener->stop_fd);
	free(listener->urls);
	free(listener);
}

struct ks_listener *ks_listener_start(const struct ks_listener_config *config, struct ks_err *err)
{
	struct ks_listener *listener = ks_xcalloc(1, sizeof(*listener));

	*listener = (struct ks_listener){
		.rpc = config->rpc,
		.http = config->http,
		.tls = config->tls,
		.first_bytes_ms = config->first_bytes_ms > 0 ? config->first_bytes_ms : DEFAULT_FIRST_BYTES_MS,
		.max_half_open = config->max_half_open ? config->max_half_open : DEFAULT_MAX_HALF_OPEN,
		.epoll_fd = -1,
		.stop_fd = -1,
	};
	ks_list_init(&listener->waiting);
	if (open_ports(listener, config, err) || open_epoll(listener, err) ||
	    ks_thread_start(&listener->thread, "listener", run, listener, err)) {
		free_listener(listener);
		return NULL;
	}
	return listener;
}

const char *ks_listener_urls(const struct ks_listener *listener)
{
	return listener->urls;
}

void ks_listener_stop(struct ks_listener *listener)
{
	uint64_t one = 1;

	if (!listener)
		return;
	KS_ASSERT(write(listener->stop_fd, &one, sizeof(one)) == sizeof(one));
	ks_thread_join(listener->thread);
	free_listener(listener);
}
