/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mirror's client side against a real etcd that is killed, frozen, emptied and set back. Runs itself under tests/lib/with-etcd when
 * there is no server in the environment yet.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "mirror/upstream.h"
#include "tests/lib/tap.h"

#define WAIT_MS 20000

static const char *endpoint;
static struct etcdc *writer; /* the test's own client */
static struct {
	struct dpa_replica *replica;
	struct dpa_board *board;
	struct etcdc *client;
	struct dpa_upstream *upstream;
	int64_t verify_ms, idle_ms, page_keys;
	bool accept_empty;
} agent;

/* ---- the server ---- */

static void shell(const char *line)
{
	/* NOLINTNEXTLINE: the command line is ours */
	CU_ASSERT_EQUAL_FATAL(system(line), 0);
}

static void servers(const char *command)
{
	char line[512];

	(void)snprintf(line, sizeof(line), "\"%s\" %s \"%s\"", getenv("KS_TEST_SERVERS"), command,
		       getenv("KS_TEST_ETCD_DIR"));
	shell(line);
}

/* With the server's folder as $1. */
static void in_folder(const char *script)
{
	char line[512];

	(void)snprintf(line, sizeof(line), "set -- \"%s\"; %s", getenv("KS_TEST_ETCD_DIR"), script);
	shell(line);
}

/* A client may take a second to find a server again. */
static void reopen_writer(void)
{
	struct etcdc_err err;

	etcdc_close(writer);
	writer = etcdc_open_url(endpoint, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(writer);
}

static void start_server(void)
{
	servers("etcd_start");
	reopen_writer();
}

static void empty_server(void)
{
	servers("etcd_kill");
	in_folder("rm -rf \"$1/data\"");
	start_server();
}

/* ---- what the test writes ---- */

static ProtobufCBinaryData bin(const char *text)
{
	return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static int64_t put(const char *key, const char *value)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response;
	int64_t revision;

	request.key = bin(key);
	request.value = bin(value);
	CU_ASSERT_EQUAL_FATAL(etcdc_put(writer, &request, &response, NULL), KS_OK);
	revision = response->header->revision;
	etcdc_free(response);
	return revision;
}

static int64_t erase(const char *key, const char *end)
{
	Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	Etcdserverpb__DeleteRangeResponse *response;
	int64_t revision;

	request.key = bin(key);
	if (end)
		request.range_end = bin(end);
	CU_ASSERT_EQUAL_FATAL(etcdc_delete_range(writer, &request, &response, NULL), KS_OK);
	revision = response->header->revision;
	etcdc_free(response);
	return revision;
}

static void compact(int64_t revision)
{
	Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	Etcdserverpb__CompactionResponse *response;

	request.revision = revision;
	request.physical = true;
	CU_ASSERT_EQUAL_FATAL(etcdc_compact(writer, &request, &response, NULL), KS_OK);
	etcdc_free(response);
}

/* Keys [first, first + count) in transactions of 100. */
static int64_t put_many(int first, int count, const char *value)
{
	int64_t revision = 0;

	for (int done = 0; done < count; done += 100) {
		Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
		Etcdserverpb__TxnResponse *response;
		Etcdserverpb__RequestOp ops[100], *pointers[100];
		Etcdserverpb__PutRequest puts[100];
		char keys[100][32];
		int n = count - done < 100 ? count - done : 100;

		for (int i = 0; i < n; i++) {
			etcdserverpb__request_op__init(&ops[i]);
			etcdserverpb__put_request__init(&puts[i]);
			(void)snprintf(keys[i], sizeof(keys[i]), "/apisix/many/%06d", first + done + i);
			puts[i].key = bin(keys[i]);
			puts[i].value = bin(value);
			ops[i].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
			ops[i].request_put = &puts[i];
			pointers[i] = &ops[i];
		}
		request.n_success = (size_t)n;
		request.success = pointers;
		CU_ASSERT_EQUAL_FATAL(etcdc_txn(writer, &request, &response, NULL), KS_OK);
		revision = response->header->revision;
		etcdc_free(response);
	}
	return revision;
}

/* ---- the mirror ---- */

static void start_upstream(void)
{
	struct dpa_upstream_config config = {
		.client = agent.client,
		.replica = agent.replica,
		.board = agent.board,
		.accept_empty = agent.accept_empty,
		.verify_interval_ms = agent.verify_ms,
		.idle_ms = agent.idle_ms,
		.page_keys = agent.page_keys,
	};
	struct ks_err err;

	agent.upstream = dpa_upstream_start(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.upstream);
}

static void stop_upstream(void)
{
	dpa_upstream_stop(agent.upstream);
	agent.upstream = NULL;
}

static void start_agent(void)
{
	const struct dpa_replica_config config = {.prefix = "/apisix"};
	const char *const endpoints[] = {endpoint};
	const struct etcdc_config client = {.endpoints = endpoints, .endpoint_count = 1, .keepalive_ms = 5000};
	struct ks_err err;

	agent.board = dpa_board_new();
	agent.replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.replica);
	agent.client = etcdc_open(&client, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.client);
	start_upstream();
	CU_ASSERT_TRUE_FATAL(dpa_upstream_wait(agent.upstream, WAIT_MS));
}

