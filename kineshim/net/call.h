/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the transports of net/ share: the body of struct ks_call, and the way to a cq thread for calls that do not come from
 * gRPC. Handlers never see this header.
 *
 * A transport embeds struct ks_call as the first member of its own struct, fills it with ks_call_init, and runs the method's
 * handlers on the thread of the call's queue (ks_rpc_queue_post). rpc_call.c and rpc_stream.c are gRPC's, gateway*.c is JSON's.
 *
 * Threads: the fields are constant from the start of the call to its end, but for context and arena, which are the cq thread's, and for
 * queue, which ks_call_move changes before the call waits for anything.
 */
#ifndef KS_NET_CALL_H
#define KS_NET_CALL_H

#include "base/list.h"
#include "net/rpc.h"

#define KS_TEXT_STOPPED "etcdserver: server stopped"
#define KS_TEXT_TOO_MANY_REPLIES "too many large responses in flight"

struct ks_json_shared;
struct rpc_queue;

struct ks_call_ops {
	bool is_http;
	/* unary */
	void (*reply)(struct ks_call *call, struct ks_out *out);
	void (*fail)(struct ks_call *call, enum ks_status status, const char *text);
	/*
	 * From now on the transport tells by ks_call_cancelled when the client is gone. Once for a call, on its cq thread. NULL
	 * for a transport that cannot know.
	 */
	void (*watch)(struct ks_call *call);
	/* streams */
	void (*send)(struct ks_call *call, struct ks_out *out, const char *empty_list); /* the latter: JSON only */
	size_t (*queued)(struct ks_call *call, size_t *bytes);
	void (*finish)(struct ks_call *call, enum ks_status status, const char *text);
	void (*hold)(struct ks_call *call, bool held);
	/* both */
	struct ks_slice (*metadata)(struct ks_call *call, const char *key);
	const char *(*peer)(struct ks_call *call);
	const struct ks_identity *(*identity)(struct ks_call *call);
};

struct ks_call {
	const struct ks_call_ops *ops;
	struct ks_rpc *rpc;
	struct rpc_queue *queue;
	const struct ks_rpc_method *method; /* NULL: none that we know */
	void *context;
	int64_t served_ms; /* when the handler of a unary call began; 0: it did not */
	size_t request_bytes;
	struct ks_arena arena;
	bool counted;              /* in the metrics: begun, and not yet ended */
	int64_t began_ns;          /* with --metrics=extensive */
	struct ks_task *on_cancel; /* NULL: nobody wants to know, or the call has ended */
	struct ks_list waiting;    /* with on_cancel: in the queue's list of such calls */
};

void ks_call_init(struct ks_call *call, const struct ks_call_ops *ops, struct rpc_queue *queue,
		  const struct ks_rpc_method *method);
void ks_call_fini(struct ks_call *call);
/*
 * On the cq thread: the client of a unary call does not wait for the answer any more. Runs what ks_call_on_cancel asked for, once;
 * the call may have ended when it returns.
 */
void ks_call_cancelled(struct ks_call *call);
/* Runs the handler of a unary call; cq thread. 'request' is valid until the call ends. */
void ks_call_serve(struct ks_call *call, struct ks_slice request);

/*
 * The metrics of a call. A transport says when a stream begins, when a stream gets a message, and how a call ends (as soon as that is
 * decided; ks_call_fini does it for one that just ends: cancelled). Unary calls begin with ks_call_serve; what is sent is
 * counted by ks_call_reply and ks_stream_send.
 */
void ks_call_count_begin(struct ks_call *call);
void ks_call_count_message(struct ks_call *call, size_t size);
void ks_call_count_end(struct ks_call *call, enum ks_status status);
void ks_call_name_metrics(const struct ks_rpc_method *methods, size_t count); /* before the first call */

/* ---- cq threads ---- */

struct rpc_queue *ks_rpc_pick_queue(struct ks_rpc *rpc); /* any thread; the workers', one after the other */
bool ks_rpc_queue_is_worker(const struct rpc_queue *queue);
struct ks_rpc *ks_rpc_queue_rpc(struct rpc_queue *queue);
size_t ks_rpc_max_request_bytes(const struct ks_rpc *rpc);
size_t ks_rpc_max_arena_bytes(const struct ks_rpc *rpc);
int64_t ks_rpc_slow_ms(const struct ks_rpc *rpc);
bool ks_rpc_queue_is_mine(const struct rpc_queue *queue); /* called on its thread? */
void ks_rpc_queue_post(struct rpc_queue *queue, struct ks_task *task);
/*
 * Runs 'task' here and now, as on the queue's thread, if that one waits for events and we are no such thread ourselves; else false. No
 * lock may be held that a task takes. For a short task: nothing else runs in the queue meanwhile.
 */
bool ks_rpc_queue_visit(struct rpc_queue *queue, struct ks_task *task) KS_MUST_CHECK;
bool ks_rpc_queue_unpost(struct rpc_queue *queue, struct ks_task *task);
struct ks_json_shared *ks_rpc_queue_lines(struct rpc_queue *queue); /* on its thread */
struct ks_list *ks_rpc_queue_waiting(struct rpc_queue *queue);      /* calls with on_cancel; on its thread */

/* ---- limits that all calls share ---- */

/*
 * Counts a call in. NULL when it can be served, otherwise why not, and 'status' says it in numbers; ks_rpc_call_gone comes in
 * either case when it is over. The server's end waits for it.
 */
const char *ks_rpc_call_begin(struct ks_rpc *rpc, enum ks_status *status);
void ks_rpc_call_gone(struct ks_rpc *rpc);
const struct ks_rpc_method *ks_rpc_methods(const struct ks_rpc *rpc, size_t *count);
/* KS_OK when a message of this size can be handled; otherwise 'text' is etcd's. */
enum ks_status ks_rpc_check_size(const struct ks_rpc *rpc, size_t size, char *text, size_t text_size);
/*
 * Room for a large unary reply until its client has taken it: the bytes that were counted (0 for a small reply) go back with
 * ks_rpc_free_reply. False when there are too many such replies already.
 */
bool ks_rpc_claim_reply(struct ks_rpc *rpc, size_t size, size_t *counted);
void ks_rpc_free_reply(struct ks_rpc *rpc, size_t counted);

#endif
