/* SPDX-License-Identifier: Apache-2.0 */
/* The history: its segments against a plain list, and the events that watchers read from it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/panic.h"
#include "store/history.h"
#include "tests/lib/store_fixture.h"

/* ---- segments ---- */

#define RECORDS 6000

static struct ks_record *made; /* RECORDS of them */
static bool present[RECORDS];
static uint64_t seed;

static uint64_t rnd(uint64_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 33) % below;
}

static void compare_history(const struct ks_history *history, size_t made_count)
{
	struct ks_history_pos pos = {0};
	size_t records = 0;

	for (size_t i = 0; i < made_count; i++) {
		if (!present[i])
			continue;
		records++;
		CU_ASSERT_PTR_EQUAL_FATAL(ks_history_next(history, &pos), &made[i]);
	}
	CU_ASSERT_PTR_NULL(ks_history_next(history, &pos));
	CU_ASSERT_EQUAL(history->records, records);
	for (unsigned n = 0; n < 20 && made_count > 0; n++) {
		size_t at = rnd(made_count), first = at, after = 0;

		pos = ks_history_seek(history, made[at].revision, made[at].sub);
		while (first < made_count && !present[first])
			first++;
		CU_ASSERT_PTR_EQUAL(ks_history_next(history, &pos), first < made_count ? &made[first] : NULL);
		for (size_t i = 0; i < made_count; i++)
			after += present[i] && made[i].revision > made[at].revision;
		CU_ASSERT_EQUAL(ks_history_count_after(history, made[at].revision, SIZE_MAX - 1), after);
	}
}

static void history_matches_a_plain_list(void)
{
	struct ks_slab slab;
	struct ks_history history;
	size_t count = 0;
	int64_t revision = 2;

	seed = 7;
	ks_slab_init(&slab);
	ks_history_init(&history, &slab);
	made = ks_xcalloc(RECORDS, sizeof(*made));
	while (count < RECORDS) {
		/* Entries of several records, some popped again, and removals anywhere. */
		for (int32_t sub = 0; sub < (int32_t)(1 + rnd(4)) && count < RECORDS; sub++) {
			made[count].revision = revision;
			made[count].sub = sub;
			CU_ASSERT_FATAL(ks_history_append(&history, &made[count]));
			present[count++] = true;
		}
		revision++;
		if (rnd(8) == 0 && count > 3 && present[count - 1]) {
			CU_ASSERT_PTR_EQUAL(ks_history_last(&history), &made[count - 1]);
			ks_history_pop(&history);
			present[--count] = false;
		}
		for (unsigned n = 0; n < 2 && count > 10; n++) {
			size_t at = rnd(count - 5);

			if (present[at] && rnd(10) < 7) {
				ks_history_remove(&history, &made[at]);
				present[at] = false;
			}
		}
		if (revision % 500 == 0)
			compare_history(&history, count);
	}
	compare_history(&history, count);
	for (size_t i = 0; i < count; i++) {
		if (present[i])
			ks_history_remove(&history, &made[i]);
		present[i] = false;
	}
	compare_history(&history, count);
	CU_ASSERT_EQUAL(history.segment_count, 0);
	ks_history_fini(&history);
	ks_slab_fini(&slab);
	free(made);
}

/* ---- events ---- */

static void events_come_in_revision_and_sub_order(void)
{
	struct ks_op ops[] = {{.kind = KS_OP_PUT, .put = {.key = S("z")}}, {.kind = KS_OP_PUT, .put = {.key = S("a")}}};

	sf_put("a", "1");
	sf_txn(&(struct ks_txn_req){.success = ops, .success_count = 2});
	sf_delete("a", "c");
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 1, false), "put a 2;put z 3;put a 3;del a 4;");
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 3, false), "put a 3;del a 4;");
	CU_ASSERT_STRING_EQUAL(sf_events("a", "b", 4, false), "del a 4;");
	CU_ASSERT_STRING_EQUAL(sf_events("b", "c", 1, false), "");
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 99, false), "");
}

