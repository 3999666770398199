/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of log/ share; tests and the simulation may look, nobody else.
 *
 * Each thread is a role: a mailbox (mutex, condition, 'poked'), one database connection, and a step function that does one
 * bounded piece of work, never sleeps, and returns in how many milliseconds it wants to be called again (0: at once,
 * KS_LOG_IDLE: when it is poked). Threads are loops around the step; a simulation calls the steps itself.
 *
 * Lock order: a thread holds at most one role's mutex, and calls neither the database nor a 'done' nor the store under it.
 */
#ifndef KS_LOG_LOG_PRIV_H
#define KS_LOG_LOG_PRIV_H

#include <stdatomic.h>

#include "base/backoff.h"
#include "base/list.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "base/timer.h"
#include "log/autocompact.h"
#include "log/entry.h"
#include "log/gather.h"
#include "log/log.h"
#include "log/turn.h"

#define KS_LOG_IDLE INT64_MAX

#define KS_LOG_AWAY_LONG_MS 3000 /* away for longer: new requests fail at once instead of waiting */
#define KS_LOG_BROKEN_RETRY_MS 10000
#define KS_LOG_EXPIRE_MS 200 /* how often waiting requests are looked at for their timeout */
#define KS_LOG_PULL_BYTES (4u << 20)
#define KS_LOG_MOVE_TIMEOUT "etcdserver: request timed out, leader transfer took too long"

enum ks_log_role_id { KS_LOG_WRITER, KS_LOG_TAIL, KS_LOG_READER, KS_LOG_SIDE, KS_LOG_CHORES, KS_LOG_ROLES };

struct ks_log_role {
	enum ks_log_role_id id;
	const char *name; /* for the log, and of the thread */
	struct ks_mutex mutex;
	struct ks_cond cond;
	bool poked; /* under mutex */
	/* the role's thread only */
	struct sqlb_conn *conn;
	struct ks_backoff backoff;
	int64_t retry_at_ms; /* no call to the database before; 0: all is well */
	int64_t said_ms;     /* when the log was last told that it is away */
	bool quiet;          /* that it is away now was not said, so that its return is not, either */
	pthread_t thread;
	bool started;
	/* written by the role's thread, read by everybody: since when the database does not answer it; 0: it does */
	_Atomic int64_t away_since_ms;
	_Atomic bool broken;
};

/* The newest entry of the committed view: compared with the log to notice that it lost its tail. */
struct ks_log_applied {
	int64_t position, writer, batch;
};

/*
 * The writer's states (ks_log_writer_go moves between them):
 *
 *            migrate ok              all rows read                  append: DOUBT or CONFLICT
 *   STARTING ---------->  LOADING  --------------->  SERVING  ----------------------------->  SETTLING
 *                            ^                       |     ^                                  |  |
 *                            |  the log lost its tail|     +----- landed, or never will ------+  |
 *                            +-----------------------+-------------- the log lost its tail ------+
 *
 * AWAY and BROKEN are no states: they stop every state for a while (role.retry_at_ms) and it goes on where it was.
 */
enum ks_log_state { KS_LOG_STARTING, KS_LOG_LOADING, KS_LOG_SERVING, KS_LOG_SETTLING };

/* What is evaluated together and appended as one. */
struct ks_log_batch {
	struct ks_submit **submits;
	struct ks_effects *effects; /* of submits[i] */
	size_t count, room;
	size_t entry_count, row_count, bytes; /* of the effects */
	int64_t number;                       /* sqlb_row.batch */
	int64_t position;                     /* of the last entry */
	struct ks_log_applied compaction;     /* the newest in it */
	bool expired;                         /* revokes of expired leases, guarded by the lease table */
	bool doubt;  /* it was sent and the answer was lost: answered only when that is settled */
	bool behind; /* it was sent behind another, and its time has the other's in it */
	uint64_t proof_mark;
	int64_t began_ms, began_ns; /* of its append: the log's clock, and that of the metrics */
	struct sqlb_row *rows;
	size_t row_room;
	struct sqlb_lease *leases_new;
	int64_t *leases_gone;
	size_t leases_new_count, leases_gone_count, lease_room;
};

