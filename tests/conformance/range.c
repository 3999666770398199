/* SPDX-License-Identifier: Apache-2.0 */
/* Range and RangeStream (spec 1 and 14.1). */
#include <string.h>

#include "base/buf.h"
#include "tests/conformance/conf.h"

static void five_keys(struct conf *conf)
{
	put(conf, "k1", "a");
	put(conf, "k2", "b");
	put(conf, "k3", "c");
	put(conf, "k4", "d");
	put(conf, "k5", "e");
}

static void empty_store(struct conf *conf)
{
	RANGE("key:'a'");
	RANGE(" ");
	RANGE("range_end:'z'");
	RANGE("key:'a' revision:r2");
	RANGE("key:'a' revision:r1");
	RANGE("key:'a' revision:-7");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00' count_only:1 keys_only:1 serializable:1");
}

static void at_an_older_revision(struct conf *conf)
{
	PUT("key:'a' value:'1'");
	PUT("key:'a' value:'2'");
	RANGE("key:'a' revision:r2");
	RANGE("key:'a' revision:r3");
	RANGE("key:'a' revision:r1");
	RANGE("key:'a' revision:r4");
	DELETE("key:'a'");
	RANGE("key:'a'");
	RANGE("key:'a' revision:r3");
	RANGE("key:'a' revision:r4");
	PUT("key:'a' value:'3'");
	RANGE("key:'a' revision:r4 serializable:1");
	RANGE("key:'a' count_only:1 revision:r3");
}

static void limits(struct conf *conf)
{
	five_keys(conf);
	RANGE("key:'k1' range_end:'k6' limit:2");
	RANGE("key:'k1' range_end:'k6' limit:4");
	RANGE("key:'k1' range_end:'k6' limit:5");
	RANGE("key:'k1' range_end:'k6' limit:6");
	RANGE("key:'k1' range_end:'k6' limit:-1");
	RANGE("key:'k3' range_end:'k6' limit:2");
	RANGE("key:'k3\\x00' range_end:'k6' limit:2 revision:r4");
	RANGE("key:'k1' limit:1");
	RANGE("key:'k1' range_end:'k6' limit:2 keys_only:1");
	RANGE("key:'k1' range_end:'k6' count_only:1 limit:1");
	RANGE("key:'k1' range_end:'k6' limit:9223372036854775807");
}

static void intervals(struct conf *conf)
{
	five_keys(conf);
	RANGE("key:'k5' range_end:'k1'");
	RANGE("key:'k1' range_end:'k1'");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'k3' range_end:'\\x00'");
	RANGE("key:'k3' range_end:'\\x00\\x00'");
	RANGE("key:'k' range_end:'l'");
	RANGE("key:'k3' range_end:'k3\\x00'");
	RANGE("key:'k9' range_end:'\\x00'");
	RANGE("key:'k2' range_end:'k4' count_only:1");
}

static void filters(struct conf *conf)
{
	five_keys(conf);
	RANGE("key:'k' range_end:'l' min_mod_revision:r4");
	RANGE("key:'k' range_end:'l' min_mod_revision:r4 limit:1");
	RANGE("key:'k' range_end:'l' max_mod_revision:r4 min_mod_revision:r3");
	RANGE("key:'k' range_end:'l' max_mod_revision:-1");
	RANGE("key:'k' range_end:'l' min_mod_revision:-5");
	put(conf, "k1", "x");
	RANGE("key:'k' range_end:'l' max_create_revision:r2");
	RANGE("key:'k' range_end:'l' min_create_revision:r3 max_mod_revision:r5");
	RANGE("key:'k' range_end:'l' min_mod_revision:r5 count_only:1");
	RANGE("key:'k' range_end:'l' min_mod_revision:r5 keys_only:1 limit:2");
	RANGE("key:'k' range_end:'l' min_mod_revision:r5 revision:r6");
	RANGE("key:'k' range_end:'l' min_create_revision:r9");
}

