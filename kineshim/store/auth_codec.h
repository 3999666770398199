/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payloads of KS_EFFECT_AUTH: one letter, which people can read in the table, then a protobuf message.
 *
 *   U  a user: authpb.User, and field 15, the credential (auth.h)
 *   u  a user is gone: field 1, the name
 *   R  a role: authpb.Role
 *   r  a role is gone: field 1, the name
 *   E  auth is on: field 1, the secret of simple tokens
 *   D  auth is off
 *
 * Unknown fields are passed over. The effect's 'version' is the auth revision.
 * Owner: encoders return new bytes, NULL without memory; what is decoded points into the payload. No state; any thread.
 */
#ifndef KS_STORE_AUTH_CODEC_H
#define KS_STORE_AUTH_CODEC_H

#include "store/auth.h"

enum ks_auth_object { KS_AUTH_USER, KS_AUTH_ROLE, KS_AUTH_SWITCH };

struct ks_auth_record {
	enum ks_auth_object object;
	bool gone;            /* user or role */
	struct ks_slice name; /* user or role: never empty */
	bool enabled;         /* the switch */
	struct ks_slice secret;
	struct ks_slice message; /* user or role: the message, for the decoders below */
	size_t item_count;       /* roles of the user, permissions of the role */
};

/* False when the payload is not one of those above. Says how many items the decoders below will fill in. */
bool ks_auth_decode(struct ks_slice payload, struct ks_auth_record *record);
void ks_auth_decode_user(const struct ks_auth_record *record, struct ks_auth_user *user, struct ks_slice *roles);
void ks_auth_decode_role(const struct ks_auth_record *record, struct ks_auth_role *role, struct ks_auth_perm *perms);

struct ks_bytes *ks_auth_encode_user(const struct ks_auth_user *user);
struct ks_bytes *ks_auth_encode_role(const struct ks_auth_role *role);
struct ks_bytes *ks_auth_encode_gone(enum ks_auth_object object, struct ks_slice name);
struct ks_bytes *ks_auth_encode_switch(bool enabled, struct ks_slice secret);

#endif
