/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Object storage by hand: a replica, an exporter and an importer, without upstream and clients. Reads commands from stdin, a line each, words
 * separated by blanks; answers each with one JSON line on stdout. For tests/agent/object.py.
 *
 *   object_tool URL [--ca FILE] [--timeout MS] [--sign KEY] [--verify PUBLIC]
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/thread.h"
#include "fallback/bucket.h"
#include "store/store.h"

#define MAX_WORDS 5

static struct {
	struct dpa_bucket *bucket;
	struct dpa_board *board;
	struct dpa_replica *replica;
	struct dpa_signer *signer;
	struct dpa_verifier *verifier;
	struct dpa_importer *importer;
	struct dpa_resync *listing; /* that is under way */
	struct ks_mutex lock;       /* guards exporter: the replica's call-back uses it */
	struct dpa_exporter *exporter;
} tool;

static void changed(void *ctx)
{
	(void)ctx;
	ks_mutex_lock(&tool.lock);
	if (tool.exporter)
		dpa_exporter_changed(tool.exporter);
	ks_mutex_unlock(&tool.lock);
}

/* ---- commands: NULL and 'err' when they fail ---- */

static json_t *fine(enum ks_status status)
{
	return status == KS_OK ? json_object() : NULL;
}

/* load and empty CLUSTER REVISION: that history's state, with one key or without any */
static json_t *load(char **words, bool empty, struct ks_err *err)
{
	struct dpa_change key = {.revision = strtoll(words[2], NULL, 10),
				 .key = ks_slice_str("/apisix/base"),
				 .value = ks_slice_str("{}"),
				 .create_revision = strtoll(words[2], NULL, 10),
				 .version = 1};
	struct dpa_resync *resync =
		dpa_resync_begin(tool.replica, strtoull(words[1], NULL, 10), key.revision, false, 0, err);
	struct dpa_resync_summary summary;

	if (!resync)
		return NULL;
	if (!empty && dpa_resync_key(resync, &key, err) != KS_OK) {
		dpa_resync_abort(resync);
		return NULL;
	}
	return fine(dpa_resync_end(resync, true, &summary, err));
}

static json_t *do_load(char **words, struct ks_err *err)
{
	return load(words, false, err);
}

static json_t *do_empty(char **words, struct ks_err *err)
{
	return load(words, true, err);
}

/* apply REVISION KEY VALUE */
static json_t *do_apply(char **words, struct ks_err *err)
{
	struct dpa_change change = {.revision = strtoll(words[1], NULL, 10),
				    .key = ks_slice_str(words[2]),
				    .value = ks_slice_str(words[3]),
				    .create_revision = strtoll(words[1], NULL, 10),
				    .version = 1};

	return fine(dpa_replica_apply(tool.replica, &change, 1, change.revision, err));
}

/* listing REVISION: upstream begins to be listed, and does not come to its end; unlisted: it is given up. */
static json_t *do_listing(char **words, struct ks_err *err)
{
	tool.listing = dpa_resync_begin(tool.replica, 1, strtoll(words[1], NULL, 10), false, 0, err);
	return tool.listing ? json_object() : NULL;
}

static json_t *do_unlisted(char **words, struct ks_err *err)
{
	(void)words, (void)err;
	dpa_resync_abort(tool.listing);
	tool.listing = NULL;
	return json_object();
}

/* connected yes|no */
static json_t *do_connected(char **words, struct ks_err *err)
{
	(void)err;
	dpa_board_connected(tool.board, words[1][0] == 'y', words[1][0] == 'y' ? "http://upstream" : "away");
	return json_object();
}

/* export INTERVAL KEEP */
static json_t *do_export(char **words, struct ks_err *err)
{
	struct dpa_exporter_config config = {.bucket = tool.bucket,
					     .replica = tool.replica,
					     .board = tool.board,
					     .signer = tool.signer,
					     .verifier = tool.verifier,
					     .min_interval_ms = strtoll(words[1], NULL, 10),
					     .keep = (int)strtol(words[2], NULL, 10)};
	struct dpa_exporter *exporter = dpa_exporter_start(&config, err);

	ks_mutex_lock(&tool.lock);
	tool.exporter = exporter;
	ks_mutex_unlock(&tool.lock);
	return exporter ? json_object() : NULL;
}

