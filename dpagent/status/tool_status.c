/* SPDX-License-Identifier: Apache-2.0 */
/* `dpagent status`: /status of the local agent, in words. */
#include "config.h"

#include "status/tool.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "status/words.h"

#define URL "http://127.0.0.1:7085"
#define TIMEOUT_MS 5000L
#define BODY_MAX ((size_t)64 << 20)

enum { READY = 0, NOT_READY = 1, UNREACHABLE = 2 };

static const char usage[] =
	"Usage: dpagent status [--url=URL] [-w json]\n"
	"\n"
	"Asks the agent on this machine how it is. Exit status: 0 ready, 1 not ready, 2 not reachable.\n"
	"  --url=URL      one of its --listen-metrics-urls [" URL "]; also unix:///path\n"
	"  --cacert=FILE  CA of its certificate, in PEM\n"
	"  -w json        what it says, as it is\n";

struct request {
	const char *url, *cacert;
	bool json;
};

/* False for wrong usage. */
static bool parse(int argc, char *argv[], struct request *request)
{
	for (int i = 1; i < argc; i++) {
		const char *more = i + 1 < argc ? argv[i + 1] : NULL;

		if (strncmp(argv[i], "--url=", 6) == 0)
			request->url = argv[i] + 6;
		else if (strncmp(argv[i], "--cacert=", 9) == 0)
			request->cacert = argv[i] + 9;
		else if (strcmp(argv[i], "--url") == 0 && more)
			request->url = argv[++i];
		else if (strcmp(argv[i], "--cacert") == 0 && more)
			request->cacert = argv[++i];
		else if (strcmp(argv[i], "-w") == 0 && more && strcmp(more, "json") == 0)
			request->json = ++i > 0;
		else if (strcmp(argv[i], "-wjson") == 0 || strcmp(argv[i], "--write-out=json") == 0)
			request->json = true;
		else
			return false;
	}
	return true;
}

static size_t take(const void *data, size_t size, size_t count, void *arg)
{
	struct ks_buf *body = arg;

	ks_buf_append(body, data, size * count);
	return body->failed ? 0 : size * count;
}

static void set_url(CURL *curl, const char *given, char *text, size_t room)
{
	const char *path = strncmp(given, "unix://", 7) == 0 ? given + 7 : NULL;

	(void)snprintf(text, room, "%s/status", path ? "http://localhost" : given);
	if (path)
		(void)curl_easy_setopt(curl, *path == '/' ? CURLOPT_UNIX_SOCKET_PATH : CURLOPT_ABSTRACT_UNIX_SOCKET,
				       path);
	(void)curl_easy_setopt(curl, CURLOPT_URL, text);
}

