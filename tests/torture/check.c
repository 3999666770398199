/* SPDX-License-Identifier: Apache-2.0 */
/* The pass over the log, real time, leases and hashes. See check.h. */
#include "tests/torture/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

#define SHOWN 5
#define NS_PER_S 1000000000ll

struct lease {
	int64_t id;
	int64_t not_before_ns; /* an acknowledged grant or keepalive lets it live until here */
	int64_t ended;         /* revision at which it certainly was over; INT64_MAX: none is known */
	bool revoked;          /* somebody tried to */
	bool seen_ended;       /* its keys were deleted, and nobody but its end can have done that */
	int64_t seen;          /* the revision of that */
};

/* What an operation does to a state. */
struct effects {
	struct event events[HISTORY_KEYS];
	size_t count;
	const char *wrong; /* in what the answer differs from what the state says; NULL: in nothing */
};

struct check {
	const struct history *history;
	struct findings *findings;
	struct log log;
	struct state state;
	const struct op **by_revision; /* acknowledged, by the revision of the state they are about */
	size_t acknowledged;
	const struct op **by_value; /* index: value */
	int64_t value_count;
	const struct op **unsure; /* of unknown outcome, with a branch that deletes and does not put */
	size_t unsure_count;
	int64_t *owned;  /* of each operation: the revision it made; 0: none */
	int64_t *floors; /* of each operation: the newest revision that anybody had seen before it began */
	struct lease *leases;
	size_t lease_count;
};

void found(struct findings *findings, const char *what, const char *format, ...)
{
	size_t kind = 0;
	va_list args;

	findings->count++;
	while (kind < FINDING_KINDS - 1 && findings->kinds[kind].what && strcmp(findings->kinds[kind].what, what))
		kind++;
	findings->kinds[kind].what = what;
	if (++findings->kinds[kind].count > SHOWN || !findings->out)
		return;
	fprintf(findings->out, "# %s: ", what);
	va_start(args, format);
	vfprintf(findings->out, format, args);
	va_end(args);
	putc('\n', findings->out);
}

static size_t number_of(const struct check *check, const struct op *op)
{
	return (size_t)(op - check->history->ops);
}

/* ---- One operation on one state ---- */

static bool holds(const struct compare *compare, const struct state *state)
{
	const struct kv *kv = &state->kvs[compare->key];
	int64_t value = 0;

	switch (compare->target) {
	case COMPARE_VERSION:
		value = kv->version;
		break;
	case COMPARE_CREATE:
		value = kv->create;
		break;
	case COMPARE_MOD:
		value = kv->mod;
		break;
	case COMPARE_LEASE:
		value = kv->lease;
		break;
	case COMPARE_VALUE:
		if (!kv->value)
			return false;
		value = kv->value;
		break;
	}
	switch (compare->relation) {
	case COMPARE_EQUAL:
		return value == compare->operand;
	case COMPARE_GREATER:
		return value > compare->operand;
	case COMPARE_LESS:
		return value < compare->operand;
	case COMPARE_NOT_EQUAL:
		return value != compare->operand;
	}
	return false;
}

/* The keys of the range, as a result has them. NULL: as expected; else what differs. */
static const char *compare_kvs(const struct state *state, int from, int to, const struct action_result *result)
{
	size_t next = 0;

	for (int key = from; key < to; key++) {
		if (!state->kvs[key].value)
			continue;
		if (next == result->kv_count || result->kvs[next].key > key)
			return "a key is missing";
		if (!same_kv(&state->kvs[key], &result->kvs[next]))
			return result->kvs[next].key == key ? "a key is not as the revision has it"
							    : "a key is there that should not be";
		next++;
	}
	return next == result->kv_count ? NULL : "a key is there that should not be";
}

static void run_put(const struct action *action, int64_t revision, struct state *state, struct effects *effects)
{
	struct kv *kv = &state->kvs[action->from];

	*kv = (struct kv){.key = action->from,
			  .value = action->value,
			  .create = kv->value ? kv->create : revision,
			  .mod = revision,
			  .version = kv->version + 1,
			  .lease = action->lease};
	if (effects->count < HISTORY_KEYS)
		effects->events[effects->count++] = (struct event){.kv = *kv};
}

