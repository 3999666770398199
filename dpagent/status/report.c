/* SPDX-License-Identifier: Apache-2.0 */
/* The state as JSON, see report.h. */
#include "status/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

json_t *dpa_report_time(int64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	char text[40];
	struct tm parts;

	if (ms <= 0 || !gmtime_r(&seconds, &parts) || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
		return json_null();
	return json_string(text);
}

/* Seconds since then; null when that never was. A clock that was set back does not make it negative. */
static json_t *age_of(int64_t ms)
{
	int64_t age = dpa_wall_ms() - ms;

	return ms > 0 ? json_real((double)(age > 0 ? age : 0) / 1000) : json_null();
}

json_t *dpa_report_short(const struct dpa_status *status, const struct dpa_point *point)
{
	return json_pack("{s:b, s:s, s:b, s:o, s:o, s:I, s:I}", "ready", point->loaded, "source",
			 dpa_source_name(status->source), "connected", status->connected, "age_seconds",
			 age_of(point->confirmed_ms), "confirmed_at", dpa_report_time(point->confirmed_ms), "revision",
			 (json_int_t)point->revision, "upstream_revision", (json_int_t)point->up_revision);
}

static json_t *alarms_of(const struct dpa_status *status)
{
	json_t *list = json_array();

	for (int i = 0; i < DPA_ALARM_COUNT; i++)
		if (status->alarms[i].on)
			(void)json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "name",
								    dpa_alarm_name((enum dpa_alarm)i), "since",
								    dpa_report_time(status->alarms[i].since_ms), "text",
								    dpa_json_text(status->alarms[i].text)));
	return list;
}

static json_t *upstream_of(const struct dpa_status *status, const struct dpa_point *point)
{
	char cluster[20] = "";

	if (point->cluster_id != 0)
		(void)snprintf(cluster, sizeof(cluster), "%" PRIx64, point->cluster_id);
	return json_pack("{s:o, s:o, s:o, s:s, s:I, s:I, s:I, s:I}", "endpoint", dpa_json_text(status->endpoint),
			 "connected_since",
			 status->connected ? dpa_report_time(status->connected_since_ms) : json_null(), "error",
			 dpa_json_text(status->upstream_error), "cluster_id", cluster, "reconnects",
			 (json_int_t)status->reconnects, "resyncs", (json_int_t)status->resyncs, "verifications",
			 (json_int_t)status->verifications, "repairs", (json_int_t)status->repairs);
}

static json_t *disk_of(const struct dpa_status *status)
{
	return json_pack("{s:o, s:I, s:I, s:I, s:I}", "saved_at", dpa_report_time(status->disk_saved_ms), "revision",
			 (json_int_t)status->disk_revision, "bytes", (json_int_t)status->disk_bytes, "writes",
			 (json_int_t)status->disk_writes, "failures", (json_int_t)status->disk_failures);
}

static json_t *object_of(const struct dpa_status *status)
{
	return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "object", dpa_json_text(status->object),
			 "saved_at", dpa_report_time(status->object_saved_ms), "upstream_revision",
			 (json_int_t)status->object_revision, "bytes", (json_int_t)status->object_bytes, "writes",
			 (json_int_t)status->object_writes, "reads", (json_int_t)status->object_reads, "failures",
			 (json_int_t)status->object_failures, "fenced", (json_int_t)status->object_fenced);
}

json_t *dpa_report_full(const struct dpa_status *status, const struct dpa_point *point)
{
	json_t *report = dpa_report_short(status, point);
	json_t *more = json_pack(
		"{s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:b, s:I, s:I, s:{s:o, s:o, s:I}, s:{s:I, s:I, s:I}}",
		"source_since", dpa_report_time(status->source_since_ms), "offset",
		(json_int_t)(point->revision - point->up_revision), "keys", (json_int_t)point->keys, "upstream",
		upstream_of(status, point), "alarms", alarms_of(status), "snapshot", disk_of(status), "object_storage",
		object_of(status), "registered", status->registered, "forwarded", (json_int_t)status->forwarded,
		"forward_failures", (json_int_t)status->forward_failures, "overlay", "file",
		dpa_json_text(status->overlay_file), "loaded_at", dpa_report_time(status->overlay_loaded_ms), "keys",
		(json_int_t)point->overlaid, "discovery", "services", (json_int_t)status->discovery_services, "keys",
		(json_int_t)point->transformed, "failures", (json_int_t)status->discovery_failures);

	if (!report || !more || json_object_update(report, more) != 0) {
		json_decref(report);
		report = NULL;
	}
	json_decref(more);
	return report;
}
