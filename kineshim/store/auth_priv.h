/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of struct ks_auth, for auth.c, auth_perm.c, auth_eval.c and the state that holds versions of it.
 *
 * A version that others can see never changes but for the grants, which whoever needs them first computes. Users and
 * roles are counted and shared by versions.
 */
#ifndef KS_STORE_AUTH_PRIV_H
#define KS_STORE_AUTH_PRIV_H

#include "store/auth.h"
#include "store/store_priv.h"

/* What a user and a role begin with. */
struct ks_auth_row {
	_Atomic uint32_t refs;
	struct ks_loc loc;
	struct ks_bytes *payload; /* what the rest points into */
};

struct ks_auth_user_object {
	struct ks_auth_row row;
	struct ks_auth_user user;
	struct ks_slice roles[];
};

struct ks_auth_role_object {
	struct ks_auth_row row;
	struct ks_auth_role role;
	struct ks_auth_perm perms[];
};

/* What a user may do: the permissions of all roles, merged. Owns its bytes. */
struct ks_auth_range {
	struct ks_slice begin;
	struct ks_slice end; /* data NULL: no end */
};
struct ks_auth_ranges {
	struct ks_auth_range *items; /* ascending, apart from each other */
	size_t count;
};
struct ks_auth_grants {
	_Atomic uint32_t refs;
	bool root;
	struct ks_auth_ranges read, write;
	uint8_t *bytes;
};

struct ks_auth_slot {
	struct ks_auth_user_object *object;
	struct ks_auth_grants *_Atomic grants; /* NULL: not computed yet */
};

struct ks_auth {
	_Atomic uint32_t refs;
	bool enabled;
	uint64_t revision;
	struct ks_bytes *secret; /* NULL while off */
	struct ks_loc switch_loc;
	struct ks_auth_slot *users; /* ascending by name */
	size_t user_count, user_room;
	struct ks_auth_user_object **credentials; /* ascending by credential; borrowed from 'users' */
	struct ks_auth_role_object **roles;       /* ascending by name */
	size_t role_count, role_room;
	/* The newest auth entry, and its rows that say that something is gone: superseded by the next auth entry. */
	int64_t newest_position;
	struct ks_loc *gone;
	size_t gone_count, gone_room;
};

struct ks_auth *ks_auth_new(void);
/*
 * Makes *auth the version that comes after 'effect', whose payload is sound (ks_auth_decode). In place when nobody else refers to it.
 * Rows that nobody needs any more go to 'dropped' (may be NULL), in the order in which they may be trimmed. False without memory, with
 * nothing changed.
 */
bool ks_auth_apply(struct ks_auth **auth, const struct ks_effect *effect, struct ks_loc loc,
		   struct ks_locs *dropped) KS_MUST_CHECK;
/* Is the row of an auth effect still part of this version? */
bool ks_auth_row_needed(const struct ks_auth *auth, const struct ks_effect *effect, struct ks_loc loc);

/* Slot of the user, or NULL. */
struct ks_auth_slot *ks_auth_find_slot(const struct ks_auth *auth, struct ks_slice name);
void ks_auth_grants_unref(struct ks_auth_grants *grants);

/*
 * A request that changes users, roles or the switch (spec 7.5): its effects, in the order of their rows. KS_OK without
 * effects: nothing to change. The payloads belong to 'effects'.
 */
enum ks_status ks_auth_eval(const struct ks_auth *auth, const struct ks_auth_req *req, struct ks_effects *effects,
			    struct ks_err *err) KS_MUST_CHECK;

#endif
