/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API layer on a real store behind a fake committer, without a network, whose allocations can fail: what the tests of the layer
 * share. Their programs have their own build of the layer, with malloc and friends renamed to the functions here (Makefile.inc), and with
 * arenas that allocate each piece by itself. The store's own allocations do not fail.
 *
 * Threads: the test's, but allocations may come from others. Errors: what cannot be set up ends the test.
 */
#ifndef KS_TESTS_API_FIXTURE_H
#define KS_TESTS_API_FIXTURE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "api/api.h"
#include "tests/lib/fake_committer.h"

/* Counted from 1; the one whose number is 'failing' fails, and sets 'hit'. failing 0: none. */
extern _Atomic size_t allocations, failing;
extern _Atomic bool hit;

void *fault_malloc(size_t size);
void *fault_calloc(size_t count, size_t size);
void *fault_realloc(void *old, size_t size);
void *fault_reallocarray(void *old, size_t count, size_t size);

struct api_fixture {
	struct fake_committer committer;
	struct ks_store *store;
	struct ks_timers *timers;
	struct ks_api *api;
};
extern struct api_fixture fix;

/* 'later': the committer's operations end when 'idle' (see fake_rpc_start) steps it, else at once. The store has no entry yet. */
void api_fixture_start(bool later, size_t cache_bytes, int bcrypt_cost, bool (*idle)(void *ctx));
/* As the first entry of a new log does: reads are refused before. */
void api_fixture_first_entry(void);
void api_fixture_stop(void);

#endif
