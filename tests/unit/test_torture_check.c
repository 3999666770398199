/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checker of torture runs: a good history passes, and each kind of violation is found. The good history is made by a few
 * operations on a model of its own; each test spoils one thing in it and names what must be said.
 */
#include <CUnit/CUnit.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/tap.h"
#include "tests/torture/check.h"

#define WATCHERS 2
#define MS 1000000ll

static struct history history;
static struct kv model[HISTORY_KEYS];
static int64_t revision, now, value;

/* ---- The good history ---- */

static struct op *add_op(enum op_kind kind, const char *name)
{
	struct op op = {.kind = kind, .start_ns = now, .end_ns = now + MS, .revision = revision, .succeeded = true};

	snprintf(op.name, sizeof(op.name), "%s", name);
	now += 2 * MS;
	history_add_op(&history, &op);
	return &history.ops[history.op_count - 1];
}

static void tell_one(unsigned watcher, const struct event *events, size_t count)
{
	struct watch_record record = {.kind = WATCH_EVENTS,
				      .watcher = watcher,
				      .at_ns = now - MS / 2,
				      .revision = revision,
				      .event_count = count,
				      .events = malloc(count * sizeof(*events))};

	memcpy(record.events, events, count * sizeof(*events));
	history_add_watch(&history, &record);
}

/* Changes the model, and tells all watchers. */
static void happen(struct event *events, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct kv *kv = &model[events[i].kv.key];

		events[i].has_prev = kv->value != 0;
		events[i].prev = *kv;
		if (events[i].is_delete)
			*kv = (struct kv){.key = kv->key};
		else
			*kv = events[i].kv;
	}
	for (unsigned w = 0; w < WATCHERS; w++)
		tell_one(w, events, count);
}

static struct event put_event(int key, int64_t lease)
{
	const struct kv *kv = &model[key];

	return (struct event){.kv = {.key = key,
				     .value = ++value,
				     .create = kv->value ? kv->create : revision,
				     .mod = revision,
				     .version = kv->version + 1,
				     .lease = lease}};
}

static struct op *put(int key, int64_t lease)
{
	struct event event;
	struct op *op;

	revision++;
	op = add_op(OP_TXN, "put");
	event = put_event(key, lease);
	op->then_count = 1;
	op->thens[0] = (struct action){.kind = ACTION_PUT, .from = key, .to = key + 1, .value = value, .lease = lease};
	op->results[0].count = 1;
	happen(&event, 1);
	return op;
}

static void delete_keys(const int *keys, size_t count)
{
	struct event events[HISTORY_KEYS];

	for (size_t i = 0; i < count; i++)
		events[i] = (struct event){.is_delete = true, .kv = {.key = keys[i], .mod = revision}};
	happen(events, count);
}

static struct op *delete_key(int key)
{
	struct op *op;

	revision++;
	op = add_op(OP_TXN, "delete");
	op->then_count = 1;
	op->thens[0] = (struct action){.kind = ACTION_DELETE, .from = key, .to = key + 1};
	op->results[0].count = 1;
	delete_keys(&key, 1);
	return op;
}

static void take_range(struct action_result *result, int from, int to)
{
	result->kvs = calloc((size_t)(to - from), sizeof(*result->kvs));
	for (int key = from; key < to; key++)
		if (model[key].value)
			result->kvs[result->kv_count++] = model[key];
	result->count = (int64_t)result->kv_count;
}

static struct op *get(int from, int to)
{
	struct op *op = add_op(OP_TXN, "get");

	op->then_count = 1;
	op->thens[0] = (struct action){.kind = ACTION_GET, .from = from, .to = to};
	take_range(&op->results[0], from, to);
	return op;
}

/* When 'key' is as it is: put it and the next one, and look at the second; else get. */
static struct op *cas(int key)
{
	struct event events[2];
	struct op *op;
	struct compare compare = {.key = key, .target = COMPARE_MOD, .operand = model[key].mod};

