/* SPDX-License-Identifier: Apache-2.0 */
/* Versions of the auth state: how an effect makes the next one, and looking things up. See auth.h and auth_priv.h. */
#include "store/auth.h"

#include <stdlib.h>

#include "base/panic.h"
#include "store/auth_codec.h"
#include "store/auth_priv.h"

/* ---- users and roles ---- */

/* NULL without memory. Everything behind the row is zero, and 'record' points into a copy of the payload that the row keeps. */
static void *new_row(size_t size, struct ks_slice payload, struct ks_auth_record *record, struct ks_loc loc)
{
	struct ks_auth_row *row = calloc(1, size);

	if (!row)
		return NULL;
	row->payload = ks_bytes_copy(payload);
	if (!row->payload) {
		free(row);
		return NULL;
	}
	KS_ASSERT(ks_auth_decode(ks_bytes_slice(row->payload), record));
	atomic_init(&row->refs, 1);
	row->loc = loc;
	return row;
}

static struct ks_auth_user_object *new_user(struct ks_slice payload, struct ks_auth_record *record, struct ks_loc loc)
{
	struct ks_auth_user_object *object;

	object = new_row(sizeof(*object) + record->item_count * sizeof(object->roles[0]), payload, record, loc);
	if (object)
		ks_auth_decode_user(record, &object->user, object->roles);
	return object;
}

static struct ks_auth_role_object *new_role(struct ks_slice payload, struct ks_auth_record *record, struct ks_loc loc)
{
	struct ks_auth_role_object *object;

	object = new_row(sizeof(*object) + record->item_count * sizeof(object->perms[0]), payload, record, loc);
	if (object)
		ks_auth_decode_role(record, &object->role, object->perms);
	return object;
}

static void ref_row(struct ks_auth_row *row)
{
	atomic_fetch_add_explicit(&row->refs, 1, memory_order_relaxed);
}

_Static_assert(offsetof(struct ks_auth_user_object, row) == 0 && offsetof(struct ks_auth_role_object, row) == 0,
	       "a row is freed as its object");

/* Of a user or a role, which goes with it. */
static void unref_row(struct ks_auth_row *row)
{
	if (atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel) != 1)
		return;
	ks_bytes_unref(row->payload);
	free(row);
}

/* ---- versions ---- */

struct ks_auth *ks_auth_new(void)
{
	struct ks_auth *auth = calloc(1, sizeof(*auth));

	if (!auth)
		return NULL;
	atomic_init(&auth->refs, 1);
	auth->revision = 1;
	return auth;
}

struct ks_auth *ks_auth_ref(struct ks_auth *auth)
{
	atomic_fetch_add_explicit(&auth->refs, 1, memory_order_relaxed);
	return auth;
}

