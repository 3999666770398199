/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the agent, wired; see agent.h. */
#include "config.h"

#include "agent.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "base/timer.h"
#include "connect.h"
#include "discovery/discovery.h"
#include "frontend.h"
#include "mirror/board.h"
#include "mirror/committer.h"
#include "mirror/replica.h"
#include "mirror/upstream.h"
#include "node.h"
#include "notify.h"
#include "object.h"
#include "overlay.h"
#include "snapshot/disk.h"
#include "snapshot/saver.h"
#include "status/gauges.h"
#include "status/page.h"
#include "status/registry.h"

#define DRAIN_MS 5000
/* What clients see of the process: parts of kineshim that are not here. */
static const char *const absent_metrics[] = {
	"kineshim_build_info",
	"kineshim_log_",
	"kineshim_db_",
	"kineshim_trim_",
	"kineshim_housekeeper",
	"kineshim_instances",
	"kineshim_auth_",
	"kineshim_value_cache_",
	"etcd_disk_",
	"etcd_snap_",
	NULL,
};

struct dpa_agent {
	const struct ks_options *options;
	char id[DPA_NODE_ID_MAX];
	bool backup;
	struct ks_timers *timers;
	struct dpa_board *board;
	struct dpa_signer *signer;     /* NULL: nothing is signed */
	struct dpa_verifier *verifier; /* NULL: signatures do not matter */
	struct dpa_disk *disk;
	struct dpa_discovery *discovery; /* NULL: none, as with the next ones */
	struct dpa_overlay *overlay;
	struct dpa_replica *replica;
	/* Signalled under the replica's lock, from any thread: set when there is somebody to signal. */
	struct dpa_saver *_Atomic saver;
	struct dpa_object *_Atomic object; /* NULL: no object storage */
	struct etcdc *client;
	struct dpa_upstream *upstream;
	struct ks_committer *committer;
	struct ks_frontend *frontend;
	struct dpa_page *page;
	struct dpa_gauges *gauges;
	struct dpa_registry *registry;
};

/* ---- what is saved and loaded ---- */

/* The replica's call-back. */
static void changed(void *ctx)
{
	struct dpa_agent *agent = ctx;
	struct dpa_saver *saver = agent->saver;

	if (saver)
		dpa_saver_changed(saver);
	dpa_object_changed(agent->object);
}

static enum ks_status read_keys(const struct ks_options *options, struct dpa_signer **signer,
				struct dpa_verifier **verifier, struct ks_err *err)
{
	if (*options->sign_key) {
		*signer = dpa_signer_read(options->sign_key, err);
		if (!*signer)
			return err->status;
	}
	if (*options->verify_key) {
		*verifier = dpa_verifier_read(options->verify_key, err);
		if (!*verifier)
			return err->status;
	}
	return KS_OK;
}

static enum ks_status open_disk(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_disk_config config = {
		.dir = agent->options->data_dir,
		.signer = agent->signer,
		.verifier = agent->verifier,
	};

	agent->disk = dpa_disk_open(&config, err);
	return agent->disk ? KS_OK : err->status;
}

static enum ks_status make_replica(struct dpa_agent *agent, struct ks_err *err)
{
	const struct ks_options *options = agent->options;
	struct dpa_replica_config config = {
		.prefix = options->prefix,
		.history_events = (size_t)options->history_events,
		.reports_prefix = options->register_prefix,
		.own_changes = *options->overlay || *options->discovery,
		.changed = changed,
		.changed_ctx = agent,
	};

	if (*options->discovery) {
		agent->discovery = dpa_discovery_new(options->discovery, options->data_dir, agent->board, err);
		if (!agent->discovery)
			return err->status;
		config.transform = dpa_discovery_transform;
		config.transform_ctx = agent->discovery;
	}
	agent->replica = dpa_replica_new(&config, err);
	return agent->replica ? KS_OK : err->status;
}

/* Before the disk: keys that the overlay of the last start has altered, and this one alters in the same way, stay as clients know them. */
static enum ks_status start_overlay(struct dpa_agent *agent, struct ks_err *err)
{
	if (*agent->options->overlay)
		agent->overlay = dpa_overlay_start(agent->options->overlay, agent->replica, agent->board, err);
	return agent->overlay || !*agent->options->overlay ? KS_OK : err->status;
}