	revision++;
	op = add_op(OP_TXN, "cas");
	op->compares[op->compare_count++] = compare;
	for (int i = 0; i < 2; i++) {
		events[i] = put_event(key + i, 0);
		op->thens[op->then_count++] =
			(struct action){.kind = ACTION_PUT, .from = key + i, .to = key + i + 1, .value = value};
		op->results[i].count = 1;
	}
	op->thens[op->then_count++] = (struct action){.kind = ACTION_GET, .from = key + 1, .to = key + 2};
	op->elses[op->else_count++] = (struct action){.kind = ACTION_GET, .from = key, .to = key + 1};
	happen(events, 2);
	take_range(&op->results[2], key + 1, key + 2);
	return op;
}

static struct op *lease_op(enum op_kind kind, const char *name, int64_t lease, int64_t ttl)
{
	struct op *op = add_op(kind, name);

	op->lease = lease;
	op->ttl = ttl;
	return op;
}

static void expire(int key)
{
	now += 5000 * MS;
	revision++;
	now += 2 * MS;
	delete_keys(&key, 1);
}

static void hash(const char *instance, uint32_t number)
{
	struct hash_record record = {.revision = revision, .compact_revision = 1, .hash = number};

	snprintf(record.instance, sizeof(record.instance), "%s", instance);
	history_add_hash(&history, &record);
}

/* Positions in history.ops. */
enum { PUT_0, PUT_1, GET_ALL, CAS, DELETE_1, GRANT, PUT_LEASE, KEEPALIVE, PUT_LAST, GET_LAST };

static void set_up(void)
{
	history_init(&history);
	memset(model, 0, sizeof(model));
	for (int key = 0; key < HISTORY_KEYS; key++)
		model[key].key = key;
	history.first = revision = 1;
	now = 1000 * MS;
	value = 0;
	for (unsigned w = 0; w < WATCHERS; w++)
		history_add_watch(
			&history,
			&(struct watch_record){
				.kind = WATCH_STARTED, .watcher = w, .revision = 2, .to = HISTORY_KEYS, .prev = true});
	put(0, 0);
	put(1, 0);
	get(0, HISTORY_KEYS);
	cas(0);
	delete_key(1);
	lease_op(OP_GRANT, "grant", 7, 2);
	put(3, 7);
	lease_op(OP_KEEPALIVE, "keepalive", 7, 2);
	expire(3);
	put(0, 0);
	get(0, 5);
	hash("node0", 1234);
	hash("node1", 1234);
	history.last = revision;
}

/* ---- Looking ---- */

/* Checks, and gives everything that was said; free it. */
static char *findings(unsigned *count)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	*count = history_check(&history, out);
	fclose(out);
	return text;
}

static void expect(const char *what)
{
	unsigned count;
	char *text = findings(&count);

	CU_ASSERT(count > 0);
	CU_ASSERT(strstr(text, what) != NULL);
	if (!count || !strstr(text, what))
		printf("# expected: %s; said:\n%s", what, text);
	free(text);
	history_fini(&history);
}

static void expect_nothing(void)
{
	unsigned count;
	char *text = findings(&count);

	CU_ASSERT_EQUAL(count, 0);
	if (count)
		printf("%s", text);
	free(text);
	history_fini(&history);
}

/* The n-th record of events of a watcher. */
static struct watch_record *told(unsigned watcher, size_t number)
{
	for (size_t i = 0; i < history.watch_count; i++)
		if (history.watches[i].watcher == watcher && history.watches[i].kind == WATCH_EVENTS && !number--)
			return &history.watches[i];
	return NULL;
}

/* ---- Good histories ---- */

static void good_history_passes(void)
{
	set_up();
	expect_nothing();
}

static void unknown_write_may_be_there(void)
{
	set_up();
	history.ops[PUT_LAST].outcome = OP_UNKNOWN;
	history.ops[DELETE_1].outcome = OP_UNKNOWN;
	history.ops[CAS].outcome = OP_UNKNOWN;
	expect_nothing();
}

static void unknown_and_failed_writes_may_be_absent(void)
{
	struct op op;

	set_up();
	op = history.ops[PUT_0];
	op.outcome = OP_UNKNOWN;
	op.thens[0].value = ++value;
	history_add_op(&history, &op);
	op.outcome = OP_FAILED;
	op.thens[0].value = ++value;
	history_add_op(&history, &op);
	expect_nothing();
}

/* Two deletes of one key got no answer, one of them later: the earlier revision is not the later one's. */
static void unknown_deletes_are_not_confused(void)
{
	struct op early;

	set_up();
	history.ops[DELETE_1].outcome = OP_UNKNOWN;
	early = history.ops[DELETE_1];
	history.ops[DELETE_1].start_ns = now; /* this one is found first */
	history_add_op(&history, &early);
	expect_nothing();
}

