/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain HTTP, see probes.h. The health checks are those of etcd, on what we have in their place:
 *
 *	data_corruption     no CORRUPT alarm
 *	serializable_read   the log is loaded, and a range answers
 *	linearizable_read   the head of the log was seen after the question came
 *	non_learner         always: there are no learners
 *
 * A question that needs the head of the log is kept in a struct probe until its proof is done; all others are answered at once.
 */
#include "api/probes.h"

#include <stdlib.h>

#include "api/api.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "net/http.h"
#include "proto/rpc.pb-c.h"

#define NOSNIFF "X-Content-Type-Options: nosniff\r\n"
#define TEXT_PLAIN "text/plain; charset=utf-8"
#define MAX_METRICS_BYTES (64u << 20)

/* As in the label CHECK of metrics_table.h. */
enum check { LIVE_SERIALIZABLE, READY_CORRUPTION, READY_SERIALIZABLE, READY_LINEARIZABLE, READY_NON_LEARNER, CHECKS };
#define BIT(check) (1u << (check))

static const struct {
	const char *path; /* of the one check alone */
	const char *name;
} checks[CHECKS] = {
	[LIVE_SERIALIZABLE] = {"/livez/serializable_read", "serializable_read"},
	[READY_CORRUPTION] = {"/readyz/data_corruption", "data_corruption"},
	[READY_SERIALIZABLE] = {"/readyz/serializable_read", "serializable_read"},
	[READY_LINEARIZABLE] = {"/readyz/linearizable_read", "linearizable_read"},
	[READY_NON_LEARNER] = {"/readyz/non_learner", "non_learner"},
};

struct probe {
	struct ks_api *api;
	struct ks_http_request *request;
	void (*answer)(struct probe *probe);
	unsigned wanted; /* checks, by BIT */
	bool verbose;
	struct ks_err read;        /* what the serializable read gave */
	struct ks_read_proof head; /* .err is what the linearizable one gave */
};

/* ---- what is asked of the server ---- */

/* Any key will do; a permission is not needed to know that keys can be read. */
static void try_read(struct ks_api *api, struct ks_err *err)
{
	const struct ks_range_req request = {
		.interval = {.key = ks_slice_of("", 1), .end = ks_slice_of("", 1)},
		.limit = 1,
		.keys_only = true,
		.serializable = true,
	};
	struct ks_range_result result;
	int64_t revision;
	uint64_t epoch;

	err->status = KS_OK;
	if (!ks_api_view_begin(api, &epoch)) {
		ks_etcd_fail(err, KS_E_NO_LEADER);
		return;
	}
	if (ks_store_range(api->store, &request, &result, &revision, err) != KS_OK)
		return;
	ks_range_result_fini(&result);
	if (!ks_api_view_holds(api, epoch))
		ks_etcd_fail(err, KS_E_NO_LEADER);
}

static void head_seen(struct ks_read_proof *proof)
{
	struct probe *probe = ks_container_of(proof, struct probe, head);

	probe->answer(probe);
	free(probe);
}

/* Reads what is here, then, if need be, asks for the head of the log; 'answer' follows, perhaps inside. */
static void start_probe(struct ks_api *api, struct ks_http_request *request, struct probe what, bool needs_head)
{
	struct probe *probe = ks_xmalloc(sizeof(*probe));

	*probe = what;
	probe->api = api;
	probe->request = request;
	try_read(api, &probe->read);
	probe->head.done = head_seen;
	if (needs_head)
		api->committer->ops->prove_read(api->committer, &probe->head);
	else
		head_seen(&probe->head);
}

/* ---- /health ---- */

static bool is_excluded(const struct ks_http_request *request, const char *name)
{
	struct ks_slice value;

	for (size_t i = 0; ks_http_query(request, "exclude", i, &value); i++)
		if (ks_slice_eq(value, ks_slice_str(name)))
			return true;
	return false;
}

static bool is_true(const struct ks_http_request *request, const char *name)
{
	struct ks_slice value;

	return ks_http_query(request, name, 0, &value) && ks_slice_eq(value, ks_slice_str("true"));
}

