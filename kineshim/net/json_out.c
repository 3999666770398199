/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wire bytes to JSON, see json.h. The wire bytes are read once, front to back, across the pieces that a ks_out consists of; a stack
 * holds the messages that are open. Between two calls the position may be anywhere, also within a value of bytes.
 *
 * Fields of one list are expected side by side, as every encoder writes them.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/panic.h"
#include "net/json.h"

#define FIRST_DEPTH 8
#define MAX_DEPTH 10000
/* base64 at a time, in bytes of its source; a multiple of three. */
#define BYTES_AT_A_TIME 12288

struct open_message {
	const ProtobufCMessageDescriptor *type;
	const ProtobufCFieldDescriptor *list; /* whose bracket is open */
	size_t end;                           /* position behind its last byte */
	bool any;                             /* a field was written */
};

struct ks_json_writer {
	struct ks_out wire;
	bool borrowed;           /* the wire is somebody else's */
	size_t size, position;   /* of the whole; of the next byte */
	const uint8_t *at, *end; /* the piece that is being read */
	size_t next_insert;
	bool at_insert; /* the piece is wire.inserts[next_insert] */
	struct open_message *stack;
	size_t depth, capacity;
	/* a value of bytes under way */
	bool in_bytes;
	size_t bytes_left;
	uint8_t carry[3];
	size_t carry_size;
	const char *empty_list; /* comes last; NULL: none */
	bool begun, failed;
};

/* ---- reading ---- */

/* The next piece of the wire that has bytes. False at the end of all. */
static bool next_piece(struct ks_json_writer *writer)
{
	const struct ks_out *wire = &writer->wire;

	while (writer->at == writer->end) {
		size_t from, to;

		if (!writer->at_insert && writer->next_insert < wire->insert_count) {
			struct ks_slice bytes = ks_bytes_slice(wire->inserts[writer->next_insert].bytes);

			writer->at_insert = true;
			writer->at = bytes.data;
			writer->end = bytes.data + bytes.size;
			continue;
		}
		if (!writer->at_insert)
			return false;
		from = wire->inserts[writer->next_insert++].at;
		to = writer->next_insert < wire->insert_count ? wire->inserts[writer->next_insert].at : wire->buf.size;
		writer->at_insert = false;
		writer->at = wire->buf.data + from;
		writer->end = wire->buf.data + to;
	}
	return true;
}

static bool read_varint(struct ks_json_writer *writer, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte;

		if (writer->at == writer->end && !next_piece(writer))
			return false;
		byte = *writer->at++;
		writer->position++;
		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* Up to 'most' bytes that lie side by side; empty at the end. */
static struct ks_slice read_run(struct ks_json_writer *writer, size_t most)
{
	struct ks_slice run;

	if (writer->at == writer->end && !next_piece(writer))
		return ks_slice_of(NULL, 0);
	run = ks_slice_of(writer->at, (size_t)(writer->end - writer->at));
	run.size = run.size < most ? run.size : most;
	writer->at += run.size;
	writer->position += run.size;
	return run;
}

static bool skip(struct ks_json_writer *writer, size_t size)
{
	while (size > 0) {
		struct ks_slice run = read_run(writer, size);

		if (!run.size)
			return false;
		size -= run.size;
	}
	return true;
}

static bool read_fixed(struct ks_json_writer *writer, size_t size, uint64_t *value)
{
	*value = 0;
	for (size_t i = 0; i < size; i++) {
		struct ks_slice byte = read_run(writer, 1);

		if (!byte.size)
			return false;
		*value |= (uint64_t)byte.data[0] << (8 * i);
	}
	return true;
}

/* The length of what follows, which must lie within the message that is open. */
static bool read_length(struct ks_json_writer *writer, size_t *size)
{
	uint64_t length;

	if (!read_varint(writer, &length) || writer->position > writer->stack[writer->depth - 1].end ||
	    length > writer->stack[writer->depth - 1].end - writer->position)
		return false;
	*size = (size_t)length;
	return true;
}

/* ---- writing ---- */

static void put(struct ks_buf *to, const char *text)
{
	ks_buf_append(to, text, strlen(text));
}

static void put_number(struct ks_buf *to, bool negative, uint64_t magnitude, bool quoted)
{
	char text[24], *at = text + sizeof(text);

	if (quoted)
		*--at = '"';
	do {
		*--at = (char)('0' + magnitude % 10);
		magnitude /= 10;
	} while (magnitude);
	if (negative)
		*--at = '-';
	if (quoted)
		*--at = '"';
	ks_buf_append(to, at, (size_t)(text + sizeof(text) - at));
}

/* Bytes of the character that 'text' begins with; 0 when it is no UTF-8. */
static size_t utf8_size(struct ks_slice text)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint8_t lead = text.data[0];
	size_t size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
	uint32_t point = lead & (0xffu >> (size + 1));

	if (size == 1)
		return 1;
	if (lead < 0xc2 || lead > 0xf4 || size > text.size)
		return 0;
	for (size_t i = 1; i < size; i++) {
		if ((text.data[i] & 0xc0) != 0x80)
			return 0;
		point = point << 6 | (text.data[i] & 0x3f);
	}
	return point < least[size] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ? 0 : size;
}

