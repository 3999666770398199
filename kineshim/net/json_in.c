/* SPDX-License-Identifier: Apache-2.0 */
/* JSON to wire bytes, see json.h. jansson parses; its tree is walked once, by the message's descriptor. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "net/json.h"

/* Length of a nested message before it is known. */
#define LENGTH_GUESS 1
/* Longer literals may not fit into jansson's signed numbers. */
#define LONG_NUMBER 18

struct reader {
	struct ks_buf *out;
	struct ks_err *err;
};

static bool read_message(struct reader *reader, const ProtobufCMessageDescriptor *type, const json_t *object);

static bool bad(struct reader *reader, const ProtobufCFieldDescriptor *field, const char *what)
{
	(void)ks_fail(reader->err, KS_INVALID_ARGUMENT, "json: field %s: %s", field->name, what);
	return false;
}

/* ---- names ---- */

/* Is 'key' the lowerCamelCase form of a proto name? "range_end" is "rangeEnd", "remaining_TTL" is "remainingTTL". */
static bool is_camel(const char *key, const char *name)
{
	while (*name) {
		char wanted = *name++;

		if (wanted == '_') {
			wanted = *name ? *name++ : '\0';
			if (wanted >= 'a' && wanted <= 'z')
				wanted = (char)(wanted - 'a' + 'A');
		}
		if (*key++ != wanted)
			return false;
	}
	return !*key;
}

static const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *type, const char *key)
{
	for (unsigned i = 0; i < type->n_fields; i++)
		if (strcmp(key, type->fields[i].name) == 0 || is_camel(key, type->fields[i].name))
			return &type->fields[i];
	return NULL;
}

/* ---- scalars ---- */

/* An integer as sign and magnitude: wide enough for int64 and uint64. */
struct integer {
	bool negative;
	uint64_t magnitude;
};

