/* SPDX-License-Identifier: Apache-2.0 */
/* Password hashes and the threads that compute them; password.h has the contract. */
#include "api/password.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"

#define QUEUE_MAX 1024
#define WAIT_MAX_MS 7000
#define NICE 5
/* A hash says how long it takes. One of a cost that nobody configured comes from outside, and is not waited for. */
#define COST_TRUSTED 16

struct ks_passwords {
	struct ks_passwords_config config;
	struct ks_mutex lock; /* guards the rest */
	struct ks_cond cond;
	struct ks_list queue;
	size_t count;
	bool stopping;
	size_t thread_count;
	pthread_t threads[];
};

/* ---- bcrypt ---- */

/*
 * libxcrypt's "2a" differs from everybody else's for a few passwords that an old bug of its ancestor concerned; its "2b" is the
 * algorithm that Go has.
 */
static bool compute(const char *password, const char *setting, char made[KS_PASSWORD_HASH_BYTES + 1])
{
	struct crypt_data *data = calloc(1, sizeof(*data));
	const char *hash = data ? crypt_rn(password, setting, data, (int)sizeof(*data)) : NULL;
	bool ok = hash && strlen(hash) == KS_PASSWORD_HASH_BYTES;

	if (ok)
		memcpy(made, hash, KS_PASSWORD_HASH_BYTES + 1);
	if (data)
		OPENSSL_cleanse(data, sizeof(*data));
	free(data);
	return ok;
}

enum ks_status ks_password_make(const char *password, int cost, char made[KS_PASSWORD_HASH_BYTES + 1],
				struct ks_err *err)
{
	char setting[CRYPT_GENSALT_OUTPUT_SIZE], salt[16];

	if (RAND_bytes((unsigned char *)salt, sizeof(salt)) != 1 ||
	    !crypt_gensalt_rn("$2b$", (unsigned long)cost, salt, sizeof(salt), setting, sizeof(setting)) ||
	    !compute(password, setting, made))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "kineshim: no hash can be made of the password now");
	made[2] = 'a';
	return KS_OK;
}

static bool is_bcrypt(struct ks_slice hash, int cost_max)
{
	const uint8_t *text = hash.data;
	int cost;

	if (hash.size != KS_PASSWORD_HASH_BYTES || text[0] != '$' || text[1] != '2' ||
	    !(text[2] == 'a' || text[2] == 'b' || text[2] == 'y') || text[3] != '$' || text[6] != '$')
		return false;
	cost = (text[4] - '0') * 10 + (text[5] - '0');
	return cost >= KS_BCRYPT_COST_MIN && cost <= cost_max;
}

bool ks_password_matches(const char *password, struct ks_slice hash, int cost_max)
{
	char setting[KS_PASSWORD_HASH_BYTES + 1], made[KS_PASSWORD_HASH_BYTES + 1];

	if (strlen(password) > KS_PASSWORD_MAX || !is_bcrypt(hash, cost_max))
		return false;
	memcpy(setting, hash.data, hash.size);
	setting[hash.size] = 0;
	setting[2] = 'b';
	return compute(password, setting, made) && CRYPTO_memcmp(made, setting, sizeof(made)) == 0;
}

/* ---- the threads ---- */

static void work(const struct ks_passwords *passwords, struct ks_password_job *job, bool late)
{
	int cost_max = passwords->config.cost > COST_TRUSTED ? passwords->config.cost : COST_TRUSTED;

	job->err.status = KS_OK;
	if (late)
		ks_fail(&job->err, KS_UNAVAILABLE, "etcdserver: request timed out");
	else if (job->hash.size)
		job->matches = ks_password_matches(job->password, job->hash, cost_max);
	else
		job->err.status = ks_password_make(job->password, passwords->config.cost, job->made, &job->err);
}

