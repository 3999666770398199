/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC serving on C core's completion queues: methods, calls, streams. The rest of kineshim sees struct ks_call and never a
 * gRPC header. A call may also have come as JSON through HTTP/1.1 (gateway.h): handlers need not know.
 *
 * Threads: a fixed number of completion queue threads ("cq threads"). Each call belongs to one of them: handlers
 * and stream call-backs of a call run there, one at a time, and must not block. ks_call_reply, ks_call_fail, ks_call_post,
 * ks_stream_send and the getters may be called from any thread. ks_call_post is the way from the writer thread
 * (or any other) back to the call's own thread; it is cheap and takes one leaf lock.
 *
 * Ownership: a unary call ends with exactly one ks_call_reply or ks_call_fail, after which the handler must not touch it.
 * A stream is alive until its 'closed' call-back returned, which is always the last one. Request bytes are borrowed for the
 * call-back, except unary requests: they stay valid until the call ends. Each call has an arena that dies with it.
 * Unary calls that may wait for long say so with ks_call_on_cancel, so that they do not outlive their client's interest.
 *
 * Limits: requests over max_request_bytes are refused with RESOURCE_EXHAUSTED and grpc-go's text (spec 0.4, 1). A stream reads
 * its next message only while its queue of unsent responses is short. Unknown methods get UNIMPLEMENTED with etcd's text (spec 10).
 */
#ifndef KS_NET_RPC_H
#define KS_NET_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/out.h"
#include "base/status.h"

struct ks_rpc;
struct ks_call;
struct ks_identity; /* net/identity.h */
struct ProtobufCMessageDescriptor;

/* A piece of work for a cq thread; embedded in its owner, in at most one queue at a time. */
struct ks_task {
	struct ks_task *next;
	void (*run)(struct ks_task *task);
};

typedef void ks_unary_fn(struct ks_call *call, struct ks_slice request);

struct ks_stream_ops {
	/* Start of the call: set the context with ks_call_set_context. Messages follow after it returned. */
	void (*open)(struct ks_call *call);
	void (*message)(struct ks_call *call, struct ks_slice message);
	/* The client sent its last message. The stream stays open until ks_stream_finish or a cancel. */
	void (*half_closed)(struct ks_call *call);
	/* The queue of unsent responses ran empty after it had been filled. */
	void (*writable)(struct ks_call *call);
	/* Cancelled, broken, or finished: release everything. No call-back follows. */
	void (*closed)(struct ks_call *call);
	/* Many small messages, none of which is urgent: while many come they may be read a few milliseconds late (rest.h). */
	bool rests;
};

struct ks_rpc_method {
	const char *path;   /* "/etcdserverpb.KV/Range" */
	ks_unary_fn *unary; /* exactly one of the two */
	const struct ks_stream_ops *stream;
	bool single_request; /* stream with one request message (server streaming): open, message, half_closed as usual */
	/* For the JSON gateway: the messages, and paths below /v3/, separated by spaces ("lease/revoke kv/lease/revoke"); or NULL. */
	const struct ProtobufCMessageDescriptor *request, *response;
	const char *routes;
};

struct ks_rpc_config {
	const struct ks_rpc_method *methods; /* static lifetime */
	size_t method_count;
	void *context; /* for ks_rpc_context */
	int threads;   /* workers, besides the one that polls. 0: one per core, at least 2 */
	/* The one that polls uses so much of a processor, and so much of one is idle: workers help it. 0: 95, 25; -1: none need be idle. */
	int busy_percent, spare_percent;
	size_t max_request_bytes; /* of one message, as in "larger than max (N vs. M)" */
	size_t max_calls;         /* unary calls and streams in flight; over it: RESOURCE_EXHAUSTED. 0: a default */
	size_t max_arena_bytes;   /* for each call */
	/*
	 * Large unary replies that clients have not taken yet, all together; over it: RESOURCE_EXHAUSTED. 0: a default of 1 GiB.
	 * One that is larger by itself is let through when there is no other.
	 */
	size_t max_reply_bytes;
	/* Milliseconds; the defaults for 0 are etcd's: 5 s, 2 h, 20 s. -1: do not ping, do not mind pings. */
	int ping_min_ms, ping_after_ms, ping_timeout_ms;
	uint32_t max_streams; /* of one connection; 0: no limit */
	int64_t slow_ms;      /* unary calls that take longer are logged; 0: none */
};

struct ks_rpc *ks_rpc_start(const struct ks_rpc_config *config, struct ks_err *err);
/*
 * Serves a connected socket (plaintext HTTP/2); takes it over in any case. 'peer' is for the log; 'identity' is who the client's
 * certificate says it is (NULL: none), of which a reference is taken. Any thread.
 */
