/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for somebody else's append: there is nothing that would tell of it, so the head is asked for again and again. A tenth
 * of the time that nothing happened is waited in between: a change is noticed late in proportion to how rare they are.
 */
#include <errno.h>
#include <poll.h>

#include "base/panic.h"
#include "mysql_priv.h"

enum { POLL_LEAST_MS = 1, POLL_BUSY_MS = 50, POLL_IDLE_MS = 200, BUSY_MS = 2000 };

void sqlb_my_cancel(struct sqlb_conn *conn)
{
	sqlb_cancel_poke(&conn->cancel);
}

static int64_t poll_interval(const struct sqlb_conn *conn, int64_t now_ms)
{
	int64_t quiet_ms = now_ms - conn->changed_at_ms, wait_ms = quiet_ms / 10;
	int64_t most = quiet_ms < BUSY_MS ? POLL_BUSY_MS : POLL_IDLE_MS;

	return wait_ms < POLL_LEAST_MS ? POLL_LEAST_MS : wait_ms > most ? most : wait_ms;
}

/* A hint only: no need to be causal. Just MariaDB can say so for one statement. */
static enum sqlb_outcome ask_head(struct sqlb_conn *conn, int64_t *position, struct ks_err *err)
{
	bool cheap = conn->server.has_wsrep && conn->server.is_mariadb, found;
	int64_t numbers[4] = {0};
	enum sqlb_outcome outcome;

	sqlb_my_params(conn, 0);
	outcome = sqlb_my_query_one(conn, cheap ? SQLB_MY_POLL : SQLB_MY_HEAD, 4, numbers, &found, err);
	*position = numbers[0];
	return sqlb_my_no_conflict(outcome);
}

enum sqlb_outcome sqlb_my_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err)
{
	int64_t until_ms = sqlb_my_now_ms() + wait_ms;

	for (;;) {
		struct pollfd poll_fd = {.fd = conn->cancel.fd, .events = POLLIN};
		enum sqlb_outcome outcome;
		int64_t position, now_ms, pause_ms;

		if (sqlb_cancel_came(&conn->cancel))
			return SQLB_OK;
		outcome = sqlb_my_begin(conn, SQLB_MY_ANSWER_TIMEOUT_S, err);
		if (outcome == SQLB_OK)
			outcome = ask_head(conn, &position, err);
		if (outcome != SQLB_OK)
			return outcome;
		now_ms = sqlb_my_now_ms();
		if (position > after) {
			conn->changed_at_ms = now_ms;
			return SQLB_OK;
		}
		if (now_ms >= until_ms)
			return SQLB_OK;
		pause_ms = poll_interval(conn, now_ms);
		if (pause_ms > until_ms - now_ms)
			pause_ms = until_ms - now_ms;
		if (poll(&poll_fd, 1, (int)pause_ms) < 0)
			KS_ASSERT(errno == EINTR || errno == ENOMEM);
	}
}
