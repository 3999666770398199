/* SPDX-License-Identifier: Apache-2.0 */
/* rpc.h, seen by gRPC C core's own client and, where that is too well-behaved, by hand-made HTTP/2 frames. */
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "base/thread.h"
#include "net/identity.h"
#include "net/listener.h"
#include "net/rest.h"
#include "net/rpc.h"
#include "tests/lib/grpc_client.h"
#include "tests/lib/raw_http2.h"
#include "tests/lib/tap.h"

#define MAX_REQUEST 65536
#define WAIT_MS 20000

/* What handlers leave for the tests to look at. */
/* MAX_REPLIES are within the limit; each is larger than what a client's core takes that nobody reads from. */
#define LARGE_REPLY (32 << 20)
#define MAX_REPLIES 2

static struct {
	struct ks_mutex lock;
	struct ks_cond changed;
	int opened, half_closed, closed, writable, messages, tasks; /* guarded */
	struct ks_call *stream;         /* guarded: the last one opened and not yet closed */
	size_t most_queued, most_bytes; /* guarded */
} seen;

static struct ks_rpc *rpc;
static struct ks_listener *listener;

static void note(int *counter)
{
	ks_mutex_lock(&seen.lock);
	(*counter)++;
	ks_cond_broadcast(&seen.changed);
	ks_mutex_unlock(&seen.lock);
}

static bool wait_for(const int *counter, int at_least)
{
	int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS;
	bool reached;

	ks_mutex_lock(&seen.lock);
	while (*counter < at_least && ks_clock_now(ks_clock_system()) < end_ms)
		(void)ks_cond_wait(&seen.changed, &seen.lock, 100);
	reached = *counter >= at_least;
	ks_mutex_unlock(&seen.lock);
	return reached;
}

static int value_of(const int *counter)
{
	int value;

	ks_mutex_lock(&seen.lock);
	value = *counter;
	ks_mutex_unlock(&seen.lock);
	return value;
}

static void reply_slice(struct ks_call *call, struct ks_slice slice)
{
	struct ks_out out;

	ks_out_init(&out, 1 << 26);
	ks_buf_append_slice(&out.buf, slice);
	ks_call_reply(call, &out);
}

static void echo(struct ks_call *call, struct ks_slice request)
{
	reply_slice(call, request);
}

static void fail(struct ks_call *call, struct ks_slice request)
{
	(void)request;
	ks_call_fail(call, KS_INVALID_ARGUMENT, "etcdserver: key is not provided");
}

static void metadata(struct ks_call *call, struct ks_slice request)
{
	char key[32];

	KS_ASSERT(request.size < sizeof(key));
	memcpy(key, request.data, request.size);
	key[request.size] = '\0';
	reply_slice(call, ks_call_metadata(call, key));
}

static void peer(struct ks_call *call, struct ks_slice request)
{
	(void)request;
	reply_slice(call, ks_slice_str(ks_call_peer(call)));
}

static void identity(struct ks_call *call, struct ks_slice request)
{
	const struct ks_identity *who = ks_call_identity(call);

	(void)request;
	reply_slice(call, ks_slice_str(who ? who->common_name : "nobody"));
}

/* 'request' bytes "ab": a shared value of 100,000 'a', text, a shared value of 50,000 'b'. */
static void shared(struct ks_call *call, struct ks_slice request)
{
	struct ks_bytes *a = ks_bytes_new(100000), *b = ks_bytes_new(50000);
	struct ks_out out;

	(void)request;
	memset(a->data, 'a', a->size);
	memset(b->data, 'b', b->size);
	ks_out_init(&out, 1 << 20);
	ks_out_bytes(&out, a);
	ks_buf_append_slice(&out.buf, ks_slice_str("between"));
	ks_out_bytes(&out, b);
	ks_bytes_unref(a);
	ks_bytes_unref(b);
	ks_call_reply(call, &out);
}

static void too_large_reply(struct ks_call *call, struct ks_slice request)
{
	struct ks_out out;

	(void)request;
	ks_out_init(&out, 10);
	ks_buf_append_slice(&out.buf, ks_slice_str("more than ten bytes"));
	ks_call_reply(call, &out);
}

static void large_reply(struct ks_call *call, struct ks_slice request)
{
	struct ks_bytes *piece = ks_bytes_new(LARGE_REPLY / 32);
	struct ks_out out;

	(void)request;
	KS_ASSERT(piece);
	memset(piece->data, 0, piece->size);
	ks_out_init(&out, SIZE_MAX);
	for (int i = 0; i < 32; i++)
		ks_out_bytes(&out, piece);
	ks_bytes_unref(piece);
	ks_call_reply(call, &out);
	note(&seen.messages);
}

static void *reply_elsewhere(void *arg)
{
	struct ks_call *call = arg;

	reply_slice(call, ks_slice_str("from another thread"));
	return NULL;
}

static void later(struct ks_call *call, struct ks_slice request)
{
	pthread_t thread;

	(void)request;
	KS_ASSERT(pthread_create(&thread, NULL, reply_elsewhere, call) == 0);
	KS_ASSERT(pthread_detach(thread) == 0);
}

struct posted {
	struct ks_task task;
	struct ks_call *call;
	pthread_t home;
};

static void reply_from_task(struct ks_task *task)
{
	struct posted *posted = ks_container_of(task, struct posted, task);

	KS_ASSERT(pthread_equal(posted->home, pthread_self()));
	reply_slice(posted->call, ks_slice_str("from a task"));
}

static void *post_elsewhere(void *arg)
{
	struct posted *posted = arg;

	ks_call_post(posted->call, &posted->task);
	return NULL;
}

static void by_task(struct ks_call *call, struct ks_slice request)
{
	struct posted *posted = ks_arena_zalloc(ks_call_arena(call), sizeof(*posted));
	pthread_t thread;

	(void)request;
	*posted = (struct posted){.task.run = reply_from_task, .call = call, .home = pthread_self()};
	KS_ASSERT(pthread_create(&thread, NULL, post_elsewhere, posted) == 0);
	KS_ASSERT(pthread_detach(thread) == 0);
}

/* One thread that answers all calls, one after the other, as a committer does: each by a task that runs here or there. */
struct lone {
	struct ks_task task;
	struct ks_call *call;
	struct ks_slice request;
	struct ks_list link;
};

static struct {
	struct ks_mutex lock;
	struct ks_cond changed;
	struct ks_list calls; /* guarded */
	bool end;             /* guarded */
	pthread_t thread;
	int here; /* the thread's: tasks that ran on it */
} committer;

static void lone_reply(struct ks_task *task)
{
	struct lone *lone = ks_container_of(task, struct lone, task);

	if (pthread_equal(committer.thread, pthread_self()))
		committer.here++;
	reply_slice(lone->call, lone->request);
}

static void *commit(void *arg)
{
	(void)arg;
	ks_mutex_lock(&committer.lock);
	while (!committer.end || !ks_list_empty(&committer.calls)) {
		struct ks_list *link = ks_list_pop(&committer.calls);
		struct lone *lone;

		if (!link) {
			(void)ks_cond_wait(&committer.changed, &committer.lock, -1);
			continue;
		}
		lone = ks_container_of(link, struct lone, link);
		ks_mutex_unlock(&committer.lock);
		ks_call_run(lone->call, &lone->task);
		ks_mutex_lock(&committer.lock);
	}
	ks_mutex_unlock(&committer.lock);
	return NULL;
}

static void start_committer(void)
{
	memset(&committer, 0, sizeof(committer));
	ks_mutex_init(&committer.lock);
	ks_cond_init(&committer.changed);
	ks_list_init(&committer.calls);
	KS_ASSERT(pthread_create(&committer.thread, NULL, commit, NULL) == 0);
}

static void stop_committer(void)
{
	ks_mutex_lock(&committer.lock);
	committer.end = true;
	ks_cond_signal(&committer.changed);
	ks_mutex_unlock(&committer.lock);
	KS_ASSERT(pthread_join(committer.thread, NULL) == 0);
	ks_cond_fini(&committer.changed);
	ks_mutex_fini(&committer.lock);
}

static void by_committer(struct ks_call *call, struct ks_slice request)
{
	struct lone *lone = ks_arena_zalloc(ks_call_arena(call), sizeof(*lone));

	*lone = (struct lone){.task.run = lone_reply, .call = call, .request = request};
	ks_mutex_lock(&committer.lock);
	ks_list_append(&committer.calls, &lone->link);
	ks_cond_signal(&committer.changed);
	ks_mutex_unlock(&committer.lock);
}

/* Holds a call until the test lets it go. */
static struct ks_call *held;

static void hold(struct ks_call *call, struct ks_slice request)
{
	(void)request;
	ks_mutex_lock(&seen.lock);
	held = call;
	seen.messages++;
	ks_cond_broadcast(&seen.changed);
	ks_mutex_unlock(&seen.lock);
}

/* Waits for the end of the client's interest; a request that is not empty is answered by a task, which may be too late. */
/* ---- which thread serves what ---- */