static void put_escaped(struct ks_buf *to, uint8_t c)
{
	switch (c) {
	case '"':
		put(to, "\\\"");
		break;
	case '\\':
		put(to, "\\\\");
		break;
	case '\n':
		put(to, "\\n");
		break;
	case '\r':
		put(to, "\\r");
		break;
	case '\t':
		put(to, "\\t");
		break;
	default:
		ks_buf_printf(to, "\\u%04x", c);
	}
}

void ks_json_string(struct ks_buf *to, struct ks_slice text)
{
	put(to, "\"");
	while (text.size > 0) {
		size_t size = utf8_size(text), plain = 0;

		while (plain < text.size && text.data[plain] >= 0x20 && text.data[plain] < 0x80 &&
		       text.data[plain] != '"' && text.data[plain] != '\\')
			plain++;
		if (plain > 0) {
			ks_buf_append(to, text.data, plain);
			size = plain;
		} else if (size == 1) {
			put_escaped(to, text.data[0]);
		} else if (size == 0) {
			put(to, "\\ufffd");
			size = 1;
		} else {
			ks_buf_append(to, text.data, size);
		}
		text.data += size;
		text.size -= size;
	}
	put(to, "\"");
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static uint8_t *put_triple(uint8_t *to, const uint8_t *from)
{
	uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];

	to[0] = (uint8_t)base64_digits[bits >> 18];
	to[1] = (uint8_t)base64_digits[bits >> 12 & 63];
	to[2] = (uint8_t)base64_digits[bits >> 6 & 63];
	to[3] = (uint8_t)base64_digits[bits & 63];
	return to + 4;
}

static void put_base64(struct ks_json_writer *writer, struct ks_buf *out, struct ks_slice run)
{
	uint8_t *to;

	if (!ks_buf_reserve(out, (run.size + 2) / 3 * 4 + 8))
		return;
	to = out->data + out->size;
	while (writer->carry_size > 0 && writer->carry_size < 3 && run.size > 0) {
		writer->carry[writer->carry_size++] = *run.data++;
		run.size--;
	}
	if (writer->carry_size == 3) {
		to = put_triple(to, writer->carry);
		writer->carry_size = 0;
	}
	for (; run.size >= 3; run.data += 3, run.size -= 3)
		to = put_triple(to, run.data);
	while (run.size > 0) {
		writer->carry[writer->carry_size++] = *run.data++;
		run.size--;
	}
	out->size = (size_t)(to - out->data);
}

static void end_base64(struct ks_json_writer *writer, struct ks_buf *out)
{
	uint8_t last[3] = {0}, digits[4];

	if (writer->carry_size) {
		memcpy(last, writer->carry, writer->carry_size);
		(void)put_triple(digits, last);
		memset(digits + 1 + writer->carry_size, '=', 3 - writer->carry_size);
		ks_buf_append(out, digits, sizeof(digits));
	}
	writer->carry_size = 0;
	put(out, "\"");
	writer->in_bytes = false;
}

static bool write_bytes(struct ks_json_writer *writer, struct ks_buf *to)
{
	size_t most = writer->bytes_left < BYTES_AT_A_TIME ? writer->bytes_left : BYTES_AT_A_TIME;
	struct ks_slice run;

	if (writer->bytes_left == 0) {
		end_base64(writer, to);
		return true;
	}
	run = read_run(writer, most);
	put_base64(writer, to, run);
	writer->bytes_left -= run.size;
	return run.size > 0;
}

/* ---- messages ---- */

