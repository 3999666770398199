/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the upstream's thread does while the watch lives.
 *
 *	silence for idle_ms       ask for progress
 *	again no word             open the watch anew: a server that knows no progress requests (etcd 3.3) answers at least that
 *	no answer to that either  the server is gone: next endpoint, judge again
 *	progress was announced    believe it after a second without events that contradict it
 *	held, and a key appeared  wait a little for the others, and list
 *	from time to time         compare keys and revisions
 */
#include <inttypes.h>

#include "base/diag.h"
#include "mirror/upstream_priv.h"

#define IDLE_MS 10000
#define SETTLE_MS 1000   /* an announced revision is believed */
#define REFILL_MS 200    /* after the first key that appears */
#define CATCH_UP_MS 2000 /* the longest that a start waits for a watch that has nothing to say */
#define LOOK_MS 50
#define STEADY_MS 5000 /* a watch that lived for so long was a success */

static int64_t idle_of(const struct dpa_upstream *up)
{
	return up->config.idle_ms > 0 ? up->config.idle_ms : IDLE_MS;
}

static bool must_leave(const struct dpa_upstream *up) KS_REQUIRES(up->lock)
{
	return up->stopping || up->leave != DPA_STAY;
}

struct seen {
	bool leave, refilled, held;
	int64_t heard_ms;
	bool progress_due;
};

static struct seen look(struct dpa_upstream *up)
{
	struct seen seen;

	ks_mutex_lock(&up->lock);
	seen = (struct seen){
		.leave = must_leave(up),
		.refilled = up->refilled,
		.held = up->held,
		.heard_ms = up->heard_ms,
		.progress_due = up->progress && dpa_now_ms() - up->progress_ms >= SETTLE_MS,
	};
	ks_mutex_unlock(&up->lock);
	return seen;
}

/* Opens the watch and waits for its server's word; false when it is silent, or the watch is to be left. */
static bool open_watch(struct dpa_upstream *up)
{
	int64_t wait_ms = idle_of(up) < DPA_ASK_MS ? idle_of(up) : DPA_ASK_MS;
	int64_t until_ms = dpa_now_ms() + (wait_ms > 1000 ? wait_ms : 1000), left_ms;
	bool good;

	dpa_watch_open(up);
	ks_mutex_lock(&up->lock);
	while (!up->created && !must_leave(up) && (left_ms = until_ms - dpa_now_ms()) > 0)
		(void)ks_cond_wait(&up->changed, &up->lock, left_ms);
	good = up->created && !must_leave(up);
	ks_mutex_unlock(&up->lock);
	return good;
}

/* Object storage may have given the replica another state between the judgement and now. */
static bool is_still_ours(struct dpa_upstream *up)
{
	struct dpa_point point;
	int64_t before, after;
	bool ours, held;

	do {
		ks_mutex_lock(&up->lock);
		before = up->known;
		ks_mutex_unlock(&up->lock);
		dpa_replica_point(up->config.replica, &point);
		ks_mutex_lock(&up->lock);
		after = up->known;
		held = up->held;
		ours = point.cluster_id == up->cluster_id && point.up_revision == after;
		ks_mutex_unlock(&up->lock);
		dpa_point_fini(&point);
	} while (before != after);
	return held || ours;
}

static void set_connected(struct dpa_upstream *up)
{
	struct dpa_board *board = up->config.board;
	bool held;

	ks_mutex_lock(&up->lock);
	up->connected = true;
	held = up->held;
	ks_mutex_unlock(&up->lock);
	if (up->was_connected) {
		dpa_board_begin(board)->reconnects++;
		dpa_board_end(board);
	}
	if (up->failing)
		KS_DIAG_LIMITED(KS_INFO, "upstream", "connected again endpoint=%s", etcdc_endpoint(up->config.client));
	up->was_connected = true;
	up->failing = false;
	dpa_board_alarm(board, DPA_ALARM_UPSTREAM_TLS, NULL);
	if (!held)
		dpa_board_source(board, DPA_SOURCE_UPSTREAM);
	dpa_board_connected(board, true, etcdc_endpoint(up->config.client));
}

