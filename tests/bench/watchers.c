/* SPDX-License-Identifier: Apache-2.0 */
/* See watchers.h. */
#include "tests/bench/watchers.h"

#include <string.h>

#include "base/buf.h"
#include "base/panic.h"
#include "tests/bench/wire.h"

#define PATIENCE_MS 60000

/* Events that come together are mostly of the same put. */
static void count_age(struct watchers_connection *connection, uint64_t us)
{
	if (us != connection->us && connection->aged) {
		hist_add_many(&connection->watchers->hist, connection->us, connection->aged);
		connection->aged = 0;
	}
	connection->us = us;
	connection->aged++;
}

static void count_event(struct watchers_connection *connection, struct wire event, uint64_t received_ns)
{
	struct wire kv, field;
	uint64_t number, value, sent_ns;

	while (wire_field(&event, &number, &kv, &value)) {
		if (number != 2) /* Event.kv */
			continue;
		while (wire_field(&kv, &number, &field, &value)) {
			if (number != 5 || field.end - field.at < (ptrdiff_t)sizeof(sent_ns)) /* KeyValue.value */
				continue;
			memcpy(&sent_ns, field.at, sizeof(sent_ns));
			count_age(connection, received_ns > sent_ns ? (received_ns - sent_ns) / 1000 : 0);
		}
	}
}

static void take_response(void *arg, struct ks_slice response, uint64_t received_ns)
{
	struct watchers_connection *connection = arg;
	struct wire wire = {response.data, response.data + response.size}, inner;
	bool measuring = atomic_load_explicit(&connection->watchers->measuring, memory_order_relaxed);
	uint64_t number, value = 0;
	int64_t before = connection->events;

	while (wire_field(&wire, &number, &inner, &value)) {
		if (number == 3 && value) /* created */
			atomic_fetch_add(&connection->watchers->created, 1);
		if (number != 11) /* events */
			continue;
		connection->events++;
		if (measuring)
			count_event(connection, inner, received_ns);
	}
	connection->responses += connection->events > before;
}

static void wake(struct watchers *watchers)
{
	ks_mutex_lock(&watchers->mutex);
	ks_cond_signal(&watchers->came);
	ks_mutex_unlock(&watchers->mutex);
}

static void tell(void *arg)
{
	struct watchers_connection *connection = arg;
	struct watchers *watchers = connection->watchers;

	if (connection->aged)
		hist_add_many(&watchers->hist, connection->us, connection->aged);
	/* Last: whoever waits for all events looks at the rest then. */
	if (connection->events) {
		atomic_fetch_add(&watchers->responses, connection->responses);
		if (atomic_fetch_add(&watchers->events, connection->events) + connection->events >=
		    atomic_load(&watchers->awaited))
			wake(watchers);
	}
	connection->events = connection->responses = 0;
	connection->aged = 0;
}

static void note_end(void *arg)
{
	const struct watchers_connection *connection = arg;

	atomic_fetch_add(&connection->watchers->ended, 1);
	wake(connection->watchers);
}

bool watchers_await(struct watchers *watchers, int64_t events)
{
	bool in_time = true;

	if (atomic_load(&watchers->events) >= events)
		return atomic_load(&watchers->ended) == 0;
	ks_mutex_lock(&watchers->mutex);
	atomic_store(&watchers->awaited, events); /* before the look: who adds the last one sees it, or is seen */
	while (in_time && atomic_load(&watchers->events) < events && atomic_load(&watchers->ended) == 0)
		in_time = ks_cond_wait(&watchers->came, &watchers->mutex, PATIENCE_MS);
	atomic_store(&watchers->awaited, INT64_MAX);
	ks_mutex_unlock(&watchers->mutex);
	return in_time && atomic_load(&watchers->ended) == 0;
}

bool watchers_open(struct watchers *watchers, const struct bench *bench, int first, int count)
{
	static const struct h2_ops ops = {.message = take_response, .pause = tell, .ended = note_end};

	atomic_store(&watchers->awaited, INT64_MAX);
	ks_mutex_init(&watchers->mutex);
	ks_cond_init(&watchers->came);
	for (int i = 0; i < count; i++) {
		struct watchers_connection *connection = &watchers->connection[i];

		connection->watchers = watchers;
		connection->h2 = h2_open(bench->endpoints[(first + i) % bench->endpoint_count],
					 "/etcdserverpb.Watch/Watch", &ops, connection);
		if (!connection->h2)
			return false;
		watchers->count++;
	}
	return true;
}

/* WatchRequest.create_request.key */
bool watchers_create(struct watchers_connection *connection, size_t stream, const char *key)
{
	size_t size = strlen(key);
	struct ks_buf buf;
	bool sent;

	ks_buf_init(&buf, 4096);
	ks_wire_nested(&buf, 1, ks_wire_bytes_size(1, size));
	ks_wire_bytes(&buf, 1, ks_slice_of((const uint8_t *)key, size));
	KS_ASSERT(!buf.failed);
	sent = h2_send(connection->h2, stream, ks_slice_of(buf.data, buf.size));
	ks_buf_fini(&buf);
	return sent;
}

void watchers_close(struct watchers *watchers)
{
	for (int i = 0; i < watchers->count; i++)
		h2_close(watchers->connection[i].h2);
	ks_cond_fini(&watchers->came);
	ks_mutex_fini(&watchers->mutex);
}
