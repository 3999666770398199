/* SPDX-License-Identifier: Apache-2.0 */
/* Maintenance and Cluster, health, and what the transport says (spec 6, 14.8, 14.11). */
#include <stdlib.h>
#include <string.h>

#include "proto/health.pb-c.h"
#include "tests/conformance/conf.h"

#define CALL(name, ...) conf_call(conf, &etcdc_method_##name, __VA_ARGS__)

static void members(struct conf *conf)
{
	Etcdserverpb__MemberListResponse *list;

	CALL(member_list, " ");
	CALL(member_list, "linearizable:1");
	list = conf_call_quiet(conf, &etcdc_method_member_list, "linearizable:1");
	if (list) {
		bool ok = list->n_members >= 1;

		for (size_t i = 0; i < list->n_members; i++)
			ok &= list->members[i]->name[0] && list->members[i]->n_clienturls >= 1 &&
			      strncmp(list->members[i]->clienturls[0], "http", 4) == 0;
		conf_check(conf, ok, "members have names and client URLs");
		conf_check(conf, list->header && list->header->revision == 0, "no revision in the header");
		conf_check(conf, list->header && list->n_members && list->header->member_id == list->members[0]->id,
			   "the header names a member");
	}
	etcdc_free(list);
}

static void status(struct conf *conf)
{
	Etcdserverpb__StatusResponse *response;

	CALL(status, " ");
	put(conf, "a", "1");
	response = conf_call_quiet(conf, &etcdc_method_status, " ");
	if (response) {
		conf_check(conf, response->version[0] >= '3' && response->version[1] == '.', "version");
		conf_check(conf, response->dbsize >= response->dbsizeinuse, "dbSize is at least dbSizeInUse");
		conf_check(conf, response->leader == response->header->member_id, "a single member leads");
		conf_check(conf, response->raftterm == response->header->raft_term, "one term");
		conf_check(conf, response->n_errors == 0, "no errors");
	}
	etcdc_free(response);
}

static void list_alarms(struct conf *conf)
{
	CALL(alarm, " ");
	CALL(alarm, "alarm:NOSPACE");
	CALL(alarm, "alarm:CORRUPT");
}

/* Every kind of request once, under whatever alarm is on. The order of errors too. */
static void try_everything(struct conf *conf)
{
	PUT("key:'a' value:'1'");
	PUT("value:'no key'");
	DELETE("key:'a'");
	DELETE("key:'nothing'");
	RANGE("key:'b'");
	RANGE("key:'b' serializable:1");
	TXN("success{request_range{key:'b'}}");
	TXN("success{request_put{key:'t' value:'1'}}");
	TXN("compare{target:VERSION key:'none' version:9} success{request_put{key:'t' value:'1'}} "
	    "failure{request_range{key:'b'}}");
	TXN("failure{request_put{key:'t' value:'1'}}");
	TXN("success{request_delete_range{key:'t'}}");
	TXN("success{request_delete_range{key:'b'}} failure{request_put{key:'t' value:'1'}}");
	GRANT("TTL:100 ID:4711");
	GRANT("TTL:100 ID:4712");
	TTL("ID:4711");
	REVOKE("ID:4712");
	REVOKE("ID:4799");
	COMPACT("revision:r1");
	COMPACT("revision:r99");
}

static void alarms(struct conf *conf)
{
	list_alarms(conf);
	CALL(alarm, "action:DEACTIVATE alarm:NOSPACE");
	CALL(alarm, "action:ACTIVATE memberID:7 alarm:NOSPACE");
	CALL(alarm, "action:ACTIVATE memberID:7 alarm:NOSPACE");
	list_alarms(conf);
	CALL(alarm, "action:DEACTIVATE memberID:7");
	CALL(alarm, "action:DEACTIVATE memberID:7 alarm:CORRUPT");
	CALL(alarm, "action:DEACTIVATE memberID:8 alarm:NOSPACE");
	CALL(alarm, "action:DEACTIVATE alarm:NOSPACE");
	CALL(alarm, "memberID:8 alarm:NOSPACE");
	CALL(alarm, "action:DEACTIVATE memberID:7 alarm:NOSPACE");
	CALL(alarm, "action:DEACTIVATE memberID:7 alarm:NOSPACE");
	list_alarms(conf);
}

