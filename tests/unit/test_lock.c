/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lock and Election services without a network, on a real store behind a fake committer: who gets a lock when, what is left
 * of those who went away at any step, and the same with the first, second, … n-th allocation of the layer failing.
 */
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#include "tests/lib/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/panic.h"
#include "proto/election.pb-c.h"
#include "proto/lock.pb-c.h"
#include "store/watch_hub.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/fake_call.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#define LEAK_CHECK_ROUNDS 64

/* ---- the layer, set up ---- */

static size_t steps = SIZE_MAX; /* operations of the committer that may still end */

static bool idle(void *ctx)
{
	(void)ctx;
	if (steps == 0)
		return false;
	if (steps != SIZE_MAX)
		steps--;
	return fake_committer_step(&fix.committer);
}

static void set_up(bool later, size_t cache_bytes)
{
	steps = SIZE_MAX;
	api_fixture_start(later, cache_bytes, 0, idle);
	api_fixture_first_entry();
}

static void tear_down(void)
{
	struct ks_watch_stats stats;

	steps = SIZE_MAX;
	fake_run();
	ks_watch_hub_stats(ks_store_hub(fix.store), &stats);
	CU_ASSERT_EQUAL(stats.watchers, 0);
	api_fixture_stop();
}

/* ---- calls ---- */

static uint8_t packed[1u << 12];

static struct ks_slice pack(const ProtobufCMessage *message)
{
	CU_ASSERT_TRUE_FATAL(protobuf_c_message_get_packed_size(message) <= sizeof(packed));
	return ks_slice_of(packed, protobuf_c_message_pack(message, packed));
}

static ProtobufCBinaryData bin(const char *text)
{
	return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)(uintptr_t)text};
}

static bool is(ProtobufCBinaryData data, const char *text)
{
	return ks_slice_eq(ks_slice_of(data.data, data.len), ks_slice_str(text));
}

/* A call that may wait. */
struct waiting {
	struct ks_call *call;
	struct fake_answer answer;
};

static void begin(struct waiting *waiting, const char *path, const void *request)
{
	waiting->call = fake_unary_begin(path, pack(request), NULL, &waiting->answer);
	fake_run();
}

static void begin_lock(struct waiting *waiting, const char *name, int64_t lease)
{
	V3lockpb__LockRequest request = V3LOCKPB__LOCK_REQUEST__INIT;

	request.name = bin(name);
	request.lease = lease;
	begin(waiting, "/v3lockpb.Lock/Lock", &request);
}

static void begin_campaign(struct waiting *waiting, const char *name, int64_t lease, const char *value)
{
	V3electionpb__CampaignRequest request = V3ELECTIONPB__CAMPAIGN_REQUEST__INIT;

	request.name = bin(name);
	request.lease = lease;
	request.value = bin(value);
	begin(waiting, "/v3electionpb.Election/Campaign", &request);
}

static void finish(struct waiting *waiting)
{
	fake_unary_end(waiting->call);
	fake_answer_fini(&waiting->answer);
}

static void cancel(struct waiting *waiting)
{
	fake_unary_cancel(waiting->call);
	fake_run();
}

static void check_failed(struct waiting *waiting, enum ks_status status, const char *text)
{
	CU_ASSERT_TRUE_FATAL(waiting->answer.ended);
	CU_ASSERT_EQUAL(waiting->answer.status, status);
	CU_ASSERT_STRING_EQUAL(waiting->answer.text, text);
	finish(waiting);
}

/* 'key' NULL: any; 'revision' 0: any. The revision of the header. */
static int64_t check_locked(struct waiting *waiting, const char *key, int64_t revision)
{
	V3lockpb__LockResponse *response;
	int64_t got;

	CU_ASSERT_TRUE_FATAL(waiting->answer.ended);
	CU_ASSERT_STRING_EQUAL(waiting->answer.text, "");
	CU_ASSERT_EQUAL_FATAL(waiting->answer.status, KS_OK);
	response = v3lockpb__lock_response__unpack(NULL, waiting->answer.size, waiting->answer.data);
	CU_ASSERT_PTR_NOT_NULL_FATAL(response);
	CU_ASSERT_EQUAL(response->header->member_id, 0x3e);
	got = response->header->revision;
	if (revision)
		CU_ASSERT_EQUAL(got, revision);
	if (key)
		CU_ASSERT_TRUE(is(response->key, key));
	v3lockpb__lock_response__free_unpacked(response, NULL);
	finish(waiting);
	return got;
}

