/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libetcdc against a real etcd, which is stopped, killed and started again under it. Runs itself under tests/lib/with-etcd
 * when there is no server in the environment yet.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "client/etcdc.h"
#include "tests/lib/tap.h"

#define DEAD_ENDPOINT "127.0.0.1:1" /* nothing listens there */
#define WAIT_MS 20000

static const char *endpoint;

/* ---- Helpers ---- */

static ProtobufCBinaryData bin(const char *text)
{
	return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static struct etcdc *open_client(void)
{
	struct etcdc_err err;
	struct etcdc *client = etcdc_open_url(endpoint, &err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(client);
	return client;
}

static struct etcdc *open_with(const char *const *endpoints, size_t count, int64_t timeout_ms)
{
	struct etcdc_config config = {.endpoints = endpoints, .endpoint_count = count, .timeout_ms = timeout_ms};
	struct etcdc *client = etcdc_open(&config, NULL);

	CU_ASSERT_PTR_NOT_NULL_FATAL(client);
	return client;
}

/* The revision, 0 when it failed. */
static int64_t put(struct etcdc *client, const char *key, const char *value, struct etcdc_err *err)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response;
	int64_t revision = 0;

	request.key = bin(key);
	request.value = bin(value);
	if (etcdc_put(client, &request, &response, err) == KS_OK)
		revision = response->header->revision;
	etcdc_free(response);
	return revision;
}

static int64_t version_of(struct etcdc *client, const char *key)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	int64_t version = -1;

	request.key = bin(key);
	if (etcdc_range(client, &request, &response, NULL) == KS_OK)
		version = response->n_kvs ? response->kvs[0]->version : 0;
	etcdc_free(response);
	return version;
}

static void delete_all(struct etcdc *client)
{
	Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	Etcdserverpb__DeleteRangeResponse *response;
	uint8_t zero = 0;

	request.key = (ProtobufCBinaryData){1, &zero};
	request.range_end = request.key;
	CU_ASSERT_EQUAL(etcdc_delete_range(client, &request, &response, NULL), KS_OK);
	etcdc_free(response);
}

static void servers(const char *command)
{
	char line[512];

	(void)snprintf(line, sizeof(line), "\"%s\" %s \"%s\"", getenv("KS_TEST_SERVERS"), command,
		       getenv("KS_TEST_ETCD_DIR"));
	/* NOLINTNEXTLINE: the command line is ours */
	CU_ASSERT_EQUAL_FATAL(system(line), 0);
}

static pid_t server_pid(void)
{
	FILE *file = fopen(getenv("KS_TEST_ETCD_PIDFILE"), "r");
	char text[32] = "";

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fgets(text, sizeof(text), file));
	(void)fclose(file);
	return (pid_t)strtol(text, NULL, 10);
}

/* SIGSTOP, and until every thread of it has stopped. */
static void freeze_server(void)
{
	pid_t pid = server_pid();
	char line[256];

	CU_ASSERT_EQUAL_FATAL(kill(pid, SIGSTOP), 0);
	(void)snprintf(line, sizeof(line), "while cat /proc/%d/task/*/stat | grep -qv ') T '; do sleep 0.01; done",
		       (int)pid);
	/* NOLINTNEXTLINE: the command line is ours */
	CU_ASSERT_EQUAL_FATAL(system(line), 0);
}

/* A condition that a call-back fulfils: counts, waited for with a limit. */
struct latch {
	struct ks_mutex mutex;
	struct ks_cond cond;
	int count;
};

static void latch_init(struct latch *latch)
{
	ks_mutex_init(&latch->mutex);
	ks_cond_init(&latch->cond);
	latch->count = 0;
}

static void latch_hit(struct latch *latch)
{
	ks_mutex_lock(&latch->mutex);
	latch->count++;
	ks_cond_broadcast(&latch->cond);
	ks_mutex_unlock(&latch->mutex);
}

static bool latch_wait(struct latch *latch, int count)
{
	int64_t until = ks_clock_now(ks_clock_system()) + WAIT_MS, left = WAIT_MS;
	bool reached;

	ks_mutex_lock(&latch->mutex);
	while (latch->count < count && left > 0) {
		(void)ks_cond_wait(&latch->cond, &latch->mutex, left);
		left = until - ks_clock_now(ks_clock_system());
	}
	reached = latch->count >= count;
	ks_mutex_unlock(&latch->mutex);
	return reached;
}

struct outcome {
	struct latch latch;
	struct etcdc_err err;
	int64_t revision;
};

static void on_put_done(void *arg, const struct etcdc_result *result)
{
	struct outcome *outcome = arg;

	outcome->err = *result->err;
	latch_hit(&outcome->latch);
}

static void put_async(struct etcdc *client, const char *key, struct outcome *outcome,
		      const struct etcdc_call_options *options)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;

	request.key = bin(key);
	request.value = bin("v");
	etcdc_async(client, &etcdc_method_put, &request, options, on_put_done, outcome);
}

/* ---- Unary calls ---- */

