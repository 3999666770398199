/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that put and get as fast as they can, and watchers that follow, while somebody else (crash.sh) kills servers. At the end
 * every acknowledged write must be there, revisions have no gap, watchers missed nothing and saw nothing twice, and the
 * history is linearizable (history.h).
 *
 *   torture --endpoints host:port[,host:port] [--clients N] [--keys N] [--seconds S] [--watchers N] [--min-acks N] [--seed N]
 *
 * Client i talks to endpoint i modulo their number; watcher i begins there and fails over to the others. Expects a store
 * that nobody else writes to. Exit status: 0 fine, 1 a violation or too little happened, 2 usage.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "client/etcdc.h"
#include "tests/crash/history.h"

#define PREFIX "torture/"
#define MAX_ENDPOINTS 8
#define SETTLE_MS 60000

struct options {
	const char *endpoints[MAX_ENDPOINTS];
	unsigned endpoint_count;
	unsigned clients, keys, seconds, watchers, min_acks, seed;
};

struct run {
	struct options options;
	struct history *history;
	int64_t first; /* revision before the run */
	_Atomic bool stop;
	_Atomic uint64_t next_value;
	_Atomic unsigned resumed, broken;
};

struct client {
	struct run *run;
	unsigned index;
	unsigned random;
	pthread_t thread;
};

struct follower {
	struct run *run;
	unsigned index;
	struct etcdc *client;
	struct etcdc_watcher *watcher;
};

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static unsigned next_random(unsigned *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static struct etcdc *open_client(const struct run *run, unsigned first, bool all)
{
	const char *endpoints[MAX_ENDPOINTS];
	struct etcdc_config config = {.endpoints = endpoints, .timeout_ms = 10000, .connect_timeout_ms = 1000};
	struct etcdc_err err;
	struct etcdc *client;

	config.endpoint_count = all ? run->options.endpoint_count : 1;
	for (unsigned i = 0; i < run->options.endpoint_count; i++)
		endpoints[i] = run->options.endpoints[(first + i) % run->options.endpoint_count];
	client = etcdc_open(&config, &err);
	if (!client) {
		fprintf(stderr, "torture: %s\n", err.text);
		exit(2);
	}
	return client;
}

static ProtobufCBinaryData binary(char *text, size_t size)
{
	return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = size};
}

static unsigned parse_key(const ProtobufCBinaryData *key)
{
	char text[32] = "";

	if (key->len <= strlen(PREFIX) || key->len >= sizeof(text))
		return UINT32_MAX;
	memcpy(text, key->data + strlen(PREFIX), key->len - strlen(PREFIX));
	return (unsigned)strtoul(text, NULL, 10);
}

static uint64_t parse_value(const ProtobufCBinaryData *value)
{
	char text[32] = "";

	if (value->len >= sizeof(text))
		return UINT64_MAX;
	if (value->len)
		memcpy(text, value->data, value->len);
	return strtoull(text, NULL, 10);
}

/* ---- clients ---- */

static void do_put(struct client *self, struct etcdc *client, struct op *op, char *key, size_t key_size)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response = NULL;
	struct etcdc_err err = {0};
	char value[32];

	op->kind = OP_PUT;
	op->value = atomic_fetch_add(&self->run->next_value, 1);
	request.key = binary(key, key_size);
	request.value = binary(value, (size_t)snprintf(value, sizeof(value), "%" PRIu64, op->value));
	op->start_ns = now_ns();
	if (etcdc_put(client, &request, &response, &err) == KS_OK) {
		op->outcome = OP_OK;
		op->mod_revision = op->header_revision = response->header->revision;
	} else {
		op->outcome = err.sent ? OP_UNKNOWN : OP_REFUSED;
	}
	op->end_ns = now_ns();
	etcdc_free(response);
}

static void do_get(struct etcdc *client, struct op *op, char *key, size_t key_size)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response = NULL;

	op->kind = OP_GET;
	op->outcome = OP_UNKNOWN;
	request.key = binary(key, key_size);
	op->start_ns = now_ns();
	if (etcdc_range(client, &request, &response, NULL) == KS_OK) {
		op->outcome = OP_OK;
		op->header_revision = response->header->revision;
		if (response->n_kvs) {
			op->value = parse_value(&response->kvs[0]->value);
			op->mod_revision = response->kvs[0]->mod_revision;
		}
	}
	op->end_ns = now_ns();
	etcdc_free(response);
}