static void sorting(struct conf *conf)
{
	five_keys(conf);
	RANGE("key:'k' range_end:'l' sort_order:DESCEND limit:1");
	RANGE("key:'k' range_end:'l' sort_order:DESCEND");
	RANGE("key:'k' range_end:'l' sort_order:ASCEND limit:2");
	put(conf, "k1", "x");
	RANGE("key:'k' range_end:'l' sort_target:VERSION limit:1");
	RANGE("key:'k' range_end:'l' sort_target:VERSION sort_order:DESCEND limit:1");
	RANGE("key:'k' range_end:'l' sort_target:MOD sort_order:DESCEND limit:3");
	RANGE("key:'k' range_end:'l' sort_target:MOD sort_order:ASCEND");
	RANGE("key:'k' range_end:'l' sort_target:CREATE sort_order:DESCEND");
	RANGE("key:'k' range_end:'l' sort_target:VALUE sort_order:DESCEND limit:2");
	RANGE("key:'k' range_end:'l' sort_target:VALUE sort_order:ASCEND keys_only:1");
	RANGE("key:'k' range_end:'l' sort_target:MOD limit:2");
	RANGE("key:'k' range_end:'l' sort_target:CREATE");
	RANGE("key:'k' range_end:'l' sort_target:VALUE sort_order:DESCEND count_only:1");
	RANGE("key:'k' range_end:'l' sort_target:MOD sort_order:DESCEND min_mod_revision:r4 limit:2 revision:r6");
	RANGE("key:'k' range_end:'l' sort_target:KEY sort_order:DESCEND min_mod_revision:r4 limit:2");
}

static void keys_only(struct conf *conf)
{
	GRANT("TTL:1000 ID:7777");
	PUT("key:'leased' value:'v' lease:7777");
	PUT("key:'plain' value:'v'");
	RANGE("key:'\\x00' range_end:'\\x00' keys_only:1");
	RANGE("key:'\\x00' range_end:'\\x00' keys_only:1 sort_target:VALUE sort_order:ASCEND limit:1 "
	      "min_mod_revision:r2");
}

static void odd_keys(struct conf *conf)
{
	PUT("key:'a\\x00' value:'nul'");
	PUT("key:'a' value:'1'");
	PUT("key:'b' value:'2'");
	PUT("key:'\\x00' value:'0'");
	PUT("key:'\\xff\\xff' value:'f'");
	PUT("key:'\\xc3\\x28' value:'\\x80\\xfe\\x00'");
	RANGE("key:'a'");
	RANGE("key:'a' range_end:'a\\x00'");
	RANGE("key:'a' range_end:'b'");
	RANGE("key:'\\xff\\xff' range_end:'\\x00'");
	RANGE("key:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00' sort_order:DESCEND");
	RANGE("key:'\\x80' range_end:'\\x00'");
	PUT("key:'x'*2000 value:'long key'");
	RANGE("key:'x'*2000");
	RANGE("key:'x'*1999");
	RANGE("key:'x' range_end:'y'");
}

/* What kube-apiserver does: pages at the revision of the first one. */
static void pages_of_one_revision(struct conf *conf)
{
	char key[16];

	for (int i = 0; i < 10; i++) {
		(void)snprintf(key, sizeof(key), "p/%d", i);
		put(conf, key, "v");
	}
	RANGE("key:'p/' range_end:'p0' limit:4 revision:r11");
	put(conf, "p/2x", "new");
	DELETE("key:'p/5'");
	RANGE("key:'p/3\\x00' range_end:'p0' limit:4 revision:r11");
	RANGE("key:'p/7\\x00' range_end:'p0' limit:4 revision:r11");
	RANGE("key:'p/' range_end:'p0' limit:4");
}

static void thousands_of_keys(struct conf *conf)
{
	for (int n = 0; n < 30; n++) {
		struct ks_buf text;

		ks_buf_init(&text, 1 << 20);
		for (int i = 0; i < 100; i++)
			ks_buf_printf(&text, "success{request_put{key:'big/%02d%02d' value:'%d'}}", n, i, n * 100 + i);
		ks_buf_append(&text, "", 1);
		TXN("%s", (const char *)text.data);
		ks_buf_fini(&text);
	}
	RANGE("key:'big/' range_end:'big0' count_only:1");
	RANGE("key:'big/' range_end:'big0' limit:2999 keys_only:1");
	RANGE("key:'big/' range_end:'big0'");
	RANGE("key:'big/15' range_end:'big0' limit:3 revision:r20");
	/* Long ones may be another thread's work. */
	RANGE("key:'big/' range_end:'big0' count_only:1 revision:r20");
	RANGE("key:'big/' range_end:'big0' count_only:1 min_mod_revision:r20");
	RANGE("key:'big/' range_end:'big0' limit:3 sort_target:VALUE sort_order:DESCEND serializable:1");
	TXN("success{request_range{key:'big/' range_end:'big0' keys_only:1}} success{request_range{key:'big/15'}}");
	TXN("compare{key:'none' target:VERSION result:EQUAL version:7} failure{request_range{key:'big/' "
	    "range_end:'big0' keys_only:1}}");
	TXN("success{request_txn{success{request_range{key:'big/' range_end:'big0' limit:2000}}}}");
	TXN("success{request_range{key:'big/' range_end:'big0' keys_only:1 serializable:1}}");
}