static void serializable_read_may_be_old(void)
{
	set_up();
	history.ops[GET_ALL].start_ns = history.ops[GET_ALL].end_ns = now;
	history.ops[GET_ALL].serializable = true;
	expect_nothing();
}

static void read_of_an_old_revision_passes(void)
{
	set_up();
	history.ops[GET_ALL].start_ns = history.ops[GET_ALL].end_ns = now;
	history.ops[GET_ALL].at = history.ops[GET_ALL].revision;
	history.ops[GET_ALL].revision = revision;
	expect_nothing();
}

static void compacted_watcher_may_begin_behind_it(void)
{
	set_up();
	history_add_watch(&history, &(struct watch_record){
					    .kind = WATCH_STARTED, .watcher = 5, .revision = 2, .to = HISTORY_KEYS});
	history_add_watch(&history,
			  &(struct watch_record){.kind = WATCH_COMPACTED, .watcher = 5, .revision = revision});
	history_add_watch(&history,
			  &(struct watch_record){
				  .kind = WATCH_STARTED, .watcher = 5, .revision = revision + 1, .to = HISTORY_KEYS});
	expect_nothing();
}

/* ---- Writes ---- */

static void lost_last_write_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 6)->event_count = 0;
	history.last--;
	expect("an acknowledged operation has a revision that never was");
}

static void lost_write_in_the_middle_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 2)->events[0].kv.value = 99;
	expect("an acknowledged write is not what its revision has");
}

static void acknowledged_write_at_another_revision_is_found(void)
{
	set_up();
	history.ops[PUT_1].revision = history.ops[PUT_0].revision;
	expect("an acknowledged write happened at another revision");
}

static void two_writes_with_one_revision_are_found(void)
{
	set_up();
	history.ops[PUT_1].revision = history.ops[PUT_0].revision;
	expect("two acknowledged writes have one revision");
}

static void failed_write_that_happened_is_found(void)
{
	set_up();
	history.ops[PUT_LAST].outcome = OP_FAILED;
	expect("an operation that failed has happened");
}

static void failed_delete_that_happened_is_found(void)
{
	set_up();
	history.ops[DELETE_1].outcome = OP_FAILED;
	expect("keys were deleted by nobody");
}

static void foreign_value_is_found(void)
{
	set_up();
	history.ops[PUT_LAST].thens[0].kind = ACTION_GET;
	history.ops[PUT_LAST].revision = 1;
	history.ops[PUT_LAST].outcome = OP_FAILED;
	expect("a value was written that no client wrote");
}

static void unknown_write_that_happened_twice_is_found(void)
{
	struct event event;

	set_up();
	history.ops[PUT_LAST].outcome = OP_UNKNOWN;
	revision++;
	event = put_event(0, 0);
	event.kv.value = history.ops[PUT_LAST].thens[0].value;
	happen(&event, 1);
	history.last = revision;
	expect("an operation happened twice");
}

static void half_of_a_transaction_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 2)->event_count = 1;
	expect("an acknowledged write is not what its revision has");
}

static void half_of_an_unknown_transaction_is_found(void)
{
	set_up();
	history.ops[CAS].outcome = OP_UNKNOWN;
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 2)->event_count = 1;
	expect("a write did something else than it says");
}

static void wrong_version_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 2)->events[0].kv.version++;
	expect("an acknowledged write is not what its revision has");
}

static void wrong_branch_is_found(void)
{
	set_up();
	history.ops[CAS].compares[0].operand++;
	expect("the other branch should have run");
}

/* ---- Reads ---- */

static void stale_read_is_found(void)
{
	set_up();
	history.ops[GET_ALL].start_ns = now;
	history.ops[GET_ALL].end_ns = now + MS;
	expect("a stale answer");
}

static void read_of_another_state_is_found(void)
{
	set_up();
	history.ops[GET_LAST].results[0].kvs[0].value = 1;
	expect("a key is not as the revision has it");
}

static void read_without_a_key_is_found(void)
{
	set_up();
	history.ops[GET_LAST].results[0].kv_count = 0;
	expect("a key is missing");
}