static void put_is_read_back(void)
{
	struct etcdc *client = open_client();
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	int64_t revision = put(client, "k", "hello", NULL);

	CU_ASSERT_TRUE(revision > 1);
	request.key = bin("k");
	CU_ASSERT_EQUAL_FATAL(etcdc_range(client, &request, &response, NULL), KS_OK);
	CU_ASSERT_EQUAL_FATAL(response->n_kvs, 1);
	CU_ASSERT_EQUAL(response->kvs[0]->mod_revision, revision);
	CU_ASSERT_EQUAL(response->kvs[0]->value.len, 5);
	CU_ASSERT_EQUAL(memcmp(response->kvs[0]->value.data, "hello", 5), 0);
	etcdc_free(response);
	etcdc_close(client);
}

static void errors_carry_code_and_text(void)
{
	struct etcdc *client = open_client();
	struct etcdc_err err;

	CU_ASSERT_EQUAL(put(client, "", "v", &err), 0);
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: key is not provided");
	CU_ASSERT_TRUE(err.sent);
	etcdc_close(client);
}

static void unknown_method_is_unimplemented(void)
{
	static const struct etcdc_method method = {.path = "/etcdserverpb.KV/Nope",
						   .request = &etcdserverpb__range_request__descriptor,
						   .response = &etcdserverpb__range_response__descriptor};
	struct etcdc *client = open_client();
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc_err err;
	void *response;

	CU_ASSERT_EQUAL(etcdc_unary(client, &method, &request, NULL, &response, &err), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(err.text, "unknown method Nope for service etcdserverpb.KV");
	CU_ASSERT_PTR_NULL(response);
	etcdc_close(client);
}

static void raw_bytes_reach_the_server_as_they_are(void)
{
	struct etcdc *client = open_client();
	uint8_t *response;
	size_t size;

	/* Field 1 with a length beyond the end. */
	CU_ASSERT_EQUAL(etcdc_unary_raw(client, "/etcdserverpb.KV/Range", ks_slice_str("\x0a\x7f"), NULL, &response,
					&size, NULL),
			KS_INTERNAL);
	CU_ASSERT_PTR_NULL(response);
	CU_ASSERT_EQUAL(etcdc_unary_raw(client, "/etcdserverpb.KV/Range", ks_slice_str("\x0a\x01q"), NULL, &response,
					&size, NULL),
			KS_OK);
	CU_ASSERT_TRUE(size > 0);
	free(response);
	etcdc_close(client);
}

static void bad_endpoints_are_refused(void)
{
	struct etcdc_err err;

	CU_ASSERT_PTR_NULL(etcdc_open_url("", &err));
	CU_ASSERT_EQUAL(err.status, KS_INVALID_ARGUMENT);
	CU_ASSERT_PTR_NULL(etcdc_open_url("ftp://h:1", &err));
	CU_ASSERT_PTR_NULL(etcdc_open_url("127.0.0.1:1,nowhere", &err));
}

/* ---- Fail-over ---- */

static void dead_endpoint_is_passed_over_even_for_writes(void)
{
	const char *both[] = {DEAD_ENDPOINT, endpoint};
	struct etcdc *client = open_with(both, 2, 5000);
	struct etcdc_err err;

	CU_ASSERT_STRING_EQUAL(etcdc_endpoint(client), DEAD_ENDPOINT);
	CU_ASSERT_TRUE(put(client, "failover", "v", &err) > 1);
	CU_ASSERT_EQUAL(err.status, KS_OK);
	CU_ASSERT_STRING_EQUAL(etcdc_endpoint(client), endpoint);
	etcdc_close(client);
}

static void write_that_was_never_sent_says_so(void)
{
	const char *dead[] = {DEAD_ENDPOINT};
	struct etcdc *client = open_with(dead, 1, 400);
	int64_t start = ks_clock_now(ks_clock_system());
	struct etcdc_err err;

	CU_ASSERT_EQUAL(put(client, "k", "v", &err), 0);
	CU_ASSERT_TRUE(err.status == KS_UNAVAILABLE || err.status == KS_DEADLINE_EXCEEDED);
	CU_ASSERT_FALSE(err.sent);
	CU_ASSERT_TRUE(ks_clock_now(ks_clock_system()) - start < 5000);
	etcdc_close(client);
}

static void call_that_may_try_once_does_not_wait(void)
{
	const char *dead[] = {DEAD_ENDPOINT};
	struct etcdc *client = open_with(dead, 1, WAIT_MS);
	struct etcdc_call_options once = {.once = true};
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	void *response;

	request.key = bin("k");
	CU_ASSERT_EQUAL(etcdc_unary(client, &etcdc_method_range, &request, &once, &response, NULL), KS_UNAVAILABLE);
	etcdc_close(client);
}

/* The server is stopped when the request reaches its socket, and dies without having answered. */
static void write_in_flight_is_not_repeated(void)
{
	struct etcdc *client = open_client();
	struct etcdc_call_options options = {.timeout_ms = WAIT_MS};
	struct outcome outcome;
	int64_t before = version_of(client, "once");

	latch_init(&outcome.latch);
	CU_ASSERT_EQUAL(before, 0);
	freeze_server();
	put_async(client, "once", &outcome, &options);
	(void)usleep(200 * 1000); /* nobody can tell when the bytes are in the dead server's socket */
	servers("etcd_kill");
	CU_ASSERT_TRUE_FATAL(latch_wait(&outcome.latch, 1));
	CU_ASSERT_EQUAL(outcome.err.status, KS_UNAVAILABLE);
	CU_ASSERT_TRUE(outcome.err.sent);
	servers("etcd_start");
	CU_ASSERT_EQUAL(version_of(client, "once"), 0);
	CU_ASSERT_TRUE(put(client, "once", "v", NULL) > 1);
	CU_ASSERT_EQUAL(version_of(client, "once"), 1);
	etcdc_close(client);
}

struct read_outcome {
	struct latch latch;
	enum ks_status status;
	int64_t count;
};

static void on_read_done(void *arg, const struct etcdc_result *result)
{
	struct read_outcome *outcome = arg;
	const Etcdserverpb__RangeResponse *response = result->response;

	outcome->status = result->err->status;
	outcome->count = response ? response->count : -1;
	latch_hit(&outcome->latch);
}

static void read_in_flight_survives_a_restart(void)
{
	struct etcdc *client = open_client();
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc_call_options options = {.timeout_ms = WAIT_MS};
	struct read_outcome outcome = {.count = -1};

	latch_init(&outcome.latch);
	CU_ASSERT_TRUE(put(client, "survivor", "v", NULL) > 1);
	freeze_server();
	request.key = bin("survivor");
	etcdc_async(client, &etcdc_method_range, &request, &options, on_read_done, &outcome);
	(void)usleep(100 * 1000);
	servers("etcd_kill");
	servers("etcd_start");
	CU_ASSERT_TRUE_FATAL(latch_wait(&outcome.latch, 1));
	CU_ASSERT_EQUAL(outcome.status, KS_OK);
	CU_ASSERT_EQUAL(outcome.count, 1);
	etcdc_close(client);
}

static void deadline_ends_a_call_to_a_server_that_hangs(void)
{
	struct etcdc *client = open_client();
	struct etcdc_call_options options = {.timeout_ms = 300};
	struct outcome outcome;

	latch_init(&outcome.latch);
	CU_ASSERT_TRUE(put(client, "k", "v", NULL) > 1);
	freeze_server();
	put_async(client, "k", &outcome, &options);
	CU_ASSERT_TRUE(latch_wait(&outcome.latch, 1));
	CU_ASSERT_EQUAL(kill(server_pid(), SIGCONT), 0);
	CU_ASSERT_EQUAL(outcome.err.status, KS_DEADLINE_EXCEEDED);
	CU_ASSERT_TRUE(outcome.err.sent);
	etcdc_close(client);
}

static void closing_cancels_calls_in_flight(void)
{
	const char *dead[] = {DEAD_ENDPOINT};
	struct etcdc *hanging = open_client(), *retrying = open_with(dead, 1, 60000);
	struct etcdc_call_options options = {.timeout_ms = -1};
	struct outcome outcomes[2];

	latch_init(&outcomes[0].latch);
	latch_init(&outcomes[1].latch);
	CU_ASSERT_TRUE(put(hanging, "k", "v", NULL) > 1);
	freeze_server();
	put_async(hanging, "k", &outcomes[0], &options);
	put_async(retrying, "k", &outcomes[1], &options);
	etcdc_close(hanging);
	etcdc_close(retrying);
	CU_ASSERT_EQUAL(kill(server_pid(), SIGCONT), 0);
	CU_ASSERT_EQUAL(outcomes[0].latch.count, 1);
	CU_ASSERT_EQUAL(outcomes[0].err.status, KS_CANCELLED);
	CU_ASSERT_EQUAL(outcomes[1].latch.count, 1);
	CU_ASSERT_TRUE(outcomes[1].err.status == KS_CANCELLED || outcomes[1].err.status == KS_UNAVAILABLE);
}

struct load {
	struct etcdc *client;
	struct latch latch;
	atomic_int left, failed;
};

static void load_next(void *arg, const struct etcdc_result *result)
{
	struct load *load = arg;
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;

	if (result && result->err->status != KS_OK)
		atomic_fetch_add(&load->failed, 1);
	request.key = bin("load");
	request.value = bin("v");
	if (atomic_fetch_sub(&load->left, 1) > 0)
		etcdc_async(load->client, &etcdc_method_put, &request, NULL, load_next, load);
	else
		latch_hit(&load->latch);
}

static void many_calls_at_once_all_end(void)
{
	struct load load = {.client = open_client()};
	int64_t before = version_of(load.client, "load");

	latch_init(&load.latch);
	atomic_store(&load.left, 2000);
	for (int i = 0; i < 100; i++)
		load_next(&load, NULL);
	CU_ASSERT_TRUE(latch_wait(&load.latch, 100));
	CU_ASSERT_EQUAL(atomic_load(&load.failed), 0);
	CU_ASSERT_EQUAL(version_of(load.client, "load"), before + 2000);
	etcdc_close(load.client);
}

/* ---- Streams ---- */

static void create_raw(struct etcdc_stream *stream, const char *key, int64_t start, bool fragment)
{
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

	create.key = bin(key);
	create.start_revision = start;
	create.fragment = fragment;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	CU_ASSERT_TRUE(etcdc_stream_send(stream, &request));
}

static void stream_is_read_message_by_message(void)
{
	struct etcdc *client = open_client();
	struct etcdc_stream *stream = etcdc_stream_open(client, &etcdc_method_watch, NULL);
	struct etcdc_err err;
	Etcdserverpb__WatchResponse *response;
	void *message;

	create_raw(stream, "raw", 0, false);
	CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(stream, WAIT_MS, &message, &err), KS_OK);
	response = message;
	CU_ASSERT_TRUE(response->created);
	etcdc_free(response);
	CU_ASSERT_EQUAL(etcdc_stream_recv(stream, 50, &message, &err), KS_DEADLINE_EXCEEDED);
	CU_ASSERT_TRUE(put(client, "raw", "1", NULL) > 1);
	CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(stream, WAIT_MS, &message, &err), KS_OK);
	response = message;
	CU_ASSERT_EQUAL(response->n_events, 1);
	etcdc_free(response);
	etcdc_stream_cancel(stream);
	CU_ASSERT_EQUAL(etcdc_stream_recv(stream, WAIT_MS, &message, &err), KS_CANCELLED);
	CU_ASSERT_FALSE(etcdc_stream_send(stream, &(Etcdserverpb__WatchRequest)ETCDSERVERPB__WATCH_REQUEST__INIT));
	etcdc_stream_close(stream);
	etcdc_close(client);
}

