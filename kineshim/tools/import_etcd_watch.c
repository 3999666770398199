/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What follows the snapshot: one watch on everything, opened again when it breaks, whose revisions become entries.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/import_etcd.h"

/* ---- revisions ---- */

static struct ks_slice slice_of(const ProtobufCBinaryData *data)
{
	return ks_slice_of(data->data, data->len);
}

/* The changes of one revision. */
static enum ks_status bring_revision(struct ks_import_source *source, struct ks_import_target *target,
				     Mvccpb__Event *const *events, size_t count, struct ks_err *err)
{
	int64_t revision = events[0]->kv->mod_revision;

	if (revision <= source->reached)
		return KS_OK; /* once more after the stream broke */
	if (revision != source->reached + 1)
		return ks_fail(err, KS_DATA_LOSS,
			       "%s skipped revisions: after %" PRId64 " came %" PRId64
			       "; what lies between is lost, so import it into a new database",
			       source->place, source->reached, revision);
	for (size_t i = 0; i < count; i++) {
		const Mvccpb__KeyValue *kv = events[i]->kv;
		enum ks_status status = KS_OK;

		if (events[i]->type == MVCCPB__EVENT__EVENT_TYPE__PUT && kv->lease &&
		    !ks_import_etcd_knows_lease(target, kv->lease))
			status = ks_import_etcd_bring_lease(source, target, kv->lease, err);
		if (status != KS_OK)
			return status;
	}
	ks_import_entry_begin(target, revision);
	for (size_t i = 0; i < count; i++) {
		const Mvccpb__KeyValue *kv = events[i]->kv;
		bool put = events[i]->type == MVCCPB__EVENT__EVENT_TYPE__PUT;
		struct sqlb_row row = {.kind = put ? KS_EFFECT_PUT : KS_EFFECT_DELETE, .key = slice_of(&kv->key)};

		if (put) {
			row.value = slice_of(&kv->value);
			row.create_revision = kv->create_revision;
			row.version = kv->version;
			row.lease = kv->lease;
		}
		ks_import_entry_add(target, &row);
	}
	source->reached = revision;
	return ks_import_entry_end(target, err);
}

/* Whole revisions only: fragments were put together. */
static enum ks_status bring_events(struct ks_import_source *source, struct ks_import_target *target,
				   Mvccpb__Event *const *events, size_t count, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (size_t i = 0; i < count; i++)
		if (!events[i]->kv)
			return ks_fail(err, KS_INTERNAL, "%s: an event has no key", source->place);
	for (size_t from = 0, to; status == KS_OK && from < count; from = to) {
		for (to = from + 1; to < count && events[to]->kv->mod_revision == events[from]->kv->mod_revision; to++)
			;
		status = bring_revision(source, target, events + from, to - from, err);
	}
	return status;
}

/* ---- responses ---- */

static void drop_parts(struct ks_import_source *source)
{
	for (size_t i = 0; i < source->part_count; i++)
		etcdc_free(source->parts[i]);
	free(source->parts);
	source->parts = NULL;
	source->part_count = 0;
}

static enum ks_status refused(struct ks_import_source *source, const Etcdserverpb__WatchResponse *response,
			      struct ks_err *err)
{
	if (response->compact_revision > 0)
		return ks_fail(err, KS_OUT_OF_RANGE,
			       "%s was compacted at revision %" PRId64 " while this import was at %" PRId64
			       ": the changes in between are gone there; import it into a new database",
			       source->place, response->compact_revision, source->reached);
	if (strstr(response->cancel_reason, "permission denied"))
		return ks_fail(err, KS_PERMISSION_DENIED, "%s: watch: %s; it takes a user with the role root",
			       source->place, response->cancel_reason);
	/* A token that has ended, a member that lost its leader. */
	return ks_fail(err, KS_UNAVAILABLE, "%s: watch: %s", source->place,
		       *response->cancel_reason ? response->cancel_reason : "cancelled");
}

/* Takes the message's events. */
static enum ks_status bring_response(struct ks_import_source *source, struct ks_import_target *target,
				     Etcdserverpb__WatchResponse *response, struct ks_err *err)
{
	size_t count = source->part_count + response->n_events;
	Mvccpb__Event **all;
	enum ks_status status = KS_OK;

	if (response->canceled || response->compact_revision > 0)
		return refused(source, response, err);
	if (response->header && response->header->cluster_id != source->cluster_id)
		return ks_fail(err, KS_FAILED_PRECONDITION, "%s: another cluster answers now: %" PRIx64, source->place,
			       response->header->cluster_id);
	if (response->n_events == 0 && source->part_count == 0)
		return KS_OK;
	all = reallocarray(source->parts, count ? count : 1, sizeof(*all));
	if (!all)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory");
	source->parts = all;
	for (size_t i = 0; i < response->n_events; i++)
		all[source->part_count++] = response->events[i];
	response->n_events = 0;
	if (response->fragment)
		return KS_OK;
	status = bring_events(source, target, source->parts, source->part_count, err);
	drop_parts(source);
	return status;
}