/* The create revision of the leader's key. */
static int64_t check_elected(struct waiting *waiting, const char *key, int64_t lease, int64_t header_revision)
{
	V3electionpb__CampaignResponse *response;
	int64_t revision;

	CU_ASSERT_TRUE_FATAL(waiting->answer.ended);
	CU_ASSERT_STRING_EQUAL(waiting->answer.text, "");
	CU_ASSERT_EQUAL_FATAL(waiting->answer.status, KS_OK);
	response = v3electionpb__campaign_response__unpack(NULL, waiting->answer.size, waiting->answer.data);
	CU_ASSERT_PTR_NOT_NULL_FATAL(response);
	CU_ASSERT_EQUAL(response->header->revision, header_revision);
	CU_ASSERT_TRUE(is(response->leader->key, key));
	CU_ASSERT_EQUAL(response->leader->lease, lease);
	revision = response->leader->rev;
	v3electionpb__campaign_response__free_unpacked(response, NULL);
	finish(waiting);
	return revision;
}

static void ask(const char *path, const void *request, struct fake_answer *answer)
{
	fake_unary(path, pack(request), NULL, answer);
}

static void expect(const char *path, const void *request, enum ks_status status, const char *text)
{
	struct fake_answer answer;

	ask(path, request, &answer);
	CU_ASSERT_EQUAL(answer.status, status);
	CU_ASSERT_STRING_EQUAL(answer.text, text);
	fake_answer_fini(&answer);
}

static void grant(int64_t id)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;

	request.ttl = 60;
	request.id = id;
	expect("/etcdserverpb.Lease/LeaseGrant", &request, KS_OK, "");
}

static void revoke(int64_t id)
{
	Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;

	request.id = id;
	expect("/etcdserverpb.Lease/LeaseRevoke", &request, KS_OK, "");
}

static void unlock(const char *key)
{
	V3lockpb__UnlockRequest request = V3LOCKPB__UNLOCK_REQUEST__INIT;

	request.key = bin(key);
	expect("/v3lockpb.Lock/Unlock", &request, KS_OK, "");
}

static void put(const char *key, const char *value, int64_t lease)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;

	request.key = bin(key);
	request.value = bin(value);
	request.lease = lease;
	expect("/etcdserverpb.KV/Put", &request, KS_OK, "");
}

static size_t keys_below(const char *prefix)
{
	char end[64];
	struct ks_range_req request = {.interval.key = ks_slice_str(prefix), .count_only = true};
	struct ks_range_result result = {0};
	int64_t revision;
	size_t count;

	(void)snprintf(end, sizeof(end), "%s", prefix);
	end[strlen(end) - 1]++;
	request.interval.end = ks_slice_str(end);
	CU_ASSERT_EQUAL_FATAL(ks_store_range(fix.store, &request, &result, &revision, NULL), KS_OK);
	count = (size_t)result.count;
	ks_range_result_fini(&result);
	return count;
}

static int64_t now(void)
{
	return ks_store_committed(fix.store).revision;
}

/* ---- Lock ---- */

static void a_free_lock_is_taken_at_once(void)
{
	struct waiting a;

	set_up(false, 1 << 20);
	grant(0x1f);
	begin_lock(&a, "foo", 0x1f);
	(void)check_locked(&a, "foo/1f", 2);
	/* Once more with the same lease: the same lock, and nothing was written. */
	begin_lock(&a, "foo", 0x1f);
	(void)check_locked(&a, "foo/1f", 2);
	/* A name is not a prefix of another name. */
	begin_lock(&a, "fo", 0x1f);
	(void)check_locked(&a, "fo/1f", 3);
	begin_lock(&a, "", 0x1f);
	(void)check_locked(&a, "/1f", 4);
	tear_down();
}

static void leases_make_keys_as_etcd_writes_them(void)
{
	struct waiting a;

	set_up(false, 1 << 20);
	grant(-1);
	grant(INT64_MIN);
	grant(INT64_MAX);
	begin_lock(&a, "a", -1);
	(void)check_locked(&a, "a/-1", 0);
	begin_lock(&a, "b", INT64_MIN);
	(void)check_locked(&a, "b/-8000000000000000", 0);
	begin_lock(&a, "c", INT64_MAX);
	(void)check_locked(&a, "c/7fffffffffffffff", 0);
	tear_down();
}