static void answer_health(struct ks_http_request *request, const char *reason, const char *detail)
{
	struct ks_buf body;
	bool healthy = !*reason;

	ks_buf_init(&body, 4096);
	ks_buf_printf(&body, "{\"health\":\"%s\",\"reason\":\"", healthy ? "true" : "false");
	ks_buf_printf(&body, "%s", reason);
	for (const char *c = detail; *c; c++) /* our own texts, which may quote somebody else's */
		ks_buf_printf(&body, *c == '"' || *c == '\\' ? "\\%c" : "%c", (unsigned char)*c < ' ' ? ' ' : *c);
	ks_buf_printf(&body, "\"}%s", healthy ? "" : "\n");
	if (healthy)
		KS_COUNT(HEALTH_SUCCESS, 1);
	else
		KS_COUNT(HEALTH_FAILURES, 1);
	ks_http_answer(request, healthy ? 200 : 503, TEXT_PLAIN, healthy ? NULL : NOSNIFF, &body);
}

static void answer_health_read(struct probe *probe)
{
	const struct ks_err *err = probe->read.status != KS_OK ? &probe->read : &probe->head.err;

	if (err->status == KS_OK)
		answer_health(probe->request, "", "");
	else
		answer_health(probe->request, "RANGE ERROR:", err->text);
}

static const char *alarm_name(int type)
{
	switch (type) {
	case ETCDSERVERPB__ALARM_TYPE__NOSPACE:
		return "NOSPACE";
	case ETCDSERVERPB__ALARM_TYPE__CORRUPT:
		return "CORRUPT";
	}
	return "UNKNOWN";
}

static void health(struct ks_api *api, struct ks_http_request *request)
{
	bool serializable = is_true(request, "serializable");
	struct ks_cluster_status status;
	unsigned alarms = ks_api_alarms(api);

	for (int type = 1; type < 32; type++) {
		const char *name = alarm_name(type);

		if (alarms & 1u << type && !is_excluded(request, name)) {
			answer_health(request, "ALARM ", name);
			return;
		}
	}
	api->committer->ops->status(api->committer, &status);
	if (!serializable && !status.available)
		answer_health(request, "RAFT NO LEADER", "");
	else
		start_probe(api, request, (struct probe){.answer = answer_health_read}, !serializable);
}

/* ---- /livez, /readyz ---- */

/* NULL: passed. */
static const char *verdict(const struct probe *probe, enum check check)
{
	switch (check) {
	case LIVE_SERIALIZABLE:
	case READY_SERIALIZABLE:
		return probe->read.status != KS_OK ? probe->read.text : NULL;
	case READY_CORRUPTION:
		return ks_api_alarms(probe->api) & 1u << ETCDSERVERPB__ALARM_TYPE__CORRUPT ? "alarm activated: CORRUPT"
											   : NULL;
	case READY_LINEARIZABLE:
		if (probe->head.err.status != KS_OK)
			return probe->head.err.text;
		return probe->read.status != KS_OK ? probe->read.text : NULL;
	case READY_NON_LEARNER:
	case CHECKS:
		break;
	}
	return NULL;
}

static void answer_checks(struct probe *probe)
{
	struct ks_buf body;
	bool passed = true;

	ks_buf_init(&body, 4096);
	for (int check = 0; check < CHECKS; check++) {
		const char *failure;

		if (!(probe->wanted & BIT(check)))
			continue;
		failure = verdict(probe, (enum check)check);
		passed = passed && !failure;
		KS_COUNT_AT(HEALTHCHECKS, 2 * check + (failure != NULL), 1);
		KS_SET_AT(HEALTHCHECK, check, failure == NULL);
		if (failure)
			ks_buf_printf(&body, "[-]%s failed: %s\n", checks[check].name, failure);
		else
			ks_buf_printf(&body, "[+]%s ok\n", checks[check].name);
	}
	if (passed && !probe->verbose)
		ks_buf_reset(&body);
	ks_buf_printf(&body, passed ? "ok\n" : "\n");
	ks_http_answer(probe->request, passed ? 200 : 503, TEXT_PLAIN, NOSNIFF, &body);
}

static void run_checks(struct ks_api *api, struct ks_http_request *request, unsigned wanted)
{
	struct ks_slice value;
	struct probe probe = {
		.answer = answer_checks,
		.wanted = wanted,
		.verbose = ks_http_query(request, "verbose", 0, &value),
	};

	start_probe(api, request, probe, wanted & BIT(READY_LINEARIZABLE));
}

