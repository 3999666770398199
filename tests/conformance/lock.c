/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks and elections (spec 8, 14.9). Whoever waits is at conf->other: on a database that several servers may share that is a
 * second server.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "proto/election.pb-c.h"
#include "proto/lock.pb-c.h"
#include "tests/conformance/conf.h"

#define WAIT_MS 10000

#define METHOD(name, path_text, package, request_type, response_type)  \
	static const struct etcdc_method name = {                      \
		.path = path_text,                                     \
		.request = &package##__##request_type##__descriptor,   \
		.response = &package##__##response_type##__descriptor, \
	}
METHOD(lock_method, "/v3lockpb.Lock/Lock", v3lockpb, lock_request, lock_response);
METHOD(unlock_method, "/v3lockpb.Lock/Unlock", v3lockpb, unlock_request, unlock_response);
METHOD(campaign_method, "/v3electionpb.Election/Campaign", v3electionpb, campaign_request, campaign_response);
METHOD(proclaim_method, "/v3electionpb.Election/Proclaim", v3electionpb, proclaim_request, proclaim_response);
METHOD(leader_method, "/v3electionpb.Election/Leader", v3electionpb, leader_request, leader_response);
METHOD(observe_method, "/v3electionpb.Election/Observe", v3electionpb, leader_request, leader_response);
METHOD(resign_method, "/v3electionpb.Election/Resign", v3electionpb, resign_request, resign_response);
#undef METHOD

#define LOCK(...) conf_call(conf, &lock_method, __VA_ARGS__)
#define UNLOCK(...) conf_call(conf, &unlock_method, __VA_ARGS__)
#define CAMPAIGN(...) conf_call(conf, &campaign_method, __VA_ARGS__)
#define PROCLAIM(...) conf_call(conf, &proclaim_method, __VA_ARGS__)
#define LEADER(...) conf_call(conf, &leader_method, __VA_ARGS__)
#define RESIGN(...) conf_call(conf, &resign_method, __VA_ARGS__)

/* A call that may wait, from the other client: to be received from, and closed, which cancels it. */
static struct etcdc_stream *start(struct conf *conf, const struct etcdc_method *method, const char *request)
{
	ProtobufCMessage *message = text_parse(method->request, request, &conf->names);
	struct etcdc_stream *stream;

	conf_note(conf, "elsewhere: %s %s", strrchr(method->path, '/') + 1, request);
	stream = etcdc_stream_open(conf->other, method, NULL);
	(void)etcdc_stream_send(stream, message);
	etcdc_stream_half_close(stream);
	etcdc_free(message);
	return stream;
}

static bool key_is_there(struct conf *conf, const char *key)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	bool there = false;

	request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)(uintptr_t)key};
	if (etcdc_range(conf->client, &request, &response, NULL) == KS_OK)
		there = response->count > 0;
	etcdc_free(response);
	return there;
}

/* Calls that wait leave their keys in the order in which they came. */
static void await_key(struct conf *conf, const char *key, bool there)
{
	int64_t end_ms = ks_clock_now(ks_clock_system()) + WAIT_MS;

	while (key_is_there(conf, key) != there && ks_clock_now(ks_clock_system()) < end_ms)
		;
	conf_check(conf, key_is_there(conf, key) == there, there ? "the key is there" : "the key is gone");
}

/* ---- Lock ---- */

static void free_locks(struct conf *conf)
{
	GRANT("TTL:600 ID:31");
	GRANT("TTL:600 ID:-1");
	GRANT("TTL:600 ID:-9223372036854775807");
	LOCK("name:'foo' lease:31");
	RANGE("key:'foo' range_end:'fop'");
	LOCK("name:'foo' lease:31");
	LOCK("name:'bar' lease:-1");
	LOCK("name:'baz' lease:-9223372036854775807");
	LOCK("lease:31");
	LOCK("name:'fo' lease:31");
	LOCK("name:'a/b\\x00\\xff' lease:31");
	RANGE("key:'\\x00' range_end:'\\x00'");
	UNLOCK("key:'foo/1f'");
	LOCK("name:'foo' lease:31");
}

static void lock_errors(struct conf *conf)
{
	LOCK("name:'foo' lease:12345");
	LOCK("lease:12345");
	UNLOCK("key:'no such key'");
	UNLOCK(" ");
	PUT("key:'any key' value:'1'");
	UNLOCK("key:'any key'");
	RANGE("key:'any key'");
}

