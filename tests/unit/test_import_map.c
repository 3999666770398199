/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of tools/import_map.h: what was put is found, by kind and name, and walks see what lives. */
#include "tests/lib/tap.h"

#include <stdio.h>
#include <string.h>

#include "tools/import_map.h"

#define MANY 5000

static struct ks_slice name_of(char text[16], int i)
{
	(void)snprintf(text, 16, "name%d", i);
	return ks_slice_str(text);
}

static void things_are_found_by_kind_and_name(void)
{
	struct ks_import_map map;
	char text[16];

	ks_import_map_init(&map);
	CU_ASSERT_PTR_NULL(ks_import_map_find(&map, KS_IMPORT_KEY, ks_slice_str("name1")));
	for (int i = 0; i < MANY; i++)
		ks_import_map_put(&map, KS_IMPORT_KEY, name_of(text, i))->version = i;
	ks_import_map_put(&map, KS_IMPORT_USER, ks_slice_str("name7"))->version = -1;
	ks_import_map_put(&map, KS_IMPORT_ROLE, ks_slice_str(""))->version = -2;
	for (int i = 0; i < MANY; i++)
		CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_KEY, name_of(text, i))->version, i);
	CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_USER, ks_slice_str("name7"))->version, -1);
	CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_ROLE, ks_slice_str(""))->version, -2);
	CU_ASSERT_PTR_NULL(ks_import_map_find(&map, KS_IMPORT_LEASE, ks_slice_str("name7")));
	CU_ASSERT_PTR_NULL(ks_import_map_find(&map, KS_IMPORT_KEY, ks_slice_str("name")));
	ks_import_map_fini(&map);
}

static void names_have_all_bytes(void)
{
	struct ks_import_map map;

	ks_import_map_init(&map);
	ks_import_map_put(&map, KS_IMPORT_KEY, ks_slice_of("a\0b", 3))->version = 1;
	ks_import_map_put(&map, KS_IMPORT_KEY, ks_slice_of("a\0c", 3))->version = 2;
	ks_import_map_put(&map, KS_IMPORT_KEY, ks_slice_of("a", 1))->version = 3;
	CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_KEY, ks_slice_of("a\0b", 3))->version, 1);
	CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_KEY, ks_slice_of("a\0c", 3))->version, 2);
	CU_ASSERT_EQUAL(ks_import_map_find(&map, KS_IMPORT_KEY, ks_slice_of("a", 1))->version, 3);
	ks_import_map_fini(&map);
}

static void walks_see_what_lives(void)
{
	const struct ks_import_thing *thing;
	struct ks_import_map map;
	struct ks_slice name;
	size_t at = 0, seen = 0;
	char text[16];

	ks_import_map_init(&map);
	for (int i = 0; i < MANY; i++)
		ks_import_map_put(&map, i % 2 ? KS_IMPORT_USER : KS_IMPORT_ROLE, name_of(text, i))->live = i % 3 != 0;
	while ((thing = ks_import_map_next(&map, KS_IMPORT_USER, &at, &name))) {
		CU_ASSERT(thing->live);
		CU_ASSERT_PTR_EQUAL(thing, ks_import_map_find(&map, KS_IMPORT_USER, name));
		/* What is there may be put again meanwhile. */
		CU_ASSERT_PTR_EQUAL(thing, ks_import_map_put(&map, KS_IMPORT_USER, name));
		seen++;
	}
	CU_ASSERT_EQUAL(seen, MANY / 2 - (MANY + 3) / 6);
	ks_import_map_fini(&map);
}

int main(void)
{
	return tap_run("import_map", (const struct tap_test[]){
					     {"things_are_found_by_kind_and_name", things_are_found_by_kind_and_name},
					     {"names_have_all_bytes", names_have_all_bytes},
					     {"walks_see_what_lives", walks_see_what_lives},
					     {NULL, NULL},
				     });
}
