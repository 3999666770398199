/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of api/ share: the API's context, how a request is taken apart and checked before its handler sees it,
 * and how a handler waits for the committer without blocking its thread.
 *
 * One file holds one etcd service. A unary handler gets its message decoded in the call's arena, and ends the call with
 * ks_call_reply or ks_call_fail, at once or from a later step on the same thread (ks_await below). What a handler
 * needs lives in the call's arena. Streams register with ks_api_stream_open, which does the same checks.
 *
 * Threads: handlers and their steps run on the call's cq thread. struct ks_api is constant after ks_api_start, but for
 * what its watchdog guards.
 */
#ifndef KS_API_API_H
#define KS_API_API_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>

#include "api/errors.h"
#include "base/list.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "base/timer.h"
#include "net/rpc.h"
#include "store/committer.h"

/*
 * The etcd whose behaviour we show (spec 15): 3.6 has the widest circle of clients, keeps the lease in keys_only answers,
 * and does not forbid RangeStream.
 */
#define KS_ETCD_VERSION "3.6.7"
#define KS_ETCD_CLUSTER_VERSION "3.6.0"
#define KS_ETCD_STORAGE_VERSION "3.6.0"

#define KS_ETCD_MAX_TXN_OPS 128
#define KS_ETCD_MAX_REQUEST_BYTES 1572864
/* What the transport takes on top of max_request_bytes; also the size from which watch responses are fragmented. */
#define KS_ETCD_GRPC_OVERHEAD_BYTES 524288
#define KS_ETCD_MAX_SEND_BYTES 2147483647
#define KS_ETCD_MIN_LEASE_TTL_S 2 /* with the default election timeout */
#define KS_ETCD_QUOTA_BYTES 2147483648

struct ks_api_config {
	struct ks_store *store;
	struct ks_committer *committer;
	struct ks_timers *timers;
	size_t max_txn_ops;
	size_t max_request_bytes;
	int64_t progress_interval_ms;
	int64_t cursor_interval_ms; /* of idle watches through JSON, see watch.c; 0: never */
	int64_t min_lease_ttl_s;
	int64_t quota_bytes;      /* not above 0: no limit */
	const char *snapshot_dir; /* for their temporary files; NULL or not usable: TMPDIR, /tmp */
	const char *auth_token;   /* --auth-token; NULL: simple */
	int64_t auth_token_ttl_s; /* 0: a default */
	int bcrypt_cost;          /* 0: a default */
};

struct ks_snapshots;

struct ks_api {
	struct ks_store *store;
	struct ks_committer *committer;
	struct ks_timers *timers;
	size_t max_txn_ops;
	size_t max_request_bytes;
	int64_t progress_interval_ms;
	int64_t cursor_interval_ms;
	int64_t min_lease_ttl_s;
	int64_t quota_bytes; /* not above 0: no limit */
	_Atomic uint32_t lease_counter;
	_Atomic size_t watch_streams; /* open ones */
	/* The watchdog, once a second: ends streams that asked for a leader when there is none (spec 3.10), and tells health
	 * watchers. Its lock guards the list; order: watchdog before anything of the net. */
	struct ks_timer watchdog;
	struct ks_mutex lock;
	struct ks_list streams;
	int leaderless_ticks;
	struct ks_snapshots *snapshots;  /* snapshot.c */
	struct ks_tokens *tokens;        /* token.h */
	struct ks_passwords *passwords;  /* password.h */
	uint8_t *rules;                  /* of each method: enum ks_access_rule */
	struct ks_metrics_source source; /* gauges.c */
};

struct ks_api *ks_api_start(const struct ks_api_config *config, struct ks_err *err);
void ks_api_stop(struct ks_api *api); /* after ks_rpc_stop; NULL is fine */
/* For ks_rpc_config: the table of methods.h, and the context is the struct ks_api. */
const struct ks_rpc_method *ks_api_methods(size_t *count);

/* The alarms that are on, by bits of their type (1 << ETCDSERVERPB__ALARM_TYPE__NOSPACE); any thread. */
unsigned ks_api_alarms(const struct ks_api *api);

/* The database was reached and its log is loaded: serializable reads can be answered. */
bool ks_api_loaded(const struct ks_api *api);
/*
 * Around a read of the store: it may be emptied at any time, because the log lost its end. False before the read: nothing is
 * loaded. False after it: what was read is of no history, or of one that is over.
 */
bool ks_api_view_begin(const struct ks_api *api, uint64_t *epoch);
bool ks_api_view_holds(const struct ks_api *api, uint64_t epoch);

