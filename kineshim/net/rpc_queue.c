/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion queue threads: see rpc_priv.h for what each of them does. A turn of a thread is: one event of the core, then everything that
 * other threads put into the inbox meanwhile, then what streams have to send after all that.
 *
 * A turn is taken under the queue's 'turn' lock, and while it is free, the thread waits for an event. Then another thread may take a short
 * turn itself, as a visitor: what it runs has everything that the queue's thread has, and nobody need be woken for it.
 *
 * The inbox is a stack that posters push to and the thread takes whole (so it is free of locks and of the ABA
 * problem), then reverses. Whoever finds no wake event pending sends one: an empty batch on a call that leads
 * nowhere, which the core puts straight into the completion queue. (C core has no alarms in its C interface.)
 */
#include "net/rpc_priv.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/panic.h"
#include "net/json.h"

static _Thread_local struct rpc_queue *current;

static void take_inbox(struct rpc_queue *queue)
{
	struct ks_task *newest = atomic_exchange(&queue->inbox, NULL);
	struct ks_task *oldest = NULL, **end = &queue->drained;

	while (newest) {
		struct ks_task *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (*end)
		end = &(*end)->next;
	*end = oldest;
}

static void pull_when_late(struct rpc_queue *queue)
{
	if (ks_cork_is_late(&queue->cork))
		ks_cork_pull(&queue->cork);
}

static void run_inbox(struct rpc_queue *queue)
{
	struct ks_task *task;

	if (atomic_load_explicit(&queue->inbox, memory_order_relaxed))
		take_inbox(queue);
	/* Not only then: ks_rpc_queue_unpost takes the inbox too, and leaves here what it did not look for. */
	while ((task = queue->drained)) {
		queue->drained = task->next;
		task->run(task);
		pull_when_late(queue);
	}
}

static void woken(struct rpc_tag *tag, bool ok)
{
	struct rpc_queue *queue = ks_container_of(tag, struct rpc_queue, wake_tag);

	(void)ok;
	/* Before the inbox is taken: what is pushed after this sends a wake event of its own. */
	(void)atomic_exchange(&queue->wake_pending, false);
}

void ks_rpc_queue_post(struct rpc_queue *queue, struct ks_task *task)
{
	struct ks_task *newest = atomic_load_explicit(&queue->inbox, memory_order_relaxed);
	grpc_call_error error;

	/* From the push on, the task may run, end the last call and let the server go; it waits for us to be out. */
	atomic_fetch_add(&queue->posting, 1);
	do {
		task->next = newest;
	} while (!atomic_compare_exchange_weak(&queue->inbox, &newest, task));
	if (!atomic_exchange(&queue->wake_pending, true)) {
		error = grpc_call_start_batch(queue->wake_call, NULL, 0, &queue->wake_tag, NULL);
		KS_ASSERT(error == GRPC_CALL_OK);
	}
	atomic_fetch_sub(&queue->posting, 1);
}

bool ks_rpc_queue_unpost(struct rpc_queue *queue, struct ks_task *task)
{
	take_inbox(queue);
	for (struct ks_task **at = &queue->drained; *at; at = &(*at)->next) {
		if (*at == task) {
			*at = task->next;
			return true;
		}
	}
	return false;
}

struct ks_json_shared *ks_rpc_queue_lines(struct rpc_queue *queue)
{
	return queue->lines;
}

bool ks_rpc_queue_is_worker(const struct rpc_queue *queue)
{
	return queue->worker;
}

bool ks_rpc_queue_is_mine(const struct rpc_queue *queue)
{
	return current == queue;
}

bool ks_rpc_queue_visit(struct rpc_queue *queue, struct ks_task *task)
{
	bool visits;

	if (current)
		return false;                 /* another queue's thread, which has its own to do */
	atomic_fetch_add(&queue->posting, 1); /* as for a post */
	visits = ks_mutex_trylock(&queue->turn);
	if (visits) {
		current = queue;
		ks_cork_pull(&queue->cork); /* the queue's thread would, if it were not for us */
		task->run(task);
		ks_rpc_send_unsent(queue);
		ks_cork_pull(&queue->cork);
		current = NULL;
		ks_mutex_unlock(&queue->turn);
	}
	atomic_fetch_sub(&queue->posting, 1);
	return visits;
}

bool ks_rpc_find_function(const char *symbol, void *function)
{
	void *found = dlsym(RTLD_DEFAULT, symbol);

	memcpy(function, &found, sizeof(found));
	return found != NULL;
}

/*
 * Only with this way of polling a completion queue may be without pollers though its calls have sockets: there, sockets belong to no queue. Which
 * one the core has chosen can be asked in C++ only.
 */
static bool polls_by_epoll(void)
{
	static const char symbol[] = "_Z27grpc_get_poll_strategy_namev";
	const char *(*name_of)(void);
	const char *name = ks_rpc_find_function(symbol, &name_of) ? name_of() : NULL;

	return name && strcmp(name, "epoll1") == 0;
}

static grpc_completion_queue *create_cq(bool worker)
{
	const grpc_completion_queue_attributes asleep = {
		.version = 1, .cq_completion_type = GRPC_CQ_NEXT, .cq_polling_type = GRPC_CQ_NON_POLLING};

	if (!worker || !polls_by_epoll())
		return grpc_completion_queue_create_for_next(NULL);
	return grpc_completion_queue_create(grpc_completion_queue_factory_lookup(&asleep), &asleep, NULL);
}

static void *run_queue(void *arg)
{
	struct rpc_queue *queue = arg;
	gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC), past = gpr_inf_past(GPR_CLOCK_MONOTONIC),
		     until = never;
	bool holds = false;

	current = queue;
	for (;;) {
		grpc_event event = grpc_completion_queue_next(queue->cq, holds ? past : until, NULL);
		struct rpc_tag *tag = event.tag;

		if (event.type == GRPC_QUEUE_SHUTDOWN)
			break;
		ks_mutex_lock(&queue->turn);
		if (event.type == GRPC_OP_COMPLETE)
			ks_rpc_tag_came(tag, event.success);
		else if (holds) /* there is nothing to do, so nothing more to answer */
			ks_cork_pull(&queue->cork);
		run_inbox(queue);
		ks_rpc_send_unsent(queue);
		until = ks_rpc_end_rests(queue, never);
		pull_when_late(queue);
		holds = ks_cork_holds(&queue->cork);
		ks_mutex_unlock(&queue->turn);
		ks_rpc_load_look(queue);
	}
	return NULL;
}