static void *client_run(void *arg)
{
	struct client *self = arg;
	struct etcdc *client = open_client(self->run, self->index, false);

	while (!atomic_load(&self->run->stop)) {
		struct op op = {.client = self->index, .key = next_random(&self->random) % self->run->options.keys};
		char key[32];
		size_t key_size = (size_t)snprintf(key, sizeof(key), PREFIX "%u", op.key);

		if (next_random(&self->random) % 4)
			do_put(self, client, &op, key, key_size);
		else
			do_get(client, &op, key, key_size);
		history_add(self->run->history, &op);
		if (op.outcome != OP_OK)
			sleep_ms(20); /* a killed server needs a moment */
	}
	etcdc_close(client);
	return NULL;
}

/* ---- watchers ---- */

static void on_event(void *arg, const struct etcdc_watch_event *event)
{
	struct follower *self = arg;

	switch (event->kind) {
	case ETCDC_WATCH_EVENTS:
		for (size_t i = 0; i < event->event_count; i++) {
			const Mvccpb__KeyValue *kv = event->events[i]->kv;

			history_told(self->run->history, self->index,
				     &(struct told){.revision = kv->mod_revision,
						    .key = parse_key(&kv->key),
						    .value = parse_value(&kv->value)});
		}
		break;
	case ETCDC_WATCH_RESUMED:
		atomic_fetch_add(&self->run->resumed, 1);
		break;
	case ETCDC_WATCH_COMPACTED:
	case ETCDC_WATCH_CANCELLED:
		fprintf(stderr, "torture: watcher %u was ended: %s\n", self->index, event->text);
		atomic_fetch_add(&self->run->broken, 1);
		break;
	case ETCDC_WATCH_CREATED:
	case ETCDC_WATCH_PROGRESS:
	case ETCDC_WATCH_LOST:
		break;
	}
}

static void start_follower(struct follower *self, struct run *run, unsigned index)
{
	self->run = run;
	self->index = index;
	self->client = open_client(run, index, true);
	self->watcher = etcdc_watch(self->client, &(struct etcdc_watch_options){.key = ks_slice_str(PREFIX),
										.range_end = ks_slice_str("torture0"),
										.start_revision = run->first + 1,
										.on_event = on_event,
										.arg = self});
}

/* ---- the run ---- */

static int64_t current_revision(const struct run *run)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc *client = open_client(run, 0, true);
	Etcdserverpb__RangeResponse *response = NULL;
	struct etcdc_err err;
	int64_t revision = -1;
	char key[] = "x";

	request.key = binary(key, 1);
	for (int64_t end = now_ns() + (int64_t)SETTLE_MS * 1000000; revision < 0 && now_ns() < end;) {
		if (etcdc_range(client, &request, &response, &err) == KS_OK)
			revision = response->header->revision;
		else
			sleep_ms(100);
	}
	if (revision < 0)
		fprintf(stderr, "torture: no server answers: %s\n", err.text);
	etcdc_free(response);
	etcdc_close(client);
	return revision;
}

/* Until every watcher was told of everything, and nothing more came for a while: writes in doubt may still land. */
static bool settle(struct run *run)
{
	int64_t end = now_ns() + (int64_t)SETTLE_MS * 1000000;
	int64_t stable_since = now_ns(), last = 0;

	while (now_ns() < end) {
		int64_t revision = current_revision(run);
		bool all = revision >= 0;

		if (revision != last) {
			last = revision;
			stable_since = now_ns();
		}
		for (unsigned w = 0; w < run->options.watchers; w++) {
			int64_t told = history_last_told(run->history, w);

			all = all && (told == revision || (told == 0 && revision == run->first));
		}
		if (all && now_ns() - stable_since > 500 * 1000000ll)
			return true;
		sleep_ms(50);
	}
	for (unsigned w = 0; w < run->options.watchers; w++)
		fprintf(stderr, "torture: watcher %u was told up to %" PRId64 " of %" PRId64 "\n", w,
			history_last_told(run->history, w), last);
	return false;
}