/* All that are not excluded; names that do not exist may be excluded, too. */
static void run_group(struct ks_api *api, struct ks_http_request *request, enum check first, enum check last)
{
	unsigned wanted = 0;

	for (int check = (int)first; check <= (int)last; check++)
		if (!is_excluded(request, checks[check].name))
			wanted |= BIT(check);
	run_checks(api, request, wanted);
}

static void livez(struct ks_api *api, struct ks_http_request *request)
{
	run_group(api, request, LIVE_SERIALIZABLE, LIVE_SERIALIZABLE);
}

static void readyz(struct ks_api *api, struct ks_http_request *request)
{
	run_group(api, request, READY_CORRUPTION, READY_NON_LEARNER);
}

/* ---- the others ---- */

static void version(struct ks_api *api, struct ks_http_request *request)
{
	bool loaded = ks_api_loaded(api);
	struct ks_buf body;

	ks_buf_init(&body, 256);
	ks_buf_printf(&body, "{\"etcdserver\":\"%s\",\"etcdcluster\":\"%s\",\"storage\":\"%s\"}", KS_ETCD_VERSION,
		      loaded ? KS_ETCD_CLUSTER_VERSION : "not_decided", loaded ? KS_ETCD_STORAGE_VERSION : "unknown");
	ks_http_answer(request, 200, "application/json", NULL, &body);
}

static void metrics(struct ks_api *api, struct ks_http_request *request)
{
	struct ks_slice header = ks_http_header(request, "accept");
	char accept[1024] = "";
	enum ks_metrics_format format;
	struct ks_buf body;

	(void)api;
	if (header.data && header.size < sizeof(accept)) {
		memcpy(accept, header.data, header.size);
		accept[header.size] = '\0';
	}
	format = ks_metrics_negotiate(accept);
	ks_buf_init(&body, MAX_METRICS_BYTES);
	ks_metrics_render(&body, format);
	ks_http_answer(request, 200, ks_metrics_content_type(format), NULL, &body);
}

/* Go's expvar. Nobody needs our arguments, which may hold secrets; the numbers are those of /metrics. */
static void debug_vars(struct ks_api *api, struct ks_http_request *request)
{
	struct ks_buf body;

	(void)api;
	ks_buf_init(&body, MAX_METRICS_BYTES);
	ks_buf_printf(&body, "{\n\"cmdline\": [\"kineshim\"],\n\"metrics\": ");
	ks_metrics_render(&body, KS_METRICS_JSON);
	ks_buf_printf(&body, "\n}\n");
	ks_http_answer(request, 200, ks_metrics_content_type(KS_METRICS_JSON), NULL, &body);
}

/* ---- the way in ---- */

static const struct {
	const char *path;
	void (*serve)(struct ks_api *api, struct ks_http_request *request);
	bool any_method;
	bool on_metrics_port;
} paths[] = {
	{"/version", version, false, false}, {"/health", health, false, true},
	{"/livez", livez, false, true},      {"/readyz", readyz, false, true},
	{"/metrics", metrics, true, true},   {"/debug/vars", debug_vars, true, false},
};

static bool path_is(const struct ks_http_request *request, const char *path)
{
	return ks_slice_eq(ks_http_path(request), ks_slice_str(path));
}

static bool refuse_method(struct ks_http_request *request)
{
	static const char text[] = "Method Not Allowed\n";
	struct ks_buf body;

	if (ks_slice_eq(ks_http_method(request), ks_slice_str("GET")))
		return false;
	ks_buf_init(&body, sizeof(text));
	ks_buf_append(&body, text, sizeof(text) - 1);
	ks_http_answer(request, 405, TEXT_PLAIN, "Allow: GET\r\n" NOSNIFF, &body);
	return true;
}

void ks_api_plain(void *ctx, struct ks_http_request *request)
{
	struct ks_api *api = ctx;
	bool on_metrics_port = ks_http_port(request) == KS_HTTP_METRICS;

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		if (!path_is(request, paths[i].path) || (on_metrics_port && !paths[i].on_metrics_port))
			continue;
		if (paths[i].any_method || !refuse_method(request))
			paths[i].serve(api, request);
		return;
	}
	for (int check = 0; check < CHECKS; check++) {
		if (!path_is(request, checks[check].path))
			continue;
		if (!refuse_method(request))
			run_checks(api, request, BIT(check));
		return;
	}
	ks_http_answer_text(request, 404, "404 page not found\n");
}
