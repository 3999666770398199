/* SPDX-License-Identifier: Apache-2.0 */
#include "store/alarm.h"

#include <stdlib.h>

#include "store/alarm_priv.h"
#include "store/wire.h"

enum { FIELD_MEMBER = 1, FIELD_TYPE = 2, FIELD_CHANGE = 3 };
enum { CHANGE_RAISED = 1, CHANGE_LIFTED = 2 };
#define PAYLOAD_MOST 16 /* a tag and ten bytes, and two times two */

const char *ks_alarm_name(enum ks_alarm_type type)
{
	switch (type) {
	case KS_ALARM_NONE:
		break;
	case KS_ALARM_NOSPACE:
		return "NOSPACE";
	case KS_ALARM_CORRUPT:
		return "CORRUPT";
	}
	return "NONE";
}

/* ---- payloads ---- */

bool ks_alarm_decode(struct ks_slice payload, struct ks_alarm *alarm, bool *raised)
{
	uint64_t values[FIELD_CHANGE + 1] = {0};

	while (payload.size) {
		unsigned field, wire;

		if (!ks_wire_get_tag(&payload, &field, &wire) || field > FIELD_CHANGE || wire != KS_WIRE_VARINT ||
		    !ks_wire_get_varint(&payload, &values[field]))
			return false;
	}
	if ((values[FIELD_TYPE] != KS_ALARM_NOSPACE && values[FIELD_TYPE] != KS_ALARM_CORRUPT) ||
	    (values[FIELD_CHANGE] != CHANGE_RAISED && values[FIELD_CHANGE] != CHANGE_LIFTED))
		return false;
	*alarm = (struct ks_alarm){.member = values[FIELD_MEMBER], .type = (enum ks_alarm_type)values[FIELD_TYPE]};
	*raised = values[FIELD_CHANGE] == CHANGE_RAISED;
	return true;
}

static struct ks_bytes *encode(const struct ks_alarm *alarm, bool raised)
{
	uint8_t bytes[PAYLOAD_MOST], *out = bytes;
	uint64_t member = alarm->member;

	if (member) {
		*out++ = FIELD_MEMBER << 3;
		for (; member >= 0x80; member >>= 7)
			*out++ = (uint8_t)(member | 0x80);
		*out++ = (uint8_t)member;
	}
	*out++ = FIELD_TYPE << 3;
	*out++ = (uint8_t)alarm->type;
	*out++ = FIELD_CHANGE << 3;
	*out++ = raised ? CHANGE_RAISED : CHANGE_LIFTED;
	return ks_bytes_copy(ks_slice_of(bytes, (size_t)(out - bytes)));
}

/* ---- versions ---- */

struct ks_alarms *ks_alarms_ref(struct ks_alarms *alarms)
{
	if (alarms)
		alarms->refs++;
	return alarms;
}

void ks_alarms_unref(struct ks_alarms *alarms)
{
	if (alarms && --alarms->refs == 0)
		free(alarms);
}

/* Where the alarm is, or belongs. */
static size_t place_of(const struct ks_alarms *alarms, struct ks_alarm alarm, bool *found)
{
	size_t low = 0, high = alarms ? alarms->count : 0;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct ks_alarm *other = &alarms->slots[middle].alarm;

		if (other->member < alarm.member || (other->member == alarm.member && other->type < alarm.type))
			low = middle + 1;
		else
			high = middle;
	}
	*found = alarms && low < alarms->count && alarms->slots[low].alarm.member == alarm.member &&
		 alarms->slots[low].alarm.type == alarm.type;
	return low;
}

static struct ks_alarms *version(size_t count)
{
	struct ks_alarms *alarms = calloc(1, sizeof(*alarms) + count * sizeof(*alarms->slots));

	if (alarms) {
		alarms->refs = 1;
		alarms->count = count;
	}
	return alarms;
}

static void copy_slots(struct ks_alarms *to, size_t to_first, const struct ks_alarms *from, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++)
		to->slots[to_first + i] = from->slots[first + i];
}

static void note_types(struct ks_alarms *alarms)
{
	for (size_t i = 0; i < alarms->count; i++)
		alarms->types |= 1u << alarms->slots[i].alarm.type;
}

bool ks_alarms_apply(struct ks_alarms **alarms, const struct ks_effect *effect, struct ks_loc loc,
		     struct ks_locs *dropped)
{
	const struct ks_alarms *before = *alarms;
	size_t count = before ? before->count : 0, at;
	struct ks_alarms *after = NULL;
	struct ks_alarm alarm;
	bool raised, found;

	if (!ks_alarm_decode(effect->payload, &alarm, &raised))
		return false;
	at = place_of(before, alarm, &found);
	if (found == raised) {
		/* Raised twice, or lifted though not raised: what lay in between was trimmed. The first row is enough. */
		if (dropped)
			ks_locs_add(dropped, loc);
		return true;
	}
	if (raised || count > 1) {
		after = version(raised ? count + 1 : count - 1);
		if (!after)
			return false;
		copy_slots(after, 0, before, 0, at);
		copy_slots(after, raised ? at + 1 : at, before, raised ? at : at + 1, count - at - !raised);
		if (raised)
			after->slots[at] = (struct ks_alarm_slot){alarm, loc};
		note_types(after);
	}
	if (!raised && dropped) {
		ks_locs_add(dropped, before->slots[at].loc);
		ks_locs_add(dropped, loc);
	}
	ks_alarms_unref(*alarms);
	*alarms = after;
	return true;
}

