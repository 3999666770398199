/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader's thread: proofs that the committed view misses nothing, and values that the cache let go.
 *
 * One look at the head serves all proofs that were waiting when it was sent (as etcd's ReadIndex does): they are complete
 * as soon as the store has reached that head. An own append that began after a proof arrived serves it too, because
 * it succeeds only at the end of the log. A database that is ours alone needs no look at all. Where very many proofs come, each look waits
 * a moment for more of them: it costs the database, us and those who wake us nearly the same for one and for a hundred.
 *
 * The head also gives a lost tail away: when it lies before what was applied, or holds another entry there.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "log/log_priv.h"

#define FETCH_CHUNK 512       /* rows in one query */
#define SUSPICION_PAUSE_MS 20 /* for the writer to look at the log */
/*
 * So many proofs in one look, and the next one is worth the wait. A look takes less than 100 us besides, so who waits again and again
 * has at least 50,000 reads a second: few clients, whose next read follows the answer, never wait. Where reads come faster than that the wait may
 * be longer, as long as they do: clients that only wait for it ask for less, and get the short one again.
 */
#define GATHER_PROOFS 24
#define GATHER_US 300
#define GATHER_FAST_US 1000
#define FAST_US 16 /* between two reads */
#define IDLE_PROBE_MS 1000 /* away, and nobody waits: is it back? */

struct ks_log_fetch_slot {
	struct ks_loc loc;
	struct ks_kvref *ref;
};

/* The label PROOF. */
enum { BY_PROBE, BY_APPEND, BY_EXCLUSIVE };

static struct ks_log *log_of(struct ks_committer *committer)
{
	return ks_container_of(committer, struct ks_log, committer);
}

static struct ks_read_proof *proof_of(struct ks_list *link)
{
	return ks_container_of(link, struct ks_read_proof, link);
}

static void finish_proofs(struct ks_list *proofs, const char *failure)
{
	struct ks_list *link;

	while ((link = ks_list_pop(proofs))) {
		struct ks_read_proof *proof = proof_of(link);

		proof->err.status = KS_OK;
		if (failure) {
			ks_fail(&proof->err, KS_UNAVAILABLE, "%s", failure);
			KS_COUNT(READ_INDEXES_FAILED, 1);
		}
		proof->done(proof);
	}
}

static void finish_fetch(struct ks_fetch *fetch, enum ks_status status, const char *text)
{
	fetch->err.status = KS_OK;
	if (status != KS_OK)
		ks_fail(&fetch->err, status, "%s", text);
	fetch->done(fetch);
}

static void fail_fetches(struct ks_list *fetches, enum ks_status status, const char *text)
{
	struct ks_list *link;

	while ((link = ks_list_pop(fetches)))
		finish_fetch(ks_container_of(link, struct ks_fetch, link), status, text);
}

/* ---- any thread ---- */

void ks_log_prove_read(struct ks_committer *committer, struct ks_read_proof *proof)
{
	struct ks_log *log = log_of(committer);
	struct ks_log_reader *r = &log->reader;
	bool at_once = false;
	const char *refusal;

	proof->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&r->role.mutex);
	refusal = ks_log_role_refuses(log, &r->role);
	if (!refusal) {
		at_once = log->ops->features & SQLB_EXCLUSIVE;
		if (!at_once) {
			proof->seq = r->next_seq++;
			ks_list_append(&r->fresh, &proof->link);
			r->role.poked = true;
		}
	}
	ks_log_role_unlock(&r->role);
	if (refusal) {
		ks_fail(&proof->err, KS_UNAVAILABLE, "%s", refusal);
		KS_COUNT(READ_INDEXES_FAILED, 1);
		proof->done(proof);
	} else if (at_once) {
		KS_COUNT_AT(PROOFS, BY_EXCLUSIVE, 1);
		proof->err.status = KS_OK;
		proof->done(proof);
	}
}

void ks_log_fetch(struct ks_committer *committer, struct ks_fetch *fetch)
{
	struct ks_log *log = log_of(committer);
	struct ks_log_reader *r = &log->reader;
	const char *refusal;

	fetch->since_ms = ks_clock_now(log->clock);
	ks_mutex_lock(&r->role.mutex);
	refusal = ks_log_role_refuses(log, &r->role);
	if (!refusal) {
		ks_list_append(&r->fetches, &fetch->link);
		r->role.poked = true;
	}
	ks_log_role_unlock(&r->role);
	if (refusal)
		finish_fetch(fetch, KS_UNAVAILABLE, refusal);
}