/* NULL, and what went wrong on stderr. */
static json_t *ask(const struct request *request, struct ks_buf *body)
{
	char url[4096], error[CURL_ERROR_SIZE] = "";
	CURL *curl = curl_easy_init();
	json_t *report = NULL;
	CURLcode code;

	if (!curl)
		return NULL;
	set_url(curl, request->url, url, sizeof(url));
	(void)curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
	(void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
	(void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
	(void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	(void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	(void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
	(void)curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	if (request->cacert)
		(void)curl_easy_setopt(curl, CURLOPT_CAINFO, request->cacert);
	code = curl_easy_perform(curl);
	curl_easy_cleanup(curl);
	if (code == CURLE_OK)
		report = json_loadb((const char *)body->data, body->size, 0, NULL);
	if (code != CURLE_OK)
		(void)fprintf(stderr, "dpagent status: no agent answers at %.200s: %s\n", request->url,
			      *error ? error : curl_easy_strerror(code));
	else if (!json_is_object(report))
		(void)fprintf(stderr, "dpagent status: what answers at %.200s is no agent\n", request->url);
	if (json_is_object(report))
		return report;
	json_decref(report);
	return NULL;
}

/* ---- words ---- */

static const char *text_at(const json_t *report, const char *name)
{
	const char *text = json_string_value(json_object_get(report, name));

	return text ? text : "";
}

static long long number_at(const json_t *report, const char *name)
{
	return (long long)json_integer_value(json_object_get(report, name));
}

static void row(const char *name)
{
	(void)printf("%-16s", name);
}

static void print_configuration(const json_t *report)
{
	const char *source = text_at(report, "source");
	char age[32];

	row("Configuration:");
	if (!json_is_true(json_object_get(report, "ready"))) {
		(void)puts("none yet");
		return;
	}
	dpa_words_age(json_number_value(json_object_get(report, "age_seconds")), age, sizeof(age));
	(void)printf("from %s, confirmed %s ago\n", strcmp(source, "object-storage") == 0 ? "object storage" : source,
		     age);
	row("Revision:");
	(void)printf("%lld (upstream %lld), %lld key%s under %s\n", number_at(report, "revision"),
		     number_at(report, "upstream_revision"), number_at(report, "keys"),
		     number_at(report, "keys") == 1 ? "" : "s", text_at(report, "prefix"));
}

static void print_upstream(const json_t *report)
{
	const json_t *upstream = json_object_get(report, "upstream");
	const char *error = text_at(upstream, "error");

	row("Upstream:");
	if (json_is_true(json_object_get(report, "connected")))
		(void)printf("connected to %s since %s\n", text_at(upstream, "endpoint"),
			     text_at(upstream, "connected_since"));
	else
		(void)printf("not connected%s%s\n", *error ? ": " : "", error);
}

static void print_storage(const json_t *report)
{
	const json_t *disk = json_object_get(report, "snapshot"), *object = json_object_get(report, "object_storage");
	const char *saved = text_at(disk, "saved_at");

	row("On disk:");
	if (*saved)
		(void)printf("revision %lld, %lld bytes, saved %s\n", number_at(disk, "revision"),
			     number_at(disk, "bytes"), saved);
	else
		(void)puts("nothing written yet");
	if (*text_at(object, "object")) {
		row("Object storage:");
		(void)printf("%s, upstream revision %lld, saved %s\n", text_at(object, "object"),
			     number_at(object, "upstream_revision"), text_at(object, "saved_at"));
	}
}

static void print_local(const json_t *report)
{
	const json_t *overlay = json_object_get(report, "overlay"), *discovery = json_object_get(report, "discovery");

	if (*text_at(overlay, "file")) {
		row("Overlay:");
		(void)printf("%s, %lld keys, loaded %s\n", text_at(overlay, "file"), number_at(overlay, "keys"),
			     text_at(overlay, "loaded_at"));
	}
	if (number_at(discovery, "services") > 0) {
		row("Discovery:");
		(void)printf("%lld services in %lld keys\n", number_at(discovery, "services"),
			     number_at(discovery, "keys"));
	}
}

static void print_alarms(const json_t *report)
{
	const json_t *alarms = json_object_get(report, "alarms");

	row("Alarms:");
	if (json_array_size(alarms) == 0)
		(void)puts("none");
	for (size_t i = 0; i < json_array_size(alarms); i++) {
		const json_t *alarm = json_array_get(alarms, i);

		if (i > 0)
			row("");
		(void)printf("%s since %s: %s\n", text_at(alarm, "name"), text_at(alarm, "since"),
			     text_at(alarm, "text"));
	}
}

static void print_words(const json_t *report)
{
	row("Node:");
	(void)printf("%s on %s, role %s, dpagent %s, pid %lld\n", text_at(report, "id"), text_at(report, "hostname"),
		     text_at(report, "role"), text_at(report, "version"), number_at(report, "pid"));
	print_configuration(report);
	print_upstream(report);
	print_storage(report);
	print_local(report);
	row("Registered:");
	(void)puts(json_is_true(json_object_get(report, "registered")) ? "yes" : "no");
	print_alarms(report);
}

int dpa_status_tool(int argc, char *argv[])
{
	struct request request = {.url = URL};
	struct ks_buf body;
	json_t *report;
	int code = UNREACHABLE;

	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		(void)fputs(usage, stdout);
		return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	if (!parse(argc, argv, &request)) {
		(void)fputs(usage, stderr);
		return UNREACHABLE;
	}
	ks_buf_init(&body, BODY_MAX);
	report = ask(&request, &body);
	if (report) {
		code = json_is_true(json_object_get(report, "ready")) ? READY : NOT_READY;
		if (request.json)
			(void)fwrite(body.data, 1, body.size, stdout);
		else
			print_words(report);
	}
	json_decref(report);
	ks_buf_fini(&body);
	return fflush(stdout) == 0 ? code : UNREACHABLE;
}
