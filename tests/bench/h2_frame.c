/* SPDX-License-Identifier: Apache-2.0 */
/* See h2_frame.h. */
#include "tests/bench/h2_frame.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/panic.h"

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define WINDOW_STEP (16 << 20) /* given back at once */
#define TABLE_SIZE 4096        /* of a server that says nothing else */
#define LITERAL_MAX 126        /* whose size is one byte */

/* RFC 7541, appendix A; the dynamic table is behind it */
enum static_name { NO_NAME = 0, AUTHORITY = 1, PATH = 4, CONTENT_TYPE = 31, STATIC_COUNT = 61 };

void h2_put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

uint32_t h2_get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* ---- writing ---- */

void h2_put_frame_head(struct ks_buf *buf, enum h2_type type, int flags, uint32_t id, size_t size)
{
	uint8_t head[H2_FRAME_HEAD];

	KS_ASSERT(size <= H2_FRAME_MAX);
	h2_put_u32(head, (uint32_t)size << 8 | (uint32_t)type);
	head[4] = (uint8_t)flags;
	h2_put_u32(head + 5, id);
	ks_buf_append(buf, head, sizeof(head));
}

void h2_put_frame(struct ks_buf *buf, enum h2_type type, int flags, uint32_t id, const void *payload, size_t size)
{
	h2_put_frame_head(buf, type, flags, id, size);
	ks_buf_append(buf, payload, size);
}

void h2_put_message_head(struct ks_buf *buf, size_t size)
{
	uint8_t head[H2_GRPC_HEAD] = {0};

	h2_put_u32(head + 1, (uint32_t)size);
	ks_buf_append(buf, head, sizeof(head));
}

void h2_put_window_update(struct ks_buf *buf, uint32_t id, uint32_t bytes)
{
	uint8_t payload[4];

	h2_put_u32(payload, bytes);
	h2_put_frame(buf, H2_WINDOW_UPDATE, 0, id, payload, sizeof(payload));
}

void h2_put_greeting(struct ks_buf *buf)
{
	uint8_t settings[6] = {0, H2_INITIAL_WINDOW_SIZE};

	h2_put_u32(settings + 2, H2_WINDOW_MAX);
	ks_buf_append_slice(buf, ks_slice_str(PREFACE));
	h2_put_frame(buf, H2_SETTINGS, 0, 0, settings, sizeof(settings));
	h2_put_window_update(buf, 0, H2_WINDOW_MAX - H2_WINDOW_FIRST);
}

bool h2_count_taken(uint32_t *taken, uint32_t size)
{
	*taken += size;
	return *taken >= WINDOW_STEP;
}

void h2_table_limit(struct h2_table *table, uint32_t bytes)
{
	table->off = table->off || bytes < TABLE_SIZE;
}

static void put_literal(struct ks_buf *buf, const char *text)
{
	uint8_t size = (uint8_t)strlen(text);

	KS_ASSERT(strlen(text) <= LITERAL_MAX);
	ks_buf_append(buf, &size, 1);
	ks_buf_append(buf, text, size);
}

static void put_name(struct ks_buf *buf, const struct h2_table *table, unsigned index, const char *name)
{
	uint8_t remembered = (uint8_t)(0x40 | index),
		head[2] = {(uint8_t)(index < 15 ? index : 15), (uint8_t)(index - 15)};

	if (!table->off && table->count < H2_TABLE_MAX)
		ks_buf_append(buf, &remembered, 1);
	else
		ks_buf_append(buf, head, index < 15 ? 1 : 2);
	if (index == NO_NAME)
		put_literal(buf, name);
}

static void put_header(struct ks_buf *buf, struct h2_table *table, unsigned index, const char *name, const char *value)
{
	for (unsigned i = 0; !table->off && i < table->count; i++) {
		/* The newest is the first of the dynamic table. */
		uint8_t indexed = (uint8_t)(0x80 | (STATIC_COUNT + table->count - i));

		if (table->values[i] == value) {
			ks_buf_append(buf, &indexed, 1);
			return;
		}
	}
	put_name(buf, table, index, name);
	put_literal(buf, value);
	if (!table->off && table->count < H2_TABLE_MAX)
		table->values[table->count++] = value;
}

void h2_put_headers(struct ks_buf *buf, struct h2_table *table, uint32_t id, const char *path, const char *authority)
{
	static const char content_type[] = "application/grpc", te[] = "trailers";
	static const uint8_t no_table[] = {0x20}, post_http[] = {0x83, 0x86};
	size_t start = buf->size;

	h2_put_frame_head(buf, H2_HEADERS, H2_END_HEADERS, id, 0);
	if (table->off && !table->told) {
		ks_buf_append(buf, no_table, sizeof(no_table));
		table->told = true;
	}
	ks_buf_append(buf, post_http, sizeof(post_http));
	put_header(buf, table, PATH, NULL, path);
	put_header(buf, table, AUTHORITY, NULL, authority);
	put_header(buf, table, CONTENT_TYPE, NULL, content_type);
	put_header(buf, table, NO_NAME, "te", te);
	if (!buf->failed)
		h2_put_u32(buf->data + start, (uint32_t)(buf->size - start - H2_FRAME_HEAD) << 8 | H2_HEADERS);
}

/* ---- reading ---- */

size_t h2_message_size(const uint8_t *data, size_t size)
{
	return size < H2_GRPC_HEAD ? 0 : H2_GRPC_HEAD + (size_t)h2_get_u32(data + 1);
}

ssize_t h2_take_frames(const uint8_t *data, size_t size, bool (*on_frame)(void *arg, const struct h2_frame *frame),
		       void *arg)
{
	size_t at = 0;

	while (size - at >= H2_FRAME_HEAD) {
		const uint8_t *head = data + at;
		struct h2_frame frame = {.type = head[3],
					 .flags = head[4],
					 .id = h2_get_u32(head + 5) & H2_WINDOW_MAX,
					 .payload = head + H2_FRAME_HEAD,
					 .size = h2_get_u32(head) >> 8};

		if (frame.size > H2_FRAME_MAX)
			return -1;
		if (size - at < H2_FRAME_HEAD + frame.size)
			break;
		if (!on_frame(arg, &frame))
			return -1;
		at += H2_FRAME_HEAD + frame.size;
	}
	return (ssize_t)at;
}

bool h2_setting(const struct h2_frame *frame, uint32_t at, unsigned *setting, uint32_t *value)
{
	if (at + 6 > frame->size)
		return false;
	*setting = (unsigned)frame->payload[at] << 8 | frame->payload[at + 1];
	*value = h2_get_u32(frame->payload + at + 2);
	return true;
}

/* ---- connecting ---- */

/* errno says why not. */
static int connect_to(const char *endpoint, const char *colon)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char host[LITERAL_MAX + 1];
	int fd = -1, on = 1;

	memcpy(host, endpoint, (size_t)(colon - endpoint));
	host[colon - endpoint] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
		fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
		if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) < 0) {
			int failed = errno;

			(void)close(fd);
			errno = failed;
			fd = -1;
		}
	}
	freeaddrinfo(found);
	if (fd >= 0)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

int h2_connect(const char *endpoint)
{
	const char *colon = strrchr(endpoint, ':');
	int fd = -1;

	errno = EINVAL;
	if (colon && !strstr(endpoint, "://") && strlen(endpoint) <= LITERAL_MAX)
		fd = connect_to(endpoint, colon);
	if (fd < 0)
		(void)fprintf(stderr, "kineshim-bench: cannot connect to %s: %s\n", endpoint,
			      errno == EINVAL ? "it is not a plain HOST:PORT" : strerror(errno));
	return fd;
}
