/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a SQL database must do for kineshim: keep one log of rows by position, refuse a position that is taken, and keep
 * four small side tables (leases, duty, members, meta). A backend knows rows, positions and deadlines; it knows nothing
 * of etcd. Everything a person needs to write a fifth backend is in this header and docs/backends.md.
 *
 * Handles: struct sqlb_db is the parsed endpoint and whatever a process shares (a lock file, a fault script); any thread
 * may open connections on it. struct sqlb_conn is one database connection; it belongs to one thread at a time. Only
 * sqlb_ops.cancel may be called from another thread. A connection that answered AWAY or DOUBT reconnects by itself on
 * its next use (the caller paces this with a back-off) and then behaves like a new one.
 *
 * Ownership: inputs are borrowed for the duration of a call; rows and texts handed to a visitor are valid only inside it.
 *
 * Outcomes: every call ends in one of five, and drivers map their codes to nothing else.
 *   OK        done, and (append) durable.
 *   CONFLICT  the log does not end right before the first position; nothing was changed.              append only
 *   DOUBT     sent, and the answer was lost: it may have happened, or may still happen.               append only
 *   AWAY      the database cannot be reached, is read-only, or is overloaded: try later. An append changed nothing; the
 *             other calls that write are harmless when repeated, so theirs may have happened.
 *   BROKEN    the schema or the data is not ours, or is damaged, or is newer than this program: stop writing. Of an append
 *             with KS_RESOURCE_EXHAUSTED in 'err': a row is larger than this database takes; nothing was changed, and all
 *             is well but for that row.
 * 'err' always gets a text for a person (never a secret) when the outcome is AWAY, DOUBT or BROKEN.
 *
 * A result set that ends early is never taken for a complete one: each read ends in an explicit completion or AWAY.
 * Times: the database's clock judges every deadline in the side tables.
 */
#ifndef SQLB_H
#define SQLB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

#define SQLB_VERSION 3

/*
 * A batch of several entries never carries more than this; the log sees to it. One entry alone may (the delete of a
 * million keys), and must work: a driver splits it into several statements of one transaction where it has to.
 */
#define SQLB_MAX_ROWS 16384
#define SQLB_MAX_BYTES (16u << 20)
/* Appends that may be on their way over one connection (append_send). */
#define SQLB_SENT_MAX 4

enum sqlb_outcome { SQLB_OK, SQLB_CONFLICT, SQLB_DOUBT, SQLB_AWAY, SQLB_BROKEN };

/* One row of the log. A slice whose data is NULL is SQL NULL; an empty non-NULL slice is an empty blob. */
struct sqlb_row {
	int64_t position; /* >= 1; the log starts at 1 and has no gaps except those that trimming made */
	int32_t sub;      /* 0 … rows-1 within the entry */
	int32_t rows; /* how many rows the entry was appended with: shows a reader when trimming took the last ones */
	int16_t kind; /* opaque here; see log/entry.h */
	int64_t revision;
	struct ks_slice key;
	struct ks_slice value;
	int64_t create_revision;
	int64_t version;
	int64_t lease;
	struct ks_slice payload;
	int64_t writer; /* who appended it: unique for each process start */
	int64_t batch;  /* in which append of that writer */
};

struct sqlb_loc {
	int64_t position;
	int32_t sub;
};

/* A row of the lease side table. The deadline itself never leaves the database's clock. */
struct sqlb_lease {
	int64_t id;
	int64_t ttl_ms;
	int64_t remaining_ms; /* out: negative when past the deadline, and only then */
	bool found;           /* out, of lease_touch and lease_read */
};

/*
 * One append. The rows and the changes of the lease table are one database transaction. Rows are in (position, sub) order,
 * positions are consecutive and begin one after the position the caller has applied.
 *
 * The unique key alone refuses a position that has a row. It is not enough where all rows of that position were trimmed
 * (the caller slept through a compaction) or where the database lost its newest rows (a replica was promoted): so a
 * driver also looks at the newest entry, in the transaction, and answers CONFLICT unless it is the one before. CONFLICT is
 * also the answer when the database undid the transaction for the sake of another one (a serialization failure, a
 * deadlock): to be tried again at once. A caller that finds nothing new after a CONFLICT has to compare the head with what
 * it applied.
 */
