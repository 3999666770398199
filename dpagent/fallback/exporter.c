/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backup's thread: an image of the replica becomes the next version in object storage, when keys changed and the interval is over.
 *
 *	list ──► is the newest ours? ──no──► read it: newer than what we have? ──yes──► leave it: somebody else is ahead
 *	 ▲               │ yes                        │ no
 *	 │               ▼                            ▼
 *	 └── taken ── create newest + 1, only if it is not there ──► delete what is too old
 *
 * A writer that slept between list and creation may find its name free because that version was deleted as too old. Then its object is too old
 * itself, the deletion finds it, and all begins anew.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "base/thread.h"
#include "fallback/bucket.h"

#define MIN_INTERVAL_MS 10000
#define KEEP 10
#define LEAST_KEPT 2
/* Without changes, so that readers see that the configuration is still confirmed. */
#define PROGRESS_MS 600000
/* Until it is asked whether the one that is ahead still is. */
#define BEHIND_MS 60000
#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 60000
#define REFUSED_MS 600000
#define RACES 5
/* How long a stop waits for the last export. */
#define STOP_MS 5000
/* Upstream was confirmed so much later with a lower revision: its history was set back. */
#define SET_BACK_MS 60000

struct dpa_exporter {
	struct dpa_exporter_config config;
	int64_t min_interval_ms;
	size_t keep;
	pthread_t thread;
	struct ks_mutex lock; /* a leaf: taken under the replica's. Guards the next three */
	struct ks_cond wake;
	bool changed, stopping, ended;
	/* The thread's own. */
	bool probed;  /* storage makes no object twice */
	uint64_t own; /* the version that we wrote last; 0: none */
	uint64_t own_tag;
	bool settled; /* these counters are in storage: */
	uint64_t changes, key_changes;
	int64_t written_ms;  /* monotonic: when the last export ended, well or not */
	int64_t progress_at; /* monotonic: when something is exported even without changes */
	int64_t retry_at;    /* monotonic; 0: the last one did not fail */
	bool warned_of_deletion;
	struct ks_backoff retry;
};

/* What is about to be written. */
struct draft {
	struct dpa_image image; /* as upstream has it */
	struct ks_buf bytes;
	uint64_t changes, key_changes;
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

void dpa_exporter_changed(struct dpa_exporter *exporter)
{
	ks_mutex_lock(&exporter->lock);
	if (!exporter->changed) {
		exporter->changed = true;
		ks_cond_signal(&exporter->wake);
	}
	ks_mutex_unlock(&exporter->lock);
}

/* ---- what is said ---- */

static void say_failed(struct dpa_exporter *exporter, const struct ks_err *err)
{
	struct dpa_status *status = dpa_board_begin(exporter->config.board);

	status->object_failures++;
	dpa_board_end(exporter->config.board);
	dpa_board_alarm(exporter->config.board, DPA_ALARM_OBJECT_ACCESS, err->text);
}

static void say_fenced(struct dpa_exporter *exporter)
{
	struct dpa_status *status = dpa_board_begin(exporter->config.board);

	status->object_fenced++;
	dpa_board_end(exporter->config.board);
}

/* The newest object, whoever wrote it. */
static void say_newest(struct dpa_exporter *exporter, uint64_t sequence, const struct dpa_image *image, int64_t bytes,
		       bool wrote)
{
	struct dpa_status *status = dpa_board_begin(exporter->config.board);

	dpa_bucket_name(exporter->config.bucket, sequence, status->object, sizeof(status->object));
	status->object_saved_ms = wrote ? dpa_wall_ms() : image->saved_ms;
	status->object_revision = image->up_revision;
	status->object_bytes = bytes;
	status->object_writes += wrote;
	dpa_board_end(exporter->config.board);
}

/* ---- one export ---- */

static void draft_fini(struct draft *draft)
{
	dpa_image_fini(&draft->image);
	ks_buf_fini(&draft->bytes);
}

/* KS_UNAVAILABLE: there is nothing yet. The counters are read before the image is: at worst it is written once more. */
static enum ks_status make_draft(struct dpa_exporter *exporter, struct draft *draft, struct ks_err *err)
{
	struct dpa_image whole = {0};
	struct dpa_point point;
	enum ks_status status;

