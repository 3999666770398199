/* SPDX-License-Identifier: Apache-2.0 */
/* The parts that clients meet, in the order in which they need each other; stopping goes the same way backwards. */
#include "config.h"

#include "frontend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "api/probes.h"
#include "base/diag.h"
#include "base/panic.h"
#include "base/timer.h"
#include "net/address.h"
#include "net/http.h"
#include "net/listener.h"
#include "notify.h"
#include "server_tls.h"

#define TLS_DRAIN_MS 1000 /* after the others, for what clients have still to read */
/* What decoding and answering a request may take, as a multiple of the largest request. */
#define ARENA_FACTOR 24

struct ks_frontend {
	struct ks_timers *timers;
	struct ks_api *api;
	struct ks_rpc *rpc;
	struct ks_http *http;
	struct ks_tls *tls; /* NULL: plaintext only */
	struct ks_listener *listener;
	bool (*plain)(void *ctx, struct ks_http_request *request);
	void *plain_ctx;
	struct ks_timer late_timer;
	void (*late)(void *ctx);
	void *late_ctx;
};

/* Is 'part' in the comma separated list, each element of which it sees with a comma behind it? */
bool ks_frontend_any_url_has(const char *urls, const char *part)
{
	char list[4096];

	(void)snprintf(list, sizeof(list), "%s,", urls);
	return strstr(list, part) != NULL;
}

/* Each watch client costs a descriptor. */
void ks_frontend_raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		ks_diag(KS_WARN, "main", "cannot raise the limit of open files error=\"%s\"", strerror(errno));
}

/* Clients that ask for the members connect to what they are told. */
void ks_frontend_check_advertised(const struct ks_options *options)
{
	static const char *const useless[] = {"//0.0.0.0:", "//[::]:", ":0,"};

	for (size_t i = 0; i < sizeof(useless) / sizeof(*useless); i++)
		if (ks_frontend_any_url_has(options->advertise_client_urls, useless[i]))
			ks_diag(KS_WARN, "main",
				"clients cannot connect to the advertised urls=%s; set --advertise-client-urls",
				options->advertise_client_urls);
}

static enum ks_status check_urls(const char *list, struct ks_err *err)
{
	char *urls = ks_xstrdup(list), *rest = urls, *url;
	enum ks_status status = KS_OK;

	while (status == KS_OK && (url = strsep(&rest, ","))) {
		struct ks_address address;

		status = ks_address_parse(url, &address, err);
	}
	free(urls);
	return status;
}

enum ks_status ks_frontend_check(const struct ks_options *options, struct ks_err *err)
{
	const char *const lists[] = {options->listen_client_urls, options->listen_client_http_urls,
				     options->listen_metrics_urls};
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists) && status == KS_OK; i++)
		if (*lists[i] || i == 0)
			status = check_urls(lists[i], err);
	return status == KS_OK ? ks_server_tls_check(options, err) : status;
}

/* For the core's settings, of which 0 is the default: a flag's 0 means never. */
static int never_if_zero(int64_t ms)
{
	return ms > 0 ? (int)ms : -1;
}

static void plain(void *ctx, struct ks_http_request *request)
{
	struct ks_frontend *frontend = ctx;

	if (!frontend->plain || !frontend->plain(frontend->plain_ctx, request))
		ks_api_plain(frontend->api, request);
}

static enum ks_status start_calls(struct ks_frontend *frontend, const struct ks_frontend_config *config,
				  struct ks_err *err)
{
	const struct ks_options *options = config->options;
	size_t most = (size_t)options->max_request_bytes + KS_ETCD_GRPC_OVERHEAD_BYTES;
	struct ks_api_config api_config = config->api;
	struct ks_rpc_config rpc_config = {
		.max_request_bytes = most,
		.max_arena_bytes = most * ARENA_FACTOR,
		.ping_min_ms = never_if_zero(options->grpc_keepalive_min_time),
		.ping_after_ms = never_if_zero(options->grpc_keepalive_interval),
		.ping_timeout_ms = (int)options->grpc_keepalive_timeout,
		.max_streams = (uint32_t)options->max_concurrent_streams,
		.slow_ms = options->warning_unary_request_duration,
	};
	struct ks_http_config http_config = {
		.cors = options->cors,
		.host_whitelist = options->host_whitelist,
		.plain = plain,
		.plain_ctx = frontend,
	};

