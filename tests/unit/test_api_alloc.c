/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API layer without a network: every RPC once, on a real store behind a fake committer, with the answers checked; then the
 * same again with the first, second, … n-th allocation of the layer failing, until none fails any more. Each call
 * must then end with its answer or with RESOURCE_EXHAUSTED, leak nothing, and leave a server that works.
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
#include "proto/health.pb-c.h"
#include "proto/rpc.pb-c.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/fake_call.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#define LEAK_CHECK_ROUNDS 64

/* ---- the layer, set up ---- */

static bool strict; /* no allocation fails: answers must be exact */

static bool idle(void *ctx)
{
	(void)ctx;
	return fake_committer_step(&fix.committer);
}

static void set_up(bool later, size_t cache_bytes)
{
	api_fixture_start(later, cache_bytes, 0, idle);
}

/* ---- calls ---- */

static uint8_t packed[1u << 16];

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

/* The answer, decoded; NULL when an allocation failed (then nothing else may be wrong). */
static ProtobufCMessage *call(const char *path, const void *request, const ProtobufCMessageDescriptor *type)
{
	struct fake_answer answer;
	ProtobufCMessage *message = NULL;

	fake_unary(path, pack(request), NULL, &answer);
	if (answer.status == KS_OK) {
		message = protobuf_c_message_unpack(type, NULL, answer.size, answer.data);
		CU_ASSERT_PTR_NOT_NULL(message);
	} else if (strict || answer.status != KS_RESOURCE_EXHAUSTED) {
		printf("# %s: %s %s\n", path, ks_status_name(answer.status), answer.text);
		CU_FAIL("call failed");
	}
	fake_answer_fini(&answer);
	return message;
}

#define CALL(service, method, request, response) \
	(void *)call("/etcdserverpb." service "/" method, request, &etcdserverpb__##response##_response__descriptor)

static void done(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

/* 'revision' 0: any. */
static void check_header(const Etcdserverpb__ResponseHeader *header, int64_t revision)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(header);
	CU_ASSERT_EQUAL(header->cluster_id, 0xc1);
	CU_ASSERT_EQUAL(header->member_id, 0x3e);
	CU_ASSERT_EQUAL(header->raft_term, 2);
	if (strict && revision)
		CU_ASSERT_EQUAL(header->revision, revision);
}

/* ---- KV ---- */

static void put(const char *key, const char *value, int64_t lease, const char *previous, int64_t revision)
{
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__PutResponse *response;

	request.key = bin(key);
	request.value = bin(value);
	request.lease = lease;
	request.prev_kv = true;
	response = CALL("KV", "Put", &request, put);
	if (response) {
		check_header(response->header, revision);
		if (strict) {
			CU_ASSERT_EQUAL(response->prev_kv != NULL, previous != NULL);
			if (previous && response->prev_kv)
				CU_ASSERT_TRUE(is(response->prev_kv->value, previous));
		}
	}
	done(response);
}

static void range(bool serializable, int64_t limit, int order, size_t kvs, int64_t count, bool more, int64_t revision)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;

	request.key = bin("a");
	request.range_end = bin("z");
	request.serializable = serializable;
	request.limit = limit;
	request.sort_order = (Etcdserverpb__RangeRequest__SortOrder)order;
	request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
	response = CALL("KV", "Range", &request, range);
	if (response) {
		check_header(response->header, revision);
		if (strict) {
			CU_ASSERT_EQUAL(response->n_kvs, kvs);
			CU_ASSERT_EQUAL(response->count, count);
			CU_ASSERT_EQUAL(response->more, more);
			if (order == KS_SORT_DESCEND && kvs)
				CU_ASSERT_TRUE(is(response->kvs[0]->value, "3"));
		}
	}
	done(response);
}

