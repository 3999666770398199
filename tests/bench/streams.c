/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: one writer and many watchers of its key, and lease keep-alives.
 *
 * The value of each put begins with the time at which it was sent, so every event tells how old it is (watchers.h).
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "base/thread.h"
#include "tests/bench/bench.h"
#include "tests/bench/watchers.h"
#include "tests/bench/writer.h"

#define STREAMS_PER_CLIENT 2
#define WATCHED "/bench/watch"

/* ---- Watch ---- */

/* The key of a watcher. */
static void watched_key(const struct bench *bench, int64_t number, char key[48])
{
	if (bench->own_keys)
		(void)snprintf(key, 48, WATCHED "/%08" PRId64, number);
	else
		(void)snprintf(key, 48, WATCHED);
}

/* With --kube in the shape that kine takes. What an earlier run left is overwritten: the first write then says what is there. */
static bool kube_one(struct bench *bench, struct bench_writer *writer, struct ks_slice value)
{
	bool succeeded = false;

	for (int attempts = 0; attempts < 2 && !succeeded; attempts++) {
		if (!bench_writer_kube(writer, WATCHED, value, &bench->kube_revision, &succeeded))
			return false;
		if (!succeeded && !bench_mod_revision(bench->client[0], WATCHED, &bench->kube_revision))
			return false;
	}
	return succeeded;
}

/* With --own-keys a write has one event, at another watcher than the one before. */
static bool write_one(struct bench *bench, struct bench_writer *writer, int64_t serial, struct hist *hist)
{
	char key[48];
	uint8_t value[4096];
	uint64_t sent_ns = now_ns();
	size_t size = bench->value_size < 8 ? 8 : (size_t)bench->value_size;

	KS_ASSERT(size <= sizeof(value));
	memset(value, 'v', size);
	memcpy(value, &sent_ns, sizeof(sent_ns));
	watched_key(bench, serial * 7919 % bench->watchers, key);
	if (!(bench->kube ? kube_one(bench, writer, ks_slice_of(value, size))
			  : bench_writer_put(writer, key, ks_slice_of(value, size))))
		return false;
	if (hist)
		hist_add(hist, (now_ns() - sent_ns) / 1000);
	return true;
}

static int64_t events_of_a_put(const struct bench *bench)
{
	return bench->own_keys ? 1 : bench->watchers;
}

/*
 * The writer sends the next put when the last one was answered and all watchers have at most 'inflight' puts to catch up; so the
 * rate is what the server delivers, and the latency is not that of an ever longer queue.
 */
static bool write_and_count(struct bench *bench, struct bench_writer *writer, struct watchers *watchers,
			    struct hist *puts, double *seconds, int64_t *count)
{
	uint64_t begin_ns = now_ns(), end_ns = begin_ns + (uint64_t)(bench->seconds * 1e9);
	int64_t before = atomic_load(&watchers->events), written = 0, each = events_of_a_put(bench);

	while (now_ns() < end_ns) {
		if (!write_one(bench, writer, written, puts))
			return false;
		written++;
		if (!watchers_await(watchers, before + (written - bench->inflight) * each))
			return false;
	}
	if (!watchers_await(watchers, before + written * each))
		return false;
	*seconds = (double)(now_ns() - begin_ns) / 1e9;
	*count = atomic_load(&watchers->events) - before;
	return *count == written * each;
}

int bench_watch(struct bench *bench)
{
	struct watchers *watchers = ks_xcalloc(1, sizeof(*watchers));
	struct hist *puts = ks_xcalloc(1, sizeof(*puts));
	struct bench_writer writer;
	/* The first client is the writer's. */
	int connections = bench->clients > 1 ? bench->clients - 1 : 1, streams = connections * STREAMS_PER_CLIENT;
	size_t numbers[BENCH_CLIENTS_MAX * STREAMS_PER_CLIENT];
	struct bench_usage idle = {0}, created = {0}, after = {0};
	double seconds = 0, created_s = 0, cpu_s;
	int64_t count = 0;
	uint64_t begin_ns;
	bool ok = watchers_open(watchers, bench, bench->clients > 1 ? 1 : 0, connections);

	ok = bench_writer_open(&writer, bench) && ok;
	for (int i = 0; ok && i < streams; i++)
		numbers[i] = h2_stream_open(watchers->connection[i % connections].h2);
	usage_take(bench, &idle);
	begin_ns = now_ns();
	for (int i = 0; ok && i < bench->watchers; i++) {
		char key[48];

		watched_key(bench, i, key);
		ok = watchers_create(&watchers->connection[i % streams % connections], numbers[i % streams], key);
	}
	ok = ok && bench_await(&watchers->created, bench->watchers, &watchers->ended, 60);
	created_s = (double)(now_ns() - begin_ns) / 1e9;
	for (int i = 0; ok && i < 20; i++)
		ok = write_one(bench, &writer, i, NULL);
	ok = ok && watchers_await(watchers, 20 * events_of_a_put(bench));
	atomic_store(&watchers->measuring, true);
	cpu_s = cpu_seconds();
	usage_take(bench, &created);
	ok = ok && write_and_count(bench, &writer, watchers, puts, &seconds, &count);
	cpu_s = cpu_seconds() - cpu_s;
	usage_take(bench, &after);
	if (ok) {
		double puts_done = (double)count / (double)events_of_a_put(bench);

		printf("{\"bench\":\"watch\",\"watchers\":%d,\"streams\":%d,\"inflight\":%d,\"per_second\":%.1f,"
		       "\"count\":%" PRId64 ",\"puts_per_second\":%.1f,\"events_per_response\":%.2f",
		       bench->watchers, streams, bench->inflight, (double)count / seconds, count, puts_done / seconds,
		       (double)atomic_load(&watchers->events) / (double)atomic_load(&watchers->responses));
		hist_print(&watchers->hist);
		usage_print_cpu(bench, "", &created, &after, puts_done);
		usage_print_rss(bench, "", &idle, &created);
		cpu_print(cpu_s, seconds);
		printf(",\"created_seconds\":%.4f", created_s);
		printf(",\"put_p50_us\":%" PRIu64 ",\"put_p99_us\":%" PRIu64 "}\n", hist_percentile(puts, 50),
		       hist_percentile(puts, 99));
	} else {
		(void)fprintf(stderr,
			      "kineshim-bench: %" PRId64 " watchers created, %" PRId64 " events: events are missing\n",
			      atomic_load(&watchers->created), atomic_load(&watchers->events));
	}
	watchers_close(watchers);
	bench_writer_close(&writer);
	free(puts);
	free(watchers);
	return ok ? 0 : 1;
}

