/* SPDX-License-Identifier: Apache-2.0 */
/* Puts, gets and lists of etcd's own kind, in closed loops (loop.h). */
#include "tests/bench/loop.h"

static void start_put(struct slot *slot)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	const struct bench *bench = slot->loop->bench;

	bench_key(bench, bench_draw(slot), slot->key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)slot->key};
	request.value = (ProtobufCBinaryData){(size_t)bench->value_size, (uint8_t *)slot->value};
	bench_call(slot, &etcdc_method_put, &request);
}

static void start_get(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const struct bench *bench = slot->loop->bench;

	bench_key(bench, bench_draw(slot), slot->key);
	request.key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)slot->key};
	request.serializable = bench->serializable;
	bench_call(slot, &etcdc_method_range, &request);
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
	bench_call(slot, &etcdc_method_range, &request);
}

static void start_range(struct slot *slot)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;

	request.key = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench/"};
	request.range_end = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench0"};
	request.limit = slot->loop->bench->keys;
	request.serializable = slot->loop->bench->serializable;
	bench_call(slot, &etcdc_method_range, &request);
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
