/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appends while connections are cut, sessions are ended and servers die: what log/settle.c does, in small, tries each again
 * until it is settled, and in the end every batch must be in the log once, in order. That is the same for all SQL backends
 * with append_send; the suite of a backend gives what differs.
 *
 * Every entry is of writer 42, and its batch is its position.
 *
 * Owner: what is given is borrowed until tap_finish; what begin and open_at gave goes back to end and close.
 * Threads: of the running test, but for what disturbs, which has one of its own. It runs beside append and the calls of
 * 'ops', and beside nothing else that is given.
 * Errors: are failed assertions of CUnit, with what came of an append as a comment.
 */
#ifndef TESTS_LIB_SETTLED_APPENDS_H
#define TESTS_LIB_SETTLED_APPENDS_H

#include "sqlbackends/sqlb.h"

#define SETTLED_STALL_MS 15000 /* so long a busy machine may stand still, with all that is on it */

/* A database handle with one connection. */
struct side {
	struct sqlb_db *db;
	struct sqlb_conn *conn;
};

/* A test ends when there are so many entries, and so many disturbances have come. */
struct settled_goal {
	int entries, disturbances;
};

struct settled_backend {
	const struct sqlb_ops *ops;
	/* A CONFLICT at a position that nobody has is to be tried again; elsewhere it must not happen. */
	bool conflicts_with_nobody;
	/* The log of one test, which is new and empty; and its end. */
	struct side (*begin)(void);
	void (*end)(struct side *side);
	/* The same log through a port of 127.0.0.1; and the end of that. */
	struct side (*open_at)(int port);
	void (*close)(struct side *side);
	/* One entry, in one call; 'err' says why it is BROKEN. */
	enum sqlb_outcome (*append)(struct sqlb_conn *conn, int64_t position, struct ks_err *err);
	/* What the suite has of connections behind the backend's back may have died with the server. */
	void (*reconnect)(void);
	/* Behind the backend's back: how many such entries there are, the first and the last position, as "12/1/12". */
	const char *(*entries)(void);

	/* What disturbs, called again and again: each ends what it says once, at any time. */
	void (*end_session)(unsigned *seed);
	void (*crash_server)(unsigned *seed);
	void (*restart_server)(unsigned *seed);
	/* Sessions end while entries go one by one, and while several are on their way; servers end while they do either. */
	struct settled_goal sessions, sessions_with_many, servers;
	/*
	 * Connections to the server at this port of 127.0.0.1 are cut until so many entries were in doubt. Here the server lives, and
	 * goes on with what it was asked, or is asked later.
	 */
	int server_port;
	int doubts;
};

/* The tests, as a suite of that name. One backend for each program. */
void settled_add(const char *suite, const struct settled_backend *backend);

/* What these appends are made of, for the other tests of the suites. */

/* A row that is an entry by itself. */
struct sqlb_row row_of(int64_t position, int64_t writer, int64_t batch);
/* An entry behind another such, or the first. */
enum sqlb_outcome settled_send(const struct sqlb_ops *ops, struct sqlb_conn *conn, int64_t position,
			       struct ks_err *err);
/*
 * 'wait_ms' and 'pending' as of append_receive; settled_receive waits for as long as it takes. That nothing else contradicts the
 * outcome is asserted.
 */
enum sqlb_outcome settled_receive_within(const struct sqlb_ops *ops, struct sqlb_conn *conn, int wait_ms, bool *pending,
					 struct ks_err *err);
enum sqlb_outcome settled_receive(const struct sqlb_ops *ops, struct sqlb_conn *conn, struct ks_err *err);
/* A visitor of rows: keeps whose the last one is, in int64_t[2]. */
bool take_writer_and_batch(void *ctx, const struct sqlb_row *row);

#endif