void ks_rpc_adopt(struct ks_rpc *rpc, int fd, const char *peer, struct ks_identity *identity);
/*
 * Graceful end: no new calls, GOAWAY to clients, streams are ended with UNAVAILABLE "etcdserver: server stopped", running unary
 * calls get up to drain_ms, then everything is cancelled. Returns when all calls are gone and the threads have ended.
 */
void ks_rpc_stop(struct ks_rpc *rpc, int drain_ms);

void *ks_rpc_context(struct ks_rpc *rpc);
struct ks_rpc *ks_call_rpc(struct ks_call *call);
struct ks_arena *ks_call_arena(struct ks_call *call); /* cq thread of the call, or whoever is about to end the call */
void ks_call_set_context(struct ks_call *call, void *context);
void *ks_call_context(struct ks_call *call);
const struct ks_rpc_method *ks_call_method(const struct ks_call *call);
/* First value of a metadata key (lower case); data NULL when absent. Valid while the call lives. */
struct ks_slice ks_call_metadata(struct ks_call *call, const char *key);
const char *ks_call_peer(struct ks_call *call);
/* Who the client's verified certificate says it is; NULL without one. Valid while the call lives. */
const struct ks_identity *ks_call_identity(const struct ks_call *call);
/* Came as JSON over HTTP/1.1. */
bool ks_call_is_http(const struct ks_call *call);

/* Ends a unary call. Takes what 'out' holds, in every case; a failed 'out' becomes RESOURCE_EXHAUSTED. */
void ks_call_reply(struct ks_call *call, struct ks_out *out);
void ks_call_fail(struct ks_call *call, enum ks_status status, const char *text);
/*
 * For a unary call that waits for something that may never come: runs 'task' on the cq thread, at most once, when the client has
 * cancelled the call, let its deadline pass or gone away, or when the server ends (ks_rpc_stopping). The handler then still ends
 * the call, soon. Nothing runs once the call has ended. Called on the cq thread, once for a call; such a call ends on its cq
 * thread. False when the server is ending already: then 'task' will not run, and the call is to be ended now.
 */
bool ks_call_on_cancel(struct ks_call *call, struct ks_task *task) KS_MUST_CHECK;
bool ks_rpc_stopping(const struct ks_rpc *rpc);
/* Runs 'task' soon on the call's cq thread. For streams: not after 'closed' was called (the owner removes itself first). */
void ks_call_post(struct ks_call *call, struct ks_task *task);
/*
 * The same for a short task of a unary call that nobody else waits behind: when the call's cq thread sleeps, the task runs on this
 * thread, as if on that one, before ks_call_run returns. It costs the caller the system call of the answer, and saves a wake-up, which
 * takes longer. No lock may be held.
 */
void ks_call_run(struct ks_call *call, struct ks_task *task);
/*
 * For a unary call whose next step takes a millisecond or more, on its cq thread, before it has begun to wait for anything: runs 'task' on
 * another cq thread, to which the call belongs from now on, so that others need not wait. Such a call cannot use ks_call_on_cancel. False: it
 * stays here, and nothing runs.
 */
bool ks_call_move(struct ks_call *call, struct ks_task *task) KS_MUST_CHECK;
/*
 * Takes back a task that was posted and has not run yet; cq thread of the call only. True when it was waiting: it will not run.
 * For 'closed': stop others from posting, take the task back, then free what it is embedded in.
 */
bool ks_call_unpost(struct ks_call *call, struct ks_task *task);

/* Queues one response message; takes what 'out' holds. Silently dropped when the stream is already dead. */
void ks_stream_send(struct ks_call *call, struct ks_out *out);
/* The same for a message that says that one of its lists is empty. Only JSON can, and there the list comes last. Static 'list'. */
void ks_stream_send_empty_list(struct ks_call *call, struct ks_out *out, const char *list);
/* Responses queued and not yet given to the transport, and their bytes. */
size_t ks_stream_queued(struct ks_call *call, size_t *bytes);
/* After what is queued: trailing status. 'closed' follows. Further sends are dropped; a second finish is ignored. */
void ks_stream_finish(struct ks_call *call, enum ks_status status, const char *text);

/*
 * For 'open': the handler is not ready for messages yet. Neither 'message' nor 'half_closed' comes before ks_stream_release, on the cq
 * thread of the call; 'closed' may.
 */
void ks_stream_hold(struct ks_call *call);
void ks_stream_release(struct ks_call *call);

struct ks_rpc_stats {
	uint64_t calls_started, calls_open;
};
void ks_rpc_stats(struct ks_rpc *rpc, struct ks_rpc_stats *stats);

#endif