/* The way to the database, however busy both ends are. */
struct ks_log_way {
	int64_t least_ms, before_ms; /* the quickest append of this span of time, and of the one before it */
	int64_t since_ms;            /* 0: there was none yet */
	int64_t round_us;            /* of a bare round trip, … */
	int64_t measured_ms;         /* … then; 0: never */
	bool declined;               /* the driver does not send ahead on such a database */
};

struct ks_log_writer {
	struct ks_log_role role;
	/* under role.mutex */
	struct ks_list queue;   /* ks_submit of clients */
	struct ks_list expired; /* ks_submit of the housekeeper: revokes of expired leases */
	size_t queue_count, queue_bytes;
	int64_t moved_past; /* the tail saw the log go past this position; -1: nothing */
	int64_t head_seen;  /* the reader saw the head here */
	bool verify;  /* look at the log before anything else: a connection was cut, or somebody suspects something */
	bool holding; /* it waits for its turn: one request more is no reason to wake it */
	/* the writer's thread only */
	bool look;    /* as verify, from the writer itself */
	int64_t hint; /* the head that the look under way is meant to find */
	bool looked;  /* the last step was such a look */
	enum ks_log_state state;
	struct ks_log_applied applied;
	struct ks_log_batch batch;
	/* Sent behind the batch, in this order; the store's tail is cut before each. While nothing is on its way all are in doubt. */
	struct ks_log_batch ahead[SQLB_SENT_MAX - 1];
	size_t ahead_count;
	size_t sent;       /* how many of them all are on their way, unanswered */
	bool stays_behind; /* nothing more is sent until they all have their answers */
	struct ks_log_way way;
	int64_t next_batch;
	size_t batch_max;  /* entries; less than configured after a batch grew too large in evaluation */
	bool expired_next; /* whose turn it is */
	bool fetch_failed; /* the store could not get a value while evaluating */
	bool ready_called;
	size_t expired_alone; /* so many more revokes go alone: a guard refused a batch of several */
	size_t alone;         /* so many more requests go alone: a row of a batch was too large for the database */
	struct ks_turn turn;
	bool tail_waits;    /* to be told that what it saw was looked after */
	bool held;          /* we waited for our turn and have not looked at the log since */
	int64_t look_at_ms; /* while it waits for its turn; 0: it need not look */
	int64_t pause_until_ms;
	int64_t append_us; /* moving average */
	uint64_t random;
	_Atomic size_t in_flight; /* requests of the batch and of those ahead, for gauges */
};

struct ks_log_tail {
	struct ks_log_role role;
	int64_t stepped_at_ms; /* when it may look again, if it is stepped */
	_Atomic int64_t
		quiet_ms; /* from the writer, which appends or waits for its turn: no need to look before; 0: look */
};

struct ks_log_reader {
	struct ks_log_role role;
	/* under role.mutex; proofs are in the order of their arrival, the oldest in 'waiting', the newest in 'fresh' */
	struct ks_list fresh;   /* not yet probed for */
	struct ks_list sent;    /* the probe is on its way */
	struct ks_list waiting; /* for the store to reach their target */
	struct ks_list fetches;
	uint64_t next_seq;
	bool slowly; /* the next probe waits a little */
	struct ks_log_applied applied;
	uint64_t epoch; /* +1 whenever the log is loaded anew */
	/* the reader's thread only */
	struct ks_list chunk; /* fetches being worked on */
	size_t chunk_offset;  /* refs done of the only fetch in it */
	struct ks_log_fetch_slot *slots;
	size_t probed;        /* proofs that the last head was for */
	int64_t probed_in_us; /* they came in so long */
	int64_t probe_ns;     /* when it was asked for */
};

struct ks_log_locs {
	struct ks_loc *locs;
	size_t count, room;
	size_t start; /* done before this */
};

struct ks_log_compactor {
	struct ks_autocompact machine;
	struct ks_submit submit; /* the compaction on its way, if 'sent' */
	bool sent;
	bool returned; /* under role.mutex: it is done */
	uint64_t generation;
};

