/* SPDX-License-Identifier: Apache-2.0 */
/* Watch (spec 3, 14.4, and 117 of 14.11) on raw streams: every response as it comes. */
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/conf.h"

#define OPEN() stream_open(conf, &etcdc_method_watch)

static void created_and_live_events(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'bar'}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'1'");
	stream_recv(conf, watch);
	PUT("key:'bar' value:'2'");
	stream_recv(conf, watch);
	DELETE("key:'foo'");
	stream_recv(conf, watch);
	PUT("key:'other' value:'3'");
	DELETE("key:'nope'");
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

static void chosen_ids(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo' watch_id:7}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' watch_id:7}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "cancel_request{watch_id:7}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' watch_id:7}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' watch_id:-9}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void automatic_ids_avoid_chosen_ones(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo' watch_id:1}");
	stream_recv(conf, watch);
	for (int i = 0; i < 3; i++) {
		stream_send(conf, watch, "create_request{key:'foo'}");
		stream_recv(conf, watch);
	}
	stream_send(conf, watch, "cancel_request{watch_id:0}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void empty_ranges(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'b' range_end:'a'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'a' range_end:'a'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'a'}");
	stream_recv(conf, watch);
	PUT("key:'a' value:'1'");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void negative_start(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'a' start_revision:-1}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'b'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void everything(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{range_end:'\\x00'}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'' watch_id:5}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'1'");
	stream_recv(conf, watch);
	PUT("key:'\\x00' value:'1'");
	watch_events(conf, watch, 2);
	PUT("key:'\\xff\\xff\\xff' value:'1'");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

static void history(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	put(conf, "foo", "1");
	put(conf, "foo", "2");
	put(conf, "bar", "x");
	put(conf, "foo", "3");
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r2}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r3}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'a' range_end:'z' start_revision:r1 prev_kv:1}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'none' start_revision:r1}");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	put(conf, "foo", "4");
	watch_events(conf, watch, 3);
	etcdc_stream_close(watch);
}

static void start_in_the_future(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo' start_revision:r10}");
	stream_recv(conf, watch);
	for (int i = 0; i < 9; i++)
		put(conf, "foo", "v");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

static void one_response_for_a_txn(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'t/' range_end:'t0'}");
	stream_recv(conf, watch);
	TXN("success{request_put{key:'t/c' value:'3'}} success{request_put{key:'t/a' value:'1'}} "
	    "success{request_put{key:'t/b' value:'2'}} success{request_put{key:'u' value:'2'}}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'t/b' start_revision:r2}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	DELETE("key:'t/' range_end:'t0'");
	watch_events(conf, watch, 4);
	etcdc_stream_close(watch);
}

static void filters(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo' filters:NOPUT}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' filters:NODELETE prev_kv:1}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' filters:NOPUT filters:NODELETE}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'1'");
	stream_recv(conf, watch);
	DELETE("key:'foo'");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' filters:NOPUT start_revision:r1}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' filters:NODELETE filters:NOPUT start_revision:r1}");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

static void prev_kv(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo' prev_kv:1}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'1'");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'2'");
	stream_recv(conf, watch);
	DELETE("key:'foo'");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'3'");
	stream_recv(conf, watch);
	/* Two watchers of a key do not see each other's options. */
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'4'");
	watch_events(conf, watch, 2);
	stream_send(conf, watch, "create_request{key:'foo' prev_kv:1 start_revision:r2}");
	stream_recv(conf, watch);
	watch_events(conf, watch, 5);
	etcdc_stream_close(watch);
}

static void prev_kv_of_a_compacted_revision(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	put(conf, "foo", "1");
	put(conf, "foo", "2");
	put(conf, "foo", "3");
	COMPACT("revision:r3");
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r3 prev_kv:1}");
	stream_recv(conf, watch);
	watch_events(conf, watch, 2);
	etcdc_stream_close(watch);
}