static void locks_are_given_in_the_order_of_asking(void)
{
	enum { WAITERS = 20 };
	struct waiting waiters[WAITERS];
	char key[16];

	set_up(false, 1 << 20);
	for (int i = 0; i < WAITERS; i++) {
		grant(i + 1);
		begin_lock(&waiters[i], "foo", i + 1);
	}
	for (int i = 0; i < WAITERS; i++) {
		for (int j = i + 1; j < WAITERS; j++)
			CU_ASSERT_FALSE(waiters[j].answer.ended);
		(void)snprintf(key, sizeof(key), "foo/%x", (unsigned)i + 1);
		(void)check_locked(&waiters[i], key, i ? now() : 2);
		unlock(key);
		fake_run();
	}
	CU_ASSERT_EQUAL(keys_below("foo/"), 0);
	tear_down();
}

static void who_gives_up_while_waiting_leaves_no_key(void)
{
	struct waiting a, b, c;

	set_up(false, 1 << 20);
	grant(1);
	grant(2);
	grant(3);
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	begin_lock(&c, "foo", 3);
	CU_ASSERT_EQUAL(keys_below("foo/"), 3);
	cancel(&b);
	check_failed(&b, KS_CANCELLED, "context canceled");
	CU_ASSERT_EQUAL(keys_below("foo/"), 2);
	fake_run();
	CU_ASSERT_FALSE(c.answer.ended); /* the key before it is gone, but not the first one */
	(void)check_locked(&a, "foo/1", 2);
	revoke(1);
	fake_run();
	(void)check_locked(&c, "foo/3", now());
	tear_down();
}

static void a_lock_whose_lease_ended_while_waiting_is_not_given(void)
{
	struct waiting a, b;

	set_up(false, 1 << 20);
	grant(1);
	grant(2);
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	revoke(2);
	fake_run();
	CU_ASSERT_FALSE(b.answer.ended);
	(void)check_locked(&a, "foo/1", 2);
	unlock("foo/1");
	fake_run();
	check_failed(&b, KS_UNKNOWN, "mutex: session is expired");
	tear_down();
}

static void without_a_lease_each_lock_gets_its_own(void)
{
	struct waiting a, b;

	set_up(false, 1 << 20);
	begin_lock(&a, "foo", 0);
	begin_lock(&b, "foo", 0);
	CU_ASSERT_FALSE(b.answer.ended);
	(void)check_locked(&a, NULL, 2);
	CU_ASSERT_EQUAL(keys_below("foo/"), 2);
	cancel(&b);
	check_failed(&b, KS_CANCELLED, "context canceled");
	CU_ASSERT_EQUAL(keys_below("foo/"), 1);
	tear_down();
}

static void inner_errors_come_out_as_unknown(void)
{
	static uint8_t name[KS_ETCD_MAX_REQUEST_BYTES / 2];
	static uint8_t wire[sizeof(name) + 64];
	V3lockpb__UnlockRequest nothing = V3LOCKPB__UNLOCK_REQUEST__INIT;
	V3lockpb__LockRequest large = V3LOCKPB__LOCK_REQUEST__INIT;
	struct fake_answer answer;
	struct waiting a;

	set_up(false, 1 << 20);
	begin_lock(&a, "foo", 404);
	check_failed(&a, KS_UNKNOWN, "etcdserver: requested lease not found");
	expect("/v3lockpb.Lock/Unlock", &nothing, KS_UNKNOWN, "etcdserver: key is not provided");
	unlock("no such key");
	CU_ASSERT_EQUAL(now(), 1);
	fix.committer.away = true;
	begin_lock(&a, "foo", 1);
	check_failed(&a, KS_UNKNOWN, "etcdserver: no leader");
	begin_lock(&a, "foo", 0);
	check_failed(&a, KS_UNKNOWN, "etcdserver: no leader");
	fix.committer.away = false;
	/* The transaction names the key and the name several times. */
	large.name = (ProtobufCBinaryData){.len = sizeof(name), .data = name};
	large.lease = 1;
	fake_unary("/v3lockpb.Lock/Lock", ks_slice_of(wire, v3lockpb__lock_request__pack(&large, wire)), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_UNKNOWN);
	CU_ASSERT_STRING_EQUAL(answer.text, "etcdserver: request is too large");
	tear_down();
}

