/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics, see gauges.h. */
#include "config.h"

#include "status/gauges.h"

#include <stdlib.h>

#include "base/list.h"
#include "base/metrics.h"
#include "base/panic.h"

struct dpa_gauges {
	struct ks_metrics_source source;
	struct dpa_board *board;
	struct dpa_replica *replica;
};

_Static_assert((int)KS_METRIC_LABEL_SIZE_AGENT_ALARM == (int)DPA_ALARM_COUNT, "an alarm has no label");
_Static_assert((int)KS_METRIC_LABEL_SIZE_AGENT_SOURCE == (int)DPA_SOURCE_OBJECT + 1, "a source has no label");

static void count(struct ks_metrics_sink *sink, enum ks_metric metric, uint64_t value)
{
	ks_metrics_sample(sink, metric, (double)value, "%s", "");
}

static void ask_point(struct dpa_replica *replica)
{
	struct dpa_point point;

	dpa_replica_point(replica, &point);
	KS_SET(AGENT_READY, point.loaded);
	KS_SET(AGENT_REVISION, point.revision);
	KS_SET(AGENT_UP_REVISION, point.up_revision);
	KS_SET(AGENT_OFFSET, point.revision - point.up_revision);
	KS_SET(AGENT_KEYS, point.keys);
	KS_SET(AGENT_OVERLAID, point.overlaid);
	KS_SET(AGENT_TRANSFORMED, point.transformed);
	if (point.confirmed_ms > 0)
		KS_SET(AGENT_AGE, (double)(dpa_wall_ms() - point.confirmed_ms) / 1000);
	dpa_point_fini(&point);
}

static void ask_storage(const struct dpa_status *status, struct ks_metrics_sink *sink)
{
	count(sink, KS_METRIC_AGENT_DISK_WRITES, status->disk_writes);
	count(sink, KS_METRIC_AGENT_DISK_FAILURES, status->disk_failures);
	if (status->disk_saved_ms > 0) {
		KS_SET(AGENT_DISK_REVISION, status->disk_revision);
		KS_SET(AGENT_DISK_SAVED, (double)status->disk_saved_ms / 1000);
		KS_SET(AGENT_DISK_BYTES, status->disk_bytes);
	}
	count(sink, KS_METRIC_AGENT_OBJECT_WRITES, status->object_writes);
	count(sink, KS_METRIC_AGENT_OBJECT_READS, status->object_reads);
	count(sink, KS_METRIC_AGENT_OBJECT_FAILURES, status->object_failures);
	count(sink, KS_METRIC_AGENT_OBJECT_FENCED, status->object_fenced);
	if (status->object_saved_ms > 0) {
		KS_SET(AGENT_OBJECT_REVISION, status->object_revision);
		KS_SET(AGENT_OBJECT_SAVED, (double)status->object_saved_ms / 1000);
		KS_SET(AGENT_OBJECT_BYTES, status->object_bytes);
	}
}

static void ask(struct ks_metrics_source *source, struct ks_metrics_sink *sink)
{
	const struct dpa_gauges *gauges = ks_container_of(source, struct dpa_gauges, source);
	struct dpa_status status;

	dpa_board_read(gauges->board, &status);
	ask_point(gauges->replica);
	ask_storage(&status, sink);
	ks_metrics_sample(sink, KS_METRIC_AGENT_BUILD, 1, "version=\"%s\"", PACKAGE_VERSION);
	KS_SET(AGENT_CONNECTED, status.connected);
	KS_SET(AGENT_REGISTERED, status.registered);
	KS_SET(AGENT_DISCOVERY_SERVICES, status.discovery_services);
	for (int i = 0; i < KS_METRIC_LABEL_SIZE_AGENT_SOURCE; i++)
		KS_SET_AT(AGENT_SOURCE, i, i == (int)status.source);
	for (int i = 0; i < DPA_ALARM_COUNT; i++)
		KS_SET_AT(AGENT_ALARM, i, status.alarms[i].on);
	count(sink, KS_METRIC_AGENT_RECONNECTS, status.reconnects);
	count(sink, KS_METRIC_AGENT_RESYNCS, status.resyncs);
	count(sink, KS_METRIC_AGENT_VERIFICATIONS, status.verifications);
	count(sink, KS_METRIC_AGENT_REPAIRS, status.repairs);
	count(sink, KS_METRIC_AGENT_DISCOVERY_FAILURES, status.discovery_failures);
	count(sink, KS_METRIC_AGENT_FORWARDED, status.forwarded);
	count(sink, KS_METRIC_AGENT_FORWARD_FAILURES, status.forward_failures);
}

struct dpa_gauges *dpa_gauges_start(struct dpa_board *board, struct dpa_replica *replica)
{
	struct dpa_gauges *gauges = ks_xcalloc(1, sizeof(*gauges));

	gauges->board = board;
	gauges->replica = replica;
	gauges->source.ask = ask;
	ks_metrics_add_source(&gauges->source);
	return gauges;
}

void dpa_gauges_stop(struct dpa_gauges *gauges)
{
	if (!gauges)
		return;
	ks_metrics_remove_source(&gauges->source);
	free(gauges);
}