static void run_delete(const struct action *action, int64_t revision, struct state *state, struct effects *effects)
{
	for (int key = action->from; key < action->to; key++) {
		struct event event = {.is_delete = true, .kv = {.key = key, .mod = revision}};

		if (!state->kvs[key].value || effects->count == HISTORY_KEYS)
			continue;
		effects->events[effects->count++] = event;
		state_apply(state, &event);
	}
}

static int64_t count_keys(const struct state *state, int from, int to)
{
	int64_t count = 0;

	for (int key = from; key < to; key++)
		count += state->kvs[key].value != 0;
	return count;
}

/* Runs 'op' on a copy of 'state', writing at 'revision'; answers are compared when it has some. */
static void run_op(const struct op *op, const struct state *before, int64_t revision, struct effects *effects)
{
	struct state state = *before;
	bool answered = op->outcome == OP_OK;
	bool succeeded = true;
	const struct action *actions;
	size_t count;

	effects->count = 0;
	effects->wrong = NULL;
	for (size_t i = 0; i < op->compare_count; i++)
		succeeded = succeeded && holds(&op->compares[i], &state);
	if (answered && op->succeeded != succeeded)
		effects->wrong = "the other branch should have run";
	if (answered)
		succeeded = op->succeeded;
	actions = succeeded ? op->thens : op->elses;
	count = succeeded ? op->then_count : op->else_count;
	for (size_t i = 0; i < count; i++) {
		const struct action *action = &actions[i];
		const struct action_result *result = &op->results[i];
		const char *wrong = NULL;

		if (answered && (action->kind == ACTION_GET || action->prev))
			wrong = compare_kvs(&state, action->from, action->to, result);
		if (answered && !wrong && action->kind != ACTION_PUT &&
		    result->count != count_keys(&state, action->from, action->to))
			wrong = "a count is wrong";
		if (wrong && !effects->wrong)
			effects->wrong = wrong;
		switch (action->kind) {
		case ACTION_GET:
			break;
		case ACTION_PUT:
			run_put(action, revision, &state, effects);
			break;
		case ACTION_DELETE:
			run_delete(action, revision, &state, effects);
			break;
		}
	}
}

static bool same_effects(const struct effects *effects, const struct log_revision *at)
{
	if (effects->count != at->count)
		return false;
	for (size_t i = 0; i < at->count; i++)
		if (!same_event(&effects->events[i], &at->events[i]))
			return false;
	return true;
}

/* By its own answer, it has written. */
static bool says_that_it_wrote(const struct op *op)
{
	const struct action *actions = op->succeeded ? op->thens : op->elses;
	size_t count = op->succeeded ? op->then_count : op->else_count;

	if (op->kind != OP_TXN || op->outcome != OP_OK)
		return false;
	for (size_t i = 0; i < count; i++)
		if (actions[i].kind == ACTION_PUT || (actions[i].kind == ACTION_DELETE && op->results[i].count > 0))
			return true;
	return false;
}

/* ---- Indexes ---- */

static int64_t state_revision(const struct op *op)
{
	return op->kind == OP_TXN && op->at ? op->at : op->revision;
}

static int compare_int64(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

static int by_state_revision(const void *a, const void *b)
{
	return compare_int64(state_revision(*(const struct op *const *)a),
			     state_revision(*(const struct op *const *)b));
}

static void index_values(struct check *check, const struct op *op, const struct action *actions, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (actions[i].kind != ACTION_PUT)
			continue;
		if (actions[i].value <= 0 || actions[i].value >= check->value_count ||
		    check->by_value[actions[i].value])
			found(check->findings, "the clients did not keep values apart", "value %" PRId64,
			      actions[i].value);
		else
			check->by_value[actions[i].value] = op;
	}
}

static bool only_deletes(const struct action *actions, size_t count)
{
	bool deletes = false;

	for (size_t i = 0; i < count; i++) {
		if (actions[i].kind == ACTION_PUT)
			return false;
		deletes = deletes || actions[i].kind == ACTION_DELETE;
	}
	return deletes;
}

static int by_id(const void *a, const void *b)
{
	return compare_int64(((const struct lease *)a)->id, ((const struct lease *)b)->id);
}

static struct lease *find_lease(const struct check *check, int64_t id)
{
	struct lease key = {.id = id};