static void waiting_survives_a_compaction_and_an_outage(void)
{
	Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	struct waiting a, b;

	set_up(false, 1 << 20);
	grant(1);
	grant(2);
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	for (int i = 0; i < 100; i++)
		put("other", "x", 0);
	compact.revision = now();
	expect("/etcdserverpb.KV/Compact", &compact, KS_OK, "");
	while (ks_store_compact_step(fix.store, 1000, NULL, NULL))
		;
	fix.committer.away = true;
	fake_run();
	CU_ASSERT_FALSE(b.answer.ended);
	fix.committer.away = false;
	(void)check_locked(&a, "foo/1", 2);
	unlock("foo/1");
	fake_run();
	(void)check_locked(&b, "foo/2", now());
	tear_down();
}

static void a_store_that_starts_anew_ends_the_wait(void)
{
	struct waiting a, b;

	set_up(false, 1 << 20);
	grant(1);
	grant(2);
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	(void)check_locked(&a, "foo/1", 2);
	ks_store_reset(fix.store);
	fake_run();
	check_failed(&b, KS_UNKNOWN, "etcdserver: no leader");
	tear_down();
}

static void the_end_of_the_server_ends_the_wait(void)
{
	struct waiting a, b, c, d;

	set_up(true, 1 << 20);
	grant(1);
	grant(2);
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	(void)check_locked(&a, "foo/1", 2);
	grant(3);
	begin_campaign(&c, "foo", 3, "x");
	fake_rpc_stopping();
	fake_run();
	check_failed(&b, KS_UNAVAILABLE, "etcdserver: server stopped");
	check_failed(&c, KS_UNAVAILABLE, "etcdserver: server stopped");
	CU_ASSERT_EQUAL(keys_below("foo/"), 1);
	begin_lock(&d, "foo", 2);
	check_failed(&d, KS_UNAVAILABLE, "etcdserver: server stopped");
	tear_down();
}

/* 'held': somebody has the lock. Cancels after n operations of the committer; false when the call ended without. */
static bool cancel_after(size_t n, bool campaign, bool held, int64_t lease)
{
	struct waiting a, b;
	bool cancelled;

	set_up(true, 1 << 20);
	grant(1);
	grant(2);
	if (held) {
		begin_lock(&a, "foo", 1);
		(void)check_locked(&a, "foo/1", 2);
	}
	steps = n;
	if (campaign)
		begin_campaign(&b, "foo", lease, "value");
	else
		begin_lock(&b, "foo", lease);
	if (!b.answer.ended) {
		fake_unary_cancel(b.call);
		steps = SIZE_MAX;
		if (held)
			unlock("foo/1"); /* at the same time */
		fake_run();
	}
	CU_ASSERT_TRUE_FATAL(b.answer.ended);
	cancelled = b.answer.status != KS_OK;
	if (cancelled)
		CU_ASSERT_EQUAL(b.answer.status, KS_CANCELLED);
	CU_ASSERT_EQUAL(keys_below("foo/"), cancelled ? 0 : 1);
	finish(&b);
	tear_down();
	return cancelled;
}

static void a_cancel_at_any_step_leaves_no_key(void)
{
	for (int campaign = 0; campaign < 2; campaign++) {
		for (int64_t lease = 0; lease < 3; lease += 2) {
			size_t n = 0;

			while (cancel_after(n, campaign, false, lease))
				n++;
			CU_ASSERT_EQUAL(n, lease ? 1 : 2);
			for (n = 0; n < 6; n++)
				(void)cancel_after(n, campaign, true, lease);
		}
	}
}

/* ---- Election ---- */

static void expect_leader(const char *name, const char *key, const char *value)
{
	V3electionpb__LeaderRequest request = V3ELECTIONPB__LEADER_REQUEST__INIT;
	V3electionpb__LeaderResponse *response;
	struct fake_answer answer;

	request.name = bin(name);
	ask("/v3electionpb.Election/Leader", &request, &answer);
	CU_ASSERT_EQUAL_FATAL(answer.status, KS_OK);
	response = v3electionpb__leader_response__unpack(NULL, answer.size, answer.data);
	CU_ASSERT_PTR_NOT_NULL_FATAL(response);
	CU_ASSERT_EQUAL(response->header->revision, now());
	CU_ASSERT_TRUE(is(response->kv->key, key));
	CU_ASSERT_TRUE(is(response->kv->value, value));
	v3electionpb__leader_response__free_unpacked(response, NULL);
	fake_answer_fini(&answer);
}