/* if value(a) = "2" then [get a, put d 4, txn{then: get d}, delete e] */
static void write_txn(int64_t revision)
{
	Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares[] = {&compare};
	Etcdserverpb__RangeRequest get[2] = {ETCDSERVERPB__RANGE_REQUEST__INIT, ETCDSERVERPB__RANGE_REQUEST__INIT};
	Etcdserverpb__PutRequest put_d = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__DeleteRangeRequest delete_e = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	Etcdserverpb__TxnRequest inner = ETCDSERVERPB__TXN_REQUEST__INIT, outer = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__RequestOp op[5], *ops[5];
	Etcdserverpb__TxnResponse *response;

	for (int i = 0; i < 5; i++) {
		etcdserverpb__request_op__init(&op[i]);
		ops[i] = &op[i];
	}
	compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
	compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
	compare.key = bin("a");
	compare.value = bin("2");
	get[0].key = bin("a");
	get[1].key = bin("d");
	put_d.key = bin("d");
	put_d.value = bin("4");
	delete_e.key = bin("e");
	op[0].request_case = op[4].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	op[0].request_range = &get[0];
	op[4].request_range = &get[1];
	op[1].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
	op[1].request_put = &put_d;
	op[2].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
	op[2].request_txn = &inner;
	op[3].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
	op[3].request_delete_range = &delete_e;
	inner.n_success = 1;
	inner.success = &ops[4];
	outer.n_compare = 1;
	outer.compare = compares;
	outer.n_success = 4;
	outer.success = ops;
	response = CALL("KV", "Txn", &outer, txn);
	if (response)
		check_header(response->header, revision);
	if (response && strict) {
		const Etcdserverpb__TxnResponse *nested;

		CU_ASSERT_TRUE(response->succeeded);
		CU_ASSERT_EQUAL_FATAL(response->n_responses, 4);
		CU_ASSERT_EQUAL(response->responses[0]->response_range->header->revision, revision - 1);
		CU_ASSERT_EQUAL(response->responses[0]->response_range->header->cluster_id, 0);
		CU_ASSERT_TRUE(is(response->responses[0]->response_range->kvs[0]->value, "2"));
		CU_ASSERT_EQUAL(response->responses[1]->response_put->header->revision, revision);
		nested = response->responses[2]->response_txn;
		CU_ASSERT_PTR_NOT_NULL_FATAL(nested->header);
		CU_ASSERT_EQUAL(nested->header->revision, 0);
		CU_ASSERT_TRUE(nested->succeeded);
		CU_ASSERT_TRUE(is(nested->responses[0]->response_range->kvs[0]->value, "4"));
		CU_ASSERT_EQUAL(response->responses[3]->response_delete_range->deleted, 0);
		CU_ASSERT_EQUAL(response->responses[3]->response_delete_range->header->revision, revision);
	}
	done(response);
}

/* if value(every key) > "0" then [get all]: reads only */
static void read_txn(size_t kvs, int64_t revision)
{
	Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares[] = {&compare};
	Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT, *ops[] = {&op};
	Etcdserverpb__TxnResponse *response;

	compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
	compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
	compare.result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER;
	compare.key = get.key = bin("a");
	compare.range_end = get.range_end = bin("z");
	compare.value = bin("0");
	op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	op.request_range = &get;
	request.n_compare = request.n_success = 1;
	request.compare = compares;
	request.success = ops;
	response = CALL("KV", "Txn", &request, txn);
	if (response) {
		check_header(response->header, revision);
		if (strict) {
			CU_ASSERT_TRUE(response->succeeded);
			CU_ASSERT_EQUAL(response->responses[0]->response_range->n_kvs, kvs);
			CU_ASSERT_EQUAL(response->responses[0]->response_range->header->revision, revision);
		}
	}
	done(response);
}

static char large[5000];

