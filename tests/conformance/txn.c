/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions (spec 2.3–2.8, 14.3). */
#include "base/buf.h"
#include "base/thread.h"
#include "tests/conformance/conf.h"

#define P(k, v) "request_put{key:'" k "' value:'" v "'}"
#define G(k) "request_range{key:'" k "'}"
#define D(k) "request_delete_range{key:'" k "'}"
#define SUCCESS(op) "success{" op "} "
#define FAILURE(op) "failure{" op "} "
#define IF(compare) "compare{" compare "} "
#define NESTED(branch) "request_txn{" branch "}"

static void branches(struct conf *conf)
{
	TXN(" ");
	TXN(IF("target:VERSION key:'a' version:0") SUCCESS(P("a", "1")) FAILURE(G("a")));
	TXN(IF("target:VERSION key:'a' version:0") SUCCESS(P("a", "1")) FAILURE(G("a")));
	TXN(IF("target:VERSION key:'a' version:1") IF("target:VALUE key:'a' value:'1'") SUCCESS(D("a")));
	TXN(IF("target:VERSION key:'a' version:1") FAILURE(P("b", "1") "} failure{" G("b")));
	TXN(IF("target:VERSION key:'a' version:7"));
}

static void compare_missing_key(struct conf *conf)
{
	static const char *const compares[] = {
		"target:VERSION key:'x' version:0",
		"target:CREATE key:'x' create_revision:0",
		"target:MOD key:'x' mod_revision:0",
		"target:LEASE key:'x' lease:0",
		"target:VERSION result:LESS key:'x' version:1",
		"target:MOD result:NOT_EQUAL key:'x' mod_revision:7",
		"target:VERSION result:GREATER key:'x' version:0",
		"target:VERSION result:GREATER key:'x' version:-1",
		"target:VALUE key:'x' value:''",
		"target:VALUE result:NOT_EQUAL key:'x' value:'zz'",
		"target:VALUE result:GREATER key:'x' value:''",
		"target:VALUE result:LESS key:'x' value:'~'",
		"target:VALUE key:'x' range_end:'z' value:''",
		"target:VERSION key:'x' range_end:'z' version:0",
		"target:VERSION key:'z' range_end:'x' version:0",
		"target:VERSION key:'x' range_end:'\\x00' version:0",
		"key:'x'",
		"target:MOD key:'x' version:5",
	};

	for (size_t i = 0; i < sizeof(compares) / sizeof(compares[0]); i++)
		TXN("compare{%s}", compares[i]);
}

static void compare_present_key(struct conf *conf)
{
	static const char *const arms[] = {
		"target:VERSION key:'a' version:2",
		"target:CREATE key:'a' create_revision:r2",
		"target:MOD key:'a' mod_revision:r3",
		"target:VALUE key:'a' value:'m'",
		"target:LEASE key:'a' lease:7",
		"target:VERSION key:'a' version:1",
		"target:CREATE key:'a' create_revision:r1",
		"target:MOD key:'a' mod_revision:r9",
		"target:VALUE key:'a' value:''",
		"target:VALUE key:'a' value:'ma'",
		"target:VALUE key:'a' value:'l\\xff'",
		"target:LEASE key:'a' lease:-7",
		"target:MOD key:'a' version:5",
		"target:VALUE key:'a' version:5",
		"target:LEASE key:'a'",
		"target:VALUE key:'a' range_end:'c' value:'m'",
		"target:VERSION key:'a' range_end:'c' version:2",
		"target:MOD key:'a' range_end:'\\x00' mod_revision:r3",
		"target:LEASE key:'a' range_end:'b' lease:7",
	};

	GRANT("TTL:1000 ID:7");
	PUT("key:'a' value:'k'");
	PUT("key:'a' value:'m' lease:7");
	PUT("key:'b' value:'m'");
	for (size_t i = 0; i < sizeof(arms) / sizeof(arms[0]); i++) {
		TXN("compare{%s result:EQUAL}", arms[i]);
		TXN("compare{%s result:GREATER}", arms[i]);
		TXN("compare{%s result:LESS}", arms[i]);
		TXN("compare{%s result:NOT_EQUAL}", arms[i]);
	}
	TXN("compare{target:VERSION key:'a' version:99 result:4}");
	TXN("compare{target:9 key:'a' version:99}");
	TXN("compare{target:9 key:'a' version:99 result:NOT_EQUAL}");
}

