/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same wherever the tables are made and looked at. See schema.h. */
#include "schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"

enum sqlb_outcome sqlb_schema_version(struct sqlb_conn *conn, const struct sqlb_schema_driver *driver, int newest,
				      int *version, struct ks_err *err)
{
	char text[100], why[200];
	enum sqlb_outcome outcome;
	bool found;

	*version = 0;
	outcome = driver->read(conn, "program", text, sizeof(text), &found, err);
	if (outcome != SQLB_OK || !found)
		return outcome;
	if (strcmp(text, "kineshim") != 0)
		return driver->broken(conn, err, "the table kineshim_meta is not kineshim's");
	outcome = driver->read(conn, "schema_version", text, sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	*version = found ? (int)strtol(text, NULL, 10) : 0;
	if (*version < 1)
		return driver->broken(conn, err, "kineshim_meta has no schema_version");
	if (*version <= newest)
		return SQLB_OK;
	snprintf(why, sizeof(why), "schema version %d is newer than this program's %d: it needs a newer kineshim",
		 *version, newest);
	return driver->broken(conn, err, why);
}

enum sqlb_outcome sqlb_schema_cluster_id(struct sqlb_conn *conn, const struct sqlb_schema_driver *driver,
					 uint64_t *cluster_id, struct ks_err *err)
{
	enum sqlb_outcome outcome;
	char text[40];
	bool found;

	outcome = driver->read(conn, "cluster_id", text, sizeof(text), &found, err);
	if (outcome != SQLB_OK)
		return outcome;
	*cluster_id = found ? strtoull(text, NULL, 16) : 0;
	return *cluster_id ? SQLB_OK : driver->broken(conn, err, "kineshim_meta has no cluster_id");
}

void sqlb_schema_note(char sql[SQLB_SCHEMA_NOTE_BYTES], int from, int to, const char *utc_now, const char *unless)
{
	int size;

	if (from == 0)
		size = snprintf(sql, SQLB_SCHEMA_NOTE_BYTES,
				"INSERT INTO kineshim_meta (name, value) VALUES ('program', 'kineshim'), "
				"('schema_version', '%d'), ('cluster_id', '%016" PRIx64 "'), ('created_at', %s)%s",
				to, sqlb_random_id(), utc_now, unless);
	else
		size = snprintf(sql, SQLB_SCHEMA_NOTE_BYTES,
				"UPDATE kineshim_meta SET value = '%d' WHERE name = 'schema_version'", to);
	KS_ASSERT(size < SQLB_SCHEMA_NOTE_BYTES);
}

char *sqlb_schema_section(const char *schema, const char *name)
{
	const char *begin, *end;
	char marker[40], *section;

	snprintf(marker, sizeof(marker), "\n-- %s\n", name);
	begin = strstr(schema, marker);
	KS_ASSERT(begin);
	begin += strlen(marker);
	end = strstr(begin, "\n-- version ");
	if (!end)
		end = strstr(begin, "\n-- view\n");
	section = ks_xstrdup(begin);
	if (end)
		section[end + 1 - begin] = '\0';
	return section;
}

char *sqlb_schema_upgrade(const char *schema, int version)
{
	char name[30];

	snprintf(name, sizeof(name), "version %d", version);
	return sqlb_schema_section(schema, name);
}
