/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maintenance.Snapshot without a network, on a real store behind a fake committer: the stream's shape, what the file holds,
 * clients that go or stop reading, and disks without room. That etcd takes the file is shown by tests/snapshot.
 */
#include <openssl/sha.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "base/diag.h"
#include "base/panic.h"
#include "bbolt/bbolt.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/fake_call.h"
#include "tests/lib/fake_committer.h"
#include "tests/lib/tap.h"

#define PATH "/etcdserverpb.Maintenance/Snapshot"

static struct fake_committer committer;
static struct ks_timers *timers;
static struct ks_api *api;

static void start(size_t cache_bytes)
{
	struct ks_effect first = {.kind = KS_EFFECT_NOOP};
	const struct ks_entry entry = {.position = 1, .revision = 1, .effects = &first, .effect_count = 1};
	const struct ks_store_config config = {
		.value_cache_bytes = cache_bytes ? cache_bytes : 1u << 30,
		.fetch = fake_committer_find,
		.fetch_ctx = &committer,
	};
	const struct ks_rpc_method *methods;
	struct ks_err err;
	size_t count;

	fake_committer_init(&committer, NULL);
	committer.store = ks_store_new(&config, &err);
	CU_ASSERT_FATAL(committer.store != NULL);
	CU_ASSERT_EQUAL_FATAL(ks_store_apply(committer.store, &entry, &err), KS_OK);
	ks_store_publish(committer.store);
	api = ks_api_start(&(struct ks_api_config){.store = committer.store,
						   .committer = &committer.base,
						   .timers = timers,
						   .max_txn_ops = 128,
						   .max_request_bytes = 1u << 21,
						   .progress_interval_ms = 600000},
			   &err);
	CU_ASSERT_FATAL(api != NULL);
	methods = ks_api_methods(&count);
	fake_rpc_start(methods, count, api, NULL, NULL);
}

static void stop(void)
{
	fake_rpc_stop();
	ks_api_stop(api);
	ks_store_free(committer.store);
	fake_committer_fini(&committer);
}

static void nothing_more(struct ks_submit *submit)
{
	CU_ASSERT_EQUAL(submit->err.status, KS_OK);
	ks_result_fini(&submit->result);
}

static void submit(struct ks_request request)
{
	struct ks_submit submit = {.request = request, .done = nothing_more};

	committer.base.ops->submit(&committer.base, &submit);
}

static void put(const char *key, struct ks_slice value, int64_t lease)
{
	submit((struct ks_request){
		.kind = KS_REQ_PUT,
		.caller.internal = true,
		.put = {.key = ks_slice_str(key), .value = value, .lease = lease},
	});
}

static void pause_shortly(void)
{
	const struct timespec millisecond = {.tv_nsec = 1000000};

	(void)nanosleep(&millisecond, NULL);
}

/* ---- a client ---- */

struct client {
	struct ks_call *call;
	struct fake_answer answer;
	int fd; /* what it received, the checksum too */
	uint64_t received, messages;
};

static void client_open(struct client *client)
{
	*client = (struct client){.fd = memfd_create("snapshot", MFD_CLOEXEC)};
	CU_ASSERT_FATAL(client->fd >= 0);
	client->call = fake_stream_open(PATH, NULL);
	fake_stream_message(client->call, ks_slice_of("", 0));
	fake_stream_half_close(client->call);
}

/* Takes one message; false when the stream has ended. Waits for either. */
static bool client_read(struct client *client)
{
	Etcdserverpb__SnapshotResponse *response;
	uint8_t *data;
	size_t size;

	for (;;) {
		fake_run();
		if (fake_stream_next(client->call, &data, &size))
			break;
		if (fake_stream_finished(client->call, &client->answer))
			return false;
		pause_shortly();
	}
	response = etcdserverpb__snapshot_response__unpack(NULL, size, data);
	free(data);
	CU_ASSERT_FATAL(response != NULL);
	CU_ASSERT(response->header == NULL);
	CU_ASSERT(response->blob.len > 0 && response->blob.len <= 32768);
	CU_ASSERT_STRING_EQUAL(response->version, "3.6.0");
	CU_ASSERT_FATAL(write(client->fd, response->blob.data, response->blob.len) == (ssize_t)response->blob.len);
	client->received += response->blob.len;
	client->messages++;
	etcdserverpb__snapshot_response__free_unpacked(response, NULL);
	return true;
}

