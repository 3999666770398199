/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each allocation of the store fails once. A call that met it says so and has changed nothing: repeated, it does what the model
 * does. This program has its own build of the store (see Makefile.inc), whose allocations come here.
 */
#undef malloc
#undef calloc
#undef realloc
#undef aligned_alloc
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "store/alarm.h"
#include "store/auth.h"
#include "tests/lib/store_model.h"
#include "tests/lib/tap.h"

void *fault_malloc(size_t size);
void *fault_calloc(size_t count, size_t size);
void *fault_realloc(void *old, size_t size);
void *fault_aligned_alloc(size_t alignment, size_t size);

static long countdown; /* 0: never; 1: the next one fails */
static bool hit;

static bool fails(void)
{
	if (countdown == 0 || --countdown > 0)
		return false;
	hit = true;
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

void *fault_aligned_alloc(size_t alignment, size_t size)
{
	return fails() ? NULL : aligned_alloc(alignment, size);
}

/* Suspends the fault while test code allocates. */
static long pause_faults(void)
{
	long left = countdown;

	countdown = 0;
	return left;
}

static struct ks_store *store, *other;
static struct model model;

#define S(text) ks_slice_of(text, sizeof(text) - 1)

/* The first try may meet the fault; then nothing has happened, and the second goes through. */
static void request(const struct ks_request *req)
{
	struct ks_result result, expected;
	struct ks_effects effects, expected_effects;
	struct ks_err err;
	enum ks_status status = ks_store_eval(store, req, &result, &effects, &err), want;
	const char *diff;
	long left;

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_eval(store, req, &result, &effects, &err);
	}
	left = pause_faults();
	want = model_eval(&model, req, &expected, &expected_effects);
	CU_ASSERT_EQUAL_FATAL(status, want);
	diff = status == KS_OK ? model_diff_result(&expected, &result) : NULL;
	if (!diff && status == KS_OK)
		diff = model_diff_entry(&expected_effects.entry, &effects.entry);
	if (diff)
		printf("# %s\n", diff);
	CU_ASSERT_PTR_NULL(diff);
	countdown = left;
	if (status == KS_OK && effects.entry.effect_count > 0) {
		enum ks_status applied = ks_store_apply(other, &effects.entry, &err);

		if (applied == KS_RESOURCE_EXHAUSTED) {
			CU_ASSERT(hit);
			applied = ks_store_apply(other, &effects.entry, &err);
		}
		CU_ASSERT_EQUAL_FATAL(applied, KS_OK);
	}
	ks_result_fini(&result);
	ks_effects_fini(&effects);
	ks_result_fini(&expected);
	ks_effects_fini(&expected_effects);
}

static void put(const char *key, int64_t lease)
{
	request(&(struct ks_request){
		.kind = KS_REQ_PUT,
		.put = {.key = ks_slice_str(key), .value = S("value"), .lease = lease, .prev_kv = true}});
}

static void range(struct ks_range_req req)
{
	struct ks_range_result result, expected;
	int64_t revision;
	struct ks_err err;
	enum ks_status status = ks_store_range(store, &req, &result, &revision, &err);
	const char *diff;
	long left;

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_range(store, &req, &result, &revision, &err);
	}
	left = pause_faults();
	CU_ASSERT_EQUAL_FATAL(status, model_range(&model, &req, &expected));
	diff = model_diff_range(&expected, &result);
	CU_ASSERT_PTR_NULL(diff);
	ks_range_result_fini(&result);
	ks_range_result_fini(&expected);
	countdown = left;
}

static void ranges(void)
{
	struct ks_interval all = {.key = S("\0"), .end = S("\0")};

	range((struct ks_range_req){.interval = {.key = S("k050")}});
	range((struct ks_range_req){.interval = all});
	range((struct ks_range_req){.interval = all, .keys_only = true, .limit = 10});
	range((struct ks_range_req){.interval = all, .sort_target = KS_SORT_VERSION, .sort_order = KS_SORT_DESCEND});
	range((struct ks_range_req){
		.interval = all, .sort_target = KS_SORT_VALUE, .sort_order = KS_SORT_ASCEND, .keys_only = true});
	range((struct ks_range_req){
		.interval = all, .revision = model.revision - 3, .limit = 3, .min_mod_revision = 2});
}

