/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agents add: one writer at a steady rate at the first endpoint, one watcher there, and many at the others (dpagents that mirror the
 * first). Each value begins with the put's number, so the arrival of the same event at both ends can be compared; all must arrive.
 * With --kinds K the keys are of K kinds in turns, and each watcher at the agents watches one of them, as an APISIX worker does.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/bench/bench.h"
#include "tests/bench/wire.h"

#define DRAIN_S 30.0
#define PUTS_OPEN 16

struct relay {
	struct bench *bench;
	int64_t puts;
	_Atomic uint64_t *upstream_ns; /* arrival of each put's event upstream; 0: not yet */
	_Atomic int64_t created, ended, answered, failed, upstream_events, events;
	struct side *sides;
};

/* One endpoint's stream. Arrivals are those of its first watcher of each kind. */
struct side {
	struct relay *relay;
	struct etcdc_stream *stream;
	uint64_t *arrived_ns;
	bool is_upstream;
};

/* The number of the put that the event came from; negative: none of ours. */
static int64_t put_of(struct wire event)
{
	struct wire kv, field;
	uint64_t number, value;
	int64_t put;

	while (wire_field(&event, &number, &kv, &value)) {
		if (number != 2) /* Event.kv */
			continue;
		while (wire_field(&kv, &number, &field, &value)) {
			if (number != 5 || field.end - field.at < (ptrdiff_t)sizeof(put)) /* KeyValue.value */
				continue;
			memcpy(&put, field.at, sizeof(put));
			return put;
		}
	}
	return -1;
}

static void on_bytes(void *arg, struct ks_slice bytes)
{
	struct side *side = arg;
	struct relay *relay = side->relay;
	struct wire wire = {bytes.data, bytes.data + bytes.size}, inner;
	uint64_t number, value = 0, watch_id = 0, received_ns = now_ns();
	int64_t events = 0;

	while (wire_field(&wire, &number, &inner, &value)) {
		if (number == 2)
			watch_id = value;
		if (number == 3 && value) /* created */
			atomic_fetch_add(&relay->created, 1);
		if (number != 11)
			continue;
		events++;
		if (side->is_upstream || watch_id < (uint64_t)relay->bench->kinds) {
			int64_t put = put_of(inner);

			if (put < 0 || put >= relay->puts)
				continue;
			if (side->is_upstream)
				atomic_store(&relay->upstream_ns[put], received_ns);
			else
				side->arrived_ns[put] = received_ns;
		}
	}
	atomic_fetch_add(side->is_upstream ? &relay->upstream_events : &relay->events, events);
}

static void on_end(void *arg, const struct etcdc_err *err)
{
	struct side *side = arg;

	atomic_fetch_add(&side->relay->ended, 1);
	(void)fprintf(stderr, "kineshim-bench: a stream ended: %s %s\n", ks_status_name(err->status), err->text);
}

static void open_side(struct side *side, int client, int watchers)
{
	static const struct etcdc_stream_ops ops = {.bytes = on_bytes, .ended = on_end};
	struct etcdc_stream_options options = {.ops = &ops, .arg = side};
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	side->stream = etcdc_stream_open(side->relay->bench->client[client], &etcdc_method_watch, &options);
	for (int i = 0; i < watchers; i++) {
		char key[32] = "bench/relay/", end[32] = "bench/relay0";

		if (!side->is_upstream) {
			(void)snprintf(key, sizeof(key), "bench/relay/%02d/", i % side->relay->bench->kinds);
			(void)snprintf(end, sizeof(end), "bench/relay/%02d0", i % side->relay->bench->kinds);
		}
		create.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
		create.range_end = (ProtobufCBinaryData){strlen(end), (uint8_t *)end};
		(void)etcdc_stream_send(side->stream, &request);
	}
}

/* The writer's client's thread. */
static void on_put(void *arg, const struct etcdc_result *result)
{
	struct relay *relay = arg;

	if (result->err->status != KS_OK && atomic_fetch_add(&relay->failed, 1) == 0)
		(void)fprintf(stderr, "kineshim-bench: %s %s\n", ks_status_name(result->err->status),
			      result->err->text);
	atomic_fetch_add(&relay->answered, 1);
}

static void write_put(struct relay *relay, int64_t put)
{
	static const struct etcdc_call_options options = {.raw = true, .timeout_ms = 60000};
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	struct bench *bench = relay->bench;
	char key[64];
	uint8_t value[4096];
	size_t size = bench->value_size < 8 ? 8 : (size_t)bench->value_size;

	KS_ASSERT(size <= sizeof(value));
	memset(value, 'v', size);
	memcpy(value, &put, sizeof(put));
	(void)snprintf(key, sizeof(key), "bench/relay/%02d/%06" PRId64, (int)(put % bench->kinds), put % bench->keys);
	request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
	request.value = (ProtobufCBinaryData){size, value};
	etcdc_async(bench->client[0], &etcdc_method_put, &request, &options, on_put, relay);
}

