/* SPDX-License-Identifier: Apache-2.0 */
/* The API layer set up for tests, see api_fixture.h. */
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#include "tests/lib/api_fixture.h"

#include <stdlib.h>

#include "tests/lib/fake_call.h"
#include "tests/lib/tap.h"

_Atomic size_t allocations, failing;
_Atomic bool hit;
struct api_fixture fix;

static bool fails(void)
{
	if (atomic_fetch_add(&allocations, 1) + 1 != atomic_load(&failing))
		return false;
	atomic_store(&hit, true);
	return true;
}

void *fault_malloc(size_t size)
{
	return fails() ? NULL : malloc(size);
}

void *fault_calloc(size_t count, size_t size)
{
	return fails() ? NULL : calloc(count, size);
}

void *fault_realloc(void *old, size_t size)
{
	return fails() ? NULL : realloc(old, size);
}

void *fault_reallocarray(void *old, size_t count, size_t size)
{
	return fails() ? NULL : reallocarray(old, count, size);
}

void api_fixture_start(bool later, size_t cache_bytes, int bcrypt_cost, bool (*idle)(void *ctx))
{
	struct ks_store_config store_config = {
		.value_cache_bytes = cache_bytes, .fetch = fake_committer_find, .fetch_ctx = &fix.committer};
	struct ks_api_config config = {
		.max_txn_ops = 128,
		.max_request_bytes = KS_ETCD_MAX_REQUEST_BYTES,
		.progress_interval_ms = 600000,
		.bcrypt_cost = bcrypt_cost,
	};
	const struct ks_rpc_method *methods;
	size_t count;
	struct ks_err err;

	fix.store = ks_store_new(&store_config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fix.store);
	fake_committer_init(&fix.committer, fix.store);
	fix.committer.later = later;
	fix.timers = ks_timers_start(&err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fix.timers);
	config.store = fix.store;
	config.committer = &fix.committer.base;
	config.timers = fix.timers;
	fix.api = ks_api_start(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fix.api);
	methods = ks_api_methods(&count);
	fake_rpc_start(methods, count, fix.api, idle, NULL);
}

void api_fixture_first_entry(void)
{
	struct ks_effect noop = {.kind = KS_EFFECT_NOOP};
	struct ks_entry entry = {.position = 1, .revision = 1, .effects = &noop, .effect_count = 1};
	struct ks_err err;

	CU_ASSERT_EQUAL_FATAL(ks_store_apply(fix.store, &entry, &err), KS_OK);
	ks_store_publish(fix.store);
}

void api_fixture_stop(void)
{
	fake_rpc_stop();
	ks_api_stop(fix.api);
	ks_timers_stop(fix.timers);
	fake_committer_fini(&fix.committer);
	ks_store_free(fix.store);
}