	return check->lease_count ? bsearch(&key, check->leases, check->lease_count, sizeof(key), by_id) : NULL;
}

static void index_leases(struct check *check)
{
	const struct history *history = check->history;
	struct lease *lease;

	for (size_t i = 0; i < history->op_count; i++)
		check->lease_count += history->ops[i].kind == OP_GRANT;
	check->leases = ks_xcalloc(check->lease_count + 1, sizeof(*check->leases));
	check->lease_count = 0;
	for (size_t i = 0; i < history->op_count; i++)
		if (history->ops[i].kind == OP_GRANT)
			check->leases[check->lease_count++] =
				(struct lease){.id = history->ops[i].lease, .ended = INT64_MAX};
	qsort(check->leases, check->lease_count, sizeof(*check->leases), by_id);
	for (size_t i = 0; i < history->op_count; i++) {
		const struct op *op = &history->ops[i];
		int64_t until = op->start_ns + op->ttl * NS_PER_S;

		if ((op->kind != OP_GRANT && op->kind != OP_KEEPALIVE && op->kind != OP_REVOKE) ||
		    !(lease = find_lease(check, op->lease)))
			continue;
		if (op->kind == OP_REVOKE && op->outcome != OP_FAILED)
			lease->revoked = true;
		if (op->kind != OP_REVOKE && op->outcome == OP_OK && op->ttl > 0 && until > lease->not_before_ns)
			lease->not_before_ns = until;
	}
}

static void index_all(struct check *check)
{
	const struct history *history = check->history;

	check->value_count = (int64_t)history->op_count * 2 * HISTORY_ACTIONS + 1;
	for (size_t i = 0; i < history->op_count; i++)
		for (size_t a = 0; a < history->ops[i].then_count; a++)
			if (history->ops[i].thens[a].value >= check->value_count &&
			    history->ops[i].thens[a].value < 1000000000)
				check->value_count = history->ops[i].thens[a].value + 1;
	check->by_value = ks_xcalloc((size_t)check->value_count, sizeof(*check->by_value));
	check->by_revision = ks_xcalloc(history->op_count + 1, sizeof(*check->by_revision));
	check->unsure = ks_xcalloc(history->op_count + 1, sizeof(*check->unsure));
	check->owned = ks_xcalloc(history->op_count + 1, sizeof(*check->owned));
	check->floors = ks_xcalloc(history->op_count + 1, sizeof(*check->floors));
	for (size_t i = 0; i < history->op_count; i++) {
		const struct op *op = &history->ops[i];

		index_values(check, op, op->thens, op->then_count);
		index_values(check, op, op->elses, op->else_count);
		if (op->outcome == OP_OK && (op->kind == OP_TXN || op->kind == OP_REVOKE))
			check->by_revision[check->acknowledged++] = op;
		if (op->outcome == OP_UNKNOWN && op->kind == OP_TXN &&
		    (only_deletes(op->thens, op->then_count) || only_deletes(op->elses, op->else_count)))
			check->unsure[check->unsure_count++] = op;
	}
	qsort(check->by_revision, check->acknowledged, sizeof(*check->by_revision), by_state_revision);
	index_leases(check);
}

/* ---- Who made a revision ---- */

static void own(struct check *check, const struct op *op, int64_t revision)
{
	int64_t *owned = &check->owned[number_of(check, op)];

	if (*owned)
		found(check->findings, "an operation happened twice", "a %s of client %u at %" PRId64 " and %" PRId64,
		      op->name, op->client, *owned, revision);
	*owned = revision;
}

static void check_lease_of_puts(struct check *check, const struct log_revision *at, int64_t revision)
{
	for (size_t i = 0; i < at->count; i++) {
		const struct lease *lease;

		if (at->events[i].is_delete || !at->events[i].kv.lease)
			continue;
		lease = find_lease(check, at->events[i].kv.lease);
		if (!lease)
			found(check->findings, "a key has a lease that nobody was granted", "revision %" PRId64,
			      revision);
		else if (lease->ended < revision)
			found(check->findings, "a key was attached to a lease after its end",
			      "revision %" PRId64 ", which ended at %" PRId64, revision, lease->ended);
	}
}