struct sqlb_append {
	/*
	 * Whose the entry before the first row's is. A log that lost its tail may have grown to the same position again
	 * with other entries, and behind a pooler no connection breaks meanwhile. writer 0: whosever it is.
	 */
	int64_t after_writer, after_batch;
	const struct sqlb_row *rows;
	size_t row_count;
	/* Leases to create: deadline = now + ttl_ms. An existing row with that id is overwritten. */
	const struct sqlb_lease *leases_new;
	size_t leases_new_count;
	/* Lease rows to remove, whatever their deadline. */
	const int64_t *leases_gone;
	size_t leases_gone_count;
	/*
	 * The guard of lease expiry: the transaction goes through only when each of these rows exists and is past its
	 * deadline, which stays true until the commit (a keepalive waits for it); they are removed with it. When one is
	 * not past its deadline, nothing is appended and the outcome is OK with *appended = false.
	 */
	const int64_t *leases_expired;
	size_t leases_expired_count;
};

struct sqlb_head {
	int64_t position; /* 0: the log is empty */
	int64_t revision;
	int64_t writer;
	int64_t batch;
};

struct sqlb_duty {
	int64_t holder; /* 0: nobody */
	int64_t term;   /* +1 whenever somebody becomes the holder; the first holder has term 2, as a fresh etcd */
	int64_t remaining_ms; /* until the deadline, as the database's clock has it; negative when past it */
	bool taken_now;       /* this call made 'self' the holder (a refresh does not) */
};

struct sqlb_member {
	uint64_t id;
	struct ks_slice name;        /* text */
	struct ks_slice client_urls; /* text, separated by commas */
	int64_t position;            /* applied by that member */
};

struct sqlb_size {
	int64_t allocated; /* bytes of the log table (or the file) */
	int64_t in_use;    /* less what is known to be free */
};

struct sqlb_db;
struct sqlb_conn;

/* Visitors return false to stop early, which makes the call end with OK. */
typedef bool sqlb_row_fn(void *ctx, const struct sqlb_row *row);
typedef bool sqlb_lease_fn(void *ctx, const struct sqlb_lease *lease);
typedef bool sqlb_member_fn(void *ctx, const struct sqlb_member *member);

/* Gives the next row, which is borrowed until the next call. */
enum sqlb_next { SQLB_NEXT_ROW, SQLB_NEXT_END, SQLB_NEXT_FAILED };
typedef enum sqlb_next sqlb_next_fn(void *ctx, struct sqlb_row *row);

enum sqlb_feature {
	SQLB_EXCLUSIVE = 1, /* nobody else can append while this db is open: reads need no head probe */
	SQLB_NOTIFIES = 2,  /* wait_for_change returns promptly after a foreign append */
};

struct sqlb_ops {
	int version;            /* SQLB_VERSION */
	const char *name;       /* "sqlite" */
	const char *schemes[4]; /* "sqlite", … NULL */
	unsigned features;

	/*
	 * Parses 'url' and takes what a process holds exclusively (SQLite: the lock of the file, error when another server
	 * has it). Does not need the database to be reachable. KS_INVALID_ARGUMENT: the URL is wrong, with a text that
	 * says how it should look; KS_FAILED_PRECONDITION: somebody else has it; KS_UNIMPLEMENTED: not built in.
	 */
	enum ks_status (*open)(const char *url, const char *data_dir, struct sqlb_db **db, struct ks_err *err);
	void (*close)(struct sqlb_db *db); /* after all its connections; NULL is fine */

	/* A new handle, not yet connected: the first use connects. Fails only without memory. */
	enum sqlb_outcome (*connect)(struct sqlb_db *db, struct sqlb_conn **conn, struct ks_err *err);
	void (*disconnect)(struct sqlb_conn *conn); /* NULL is fine */

