/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Overlay files. Promises beside memory safety: a refusal says where, keys are unique and begin with the prefix, and a value that was not a text is
 * JSON. The first byte chooses the prefix.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "overlay_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME "fuzz.yml"

static void check_set(const struct dpa_overlay_set *set, const char *prefix)
{
	json_t *names = json_object();
	size_t size = strlen(prefix);

	for (size_t i = 0; i < set->count; i++) {
		struct ks_slice key = set->keys[i].key;
		char name[DPA_OVERLAY_MAX_KEY + 1];

		KS_ASSERT(key.size > 0 && key.size <= DPA_OVERLAY_MAX_KEY && key.size >= size);
		KS_ASSERT(memcmp(key.data, prefix, size) == 0 && !memchr(key.data, '\0', key.size));
		KS_ASSERT(!set->keys[i].hide || set->keys[i].value.size == 0);
		memcpy(name, key.data, key.size);
		name[key.size] = '\0';
		KS_ASSERT(!json_object_get(names, name));
		KS_ASSERT(json_object_set_new(names, name, json_true()) == 0);
	}
	json_decref(names);
}

/* The same text inside of a list is a value, which then is JSON. */
static void check_json(const uint8_t *data, size_t size)
{
	struct dpa_overlay_set set = {0};
	struct ks_err err = {0};
	struct ks_buf text;
	json_error_t error;
	json_t *json;

	ks_buf_init(&text, DPA_OVERLAY_MAX_BYTES);
	ks_buf_append(&text, "k: [", 4);
	ks_buf_append(&text, data, size);
	ks_buf_append(&text, "\n ]", 3);
	if (!text.failed && dpa_overlay_parse(ks_slice_of(text.data, text.size), NAME, "", &set, &err) == KS_OK) {
		for (size_t i = 0; i < set.count && ks_slice_eq(set.keys[i].key, ks_slice_str("k")); i++) {
			json = json_loadb((const char *)set.keys[i].value.data, set.keys[i].value.size,
					  JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
			KS_ASSERT(json || json_error_code(&error) == json_error_numeric_overflow);
			json_decref(json);
		}
	}
	dpa_overlay_set_fini(&set);
	ks_buf_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const prefixes[] = {"/apisix", "", "conf/", "/"};
	struct dpa_overlay_set set = {0};
	struct ks_err err = {0};
	const char *prefix;

	if (size == 0)
		return 0;
	prefix = prefixes[data[0] % 4];
	if (dpa_overlay_parse(ks_slice_of(data + 1, size - 1), NAME, prefix, &set, &err) == KS_OK)
		check_set(&set, prefix);
	else
		KS_ASSERT(strncmp(err.text, NAME ":", sizeof(NAME)) == 0 && !set.keys && !set.bytes.data);
	dpa_overlay_set_fini(&set);
	check_json(data + 1, size - 1);
	return 0;
}
