/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life cycle of the gRPC server: its settings, its queues, connections, and the end. See rpc_priv.h for the other files.
 *
 * The core listens on nothing: connections come from the listener, by file descriptor. The core names them "fd:7", so
 * the peer's address and identity are kept in a table by descriptor.
 */
#include "net/rpc_priv.h"

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"

#define DEFAULT_MAX_CALLS 100000
#define DEFAULT_BUSY_PERCENT 95
#define DEFAULT_SPARE_PERCENT 25
#define DEFAULT_MAX_REPLY_BYTES ((size_t)1 << 30)
/* Over our own limit, so that messages a little too large are refused by us, in etcd's words. */
#define CORE_EXTRA_BYTES (16 * 1024 * 1024)
#define MAX_METADATA_BYTES (64 * 1024)
/* Replies from this size on count towards max_reply_bytes. */
#define LARGE_REPLY 65536
/* Pings, as etcd: spec 11.1. */
#define DEFAULT_PING_MIN_MS 5000
#define DEFAULT_PING_AFTER_MS (2 * 3600 * 1000)
#define DEFAULT_PING_TIMEOUT_MS (20 * 1000)
#define PING_STRIKES 2

static int core_limit(size_t max_request_bytes)
{
	return max_request_bytes > INT_MAX - CORE_EXTRA_BYTES ? INT_MAX : (int)max_request_bytes + CORE_EXTRA_BYTES;
}

static grpc_arg integer(const char *key, int value)
{
	/* The core's struct is not const-correct; it only reads the key. */
	return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

/* 'never' is what the core takes for it. */
static int setting(int wanted, int initial, int never)
{
	if (wanted == 0)
		return initial;
	return wanted < 0 ? never : wanted;
}

static grpc_server *create_server(const struct ks_rpc *rpc, const struct ks_rpc_config *config)
{
	grpc_arg args[] = {
		integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, core_limit(rpc->max_request_bytes)),
		integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
		integer(GRPC_ARG_MAX_METADATA_SIZE, MAX_METADATA_BYTES),
		integer(GRPC_ARG_KEEPALIVE_TIME_MS, setting(config->ping_after_ms, DEFAULT_PING_AFTER_MS, INT_MAX)),
		integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
			setting(config->ping_timeout_ms, DEFAULT_PING_TIMEOUT_MS, INT_MAX)),
		integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0),
		integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
			setting(config->ping_min_ms, DEFAULT_PING_MIN_MS, 0)),
		integer(GRPC_ARG_HTTP2_MAX_PING_STRIKES, config->ping_min_ms < 0 ? 0 : PING_STRIKES),
		integer(GRPC_ARG_MAX_CONCURRENT_STREAMS,
			config->max_streams > 0 && config->max_streams < INT_MAX ? (int)config->max_streams : INT_MAX),
		/* etcd has no compressors; we answer compressed messages ourselves, in its words. */
		integer(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
		integer(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
		integer(GRPC_ARG_ENABLE_CHANNELZ, 0),
		integer(GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0),
	};
	grpc_channel_args list = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};

	return grpc_server_create(&list, NULL);
}

/* Registers all methods, and gives each queue its slots for them. */
static enum ks_status register_methods(struct ks_rpc *rpc, struct ks_err *err)
{
	for (size_t q = 0; q < rpc->queue_count; q++)
		rpc->queues[q].slots = ks_xcalloc(rpc->method_count + 1, sizeof(struct rpc_slot));
	for (size_t i = 0; i < rpc->method_count; i++) {
		const struct ks_rpc_method *method = &rpc->methods[i];
		void *handle;

		KS_ASSERT(!method->unary != !method->stream);
		handle = grpc_server_register_method(
			rpc->server, method->path, NULL,
			method->unary ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER : GRPC_SRM_PAYLOAD_NONE, 0);
		if (!handle)
			return ks_fail(err, KS_INTERNAL, "cannot register method %s", method->path);
		for (size_t q = 0; q < rpc->queue_count; q++)
			rpc->queues[q].slots[i] = (struct rpc_slot){.method = method, .handle = handle};
	}
	return KS_OK;
}

/* The first, and the workers. */
static size_t thread_count(int wanted)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (wanted > 0)
		return 1 + (size_t)wanted;
	return 1 + (cores > 2 ? (size_t)cores : 2);
}