const struct scenario range_scenarios[] = {
	{"range/empty_store", empty_store, false},
	{"range/at_an_older_revision", at_an_older_revision, false},
	{"range/limits", limits, false},
	{"range/intervals", intervals, false},
	{"range/filters", filters, false},
	{"range/sorting", sorting, false},
	{"range/keys_only", keys_only, false},
	{"range/odd_keys", odd_keys, false},
	{"range/pages_of_one_revision", pages_of_one_revision, false},
	{"range/thousands_of_keys", thousands_of_keys, false},
	{NULL, NULL, false},
};

/* ---- RangeStream, which etcd 3.4 does not have: compared with Range of the same server ---- */

struct joined {
	struct conf *conf;
	Etcdserverpb__RangeResponse *whole; /* what Range said */
	size_t next, parts;
	bool ok, last_seen;
};

static bool same_kv(const Mvccpb__KeyValue *a, const Mvccpb__KeyValue *b)
{
	return a->key.len == b->key.len && memcmp(a->key.data, b->key.data, a->key.len) == 0 &&
	       a->value.len == b->value.len &&
	       (a->value.len == 0 || memcmp(a->value.data, b->value.data, a->value.len) == 0) &&
	       a->create_revision == b->create_revision && a->mod_revision == b->mod_revision &&
	       a->version == b->version && a->lease == b->lease;
}

static bool join(void *arg, const Etcdserverpb__RangeResponse *part)
{
	struct joined *joined = arg;

	joined->parts++;
	/* Header, count and more come with the last part only. */
	joined->ok &= !joined->last_seen;
	for (size_t i = 0; i < part->n_kvs; i++) {
		joined->ok &=
			joined->next < joined->whole->n_kvs && same_kv(part->kvs[i], joined->whole->kvs[joined->next]);
		joined->next++;
	}
	if (part->header) {
		joined->last_seen = true;
		joined->ok &= part->header->revision == joined->whole->header->revision &&
			      part->count == joined->whole->count && part->more == joined->whole->more;
	} else {
		joined->ok &= part->count == 0 && !part->more;
	}
	return true;
}

static void compare_with_range(struct conf *conf, const char *text)
{
	struct joined joined = {.conf = conf, .ok = true};
	ProtobufCMessage *request;
	struct etcdc_err err;
	enum ks_status status;

	joined.whole = conf_call_quiet(conf, &etcdc_method_range, "%s", text);
	if (!joined.whole)
		return;
	request = text_parse(&etcdserverpb__range_request__descriptor, text, &conf->names);
	status = etcdc_range_stream(conf->client, (const void *)request, join, &joined, &err);
	if (status != KS_OK)
		conf_note(conf, "RangeStream: %s %s", ks_status_name(status), err.text);
	else
		conf_check(conf, joined.ok && joined.last_seen && joined.next == joined.whole->n_kvs,
			   "RangeStream is Range in parts");
	if (status == KS_OK && joined.whole->n_kvs >= 20)
		conf_check(conf, joined.parts >= 2, "more than one part");
	if (status == KS_OK && joined.whole->n_kvs == 0)
		conf_check(conf, joined.parts == 1, "one part");
	etcdc_free(request);
	etcdc_free(joined.whole);
}