static void compare_ranges(struct conf *conf)
{
	put(conf, "p/1", "v");
	put(conf, "p/2", "v");
	TXN(IF("target:VALUE key:'p/' range_end:'p0' value:'v'"));
	put(conf, "p/2", "w");
	TXN(IF("target:VALUE key:'p/' range_end:'p0' value:'v'"));
	TXN(IF("target:VERSION result:GREATER key:'p/' range_end:'p0' version:0"));
	TXN(IF("target:VERSION key:'q/' range_end:'q0' version:0"));
	TXN(IF("target:VALUE key:'q/' range_end:'q0' value:'v'"));
}

static void duplicate_keys(struct conf *conf)
{
	put(conf, "a", "0");
	TXN(SUCCESS(P("a", "1")) SUCCESS(P("a", "2")));
	TXN(FAILURE(P("a", "1")) FAILURE(P("a", "2")));
	TXN(SUCCESS(P("a", "1")) FAILURE(P("a", "2")));
	TXN(SUCCESS(P("a", "1")) SUCCESS(D("a")));
	TXN(SUCCESS(D("a")) SUCCESS(P("a", "1")));
	TXN(SUCCESS("request_delete_range{key:'a' range_end:'z'}") SUCCESS(P("b", "1")));
	TXN(SUCCESS(P("abc", "1")) SUCCESS("request_delete_range{key:'abb' range_end:'abc'}"));
	TXN(SUCCESS(P("abb", "1")) SUCCESS("request_delete_range{key:'abb' range_end:'abc'}"));
	TXN(SUCCESS(D("a")) SUCCESS("request_delete_range{key:'a' range_end:'b'}") SUCCESS(D("a")));
	RANGE("key:'\\x00' range_end:'\\x00'");
	TXN(SUCCESS("request_delete_range{key:'z' range_end:'a'}") SUCCESS(P("m", "1")));
	TXN(SUCCESS(G("a")) SUCCESS(P("a", "3")) SUCCESS(G("a")) SUCCESS(G("a")));
}

static void duplicate_keys_when_nested(struct conf *conf)
{
	TXN(SUCCESS(NESTED(SUCCESS(P("k", "1")))) SUCCESS(NESTED(SUCCESS(D("k")))));
	RANGE("key:'k'");
	RANGE("key:'k' revision:r1");
	TXN(SUCCESS(NESTED(SUCCESS(D("k")))) SUCCESS(NESTED(SUCCESS(P("k", "1")))));
	TXN(SUCCESS(NESTED(SUCCESS(P("k", "1")) FAILURE(P("k", "2")))));
	TXN(SUCCESS(NESTED(SUCCESS(P("k", "1")))) SUCCESS(NESTED(FAILURE(P("k", "2")))));
	TXN(SUCCESS(NESTED(SUCCESS(P("k", "1")))) SUCCESS(P("k", "2")));
	TXN(SUCCESS(P("k", "2")) SUCCESS(NESTED(SUCCESS(P("k", "1")))));
	TXN(SUCCESS(D("k")) SUCCESS(NESTED(SUCCESS(P("k", "1")))));
	TXN(SUCCESS(NESTED(SUCCESS(P("k", "1")))) SUCCESS(D("k")));
	TXN(SUCCESS(P("k", "2")) SUCCESS(NESTED(SUCCESS(D("k")))));
	TXN(SUCCESS(NESTED(SUCCESS(NESTED(SUCCESS(P("k", "1")))))) SUCCESS(NESTED(SUCCESS(P("k", "2")))));
	TXN(SUCCESS(NESTED(SUCCESS(D("k")) FAILURE(P("k", "1")))));
}

/* Delete of everything from a key on is not seen by the check for duplicates (spec 2.4, quirk i). */
static void put_after_open_ended_delete(struct conf *conf)
{
	struct etcdc_stream *watch = stream_open(conf, &etcdc_method_watch);

	PUT("key:'foo' value:'old'");
	PUT("key:'goo' value:'old'");
	stream_send(conf, watch, "create_request{key:'foo' prev_kv:1}");
	stream_recv(conf, watch);
	TXN(SUCCESS("request_delete_range{key:'a' range_end:'\\x00' prev_kv:1}")
		    SUCCESS("request_put{key:'foo' value:'new' prev_kv:1}"));
	watch_events(conf, watch, 2);
	RANGE("key:'foo'");
	TXN(SUCCESS("request_put{key:'foo' value:'newer' prev_kv:1}")
		    SUCCESS("request_delete_range{key:'a' range_end:'\\x00' prev_kv:1}"));
	watch_events(conf, watch, 2);
	RANGE("key:'foo'");
	PUT("key:'foo' value:'newest'");
	watch_events(conf, watch, 1);
	RANGE("key:'foo'");
	RANGE("key:'foo' revision:r4");
	etcdc_stream_close(watch);
}

