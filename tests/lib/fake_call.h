/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net/rpc.h without a network: tests call API methods with bytes and get bytes back, on one thread. Link it instead of libks-net.
 *
 * Tasks that handlers post run inside fake_unary and fake_run. When a call waits for something else, 'idle' is asked to make it
 * happen (a fake committer finishing its operations). Posting is the only thing other threads may do.
 */
#ifndef TESTS_LIB_FAKE_CALL_H
#define TESTS_LIB_FAKE_CALL_H

#include "net/rpc.h"

struct fake_answer {
	bool ended;
	enum ks_status status;
	char text[KS_ERR_TEXT_MAX];
	uint8_t *data; /* malloc-ed; NULL without a message */
	size_t size;
};

struct fake_metadata {
	const char *key;
	const char *value;
};

/* 'idle' returns false when it has nothing left to do. */
void fake_rpc_start(const struct ks_rpc_method *methods, size_t count, void *context, bool (*idle)(void *ctx),
		    void *idle_ctx);
void fake_rpc_set_arena_limit(size_t limit);
/* Ends with a failed assertion of the test when a call never ends or a stream is still open. */
void fake_rpc_stop(void);
void fake_run(void);

/* A call that waits is cancelled; any other must have ended. 'metadata' ends with {NULL, NULL} and may be NULL. */
void fake_unary(const char *path, struct ks_slice request, const struct fake_metadata *metadata,
		struct fake_answer *answer);
void fake_answer_fini(struct fake_answer *answer);

/*
 * A unary call that may wait. 'answer' lives until fake_unary_end, which fails when the call has not ended. Cancel: the client is
 * gone (nothing happens when the call ended before, or does not want to know); the caller then runs fake_run.
 */
struct ks_call *fake_unary_begin(const char *path, struct ks_slice request, const struct fake_metadata *metadata,
				 struct fake_answer *answer);
void fake_unary_cancel(struct ks_call *call);
void fake_unary_end(struct ks_call *call);
/* The server ends: waiting unary calls are cancelled. Until the next fake_rpc_start. */
void fake_rpc_stopping(void);

struct ks_call *fake_stream_open(const char *path, const struct fake_metadata *metadata);
void fake_stream_message(struct ks_call *call, struct ks_slice message);
void fake_stream_half_close(struct ks_call *call);
/* The next response that was sent; false when there is none (yet). Free *data. The client reads only with this. */
bool fake_stream_next(struct ks_call *call, uint8_t **data, size_t *size);
/* The status, when the server has finished the stream; *answer is a copy. */
bool fake_stream_finished(struct ks_call *call, struct fake_answer *answer);
/* Calls 'closed' and frees the call. */
void fake_stream_close(struct ks_call *call);

#endif