/* import INTERVAL */
static json_t *do_import(char **words, struct ks_err *err)
{
	struct dpa_importer_config config = {.bucket = tool.bucket,
					     .replica = tool.replica,
					     .board = tool.board,
					     .verifier = tool.verifier,
					     .interval_ms = strtoll(words[1], NULL, 10)};

	tool.importer = dpa_importer_start(&config, err);
	return tool.importer ? json_object() : NULL;
}

static json_t *do_once(char **words, struct ks_err *err)
{
	(void)words, (void)err;
	return json_pack("{s:b}", "applied", dpa_importer_once(tool.importer));
}

static json_t *do_stop(char **words, struct ks_err *err)
{
	struct dpa_exporter *exporter;

	(void)words, (void)err;
	ks_mutex_lock(&tool.lock);
	exporter = tool.exporter;
	tool.exporter = NULL;
	ks_mutex_unlock(&tool.lock);
	dpa_exporter_stop(exporter);
	dpa_importer_stop(tool.importer);
	tool.importer = NULL;
	return json_object();
}

static json_t *do_status(char **words, struct ks_err *err)
{
	json_t *alarms = json_object();
	struct dpa_status status;
	struct dpa_point point;
	json_t *answer;

	(void)words, (void)err;
	dpa_board_read(tool.board, &status);
	dpa_replica_point(tool.replica, &point);
	for (int i = 0; i < DPA_ALARM_COUNT; i++)
		if (status.alarms[i].on)
			(void)json_object_set_new(alarms, dpa_alarm_name((enum dpa_alarm)i),
						  json_string(status.alarms[i].text));
	answer = json_pack("{s:o s:s s:s s:I s:I s:I s:I s:I s:I s:I s:I s:I}", "alarms", alarms, "source",
			   dpa_source_name(status.source), "object", status.object, "bytes",
			   (json_int_t)status.object_bytes, "saved_ms", (json_int_t)status.object_saved_ms,
			   "object_revision", (json_int_t)status.object_revision, "writes",
			   (json_int_t)status.object_writes, "reads", (json_int_t)status.object_reads, "failures",
			   (json_int_t)status.object_failures, "fenced", (json_int_t)status.object_fenced,
			   "up_revision", (json_int_t)point.up_revision, "keys", (json_int_t)point.keys);
	dpa_point_fini(&point);
	return answer;
}

static json_t *do_probe(char **words, struct ks_err *err)
{
	(void)words;
	return fine(dpa_bucket_probe(tool.bucket, err));
}

static json_t *do_list(char **words, struct ks_err *err)
{
	struct dpa_versions versions = {0};
	json_t *answer = NULL, *list;

	(void)words;
	if (dpa_bucket_versions(tool.bucket, &versions, err) == KS_OK) {
		list = json_array();
		for (size_t i = 0; i < versions.count; i++)
			(void)json_array_append_new(list, json_integer((json_int_t)versions.versions[i].sequence));
		answer = json_pack("{s:o}", "versions", list);
	}
	dpa_versions_fini(&versions);
	return answer;
}

static json_t *show_image(struct dpa_image *image)
{
	json_t *answer = json_pack("{s:I s:I s:I}", "revision", (json_int_t)image->up_revision, "keys",
				   (json_int_t)image->key_count, "cluster", (json_int_t)image->cluster_id);

	dpa_image_fini(image);
	return answer;
}

/* read SEQUENCE */
static json_t *do_read(char **words, struct ks_err *err)
{
	struct dpa_version version = {.sequence = strtoull(words[1], NULL, 10), .size = 1 << 20};
	struct dpa_image image = {0};
	bool invalid;

	if (dpa_bucket_read(tool.bucket, &version, tool.verifier, &image, &invalid, err) != KS_OK)
		return NULL;
	return show_image(&image);
}

static json_t *do_newest(char **words, struct ks_err *err)
{
	struct dpa_image image = {0};
	char name[256], fault[256];
	json_t *answer;

	(void)words;
	if (dpa_bucket_newest(tool.bucket, tool.verifier, &image, name, sizeof(name), fault, sizeof(fault), err) !=
	    KS_OK)
		return NULL;
	answer = show_image(&image);
	(void)json_object_set_new(answer, "name", json_string(name));
	(void)json_object_set_new(answer, "fault", json_string(fault));
	return answer;
}

