/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction (spec 5, 14.6). */
#include "tests/conformance/conf.h"

/* What is left must be as if nothing had happened, for every revision that can still be asked for. */
static void what_is_kept(struct conf *conf)
{
	struct etcdc_stream *watch = stream_open(conf, &etcdc_method_watch);

	put(conf, "a", "1");
	put(conf, "a", "2");
	put(conf, "b", "1");
	DELETE("key:'b'");
	COMPACT("revision:r5");
	RANGE("key:'a' revision:r4");
	RANGE("key:'a' revision:r5");
	RANGE("key:'b' revision:r5");
	RANGE("key:'a'");
	COMPACT("revision:r5");
	COMPACT("revision:r4");
	COMPACT("revision:0");
	COMPACT("revision:-1");
	COMPACT("revision:r6");
	PUT("key:'b' value:'2'");
	RANGE("key:'b'");
	TXN("success{request_range{key:'a' revision:r4}}");
	TXN("success{request_range{key:'a' revision:r5}}");
	TXN("success{request_range{key:'a' revision:-1}}");
	TXN("success{request_range{key:'a' revision:-1}} success{request_put{key:'no' value:'1'}}");
	stream_send(conf, watch, "create_request{key:'a' range_end:'z' start_revision:r6}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void physical(struct conf *conf)
{
	put(conf, "a", "1");
	put(conf, "a", "2");
	put(conf, "b", "1");
	COMPACT("revision:r3 physical:1");
	RANGE("key:'a'");
	RANGE("key:'a' revision:r3");
	RANGE("key:'a' revision:r2");
	COMPACT("revision:r3 physical:1");
	put(conf, "a", "3");
	COMPACT("revision:r5 physical:1");
	RANGE("key:'a' range_end:'c'");
	RANGE("key:'a' range_end:'c' revision:r4");
	RANGE("key:'a' range_end:'c' revision:r5 limit:1");
}

static void everything_deleted(struct conf *conf)
{
	put(conf, "a", "1");
	put(conf, "b", "1");
	DELETE("key:'a' range_end:'c'");
	COMPACT("revision:r4 physical:1");
	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'\\x00' range_end:'\\x00' revision:r4");
	PUT("key:'a' value:'2'");
	RANGE("key:'a'");
}

static void generations(struct conf *conf)
{
	for (int i = 0; i < 4; i++) {
		PUT("key:'g' value:'%d'", i);
		PUT("key:'g' value:'%d again'", i);
		DELETE("key:'g'");
		put(conf, "keep", "v");
	}
	COMPACT("revision:r7");
	RANGE("key:'g' range_end:'l' revision:r7");
	RANGE("key:'g' range_end:'l' revision:r8");
	RANGE("key:'g' range_end:'l' revision:r12");
	RANGE("key:'g' range_end:'l'");
	COMPACT("revision:r15");
	RANGE("key:'g' range_end:'l' revision:r15");
	RANGE("key:'g' range_end:'l' revision:r16");
	PUT("key:'g' value:'new'");
	RANGE("key:'g'");
}

static void leased_keys(struct conf *conf)
{
	GRANT("TTL:600 ID:5");
	PUT("key:'l' value:'1' lease:5");
	PUT("key:'l' value:'2' lease:5");
	COMPACT("revision:r3 physical:1");
	TTL("ID:5 keys:1");
	REVOKE("ID:5");
	RANGE("key:'l'");
	RANGE("key:'l' revision:r3");
}

/* A watcher that is caught up is not concerned by a compaction. */
static void watchers_that_are_caught_up(struct conf *conf)
{
	struct etcdc_stream *watch = stream_open(conf, &etcdc_method_watch);

	stream_send(conf, watch, "create_request{key:'a' prev_kv:1}");
	stream_recv(conf, watch);
	PUT("key:'a' value:'1'");
	stream_recv(conf, watch);
	PUT("key:'a' value:'2'");
	stream_recv(conf, watch);
	COMPACT("revision:r3");
	stream_quiet(conf, watch);
	PUT("key:'a' value:'3'");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

const struct scenario compact_scenarios[] = {
	{"compact/what_is_kept", what_is_kept, false},
	{"compact/physical", physical, false},
	{"compact/everything_deleted", everything_deleted, false},
	{"compact/generations", generations, false},
	{"compact/leased_keys", leased_keys, false},
	{"compact/watchers_that_are_caught_up", watchers_that_are_caught_up, false},
	{NULL, NULL, false},
};

static void first_compactions(struct conf *conf)
{
	COMPACT("revision:-1");
	COMPACT("revision:2");
	COMPACT("revision:0");
	COMPACT("revision:0");
	COMPACT("revision:1");
	COMPACT("revision:1");
	RANGE("key:'a' revision:1");
	TXN("success{request_range{key:'a' revision:-1}}");
	PUT("key:'a' value:'1'");
	RANGE("key:'a' revision:1");
	COMPACT("revision:2 physical:1");
	RANGE("key:'a' revision:1");
	HASHKV("revision:0");
}

const struct scenario fresh_compact_scenarios[] = {
	{"fresh-compact/first_compactions", first_compactions, true},
	{NULL, NULL, false},
};

/* 79, 85 of 14: the server is restarted between the two halves. */
static void before_restart(struct conf *conf)
{
	GRANT("TTL:1000 ID:5");
	PUT("key:'a' value:'1'");
	PUT("key:'a' value:'2' lease:5");
	PUT("key:'b' value:'3'");
	TXN("success{request_put{key:'c' value:'4'}} success{request_put{key:'d' value:'5'}} "
	    "success{request_delete_range{key:'b'}}");
	COMPACT("revision:3 physical:1");
	PUT("key:'a' value:'6' ignore_lease:1");
	RANGE("key:'\\x00' range_end:'\\x00'");
	HASHKV(" ");
}

static void after_restart(struct conf *conf)
{
	struct etcdc_stream *watch = stream_open(conf, &etcdc_method_watch);

	RANGE("key:'\\x00' range_end:'\\x00'");
	RANGE("key:'a' revision:3");
	RANGE("key:'\\x00' range_end:'\\x00' revision:4");
	RANGE("key:'a' revision:2");
	COMPACT("revision:3");
	TTL("ID:5 keys:1");
	HASHKV(" ");
	stream_send(conf, watch, "create_request{range_end:'\\x00' start_revision:4 prev_kv:1}");
	stream_recv(conf, watch);
	watch_events(conf, watch, 5);
	PUT("key:'a' value:'7'");
	watch_events(conf, watch, 1);
	TTL("ID:5 keys:1");
	REVOKE("ID:5");
	DELETE("key:'\\x00' range_end:'\\x00'");
	COMPACT("revision:8 physical:1");
	HASHKV(" ");
	etcdc_stream_close(watch);
}

/* Nothing is left whose revision the store could take for its own. */
static void after_second_restart(struct conf *conf)
{
	RANGE("key:'\\x00' range_end:'\\x00'");
	HASHKV(" ");
	PUT("key:'a' value:'8'");
	RANGE("key:'a' revision:7");
	RANGE("key:'a' revision:8");
	RANGE("key:'a'");
}

const struct scenario restart_scenarios[] = {
	{"restart/before", before_restart, true},
	{"restart/after", after_restart, true},
	{"restart/after_all_was_deleted", after_second_restart, true},
	{NULL, NULL, false},
};
