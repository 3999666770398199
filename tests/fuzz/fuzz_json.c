/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON from clients to wire bytes, and wire bytes to JSON. The first byte of an input chooses the message, and whether the rest is JSON
 * or wire bytes. Promises beside memory safety:
 *
 *  - what became wire bytes can be unpacked by protobuf-c, and becomes JSON again, which means the same message
 *  - JSON is written the same in pieces of any size, and is JSON (jansson reads it)
 *  - the ends of values in a sequence do not depend on how it is cut
 */
#include <jansson.h>
#include <stdlib.h>

#include "base/panic.h"
#include "net/json.h"
#include "proto/election.pb-c.h"
#include "proto/rpc.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
	&etcdserverpb__range_request__descriptor,
	&etcdserverpb__put_request__descriptor,
	&etcdserverpb__delete_range_request__descriptor,
	&etcdserverpb__txn_request__descriptor,
	&etcdserverpb__watch_request__descriptor,
	&etcdserverpb__lease_grant_request__descriptor,
	&etcdserverpb__alarm_request__descriptor,
	&etcdserverpb__member_add_request__descriptor,
	&etcdserverpb__auth_role_grant_permission_request__descriptor,
	&etcdserverpb__range_response__descriptor,
	&etcdserverpb__txn_response__descriptor,
	&etcdserverpb__watch_response__descriptor,
	&etcdserverpb__status_response__descriptor,
	&v3electionpb__campaign_response__descriptor,
};
#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

/* False when the wire bytes are not of the type. The text ends with a zero that does not count. */
static bool to_json(const ProtobufCMessageDescriptor *type, struct ks_slice wire, size_t step, struct ks_buf *text)
{
	struct ks_json_writer *writer;
	enum ks_json_written written;
	struct ks_out out;

	ks_out_init(&out, SIZE_MAX);
	ks_buf_append_slice(&out.buf, wire);
	writer = ks_json_writer_new(type, &out);
	KS_ASSERT(writer);
	ks_buf_init(text, SIZE_MAX);
	do {
		written = ks_json_write(writer, text, text->size + step);
	} while (written == KS_JSON_MORE);
	ks_json_writer_free(writer);
	KS_ASSERT(!text->failed);
	return written == KS_JSON_DONE;
}

static struct ks_slice slice_of(const struct ks_buf *buf)
{
	return ks_slice_of(buf->data, buf->size);
}

/* True when it is of the type; 'text' is to be freed in either case. */
static bool check_out(const ProtobufCMessageDescriptor *type, struct ks_slice wire, struct ks_buf *text)
{
	struct ks_buf pieces;
	bool good = to_json(type, wire, SIZE_MAX / 2, text);
	json_t *parsed;

	KS_ASSERT(to_json(type, wire, 1, &pieces) == good);
	KS_ASSERT(ks_slice_eq(slice_of(text), slice_of(&pieces)));
	ks_buf_fini(&pieces);
	if (!good)
		return false;
	parsed = json_loadb((const char *)text->data, text->size, JSON_ALLOW_NUL, NULL);
	KS_ASSERT(parsed || text->size > 4000); /* jansson has a limit of depth of its own */
	json_decref(parsed);
	return true;
}

static void check_in(const ProtobufCMessageDescriptor *type, struct ks_slice text)
{
	struct ks_buf wire, again, first, second;
	ProtobufCMessage *message;
	struct ks_err err;

	ks_buf_init(&wire, SIZE_MAX);
	if (ks_json_to_wire(type, text, &wire, &err) == KS_OK) {
		message = protobuf_c_message_unpack(type, NULL, wire.size, wire.data);
		KS_ASSERT(message);
		protobuf_c_message_free_unpacked(message, NULL);
		KS_ASSERT(check_out(type, slice_of(&wire), &first));
		ks_buf_init(&again, SIZE_MAX);
		KS_ASSERT(ks_json_to_wire(type, slice_of(&first), &again, &err) == KS_OK);
		KS_ASSERT(check_out(type, slice_of(&again), &second));
		KS_ASSERT(ks_slice_eq(slice_of(&first), slice_of(&second)));
		ks_buf_fini(&first);
		ks_buf_fini(&second);
		ks_buf_fini(&again);
	}
	ks_buf_fini(&wire);
}

/* The ends of all values, one after the other; SIZE_MAX when there is nothing good. */
static size_t find_ends(struct ks_slice text, size_t step, size_t *hash)
{
	struct ks_json_split state = {.depth = 0};
	size_t at = 0, count = 0;

	*hash = 0;
	while (at < text.size) {
		size_t piece = text.size - at < step ? text.size - at : step, taken;
		enum ks_json_found found = ks_json_split(&state, ks_slice_of(text.data + at, piece), &taken);

		KS_ASSERT(taken <= piece);
		at += taken;
		if (found == KS_JSON_BAD)
			return SIZE_MAX;
		if (found == KS_JSON_WHOLE) {
			count++;
			*hash = *hash * 31 + at;
		}
	}
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const ProtobufCMessageDescriptor *type;
	size_t one, all;
	struct ks_slice rest;
	struct ks_buf text;

	if (size < 1)
		return 0;
	type = types[(data[0] & 0x7f) % TYPE_COUNT];
	rest = ks_slice_of(data + 1, size - 1);
	if (data[0] & 0x80) {
		(void)check_out(type, rest, &text);
		ks_buf_fini(&text);
		return 0;
	}
	check_in(type, rest);
	KS_ASSERT(find_ends(rest, 1, &one) == find_ends(rest, SIZE_MAX, &all));
	KS_ASSERT(one == all);
	return 0;
}
