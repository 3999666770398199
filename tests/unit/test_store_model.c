/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thousands of seeded random operations on the store and on the plain model beside it; everything that comes back is compared.
 * The first store evaluates and has a value cache that is far too small, so that values come from the "log" here; the
 * second only applies the entries. KS_TEST_SEED runs one seed, KS_TEST_SEEDS so many of them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "tests/lib/store_model.h"
#include "tests/lib/tap.h"

#define OPS 8
#define SCRATCH 4096

struct saved_entry {
	struct ks_entry entry;
	struct ks_bytes **bytes; /* two for each effect */
};

struct world {
	uint64_t random;
	unsigned step;
	unsigned keys;       /* different ones; more than a leaf of the index holds, in some runs */
	unsigned compacting; /* percent of requests */
	struct ks_store *a, *b;
	struct model committed, tail;
	struct model cuts[KS_STORE_CUTS]; /* the tail where it is cut … */
	size_t cut_count;
	size_t cut_logs[KS_STORE_CUTS]; /* … and the log there */
	struct saved_entry *log;        /* by position - 1; the tail at its end */
	size_t log_count, log_capacity;
	size_t b_applied;
	unsigned fetches;
	/* what a request points to */
	uint8_t scratch[SCRATCH];
	size_t scratch_used;
	struct ks_txn_req txns[16];
	struct ks_op ops[16][2][OPS];
	struct ks_compare compares[16][3];
	size_t txn_count;
};

static struct world world;
static const char *fault;

#define CHECK(condition)                    \
	do {                                \
		if (!(condition) && !fault) \
			fault = #condition; \
	} while (0)
#define SAME(diff)                          \
	do {                                \
		const char *text_ = (diff); \
		if (text_ && !fault)        \
			fault = text_;      \
	} while (0)

static uint64_t rnd(uint64_t below)
{
	uint64_t x = world.random += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (x ^ x >> 31) % below;
}

static bool chance(unsigned percent)
{
	return rnd(100) < percent;
}

/* ---- the log ---- */

static void save_entry(const struct ks_entry *entry)
{
	struct saved_entry *saved;

	if (world.log_count == world.log_capacity) {
		world.log_capacity = world.log_capacity * 2 + 64;
		world.log = ks_xrealloc(world.log, world.log_capacity * sizeof(*world.log));
	}
	saved = &world.log[world.log_count++];
	CHECK(entry->position == (int64_t)world.log_count);
	saved->entry = *entry;
	saved->entry.effects = ks_xcalloc(entry->effect_count, sizeof(*entry->effects));
	saved->bytes = ks_xcalloc(entry->effect_count * 2, sizeof(struct ks_bytes *));
	for (size_t i = 0; i < entry->effect_count; i++) {
		struct ks_effect *effect = &saved->entry.effects[i];

		*effect = entry->effects[i];
		saved->bytes[2 * i] = ks_bytes_copy(effect->key);
		saved->bytes[2 * i + 1] = ks_bytes_copy(effect->value);
		effect->key = ks_bytes_slice(saved->bytes[2 * i]);
		effect->value = ks_bytes_slice(saved->bytes[2 * i + 1]);
	}
}

static void drop_entries(size_t keep)
{
	while (world.log_count > keep) {
		struct saved_entry *saved = &world.log[--world.log_count];

		for (size_t i = 0; i < saved->entry.effect_count * 2; i++)
			ks_bytes_unref(saved->bytes[i]);
		free(saved->bytes);
		free(saved->entry.effects);
	}
}

static struct ks_bytes *fetch(void *ctx, struct ks_loc loc)
{
	const struct saved_entry *saved;
	const struct ks_effect *effect;

	(void)ctx;
	world.fetches++;
	KS_ASSERT(loc.position >= 1 && (size_t)loc.position <= world.log_count);
	saved = &world.log[loc.position - 1];
	KS_ASSERT((size_t)loc.sub < saved->entry.effect_count);
	effect = &saved->entry.effects[loc.sub];
	KS_ASSERT(effect->kind == KS_EFFECT_PUT);
	return ks_kv_encode(&(struct ks_kv){.key = effect->key,
					    .value = effect->value,
					    .create_revision = effect->create_revision,
					    .mod_revision = saved->entry.revision,
					    .version = effect->version,
					    .lease = effect->lease});
}