static inline struct ks_api *ks_api_of(struct ks_call *call)
{
	return ks_rpc_context(ks_call_rpc(call));
}

/* gauges.c */
void ks_api_gauges_start(struct ks_api *api);
void ks_api_gauges_stop(struct ks_api *api);

/* ---- unary handlers ---- */

/* 'message' is of the type in methods.h; 'size' is what it took on the wire. */
typedef void ks_api_handler_fn(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size);

void ks_api_fail(struct ks_call *call, enum ks_etcd_error error);
void ks_api_fail_err(struct ks_call *call, const struct ks_err *err);

/* ---- streams ---- */

/* Embedded in the context of a stream, from open to closed. */
struct ks_api_stream {
	struct ks_list link;
	struct ks_call *call;
	struct ks_early_stream *early; /* api.c: waits until we know the caller's token; else NULL */
	bool require_leader;
	/* Optional; on the timer thread, under the watchdog's lock, once a second: may only post or send. */
	void (*tick)(struct ks_api_stream *stream);
};

/*
 * In 'open': checks the metadata (spec 0.4, step 2) and registers the stream. False when the stream was finished with an
 * error; 'closed' comes all the same and must call ks_api_stream_closed in every case. A caller whose token is newer than what this
 * instance knows is checked later; no message comes before that, and if it fails the stream is finished then.
 */
bool ks_api_stream_open(struct ks_api *api, struct ks_call *call, struct ks_api_stream *stream);
void ks_api_stream_closed(struct ks_api *api, struct ks_api_stream *stream);

/* ---- response headers (spec 0.3) ---- */

/* Size of the field with its tag and length, and the field itself. revision 0 is left out, as the spec has it for some. */
size_t ks_api_header_size(const struct ks_api *api, uint32_t field, int64_t revision);
void ks_api_write_header(const struct ks_api *api, struct ks_buf *buf, uint32_t field, int64_t revision);
/* A response of nothing but a header. */
void ks_api_reply_header(const struct ks_api *api, struct ks_call *call, int64_t revision);

/* ---- decoding ---- */

/*
 * Decodes a message in the arena. NULL when it is malformed or the arena is full, and 'err' says which. Depth is not checked
 * here: messages that nest go through ks_txn_shape_check first (validate.h).
 */
ProtobufCMessage *ks_api_unpack(const ProtobufCMessageDescriptor *type, struct ks_arena *arena, struct ks_slice bytes,
				struct ks_err *err);

/* ---- waiting ---- */

/*
 * A step that follows something asynchronous. Embed it, set it up, start the operation, then call ks_await_go. The operation's
 * 'done' calls ks_await_done, on any thread, also before ks_await_go. 'then' runs on the call's cq thread: inside
 * ks_await_go when the operation was done by then, else through ks_call_post. So an operation that completes at once costs no
 * switch of threads, and nothing runs twice.
 */
struct ks_await {
	struct ks_task task;
	struct ks_call *call;
	void (*then)(struct ks_await *await);
	bool brief; /* the caller's, between init and the start: 'then' takes microseconds, and may run on the operation's thread */
	_Atomic int state;
};

void ks_await_init(struct ks_await *await, struct ks_call *call, void (*then)(struct ks_await *await));
void ks_await_done(struct ks_await *await);
/* The same; alone: nothing else waits for the thread that calls, so a brief 'then' may run inside (ks_call_run). */
void ks_await_done_by(struct ks_await *await, bool alone);
void ks_await_go(struct ks_await *await); /* last thing the caller does: 'then' may have ended the call */

/*
 * The most common one: 'then' runs when it is proven that the committed view is the newest. When there is no proof, the call
 * ends with the error.
 */
typedef void ks_api_proved_fn(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message);
void ks_api_prove(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, ks_api_proved_fn *then);

/*
 * The same for streams, whose operations may outlive them: a counted context that knows whether its call still exists.
 * Embed it in memory of its own (not the call's arena). 'run' comes on the cq thread, once after any number of
 * ks_guard_done, and never after ks_guard_close; 'free' when nothing refers to the context any more.
 */
struct ks_guard {
	struct ks_call *call;
	void (*run)(struct ks_guard *guard);
	void (*free)(struct ks_guard *guard);
	struct ks_task task;
	struct ks_mutex lock; /* guards the rest, and whatever the embedder says; a leaf but for the net's inbox */
	unsigned refs;        /* the open stream, the posted task, operations under way */
	bool posted, closed;
};