static void half_closed_keepalive_ends_regularly(void)
{
	struct etcdc *client = open_client();
	struct etcdc_stream *stream = etcdc_stream_open(client, &etcdc_method_lease_keep_alive, NULL);
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	Etcdserverpb__LeaseKeepAliveResponse *response;
	void *message;

	request.id = 404;
	CU_ASSERT_TRUE(etcdc_stream_send(stream, &request));
	etcdc_stream_half_close(stream);
	CU_ASSERT_FALSE(etcdc_stream_send(stream, &request));
	CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(stream, WAIT_MS, &message, NULL), KS_OK);
	response = message;
	CU_ASSERT_EQUAL(response->id, 404);
	CU_ASSERT_EQUAL(response->ttl, 0);
	etcdc_free(response);
	CU_ASSERT_EQUAL(etcdc_stream_recv(stream, WAIT_MS, &message, NULL), KS_OK);
	CU_ASSERT_PTR_NULL(message);
	etcdc_stream_close(stream);
	etcdc_close(client);
}

/* ---- Watches ---- */

#define SEEN_MAX 4096

struct seen {
	struct latch any;
	struct etcdc_watcher *watcher;
	bool close_on_event;
	int created, lost, resumed, progress, compacted, cancelled, batches;
	int64_t created_revision, progress_revision, compact_revision;
	char text[128];
	int count;
	struct {
		int64_t mod;
		int type;
		size_t size;
		bool has_prev;
	} events[SEEN_MAX];
};

