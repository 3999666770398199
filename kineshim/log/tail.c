/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tail's thread waits for others to append and pokes the writer, which alone reads rows. It reads none itself and asks for
 * no head: when the store moved on while it waited, that was most likely our own append, and the next wait, which
 * begins at the new position, finds out whether there is more.
 */
#include "log/log_priv.h"

#define WAIT_MS 2000 /* then the writer looks at the log anyway, which also shows a lost tail on an idle server */
#define STEPPED_MS 2 /* without a thread nobody waits: so often it looks instead */
#define HANDLED_WITHIN_MS 50 /* for the writer, which may be in the middle of an append */

int64_t ks_log_tail_step(struct ks_log *log)
{
	struct ks_log_role *role = &log->tail.role;
	int64_t pause = ks_log_role_pause(log, role);
	int64_t after = ks_store_committed(log->store).position;
	int64_t quiet = atomic_load(&log->tail.quiet_ms) - ks_clock_now(log->clock);
	struct ks_err err = {0};
	enum sqlb_outcome outcome;

	if (pause)
		return pause;
	if (!atomic_load(&log->loaded) || after == 0)
		return KS_LOG_IDLE;
	if (quiet > 0)
		return quiet;
	if (log->stepped) {
		if (ks_clock_now(log->clock) < log->tail.stepped_at_ms)
			return log->tail.stepped_at_ms - ks_clock_now(log->clock);
		log->tail.stepped_at_ms = ks_clock_now(log->clock) + STEPPED_MS;
	}
	outcome = log->ops->wait_for_change(role->conn, after, log->stepped ? 0 : WAIT_MS, &err);
	if (outcome != SQLB_OK) {
		ks_log_writer_verify(log); /* what cut this connection may have changed the log */
		return ks_log_role_failed(log, role, outcome, "wait for changes", &err);
	}
	ks_log_role_fine(log, role);
	if (ks_store_committed(log->store).position != after)
		return 0;
	ks_log_writer_moved(log, after);
	return HANDLED_WITHIN_MS; /* or when the writer pokes */
}