	dpa_replica_point(exporter->config.replica, &point);
	draft->changes = point.changes;
	draft->key_changes = point.key_changes;
	dpa_point_fini(&point);
	status = dpa_replica_image(exporter->config.replica, &whole, err);
	if (status == KS_OK)
		status = dpa_image_plain(&whole, &draft->image, err);
	dpa_image_fini(&whole);
	/* Another machine's local revisions say nothing here. */
	draft->image.final = false;
	if (status == KS_OK)
		status = dpa_format_write(&draft->image, exporter->config.signer, dpa_wall_ms(), &draft->bytes, err);
	return status;
}

/* Is there anything but APISIX's markers? An upstream that was emptied must not empty machines that only have object storage. */
static bool has_keys(const struct dpa_image *image)
{
	struct ks_kv kv;

	for (size_t i = 0; i < image->key_count; i++)
		if (ks_kv_decode(ks_bytes_slice(image->keys[i].kv), &kv) && !dpa_is_marker(kv.value))
			return true;
	return false;
}

static struct dpa_point point_of(const struct dpa_image *image)
{
	return (struct dpa_point){.loaded = true,
				  .cluster_id = image->cluster_id,
				  .up_revision = image->up_revision,
				  .confirmed_ms = image->confirmed_ms};
}

enum verdict {
	WRITE,
	LEAVE,  /* it is there already */
	BEHIND, /* somebody else has a newer state */
};

/* 'there' is in storage and not ours, or from before we started. */
static enum ks_status compare(struct dpa_exporter *exporter, const struct dpa_image *ours,
			      const struct dpa_image *there, const struct dpa_version *version, enum verdict *verdict,
			      struct ks_err *err)
{
	struct dpa_point point = point_of(there);
	bool same = ours->cluster_id != 0 && ours->cluster_id == there->cluster_id;
	char name[256];

	if (dpa_image_newer(ours, &point)) {
		*verdict = WRITE;
	} else if (same && ours->up_revision == there->up_revision) {
		*verdict = ours->confirmed_ms >= there->confirmed_ms + PROGRESS_MS ? WRITE : LEAVE;
	} else {
		*verdict = BEHIND;
		say_fenced(exporter);
		if (same && ours->confirmed_ms > there->confirmed_ms + SET_BACK_MS) {
			dpa_bucket_name(exporter->config.bucket, version->sequence, name, sizeof(name));
			return ks_fail(err, KS_FAILED_PRECONDITION,
				       "%.80s has revision %" PRId64 ", upstream only %" PRId64
				       ": was it set back? Nothing is exported until that object is deleted",
				       name, there->up_revision, ours->up_revision);
		}
	}
	return KS_OK;
}

/* KS_OK with *verdict. An object that is damaged is as good as none, but its name is taken. */
static enum ks_status judge(struct dpa_exporter *exporter, const struct dpa_versions *versions,
			    const struct draft *draft, enum verdict *verdict, struct ks_err *err)
{
	const struct dpa_version *last = versions->count ? &versions->versions[versions->count - 1] : NULL;
	struct dpa_image there = {0};
	char fault[256] = "";
	enum ks_status status;
	size_t index = 0;

	*verdict = WRITE;
	if (!last || (last->sequence == exporter->own && last->tag == exporter->own_tag))
		return KS_OK;
	status = dpa_bucket_newest_of(exporter->config.bucket, versions, exporter->config.verifier, &there, &index,
				      fault, sizeof(fault), err);
	dpa_board_alarm(exporter->config.board, DPA_ALARM_OBJECT_INVALID, fault[0] ? fault : NULL);
	if (status == KS_OK) {
		status = compare(exporter, &draft->image, &there, &versions->versions[index], verdict, err);
		if (*verdict != WRITE)
			say_newest(exporter, versions->versions[index].sequence, &there, versions->versions[index].size,
				   false);
	}
	dpa_image_fini(&there);
	return status == KS_NOT_FOUND ? KS_OK : status;
}

/* Deletes what is too old. *late: so was ours. Who may not delete has somebody else do it. */
static enum ks_status prune(struct dpa_exporter *exporter, uint64_t ours, bool *late, struct ks_err *err)
{
	struct dpa_versions versions = {0};
	struct ks_err inner = {0};
	enum ks_status status = dpa_bucket_versions(exporter->config.bucket, &versions, err);
	size_t too_old = versions.count > exporter->keep ? versions.count - exporter->keep : 0;