/* The operation that wrote the first value of this revision, unless it was acknowledged elsewhere. */
static void check_put_of_somebody(struct check *check, const struct log_revision *at, int64_t revision, int64_t value)
{
	const struct op *op = value > 0 && value < check->value_count ? check->by_value[value] : NULL;
	struct effects effects;

	if (!op) {
		found(check->findings, "a value was written that no client wrote", "%" PRId64 " at revision %" PRId64,
		      value, revision);
		return;
	}
	switch (op->outcome) {
	case OP_OK:
		found(check->findings, "an acknowledged write happened at another revision or twice",
		      "a %s of client %u, acknowledged at %" PRId64 ", is at %" PRId64, op->name, op->client,
		      op->revision, revision);
		return;
	case OP_FAILED:
		found(check->findings, "an operation that failed has happened", "a %s of client %u at %" PRId64,
		      op->name, op->client, revision);
		return;
	case OP_UNKNOWN:
	case OP_OUTCOMES:
		break;
	}
	own(check, op, revision);
	run_op(op, &check->state, revision, &effects);
	if (!same_effects(&effects, at))
		found(check->findings, "a write did something else than it says",
		      "a %s of client %u at %" PRId64 ", whose outcome is unknown", op->name, op->client, revision);
}

/* All keys of one lease, and nothing else? */
static struct lease *ended_lease(const struct check *check, const struct log_revision *at)
{
	int64_t id = check->state.kvs[at->events[0].kv.key].lease;
	size_t next = 0;

	if (!id)
		return NULL;
	for (int key = 0; key < HISTORY_KEYS; key++) {
		if (check->state.kvs[key].lease != id)
			continue;
		if (next == at->count || at->events[next++].kv.key != key)
			return NULL;
	}
	return next == at->count ? find_lease(check, id) : NULL;
}

static void check_deletes(struct check *check, const struct log_revision *at, int64_t revision)
{
	struct lease *lease = ended_lease(check, at);
	const struct op *candidate = NULL;
	struct effects effects;

	for (size_t i = 0; i < check->unsure_count && !candidate; i++) {
		if (check->owned[number_of(check, check->unsure[i])] ||
		    check->floors[number_of(check, check->unsure[i])] >= revision)
			continue; /* it was another one */
		run_op(check->unsure[i], &check->state, revision, &effects);
		if (same_effects(&effects, at))
			candidate = check->unsure[i];
	}
	if (lease) {
		/* With a candidate nobody can know which of the two it was. */
		if (!candidate && revision < lease->ended) {
			lease->ended = revision;
			lease->seen_ended = true;
			lease->seen = revision;
		}
	} else if (candidate) {
		own(check, candidate, revision);
	} else {
		found(check->findings, "keys were deleted by nobody", "key %d at revision %" PRId64,
		      at->events[0].kv.key, revision);
	}
}

static void check_revision(struct check *check, const struct log_revision *at, int64_t revision,
			   const struct op *writer)
{
	struct effects effects;
	bool only_deletions = true;

	check_lease_of_puts(check, at, revision);
	if (writer) {
		own(check, writer, revision);
		run_op(writer, &check->state, revision, &effects);
		if (!same_effects(&effects, at))
			found(check->findings, "an acknowledged write is not what its revision has",
			      "a %s of client %u at %" PRId64, writer->name, writer->client, revision);
		else if (effects.wrong)
			found(check->findings, "an answer is not what its revision says",
			      "a %s of client %u at %" PRId64 ": %s", writer->name, writer->client, revision,
			      effects.wrong);
		return;
	}
	for (size_t i = 0; i < at->count && only_deletions; i++) {
		if (at->events[i].is_delete)
			continue;
		only_deletions = false;
		check_put_of_somebody(check, at, revision, at->events[i].kv.value);
	}
	if (at->count && only_deletions)
		check_deletes(check, at, revision);
}

/* ---- The pass ---- */

