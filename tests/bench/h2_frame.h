/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of HTTP/2 (RFC 9113) as far as a client of gRPC needs them: what the streams of h2.h and the calls of h2_call.h share.
 *
 * What is put goes to the end of a buffer, whose failure is to be checked before it is written. What is taken lies where it was read. The
 * server's headers are not decoded, and there is no TLS. Nothing here knows of threads.
 */
#ifndef BENCH_H2_FRAME_H
#define BENCH_H2_FRAME_H

#include <sys/types.h>

#include "base/buf.h"

#define H2_FRAME_HEAD 9
#define H2_FRAME_MAX 16384 /* of a payload: what we allow, and what we write */
#define H2_READ_SIZE (256 * 1024)
#define H2_WINDOW_FIRST 65535 /* of both sides, until they say otherwise */
#define H2_WINDOW_MAX 0x7fffffff
#define H2_GRPC_HEAD 5 /* before each message: not compressed, and its size */
#define H2_MESSAGE_MAX (64 << 20)

enum h2_type {
	H2_DATA = 0,
	H2_HEADERS = 1,
	H2_RST_STREAM = 3,
	H2_SETTINGS = 4,
	H2_PING = 6,
	H2_GOAWAY = 7,
	H2_WINDOW_UPDATE = 8
};
enum h2_flag { H2_END_STREAM = 1, H2_ACK = 1, H2_END_HEADERS = 4, H2_PADDED = 8 };
enum h2_setting { H2_HEADER_TABLE_SIZE = 1, H2_MAX_CONCURRENT_STREAMS = 3, H2_INITIAL_WINDOW_SIZE = 4 };

struct h2_frame {
	uint8_t type;
	int flags;
	uint32_t id; /* of its stream */
	const uint8_t *payload;
	uint32_t size;
};

void h2_put_u32(uint8_t *at, uint32_t value);
uint32_t h2_get_u32(const uint8_t *at);

/* ---- writing ---- */

void h2_put_frame_head(struct ks_buf *buf, enum h2_type type, int flags, uint32_t id, size_t size);
void h2_put_frame(struct ks_buf *buf, enum h2_type type, int flags, uint32_t id, const void *payload, size_t size);
void h2_put_message_head(struct ks_buf *buf, size_t size);
/* What begins a connection. Its windows are so large that the server never waits for us, but for TCP. */
void h2_put_greeting(struct ks_buf *buf);
void h2_put_window_update(struct ks_buf *buf, uint32_t id, uint32_t bytes);
/* Counts what came under one of our windows. True now and then: '*taken' is to be given back, and then 0. */
bool h2_count_taken(uint32_t *taken, uint32_t size);

/* What the server remembers of our headers (RFC 7541, 2.3.2), so that a request's take few bytes, as they do with other clients of gRPC. */
#define H2_TABLE_MAX 12 /* far fewer bytes than servers have room for */

struct h2_table {
	unsigned count;
	const char *values[H2_TABLE_MAX];
	bool off;  /* this server wants to remember less than others, */
	bool told; /* and knows that it has to remember nothing */
};

void h2_table_limit(struct h2_table *table, uint32_t bytes);

/* The headers of a call of 'path', which are a frame. Strings are borrowed for the life of 'table', which knows them by where they are. */
void h2_put_headers(struct ks_buf *buf, struct h2_table *table, uint32_t id, const char *path, const char *authority);

/* ---- reading ---- */

/* The size of the message at 'data' with its head; 0: not yet to be seen. */
size_t h2_message_size(const uint8_t *data, size_t size);
/* Frames in a row, up to the first that 'on_frame' is false for; how much of 'data' was taken, or -1. */
ssize_t h2_take_frames(const uint8_t *data, size_t size, bool (*on_frame)(void *arg, const struct h2_frame *frame),
		       void *arg);
/* The setting at 'at' of a SETTINGS frame, of which the next one is 6 bytes behind. False at the end. */
bool h2_setting(const struct h2_frame *frame, uint32_t at, unsigned *setting, uint32_t *value);

/* A socket to a plain "host:port", a literal of which is in our headers. -1, and a message on stderr, when there is no such server. */
int h2_connect(const char *endpoint);

#endif
