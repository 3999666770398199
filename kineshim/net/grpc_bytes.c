/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte buffers, see grpc_bytes.h. An outgoing message with two inserts becomes five slices:
 *
 *	buf   [ a a a a a | b b b | c c ]        one malloc-ed block, one reference count
 *	slices  a ─ insert 0 ─ b ─ insert 1 ─ c  parts of buf share its count, inserts hold a reference of theirs
 *
 * gRPC keeps slices of up to 23 bytes inline, so short parts cost a copy of a few bytes and no count at all.
 */
#include "net/grpc_bytes.h"

#include <grpc/byte_buffer.h>
#include <grpc/compression.h>
#include <grpc/slice.h>
#include <grpc/slice_buffer.h>
#include <stdlib.h>

/* Below this copying is cheaper than gRPC's separate reference count for foreign memory. */
#define COPY_SIZE 256

static void unref_bytes(void *bytes)
{
	ks_bytes_unref(bytes);
}

static grpc_slice slice_of_bytes(struct ks_bytes *taken)
{
	return grpc_slice_new_with_user_data(taken->data, taken->size, unref_bytes, taken);
}

static grpc_slice slice_of_buf(struct ks_buf *taken)
{
	grpc_slice slice;
	uint8_t *data;
	size_t size;

	if (taken->size <= COPY_SIZE) {
		slice = grpc_slice_from_copied_buffer((const char *)taken->data, taken->size);
		ks_buf_fini(taken);
		return slice;
	}
	data = ks_buf_take(taken, &size);
	return grpc_slice_new(data, size, free);
}

static void add_part(grpc_slice_buffer *slices, grpc_slice whole, size_t begin, size_t end)
{
	if (begin < end)
		grpc_slice_buffer_add(slices, grpc_slice_sub(whole, begin, end));
}

static void add_with_inserts(grpc_slice_buffer *slices, struct ks_out *out)
{
	size_t size = out->buf.size, at = 0;
	grpc_slice whole = slice_of_buf(&out->buf);

	for (size_t i = 0; i < out->insert_count; i++) {
		add_part(slices, whole, at, out->inserts[i].at);
		at = out->inserts[i].at;
		grpc_slice_buffer_add(slices, slice_of_bytes(out->inserts[i].bytes));
	}
	add_part(slices, whole, at, size);
	grpc_slice_unref(whole);
	out->insert_count = 0; /* the references are the slices' now */
}

grpc_byte_buffer *ks_grpc_bytes_from_out(struct ks_out *out)
{
	grpc_byte_buffer *buffer = NULL;

	if (ks_out_failed(out)) {
		ks_out_fini(out);
	} else {
		buffer = grpc_raw_byte_buffer_create(NULL, 0);
		ks_grpc_bytes_refill(buffer, out);
	}
	return buffer;
}

void ks_grpc_bytes_refill(grpc_byte_buffer *buffer, struct ks_out *out)
{
	grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;

	/* The core takes the slices of what it sends, but does not promise to. */
	if (slices->count)
		grpc_slice_buffer_reset_and_unref(slices);
	if (out->insert_count)
		add_with_inserts(slices, out);
	else if (out->buf.size)
		grpc_slice_buffer_add(slices, slice_of_buf(&out->buf));
	ks_out_fini(out);
}

grpc_byte_buffer *ks_grpc_bytes_from_slice(struct ks_slice slice)
{
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(NULL, 0);

	if (slice.size)
		grpc_slice_buffer_add(&buffer->data.raw.slice_buffer,
				      grpc_slice_from_copied_buffer((const char *)slice.data, slice.size));
	return buffer;
}

static uint8_t *join(const grpc_slice_buffer *slices)
{
	uint8_t *joined = malloc(slices->length);
	size_t at = 0;

	if (!joined)
		return NULL;
	for (size_t i = 0; i < slices->count; i++) {
		size_t size = GRPC_SLICE_LENGTH(slices->slices[i]);

		memcpy(joined + at, GRPC_SLICE_START_PTR(slices->slices[i]), size);
		at += size;
	}
	return joined;
}

bool ks_grpc_message_open(struct ks_grpc_message *message, grpc_byte_buffer *buffer)
{
	const grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;

	*message = (struct ks_grpc_message){.buffer = buffer};
	if (slices->length == 0)
		return true;
	if (slices->count == 1) {
		/* The pointer may lead into the slice itself (inline data), which stays where it is. */
		message->slice = ks_slice_of(GRPC_SLICE_START_PTR(slices->slices[0]), slices->length);
		return true;
	}
	message->joined = join(slices);
	if (!message->joined)
		return false;
	message->slice = ks_slice_of(message->joined, slices->length);
	grpc_byte_buffer_destroy(message->buffer);
	message->buffer = NULL;
	return true;
}

void ks_grpc_message_close(struct ks_grpc_message *message)
{
	if (message->buffer)
		grpc_byte_buffer_destroy(message->buffer);
	free(message->joined);
	*message = (struct ks_grpc_message){0};
}

const char *ks_grpc_bytes_encoding(const grpc_byte_buffer *buffer)
{
	const char *name = "unknown";

	if (buffer->data.raw.compression == GRPC_COMPRESS_NONE)
		return NULL;
	(void)grpc_compression_algorithm_name(buffer->data.raw.compression, &name);
	return name;
}
