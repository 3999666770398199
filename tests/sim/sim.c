/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded simulation: two or three instances (store and log) on one memory database, on one thread, with a fake clock. What
 * happens next is drawn from one random stream: which role of which instance runs, what fails, who is cut off or killed, when
 * the database loses its tail, what clients ask. A failure prints the seed, which repeats it exactly.
 *
 * Checked all the time, against truth.h:
 *   - the log: positions and revisions contiguous, every entry follows from the state before it, nothing happens twice;
 *   - every acknowledged write is in the log at the revision that was answered, with the outcome that was answered;
 *   - real time: no answer is of a revision older than what had been answered to anybody before it was asked;
 *   - every read, also without proof, shows exactly the state of one revision; values that are fetched are the right ones;
 *   - history scans (watches) give every event of the truth, in order, once;
 *   - leases end only after their deadline, and keepalives say 0 only when the lease is gone.
 * At the end of each run all faults stop, and then: all instances have the same state and HashKV, so has one that
 * is started anew from the trimmed log, no lease overstays, and each key's history is linearizable (linear.h).
 *
 *	sim [--seed N] [--steps M] [--runs K] [--seconds S] [--verbose]
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/diag.h"
#include "base/panic.h"
#include "store/auth.h"
#include "tests/sim/linear.h"
#include "tests/sim/truth.h"
#include "tests/sim/world.h"

#define PLAIN_KEYS 4 /* the others may be put with leases, and vanish with them */
#define OPS_MAX 24
#define REGISTER_MAX 4096

enum op_kind {
	OP_PUT,
	OP_PUT_LEASE,
	OP_DELETE,
	OP_CAS,
	OP_GRANT,
	OP_REVOKE,
	OP_COMPACT,
	OP_READ,
	OP_KEEPALIVE,
	OP_FETCH,
	OP_USER
};

struct op {
	bool used;
	enum op_kind kind;
	size_t node;
	int key;
	int64_t value;
	int64_t expected_revision, expected_value; /* CAS */
	int64_t lease, ttl;
	int64_t call, floor, call_ms;
	bool excused; /* the database lost rows while it was on its way */
	struct world_call write;
	struct world_proof proof;
	struct ks_keepalive keepalive;
	struct ks_fetch fetch;
	struct ks_range_result range; /* FETCH */
	struct ks_kvref *ref;
	int64_t revision;
	int done;
};

struct sim {
	struct world world;
	struct truth truth;
	uint64_t seed, random;
	struct sqlb_db *db; /* of the recorder */
	struct sqlb_conn *recorder;
	struct op ops[OPS_MAX];
	int64_t tick;
	int64_t last_value, last_lease;
	int64_t answered; /* newest revision in any answer */
	/* profile of this run */
	unsigned fault_ppm;
	int64_t trimmed_at; /* where the log ended when rows were trimmed last */
	bool calm;          /* no more faults */
	bool doubts, late, cuts, losses, kills, storm;
	int64_t cut_off_until_ms[WORLD_NODES];
	const char *cut_op[WORLD_NODES]; /* only this call fails */
	int64_t cut_op_until_ms[WORLD_NODES];
	bool tainted[WORLD_NODES]; /* holds rows that the database lost, and does not know it yet */
	uint64_t epoch[WORLD_NODES];
	int64_t scan_next[WORLD_NODES];
	int64_t shown[WORLD_NODES]; /* revision that a reader saw there */
	struct {
		int64_t id, alive_until_ms;
		bool revoked; /* a client asked for it */
	} leases[64];
	size_t lease_count;
	struct linear_op registers[PLAIN_KEYS][REGISTER_MAX];
	size_t register_count[PLAIN_KEYS];
	bool register_full[PLAIN_KEYS];
	bool lost_any;
	size_t acked, reads, refused, losses_done, kills_done, scans, fetches;
	char failure[512];
};

static bool verbose;

/* What became of the appends that were sent, by their place among those on their way when the first of these was answered. */
enum { SENT_OUTCOMES = SQLB_BROKEN + 1, SENT_WAYS = 16 };
static size_t met[SQLB_SENT_MAX][SENT_OUTCOMES];
static size_t depths[SQLB_SENT_MAX + 1]; /* how often so many were on their way at an answer */

/* Of a connection: how many are on their way, and at which place the next answer is. */
static struct way {
	const struct sqlb_conn *conn;
	size_t sent, place;
} ways[SENT_WAYS];

static struct way *way_of(const struct sqlb_conn *conn)
{
	struct way *way = &ways[0];

	for (size_t i = 0; i < SENT_WAYS; i++) {
		if (ways[i].conn == conn)
			return &ways[i];
		if (!ways[i].sent)
			way = &ways[i];
	}
	*way = (struct way){.conn = conn};
	return way;
}

static enum sqlb_outcome noting_send(struct sqlb_conn *conn, const struct sqlb_append *append, struct ks_err *err)
{
	struct way *way = way_of(conn);
	enum sqlb_outcome outcome = sqlb_memory_ops.append_send(conn, append, err);

	way->sent += outcome == SQLB_OK;
	return outcome;
}

static enum sqlb_outcome noting_receive(struct sqlb_conn *conn, int wait_ms, bool *pending, bool *appended,
					struct ks_err *err)
{
	struct way *way = way_of(conn);
	enum sqlb_outcome outcome = sqlb_memory_ops.append_receive(conn, wait_ms, pending, appended, err);

	if (outcome == SQLB_OK && *pending)
		return outcome;
	if (way->place == 0)
		depths[way->sent]++;
	met[way->place][outcome]++;
	way->sent--;
	/* One that landed leaves its place to the next. */
	way->place = way->sent && outcome != SQLB_OK ? way->place + 1 : 0;
	return outcome;
}

static void show_met(void)
{
	for (size_t i = 1; i <= SQLB_SENT_MAX; i++)
		printf("# %zu on their way: %zu\n", i, depths[i]);
	for (size_t i = 0; i < SQLB_SENT_MAX; i++)
		for (int outcome = 0; outcome < SENT_OUTCOMES; outcome++)
			printf("# number %zu %s: %zu\n", i + 1, sqlb_outcome_name((enum sqlb_outcome)outcome),
			       met[i][outcome]);
}

static bool fail(struct sim *sim, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct sim *sim, const char *fmt, ...)
{
	va_list args;

	if (sim->failure[0])
		return false;
	va_start(args, fmt);
	vsnprintf(sim->failure, sizeof(sim->failure), fmt, args);
	va_end(args);
	return false;
}

