/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json-watch: the JSON gateway under watchers. Each watcher is a connection with POST /v3/watch, whose answer comes in chunks; a few more
 * connections put, one put each at a time. All of them belong to one thread and one epoll.
 *
 *	writers ──put──► server ──event──► watchers ──count──► room for the next puts
 *
 * As in the watch bench, a put is sent only while the watchers are at most 'inflight' puts behind: the rate is what the server
 * delivers. Events are counted by their "kv", which nothing else in an answer can spell (values are base64); at the end each watcher
 * must have as many as there were puts.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/bench/bench.h"

#define WATCHED "L2JlbmNoL2pzb24td2F0Y2g=" /* /bench/json-watch */
#define HEAD_ROOM 4096
#define READ_BYTES 262144
#define EVENTS_AT_A_TIME 64
#define WARM_UP_PUTS 20
/* Without any byte for so long, something is missing. */
#define PATIENCE_MS 20000

/* Finds a word in text that comes in pieces. After a part of it that does not go on, only the next character may begin another one, as in JSON. */
struct finder {
	const char *word;
	size_t matched;
};

enum state {
	HEAD,
	SIZE_LINE,
	DATA,
	DATA_END, /* the line's end behind a chunk */
	OVER
};

/* An answer in chunks, or one of a given length, as it arrives. */
struct connection {
	int fd;
	bool writer;
	enum state state;
	char head[HEAD_ROOM];
	size_t head_size;
	bool chunked;
	size_t left; /* of the chunk, or of the whole body */
	/* watchers */
	struct finder created_word, event_word;
	bool created;
	int64_t events;
	/* writers */
	bool busy;
	uint64_t sent_ns;
};

struct load {
	struct bench *bench;
	int epoll_fd;
	struct connection *connections; /* watchers first */
	int watcher_count, writer_count;
	char *put;
	size_t put_size;
	char *buffer;
	int64_t created, events, sent, answered;
	bool failed;
	struct hist puts;
};

static bool fail(struct load *load, const char *what)
{
	if (!load->failed)
		(void)fprintf(stderr, "kineshim-bench: json-watch: %s\n", what);
	load->failed = true;
	return false;
}

/* ---- text in pieces ---- */

static int64_t find(struct finder *finder, const char *data, size_t size)
{
	size_t length = strlen(finder->word), at = 0, tail;
	int64_t found = 0;
	const char *next;

	while (finder->matched && at < size) {
		if (data[at] == finder->word[finder->matched]) {
			at++;
			if (++finder->matched == length) {
				found++;
				finder->matched = 0;
			}
		} else {
			finder->matched =
				0; /* this character may be the first of the word: it is looked at again below */
		}
	}
	while ((next = memmem(data + at, size - at, finder->word, length))) {
		found++;
		at = (size_t)(next - data) + length;
	}
	tail = size - at < length - 1 ? size - at : length - 1;
	for (; tail > 0 && !finder->matched; tail--)
		if (memcmp(data + size - tail, finder->word, tail) == 0)
			finder->matched = tail;
	return found;
}

static void body_data(struct load *load, struct connection *connection, const char *data, size_t size)
{
	int64_t found;

	if (connection->writer)
		return;
	if (!connection->created && find(&connection->created_word, data, size)) {
		connection->created = true;
		load->created++;
	}
	found = find(&connection->event_word, data, size);
	connection->events += found;
	load->events += found;
}

/* ---- HTTP ---- */

/* The value of a header, lower case name with its colon; NULL: there is none. */
static const char *header(const struct connection *connection, const char *name)
{
	const char *line = connection->head;

	while ((line = strchr(line, '\n'))) {
		line++;
		if (strncasecmp(line, name, strlen(name)) == 0)
			return line + strlen(name) + strspn(line + strlen(name), " ");
	}
	return NULL;
}

static bool head_complete(struct load *load, struct connection *connection)
{
	const char *length, *encoding;

	if (strncmp(connection->head, "HTTP/1.1 200 ", 13) != 0)
		return fail(load, connection->head);
	encoding = header(connection, "transfer-encoding:");
	length = header(connection, "content-length:");
	connection->chunked = encoding && strncasecmp(encoding, "chunked", 7) == 0;
	if (!connection->chunked && (!length || !connection->writer))
		return fail(load, "an answer has neither chunks nor a length");
	connection->left = connection->chunked ? 0 : strtoul(length, NULL, 10);
	connection->state = connection->chunked ? SIZE_LINE : connection->left ? DATA : OVER;
	return true;
}