static void reply_thread(struct ks_call *call)
{
	pthread_t self = pthread_self();

	reply_slice(call, ks_slice_of(&self, sizeof(self)));
}

/* A byte more than none: with this much to do. */
static void which_thread(struct ks_call *call, struct ks_slice request)
{
	int64_t until_us = ks_clock_us() + (request.size ? 2000 : 0);

	while (ks_clock_us() < until_us)
		;
	reply_thread(call);
}

struct moving {
	struct ks_task task;
	struct ks_call *call;
};

/* Blocks the thread that it was moved to until the test goes on. */
static void long_step(struct ks_task *task)
{
	struct ks_call *call = ks_container_of(task, struct moving, task)->call;

	note(&seen.messages);
	(void)wait_for(&seen.tasks, 1);
	reply_thread(call);
}

static void long_call(struct ks_call *call, struct ks_slice request)
{
	struct moving *moving = ks_arena_zalloc(ks_call_arena(call), sizeof(*moving));

	(void)request;
	KS_ASSERT(moving);
	*moving = (struct moving){.task.run = long_step, .call = call};
	if (!ks_call_move(call, &moving->task))
		ks_call_fail(call, KS_INTERNAL, "not moved");
}

struct patient {
	struct ks_task cancel, answer;
	struct ks_call *call;
};

static void patient_answer(struct ks_task *task)
{
	struct patient *patient = ks_container_of(task, struct patient, answer);

	reply_slice(patient->call, ks_slice_str("at last"));
}

static void patient_give_up(struct ks_task *task)
{
	struct patient *patient = ks_container_of(task, struct patient, answer);
	bool stopping = ks_rpc_stopping(ks_call_rpc(patient->call));

	ks_call_fail(patient->call, stopping ? KS_UNAVAILABLE : KS_CANCELLED, stopping ? "stopped" : "cancelled");
}

/* As a handler that has something to clear up first: the call ends in a later turn. */
static void patient_cancelled(struct ks_task *task)
{
	struct patient *patient = ks_container_of(task, struct patient, cancel);
	struct ks_call *call = patient->call;

	note(&seen.tasks);
	if (!ks_call_unpost(call, &patient->answer)) {
		patient->answer.run = patient_give_up;
		ks_call_post(call, &patient->answer);
		return;
	}
	ks_call_fail(call, KS_CANCELLED, "cancelled");
}

static void patient(struct ks_call *call, struct ks_slice request)
{
	struct patient *patient = ks_arena_zalloc(ks_call_arena(call), sizeof(*patient));

	*patient = (struct patient){.cancel.run = patient_cancelled, .answer.run = patient_answer, .call = call};
	if (!ks_call_on_cancel(call, &patient->cancel)) {
		ks_call_fail(call, KS_UNAVAILABLE, "stopped");
		return;
	}
	note(&seen.messages);
	if (request.size)
		ks_call_post(call, &patient->answer);
}

static void stream_open(struct ks_call *call)
{
	ks_mutex_lock(&seen.lock);
	seen.stream = call;
	ks_mutex_unlock(&seen.lock);
	note(&seen.opened);
}

static void send_slice(struct ks_call *call, struct ks_slice slice)
{
	struct ks_out out;

	ks_out_init(&out, 1 << 26);
	ks_buf_append_slice(&out.buf, slice);
	ks_stream_send(call, &out);
}

static void chat_message(struct ks_call *call, struct ks_slice message)
{
	size_t bytes, count;

	if (message.size == 5 && memcmp(message.data, "close", 5) == 0)
		ks_stream_finish(call, KS_FAILED_PRECONDITION, "closed on request");
	send_slice(call, message);
	count = ks_stream_queued(call, &bytes);
	ks_mutex_lock(&seen.lock);
	if (count > seen.most_queued)
		seen.most_queued = count;
	if (bytes > seen.most_bytes)
		seen.most_bytes = bytes;
	ks_mutex_unlock(&seen.lock);
	note(&seen.messages);
}

static void chat_half_closed(struct ks_call *call)
{
	note(&seen.half_closed);
	ks_stream_finish(call, KS_OK, NULL);
}

static void watch_half_closed(struct ks_call *call)
{
	(void)call;
	note(&seen.half_closed);
}

static void stream_writable(struct ks_call *call)
{
	(void)call;
	note(&seen.writable);
}

static void stream_closed(struct ks_call *call)
{
	ks_mutex_lock(&seen.lock);
	if (seen.stream == call)
		seen.stream = NULL;
	ks_mutex_unlock(&seen.lock);
	note(&seen.closed);
}

/* Answers one request with as many messages as it says. */
static void count_message(struct ks_call *call, struct ks_slice message)
{
	char text[32];
	int count;

	KS_ASSERT(message.size < sizeof(text));
	memcpy(text, message.data, message.size);
	text[message.size] = '\0';
	count = (int)strtol(text, NULL, 10);
	for (int i = 0; i < count; i++) {
		int size = snprintf(text, sizeof(text), "%d", i);

		send_slice(call, ks_slice_of(text, (size_t)size));
	}
	ks_stream_finish(call, KS_OK, NULL);
}

/* A hub as watches have it: subscribers in a list, a publisher that sends to them and posts their tasks. */
static struct {
	struct ks_mutex lock;
	struct ks_list subscribers; /* guarded */
	atomic_bool stop;
} hub;

struct subscriber {
	struct ks_list node;
	struct ks_task task;
	struct ks_call *call;
	bool posted; /* guarded by hub.lock */
};

static void publish_task(struct ks_task *task)
{
	struct subscriber *subscriber = ks_container_of(task, struct subscriber, task);

	ks_mutex_lock(&hub.lock);
	subscriber->posted = false;
	ks_mutex_unlock(&hub.lock);
	send_slice(subscriber->call, ks_slice_str("by task"));
}

static void *publish(void *arg)
{
	(void)arg;
	while (!atomic_load(&hub.stop)) {
		ks_mutex_lock(&hub.lock);
		for (struct ks_list *at = hub.subscribers.next; at != &hub.subscribers; at = at->next) {
			struct subscriber *subscriber = ks_container_of(at, struct subscriber, node);

			if (!subscriber->posted) {
				subscriber->posted = true;
				ks_call_post(subscriber->call, &subscriber->task);
			}
			if (ks_stream_queued(subscriber->call, NULL) < 10)
				send_slice(subscriber->call, ks_slice_str("directly"));
		}
		ks_mutex_unlock(&hub.lock);
		(void)sched_yield();
	}
	return NULL;
}

static void hub_open(struct ks_call *call)
{
	struct subscriber *subscriber = ks_xcalloc(1, sizeof(*subscriber));

	subscriber->task.run = publish_task;
	subscriber->call = call;
	ks_call_set_context(call, subscriber);
	ks_mutex_lock(&hub.lock);
	ks_list_append(&hub.subscribers, &subscriber->node);
	ks_mutex_unlock(&hub.lock);
	note(&seen.opened);
}

static void hub_closed(struct ks_call *call)
{
	struct subscriber *subscriber = ks_call_context(call);

	ks_mutex_lock(&hub.lock);
	ks_list_remove(&subscriber->node);
	ks_mutex_unlock(&hub.lock);
	/* Nobody posts it any more, and tasks run on this very thread. */
	KS_ASSERT(ks_call_unpost(call, &subscriber->task) == subscriber->posted);
	memset(subscriber, 0xdd, sizeof(*subscriber));
	free(subscriber);
	note(&seen.closed);
}

static void count_run(struct ks_task *task)
{
	(void)task;
	note(&seen.tasks);
}

/* Posts three tasks and takes the middle one back. */
static void unpost_message(struct ks_call *call, struct ks_slice message)
{
	static struct ks_task tasks[3];

	(void)message;
	for (int i = 0; i < 3; i++) {
		tasks[i].run = count_run;
		ks_call_post(call, &tasks[i]);
	}
	KS_ASSERT(ks_call_unpost(call, &tasks[1]));
	KS_ASSERT(!ks_call_unpost(call, &tasks[1]));
}

/* The same for all but what is given. */
#define STREAM(opened, got, ended, gone)                                                                 \
	{                                                                                                \
		.open = (opened), .message = (got), .half_closed = (ended), .writable = stream_writable, \
		.closed = (gone)                                                                         \
	}

static const struct ks_stream_ops unpost_ops = STREAM(stream_open, unpost_message, chat_half_closed, stream_closed);
static const struct ks_stream_ops hub_ops = STREAM(hub_open, chat_message, chat_half_closed, hub_closed);
static const struct ks_stream_ops chat = STREAM(stream_open, chat_message, chat_half_closed, stream_closed);
static const struct ks_stream_ops watch = STREAM(stream_open, chat_message, watch_half_closed, stream_closed);
static const struct ks_stream_ops counter = STREAM(stream_open, count_message, watch_half_closed, stream_closed);
static const struct ks_stream_ops resting = {
	.open = stream_open,
	.message = chat_message,
	.half_closed = chat_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
	.rests = true,
};

