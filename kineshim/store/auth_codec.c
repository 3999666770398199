/* SPDX-License-Identifier: Apache-2.0 */
/* Payloads of auth effects; auth_codec.h has the contract. */
#include "store/auth_codec.h"

#include "base/buf.h"
#include "store/wire.h"

#define USER_NAME 1
#define USER_HASH 2
#define USER_ROLE 3
#define USER_OPTIONS 4
#define USER_CREDENTIAL 15
#define OPTIONS_NO_PASSWORD 1
#define ROLE_NAME 1
#define ROLE_PERM 2
#define PERM_TYPE 1
#define PERM_KEY 2
#define PERM_END 3
#define GONE_NAME 1
#define SWITCH_SECRET 1

/* One field: its number and its value, in the arm that 'wire' says. */
struct field {
	unsigned number, wire;
	struct ks_slice bytes;
	uint64_t value;
};

static bool next_field(struct ks_slice *in, struct field *field)
{
	*field = (struct field){0};
	if (!ks_wire_get_tag(in, &field->number, &field->wire))
		return false;
	if (field->wire == KS_WIRE_BYTES)
		return ks_wire_get_bytes(in, &field->bytes);
	if (field->wire == KS_WIRE_VARINT)
		return ks_wire_get_varint(in, &field->value);
	return ks_wire_skip(in, field->wire);
}

static bool decode_perm(struct ks_slice message, struct ks_auth_perm *perm)
{
	struct field field;

	*perm = (struct ks_auth_perm){0};
	while (message.size) {
		if (!next_field(&message, &field))
			return false;
		if (field.number == PERM_TYPE && field.wire == KS_WIRE_VARINT)
			perm->type = (int)field.value;
		else if (field.number == PERM_KEY && field.wire == KS_WIRE_BYTES)
			perm->interval.key = field.bytes;
		else if (field.number == PERM_END && field.wire == KS_WIRE_BYTES)
			perm->interval.end = field.bytes;
	}
	return true;
}

static bool decode_options(struct ks_slice message, bool *no_password)
{
	struct field field;

	while (message.size) {
		if (!next_field(&message, &field))
			return false;
		if (field.number == OPTIONS_NO_PASSWORD && field.wire == KS_WIRE_VARINT)
			*no_password = field.value != 0;
	}
	return true;
}

/* Walks the message once; 'user' and 'roles' may be NULL. */
static bool walk_user(struct ks_slice message, struct ks_slice *name, size_t *count, struct ks_auth_user *user,
		      struct ks_slice *roles)
{
	struct field field;
	bool no_password = false;

	*count = 0;
	while (message.size) {
		if (!next_field(&message, &field))
			return false;
		if (field.wire == KS_WIRE_BYTES && field.number == USER_NAME) {
			*name = field.bytes;
		} else if (field.wire == KS_WIRE_BYTES && field.number == USER_ROLE) {
			if (roles)
				roles[*count] = field.bytes;
			(*count)++;
		} else if (field.wire == KS_WIRE_BYTES && field.number == USER_OPTIONS) {
			if (!decode_options(field.bytes, &no_password))
				return false;
		} else if (user && field.wire == KS_WIRE_BYTES && field.number == USER_HASH) {
			user->hash = field.bytes;
		} else if (user && field.wire == KS_WIRE_VARINT && field.number == USER_CREDENTIAL) {
			user->credential = field.value;
		}
	}
	if (user)
		user->no_password = no_password;
	return true;
}

static bool walk_role(struct ks_slice message, struct ks_slice *name, size_t *count, struct ks_auth_perm *perms)
{
	struct ks_auth_perm perm;
	struct field field;

	*count = 0;
	while (message.size) {
		if (!next_field(&message, &field))
			return false;
		if (field.wire != KS_WIRE_BYTES)
			continue;
		if (field.number == ROLE_NAME) {
			*name = field.bytes;
		} else if (field.number == ROLE_PERM) {
			if (!decode_perm(field.bytes, perms ? &perms[*count] : &perm))
				return false;
			(*count)++;
		}
	}
	return true;
}

static bool walk_single(struct ks_slice message, unsigned number, struct ks_slice *value)
{
	struct field field;

	while (message.size) {
		if (!next_field(&message, &field))
			return false;
		if (field.wire == KS_WIRE_BYTES && field.number == number)
			*value = field.bytes;
	}
	return true;
}

/* The names of roles are looked up by halving: they must be in order, each once. */
static bool roles_in_order(struct ks_slice message)
{
	struct ks_slice last = {0};
	struct field field;

	while (message.size && next_field(&message, &field)) {
		if (field.wire != KS_WIRE_BYTES || field.number != USER_ROLE)
			continue;
		if (ks_slice_cmp(field.bytes, last) <= 0)
			return false;
		last = field.bytes;
	}
	return true;
}

