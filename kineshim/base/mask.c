/* SPDX-License-Identifier: Apache-2.0 */
/* Passwords in texts, see mask.h. */
#include "base/mask.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* ---- parameters ---- */

/* "'a b'" as libpq writes values, "{a;b}" as ODBC does; else up to what ends a parameter. */
static size_t value_size_of(const char *value)
{
	const char *end;

	if (*value == '\'') {
		for (end = value + 1; *end && *end != '\''; end++)
			if (*end == '\\' && end[1])
				end++;
		return (size_t)(end - value) + (*end == '\'');
	}
	if (*value == '{') {
		for (end = value + 1; *end && (*end != '}' || end[1] == '}'); end++)
			end += *end == '}';
		return (size_t)(end - value) + (*end == '}');
	}
	return strcspn(value, "&; ");
}

size_t ks_mask_parameter(const char *text, size_t *value_size)
{
	static const char *const hints[] = {"pass", "pwd", "secret", "token"};
	size_t size = strcspn(text, "=&; ?/@");

	if (text[size] != '=')
		return 0;
	for (size_t i = 0; i < size; i++) {
		for (size_t h = 0; h < sizeof(hints) / sizeof(*hints); h++) {
			size_t length = strlen(hints[h]);

			if (i + length <= size && strncasecmp(text + i, hints[h], length) == 0) {
				*value_size = value_size_of(text + size + 1);
				return size + 1;
			}
		}
	}
	return 0;
}

/* ---- texts ---- */

/* Puts stars where 'size' bytes were; gives what comes behind them. */
static char *put_stars(char *at, size_t size)
{
	size_t stars = size < 3 ? size : 3;

	memset(at, '*', stars);
	memmove(at + stars, at + size, strlen(at + size) + 1);
	return at + stars;
}

/* The '@' that ends "user:password": the last one of the first part, else (a raw slash in the password) of all. */
static char *find_at(char *url, size_t size)
{
	size_t first = strcspn(url, "/?#");
	char *found = memrchr(url, '@', first < size ? first : size);

	return found ? found : memrchr(url, '@', size);
}

/* Our own examples say "user:password@host". */
static bool is_example(const char *password, size_t size)
{
	return size == strlen("password") && memcmp(password, "password", size) == 0;
}

/* 'url' is behind the slashes, and ends with a blank or a quote. */
static char *mask_url(char *url, bool cut)
{
	size_t size = strcspn(url, " \t\r\n\"<>");
	char *at = find_at(url, size);
	char *colon = memchr(url, ':', at ? (size_t)(at - url) : size);
	bool lost = cut && !at && url[size] == '\0';

	if (colon && at && is_example(colon + 1, (size_t)(at - colon - 1)))
		return at;
	if (colon && at)
		return put_stars(colon + 1, (size_t)(at - colon - 1));
	if (colon && lost)
		return put_stars(colon + 1, strlen(colon + 1));
	return url;
}

void ks_mask(char *text, bool cut)
{
	while ((text = strstr(text, "://"))) {
		size_t value;
		char *end;

		text = mask_url(text + 3, cut);
		end = text + strcspn(text, " \t\r\n\"<>");
		for (char *c = text; c < end; c++) {
			size_t name = strchr("?&;", *c) ? ks_mask_parameter(c + 1, &value) : 0;

			if (name) {
				c = put_stars(c + 1 + name, value) - 1;
				end = c + 1 + strcspn(c + 1, " \t\r\n\"<>");
			}
		}
	}
}