static void client_close(struct client *client)
{
	fake_stream_close(client->call);
	(void)close(client->fd);
}

/* Reads all of it, and checks it against its checksum; the size of the database. */
static uint64_t client_read_all(struct client *client)
{
	uint8_t sum[SHA256_DIGEST_LENGTH];
	uint64_t size;
	uint8_t *bytes;

	while (client_read(client))
		;
	CU_ASSERT_EQUAL(client->answer.status, KS_OK);
	CU_ASSERT_FATAL(client->received > sizeof(sum));
	CU_ASSERT_EQUAL(client->received % 512, 32);
	size = client->received - sizeof(sum);
	CU_ASSERT_EQUAL(client->messages, (size + 32767) / 32768 + 1);
	bytes = mmap(NULL, client->received, PROT_READ, MAP_SHARED, client->fd, 0);
	CU_ASSERT_FATAL(bytes != MAP_FAILED);
	(void)SHA256(bytes, size, sum);
	CU_ASSERT_EQUAL(memcmp(sum, bytes + size, sizeof(sum)), 0);
	(void)munmap(bytes, client->received);
	return size;
}

/* ---- what is in the file ---- */

static const char *const all_buckets[] = {"alarm", "auth",  "authRoles", "authUsers",       "cluster",
					  "key",   "lease", "members",   "members_removed", "meta"};

static size_t count_keys(const struct ks_bbolt *db, const char *bucket)
{
	struct ks_bbolt_cursor *cursor;
	struct ks_slice key, value;
	struct ks_err err = {0};
	size_t count = 0;
	bool more = true;

	CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_open(db, ks_slice_str(bucket), &cursor, &err), KS_OK);
	while (ks_bbolt_cursor_next(cursor, &key, &value, &more, &err) == KS_OK && more)
		count++;
	CU_ASSERT_EQUAL(err.status, KS_OK);
	ks_bbolt_cursor_close(cursor);
	return count;
}

static void check_buckets(const struct ks_bbolt *db)
{
	struct ks_bbolt_cursor *cursor;
	struct ks_slice name, value;
	struct ks_err err = {0};
	bool more;

	CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_open(db, ks_slice_of(NULL, 0), &cursor, &err), KS_OK);
	for (size_t i = 0; i < sizeof(all_buckets) / sizeof(*all_buckets); i++) {
		CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_next(cursor, &name, &value, &more, &err), KS_OK);
		CU_ASSERT_FATAL(more);
		CU_ASSERT(ks_slice_eq(name, ks_slice_str(all_buckets[i])));
	}
	CU_ASSERT_EQUAL(ks_bbolt_cursor_next(cursor, &name, &value, &more, &err), KS_OK);
	CU_ASSERT_FALSE(more);
	ks_bbolt_cursor_close(cursor);
}

static struct ks_bbolt *open_file(const struct client *client, uint64_t size)
{
	struct ks_bbolt *db;
	struct ks_err err = {0};

	CU_ASSERT_EQUAL_FATAL(ks_bbolt_open(client->fd, size, &db, &err), KS_OK);
	return db;
}

/* ---- tests ---- */

static void a_new_store_gives_a_database(void)
{
	struct client client;
	struct ks_bbolt *db;

	start(0);
	client_open(&client);
	db = open_file(&client, client_read_all(&client));
	check_buckets(db);
	CU_ASSERT_EQUAL(count_keys(db, "key"), 0);
	CU_ASSERT_EQUAL(count_keys(db, "auth"), 2);
	CU_ASSERT_EQUAL(count_keys(db, "members"), 1);
	CU_ASSERT_EQUAL(count_keys(db, "meta"), 4); /* nothing about compactions */
	ks_bbolt_close(db);
	client_close(&client);
	stop();
}