static void gone_down(struct rpc_tag *tag, bool ok)
{
	struct ks_rpc *rpc = ks_container_of(tag, struct ks_rpc, down_tag);

	(void)ok;
	ks_mutex_lock(&rpc->lock);
	rpc->down = true;
	ks_cond_broadcast(&rpc->changed);
	ks_mutex_unlock(&rpc->lock);
}

/* On the queue's thread, which alone touches slots and free lists from now on. */
static void post_first_requests(struct ks_task *task)
{
	struct rpc_queue *queue = ks_container_of(task, struct rpc_queue, begin);

	for (size_t i = 0; i <= queue->rpc->method_count; i++)
		ks_rpc_post_requests(queue, &queue->slots[i]);
}

static void end_streams(struct ks_task *task)
{
	struct rpc_queue *queue = ks_container_of(task, struct rpc_queue, end);
	struct ks_rpc *rpc = queue->rpc;

	ks_rpc_end_streams(queue);
	while (!ks_list_empty(&queue->waiting))
		ks_call_cancelled(ks_container_of(queue->waiting.next, struct ks_call, waiting));
	ks_mutex_lock(&rpc->lock);
	rpc->queues_ended++;
	ks_cond_broadcast(&rpc->changed);
	ks_mutex_unlock(&rpc->lock);
}

static void free_rpc(struct ks_rpc *rpc)
{
	for (size_t i = 0; i < rpc->queue_count; i++)
		ks_rpc_queue_fini(&rpc->queues[i]);
	free(rpc->queues);
	if (rpc->server)
		grpc_server_destroy(rpc->server);
	if (rpc->nowhere)
		grpc_channel_destroy(rpc->nowhere);
	if (rpc->credentials)
		grpc_server_credentials_release(rpc->credentials);
	for (size_t i = 0; i < rpc->peer_capacity; i++) {
		free(rpc->peers[i].text);
		ks_identity_unref(rpc->peers[i].identity);
	}
	free(rpc->peers);
	ks_cond_fini(&rpc->changed);
	ks_mutex_fini(&rpc->lock);
	ks_mutex_fini(&rpc->load.lock);
	free(rpc);
	grpc_shutdown();
}

static enum ks_status start(struct ks_rpc *rpc, const struct ks_rpc_config *config, struct ks_err *err)
{
	enum ks_status status;

	ks_call_name_metrics(rpc->methods, rpc->method_count);
	rpc->credentials = grpc_insecure_server_credentials_create();
	rpc->nowhere = grpc_lame_client_channel_create("nowhere", GRPC_STATUS_UNAVAILABLE, "leads nowhere");
	rpc->server = create_server(rpc, config);
	if (!rpc->credentials || !rpc->nowhere || !rpc->server)
		return ks_fail(err, KS_INTERNAL, "cannot create the gRPC server");
	for (size_t i = 0; i < rpc->queue_count; i++) {
		ks_rpc_queue_init(&rpc->queues[i], rpc);
		grpc_server_register_completion_queue(rpc->server, rpc->queues[i].cq, NULL);
	}
	status = register_methods(rpc, err);
	if (status)
		return status;
	for (size_t i = 0; i < rpc->queue_count; i++) {
		status = ks_rpc_queue_start(&rpc->queues[i], (int)i, err);
		if (status)
			return status;
	}
	grpc_server_start(rpc->server);
	for (size_t i = 0; i < rpc->queue_count; i++) {
		rpc->queues[i].begin.run = post_first_requests;
		ks_rpc_queue_post(&rpc->queues[i], &rpc->queues[i].begin);
	}
	return KS_OK;
}

/* The core's own messages: its errors are mostly a peer's doing, and we cope. */
static void log_core(gpr_log_func_args *args)
{
	enum ks_diag_level level = args->severity == GPR_LOG_SEVERITY_ERROR ? KS_WARN : KS_DEBUG;

	KS_DIAG_LIMITED(level, "grpc", "%s", args->message);
}

/*
 * Debian builds abseil without NDEBUG, so each of the core's mutexes looks for lock cycles in one global graph under one global
 * spin lock, at every lock; that costs 10 % with two threads, and more with each further one. Its switch exists in C++ only.
 */