/* put SEQUENCE FILE */
static json_t *do_put(char **words, struct ks_err *err)
{
	FILE *file = fopen(words[2], "rb");
	struct ks_buf bytes;
	enum ks_status status;
	char part[65536];
	size_t size;

	if (!file) {
		ks_fail(err, KS_NOT_FOUND, "%s cannot be read", words[2]);
		return NULL;
	}
	ks_buf_init(&bytes, (size_t)64 << 20);
	while ((size = fread(part, 1, sizeof(part), file)) > 0)
		ks_buf_append(&bytes, part, size);
	(void)fclose(file);
	status = dpa_bucket_put_version(tool.bucket, strtoull(words[1], NULL, 10), ks_slice_of(bytes.data, bytes.size),
					err);
	ks_buf_fini(&bytes);
	return fine(status);
}

/* delete SEQUENCE */
static json_t *do_delete(char **words, struct ks_err *err)
{
	return fine(dpa_bucket_delete_version(tool.bucket, strtoull(words[1], NULL, 10), err));
}

static const struct command {
	const char *name;
	int words; /* behind it */
	json_t *(*run)(char **words, struct ks_err *err);
} commands[] = {
	{"load", 2, do_load},           {"empty", 2, do_empty},       {"apply", 3, do_apply},
	{"connected", 1, do_connected}, {"export", 2, do_export},     {"import", 1, do_import},
	{"once", 0, do_once},           {"stop", 0, do_stop},         {"status", 0, do_status},
	{"probe", 0, do_probe},         {"list", 0, do_list},         {"read", 1, do_read},
	{"newest", 0, do_newest},       {"put", 2, do_put},           {"delete", 1, do_delete},
	{"listing", 1, do_listing},     {"unlisted", 0, do_unlisted},
};

static json_t *run_line(char *line, struct ks_err *err)
{
	char *words[MAX_WORDS + 1] = {0}, *rest = line;
	int count = 0;

	while (count < MAX_WORDS && (words[count] = strtok_r(rest, " \n", &rest)))
		count++;
	for (size_t i = 0; count > 0 && i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(words[0], commands[i].name) == 0 && count == commands[i].words + 1)
			return commands[i].run(words, err);
	ks_fail(err, KS_INVALID_ARGUMENT, "no such command");
	return NULL;
}

static void run_commands(void)
{
	char *line = NULL;
	size_t room = 0;

	while (getline(&line, &room, stdin) > 0) {
		struct ks_err err = {0};
		json_t *answer = run_line(line, &err);
		char *text;

		if (!answer)
			answer = json_pack("{s:s s:s}", "failed", ks_status_name(err.status), "error", err.text);
		text = json_dumps(answer, JSON_COMPACT | JSON_ENSURE_ASCII);
		(void)puts(text ? text : "{}");
		(void)fflush(stdout);
		free(text);
		json_decref(answer);
	}
	free(line);
}

static bool open_all(int argc, char **argv, struct ks_err *err)
{
	struct dpa_bucket_config config = {.url = argv[1]};
	struct dpa_replica_config replica = {.prefix = "", .changed = changed};

	for (int i = 2; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--ca") == 0)
			config.ca_file = argv[i + 1];
		else if (strcmp(argv[i], "--timeout") == 0)
			config.timeout_ms = strtoll(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--sign") == 0 && !(tool.signer = dpa_signer_read(argv[i + 1], err)))
			return false;
		else if (strcmp(argv[i], "--verify") == 0 && !(tool.verifier = dpa_verifier_read(argv[i + 1], err)))
			return false;
	}
	tool.bucket = dpa_bucket_open(&config, err);
	if (tool.bucket)
		tool.replica = dpa_replica_new(&replica, err);
	return tool.replica != NULL;
}

int main(int argc, char **argv)
{
	struct ks_err err = {0};
	char *none[1] = {0};
	int status = 1;

	ks_diag_setup(KS_INFO, KS_DIAG_TEXT);
	ks_mutex_init(&tool.lock);
	tool.board = dpa_board_new();
	if (argc >= 2 && open_all(argc, argv, &err)) {
		status = 0;
		run_commands();
		json_decref(do_stop(none, &err));
	} else {
		(void)fprintf(stderr, "object_tool: %s\n", argc < 2 ? "which URL?" : err.text);
	}
	dpa_replica_free(tool.replica);
	dpa_bucket_close(tool.bucket);
	dpa_signer_free(tool.signer);
	dpa_verifier_free(tool.verifier);
	dpa_board_free(tool.board);
	ks_mutex_fini(&tool.lock);
	return status;
}