/* Values that are passed on by reference instead of copied, in each kind of answer and nested. */
static void large_values(void)
{
	Etcdserverpb__RangeRequest get = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__DeleteRangeRequest del = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	Etcdserverpb__TxnRequest inner = ETCDSERVERPB__TXN_REQUEST__INIT, outer = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__RequestOp op[3], *ops[3] = {&op[0], &op[1], &op[2]};
	Etcdserverpb__TxnResponse *response;

	memset(large, 'v', sizeof(large) - 1);
	put("l1", large, 0, NULL, 0);
	put("l2", large, 0, NULL, 0);
	put("l2", large, 0, large, 0);
	for (int i = 0; i < 3; i++)
		etcdserverpb__request_op__init(&op[i]);
	get.key = del.key = bin("l1");
	get.range_end = del.range_end = bin("l3");
	del.prev_kv = true;
	op[0].request_case = op[2].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
	op[0].request_range = op[2].request_range = &get;
	op[1].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
	op[1].request_txn = &inner;
	inner.n_success = 1;
	inner.success = &ops[2];
	outer.n_success = 2;
	outer.success = ops;
	response = CALL("KV", "Txn", &outer, txn);
	if (response && strict) {
		const Etcdserverpb__TxnResponse *nested = response->responses[1]->response_txn;

		CU_ASSERT_EQUAL_FATAL(response->responses[0]->response_range->n_kvs, 2);
		CU_ASSERT_EQUAL_FATAL(nested->responses[0]->response_range->n_kvs, 2);
		CU_ASSERT_TRUE(is(response->responses[0]->response_range->kvs[0]->value, large));
		CU_ASSERT_TRUE(is(nested->responses[0]->response_range->kvs[1]->value, large));
	}
	done(response);
	op[2].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
	op[2].request_delete_range = &del;
	response = CALL("KV", "Txn", &outer, txn);
	if (response && strict) {
		const Etcdserverpb__ResponseOp *nested = response->responses[1]->response_txn->responses[0];

		CU_ASSERT_EQUAL_FATAL(nested->response_delete_range->n_prev_kvs, 2);
		CU_ASSERT_TRUE(is(nested->response_delete_range->prev_kvs[1]->value, large));
	}
	done(response);
}

static void delete_range(int64_t deleted, int64_t revision)
{
	Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
	Etcdserverpb__DeleteRangeResponse *response;

	request.key = bin("b");
	request.range_end = bin("d");
	request.prev_kv = true;
	response = CALL("KV", "DeleteRange", &request, delete_range);
	if (response) {
		check_header(response->header, revision);
		if (strict) {
			CU_ASSERT_EQUAL(response->deleted, deleted);
			CU_ASSERT_EQUAL_FATAL(response->n_prev_kvs, (size_t)deleted);
			CU_ASSERT_TRUE(is(response->prev_kvs[0]->key, "b"));
		}
	}
	done(response);
}

static void compact(int64_t at, int64_t revision)
{
	Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	Etcdserverpb__CompactionResponse *response;

	request.revision = at;
	request.physical = true;
	response = CALL("KV", "Compact", &request, compaction);
	if (response)
		check_header(response->header, revision);
	done(response);
}

/* ---- streams ---- */

static void check_finished(struct ks_call *stream, enum ks_status expected)
{
	struct fake_answer answer;

	fake_run();
	if (fake_stream_finished(stream, &answer) && answer.status != expected) {
		CU_ASSERT_TRUE(!strict && answer.status == KS_RESOURCE_EXHAUSTED);
		if (answer.status != KS_RESOURCE_EXHAUSTED)
			printf("# stream: %s %s\n", ks_status_name(answer.status), answer.text);
	}
	CU_ASSERT_TRUE(answer.ended || !strict || expected == KS_CANCELLED);
}

static void range_stream(size_t keys, int64_t revision)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	struct ks_call *stream = fake_stream_open("/etcdserverpb.KV/RangeStream", NULL);
	size_t seen = 0, chunks = 0, headers = 0, size;
	uint8_t *data;

	request.key = bin("a");
	request.range_end = bin("zz");
	fake_stream_message(stream, pack(&request.base));
	fake_run();
	while (fake_stream_next(stream, &data, &size)) {
		Etcdserverpb__RangeStreamResponse *response =
			etcdserverpb__range_stream_response__unpack(NULL, size, data);

		CU_ASSERT_PTR_NOT_NULL_FATAL(response);
		chunks++;
		seen += response->range_response->n_kvs;
		headers += response->range_response->header != NULL;
		if (response->range_response->header) {
			check_header(response->range_response->header, revision);
			CU_ASSERT_TRUE(!strict || response->range_response->count == (int64_t)keys);
		}
		done(response);
		free(data);
		fake_run();
	}
	if (strict) {
		CU_ASSERT_EQUAL(seen, keys);
		CU_ASSERT_EQUAL(headers, 1);
		CU_ASSERT_TRUE(chunks > 1);
	}
	check_finished(stream, KS_OK);
	fake_stream_close(stream);
}

