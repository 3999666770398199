/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The events of libyaml, one after the other, with a stack of what is open: level 1 is the file's mapping, deeper ones are values that become
 * JSON as they are read.
 */
#include "overlay_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <yaml.h>

#include "base/panic.h"

#define BYTES_MAX (4 * DPA_OVERLAY_MAX_BYTES) /* an escape can become three times as long in JSON */
#define NUMBER_MAX ((size_t)64)
#define SHOWN 64 /* bytes of a key in errors */

struct level {
	bool mapping;
	bool has_key; /* what comes is its value */
	bool has_any; /* a comma is due */
	json_t *seen; /* of a mapping: its keys, each with its line */
};

struct entry {
	size_t key_at, key_size, value_at, value_size;
	bool hide;
};

struct reader {
	const char *name, *prefix;
	struct ks_err *err;
	bool in_document, ended;
	struct level levels[DPA_OVERLAY_MAX_DEPTH];
	size_t depth; /* levels that are open */
	struct ks_buf bytes;
	struct entry *entries;
	size_t count, room;
};

static enum ks_status refuse(struct reader *reader, const yaml_event_t *event, const char *what)
{
	return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s", reader->name, event->start_mark.line + 1, what);
}

static enum ks_status no_memory(struct reader *reader)
{
	return ks_fail(reader->err, KS_RESOURCE_EXHAUSTED, "%s: out of memory", reader->name);
}

static struct level *top(struct reader *reader)
{
	return &reader->levels[reader->depth - 1];
}

static struct ks_slice text_of(const yaml_event_t *event)
{
	return ks_slice_of(event->data.scalar.value, event->data.scalar.length);
}

/* ---- JSON ---- */

static void put_string(struct ks_buf *out, struct ks_slice text)
{
	size_t done = 0;

	ks_buf_append(out, "\"", 1);
	for (size_t i = 0; i < text.size; i++) {
		uint8_t c = text.data[i];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		ks_buf_append(out, text.data + done, i - done);
		if (c == '"' || c == '\\')
			ks_buf_printf(out, "\\%c", c);
		else
			ks_buf_printf(out, "\\u%04x", c);
		done = i + 1;
	}
	ks_buf_append(out, text.data + done, text.size - done);
	ks_buf_append(out, "\"", 1);
}

static bool is_one_of(struct ks_slice text, const char *const words[])
{
	for (; *words; words++)
		if (ks_slice_eq(text, ks_slice_str(*words)))
			return true;
	return false;
}

static bool is_null(const yaml_event_t *event)
{
	static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};

	return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && is_one_of(text_of(event), words);
}

static size_t digits(struct ks_slice text, size_t at)
{
	size_t from = at;

	while (at < text.size && text.data[at] >= '0' && text.data[at] <= '9')
		at++;
	return at - from;
}

static size_t exponent(struct ks_slice text, size_t at)
{
	size_t from = at, count;

	if (at == text.size || (text.data[at] != 'e' && text.data[at] != 'E'))
		return 0;
	at++;
	if (at < text.size && (text.data[at] == '+' || text.data[at] == '-'))
		at++;
	count = digits(text, at);
	return count ? at + count - from : 0;
}

/* A number of YAML's core schema; 'json': and of JSON in the same form. */
static bool is_decimal(struct ks_slice text, bool *json)
{
	size_t at = text.size && (*text.data == '-' || *text.data == '+'), whole = digits(text, at), part = 0;
	bool point;

	*json = text.size && *text.data != '+' && (whole == 1 || (whole > 1 && text.data[at] != '0'));
	at += whole;
	point = at < text.size && text.data[at] == '.';
	if (point) {
		part = digits(text, at + 1);
		at += 1 + part;
		*json = *json && part > 0;
	}
	if (whole == 0 && part == 0)
		return false;
	at += exponent(text, at);
	return at == text.size;
}

