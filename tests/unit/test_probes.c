/* SPDX-License-Identifier: Apache-2.0 */
/* api/probes.h: the bodies, statuses and headers of etcd 3.6, on a committer whose database comes and goes. */
#include "api/probes.h"

#include <stdlib.h>

#include "api/api.h"
#include "base/metrics.h"
#include "base/panic.h"
#include "tests/lib/fake_committer.h"
#include "tests/lib/fake_http.h"
#include "tests/lib/tap.h"

#define NOSNIFF "X-Content-Type-Options: nosniff\r\n"
#define TEXT "text/plain; charset=utf-8"

static struct fake_committer fake;
static struct ks_timers *timers;
static struct ks_api *api;

/* 'loaded': the store has its first entry. */
static void set_up(bool loaded)
{
	static struct ks_effect noop = {.kind = KS_EFFECT_NOOP};
	static const struct ks_entry first = {.position = 1, .revision = 1, .effects = &noop, .effect_count = 1};
	struct ks_store_config store = {.value_cache_bytes = 1 << 20, .values_kept = true};
	struct ks_api_config config = {
		.max_txn_ops = 128, .max_request_bytes = 1 << 20, .progress_interval_ms = 600000};
	struct ks_err err;

	fake_committer_init(&fake, NULL);
	fake.store = config.store = ks_store_new(&store, &err);
	KS_ASSERT(fake.store);
	if (loaded) {
		KS_ASSERT(ks_store_apply(fake.store, &first, &err) == KS_OK);
		ks_store_publish(fake.store);
	}
	timers = config.timers = ks_timers_start(&err);
	KS_ASSERT(timers);
	config.committer = &fake.base;
	api = ks_api_start(&config, &err);
	KS_ASSERT(api);
}

static void tear_down(void)
{
	ks_api_stop(api);
	ks_timers_stop(timers);
	fake_committer_fini(&fake);
	ks_store_free(fake.store);
}

/* Asks, and compares what is answered at once. NULL: anything. */
static void expect(struct ks_http_request request, int status, const char *content_type, const char *headers,
		   const char *body)
{
	ks_api_plain(api, &request);
	CU_ASSERT_EQUAL_FATAL(request.answers, 1);
	CU_ASSERT_EQUAL(request.status, status);
	if (content_type)
		CU_ASSERT_STRING_EQUAL(request.content_type, content_type);
	if (headers)
		CU_ASSERT_STRING_EQUAL(request.headers, headers);
	if (body)
		CU_ASSERT_STRING_EQUAL(request.body, body);
	fake_http_fini(&request);
}

#define GET(...) ((struct ks_http_request){__VA_ARGS__})

static void versions_are_known_once_the_log_is_loaded(void)
{
	set_up(false);
	expect(GET(.path = "/version"), 200, "application/json", "",
	       "{\"etcdserver\":\"3.6.7\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}");
	tear_down();
	set_up(true);
	expect(GET(.path = "/version"), 200, "application/json", "",
	       "{\"etcdserver\":\"3.6.7\",\"etcdcluster\":\"3.6.0\",\"storage\":\"3.6.0\"}");
	tear_down();
}

static void a_healthy_server_says_so(void)
{
	double before = ks_metrics_value(KS_METRIC_HEALTH_SUCCESS, 0);

	set_up(true);
	expect(GET(.path = "/health"), 200, TEXT, "", "{\"health\":\"true\",\"reason\":\"\"}");
	CU_ASSERT_EQUAL(fake.proofs, 1);
	expect(GET(.path = "/health", .query = "serializable=true&exclude=NOSPACE&exclude=CORRUPT"), 200, TEXT, "",
	       "{\"health\":\"true\",\"reason\":\"\"}");
	expect(GET(.path = "/health", .query = "serializable=false"), 200, TEXT, "",
	       "{\"health\":\"true\",\"reason\":\"\"}");
	CU_ASSERT_EQUAL(fake.proofs, 2);
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_HEALTH_SUCCESS, 0), before + 3);
	tear_down();
}

