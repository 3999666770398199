/* SPDX-License-Identifier: Apache-2.0 */
/* The saver's thread: it decides when, on the monotonic clock, so that a wall clock that jumps changes nothing. */
#include "snapshot/saver.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/panic.h"
#include "base/thread.h"

#define INTERVAL_MS 1000
#define PROGRESS_MS 60000
#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 30000
#define BUSY_SHARE 10 /* one part of so many may go into writing */

struct dpa_saver {
	struct dpa_disk *disk;
	struct dpa_replica *replica;
	struct dpa_board *board;
	int64_t interval_ms, progress_ms;
	pthread_t thread;
	struct ks_mutex lock; /* a leaf: taken under the replica's. Guards the next three */
	struct ks_cond wake;
	bool changed, stopping;
	/* The thread's own. */
	uint64_t saved_changes, saved_key_changes; /* the replica's counters as they were written */
	int64_t earliest_ms;                       /* not before, after what the last write took */
	int64_t written_ms;                        /* when the last write ended */
	bool failing;
	struct ks_backoff retry;
};

void dpa_saver_changed(struct dpa_saver *saver)
{
	ks_mutex_lock(&saver->lock);
	if (!saver->changed) {
		saver->changed = true;
		ks_cond_signal(&saver->wake);
	}
	ks_mutex_unlock(&saver->lock);
}

/* Until 'until_ms' (negative: for ever) or, when 'for_change', until something changed. False at the stop. */
static bool wait_until(struct dpa_saver *saver, int64_t until_ms, bool for_change)
{
	bool going;

	ks_mutex_lock(&saver->lock);
	while (!saver->stopping && !(for_change && saver->changed)) {
		int64_t left = until_ms < 0 ? -1 : until_ms - ks_clock_now(ks_clock_system());

		if (until_ms >= 0 && left <= 0)
			break;
		(void)ks_cond_wait(&saver->wake, &saver->lock, left);
	}
	going = !saver->stopping;
	ks_mutex_unlock(&saver->lock);
	return going;
}

/* What changes from here on counts as new. */
static void clear_changed(struct dpa_saver *saver)
{
	ks_mutex_lock(&saver->lock);
	saver->changed = false;
	ks_mutex_unlock(&saver->lock);
}

static void say_newest(struct dpa_saver *saver, bool wrote)
{
	struct dpa_disk_newest newest;
	struct dpa_status *status;

	if (!dpa_disk_newest(saver->disk, &newest))
		return;
	status = dpa_board_begin(saver->board);
	status->disk_saved_ms = newest.saved_ms;
	status->disk_revision = newest.revision;
	status->disk_bytes = newest.bytes;
	status->disk_writes += wrote;
	dpa_board_end(saver->board);
}

static void say_failed(struct dpa_saver *saver, const struct ks_err *err)
{
	struct dpa_status *status = dpa_board_begin(saver->board);

	status->disk_failures++;
	dpa_board_end(saver->board);
	dpa_board_alarm(saver->board, DPA_ALARM_DISK_WRITE, err->text);
	saver->failing = true;
}

/*
 * The counters are read before the image is: at worst it is written once more. KS_NOT_FOUND: nothing is loaded, so there is nothing
 * to write.
 */
static enum ks_status write_image(struct dpa_saver *saver, bool final, struct ks_err *err)
{
	struct dpa_image image = {0};
	struct dpa_point point;
	int64_t bytes = 0;
	enum ks_status status;

	dpa_replica_point(saver->replica, &point);
	status = dpa_replica_image(saver->replica, &image, err);
	if (status == KS_UNAVAILABLE) {
		status = KS_NOT_FOUND;
	} else if (status == KS_OK) {
		image.final = final;
		status = dpa_disk_save(saver->disk, &image, &bytes, err);
	}
	dpa_image_fini(&image);
	if (status == KS_OK) {
		saver->saved_changes = point.changes;
		saver->saved_key_changes = point.key_changes;
	}
	dpa_point_fini(&point);
	return status;
}

