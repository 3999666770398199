/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction behind the compaction entry, on the side thread: every instance lets the store drop in pieces what nobody can ask for
 * any more; the housekeeper also deletes the rows.
 *
 * A row may go when every live member has applied the compaction that dropped it: then nobody reads it again, neither to catch
 * up nor for a value. Whoever sleeps longer than a member's time to live finds holes and reads the log anew (replay.c).
 * The newest compaction's own row stays; it and the newest applied entry are looked at before each piece on the connection that
 * will delete: when one is not there, the database lost its tail, positions mean something else now, and nothing may be deleted.
 * Rows go in the order in which the store reports them (store.h), few at a time and fewer when the database is slow.
 *
 * Rows that were reported and forgotten (the duty moved, a member lagged, memory was short) are found again by a scan, in ascending
 * order. What is reported meanwhile may be what ended them, and must not go first: a put whose delete is gone comes back to life when
 * the log is read anew. So while a scan is due it finds all; while one runs only what lies behind it is remembered, and goes before
 * it runs on; what lies ahead it will meet.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "log/log_priv.h"
#include "store/watch_hub.h"

/* Removing history waits for watchers that were woken and have not read yet; a slow client is overtaken, as with etcd. */
#define WATCHERS_WAIT_MS 5
#define WATCHERS_MOST_MS 2000
#define COPY_WAIT_MS 50 /* while somebody copies the store, which may be seconds */
#define DROP_RECORDS 4096
#define PENDING_MAX 65536 /* locs; then they are trimmed before more is dropped */
#define CHUNK_MIN 50
#define CHUNK_MAX 1000
#define QUICK_MS 20 /* a piece that took less makes the next one larger */
#define SLOW_MS 100
#define BLOCKED_MAX_MS 60000 /* then they are forgotten, and a scan finds them later */
#define BLOCKED_POLL_MS 500
#define SCAN_BYTES (512u << 10)
#define SCAN_PAUSE_MS 20

/* ---- from the writer ---- */

void ks_log_side_compacted(struct ks_log *log, struct ks_log_applied compaction, bool loaded)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	if (compaction.position >= s->compaction.position)
		s->compaction = compaction;
	/*
	 * A store that was just loaded does not remember what the rows behind the newest compaction will leave over at the next
	 * one: so there is a scan now and another one then.
	 */
	if (loaded)
		s->scan_wanted = s->audit_wanted = s->scan_again = true;
	else if (s->scan_again) {
		s->scan_wanted = true;
		s->scan_again = false;
	}
	ks_mutex_unlock(&s->role.mutex);
}

void ks_log_side_compact(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	s->compact_wanted = true;
	s->role.poked = true;
	ks_log_role_unlock(&s->role);
}

void ks_log_side_lost(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	ks_mutex_lock(&s->role.mutex);
	s->generation++;
	s->compaction = (struct ks_log_applied){0};
	s->scan_wanted = true;
	ks_mutex_unlock(&s->role.mutex);
}

/* ---- the side thread ---- */

static size_t pending(const struct ks_log_side *s)
{
	return s->trim.count - s->trim.start;
}

static bool keep_locs(struct ks_log_locs *list, const struct ks_loc *locs, size_t count)
{
	if (list->count + count > list->room) {
		size_t room = 2 * list->room + count;
		struct ks_loc *bigger = realloc(list->locs, room * sizeof(*bigger));

		if (!bigger)
			return false;
		list->locs = bigger;
		list->room = room;
	}
	for (size_t i = 0; i < count; i++)
		list->locs[list->count++] = locs[i];
	return true;
}

static void want_scan(struct ks_log_side *s)
{
	ks_mutex_lock(&s->role.mutex);
	s->scan_wanted = true;
	ks_mutex_unlock(&s->role.mutex);
}

