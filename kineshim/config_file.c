/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The events of libyaml, one after the other, through a small machine:
 *
 *	START ─doc─► TOP ─key─► VALUE ─scalar─► TOP
 *	              ▲           ├──[──► LIST ─scalar…─]─► TOP
 *	              │           └──{──► the same once more, inside a section
 *	              └───────────────────────────── } ────┘
 */
#include "config_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "base/buf.h"
#include "base/panic.h"

#define KEY_MAX 128

struct reader {
	const char *name;
	ks_config_fn *visit;
	void *ctx;
	struct ks_err *err;
	bool in_document, in_mapping, in_section, in_list, ended;
	bool has_key;
	char section[KEY_MAX], key[KEY_MAX];
	unsigned key_line;
	struct ks_buf list;
	bool list_has;
	char **seen;
	size_t seen_count;
};

static enum ks_status refuse(struct reader *reader, size_t line, const char *what)
{
	return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s", reader->name, line + 1, what);
}

static size_t line_of(const yaml_event_t *event)
{
	return event->start_mark.line;
}

/* The path of each key is kept, so that a second one is noticed. The count is bounded, so looking at all is fine. */
static enum ks_status remember_key(struct reader *reader, size_t line)
{
	char *path = NULL;

	if (reader->seen_count == KS_CONFIG_MAX_KEYS)
		return refuse(reader, line, "too many keys");
	KS_ASSERT(asprintf(&path, "%s/%s", reader->section, reader->key) >= 0);
	for (size_t i = 0; i < reader->seen_count; i++) {
		if (strcmp(reader->seen[i], path) == 0) {
			free(path);
			return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s stands here a second time",
				       reader->name, line + 1, reader->key);
		}
	}
	reader->seen = ks_xrealloc(reader->seen, (reader->seen_count + 1) * sizeof(*reader->seen));
	reader->seen[reader->seen_count++] = path;
	return KS_OK;
}

/* Texts go on as C strings. */
static bool is_text(const yaml_event_t *event, size_t max)
{
	size_t size = event->data.scalar.length;

	return size < max && !memchr(event->data.scalar.value, '\0', size);
}

static enum ks_status take_key(struct reader *reader, const yaml_event_t *event)
{
	if (event->data.scalar.length == 0 || !is_text(event, KEY_MAX))
		return refuse(reader, line_of(event), "this is not a key");
	memcpy(reader->key, event->data.scalar.value, event->data.scalar.length + 1);
	reader->key_line = (unsigned)line_of(event) + 1;
	reader->has_key = true;
	return remember_key(reader, line_of(event));
}

static enum ks_status give(struct reader *reader, const char *value, bool quoted)
{
	struct ks_config_entry entry = {
		.section = reader->section,
		.key = reader->key,
		.value = value,
		.quoted = quoted,
		.line = reader->key_line,
	};

	reader->has_key = false;
	return reader->visit(reader->ctx, &entry, reader->err);
}