/* Records, deletes and leases, with values that are not in memory. */
static void file_has_what_the_store_has(void)
{
	static char value[5000];
	struct ks_bbolt_cursor *cursor;
	struct ks_slice key, bytes;
	struct ks_err err = {0};
	struct client client;
	struct ks_bbolt *db;
	bool more;

	memset(value, 'v', sizeof(value));
	start(10000);
	submit((struct ks_request){
		.kind = KS_REQ_LEASE_GRANT, .caller.internal = true, .grant = {.id = -5, .ttl = 60}});
	submit((struct ks_request){.kind = KS_REQ_LEASE_GRANT, .caller.internal = true, .grant = {.id = 7, .ttl = 60}});
	for (unsigned i = 0; i < 700; i++) {
		char name[16];

		(void)snprintf(name, sizeof(name), "k%u", i % 300);
		put(name, ks_slice_of(value, sizeof(value) - i), 7);
	}
	submit((struct ks_request){
		.kind = KS_REQ_ALARM, .caller.internal = true, .alarm = {.activate = true, .member = 300, .type = 1}});
	submit((struct ks_request){
		.kind = KS_REQ_ALARM, .caller.internal = true, .alarm = {.activate = true, .member = 2, .type = 1}});
	submit((struct ks_request){.kind = KS_REQ_DELETE,
				   .caller.internal = true,
				   .del.interval = {ks_slice_str("k10"), ks_slice_str("k11")}});
	client_open(&client);
	db = open_file(&client, client_read_all(&client));
	CU_ASSERT(committer.fetches > 0);
	CU_ASSERT_EQUAL(count_keys(db, "key"), 700 + 11);
	CU_ASSERT_EQUAL(count_keys(db, "lease"), 2);
	CU_ASSERT_EQUAL(count_keys(db, "alarm"), 2);
	CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_open(db, ks_slice_str("key"), &cursor, &err), KS_OK);
	for (unsigned i = 0; i < 711; i++) {
		struct ks_kv kv;

		CU_ASSERT_EQUAL_FATAL(ks_bbolt_cursor_next(cursor, &key, &bytes, &more, &err), KS_OK);
		CU_ASSERT_FATAL(more && ks_kv_decode(bytes, &kv));
		CU_ASSERT_EQUAL(key.size, i < 700 ? 17 : 18);
		if (i < 700) {
			CU_ASSERT(kv.value.size == sizeof(value) - i && kv.mod_revision == (int64_t)i + 2 &&
				  kv.lease == 7);
		} else {
			CU_ASSERT(kv.mod_revision == 0 && kv.key.size + 2 == bytes.size);
		}
	}
	ks_bbolt_cursor_close(cursor);
	ks_bbolt_close(db);
	client_close(&client);
	stop();
}

/* Another instance trims rows of what this one has not removed yet, because a snapshot is being taken. */
static void rows_that_were_trimmed_are_waited_for(void)
{
	static char value[5000];
	struct ks_store_copy other;
	struct client client;
	struct ks_bbolt *db;
	struct ks_err err;

	start(8000);
	for (unsigned i = 0; i < 10; i++)
		put("k", ks_slice_of(value, sizeof(value)), 0);
	put("l", ks_slice_of(value, sizeof(value)), 0);
	submit((struct ks_request){.kind = KS_REQ_COMPACT, .caller.internal = true, .compact_revision = 12});
	fake_committer_trim(&committer, 9);
	CU_ASSERT_EQUAL(ks_store_copy_begin(committer.store, &other, &err), KS_OK);
	client_open(&client);
	fake_run();
	while (atomic_load(&committer.fetches) == 0)
		pause_shortly();
	ks_store_copy_end(committer.store, &other);
	while (ks_store_compact_step(committer.store, 100, NULL, NULL))
		pause_shortly();
	db = open_file(&client, client_read_all(&client));
	CU_ASSERT_EQUAL(count_keys(db, "key"), 2);
	ks_bbolt_close(db);
	client_close(&client);
	stop();
}

static void fill(unsigned megabytes)
{
	static char value[1u << 20];
	char name[16];

	for (unsigned i = 0; i < megabytes; i++) {
		(void)snprintf(name, sizeof(name), "m%u", i);
		put(name, ks_slice_of(value, sizeof(value)), 0);
	}
}

static void a_slow_client_fills_no_memory(void)
{
	struct client client;
	size_t bytes;

	start(0);
	fill(8);
	client_open(&client);
	CU_ASSERT(client_read(&client));
	/* Whatever comes without being taken: a queue and a ring, never the whole file. */
	for (unsigned i = 0; i < 100; i++) {
		fake_run();
		pause_shortly();
		CU_ASSERT(ks_stream_queued(client.call, &bytes) <= 33 && bytes <= 1100000);
	}
	CU_ASSERT(client_read_all(&client) > 8u << 20);
	client_close(&client);
	stop();
}