/* What is on disk is never needed: whatever is wrong with it is said, and upstream asked. */
static void load_disk(struct dpa_agent *agent)
{
	struct dpa_image image = {0};
	char fault[256] = "";
	struct ks_err err = {0};
	enum ks_status status = dpa_disk_load(agent->disk, &image, fault, sizeof(fault), &err);

	if (status == KS_OK) {
		status = dpa_replica_load(agent->replica, &image, &err);
		if (status == KS_OK)
			dpa_board_source(agent->board, DPA_SOURCE_DISK);
	}
	if (status != KS_OK && status != KS_NOT_FOUND && !*fault)
		(void)snprintf(fault, sizeof(fault), "%s", err.text);
	dpa_board_alarm(agent->board, DPA_ALARM_DISK_INVALID, *fault ? fault : NULL);
	dpa_image_fini(&image);
	(void)malloc_trim(0); /* with 100,000 keys that is a third of all memory */
}

static enum ks_status start_saver(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_saver_config config = {
		.disk = agent->disk,
		.replica = agent->replica,
		.board = agent->board,
		.interval_ms = agent->options->snapshot_interval,
	};

	agent->saver = dpa_saver_start(&config, err);
	return agent->saver ? KS_OK : err->status;
}

static enum ks_status start_discovery(struct dpa_agent *agent, struct ks_err *err)
{
	return agent->discovery ? dpa_discovery_start(agent->discovery, agent->replica, err) : KS_OK;
}

/* ---- upstream and object storage ---- */

static enum ks_status start_upstream(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_upstream_config config = {
		.client = agent->client,
		.replica = agent->replica,
		.board = agent->board,
		.accept_empty = agent->options->accept_empty,
		.verify_interval_ms = agent->options->verify_interval,
	};

	agent->upstream = dpa_upstream_start(&config, err);
	return agent->upstream ? KS_OK : err->status;
}

static enum ks_status start_sources(struct dpa_agent *agent, struct ks_err *err)
{
	struct dpa_object *object;
	bool there;

	if (dpa_object_start(agent->options, agent->replica, agent->board, agent->signer, agent->verifier, &object,
			     err) != KS_OK)
		return err->status;
	agent->object = object;
	agent->client = dpa_connect(agent->options, err);
	if (!agent->client)
		return err->status;
	if (start_upstream(agent, err) != KS_OK)
		return err->status;
	there = dpa_upstream_wait(agent->upstream, agent->options->start_timeout);
	/* So long, too, for storage that may not answer either. */
	if (!there)
		(void)dpa_object_look(object, agent->options->start_timeout);
	if (!there)
		ks_diag(KS_WARN, "main", "upstream did not answer in time; serving what is here, and trying on");
	return KS_OK;
}

/* ---- clients ---- */

static bool plain(void *ctx, struct ks_http_request *request)
{
	return dpa_page_serve(ctx, request);
}

static enum ks_status start_committer(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_committer_config config = {
		.replica = agent->replica,
		.board = agent->board,
		.client = agent->options->forward_writes ? agent->client : NULL,
		.strip = agent->discovery ? dpa_discovery_strip : NULL,
		.member_id = dpa_node_member(agent->id),
		.name = agent->options->name,
		.client_urls = agent->options->advertise_client_urls,
	};

	agent->committer = dpa_committer_start(&config, err);
	return agent->committer ? KS_OK : err->status;
}

static enum ks_status start_page(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_page_config config = {
		.board = agent->board,
		.replica = agent->replica,
		.upstream = agent->upstream,
		.overlay = agent->overlay,
		.discovery = agent->discovery,
		.id = agent->id,
		.role = agent->options->role,
		.urls = agent->options->advertise_client_urls,
	};

	agent->page = dpa_page_new(&config);
	agent->gauges = dpa_gauges_start(agent->board, agent->replica);
	(void)err;
	return KS_OK;
}

static enum ks_status start_serving(struct dpa_agent *agent, struct ks_err *err)
{
	const struct ks_frontend_config config = {
		.options = agent->options,
		.api =
			{
				.store = dpa_replica_store(agent->replica),
				.committer = agent->committer,
				.timers = agent->timers,
				.min_lease_ttl_s = KS_ETCD_MIN_LEASE_TTL_S,
			},
		.no_clients = agent->backup && !agent->options->serve,
		.plain = plain,
		.plain_ctx = agent->page,
	};