static uint64_t draw(struct sim *sim, uint64_t below)
{
	return ks_log_random(&sim->random) % below;
}

static bool chance(struct sim *sim, unsigned ppm)
{
	return draw(sim, 1000000) < ppm;
}

/* ---- faults ---- */

static enum sqlb_memory_fault chaos(struct world *world, const char *op, int node)
{
	struct sim *sim = world->ctx;
	bool append = strcmp(op, "append") == 0 || strcmp(op, "append_send") == 0;

	if (node < 0)
		return SQLB_FAULT_NONE;
	/* No fault, but an answer that takes its time: others come to be sent behind it. */
	if (strcmp(op, "append_receive") == 0)
		return draw(sim, 4) ? SQLB_FAULT_AWAY : SQLB_FAULT_NONE;
	if (strcmp(op, "trim") == 0)
		sim->trimmed_at = truth_position(&sim->truth);
	if (ks_clock_now(&world->clock) < sim->cut_off_until_ms[node])
		return append && sim->doubts && draw(sim, 4) == 0 ? SQLB_FAULT_DOUBT_LOST : SQLB_FAULT_AWAY;
	if (sim->cut_op[node] && strcmp(op, sim->cut_op[node]) == 0 &&
	    ks_clock_now(&world->clock) < sim->cut_op_until_ms[node])
		return SQLB_FAULT_AWAY;
	if (sim->calm || !chance(sim, sim->fault_ppm))
		return SQLB_FAULT_NONE;
	if (append && sim->doubts) {
		switch (draw(sim, sim->late ? 4 : 3)) {
		case 0:
			return SQLB_FAULT_DOUBT_DONE;
		case 1:
			return SQLB_FAULT_DOUBT_LOST;
		case 2:
			return draw(sim, 16) ? SQLB_FAULT_AWAY : SQLB_FAULT_BROKEN;
		default:
			return SQLB_FAULT_DOUBT_LATE;
		}
	}
	return sim->cuts && draw(sim, 2) ? SQLB_FAULT_CUT : SQLB_FAULT_AWAY;
}

static bool record_row(void *ctx, const struct sqlb_row *row)
{
	struct sim *sim = ctx;

	truth_row(&sim->truth, row, ks_clock_now(&sim->world.clock));
	return true;
}

/* Copies what is new in the log. Called after every step, before anything can be trimmed. */
static bool record(struct sim *sim)
{
	struct ks_err err;
	bool more;
	enum sqlb_outcome outcome;

	do {
		outcome = sqlb_memory_ops.read_rows(sim->recorder, truth_position(&sim->truth), -1, 64u << 20,
						    record_row, sim, &more, &err);
	} while (outcome == SQLB_AWAY); /* cut once after a lost tail */
	if (sim->truth.wrong[0])
		return fail(sim, "%s", sim->truth.wrong);
	return true;
}

static void after_step(struct world *world)
{
	record(world->ctx);
}

static void lose_tail(struct sim *sim)
{
	int64_t head = truth_position(&sim->truth), keep = head - 1 - (int64_t)draw(sim, 5);
	const struct truth_entry *entries = sim->truth.entries;

	/* A database loses whole transactions, so whole batches. */
	while (keep > 0 && entries[keep - 1].writer == entries[keep].writer &&
	       entries[keep - 1].batch == entries[keep].batch)
		keep--;
	if (keep < 1)
		return;
	/* A database loses its newest transactions, all of them: not an entry without the trimming that came after it. */
	if (sim->trimmed_at > keep)
		return;
	(draw(sim, 2) ? sqlb_memory_lose_tail : sqlb_memory_lose_tail_quietly)(sim->world.name, keep);
	truth_cut(&sim->truth, keep);
	sim->losses_done++;
	sim->lost_any = true;
	sim->answered = 0;
	for (size_t i = 0; i < OPS_MAX; i++)
		sim->ops[i].excused = true;
	for (size_t i = 0; i < sim->world.count; i++) {
		struct ks_log *log = sim->world.nodes[i].log;

		if (!log)
			continue;
		if (log->reader.epoch != sim->epoch[i])
			sim->tainted[i] = false; /* it had noticed an earlier loss */
		if (ks_store_committed(sim->world.nodes[i].store).position > keep)
			sim->tainted[i] = true;
		sim->epoch[i] = log->reader.epoch;
		sim->shown[i] = 0;
	}
}

/* ---- reading and comparing ---- */

static bool same_kv(struct sim *sim, int key, int64_t revision, const struct ks_range_result *result, const char *what)
{
	const struct truth_version *version = truth_at(&sim->truth, key, revision);
	const struct ks_kvref *ref = result->kv_count ? &result->kvs[0] : NULL;
	struct ks_kv kv;

	if (!version || !ref) {
		if (!version && !ref)
			return true;
		return fail(sim, "%s: key k%d at revision %" PRId64 ": %s, but should %sbe there", what, key, revision,
			    ref ? "found" : "not found", version ? "" : "not ");
	}
	if (!ref->encoded) {
		if (ref->loc.position != sim->truth.entries[version->entry].position)
			return fail(
				sim, "%s: key k%d at revision %" PRId64 ": at position %" PRId64 " instead of %" PRId64,
				what, key, revision, ref->loc.position, sim->truth.entries[version->entry].position);
		return true;
	}
	if (!ks_kv_decode(ks_bytes_slice(ref->encoded), &kv) || truth_value(kv.value) != version->value ||
	    kv.mod_revision != version->revision || kv.create_revision != version->create_revision ||
	    kv.version != version->version || kv.lease != version->lease)
		return fail(sim,
			    "%s: key k%d at revision %" PRId64 ": v%" PRId64 " mod %" PRId64 " create %" PRId64
			    " version %" PRId64 " lease %" PRId64 " instead of v%" PRId64 " mod %" PRId64
			    " create %" PRId64 " version %" PRId64 " lease %" PRId64,
			    what, key, revision, truth_value(kv.value), kv.mod_revision, kv.create_revision, kv.version,
			    kv.lease, version->value, version->revision, version->create_revision, version->version,
			    version->lease);
	return true;
}

static bool range_of(struct sim *sim, size_t node, int key, struct ks_range_result *result, int64_t *revision)
{
	char name[8];
	struct ks_range_req req = {.interval = {.key = {NULL, 0}}};
	struct ks_err err = {0};

	snprintf(name, sizeof(name), "k%d", key);
	req.interval.key = ks_slice_str(name);
	*result = (struct ks_range_result){0};
	if (ks_store_range(sim->world.nodes[node].store, &req, result, revision, &err) != KS_OK)
		return fail(sim, "range on node %zu: %s", node, err.text);
	return true;
}