static void where_message(struct ks_call *call, struct ks_slice message)
{
	pthread_t self = pthread_self();

	(void)message;
	send_slice(call, ks_slice_of(&self, sizeof(self)));
}

static const struct ks_stream_ops where = {
	.open = stream_open,
	.message = where_message,
	.half_closed = chat_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
	.rests = true,
};

static const struct ks_stream_ops where_worker = {
	.open = stream_open,
	.message = where_message,
	.half_closed = chat_half_closed,
	.writable = stream_writable,
	.closed = stream_closed,
};

static const struct ks_rpc_method methods[] = {
	{.path = "/test.T/Echo", .unary = echo},
	{.path = "/test.T/Fail", .unary = fail},
	{.path = "/test.T/Metadata", .unary = metadata},
	{.path = "/test.T/Peer", .unary = peer},
	{.path = "/test.T/Identity", .unary = identity},
	{.path = "/test.T/Shared", .unary = shared},
	{.path = "/test.T/TooLarge", .unary = too_large_reply},
	{.path = "/test.T/Later", .unary = later},
	{.path = "/test.T/ByTask", .unary = by_task},
	{.path = "/test.T/ByCommitter", .unary = by_committer},
	{.path = "/test.T/Hold", .unary = hold},
	{.path = "/test.T/Chat", .stream = &chat},
	{.path = "/test.T/Watch", .stream = &watch},
	{.path = "/test.T/Resting", .stream = &resting},
	{.path = "/test.T/Count", .stream = &counter, .single_request = true},
	{.path = "/test.T/Hub", .stream = &hub_ops},
	{.path = "/test.T/Unpost", .stream = &unpost_ops},
	{.path = "/test.T/Large", .unary = large_reply},
	{.path = "/test.T/Patient", .unary = patient},
	{.path = "/test.T/Thread", .unary = which_thread},
	{.path = "/test.T/Long", .unary = long_call},
	{.path = "/test.T/Where", .stream = &where},
	{.path = "/test.T/WhereWorker", .stream = &where_worker},
};

static char target[64];

static void start_with(struct ks_rpc_config config)
{
	struct ks_listener_config listener_config = {.urls = "http://127.0.0.1:0"};
	struct ks_err err;

	config.methods = methods;
	config.method_count = sizeof(methods) / sizeof(methods[0]);
	config.context = &seen;
	config.threads = config.threads ? config.threads : 2;
	config.max_request_bytes = MAX_REQUEST;
	config.max_arena_bytes = 1 << 20;
	config.max_reply_bytes = MAX_REPLIES * LARGE_REPLY;
	memset(&seen, 0, sizeof(seen));
	held = NULL;
	ks_mutex_init(&seen.lock);
	ks_cond_init(&seen.changed);
	rpc = ks_rpc_start(&config, &err);
	KS_ASSERT(rpc);
	listener_config.rpc = rpc;
	listener = ks_listener_start(&listener_config, &err);
	KS_ASSERT(listener);
	(void)snprintf(target, sizeof(target), "%s", ks_listener_urls(listener) + strlen("http://"));
}

static void start_server(size_t max_calls)
{
	start_with((struct ks_rpc_config){.max_calls = max_calls});
}

static void stop_server(void)
{
	ks_listener_stop(listener);
	ks_rpc_stop(rpc, 2000);
	ks_cond_fini(&seen.changed);
	ks_mutex_fini(&seen.lock);
}

/* One unary call on a connection of its own; the text of the answer or of the status. */
static int call_once(const char *method, const void *data, size_t size, char *text, size_t text_size)
{
	struct gc_result result;
	struct gc client;

	gc_open(&client, target, false);
	gc_unary(&client, method, data, size, NULL, NULL, &result);
	gc_close(&client);
	(void)snprintf(text, text_size, "%s", result.data ? result.data : result.text);
	free(result.data);
	return result.status;
}

static void unary_answers_what_was_asked(void)
{
	char text[600];

	start_server(0);
	CU_ASSERT_EQUAL(call_once("/test.T/Echo", "hello", 5, text, sizeof(text)), 0);
	CU_ASSERT_STRING_EQUAL(text, "hello");
	CU_ASSERT_EQUAL(call_once("/test.T/Echo", "", 0, text, sizeof(text)), 0);
	CU_ASSERT_STRING_EQUAL(text, "");
	stop_server();
}

static void unary_failure_has_code_and_text(void)
{
	char text[600];

	start_server(0);
	CU_ASSERT_EQUAL(call_once("/test.T/Fail", "x", 1, text, sizeof(text)), KS_INVALID_ARGUMENT);
	CU_ASSERT_STRING_EQUAL(text, "etcdserver: key is not provided");
	stop_server();
}

static void unary_may_be_answered_by_another_thread(void)
{
	char text[600];

	start_server(0);
	for (int i = 0; i < 20; i++) {
		CU_ASSERT_EQUAL(call_once("/test.T/Later", "x", 1, text, sizeof(text)), 0);
		CU_ASSERT_STRING_EQUAL(text, "from another thread");
		CU_ASSERT_EQUAL(call_once("/test.T/ByTask", "x", 1, text, sizeof(text)), 0);
		CU_ASSERT_STRING_EQUAL(text, "from a task");
	}
	stop_server();
}

static void shared_bytes_arrive_in_their_places(void)
{
	struct gc_result result;
	struct gc client;
	bool right;

	start_server(0);
	gc_open(&client, target, false);
	gc_unary(&client, "/test.T/Shared", "", 0, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.size, 150007);
	right = result.size == 150007 && memcmp(result.data + 100000, "between", 7) == 0;
	for (size_t i = 0; right && i < result.size; i++) {
		if (i < 100000 || i >= 100007)
			right = result.data[i] == (i < 100000 ? 'a' : 'b');
	}
	CU_ASSERT_TRUE(right);
	free(result.data);
	gc_close(&client);
	stop_server();
}

static void a_reply_that_outgrew_its_maximum_is_resource_exhausted(void)
{
	char text[600];

	start_server(0);
	CU_ASSERT_EQUAL(call_once("/test.T/TooLarge", "", 0, text, sizeof(text)), KS_RESOURCE_EXHAUSTED);
	stop_server();
}

static void metadata_and_peer_are_those_of_the_call(void)
{
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	gc_unary(&client, "/test.T/Metadata", "token", 5, "token", "abc.1", &result);
	CU_ASSERT_STRING_EQUAL(result.data, "abc.1");
	free(result.data);
	gc_unary(&client, "/test.T/Metadata", "other", 5, "token", "abc.1", &result);
	CU_ASSERT_EQUAL(result.size, 0);
	free(result.data);
	gc_unary(&client, "/test.T/Peer", "", 0, NULL, NULL, &result);
	CU_ASSERT_PTR_NOT_NULL_FATAL(result.data);
	CU_ASSERT_EQUAL(strncmp(result.data, "127.0.0.1:", 10), 0);
	free(result.data);
	gc_close(&client);
	stop_server();
}

static void open_adopted(struct gc *client, struct ks_identity *identity, int *server_fd)
{
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	int ends[2];

	KS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
	grpc_init();
	client->cq = grpc_completion_queue_create_for_pluck(NULL);
	client->channel = grpc_channel_create_from_fd("adopted", ends[0], credentials, NULL);
	grpc_channel_credentials_release(credentials);
	*server_fd = ends[1];
	ks_rpc_adopt(rpc, ends[1], "adopted", identity);
}

/* One by one, so that a descriptor's number is taken again as soon as it is free. */
static void identity_is_that_of_the_connection_to_the_last(void)
{
	static const char *const names[] = {"DNS:a.example"};
	struct ks_identity *a = ks_identity_new("a", names, 1), *b = ks_identity_new("b", NULL, 0);
	struct gc_stream stream;
	struct gc_result result;
	struct gc first, second, third;
	struct ks_call *call;
	int first_fd, second_fd, third_fd;

	start_server(0);
	open_adopted(&first, a, &first_fd);
	gc_stream_open(&stream, &first, "/test.T/Hold");
	CU_ASSERT_TRUE(gc_stream_send(&stream, "", 0, WAIT_MS));
	gc_stream_half_close(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.messages, 1));
	call = held;
	/* The client is gone; what it asked for still runs. */
	gc_stream_cancel(&stream);
	gc_stream_end(&stream, &result);
	gc_close(&first);
	open_adopted(&second, b, &second_fd);
	gc_unary(&second, "/test.T/Identity", "", 0, NULL, NULL, &result);
	CU_ASSERT_STRING_EQUAL(result.data, "b");
	free(result.data);
	CU_ASSERT_NOT_EQUAL(first_fd, second_fd);
	CU_ASSERT_PTR_NOT_NULL_FATAL(ks_call_identity(call));
	CU_ASSERT_STRING_EQUAL(ks_call_identity(call)->common_name, "a");
	CU_ASSERT_EQUAL(ks_call_identity(call)->name_count, 1);
	reply_slice(call, ks_slice_str(""));
	gc_close(&second);
	/* Nothing of an earlier connection sticks to a number. */
	for (int i = 0; i < 20; i++) {
		open_adopted(&third, NULL, &third_fd);
		gc_unary(&third, "/test.T/Identity", "", 0, NULL, NULL, &result);
		CU_ASSERT_STRING_EQUAL(result.data, "nobody");
		free(result.data);
		gc_close(&third);
	}
	ks_identity_unref(a);
	ks_identity_unref(b);
	stop_server();
}

