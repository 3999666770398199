/* SPDX-License-Identifier: Apache-2.0 */
/* Loading many keys quickly, and waiting for a server that starts with them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/bench.h"

#define PER_TXN 100
#define OPEN 16
#define READY_TIMEOUT_MS 120000
#define READY_PAUSE_US 5000

struct fill {
	struct bench *bench;
	struct ks_mutex mutex;
	struct ks_cond changed;
	int64_t next; /* key; under mutex */
	int open;
	struct etcdc_err err; /* the first one */
};

/* One transaction of puts, with everything it points to. */
struct batch {
	struct fill *fill;
	int count;
	Etcdserverpb__TxnRequest txn;
	Etcdserverpb__RequestOp ops[PER_TXN], *op_pointers[PER_TXN];
	Etcdserverpb__PutRequest puts[PER_TXN];
	char *keys, *value;
};

void bench_key(const struct bench *bench, int64_t number, char *key)
{
	(void)snprintf(key, (size_t)bench->key_size + 1, "bench/%0*" PRId64, bench->key_size - 6, number);
}

bool bench_await(const _Atomic int64_t *what, int64_t value, const _Atomic int64_t *broken, double seconds)
{
	uint64_t until_ns = now_ns() + (uint64_t)(seconds * 1e9);

	while (atomic_load(what) < value && atomic_load(broken) == 0) {
		if (now_ns() > until_ns)
			return false;
		(void)usleep(500);
	}
	return atomic_load(broken) == 0;
}

/* Puts the next keys into the batch; false when there are none left. */
static bool take(struct batch *batch)
{
	struct fill *fill = batch->fill;
	const struct bench *bench = fill->bench;
	int64_t first;

	ks_mutex_lock(&fill->mutex);
	first = fill->next;
	batch->count = 0;
	if (fill->err.status == KS_OK && first < bench->keys) {
		batch->count = bench->keys - first < PER_TXN ? (int)(bench->keys - first) : PER_TXN;
		fill->next += batch->count;
	}
	ks_mutex_unlock(&fill->mutex);
	for (int i = 0; i < batch->count; i++) {
		char *key = batch->keys + (size_t)i * ((size_t)bench->key_size + 1);

		bench_key(bench, first + i, key);
		etcdserverpb__put_request__init(&batch->puts[i]);
		batch->puts[i].key = (ProtobufCBinaryData){(size_t)bench->key_size, (uint8_t *)key};
		batch->puts[i].value = (ProtobufCBinaryData){(size_t)bench->value_size, (uint8_t *)batch->value};
		etcdserverpb__request_op__init(&batch->ops[i]);
		batch->ops[i].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		batch->ops[i].request_put = &batch->puts[i];
		batch->op_pointers[i] = &batch->ops[i];
	}
	return batch->count > 0;
}

static void answered(void *arg, const struct etcdc_result *result);

static void send_next(struct batch *batch)
{
	static const struct etcdc_call_options options = {.raw = true, .timeout_ms = 60000};
	struct fill *fill = batch->fill;
	struct bench *bench = fill->bench;

	if (take(batch)) {
		etcdserverpb__txn_request__init(&batch->txn);
		batch->txn.n_success = (size_t)batch->count;
		batch->txn.success = batch->op_pointers;
		etcdc_async(bench->client[0], &etcdc_method_txn, &batch->txn, &options, answered, batch);
		return;
	}
	ks_mutex_lock(&fill->mutex);
	if (--fill->open == 0)
		ks_cond_broadcast(&fill->changed);
	ks_mutex_unlock(&fill->mutex);
}

static void answered(void *arg, const struct etcdc_result *result)
{
	struct batch *batch = arg;

	if (result->err->status != KS_OK) {
		ks_mutex_lock(&batch->fill->mutex);
		batch->fill->err = *result->err;
		ks_mutex_unlock(&batch->fill->mutex);
	}
	send_next(batch);
}

bool bench_fill(struct bench *bench)
{
	struct fill fill = {.bench = bench, .open = OPEN, .next = bench->from};
	struct batch *batches = ks_xcalloc(OPEN, sizeof(*batches));

	ks_mutex_init(&fill.mutex);
	ks_cond_init(&fill.changed);
	for (int i = 0; i < OPEN; i++) {
		batches[i].fill = &fill;
		batches[i].keys = ks_xmalloc(PER_TXN * ((size_t)bench->key_size + 1));
		batches[i].value = ks_xmalloc((size_t)bench->value_size + 1);
		memset(batches[i].value, 'v', (size_t)bench->value_size);
	}
	for (int i = 0; i < OPEN; i++)
		send_next(&batches[i]);
	ks_mutex_lock(&fill.mutex);
	while (fill.open > 0)
		(void)ks_cond_wait(&fill.changed, &fill.mutex, -1);
	ks_mutex_unlock(&fill.mutex);
	for (int i = 0; i < OPEN; i++) {
		free(batches[i].keys);
		free(batches[i].value);
	}
	free(batches);
	ks_cond_fini(&fill.changed);
	ks_mutex_fini(&fill.mutex);
	if (fill.err.status != KS_OK)
		(void)fprintf(stderr, "kineshim-bench: loading keys: %s %s\n", ks_status_name(fill.err.status),
			      fill.err.text);
	return fill.err.status == KS_OK;
}

int bench_load(struct bench *bench)
{
	uint64_t begin_ns = now_ns();
	double seconds;

	if (bench->from >= bench->keys || !bench_fill(bench))
		return 1;
	seconds = (double)(now_ns() - begin_ns) / 1e9;
	printf("{\"bench\":\"load\",\"keys\":%" PRId64 ",\"seconds\":%.3f,\"per_second\":%.1f}\n", bench->keys, seconds,
	       (double)(bench->keys - bench->from) / seconds);
	return 0;
}

int bench_ready(struct bench *bench)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc_call_options options = {.timeout_ms = READY_TIMEOUT_MS, .once = true};
	uint64_t begin_ns = now_ns(), end_ns = begin_ns + READY_TIMEOUT_MS * 1000000ull;
	enum ks_status status;
	struct etcdc_err err;
	void *response;
	uint8_t zero = 0;

	request.key = (ProtobufCBinaryData){1, &zero};
	request.range_end = request.key;
	request.count_only = true;
	/* Not repeated by libetcdc, whose back-off would be taken for the server's start. */
	while ((status = etcdc_unary(bench->client[0], &etcdc_method_range, &request, &options, &response, &err)) ==
		       KS_UNAVAILABLE &&
	       now_ns() < end_ns)
		(void)usleep(READY_PAUSE_US);
	if (status != KS_OK) {
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(err.status), err.text);
		return 1;
	}
	printf("{\"bench\":\"ready\",\"seconds\":%.3f,\"keys\":%" PRId64 "}\n", (double)(now_ns() - begin_ns) / 1e9,
	       ((Etcdserverpb__RangeResponse *)response)->count);
	etcdc_free(response);
	return 0;
}
