/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of libetcdc share: the client, its thread with tags and timers (loop.c), endpoints (conn.c), and coding of
 * messages (kv.c).
 *
 * Locks, in this order: a hub's mutex (watch.c, lease.c) → a stream's mutex → the client's mutex. No call-back of a user runs under
 * any of them.
 */
#ifndef ETCDC_CLIENT_PRIV_H
#define ETCDC_CLIENT_PRIV_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "base/backoff.h"
#include "base/list.h"
#include "base/thread.h"
#include "client/etcdc.h"

#define ETCDC_BACKOFF_MIN_MS 25
#define ETCDC_BACKOFF_MAX_MS 1000
#define ETCDC_METADATA_MAX 2 /* token, hasleader */

/* What a completion queue event leads to; embedded in its owner. 'ok' is gRPC's success flag. */
struct etcdc_tag {
	void (*done)(struct etcdc_tag *tag, bool ok);
	/* Handed over with release and acquire. gRPC's queue orders it all the same; ThreadSanitizer cannot see that. */
	_Atomic unsigned batches;
};

/* Fires once on the client's thread. Embedded in its owner. */
struct etcdc_timer {
	struct ks_list link; /* client->timers */
	int64_t deadline_ms;
	void (*fire)(struct etcdc_timer *timer);
};

struct etcdc_endpoint {
	char *name; /* as configured */
	grpc_channel *channel;
	char *target; /* what grpc_call_get_peer says as long as a call has not reached a connection */
};

struct etcdc_watch_hub;
struct etcdc_lease_hub;

struct etcdc {
	struct etcdc_endpoint *endpoints;
	size_t endpoint_count;
	int64_t timeout_ms;
	bool require_leader;
	char *user, *password; /* NULL: none */
	grpc_completion_queue *cq;
	pthread_t thread;
	/* An empty batch on this call, which never does anything else, is how other threads wake the client's thread. */
	grpc_channel *lame;
	grpc_call *poke;
	struct etcdc_tag poked;
	_Atomic int64_t soonest_ms; /* deadline of the first timer, INT64_MAX without one; written under mutex */
	struct etcdc_watch_hub *watches;
	struct etcdc_lease_hub *leases;

	struct ks_mutex mutex;
	/* All below: under mutex. */
	struct ks_cond idle;              /* 'users' became 0 */
	struct ks_list timers;            /* soonest first */
	const struct etcdc_timer *firing; /* compared, never followed */
	struct ks_cond fired;
	struct ks_list calls;
	size_t users;        /* calls and streams that still have batches in flight */
	size_t open_streams; /* not yet closed by their owner */
	size_t current;      /* index of the endpoint in use */
	grpc_slice token;
	bool has_token;
	uint64_t token_number; /* +1 with each change of the token */
	struct ks_list logins; /* struct etcdc_login: wait for a token */
	bool logging_in;
	bool closing;
};

/* ---- loop.c ---- */

enum ks_status etcdc_loop_start(struct etcdc *client, struct ks_err *err);
void etcdc_loop_stop(struct etcdc *client); /* joins; no batch may be in flight */
/* grpc_call_start_batch with a tag of ours; only our bug can make it fail. */
void etcdc_start_batch(grpc_call *call, const grpc_op *ops, size_t count, struct etcdc_tag *tag);
bool etcdc_on_thread(const struct etcdc *client);
void etcdc_timer_init(struct etcdc_timer *timer, void (*fire)(struct etcdc_timer *timer));
/* Arms or moves. The _locked form is for callers that hold client->mutex. */
void etcdc_timer_arm(struct etcdc *client, struct etcdc_timer *timer, int64_t delay_ms);
void etcdc_timer_arm_locked(struct etcdc *client, struct etcdc_timer *timer, int64_t delay_ms)
	KS_REQUIRES(client->mutex);
/* Blocks while the timer's function runs, unless called from there; hold no lock that it takes. */
void etcdc_timer_disarm(struct etcdc *client, struct etcdc_timer *timer);

/* ---- conn.c ---- */

