/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the server in the order in which they need each other; stopping goes the same way backwards. */
#include "config.h"

#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/password.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "base/thread.h"
#include "base/timer.h"
#include "frontend.h"
#include "log/log.h"
#include "notify.h"
#include "option_values.h"
#include "sqlbackends/sqlb.h"

#define DRAIN_MS 5000
#define ACTIVATION_WAIT_MS 5000
/* Spec 11.1: how long a request may wait, with two election timeouts on top. */
#define LEAST_DUTY_MS 1000 /* refreshed each third of it, which a busy database must have time for */
#define REQUEST_TIMEOUT_MS 5000

struct ks_server {
	const struct sqlb_ops *backend;
	struct sqlb_db *db;
	struct ks_timers *timers;
	struct ks_log *log;
	struct ks_frontend *frontend;
	struct ks_metrics_source source;
	int64_t quota_bytes;
	char endpoint[1024]; /* without its password */
	char urls[4096];     /* really listened on */
	/* The log and the listener: whoever is second says so. */
	struct ks_mutex lock;
	struct ks_cond changed;
	int parts_ready;
};

static void ask(struct ks_metrics_source *source, struct ks_metrics_sink *sink)
{
	const struct ks_server *server = ks_container_of(source, struct ks_server, source);

	ks_metrics_sample(sink, KS_METRIC_BUILD_INFO, 1, "version=\"%s\",etcd_version=\"%s\",database=\"%s\"",
			  PACKAGE_VERSION, KS_ETCD_VERSION, server->backend->name);
}

static void part_ready(void *ctx)
{
	struct ks_server *server = ctx;
	bool second;

	ks_mutex_lock(&server->lock);
	second = ++server->parts_ready == 2;
	ks_cond_broadcast(&server->changed);
	ks_mutex_unlock(&server->lock);
	if (!second)
		return;
	ks_diag(KS_INFO, "main", "ready to serve client requests urls=%s endpoint=%s pid=%d", server->urls,
		server->endpoint, (int)getpid());
	ks_notify_ready(server->urls);
}

/*
 * Stable over restarts, different for two instances on one database. Not 0, which means "none". Where the system chooses the
 * port, nothing else may tell two instances apart, so such an id lasts as long as the process.
 */
static uint64_t member_id(const struct ks_options *options)
{
	char host[256] = "";
	char process[32] = "";
	const char *parts[] = {options->name, options->advertise_client_urls, host, process};
	uint64_t hash = 0xcbf29ce484222325u;

	(void)gethostname(host, sizeof(host) - 1);
	if (ks_frontend_any_url_has(options->advertise_client_urls, ":0,"))
		(void)snprintf(process, sizeof(process), "%d", (int)getpid());
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		for (const char *c = parts[i]; *c; c++)
			hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
		hash = (hash ^ 0xff) * 0x100000001b3u;
	}
	hash ^= hash >> 32;
	return hash ? hash : 1;
}

static enum ks_status read_autocompact(const struct ks_options *options, struct ks_autocompact_config *config,
				       struct ks_err *err)
{
	bool odd = false;
	enum ks_status status = ks_autocompact_parse(options->auto_compaction_mode, options->auto_compaction_retention,
						     config, &odd, err);

	if (odd)
		ks_diag(KS_WARN, "main",
			"--auto-compaction-retention=%s is a duration, which revision mode takes for as many revisions "
			"as it has nanoseconds, as etcd does",
			options->auto_compaction_retention);
	return status;
}

/* As etcd: 0 is the default, and what is negative means that there is no limit. */
static enum ks_status read_quota(const struct ks_options *options, int64_t *quota, struct ks_err *err)
{
	const char *text = options->quota_backend_bytes;
	int64_t bytes;

	if (!ks_parse_bytes(text + (*text == '-'), &bytes))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "--quota-backend-bytes: \"%.60s\" is not a size such as 8GiB, or -1", text);
	if (bytes == 0)
		bytes = KS_ETCD_QUOTA_BYTES;
	*quota = *text == '-' ? -bytes : bytes;
	return KS_OK;
}

static int at_least(int value, int least)
{
	return value > least ? value : least;
}

static enum ks_status start_log(struct ks_server *server, const struct ks_options *options, struct ks_err *err)
{
	struct ks_log_config config = {
		.backend = server->backend,
		.db = server->db,
		.value_cache_bytes = (size_t)options->value_cache_bytes,
		.clock = ks_clock_system(),
		.name = options->name,
		.client_urls = options->advertise_client_urls,
		.member_id = member_id(options),
		.request_timeout_ms = REQUEST_TIMEOUT_MS + 2 * (int)options->election_timeout,
		.duty_ttl_ms = at_least(5 * (int)options->election_timeout, LEAST_DUTY_MS),
		.member_ttl_ms = at_least(10 * (int)options->election_timeout, 2 * LEAST_DUTY_MS),
		.ready = part_ready,
		.ctx = server,
	};

