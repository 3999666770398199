/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mirror's client side against a server that a real etcd is not, or not any more: one that knows no progress requests (3.3), that
 * announces revisions before their events (before 3.4.25 and 3.5.8), that answers with nonsense or in pieces. It speaks gRPC on a port; what
 * it says is written below.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"
#include "mirror/upstream.h"
#include "net/listener.h"
#include "tests/lib/tap.h"

#define WAIT_MS 20000
#define KEYS_MAX 200

struct pair {
	char key[32], value[32];
	int64_t create, mod, version;
};

/* The server. */
static struct {
	struct ks_rpc *rpc;
	struct ks_listener *listener;
	struct ks_mutex lock; /* guards the rest */
	struct pair pairs[KEYS_MAX];
	size_t count;
	int64_t revision;
	uint64_t cluster_id;
	/* How it is odd. */
	bool no_progress;      /* takes no notice of requests for progress */
	int64_t announce;      /* what progress says instead of the revision */
	int64_t limit_max;     /* a page of more keys is too large */
	int64_t compact_after; /* after so many pages their revision is compacted */
	bool denies;
	bool mute; /* takes no notice of anything that a watch is asked */
	/* The watch that is open. */
	struct ks_call *stream;
	int64_t watch_id;
	struct ks_task task;
	struct ks_buf queue[64]; /* packed responses, to be sent on the stream's thread */
	size_t queued;
	/* What was asked. */
	int pages, creates, progress_requests, ignored, streams;
	int64_t start_revision;
} server;

static struct {
	struct dpa_replica *replica;
	struct dpa_board *board;
	struct etcdc *client;
	struct dpa_upstream *upstream;
} agent;

/* ---- the server ---- */

static struct ks_buf pack(const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	struct ks_buf buf;

	ks_buf_init(&buf, size + 1);
	KS_ASSERT(ks_buf_reserve(&buf, size));
	buf.size = protobuf_c_message_pack(message, buf.data);
	return buf;
}

static void fill_header(Etcdserverpb__ResponseHeader *header)
{
	etcdserverpb__response_header__init(header);
	header->cluster_id = server.cluster_id;
	header->revision = server.revision;
}

static bool is_asked(const Etcdserverpb__RangeRequest *request, const struct pair *pair)
{
	struct ks_interval interval = {ks_slice_of(request->key.data, request->key.len),
				       ks_slice_of(request->range_end.data, request->range_end.len)};

	return ks_interval_contains(&interval, ks_slice_str(pair->key));
}

static void fill_kv(const struct pair *pair, bool keys_only, Mvccpb__KeyValue *kv)
{
	mvccpb__key_value__init(kv);
	kv->key = (ProtobufCBinaryData){strlen(pair->key), (uint8_t *)(uintptr_t)pair->key};
	if (!keys_only)
		kv->value = (ProtobufCBinaryData){strlen(pair->value), (uint8_t *)(uintptr_t)pair->value};
	kv->create_revision = pair->create;
	kv->mod_revision = pair->mod;
	kv->version = pair->version;
}

/* KS_OK and the packed answer. */
static enum ks_status answer_range(const Etcdserverpb__RangeRequest *request, struct ks_buf *buf, const char **text)
{
	Etcdserverpb__RangeResponse response = ETCDSERVERPB__RANGE_RESPONSE__INIT;
	Etcdserverpb__ResponseHeader header;
	Mvccpb__KeyValue kvs[KEYS_MAX], *pointers[KEYS_MAX];

	if (server.denies) {
		*text = "etcdserver: permission denied";
		return KS_PERMISSION_DENIED;
	}
	if (request->limit > 0) {
		server.pages++;
		if (server.limit_max && request->limit > server.limit_max) {
			*text = "grpc: received message larger than max";
			return KS_RESOURCE_EXHAUSTED;
		}
		if (server.compact_after && request->revision && server.pages > server.compact_after) {
			server.compact_after = 0;
			*text = "etcdserver: mvcc: required revision has been compacted";
			return KS_OUT_OF_RANGE;
		}
	}
	fill_header(&header);
	response.header = &header;
	response.kvs = pointers;
	for (size_t i = 0; i < server.count; i++) {
		/* All that it remembers of the past is what was not there yet. */
		if (!is_asked(request, &server.pairs[i]) ||
		    (request->revision && server.pairs[i].create > request->revision))
			continue;
		response.count++;
		if (request->count_only || server.pairs[i].mod < request->min_mod_revision)
			continue;
		if (request->limit && (int64_t)response.n_kvs == request->limit) {
			response.more = true;
			continue;
		}
		fill_kv(&server.pairs[i], request->keys_only, &kvs[response.n_kvs]);
		pointers[response.n_kvs] = &kvs[response.n_kvs];
		response.n_kvs++;
	}
	*buf = pack(&response.base);
	return KS_OK;
}

