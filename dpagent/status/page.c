/* SPDX-License-Identifier: Apache-2.0 */
/* /status and its kin, see page.h. */
#include "config.h"

#include "status/page.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/panic.h"
#include "net/http.h"
#include "status/report.h"

#define JSON_TYPE "application/json"
#define BODY_MAX ((size_t)64 << 20)

struct dpa_page {
	struct dpa_page_config config;
	int64_t started_ms;
	char host[256];
};

struct dpa_page *dpa_page_new(const struct dpa_page_config *config)
{
	struct dpa_page *page = ks_xcalloc(1, sizeof(*page));

	page->config = *config;
	page->started_ms = dpa_wall_ms();
	(void)gethostname(page->host, sizeof(page->host) - 1);
	return page;
}

void dpa_page_free(struct dpa_page *page)
{
	free(page);
}

/* Takes 'report', which may be NULL. */
static void answer(struct ks_http_request *request, int status, json_t *report)
{
	char *text = report ? json_dumps(report, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
	struct ks_buf body;

	json_decref(report);
	if (!text) {
		ks_http_answer_text(request, 500, "out of memory\n");
		return;
	}
	ks_buf_init(&body, BODY_MAX);
	ks_buf_append(&body, text, strlen(text));
	ks_buf_append(&body, "\n", 1);
	free(text);
	ks_http_answer(request, status, JSON_TYPE, "Cache-Control: no-store\r\n", &body);
}

static void add_node(const struct dpa_page *page, json_t *report)
{
	const struct dpa_page_config *config = &page->config;

	(void)json_object_set_new(report, "id", json_string(config->id));
	(void)json_object_set_new(report, "hostname", json_string(page->host));
	(void)json_object_set_new(report, "version", json_string(PACKAGE_VERSION));
	(void)json_object_set_new(report, "role", json_string(config->role));
	(void)json_object_set_new(report, "urls", json_string(config->urls));
	(void)json_object_set_new(report, "prefix", json_string(dpa_replica_prefix(config->replica)));
	(void)json_object_set_new(report, "pid", json_integer(getpid()));
	(void)json_object_set_new(report, "started_at", dpa_report_time(page->started_ms));
}

/* The keys of the overlay file: "set" or "hide". They win over upstream's. */
static void add_overlay(const struct dpa_page *page, json_t *report)
{
	char *text = page->config.overlay ? dpa_overlay_json(page->config.overlay) : NULL;
	json_t *overlay = text ? json_loads(text, 0, NULL) : NULL;
	json_t *keys = json_object_get(overlay, "keys");

	free(text);
	if (keys)
		(void)json_object_set(json_object_get(report, "overlay"), "found", keys);
	json_decref(overlay);
}

/* The services with their nodes, as discovery has them. */
static void add_services(const struct dpa_page *page, json_t *report)
{
	char *text = page->config.discovery ? dpa_discovery_json(page->config.discovery) : NULL;
	json_t *list = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

	free(text);
	if (list)
		(void)json_object_set_new(json_object_get(report, "discovery"), "found", list);
}

static void serve_status(struct dpa_page *page, struct ks_http_request *request, bool full)
{
	struct dpa_status status;
	struct dpa_point point;
	json_t *report;
	bool ready;

	dpa_board_read(page->config.board, &status);
	dpa_replica_point(page->config.replica, &point);
	ready = point.loaded;
	report = full ? dpa_report_full(&status, &point) : dpa_report_short(&status, &point);
	dpa_point_fini(&point);
	if (full && report) {
		add_node(page, report);
		add_overlay(page, report);
		add_services(page, report);
	}
	answer(request, full || ready ? 200 : 503, report);
}

static void status_whole(struct dpa_page *page, struct ks_http_request *request)
{
	serve_status(page, request, true);
}

static void status_ready(struct dpa_page *page, struct ks_http_request *request)
{
	serve_status(page, request, false);
}

/* 127.0.0.0/8, ::1, or a unix socket: somebody on this machine. */
static bool is_local(const struct ks_http_request *request)
{
	const char *peer = ks_http_peer_text(request);

	return strncmp(peer, "127.", 4) == 0 || strncmp(peer, "[::1]", 5) == 0 || strncmp(peer, "unix", 4) == 0 ||
	       strncmp(peer, "[::ffff:127.", 12) == 0;
}

/* What wipes a configuration is asked for by a person at the machine, never by a page in his browser. */
static void accept_empty(struct dpa_page *page, struct ks_http_request *request)
{
	if (ks_http_port(request) != KS_HTTP_METRICS || !is_local(request) || ks_http_header(request, "origin").data ||
	    ks_http_header(request, "x-forwarded-for").data) {
		ks_http_answer_text(request, 403, "only from this machine, at a port of --listen-metrics-urls\n");
		return;
	}
	if (!dpa_upstream_accept_empty(page->config.upstream)) {
		ks_http_answer_text(request, 409, "nothing is held: upstream is not empty, or not connected\n");
		return;
	}
	ks_diag(KS_WARN, "main", "an empty upstream is accepted, as was asked for peer=%s", ks_http_peer_text(request));
	answer(request, 202, json_pack("{s:b}", "accepted", true));
}

static const struct {
	const char *path, *method, *allow;
	void (*serve)(struct dpa_page *page, struct ks_http_request *request);
} paths[] = {
	{"/status", "GET", "Allow: GET\r\n", status_whole},
	{"/status/ready", "GET", "Allow: GET\r\n", status_ready},
	{"/accept-empty", "POST", "Allow: POST\r\n", accept_empty},
};

bool dpa_page_serve(struct dpa_page *page, struct ks_http_request *request)
{
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		if (!ks_slice_eq(ks_http_path(request), ks_slice_str(paths[i].path)))
			continue;
		if (ks_slice_eq(ks_http_method(request), ks_slice_str(paths[i].method)))
			paths[i].serve(page, request);
		else
			ks_http_answer(request, 405, NULL, paths[i].allow, NULL);
		return true;
	}
	return false;
}