static bool from_double(double value, struct integer *to)
{
	double magnitude = fabs(value);

	if (!(magnitude < 18446744073709551616.0) || magnitude != floor(magnitude))
		return false;
	*to = (struct integer){.negative = value < 0, .magnitude = (uint64_t)magnitude};
	return true;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* As JSON writes numbers: no zero in front, and digits behind a point. */
static bool from_text(const char *text, struct integer *to)
{
	const char *digits = text + (*text == '-');
	char *end;

	if (!is_digit(*digits) || (*digits == '0' && is_digit(digits[1])))
		return false;
	errno = 0;
	*to = (struct integer){.negative = *text == '-', .magnitude = strtoumax(digits, &end, 10)};
	if (!*end)
		return errno == 0;
	if (*end == '.' ? !is_digit(end[1]) : *end != 'e' && *end != 'E')
		return false;
	return from_double(strtod(text, &end), to) && !*end;
}

static bool read_integer(const json_t *value, struct integer *to)
{
	json_int_t number;

	switch (json_typeof(value)) {
	case JSON_INTEGER:
		number = json_integer_value(value);
		*to = (struct integer){.negative = number < 0,
				       .magnitude = number < 0 ? 0 - (uint64_t)number : (uint64_t)number};
		return true;
	case JSON_REAL:
		return from_double(json_real_value(value), to);
	case JSON_STRING:
		return strlen(json_string_value(value)) == json_string_length(value) &&
		       from_text(json_string_value(value), to);
	default:
		return false;
	}
}

static bool is_unsigned(ProtobufCType type)
{
	return type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_FIXED32 ||
	       type == PROTOBUF_C_TYPE_FIXED64;
}

static bool is_64_bit(ProtobufCType type)
{
	return type == PROTOBUF_C_TYPE_INT64 || type == PROTOBUF_C_TYPE_SINT64 || type == PROTOBUF_C_TYPE_SFIXED64 ||
	       type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_FIXED64;
}

static bool fits(ProtobufCType type, struct integer value)
{
	uint64_t most = is_64_bit(type) ? (is_unsigned(type) ? UINT64_MAX : (uint64_t)INT64_MAX)
					: (is_unsigned(type) ? UINT32_MAX : INT32_MAX);

	if (!value.negative)
		return value.magnitude <= most;
	return value.magnitude == 0 || (!is_unsigned(type) && value.magnitude <= most + 1);
}

static void write_fixed(struct ks_buf *out, uint64_t bits, size_t size)
{
	uint8_t bytes[8];

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(bits >> (8 * i));
	ks_buf_append(out, bytes, size);
}

static void write_tag(struct ks_buf *out, const ProtobufCFieldDescriptor *field, unsigned wire_type)
{
	ks_wire_varint(out, (uint64_t)field->id << 3 | wire_type);
}

static void write_integer(struct ks_buf *out, const ProtobufCFieldDescriptor *field, struct integer value)
{
	uint64_t bits = value.negative ? 0 - value.magnitude : value.magnitude;

	switch (field->type) {
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SINT64:
		write_tag(out, field, 0);
		ks_wire_varint(out, value.negative ? value.magnitude * 2 - 1 : value.magnitude * 2);
		break;
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_SFIXED32:
		write_tag(out, field, 5);
		write_fixed(out, bits, 4);
		break;
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_SFIXED64:
		write_tag(out, field, 1);
		write_fixed(out, bits, 8);
		break;
	default:
		write_tag(out, field, 0);
		ks_wire_varint(out, bits);
	}
}

/* Zero is not written where it says nothing: outside of lists and oneofs. */
static bool says_something(const ProtobufCFieldDescriptor *field, bool is_zero)
{
	return !is_zero || field->label == PROTOBUF_C_LABEL_REPEATED || (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
}

static bool read_number(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	struct integer number;

	if (!read_integer(value, &number))
		return bad(reader, field, "not an integer");
	if (!fits(field->type, number))
		return bad(reader, field, "the number is out of range");
	if (says_something(field, number.magnitude == 0))
		write_integer(reader->out, field, number);
	return true;
}

/* A name that is none is like a field that is none: etcd 3.6 goes on without it, in a list, too. (etcd 3.4 and 3.5 refuse it.) */
static bool read_enum(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	const ProtobufCEnumDescriptor *type = field->descriptor;
	const ProtobufCEnumValue *found = NULL;
	struct integer number;

	if (json_is_string(value))
		found = protobuf_c_enum_descriptor_get_value_by_name(type, json_string_value(value));
	if (json_is_string(value) && !found)
		return true;
	if (found)
		number = (struct integer){.negative = found->value < 0,
					  .magnitude = (uint64_t)llabs((long long)found->value)};
	else if (!read_integer(value, &number) || !fits(PROTOBUF_C_TYPE_INT32, number))
		return bad(reader, field, "no such value");
	if (says_something(field, number.magnitude == 0))
		write_integer(reader->out, field, number);
	return true;
}

static bool read_bool(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	if (!json_is_boolean(value))
		return bad(reader, field, "neither true nor false");
	if (says_something(field, json_is_false(value)))
		write_integer(reader->out, field, (struct integer){.magnitude = json_is_true(value)});
	return true;
}

static bool read_string(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	size_t size = json_string_length(value);

	if (!json_is_string(value))
		return bad(reader, field, "not a string");
	if (!says_something(field, size == 0))
		return true;
	ks_wire_nested(reader->out, field->id, size);
	ks_buf_append(reader->out, json_string_value(value), size);
	return true;
}

/* ---- base64 ---- */

/* 0 to 63; 64: a line end, which is skipped; 65: anything else. */
static unsigned base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return (unsigned)(c - 'A');
	if (c >= 'a' && c <= 'z')
		return (unsigned)(c - 'a') + 26;
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0') + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return c == '\r' || c == '\n' ? 64 : 65;
}

/* Decodes to 'to', which has room for three quarters of the text; -1 when it is no base64. */
static ssize_t decode_base64(const char *text, size_t size, uint8_t *to)
{
	uint32_t bits = 0;
	size_t digits = 0, out = 0, padding = 0;

	while (size && (text[size - 1] == '=' || text[size - 1] == '\n' || text[size - 1] == '\r'))
		padding += text[--size] == '=';
	for (size_t i = 0; i < size; i++) {
		unsigned digit = base64_digit(text[i]);

		if (digit == 64)
			continue;
		if (digit == 65)
			return -1;
		bits = bits << 6 | digit;
		if (++digits % 4 == 0) {
			to[out++] = (uint8_t)(bits >> 16);
			to[out++] = (uint8_t)(bits >> 8);
			to[out++] = (uint8_t)bits;
		}
	}
	if (digits % 4 == 1 || (padding && (digits + padding) % 4 != 0) || padding > 2)
		return -1;
	if (digits % 4 == 2)
		to[out++] = (uint8_t)(bits >> 4);
	if (digits % 4 == 3) {
		to[out++] = (uint8_t)(bits >> 10);
		to[out++] = (uint8_t)(bits >> 2);
	}
	return (ssize_t)out;
}

static bool read_bytes(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	size_t most = json_string_length(value) / 4 * 3 + 3, start, head;
	struct ks_buf *out = reader->out;
	ssize_t size;

	if (!json_is_string(value))
		return bad(reader, field, "not a string of base64");
	/* Decoded behind the longest head that it may need, then moved to its own. */
	if (!ks_buf_reserve(out, most + 16))
		return true;
	start = out->size;
	size = decode_base64(json_string_value(value), json_string_length(value), out->data + start + 16);
	if (size < 0)
		return bad(reader, field, "illegal base64 data");
	if (!says_something(field, size == 0))
		return true;
	ks_wire_nested(out, field->id, (size_t)size);
	head = out->size - start;
	memmove(out->data + start + head, out->data + start + 16, (size_t)size);
	out->size += (size_t)size;
	return true;
}

/* ---- messages ---- */

static bool read_nested(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	struct ks_buf *out = reader->out;
	size_t start, size, length_size;

	if (!json_is_object(value))
		return bad(reader, field, "not an object");
	write_tag(out, field, 2);
	start = out->size;
	ks_buf_append(out, "", LENGTH_GUESS);
	if (!read_message(reader, field->descriptor, value) || out->failed)
		return !out->failed ? false : true;
	size = out->size - start - LENGTH_GUESS;
	length_size = ks_wire_varint_size(size);
	if (!ks_buf_reserve(out, length_size))
		return true;
	memmove(out->data + start + length_size, out->data + start + LENGTH_GUESS, size);
	out->size = start;
	ks_wire_varint(out, size);
	out->size = start + length_size + size;
	return true;
}

static bool read_value(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_ENUM:
		return read_enum(reader, field, value);
	case PROTOBUF_C_TYPE_BOOL:
		return read_bool(reader, field, value);
	case PROTOBUF_C_TYPE_STRING:
		return read_string(reader, field, value);
	case PROTOBUF_C_TYPE_BYTES:
		return read_bytes(reader, field, value);
	case PROTOBUF_C_TYPE_MESSAGE:
		return read_nested(reader, field, value);
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_DOUBLE:
		return bad(reader, field, "fractions are not supported"); /* etcd has none */
	default:
		return read_number(reader, field, value);
	}
}

