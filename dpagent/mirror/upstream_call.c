/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking upstream, see upstream_priv.h. A call can be given up when the upstream is to stop: then its answer, whenever it comes, frees it.
 */
#include <stdlib.h>

#include "base/panic.h"
#include "mirror/upstream_priv.h"

/* A page aims at so many bytes, and begins small, as nobody knows how large values are. */
#define PAGE_BYTES (2u << 20)
#define PAGE_KEYS 5000
#define PAGE_KEYS_FIRST 64

struct dpa_call {
	struct ks_mutex lock; /* guards the rest */
	struct ks_cond changed;
	int refs; /* who waits, and the answer on its way */
	bool done, abandoned;
	struct etcdc_err err;
	ProtobufCMessage *response;
};

static struct dpa_call *call_new(void)
{
	struct dpa_call *call = ks_xcalloc(1, sizeof(*call));

	ks_mutex_init(&call->lock);
	ks_cond_init(&call->changed);
	call->refs = 1;
	return call;
}

static void call_unref(struct dpa_call *call)
{
	bool last;

	ks_mutex_lock(&call->lock);
	last = --call->refs == 0;
	ks_mutex_unlock(&call->lock);
	if (!last)
		return;
	etcdc_free(call->response);
	ks_cond_fini(&call->changed);
	ks_mutex_fini(&call->lock);
	free(call);
}

static void call_done(void *arg, const struct etcdc_result *result)
{
	struct dpa_call *call = arg;

	ks_mutex_lock(&call->lock);
	call->err = *result->err;
	if (result->err->status == KS_OK)
		call->response = protobuf_c_message_unpack(&etcdserverpb__range_response__descriptor, NULL,
							   result->bytes.size, result->bytes.data);
	call->done = true;
	ks_cond_signal(&call->changed);
	ks_mutex_unlock(&call->lock);
	call_unref(call);
}

void dpa_call_abandon(struct dpa_call *call)
{
	ks_mutex_lock(&call->lock);
	call->abandoned = true;
	ks_cond_signal(&call->changed);
	ks_mutex_unlock(&call->lock);
}

static bool set_call(struct dpa_upstream *up, struct dpa_call *call)
{
	bool going;

	ks_mutex_lock(&up->lock);
	going = !up->stopping;
	up->call = going ? call : NULL;
	ks_mutex_unlock(&up->lock);
	return going;
}

/* False when it was abandoned. */
static bool run_call(struct dpa_upstream *up, struct dpa_call *call, const Etcdserverpb__RangeRequest *request,
		     int64_t timeout_ms)
{
	const struct etcdc_call_options options = {.timeout_ms = timeout_ms, .once = true, .raw = true};
	bool done;

	if (!set_call(up, call))
		return false;
	call->refs = 2;
	etcdc_async(up->config.client, &etcdc_method_range, request, &options, call_done, call);
	ks_mutex_lock(&call->lock);
	while (!call->done && !call->abandoned)
		(void)ks_cond_wait(&call->changed, &call->lock, -1);
	done = call->done;
	ks_mutex_unlock(&call->lock);
	(void)set_call(up, NULL);
	return done;
}

bool dpa_is_compacted(const struct ks_err *err)
{
	return err->status == KS_OUT_OF_RANGE && strstr(err->text, "compacted") != NULL;
}

static enum ks_status say(const struct dpa_upstream *up, const struct etcdc_err *from, struct ks_err *err)
{
	if (from->status == KS_PERMISSION_DENIED)
		return ks_fail(
			err, from->status,
			"upstream does not let us read \"%s\": its user needs a role with read on that prefix (%s)",
			dpa_replica_prefix(up->config.replica), from->text);
	return ks_fail(err, from->status, "%s", from->text[0] ? from->text : ks_status_name(from->status));
}

void dpa_range_init(const struct dpa_upstream *up, Etcdserverpb__RangeRequest *request)
{
	etcdserverpb__range_request__init(request);
	request->key = (ProtobufCBinaryData){up->prefix.key.size, (uint8_t *)(uintptr_t)up->prefix.key.data};
	request->range_end = (ProtobufCBinaryData){up->prefix.end.size, (uint8_t *)(uintptr_t)up->prefix.end.data};
}

enum ks_status dpa_range(struct dpa_upstream *up, const Etcdserverpb__RangeRequest *request, int64_t timeout_ms,
			 Etcdserverpb__RangeResponse **response, struct ks_err *err)
{
	struct dpa_call *call = call_new();
	Etcdserverpb__RangeResponse *answer = NULL;
	enum ks_status status = KS_OK;

	*response = NULL;
	if (!run_call(up, call, request, timeout_ms)) {
		status = ks_fail(err, KS_CANCELLED, "stopping");
	} else if (call->err.status != KS_OK) {
		status = say(up, &call->err, err);
	} else {
		answer = (Etcdserverpb__RangeResponse *)call->response;
		call->response = NULL;
		if (!answer || !answer->header)
			status = ks_fail(err, KS_DATA_LOSS, "upstream's answer to a Range cannot be read");
	}
	call_unref(call);
	if (status == KS_OK) {
		*response = answer;
		return KS_OK;
	}
	etcdc_free(answer);
	return status;
}

