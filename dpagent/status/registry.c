/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registration upstream, see registry.h. Both keys have the same value, a report as JSON. They are written in one transaction when
 * something changed that people care for: source, connection, alarms, keys. Not for mere progress of upstream's revision: the report of
 * each node moves that, so a fleet would answer its own reports for ever.
 */
#include "config.h"

#include "status/registry.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/panic.h"
#include "base/thread.h"
#include "status/report.h"

#define TTL_S 15
#define INTERVAL_MS 5000
#define REFRESH_MS 600000 /* also without a change: so old may "last seen" of a lost node be */
#define REFUSED_MS 60000  /* after a refusal, which does not get better by itself */
#define TICK_MS 250
#define CALL_MS 2000 /* also what a stop may have to wait for */

/* What a report was about; another one is due when it differs. */
struct facts {
	enum dpa_source source;
	bool connected;
	unsigned alarms; /* bits */
	uint64_t key_changes;
};

struct dpa_registry {
	struct dpa_registry_config config;
	char host[256];
	char *permanent_key, *live_key;
	int64_t started_ms; /* wall clock */
	pthread_t thread;
	/* The thread's alone. */
	int64_t lease;
	struct etcdc_keepalive *keepalive;
	struct facts reported;
	int64_t reported_ms, retry_ms;
	/* Set by libetcdc's thread when the lease ended. */
	_Atomic bool lease_gone;
	struct ks_mutex lock; /* guards 'stopping' */
	struct ks_cond wake;
	bool stopping;
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- what is reported ---- */

static unsigned alarm_bits(const struct dpa_status *status)
{
	unsigned bits = 0;

	for (int i = 0; i < DPA_ALARM_COUNT; i++)
		/* Registration's own comes and goes with it. */
		if (i != DPA_ALARM_REGISTRATION && status->alarms[i].on)
			bits |= 1u << i;
	return bits;
}

static json_t *alarm_names(unsigned bits)
{
	json_t *list = json_array();

	for (int i = 0; i < DPA_ALARM_COUNT; i++)
		if (bits & 1u << i)
			(void)json_array_append_new(list, json_string(dpa_alarm_name((enum dpa_alarm)i)));
	return list;
}

/* NULL without memory. */
static char *report_of(const struct dpa_registry *registry, const struct dpa_status *status,
		       const struct dpa_point *point, unsigned alarms)
{
	const struct dpa_registry_config *config = &registry->config;
	json_t *report = dpa_report_short(status, point);
	json_t *node = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o}", "id", config->id, "hostname",
				 registry->host, "version", PACKAGE_VERSION, "role", config->role, "urls", config->urls,
				 "prefix", dpa_replica_prefix(config->replica), "keys", (json_int_t)point->keys,
				 "alarms", alarm_names(alarms), "started_at", dpa_report_time(registry->started_ms),
				 "updated_at", dpa_report_time(dpa_wall_ms()));
	char *text = NULL;

	if (node && report && json_object_update(node, report) == 0)
		text = json_dumps(node, JSON_COMPACT | JSON_REAL_PRECISION(6));
	json_decref(report);
	json_decref(node);
	return text;
}

/* ---- the calls ---- */

static ProtobufCBinaryData binary(const char *text)
{
	ProtobufCBinaryData data = {.len = strlen(text)};

	memcpy(&data.data, &text, sizeof(text)); /* protobuf-c's struct has no const, and does not write through it */
	return data;
}

static enum ks_status call(struct dpa_registry *registry, const struct etcdc_method *method, const void *request,
			   void **response, struct etcdc_err *err)
{
	const struct etcdc_call_options options = {.timeout_ms = CALL_MS};

	return etcdc_unary(registry->config.client, method, request, &options, response, err);
}

/* libetcdc's thread. */
static void lease_event(void *arg, const struct etcdc_keepalive_event *event)
{
	struct dpa_registry *registry = arg;

	if (event->ttl == 0)
		atomic_store(&registry->lease_gone, true);
}