void ks_guard_init(struct ks_guard *guard, struct ks_call *call, void (*run)(struct ks_guard *guard),
		   void (*free)(struct ks_guard *guard));
void ks_guard_begin(struct ks_guard *guard); /* an operation is about to start */
void ks_guard_post(struct ks_guard *guard);  /* 'run', in the middle of an operation; any thread */
void ks_guard_done(struct ks_guard *guard);  /* it is done; any thread; the context may be gone afterwards */
void ks_guard_close(struct ks_guard *guard); /* the stream's 'closed' */

/*
 * Values that the cache let go. ks_values_of_* count and collect what is missing; 0 = nothing to fetch, negative = no memory.
 * Then start 'fetch' (fetch.done is the caller's to set) and let go of refs with ks_values_fini when it is done.
 */
struct ks_values {
	struct ks_fetch fetch;
	size_t capacity;
};

int ks_values_of_range(struct ks_values *values, struct ks_range_result *result);
int ks_values_of_result(struct ks_values *values, struct ks_result *result);
int ks_values_of_misses(struct ks_values *values, struct ks_misses *misses);
void ks_values_fini(struct ks_values *values);

/* ---- writes (write.c) ---- */

/*
 * A write on its way: submitted, values fetched, then 'encode' writes the response and the call ends. Lives in the call's arena.
 * 'failed' (optional) may take an error over and start again, or continue otherwise: then it returns true.
 * With 'done' instead of 'encode' the write is one step of several: it gets submit.err and, when that is KS_OK, submit.result
 * with all its values, which it frees. Such a write starts zeroed but for submit.request, submit.bytes, done, api and call.
 */
struct ks_write {
	struct ks_submit submit; /* the handler fills .request */
	void (*encode)(struct ks_write *write, struct ks_out *out);
	void (*done)(struct ks_write *write);
	bool (*failed)(struct ks_write *write);
	struct ks_api *api;
	struct ks_call *call;
	struct ks_await await;
	struct ks_values values;
	int attempts; /* for 'failed' */
	/* The caller of the request is looked up by ks_write_go, and again when users or roles changed before the write was judged. */
	bool has_caller;
	int renewals;
};

/*
 * Put, Txn, LeaseGrant: is there room for it (spec 2.9)? Then 'then' runs, at once or from a later step; else the call ends, after
 * an alarm was raised if need be. Messages of other types always have room.
 */
typedef void ks_quota_fn(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size);
void ks_quota_judge(struct ks_api *api, struct ks_call *call, const ProtobufCMessage *message, size_t size,
		    ks_quota_fn *then);

/* Looks the caller up and checks the size of the request (spec 2.9). NULL when one of it or the memory did not do: then the call was
 * ended. */
struct ks_write *ks_write_new(struct ks_api *api, struct ks_call *call, size_t size,
			      void (*encode)(struct ks_write *write, struct ks_out *out));
void ks_write_go(struct ks_write *write);
/* A request of this size is not too large for etcd (spec 2.9). */
bool ks_write_fits(const struct ks_api *api, size_t size);

/* ---- ranges (range.c) ---- */

/*
 * A range on its way: proof (unless serializable), read, values fetched, then 'done'. Starts zeroed but for api, call, request
 * and done; request and the struct live until then, for a unary call.
 */
struct ks_read {
	struct ks_range_req request;
	void (*done)(struct ks_read *read);
	/* out */
	struct ks_err err;
	struct ks_range_result result; /* filled when err.status == KS_OK; the receiver frees it */
	int64_t revision;              /* current when it was read, for the header */
	struct ks_api *api;
	struct ks_call *call;
	struct ks_await await;
	struct ks_read_proof proof;
	struct ks_values values;
	int rounds;
	int64_t began_ns;
	struct ks_task moved; /* to another thread, because it is long */
};

void ks_read_go(struct ks_read *read);
/* Does it look at so many keys that it is worth a change of threads, so that nobody waits for it (ks_call_move)? O(log n). */
bool ks_read_is_long(const struct ks_api *api, const struct ks_range_req *request);

/* ---- snapshots (snapshot.c) ---- */

/* NULL when memory is short. 'dir' is borrowed. Free waits for the threads that still work on one. */
struct ks_snapshots *ks_snapshots_new(const char *dir);
void ks_snapshots_free(struct ks_snapshots *snapshots);

/* ---- leases (lease.c) ---- */

/* An id for a lease whose client left the choice to us. It may be taken. */
int64_t ks_api_choose_lease_id(struct ks_api *api);

#endif
