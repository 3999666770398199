/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The typed calls of etcdc.h with their method descriptions, RangeStream, and the coding of messages: protobuf-c on one
 * side, gRPC's slices on the other, errors in between.
 */
#include <stdio.h>
#include <string.h>

#include "base/panic.h"
#include "client/client_priv.h"

#define DEFINE(name, Method, Service, Request, request_type, Response, response_type, again)             \
	const struct etcdc_method etcdc_method_##name = {                                                \
		.path = "/etcdserverpb." #Service "/" #Method,                                           \
		.request = &etcdserverpb__##request_type##__descriptor,                                  \
		.response = &etcdserverpb__##response_type##__descriptor,                                \
		.repeatable = again,                                                                     \
	};                                                                                               \
	enum ks_status etcdc_##name(struct etcdc *client, const Etcdserverpb__##Request *req,            \
				    Etcdserverpb__##Response **resp, struct etcdc_err *err)              \
	{                                                                                                \
		void *got;                                                                               \
		enum ks_status status = etcdc_unary(client, &etcdc_method_##name, req, NULL, &got, err); \
                                                                                                         \
		*resp = got;                                                                             \
		return status;                                                                           \
	}
ETCDC_UNARY_METHODS(DEFINE)

const struct etcdc_method etcdc_method_watch = {
	.path = "/etcdserverpb.Watch/Watch",
	.request = &etcdserverpb__watch_request__descriptor,
	.response = &etcdserverpb__watch_response__descriptor,
};

const struct etcdc_method etcdc_method_lease_keep_alive = {
	.path = "/etcdserverpb.Lease/LeaseKeepAlive",
	.request = &etcdserverpb__lease_keep_alive_request__descriptor,
	.response = &etcdserverpb__lease_keep_alive_response__descriptor,
};

const struct etcdc_method etcdc_method_range_stream = {
	.path = "/etcdserverpb.KV/RangeStream",
	.request = &etcdserverpb__range_request__descriptor,
	.response = &etcdserverpb__range_stream_response__descriptor,
};

const struct etcdc_method etcdc_method_snapshot = {
	.path = "/etcdserverpb.Maintenance/Snapshot",
	.request = &etcdserverpb__snapshot_request__descriptor,
	.response = &etcdserverpb__snapshot_response__descriptor,
};

void etcdc_free(void *response)
{
	if (response)
		protobuf_c_message_free_unpacked(response, NULL);
}

enum ks_status etcdc_range_stream(struct etcdc *client, const Etcdserverpb__RangeRequest *request,
				  bool (*each)(void *arg, const Etcdserverpb__RangeResponse *part), void *arg,
				  struct etcdc_err *err)
{
	struct etcdc_stream_options options = {.timeout_ms = client->timeout_ms};
	struct etcdc_stream *stream = etcdc_stream_open(client, &etcdc_method_range_stream, &options);
	enum ks_status status;
	void *message;

	(void)etcdc_stream_send(stream, request);
	etcdc_stream_half_close(stream);
	while ((status = etcdc_stream_recv(stream, -1, &message, err)) == KS_OK && message) {
		const Etcdserverpb__RangeStreamResponse *part = message;
		bool more = !part->range_response || each(arg, part->range_response);

		etcdc_free(message);
		if (!more) {
			status = etcdc_fail(err, KS_CANCELLED, true, "etcdc: cancelled by the caller");
			break;
		}
	}
	etcdc_stream_close(stream);
	return status;
}

/* ---- Coding ---- */

grpc_slice etcdc_encode(const ProtobufCMessage *message)
{
	grpc_slice bytes = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));

	(void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(bytes));
	return bytes;
}

grpc_byte_buffer *etcdc_buffer_of(grpc_slice bytes)
{
	return grpc_raw_byte_buffer_create(&bytes, 1);
}

grpc_slice etcdc_flatten(grpc_byte_buffer *buffer)
{
	grpc_byte_buffer_reader reader;
	grpc_slice bytes;

	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return grpc_empty_slice();
	bytes = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	return bytes;
}

ProtobufCMessage *etcdc_decode(const ProtobufCMessageDescriptor *descriptor, grpc_byte_buffer *buffer)
{
	grpc_slice bytes;
	ProtobufCMessage *message;

	/* Most messages arrive in one slice, which needs no copy. */
	if (buffer->type == GRPC_BB_RAW && buffer->data.raw.compression == GRPC_COMPRESS_NONE &&
	    buffer->data.raw.slice_buffer.count == 1)
		bytes = grpc_slice_ref(buffer->data.raw.slice_buffer.slices[0]);
	else
		bytes = etcdc_flatten(buffer);
	message = protobuf_c_message_unpack(descriptor, NULL, GRPC_SLICE_LENGTH(bytes), GRPC_SLICE_START_PTR(bytes));
	grpc_slice_unref(bytes);
	return message;
}

enum ks_status etcdc_fail(struct etcdc_err *err, enum ks_status status, bool sent, const char *text)
{
	if (err) {
		err->status = status;
		err->sent = sent;
		(void)snprintf(err->text, sizeof(err->text), "%s", text);
	}
	return status;
}

void etcdc_err_of(struct etcdc_err *err, grpc_status_code code, grpc_slice details, bool sent)
{
	size_t size = GRPC_SLICE_LENGTH(details);

	if (size > sizeof(err->text) - 1)
		size = sizeof(err->text) - 1;
	memcpy(err->text, GRPC_SLICE_START_PTR(details), size);
	err->text[size] = '\0';
	err->sent = sent;
	/* Codes beyond 16 are not gRPC's. */
	err->status = (unsigned)code <= KS_UNAUTHENTICATED ? (enum ks_status)code : KS_UNKNOWN;
}
