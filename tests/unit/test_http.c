/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of net/http.h that take short limits or another thread: what tests/http/gateway.py cannot see from outside. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "base/thread.h"
#include "net/http.h"
#include "net/rpc.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/tap.h"

#define WAIT_MS 20000
#define LARGE ((size_t)16 << 20)

static struct ks_http *http;

/* The requests that a test answers itself, later. */
static struct ks_mutex lock;
static struct ks_cond changed;
static struct ks_http_request *waiting;
static pthread_t afar;

static void answer_in_parts(struct ks_http_request *request)
{
	struct ks_slice value;
	struct ks_buf body;

	ks_buf_init(&body, SIZE_MAX);
	ks_buf_append_slice(&body, ks_http_method(request));
	ks_buf_append(&body, " ", 1);
	ks_buf_append_slice(&body, ks_http_path(request));
	for (size_t i = 0; ks_http_query(request, "q", i, &value); i++) {
		ks_buf_append(&body, "|", 1);
		ks_buf_append_slice(&body, value);
	}
	ks_buf_append(&body, "#", 1);
	ks_buf_append_slice(&body, ks_http_header(request, "X-TEST"));
	ks_buf_append(&body, "#", 1);
	ks_buf_append_slice(&body, ks_http_body(request));
	ks_http_answer(request, 200, "text/plain", "X-Answer: yes\r\n", &body);
}

static void plain(void *ctx, struct ks_http_request *request)
{
	struct ks_buf body;

	CU_ASSERT_PTR_EQUAL(ctx, &http);
	if (ks_slice_eq(ks_http_path(request), ks_slice_str("/later"))) {
		ks_mutex_lock(&lock);
		waiting = request;
		ks_cond_broadcast(&changed);
		ks_mutex_unlock(&lock);
	} else if (ks_slice_eq(ks_http_path(request), ks_slice_str("/large"))) {
		ks_buf_init(&body, SIZE_MAX);
		KS_ASSERT(ks_buf_reserve(&body, LARGE));
		memset(body.data, 'x', LARGE);
		body.size = LARGE;
		ks_http_answer(request, 200, "text/plain", NULL, &body);
	} else if (ks_slice_eq(ks_http_path(request), ks_slice_str("/broken"))) {
		ks_buf_init(&body, 1);
		ks_buf_append(&body, "too much", 8);
		ks_http_answer(request, 200, NULL, NULL, &body);
	} else {
		answer_in_parts(request);
	}
}

static struct ks_http_request *wait_for_request(void)
{
	struct ks_http_request *request;

	ks_mutex_lock(&lock);
	while (!waiting)
		KS_ASSERT(ks_cond_wait(&changed, &lock, WAIT_MS));
	request = waiting;
	waiting = NULL;
	ks_mutex_unlock(&lock);
	return request;
}

static void start(struct ks_http_config config)
{
	config.plain = plain;
	config.plain_ctx = &http;
	http = ks_http_start(&config, NULL);
	KS_ASSERT(http);
}

