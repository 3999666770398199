/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the Lock and Election services are made of (spec 8): a key below a name, made of a lease, that waits until no older key is
 * left below that name. The steps are etcd's own calls (LeaseGrant, Txn, Range, DeleteRange, a watch), made for the caller.
 *
 *	open ──► txn (put the key, see who is first) ──► wait ──► range of the own key ──► answer
 *	                                                  │  ▲
 *	                           the next older key ... ▼  │ ... was deleted
 *	                                                 idle
 *
 * A session is the first member of its handler's struct, in the arena of a unary call. Each step ends by calling 'then', with the
 * outcome in 'err'; one step at a time. A client that goes away is noticed at once while the session waits, else when the
 * step is over: then 'err' says so, though not that of a transaction, whose effect stands. The handler undoes what it did with
 * ks_session_give_up.
 *
 * Threads: the call's cq thread. Limits: the memory of a session does not grow with the time that it waits.
 */
#ifndef KS_API_SESSION_H
#define KS_API_SESSION_H

#include "api/api.h"
#include "store/watch_hub.h"

struct ks_session;
typedef void ks_session_fn(struct ks_session *session);

struct ks_session {
	struct ks_api *api;
	struct ks_call *call;
	ks_session_fn *then;
	struct ks_err err;         /* of the step that ended */
	bool cancelled;            /* nobody waits for the answer any more */
	int64_t lease;             /* once open */
	struct ks_interval prefix; /* every key below the name */
	struct ks_slice key;       /* name, '/', the lease in hexadecimal */
	int64_t revision;          /* the create revision of 'key'; the handler sets it */
	/* of the running step */
	struct ks_write write;
	struct ks_read read;
	ks_session_fn *opened;
	int grants;
	/* while it waits */
	struct ks_watcher watcher;
	struct ks_bytes *older; /* the KeyValue that the watcher is after */
	struct ks_task task;
	uint64_t epoch; /* of the store when it was looked for */
	bool waiting, looking, watching;
	/* at the end */
	struct ks_task cancel;
	struct ks_err cause;
};

/*
 * A zeroed struct of 'size' bytes that begins with a session. 'patient': the call may wait, and is told when its client is gone.
 * NULL: the call was ended.
 */
void *ks_session_new(struct ks_api *api, struct ks_call *call, size_t size, bool patient);

/* Step: lease 0 asks for a new lease of a minute, which nobody keeps alive; any other is taken as it is. */
void ks_session_open(struct ks_session *session, int64_t lease, ks_session_fn *then);
/* Sets 'prefix' and, when the session is open, 'key'. False without memory. */
bool ks_session_name(struct ks_session *session, struct ks_slice name) KS_MUST_CHECK;
/* Every key below 'name'. False without memory. */
bool ks_session_prefix(struct ks_arena *arena, struct ks_slice name, struct ks_interval *prefix) KS_MUST_CHECK;
/* The range for the oldest key of an interval; without its value, or with it. */
struct ks_range_req ks_session_oldest(struct ks_interval interval, bool keys_only);
/* The create revision of the only key in 'result', 0 when there is none. */
int64_t ks_session_created(const struct ks_range_result *result);

/* Step: write.submit.request is filled in. The result is in write.submit.result unless err says otherwise; 'then' frees it. */
void ks_session_submit(struct ks_session *session, ks_session_fn *then);
/* Step: until no key below the name is older than 'revision'. */
void ks_session_wait(struct ks_session *session, ks_session_fn *then);
/* Step: the result is in read.result unless err says otherwise; 'then' frees it. */
void ks_session_range(struct ks_session *session, const struct ks_range_req *request, ks_session_fn *then);

/* These end the call. Errors of the inner calls come out as UNKNOWN with their text (spec 8). */
void ks_session_fail(struct ks_session *session);                        /* with err */
void ks_session_fail_text(struct ks_session *session, const char *text); /* UNKNOWN */
void ks_session_reply(struct ks_session *session, struct ks_out *out);   /* a reply that failed counts as an error */
/* Submits write.submit.request, whatever comes of it, and fails with the err of before. */
void ks_session_give_up(struct ks_session *session);

#endif
