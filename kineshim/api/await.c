/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting without blocking: ks_await for unary calls, ks_guard for streams, ks_values for what the cache let go (api.h).
 *
 * ks_await is a race of two: the operation's 'done' and the caller's ks_await_go. Whoever comes second continues: done by posting
 * the task, go by running the step in place.
 */
#include <stdlib.h>

#include "api/api.h"
#include "base/panic.h"

enum { AWAIT_STARTED, AWAIT_DONE, AWAIT_WAITING };

static void await_run(struct ks_task *task)
{
	struct ks_await *await = ks_container_of(task, struct ks_await, task);

	await->then(await);
}

void ks_await_init(struct ks_await *await, struct ks_call *call, void (*then)(struct ks_await *await))
{
	*await = (struct ks_await){.task = {.run = await_run}, .call = call, .then = then};
	atomic_init(&await->state, AWAIT_STARTED);
}

void ks_await_done(struct ks_await *await)
{
	ks_await_done_by(await, false);
}

void ks_await_done_by(struct ks_await *await, bool alone)
{
	if (atomic_exchange_explicit(&await->state, AWAIT_DONE, memory_order_acq_rel) != AWAIT_WAITING)
		return;
	if (alone && await->brief)
		ks_call_run(await->call, &await->task);
	else
		ks_call_post(await->call, &await->task);
}

void ks_await_go(struct ks_await *await)
{
	if (atomic_exchange_explicit(&await->state, AWAIT_WAITING, memory_order_acq_rel) == AWAIT_DONE)
		await->then(await);
}

/* ---- after a proof ---- */

struct proving {
	struct ks_api *api;
	struct ks_call *call;
	const ProtobufCMessage *message;
	ks_api_proved_fn *then;
	struct ks_await await;
	struct ks_read_proof proof;
};

static void proved(struct ks_await *await)
{
	struct proving *proving = ks_container_of(await, struct proving, await);

	if (proving->proof.err.status == KS_OK)
		proving->then(proving->api, proving->call, proving->message);
	else
		ks_api_fail_err(proving->call, &proving->proof.err);
}

static void proof_done(struct ks_read_proof *proof)
{
	ks_await_done(&ks_container_of(proof, struct proving, proof)->await);
}

void ks_api_prove(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, ks_api_proved_fn *then)
{
	struct proving *proving = ks_arena_zalloc(ks_call_arena(call), sizeof(*proving));

	if (!proving) {
		ks_api_fail(call, KS_E_NO_MEMORY);
		return;
	}
	proving->api = api;
	proving->call = call;
	proving->message = message;
	proving->then = then;
	proving->proof.done = proof_done;
	ks_await_init(&proving->await, call, proved);
	api->committer->ops->prove_read(api->committer, &proving->proof);
	ks_await_go(&proving->await);
}

/* ---- streams ---- */

static void guard_unref_locked(struct ks_guard *guard) KS_NO_TSA
{
	bool last = --guard->refs == 0;

	ks_mutex_unlock(&guard->lock);
	if (!last)
		return;
	ks_mutex_fini(&guard->lock);
	guard->free(guard);
}

static void guard_run(struct ks_task *task) KS_NO_TSA
{
	struct ks_guard *guard = ks_container_of(task, struct ks_guard, task);
	bool closed;

	ks_mutex_lock(&guard->lock);
	guard->posted = false;
	closed = guard->closed;
	ks_mutex_unlock(&guard->lock);
	if (!closed)
		guard->run(guard);
	ks_mutex_lock(&guard->lock);
	guard_unref_locked(guard);
}

void ks_guard_init(struct ks_guard *guard, struct ks_call *call, void (*run)(struct ks_guard *guard),
		   void (*free_guard)(struct ks_guard *guard))
{
	*guard = (struct ks_guard){
		.call = call,
		.run = run,
		.free = free_guard,
		.task = {.run = guard_run},
		.refs = 1,
	};
	ks_mutex_init(&guard->lock);
}

void ks_guard_begin(struct ks_guard *guard)
{
	ks_mutex_lock(&guard->lock);
	KS_ASSERT(!guard->closed);
	guard->refs++;
	ks_mutex_unlock(&guard->lock);
}

void ks_guard_done(struct ks_guard *guard) KS_NO_TSA
{
	ks_mutex_lock(&guard->lock);
	if (!guard->closed && !guard->posted) {
		guard->posted = true;
		guard->refs++;
		ks_call_post(guard->call, &guard->task);
	}
	guard_unref_locked(guard);
}

void ks_guard_post(struct ks_guard *guard)
{
	ks_mutex_lock(&guard->lock);
	if (!guard->closed && !guard->posted) {
		guard->posted = true;
		guard->refs++;
		ks_call_post(guard->call, &guard->task);
	}
	ks_mutex_unlock(&guard->lock);
}

void ks_guard_close(struct ks_guard *guard) KS_NO_TSA
{
	ks_mutex_lock(&guard->lock);
	guard->closed = true;
	guard_unref_locked(guard);
}

/* ---- values ---- */

static void count_missing(void *ctx, struct ks_kvref *ref)
{
	struct ks_values *values = ctx;

	(void)ref;
	values->capacity++;
}

static void collect_missing(void *ctx, struct ks_kvref *ref)
{
	struct ks_values *values = ctx;

	values->fetch.refs[values->fetch.count++] = ref;
}

static int make_room(struct ks_values *values)
{
	if (values->capacity == 0)
		return 0;
	values->fetch.count = 0;
	values->fetch.refs = calloc(values->capacity, sizeof(struct ks_kvref *));
	return values->fetch.refs ? 1 : -1;
}

int ks_values_of_range(struct ks_values *values, struct ks_range_result *result)
{
	int some;

	values->capacity = 0;
	ks_range_result_each_missing(result, count_missing, values);
	KS_COUNT(CACHE_HITS, result->kv_count - values->capacity);
	KS_COUNT(CACHE_MISSES, values->capacity);
	some = make_room(values);
	if (some > 0)
		ks_range_result_each_missing(result, collect_missing, values);
	return some;
}

int ks_values_of_result(struct ks_values *values, struct ks_result *result)
{
	int some;

	values->capacity = 0;
	ks_result_each_missing(result, count_missing, values);
	some = make_room(values);
	if (some > 0)
		ks_result_each_missing(result, collect_missing, values);
	return some;
}

int ks_values_of_misses(struct ks_values *values, struct ks_misses *misses)
{
	int some;

	values->capacity = misses->count;
	some = make_room(values);
	for (size_t i = 0; some > 0 && i < misses->count; i++)
		if (ks_kvref_missing(&misses->refs[i]))
			collect_missing(values, &misses->refs[i]);
	if (some > 0 && values->fetch.count == 0) {
		ks_values_fini(values);
		return 0;
	}
	return some;
}

void ks_values_fini(struct ks_values *values)
{
	free(values->fetch.refs);
	values->fetch.refs = NULL;
	values->fetch.count = 0;
}
