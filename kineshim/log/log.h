/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQL log: implements ks_committer on a sqlbackends database. The only meeting of store and sqlbackends.
 *
 * Five threads, each with a database connection of its own:
 *   writer  writer.h, replay.c   gather → evaluate → append → publish → answer; the only one that changes the store
 *   tail    tail.c               waits for foreign appends and pokes the writer
 *   reader  reader.h             one head probe for all waiting linearizable reads; values that the cache let go
 *   side    housekeeper.c        one thing after the other:
 *           keepalive.c          keepalives;
 *           lease_times.c        the remaining times of leases;
 *           duty.c               who is the housekeeper;
 *           expiry.c             leases that end;
 *           size.c               how large the log is;
 *           compactor.c          auto-compaction (the rule is in autocompact.c);
 *           members.c            who is alive;
 *           trim.c               compaction in memory and trimming of rows
 *   chores  chores.c             defragmentation and HashKV; connected only meanwhile
 * Each is a loop around a step function (log_priv.h) that does one bounded piece of work and never sleeps, so that a
 * simulation can drive several instances from one thread with a fake clock.
 *
 * Start: ks_log_start returns when the threads run, not when the database answered: until the log is loaded everything answers
 * KS_UNAVAILABLE, and 'ready' is called once when it is served for the first time.
 * The process never ends because of the database: AWAY is retried with back-off, BROKEN stops writing, is logged as an
 * error that says what to do, and is tried again slowly.
 */
#ifndef KS_LOG_LOG_H
#define KS_LOG_LOG_H

#include "base/clock.h"
#include "log/autocompact.h"
#include "sqlbackends/sqlb.h"
#include "store/committer.h"
#include "store/store.h"

struct ks_log;

struct ks_log_config {
	const struct sqlb_ops *backend;
	struct sqlb_db *db; /* borrowed: outlives the log */
	size_t value_cache_bytes;
	struct ks_clock *clock;
	const char *name;        /* member name; copied */
	const char *client_urls; /* advertised, comma separated; copied */
	uint64_t member_id;      /* not 0 */
	int64_t writer_id;       /* unique for each process start; 0: random */
	int request_timeout_ms;  /* 7000: how long a request may wait for the database (spec 11.1) */
	int duty_ttl_ms;         /* housekeeper's row; default 5000 */
	int member_ttl_ms;       /* default 10000 */
	struct ks_autocompact_config autocompact;
	int64_t quota_bytes;      /* of the API: the size is looked up more often near to it; not above 0: no limit */
	size_t max_batch_bytes;   /* default 4 MiB, at most SQLB_MAX_BYTES */
	size_t max_batch_entries; /* default 4096 */
	size_t max_queue_bytes;   /* default 256 MiB: over it new writes get UNK "etcdserver: too many requests" */
	enum {
		KS_LOG_AHEAD_FAR,    /* appends are sent ahead where the database is far away, and nobody else writes */
		KS_LOG_AHEAD_ALWAYS, /* whenever something waits, for tests */
		KS_LOG_AHEAD_NEVER,
	} ahead;
	void (*ready)(void *ctx); /* on the writer thread */
	void *ctx;
};

struct ks_log *ks_log_start(const struct ks_log_config *config, struct ks_err *err);
/*
 * Fails what waits (KS_UNAVAILABLE "etcdserver: server stopped") and from then on everything that comes, at once; only the
 * batch that is being appended still gets its own answer. Nothing is freed: calls that are still running may use the store
 * and the committer until ks_log_stop. Any thread.
 */
void ks_log_quit(struct ks_log *log);
/* ks_log_quit, then gives the duty back, leaves the member table, joins and frees all, the store too. NULL is fine. */
void ks_log_stop(struct ks_log *log);
struct ks_store *ks_log_store(struct ks_log *log);
struct ks_committer *ks_log_committer(struct ks_log *log);

#endif