/* What YAML takes for a number and JSON does not. */
static bool is_odd_number(struct ks_slice text)
{
	static const char *const words[] = {".inf",  ".Inf",  ".INF", "-.inf", "-.Inf", "-.INF", "+.inf",
					    "+.Inf", "+.INF", ".nan", ".NaN",  ".NAN",  NULL};
	const char *set = "0123456789abcdefABCDEF";

	if (text.size > 2 && text.data[0] == '0' && (text.data[1] == 'x' || text.data[1] == 'o')) {
		for (size_t i = 2; i < text.size; i++)
			if (!memchr(set, text.data[i], text.data[1] == 'x' ? 22 : 8))
				return false;
		return true;
	}
	return is_one_of(text, words);
}

static enum ks_status put_plain(struct reader *reader, const yaml_event_t *event)
{
	static const char *const yes[] = {"true", "True", "TRUE", NULL};
	static const char *const no[] = {"false", "False", "FALSE", NULL};
	struct ks_slice text = text_of(event);
	bool json;

	if (is_null(event)) {
		ks_buf_append(&reader->bytes, "null", 4);
	} else if (is_one_of(text, yes) || is_one_of(text, no)) {
		ks_buf_printf(&reader->bytes, is_one_of(text, yes) ? "true" : "false");
	} else if (is_decimal(text, &json) || is_odd_number(text)) {
		if (is_odd_number(text) || !json || text.size > NUMBER_MAX)
			return refuse(reader, event,
				      "this number has no equal in JSON; write it otherwise, or as a text in quotes");
		ks_buf_append_slice(&reader->bytes, text);
	} else {
		put_string(&reader->bytes, text);
	}
	return KS_OK;
}

/* ---- keys ---- */

/* Texts for people end at a whole character. */
static int shown_size(struct ks_slice text)
{
	size_t size = text.size < SHOWN ? text.size : SHOWN;

	while (size > 0 && size < text.size && (text.data[size] & 0xc0) == 0x80)
		size--;
	return (int)size;
}

static enum ks_status remember_key(struct reader *reader, const yaml_event_t *event, struct ks_slice key)
{
	struct level *level = top(reader);
	char text[DPA_OVERLAY_MAX_KEY + 1];
	json_t *before;

	memcpy(text, key.data, key.size);
	text[key.size] = '\0';
	before = json_object_get(level->seen, text);
	if (before)
		return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: \"%.*s\" stands on line %lld already",
			       reader->name, event->start_mark.line + 1, shown_size(key), text,
			       (long long)json_integer_value(before));
	if (!level->seen)
		level->seen = json_object();
	if (json_object_set_new(level->seen, text, json_integer((json_int_t)event->start_mark.line + 1)) != 0)
		return no_memory(reader);
	return KS_OK;
}

static enum ks_status new_entry(struct reader *reader)
{
	if (reader->count == reader->room) {
		size_t room = reader->room ? reader->room * 2 : 64;
		struct entry *entries = realloc(reader->entries, room * sizeof(*entries));

		if (!entries)
			return no_memory(reader);
		reader->entries = entries;
		reader->room = room;
	}
	reader->entries[reader->count++] = (struct entry){0};
	return KS_OK;
}

/* A key of the file: the whole name goes to the bytes. */
static enum ks_status take_name(struct reader *reader, const yaml_event_t *event)
{
	struct ks_slice text = text_of(event), prefix = ks_slice_str(reader->prefix);
	bool whole = text.size >= prefix.size && memcmp(text.data, prefix.data, prefix.size) == 0;
	struct entry *entry;
	struct ks_slice name;

	if (!whole && text.data[0] == '/')
		return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: \"%.*s\" does not begin with the prefix %s",
			       reader->name, event->start_mark.line + 1, shown_size(text), (const char *)text.data,
			       reader->prefix);
	if (reader->count == DPA_OVERLAY_MAX_KEYS)
		return refuse(reader, event, "there are too many keys");
	if (new_entry(reader) != KS_OK)
		return KS_RESOURCE_EXHAUSTED;
	entry = &reader->entries[reader->count - 1];
	entry->key_at = reader->bytes.size;
	if (!whole) {
		ks_buf_append_slice(&reader->bytes, prefix);
		if (prefix.data[prefix.size - 1] != '/')
			ks_buf_append(&reader->bytes, "/", 1);
	}
	ks_buf_append_slice(&reader->bytes, text);
	if (reader->bytes.failed)
		return refuse(reader, event, "the overlay is too large");
	entry->key_size = reader->bytes.size - entry->key_at;
	name = ks_slice_of(reader->bytes.data + entry->key_at, entry->key_size);
	if (name.size > DPA_OVERLAY_MAX_KEY)
		return refuse(reader, event, "the key is too long");
	entry->value_at = reader->bytes.size;
	return remember_key(reader, event, name);
}