/* An attempt on this endpoint ended with UNAVAILABLE: use the next one from now on. */
void etcdc_endpoint_failed(struct etcdc *client, size_t endpoint);
void etcdc_backoff_init(const struct etcdc *client, struct ks_backoff *backoff);
/* Before the (attempts + 1)th attempt in a row: 0 as long as there are endpoints not yet tried in this round. */
int64_t etcdc_retry_delay(const struct etcdc *client, struct ks_backoff *backoff, unsigned attempts);
/* A new call on the current endpoint, whose index goes to *endpoint. */
grpc_call *etcdc_call_new(struct etcdc *client, const char *path, gpr_timespec deadline, size_t *endpoint)
	KS_REQUIRES(client->mutex);
/* Metadata for a call; the slices are references, given back by etcdc_metadata_done. */
size_t etcdc_metadata(struct etcdc *client, bool stream, grpc_metadata metadata[ETCDC_METADATA_MAX])
	KS_REQUIRES(client->mutex);
void etcdc_metadata_done(grpc_metadata *metadata, size_t count);
/* May the call, which ended with 'code', have reached a connection? */
bool etcdc_call_was_sent(struct etcdc *client, size_t endpoint, grpc_call *call, grpc_status_code code,
			 grpc_slice details);
gpr_timespec etcdc_deadline(int64_t timeout_ms); /* <= 0: never */
void etcdc_user_done(struct etcdc *client);      /* users-- */

/* ---- call.c ---- */

/* At the end: cancels every call; their call-backs run. */
void etcdc_calls_cancel(struct etcdc *client) KS_REQUIRES(client->mutex);

/* etcdc_async without token and without login. */
void etcdc_async_bare(struct etcdc *client, const struct etcdc_method *method, const void *request, etcdc_done_fn *done,
		      void *arg);

/* ---- login.c ---- */

struct etcdc_login {
	struct ks_list link;
	uint64_t token; /* number of the one that was not taken */
	/* Client's thread, or inside etcdc_login. KS_OK: try again; else nobody can be logged in. */
	void (*done)(struct etcdc_login *login, const struct etcdc_err *err);
};

/* Would a new token help against this error, of which there were 'logins' already? */
bool etcdc_login_helps(const struct etcdc *client, enum ks_status status, const char *text, unsigned logins);
/* Fetches one, unless somebody is at it or has done it. 'login' may be NULL. */
void etcdc_login(struct etcdc *client, struct etcdc_login *login);

bool etcdc_logging_in(struct etcdc *client);

/* ---- kv.c ---- */

grpc_slice etcdc_encode(const ProtobufCMessage *message);
grpc_byte_buffer *etcdc_buffer_of(grpc_slice bytes);
/* All bytes as one slice; the caller unrefs it. */
grpc_slice etcdc_flatten(grpc_byte_buffer *buffer);
/* NULL when the bytes are not such a message. */
ProtobufCMessage *etcdc_decode(const ProtobufCMessageDescriptor *descriptor, grpc_byte_buffer *buffer);
enum ks_status etcdc_fail(struct etcdc_err *err, enum ks_status status, bool sent, const char *text);
void etcdc_err_of(struct etcdc_err *err, grpc_status_code code, grpc_slice details, bool sent);

/* ---- watch.c, lease.c ---- */

/* Stop: all watchers are closed, no new work. Free: the client's thread has ended. */
struct etcdc_watch_hub *etcdc_watch_hub_new(struct etcdc *client);
void etcdc_watch_hub_stop(struct etcdc_watch_hub *hub);
void etcdc_watch_hub_free(struct etcdc_watch_hub *hub);
struct etcdc_lease_hub *etcdc_lease_hub_new(struct etcdc *client);
void etcdc_lease_hub_stop(struct etcdc_lease_hub *hub);
void etcdc_lease_hub_free(struct etcdc_lease_hub *hub);

/* ---- stream.c ---- */

size_t etcdc_stream_endpoint(const struct etcdc_stream *stream);

#endif