static void range(struct ks_call *call, struct ks_slice message)
{
	Etcdserverpb__RangeRequest *request = etcdserverpb__range_request__unpack(NULL, message.size, message.data);
	const char *text = "";
	struct ks_buf buf;
	struct ks_out out;
	enum ks_status status;

	KS_ASSERT(request);
	ks_mutex_lock(&server.lock);
	status = answer_range(request, &buf, &text);
	ks_mutex_unlock(&server.lock);
	etcdserverpb__range_request__free_unpacked(request, NULL);
	if (status != KS_OK) {
		ks_call_fail(call, status, text);
		return;
	}
	ks_out_init(&out, 1 << 24);
	ks_buf_append(&out.buf, buf.data, buf.size);
	ks_buf_fini(&buf);
	ks_call_reply(call, &out);
}

static void send_queued(struct ks_task *task)
{
	struct ks_call *call;

	(void)task;
	ks_mutex_lock(&server.lock);
	call = server.stream;
	for (size_t i = 0; i < server.queued; i++) {
		struct ks_out out;

		ks_out_init(&out, 1 << 24);
		ks_buf_append(&out.buf, server.queue[i].data, server.queue[i].size);
		ks_buf_fini(&server.queue[i]);
		if (call)
			ks_stream_send(call, &out);
		else
			ks_out_fini(&out);
	}
	server.queued = 0;
	ks_mutex_unlock(&server.lock);
}

/* With the lock. */
static void queue(Etcdserverpb__WatchResponse *response, int64_t revision)
{
	Etcdserverpb__ResponseHeader header;

	fill_header(&header);
	header.revision = revision;
	response->header = &header;
	KS_ASSERT(server.queued < sizeof(server.queue) / sizeof(server.queue[0]));
	server.queue[server.queued++] = pack(&response->base);
	if (server.queued == 1 && server.stream)
		ks_call_post(server.stream, &server.task);
}

static void open_stream(struct ks_call *call)
{
	ks_mutex_lock(&server.lock);
	server.stream = call;
	server.streams++;
	ks_mutex_unlock(&server.lock);
}

static void on_watch(struct ks_call *call, struct ks_slice message)
{
	Etcdserverpb__WatchRequest *request = etcdserverpb__watch_request__unpack(NULL, message.size, message.data);
	Etcdserverpb__WatchResponse response = ETCDSERVERPB__WATCH_RESPONSE__INIT;

	(void)call;
	KS_ASSERT(request);
	ks_mutex_lock(&server.lock);
	if (server.mute) {
		server.ignored++;
	} else if (request->request_union_case == ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST) {
		server.creates++;
		server.start_revision = request->create_request->start_revision;
		response.created = true;
		response.watch_id = ++server.watch_id;
		queue(&response, server.revision);
	} else if (request->request_union_case == ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST) {
		server.progress_requests++;
		response.watch_id = -1;
		if (!server.no_progress)
			queue(&response, server.announce ? server.announce : server.revision);
	}
	ks_mutex_unlock(&server.lock);
	etcdserverpb__watch_request__free_unpacked(request, NULL);
}

static void ignore(struct ks_call *call)
{
	(void)call;
}

static void half_closed(struct ks_call *call)
{
	ks_stream_finish(call, KS_OK, "");
}

static void closed(struct ks_call *call)
{
	ks_mutex_lock(&server.lock);
	if (server.stream == call) {
		server.stream = NULL;
		(void)ks_call_unpost(call, &server.task);
		for (size_t i = 0; i < server.queued; i++)
			ks_buf_fini(&server.queue[i]);
		server.queued = 0;
	}
	ks_mutex_unlock(&server.lock);
}

