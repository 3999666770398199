/* SPDX-License-Identifier: Apache-2.0 */
/* Leases (spec 4, 14.5). */
#include "base/clock.h"
#include "tests/conformance/conf.h"

#define LEASES() conf_call(conf, &etcdc_method_lease_leases, " ")

static void grants(struct conf *conf)
{
	GRANT("TTL:0");
	GRANT("TTL:-5");
	GRANT("TTL:1");
	GRANT("TTL:2");
	GRANT("TTL:60 ID:5");
	GRANT("TTL:60 ID:5");
	GRANT("TTL:60 ID:-1");
	GRANT("TTL:9000000000 ID:6");
	GRANT("TTL:9000000001");
	GRANT("TTL:9000000001 ID:5");
	GRANT("TTL:9223372036854775807 ID:8");
	GRANT("TTL:100 ID:9223372036854775807");
	GRANT("TTL:100 ID:-9223372036854775807");
	TTL("ID:-1");
	REVOKE("ID:9223372036854775807");
}

static void unknown_leases(struct conf *conf)
{
	struct etcdc_stream *keepalive = stream_open(conf, &etcdc_method_lease_keep_alive);

	REVOKE("ID:404");
	REVOKE(" ");
	TTL("ID:404");
	TTL("ID:404 keys:1");
	stream_send(conf, keepalive, "ID:404");
	stream_recv(conf, keepalive);
	stream_send(conf, keepalive, "ID:405");
	stream_recv(conf, keepalive);
	etcdc_stream_half_close(keepalive);
	stream_recv(conf, keepalive);
	etcdc_stream_close(keepalive);
}

static void keepalives(struct conf *conf)
{
	struct etcdc_stream *keepalive = stream_open(conf, &etcdc_method_lease_keep_alive);

	GRANT("TTL:600 ID:5");
	GRANT("TTL:300 ID:6");
	stream_send(conf, keepalive, "ID:5");
	stream_send(conf, keepalive, "ID:404");
	stream_send(conf, keepalive, "ID:6");
	stream_send(conf, keepalive, "ID:5");
	for (int i = 0; i < 4; i++)
		stream_recv(conf, keepalive);
	PUT("key:'a' value:'1' lease:5");
	stream_send(conf, keepalive, "ID:5");
	stream_recv(conf, keepalive);
	REVOKE("ID:5");
	stream_send(conf, keepalive, "ID:5");
	stream_recv(conf, keepalive);
	etcdc_stream_half_close(keepalive);
	stream_recv(conf, keepalive);
	etcdc_stream_close(keepalive);
}

static void attachments(struct conf *conf)
{
	GRANT("TTL:600 ID:5");
	GRANT("TTL:600 ID:6");
	PUT("key:'a' value:'1' lease:5");
	TTL("ID:5 keys:1");
	TTL("ID:5");
	PUT("key:'a' value:'2'");
	TTL("ID:5 keys:1");
	REVOKE("ID:5");
	RANGE("key:'a'");
	GRANT("TTL:600 ID:5");
	PUT("key:'a' value:'3' lease:5");
	PUT("key:'a' value:'4' lease:6");
	TTL("ID:5 keys:1");
	TTL("ID:6 keys:1");
	PUT("key:'a' value:'5' ignore_lease:1");
	TTL("ID:6 keys:1");
	DELETE("key:'a'");
	TTL("ID:6 keys:1");
	PUT("key:'a' value:'6'");
	REVOKE("ID:6");
	RANGE("key:'a'");
	PUT("key:'a' value:'7' lease:6");
}

static void revoking_deletes_in_one_revision(struct conf *conf)
{
	GRANT("TTL:600 ID:5");
	PUT("key:'b' value:'1' lease:5");
	PUT("key:'a' value:'1' lease:5");
	PUT("key:'c' value:'1' lease:5");
	PUT("key:'c' value:'1'");
	REVOKE("ID:5");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00' revision:r5");
	TTL("ID:5 keys:1");
	REVOKE("ID:5");
	GRANT("TTL:600 ID:7");
	REVOKE("ID:7");
	GRANT("TTL:600 ID:8");
	TXN("success{request_put{key:'x' lease:8}} success{request_put{key:'y' lease:8}}");
	TXN("success{request_delete_range{key:'x'}}");
	REVOKE("ID:8");
	RANGE("key:'\\x00' range_end:'\\x00'");
}

static void txn_moves_keys(struct conf *conf)
{
	GRANT("TTL:600 ID:5");
	GRANT("TTL:600 ID:6");
	PUT("key:'k' value:'1' lease:5");
	TXN("success{request_delete_range{key:'a' range_end:'\\x00'}} success{request_put{key:'k' value:'2' lease:6}}");
	TTL("ID:5 keys:1");
	TTL("ID:6 keys:1");
	REVOKE("ID:5");
	RANGE("key:'k'");
	REVOKE("ID:6");
	RANGE("key:'k'");
	TXN("compare{target:LEASE key:'k' lease:0} success{request_put{key:'z' lease:404}}");
	TXN("compare{target:LEASE key:'k' lease:1} success{request_put{key:'z' lease:404}}");
}

static void list_by_remaining_time(struct conf *conf)
{
	LEASES();
	GRANT("TTL:300 ID:1");
	GRANT("TTL:100 ID:2");
	GRANT("TTL:200 ID:3");
	LEASES();
	REVOKE("ID:2");
	LEASES();
}

static bool key_is_there(struct conf *conf, const char *key)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	Etcdserverpb__RangeResponse *response;
	bool there = true;

	request.key = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t)key};
	if (etcdc_range(conf->client, &request, &response, NULL) == KS_OK)
		there = response->count > 0;
	etcdc_free(response);
	return there;
}

/* Two leases of two seconds: one is kept alive, the other one expires between two and about four seconds. */
static void expiry(struct conf *conf)
{
	struct etcdc_stream *watch = stream_open(conf, &etcdc_method_watch);
	struct etcdc_keepalive *keepalive;
	int64_t start_ms, end_ms;

	stream_send(conf, watch, "create_request{key:'a'}");
	stream_recv(conf, watch);
	GRANT("TTL:2 ID:5");
	start_ms = ks_clock_now(ks_clock_system());
	GRANT("TTL:2 ID:6");
	keepalive = etcdc_keepalive(conf->client, 6, 2, NULL, NULL);
	PUT("key:'a' value:'1' lease:5");
	PUT("key:'b' value:'1' lease:6");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	end_ms = ks_clock_now(ks_clock_system());
	conf_check(conf, end_ms - start_ms >= 1900 && end_ms - start_ms < 5000, "gone after two to five seconds");
	conf_check(conf, !key_is_there(conf, "a"), "the key is gone");
	conf_check(conf, key_is_there(conf, "b"), "the other key is still there");
	TTL("ID:5");
	RANGE("key:'a'");
	etcdc_keepalive_close(keepalive);
	etcdc_stream_close(watch);
}

const struct scenario lease_scenarios[] = {
	{"lease/grants", grants, false},
	{"lease/unknown_leases", unknown_leases, false},
	{"lease/keepalives", keepalives, false},
	{"lease/attachments", attachments, false},
	{"lease/revoking_deletes_in_one_revision", revoking_deletes_in_one_revision, false},
	{"lease/txn_moves_keys", txn_moves_keys, false},
	{"lease/list_by_remaining_time", list_by_remaining_time, false},
	{"lease/expiry", expiry, false},
	{NULL, NULL, false},
};