static void health_needs_the_database_unless_serializable(void)
{
	double before = ks_metrics_value(KS_METRIC_HEALTH_FAILURES, 0);
	struct ks_http_request slow = GET(.path = "/health");

	set_up(true);
	fake.later = true;
	ks_api_plain(api, &slow);
	fake.away = true;
	CU_ASSERT(fake_committer_step(&fake));
	CU_ASSERT_EQUAL(slow.status, 503);
	CU_ASSERT_STRING_EQUAL(slow.body, "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: no leader\"}\n");
	fake_http_fini(&slow);
	expect(GET(.path = "/health"), 503, TEXT, NOSNIFF, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
	expect(GET(.path = "/health", .query = "serializable=true"), 200, TEXT, "",
	       "{\"health\":\"true\",\"reason\":\"\"}");
	tear_down();
	set_up(false);
	expect(GET(.path = "/health", .query = "serializable=true"), 503, TEXT, NOSNIFF,
	       "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: no leader\"}\n");
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_HEALTH_FAILURES, 0), before + 3);
	tear_down();
}

static void an_answer_that_takes_time_comes_once(void)
{
	struct ks_http_request health = GET(.path = "/health"), ready = GET(.path = "/readyz");

	set_up(true);
	fake.later = true;
	ks_api_plain(api, &health);
	ks_api_plain(api, &ready);
	CU_ASSERT_EQUAL(health.answers + ready.answers, 0);
	CU_ASSERT(fake_committer_step(&fake));
	CU_ASSERT_EQUAL(health.answers, 1);
	CU_ASSERT_EQUAL(health.status, 200);
	CU_ASSERT_EQUAL(ready.answers, 0);
	fake.away = true;
	CU_ASSERT(fake_committer_step(&fake));
	CU_ASSERT_EQUAL(ready.answers, 1);
	CU_ASSERT_EQUAL(ready.status, 503);
	CU_ASSERT_STRING_EQUAL(ready.body, "[+]data_corruption ok\n[+]serializable_read ok\n"
					   "[-]linearizable_read failed: etcdserver: no leader\n[+]non_learner ok\n\n");
	fake_http_fini(&health);
	fake_http_fini(&ready);
	tear_down();
}

static void live_is_who_can_read_what_it_has(void)
{
	set_up(true);
	fake.away = true;
	expect(GET(.path = "/livez"), 200, TEXT, NOSNIFF, "ok\n");
	expect(GET(.path = "/livez", .query = "verbose"), 200, TEXT, NOSNIFF, "[+]serializable_read ok\nok\n");
	expect(GET(.path = "/livez/serializable_read", .query = "verbose=1"), 200, TEXT, NOSNIFF,
	       "[+]serializable_read ok\nok\n");
	tear_down();
	set_up(false);
	expect(GET(.path = "/livez"), 503, TEXT, NOSNIFF, "[-]serializable_read failed: etcdserver: no leader\n\n");
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_HEALTHCHECK, 0), 0);
	expect(GET(.path = "/livez", .query = "exclude=serializable_read&verbose"), 200, TEXT, NOSNIFF, "ok\n");
	tear_down();
}

static void ready_is_who_can_do_everything(void)
{
	set_up(true);
	expect(GET(.path = "/readyz"), 200, TEXT, NOSNIFF, "ok\n");
	CU_ASSERT_EQUAL(ks_metrics_value(KS_METRIC_HEALTHCHECK, 3), 1);
	expect(GET(.path = "/readyz", .query = "verbose"), 200, TEXT, NOSNIFF,
	       "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n");
	fake.away = true;
	expect(GET(.path = "/readyz", .query = "exclude=linearizable_read&exclude=nonsense&verbose"), 200, TEXT,
	       NOSNIFF, "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n");
	CU_ASSERT_EQUAL(fake.proofs, 2);
	expect(GET(.path = "/readyz/linearizable_read"), 503, TEXT, NOSNIFF,
	       "[-]linearizable_read failed: etcdserver: no leader\n\n");
	/* A check asked for by its name is not excluded. */
	expect(GET(.path = "/readyz/data_corruption", .query = "exclude=data_corruption&verbose"), 200, TEXT, NOSNIFF,
	       "[+]data_corruption ok\nok\n");
	tear_down();
}