static void under_no_space(struct conf *conf)
{
	put(conf, "b", "1");
	GRANT("TTL:100 ID:4712");
	CALL(alarm, "action:ACTIVATE memberID:7 alarm:NOSPACE");
	try_everything(conf);
	CALL(alarm, "action:DEACTIVATE memberID:7 alarm:NOSPACE");
	try_everything(conf);
	REVOKE("ID:4711");
}

/* 3.4 does not weigh what is nested. */
static void nested_under_no_space(struct conf *conf)
{
	CALL(alarm, "action:ACTIVATE memberID:7 alarm:NOSPACE");
	TXN("success{request_txn{success{request_range{key:'n'}}}}");
	TXN("success{request_txn{success{request_put{key:'n' value:'1'}}}}");
	CALL(alarm, "action:DEACTIVATE memberID:7 alarm:NOSPACE");
}

static void under_corrupt(struct conf *conf)
{
	put(conf, "b", "1");
	GRANT("TTL:100 ID:4712");
	CALL(alarm, "action:ACTIVATE memberID:9 alarm:CORRUPT");
	try_everything(conf);
	CALL(alarm, "action:DEACTIVATE memberID:9 alarm:CORRUPT");
	REVOKE("ID:4712");
}

static void alarms_in_status(struct conf *conf)
{
	Etcdserverpb__StatusResponse *response;
	int found = 0;

	CALL(alarm, "action:ACTIVATE memberID:1234567890123 alarm:NOSPACE");
	CALL(alarm, "action:ACTIVATE alarm:CORRUPT");
	response = conf_call_quiet(conf, &etcdc_method_status, " ");
	for (size_t i = 0; response && i < response->n_errors; i++)
		found += strcmp(response->errors[i], "memberID:1234567890123 alarm:NOSPACE ") == 0 ||
			 strcmp(response->errors[i], "alarm:CORRUPT ") == 0;
	conf_check(conf, response && response->n_errors == 2 && found == 2, "two alarms are the errors");
	etcdc_free(response);
	CALL(alarm, "action:DEACTIVATE alarm:CORRUPT");
	CALL(alarm, "action:DEACTIVATE memberID:1234567890123 alarm:NOSPACE");
}

static void hashes(struct conf *conf)
{
	put(conf, "a", "1");
	put(conf, "b", "2");
	CALL(hash, " ");
	HASHKV("revision:r99");
	CALL(defragment, " ");
	RANGE("key:'a' range_end:'c'");
}

static void health(struct conf *conf)
{
	static const struct etcdc_method check = {.path = "/grpc.health.v1.Health/Check",
						  .request = &grpc__health__v1__health_check_request__descriptor,
						  .response = &grpc__health__v1__health_check_response__descriptor};

	conf_call(conf, &check, " ");
	conf_call(conf, &check, "service:'nope'");
}

static void unknown_methods(struct conf *conf)
{
	static const char *const paths[] = {"/etcdserverpb.KV/Nope", "/nope.Service/Method",
					    "/etcdserverpb.Watch/Nope"};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		struct etcdc_method method = {.path = paths[i],
					      .request = &etcdserverpb__range_request__descriptor,
					      .response = &etcdserverpb__range_response__descriptor};

		(void)fprintf(conf->out, "> path %s\n", paths[i]);
		conf_call(conf, &method, "key:'a'");
	}
}

static void raw(struct conf *conf, const char *path, const void *bytes, size_t size)
{
	uint8_t *response;
	size_t response_size;
	struct etcdc_err err;
	enum ks_status result =
		etcdc_unary_raw(conf->client, path, ks_slice_of(bytes, size), NULL, &response, &response_size, &err);

	(void)fprintf(conf->out, "> raw %s ", path);
	text_print_bytes(conf->out, bytes, size);
	/* The text is the decoder's own. */
	(void)fprintf(conf->out, "\n%s\n", ks_status_name(result));
	free(response);
}

