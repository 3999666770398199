/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries of the log become changes of the tail. They come from a database that other programs and people can write to, so
 * what memory safety or the order of things rests on is checked first, before anything changes; what they say of versions
 * and revisions of keys is believed, for every replica must arrive at the same state.
 */
#include "base/panic.h"
#include "store/alarm_priv.h"
#include "store/auth_codec.h"
#include "store/auth_priv.h"
#include "store/store_priv.h"

static enum ks_status misfit(struct ks_err *err, const struct ks_entry *entry, const char *why)
{
	return ks_fail(err, KS_DATA_LOSS, "the log's entry at position %lld does not fit: %s",
		       (long long)entry->position, why);
}

static int32_t sub_of(const struct ks_entry *entry, size_t i)
{
	return entry->subs ? entry->subs[i] : (int32_t)i;
}

static const char *auth_fault(const struct ks_effect *effect)
{
	struct ks_auth_record record;

	if (effect->version < 1 || effect->version > INT64_MAX / 2)
		return "an auth revision is out of range";
	return ks_auth_decode(effect->payload, &record) ? NULL : "a user, role or switch is malformed";
}

/* NULL when the effect is sound in itself. */
static const char *effect_fault(const struct ks_entry *entry, const struct ks_effect *effect)
{
	struct ks_alarm alarm;
	bool raised;

	switch (effect->kind) {
	case KS_EFFECT_PUT:
		if (effect->create_revision < 1 || effect->create_revision > entry->revision)
			return "a put's create revision is out of range";
		if (effect->version < 1)
			return "a put's version is out of range";
		__attribute__((fallthrough));
	case KS_EFFECT_DELETE:
		return effect->key.size ? NULL : "a key is empty";
	case KS_EFFECT_LEASE_GRANT:
		if (effect->version < 0)
			return "a lease's time to live is negative";
		__attribute__((fallthrough));
	case KS_EFFECT_LEASE_REVOKE:
		return effect->lease ? NULL : "a lease has no id";
	case KS_EFFECT_COMPACT:
		return effect->version >= 0 && effect->version <= entry->revision ? NULL
										  : "a compaction is out of range";
	case KS_EFFECT_NOOP:
		return NULL;
	case KS_EFFECT_AUTH:
		return auth_fault(effect);
	case KS_EFFECT_ALARM:
		return ks_alarm_decode(effect->payload, &alarm, &raised) ? NULL : "an alarm is malformed";
	case KS_EFFECT_IMPORT:
		return effect->payload.size ? NULL : "an import has no source";
	}
	return "an effect is of an unknown kind";
}

static enum ks_status check(const struct ks_state *state, bool sparse, const struct ks_entry *entry, struct ks_err *err)
{
	const struct ks_point *tail = &state->tail;
	bool has_keys = false;

	if (entry->position <= tail->position || (!state->direct && entry->position != tail->position + 1))
		return misfit(err, entry, "it does not follow what was applied last");
	if (entry->revision < 1 || entry->revision > INT64_MAX / 2 || entry->effect_count > INT32_MAX)
		return misfit(err, entry, "a number is out of range");
	for (size_t i = 0; i < entry->effect_count; i++) {
		const struct ks_effect *effect = &entry->effects[i];
		const char *fault = effect_fault(entry, effect);

		if (fault)
			return misfit(err, entry, fault);
		if (sub_of(entry, i) < 0 || (i > 0 && sub_of(entry, i) <= sub_of(entry, i - 1)))
			return misfit(err, entry, "its rows are out of order");
		has_keys = has_keys || effect->kind == KS_EFFECT_PUT || effect->kind == KS_EFFECT_DELETE;
	}
	if (entry->revision < tail->revision + has_keys ||
	    (!state->direct && !sparse && entry->revision != tail->revision + has_keys))
		return misfit(err, entry, "its revision does not follow the one before");
	return KS_OK;
}

static bool apply_key(struct ks_state *state, const struct ks_entry *entry, size_t i)
{
	const struct ks_effect *effect = &entry->effects[i];
	struct ks_change change = {
		.revision = entry->revision,
		.position = entry->position,
		.sub = sub_of(entry, i),
	};

	if (effect->kind == KS_EFFECT_PUT) {
		change.create_revision = effect->create_revision;
		change.version = effect->version;
		change.lease = effect->lease;
		change.value = effect->value;
	}
	return ks_state_append_named(state, effect->key, &change) != NULL;
}