static void txn(void)
{
	struct ks_compare compares[] = {
		{.target = KS_CMP_VALUE, .interval = {.key = S("k010")}, .value = S("value")},
		{.target = KS_CMP_VERSION, .result = KS_CMP_GREATER, .interval = {.key = S("k"), .end = S("l")}}};
	struct ks_op inner_ops[] = {
		{.kind = KS_OP_PUT, .put = {.key = S("k020"), .ignore_value = true, .prev_kv = true}},
		{.kind = KS_OP_DELETE, .del = {.interval = {.key = S("k030"), .end = S("k035")}, .prev_kv = true}}};
	struct ks_txn_req inner = {.success = inner_ops, .success_count = 2};
	struct ks_op ops[] = {{.kind = KS_OP_PUT, .put = {.key = S("new key of a txn"), .value = S("x")}},
			      {.kind = KS_OP_TXN, .txn = &inner},
			      {.kind = KS_OP_RANGE, .range = {.interval = {.key = S("k"), .end = S("l")}}}};

	request(&(struct ks_request){
		.kind = KS_REQ_TXN,
		.txn = {.compares = compares, .compare_count = 2, .success = ops, .success_count = 3}});
}

static void read_txn(void)
{
	struct ks_op ops[] = {{.kind = KS_OP_RANGE, .range = {.interval = {.key = S("k"), .end = S("l")}}}};
	struct ks_txn_req req = {.success = ops, .success_count = 1};
	struct ks_txn_result result;
	struct ks_misses misses = {0};
	int64_t revision;
	struct ks_err err;
	enum ks_status status = ks_store_read_txn(store, &req, &result, &revision, &misses, &err);

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_read_txn(store, &req, &result, &revision, &misses, &err);
	}
	CU_ASSERT_EQUAL(status, KS_OK);
	ks_txn_result_fini(&result);
	ks_misses_fini(&misses);
}

static void publish(void)
{
	ks_store_publish(store);
	ks_store_publish(other);
}

static void leases(void)
{
	struct ks_lease_info info, *infos;
	size_t count;

	request(&(struct ks_request){.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 9, .ttl = 5}});
	request(&(struct ks_request){.kind = KS_REQ_LEASE_REVOKE, .revoke = {.id = 7}});
	publish();
	if (ks_store_leases(store, &infos, &count) == KS_RESOURCE_EXHAUSTED)
		CU_ASSERT(hit);
	free(infos);
	CU_ASSERT(ks_store_lease(store, 8, true, &info));
	CU_ASSERT(hit || !info.no_memory);
	ks_lease_info_fini(&info);
}

static void compare_hashes(void)
{
	struct ks_hash_result result;
	struct ks_err err;
	uint32_t expected = model_hash(&model, model.revision);

	CU_ASSERT_EQUAL_FATAL(ks_store_hash_kv(store, 0, NULL, NULL, &result, &err), KS_OK);
	CU_ASSERT_EQUAL(result.hash, expected);
	CU_ASSERT_EQUAL_FATAL(ks_store_hash_kv(other, 0, NULL, NULL, &result, &err), KS_OK);
	CU_ASSERT_EQUAL(result.hash, expected);
}

static void preload(void)
{
	char key[16];

	for (unsigned i = 0; i < 128; i++) {
		snprintf(key, sizeof(key), "k%03u", i);
		put(key, 0);
	}
	request(&(struct ks_request){.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 7, .ttl = 5}});
	request(&(struct ks_request){.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 8, .ttl = 5}});
	publish();
}

static bool scenario(long fail_at)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;

	hit = false;
	countdown = 0;
	model_init(&model);
	store = ks_store_new(&config, &err);
	other = ks_store_new(&config, &err);
	CU_ASSERT_FATAL(store && other);
	preload();
	countdown = fail_at;
	put("k1000", 7); /* into a full leaf */
	put("k0500", 7);
	put("k050", 8);
	put("k051", 8);
	put("k052", 7);
	put("k053", 7);
	put("k0530", 7);
	put("k050", 0);
	publish();
	ranges();
	txn();
	publish();
	read_txn();
	request(&(struct ks_request){.kind = KS_REQ_DELETE,
				     .del = {.interval = {.key = S("k0"), .end = S("k01")}, .prev_kv = true}});
	leases();
	request(&(struct ks_request){.kind = KS_REQ_COMPACT, .compact_revision = model.revision - 2});
	publish();
	while (ks_store_compact_step(store, 10, NULL, NULL))
		;
	put("k000", 8);
	publish();
	ranges();
	countdown = 0;
	compare_hashes();
	ks_store_free(store);
	ks_store_free(other);
	model_fini(&model);
	return hit;
}

static void each_allocation_fails_once_and_nothing_is_lost(void)
{
	long n = 1;

	while (scenario(n))
		n++;
	CU_ASSERT(n > 100); /* else the fault never fired */
}

/* ---- rows that nobody needs: reported in order, or a scan is asked for before anything that ended them ---- */

static struct {
	int64_t granted, revoked; /* positions */
	bool grant_seen, revoke_seen, forgot;
} rows;