	api_config.max_txn_ops = (size_t)options->max_txn_ops;
	api_config.max_request_bytes = (size_t)options->max_request_bytes;
	api_config.progress_interval_ms = options->watch_progress_notify_interval;
	api_config.cursor_interval_ms = options->watch_cursor_interval;
	api_config.snapshot_dir = options->data_dir;
	rpc_config.methods = ks_api_methods(&rpc_config.method_count);
	rpc_config.context = frontend->api = ks_api_start(&api_config, err);
	if (frontend->api)
		frontend->rpc = ks_rpc_start(&rpc_config, err);
	http_config.rpc = options->enable_grpc_gateway ? frontend->rpc : NULL;
	if (frontend->rpc)
		frontend->http = ks_http_start(&http_config, err);
	return frontend->http ? KS_OK : err->status;
}

static enum ks_status start_listener(struct ks_frontend *frontend, const struct ks_frontend_config *config,
				     struct ks_err *err)
{
	const struct ks_options *options = config->options;
	struct ks_notify_socket handed[KS_NOTIFY_MAX_SOCKETS];
	struct ks_listener_socket sockets[KS_NOTIFY_MAX_SOCKETS];
	struct ks_listener_config listener_config = {
		.urls = config->no_clients ? NULL : options->listen_client_urls,
		.http_urls = config->no_clients ? NULL : options->listen_client_http_urls,
		.metrics_urls = options->listen_metrics_urls,
		.sockets = sockets,
		.socket_count = ks_notify_sockets(handed),
		.rpc = frontend->rpc,
		.http = frontend->http,
		.reuse_port = options->socket_reuse_port,
	};
	enum ks_status status;

	for (size_t i = 0; i < listener_config.socket_count; i++)
		sockets[i] = (struct ks_listener_socket){.fd = handed[i].fd, .name = handed[i].name};
	if (listener_config.socket_count > 0 && config->handed_over)
		config->handed_over(config->handed_over_ctx);
	status = ks_server_tls_start(options, listener_config.socket_count > 0, frontend->rpc, frontend->http,
				     &frontend->tls, err);
	if (status != KS_OK)
		return status;
	listener_config.tls = frontend->tls;
	frontend->listener = ks_listener_start(&listener_config, err);
	return frontend->listener ? KS_OK : err->status;
}

struct ks_frontend *ks_frontend_start(const struct ks_frontend_config *config, struct ks_err *err)
{
	struct ks_frontend *frontend = ks_xcalloc(1, sizeof(*frontend));

	frontend->timers = config->api.timers;
	frontend->plain = config->plain;
	frontend->plain_ctx = config->plain_ctx;
	if (start_calls(frontend, config, err) == KS_OK && start_listener(frontend, config, err) == KS_OK)
		return frontend;
	ks_frontend_stop(frontend, 0, NULL, NULL);
	return NULL;
}

const char *ks_frontend_urls(const struct ks_frontend *frontend)
{
	return ks_listener_urls(frontend->listener);
}

static void too_late(struct ks_timer *timer)
{
	const struct ks_frontend *frontend = ks_container_of(timer, struct ks_frontend, late_timer);

	frontend->late(frontend->late_ctx);
}

void ks_frontend_stop(struct ks_frontend *frontend, int drain_ms, void (*late)(void *ctx), void *late_ctx)
{
	if (!frontend)
		return;
	if (frontend->listener)
		ks_listener_stop(frontend->listener);
	ks_tls_drain(frontend->tls);
	if (frontend->rpc) {
		frontend->late = late;
		frontend->late_ctx = late_ctx;
		ks_timer_init(&frontend->late_timer, too_late);
		if (late)
			ks_timer_arm(frontend->timers, &frontend->late_timer, drain_ms);
		ks_http_stop(frontend->http, drain_ms);
		ks_rpc_stop(frontend->rpc, drain_ms);
		ks_tls_stop(frontend->tls, TLS_DRAIN_MS);
		ks_timer_cancel(frontend->timers, &frontend->late_timer);
	}
	ks_api_stop(frontend->api);
	free(frontend);
}
