/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See loop.h. Responses are not decoded, and calls are those of h2_call.h, so that this program costs little beside the server it shares the
 * machine with; with tokens, or when told to, it is libetcdc that calls.
 */
#include "tests/bench/loop.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"

#define PATIENCE_NS 30000000000u

static void slot_done(struct slot *slot)
{
	struct loop *loop = slot->loop;

	ks_mutex_lock(&loop->mutex);
	if (--loop->open == 0)
		ks_cond_broadcast(&loop->idle);
	ks_mutex_unlock(&loop->mutex);
}

static void answered(void *arg, const struct etcdc_result *result)
{
	struct slot *slot = arg;
	struct loop *loop = slot->loop;
	enum ks_status status = result->err->status;
	uint64_t now = now_ns();

	if (loop->answer && status == KS_OK && !loop->answer(slot, result->bytes)) {
		loop->start(slot);
		return;
	}
	if (atomic_load_explicit(&loop->measuring, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&loop->done, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&loop->share[slot->endpoint], 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&loop->bytes, result->bytes.size, memory_order_relaxed);
		hist_add(&loop->hist, (now - slot->started_ns) / 1000);
	}
	if (status != KS_OK && atomic_fetch_add(&loop->failed, 1) == 0) {
		ks_mutex_lock(&loop->mutex);
		loop->first_err = *result->err;
		ks_mutex_unlock(&loop->mutex);
	}
	/* A connection that has ended is not opened again. */
	if (atomic_load_explicit(&loop->stopping, memory_order_relaxed) || (loop->calls && status == KS_UNAVAILABLE)) {
		slot_done(slot);
		return;
	}
	if (loop->bench->rotate)
		slot->turn = (slot->turn + loop->bench->inflight) % loop->bench->clients;
	slot->started_ns = now;
	loop->start(slot);
}

/* A call of a client, of whichever kind. */
static void call(struct loop *loop, int64_t client, const struct etcdc_method *method, const void *request,
		 const struct etcdc_call_options *options, etcdc_done_fn *done, void *arg)
{
	if (loop->calls)
		h2_call(loop->connections[client], method, request, done, arg);
	else
		etcdc_async(loop->bench->client[client], method, request, options, done, arg);
}

void bench_call(struct slot *slot, const struct etcdc_method *method, const void *request)
{
	static const struct etcdc_call_options options = {.raw = true, .once = true, .timeout_ms = 60000};

	call(slot->loop, slot->turn, method, request, &options, answered, slot);
}

int64_t bench_draw(struct slot *slot)
{
	uint64_t z = (slot->seed += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	return (int64_t)((z ^ (z >> 31)) % (uint64_t)slot->loop->bench->keys);
}

/* ---- clients ---- */

/* False, and a message on stderr, when one cannot connect. */
static bool open_clients(struct loop *loop)
{
	struct bench *bench = loop->bench;

	if (!bench->light)
		return true;
	loop->calls = h2_calls_new();
	loop->connections = ks_xcalloc((size_t)bench->clients, sizeof(struct h2_connection *));
	for (int i = 0; i < bench->clients; i++) {
		loop->connections[i] = h2_calls_connect(loop->calls, bench->endpoints[i % bench->endpoint_count]);
		if (!loop->connections[i])
			return false;
	}
	return true;
}

struct connecting {
	_Atomic int64_t answered, failed;
};

static void connected(void *arg, const struct etcdc_result *result)
{
	struct connecting *connecting = arg;

	if (result->err->status != KS_OK && atomic_fetch_add(&connecting->failed, 1) == 0)
		(void)fprintf(stderr, "kineshim-bench: connecting: %s\n", result->err->text);
	atomic_fetch_add(&connecting->answered, 1);
}

/* One get on each client, all at once. */
static bool try_clients(struct loop *loop)
{
	static const struct etcdc_call_options options = {.raw = true, .timeout_ms = 60000};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct connecting connecting = {0};
	struct bench *bench = loop->bench;
	char key[BENCH_KEY_ROOM];

	bench_key(bench, 0, key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)key};
	for (int i = 0; i < bench->clients; i++)
		call(loop, i, &etcdc_method_range, &request, &options, connected, &connecting);
	if (loop->calls)
		h2_calls_run(loop->calls);
	/* Every call is answered, with success or without. */
	while (atomic_load(&connecting.answered) < bench->clients)
		(void)usleep(500);
	if (loop->calls)
		h2_calls_wait(loop->calls);
	return atomic_load(&connecting.failed) == 0;
}

/* With --rotate each client has its connection before the load begins. Takes the usage before that, and prints how long it took. */
static bool connect_clients(struct loop *loop, struct bench_usage *before)
{
	struct bench *bench = loop->bench;
	uint64_t begin_ns = now_ns();
	struct bench_usage after;
	bool all;

	if (!bench->rotate)
		return open_clients(loop);
	usage_take(bench, before);
	all = open_clients(loop) && try_clients(loop);
	usage_take(bench, &after);
	printf("{\"connect_seconds\":%.4f", (double)(now_ns() - begin_ns) / 1e9);
	usage_print_cpu(bench, "connect_", before, &after, bench->clients);
	return all;
}

/* ---- the loop ---- */

static struct slot *start_slots(struct loop *loop)
{
	struct bench *bench = loop->bench;
	struct slot *slots = ks_xcalloc((size_t)bench->inflight, sizeof(*slots));