struct ks_log_side {
	struct ks_log_role role;
	/* under role.mutex */
	struct ks_list keepalives;
	size_t arrived;          /* keepalives since they were last taken */
	struct ks_gather gather; /* only the side thread changes it */
	struct ks_list times;
	struct ks_list physical; /* ks_chore: waits until compaction has nothing left to do */
	struct ks_list moves;    /* ks_chore: the duty is to go to another instance */
	struct ks_list moving;   /* the first of these, while it is being done */
	struct ks_list sizes;    /* ks_chore: the size is to be looked up */
	struct ks_list lapsed;   /* keepalives whose lease is past its deadline: wait for the revoke to be seen */
	bool compact_wanted;     /* a compaction was published, or the log was loaded */
	bool scan_wanted;        /* rows that nobody remembers may wait for their trimming */
	bool scan_again;         /* after the next compaction */
	bool audit_wanted;       /* leases may be without deadline */
	struct ks_log_applied compaction; /* the newest one that was applied; position 0: none */
	uint64_t generation;              /* +1 whenever the log turned out to be another one than before */
	int64_t expiring[512];            /* leases whose revoke is on its way */
	size_t expiring_count;
	struct ks_member *members; /* the cached list, one block for ks_log_members to copy */
	size_t member_count;
	struct sqlb_size size;
	struct sqlb_duty duty;
	/* the side thread only */
	int64_t beat_at_ms, duty_at_ms, duty_until_ms, expiry_at_ms, size_at_ms, audit_at_ms, trim_at_ms, lapsed_at_ms,
		members_at_ms;
	int64_t size_polled_ms, size_appended; /* of the last poll of the size */
	bool beaten;                           /* a member_beat succeeded: the row must be removed at the end */
	bool duty_held;
	bool duty_new;      /* taken, but leases not yet refreshed */
	bool move_passed;   /* the duty was handed to the target of the move, which has not answered yet */
	int move_ttl_ms;    /* with so much time */
	int64_t move_at_ms; /* when to look again */
	struct ks_log_compactor compactor;
	int64_t least_applied; /* of all live members; 0: not known */
	struct ks_log_locs trim;
	struct ks_log_applied trim_for; /* a compaction not older than any that dropped what is in 'trim' */
	uint64_t trim_generation;
	int64_t trim_blocked_ms; /* since when a live member is behind trim_for; 0: none is */
	size_t trim_chunk;
	unsigned expiry_skipped;
	bool compacting; /* the store has more to drop */
	int64_t compact_since_ms;
	bool scanning;
	int64_t scan_after, scan_to;
	int64_t *orphans; /* side rows without a lease in the store, seen when the log's head was orphans_head */
	size_t orphan_count;
	int64_t orphans_head;
};

struct ks_log_chores {
	struct ks_log_role role;
	struct ks_list queue; /* under role.mutex */
};

/* How large the log is, for any thread (size.c). */
struct ks_log_size {
	_Atomic int64_t allocated; /* when it was last looked up */
	_Atomic int64_t base; /* what was in use then, less what had been appended: what is in use is base + appended */
	_Atomic int64_t appended; /* ever, by anybody, as far as this instance has seen; about so many bytes */
};

struct ks_log {
	struct ks_committer committer; /* first */
	struct ks_log_config config;
	char *name, *client_urls;
	const struct sqlb_ops *ops;
	struct ks_clock *clock;
	struct ks_store *store;
	bool stepped; /* no threads: nothing may wait */
	struct ks_timers *timers;
	struct ks_timer expire_timer;
	_Atomic bool stopping;
	_Atomic bool loaded; /* the store holds the log */
	_Atomic uint64_t cluster_id;
	_Atomic int64_t head_known;      /* newest position anybody saw */
	_Atomic int64_t behind_since_ms; /* it lies before what is applied since then; 0: it does not */
	struct ks_metrics_source source; /* gauges.c */
	_Atomic size_t live_members;
	struct ks_log_size size;
	struct ks_log_writer writer;
	struct ks_log_tail tail;
	struct ks_log_reader reader;
	struct ks_log_side side;
	struct ks_log_chores chores;
};

static inline struct ks_log *ks_log_of(struct ks_committer *committer)
{
	return ks_container_of(committer, struct ks_log, committer);
}

/* ---- life cycle without threads ---- */