static void keepalive(int64_t lease)
{
	const int64_t ids[] = {lease, 404, lease};
	struct ks_call *stream = fake_stream_open("/etcdserverpb.Lease/LeaseKeepAlive", NULL);
	size_t answers = 0, size;
	uint8_t *data;

	for (size_t i = 0; i < 3; i++) {
		Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;

		request.id = ids[i];
		fake_stream_message(stream, pack(&request.base));
	}
	fake_stream_half_close(stream);
	fake_run();
	while (fake_stream_next(stream, &data, &size)) {
		Etcdserverpb__LeaseKeepAliveResponse *response =
			etcdserverpb__lease_keep_alive_response__unpack(NULL, size, data);

		CU_ASSERT_PTR_NOT_NULL_FATAL(response);
		CU_ASSERT_EQUAL(response->id, ids[answers]);
		if (strict)
			CU_ASSERT_EQUAL(response->ttl, ids[answers] == lease ? 60 : 0);
		answers++;
		done(response);
		free(data);
	}
	if (strict)
		CU_ASSERT_EQUAL(answers, 3);
	check_finished(stream, KS_OK);
	fake_stream_close(stream);
}

static void send_watch_create(struct ks_call *stream, int64_t start, bool fragment)
{
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;

	create.key = bin("a");
	create.range_end = bin("z");
	create.start_revision = start;
	create.prev_kv = create.progress_notify = true;
	create.fragment = fragment;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	fake_stream_message(stream, pack(&request.base));
	fake_run();
}

/* Counts what came: created responses, events, cancels. */
static void read_watch(struct ks_call *stream, size_t counts[3])
{
	uint8_t *data;
	size_t size;

	fake_run();
	while (fake_stream_next(stream, &data, &size)) {
		Etcdserverpb__WatchResponse *response = etcdserverpb__watch_response__unpack(NULL, size, data);

		CU_ASSERT_PTR_NOT_NULL_FATAL(response);
		counts[0] += response->created != 0;
		counts[1] += response->n_events;
		counts[2] += response->canceled != 0;
		done(response);
		free(data);
		fake_run();
	}
}

static void watch(void)
{
	Etcdserverpb__WatchCancelRequest cancel = ETCDSERVERPB__WATCH_CANCEL_REQUEST__INIT;
	Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	struct ks_call *stream = fake_stream_open("/etcdserverpb.Watch/Watch", NULL);
	size_t counts[3] = {0};

	send_watch_create(stream, 0, false);
	send_watch_create(stream, 3, true);
	put("w", "1", 0, NULL, 0);
	put("w", "2", 0, "1", 0);
	read_watch(stream, counts);
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
	request.progress_request = &progress;
	fake_stream_message(stream, pack(&request.base));
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST;
	request.cancel_request = &cancel;
	fake_stream_message(stream, pack(&request.base));
	read_watch(stream, counts);
	if (strict) {
		CU_ASSERT_EQUAL(counts[0], 2);
		CU_ASSERT_TRUE(counts[1] >= 2 + 3);
		CU_ASSERT_EQUAL(counts[2], 1);
	}
	check_finished(stream, KS_CANCELLED);
	fake_stream_close(stream);
}

/* ---- leases and the rest ---- */

static int64_t grant(void)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Etcdserverpb__LeaseGrantResponse *response;
	int64_t id = 0;

	request.ttl = 60;
	response = CALL("Lease", "LeaseGrant", &request, lease_grant);
	if (response) {
		CU_ASSERT_EQUAL(response->ttl, 60);
		CU_ASSERT_TRUE(response->id > 0);
		id = response->id;
	}
	done(response);
	return id;
}

