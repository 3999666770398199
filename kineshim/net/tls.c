/* SPDX-License-Identifier: Apache-2.0 */
/* The threads under TLS: adoption, deadlines, the way from handshake to pump, the end. See tls.h and tls_priv.h. */
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
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
#include "net/tls_priv.h"

#define DEFAULT_HANDSHAKE_MS 10000
#define DEFAULT_MAX_HALF_OPEN 1024
#define LINGER_MS 2000
#define CLOSING_MS 30000
#define EVENTS_PER_TURN 64
#define MAX_SHAKERS 4
#define MAX_PUMPS 16

int64_t ks_tls_now(void)
{
	return ks_clock_now(ks_clock_system());
}

static void ring(struct tls_io *io)
{
	uint64_t one = 1;

	(void)!write(io->event_fd, &one, sizeof(one));
}

/* ---- one connection and its lists; on its thread ---- */

static void close_end(struct tls_end *end)
{
	if (end->fd >= 0)
		(void)close(end->fd);
	end->fd = -1;
}

static void free_conn(struct tls_conn *conn)
{
	close_end(&conn->net);
	close_end(&conn->app);
	SSL_free(conn->ssl);
	free(conn->records);
	free(conn->plain);
	free(conn);
}

static void count(struct tls_conn *conn, int by)
{
	struct tls_io *io = conn->io;

	atomic_fetch_add_explicit(conn->app.fd >= 0 ? &io->open_count : &io->half_count, (size_t)by,
				  memory_order_relaxed);
	if (conn->app.fd >= 0)
		KS_COUNT(TLS_CONNECTIONS, by);
	else
		KS_COUNT(HALF_OPEN, by);
}

/* Events of it may still stand in this turn's list, so it is freed at the turn's end. */
void ks_tls_close(struct tls_conn *conn)
{
	ks_list_remove(&conn->node);
	ks_list_remove(&conn->ready);
	count(conn, -1);
	close_end(&conn->net);
	close_end(&conn->app);
	ks_list_append(&conn->io->dead, &conn->node);
}

static void set_deadline(struct tls_conn *conn, struct ks_list *list, int64_t delay_ms)
{
	conn->deadline_ms = ks_tls_now() + delay_ms;
	ks_list_remove(&conn->node);
	ks_list_append(list, &conn->node);
}

void ks_tls_set_closing(struct tls_conn *conn)
{
	set_deadline(conn, &conn->io->closing, CLOSING_MS);
}

void ks_tls_set_linger(struct tls_conn *conn)
{
	count(conn, -1);
	close_end(&conn->app);
	count(conn, 1); /* among the half-open ones, which are limited */
	conn->state = TLS_LINGER;
	set_deadline(conn, &conn->io->linger, LINGER_MS);
	ks_tls_conn_run(conn);
}

static bool watch(struct tls_io *io, struct tls_end *end)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = end};

	if (epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, end->fd, &event) == 0)
		return true;
	KS_DIAG_LIMITED(KS_WARN, "tls", "epoll refuses a connection: %s", strerrordesc_np(errno));
	return false;
}

static void give(struct tls_io *io, struct tls_conn *conn)
{
	ks_mutex_lock(&io->lock);
	ks_list_append(&io->adopted, &conn->node);
	ring(io);
	ks_mutex_unlock(&io->lock);
}

void ks_tls_pass_on(struct tls_conn *conn)
{
	struct ks_tls *tls = conn->tls;
	struct tls_io *from = conn->io;

	ks_list_remove(&conn->node);
	ks_list_remove(&conn->ready);
	atomic_fetch_sub_explicit(&from->half_count, 1, memory_order_relaxed);
	KS_COUNT(HALF_OPEN, -1);
	(void)epoll_ctl(from->epoll_fd, EPOLL_CTL_DEL, conn->net.fd, NULL);
	conn->io = &tls->pumps[atomic_fetch_add_explicit(&tls->next_pump, 1, memory_order_relaxed) % tls->pump_count];
	conn->state = TLS_OPEN;
	conn->deadline_ms = INT64_MAX;
	give(conn->io, conn);
}

