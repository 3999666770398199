/* SPDX-License-Identifier: Apache-2.0 */
/* listener.h with its parts: addresses, first bytes, half-open connections, HTTP/1.x clients. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/panic.h"
#include "net/address.h"
#include "net/listener.h"
#include "net/preface.h"
#include "net/rpc.h"
#include "tests/lib/grpc_client.h"
#include "tests/lib/raw_http2.h"
#include "tests/lib/tap.h"

#define WAIT_MS 20000

static struct ks_rpc *rpc;
static struct ks_http *http;
static struct ks_listener *listener;
static char target[64];

static void echo(struct ks_call *call, struct ks_slice request)
{
	struct ks_out out;

	ks_out_init(&out, 1 << 20);
	ks_buf_append_slice(&out.buf, request);
	ks_call_reply(call, &out);
}

static const struct ks_rpc_method methods[] = {{.path = "/test.T/Echo", .unary = echo}};

static void start_rpc(void)
{
	struct ks_rpc_config config = {
		.methods = methods,
		.method_count = 1,
		.threads = 1,
		.max_request_bytes = 1 << 20,
		.max_arena_bytes = 1 << 20,
	};

	rpc = ks_rpc_start(&config, NULL);
	KS_ASSERT(rpc);
}

static void start(const char *urls, int first_bytes_ms, size_t max_half_open)
{
	struct ks_listener_config config = {
		.urls = urls,
		.first_bytes_ms = first_bytes_ms,
		.max_half_open = max_half_open,
	};
	struct ks_http_config http_config = {.threads = 1, .max_body_bytes = 1000, .header_ms = first_bytes_ms};
	struct ks_err err = {.text = ""};

	start_rpc();
	http = ks_http_start(&http_config, &err);
	KS_ASSERT(http);
	config.rpc = rpc;
	config.http = http;
	listener = ks_listener_start(&config, &err);
	if (!listener)
		printf("# %s\n", err.text);
	KS_ASSERT(listener);
	(void)snprintf(target, sizeof(target), "%s", strstr(ks_listener_urls(listener), "//") + 2);
}

static void stop(void)
{
	ks_listener_stop(listener);
	ks_http_stop(http, 1000);
	ks_rpc_stop(rpc, 1000);
}

static void connect_to_target(int fd)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1;

	to.sin_port = htons((uint16_t)strtoul(strrchr(target, ':') + 1, NULL, 10));
	KS_ASSERT(connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0);
	KS_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
}

static int connect_new(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	KS_ASSERT(fd >= 0);
	connect_to_target(fd);
	return fd;
}

static void send_text(int fd, const char *text)
{
	KS_ASSERT(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* All that comes until the server closes; false when it does not close in time. A reset counts as closing. */
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

static bool still_open(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void port_zero_becomes_a_real_one(void)
{
	start("http://127.0.0.1:0,http://localhost:0", 0, 0);
	CU_ASSERT_EQUAL(strncmp(ks_listener_urls(listener), "http://127.0.0.1:", 17), 0);
	CU_ASSERT_NOT_EQUAL(strtoul(strrchr(target, ':') + 1, NULL, 10), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(ks_listener_urls(listener), ",http://127.0.0.1:"));
	stop();
}

static void an_address_in_use_is_unavailable_and_named(void)
{
	struct ks_listener_config config = {0};
	struct ks_err err;
	char url[80];

	start("http://127.0.0.1:0", 0, 0);
	(void)snprintf(url, sizeof(url), "%s", ks_listener_urls(listener));
	config.urls = url;
	config.rpc = rpc;
	CU_ASSERT_PTR_NULL(ks_listener_start(&config, &err));
	CU_ASSERT_EQUAL(err.status, KS_UNAVAILABLE);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, url));
	stop();
}

static void call_echo(const char *where);

static int listen_anywhere(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	KS_ASSERT(fd >= 0 && bind(fd, (const struct sockaddr *)&any, sizeof(any)) == 0 && listen(fd, 8) == 0);
	return fd;
}

/* One port for each protocol, and a socket that was handed over in place of the URLs. */
static void start_split(struct ks_listener_config *config)
{
	struct ks_http_config http_config = {.threads = 1};
	struct ks_err err = {.text = ""};

	start_rpc();
	http = ks_http_start(&http_config, &err);
	KS_ASSERT(http);
	config->rpc = rpc;
	config->http = http;
	listener = ks_listener_start(config, &err);
	if (!listener)
		printf("# %s\n", err.text);
	KS_ASSERT(listener);
	(void)snprintf(target, sizeof(target), "%s", strstr(ks_listener_urls(listener), "//") + 2);
}