/* Nothing is pending any more; if there was something, a scan will find it again. */
static void forget(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;

	if (pending(s) || s->scanning)
		want_scan(s);
	s->trim.count = s->trim.start = 0;
	s->trim_blocked_ms = 0;
	s->scanning = false;
}

static bool scan_is_due(struct ks_log_side *s)
{
	bool due;

	ks_mutex_lock(&s->role.mutex);
	due = s->scan_wanted;
	ks_mutex_unlock(&s->role.mutex);
	return due;
}

/* Those that a running scan has left behind. */
static bool keep_passed(struct ks_log_side *s, const struct ks_loc *locs, size_t count)
{
	bool kept = true;

	for (size_t i = 0; i < count && kept; i++)
		if (locs[i].position <= s->scan_after)
			kept = keep_locs(&s->trim, &locs[i], 1);
	return kept;
}

static void dropped(void *ctx, const struct ks_loc *locs, size_t count)
{
	struct ks_log *log = ctx;
	struct ks_log_side *s = &log->side;
	bool kept = false;

	KS_COUNT(COMPACTED_KEYS, count);
	if (count == 0) {
		want_scan(s); /* rows were forgotten; from here on all is left to the scan */
		return;
	}
	/* Whoever has the duty, or has it next, finds by a scan what is not remembered here. */
	if (ks_log_duty_held(log) && !scan_is_due(s))
		kept = s->scanning ? keep_passed(s, locs, count) : keep_locs(&s->trim, locs, count);
	if (!kept)
		want_scan(s);
}

struct log_look {
	struct ks_log_applied expected[2];
	bool found[2];
};

static bool visit_expected(void *ctx, const struct sqlb_row *row)
{
	struct log_look *look = ctx;

	for (size_t i = 0; i < 2; i++)
		if (row->position == look->expected[i].position && row->writer == look->expected[i].writer &&
		    row->batch == look->expected[i].batch)
			look->found[i] = true;
	return true;
}

/*
 * Is this still the log that we applied? Its compaction must be there, or no reader would understand the holes; and our newest entry,
 * for what is pending may have been ended by any entry up to that one: a database that lost its tail may have lost the end of a lease
 * whose grant would go now. *known is false while the writer is just about to say what it applied.
 */
static enum sqlb_outcome same_log(struct ks_log *log, const struct ks_log_applied *compaction, bool *known, bool *same,
				  struct ks_err *err)
{
	int64_t needed = ks_store_committed(log->store).position;
	struct log_look look = {.expected = {*compaction, ks_log_reader_applied(log)}};
	struct sqlb_loc at[2] = {{compaction->position, 0}, {look.expected[1].position, 0}};
	enum sqlb_outcome outcome = SQLB_OK;

	*known = look.expected[1].position >= needed;
	if (*known)
		outcome = log->ops->read_at(log->side.role.conn, at, 2, visit_expected, &look, err);
	*same = look.found[0] && look.found[1];
	return outcome;
}

/* Deletes the next piece of what is pending. */
static int64_t trim_rows(struct ks_log *log, const struct ks_log_applied *compaction)
{
	struct ks_log_side *s = &log->side;
	struct sqlb_loc locs[CHUNK_MAX];
	size_t count = pending(s) < s->trim_chunk ? pending(s) : s->trim_chunk;
	int64_t began = ks_clock_now(log->clock), took;
	struct ks_err err = {0};
	bool known, same;
	enum sqlb_outcome outcome = same_log(log, compaction, &known, &same, &err);

	if (!known)
		return 1;
	if (outcome == SQLB_OK && !same) {
		ks_diag(KS_WARN, "log",
			"trimming stops: the compaction at position %" PRId64
			" or what was applied since is not in the log",
			compaction->position);
		forget(log);
		ks_log_writer_verify(log);
		return BLOCKED_POLL_MS;
	}
	for (size_t i = 0; i < count; i++)
		locs[i] = (struct sqlb_loc){s->trim.locs[s->trim.start + i].position,
					    s->trim.locs[s->trim.start + i].sub};
	if (outcome == SQLB_OK)
		outcome = log->ops->trim(s->role.conn, locs, count, &err);
	if (outcome != SQLB_OK)
		return ks_log_role_failed(log, &s->role, outcome, "trim", &err);
	ks_log_role_fine(log, &s->role);
	KS_COUNT(TRIMMED, count);
	s->trim.start += count;
	if (!pending(s))
		s->trim.start = s->trim.count = 0;
	took = ks_clock_now(log->clock) - began;
	if (took <= QUICK_MS)
		s->trim_chunk = 2 * s->trim_chunk < CHUNK_MAX ? 2 * s->trim_chunk : CHUNK_MAX;
	else if (took > SLOW_MS)
		s->trim_chunk = s->trim_chunk / 2 > CHUNK_MIN ? s->trim_chunk / 2 : CHUNK_MIN;
	s->trim_at_ms = began + 2 * took; /* as long for the others as it took */
	return took;
}

