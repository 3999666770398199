/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bad clients against a running server (hostile.sh starts one): each gets etcd's own error or is served within bounds, memory stays
 * bounded, and everybody else goes on. Prints TAP.
 *
 *   hostile --endpoint host:port --pid SERVER --keys N     N: keys under "million/" that hostile.sh put into the database
 */
#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/panic.h"
#include "client/etcdc.h"
#include "tests/lib/tap.h"

#define MIB (1024l * 1024)

static const char *endpoint;
static long server_pid;
static size_t key_count;
static struct etcdc *client;

static ProtobufCBinaryData bytes(const void *data, size_t size)
{
	return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)data, .len = size};
}

static ProtobufCBinaryData text(const char *data)
{
	return bytes(data, strlen(data));
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Resident bytes of the server; fails the test when it is gone. */
static long server_memory(void)
{
	char path[64], line[256];
	long kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%ld/status", server_pid);
	file = fopen(path, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, "VmRSS:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	}
	fclose(file);
	CU_ASSERT_TRUE_FATAL(kib > 0);
	return kib * 1024;
}

static int64_t put(const void *key, size_t key_size, const void *value, size_t value_size)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response = NULL;
	struct etcdc_err err = {0};
	int64_t revision = -1;

	request.key = bytes(key, key_size);
	request.value = bytes(value, value_size);
	if (etcdc_put(client, &request, &response, &err) == KS_OK)
		revision = response->header->revision;
	else
		printf("# put: %s\n", err.text);
	etcdc_free(response);
	return revision;
}

static void server_still_serves(void)
{
	CU_ASSERT_TRUE(put("alive", 5, "x", 1) > 1);
}

/* ---- a client that never reads its watch ---- */

struct reader {
	int64_t last;
	_Atomic unsigned events;
};

static void count_events(void *arg, const struct etcdc_watch_event *event)
{
	struct reader *reader = arg;

	for (size_t i = 0; i < event->event_count; i++) {
		CU_ASSERT(event->events[i]->kv->mod_revision > reader->last);
		reader->last = event->events[i]->kv->mod_revision;
		atomic_fetch_add(&reader->events, 1);
	}
}

static struct etcdc_stream *create_raw_watch_from(const char *key, int64_t revision)
{
	struct etcdc_stream *stream = etcdc_stream_open(client, &etcdc_method_watch, &(struct etcdc_stream_options){0});
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;

	create.key = text(key);
	create.start_revision = revision;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	CU_ASSERT_TRUE(etcdc_stream_send(stream, &request));
	return stream;
}

static struct etcdc_stream *create_raw_watch(const char *key)
{
	return create_raw_watch_from(key, 0);
}

/* Sanitizers take more memory and time: KS_TEST_SLOW says how many times more. */
static long slowness(void)
{
	const char *text = getenv("KS_TEST_SLOW");

	return text ? strtol(text, NULL, 10) : 1;
}

static bool await(_Atomic unsigned *counter, unsigned wanted, int64_t wait_ms)
{
	for (int64_t end = now_ms() + wait_ms; now_ms() < end && atomic_load(counter) < wanted;)
		usleep(2000);
	return atomic_load(counter) >= wanted;
}

static void client_that_never_reads_its_watch_costs_nobody_anything(void)
{
	enum { PUTS = 3000, SIZE = 100 * 1024 };
	struct reader reader = {0};
	struct etcdc *other = etcdc_open_url(endpoint, NULL);
	struct etcdc_stream *slow = create_raw_watch("slow");
	struct etcdc_watcher *fast = etcdc_watch(
		other,
		&(struct etcdc_watch_options){.key = ks_slice_str("slow"), .on_event = count_events, .arg = &reader});
	char *value = ks_xcalloc(1, SIZE);
	Etcdserverpb__WatchResponse *response;
	struct etcdc_err err;
	int64_t first = 0, last = 0;
	unsigned got = 0;
	long before, after;

	/* The first answer says that it is registered; from here on it does not read. */
	CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(slow, 10000, (void **)&response, &err), KS_OK);
	CU_ASSERT_TRUE(response->created);
	etcdc_free(response);
	usleep(200000);
	before = server_memory();
	for (int i = 0; i < PUTS; i++) {
		last = put("slow", 4, value, SIZE);
		CU_ASSERT_TRUE_FATAL(last > 0);
		if (i == 0)
			first = last;
	}
	after = server_memory();
	printf("# %d MB written, the server grew by %ld MB\n", PUTS * (SIZE / 1024) / 1024, (after - before) / MIB);
	CU_ASSERT(after - before < 100 * MIB * slowness());
	CU_ASSERT_TRUE(await(&reader.events, PUTS, 30000)); /* the other one was not held up */
	/* Now it reads: everything is there, in order, although most values have left the memory meanwhile. */
	while (got < PUTS && etcdc_stream_recv(slow, 30000, (void **)&response, &err) == KS_OK && response) {
		for (size_t i = 0; i < response->n_events; i++) {
			CU_ASSERT_EQUAL(response->events[i]->kv->mod_revision, first + got);
			CU_ASSERT_EQUAL(response->events[i]->kv->value.len, SIZE);
			got++;
		}
		etcdc_free(response);
	}
	CU_ASSERT_EQUAL(got, PUTS);
	etcdc_stream_close(slow);
	etcdc_watch_close(fast);
	etcdc_close(other);
	free(value);
	server_still_serves();
}

