/* SPDX-License-Identifier: Apache-2.0 */
/* The simulation's own copy of the log; truth.h has the contract. */
#include "truth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "store/auth_codec.h"

#define PUSH(array, count, room) (grow((void **)&(array), &(room), (count), sizeof(*(array))), &(array)[(count)++])

static void grow(void **array, size_t *room, size_t count, size_t size)
{
	if (count < *room)
		return;
	*room = *room ? 2 * *room : 64;
	*array = ks_xrealloc(*array, *room * size);
}

static void wrong(struct truth *truth, const struct sqlb_row *row, const char *what)
{
	if (!truth->wrong[0])
		snprintf(truth->wrong, sizeof(truth->wrong),
			 "log at (%" PRId64 ", %" PRId32 ") revision %" PRId64 " by %" PRId64 "/%" PRId64 ": %s",
			 row->position, row->sub, row->revision, row->writer, row->batch, what);
}

void truth_init(struct truth *truth)
{
	*truth = (struct truth){.compact_revision = -1};
}

void truth_fini(struct truth *truth)
{
	free(truth->entries);
	free(truth->events);
	for (int key = 0; key < TRUTH_KEYS; key++)
		free(truth->versions[key]);
	free(truth->leases);
	free(truth->compactions);
	free(truth->users);
}

int truth_key(struct ks_slice key)
{
	int number = key.size == 2 && key.data[0] == 'k' ? key.data[1] - '0' : -1;

	return number >= 0 && number < TRUTH_KEYS ? number : -1;
}

int64_t truth_value(struct ks_slice value)
{
	int64_t number = 0;

	if (value.size < 2 || value.data[0] != 'v')
		return -1;
	for (size_t i = 1; i < value.size; i++)
		number = 10 * number + (value.data[i] - '0');
	return number;
}

int64_t truth_position(const struct truth *truth)
{
	return truth->entry_count ? truth->entries[truth->entry_count - 1].position : 0;
}

int64_t truth_revision(const struct truth *truth)
{
	return truth->entry_count ? truth->entries[truth->entry_count - 1].revision : 1;
}

static const struct truth_version *newest(const struct truth *truth, int key)
{
	size_t count = truth->version_count[key];

	return count && truth->versions[key][count - 1].value ? &truth->versions[key][count - 1] : NULL;
}

static void put_row(struct truth *truth, const struct sqlb_row *row)
{
	int key = truth_key(row->key);
	const struct truth_version *before;
	struct truth_version version = {.revision = row->revision,
					.value = truth_value(row->value),
					.create_revision = row->create_revision,
					.version = row->version,
					.lease = row->lease,
					.entry = truth->entry_count - 1};

	if (key < 0 || version.value <= 0) {
		wrong(truth, row, "a key or value that nobody wrote");
		return;
	}
	before = newest(truth, key);
	if (version.version != (before ? before->version : 0) + 1 ||
	    version.create_revision != (before ? before->create_revision : row->revision))
		wrong(truth, row, "version or create_revision do not follow from the key's last state");
	if (truth_find(truth, version.value, NULL, NULL))
		wrong(truth, row, "a request happened twice");
	if (row->lease && (!truth_lease(truth, row->lease) || truth_lease(truth, row->lease)->revoked != SIZE_MAX))
		wrong(truth, row, "a put with a lease that does not exist");
	*PUSH(truth->versions[key], truth->version_count[key], truth->version_room[key]) = version;
	*PUSH(truth->events, truth->event_count, truth->event_room) =
		(struct truth_event){row->revision, row->sub, key, false};
}

static void delete_row(struct truth *truth, const struct sqlb_row *row)
{
	int key = truth_key(row->key);

	if (key < 0 || !newest(truth, key)) {
		wrong(truth, row, "a delete of a key that does not exist");
		return;
	}
	*PUSH(truth->versions[key], truth->version_count[key], truth->version_room[key]) =
		(struct truth_version){.revision = row->revision, .entry = truth->entry_count - 1};
	*PUSH(truth->events, truth->event_count, truth->event_room) =
		(struct truth_event){row->revision, row->sub, key, true};
}

static void revoke_row(struct truth *truth, const struct sqlb_row *row, int64_t now_ms)
{
	struct truth_lease *lease = truth_lease(truth, row->lease);

	if (!lease || lease->revoked != SIZE_MAX) {
		wrong(truth, row, "a revoke of a lease that does not exist");
		return;
	}
	lease->revoked = truth->entry_count - 1;
	lease->revoked_ms = now_ms;
	for (int key = 0; key < TRUTH_KEYS; key++)
		if (newest(truth, key) && newest(truth, key)->lease == row->lease)
			wrong(truth, row, "a revoke left a key of the lease behind");
}

int64_t truth_auth_revision(const struct truth *truth)
{
	return truth->user_count ? truth->users[truth->user_count - 1].revision : 1;
}