struct scan {
	struct ks_log *log;
	int64_t last;
	bool no_memory;
};

static bool visit_scan(void *ctx, const struct sqlb_row *row)
{
	struct scan *scan = ctx;
	struct ks_loc loc = {row->position, row->sub};
	struct ks_effect effect = {
		.kind = (enum ks_effect_kind)row->kind,
		.key = row->key,
		.lease = row->lease,
		.payload = row->payload,
	};

	if (atomic_load_explicit(&scan->log->stopping, memory_order_relaxed))
		return false;
	scan->last = row->position;
	if (row->kind < KS_EFFECT_PUT || row->kind > KS_EFFECT_IMPORT)
		return true;
	if (!ks_store_row_needed(scan->log->store, &effect, loc) && !keep_locs(&scan->log->side.trim, &loc, 1))
		scan->no_memory = true;
	return !scan->no_memory; /* what comes behind it must not go before it */
}

/* Looks for rows that nobody needs and nobody remembers: a housekeeper ended before it had trimmed all. */
static int64_t scan_rows(struct ks_log *log, const struct ks_log_applied *compaction)
{
	struct ks_log_side *s = &log->side;
	struct scan scan = {.log = log, .last = s->scan_after};
	struct ks_err err = {0};
	bool more = false;
	enum sqlb_outcome outcome;

	if (!s->scanning) {
		s->scanning = true;
		s->scan_after = scan.last = 0;
	}
	s->scan_to = compaction->position - 1; /* also of one that came meanwhile: what it drops is met as well */
	s->trim_for = *compaction;
	outcome = s->scan_to < 1 ? SQLB_OK
				 : log->ops->read_rows(s->role.conn, s->scan_after, s->scan_to, SCAN_BYTES, visit_scan,
						       &scan, &more, &err);
	if (outcome != SQLB_OK) {
		s->trim.count = s->trim.start = 0; /* the piece is read again */
		return ks_log_role_failed(log, &s->role, outcome, "scan", &err);
	}
	ks_log_role_fine(log, &s->role);
	s->scan_after = scan.last;
	s->scanning = more && !scan.no_memory;
	if (scan.no_memory)
		want_scan(s);
	s->trim_at_ms = ks_clock_now(log->clock) + SCAN_PAUSE_MS;
	return SCAN_PAUSE_MS;
}

/* False while a live member has not applied the compaction. */
static bool everybody_there(struct ks_log *log, int64_t now)
{
	struct ks_log_side *s = &log->side;

	if (s->least_applied >= s->trim_for.position) {
		s->trim_blocked_ms = 0;
		return true;
	}
	if (!s->trim_blocked_ms)
		s->trim_blocked_ms = now ? now : 1;
	if (now - s->trim_blocked_ms > BLOCKED_MAX_MS && pending(s)) {
		ks_diag(KS_WARN, "log",
			"trimming waits for a member that has applied only position %" PRId64
			", the compaction is at %" PRId64,
			s->least_applied, s->trim_for.position);
		forget(log);
	}
	return false;
}

