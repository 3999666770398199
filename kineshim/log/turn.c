/* SPDX-License-Identifier: Apache-2.0 */
/* Whose turn it is to append; turn.h has the rules. */
#include "log/turn.h"

#define ROOM_APPENDS 16 /* room is left at most after so many times the duration of an append */

void ks_turn_init(struct ks_turn *turn, int64_t self)
{
	*turn = (struct ks_turn){.self = self, .waiting_ms = -1, .round_us = -1};
}

/* A writer that was not known takes the place of the one that was seen longest ago. */
static struct ks_turn_other *other(struct ks_turn *turn, int64_t writer)
{
	struct ks_turn_other *oldest = &turn->others[0];

	for (size_t i = 0; i < turn->count; i++) {
		if (turn->others[i].writer == writer)
			return &turn->others[i];
		if (turn->others[i].served < oldest->served)
			oldest = &turn->others[i];
	}
	if (turn->count < KS_TURN_OTHERS)
		oldest = &turn->others[turn->count++];
	*oldest = (struct ks_turn_other){.writer = writer, .seen_ms = -1, .interval_us = -1, .response_us = -1};
	return oldest;
}

/*
 * It followed another's run while we waited: how long did it take? Grows at once and shrinks slowly: to wait a little too long costs
 * less than to be in each other's way.
 */
static void learn_response(const struct ks_turn *turn, struct ks_turn_other *one, int64_t now_ms)
{
	int64_t since_ms = turn->since_ms > turn->waiting_ms ? turn->since_ms : turn->waiting_ms;
	int64_t took_us = (now_ms - since_ms) * 1000;

	if (turn->waiting_ms < 0 || one->writer == turn->owner || now_ms == turn->since_ms ||
	    took_us > KS_TURN_PATIENT_MS(turn->append_ms) * 1000)
		return;
	if (one->response_us < 0)
		one->response_us = took_us;
	else if (took_us > one->response_us)
		one->response_us += (took_us - one->response_us) / 2;
	else
		one->response_us -= (one->response_us - took_us) / 8;
}

static void learn_interval(struct ks_turn_other *one, int64_t now_ms)
{
	int64_t took_us = (now_ms - one->seen_ms) * 1000;

	if (one->seen_ms < 0)
		return;
	if (took_us > KS_TURN_LATELY_MS * 1000)
		took_us = KS_TURN_LATELY_MS * 1000;
	if (one->interval_us < 0)
		one->interval_us = took_us;
	else
		one->interval_us += (took_us - one->interval_us) / 4;
}

/*
 * It is our turn because others appended, for the first time since our own append: what comes after that is a race, and says nothing of
 * when to look. Nor does it when we had nothing to append meanwhile. Shrinks quickly: nobody else would notice that the first look is
 * too late.
 */
static void learn_round(struct ks_turn *turn)
{
	int64_t took_us = (turn->since_ms - turn->own_ms) * 1000;

	if (turn->came || turn->owner == turn->self || !turn->served)
		return;
	turn->came = true;
	if (took_us > KS_TURN_LATELY_MS * 1000 || 2 * (turn->waiting_ms - turn->own_ms) * 1000 > took_us)
		return;
	if (turn->round_us < 0)
		turn->round_us = took_us;
	else
		turn->round_us += (took_us - turn->round_us) / (took_us < turn->round_us ? 2 : 4);
}

void ks_turn_entry(struct ks_turn *turn, int64_t writer, int64_t batch, int64_t now_ms)
{
	struct ks_turn_other *one;

	if (writer == turn->owner && batch == turn->batch) {
		turn->run_entries++;
		if (writer != turn->self)
			other(turn, writer)->entries++;
		return;
	}
	turn->appends++;
	if (writer == turn->self) {
		turn->own_ms = now_ms;
		turn->came = false;
		turn->served = turn->appends;
		turn->waiting_ms = -1;
	} else {
		one = other(turn, writer);
		learn_response(turn, one, now_ms);
		learn_interval(one, now_ms);
		one->served = turn->appends;
		one->seen_ms = now_ms;
		one->passed = false;
		one->entries = 1;
		turn->room_ms = now_ms;
	}
	if (writer != turn->owner)
		turn->run_appends = turn->run_entries = 0;
	turn->run_appends++;
	turn->run_entries++;
	turn->owner = writer;
	turn->batch = batch;
	turn->since_ms = now_ms;
}

void ks_turn_idle(struct ks_turn *turn, int64_t now_ms)
{
	turn->waiting_ms = -1;
	turn->room_ms = now_ms;
}