/* Old values, which nobody has in memory any more: each stream reads its own. */
static void many_streams_that_nobody_reads_share_what_they_may_have(void)
{
	enum { STREAMS = 400, PUTS = 1000, SIZE = 100 * 1024 };
	struct etcdc_stream *streams[STREAMS];
	Etcdserverpb__WatchResponse *response;
	char *value = ks_xcalloc(1, SIZE);
	struct etcdc_err err;
	int64_t first = 0;
	long before, after, last;

	for (int i = 0; i < PUTS; i++) {
		int64_t revision = put("old", 3, value, SIZE);

		CU_ASSERT_TRUE_FATAL(revision > 0);
		first = first ? first : revision;
	}
	before = after = server_memory();
	for (int i = 0; i < STREAMS; i++) {
		streams[i] = create_raw_watch_from("old", first + i * 7919 % (PUTS * 9 / 10));
		CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(streams[i], 10000, (void **)&response, &err), KS_OK);
		CU_ASSERT_TRUE(response->created);
		etcdc_free(response);
	}
	do {
		last = after;
		usleep(2000000);
		after = server_memory();
	} while (after > last + 10 * MIB);
	printf("# the server grew from %ld to %ld MB for %d streams\n", before / MIB, after / MIB, STREAMS);
	CU_ASSERT(after - before < 500 * MIB * slowness());
	server_still_serves();
	for (int i = 0; i < STREAMS; i++)
		etcdc_stream_close(streams[i]);
	free(value);
}

/* ---- many watchers on one stream (spec 14, case 117) ---- */

static void ten_thousand_watchers_on_one_stream_are_all_told(void)
{
	enum { WATCHERS = 10000 };
	struct etcdc_stream *stream = create_raw_watch("crowd");
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchResponse *response;
	struct etcdc_err err;
	unsigned created = 0, told = 0;
	uint8_t *seen = ks_xcalloc(1, WATCHERS);

	create.key = text("crowd");
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	for (unsigned i = 1; i < WATCHERS; i++)
		CU_ASSERT_TRUE_FATAL(etcdc_stream_send(stream, &request));
	while (created < WATCHERS && etcdc_stream_recv(stream, 20000, (void **)&response, &err) == KS_OK && response) {
		CU_ASSERT_TRUE(response->created);
		CU_ASSERT_EQUAL(response->watch_id, (int64_t)created);
		created++;
		etcdc_free(response);
	}
	CU_ASSERT_EQUAL_FATAL(created, WATCHERS);
	CU_ASSERT_TRUE(put("crowd", 5, "x", 1) > 0);
	while (told < WATCHERS && etcdc_stream_recv(stream, 20000, (void **)&response, &err) == KS_OK && response) {
		CU_ASSERT_EQUAL(response->n_events, 1);
		CU_ASSERT_FALSE(seen[response->watch_id]);
		seen[response->watch_id] = 1;
		told++;
		etcdc_free(response);
	}
	CU_ASSERT_EQUAL(told, WATCHERS);
	etcdc_stream_close(stream);
	free(seen);
}

/* ---- a range of everything ---- */

static void *range_all(void *arg)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc *own = etcdc_open_url(endpoint, NULL);
	struct etcdc_call_options options = {.timeout_ms = 300000};
	Etcdserverpb__RangeResponse *response = NULL;
	struct etcdc_err err = {0};
	size_t *got = arg;

	request.key = text("million/");
	request.range_end = text("million0");
	if (etcdc_unary(own, &etcdc_method_range, &request, &options, (void **)&response, &err) == KS_OK)
		*got = response->n_kvs == (size_t)response->count ? response->n_kvs : 0;
	else
		printf("# range: %s\n", err.text);
	etcdc_free(response);
	etcdc_close(own);
	return NULL;
}