static void oversize_has_the_text_of_grpc_go(void)
{
	char *large = calloc(1, MAX_REQUEST + 1), text[600];

	start_server(0);
	CU_ASSERT_EQUAL(call_once("/test.T/Echo", large, MAX_REQUEST, text, sizeof(text)), 0);
	CU_ASSERT_EQUAL(call_once("/test.T/Echo", large, MAX_REQUEST + 1, text, sizeof(text)), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_STRING_EQUAL(text, "grpc: received message larger than max (65537 vs. 65536)");
	free(large);
	stop_server();
}

static void oversize_ends_a_stream_with_the_same_text(void)
{
	char *large = calloc(1, MAX_REQUEST + 1);
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(gc_stream_send(&stream, large, MAX_REQUEST + 1, WAIT_MS));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_STRING_EQUAL(result.text, "grpc: received message larger than max (65537 vs. 65536)");
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_EQUAL(seen.messages, 0);
	gc_close(&client);
	free(large);
	stop_server();
}

static void unknown_methods_and_services_have_etcds_texts(void)
{
	char text[600];

	start_server(0);
	CU_ASSERT_EQUAL(call_once("/test.T/Nope", "x", 1, text, sizeof(text)), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(text, "unknown method Nope for service test.T");
	CU_ASSERT_EQUAL(call_once("/no.Such/Thing", "x", 1, text, sizeof(text)), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(text, "unknown service no.Such");
	CU_ASSERT_EQUAL(call_once("/test.T", "x", 1, text, sizeof(text)), KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(text, "malformed method name: \"/test.T\"");
	stop_server();
}

static void compressed_requests_are_unimplemented(void)
{
	char *zeros = calloc(1, 10000);
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, true);
	gc_unary(&client, "/test.T/Echo", zeros, 10000, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, KS_UNIMPLEMENTED);
	CU_ASSERT_STRING_EQUAL(result.text, "grpc: Decompressor is not installed for grpc-encoding \"gzip\"");
	free(result.data);
	gc_stream_open(&stream, &client, "/test.T/Chat");
	CU_ASSERT_TRUE(gc_stream_send(&stream, zeros, 10000, WAIT_MS));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_UNIMPLEMENTED);
	gc_close(&client);
	free(zeros);
	stop_server();
}

static void calls_over_the_limit_are_refused_and_leave_no_trace(void)
{
	struct gc_stream first, second;
	struct ks_rpc_stats stats;
	struct gc_result result;
	struct gc client;

	start_server(1);
	gc_open(&client, target, false);
	gc_stream_open(&first, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	gc_unary(&client, "/test.T/Echo", "x", 1, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, KS_RESOURCE_EXHAUSTED);
	free(result.data);
	gc_stream_open(&second, &client, "/test.T/Watch");
	gc_stream_end(&second, &result);
	CU_ASSERT_EQUAL(result.status, KS_RESOURCE_EXHAUSTED);
	gc_stream_cancel(&first);
	gc_stream_end(&first, &result);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_EQUAL(seen.opened, 1);
	do { /* the refused ones end a moment after their client knows */
		ks_rpc_stats(rpc, &stats);
	} while (stats.calls_open > 0);
	gc_unary(&client, "/test.T/Echo", "x", 1, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	free(result.data);
	gc_close(&client);
	stop_server();
}

static void large_replies_that_nobody_takes_are_bounded(void)
{
	struct gc_stream streams[2 * MAX_REPLIES];
	struct ks_rpc_stats stats;
	struct gc_result result;
	struct gc client;
	char text[512];

	start_server(0);
	gc_open(&client, target, false);
	for (int i = 0; i < 2 * MAX_REPLIES; i++) {
		gc_stream_open(&streams[i], &client, "/test.T/Large");
		CU_ASSERT_TRUE(gc_stream_send(&streams[i], "x", 1, WAIT_MS));
		gc_stream_half_close(&streams[i]);
	}
	CU_ASSERT_TRUE(wait_for(&seen.messages, 2 * MAX_REPLIES));
	CU_ASSERT_EQUAL(call_once("/test.T/Large", "x", 1, text, sizeof(text)), KS_RESOURCE_EXHAUSTED);
	CU_ASSERT_STRING_EQUAL(text, "too many large responses in flight");
	CU_ASSERT_EQUAL(call_once("/test.T/Echo", "small", 5, text, sizeof(text)), 0);
	for (int i = 0; i < 2 * MAX_REPLIES; i++) {
		gc_stream_cancel(&streams[i]);
		gc_stream_end(&streams[i], &result);
	}
	do { /* they end a moment after their client knows */
		ks_rpc_stats(rpc, &stats);
	} while (stats.calls_open > 0);
	CU_ASSERT_EQUAL(call_once("/test.T/Large", "x", 1, text, sizeof(text)), 0);
	gc_close(&client);
	stop_server();
}

static const char *called; /* by call_many */

static void *call_many(void *arg)
{
	int *failed = arg;
	struct gc client;

	gc_open(&client, target, false);
	for (int i = 0; i < 2500; i++) {
		struct gc_result result;
		char text[16];
		int size = snprintf(text, sizeof(text), "%d", i);

		gc_unary(&client, called, text, (size_t)size, NULL, NULL, &result);
		*failed += result.status != 0 || !result.data || strcmp(result.data, text) != 0;
		free(result.data);
	}
	gc_close(&client);
	return NULL;
}

static void ten_thousand_calls(const char *method)
{
	struct ks_rpc_stats stats;
	pthread_t threads[4];
	int failed[4] = {0};

	called = method;
	start_server(0);
	for (int i = 0; i < 4; i++)
		KS_ASSERT(pthread_create(&threads[i], NULL, call_many, &failed[i]) == 0);
	for (int i = 0; i < 4; i++) {
		KS_ASSERT(pthread_join(threads[i], NULL) == 0);
		CU_ASSERT_EQUAL(failed[i], 0);
	}
	ks_rpc_stats(rpc, &stats);
	CU_ASSERT_EQUAL(stats.calls_started, 10000);
	stop_server();
}

static void ten_thousand_calls_are_all_answered(void)
{
	ten_thousand_calls("/test.T/Echo");
}

/* By the kernel's own clock, what nobody lets go comes after 200 ms. */
static void answers_to_many_calls_at_once_are_gathered_and_not_late(void)
{
	enum { ROUNDS = 20, CALLS = 50 };
	double writes = ks_metrics_value(KS_METRIC_GATHERED_WRITES, 0),
	       pulls = ks_metrics_value(KS_METRIC_GATHERED_PULLS, 0);
	int64_t began_ms;
	int raw;

	start_server(0);
	raw = raw_http2_connect(target);
	began_ms = ks_clock_now(ks_clock_system());
	for (uint32_t round = 0; round < ROUNDS; round++) {
		raw_http2_call_many(raw, 1 + round * CALLS * 2, CALLS, "/test.T/Echo", "x");
		CU_ASSERT_TRUE(raw_http2_wait_ends(raw, CALLS, WAIT_MS));
	}
	CU_ASSERT(ks_clock_now(ks_clock_system()) - began_ms < ROUNDS * 100);
	(void)close(raw);
	stop_server();
	writes = ks_metrics_value(KS_METRIC_GATHERED_WRITES, 0) - writes;
	pulls = ks_metrics_value(KS_METRIC_GATHERED_PULLS, 0) - pulls;
	CU_ASSERT(writes > ROUNDS * CALLS / 2);
	CU_ASSERT(pulls > 0 && writes / pulls > 4);
}

static void ten_thousand_calls_are_answered_by_a_visitor_or_a_task(void)
{
	start_committer();
	ten_thousand_calls("/test.T/ByCommitter");
	stop_committer();
	CU_ASSERT_NOT_EQUAL(committer.here, 0);
}

struct brief {
	struct ks_task task;
	pthread_t ran_on;
};

static void brief_reply(struct ks_task *task)
{
	struct brief *brief = ks_container_of(task, struct brief, task);

	brief->ran_on = pthread_self();
	reply_slice(held, ks_slice_str("brief"));
	note(&seen.tasks);
}

/* Keeps the held call's thread until the test has looked. */
static void keep_busy(struct ks_task *task)
{
	(void)task;
	note(&seen.opened);
	(void)wait_for(&seen.closed, 1);
}

static void start_held(struct gc *client, struct gc_stream *stream)
{
	start_server(0);
	gc_open(client, target, false);
	gc_stream_open(stream, client, "/test.T/Hold");
	CU_ASSERT_TRUE(gc_stream_send(stream, "x", 1, WAIT_MS));
	gc_stream_half_close(stream);
	CU_ASSERT_TRUE_FATAL(wait_for(&seen.messages, 1));
}

static void end_held(struct gc *client, struct gc_stream *stream)
{
	struct gc_result result;
	size_t size = 0;
	char *data = NULL;

	CU_ASSERT_TRUE(gc_stream_receive(stream, &data, &size));
	CU_ASSERT_EQUAL(size, 5);
	free(data);
	gc_stream_end(stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	free(result.data);
	gc_close(client);
	stop_server();
}

static void a_brief_task_runs_on_the_callers_thread_while_the_queue_sleeps(void)
{
	struct brief brief = {.task.run = brief_reply};
	struct gc_stream stream;
	struct gc client;

	start_held(&client, &stream);
	(void)usleep(200000); /* until the thread waits for events again */
	ks_call_run(held, &brief.task);
	CU_ASSERT_EQUAL(value_of(&seen.tasks), 1);
	CU_ASSERT_TRUE(pthread_equal(brief.ran_on, pthread_self()));
	end_held(&client, &stream);
}

static void a_brief_task_waits_for_its_turn_while_the_queue_is_busy(void)
{
	struct brief brief = {.task.run = brief_reply};
	struct ks_task busy = {.run = keep_busy};
	struct gc_stream stream;
	struct gc client;

	start_held(&client, &stream);
	ks_call_post(held, &busy);
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	ks_call_run(held, &brief.task);
	CU_ASSERT_EQUAL(value_of(&seen.tasks), 0);
	note(&seen.closed);
	CU_ASSERT_TRUE(wait_for(&seen.tasks, 1));
	CU_ASSERT_FALSE(pthread_equal(brief.ran_on, pthread_self()));
	end_held(&client, &stream);
}

static void stream_echoes_in_order_and_ends_after_half_close(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	char text[16], *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Chat");
	for (int i = 0; i < 100; i++) {
		int size = snprintf(text, sizeof(text), "%d", i);

		CU_ASSERT_TRUE(gc_stream_send(&stream, text, (size_t)size, WAIT_MS));
	}
	gc_stream_half_close(&stream);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(text, sizeof(text), "%d", i);
		CU_ASSERT_TRUE_FATAL(gc_stream_receive(&stream, &data, &got));
		CU_ASSERT_STRING_EQUAL(data, text);
		free(data);
	}
	CU_ASSERT_FALSE(gc_stream_receive(&stream, &data, &got));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_EQUAL(seen.half_closed, 1);
	gc_close(&client);
	stop_server();
}

static void echo_is(struct gc_stream *stream, int number)
{
	char text[16], *data;
	size_t got;

	(void)snprintf(text, sizeof(text), "%d", number);
	CU_ASSERT_TRUE_FATAL(gc_stream_receive(stream, &data, &got));
	CU_ASSERT_STRING_EQUAL(data, text);
	free(data);
}

static void send_number(struct gc_stream *stream, int number)
{
	char text[16];
	int size = snprintf(text, sizeof(text), "%d", number);

	CU_ASSERT_TRUE(gc_stream_send(stream, text, (size_t)size, WAIT_MS));
}

/* One message after the other, each waited for, until the reader of the stream tries a rest. Returns the longest time to an echo. */
static int64_t send_until_it_rests(struct gc_stream *stream, int *number)
{
	struct ks_clock *clock = ks_clock_system();
	int64_t longest_ms = 0;

	for (int end = *number + KS_REST_TRY + 2; *number < end; ++*number) {
		int64_t sent_ms;

		(void)usleep(10 * KS_REST_SOON_US);
		sent_ms = ks_clock_now(clock);
		send_number(stream, *number);
		echo_is(stream, *number);
		if (ks_clock_now(clock) - sent_ms > longest_ms)
			longest_ms = ks_clock_now(clock) - sent_ms;
	}
	return longest_ms;
}

static void resting_stream_loses_and_reorders_nothing(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	int number = 0;
	char *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Resting");
	CU_ASSERT_TRUE(send_until_it_rests(&stream, &number) >= KS_REST_MS / 2);
	for (int round = 0; round < 10; round++) {
		(void)usleep(1000 * KS_REST_MS);
		for (int i = 0; i < 20; i++)
			send_number(&stream, number + i);
		for (int i = 0; i < 20; i++)
			echo_is(&stream, number++);
	}
	send_number(&stream, number);
	gc_stream_half_close(&stream);
	echo_is(&stream, number);
	CU_ASSERT_FALSE(gc_stream_receive(&stream, &data, &got));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_EQUAL(seen.half_closed, 1);
	gc_close(&client);
	stop_server();
}

static void resting_stream_can_be_cancelled_and_the_server_stopped(void)
{
	struct gc_stream first, second;
	struct gc_result result;
	struct gc client;
	int number = 0;
	char *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&first, &client, "/test.T/Resting");
	(void)send_until_it_rests(&first, &number);
	(void)usleep(1000 * KS_REST_MS);
	send_number(&first, number);
	send_number(&first, number + 1);
	gc_stream_cancel(&first);
	gc_stream_end(&first, &result);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	gc_stream_open(&second, &client, "/test.T/Resting");
	number = 0;
	(void)send_until_it_rests(&second, &number);
	(void)usleep(1000 * KS_REST_MS);
	send_number(&second, number);
	stop_server();
	CU_ASSERT_EQUAL(seen.closed, 2);
	while (gc_stream_receive(&second, &data, &got)) /* it may have been read */
		free(data);
	gc_stream_end(&second, &result);
	CU_ASSERT_EQUAL(result.status, KS_UNAVAILABLE);
	gc_close(&client);
}

static void single_request_gets_many_answers(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	char text[16], *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Count");
	CU_ASSERT_TRUE(gc_stream_send(&stream, "3000", 4, WAIT_MS));
	gc_stream_half_close(&stream);
	for (int i = 0; i < 3000; i++) {
		(void)snprintf(text, sizeof(text), "%d", i);
		CU_ASSERT_TRUE_FATAL(gc_stream_receive(&stream, &data, &got));
		CU_ASSERT_STRING_EQUAL(data, text);
		free(data);
	}
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	gc_close(&client);
	stop_server();
}

static void half_closed_watch_stays_open(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	char *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	gc_stream_half_close(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.half_closed, 1));
	CU_ASSERT_EQUAL(value_of(&seen.closed), 0);
	send_slice(seen.stream, ks_slice_str("an event"));
	CU_ASSERT_TRUE_FATAL(gc_stream_receive(&stream, &data, &got));
	CU_ASSERT_STRING_EQUAL(data, "an event");
	free(data);
	CU_ASSERT_TRUE(wait_for(&seen.writable, 1));
	gc_stream_cancel(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	gc_stream_end(&stream, &result);
	gc_close(&client);
	stop_server();
}

static void finish_sends_what_is_queued_and_then_the_status(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	char *data;
	size_t got;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(gc_stream_send(&stream, "one", 3, WAIT_MS));
	CU_ASSERT_TRUE(gc_stream_send(&stream, "close", 5, WAIT_MS)); /* its echo comes after the finish */
	CU_ASSERT_TRUE(gc_stream_receive(&stream, &data, &got));
	CU_ASSERT_STRING_EQUAL(data, "one");
	free(data);
	CU_ASSERT_FALSE(gc_stream_receive(&stream, &data, &got));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_FAILED_PRECONDITION);
	CU_ASSERT_STRING_EQUAL(result.text, "closed on request");
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	gc_close(&client);
	stop_server();
}

static void cancel_and_disconnect_reach_closed(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	int64_t start_ms;
	int raw;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	start_ms = ks_clock_now(ks_clock_system());
	gc_stream_cancel(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_TRUE(ks_clock_now(ks_clock_system()) - start_ms < 1000);
	CU_ASSERT_EQUAL(seen.half_closed, 0);
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_CANCELLED);
	gc_close(&client);

	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 2));
	(void)close(raw);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 2));
	CU_ASSERT_EQUAL(seen.half_closed, 0);
	stop_server();
}