static void on_watch(void *arg, const struct etcdc_watch_event *event)
{
	struct seen *seen = arg;

	if (event->kind == ETCDC_WATCH_EVENTS && seen->close_on_event)
		etcdc_watch_close(seen->watcher);
	ks_mutex_lock(&seen->any.mutex);
	switch (event->kind) {
	case ETCDC_WATCH_CREATED:
		seen->created++;
		seen->created_revision = event->revision;
		break;
	case ETCDC_WATCH_EVENTS:
		seen->batches++;
		for (size_t i = 0; i < event->event_count && seen->count < SEEN_MAX; i++) {
			const Mvccpb__Event *one = event->events[i];

			seen->events[seen->count].mod = one->kv->mod_revision;
			seen->events[seen->count].type = (int)one->type;
			seen->events[seen->count].size = one->kv->value.len;
			seen->events[seen->count++].has_prev = one->prev_kv != NULL;
		}
		break;
	case ETCDC_WATCH_PROGRESS:
		seen->progress++;
		seen->progress_revision = event->revision;
		break;
	case ETCDC_WATCH_LOST:
		seen->lost++;
		break;
	case ETCDC_WATCH_RESUMED:
		seen->resumed++;
		break;
	case ETCDC_WATCH_COMPACTED:
		seen->compacted++;
		seen->compact_revision = event->compact_revision;
		break;
	case ETCDC_WATCH_CANCELLED:
		seen->cancelled++;
		(void)snprintf(seen->text, sizeof(seen->text), "%s", event->text);
		break;
	}
	ks_cond_broadcast(&seen->any.cond);
	ks_mutex_unlock(&seen->any.mutex);
}

static struct seen *seen_new(void)
{
	struct seen *seen = calloc(1, sizeof(*seen));

	CU_ASSERT_PTR_NOT_NULL_FATAL(seen);
	latch_init(&seen->any);
	return seen;
}

/* Waits until *what, a counter that the call-back changes, reaches 'value'. */
static bool seen_wait_ms(struct seen *seen, const int *what, int value, int64_t wait_ms)
{
	int64_t until = ks_clock_now(ks_clock_system()) + wait_ms, left = wait_ms;
	bool reached;

	ks_mutex_lock(&seen->any.mutex);
	while (*what < value && left > 0) {
		(void)ks_cond_wait(&seen->any.cond, &seen->any.mutex, left);
		left = until - ks_clock_now(ks_clock_system());
	}
	reached = *what >= value;
	ks_mutex_unlock(&seen->any.mutex);
	return reached;
}

static bool seen_wait(struct seen *seen, const int *what, int value)
{
	return seen_wait_ms(seen, what, value, WAIT_MS);
}

