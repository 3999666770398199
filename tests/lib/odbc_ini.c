/* SPDX-License-Identifier: Apache-2.0 */
/* The file is in a temporary folder, to which ODBCSYSINI points. */
#include "tests/lib/odbc_ini.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/ks-odbc-XXXXXX";
static char path[sizeof(folder) + 20];
static bool made;

bool odbc_ini_write(const char *const *names, const char *library)
{
	FILE *file;

	if (!made && !mkdtemp(folder))
		return false;
	made = true;
	snprintf(path, sizeof(path), "%s/odbcinst.ini", folder);
	file = fopen(path, "w");
	if (!file)
		return false;
	for (; *names; names++)
		fprintf(file, "[%s]\nDriver=%s\n\n", *names, library);
	return fclose(file) == 0 && setenv("ODBCSYSINI", folder, 1) == 0;
}

void odbc_ini_remove(void)
{
	if (!made)
		return;
	(void)unlink(path);
	(void)rmdir(folder);
	made = false;
}