static bool above_limit(void)
{
	bool above;

	ks_mutex_lock(&seen.lock);
	above = seen.most_bytes > 1 << 20;
	ks_mutex_unlock(&seen.lock);
	return above;
}

static void a_client_that_never_reads_is_not_read_from(void)
{
	enum { SIZE = 16384, MOST = 100000 };
	char *block = calloc(1, SIZE), *data;
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	size_t got;
	int sent = 0;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Chat");
	/* It answers each message; we send until it has more than enough unsent and we are not heard any more. */
	for (int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS; sent < MOST;) {
		if (gc_stream_send(&stream, block, SIZE, 500))
			sent++;
		else if (above_limit() || ks_clock_now(ks_clock_system()) > end_ms)
			break;
	}
	CU_ASSERT_TRUE(sent < MOST);
	ks_mutex_lock(&seen.lock);
	CU_ASSERT_TRUE(seen.most_queued <= 257);
	CU_ASSERT_TRUE(seen.most_bytes <= (1 << 20) + SIZE);
	CU_ASSERT_TRUE(seen.most_bytes > 1 << 20); /* it was the limit that stopped it */
	ks_mutex_unlock(&seen.lock);

	/* As soon as we read, everything goes on, and nothing is missing. */
	for (int i = 0; i < sent; i++) {
		CU_ASSERT_TRUE_FATAL(gc_stream_receive(&stream, &data, &got));
		CU_ASSERT_EQUAL(got, SIZE);
		free(data);
	}
	gc_stream_half_close(&stream);
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	gc_close(&client);
	free(block);
	stop_server();
}