static void stop_agent(void)
{
	stop_upstream();
	etcdc_close(agent.client);
	dpa_replica_free(agent.replica);
	dpa_board_free(agent.board);
	memset(&agent, 0, sizeof(agent));
}

static struct dpa_point point(void)
{
	struct dpa_point now;

	dpa_replica_point(agent.replica, &now);
	ks_bytes_unref(now.witness);
	now.witness = NULL;
	return now;
}

static struct dpa_status board(void)
{
	struct dpa_status status;

	dpa_board_read(agent.board, &status);
	return status;
}

static bool await(bool (*condition)(int64_t argument), int64_t argument)
{
	int64_t until = ks_clock_now(ks_clock_system()) + WAIT_MS;

	while (!condition(argument)) {
		if (ks_clock_now(ks_clock_system()) > until)
			return false;
		(void)usleep(5000);
	}
	return true;
}

static bool reached(int64_t revision)
{
	return point().up_revision >= revision;
}

static bool is_connected(int64_t yes)
{
	return board().connected == (yes != 0);
}

static bool is_held(int64_t yes)
{
	return board().alarms[DPA_ALARM_HELD].on == (yes != 0);
}

static bool has_resynced(int64_t times)
{
	return board().resyncs >= (uint64_t)times;
}

static bool has_repaired(int64_t differences)
{
	return board().repairs >= (uint64_t)differences;
}

/* What the mirror serves of the key: its numbers; 0 when it is not there. */
static struct ks_kv served(const char *key)
{
	const struct ks_range_req request = {.interval.key = ks_slice_str(key)};
	struct ks_range_result result;
	struct ks_kv kv = {0};
	struct ks_err err;
	int64_t revision;

	CU_ASSERT_EQUAL_FATAL(ks_store_range(dpa_replica_store(agent.replica), &request, &result, &revision, &err),
			      KS_OK);
	if (result.kv_count == 1)
		CU_ASSERT_TRUE(ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv));
	ks_range_result_fini(&result);
	kv.key = kv.value = (struct ks_slice){0};
	return kv;
}

static bool equal_kv(const Mvccpb__KeyValue *theirs, struct ks_slice encoded, bool numbers)
{
	struct ks_kv ours;

	return ks_kv_decode(encoded, &ours) && ks_slice_eq(ours.key, ks_slice_of(theirs->key.data, theirs->key.len)) &&
	       ks_slice_eq(ours.value, ks_slice_of(theirs->value.data, theirs->value.len)) && ours.lease == 0 &&
	       (!numbers || (ours.mod_revision == theirs->mod_revision && ours.version == theirs->version &&
			     ours.create_revision == theirs->create_revision));
}

/* Key by key what etcd has; 'numbers': with its revisions and versions, too. */
static void assert_equal(bool numbers)
{
	const struct ks_range_req ask = {.interval = {ks_slice_str("/apisix"), ks_slice_str("/apisiy")}};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	struct ks_range_result result;
	struct ks_err err;
	int64_t revision;
	size_t wrong = 0;

	request.key = bin("/apisix");
	request.range_end = bin("/apisiy");
	CU_ASSERT_EQUAL_FATAL(etcdc_range(writer, &request, &response, NULL), KS_OK);
	CU_ASSERT_EQUAL_FATAL(ks_store_range(dpa_replica_store(agent.replica), &ask, &result, &revision, &err), KS_OK);
	CU_ASSERT_EQUAL(response->n_kvs, result.kv_count);
	for (size_t i = 0; i < response->n_kvs && i < result.kv_count; i++)
		wrong += !equal_kv(response->kvs[i], ks_bytes_slice(result.kvs[i].encoded), numbers);
	CU_ASSERT_EQUAL(wrong, 0);
	ks_range_result_fini(&result);
	etcdc_free(response);
}

static void clean(void)
{
	(void)erase("/", "0");
}

/* ---- tests ---- */