static void a_socket_handed_over_serves_in_place_of_the_urls(void)
{
	const struct ks_listener_socket socket = {.fd = listen_anywhere(), .name = "http"};
	struct ks_listener_config config = {.urls = "http://127.0.0.1:1", .sockets = &socket, .socket_count = 1};
	char answer[4096];
	int fd;

	start_split(&config);
	CU_ASSERT_PTR_NULL(strchr(ks_listener_urls(listener), ','));
	CU_ASSERT_STRING_NOT_EQUAL(ks_listener_urls(listener), config.urls);
	fd = connect_new();
	send_text(fd, "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, answer, sizeof(answer)));
	CU_ASSERT_EQUAL(strncmp(answer, "HTTP/1.1 404", 12), 0);
	(void)close(fd);
	call_echo(target);
	stop();
}

static void with_http_ports_the_others_speak_grpc_only(void)
{
	struct ks_listener_config config = {.urls = "http://127.0.0.1:0", .http_urls = "http://127.0.0.1:0"};
	char answer[4096];
	int fd;

	start_split(&config);
	CU_ASSERT_PTR_NULL(strchr(ks_listener_urls(listener), ','));
	fd = connect_new();
	send_text(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, answer, sizeof(answer)));
	CU_ASSERT_STRING_EQUAL(answer, "");
	(void)close(fd);
	call_echo(target);
	stop();
}

static void bad_urls_are_invalid_and_named(void)
{
	static const char *const urls[] = {
		"",
		"127.0.0.1:2379",
		"http://",
		"http://127.0.0.1",
		"http://127.0.0.1:",
		"http://127.0.0.1:65536",
		"http://127.0.0.1:1x",
		"http://127.0.0.1:-1",
		"http://127.0.0.1:123456789012345678901234567890",
		"http://example.com:2379",
		"http://256.0.0.1:2379",
		"http://[::1]",
		"http://[::1:2379",
		"http://::1:2379",
		"http://[]:2379",
		"http://127.0.0.1:2379/path",
		"https://127.0.0.1",
		"unixs://",
		"unix://",
		"ftp://127.0.0.1:2379",
	};
	struct ks_address address;
	struct ks_err err;
	char url[300] = "unix:///";

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		CU_ASSERT_EQUAL(ks_address_parse(urls[i], &address, &err), KS_INVALID_ARGUMENT);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, urls[i]));
	}
	memset(url + 8, 'x', 200);
	CU_ASSERT_EQUAL(ks_address_parse(url, &address, &err), KS_INVALID_ARGUMENT);
}

static void good_urls_are_understood(void)
{
	static const char *const cases[][2] = {
		{"http://127.0.0.1:2379", "127.0.0.1:2379"},
		{"http://127.0.0.1:2379/", "127.0.0.1:2379"},
		{"http://localhost:1", "127.0.0.1:1"},
		{"https://localhost:1", "127.0.0.1:1"},
		{"unixs:///run/x.sock", "unix:/run/x.sock"},
		{"http://0.0.0.0:65535", "0.0.0.0:65535"},
		{"http://[::1]:2379", "[::1]:2379"},
		{"unix:///run/x.sock", "unix:/run/x.sock"},
		{"unix://localhost:2379", "unix:localhost:2379"},
	};
	char text[KS_ADDRESS_TEXT_MAX];
	struct ks_address address;
	struct ks_err err;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CU_ASSERT_EQUAL(ks_address_parse(cases[i][0], &address, &err), KS_OK);
		ks_address_text(&address, text);
		CU_ASSERT_STRING_EQUAL(text, cases[i][1]);
	}
	CU_ASSERT_EQUAL(ks_address_parse("http://:2379", &address, &err), KS_OK);
}

static void first_bytes_tell_the_protocol(void)
{
	static const struct {
		const char *start;
		enum ks_preface expected;
	} cases[] = {
		{"", KS_PREFACE_MORE},
		{"P", KS_PREFACE_MORE},
		{"PR", KS_PREFACE_MORE},
		{"PRI", KS_PREFACE_MORE},
		{"PRI * HTTP/2.", KS_PREFACE_MORE},
		{"PRI * HTTP/2.0", KS_PREFACE_HTTP2},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", KS_PREFACE_HTTP2},
		{"PRI * HTTP/3.0", KS_PREFACE_HTTP1},
		{"PRI /x", KS_PREFACE_HTTP1},
		{"PUT", KS_PREFACE_MORE},
		{"POST /v3/kv/range HTTP/1.1\r\n", KS_PREFACE_HTTP1},
		{"GET ", KS_PREFACE_HTTP1},
		{"M-SEARCH *", KS_PREFACE_HTTP1},
		{"get /", KS_PREFACE_FOREIGN},
		{" GET", KS_PREFACE_FOREIGN},
		{"\x16", KS_PREFACE_TLS},
		{"\x16\x03\x01", KS_PREFACE_TLS},
		{"\x15\x03\x01", KS_PREFACE_FOREIGN},
		{"AAAAAAAAAAAAAAAAAAAA", KS_PREFACE_MORE},
		{"AAAAAAAAAAAAAAAAAAAAA", KS_PREFACE_FOREIGN},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		CU_ASSERT_EQUAL(ks_preface_classify(ks_slice_str(cases[i].start)), cases[i].expected);
}

static void a_preface_in_single_bytes_reaches_grpc(void)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	for (size_t i = 0; i < sizeof(preface) - 1; i++)
		KS_ASSERT(send(fd, preface + i, 1, MSG_NOSIGNAL) == 1);
	raw_http2_settings(fd);
	raw_http2_ping(fd);
	CU_ASSERT_TRUE(raw_http2_wait_ping_acks(fd, 1, WAIT_MS));
	(void)close(fd);
	stop();
}

