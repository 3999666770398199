/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A full listing of the prefix at one revision, page by page into a resync of the replica. A compaction between two pages starts it again.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/diag.h"
#include "mirror/upstream_priv.h"

#define ROUNDS 5

struct listing {
	struct dpa_walk walk; /* first */
	struct dpa_upstream *up;
	bool same_history;
	struct dpa_resync *resync;
};

static enum ks_status begin(struct dpa_walk *walk, struct ks_err *err)
{
	struct listing *listing = ks_container_of(walk, struct listing, walk);
	struct dpa_point point;
	bool continues;

	dpa_replica_point(listing->up->config.replica, &point);
	continues = walk->cluster_id == point.cluster_id && walk->revision >= point.up_revision;
	dpa_point_fini(&point);
	if (listing->same_history && !continues)
		return ks_fail(err, KS_ABORTED, "upstream became another one before a listing");
	listing->resync = dpa_resync_begin(listing->up->config.replica, walk->cluster_id, walk->revision,
					   listing->same_history, 0, err);
	return listing->resync ? KS_OK : err->status;
}

static enum ks_status take_key(struct dpa_walk *walk, const Mvccpb__KeyValue *kv, struct ks_err *err)
{
	struct listing *listing = ks_container_of(walk, struct listing, walk);
	const struct dpa_change change = {
		.revision = kv->mod_revision,
		.key = ks_slice_of(kv->key.data, kv->key.len),
		.value = ks_slice_of(kv->value.data, kv->value.len),
		.create_revision = kv->create_revision,
		.version = kv->version,
	};

	if (kv->mod_revision > walk->revision || kv->mod_revision < 1 || kv->create_revision < 1 || kv->version < 1)
		return ks_fail(err, KS_DATA_LOSS, "upstream listed a key with revisions that cannot be");
	return dpa_resync_key(listing->resync, &change, err);
}

/* What a person should know of the listing; it is in the replica. */
static void tell(struct dpa_upstream *up, const struct listing *listing, const struct dpa_resync_summary *summary)
{
	struct dpa_board *board = up->config.board;
	char text[256];

	dpa_board_begin(board)->resyncs++;
	dpa_board_end(board);
	if (summary->held) {
		(void)snprintf(
			text, sizeof(text),
			"upstream has no keys under \"%s\": the last good configuration is kept until it has some "
			"(--accept-empty takes an empty one)",
			dpa_replica_prefix(up->config.replica));
		dpa_board_alarm(board, DPA_ALARM_HELD, text);
		return;
	}
	dpa_board_alarm(board, DPA_ALARM_HELD, NULL);
	dpa_board_source(board, DPA_SOURCE_UPSTREAM);
	ks_diag(KS_INFO, "upstream",
		"listed the whole: history=%s revision=%" PRId64
		" put=%zu deleted=%zu same=%zu local_revision=%" PRId64,
		listing->same_history ? "same" : "other", listing->walk.revision, summary->put, summary->deleted,
		summary->same, summary->revision);
}

static enum ks_status list_once(struct dpa_upstream *up, bool same_history, struct ks_err *err)
{
	struct listing listing = {.walk = {.begin = begin, .key = take_key}, .up = up, .same_history = same_history};
	struct dpa_resync_summary summary;
	enum ks_status status = dpa_walk(up, &listing.walk, err);
	bool accept_empty;

	if (status != KS_OK) {
		if (listing.resync)
			dpa_resync_abort(listing.resync);
		return status;
	}
	ks_mutex_lock(&up->lock);
	accept_empty = up->config.accept_empty || up->accept_once;
	up->accept_once = false;
	ks_mutex_unlock(&up->lock);
	status = dpa_resync_end(listing.resync, accept_empty, &summary, err);
	if (status != KS_OK)
		return status;
	ks_mutex_lock(&up->lock);
	up->cluster_id = listing.walk.cluster_id;
	up->known = listing.walk.revision;
	up->held = summary.held;
	ks_mutex_unlock(&up->lock);
	tell(up, &listing, &summary);
	dpa_upstream_settle(up);
	return KS_OK;
}

enum ks_status dpa_list(struct dpa_upstream *up, bool same_history, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (int i = 0; i < ROUNDS; i++) {
		status = list_once(up, same_history, err);
		if (status == KS_OK || !dpa_is_compacted(err))
			break;
	}
	return status;
}
