/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the first queue, whose thread polls the connections and serves small calls, has more than it should. Then the workers take
 * their share of these calls.
 *
 * Streams: few of those with small messages are served with the unary calls, as nobody need be woken for them. But for each completion the core
 * looks through all batches that a queue has there, and each open stream has one; so there may be only so many.
 *
 * Unary calls: while the thread has more than it can do, until one thread would be enough again.
 * What tells is its processor time: as much of it as time has passed. On a machine whose processors all have enough to do it gets less,
 * and then more threads would not help it, but only have more to pass on to each other.
 */
#include "net/rpc_priv.h"

#include <time.h>

#include "base/clock.h"

#define LOOK_EVENTS 16 /* between two looks at the clock */
#define LOOK_US 10000
#define SPARE 80 /* percent of what busy is */
#define MOST_STREAMS 256
#define FEW_STREAMS 128

static int64_t processor_us(pthread_t thread)
{
	struct timespec used;
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &used) != 0)
		return 0;
	return (int64_t)used.tv_sec * 1000000 + used.tv_nsec / 1000;
}

static int64_t processor_us_of_all(const struct ks_rpc *rpc)
{
	int64_t sum = 0;

	for (size_t i = 0; i < rpc->queue_count; i++)
		sum += processor_us(rpc->queues[i].thread);
	return sum;
}

static void help(struct ks_task *task)
{
	struct rpc_queue *queue = ks_container_of(task, struct rpc_queue, help);

	atomic_store(&queue->help_posted, false);
	for (size_t i = 0; i <= queue->rpc->method_count; i++)
		ks_rpc_post_requests(queue, &queue->slots[i]);
}

static void ask_for_help(struct ks_rpc *rpc)
{
	for (size_t i = 1; i < rpc->queue_count; i++) {
		struct rpc_queue *worker = &rpc->queues[i];

		if (atomic_exchange(&worker->help_posted, true))
			continue;
		worker->help.run = help;
		ks_rpc_queue_post(worker, &worker->help);
	}
}

/* With the lock of 'load' held. */
static void look(struct ks_rpc *rpc, struct rpc_load *load)
{
	struct rpc_load before = *load;
	int64_t passed_us = ks_clock_us() - before.looked_us;

	if (passed_us < LOOK_US)
		return;
	load->looked_us += passed_us;
	load->first_us = processor_us(rpc->queues[0].thread);
	load->all_us = processor_us_of_all(rpc);
	if (!before.looked_us)
		return;
	if (!atomic_load(&rpc->shared)) {
		if (100 * (load->first_us - before.first_us) >= rpc->busy_percent * passed_us) {
			atomic_store(&rpc->shared, true);
			ask_for_help(rpc);
		}
	} else if (10000 * (load->all_us - before.all_us) < SPARE * rpc->busy_percent * passed_us) {
		/* What they have asked the core for stays there, and is served when it comes. */
		atomic_store(&rpc->shared, false);
	}
}

void ks_rpc_load_look(struct rpc_queue *queue)
{
	struct ks_rpc *rpc = queue->rpc;

	if (++queue->events % LOOK_EVENTS ||
	    (queue->worker && !atomic_load_explicit(&rpc->shared, memory_order_relaxed)))
		return;
	if (!ks_mutex_trylock(&rpc->load.lock))
		return;
	if (!atomic_load(&rpc->stopping))
		look(rpc, &rpc->load);
	ks_mutex_unlock(&rpc->load.lock);
}

bool ks_rpc_load_serves(const struct rpc_queue *queue, const struct rpc_slot *slot)
{
	const struct ks_stream_ops *stream = slot->method ? slot->method->stream : NULL;

	if (!stream)
		return !queue->worker || atomic_load(&queue->rpc->shared);
	if (!stream->rests)
		return queue->worker;
	return queue->worker == atomic_load(&queue->rpc->crowded);
}

void ks_rpc_load_streams(struct rpc_queue *queue, size_t open)
{
	struct ks_rpc *rpc = queue->rpc;
	bool crowded;

	if (queue->worker)
		return;
	crowded = atomic_load_explicit(&rpc->crowded, memory_order_relaxed);
	if (!crowded && open >= MOST_STREAMS) {
		atomic_store(&rpc->crowded, true);
		ask_for_help(rpc);
	} else if (crowded && open < FEW_STREAMS) {
		atomic_store(&rpc->crowded, false);
		for (size_t i = 0; i < rpc->method_count; i++)
			ks_rpc_post_requests(queue, &queue->slots[i]);
	}
}
