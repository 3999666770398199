/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes out and what comes in. libpq is used without blocking, so that a peer that went silent costs a deadline and never
 * the thread.
 */
#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "postgres_priv.h"

int64_t sqlb_pg_now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

void sqlb_pg_more_time(struct sqlb_conn *conn, int timeout_ms)
{
	conn->deadline_ms = sqlb_pg_now_ms() + timeout_ms;
}

bool sqlb_pg_wait_for_socket(struct sqlb_conn *conn, bool to_write, int64_t until_ms)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = (short)(to_write ? POLLIN | POLLOUT : POLLIN)};
	int64_t left_ms;
	int ready;

	do {
		left_ms = until_ms - sqlb_pg_now_ms();
		if (left_ms <= 0 || poll_fd.fd < 0)
			return false;
		ready = poll(&poll_fd, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
	} while (ready < 0 && errno == EINTR);
	return ready > 0;
}

bool sqlb_pg_flush(struct sqlb_conn *conn)
{
	int left;

	while ((left = PQflush(conn->pg)) == 1)
		if (!sqlb_pg_wait_for_socket(conn, true, conn->deadline_ms) || !PQconsumeInput(conn->pg))
			return false;
	return left == 0;
}

enum sqlb_pg_arrival sqlb_pg_await(struct sqlb_conn *conn, int64_t until_ms)
{
	bool readable = true;

	while (PQisBusy(conn->pg)) {
		int left = PQflush(conn->pg);

		if (!readable || left < 0 || PQsocket(conn->pg) < 0)
			return SQLB_PG_LOST;
		if (!sqlb_pg_wait_for_socket(conn, left == 1, until_ms))
			return SQLB_PG_NOT_YET;
		/*
		 * The last words of a server that hangs up have been read even when this fails: look once more.
		 */
		readable = PQconsumeInput(conn->pg) == 1;
	}
	return SQLB_PG_ARRIVED;
}

bool sqlb_pg_next(struct sqlb_conn *conn, PGresult **result)
{
	*result = NULL;
	if (sqlb_pg_await(conn, conn->deadline_ms) != SQLB_PG_ARRIVED)
		return false;
	*result = PQgetResult(conn->pg);
	return *result || PQstatus(conn->pg) == CONNECTION_OK;
}

/* ---- what came in while nobody waited ---- */

enum sqlb_pg_arrival sqlb_pg_read_unread(struct sqlb_conn *conn, int64_t until_ms)
{
	while (conn->unread != SQLB_PG_ALL_READ) {
		enum sqlb_pg_arrival arrival = sqlb_pg_await(conn, until_ms);
		PGresult *result;
		bool synced;

		if (arrival != SQLB_PG_ARRIVED)
			return arrival;
		if (!sqlb_pg_next(conn, &result))
			return SQLB_PG_LOST;
		synced = PQresultStatus(result) == PGRES_PIPELINE_SYNC;
		if (synced || (!result && conn->unread == SQLB_PG_UNREAD_STATEMENT))
			conn->unread = SQLB_PG_ALL_READ;
		PQclear(result);
		if (synced && conn->sent_count == 0 && !PQexitPipelineMode(conn->pg))
			return SQLB_PG_LOST;
	}
	return SQLB_PG_ARRIVED;
}

static bool is_readable(const struct sqlb_conn *conn)
{
	struct pollfd poll_fd = {.fd = PQsocket(conn->pg), .events = POLLIN};

	return poll_fd.fd >= 0 && poll(&poll_fd, 1, 0) > 0;
}

bool sqlb_pg_take_arrived(struct sqlb_conn *conn)
{
	while (is_readable(conn))
		if (!PQconsumeInput(conn->pg))
			return false;
	return PQstatus(conn->pg) == CONNECTION_OK;
}

void sqlb_pg_look(struct sqlb_conn *conn)
{
	if (is_readable(conn))
		PQconsumeInput(conn->pg); /* sqlb_pg_await finds out what is wrong */
}