static void finish_physical(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	struct ks_list done, *link;

	ks_list_init(&done);
	ks_mutex_lock(&s->role.mutex);
	if (!s->compact_wanted)
		ks_list_splice(&done, &s->physical);
	ks_mutex_unlock(&s->role.mutex);
	while ((link = ks_list_pop(&done))) {
		struct ks_chore *chore = ks_container_of(link, struct ks_chore, link);

		chore->err.status = KS_OK;
		chore->done(chore);
	}
}

static int64_t trim_step(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t now = ks_clock_now(log->clock);
	bool held = ks_log_duty_held(log), scan, again;
	struct ks_log_applied compaction;
	uint64_t generation;
	int64_t began;

	ks_mutex_lock(&s->role.mutex);
	generation = s->generation;
	if (s->compact_wanted) {
		if (!s->compacting)
			s->compact_since_ms = now;
		s->compacting = true;
		s->beat_at_ms = now; /* so that the housekeeper soon hears how far we are */
	}
	s->compact_wanted = false;
	ks_mutex_unlock(&s->role.mutex);

	if (!held || s->trim_generation != generation)
		forget(log);
	s->trim_generation = generation;
	if (s->compacting && now - s->compact_since_ms < WATCHERS_MOST_MS &&
	    ks_watch_hub_needs(ks_store_hub(log->store), ks_store_committed(log->store).compact_revision))
		return WATCHERS_WAIT_MS;
	if (s->compacting && ks_store_copying(log->store))
		return COPY_WAIT_MS;
	if (s->compacting && pending(s) < PENDING_MAX) {
		began = ks_metrics_now();
		s->compacting = ks_store_compact_step(log->store, DROP_RECORDS, dropped, log);
		KS_OBSERVE(COMPACTION_PAUSE, ks_metrics_now() - began);
		if (!s->compacting) {
			KS_OBSERVE(COMPACTION_TOTAL, (ks_clock_now(log->clock) - s->compact_since_ms) * 1000000);
			KS_SET(COMPACTION_LAST, time(NULL));
		}
		ks_mutex_lock(&s->role.mutex);
		s->trim_for = s->compaction;
		ks_mutex_unlock(&s->role.mutex);
		return 0;
	}
	ks_mutex_lock(&s->role.mutex);
	compaction = s->compaction;
	scan = s->scan_wanted;
	again = s->trim_generation != s->generation;
	ks_mutex_unlock(&s->role.mutex);
	if (again)
		return 0; /* the log was lost meanwhile: what is pending means nothing */
	if (!held || s->duty_new || !compaction.position || (!pending(s) && !scan && !s->scanning)) {
		finish_physical(log);
		return KS_LOG_IDLE;
	}
	if (!pending(s))
		s->trim_for = compaction;
	if (!everybody_there(log, now))
		return BLOCKED_POLL_MS;
	if (now < s->trim_at_ms)
		return s->trim_at_ms - now;
	if (pending(s))
		return trim_rows(log, &compaction);
	/* What a physical compaction waits for may be among what a scan finds: it ends with the scan, not before. */
	if (scan) {
		ks_mutex_lock(&s->role.mutex);
		s->scan_wanted = false;
		ks_mutex_unlock(&s->role.mutex);
		s->scanning = false;
	}
	return scan_rows(log, &compaction);
}

int64_t ks_log_trim_step(struct ks_log *log)
{
	struct ks_log_side *s = &log->side;
	int64_t wait_ms = trim_step(log);

	KS_SET(TRIM_PENDING, pending(s));
	KS_SET(TRIM_BLOCKED, s->trim_blocked_ms ? (double)(ks_clock_now(log->clock) - s->trim_blocked_ms) / 1000 : 0);
	return wait_ms;
}