static void fill(void *ctx, struct ks_kvref *ref)
{
	struct ks_store *store = ctx;

	ref->encoded = fetch(NULL, ref->loc);
	if (store && chance(50))
		ks_store_cache_fill(store, ref->encoded, ref->loc);
}

static bool fetch_many(void *ctx, const struct ks_loc *locs, struct ks_bytes **out, size_t count)
{
	for (size_t i = 0; i < count; i++)
		out[i] = fetch(ctx, locs[i]);
	return true;
}

/* ---- random requests ---- */

static struct ks_slice text(const char *bytes, size_t size)
{
	uint8_t *copy = world.scratch + world.scratch_used;

	KS_ASSERT(world.scratch_used + size <= SCRATCH);
	memcpy(copy, bytes, size);
	world.scratch_used += size;
	return ks_slice_of(copy, size);
}

/* Keys of all kinds: short, with zero bytes, prefixes of each other, with a long common beginning. */
static struct ks_slice key(void)
{
	char bytes[64];
	unsigned n = (unsigned)rnd(world.keys);
	int size;

	if (n < 4)
		return text("a\0\0\0", n + 1);
	if (n < 8)
		return text("\xff\xff\xff\xff", n - 3);
	if (n < 24 || n % 3 == 0)
		size = snprintf(bytes, sizeof(bytes), "/registry/long/common/prefix/%02u", n);
	else
		size = snprintf(bytes, sizeof(bytes), "k%u", n);
	return text(bytes, (size_t)size);
}

static struct ks_interval interval(void)
{
	struct ks_interval result = {.key = key()};

	if (chance(50))
		return result;
	result.end = chance(20) ? text("\0", 1) : key();
	if (chance(20))
		result.key = text("\0", 1);
	return result;
}

static int64_t lease_id(void)
{
	return chance(60) ? 0 : (int64_t)rnd(5) - 1;
}

static struct ks_range_req range_req(bool in_txn)
{
	struct ks_range_req req = {.interval = interval()};

	if (chance(40))
		req.limit = (int64_t)rnd(6) - 1;
	if (chance(40))
		req.revision = (int64_t)rnd((uint64_t)world.tail.revision + 2);
	if (in_txn && chance(70))
		req.revision = 0;
	if (chance(3))
		req.revision = -1;
	if (chance(40))
		req.sort_order = (enum ks_sort_order)rnd(3);
	if (chance(40))
		req.sort_target = (enum ks_sort_target)rnd(5);
	req.keys_only = chance(20);
	req.count_only = chance(10);
	if (chance(10))
		req.min_mod_revision = (int64_t)rnd((uint64_t)world.tail.revision + 2);
	if (chance(10))
		req.max_mod_revision = (int64_t)rnd((uint64_t)world.tail.revision + 2);
	if (chance(10))
		req.min_create_revision = (int64_t)rnd((uint64_t)world.tail.revision + 2);
	if (chance(10))
		req.max_create_revision = (int64_t)rnd((uint64_t)world.tail.revision + 2) - 1;
	return req;
}

static struct ks_put_req put_req(void)
{
	struct ks_put_req req = {.key = key(), .prev_kv = chance(50)};
	char value[300];
	int size;

	if (chance(15)) {
		req.ignore_value = true;
	} else if (!chance(10)) {
		size = snprintf(value, sizeof(value), "v%u", (unsigned)rnd(4));
		if (chance(10)) {
			memset(value, 'x', sizeof(value));
			size = (int)rnd(sizeof(value));
		}
		req.value = text(value, (size_t)size);
	}
	if (chance(15))
		req.ignore_lease = true;
	else
		req.lease = lease_id();
	return req;
}

static struct ks_compare compare(void)
{
	struct ks_compare result = {
		.result = (int)rnd(5),
		.target = (int)rnd(6),
		.interval = interval(),
	};
	char value[8];

	result.number = (int64_t)rnd(chance(50) ? 3 : (uint64_t)world.tail.revision + 1);
	if (result.target == KS_CMP_VALUE)
		result.value = text(value, (size_t)snprintf(value, sizeof(value), "v%u", (unsigned)rnd(4)));
	return result;
}