/* The key of a lock that brought no lease has one of the server's choice. */
static void lock_without_lease(struct conf *conf)
{
	V3lockpb__LockResponse *response = conf_call_quiet(conf, &lock_method, "name:'foo'");
	Etcdserverpb__LeaseTimeToLiveRequest ttl = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
	Etcdserverpb__LeaseTimeToLiveResponse *times = NULL;
	struct etcdc_stream *second;
	char text[64] = "";

	if (response && response->key.len > 4 && response->key.len < sizeof(text))
		memcpy(text, response->key.data, response->key.len);
	conf_check(conf, strncmp(text, "foo/", 4) == 0, "the key is below the name");
	ttl.id = (int64_t)strtoull(text + 4, NULL, 16);
	if (etcdc_lease_time_to_live(conf->client, &ttl, &times, NULL) == KS_OK)
		conf_check(conf, times->grantedttl == 60, "the lease is of a minute");
	etcdc_free(times);
	second = start(conf, &lock_method, "name:'foo'");
	stream_quiet(conf, second);
	etcdc_stream_close(second);
	etcdc_free(response);
}

static void contention(struct conf *conf)
{
	struct etcdc_stream *second, *third;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	GRANT("TTL:600 ID:3");
	LOCK("name:'foo' lease:1");
	second = start(conf, &lock_method, "name:'foo' lease:2");
	await_key(conf, "foo/2", true);
	third = start(conf, &lock_method, "name:'foo' lease:3");
	await_key(conf, "foo/3", true);
	stream_quiet(conf, second);
	UNLOCK("key:'foo/1'");
	stream_recv(conf, second);
	stream_recv(conf, second);
	stream_quiet(conf, third);
	PUT("key:'unrelated' value:'1'");
	REVOKE("ID:2");
	stream_recv(conf, third);
	stream_recv(conf, third);
	RANGE("key:'foo' range_end:'fop'");
	etcdc_stream_close(second);
	etcdc_stream_close(third);
}

static void cancel_while_waiting(struct conf *conf)
{
	struct etcdc_stream *second, *third;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	GRANT("TTL:600 ID:3");
	LOCK("name:'foo' lease:1");
	second = start(conf, &lock_method, "name:'foo' lease:2");
	await_key(conf, "foo/2", true);
	third = start(conf, &lock_method, "name:'foo' lease:3");
	await_key(conf, "foo/3", true);
	etcdc_stream_close(second);
	await_key(conf, "foo/2", false);
	stream_quiet(conf, third);
	RANGE("key:'foo' range_end:'fop'");
	UNLOCK("key:'foo/1'");
	stream_recv(conf, third);
	etcdc_stream_close(third);
}

static void lease_of_the_waiting_ends(struct conf *conf)
{
	struct etcdc_stream *second;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	LOCK("name:'foo' lease:1");
	second = start(conf, &lock_method, "name:'foo' lease:2");
	await_key(conf, "foo/2", true);
	REVOKE("ID:2");
	stream_quiet(conf, second);
	UNLOCK("key:'foo/1'");
	stream_recv(conf, second);
	etcdc_stream_close(second);
}

static void lease_of_the_holder_expires(struct conf *conf)
{
	struct etcdc_stream *second;

	GRANT("TTL:600 ID:2");
	GRANT("TTL:2 ID:1");
	LOCK("name:'foo' lease:1");
	second = start(conf, &lock_method, "name:'foo' lease:2");
	stream_recv(conf, second);
	RANGE("key:'foo' range_end:'fop'");
	etcdc_stream_close(second);
}

static void lock_is_twice_asked_for(struct conf *conf)
{
	struct etcdc_stream *second, *again;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	LOCK("name:'foo' lease:1");
	second = start(conf, &lock_method, "name:'foo' lease:2");
	await_key(conf, "foo/2", true);
	again = start(conf, &lock_method, "name:'foo' lease:2");
	stream_quiet(conf, again);
	UNLOCK("key:'foo/1'");
	stream_recv(conf, second);
	stream_recv(conf, again);
	etcdc_stream_close(second);
	etcdc_stream_close(again);
}

/* ---- Election ---- */

static void one_candidate(struct conf *conf)
{
	LEADER("name:'e'");
	GRANT("TTL:600 ID:10");
	CAMPAIGN("name:'e' lease:10 value:'one'");
	LEADER("name:'e'");
	CAMPAIGN("name:'e' lease:10 value:'one'");
	CAMPAIGN("name:'e' lease:10 value:'two'");
	LEADER("name:'e'");
	CAMPAIGN("name:'e' lease:404 value:'x'");
	PROCLAIM("leader{name:'e' key:'e/a' rev:r2 lease:10} value:'three'");
	LEADER("name:'e'");
	PROCLAIM("leader{name:'e' key:'e/a' rev:r3 lease:10} value:'stale'");
	PROCLAIM("leader{name:'e' key:'e/b' rev:r2 lease:10} value:'nobody'");
	PROCLAIM("leader{name:'e' key:'e/a' rev:r2 lease:404} value:'x'");
	PROCLAIM("leader{name:'e' rev:r2 lease:10} value:'x'");
	PROCLAIM("value:'x'");
	PROCLAIM("leader{key:'e/a' rev:r2 lease:10} value:''");
	LEADER("name:'e'");
	RESIGN("leader{key:'e/a' rev:r3 lease:10}");
	RESIGN("leader{lease:10}");
	RESIGN(" ");
	RANGE("key:'e' range_end:'f'");
	RESIGN("leader{key:'e/a' rev:r2 lease:10}");
	LEADER("name:'e'");
	RESIGN("leader{key:'e/a' rev:r2 lease:10}");
	PROCLAIM("leader{key:'new' lease:10} value:'a revision of 0 is that of no key'");
	RANGE("key:'new'");
}

