/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the memory backend share.
 *
 *   memory.c         the vtable, the databases by name
 *   memory_call.c    how every call begins and ends: faults, and what else tests can do
 *   memory_rows.c    rows
 *   memory_log.c     reading, trimming, waiting for change
 *   memory_append.c  append, load
 *   memory_late.c    appends that the "server" still has to try
 *   memory_sent.c    appends on their way
 *   memory_leases.c  leases
 *   memory_side.c    duty, members
 *
 * A call is sqlb_mem_begin … sqlb_mem_end, with the database's mutex held in between; who reads rows unlocks it by hand and visits
 * them without it. Functions named _locked, and all that take a database, need the mutex.
 */
#ifndef SQLB_MEMORY_PRIV_H
#define SQLB_MEMORY_PRIV_H

#include <stdatomic.h>
#include <string.h>

#include "base/list.h"
#include "base/panic.h"
#include "base/thread.h"
#include "memory.h"

struct mem_row {
	_Atomic uint32_t refs;
	struct sqlb_row row; /* its slices point into data[] */
	uint8_t data[];
};

struct mem_lease {
	int64_t id;
	int64_t ttl_ms;
	int64_t deadline_ms;
};

struct mem_member {
	struct sqlb_member member; /* its slices are malloc-ed */
	int64_t deadline_ms;
};

/* An append that the "server" still has to try. */
struct mem_waiting {
	struct ks_list link;
	struct sqlb_append append;
	struct mem_row **rows;
	int calls_left; /* of a late one */
	bool looked_at; /* of a sent one: append_receive said pending, or might have */
	bool told;      /* of a sent one: its outcome is known to the caller, so that it is not received */
};

struct mem_database {
	struct mem_database *next;
	char *name;
	unsigned refs; /* opens, plus one until it is forgotten; under 'all.mutex' */

	struct ks_mutex mutex; /* guards the rest */
	struct ks_cond changed;
	struct ks_clock *clock;
	sqlb_memory_fault_fn *fault;
	void *fault_ctx;
	int late_calls;
	struct ks_list late;
	uint64_t cuts;   /* how often all connections were cut */
	uint64_t behind; /* how many appends lost their connection while they were on their way */

	struct mem_row **rows;
	size_t row_count, row_room;
	int64_t bytes_in_use, bytes_allocated;
	struct mem_lease *leases; /* by id */
	size_t lease_count, lease_room;
	struct mem_member *members; /* by id */
	size_t member_count;
	int64_t duty_holder, duty_term, duty_deadline_ms;
};

struct sqlb_db {
	struct mem_database *database;
};

struct sqlb_conn {
	struct mem_database *database;
	bool connected;
	uint64_t cuts_seen;
	bool cancelled;      /* under database->mutex */
	struct ks_list sent; /* appends on their way, oldest first */
	bool sent_are_lost;  /* with the connection: each is received with DOUBT, and only then is there a new one */
};

static inline int64_t sqlb_mem_now_ms(struct mem_database *database)
{
	return ks_clock_now(database->clock);
}

static inline void *sqlb_mem_array_copy(const void *from, size_t count, size_t size)
{
	void *copy = ks_xcalloc(count ? count : 1, size);

	if (count)
		memcpy(copy, from, count * size);
	return copy;
}

/* ---- memory.c ---- */

/* Opens it if need be; count: it stays for one close more. Without the mutex. */
struct mem_database *sqlb_mem_database_get(const char *name, bool count);

/* ---- memory_call.c ---- */

/*
 * Locks the database and lets a call begin, or leaves it unlocked and says why not. Calls that cannot do what a fault
 * asks for do what comes nearest: those other than append may be done or not before their AWAY. (Clang's analysis cannot
 * follow a lock that depends on the result, hence KS_NO_TSA here and in those who unlock themselves.)
 */
enum sqlb_outcome sqlb_mem_begin(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault *fault,
				 struct ks_err *err);
/* Unlocks it. */
enum sqlb_outcome sqlb_mem_end(struct sqlb_conn *conn, const char *op, enum sqlb_memory_fault fault,
			       struct ks_err *err);
/* For the writing calls other than append: true when the fault says that nothing shall happen. */
bool sqlb_mem_lost_before(enum sqlb_memory_fault fault);
/* The fault of a call; without the mutex. */
enum sqlb_memory_fault sqlb_mem_ask(struct sqlb_conn *conn, const char *op);
bool sqlb_mem_is_cut_locked(const struct sqlb_conn *conn);
enum sqlb_outcome sqlb_mem_no_memory(struct ks_err *err);

/* ---- memory_rows.c: any thread, with or without the mutex ---- */

