/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture: one run against one database that somebody else (run) has started. Writes history.jsonl into --dir, for check.
 *
 *   torture --kineshim PROGRAM --url URL --dir DIR [--db-ports P,…] [--tool SCRIPT] [--nemesis KIND,…] [--instances N]
 *           [--clients N] [--seconds N] [--seed N] [--rss-mb N]
 *
 * The course: start the instances; clients, watchers and the nemesis for the given time; heal everything; let the clients finish;
 * wait until all leases are over and all watchers have seen all; start a fresh instance; ask every instance for its hash and all
 * keys; end the instances as an administrator would.
 *
 * Exit status: 0 the history is whole, whatever it says; 1 it could not be finished; 2 usage.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "tests/torture/torture.h"

#define SERVE_MS 90000  /* until an instance must answer after everything was healed */
#define LEASES_MS 60000 /* until all leases must be over */
#define TOLD_MS 60000
#define CALM_MS 2000 /* clients go on for so long after the last fault */

/* The newest revision that this instance has; -1: it does not answer in time. */
static int64_t await_instance(struct run *run, unsigned number)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct etcdc *client = open_direct(&run->instances[number], 5000);
	Etcdserverpb__RangeResponse *response = NULL;
	struct etcdc_err err = {0};
	int64_t revision = -1;
	char key[] = KEY_PREFIX;

	request.key = (ProtobufCBinaryData){sizeof(key) - 1, (uint8_t *)key};
	for (int64_t end = now_ns() + SERVE_MS * 1000000ll; revision < 0 && now_ns() < end;) {
		if (etcdc_range(client, &request, &response, &err) == KS_OK)
			revision = response->header->revision;
		else
			sleep_ms(100);
	}
	if (revision < 0)
		complain(run, "%s does not answer: %s", run->instances[number].name, err.text);
	etcdc_free(response);
	etcdc_close(client);
	return revision;
}

/* Nobody keeps them alive any more. */
static void await_end_of_leases(struct run *run)
{
	Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	struct etcdc *client = open_direct(&run->instances[0], 5000);
	size_t left = SIZE_MAX;

	for (int64_t end = now_ns() + LEASES_MS * 1000000ll; left && now_ns() < end; sleep_ms(200)) {
		Etcdserverpb__LeaseLeasesResponse *response = NULL;

		if (etcdc_lease_leases(client, &request, &response, NULL) == KS_OK)
			left = response->n_leases;
		etcdc_free(response);
	}
	if (left)
		complain(run, "%zu leases do not end", left);
	etcdc_close(client);
}

static void ask_hash(struct run *run, unsigned number, struct etcdc *client, int64_t revision)
{
	Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
	Etcdserverpb__HashKVResponse *response = NULL;
	struct hash_record record = {0};
	struct etcdc_err err = {0};

	request.revision = revision;
	if (etcdc_hash_kv(client, &request, &response, &err) != KS_OK) {
		complain(run, "%s has no hash: %s", run->instances[number].name, err.text);
		return;
	}
	snprintf(record.instance, sizeof(record.instance), "%s", run->instances[number].name);
	record.revision = revision;
	record.compact_revision = response->compact_revision;
	record.hash = response->hash;
	record_hash(run, &record);
	etcdc_free(response);
}

static void ask_instance(struct run *run, unsigned number, int64_t revision)
{
	struct etcdc *client = open_direct(&run->instances[number], 10000);

	ask_hash(run, number, client, revision);
	if (!record_dump(run, client, "dump", revision))
		complain(run, "%s gives no keys", run->instances[number].name);
	etcdc_close(client);
}

/* One more on the same database; a file takes only one at a time. */
static unsigned start_fresh(struct run *run)
{
	unsigned fresh = run->options.db_port_count ? run->options.instances : 0;

	if (!fresh)
		instance_stop(run, 0);
	instance_start(run, fresh);
	return fresh;
}

/* After everything was healed. The last revision; 0: it did not get there. */
static int64_t finish(struct run *run, struct watchers *watchers)
{
	struct etcdc *client;
	int64_t last, compacted;
	unsigned fresh;

	for (unsigned i = 0; i < run->options.instances; i++)
		if (await_instance(run, i) < 0)
			return 0;
	await_end_of_leases(run);
	client = open_direct(&run->instances[0], 10000);
	last = record_marker(run, client);
	etcdc_close(client);
	if (!last) {
		complain(run, "the last writes failed");
		return 0;
	}
	say("the last revision is %" PRId64, last);
	(void)watchers_await(watchers, last, TOLD_MS);
	for (unsigned i = 0; i < run->options.instances; i++)
		ask_instance(run, i, last);
	fresh = start_fresh(run);
	if (await_instance(run, fresh) < 0)
		return 0;
	ask_instance(run, fresh, last);
	compacted = atomic_load(&run->compact_asked);
	watchers_add_fresh(watchers, &run->instances[fresh], (compacted > run->first ? compacted : run->first) + 1);
	(void)watchers_await(watchers, last, TOLD_MS);
	return last;
}