static bool is_null(const yaml_event_t *event)
{
	const char *text = (const char *)event->data.scalar.value;

	return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static enum ks_status add_to_list(struct reader *reader, const char *text, size_t line)
{
	if (strchr(text, ','))
		return refuse(reader, line, "a comma separates the elements of a list, so it cannot stand in one");
	if (reader->list_has)
		ks_buf_append(&reader->list, ",", 1);
	ks_buf_append(&reader->list, text, strlen(text));
	reader->list_has = true;
	return reader->list.failed ? refuse(reader, line, "the list is too long") : KS_OK;
}

static enum ks_status take_scalar(struct reader *reader, const yaml_event_t *event)
{
	const char *text = (const char *)event->data.scalar.value;

	if (event->data.scalar.tag || event->data.scalar.anchor)
		return refuse(reader, line_of(event), "tags and anchors have no place here");
	if (!reader->in_mapping) /* an empty file is a null */
		return is_null(event) ? KS_OK
				      : refuse(reader, line_of(event), "keys and values are expected: \"name: value\"");
	if (!reader->has_key)
		return take_key(reader, event);
	if (!is_text(event, KS_CONFIG_MAX_VALUE))
		return refuse(reader, line_of(event), "the value is too long, or has a zero byte in it");
	if (reader->in_list)
		return add_to_list(reader, text, line_of(event));
	return give(reader, is_null(event) ? "" : text, event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE);
}

static enum ks_status begin_list(struct reader *reader, const yaml_event_t *event)
{
	if (event->data.sequence_start.tag || event->data.sequence_start.anchor)
		return refuse(reader, line_of(event), "tags and anchors have no place here");
	if (!reader->has_key || reader->in_list)
		return refuse(reader, line_of(event), "a list has no place here");
	reader->in_list = true;
	reader->list_has = false;
	ks_buf_reset(&reader->list);
	return KS_OK;
}

static enum ks_status end_list(struct reader *reader)
{
	ks_buf_append(&reader->list, "", 1);
	reader->in_list = false;
	return give(reader, (const char *)reader->list.data, true);
}

static enum ks_status begin_mapping(struct reader *reader, const yaml_event_t *event)
{
	if (event->data.mapping_start.tag || event->data.mapping_start.anchor)
		return refuse(reader, line_of(event), "tags and anchors have no place here");
	if (!reader->in_mapping) {
		reader->in_mapping = true;
		return KS_OK;
	}
	if (!reader->has_key || reader->in_section || reader->in_list)
		return refuse(reader, line_of(event), "a mapping has no place here");
	reader->in_section = true;
	reader->has_key = false;
	memcpy(reader->section, reader->key, sizeof(reader->section));
	return KS_OK;
}

static enum ks_status end_mapping(struct reader *reader)
{
	if (reader->in_section) {
		reader->in_section = false;
		reader->section[0] = '\0';
	} else {
		reader->in_mapping = false;
	}
	return KS_OK;
}

static enum ks_status take_event(struct reader *reader, const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (reader->in_document)
			return refuse(reader, line_of(event), "there is a second document");
		reader->in_document = true;
		return KS_OK;
	case YAML_SCALAR_EVENT:
		return take_scalar(reader, event);
	case YAML_SEQUENCE_START_EVENT:
		return begin_list(reader, event);
	case YAML_SEQUENCE_END_EVENT:
		return end_list(reader);
	case YAML_MAPPING_START_EVENT:
		return begin_mapping(reader, event);
	case YAML_MAPPING_END_EVENT:
		return end_mapping(reader);
	case YAML_ALIAS_EVENT:
		return refuse(reader, line_of(event), "tags and anchors have no place here");
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

	if (!yaml_parser_parse(parser, &event))
		return ks_fail(reader->err, KS_INVALID_ARGUMENT, "%s:%zu: %s", reader->name,
			       parser->problem_mark.line + 1, parser->problem ? parser->problem : "not YAML");
	status = take_event(reader, &event);
	yaml_event_delete(&event);
	return status;
}

enum ks_status ks_config_parse(struct ks_slice text, const char *name, ks_config_fn *visit, void *ctx,
			       struct ks_err *err)
{
	struct reader reader = {.name = name, .visit = visit, .ctx = ctx, .err = err};
	yaml_parser_t parser;
	enum ks_status status = KS_OK;

	if (text.size > KS_CONFIG_MAX_BYTES)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: more than %d bytes", name, KS_CONFIG_MAX_BYTES);
	if (!yaml_parser_initialize(&parser))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "%s: out of memory", name);
	yaml_parser_set_input_string(&parser, text.data, text.size);
	ks_buf_init(&reader.list, KS_CONFIG_MAX_VALUE);
	while (status == KS_OK && !reader.ended)
		status = next(&reader, &parser);
	yaml_parser_delete(&parser);
	ks_buf_fini(&reader.list);
	for (size_t i = 0; i < reader.seen_count; i++)
		free(reader.seen[i]);
	free(reader.seen);
	return status;
}

enum ks_status ks_config_read(const char *path, ks_config_fn *visit, void *ctx, struct ks_err *err)
{
	FILE *file = fopen(path, "re");
	enum ks_status status;
	char *text;
	size_t size;

	if (!file)
		return ks_fail(err, KS_INVALID_ARGUMENT, "config-file: cannot read %s: %s", path,
			       strerrordesc_np(errno));
	text = ks_xmalloc(KS_CONFIG_MAX_BYTES + 1);
	errno = 0;
	size = fread(text, 1, KS_CONFIG_MAX_BYTES + 1, file);
	if (ferror(file))
		status = ks_fail(err, KS_INVALID_ARGUMENT, "config-file: cannot read %s: %s", path,
				 strerrordesc_np(errno));
	else
		status = ks_config_parse(ks_slice_of(text, size), path, visit, ctx, err);
	free(text);
	(void)fclose(file);
	return status;
}
