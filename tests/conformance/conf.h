/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What scenarios are written with. A scenario sends requests, given as text (text.h), through libetcdc, and everything that comes
 * back goes to the transcript:
 *
 *	=== range/limit
 *	> Range key:'a' limit:2
 *	OK
 *	  header.revision=r5
 *	  …
 *
 * Scenarios of a block run one after the other on one server. Each starts with all keys deleted and calls the revision it finds r1,
 * so that it reads as on a fresh store; what really needs a fresh store is in a block of its own, where the server must be new.
 */
#ifndef CONFORMANCE_CONF_H
#define CONFORMANCE_CONF_H

#include "base/buf.h"
#include "client/etcdc.h"
#include "tests/conformance/text.h"

struct conf {
	struct etcdc *client;
	struct etcdc *other; /* a second one; at another server of the same database where there can be one */
	const char *endpoint;
	FILE *out;
	struct names names;
	uint64_t seed;
	/* Of the last call. */
	enum ks_status status;
	int64_t revision; /* of its header; 0 without one */
};

struct scenario {
	const char *name; /* "range/limit" */
	void (*run)(struct conf *conf);
	bool fresh; /* nothing is deleted before, and revisions are absolute */
};

struct block {
	const char *name;
	const struct scenario *scenarios; /* ends with name NULL */
};

/* The blocks, in the order of conformance.c. */
extern const struct scenario range_scenarios[], put_scenarios[], txn_scenarios[], watch_scenarios[], lease_scenarios[],
	lock_scenarios[], compact_scenarios[], maintenance_scenarios[], fresh_hash_scenarios[],
	fresh_compacted_hash_scenarios[], fresh_compact_scenarios[], random_scenarios[], progress_scenarios[],
	quota_scenarios[], v37_scenarios[], restart_scenarios[], auth_scenarios[], auth_newer_scenarios[];

/* Calls with a request as text; a format with arguments when there are any. The transcript gets request, status and response. */
void conf_call(struct conf *conf, const struct etcdc_method *method, const char *request, ...) KS_PRINTF(3, 4);
/* The same for a request that names what each server calls differently: it does not go to the transcript. */
void conf_call_unnamed(struct conf *conf, const struct etcdc_method *method, const char *request, ...) KS_PRINTF(3, 4);
/* The same without the line of the request, and its response for a closer look; etcdc_free it. NULL on failure. */
void *conf_call_quiet(struct conf *conf, const struct etcdc_method *method, const char *request, ...) KS_PRINTF(3, 4);
/* What the scenario found out by itself: "# text". */
void conf_note(struct conf *conf, const char *fmt, ...) KS_PRINTF(2, 3);
/* A note that says "ok" or what failed; both servers must say "ok", so a failure is a difference. */
void conf_check(struct conf *conf, bool ok, const char *what);

#define RANGE(...) conf_call(conf, &etcdc_method_range, __VA_ARGS__)
#define PUT(...) conf_call(conf, &etcdc_method_put, __VA_ARGS__)
#define DELETE(...) conf_call(conf, &etcdc_method_delete_range, __VA_ARGS__)
#define TXN(...) conf_call(conf, &etcdc_method_txn, __VA_ARGS__)
#define COMPACT(...) conf_call(conf, &etcdc_method_compact, __VA_ARGS__)
#define GRANT(...) conf_call(conf, &etcdc_method_lease_grant, __VA_ARGS__)
#define REVOKE(...) conf_call(conf, &etcdc_method_lease_revoke, __VA_ARGS__)
#define TTL(...) conf_call(conf, &etcdc_method_lease_time_to_live, __VA_ARGS__)
#define HASHKV(...) conf_call(conf, &etcdc_method_hash_kv, __VA_ARGS__)
/* A put of text that is not worth a transcript, unless it fails. */
void put(struct conf *conf, const char *key, const char *value);

/* A raw stream. */
struct etcdc_stream *stream_open(struct conf *conf, const struct etcdc_method *method);
void stream_send(struct conf *conf, struct etcdc_stream *stream, const char *request, ...) KS_PRINTF(3, 4);
/* Waits for one message and prints it. */
void stream_recv(struct conf *conf, struct etcdc_stream *stream);
/* Nothing comes for a while; prints what came nevertheless. */
void stream_quiet(struct conf *conf, struct etcdc_stream *stream);

/*
 * Reads watch responses until 'events' events have come, checks what must hold for any batching (spec 3.4, 3.8), and prints the
 * events of each watcher, without the borders of batches, which are a matter of time.
 */
void watch_events(struct conf *conf, struct etcdc_stream *stream, size_t events);

#endif