static void many(struct conf *conf, int compares, int successes, int failures, int nested)
{
	struct ks_buf text;

	ks_buf_init(&text, 1 << 20);
	for (int i = 0; i < compares; i++)
		ks_buf_printf(&text, "compare{key:'c%d'}", i);
	for (int i = 0; i < successes; i++)
		ks_buf_printf(&text, "success{request_put{key:'s%03d'}}", i);
	for (int i = 0; i < failures; i++)
		ks_buf_printf(&text, "failure{request_put{key:'s%03d'}}", i);
	if (nested > 0) {
		ks_buf_printf(&text, "success{request_txn{");
		for (int i = 0; i < nested; i++)
			ks_buf_printf(&text, "success{request_put{key:'n%03d'}}", i);
		ks_buf_printf(&text, "}}");
	}
	ks_buf_append(&text, "", 1);
	TXN("%s", (const char *)text.data);
	ks_buf_fini(&text);
}

static void numbers_of_operations(struct conf *conf)
{
	many(conf, 0, 129, 0, 0);
	many(conf, 129, 0, 0, 0);
	many(conf, 0, 0, 129, 0);
	many(conf, 0, 128, 0, 0);
	many(conf, 128, 128, 128, 0);
	many(conf, 0, 0, 0, 128);
	many(conf, 0, 0, 0, 127);
	many(conf, 64, 0, 0, 65);
	many(conf, 64, 0, 0, 64);
	RANGE("key:'\\x00' range_end:'\\x00' count_only:1");
}

static void validation(struct conf *conf)
{
	TXN(SUCCESS(""));
	TXN(FAILURE(""));
	TXN(FAILURE("request_put{}"));
	TXN(SUCCESS(P("a", "1")) FAILURE("request_put{key:'a' value:'x' ignore_value:1}"));
	TXN(SUCCESS("request_range{}"));
	TXN(SUCCESS("request_delete_range{}"));
	TXN(IF("key:''"));
	TXN(SUCCESS(NESTED(IF("key:''"))));
	TXN(SUCCESS(NESTED(SUCCESS("request_put{}"))));
	TXN(SUCCESS(NESTED(FAILURE(""))));
	TXN(SUCCESS(NESTED("")));
	TXN(SUCCESS("request_put{key:'a' lease:1 ignore_lease:1}"));
	RANGE("key:'a'");
}

static void operations_see_earlier_ones(struct conf *conf)
{
	TXN(SUCCESS(P("a", "1")) SUCCESS(G("a")) SUCCESS(P("b", "2")) SUCCESS("request_range{key:'a' range_end:'c'}"));
	TXN(SUCCESS(G("c")) SUCCESS(P("c", "1")) SUCCESS(G("c")));
	TXN(SUCCESS("request_delete_range{key:'a' prev_kv:1}") SUCCESS(G("a")) SUCCESS(D("a"))
		    SUCCESS("request_range{key:'a' range_end:'d' limit:1}"));
	TXN(SUCCESS("request_range{key:'a' range_end:'d' revision:r2}") SUCCESS(P("d", "1"))
		    SUCCESS("request_range{key:'a' range_end:'z' revision:r2}"));
	RANGE("key:'\\x00' range_end:'\\x00'");
}

static void failed_checks_write_nothing(struct conf *conf)
{
	TXN(SUCCESS(P("a", "1")) SUCCESS("request_range{key:'a' revision:r2}"));
	TXN(SUCCESS(P("a", "1")) SUCCESS("request_put{key:'b' ignore_value:1}"));
	TXN(SUCCESS(P("a", "1")) SUCCESS("request_put{key:'b' ignore_lease:1}"));
	TXN(SUCCESS(P("a", "1")) SUCCESS("request_put{key:'b' lease:99}"));
	TXN(SUCCESS(P("a", "1")) FAILURE("request_put{key:'b' lease:99}"));
	TXN(SUCCESS(P("a", "2")) SUCCESS(NESTED(SUCCESS("request_put{key:'b' lease:99}"))));
	TXN(SUCCESS(P("a", "2")) SUCCESS(NESTED(IF("key:'a' version:9") SUCCESS("request_put{key:'b' lease:99}"))));
	TXN(SUCCESS(P("c", "1")) FAILURE("request_range{key:'a' revision:r99}"));
	TXN(SUCCESS("request_put{key:'new' value:'1'}")
		    SUCCESS(NESTED(SUCCESS("request_put{key:'new2' ignore_value:1}"))));
	RANGE("key:'\\x00' range_end:'\\x00'");
}