const struct truth_user *truth_user(const struct truth *truth, int user)
{
	for (size_t i = truth->user_count; i-- > 0;)
		if (truth->users[i].user == user)
			return truth->users[i].gone ? NULL : &truth->users[i];
	return NULL;
}

static void user_row(struct truth *truth, const struct sqlb_row *row)
{
	struct ks_auth_record record;
	int user;

	if (!ks_auth_decode(row->payload, &record) || record.object != KS_AUTH_USER || record.name.size != 2) {
		wrong(truth, row, "a user that nobody wrote");
		return;
	}
	user = record.name.data[1] - '0';
	if (row->version != truth_auth_revision(truth) + 1)
		wrong(truth, row, "auth revisions are not contiguous");
	if (record.gone && !truth_user(truth, user))
		wrong(truth, row, "a user ends who does not exist");
	*PUSH(truth->users, truth->user_count, truth->user_room) =
		(struct truth_user){user, record.gone, row->version, truth->entry_count - 1};
}

void truth_row(struct truth *truth, const struct sqlb_row *row, int64_t now_ms)
{
	bool writes_keys = row->kind == KS_EFFECT_PUT || row->kind == KS_EFFECT_DELETE;

	if (row->sub == 0) {
		if (row->position != truth_position(truth) + 1)
			wrong(truth, row, "positions have a gap");
		if (truth->entry_count && row->revision != truth_revision(truth) + (writes_keys ? 1 : 0))
			wrong(truth, row, "revisions are not contiguous");
		*PUSH(truth->entries, truth->entry_count, truth->entry_room) = (struct truth_entry){
			row->position, row->revision, row->writer, row->batch, now_ms, truth->event_count};
	}
	switch (row->kind) {
	case KS_EFFECT_PUT:
		put_row(truth, row);
		break;
	case KS_EFFECT_DELETE:
		delete_row(truth, row);
		break;
	case KS_EFFECT_LEASE_GRANT:
		if (truth_lease(truth, row->lease))
			wrong(truth, row, "a lease granted twice");
		*PUSH(truth->leases, truth->lease_count, truth->lease_room) = (struct truth_lease){
			.id = row->lease, .ttl = row->version, .granted = truth->entry_count - 1, .revoked = SIZE_MAX};
		break;
	case KS_EFFECT_LEASE_REVOKE:
		revoke_row(truth, row, now_ms);
		break;
	case KS_EFFECT_COMPACT:
		if (row->version <= truth->compact_revision)
			wrong(truth, row, "a compaction that goes back");
		truth->compact_revision = row->version;
		*PUSH(truth->compactions, truth->compaction_count, truth->compaction_room) =
			(struct truth_compaction){row->version, truth->entry_count - 1};
		break;
	case KS_EFFECT_AUTH:
		user_row(truth, row);
		break;
	default:
		break;
	}
}

void truth_cut(struct truth *truth, int64_t keep)
{
	size_t entries = keep < 0 ? 0 : (size_t)keep; /* entry i has position i + 1 */

	if (entries >= truth->entry_count)
		return;
	truth->event_count = truth->entries[entries].events;
	while (truth->compaction_count && truth->compactions[truth->compaction_count - 1].entry >= entries)
		truth->compaction_count--;
	truth->compact_revision =
		truth->compaction_count ? truth->compactions[truth->compaction_count - 1].revision : -1;
	while (truth->user_count && truth->users[truth->user_count - 1].entry >= entries)
		truth->user_count--;
	truth->entry_count = entries;
	for (int key = 0; key < TRUTH_KEYS; key++)
		while (truth->version_count[key] &&
		       truth->versions[key][truth->version_count[key] - 1].entry >= entries)
			truth->version_count[key]--;
	for (size_t i = 0; i < truth->lease_count;) {
		struct truth_lease *lease = &truth->leases[i];

		if (lease->revoked != SIZE_MAX && lease->revoked >= entries)
			lease->revoked = SIZE_MAX;
		if (lease->granted >= entries)
			*lease = truth->leases[--truth->lease_count];
		else
			i++;
	}
}

const struct truth_version *truth_at(const struct truth *truth, int key, int64_t revision)
{
	size_t low = 0, high = truth->version_count[key];

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (truth->versions[key][middle].revision <= revision)
			low = middle + 1;
		else
			high = middle;
	}
	return low && truth->versions[key][low - 1].value ? &truth->versions[key][low - 1] : NULL;
}

size_t truth_find(const struct truth *truth, int64_t value, int *key, int64_t *revision)
{
	size_t found = 0;

	for (int k = 0; k < TRUTH_KEYS; k++) {
		for (size_t i = 0; i < truth->version_count[k]; i++) {
			if (truth->versions[k][i].value != value)
				continue;
			found++;
			if (key)
				*key = k;
			if (revision)
				*revision = truth->versions[k][i].revision;
		}
	}
	return found;
}

struct truth_lease *truth_lease(const struct truth *truth, int64_t id)
{
	for (size_t i = 0; i < truth->lease_count; i++)
		if (truth->leases[i].id == id)
			return &truth->leases[i];
	return NULL;
}
