/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One write after the other, on a connection of its own, at the least cost (h2_call.h): between a put and its events nothing is to be
 * measured but the server.
 *
 * Threads: one. Errors: false, and a message on stderr.
 */
#ifndef BENCH_WRITER_H
#define BENCH_WRITER_H

#include "tests/bench/bench.h"
#include "tests/bench/h2_call.h"

struct bench_writer {
	struct h2_calls *calls;
	struct h2_connection *connection;
	/* of the call under way */
	bool (*read)(struct ks_slice answer, int64_t *revision);
	bool failed, succeeded;
	int64_t revision;
};

/* To the first endpoint. bench_writer_close in any case. */
bool bench_writer_open(struct bench_writer *writer, const struct bench *bench);
void bench_writer_close(struct bench_writer *writer);
bool bench_writer_put(struct bench_writer *writer, const char *key, struct ks_slice value);
/*
 * A transaction in Kubernetes' shape: the key must have *mod_revision (0: must not be there), which is then that of the answer; *succeeded
 * tells whether it had.
 */
bool bench_writer_kube(struct bench_writer *writer, const char *key, struct ks_slice value, int64_t *mod_revision,
		       bool *succeeded);

/*
 * Calls a method and waits for the answer, which 'read', if there is one, looks at: false from it is no failure, but writer->succeeded is false.
 */
bool bench_writer_call(struct bench_writer *writer, const struct etcdc_method *method, const void *request,
		       bool (*read)(struct ks_slice answer, int64_t *revision));

#endif
