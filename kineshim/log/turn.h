/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose turn it is to append. The unique key of the log decides who was faster, and that is all that correctness needs; but when
 * several instances write at full speed most of them would lose most of the time, and each loss is a batch that was evaluated and
 * sent in vain. So they take turns, without a word to each other: everybody sees the same entries in the same order with their
 * writers, and from that alone follows whose turn it is.
 *
 *	run    appends of one writer without another's between them. It is over after KS_TURN_ENTRIES entries: whoever has many waiting
 *	       appends once, and lets the next one append as many. Or after KS_TURN_APPENDS appends: to hand over after each small
 *	       one would take as long as the append.
 *	next   among those who wrote lately, whoever was served longest ago.
 *
 * Only busy ones are waited for: those that come back sooner than in KS_TURN_BUSY times their patience, or with many entries. Whoever appends now and then
 * is hardly ever in the way, and a conflict costs it less than to wait for others each time.
 *
 * An instance with something to append goes on while its own run is not over. After that it waits for the others' patience, one after
 * the other; who is next waits for the end of the run, and those behind it also for the ones before them. All this is a guess about
 * others who may have nothing to append, be slow or dead: so each has its patience, twice what it took lately to follow, and who did
 * not come is not waited for again before it was seen. Nobody waits for longer than KS_TURN_MOST_MS altogether. Without others, nobody
 * waits; but an instance that appends without a break leaves room now and then for one that it cannot know of yet.
 *
 * Who waits learns nothing of use before the last one before it has appended, and each look costs as much as dozens of entries. So
 * the first look is when seven eighths of the time have passed that this took lately, and then there is one every sixteenth of it. When
 * the first look finds it to be our turn already, the next round's comes earlier. Where a run is several small appends its end is a
 * silence, which must be noticed when it begins: there is a look every millisecond.
 *
 * A pure state machine that is told the time. Owner: none inside. One thread. Limits: remembers KS_TURN_OTHERS writers.
 */
#ifndef KS_LOG_TURN_H
#define KS_LOG_TURN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KS_TURN_ENTRIES 8
#define KS_TURN_APPENDS 4
#define KS_TURN_LATELY_MS 1000
#define KS_TURN_BUSY 8
#define KS_TURN_LEAST_MS 3 /* patience */
/* The longest patience, and the longest wait altogether, on a database that is not slow: (append_ms) are added for one that is. */
#define KS_TURN_PATIENT_MS(append_ms) (150 + 4 * (append_ms))
#define KS_TURN_MOST_MS(append_ms) (500 + 10 * (append_ms))
#define KS_TURN_APPEND_MS 200 /* a longer one counts as this */
#define KS_TURN_ROOM_MS 50    /* at most so often room is left for the unknown */
#define KS_TURN_LOOK_MS 50    /* after so long there is a look in any case */
#define KS_TURN_AGAIN_MS 5    /* and then at least every so often */
#define KS_TURN_LULL_MS 3     /* after an own append, before others are looked for */
#define KS_TURN_OTHERS 15

struct ks_turn_other {
	int64_t writer;
	int64_t seen_ms;     /* when entries of it were seen last */
	int64_t interval_us; /* between its appends, a moving average; -1: not known, there was one */
	int64_t response_us; /* how long it took lately to follow another's run, a moving average; -1: not known */
	uint64_t served;     /* ks_turn.appends at its last one */
	size_t entries;      /* of its last append */
	bool passed;         /* it did not come when it was its turn: not waited for until it is seen */
};

struct ks_turn {
	int64_t self; /* writer */
	struct ks_turn_other others[KS_TURN_OTHERS];
	size_t count;
	uint64_t appends; /* ever seen, in the order of the log */
	uint64_t served;  /* at the last one of our own */
	int64_t owner;    /* writer of the newest entry; 0: none was seen */
	int64_t batch;
	size_t run_appends, run_entries; /* of the owner */
	int64_t since_ms;                /* when its newest append was seen */
	int64_t waiting_ms;              /* since when we have something to append, -1: we have not */
	int64_t room_ms;                 /* when there was room for others last */
	int64_t append_ms;               /* of the last ks_turn_wait */
	int64_t own_ms;                  /* when the newest of our own was seen */
	int64_t round_us; /* from there until the others' appends made it our turn, a moving average; -1: not known */
	bool came;        /* it was our turn since then */
	int64_t look_ms;  /* set by ks_turn_wait: when to look what others appended; 0: nobody is waited for */
};

void ks_turn_init(struct ks_turn *turn, int64_t self);
/* The next entry of the log, also of our own. */
void ks_turn_entry(struct ks_turn *turn, int64_t writer, int64_t batch, int64_t now_ms);
/* There is nothing to append. */
void ks_turn_idle(struct ks_turn *turn, int64_t now_ms);
/* There is nothing to append, but there was just now: for so long more is likely to come, and nobody need look at the log before. */
int64_t ks_turn_lull(const struct ks_turn *turn, int64_t now_ms);
/*
 * There is: how many milliseconds to wait before it is tried, unless entries come meanwhile; 0: now. 'append_ms' is what an append
 * of our own takes; 'others': there are other instances.
 */
int64_t ks_turn_wait(struct ks_turn *turn, int64_t append_ms, bool others, int64_t now_ms);

#endif
