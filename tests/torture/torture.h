/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of the torture: instances of kineshim behind relays, clients and watchers that record what they do and see, and a
 * nemesis. main.c has the course of a run; what it found out is for the checker to say (check.h).
 *
 * Threads: main; one for each client; one for the watcher that comes and goes; two of the nemesis; one that looks after the
 * instances; etcdc's own, which call back the watchers. The history is written under its mutex, instances are changed under theirs.
 */
#ifndef TESTS_TORTURE_TORTURE_H
#define TESTS_TORTURE_TORTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "client/etcdc.h"
#include "tests/torture/history.h"
#include "tests/torture/relay.h"

#define MAX_INSTANCES 8
#define MAX_WATCHERS 16
#define REFERENCES 3 /* watchers of everything, which compactions wait for */
#define KEY_PREFIX "torture/"
#define KEY_END "torture0"

struct options {
	const char *kineshim; /* the program */
	const char *url;      /* endpoint of the database, with %p for the port */
	const char *tool;     /* script that does things to the database: see nemesis.c */
	const char *dir;      /* of logs and the history */
	const char *nemesis;  /* kinds of faults, separated by commas */
	int db_ports[MAX_INSTANCES];
	unsigned db_port_count; /* 0: the database is a file */
	unsigned instances, clients, seconds, seed, rss_mb;
};

/* All but the relays under run.instances_mutex. */
struct instance {
	char name[HISTORY_NAME];
	pid_t pid; /* 0: does not run */
	bool wanted, paused;
	int port, client_port;            /* its own, and that of the relay before it */
	struct relay *clients, *database; /* NULL: none */
	char url[512];
};

struct run {
	struct options options;
	int64_t first; /* revision before the run */
	_Atomic bool stop_clients, stop_nemesis, stop_care;
	_Atomic int64_t next_value, next_lease;
	_Atomic int64_t newest;                 /* the newest revision anybody saw */
	_Atomic int64_t compact_asked;          /* the newest that anybody asked for */
	_Atomic int64_t told[MAX_WATCHERS + 1]; /* each watcher is past this revision */
	pthread_mutex_t instances_mutex;
	struct instance instances[MAX_INSTANCES + 1]; /* the last is the fresh one */
	pthread_mutex_t history_mutex;
	FILE *history;
	bool write_failed;
	size_t complaints;
};

/* ---- util.c ---- */

int64_t now_ns(void);
void sleep_ms(long ms);
/* A better spread than rand_r's, for drawing; 'below' > 0. */
unsigned draw(uint64_t *state, unsigned below);
void see_revision(_Atomic int64_t *newest, int64_t revision);
void record_op(struct run *run, const struct op *op);
void record_watch(struct run *run, const struct watch_record *record);
void record_hash(struct run *run, const struct hash_record *record);
/* Also to the log, with time. */
void record_fault(struct run *run, const char *kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A violation that the history does not show. */
void complain(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A client whose endpoints begin with that of instance 'first'. NULL never comes back. */
struct etcdc *open_client(const struct run *run, unsigned first, bool all, int64_t timeout_ms);
struct etcdc *open_direct(const struct instance *instance, int64_t timeout_ms);

/* ---- keys.c: keys and values as numbers, and as etcd has them ---- */

#define KEY_SIZE 24
#define VALUE_SIZE 24576

size_t key_text(int key, char text[KEY_SIZE]);
/* -1: not one of ours. */
int key_number(ProtobufCBinaryData key);
/* Every so-manieth value is large, so that there is a middle to be cut in. */
#define LARGE_EVERY 97
size_t value_text(int64_t value, char text[VALUE_SIZE]);
/* -1: not one of ours, or damaged. */
int64_t value_number(ProtobufCBinaryData value);
struct kv kv_of(const Mvccpb__KeyValue *kv);

/* ---- instances.c ---- */

void instances_open(struct run *run);
void instances_close(struct run *run);
void instance_start(struct run *run, unsigned number);
void instance_kill(struct run *run, unsigned number); /* -9 */
/* Asks it to end, and waits; a complaint when it does not end well. */
void instance_stop(struct run *run, unsigned number);
void instance_pause(struct run *run, unsigned number, bool paused);
/* Looks after them until stop_care: one that ended by itself is a complaint, and started again. */
void *instances_care(void *run);
/* Writes down which instances say in their logs that they were overtaken by a compaction. */
void instances_overtaken(struct run *run);

/* ---- clients.c, watchers.c ---- */

struct clients;
struct clients *clients_start(struct run *run);
void clients_stop(struct clients *clients);
/* A range of everything at 'revision' from that client, recorded under 'name'. False: no answer. */
bool record_dump(struct run *run, struct etcdc *client, const char *name, int64_t revision);
/* Puts one key in each group, so that every watcher has something to see. The revision; 0: no answer. */
int64_t record_marker(struct run *run, struct etcdc *client);

/* A put of a large value. */
void record_large_put(struct run *run, struct etcdc *client);

struct watchers;
struct watchers *watchers_start(struct run *run);
/* Waits until all were told of all up to 'revision', as far as it is theirs. */
bool watchers_await(struct watchers *watchers, int64_t revision, int64_t wait_ms);
/* One more of everything, from 'start' on. */
void watchers_add_fresh(struct watchers *watchers, const struct instance *instance, int64_t start);
void watchers_stop(struct watchers *watchers);

/* ---- nemesis.c ---- */

struct nemesis;
struct nemesis *nemesis_start(struct run *run);
/* Ends it, and heals everything. */
void nemesis_stop(struct nemesis *nemesis);
/* Runs the tool with a verb; its exit status. */
int run_tool(const struct run *run, const char *verb, const char *argument);

#endif
