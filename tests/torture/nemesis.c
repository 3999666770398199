/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong: two threads, one for processes, the database and the disk, one for connections, compactions and
 * moves of the duty. Each draws from a deck of the kinds of faults that were asked for, shuffled by the seed, so that each kind comes
 * once before any comes twice; between two faults everything gets a moment to recover.
 *
 * The database is the tool's: a script that is called with a verb and a number, by which a database of several nodes chooses
 * one. "kill" (-9, all of its processes), "start" (returns when all of it answers; does nothing when it runs), "restart", "pause",
 * "resume", "isolate" and "rejoin" (a node), "sessions SECONDS" (ends sessions every 40 ms for so long), "fill" and "free" (the disk).
 */
#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/panic.h"
#include "tests/torture/torture.h"

extern char **environ;

struct hand {
	struct nemesis *nemesis;
	struct run *run;
	uint64_t random;
	const struct fault *deck[32];
	size_t deck_size, next;
	pthread_t thread;
};

struct nemesis {
	struct run *run;
	struct hand heavy, light;
};

struct fault {
	const char *kind;
	bool heavy;
	void (*strike)(struct hand *hand);
};

/* False: the run is over. */
static bool pause_for(struct hand *hand, long ms)
{
	for (int64_t end = now_ns() + ms * 1000000; now_ns() < end; sleep_ms(10))
		if (atomic_load(&hand->run->stop_nemesis))
			return false;
	return true;
}

static long some_ms(struct hand *hand, unsigned least, unsigned most)
{
	return (long)(least + draw(&hand->random, most - least));
}

static unsigned any_instance(struct hand *hand)
{
	return draw(&hand->random, hand->run->options.instances);
}