/* Which of several failures wins: in a transaction a put's existence check comes before its lease, unlike in a plain put. */
static void order_of_checks(struct conf *conf)
{
	PUT("key:'a' lease:9 ignore_value:1");
	TXN(SUCCESS("request_put{key:'a' lease:9 ignore_value:1}"));
	TXN(SUCCESS("request_put{key:'a' lease:9}") SUCCESS("request_put{key:'b' ignore_value:1}"));
	TXN(SUCCESS("request_put{key:'b' ignore_value:1}") SUCCESS("request_put{key:'a' lease:9}"));
	TXN(SUCCESS("request_put{key:'b' lease:9}") SUCCESS("request_range{key:'a' revision:r99}"));
	TXN(SUCCESS("request_range{key:'a' revision:r99}") SUCCESS("request_put{key:'b' lease:9}"));
	TXN(SUCCESS("request_range{key:'a' revision:r99}") SUCCESS(NESTED(SUCCESS("request_put{key:'b' lease:9}"))));
	TXN(SUCCESS(NESTED(SUCCESS("request_range{key:'a' revision:r99}")))
		    SUCCESS("request_put{key:'b' ignore_lease:1}"));
}

struct race {
	struct ks_mutex mutex;
	struct ks_cond changed;
	int open, succeeded, failed;
};

static void race_done(void *arg, const struct etcdc_result *result)
{
	struct race *race = arg;
	const Etcdserverpb__TxnResponse *response = result->response;

	ks_mutex_lock(&race->mutex);
	race->succeeded += response && response->succeeded;
	race->failed += !response;
	race->open--;
	ks_cond_broadcast(&race->changed);
	ks_mutex_unlock(&race->mutex);
}

/* 50 of 14.3, many times over. */
static void concurrent_creates(struct conf *conf)
{
	struct race race = {.open = 0};
	bool one_each = true;

	ks_mutex_init(&race.mutex);
	ks_cond_init(&race.changed);
	for (int round = 0; round < 50; round++) {
		char text[200];
		ProtobufCMessage *request;

		(void)snprintf(
			text, sizeof(text),
			"compare{target:MOD key:'c/%d' mod_revision:0} success{request_put{key:'c/%d' value:'1'}}",
			round, round);
		request = text_parse(&etcdserverpb__txn_request__descriptor, text, &conf->names);
		race.succeeded = 0;
		race.open = 8;
		for (int i = 0; i < 8; i++)
			etcdc_async(conf->client, &etcdc_method_txn, request, NULL, race_done, &race);
		ks_mutex_lock(&race.mutex);
		while (race.open > 0)
			(void)ks_cond_wait(&race.changed, &race.mutex, -1);
		one_each &= race.succeeded == 1 && race.failed == 0;
		ks_mutex_unlock(&race.mutex);
		protobuf_c_message_free_unpacked(request, NULL);
	}
	conf_check(conf, one_each, "exactly one of eight concurrent creates succeeds");
	RANGE("key:'c/' range_end:'c0' count_only:1");
	ks_cond_fini(&race.changed);
	ks_mutex_fini(&race.mutex);
}

static void nested(struct conf *conf)
{
	TXN(SUCCESS(P("a", "1")) SUCCESS(NESTED(IF("target:VERSION result:GREATER key:'a' version:0")
							SUCCESS(P("b", "1")) FAILURE(P("c", "1")))));
	RANGE("key:'\\x00' range_end:'\\x00'");
	TXN(SUCCESS(P("x", "1")) SUCCESS(NESTED(SUCCESS(P("y", "1")))));
	RANGE("key:'x' range_end:'z'");
	TXN(SUCCESS(NESTED(SUCCESS(NESTED(SUCCESS(NESTED(SUCCESS(P("deep", "1")) SUCCESS(G("deep")))))))));
	TXN(SUCCESS(NESTED(SUCCESS(G("a")))) SUCCESS(G("deep")));
	TXN(SUCCESS(NESTED("")));
	TXN(SUCCESS(D("a")) SUCCESS(NESTED(SUCCESS(G("a")) SUCCESS(D("c")))) SUCCESS(D("nope")));
	TXN(IF("key:'zz' version:1") FAILURE(NESTED(IF("key:'x' version:1") SUCCESS(P("last", "1")))));
	RANGE("key:'\\x00' range_end:'\\x00'");
}