static void drop_lease(struct dpa_registry *registry)
{
	etcdc_keepalive_close(registry->keepalive);
	registry->keepalive = NULL;
	registry->lease = 0;
	atomic_store(&registry->lease_gone, false);
}

static enum ks_status grant(struct dpa_registry *registry, struct etcdc_err *err)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Etcdserverpb__LeaseGrantResponse *response;
	void *got = NULL;
	enum ks_status status;

	request.ttl = registry->config.ttl_s > 0 ? registry->config.ttl_s : TTL_S;
	status = call(registry, &etcdc_method_lease_grant, &request, &got, err);
	if (status != KS_OK)
		return status;
	response = got;
	registry->lease = response->id;
	registry->keepalive =
		etcdc_keepalive(registry->config.client, response->id, response->ttl, lease_event, registry);
	etcdc_free(got);
	return KS_OK;
}

static enum ks_status put_both(struct dpa_registry *registry, const char *text, struct etcdc_err *err)
{
	Etcdserverpb__PutRequest puts[2] = {ETCDSERVERPB__PUT_REQUEST__INIT, ETCDSERVERPB__PUT_REQUEST__INIT};
	Etcdserverpb__RequestOp ops[2] = {ETCDSERVERPB__REQUEST_OP__INIT, ETCDSERVERPB__REQUEST_OP__INIT};
	Etcdserverpb__RequestOp *list[2] = {&ops[0], &ops[1]};
	Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
	void *response = NULL;
	enum ks_status status;

	puts[0].key = binary(registry->permanent_key);
	puts[1].key = binary(registry->live_key);
	puts[1].lease = registry->lease;
	for (size_t i = 0; i < 2; i++) {
		puts[i].value = binary(text);
		ops[i].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		ops[i].request_put = &puts[i];
	}
	request.success = list;
	request.n_success = 2;
	status = call(registry, &etcdc_method_txn, &request, &response, err);
	etcdc_free(response);
	return status;
}

/* When upstream is there: the node is gone at once, not after its lease's time. */
static void revoke_lease(struct dpa_registry *registry)
{
	Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	struct etcdc_err err = {0};
	struct dpa_status status;
	void *response = NULL;

	dpa_board_read(registry->config.board, &status);
	if (registry->lease == 0 || !status.connected)
		return;
	request.id = registry->lease;
	(void)call(registry, &etcdc_method_lease_revoke, &request, &response, &err);
	etcdc_free(response);
}

/* ---- the thread ---- */

static void set_registered(struct dpa_registry *registry, bool registered)
{
	dpa_board_begin(registry->config.board)->registered = registered;
	dpa_board_end(registry->config.board);
}

/* What passes by itself is no alarm: upstream's absence is told elsewhere. */
static bool passes(enum ks_status status)
{
	return status == KS_UNAVAILABLE || status == KS_DEADLINE_EXCEEDED || status == KS_CANCELLED;
}

static void failed(struct dpa_registry *registry, enum ks_status status, const struct etcdc_err *err)
{
	char text[256];

	drop_lease(registry);
	set_registered(registry, false);
	registry->retry_ms = now_ms() + (passes(status) ? registry->config.interval_ms : REFUSED_MS);
	if (passes(status))
		return;
	(void)snprintf(text, sizeof(text), "upstream refuses the registration under %.60s: %.150s",
		       registry->config.prefix, err->text);
	dpa_board_alarm(registry->config.board, DPA_ALARM_REGISTRATION, text);
}