static void proclaim(const char *key, int64_t rev, int64_t lease, const char *value, enum ks_status status,
		     const char *text)
{
	V3electionpb__ProclaimRequest request = V3ELECTIONPB__PROCLAIM_REQUEST__INIT;
	V3electionpb__LeaderKey leader = V3ELECTIONPB__LEADER_KEY__INIT;

	leader.key = bin(key);
	leader.rev = rev;
	leader.lease = lease;
	request.leader = &leader;
	request.value = bin(value);
	expect("/v3electionpb.Election/Proclaim", &request, status, text);
}

static void resign(const char *key, int64_t rev, int64_t lease, enum ks_status status, const char *text)
{
	V3electionpb__ResignRequest request = V3ELECTIONPB__RESIGN_REQUEST__INIT;
	V3electionpb__LeaderKey leader = V3ELECTIONPB__LEADER_KEY__INIT;

	leader.key = bin(key);
	leader.rev = rev;
	leader.lease = lease;
	request.leader = &leader;
	expect("/v3electionpb.Election/Resign", &request, status, text);
}

static void elections(bool later, size_t cache_bytes)
{
	V3electionpb__LeaderRequest nobody = V3ELECTIONPB__LEADER_REQUEST__INIT;
	V3electionpb__ProclaimRequest proclaim_nothing = V3ELECTIONPB__PROCLAIM_REQUEST__INIT;
	V3electionpb__ResignRequest resign_nothing = V3ELECTIONPB__RESIGN_REQUEST__INIT;
	struct waiting a, b, c;

	set_up(later, cache_bytes);
	nobody.name = bin("e");
	expect("/v3electionpb.Election/Leader", &nobody, KS_UNKNOWN, "election: no leader");
	expect("/v3electionpb.Election/Proclaim", &proclaim_nothing, KS_UNKNOWN, "\"leader\" field must be provided");
	expect("/v3electionpb.Election/Resign", &resign_nothing, KS_UNKNOWN, "\"leader\" field must be provided");
	grant(1);
	grant(2);
	grant(3);
	begin_campaign(&a, "e", 1, "one");
	CU_ASSERT_EQUAL(check_elected(&a, "e/1", 1, 2), 2);
	expect_leader("e", "e/1", "one");
	begin_campaign(&b, "e", 2, "two");
	CU_ASSERT_FALSE(b.answer.ended);
	/* The same candidate again: with its value nothing happens, with another one that is proclaimed. */
	begin_campaign(&a, "e", 1, "one");
	CU_ASSERT_EQUAL(check_elected(&a, "e/1", 1, 3), 2);
	begin_campaign(&a, "e", 1, "one, again");
	CU_ASSERT_EQUAL(check_elected(&a, "e/1", 1, 3), 2);
	CU_ASSERT_EQUAL(now(), 4);
	expect_leader("e", "e/1", "one, again");

	proclaim("e/1", 2, 1, "first", KS_OK, "");
	expect_leader("e", "e/1", "first");
	proclaim("e/1", 3, 1, "stale", KS_UNKNOWN, "election: not leader");
	proclaim("e/9", 2, 1, "nobody's", KS_UNKNOWN, "election: not leader");
	proclaim("", 2, 1, "no key", KS_UNKNOWN, "etcdserver: key is not provided");
	proclaim("e/1", 2, 404, "no such lease", KS_UNKNOWN, "etcdserver: requested lease not found");
	expect_leader("e", "e/1", "first");
	begin_campaign(&c, "e", 3, "three");
	CU_ASSERT_FALSE(c.answer.ended);
	cancel(&c);
	check_failed(&c, KS_CANCELLED, "context canceled");
	CU_ASSERT_EQUAL(keys_below("e/"), 2);

	resign("e/1", 3, 1, KS_OK, ""); /* a stale one does nothing, and says so to nobody */
	resign("", 3, 1, KS_UNKNOWN, "etcdserver: key is not provided");
	CU_ASSERT_FALSE(b.answer.ended);
	resign("e/1", 2, 1, KS_OK, "");
	fake_run();
	CU_ASSERT_EQUAL(check_elected(&b, "e/2", 2, 3), 3);
	expect_leader("e", "e/2", "two");
	tear_down();
}

static void leaders_come_and_go(void)
{
	elections(false, 1 << 20);
	elections(true, 1 << 20);
}

static void leaders_come_and_go_with_all_values_outside_the_cache(void)
{
	elections(true, 0);
}

