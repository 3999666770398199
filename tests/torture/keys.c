/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and values as numbers, and as etcd has them: "torture/gg/kk", and the number with padding whose length the number
 * determines, so that a damaged value shows.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/torture/torture.h"

size_t key_text(int key, char text[KEY_SIZE])
{
	return (size_t)snprintf(text, KEY_SIZE, KEY_PREFIX "%02d/%02d", key / HISTORY_GROUP_KEYS,
				key % HISTORY_GROUP_KEYS);
}

int key_number(ProtobufCBinaryData key)
{
	char text[KEY_SIZE], expected[KEY_SIZE];
	int group, member;

	if (key.len >= sizeof(text))
		return -1;
	memcpy(text, key.data, key.len);
	text[key.len] = '\0';
	if (sscanf(text, KEY_PREFIX "%d/%d", &group, &member) != 2 || group < 0 || group >= HISTORY_GROUPS ||
	    member < 0 || member >= HISTORY_GROUP_KEYS)
		return -1;
	(void)key_text(group * HISTORY_GROUP_KEYS + member, expected);
	return strcmp(text, expected) ? -1 : group * HISTORY_GROUP_KEYS + member;
}

static size_t padding(int64_t value)
{
	return value % LARGE_EVERY == 0 ? 20000 : (size_t)(value * 37 % 211);
}

size_t value_text(int64_t value, char text[VALUE_SIZE])
{
	size_t size = (size_t)snprintf(text, VALUE_SIZE, "%" PRId64, value);

	memset(text + size, '.', padding(value));
	return size + padding(value);
}

int64_t value_number(ProtobufCBinaryData value)
{
	int64_t number = 0;
	size_t digits = 0;

	while (digits < value.len && digits < 18 && value.data[digits] >= '0' && value.data[digits] <= '9')
		number = number * 10 + (value.data[digits++] - '0');
	if (!digits || !number || value.len != digits + padding(number))
		return -1;
	for (size_t i = digits; i < value.len; i++)
		if (value.data[i] != '.')
			return -1;
	return number;
}

struct kv kv_of(const Mvccpb__KeyValue *kv)
{
	return (struct kv){.key = key_number(kv->key),
			   .value = value_number(kv->value),
			   .create = kv->create_revision,
			   .mod = kv->mod_revision,
			   .version = kv->version,
			   .lease = kv->lease};
}
