/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations drawn from a seed: the same ones, with the same absolute revisions, run on every server, whose answers must be the
 * same. A small key space makes them meet. What a server may answer in several ways is left out or put in order: ties of a sort,
 * watches at exactly the compact revision, and two requests that crash a real etcd (spec 15).
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/panic.h"
#include "tests/conformance/conf.h"

#define OPERATIONS 2500
#define TEXT_MAX (1 << 20)

struct event {
	int64_t revision;
	bool is_delete;
	uint8_t key[8];
	size_t key_size;
};

struct generator {
	struct conf *conf;
	uint64_t state;
	int64_t current, compacted; /* revisions of the server */
	bool ignore_allowed;        /* in this transaction */
	bool open_delete_allowed;
	struct ks_buf text;
	/* All events since the start, from a watch on everything; history watches must see their part of it. */
	struct etcdc_stream *recorder;
	struct event *events;
	size_t event_count, event_capacity;
	int64_t recorded; /* revision up to which the recorder has seen everything */
};

static uint64_t draw(struct generator *gen)
{
	uint64_t z = (gen->state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static int64_t below(struct generator *gen, int64_t limit)
{
	return (int64_t)(draw(gen) % (uint64_t)limit);
}

static bool chance(struct generator *gen, int percent)
{
	return below(gen, 100) < percent;
}

static void add(struct generator *gen, const char *text)
{
	ks_buf_append(&gen->text, text, strlen(text));
}

static void add_key(struct generator *gen, const char *field)
{
	static const char *const letters[] = {"a", "b", "c", "d", "\\x00", "\\xff"};
	int64_t size = 1 + below(gen, 3);

	ks_buf_printf(&gen->text, "%s:'", field);
	for (int64_t i = 0; i < size; i++)
		add(gen, letters[i == 0 ? below(gen, 4) : below(gen, 6)]);
	add(gen, "' ");
}

static void add_interval(struct generator *gen, bool open_allowed)
{
	int64_t kind = below(gen, 10);

	add_key(gen, "key");
	if (kind < 5)
		return;
	if (kind < 6 && open_allowed)
		add(gen, "range_end:'\\x00' ");
	else
		add_key(gen, "range_end");
}

static int64_t some_revision(struct generator *gen)
{
	switch (below(gen, 12)) {
	case 0:
		return gen->current + 1 + below(gen, 3);
	case 1:
		return gen->compacted;
	case 2:
		return below(gen, gen->current + 1);
	case 3:
		return gen->compacted - 1;
	default:
		return gen->compacted < 1 ? 1 + below(gen, gen->current)
					  : gen->compacted + below(gen, gen->current - gen->compacted + 1);
	}
}

static void add_range(struct generator *gen, bool in_txn)
{
	static const char *const orders[] = {"NONE", "ASCEND", "DESCEND"};
	static const char *const targets[] = {"KEY", "VERSION", "CREATE", "MOD", "VALUE"};
	static const char *const bounds[] = {"min_mod_revision", "max_mod_revision", "min_create_revision",
					     "max_create_revision"};
	bool by_key = true;

	add_interval(gen, true);
	if (chance(gen, 35))
		ks_buf_printf(&gen->text, "sort_order:%s ", orders[below(gen, 3)]);
	if (!in_txn && chance(gen, 25)) {
		int64_t target = below(gen, 5);

		by_key = target == 0;
		ks_buf_printf(&gen->text, "sort_target:%s ", targets[target]);
	}
	/* Which of several equal ones a limit cuts off is open. */
	if (by_key && chance(gen, 40))
		ks_buf_printf(&gen->text, "limit:%" PRId64 " ", below(gen, 8) - 1);
	if (chance(gen, 35)) {
		int64_t revision = some_revision(gen);

		/* Negative ones differ between Range and Txn and have a scenario of their own. */
		ks_buf_printf(&gen->text, "revision:%" PRId64 " ", revision < 0 ? 0 : revision);
	}
	for (int i = 0; i < 4; i++) {
		if (chance(gen, 8))
			ks_buf_printf(&gen->text, "%s:%" PRId64 " ", bounds[i], below(gen, gen->current + 2));
	}
	if (chance(gen, 10))
		add(gen, "keys_only:1 ");
	if (chance(gen, 10))
		add(gen, "count_only:1 ");
	if (chance(gen, 15))
		add(gen, "serializable:1 ");
}

static void add_put(struct generator *gen, bool ignore_allowed)
{
	bool ignore_value = ignore_allowed && chance(gen, 6), ignore_lease = ignore_allowed && chance(gen, 6);

	add_key(gen, "key");
	if (!ignore_value || chance(gen, 5))
		ks_buf_printf(&gen->text, "value:'%" PRId64 "' ", below(gen, 30));
	if (chance(gen, 15) && (!ignore_lease || chance(gen, 5)))
		ks_buf_printf(&gen->text, "lease:%" PRId64 " ", 1 + below(gen, 6));
	if (ignore_value)
		add(gen, "ignore_value:1 ");
	if (ignore_lease)
		add(gen, "ignore_lease:1 ");
	if (chance(gen, 20))
		add(gen, "prev_kv:1 ");
}

static void add_delete(struct generator *gen, bool open_allowed)
{
	add_interval(gen, open_allowed);
	if (chance(gen, 30))
		add(gen, "prev_kv:1 ");
}

static void add_compare(struct generator *gen)
{
	static const char *const results[] = {"EQUAL", "GREATER", "LESS", "NOT_EQUAL"};

	add(gen, "compare{");
	add_interval(gen, true);
	ks_buf_printf(&gen->text, "result:%s ", results[below(gen, 4)]);
	switch (below(gen, 6)) {
	case 0:
		ks_buf_printf(&gen->text, "target:VERSION version:%" PRId64, below(gen, 4));
		break;
	case 1:
		ks_buf_printf(&gen->text, "target:CREATE create_revision:%" PRId64, below(gen, gen->current + 1));
		break;
	case 2:
		ks_buf_printf(&gen->text, "target:MOD mod_revision:%" PRId64, below(gen, gen->current + 1));
		break;
	case 3:
		ks_buf_printf(&gen->text, "target:VALUE value:'%" PRId64 "'", below(gen, 30));
		break;
	case 4:
		ks_buf_printf(&gen->text, "target:LEASE lease:%" PRId64, below(gen, 4));
		break;
	default:
		ks_buf_printf(&gen->text, "target:MOD version:%" PRId64, below(gen, 4));
	}
	add(gen, "} ");
}

static void add_txn(struct generator *gen, int depth);

static void add_op(struct generator *gen, int depth)
{
	int64_t kind = below(gen, depth < 2 ? 12 : 10);

	if (kind < 4) {
		add(gen, "request_put{");
		add_put(gen, gen->ignore_allowed);
	} else if (kind < 7) {
		add(gen, "request_range{");
		add_range(gen, true);
	} else if (kind < 10) {
		add(gen, "request_delete_range{");
		add_delete(gen, gen->open_delete_allowed);
	} else {
		add(gen, "request_txn{");
		add_txn(gen, depth + 1);
	}
	add(gen, "}");
}

static void add_txn(struct generator *gen, int depth)
{
	for (int64_t i = below(gen, 3); i > 0; i--)
		add_compare(gen);
	for (int64_t i = below(gen, 4); i > 0; i--) {
		add(gen, "success{");
		add_op(gen, depth);
		add(gen, "} ");
	}
	for (int64_t i = below(gen, 4); i > 0; i--) {
		add(gen, "failure{");
		add_op(gen, depth);
		add(gen, "} ");
	}
}

/* ---- Watches ---- */

static void record(struct generator *gen)
{
	while (gen->recorded < gen->current) {
		Etcdserverpb__WatchResponse *response;
		void *message;

		if (etcdc_stream_recv(gen->recorder, 10000, &message, NULL) != KS_OK || !message) {
			conf_note(gen->conf, "the recorder lost its stream: FAILED");
			gen->recorded = INT64_MAX;
			return;
		}
		response = message;
		if (response->canceled) {
			conf_note(gen->conf, "the recorder was cancelled: FAILED");
			gen->recorded = INT64_MAX;
		}
		for (size_t i = 0; i < response->n_events; i++) {
			const Mvccpb__KeyValue *kv = response->events[i]->kv;
			struct event *event;

			if (gen->event_count == gen->event_capacity) {
				gen->event_capacity = gen->event_capacity * 2 + 1024;
				gen->events = ks_xrealloc(gen->events, gen->event_capacity * sizeof(gen->events[0]));
			}
			event = &gen->events[gen->event_count++];
			event->revision = gen->recorded = kv->mod_revision;
			event->is_delete = response->events[i]->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;
			event->key_size = kv->key.len < sizeof(event->key) ? kv->key.len : sizeof(event->key);
			memcpy(event->key, kv->key.data, event->key_size);
		}
		etcdc_free(message);
	}
}

static bool matches(const struct event *event, const Etcdserverpb__WatchCreateRequest *create)
{
	struct ks_slice key = ks_slice_of(event->key, event->key_size);
	struct ks_slice from = ks_slice_of(create->key.data, create->key.len);
	struct ks_slice to = ks_slice_of(create->range_end.data, create->range_end.len);

	for (size_t i = 0; i < create->n_filters; i++) {
		if (event->is_delete ==
		    (create->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE))
			return false;
	}
	if (event->revision < create->start_revision)
		return false;
	if (to.size == 0)
		return ks_slice_eq(key, from);
	if (ks_slice_cmp(key, from) < 0)
		return false;
	return (to.size == 1 && to.data[0] == 0) || ks_slice_cmp(key, to) < 0;
}

static void watch_history(struct generator *gen)
{
	struct conf *conf = gen->conf;
	struct etcdc_stream *watch;
	Etcdserverpb__WatchCreateRequest *create;
	size_t expected = 0;
	int64_t first = gen->compacted < 0 ? 1 : gen->compacted + 1;

	if (first > gen->current)
		return;
	record(gen);
	ks_buf_reset(&gen->text);
	add_interval(gen, true);
	ks_buf_printf(&gen->text, "start_revision:%" PRId64 " ", first + below(gen, gen->current - first + 1));
	if (chance(gen, 50))
		add(gen, "prev_kv:1 ");
	if (chance(gen, 20))
		add(gen, chance(gen, 50) ? "filters:NOPUT " : "filters:NODELETE ");
	if (chance(gen, 30))
		add(gen, "fragment:1 ");
	ks_buf_append(&gen->text, "", 1);

	create = (void *)text_parse(&etcdserverpb__watch_create_request__descriptor, (const char *)gen->text.data,
				    &conf->names);
	for (size_t i = 0; i < gen->event_count; i++)
		expected += matches(&gen->events[i], create);
	watch = stream_open(conf, &etcdc_method_watch);
	stream_send(conf, watch, "create_request{%s}", (const char *)gen->text.data);
	stream_recv(conf, watch);
	/* Nothing to expect from a range that was refused. */
	if (create->range_end.len == 0 || (create->range_end.len == 1 && create->range_end.data[0] == 0) ||
	    ks_slice_cmp(ks_slice_of(create->key.data, create->key.len),
			 ks_slice_of(create->range_end.data, create->range_end.len)) < 0)
		watch_events(conf, watch, expected);
	etcdc_stream_close(watch);
	etcdc_free(create);
}

/* ---- Ranges sorted by something that is not unique ---- */

static int64_t target_of(const Mvccpb__KeyValue *kv, Etcdserverpb__RangeRequest__SortTarget target)
{
	switch (target) {
	case ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VERSION:
		return kv->version;
	case ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE:
		return kv->create_revision;
	case ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD:
		return kv->mod_revision;
	default:
		return 0;
	}
}

static int compare_values(const Mvccpb__KeyValue *a, const Mvccpb__KeyValue *b,
			  Etcdserverpb__RangeRequest__SortTarget target)
{
	if (target == ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE)
		return ks_slice_cmp(ks_slice_of(a->value.data, a->value.len), ks_slice_of(b->value.data, b->value.len));
	return (target_of(a, target) > target_of(b, target)) - (target_of(a, target) < target_of(b, target));
}

static int by_key(const void *a, const void *b)
{
	const Mvccpb__KeyValue *const *left = a, *const *right = b;

	return ks_slice_cmp(ks_slice_of((*left)->key.data, (*left)->key.len),
			    ks_slice_of((*right)->key.data, (*right)->key.len));
}

static void range(struct generator *gen)
{
	struct conf *conf = gen->conf;
	Etcdserverpb__RangeRequest *request;
	Etcdserverpb__RangeResponse *response;
	bool ordered = true;

	ks_buf_reset(&gen->text);
	add_range(gen, false);
	ks_buf_append(&gen->text, "", 1);
	request = (void *)text_parse(&etcdserverpb__range_request__descriptor, (const char *)gen->text.data,
				     &conf->names);
	response = conf_call_quiet(conf, &etcdc_method_range, "%s", (const char *)gen->text.data);
	if (response && request->sort_target != ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY && response->n_kvs > 0) {
		for (size_t i = 1; i < response->n_kvs; i++) {
			int order = compare_values(response->kvs[i - 1], response->kvs[i], request->sort_target);

			ordered &= request->sort_order == ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND ? order >= 0
													   : order <= 0;
		}
		conf_check(conf, ordered, "sorted");
		qsort(response->kvs, response->n_kvs, sizeof(Mvccpb__KeyValue *), by_key);
	}
	if (response)
		text_print(conf->out, &response->base, "", &conf->names);
	etcdc_free(response);
	etcdc_free(request);
}

/* ---- Driver ---- */

static void one(struct generator *gen, const struct etcdc_method *method)
{
	ks_buf_append(&gen->text, "", 1);
	KS_ASSERT(!gen->text.failed);
	conf_call(gen->conf, method, "%s", (const char *)gen->text.data);
	if (gen->conf->revision > gen->current)
		gen->current = gen->conf->revision;
}

static void compact(struct generator *gen)
{
	int64_t revision = some_revision(gen);

	ks_buf_reset(&gen->text);
	ks_buf_printf(&gen->text, "revision:%" PRId64 " physical:%d", revision, chance(gen, 50));
	one(gen, &etcdc_method_compact);
	if (gen->conf->status == KS_OK)
		gen->compacted = revision;
}

static void step(struct generator *gen)
{
	struct conf *conf = gen->conf;
	int64_t kind = below(gen, 1000);

	ks_buf_reset(&gen->text);
	if (kind < 330) {
		add_put(gen, true);
		one(gen, &etcdc_method_put);
	} else if (kind < 430) {
		add_delete(gen, chance(gen, 20));
		one(gen, &etcdc_method_delete_range);
	} else if (kind < 700) {
		range(gen);
	} else if (kind < 920) {
		gen->open_delete_allowed = chance(gen, 50);
		gen->ignore_allowed = !gen->open_delete_allowed;
		add_txn(gen, 0);
		one(gen, &etcdc_method_txn);
	} else if (kind < 940) {
		ks_buf_printf(&gen->text, "TTL:100000 ID:%" PRId64, 1 + below(gen, 5));
		one(gen, &etcdc_method_lease_grant);
	} else if (kind < 950) {
		ks_buf_printf(&gen->text, "ID:%" PRId64, 1 + below(gen, 5));
		one(gen, &etcdc_method_lease_revoke);
	} else if (kind < 958) {
		compact(gen);
	} else if (kind < 975) {
		HASHKV("revision:0");
	} else {
		watch_history(gen);
	}
}

static void operations(struct conf *conf)
{
	struct generator gen = {.conf = conf, .state = conf->seed, .current = 1, .compacted = -1, .recorded = 1};
	void *message;

	ks_buf_init(&gen.text, TEXT_MAX);
	conf_note(conf, "seed %" PRIu64, conf->seed);
	gen.recorder = stream_open(conf, &etcdc_method_watch);
	stream_send(conf, gen.recorder, "create_request{range_end:'\\x00'}");
	if (etcdc_stream_recv(gen.recorder, 10000, &message, NULL) == KS_OK)
		etcdc_free(message);
	for (int i = 0; i < OPERATIONS; i++)
		step(&gen);
	record(&gen);
	RANGE("key:'\\x00' range_end:'\\x00'");
	HASHKV(" ");
	conf_note(conf, "%zu events", gen.event_count);
	etcdc_stream_close(gen.recorder);
	ks_buf_fini(&gen.text);
	free(gen.events);
}

const struct scenario random_scenarios[] = {
	{"random/operations", operations, true},
	{NULL, NULL, false},
};