/* Takes one byte of a head or of a chunk's line, which are short. */
static bool take_byte(struct load *load, struct connection *connection, char c)
{
	if (connection->head_size == HEAD_ROOM - 1)
		return fail(load, "a head or a line of an answer is too long");
	connection->head[connection->head_size++] = c;
	if (c != '\n')
		return true;
	connection->head[connection->head_size] = '\0';
	switch (connection->state) {
	case HEAD:
		if (connection->head_size < 4 || strcmp(connection->head + connection->head_size - 4, "\r\n\r\n") != 0)
			return true;
		if (!head_complete(load, connection))
			return false;
		break;
	case SIZE_LINE:
		connection->left = strtoul(connection->head, NULL, 16);
		connection->state = connection->left ? DATA : DATA_END;
		break;
	case DATA_END:
		/* Behind the chunk of no bytes the answer is over; trailers do not count. */
		connection->state = connection->left ? SIZE_LINE : OVER;
		break;
	case DATA:
	case OVER:
		return fail(load, "bytes behind the end of an answer");
	}
	connection->head_size = 0;
	return true;
}

static bool take(struct load *load, struct connection *connection, const char *data, size_t size)
{
	while (size > 0) {
		if (connection->state == DATA) {
			size_t piece = size < connection->left ? size : connection->left;

			body_data(load, connection, data, piece);
			data += piece;
			size -= piece;
			connection->left -= piece;
			if (connection->left == 0) {
				connection->state = connection->chunked ? DATA_END : OVER;
				connection->left = 1; /* not the last chunk */
			}
			continue;
		}
		if (!take_byte(load, connection, *data))
			return false;
		data++;
		size--;
	}
	return true;
}

static bool send_all(struct load *load, struct connection *connection, const char *data, size_t size)
{
	/* Small enough for the socket's buffer, which is empty: one request at a time. */
	if (send(connection->fd, data, size, MSG_NOSIGNAL) == (ssize_t)size)
		return true;
	return fail(load, "a request could not be sent at once");
}

static bool dial(struct load *load, struct connection *connection)
{
	struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = connection}};
	struct sockaddr_in address = {.sin_family = AF_INET};
	const char *endpoint = load->bench->endpoints[0], *port = strchr(endpoint, ':');
	char host[64];
	int on = 1;

	if (!port || (size_t)(port - endpoint) >= sizeof(host))
		return fail(load, "the endpoint must be ADDRESS:PORT of IPv4");
	memcpy(host, endpoint, (size_t)(port - endpoint));
	host[port - endpoint] = '\0';
	address.sin_port = htons((uint16_t)strtoul(port + 1, NULL, 10));
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		return fail(load, "the endpoint must be ADDRESS:PORT of IPv4");
	connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
	    epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		return fail(load, strerror(errno));
	return true;
}

static char *request_of(const char *path, const char *body, size_t *size)
{
	char *text = NULL;
	int printed = asprintf(&text,
			       "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
			       "Content-Length: %zu\r\n\r\n%s",
			       path, strlen(body), body);

	KS_ASSERT(printed > 0);
	*size = (size_t)printed;
	return text;
}

/* A value of as many bytes as wanted, but for the two that base64 rounds up by. */
static char *put_request(const struct bench *bench, size_t *size)
{
	size_t digits = ((size_t)bench->value_size + 2) / 3 * 4;
	char *value = ks_xcalloc(1, digits + 1), *body = NULL, *request;

	for (size_t i = 0; i < digits; i++)
		value[i] = "dmVy"[i % 4];
	KS_ASSERT(asprintf(&body, "{\"key\":\"" WATCHED "\",\"value\":\"%s\"}", value) > 0);
	request = request_of("/v3/kv/put", body, size);
	free(value);
	free(body);
	return request;
}

/* ---- the load ---- */

/* Puts while the watchers keep up, up to 'most' altogether. */
static bool write_more(struct load *load, int64_t most)
{
	for (int i = 0; i < load->writer_count; i++) {
		struct connection *writer = &load->connections[load->watcher_count + i];

		if (writer->busy)
			continue;
		if (load->sent >= most ||
		    load->events < (load->sent + 1 - load->bench->inflight) * (int64_t)load->watcher_count)
			return true;
		writer->busy = true;
		writer->state = HEAD;
		writer->sent_ns = now_ns();
		if (!send_all(load, writer, load->put, load->put_size))
			return false;
		load->sent++;
	}
	return true;
}