static void a_candidate_that_lost_its_key_is_not_the_leader(void)
{
	struct waiting a, b;

	set_up(true, 1 << 20);
	grant(1);
	grant(2);
	begin_campaign(&a, "e", 1, "one");
	(void)check_elected(&a, "e/1", 1, 2);
	/* Its key goes between the look at its value and the change of it. */
	steps = 1;
	begin_campaign(&b, "e", 1, "other");
	CU_ASSERT_FALSE(b.answer.ended);
	steps = 0;
	fix.committer.later = false;
	revoke(1);
	steps = SIZE_MAX;
	fake_run();
	check_failed(&b, KS_UNKNOWN, "election: not leader");
	tear_down();
}

static void without_a_lease_a_leaders_key_asks_for_a_new_one(void)
{
	struct waiting a;
	struct ks_lease_info *infos;
	size_t count;

	set_up(false, 1 << 20);
	grant(1);
	begin_campaign(&a, "e", 1, "one");
	CU_ASSERT_EQUAL(check_elected(&a, "e/1", 1, 2), 2);
	proclaim("e/1", 2, 0, "on another lease", KS_OK, "");
	CU_ASSERT_EQUAL_FATAL(ks_store_leases(fix.store, &infos, &count), KS_OK);
	CU_ASSERT_EQUAL(count, 2);
	free(infos);
	revoke(1);
	expect_leader("e", "e/1", "on another lease");
	tear_down();
}

/* ---- Observe ---- */

static struct ks_call *observe(const char *name)
{
	V3electionpb__LeaderRequest request = V3ELECTIONPB__LEADER_REQUEST__INIT;
	struct ks_call *stream = fake_stream_open("/v3electionpb.Election/Observe", NULL);

	request.name = bin(name);
	fake_stream_message(stream, pack(&request.base));
	fake_stream_half_close(stream);
	fake_run();
	return stream;
}

/* The next response, "key=value" at a revision; 0: any. */
static bool next_is(struct ks_call *stream, const char *key, const char *value, int64_t revision)
{
	V3electionpb__LeaderResponse *response;
	bool right;
	uint8_t *data;
	size_t size;

	if (!fake_stream_next(stream, &data, &size))
		return false;
	response = v3electionpb__leader_response__unpack(NULL, size, data);
	KS_ASSERT(response && response->header && response->kv);
	right = is(response->kv->key, key) && is(response->kv->value, value) &&
		(!revision || response->header->revision == revision);
	if (!right)
		printf("# revision %lld, value %.*s\n", (long long)response->header->revision,
		       (int)response->kv->value.len, (const char *)response->kv->value.data);
	v3electionpb__leader_response__free_unpacked(response, NULL);
	free(data);
	fake_run();
	return right;
}

static bool nothing_comes(struct ks_call *stream)
{
	uint8_t *data;
	size_t size;
	bool came;

	fake_run();
	came = fake_stream_next(stream, &data, &size);
	if (came)
		free(data);
	return !came;
}

static void observers_see(bool later, size_t cache_bytes)
{
	struct ks_call *early, *late;
	char value[16];

	set_up(later, cache_bytes);
	grant(1);
	grant(2);
	early = observe("e");
	CU_ASSERT_TRUE(nothing_comes(early));
	put("e", "not below the name", 0);
	put("e0", "neither", 0);
	CU_ASSERT_TRUE(nothing_comes(early));
	put("e/1", "one", 1); /* r4 */
	fake_run();
	CU_ASSERT_TRUE(next_is(early, "e/1", "one", 4));
	put("e/2", "two", 2); /* r5: second in the line */
	CU_ASSERT_TRUE(nothing_comes(early));
	late = observe("e");
	CU_ASSERT_TRUE(next_is(late, "e/1", "one", 5));
	put("e/1", "first", 1); /* r6 */
	fake_run();
	CU_ASSERT_TRUE(next_is(early, "e/1", "first", 6));
	CU_ASSERT_TRUE(next_is(late, "e/1", "first", 6));
	put("e/2", "second", 2);
	CU_ASSERT_TRUE(nothing_comes(early));
	revoke(1);
	fake_run();
	CU_ASSERT_TRUE(next_is(early, "e/2", "second", 8));
	CU_ASSERT_TRUE(next_is(late, "e/2", "second", 8));
	revoke(2);
	fake_run();
	CU_ASSERT_TRUE(nothing_comes(early));
	/* A client that does not read holds a few values; nothing of one leader is lost, whatever the compactions. */
	grant(3);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(value, sizeof(value), "%d", i);
		put("e/3", value, 3);
		fake_run();
	}
	CU_ASSERT_TRUE(ks_stream_queued(late, NULL) < 16);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(value, sizeof(value), "%d", i);
		CU_ASSERT_TRUE(next_is(early, "e/3", value, 0));
	}
	CU_ASSERT_TRUE(nothing_comes(early));
	fake_stream_close(early);
	fake_stream_close(late);
	tear_down();
}

