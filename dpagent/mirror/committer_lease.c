/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases, which are upstream's: keepalives of all clients share one stream, whose answers come in the order of their ids; what is asked
 * about leases is asked there.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "base/panic.h"
#include "mirror/committer_priv.h"

struct dpa_leases {
	struct dpa_committer *committer;
	struct ks_mutex lock; /* guards the rest */
	struct etcdc_stream *stream;
	struct ks_list pending; /* struct ks_keepalive, in the order in which they were sent */
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

static void end(struct ks_keepalive *keepalive, const struct ks_err *err, int64_t ttl)
{
	keepalive->err = *err;
	keepalive->ttl = ttl;
	keepalive->done(keepalive);
}

/* ---- keepalives ---- */

static struct ks_keepalive *take(struct dpa_leases *leases, int64_t id)
{
	struct ks_keepalive *found = NULL;

	ks_mutex_lock(&leases->lock);
	for (struct ks_list *link = leases->pending.next; link != &leases->pending && !found; link = link->next)
		if (ks_container_of(link, struct ks_keepalive, link)->id == id)
			found = ks_container_of(link, struct ks_keepalive, link);
	if (found)
		ks_list_remove(&found->link);
	ks_mutex_unlock(&leases->lock);
	return found;
}

static void fail_all(struct ks_list *list, const struct ks_err *err)
{
	struct ks_list *link;

	while ((link = ks_list_pop(list)))
		end(ks_container_of(link, struct ks_keepalive, link), err, 0);
}

static void on_message(void *arg, const void *message)
{
	const Etcdserverpb__LeaseKeepAliveResponse *response = message;
	const struct ks_err fine = {.status = KS_OK};
	struct ks_keepalive *keepalive = take(arg, response->id);

	if (keepalive)
		end(keepalive, &fine, response->ttl);
}

static void on_ended(void *arg, const struct etcdc_err *err)
{
	struct dpa_leases *leases = arg;
	struct etcdc_stream *stream;
	struct ks_list failed;
	struct ks_err said;

	ks_list_init(&failed);
	ks_mutex_lock(&leases->lock);
	stream = leases->stream;
	leases->stream = NULL;
	ks_list_splice(&failed, &leases->pending);
	ks_mutex_unlock(&leases->lock);
	if (ks_list_empty(&failed)) {
		etcdc_stream_close(stream);
		return;
	}
	if (err->status == KS_OK)
		(void)ks_fail(&said, KS_UNAVAILABLE, "etcdserver: request timed out");
	else
		dpa_forward_error(leases->committer, err, &said);
	fail_all(&failed, &said);
	etcdc_stream_close(stream);
}

static const struct etcdc_stream_ops stream_ops = {.message = on_message, .ended = on_ended};

void dpa_lease_keepalive(struct dpa_committer *committer, struct ks_keepalive *keepalive)
{
	struct dpa_leases *leases = committer->leases;
	struct etcdc_stream_options options = {.ops = &stream_ops, .arg = leases};
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	struct ks_err err;
	bool sent;

	if (dpa_writable(committer, &err) != KS_OK) {
		end(keepalive, &err, 0);
		return;
	}
	request.id = keepalive->id;
	keepalive->since_ms = now_ms();
	ks_list_init(&keepalive->link);
	ks_mutex_lock(&leases->lock);
	if (!leases->stream)
		leases->stream = etcdc_stream_open(committer->config.client, &etcdc_method_lease_keep_alive, &options);
	sent = etcdc_stream_send(leases->stream, &request);
	if (sent)
		ks_list_append(&leases->pending, &keepalive->link);
	ks_mutex_unlock(&leases->lock);
	if (sent)
		return;
	/* It is about to end; the client tries again. */
	(void)ks_fail(&err, KS_UNAVAILABLE, "etcdserver: request timed out");
	end(keepalive, &err, 0);
}

void dpa_leases_expire(struct dpa_leases *leases)
{
	int64_t since_ms = now_ms() - leases->committer->config.timeout_ms;
	struct ks_list late;
	struct ks_err err;

	ks_list_init(&late);
	ks_mutex_lock(&leases->lock);
	while (!ks_list_empty(&leases->pending)) {
		struct ks_keepalive *first = ks_container_of(leases->pending.next, struct ks_keepalive, link);

		if (first->since_ms > since_ms)
			break;
		ks_list_remove(&first->link);
		ks_list_append(&late, &first->link);
	}
	ks_mutex_unlock(&leases->lock);
	(void)ks_fail(&err, KS_UNAVAILABLE, "etcdserver: request timed out");
	fail_all(&late, &err);
}

/* ---- what is asked ---- */

struct question {
	struct dpa_committer *committer;
	struct ks_lease_times *times;
};

static void finish(struct question *question, enum ks_status status, const char *text)
{
	struct ks_lease_times *times = question->times;
	struct dpa_committer *committer = question->committer;

	if (status != KS_OK)
		(void)ks_fail(&times->err, status, "%s", text);
	else
		times->err.status = KS_OK;
	times->done(times);
	free(question);
	ks_mutex_lock(&committer->lock);
	committer->jobs--;
	ks_cond_broadcast(&committer->changed);
	ks_mutex_unlock(&committer->lock);
}

static bool failed(struct question *question, const struct etcdc_result *result)
{
	struct ks_err err;

	if (result->err->status == KS_OK)
		return false;
	dpa_forward_error(question->committer, result->err, &err);
	finish(question, err.status, err.text);
	return true;
}

/* Names of keys outside of the prefix are nobody's business here. */
static bool take_keys(struct dpa_committer *committer, const Etcdserverpb__LeaseTimeToLiveResponse *response,
		      struct ks_lease_info *info)
{
	info->keys = response->n_keys ? calloc(response->n_keys, sizeof(struct ks_bytes *)) : NULL;
	if (response->n_keys && !info->keys)
		return false;
	for (size_t i = 0; i < response->n_keys; i++) {
		struct ks_slice key = ks_slice_of(response->keys[i].data, response->keys[i].len);

		if (!ks_interval_contains(&committer->prefix, key))
			continue;
		info->keys[info->key_count] = ks_bytes_copy(key);
		if (!info->keys[info->key_count])
			return false;
		info->key_count++;
	}
	return true;
}

static void on_time_to_live(void *arg, const struct etcdc_result *result)
{
	struct question *question = arg;
	struct ks_lease_times *times = question->times;
	const Etcdserverpb__LeaseTimeToLiveResponse *response = result->response;

	if (failed(question, result))
		return;
	times->leases = calloc(1, sizeof(*times->leases));
	if (!times->leases || !take_keys(question->committer, response, times->info)) {
		finish(question, KS_RESOURCE_EXHAUSTED, "dpagent: out of memory");
		return;
	}
	times->lease_count = 1;
	times->leases[0].id = response->id;
	times->leases[0].found = response->ttl >= 0;
	times->leases[0].remaining_ms = response->ttl * 1000;
	times->info->id = response->id;
	times->info->ttl = response->grantedttl;
	finish(question, KS_OK, "");
}

static void on_leases(void *arg, const struct etcdc_result *result)
{
	struct question *question = arg;
	struct ks_lease_times *times = question->times;
	const Etcdserverpb__LeaseLeasesResponse *response = result->response;

	if (failed(question, result))
		return;
	times->leases = response->n_leases ? calloc(response->n_leases, sizeof(*times->leases)) : NULL;
	if (response->n_leases && !times->leases) {
		finish(question, KS_RESOURCE_EXHAUSTED, "dpagent: out of memory");
		return;
	}
	times->lease_count = response->n_leases;
	for (size_t i = 0; i < response->n_leases; i++) {
		times->leases[i].id = response->leases[i]->id;
		times->leases[i].found = true;
	}
	finish(question, KS_OK, "");
}

static void ask_time_to_live(struct question *question, const struct etcdc_call_options *options)
{
	Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;

	request.id = question->times->ids[0];
	request.keys = question->times->want_keys;
	etcdc_async(question->committer->config.client, &etcdc_method_lease_time_to_live, &request, options,
		    on_time_to_live, question);
}

void dpa_lease_times(struct dpa_committer *committer, struct ks_lease_times *times)
{
	struct etcdc_call_options options = {.timeout_ms = committer->config.timeout_ms};
	Etcdserverpb__LeaseLeasesRequest all = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	struct question *question;

	times->leases = NULL;
	times->lease_count = 0;
	if (dpa_writable(committer, &times->err) != KS_OK) {
		times->done(times);
		return;
	}
	KS_ASSERT(!times->ids || (times->id_count == 1 && times->info)); /* what the api asks */
	question = ks_xcalloc(1, sizeof(*question));
	*question = (struct question){.committer = committer, .times = times};
	ks_mutex_lock(&committer->lock);
	committer->jobs++;
	ks_mutex_unlock(&committer->lock);
	if (times->ids)
		ask_time_to_live(question, &options);
	else
		etcdc_async(committer->config.client, &etcdc_method_lease_leases, &all, &options, on_leases, question);
}

/* ---- life cycle ---- */

struct dpa_leases *dpa_leases_new(struct dpa_committer *committer)
{
	struct dpa_leases *leases = ks_xcalloc(1, sizeof(*leases));

	leases->committer = committer;
	ks_mutex_init(&leases->lock);
	ks_list_init(&leases->pending);
	return leases;
}

void dpa_leases_free(struct dpa_leases *leases)
{
	const struct ks_err stopped = {.status = KS_UNAVAILABLE, .text = "etcdserver: server stopped"};
	struct etcdc_stream *stream;

	ks_mutex_lock(&leases->lock);
	stream = leases->stream;
	leases->stream = NULL;
	ks_mutex_unlock(&leases->lock);
	/* Its call-backs take the lock. */
	etcdc_stream_close(stream);
	fail_all(&leases->pending, &stopped);
	ks_mutex_fini(&leases->lock);
	free(leases);
}