/* In a session of its own: a database that it starts must outlive this run, which the caller ends with all its processes. */
int run_tool(const struct run *run, const char *verb, const char *argument)
{
	char *args[] = {(char *)(uintptr_t)run->options.tool, (char *)(uintptr_t)verb, (char *)(uintptr_t)argument,
			NULL};
	posix_spawnattr_t attributes;
	pid_t pid;
	int status = -1;
	bool started;

	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
	started = run->options.tool && posix_spawn(&pid, run->options.tool, NULL, &attributes, args, environ) == 0;
	posix_spawnattr_destroy(&attributes);
	if (!started)
		return -1;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void tool(struct hand *hand, const char *verb, unsigned number)
{
	char text[16];
	int status;

	snprintf(text, sizeof(text), "%u", number);
	status = run_tool(hand->run, verb, text);
	if (status != 0)
		complain(hand->run, "the nemesis could not %s the database: status %d", verb, status);
}

/* ---- Processes and the database ---- */

static void strike_kill(struct hand *hand)
{
	unsigned number = any_instance(hand);

	record_fault(hand->run, "kill", "%s", hand->run->instances[number].name);
	instance_kill(hand->run, number);
	(void)pause_for(hand, some_ms(hand, 0, 1500));
	instance_start(hand->run, number);
}

static void strike_kill_all(struct hand *hand)
{
	record_fault(hand->run, "kill-all", "all instances");
	for (unsigned i = 0; i < hand->run->options.instances; i++)
		instance_kill(hand->run, i);
	(void)pause_for(hand, some_ms(hand, 0, 500));
	for (unsigned i = 0; i < hand->run->options.instances; i++)
		instance_start(hand->run, i);
}

static void strike_pause(struct hand *hand)
{
	unsigned number = any_instance(hand);
	long ms = draw(&hand->random, 5) ? some_ms(hand, 100, 3000) : some_ms(hand, 4000, 12000);

	record_fault(hand->run, "pause", "%s for %ld ms", hand->run->instances[number].name, ms);
	instance_pause(hand->run, number, true);
	(void)pause_for(hand, ms);
	instance_pause(hand->run, number, false);
}

static void strike_db_kill(struct hand *hand)
{
	unsigned number = draw(&hand->random, 1000);

	record_fault(hand->run, "db-kill", "the database, -9 (%u)", number);
	tool(hand, "kill", number);
	(void)pause_for(hand, some_ms(hand, 0, 1000));
	tool(hand, "start", number);
}

static void strike_db_restart(struct hand *hand)
{
	unsigned number = draw(&hand->random, 1000);

	record_fault(hand->run, "db-restart", "the database (%u)", number);
	tool(hand, "restart", number);
}

static void strike_db_pause(struct hand *hand)
{
	unsigned number = draw(&hand->random, 1000);
	long ms = draw(&hand->random, 5) ? some_ms(hand, 100, 3000) : some_ms(hand, 4000, 12000);

	record_fault(hand->run, "db-pause", "the database for %ld ms (%u)", ms, number);
	tool(hand, "pause", number);
	(void)pause_for(hand, ms);
	tool(hand, "resume", number);
}

static void strike_db_isolate(struct hand *hand)
{
	unsigned number = draw(&hand->random, 1000);
	long ms = some_ms(hand, 1000, 8000);

	record_fault(hand->run, "db-isolate", "a node for %ld ms (%u)", ms, number);
	tool(hand, "isolate", number);
	(void)pause_for(hand, ms);
	tool(hand, "rejoin", number);
}

static void strike_sessions(struct hand *hand)
{
	unsigned seconds = 1 + draw(&hand->random, 3);

	record_fault(hand->run, "sessions", "ends them every 40 ms for %u s", seconds);
	tool(hand, "sessions", seconds);
}

/* Large values meanwhile: a database may have room of its own for a while. */
static void strike_disk(struct hand *hand)
{
	struct etcdc *etcd = open_client(hand->run, any_instance(hand), true, 2000);
	unsigned number = draw(&hand->random, 1000);
	int64_t end_ns;

	record_fault(hand->run, "disk", "full (%u)", number);
	tool(hand, "fill", number);
	end_ns = now_ns() + some_ms(hand, 1000, 4000) * 1000000;
	while (now_ns() < end_ns && pause_for(hand, 5))
		record_large_put(hand->run, etcd);
	etcdc_close(etcd);
	tool(hand, "free", number);
	say("the disk has room again");
	tool(hand, "start", number);
}

/* ---- Connections ---- */

/* The relay of some instance's link; NULL: it has none. */
static struct relay *any_link(struct hand *hand, bool database, const char **text)
{
	struct instance *instance = &hand->run->instances[any_instance(hand)];

	*text = instance->name;
	return database ? instance->database : instance->clients;
}

static void strike_cut(struct hand *hand, bool database, enum relay_cut how, const char *kind)
{
	const char *text;
	struct relay *relay = any_link(hand, database, &text);
	unsigned times = 1 + draw(&hand->random, 5);

	record_fault(hand->run, kind, "%s, %u times", text, times);
	for (unsigned i = 0; i < times && pause_for(hand, some_ms(hand, 1, 300)); i++)
		(void)relay_cut(relay, how);
}

static void strike_hold(struct hand *hand, bool database, const char *kind)
{
	static const char *const names[] = {"", "", "to it", "from it", "both ways"};
	const char *text;
	struct relay *relay = any_link(hand, database, &text);
	enum relay_mode mode = RELAY_HOLD_TO + draw(&hand->random, 3);
	long ms = draw(&hand->random, 4) ? some_ms(hand, 100, 3000) : some_ms(hand, 5000, 12000);
	bool lost = draw(&hand->random, 2);

	record_fault(hand->run, kind, "%s %s for %ld ms%s", text, names[mode], ms, lost ? ", then cut" : "");
	relay_set_mode(relay, mode);
	(void)pause_for(hand, ms);
	if (lost)
		(void)relay_cut(relay, RELAY_CUT_RESET);
	relay_set_mode(relay, RELAY_PASS);
}

/* Requests arrive and are done, their answers never come: that is where doubt lies. */
static void strike_lose(struct hand *hand, bool database, const char *kind)
{
	const char *text;
	struct relay *relay = any_link(hand, database, &text);
	unsigned times = 1 + draw(&hand->random, 5);

	record_fault(hand->run, kind, "%s, %u times", text, times);
	for (unsigned i = 0; i < times; i++) {
		relay_set_mode(relay, RELAY_HOLD_FROM);
		(void)pause_for(hand, some_ms(hand, 10, 100));
		(void)relay_cut(relay, RELAY_CUT_RESET);
		(void)pause_for(hand, 60); /* until all have noticed */
		relay_set_mode(relay, RELAY_PASS);
		(void)pause_for(hand, some_ms(hand, 100, 400));
	}
}

static void strike_delay(struct hand *hand, bool database, const char *kind)
{
	const char *text;
	struct relay *relay = any_link(hand, database, &text);
	int delay_ms = (int)some_ms(hand, 2, 120);

	record_fault(hand->run, kind, "%s, up to %d ms", text, delay_ms);
	relay_set_delay(relay, delay_ms);
	(void)pause_for(hand, some_ms(hand, 500, 3000));
	relay_set_delay(relay, 0);
}

static void strike_refuse(struct hand *hand, bool database, const char *kind)
{
	const char *text;
	struct relay *relay = any_link(hand, database, &text);

	record_fault(hand->run, kind, "%s", text);
	relay_set_mode(relay, RELAY_REFUSE);
	(void)relay_cut(relay, RELAY_CUT_RESET);
	(void)pause_for(hand, some_ms(hand, 200, 2000));
	relay_set_mode(relay, RELAY_PASS);
}

static void strike_reset(struct hand *hand)
{
	strike_cut(hand, false, RELAY_CUT_RESET, "cut");
}

static void strike_middle(struct hand *hand)
{
	strike_cut(hand, false, RELAY_CUT_MIDDLE, "cut-middle");
}

static void strike_half(struct hand *hand)
{
	strike_cut(hand, false, RELAY_CUT_HALF, "half-close");
}

static void strike_client_lose(struct hand *hand)
{
	strike_lose(hand, false, "lose-answer");
}

static void strike_db_lose(struct hand *hand)
{
	strike_lose(hand, true, "db-lose-answer");
}

static void strike_client_hold(struct hand *hand)
{
	strike_hold(hand, false, "hold");
}

static void strike_client_delay(struct hand *hand)
{
	strike_delay(hand, false, "delay");
}

static void strike_client_refuse(struct hand *hand)
{
	strike_refuse(hand, false, "refuse");
}

static void strike_db_close(struct hand *hand)
{
	strike_cut(hand, true, draw(&hand->random, 2) ? RELAY_CUT_CLOSE : RELAY_CUT_RESET, "db-cut");
}

static void strike_db_middle(struct hand *hand)
{
	strike_cut(hand, true, RELAY_CUT_MIDDLE, "db-cut-middle");
}

static void strike_db_half(struct hand *hand)
{
	strike_cut(hand, true, RELAY_CUT_HALF, "db-half-close");
}

static void strike_db_hold(struct hand *hand)
{
	strike_hold(hand, true, "db-hold");
}

static void strike_db_delay(struct hand *hand)
{
	strike_delay(hand, true, "db-delay");
}

static void strike_db_refuse(struct hand *hand)
{
	strike_refuse(hand, true, "db-refuse");
}

/* ---- Requests ---- */

/* To a revision that all watchers of everything have passed: only they know what the log was. */
static void strike_compact(struct hand *hand)
{
	struct run *run = hand->run;
	Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
	Etcdserverpb__CompactionResponse *response = NULL;
	struct op op = {.kind = OP_COMPACT, .name = "compact", .client = UINT16_MAX};
	struct etcdc_err err = {0};
	struct etcdc *etcd;
	int64_t limit = INT64_MAX, oldest = atomic_load(&run->compact_asked);

	for (unsigned i = 0; i < REFERENCES; i++)
		if (atomic_load(&run->told[i]) < limit)
			limit = atomic_load(&run->told[i]);
	limit--;
	oldest = oldest < run->first ? run->first : oldest;
	if (limit <= oldest)
		return;
	/* Now and then as far as possible, so that slow watchers are overtaken. */
	op.at = draw(&hand->random, 3) ? oldest + 1 + (int64_t)draw(&hand->random, (unsigned)(limit - oldest)) : limit;
	request.revision = op.at;
	request.physical = draw(&hand->random, 4) == 0;
	record_fault(run, "compact", "at %" PRId64 "%s", op.at, request.physical ? ", physically" : "");
	see_revision(&run->compact_asked, op.at);
	etcd = open_client(run, any_instance(hand), true, 4000);
	op.start_ns = now_ns();
	op.outcome = OP_UNKNOWN;
	if (etcdc_compact(etcd, &request, &response, &err) == KS_OK) {
		op.outcome = OP_OK;
		op.revision = response->header->revision;
	}
	op.end_ns = now_ns();
	record_op(run, &op);
	etcdc_free(response);
	etcdc_close(etcd);
}

static void strike_move(struct hand *hand)
{
	Etcdserverpb__MemberListRequest list = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
	Etcdserverpb__MemberListResponse *members = NULL;
	Etcdserverpb__MoveLeaderRequest move = ETCDSERVERPB__MOVE_LEADER_REQUEST__INIT;
	Etcdserverpb__MoveLeaderResponse *moved = NULL;
	struct etcdc *etcd = open_client(hand->run, any_instance(hand), false, 2000);
	struct etcdc_err err = {0};

	if (etcdc_member_list(etcd, &list, &members, &err) == KS_OK && members->n_members > 0) {
		move.targetid = members->members[draw(&hand->random, (unsigned)members->n_members)]->id;
		record_fault(hand->run, "move", "the duty goes to %" PRIx64, move.targetid);
		(void)etcdc_move_leader(etcd, &move, &moved, &err);
	}
	etcdc_free(members);
	etcdc_free(moved);
	etcdc_close(etcd);
}

static void strike_defragment(struct hand *hand)
{
	Etcdserverpb__DefragmentRequest request = ETCDSERVERPB__DEFRAGMENT_REQUEST__INIT;
	Etcdserverpb__DefragmentResponse *response = NULL;
	struct etcdc *etcd = open_client(hand->run, any_instance(hand), false, 5000);

	record_fault(hand->run, "defragment", "the database");
	(void)etcdc_defragment(etcd, &request, &response, NULL);
	etcdc_free(response);
	etcdc_close(etcd);
}

/* ---- The decks ---- */

static const struct fault faults[] = {
	{"kill", true, strike_kill},
	{"pause", true, strike_pause},
	{"kill-all", true, strike_kill_all},
	{"db-kill", true, strike_db_kill},
	{"db-restart", true, strike_db_restart},
	{"db-pause", true, strike_db_pause},
	{"db-isolate", true, strike_db_isolate},
	{"sessions", true, strike_sessions},
	{"disk", true, strike_disk},
	{"cut", false, strike_reset},
	{"cut-middle", false, strike_middle},
	{"half-close", false, strike_half},
	{"lose-answer", false, strike_client_lose},
	{"hold", false, strike_client_hold},
	{"delay", false, strike_client_delay},
	{"refuse", false, strike_client_refuse},
	{"db-cut", false, strike_db_close},
	{"db-cut-middle", false, strike_db_middle},
	{"db-half-close", false, strike_db_half},
	{"db-lose-answer", false, strike_db_lose},
	{"db-hold", false, strike_db_hold},
	{"db-delay", false, strike_db_delay},
	{"db-refuse", false, strike_db_refuse},
	{"compact", false, strike_compact},
	{"move", false, strike_move},
	{"defragment", false, strike_defragment},
};

static void shuffle(struct hand *hand)
{
	for (size_t i = hand->deck_size; i > 1; i--) {
		size_t other = draw(&hand->random, (unsigned)i);
		const struct fault *fault = hand->deck[i - 1];

		hand->deck[i - 1] = hand->deck[other];
		hand->deck[other] = fault;
	}
	hand->next = 0;
}

static void *hand_run(void *arg)
{
	struct hand *hand = arg;

	while (pause_for(hand, some_ms(hand, 200, hand == &hand->nemesis->heavy ? 2000 : 600))) {
		hand->deck[hand->next++]->strike(hand);
		if (hand->next == hand->deck_size)
			shuffle(hand);
	}
	return NULL;
}

static void deal(struct nemesis *nemesis, const struct fault *fault)
{
	struct hand *hand = fault->heavy ? &nemesis->heavy : &nemesis->light;

	hand->deck[hand->deck_size++] = fault;
}

static void hand_start(struct hand *hand, struct nemesis *nemesis, uint64_t seed)
{
	hand->nemesis = nemesis;
	hand->run = nemesis->run;
	hand->random = seed;
	if (!hand->deck_size)
		return;
	shuffle(hand);
	KS_ASSERT(pthread_create(&hand->thread, NULL, hand_run, hand) == 0);
}

struct nemesis *nemesis_start(struct run *run)
{
	struct nemesis *nemesis = ks_xcalloc(1, sizeof(*nemesis));
	char *kinds = ks_xstrdup(run->options.nemesis);
	char *rest = NULL;

	nemesis->run = run;
	for (char *kind = strtok_r(kinds, ",", &rest); kind; kind = strtok_r(NULL, ",", &rest)) {
		size_t i = 0;

		while (i < sizeof(faults) / sizeof(faults[0]) && strcmp(faults[i].kind, kind))
			i++;
		if (i == sizeof(faults) / sizeof(faults[0])) {
			say("there is no fault \"%s\"", kind);
			exit(2);
		}
		if (!strncmp(kind, "db-", 3) && !run->options.db_port_count) {
			say("a database that is a file has no fault \"%s\"", kind);
			exit(2);
		}
		deal(nemesis, &faults[i]);
	}
	free(kinds);
	hand_start(&nemesis->heavy, nemesis, (uint64_t)run->options.seed << 32 | 7001);
	hand_start(&nemesis->light, nemesis, (uint64_t)run->options.seed << 32 | 7002);
	return nemesis;
}

/* Every fault undoes itself before its thread looks whether it is to end. */
void nemesis_stop(struct nemesis *nemesis)
{
	atomic_store(&nemesis->run->stop_nemesis, true);
	if (nemesis->heavy.deck_size)
		pthread_join(nemesis->heavy.thread, NULL);
	if (nemesis->light.deck_size)
		pthread_join(nemesis->light.thread, NULL);
	if (nemesis->run->options.tool && run_tool(nemesis->run, "start", NULL) != 0)
		complain(nemesis->run, "the database does not come back");
	free(nemesis);
}