static void http1_gets_a_whole_answer_and_the_end(void)
{
	char text[2048], *body;
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	send_text(fd, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 404 Not Found\r\n", 24), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\r\nConnection: close\r\n"));
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_EQUAL(strtoul(strstr(text, "Content-Length: ") + 16, NULL, 10), strlen(body + 4));
	CU_ASSERT_PTR_NOT_NULL(strstr(body, "404 page not found"));
	(void)close(fd);

	fd = connect_new();
	send_text(fd, "HEAD / HTTP/1.1\r\n");
	send_text(fd, "Host: x\r\nConnection: close\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	body = strstr(text, "\r\n\r\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(body);
	CU_ASSERT_EQUAL(strlen(body), 4);
	(void)close(fd);
	stop();
}

static void an_answer_survives_a_body_that_was_not_wanted(void)
{
	static char body[300000];
	char text[2048];
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	send_text(fd, "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n");
	memset(body, 'x', sizeof(body));
	KS_ASSERT(send(fd, body, sizeof(body), MSG_NOSIGNAL) == sizeof(body));
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 413 ", 13), 0);
	(void)close(fd);
	stop();
}

static void endless_headers_are_cut(void)
{
	static char header[70000];
	char text[2048];
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	send_text(fd, "GET / HTTP/1.1\r\nX: ");
	memset(header, 'x', sizeof(header));
	KS_ASSERT(send(fd, header, sizeof(header), MSG_NOSIGNAL) == sizeof(header));
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 431 ", 13), 0);
	(void)close(fd);
	stop();
}

static void foreign_protocols_are_closed_without_a_word(void)
{
	char text[64];
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	KS_ASSERT(send(fd, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL) == 6);
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_STRING_EQUAL(text, "");
	(void)close(fd);
	stop();
}

static void clients_that_reset_are_only_closed(void)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};
	static const char *const starts[] = {
		"", "PRI", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n"};
	char text[2048];
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	for (size_t i = 0; i < 300; i++) {
		fd = connect_new();
		send_text(fd, starts[i % (sizeof(starts) / sizeof(starts[0]))]);
		KS_ASSERT(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
		(void)close(fd);
	}
	fd = connect_new();
	send_text(fd, "GET / HTTP/1.0\r\n\r\n");
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 404 ", 13), 0);
	(void)close(fd);
	stop();
}

static void silence_is_closed_in_time(void)
{
	char text[2048];
	int silent, partial, half;

	start("http://127.0.0.1:0", 100, 0);
	silent = connect_new();
	partial = connect_new();
	send_text(partial, "PRI * HT");
	half = connect_new();
	send_text(half, "GET / HTTP/1.1\r\nHost:");
	CU_ASSERT_TRUE(read_to_end(silent, text, sizeof(text)));
	CU_ASSERT_TRUE(read_to_end(partial, text, sizeof(text)));
	CU_ASSERT_STRING_EQUAL(text, "");
	CU_ASSERT_TRUE(read_to_end(half, text, sizeof(text)));
	CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 408 ", 13), 0);
	(void)close(silent);
	(void)close(partial);
	(void)close(half);
	stop();
}

static void a_flood_pushes_out_the_oldest_and_serves_the_newest(void)
{
	enum { LIMIT = 10, ALL = 60 };
	int fds[ALL];
	char text[2048];

	start("http://127.0.0.1:0", 0, LIMIT);
	for (int i = 0; i < ALL; i++)
		fds[i] = connect_new();
	for (int i = 0; i < ALL - LIMIT; i++) {
		CU_ASSERT_TRUE(read_to_end(fds[i], text, sizeof(text)));
		(void)close(fds[i]);
	}
	for (int i = ALL - LIMIT; i < ALL; i++) {
		CU_ASSERT_TRUE(still_open(fds[i]));
		send_text(fds[i], "GET / HTTP/1.0\r\n\r\n");
		CU_ASSERT_TRUE(read_to_end(fds[i], text, sizeof(text)));
		CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 404 ", 13), 0);
		(void)close(fds[i]);
	}
	stop();
}

static void running_out_of_descriptors_only_delays(void)
{
	enum { CLIENTS = 30, SPARE = 5 };
	struct rlimit before, few;
	int fds[CLIENTS], highest;
	char text[2048];

	start("http://127.0.0.1:0", 0, 0);
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		KS_ASSERT(fds[i] >= 0);
	}
	highest = fds[CLIENTS - 1];
	KS_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
	few = before;
	few.rlim_cur = (rlim_t)highest + 1 + SPARE;
	KS_ASSERT(setrlimit(RLIMIT_NOFILE, &few) == 0);
	/* The kernel completes connections without us; only a few of them can be accepted at a time. */
	for (int i = 0; i < CLIENTS; i++)
		connect_to_target(fds[i]);
	for (int i = 0; i < CLIENTS; i++) {
		send_text(fds[i], "GET / HTTP/1.0\r\n\r\n");
		CU_ASSERT_TRUE(read_to_end(fds[i], text, sizeof(text)));
		CU_ASSERT_EQUAL(strncmp(text, "HTTP/1.1 404 ", 13), 0);
		(void)close(fds[i]);
	}
	KS_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
	stop();
}