/* Tasks that many threads post to one stream. */
enum { POSTERS = 4, TASKS = 500 };

struct poster {
	pthread_t thread;
	struct {
		struct ks_task task;
		struct poster *owner;
	} tasks[TASKS];
	struct ks_call *call;
};

static pthread_t home;
static atomic_bool away_from_home;

static void count_task(struct ks_task *task)
{
	(void)task;
	if (seen.tasks == 0)
		home = pthread_self();
	else if (!pthread_equal(home, pthread_self()))
		atomic_store(&away_from_home, true);
	note(&seen.tasks);
}

static void *post_tasks(void *arg)
{
	struct poster *poster = arg;

	for (int i = 0; i < TASKS; i++) {
		poster->tasks[i].task.run = count_task;
		ks_call_post(poster->call, &poster->tasks[i].task);
		send_slice(poster->call, ks_slice_str("posted"));
	}
	return NULL;
}

static void tasks_and_messages_of_many_threads_all_arrive(void)
{
	struct poster *posters = calloc(POSTERS, sizeof(*posters));
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	char *data;
	size_t got;

	start_server(0);
	atomic_store(&away_from_home, false);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	for (int i = 0; i < POSTERS; i++) {
		posters[i].call = seen.stream;
		KS_ASSERT(pthread_create(&posters[i].thread, NULL, post_tasks, &posters[i]) == 0);
	}
	for (int i = 0; i < POSTERS * TASKS; i++) {
		CU_ASSERT_TRUE_FATAL(gc_stream_receive(&stream, &data, &got));
		free(data);
	}
	for (int i = 0; i < POSTERS; i++)
		KS_ASSERT(pthread_join(posters[i].thread, NULL) == 0);
	CU_ASSERT_TRUE(wait_for(&seen.tasks, POSTERS * TASKS));
	CU_ASSERT_FALSE(atomic_load(&away_from_home));
	gc_stream_cancel(&stream);
	gc_stream_end(&stream, &result);
	gc_close(&client);
	stop_server();
	free(posters);
}

static void taking_a_task_back_leaves_the_others(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Unpost");
	CU_ASSERT_TRUE(gc_stream_send(&stream, "x", 1, WAIT_MS));
	CU_ASSERT_TRUE(wait_for(&seen.tasks, 2));
	gc_stream_half_close(&stream);
	gc_stream_end(&stream, &result);
	CU_ASSERT_TRUE(wait_for(&seen.closed, 1));
	CU_ASSERT_EQUAL(seen.tasks, 2);
	gc_close(&client);
	stop_server();
}

/* Subscribes again and again, hears a little, and goes in different ways. */
static void *subscribe(void *arg)
{
	int *failed = arg;
	struct gc client;

	gc_open(&client, target, false);
	for (int i = 0; i < 60; i++) {
		struct gc_stream stream;
		struct gc_result result;
		char *data;
		size_t got;

		gc_stream_open(&stream, &client, "/test.T/Hub");
		for (int heard = 0; heard < i % 4; heard++) {
			if (gc_stream_receive(&stream, &data, &got))
				free(data);
			else
				(*failed)++;
		}
		if (i % 3 == 0)
			gc_stream_half_close(&stream);
		gc_stream_cancel(&stream);
		gc_stream_end(&stream, &result);
		if (result.status != KS_CANCELLED && result.status != KS_OK)
			printf("# subscriber: status %d %s\n", result.status, result.text);
	}
	gc_close(&client);
	return NULL;
}

static void streams_come_and_go_under_fire(void)
{
	pthread_t publishers[2], clients[3];
	int failed[3] = {0}, opened;

	ks_mutex_init(&hub.lock);
	ks_list_init(&hub.subscribers);
	atomic_store(&hub.stop, false);
	start_server(0);
	for (int i = 0; i < 2; i++)
		KS_ASSERT(pthread_create(&publishers[i], NULL, publish, NULL) == 0);
	for (int i = 0; i < 3; i++)
		KS_ASSERT(pthread_create(&clients[i], NULL, subscribe, &failed[i]) == 0);
	for (int i = 0; i < 3; i++) {
		KS_ASSERT(pthread_join(clients[i], NULL) == 0);
		CU_ASSERT_EQUAL(failed[i], 0);
	}
	/* A stream that was cancelled before it was seen may never have opened. */
	opened = value_of(&seen.opened);
	CU_ASSERT_TRUE(opened > 100);
	CU_ASSERT_TRUE(wait_for(&seen.closed, opened));
	ks_listener_stop(listener);
	ks_rpc_stop(rpc, 2000);
	CU_ASSERT_EQUAL(seen.opened, seen.closed);
	CU_ASSERT_TRUE(ks_list_empty(&hub.subscribers));
	atomic_store(&hub.stop, true);
	for (int i = 0; i < 2; i++)
		KS_ASSERT(pthread_join(publishers[i], NULL) == 0);
	ks_mutex_fini(&hub.lock);
	ks_cond_fini(&seen.changed);
	ks_mutex_fini(&seen.lock);
}

static void stop_under_fire_closes_every_stream(void)
{
	enum { STREAMS = 20 };
	struct gc_stream streams[STREAMS];
	struct gc_result result;
	pthread_t publishers[2];
	struct gc client;

	ks_mutex_init(&hub.lock);
	ks_list_init(&hub.subscribers);
	atomic_store(&hub.stop, false);
	start_server(0);
	gc_open(&client, target, false);
	for (int i = 0; i < STREAMS; i++)
		gc_stream_open(&streams[i], &client, "/test.T/Hub");
	CU_ASSERT_TRUE(wait_for(&seen.opened, STREAMS));
	for (int i = 0; i < 2; i++)
		KS_ASSERT(pthread_create(&publishers[i], NULL, publish, NULL) == 0);
	ks_listener_stop(listener);
	ks_rpc_stop(rpc, 100); /* the clients do not read, so some must be cancelled */
	CU_ASSERT_EQUAL(seen.closed, STREAMS);
	atomic_store(&hub.stop, true);
	for (int i = 0; i < 2; i++)
		KS_ASSERT(pthread_join(publishers[i], NULL) == 0);
	for (int i = 0; i < STREAMS; i++) {
		gc_stream_cancel(&streams[i]);
		gc_stream_end(&streams[i], &result);
		CU_ASSERT_NOT_EQUAL(result.status, 0);
	}
	gc_close(&client);
	ks_mutex_fini(&hub.lock);
	ks_cond_fini(&seen.changed);
	ks_mutex_fini(&seen.lock);
}

static void stop_ends_streams_with_etcds_text(void)
{
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	stop_server();
	CU_ASSERT_EQUAL(seen.closed, 1);
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(result.text, "etcdserver: server stopped");
	gc_close(&client);
}

static void *let_go(void *arg)
{
	struct timespec moment = {.tv_nsec = 50 * 1000 * 1000};

	(void)arg;
	(void)nanosleep(&moment, NULL); /* the stop is to find the call unanswered */
	reply_slice(held, ks_slice_str("just in time"));
	return NULL;
}

static void *call_hold(void *arg)
{
	struct gc_result *result = arg;
	struct gc client;

	gc_open(&client, target, false);
	gc_unary(&client, "/test.T/Hold", "", 0, NULL, NULL, result);
	gc_close(&client);
	return NULL;
}

static void stop_waits_for_unary_calls_that_run(void)
{
	struct gc_result result = {0};
	pthread_t caller, releaser;

	start_server(0);
	KS_ASSERT(pthread_create(&caller, NULL, call_hold, &result) == 0);
	CU_ASSERT_TRUE(wait_for(&seen.messages, 1));
	KS_ASSERT(pthread_create(&releaser, NULL, let_go, NULL) == 0);
	stop_server();
	KS_ASSERT(pthread_join(releaser, NULL) == 0);
	KS_ASSERT(pthread_join(caller, NULL) == 0);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(result.data);
	CU_ASSERT_STRING_EQUAL(result.data, "just in time");
	free(result.data);
}

static void await_no_calls(void)
{
	struct ks_rpc_stats stats;
	int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS;

	do { /* they end a moment after their client knows */
		ks_rpc_stats(rpc, &stats);
	} while (stats.calls_open > 0 && ks_clock_now(ks_clock_system()) < end_ms);
	CU_ASSERT_EQUAL(stats.calls_open, 0);
}