/* ---- the threads ---- */

static bool begin_handshake(struct tls_conn *conn)
{
	SSL_CTX *ctx = ks_tls_context_take(conn->tls->context);
	BIO *bio = BIO_new(conn->tls->bio);

	conn->ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	if (!conn->ssl || !bio) {
		BIO_free(bio);
		ERR_clear_error();
		return false;
	}
	BIO_set_data(bio, conn);
	SSL_set_bio(conn->ssl, bio, bio);
	SSL_set_app_data(conn->ssl, &conn->protocols);
	return true;
}

static void push_out_oldest(struct tls_io *io)
{
	struct ks_list *list = ks_list_empty(&io->linger) ? &io->half : &io->linger;
	struct tls_conn *oldest = ks_container_of(list->next, struct tls_conn, node);

	if (list == &io->half)
		KS_DIAG_LIMITED(KS_WARN, "tls", "too many handshakes: closed the oldest peer=%s limit=%zu",
				oldest->peer, io->tls->max_half_open);
	ks_tls_close(oldest);
}

static void take_one(struct tls_io *io, struct tls_conn *conn)
{
	if (conn->state == TLS_OPEN) {
		ks_list_append(&io->open, &conn->node);
	} else {
		while (atomic_load_explicit(&io->half_count, memory_order_relaxed) >= io->tls->max_half_open)
			push_out_oldest(io);
		ks_list_append(&io->half, &conn->node);
	}
	count(conn, 1);
	if ((conn->state == TLS_HANDSHAKE && !begin_handshake(conn)) || !watch(io, &conn->net) ||
	    (conn->state == TLS_OPEN && !watch(io, &conn->app)))
		ks_tls_close(conn);
	else
		ks_tls_conn_run(conn);
}

static void close_list(struct ks_list *list)
{
	while (!ks_list_empty(list))
		ks_tls_close(ks_container_of(list->next, struct tls_conn, node));
}

static void rung(struct tls_io *io)
{
	struct ks_list adopted, *item;
	uint64_t number;
	int stage;

	(void)!read(io->event_fd, &number, sizeof(number));
	ks_list_init(&adopted);
	ks_mutex_lock(&io->lock);
	ks_list_splice(&adopted, &io->adopted);
	stage = io->stage;
	ks_mutex_unlock(&io->lock);
	while ((item = ks_list_pop(&adopted)))
		take_one(io, ks_container_of(item, struct tls_conn, node));
	if (stage == 2) {
		close_list(&io->half);
		close_list(&io->open);
		close_list(&io->closing);
		close_list(&io->linger);
	}
	io->stopping = stage > 0;
}

static void expire_list(struct ks_list *list, int64_t now, int64_t *next)
{
	while (!ks_list_empty(list)) {
		struct tls_conn *oldest = ks_container_of(list->next, struct tls_conn, node);

		if (oldest->deadline_ms > now) {
			*next = oldest->deadline_ms < *next ? oldest->deadline_ms : *next;
			return;
		}
		ks_tls_close(oldest);
	}
}

/* Closes what is due; gives the milliseconds until the next deadline, -1 when there is none. */
static int expire(struct tls_io *io)
{
	int64_t now = ks_tls_now(), next = INT64_MAX;

	expire_list(&io->half, now, &next);
	expire_list(&io->closing, now, &next);
	expire_list(&io->linger, now, &next);
	return next == INT64_MAX ? -1 : (int)(next - now);
}

/* Those that had their share and could go on; each once. */
static void run_ready(struct tls_io *io)
{
	struct ks_list ready, *item;

	ks_list_init(&ready);
	ks_list_splice(&ready, &io->ready);
	while ((item = ks_list_pop(&ready)))
		ks_tls_conn_run(ks_container_of(item, struct tls_conn, ready));
}

static void free_dead(struct tls_io *io)
{
	struct ks_list *item;

	while ((item = ks_list_pop(&io->dead)))
		free_conn(ks_container_of(item, struct tls_conn, node));
}

