/* SPDX-License-Identifier: Apache-2.0 */
/* Parser and printer of text.h: one pass over the text, one walk over the descriptors. */
#include "tests/conformance/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

/* ---- Parsing ---- */

struct parser {
	const char *text, *at;
	const struct names *names;
};

static void parse_message(struct parser *parser, ProtobufCMessage *message);

static void __attribute__((noreturn)) mistake(const struct parser *parser, const char *what)
{
	(void)fprintf(stderr, "conformance: %s at '%s' in: %s\n", what, parser->at, parser->text);
	abort();
}

static void skip_space(struct parser *parser)
{
	while (*parser->at == ' ' || *parser->at == ',' || *parser->at == '\n' || *parser->at == '\t')
		parser->at++;
}

static int64_t parse_number(struct parser *parser)
{
	bool revision = *parser->at == 'r' && isdigit((unsigned char)parser->at[1]);
	bool lease = *parser->at == 'L' && isdigit((unsigned char)parser->at[1]);
	char *end;
	int64_t number;

	if (revision || lease)
		parser->at++;
	/* Ids are unsigned. */
	number = *parser->at == '-' ? strtoll(parser->at, &end, 10) : (int64_t)strtoull(parser->at, &end, 10);
	if (end == parser->at)
		mistake(parser, "number expected");
	parser->at = end;
	if (revision)
		return parser->names->base + number - 1;
	if (lease && (number < 1 || number > parser->names->lease_count))
		mistake(parser, "no such lease yet");
	return lease ? parser->names->leases[number - 1] : number;
}

static uint8_t parse_char(struct parser *parser)
{
	char c = *parser->at++;
	char hex[3];

	if (c != '\\')
		return (uint8_t)c;
	if (*parser->at != 'x' || !isxdigit((unsigned char)parser->at[1]) || !isxdigit((unsigned char)parser->at[2]))
		mistake(parser, "\\xHH expected");
	hex[0] = parser->at[1];
	hex[1] = parser->at[2];
	hex[2] = '\0';
	parser->at += 3;
	return (uint8_t)strtoul(hex, NULL, 16);
}

/* Malloc-ed and with a NUL behind it, so that it serves strings too. */
static uint8_t *parse_string(struct parser *parser, size_t *size)
{
	uint8_t *data = ks_xmalloc(strlen(parser->at) + 1);
	size_t once = 0;
	int64_t times = 1;

	if (*parser->at++ != '\'')
		mistake(parser, "' expected");
	while (*parser->at && *parser->at != '\'')
		data[once++] = parse_char(parser);
	if (*parser->at++ != '\'')
		mistake(parser, "' expected");
	if (*parser->at == '*') {
		parser->at++;
		times = parse_number(parser);
		data = ks_xrealloc(data, once * (size_t)times + 1);
		for (int64_t i = 1; i < times; i++)
			memcpy(data + once * (size_t)i, data, once);
	}
	*size = once * (size_t)times;
	data[*size] = '\0';
	return data;
}

static size_t size_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64:
		return sizeof(int64_t);
	case PROTOBUF_C_TYPE_ENUM:
		return sizeof(int);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_INT32:
		return sizeof(int32_t);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
		return sizeof(char *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(ProtobufCMessage *);
	default: /* not in etcd's messages */
		abort();
	}
}

static int parse_enum(struct parser *parser, const ProtobufCEnumDescriptor *type)
{
	char name[64];
	size_t size = 0;
	const ProtobufCEnumValue *value;

	if (isdigit((unsigned char)*parser->at) || *parser->at == '-')
		return (int)parse_number(parser);
	while (isalpha((unsigned char)*parser->at) || *parser->at == '_') {
		if (size < sizeof(name) - 1)
			name[size++] = *parser->at;
		parser->at++;
	}
	name[size] = '\0';
	value = protobuf_c_enum_descriptor_get_value_by_name(type, name);
	if (!value)
		mistake(parser, "unknown enum value");
	return value->value;
}

static ProtobufCMessage *message_new(const ProtobufCMessageDescriptor *type)
{
	ProtobufCMessage *message = ks_xcalloc(1, type->sizeof_message);

	type->message_init(message);
	return message;
}