/* Is this instance's state one that the log had? (It may hold what the database lost.) */
/*
 * What the database lost and a node holds is in the log again: whoever appended it was in doubt, and appended the very same rows again behind
 * the very same entry.
 */
static bool found_again(struct sim *sim, size_t node)
{
	const struct ks_log_applied *applied = &sim->world.nodes[node].log->writer.applied;
	const struct truth_entry *entry;

	if (applied->position < 1 || applied->position > truth_position(&sim->truth))
		return false;
	entry = &sim->truth.entries[applied->position - 1];
	return entry->writer == applied->writer && entry->batch == applied->batch;
}

static bool readable(struct sim *sim, size_t node)
{
	const struct world_node *n = &sim->world.nodes[node];

	if (!n->log || !atomic_load(&n->log->loaded))
		return false;
	if (sim->tainted[node] && (n->log->reader.epoch != sim->epoch[node] || found_again(sim, node)))
		sim->tainted[node] = false;
	return !sim->tainted[node];
}

static bool read_unproven(struct sim *sim, size_t node)
{
	struct ks_range_result result;
	int key = (int)draw(sim, TRUTH_KEYS);
	int64_t revision;
	bool good;

	if (!readable(sim, node))
		return true;
	if (!range_of(sim, node, key, &result, &revision))
		return false;
	good = same_kv(sim, key, revision, &result, "serializable read");
	if (revision < sim->shown[node])
		good = fail(sim, "node %zu went back from revision %" PRId64 " to %" PRId64, node, sim->shown[node],
			    revision);
	sim->shown[node] = revision;
	ks_range_result_fini(&result);
	return good;
}

struct scan {
	struct sim *sim;
	size_t at; /* next event of the truth */
	bool good;
};

static void scan_event(void *ctx, const struct ks_event *event)
{
	struct scan *scan = ctx;
	const struct truth *truth = &scan->sim->truth;
	const struct truth_event *expected = scan->at < truth->event_count ? &truth->events[scan->at] : NULL;

	if (scan->good && (!expected || expected->revision != event->revision || expected->sub != event->sub ||
			   expected->is_delete != event->is_delete || expected->key != truth_key(event->key)))
		scan->good = fail(
			scan->sim, "history: event (%" PRId64 ", %" PRId32 ") instead of (%" PRId64 ", %" PRId32 ")",
			event->revision, event->sub, expected ? expected->revision : 0, expected ? expected->sub : 0);
	scan->at++;
}

static size_t event_from(const struct truth *truth, int64_t revision)
{
	size_t at = 0;

	while (at < truth->event_count && truth->events[at].revision < revision)
		at++;
	return at;
}

/* What a watcher on that instance would see next. */
static bool scan_history(struct sim *sim, size_t node)
{
	struct ks_event_scan request = {
		.interval = {.key = {(const uint8_t *)"\0", 1}, .end = {(const uint8_t *)"\0", 1}},
		.from = sim->scan_next[node] > 0 ? sim->scan_next[node] : 1,
		.to = INT64_MAX,
		.max_revisions = 1 + draw(sim, 50),
		.max_events = SIZE_MAX,
		.max_bytes = SIZE_MAX,
		.max_scanned = 1 + draw(sim, 200)};
	struct ks_event_scanned scanned = {0};
	int64_t compact_revision = 0;
	struct scan scan = {.sim = sim, .good = true};
	enum ks_status status;

	if (!readable(sim, node))
		return true;
	sim->scans++;
	scan.at = event_from(&sim->truth, request.from);
	status = ks_store_scan_events(sim->world.nodes[node].store, &request, scan_event, &scan, &scanned,
				      &compact_revision);
	if (status == KS_OUT_OF_RANGE) {
		if (compact_revision <= request.from)
			return fail(sim, "history: compacted at %" PRId64 " when asked from %" PRId64, compact_revision,
				    request.from);
		sim->scan_next[node] = compact_revision;
		return true;
	}
	if (status != KS_OK)
		return fail(sim, "history: status %d", (int)status);
	if (!scan.good)
		return false;
	if (scan.at != event_from(&sim->truth, scanned.next))
		return fail(sim, "history on node %zu: events up to revision %" PRId64 " are missing", node,
			    scanned.next);
	sim->scan_next[node] = scanned.next;
	return true;
}

/* ---- what clients ask ---- */

static struct linear_op *register_op(struct sim *sim, const struct op *op)
{
	if (op->key >= PLAIN_KEYS || sim->lost_any)
		return NULL;
	if (sim->register_count[op->key] == REGISTER_MAX) {
		sim->register_full[op->key] = true;
		return NULL;
	}
	return &sim->registers[op->key][sim->register_count[op->key]++];
}

static void note_register(struct sim *sim, const struct op *op, bool answered, bool succeeded, int64_t seen)
{
	struct linear_op *r;

	if (op->excused)
		return;
	if (!answered && op->kind == OP_READ)
		return;
	r = register_op(sim, op);
	if (!r)
		return;
	*r = (struct linear_op){.call = op->call, .ret = answered ? sim->tick : LINEAR_UNKNOWN};
	switch (op->kind) {
	case OP_READ:
		r->kind = LINEAR_READ;
		r->value = seen;
		break;
	case OP_CAS:
		r->kind = LINEAR_CAS;
		r->value = op->value;
		r->expected = op->expected_value;
		r->succeeded = succeeded;
		r->seen = seen;
		break;
	case OP_DELETE:
		r->kind = LINEAR_WRITE;
		r->value = 0;
		break;
	default:
		r->kind = LINEAR_WRITE;
		r->value = op->value;
		break;
	}
}

static void lease_alive(struct sim *sim, int64_t id, int64_t until_ms)
{
	for (size_t i = 0; i < sim->lease_count; i++)
		if (sim->leases[i].id == id && sim->leases[i].alive_until_ms < until_ms)
			sim->leases[i].alive_until_ms = until_ms;
}

static void op_done(struct ks_keepalive *keepalive)
{
	ks_container_of(keepalive, struct op, keepalive)->done++;
}

static void op_fetched(struct ks_fetch *fetch)
{
	ks_container_of(fetch, struct op, fetch)->done++;
}

static int64_t some_lease(struct sim *sim)
{
	return sim->lease_count ? sim->leases[draw(sim, sim->lease_count)].id : 0;
}