bool ks_auth_decode(struct ks_slice payload, struct ks_auth_record *record)
{
	struct ks_slice message;

	*record = (struct ks_auth_record){0};
	if (payload.size == 0)
		return false;
	message = ks_slice_of(payload.data + 1, payload.size - 1);
	record->message = message;
	record->gone = payload.data[0] == 'u' || payload.data[0] == 'r';
	record->enabled = payload.data[0] == 'E';
	switch (payload.data[0]) {
	case 'U':
		record->object = KS_AUTH_USER;
		return walk_user(message, &record->name, &record->item_count, NULL, NULL) && record->name.size &&
		       roles_in_order(message);
	case 'R':
		record->object = KS_AUTH_ROLE;
		return walk_role(message, &record->name, &record->item_count, NULL) && record->name.size;
	case 'u':
	case 'r':
		record->object = payload.data[0] == 'u' ? KS_AUTH_USER : KS_AUTH_ROLE;
		return walk_single(message, GONE_NAME, &record->name) && record->name.size;
	case 'E':
	case 'D':
		record->object = KS_AUTH_SWITCH;
		return walk_single(message, SWITCH_SECRET, &record->secret) &&
		       (!record->enabled || record->secret.size == KS_AUTH_SECRET_BYTES);
	default:
		return false;
	}
}

void ks_auth_decode_user(const struct ks_auth_record *record, struct ks_auth_user *user, struct ks_slice *roles)
{
	*user = (struct ks_auth_user){.roles = roles};
	(void)walk_user(record->message, &user->name, &user->role_count, user, roles);
}

void ks_auth_decode_role(const struct ks_auth_record *record, struct ks_auth_role *role, struct ks_auth_perm *perms)
{
	*role = (struct ks_auth_role){.perms = perms};
	(void)walk_role(record->message, &role->name, &role->perm_count, perms);
}

/* ---- encoding ---- */

static void begin(struct ks_buf *buf, char letter)
{
	ks_buf_init(buf, UINT32_MAX / 4);
	ks_buf_append(buf, &letter, 1);
}

static struct ks_bytes *end(struct ks_buf *buf)
{
	struct ks_bytes *bytes = buf->failed ? NULL : ks_bytes_copy(ks_slice_of(buf->data, buf->size));

	ks_buf_fini(buf);
	return bytes;
}

struct ks_bytes *ks_auth_encode_user(const struct ks_auth_user *user)
{
	struct ks_buf buf;

	begin(&buf, 'U');
	ks_wire_bytes(&buf, USER_NAME, user->name);
	ks_wire_bytes(&buf, USER_HASH, user->hash);
	for (size_t i = 0; i < user->role_count; i++)
		ks_wire_bytes(&buf, USER_ROLE, user->roles[i]);
	ks_wire_nested(&buf, USER_OPTIONS, ks_wire_uint_size(OPTIONS_NO_PASSWORD, user->no_password));
	ks_wire_uint(&buf, OPTIONS_NO_PASSWORD, user->no_password);
	ks_wire_uint(&buf, USER_CREDENTIAL, user->credential);
	return end(&buf);
}

struct ks_bytes *ks_auth_encode_role(const struct ks_auth_role *role)
{
	struct ks_buf buf;

	begin(&buf, 'R');
	ks_wire_bytes(&buf, ROLE_NAME, role->name);
	for (size_t i = 0; i < role->perm_count; i++) {
		const struct ks_auth_perm *perm = &role->perms[i];

		ks_wire_nested(&buf, ROLE_PERM,
			       ks_wire_uint_size(PERM_TYPE, (uint64_t)perm->type) +
				       ks_wire_bytes_size(PERM_KEY, perm->interval.key.size) +
				       ks_wire_bytes_size(PERM_END, perm->interval.end.size));
		ks_wire_uint(&buf, PERM_TYPE, (uint64_t)perm->type);
		ks_wire_bytes(&buf, PERM_KEY, perm->interval.key);
		ks_wire_bytes(&buf, PERM_END, perm->interval.end);
	}
	return end(&buf);
}

struct ks_bytes *ks_auth_encode_gone(enum ks_auth_object object, struct ks_slice name)
{
	struct ks_buf buf;

	begin(&buf, object == KS_AUTH_USER ? 'u' : 'r');
	ks_wire_bytes(&buf, GONE_NAME, name);
	return end(&buf);
}

struct ks_bytes *ks_auth_encode_switch(bool enabled, struct ks_slice secret)
{
	struct ks_buf buf;

	begin(&buf, enabled ? 'E' : 'D');
	if (enabled)
		ks_wire_bytes(&buf, SWITCH_SECRET, secret);
	return end(&buf);
}