/* Each put at its time, with a few in flight, as several writers would: a slow one makes the next ones hurry. The time is until the last one was
 * answered. */
static bool write_all(struct relay *relay, double *seconds)
{
	struct bench *bench = relay->bench;
	uint64_t begin_ns = now_ns();

	for (int64_t put = 0; put < relay->puts; put++) {
		uint64_t due_ns = begin_ns + (uint64_t)((double)put * 1e9 / bench->rate), now = now_ns();

		if (due_ns > now)
			(void)usleep((useconds_t)((due_ns - now) / 1000));
		while (put - atomic_load(&relay->answered) >= PUTS_OPEN)
			(void)usleep(50);
		write_put(relay, put);
	}
	if (!bench_await(&relay->answered, relay->puts, &relay->ended, DRAIN_S) || atomic_load(&relay->failed) > 0)
		return false;
	*seconds = (double)(now_ns() - begin_ns) / 1e9;
	return true;
}

static void compare(const struct relay *relay, struct hist *added)
{
	for (int i = 1; i < relay->bench->clients; i++)
		for (int64_t put = 0; put < relay->puts; put++) {
			uint64_t there = relay->sides[i].arrived_ns[put], here = atomic_load(&relay->upstream_ns[put]);

			/* The agent's may be read first, as both come to this program. */
			hist_add(added, there > here ? (there - here) / 1000 : 0);
		}
}

int bench_relay(struct bench *bench)
{
	struct relay relay = {.bench = bench, .puts = (int64_t)(bench->seconds * bench->rate)};
	struct hist *added = ks_xcalloc(1, sizeof(*added));
	int agents = bench->clients - 1, each = agents ? bench->watchers / agents : 0;
	double seconds = 0, cpu_s = 0;
	int64_t expected;
	bool ok;

	if (each < bench->kinds || relay.puts < bench->kinds) {
		(void)fputs("kineshim-bench: relay needs an upstream, agents, and a watcher for each and each kind\n",
			    stderr);
		free(added);
		return 2;
	}
	relay.puts -= relay.puts % bench->kinds; /* so that all watchers have the same number to get */
	each -= each % bench->kinds;
	expected = relay.puts / bench->kinds * each * agents;
	relay.upstream_ns = ks_xcalloc((size_t)relay.puts, sizeof(*relay.upstream_ns));
	relay.sides = ks_xcalloc((size_t)bench->clients, sizeof(*relay.sides));
	for (int i = 0; i < bench->clients; i++) {
		relay.sides[i] = (struct side){.relay = &relay, .is_upstream = i == 0};
		relay.sides[i].arrived_ns = ks_xcalloc((size_t)relay.puts, sizeof(uint64_t));
		open_side(&relay.sides[i], i, i == 0 ? 1 : each);
	}
	ok = bench_await(&relay.created, 1 + (int64_t)each * agents, &relay.ended, 60);
	cpu_s = cpu_seconds();
	ok = ok && write_all(&relay, &seconds);
	ok = ok && bench_await(&relay.upstream_events, relay.puts, &relay.ended, DRAIN_S) &&
	     bench_await(&relay.events, expected, &relay.ended, DRAIN_S);
	cpu_s = cpu_seconds() - cpu_s;
	if (ok) {
		compare(&relay, added);
		printf("{\"bench\":\"relay\",\"agents\":%d,\"watchers\":%d,\"rate\":%.0f,\"puts_per_second\":%.1f,"
		       "\"per_second\":%.1f,\"count\":%" PRId64,
		       agents, each * agents, bench->rate, (double)relay.puts / seconds, (double)expected / seconds,
		       atomic_load(&relay.events));
		hist_print(added);
		cpu_print(cpu_s, seconds);
		printf("}\n");
	} else {
		(void)fprintf(stderr, "kineshim-bench: %" PRId64 " created, %" PRId64 " of %" PRId64 " events came\n",
			      atomic_load(&relay.created), atomic_load(&relay.events), expected);
	}
	for (int i = 0; i < bench->clients; i++) {
		etcdc_stream_close(relay.sides[i].stream);
		free(relay.sides[i].arrived_ns);
	}
	free(relay.sides);
	free(relay.upstream_ns);
	free(added);
	return ok ? 0 : 1;
}