struct mem_row *sqlb_mem_row_ref(struct mem_row *row);
void sqlb_mem_row_unref(struct mem_row *row); /* NULL is fine */
/* One reference to each, and the array. */
void sqlb_mem_rows_free(struct mem_row **rows, size_t count);
/* NULL without memory. */
struct mem_row **sqlb_mem_rows_copy(const struct sqlb_row *rows, size_t count);
size_t sqlb_mem_row_bytes(const struct sqlb_row *row);

/* ---- memory_log.c ---- */

int64_t sqlb_mem_head_position(const struct mem_database *database);

/* ---- memory_append.c ---- */

/* The transaction. Takes the references in 'rows' when it is OK and appended. */
enum sqlb_outcome sqlb_mem_append_locked(struct mem_database *database, const struct sqlb_append *append,
					 struct mem_row **rows, bool *appended);
/* Tries 'waiting', or not, as the fault says, and takes it. */
enum sqlb_outcome sqlb_mem_append_end_locked(struct mem_database *database, struct mem_waiting *waiting,
					     enum sqlb_memory_fault fault, bool *appended);
/* Returns 'outcome', with the error that goes with it. */
enum sqlb_outcome sqlb_mem_append_outcome(const struct sqlb_conn *conn, enum sqlb_outcome outcome, const char *why,
					  struct ks_err *err);
const char *sqlb_mem_why_of(enum sqlb_memory_fault fault);
/* Rows come in order, in whole entries, and positions without a gap: anything else is a bug of the caller's. */
void sqlb_mem_check_rows(const struct sqlb_append *append);

/* ---- memory_late.c ---- */

/* A deep copy; takes 'rows'. */
struct mem_waiting *sqlb_mem_waiting_new(const struct sqlb_append *append, struct mem_row **rows);
void sqlb_mem_waiting_free(struct mem_waiting *waiting);
/* Takes 'late'; a server that is no more does not try it. Never before those that are late already: they may be of the same session. */
void sqlb_mem_late_add_locked(struct mem_database *database, struct mem_waiting *late);
/* A call goes by: late appends come nearer, and those that are due are tried. */
void sqlb_mem_late_step_locked(struct mem_database *database);

/* ---- memory_sent.c ---- */

/* NULL: nothing is on its way. */
struct mem_waiting *sqlb_mem_sent_oldest(const struct sqlb_conn *conn);
/*
 * What becomes of the oldest one on its way when its connection was lost: by turns nothing, and a late try, if 'fault' does
 * not choose. A cut connection led to a server whose log is not this one any more.
 */
void sqlb_mem_sent_lose_locked(struct sqlb_conn *conn, enum sqlb_memory_fault fault);

/* ---- memory_leases.c ---- */

struct mem_lease *sqlb_mem_lease_get(const struct mem_database *database, int64_t id); /* NULL: there is none */
void sqlb_mem_lease_put(struct mem_database *database, int64_t id, int64_t ttl_ms, int64_t now);
void sqlb_mem_lease_remove(struct mem_database *database, int64_t id);

/* ---- memory_side.c ---- */

void sqlb_mem_member_clear(struct mem_member *member); /* frees what it holds */

/* ---- the slots of the vtable ---- */

enum sqlb_outcome sqlb_mem_append(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				  struct ks_err *err);
enum sqlb_outcome sqlb_mem_append_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err);
enum sqlb_outcome sqlb_mem_append_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					  struct ks_err *err);
enum sqlb_outcome sqlb_mem_load(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_mem_read_head(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
enum sqlb_outcome sqlb_mem_read_rows(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				     sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
enum sqlb_outcome sqlb_mem_read_at(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				   sqlb_row_fn *visit, void *ctx, struct ks_err *err);
enum sqlb_outcome sqlb_mem_trim(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_mem_wait_for_change(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
void sqlb_mem_cancel(struct sqlb_conn *conn);
enum sqlb_outcome sqlb_mem_lease_touch(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				       struct ks_err *err);
enum sqlb_outcome sqlb_mem_lease_ensure(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					struct ks_err *err);
enum sqlb_outcome sqlb_mem_lease_refresh_all(struct sqlb_conn *conn, struct ks_err *err);
enum sqlb_outcome sqlb_mem_lease_list(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
				      struct ks_err *err);
enum sqlb_outcome sqlb_mem_lease_read(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
				      struct ks_err *err);
enum sqlb_outcome sqlb_mem_lease_drop(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);
enum sqlb_outcome sqlb_mem_duty_take(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				     struct ks_err *err);
enum sqlb_outcome sqlb_mem_duty_pass(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms, struct ks_err *err);
enum sqlb_outcome sqlb_mem_member_beat(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
				       struct ks_err *err);
enum sqlb_outcome sqlb_mem_member_list(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);

#endif