static void ranges_of_a_million_keys_are_served_and_leave_room_for_others(void)
{
	enum { AT_ONCE = 3 };
	size_t got[AT_ONCE] = {0};
	pthread_t threads[AT_ONCE];
	long before = server_memory(), after;
	int64_t slowest = 0;

	for (unsigned i = 0; i < AT_ONCE; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, range_all, &got[i]), 0);
	for (int i = 0; i < 50; i++) {
		int64_t start = now_ms();

		CU_ASSERT_TRUE(put("meanwhile", 9, "x", 1) > 0);
		if (now_ms() - start > slowest)
			slowest = now_ms() - start;
		usleep(10000);
	}
	for (unsigned i = 0; i < AT_ONCE; i++) {
		pthread_join(threads[i], NULL);
		CU_ASSERT_EQUAL(got[i], key_count);
	}
	after = server_memory();
	printf("# %d ranges of %zu keys at once: slowest put beside them %" PRId64 " ms, the server grew by %ld MB\n",
	       AT_ONCE, key_count, slowest, (after - before) / MIB);
	CU_ASSERT(slowest < 5000);
}

/* ---- messages that are none ---- */

static void malformed_messages_are_refused(void)
{
	static const uint8_t broken[][8] = {
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x0a, 0x7f, 'x'}, {0x0b}, {0x07}};
	static const char *const paths[] = {"/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn",
					    "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Maintenance/Status"};

	for (size_t p = 0; p < sizeof(paths) / sizeof(paths[0]); p++) {
		for (size_t b = 0; b < sizeof(broken) / sizeof(broken[0]); b++) {
			struct etcdc_err err = {0};
			uint8_t *response = NULL;
			size_t size;

			CU_ASSERT_EQUAL(etcdc_unary_raw(client, paths[p], ks_slice_of(broken[b], sizeof(broken[b])),
							NULL, &response, &size, &err),
					KS_INTERNAL);
			free(response);
		}
	}
	server_still_serves();
}

static void unknown_methods_and_services_are_unimplemented(void)
{
	struct etcdc_err err = {0};
	uint8_t *response = NULL;
	size_t size;

	CU_ASSERT_EQUAL(
		etcdc_unary_raw(client, "/etcdserverpb.KV/Nope", ks_slice_of("", 0), NULL, &response, &size, &err),
		KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown method Nope for service etcdserverpb.KV");
	CU_ASSERT_EQUAL(etcdc_unary_raw(client, "/no.Such/Thing", ks_slice_of("", 0), NULL, &response, &size, &err),
			KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown service no.Such");
}

static void oversize_requests_get_etcds_errors(void)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response = NULL;
	char *value = ks_xcalloc(1, 4 * MIB);
	struct etcdc_err err = {0};

	request.key = text("big");
	request.value = bytes(value, 1624 * 1024);
	CU_ASSERT_EQUAL(etcdc_put(client, &request, &response, &err), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: request is too large");
	request.value = bytes(value, 4 * MIB);
	CU_ASSERT_EQUAL(etcdc_put(client, &request, &response, &err), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "grpc: received message larger than max (4194314 vs. 2097152)"));
	request.value = bytes(value, 1500000);
	CU_ASSERT_EQUAL(etcdc_put(client, &request, &response, &err), KS_OK);
	etcdc_free(response);
	free(value);
}

/* A transaction in a transaction in a … costs no stack, and is refused as etcd refuses it or as malformed. */
static void transactions_nested_without_end_are_refused(void)
{
	enum { DEPTH = 20000 };
	struct etcdc_err err = {0};
	struct ks_buf inner, outer;
	uint8_t *response = NULL;
	size_t size;

	ks_buf_init(&inner, SIZE_MAX);
	for (int i = 0; i < DEPTH; i++) {
		size_t op = ks_wire_nested_size(4, inner.size);

		ks_buf_init(&outer, SIZE_MAX);
		ks_wire_nested(&outer, 2, op);         /* TxnRequest.success */
		ks_wire_nested(&outer, 4, inner.size); /* RequestOp.request_txn */
		ks_buf_append(&outer, inner.data, inner.size);
		ks_buf_fini(&inner);
		inner = outer;
	}
	CU_ASSERT_NOT_EQUAL(etcdc_unary_raw(client, "/etcdserverpb.KV/Txn", ks_slice_of(inner.data, inner.size), NULL,
					    &response, &size, &err),
			    KS_OK);
	printf("# %s\n", err.text);
	ks_buf_fini(&inner);
	free(response);
	server_still_serves();
}

static void keys_of_any_bytes_come_back_as_they_went(void)
{
	static const struct {
		char key[4];
		size_t size;
	} keys[] = {{"\0", 1}, {"\0\0", 2}, {"\xff\xff", 2}, {"a\0b", 3}, {"\xc3\x28", 2}, {"'\";", 3}, {"%_ ", 3}};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
		Etcdserverpb__RangeResponse *response = NULL;

		CU_ASSERT_TRUE(put(keys[i].key, keys[i].size, keys[i].key, keys[i].size) > 0);
		request.key = bytes(keys[i].key, keys[i].size);
		CU_ASSERT_EQUAL_FATAL(etcdc_range(client, &request, &response, NULL), KS_OK);
		CU_ASSERT_EQUAL_FATAL(response->n_kvs, 1);
		CU_ASSERT_EQUAL(response->kvs[0]->key.len, keys[i].size);
		CU_ASSERT_EQUAL(memcmp(response->kvs[0]->key.data, keys[i].key, keys[i].size), 0);
		CU_ASSERT_EQUAL(memcmp(response->kvs[0]->value.data, keys[i].key, keys[i].size), 0);
		etcdc_free(response);
	}
}

