/* SPDX-License-Identifier: Apache-2.0 */
/* What all drivers do with the tables' making: sections of a schema file, and the note of what was made. */
#include <stdlib.h>
#include <string.h>

#include "sqlbackends/schema.h"
#include "tests/lib/tap.h"

static const char tight[] = "\n-- version 1\nCREATE one;\n-- version 2\nCREATE two;\n-- view\nCREATE VIEW three;\n";
static const char spaced[] =
	"-- what it is for\n\n-- version 1\nCREATE one;\n\n-- version 2\nCREATE two;\n\n-- version 21\nCREATE more;\n";

static void check_section(const char *schema, const char *name, const char *wanted)
{
	char *section = sqlb_schema_section(schema, name);

	CU_ASSERT_STRING_EQUAL(section, wanted);
	free(section);
}

static void a_section_ends_where_the_next_one_begins(void)
{
	check_section(tight, "version 1", "CREATE one;\n");
	check_section(tight, "version 2", "CREATE two;\n");
	check_section(tight, "view", "CREATE VIEW three;\n");
	check_section(spaced, "version 1", "CREATE one;\n\n");
	check_section(spaced, "version 2", "CREATE two;\n\n"); /* and not 21 */
	check_section(spaced, "version 21", "CREATE more;\n");
}

static void an_upgrade_is_the_section_of_its_version(void)
{
	char *section = sqlb_schema_upgrade(spaced, 21);

	CU_ASSERT_STRING_EQUAL(section, "CREATE more;\n");
	free(section);
}

static void new_tables_are_noted_with_an_id_of_their_own(void)
{
	char one[SQLB_SCHEMA_NOTE_BYTES], other[SQLB_SCHEMA_NOTE_BYTES];

	sqlb_schema_note(one, 0, 3, "now()", " ON CONFLICT DO NOTHING");
	sqlb_schema_note(other, 0, 3, "now()", " ON CONFLICT DO NOTHING");
	CU_ASSERT_PTR_NOT_NULL(strstr(one, "('schema_version', '3')"));
	CU_ASSERT_PTR_NOT_NULL(strstr(one, "('created_at', now()) ON CONFLICT DO NOTHING"));
	CU_ASSERT_STRING_NOT_EQUAL(one, other);
}

static void an_upgrade_changes_the_version_alone(void)
{
	char note[SQLB_SCHEMA_NOTE_BYTES];

	sqlb_schema_note(note, 2, 3, "now()", " ON CONFLICT DO NOTHING");
	CU_ASSERT_STRING_EQUAL(note, "UPDATE kineshim_meta SET value = '3' WHERE name = 'schema_version'");
}

int main(void)
{
	return tap_run(
		"schema",
		(const struct tap_test[]){
			{"a_section_ends_where_the_next_one_begins", a_section_ends_where_the_next_one_begins},
			{"an_upgrade_is_the_section_of_its_version", an_upgrade_is_the_section_of_its_version},
			{"new_tables_are_noted_with_an_id_of_their_own", new_tables_are_noted_with_an_id_of_their_own},
			{"an_upgrade_changes_the_version_alone", an_upgrade_changes_the_version_alone},
			{NULL, NULL},
		});
}