	if (read_autocompact(options, &config.autocompact, err) != KS_OK ||
	    read_quota(options, &config.quota_bytes, err) != KS_OK)
		return err->status;
	server->quota_bytes = config.quota_bytes;
	server->log = ks_log_start(&config, err);
	return server->log ? KS_OK : err->status;
}

/* As etcd: one and a half election timeouts, in whole heartbeats, rounded up to seconds. */
static int64_t min_lease_ttl_s(const struct ks_options *options)
{
	int64_t ticks = options->election_timeout / options->heartbeat_interval;

	return (ticks * 3 / 2 * options->heartbeat_interval + 999) / 1000;
}

/*
 * The client whose connection made systemd start us waits in the socket's queue, and has no use for "no leader". It is served once
 * the log is loaded, or when that takes too long.
 */
static void wait_for_log(void *ctx)
{
	struct ks_server *server = ctx;
	int64_t now = ks_clock_now(ks_clock_system()), end = now + ACTIVATION_WAIT_MS;

	ks_mutex_lock(&server->lock);
	for (; server->parts_ready == 0 && now < end; now = ks_clock_now(ks_clock_system()))
		(void)ks_cond_wait(&server->changed, &server->lock, end - now);
	ks_mutex_unlock(&server->lock);
}

static enum ks_status start_serving(struct ks_server *server, const struct ks_options *options, struct ks_err *err)
{
	const struct ks_frontend_config config = {
		.options = options,
		.api =
			{
				.store = ks_log_store(server->log),
				.committer = ks_log_committer(server->log),
				.timers = server->timers,
				.min_lease_ttl_s = min_lease_ttl_s(options),
				.auth_token = options->auth_token,
				.auth_token_ttl_s = options->auth_token_ttl,
				.bcrypt_cost =
					options->bcrypt_cost <= KS_BCRYPT_COST_MAX ? (int)options->bcrypt_cost : 0,
				.quota_bytes = server->quota_bytes,
			},
		.handed_over = wait_for_log,
		.handed_over_ctx = server,
	};

	server->frontend = ks_frontend_start(&config, err);
	return server->frontend ? KS_OK : err->status;
}

static enum ks_status start(struct ks_server *server, const struct ks_options *options, struct ks_err *err)
{
	enum ks_status status;

	sqlb_url_redact(options->endpoint, server->endpoint, sizeof(server->endpoint));
	ks_frontend_raise_file_limit();
	ks_frontend_check_advertised(options);
	ks_metrics_set_extensive(strcmp(options->metrics, "extensive") == 0);
	server->backend = sqlb_find(options->endpoint, err);
	if (!server->backend)
		return err->status;
	status = server->backend->open(options->endpoint, options->data_dir, &server->db, err);
	if (status != KS_OK)
		return status;
	server->source.ask = ask;
	ks_metrics_add_source(&server->source);
	server->timers = ks_timers_start(err);
	if (!server->timers)
		return err->status;
	status = start_log(server, options, err);
	return status == KS_OK ? start_serving(server, options, err) : status;
}

/* Whatever still waits for the database is not waited for: a write in doubt might wait until the database is back. */
static void quit_log(void *ctx)
{
	const struct ks_server *server = ctx;

	ks_log_quit(server->log);
}

void ks_server_stop(struct ks_server *server)
{
	ks_metrics_remove_source(&server->source);
	ks_frontend_stop(server->frontend, DRAIN_MS, quit_log, server);
	if (server->log)
		ks_log_stop(server->log);
	ks_timers_stop(server->timers);
	if (server->db)
		server->backend->close(server->db);
	ks_cond_fini(&server->changed);
	ks_mutex_fini(&server->lock);
	free(server);
}

enum ks_status ks_server_check(const struct ks_options *options, struct ks_err *err)
{
	enum ks_status status = sqlb_find(options->endpoint, err) ? KS_OK : err->status;
	struct ks_autocompact_config autocompact;
	int64_t quota;

	if (status == KS_OK)
		status = ks_frontend_check(options, err);
	if (status == KS_OK)
		status = read_autocompact(options, &autocompact, err);
	return status == KS_OK ? read_quota(options, &quota, err) : status;
}

struct ks_server *ks_server_start(const struct ks_options *options, struct ks_err *err)
{
	struct ks_server *server = ks_xcalloc(1, sizeof(*server));

	ks_mutex_init(&server->lock);
	ks_cond_init(&server->changed);
	if (start(server, options, err) != KS_OK) {
		ks_server_stop(server);
		return NULL;
	}
	/* A copy, because the log's thread may be the one to print it, at any time until it is stopped. */
	(void)snprintf(server->urls, sizeof(server->urls), "%s", ks_frontend_urls(server->frontend));
	ks_notify_waiting("the database");
	part_ready(server);
	return server;
}
