/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hot paths without network and database, for counting instructions (hot.py runs it under callgrind): requests go as bytes
 * through decoding, validation, the store and encoding. usage: hot put|update|get|range|event|batch|json COUNT
 *
 *	put     of 256 bytes over 1,000 keys        update   the same in Kubernetes' shape, of one key
 *	get     linearizable, one of 1,000 keys     range    100 keys
 *	event   a put, and its event to one watcher
 *	batch   64 puts through the log's writer to the memory backend: gathered, evaluated, appended, published
 *	json    what the gateway does for a put of 256 bytes, and for a response of 10 keys
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/diag.h"
#include "base/panic.h"
#include "net/json.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/fake_call.h"
#include "tests/lib/fake_committer.h"
#include "tests/sim/world.h"

#define KEYS 1000
#define BATCH 64
#define JSON_KEYS 10
#define KEY_ROOM 64
#define VALUE_SIZE 256

static int64_t revision;

static struct ks_slice pack(const ProtobufCMessage *message)
{
	static uint8_t bytes[8192];

	KS_ASSERT(protobuf_c_message_get_packed_size(message) <= sizeof(bytes));
	return ks_slice_of(bytes, protobuf_c_message_pack(message, bytes));
}

/* The answer must be there and fine: a path that fails early, or goes another way, would look fast. */
static void call(const char *path, const ProtobufCMessage *message, size_t least, size_t most)
{
	struct fake_answer answer;

	fake_unary(path, pack(message), NULL, &answer);
	KS_ASSERT(answer.ended && answer.status == KS_OK && answer.size >= least && answer.size <= most);
	fake_answer_fini(&answer);
}

static ProtobufCBinaryData key_of(int number, char key[KEY_ROOM])
{
	return (ProtobufCBinaryData){(size_t)snprintf(key, KEY_ROOM, "bench/%026d", number % KEYS), (uint8_t *)key};
}

static void put(int number)
{
	static uint8_t value[VALUE_SIZE];
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	char key[KEY_ROOM];

	request.key = key_of(number, key);
	request.value = (ProtobufCBinaryData){sizeof(value), value};
	call("/etcdserverpb.KV/Put", &request.base, 4, 64);
	revision++;
}

static void update(int number)
{
	static uint8_t value[VALUE_SIZE];
	Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares = &compare;
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RequestOp success = ETCDSERVERPB__REQUEST_OP__INIT, failure = ETCDSERVERPB__REQUEST_OP__INIT;
	Etcdserverpb__RequestOp *successes = &success, *failures = &failure;

	(void)number;
	compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
	compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
	compare.mod_revision = revision;
	compare.key = request.key = range.key = (ProtobufCBinaryData){10, (uint8_t *)(uintptr_t) "/registry/"};
	request.value = (ProtobufCBinaryData){sizeof(value), value};
	success.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	success.request_put = &request;
	failure.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	failure.request_range = &range;
	txn.n_compare = txn.n_success = txn.n_failure = 1;
	txn.compare = &compares;
	txn.success = &successes;
	txn.failure = &failures;
	call("/etcdserverpb.KV/Txn", &txn.base, 8, 64);
	revision++;
}

/* The first one makes the key. */
static void open_update(void)
{
	int64_t newest = revision;

	revision = 0;
	update(0);
	revision = newest + 2; /* the store begins at 1 */
}

static void get(int number)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	char key[KEY_ROOM];

	request.key = key_of(number, key);
	call("/etcdserverpb.KV/Range", &request.base, VALUE_SIZE, 2 * VALUE_SIZE);
}

static void range(int number)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;

	(void)number;
	request.key = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench/"};
	request.range_end = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench0"};
	request.limit = 100;
	call("/etcdserverpb.KV/Range", &request.base, (size_t)100 * VALUE_SIZE, (size_t)200 * VALUE_SIZE);
}

static struct ks_call *watch;

static void open_watch(void)
{
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	uint8_t *data;
	size_t size;

	create.key = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench/"};
	create.range_end = (ProtobufCBinaryData){6, (uint8_t *)(uintptr_t) "bench0"};
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	watch = fake_stream_open("/etcdserverpb.Watch/Watch", NULL);
	fake_stream_message(watch, pack(&request.base));
	fake_run();
	KS_ASSERT(fake_stream_next(watch, &data, &size));
	free(data);
}

static void close_watch(void)
{
	fake_stream_close(watch);
}

static void event(int number)
{
	uint8_t *data;
	size_t size;

	put(number);
	fake_run();
	KS_ASSERT(fake_stream_next(watch, &data, &size) && size > VALUE_SIZE);
	free(data);
}

/* ---- the log's writer ---- */

static struct world world;

static void open_log(void)
{
	world_init(&world, 1);
	world_start_all(&world);
}

static void close_log(void)
{
	world_fini(&world);
}

static void batch(int number)
{
	static struct world_call calls[BATCH];

	for (int i = 0; i < BATCH; i++) {
		char key[KEY_ROOM];

		(void)key_of(number * BATCH + i, key);
		world_put(&world, 0, &calls[i], key, "value");
	}
	for (int i = 0; i < BATCH; i++)
		KS_ASSERT(world_finish(&world, &calls[i]) == KS_OK);
}

/* ---- the gateway ---- */

static struct ks_buf put_text; /* as a client writes it */
static struct ks_out ranged;