static void start_patient(struct gc_stream *stream, struct gc *client, const char *request)
{
	gc_stream_open(stream, client, "/test.T/Patient");
	CU_ASSERT_TRUE(gc_stream_send(stream, request, strlen(request), WAIT_MS));
	gc_stream_half_close(stream);
}

static void a_unary_call_that_waits_learns_of_its_clients_end(void)
{
	/* A DATA frame that ends the client's half of stream 1. */
	static const uint8_t empty_message[] = {0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0};
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;
	int64_t start_ms;
	int raw;

	start_server(0);
	gc_open(&client, target, false);
	start_patient(&stream, &client, "");
	CU_ASSERT_TRUE(wait_for(&seen.messages, 1));
	CU_ASSERT_EQUAL(value_of(&seen.tasks), 0);
	start_ms = ks_clock_now(ks_clock_system());
	gc_stream_cancel(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.tasks, 1));
	CU_ASSERT_TRUE(ks_clock_now(ks_clock_system()) - start_ms < 1000);
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, KS_CANCELLED);
	await_no_calls();
	/* An answer in time is an answer, and nothing of the watching is left. */
	gc_unary(&client, "/test.T/Patient", "x", 1, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_PTR_NOT_NULL(result.data);
	free(result.data);
	await_no_calls();
	CU_ASSERT_EQUAL(value_of(&seen.tasks), 1);
	gc_close(&client);
	/* A client that is gone without a word. */
	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Patient");
	CU_ASSERT_EQUAL(write(raw, empty_message, sizeof(empty_message)), (ssize_t)sizeof(empty_message));
	CU_ASSERT_TRUE(wait_for(&seen.messages, 3));
	(void)close(raw);
	CU_ASSERT_TRUE(wait_for(&seen.tasks, 2));
	await_no_calls();
	stop_server();
}

static void cancels_and_answers_of_waiting_calls_race(void)
{
	enum { CALLS = 300 };
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	for (int i = 0; i < CALLS; i++) {
		start_patient(&stream, &client, "x");
		gc_stream_cancel(&stream);
		gc_stream_end(&stream, &result);
		CU_ASSERT_TRUE(result.status == KS_OK || result.status == KS_CANCELLED);
	}
	await_no_calls();
	gc_close(&client);
	stop_server();
}

static void stop_ends_unary_calls_that_wait(void)
{
	enum { CALLS = 20 };
	struct gc_stream streams[CALLS];
	struct gc_result result;
	struct gc client;
	int64_t start_ms;

	start_server(0);
	gc_open(&client, target, false);
	for (int i = 0; i < CALLS; i++)
		start_patient(&streams[i], &client, "");
	CU_ASSERT_TRUE(wait_for(&seen.messages, CALLS));
	start_ms = ks_clock_now(ks_clock_system());
	ks_listener_stop(listener);
	ks_rpc_stop(rpc, WAIT_MS);
	CU_ASSERT_TRUE(ks_clock_now(ks_clock_system()) - start_ms < WAIT_MS / 2);
	CU_ASSERT_EQUAL(seen.tasks, CALLS);
	for (int i = 0; i < CALLS; i++) {
		gc_stream_end(&streams[i], &result);
		CU_ASSERT_EQUAL(result.status, KS_UNAVAILABLE);
		CU_ASSERT_STRING_EQUAL(result.text, "stopped");
	}
	gc_close(&client);
	ks_cond_fini(&seen.changed);
	ks_mutex_fini(&seen.lock);
}