static void compacted_start(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	put(conf, "foo", "1");
	put(conf, "foo", "2");
	put(conf, "foo", "3");
	COMPACT("revision:r3");
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r2}");
	stream_recv(conf, watch);
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'none' start_revision:r3}");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	stream_send(conf, watch, "cancel_request{watch_id:0}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "cancel_request{watch_id:0}");
	stream_quiet(conf, watch);
	PUT("key:'none' value:'1'");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void cancel(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "cancel_request{watch_id:12345}");
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	put(conf, "other", "1");
	stream_send(conf, watch, "cancel_request{watch_id:0}");
	stream_recv(conf, watch);
	PUT("key:'foo' value:'1'");
	stream_quiet(conf, watch);
	stream_send(conf, watch, "cancel_request{watch_id:0}");
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

static void progress_on_request(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "progress_request{}");
	stream_quiet(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	put(conf, "other", "1");
	stream_quiet(conf, watch);
	stream_send(conf, watch, "progress_request{}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'bar'}");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	stream_send(conf, watch, "progress_request{}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r100}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "progress_request{}");
	stream_quiet(conf, watch);
	stream_send(conf, watch, "cancel_request{watch_id:2}");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	stream_send(conf, watch, "progress_request{}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void half_close_does_not_end_it(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	etcdc_stream_half_close(watch);
	PUT("key:'foo' value:'1'");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	PUT("key:'foo' value:'2'");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

static void requests_without_an_arm(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, " ");
	stream_quiet(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

/* Without the wait for whole batches: responses of a long history split at 1000 revisions (spec 3.4). */
static void long_history(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();
	size_t seen = 0, first = 0;
	int responses = 0;

	for (int n = 0; n < 1500; n++)
		put(conf, "foo", "v");
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r2}");
	stream_recv(conf, watch);
	while (seen < 1500) {
		Etcdserverpb__WatchResponse *response;
		void *message;

		if (etcdc_stream_recv(watch, 10000, &message, NULL) != KS_OK || !message)
			break;
		response = message;
		seen += response->n_events;
		if (responses++ == 0)
			first = response->n_events;
		etcdc_free(response);
	}
	conf_check(conf, seen == 1500, "1500 events");
	conf_check(conf, responses >= 2, "more than one response");
	conf_check(conf, first <= 1000, "the first has at most 1000 revisions");
	stream_send(conf, watch, "create_request{key:'foo' start_revision:r2}");
	stream_recv(conf, watch);
	watch_events(conf, watch, 1500);
	etcdc_stream_close(watch);
}

static void large_responses(struct conf *conf, const char *fragment)
{
	struct etcdc_stream *watch = OPEN();
	int pieces = 0, events = 0;
	bool more = true, flags_ok = true;

	PUT("key:'big/1' value:'x'*1433600");
	PUT("key:'big/2' value:'y'*1433600");
	PUT("key:'big/3' value:'z'*1433600");
	stream_send(conf, watch, "create_request{key:'big/' range_end:'big0' start_revision:r2 %s}", fragment);
	stream_recv(conf, watch);
	while (more) {
		Etcdserverpb__WatchResponse *response;
		void *message;

		if (etcdc_stream_recv(watch, 10000, &message, NULL) != KS_OK || !message)
			break;
		response = message;
		pieces++;
		events += (int)response->n_events;
		more = events < 3;
		flags_ok &= response->fragment == (more && *fragment);
		etcdc_free(response);
	}
	conf_note(conf, "%d events in %d responses", events, pieces);
	conf_check(conf, flags_ok, "fragment is set in all but the last");
	DELETE("key:'big/' range_end:'big0'");
	etcdc_stream_close(watch);
}

static void fragments(struct conf *conf)
{
	large_responses(conf, "fragment:1");
}

static void no_fragments(struct conf *conf)
{
	large_responses(conf, "");
}

static void revoked_lease(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();

	stream_send(conf, watch, "create_request{key:'l/' range_end:'l0' prev_kv:1}");
	stream_recv(conf, watch);
	GRANT("TTL:1000 ID:5");
	PUT("key:'l/b' value:'1' lease:5");
	PUT("key:'l/a' value:'2' lease:5");
	PUT("key:'m' value:'2' lease:5");
	watch_events(conf, watch, 2);
	REVOKE("ID:5");
	stream_recv(conf, watch);
	stream_quiet(conf, watch);
	etcdc_stream_close(watch);
}

/* 117: a put that matches ten thousand watchers of one stream. */
static void ten_thousand_watchers(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	const int count = 10000;
	int created = 0, answered = 0;
	bool in_order = true;
	void *message;
	uint8_t *once = calloc(1, (size_t)count);

	create.key = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "foo"};
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	for (int i = 0; i < count; i++)
		(void)etcdc_stream_send(watch, &request);
	while (created < count && etcdc_stream_recv(watch, 10000, &message, NULL) == KS_OK && message) {
		const Etcdserverpb__WatchResponse *response = message;

		in_order &= response->created && response->watch_id == created++;
		etcdc_free(message);
	}
	conf_check(conf, in_order && created == count, "10000 created in order");
	PUT("key:'foo' value:'1'");
	while (answered < count && etcdc_stream_recv(watch, 10000, &message, NULL) == KS_OK && message) {
		const Etcdserverpb__WatchResponse *response = message;

		if (once && response->watch_id >= 0 && response->watch_id < count && response->n_events == 1)
			once[response->watch_id]++;
		answered++;
		etcdc_free(message);
	}
	for (int i = 0; once && i < count; i++)
		in_order &= once[i] == 1;
	conf_check(conf, in_order && answered == count, "each of the 10000 has the event once");
	free(once);
	etcdc_stream_close(watch);
}

/* A client that never reads, while others do: memory is bounded by the transport, and nothing is lost when it reads at last. */
static void slow_reader(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN(), *quick = OPEN();

	stream_send(conf, watch, "create_request{key:'s'}");
	stream_recv(conf, watch);
	stream_send(conf, quick, "create_request{key:'s'}");
	stream_recv(conf, quick);
	for (int i = 0; i < 400; i++)
		PUT("key:'s' value:'x'*10000");
	watch_events(conf, quick, 400);
	watch_events(conf, watch, 400);
	etcdc_stream_close(watch);
	etcdc_stream_close(quick);
}

const struct scenario watch_scenarios[] = {
	{"watch/created_and_live_events", created_and_live_events, false},
	{"watch/chosen_ids", chosen_ids, false},
	{"watch/automatic_ids_avoid_chosen_ones", automatic_ids_avoid_chosen_ones, false},
	{"watch/empty_ranges", empty_ranges, false},
	{"watch/negative_start", negative_start, false},
	{"watch/everything", everything, false},
	{"watch/history", history, false},
	{"watch/start_in_the_future", start_in_the_future, false},
	{"watch/one_response_for_a_txn", one_response_for_a_txn, false},
	{"watch/filters", filters, false},
	{"watch/prev_kv", prev_kv, false},
	{"watch/prev_kv_of_a_compacted_revision", prev_kv_of_a_compacted_revision, false},
	{"watch/compacted_start", compacted_start, false},
	{"watch/cancel", cancel, false},
	{"watch/progress_on_request", progress_on_request, false},
	{"watch/half_close_does_not_end_it", half_close_does_not_end_it, false},
	{"watch/requests_without_an_arm", requests_without_an_arm, false},
	{"watch/long_history", long_history, false},
	{"watch/fragments", fragments, false},
	{"watch/no_fragments", no_fragments, false},
	{"watch/revoked_lease", revoked_lease, false},
	{"watch/ten_thousand_watchers", ten_thousand_watchers, false},
	{"watch/slow_reader", slow_reader, false},
	{NULL, NULL, false},
};

/* The server is started with a progress interval of one second. */
static void periodic_progress(struct conf *conf)
{
	struct etcdc_stream *watch = OPEN();
	struct etcdc_err err;
	void *message;

	stream_send(conf, watch, "create_request{key:'foo' progress_notify:1}");
	stream_recv(conf, watch);
	stream_send(conf, watch, "create_request{key:'foo'}");
	stream_recv(conf, watch);
	put(conf, "other", "1");
	stream_recv(conf, watch); /* the first tick */
	PUT("key:'foo' value:'1'");
	watch_events(conf, watch, 2);
	/* The next tick is left out for a watcher that had events: more than one interval passes. */
	conf_check(conf, etcdc_stream_recv(watch, 700, &message, &err) == KS_DEADLINE_EXCEEDED,
		   "no progress right after events");
	stream_recv(conf, watch);
	etcdc_stream_close(watch);
}

const struct scenario progress_scenarios[] = {
	{"progress/periodic", periodic_progress, false},
	{NULL, NULL, false},
};
