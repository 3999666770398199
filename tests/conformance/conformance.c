/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conformance --endpoint HOST:PORT --block NAME [--scenario NAME] [--seed N] --out FILE: runs the scenarios of a block against
 * any server and writes the transcript. conformance --list prints the blocks. conformance --compare A B DIFFERENCES PREFIX
 * compares two transcripts as TAP (compare.c).
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/conf.h"

#define RECV_MS 10000
#define QUIET_MS 250

static const struct block blocks[] = {
	{"range", range_scenarios},
	{"put", put_scenarios},
	{"txn", txn_scenarios},
	{"watch", watch_scenarios},
	{"lease", lease_scenarios},
	{"lock", lock_scenarios},
	{"compact", compact_scenarios},
	{"maintenance", maintenance_scenarios},
	{"v37", v37_scenarios},
	{"progress", progress_scenarios},
	{"quota", quota_scenarios}, /* run.sh gives it one */
	{"fresh-hash", fresh_hash_scenarios},
	{"fresh-compacted-hash", fresh_compacted_hash_scenarios},
	{"fresh-compact", fresh_compact_scenarios},
	{"restart", restart_scenarios}, /* the server is restarted after each scenario */
	{"random", random_scenarios},
	{"auth", auth_scenarios},
	{"auth-newer", auth_newer_scenarios},
};

#define BLOCK_COUNT (sizeof(blocks) / sizeof(blocks[0]))

/* ---- What scenarios use ---- */

static char *format(const char *fmt, va_list args)
{
	char *text;

	KS_ASSERT(vasprintf(&text, fmt, args) >= 0);
	return text;
}

void conf_note(struct conf *conf, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)fputs("# ", conf->out);
	(void)vfprintf(conf->out, fmt, args);
	(void)putc('\n', conf->out);
	va_end(args);
}

void conf_check(struct conf *conf, bool ok, const char *what)
{
	conf_note(conf, "%s: %s", what, ok ? "ok" : "FAILED");
}

/* The ids of leases that the server chose get their names in the order of the grants. */
static void learn_lease(struct conf *conf, const ProtobufCMessage *request, const ProtobufCMessage *response)
{
	const Etcdserverpb__LeaseGrantRequest *grant = (const void *)request;
	const Etcdserverpb__LeaseGrantResponse *granted = (const void *)response;

	if (request->descriptor != &etcdserverpb__lease_grant_request__descriptor || !response || grant->id != 0)
		return;
	if (conf->names.lease_count < NAMES_LEASES_MAX)
		conf->names.leases[conf->names.lease_count++] = granted->id;
	conf_check(conf, granted->id > 0, "the chosen lease id is positive");
}

static int64_t revision_of(const ProtobufCMessage *response)
{
	const ProtobufCFieldDescriptor *field =
		protobuf_c_message_descriptor_get_field_by_name(response->descriptor, "header");
	const Etcdserverpb__ResponseHeader *header;

	if (!field)
		return 0;
	header = *(Etcdserverpb__ResponseHeader *const *)(const void *)((const char *)response + field->offset);
	return header ? header->revision : 0;
}

static void *call(struct conf *conf, const struct etcdc_method *method, const char *text)
{
	ProtobufCMessage *request = text_parse(method->request, text, &conf->names);
	struct etcdc_err err;
	void *response;

	conf->status = etcdc_unary(conf->client, method, request, NULL, &response, &err);
	conf->revision = response ? revision_of(response) : 0;
	learn_lease(conf, request, response);
	if (conf->status == KS_UNAVAILABLE && !err.sent) {
		/* Nobody is there any more, and each further call would wait for its deadline. */
		conf_note(conf, "the server is gone: FAILED");
		(void)fflush(conf->out);
		(void)fprintf(stderr, "conformance: the server at %s is gone\n", conf->endpoint);
		exit(3);
	}
	if (conf->status == KS_OK)
		(void)fputs("OK\n", conf->out);
	else
		(void)fprintf(conf->out, "%s\n  text=%s\n", ks_status_name(conf->status), err.text);
	etcdc_free(request);
	return response;
}