static void stop_lock_cycle_detection(void)
{
	static const char symbol[] = "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE";
	enum { ABSL_IGNORE = 0 };
	void (*set_mode)(int);

	if (ks_rpc_find_function(symbol, &set_mode))
		set_mode(ABSL_IGNORE);
}

struct ks_rpc *ks_rpc_start(const struct ks_rpc_config *config, struct ks_err *err)
{
	struct ks_rpc *rpc = aligned_alloc(alignof(struct ks_rpc), sizeof(*rpc));

	if (!rpc) {
		(void)ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	*rpc = (struct ks_rpc){
		.methods = config->methods,
		.method_count = config->method_count,
		.context = config->context,
		.max_request_bytes = config->max_request_bytes,
		.max_calls = config->max_calls ? config->max_calls : DEFAULT_MAX_CALLS,
		.max_reply_bytes = config->max_reply_bytes ? config->max_reply_bytes : DEFAULT_MAX_REPLY_BYTES,
		.max_arena_bytes = config->max_arena_bytes,
		.slow_ms = config->slow_ms,
		.queue_count = thread_count(config->threads),
		.busy_percent = config->busy_percent ? config->busy_percent : DEFAULT_BUSY_PERCENT,
		.spare_percent = setting(config->spare_percent, DEFAULT_SPARE_PERCENT, 0),
		.load.idle_us = -1,
		.down_tag.complete = gone_down,
	};
	ks_mutex_init(&rpc->lock);
	ks_mutex_init(&rpc->load.lock);
	ks_cond_init(&rpc->changed);
	rpc->queues = aligned_alloc(alignof(struct rpc_queue), rpc->queue_count * sizeof(*rpc->queues));
	KS_ASSERT(rpc->queues);
	memset(rpc->queues, 0, rpc->queue_count * sizeof(*rpc->queues));
	stop_lock_cycle_detection();
	gpr_set_log_function(log_core);
	grpc_init();
	if (start(rpc, config, err)) {
		/* Nothing was posted yet, so the threads that run can end at once. */
		for (size_t i = 0; i < rpc->queue_count; i++)
			ks_rpc_queue_join(&rpc->queues[i]);
		free_rpc(rpc);
		return NULL;
	}
	return rpc;
}

static void remember_peer(struct ks_rpc *rpc, int fd, const char *peer, struct ks_identity *identity)
{
	size_t index = (size_t)fd, capacity = rpc->peer_capacity ? rpc->peer_capacity : 64;

	if (index >= rpc->peer_capacity) {
		while (capacity <= index)
			capacity *= 2;
		rpc->peers = ks_xrealloc(rpc->peers, capacity * sizeof(*rpc->peers));
		memset(rpc->peers + rpc->peer_capacity, 0, (capacity - rpc->peer_capacity) * sizeof(*rpc->peers));
		rpc->peer_capacity = capacity;
	}
	free(rpc->peers[index].text);
	ks_identity_unref(rpc->peers[index].identity);
	rpc->peers[index] = (struct rpc_peer){.text = ks_xstrdup(peer), .identity = ks_identity_ref(identity)};
	if (identity)
		atomic_store(&rpc->identities, true);
}

void ks_rpc_adopt(struct ks_rpc *rpc, int fd, const char *peer, struct ks_identity *identity)
{
	/* Held throughout, so that the end of the server waits for a connection that is just being added. */
	ks_mutex_lock(&rpc->lock);
	if (atomic_load(&rpc->stopping)) {
		(void)close(fd);
	} else {
		remember_peer(rpc, fd, peer, identity);
		grpc_server_add_channel_from_fd(rpc->server, fd, rpc->credentials);
	}
	ks_mutex_unlock(&rpc->lock);
}

int ks_rpc_fd(struct rpc_call *call)
{
	char *name, *end = NULL;
	long fd = 0;

	if (call->fd != -1)
		return call->fd;
	name = grpc_call_get_peer(call->call);
	if (name && strncmp(name, "fd:", 3) == 0)
		fd = strtol(name + 3, &end, 10);
	call->fd = end && end != name + 3 && fd >= 0 && fd <= INT_MAX ? (int)fd : -2;
	gpr_free(name);
	return call->fd;
}

/* With the lock held. NULL when the core calls the connection something else. */
static const struct rpc_peer *find_peer(struct ks_rpc *rpc, int fd)
{
	if (fd < 0 || (size_t)fd >= rpc->peer_capacity)
		return NULL;
	return rpc->peers[fd].text ? &rpc->peers[fd] : NULL;
}

const char *ks_rpc_peer(struct ks_call *base)
{
	struct rpc_call *call = ks_container_of(base, struct rpc_call, base);
	struct ks_rpc *rpc = base->rpc;
	const struct rpc_peer *peer;
	char *name;
	int fd;

	if (call->peer)
		return call->peer;
	fd = ks_rpc_fd(call);
	ks_mutex_lock(&rpc->lock);
	peer = find_peer(rpc, fd);
	call->peer = peer ? ks_xstrdup(peer->text) : NULL;
	ks_mutex_unlock(&rpc->lock);
	if (call->peer)
		return call->peer;
	name = grpc_call_get_peer(call->call);
	call->peer = ks_xstrdup(name ? name : "unknown");
	gpr_free(name);
	return call->peer;
}

const struct ks_identity *ks_rpc_identity(struct ks_call *base)
{
	struct rpc_call *call = ks_container_of(base, struct rpc_call, base);
	struct ks_rpc *rpc = base->rpc;
	const struct rpc_peer *peer;
	int fd;

	/* Set before the connection that has one is given to the core. */
	if (call->identity_known || !atomic_load(&rpc->identities))
		return call->identity;
	fd = ks_rpc_fd(call);
	ks_mutex_lock(&rpc->lock);
	peer = find_peer(rpc, fd);
	call->identity = peer ? ks_identity_ref(peer->identity) : NULL;
	ks_mutex_unlock(&rpc->lock);
	call->identity_known = true;
	return call->identity;
}

bool ks_rpc_stopping(const struct ks_rpc *rpc)
{
	return atomic_load(&rpc->stopping);
}

struct ks_list *ks_rpc_queue_waiting(struct rpc_queue *queue)
{
	return &queue->waiting;
}

/* ---- limits that all calls share, see call.h ---- */

const char *ks_rpc_call_begin(struct ks_rpc *rpc, enum ks_status *status)
{
	atomic_fetch_add_explicit(&rpc->calls_started, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&rpc->calls_open, 1, memory_order_relaxed);
	if (atomic_load_explicit(&rpc->stopping, memory_order_relaxed)) {
		*status = KS_UNAVAILABLE;
		return KS_TEXT_STOPPED;
	}
	if (atomic_load_explicit(&rpc->calls_open, memory_order_relaxed) > rpc->max_calls) {
		*status = KS_RESOURCE_EXHAUSTED;
		return "too many calls in flight";
	}
	return NULL;
}

enum ks_status ks_rpc_check_size(const struct ks_rpc *rpc, size_t size, char *text, size_t text_size)
{
	if (size <= rpc->max_request_bytes)
		return KS_OK;
	(void)snprintf(text, text_size, "grpc: received message larger than max (%zu vs. %zu)", size,
		       rpc->max_request_bytes);
	return KS_RESOURCE_EXHAUSTED;
}

/* Clients that ask for millions of keys and do not read must not fill the memory with answers. */
bool ks_rpc_claim_reply(struct ks_rpc *rpc, size_t size, size_t *counted)
{
	size_t before;

	*counted = 0;
	if (size < LARGE_REPLY)
		return true;
	before = atomic_fetch_add_explicit(&rpc->reply_bytes, size, memory_order_relaxed);
	if (before > 0 && (before > rpc->max_reply_bytes || size > rpc->max_reply_bytes - before)) {
		atomic_fetch_sub_explicit(&rpc->reply_bytes, size, memory_order_relaxed);
		return false;
	}
	KS_COUNT(REPLY_BYTES, size);
	*counted = size;
	return true;
}

void ks_rpc_free_reply(struct ks_rpc *rpc, size_t counted)
{
	if (!counted)
		return;
	KS_COUNT(REPLY_BYTES, -(int64_t)counted);
	atomic_fetch_sub_explicit(&rpc->reply_bytes, counted, memory_order_relaxed);
}

const struct ks_rpc_method *ks_rpc_methods(const struct ks_rpc *rpc, size_t *count)
{
	*count = rpc->method_count;
	return rpc->methods;
}

size_t ks_rpc_max_request_bytes(const struct ks_rpc *rpc)
{
	return rpc->max_request_bytes;
}

size_t ks_rpc_max_arena_bytes(const struct ks_rpc *rpc)
{
	return rpc->max_arena_bytes;
}

struct rpc_queue *ks_rpc_pick_queue(struct ks_rpc *rpc)
{
	uint32_t next = atomic_fetch_add_explicit(&rpc->next_queue, 1, memory_order_relaxed);

