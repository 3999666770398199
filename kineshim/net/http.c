/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server's life: its I/O threads, the connections that each of them has, and the end. See http_priv.h.
 *
 * An I/O thread waits in epoll (edge-triggered). Other threads reach it through two lists and an eventfd: connections to adopt,
 * and connections that want something of it ("nudges"). Deadlines are looked at once a second, by walking all connections.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/call.h"
#include "net/gateway.h"
#include "net/http_priv.h"

#define DEFAULT_MAX_CONNECTIONS 65536
#define DEFAULT_HEADER_MS 20000
#define DEFAULT_BODY_MS 60000
#define DEFAULT_IDLE_MS 300000
#define DEFAULT_STALL_MS 120000
#define MAX_ALL_BODIES ((size_t)256 << 20)
#define SWEEP_MS 1000
#define EVENTS_PER_TURN 64
#define MAX_DEFAULT_THREADS 4

static _Thread_local const struct http_io *current;

int64_t ks_http_now(void)
{
	return ks_clock_now(ks_clock_system());
}

bool ks_http_on_io_thread(const struct http_io *io)
{
	return current == io;
}

/* With io->lock held. */
static void ring(struct http_io *io)
{
	uint64_t one = 1;

	if (io->rung)
		return;
	io->rung = true;
	KS_ASSERT(write(io->event_fd, &one, sizeof(one)) == sizeof(one));
}

/* Lock order: conn, then io. */
void ks_http_nudge_locked(struct http_conn *conn)
{
	struct http_io *io = conn->io;

	if (conn->nudged)
		return;
	conn->nudged = true;
	atomic_fetch_add(&conn->refs, 1); /* the list's */
	ks_mutex_lock(&io->lock);
	ks_list_append(&io->nudges, &conn->nudge);
	ring(io);
	ks_mutex_unlock(&io->lock);
}

void ks_http_conn_unref(struct http_conn *conn)
{
	struct ks_http *http = conn->io->http;

	if (atomic_fetch_sub(&conn->refs, 1) > 1)
		return;
	(void)close(conn->fd);
	ks_buf_fini(&conn->unsent);
	free(conn->input);
	free(conn->peer);
	ks_identity_unref(conn->identity);
	ks_mutex_fini(&conn->lock);
	free(conn);
	/* Under the lock, so that the end does not free the server between the two. */
	ks_mutex_lock(&http->lock);
	KS_COUNT(HTTP_CONNECTIONS, -1);
	if (atomic_fetch_sub(&http->conn_count, 1) == 1)
		ks_cond_broadcast(&http->changed);
	ks_mutex_unlock(&http->lock);
}

/* ---- the I/O thread ---- */

static void take_adopted(struct http_io *io)
{
	struct ks_list adopted, *item;

	ks_list_init(&adopted);
	ks_mutex_lock(&io->lock);
	ks_list_splice(&adopted, &io->adopted);
	ks_mutex_unlock(&io->lock);
	while ((item = ks_list_pop(&adopted))) {
		struct http_conn *conn = ks_container_of(item, struct http_conn, node);
		struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = conn};

		ks_list_append(&io->conns, &conn->node);
		if (epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) < 0) {
			KS_DIAG_LIMITED(KS_WARN, "http", "epoll refuses a connection: %s", strerrordesc_np(errno));
			ks_http_conn_close(conn);
			continue;
		}
		ks_http_conn_start(io, conn);
	}
}

static void take_nudges(struct http_io *io)
{
	struct ks_list *item;

	for (;;) {
		struct http_conn *conn;

		ks_mutex_lock(&io->lock);
		item = ks_list_pop(&io->nudges);
		ks_mutex_unlock(&io->lock);
		if (!item)
			return;
		conn = ks_container_of(item, struct http_conn, nudge);
		ks_mutex_lock(&conn->lock);
		conn->nudged = false;
		ks_mutex_unlock(&conn->lock);
		ks_http_conn_nudged(conn);
		ks_http_conn_unref(conn);
	}
}

static void for_all(struct http_io *io, void (*visit)(struct http_conn *conn))
{
	struct ks_list *item = io->conns.next;

	/* A visit may close its connection, no other. */
	while (item != &io->conns) {
		struct http_conn *conn = ks_container_of(item, struct http_conn, node);

		item = item->next;
		visit(conn);
	}
}

