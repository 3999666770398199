/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closed loops of unary calls: 'inflight' slots, each of which sends its next request when its last one was answered. Responses are
 * not decoded, so that this program costs little beside the server it shares the machine with.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/loop.h"

#define PATIENCE_NS 30000000000u

static void slot_done(struct slot *slot)
{
	struct loop *loop = slot->loop;

	ks_mutex_lock(&loop->mutex);
	if (--loop->open == 0)
		ks_cond_broadcast(&loop->idle);
	ks_mutex_unlock(&loop->mutex);
}

void bench_answered(void *arg, const struct etcdc_result *result)
{
	struct slot *slot = arg;
	struct loop *loop = slot->loop;

	if (loop->answer && result->err->status == KS_OK && !loop->answer(slot, result->bytes)) {
		loop->start(slot);
		return;
	}
	if (atomic_load_explicit(&loop->measuring, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&loop->done, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&loop->share[slot->endpoint], 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&loop->bytes, result->bytes.size, memory_order_relaxed);
		hist_add(&loop->hist, (now_ns() - slot->started_ns) / 1000);
	}
	if (result->err->status != KS_OK && atomic_fetch_add(&loop->failed, 1) == 0) {
		ks_mutex_lock(&loop->mutex);
		loop->first_err = *result->err;
		ks_mutex_unlock(&loop->mutex);
	}
	if (atomic_load_explicit(&loop->stopping, memory_order_relaxed)) {
		slot_done(slot);
		return;
	}
	if (loop->bench->rotate) {
		slot->turn = (slot->turn + loop->bench->inflight) % loop->bench->clients;
		slot->client = loop->bench->client[slot->turn];
	}
	slot->started_ns = now_ns();
	loop->start(slot);
}

int64_t bench_draw(struct slot *slot)
{
	uint64_t z = (slot->seed += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	return (int64_t)((z ^ (z >> 31)) % (uint64_t)slot->loop->bench->keys);
}

static void start_put(struct slot *slot)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	const struct bench *bench = slot->loop->bench;

	bench_key(bench, bench_draw(slot), slot->key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)slot->key};
	request.value = (ProtobufCBinaryData){(size_t)bench->value_size, (uint8_t *)slot->value};
	etcdc_async(slot->client, &etcdc_method_put, &request, &slot->loop->options, bench_answered, slot);
}

static void start_get(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const struct bench *bench = slot->loop->bench;

	bench_key(bench, bench_draw(slot), slot->key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)slot->key};
	request.serializable = bench->serializable;
	etcdc_async(slot->client, &etcdc_method_range, &request, &slot->loop->options, bench_answered, slot);
}

static void start_page(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const struct bench *bench = slot->loop->bench;
	int64_t number = bench_draw(slot);

	/* As many keys as a page are behind each place. */
	if (number > bench->keys - bench->page)
		number = bench->keys > bench->page ? number % (bench->keys - bench->page) : 0;
	bench_key(bench, number, slot->key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)slot->key};
	request.range_end = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench0"};
	request.limit = bench->page;
	request.serializable = bench->serializable;
	etcdc_async(slot->client, &etcdc_method_range, &request, &slot->loop->options, bench_answered, slot);
}

static void start_range(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;

	request.key = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench/"};
	request.range_end = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench0"};
	request.limit = slot->loop->bench->keys;
	request.serializable = slot->loop->bench->serializable;
	etcdc_async(slot->client, &etcdc_method_range, &request, &slot->loop->options, bench_answered, slot);
}

/* ---- With --rotate: each client has its connection before the load begins ---- */

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

/* All at once, with one get on each. Takes the usage before it, and prints how long it took. */
static bool connect_all(struct bench *bench, struct bench_usage *before)
{
	static const struct etcdc_call_options options = {.raw = true, .timeout_ms = 60000};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct connecting *connecting = ks_xcalloc(1, sizeof(*connecting));
	struct bench_usage after;
	uint64_t begin_ns = now_ns();
	char key[BENCH_KEY_ROOM];
	bool all;

	usage_take(bench, before);
	bench_key(bench, 0, key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)key};
	for (int i = 0; i < bench->clients; i++)
		etcdc_async(bench->client[i], &etcdc_method_range, &request, &options, connected, connecting);
	/* Every call is answered, with success or without. */
	while (atomic_load(&connecting->answered) < bench->clients)
		(void)usleep(500);
	usage_take(bench, &after);
	all = atomic_load(&connecting->failed) == 0;
	printf("{\"connect_seconds\":%.4f", (double)(now_ns() - begin_ns) / 1e9);
	usage_print_cpu(bench, "connect_", before, &after, bench->clients);
	free(connecting);
	return all;
}