static const struct ks_txn_req *txn_req(unsigned depth, bool read_only)
{
	size_t n = world.txn_count++;
	struct ks_txn_req *txn = &world.txns[n];

	*txn = (struct ks_txn_req){
		.compares = world.compares[n], .success = world.ops[n][0], .failure = world.ops[n][1]};
	txn->compare_count = rnd(chance(50) ? 1 : 3);
	for (size_t i = 0; i < txn->compare_count; i++)
		world.compares[n][i] = compare();
	txn->success_count = rnd(5);
	txn->failure_count = rnd(3);
	for (size_t branch = 0; branch < 2; branch++) {
		for (size_t i = 0; i < (branch ? txn->failure_count : txn->success_count); i++) {
			struct ks_op *op = &world.ops[n][branch][i];

			memset(op, 0, sizeof(*op));
			op->kind = read_only ? KS_OP_RANGE : (enum ks_op_kind)rnd(4);
			if (op->kind == KS_OP_TXN && (depth == 0 || world.txn_count >= 12))
				op->kind = KS_OP_PUT;
			if (op->kind == KS_OP_RANGE)
				op->range = range_req(true);
			else if (op->kind == KS_OP_PUT)
				op->put = put_req();
			else if (op->kind == KS_OP_DELETE)
				op->del = (struct ks_delete_req){.interval = interval(), .prev_kv = chance(50)};
			else
				op->txn = txn_req(depth - 1, false);
		}
	}
	return txn;
}

static void fresh_scratch(void)
{
	world.scratch_used = 0;
	world.txn_count = 0;
}

static struct ks_request request(void)
{
	struct ks_request req = {0};
	unsigned kind = (unsigned)rnd(100);

	fresh_scratch();
	if (world.cut_count)
		kind = (unsigned)rnd(88); /* nothing else may lie behind a cut */
	if (!world.cut_count && chance(world.compacting)) {
		req.kind = KS_REQ_COMPACT;
		req.compact_revision = world.tail.revision - (int64_t)rnd(20) + 1;
	} else if (kind < 40) {
		req.kind = KS_REQ_PUT;
		req.put = put_req();
	} else if (kind < 55) {
		req.kind = KS_REQ_DELETE;
		req.del = (struct ks_delete_req){.interval = interval(), .prev_kv = chance(50)};
	} else if (kind < 88) {
		req.kind = KS_REQ_TXN;
		req.txn = *txn_req(3, false);
	} else if (kind < 95) {
		req.kind = KS_REQ_LEASE_GRANT;
		req.grant = (struct ks_lease_grant_req){.id = (int64_t)rnd(5) - 1, .ttl = 10 + (int64_t)rnd(10)};
		if (req.grant.id == 0)
			req.grant.id = 7;
	} else {
		req.kind = KS_REQ_LEASE_REVOKE;
		req.revoke.id = (int64_t)rnd(5) - 1;
	}
	return req;
}

/* ---- steps ---- */

static void eval_step(void)
{
	struct ks_request req = request();
	struct ks_result expected, result;
	struct ks_effects expected_effects, effects;
	enum ks_status want = model_eval(&world.tail, &req, &expected, &expected_effects);
	struct ks_err err = {0};
	enum ks_status got = ks_store_eval(world.a, &req, &result, &effects, &err);

	CHECK(want == got);
	CHECK(got == KS_OK || err.status == got);
	if (got == KS_OK && !fault) {
		ks_result_each_missing(&result, fill, world.a);
		SAME(model_diff_result(&expected, &result));
		SAME(model_diff_entry(&expected_effects.entry, &effects.entry));
		if (effects.entry.effect_count > 0)
			save_entry(&effects.entry);
	}
	ks_result_fini(&expected);
	ks_effects_fini(&expected_effects);
	ks_result_fini(&result);
	ks_effects_fini(&effects);
}

static void publish_step(void)
{
	struct ks_err err;

	size_t end = world.cut_count ? world.cut_logs[0] : world.log_count;

	ks_store_publish(world.a);
	model_copy(&world.committed, world.cut_count ? &world.cuts[0] : &world.tail);
	if (world.cut_count)
		world.cut_count--;
	for (size_t i = 0; i < world.cut_count; i++) {
		model_copy(&world.cuts[i], &world.cuts[i + 1]);
		world.cut_logs[i] = world.cut_logs[i + 1];
	}
	while (world.b_applied < end) {
		CHECK(ks_store_apply(world.b, &world.log[world.b_applied].entry, &err) == KS_OK);
		world.b_applied++;
	}
	ks_store_publish(world.b);
}

