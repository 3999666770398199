/* SPDX-License-Identifier: Apache-2.0 */
/* The traffic node's side: while upstream is away, the newest valid version in object storage is applied when it is newer than what is served. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/panic.h"
#include "base/thread.h"
#include "fallback/bucket.h"

#define INTERVAL_MS 30000

struct dpa_importer {
	struct dpa_importer_config config;
	int64_t interval_ms;
	pthread_t thread;
	struct ks_mutex lock; /* guards the next four */
	struct ks_cond wake;
	bool stopping;
	bool wanted, done, applied; /* a look that dpa_importer_look waits for, and its result */
	struct ks_mutex looking;    /* guards the rest; held during a look */
	struct dpa_version seen;    /* the newest one when it was looked at last: valid, read to its end, and settled */
};

static void say_failed(struct dpa_importer *importer, const struct ks_err *err)
{
	struct dpa_status *status = dpa_board_begin(importer->config.board);

	status->object_failures++;
	dpa_board_end(importer->config.board);
	dpa_board_alarm(importer->config.board, DPA_ALARM_OBJECT_ACCESS, err->text);
}

static void say_read(struct dpa_importer *importer, const struct dpa_version *version, const struct dpa_image *image)
{
	struct dpa_status *status = dpa_board_begin(importer->config.board);

	dpa_bucket_name(importer->config.bucket, version->sequence, status->object, sizeof(status->object));
	status->object_saved_ms = image->saved_ms;
	status->object_revision = image->up_revision;
	status->object_bytes = version->size;
	status->object_reads++;
	dpa_board_end(importer->config.board);
}

static bool is_connected(struct dpa_importer *importer)
{
	struct dpa_status status;

	dpa_board_read(importer->config.board, &status);
	return status.connected;
}

/*
 * Is there something newer, and is it applied? The replica looks once more under its lock: upstream may be back by then. *settled: the same image
 * need not be looked at again. It must be after what passes by itself: a listing of upstream's that was under way, short memory.
 */
static bool apply(struct dpa_importer *importer, const struct dpa_image *image, const char *name, bool *settled)
{
	struct dpa_resync_summary summary;
	struct ks_err err = {0};
	struct dpa_point point;
	enum ks_status status;
	bool newer;

	dpa_replica_point(importer->config.replica, &point);
	newer = dpa_image_newer(image, &point);
	dpa_point_fini(&point);
	*settled = true;
	if (!newer)
		return false;
	status = dpa_replica_resync_image(importer->config.replica, image, &summary, &err);
	*settled = status == KS_OK || status == KS_DATA_LOSS || status == KS_INVALID_ARGUMENT;
	if (status == KS_ABORTED)
		return false;
	if (status != KS_OK) {
		struct ks_err named;

		(void)ks_fail(&named, status, "%.120s: %.120s", name, err.text);
		if (status == KS_DATA_LOSS || status == KS_INVALID_ARGUMENT)
			dpa_board_alarm(importer->config.board, DPA_ALARM_OBJECT_INVALID, named.text);
		else
			say_failed(importer, &named);
		return false;
	}
	if (summary.held)
		return false;
	/* Upstream may have been faster than this line; what it says last counts. */
	if (!is_connected(importer))
		dpa_board_source(importer->config.board, DPA_SOURCE_OBJECT);
	ks_diag(KS_INFO, "fallback", "applied from object storage, object=%s put=%zu deleted=%zu same=%zu", name,
		summary.put, summary.deleted, summary.same);
	return true;
}

/* 'looking' is held. */
static bool look(struct dpa_importer *importer)
{
	struct dpa_bucket *bucket = importer->config.bucket;
	struct dpa_versions versions = {0};
	struct dpa_image image = {0};
	struct ks_err err = {0};
	char fault[256] = "", name[256];
	const struct dpa_version *last;
	bool applied = false, settled;
	size_t index = 0;
	enum ks_status status = dpa_bucket_versions(bucket, &versions, &err);

	if (status != KS_OK) {
		if (status != KS_CANCELLED)
			say_failed(importer, &err);
		dpa_versions_fini(&versions);
		return false;
	}
	last = versions.count ? &versions.versions[versions.count - 1] : NULL;
	if (!last || (last->sequence == importer->seen.sequence && last->tag == importer->seen.tag)) {
		dpa_board_alarm(importer->config.board, DPA_ALARM_OBJECT_ACCESS, NULL);
		dpa_versions_fini(&versions);
		return false;
	}
	status = dpa_bucket_newest_of(bucket, &versions, importer->config.verifier, &image, &index, fault,
				      sizeof(fault), &err);
	if (status == KS_OK || status == KS_NOT_FOUND) {
		dpa_board_alarm(importer->config.board, DPA_ALARM_OBJECT_ACCESS, NULL);
		dpa_board_alarm(importer->config.board, DPA_ALARM_OBJECT_INVALID, fault[0] ? fault : NULL);
	} else if (status != KS_CANCELLED) {
		say_failed(importer, &err);
	}
	if (status == KS_OK) {
		dpa_bucket_name(bucket, versions.versions[index].sequence, name, sizeof(name));
		say_read(importer, &versions.versions[index], &image);
		applied = apply(importer, &image, name, &settled);
		/* One that was passed over may be replaced without a new number: it is looked at again. */
		importer->seen = fault[0] || !settled ? (struct dpa_version){0} : *last;
	}
	dpa_image_fini(&image);
	dpa_versions_fini(&versions);
	return applied;
}

