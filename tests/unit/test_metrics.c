/* SPDX-License-Identifier: Apache-2.0 */
/* base/metrics.h: what is counted comes out, from any number of threads, in each of the three forms of text. */
#include "base/metrics_priv.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/lib/tap.h"

static char *render(enum ks_metrics_format format)
{
	struct ks_buf buf;
	size_t size;
	char *text;

	ks_buf_init(&buf, 16 << 20);
	ks_metrics_render(&buf, format);
	ks_buf_append(&buf, "", 1);
	CU_ASSERT_FALSE_FATAL(buf.failed);
	text = (char *)ks_buf_take(&buf, &size);
	CU_ASSERT_EQUAL(strlen(text), size - 1);
	return text;
}

static bool has(const char *text, const char *wanted)
{
	bool found = strstr(text, wanted) != NULL;

	if (!found)
		fprintf(stderr, "# missing: %s\n", wanted);
	return found;
}

/* Does it render this line? */
static bool renders(enum ks_metrics_format format, const char *wanted)
{
	char *text = render(format);
	bool found = has(text, wanted);

	free(text);
	return found;
}

static void counters_and_gauges_come_out(void)
{
	KS_COUNT(PUTS, 3);
	KS_COUNT(PUTS, 4);
	KS_COUNT_AT(APPENDS, 1, 5);
	KS_SET(QUOTA, 2147483648);
	KS_COUNT(WATCHERS, 10);
	KS_COUNT(WATCHERS, -3);
	KS_SET(LOG_LAG_TIME, 0.25);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_PUTS, 0), 7);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_APPENDS, 1), 5);
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS,
			  "\n# HELP etcd_mvcc_put_total Total number of puts seen by this member.\n"
			  "# TYPE etcd_mvcc_put_total counter\netcd_mvcc_put_total 7\n"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\nkineshim_log_appends_total{outcome=\"ok\"} 0\n"
						 "kineshim_log_appends_total{outcome=\"conflict\"} 5\n"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\netcd_server_quota_backend_bytes 2147483648\n"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\netcd_debugging_mvcc_watcher_total 7\n"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\nkineshim_log_tail_lag_seconds 0.25\n"));
}

static void buckets_are_cumulative_and_bounds_belong_to_them(void)
{
	KS_OBSERVE(WAL_FSYNC, 0);
	KS_OBSERVE(WAL_FSYNC, -5); /* a clock that went back */
	KS_OBSERVE(WAL_FSYNC, 1000000);
	KS_OBSERVE(WAL_FSYNC, 1000001);
	KS_OBSERVE(WAL_FSYNC, 8192000000);
	KS_OBSERVE(WAL_FSYNC, 8192000001);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_WAL_FSYNC, 0), 6);
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\netcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 3\n"
						 "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 4\n"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\netcd_disk_wal_fsync_duration_seconds_bucket{le=\"4.096\"} 4\n"
						 "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 5\n"
						 "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 6\n"
						 "etcd_disk_wal_fsync_duration_seconds_sum 16.386000002\n"
						 "etcd_disk_wal_fsync_duration_seconds_count 6\n"));
}

static void series_of_a_used_row_appear_with_their_first_count(void)
{
	char *before = render(KS_METRICS_PROMETHEUS);

	CU_ASSERT_PTR_NULL(strstr(before, "etcd_server_apply_duration_seconds"));
	CU_ASSERT_PTR_NULL(strstr(before, "etcd_server_client_requests_total"));
	free(before);
	KS_OBSERVE_AT(APPLY, 2 * KS_METRIC_LABEL_SIZE_SUCCESS + 1, 150000);
	KS_COUNT_AT(CLIENT_REQUESTS, KS_METRIC_LABEL_SIZE_CLIENT + 6, 1);
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "# TYPE etcd_server_apply_duration_seconds histogram\n"
						 "etcd_server_apply_duration_seconds_bucket"
						 "{version=\"v3\",op=\"Txn\",success=\"true\",le=\"0.0001\"} 0\n"));
	CU_ASSERT(!renders(KS_METRICS_PROMETHEUS, "etcd_server_healthcheck{"));
	KS_SET_AT(HEALTHCHECK, 1, 0); /* failed, which is not the same as never asked */
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS,
			  "# TYPE etcd_server_healthcheck gauge\n"
			  "etcd_server_healthcheck{type=\"readyz\",name=\"data_corruption\"} 0\n#"));
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS,
			  "# TYPE etcd_server_client_requests_total counter\n"
			  "etcd_server_client_requests_total{type=\"stream\",client_api_version=\"3.5\"} 1\n#"));
}

