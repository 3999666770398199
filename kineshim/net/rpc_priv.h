/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rpc*.c files share: the server, its queues, calls.
 *
 * rpc.c        life cycle of the server, connections
 * rpc_queue.c  completion queue threads, the inbox through which other threads reach them
 * cork.[ch]    gathers what many answers write to one connection
 * rpc_load.c   whether the first of them is so busy that the others should help it
 * rpc_call.c   requests posted to the core, unary calls, refusals
 * rpc_stream.c streams
 * call.[ch]    what calls of all transports have
 *
 * A call moves like this; everything but the hand-over in ks_call_reply happens on its queue's thread:
 *
 *	free list ─► posted (waiting in the core for a client's call) ─► running ─► ending (one batch in the core) ─► free list
 *
 * A unary call that waits (ks_call_on_cancel) has a second batch in the core while it runs; both must be back at the end.
 *
 * The first queue's thread alone polls the connections. It also serves the unary calls and streams of small messages, so that a client's lone request is answered without waking
 * anybody else; the core would have two threads that poll pass the polling on to each other with each event, which costs more than a
 * small request. The other queues are workers, and sleep until the core has an event for them. They serve the other streams, long unary
 * calls (ks_call_move), those of the JSON gateway, and their share of the rest while the first has more than it should (rpc_load.c).
 *
 * All streams arrive at the first queue, which gives each to the worker that has the fewest. Were they asked for by the workers, the core would give all
 * of a connection to one of them, and of three connections two to the same.
 */
#ifndef KS_NET_RPC_PRIV_H
#define KS_NET_RPC_PRIV_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/thread.h"
#include "net/call.h"
#include "net/cork.h"
#include "net/grpc_bytes.h"
#include "net/identity.h"
#include "net/rpc.h"

/* What a completion queue event points at. */
struct rpc_tag;
typedef void rpc_complete_fn(struct rpc_tag *tag, bool ok);
struct rpc_tag {
	/* Stored with release before the core gets the tag: another thread than the one that gave it to the core may get it back. */
	rpc_complete_fn *_Atomic complete;
};

static inline void ks_rpc_tag_is(struct rpc_tag *tag, rpc_complete_fn *complete)
{
	atomic_store_explicit(&tag->complete, complete, memory_order_release);
}

static inline void ks_rpc_tag_came(struct rpc_tag *tag, bool ok)
{
	atomic_load_explicit(&tag->complete, memory_order_acquire)(tag, ok);
}

struct ks_json_shared;

/* One method in one queue: how many requests for it wait in the core. The wish grows when they ran out. */
struct rpc_slot {
	const struct ks_rpc_method *method; /* NULL: any other method */
	void *handle;                       /* the core's, NULL: any other method */
	uint32_t posted, wish;
};

struct rpc_queue {
	/* queue thread, or before it starts */
	struct ks_rpc *rpc;
	grpc_completion_queue *cq;
	pthread_t thread;
	bool running;
	bool worker;            /* not the first */
	struct rpc_slot *slots; /* rpc->method_count, and one for any other method */
	struct rpc_call *free_calls;
	struct ks_list streams;       /* open ones, for the end */
	struct ks_list waiting;       /* unary calls that want to know when nobody waits for them any more */
	struct ks_list resting;       /* streams that do not ask for their next message yet, the first to go on first */
	struct rpc_stream *unsent;    /* streams with something to send at the end of this turn */
	struct ks_task *drained;      /* taken from the inbox, running one after the other */
	struct ks_json_shared *lines; /* of JSON streams */
	struct ks_task begin, end;    /* of the server */
	struct ks_task help;          /* a worker: the first thread has more than it can do */
	unsigned events;              /* of the core, so far */
	unsigned writing;             /* batches in the core that write, as far as they come back to this queue */
	struct ks_cork cork;          /* what they write */
	/*
	 * Held while requests are posted to the core, and by the end to wait for that: a request that meets the core's
	 * shutdown half-way is never given back, and the queue never ends.
	 */
	struct ks_mutex requesting;
	/* Held for a turn: by the queue's thread, or by a visitor while that one waits for events. */
	struct ks_mutex turn;

	/* any thread */
	_Atomic uint32_t streams_given;              /* open ones, and those on their way here */
	alignas(64) _Atomic(struct ks_task *) inbox; /* newest first */
	atomic_bool wake_pending;                    /* a wake event is on its way */
	_Atomic uint32_t posting;                    /* threads inside ks_rpc_queue_post */
	atomic_bool help_posted;                     /* 'help' is in the inbox */
	grpc_call *wake_call;                        /* leads nowhere; an empty batch on it is an event for the queue */
	struct rpc_tag wake_tag;
};

/*
 * Who is at the other end of a connection. The core keeps a connection's descriptor open until the last call on it has been freed, so
 * what a call finds by number is its own connection's (a test holds the core to it).
 */
struct rpc_peer {
	char *text;
	struct ks_identity *identity;
};

/* At the last look. */
struct rpc_load {
	struct ks_mutex lock; /* guards the rest */
	int64_t looked_us;
	int64_t first_us, all_us; /* processor time of the first queue's thread, and of all */
	int64_t idle_us;          /* of all processors; -1: the first thread was not busy */
};

struct ks_rpc {
	const struct ks_rpc_method *methods;
	size_t method_count;
	void *context;
	size_t max_request_bytes, max_calls, max_arena_bytes, max_reply_bytes;
	int64_t slow_ms;
	int busy_percent, spare_percent;
	grpc_server *server;
	grpc_server_credentials *credentials;
	grpc_channel *nowhere; /* of the wake calls */
	struct rpc_queue *queues;
	size_t queue_count;

	struct ks_mutex lock;
	struct ks_cond changed;
	bool down;              /* the core says that all calls and connections are gone */
	size_t queues_ended;    /* their 'end' has run */
	struct rpc_peer *peers; /* by file descriptor */
	size_t peer_capacity;
	struct rpc_tag down_tag;
	struct rpc_load load;
	/* the first queue's thread */
	bool crowded;        /* it has many streams, workers get further ones */
	uint32_t next_place; /* the worker that is asked first whether it has the fewest streams */

	alignas(64) atomic_bool stopping;
	atomic_bool identities; /* some connection has or had one */
	_Atomic uint64_t calls_started, calls_open;
	atomic_bool shared; /* workers serve unary calls, too */
	/* The worker that is next, for calls that do not come from the core, and long ones. */
	_Atomic uint32_t next_queue;
	_Atomic size_t reply_bytes; /* of large unary replies on their way out */
};

struct rpc_call {
	struct ks_call base;
	struct rpc_tag tag; /* of the posted request, later of the batch that ends the unary call */
	struct rpc_tag close_tag;
	struct rpc_slot *slot;
	/* Whose completion queue the core knows it by; base.queue may be another (ks_call_move). */
	struct rpc_queue *home;
	grpc_call *call;
	gpr_timespec deadline;
	grpc_metadata_array metadata;
	grpc_call_details details; /* any other method */
	grpc_byte_buffer *payload; /* of the request, later of the reply */
	struct ks_grpc_message request;
	char *peer;
	int fd;                       /* of the connection; -1: not asked for yet */
	struct ks_identity *identity; /* once it was asked for */
	bool identity_known;
	enum ks_status status; /* of the reply */
	int cancelled;
	bool watched;        /* unary: a batch of its own, with close_tag, tells when the client is gone */
	bool closing;        /* that batch is in the core */
	bool ending;         /* unary: the batch that ends the call was started … */
	bool ended;          /* … and has come back */
	size_t reply_bytes;  /* counted in the server's */
	grpc_slice text;     /* of the status; empty when OK */
	struct ks_task task; /* hands a reply to the queue's thread */
	struct rpc_call *next_free;
};

/* rpc_queue.c */
/* A function of the core's libraries that no header for C declares, by its symbol, into the pointer at 'function'. False: there is none. */
bool ks_rpc_find_function(const char *symbol, void *function);
void ks_rpc_queue_init(struct rpc_queue *queue, struct ks_rpc *rpc);
enum ks_status ks_rpc_queue_start(struct rpc_queue *queue, int index, struct ks_err *err) KS_MUST_CHECK;
void ks_rpc_queue_join(struct rpc_queue *queue); /* all calls are gone, or none has ever come */
void ks_rpc_queue_fini(struct rpc_queue *queue);

/* rpc_load.c; all on the queue's thread */
void ks_rpc_load_look(struct rpc_queue *queue); /* once for each event of the core */
/* Does the queue ask the core for such calls now? */
bool ks_rpc_load_serves(const struct rpc_queue *queue, const struct rpc_slot *slot);
/* Who gets the next stream; on the first queue's thread. */
struct rpc_queue *ks_rpc_load_place(struct ks_rpc *rpc, const struct ks_stream_ops *ops);

/* rpc_call.c */
void ks_rpc_post_requests(struct rpc_queue *queue, struct rpc_slot *slot);
/* A request that 'queue' has posted became a call. NULL when it can be served, otherwise why not. */
const char *ks_rpc_request_arrived(struct rpc_queue *queue, struct rpc_call *call, enum ks_status *status);
void ks_rpc_call_init(struct rpc_call *call, const struct ks_call_ops *ops, struct rpc_queue *queue,
		      struct rpc_slot *slot);
void ks_rpc_call_fini(struct rpc_call *call); /* what a running call holds; the memory stays */
struct ks_slice ks_rpc_metadata(struct ks_call *base, const char *key);
const char *ks_rpc_peer(struct ks_call *base);                   /* rpc.c */
const struct ks_identity *ks_rpc_identity(struct ks_call *base); /* rpc.c */
void ks_rpc_set_status(struct rpc_call *call, enum ks_status status, const char *text);
grpc_op ks_rpc_op(grpc_op_type type);
grpc_op ks_rpc_status_op(struct rpc_call *call);
void ks_rpc_start_batch(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag,
			rpc_complete_fn *complete);
/* KS_OK when a received message can be handled; otherwise 'text' says why not. */
enum ks_status ks_rpc_check_message(struct ks_rpc *rpc, grpc_byte_buffer *buffer, char *text, size_t size);
void ks_rpc_free_calls(struct rpc_queue *queue);
/* Around each batch that writes: before it is started, and when it has come back. */
void ks_rpc_writes(struct rpc_call *call);
void ks_rpc_wrote(struct rpc_call *call);
int ks_rpc_fd(struct rpc_call *call); /* rpc.c; of its connection, negative when the core has another name for it */

/* rpc_stream.c */
void ks_rpc_post_stream(struct rpc_queue *queue, struct rpc_slot *slot);
void ks_rpc_send_unsent(struct rpc_queue *queue); /* end of a turn of the queue's thread */
/* Streams that have rested for long enough go on; when to call this again, or 'never'. */
gpr_timespec ks_rpc_end_rests(struct rpc_queue *queue, gpr_timespec never);
void ks_rpc_end_streams(struct rpc_queue *queue);

#endif
