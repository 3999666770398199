/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of alarms: versions of the list that never change, one for the committed view and one for the tail, the same
 * while the tail did nothing. NULL is the empty list.
 *
 * The payload of a KS_EFFECT_ALARM is etcd's AlarmMember, {1 memberID, 2 alarm}, and 3: 1 raised, 2 lifted.
 */
#ifndef KS_STORE_ALARM_PRIV_H
#define KS_STORE_ALARM_PRIV_H

#include "store/alarm.h"
#include "store/store_priv.h"

struct ks_alarm_slot {
	struct ks_alarm alarm;
	struct ks_loc loc; /* of the row that raised it */
};

struct ks_alarms {
	unsigned refs; /* by the writer, under the write lock */
	unsigned types;
	size_t count;
	struct ks_alarm_slot slots[]; /* ascending by member and kind */
};

struct ks_alarms *ks_alarms_ref(struct ks_alarms *alarms);
void ks_alarms_unref(struct ks_alarms *alarms);
static inline bool ks_alarms_any(const struct ks_alarms *alarms, enum ks_alarm_type type)
{
	return alarms && alarms->types & 1u << type;
}

/* False: malformed, or of a kind that this program does not know. */
bool ks_alarm_decode(struct ks_slice payload, struct ks_alarm *alarm, bool *raised) KS_MUST_CHECK;
/*
 * Makes *alarms the version after 'effect', whose payload is sound. Rows that nobody needs any more go to 'dropped' (may be NULL), in the
 * order in which they may be trimmed. False without memory, with nothing changed.
 */
bool ks_alarms_apply(struct ks_alarms **alarms, const struct ks_effect *effect, struct ks_loc loc,
		     struct ks_locs *dropped) KS_MUST_CHECK;
bool ks_alarms_row_needed(const struct ks_alarms *alarms, const struct ks_effect *effect, struct ks_loc loc);

/* A request on the tail's version: its effect, or none when nothing changes. *was_active tells what was before. */
enum ks_status ks_alarms_eval(const struct ks_alarms *alarms, const struct ks_alarm_req *req, bool *was_active,
			      struct ks_effects *effects, struct ks_err *err) KS_MUST_CHECK;
/* What active alarms forbid (spec 0.4, step 6). */
enum ks_status ks_alarms_allow(const struct ks_alarms *alarms, const struct ks_request *req,
			       struct ks_err *err) KS_MUST_CHECK;

#endif