static void begin_fetch(struct sim *sim, struct op *op)
{
	op->used = readable(sim, op->node) && range_of(sim, op->node, op->key, &op->range, &op->revision);
	if (op->used && op->range.kv_count && ks_kvref_missing(&op->range.kvs[0])) {
		op->ref = &op->range.kvs[0];
		op->fetch = (struct ks_fetch){.refs = &op->ref, .count = 1, .done = op_fetched};
		sim->fetches++;
		sim->world.nodes[op->node].committer->ops->fetch(sim->world.nodes[op->node].committer, &op->fetch);
		return;
	}
	if (op->used)
		ks_range_result_fini(&op->range);
	op->used = false;
}

static void begin_cas(struct sim *sim, struct op *op, const char *key, const char *value)
{
	int64_t at = truth_revision(&sim->truth) - (int64_t)draw(sim, 3); /* at times an old one */
	const struct truth_version *version = truth_at(&sim->truth, op->key, at);

	op->expected_revision = version ? version->revision : 0;
	op->expected_value = version ? version->value : 0;
	world_cas(&sim->world, op->node, &op->write, key, op->expected_revision, value);
}

static void begin_grant(struct sim *sim, struct op *op)
{
	op->lease = ++sim->last_lease;
	op->ttl = 1 + (int64_t)draw(sim, 8);
	if (sim->lease_count == sizeof(sim->leases) / sizeof(sim->leases[0])) {
		memmove(&sim->leases[0], &sim->leases[1], (sim->lease_count - 1) * sizeof(sim->leases[0]));
		sim->lease_count--;
	}
	sim->leases[sim->lease_count].id = op->lease;
	sim->leases[sim->lease_count].alive_until_ms = 0;
	sim->leases[sim->lease_count++].revoked = false;
	world_grant(&sim->world, op->node, &op->write, op->lease, op->ttl);
}

static void begin_revoke(struct sim *sim, struct op *op)
{
	op->lease = some_lease(sim);
	op->used = op->lease != 0;
	for (size_t i = 0; i < sim->lease_count; i++)
		if (sim->leases[i].id == op->lease)
			sim->leases[i].revoked = true;
	if (op->used)
		world_revoke(&sim->world, op->node, &op->write, op->lease);
}

static void begin_keepalive(struct sim *sim, struct op *op)
{
	op->lease = some_lease(sim);
	op->used = op->lease != 0;
	op->keepalive = (struct ks_keepalive){.id = op->lease, .done = op_done};
	if (op->used)
		sim->world.nodes[op->node].committer->ops->keepalive(sim->world.nodes[op->node].committer,
								     &op->keepalive);
}

static void begin_user(struct sim *sim, struct op *op)
{
	static const enum ks_auth_op what[] = {KS_AUTH_USER_ADD, KS_AUTH_USER_PASSWORD, KS_AUTH_USER_DELETE};
	char name[8];

	snprintf(name, sizeof(name), "u%d", (int)draw(sim, TRUTH_USERS));
	world_user(&sim->world, op->node, &op->write, (int)what[draw(sim, 3)], name);
}

static void begin_op(struct sim *sim, struct op *op)
{
	static const enum op_kind kinds[] = {OP_PUT,     OP_PUT,       OP_PUT,       OP_PUT,   OP_PUT_LEASE,
					     OP_DELETE,  OP_CAS,       OP_CAS,       OP_CAS,   OP_READ,
					     OP_READ,    OP_READ,      OP_READ,      OP_GRANT, OP_REVOKE,
					     OP_COMPACT, OP_KEEPALIVE, OP_KEEPALIVE, OP_FETCH, OP_USER};
	char key[8], value[32];

	*op = (struct op){.used = true, .kind = kinds[draw(sim, sizeof(kinds) / sizeof(kinds[0]))]};
	op->node = draw(sim, sim->world.count);
	if (!sim->world.nodes[op->node].log) {
		op->used = false;
		return;
	}
	op->key = (int)draw(sim, op->kind == OP_PUT_LEASE ? TRUTH_KEYS - PLAIN_KEYS : TRUTH_KEYS);
	if (op->kind == OP_PUT_LEASE)
		op->key += PLAIN_KEYS;
	op->call = sim->tick;
	op->call_ms = ks_clock_now(&sim->world.clock);
	op->floor = sim->answered;
	snprintf(key, sizeof(key), "k%d", op->key);
	op->value = ++sim->last_value;
	snprintf(value, sizeof(value), "v%" PRId64, op->value);
	switch (op->kind) {
	case OP_PUT_LEASE:
		op->lease = some_lease(sim);
		world_put_lease(&sim->world, op->node, &op->write, key, value, op->lease);
		break;
	case OP_PUT:
		world_put(&sim->world, op->node, &op->write, key, value);
		break;
	case OP_DELETE:
		world_delete(&sim->world, op->node, &op->write, key, NULL);
		break;
	case OP_CAS:
		begin_cas(sim, op, key, value);
		break;
	case OP_GRANT:
		begin_grant(sim, op);
		break;
	case OP_REVOKE:
		begin_revoke(sim, op);
		break;
	case OP_COMPACT:
		world_compact(&sim->world, op->node, &op->write,
			      truth_revision(&sim->truth) + 2 - (int64_t)draw(sim, 12));
		break;
	case OP_READ:
		world_prove(&sim->world, op->node, &op->proof);
		break;
	case OP_KEEPALIVE:
		begin_keepalive(sim, op);
		break;
	case OP_FETCH:
		begin_fetch(sim, op);
		break;
	case OP_USER:
		begin_user(sim, op);
		break;
	}
}

/* ---- what they were answered ---- */

static bool not_stale(struct sim *sim, const struct op *op, int64_t revision, const char *what)
{
	if (!op->excused && revision < op->floor)
		return fail(sim,
			    "%s on node %zu was answered at revision %" PRId64 ", but %" PRId64
			    " had been answered before",
			    what, op->node, revision, op->floor);
	if (!op->excused && revision > sim->answered)
		sim->answered = revision;
	return true;
}

