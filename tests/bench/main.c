/* SPDX-License-Identifier: Apache-2.0 */
/* kineshim-bench: the command line. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

static int usage(void)
{
	(void)fputs("usage: kineshim-bench "
		    "put|get|range|page|kube-create|kube-update|kube-delete|kube-list|watch|many|leases|keepalive|"
		    "relay|json-watch|"
		    "load|ready "
		    "--endpoint HOST:PORT[,…]\n"
		    "         [--clients N] [--inflight N] [--keys N] [--key-size BYTES] [--value-size BYTES]\n"
		    "         [--seconds S] [--warmup S] [--watchers N] [--rate N] [--kinds N] [--page N] [--kube] "
		    "[--ttl S] "
		    "[--serializable] [--user NAME:PASSWORD]\n"
		    "         [--from N] [--filled] [--rotate] [--own-keys] [--server PID[,PID-OF-ITS-DATABASE…]]\n"
		    "         [--grpc]\n"
		    "Closed loops of unary calls have a client of HTTP/2 that costs little; with --grpc, or --user, "
		    "they go through libetcdc.\n",
		    stderr);
	return 2;
}

/* Clients are shared out over the endpoints in turns. */
static bool split_endpoints(struct bench *bench, char *list)
{
	static const char plain[] = "http://"; /* as they all are */
	char *one;

	while ((one = strsep(&list, ","))) {
		if (bench->endpoint_count == BENCH_ENDPOINTS_MAX)
			return false;
		if (strncmp(one, plain, strlen(plain)) == 0)
			one += strlen(plain);
		bench->endpoints[bench->endpoint_count++] = one;
	}
	return true;
}

static int64_t number(const char *text, int64_t least, int64_t most)
{
	char *end;
	long long value = strtoll(text, &end, 10);

	if (*end || value < least || value > most) {
		(void)fprintf(stderr, "kineshim-bench: %s is not between %lld and %lld\n", text, (long long)least,
			      (long long)most);
		exit(2);
	}
	return value;
}

