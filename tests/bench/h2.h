/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of an etcd service at the least cost: HTTP/2 frames are read as they come, and messages handed out where they lie.
 *
 * The load generator shares the cores with the server. A gRPC library takes more than a microsecond for each message that it
 * receives, which is about what a good server takes to send it; the figure of such a run says as much of the one as of the other. Here a
 * message costs some tens of nanoseconds. What is left out is what a measurement does not need: responses' headers are not decoded (so the
 * reason why a stream ended is not known), and there is no TLS.
 *
 * Threads: h2_open starts one, which calls back. Streams are opened and written to by one other thread. Owner: strings are borrowed for
 * the life of the connection. Errors: a connection or stream that ends is told to 'ended', with the first reason on stderr.
 */
#ifndef BENCH_H2_H
#define BENCH_H2_H

#include "base/bytes.h"

struct h2;

struct h2_ops {
	/* A message; 'received_ns' is when the bytes were read. */
	void (*message)(void *arg, struct ks_slice message, uint64_t received_ns);
	/* What was read at once has been handed out. */
	void (*pause)(void *arg);
	/* A stream ended, or all did. Not after h2_close began. */
	void (*ended)(void *arg);
};

/* Plain "host:port". NULL, and a message on stderr, when there is no such server. */
struct h2 *h2_open(const char *endpoint, const char *path, const struct h2_ops *ops, void *arg);
/* The number of a new stream, from 0 on. */
size_t h2_stream_open(struct h2 *h2);
/* Waits for the peer's flow control. False when the connection has ended. */
bool h2_send(struct h2 *h2, size_t stream, struct ks_slice message);
void h2_close(struct h2 *h2);

#endif