static void observers_see_every_leader_and_every_word(void)
{
	observers_see(false, 1 << 20);
	observers_see(true, 1 << 20);
}

static void observers_see_values_outside_the_cache(void)
{
	observers_see(false, 0);
	observers_see(true, 0);
}

static void the_first_candidate_of_one_revision_is_followed(void)
{
	struct ks_put_req first = {.key = ks_slice_str("e/2"), .value = ks_slice_str("first")};
	struct ks_put_req second = {.key = ks_slice_str("e/1"), .value = ks_slice_str("second")};
	struct ks_op ops[] = {{.kind = KS_OP_PUT, .put = first}, {.kind = KS_OP_PUT, .put = second}};
	struct ks_submit submit = {.request = {.kind = KS_REQ_TXN, .txn = {.success = ops, .success_count = 2}}};
	struct ks_result result = {0};
	struct ks_effects effects = {0};
	struct ks_call *stream;

	set_up(false, 1 << 20);
	stream = observe("e");
	CU_ASSERT_EQUAL(ks_store_eval(fix.store, &submit.request, &result, &effects, NULL), KS_OK);
	ks_store_publish(fix.store);
	ks_effects_fini(&effects);
	ks_result_fini(&result);
	fake_run();
	CU_ASSERT_TRUE(next_is(stream, "e/2", "first", 2));
	put("e/1", "not the leader", 0);
	CU_ASSERT_TRUE(nothing_comes(stream));
	fake_stream_close(stream);
	tear_down();
}

static void check_closed_early(struct ks_call *stream)
{
	struct fake_answer answer;

	CU_ASSERT_TRUE_FATAL(fake_stream_finished(stream, &answer));
	CU_ASSERT_EQUAL(answer.status, KS_UNKNOWN);
	CU_ASSERT_STRING_EQUAL(answer.text, "election: observe closed early");
	fake_stream_close(stream);
}

static void an_observer_that_cannot_go_on_says_so(void)
{
	struct ks_call *expecting, *following, *away;

	set_up(false, 1 << 20);
	expecting = observe("nobody");
	put("e/1", "one", 0);
	following = observe("e");
	CU_ASSERT_TRUE(next_is(following, "e/1", "one", 2));
	fix.committer.away = true;
	away = observe("e");
	check_closed_early(away);
	fix.committer.away = false;
	ks_store_reset(fix.store);
	fake_run();
	check_closed_early(expecting);
	check_closed_early(following);
	tear_down();
}

static void an_observer_may_close_at_any_step(void)
{
	for (size_t n = 0; n < 8; n++) {
		struct ks_call *stream;

		set_up(true, 0);
		put("e/1", "one", 0);
		steps = n;
		stream = observe("e");
		if (n > 4) {
			fix.committer.later = false;
			put("e/1", "two", 0);
			fix.committer.later = true;
			fake_run();
		}
		fake_stream_close(stream);
		steps = SIZE_MAX;
		fake_run();
		tear_down();
	}
}

/* ---- failing allocations ---- */

/* Whatever fails, fails with RESOURCE_EXHAUSTED or, inside of Observe, with its one text. */
static bool fine(const struct fake_answer *answer)
{
	if (answer->status == KS_OK || answer->status == KS_RESOURCE_EXHAUSTED)
		return answer->status == KS_OK;
	printf("# %s %s\n", ks_status_name(answer->status), answer->text);
	CU_ASSERT_STRING_EQUAL(answer->text, "election: observe closed early");
	return false;
}

