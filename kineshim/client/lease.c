/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lease keep-alive: all leases of a client on one stream, each renewed when a third of its TTL has passed.
 *
 * One timer drives everything: it fires when the next renewal or deadline is due. A broken stream is opened again after
 * REOPEN_MS, and then all leases are renewed at once. A lease is gone when the server says so (TTL 0) or when no
 * answer came for a whole TTL, because then the server may have let it expire.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "base/panic.h"
#include "client/client_priv.h"

/* Called with the lock of the keep-alive's hub; clang cannot see that this is the hub its callers have locked. */
#define HUB_LOCKED KS_NO_TSA

#define REOPEN_MS 500

struct etcdc_keepalive {
	struct ks_list link; /* hub->leases, until closed or gone */
	struct etcdc_lease_hub *hub;
	int64_t lease;
	int64_t ttl; /* seconds */
	int64_t send_ms;
	int64_t deadline_ms;
	etcdc_keepalive_fn *on_event;
	void *arg;
	bool gone, closed, in_callback;
	bool orphan; /* closed from its own call-back, which frees it when it returns */
};

struct etcdc_lease_hub {
	struct etcdc *client;
	struct ks_mutex mutex;
	struct ks_cond returned; /* a call-back did */
	struct ks_list leases;
	struct etcdc_stream *stream;
	int64_t reopen_ms; /* no stream before this */
	struct etcdc_timer tick;
	bool stopped;
};

static const struct etcdc_stream_ops stream_ops;

static int64_t now(void)
{
	return ks_clock_now(ks_clock_system());
}

/* Arms the tick for the first thing to do. */
static void schedule(struct etcdc_lease_hub *hub) KS_REQUIRES(hub->mutex)
{
	int64_t first_ms = INT64_MAX, now_ms = now();

	for (const struct ks_list *link = hub->leases.next; link != &hub->leases; link = link->next) {
		const struct etcdc_keepalive *keepalive = ks_container_of(link, struct etcdc_keepalive, link);
		int64_t send_ms = keepalive->send_ms;

		if (!hub->stream && send_ms < hub->reopen_ms)
			send_ms = hub->reopen_ms;
		if (send_ms < first_ms)
			first_ms = send_ms;
		if (keepalive->deadline_ms < first_ms)
			first_ms = keepalive->deadline_ms;
	}
	if (first_ms != INT64_MAX && !hub->stopped)
		etcdc_timer_arm(hub->client, &hub->tick, first_ms > now_ms ? first_ms - now_ms : 0);
}

/* Calls back without the lock. The keep-alive may be gone afterwards. */
static void deliver(struct etcdc_keepalive *keepalive, int64_t ttl, int64_t revision) HUB_LOCKED
{
	struct etcdc_lease_hub *hub = keepalive->hub;
	struct etcdc_keepalive_event event = {.lease = keepalive->lease, .ttl = ttl, .revision = revision};

	if (ttl == 0) {
		keepalive->gone = true;
		ks_list_remove(&keepalive->link);
	}
	if (keepalive->closed || !keepalive->on_event)
		return;
	keepalive->in_callback = true;
	ks_mutex_unlock(&hub->mutex);
	keepalive->on_event(keepalive->arg, &event);
	ks_mutex_lock(&hub->mutex);
	keepalive->in_callback = false;
	if (keepalive->orphan)
		free(keepalive);
	ks_cond_broadcast(&hub->returned);
}

static void renew(struct etcdc_keepalive *keepalive, int64_t now_ms) HUB_LOCKED
{
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;

	request.id = keepalive->lease;
	(void)etcdc_stream_send(keepalive->hub->stream, &request);
	/* The answer sets it anew; without one this is when to ask again. */
	keepalive->send_ms = now_ms + keepalive->ttl * 1000 / 3;
}

static void tick(struct etcdc_timer *timer)
{
	struct etcdc_lease_hub *hub = ks_container_of(timer, struct etcdc_lease_hub, tick);
	int64_t now_ms = now();
	struct ks_list *link;

	ks_mutex_lock(&hub->mutex);
again:
	for (link = hub->leases.next; link != &hub->leases; link = link->next) {
		struct etcdc_keepalive *keepalive = ks_container_of(link, struct etcdc_keepalive, link);

		if (keepalive->deadline_ms <= now_ms) {
			deliver(keepalive, 0, 0);
			goto again; /* the list may have changed meanwhile */
		}
	}
	if (!hub->stream && !hub->stopped && !ks_list_empty(&hub->leases) && hub->reopen_ms <= now_ms) {
		struct etcdc_stream_options options = {.ops = &stream_ops, .arg = hub};

		hub->stream = etcdc_stream_open(hub->client, &etcdc_method_lease_keep_alive, &options);
	}
	for (link = hub->leases.next; hub->stream && link != &hub->leases; link = link->next) {
		struct etcdc_keepalive *keepalive = ks_container_of(link, struct etcdc_keepalive, link);

		if (keepalive->send_ms <= now_ms)
			renew(keepalive, now_ms);
	}
	schedule(hub);
	ks_mutex_unlock(&hub->mutex);
}