/* ---- walks ---- */

static bool is_ours(const struct dpa_upstream *up, struct ks_slice key)
{
	return ks_interval_contains(&up->prefix, key);
}

static enum ks_status visit_page(struct dpa_upstream *up, struct dpa_walk *walk,
				 const Etcdserverpb__RangeResponse *page, struct ks_slice last, struct ks_err *err)
{
	for (size_t i = 0; i < page->n_kvs; i++) {
		const Mvccpb__KeyValue *kv = page->kvs[i];
		struct ks_slice key = ks_slice_of(kv->key.data, kv->key.len);
		enum ks_status status;

		if (!is_ours(up, key) || (last.size && ks_slice_cmp(last, key) >= 0))
			return ks_fail(err, KS_DATA_LOSS,
				       "upstream listed keys that were not asked for, or not in their order");
		status = walk->key(walk, kv, err);
		if (status != KS_OK)
			return status;
		last = key;
	}
	return KS_OK;
}

static size_t page_bytes(const Etcdserverpb__RangeResponse *page)
{
	size_t bytes = 0;

	for (size_t i = 0; i < page->n_kvs; i++)
		bytes += page->kvs[i]->key.len + page->kvs[i]->value.len + 32;
	return bytes;
}

/* How many keys the next page may have, after one of so many. */
static int64_t next_limit(const struct dpa_upstream *up, const Etcdserverpb__RangeResponse *page, int64_t limit)
{
	int64_t most = up->config.page_keys > 0 ? up->config.page_keys : PAGE_KEYS;
	int64_t fit = (int64_t)(PAGE_BYTES / (page_bytes(page) / (page->n_kvs ? page->n_kvs : 1) + 1));
	int64_t next = 4 * limit;

	next = next > fit ? fit : next;
	next = next > most ? most : next;
	return next > 1 ? next : 1;
}

/* An answer that was too large or took too long is asked for again with half the keys. */
static bool halve(enum ks_status status, int64_t *limit)
{
	if ((status != KS_RESOURCE_EXHAUSTED && status != KS_DEADLINE_EXCEEDED) || *limit == 1)
		return false;
	*limit /= 2;
	return true;
}

static enum ks_status first_page(struct dpa_walk *walk, const Etcdserverpb__RangeResponse *page, struct ks_err *err)
{
	walk->cluster_id = page->header->cluster_id;
	if (walk->revision == 0)
		walk->revision = page->header->revision;
	return walk->begin ? walk->begin(walk, err) : KS_OK;
}

/* The last key with a zero byte behind it: where the next page begins. */
static enum ks_status after(const Mvccpb__KeyValue *kv, uint8_t **next, size_t *size, struct ks_err *err)
{
	uint8_t *copy = malloc(kv->key.len + 1);

	if (!copy)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	memcpy(copy, kv->key.data, kv->key.len);
	copy[kv->key.len] = 0;
	free(*next);
	*next = copy;
	*size = kv->key.len + 1;
	return KS_OK;
}

enum ks_status dpa_walk(struct dpa_upstream *up, struct dpa_walk *walk, struct ks_err *err)
{
	Etcdserverpb__RangeRequest request;
	uint8_t *next = NULL;
	enum ks_status status;
	bool first = true, more = true;

	dpa_range_init(up, &request);
	request.keys_only = walk->keys_only;
	request.revision = walk->revision;
	request.limit = up->config.page_keys > 0 && up->config.page_keys < PAGE_KEYS_FIRST ? up->config.page_keys
											   : PAGE_KEYS_FIRST;
	do {
		Etcdserverpb__RangeResponse *page;

		status = dpa_range(up, &request, DPA_PAGE_MS, &page, err);
		if (status != KS_OK && halve(status, &request.limit)) {
			status = KS_OK;
			continue;
		}
		if (status == KS_OK && first)
			status = first_page(walk, page, err);
		else if (status == KS_OK && page->header->cluster_id != walk->cluster_id)
			status = ks_fail(err, KS_ABORTED, "upstream became another cluster during a listing");
		if (status == KS_OK)
			status = visit_page(up, walk, page, ks_slice_of(next, next ? request.key.len - 1 : 0), err);
		if (status == KS_OK) {
			first = false;
			more = page->more && page->n_kvs > 0;
			request.revision = walk->revision;
			request.limit = next_limit(up, page, request.limit);
			if (more)
				status = after(page->kvs[page->n_kvs - 1], &next, &request.key.len, err);
			if (next)
				request.key.data = next;
		}
		etcdc_free(page);
	} while (status == KS_OK && more);
	free(next);
	return status;
}