static bool end_write_ok(struct sim *sim, struct op *op)
{
	struct ks_result *result = &op->write.submit.result;
	int64_t revision = result->revision, where = 0, before = 0;
	const struct truth_version *old = truth_at(&sim->truth, op->key, revision - 1);
	int key = -1;
	size_t times;

	sim->acked++;
	if (op->excused)
		return true;
	switch (op->kind) {
	case OP_CAS:
		if (!result->txn.succeeded) {
			const struct truth_version *now = truth_at(&sim->truth, op->key, revision);

			if ((now ? now->revision : 0) == op->expected_revision)
				return fail(sim, "a comparison failed that holds at revision %" PRId64, revision);
			if (truth_find(&sim->truth, op->value, NULL, NULL))
				return fail(sim, "v%" PRId64 " was written by a txn that did not succeed", op->value);
			if (!same_kv(sim, op->key, revision, &result->txn.ops[0].range, "read of a txn"))
				return false;
			note_register(sim, op, true, false, now ? now->value : 0);
			return not_stale(sim, op, revision, "a txn that did not succeed");
		}
		before = old ? old->revision : 0;
		if (before != op->expected_revision)
			return fail(sim, "a comparison held that fails before revision %" PRId64, revision);
		/* fall through */
	case OP_PUT:
	case OP_PUT_LEASE:
		times = truth_find(&sim->truth, op->value, &key, &where);
		if (times != 1 || key != op->key || where != revision)
			return fail(sim,
				    "v%" PRId64 " was acknowledged for k%d at revision %" PRId64
				    " and is there %zu times (k%d at %" PRId64 ")",
				    op->value, op->key, revision, times, key, where);
		if (revision <= op->floor)
			return fail(sim, "a write got revision %" PRId64 " after %" PRId64 " had been answered",
				    revision, op->floor);
		note_register(sim, op, true, true, 0);
		break;
	case OP_DELETE:
		old = truth_at(&sim->truth, op->key, revision - (result->op.del.deleted ? 1 : 0));
		if (result->op.del.deleted != (old ? 1 : 0) || truth_at(&sim->truth, op->key, revision))
			return fail(sim, "a delete says %" PRId64 " at revision %" PRId64, result->op.del.deleted,
				    revision);
		note_register(sim, op, true, true, 0);
		break;
	case OP_GRANT:
		if (!truth_lease(&sim->truth, op->lease))
			return fail(sim, "lease %" PRId64 " was acknowledged and is not there", op->lease);
		lease_alive(sim, op->lease, op->call_ms + 1000 * op->ttl);
		break;
	case OP_REVOKE:
		if (!truth_lease(&sim->truth, op->lease) || truth_lease(&sim->truth, op->lease)->revoked == SIZE_MAX)
			return fail(sim, "the revoke of lease %" PRId64 " was acknowledged and is not there",
				    op->lease);
		break;
	case OP_COMPACT:
		if (sim->truth.compact_revision < op->write.submit.request.compact_revision)
			return fail(sim, "a compaction was acknowledged and is not there");
		break;
	case OP_USER:
		/* That it is there shows in the end, when all instances must have what the log says. */
	case OP_READ:
	case OP_KEEPALIVE:
	case OP_FETCH:
		break;
	}
	return not_stale(sim, op, revision, "a write");
}

/* An error that is an answer and not just bad luck must be true. */
static bool end_write_failed(struct sim *sim, struct op *op)
{
	const struct ks_err *err = &op->write.submit.err;
	const struct truth_lease *lease;

	sim->refused++;
	switch (err->status) {
	case KS_UNAVAILABLE: /* nobody knows */
		if (op->kind == OP_PUT || op->kind == OP_DELETE || op->kind == OP_CAS)
			note_register(sim, op, false, false, 0);
		return true;
	case KS_NOT_FOUND:
		lease = truth_lease(&sim->truth, op->lease);
		if (op->kind != OP_PUT_LEASE && op->kind != OP_REVOKE)
			break;
		if (!op->excused && lease && lease->revoked == SIZE_MAX &&
		    sim->truth.entries[lease->granted].revision < op->floor)
			return fail(sim, "lease %" PRId64 " was not found, but it is there", op->lease);
		if (truth_find(&sim->truth, op->value, NULL, NULL))
			return fail(sim, "v%" PRId64 " was refused and is there", op->value);
		return true;
	case KS_OUT_OF_RANGE:
		if (op->kind == OP_COMPACT)
			return true;
		break;
	case KS_FAILED_PRECONDITION: /* the user exists, or does not */
		if (op->kind == OP_USER)
			return true;
		break;
	default:
		break;
	}
	return fail(sim, "a write of kind %d failed with %s: %s", (int)op->kind, ks_status_name(err->status),
		    err->text);
}

static bool end_read(struct sim *sim, struct op *op)
{
	struct ks_range_result result;
	const struct truth_version *version;
	int64_t revision;
	bool good;

	if (op->proof.proof.err.status != KS_OK) {
		sim->refused++;
		return true;
	}
	if (!sim->world.nodes[op->node].log || !atomic_load(&sim->world.nodes[op->node].log->loaded))
		return true;
	if (op->excused && !readable(sim, op->node))
		return true; /* asked before the loss */
	sim->reads++;
	if (!range_of(sim, op->node, op->key, &result, &revision))
		return false;
	good = same_kv(sim, op->key, revision, &result, "linearizable read");
	ks_range_result_fini(&result);
	version = truth_at(&sim->truth, op->key, revision);
	note_register(sim, op, true, true, version ? version->value : 0);
	return good && not_stale(sim, op, revision, "a linearizable read");
}

static bool end_keepalive(struct sim *sim, struct op *op)
{
	const struct truth_lease *lease = truth_lease(&sim->truth, op->lease);

	if (op->keepalive.err.status != KS_OK || op->excused || sim->lost_any)
		return true;
	if (op->keepalive.ttl > 0) {
		lease_alive(sim, op->lease, op->call_ms + 1000 * op->keepalive.ttl);
		return true;
	}
	if (lease && lease->revoked == SIZE_MAX && sim->truth.entries[lease->granted].revision < op->floor)
		for (size_t i = 0; i < sim->lease_count; i++)
			if (sim->leases[i].id == op->lease &&
			    sim->leases[i].alive_until_ms > ks_clock_now(&sim->world.clock))
				return fail(sim, "keepalive of lease %" PRId64 " says it is gone", op->lease);
	return true;
}

static bool end_fetch(struct sim *sim, struct op *op)
{
	bool good = true;

	if (op->fetch.err.status == KS_OK && !op->ref->encoded)
		good = fail(sim, "a fetch brought nothing");
	else if (op->fetch.err.status == KS_OK && !op->excused)
		good = same_kv(sim, op->key, op->revision, &op->range, "fetched value");
	else if (op->fetch.err.status == KS_OUT_OF_RANGE && !op->excused && sim->truth.compact_revision <= op->revision)
		good = fail(sim, "a value of revision %" PRId64 " is gone, compacted only at %" PRId64, op->revision,
			    sim->truth.compact_revision);
	ks_range_result_fini(&op->range);
	return good;
}