static bool seen_wait_events(struct seen *seen, int count)
{
	return seen_wait(seen, &seen->count, count);
}

static void start_watch(struct etcdc *client, struct seen *seen, const char *key, const char *end, int64_t start,
			bool prev_kv)
{
	struct etcdc_watch_options options = {
		.key = ks_slice_str(key),
		.range_end = ks_slice_str(end),
		.start_revision = start,
		.prev_kv = prev_kv,
		.on_event = on_watch,
		.arg = seen,
	};

	seen->watcher = etcdc_watch(client, &options);
}

static void stop_watch(struct seen *seen)
{
	etcdc_watch_close(seen->watcher);
	free(seen);
}

static void watchers_share_a_stream_and_see_their_own_keys(void)
{
	struct etcdc *client = open_client();
	struct seen *one = seen_new(), *all = seen_new(), *plain = seen_new();

	delete_all(client);
	start_watch(client, one, "w/1", "", 0, true);
	start_watch(client, all, "w/", "w0", 0, false);
	start_watch(client, plain, "w/1", "", 0, false);
	CU_ASSERT_TRUE(seen_wait(one, &one->created, 1));
	CU_ASSERT_TRUE(seen_wait(all, &all->created, 1));
	CU_ASSERT_TRUE(seen_wait(plain, &plain->created, 1));
	CU_ASSERT_TRUE(put(client, "w/1", "a", NULL) > 1);
	CU_ASSERT_TRUE(put(client, "w/2", "b", NULL) > 1);
	CU_ASSERT_TRUE(put(client, "w/1", "c", NULL) > 1);
	CU_ASSERT_TRUE(seen_wait_events(one, 2));
	CU_ASSERT_TRUE(seen_wait_events(all, 3));
	CU_ASSERT_TRUE(seen_wait_events(plain, 2));
	CU_ASSERT_EQUAL(one->count, 2);
	CU_ASSERT_TRUE(one->events[1].has_prev);
	CU_ASSERT_FALSE(plain->events[1].has_prev);
	CU_ASSERT_EQUAL(all->count, 3);
	stop_watch(one);
	stop_watch(all);
	stop_watch(plain);
	etcdc_close(client);
}

static void watch_may_be_closed_from_its_own_callback(void)
{
	struct etcdc *client = open_client();
	struct seen *seen = seen_new();

	seen->close_on_event = true;
	start_watch(client, seen, "own", "", 0, false);
	CU_ASSERT_TRUE(seen_wait(seen, &seen->created, 1));
	CU_ASSERT_TRUE(put(client, "own", "1", NULL) > 1);
	CU_ASSERT_TRUE(seen_wait_events(seen, 1));
	CU_ASSERT_TRUE(put(client, "own", "2", NULL) > 1);
	etcdc_close(client);
	CU_ASSERT_EQUAL(seen->count, 1);
	free(seen);
}

static void watch_may_be_closed_before_it_is_created(void)
{
	struct etcdc *client = open_client();

	for (int i = 0; i < 200; i++) {
		struct seen *seen = seen_new();

		start_watch(client, seen, "early", "", 0, false);
		stop_watch(seen);
	}
	CU_ASSERT_TRUE(put(client, "early", "1", NULL) > 1);
	etcdc_close(client);
}

static void watch_resumes_without_gap_and_without_repeat(void)
{
	struct etcdc *client = open_client();
	struct seen *seen = seen_new(), *idle = seen_new();
	int64_t expected[400];
	int puts = 0;

	delete_all(client);
	start_watch(client, idle, "idle", "", 0, false);
	start_watch(client, seen, "r/", "r0", 0, false);
	CU_ASSERT_TRUE(seen_wait(seen, &seen->created, 1));
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < 50; i++) {
			char key[32];

			(void)snprintf(key, sizeof(key), "r/%d", i);
			expected[puts] = put(client, key, "v", NULL);
			CU_ASSERT_TRUE(expected[puts] > 1);
			puts++;
		}
		/* In the middle of the deliveries of this round: nothing is waited for. */
		servers(round % 2 ? "etcd_stop" : "etcd_kill");
		servers("etcd_start");
	}
	CU_ASSERT_TRUE(put(client, "idle", "v", NULL) > 1);
	CU_ASSERT_TRUE(seen_wait_events(seen, puts));
	CU_ASSERT_TRUE(seen_wait_events(idle, 1));
	CU_ASSERT_EQUAL(seen->count, puts);
	CU_ASSERT_EQUAL(idle->count, 1);
	for (int i = 0; i < puts; i++)
		CU_ASSERT_EQUAL(seen->events[i].mod, expected[i]);
	CU_ASSERT_EQUAL(seen->created, 1);
	CU_ASSERT_TRUE(seen->lost >= 1);
	CU_ASSERT_EQUAL(seen->resumed, seen->lost);
	stop_watch(seen);
	stop_watch(idle);
	etcdc_close(client);
}

