/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking client of grpc_client.h: batches are plucked one by one from a completion queue. */
#include "tests/lib/grpc_client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/compression.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gpr_timespec after_ms(int ms)
{
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

static void must(grpc_call_error error)
{
	if (error == GRPC_CALL_OK)
		return;
	fprintf(stderr, "gRPC client: %s\n", grpc_call_error_to_string(error));
	abort();
}

void gc_open(struct gc *client, const char *target, bool gzip)
{
	grpc_arg args[] = {
		/* Or clients with the same target would share a connection. */
		{.type = GRPC_ARG_INTEGER,
		 .key = (char *)(uintptr_t) "grpc.use_local_subchannel_pool",
		 .value.integer = 1},
		{.type = GRPC_ARG_INTEGER,
		 .key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 .value.integer = -1},
		{.type = GRPC_ARG_INTEGER,
		 .key = (char *)(uintptr_t)GRPC_COMPRESSION_CHANNEL_DEFAULT_ALGORITHM,
		 .value.integer = gzip ? GRPC_COMPRESS_GZIP : GRPC_COMPRESS_NONE},
	};
	grpc_channel_args list = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
	grpc_channel_credentials *credentials;

	grpc_init();
	credentials = grpc_insecure_credentials_create();
	client->channel = grpc_channel_create(target, credentials, &list);
	grpc_channel_credentials_release(credentials);
	client->cq = grpc_completion_queue_create_for_pluck(NULL);
}

void gc_close(struct gc *client)
{
	grpc_channel_destroy(client->channel);
	grpc_completion_queue_shutdown(client->cq);
	grpc_completion_queue_destroy(client->cq);
	grpc_shutdown();
}

static grpc_byte_buffer *buffer_of(const void *data, size_t size)
{
	grpc_slice slice = grpc_slice_from_copied_buffer(size ? data : "", size);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

	grpc_slice_unref(slice);
	return buffer;
}

static void read_buffer(grpc_byte_buffer *buffer, char **data, size_t *size)
{
	grpc_byte_buffer_reader reader;
	grpc_slice all;

	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		abort();
	all = grpc_byte_buffer_reader_readall(&reader);
	*size = GRPC_SLICE_LENGTH(all);
	*data = malloc(*size + 1);
	if (!*data)
		abort();
	memcpy(*data, GRPC_SLICE_START_PTR(all), *size);
	(*data)[*size] = '\0';
	grpc_slice_unref(all);
	grpc_byte_buffer_reader_destroy(&reader);
	grpc_byte_buffer_destroy(buffer);
}

static void set_result(struct gc_result *result, grpc_status_code status, grpc_slice details)
{
	result->status = (int)status;
	(void)snprintf(result->text, sizeof(result->text), "%.*s", (int)GRPC_SLICE_LENGTH(details),
		       (const char *)GRPC_SLICE_START_PTR(details));
	grpc_slice_unref(details);
}

static grpc_call *new_call(struct gc *client, const char *method, int deadline_ms)
{
	grpc_slice path = grpc_slice_from_copied_string(method);
	grpc_call *call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->cq, path,
						   NULL, after_ms(deadline_ms), NULL);

	grpc_slice_unref(path);
	return call;
}

