/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small blocking gRPC client on C core for tests: raw bytes in, raw bytes and status out. Every wait has a limit, so a
 * test that would hang fails instead. One thread at a time for each object; several clients may live in several threads.
 */
#ifndef TESTS_LIB_GRPC_CLIENT_H
#define TESTS_LIB_GRPC_CLIENT_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stddef.h>

#define GC_WAIT_MS 20000

struct gc {
	grpc_channel *channel;
	grpc_completion_queue *cq;
};

struct gc_result {
	int status;
	char text[512];
	char *data; /* malloc-ed, NULL when there was no message */
	size_t size;
};

struct gc_stream {
	struct gc *client;
	grpc_call *call;
	grpc_metadata_array headers, trailers;
	grpc_byte_buffer *sending;
	grpc_status_code status;
	grpc_slice details;
	char tags[4]; /* addresses only */
};

/* 'target' as gRPC wants it: "127.0.0.1:2379", "unix:/path". Each client has a connection of its own. */
void gc_open(struct gc *client, const char *target, bool gzip);
void gc_close(struct gc *client);
/* 'metadata_key' may be NULL. Free result->data. */
void gc_unary(struct gc *client, const char *method, const void *data, size_t size, const char *metadata_key,
	      const char *metadata_value, struct gc_result *result);

void gc_stream_open(struct gc_stream *stream, struct gc *client, const char *method);
/* Starts sending. False when the message before it is not out after 'wait_ms'. */
bool gc_stream_send(struct gc_stream *stream, const void *data, size_t size, int wait_ms);
bool gc_stream_flush(struct gc_stream *stream, int wait_ms);
/* Next message; false at the end of the stream or after GC_WAIT_MS. Free *data. */
bool gc_stream_receive(struct gc_stream *stream, char **data, size_t *size);
void gc_stream_half_close(struct gc_stream *stream);
void gc_stream_cancel(struct gc_stream *stream);
/* Waits for the status (result->data stays NULL) and frees the stream. */
void gc_stream_end(struct gc_stream *stream, struct gc_result *result);

#endif
