/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of the store and of the server as a whole that are asked for when the metrics are read (base/metrics.h). */
#include <inttypes.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/metrics.h"
#include "proto/rpc.pb-c.h"
#include "store/alarm.h"
#include "store/auth.h"
#include "store/watch_hub.h"

static void ask_store(struct ks_api *api)
{
	struct ks_position committed = ks_store_committed(api->store);
	struct ks_store_stats store;
	struct ks_watch_stats watches;
	struct ks_auth *auth = ks_store_auth(api->store);

	KS_SET(AUTH_REVISION, ks_auth_revision(auth));
	ks_auth_unref(auth);
	ks_store_stats(api->store, &store);
	ks_watch_hub_stats(ks_store_hub(api->store), &watches);
	KS_SET(CURRENT_REVISION, committed.revision);
	KS_SET(COMPACT_REVISION, committed.compact_revision);
	KS_SET(KEYS, store.keys);
	KS_SET(RECORDS, store.records);
	KS_SET(LEASES, store.leases);
	KS_SET(CACHE_BYTES, store.cached_bytes);
	KS_SET(WATCHERS, watches.watchers);
	KS_SET(SLOW_WATCHERS, watches.pending);
	KS_SET(WATCH_GROUPS, watches.groups);
}

static void ask_server(struct ks_api *api, struct ks_metrics_sink *sink)
{
	struct ks_cluster_status status;

	api->committer->ops->status(api->committer, &status);
	KS_SET(HAS_LEADER, status.available && status.leader_id != 0);
	KS_SET(IS_LEADER, status.leader_id == status.member_id);
	KS_SET(IS_LEARNER, 0);
	ks_metrics_sample(sink, KS_METRIC_SERVER_ID, 1, "server_id=\"%" PRIx64 "\"", status.member_id);
	ks_metrics_sample(sink, KS_METRIC_SERVER_VERSION, 1, "server_version=\"%s\"", KS_ETCD_VERSION);
	if (ks_api_loaded(api))
		ks_metrics_sample(sink, KS_METRIC_CLUSTER_VERSION, 1, "cluster_version=\"%.3s\"",
				  KS_ETCD_CLUSTER_VERSION);
}

static void ask_alarms(struct ks_api *api, struct ks_metrics_sink *sink)
{
	struct ks_alarm *alarms;
	size_t count;

	if (ks_store_alarms(api->store, &alarms, &count) != KS_OK)
		return;
	for (size_t i = 0; i < count; i++)
		ks_metrics_sample(sink, KS_METRIC_ALARMS, 1, "server_id=\"%" PRIx64 "\",alarm_type=\"%s\"",
				  alarms[i].member, ks_alarm_name(alarms[i].type));
	free(alarms);
}

static void ask(struct ks_metrics_source *source, struct ks_metrics_sink *sink)
{
	struct ks_api *api = ks_container_of(source, struct ks_api, source);

	ask_store(api);
	ask_server(api, sink);
	ask_alarms(api, sink);
}

void ks_api_gauges_start(struct ks_api *api)
{
	api->source.ask = ask;
	ks_metrics_add_source(&api->source);
}

void ks_api_gauges_stop(struct ks_api *api)
{
	ks_metrics_remove_source(&api->source);
}
