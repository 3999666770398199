/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory backend's other face: what tests and simulations can do to it. URL: memory://NAME; every open of the same
 * NAME in a process shares one "database", which lives until the last close and sqlb_memory_forget(NAME).
 * Threads: any; one mutex guards each database. Call-backs run without it.
 */
#ifndef SQLB_MEMORY_H
#define SQLB_MEMORY_H

#include "base/clock.h"
#include "sqlb.h"

enum sqlb_memory_fault {
	SQLB_FAULT_NONE,
	SQLB_FAULT_AWAY,       /* nothing happens, AWAY */
	SQLB_FAULT_DOUBT_DONE, /* append happens, the answer is DOUBT */
	SQLB_FAULT_DOUBT_LOST, /* append does not happen, DOUBT */
	SQLB_FAULT_DOUBT_LATE, /* append is tried again by the "server" after late_calls more calls (or conflicts then), DOUBT */
	SQLB_FAULT_BROKEN,
	SQLB_FAULT_CUT, /* reads: some rows are visited, then AWAY */
};

/*
 * Asked before every operation of every connection; 'op' is the name of the slot in sqlb_ops, e.g. "append".
 *
 * An append that was sent is tried, or meets its fault, when it is received: then 'op' is "append", as without the two steps.
 * DOUBT and CUT lose the connection, so what is on its way behind it is received with DOUBT, too: what then becomes of it
 * its own fault says (LATE and DONE: it is tried late, but behind the first one; any other: nothing), and without a fault it
 * is by turns nothing and a late try. The same goes for what is on its way at "append_send" with such a fault, and at
 * disconnect. "append_receive" is asked of each one's first receive with wait_ms > 0: any fault makes that pending, as the
 * first one with wait_ms 0 always is.
 */
typedef enum sqlb_memory_fault sqlb_memory_fault_fn(void *ctx, const char *op, struct sqlb_conn *conn);

/* All of these open the named database if need be. */
void sqlb_memory_set_clock(const char *name, struct ks_clock *clock); /* default: the system clock */
/* late_calls < 0: nothing is tried late, as if the server were no more. */
void sqlb_memory_set_faults(const char *name, sqlb_memory_fault_fn *fault, void *ctx, int late_calls);
/* An asynchronous replica was promoted: rows with position > keep are gone, and every connection is cut (AWAY once). */
void sqlb_memory_lose_tail(const char *name, int64_t keep);
/* The same behind a pooler, which keeps the connections open and leads them to the other server. */
void sqlb_memory_lose_tail_quietly(const char *name, int64_t keep);
/* Direct look at the table, for checks: rows in (position, sub) order. */
void sqlb_memory_visit(const char *name, sqlb_row_fn *visit, void *ctx);
void sqlb_memory_forget(const char *name);

#endif