/* ---- Keep-alive: each stream has its share of requests open ---- */

struct keepalives;

struct keepalive_stream {
	struct keepalives *all;
	struct etcdc_stream *stream;
	int64_t lease;
	uint64_t sent_ns; /* of the oldest open request, roughly: answers come in order */
};

struct keepalives {
	_Atomic int64_t answered, ended;
	atomic_bool measuring, stopping;
	struct hist hist;
};

static void keepalive_send(struct keepalive_stream *one)
{
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;

	request.id = one->lease;
	one->sent_ns = now_ns();
	(void)etcdc_stream_send(one->stream, &request);
}

static void keepalive_bytes(void *arg, struct ks_slice bytes)
{
	struct keepalive_stream *one = arg;

	(void)bytes;
	if (atomic_load_explicit(&one->all->measuring, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&one->all->answered, 1, memory_order_relaxed);
		hist_add(&one->all->hist, (now_ns() - one->sent_ns) / 1000);
	}
	if (!atomic_load_explicit(&one->all->stopping, memory_order_relaxed))
		keepalive_send(one);
}

static void keepalive_ended(void *arg, const struct etcdc_err *err)
{
	struct keepalive_stream *one = arg;

	if (!atomic_load(&one->all->stopping))
		(void)fprintf(stderr, "kineshim-bench: a stream ended: %s %s\n", ks_status_name(err->status),
			      err->text);
	atomic_fetch_add(&one->all->ended, 1);
}

int bench_keepalive(struct bench *bench)
{
	static const struct etcdc_stream_ops ops = {.bytes = keepalive_bytes, .ended = keepalive_ended};
	struct keepalives *all = ks_xcalloc(1, sizeof(*all));
	struct keepalive_stream *streams = ks_xcalloc((size_t)bench->inflight, sizeof(*streams));
	uint64_t begin_ns, end_ns;
	double cpu_s;
	int64_t answered;
	int opened = 0, status;

	for (; opened < bench->inflight; opened++) {
		struct keepalive_stream *one = &streams[opened];
		struct etcdc_stream_options options = {.ops = &ops, .arg = one};
		Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
		Etcdserverpb__LeaseGrantResponse *granted;
		struct etcdc_err err;
		struct etcdc *client = bench->client[opened % bench->clients];

		grant.ttl = 3600;
		if (etcdc_lease_grant(client, &grant, &granted, &err) != KS_OK) {
			(void)fprintf(stderr, "kineshim-bench: %s\n", err.text);
			break;
		}
		one->all = all;
		one->lease = granted->id;
		etcdc_free(granted);
		one->stream = etcdc_stream_open(client, &etcdc_method_lease_keep_alive, &options);
		keepalive_send(one);
	}
	(void)usleep((useconds_t)(bench->warmup * 1e6));
	cpu_s = cpu_seconds();
	begin_ns = now_ns();
	atomic_store(&all->measuring, true);
	(void)usleep((useconds_t)(bench->seconds * 1e6));
	atomic_store(&all->measuring, false);
	answered = atomic_load(&all->answered);
	end_ns = now_ns();
	cpu_s = cpu_seconds() - cpu_s;
	atomic_store(&all->stopping, true);
	status = opened == bench->inflight && atomic_load(&all->ended) == 0 && answered > 0 ? 0 : 1;
	printf("{\"bench\":\"keepalive\",\"streams\":%d,\"per_second\":%.1f,\"count\":%" PRId64, opened,
	       (double)answered * 1e9 / (double)(end_ns - begin_ns), answered);
	hist_print(&all->hist);
	cpu_print(cpu_s, (double)(end_ns - begin_ns) / 1e9);
	printf("}\n");
	for (int i = 0; i < opened; i++)
		etcdc_stream_close(streams[i].stream);
	free(streams);
	free(all);
	return status;
}
