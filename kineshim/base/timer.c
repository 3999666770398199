/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers: a binary heap of deadlines under one mutex, and the thread that sleeps until the soonest.
 *
 * A timer knows its place in the heap (slot = index + 1), so cancelling is O(log n). While a call-back runs, 'running'
 * holds its address, which is only compared and never followed: the call-back may free its timer.
 */
#include "base/timer.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/panic.h"
#include "base/thread.h"

struct ks_timers {
	pthread_t thread;
	struct ks_mutex mutex;
	struct ks_cond changed; /* the soonest deadline moved, or stop */
	struct ks_cond idle;    /* a call-back has ended */
	struct ks_timer **heap;
	size_t count, capacity;
	const struct ks_timer *running;
	bool stop;
};

static void put_at(struct ks_timers *timers, size_t index, struct ks_timer *timer)
{
	timers->heap[index] = timer;
	timer->slot = index + 1;
}

static void sift_up(struct ks_timers *timers, size_t index)
{
	struct ks_timer *timer = timers->heap[index];

	while (index > 0) {
		size_t parent = (index - 1) / 2;

		if (timers->heap[parent]->deadline_ms <= timer->deadline_ms)
			break;
		put_at(timers, index, timers->heap[parent]);
		index = parent;
	}
	put_at(timers, index, timer);
}

static void sift_down(struct ks_timers *timers, size_t index)
{
	struct ks_timer *timer = timers->heap[index];

	for (;;) {
		size_t child = index * 2 + 1;

		if (child >= timers->count)
			break;
		if (child + 1 < timers->count &&
		    timers->heap[child + 1]->deadline_ms < timers->heap[child]->deadline_ms)
			child++;
		if (timer->deadline_ms <= timers->heap[child]->deadline_ms)
			break;
		put_at(timers, index, timers->heap[child]);
		index = child;
	}
	put_at(timers, index, timer);
}

static void remove_armed(struct ks_timers *timers, struct ks_timer *timer)
{
	size_t index = timer->slot - 1;
	struct ks_timer *last = timers->heap[--timers->count];

	KS_ASSERT(index <= timers->count);
	timer->slot = 0;
	if (last == timer)
		return;
	put_at(timers, index, last);
	sift_up(timers, index);
	sift_down(timers, last->slot - 1);
}

/* The soonest timer if it is due, removed. Otherwise NULL and how long to sleep (negative: until told). */
static struct ks_timer *pop_due(struct ks_timers *timers, int64_t *sleep_ms)
{
	struct ks_timer *soonest;
	int64_t left_ms;

	*sleep_ms = -1;
	if (timers->count == 0)
		return NULL;
	soonest = timers->heap[0];
	left_ms = soonest->deadline_ms - ks_clock_now(ks_clock_system());
	if (left_ms > 0) {
		*sleep_ms = left_ms;
		return NULL;
	}
	remove_armed(timers, soonest);
	return soonest;
}

static void *run(void *arg)
{
	struct ks_timers *timers = arg;

	ks_mutex_lock(&timers->mutex);
	while (!timers->stop) {
		int64_t sleep_ms;
		struct ks_timer *due = pop_due(timers, &sleep_ms);

		if (!due) {
			(void)ks_cond_wait(&timers->changed, &timers->mutex, sleep_ms);
			continue;
		}
		timers->running = due;
		ks_mutex_unlock(&timers->mutex);
		due->fire(due);
		ks_mutex_lock(&timers->mutex);
		timers->running = NULL;
		ks_cond_broadcast(&timers->idle);
	}
	ks_mutex_unlock(&timers->mutex);
	return NULL;
}

static void free_timers(struct ks_timers *timers)
{
	ks_cond_fini(&timers->idle);
	ks_cond_fini(&timers->changed);
	ks_mutex_fini(&timers->mutex);
	free(timers->heap);
	free(timers);
}

struct ks_timers *ks_timers_start(struct ks_err *err)
{
	struct ks_timers *timers = ks_xcalloc(1, sizeof(*timers));

	ks_mutex_init(&timers->mutex);
	ks_cond_init(&timers->changed);
	ks_cond_init(&timers->idle);
	if (ks_thread_start(&timers->thread, "timer", run, timers, err)) {
		free_timers(timers);
		return NULL;
	}
	return timers;
}

void ks_timers_stop(struct ks_timers *timers)
{
	if (!timers)
		return;
	ks_mutex_lock(&timers->mutex);
	timers->stop = true;
	ks_cond_signal(&timers->changed);
	ks_mutex_unlock(&timers->mutex);
	ks_thread_join(timers->thread);
	free_timers(timers);
}

void ks_timer_init(struct ks_timer *timer, ks_timer_fn *fire)
{
	*timer = (struct ks_timer){.fire = fire};
}

static int64_t deadline_after(int64_t delay_ms)
{
	int64_t now_ms = ks_clock_now(ks_clock_system());

	if (delay_ms < 0)
		delay_ms = 0;
	return delay_ms > INT64_MAX - now_ms ? INT64_MAX : now_ms + delay_ms;
}

void ks_timer_arm(struct ks_timers *timers, struct ks_timer *timer, int64_t delay_ms)
{
	ks_mutex_lock(&timers->mutex);
	if (timer->slot)
		remove_armed(timers, timer);
	if (timers->count == timers->capacity) {
		timers->capacity = timers->capacity ? timers->capacity * 2 : 64;
		timers->heap = ks_xrealloc(timers->heap, timers->capacity * sizeof(struct ks_timer *));
	}
	timer->deadline_ms = deadline_after(delay_ms);
	put_at(timers, timers->count++, timer);
	sift_up(timers, timer->slot - 1);
	if (timer->slot == 1)
		ks_cond_signal(&timers->changed);
	ks_mutex_unlock(&timers->mutex);
}

void ks_timer_cancel(struct ks_timers *timers, struct ks_timer *timer)
{
	bool inside = pthread_equal(pthread_self(), timers->thread);

	ks_mutex_lock(&timers->mutex);
	for (;;) {
		if (timer->slot)
			remove_armed(timers, timer);
		if (inside || timers->running != timer)
			break;
		/* Its call-back is running and may yet re-arm it: look again when it has ended. */
		(void)ks_cond_wait(&timers->idle, &timers->mutex, -1);
	}
	ks_mutex_unlock(&timers->mutex);
}