bool ks_alarms_row_needed(const struct ks_alarms *alarms, const struct ks_effect *effect, struct ks_loc loc)
{
	struct ks_alarm alarm;
	bool raised, found;
	size_t at;

	if (!ks_alarm_decode(effect->payload, &alarm, &raised))
		return true;
	at = place_of(alarms, alarm, &found);
	return found && raised && alarms->slots[at].loc.position == loc.position &&
	       alarms->slots[at].loc.sub == loc.sub;
}

/* ---- evaluation ---- */

enum ks_status ks_alarms_eval(const struct ks_alarms *alarms, const struct ks_alarm_req *req, bool *was_active,
			      struct ks_effects *effects, struct ks_err *err)
{
	struct ks_alarm alarm = {.member = req->member, .type = (enum ks_alarm_type)req->type};
	struct ks_entry *entry = &effects->entry;
	struct ks_bytes *payload;

	*was_active = false;
	if (req->type != KS_ALARM_NOSPACE && req->type != KS_ALARM_CORRUPT)
		return KS_OK; /* never active */
	place_of(alarms, alarm, was_active);
	if (*was_active == req->activate)
		return KS_OK;
	if (req->activate && alarms && alarms->count >= KS_ALARMS_MOST)
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "etcdserver: too many alarms");
	payload = encode(&alarm, req->activate);
	effects->held = payload ? calloc(1, sizeof(struct ks_bytes *)) : NULL;
	entry->effects = effects->held ? calloc(1, sizeof(*entry->effects)) : NULL;
	if (!entry->effects) {
		ks_bytes_unref(payload);
		return ks_fail_memory(err); /* ks_effects_fini frees the rest */
	}
	effects->held[effects->held_count++] = payload;
	entry->effects[entry->effect_count++] =
		(struct ks_effect){.kind = KS_EFFECT_ALARM, .payload = ks_bytes_slice(payload)};
	effects->bytes += payload->size;
	return KS_OK;
}

static bool any_op(const struct ks_op *ops, size_t count, bool (*is)(const struct ks_op *op));

static bool any_op_of(const struct ks_txn_req *txn, bool (*is)(const struct ks_op *op))
{
	return any_op(txn->success, txn->success_count, is) || any_op(txn->failure, txn->failure_count, is);
}

/* In either branch, and in transactions in these. The depth was bounded when the request came in. */
static bool any_op(const struct ks_op *ops, size_t count, bool (*is)(const struct ks_op *op))
{
	for (size_t i = 0; i < count; i++)
		if (ops[i].kind == KS_OP_TXN ? any_op_of(ops[i].txn, is) : is(&ops[i]))
			return true;
	return false;
}

static bool is_put(const struct ks_op *op)
{
	return op->kind == KS_OP_PUT;
}

static bool is_change(const struct ks_op *op)
{
	return op->kind == KS_OP_PUT || op->kind == KS_OP_DELETE;
}

static bool needs_room(const struct ks_request *req)
{
	switch (req->kind) {
	case KS_REQ_PUT:
	case KS_REQ_LEASE_GRANT:
		return true;
	case KS_REQ_TXN:
		/* Any put gives the dearer branch a price, whether that branch would run or not. */
		return any_op_of(&req->txn, is_put);
	case KS_REQ_DELETE:
	case KS_REQ_COMPACT:
	case KS_REQ_LEASE_REVOKE:
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	return false;
}

static bool changes_keys_or_leases(const struct ks_request *req)
{
	switch (req->kind) {
	case KS_REQ_PUT:
	case KS_REQ_DELETE:
	case KS_REQ_COMPACT:
	case KS_REQ_LEASE_GRANT:
	case KS_REQ_LEASE_REVOKE:
		return true;
	case KS_REQ_TXN:
		return any_op_of(&req->txn, is_change);
	case KS_REQ_AUTH:
	case KS_REQ_ALARM:
		break;
	}
	return false;
}

enum ks_status ks_alarms_allow(const struct ks_alarms *alarms, const struct ks_request *req, struct ks_err *err)
{
	if (!alarms)
		return KS_OK;
	if (ks_alarms_any(alarms, KS_ALARM_CORRUPT) && changes_keys_or_leases(req))
		return ks_fail(err, KS_DATA_LOSS, "etcdserver: corrupt cluster");
	if (ks_alarms_any(alarms, KS_ALARM_NOSPACE) && needs_room(req))
		return ks_fail(err, KS_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded");
	return KS_OK;
}

/* ---- the committed view ---- */

enum ks_status ks_store_alarms(struct ks_store *store, struct ks_alarm **alarms, size_t *count)
{
	const struct ks_alarms *now;
	bool ok = true;

	*alarms = NULL;
	*count = 0;
	ks_lock_read(store);
	now = store->state->alarms;
	if (now) {
		*alarms = calloc(now->count, sizeof(**alarms));
		ok = *alarms != NULL;
		for (size_t i = 0; ok && i < now->count; i++)
			(*alarms)[(*count)++] = now->slots[i].alarm;
	}
	ks_unlock(store);
	return ok ? KS_OK : KS_RESOURCE_EXHAUSTED;
}

unsigned ks_store_alarm_types(struct ks_store *store)
{
	unsigned types;

	ks_lock_read(store);
	types = store->state->alarms ? store->state->alarms->types : 0;
	ks_unlock(store);
	return types;
}

bool ks_store_alarm_active(struct ks_store *store, uint64_t member, enum ks_alarm_type type)
{
	bool found;

	ks_lock_read(store);
	place_of(store->state->alarms, (struct ks_alarm){member, type}, &found);
	ks_unlock(store);
	return found;
}