static bool is_over(struct tls_io *io)
{
	return io->stopping && ks_list_empty(&io->half) && ks_list_empty(&io->open) && ks_list_empty(&io->closing) &&
	       ks_list_empty(&io->linger);
}

static void *run(void *arg)
{
	struct tls_io *io = arg;
	struct epoll_event events[EVENTS_PER_TURN];

	while (!is_over(io)) {
		int wait_ms = expire(io), number;
		bool was_rung = false;

		free_dead(io);
		number = epoll_wait(io->epoll_fd, events, EVENTS_PER_TURN, ks_list_empty(&io->ready) ? wait_ms : 0);
		KS_ASSERT(number >= 0 || errno == EINTR);
		for (int i = 0; i < number; i++) {
			if (events[i].data.ptr == io)
				was_rung = true;
			else
				ks_tls_conn_event(events[i].data.ptr, events[i].events);
		}
		run_ready(io);
		/* Last: taking a connection may push out one that had an event in this turn. */
		if (was_rung)
			rung(io);
		free_dead(io);
	}
	return NULL;
}

/* ---- life ---- */

void ks_tls_adopt(struct ks_tls *tls, int fd, const char *peer, bool http2, bool http1, enum ks_http_port port)
{
	uint32_t turn = atomic_fetch_add_explicit(&tls->next_shaker, 1, memory_order_relaxed);
	struct tls_conn *conn = calloc(1, sizeof(*conn));

	if (!conn) {
		(void)close(fd);
		return;
	}
	*conn = (struct tls_conn){
		.tls = tls,
		.io = &tls->shakers[turn % tls->shaker_count],
		.deadline_ms = ks_tls_now() + tls->handshake_ms,
		.net = {.conn = conn, .fd = fd, .readable = true, .writable = true},
		.app = {.conn = conn, .fd = -1, .readable = true, .writable = true},
		.protocols = {.http2 = http2, .http1 = http1 && tls->http},
		.port = port,
	};
	(void)snprintf(conn->peer, sizeof(conn->peer), "%s", peer);
	ks_list_init(&conn->node);
	ks_list_init(&conn->ready);
	give(conn->io, conn);
}

static enum ks_status start_io(struct tls_io *io, struct ks_tls *tls, const char *kind, int index, struct ks_err *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = io};
	enum ks_status status;
	char name[16];

	io->tls = tls;
	io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (io->epoll_fd < 0 || io->event_fd < 0 || epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, io->event_fd, &event) < 0)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot create the TLS threads: %s", strerrordesc_np(errno));
	(void)snprintf(name, sizeof(name), "%s-%d", kind, index);
	status = ks_thread_start(&io->thread, name, run, io, err);
	io->running = status == KS_OK;
	return status;
}

static struct tls_io *new_ios(size_t number)
{
	struct tls_io *ios = ks_xcalloc(number, sizeof(*ios));

	for (size_t i = 0; i < number; i++) {
		struct tls_io *io = &ios[i];

		io->epoll_fd = io->event_fd = -1;
		ks_mutex_init(&io->lock);
		ks_list_init(&io->adopted);
		ks_list_init(&io->half);
		ks_list_init(&io->open);
		ks_list_init(&io->closing);
		ks_list_init(&io->linger);
		ks_list_init(&io->ready);
		ks_list_init(&io->dead);
	}
	return ios;
}

static void set_stage(struct tls_io *ios, size_t number, int stage)
{
	for (size_t i = 0; i < number; i++) {
		ks_mutex_lock(&ios[i].lock);
		ios[i].stage = stage;
		if (ios[i].running)
			ring(&ios[i]);
		ks_mutex_unlock(&ios[i].lock);
	}
}

static void join(struct tls_io *ios, size_t number)
{
	for (size_t i = 0; i < number; i++) {
		if (ios[i].running)
			ks_thread_join(ios[i].thread);
		ios[i].running = false;
	}
}

