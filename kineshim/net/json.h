/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON to and from protobuf's wire format, for any message that protobuf-c describes (spec 9.4). There is no code for single
 * messages, and no message is ever unpacked: JSON becomes wire bytes, and wire bytes become JSON.
 *
 * In: fields by their proto name or in lowerCamelCase; 64-bit integers as strings or numbers, also 1e3; enums by name or number;
 * bytes in standard or URL-safe base64, padded or not; null is absent; unknown fields and names of enums are ignored; two arms of a oneof,
 * and a field set twice, are an error. Out: proto names, 64-bit integers as strings, zero values left out, set but empty
 * messages as {}, in wire order.
 *
 * Threads: any; each object belongs to one thread at a time.
 * Limits: nesting of KS_JSON_MAX_DEPTH, KS_JSON_MAX_VALUES values in one text, and the maximum of the output buffer.
 */
#ifndef KS_NET_JSON_H
#define KS_NET_JSON_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "base/out.h"
#include "base/status.h"

#define KS_JSON_MAX_DEPTH 400
#define KS_JSON_MAX_VALUES 250000

/* ---- in ---- */

/*
 * Appends the message that the first value of 'text' describes; an empty text is an empty message, what follows the value is not
 * looked at. KS_INVALID_ARGUMENT with a text for a person, KS_RESOURCE_EXHAUSTED when 'out' is full.
 */
enum ks_status ks_json_to_wire(const ProtobufCMessageDescriptor *type, struct ks_slice text, struct ks_buf *out,
			       struct ks_err *err) KS_MUST_CHECK;

/* Finds the ends of the values in a sequence of texts that arrives in pieces. Starts zeroed. */
struct ks_json_split {
	uint32_t depth;
	uint32_t values; /* at least as many as there are in the current one */
	bool begun, string, escape, scalar;
};

enum ks_json_found {
	KS_JSON_PARTIAL, /* all was taken, the value goes on (or has not begun: state->begun) */
	KS_JSON_WHOLE,   /* the value ends with the last byte taken; the state is fresh again */
	KS_JSON_BAD      /* nothing good will come of it: too deep, too many values, a bracket too many */
};

/* Takes bytes up to the end of the current value, at most; '*taken' says how many. */
enum ks_json_found ks_json_split(struct ks_json_split *state, struct ks_slice piece, size_t *taken);

/* ---- out ---- */

/* Writes one message, in pieces of any size: memory does not grow with the message. */
struct ks_json_writer;

/* Takes what 'wire' holds; it must not have failed. NULL when memory is short ('wire' is emptied all the same). */
struct ks_json_writer *ks_json_writer_new(const ProtobufCMessageDescriptor *type, struct ks_out *wire);
/* Only reads 'wire', which must stay as it is until the writer is freed. NULL when memory is short. */
struct ks_json_writer *ks_json_writer_borrow(const ProtobufCMessageDescriptor *type, const struct ks_out *wire);
/* Before the first piece: the message ends with an empty list of that (static) name, which wire bytes cannot say. */
void ks_json_writer_empty_list(struct ks_json_writer *writer, const char *name);
void ks_json_writer_free(struct ks_json_writer *writer); /* NULL is fine */

enum ks_json_written {
	KS_JSON_MORE,
	KS_JSON_DONE,
	KS_JSON_FAILED /* the wire bytes are not of this message, or memory is short */
};

/* Appends to 'to' until it holds 'wanted' bytes or somewhat more, or the message is complete. */
enum ks_json_written ks_json_write(struct ks_json_writer *writer, struct ks_buf *to, size_t wanted);

/*
 * Lines of streams, {"result":…} and its end. What is sent to many is written once: the last few lines are kept with their messages, and a
 * message with the very same bytes gets the very same line. For messages that are small enough to be kept.
 */
#define KS_JSON_SHARED_MAX 32768
struct ks_json_shared;
struct ks_json_shared *ks_json_shared_new(void);
void ks_json_shared_free(struct ks_json_shared *shared); /* NULL is fine */
/*
 * Takes what 'wire' holds; it must not have failed. A reference for the caller; NULL when memory is short or the wire bytes are not of such
 * a message.
 */
struct ks_bytes *ks_json_shared_line(struct ks_json_shared *shared, const ProtobufCMessageDescriptor *type,
				     struct ks_out *wire);

/* Appends 'text' as a JSON string with its quotes; what is no UTF-8 becomes U+FFFD. */
void ks_json_string(struct ks_buf *to, struct ks_slice text);

#endif