static bool torture(struct run *run)
{
	struct watchers *watchers;
	struct clients *clients;
	struct nemesis *nemesis;
	pthread_t care;
	int64_t last;

	instances_open(run);
	for (unsigned i = 0; i < run->options.instances; i++)
		instance_start(run, i);
	KS_ASSERT(pthread_create(&care, NULL, instances_care, run) == 0);
	for (unsigned i = 0; i < run->options.instances; i++) {
		run->first = await_instance(run, i);
		if (run->first < 0)
			return false;
	}
	atomic_store(&run->newest, run->first);
	history_write_start(run->history, run->first);
	watchers = watchers_start(run);
	clients = clients_start(run);
	nemesis = nemesis_start(run);
	sleep_ms((long)run->options.seconds * 1000);
	say("healing");
	nemesis_stop(nemesis);
	sleep_ms(CALM_MS);
	clients_stop(clients);
	say("clients are done, revision %" PRId64, atomic_load(&run->newest));
	last = finish(run, watchers);
	watchers_stop(watchers);
	atomic_store(&run->stop_care, true);
	pthread_join(care, NULL);
	for (unsigned i = 0; i <= run->options.instances; i++)
		instance_stop(run, i);
	instances_close(run);
	instances_overtaken(run);
	return last && history_write_end(run->history, last);
}

static unsigned number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || !*text || value > UINT32_MAX) {
		fprintf(stderr, "torture: not a number from 0 to 4294967295: %s\n", text);
		exit(2);
	}
	return (unsigned)value;
}

static void parse_ports(struct options *options, char *text)
{
	char *rest = NULL;

	for (char *port = strtok_r(text, ",", &rest); port && options->db_port_count < MAX_INSTANCES;
	     port = strtok_r(NULL, ",", &rest))
		options->db_ports[options->db_port_count++] = (int)number(port);
}

static bool parse(struct options *options, int argc, char **argv)
{
	static const struct option longs[] = {
		{"kineshim", required_argument, NULL, 'k'},  {"url", required_argument, NULL, 'u'},
		{"dir", required_argument, NULL, 'd'},       {"db-ports", required_argument, NULL, 'p'},
		{"tool", required_argument, NULL, 't'},      {"nemesis", required_argument, NULL, 'n'},
		{"instances", required_argument, NULL, 'i'}, {"clients", required_argument, NULL, 'c'},
		{"seconds", required_argument, NULL, 's'},   {"seed", required_argument, NULL, 'r'},
		{"rss-mb", required_argument, NULL, 'm'},    {NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (option) {
		case 'k':
			options->kineshim = optarg;
			break;
		case 'u':
			options->url = optarg;
			break;
		case 'd':
			options->dir = optarg;
			break;
		case 'p':
			parse_ports(options, optarg);
			break;
		case 't':
			options->tool = optarg;
			break;
		case 'n':
			options->nemesis = optarg;
			break;
		case 'i':
			options->instances = number(optarg);
			break;
		case 'c':
			options->clients = number(optarg);
			break;
		case 's':
			options->seconds = number(optarg);
			break;
		case 'r':
			options->seed = number(optarg);
			break;
		case 'm':
			options->rss_mb = number(optarg);
			break;
		default:
			return false;
		}
	}
	return optind == argc && options->kineshim && options->url && options->dir && options->instances > 0 &&
	       options->instances <= MAX_INSTANCES;
}

int main(int argc, char **argv)
{
	static struct run run = {.options = {.nemesis = "", .instances = 3, .clients = 16, .seconds = 30, .seed = 1},
				 .instances_mutex = PTHREAD_MUTEX_INITIALIZER,
				 .history_mutex = PTHREAD_MUTEX_INITIALIZER};
	char path[600];
	bool fine;

	if (!parse(&run.options, argc, argv)) {
		fprintf(stderr,
			"usage: torture --kineshim PROGRAM --url URL --dir DIR [--db-ports P,…] [--tool SCRIPT]\n"
			"               [--nemesis KIND,…] [--instances N] [--clients N] [--seconds N] [--seed N]\n"
			"               [--rss-mb N]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	atomic_store(&run.next_value, 1);
	atomic_store(&run.next_lease, 1);
	snprintf(path, sizeof(path), "%s/history.jsonl", run.options.dir);
	run.history = fopen(path, "we");
	if (!run.history) {
		perror(path);
		return 1;
	}
	say("seed %u, %u instances, %u clients, %u s", run.options.seed, run.options.instances, run.options.clients,
	    run.options.seconds);
	fine = torture(&run);
	if (run.write_failed)
		say("the history could not be written");
	fine = fclose(run.history) == 0 && fine && !run.write_failed;
	return fine ? 0 : 1;
}