	/*
	 * Creates the schema or brings an older one up to date, in one transaction, safe against other instances doing the
	 * same; reads the cluster id (random, made with the schema). BROKEN when tables of these names exist that are not
	 * ours, or when the schema is newer than this program.
	 */
	enum sqlb_outcome (*migrate)(struct sqlb_conn *conn, uint64_t *cluster_id, struct ks_err *err);

	enum sqlb_outcome (*append)(struct sqlb_conn *conn, const struct sqlb_append *append, bool *appended,
				    struct ks_err *err);
	/*
	 * An append in two steps, so that the next one can be on its way before this one is answered; NULL for a driver that
	 * cannot. append_send: OK means that it is on its way, nothing else is known, and the append's memory is no longer
	 * needed; any other outcome is the append's own, and it is not on its way. KS_UNIMPLEMENTED in 'err' with AWAY: not this
	 * append, or not on this connection (a guard, a pooler): use 'append', once nothing is on its way.
	 * At most SQLB_SENT_MAX are on their way. One that is sent behind another goes through only when that one did, because its
	 * after_writer and after_batch are that one's; the driver need not know.
	 * append_receive: the outcome of the oldest on its way, exactly as 'append' would have it. *pending = true with OK: there is no answer after
	 * wait_ms (0: a look; negative: as long as an append may take), and it is still on its way.
	 * While any is on its way no other call is made on the connection, but these two, cancel and disconnect. When the connection is
	 * lost meanwhile, each that was on its way is received, with DOUBT (or what is known to be certain).
	 */
	enum sqlb_outcome (*append_send)(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err);
	enum sqlb_outcome (*append_receive)(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					    struct ks_err *err);
	/*
	 * Fills a log that is empty: all rows that 'next' gives, in (position, sub) order from position 1 on, as one
	 * transaction of any size. Nobody ever sees a part of it, and no crash leaves one; a server that starts meanwhile
	 * waits, or finds a full log. CONFLICT: the log is not empty. When 'next' fails nothing was changed, and the outcome is
	 * AWAY with 'err' as it was. Memory is bounded.
	 */
	enum sqlb_outcome (*load)(struct sqlb_conn *conn, sqlb_next_fn *next, void *ctx, struct ks_err *err);
	enum sqlb_outcome (*read_head)(struct sqlb_conn *conn, struct sqlb_head *head, struct ks_err *err);
	/*
	 * Visits the rows with position > after and <= to in (position, sub) order, from one snapshot of the database, and
	 * stops after max_bytes of keys, values and payloads, but only between entries (so at least one whole entry is
	 * visited when there is one). to < 0: no upper end. *more tells whether rows were left; after a visitor's stop it
	 * is true.
	 */
	enum sqlb_outcome (*read_rows)(struct sqlb_conn *conn, int64_t after, int64_t to, size_t max_bytes,
				       sqlb_row_fn *visit, void *ctx, bool *more, struct ks_err *err);
	/* Visits those of the rows at 'locs' that exist, in any order. */
	enum sqlb_outcome (*read_at)(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				     sqlb_row_fn *visit, void *ctx, struct ks_err *err);
	/* Deletes rows; those that do not exist are fine. The caller keeps to small counts (at most 1000). */
	enum sqlb_outcome (*trim)(struct sqlb_conn *conn, const struct sqlb_loc *locs, size_t count,
				  struct ks_err *err);
	/*
	 * Returns OK when the head may have moved past 'after', when wait_ms ran out, or when cancel was called. A hint
	 * only. Backends without SQLB_NOTIFIES poll the head adaptively (1 ms … 50 ms after activity, 200 ms when idle).
	 */
	enum sqlb_outcome (*wait_for_change)(struct sqlb_conn *conn, int64_t after, int wait_ms, struct ks_err *err);
	/* From any thread: makes a running or the next wait_for_change return. Does not touch other calls. */
	void (*cancel)(struct sqlb_conn *conn);

