/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kineshim-bench: load on any etcd v3 server, the result as one line of JSON. What is measured in numbers, closed loops of unary calls and
 * watchers with their writer, has HTTP/2 of its own (h2_call.h, h2.h), so that the load costs little beside the server; the rest goes through libetcdc.
 *
 * What the parts share: the options of the command line, libetcdc's clients (one connection and one thread each), a histogram of
 * latencies, and the clock.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "client/etcdc.h"

#define BENCH_CLIENTS_MAX 4096
#define BENCH_ENDPOINTS_MAX 64
#define BENCH_PIDS_MAX 64

struct bench {
	const char *endpoints[BENCH_ENDPOINTS_MAX];
	int endpoint_count;
	int clients;  /* connections; each to one of the endpoints */
	int inflight; /* calls that are open at the same time, over all clients */
	int64_t keys; /* size of the key space */
	int64_t from; /* of load: the first key */
	bool filled;  /* the keys are there already */
	int key_size, value_size;
	double seconds; /* measured time, after 'warmup' */
	double warmup;
	int watchers;
	int64_t page; /* keys of a page, of kube-list and page; 0: all at once */
	double rate;  /* puts a second, of relay */
	int kinds;    /* of keys, of relay */
	int ttl;      /* seconds, of leases */
	bool serializable;
	bool rotate;   /* each call on the next client, of which there may be more than calls */
	bool light;    /* unary calls of a closed loop are h2_call.h's, not libetcdc's */
	bool own_keys; /* of watch: a key for each watcher */
	/* The server's, whose memory is looked at, and behind it those of its database. */
	int pids[BENCH_PIDS_MAX];
	int pid_count;
	bool kube;                               /* writes in Kubernetes' shape */
	int64_t kube_revision;                   /* of the key that is written */
	struct etcdc *client[BENCH_CLIENTS_MAX]; /* the first one only, where others do what is measured */
};

/* ---- Latencies: log-linear buckets of microseconds, at most 1.6 % wide. Any thread may add. ---- */

#define HIST_SUB 64
#define HIST_BUCKETS (40 * HIST_SUB)

struct hist {
	_Atomic uint64_t count[HIST_BUCKETS];
	_Atomic uint64_t total, sum_us, max_us;
};

void hist_add(struct hist *hist, uint64_t us);
void hist_add_many(struct hist *hist, uint64_t us, uint64_t count);
uint64_t hist_percentile(const struct hist *hist, double percent);
/* ,"latency_us":{"mean":…,"p50":…,…} */
void hist_print(const struct hist *hist);

/* Processor time that this program has used, and ,"client_cpu":… in cores: near all cores, the client is what was measured. */
double cpu_seconds(void);
void cpu_print(double cpu_s, double seconds);

/* ---- What the processes of --server use; nothing is printed without them ---- */

struct bench_usage {
	int64_t cpu_ns[BENCH_PIDS_MAX]; /* -1: it is gone */
	int64_t rss_kib;                /* of the server */
};

void usage_take(const struct bench *bench, struct bench_usage *usage);
/* ,"NAMEserver_cpu_us":…,"NAMEdatabase_cpu_us":… for each of 'count' operations between the two. */
void usage_print_cpu(const struct bench *bench, const char *name, const struct bench_usage *before,
		     const struct bench_usage *after, double count);
/* ,"NAMErss_kib":[before,after] */
void usage_print_rss(const struct bench *bench, const char *name, const struct bench_usage *before,
		     const struct bench_usage *after);

static inline uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Waits until '*what' is at least 'value'. False when '*broken' is not 0, or after so many seconds. */
bool bench_await(const _Atomic int64_t *what, int64_t value, const _Atomic int64_t *broken, double seconds);
/* "bench/0000…17", key_size bytes and a NUL. */
void bench_key(const struct bench *bench, int64_t number, char *key);
/* Writes keys 0 … keys-1, many in a transaction; false and a message on stderr when that fails. */
bool bench_fill(struct bench *bench);

/* One transaction in Kubernetes' shape: the key must have *mod_revision (0: must not be there), which is then that of the answer. False and a
 * message on stderr when the call failed. */
bool bench_kube_write(struct etcdc *client, const char *key, const uint8_t *value, size_t size, int64_t *mod_revision,
		      bool *succeeded);
/* 0: there is no such key. */
bool bench_mod_revision(struct etcdc *client, const char *key, int64_t *mod_revision);

/* The subcommands print their JSON and return the exit status. */
int bench_put(struct bench *bench);
int bench_get(struct bench *bench);
int bench_range(struct bench *bench);
int bench_page(struct bench *bench); /* a page at a random place of the keys */
int bench_watch(struct bench *bench);
int bench_keepalive(struct bench *bench);
int bench_relay(struct bench *bench); /* the first endpoint is upstream, the others are agents of it */
int bench_kube_create(struct bench *bench);
int bench_kube_update(struct bench *bench);
int bench_kube_delete(struct bench *bench); /* each behind a create, which is not counted */
int bench_kube_list(struct bench *bench);   /* creates 'keys' first */
int bench_many(struct bench *bench);        /* 'watchers' streams with a key each */
int bench_leases(struct bench *bench);      /* 'keys' leases, renewed every third of their time */
int bench_json_watch(struct bench *bench);  /* 'watchers' and 'clients', which put, are connections of HTTP/1.1 */
int bench_load(struct bench *bench);        /* bench_fill, with its rate */
int bench_ready(struct bench *bench); /* waits until a linearizable get succeeds, and says how many keys there are */

#endif