/* Long requests are cut in the transcript, which is for people. */
static void print_request(struct conf *conf, const char *name, const char *text)
{
	size_t size = strlen(text);

	(void)fprintf(conf->out, "> %s %.400s%s\n", name, text, size > 400 ? "…" : "");
}

void conf_call(struct conf *conf, const struct etcdc_method *method, const char *request, ...)
{
	va_list args;
	char *text;
	void *response;

	va_start(args, request);
	text = format(request, args);
	va_end(args);
	print_request(conf, strrchr(method->path, '/') + 1, text);
	response = call(conf, method, text);
	if (response)
		text_print(conf->out, response, "", &conf->names);
	etcdc_free(response);
	free(text);
}

void conf_call_unnamed(struct conf *conf, const struct etcdc_method *method, const char *request, ...)
{
	va_list args;
	char *text;
	void *response;

	va_start(args, request);
	text = format(request, args);
	va_end(args);
	print_request(conf, strrchr(method->path, '/') + 1, "of this server");
	response = call(conf, method, text);
	if (response)
		text_print(conf->out, response, "", &conf->names);
	etcdc_free(response);
	free(text);
}

void *conf_call_quiet(struct conf *conf, const struct etcdc_method *method, const char *request, ...)
{
	va_list args;
	char *text;
	void *response;

	va_start(args, request);
	text = format(request, args);
	va_end(args);
	print_request(conf, strrchr(method->path, '/') + 1, text);
	response = call(conf, method, text);
	free(text);
	return response;
}

void put(struct conf *conf, const char *key, const char *value)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response;
	struct etcdc_err err;

	request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
	request.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)(uintptr_t)value};
	conf->status = etcdc_put(conf->client, &request, &response, &err);
	conf->revision = response ? response->header->revision : 0;
	if (conf->status != KS_OK)
		conf_note(conf, "put %s failed: %s", key, err.text);
	etcdc_free(response);
}

struct etcdc_stream *stream_open(struct conf *conf, const struct etcdc_method *method)
{
	print_request(conf, strrchr(method->path, '/') + 1, "(stream)");
	return etcdc_stream_open(conf->client, method, NULL);
}

void stream_send(struct conf *conf, struct etcdc_stream *stream, const char *request, ...)
{
	/* All streams of scenarios that send with text are watches or keep-alives, told apart by the first word. */
	bool keepalive = strncmp(request, "ID:", 3) == 0;
	ProtobufCMessage *message;
	va_list args;
	char *text;

	va_start(args, request);
	text = format(request, args);
	va_end(args);
	print_request(conf, "send", text);
	message = text_parse(keepalive ? &etcdserverpb__lease_keep_alive_request__descriptor
				       : &etcdserverpb__watch_request__descriptor,
			     text, &conf->names);
	if (!etcdc_stream_send(stream, message))
		conf_note(conf, "the stream has ended");
	etcdc_free(message);
	free(text);
}

static void print_received(struct conf *conf, enum ks_status status, void *message, const struct etcdc_err *err)
{
	if (status == KS_DEADLINE_EXCEEDED)
		(void)fputs("nothing\n", conf->out);
	else if (status != KS_OK)
		(void)fprintf(conf->out, "END %s\n  text=%s\n", ks_status_name(status), err->text);
	else if (!message)
		(void)fputs("END OK\n", conf->out);
	else
		(void)fputs("message\n", conf->out);
	if (message)
		text_print(conf->out, message, "", &conf->names);
	etcdc_free(message);
}

void stream_recv(struct conf *conf, struct etcdc_stream *stream)
{
	struct etcdc_err err;
	void *message;
	enum ks_status status = etcdc_stream_recv(stream, RECV_MS, &message, &err);

	print_request(conf, "receive", "");
	print_received(conf, status, message, &err);
}

