/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the writer share; all on its thread, unless it says otherwise.
 *
 *   queue.c   requests that wait, and what other threads have to tell (log_priv.h)
 *   batch.c   the way of a batch
 *   writer.c  the states, and what is done in them
 *   ahead.c   several batches on their way
 *   settle.c  what came of an append
 */
#ifndef KS_LOG_WRITER_H
#define KS_LOG_WRITER_H

#include "log/log_priv.h"

/* ---- queue.c ---- */

/* Answers a request with an error; any thread. */
void ks_log_submit_fail(struct ks_submit *submit, enum ks_status status, const char *text);
/* Does nobody wait, neither clients nor expired leases? Takes the role's mutex. */
bool ks_log_queue_is_empty(struct ks_log_writer *w);
/* Takes the request out of its queue, whose mutex is held. */
void ks_log_queue_take(struct ks_log_writer *w, struct ks_submit *submit, bool expired);
/* All of the list goes to the front of the queue. */
void ks_log_queue_put_back(struct ks_log_writer *w, struct ks_list *back, bool expired);

/* ---- batch.c ---- */

/* 'batch' is the writer's or one ahead. */

/* role.mutex is held. Moves requests into an empty batch: at most 'max', and none behind one that is more than puts and deletes, if only_kv. */
void ks_log_batch_fill(struct ks_log *log, struct ks_log_batch *batch, struct ks_list *from, size_t max, bool only_kv);
void ks_log_batch_waited(struct ks_log *log,
			 const struct ks_log_batch *batch); /* for the metric: it is full, and not empty */
enum ks_log_evaluated {
	KS_LOG_EVALUATED,
	KS_LOG_LACKS_VALUE, /* it could not be read, ks_log_role_failed was called unless appends are on their way */
	KS_LOG_TOO_LARGE,   /* the first *fitted requests may be appended together */
};
/* Into the store's tail. Unless it is evaluated, the caller rolls back and puts back. */
enum ks_log_evaluated ks_log_batch_evaluate(struct ks_log *log, struct ks_log_batch *batch,
					    size_t *fitted) KS_MUST_CHECK;
/* Makes rows of it. False without memory. */
bool ks_log_batch_encode(struct ks_log *log, struct ks_log_batch *batch) KS_MUST_CHECK;
/* Its append begins, behind that writer's batch; what to append, borrowed from the batch. */
struct sqlb_append ks_log_batch_begin(struct ks_log *log, struct ks_log_batch *batch, int64_t after_writer,
				      int64_t after_batch);
void ks_log_batch_ended(struct ks_log *log, const struct ks_log_batch *batch, enum sqlb_outcome outcome, bool appended);
/* The writer's batch is in the log: publishes, answers; what was sent behind it takes its place. */
void ks_log_batch_landed(struct ks_log *log);
/* The requests go back to the front of the queue; the store was rolled back. */
void ks_log_batch_put_back(struct ks_log *log, struct ks_log_batch *batch);
/* A batch was made, or ended: for the gauge. */
void ks_log_batch_count_in_flight(struct ks_log_writer *w);
/* Appends the writer's batch, and waits for the outcome. */
enum sqlb_outcome ks_log_batch_append(struct ks_log *log, bool *appended, struct ks_err *err);
/* Answers the requests of the writer's batch, and empties it. */
void ks_log_batch_answer(struct ks_log *log);
/* Whether it landed will never be known, or does not matter any more. What was in doubt behind it shares its fate. */
void ks_log_batch_fail(struct ks_log *log, enum ks_status status, const char *text);
void ks_log_batch_free(struct ks_log_batch *batch);

/* ---- writer.c ---- */

void ks_log_writer_go(struct ks_log_writer *w, enum ks_log_state state);
/* The batch is not in the log: throws the tail away and puts the requests back, to be evaluated again; also those that were sent behind it. */
void ks_log_writer_unwind(struct ks_log *log);
/* The log does not hold what was applied: the store is emptied, and loads again. */
void ks_log_writer_lost(struct ks_log *log);

/* ---- ahead.c ---- */

/* Sends the writer's batch instead of appending it, if that may be good for something; *wait_ms as a step returns. False: append it. */
bool ks_log_ahead_send(struct ks_log *log, int64_t *wait_ms);
/* How many requests go together; fewer than all that wait where several appends share the way. With the role's mutex held. */
size_t ks_log_ahead_share(const struct ks_log *log);
/* How long an append took. */
void ks_log_ahead_took(struct ks_log *log, int64_t took_ms);
/* While appends are on their way (writer.sent): sends another one, or takes an answer. Returns as a step does. */
int64_t ks_log_ahead_step(struct ks_log *log);

/* ---- settle.c ---- */

/* What became of the batch's append; returns as a step does. */
int64_t ks_log_writer_appended(struct ks_log *log, enum sqlb_outcome outcome, bool appended, struct ks_err *err);
/* The state SETTLING; returns as a step does. */
int64_t ks_log_settle_step(struct ks_log *log);

#endif