static pthread_t thread_of(struct gc *client, const char *method, size_t request_size)
{
	struct gc_result result;
	pthread_t thread = 0;

	gc_unary(client, method, "x", request_size, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_EQUAL(result.size, sizeof(thread));
	if (result.data && result.size == sizeof(thread))
		memcpy(&thread, result.data, sizeof(thread));
	free(result.data);
	return thread;
}

static void calls_of_few_clients_stay_on_one_thread(void)
{
	struct gc clients[4];
	pthread_t first;

	start_server(0);
	for (int i = 0; i < 4; i++)
		gc_open(&clients[i], target, false);
	first = thread_of(&clients[0], "/test.T/Thread", 0);
	for (int i = 0; i < 100; i++)
		CU_ASSERT_TRUE(pthread_equal(thread_of(&clients[i % 4], "/test.T/Thread", 0), first));
	for (int i = 0; i < 4; i++)
		gc_close(&clients[i]);
	stop_server();
}

static void a_long_call_holds_nobody_up(void)
{
	struct gc_result result;
	struct gc_stream stream;
	struct gc client;
	pthread_t first, moved = 0;
	size_t size = 0;
	char *data = NULL;

	start_server(0);
	gc_open(&client, target, false);
	first = thread_of(&client, "/test.T/Thread", 0);
	gc_stream_open(&stream, &client, "/test.T/Long");
	CU_ASSERT_TRUE(gc_stream_send(&stream, "x", 1, WAIT_MS));
	gc_stream_half_close(&stream);
	CU_ASSERT_TRUE(wait_for(&seen.messages, 1));
	for (int i = 0; i < 100; i++)
		CU_ASSERT_TRUE(pthread_equal(thread_of(&client, "/test.T/Thread", 0), first));
	note(&seen.tasks);
	CU_ASSERT_TRUE(gc_stream_receive(&stream, &data, &size));
	CU_ASSERT_EQUAL_FATAL(size, sizeof(moved));
	memcpy(&moved, data, sizeof(moved));
	free(data);
	CU_ASSERT_FALSE(pthread_equal(moved, first));
	gc_stream_end(&stream, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	gc_close(&client);
	stop_server();
}

static pthread_t open_where(struct gc_stream *stream, struct gc *client, const char *method)
{
	pthread_t thread = 0;
	size_t size = 0;
	char *data = NULL;

	gc_stream_open(stream, client, method);
	CU_ASSERT_TRUE(gc_stream_send(stream, "x", 1, WAIT_MS));
	CU_ASSERT_TRUE(gc_stream_receive(stream, &data, &size));
	if (size == sizeof(thread))
		memcpy(&thread, data, sizeof(thread));
	free(data);
	return thread;
}

/* Streams of small messages are the first thread's while they are few. */
static void many_streams_are_shared_with_the_workers(void)
{
	enum { STREAMS = 600 };
	static struct gc_stream streams[STREAMS];
	struct gc_result result;
	struct gc client;
	pthread_t first;
	int elsewhere = 0;

	start_server(0);
	gc_open(&client, target, false);
	first = thread_of(&client, "/test.T/Thread", 0);
	for (int i = 0; i < STREAMS; i++) {
		bool there = pthread_equal(open_where(&streams[i], &client, "/test.T/Where"), first);

		CU_ASSERT_TRUE(there || i >= 200);
		elsewhere += !there;
	}
	CU_ASSERT_TRUE(elsewhere >= 100);
	for (int i = 0; i < STREAMS; i++) {
		gc_stream_half_close(&streams[i]);
		gc_stream_end(&streams[i], &result);
		CU_ASSERT_EQUAL(result.status, 0);
	}
	CU_ASSERT_TRUE(wait_for(&seen.closed, STREAMS));
	elsewhere = 0;
	for (int i = 0; i < 150; i++) { /* what they were given before is still theirs */
		elsewhere += !pthread_equal(open_where(&streams[0], &client, "/test.T/Where"), first);
		gc_stream_half_close(&streams[0]);
		gc_stream_end(&streams[0], &result);
	}
	CU_ASSERT_TRUE(elsewhere < 100);
	gc_close(&client);
	stop_server();
}

enum { WORKERS = 3, SHARED_STREAMS = 48 };

static struct {
	struct gc_stream stream;
	pthread_t thread;
	bool open;
} shared_streams[SHARED_STREAMS];

static int thread_index(pthread_t threads[WORKERS], int *known, pthread_t thread)
{
	int i = 0;

	while (i < *known && !pthread_equal(threads[i], thread))
		i++;
	if (i == *known) {
		KS_ASSERT(i < WORKERS);
		threads[(*known)++] = thread;
	}
	return i;
}

/* Also those of one connection, and also after others have ended. */
static void workers_have_as_many_streams_each(void)
{
	pthread_t threads[WORKERS];
	struct gc_result result;
	struct gc client;
	int known = 0, ended = 0;

	start_with((struct ks_rpc_config){.threads = WORKERS});
	gc_open(&client, target, false);
	for (int round = 0; round < 2; round++) {
		int count[WORKERS] = {0};

		for (int i = 0; i < SHARED_STREAMS; i++) {
			if (!shared_streams[i].open)
				shared_streams[i].thread =
					open_where(&shared_streams[i].stream, &client, "/test.T/WhereWorker");
			shared_streams[i].open = true;
			count[thread_index(threads, &known, shared_streams[i].thread)]++;
		}
		/* One or two that the core had been asked for were placed before. */
		for (int w = 0; w < WORKERS; w++)
			CU_ASSERT(abs(count[w] - SHARED_STREAMS / WORKERS) <= 2);
		for (int i = 0; i < SHARED_STREAMS; i++) {
			if (round == 0 && pthread_equal(shared_streams[i].thread, threads[0]))
				continue;
			gc_stream_half_close(&shared_streams[i].stream);
			gc_stream_end(&shared_streams[i].stream, &result);
			CU_ASSERT_EQUAL(result.status, 0);
			shared_streams[i].open = false;
			ended++;
		}
		CU_ASSERT_TRUE(wait_for(&seen.closed, ended));
	}
	gc_close(&client);
	stop_server();
}

static atomic_bool enough;
static atomic_int served_by_others;
static pthread_t the_first;

static void *call_without_rest(void *arg)
{
	struct gc client;

	(void)arg;
	gc_open(&client, target, false);
	while (!atomic_load(&enough))
		if (!pthread_equal(thread_of(&client, "/test.T/Thread", 1), the_first))
			atomic_fetch_add(&served_by_others, 1);
	gc_close(&client);
	return NULL;
}

#define BUSY_CLIENTS 4

static void workers_help_a_busy_first_thread_until_it_is_calm_again(void)
{
	int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS;
	pthread_t threads[BUSY_CLIENTS];
	struct gc clients[8];
	int calm = 0;

	start_with((struct ks_rpc_config){.busy_percent = 10, .spare_percent = -1});
	for (int i = 0; i < 8; i++)
		gc_open(&clients[i], target, false);
	the_first = thread_of(&clients[0], "/test.T/Thread", 0);
	atomic_store(&enough, false);
	atomic_store(&served_by_others, 0);
	for (int i = 0; i < BUSY_CLIENTS; i++)
		KS_ASSERT(pthread_create(&threads[i], NULL, call_without_rest, NULL) == 0);
	while (atomic_load(&served_by_others) < 100 && ks_clock_now(ks_clock_system()) < end_ms)
		(void)usleep(10000);
	CU_ASSERT_TRUE(atomic_load(&served_by_others) >= 100);
	atomic_store(&enough, true);
	for (int i = 0; i < BUSY_CLIENTS; i++)
		KS_ASSERT(pthread_join(threads[i], NULL) == 0);
	/* Requests that a worker has asked the core for are still served by it. */
	for (int i = 0; calm < 100 && ks_clock_now(ks_clock_system()) < end_ms; i++) {
		calm = pthread_equal(thread_of(&clients[i % 8], "/test.T/Thread", 0), the_first) ? calm + 1 : 0;
		(void)usleep(20000);
	}
	CU_ASSERT_EQUAL(calm, 100);
	for (int i = 0; i < 8; i++)
		gc_close(&clients[i]);
	stop_server();
}

static void stop_cancels_a_stream_whose_client_never_reads(void)
{
	char *block = calloc(1, 1 << 20);
	struct gc_stream stream;
	struct gc_result result;
	struct gc client;

	start_server(0);
	gc_open(&client, target, false);
	gc_stream_open(&stream, &client, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	for (int i = 0; i < 32; i++)
		send_slice(seen.stream, ks_slice_of(block, 1 << 20));
	ks_listener_stop(listener);
	ks_rpc_stop(rpc, 100);
	CU_ASSERT_EQUAL(seen.closed, 1);
	ks_cond_fini(&seen.changed);
	ks_mutex_fini(&seen.lock);
	gc_stream_cancel(&stream); /* or the client waits for the messages to be read */
	gc_stream_end(&stream, &result);
	CU_ASSERT_NOT_EQUAL(result.status, 0);
	gc_close(&client);
	free(block);
}

static void start_and_stop_without_a_call(void)
{
	for (int i = 0; i < 100; i++) {
		start_server(0);
		stop_server();
	}
	CU_ASSERT_EQUAL(seen.opened, 0);
}

static void too_many_pings_end_the_connection(void)
{
	char text[256];
	int raw;

	start_server(0);
	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	for (int i = 0; i < 10; i++) /* two strikes are borne; what the core itself writes may forgive some */
		raw_http2_ping(raw);
	CU_ASSERT_TRUE(raw_http2_wait_goaway(raw, text, sizeof(text), WAIT_MS));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "too_many_pings"));
	(void)close(raw);
	stop_server();
}

static void three_pings_are_answered(void)
{
	int raw;

	start_server(0);
	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	for (int i = 0; i < 3; i++)
		raw_http2_ping(raw);
	CU_ASSERT_TRUE(raw_http2_wait_ping_acks(raw, 3, WAIT_MS));
	(void)close(raw);
	stop_server();
}

static void pings_are_free_where_that_is_wanted(void)
{
	int raw;

	start_with((struct ks_rpc_config){.ping_min_ms = -1});
	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	for (int i = 0; i < 30; i++)
		raw_http2_ping(raw);
	CU_ASSERT_TRUE(raw_http2_wait_ping_acks(raw, 30, WAIT_MS));
	(void)close(raw);
	stop_server();
}

static void a_client_that_answers_no_ping_is_let_go(void)
{
	int raw;

	start_with((struct ks_rpc_config){.ping_after_ms = 50, .ping_timeout_ms = 50});
	raw = raw_http2_connect(target);
	raw_http2_open_stream(raw, 1, "/test.T/Watch");
	CU_ASSERT_TRUE(wait_for(&seen.opened, 1));
	CU_ASSERT_TRUE(raw_http2_wait_close(raw, WAIT_MS));
	(void)close(raw);
	stop_server();
}

static void clients_are_told_how_many_streams_they_may_open(void)
{
	enum { SETTINGS_MAX_CONCURRENT_STREAMS = 3 };
	int raw;

	start_with((struct ks_rpc_config){.max_streams = 7});
	raw = raw_http2_connect(target);
	CU_ASSERT_EQUAL(raw_http2_wait_setting(raw, SETTINGS_MAX_CONCURRENT_STREAMS, 0, WAIT_MS), 7);
	(void)close(raw);
	stop_server();
	start_server(0);
	raw = raw_http2_connect(target);
	CU_ASSERT_TRUE(raw_http2_wait_setting(raw, SETTINGS_MAX_CONCURRENT_STREAMS, INT32_MAX, WAIT_MS) >= INT32_MAX);
	(void)close(raw);
	stop_server();
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	return tap_run("rpc", (const struct tap_test[]){
#define T(name) {#name, name}
				      T(start_and_stop_without_a_call),
				      T(unary_answers_what_was_asked),
				      T(unary_failure_has_code_and_text),
				      T(unary_may_be_answered_by_another_thread),
				      T(shared_bytes_arrive_in_their_places),
				      T(a_reply_that_outgrew_its_maximum_is_resource_exhausted),
				      T(metadata_and_peer_are_those_of_the_call),
				      T(identity_is_that_of_the_connection_to_the_last),
				      T(oversize_has_the_text_of_grpc_go),
				      T(oversize_ends_a_stream_with_the_same_text),
				      T(unknown_methods_and_services_have_etcds_texts),
				      T(compressed_requests_are_unimplemented),
				      T(calls_over_the_limit_are_refused_and_leave_no_trace),
				      T(large_replies_that_nobody_takes_are_bounded),
				      T(ten_thousand_calls_are_all_answered),
				      T(ten_thousand_calls_are_answered_by_a_visitor_or_a_task),
				      T(answers_to_many_calls_at_once_are_gathered_and_not_late),
				      T(a_brief_task_runs_on_the_callers_thread_while_the_queue_sleeps),
				      T(a_brief_task_waits_for_its_turn_while_the_queue_is_busy),
				      T(stream_echoes_in_order_and_ends_after_half_close),
				      T(resting_stream_loses_and_reorders_nothing),
				      T(resting_stream_can_be_cancelled_and_the_server_stopped),
				      T(single_request_gets_many_answers),
				      T(half_closed_watch_stays_open),
				      T(finish_sends_what_is_queued_and_then_the_status),
				      T(cancel_and_disconnect_reach_closed),
				      T(a_client_that_never_reads_is_not_read_from),
				      T(tasks_and_messages_of_many_threads_all_arrive),
				      T(taking_a_task_back_leaves_the_others),
				      T(streams_come_and_go_under_fire),
				      T(stop_under_fire_closes_every_stream),
				      T(stop_ends_streams_with_etcds_text),
				      T(stop_waits_for_unary_calls_that_run),
				      T(a_unary_call_that_waits_learns_of_its_clients_end),
				      T(cancels_and_answers_of_waiting_calls_race),
				      T(stop_ends_unary_calls_that_wait),
				      T(calls_of_few_clients_stay_on_one_thread),
				      T(a_long_call_holds_nobody_up),
				      T(many_streams_are_shared_with_the_workers),
				      T(workers_have_as_many_streams_each),
				      T(workers_help_a_busy_first_thread_until_it_is_calm_again),
				      T(stop_cancels_a_stream_whose_client_never_reads),
				      T(too_many_pings_end_the_connection),
				      T(three_pings_are_answered),
				      T(pings_are_free_where_that_is_wanted),
				      T(a_client_that_answers_no_ping_is_let_go),
				      T(clients_are_told_how_many_streams_they_may_open),
#undef T
				      {NULL, NULL}});
}