static void without_any_change(struct conf *conf)
{
	TXN(SUCCESS(D("nope")));
	TXN(SUCCESS(D("nope")) SUCCESS(G("nope")) SUCCESS(D("nope")));
	TXN(SUCCESS(G("a")) SUCCESS("request_range{key:'a' serializable:1}"));
	TXN(SUCCESS(D("nope")) SUCCESS(P("a", "1")) SUCCESS(D("nope")) SUCCESS(G("a")));
	PUT("key:'after' value:'1'");
}

static void prev_kvs(struct conf *conf)
{
	put(conf, "a", "1");
	TXN(SUCCESS("request_put{key:'a' value:'2' prev_kv:1}") SUCCESS("request_put{key:'b' value:'1' prev_kv:1}"));
	TXN(SUCCESS("request_delete_range{key:'a' range_end:'z' prev_kv:1}"));
	TXN(SUCCESS("request_put{key:'a' value:'1' prev_kv:1}"));
}

/* Range options inside a transaction, a read-only one being another code path than one that writes. */
static void ranges(struct conf *conf)
{
	static const char *const options[] = {
		"limit:2",
		"count_only:1",
		"keys_only:1",
		"sort_order:DESCEND limit:1",
		"min_mod_revision:r3",
		"sort_target:MOD sort_order:DESCEND",
		"revision:r2",
		"revision:r3 limit:1",
		"revision:r9",
		"limit:-1",
		"max_create_revision:r2",
	};

	put(conf, "a", "1");
	put(conf, "b", "2");
	put(conf, "c", "3");
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		TXN("success{request_range{key:'a' range_end:'d' %s}}", options[i]);
		TXN("success{request_range{key:'a' range_end:'d' %s}} success{request_delete_range{key:'nope'}}",
		    options[i]);
	}
}

static void create_race(struct conf *conf)
{
	TXN(IF("target:MOD key:'a' mod_revision:0") SUCCESS(P("a", "1")) FAILURE(G("a")));
	TXN(IF("target:MOD key:'a' mod_revision:0") SUCCESS(P("a", "2")) FAILURE(G("a")));
	TXN(IF("target:MOD key:'a' mod_revision:r2") SUCCESS(P("a", "3")) FAILURE(G("a")));
	TXN(IF("target:MOD key:'a' mod_revision:r2") SUCCESS(D("a")) FAILURE(G("a")));
	TXN(IF("target:MOD key:'a' mod_revision:r3") SUCCESS(D("a")) FAILURE(G("a")));
	/* kube-apiserver's compaction key. */
	TXN(IF("target:VERSION key:'compact_rev_key' version:0") SUCCESS(P("compact_rev_key", "4"))
		    FAILURE(G("compact_rev_key")));
	TXN(IF("target:VERSION key:'compact_rev_key' version:0") SUCCESS(P("compact_rev_key", "5"))
		    FAILURE(G("compact_rev_key")));
}

static void too_large(struct conf *conf)
{
	TXN("success{request_put{key:'a' value:'x'*900000}} success{request_put{key:'b' value:'x'*900000}}");
	TXN("success{request_put{key:'a' value:'x'*700000}} success{request_put{key:'b' value:'x'*700000}}");
	RANGE("key:'a' range_end:'z' keys_only:1");
	DELETE("key:'a' range_end:'z'");
}

const struct scenario txn_scenarios[] = {
	{"txn/branches", branches, false},
	{"txn/compare_missing_key", compare_missing_key, false},
	{"txn/compare_present_key", compare_present_key, false},
	{"txn/compare_ranges", compare_ranges, false},
	{"txn/duplicate_keys", duplicate_keys, false},
	{"txn/duplicate_keys_when_nested", duplicate_keys_when_nested, false},
	{"txn/put_after_open_ended_delete", put_after_open_ended_delete, false},
	{"txn/numbers_of_operations", numbers_of_operations, false},
	{"txn/validation", validation, false},
	{"txn/operations_see_earlier_ones", operations_see_earlier_ones, false},
	{"txn/failed_checks_write_nothing", failed_checks_write_nothing, false},
	{"txn/order_of_checks", order_of_checks, false},
	{"txn/concurrent_creates", concurrent_creates, false},
	{"txn/nested", nested, false},
	{"txn/without_any_change", without_any_change, false},
	{"txn/prev_kvs", prev_kvs, false},
	{"txn/ranges", ranges, false},
	{"txn/create_race", create_race, false},
	{"txn/too_large", too_large, false},
	{NULL, NULL, false},
};