void gc_unary(struct gc *client, const char *method, const void *data, size_t size, const char *metadata_key,
	      const char *metadata_value, struct gc_result *result)
{
	grpc_call *call = new_call(client, method, GC_WAIT_MS);
	grpc_byte_buffer *request = buffer_of(data, size), *response = NULL;
	grpc_metadata_array headers, trailers;
	grpc_metadata metadata = {0};
	grpc_status_code status = GRPC_STATUS_UNKNOWN;
	grpc_slice details = grpc_empty_slice();
	grpc_op ops[6];

	grpc_metadata_array_init(&headers);
	grpc_metadata_array_init(&trailers);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (metadata_key) {
		metadata.key = grpc_slice_from_copied_string(metadata_key);
		metadata.value = grpc_slice_from_copied_string(metadata_value);
		ops[0].data.send_initial_metadata.count = 1;
		ops[0].data.send_initial_metadata.metadata = &metadata;
	}
	ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY;
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = request;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &headers;
	ops[4].op = GRPC_OP_RECV_MESSAGE;
	ops[4].data.recv_message.recv_message = &response;
	ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[5].data.recv_status_on_client.trailing_metadata = &trailers;
	ops[5].data.recv_status_on_client.status = &status;
	ops[5].data.recv_status_on_client.status_details = &details;
	must(grpc_call_start_batch(call, ops, 6, call, NULL));
	(void)grpc_completion_queue_pluck(client->cq, call, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

	*result = (struct gc_result){0};
	set_result(result, status, details);
	if (response)
		read_buffer(response, &result->data, &result->size);
	grpc_byte_buffer_destroy(request);
	grpc_metadata_array_destroy(&headers);
	grpc_metadata_array_destroy(&trailers);
	if (metadata_key) {
		grpc_slice_unref(metadata.key);
		grpc_slice_unref(metadata.value);
	}
	grpc_call_unref(call);
}

void gc_stream_open(struct gc_stream *stream, struct gc *client, const char *method)
{
	grpc_op ops[3];

	*stream = (struct gc_stream){.client = client};
	stream->call = new_call(client, method, 10 * GC_WAIT_MS);
	grpc_metadata_array_init(&stream->headers);
	grpc_metadata_array_init(&stream->trailers);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY;
	must(grpc_call_start_batch(stream->call, ops, 1, &stream->tags[0], NULL));
	(void)grpc_completion_queue_pluck(client->cq, &stream->tags[0], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[0].data.recv_initial_metadata.recv_initial_metadata = &stream->headers;
	ops[1].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[1].data.recv_status_on_client.trailing_metadata = &stream->trailers;
	ops[1].data.recv_status_on_client.status = &stream->status;
	ops[1].data.recv_status_on_client.status_details = &stream->details;
	must(grpc_call_start_batch(stream->call, ops, 1, &stream->tags[1], NULL));
	must(grpc_call_start_batch(stream->call, ops + 1, 1, &stream->tags[2], NULL));
}

bool gc_stream_flush(struct gc_stream *stream, int wait_ms)
{
	grpc_event event;

	if (!stream->sending)
		return true;
	event = grpc_completion_queue_pluck(stream->client->cq, &stream->tags[0], after_ms(wait_ms), NULL);
	if (event.type != GRPC_OP_COMPLETE)
		return false;
	grpc_byte_buffer_destroy(stream->sending);
	stream->sending = NULL;
	return true;
}

bool gc_stream_send(struct gc_stream *stream, const void *data, size_t size, int wait_ms)
{
	grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};

	if (!gc_stream_flush(stream, wait_ms))
		return false;
	stream->sending = buffer_of(data, size);
	op.data.send_message.send_message = stream->sending;
	must(grpc_call_start_batch(stream->call, &op, 1, &stream->tags[0], NULL));
	return true;
}

bool gc_stream_receive(struct gc_stream *stream, char **data, size_t *size)
{
	grpc_byte_buffer *buffer = NULL;
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
	grpc_event event;

	op.data.recv_message.recv_message = &buffer;
	must(grpc_call_start_batch(stream->call, &op, 1, &stream->tags[3], NULL));
	event = grpc_completion_queue_pluck(stream->client->cq, &stream->tags[3], after_ms(GC_WAIT_MS), NULL);
	if (event.type != GRPC_OP_COMPLETE) {
		grpc_call_cancel(stream->call, NULL);
		(void)grpc_completion_queue_pluck(stream->client->cq, &stream->tags[3],
						  gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (buffer)
			grpc_byte_buffer_destroy(buffer);
		return false;
	}
	if (!buffer)
		return false;
	read_buffer(buffer, data, size);
	return true;
}

void gc_stream_half_close(struct gc_stream *stream)
{
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

	(void)gc_stream_flush(stream, GC_WAIT_MS);
	must(grpc_call_start_batch(stream->call, &op, 1, &stream->tags[0], NULL));
	(void)grpc_completion_queue_pluck(stream->client->cq, &stream->tags[0], gpr_inf_future(GPR_CLOCK_MONOTONIC),
					  NULL);
}

void gc_stream_cancel(struct gc_stream *stream)
{
	(void)grpc_call_cancel(stream->call, NULL);
}

void gc_stream_end(struct gc_stream *stream, struct gc_result *result)
{
	grpc_event event =
		grpc_completion_queue_pluck(stream->client->cq, &stream->tags[2], after_ms(GC_WAIT_MS), NULL);

	if (event.type != GRPC_OP_COMPLETE) {
		(void)grpc_call_cancel_with_status(stream->call, GRPC_STATUS_DEADLINE_EXCEEDED,
						   "the test waited too long", NULL);
		(void)grpc_completion_queue_pluck(stream->client->cq, &stream->tags[2],
						  gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	}
	(void)grpc_completion_queue_pluck(stream->client->cq, &stream->tags[1], gpr_inf_future(GPR_CLOCK_MONOTONIC),
					  NULL);
	(void)gc_stream_flush(stream, GC_WAIT_MS);
	*result = (struct gc_result){0};
	set_result(result, stream->status, stream->details);
	grpc_metadata_array_destroy(&stream->headers);
	grpc_metadata_array_destroy(&stream->trailers);
	grpc_call_unref(stream->call);
}