static void wrong_count_is_found(void)
{
	set_up();
	history.ops[GET_LAST].results[0].count++;
	expect("a count is wrong");
}

static void read_of_the_future_is_found(void)
{
	set_up();
	history.ops[GET_LAST].revision++;
	expect("an acknowledged operation has a revision that never was");
}

static void write_older_than_what_was_seen_is_found(void)
{
	set_up();
	history.ops[PUT_0].start_ns = history.ops[PUT_1].end_ns + 1;
	history.ops[PUT_0].end_ns = history.ops[PUT_1].end_ns + 2;
	expect("a write is older than what was seen before it began");
}

static void unknown_write_older_than_what_was_seen_is_found(void)
{
	set_up();
	history.ops[PUT_0].outcome = OP_UNKNOWN;
	history.ops[PUT_0].start_ns = history.ops[PUT_1].end_ns + 1;
	expect("a write is older than what was seen before it began");
}

static void watcher_that_was_ahead_of_a_read_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 6)->at_ns = 1;
	expect("a write is older than what was seen before it began");
}

/* ---- Watchers ---- */

static void duplicated_event_is_found(void)
{
	set_up();
	tell_one(1, told(1, 6)->events, 1);
	expect("a watcher was told of something again");
}

static void missed_event_is_found(void)
{
	set_up();
	told(1, 3)->event_count = 0;
	expect("a watcher missed an event");
}

static void missed_end_is_found(void)
{
	set_up();
	told(1, 6)->event_count = 0;
	expect("a watcher missed an event");
}

static void reordered_events_are_found(void)
{
	struct event *events;

	set_up();
	events = told(1, 0)->events;
	told(1, 0)->events = told(1, 1)->events;
	told(1, 1)->events = events;
	expect("a watcher missed an event");
}

static void half_of_a_revision_is_found(void)
{
	set_up();
	told(1, 2)->event_count = 1;
	expect("a watcher missed an event");
}

static void gap_is_found(void)
{
	set_up();
	for (unsigned w = 0; w < WATCHERS; w++)
		told(w, 3)->event_count = 0;
	expect("a revision is missing");
}

static void watchers_that_disagree_are_found(void)
{
	set_up();
	told(1, 0)->events[0].kv.value = 99;
	expect("two watchers were told different things");
}

static void wrong_prev_kv_is_found(void)
{
	set_up();
	told(1, 2)->events[0].prev.mod++;
	expect("an event came with a wrong prev_kv");
}

static void missing_prev_kv_is_found(void)
{
	set_up();
	told(1, 2)->events[0].has_prev = false;
	expect("an event came without its prev_kv");
}

static void progress_that_lies_is_found(void)
{
	set_up();
	history_add_watch(&history, &(struct watch_record){
					    .kind = WATCH_STARTED, .watcher = 5, .revision = 2, .to = HISTORY_KEYS});
	history_add_watch(&history, &(struct watch_record){.kind = WATCH_PROGRESS, .watcher = 5, .revision = 3});
	expect("a watcher missed an event");
}

static void watcher_that_begins_again_too_late_is_found(void)
{
	set_up();
	history_add_watch(&history, &(struct watch_record){.kind = WATCH_STARTED,
							   .watcher = 1,
							   .revision = revision + 1,
							   .to = HISTORY_KEYS,
							   .prev = true});
	told(1, 6)->event_count = 0;
	expect("a watcher missed an event");
}

static void cancelled_watcher_is_found(void)
{
	set_up();
	history_add_watch(&history, &(struct watch_record){.kind = WATCH_CANCELLED, .watcher = 1});
	expect("a watcher was cancelled");
}

static void compaction_that_was_passed_is_found(void)
{
	set_up();
	history_add_watch(&history, &(struct watch_record){.kind = WATCH_COMPACTED, .watcher = 1, .revision = 3});
	expect("a watcher was told of a compaction that it had passed");
}

/* Such a watcher begins again from there. But all else that it had passed is still wrong. */
static void watchers_of_an_overtaken_instance_read_everything_again(void)
{
	struct watch_record again = {.kind = WATCH_COMPACTED, .watcher = 1, .revision = 1};

	set_up();
	history_add_watch(&history, &again);
	expect("a watcher was told of a compaction that it had passed");
	set_up();
	history_add_fault(&history, &(struct fault_record){.kind = OVERTAKEN});
	history_add_watch(&history, &again);
	expect_nothing();
	set_up();
	history_add_fault(&history, &(struct fault_record){.kind = OVERTAKEN});
	again.revision = 3;
	history_add_watch(&history, &again);
	expect("a watcher was told of a compaction that it had passed");
}