static void first_load_is_upstreams_to_the_byte(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/routes/", "init_dir");
	(void)put("/apisix/routes/1", "a");
	(void)put("/apisix/routes/1", "b");
	(void)put("/other/1", "not ours");
	(void)put("/apisix", "the prefix itself");
	revision = put_many(0, 2500, "some value");
	agent.page_keys = 700;
	start_agent();
	CU_ASSERT_EQUAL(point().up_revision, revision);
	CU_ASSERT_EQUAL(point().revision, revision);
	CU_ASSERT_EQUAL(point().keys, 2503);
	assert_equal(true);
	CU_ASSERT_EQUAL(served("/other/1").mod_revision, 0);
	CU_ASSERT_EQUAL(board().source, DPA_SOURCE_UPSTREAM);
	CU_ASSERT_TRUE(await(is_connected, 1));
	stop_agent();
}

static void large_values_are_listed_page_by_page(void)
{
	char *value = malloc(1000001);

	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	memset(value, 'x', 1000000);
	value[1000000] = '\0';
	clean();
	for (int i = 0; i < 20; i++) {
		char key[32];

		(void)snprintf(key, sizeof(key), "/apisix/large/%d", i);
		(void)put(key, value);
	}
	(void)put_many(0, 500, "small");
	start_agent();
	assert_equal(true);
	stop_agent();
	free(value);
	clean();
}

static void events_follow_with_upstreams_numbers(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	start_agent();
	(void)put("/apisix/a", "2");
	(void)put("/apisix/b", "1");
	(void)erase("/apisix/a", NULL);
	(void)put("/apisix/a", "3");
	(void)put_many(0, 150, "x");
	revision = erase("/apisix/many/000010", "/apisix/many/000020");
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(true);
	CU_ASSERT_EQUAL(point().revision, revision);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
}

static void ten_thousand_changes_at_once_arrive(void)
{
	int64_t revision;

	clean();
	(void)put_many(0, 10000, "before");
	start_agent();
	revision = put_many(0, 10000, "after");
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(true);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	clean();
}

/* Progress without keys of ours moves the local revision, too. */
static void progress_moves_the_revision(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	agent.idle_ms = 300;
	start_agent();
	revision = put("/other/1", "x");
	CU_ASSERT_TRUE(await(reached, revision));
	CU_ASSERT_EQUAL(point().revision, revision);
	CU_ASSERT_TRUE(dpa_wall_ms() - point().confirmed_ms < 5000);
	stop_agent();
}

static void short_absence_is_caught_up_without_a_listing(void)
{
	int64_t revision;

	clean();
	(void)put_many(0, 300, "x");
	start_agent();
	stop_upstream();
	(void)put("/apisix/a", "1");
	(void)erase("/apisix/many/000001", NULL);
	revision = put("/apisix/a", "2");
	start_upstream();
	CU_ASSERT_TRUE(dpa_upstream_wait(agent.upstream, WAIT_MS));
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(true);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	/* And nothing has changed at all, though others wrote. */
	stop_upstream();
	revision = put("/other/a", "1");
	start_upstream();
	CU_ASSERT_TRUE(dpa_upstream_wait(agent.upstream, WAIT_MS));
	CU_ASSERT_EQUAL(point().up_revision, revision);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
}

static void compaction_while_away_is_the_same_history(void)
{
	struct ks_kv same;
	int64_t revision;

	clean();
	(void)put_many(0, 300, "x");
	(void)put("/apisix/witness", "1");
	start_agent();
	same = served("/apisix/many/000002");
	stop_upstream();
	(void)put("/apisix/a", "1");
	(void)erase("/apisix/many/000001", NULL);
	revision = put("/apisix/witness", "2");
	compact(revision);
	start_upstream();
	CU_ASSERT_TRUE(dpa_upstream_wait(agent.upstream, WAIT_MS));
	assert_equal(true);
	CU_ASSERT_EQUAL(board().resyncs, 2);
	CU_ASSERT_EQUAL(point().revision, revision);
	CU_ASSERT_EQUAL(served("/apisix/many/000002").mod_revision, same.mod_revision);
	stop_agent();
}

static void restarted_server_is_followed_on(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	start_agent();
	CU_ASSERT_TRUE(await(is_connected, 1));
	servers("etcd_kill");
	CU_ASSERT_TRUE(await(is_connected, 0));
	CU_ASSERT_TRUE(board().upstream_error[0] != '\0');
	CU_ASSERT_EQUAL(board().source, DPA_SOURCE_UPSTREAM);
	start_server();
	revision = put("/apisix/a", "2");
	CU_ASSERT_TRUE(await(reached, revision));
	CU_ASSERT_TRUE(await(is_connected, 1));
	assert_equal(true);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	CU_ASSERT_TRUE(board().reconnects >= 1);
	stop_agent();
}

