/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histories as lines of JSON, short names and numbers for what there is much of:
 *
 *	{"t":"start","first":1}
 *	{"t":"op","k":0,"n":"cas","o":"ok","c":3,"s":ns,"e":ns,"rev":17,"ser":0,"at":0,"cmp":[[key,target,relation,operand]],
 *	 "then":[[kind,from,to,value,lease,prev]],"else":[],"ok":1,"res":[[count,[key,value,create,mod,version,lease]]]}
 *	{"t":"op","k":1,"n":"grant",…,"lease":5,"ttl":2}
 *	{"t":"watch","k":1,"w":0,"at":ns,"rev":17,"ev":[[is_delete,[kv],[kv before]]]}
 *	{"t":"hash","i":"1","rev":99,"compact":5,"hash":1234}
 *	{"t":"fault","at":ns,"k":"kill","text":"instance 1"}
 *	{"t":"complaint","text":"…"}
 *	{"t":"end","last":99}
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/torture/history.h"

#define LINE_MAX_BYTES (8u << 20)

static const char *const outcome_names[OP_OUTCOMES] = {"ok", "failed", "unknown"};

/* ---- Writing ---- */

bool history_write_start(FILE *file, int64_t first)
{
	return fprintf(file, "{\"t\":\"start\",\"first\":%" PRId64 "}\n", first) > 0;
}

bool history_write_end(FILE *file, int64_t last)
{
	return fprintf(file, "{\"t\":\"end\",\"last\":%" PRId64 "}\n", last) > 0 && fflush(file) == 0;
}

static void write_kv(FILE *file, const struct kv *kv)
{
	fprintf(file, "[%d,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "]", kv->key, kv->value,
		kv->create, kv->mod, kv->version, kv->lease);
}

static void write_actions(FILE *file, const char *name, const struct action *actions, size_t count)
{
	fprintf(file, ",\"%s\":[", name);
	for (size_t i = 0; i < count; i++)
		fprintf(file, "%s[%d,%d,%d,%" PRId64 ",%" PRId64 ",%d]", i ? "," : "", (int)actions[i].kind,
			actions[i].from, actions[i].to, actions[i].value, actions[i].lease, actions[i].prev);
	putc(']', file);
}

static void write_results(FILE *file, const struct op *op)
{
	size_t count = op->succeeded ? op->then_count : op->else_count;

	fprintf(file, ",\"ok\":%d,\"res\":[", op->succeeded);
	for (size_t i = 0; i < count; i++) {
		const struct action_result *result = &op->results[i];

		fprintf(file, "%s[%" PRId64, i ? "," : "", result->count);
		for (size_t k = 0; k < result->kv_count; k++) {
			putc(',', file);
			write_kv(file, &result->kvs[k]);
		}
		putc(']', file);
	}
	putc(']', file);
}

bool history_write_op(FILE *file, const struct op *op)
{
	fprintf(file,
		"{\"t\":\"op\",\"k\":%d,\"n\":\"%s\",\"o\":\"%s\",\"c\":%u,\"s\":%" PRId64 ",\"e\":%" PRId64
		",\"rev\":%" PRId64,
		(int)op->kind, op->name, outcome_names[op->outcome], op->client, op->start_ns, op->end_ns,
		op->revision);
	if (op->kind == OP_TXN) {
		fprintf(file, ",\"ser\":%d,\"at\":%" PRId64 ",\"cmp\":[", op->serializable, op->at);
		for (size_t i = 0; i < op->compare_count; i++)
			fprintf(file, "%s[%d,%d,%d,%" PRId64 "]", i ? "," : "", op->compares[i].key,
				(int)op->compares[i].target, (int)op->compares[i].relation, op->compares[i].operand);
		putc(']', file);
		write_actions(file, "then", op->thens, op->then_count);
		write_actions(file, "else", op->elses, op->else_count);
		if (op->outcome == OP_OK)
			write_results(file, op);
	} else if (op->kind == OP_COMPACT) {
		fprintf(file, ",\"at\":%" PRId64, op->at);
	} else {
		fprintf(file, ",\"lease\":%" PRId64 ",\"ttl\":%" PRId64, op->lease, op->ttl);
	}
	return fputs("}\n", file) >= 0 && !ferror(file);
}