static void prev_kv_is_the_state_before_the_revision(void)
{
	struct ks_op ops[] = {{.kind = KS_OP_DELETE, .del = {.interval = {.key = S("a")}}},
			      {.kind = KS_OP_PUT, .put = {.key = S("a"), .value = S("3")}}};

	sf_put("a", "1");
	sf_put("a", "2");
	sf_txn(&(struct ks_txn_req){.success = ops, .success_count = 2});
	sf_delete("a", NULL);
	/* The put at 4 created the key anew, the delete at 4 has the state at 3. */
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 1, true),
			       "put a 2;put a(prev) 3;del a(prev) 4;put a 4;del a(prev) 5;");
	sf_compact(4);
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 4, true), "del a 4;put a 4;del a(prev) 5;");
}

static void keep_encoding(void *ctx, const struct ks_event *event)
{
	struct ks_bytes **out = ctx;

	*out = ks_bytes_ref(event->kv.encoded);
}

static void delete_event_has_key_and_revision_only(void)
{
	struct ks_event_scan scan = {.interval = {.key = S("a")},
				     .from = 3,
				     .to = INT64_MAX,
				     .max_revisions = 10,
				     .max_events = 10,
				     .max_bytes = 1000,
				     .max_scanned = 10};
	struct ks_event_scanned scanned;
	struct ks_bytes *encoded = NULL;
	int64_t compact_revision;
	struct ks_kv kv;

	sf_put("a", "1");
	sf_delete("a", NULL);
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, keep_encoding, &encoded, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT_PTR_NOT_NULL_FATAL(encoded);
	CU_ASSERT(ks_kv_decode(ks_bytes_slice(encoded), &kv));
	CU_ASSERT(sf_is(kv.key, "a") && kv.mod_revision == 3 && kv.create_revision == 0 && kv.version == 0);
	ks_bytes_unref(encoded);
}

static void count_event(void *ctx, const struct ks_event *event)
{
	(void)event;
	++*(size_t *)ctx;
}

static void scan_stops_between_revisions_only(void)
{
	struct ks_op ops[] = {{.kind = KS_OP_PUT, .put = {.key = S("a")}},
			      {.kind = KS_OP_PUT, .put = {.key = S("b")}},
			      {.kind = KS_OP_PUT, .put = {.key = S("c")}}};
	struct ks_event_scan scan = {.interval = sf_interval(SF_ALL, SF_ALL),
				     .from = 2,
				     .to = INT64_MAX,
				     .max_revisions = 10,
				     .max_events = 2,
				     .max_bytes = 1u << 20,
				     .max_scanned = 100};
	struct ks_event_scanned scanned;
	int64_t compact_revision;
	size_t events = 0;

	for (unsigned i = 0; i < 5; i++)
		sf_txn(&(struct ks_txn_req){.success = ops, .success_count = 3});
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(events == 3 && scanned.events == 3 && scanned.revisions == 1 && scanned.next == 3 &&
		  scanned.current == 6);
	scan.max_events = 100;
	scan.max_revisions = 2;
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(scanned.events == 6 && scanned.next == 4);
	scan.max_revisions = 100;
	scan.max_bytes = 1;
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(scanned.events == 3 && scanned.next == 3);
	scan.max_bytes = 1u << 20;
	scan.max_scanned = 4;
	scan.interval = sf_interval("x", "y");
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(scanned.events == 0 && scanned.next == 4);
	scan.max_scanned = 100;
	scan.to = 3;
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT_EQUAL(scanned.next, 4);
}

static void filters_leave_events_out(void)
{
	struct ks_event_scan scan = {.interval = sf_interval("a", NULL),
				     .from = 2,
				     .to = INT64_MAX,
				     .no_put = true,
				     .max_revisions = 10,
				     .max_events = 10,
				     .max_bytes = 1000,
				     .max_scanned = 100};
	struct ks_event_scanned scanned;
	int64_t compact_revision;
	size_t events = 0;

	sf_put("a", "1");
	sf_put("a", "2");
	sf_delete("a", NULL);
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(scanned.events == 1 && scanned.revisions == 1 && scanned.next == 5);
	scan.no_put = false;
	scan.no_delete = true;
	CU_ASSERT_EQUAL(ks_store_scan_events(sf_store, &scan, count_event, &events, &scanned, &compact_revision),
			KS_OK);
	CU_ASSERT(scanned.events == 2 && scanned.next == 5);
}

