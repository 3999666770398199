/* SPDX-License-Identifier: Apache-2.0 */
/* Hand-made HTTP/2, see raw_http2.h. Headers are sent as literals without index or Huffman code. */
#include "tests/lib/raw_http2.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_SETTINGS = 4, FRAME_PING = 6, FRAME_GOAWAY = 7 };
enum { FLAG_ACK = 1, FLAG_END_STREAM = 1, FLAG_END_HEADERS = 4 };

static void must(bool fine, const char *what)
{
	if (fine)
		return;
	perror(what);
	abort();
}

static void send_all(int fd, const void *data, size_t size)
{
	must(send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size, "send");
}

static void send_frame(int fd, int type, int flags, uint32_t stream_id, const void *data, size_t size)
{
	uint8_t header[9] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, (uint8_t)type, (uint8_t)flags};
	uint32_t id = htonl(stream_id);

	memcpy(header + 5, &id, 4);
	send_all(fd, header, sizeof(header));
	if (size)
		send_all(fd, data, size);
}

void raw_http2_settings(int fd)
{
	send_frame(fd, FRAME_SETTINGS, 0, 0, NULL, 0);
}

int raw_http2_connect(const char *target)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const char *colon = strrchr(target, ':');
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(fd >= 0 && colon, "socket");
	to.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	must(connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0, "connect");
	send_all(fd, preface, sizeof(preface) - 1);
	raw_http2_settings(fd);
	return fd;
}

static size_t add_header(uint8_t *at, const char *name, const char *value)
{
	size_t name_size = strlen(name), value_size = strlen(value);

	must(name_size < 127 && value_size < 127, "header size");
	*at++ = 0;
	*at++ = (uint8_t)name_size;
	memcpy(at, name, name_size);
	at += name_size;
	*at++ = (uint8_t)value_size;
	memcpy(at, value, value_size);
	return 3 + name_size + value_size;
}

void raw_http2_open_stream(int fd, uint32_t stream_id, const char *path)
{
	uint8_t block[512];
	size_t size = 0;

	size += add_header(block + size, ":method", "POST");
	size += add_header(block + size, ":scheme", "http");
	size += add_header(block + size, ":path", path);
	size += add_header(block + size, ":authority", "localhost");
	size += add_header(block + size, "te", "trailers");
	size += add_header(block + size, "content-type", "application/grpc");
	send_frame(fd, FRAME_HEADERS, FLAG_END_HEADERS, stream_id, block, size);
}

void raw_http2_call_many(int fd, uint32_t stream_id, int count, const char *path, const char *message)
{
	uint8_t framed[5 + 255] = {0};
	size_t size = strlen(message);
	int on = 1, off = 0;

	must(size <= 255, "message size");
	framed[4] = (uint8_t)size;
	memcpy(framed + 5, message, size);
	must(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)) == 0, "TCP_CORK");
	for (int i = 0; i < count; i++, stream_id += 2) {
		raw_http2_open_stream(fd, stream_id, path);
		send_frame(fd, FRAME_DATA, FLAG_END_STREAM, stream_id, framed, 5 + size);
	}
	must(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off)) == 0, "TCP_CORK");
}

void raw_http2_ping(int fd)
{
	static const uint8_t frame[] = {0, 0, 8, FRAME_PING, 0, 0, 0, 0, 0, '1', '2', '3', '4', '5', '6', '7', '8'};

	/* May fail: the server may have had enough of them. */
	(void)!send(fd, frame, sizeof(frame), MSG_NOSIGNAL);
}

static bool read_all(int fd, void *data, size_t size, int wait_ms)
{
	uint8_t *at = data;

	while (size) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&ready, 1, wait_ms) <= 0)
			return false;
		got = recv(fd, at, size, 0);
		if (got <= 0)
			return false;
		at += got;
		size -= (size_t)got;
	}
	return true;
}

/* Type of the next frame, -1 when none came. */
static int read_frame(int fd, uint8_t *data, size_t capacity, size_t *size, int *flags, int wait_ms)
{
	uint8_t header[9];

	if (!read_all(fd, header, sizeof(header), wait_ms))
		return -1;
	*size = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
	*flags = header[4];
	must(*size <= capacity, "frame size");
	return read_all(fd, data, *size, wait_ms) ? header[3] : -1;
}

bool raw_http2_wait_goaway(int fd, char *text, size_t size, int wait_ms)
{
	uint8_t frame[16384 + 1];
	size_t frame_size;
	int type, flags;

	while ((type = read_frame(fd, frame, sizeof(frame) - 1, &frame_size, &flags, wait_ms)) >= 0) {
		if (type != FRAME_GOAWAY || frame_size < 8)
			continue;
		frame[frame_size] = '\0';
		(void)snprintf(text, size, "%s", (const char *)frame + 8);
		return true;
	}
	return false;
}

bool raw_http2_wait_ping_acks(int fd, int count, int wait_ms)
{
	uint8_t frame[16384];
	size_t frame_size;
	int type, flags;

	while (count > 0 && (type = read_frame(fd, frame, sizeof(frame), &frame_size, &flags, wait_ms)) >= 0)
		count -= type == FRAME_PING && (flags & FLAG_ACK) &&
			 memcmp(frame, "12345678", 8) == 0; /* not the core's own bandwidth pings */
	return count == 0;
}

bool raw_http2_wait_ends(int fd, int count, int wait_ms)
{
	uint8_t frame[16384];
	size_t size;
	int type, flags;

	while (count > 0 && (type = read_frame(fd, frame, sizeof(frame), &size, &flags, wait_ms)) >= 0)
		count -= (type == FRAME_HEADERS || type == FRAME_DATA) && (flags & FLAG_END_STREAM);
	return count == 0;
}

uint32_t raw_http2_wait_setting(int fd, uint16_t id, uint32_t otherwise, int wait_ms)
{
	uint8_t frame[16384];
	size_t size;
	int type, flags;

	while ((type = read_frame(fd, frame, sizeof(frame), &size, &flags, wait_ms)) >= 0) {
		if (type != FRAME_SETTINGS || flags & FLAG_ACK)
			continue;
		for (const uint8_t *at = frame; at + 6 <= frame + size; at += 6)
			if ((at[0] << 8 | at[1]) == id)
				return (uint32_t)at[2] << 24 | (uint32_t)at[3] << 16 | (uint32_t)at[4] << 8 | at[5];
		return otherwise;
	}
	must(false, "settings");
	return 0;
}

bool raw_http2_wait_close(int fd, int wait_ms)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	uint8_t data[4096];

	while (poll(&ready, 1, wait_ms) > 0)
		if (recv(fd, data, sizeof(data), 0) <= 0)
			return true;
	return false;
}