void stream_quiet(struct conf *conf, struct etcdc_stream *stream)
{
	struct etcdc_err err;
	void *message;
	enum ks_status status = etcdc_stream_recv(stream, QUIET_MS, &message, &err);

	print_request(conf, "receive nothing", "");
	print_received(conf, status, message, &err);
}

/* ---- Events without the borders of batches ---- */

#define EVENTS_WATCHERS 16

struct collected {
	int64_t id;
	int64_t last_revision; /* of the last event */
	Etcdserverpb__WatchResponse **responses;
	size_t count;
};

/* Checks one response; true when it is as the spec wants it. */
static bool check_batch(struct collected *watcher, const Etcdserverpb__WatchResponse *response)
{
	int64_t first = response->n_events ? response->events[0]->kv->mod_revision : 0, last = first;
	bool ok = first > watcher->last_revision; /* no revision is split over two responses */

	for (size_t i = 0; i < response->n_events; i++) {
		int64_t revision = response->events[i]->kv->mod_revision;

		ok &= revision >= last;
		last = revision;
	}
	ok &= response->header && response->header->revision >= last;
	watcher->last_revision = last;
	return ok;
}

void watch_events(struct conf *conf, struct etcdc_stream *stream, size_t events)
{
	struct collected watchers[EVENTS_WATCHERS] = {{.id = 0}};
	size_t watcher_count = 0, seen = 0;
	bool ok = true;

	(void)fprintf(conf->out, "> receive events until %zu\n", events);
	while (seen < events) {
		Etcdserverpb__WatchResponse *response;
		struct collected *watcher = NULL;
		struct etcdc_err err;
		void *message;
		enum ks_status status = etcdc_stream_recv(stream, RECV_MS, &message, &err);

		if (status != KS_OK || !message) {
			conf_note(conf, "%zu of %zu events, then:", seen, events);
			print_received(conf, status, message, &err);
			break;
		}
		response = message;
		for (size_t i = 0; i < watcher_count; i++) {
			if (watchers[i].id == response->watch_id)
				watcher = &watchers[i];
		}
		if (!watcher) {
			KS_ASSERT(watcher_count < EVENTS_WATCHERS);
			watcher = &watchers[watcher_count++];
			watcher->id = response->watch_id;
		}
		ok &= response->n_events > 0 && !response->created && !response->canceled;
		ok &= check_batch(watcher, response);
		seen += response->n_events;
		watcher->responses =
			ks_xrealloc(watcher->responses, (watcher->count + 1) * sizeof(watcher->responses[0]));
		watcher->responses[watcher->count++] = response;
	}
	/* In the order of ids: watchers get their responses in any order. */
	for (int64_t id = -1; id < 1000; id++) {
		for (size_t i = 0; i < watcher_count; i++) {
			size_t n = 0;

			if (watchers[i].id != id)
				continue;
			for (size_t r = 0; r < watchers[i].count; r++) {
				Etcdserverpb__WatchResponse *response = watchers[i].responses[r];

				for (size_t e = 0; e < response->n_events; e++) {
					char path[64];

					(void)snprintf(path, sizeof(path), "watch[%" PRId64 "].events[%zu].", id, n++);
					(void)fprintf(conf->out, "  %s={}\n", path);
					text_print(conf->out, &response->events[e]->base, path, &conf->names);
				}
				etcdc_free(response);
			}
			free(watchers[i].responses);
		}
	}
	conf_check(conf, ok, "batches are whole revisions in order");
}

/* ---- Running ---- */

