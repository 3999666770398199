/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several stepped logs on one memory database with a fake clock, for the unit tests of log/ and the simulation. Everything
 * happens on the calling thread, and only when world_step or one of its loops is called; time moves only there.
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "base/clock.h"
#include "log/log_priv.h"
#include "sqlbackends/memory.h"

#define WORLD_NODES 3

struct world_node {
	struct sqlb_db *db;
	struct ks_log *log; /* NULL: down */
	struct ks_store *store;
	struct ks_committer *committer;
	int64_t starts;
	int64_t due_ms[KS_LOG_ROLES]; /* when each role wants to be called again */
};

/* The calls number at … at + times - 1 of 'op' (NULL: any) that 'node' makes (-1: any) end like this. */
struct world_fault {
	const char *op;
	int node;
	int at, times; /* at: 1 = the next call */
	enum sqlb_memory_fault fault;
	int calls, hits;
};

struct world {
	char name[40];
	struct ks_clock clock;
	struct ks_log_config config; /* of every node: change it before world_start */
	struct sqlb_ops ops;         /* config.backend points here */
	struct world_node nodes[WORLD_NODES];
	size_t count;
	struct world_fault faults[8];
	size_t fault_count;
	enum sqlb_memory_fault (*chaos)(struct world *world, const char *op,
					int node); /* asked when no fault matches */
	void (*stepped)(struct world *world);      /* called after every step of a role */
	void *ctx;
};

/* A write with room for what it borrows. */
struct world_call {
	struct ks_submit submit;
	char key[64], end[64], value[96];
	struct ks_compare compare;
	struct ks_op success, failure;
	int done;
};

struct world_proof {
	struct ks_read_proof proof;
	int done;
};

void world_init(struct world *world, size_t count); /* nodes are made, not started */
void world_fini(struct world *world);
void world_start(struct world *world, size_t node);
void world_stop(struct world *world, size_t node);
void world_start_all(struct world *world); /* those that are down, and waits until all are loaded */
struct world_fault *world_fault(struct world *world, const char *op, int node, int at, int times,
				enum sqlb_memory_fault fault);
void world_no_faults(struct world *world);
/* SQLB_FAULT_DOUBT_LATE lands after so many other calls. */
void world_faults_on(struct world *world, int late_calls);
int world_node_of(const struct world *world, const struct sqlb_conn *conn);

/* Calls one role of one node if it is due or was poked, as its thread would; false when it was neither. */
bool world_step_role(struct world *world, size_t node, enum ks_log_role_id role);
/* Lets every node do what it can do now; returns the milliseconds until somebody wants to be called again. */
int64_t world_step(struct world *world);
/* Steps and moves the clock for 'ms' of its time. */
void world_run(struct world *world, int64_t ms);
/* Until *done is true; false when that takes more than two minutes of its time. */
bool world_until(struct world *world, const int *done);
/* Until all nodes that are up have the same position, which is that of the log. */
bool world_settled(struct world *world);

void world_put(struct world *world, size_t node, struct world_call *call, const char *key, const char *value);
void world_put_lease(struct world *world, size_t node, struct world_call *call, const char *key, const char *value,
		     int64_t lease);
void world_delete(struct world *world, size_t node, struct world_call *call, const char *key, const char *end);
/* If mod_revision(key) == revision then put else get. */
void world_cas(struct world *world, size_t node, struct world_call *call, const char *key, int64_t revision,
	       const char *value);
void world_compact(struct world *world, size_t node, struct world_call *call, int64_t revision);
void world_grant(struct world *world, size_t node, struct world_call *call, int64_t id, int64_t ttl);
void world_revoke(struct world *world, size_t node, struct world_call *call, int64_t id);
/* KS_AUTH_USER_ADD, _PASSWORD or _DELETE. */
void world_user(struct world *world, size_t node, struct world_call *call, int op, const char *name);
/* Waits for the call and returns its status; its result is freed. */
enum ks_status world_finish(struct world *world, struct world_call *call);
/* Starts and finishes a put; the revision, or -1. */
int64_t world_do_put(struct world *world, size_t node, const char *key, const char *value);
void world_prove(struct world *world, size_t node, struct world_proof *proof);
/* The value of 'key' on that node without any proof, or NULL; static memory. Fetches it when need be. */
const char *world_value(struct world *world, size_t node, const char *key);
int64_t world_revision(struct world *world, size_t node);
/* Entries of the log: how many rows, and is every position from 1 on there? */
size_t world_rows(struct world *world);

#endif
