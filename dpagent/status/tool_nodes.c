/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `dpagent nodes`: the agents that registered upstream. A node is lost when its lease is over; stale when it lives and its configuration
 * is not the newest that upstream has, or is held; else healthy.
 */
#include "status/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "connect.h"
#include "mirror/board.h"
#include "options.h"
#include "status/words.h"

#define USAGE 2
#define TIMEOUT_MS 5000

static const char usage[] = "Usage: dpagent nodes --upstream URL[,URL...] [flags] [-w json]\n"
			    "\n"
			    "Lists the agents that are, or were, registered at an upstream.\n"
			    "  healthy  its lease lives, and it has the newest configuration\n"
			    "  stale    its lease lives, but it has an older configuration, or holds its own\n"
			    "  lost     its lease is over: it ended, or cannot reach upstream\n"
			    "\n"
			    "The flags --upstream…, --register-prefix and --config-file, and their variables, are "
			    "those of dpagent itself.\n"
			    "  -w json  one array of objects, as they were reported, with state and behind\n";

struct nodes {
	struct etcdc *client;
	Etcdserverpb__RangeResponse *known, *live;
	json_t *list;
	const char *reports; /* --register-prefix */
	/* The newest revision of a key under a prefix; kept for the next node, which mostly has the same. */
	char *prefix;
	int64_t newest;
};

/* ---- asking upstream ---- */

static ProtobufCBinaryData binary(const char *text, size_t size)
{
	ProtobufCBinaryData data = {.len = size};

	memcpy(&data.data, &text, sizeof(text)); /* protobuf-c's struct has no const, and does not write through it */
	return data;
}

/* 'prefix' is not empty. The end of its range: its last byte plus one, which is no 0xff here. newest_only: only so many keys, without values, the ones
 * that changed last; 0: all. */
static enum ks_status range(struct nodes *nodes, const char *prefix, int64_t newest_only,
			    Etcdserverpb__RangeResponse **response, struct etcdc_err *err)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	char *end = ks_xstrdup(prefix);
	const struct etcdc_call_options options = {.timeout_ms = TIMEOUT_MS};
	void *got = NULL;
	enum ks_status status;

	end[strlen(end) - 1]++;
	request.key = binary(prefix, strlen(prefix));
	request.range_end = binary(end, strlen(end));
	if (newest_only) {
		request.keys_only = true;
		request.limit = newest_only;
		request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD;
		request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
	}
	status = etcdc_unary(nodes->client, &etcdc_method_range, &request, &options, &got, err);
	*response = got;
	free(end);
	return status;
}

static enum ks_status ask(struct nodes *nodes, const char *prefix, const char *kind,
			  Etcdserverpb__RangeResponse **response, struct ks_err *err)
{
	size_t size = strlen(prefix) + strlen(kind) + 3;
	char *key = ks_xmalloc(size);
	struct etcdc_err client_err = {0};
	enum ks_status status;

	(void)snprintf(key, size, "%s/%s/", prefix, kind);
	status = range(nodes, key, 0, response, &client_err);
	free(key);
	return status == KS_OK ? KS_OK : ks_fail(err, status, "%s", client_err.text);
}

static bool is_report(const struct nodes *nodes, const Mvccpb__KeyValue *kv)
{
	size_t size = strlen(nodes->reports);

	return kv->key.len > size && memcmp(kv->key.data, nodes->reports, size) == 0 && kv->key.data[size] == '/';
}

/* The revision of the key under 'prefix' that changed last, nodes' reports aside, of which no more than these may come first; 0 when that is not
 * known. */
static int64_t newest_of(struct nodes *nodes, const char *prefix)
{
	Etcdserverpb__RangeResponse *response = NULL;
	struct etcdc_err err = {0};

	if (!*prefix || (unsigned char)prefix[strlen(prefix) - 1] == 0xff)
		return 0;
	if (nodes->prefix && strcmp(nodes->prefix, prefix) == 0)
		return nodes->newest;
	free(nodes->prefix);
	nodes->prefix = ks_xstrdup(prefix);
	nodes->newest = 0;
	if (range(nodes, prefix, (int64_t)(nodes->known->n_kvs + nodes->live->n_kvs) + 8, &response, &err) == KS_OK)
		for (size_t i = 0; i < response->n_kvs && nodes->newest == 0; i++)
			if (!is_report(nodes, response->kvs[i]))
				nodes->newest = response->kvs[i]->mod_revision;
	etcdc_free(response);
	return nodes->newest;
}