static bool push(struct ks_json_writer *writer, const ProtobufCMessageDescriptor *type, size_t size)
{
	if (writer->depth == writer->capacity) {
		size_t capacity = writer->capacity ? writer->capacity * 2 : FIRST_DEPTH;
		struct open_message *stack;

		if (capacity > MAX_DEPTH)
			return false;
		stack = reallocarray(writer->stack, capacity, sizeof(*stack));
		if (!stack)
			return false;
		writer->stack = stack;
		writer->capacity = capacity;
	}
	writer->stack[writer->depth++] = (struct open_message){.type = type, .end = writer->position + size};
	return true;
}

/* What stands in front of a field's value: its name, or a comma within its list. */
static void put_name(struct open_message *message, const ProtobufCFieldDescriptor *field, struct ks_buf *to)
{
	if (message->list == field) {
		put(to, ",");
		return;
	}
	if (message->list)
		put(to, "]");
	message->list = NULL;
	put(to, message->any ? ",\"" : "\"");
	message->any = true;
	put(to, field->name);
	put(to, "\":");
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		message->list = field;
		put(to, "[");
	}
}

/* A zero that is not in a list or a oneof says nothing. */
static bool is_left_out(const ProtobufCFieldDescriptor *field, bool is_zero)
{
	return is_zero && field->label != PROTOBUF_C_LABEL_REPEATED && !(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
}

static void put_enum(const ProtobufCEnumDescriptor *type, int value, struct ks_buf *to)
{
	const ProtobufCEnumValue *found = protobuf_c_enum_descriptor_get_value(type, value);

	if (!found) {
		put_number(to, value < 0, (uint64_t)llabs((long long)value), false);
		return;
	}
	put(to, "\"");
	put(to, found->name);
	put(to, "\"");
}

static void put_signed(struct ks_buf *to, int64_t value, bool quoted)
{
	put_number(to, value < 0, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, quoted);
}

static int64_t zigzag(uint64_t value)
{
	return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static bool put_integer(const ProtobufCFieldDescriptor *field, uint64_t value, struct ks_buf *to)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_BOOL:
		put(to, value ? "true" : "false");
		return true;
	case PROTOBUF_C_TYPE_ENUM:
		put_enum(field->descriptor, (int)(int32_t)(uint32_t)value, to);
		return true;
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		put_signed(to, (int32_t)(uint32_t)value, false);
		return true;
	case PROTOBUF_C_TYPE_SINT32:
		put_signed(to, (int32_t)zigzag(value), false);
		return true;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		put_number(to, false, (uint32_t)value, false);
		return true;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		put_signed(to, (int64_t)value, true);
		return true;
	case PROTOBUF_C_TYPE_SINT64:
		put_signed(to, zigzag(value), true);
		return true;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		put_number(to, false, value, true);
		return true;
	default:
		return false; /* a fraction, of which etcd has none, or another wire type than the field's */
	}
}

static bool write_integer(struct ks_json_writer *writer, const ProtobufCFieldDescriptor *field, uint64_t value,
			  struct ks_buf *to)
{
	if (is_left_out(field, value == 0))
		return true;
	put_name(&writer->stack[writer->depth - 1], field, to);
	return put_integer(field, value, to);
}

/* A list of numbers in one field. */
static bool write_packed(struct ks_json_writer *writer, const ProtobufCFieldDescriptor *field, size_t size,
			 struct ks_buf *to)
{
	size_t end = writer->position + size;
	uint64_t value;

	while (writer->position < end)
		if (!read_varint(writer, &value) || !write_integer(writer, field, value, to))
			return false;
	return writer->position == end;
}

static bool write_string(struct ks_json_writer *writer, size_t size, struct ks_buf *to)
{
	struct ks_slice run = read_run(writer, size);
	struct ks_buf joined;

	if (run.size == size) {
		ks_json_string(to, run);
		return true;
	}
	/* In two pieces: rare enough to copy. */
	ks_buf_init(&joined, size);
	ks_buf_append_slice(&joined, run);
	while (joined.size < size && (run = read_run(writer, size - joined.size)).size)
		ks_buf_append_slice(&joined, run);
	if (joined.size == size)
		ks_json_string(to, ks_slice_of(joined.data, joined.size));
	size -= joined.size;
	ks_buf_fini(&joined);
	return size == 0;
}

static bool write_sized(struct ks_json_writer *writer, const ProtobufCFieldDescriptor *field, struct ks_buf *to)
{
	struct open_message *message = &writer->stack[writer->depth - 1];
	size_t size;

	if (!read_length(writer, &size))
		return false;
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		put_name(message, field, to);
		put(to, "{");
		return push(writer, field->descriptor, size);
	case PROTOBUF_C_TYPE_BYTES:
		if (is_left_out(field, size == 0))
			return true;
		put_name(message, field, to);
		put(to, "\"");
		writer->in_bytes = true;
		writer->bytes_left = size;
		return true;
	case PROTOBUF_C_TYPE_STRING:
		if (is_left_out(field, size == 0))
			return true;
		put_name(message, field, to);
		return write_string(writer, size, to);
	default:
		return field->label == PROTOBUF_C_LABEL_REPEATED && write_packed(writer, field, size, to);
	}
}

