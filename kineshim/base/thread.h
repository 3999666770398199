/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads, mutexes and condition variables whose failures are bugs (they abort), with clang's annotations.
 * Condition waits take a relative time in milliseconds on the monotonic clock; negative waits for ever.
 */
#ifndef KS_BASE_THREAD_H
#define KS_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#if defined(__clang__)
#define KS_TSA(x) __attribute__((x))
#else
#define KS_TSA(x)
#endif
#define KS_CAPABILITY(name) KS_TSA(capability(name))
#define KS_REQUIRES(lock) KS_TSA(requires_capability(lock))
#define KS_ACQUIRES(lock) KS_TSA(acquire_capability(lock))
#define KS_TRIES(lock) KS_TSA(try_acquire_capability(true, lock))
#define KS_RELEASES(lock) KS_TSA(release_capability(lock))
#define KS_NO_TSA KS_TSA(no_thread_safety_analysis)

struct KS_CAPABILITY("mutex") ks_mutex {
	pthread_mutex_t m;
};

struct ks_cond {
	pthread_cond_t c;
};

void ks_mutex_init(struct ks_mutex *mutex);
void ks_mutex_fini(struct ks_mutex *mutex);
void ks_mutex_lock(struct ks_mutex *mutex) KS_ACQUIRES(*mutex);
void ks_mutex_unlock(struct ks_mutex *mutex) KS_RELEASES(*mutex);
/* False when somebody else holds it. */
bool ks_mutex_trylock(struct ks_mutex *mutex) KS_TRIES(*mutex) KS_MUST_CHECK;

void ks_cond_init(struct ks_cond *cond);
void ks_cond_fini(struct ks_cond *cond);
/* False when 'wait_ms' ran out first. Spurious wake-ups happen: check the condition in a loop. */
bool ks_cond_wait(struct ks_cond *cond, struct ks_mutex *mutex, int64_t wait_ms) KS_REQUIRES(*mutex);
void ks_cond_signal(struct ks_cond *cond);
void ks_cond_broadcast(struct ks_cond *cond);

/* Starts a joinable thread named 'name' (at most 15 bytes, shown by top -H). Signals are blocked in it. */
enum ks_status ks_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg,
			       struct ks_err *err) KS_MUST_CHECK;
void ks_thread_join(pthread_t thread);

#endif