static bool is_behind(const struct dpa_upstream *up) KS_REQUIRES(up->lock)
{
	return !up->settled && !must_leave(up) && up->known < up->goal;
}

/* Waits for an event, or for some time. False when there is nothing to wait for any more. */
static bool wait_for_event(struct dpa_upstream *up, int64_t wait_ms)
{
	bool behind;

	ks_mutex_lock(&up->lock);
	up->eager = true;
	if (is_behind(up))
		(void)ks_cond_wait(&up->changed, &up->lock, wait_ms);
	behind = is_behind(up);
	up->eager = false;
	ks_mutex_unlock(&up->lock);
	return behind;
}

/* At the start: until what was there when the watch was opened has come. Upstream is asked, at longer and longer intervals, as it may have to
 * read all keys for that. */
static void catch_up(struct dpa_upstream *up)
{
	int64_t until_ms = dpa_now_ms() + CATCH_UP_MS, look_ms = dpa_now_ms() + LOOK_MS, wait_ms = LOOK_MS;

	etcdc_watch_request_progress(up->config.client);
	while (dpa_now_ms() < until_ms && wait_for_event(up, LOOK_MS)) {
		if (dpa_now_ms() < look_ms)
			continue;
		if (dpa_is_current(up))
			break;
		wait_ms *= 2;
		look_ms = dpa_now_ms() + wait_ms;
	}
	if (!look(up).leave)
		dpa_upstream_settle(up);
}

/* ---- in between ---- */

/* Moves the replica to the revision that was announced a while ago. */
static void believe(struct dpa_upstream *up)
{
	enum ks_status status = KS_OK;
	struct ks_err err;

	/* With the lock: the call-back must not apply an event of before meanwhile. */
	ks_mutex_lock(&up->lock);
	if (up->progress > up->known && !must_leave(up)) {
		up->known = up->progress;
		if (!up->held)
			status = dpa_replica_progress(up->config.replica, up->known, &err);
		if (status != KS_OK) {
			up->leave = DPA_LEAVE_LIST;
			up->why = err;
		}
	}
	up->progress = 0;
	ks_mutex_unlock(&up->lock);
}

/* Not failing is not being connected: a failed verification is tried again the next time. */
static void verify(struct dpa_upstream *up)
{
	struct dpa_board *board = up->config.board;
	uint64_t differences = 0;
	struct dpa_status *status;
	struct ks_err err;

	up->verify_at_ms = dpa_now_ms() + up->config.verify_interval_ms;
	if (dpa_verify(up, &differences, &err) != KS_OK) {
		KS_DIAG_LIMITED(KS_INFO, "upstream", "verification not finished: %s", err.text);
		return;
	}
	status = dpa_board_begin(board);
	status->verifications++;
	status->repairs += differences;
	dpa_board_end(board);
	if (differences == 0)
		return;
	ks_diag(KS_WARN, "upstream", "verification found differences, listing the whole keys=%" PRIu64, differences);
	ks_mutex_lock(&up->lock);
	if (up->leave == DPA_STAY) {
		up->leave = DPA_LEAVE_LIST;
		(void)ks_fail(&up->why, KS_OUT_OF_RANGE, "verification found differences");
	}
	ks_mutex_unlock(&up->lock);
}