static void *run(void *arg)
{
	struct ks_passwords *passwords = arg;
	struct ks_list *link;

	/* On Linux this concerns the calling thread alone. Without it things only get slower. */
	(void)setpriority(PRIO_PROCESS, 0, NICE);
	ks_mutex_lock(&passwords->lock);
	while (!passwords->stopping) {
		struct ks_password_job *job;
		bool late;

		link = ks_list_pop(&passwords->queue);
		if (!link) {
			(void)ks_cond_wait(&passwords->cond, &passwords->lock, -1);
			continue;
		}
		passwords->count--;
		job = ks_container_of(link, struct ks_password_job, link);
		/* Under the lock: a job that cannot be taken back any more has been judged. */
		late = ks_clock_now(passwords->config.clock) - job->since_ms > passwords->config.wait_max_ms;
		ks_mutex_unlock(&passwords->lock);
		work(passwords, job, late);
		job->done(job);
		ks_mutex_lock(&passwords->lock);
	}
	ks_mutex_unlock(&passwords->lock);
	return NULL;
}

void ks_passwords_run(struct ks_passwords *passwords, struct ks_password_job *job)
{
	bool room;

	job->since_ms = ks_clock_now(passwords->config.clock);
	ks_list_init(&job->link);
	ks_mutex_lock(&passwords->lock);
	room = passwords->count < passwords->config.queue_max && !passwords->stopping;
	if (room) {
		ks_list_append(&passwords->queue, &job->link);
		passwords->count++;
		ks_cond_signal(&passwords->cond);
	}
	ks_mutex_unlock(&passwords->lock);
	if (room)
		return;
	ks_fail(&job->err, KS_UNKNOWN, "etcdserver: too many requests");
	job->done(job);
}

bool ks_passwords_take_back(struct ks_passwords *passwords, struct ks_password_job *job)
{
	bool waiting;

	ks_mutex_lock(&passwords->lock);
	waiting = !ks_list_empty(&job->link);
	if (waiting) {
		ks_list_remove(&job->link);
		passwords->count--;
	}
	ks_mutex_unlock(&passwords->lock);
	return waiting;
}

/* ---- life ---- */

struct ks_passwords *ks_passwords_start(const struct ks_passwords_config *config, struct ks_err *err)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	size_t threads = config->threads > 0 ? (size_t)config->threads : cores > 3 ? (size_t)cores / 2 : 1;
	struct ks_passwords *passwords = calloc(1, sizeof(*passwords) + threads * sizeof(passwords->threads[0]));

	if (!passwords) {
		ks_fail(err, KS_RESOURCE_EXHAUSTED, "out of memory for the password threads");
		return NULL;
	}
	passwords->config = *config;
	if (config->cost < KS_BCRYPT_COST_MIN || config->cost > KS_BCRYPT_COST_MAX)
		passwords->config.cost = KS_BCRYPT_COST;
	if (!passwords->config.wait_max_ms)
		passwords->config.wait_max_ms = WAIT_MAX_MS;
	if (!passwords->config.queue_max)
		passwords->config.queue_max = QUEUE_MAX;
	if (!passwords->config.clock)
		passwords->config.clock = ks_clock_system();
	ks_mutex_init(&passwords->lock);
	ks_cond_init(&passwords->cond);
	ks_list_init(&passwords->queue);
	while (passwords->thread_count < threads &&
	       ks_thread_start(&passwords->threads[passwords->thread_count], "ks-bcrypt", run, passwords, err) == KS_OK)
		passwords->thread_count++;
	if (passwords->thread_count == threads)
		return passwords;
	ks_passwords_stop(passwords);
	return NULL;
}

void ks_passwords_stop(struct ks_passwords *passwords)
{
	if (!passwords)
		return;
	ks_mutex_lock(&passwords->lock);
	KS_ASSERT(ks_list_empty(&passwords->queue));
	passwords->stopping = true;
	ks_cond_broadcast(&passwords->cond);
	ks_mutex_unlock(&passwords->lock);
	for (size_t i = 0; i < passwords->thread_count; i++)
		ks_thread_join(passwords->threads[i]);
	ks_cond_fini(&passwords->cond);
	ks_mutex_fini(&passwords->lock);
	free(passwords);
}
