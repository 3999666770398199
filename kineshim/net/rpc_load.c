/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the first queue, whose thread polls the connections and serves small calls, has more than it should. Then the workers take
 * their share of these calls.
 *
 * Streams: few of those with small messages are served with the unary calls, as nobody need be woken for them. But for each completion the core
 * looks through all batches that a queue has there, and each open stream has one; so there may be only so many. The others are the workers', as many for each.
 *
 * Unary calls: while the thread uses a whole processor and another one has time to spare, until one thread would be enough again. Where all
 * processors have enough to do more threads would not help; they would only have more to pass on to each other, which costs a sixth.
 */
#include "net/rpc_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define LOOK_EVENTS 16 /* between two looks at the clock */
#define LOOK_US 50000
#define SHARED_COST 115 /* percent of the processor time without */
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

/* Half of the workers: with few calls each they would sleep and be woken for every one. */
static void ask_for_help(struct ks_rpc *rpc)
{
	for (size_t i = 1; i <= rpc->queue_count / 2; i++) {
		struct rpc_queue *worker = &rpc->queues[i];

		if (atomic_exchange(&worker->help_posted, true))
			continue;
		worker->help.run = help;
		ks_rpc_queue_post(worker, &worker->help);
	}
}

/* Of all processors since the machine started. A large number where it cannot be known, growing with the time. */
static int64_t idle_us(int64_t now_us)
{
	int fd = open("/proc/uptime", O_RDONLY | O_CLOEXEC);
	char text[64] = "";
	long long seconds;
	int hundredths;
	ssize_t size;

	if (fd < 0)
		return now_us;
	size = read(fd, text, sizeof(text) - 1);
	(void)close(fd);
	if (size <= 0 || sscanf(text, "%*s %lld.%2d", &seconds, &hundredths) != 2)
		return now_us;
	return (int64_t)seconds * 1000000 + hundredths * 10000;
}

/* The first thread is busy, and was so before. Was there time to spare meanwhile? */
static bool is_time_to_spare(const struct ks_rpc *rpc, struct rpc_load *load, int64_t passed_us)
{
	int64_t before_us = load->idle_us;

	load->idle_us = idle_us(load->looked_us);
	return before_us >= 0 && 100 * (load->idle_us - before_us) >= rpc->spare_percent * passed_us;
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
	if (atomic_load(&rpc->shared)) {
		/* What they have asked the core for stays there, and is served when it comes. */
		if (10000 * (load->all_us - before.all_us) < SHARED_COST * rpc->busy_percent * passed_us)
			atomic_store(&rpc->shared, false);
	} else if (100 * (load->first_us - before.first_us) < rpc->busy_percent * passed_us) {
		load->idle_us = -1;
	} else if (is_time_to_spare(rpc, load, passed_us)) {
		atomic_store(&rpc->shared, true);
		ask_for_help(rpc);
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
	bool stream = slot->method && slot->method->stream;

	return !queue->worker || (!stream && atomic_load(&queue->rpc->shared));
}

static uint32_t given(const struct rpc_queue *queue)
{
	return atomic_load_explicit(&queue->streams_given, memory_order_relaxed);
}

/* From 'most' streams on until they are 'few' again. */
static bool is_crowded(struct ks_rpc *rpc)
{
	uint32_t streams = given(&rpc->queues[0]);

	if (streams >= MOST_STREAMS)
		rpc->crowded = true;
	else if (streams < FEW_STREAMS)
		rpc->crowded = false;
	return rpc->crowded;
}

struct rpc_queue *ks_rpc_load_place(struct ks_rpc *rpc, const struct ks_stream_ops *ops)
{
	size_t workers = rpc->queue_count - 1, first;
	struct rpc_queue *least;

	if (ops->rests && !is_crowded(rpc))
		return rpc->queues;
	first = rpc->next_place++ % workers;
	least = &rpc->queues[1 + first];
	for (size_t i = 1; i < workers; i++) {
		struct rpc_queue *worker = &rpc->queues[1 + (first + i) % workers];

		if (given(worker) < given(least))
			least = worker;
	}
	return least;
}