	agent->frontend = ks_frontend_start(&config, err);
	return agent->frontend ? KS_OK : err->status;
}

static enum ks_status start_registry(struct dpa_agent *agent, struct ks_err *err)
{
	const struct dpa_registry_config config = {
		.client = agent->client,
		.replica = agent->replica,
		.board = agent->board,
		.prefix = agent->options->register_prefix,
		.id = agent->id,
		.role = agent->options->role,
		.urls = agent->options->advertise_client_urls,
	};

	if (!agent->options->register_node)
		return KS_OK;
	agent->registry = dpa_registry_start(&config, err);
	return agent->registry ? KS_OK : err->status;
}

/* ---- start and stop ---- */

static enum ks_status start(struct dpa_agent *agent, struct ks_err *err)
{
	static enum ks_status (*const steps[])(struct dpa_agent * agent, struct ks_err * err) = {
		open_disk,     make_replica,    start_overlay, start_saver,   start_discovery,
		start_sources, start_committer, start_page,    start_serving, start_registry,
	};
	enum ks_status status;

	ks_frontend_raise_file_limit();
	ks_metrics_set_extensive(strcmp(agent->options->metrics, "extensive") == 0);
	ks_metrics_leave_out(absent_metrics);
	agent->board = dpa_board_new();
	agent->timers = ks_timers_start(err);
	if (!agent->timers)
		return err->status;
	status = read_keys(agent->options, &agent->signer, &agent->verifier, err);
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps) && status == KS_OK; i++) {
		status = steps[i](agent, err);
		if (steps[i] == start_overlay && status == KS_OK)
			load_disk(agent);
		if (steps[i] == open_disk && status == KS_OK) /* the folder is there now, and with it its path */
			dpa_node_id(agent->options, agent->id);
	}
	return status;
}

struct dpa_agent *dpa_agent_start(const struct ks_options *options, struct ks_err *err)
{
	struct dpa_agent *agent = ks_xcalloc(1, sizeof(*agent));
	struct dpa_status status;

	agent->options = options;
	agent->backup = strcmp(options->role, "backup") == 0;
	if (start(agent, err) != KS_OK) {
		dpa_agent_stop(agent);
		return NULL;
	}
	dpa_board_read(agent->board, &status);
	ks_diag(KS_INFO, "main", "ready to serve client requests urls=%s source=%s id=%s pid=%d",
		ks_frontend_urls(agent->frontend), dpa_source_name(status.source), agent->id, (int)getpid());
	ks_notify_ready(ks_frontend_urls(agent->frontend));
	return agent;
}

void dpa_agent_stop(struct dpa_agent *agent)
{
	if (!agent)
		return;
	dpa_registry_stop(agent->registry);
	ks_frontend_stop(agent->frontend, DRAIN_MS, NULL, NULL);
	dpa_gauges_stop(agent->gauges);
	dpa_page_free(agent->page);
	dpa_committer_stop(agent->committer);
	dpa_upstream_stop(agent->upstream);
	dpa_overlay_stop(agent->overlay);
	if (agent->discovery)
		dpa_discovery_stop(agent->discovery);
	dpa_object_stop(agent->object);
	/* Nothing changes any more: the last image is the final one. */
	dpa_saver_stop(agent->saver);
	etcdc_close(agent->client);
	dpa_replica_free(agent->replica);
	dpa_discovery_free(agent->discovery);
	if (agent->disk)
		dpa_disk_close(agent->disk);
	dpa_signer_free(agent->signer);
	dpa_verifier_free(agent->verifier);
	ks_timers_stop(agent->timers);
	dpa_board_free(agent->board);
	free(agent);
}

enum ks_status dpa_agent_check(const struct ks_options *options, struct ks_err *err)
{
	struct dpa_signer *signer = NULL;
	struct dpa_verifier *verifier = NULL;
	enum ks_status status = ks_frontend_check(options, err);

	if (status == KS_OK)
		status = read_keys(options, &signer, &verifier, err);
	if (status == KS_OK) {
		struct etcdc *client = dpa_connect(options, err);

		status = client ? KS_OK : err->status;
		etcdc_close(client);
	}
	dpa_signer_free(signer);
	dpa_verifier_free(verifier);
	return status;
}