static void clients_that_go_leave_nothing_behind(void)
{
	struct client clients[4];

	start(0);
	fill(4);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < 4; i++) {
			client_open(&clients[i]);
			for (unsigned reads = 0; reads < round * i; reads++)
				CU_ASSERT(client_read(&clients[i]));
		}
		for (unsigned i = 0; i < 4; i++)
			client_close(&clients[i]);
		/* The threads notice soon, and then there is room for others. */
		for (unsigned tries = 0; tries < 10000; tries++) {
			client_open(&clients[0]);
			if (client_read(&clients[0]))
				break;
			CU_ASSERT_EQUAL(clients[0].answer.status, KS_RESOURCE_EXHAUSTED);
			client_close(&clients[0]);
			pause_shortly();
		}
		CU_ASSERT(client_read_all(&clients[0]) > 4u << 20);
		client_close(&clients[0]);
	}
	CU_ASSERT_FALSE(ks_store_copying(committer.store));
	stop();
}

static void only_so_many_at_a_time(void)
{
	struct client clients[5];

	start(0);
	fill(4); /* more than fits into the rings: none of them can end */
	for (unsigned i = 0; i < 4; i++) {
		client_open(&clients[i]);
		CU_ASSERT(client_read(&clients[i]));
	}
	client_open(&clients[4]);
	CU_ASSERT_FALSE(client_read(&clients[4]));
	CU_ASSERT_EQUAL(clients[4].answer.status, KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_STRING_EQUAL(clients[4].answer.text, "etcdserver: too many snapshots at the same time");
	for (unsigned i = 0; i < 5; i++) {
		if (i < 4)
			(void)client_read_all(&clients[i]);
		client_close(&clients[i]);
	}
	stop();
}

static void without_the_database_it_is_what_is_known_here(void)
{
	struct client client;

	start(0);
	put("a", ks_slice_str("1"), 0);
	committer.away = true;
	client_open(&client);
	CU_ASSERT(client_read_all(&client) > 0);
	client_close(&client);
	stop();
}

static void a_full_disk_is_said(void)
{
	struct rlimit before, limit;
	struct client client;

	start(0);
	fill(4);
	(void)signal(SIGXFSZ, SIG_IGN);
	CU_ASSERT_FATAL(getrlimit(RLIMIT_FSIZE, &before) == 0);
	limit = (struct rlimit){.rlim_cur = 1u << 20, .rlim_max = before.rlim_max};
	CU_ASSERT_FATAL(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	client_open(&client);
	CU_ASSERT_FALSE(client_read(&client));
	CU_ASSERT_FATAL(setrlimit(RLIMIT_FSIZE, &before) == 0);
	CU_ASSERT_EQUAL(client.answer.status, KS_RESOURCE_EXHAUSTED);
	CU_ASSERT(strstr(client.answer.text, "File too large") != NULL);
	CU_ASSERT_FALSE(ks_store_copying(committer.store));
	client_close(&client);
	/* With room it works again. */
	client_open(&client);
	CU_ASSERT(client_read_all(&client) > 4u << 20);
	client_close(&client);
	stop();
}

int main(void)
{
	int status;

	ks_diag_setup(KS_ERROR, KS_DIAG_TEXT);
	timers = ks_timers_start(NULL);
	KS_ASSERT(timers);
	status = tap_run("snapshot",
			 (const struct tap_test[]){
				 {"a_new_store_gives_a_database", a_new_store_gives_a_database},
				 {"file_has_what_the_store_has", file_has_what_the_store_has},
				 {"rows_that_were_trimmed_are_waited_for", rows_that_were_trimmed_are_waited_for},
				 {"a_slow_client_fills_no_memory", a_slow_client_fills_no_memory},
				 {"clients_that_go_leave_nothing_behind", clients_that_go_leave_nothing_behind},
				 {"only_so_many_at_a_time", only_so_many_at_a_time},
				 {"without_the_database_it_is_what_is_known_here",
				  without_the_database_it_is_what_is_known_here},
				 {"a_full_disk_is_said", a_full_disk_is_said},
				 {NULL, NULL},
			 });
	ks_timers_stop(timers);
	return status;
}