static void compacted_start_is_reported_and_final(void)
{
	struct etcdc *client = open_client();
	struct seen *seen = seen_new();
	Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	Etcdserverpb__CompactionResponse *response;
	int64_t first = put(client, "c", "1", NULL);

	request.revision = put(client, "c", "2", NULL);
	CU_ASSERT_EQUAL(etcdc_compact(client, &request, &response, NULL), KS_OK);
	etcdc_free(response);
	start_watch(client, seen, "c", "", first, false);
	CU_ASSERT_TRUE(seen_wait(seen, &seen->compacted, 1));
	CU_ASSERT_EQUAL(seen->compact_revision, request.revision);
	CU_ASSERT_TRUE(put(client, "c", "3", NULL) > 1);
	CU_ASSERT_EQUAL(seen->count, 0);
	stop_watch(seen);
	etcdc_close(client);
}

static void refused_watch_is_reported_and_others_go_on(void)
{
	struct etcdc *client = open_client();
	struct seen *bad = seen_new(), *good = seen_new();

	start_watch(client, bad, "b", "a", 0, false);
	start_watch(client, good, "g", "", 0, false);
	CU_ASSERT_TRUE(seen_wait(bad, &bad->cancelled, 1));
	CU_ASSERT_TRUE(seen_wait(good, &good->created, 1));
	CU_ASSERT_TRUE(put(client, "g", "1", NULL) > 1);
	CU_ASSERT_TRUE(seen_wait_events(good, 1));
	stop_watch(bad);
	stop_watch(good);
	etcdc_close(client);
}

static void progress_reaches_every_watcher(void)
{
	struct etcdc *client = open_client();
	struct seen *seen = seen_new();
	int64_t revision;

	start_watch(client, seen, "quiet", "", 0, false);
	CU_ASSERT_TRUE(seen_wait(seen, &seen->created, 1));
	revision = put(client, "loud", "1", NULL);
	/* The server stays silent while a watcher is not caught up; a client asks again. */
	for (int i = 0; i < 100; i++) {
		etcdc_watch_request_progress(client);
		if (seen_wait_ms(seen, &seen->progress, 1, 100))
			break;
	}
	CU_ASSERT_TRUE(seen_wait_ms(seen, &seen->progress, 1, 0));
	CU_ASSERT_EQUAL(seen->progress_revision, revision);
	stop_watch(seen);
	etcdc_close(client);
}

static void fragments_are_put_together(void)
{
	struct etcdc *client = open_client();
	struct seen *seen = seen_new();
	const size_t size = 1400 * 1024;
	char *value = malloc(size + 1);
	int64_t first;
	struct etcdc_stream *stream = etcdc_stream_open(client, &etcdc_method_watch, NULL);
	Etcdserverpb__WatchResponse *response;
	size_t raw_events = 0;
	bool fragmented = false, more = true;
	void *message;

	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	memset(value, 'x', size);
	value[size] = '\0';
	first = put(client, "frag", value, NULL);
	CU_ASSERT_TRUE(first > 1);
	CU_ASSERT_TRUE(put(client, "frag", value, NULL) > 1);
	CU_ASSERT_TRUE(put(client, "frag", value, NULL) > 1);
	free(value);

	/* The raw stream shows the pieces. */
	create_raw(stream, "frag", first, true);
	CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(stream, WAIT_MS, &message, NULL), KS_OK);
	etcdc_free(message);
	while (more) {
		CU_ASSERT_EQUAL_FATAL(etcdc_stream_recv(stream, WAIT_MS, &message, NULL), KS_OK);
		response = message;
		raw_events += response->n_events;
		fragmented |= response->fragment;
		more = response->fragment;
		etcdc_free(response);
	}
	CU_ASSERT_EQUAL(raw_events, 3);
	CU_ASSERT_TRUE(fragmented);
	etcdc_stream_close(stream);

	seen->watcher = etcdc_watch(client, &(struct etcdc_watch_options){.key = ks_slice_str("frag"),
									  .start_revision = first,
									  .fragment = true,
									  .on_event = on_watch,
									  .arg = seen});
	CU_ASSERT_TRUE(seen_wait_events(seen, 3));
	CU_ASSERT_EQUAL(seen->batches, 1);
	CU_ASSERT_EQUAL(seen->events[2].size, size);
	stop_watch(seen);
	etcdc_close(client);
}

static void watch_on_a_dead_endpoint_finds_the_next(void)
{
	const char *both[] = {DEAD_ENDPOINT, endpoint};
	struct etcdc *client = open_with(both, 2, 5000);
	struct seen *seen = seen_new();

	start_watch(client, seen, "moved", "", 0, false);
	CU_ASSERT_TRUE(seen_wait(seen, &seen->created, 1));
	CU_ASSERT_TRUE(put(client, "moved", "1", NULL) > 1);
	CU_ASSERT_TRUE(seen_wait_events(seen, 1));
	stop_watch(seen);
	etcdc_close(client);
}

/* ---- Leases ---- */

struct beats {
	struct latch latch;
	atomic_int alive, gone;
};

static void on_beat(void *arg, const struct etcdc_keepalive_event *event)
{
	struct beats *beats = arg;

	if (event->ttl > 0)
		atomic_fetch_add(&beats->alive, 1);
	else
		atomic_fetch_add(&beats->gone, 1);
	latch_hit(&beats->latch);
}

static int64_t grant(struct etcdc *client, int64_t ttl)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Etcdserverpb__LeaseGrantResponse *response;
	int64_t id = 0;

	request.ttl = ttl;
	if (etcdc_lease_grant(client, &request, &response, NULL) == KS_OK)
		id = response->id;
	etcdc_free(response);
	return id;
}

