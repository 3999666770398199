/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for somebody else's append in SQL Server, which tells nobody: the head is probed, every millisecond after a change,
 * then ever less often, at last every 200 ms. So a change is noticed late in proportion to how rare they are.
 */
#include <errno.h>
#include <poll.h>

#include "base/panic.h"
#include "mssql_priv.h"

enum { PROBE_IDLE_MS = 200 };

void sqlb_ms_cancel(struct sqlb_conn *conn)
{
	sqlb_cancel_poke(&conn->cancel);
}

/* A tenth of the time that nothing happened. */
static int probe_interval(const struct sqlb_conn *conn)
{
	int64_t quiet_ms = sqlb_ms_now_ms() - conn->changed_at_ms;

	return quiet_ms < 10 ? 1 : quiet_ms > 10 * PROBE_IDLE_MS ? PROBE_IDLE_MS : (int)(quiet_ms / 10);
}

static enum sqlb_outcome probe(struct sqlb_conn *conn, int64_t after, bool *changed, struct ks_err *err)
{
	struct sqlb_head head;
	enum sqlb_outcome outcome = sqlb_ms_read_head(conn, &head, err);

	if (outcome != SQLB_OK)
		return outcome;
	conn->probed_at_ms = sqlb_ms_now_ms();
	*changed = head.position > after;
	if (*changed)
		conn->changed_at_ms = conn->probed_at_ms;
	return SQLB_OK;
}

enum sqlb_outcome sqlb_ms_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	int64_t until_ms = sqlb_ms_now_ms() + wait_ms;
	bool probed = false;

	for (;;) {
		int64_t now_ms = sqlb_ms_now_ms(), wake_ms = conn->probed_at_ms + probe_interval(conn);
		struct pollfd poll_fd = {.fd = conn->cancel.fd, .events = POLLIN};
		bool changed = false;

		if (sqlb_cancel_came(&conn->cancel))
			return SQLB_OK;
		/* The first look is at once: an earlier wait may have seen more than its caller has come to since. */
		if (!probed || wake_ms <= now_ms) {
			enum sqlb_outcome outcome = probe(conn, after, &changed, err);

			if (outcome != SQLB_OK || changed)
				return outcome;
			probed = true;
			continue;
		}
		if (now_ms >= until_ms)
			return SQLB_OK;
		if (wake_ms > until_ms)
			wake_ms = until_ms;
		if (poll(&poll_fd, 1, (int)(wake_ms - now_ms)) < 0)
			KS_ASSERT(errno == EINTR || errno == ENOMEM);
	}
}
