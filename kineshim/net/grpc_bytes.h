/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages to and from gRPC's byte buffers without copying large parts. Shared by net/ and client/, and the only header of
 * net/ that shows gRPC types.
 *
 * Threads: any; each object belongs to one thread at a time. A grpc_byte_buffer is destroyed by whoever holds it, with
 * grpc_byte_buffer_destroy; ks_bytes that it refers to stay alive until gRPC has sent them.
 */
#ifndef KS_NET_GRPC_BYTES_H
#define KS_NET_GRPC_BYTES_H

#include <grpc/grpc.h>
#include <stdbool.h>

#include "base/out.h"

/* Takes what 'out' holds and leaves it empty. NULL when 'out' has failed (it is emptied all the same). */
grpc_byte_buffer *ks_grpc_bytes_from_out(struct ks_out *out);
/*
 * The same into a buffer that was used before and is empty again, for one message after the other: making and destroying a buffer
 * costs more than filling it. 'out' must not have failed.
 */
void ks_grpc_bytes_refill(grpc_byte_buffer *buffer, struct ks_out *out);
grpc_byte_buffer *ks_grpc_bytes_from_slice(struct ks_slice slice); /* copies */

/* A received message, seen as one piece. */
struct ks_grpc_message {
	struct ks_slice slice; /* the whole message, valid until ks_grpc_message_close */
	grpc_byte_buffer *buffer;
	uint8_t *joined; /* malloc-ed copy when the message came in more than one piece */
};

/* Takes 'buffer', in any case. False when memory for joining the pieces is short; close it in any case. */
bool ks_grpc_message_open(struct ks_grpc_message *message, grpc_byte_buffer *buffer);
void ks_grpc_message_close(struct ks_grpc_message *message); /* twice is harmless */
/* How the peer compressed the message ("gzip"); NULL when it did not. */
const char *ks_grpc_bytes_encoding(const grpc_byte_buffer *buffer);

#endif