/* ---- the stream ---- */

static enum ks_status open_watch(struct ks_import_source *source, struct ks_err *err)
{
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	uint8_t everything[1] = {0};
	uint64_t cluster_id = 0;
	int64_t newest = 0;
	enum ks_status status =
		ks_import_etcd_ask_head(source, 0, &cluster_id, &newest, err); /* and log in, for the stream */

	if (status != KS_OK)
		return status;
	if (cluster_id != source->cluster_id || newest < source->reached)
		return ks_fail(err, KS_FAILED_PRECONDITION,
			       "%s is not what it was: cluster %" PRIx64 " at revision %" PRId64 ", before %" PRIx64
			       " at %" PRId64 "; import it into a new database",
			       source->place, cluster_id, newest, source->cluster_id, source->reached);
	source->watch = etcdc_stream_open(source->client, &etcdc_method_watch, NULL);
	create.key = create.range_end = (ProtobufCBinaryData){1, everything};
	create.start_revision = source->reached + 1;
	create.fragment = true;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	(void)etcdc_stream_send(source->watch, &request); /* if it fails the stream has ended, and says why */
	return KS_OK;
}

void ks_import_etcd_drop_watch(struct ks_import_source *source)
{
	etcdc_stream_close(source->watch);
	source->watch = NULL;
	drop_parts(source);
}

/* Errors that pass: everything but what says that the answer will always be the same. */
static bool passes(enum ks_status status)
{
	switch (status) {
	case KS_OUT_OF_RANGE:
	case KS_FAILED_PRECONDITION:
	case KS_DATA_LOSS:
	case KS_PERMISSION_DENIED:
	case KS_INVALID_ARGUMENT:
	case KS_RESOURCE_EXHAUSTED:
	case KS_UNIMPLEMENTED:
		return false;
	default:
		return true;
	}
}

static enum ks_status retry_later(struct ks_import_source *source, const struct ks_err *err)
{
	char text[KS_ERR_TEXT_MAX + 64];

	ks_import_etcd_drop_watch(source);
	if (!source->away) {
		(void)snprintf(text, sizeof(text), "the source is away, trying again: %s", err->text);
		source->config->said(text);
	}
	source->away = true;
	source->retry_at_ms = ks_import_etcd_now_ms() + ks_backoff_failed(&source->backoff);
	return KS_OK;
}

static enum ks_status poll_watch(struct ks_import_source *source, struct ks_import_target *target, int64_t until_ms,
				 struct ks_err *err)
{
	struct etcdc_err failed = {0};
	void *message = NULL;
	enum ks_status status = KS_OK;
	int64_t left_ms = until_ms - ks_import_etcd_now_ms();

	/* What is there already comes without waiting, but not for ever. */
	status = etcdc_stream_recv(source->watch, left_ms > 0 ? left_ms : 0, &message, &failed);
	if (status == KS_DEADLINE_EXCEEDED && strcmp(failed.text, "no message yet") == 0)
		return KS_OK;
	if (status != KS_OK)
		return ks_import_etcd_failed(source, "watch", &failed, err);
	if (!message)
		return ks_fail(err, KS_UNAVAILABLE, "%s ended the watch", source->place);
	status = bring_response(source, target, message, err);
	etcdc_free(message);
	if (status == KS_OK && source->away) {
		source->away = false;
		source->config->said("the source answers again");
	}
	if (status == KS_OK)
		ks_backoff_succeeded(&source->backoff);
	return status;
}

/* ---- the calls ---- */

enum ks_status ks_import_etcd_follow(struct ks_import_source *source, struct ks_import_target *target,
				     struct ks_err *err)
{
	const struct ks_import_known *known = ks_import_target_known(target);
	int64_t newest = 0;
	uint64_t cluster_id = 0;
	enum ks_status status;

	ks_import_etcd_drop_snapshot(source);
	source->reached = known->revision;
	status = ks_import_etcd_ask_head(source, 0, &cluster_id, &newest, err);
	if (status == KS_OK && newest < known->revision)
		return ks_fail(
			err, KS_FAILED_PRECONDITION,
			"%s is at revision %" PRId64 ", but revision %" PRId64
			" of it was imported already: it was restored from a backup, or is another one; import it "
			"into a new database",
			source->place, newest, known->revision);
	return status;
}

enum ks_status ks_import_etcd_poll(struct ks_import_source *source, struct ks_import_target *target, int wait_ms,
				   struct ks_err *err)
{
	int64_t until_ms = ks_import_etcd_now_ms() + wait_ms;
	enum ks_status status = KS_OK;

	while (status == KS_OK && ks_import_etcd_now_ms() < until_ms && !source->config->give_up()) {
		if (!source->watch && source->retry_at_ms > ks_import_etcd_now_ms())
			(void)poll(NULL, 0, 10);
		else if (!source->watch)
			status = open_watch(source, err);
		else
			status = poll_watch(source, target, until_ms, err);
	}
	if (status != KS_OK && passes(status))
		status = retry_later(source, err);
	return status;
}
