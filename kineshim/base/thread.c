/* SPDX-License-Identifier: Apache-2.0 */
/* Thin wrappers of pthreads: what can fail only by our mistake panics, what the system can refuse is reported. */
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"

void ks_mutex_init(struct ks_mutex *mutex)
{
	KS_ASSERT(pthread_mutex_init(&mutex->m, NULL) == 0);
}

void ks_mutex_fini(struct ks_mutex *mutex)
{
	KS_ASSERT(pthread_mutex_destroy(&mutex->m) == 0);
}

KS_NO_TSA void ks_mutex_lock(struct ks_mutex *mutex)
{
	KS_ASSERT(pthread_mutex_lock(&mutex->m) == 0);
}

KS_NO_TSA void ks_mutex_unlock(struct ks_mutex *mutex)
{
	KS_ASSERT(pthread_mutex_unlock(&mutex->m) == 0);
}

KS_NO_TSA bool ks_mutex_trylock(struct ks_mutex *mutex)
{
	int error = pthread_mutex_trylock(&mutex->m);

	KS_ASSERT(error == 0 || error == EBUSY);
	return error == 0;
}

void ks_cond_init(struct ks_cond *cond)
{
	pthread_condattr_t attr;

	KS_ASSERT(pthread_condattr_init(&attr) == 0);
	KS_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
	KS_ASSERT(pthread_cond_init(&cond->c, &attr) == 0);
	KS_ASSERT(pthread_condattr_destroy(&attr) == 0);
}

void ks_cond_fini(struct ks_cond *cond)
{
	KS_ASSERT(pthread_cond_destroy(&cond->c) == 0);
}

/* Longer waits than this are cut to it: callers loop anyway, and the sum below cannot overflow. */
#define LONGEST_WAIT_MS (24 * 3600 * INT64_C(1000))

static struct timespec deadline_after(int64_t wait_ms)
{
	struct timespec at;

	KS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &at) == 0);
	at.tv_sec += (time_t)(wait_ms / 1000);
	at.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	return at;
}

bool ks_cond_wait(struct ks_cond *cond, struct ks_mutex *mutex, int64_t wait_ms)
{
	bool cut = wait_ms > LONGEST_WAIT_MS;
	struct timespec deadline;
	int result;

	if (wait_ms < 0) {
		KS_ASSERT(pthread_cond_wait(&cond->c, &mutex->m) == 0);
		return true;
	}
	deadline = deadline_after(cut ? LONGEST_WAIT_MS : wait_ms);
	result = pthread_cond_timedwait(&cond->c, &mutex->m, &deadline);
	KS_ASSERT(result == 0 || result == ETIMEDOUT);
	return result == 0 || cut;
}

void ks_cond_signal(struct ks_cond *cond)
{
	KS_ASSERT(pthread_cond_signal(&cond->c) == 0);
}

void ks_cond_broadcast(struct ks_cond *cond)
{
	KS_ASSERT(pthread_cond_broadcast(&cond->c) == 0);
}

enum ks_status ks_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg, struct ks_err *err)
{
	char short_name[16]; /* what the kernel keeps */
	sigset_t blocked, before;
	int result;

	/* The new thread inherits the mask. Signals that a fault raises stay open, or sanitizers go blind. */
	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	KS_ASSERT(pthread_sigmask(SIG_SETMASK, &blocked, &before) == 0);
	result = pthread_create(thread, NULL, run, arg);
	KS_ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
	if (result)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "cannot start thread %s: %s", name, strerrordesc_np(result));

	/* A nicety for top -H; it may fail when the thread has already ended. */
	strncpy(short_name, name, sizeof(short_name) - 1);
	short_name[sizeof(short_name) - 1] = '\0';
	(void)pthread_setname_np(*thread, short_name);
	return KS_OK;
}

void ks_thread_join(pthread_t thread)
{
	KS_ASSERT(pthread_join(thread, NULL) == 0);
}