uint64_t ks_log_proof_mark(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;
	uint64_t mark;

	ks_mutex_lock(&r->role.mutex);
	mark = r->next_seq;
	ks_mutex_unlock(&r->role.mutex);
	return mark;
}

/* Lists hold proofs in the order of seq, and targets rise with it. */
static void take_proven(struct ks_list *from, struct ks_list *to, uint64_t mark, int64_t position)
{
	while (!ks_list_empty(from)) {
		struct ks_read_proof *proof = proof_of(from->next);

		if (proof->seq >= mark && (position < 0 || proof->target > position))
			return;
		KS_COUNT_AT(PROOFS, proof->seq < mark ? BY_APPEND : BY_PROBE, 1);
		ks_list_remove(&proof->link);
		ks_list_append(to, &proof->link);
	}
}

struct ks_log_applied ks_log_reader_applied(struct ks_log *log)
{
	struct ks_log_applied applied;

	ks_mutex_lock(&log->reader.role.mutex);
	applied = log->reader.applied;
	ks_mutex_unlock(&log->reader.role.mutex);
	return applied;
}

void ks_log_reader_published(struct ks_log *log, struct ks_log_applied applied, uint64_t proof_mark)
{
	struct ks_log_reader *r = &log->reader;
	struct ks_list proven;

	ks_list_init(&proven);
	ks_mutex_lock(&r->role.mutex);
	r->applied = applied;
	take_proven(&r->waiting, &proven, proof_mark, applied.position);
	take_proven(&r->sent, &proven, proof_mark, -1);
	take_proven(&r->fresh, &proven, proof_mark, -1);
	ks_mutex_unlock(&r->role.mutex);
	finish_proofs(&proven, NULL);
}

/* Puts proofs back to the front of those that need a probe. */
static void probe_again_locked(struct ks_log_reader *r)
{
	ks_list_splice(&r->waiting, &r->sent);
	ks_list_splice(&r->waiting, &r->fresh);
	ks_list_splice(&r->fresh, &r->waiting);
}

void ks_log_reader_reset(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;

	ks_mutex_lock(&r->role.mutex);
	r->applied = (struct ks_log_applied){0};
	r->epoch++;
	probe_again_locked(r);
	ks_mutex_unlock(&r->role.mutex);
}

void ks_log_reader_probe_again(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;

	ks_mutex_lock(&r->role.mutex);
	ks_list_splice(&r->waiting, &r->fresh);
	ks_list_splice(&r->fresh, &r->waiting);
	r->slowly = true; /* a database that shows us heads and no rows must not keep us busy */
	r->role.poked = true;
	ks_log_role_unlock(&r->role);
}

void ks_log_reader_fail_all(struct ks_log *log, const char *text)
{
	struct ks_log_reader *r = &log->reader;
	struct ks_list proofs, fetches;

	ks_list_init(&proofs);
	ks_list_init(&fetches);
	ks_mutex_lock(&r->role.mutex);
	ks_list_splice(&proofs, &r->waiting);
	ks_list_splice(&proofs, &r->sent);
	ks_list_splice(&proofs, &r->fresh);
	ks_list_splice(&fetches, &r->fetches);
	ks_mutex_unlock(&r->role.mutex);
	finish_proofs(&proofs, text);
	fail_fetches(&fetches, KS_UNAVAILABLE, text);
}

static void take_older(struct ks_list *from, struct ks_list *to, int64_t than_ms)
{
	while (!ks_list_empty(from) && proof_of(from->next)->since_ms <= than_ms) {
		KS_COUNT(SLOW_READ_INDEXES, 1);
		KS_COUNT_AT(LOG_LATE, 1, 1);
		struct ks_list *link = ks_list_pop(from);

		ks_list_append(to, link);
	}
}

void ks_log_reader_expire(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;
	int64_t than_ms = ks_clock_now(log->clock) - log->config.request_timeout_ms;
	struct ks_list proofs, fetches, *link;

	ks_list_init(&proofs);
	ks_list_init(&fetches);
	ks_mutex_lock(&r->role.mutex);
	take_older(&r->waiting, &proofs, than_ms);
	take_older(&r->sent, &proofs, than_ms);
	take_older(&r->fresh, &proofs, than_ms);
	while (!ks_list_empty(&r->fetches)) {
		link = r->fetches.next;
		if (ks_container_of(link, struct ks_fetch, link)->since_ms > than_ms)
			break;
		KS_COUNT_AT(LOG_LATE, 2, 1);
		ks_list_remove(link);
		ks_list_append(&fetches, link);
	}
	ks_mutex_unlock(&r->role.mutex);
	finish_proofs(&proofs, "etcdserver: request timed out");
	fail_fetches(&fetches, KS_UNAVAILABLE, "etcdserver: request timed out");
}

