/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Alarms (spec 6.1): raised for a member, through the log, and active until they are lifted for the same member and kind. An active
 * alarm, whoever's it is, makes evaluation refuse writes: NOSPACE those that need room, CORRUPT all of keys and leases.
 *
 * Threads: any, but for what is the store's own (alarm_priv.h). They see the committed view.
 * Limits: KS_ALARMS_MOST active ones; more are refused with KS_RESOURCE_EXHAUSTED.
 */
#ifndef KS_STORE_ALARM_H
#define KS_STORE_ALARM_H

#include "store/store.h"

/* As etcdserverpb.AlarmType. */
enum ks_alarm_type { KS_ALARM_NONE, KS_ALARM_NOSPACE, KS_ALARM_CORRUPT };

#define KS_ALARMS_MOST 4096

struct ks_alarm {
	uint64_t member;
	enum ks_alarm_type type;
};

/* All active alarms in the order of members and kinds, malloc-ed, NULL when there are none. KS_RESOURCE_EXHAUSTED without
 * memory. */
enum ks_status ks_store_alarms(struct ks_store *store, struct ks_alarm **alarms, size_t *count) KS_MUST_CHECK;
/* The kinds of which some alarm is active, as bits: 1 << KS_ALARM_NOSPACE. */
unsigned ks_store_alarm_types(struct ks_store *store);
bool ks_store_alarm_active(struct ks_store *store, uint64_t member, enum ks_alarm_type type);
/* "NOSPACE", as etcd prints it. */
const char *ks_alarm_name(enum ks_alarm_type type);

#endif