static void check_answer(struct check *check, const struct op *op)
{
	struct effects effects;

	if (op->kind == OP_REVOKE) {
		struct lease *lease = find_lease(check, op->lease);

		if (lease && check->state.revision < lease->ended)
			lease->ended = check->state.revision;
		for (int key = 0; key < HISTORY_KEYS; key++)
			if (check->state.kvs[key].lease == op->lease)
				found(check->findings, "a key outlived its lease",
				      "key %d at revision %" PRId64 ", lease %" PRId64, key, check->state.revision,
				      op->lease);
		return;
	}
	run_op(op, &check->state, check->state.revision, &effects);
	if (effects.count)
		found(check->findings, "an operation should have written, and says that it did not",
		      "a %s of client %u at %" PRId64, op->name, op->client, op->revision);
	else if (effects.wrong)
		found(check->findings, "an answer is not what its revision says",
		      "a %s of client %u at %" PRId64 "%s: %s", op->name, op->client, check->state.revision,
		      op->serializable ? ", serializable" : "", effects.wrong);
}

/* Those of by_revision from 'next' on that are about 'revision': the writer, which comes back, and answers afterwards. */
static const struct op *find_writer(struct check *check, size_t next, int64_t revision)
{
	const struct op *writer = NULL;

	for (; next < check->acknowledged && state_revision(check->by_revision[next]) == revision; next++) {
		const struct op *op = check->by_revision[next];

		if (!says_that_it_wrote(op))
			continue;
		if (writer)
			found(check->findings, "two acknowledged writes have one revision",
			      "%" PRId64 ", clients %u and %u", revision, writer->client, op->client);
		writer = op;
	}
	return writer;
}

static void pass(struct check *check)
{
	size_t next = 0;

	state_init(&check->state, check->log.first);
	for (int64_t revision = check->log.first; revision <= check->log.last; revision++) {
		const struct log_revision *at = log_at(&check->log, revision);
		const struct op *writer;

		for (; next < check->acknowledged && state_revision(check->by_revision[next]) < revision; next++)
			found(check->findings, "an answer has a revision from before the run", "%" PRId64,
			      check->by_revision[next]->revision);
		writer = find_writer(check, next, revision);
		if (at)
			check_revision(check, at, revision, writer);
		for (size_t i = 0; at && i < at->count; i++)
			state_apply(&check->state, &at->events[i]);
		check->state.revision = revision;
		for (; next < check->acknowledged && state_revision(check->by_revision[next]) == revision; next++)
			if (check->by_revision[next] != writer)
				check_answer(check, check->by_revision[next]);
	}
	for (; next < check->acknowledged; next++)
		found(check->findings, "an acknowledged operation has a revision that never was",
		      "a %s of client %u at %" PRId64 ", the last is %" PRId64, check->by_revision[next]->name,
		      check->by_revision[next]->client, check->by_revision[next]->revision, check->log.last);
	for (int key = 0; key < HISTORY_KEYS; key++)
		if (check->state.kvs[key].lease)
			found(check->findings, "a key outlived its lease", "key %d at the end, lease %" PRId64, key,
			      check->state.kvs[key].lease);
}

/* ---- Real time ---- */

struct sight {
	int64_t at_ns, revision;
};

static int by_time(const void *a, const void *b)
{
	return compare_int64(((const struct sight *)a)->at_ns, ((const struct sight *)b)->at_ns);
}

static int by_start(const void *a, const void *b)
{
	return compare_int64((*(const struct op *const *)a)->start_ns, (*(const struct op *const *)b)->start_ns);
}

/* Whoever saw which revision when, by time. */
static struct sight *all_sights(const struct history *history, size_t *count)
{
	struct sight *sights = ks_xcalloc(history->op_count + history->watch_count + 1, sizeof(*sights));

	*count = 0;
	for (size_t i = 0; i < history->op_count; i++)
		if (history->ops[i].outcome == OP_OK && history->ops[i].revision)
			sights[(*count)++] = (struct sight){history->ops[i].end_ns, history->ops[i].revision};
	for (size_t i = 0; i < history->watch_count; i++)
		if (history->watches[i].kind == WATCH_EVENTS || history->watches[i].kind == WATCH_PROGRESS)
			sights[(*count)++] = (struct sight){history->watches[i].at_ns, history->watches[i].revision};
	qsort(sights, *count, sizeof(*sights), by_time);
	return sights;
}