/* One try. */
static void save(struct dpa_saver *saver, bool final)
{
	int64_t began = ks_clock_now(ks_clock_system());
	struct ks_err err = {0};
	enum ks_status status = write_image(saver, final, &err);
	int64_t now = ks_clock_now(ks_clock_system());

	saver->written_ms = now;
	saver->earliest_ms = now + (now - began) * (BUSY_SHARE - 1);
	if (status == KS_OK) {
		ks_backoff_succeeded(&saver->retry);
		say_newest(saver, true);
		if (saver->failing)
			dpa_board_alarm(saver->board, DPA_ALARM_DISK_WRITE, NULL);
		saver->failing = false;
	} else if (status != KS_NOT_FOUND) {
		int64_t wait = ks_backoff_failed(&saver->retry);

		say_failed(saver, &err);
		if (saver->earliest_ms < now + wait)
			saver->earliest_ms = now + wait;
	}
}

enum due { NOTHING, PROGRESS, KEYS };

static enum due what_is_due(struct dpa_saver *saver)
{
	struct dpa_point point;
	enum due due = NOTHING;

	dpa_replica_point(saver->replica, &point);
	if (point.loaded && point.changes != saver->saved_changes)
		due = point.key_changes != saver->saved_key_changes ? KEYS : PROGRESS;
	dpa_point_fini(&point);
	return due;
}

static int64_t later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static void *run(void *arg)
{
	struct dpa_saver *saver = arg;
	enum due due = what_is_due(saver);
	bool going = true;

	while (going) {
		/* Progress waits for its time, a failed write for its next try; a change ends the waiting for the former. */
		int64_t until = due == NOTHING    ? -1
				: due == PROGRESS ? later(saver->written_ms + saver->progress_ms, saver->earliest_ms)
						  : later(0, saver->earliest_ms);

		going = wait_until(saver, until, due != KEYS);
		if (!going)
			break;
		if (due == NOTHING || (due == PROGRESS && ks_clock_now(ks_clock_system()) < until)) {
			/* Something happened: let others gather. */
			going = wait_until(saver, ks_clock_now(ks_clock_system()) + saver->interval_ms, false);
			clear_changed(saver);
			due = what_is_due(saver);
			continue;
		}
		clear_changed(saver);
		save(saver, false);
		due = what_is_due(saver);
	}
	save(saver, true);
	return NULL;
}

/* What the disk holds already need not be written: the state came from there. */
static void learn_what_is_saved(struct dpa_saver *saver)
{
	struct dpa_disk_newest newest;
	struct dpa_point point;

	dpa_replica_point(saver->replica, &point);
	if (dpa_disk_newest(saver->disk, &newest) && newest.cluster_id == point.cluster_id &&
	    newest.up_revision == point.up_revision && newest.revision == point.revision) {
		saver->saved_changes = point.changes;
		saver->saved_key_changes = point.key_changes;
	} else {
		saver->saved_changes = saver->saved_key_changes = UINT64_MAX;
	}
	dpa_point_fini(&point);
}

struct dpa_saver *dpa_saver_start(const struct dpa_saver_config *config, struct ks_err *err)
{
	struct dpa_saver *saver = ks_xcalloc(1, sizeof(*saver));

	saver->disk = config->disk;
	saver->replica = config->replica;
	saver->board = config->board;
	saver->interval_ms = config->interval_ms ? config->interval_ms : INTERVAL_MS;
	saver->progress_ms = config->progress_ms ? config->progress_ms : PROGRESS_MS;
	saver->written_ms = ks_clock_now(ks_clock_system());
	ks_mutex_init(&saver->lock);
	ks_cond_init(&saver->wake);
	ks_backoff_init(&saver->retry, RETRY_MIN_MS, RETRY_MAX_MS, (uint64_t)(uintptr_t)saver);
	learn_what_is_saved(saver);
	say_newest(saver, false);
	if (ks_thread_start(&saver->thread, "saver", run, saver, err) == KS_OK)
		return saver;
	ks_cond_fini(&saver->wake);
	ks_mutex_fini(&saver->lock);
	free(saver);
	return NULL;
}

void dpa_saver_stop(struct dpa_saver *saver)
{
	if (!saver)
		return;
	ks_mutex_lock(&saver->lock);
	saver->stopping = true;
	ks_cond_signal(&saver->wake);
	ks_mutex_unlock(&saver->lock);
	ks_thread_join(saver->thread);
	ks_cond_fini(&saver->wake);
	ks_mutex_fini(&saver->lock);
	free(saver);
}