static void start_server(void)
{
	static const struct ks_stream_ops watch = {.open = open_stream,
						   .message = on_watch,
						   .half_closed = half_closed,
						   .writable = ignore,
						   .closed = closed};
	static const struct ks_rpc_method methods[] = {{.path = "/etcdserverpb.KV/Range", .unary = range},
						       {.path = "/etcdserverpb.Watch/Watch", .stream = &watch}};
	struct ks_rpc_config config = {
		.methods = methods, .method_count = 2, .max_request_bytes = 1 << 20, .max_arena_bytes = 1 << 20};
	struct ks_listener_config listener = {.urls = "http://127.0.0.1:0"};
	struct ks_err err;

	memset(&server, 0, sizeof(server));
	ks_mutex_init(&server.lock);
	server.revision = 10;
	server.cluster_id = 77;
	server.task.run = send_queued;
	server.rpc = ks_rpc_start(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(server.rpc);
	listener.rpc = server.rpc;
	server.listener = ks_listener_start(&listener, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(server.listener);
}

static void stop_server(void)
{
	ks_listener_stop(server.listener);
	ks_rpc_stop(server.rpc, 0);
	ks_mutex_fini(&server.lock);
}

/* ---- what the server is told ---- */

/* Changes the state, in the order of its keys; the event is another matter. */
static void set(const char *key, const char *value)
{
	size_t at = 0;

	ks_mutex_lock(&server.lock);
	server.revision++;
	while (at < server.count && strcmp(server.pairs[at].key, key) < 0)
		at++;
	if (at == server.count || strcmp(server.pairs[at].key, key) != 0) {
		memmove(&server.pairs[at + 1], &server.pairs[at], (server.count - at) * sizeof(struct pair));
		server.count++;
		server.pairs[at] = (struct pair){.create = server.revision};
		(void)snprintf(server.pairs[at].key, sizeof(server.pairs[at].key), "%s", key);
	}
	(void)snprintf(server.pairs[at].value, sizeof(server.pairs[at].value), "%s", value);
	server.pairs[at].mod = server.revision;
	server.pairs[at].version++;
	ks_mutex_unlock(&server.lock);
}

static void send_event(const char *key, const char *value, int64_t mod, int64_t header)
{
	Etcdserverpb__WatchResponse response = ETCDSERVERPB__WATCH_RESPONSE__INIT;
	struct pair pair = {.create = mod, .mod = mod, .version = 1};
	Mvccpb__Event event = MVCCPB__EVENT__INIT, *events[] = {&event};
	Mvccpb__KeyValue kv;

	(void)snprintf(pair.key, sizeof(pair.key), "%s", key);
	(void)snprintf(pair.value, sizeof(pair.value), "%s", value);
	fill_kv(&pair, false, &kv);
	event.kv = &kv;
	response.n_events = 1;
	response.events = events;
	ks_mutex_lock(&server.lock);
	response.watch_id = server.watch_id;
	queue(&response, header);
	ks_mutex_unlock(&server.lock);
}

/* As it should be: state and event. */
static void put(const char *key, const char *value)
{
	set(key, value);
	send_event(key, value, server.revision, server.revision);
}

static int64_t value_of(const int *counter)
{
	int64_t value;

	ks_mutex_lock(&server.lock);
	value = *counter;
	ks_mutex_unlock(&server.lock);
	return value;
}

/* ---- the mirror ---- */

static void start_agent(int64_t idle_ms)
{
	const struct dpa_replica_config config = {.prefix = "/apisix"};
	struct dpa_upstream_config upstream = {.idle_ms = idle_ms};
	struct ks_err err;

	agent.board = dpa_board_new();
	agent.replica = dpa_replica_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.replica);
	agent.client = etcdc_open_url(ks_listener_urls(server.listener), NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.client);
	upstream.client = agent.client;
	upstream.replica = agent.replica;
	upstream.board = agent.board;
	agent.upstream = dpa_upstream_start(&upstream, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(agent.upstream);
}

static void stop_agent(void)
{
	dpa_upstream_stop(agent.upstream);
	etcdc_close(agent.client);
	dpa_replica_free(agent.replica);
	dpa_board_free(agent.board);
}

static struct dpa_status board(void)
{
	struct dpa_status status;

	dpa_board_read(agent.board, &status);
	return status;
}

static bool serves(const char *key, const char *value)
{
	const struct ks_range_req request = {.interval.key = ks_slice_str(key)};
	struct ks_range_result result;
	bool same = false;
	struct ks_kv kv;
	struct ks_err err;
	int64_t revision;

	CU_ASSERT_EQUAL_FATAL(ks_store_range(dpa_replica_store(agent.replica), &request, &result, &revision, &err),
			      KS_OK);
	if (result.kv_count == 1 && ks_kv_decode(ks_bytes_slice(result.kvs[0].encoded), &kv))
		same = ks_slice_eq(kv.value, ks_slice_str(value));
	ks_range_result_fini(&result);
	return same;
}

static int64_t keys(void)
{
	struct dpa_point point;
	int64_t count;

	dpa_replica_point(agent.replica, &point);
	count = (int64_t)point.keys;
	dpa_point_fini(&point);
	return count;
}

static int64_t up_revision(void)
{
	int64_t up, local;

	dpa_replica_revisions(agent.replica, &up, &local);
	return up;
}

#define AWAIT(condition)                                                         \
	do {                                                                     \
		int64_t until_ = ks_clock_now(ks_clock_system()) + WAIT_MS;      \
                                                                                 \
		while (!(condition) && ks_clock_now(ks_clock_system()) < until_) \
			(void)usleep(2000);                                      \
		CU_ASSERT_TRUE(condition);                                       \
	} while (0)

/* ---- tests ---- */

static void server_without_progress_requests_is_followed(void)
{
	start_server();
	server.no_progress = true;
	set("/apisix/a", "1");
	start_agent(100);
	AWAIT(board().connected);
	/* Its silence is answered by opening the watch anew, and nobody is told of a lost connection. */
	AWAIT(value_of(&server.creates) >= 4);
	CU_ASSERT_TRUE(board().connected);
	CU_ASSERT_EQUAL(board().reconnects, 0);
	put("/apisix/b", "1");
	AWAIT(serves("/apisix/b", "1"));
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

static void revision_announced_before_its_event_loses_nothing(void)
{
	int64_t revision;

	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	AWAIT(value_of(&server.progress_requests) == 1); /* at its start */
	set("/apisix/late", "1");
	revision = server.revision;
	etcdc_watch_request_progress(agent.client);
	AWAIT(value_of(&server.progress_requests) == 2);
	(void)usleep(300000);
	CU_ASSERT_TRUE(up_revision() < revision);
	send_event("/apisix/late", "1", revision, revision);
	AWAIT(serves("/apisix/late", "1"));
	CU_ASSERT_EQUAL(up_revision(), revision);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

/* So late that it was believed: then the whole is listed. */
static void event_that_is_passed_over_is_found_out(void)
{
	int64_t revision;

	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	AWAIT(value_of(&server.progress_requests) == 1);
	set("/apisix/late", "1");
	revision = server.revision;
	etcdc_watch_request_progress(agent.client);
	AWAIT(up_revision() == revision);
	CU_ASSERT_FALSE(serves("/apisix/late", "1"));
	send_event("/apisix/late", "1", revision, revision);
	AWAIT(serves("/apisix/late", "1"));
	AWAIT(board().resyncs == 2);
	AWAIT(value_of(&server.creates) == 2); /* what is sent before reaches nobody */
	put("/apisix/more", "1");
	AWAIT(serves("/apisix/more", "1"));
	stop_agent();
	stop_server();
}

/* A watcher that catches up: the header is far ahead of what has come. */
static void header_does_not_pass_over_events(void)
{
	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	set("/apisix/b", "1");
	set("/apisix/c", "1");
	send_event("/apisix/b", "1", server.revision - 1, server.revision);
	AWAIT(serves("/apisix/b", "1"));
	CU_ASSERT_EQUAL(up_revision(), server.revision - 1);
	send_event("/apisix/c", "1", server.revision, server.revision);
	AWAIT(serves("/apisix/c", "1"));
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

static void another_cluster_behind_the_same_address_is_noticed(void)
{
	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	ks_mutex_lock(&server.lock);
	server.cluster_id = 78;
	ks_mutex_unlock(&server.lock);
	put("/apisix/a", "2");
	AWAIT(board().resyncs == 2);
	AWAIT(serves("/apisix/a", "2"));
	AWAIT(value_of(&server.creates) == 2);
	put("/apisix/a", "3");
	AWAIT(serves("/apisix/a", "3"));
	stop_agent();
	stop_server();
}

static void lower_revision_is_judged_again(void)
{
	Etcdserverpb__WatchResponse response = ETCDSERVERPB__WATCH_RESPONSE__INIT;

	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	AWAIT(value_of(&server.progress_requests) == 1);
	response.watch_id = -1;
	ks_mutex_lock(&server.lock);
	queue(&response, 3);
	ks_mutex_unlock(&server.lock);
	/* It was only a member that lags behind: the same history, so nothing is listed. */
	AWAIT(value_of(&server.creates) == 2);
	put("/apisix/a", "2");
	AWAIT(serves("/apisix/a", "2"));
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

static void nonsense_is_not_applied(void)
{
	start_server();
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(board().connected);
	send_event("/elsewhere", "1", server.revision + 1, server.revision + 1);
	AWAIT(board().resyncs == 2);
	AWAIT(value_of(&server.creates) == 2);
	CU_ASSERT_EQUAL(keys(), 1);
	put("/apisix/a", "2");
	AWAIT(serves("/apisix/a", "2"));
	CU_ASSERT_FALSE(serves("/elsewhere", "1"));
	stop_agent();
	stop_server();
}

static void page_that_is_too_large_is_halved(void)
{
	char key[32];

	start_server();
	server.limit_max = 5;
	for (int i = 0; i < 150; i++) {
		(void)snprintf(key, sizeof(key), "/apisix/%03d", i);
		set(key, "x");
	}
	start_agent(60000);
	AWAIT(board().connected);
	CU_ASSERT_EQUAL(keys(), 150);
	stop_agent();
	stop_server();
}

static void compaction_between_two_pages_begins_again(void)
{
	char key[32];

	start_server();
	server.compact_after = 1;
	for (int i = 0; i < 150; i++) {
		(void)snprintf(key, sizeof(key), "/apisix/%03d", i);
		set(key, "x");
	}
	start_agent(60000);
	AWAIT(board().connected);
	CU_ASSERT_EQUAL(keys(), 150);
	CU_ASSERT_TRUE(value_of(&server.pages) >= 4);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

/* As behind a balancer that has lost its server: everything stands, and nothing comes. The next try is on a stream of its own. */
static void stream_that_is_silent_is_given_up(void)
{
	start_server();
	set("/apisix/a", "1");
	start_agent(100);
	AWAIT(board().connected);
	ks_mutex_lock(&server.lock);
	server.mute = true;
	ks_mutex_unlock(&server.lock);
	AWAIT(!board().connected);
	CU_ASSERT_TRUE(value_of(&server.ignored) >= 2);
	AWAIT(value_of(&server.streams) >= 2);
	set("/apisix/b", "1");
	ks_mutex_lock(&server.lock);
	server.mute = false;
	ks_mutex_unlock(&server.lock);
	AWAIT(board().connected);
	send_event("/apisix/b", "1", server.revision, server.revision);
	AWAIT(serves("/apisix/b", "1"));
	CU_ASSERT_TRUE(board().reconnects >= 1);
	CU_ASSERT_EQUAL(board().resyncs, 1);
	stop_agent();
	stop_server();
}

static void refusal_is_said_clearly_and_tried_again(void)
{
	start_server();
	server.denies = true;
	set("/apisix/a", "1");
	start_agent(60000);
	AWAIT(strstr(board().upstream_error, "does not let us read \"/apisix\"") != NULL);
	CU_ASSERT_FALSE(board().connected);
	CU_ASSERT_FALSE(dpa_upstream_wait(agent.upstream, 10));
	ks_mutex_lock(&server.lock);
	server.denies = false;
	ks_mutex_unlock(&server.lock);
	AWAIT(board().connected);
	CU_ASSERT_TRUE(serves("/apisix/a", "1"));
	stop_agent();
	stop_server();
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"server_without_progress_requests_is_followed", server_without_progress_requests_is_followed},
		{"revision_announced_before_its_event_loses_nothing",
		 revision_announced_before_its_event_loses_nothing},
		{"event_that_is_passed_over_is_found_out", event_that_is_passed_over_is_found_out},
		{"header_does_not_pass_over_events", header_does_not_pass_over_events},
		{"another_cluster_behind_the_same_address_is_noticed",
		 another_cluster_behind_the_same_address_is_noticed},
		{"lower_revision_is_judged_again", lower_revision_is_judged_again},
		{"nonsense_is_not_applied", nonsense_is_not_applied},
		{"page_that_is_too_large_is_halved", page_that_is_too_large_is_halved},
		{"compaction_between_two_pages_begins_again", compaction_between_two_pages_begins_again},
		{"stream_that_is_silent_is_given_up", stream_that_is_silent_is_given_up},
		{"refusal_is_said_clearly_and_tried_again", refusal_is_said_clearly_and_tried_again},
		{NULL, NULL},
	};

	return tap_run("dpa_upstream_odd", tests);
}