static bool end_op(struct sim *sim, struct op *op)
{
	bool good;

	switch (op->kind) {
	case OP_READ:
		if (!op->proof.done)
			return true;
		good = end_read(sim, op);
		break;
	case OP_KEEPALIVE:
		if (!op->done)
			return true;
		good = end_keepalive(sim, op);
		break;
	case OP_FETCH:
		if (!op->done)
			return true;
		good = end_fetch(sim, op);
		break;
	default:
		if (!op->write.done)
			return true;
		if (op->write.submit.err.status == KS_OK) {
			good = end_write_ok(sim, op);
			ks_result_fini(&op->write.submit.result);
		} else {
			good = end_write_failed(sim, op);
		}
		break;
	}
	op->used = false;
	return good;
}

static bool collect(struct sim *sim)
{
	bool good = !sim->failure[0];

	for (size_t i = 0; i < OPS_MAX && good; i++)
		if (sim->ops[i].used)
			good = end_op(sim, &sim->ops[i]);
	return good;
}

static bool leases_ended_in_time(struct sim *sim)
{
	for (size_t i = 0; i < sim->lease_count; i++) {
		const struct truth_lease *lease = truth_lease(&sim->truth, sim->leases[i].id);

		if (!lease || lease->revoked == SIZE_MAX || sim->leases[i].revoked || sim->lost_any)
			continue;
		if (lease->revoked_ms <= sim->leases[i].alive_until_ms)
			return fail(sim, "lease %" PRId64 " ended at %" PRId64 ", alive until %" PRId64, lease->id,
				    lease->revoked_ms, sim->leases[i].alive_until_ms);
		sim->leases[i].revoked = true; /* checked */
	}
	return true;
}

/* ---- one run ---- */

static void kill_node(struct sim *sim, size_t node)
{
	/* As kill -9: it cannot say good-bye. */
	sim->cut_off_until_ms[node] = INT64_MAX;
	world_stop(&sim->world, node);
	sim->cut_off_until_ms[node] = 0;
	sim->kills_done++;
	sim->scan_next[node] = 1;
	sim->shown[node] = 0;
	sim->tainted[node] = false;
}

static const char *some_call(struct sim *sim)
{
	static const char *const calls[] = {"append",      "read_rows",   "read_head", "read_at",    "wait_for_change",
					    "lease_touch", "member_beat", "duty_take", "lease_list", "trim"};

	return calls[draw(sim, sizeof(calls) / sizeof(calls[0]))];
}

static void act(struct sim *sim)
{
	size_t node = draw(sim, sim->world.count);
	struct op *op;

	switch (draw(sim, 40)) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
	case 5:
	case 6:
		op = &sim->ops[draw(sim, OPS_MAX)];
		if (!op->used)
			begin_op(sim, op);
		return;
	case 7:
	case 8:
		read_unproven(sim, node);
		return;
	case 9:
		scan_history(sim, node);
		return;
	case 10:
	case 11:
	case 12:
		ks_clock_advance(&sim->world.clock, 1 + (int64_t)draw(sim, 20));
		return;
	case 13:
		if (draw(sim, 8) == 0)
			ks_clock_advance(&sim->world.clock, 1 + (int64_t)draw(sim, 1500));
		return;
	case 14:
		if (sim->storm && draw(sim, 60) == 0) {
			sim->cut_op[node] = some_call(sim);
			sim->cut_op_until_ms[node] =
				ks_clock_now(&sim->world.clock) + (int64_t)draw(sim, draw(sim, 3) ? 500 : 12000);
		}
		if (sim->storm && draw(sim, 60) == 0)
			sim->cut_off_until_ms[node] =
				ks_clock_now(&sim->world.clock) + (int64_t)draw(sim, draw(sim, 3) ? 500 : 25000);
		return;
	case 15:
		if (sim->losses && draw(sim, 50) == 0)
			lose_tail(sim);
		return;
	case 16:
		if (!sim->world.nodes[node].log) {
			if (draw(sim, 5) == 0)
				world_start(&sim->world, node);
		} else if (sim->kills && draw(sim, 250) == 0) {
			kill_node(sim, node);
		}
		return;
	default:
		if (sim->world.nodes[node].log && draw(sim, 3) == 0)
			ks_log_expire(sim->world.nodes[node].log);
		world_step_role(&sim->world, node, (enum ks_log_role_id)draw(sim, KS_LOG_ROLES));
		return;
	}
}

static void choose_profile(struct sim *sim)
{
	static const unsigned ppms[] = {0, 2000, 20000, 100000};

	sim->fault_ppm = ppms[draw(sim, 4)];
	sim->doubts = draw(sim, 4) != 0;
	sim->cuts = draw(sim, 2);
	sim->losses = draw(sim, 4) == 0;
	sim->late = !sim->losses && draw(sim, 2); /* a promoted replica does not run the old server's statements */
	sim->kills = draw(sim, 3) == 0;
	sim->storm = draw(sim, 2);
	if (draw(sim, 3) == 0)
		sim->world.config.value_cache_bytes = 1;
	if (draw(sim, 3) == 0)
		sim->world.config.max_batch_entries = 1 + draw(sim, 4);
	sim->world.config.ahead = draw(sim, 4) ? KS_LOG_AHEAD_ALWAYS : KS_LOG_AHEAD_NEVER;
}

struct hash_chore {
	struct ks_chore chore;
	int done;
};

static void hash_done(struct ks_chore *chore)
{
	ks_container_of(chore, struct hash_chore, chore)->done++;
}

static bool hash_of(struct sim *sim, size_t node, struct ks_hash_result *hash)
{
	struct hash_chore chore = {.chore = {.kind = KS_CHORE_HASH_KV, .done = hash_done}};

	sim->world.nodes[node].committer->ops->chore(sim->world.nodes[node].committer, &chore.chore);
	if (!world_until(&sim->world, &chore.done) || chore.chore.err.status != KS_OK)
		return fail(sim, "HashKV on node %zu: %s", node, chore.chore.err.text);
	*hash = chore.chore.hash;
	return true;
}

