/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bcrypt, on threads of its own. It takes tens of milliseconds on purpose, so neither a cq thread nor the writer may do it, and a flood of
 * logins must not keep other calls from a core: few threads, of low priority, and a queue that is bounded in length and time.
 *
 * Hashes are written as Go writes them ($2a$) and read with any of $2a$, $2b$, $2y$, which differ only for other programs' bugs.
 *
 * Threads: any. Each job gets exactly one 'done', on a worker or inside ks_passwords_run, unless ks_passwords_take_back
 * returned true. Owner: the job and what it points to are the caller's and live until then.
 */
#ifndef KS_API_PASSWORD_H
#define KS_API_PASSWORD_H

#include "base/bytes.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/status.h"

#define KS_PASSWORD_MAX 72 /* bcrypt takes no more */
#define KS_PASSWORD_HASH_BYTES 60
#define KS_BCRYPT_COST 10
#define KS_BCRYPT_COST_MIN 4
#define KS_BCRYPT_COST_MAX 31

struct ks_passwords;

struct ks_password_job {
	const char *password;
	struct ks_slice hash; /* to be compared with; empty: make one */
	void (*done)(struct ks_password_job *job);
	/* out; err.status: RESOURCE_EXHAUSTED or UNKNOWN when there are too many, UNAVAILABLE when it waited for too long */
	struct ks_err err;
	bool matches;
	char made[KS_PASSWORD_HASH_BYTES + 1];
	/* the worker's */
	struct ks_list link;
	int64_t since_ms;
};

struct ks_passwords_config {
	int cost;               /* of new hashes; out of range: the default */
	int threads;            /* 0: half of the cores, at least one */
	int wait_max_ms;        /* in the queue; 0: 7 s */
	size_t queue_max;       /* 0: a default */
	struct ks_clock *clock; /* NULL: the system's */
};

struct ks_passwords *ks_passwords_start(const struct ks_passwords_config *config, struct ks_err *err);
void ks_passwords_stop(struct ks_passwords *passwords); /* nothing is queued any more; NULL is fine */
void ks_passwords_run(struct ks_passwords *passwords, struct ks_password_job *job);
/* Nobody wants the result. True: it had not begun, and there will be no 'done'. */
bool ks_passwords_take_back(struct ks_passwords *passwords, struct ks_password_job *job);

/* The slow part itself, on the calling thread. */
enum ks_status ks_password_make(const char *password, int cost, char made[KS_PASSWORD_HASH_BYTES + 1],
				struct ks_err *err) KS_MUST_CHECK;
bool ks_password_matches(const char *password, struct ks_slice hash, int cost_max);

#endif