/* Everything but the threads: the caller calls the steps, and at the end ks_log_stop. */
struct ks_log *ks_log_new_stepped(const struct ks_log_config *config, struct ks_err *err);
int64_t ks_log_writer_step(struct ks_log *log);
int64_t ks_log_tail_step(struct ks_log *log);
int64_t ks_log_reader_step(struct ks_log *log);
int64_t ks_log_side_step(struct ks_log *log);
int64_t ks_log_chores_step(struct ks_log *log);
/* Fails the requests that waited for too long. */
void ks_log_expire(struct ks_log *log);

/* ---- role.c ---- */

void ks_log_role_init(struct ks_log_role *role, const char *name, uint64_t seed);
void ks_log_role_fini(struct ks_log_role *role);
void ks_log_role_poke(struct ks_log_role *role);
/*
 * Unlocks, and wakes the thread if it has been poked. In this order: the first thing that the woken one does is to take the mutex, and were it
 * held still, a lone request would wait for two wake-ups instead of one.
 */
void ks_log_role_unlock(struct ks_log_role *role) KS_RELEASES(role->mutex);
/* Says that the database failed it, and when to try again: milliseconds from now, which role.retry_at_ms also says. */
int64_t ks_log_role_failed(struct ks_log *log, struct ks_log_role *role, enum sqlb_outcome outcome, const char *what,
			   const struct ks_err *err);
void ks_log_role_fine(struct ks_log *log, struct ks_log_role *role);
/* Milliseconds until the database may be asked again; 0: now. */
int64_t ks_log_role_pause(struct ks_log *log, const struct ks_log_role *role);
/* NULL when a new request may wait for this role; else the text for KS_UNAVAILABLE. */
const char *ks_log_role_refuses(struct ks_log *log, const struct ks_log_role *role);
/* Queues a new request for it, and wakes it; or says why not, as above. */
const char *ks_log_role_queue(struct ks_log *log, struct ks_log_role *role, struct ks_list *queue,
			      struct ks_list *link);
uint64_t ks_log_random(uint64_t *state);

/* ---- replay.c [writer]: rows of the log into the store ---- */

enum ks_log_pull {
	KS_LOG_PULL_DONE,   /* the store is where the log was; '*more' says that there may be more already */
	KS_LOG_PULL_LANDED, /* the batch that was in doubt is in the log */
	KS_LOG_PULL_UNSURE, /* the rows that would tell whether it landed have been trimmed */
	KS_LOG_PULL_LOST,   /* the log does not hold what was applied: load again */
	KS_LOG_PULL_FAILED, /* ks_log_role_failed was called */
};
/*
 * Applies and publishes what follows the applied entry, after a look at that entry itself. With an evaluated batch in the
 * tail (settling = true) the first new row decides: its own means LANDED with the tail untouched; a foreign one rolls
 * the tail back.
 */
enum ks_log_pull ks_log_pull(struct ks_log *log, bool settling, bool *more);
/* Reads the whole log into the empty store. False: ks_log_role_failed was called, and the store is empty again. */
bool ks_log_load(struct ks_log *log);

/* ---- gauges.c ---- */

void ks_log_gauges_start(struct ks_log *log);
void ks_log_gauges_stop(struct ks_log *log);
/* The log was seen to reach this position; the store has reached this one. */
void ks_log_know_head(struct ks_log *log, int64_t position);
void ks_log_caught_up(struct ks_log *log, int64_t applied);

/* ---- queue.c, writer.c ---- */

void ks_log_submit(struct ks_committer *committer, struct ks_submit *submit);
void ks_log_submit_expired(struct ks_log *log, struct ks_submit *submit);
void ks_log_writer_moved(struct ks_log *log, int64_t past);        /* from the tail */
void ks_log_writer_head(struct ks_log *log, int64_t position);     /* from the reader: the head was here */
void ks_log_writer_verify(struct ks_log *log);                     /* something does not fit */
void ks_log_writer_fail_all(struct ks_log *log, const char *text); /* what waits in the queues */
/* The last act of the thread, and of fini: fails what it was working on. */
void ks_log_writer_abandon(struct ks_log *log);
void ks_log_writer_fini(struct ks_log *log);
void ks_log_writer_expire(struct ks_log *log);
/* The writer's own bookkeeping after ks_store_publish (also replay.c). */
void ks_log_writer_published(struct ks_log *log, struct ks_log_applied applied, uint64_t proof_mark);

/* ---- head.c, values.c, reader.c ---- */