static void methods_are_there_before_they_are_called(void)
{
	static const struct ks_metrics_method methods[] = {{"/etcdserverpb.KV/Range", "unary"},
							   {"/etcdserverpb.Watch/Watch", "bidi_stream"}};
	char *text;

	ks_metrics_name_methods(methods, 2);
	KS_COUNT_AT(GRPC_HANDLED, KS_METRIC_LABEL_SIZE_CODE + 1, 2);
	text = render(KS_METRICS_PROMETHEUS);
	CU_ASSERT(has(text, "\ngrpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\","
			    "grpc_type=\"unary\"} 0\n"));
	CU_ASSERT(has(text, "\ngrpc_server_handled_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\","
			    "grpc_type=\"bidi_stream\",grpc_code=\"Canceled\"} 2\n"));
	CU_ASSERT_PTR_NULL(strstr(text, "grpc_server_handling_seconds"));
	CU_ASSERT_PTR_NULL(strstr(text, "grpc_method=\"\""));
	free(text);
	ks_metrics_set_extensive(true);
	KS_OBSERVE_AT(GRPC_HANDLING, 1, 6000000);
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS,
			  "\ngrpc_server_handling_seconds_bucket{grpc_method=\"Watch\","
			  "grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\",le=\"0.01\"} 1\n"));
	ks_metrics_set_extensive(false);
}

static void ask(struct ks_metrics_source *source, struct ks_metrics_sink *sink)
{
	char name[16];

	(void)source;
	KS_SET(CACHE_BYTES, ks_metrics_value(KS_METRIC_CACHE_BYTES, 0) + 1);
	ks_metrics_quote("a\"b\\c\nd tail", name, sizeof(name));
	ks_metrics_sample(sink, KS_METRIC_SERVER_VERSION, 1, "server_version=\"%s\"", name);
	ks_metrics_sample(sink, KS_METRIC_CPU_SECONDS, 2.5, "%s", "");
	for (int i = 0; i < 1000; i++) /* too many are dropped, too long ones as well */
		ks_metrics_sample(sink, KS_METRIC_SERVER_ID, 1, "server_id=\"%*d\"", i < 2 ? 300 : 4, i);
}

static void sources_are_asked_until_they_are_removed(void)
{
	struct ks_metrics_source source = {.ask = ask};
	char *text;

	ks_metrics_add_source(&source);
	text = render(KS_METRICS_PROMETHEUS);
	CU_ASSERT(has(text, "\nkineshim_value_cache_bytes 1\n"));
	CU_ASSERT(has(text, "\netcd_server_version{server_version=\"a\\\"b\\\\c\\nd ta\"} 1\n"));
	CU_ASSERT(has(text, "\nprocess_cpu_seconds_total 2.5\n"));
	CU_ASSERT(has(text, "\netcd_server_id{server_id=\"   2\"} 1\n"));
	free(text);
	ks_metrics_remove_source(&source);
	ks_metrics_remove_source(&source);
	CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\nkineshim_value_cache_bytes 1\n"));
}

static void the_process_is_measured(void)
{
	char *text = render(KS_METRICS_PROMETHEUS);
	const char *resident = strstr(text, "\nprocess_resident_memory_bytes ");
	const char *start = strstr(text, "\nprocess_start_time_seconds ");

	CU_ASSERT_FATAL(resident && start);
	CU_ASSERT(strtod(strchr(resident, ' '), NULL) > 100000);
	CU_ASSERT(strtod(strchr(start, ' '), NULL) > 1e9);
	CU_ASSERT(ks_metrics_value(KS_METRIC_OPEN_FDS, 0) >= 3);
	CU_ASSERT(ks_metrics_value(KS_METRIC_THREADS, 0) >= 1);
	free(text);
}

static void openmetrics_has_its_own_rules(void)
{
	char *text = render(KS_METRICS_OPENMETRICS);

	CU_ASSERT(has(text, "# TYPE etcd_mvcc_put counter\netcd_mvcc_put_total "));
	CU_ASSERT(has(text, "# TYPE etcd_server_health_success unknown\netcd_server_health_success 0\n"));
	CU_ASSERT(has(text, "# TYPE etcd_debugging_mvcc_keys_total gauge\netcd_debugging_mvcc_keys_total 0\n"));
	CU_ASSERT(has(text, "{le=\"1.0\"} "));
	CU_ASSERT(has(text, "{le=\"0.001\"} "));
	CU_ASSERT_STRING_EQUAL(text + strlen(text) - 6, "# EOF\n");
	free(text);
}