static void rollback_step(void)
{
	struct ks_err err;

	/* The other one applied a part of what is thrown away, too. */
	for (size_t i = world.b_applied; i < world.log_count && chance(70); i++)
		CHECK(ks_store_apply(world.b, &world.log[i].entry, &err) == KS_OK);
	ks_store_rollback(world.b);
	ks_store_rollback(world.a);
	drop_entries(world.b_applied);
	model_copy(&world.tail, &world.committed);
	world.cut_count = 0;
}

/* Cuts the tail, or goes back to where it was cut last. */
static void cut_step(void)
{
	if (world.cut_count == KS_STORE_CUTS || (world.cut_count && chance(30))) {
		world.cut_count--;
		ks_store_rollback_to_cut(world.a);
		drop_entries(world.cut_logs[world.cut_count]);
		model_copy(&world.tail, &world.cuts[world.cut_count]);
	} else {
		ks_store_cut(world.a);
		model_copy(&world.cuts[world.cut_count], &world.tail);
		world.cut_logs[world.cut_count++] = world.log_count;
	}
}

static struct ks_store *either(void)
{
	return chance(70) ? world.a : world.b;
}

static void range_step(void)
{
	struct ks_range_req req;
	struct ks_range_result expected, result;
	struct ks_store *store = either();
	enum ks_status want, got;
	struct ks_err err;
	int64_t revision;

	fresh_scratch();
	req = range_req(false);
	want = model_range(&world.committed, &req, &expected);
	got = ks_store_range(store, &req, &result, &revision, &err);
	CHECK(want == got);
	CHECK(revision == world.committed.revision);
	ks_range_result_each_missing(&result, fill, store);
	CHECK(ks_range_result_finish(&result, &err) == KS_OK);
	if (!fault && got == KS_OK)
		SAME(model_diff_range(&expected, &result));
	ks_range_result_fini(&expected);
	ks_range_result_fini(&result);
}

static void read_txn_step(void)
{
	struct ks_txn_result expected, result;
	struct ks_misses misses = {0};
	const struct ks_txn_req *req;
	struct ks_store *store = either();
	enum ks_status want, got;
	struct ks_err err;
	int64_t revision;
	unsigned tries = 0;

	fresh_scratch();
	req = txn_req(0, true);
	want = model_read_txn(&world.committed, req, &expected);
	while ((got = ks_store_read_txn(store, req, &result, &revision, &misses, &err)) == KS_ABORTED && tries++ < 9) {
		for (size_t i = 0; i < misses.count; i++) {
			if (ks_kvref_missing(&misses.refs[i]))
				fill(NULL, &misses.refs[i]);
		}
	}
	ks_misses_fini(&misses);
	CHECK(want == got);
	CHECK(revision == world.committed.revision);
	ks_txn_result_each_missing(&result, fill, store);
	CHECK(ks_txn_result_finish(&result, &err) == KS_OK);
	if (!fault && got == KS_OK)
		SAME(model_diff_txn(&expected, &result));
	ks_txn_result_fini(&expected);
	ks_txn_result_fini(&result);
}

struct events {
	const struct ks_event_scan *scan;
	size_t next; /* in the model's versions */
	size_t count;
	int64_t last_revision;
	size_t revisions;
};