static void frozen_server_is_noticed(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	agent.idle_ms = 300;
	start_agent();
	CU_ASSERT_TRUE(await(is_connected, 1));
	in_folder("kill -STOP $(cat \"$1/pid\")");
	CU_ASSERT_TRUE(await(is_connected, 0));
	in_folder("kill -CONT $(cat \"$1/pid\")");
	CU_ASSERT_TRUE(await(is_connected, 1));
	revision = put("/apisix/a", "2");
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(true);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
}

static void empty_upstream_wipes_nothing(void)
{
	struct dpa_point before;
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	(void)put("/apisix/b", "1");
	start_agent();
	before = point();
	empty_server();
	CU_ASSERT_TRUE(await(is_held, 1));
	CU_ASSERT_TRUE(await(is_connected, 1));
	(void)put("/apisix/routes/", "init_dir");
	(void)usleep(500000);
	CU_ASSERT_TRUE(is_held(1));
	CU_ASSERT_EQUAL(point().keys, 2);
	CU_ASSERT_EQUAL(point().revision, before.revision);
	/* Somebody fills it. */
	(void)put("/apisix/a", "1");
	revision = put("/apisix/c", "1");
	CU_ASSERT_TRUE(await(is_held, 0));
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(false);
	CU_ASSERT_EQUAL(point().revision, before.revision + 1);
	CU_ASSERT_EQUAL(served("/apisix/a").mod_revision, before.revision - 1);
	CU_ASSERT_EQUAL(served("/apisix/b").mod_revision, 0);
	CU_ASSERT_EQUAL(served("/apisix/c").mod_revision, before.revision + 1);
	/* And events go on, counted from there. */
	(void)put("/apisix/c", "2");
	revision = put("/apisix/d", "1");
	CU_ASSERT_TRUE(await(reached, revision));
	assert_equal(false);
	CU_ASSERT_EQUAL(served("/apisix/d").mod_revision, before.revision + 3);
	stop_agent();
}

static void empty_upstream_counts_when_told_so(void)
{
	int64_t before;

	clean();
	(void)put("/apisix/a", "1");
	agent.accept_empty = true;
	start_agent();
	before = point().revision;
	empty_server();
	CU_ASSERT_TRUE(await(has_resynced, 2));
	CU_ASSERT_EQUAL(point().keys, 0);
	CU_ASSERT_EQUAL(point().revision, before + 1);
	CU_ASSERT_FALSE(is_held(1));
	stop_agent();
}

/* Set back to the past, and written to since, so that its revision is even higher. */
static void set_back(int more)
{
	int64_t before;

	clean();
	(void)put("/apisix/a", "1");
	(void)put("/apisix/gone", "1");
	servers("etcd_stop");
	in_folder("rm -rf \"$1/old\"; cp -a \"$1/data\" \"$1/old\"");
	start_server();
	start_agent();
	(void)put("/apisix/a", "2");
	(void)put("/apisix/late", "1");
	before = put("/apisix/late", "2");
	CU_ASSERT_TRUE(await(reached, before));
	before = point().revision;
	servers("etcd_stop");
	in_folder("rm -rf \"$1/data\"; mv \"$1/old\" \"$1/data\"");
	start_server();
	for (int i = 0; i < more; i++)
		(void)put("/apisix/new", "1");
	CU_ASSERT_TRUE(await(has_resynced, 2));
	CU_ASSERT_TRUE(await(is_connected, 1));
	(void)put("/apisix/end", "1");
	CU_ASSERT_TRUE(await(reached, put("/apisix/end", "2")));
	assert_equal(false);
	CU_ASSERT_TRUE(point().revision > before);
	CU_ASSERT_TRUE(served("/apisix/a").mod_revision > before);
	CU_ASSERT_EQUAL(served("/apisix/late").mod_revision, 0);
	CU_ASSERT_TRUE(served("/apisix/gone").mod_revision < before);
	stop_agent();
}

static void upstream_set_back_never_takes_the_revision_back(void)
{
	set_back(0);
}

static void upstream_set_back_and_overtaken_is_recognised(void)
{
	set_back(20);
}