	loop->open = bench->inflight;
	for (int i = 0; i < bench->inflight; i++) {
		struct slot *slot = &slots[i];

		slot->loop = loop;
		slot->turn = i % bench->clients;
		slot->endpoint = (int)slot->turn % bench->endpoint_count;
		slot->seed = (uint64_t)i * 7919 + now_ns();
		slot->key = ks_xcalloc(1, BENCH_KEY_ROOM);
		slot->value = ks_xmalloc((size_t)bench->value_size + 1);
		slot->number = i;
		memset(slot->value, 'v', (size_t)bench->value_size);
	}
	for (int i = 0; i < bench->inflight; i++) {
		slots[i].started_ns = now_ns();
		loop->start(&slots[i]);
	}
	return slots;
}

static void free_slots(const struct bench *bench, struct slot *slots)
{
	for (int i = 0; i < bench->inflight; i++) {
		free(slots[i].key);
		free(slots[i].value);
	}
	free(slots);
}

/* So long, or until no slot goes on; 'seconds' < 0: only that. */
static void pass(struct loop *loop, double seconds)
{
	uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9), now;

	ks_mutex_lock(&loop->mutex);
	while (loop->open > 0 && (seconds < 0 || (now = now_ns()) < end_ns))
		(void)ks_cond_wait(&loop->idle, &loop->mutex,
				   seconds < 0 ? -1 : (int64_t)((end_ns - now) / 1000000) + 1);
	ks_mutex_unlock(&loop->mutex);
}

static bool goes_on(struct loop *loop)
{
	bool open;

	ks_mutex_lock(&loop->mutex);
	open = loop->open > 0;
	ks_mutex_unlock(&loop->mutex);
	return open;
}

struct measured {
	double seconds, cpu_s;
	struct bench_usage idle, before, after; /* idle: with --rotate, without connections */
};

static void measure(struct loop *loop, struct measured *measured)
{
	const struct bench *bench = loop->bench;
	uint64_t begin_ns;

	pass(loop, bench->warmup);
	measured->cpu_s = cpu_seconds();
	usage_take(bench, &measured->before);
	begin_ns = now_ns();
	atomic_store(&loop->measuring, true);
	pass(loop, bench->seconds);
	/* What takes longer than that is measured all the same. */
	while (atomic_load(&loop->done) < (uint64_t)bench->inflight && now_ns() - begin_ns < PATIENCE_NS &&
	       goes_on(loop))
		(void)usleep(1000);
	atomic_store(&loop->measuring, false);
	measured->seconds = (double)(now_ns() - begin_ns) / 1e9;
	usage_take(bench, &measured->after);
	measured->cpu_s = cpu_seconds() - measured->cpu_s;
}

static void print(const struct loop *loop, const char *name, const struct measured *measured)
{
	const struct bench *bench = loop->bench;
	uint64_t done = atomic_load(&loop->done);

	printf("%s\"bench\":\"%s\",\"clients\":%d,\"inflight\":%d,\"keys\":%" PRId64
	       ",\"per_second\":%.1f,\"count\":%" PRIu64 ",\"bytes_per_second\":%.0f,\"errors\":%" PRIu64,
	       bench->rotate ? "," : "{", name, bench->clients, bench->inflight, bench->keys,
	       (double)done / measured->seconds, done, (double)atomic_load(&loop->bytes) / measured->seconds,
	       atomic_load(&loop->failed));
	if (bench->endpoint_count > 1) {
		printf(",\"shares\":[");
		for (int i = 0; i < bench->endpoint_count; i++)
			printf("%s%.3f", i ? "," : "", done ? (double)atomic_load(&loop->share[i]) / (double)done : 0);
		printf("]");
	}
	hist_print(&loop->hist);
	usage_print_cpu(bench, "", &measured->before, &measured->after, (double)done);
	usage_print_rss(bench, "", bench->rotate ? &measured->idle : &measured->before, &measured->after);
	cpu_print(measured->cpu_s, measured->seconds);
	printf("}\n");
}

/* The exit status. */
static int run(struct loop *loop, const char *name)
{
	struct measured measured = {0};
	struct slot *slots;
	int status;

	if (!connect_clients(loop, &measured.idle))
		return 1;
	slots = start_slots(loop);
	if (loop->calls)
		h2_calls_run(loop->calls);
	measure(loop, &measured);
	atomic_store(&loop->stopping, true);
	pass(loop, -1);
	if (loop->calls)
		h2_calls_wait(loop->calls);
	print(loop, name, &measured);
	status = atomic_load(&loop->failed) == 0 && atomic_load(&loop->done) > 0 ? 0 : 1;
	if (status)
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(loop->first_err.status),
			      loop->first_err.text);
	free_slots(loop->bench, slots);
	return status;
}

int bench_loop(struct bench *bench, const char *name, void (*start)(struct slot *slot), bench_answer_fn *answer)
{
	struct loop *loop = ks_xcalloc(1, sizeof(*loop));
	int status;

	loop->bench = bench;
	loop->start = start;
	loop->answer = answer;
	loop->run = (unsigned)(now_ns() >> 20);
	ks_mutex_init(&loop->mutex);
	ks_cond_init(&loop->idle);
	status = run(loop, name);
	h2_calls_free(loop->calls);
	free(loop->connections);
	ks_cond_fini(&loop->idle);
	ks_mutex_fini(&loop->mutex);
	free(loop);
	return status;
}