int bench_loop(struct bench *bench, const char *name, void (*start)(struct slot *slot), bench_answer_fn *answer)
{
	struct loop *loop = ks_xcalloc(1, sizeof(*loop));
	struct slot *slots = ks_xcalloc((size_t)bench->inflight, sizeof(*slots));
	uint64_t begin_ns, end_ns, done, bytes;
	struct bench_usage idle = {0}, before, after;
	double cpu_s;
	int status;

	if (bench->rotate && !connect_all(bench, &idle))
		return 1;
	loop->bench = bench;
	loop->start = start;
	loop->answer = answer;
	loop->options = (struct etcdc_call_options){.raw = true, .once = true, .timeout_ms = 60000};
	loop->open = bench->inflight;
	loop->run = (unsigned)(now_ns() >> 20);
	ks_mutex_init(&loop->mutex);
	ks_cond_init(&loop->idle);
	for (int i = 0; i < bench->inflight; i++) {
		int client = i % bench->clients;

		slots[i] = (struct slot){.loop = loop, .client = bench->client[client]};
		slots[i].endpoint = client % bench->endpoint_count;
		slots[i].seed = (uint64_t)i * 7919 + now_ns();
		slots[i].key = ks_xcalloc(1, BENCH_KEY_ROOM);
		slots[i].value = ks_xmalloc((size_t)bench->value_size + 1);
		slots[i].number = i;
		slots[i].turn = client;
		memset(slots[i].value, 'v', (size_t)bench->value_size);
	}
	for (int i = 0; i < bench->inflight; i++) {
		slots[i].started_ns = now_ns();
		start(&slots[i]);
	}
	(void)usleep((useconds_t)(bench->warmup * 1e6));
	cpu_s = cpu_seconds();
	usage_take(bench, &before);
	begin_ns = now_ns();
	atomic_store(&loop->measuring, true);
	(void)usleep((useconds_t)(bench->seconds * 1e6));
	/* What takes longer than that is measured all the same. */
	while (atomic_load(&loop->done) < (uint64_t)bench->inflight && now_ns() - begin_ns < PATIENCE_NS)
		(void)usleep(1000);
	atomic_store(&loop->measuring, false);
	done = atomic_load(&loop->done);
	bytes = atomic_load(&loop->bytes);
	end_ns = now_ns();
	usage_take(bench, &after);
	cpu_s = cpu_seconds() - cpu_s;
	atomic_store(&loop->stopping, true);
	ks_mutex_lock(&loop->mutex);
	while (loop->open > 0)
		(void)ks_cond_wait(&loop->idle, &loop->mutex, -1);
	ks_mutex_unlock(&loop->mutex);

	printf("%s\"bench\":\"%s\",\"clients\":%d,\"inflight\":%d,\"keys\":%" PRId64
	       ",\"per_second\":%.1f,\"count\":%" PRIu64 ",\"bytes_per_second\":%.0f,\"errors\":%" PRIu64,
	       bench->rotate ? "," : "{", name, bench->clients, bench->inflight, bench->keys,
	       (double)done * 1e9 / (double)(end_ns - begin_ns), done,
	       (double)bytes * 1e9 / (double)(end_ns - begin_ns), atomic_load(&loop->failed));
	if (bench->endpoint_count > 1) {
		printf(",\"shares\":[");
		for (int i = 0; i < bench->endpoint_count; i++)
			printf("%s%.3f", i ? "," : "", done ? (double)atomic_load(&loop->share[i]) / (double)done : 0);
		printf("]");
	}
	hist_print(&loop->hist);
	usage_print_cpu(bench, "", &before, &after, (double)done);
	usage_print_rss(bench, "", bench->rotate ? &idle : &before, &after);
	cpu_print(cpu_s, (double)(end_ns - begin_ns) / 1e9);
	printf("}\n");
	status = atomic_load(&loop->failed) == 0 && done > 0 ? 0 : 1;
	if (status)
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(loop->first_err.status),
			      loop->first_err.text);
	for (int i = 0; i < bench->inflight; i++) {
		free(slots[i].key);
		free(slots[i].value);
	}
	free(slots);
	ks_cond_fini(&loop->idle);
	ks_mutex_fini(&loop->mutex);
	free(loop);
	return status;
}

int bench_put(struct bench *bench)
{
	return bench_loop(bench, "put", start_put, NULL);
}

/* With --kube the one key is created as Kubernetes does it. */
static bool fill(struct bench *bench)
{
	int64_t revision = 0;
	char key[BENCH_KEY_ROOM];
	bool created;

	if (bench->filled)
		return true;
	if (!bench->kube)
		return bench_fill(bench);
	bench->keys = 1;
	bench_key(bench, 0, key);
	return bench_kube_write(bench->client[0], key, (const uint8_t *)"value", 5, &revision, &created);
}

int bench_get(struct bench *bench)
{
	return fill(bench) ? bench_loop(bench, bench->serializable ? "get-serializable" : "get", start_get, NULL) : 1;
}

int bench_page(struct bench *bench)
{
	return fill(bench) ? bench_loop(bench, "page", start_page, NULL) : 1;
}

int bench_range(struct bench *bench)
{
	return bench_fill(bench) ? bench_loop(bench, "range", start_range, NULL) : 1;
}
