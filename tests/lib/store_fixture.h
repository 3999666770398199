/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short words for tests of the store: one store at a time, texts as keys and values, each request its own commit unless
 * 'sf_hold' is set. Failures are CUnit assertions; sf_err keeps the last error.
 */
#ifndef TESTS_LIB_STORE_FIXTURE_H
#define TESTS_LIB_STORE_FIXTURE_H

#include <CUnit/CUnit.h>

#include "base/panic.h"
#include "store/store.h"
#include "tests/lib/tap.h"

extern struct ks_store *sf_store;
extern struct ks_err sf_err;
extern bool sf_hold; /* leave what is evaluated in the tail */

/* A new store that keeps its values / with a cache of so many bytes and a log to fetch from. */
void sf_open(void);
void sf_open_cached(size_t bytes);
void sf_close(void);
unsigned sf_fetches(void);
void sf_fail_fetches(bool fail);
/* Fills what is missing from the log of sf_open_cached. */
void sf_fill(void *ctx, struct ks_kvref *ref);
struct ks_bytes *sf_fetch(void *ctx, struct ks_loc loc);

#define S(text) ks_slice_of(text, sizeof(text) - 1)
struct ks_slice sf_text(const char *text); /* NULL: empty */
/* 'end' "\0" of one byte cannot be a text: SF_ALL stands for it. */
#define SF_ALL "\1all"
struct ks_interval sf_interval(const char *key, const char *end);

/* Each gives the status; what came back is in 'result' (freed by the next call and by sf_close). */
extern struct ks_result sf_result;
extern struct ks_effects sf_effects;
enum ks_status sf_eval(const struct ks_request *req);
enum ks_status sf_put(const char *key, const char *value);
enum ks_status sf_put_lease(const char *key, const char *value, int64_t lease);
enum ks_status sf_delete(const char *key, const char *end);
enum ks_status sf_compact(int64_t revision);
enum ks_status sf_grant(int64_t id);
enum ks_status sf_revoke(int64_t id);
enum ks_status sf_txn(const struct ks_txn_req *txn);
void sf_compact_all(void); /* physically, to the end */
int64_t sf_revision(void);

extern struct ks_range_result sf_range_result;
enum ks_status sf_range(const struct ks_range_req *req);
/* The keys of the last range, joined with spaces; the decoded i-th kv. */
const char *sf_keys(void);
struct ks_kv sf_kv(size_t i);
const char *sf_value(const char *key, int64_t revision); /* "-" when there is none */
bool sf_is(struct ks_slice slice, const char *text);
/* The events from a revision on, as "put a 2;del b 3;", with "(prev)" behind the key when there is one. */
const char *sf_events(const char *key, const char *end, int64_t from, bool prev_kv);
uint32_t sf_hash(struct ks_store *store, int64_t revision);
/* Keys on the lease in order, joined with spaces; "-" when there is no such lease. */
const char *sf_lease_keys(int64_t id);

#define SF_TEST(name)             \
	{                         \
#name, run_##name \
	}
#define SF_WITH_STORE(name)          \
	static void run_##name(void) \
	{                            \
		sf_open();           \
		name();              \
		sf_close();          \
	}

#endif