bool dpa_importer_once(struct dpa_importer *importer)
{
	bool applied;

	ks_mutex_lock(&importer->looking);
	applied = look(importer);
	ks_mutex_unlock(&importer->looking);
	return applied;
}

bool dpa_importer_look(struct dpa_importer *importer, int64_t wait_ms)
{
	int64_t until = ks_clock_now(ks_clock_system()) + wait_ms;
	bool applied;

	ks_mutex_lock(&importer->lock);
	importer->wanted = true;
	importer->done = importer->applied = false;
	ks_cond_broadcast(&importer->wake);
	while (!importer->done) {
		int64_t left = until - ks_clock_now(ks_clock_system());

		if (left <= 0)
			break;
		(void)ks_cond_wait(&importer->wake, &importer->lock, left);
	}
	applied = importer->applied;
	ks_mutex_unlock(&importer->lock);
	return applied;
}

enum turn { LOOK, LOOK_WANTED, STOP };

static enum turn wait_turn(struct dpa_importer *importer)
{
	int64_t until = ks_clock_now(ks_clock_system()) + importer->interval_ms;
	enum turn turn = LOOK;

	ks_mutex_lock(&importer->lock);
	while (!importer->stopping && !importer->wanted) {
		int64_t left = until - ks_clock_now(ks_clock_system());

		if (left <= 0)
			break;
		(void)ks_cond_wait(&importer->wake, &importer->lock, left);
	}
	if (importer->stopping)
		turn = STOP;
	else if (importer->wanted)
		turn = LOOK_WANTED;
	importer->wanted = false;
	ks_mutex_unlock(&importer->lock);
	return turn;
}

static void *run(void *arg)
{
	struct dpa_importer *importer = arg;
	enum turn turn;

	while ((turn = wait_turn(importer)) != STOP) {
		bool applied = (turn == LOOK_WANTED || !is_connected(importer)) && dpa_importer_once(importer);

		if (turn != LOOK_WANTED)
			continue;
		ks_mutex_lock(&importer->lock);
		importer->applied = applied;
		importer->done = true;
		ks_cond_broadcast(&importer->wake);
		ks_mutex_unlock(&importer->lock);
	}
	return NULL;
}

struct dpa_importer *dpa_importer_start(const struct dpa_importer_config *config, struct ks_err *err)
{
	struct dpa_importer *importer = ks_xcalloc(1, sizeof(*importer));

	importer->config = *config;
	importer->interval_ms = config->interval_ms > 0 ? config->interval_ms : INTERVAL_MS;
	ks_mutex_init(&importer->lock);
	ks_mutex_init(&importer->looking);
	ks_cond_init(&importer->wake);
	if (ks_thread_start(&importer->thread, "importer", run, importer, err) == KS_OK)
		return importer;
	ks_cond_fini(&importer->wake);
	ks_mutex_fini(&importer->looking);
	ks_mutex_fini(&importer->lock);
	free(importer);
	return NULL;
}

void dpa_importer_stop(struct dpa_importer *importer)
{
	if (!importer)
		return;
	ks_mutex_lock(&importer->lock);
	importer->stopping = true;
	ks_cond_broadcast(&importer->wake);
	ks_mutex_unlock(&importer->lock);
	dpa_bucket_cancel(importer->config.bucket, true);
	ks_thread_join(importer->thread);
	dpa_bucket_cancel(importer->config.bucket, false);
	ks_cond_fini(&importer->wake);
	ks_mutex_fini(&importer->looking);
	ks_mutex_fini(&importer->lock);
	free(importer);
}