static void parse_value(struct parser *parser, const ProtobufCFieldDescriptor *field, void *to)
{
	ProtobufCBinaryData bytes;

	if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
		ProtobufCMessage *message = message_new(field->descriptor);

		if (*parser->at++ != '{')
			mistake(parser, "{ expected");
		parse_message(parser, message);
		if (*parser->at++ != '}')
			mistake(parser, "} expected");
		*(ProtobufCMessage **)to = message;
		return;
	}
	if (*parser->at++ != ':')
		mistake(parser, ": expected");
	switch (field->type) {
	case PROTOBUF_C_TYPE_BYTES:
		bytes.data = parse_string(parser, &bytes.len);
		*(ProtobufCBinaryData *)to = bytes;
		break;
	case PROTOBUF_C_TYPE_STRING:
		*(char **)to = (char *)parse_string(parser, &bytes.len);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)to = parse_number(parser) != 0;
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(int *)to = parse_enum(parser, field->descriptor);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_INT32:
		*(int32_t *)to = (int32_t)parse_number(parser);
		break;
	default:
		*(int64_t *)to = parse_number(parser);
	}
}

static void parse_field(struct parser *parser, ProtobufCMessage *message)
{
	char name[64];
	size_t size = 0;
	const ProtobufCFieldDescriptor *field;
	char *base = (char *)message;

	while (isalnum((unsigned char)*parser->at) || *parser->at == '_') {
		if (size < sizeof(name) - 1)
			name[size++] = *parser->at;
		parser->at++;
	}
	name[size] = '\0';
	field = protobuf_c_message_descriptor_get_field_by_name(message->descriptor, name);
	if (!field)
		mistake(parser, "unknown field before this");
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t *count = (size_t *)(void *)(base + field->quantifier_offset);
		void **array = (void **)(void *)(base + field->offset);

		*array = ks_xrealloc(*array, (*count + 1) * size_of(field->type));
		parse_value(parser, field, (char *)*array + *count * size_of(field->type));
		(*count)++;
		return;
	}
	parse_value(parser, field, base + field->offset);
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		*(uint32_t *)(void *)(base + field->quantifier_offset) = field->id;
}

static void parse_message(struct parser *parser, ProtobufCMessage *message)
{
	for (skip_space(parser); *parser->at && *parser->at != '}'; skip_space(parser))
		parse_field(parser, message);
}

ProtobufCMessage *text_parse(const ProtobufCMessageDescriptor *type, const char *text, const struct names *names)
{
	struct parser parser = {.text = text, .at = text, .names = names};
	ProtobufCMessage *message = message_new(type);

	parse_message(&parser, message);
	if (*parser.at)
		mistake(&parser, "end expected");
	return message;
}

/* ---- Printing ---- */

void text_print_bytes(FILE *out, const uint8_t *data, size_t size)
{
	if (size > 64) {
		uint64_t sum = 0xcbf29ce484222325u;

		for (size_t i = 0; i < size; i++)
			sum = (sum ^ data[i]) * 0x100000001b3u;
		(void)fprintf(out, "(%zu bytes %016" PRIx64 ")", size, sum);
		return;
	}
	(void)putc('\'', out);
	for (size_t i = 0; i < size; i++) {
		if (data[i] >= 0x20 && data[i] < 0x7f && data[i] != '\'' && data[i] != '\\')
			(void)putc(data[i], out);
		else
			(void)fprintf(out, "\\x%02x", data[i]);
	}
	(void)putc('\'', out);
}

static bool is_one_of(const char *name, const char *const *names)
{
	for (; *names; names++) {
		if (strcmp(name, *names) == 0)
			return true;
	}
	return false;
}

static void print_revision(FILE *out, int64_t value, const struct names *names)
{
	if (value >= names->base)
		(void)fprintf(out, "r%" PRId64, value - names->base + 1);
	else if (value > 0)
		(void)fputs("before", out);
	else
		(void)fprintf(out, "%" PRId64, value);
}

static void print_lease(FILE *out, int64_t value, const struct names *names)
{
	for (int i = 0; i < names->lease_count; i++) {
		if (names->leases[i] == value) {
			(void)fprintf(out, "L%d", i + 1);
			return;
		}
	}
	(void)fprintf(out, "%" PRId64, value);
}

/* What the server is free to choose, or what time changes. */
static bool is_free(const char *type, const char *name)
{
	static const char *const anywhere[] = {"cluster_id", "member_id", "raft_term", "memberID", NULL};
	static const char *const of_status[] = {"version",        "dbSize",    "dbSizeInUse", "dbSizeQuota",
						"storageVersion", "raftIndex", "raftTerm",    "raftAppliedIndex",
						"downgradeInfo",  "leader",    NULL};
	static const char *const of_member[] = {"ID", "name", "peerURLs", "clientURLs", NULL};

	if (is_one_of(name, anywhere))
		return true;
	if (strcmp(type, "StatusResponse") == 0)
		return is_one_of(name, of_status);
	if (strcmp(type, "Member") == 0)
		return is_one_of(name, of_member);
	return strcmp(type, "HashResponse") == 0 && strcmp(name, "hash") == 0;
}