static bool same_users(struct sim *sim, size_t node, const char *when)
{
	struct ks_auth *auth = ks_store_auth(sim->world.nodes[node].store);
	bool good = (int64_t)ks_auth_revision(auth) == truth_auth_revision(&sim->truth);

	for (int user = 0; user < TRUTH_USERS; user++) {
		const struct truth_user *truth = truth_user(&sim->truth, user);
		const struct ks_auth_user *found;
		char name[8];

		snprintf(name, sizeof(name), "u%d", user);
		found = ks_auth_find_user(auth, ks_slice_str(name));
		good = good && (found ? truth && (int64_t)found->credential == truth->revision : !truth);
	}
	ks_auth_unref(auth);
	return good || fail(sim, "%s: node %zu does not have the users that the log has", when, node);
}

static bool all_the_same(struct sim *sim, const char *when)
{
	struct ks_hash_result first = {0}, hash;

	for (size_t node = 0; node < sim->world.count; node++) {
		struct ks_lease_info *infos = NULL;
		size_t count = 0, alive = 0;

		for (int key = 0; key < TRUTH_KEYS; key++) {
			struct ks_range_result result;
			int64_t revision;
			bool good;

			if (!range_of(sim, node, key, &result, &revision))
				return false;
			good = same_kv(sim, key, revision, &result, when);
			ks_range_result_fini(&result);
			if (!good)
				return false;
			if (revision != truth_revision(&sim->truth))
				return fail(sim, "%s: node %zu ends at revision %" PRId64 " instead of %" PRId64, when,
					    node, revision, truth_revision(&sim->truth));
		}
		if (ks_store_leases(sim->world.nodes[node].store, &infos, &count) != KS_OK)
			return fail(sim, "leases");
		for (size_t i = 0; i < count; i++) {
			const struct truth_lease *lease = truth_lease(&sim->truth, infos[i].id);

			if (!lease || lease->revoked != SIZE_MAX || lease->ttl != infos[i].ttl)
				fail(sim, "%s: node %zu has lease %" PRId64, when, node, infos[i].id);
			ks_lease_info_fini(&infos[i]);
		}
		free(infos);
		for (size_t i = 0; i < sim->truth.lease_count; i++)
			alive += sim->truth.leases[i].revoked == SIZE_MAX;
		if (alive != count)
			return fail(sim, "%s: node %zu has %zu leases instead of %zu", when, node, count, alive);
		if (!same_users(sim, node, when))
			return false;
		if (!hash_of(sim, node, &hash))
			return false;
		if (node == 0)
			first = hash;
		if (hash.hash != first.hash || hash.compact_revision != first.compact_revision ||
		    hash.hash_revision != first.hash_revision)
			return fail(sim,
				    "%s: HashKV differs: node %zu %08x at %" PRId64 "/%" PRId64
				    ", node 0 %08x at %" PRId64 "/%" PRId64,
				    when, node, hash.hash, hash.hash_revision, hash.compact_revision, first.hash,
				    first.hash_revision, first.compact_revision);
	}
	return !sim->failure[0];
}

static bool drain_history(struct sim *sim, size_t node)
{
	for (int i = 0; i < 1000000; i++) {
		int64_t before = sim->scan_next[node];

		if (!scan_history(sim, node))
			return false;
		if (sim->scan_next[node] > truth_revision(&sim->truth))
			return true;
		(void)before;
	}
	return fail(sim, "history on node %zu does not end", node);
}

static bool count_unneeded(void *ctx, const struct sqlb_row *row)
{
	struct sim *sim = ctx;
	struct ks_loc loc = {row->position, row->sub};
	struct ks_effect effect = {
		.kind = (enum ks_effect_kind)row->kind,
		.key = row->key,
		.lease = row->lease,
		.payload = row->payload,
	};

	/* Of two compactions in one batch the store reports only one: the next housekeeper's scan finds the other. */
	if (row->kind == KS_EFFECT_COMPACT)
		return true;
	if (!ks_store_row_needed(sim->world.nodes[0].store, &effect, loc))
		fail(sim, "row (%" PRId64 ", %" PRId32 ") of kind %d should have been trimmed", row->position, row->sub,
		     row->kind);
	return true;
}

/* All faults stop; everything must come to rest, in the same state. */
static bool finish(struct sim *sim)
{
	struct ks_hash_result before, after;
	struct world_call compact;
	char value[32];

	sim->calm = true;
	sim->storm = sim->kills = sim->losses = false;
	memset(sim->cut_off_until_ms, 0, sizeof(sim->cut_off_until_ms));
	memset(sim->cut_op, 0, sizeof(sim->cut_op));
	for (size_t node = 0; node < sim->world.count; node++)
		if (!sim->world.nodes[node].log)
			world_start(&sim->world, node);
	/* Recording keeps up with what expiry writes. */
	for (int i = 0; i < (sim->lost_any ? 75000 : 45000); i += 10) { /* longer than an audit of the leases takes */
		world_run(&sim->world, 10);
		if (!collect(sim) || !leases_ended_in_time(sim))
			return false;
	}
	for (size_t i = 0; i < OPS_MAX; i++)
		if (sim->ops[i].used)
			return fail(sim, "a request of kind %d on node %zu was never answered", (int)sim->ops[i].kind,
				    sim->ops[i].node);
	if (!world_settled(&sim->world) || !collect(sim))
		return fail(sim, "the instances do not agree in the end");
	for (size_t i = 0; i < sim->truth.lease_count; i++)
		if (sim->truth.leases[i].revoked == SIZE_MAX)
			return fail(sim, "lease %" PRId64 " did not expire", sim->truth.leases[i].id);
	if (!all_the_same(sim, "at the end"))
		return false;
	for (size_t node = 0; node < sim->world.count; node++)
		if (!drain_history(sim, node))
			return false;
	/* After one more compaction everything that can be trimmed must be. */
	snprintf(value, sizeof(value), "v%" PRId64, ++sim->last_value);
	if (world_do_put(&sim->world, 0, "k0", value) < 0)
		return fail(sim, "the last put failed");
	world_compact(&sim->world, 0, &compact, truth_revision(&sim->truth));
	if (world_finish(&sim->world, &compact) != KS_OK)
		return fail(sim, "the last compaction failed: %s", compact.submit.err.text);
	world_run(&sim->world, 30000);
	if (!collect(sim) || !all_the_same(sim, "after the last compaction"))
		return false;
	sqlb_memory_visit(sim->world.name, count_unneeded, sim);
	if (sim->failure[0] || !hash_of(sim, 0, &before))
		return false;
	/* What was trimmed is not missed by a newcomer. */
	world_stop(&sim->world, 0);
	sim->scan_next[0] = 1;
	world_start(&sim->world, 0);
	for (int i = 0; i < 1000 && !atomic_load(&sim->world.nodes[0].log->loaded); i++)
		world_run(&sim->world, 10);
	if (!world_settled(&sim->world) || !collect(sim) || !all_the_same(sim, "after a restart") ||
	    !hash_of(sim, 0, &after))
		return fail(sim, "after a restart");
	if (before.hash != after.hash)
		return fail(sim, "HashKV after a restart is %08x instead of %08x", after.hash, before.hash);
	if (!drain_history(sim, 0))
		return false;
	for (int key = 0; key < PLAIN_KEYS; key++)
		if (!sim->lost_any && !sim->register_full[key] &&
		    linear_check(sim->registers[key], sim->register_count[key], 2000000) == LINEAR_NO)
			return fail(sim, "the history of k%d is not linearizable", key);
	return true;
}