static void leases(void)
{
	Etcdserverpb__LeaseTimeToLiveRequest ttl = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__LeaseLeasesRequest list = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
	Etcdserverpb__LeaseRevokeRequest revoke = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	Etcdserverpb__LeaseTimeToLiveResponse *times;
	Etcdserverpb__LeaseLeasesResponse *all;
	int64_t id = grant();

	if (!id)
		return;
	put("leased", "x", id, NULL, 0);
	keepalive(id);
	ttl.id = id;
	ttl.keys = true;
	times = CALL("Lease", "LeaseTimeToLive", &ttl, lease_time_to_live);
	if (times && strict) {
		CU_ASSERT_EQUAL(times->ttl, 59);
		CU_ASSERT_EQUAL(times->grantedttl, 60);
		CU_ASSERT_EQUAL_FATAL(times->n_keys, 1);
		CU_ASSERT_TRUE(is(times->keys[0], "leased"));
	}
	done(times);
	all = CALL("Lease", "LeaseLeases", &list, lease_leases);
	if (all && strict)
		CU_ASSERT_TRUE(all->n_leases == 1 && all->leases[0]->id == id);
	done(all);
	revoke.id = id;
	done(CALL("Lease", "LeaseRevoke", &revoke, lease_revoke));
	ttl.id = 404;
	times = CALL("Lease", "LeaseTimeToLive", &ttl, lease_time_to_live);
	if (times)
		CU_ASSERT_TRUE(times->ttl == -1 && times->grantedttl == 0 && times->id == 404);
	done(times);
}

static void alarms(void)
{
	Etcdserverpb__AlarmRequest alarm = ETCDSERVERPB__ALARM_REQUEST__INIT;
	Etcdserverpb__AlarmResponse *response;

	alarm.memberid = 7;
	alarm.alarm = ETCDSERVERPB__ALARM_TYPE__NOSPACE;
	alarm.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE;
	for (int i = 0; i < 3; i++) {
		response = CALL("Maintenance", "Alarm", &alarm, alarm);
		if (response && strict)
			CU_ASSERT_TRUE(response->n_alarms == 1 && response->alarms[0]->memberid == 7 &&
				       response->alarms[0]->alarm == ETCDSERVERPB__ALARM_TYPE__NOSPACE);
		done(response);
		/* Raised, listed, lifted. */
		alarm.action = i == 0 ? ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET
				      : ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
	}
}

static void leader_and_members(void)
{
	Etcdserverpb__MoveLeaderRequest move = ETCDSERVERPB__MOVE_LEADER_REQUEST__INIT;
	Etcdserverpb__DowngradeRequest downgrade = ETCDSERVERPB__DOWNGRADE_REQUEST__INIT;
	Etcdserverpb__MemberUpdateRequest update = ETCDSERVERPB__MEMBER_UPDATE_REQUEST__INIT;
	char first[] = "http://127.0.0.1:1", second[] = "http://[::1]:1", version[] = "3.5";
	char *urls[] = {first, second};
	Etcdserverpb__MemberUpdateResponse *members;

	move.targetid = 0x3e;
	done(CALL("Maintenance", "MoveLeader", &move, move_leader));
	downgrade.version = version;
	done(CALL("Maintenance", "Downgrade", &downgrade, downgrade));
	/* To what it has already. */
	update.id = 0x3e;
	update.n_peerurls = 2;
	update.peerurls = urls;
	members = CALL("Cluster", "MemberUpdate", &update, member_update);
	if (members)
		CU_ASSERT_TRUE(members->n_members == 1 && members->members[0]->n_peerurls == 2);
	done(members);
}

