/* SPDX-License-Identifier: Apache-2.0 */
/* Values of options, see option_values.h. */
#include "option_values.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NS_PER_MS 1000000

static bool read_number(const char **text, int64_t *number)
{
	char *end;

	if (!isdigit((unsigned char)**text))
		return false;
	errno = 0;
	*number = strtoll(*text, &end, 10);
	*text = end;
	return errno == 0;
}

bool ks_parse_number(const char *text, int64_t *number)
{
	return read_number(&text, number) && *text == '\0';
}

bool ks_parse_bytes(const char *text, int64_t *bytes)
{
	static const struct {
		const char *suffix;
		int shift;
	} units[] = {{"", 0},     {"b", 0},  {"k", 10},  {"kb", 10},  {"kib", 10}, {"m", 20},  {"mb", 20},
		     {"mib", 20}, {"g", 30}, {"gb", 30}, {"gib", 30}, {"t", 40},   {"tb", 40}, {"tib", 40}};

	if (!read_number(&text, bytes))
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strcasecmp(text, units[i].suffix) == 0)
			return !__builtin_mul_overflow(*bytes, (int64_t)1 << units[i].shift, bytes);
	return false;
}

struct unit {
	const char *suffix;
	int64_t ns;
};

static const struct unit *find_unit(const char *text, size_t size)
{
	static const struct unit units[] = {
		{"ns", 1},
		{"us", 1000},
		{"\u00b5s", 1000},
		{"\u03bcs", 1000},
		{"ms", NS_PER_MS},
		{"s", INT64_C(1000) * NS_PER_MS},
		{"m", INT64_C(60000) * NS_PER_MS},
		{"h", INT64_C(3600000) * NS_PER_MS},
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strlen(units[i].suffix) == size && memcmp(text, units[i].suffix, size) == 0)
			return &units[i];
	return NULL;
}

/* What stands behind the point, as a part of 'scale'; digits that make less than one are dropped, as Go does. */
static int64_t read_fraction(const char *text, int64_t scale)
{
	int64_t part = 0;

	for (; isdigit((unsigned char)*text); text++) {
		scale /= 10;
		part += (*text - '0') * scale;
	}
	return part;
}

/* One piece, "1.5h", to nanoseconds. */
static bool read_piece(const char **text, int64_t *ns)
{
	const char *fraction = NULL;
	const struct unit *unit;
	int64_t number = 0, part = 0;
	bool digits = isdigit((unsigned char)**text);
	size_t size;

	if (digits && !read_number(text, &number))
		return false;
	if (**text == '.') {
		fraction = ++*text;
		size = strspn(fraction, "0123456789");
		digits = digits || size > 0;
		*text += size;
	}
	size = strcspn(*text, ".0123456789");
	unit = find_unit(*text, size);
	if (!digits || !unit)
		return false;
	*text += size;
	if (fraction)
		part = read_fraction(fraction, unit->ns);
	return !__builtin_mul_overflow(number, unit->ns, ns) && !__builtin_add_overflow(*ns, part, ns);
}

bool ks_parse_time(const char *text, int64_t *ms)
{
	int64_t total = 0;

	*ms = 0;
	if (strcmp(text, "0") == 0)
		return true;
	if (*text == '\0')
		return false;
	while (*text) {
		int64_t ns = 0;

		if (!read_piece(&text, &ns) || __builtin_add_overflow(total, ns, &total))
			return false;
	}
	*ms = total / NS_PER_MS + (total % NS_PER_MS != 0);
	return true;
}

bool ks_parse_bool(const char *text, bool *value)
{
	static const char *const truths[] = {"1", "t", "T", "TRUE", "true", "True"};
	static const char *const lies[] = {"0", "f", "F", "FALSE", "false", "False"};

	for (size_t i = 0; i < sizeof(truths) / sizeof(*truths); i++) {
		*value = strcmp(text, truths[i]) == 0;
		if (*value || strcmp(text, lies[i]) == 0)
			return true;
	}
	return false;
}

bool ks_parse_choice(const char *text, const char *choices)
{
	size_t size = strlen(text);

	while (*choices) {
		size_t length = strcspn(choices, "|");

		if (length == size && memcmp(choices, text, size) == 0)
			return true;
		choices += length + (choices[length] == '|');
	}
	return false;
}
