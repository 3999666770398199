/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes on their way upstream.
 *
 *	submit ─► upstream ─► (failed) ───────────────────────────► done
 *	                └───► waiting for the mirror ─► ready ─► done, on the committer's thread
 *	                            └── too long ─────────┘
 *
 * The mirror says under its lock that it has reached a revision, so the answer, which looks into the mirror, is made by a thread of ours.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/panic.h"
#include "mirror/committer_request.h"
#include "mirror/committer_result.h"

/* Perhaps there is no event to wait for. */
#define BOUNDED_MS 300
/* How often somebody looks whether something waits for too long. */
#define LOOK_MS 100

struct dpa_job {
	struct dpa_wait wait;
	struct ks_list link; /* committer->waiting, ready */
	struct dpa_committer *committer;
	struct ks_submit *submit;
	const ProtobufCMessageDescriptor *type; /* of the response */
	ProtobufCMessage *response;
	int64_t deadline_ms;
};

static int64_t now_ms(void)
{
	return ks_clock_now(ks_clock_system());
}

/* ---- the end ---- */

static void count(struct dpa_committer *committer, bool failed)
{
	struct dpa_status *status = dpa_board_begin(committer->config.board);

	if (failed)
		status->forward_failures++;
	else
		status->forwarded++;
	dpa_board_end(committer->config.board);
}

/* submit->err says how it ended. */
static void finish(struct dpa_job *job)
{
	struct dpa_committer *committer = job->committer;

	job->submit->done(job->submit);
	etcdc_free(job->response);
	free(job);
	ks_mutex_lock(&committer->lock);
	committer->jobs--;
	ks_cond_broadcast(&committer->changed);
	ks_mutex_unlock(&committer->lock);
}

static void answer(struct dpa_job *job)
{
	struct ks_submit *submit = job->submit;

	/* Whoever compacts expects it of what it reads from, too. Without memory our history is only longer. */
	if (submit->request.kind == KS_REQ_COMPACT)
		(void)!dpa_replica_compact(job->committer->config.replica, submit->request.compact_revision,
					   &submit->err);
	submit->err.status = KS_OK;
	/* The status is in the error, too. */
	(void)!dpa_result_make(job->committer, &submit->request, job->response, &submit->result, &submit->err);
	finish(job);
}

/*
 * What upstream says on purpose goes to the client as it is. Where nothing reached it, the client may try again; where something may have,
 * nobody knows the outcome, and etcd says that like this.
 */
void dpa_forward_error(struct dpa_committer *committer, const struct etcdc_err *from, struct ks_err *err)
{
	bool own = strncmp(from->text, "etcdserver: ", strlen("etcdserver: ")) == 0;
	bool lost =
		from->status == KS_UNAVAILABLE || from->status == KS_DEADLINE_EXCEEDED || from->status == KS_CANCELLED;

	count(committer, true);
	if (!lost || own)
		(void)ks_fail(err, from->status, "%s", from->text);
	else if (from->sent)
		(void)ks_fail(err, KS_UNAVAILABLE, "etcdserver: request timed out");
	else
		(void)ks_fail(err, KS_UNAVAILABLE, "dpagent cannot reach the control plane: %s", from->text);
}

/* ---- waiting for the mirror ---- */

/* Under the replica's lock. */
static void reached(struct dpa_wait *wait)
{
	struct dpa_job *job = ks_container_of(wait, struct dpa_job, wait);
	struct dpa_committer *committer = job->committer;

	ks_mutex_lock(&committer->lock);
	ks_list_remove(&job->link);
	ks_list_append(&committer->ready, &job->link);
	ks_cond_broadcast(&committer->changed);
	ks_mutex_unlock(&committer->lock);
}