static void everything(void)
{
	V3electionpb__LeaderRequest who = V3ELECTIONPB__LEADER_REQUEST__INIT;
	V3electionpb__ProclaimRequest proclaim_request = V3ELECTIONPB__PROCLAIM_REQUEST__INIT;
	V3electionpb__ResignRequest resign_request = V3ELECTIONPB__RESIGN_REQUEST__INIT;
	V3electionpb__LeaderKey leader = V3ELECTIONPB__LEADER_KEY__INIT;
	V3lockpb__UnlockRequest unlock_request = V3LOCKPB__UNLOCK_REQUEST__INIT;
	struct waiting a, b, c, d, e;
	struct fake_answer answer;
	struct ks_call *stream;
	uint8_t *data;
	size_t size;

	stream = observe("e");
	begin_lock(&a, "foo", 1);
	begin_lock(&b, "foo", 2);
	begin_lock(&c, "foo", 0);
	begin_campaign(&d, "e", 1, "one");
	begin_campaign(&e, "e", 2, "two");
	CU_ASSERT_TRUE(a.answer.ended);
	CU_ASSERT_TRUE(d.answer.ended);
	(void)fine(&a.answer);
	(void)fine(&d.answer);
	finish(&a);
	leader.key = bin("e/1");
	leader.rev = d.answer.status == KS_OK ? now() : 7;
	leader.lease = 1;
	proclaim_request.leader = resign_request.leader = &leader;
	proclaim_request.value = bin("said");
	ask("/v3electionpb.Election/Proclaim", &proclaim_request, &answer);
	if (answer.status != KS_UNKNOWN)
		(void)fine(&answer);
	fake_answer_fini(&answer);
	who.name = bin("e");
	ask("/v3electionpb.Election/Leader", &who, &answer);
	if (answer.status != KS_UNKNOWN)
		(void)fine(&answer);
	fake_answer_fini(&answer);
	ask("/v3electionpb.Election/Resign", &resign_request, &answer);
	(void)fine(&answer);
	fake_answer_fini(&answer);
	finish(&d);
	fake_run();
	while (fake_stream_next(stream, &data, &size)) {
		free(data);
		fake_run();
	}
	if (fake_stream_finished(stream, &answer))
		(void)fine(&answer);
	fake_stream_close(stream);
	unlock_request.key = bin("foo/1");
	ask("/v3lockpb.Lock/Unlock", &unlock_request, &answer);
	(void)fine(&answer);
	fake_answer_fini(&answer);
	fake_run();
	cancel(&b);
	cancel(&c);
	cancel(&e);
	finish(&b);
	finish(&c);
	finish(&e);
}

static void torture(bool later, size_t cache_bytes)
{
	size_t n = 0;
	struct waiting after;

	do {
		set_up(later, cache_bytes);
		grant(1);
		grant(2);
		allocations = 0;
		failing = ++n;
		everything();
		failing = 0;
		/* It goes on as if nothing had been. */
		revoke(1);
		revoke(2);
		grant(9);
		begin_lock(&after, "all", 9);
		(void)check_locked(&after, "all/9", 0);
		tear_down();
#if defined(__SANITIZE_ADDRESS__)
		if (n % LEAK_CHECK_ROUNDS == 0)
			CU_ASSERT_EQUAL_FATAL(__lsan_do_recoverable_leak_check(), 0);
#endif
	} while (allocations >= n);
	printf("# %zu allocations\n", n - 1);
	CU_ASSERT_TRUE(n > 50);
}

static void nth_allocation_fails_and_nothing_else_does(void)
{
	torture(false, 1 << 20);
}

static void nth_allocation_fails_while_operations_wait(void)
{
	torture(true, 1 << 20);
	torture(true, 0);
}

int main(void)
{
	return tap_run("lock", (const struct tap_test[]){
#define T(name) {#name, name}
				       T(a_free_lock_is_taken_at_once),
				       T(leases_make_keys_as_etcd_writes_them),
				       T(locks_are_given_in_the_order_of_asking),
				       T(who_gives_up_while_waiting_leaves_no_key),
				       T(a_lock_whose_lease_ended_while_waiting_is_not_given),
				       T(without_a_lease_each_lock_gets_its_own),
				       T(inner_errors_come_out_as_unknown),
				       T(waiting_survives_a_compaction_and_an_outage),
				       T(a_store_that_starts_anew_ends_the_wait),
				       T(the_end_of_the_server_ends_the_wait),
				       T(a_cancel_at_any_step_leaves_no_key),
				       T(leaders_come_and_go),
				       T(leaders_come_and_go_with_all_values_outside_the_cache),
				       T(a_candidate_that_lost_its_key_is_not_the_leader),
				       T(without_a_lease_a_leaders_key_asks_for_a_new_one),
				       T(observers_see_every_leader_and_every_word),
				       T(observers_see_values_outside_the_cache),
				       T(the_first_candidate_of_one_revision_is_followed),
				       T(an_observer_that_cannot_go_on_says_so),
				       T(an_observer_may_close_at_any_step),
				       T(nth_allocation_fails_and_nothing_else_does),
				       T(nth_allocation_fails_while_operations_wait),
#undef T
				       {NULL, NULL}});
}