/* Its threads have ended. What was given after that, or never taken, is closed here. */
static void free_ios(struct tls_io *ios, size_t number)
{
	for (size_t i = 0; i < number; i++) {
		struct tls_io *io = &ios[i];
		struct ks_list *item;

		while ((item = ks_list_pop(&io->adopted)))
			free_conn(ks_container_of(item, struct tls_conn, node));
		free_dead(io);
		close_end(&(struct tls_end){.fd = io->epoll_fd});
		close_end(&(struct tls_end){.fd = io->event_fd});
		free(io->records);
		free(io->plain);
		ks_mutex_fini(&io->lock);
	}
	free(ios);
}

static void free_tls(struct ks_tls *tls)
{
	set_stage(tls->shakers, tls->shaker_count, 2);
	join(tls->shakers, tls->shaker_count);
	set_stage(tls->pumps, tls->pump_count, 2);
	join(tls->pumps, tls->pump_count);
	free_ios(tls->shakers, tls->shaker_count);
	free_ios(tls->pumps, tls->pump_count);
	BIO_meth_free(tls->bio);
	ks_tls_context_free(tls->context);
	free(tls);
}

static size_t thread_count(int wanted, long per, size_t most)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	size_t number = cores > per ? (size_t)(cores / per) : 1;

	if (wanted > 0)
		return (size_t)wanted;
	return number > most ? most : number;
}

struct ks_tls *ks_tls_start(const struct ks_tls_config *config, struct ks_err *err)
{
	size_t half_open = config->max_half_open ? config->max_half_open : DEFAULT_MAX_HALF_OPEN;
	struct ks_tls_context *context = ks_tls_context_new(&config->settings, err);
	struct ks_tls *tls;
	bool fine = true;

	if (!context)
		return NULL;
	tls = ks_xcalloc(1, sizeof(*tls));
	*tls = (struct ks_tls){
		.context = context,
		.rpc = config->rpc,
		.http = config->http,
		.bio = ks_tls_new_bio(),
		.handshake_ms = config->handshake_ms > 0 ? config->handshake_ms : DEFAULT_HANDSHAKE_MS,
		.shaker_count = thread_count(config->threads, 4, MAX_SHAKERS),
		.pump_count = thread_count(config->threads, 2, MAX_PUMPS),
	};
	tls->max_half_open = (half_open + tls->shaker_count - 1) / tls->shaker_count;
	tls->shakers = new_ios(tls->shaker_count);
	tls->pumps = new_ios(tls->pump_count);
	if (!tls->bio)
		fine = ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory") == KS_OK;
	for (size_t i = 0; fine && i < tls->shaker_count; i++)
		fine = start_io(&tls->shakers[i], tls, "tls-hello", (int)i, err) == KS_OK;
	for (size_t i = 0; fine && i < tls->pump_count; i++)
		fine = start_io(&tls->pumps[i], tls, "tls", (int)i, err) == KS_OK;
	if (fine)
		return tls;
	free_tls(tls);
	return NULL;
}

void ks_tls_drain(struct ks_tls *tls)
{
	if (!tls)
		return;
	set_stage(tls->shakers, tls->shaker_count, 2);
	join(tls->shakers, tls->shaker_count);
}

void ks_tls_stop(struct ks_tls *tls, int drain_ms)
{
	int64_t end_ms = ks_tls_now() + drain_ms;
	struct ks_tls_stats stats;

	if (!tls)
		return;
	ks_tls_drain(tls);
	/* gRPC and HTTP have closed their ends, so connections end by themselves, unless a client does not read. */
	for (ks_tls_stats(tls, &stats); stats.open > 0 && ks_tls_now() < end_ms; ks_tls_stats(tls, &stats))
		(void)usleep(1000);
	free_tls(tls);
}

void ks_tls_stats(struct ks_tls *tls, struct ks_tls_stats *stats)
{
	*stats = (struct ks_tls_stats){0};
	for (size_t i = 0; i < tls->shaker_count; i++)
		stats->half_open += atomic_load_explicit(&tls->shakers[i].half_count, memory_order_relaxed);
	for (size_t i = 0; i < tls->pump_count; i++) {
		stats->half_open += atomic_load_explicit(&tls->pumps[i].half_count, memory_order_relaxed);
		stats->open += atomic_load_explicit(&tls->pumps[i].open_count, memory_order_relaxed);
	}
}