/* ---- connections that say nothing ---- */

static int connect_raw(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	const char *colon = strrchr(endpoint, ':');
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void half_open_connections_do_not_keep_others_out(void)
{
	enum { COUNT = 900 };
	static int fds[COUNT];
	struct etcdc *fresh;
	Etcdserverpb__StatusRequest request = ETCDSERVERPB__STATUS_REQUEST__INIT;
	Etcdserverpb__StatusResponse *response = NULL;

	for (int i = 0; i < COUNT; i++) {
		fds[i] = connect_raw();
		if (fds[i] >= 0 && i % 3 == 1) /* some begin and do not go on */
			CU_ASSERT_EQUAL(send(fds[i], "PRI * HT", 8, MSG_NOSIGNAL), 8);
		if (fds[i] >= 0 && i % 3 == 2)
			CU_ASSERT_EQUAL(send(fds[i], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, MSG_NOSIGNAL), 24);
	}
	fresh = etcdc_open_url(endpoint, NULL);
	CU_ASSERT_EQUAL(etcdc_status(fresh, &request, &response, NULL), KS_OK);
	etcdc_free(response);
	etcdc_close(fresh);
	for (int i = 0; i < COUNT; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	server_still_serves();
}

int main(int argc, char **argv)
{
	static const struct tap_test tests[] = {
		{"malformed_messages_are_refused", malformed_messages_are_refused},
		{"unknown_methods_and_services_are_unimplemented", unknown_methods_and_services_are_unimplemented},
		{"oversize_requests_get_etcds_errors", oversize_requests_get_etcds_errors},
		{"transactions_nested_without_end_are_refused", transactions_nested_without_end_are_refused},
		{"keys_of_any_bytes_come_back_as_they_went", keys_of_any_bytes_come_back_as_they_went},
		{"half_open_connections_do_not_keep_others_out", half_open_connections_do_not_keep_others_out},
		{"ten_thousand_watchers_on_one_stream_are_all_told", ten_thousand_watchers_on_one_stream_are_all_told},
		{"client_that_never_reads_its_watch_costs_nobody_anything",
		 client_that_never_reads_its_watch_costs_nobody_anything},
		{"many_streams_that_nobody_reads_share_what_they_may_have",
		 many_streams_that_nobody_reads_share_what_they_may_have},
		{"ranges_of_a_million_keys_are_served_and_leave_room_for_others",
		 ranges_of_a_million_keys_are_served_and_leave_room_for_others},
		{NULL, NULL},
	};
	struct etcdc_config config = {.endpoints = &endpoint, .endpoint_count = 1, .timeout_ms = 30000};
	int status;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--endpoint") == 0)
			endpoint = argv[i + 1];
		else if (strcmp(argv[i], "--pid") == 0)
			server_pid = strtol(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--keys") == 0)
			key_count = strtoul(argv[i + 1], NULL, 10);
	}
	if (!endpoint || !server_pid) {
		fprintf(stderr, "usage: hostile --endpoint host:port --pid SERVER [--keys N]\n");
		return 2;
	}
	client = etcdc_open(&config, NULL);
	status = tap_run("hostile", tests);
	etcdc_close(client);
	return status;
}
