/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from a client against the whole API and store: decoding, validation, evaluation, watches, encoding. The net and the
 * database are fakes; nothing leaves the thread.
 *
 * An input is a list of calls: one byte that picks the method (its high bit: the database is away), two bytes of size (little endian), the message. A message for a
 * stream goes to the open stream of that method, or opens one; size 0xffff ends it. Promises checked on top of what sanitizers
 * see: every call gets exactly one end, every response decodes as its type, the revision moves by at most one a call (a Lock that
 * has to wait is cancelled, and undoes what it did).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/methods.h"
#include "base/diag.h"
#include "base/panic.h"
#include "proto/election.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/lock.pb-c.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/fake_call.h"
#include "tests/lib/fake_committer.h"

#define CALLS_MAX 64
#define END_OF_STREAM 0xffff

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Corpus files name methods by their place here: add at the end only. */
static const char *const paths[] = {
	"/etcdserverpb.KV/Range",
	"/etcdserverpb.KV/Put",
	"/etcdserverpb.KV/DeleteRange",
	"/etcdserverpb.KV/Txn",
	"/etcdserverpb.KV/Compact",
	"/etcdserverpb.KV/RangeStream",
	"/etcdserverpb.Watch/Watch",
	"/etcdserverpb.Lease/LeaseGrant",
	"/etcdserverpb.Lease/LeaseRevoke",
	"/etcdserverpb.Lease/LeaseKeepAlive",
	"/etcdserverpb.Lease/LeaseTimeToLive",
	"/etcdserverpb.Lease/LeaseLeases",
	"/etcdserverpb.Cluster/MemberList",
	"/etcdserverpb.Maintenance/Alarm",
	"/etcdserverpb.Maintenance/Status",
	"/etcdserverpb.Maintenance/Defragment",
	"/etcdserverpb.Maintenance/Hash",
	"/etcdserverpb.Maintenance/HashKV",
	"/etcdserverpb.Maintenance/Snapshot",
	"/etcdserverpb.Auth/Authenticate",
	"/grpc.health.v1.Health/Check",
	"/grpc.health.v1.Health/Watch",
	"/v3lockpb.Lock/Lock",
	"/v3lockpb.Lock/Unlock",
	"/v3electionpb.Election/Campaign",
	"/v3electionpb.Election/Proclaim",
	"/v3electionpb.Election/Resign",
	"/v3electionpb.Election/Leader",
	"/v3electionpb.Election/Observe",
};

#define PATH_COUNT (sizeof(paths) / sizeof(paths[0]))

struct run {
	struct fake_committer committer;
	struct ks_api *api;
	struct ks_call *streams[PATH_COUNT];
};