static void report(struct dpa_registry *registry, const struct facts *facts, const struct dpa_status *status,
		   const struct dpa_point *point)
{
	char *text = report_of(registry, status, point, facts->alarms);
	struct etcdc_err err = {0};
	enum ks_status result = text ? KS_OK : KS_UNAVAILABLE;

	if (result == KS_OK && registry->lease == 0)
		result = grant(registry, &err);
	if (result == KS_OK)
		result = put_both(registry, text, &err);
	free(text);
	if (result != KS_OK) {
		failed(registry, result, &err);
		return;
	}
	registry->reported = *facts;
	registry->reported_ms = now_ms();
	set_registered(registry, true);
	dpa_board_alarm(registry->config.board, DPA_ALARM_REGISTRATION, NULL);
}

static bool is_due(const struct dpa_registry *registry, const struct facts *facts, int64_t now)
{
	const struct facts *before = &registry->reported;

	if (now < registry->retry_ms)
		return false;
	if (registry->lease == 0)
		return true;
	if (now - registry->reported_ms < registry->config.interval_ms)
		return false;
	return facts->source != before->source || facts->connected != before->connected ||
	       facts->alarms != before->alarms || facts->key_changes != before->key_changes ||
	       now - registry->reported_ms >= REFRESH_MS;
}

static void turn(struct dpa_registry *registry)
{
	struct dpa_status status;
	struct dpa_point point;
	struct facts facts;

	if (atomic_load(&registry->lease_gone)) {
		drop_lease(registry);
		set_registered(registry, false);
	}
	dpa_board_read(registry->config.board, &status);
	if (!status.connected)
		return;
	dpa_replica_point(registry->config.replica, &point);
	facts = (struct facts){
		.source = status.source,
		.connected = status.connected,
		.alarms = alarm_bits(&status),
		.key_changes = point.key_changes,
	};
	if (is_due(registry, &facts, now_ms()))
		report(registry, &facts, &status, &point);
	dpa_point_fini(&point);
}

static void *run(void *arg)
{
	struct dpa_registry *registry = arg;
	bool stopping = false;

	while (!stopping) {
		turn(registry);
		ks_mutex_lock(&registry->lock);
		if (!registry->stopping)
			(void)ks_cond_wait(&registry->wake, &registry->lock, TICK_MS);
		stopping = registry->stopping;
		ks_mutex_unlock(&registry->lock);
	}
	revoke_lease(registry);
	drop_lease(registry);
	return NULL;
}

static char *key_of(const char *prefix, const char *kind, const char *id)
{
	size_t size = strlen(prefix) + strlen(kind) + strlen(id) + 3;
	char *key = ks_xmalloc(size);

	(void)snprintf(key, size, "%s/%s/%s", prefix, kind, id);
	return key;
}

static void registry_free(struct dpa_registry *registry)
{
	ks_cond_fini(&registry->wake);
	ks_mutex_fini(&registry->lock);
	free(registry->permanent_key);
	free(registry->live_key);
	free(registry);
}

struct dpa_registry *dpa_registry_start(const struct dpa_registry_config *config, struct ks_err *err)
{
	struct dpa_registry *registry = ks_xcalloc(1, sizeof(*registry));

	registry->config = *config;
	if (registry->config.interval_ms <= 0)
		registry->config.interval_ms = INTERVAL_MS;
	registry->started_ms = dpa_wall_ms();
	registry->permanent_key = key_of(config->prefix, "nodes", config->id);
	registry->live_key = key_of(config->prefix, "live", config->id);
	(void)gethostname(registry->host, sizeof(registry->host) - 1);
	ks_mutex_init(&registry->lock);
	ks_cond_init(&registry->wake);
	if (ks_thread_start(&registry->thread, "registry", run, registry, err) == KS_OK)
		return registry;
	registry_free(registry);
	return NULL;
}

void dpa_registry_stop(struct dpa_registry *registry)
{
	if (!registry)
		return;
	ks_mutex_lock(&registry->lock);
	registry->stopping = true;
	ks_cond_broadcast(&registry->wake);
	ks_mutex_unlock(&registry->lock);
	ks_thread_join(registry->thread);
	registry_free(registry);
}