void ks_log_prove_read(struct ks_committer *committer, struct ks_read_proof *proof);
void ks_log_fetch(struct ks_committer *committer, struct ks_fetch *fetch);
/* Proofs that arrived before the mark was taken are served by an append that begins after it. */
uint64_t ks_log_proof_mark(struct ks_log *log);
/* The last act of the thread, and of fini: fails what it was working on. */
void ks_log_reader_abandon(struct ks_log *log);
void ks_log_reader_published(struct ks_log *log, struct ks_log_applied applied, uint64_t proof_mark);
/* What was published last, by any thread's look; position 0: nothing, the log is being loaded. */
struct ks_log_applied ks_log_reader_applied(struct ks_log *log);
void ks_log_reader_reset(struct ks_log *log);
void ks_log_reader_probe_again(struct ks_log *log); /* the head that proofs wait for is not in the log */
void ks_log_reader_fail_all(struct ks_log *log, const char *text);
void ks_log_reader_expire(struct ks_log *log);
void ks_log_reader_fini(struct ks_log *log);
/* Reads one value on the writer's connection; ctx = log. */
struct ks_bytes *ks_log_writer_fetch(void *ctx, struct ks_loc loc);

/* ---- members.c ---- */

struct ks_member *ks_log_members(struct ks_committer *committer, size_t *count);
void ks_log_members_init(struct ks_log *log);
/* Refreshes this instance's row [side], and the list; or only the list. */
enum sqlb_outcome ks_log_members_beat(struct ks_log *log, struct ks_err *err);
enum sqlb_outcome ks_log_members_list(struct ks_log *log, struct ks_err *err);

/* ---- duty.c [side] ---- */

/* Is this instance the housekeeper, as far as it can know without asking? */
bool ks_log_duty_held(struct ks_log *log);
/* Takes or refreshes the duty, or sees who has it, and says when to do so again. */
enum sqlb_outcome ks_log_duty_take(struct ks_log *log, struct ks_err *err);
/* Goes on with handing the duty to another instance. True when there was something to do. */
bool ks_log_duty_move(struct ks_log *log, enum sqlb_outcome *outcome, struct ks_err *err);

/* ---- size.c ---- */

/* Looks the size up, on the caller's connection. */
enum sqlb_outcome ks_log_size_poll(struct ks_log *log, struct sqlb_conn *conn, struct ks_err *err);
/* From the writer: so much was appended. */
void ks_log_size_grow(struct ks_log *log, size_t bytes, size_t rows);
int64_t ks_log_size_expected(struct ks_log *log);
int64_t ks_log_db_size(struct ks_committer *committer);
/* Is it time to look it up? [side] And does so. */
bool ks_log_size_due(struct ks_log *log);
enum sqlb_outcome ks_log_size_step(struct ks_log *log, struct ks_err *err);

/* ---- compactor.c [side]; returns as a step does ---- */

int64_t ks_log_compactor_step(struct ks_log *log);

/* ---- housekeeper.c, keepalive.c, lease_times.c, trim.c, chores.c ---- */

void ks_log_keepalive(struct ks_committer *committer, struct ks_keepalive *keepalive);
void ks_log_lease_times(struct ks_committer *committer, struct ks_lease_times *times);
void ks_log_chore(struct ks_committer *committer, struct ks_chore *chore);
void ks_log_side_init(struct ks_log *log);
void ks_log_side_fini(struct ks_log *log);
void ks_log_side_leave(struct ks_log *log); /* gives the duty back, leaves the member table; tried once */
void ks_log_side_fail_all(struct ks_log *log, const char *text);
void ks_log_side_expire(struct ks_log *log);
/*
 * From the writer: the newest compaction that is about to be published (position 0: none), or that the log was loaded. Before
 * the publish, because the side thread must know which compaction it was when the store reports what it dropped.
 */
void ks_log_side_compacted(struct ks_log *log, struct ks_log_applied compaction, bool loaded);
void ks_log_side_compact(struct ks_log *log); /* after the publish: there is something to drop */
void ks_log_side_lost(struct ks_log *log);    /* positions and rows mean nothing any more */
void ks_log_chores_fail_all(struct ks_log *log, const char *text);
/* One piece of compaction and trimming; returns as a step does. [side] */
int64_t ks_log_trim_step(struct ks_log *log);

#endif