/* ---- Leases, hashes, the rest ---- */

static void early_expiry_is_found(void)
{
	set_up();
	history.ops[KEEPALIVE].start_ns = told(0, 5)->at_ns - 1000 * MS;
	expect("a lease ended early");
}

static void key_that_outlives_its_lease_is_found(void)
{
	set_up();
	put(4, 7);
	history.last = revision;
	expect("a key outlived its lease");
}

static void key_attached_after_the_end_is_found(void)
{
	set_up();
	put(4, 7);
	delete_key(4);
	history.last = revision;
	expect("a key was attached to a lease after its end");
}

static void key_that_outlives_a_revoke_is_found(void)
{
	struct op op;

	set_up();
	op = history.ops[GRANT];
	op.kind = OP_REVOKE;
	op.revision = history.ops[PUT_LEASE].revision;
	op.start_ns = history.ops[PUT_LEASE].end_ns;
	op.end_ns = op.start_ns + 1;
	history_add_op(&history, &op);
	expect("a key outlived its lease");
}

static void keys_of_half_a_lease_are_found(void)
{
	set_up();
	lease_op(OP_GRANT, "grant", 8, 2);
	put(10, 8);
	put(11, 8);
	expire(10);
	expire(11);
	history.last = revision;
	expect("keys were deleted by nobody");
}

static void diverging_hash_is_found(void)
{
	set_up();
	history.hashes[1].hash++;
	expect("instances differ");
}

static void history_without_end_is_found(void)
{
	set_up();
	history.last = 0;
	expect("the history has no end");
}

static void complaint_counts(void)
{
	set_up();
	history_add_complaint(&history, "node1 ended by itself");
	expect("node1 ended by itself");
}

/* ---- The file ---- */

static void write_all(FILE *file)
{
	history_write_start(file, history.first);
	for (size_t i = 0; i < history.op_count; i++)
		history_write_op(file, &history.ops[i]);
	for (size_t i = 0; i < history.watch_count; i++)
		history_write_watch(file, &history.watches[i]);
	for (size_t i = 0; i < history.hash_count; i++)
		history_write_hash(file, &history.hashes[i]);
	history_write_fault(file, &(struct fault_record){.kind = "kill", .at_ns = 5}, "node1");
	history_write_end(file, history.last);
}

/* Through a file; 'change' must be found in what came back. */
static void round_trip(void (*change)(void), const char *what)
{
	char path[] = "/tmp/ks-test-torture.XXXXXX";
	int fd = mkstemp(path);
	FILE *file = fdopen(fd, "w");
	size_t ops, watches;

	set_up();
	ops = history.op_count;
	watches = history.watch_count;
	if (change)
		change();
	write_all(file);
	fclose(file);
	history_fini(&history);
	CU_ASSERT(history_read(&history, path));
	unlink(path);
	CU_ASSERT_EQUAL(history.op_count, ops);
	CU_ASSERT_EQUAL(history.watch_count, watches);
	CU_ASSERT_EQUAL(history.hash_count, 2);
	CU_ASSERT_EQUAL(history.fault_count, 1);
	if (what)
		expect(what);
	else
		expect_nothing();
}

static void spoil_prev(void)
{
	told(1, 2)->events[0].prev.create++;
}

static void spoil_compare(void)
{
	history.ops[CAS].compares[0].relation = COMPARE_NOT_EQUAL;
}

static void file_keeps_everything(void)
{
	round_trip(NULL, NULL);
	round_trip(spoil_prev, "an event came with a wrong prev_kv");
	round_trip(spoil_compare, "the other branch should have run");
}

static void damaged_file_is_refused(void)
{
	char path[] = "/tmp/ks-test-torture.XXXXXX";
	int fd = mkstemp(path);

	CU_ASSERT(write(fd, "{\"t\":\"op\",\"k\":0,\"o\":\"ok\",\"then\":[[0,0,99]]}\n", 44) == 44);
	close(fd);
	history_init(&history);
	CU_ASSERT(!history_read(&history, path));
	history_fini(&history);
	unlink(path);
}