static void find_floors(struct check *check, const struct sight *sights, size_t count)
{
	const struct history *history = check->history;
	const struct op **ops = ks_xcalloc(history->op_count + 1, sizeof(struct op *));
	int64_t floor = check->log.first;
	size_t next = 0;

	for (size_t i = 0; i < history->op_count; i++)
		ops[i] = &history->ops[i];
	qsort(ops, history->op_count, sizeof(struct op *), by_start);
	for (size_t i = 0; i < history->op_count; i++) {
		for (; next < count && sights[next].at_ns < ops[i]->start_ns; next++)
			if (sights[next].revision > floor)
				floor = sights[next].revision;
		check->floors[number_of(check, ops[i])] = floor;
	}
	free(ops);
}

static void check_real_time(struct check *check)
{
	for (size_t i = 0; i < check->history->op_count; i++) {
		const struct op *op = &check->history->ops[i];
		int64_t owned = check->owned[i], floor = check->floors[i];

		if (owned && owned <= floor)
			found(check->findings, "a write is older than what was seen before it began",
			      "a %s of client %u at %" PRId64 ", seen was %" PRId64, op->name, op->client, owned,
			      floor);
		else if (!owned && op->outcome == OP_OK && !op->serializable && op->kind != OP_KEEPALIVE &&
			 op->revision < floor)
			found(check->findings, "a stale answer: something newer was seen before the operation began",
			      "a %s of client %u at %" PRId64 ", seen was %" PRId64, op->name, op->client, op->revision,
			      floor);
	}
}

/* ---- Leases, hashes ---- */

static int by_seen(const void *a, const void *b)
{
	return compare_int64((*(const struct lease *const *)a)->seen, (*(const struct lease *const *)b)->seen);
}

/* None expired before its time: nobody may have seen the revision of its end sooner. Sights are by time. */
static void check_expiry(struct check *check, const struct sight *sights, size_t count)
{
	const struct lease **leases = ks_xcalloc(check->lease_count + 1, sizeof(struct lease *));
	size_t lease_count = 0, next = 0;

	for (size_t i = 0; i < check->lease_count; i++)
		if (check->leases[i].seen_ended && !check->leases[i].revoked)
			leases[lease_count++] = &check->leases[i];
	qsort(leases, lease_count, sizeof(struct lease *), by_seen);
	for (size_t i = 0; i < count; i++) {
		for (; next < lease_count && leases[next]->seen <= sights[i].revision; next++)
			if (sights[i].at_ns < leases[next]->not_before_ns)
				found(check->findings, "a lease ended early",
				      "lease %" PRId64 " at revision %" PRId64 ", by %" PRId64 " ms", leases[next]->id,
				      leases[next]->seen, (leases[next]->not_before_ns - sights[i].at_ns) / 1000000);
	}
	free(leases);
}

static void check_hashes(const struct history *history, struct findings *findings)
{
	for (size_t i = 1; i < history->hash_count; i++) {
		const struct hash_record *a = &history->hashes[0], *b = &history->hashes[i];

		if (a->revision != b->revision || a->compact_revision != b->compact_revision || a->hash != b->hash)
			found(findings, "instances differ",
			      "%s has hash %u of revision %" PRId64 " compacted at %" PRId64 ", %s has %u of %" PRId64
			      " at %" PRId64,
			      a->instance, a->hash, a->revision, a->compact_revision, b->instance, b->hash, b->revision,
			      b->compact_revision);
	}
}

unsigned history_check(const struct history *history, FILE *out)
{
	struct findings findings = {.out = out};
	struct check check = {.history = history, .findings = &findings};
	struct sight *sights;
	size_t count;

	for (size_t i = 0; i < history->complaint_count; i++)
		found(&findings, "the run found", "%s", history->complaints[i]);
	if (!history->last)
		found(&findings, "the history has no end", "%zu operations", history->op_count);
	log_build(&check.log, history, &findings);
	check_watchers(history, &check.log, &findings);
	index_all(&check);
	sights = all_sights(history, &count);
	find_floors(&check, sights, count);
	pass(&check);
	check_real_time(&check);
	check_expiry(&check, sights, count);
	check_hashes(history, &findings);
	for (size_t i = 0; i < FINDING_KINDS && out; i++)
		if (findings.kinds[i].count > SHOWN)
			fprintf(out, "# %s: %u times\n", findings.kinds[i].what, findings.kinds[i].count);
	free(sights);
	free(check.leases);
	free(check.owned);
	free(check.floors);
	free(check.unsure);
	free(check.by_revision);
	free(check.by_value);
	log_free(&check.log);
	return findings.count;
}
