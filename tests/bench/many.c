/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many clients that do little each: thousands of watch streams with one key each, and many leases that are kept alive.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/bench/bench.h"
#include "tests/bench/watchers.h"
#include "tests/bench/writer.h"

/* ---- watch streams ---- */

static void many_key(int64_t number, char key[48])
{
	(void)snprintf(key, 48, "/bench/many/%08" PRId64, number);
}

/* In Kubernetes' shape, so that kine takes it: the first write creates, later ones say the revision before. */
static bool write_key(struct bench_writer *writer, int64_t number, int64_t *mod_revision)
{
	uint8_t value[100];
	uint64_t sent_ns = now_ns();
	char key[48];
	bool succeeded;

	many_key(number, key);
	memset(value, 'v', sizeof(value));
	memcpy(value, &sent_ns, sizeof(sent_ns));
	if (!bench_writer_kube(writer, key, ks_slice_of(value, sizeof(value)), mod_revision, &succeeded))
		return false;
	if (!succeeded)
		(void)fputs("kineshim-bench: a write lost its race; the store is to be fresh\n", stderr);
	return succeeded;
}

/* Each write at its time: at a rate that all servers reach, so that their delays can be compared. */
static bool write_keys(struct bench *bench, struct bench_writer *writer, const struct watchers *many,
		       int64_t *revisions, int64_t count)
{
	uint64_t begin_ns = now_ns();

	for (int64_t i = 0; i < count; i++) {
		uint64_t due_ns = begin_ns + (uint64_t)((double)i * 1e9 / bench->rate), now = now_ns();
		int64_t number = i * 7919 % bench->watchers;

		if (due_ns > now)
			(void)usleep((useconds_t)((due_ns - now) / 1000));
		if (atomic_load(&many->ended) > 0 || !write_key(writer, number, &revisions[number]))
			return false;
	}
	return true;
}

int bench_many(struct bench *bench)
{
	struct watchers *many = ks_xcalloc(1, sizeof(*many));
	int64_t *revisions = ks_xcalloc((size_t)bench->watchers, sizeof(*revisions));
	int64_t count = (int64_t)(bench->seconds * bench->rate);
	uint64_t begin_ns = now_ns();
	double cpu_s, seconds;
	struct bench_writer writer;
	bool ok = watchers_open(many, bench, 0, bench->clients);

	ok = bench_writer_open(&writer, bench) && ok;
	for (int i = 0; ok && i < bench->watchers; i++) {
		struct watchers_connection *connection = &many->connection[i % bench->clients];
		char key[48];

		many_key(i, key);
		ok = watchers_create(connection, h2_stream_open(connection->h2), key);
	}
	ok = ok && bench_await(&many->created, bench->watchers, &many->ended, 120);
	seconds = (double)(now_ns() - begin_ns) / 1e9;
	atomic_store(&many->measuring, true);
	cpu_s = cpu_seconds();
	ok = ok && write_keys(bench, &writer, many, revisions, count) && watchers_await(many, count);
	cpu_s = cpu_seconds() - cpu_s;
	if (ok) {
		printf("{\"bench\":\"many\",\"streams\":%d,\"rate\":%.0f,\"created_seconds\":%.3f,\"count\":%" PRId64,
		       bench->watchers, bench->rate, seconds, count);
		hist_print(&many->hist);
		cpu_print(cpu_s, bench->seconds);
		printf("}\n");
	} else {
		(void)fprintf(stderr, "kineshim-bench: %" PRId64 " streams, %" PRId64 " of %" PRId64 " events\n",
			      atomic_load(&many->created), atomic_load(&many->events), count);
	}
	watchers_close(many);
	bench_writer_close(&writer);
	free(revisions);
	free(many);
	return ok ? 0 : 1;
}

/* ---- leases ---- */

struct leases {
	_Atomic int64_t granted, renewed, open, failed;
};

static void granted(void *arg, const struct etcdc_result *result)
{
	struct leases *leases = arg;

	if (result->err->status != KS_OK && atomic_fetch_add(&leases->failed, 1) == 0)
		(void)fprintf(stderr, "kineshim-bench: %s\n", result->err->text);
	atomic_fetch_add(&leases->granted, 1);
	atomic_fetch_sub(&leases->open, 1);
}

static void renewed(void *arg, const void *message)
{
	const Etcdserverpb__LeaseKeepAliveResponse *response = message;
	struct leases *leases = arg;

	atomic_fetch_add(response->ttl > 0 ? &leases->renewed : &leases->failed, 1);
}

static void stream_ended(void *arg, const struct etcdc_err *err)
{
	struct leases *leases = arg;

	(void)fprintf(stderr, "kineshim-bench: a stream ended: %s\n", err->text);
	atomic_fetch_add(&leases->failed, 1);
}

/* Each lease is renewed every third of its TTL, in turns, on one stream for each client. */
int bench_leases(struct bench *bench)
{
	static const struct etcdc_stream_ops ops = {.message = renewed, .ended = stream_ended};
	struct leases *leases = ks_xcalloc(1, sizeof(*leases));
	struct etcdc_stream *streams[BENCH_CLIENTS_MAX];
	double rate = (double)bench->keys / ((double)bench->ttl / 3);
	int64_t count = (int64_t)(rate * bench->seconds), base = (int64_t)(now_ns() >> 20) << 24;
	uint64_t begin_ns;
	bool ok;

	for (int64_t i = 0; i < bench->keys; i++) {
		Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;

		request.id = base + i + 1;
		request.ttl = bench->ttl;
		atomic_fetch_add(&leases->open, 1);
		etcdc_async(bench->client[i % bench->clients], &etcdc_method_lease_grant, &request, NULL, granted,
			    leases);
		while (atomic_load(&leases->open) >= 512)
			(void)usleep(100);
	}
	ok = bench_await(&leases->granted, bench->keys, &leases->failed, 60);
	for (int i = 0; i < bench->clients; i++) {
		struct etcdc_stream_options options = {.ops = &ops, .arg = leases};

		streams[i] = etcdc_stream_open(bench->client[i], &etcdc_method_lease_keep_alive, &options);
	}
	/* Says when the grants are over, so that the server's processor time can be taken from here on. */
	(void)fputs("renewing\n", stderr);
	begin_ns = now_ns();
	for (int64_t i = 0; ok && i < count && atomic_load(&leases->failed) == 0; i++) {
		Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
		uint64_t due_ns = begin_ns + (uint64_t)((double)i * 1e9 / rate), now = now_ns();

		if (due_ns > now)
			(void)usleep((useconds_t)((due_ns - now) / 1000));
		request.id = base + i % bench->keys + 1;
		ok = etcdc_stream_send(streams[i % bench->clients], &request);
	}
	ok = ok && bench_await(&leases->renewed, count, &leases->failed, 60);
	if (ok)
		printf("{\"bench\":\"leases\",\"leases\":%" PRId64 ",\"ttl\":%d,\"count\":%" PRId64
		       ",\"seconds\":%.3f,\"per_second\":%.1f}\n",
		       bench->keys, bench->ttl, count, (double)(now_ns() - begin_ns) / 1e9,
		       (double)count * 1e9 / (double)(now_ns() - begin_ns));
	for (int i = 0; i < bench->clients; i++)
		etcdc_stream_close(streams[i]);
	free(leases);
	return ok ? 0 : 1;
}