static int64_t write_at(const struct ks_request *req)
{
	struct ks_result result;
	struct ks_effects effects;
	struct ks_err err;
	enum ks_status status = ks_store_eval(store, req, &result, &effects, &err);
	int64_t position;

	if (status == KS_RESOURCE_EXHAUSTED)
		status = ks_store_eval(store, req, &result, &effects, &err);
	CU_ASSERT_EQUAL_FATAL(status, KS_OK);
	position = effects.entry.position;
	ks_result_fini(&result);
	ks_effects_fini(&effects);
	ks_store_publish(store);
	return position;
}

static void see_rows(void *ctx, const struct ks_loc *locs, size_t count)
{
	(void)ctx;
	rows.forgot = rows.forgot || count == 0;
	for (size_t i = 0; i < count; i++) {
		rows.grant_seen = rows.grant_seen || locs[i].position == rows.granted;
		rows.revoke_seen = rows.revoke_seen || locs[i].position == rows.revoked;
		CU_ASSERT(locs[i].position != rows.revoked || rows.grant_seen || rows.forgot);
	}
}

static bool forget_rows(long fail_at)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;

	hit = false;
	store = ks_store_new(&config, &err);
	CU_ASSERT_PTR_NOT_NULL_FATAL(store);
	memset(&rows, 0, sizeof(rows));
	rows.granted = write_at(&(struct ks_request){.kind = KS_REQ_LEASE_GRANT, .grant = {.id = 7, .ttl = 5}});
	countdown = fail_at;
	rows.revoked = write_at(&(struct ks_request){.kind = KS_REQ_LEASE_REVOKE, .revoke = {.id = 7}});
	countdown = 0;
	(void)write_at(&(struct ks_request){.kind = KS_REQ_PUT, .put = {.key = S("a")}});
	(void)write_at(&(struct ks_request){.kind = KS_REQ_COMPACT, .compact_revision = 2});
	while (ks_store_compact_step(store, 10, see_rows, NULL))
		;
	CU_ASSERT_TRUE(rows.forgot || (rows.grant_seen && rows.revoke_seen));
	ks_store_free(store);
	return hit;
}

static void rows_that_are_forgotten_are_said_to_be(void)
{
	bool ever_forgot = false;

	CU_ASSERT_FALSE(forget_rows(0));
	CU_ASSERT_FALSE(rows.forgot);
	for (long n = 1; forget_rows(n); n++)
		ever_forgot = ever_forgot || rows.forgot;
	CU_ASSERT_TRUE(ever_forgot);
}

/* ---- users and roles: the model knows none, so the other store is the judge ---- */

static void on_both(const struct ks_request *request)
{
	struct ks_result result;
	struct ks_effects effects;
	struct ks_err err;
	enum ks_status status = ks_store_eval(store, request, &result, &effects, &err);

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_eval(store, request, &result, &effects, &err);
	}
	CU_ASSERT_EQUAL_FATAL(status, KS_OK);
	status = ks_store_apply(other, &effects.entry, &err);
	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_apply(other, &effects.entry, &err);
	}
	CU_ASSERT_EQUAL_FATAL(status, KS_OK);
	ks_result_fini(&result);
	ks_effects_fini(&effects);
}

static void auth(const struct ks_auth_req *req)
{
	on_both(&(struct ks_request){.kind = KS_REQ_AUTH, .caller = {.internal = true}, .auth = *req});
}

static void may_read(struct ks_store *which)
{
	struct ks_caller caller = {.user = S("alice"), .auth_revision = 99, .identified = true};
	struct ks_interval interval = {.key = S("b")};
	struct ks_auth *state = ks_store_auth(which);
	enum ks_status status = ks_auth_check(state, &caller, &interval, KS_PERM_READ, NULL);

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_auth_check(state, &caller, &interval, KS_PERM_READ, NULL);
	}
	CU_ASSERT_EQUAL(status, KS_OK);
	CU_ASSERT(ks_auth_enabled(state) && ks_auth_user_count(state) == 2 && ks_auth_role_count(state) == 1);
	CU_ASSERT(ks_auth_revision(state) == 9);
	ks_auth_unref(state);
}

static bool auth_scenario(long n)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;

	store = ks_store_new(&config, &err);
	other = ks_store_new(&config, &err);
	CU_ASSERT_FATAL(store && other);
	hit = false;
	countdown = n;
	auth(&(struct ks_auth_req){.op = KS_AUTH_USER_ADD, .user = S("root"), .secret = S("hash")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_USER_GRANT, .user = S("root"), .role = S("root")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_ROLE_ADD, .role = S("r")});
	auth(&(struct ks_auth_req){
		.op = KS_AUTH_ROLE_GRANT, .role = S("r"), .interval = {.key = S("a"), .end = S("c")}});
	publish();
	auth(&(struct ks_auth_req){.op = KS_AUTH_USER_ADD, .user = S("alice"), .secret = S("hash")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_USER_GRANT, .user = S("alice"), .role = S("r")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_ROLE_ADD, .role = S("s")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_ROLE_DELETE, .role = S("s")});
	auth(&(struct ks_auth_req){.op = KS_AUTH_ENABLE, .secret = S("0123456789abcdef0123456789abcdef")});
	publish();
	may_read(store);
	may_read(other);
	countdown = 0;
	ks_store_free(store);
	ks_store_free(other);
	return hit;
}