	*late = false;
	exporter->own_tag = 0;
	for (size_t i = 0; status == KS_OK && i < versions.count; i++) {
		enum ks_status deleted = KS_OK;

		if (i < too_old) {
			*late = *late || versions.versions[i].sequence == ours;
			deleted = dpa_bucket_delete_version(exporter->config.bucket, versions.versions[i].sequence,
							    &inner);
		}
		if (versions.versions[i].sequence == ours)
			exporter->own_tag = versions.versions[i].tag;
		if (deleted == KS_CANCELLED)
			break;
		if (deleted != KS_OK && !exporter->warned_of_deletion) {
			exporter->warned_of_deletion = true;
			ks_diag(KS_WARN, "fallback", "old versions are not deleted, error=\"%s\"", inner.text);
		}
		if (deleted != KS_OK)
			i = too_old > 0 ? too_old - 1 : i; /* the others will not do better */
	}
	dpa_versions_fini(&versions);
	return status;
}

/* *done false: somebody was faster, begin anew. */
static enum ks_status try_export(struct dpa_exporter *exporter, struct draft *draft, enum verdict *verdict, bool *done,
				 struct ks_err *err)
{
	struct dpa_board *board = exporter->config.board;
	struct dpa_versions versions = {0};
	uint64_t sequence = 1;
	bool late = false;
	enum ks_status status = dpa_bucket_versions(exporter->config.bucket, &versions, err);

	*done = true;
	if (status == KS_OK)
		status = judge(exporter, &versions, draft, verdict, err);
	if (versions.count)
		sequence = versions.versions[versions.count - 1].sequence + 1;
	dpa_versions_fini(&versions);
	if (status == KS_OK && *verdict != WRITE)
		dpa_board_alarm(board, DPA_ALARM_OBJECT_ACCESS, NULL);
	if (status != KS_OK || *verdict != WRITE)
		return status;
	status = dpa_bucket_put_version(exporter->config.bucket, sequence,
					ks_slice_of(draft->bytes.data, draft->bytes.size), err);
	if (status == KS_OK) {
		exporter->own = sequence;
		status = prune(exporter, sequence, &late, err);
	}
	if (status == KS_ALREADY_EXISTS || (status == KS_OK && late)) {
		say_fenced(exporter);
		exporter->own = 0;
		*done = false;
		return KS_OK;
	}
	if (status == KS_OK) {
		say_newest(exporter, sequence, &draft->image, (int64_t)draft->bytes.size, true);
		dpa_board_alarm(board, DPA_ALARM_OBJECT_INVALID, NULL);
		dpa_board_alarm(board, DPA_ALARM_OBJECT_ACCESS, NULL);
	}
	return status;
}

static enum ks_status write_version(struct dpa_exporter *exporter, struct ks_err *err)
{
	struct draft draft = {0};
	enum verdict verdict = WRITE;
	enum ks_status status = KS_OK;
	bool done = false;