static bool skip_field(struct ks_json_writer *writer, unsigned wire_type)
{
	uint64_t value;
	size_t size;

	switch (wire_type) {
	case 0:
		return read_varint(writer, &value);
	case 1:
		return skip(writer, 8);
	case 2:
		return read_length(writer, &size) && skip(writer, size);
	case 5:
		return skip(writer, 4);
	default:
		return false;
	}
}

static bool write_field(struct ks_json_writer *writer, struct ks_buf *to)
{
	const ProtobufCFieldDescriptor *field;
	unsigned wire_type;
	uint64_t tag, value;

	if (!read_varint(writer, &tag) || tag >> 3 > UINT32_MAX)
		return false;
	wire_type = tag & 7;
	field = protobuf_c_message_descriptor_get_field(writer->stack[writer->depth - 1].type, (unsigned)(tag >> 3));
	if (!field)
		return skip_field(writer, wire_type);
	switch (wire_type) {
	case 0:
		return read_varint(writer, &value) && write_integer(writer, field, value, to);
	case 1:
		return read_fixed(writer, 8, &value) && write_integer(writer, field, value, to);
	case 5:
		return read_fixed(writer, 4, &value) && write_integer(writer, field, value, to);
	case 2:
		return write_sized(writer, field, to);
	default:
		return false;
	}
}

static void close_message(struct ks_json_writer *writer, struct ks_buf *to)
{
	struct open_message *message = &writer->stack[--writer->depth];

	put(to, message->list ? "]" : "");
	if (writer->depth == 0 && writer->empty_list) {
		put(to, message->any ? ",\"" : "\"");
		put(to, writer->empty_list);
		put(to, "\":[]");
	}
	put(to, "}");
}

static bool step(struct ks_json_writer *writer, struct ks_buf *to)
{
	const struct open_message *message = &writer->stack[writer->depth - 1];

	if (writer->in_bytes)
		return write_bytes(writer, to);
	if (writer->position == message->end) {
		close_message(writer, to);
		return true;
	}
	return writer->position < message->end && write_field(writer, to);
}

/* ---- life ---- */

struct ks_json_writer *ks_json_writer_borrow(const ProtobufCMessageDescriptor *type, const struct ks_out *wire)
{
	struct ks_json_writer *writer = calloc(1, sizeof(*writer));

	KS_ASSERT(!ks_out_failed(wire));
	if (!writer)
		return NULL;
	writer->size = ks_out_size(wire);
	writer->wire = *wire;
	writer->borrowed = true;
	writer->at = writer->wire.buf.data;
	if (writer->at) /* an empty message has none */
		writer->end =
			writer->at + (writer->wire.insert_count ? writer->wire.inserts[0].at : writer->wire.buf.size);
	if (!push(writer, type, writer->size)) {
		ks_json_writer_free(writer);
		return NULL;
	}
	return writer;
}

struct ks_json_writer *ks_json_writer_new(const ProtobufCMessageDescriptor *type, struct ks_out *wire)
{
	struct ks_json_writer *writer = ks_json_writer_borrow(type, wire);

	if (!writer) {
		ks_out_fini(wire);
		return NULL;
	}
	writer->borrowed = false;
	ks_out_init(wire, wire->max);
	return writer;
}

void ks_json_writer_empty_list(struct ks_json_writer *writer, const char *name)
{
	writer->empty_list = name;
}

void ks_json_writer_free(struct ks_json_writer *writer)
{
	if (!writer)
		return;
	if (!writer->borrowed)
		ks_out_fini(&writer->wire);
	free(writer->stack);
	free(writer);
}

enum ks_json_written ks_json_write(struct ks_json_writer *writer, struct ks_buf *to, size_t wanted)
{
	if (!writer->begun)
		put(to, "{");
	writer->begun = true;
	while (!writer->failed && writer->depth > 0) {
		if (to->size >= wanted)
			return KS_JSON_MORE;
		writer->failed = !step(writer, to) || to->failed;
	}
	return writer->failed ? KS_JSON_FAILED : KS_JSON_DONE;
}