static void see_event(void *ctx, const struct ks_event *event)
{
	struct events *events = ctx;
	const struct ks_event_scan *scan = events->scan;
	const struct model_version *version = NULL, *prev;
	struct ks_bytes *encoded;
	struct ks_kvref kv = event->kv, prev_kv = event->prev;

	for (; events->next < world.committed.count && !version; events->next++) {
		const struct model_version *v = &world.committed.versions[events->next];

		if (v->revision >= scan->from && ks_interval_contains(&scan->interval, ks_bytes_slice(v->key)) &&
		    !(v->create_revision ? scan->no_put : scan->no_delete))
			version = v;
	}
	CHECK(version != NULL);
	if (!version)
		return;
	events->count++;
	events->revisions += event->revision != events->last_revision;
	events->last_revision = event->revision;
	CHECK(event->revision == version->revision && event->sub == version->sub);
	CHECK(event->is_delete == (version->create_revision == 0));
	CHECK(ks_slice_eq(event->key, ks_bytes_slice(version->key)));
	kv.encoded = kv.encoded ? ks_bytes_ref(kv.encoded) : fetch(NULL, kv.loc);
	encoded = model_encode(version, false);
	CHECK(ks_slice_eq(ks_bytes_slice(kv.encoded), ks_bytes_slice(encoded)));
	ks_bytes_unref(encoded);
	ks_bytes_unref(kv.encoded);
	prev = model_at(&world.committed, ks_bytes_slice(version->key), version->revision - 1);
	if (!scan->prev_kv || version->create_revision == version->revision || !prev || !prev->create_revision ||
	    version->revision - 1 < world.committed.compact_revision) {
		CHECK(!ks_kvref_present(&prev_kv));
		return;
	}
	CHECK(ks_kvref_present(&prev_kv));
	if (fault)
		return;
	prev_kv.encoded = prev_kv.encoded ? ks_bytes_ref(prev_kv.encoded) : fetch(NULL, prev_kv.loc);
	encoded = model_encode(prev, false);
	CHECK(ks_slice_eq(ks_bytes_slice(prev_kv.encoded), ks_bytes_slice(encoded)));
	ks_bytes_unref(encoded);
	ks_bytes_unref(prev_kv.encoded);
}

static void events_step(void)
{
	struct ks_event_scan scan = {
		.from = 1 + (int64_t)rnd((uint64_t)world.committed.revision + 3),
		.to = chance(50) ? INT64_MAX : (int64_t)rnd((uint64_t)world.committed.revision + 3),
		.prev_kv = chance(50),
		.no_put = chance(10),
		.no_delete = chance(10),
		.max_revisions = 1 + rnd(20),
		.max_events = 1 + rnd(50),
		.max_bytes = 1 + rnd(5000),
		.max_scanned = 1 + rnd(100),
	};
	struct events events = {.scan = &scan};
	struct ks_store *store = either();
	int64_t to = scan.to < world.committed.revision ? scan.to : world.committed.revision;
	int64_t compact_revision = 0, first = scan.from;
	size_t expected = 0;

	/* Below the compact revision it depends on what was removed already. */
	if (scan.from <= world.committed.compact_revision)
		scan.from = first = world.committed.compact_revision + 1;
	fresh_scratch();
	scan.interval = interval();
	for (size_t i = 0; i < world.committed.count; i++) {
		const struct model_version *v = &world.committed.versions[i];

		expected += v->revision >= first && v->revision <= to &&
			    ks_interval_contains(&scan.interval, ks_bytes_slice(v->key)) &&
			    !(v->create_revision ? scan.no_put : scan.no_delete);
	}
	for (;;) {
		struct ks_event_scanned scanned;
		size_t before = events.count, revisions = events.revisions;

		CHECK(ks_store_scan_events(store, &scan, see_event, &events, &scanned, &compact_revision) == KS_OK);
		CHECK(scanned.current == world.committed.revision);
		CHECK(scanned.events == events.count - before);
		CHECK(scanned.revisions == events.revisions - revisions && scanned.revisions <= scan.max_revisions);
		CHECK(scanned.next > events.last_revision);
		CHECK(scanned.next > scan.from || scan.from > to);
		if (fault || scanned.next > to)
			break;
		scan.from = scanned.next;
	}
	CHECK(events.count == expected);
}

static void lease_step(void)
{
	struct ks_store *store = either();
	int64_t id = (int64_t)rnd(6) - 1;
	struct ks_lease_info info;
	bool found = ks_store_lease(store, id, true, &info);
	size_t expected = 0;

	CHECK(found == model_has_lease(&world.committed, id));
	for (size_t i = 0; i < world.committed.count && found; i++) {
		const struct model_version *v = &world.committed.versions[i];
		bool listed = false;

		if (!v->create_revision || v->lease != id ||
		    model_at(&world.committed, ks_bytes_slice(v->key), INT64_MAX) != v)
			continue;
		expected++;
		for (size_t j = 0; j < info.key_count; j++)
			listed = listed || ks_slice_eq(ks_bytes_slice(info.keys[j]), ks_bytes_slice(v->key));
		CHECK(listed);
	}
	CHECK(!found || expected == info.key_count);
	ks_lease_info_fini(&info);
}