	/*
	 * Keepalives: for each lease whose row exists and is not past its deadline, deadline = now + its stored ttl, and
	 * found = true, ttl_ms and remaining_ms filled. Others: found = false, nothing changed.
	 */
	enum sqlb_outcome (*lease_touch)(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					 struct ks_err *err);
	/* Inserts rows that are missing (deadline = now + ttl_ms); leaves existing ones alone. */
	enum sqlb_outcome (*lease_ensure)(struct sqlb_conn *conn, const struct sqlb_lease *leases, size_t count,
					  struct ks_err *err);
	/* Every lease gets its whole ttl again: done by a new holder of the duty, as etcd does on a change of leader. */
	enum sqlb_outcome (*lease_refresh_all)(struct sqlb_conn *conn, struct ks_err *err);
	/* Visits all rows of the lease table in the order of their deadlines, soonest first; at most 'limit' (0 = all). */
	enum sqlb_outcome (*lease_list)(struct sqlb_conn *conn, size_t limit, sqlb_lease_fn *visit, void *ctx,
					struct ks_err *err);
	/* Fills ttl_ms, remaining_ms and found for the given ids. */
	enum sqlb_outcome (*lease_read)(struct sqlb_conn *conn, struct sqlb_lease *leases, size_t count,
					struct ks_err *err);
	/* Removes rows whose lease is known to be gone (left over from a crash). */
	enum sqlb_outcome (*lease_drop)(struct sqlb_conn *conn, const int64_t *ids, size_t count, struct ks_err *err);

	/*
	 * The duty is an expiring row. Takes it for 'self' for ttl_ms when it is free or expired, refreshes it when 'self'
	 * has it (even when past its time), and reports who has it. duty_pass gives it from 'self' to 'to' (0: to nobody)
	 * at once; when 'self' does not have it, it changes nothing and is OK.
	 */
	enum sqlb_outcome (*duty_take)(struct sqlb_conn *conn, int64_t self, int ttl_ms, struct sqlb_duty *duty,
				       struct ks_err *err);
	enum sqlb_outcome (*duty_pass)(struct sqlb_conn *conn, int64_t self, int64_t to, int ttl_ms,
				       struct ks_err *err);

	/* Registers or refreshes 'self' for ttl_ms; ttl_ms 0 removes it. Rows long past their time are removed on the way. */
	enum sqlb_outcome (*member_beat)(struct sqlb_conn *conn, const struct sqlb_member *self, int ttl_ms,
					 struct ks_err *err);
	/* Visits the members that are alive, ordered by id (unsigned). */
	enum sqlb_outcome (*member_list)(struct sqlb_conn *conn, sqlb_member_fn *visit, void *ctx, struct ks_err *err);

	enum sqlb_outcome (*size)(struct sqlb_conn *conn, struct sqlb_size *size, struct ks_err *err);
	/*
	 * Gives free space back where the database can (VACUUM); may take long. 'all': everything that can be given back, even
	 * where others must wait for it meanwhile.
	 */
	enum sqlb_outcome (*defragment)(struct sqlb_conn *conn, bool all, struct ks_err *err);
};

/* registry.c: the backends that were compiled in, NULL at the end; and the one for a URL's scheme (NULL: unknown). */
extern const struct sqlb_ops *const sqlb_backends[];
const struct sqlb_ops *sqlb_find(const char *url, struct ks_err *err);
/* Copies 'url' with its password replaced by "***": the only form that may reach a log. */
void sqlb_url_redact(const char *url, char *out, size_t out_size);
const char *sqlb_outcome_name(enum sqlb_outcome outcome);
/* Never 0: what a driver makes a cluster id of when it makes the schema. */
uint64_t sqlb_random_id(void);

extern const struct sqlb_ops sqlb_memory_ops;   /* memory.h has its faults and clock */
extern const struct sqlb_ops sqlb_sqlite_ops;   /* only with --with-sqlite */
extern const struct sqlb_ops sqlb_mysql_ops;    /* only with --with-mysql */
extern const struct sqlb_ops sqlb_postgres_ops; /* only with --with-postgresql */
extern const struct sqlb_ops sqlb_mssql_ops;    /* only with --with-odbc */

#endif