static void line_of_candidates(struct conf *conf)
{
	struct etcdc_stream *second, *third;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	GRANT("TTL:600 ID:3");
	CAMPAIGN("name:'e' lease:1 value:'one'");
	second = start(conf, &campaign_method, "name:'e' lease:2 value:'two'");
	await_key(conf, "e/2", true);
	third = start(conf, &campaign_method, "name:'e' lease:3 value:'three'");
	await_key(conf, "e/3", true);
	stream_quiet(conf, second);
	LEADER("name:'e'");
	etcdc_stream_close(second);
	await_key(conf, "e/2", false);
	stream_quiet(conf, third);
	RESIGN("leader{key:'e/1' rev:r2 lease:1}");
	stream_recv(conf, third);
	stream_recv(conf, third);
	LEADER("name:'e'");
	etcdc_stream_close(third);
}

/* Nobody looks whether the candidate's key is still there at the end of the wait. */
static void lease_of_the_candidate_ends(struct conf *conf)
{
	struct etcdc_stream *second;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	CAMPAIGN("name:'e' lease:1 value:'one'");
	second = start(conf, &campaign_method, "name:'e' lease:2 value:'two'");
	await_key(conf, "e/2", true);
	REVOKE("ID:2");
	REVOKE("ID:1");
	stream_recv(conf, second);
	etcdc_stream_close(second);
	LEADER("name:'e'");
}

static void observers(struct conf *conf)
{
	struct etcdc_stream *early, *late;

	GRANT("TTL:600 ID:1");
	GRANT("TTL:600 ID:2");
	early = start(conf, &observe_method, "name:'e'");
	stream_quiet(conf, early);
	PUT("key:'e' value:'not below'");
	PUT("key:'e0' value:'neither'");
	stream_quiet(conf, early);
	CAMPAIGN("name:'e' lease:1 value:'one'");
	stream_recv(conf, early);
	late = start(conf, &observe_method, "name:'e'");
	stream_recv(conf, late);
	PROCLAIM("leader{key:'e/1' rev:r4 lease:1} value:'first'");
	stream_recv(conf, early);
	stream_recv(conf, late);
	PUT("key:'e/2' value:'two' lease:2");
	PUT("key:'e/2' value:'second' lease:2");
	stream_quiet(conf, early);
	REVOKE("ID:1");
	stream_recv(conf, early);
	stream_recv(conf, late);
	PUT("key:'e/2' value:'alone' lease:2");
	stream_recv(conf, early);
	stream_recv(conf, late);
	DELETE("key:'e/2'");
	stream_quiet(conf, early);
	PUT("key:'e/2' value:'back'");
	stream_recv(conf, early);
	stream_recv(conf, late);
	etcdc_stream_close(early);
	etcdc_stream_close(late);
}

static void campaign_without_lease(struct conf *conf)
{
	V3electionpb__CampaignResponse *response = conf_call_quiet(conf, &campaign_method, "name:'e' value:'v'");

	conf_check(conf, response && response->leader && response->leader->lease > 0, "there is a lease");
	conf_check(conf, response && response->header->revision == response->leader->rev, "created just now");
	etcdc_free(response);
	RESIGN("leader{key:'x'}");
}

const struct scenario lock_scenarios[] = {
	{"lock/free_locks", free_locks, false},
	{"lock/lock_errors", lock_errors, false},
	{"lock/lock_without_lease", lock_without_lease, false},
	{"lock/contention", contention, false},
	{"lock/cancel_while_waiting", cancel_while_waiting, false},
	{"lock/lease_of_the_waiting_ends", lease_of_the_waiting_ends, false},
	{"lock/lease_of_the_holder_expires", lease_of_the_holder_expires, false},
	{"lock/lock_is_twice_asked_for", lock_is_twice_asked_for, false},
	{"lock/one_candidate", one_candidate, false},
	{"lock/line_of_candidates", line_of_candidates, false},
	{"lock/lease_of_the_candidate_ends", lease_of_the_candidate_ends, false},
	{"lock/observers", observers, false},
	{"lock/campaign_without_lease", campaign_without_lease, false},
	{NULL, NULL, false},
};