/* ---- the reader's thread: proofs ---- */

/* What a head says of the proofs that were waiting for it. */
static void judge(struct ks_log *log, const struct sqlb_head *head, struct ks_log_applied before, uint64_t epoch)
{
	struct ks_log_reader *r = &log->reader;
	struct ks_list proven;
	bool suspect, reached;
	size_t count = 0;

	ks_log_know_head(log, head->position);
	ks_list_init(&proven);
	ks_mutex_lock(&r->role.mutex);
	suspect = epoch == r->epoch && (head->position < before.position ||
					(head->position == r->applied.position &&
					 (head->writer != r->applied.writer || head->batch != r->applied.batch)));
	reached = r->applied.position >= head->position;
	if (epoch != r->epoch || suspect) {
		probe_again_locked(r); /* the answer came from a log that we do not hold */
	} else {
		for (struct ks_list *link = r->sent.next; link != &r->sent; link = link->next, count++)
			proof_of(link)->target = head->position;
		if (reached)
			KS_COUNT_AT(PROOFS, BY_PROBE, count);
		if (reached && count == 1 && ks_list_empty(&r->fresh) && ks_list_empty(&r->fetches))
			proof_of(r->sent.next)->alone = true;
		ks_list_splice(reached ? &proven : &r->waiting, &r->sent);
	}
	ks_mutex_unlock(&r->role.mutex);
	r->probed = count;
	KS_OBSERVE(PROBE_READS, count);
	finish_proofs(&proven, NULL);
	if (suspect) {
		r->role.retry_at_ms = ks_clock_now(log->clock) + SUSPICION_PAUSE_MS;
		ks_log_writer_verify(log);
	} else if (!reached) {
		ks_log_writer_head(log, head->position);
	}
}

static void gather_proofs(struct ks_log_reader *r)
{
	bool fast = (int64_t)r->probed * FAST_US >= r->probed_in_us;
	const struct timespec pause = {.tv_nsec = (fast ? GATHER_FAST_US : GATHER_US) * 1000};
	bool come;

	if (r->probed < GATHER_PROOFS)
		return;
	ks_mutex_lock(&r->role.mutex);
	come = !ks_list_empty(&r->fresh);
	ks_mutex_unlock(&r->role.mutex);
	if (come)
		(void)nanosleep(&pause, NULL); /* a signal that ends it does no harm */
}

/* True when there was something to do. *wait_ms: after trouble. */
static bool prove(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_reader *r = &log->reader;
	bool away = atomic_load(&r->role.away_since_ms) != 0;
	struct sqlb_head head = {0};
	struct ks_err err = {0};
	struct ks_log_applied before;
	uint64_t epoch;
	int64_t began;
	enum sqlb_outcome outcome;

	gather_proofs(r);
	ks_mutex_lock(&r->role.mutex);
	if ((ks_list_empty(&r->fresh) && !away) || r->applied.position == 0) {
		ks_mutex_unlock(&r->role.mutex);
		return false;
	}
	if (r->slowly) {
		r->slowly = false;
		ks_mutex_unlock(&r->role.mutex);
		r->role.retry_at_ms = ks_clock_now(log->clock) + SUSPICION_PAUSE_MS;
		return false;
	}
	ks_list_splice(&r->sent, &r->fresh);
	before = r->applied;
	epoch = r->epoch;
	ks_mutex_unlock(&r->role.mutex);
	began = ks_metrics_now();
	r->probed_in_us = (began - r->probe_ns) / 1000;
	r->probe_ns = began;
	outcome = log->ops->read_head(r->role.conn, &head, &err);
	KS_COUNT(PROBES, 1);
	KS_OBSERVE(PROBE_TIME, ks_metrics_now() - began);
	if (outcome != SQLB_OK) {
		ks_mutex_lock(&r->role.mutex);
		ks_list_splice(&r->sent, &r->fresh);
		ks_list_splice(&r->fresh, &r->sent);
		ks_mutex_unlock(&r->role.mutex);
		*wait_ms = ks_log_role_failed(log, &r->role, outcome, "head", &err);
		return true;
	}
	ks_log_role_fine(log, &r->role);
	judge(log, &head, before, epoch);
	return true;
}

/* ---- the reader's thread: values ---- */

