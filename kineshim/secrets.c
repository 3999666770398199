/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets on the command line, see secrets.h. The kernel shows the bytes of argv as they are in our memory. They lie one text
 * behind the other, so a text that became shorter leaves a gap, which ps would show as blanks: the texts behind it move up, and
 * zeros at the end are shown by nobody.
 */
#include "secrets.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/panic.h"
#include "sqlbackends/sqlb.h"

static char **copy_arguments(int argc, char *const argv[])
{
	size_t heads = ((size_t)argc + 1) * sizeof(char *), size = heads;
	char **copy, *to;

	for (int i = 0; i < argc; i++)
		size += strlen(argv[i]) + 1;
	copy = ks_xcalloc(1, size);
	to = (char *)copy + heads;
	for (int i = 0; i < argc; i++) {
		copy[i] = to;
		size = strlen(argv[i]) + 1;
		memcpy(to, argv[i], size);
		to += size;
	}
	return copy;
}

/* Writes 'masked' over 'text', and zeros over what is left of it. */
static void overwrite(char *text, const char *masked)
{
	size_t size = strlen(text), length = strlen(masked);

	if (length > size) { /* the password was shorter than its stars */
		masked = "***";
		length = size < 3 ? size : 3;
	}
	memcpy(text, masked, length);
	memset(text + length, 0, size - length);
}

static bool ends_with(const char *name, size_t size, const char *end)
{
	size_t length = strlen(end);

	return size >= length && strncmp(name + size - length, end, length) == 0;
}

/* 'value' belongs to the flag whose name has 'size' bytes; of an argument that is no flag's, none. */
static void hide_value(const char *flag, size_t size, char *value)
{
	char *colon = strchr(value, ':');
	char *masked;

	if (ends_with(flag, size, "password")) {
		overwrite(value, "***");
	} else if (ends_with(flag, size, "user") && colon) {
		overwrite(colon + 1, "***");
	} else {
		masked = ks_xmalloc(strlen(value) * 4 + 4); /* room for stars in place of empty passwords */
		sqlb_url_redact(value, masked, strlen(value) * 4 + 4);
		if (strcmp(masked, value) != 0)
			overwrite(value, masked);
		free(masked);
	}
}

/* In argv, by what the copy says: a flag before may have been overwritten. */
static void hide(int argc, char **argv, char *const copy[])
{
	for (int i = 1; i < argc; i++) {
		const char *before = copy[i - 1], *equals = strchr(copy[i], '=');

		if (copy[i][0] == '-')
			hide_value(copy[i], equals ? (size_t)(equals - copy[i]) : 0,
				   equals ? argv[i] + (equals + 1 - copy[i]) : argv[i]);
		else
			hide_value(before, before[0] == '-' ? strlen(before) : 0, argv[i]);
	}
}

/* As far as the texts lie one behind the other, which on Linux they do. */
static void close_gaps(int argc, char **argv, char *const copy[])
{
	char *to = argc > 0 ? argv[0] : NULL, *end = to;

	for (int i = 0; i < argc && argv[i] == end; i++) {
		size_t size = strlen(argv[i]) + 1;

		end = argv[i] + strlen(copy[i]) + 1;
		memmove(to, argv[i], size);
		argv[i] = to;
		to += size;
	}
	if (to)
		memset(to, 0, (size_t)(end - to));
}

char **ks_secrets_take(int argc, char **argv)
{
	char **copy = copy_arguments(argc, argv);

	hide(argc, argv, copy);
	close_gaps(argc, argv, copy);
	return copy;
}