static enum ks_status take_key(struct reader *reader, const yaml_event_t *event)
{
	struct ks_slice text = text_of(event);
	struct level *level = top(reader);
	enum ks_status status;

	if (text.size > DPA_OVERLAY_MAX_KEY || memchr(text.data, '\0', text.size))
		return refuse(reader, event, "the key is too long, or has a zero byte in it");
	if (text.size == 0 && reader->depth == 1)
		return refuse(reader, event, "the key is empty");
	if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && ks_slice_eq(text, ks_slice_str("<<")))
		return refuse(reader, event, "merging with << is not supported");
	status = reader->depth == 1 ? take_name(reader, event) : remember_key(reader, event, text);
	if (status != KS_OK)
		return status;
	level->has_key = true;
	if (reader->depth > 1) {
		if (level->has_any)
			ks_buf_append(&reader->bytes, ",", 1);
		put_string(&reader->bytes, text);
		ks_buf_append(&reader->bytes, ":", 1);
	}
	level->has_any = true;
	return KS_OK;
}

/* ---- values ---- */

/* After each value. */
static enum ks_status end_value(struct reader *reader, const yaml_event_t *event)
{
	if (reader->bytes.failed)
		return refuse(reader, event, "the overlay is too large");
	top(reader)->has_key = false;
	if (reader->depth == 1) {
		struct entry *entry = &reader->entries[reader->count - 1];

		entry->value_size = reader->bytes.size - entry->value_at;
	}
	return KS_OK;
}

/* Before each one in a list. */
static void begin_value(struct reader *reader)
{
	if (reader->depth == 0 || top(reader)->mapping)
		return;
	if (top(reader)->has_any)
		ks_buf_append(&reader->bytes, ",", 1);
	top(reader)->has_any = true;
}

static enum ks_status take_scalar(struct reader *reader, const yaml_event_t *event)
{
	enum ks_status status = KS_OK;

	if (event->data.scalar.tag || event->data.scalar.anchor)
		return refuse(reader, event, "tags and anchors have no place here");
	if (reader->depth == 0) /* an empty file is a null */
		return is_null(event) ? KS_OK : refuse(reader, event, "keys and values are expected: \"key: value\"");
	if (top(reader)->mapping && !top(reader)->has_key)
		return take_key(reader, event);
	begin_value(reader);
	if (reader->depth == 1 && is_null(event))
		reader->entries[reader->count - 1].hide = true;
	else if (reader->depth == 1)
		ks_buf_append_slice(&reader->bytes, text_of(event));
	else if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		status = put_plain(reader, event);
	else
		put_string(&reader->bytes, text_of(event));
	return status == KS_OK ? end_value(reader, event) : status;
}

static enum ks_status begin_level(struct reader *reader, const yaml_event_t *event, bool mapping, bool marked)
{
	if (marked)
		return refuse(reader, event, "tags and anchors have no place here");
	if (reader->depth == 0 && !mapping)
		return refuse(reader, event, "keys and values are expected: \"key: value\"");
	if (reader->depth > 0 && top(reader)->mapping && !top(reader)->has_key)
		return refuse(reader, event, "a key must be a text");
	if (reader->depth == DPA_OVERLAY_MAX_DEPTH)
		return refuse(reader, event, "the value is too deep");
	begin_value(reader);
	if (reader->depth > 0)
		ks_buf_append(&reader->bytes, mapping ? "{" : "[", 1);
	reader->levels[reader->depth++] = (struct level){.mapping = mapping};
	return KS_OK;
}