int64_t ks_turn_lull(const struct ks_turn *turn, int64_t now_ms)
{
	if (turn->owner != turn->self)
		return 0;
	/* Of small appends several may follow each other, also of others: who does not hear of them at once is in their way. */
	for (size_t i = 0; i < turn->count; i++)
		if (turn->run_entries < KS_TURN_ENTRIES && now_ms - turn->others[i].seen_ms < KS_TURN_LATELY_MS)
			return 0;
	return turn->own_ms + KS_TURN_LULL_MS - now_ms;
}

static int64_t patience_ms(const struct ks_turn *turn, const struct ks_turn_other *one)
{
	int64_t ms = one->response_us < 0 ? 3 * turn->append_ms + 1 : (2 * one->response_us + 999) / 1000;
	int64_t most_ms = KS_TURN_PATIENT_MS(turn->append_ms);

	if (ms < KS_TURN_LEAST_MS)
		return KS_TURN_LEAST_MS;
	return ms < most_ms ? ms : most_ms;
}

static bool run_is_over(const struct ks_turn *turn)
{
	return turn->run_entries >= KS_TURN_ENTRIES || turn->run_appends >= KS_TURN_APPENDS;
}

/* One that comes seldom because it never wins comes with all that has gathered. */
static bool is_busy(const struct ks_turn *turn, const struct ks_turn_other *one)
{
	if (one->entries >= KS_TURN_ENTRIES)
		return true;
	return one->interval_us >= 0 && one->interval_us <= KS_TURN_BUSY * 1000 * patience_ms(turn, one);
}

/* Does 'one' come before us? */
static bool goes_first(const struct ks_turn *turn, const struct ks_turn_other *one, int64_t now_ms)
{
	if (one->passed || now_ms - one->seen_ms >= KS_TURN_LATELY_MS || !is_busy(turn, one))
		return false;
	if (one->writer == turn->owner)
		return !run_is_over(turn);
	return turn->owner == turn->self || one->served < turn->served;
}

/* For instances that nobody knows of because they never won. */
static int64_t leave_room(struct ks_turn *turn, int64_t now_ms)
{
	int64_t every_ms = ROOM_APPENDS * turn->append_ms;
	int64_t until_ms = turn->since_ms + turn->append_ms + 1;

	if (now_ms - turn->room_ms < (every_ms > KS_TURN_ROOM_MS ? every_ms : KS_TURN_ROOM_MS))
		return 0;
	if (until_ms > now_ms)
		return until_ms - now_ms;
	turn->room_ms = now_ms;
	return 0;
}

/* large: one append of each that is waited for is its turn. Else it is a matter of their silence, which begins when we look. */
static int64_t look_ms(const struct ks_turn *turn, bool large, int64_t now_ms)
{
	int64_t first_ms = turn->round_us * 7 / 8 / 1000, again_ms = turn->round_us / 16 / 1000;

	if (!large)
		return now_ms + 1;
	first_ms = turn->own_ms + (first_ms < KS_TURN_LOOK_MS ? first_ms : KS_TURN_LOOK_MS);
	again_ms = now_ms + (again_ms < 1 ? 1 : again_ms < KS_TURN_AGAIN_MS ? again_ms : KS_TURN_AGAIN_MS);
	return turn->round_us >= 0 && first_ms > again_ms ? first_ms : again_ms;
}

int64_t ks_turn_wait(struct ks_turn *turn, int64_t append_ms, bool others, int64_t now_ms)
{
	int64_t until_ms = turn->since_ms;
	bool waits = false, large = true;

	turn->look_ms = 0;
	turn->append_ms = append_ms < KS_TURN_APPEND_MS ? append_ms : KS_TURN_APPEND_MS;
	if (turn->waiting_ms < 0)
		turn->waiting_ms = now_ms;
	if (now_ms - turn->waiting_ms >= KS_TURN_MOST_MS(turn->append_ms) ||
	    (turn->owner == turn->self && !run_is_over(turn)))
		return 0;
	for (size_t i = 0; i < turn->count; i++) {
		if (!goes_first(turn, &turn->others[i], now_ms))
			continue;
		waits = true;
		large = large && turn->others[i].entries >= KS_TURN_ENTRIES;
		until_ms += patience_ms(turn, &turn->others[i]);
	}
	if (!waits)
		learn_round(turn);
	if (!waits)
		return others && turn->owner == turn->self ? leave_room(turn, now_ms) : 0;
	if (until_ms > now_ms) {
		turn->look_ms = look_ms(turn, large, now_ms);
		return until_ms - now_ms;
	}
	for (size_t i = 0; i < turn->count; i++)
		if (goes_first(turn, &turn->others[i], now_ms))
			turn->others[i].passed = true;
	if (turn->owner == turn->self)
		turn->run_appends = turn->run_entries = 0;
	turn->room_ms = now_ms;
	return 0;
}