static bool read_from(struct load *load, struct connection *connection)
{
	ssize_t size = recv(connection->fd, load->buffer, READ_BYTES, MSG_DONTWAIT);

	if (size < 0)
		return errno == EAGAIN || errno == EINTR || fail(load, strerror(errno));
	if (size == 0)
		return fail(load, "the server closed a connection");
	if (!take(load, connection, load->buffer, (size_t)size))
		return false;
	if (connection->state != OVER)
		return true;
	if (!connection->writer)
		return fail(load, "a watch ended");
	if (connection->busy) {
		connection->busy = false;
		load->answered++;
		hist_add(&load->puts, (now_ns() - connection->sent_ns) / 1000);
	}
	return true;
}

/* One turn: what has arrived is counted. */
static bool turn(struct load *load)
{
	struct epoll_event events[EVENTS_AT_A_TIME];
	int count;

	do {
		count = epoll_wait(load->epoll_fd, events, EVENTS_AT_A_TIME, PATIENCE_MS);
	} while (count < 0 && errno == EINTR);
	if (count <= 0)
		return fail(load, count < 0 ? strerror(errno) : "nothing came for a long time");
	for (int i = 0; i < count; i++)
		if (!read_from(load, events[i].data.ptr))
			return false;
	return true;
}

static bool all_came(const struct load *load)
{
	return load->answered == load->sent && load->events >= load->sent * load->watcher_count;
}

/* Puts for so long, or so many, and waits for the last event. */
static bool write_for(struct load *load, double seconds, int64_t most)
{
	uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);

	do {
		bool more = load->sent < most && now_ns() < end_ns;

		if (more && !write_more(load, most))
			return false;
		if (!more && all_came(load))
			return true;
	} while (turn(load));
	return false;
}

static bool open_all(struct load *load)
{
	size_t size;
	char *request = request_of("/v3/watch", "{\"create_request\":{\"key\":\"" WATCHED "\"}}", &size);
	bool good = true;

	for (int i = 0; good && i < load->watcher_count + load->writer_count; i++) {
		struct connection *connection = &load->connections[i];

		connection->writer = i >= load->watcher_count;
		connection->created_word.word = "\"created\":true";
		connection->event_word.word = "\"kv\":";
		good = dial(load, connection) && (connection->writer || send_all(load, connection, request, size));
	}
	free(request);
	while (good && load->created < load->watcher_count)
		good = turn(load);
	return good;
}

/* Each watcher has each event once. */
static bool check_counts(struct load *load)
{
	for (int i = 0; i < load->watcher_count; i++)
		if (load->connections[i].events != load->sent)
			return fail(load, "a watcher has not as many events as there were puts");
	return true;
}

int bench_json_watch(struct bench *bench)
{
	struct load load = {.bench = bench, .watcher_count = bench->watchers, .writer_count = bench->clients};
	int all = load.watcher_count + load.writer_count;
	int64_t before, puts = 0;
	uint64_t begin_ns = 0;
	double seconds = 0, cpu_s;
	bool good;

	load.connections = ks_xcalloc((size_t)all, sizeof(struct connection));
	load.buffer = ks_xmalloc(READ_BYTES);
	load.put = put_request(bench, &load.put_size);
	for (int i = 0; i < all; i++)
		load.connections[i].fd = -1;
	load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	good = load.epoll_fd >= 0 && open_all(&load) && write_for(&load, 60, WARM_UP_PUTS);
	memset(&load.puts, 0, sizeof(load.puts));
	before = load.sent;
	cpu_s = cpu_seconds();
	if (good) {
		begin_ns = now_ns();
		good = write_for(&load, bench->seconds, INT64_MAX) && check_counts(&load);
		seconds = (double)(now_ns() - begin_ns) / 1e9;
	}
	cpu_s = cpu_seconds() - cpu_s;
	puts = load.sent - before;
	if (good) {
		printf("{\"bench\":\"json-watch\",\"watchers\":%d,\"writers\":%d,\"inflight\":%d,\"per_second\":%.1f,"
		       "\"count\":%" PRId64 ",\"puts_per_second\":%.1f",
		       load.watcher_count, load.writer_count, bench->inflight,
		       (double)(puts * load.watcher_count) / seconds, puts * load.watcher_count,
		       (double)puts / seconds);
		hist_print(&load.puts);
		cpu_print(cpu_s, seconds);
		printf("}\n");
	}
	for (int i = 0; i < all; i++)
		if (load.connections[i].fd >= 0)
			(void)close(load.connections[i].fd);
	if (load.epoll_fd >= 0)
		(void)close(load.epoll_fd);
	free(load.connections);
	free(load.buffer);
	free(load.put);
	return good ? 0 : 1;
}
