/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of h2_call.h know of each other: h2_call.c has calls and frames, h2_calls.c the sockets and the thread. Everything here is
 * the group's thread's, and of the one that starts calls before that runs.
 */
#ifndef BENCH_H2_CALL_PRIV_H
#define BENCH_H2_CALL_PRIV_H

#include <pthread.h>

#include "base/list.h"
#include "tests/bench/h2_call.h"
#include "tests/bench/h2_frame.h"

struct call {
	struct ks_list link; /* in 'waiting', 'sending', 'held' or 'spare' */
	struct call *next;   /* of the same place in 'open' */
	uint32_t id;
	const char *path;
	etcdc_done_fn *done;
	void *arg;
	/* the request, unless it was put at once */
	struct ks_buf request;
	size_t put;
	int64_t window;
	/* the answer: a message where it was read, else in 'at' with its head */
	struct ks_slice message;
	struct ks_buf at;
};

struct h2_connection {
	struct h2_calls *calls;
	const char *endpoint;
	int fd;
	bool ended;
	struct ks_list link; /* in 'dirty' */
	struct ks_buf rest;  /* the beginning of a frame, until the next read */
	struct ks_buf out;   /* frames, of which 'written' bytes are gone */
	size_t written;
	bool full;                    /* the socket; epoll tells when it is not */
	uint32_t taken;               /* received and not yet given back */
	int64_t window, first_window; /* what we may send; and of a new call */
	bool settled;                 /* the server has said what it allows */
	uint32_t limit;               /* streams that it allows */
	uint32_t next_id;
	struct h2_table table;
	struct ks_list waiting; /* calls without a stream */
	struct ks_list sending; /* calls whose request is not all put */
	struct call **open;     /* those with a stream, by its number */
	size_t places, count;   /* of 'open': places are a power of two */
};

struct h2_calls {
	pthread_t thread;
	int epoll;
	struct ks_buf packed; /* the request of the call that begins */
	uint8_t *data;        /* what is read; its end is the beginning of a frame */
	struct ks_list dirty; /* connections with something to write */
	struct ks_list held;  /* calls whose answer lies in 'data' */
	struct ks_list spare; /* calls that are over, with their memory */
	size_t unanswered;
	struct h2_connection **connections;
	size_t count, capacity;
};

/* Frames of calls that had to wait, as far as windows, streams and memory have room. False: there are no more numbers for streams. */
bool h2_put_waiting(struct h2_connection *connection);
/* Of h2_take_frames. False: the connection is of no more use. */
bool h2_on_frame(void *connection, const struct h2_frame *frame);
/* What was read has been handed out, and is about to be overwritten: answers whose end is still to come are kept. */
void h2_keep_held(struct h2_calls *calls);
/* All calls on it fail, and those that come. A second time is harmless. */
void h2_end(struct h2_connection *connection, const char *why);
/* It has something to write, or to put. */
void h2_mark_dirty(struct h2_connection *connection);
/* With its greeting put. The socket stays the caller's. */
struct h2_connection *h2_connection_new(struct h2_calls *calls, const char *endpoint, int fd);
void h2_connection_free(struct h2_connection *connection);
void h2_call_free(struct call *call);

#endif