static bool apply_lease(struct ks_state *state, const struct ks_effect *effect, struct ks_loc loc)
{
	struct ks_lease *lease = ks_leases_find_tail(&state->leases, effect->lease);

	/* A second grant replaces the first; the revoke between the two was trimmed. */
	if (lease && !ks_state_revoke(state, lease, loc))
		return false;
	return effect->kind == KS_EFFECT_LEASE_REVOKE || ks_state_grant(state, effect->lease, effect->version, loc);
}

static bool apply_effect(struct ks_state *state, const struct ks_entry *entry, size_t i)
{
	const struct ks_effect *effect = &entry->effects[i];
	struct ks_loc loc = {.position = entry->position, .sub = sub_of(entry, i)};

	switch (effect->kind) {
	case KS_EFFECT_PUT:
	case KS_EFFECT_DELETE:
		return apply_key(state, entry, i);
	case KS_EFFECT_LEASE_GRANT:
	case KS_EFFECT_LEASE_REVOKE:
		return apply_lease(state, effect, loc);
	case KS_EFFECT_COMPACT:
		if (effect->version > state->tail.compact_revision) {
			state->tail.compact_revision = effect->version;
			state->tail.compact_loc = loc;
			/* Which rows below it are missing nobody can tell. */
			if (state->direct && state->removed < effect->version - 1)
				state->removed = effect->version - 1;
		}
		return true;
	case KS_EFFECT_AUTH:
		return ks_auth_apply(&state->auth_tail, effect, loc, state->direct ? NULL : &state->auth_dropped);
	case KS_EFFECT_ALARM:
		return ks_alarms_apply(&state->alarms_tail, effect, loc, state->direct ? NULL : &state->alarms_dropped);
	case KS_EFFECT_NOOP:
	case KS_EFFECT_IMPORT:
		return true;
	}
	return true;
}

static bool has_auth(const struct ks_entry *entry)
{
	for (size_t i = 0; i < entry->effect_count; i++)
		if (entry->effects[i].kind == KS_EFFECT_AUTH)
			return true;
	return false;
}

enum ks_status ks_store_apply(struct ks_store *store, const struct ks_entry *entry, struct ks_err *err)
{
	struct ks_state *state = store->jump ? store->jump : store->state;
	struct ks_point before = state->tail; /* the writer's own: no lock needed to read it */
	size_t undo_count = state->undo_count, dropped_count = state->auth_dropped.count,
	       alarms_dropped = state->alarms_dropped.count;
	enum ks_status status = check(state, store->config.sparse_revisions, entry, err);
	struct ks_auth *auth_before = NULL;
	struct ks_alarms *alarms_before;
	bool ok = true;

	if (status != KS_OK)
		return status;
	/* While loading a failure means that all is thrown away. */
	if (!state->direct && has_auth(entry))
		auth_before = ks_auth_ref(state->auth_tail);
	if (!state->direct)
		ks_lock_write(store);
	alarms_before = ks_alarms_ref(state->alarms_tail);
	for (size_t i = 0; ok && i < entry->effect_count; i++) {
		ok = apply_effect(state, entry, i);
		if (!state->direct && i % KS_LOCK_CHUNK == KS_LOCK_CHUNK - 1) {
			ks_unlock(store);
			ks_lock_write(store);
		}
	}
	if (ok) {
		state->tail.position = entry->position;
		state->tail.revision = entry->revision;
	} else {
		ks_state_undo_records(state, before.revision, SIZE_MAX);
		ks_state_undo_leases(state, undo_count);
		if (auth_before)
			ks_state_undo_auth(state, ks_auth_ref(auth_before), dropped_count);
		ks_state_undo_alarms(state, ks_alarms_ref(alarms_before), alarms_dropped);
		state->tail = before;
		status = ks_fail_memory(err);
	}
	ks_alarms_unref(alarms_before);
	if (state->direct) {
		if (ok)
			KS_ASSERT(ks_state_publish(state, SIZE_MAX));
		ks_cache_evict(store, state);
	} else {
		ks_unlock(store);
	}
	ks_auth_unref(auth_before);
	return status;
}
