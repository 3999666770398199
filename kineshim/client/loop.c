/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's thread: it takes events from the completion queue, calls the tag of each, and fires timers. gRPC's C API has no
 * alarms, so the time of the first timer bounds the wait for events, and an earlier timer armed by another thread wakes it.
 */
#include <stdint.h>

#include "base/clock.h"
#include "base/panic.h"
#include "client/client_priv.h"

static _Thread_local const struct etcdc *thread_of;

bool etcdc_on_thread(const struct etcdc *client)
{
	return thread_of == client;
}

static void ignore(struct etcdc_tag *tag, bool ok)
{
	(void)tag;
	(void)ok;
}

void etcdc_start_batch(grpc_call *call, const grpc_op *ops, size_t count, struct etcdc_tag *tag)
{
	grpc_call_error error;

	atomic_fetch_add_explicit(&tag->batches, 1, memory_order_release);
	error = grpc_call_start_batch(call, ops, count, tag, NULL);
	KS_ASSERT(error == GRPC_CALL_OK);
}

static void poke(struct etcdc *client)
{
	etcdc_start_batch(client->poke, NULL, 0, &client->poked);
}

static void set_soonest(struct etcdc *client) KS_REQUIRES(client->mutex)
{
	int64_t soonest = INT64_MAX;

	if (!ks_list_empty(&client->timers))
		soonest = ks_container_of(client->timers.next, struct etcdc_timer, link)->deadline_ms;
	atomic_store_explicit(&client->soonest_ms, soonest, memory_order_release);
}

void etcdc_timer_init(struct etcdc_timer *timer, void (*fire)(struct etcdc_timer *timer))
{
	ks_list_init(&timer->link);
	timer->deadline_ms = 0;
	timer->fire = fire;
}

void etcdc_timer_arm_locked(struct etcdc *client, struct etcdc_timer *timer, int64_t delay_ms)
{
	struct ks_list *after;

	ks_list_remove(&timer->link);
	timer->deadline_ms = ks_clock_now(ks_clock_system()) + delay_ms;
	/* From the end, because a timer armed later mostly fires later. */
	after = client->timers.prev;
	while (after != &client->timers &&
	       ks_container_of(after, struct etcdc_timer, link)->deadline_ms > timer->deadline_ms)
		after = after->prev;
	ks_list_append(after->next, &timer->link);
	if (client->timers.next == &timer->link) {
		set_soonest(client);
		if (!etcdc_on_thread(client))
			poke(client);
	}
}

void etcdc_timer_arm(struct etcdc *client, struct etcdc_timer *timer, int64_t delay_ms)
{
	ks_mutex_lock(&client->mutex);
	etcdc_timer_arm_locked(client, timer, delay_ms);
	ks_mutex_unlock(&client->mutex);
}

void etcdc_timer_disarm(struct etcdc *client, struct etcdc_timer *timer)
{
	ks_mutex_lock(&client->mutex);
	while (client->firing == timer && !etcdc_on_thread(client))
		(void)ks_cond_wait(&client->fired, &client->mutex, -1);
	ks_list_remove(&timer->link);
	set_soonest(client);
	ks_mutex_unlock(&client->mutex);
}

static void fire_due(struct etcdc *client, int64_t now_ms)
{
	for (;;) {
		struct etcdc_timer *due = NULL;

		ks_mutex_lock(&client->mutex);
		if (!ks_list_empty(&client->timers)) {
			due = ks_container_of(client->timers.next, struct etcdc_timer, link);
			if (due->deadline_ms <= now_ms)
				ks_list_remove(&due->link);
			else
				due = NULL;
		}
		set_soonest(client);
		client->firing = due;
		ks_cond_broadcast(&client->fired);
		ks_mutex_unlock(&client->mutex);
		if (!due)
			return;
		due->fire(due);
	}
}

static void *run(void *arg)
{
	struct etcdc *client = arg;

	thread_of = client;
	for (;;) {
		int64_t soonest_ms = atomic_load_explicit(&client->soonest_ms, memory_order_acquire);
		gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
		grpc_event event;

		if (soonest_ms != INT64_MAX) {
			int64_t now_ms = ks_clock_now(ks_clock_system());

			if (soonest_ms <= now_ms) {
				fire_due(client, now_ms);
				soonest_ms = now_ms;
			}
			until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
					     gpr_time_from_millis(soonest_ms - now_ms, GPR_TIMESPAN));
		}
		event = grpc_completion_queue_next(client->cq, until, NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (event.type == GRPC_OP_COMPLETE) {
			struct etcdc_tag *tag = event.tag;

			(void)atomic_load_explicit(&tag->batches, memory_order_acquire);
			tag->done(tag, event.success != 0);
		}
	}
}

enum ks_status etcdc_loop_start(struct etcdc *client, struct ks_err *err)
{
	atomic_store(&client->soonest_ms, INT64_MAX);
	client->poked.done = ignore;
	client->cq = grpc_completion_queue_create_for_next(NULL);
	client->lame = grpc_lame_client_channel_create("etcdc", GRPC_STATUS_CANCELLED, "never used");
	client->poke = grpc_channel_create_call(client->lame, NULL, GRPC_PROPAGATE_DEFAULTS, client->cq,
						grpc_slice_from_static_string("/"), NULL,
						gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
	return ks_thread_start(&client->thread, "etcdc", run, client, err);
}

void etcdc_loop_stop(struct etcdc *client)
{
	grpc_call_unref(client->poke);
	grpc_channel_destroy(client->lame);
	grpc_completion_queue_shutdown(client->cq);
	ks_thread_join(client->thread);
	grpc_completion_queue_destroy(client->cq);
}