static unsigned check(struct run *run)
{
	size_t acknowledged = history_acknowledged(run->history);
	unsigned violations = 0;

	violations += history_check_watchers(run->history, run->first, stdout);
	violations += history_check_acknowledged(run->history, stdout);
	violations += history_check_linearizable(run->history, run->first, stdout);
	printf("# %zu acknowledged writes, revisions %" PRId64 " to %" PRId64
	       ", watches resumed %u times, %u violations\n",
	       acknowledged, run->first + 1, history_last_told(run->history, 0), atomic_load(&run->resumed),
	       violations);
	if (acknowledged < run->options.min_acks) {
		printf("# too little happened: at least %u acknowledged writes were expected\n", run->options.min_acks);
		violations++;
	}
	return violations + atomic_load(&run->broken);
}

static int torture(struct run *run)
{
	struct client *clients = ks_xcalloc(run->options.clients, sizeof(*clients));
	struct follower *followers = ks_xcalloc(run->options.watchers, sizeof(*followers));
	unsigned violations;

	run->first = current_revision(run);
	if (run->first < 0)
		return 1;
	run->history = history_new(run->options.watchers);
	atomic_store(&run->next_value, 1);
	for (unsigned i = 0; i < run->options.watchers; i++)
		start_follower(&followers[i], run, i);
	for (unsigned i = 0; i < run->options.clients; i++) {
		clients[i] = (struct client){.run = run, .index = i, .random = run->options.seed * 7919u + i};
		KS_ASSERT(pthread_create(&clients[i].thread, NULL, client_run, &clients[i]) == 0);
	}
	sleep_ms((long)run->options.seconds * 1000);
	atomic_store(&run->stop, true);
	for (unsigned i = 0; i < run->options.clients; i++)
		pthread_join(clients[i].thread, NULL);
	violations = settle(run) ? 0 : 1;
	for (unsigned i = 0; i < run->options.watchers; i++) {
		etcdc_watch_close(followers[i].watcher);
		etcdc_close(followers[i].client);
	}
	violations += check(run);
	history_free(run->history);
	free(clients);
	free(followers);
	return violations ? 1 : 0;
}

static unsigned number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || !*text || value > 1000000) {
		fprintf(stderr, "torture: not a number from 0 to 1000000: %s\n", text);
		exit(2);
	}
	return (unsigned)value;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"endpoints", required_argument, NULL, 'e'}, {"clients", required_argument, NULL, 'c'},
		{"keys", required_argument, NULL, 'k'},      {"seconds", required_argument, NULL, 's'},
		{"watchers", required_argument, NULL, 'w'},  {"min-acks", required_argument, NULL, 'm'},
		{"seed", required_argument, NULL, 'r'},      {NULL, 0, NULL, 0},
	};
	struct run run = {
		.options = {.clients = 16, .keys = 50, .seconds = 10, .watchers = 3, .min_acks = 100, .seed = 1}};
	char *rest = NULL, *endpoint;
	int option;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (option) {
		case 'e':
			for (endpoint = strtok_r(optarg, ",", &rest);
			     endpoint && run.options.endpoint_count < MAX_ENDPOINTS;
			     endpoint = strtok_r(NULL, ",", &rest))
				run.options.endpoints[run.options.endpoint_count++] = endpoint;
			break;
		case 'c':
			run.options.clients = number(optarg);
			break;
		case 'k':
			run.options.keys = number(optarg);
			break;
		case 's':
			run.options.seconds = number(optarg);
			break;
		case 'w':
			run.options.watchers = number(optarg);
			break;
		case 'm':
			run.options.min_acks = number(optarg);
			break;
		case 'r':
			run.options.seed = number(optarg);
			break;
		default:
			return 2;
		}
	}
	if (!run.options.endpoint_count || !run.options.keys || !run.options.watchers) {
		fprintf(stderr, "usage: torture --endpoints host:port[,…] [--clients N] [--keys N] [--seconds S]\n");
		return 2;
	}
	return torture(&run);
}