static int64_t min_of(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Waits for the next thing to do, at most until something of the watch changes. What is due is looked at by the caller. */
static void wait_for_due(struct dpa_upstream *up, int64_t silent_at_ms)
{
	int64_t due_ms = silent_at_ms;

	ks_mutex_lock(&up->lock);
	if (up->progress)
		due_ms = min_of(due_ms, up->progress_ms + SETTLE_MS);
	if (up->config.verify_interval_ms > 0 && !up->held)
		due_ms = min_of(due_ms, up->verify_at_ms);
	if (!must_leave(up) && !up->refilled && due_ms > dpa_now_ms())
		(void)ks_cond_wait(&up->changed, &up->lock, due_ms - dpa_now_ms());
	ks_mutex_unlock(&up->lock);
}

static void sleep_a_little(struct dpa_upstream *up, int64_t wait_ms)
{
	int64_t until_ms = dpa_now_ms() + wait_ms, left_ms;

	ks_mutex_lock(&up->lock);
	while (!up->stopping && (left_ms = until_ms - dpa_now_ms()) > 0)
		(void)ks_cond_wait(&up->changed, &up->lock, left_ms);
	ks_mutex_unlock(&up->lock);
}

/* Asked in vain: is it only this request? False when upstream does not even open a watch. */
static bool open_anew(struct dpa_upstream *up)
{
	dpa_watch_close(up);
	if (open_watch(up)) {
		if (!look(up).held)
			dpa_replica_confirm(up->config.replica);
		return true;
	}
	return look(up).leave;
}

/* Why the watch was left; KS_OK when it is to be judged, or listed, without delay. */
static enum ks_status reason(struct dpa_upstream *up, struct ks_err *err)
{
	enum ks_status status;

	ks_mutex_lock(&up->lock);
	*err = up->why;
	up->must_list |= up->leave == DPA_LEAVE_LIST;
	status = up->stopping || up->why.status == KS_OUT_OF_RANGE ? KS_OK : up->why.status;
	ks_mutex_unlock(&up->lock);
	return status;
}

static enum ks_status attend(struct dpa_upstream *up, struct ks_err *err)
{
	int64_t asked_ms = 0;

	for (;;) {
		struct seen seen = look(up);
		int64_t now_ms = dpa_now_ms(), idle_ms = idle_of(up);

		if (seen.leave)
			return reason(up, err);
		if (seen.refilled) {
			sleep_a_little(up, REFILL_MS);
			up->must_list = true;
			return KS_OK;
		}
		if (asked_ms && seen.heard_ms >= asked_ms)
			asked_ms = 0;
		if (seen.progress_due)
			believe(up);
		if (up->config.verify_interval_ms > 0 && !seen.held && now_ms >= up->verify_at_ms) {
			verify(up);
		} else if (asked_ms && now_ms - asked_ms >= idle_ms) {
			asked_ms = 0;
			if (!open_anew(up)) {
				etcdc_watch_suspect(up->config.client);
				return ks_fail(err, KS_UNAVAILABLE, "upstream is silent");
			}
		} else if (!asked_ms && now_ms - seen.heard_ms >= idle_ms) {
			asked_ms = now_ms;
			etcdc_watch_request_progress(up->config.client);
		} else {
			wait_for_due(up, (asked_ms ? asked_ms : seen.heard_ms) + idle_ms);
		}
	}
}

enum ks_status dpa_attend(struct dpa_upstream *up, struct ks_err *err)
{
	enum ks_status status = KS_OK;

	if (!open_watch(up)) {
		if (look(up).leave) {
			status = reason(up, err);
		} else {
			etcdc_watch_suspect(up->config.client);
			status = ks_fail(err, KS_UNAVAILABLE, "upstream does not answer to a watch");
		}
	} else {
		int64_t since_ms = dpa_now_ms();

		set_connected(up);
		if (!is_still_ours(up)) {
			status = ks_fail(err, KS_ABORTED, "the state has changed meanwhile");
		} else {
			up->must_list = false;
			catch_up(up);
			status = attend(up, err);
		}
		/* What fails at once, again and again, is to be tried at longer and longer intervals. */
		if (dpa_now_ms() - since_ms >= STEADY_MS)
			ks_backoff_succeeded(&up->backoff);
	}
	dpa_watch_close(up);
	return status;
}
