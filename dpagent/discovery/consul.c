/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consul: a blocking query for each service, so a change is here at once. A few of them at a time only: agents limit connections
 * (200 of one address by default); services beyond that are asked again and again instead.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "discovery/answers.h"
#include "discovery/discovery_priv.h"

#define BLOCKING_MAX 100
/* A service that changes all the time is not asked more often than this. */
#define GAP_MS 50

static void end_query(struct dpa_service *service)
{
	if (service->blocking)
		service->discovery->blocking--;
	service->blocking = false;
	service->poll.busy = false;
	service->poll.transfer = NULL;
}

static bool may_block(const struct dpa_service *service)
{
	return service->discovery->config.consul.keepalive && service->index &&
	       service->discovery->blocking < BLOCKING_MAX;
}

static void done(void *ctx, const struct dpa_http_answer *answer)
{
	struct dpa_service *service = ctx;
	const struct dpa_consul_config *config = &service->discovery->config.consul;
	const struct dpa_server *server = &config->http.servers[service->poll.server];
	struct dpa_nodes nodes = {0};
	struct ks_err err;
	char room[64];
	const char *fault = dpa_http_fault(answer, room, sizeof(room));
	bool went_back; /* the index: a restored or a new cluster, to be asked from the beginning */

	end_query(service);
	if (!fault && dpa_consul_answer(answer->body, config->http.weight, &nodes, &err) != KS_OK)
		fault = err.text;
	if (fault) {
		service->index = 0;
		if (dpa_poll_failed(&service->poll, config->http.server_count))
			dpa_service_failed(service, server->label, fault);
		return;
	}
	if (nodes.count == 0 && config->default_host)
		(void)dpa_nodes_add(&nodes, config->default_host, config->default_port, config->default_weight, 0);
	went_back = answer->consul_index && answer->consul_index < service->index;
	/* 0, which no query may wait behind, comes of a server that does not block. */
	service->index = went_back ? 0 : answer->consul_index;
	dpa_poll_succeeded(&service->poll, went_back || may_block(service) ? GAP_MS : config->http.interval_ms);
	dpa_service_answered(service, &nodes);
}

static char *path_of(const struct dpa_service *service)
{
	int64_t wait_ms = service->discovery->config.consul.wait_ms;
	char *name = dpa_http_escape(service->name), *path = NULL;

	if (service->blocking)
		KS_ASSERT(asprintf(&path, "/v1/health/service/%s?passing=1&index=%" PRIu64 "&wait=%" PRId64 "s", name,
				   service->index, wait_ms / 1000) > 0);
	else
		KS_ASSERT(asprintf(&path, "/v1/health/service/%s?passing=1", name) > 0);
	free(name);
	return path;
}

void dpa_consul_ask(struct dpa_service *service)
{
	struct dpa_discovery *discovery = service->discovery;
	const struct dpa_consul_config *config = &discovery->config.consul;
	struct dpa_http_request request = {.config = &config->http, .basic = true};
	char *path, *token = NULL;

	service->blocking = may_block(service);
	discovery->blocking += service->blocking;
	service->poll.busy = true;
	path = path_of(service);
	if (config->token)
		KS_ASSERT(asprintf(&token, "X-Consul-Token: %s", config->token) > 0);
	request.server = &config->http.servers[service->poll.server];
	request.path = path;
	request.header = token;
	/* The server waits up to a sixteenth longer, so that not all end at once. */
	request.wait_ms = service->blocking ? config->wait_ms + config->wait_ms / 16 : 0;
	service->poll.transfer = dpa_fetch_start(discovery->http, &request, done, service);
	if (!service->poll.transfer)
		done(service, &(struct dpa_http_answer){.error = "out of memory"});
	if (token)
		explicit_bzero(token, strlen(token));
	free(token);
	free(path);
}

void dpa_consul_stop(struct dpa_service *service)
{
	dpa_fetch_cancel(service->discovery->http, service->poll.transfer);
	end_query(service);
	service->index = 0;
}