int main(void)
{
	return tap_run(
		"torture_check",
		(const struct tap_test[]){
			{"good_history_passes", good_history_passes},
			{"unknown_write_may_be_there", unknown_write_may_be_there},
			{"unknown_and_failed_writes_may_be_absent", unknown_and_failed_writes_may_be_absent},
			{"unknown_deletes_are_not_confused", unknown_deletes_are_not_confused},
			{"serializable_read_may_be_old", serializable_read_may_be_old},
			{"read_of_an_old_revision_passes", read_of_an_old_revision_passes},
			{"compacted_watcher_may_begin_behind_it", compacted_watcher_may_begin_behind_it},
			{"lost_last_write_is_found", lost_last_write_is_found},
			{"lost_write_in_the_middle_is_found", lost_write_in_the_middle_is_found},
			{"acknowledged_write_at_another_revision_is_found",
			 acknowledged_write_at_another_revision_is_found},
			{"two_writes_with_one_revision_are_found", two_writes_with_one_revision_are_found},
			{"failed_write_that_happened_is_found", failed_write_that_happened_is_found},
			{"failed_delete_that_happened_is_found", failed_delete_that_happened_is_found},
			{"foreign_value_is_found", foreign_value_is_found},
			{"unknown_write_that_happened_twice_is_found", unknown_write_that_happened_twice_is_found},
			{"half_of_a_transaction_is_found", half_of_a_transaction_is_found},
			{"half_of_an_unknown_transaction_is_found", half_of_an_unknown_transaction_is_found},
			{"wrong_version_is_found", wrong_version_is_found},
			{"wrong_branch_is_found", wrong_branch_is_found},
			{"stale_read_is_found", stale_read_is_found},
			{"read_of_another_state_is_found", read_of_another_state_is_found},
			{"read_without_a_key_is_found", read_without_a_key_is_found},
			{"wrong_count_is_found", wrong_count_is_found},
			{"read_of_the_future_is_found", read_of_the_future_is_found},
			{"write_older_than_what_was_seen_is_found", write_older_than_what_was_seen_is_found},
			{"unknown_write_older_than_what_was_seen_is_found",
			 unknown_write_older_than_what_was_seen_is_found},
			{"watcher_that_was_ahead_of_a_read_is_found", watcher_that_was_ahead_of_a_read_is_found},
			{"duplicated_event_is_found", duplicated_event_is_found},
			{"missed_event_is_found", missed_event_is_found},
			{"missed_end_is_found", missed_end_is_found},
			{"reordered_events_are_found", reordered_events_are_found},
			{"half_of_a_revision_is_found", half_of_a_revision_is_found},
			{"gap_is_found", gap_is_found},
			{"watchers_that_disagree_are_found", watchers_that_disagree_are_found},
			{"wrong_prev_kv_is_found", wrong_prev_kv_is_found},
			{"missing_prev_kv_is_found", missing_prev_kv_is_found},
			{"progress_that_lies_is_found", progress_that_lies_is_found},
			{"watcher_that_begins_again_too_late_is_found", watcher_that_begins_again_too_late_is_found},
			{"cancelled_watcher_is_found", cancelled_watcher_is_found},
			{"compaction_that_was_passed_is_found", compaction_that_was_passed_is_found},
			{"watchers_of_an_overtaken_instance_read_everything_again",
			 watchers_of_an_overtaken_instance_read_everything_again},
			{"early_expiry_is_found", early_expiry_is_found},
			{"key_that_outlives_its_lease_is_found", key_that_outlives_its_lease_is_found},
			{"key_attached_after_the_end_is_found", key_attached_after_the_end_is_found},
			{"key_that_outlives_a_revoke_is_found", key_that_outlives_a_revoke_is_found},
			{"keys_of_half_a_lease_are_found", keys_of_half_a_lease_are_found},
			{"diverging_hash_is_found", diverging_hash_is_found},
			{"history_without_end_is_found", history_without_end_is_found},
			{"complaint_counts", complaint_counts},
			{"file_keeps_everything", file_keeps_everything},
			{"damaged_file_is_refused", damaged_file_is_refused},
			{NULL, NULL},
		});
}