static const ProtobufCMessageDescriptor *response_type(const char *path)
{
#define ROW(service, method, request, response, kind, handler, routes) \
	if (strcmp(path, "/" service "/" #method) == 0)                \
		return &response##__descriptor;
	KS_API_METHODS(ROW)
#undef ROW
	return NULL;
}

static bool is_stream(const char *path, bool *single_request)
{
	size_t count;
	const struct ks_rpc_method *methods = ks_api_methods(&count);

	for (size_t i = 0; i < count; i++) {
		if (strcmp(methods[i].path, path) == 0) {
			*single_request = methods[i].single_request;
			return methods[i].stream != NULL;
		}
	}
	ks_panic(__FILE__, __LINE__, path);
}

static struct ks_timers *timers(void)
{
	static struct ks_timers *started;

	if (!started) {
		ks_diag_setup(KS_ERROR, KS_DIAG_TEXT);
		started = ks_timers_start(NULL);
		KS_ASSERT(started);
	}
	return started;
}

/* The message of the input as memory of exactly its size: a sanitizer then sees one byte too many. */
static uint8_t *exact_copy(struct ks_slice bytes)
{
	uint8_t *copy = ks_xmalloc(bytes.size);

	if (bytes.size)
		memcpy(copy, bytes.data, bytes.size);
	return copy;
}

static void check_response(const char *path, uint8_t *data, size_t size)
{
	ProtobufCMessage *message = protobuf_c_message_unpack(response_type(path), NULL, size, data);

	KS_ASSERT(message);
	protobuf_c_message_free_unpacked(message, NULL);
	free(data);
}

static void unary(struct run *run, const char *path, struct ks_slice message)
{
	int64_t before = ks_store_committed(run->committer.store).revision;
	uint8_t *copy = exact_copy(message);
	struct fake_answer answer;
	int64_t after;

	fake_unary(path, ks_slice_of(copy, message.size), NULL, &answer);
	after = ks_store_committed(run->committer.store).revision;
	if (answer.status == KS_CANCELLED)
		KS_ASSERT(after <= before + 3);
	else if (strstr(path, "/Campaign"))
		KS_ASSERT(after <= before + 2); /* a new value of an old candidate */
	else
		KS_ASSERT(after == before || (after == before + 1 && answer.status == KS_OK));
	if (answer.status == KS_OK)
		check_response(path, answer.data, answer.size);
	else
		fake_answer_fini(&answer);
	free(copy);
}

static void read_stream(struct run *run, size_t index)
{
	uint8_t *data;
	size_t size;

	fake_run();
	while (fake_stream_next(run->streams[index], &data, &size)) {
		check_response(paths[index], data, size);
		fake_run();
	}
}

static void close_stream(struct run *run, size_t index)
{
	if (!run->streams[index])
		return;
	fake_stream_half_close(run->streams[index]);
	read_stream(run, index);
	fake_stream_close(run->streams[index]);
	run->streams[index] = NULL;
}

static void stream(struct run *run, size_t index, bool single_request, struct ks_slice message)
{
	uint8_t *copy = exact_copy(message);
	struct fake_answer answer;

	if (!run->streams[index])
		run->streams[index] = fake_stream_open(paths[index], NULL);
	fake_stream_message(run->streams[index], ks_slice_of(copy, message.size));
	free(copy); /* borrowed for the call-back only */
	if ((single_request && !strstr(paths[index], "/Observe")) || fake_stream_finished(run->streams[index], &answer))
		close_stream(run, index);
}

static void step(struct run *run, size_t index, struct ks_slice message, bool end)
{
	bool single_request;

	if (end)
		close_stream(run, index);
	else if (is_stream(paths[index], &single_request))
		stream(run, index, single_request, message);
	else
		unary(run, paths[index], message);
	for (size_t i = 0; i < PATH_COUNT; i++) {
		if (run->streams[i])
			read_stream(run, i);
	}
}

static struct ks_store *new_store(void)
{
	struct ks_effect first = {.kind = KS_EFFECT_NOOP};
	const struct ks_entry entry = {.position = 1, .revision = 1, .effects = &first, .effect_count = 1};
	struct ks_store *store;
	struct ks_err err;

	store = ks_store_new(&(struct ks_store_config){.value_cache_bytes = 1 << 20, .values_kept = true}, &err);
	KS_ASSERT(store);
	/* As the log does with an empty database: before its first entry nothing counts as loaded. */
	KS_ASSERT(ks_store_apply(store, &entry, &err) == KS_OK);
	ks_store_publish(store);
	return store;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ks_rpc_method *methods;
	struct run run = {.api = NULL};
	struct ks_store *store;
	size_t method_count;
	struct ks_err err;
	size_t at = 0;

	store = new_store();
	fake_committer_init(&run.committer, store);
	run.api = ks_api_start(
		&(struct ks_api_config){
			.store = run.committer.store,
			.committer = &run.committer.base,
			.timers = timers(),
			.max_txn_ops = 16,
			.max_request_bytes = 65536,
			.progress_interval_ms = 600000,
			.bcrypt_cost = 4, /* the cheapest */
		},
		&err);
	KS_ASSERT(run.api);
	methods = ks_api_methods(&method_count);
	fake_rpc_start(methods, method_count, run.api, NULL, NULL);
	fake_rpc_set_arena_limit(1u << 20);

	for (int calls = 0; calls < CALLS_MAX && size - at >= 3; calls++) {
		size_t index = (data[at] & 0x7fu) % PATH_COUNT;
		size_t length = (size_t)data[at + 1] | (size_t)data[at + 2] << 8;
		bool end = length == END_OF_STREAM;

		at += 3;
		if (end || length > size - at)
			length = end ? 0 : size - at;
		run.committer.away = (data[at - 3] & 0x80) != 0; /* the database is away for one call */
		step(&run, index, ks_slice_of(data + at, length), end);
		run.committer.away = false;
		at += length;
	}

	for (size_t i = 0; i < PATH_COUNT; i++)
		close_stream(&run, i);
	fake_rpc_stop();
	ks_api_stop(run.api);
	fake_committer_fini(&run.committer);
	ks_store_free(store);
	return 0;
}