static bool split_pids(struct bench *bench, char *list)
{
	char *one;

	while ((one = strsep(&list, ","))) {
		if (bench->pid_count == BENCH_PIDS_MAX)
			return false;
		bench->pids[bench->pid_count++] = (int)number(one, 1, INT32_MAX);
	}
	return true;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"endpoint", required_argument, NULL, 'e'},
		{"clients", required_argument, NULL, 'c'},
		{"inflight", required_argument, NULL, 'i'},
		{"keys", required_argument, NULL, 'k'},
		{"key-size", required_argument, NULL, 'K'},
		{"value-size", required_argument, NULL, 'V'},
		{"seconds", required_argument, NULL, 's'},
		{"warmup", required_argument, NULL, 'w'},
		{"watchers", required_argument, NULL, 'W'},
		{"serializable", no_argument, NULL, 'S'},
		{"user", required_argument, NULL, 'u'},
		{"rate", required_argument, NULL, 'r'},
		{"kinds", required_argument, NULL, 'D'},
		{"page", required_argument, NULL, 'p'},
		{"kube", no_argument, NULL, 'B'},
		{"ttl", required_argument, NULL, 't'},
		{"from", required_argument, NULL, 'f'},
		{"filled", no_argument, NULL, 'F'},
		{"rotate", no_argument, NULL, 'R'},
		{"own-keys", no_argument, NULL, 'O'},
		{"server", required_argument, NULL, 'P'},
		{"grpc", no_argument, NULL, 'G'},
		{NULL, 0, NULL, 0},
	};
	static const struct {
		const char *name;
		int (*run)(struct bench *bench);
		bool loop; /* of unary calls, which are h2_call.h's */
	} commands[] = {
		{"put", bench_put, true},
		{"get", bench_get, true},
		{"range", bench_range, true},
		{"page", bench_page, true},
		{"watch", bench_watch, false},
		{"keepalive", bench_keepalive, false},
		{"relay", bench_relay, false},
		{"json-watch", bench_json_watch, false},
		{"kube-create", bench_kube_create, true},
		{"kube-update", bench_kube_update, true},
		{"kube-delete", bench_kube_delete, true},
		{"kube-list", bench_kube_list, true},
		{"many", bench_many, false},
		{"leases", bench_leases, false},
		{"load", bench_load, false},
		{"ready", bench_ready, false},
	};
	struct bench bench = {.clients = 2,
			      .inflight = 512,
			      .keys = 1000,
			      .key_size = 32,
			      .value_size = 100,
			      .seconds = 3,
			      .warmup = 0.5,
			      .watchers = 1000,
			      .rate = 500,
			      .kinds = 1,
			      .ttl = 60};
	struct etcdc_config config = {0};
	int (*run)(struct bench * bench) = NULL;
	int option, status, clients;

	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		run = commands[i].run;
		bench.light = commands[i].loop;
	}
	if (!run)
		return usage();
	optind = 2;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'e':
			if (!split_endpoints(&bench, optarg))
				return usage();
			break;
		case 'c':
			bench.clients = (int)number(optarg, 1, BENCH_CLIENTS_MAX);
			break;
		case 'i':
			bench.inflight = (int)number(optarg, 1, 1000000);
			break;
		case 'k':
			bench.keys = number(optarg, 1, INT64_MAX);
			break;
		case 'K':
			bench.key_size = (int)number(optarg, 16, 1024);
			break;
		case 'V':
			bench.value_size = (int)number(optarg, 0, 1 << 20);
			break;
		case 's':
			bench.seconds = strtod(optarg, NULL);
			break;
		case 'w':
			bench.warmup = strtod(optarg, NULL);
			break;
		case 'W':
			bench.watchers = (int)number(optarg, 1, 1000000);
			break;
		case 'r':
			bench.rate = strtod(optarg, NULL);
			break;
		case 'B':
			bench.kube = true;
			break;
		case 'p':
			bench.page = number(optarg, 0, 1000000);
			break;
		case 't':
			bench.ttl = (int)number(optarg, 2, 1000000);
			break;
		case 'D':
			bench.kinds = (int)number(optarg, 1, 99);
			break;
		case 'u':
			config.user = strsep(&optarg, ":");
			config.password = optarg;
			bench.light = false; /* libetcdc knows of tokens */
			break;
		case 'S':
			bench.serializable = true;
			break;
		case 'f':
			bench.from = number(optarg, 0, INT64_MAX);
			break;
		case 'F':
			bench.filled = true;
			break;
		case 'R':
			bench.rotate = true;
			break;
		case 'O':
			bench.own_keys = true;
			break;
		case 'G':
			bench.light = false;
			break;
		case 'P':
			if (!split_pids(&bench, optarg))
				return usage();
			break;
		default:
			return usage();
		}
	}
	if (!bench.endpoint_count)
		return usage();
	if (config.user && (run == bench_watch || run == bench_many)) {
		(void)fputs("kineshim-bench: watchers do not log in\n", stderr);
		return 2;
	}
	if (bench.own_keys && bench.kube) {
		(void)fputs("kineshim-bench: --kube writes one key\n", stderr);
		return 2;
	}
	if (run == bench_relay)
		bench.clients = bench.endpoint_count;
	else if (bench.clients > bench.inflight && !bench.rotate && run != bench_watch && run != bench_many &&
		 run != bench_leases && run != bench_json_watch)
		bench.clients = bench.inflight;
	if (bench.clients < bench.endpoint_count) {
		(void)fputs("kineshim-bench: fewer clients or calls than endpoints\n", stderr);
		return 2;
	}
	/* It speaks HTTP by itself, and its clients are connections. */
	if (run == bench_json_watch)
		return run(&bench);
	/* Else one, for what is not measured. */
	clients = bench.light || run == bench_watch || run == bench_many ? 1 : bench.clients;
	for (int i = 0; i < clients; i++) {
		struct etcdc_err err;

		config.endpoints = &bench.endpoints[i % bench.endpoint_count];
		config.endpoint_count = 1;
		bench.client[i] = config.user ? etcdc_open(&config, &err) : etcdc_open_url(config.endpoints[0], &err);
		if (!bench.client[i]) {
			(void)fprintf(stderr, "kineshim-bench: %s\n", err.text);
			return 1;
		}
	}
	status = run(&bench);
	for (int i = 0; i < clients; i++)
		etcdc_close(bench.client[i]);
	return status;
}
