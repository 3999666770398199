/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outcomes of an append:
 *   OK        publish, answer.
 *   CONFLICT  somebody was faster. The rows at our position say who; when they are ours after all, it had landed. Else the
 *             tail is rolled back, what others wrote is applied, and the requests go back to the front of the queue.
 *   DOUBT     the same rows are appended at the same positions until a row there settles it: ours, it landed; anybody
 *             else's, it never will. Nobody gets an answer before that.
 *   AWAY      nothing happened: back to the queue, where requests wait until their time is over.
 *   BROKEN    the same, and new requests are refused until a slow retry finds that the tables are whole.
 */
#include "base/diag.h"
#include "log/writer.h"

/* The guard of the lease table found one whose deadline has moved. Which one shows when each is tried alone. */
static void guard_refused(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count == 1) {
		ks_log_batch_fail(log, KS_ABORTED, "the lease is not past its deadline");
		return;
	}
	w->expired_alone = w->batch.count;
	ks_log_writer_unwind(log);
}

/* The database takes everything but a row of this size; which request made it shows when each is tried alone. */
static void row_too_large(struct ks_log *log, const struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count == 1) {
		KS_DIAG_LIMITED(KS_WARN, "log", "a request is refused: %s", err->text);
		ks_log_batch_fail(log, KS_INVALID_ARGUMENT, "etcdserver: request is too large");
		return;
	}
	w->alone = w->batch.count;
	ks_log_writer_unwind(log);
}

int64_t ks_log_writer_appended(struct ks_log *log, enum sqlb_outcome outcome, bool appended, struct ks_err *err)
{
	struct ks_log_writer *w = &log->writer;

	switch (outcome) {
	case SQLB_OK:
		ks_log_role_fine(log, &w->role);
		if (!appended && !w->batch.expired) {
			ks_fail(err, KS_INTERNAL, "the backend appended nothing and gave no reason");
			ks_log_writer_unwind(log);
			w->look = true;
			return ks_log_role_failed(log, &w->role, SQLB_AWAY, "append", err);
		}
		if (appended)
			ks_log_batch_landed(log);
		else
			guard_refused(log);
		if (w->batch.doubt) /* it was sent behind this one */
			ks_log_writer_go(w, KS_LOG_SETTLING);
		return 0;
	case SQLB_CONFLICT:
		ks_log_role_fine(log, &w->role);
		ks_log_writer_go(w, KS_LOG_SETTLING);
		return 0;
	case SQLB_DOUBT:
		w->batch.doubt = true;
		ks_log_writer_go(w, KS_LOG_SETTLING);
		return ks_log_role_failed(log, &w->role, SQLB_AWAY, "append (in doubt)", err);
	case SQLB_BROKEN:
		if (err->status != KS_RESOURCE_EXHAUSTED || w->batch.expired)
			break;
		ks_log_role_fine(log, &w->role);
		row_too_large(log, err);
		return 0;
	case SQLB_AWAY:
		break;
	}
	ks_log_writer_unwind(log);
	w->look = true;
	return ks_log_role_failed(log, &w->role, outcome, "append", err);
}

/* ---- in doubt, or in conflict ---- */

/* One batch is settled. What was sent behind it, and is in doubt too, is next. */
static void settled(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;

	if (w->batch.count)
		return;
	ks_log_writer_go(w, KS_LOG_SERVING);
	w->look = true; /* there may be more behind it */
}

/* Nothing is at our position: the very same rows again, or, when nothing of them was ever sent, the requests. */
static int64_t settle_again(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	struct ks_err err = {0};
	bool appended;
	enum sqlb_outcome outcome;

	if (!w->batch.doubt) {
		ks_log_writer_unwind(log);
		ks_log_writer_go(w, KS_LOG_SERVING);
		w->pause_until_ms = ks_clock_now(log->clock) + 1 + (int64_t)(ks_log_random(&w->random) % 8);
		return 0;
	}
	outcome = ks_log_batch_append(log, &appended, &err);
	switch (outcome) {
	case SQLB_OK:
		ks_log_role_fine(log, &w->role);
		if (appended)
			ks_log_batch_landed(log);
		else
			guard_refused(log);
		settled(log);
		return 0;
	case SQLB_CONFLICT:
		ks_log_role_fine(log, &w->role);
		return 0;
	case SQLB_DOUBT:
	case SQLB_AWAY:
	case SQLB_BROKEN:
		break;
	}
	return ks_log_role_failed(log, &w->role, outcome == SQLB_DOUBT ? SQLB_AWAY : outcome, "append (in doubt)",
				  &err);
}

int64_t ks_log_settle_step(struct ks_log *log)
{
	struct ks_log_writer *w = &log->writer;
	bool more, undecided;
	enum ks_log_pull result = ks_log_pull(log, true, &more);

	undecided = w->batch.count > 0;
	switch (result) {
	case KS_LOG_PULL_LOST:
		ks_log_writer_lost(log);
		return 0;
	case KS_LOG_PULL_LANDED:
		ks_log_batch_landed(log);
		settled(log);
		return 0;
	case KS_LOG_PULL_UNSURE:
		ks_diag(KS_WARN, "log", "whether an append had landed cannot be found out, its rows have been trimmed");
		ks_log_batch_fail(log, KS_UNAVAILABLE, "etcdserver: request timed out");
		ks_log_writer_go(w, KS_LOG_SERVING);
		w->look = true;
		return 0;
	case KS_LOG_PULL_FAILED:
		if (undecided && !w->batch.doubt)
			ks_log_writer_unwind(log);
		if (!w->batch.count) {
			ks_log_writer_go(w, KS_LOG_SERVING);
			w->look = true;
		}
		return ks_log_role_pause(log, &w->role);
	case KS_LOG_PULL_DONE:
		break;
	}
	if (undecided)
		return settle_again(log);
	ks_log_writer_go(w, KS_LOG_SERVING);
	w->look = w->look || more;
	return 0;
}