void ks_rpc_queue_init(struct rpc_queue *queue, struct ks_rpc *rpc)
{
	queue->rpc = rpc;
	queue->worker = queue != rpc->queues;
	queue->lines = ks_json_shared_new();
	ks_rpc_tag_is(&queue->wake_tag, woken);
	ks_mutex_init(&queue->requesting);
	ks_mutex_init(&queue->turn);
	ks_cork_init(&queue->cork, ks_clock_us);
	ks_list_init(&queue->streams);
	ks_list_init(&queue->waiting);
	ks_list_init(&queue->resting);
	queue->cq = create_cq(queue->worker);
	queue->wake_call = grpc_channel_create_call(rpc->nowhere, NULL, GRPC_PROPAGATE_DEFAULTS, queue->cq,
						    grpc_slice_from_static_string("/wake"), NULL,
						    gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

enum ks_status ks_rpc_queue_start(struct rpc_queue *queue, int index, struct ks_err *err)
{
	enum ks_status status;
	char name[16];

	(void)snprintf(name, sizeof(name), "cq-%d", index);
	status = ks_thread_start(&queue->thread, name, run_queue, queue, err);
	queue->running = status == KS_OK;
	return status;
}

void ks_rpc_queue_join(struct rpc_queue *queue)
{
	if (!queue->cq)
		return;
	while (atomic_load(&queue->posting)) /* a few instructions of another thread */
		(void)sched_yield();
	grpc_completion_queue_shutdown(queue->cq);
	if (queue->running)
		ks_thread_join(queue->thread);
	else
		(void)run_queue(queue); /* see the shutdown event, or the core objects to the end of the queue */
	KS_ASSERT(!atomic_load(&queue->inbox));
}

void ks_rpc_queue_fini(struct rpc_queue *queue)
{
	if (queue->wake_call)
		grpc_call_unref(queue->wake_call);
	if (queue->cq) {
		grpc_completion_queue_destroy(queue->cq);
		ks_mutex_fini(&queue->requesting);
		ks_mutex_fini(&queue->turn);
	}
	ks_rpc_free_calls(queue);
	ks_json_shared_free(queue->lines);
	free(queue->slots);
}