/* ---- nodes ---- */

/* What stands behind the last slash of a key. */
static struct ks_slice id_of(const Mvccpb__KeyValue *kv)
{
	const uint8_t *slash = memrchr(kv->key.data, '/', kv->key.len);
	size_t skip = slash ? (size_t)(slash + 1 - kv->key.data) : 0;

	return ks_slice_of(kv->key.data + skip, kv->key.len - skip);
}

static const Mvccpb__KeyValue *live_of(const struct nodes *nodes, struct ks_slice id)
{
	for (size_t i = 0; i < nodes->live->n_kvs; i++)
		if (ks_slice_eq(id_of(nodes->live->kvs[i]), id))
			return nodes->live->kvs[i];
	return NULL;
}

static const char *text_at(const json_t *node, const char *name)
{
	const char *text = json_string_value(json_object_get(node, name));

	return text ? text : "";
}

static bool holds(const json_t *node)
{
	const json_t *alarms = json_object_get(node, "alarms");

	for (size_t i = 0; i < json_array_size(alarms); i++) {
		const char *name = json_string_value(json_array_get(alarms, i));

		if (name && strcmp(name, dpa_alarm_name(DPA_ALARM_HELD)) == 0)
			return true;
	}
	return false;
}

static void add_node(struct nodes *nodes, const Mvccpb__KeyValue *known)
{
	struct ks_slice id = id_of(known);
	const Mvccpb__KeyValue *live = live_of(nodes, id), *kv = live ? live : known;
	json_t *node = json_loadb((const char *)kv->value.data, kv->value.len, 0, NULL);
	int64_t newest, behind;

	if (!json_is_object(node)) {
		json_decref(node);
		node = json_object();
	}
	(void)json_object_set_new(node, "id", json_stringn((const char *)id.data, id.size));
	newest = newest_of(nodes, text_at(node, "prefix"));
	behind = newest - json_integer_value(json_object_get(node, "upstream_revision"));
	behind = newest > 0 && behind > 0 ? behind : 0;
	(void)json_object_set_new(node, "behind", json_integer(behind));
	(void)json_object_set_new(node, "state",
				  json_string(!live                       ? "lost"
					      : behind > 0 || holds(node) ? "stale"
									  : "healthy"));
	(void)json_array_append_new(nodes->list, node);
}

/* ---- words ---- */

enum { COLUMNS = 9 };
static const char *const titles[COLUMNS] = {"ID",       "HOSTNAME", "VERSION",   "ROLE", "SOURCE",
					    "REVISION", "BEHIND",   "LAST SEEN", "STATE"};