	if (!exporter->probed) {
		status = dpa_bucket_probe(exporter->config.bucket, err);
		if (status != KS_OK)
			return status;
		exporter->probed = true;
	}
	ks_buf_init(&draft.bytes, DPA_FORMAT_MAX);
	status = make_draft(exporter, &draft, err);
	done = status == KS_OK && !has_keys(&draft.image);
	for (int i = 0; i < RACES && status == KS_OK && !done; i++)
		status = try_export(exporter, &draft, &verdict, &done, err);
	if (status == KS_OK && done) {
		exporter->settled = true;
		exporter->changes = draft.changes;
		exporter->key_changes = draft.key_changes;
		exporter->progress_at = now_ms() + (verdict == BEHIND ? BEHIND_MS : PROGRESS_MS);
	}
	draft_fini(&draft);
	return status;
}

static void run_export(struct dpa_exporter *exporter)
{
	struct ks_err err = {0};
	struct dpa_point point;
	enum ks_status status;
	bool loaded;

	dpa_replica_point(exporter->config.replica, &point);
	loaded = point.loaded;
	dpa_point_fini(&point);
	status = loaded ? write_version(exporter, &err) : KS_OK;
	exporter->written_ms = now_ms();
	exporter->retry_at = 0;
	if (status == KS_OK)
		ks_backoff_succeeded(&exporter->retry);
	else if (status != KS_CANCELLED) {
		exporter->retry_at =
			now_ms() + (status == KS_UNIMPLEMENTED ? REFUSED_MS : ks_backoff_failed(&exporter->retry));
		say_failed(exporter, &err);
	}
}

/* ---- when ---- */

/* The next time at which something is to be done; -1: when something changes. *for_change: a change may bring it forward. */
static int64_t due_at(struct dpa_exporter *exporter, bool *for_change)
{
	int64_t allowed = exporter->written_ms + exporter->min_interval_ms, at = -1;
	struct dpa_point point;

	*for_change = false;
	if (exporter->retry_at)
		return exporter->retry_at;
	dpa_replica_point(exporter->config.replica, &point);
	if (point.loaded && (!exporter->settled || point.key_changes != exporter->key_changes)) {
		at = allowed;
	} else {
		*for_change = true;
		if (point.loaded && point.changes != exporter->changes)
			at = exporter->progress_at > allowed ? exporter->progress_at : allowed;
	}
	dpa_point_fini(&point);
	return at;
}

/* True when it is due, false at the stop. */
static bool wait_until_due(struct dpa_exporter *exporter)
{
	for (;;) {
		bool for_change, stopping;
		int64_t at = due_at(exporter, &for_change), left = at < 0 ? -1 : at - now_ms();

		if (at >= 0 && left <= 0)
			return true;
		ks_mutex_lock(&exporter->lock);
		while (!exporter->stopping && !(for_change && exporter->changed)) {
			left = at < 0 ? -1 : at - now_ms();
			if (at >= 0 && left <= 0)
				break;
			(void)ks_cond_wait(&exporter->wake, &exporter->lock, left);
		}
		exporter->changed = false;
		stopping = exporter->stopping;
		ks_mutex_unlock(&exporter->lock);
		if (stopping)
			return false;
	}
}

static bool is_stopping(struct dpa_exporter *exporter)
{
	bool stopping;

	ks_mutex_lock(&exporter->lock);
	stopping = exporter->stopping;
	ks_mutex_unlock(&exporter->lock);
	return stopping;
}

static void *run(void *arg)
{
	struct dpa_exporter *exporter = arg;
	bool for_change;
	int64_t at;

	while (wait_until_due(exporter) && !is_stopping(exporter))
		run_export(exporter);
	/* What changed within the last interval; not when storage was away just now. */
	exporter->written_ms = now_ms() - exporter->min_interval_ms;
	at = due_at(exporter, &for_change);
	if (!exporter->retry_at && at >= 0 && at <= now_ms())
		run_export(exporter);
	ks_mutex_lock(&exporter->lock);
	exporter->ended = true;
	ks_cond_broadcast(&exporter->wake);
	ks_mutex_unlock(&exporter->lock);
	return NULL;
}

struct dpa_exporter *dpa_exporter_start(const struct dpa_exporter_config *config, struct ks_err *err)
{
	struct dpa_exporter *exporter = ks_xcalloc(1, sizeof(*exporter));

	exporter->config = *config;
	exporter->min_interval_ms = config->min_interval_ms > 0 ? config->min_interval_ms : MIN_INTERVAL_MS;
	exporter->keep = config->keep > 0 ? (size_t)config->keep : KEEP;
	if (exporter->keep < LEAST_KEPT)
		exporter->keep = LEAST_KEPT;
	exporter->written_ms = now_ms() - exporter->min_interval_ms;
	ks_backoff_init(&exporter->retry, RETRY_MIN_MS, RETRY_MAX_MS, (uint64_t)now_ms() | 1);
	ks_mutex_init(&exporter->lock);
	ks_cond_init(&exporter->wake);
	if (ks_thread_start(&exporter->thread, "exporter", run, exporter, err) == KS_OK)
		return exporter;
	ks_cond_fini(&exporter->wake);
	ks_mutex_fini(&exporter->lock);
	free(exporter);
	return NULL;
}

void dpa_exporter_stop(struct dpa_exporter *exporter)
{
	int64_t until = now_ms() + STOP_MS;

	if (!exporter)
		return;
	ks_mutex_lock(&exporter->lock);
	exporter->stopping = true;
	ks_cond_broadcast(&exporter->wake);
	while (!exporter->ended && now_ms() < until)
		(void)ks_cond_wait(&exporter->wake, &exporter->lock, until - now_ms() > 0 ? until - now_ms() : 0);
	ks_mutex_unlock(&exporter->lock);
	/* Only what is still under way then is cut off. */
	dpa_bucket_cancel(exporter->config.bucket, true);
	ks_thread_join(exporter->thread);
	dpa_bucket_cancel(exporter->config.bucket, false);
	ks_cond_fini(&exporter->wake);
	ks_mutex_fini(&exporter->lock);
	free(exporter);
}