static void each_allocation_of_auth_fails_once(void)
{
	long n = 1;

	while (auth_scenario(n))
		n++;
	CU_ASSERT(n > 50);
}

static void alarm_change(bool activate, uint64_t member, int type)
{
	on_both(&(struct ks_request){.kind = KS_REQ_ALARM,
				     .caller = {.internal = true},
				     .alarm = {.activate = activate, .member = member, .type = type}});
}

static void has_alarm(struct ks_store *which)
{
	struct ks_alarm *alarms;
	size_t count;
	enum ks_status status = ks_store_alarms(which, &alarms, &count);

	if (status == KS_RESOURCE_EXHAUSTED) {
		CU_ASSERT(hit);
		status = ks_store_alarms(which, &alarms, &count);
	}
	CU_ASSERT_EQUAL_FATAL(status, KS_OK);
	CU_ASSERT(count == 1 && alarms[0].member == 2 && alarms[0].type == KS_ALARM_CORRUPT);
	free(alarms);
}

static bool alarm_scenario(long n)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;

	store = ks_store_new(&config, &err);
	other = ks_store_new(&config, &err);
	CU_ASSERT_FATAL(store && other);
	hit = false;
	countdown = n;
	alarm_change(true, 1, KS_ALARM_NOSPACE);
	alarm_change(true, 2, KS_ALARM_CORRUPT);
	publish();
	alarm_change(true, 3, KS_ALARM_NOSPACE);
	alarm_change(false, 1, KS_ALARM_NOSPACE);
	alarm_change(false, 3, KS_ALARM_NOSPACE);
	publish();
	has_alarm(store);
	has_alarm(other);
	countdown = 0;
	ks_store_free(store);
	ks_store_free(other);
	return hit;
}

static void each_allocation_of_alarms_fails_once(void)
{
	long n = 1;

	while (alarm_scenario(n))
		n++;
	CU_ASSERT(n > 20);
}

static void new_store_without_memory_is_refused(void)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;
	long n = 1;

	for (;; n++) {
		countdown = n;
		store = ks_store_new(&config, &err);
		countdown = 0;
		if (store)
			break;
		CU_ASSERT_EQUAL(err.status, KS_RESOURCE_EXHAUSTED);
	}
	ks_store_free(store);
	CU_ASSERT(n > 3);
}

/* While loading the caller starts again after an error. */
static void load_and_jump_without_memory_say_so(void)
{
	struct ks_effect effect = {
		.kind = KS_EFFECT_PUT, .key = S("a"), .value = S("v"), .create_revision = 2, .version = 1};
	struct ks_entry entry = {.position = 1, .revision = 2, .effects = &effect, .effect_count = 1};
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;
	enum ks_status status = KS_RESOURCE_EXHAUSTED;

	store = ks_store_new(&config, &err);
	for (long n = 1; status != KS_OK; n++) {
		ks_store_reset(store);
		ks_store_load_begin(store);
		countdown = n;
		status = ks_store_apply(store, &entry, &err);
		countdown = 0;
		CU_ASSERT(status == KS_OK || status == KS_RESOURCE_EXHAUSTED);
		ks_store_load_end(store);
	}
	status = KS_RESOURCE_EXHAUSTED;
	for (long n = 1; status != KS_OK; n++) {
		countdown = n;
		status = ks_store_jump_begin(store, &err);
		if (status == KS_OK)
			status = ks_store_apply(store, &entry, &err);
		countdown = 0;
		CU_ASSERT(status == KS_OK || status == KS_RESOURCE_EXHAUSTED);
	}
	CU_ASSERT_EQUAL(ks_store_jump_end(store, &err), KS_OK);
	CU_ASSERT_EQUAL(ks_store_committed(store).revision, 2);
	ks_store_free(store);
}

#define T(name)             \
	{                   \
#name, name \
	}

int main(void)
{
	return tap_run("store_alloc", (const struct tap_test[]){
					      T(each_allocation_fails_once_and_nothing_is_lost),
					      T(rows_that_are_forgotten_are_said_to_be),
					      T(each_allocation_of_auth_fails_once),
					      T(each_allocation_of_alarms_fails_once),
					      T(new_store_without_memory_is_refused),
					      T(load_and_jump_without_memory_say_so),
					      {NULL, NULL},
				      });
}
