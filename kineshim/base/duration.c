/* SPDX-License-Identifier: Apache-2.0 */
#include "base/duration.h"

#include <stdbool.h>
#include <string.h>

#define TEXT_SHOWN 64 /* of what somebody wrote, in an error */

static enum ks_status invalid(const char *text, struct ks_err *err)
{
	return ks_fail(err, KS_INVALID_ARGUMENT, "time: invalid duration \"%.*s\"", TEXT_SHOWN, text);
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* 0: there is no such unit. */
static int64_t unit_ns(const char *unit, size_t size)
{
	static const struct {
		const char *name;
		int64_t ns;
	} units[] = {
		{"ns", 1},
		{"us", 1000},
		{"\xc2\xb5s", 1000}, /* U+00B5, micro sign */
		{"\xce\xbcs", 1000}, /* U+03BC, Greek letter mu */
		{"ms", KS_NS_PER_MS},
		{"s", 1000 * KS_NS_PER_MS},
		{"m", 60000 * KS_NS_PER_MS},
		{"h", KS_NS_PER_HOUR},
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strlen(units[i].name) == size && memcmp(units[i].name, unit, size) == 0)
			return units[i].ns;
	return 0;
}

/* Adds "number unit" to *total. *rest is where the next pair begins. */
static enum ks_status read_pair(const char *text, const char **rest, int64_t *total, struct ks_err *err)
{
	const char *c = *rest;
	int64_t whole = 0, part = 0, ns;
	double fraction = 0, scale = 1;
	bool digits = false;
	size_t unit_size;

	for (; is_digit(*c); c++, digits = true)
		if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *c - '0', &whole))
			return invalid(text, err);
	if (*c == '.') {
		for (c++; is_digit(*c); c++, digits = true) {
			scale /= 10;
			fraction += (*c - '0') * scale;
		}
	}
	if (!digits)
		return invalid(text, err);
	unit_size = strcspn(c, ".0123456789");
	if (unit_size == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "time: missing unit in duration \"%.*s\"", TEXT_SHOWN, text);
	ns = unit_ns(c, unit_size);
	if (ns == 0)
		return ks_fail(err, KS_INVALID_ARGUMENT, "time: unknown unit \"%.*s\" in duration \"%.*s\"",
			       unit_size < TEXT_SHOWN ? (int)unit_size : TEXT_SHOWN, c, TEXT_SHOWN, text);
	part = (int64_t)(fraction * (double)ns + 0.5);
	if (__builtin_mul_overflow(whole, ns, &whole) || __builtin_add_overflow(whole, part, &whole) ||
	    __builtin_add_overflow(*total, whole, total))
		return invalid(text, err);
	*rest = c + unit_size;
	return KS_OK;
}

enum ks_status ks_duration_parse(const char *text, int64_t *ns, struct ks_err *err)
{
	bool negative = *text == '-';
	const char *rest = text + (negative || *text == '+');
	enum ks_status status = KS_OK;
	int64_t total = 0;

	if (strcmp(rest, "0") == 0) {
		*ns = 0;
		return KS_OK;
	}
	if (*rest == '\0')
		return invalid(text, err);
	while (*rest && status == KS_OK)
		status = read_pair(text, &rest, &total, err);
	if (status == KS_OK)
		*ns = negative ? -total : total;
	return status;
}