void ks_auth_unref(struct ks_auth *auth)
{
	if (!auth || atomic_fetch_sub_explicit(&auth->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < auth->user_count; i++) {
		unref_row(&auth->users[i].object->row);
		ks_auth_grants_unref(atomic_load_explicit(&auth->users[i].grants, memory_order_relaxed));
	}
	for (size_t i = 0; i < auth->role_count; i++)
		unref_row(&auth->roles[i]->row);
	ks_bytes_unref(auth->secret);
	free(auth->users);
	free(auth->credentials);
	free(auth->roles);
	free(auth->gone);
	free(auth);
}

/* Room for one more of everything. 'users' and 'credentials' have the same room. */
static bool make_room(struct ks_auth *auth)
{
	if (auth->user_count == auth->user_room) {
		size_t room = 2 * auth->user_room + 8;
		struct ks_auth_user_object **credentials;
		struct ks_auth_slot *users = realloc(auth->users, room * sizeof(*users));

		if (!users)
			return false;
		auth->users = users;
		credentials = realloc(auth->credentials, room * sizeof(struct ks_auth_user_object *));
		if (!credentials)
			return false;
		auth->credentials = credentials;
		auth->user_room = room;
	}
	return ks_grow((void **)&auth->roles, &auth->role_room, auth->role_count,
		       sizeof(struct ks_auth_role_object *)) &&
	       ks_grow((void **)&auth->gone, &auth->gone_room, auth->gone_count, sizeof(*auth->gone));
}

/* Others see only one of the two: no call-back reads the one that is being copied but through its grants, which may appear. */
static struct ks_auth *copy_version(const struct ks_auth *from)
{
	struct ks_auth *auth = ks_auth_new();

	if (!auth)
		return NULL;
	auth->users = calloc(from->user_count + 8, sizeof(*auth->users));
	auth->credentials = calloc(from->user_count + 8, sizeof(struct ks_auth_user_object *));
	auth->roles = calloc(from->role_count + 8, sizeof(struct ks_auth_role_object *));
	auth->gone = calloc(from->gone_count + 8, sizeof(*auth->gone));
	if (!auth->users || !auth->credentials || !auth->roles || !auth->gone) {
		ks_auth_unref(auth);
		return NULL;
	}
	auth->user_room = from->user_count + 8;
	auth->role_room = from->role_count + 8;
	auth->gone_room = from->gone_count + 8;
	auth->enabled = from->enabled;
	auth->revision = from->revision;
	auth->secret = ks_bytes_ref(from->secret);
	auth->switch_loc = from->switch_loc;
	auth->newest_position = from->newest_position;
	for (size_t i = 0; i < from->user_count; i++) {
		struct ks_auth_grants *grants = atomic_load_explicit(&from->users[i].grants, memory_order_acquire);

		auth->users[i].object = from->users[i].object;
		auth->credentials[i] = from->credentials[i];
		ref_row(&auth->users[i].object->row);
		if (grants)
			atomic_fetch_add_explicit(&grants->refs, 1, memory_order_relaxed);
		atomic_init(&auth->users[i].grants, grants);
	}
	auth->user_count = from->user_count;
	for (size_t i = 0; i < from->role_count; i++) {
		auth->roles[i] = from->roles[i];
		ref_row(&auth->roles[i]->row);
	}
	auth->role_count = from->role_count;
	for (size_t i = 0; i < from->gone_count; i++)
		auth->gone[i] = from->gone[i];
	auth->gone_count = from->gone_count;
	return auth;
}

/* ---- looking up ---- */

typedef struct ks_slice name_fn(const void *of, size_t i);

static struct ks_slice user_name(const void *auth, size_t i)
{
	return ((const struct ks_auth *)auth)->users[i].object->user.name;
}

static struct ks_slice role_name(const void *auth, size_t i)
{
	return ((const struct ks_auth *)auth)->roles[i]->role.name;
}

static struct ks_slice role_of_user(const void *user, size_t i)
{
	return ((const struct ks_auth_user *)user)->roles[i];
}

/* The first of 'count' ascending names that is not less than 'name'; *found when it is that name. */
static size_t seek(const void *of, size_t count, name_fn *name_at, struct ks_slice name, bool *found)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ks_slice_cmp(name_at(of, middle), name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = low < count && ks_slice_eq(name_at(of, low), name);
	return low;
}

static size_t seek_user(const struct ks_auth *auth, struct ks_slice name, bool *found)
{
	return seek(auth, auth->user_count, user_name, name, found);
}

static size_t seek_role(const struct ks_auth *auth, struct ks_slice name, bool *found)
{
	return seek(auth, auth->role_count, role_name, name, found);
}

static size_t seek_credential(const struct ks_auth *auth, size_t count, uint64_t credential)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (auth->credentials[middle]->user.credential < credential)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct ks_auth_slot *ks_auth_find_slot(const struct ks_auth *auth, struct ks_slice name)
{
	bool found;
	size_t i = seek_user(auth, name, &found);

	return found ? &auth->users[i] : NULL;
}

const struct ks_auth_user *ks_auth_find_user(const struct ks_auth *auth, struct ks_slice name)
{
	const struct ks_auth_slot *slot = ks_auth_find_slot(auth, name);

	return slot ? &slot->object->user : NULL;
}

const struct ks_auth_user *ks_auth_find_credential(const struct ks_auth *auth, uint64_t credential)
{
	size_t i = seek_credential(auth, auth->user_count, credential);

	if (credential == 0 || i == auth->user_count || auth->credentials[i]->user.credential != credential)
		return NULL;
	return &auth->credentials[i]->user;
}

const struct ks_auth_role *ks_auth_find_role(const struct ks_auth *auth, struct ks_slice name)
{
	bool found;
	size_t i = seek_role(auth, name, &found);

	return found ? &auth->roles[i]->role : NULL;
}

bool ks_auth_enabled(const struct ks_auth *auth)
{
	return auth->enabled;
}

uint64_t ks_auth_revision(const struct ks_auth *auth)
{
	return auth->revision;
}

struct ks_slice ks_auth_secret(const struct ks_auth *auth)
{
	return ks_bytes_slice(auth->secret);
}

int64_t ks_auth_position(const struct ks_auth *auth)
{
	return auth->newest_position;
}

size_t ks_auth_user_count(const struct ks_auth *auth)
{
	return auth->user_count;
}

size_t ks_auth_role_count(const struct ks_auth *auth)
{
	return auth->role_count;
}

const struct ks_auth_user *ks_auth_user_at(const struct ks_auth *auth, size_t i)
{
	return &auth->users[i].object->user;
}

const struct ks_auth_role *ks_auth_role_at(const struct ks_auth *auth, size_t i)
{
	return &auth->roles[i]->role;
}

bool ks_auth_user_has_role(const struct ks_auth_user *user, struct ks_slice role)
{
	bool found;

	(void)seek(user, user->role_count, role_of_user, role, &found);
	return found;
}

/* ---- effects ---- */

static void drop(struct ks_locs *dropped, struct ks_loc loc)
{
	if (dropped && loc.position)
		ks_locs_add(dropped, loc);
}

static void index_credential(struct ks_auth *auth, size_t count, struct ks_auth_user_object *object)
{
	size_t i = seek_credential(auth, count, object->user.credential);

	memmove(&auth->credentials[i + 1], &auth->credentials[i], (count - i) * sizeof(struct ks_auth_user_object *));
	auth->credentials[i] = object;
}

static void unindex_credential(struct ks_auth *auth, size_t count, const struct ks_auth_user_object *object)
{
	size_t i = seek_credential(auth, count, object->user.credential);

	/* Rows that people edited may have two of a kind. */
	while (auth->credentials[i] != object)
		i++;
	memmove(&auth->credentials[i], &auth->credentials[i + 1],
		(count - i - 1) * sizeof(struct ks_auth_user_object *));
}

static void forget_grants(struct ks_auth_slot *slot)
{
	ks_auth_grants_unref(atomic_exchange_explicit(&slot->grants, NULL, memory_order_acq_rel));
}

/* Puts 'object' (taken over; NULL: gone) in the place of the user of that name. There is room. */
static void set_user(struct ks_auth *auth, struct ks_slice name, struct ks_auth_user_object *object,
		     struct ks_locs *dropped)
{
	bool found;
	size_t i = seek_user(auth, name, &found);
	struct ks_auth_slot *slot = &auth->users[i];

	if (found) {
		drop(dropped, slot->object->row.loc);
		unindex_credential(auth, auth->user_count, slot->object);
		forget_grants(slot);
		unref_row(&slot->object->row);
	} else if (object) {
		memmove(slot + 1, slot, (auth->user_count - i) * sizeof(*slot));
	}
	if (object) {
		slot->object = object;
		atomic_init(&slot->grants, NULL);
		index_credential(auth, found ? auth->user_count - 1 : auth->user_count, object);
		auth->user_count += !found;
	} else if (found) {
		memmove(slot, slot + 1, (auth->user_count - i - 1) * sizeof(*slot));
		auth->user_count--;
	}
}

static void set_role(struct ks_auth *auth, struct ks_slice name, struct ks_auth_role_object *object,
		     struct ks_locs *dropped)
{
	bool found;
	size_t i = seek_role(auth, name, &found);
	struct ks_auth_role_object **place = &auth->roles[i];

	for (size_t u = 0; u < auth->user_count; u++)
		if (ks_auth_user_has_role(&auth->users[u].object->user, name))
			forget_grants(&auth->users[u]);
	if (found) {
		drop(dropped, (*place)->row.loc);
		unref_row(&(*place)->row);
	} else if (object) {
		memmove(place + 1, place, (auth->role_count - i) * sizeof(struct ks_auth_role_object *));
	}
	if (object) {
		*place = object;
		auth->role_count += !found;
	} else if (found) {
		memmove(place, place + 1, (auth->role_count - i - 1) * sizeof(struct ks_auth_role_object *));
		auth->role_count--;
	}
}

/* The newest auth entry becomes another one: what the one before said of things that are gone need not be kept. */
static void begin_entry(struct ks_auth *auth, int64_t position, struct ks_locs *dropped)
{
	if (auth->newest_position == position)
		return;
	for (size_t i = 0; i < auth->gone_count; i++)
		drop(dropped, auth->gone[i]);
	auth->gone_count = 0;
	auth->newest_position = position;
}

bool ks_auth_apply(struct ks_auth **version, const struct ks_effect *effect, struct ks_loc loc, struct ks_locs *dropped)
{
	struct ks_auth_user_object *user = NULL;
	struct ks_auth_role_object *role = NULL;
	struct ks_bytes *secret = NULL;
	struct ks_auth *auth = *version;
	struct ks_auth_record record;

	KS_ASSERT(ks_auth_decode(effect->payload, &record));
	if (record.object == KS_AUTH_USER && !record.gone && !(user = new_user(effect->payload, &record, loc)))
		return false;
	if (record.object == KS_AUTH_ROLE && !record.gone && !(role = new_role(effect->payload, &record, loc)))
		return false;
	if (record.object == KS_AUTH_SWITCH && record.enabled && !(secret = ks_bytes_copy(record.secret)))
		return false;
	if (atomic_load_explicit(&auth->refs, memory_order_acquire) > 1)
		auth = copy_version(auth);
	if (!auth || !make_room(auth)) {
		if (user)
			unref_row(&user->row);
		if (role)
			unref_row(&role->row);
		ks_bytes_unref(secret);
		if (auth != *version)
			ks_auth_unref(auth);
		return false;
	}
	begin_entry(auth, loc.position, dropped);
	switch (record.object) {
	case KS_AUTH_USER:
		set_user(auth, record.name, user, dropped);
		break;
	case KS_AUTH_ROLE:
		set_role(auth, record.name, role, dropped);
		break;
	case KS_AUTH_SWITCH:
		drop(dropped, auth->switch_loc);
		auth->switch_loc = loc;
		auth->enabled = record.enabled;
		ks_bytes_unref(auth->secret);
		auth->secret = secret;
		break;
	}
	if (record.gone)
		auth->gone[auth->gone_count++] = loc;
	if (auth->revision < (uint64_t)effect->version)
		auth->revision = (uint64_t)effect->version;
	if (auth != *version) {
		ks_auth_unref(*version);
		*version = auth;
	}
	return true;
}

static bool same_loc(struct ks_loc a, struct ks_loc b)
{
	return a.position == b.position && a.sub == b.sub;
}

bool ks_auth_row_needed(const struct ks_auth *auth, const struct ks_effect *effect, struct ks_loc loc)
{
	struct ks_auth_record record;
	bool found;
	size_t i;

	if (loc.position >= auth->newest_position || !ks_auth_decode(effect->payload, &record))
		return true;
	if (record.gone)
		return false;
	switch (record.object) {
	case KS_AUTH_USER:
		i = seek_user(auth, record.name, &found);
		return found && same_loc(auth->users[i].object->row.loc, loc);
	case KS_AUTH_ROLE:
		i = seek_role(auth, record.name, &found);
		return found && same_loc(auth->roles[i]->row.loc, loc);
	case KS_AUTH_SWITCH:
		return same_loc(auth->switch_loc, loc);
	}
	return true;
}