static void json_is_quoted(void)
{
	char *text = render(KS_METRICS_JSON);

	CU_ASSERT_EQUAL(*text, '{');
	CU_ASSERT(has(text, "\n\"kineshim_log_appends_total{outcome=\\\"ok\\\"}\": 0,\n"));
	CU_ASSERT_STRING_EQUAL(text + strlen(text) - 2, "\n}");
	CU_ASSERT_PTR_NULL(strstr(text, ",\n}"));
	free(text);
}

static void the_accept_header_chooses(void)
{
	static const struct {
		const char *accept;
		enum ks_metrics_format format;
	} cases[] = {
		{NULL, KS_METRICS_PROMETHEUS},
		{"", KS_METRICS_PROMETHEUS},
		{"*/*", KS_METRICS_PROMETHEUS},
		{",,;q=,", KS_METRICS_PROMETHEUS},
		{"text/plain", KS_METRICS_PROMETHEUS},
		{"application/openmetrics-text", KS_METRICS_OPENMETRICS},
		{"application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
		 "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
		 KS_METRICS_OPENMETRICS},
		{"application/openmetrics-text;version=0.0.1", KS_METRICS_PROMETHEUS},
		{"text/plain;q=0.9, application/openmetrics-text; version=1.0.0; q=0.8", KS_METRICS_PROMETHEUS},
		{"text/html , application/openmetrics-text; version=1.0.0", KS_METRICS_OPENMETRICS},
		{"application/openmetrics-text;q=0", KS_METRICS_PROMETHEUS},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		CU_ASSERT_EQUAL(ks_metrics_negotiate(cases[i].accept), cases[i].format);
}

/* Every label has all its texts, bounds rise, and no two rows have one name. */
static void the_table_is_whole(void)
{
	for (size_t i = 0; i < KS_METRIC_ROWS; i++) {
		const struct ks_metrics_row *row = &ks_metrics_rows[i];

		CU_ASSERT(strlen(row->help) > 5 && !strpbrk(row->help, "\\\n"));
		CU_ASSERT_EQUAL(strspn(row->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(row->name));
		CU_ASSERT_EQUAL(row->type == KS_METRIC_HISTOGRAM, row->buckets != KS_METRIC_BUCKETS_NONE);
		for (size_t j = 0; j < i; j++)
			CU_ASSERT_STRING_NOT_EQUAL(row->name, ks_metrics_rows[j].name);
	}
	for (size_t i = 1; i < KS_METRIC_BUCKETS_COUNT; i++)
		for (size_t j = 1; j < ks_metrics_bounds[i].count; j++)
			CU_ASSERT(ks_metrics_bounds[i].bounds[j] > ks_metrics_bounds[i].bounds[j - 1]);
#define LABEL(name, size, ...) \
	CU_ASSERT_EQUAL(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (size) == 80 ? 1 : (size));
	KS_METRIC_LABELS(LABEL)
#undef LABEL
}

#define ROUNDS 20000

static void *count_a_lot(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		KS_COUNT(RANGES, 1);
		KS_OBSERVE(HASH_DURATION, 1 + i);
	}
	return arg;
}

/* More threads than shards, some after others, one reading meanwhile: nothing is lost. */
static void threads_lose_nothing(void)
{
	enum { MANY = KS_METRICS_SHARDS + 7 };
	pthread_t threads[MANY];

	for (int turn = 0; turn < 2; turn++) {
		for (int i = 0; i < MANY; i++)
			CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, count_a_lot, NULL), 0);
		CU_ASSERT(renders(KS_METRICS_PROMETHEUS, "\n# TYPE etcd_mvcc_range_total counter\n"));
		for (int i = 0; i < MANY; i++)
			CU_ASSERT_EQUAL(pthread_join(threads[i], NULL), 0);
	}
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_RANGES, 0), 2.0 * MANY * ROUNDS);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_HASH_DURATION, 0), 2.0 * MANY * ROUNDS);
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"counters_and_gauges_come_out", counters_and_gauges_come_out},
		{"buckets_are_cumulative_and_bounds_belong_to_them", buckets_are_cumulative_and_bounds_belong_to_them},
		{"series_of_a_used_row_appear_with_their_first_count",
		 series_of_a_used_row_appear_with_their_first_count},
		{"methods_are_there_before_they_are_called", methods_are_there_before_they_are_called},
		{"sources_are_asked_until_they_are_removed", sources_are_asked_until_they_are_removed},
		{"the_process_is_measured", the_process_is_measured},
		{"openmetrics_has_its_own_rules", openmetrics_has_its_own_rules},
		{"json_is_quoted", json_is_quoted},
		{"the_accept_header_chooses", the_accept_header_chooses},
		{"the_table_is_whole", the_table_is_whole},
		{"threads_lose_nothing", threads_lose_nothing},
		{NULL, NULL},
	};

	return tap_run("metrics", tests);
}