static enum ks_status end_level(struct reader *reader, const yaml_event_t *event)
{
	struct level *level = top(reader);

	json_decref(level->seen);
	level->seen = NULL;
	reader->depth--;
	if (reader->depth > 0)
		ks_buf_append(&reader->bytes, level->mapping ? "}" : "]", 1);
	return reader->depth > 0 ? end_value(reader, event) : KS_OK;
}

/* ---- the file ---- */

static enum ks_status take_event(struct reader *reader, const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (reader->in_document)
			return refuse(reader, event, "there is a second document");
		reader->in_document = true;
		return KS_OK;
	case YAML_SCALAR_EVENT:
		return take_scalar(reader, event);
	case YAML_SEQUENCE_START_EVENT:
		return begin_level(reader, event, false,
				   event->data.sequence_start.tag || event->data.sequence_start.anchor);
	case YAML_MAPPING_START_EVENT:
		return begin_level(reader, event, true,
				   event->data.mapping_start.tag || event->data.mapping_start.anchor);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		return end_level(reader, event);
	case YAML_ALIAS_EVENT:
		return refuse(reader, event, "tags and anchors have no place here");
	case YAML_STREAM_END_EVENT:
		reader->ended = true;
		return KS_OK;
	case YAML_STREAM_START_EVENT:
	case YAML_DOCUMENT_END_EVENT:
	case YAML_NO_EVENT:
		return KS_OK;
	}
	return KS_OK;
}

static enum ks_status next(struct reader *reader, yaml_parser_t *parser)
{
	yaml_event_t event;
	enum ks_status status;

	if (!yaml_parser_parse(parser, &event)) {
		if (parser->error == YAML_MEMORY_ERROR)
			return no_memory(reader);
		return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s", reader->name,
			       parser->problem_mark.line + 1, parser->problem ? parser->problem : "not YAML");
	}
	status = take_event(reader, &event);
	yaml_event_delete(&event);
	return status;
}

/* The bytes do not move any more. */
static enum ks_status finish(struct reader *reader, struct dpa_overlay_set *set)
{
	set->keys = calloc(reader->count ? reader->count : 1, sizeof(*set->keys));
	if (!set->keys)
		return no_memory(reader);
	for (size_t i = 0; i < reader->count; i++) {
		const struct entry *entry = &reader->entries[i];

		set->keys[i] = (struct dpa_overlay_key){
			.key = ks_slice_of(reader->bytes.data + entry->key_at, entry->key_size),
			.value = ks_slice_of(reader->bytes.data + entry->value_at, entry->value_size),
			.hide = entry->hide,
		};
	}
	set->count = reader->count;
	set->bytes = reader->bytes;
	ks_buf_init(&reader->bytes, 0);
	return KS_OK;
}

enum ks_status dpa_overlay_parse(struct ks_slice text, const char *name, const char *prefix,
				 struct dpa_overlay_set *set, struct ks_err *err)
{
	struct reader *reader;
	yaml_parser_t parser;
	enum ks_status status = KS_OK;

	if (text.size > DPA_OVERLAY_MAX_BYTES)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: more than %zu bytes", name, DPA_OVERLAY_MAX_BYTES);
	if (!yaml_parser_initialize(&parser))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "%s: out of memory", name);
	reader = ks_xcalloc(1, sizeof(*reader));
	reader->name = name;
	reader->prefix = prefix;
	reader->err = err;
	yaml_parser_set_input_string(&parser, text.data, text.size);
	ks_buf_init(&reader->bytes, BYTES_MAX);
	while (status == KS_OK && !reader->ended)
		status = next(reader, &parser);
	if (status == KS_OK)
		status = finish(reader, set);
	yaml_parser_delete(&parser);
	for (size_t i = 0; i < reader->depth; i++)
		json_decref(reader->levels[i].seen);
	ks_buf_fini(&reader->bytes);
	free(reader->entries);
	free(reader);
	return status;
}

void dpa_overlay_set_fini(struct dpa_overlay_set *set)
{
	free(set->keys);
	ks_buf_fini(&set->bytes);
	*set = (struct dpa_overlay_set){0};
}