static void another_upstream_with_the_same_keys_changes_nothing(void)
{
	struct dpa_point before;

	clean();
	(void)put_many(0, 200, "x");
	start_agent();
	before = point();
	stop_upstream();
	empty_server();
	(void)put_many(0, 200, "x");
	start_upstream();
	CU_ASSERT_TRUE(dpa_upstream_wait(agent.upstream, WAIT_MS));
	CU_ASSERT_EQUAL(board().resyncs, 2);
	CU_ASSERT_TRUE(served("/apisix/many/000007").mod_revision <= before.revision);
	assert_equal(false);
	stop_agent();
}

/* What a bug or a bit flip would do is done by hand. */
static void verification_repairs(void)
{
	int64_t revision;

	clean();
	(void)put("/apisix/a", "1");
	(void)put("/apisix/b", "1");
	agent.verify_ms = 500;
	start_agent();
	CU_ASSERT_TRUE(await(is_connected, 1));
	(void)usleep(200000); /* what changes before the watch is looked after shows otherwise */
	revision = point().up_revision;
	{
		const struct dpa_change change = {
			.revision = revision + 1, .is_delete = true, .key = ks_slice_str("/apisix/b")};
		struct ks_err err;

		CU_ASSERT_EQUAL_FATAL(dpa_replica_apply(agent.replica, &change, 1, revision + 1, &err), KS_OK);
	}
	/* Now upstream has that revision, too, and the mirror takes no notice of it. */
	(void)put("/apisix/c", "1");
	CU_ASSERT_TRUE(await(has_repaired, 1));
	CU_ASSERT_TRUE(await(has_resynced, 2));
	assert_equal(false);
	(void)put("/apisix/d", "1");
	CU_ASSERT_TRUE(await(reached, put("/apisix/d", "2")));
	assert_equal(false);
	stop_agent();
}

static void stopping_is_quick_whatever_upstream_does(void)
{
	int64_t began;

	clean();
	(void)put("/apisix/a", "1");
	start_agent();
	CU_ASSERT_TRUE(await(is_connected, 1));
	in_folder("kill -STOP $(cat \"$1/pid\")");
	stop_upstream();
	start_upstream();
	(void)usleep(100000);
	began = ks_clock_now(ks_clock_system());
	stop_upstream();
	CU_ASSERT_TRUE(ks_clock_now(ks_clock_system()) - began < 1000);
	in_folder("kill -CONT $(cat \"$1/pid\")");
	start_upstream();
	stop_agent();
}

int main(int argc, char **argv)
{
	static const struct tap_test tests[] = {
		{"first_load_is_upstreams_to_the_byte", first_load_is_upstreams_to_the_byte},
		{"large_values_are_listed_page_by_page", large_values_are_listed_page_by_page},
		{"events_follow_with_upstreams_numbers", events_follow_with_upstreams_numbers},
		{"ten_thousand_changes_at_once_arrive", ten_thousand_changes_at_once_arrive},
		{"progress_moves_the_revision", progress_moves_the_revision},
		{"short_absence_is_caught_up_without_a_listing", short_absence_is_caught_up_without_a_listing},
		{"compaction_while_away_is_the_same_history", compaction_while_away_is_the_same_history},
		{"restarted_server_is_followed_on", restarted_server_is_followed_on},
		{"frozen_server_is_noticed", frozen_server_is_noticed},
		{"empty_upstream_wipes_nothing", empty_upstream_wipes_nothing},
		{"empty_upstream_counts_when_told_so", empty_upstream_counts_when_told_so},
		{"upstream_set_back_never_takes_the_revision_back", upstream_set_back_never_takes_the_revision_back},
		{"upstream_set_back_and_overtaken_is_recognised", upstream_set_back_and_overtaken_is_recognised},
		{"another_upstream_with_the_same_keys_changes_nothing",
		 another_upstream_with_the_same_keys_changes_nothing},
		{"verification_repairs", verification_repairs},
		{"stopping_is_quick_whatever_upstream_does", stopping_is_quick_whatever_upstream_does},
		{NULL, NULL},
	};
	int status;

	(void)argc;
	endpoint = getenv("KS_TEST_ETCD_ENDPOINT");
	if (!endpoint) {
		const char *source = getenv("top_srcdir");
		char wrapper[4096];

		/* Nothing here asks what a disk has kept. */
		(void)setenv("KS_TEST_ETCD_FLAGS", "--unsafe-no-fsync", 0);
		(void)snprintf(wrapper, sizeof(wrapper), "%s/tests/lib/with-etcd", source ? source : ".");
		(void)execl(wrapper, wrapper, argv[0], (char *)NULL);
		perror(wrapper);
		return 99;
	}
	writer = etcdc_open_url(endpoint, NULL);
	status = writer ? tap_run("dpa_upstream", tests) : 99;
	etcdc_close(writer);
	return status;
}