static void malformed_messages(struct conf *conf)
{
	raw(conf, "/etcdserverpb.KV/Range", "\x0a\x7f", 2);
	raw(conf, "/etcdserverpb.KV/Range", "\xff", 1);
	raw(conf, "/etcdserverpb.KV/Put", "\x0a\x01", 2);
	raw(conf, "/etcdserverpb.KV/Txn", "\x12\x04\x12\x05\x0a\x01", 6);
	raw(conf, "/etcdserverpb.Lease/LeaseGrant", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
	/* Unknown fields are skipped. */
	raw(conf, "/etcdserverpb.KV/Range", "\x0a\x01q\xf8\x07\x01", 6);
	/* The last of a field counts, and an empty range_end is none. */
	raw(conf, "/etcdserverpb.KV/Range", "\x0a\x01q\x12\x00\x0a\x01z", 8);
	put(conf, "still", "works");
}

/* Membership belongs to etcd's own consensus: what a server on SQL refuses in its own way is in differences.txt. */
static void membership_changes(struct conf *conf)
{
	CALL(member_add, " ");
	CALL(member_remove, "ID:1");
	CALL(member_update, "ID:1 peerURLs:'http://127.0.0.1:1'");
	CALL(member_promote, "ID:1");
	CALL(member_add, "peerURLs:'http://127.0.0.1'");
	CALL(member_add, "peerURLs:'http://127.0.0.1:1/path'");
	CALL(member_add, "peerURLs:'http://127.0.0.1:port'");
	CALL(member_add, "peerURLs:'http://127.0.0.1:1' peerURLs:'ftp://127.0.0.1:2'");
	CALL(member_add, "peerURLs:'127.0.0.1:1'");
	CALL(member_add, "peerURLs:''");
	CALL(member_add, "peerURLs:'http://::1:1' isLearner:1");
	CALL(member_update, "ID:1");
	CALL(member_update, "ID:1 peerURLs:'nonsense'");
}

/* Of the one member there is. What an etcd would really do is not tried on it. */
static void changes_of_a_member(struct conf *conf)
{
	Etcdserverpb__MemberListResponse *list = conf_call_quiet(conf, &etcdc_method_member_list, " ");
	Etcdserverpb__Member *member = list && list->n_members ? list->members[0] : NULL;
	unsigned long long id = member ? (unsigned long long)member->id : 0;

	conf_check(conf, member && member->n_peerurls > 0, "it has a peer URL");
	if (member && member->n_peerurls > 0) {
		conf_call_unnamed(conf, &etcdc_method_member_add, "peerURLs:'%s' isLearner:1", member->peerurls[0]);
		conf_call_unnamed(conf, &etcdc_method_member_update, "ID:%llu peerURLs:'%s'", id, member->peerurls[0]);
		conf_call_unnamed(conf, &etcdc_method_member_remove, "ID:%llu", id);
		conf_call_unnamed(conf, &etcdc_method_member_promote, "ID:%llu", id);
		conf_call_unnamed(conf, &etcdc_method_move_leader, "targetID:%llu", id);
	}
	etcdc_free(list);
}

static void move_leader(struct conf *conf)
{
	CALL(move_leader, "targetID:1");
}

const struct scenario maintenance_scenarios[] = {
	{"maintenance/members", members, false},
	{"maintenance/status", status, false},
	{"maintenance/alarms", alarms, false},
	{"maintenance/under_no_space", under_no_space, false},
	{"maintenance/nested_under_no_space", nested_under_no_space, false},
	{"maintenance/under_corrupt", under_corrupt, false},
	{"maintenance/alarms_in_status", alarms_in_status, false},
	{"maintenance/hashes", hashes, false},
	{"maintenance/health", health, false},
	{"maintenance/unknown_methods", unknown_methods, false},
	{"maintenance/malformed_messages", malformed_messages, false},
	{"maintenance/membership_changes", membership_changes, false},
	{"maintenance/changes_of_a_member", changes_of_a_member, false},
	{"maintenance/move_leader", move_leader, false},
	{NULL, NULL, false},
};

/* With a quota of 16 MiB (99 of 14.8). How much fits is each server's own affair. */
static void quota(struct conf *conf)
{
	static char value[65536];
	Etcdserverpb__AlarmResponse *list;
	unsigned long long id = 0;
	int puts = 0;

	memset(value, 'v', sizeof(value) - 1);
	put(conf, "first", "1");
	do {
		Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
		Etcdserverpb__PutResponse *response;
		struct etcdc_err err;
		char key[16];

		(void)snprintf(key, sizeof(key), "q%d", ++puts);
		request.key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
		request.value = (ProtobufCBinaryData){sizeof(value) - 1, (uint8_t *)value};
		conf->status = etcdc_put(conf->client, &request, &response, &err);
		etcdc_free(response);
	} while (conf->status == KS_OK && puts < 1000);
	/* etcd looks at its size every 100 ms, in which a quick machine writes as much again. */
	conf_check(conf, puts > 30 && puts < 1000, "the quota is used up after about so much");
	etcdc_free(conf_call_quiet(conf, &etcdc_method_range, "key:'first'"));
	conf->names.base = conf->revision;
	PUT("key:'more' value:'1'");
	GRANT("TTL:100 ID:4711");
	TXN("failure{request_put{key:'t' value:'1'}}");
	TXN("success{request_range{key:'first'}}");
	RANGE("key:'first' keys_only:1");
	list = conf_call_quiet(conf, &etcdc_method_alarm, " ");
	conf_check(conf, list && list->n_alarms == 1 && list->alarms[0]->alarm == ETCDSERVERPB__ALARM_TYPE__NOSPACE,
		   "one alarm is on");
	if (list && list->n_alarms)
		id = (unsigned long long)list->alarms[0]->memberid;
	etcdc_free(list);
	conf_call_unnamed(conf, &etcdc_method_alarm, "action:DEACTIVATE memberID:%llu alarm:NOSPACE", id);
	PUT("key:'raised again' value:'%s'", value);
	CALL(alarm, "alarm:NOSPACE");
	etcdc_free(conf_call_quiet(conf, &etcdc_method_delete_range, "key:'q' range_end:'r'"));
	COMPACT("revision:r2 physical:1");
	CALL(defragment, " ");
	CALL(alarm, "action:DEACTIVATE alarm:NOSPACE");
	PUT("key:'more' value:'1'");
	conf_call_unnamed(conf, &etcdc_method_alarm, "action:DEACTIVATE memberID:%llu alarm:NOSPACE", id);
	PUT("key:'more' value:'1'");
	GRANT("TTL:100 ID:4711");
	CALL(alarm, " ");
}

const struct scenario quota_scenarios[] = {
	{"quota/used_up", quota, false},
	{NULL, NULL, false},
};

/* On a store that has never been written (spec 6.5 has the numbers; 49 of 14.3). */
static void hash_vectors(struct conf *conf)
{
	TXN("success{request_range{key:'a' revision:-1}}");
	TXN("success{request_range{key:'a' revision:-2}}");
	RANGE("key:'a' revision:-2");
	HASHKV(" ");
	HASHKV("revision:99");
	HASHKV("revision:1");
	PUT("key:'foo' value:'bar'");
	HASHKV(" ");
	PUT("key:'foo' value:'baz'");
	HASHKV(" ");
	DELETE("key:'foo'");
	HASHKV(" ");
	HASHKV("revision:2");
	HASHKV("revision:3");
	HASHKV("revision:-1");
	TXN("success{request_put{key:'t1' value:'1'}} success{request_put{key:'t2' value:'2'}} "
	    "success{request_delete_range{key:'t1' range_end:'\\x00'}} success{request_range{key:'t1'}}");
	HASHKV(" ");
	GRANT("TTL:600 ID:77");
	PUT("key:'leased' value:'\\x00\\xff' lease:77");
	HASHKV(" ");
	REVOKE("ID:77");
	HASHKV(" ");
	TXN("success{request_range{key:'a' revision:-1}} success{request_put{key:'w' value:'1'}}");
}

const struct scenario fresh_hash_scenarios[] = {
	{"fresh-hash/vectors", hash_vectors, true},
	{NULL, NULL, false},
};

static void compacted_hashes(struct conf *conf)
{
	PUT("key:'foo' value:'bar'");
	PUT("key:'foo' value:'baz'");
	COMPACT("revision:3 physical:1");
	HASHKV(" ");
	HASHKV("revision:2");
	for (int i = 0; i < 10; i++) {
		PUT("key:'k%d' value:'%d'", i % 3, i);
		if (i % 4 == 3)
			DELETE("key:'k%d'", i % 3);
	}
	HASHKV(" ");
	HASHKV("revision:6");
	COMPACT("revision:8 physical:1");
	HASHKV(" ");
	HASHKV("revision:10");
	PUT("key:'foo' value:'last'");
	HASHKV(" ");
}

const struct scenario fresh_compacted_hash_scenarios[] = {
	{"fresh-compacted-hash/vectors", compacted_hashes, true},
	{NULL, NULL, false},
};