static void keepalive_renews_until_the_lease_is_revoked(void)
{
	struct etcdc *client = open_client();
	Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	Etcdserverpb__LeaseRevokeResponse *response;
	struct beats beats = {.alive = 0};
	struct etcdc_keepalive *keepalive;
	int64_t id = grant(client, 2);

	latch_init(&beats.latch);
	CU_ASSERT_TRUE_FATAL(id != 0);
	keepalive = etcdc_keepalive(client, id, 2, on_beat, &beats);
	CU_ASSERT_TRUE(latch_wait(&beats.latch, 6)); /* about four seconds: twice the TTL */
	CU_ASSERT_EQUAL(atomic_load(&beats.gone), 0);
	request.id = id;
	CU_ASSERT_EQUAL(etcdc_lease_revoke(client, &request, &response, NULL), KS_OK);
	etcdc_free(response);
	CU_ASSERT_TRUE(latch_wait(&beats.latch, atomic_load(&beats.alive) + 1));
	CU_ASSERT_EQUAL(atomic_load(&beats.gone), 1);
	etcdc_keepalive_close(keepalive);
	etcdc_close(client);
}

static void keepalive_goes_on_after_a_restart(void)
{
	struct etcdc *client = open_client();
	struct beats beats = {.alive = 0};
	struct etcdc_keepalive *keepalive;
	int64_t id = grant(client, 60);
	int before;

	latch_init(&beats.latch);
	keepalive = etcdc_keepalive(client, id, 60, on_beat, &beats);
	CU_ASSERT_TRUE(latch_wait(&beats.latch, 1));
	before = atomic_load(&beats.alive);
	servers("etcd_kill");
	servers("etcd_start");
	CU_ASSERT_TRUE(latch_wait(&beats.latch, before + 1));
	CU_ASSERT_EQUAL(atomic_load(&beats.gone), 0);
	etcdc_keepalive_close(keepalive);
	etcdc_close(client);
}

static void keepalive_without_any_answer_gives_up_at_the_deadline(void)
{
	struct etcdc *client = etcdc_open_url(DEAD_ENDPOINT, NULL);
	struct beats beats = {.alive = 0};
	struct etcdc_keepalive *keepalive;

	latch_init(&beats.latch);
	keepalive = etcdc_keepalive(client, 1, 1, on_beat, &beats);
	CU_ASSERT_TRUE(latch_wait(&beats.latch, 1));
	CU_ASSERT_EQUAL(atomic_load(&beats.gone), 1);
	etcdc_keepalive_close(keepalive);
	etcdc_close(client);
}

/* ---- Name and password ---- */

static void auth_unary(struct etcdc *client, const struct etcdc_method *method, const void *request)
{
	struct etcdc_err err;
	void *response;

	if (etcdc_unary(client, method, request, NULL, &response, &err) != KS_OK)
		printf("# %s: %s\n", method->path, err.text);
	CU_ASSERT_EQUAL(err.status, KS_OK);
	etcdc_free(response);
}

static void set_password(struct etcdc *client, const char *password)
{
	Etcdserverpb__AuthUserChangePasswordRequest change = ETCDSERVERPB__AUTH_USER_CHANGE_PASSWORD_REQUEST__INIT;

	change.name = (char *)(uintptr_t) "root";
	change.password = (char *)(uintptr_t)password;
	auth_unary(client, &etcdc_method_user_change_password, &change);
}

static struct etcdc *open_as_root(const char *password)
{
	struct etcdc_config config = {
		.endpoints = &endpoint, .endpoint_count = 1, .user = "root", .password = password};
	struct etcdc *client = etcdc_open(&config, NULL);

	CU_ASSERT_PTR_NOT_NULL_FATAL(client);
	return client;
}