static void print_int(FILE *out, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, int64_t value,
		      const struct names *names)
{
	static const char *const revisions[] = {
		"revision", "create_revision", "mod_revision", "compact_revision", "hash_revision", "rev", NULL};
	const char *type = message->descriptor->short_name;

	if (is_one_of(field->name, revisions)) {
		print_revision(out, value, names);
	} else if (strcmp(field->name, "lease") == 0 ||
		   (strncmp(type, "Lease", 5) == 0 && strcmp(field->name, "ID") == 0)) {
		print_lease(out, value, names);
	} else if (strcmp(type, "LeaseTimeToLiveResponse") == 0 && strcmp(field->name, "TTL") == 0 && value > 0) {
		const ProtobufCFieldDescriptor *granted =
			protobuf_c_message_descriptor_get_field_by_name(message->descriptor, "grantedTTL");
		int64_t full = *(const int64_t *)(const void *)((const char *)message + granted->offset);

		/* A second may have passed, and a fraction is cut off. */
		(void)fputs(value <= full && value >= full - 2 ? "nearly granted" : "less", out);
	} else {
		(void)fprintf(out, "%" PRId64, value);
	}
}

/* One line, unless the value is the default, which is not on the wire. */
static void print_scalar(FILE *out, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
			 const void *value, const char *path, bool always, const struct names *names)
{
	const char *text = NULL;
	const ProtobufCBinaryData *bytes = NULL;
	int64_t number = 0;
	bool is_default;

	switch (field->type) {
	case PROTOBUF_C_TYPE_BYTES:
		bytes = value;
		is_default = bytes->len == 0;
		break;
	case PROTOBUF_C_TYPE_STRING:
		text = *(const char *const *)value;
		is_default = !text || !*text;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		number = *(const protobuf_c_boolean *)value;
		is_default = number == 0;
		break;
	case PROTOBUF_C_TYPE_ENUM:
	case PROTOBUF_C_TYPE_INT32:
		number = *(const int32_t *)value;
		is_default = number == 0;
		break;
	case PROTOBUF_C_TYPE_UINT32:
		number = *(const uint32_t *)value;
		is_default = number == 0;
		break;
	default:
		number = *(const int64_t *)value;
		is_default = number == 0;
	}
	if (is_default && !always)
		return;
	(void)fprintf(out, "  %s%s=", path, field->name);
	if (is_free(message->descriptor->short_name, field->name))
		(void)fputs("set", out);
	else if (bytes)
		text_print_bytes(out, bytes->data, bytes->len);
	else if (text)
		(void)fputs(text, out);
	else if (field->type == PROTOBUF_C_TYPE_ENUM &&
		 protobuf_c_enum_descriptor_get_value(field->descriptor, (int)number))
		(void)fputs(protobuf_c_enum_descriptor_get_value(field->descriptor, (int)number)->name, out);
	else
		print_int(out, message, field, number, names);
	(void)putc('\n', out);
}

static void print_one(FILE *out, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
		      const void *value, const char *path, const char *index, const struct names *names)
{
	char longer[512];

	if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
		(void)snprintf(longer, sizeof(longer), "%s%s", path, index);
		print_scalar(out, message, field, value, longer, *index != '\0', names);
		return;
	}
	if (!*(ProtobufCMessage *const *)value)
		return;
	if (is_free(message->descriptor->short_name, field->name))
		return;
	(void)fprintf(out, "  %s%s%s={}\n", path, field->name, index);
	(void)snprintf(longer, sizeof(longer), "%s%s%s.", path, field->name, index);
	text_print(out, *(ProtobufCMessage *const *)value, longer, names);
}

void text_print(FILE *out, const ProtobufCMessage *message, const char *path, const struct names *names)
{
	const char *base = (const char *)message;

	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		const char *at = base + field->offset;

		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t count = *(const size_t *)(const void *)(base + field->quantifier_offset);
			const char *array = *(const char *const *)(const void *)at;

			if (is_free(message->descriptor->short_name, field->name)) {
				(void)fprintf(out, "  %s%s=%s\n", path, field->name, count ? "some" : "none");
				continue;
			}
			for (size_t n = 0; n < count; n++) {
				char index[32];

				(void)snprintf(index, sizeof(index), "[%zu]", n);
				print_one(out, message, field, array + n * size_of(field->type), path, index, names);
			}
			continue;
		}
		if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    *(const uint32_t *)(const void *)(base + field->quantifier_offset) != field->id)
			continue;
		print_one(out, message, field, at, path, "", names);
	}
}
