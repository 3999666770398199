/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one server has acknowledged, each other server shows at once: for every ordered pair of endpoints some threads put through the
 * first, wait for the answer, and read through the second. A linearizable read that does not show that very put, at its
 * revision, is stale. So is one whose header has an older revision.
 *
 *   causal --endpoints host:port,host:port[,…] [--rounds N]
 *
 * N rounds together (default 10000). Exit status: 0 fine, 1 a stale read or a failed call, 2 usage.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/panic.h"
#include "client/etcdc.h"

/* LANES: threads for each pair, so that the time goes into rounds and not into waiting for commits. */
enum { MAX_ENDPOINTS = 8, SHOWN = 5, LANES = 3 };

struct pair {
	const char *from, *to;
	unsigned index, rounds;
	unsigned stale, failed;
	int64_t read_ns; /* all reads together */
	pthread_t thread;
};

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static struct etcdc *open_client(const char *endpoint)
{
	struct etcdc_err err;
	struct etcdc *client = etcdc_open(&(struct etcdc_config){.endpoints = &endpoint, .endpoint_count = 1}, &err);

	if (!client) {
		fprintf(stderr, "causal: %s\n", err.text);
		exit(2);
	}
	return client;
}

static ProtobufCBinaryData binary(char *text)
{
	return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
}

/* The revision of the put, 0 when it failed. */
static int64_t put(struct etcdc *client, char *key, char *value)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response = NULL;
	struct etcdc_err err = {0};
	int64_t revision = 0;

	request.key = binary(key);
	request.value = binary(value);
	if (etcdc_put(client, &request, &response, &err) == KS_OK)
		revision = response->header->revision;
	else
		printf("# put: %s\n", err.text);
	etcdc_free(response);
	return revision;
}

static void look(struct pair *pair, struct etcdc *client, char *key, const char *value, int64_t revision)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response = NULL;
	struct etcdc_err err = {0};
	int64_t start = now_ns();

	request.key = binary(key);
	if (etcdc_range(client, &request, &response, &err) != KS_OK) {
		printf("# get: %s\n", err.text);
		pair->failed++;
	} else if (response->n_kvs != 1 || response->kvs[0]->mod_revision != revision ||
		   response->header->revision < revision || response->kvs[0]->value.len != strlen(value) ||
		   memcmp(response->kvs[0]->value.data, value, strlen(value)) != 0) {
		if (++pair->stale <= SHOWN)
			printf("# %s put %s at %" PRId64 ", and then %s showed revision %" PRId64 " of it at %" PRId64
			       "\n",
			       pair->from, key, revision, pair->to,
			       response->n_kvs ? response->kvs[0]->mod_revision : 0, response->header->revision);
	}
	pair->read_ns += now_ns() - start;
	etcdc_free(response);
}

static void *run(void *arg)
{
	struct pair *pair = arg;
	struct etcdc *from = open_client(pair->from), *to = open_client(pair->to);

	for (unsigned i = 0; i < pair->rounds; i++) {
		char key[32], value[32];
		int64_t revision;

		snprintf(key, sizeof(key), "causal/%u", pair->index);
		snprintf(value, sizeof(value), "%u", i);
		revision = put(from, key, value);
		if (revision > 0)
			look(pair, to, key, value, revision);
		else
			pair->failed++;
	}
	etcdc_close(from);
	etcdc_close(to);
	return NULL;
}

static int run_all(const char *const *endpoints, unsigned count, unsigned rounds)
{
	unsigned pair_count = count * (count - 1) * LANES, n = 0, stale = 0, failed = 0;
	struct pair *pairs = ks_xcalloc(pair_count, sizeof(*pairs));
	int64_t read_ns = 0, start = now_ns();

	for (unsigned from = 0; from < count; from++) {
		for (unsigned lane = 0; lane < count * LANES; lane++) {
			unsigned to = lane / LANES;

			if (from == to)
				continue;
			pairs[n] = (struct pair){.from = endpoints[from],
						 .to = endpoints[to],
						 .index = n,
						 .rounds = rounds / pair_count + (n < rounds % pair_count)};
			KS_ASSERT(pthread_create(&pairs[n].thread, NULL, run, &pairs[n]) == 0);
			n++;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(pairs[i].thread, NULL);
		stale += pairs[i].stale;
		failed += pairs[i].failed;
		read_ns += pairs[i].read_ns;
	}
	printf("# %u rounds in %.1f s, %.2f ms a read, %u stale, %u failed\n", rounds, (double)(now_ns() - start) / 1e9,
	       (double)read_ns / 1e6 / rounds, stale, failed);
	free(pairs);
	return stale || failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"endpoints", required_argument, NULL, 'e'},
					      {"rounds", required_argument, NULL, 'n'},
					      {NULL, 0, NULL, 0}};
	const char *endpoints[MAX_ENDPOINTS];
	unsigned count = 0, rounds = 10000;
	char *rest = NULL, *endpoint, *end = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (option) {
		case 'e':
			for (endpoint = strtok_r(optarg, ",", &rest); endpoint && count < MAX_ENDPOINTS;
			     endpoint = strtok_r(NULL, ",", &rest))
				endpoints[count++] = endpoint;
			break;
		case 'n':
			rounds = (unsigned)strtoul(optarg, &end, 10);
			if (*end || rounds == 0 || rounds > 100000000)
				return 2;
			break;
		default:
			return 2;
		}
	}
	if (count < 2) {
		fprintf(stderr, "usage: causal --endpoints host:port,host:port[,…] [--rounds N]\n");
		return 2;
	}
	return run_all(endpoints, count, rounds);
}
