/* SPDX-License-Identifier: Apache-2.0 */
/* bcrypt as Go has it, and the threads it runs on. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/password.h"
#include "base/panic.h"
#include "base/thread.h"
#include "tests/lib/tap.h"

#define COST 4

/* Made by other programs: Go's golang.org/x/crypto/bcrypt, htpasswd, and the vectors that came with the fix of 2011. */
static void foreign_hashes_match(void)
{
	static const struct {
		const char *password, *hash;
	} cases[] = {
		{"U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
		{"U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"},
		{"", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"},
		{"\xff\xff\xa3", "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e"},
		{"\xff\xff\xa3", "$2b$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		CU_ASSERT(ks_password_matches(cases[i].password, ks_slice_str(cases[i].hash), 16));
		CU_ASSERT_FALSE(ks_password_matches("another", ks_slice_str(cases[i].hash), 16));
	}
}

static void own_hashes_match_and_look_like_gos(void)
{
	char made[KS_PASSWORD_HASH_BYTES + 1], again[KS_PASSWORD_HASH_BYTES + 1];
	char longest[KS_PASSWORD_MAX + 2];
	struct ks_err err;

	memset(longest, 'x', sizeof(longest));
	longest[KS_PASSWORD_MAX] = 0;
	CU_ASSERT_EQUAL(ks_password_make("secret", COST, made, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_password_make("secret", COST, again, &err), KS_OK);
	CU_ASSERT(strncmp(made, "$2a$04$", 7) == 0 && strlen(made) == KS_PASSWORD_HASH_BYTES);
	CU_ASSERT(strcmp(made, again) != 0);
	CU_ASSERT(ks_password_matches("secret", ks_slice_str(made), 16));
	CU_ASSERT_FALSE(ks_password_matches("Secret", ks_slice_str(made), 16));
	CU_ASSERT_FALSE(ks_password_matches("", ks_slice_str(made), 16));
	CU_ASSERT_EQUAL(ks_password_make(longest, COST, made, &err), KS_OK);
	CU_ASSERT(ks_password_matches(longest, ks_slice_str(made), 16));
	longest[KS_PASSWORD_MAX] = 'x';
	longest[KS_PASSWORD_MAX + 1] = 0;
	CU_ASSERT_FALSE(ks_password_matches(longest, ks_slice_str(made), 16));
}

/* Hashes come from tables that people edit, and from clients. */
static void what_is_no_hash_matches_nothing(void)
{
	static const char *const hashes[] = {
		"",
		"secret",
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.",
		"$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
		"$2a$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", /* would take a day */
		"$2a$xx$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
		"$6$saltsaltsaltsalt$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"$2a$05$!!!!!!!!!!!!!!!!!!!!!!E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
	};

	for (size_t i = 0; i < sizeof(hashes) / sizeof(*hashes); i++)
		CU_ASSERT_FALSE(ks_password_matches("U*U", ks_slice_str(hashes[i]), 16));
}

/* ---- the threads ---- */

struct job {
	struct ks_password_job job;
	_Atomic int done;
};

static struct ks_mutex lock;
static struct ks_cond cond;

static void job_done(struct ks_password_job *job)
{
	ks_mutex_lock(&lock);
	atomic_fetch_add(&ks_container_of(job, struct job, job)->done, 1);
	ks_cond_broadcast(&cond);
	ks_mutex_unlock(&lock);
}

static void await(struct job *job)
{
	ks_mutex_lock(&lock);
	while (!atomic_load(&job->done))
		(void)ks_cond_wait(&cond, &lock, 1000);
	ks_mutex_unlock(&lock);
}

static struct ks_passwords *start(struct ks_passwords_config config)
{
	struct ks_err err;
	struct ks_passwords *passwords = ks_passwords_start(&config, &err);

	CU_ASSERT_PTR_NOT_NULL_FATAL(passwords);
	return passwords;
}

static void jobs_are_done_once_each(void)
{
	struct ks_passwords *passwords = start((struct ks_passwords_config){.cost = COST, .threads = 2});
	struct job jobs[20] = {0};

	for (int i = 0; i < 20; i++) {
		jobs[i].job = (struct ks_password_job){.password = "secret", .done = job_done};
		ks_passwords_run(passwords, &jobs[i].job);
	}
	for (int i = 0; i < 20; i++) {
		await(&jobs[i]);
		CU_ASSERT_EQUAL(jobs[i].job.err.status, KS_OK);
	}
	for (int i = 1; i < 20; i++) {
		struct job check = {.job = {.password = i % 2 ? "secret" : "wrong",
					    .hash = ks_slice_str(jobs[i].job.made),
					    .done = job_done}};

		ks_passwords_run(passwords, &check.job);
		await(&check);
		CU_ASSERT_EQUAL(check.job.matches, i % 2);
	}
	ks_passwords_stop(passwords);
	for (int i = 0; i < 20; i++)
		CU_ASSERT_EQUAL(atomic_load(&jobs[i].done), 1);
}

/* One job that takes its time keeps the only thread; the rest waits, is taken back, is too much, or is too late. */
static void queue_is_bounded(void)
{
	struct ks_clock clock;
	struct ks_passwords *passwords;
	struct job slow = {.job = {.password = "secret", .done = job_done}};
	struct job waiting[2] = {slow, slow}, refused = slow;
	bool took_back;

	ks_clock_init_fake(&clock, 1000);
	passwords = start((struct ks_passwords_config){
		.cost = 12, .threads = 1, .queue_max = 2, .wait_max_ms = 5000, .clock = &clock});
	ks_passwords_run(passwords, &slow.job);
	while (ks_passwords_take_back(passwords, &slow.job)) /* it must have begun */
		ks_passwords_run(passwords, &slow.job);
	for (int i = 0; i < 2; i++)
		ks_passwords_run(passwords, &waiting[i].job);
	ks_passwords_run(passwords, &refused.job);
	CU_ASSERT_EQUAL(atomic_load(&refused.done), 1);
	CU_ASSERT_EQUAL(refused.job.err.status, KS_UNKNOWN);
	CU_ASSERT_STRING_EQUAL(refused.job.err.text, "etcdserver: too many requests");
	took_back = ks_passwords_take_back(passwords, &waiting[1].job);
	CU_ASSERT(took_back);
	ks_clock_advance(&clock, 5001);
	await(&slow);
	CU_ASSERT_EQUAL(slow.job.err.status, KS_OK);
	await(&waiting[0]);
	CU_ASSERT_EQUAL(waiting[0].job.err.status, KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(waiting[0].job.err.text, "etcdserver: request timed out");
	ks_passwords_stop(passwords);
	CU_ASSERT_EQUAL(atomic_load(&waiting[1].done), 0);
}

int main(void)
{
	ks_mutex_init(&lock);
	ks_cond_init(&cond);
	return tap_run("password", (const struct tap_test[]){
					   {"foreign_hashes_match", foreign_hashes_match},
					   {"own_hashes_match_and_look_like_gos", own_hashes_match_and_look_like_gos},
					   {"what_is_no_hash_matches_nothing", what_is_no_hash_matches_nothing},
					   {"jobs_are_done_once_each", jobs_are_done_once_each},
					   {"queue_is_bounded", queue_is_bounded},
					   {NULL, NULL},
				   });
}
