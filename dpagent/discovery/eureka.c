/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eureka: one request for all applications each interval, as its own clients do; an application of its own answers 404 for "not
 * there", which a wrong path does as well, and that must not empty a service.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "discovery/answers.h"
#include "discovery/discovery_priv.h"

static void fail_all(struct dpa_discovery *discovery, const char *where, const char *what)
{
	size_t count;
	struct dpa_service **services = dpa_services_wanted(discovery, DPA_EUREKA, &count);

	for (size_t i = 0; i < count; i++)
		dpa_service_failed(services[i], where, what);
	free(services);
}

static void answer_all(struct dpa_discovery *discovery, const char *where, const json_t *apps)
{
	size_t count;
	struct dpa_service **services = dpa_services_wanted(discovery, DPA_EUREKA, &count);

	for (size_t i = 0; i < count; i++) {
		struct dpa_nodes nodes = {0};
		struct ks_err err;

		/* Asked for all: what is wanted from now on waits for the next. */
		services[i]->poll.due_ms = INT64_MAX;
		if (dpa_eureka_answer(apps, services[i]->name, discovery->config.eureka.weight, &nodes, &err) == KS_OK)
			dpa_service_answered(services[i], &nodes);
		else
			dpa_service_failed(services[i], where, err.text);
	}
	free(services);
}

static void done(void *ctx, const struct dpa_http_answer *answer)
{
	struct dpa_discovery *discovery = ctx;
	const struct dpa_http_config *config = &discovery->config.eureka;
	const char *where = config->servers[discovery->eureka.server].label;
	char room[64];
	const char *fault = dpa_http_fault(answer, room, sizeof(room));
	struct ks_err err;
	json_t *apps = NULL;

	discovery->eureka.busy = false;
	discovery->eureka.transfer = NULL;
	if (!fault && dpa_eureka_apps(answer->body, &apps, &err) != KS_OK)
		fault = err.text;
	if (fault) {
		if (dpa_poll_failed(&discovery->eureka, config->server_count))
			fail_all(discovery, where, fault);
		return;
	}
	dpa_poll_succeeded(&discovery->eureka, config->interval_ms);
	answer_all(discovery, where, apps);
	json_decref(apps);
}

void dpa_eureka_ask(struct dpa_discovery *discovery)
{
	const struct dpa_http_config *config = &discovery->config.eureka;
	char *path = NULL;

	KS_ASSERT(asprintf(&path, "%sapps", config->prefix) > 0);
	discovery->eureka.busy = true;
	discovery->eureka.transfer = dpa_fetch_start(discovery->http,
						     &(struct dpa_http_request){
							     .config = config,
							     .server = &config->servers[discovery->eureka.server],
							     .basic = true,
							     .path = path,
						     },
						     done, discovery);
	free(path);
	if (!discovery->eureka.transfer)
		done(discovery, &(struct dpa_http_answer){.error = "out of memory"});
}

void dpa_eureka_stop(struct dpa_discovery *discovery)
{
	dpa_fetch_cancel(discovery->http, discovery->eureka.transfer);
	discovery->eureka.transfer = NULL;
	discovery->eureka.busy = false;
}
