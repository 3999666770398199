/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proofs that the committed view misses nothing.
 *
 * One look at the head serves all proofs that were waiting when it was sent (as etcd's ReadIndex does): they are complete
 * as soon as the store has reached that head. An own append that began after a proof arrived serves it too, because
 * it succeeds only at the end of the log. A database that is ours alone needs no look at all. Where very many proofs come, each look waits
 * a moment for more of them: it costs the database, us and those who wake us nearly the same for one and for a hundred.
 *
 * The head also gives a lost tail away: when it lies before what was applied, or holds another entry there.
 */
#include "log/reader.h"

#include <time.h>

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

/* The label PROOF. */
enum { BY_PROBE, BY_APPEND, BY_EXCLUSIVE };

void ks_log_proofs_finish(struct ks_list *proofs, const char *failure)
{
	struct ks_list *link;

	while ((link = ks_list_pop(proofs))) {
		struct ks_read_proof *proof = ks_log_proof_of(link);

		proof->err.status = KS_OK;
		if (failure) {
			ks_fail(&proof->err, KS_UNAVAILABLE, "%s", failure);
			KS_COUNT(READ_INDEXES_FAILED, 1);
		}
		proof->done(proof);
	}
}

/* ---- any thread ---- */

void ks_log_prove_read(struct ks_committer *committer, struct ks_read_proof *proof)
{
	struct ks_log *log = ks_log_of(committer);
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
		struct ks_read_proof *proof = ks_log_proof_of(from->next);

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
	ks_log_proofs_finish(&proven, NULL);
}

/* Puts proofs back to the front of those that need a probe. */
static void probe_again_locked(struct ks_log_reader *r)
{
	ks_list_splice(&r->waiting, &r->sent);
	ks_list_splice_front(&r->fresh, &r->waiting);
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
	ks_list_splice_front(&r->fresh, &r->waiting);
	r->slowly = true; /* a database that shows us heads and no rows must not keep us busy */
	r->role.poked = true;
	ks_log_role_unlock(&r->role);
}

/* ---- the reader's thread ---- */

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
			ks_log_proof_of(link)->target = head->position;
		if (reached)
			KS_COUNT_AT(PROOFS, BY_PROBE, count);
		if (reached && count == 1 && ks_list_empty(&r->fresh) && ks_list_empty(&r->fetches))
			ks_log_proof_of(r->sent.next)->alone = true;
		ks_list_splice(reached ? &proven : &r->waiting, &r->sent);
	}
	ks_mutex_unlock(&r->role.mutex);
	r->probed = count;
	KS_OBSERVE(PROBE_READS, count);
	ks_log_proofs_finish(&proven, NULL);
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

bool ks_log_prove(struct ks_log *log, int64_t *wait_ms)
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
		ks_list_splice_front(&r->fresh, &r->sent);
		ks_mutex_unlock(&r->role.mutex);
		*wait_ms = ks_log_role_failed(log, &r->role, outcome, "head", &err);
		return true;
	}
	ks_log_role_fine(log, &r->role);
	judge(log, &head, before, epoch);
	return true;
}