/* An etcd forgets its tokens when it ends, and ends them when a password changes. */
static void client_logs_in_whenever_it_must(void)
{
	Etcdserverpb__AuthUserAddRequest add = ETCDSERVERPB__AUTH_USER_ADD_REQUEST__INIT;
	Etcdserverpb__AuthUserGrantRoleRequest grant = ETCDSERVERPB__AUTH_USER_GRANT_ROLE_REQUEST__INIT;
	Etcdserverpb__AuthRoleAddRequest role = ETCDSERVERPB__AUTH_ROLE_ADD_REQUEST__INIT;
	Etcdserverpb__AuthEnableRequest enable = ETCDSERVERPB__AUTH_ENABLE_REQUEST__INIT;
	Etcdserverpb__AuthDisableRequest disable = ETCDSERVERPB__AUTH_DISABLE_REQUEST__INIT;
	Etcdserverpb__AuthUserDeleteRequest delete = ETCDSERVERPB__AUTH_USER_DELETE_REQUEST__INIT;
	struct etcdc *plain = open_client(), *root, *wrong;
	struct outcome outcomes[8];
	struct seen *seen = seen_new();
	struct etcdc_err err;

	add.name = grant.user = grant.role = role.name = delete.name = (char *)(uintptr_t) "root";
	add.password = (char *)(uintptr_t) "first";
	auth_unary(plain, &etcdc_method_user_add, &add);
	auth_unary(plain, &etcdc_method_role_add, &role);
	auth_unary(plain, &etcdc_method_user_grant_role, &grant);
	auth_unary(plain, &etcdc_method_auth_enable, &enable);
	CU_ASSERT_EQUAL(put(plain, "k", "v", &err), 0);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: user name is empty");
	wrong = open_as_root("wrong");
	CU_ASSERT_EQUAL(put(wrong, "k", "v", &err), 0);
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: authentication failed, invalid user ID or password");
	etcdc_close(wrong);

	root = open_as_root("first");
	start_watch(root, seen, "k", "", 0, false);
	CU_ASSERT(seen_wait(seen, &seen->created, 1));
	for (int i = 0; i < 8; i++) {
		latch_init(&outcomes[i].latch);
		put_async(root, "k", &outcomes[i], NULL);
	}
	for (int i = 0; i < 8; i++) {
		CU_ASSERT(latch_wait(&outcomes[i].latch, 1));
		CU_ASSERT_EQUAL(outcomes[i].err.status, KS_OK);
	}
	CU_ASSERT(seen_wait_events(seen, 8));

	servers("etcd_kill");
	servers("etcd_start");
	CU_ASSERT(put(root, "k", "v", &err) > 0);
	CU_ASSERT(seen_wait_events(seen, 9)); /* the watch, too, has a new token */

	set_password(root, "second");
	CU_ASSERT_EQUAL(put(root, "k", "v", &err), 0); /* the password is no longer the right one */
	CU_ASSERT_STRING_EQUAL(err.text, "etcdserver: authentication failed, invalid user ID or password");
	stop_watch(seen);
	etcdc_close(root);
	root = open_as_root("second");
	CU_ASSERT(put(root, "k", "v", &err) > 0);
	auth_unary(root, &etcdc_method_auth_disable, &disable);
	CU_ASSERT(put(root, "k", "v", &err) > 0);
	CU_ASSERT(put(plain, "k", "v", &err) > 0);
	auth_unary(plain, &etcdc_method_user_delete, &delete);
	etcdc_close(root);
	etcdc_close(plain);
}

int main(int argc, char **argv)
{
	static const struct tap_test tests[] = {
		{"put_is_read_back", put_is_read_back},
		{"errors_carry_code_and_text", errors_carry_code_and_text},
		{"unknown_method_is_unimplemented", unknown_method_is_unimplemented},
		{"raw_bytes_reach_the_server_as_they_are", raw_bytes_reach_the_server_as_they_are},
		{"bad_endpoints_are_refused", bad_endpoints_are_refused},
		{"dead_endpoint_is_passed_over_even_for_writes", dead_endpoint_is_passed_over_even_for_writes},
		{"write_that_was_never_sent_says_so", write_that_was_never_sent_says_so},
		{"call_that_may_try_once_does_not_wait", call_that_may_try_once_does_not_wait},
		{"write_in_flight_is_not_repeated", write_in_flight_is_not_repeated},
		{"read_in_flight_survives_a_restart", read_in_flight_survives_a_restart},
		{"deadline_ends_a_call_to_a_server_that_hangs", deadline_ends_a_call_to_a_server_that_hangs},
		{"closing_cancels_calls_in_flight", closing_cancels_calls_in_flight},
		{"many_calls_at_once_all_end", many_calls_at_once_all_end},
		{"stream_is_read_message_by_message", stream_is_read_message_by_message},
		{"half_closed_keepalive_ends_regularly", half_closed_keepalive_ends_regularly},
		{"watchers_share_a_stream_and_see_their_own_keys", watchers_share_a_stream_and_see_their_own_keys},
		{"watch_may_be_closed_from_its_own_callback", watch_may_be_closed_from_its_own_callback},
		{"watch_may_be_closed_before_it_is_created", watch_may_be_closed_before_it_is_created},
		{"watch_resumes_without_gap_and_without_repeat", watch_resumes_without_gap_and_without_repeat},
		{"compacted_start_is_reported_and_final", compacted_start_is_reported_and_final},
		{"refused_watch_is_reported_and_others_go_on", refused_watch_is_reported_and_others_go_on},
		{"progress_reaches_every_watcher", progress_reaches_every_watcher},
		{"fragments_are_put_together", fragments_are_put_together},
		{"watch_on_a_dead_endpoint_finds_the_next", watch_on_a_dead_endpoint_finds_the_next},
		{"keepalive_renews_until_the_lease_is_revoked", keepalive_renews_until_the_lease_is_revoked},
		{"keepalive_goes_on_after_a_restart", keepalive_goes_on_after_a_restart},
		{"keepalive_without_any_answer_gives_up_at_the_deadline",
		 keepalive_without_any_answer_gives_up_at_the_deadline},
		{"client_logs_in_whenever_it_must", client_logs_in_whenever_it_must},
		{NULL, NULL},
	};

	(void)argc;
	endpoint = getenv("KS_TEST_ETCD_ENDPOINT");
	if (!endpoint) {
		const char *source = getenv("top_srcdir");
		char wrapper[4096];

		(void)snprintf(wrapper, sizeof(wrapper), "%s/tests/lib/with-etcd", source ? source : ".");
		(void)execl(wrapper, wrapper, argv[0], (char *)NULL);
		perror(wrapper);
		return 99;
	}
	return tap_run("etcdc", tests);
}