static void sweep(struct http_io *io)
{
	int64_t now = ks_http_now();
	struct ks_list *item;

	if (now < io->next_sweep_ms)
		return;
	io->next_sweep_ms = now + SWEEP_MS;
	for (item = io->conns.next; item != &io->conns;) {
		struct http_conn *conn = ks_container_of(item, struct http_conn, node);

		item = item->next;
		ks_http_conn_sweep(conn, now);
	}
}

static void rung(struct http_io *io)
{
	uint64_t count;
	int stage;

	/* In this order: who rings after the flag is down writes again, and what was listed before it is taken below. */
	(void)!read(io->event_fd, &count, sizeof(count));
	ks_mutex_lock(&io->lock);
	io->rung = false;
	stage = io->stop_stage;
	ks_mutex_unlock(&io->lock);
	take_adopted(io);
	take_nudges(io);
	if (stage > 0)
		for_all(io, stage == 1 ? ks_http_conn_stop : ks_http_conn_close);
	io->stopping = stage == 3;
}

static void *run(void *arg)
{
	struct http_io *io = arg;
	struct epoll_event events[EVENTS_PER_TURN];

	current = io;
	while (!io->stopping) {
		int64_t wait_ms = io->next_sweep_ms - ks_http_now();
		int count = epoll_wait(io->epoll_fd, events, EVENTS_PER_TURN, wait_ms < 0 ? 0 : (int)wait_ms);
		bool was_rung = false;

		KS_ASSERT(count >= 0 || errno == EINTR);
		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr == io)
				was_rung = true;
			else
				ks_http_conn_event(events[i].data.ptr, events[i].events);
		}
		/* Last, because it may free connections that have an event in this very turn. */
		if (was_rung)
			rung(io);
		sweep(io);
	}
	return NULL;
}

/* ---- adoption ---- */

void ks_http_adopt(struct ks_http *http, int fd, const struct ks_http_peer *peer)
{
	struct http_conn *conn = calloc(1, sizeof(*conn));
	struct http_io *io = &http->ios[atomic_fetch_add(&http->next_io, 1) % http->io_count];

	if (!conn || atomic_load(&http->stopping)) {
		free(conn);
		(void)close(fd);
		return;
	}
	conn->io = io;
	conn->fd = fd;
	conn->refs = 1; /* io->conns */
	conn->peer = ks_xstrdup(peer->text);
	conn->identity = ks_identity_ref(peer->identity);
	conn->secure = peer->secure;
	conn->port = peer->port;
	ks_list_init(&conn->node);
	ks_list_init(&conn->nudge);
	ks_mutex_init(&conn->lock);
	ks_buf_init(&conn->unsent, SIZE_MAX);
	atomic_fetch_add(&http->conn_count, 1);
	KS_COUNT(HTTP_CONNECTIONS, 1);
	ks_mutex_lock(&io->lock);
	ks_list_append(&io->adopted, &conn->node);
	ring(io);
	ks_mutex_unlock(&io->lock);
}

/* ---- life ---- */

static void free_http(struct ks_http *http)
{
	for (size_t i = 0; i < http->io_count; i++) {
		struct http_io *io = &http->ios[i];

		if (io->running)
			ks_thread_join(io->thread);
		if (io->epoll_fd >= 0)
			(void)close(io->epoll_fd);
		if (io->event_fd >= 0)
			(void)close(io->event_fd);
		ks_mutex_fini(&io->lock);
	}
	free(http->ios);
	ks_gateway_routes_free(http->routes);
	free(http->cors);
	free(http->host_whitelist);
	ks_cond_fini(&http->changed);
	ks_mutex_fini(&http->lock);
	free(http);
}

static void set_stage(struct ks_http *http, int stage)
{
	for (size_t i = 0; i < http->io_count; i++) {
		struct http_io *io = &http->ios[i];

		ks_mutex_lock(&io->lock);
		io->stop_stage = stage;
		if (io->running)
			ring(io);
		ks_mutex_unlock(&io->lock);
	}
}

static enum ks_status start_io(struct http_io *io, int index, struct ks_err *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = io};
	enum ks_status status;
	char name[16];

	io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (io->epoll_fd < 0 || io->event_fd < 0 || epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, io->event_fd, &event) < 0)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot create the HTTP server: %s", strerrordesc_np(errno));
	(void)snprintf(name, sizeof(name), "http-%d", index);
	status = ks_thread_start(&io->thread, name, run, io, err);
	io->running = status == KS_OK;
	return status;
}