struct ks_bytes *ks_log_row_encode(const struct sqlb_row *row)
{
	const struct ks_kv kv = {
		.key = row->key,
		.value = row->value,
		.create_revision = row->create_revision,
		.mod_revision = row->revision,
		.version = row->version,
		.lease = row->lease,
	};

	return row->kind == KS_EFFECT_PUT ? ks_kv_encode(&kv) : NULL;
}

static int by_loc(const void *a, const void *b)
{
	const struct ks_log_fetch_slot *left = a, *right = b;

	if (left->loc.position != right->loc.position)
		return left->loc.position < right->loc.position ? -1 : 1;
	return (left->loc.sub > right->loc.sub) - (left->loc.sub < right->loc.sub);
}

struct filling {
	struct ks_log *log;
	struct ks_log_fetch_slot *slots;
	size_t count;
	bool no_memory;
};

static bool fill(void *ctx, const struct sqlb_row *row)
{
	struct filling *f = ctx;
	struct ks_loc loc = {row->position, row->sub};
	struct ks_log_fetch_slot wanted = {.loc = loc};
	size_t low = 0, high = f->count;
	struct ks_bytes *encoded;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (by_loc(&f->slots[middle], &wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (row->kind != KS_EFFECT_PUT || low == f->count || by_loc(&f->slots[low], &wanted) != 0)
		return true;
	encoded = ks_log_row_encode(row);
	if (!encoded) {
		f->no_memory = true;
		return false;
	}
	ks_store_cache_fill(f->log->store, encoded, loc);
	for (; low < f->count && by_loc(&f->slots[low], &wanted) == 0; low++)
		if (!f->slots[low].ref->encoded)
			f->slots[low].ref->encoded = ks_bytes_ref(encoded);
	ks_bytes_unref(encoded);
	return true;
}

/* Moves as many fetches into the chunk as fit; a larger one goes alone, piece by piece. */
static void next_chunk(struct ks_log_reader *r)
{
	size_t count = 0;

	if (!ks_list_empty(&r->chunk))
		return;
	r->chunk_offset = 0;
	ks_mutex_lock(&r->role.mutex);
	while (!ks_list_empty(&r->fetches)) {
		struct ks_fetch *fetch = ks_container_of(r->fetches.next, struct ks_fetch, link);

		if (count && count + fetch->count > FETCH_CHUNK)
			break;
		count += fetch->count;
		ks_list_remove(&fetch->link);
		ks_list_append(&r->chunk, &fetch->link);
	}
	ks_mutex_unlock(&r->role.mutex);
}

static size_t collect(struct ks_log_reader *r, struct ks_log_fetch_slot *slots)
{
	size_t count = 0, i = r->chunk_offset;

	for (struct ks_list *link = r->chunk.next; link != &r->chunk; link = link->next) {
		struct ks_fetch *fetch = ks_container_of(link, struct ks_fetch, link);

		for (; i < fetch->count && count < FETCH_CHUNK; i++)
			if (ks_kvref_missing(fetch->refs[i]))
				slots[count++] = (struct ks_log_fetch_slot){fetch->refs[i]->loc, fetch->refs[i]};
		if (i < fetch->count) {
			r->chunk_offset = i;
			return count;
		}
		i = 0;
	}
	r->chunk_offset = SIZE_MAX; /* this is the last piece */
	return count;
}

static void finish_chunk(struct ks_log *log, bool trimmed)
{
	struct ks_list *link;

	while ((link = ks_list_pop(&log->reader.chunk))) {
		struct ks_fetch *fetch = ks_container_of(link, struct ks_fetch, link);
		bool whole = true;

		for (size_t i = 0; trimmed && i < fetch->count && whole; i++)
			whole = !ks_kvref_missing(fetch->refs[i]);
		if (whole)
			finish_fetch(fetch, KS_OK, NULL);
		else
			finish_fetch(fetch, KS_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted");
	}
}

/* The chunk could not be read: those who have time left wait. */
static void put_chunk_back(struct ks_log_reader *r)
{
	ks_mutex_lock(&r->role.mutex);
	ks_list_splice(&r->chunk, &r->fetches);
	ks_list_splice(&r->fetches, &r->chunk);
	ks_mutex_unlock(&r->role.mutex);
}

static bool fetch_some(struct ks_log *log, int64_t *wait_ms)
{
	struct ks_log_reader *r = &log->reader;
	struct sqlb_loc locs[FETCH_CHUNK];
	struct filling filling = {.log = log, .slots = r->slots};
	size_t offset, distinct = 0;
	int64_t began;
	struct ks_err err = {0};
	enum sqlb_outcome outcome = SQLB_OK;
	bool missing = false;

	next_chunk(r);
	if (ks_list_empty(&r->chunk))
		return false;
	offset = r->chunk_offset;
	filling.count = collect(r, r->slots);
	qsort(r->slots, filling.count, sizeof(*r->slots), by_loc);
	for (size_t i = 0; i < filling.count; i++)
		if (!i || by_loc(&r->slots[i - 1], &r->slots[i]) != 0)
			locs[distinct++] = (struct sqlb_loc){r->slots[i].loc.position, r->slots[i].loc.sub};
	if (distinct) {
		began = ks_metrics_now();
		outcome = log->ops->read_at(r->role.conn, locs, distinct, fill, &filling, &err);
		KS_OBSERVE(FETCH_TIME, ks_metrics_now() - began);
		KS_COUNT(FETCHED, distinct);
	}
	if (outcome != SQLB_OK) {
		r->chunk_offset = offset;
		put_chunk_back(r);
		*wait_ms = ks_log_role_failed(log, &r->role, outcome, "read values", &err);
		return true;
	}
	ks_log_role_fine(log, &r->role);
	if (filling.no_memory) {
		fail_fetches(&r->chunk, KS_RESOURCE_EXHAUSTED, "etcdserver: out of memory");
		return true;
	}
	for (size_t i = 0; i < filling.count; i++)
		missing = missing || ks_kvref_missing(r->slots[i].ref);
	if (missing)
		ks_log_writer_verify(log); /* a compaction that we do not know of yet, or a lost tail */
	if (missing || r->chunk_offset == SIZE_MAX)
		finish_chunk(log, missing);
	return true;
}

int64_t ks_log_reader_step(struct ks_log *log)
{
	struct ks_log_reader *r = &log->reader;
	int64_t wait_ms = ks_log_role_pause(log, &r->role);
	bool busy;

	if (wait_ms)
		return wait_ms;
	if (!r->slots)
		r->slots = calloc(FETCH_CHUNK, sizeof(*r->slots));
	if (!r->slots)
		return IDLE_PROBE_MS;
	busy = prove(log, &wait_ms);
	if (!wait_ms)
		busy = fetch_some(log, &wait_ms) || busy;
	if (wait_ms)
		return wait_ms;
	wait_ms = ks_log_role_pause(log, &r->role);
	if (wait_ms)
		return wait_ms;
	return busy ? 0 : KS_LOG_IDLE;
}

void ks_log_reader_abandon(struct ks_log *log)
{
	fail_fetches(&log->reader.chunk, KS_UNAVAILABLE, "etcdserver: server stopped");
	ks_log_reader_fail_all(log, "etcdserver: server stopped");
}

void ks_log_reader_fini(struct ks_log *log)
{
	ks_log_reader_abandon(log);
	free(log->reader.slots);
}

/* ---- for the store, on the writer's thread ---- */

struct one_value {
	struct ks_bytes *encoded;
	bool no_memory;
};

static bool take_one(void *ctx, const struct sqlb_row *row)
{
	struct one_value *one = ctx;

	if (row->kind == KS_EFFECT_PUT && !one->encoded) {
		one->encoded = ks_log_row_encode(row);
		one->no_memory = !one->encoded;
	}
	return true;
}

struct ks_bytes *ks_log_writer_fetch(void *ctx, struct ks_loc loc)
{
	struct ks_log *log = ctx;
	struct ks_log_writer *w = &log->writer;
	struct sqlb_loc at = {loc.position, loc.sub};
	struct one_value one = {0};
	struct ks_err err = {0};
	enum sqlb_outcome outcome;

	/* While appends are on their way the connection is theirs. */
	w->fetch_failed = w->fetch_failed || w->sent;
	if (w->fetch_failed)
		return NULL; /* one is enough to put the batch off */
	outcome = log->ops->read_at(w->role.conn, &at, 1, take_one, &one, &err);
	if (outcome == SQLB_OK && one.encoded)
		return one.encoded;
	ks_bytes_unref(one.encoded);
	w->fetch_failed = true;
	if (outcome == SQLB_OK) {
		outcome = SQLB_AWAY;
		if (one.no_memory)
			ks_fail(&err, KS_RESOURCE_EXHAUSTED, "out of memory");
		else
			ks_fail(&err, KS_DATA_LOSS, "the row (%" PRId64 ", %" PRId32 ") of a live key is not there",
				loc.position, loc.sub);
	}
	ks_log_role_failed(log, &w->role, outcome, "read value", &err);
	return NULL;
}
