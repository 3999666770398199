/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Endpoint URLs. Redaction errs on the side of hiding too much: a driver may accept a URL that no standard would (a raw
 * slash in a password), and then the text around it must not leak either.
 */
#include "url.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

#include "base/mask.h"
#include "sqlb.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool sqlb_url_scheme(const char *url, char *scheme, size_t scheme_size, const char **rest)
{
	size_t size = 0;

	for (; isalnum((unsigned char)url[size]) || (size > 0 && strchr("+-.", url[size]) && url[size]); size++) {
		if (size + 1 >= scheme_size)
			return false;
		scheme[size] = (char)tolower((unsigned char)url[size]);
	}
	if (size == 0 || url[size] != ':' || !isalpha((unsigned char)url[0]))
		return false;
	scheme[size] = '\0';
	*rest = url + size + 1;
	if (strncmp(*rest, "//", 2) == 0)
		*rest += 2;
	return true;
}

bool sqlb_url_decode(const char *text, char *out, size_t out_size)
{
	size_t used = 0;

	for (; *text; text++) {
		char c = *text;

		if (c == '%') {
			int high = hex_digit(text[1]);
			int low = high < 0 ? -1 : hex_digit(text[2]);

			if (low < 0 || high + low == 0)
				return false;
			c = (char)(high * 16 + low);
			text += 2;
		}
		if (used + 1 >= out_size)
			return false;
		out[used++] = c;
	}
	if (used >= out_size)
		return false;
	out[used] = '\0';
	return true;
}

struct sink {
	char *out;
	size_t used;
	size_t size;
};

static void put(struct sink *sink, const char *text, size_t size)
{
	for (; size > 0 && sink->used + 1 < sink->size; size--)
		sink->out[sink->used++] = *text++;
}

/*
 * The '@' that ends "user:password", or NULL. libpq looks for it before the first slash; we also look behind that. In a URL
 * of MySQL it is the last one: users of Go's driver write passwords as they are.
 */
static const char *userinfo_end(const char *scheme, const char *rest)
{
	const char *found = NULL;

	if (strcmp(scheme, "mysql") == 0 || strcmp(scheme, "mariadb") == 0)
		return strrchr(rest, '@');
	for (const char *p = rest; *p && *p != '/'; p++)
		if (*p == '@')
			found = p;
	if (found)
		return found;
	for (const char *p = rest; *p && *p != '?'; p++)
		if (*p == '@')
			found = p;
	return found ? found : strrchr(rest, '@');
}

void sqlb_url_redact(const char *url, char *out, size_t out_size)
{
	struct sink sink = {.out = out, .size = out_size};
	char scheme[24];
	const char *rest;
	const char *at;
	const char *colon;

	if (out_size == 0)
		return;
	if (sqlb_url_scheme(url, scheme, sizeof(scheme), &rest) && strcmp(scheme, "sqlite") != 0 &&
	    strcmp(scheme, "memory") != 0) {
		at = userinfo_end(scheme, rest);
		colon = at ? memchr(rest, ':', (size_t)(at - rest)) : NULL;
		if (colon) {
			put(&sink, url, (size_t)(colon + 1 - url));
			put(&sink, "***", 3);
			url = at;
		}
	}
	for (bool name_start = true; *url;) {
		size_t value, name = name_start ? ks_mask_parameter(url, &value) : 0;

		if (name) {
			put(&sink, url, name);
			put(&sink, "***", 3);
			url += name + value;
			name_start = false;
			continue;
		}
		name_start = strchr("?&; ", *url) != NULL;
		put(&sink, url++, 1);
	}
	out[sink.used] = '\0';
}