bool history_write_watch(FILE *file, const struct watch_record *record)
{
	fprintf(file, "{\"t\":\"watch\",\"k\":%d,\"w\":%u,\"at\":%" PRId64 ",\"rev\":%" PRId64, (int)record->kind,
		record->watcher, record->at_ns, record->revision);
	if (record->kind == WATCH_STARTED)
		fprintf(file, ",\"from\":%d,\"to\":%d,\"prev\":%d,\"noput\":%d,\"nodel\":%d", record->from, record->to,
			record->prev, record->no_put, record->no_delete);
	if (record->kind == WATCH_EVENTS) {
		fputs(",\"ev\":[", file);
		for (size_t i = 0; i < record->event_count; i++) {
			const struct event *event = &record->events[i];

			fprintf(file, "%s[%d,", i ? "," : "", event->is_delete);
			write_kv(file, &event->kv);
			if (event->has_prev) {
				putc(',', file);
				write_kv(file, &event->prev);
			}
			putc(']', file);
		}
		putc(']', file);
	}
	return fputs("}\n", file) >= 0 && !ferror(file);
}

bool history_write_hash(FILE *file, const struct hash_record *record)
{
	return fprintf(file,
		       "{\"t\":\"hash\",\"i\":\"%s\",\"rev\":%" PRId64 ",\"compact\":%" PRId64 ",\"hash\":%" PRIu32
		       "}\n",
		       record->instance, record->revision, record->compact_revision, record->hash) > 0;
}

bool history_write_fault(FILE *file, const struct fault_record *record, const char *text)
{
	return fprintf(file, "{\"t\":\"fault\",\"at\":%" PRId64 ",\"k\":\"%s\",\"text\":\"%s\"}\n", record->at_ns,
		       record->kind, text) > 0;
}

bool history_write_complaint(FILE *file, const char *text)
{
	return fprintf(file, "{\"t\":\"complaint\",\"text\":\"%s\"}\n", text) > 0;
}

/* ---- Reading ---- */

static int64_t number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static int64_t item(const json_t *array, size_t index)
{
	return json_integer_value(json_array_get(array, index));
}

static void copy_name(char *to, const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	snprintf(to, HISTORY_NAME, "%s", text ? text : "");
}

static struct kv read_kv(const json_t *array)
{
	return (struct kv){.key = (int)item(array, 0),
			   .value = item(array, 1),
			   .create = item(array, 2),
			   .mod = item(array, 3),
			   .version = item(array, 4),
			   .lease = item(array, 5)};
}

static bool is_key(int64_t key)
{
	return key >= 0 && key < HISTORY_KEYS;
}

static bool read_actions(const json_t *array, struct action *actions, size_t *count)
{
	*count = json_array_size(array);
	if (*count > HISTORY_ACTIONS)
		return false;
	for (size_t i = 0; i < *count; i++) {
		const json_t *from = json_array_get(array, i);

		actions[i] = (struct action){.kind = (enum action_kind)item(from, 0),
					     .from = (int)item(from, 1),
					     .to = (int)item(from, 2),
					     .value = item(from, 3),
					     .lease = item(from, 4),
					     .prev = item(from, 5) != 0};
		if (!is_key(actions[i].from) || !is_key(actions[i].to - 1))
			return false;
	}
	return true;
}

static bool read_results(const json_t *array, struct op *op)
{
	if (json_array_size(array) != (op->succeeded ? op->then_count : op->else_count))
		return false;
	for (size_t i = 0; i < json_array_size(array); i++) {
		const json_t *from = json_array_get(array, i);
		struct action_result *result = &op->results[i];

		result->count = item(from, 0);
		result->kv_count = json_array_size(from) - 1;
		if (!result->kv_count)
			continue;
		result->kvs = ks_xcalloc(result->kv_count, sizeof(*result->kvs));
		for (size_t k = 0; k < result->kv_count; k++)
			result->kvs[k] = read_kv(json_array_get(from, k + 1));
	}
	return true;
}