static int connect_new(void)
{
	int fds[2], size = 65536;

	KS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	KS_ASSERT(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
	ks_http_adopt(http, fds[1], &(struct ks_http_peer){.text = "test"});
	return fds[0];
}

static void say(int fd, const char *text)
{
	KS_ASSERT(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* All until the server closes; false when it does not in time. */
static bool read_to_end(int fd, char *text, size_t capacity)
{
	size_t size = 0;

	for (;;) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ssize_t got;

		text[size] = '\0';
		if (poll(&ready, 1, WAIT_MS) <= 0)
			return false;
		got = recv(fd, text + size, capacity - 1 - size, 0);
		if (got <= 0)
			return true;
		size += (size_t)got;
	}
}

static bool begins_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

static void wait_for_connections(uint64_t wanted)
{
	int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS;
	struct ks_http_stats stats;

	do {
		ks_http_stats(http, &stats);
		if (stats.connections_open == wanted)
			return;
		(void)poll(NULL, 0, 5);
	} while (ks_clock_now(ks_clock_system()) < end_ms);
	CU_FAIL("connections stay open");
}

static void a_request_says_what_it_asks_for(void)
{
	char text[2048], *body;
	int fd;

	start((struct ks_http_config){.threads = 2});
	fd = connect_new();
	say(fd, "PUT http://x/a%20b?q=1&p=2&q=a+b%26&q&&=x&q=%zz&p=%00&q=%00z HTTP/1.1\r\nHost: x\r\nx-test: here\r\n"
		"Content-Length: 4\r\nConnection: close\r\n\r\nbody");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 200 OK\r\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\r\nX-Answer: yes\r\n"));
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_STRING_EQUAL(body + 4, "PUT /a b|1|a b&|#here#body");
	(void)close(fd);
	fd = connect_new();
	say(fd, "GET /broken HTTP/1.0\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 500 "));
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
}

/* Bare names grow when they are decoded; as many as fit in a header. */
static void many_bare_parameters_fit(void)
{
	static char request[40000], text[40000];
	size_t size = strlen("GET /?");
	int fd;

	memcpy(request, "GET /?", size);
	for (int i = 0; i < 15000; i++, size += 2)
		memcpy(request + size, "q&", 2);
	memcpy(request + size, " HTTP/1.0\r\n\r\n", 14);
	start((struct ks_http_config){.threads = 1});
	fd = connect_new();
	say(fd, request);
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_EQUAL(strlen(strstr(text, "\r\n\r\n") + 4), strlen("GET /") + 15000 + 2);
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
}

static void answers_come_from_any_thread_and_in_order(void)
{
	char text[4096], *second;
	int fd;

	start((struct ks_http_config){.threads = 1});
	for (int i = 0; i < 200; i++) {
		fd = connect_new();
		say(fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /now HTTP/1.0\r\n\r\n");
		ks_http_answer_text(wait_for_request(), 202, "late\n");
		CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
		CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 202 Accepted\r\n"));
		second = strstr(text, "late\nHTTP/1.1 200 OK\r\n");
		CU_ASSERT_PTR_NOT_NULL(second);
		(void)close(fd);
	}
	ks_http_stop(http, WAIT_MS);
}

static void an_answer_that_nobody_waits_for_is_thrown_away(void)
{
	int fd;

	start((struct ks_http_config){.threads = 1});
	fd = connect_new();
	say(fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)close(fd);
	ks_http_answer_text(wait_for_request(), 200, "late\n");
	wait_for_connections(0);
	ks_http_stop(http, WAIT_MS);
}

static void slow_headers_and_bodies_get_408(void)
{
	static const char *const starts[] = {
		"GET / HTTP/1.1\r\nHost: x\r\nX: ",
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	};
	char text[2048];
	int fd;

	start((struct ks_http_config){.threads = 1, .header_ms = 100, .body_ms = 100});
	for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++) {
		fd = connect_new();
		say(fd, starts[i]);
		CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
		CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 408 Request Timeout\r\n"));
		(void)close(fd);
	}
	ks_http_stop(http, WAIT_MS);
}

static void idle_connections_end_in_silence(void)
{
	char text[2048], *body;
	int fd;

	start((struct ks_http_config){.threads = 1, .idle_ms = 100});
	fd = connect_new();
	say(fd, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_STRING_EQUAL(body + 4, "GET /a##");
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
}

static void clients_that_stop_reading_are_closed(void)
{
	int fd;

	start((struct ks_http_config){.threads = 1, .stall_ms = 100});
	fd = connect_new();
	say(fd, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
	wait_for_connections(0);
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
}

static void a_large_answer_arrives_whole(void)
{
	char *text = ks_xmalloc(LARGE + 4096), *body;
	int fd;

	start((struct ks_http_config){.threads = 1});
	fd = connect_new();
	say(fd, "GET /large HTTP/1.0\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, LARGE + 4096));
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_EQUAL(strspn(body + 4, "x"), LARGE);
	free(text);
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
}

/* The answer cannot go out yet, and more of what was refused arrives meanwhile: it is not looked at. */
static void whoever_was_refused_is_not_listened_to(void)
{
	static const char *const starts[] = {
		"garbage\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nabc",
	};
	static const char *const answers[] = {"HTTP/1.1 400 ", "HTTP/1.1 408 "};
	static char text[1 << 20], junk[4096];
	struct ks_http_stats stats;
	uint64_t bad = 0;
	int fds[2];

	start((struct ks_http_config){.threads = 1, .body_ms = 100});
	for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++) {
		size_t size = 0;

		KS_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
		memset(junk, '.', sizeof(junk));
		for (ssize_t sent; (sent = send(fds[1], junk, sizeof(junk), MSG_DONTWAIT)) > 0;)
			size += (size_t)sent;
		ks_http_adopt(http, fds[1], &(struct ks_http_peer){.text = "test"});
		say(fds[0], starts[i]);
		do {
			(void)poll(NULL, 0, 5);
			ks_http_stats(http, &stats);
		} while (stats.bad_requests == bad);
		bad = stats.bad_requests;
		say(fds[0], "more of it\r\n\r\n");
		(void)poll(NULL, 0, 50); /* for the server to take the bait */
		CU_ASSERT_TRUE(read_to_end(fds[0], text, sizeof(text)));
		CU_ASSERT_EQUAL_FATAL(strspn(text, "."), size);
		CU_ASSERT_TRUE(begins_with(text + size, answers[i]));
		CU_ASSERT_PTR_NULL(strstr(text + size + 1, "HTTP/1.1 "));
		(void)close(fds[0]);
	}
	wait_for_connections(0);
	ks_http_stop(http, WAIT_MS);
}

static void connections_over_the_limit_get_503(void)
{
	struct ks_http_request *request;
	char text[2048];
	int first, second;

	start((struct ks_http_config){.threads = 1, .max_connections = 1});
	first = connect_new();
	say(first, "GET /later HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	request = wait_for_request();
	second = connect_new();
	CU_ASSERT_TRUE(read_to_end(second, text, sizeof(text)));
	CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 503 "));
	ks_http_answer_text(request, 200, "ok\n");
	CU_ASSERT_TRUE(read_to_end(first, text, sizeof(text)));
	CU_ASSERT_TRUE(begins_with(text, "HTTP/1.1 200 "));
	(void)close(first);
	(void)close(second);
	ks_http_stop(http, WAIT_MS);
}

static void *fail_from_afar(void *arg)
{
	ks_call_fail(arg, KS_NOT_FOUND, "said from afar");
	return NULL;
}

static void hand_to_a_thread(struct ks_call *call, struct ks_slice request)
{
	CU_ASSERT_EQUAL(request.size, 0);
	KS_ASSERT(ks_thread_start(&afar, "afar", fail_from_afar, call, NULL) == KS_OK);
}

static void calls_may_fail_on_any_thread(void)
{
	static const struct ks_rpc_method methods[] = {{.path = "/test.Test/Fail",
							.unary = hand_to_a_thread,
							.request = &etcdserverpb__range_request__descriptor,
							.response = &etcdserverpb__range_response__descriptor,
							.routes = "test/fail"}};
	const struct ks_rpc_config config = {
		.methods = methods, .method_count = 1, .threads = 2, .max_request_bytes = 1 << 20};
	struct ks_rpc *rpc = ks_rpc_start(&config, NULL);
	char text[2048], *body;
	int fd;

	KS_ASSERT(rpc);
	start((struct ks_http_config){.threads = 1, .rpc = rpc});
	fd = connect_new();
	say(fd, "POST /v3/test/fail HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	ks_thread_join(afar);
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_STRING_EQUAL(body + 4, "{\"error\":\"said from afar\",\"message\":\"said from afar\",\"code\":5}");
	(void)close(fd);
	ks_http_stop(http, WAIT_MS);
	ks_rpc_stop(rpc, WAIT_MS);
}

static void *answer_late(void *arg)
{
	(void)poll(NULL, 0, 200);
	ks_http_answer_text(arg, 200, "drained\n");
	return NULL;
}

static void the_end_waits_for_running_requests(void)
{
	char text[2048], idle_text[64];
	pthread_t thread;
	int running, idle;

	start((struct ks_http_config){.threads = 1});
	running = connect_new();
	idle = connect_new();
	say(running, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
	KS_ASSERT(ks_thread_start(&thread, "late", answer_late, wait_for_request(), NULL) == KS_OK);
	ks_http_stop(http, WAIT_MS);
	ks_thread_join(thread);
	CU_ASSERT_TRUE(read_to_end(running, text, sizeof(text)));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "drained\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\r\nConnection: close\r\n"));
	CU_ASSERT_TRUE(read_to_end(idle, idle_text, sizeof(idle_text)));
	CU_ASSERT_STRING_EQUAL(idle_text, "");
	(void)close(running);
	(void)close(idle);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	ks_mutex_init(&lock);
	ks_cond_init(&changed);
	return tap_run("http", (const struct tap_test[]){
#define T(name) {#name, name}
				       T(a_request_says_what_it_asks_for),
				       T(many_bare_parameters_fit),
				       T(answers_come_from_any_thread_and_in_order),
				       T(an_answer_that_nobody_waits_for_is_thrown_away),
				       T(slow_headers_and_bodies_get_408),
				       T(idle_connections_end_in_silence),
				       T(clients_that_stop_reading_are_closed),
				       T(a_large_answer_arrives_whole),
				       T(whoever_was_refused_is_not_listened_to),
				       T(connections_over_the_limit_get_503),
				       T(calls_may_fail_on_any_thread),
				       T(the_end_waits_for_running_requests),
#undef T
				       {NULL, NULL}});
}