static bool read_list(struct reader *reader, const ProtobufCFieldDescriptor *field, const json_t *value)
{
	if (!json_is_array(value))
		return bad(reader, field, "not a list");
	for (size_t i = 0; i < json_array_size(value); i++)
		if (!read_value(reader, field, json_array_get(value, i)))
			return false;
	return true;
}

/* At most one arm of each oneof; messages have few, so a short list of those seen does. */
struct oneofs {
	unsigned seen[8];
	size_t count;
};

static bool first_arm(struct oneofs *oneofs, const ProtobufCFieldDescriptor *field)
{
	if (!(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
		return true;
	for (size_t i = 0; i < oneofs->count; i++)
		if (oneofs->seen[i] == field->quantifier_offset)
			return false;
	if (oneofs->count < sizeof(oneofs->seen) / sizeof(*oneofs->seen))
		oneofs->seen[oneofs->count++] = field->quantifier_offset;
	return true;
}

static bool read_message(struct reader *reader, const ProtobufCMessageDescriptor *type, const json_t *object)
{
	struct oneofs oneofs = {.count = 0};
	uint64_t seen = 0; /* by index: a field has two names, and would be set twice */
	const char *key;
	json_t *value;

	/* The iteration does not change the object; jansson's macro wants it changeable. */
	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		const ProtobufCFieldDescriptor *field = find_field(type, key);

		if (!field || json_is_null(value))
			continue;
		if (seen >> ((field - type->fields) & 63) & 1)
			return bad(reader, field, "set twice");
		seen |= UINT64_C(1) << ((field - type->fields) & 63);
		if (!first_arm(&oneofs, field))
			return bad(reader, field, "another field of the same oneof is set");
		if (!(field->label == PROTOBUF_C_LABEL_REPEATED ? read_list(reader, field, value)
								: read_value(reader, field, value)))
			return false;
	}
	return true;
}

/* ---- texts ---- */

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* One byte of a value. True when the value ends with it. */
static bool split_byte(struct ks_json_split *state, uint8_t c)
{
	if (state->string) {
		if (state->escape)
			state->escape = false;
		else if (c == '\\')
			state->escape = true;
		else if (c == '"')
			state->string = false;
		return !state->string && state->depth == 0;
	}
	switch (c) {
	case '"':
		state->string = true;
		return false;
	case '{':
	case '[':
		state->depth++;
		state->values++;
		return false;
	case '}':
	case ']':
		state->depth--; /* one too many wraps around, and is too deep */
		return state->depth == 0;
	case ',':
		state->values++;
		return false;
	default:
		state->scalar |= state->depth == 0;
		return false;
	}
}

enum ks_json_found ks_json_split(struct ks_json_split *state, struct ks_slice piece, size_t *taken)
{
	for (size_t i = 0; i < piece.size; i++) {
		uint8_t c = piece.data[i];

		if (!state->begun && is_space(c))
			continue;
		/* A bare word or number ends before what cannot be part of it. */
		if (state->scalar && (is_space(c) || c == '{' || c == '[' || c == '"')) {
			*state = (struct ks_json_split){.depth = 0};
			*taken = i;
			return KS_JSON_WHOLE;
		}
		state->begun = true;
		if (split_byte(state, c)) {
			*state = (struct ks_json_split){.depth = 0};
			*taken = i + 1;
			return KS_JSON_WHOLE;
		}
		if (state->depth > KS_JSON_MAX_DEPTH || state->values > KS_JSON_MAX_VALUES) {
			*taken = i + 1;
			return KS_JSON_BAD;
		}
	}
	*taken = piece.size;
	return KS_JSON_PARTIAL;
}

/*
 * Integers that do not fit into jansson's signed 64 bits, as member IDs may be: the text again, with long integers as strings,
 * which mean the same. NULL when memory is short.
 */
static char *quote_long_numbers(struct ks_slice text, size_t *size)
{
	struct ks_buf out;
	bool string = false, escape = false;

	ks_buf_init(&out, text.size * 2 + 16);
	for (size_t i = 0; i < text.size; i++) {
		uint8_t c = text.data[i];
		size_t end = i;

		if (c == '"' && !escape)
			string = !string;
		escape = string && c == '\\' && !escape;
		while (!string && end < text.size && text.data[end] >= '0' && text.data[end] <= '9')
			end++;
		if (end - i < LONG_NUMBER || (end < text.size && memchr(".eE", text.data[end], 3)) ||
		    (i > 0 && memchr(".eE+-", text.data[i - 1], 5))) {
			end = end > i ? end : i + 1;
			ks_buf_append(&out, text.data + i, end - i);
		} else {
			ks_buf_append(&out, "\"", 1);
			ks_buf_append(&out, text.data + i, end - i);
			ks_buf_append(&out, "\"", 1);
		}
		i = end - 1;
	}
	if (out.failed)
		ks_buf_fini(&out);
	return (char *)ks_buf_take(&out, size);
}

static json_t *parse(struct ks_slice text, json_error_t *error)
{
	/* Of two fields of one name, somebody before us may have looked at the other one. */
	const size_t flags = JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES;
	json_t *root = json_loadb((const char *)text.data, text.size, flags, error);
	char *quoted;
	size_t size;

	if (root || json_error_code(error) != json_error_numeric_overflow)
		return root;
	quoted = quote_long_numbers(text, &size);
	if (quoted)
		root = json_loadb(quoted, size, flags, error);
	free(quoted);
	return root;
}

enum ks_status ks_json_to_wire(const ProtobufCMessageDescriptor *type, struct ks_slice text, struct ks_buf *out,
			       struct ks_err *err)
{
	struct reader reader = {.out = out, .err = err};
	struct ks_json_split split = {.depth = 0};
	enum ks_status status = KS_OK;
	json_error_t error;
	size_t taken;
	json_t *root;

	switch (ks_json_split(&split, text, &taken)) {
	case KS_JSON_BAD:
		return ks_fail(err, KS_INVALID_ARGUMENT, "json: too deeply nested, or too many values");
	case KS_JSON_WHOLE:
		text.size = taken;
		break;
	case KS_JSON_PARTIAL:
		if (!split.begun)
			return KS_OK;
		break;
	}
	root = parse(text, &error);
	if (!root)
		return ks_fail(err, KS_INVALID_ARGUMENT, "json: %s", error.text);
	if (json_is_object(root)) {
		if (!read_message(&reader, type, root))
			status = KS_INVALID_ARGUMENT;
		if (out->failed)
			status = ks_fail(err, KS_RESOURCE_EXHAUSTED, "json: the message is too large");
	} else if (!json_is_null(root)) {
		status = ks_fail(err, KS_INVALID_ARGUMENT, "json: the request is not an object");
	}
	json_decref(root);
	return status;
}