static size_t thread_count(int wanted)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	size_t count = cores > 4 ? (size_t)cores / 4 : 1;

	if (wanted > 0)
		return (size_t)wanted;
	return count > MAX_DEFAULT_THREADS ? MAX_DEFAULT_THREADS : count;
}

static int64_t or_default(int64_t value, int64_t otherwise)
{
	return value > 0 ? value : otherwise;
}

struct ks_http *ks_http_start(const struct ks_http_config *config, struct ks_err *err)
{
	struct ks_http *http = ks_xcalloc(1, sizeof(*http));
	size_t largest = config->rpc ? ks_rpc_max_request_bytes(config->rpc) : 1 << 20;

	http->config = *config;
	http->rpc = config->rpc;
	http->max_connections = config->max_connections ? config->max_connections : DEFAULT_MAX_CONNECTIONS;
	/* base64 takes a third more than bytes, and clients may write as much white space as they like to a degree. */
	http->max_body_bytes = config->max_body_bytes ? config->max_body_bytes : largest * 4;
	http->max_all_bodies = http->max_body_bytes > MAX_ALL_BODIES ? http->max_body_bytes : MAX_ALL_BODIES;
	http->header_ms = or_default(config->header_ms, DEFAULT_HEADER_MS);
	http->body_ms = or_default(config->body_ms, DEFAULT_BODY_MS);
	http->idle_ms = or_default(config->idle_ms, DEFAULT_IDLE_MS);
	http->stall_ms = or_default(config->stall_ms, DEFAULT_STALL_MS);
	http->cors = ks_xstrdup(config->cors ? config->cors : "*");
	http->host_whitelist = ks_xstrdup(config->host_whitelist ? config->host_whitelist : "*");
	http->routes = ks_gateway_routes_new(config->rpc);
	http->io_count = thread_count(config->threads);
	http->ios = ks_xcalloc(http->io_count, sizeof(*http->ios));
	ks_mutex_init(&http->lock);
	ks_cond_init(&http->changed);
	for (size_t i = 0; i < http->io_count; i++) {
		struct http_io *io = &http->ios[i];

		io->http = http;
		io->epoll_fd = io->event_fd = -1;
		ks_mutex_init(&io->lock);
		ks_list_init(&io->conns);
		ks_list_init(&io->adopted);
		ks_list_init(&io->nudges);
	}
	/* The library's only global: the same for every server of the process. */
	http_parser_set_max_header_size(HTTP_MAX_HEADER_BYTES);
	for (size_t i = 0; i < http->io_count; i++) {
		if (start_io(&http->ios[i], (int)i, err)) {
			set_stage(http, 3);
			free_http(http);
			return NULL;
		}
	}
	return http;
}

/* False when 'wait_ms' ran out first; negative: for ever. */
static bool wait_closed(struct ks_http *http, int64_t wait_ms)
{
	int64_t end_ms = ks_http_now() + wait_ms, left_ms = wait_ms;
	bool closed;

	ks_mutex_lock(&http->lock);
	while (!(closed = atomic_load(&http->conn_count) == 0) && (wait_ms < 0 || left_ms > 0)) {
		(void)ks_cond_wait(&http->changed, &http->lock, left_ms);
		if (wait_ms >= 0)
			left_ms = end_ms - ks_http_now();
	}
	ks_mutex_unlock(&http->lock);
	return closed;
}

void ks_http_stop(struct ks_http *http, int drain_ms)
{
	if (!http)
		return;
	atomic_store(&http->stopping, true);
	set_stage(http, 1);
	if (!wait_closed(http, drain_ms > 0 ? drain_ms : 0)) {
		ks_diag(KS_WARN, "http", "closing connections that did not end in time open=%zu drain_ms=%d",
			atomic_load(&http->conn_count), drain_ms);
		set_stage(http, 2);
		(void)wait_closed(http, -1);
	}
	set_stage(http, 3);
	free_http(http);
}

void ks_http_stats(struct ks_http *http, struct ks_http_stats *stats)
{
	stats->connections_open = atomic_load_explicit(&http->conn_count, memory_order_relaxed);
	stats->requests_started = atomic_load_explicit(&http->requests_started, memory_order_relaxed);
	stats->bad_requests = atomic_load_explicit(&http->bad_requests, memory_order_relaxed);
}
