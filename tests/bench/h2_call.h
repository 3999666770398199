/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unary calls of an etcd service at the least cost, for the same reason as the streams of h2.h: the load generator shares the cores with
 * the server. A call is two frames, which are written together with those of other calls that begin at the same moment, and its answer is
 * handed out where it lies. The server's headers are not decoded, so neither is the status in the last ones: a call has succeeded when one
 * whole message came before its end.
 *
 * A group is one thread and its connections. The thread is there from h2_calls_run until no call is open; meanwhile everything happens on
 * it, and nothing has a lock.
 *
 * Threads: while a group runs, its calls are started from call-backs only; else by one other thread, and then they wait for h2_calls_run.
 * Owner: strings are borrowed for the life of the group, requests for the call, an answer's bytes until 'done' returns.
 * Errors: of a call as 'done' gets them; UNAVAILABLE: the connection has ended, and all other calls on it fail in the same way.
 * Limits: the server's windows and its number of streams; what is above them waits in memory, so calls in flight are to be bounded.
 */
#ifndef BENCH_H2_CALL_H
#define BENCH_H2_CALL_H

#include "client/etcdc.h"

struct h2_calls;
struct h2_connection;

struct h2_calls *h2_calls_new(void);
/* To a plain "host:port"; the group's. NULL, and a message on stderr, when there is no such server. */
struct h2_connection *h2_calls_connect(struct h2_calls *calls, const char *endpoint);
/* 'done' is called once: on the group's thread, or before this returns when the connection has ended already. */
void h2_call(struct h2_connection *connection, const struct etcdc_method *method, const void *request,
	     etcdc_done_fn *done, void *arg);
/* Ends the program when there can be no thread. */
void h2_calls_run(struct h2_calls *calls);
/* Until no call is open. */
void h2_calls_wait(struct h2_calls *calls);
/* As run and wait, but on the thread of the caller. */
void h2_calls_serve(struct h2_calls *calls);
/* None may be open. NULL is fine. */
void h2_calls_free(struct h2_calls *calls);

#endif