static void only_get_is_answered(void)
{
	static const char *const all[] = {"/version", "/health", "/livez", "/readyz", "/readyz/non_learner"};
	static const char *const methods[] = {"POST", "HEAD", "PUT", "DELETE"};

	set_up(true);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		for (size_t j = 0; j < sizeof(methods) / sizeof(*methods); j++)
			expect(GET(.path = all[i], .method = methods[j]), 405, TEXT, "Allow: GET\r\n" NOSNIFF,
			       "Method Not Allowed\n");
	expect(GET(.path = "/metrics", .method = "POST"), 200, "text/plain; version=0.0.4; charset=utf-8", "", NULL);
	tear_down();
}

static void what_does_not_exist_is_not_found(void)
{
	static const char *const none[] = {"/",
					   "",
					   "/nope",
					   "/health/",
					   "/version/",
					   "/readyz/nope",
					   "/metricsx",
					   "/livez/",
					   "/livez/non_learner",
					   "/debug/pprof/"};

	set_up(true);
	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
		expect(GET(.path = none[i]), 404, TEXT, NOSNIFF, "404 page not found\n");
	expect(GET(.path = "/version", .port = KS_HTTP_METRICS), 404, TEXT, NOSNIFF, "404 page not found\n");
	expect(GET(.path = "/debug/vars", .port = KS_HTTP_METRICS), 404, TEXT, NOSNIFF, "404 page not found\n");
	expect(GET(.path = "/health", .port = KS_HTTP_METRICS), 200, TEXT, "", NULL);
	expect(GET(.path = "/readyz", .port = KS_HTTP_METRICS), 200, TEXT, NOSNIFF, "ok\n");
	expect(GET(.path = "/livez/serializable_read", .port = KS_HTTP_METRICS), 200, TEXT, NOSNIFF, "ok\n");
	tear_down();
}

static void metrics_come_in_the_form_that_is_asked_for(void)
{
	struct ks_http_request request = GET(.path = "/metrics", .port = KS_HTTP_METRICS);

	set_up(true);
	ks_api_plain(api, &request);
	CU_ASSERT_STRING_EQUAL(request.content_type, "text/plain; version=0.0.4; charset=utf-8");
	CU_ASSERT_PTR_NOT_NULL(strstr(request.body, "\nprocess_resident_memory_bytes "));
	fake_http_fini(&request);
	request.accept = "application/openmetrics-text; version=1.0.0";
	ks_api_plain(api, &request);
	CU_ASSERT_STRING_EQUAL(request.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
	CU_ASSERT_PTR_NOT_NULL(strstr(request.body, "\n# EOF\n"));
	fake_http_fini(&request);
	expect(GET(.path = "/debug/vars"), 200, "application/json; charset=utf-8", "", NULL);
	tear_down();
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"versions_are_known_once_the_log_is_loaded", versions_are_known_once_the_log_is_loaded},
		{"a_healthy_server_says_so", a_healthy_server_says_so},
		{"health_needs_the_database_unless_serializable", health_needs_the_database_unless_serializable},
		{"an_answer_that_takes_time_comes_once", an_answer_that_takes_time_comes_once},
		{"live_is_who_can_read_what_it_has", live_is_who_can_read_what_it_has},
		{"ready_is_who_can_do_everything", ready_is_who_can_do_everything},
		{"only_get_is_answered", only_get_is_answered},
		{"what_does_not_exist_is_not_found", what_does_not_exist_is_not_found},
		{"metrics_come_in_the_form_that_is_asked_for", metrics_come_in_the_form_that_is_asked_for},
		{NULL, NULL},
	};

	return tap_run("probes", tests);
}