static void refused(struct conf *conf, const char *text)
{
	struct joined joined = {.conf = conf};
	Etcdserverpb__RangeResponse whole = ETCDSERVERPB__RANGE_RESPONSE__INIT;
	ProtobufCMessage *request = text_parse(&etcdserverpb__range_request__descriptor, text, &conf->names);
	struct etcdc_err err;
	enum ks_status status;

	joined.whole = &whole;
	status = etcdc_range_stream(conf->client, (const void *)request, join, &joined, &err);
	(void)fprintf(conf->out, "> RangeStream %s\n%s\n  text=%s\n", text, ks_status_name(status), err.text);
	etcdc_free(request);
}

static void stream_equals_range(struct conf *conf)
{
	static const char *const requests[] = {
		"key:'s/' range_end:'s0'",
		"key:'s/' range_end:'s0' limit:5",
		"key:'s/' range_end:'s0' limit:25",
		"key:'s/' range_end:'s0' limit:24 keys_only:1",
		"key:'s/' range_end:'s0' count_only:1",
		"key:'s/' range_end:'s0' revision:r10",
		"key:'s/' range_end:'s0' sort_order:ASCEND",
		"key:'s/03'",
		"key:'s/9' range_end:'s0'",
		"key:'t' range_end:'s'",
		"key:'\\x00' range_end:'\\x00' serializable:1",
		"key:'\\x00' range_end:'\\x00' limit:-1",
	};
	char key[16];

	for (int i = 0; i < 25; i++) {
		(void)snprintf(key, sizeof(key), "s/%02d", i);
		put(conf, key, "v");
	}
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		compare_with_range(conf, requests[i]);
}

static void stream_of_large_values(struct conf *conf)
{
	for (int i = 0; i < 12; i++)
		PUT("key:'l/%02d' value:'0123456789abcdef'*%d", i, 60000);
	compare_with_range(conf, "key:'l/' range_end:'l0'");
	compare_with_range(conf, "key:'l/' range_end:'l0' keys_only:1");
}

static void stream_refuses_what_it_must(struct conf *conf)
{
	put(conf, "a", "1");
	refused(conf, "");
	refused(conf, "key:'a' sort_order:7");
	refused(conf, "key:'a' range_end:'z' sort_order:DESCEND");
	refused(conf, "key:'a' range_end:'z' sort_order:ASCEND sort_target:VERSION");
	refused(conf, "key:'a' range_end:'z' min_mod_revision:1");
	refused(conf, "key:'a' range_end:'z' max_create_revision:1");
	refused(conf, "key:'a' revision:r99");
}

/* etcd 3.4 crashes on the second of these. */
static void unknown_sort_options(struct conf *conf)
{
	RANGE("key:'a' sort_order:3");
	RANGE("key:'a' sort_target:5");
	RANGE("key:'a' sort_order:-1");
	RANGE("sort_order:3");
	RANGE("key:'a' sort_order:3 revision:r99");
	TXN("success{request_range{key:'a' sort_target:9}}");
	TXN("failure{request_range{key:'a' sort_order:9}}");
}

/* 3.4 has no such call. Nothing is enabled that would have to be cancelled. */
static void downgrade(struct conf *conf)
{
	static const char *const versions[] = {"",      "abc", "3",     "3.5.",   "v3.5",       "3.5.0.0",
					       "3.x.0", "3.4", "3.6",   "3.6.0",  "3.7.0",      "2.5.0",
					       "4.5.0", "3.5", "3.5.0", "3.5.21", "3.5.0-rc.1", "3.5.0+build"};

	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		conf_call(conf, &etcdc_method_downgrade, "action:VALIDATE version:'%s'", versions[i]);
	conf_call(conf, &etcdc_method_downgrade, "action:ENABLE version:'abc'");
	conf_call(conf, &etcdc_method_downgrade, "action:ENABLE version:'3.4.0'");
	conf_call(conf, &etcdc_method_downgrade, "action:CANCEL");
	conf_call(conf, &etcdc_method_downgrade, "action:CANCEL version:'abc'");
	conf_call(conf, &etcdc_method_downgrade, "action:7 version:'3.5.0'");
}

const struct scenario v37_scenarios[] = {
	{"v37/range_stream_equals_range", stream_equals_range, false},
	{"v37/range_stream_of_large_values", stream_of_large_values, false},
	{"v37/range_stream_refuses_what_it_must", stream_refuses_what_it_must, false},
	{"v37/unknown_sort_options", unknown_sort_options, false},
	{"v37/downgrade", downgrade, false},
	{NULL, NULL, false},
};