static void tail_has_no_events(void)
{
	sf_put("a", "1");
	sf_hold = true;
	sf_put("a", "2");
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 1, false), "put a 2;");
	CU_ASSERT_STRING_EQUAL(sf_events("\1", SF_ALL, 1, false), "put a 2;");
	ks_store_publish(sf_store);
	CU_ASSERT_STRING_EQUAL(sf_events("a", NULL, 3, false), "put a 3;");
}

static void kv_codec_is_exact_and_refuses_garbage(void)
{
	struct ks_kv kv = {.key = S("k"),
			   .value = S("v"),
			   .create_revision = 300,
			   .mod_revision = INT64_MAX,
			   .version = 1,
			   .lease = -1};
	const uint8_t expected[] = {0x0a, 1,    'k',  0x10, 0xac, 0x02, 0x18, 0xff, 0xff, 0xff, 0xff,
				    0xff, 0xff, 0xff, 0xff, 0x7f, 0x20, 1,    0x2a, 1,    'v',  0x30,
				    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
	struct ks_bytes *encoded = ks_kv_encode(&kv);
	struct ks_kv back;

	CU_ASSERT_PTR_NOT_NULL_FATAL(encoded);
	CU_ASSERT(ks_slice_eq(ks_bytes_slice(encoded), ks_slice_of(expected, sizeof(expected))));
	CU_ASSERT(ks_kv_decode(ks_bytes_slice(encoded), &back));
	CU_ASSERT(sf_is(back.key, "k") && sf_is(back.value, "v") && back.create_revision == 300 &&
		  back.mod_revision == INT64_MAX && back.version == 1 && back.lease == -1);
	/* Cut anywhere it is no KeyValue, or one that lost whole fields. */
	for (size_t size = 0; size < sizeof(expected); size++)
		(void)ks_kv_decode(ks_slice_of(expected, size), &back);
	ks_bytes_unref(encoded);
	CU_ASSERT_FALSE(ks_kv_decode(S("\x0a\x05k"), &back));
	CU_ASSERT_FALSE(ks_kv_decode(S("\x08\x01"), &back));
	CU_ASSERT_FALSE(ks_kv_decode(S("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), &back));
	CU_ASSERT_FALSE(ks_kv_decode(S("\x3b"), &back));
	CU_ASSERT(ks_kv_decode(S("\x3a\x01x"), &back)); /* an unknown field is passed over */
	CU_ASSERT(ks_kv_decode(S(""), &back));
}

SF_WITH_STORE(events_come_in_revision_and_sub_order)
SF_WITH_STORE(prev_kv_is_the_state_before_the_revision)
SF_WITH_STORE(delete_event_has_key_and_revision_only)
SF_WITH_STORE(scan_stops_between_revisions_only)
SF_WITH_STORE(filters_leave_events_out)
SF_WITH_STORE(tail_has_no_events)

int main(void)
{
	return tap_run("store_history",
		       (const struct tap_test[]){
			       {"history_matches_a_plain_list", history_matches_a_plain_list},
			       SF_TEST(events_come_in_revision_and_sub_order),
			       SF_TEST(prev_kv_is_the_state_before_the_revision),
			       SF_TEST(delete_event_has_key_and_revision_only),
			       SF_TEST(scan_stops_between_revisions_only),
			       SF_TEST(filters_leave_events_out),
			       SF_TEST(tail_has_no_events),
			       {"kv_codec_is_exact_and_refuses_garbage", kv_codec_is_exact_and_refuses_garbage},
			       {NULL, NULL},
		       });
}