/* etcdc's thread. */
static void answered(void *arg, const struct etcdc_result *result)
{
	struct dpa_job *job = arg;
	struct dpa_committer *committer = job->committer;
	bool bounded = false;

	if (result->err->status != KS_OK) {
		dpa_forward_error(committer, result->err, &job->submit->err);
		finish(job);
		return;
	}
	count(committer, false);
	job->response = protobuf_c_message_unpack(job->type, NULL, result->bytes.size, result->bytes.data);
	if (!job->response) {
		(void)ks_fail(&job->submit->err, KS_UNAVAILABLE, "etcdserver: request timed out");
		finish(job);
		return;
	}
	job->wait.up_revision = dpa_result_revision(&job->submit->request, job->response, &bounded);
	job->deadline_ms = now_ms() + (bounded ? BOUNDED_MS : committer->config.timeout_ms);
	ks_mutex_lock(&committer->lock);
	ks_list_append(&committer->waiting, &job->link);
	ks_mutex_unlock(&committer->lock);
	dpa_replica_wait(committer->config.replica, &job->wait);
}

void dpa_forward(struct dpa_committer *committer, struct ks_submit *submit)
{
	struct etcdc_call_options options = {.timeout_ms = committer->config.timeout_ms, .raw = true};
	struct dpa_request request;
	struct dpa_job *job;

	if (dpa_request_make(committer, &submit->request, &request, &submit->err) != KS_OK) {
		submit->done(submit);
		return;
	}
	job = ks_xcalloc(1, sizeof(*job));
	job->committer = committer;
	job->submit = submit;
	job->type = request.method->response;
	job->wait.reached = reached;
	ks_list_init(&job->link);
	ks_mutex_lock(&committer->lock);
	committer->jobs++;
	ks_mutex_unlock(&committer->lock);
	etcdc_async(committer->config.client, request.method, request.message, &options, answered, job);
	dpa_request_fini(&request);
}

/* ---- the thread ---- */

static struct dpa_job *pop_ready(struct dpa_committer *committer)
{
	struct ks_list *link;

	ks_mutex_lock(&committer->lock);
	link = ks_list_pop(&committer->ready);
	ks_mutex_unlock(&committer->lock);
	return link ? ks_container_of(link, struct dpa_job, link) : NULL;
}

/* One that has waited for too long, or any at the end. It stays where it is. */
static struct dpa_job *find_late(struct dpa_committer *committer)
{
	struct dpa_job *found = NULL;
	int64_t now = now_ms();

	ks_mutex_lock(&committer->lock);
	for (struct ks_list *link = committer->waiting.next; link != &committer->waiting && !found; link = link->next) {
		struct dpa_job *job = ks_container_of(link, struct dpa_job, link);

		if (committer->stopping || job->deadline_ms <= now)
			found = job;
		if (found)
			found->deadline_ms = now + LOOK_MS; /* should it be about to be ready, or not yet wait */
	}
	ks_mutex_unlock(&committer->lock);
	return found;
}

/* It was written, so it is answered all the same. */
static void give_up_waiting(struct dpa_committer *committer, struct dpa_job *job)
{
	if (!dpa_replica_unwait(committer->config.replica, &job->wait))
		return;
	ks_mutex_lock(&committer->lock);
	ks_list_remove(&job->link);
	ks_mutex_unlock(&committer->lock);
	answer(job);
}

static void *run(void *arg)
{
	struct dpa_committer *committer = arg;
	bool going = true;

	while (going) {
		struct dpa_job *job;

		while ((job = pop_ready(committer)))
			answer(job);
		if ((job = find_late(committer)))
			give_up_waiting(committer, job);
		dpa_leases_expire(committer->leases);
		ks_mutex_lock(&committer->lock);
		going = !committer->stopping || committer->jobs > 0;
		if (going && ks_list_empty(&committer->ready) && !job)
			(void)ks_cond_wait(&committer->changed, &committer->lock, LOOK_MS);
		ks_mutex_unlock(&committer->lock);
	}
	return NULL;
}

enum ks_status dpa_forward_start(struct dpa_committer *committer, struct ks_err *err)
{
	ks_list_init(&committer->waiting);
	ks_list_init(&committer->ready);
	return ks_thread_start(&committer->thread, "forward", run, committer, err);
}

void dpa_forward_stop(struct dpa_committer *committer)
{
	ks_mutex_lock(&committer->lock);
	committer->stopping = true;
	ks_cond_broadcast(&committer->changed);
	ks_mutex_unlock(&committer->lock);
	ks_thread_join(committer->thread);
}