static void call_echo(const char *where)
{
	struct gc_result result;
	struct gc client;

	gc_open(&client, where, false);
	gc_unary(&client, "/test.T/Echo", "hello", 5, NULL, NULL, &result);
	CU_ASSERT_EQUAL(result.status, 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(result.data);
	CU_ASSERT_STRING_EQUAL(result.data, "hello");
	free(result.data);
	gc_close(&client);
}

static void unix_sockets_serve_and_clean_up(void)
{
	char folder[] = "/tmp/ks-listener-XXXXXX", url[100], path[80], where[100];
	struct sockaddr_un stale = {.sun_family = AF_UNIX};
	struct ks_listener_config config = {0};
	struct ks_err err;
	int fd;

	KS_ASSERT(mkdtemp(folder));
	(void)snprintf(path, sizeof(path), "%s/socket", folder);
	(void)snprintf(url, sizeof(url), "unix://%s", path);
	(void)snprintf(where, sizeof(where), "unix:%s", path);

	/* A file that a killed server left behind. */
	(void)snprintf(stale.sun_path, sizeof(stale.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	KS_ASSERT(bind(fd, (const struct sockaddr *)&stale, sizeof(stale)) == 0);
	(void)close(fd);

	start(url, 0, 0);
	CU_ASSERT_STRING_EQUAL(ks_listener_urls(listener), url);
	call_echo(where);
	/* A living one is not replaced. */
	config.urls = url;
	config.rpc = rpc;
	CU_ASSERT_PTR_NULL(ks_listener_start(&config, &err));
	CU_ASSERT_EQUAL(err.status, KS_UNAVAILABLE);
	call_echo(where);
	stop();
	CU_ASSERT_EQUAL(access(path, F_OK), -1);
	KS_ASSERT(rmdir(folder) == 0);
}

static void ipv6_serves(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	if (fd < 0 || bind(fd, (const struct sockaddr *)&loopback, sizeof(loopback)) < 0) {
		printf("# no IPv6 here: not tested\n"); /* a machine's property, not something to install */
	} else {
		start("http://[::1]:0", 0, 0);
		call_echo(target);
		stop();
	}
	if (fd >= 0)
		(void)close(fd);
}

static void stop_closes_what_waits(void)
{
	char text[64];
	int fd;

	start("http://127.0.0.1:0", 0, 0);
	fd = connect_new();
	send_text(fd, "PRI");
	stop();
	CU_ASSERT_TRUE(read_to_end(fd, text, sizeof(text)));
	(void)close(fd);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	return tap_run("listener", (const struct tap_test[]){
#define T(name) {#name, name}
					   T(good_urls_are_understood),
					   T(bad_urls_are_invalid_and_named),
					   T(first_bytes_tell_the_protocol),
					   T(port_zero_becomes_a_real_one),
					   T(an_address_in_use_is_unavailable_and_named),
					   T(a_socket_handed_over_serves_in_place_of_the_urls),
					   T(with_http_ports_the_others_speak_grpc_only),
					   T(a_preface_in_single_bytes_reaches_grpc),
					   T(http1_gets_a_whole_answer_and_the_end),
					   T(an_answer_survives_a_body_that_was_not_wanted),
					   T(endless_headers_are_cut),
					   T(foreign_protocols_are_closed_without_a_word),
					   T(clients_that_reset_are_only_closed),
					   T(silence_is_closed_in_time),
					   T(a_flood_pushes_out_the_oldest_and_serves_the_newest),
					   T(running_out_of_descriptors_only_delays),
					   T(unix_sockets_serve_and_clean_up),
					   T(ipv6_serves),
					   T(stop_closes_what_waits),
#undef T
					   {NULL, NULL}});
}