/* Nodes write what they like: nothing of it reaches a terminal as a command. */
static void cell_text(const char *text, char *cell, size_t room)
{
	size_t size = 0;

	for (; *text && size < room - 1; text++)
		cell[size++] = (unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text;
	cell[size] = '\0';
	if (size == 0)
		(void)snprintf(cell, room, "-");
}

static void seen_text(const json_t *node, char *cell, size_t room)
{
	struct tm parts = {0};
	char age[32];

	if (strcmp(text_at(node, "state"), "lost") != 0) {
		(void)snprintf(cell, room, "now");
	} else if (strptime(text_at(node, "updated_at"), "%Y-%m-%dT%H:%M:%SZ", &parts)) {
		dpa_words_age((double)(dpa_wall_ms() / 1000 - (int64_t)timegm(&parts)), age, sizeof(age));
		(void)snprintf(cell, room, "%s ago", age);
	} else {
		(void)snprintf(cell, room, "-");
	}
}

static void cells_of(const json_t *node, char cells[COLUMNS][64])
{
	static const char *const texts[] = {"id", "hostname", "version", "role", "source"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		cell_text(text_at(node, texts[i]), cells[i], sizeof(cells[i]));
	(void)snprintf(cells[5], sizeof(cells[5]), "%lld",
		       (long long)json_integer_value(json_object_get(node, "upstream_revision")));
	(void)snprintf(cells[6], sizeof(cells[6]), "%lld",
		       (long long)json_integer_value(json_object_get(node, "behind")));
	seen_text(node, cells[7], sizeof(cells[7]));
	cell_text(text_at(node, "state"), cells[8], sizeof(cells[8]));
}

static void print_words(const json_t *list)
{
	size_t count = json_array_size(list), widths[COLUMNS];
	char(*rows)[COLUMNS][64] = ks_xcalloc(count + 1, sizeof(*rows));

	for (size_t c = 0; c < COLUMNS; c++)
		(void)snprintf(rows[0][c], sizeof(rows[0][c]), "%s", titles[c]);
	for (size_t r = 0; r < count; r++)
		cells_of(json_array_get(list, r), rows[r + 1]);
	for (size_t c = 0; c < COLUMNS; c++) {
		widths[c] = 0;
		for (size_t r = 0; r <= count; r++)
			if (strlen(rows[r][c]) > widths[c])
				widths[c] = strlen(rows[r][c]);
	}
	for (size_t r = 0; r <= count; r++)
		for (size_t c = 0; c < COLUMNS; c++)
			(void)printf("%-*s%s", c + 1 < COLUMNS ? (int)widths[c] : 0, rows[r][c],
				     c + 1 < COLUMNS ? "  " : "\n");
	free(rows);
}

/* ---- the command ---- */

static enum ks_status list_nodes(struct nodes *nodes, const struct ks_options *options, struct ks_err *err)
{
	enum ks_status status;

	nodes->reports = options->register_prefix;
	nodes->client = dpa_connect(options, err);
	if (!nodes->client)
		return err->status;
	/* Those that live are asked for first: one that registers in between is then known and counts as lost, not the other way round. */
	status = ask(nodes, options->register_prefix, "live", &nodes->live, err);
	if (status == KS_OK)
		status = ask(nodes, options->register_prefix, "nodes", &nodes->known, err);
	if (status != KS_OK)
		return status;
	nodes->list = json_array();
	for (size_t i = 0; i < nodes->known->n_kvs; i++)
		add_node(nodes, nodes->known->kvs[i]);
	return KS_OK;
}

static void nodes_fini(struct nodes *nodes)
{
	json_decref(nodes->list);
	etcdc_free(nodes->known);
	etcdc_free(nodes->live);
	etcdc_close(nodes->client);
	free(nodes->prefix);
}

static int run(const struct ks_options *options, bool json)
{
	struct nodes nodes = {0};
	struct ks_err err = {0};
	enum ks_status status = list_nodes(&nodes, options, &err);

	if (status != KS_OK)
		(void)fprintf(stderr, "dpagent nodes: %s\n", err.text);
	else if (json)
		status = json_dumpf(nodes.list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0 &&
					 fputc('\n', stdout) != EOF
				 ? KS_OK
				 : KS_INTERNAL;
	else
		print_words(nodes.list);
	nodes_fini(&nodes);
	if (fflush(stdout) != 0)
		return EXIT_FAILURE;
	return status == KS_OK ? EXIT_SUCCESS : status == KS_INVALID_ARGUMENT ? USAGE : EXIT_FAILURE;
}

int dpa_nodes_tool(int argc, char *argv[])
{
	char **flags = ks_xcalloc((size_t)argc + 1, sizeof(*flags));
	struct ks_options options;
	struct ks_err err = {0};
	bool json = false, help = false;
	int count = 0, code = USAGE;

	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "-w") == 0 && i + 1 < argc && strcmp(argv[i + 1], "json") == 0)
			json = ++i > 0;
		else if (strcmp(argv[i], "-wjson") == 0 || strcmp(argv[i], "--write-out=json") == 0)
			json = true;
		else if (i > 0 && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0))
			help = true;
		else
			flags[count++] = argv[i];
	}
	if (help) {
		(void)fputs(usage, stdout);
		code = fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	} else {
		if (ks_options_parse(&options, count, flags, getenv, &err) != KS_OK)
			(void)fprintf(stderr, "dpagent nodes: %s\n", err.text);
		else
			code = run(&options, json);
		ks_options_fini(&options);
	}
	free(flags);
	return code;
}