static void hash_step(void)
{
	struct ks_hash_result result;
	struct ks_err err;
	int64_t revision = chance(30) ? 0 : (int64_t)rnd((uint64_t)world.committed.revision + 2);
	bool bad =
		revision > world.committed.revision || (revision != 0 && revision < world.committed.compact_revision);
	enum ks_status status = ks_store_hash_kv(either(), revision, fetch_many, NULL, &result, &err);

	CHECK(status == (bad ? KS_OUT_OF_RANGE : KS_OK));
	if (status != KS_OK)
		return;
	if (revision == 0)
		revision = world.committed.revision;
	CHECK(result.hash == model_hash(&world.committed, revision));
	CHECK(result.hash_revision == revision && result.compact_revision == world.committed.compact_revision);
}

/* What a dropped row said must not be part of the model any more. */
static void see_dropped(void *ctx, const struct ks_loc *locs, size_t count)
{
	(void)ctx;
	for (size_t i = 0; i < count; i++) {
		const struct saved_entry *saved = &world.log[locs[i].position - 1];
		const struct ks_effect *effect = &saved->entry.effects[locs[i].sub];

		CHECK(!ks_store_row_needed(world.a, effect, locs[i]));
		for (size_t j = 0; j < world.committed.count; j++) {
			const struct model_version *v = &world.committed.versions[j];

			CHECK((effect->kind != KS_EFFECT_PUT && effect->kind != KS_EFFECT_DELETE) ||
			      v->revision != saved->entry.revision || v->sub != locs[i].sub);
		}
	}
}

static void compact_step(void)
{
	struct ks_store_stats stats;
	bool more;

	ks_store_compact_step(world.b, 1 + rnd(30), NULL, NULL);
	do {
		more = ks_store_compact_step(world.a, 1 + rnd(10), see_dropped, NULL);
	} while (more && chance(60));
	ks_store_stats(world.a, &stats);
	/* Records of the tail are counted, too. */
	if (!more && world.log_count == world.b_applied)
		CHECK(stats.records == world.committed.count);
}

static void stats_check(void)
{
	static const struct ks_interval everything = {.key = {(const uint8_t *)"", 1}, .end = {(const uint8_t *)"", 1}};
	struct ks_range_req req = {.interval = everything, .count_only = true};
	struct ks_range_result result;
	struct ks_store_stats stats;
	struct ks_position position = ks_store_committed(world.a);

	model_range(&world.committed, &req, &result);
	ks_store_stats(world.a, &stats);
	CHECK((int64_t)stats.keys == result.count);
	ks_range_result_fini(&result);
	CHECK(position.revision == world.committed.revision && position.position == world.committed.position);
	CHECK(position.compact_revision == world.committed.compact_revision);
}

static void one_step(void)
{
	unsigned kind = (unsigned)rnd(100);

	if (kind < 40)
		eval_step();
	else if (kind < 50)
		publish_step();
	else if (kind < 53)
		rollback_step();
	else if (kind < 60)
		cut_step();
	else if (kind < 70)
		range_step();
	else if (kind < 77)
		read_txn_step();
	else if (kind < 87)
		events_step();
	else if (kind < 92)
		lease_step();
	else if (kind < 95)
		hash_step();
	else if (kind < 99)
		compact_step();
	else
		stats_check();
}