	return &rpc->queues[1 + next % (rpc->queue_count - 1)];
}

struct ks_rpc *ks_rpc_queue_rpc(struct rpc_queue *queue)
{
	return queue->rpc;
}

void ks_rpc_call_gone(struct ks_rpc *rpc)
{
	/* Sequentially consistent with the end, which sets 'stopping' and then looks at the count. */
	if (atomic_fetch_sub(&rpc->calls_open, 1) == 1 && atomic_load(&rpc->stopping)) {
		ks_mutex_lock(&rpc->lock);
		ks_cond_broadcast(&rpc->changed);
		ks_mutex_unlock(&rpc->lock);
	}
}

/* With the lock held: nothing is posted to the core any more, and nothing is left of what was. */
static bool all_down(struct ks_rpc *rpc)
{
	return rpc->down && rpc->queues_ended == rpc->queue_count && atomic_load(&rpc->calls_open) == 0;
}

/* Waits until the core has let go of everything and we have, too. False when 'wait_ms' ran out; negative: for ever. */
static bool wait_down(struct ks_rpc *rpc, int64_t wait_ms)
{
	int64_t end_ms = ks_clock_now(ks_clock_system()) + wait_ms, left_ms = wait_ms;
	bool down;

	ks_mutex_lock(&rpc->lock);
	while (!(down = all_down(rpc)) && (wait_ms < 0 || left_ms > 0)) {
		(void)ks_cond_wait(&rpc->changed, &rpc->lock, left_ms);
		if (wait_ms >= 0)
			left_ms = end_ms - ks_clock_now(ks_clock_system());
	}
	ks_mutex_unlock(&rpc->lock);
	return down;
}

void ks_rpc_stop(struct ks_rpc *rpc, int drain_ms)
{
	if (!rpc)
		return;
	ks_mutex_lock(&rpc->lock);
	atomic_store(&rpc->stopping, true);
	ks_mutex_unlock(&rpc->lock);
	for (size_t i = 0; i < rpc->queue_count; i++) {
		ks_mutex_lock(&rpc->queues[i].requesting); /* whoever comes after this sees 'stopping' */
		ks_mutex_unlock(&rpc->queues[i].requesting);
	}
	grpc_server_shutdown_and_notify(rpc->server, rpc->queues[0].cq, &rpc->down_tag);
	for (size_t i = 0; i < rpc->queue_count; i++) {
		rpc->queues[i].end.run = end_streams;
		ks_rpc_queue_post(&rpc->queues[i], &rpc->queues[i].end);
	}
	if (!wait_down(rpc, drain_ms > 0 ? drain_ms : 0)) {
		ks_diag(KS_WARN, "rpc", "cancelling calls that did not end in time open=%llu drain_ms=%d",
			(unsigned long long)atomic_load(&rpc->calls_open), drain_ms);
		grpc_server_cancel_all_calls(rpc->server);
		(void)wait_down(rpc, -1);
	}
	for (size_t i = 0; i < rpc->queue_count; i++)
		ks_rpc_queue_join(&rpc->queues[i]);
	free_rpc(rpc);
}

int64_t ks_rpc_slow_ms(const struct ks_rpc *rpc)
{
	return rpc->slow_ms;
}

void *ks_rpc_context(struct ks_rpc *rpc)
{
	return rpc->context;
}

void ks_rpc_stats(struct ks_rpc *rpc, struct ks_rpc_stats *stats)
{
	stats->calls_started = atomic_load_explicit(&rpc->calls_started, memory_order_relaxed);
	stats->calls_open = atomic_load_explicit(&rpc->calls_open, memory_order_relaxed);
}