static bool read_op(struct history *history, const json_t *line)
{
	const char *outcome = json_string_value(json_object_get(line, "o"));
	const json_t *compares = json_object_get(line, "cmp");
	struct op op = {
		.kind = (enum op_kind)number(line, "k"),
		.outcome = OP_OUTCOMES,
		.client = (unsigned)number(line, "c"),
		.start_ns = number(line, "s"),
		.end_ns = number(line, "e"),
		.revision = number(line, "rev"),
		.serializable = number(line, "ser") != 0,
		.at = number(line, "at"),
		.succeeded = number(line, "ok") != 0,
		.lease = number(line, "lease"),
		.ttl = number(line, "ttl"),
	};
	bool fine;

	copy_name(op.name, line, "n");
	for (enum op_outcome i = OP_OK; outcome && i < OP_OUTCOMES; i++)
		if (!strcmp(outcome, outcome_names[i]))
			op.outcome = i;
	op.compare_count = json_array_size(compares);
	fine = op.kind < OP_KINDS && op.outcome < OP_OUTCOMES && op.compare_count <= HISTORY_ACTIONS;
	for (size_t i = 0; fine && i < op.compare_count; i++) {
		const json_t *from = json_array_get(compares, i);

		op.compares[i] = (struct compare){.key = (int)item(from, 0),
						  .target = (enum compare_target)item(from, 1),
						  .relation = (enum compare_relation)item(from, 2),
						  .operand = item(from, 3)};
		fine = is_key(op.compares[i].key);
	}
	fine = fine && read_actions(json_object_get(line, "then"), op.thens, &op.then_count) &&
	       read_actions(json_object_get(line, "else"), op.elses, &op.else_count);
	if (fine && op.kind == OP_TXN && op.outcome == OP_OK)
		fine = read_results(json_object_get(line, "res"), &op);
	history_add_op(history, &op);
	return fine;
}

static bool read_watch(struct history *history, const json_t *line)
{
	const json_t *events = json_object_get(line, "ev");
	struct watch_record record = {
		.kind = (enum watch_kind)number(line, "k"),
		.watcher = (unsigned)number(line, "w"),
		.at_ns = number(line, "at"),
		.revision = number(line, "rev"),
		.from = (int)number(line, "from"),
		.to = (int)number(line, "to"),
		.prev = number(line, "prev") != 0,
		.no_put = number(line, "noput") != 0,
		.no_delete = number(line, "nodel") != 0,
		.event_count = json_array_size(events),
	};
	bool fine = true;

	if (record.event_count)
		record.events = ks_xcalloc(record.event_count, sizeof(*record.events));
	for (size_t i = 0; i < record.event_count; i++) {
		const json_t *from = json_array_get(events, i);
		struct event *event = &record.events[i];

		event->is_delete = item(from, 0) != 0;
		event->kv = read_kv(json_array_get(from, 1));
		fine = fine && is_key(event->kv.key);
		event->has_prev = json_array_size(from) > 2;
		if (event->has_prev)
			event->prev = read_kv(json_array_get(from, 2));
	}
	history_add_watch(history, &record);
	return fine && record.kind <= WATCH_CANCELLED && record.watcher < HISTORY_WATCHERS;
}

static bool read_line(struct history *history, const json_t *line)
{
	const char *type = json_string_value(json_object_get(line, "t"));

	if (!type)
		return false;
	if (!strcmp(type, "op"))
		return read_op(history, line);
	if (!strcmp(type, "watch"))
		return read_watch(history, line);
	if (!strcmp(type, "start")) {
		history->first = number(line, "first");
	} else if (!strcmp(type, "end")) {
		history->last = number(line, "last");
	} else if (!strcmp(type, "hash")) {
		struct hash_record record = {.revision = number(line, "rev"),
					     .compact_revision = number(line, "compact"),
					     .hash = (uint32_t)number(line, "hash")};

		copy_name(record.instance, line, "i");
		history_add_hash(history, &record);
	} else if (!strcmp(type, "fault")) {
		struct fault_record record = {.at_ns = number(line, "at")};

		copy_name(record.kind, line, "k");
		history_add_fault(history, &record);
	} else if (!strcmp(type, "complaint")) {
		const char *text = json_string_value(json_object_get(line, "text"));

		history_add_complaint(history, text ? text : "");
	} else {
		return false;
	}
	return true;
}

bool history_read(struct history *history, const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t room = 0, line_number = 0;
	ssize_t size;
	bool fine = file != NULL;

	if (!file)
		perror(path);
	while (fine && (size = getline(&text, &room, file)) > 0) {
		json_t *line = (size_t)size < LINE_MAX_BYTES ? json_loadb(text, (size_t)size, 0, NULL) : NULL;

		line_number++;
		fine = line && read_line(history, line);
		json_decref(line);
		if (!fine)
			fprintf(stderr, "%s:%zu: not a line of a history\n", path, line_number);
	}
	if (fine && ferror(file)) {
		perror(path);
		fine = false;
	}
	free(text);
	if (file)
		fclose(file);
	return fine;
}