/* A third store that loads what the housekeeper would have left in the log, and must be like the others. */
static void reload_check(bool jump)
{
	struct ks_store_config config = {.values_kept = true};
	struct ks_err err;
	struct ks_store *c = ks_store_new(&config, &err);
	struct ks_hash_result hash;

	if (jump)
		CHECK(ks_store_jump_begin(c, &err) == KS_OK);
	else
		ks_store_load_begin(c);
	for (size_t i = 0; i < world.b_applied && !fault; i++) {
		const struct ks_entry *from = &world.log[i].entry;
		struct ks_effect *effects = ks_xcalloc(from->effect_count, sizeof(*effects));
		int32_t *subs = ks_xcalloc(from->effect_count, sizeof(*subs));
		struct ks_entry entry = {
			.position = from->position, .revision = from->revision, .effects = effects, .subs = subs};

		for (size_t j = 0; j < from->effect_count; j++) {
			const struct ks_effect *effect = &from->effects[j];
			struct ks_loc loc = {.position = from->position, .sub = (int32_t)j};

			if (!ks_store_row_needed(world.a, effect, loc))
				continue;
			effects[entry.effect_count] = *effect;
			subs[entry.effect_count++] = (int32_t)j;
		}
		if (entry.effect_count > 0)
			CHECK(ks_store_apply(c, &entry, &err) == KS_OK);
		free(effects);
		free(subs);
	}
	if (jump)
		CHECK(ks_store_jump_end(c, &err) == KS_OK);
	else
		ks_store_load_end(c);
	CHECK(ks_store_committed(c).revision == world.committed.revision);
	CHECK(ks_store_committed(c).compact_revision == world.committed.compact_revision);
	CHECK(ks_store_hash_kv(c, 0, NULL, NULL, &hash, &err) == KS_OK);
	CHECK(hash.hash == model_hash(&world.committed, world.committed.revision));
	for (int64_t id = -1; id < 8; id++) {
		struct ks_lease_info mine, theirs;

		CHECK(ks_store_lease(c, id, true, &mine) == ks_store_lease(world.a, id, true, &theirs));
		CHECK(mine.ttl == theirs.ttl && mine.key_count == theirs.key_count);
		ks_lease_info_fini(&mine);
		ks_lease_info_fini(&theirs);
	}
	ks_store_free(c);
}

/* Many keys at once, so that the index has several levels. */
static void seed_keys(void)
{
	for (unsigned i = 0; i < 2 * world.keys && !fault; i++) {
		struct ks_request req = {.kind = KS_REQ_PUT};
		struct ks_result result;
		struct ks_effects effects;

		fresh_scratch();
		req.put = (struct ks_put_req){.key = key(), .value = text("seed", 4)};
		CHECK(model_eval(&world.tail, &req, &result, &effects) == KS_OK);
		save_entry(&effects.entry);
		ks_effects_fini(&effects);
		CHECK(ks_store_eval(world.a, &req, &result, &effects, NULL) == KS_OK);
		ks_effects_fini(&effects);
	}
	publish_step();
}

static bool run_seed(uint64_t seed, unsigned steps)
{
	struct ks_store_config a = {.value_cache_bytes = 2000, .fetch = fetch};
	struct ks_store_config b = {.values_kept = true};
	struct ks_err err;

	fault = NULL;
	memset(&world, 0, sizeof(world));
	world.random = seed;
	model_init(&world.committed);
	model_init(&world.tail);
	for (size_t i = 0; i < KS_STORE_CUTS; i++)
		model_init(&world.cuts[i]);
	world.a = ks_store_new(&a, &err);
	world.b = ks_store_new(&b, &err);
	world.keys = seed % 4 == 0 ? 600 : seed % 4 == 1 ? 10 : 40;
	world.compacting = seed % 3 ? 3 : 0;
	if (world.keys > 64)
		seed_keys();
	for (world.step = 0; world.step < steps && !fault; world.step++)
		one_step();
	if (!fault) {
		rollback_step();
		stats_check();
		reload_check(false);
		reload_check(true);
	}
	if (fault)
		printf("# seed %llu step %u: %s\n", (unsigned long long)seed, world.step, fault);
	ks_store_free(world.a);
	ks_store_free(world.b);
	drop_entries(0);
	free(world.log);
	model_fini(&world.committed);
	for (size_t i = 0; i < KS_STORE_CUTS; i++)
		model_fini(&world.cuts[i]);
	model_fini(&world.tail);
	return fault == NULL;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static void store_does_what_the_model_does(void)
{
	uint64_t first = number("KS_TEST_SEED", 1);
	uint64_t seeds = getenv("KS_TEST_SEED") ? 1 : number("KS_TEST_SEEDS", 40);
	unsigned fetches = 0;

	for (uint64_t seed = first; seed < first + seeds; seed++) {
		CU_ASSERT_FATAL(run_seed(seed, 600));
		fetches += world.fetches;
	}
	CU_ASSERT(fetches > 0); /* else the cache was not tested */
}

static void long_run_stays_like_the_model(void)
{
	CU_ASSERT_FATAL(run_seed(1000000, 2000));
	CU_ASSERT_FATAL(run_seed(1000001, 4000));
}

int main(void)
{
	return tap_run("store_model", (const struct tap_test[]){
					      {"store_does_what_the_model_does", store_does_what_the_model_does},
					      {"long_run_stays_like_the_model", long_run_stays_like_the_model},
					      {NULL, NULL},
				      });
}