static void show_nodes(const struct sim *sim)
{
	for (size_t i = 0; i < sim->world.count; i++) {
		const struct ks_log *log = sim->world.nodes[i].log;

		if (!log)
			continue;
		fprintf(stderr,
			"# node %zu: state %d applied %" PRId64
			" batch %zu doubt %d look %d | duty held %d new %d until %" PRId64 " least %" PRId64
			" compaction %" PRId64 " trim %zu/%zu blocked %" PRId64
			" scanning %d wanted %d compacting %d wanted %d\n",
			i, (int)log->writer.state, log->writer.applied.position, log->writer.batch.count,
			log->writer.batch.doubt, log->writer.look, log->side.duty_held, log->side.duty_new,
			log->side.duty_until_ms, log->side.least_applied, log->side.compaction.position,
			log->side.trim.start, log->side.trim.count, log->side.trim_blocked_ms, log->side.scanning,
			log->side.scan_wanted, log->side.compacting, log->side.compact_wanted);
	}
}

static bool run(struct sim *sim, uint64_t seed, int64_t steps)
{
	struct ks_err err;
	char url[64];
	int late_calls;
	bool good;

	memset(sim, 0, sizeof(*sim));
	sim->seed = sim->random = seed;
	truth_init(&sim->truth);
	world_init(&sim->world, 2 + draw(sim, 2));
	if (sim->seed & 1) /* a database that does not tell of changes */
		sim->world.ops.features &= ~(unsigned)SQLB_NOTIFIES;
	sim->world.ops.append_send = noting_send;
	sim->world.ops.append_receive = noting_receive;
	sim->world.ctx = sim;
	choose_profile(sim);
	late_calls = 1 + (int)draw(sim, 30);
	world_faults_on(&sim->world, sim->losses ? -1 : late_calls);
	snprintf(url, sizeof(url), "memory://%s", sim->world.name);
	KS_ASSERT(sqlb_memory_ops.open(url, NULL, &sim->db, &err) == KS_OK);
	KS_ASSERT(sqlb_memory_ops.connect(sim->db, &sim->recorder, &err) == SQLB_OK);
	for (size_t node = 0; node < sim->world.count; node++)
		world_start(&sim->world, node);
	sim->world.chaos = chaos;
	sim->world.stepped = after_step;
	while (sim->tick++ < steps && !sim->failure[0]) {
		act(sim);
		if (!collect(sim) || !leases_ended_in_time(sim))
			break;
	}
	good = !sim->failure[0] && finish(sim);
	if (!good)
		show_nodes(sim);
	world_fini(&sim->world);
	for (size_t i = 0; i < OPS_MAX; i++) /* what the end cut off */
		if (sim->ops[i].used && sim->ops[i].kind == OP_FETCH)
			ks_range_result_fini(&sim->ops[i].range);
		else if (sim->ops[i].used && sim->ops[i].write.done && sim->ops[i].write.submit.err.status == KS_OK)
			ks_result_fini(&sim->ops[i].write.submit.result);
	sqlb_memory_ops.disconnect(sim->recorder);
	sqlb_memory_ops.close(sim->db);
	if (verbose || !good)
		fprintf(stderr,
			"# seed %" PRIu64
			": nodes %zu faults %uppm%s%s%s%s%s%s: entries %zu acked %zu reads %zu refused %zu scans %zu "
			"fetches %zu compactions %zu leases %zu losses %zu kills %zu\n",
			seed, sim->world.count, sim->fault_ppm, sim->doubts ? " doubts" : "", sim->late ? " late" : "",
			sim->cuts ? " cuts" : "", sim->losses_done ? " losses" : "", sim->kills_done ? " kills" : "",
			sim->world.config.value_cache_bytes == 1 ? " tiny-cache" : "", sim->truth.entry_count,
			sim->acked, sim->reads, sim->refused, sim->scans, sim->fetches, sim->truth.compaction_count,
			sim->truth.lease_count, sim->losses_done, sim->kills_done);
	truth_fini(&sim->truth);
	return good;
}

int main(int argc, char **argv)
{
	struct sim *sim = ks_xcalloc(1, sizeof(*sim));
	uint64_t seed = 1;
	long runs = 0, steps = 6000, seconds = 15, done = 0;
	time_t began = time(NULL);
	bool good = true;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (strcmp(argv[i], "--verbose") == 0) {
			verbose = true;
			continue;
		}
		if (strcmp(argv[i], "--seed") == 0)
			seed = strtoull(value, NULL, 10);
		else if (strcmp(argv[i], "--steps") == 0)
			steps = strtol(value, NULL, 10);
		else if (strcmp(argv[i], "--runs") == 0)
			runs = strtol(value, NULL, 10);
		else if (strcmp(argv[i], "--seconds") == 0)
			seconds = strtol(value, NULL, 10);
		else {
			fprintf(stderr, "usage: sim [--seed N] [--steps M] [--runs K | --seconds S] [--verbose]\n");
			return 2;
		}
		i++;
	}
	ks_diag_setup(verbose && runs == 1 ? KS_DEBUG : KS_ERROR + 1, KS_DIAG_TEXT);
	for (; good && (runs ? done < runs : time(NULL) - began < seconds); done++) {
		good = run(sim, seed + (uint64_t)done, steps);
		if (!good)
			fprintf(stderr, "# %s\n# repeat with: sim --seed %" PRIu64 " --steps %ld --runs 1 --verbose\n",
				sim->failure, seed + (uint64_t)done, steps);
	}
	show_met();
	printf("1..1\n%sok 1 - sim: %ld runs of %ld steps from seed %" PRIu64 "\n", good ? "" : "not ", done, steps,
	       seed);
	free(sim);
	return good ? 0 : 1;
}