static void open_json(void)
{
	static uint8_t value[VALUE_SIZE];
	static Mvccpb__KeyValue kvs[JSON_KEYS];
	Mvccpb__KeyValue *all[JSON_KEYS];
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
	Etcdserverpb__RangeResponse response = ETCDSERVERPB__RANGE_RESPONSE__INIT;
	struct ks_json_writer *writer;
	struct ks_slice bytes;
	struct ks_out wire;
	char key[KEY_ROOM];

	request.key = key_of(7, key);
	request.value = (ProtobufCBinaryData){sizeof(value), value};
	bytes = pack(&request.base);
	ks_out_init(&wire, SIZE_MAX);
	ks_buf_append(&wire.buf, bytes.data, bytes.size);
	ks_buf_init(&put_text, SIZE_MAX);
	writer = ks_json_writer_new(&etcdserverpb__put_request__descriptor, &wire);
	KS_ASSERT(writer && ks_json_write(writer, &put_text, SIZE_MAX) == KS_JSON_DONE);
	ks_json_writer_free(writer);

	for (int i = 0; i < JSON_KEYS; i++) {
		mvccpb__key_value__init(&kvs[i]);
		kvs[i].key = request.key;
		kvs[i].value = request.value;
		kvs[i].create_revision = kvs[i].mod_revision = 1234567 + i;
		kvs[i].version = 1;
		all[i] = &kvs[i];
	}
	header.cluster_id = header.member_id = UINT64_MAX / 3;
	header.revision = 7654321;
	response.header = &header;
	response.n_kvs = JSON_KEYS;
	response.kvs = all;
	response.count = JSON_KEYS;
	bytes = pack(&response.base);
	ks_out_init(&ranged, SIZE_MAX);
	ks_buf_append(&ranged.buf, bytes.data, bytes.size);
}

static void close_json(void)
{
	ks_buf_fini(&put_text);
	ks_out_fini(&ranged);
}

static void json(int number)
{
	struct ks_slice text = {put_text.data, put_text.size};
	struct ks_json_writer *writer;
	struct ks_buf buf;
	struct ks_err err;

	(void)number;
	ks_buf_init(&buf, 65536);
	KS_ASSERT(ks_json_to_wire(&etcdserverpb__put_request__descriptor, text, &buf, &err) == KS_OK);
	KS_ASSERT(buf.size > VALUE_SIZE);
	ks_buf_fini(&buf);
	ks_buf_init(&buf, 65536);
	writer = ks_json_writer_borrow(&etcdserverpb__range_response__descriptor, &ranged);
	KS_ASSERT(writer && ks_json_write(writer, &buf, 65536) == KS_JSON_DONE);
	KS_ASSERT(buf.size > (size_t)JSON_KEYS * VALUE_SIZE);
	ks_json_writer_free(writer);
	ks_buf_fini(&buf);
}

/* ---- all of them ---- */

struct path {
	const char *name;
	void (*run)(int number);
	void (*open)(void); /* behind 1,000 puts */
	void (*close)(void);
};

static const struct path paths[] = {
	{"put", put, NULL, NULL},
	{"update", update, open_update, NULL},
	{"get", get, NULL, NULL},
	{"range", range, NULL, NULL},
	{"event", event, open_watch, close_watch},
	{"batch", batch, open_log, close_log},
	{"json", json, open_json, close_json},
};

static void measure(const struct path *path, int count)
{
	for (int i = 0; i < KEYS; i++)
		put(i);
	if (path->open)
		path->open();
	for (int i = 0; i < count; i++)
		path->run(i);
	if (path->close)
		path->close();
}

int main(int argc, char **argv)
{
	const struct ks_store_config store_config = {.values_kept = true};
	struct fake_committer committer;
	const struct ks_rpc_method *methods;
	struct ks_timers *timers;
	struct ks_store *store;
	struct ks_api *api;
	size_t method_count;
	int count = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0;
	const struct path *path = NULL;

	for (size_t i = 0; argc > 1 && i < sizeof(paths) / sizeof(*paths); i++)
		if (strcmp(argv[1], paths[i].name) == 0)
			path = &paths[i];
	if (!path || count < 1) {
		(void)fputs("usage: hot put|update|get|range|event|batch|json COUNT\n", stderr);
		return 2;
	}
	ks_diag_setup(KS_ERROR, KS_DIAG_TEXT);
	store = ks_store_new(&store_config, NULL);
	timers = ks_timers_start(NULL);
	KS_ASSERT(store && timers);
	fake_committer_init(&committer, store);
	api = ks_api_start(&(struct ks_api_config){.store = store,
						   .committer = &committer.base,
						   .timers = timers,
						   .max_txn_ops = KS_ETCD_MAX_TXN_OPS,
						   .max_request_bytes = KS_ETCD_MAX_REQUEST_BYTES,
						   .progress_interval_ms = 600000,
						   .min_lease_ttl_s = KS_ETCD_MIN_LEASE_TTL_S},
			   NULL);
	KS_ASSERT(api);
	methods = ks_api_methods(&method_count);
	fake_rpc_start(methods, method_count, api, NULL, NULL);
	measure(path, count);
	fake_rpc_stop();
	ks_api_stop(api);
	fake_committer_fini(&committer);
	ks_timers_stop(timers);
	ks_store_free(store);
	return 0;
}