static void maintenance(void)
{
	Etcdserverpb__MemberListRequest members = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
	Etcdserverpb__StatusRequest status = ETCDSERVERPB__STATUS_REQUEST__INIT;
	Etcdserverpb__AlarmRequest alarm = ETCDSERVERPB__ALARM_REQUEST__INIT;
	Etcdserverpb__DefragmentRequest defragment = ETCDSERVERPB__DEFRAGMENT_REQUEST__INIT;
	Etcdserverpb__HashRequest hash = ETCDSERVERPB__HASH_REQUEST__INIT;
	Etcdserverpb__HashKVRequest hash_kv = ETCDSERVERPB__HASH_KVREQUEST__INIT;
	Grpc__Health__V1__HealthCheckRequest health = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	Etcdserverpb__MemberListResponse *list;
	Etcdserverpb__StatusResponse *state;
	Grpc__Health__V1__HealthCheckResponse *healthy;

	members.linearizable = true;
	list = CALL("Cluster", "MemberList", &members, member_list);
	if (list) {
		check_header(list->header, 0);
		CU_ASSERT_EQUAL(list->header->revision, 0);
		CU_ASSERT_EQUAL_FATAL(list->n_members, 1);
		CU_ASSERT_EQUAL(list->members[0]->n_clienturls, 2);
		CU_ASSERT_STRING_EQUAL(list->members[0]->clienturls[1], "http://[::1]:1");
	}
	done(list);
	state = CALL("Maintenance", "Status", &status, status);
	if (state) {
		CU_ASSERT_STRING_EQUAL(state->version, KS_ETCD_VERSION);
		CU_ASSERT_EQUAL(state->leader, 0x3e);
		CU_ASSERT_PTR_NOT_NULL(state->downgradeinfo);
	}
	done(state);
	done(CALL("Maintenance", "Alarm", &alarm, alarm));
	done(CALL("Maintenance", "Defragment", &defragment, defragment));
	done(CALL("Maintenance", "Hash", &hash, hash));
	alarms();
	leader_and_members();
	done(call("/etcdserverpb.Maintenance/HashKV", &hash_kv, &etcdserverpb__hash_kvresponse__descriptor));
	healthy = (void *)call("/grpc.health.v1.Health/Check", &health,
			       &grpc__health__v1__health_check_response__descriptor);
	if (healthy)
		CU_ASSERT_EQUAL(healthy->status, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
	done(healthy);
}

static void health_watch(void)
{
	Grpc__Health__V1__HealthCheckRequest health = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	struct ks_call *stream = fake_stream_open("/grpc.health.v1.Health/Watch", NULL);
	uint8_t *data = NULL;
	size_t size = 0;

	fake_stream_message(stream, pack(&health.base));
	if (fake_stream_next(stream, &data, &size)) {
		CU_ASSERT_TRUE(size == 2 && data[0] == 8 && data[1] == 1);
	} else {
		CU_ASSERT_FALSE(strict);
	}
	free(data);
	check_finished(stream, KS_CANCELLED);
	fake_stream_close(stream);
}

/* Every RPC that is there; r1 before, and the revisions are known as long as nothing fails. */
static void every_rpc(void)
{
	char key[16];

	put("a", "1", 0, NULL, 2);
	put("a", "2", 0, "1", 3);
	put("b", "3", 0, NULL, 4);
	put("c", "1", 0, NULL, 5);
	range(false, 0, KS_SORT_NONE, 3, 3, false, 5);
	range(true, 2, KS_SORT_DESCEND, 2, 3, true, 5);
	write_txn(6);
	read_txn(4, 6);
	delete_range(2, 7);
	watch();
	compact(4, 9);
	for (int i = 0; i < 30; i++) {
		(void)snprintf(key, sizeof(key), "s%02d", i);
		put(key, "stream", 0, NULL, 10 + i);
	}
	range_stream(33, 39);
	large_values();
	leases();
	maintenance();
	health_watch();
}

static void run(bool later, size_t cache_bytes)
{
	set_up(later, cache_bytes);
	api_fixture_first_entry();
	every_rpc();
	api_fixture_stop();
}

/* ---- the promises ---- */

static void every_rpc_answers_exactly(void)
{
	strict = true;
	run(false, 1 << 20);
}

static void every_rpc_answers_exactly_when_the_committer_takes_its_time(void)
{
	strict = true;
	run(true, 1 << 20);
}

static void every_rpc_answers_exactly_with_all_values_outside_the_cache(void)
{
	strict = true;
	run(false, 0);
	CU_ASSERT_TRUE(fix.committer.fetches > 0);
	run(true, 0);
}

static void torture(bool later, size_t cache_bytes)
{
	size_t n = 0;

	strict = false;
	do {
		set_up(later, cache_bytes);
		api_fixture_first_entry();
		allocations = 0;
		failing = ++n;
		every_rpc();
		failing = 0;
		/* It goes on as if nothing had been. */
		put("after", "all", 0, NULL, 0);
		api_fixture_stop();
#if defined(__SANITIZE_ADDRESS__)
		/* It takes long; a leak of any round is still there at the next look. */
		if (n % LEAK_CHECK_ROUNDS == 0)
			CU_ASSERT_EQUAL_FATAL(__lsan_do_recoverable_leak_check(), 0);
#endif
	} while (allocations >= n);
	printf("# %zu allocations\n", n - 1);
	CU_ASSERT_TRUE(n > 200);
}

static void nth_allocation_fails_and_nothing_else_does(void)
{
	torture(false, 1 << 20);
}

static void nth_allocation_fails_while_operations_wait(void)
{
	torture(true, 1 << 20);
}

static void nth_allocation_fails_while_values_are_fetched(void)
{
	torture(true, 0);
}

static void away_database_refuses_writes_and_proofs_but_not_serializable_reads(void)
{
	Etcdserverpb__PutRequest put_request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__RangeRequest range_request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	const struct fake_metadata leader[] = {{"hasleader", "true"}, {NULL, NULL}};
	struct fake_answer answer;

	strict = true;
	set_up(false, 1 << 20);
	put_request.key = range_request.key = bin("a");
	range_request.serializable = true;
	fake_unary("/etcdserverpb.KV/Range", pack(&range_request.base), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_UNAVAILABLE); /* nothing loaded yet */
	api_fixture_first_entry();
	fake_unary("/etcdserverpb.KV/Range", pack(&range_request.base), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_OK);
	fake_answer_fini(&answer);
	fix.committer.away = true;
	fake_unary("/etcdserverpb.KV/Range", pack(&range_request.base), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_OK);
	fake_answer_fini(&answer);
	fake_unary("/etcdserverpb.KV/Range", pack(&range_request.base), leader, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_UNAVAILABLE);
	range_request.serializable = false;
	fake_unary("/etcdserverpb.KV/Range", pack(&range_request.base), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_UNAVAILABLE);
	CU_ASSERT_STRING_EQUAL(answer.text, "etcdserver: no leader");
	fake_unary("/etcdserverpb.KV/Put", pack(&put_request.base), NULL, &answer);
	CU_ASSERT_EQUAL(answer.status, KS_UNAVAILABLE);
	api_fixture_stop();
}

static void refuse(const char *path, struct ks_slice request, const struct fake_metadata *metadata,
		   enum ks_status status, const char *text)
{
	struct fake_answer answer;

	fake_unary(path, request, metadata, &answer);
	CU_ASSERT_EQUAL(answer.status, status);
	CU_ASSERT_STRING_EQUAL(answer.text, text);
	fake_answer_fini(&answer);
}

static void bad_requests_get_etcds_errors(void)
{
	static uint8_t oversize[KS_ETCD_MAX_REQUEST_BYTES];
	static uint8_t wire[KS_ETCD_MAX_REQUEST_BYTES + 64];
	const struct fake_metadata version[] = {{"client-api-version", "3.\xff"}, {NULL, NULL}};
	Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
	Etcdserverpb__LeaseGrantRequest lease = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	Grpc__Health__V1__HealthCheckRequest health = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	Etcdserverpb__AlarmRequest alarm = ETCDSERVERPB__ALARM_REQUEST__INIT;
	struct ks_slice empty = ks_slice_of(NULL, 0);
	char service[] = "nope";

	set_up(false, 1 << 20);
	api_fixture_first_entry();
	refuse("/etcdserverpb.KV/Range", ks_slice_str("\x0a\x7f"), NULL, KS_INTERNAL, KS_TEXT_UNMARSHAL);
	refuse("/etcdserverpb.KV/Txn", ks_slice_str("\x12\x7f"), NULL, KS_INTERNAL, KS_TEXT_UNMARSHAL);
	refuse("/etcdserverpb.KV/Range", empty, NULL, KS_INVALID_ARGUMENT, "etcdserver: key is not provided");
	refuse("/etcdserverpb.KV/Range", empty, version, KS_INVALID_ARGUMENT, "etcdserver: invalid client api version");
	refuse("/etcdserverpb.KV/Put", empty, NULL, KS_INVALID_ARGUMENT, "etcdserver: key is not provided");
	refuse("/etcdserverpb.KV/DeleteRange", empty, NULL, KS_INVALID_ARGUMENT, "etcdserver: key is not provided");
	refuse("/etcdserverpb.Auth/AuthEnable", empty, NULL, KS_FAILED_PRECONDITION,
	       "etcdserver: root user does not exist");
	lease.ttl = 9000000001;
	refuse("/etcdserverpb.Lease/LeaseGrant", pack(&lease.base), NULL, KS_OUT_OF_RANGE,
	       "etcdserver: too large lease TTL");
	health.service = service;
	refuse("/grpc.health.v1.Health/Check", pack(&health.base), NULL, KS_NOT_FOUND, "unknown service");
	alarm.action = (Etcdserverpb__AlarmRequest__AlarmAction)3;
	refuse("/etcdserverpb.Maintenance/Alarm", pack(&alarm.base), NULL, KS_INVALID_ARGUMENT,
	       "etcdserver: unknown alarm action or type");
	alarm.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE;
	alarm.alarm = (Etcdserverpb__AlarmType)3;
	refuse("/etcdserverpb.Maintenance/Alarm", pack(&alarm.base), NULL, KS_INVALID_ARGUMENT,
	       "etcdserver: unknown alarm action or type");
	request.key = bin("large");
	request.value = (ProtobufCBinaryData){.len = sizeof(oversize), .data = oversize};
	refuse("/etcdserverpb.KV/Put", ks_slice_of(wire, etcdserverpb__put_request__pack(&request, wire)), NULL,
	       KS_INVALID_ARGUMENT, "etcdserver: request is too large");
	api_fixture_stop();
}

static void endless_messages_meet_the_arenas_limit(void)
{
	static uint8_t wire[200000];
	struct ks_buf buf;

	/* Many empty operations in the branch of one nested transaction each: small on the wire, large when decoded. */
	set_up(false, 1 << 20);
	api_fixture_first_entry();
	fake_rpc_set_arena_limit(1 << 20);
	ks_buf_init(&buf, sizeof(wire));
	for (size_t i = 0; i < sizeof(wire) / 4; i++)
		ks_wire_nested(&buf, 9999, 0);
	refuse("/etcdserverpb.KV/Put", ks_slice_of(buf.data, buf.size), NULL, KS_RESOURCE_EXHAUSTED,
	       "kineshim: not enough memory for this request");
	ks_buf_fini(&buf);
	api_fixture_stop();
}

int main(void)
{
	static const struct tap_test tests[] = {
		{"every_rpc_answers_exactly", every_rpc_answers_exactly},
		{"every_rpc_answers_exactly_when_the_committer_takes_its_time",
		 every_rpc_answers_exactly_when_the_committer_takes_its_time},
		{"every_rpc_answers_exactly_with_all_values_outside_the_cache",
		 every_rpc_answers_exactly_with_all_values_outside_the_cache},
		{"away_database_refuses_writes_and_proofs_but_not_serializable_reads",
		 away_database_refuses_writes_and_proofs_but_not_serializable_reads},
		{"bad_requests_get_etcds_errors", bad_requests_get_etcds_errors},
		{"endless_messages_meet_the_arenas_limit", endless_messages_meet_the_arenas_limit},
		{"nth_allocation_fails_and_nothing_else_does", nth_allocation_fails_and_nothing_else_does},
		{"nth_allocation_fails_while_operations_wait", nth_allocation_fails_while_operations_wait},
		{"nth_allocation_fails_while_values_are_fetched", nth_allocation_fails_while_values_are_fetched},
		{NULL, NULL},
	};

	return tap_run("api", tests);
}
