/* SPDX-License-Identifier: Apache-2.0 */
/* The thread: who is asked when, and what becomes of the answers. */
#include "discovery/discovery.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "discovery/discovery_priv.h"

#define WAIT_MAX_MS 60000
#define SAVE_AFTER_MS 1000
#define SAVE_RETRY_MS 10000
#define REFRESH_RETRY_MS 1000
/* How long a service that nobody names is remembered: objects are written anew, and agents start without their upstream. */
#define LINGER_MS 3600000

int64_t dpa_discovery_now(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- For the files that ask ---- */

struct dpa_service **dpa_services_wanted(struct dpa_discovery *discovery, enum dpa_discovery_type type, size_t *count)
{
	struct dpa_service **wanted;

	*count = 0;
	ks_mutex_lock(&discovery->lock);
	wanted = ks_xcalloc(discovery->service_count + 1, sizeof(*wanted));
	for (size_t i = 0; i < discovery->service_count; i++) {
		if (discovery->services[i]->type == type && discovery->services[i]->refs > 0)
			wanted[(*count)++] = discovery->services[i];
	}
	ks_mutex_unlock(&discovery->lock);
	return wanted;
}

void dpa_service_answered(struct dpa_service *service, struct dpa_nodes *nodes)
{
	struct dpa_discovery *discovery = service->discovery;
	size_t count = nodes->count;
	bool changed, recovered;

	ks_mutex_lock(&discovery->lock);
	changed = !service->known || !dpa_nodes_equal(&service->nodes, nodes);
	recovered = service->failing;
	dpa_nodes_move(&service->nodes, nodes);
	service->known = true;
	service->dirty |= changed;
	service->failing = false;
	service->error[0] = '\0';
	service->answered_ms = dpa_wall_ms();
	ks_mutex_unlock(&discovery->lock);
	if (changed && discovery->save_ms == 0)
		discovery->save_ms = dpa_discovery_now() + SAVE_AFTER_MS;
	if (changed)
		ks_diag(KS_DEBUG, DPA_DISCOVERY_MODULE, "nodes changed registry=%s service=%s nodes=%zu",
			dpa_discovery_type_name(service->type), service->name, count);
	if (recovered)
		KS_DIAG_LIMITED(KS_INFO, DPA_DISCOVERY_MODULE, "answers again registry=%s service=%s",
				dpa_discovery_type_name(service->type), service->name);
	discovery->board_stale |= recovered;
}

void dpa_service_failed(struct dpa_service *service, const char *where, const char *what)
{
	struct dpa_discovery *discovery = service->discovery;
	bool first;

	ks_mutex_lock(&discovery->lock);
	first = !service->failing;
	service->failing = true;
	(void)snprintf(service->error, sizeof(service->error), "%.80s: %.100s", where, what);
	ks_mutex_unlock(&discovery->lock);
	if (first)
		KS_DIAG_LIMITED(KS_WARN, DPA_DISCOVERY_MODULE,
				"no answer, the last known nodes count registry=%s service=%s server=%s error=\"%s\"",
				dpa_discovery_type_name(service->type), service->name, where, what);
	discovery->failures++;
	discovery->board_stale = true;
}

bool dpa_poll_failed(struct dpa_poll *poll, size_t servers)
{
	poll->busy = false;
	poll->server = (poll->server + 1) % servers;
	poll->due_ms = dpa_discovery_now();
	if (++poll->tried < servers)
		return false;
	poll->tried = 0;
	poll->due_ms += ks_backoff_failed(&poll->backoff);
	return true;
}

void dpa_poll_succeeded(struct dpa_poll *poll, int64_t next_ms)
{
	poll->busy = false;
	poll->tried = 0;
	ks_backoff_succeeded(&poll->backoff);
	poll->due_ms = dpa_discovery_now() + next_ms;
}

const char *dpa_http_fault(const struct dpa_http_answer *answer, char *room, size_t size)
{
	if (!answer->ok)
		return answer->error;
	if (answer->status == 200)
		return NULL;
	(void)snprintf(room, size, "HTTP %ld", answer->status);
	return room;
}

/* ---- Asking ---- */

static void ask(struct dpa_service *service)
{
	struct dpa_discovery *discovery = service->discovery;

	switch (service->type) {
	case DPA_DNS:
		dpa_dns_ask(service);
		break;
	case DPA_CONSUL:
		dpa_consul_ask(service);
		break;
	case DPA_NACOS:
		dpa_nacos_ask(service);
		break;
	case DPA_EUREKA:
		/* One is asked for all; a new one does not wait for the interval, but it does not go round a pause after failures. */
		service->poll.due_ms = INT64_MAX;
		if (discovery->eureka.backoff.current_ms == 0)
			discovery->eureka.due_ms = 0;
		break;
	}
}

static void stop_asking(struct dpa_service *service)
{
	if (service->poll.busy) {
		switch (service->type) {
		case DPA_DNS:
			dpa_dns_stop(service);
			break;
		case DPA_CONSUL:
			dpa_consul_stop(service);
			break;
		case DPA_NACOS:
			dpa_nacos_stop(service);
			break;
		case DPA_EUREKA:
			break;
		}
	}
	service->poll.due_ms = 0;
}

/* What is to be done for services now. Their pointers stay valid without the lock: only this thread frees them. */
struct work {
	struct dpa_service **ask, **stop, **drop;
	size_t ask_count, stop_count, drop_count;
	size_t wanted_eureka;
	int64_t next_ms;
};

static void sort_out(struct work *work, struct dpa_service *service, int64_t now)
{
	if (service->refs == 0) {
		if (service->poll.busy || service->poll.due_ms)
			work->stop[work->stop_count++] = service;
		service->failing = false;
		return;
	}
	work->wanted_eureka += service->type == DPA_EUREKA;
	if (service->poll.busy)
		return;
	if (service->poll.due_ms <= now)
		work->ask[work->ask_count++] = service;
	else if (service->poll.due_ms < work->next_ms)
		work->next_ms = service->poll.due_ms;
}

static void gather(struct dpa_discovery *discovery, struct work *work, int64_t now) KS_REQUIRES(discovery->lock)
{
	size_t kept = 0, count = discovery->service_count;

	*work = (struct work){.next_ms = now + WAIT_MAX_MS};
	work->ask = ks_xcalloc(3 * count + 1, sizeof(*work->ask));
	work->stop = work->ask + count;
	work->drop = work->stop + count;
	for (size_t i = 0; i < count; i++) {
		struct dpa_service *service = discovery->services[i];

		sort_out(work, service, now);
		if (service->refs == 0 && now - service->unwanted_ms >= LINGER_MS)
			work->drop[work->drop_count++] = service;
		else
			discovery->services[kept++] = service;
	}
	discovery->service_count = kept;
	if (work->drop_count)
		discovery->full = false;
}

static void see_to_eureka(struct dpa_discovery *discovery, struct work *work, int64_t now)
{
	if (work->wanted_eureka == 0) {
		if (discovery->eureka.busy)
			dpa_eureka_stop(discovery);
	} else if (!discovery->eureka.busy) {
		if (discovery->eureka.due_ms <= now)
			dpa_eureka_ask(discovery);
		else if (discovery->eureka.due_ms < work->next_ms)
			work->next_ms = discovery->eureka.due_ms;
	}
}

static void carry_out(struct dpa_discovery *discovery, struct work *work, int64_t now)
{
	for (size_t i = 0; i < work->stop_count; i++)
		stop_asking(work->stop[i]);
	for (size_t i = 0; i < work->drop_count; i++)
		dpa_service_free(work->drop[i]);
	if (work->drop_count && discovery->save_ms == 0)
		discovery->save_ms = now + SAVE_AFTER_MS;
	for (size_t i = 0; i < work->ask_count; i++)
		ask(work->ask[i]);
	see_to_eureka(discovery, work, now);
	free(work->ask);
}

/* ---- What follows from answers ---- */

static void mark_all(struct dpa_discovery *discovery)
{
	ks_mutex_lock(&discovery->lock);
	for (size_t i = 0; i < discovery->service_count; i++)
		discovery->services[i]->dirty = discovery->services[i]->known;
	ks_mutex_unlock(&discovery->lock);
}

static void refresh(struct dpa_discovery *discovery, int64_t now)
{
	struct ks_bytes **keys;
	struct ks_slice *slices;
	struct ks_err err;
	size_t count;

	if (now < discovery->refresh_ms)
		return;
	ks_mutex_lock(&discovery->lock);
	keys = dpa_keys_dirty(discovery, &count);
	ks_mutex_unlock(&discovery->lock);
	if (count == 0)
		return;
	slices = ks_xcalloc(count, sizeof(*slices));
	for (size_t i = 0; i < count; i++)
		slices[i] = ks_bytes_slice(keys[i]);
	if (dpa_replica_refresh(discovery->replica, slices, count, &err) != KS_OK) {
		KS_DIAG_LIMITED(KS_WARN, DPA_DISCOVERY_MODULE, "nodes cannot be shown: %s", err.text);
		discovery->refresh_ms = now + REFRESH_RETRY_MS;
		mark_all(discovery);
	}
	for (size_t i = 0; i < count; i++)
		ks_bytes_unref(keys[i]);
	free(keys);
	free(slices);
}

static void save(struct dpa_discovery *discovery, int64_t now)
{
	struct ks_err err;

	if (discovery->save_ms == 0 || now < discovery->save_ms)
		return;
	discovery->save_ms = 0;
	if (dpa_saved_write(discovery, &err) != KS_OK) {
		KS_DIAG_LIMITED(KS_WARN, DPA_DISCOVERY_MODULE, "%s", err.text);
		discovery->save_ms = now + SAVE_RETRY_MS;
	}
}

struct tally {
	size_t wanted, failing;
	bool full;
	char text[256];
};

static void count_services(struct dpa_discovery *discovery, struct tally *tally)
{
	const struct dpa_service *first = NULL;

	ks_mutex_lock(&discovery->lock);
	for (size_t i = 0; i < discovery->service_count; i++) {
		const struct dpa_service *service = discovery->services[i];

		tally->wanted += service->refs > 0;
		tally->failing += service->refs > 0 && service->failing;
		if (!first && service->refs > 0 && service->failing)
			first = service;
	}
	tally->full = discovery->full;
	if (first)
		(void)snprintf(tally->text, sizeof(tally->text), "%s %.60s: %.120s (%zu of %zu services)",
			       dpa_discovery_type_name(first->type), first->name, first->error, tally->failing,
			       tally->wanted);
	else if (tally->full)
		(void)snprintf(tally->text, sizeof(tally->text), "more than %d services: some are not asked for",
			       DPA_SERVICES_MAX);
	ks_mutex_unlock(&discovery->lock);
}

static void tell(struct dpa_discovery *discovery)
{
	struct tally tally = {0};
	struct dpa_status *status;
	bool alarmed;

	count_services(discovery, &tally);
	status = dpa_board_begin(discovery->board);
	status->discovery_services = tally.wanted;
	status->discovery_failures += discovery->failures;
	alarmed = status->alarms[DPA_ALARM_DISCOVERY].on;
	dpa_board_end(discovery->board);
	discovery->failures = 0;
	if (*tally.text || alarmed)
		dpa_board_alarm(discovery->board, DPA_ALARM_DISCOVERY, *tally.text ? tally.text : NULL);
	discovery->board_stale = false;
}

static int64_t until(int64_t wait_ms, int64_t when_ms, int64_t now)
{
	if (when_ms == 0 || when_ms - now >= wait_ms)
		return wait_ms;
	return when_ms > now ? when_ms - now : 0;
}

static void wait_and_serve(struct dpa_discovery *discovery, int64_t next_ms)
{
	struct curl_waitfd sockets[DPA_DNS_SOCKETS];
	int64_t now = dpa_discovery_now(), wait_ms = until(WAIT_MAX_MS, next_ms, now);
	unsigned count = 0;

	wait_ms = until(wait_ms, discovery->save_ms, now);
	if (discovery->refresh_ms > now)
		wait_ms = until(wait_ms, discovery->refresh_ms, now);
	if (discovery->dns)
		count = dpa_dns_sockets(discovery->dns, sockets, &wait_ms);
	dpa_fetch_run(discovery->http, sockets, count, wait_ms);
	if (discovery->dns)
		dpa_dns_process(discovery->dns, sockets, count);
}

static void *run(void *arg)
{
	struct dpa_discovery *discovery = arg;
	size_t wanted = SIZE_MAX, now_wanted;

	for (;;) {
		int64_t now = dpa_discovery_now();
		struct work work;

		ks_mutex_lock(&discovery->lock);
		if (discovery->stopping) {
			ks_mutex_unlock(&discovery->lock);
			return NULL;
		}
		gather(discovery, &work, now);
		now_wanted = 0;
		for (size_t i = 0; i < discovery->service_count; i++)
			now_wanted += discovery->services[i]->refs > 0;
		ks_mutex_unlock(&discovery->lock);
		carry_out(discovery, &work, now);
		refresh(discovery, now);
		save(discovery, now);
		if (discovery->board_stale || now_wanted != wanted)
			tell(discovery);
		wanted = now_wanted;
		wait_and_serve(discovery, work.next_ms);
	}
}

/* ---- Public ---- */

struct dpa_discovery *dpa_discovery_new(const char *path, const char *dir, struct dpa_board *board, struct ks_err *err)
{
	struct dpa_discovery *discovery = ks_xcalloc(1, sizeof(*discovery));

	ks_mutex_init(&discovery->lock);
	discovery->board = board;
	ks_backoff_init(&discovery->eureka.backoff, 500, 30000, (uint64_t)(uintptr_t)discovery);
	if (dir)
		KS_ASSERT(asprintf(&discovery->path, "%s/discovery.json", dir) > 0);
	if (dpa_discovery_config_read(path, &discovery->config, err) != KS_OK)
		goto failed;
	discovery->http = dpa_fetch_new();
	if (!discovery->http) {
		(void)ks_fail(err, KS_RESOURCE_EXHAUSTED, "discovery: out of memory");
		goto failed;
	}
	if (discovery->config.has[DPA_DNS]) {
		discovery->dns = dpa_dns_new(&discovery->config.dns, err);
		if (!discovery->dns)
			goto failed;
	}
	if (discovery->config.has[DPA_NACOS])
		discovery->nacos = dpa_nacos_new();
	dpa_saved_load(discovery);
	return discovery;
failed:
	dpa_discovery_free(discovery);
	return NULL;
}

enum ks_status dpa_discovery_start(struct dpa_discovery *discovery, struct dpa_replica *replica, struct ks_err *err)
{
	enum ks_status status;

	discovery->replica = replica;
	/* What was known from disk may have been shown before there was a replica to refresh: once more does no harm. */
	mark_all(discovery);
	status = ks_thread_start(&discovery->thread, "discovery", run, discovery, err);
	discovery->running = status == KS_OK;
	return status;
}

void dpa_discovery_stop(struct dpa_discovery *discovery)
{
	if (!discovery || !discovery->running)
		return;
	ks_mutex_lock(&discovery->lock);
	discovery->stopping = true;
	ks_mutex_unlock(&discovery->lock);
	dpa_fetch_wake(discovery->http);
	ks_thread_join(discovery->thread);
	discovery->running = false;
	for (size_t i = 0; i < discovery->service_count; i++)
		stop_asking(discovery->services[i]);
	dpa_eureka_stop(discovery);
	if (discovery->save_ms)
		save(discovery, discovery->save_ms);
}

void dpa_discovery_free(struct dpa_discovery *discovery)
{
	if (!discovery)
		return;
	dpa_dns_free(discovery->dns);
	dpa_nacos_free(discovery);
	dpa_fetch_free(discovery->http);
	dpa_services_free(discovery);
	dpa_discovery_config_fini(&discovery->config);
	ks_mutex_fini(&discovery->lock);
	free(discovery->path);
	free(discovery);
}

static json_t *status_json(const struct dpa_service *service)
{
	const char *state = service->failing ? "failing" : service->answered_ms ? "ok" : "waiting";
	json_t *object = json_pack(
		"{s:s, s:s, s:s, s:I, s:I, s:b, s:o*}", "type", dpa_discovery_type_name(service->type), "service_name",
		service->name, "state", state, "uses", (json_int_t)service->refs, "answered_ms",
		(json_int_t)service->answered_ms, "known", service->known, "nodes", dpa_nodes_json(&service->nodes));

	if (object && *service->namespace_id)
		(void)json_object_set_new(object, "namespace_id", json_string(service->namespace_id));
	if (object && *service->group_name)
		(void)json_object_set_new(object, "group_name", json_string(service->group_name));
	if (object && service->failing)
		(void)json_object_set_new(object, "error", dpa_json_text(service->error));
	return object;
}

char *dpa_discovery_json(struct dpa_discovery *discovery)
{
	json_t *services = json_array();
	char *text;

	ks_mutex_lock(&discovery->lock);
	for (size_t i = 0; i < discovery->service_count; i++) {
		if (discovery->services[i]->refs > 0)
			(void)json_array_append_new(services, status_json(discovery->services[i]));
	}
	ks_mutex_unlock(&discovery->lock);
	text = json_dumps(services, JSON_COMPACT);
	json_decref(services);
	return text;
}