static void on_message(void *arg, const void *message)
{
	struct etcdc_lease_hub *hub = arg;
	const Etcdserverpb__LeaseKeepAliveResponse *response = message;
	int64_t revision = response->header ? response->header->revision : 0, now_ms = now();
	struct ks_list *link, *next;

	ks_mutex_lock(&hub->mutex);
	for (link = hub->leases.next; link != &hub->leases; link = next) {
		struct etcdc_keepalive *keepalive = ks_container_of(link, struct etcdc_keepalive, link);

		next = link->next;
		if (keepalive->lease != response->id)
			continue;
		keepalive->ttl = response->ttl > 0 ? response->ttl : 0;
		keepalive->send_ms = now_ms + keepalive->ttl * 1000 / 3;
		keepalive->deadline_ms = now_ms + keepalive->ttl * 1000;
		deliver(keepalive, keepalive->ttl, revision);
		break;
	}
	schedule(hub);
	ks_mutex_unlock(&hub->mutex);
}

static void on_end(void *arg, const struct etcdc_err *err)
{
	struct etcdc_lease_hub *hub = arg;

	ks_mutex_lock(&hub->mutex);
	if (!hub->stopped) {
		if (err->status == KS_UNAVAILABLE)
			etcdc_endpoint_failed(hub->client, etcdc_stream_endpoint(hub->stream));
		if (etcdc_login_helps(hub->client, err->status, err->text, 0))
			etcdc_login(hub->client, NULL);
		etcdc_stream_close(hub->stream);
		hub->stream = NULL;
		hub->reopen_ms = now() + REOPEN_MS;
		for (struct ks_list *link = hub->leases.next; link != &hub->leases; link = link->next)
			ks_container_of(link, struct etcdc_keepalive, link)->send_ms = hub->reopen_ms;
		schedule(hub);
	}
	ks_mutex_unlock(&hub->mutex);
}

static const struct etcdc_stream_ops stream_ops = {.message = on_message, .ended = on_end};

/* ---- From the user ---- */

struct etcdc_keepalive *etcdc_keepalive(struct etcdc *client, int64_t lease, int64_t ttl, etcdc_keepalive_fn *on_event,
					void *arg)
{
	struct etcdc_lease_hub *hub = client->leases;
	struct etcdc_keepalive *keepalive = ks_xcalloc(1, sizeof(*keepalive));
	int64_t now_ms = now();

	keepalive->hub = hub;
	keepalive->lease = lease;
	keepalive->ttl = ttl > 0 ? ttl : 1;
	keepalive->send_ms = now_ms;
	keepalive->deadline_ms = now_ms + keepalive->ttl * 1000;
	keepalive->on_event = on_event;
	keepalive->arg = arg;
	ks_list_init(&keepalive->link);
	ks_mutex_lock(&hub->mutex);
	ks_list_append(&hub->leases, &keepalive->link);
	schedule(hub);
	ks_mutex_unlock(&hub->mutex);
	return keepalive;
}

void etcdc_keepalive_close(struct etcdc_keepalive *keepalive)
{
	struct etcdc_lease_hub *hub;
	bool in_own_callback;

	if (!keepalive)
		return;
	hub = keepalive->hub;
	ks_mutex_lock(&hub->mutex);
	keepalive->closed = true;
	in_own_callback = keepalive->in_callback && etcdc_on_thread(hub->client);
	while (keepalive->in_callback && !in_own_callback)
		(void)ks_cond_wait(&hub->returned, &hub->mutex, -1);
	ks_list_remove(&keepalive->link);
	keepalive->orphan = in_own_callback;
	if (!in_own_callback)
		free(keepalive);
	ks_mutex_unlock(&hub->mutex);
}

struct etcdc_lease_hub *etcdc_lease_hub_new(struct etcdc *client)
{
	struct etcdc_lease_hub *hub = ks_xcalloc(1, sizeof(*hub));

	hub->client = client;
	ks_mutex_init(&hub->mutex);
	ks_cond_init(&hub->returned);
	ks_list_init(&hub->leases);
	etcdc_timer_init(&hub->tick, tick);
	return hub;
}

void etcdc_lease_hub_stop(struct etcdc_lease_hub *hub)
{
	struct etcdc_stream *stream;

	ks_mutex_lock(&hub->mutex);
	KS_ASSERT(ks_list_empty(&hub->leases));
	hub->stopped = true;
	stream = hub->stream;
	hub->stream = NULL;
	ks_mutex_unlock(&hub->mutex);
	/* Not under the lock, which their call-backs take. */
	etcdc_timer_disarm(hub->client, &hub->tick);
	etcdc_stream_close(stream);
}

void etcdc_lease_hub_free(struct etcdc_lease_hub *hub)
{
	ks_cond_fini(&hub->returned);
	ks_mutex_fini(&hub->mutex);
	free(hub);
}