static void start_from_nothing(struct conf *conf)
{
	ProtobufCMessage *everything = text_parse(&etcdserverpb__delete_range_request__descriptor,
						  "key:'\\x00' range_end:'\\x00'", &conf->names);
	Etcdserverpb__LeaseLeasesRequest list = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	Etcdserverpb__LeaseLeasesResponse *leases;
	Etcdserverpb__DeleteRangeResponse *deleted;
	struct etcdc_err err;

	if (etcdc_lease_leases(conf->client, &list, &leases, &err) == KS_OK) {
		for (size_t i = 0; i < leases->n_leases; i++) {
			Etcdserverpb__LeaseRevokeRequest revoke = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
			Etcdserverpb__LeaseRevokeResponse *revoked;

			revoke.id = leases->leases[i]->id;
			(void)etcdc_lease_revoke(conf->client, &revoke, &revoked, NULL);
			etcdc_free(revoked);
		}
	}
	etcdc_free(leases);
	conf->names.base = 1;
	if (etcdc_delete_range(conf->client, (const void *)everything, &deleted, &err) == KS_OK)
		conf->names.base = deleted->header->revision;
	else
		conf_note(conf, "the keys cannot be deleted: %s", err.text);
	etcdc_free(deleted);
	etcdc_free(everything);
}

static void run_block(struct conf *conf, const struct block *block, const char *only)
{
	for (const struct scenario *scenario = block->scenarios; scenario->name; scenario++) {
		if (only && strcmp(only, scenario->name) != 0)
			continue;
		(void)fprintf(conf->out, "=== %s\n", scenario->name);
		conf->names = (struct names){.base = 1};
		if (!scenario->fresh)
			start_from_nothing(conf);
		scenario->run(conf);
		(void)fflush(conf->out);
	}
}

static int usage(void)
{
	(void)fputs("usage: conformance --endpoint HOST:PORT [--other HOST:PORT] --block NAME [--scenario NAME] "
		    "[--seed N] [--out FILE]\n"
		    "       conformance --list\n"
		    "       conformance --compare TRANSCRIPT TRANSCRIPT DIFFERENCES PREFIX\n",
		    stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"endpoint", required_argument, NULL, 'e'},
		{"block", required_argument, NULL, 'b'},
		{"scenario", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'n'},
		{"out", required_argument, NULL, 'o'},
		{"list", no_argument, NULL, 'l'},
		{"compare", no_argument, NULL, 'c'},
		{"other", required_argument, NULL, 'O'},
		{NULL, 0, NULL, 0},
	};
	struct conf conf = {.out = stdout, .seed = 1};
	const char *block_name = NULL, *scenario = NULL, *other = NULL;
	const struct block *block = NULL;
	struct etcdc_err err;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'e':
			conf.endpoint = optarg;
			break;
		case 'O':
			other = optarg;
			break;
		case 'b':
			block_name = optarg;
			break;
		case 's':
			scenario = optarg;
			break;
		case 'n':
			conf.seed = strtoull(optarg, NULL, 10);
			break;
		case 'o':
			conf.out = fopen(optarg, "w");
			if (!conf.out) {
				perror(optarg);
				return 1;
			}
			break;
		case 'l':
			for (size_t i = 0; i < BLOCK_COUNT; i++)
				(void)puts(blocks[i].name);
			return 0;
		case 'c':
			if (argc - optind != 4)
				return usage();
			return compare(argv[optind], argv[optind + 1], argv[optind + 2], argv[optind + 3]);
		default:
			return usage();
		}
	}
	for (size_t i = 0; block_name && i < BLOCK_COUNT; i++) {
		if (strcmp(blocks[i].name, block_name) == 0)
			block = &blocks[i];
	}
	if (!block || !conf.endpoint)
		return usage();
	conf.client = etcdc_open_url(conf.endpoint, &err);
	conf.other = conf.client ? etcdc_open_url(other ? other : conf.endpoint, &err) : NULL;
	if (!conf.other) {
		(void)fprintf(stderr, "conformance: %s\n", err.text);
		return 1;
	}
	run_block(&conf, block, scenario);
	etcdc_close(conf.other);
	etcdc_close(conf.client);
	return fclose(conf.out) == 0 ? 0 : 1;
}
