/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for somebody else's append.
 *
 * LISTEN makes it prompt, but is only a hint: a notification is lost when its sender dies after the commit,
 * when it believed to be alone, or when a pooler sits in between. So the head is probed now and then as well,
 * seldom while notifications arrive, and as often as on a database without them once they are found to be
 * missing:
 *
 *	told      probe every second; each notification leads back here
 *	alone     nobody else is registered, so nobody notifies: probe every 250 ms for one who just came
 *	pooled    nobody listens for long in a session that changes with each transaction: as silent
 *	silent    two probes in a row found something that no notification had told of by the time of the next probe:
 *	          probe every millisecond after a change, then ever less often, at last every 200 ms
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "postgres_priv.h"

enum {
	PROBE_TOLD_MS = 1000,
	PROBE_ALONE_MS = 250,
	PROBE_IDLE_MS = 200,
	SILENT_AFTER = 2,
};

void sqlb_pg_cancel(struct sqlb_conn *conn)
{
	sqlb_cancel_poke(&conn->cancel);
}

/* Takes what has come in. True when one of the notifications tells of a position beyond 'after'. */
static bool heard_of_change(struct sqlb_conn *conn, int64_t after)
{
	PGnotify *notify;
	bool heard = false;

	while ((notify = PQnotifies(conn->pg)) != NULL) {
		char *end;
		long long position = strtoll(notify->extra, &end, 10);

		if (strcmp(notify->extra, SQLB_PG_HELLO) == 0) {
			atomic_store_explicit(&conn->db->others, -1, memory_order_relaxed);
		} else if (*end == '\0' && end != notify->extra) {
			conn->announced = position > conn->announced ? position : conn->announced;
			conn->silent = 0;
			heard |= position > after;
		}
		PQfreemem(notify);
	}
	return heard;
}

static int probe_interval(const struct sqlb_conn *conn)
{
	int64_t quiet_ms;

	if (atomic_load_explicit(&conn->db->others, memory_order_relaxed) == 0)
		return PROBE_ALONE_MS;
	if (conn->silent < SILENT_AFTER && !conn->pooled && !conn->plain)
		return PROBE_TOLD_MS;
	/*
	 * A tenth of the time that nothing happened: a change is noticed late in proportion to how rare they
	 * are.
	 */
	quiet_ms = sqlb_pg_now_ms() - conn->changed_at_ms;
	return quiet_ms < 10 ? 1 : quiet_ms > 10 * PROBE_IDLE_MS ? PROBE_IDLE_MS : (int)(quiet_ms / 10);
}

static enum sqlb_outcome probe(struct sqlb_conn *conn, int64_t after, bool *changed, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	struct sqlb_head head;

	if (conn->found_by_probe > conn->announced &&
	    atomic_load_explicit(&conn->db->others, memory_order_relaxed) != 0)
		conn->silent += conn->silent < SILENT_AFTER;
	conn->found_by_probe = 0;
	outcome = sqlb_pg_read_head(conn, &head, err);
	if (outcome != SQLB_OK)
		return outcome;
	conn->probed_at_ms = sqlb_pg_now_ms();
	/* Who lost a race has announced positions that may not exist yet. */
	if (conn->announced > head.position)
		conn->announced = head.position;
	*changed = head.position > after;
	if (*changed) {
		conn->found_by_probe = head.position;
		conn->changed_at_ms = conn->probed_at_ms;
	}
	return SQLB_OK;
}

/* What was appended before LISTEN took effect was told to others only: probe at once. */
static enum sqlb_outcome listen_now(struct sqlb_conn *conn, struct ks_err *err)
{
	enum sqlb_outcome outcome = sqlb_pg_exec(conn, "LISTEN " SQLB_PG_CHANNEL, NULL, err);

	conn->listening = outcome == SQLB_OK;
	conn->announced = 0;
	conn->found_by_probe = 0;
	conn->probed_at_ms = 0;
	return outcome;
}

enum sqlb_outcome sqlb_pg_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	int64_t until_ms = sqlb_pg_now_ms() + wait_ms;

	for (;;) {
		enum sqlb_outcome outcome = sqlb_pg_begin(conn, SQLB_PG_ANSWER_TIMEOUT_MS, err);
		struct pollfd poll_fds[2];
		int64_t now_ms, wake_ms;
		bool changed = false;

		if (outcome == SQLB_OK && !conn->listening && !conn->pooled && !conn->plain)
			outcome = listen_now(conn, err);
		if (outcome != SQLB_OK)
			return outcome;
		if (heard_of_change(conn, after) || sqlb_cancel_came(&conn->cancel))
			return SQLB_OK;
		now_ms = sqlb_pg_now_ms();
		wake_ms = conn->probed_at_ms + probe_interval(conn);
		/*
		 * An earlier wait may have taken several announcements at once, and its caller only have come
		 * as far as 'after'.
		 */
		if (wake_ms <= now_ms || conn->announced > after) {
			outcome = probe(conn, after, &changed, err);
			if (outcome != SQLB_OK || changed)
				return outcome;
			continue; /* the answer may have brought notifications with it */
		}
		if (now_ms >= until_ms)
			return SQLB_OK;
		if (wake_ms > until_ms)
			wake_ms = until_ms;
		poll_fds[0] = (struct pollfd){.fd = PQsocket(conn->pg), .events = POLLIN};
		poll_fds[1] = (struct pollfd){.fd = conn->cancel.fd, .events = POLLIN};
		/* What comes in is taken by the next begin, which also finds a connection that has ended. */
		if (poll(poll_fds, 2, (int)(wake_ms - now_ms)) < 0)
			KS_ASSERT(errno == EINTR || errno == ENOMEM);
	}
}
