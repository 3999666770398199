/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of the table as data, see options_priv.h. */
#include "options_priv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mask.h"
#include "base/panic.h"
#include "option_values.h"

const struct option ks_option_rows[] = {
#define GROUP(title) {.class = CLASS_GROUP, .text = (title)},
#define OPTION(type, member, name, value, min, max, help) \
	{CLASS_OPTION, type, name, offsetof(struct ks_options, member), value, min, max, help},
#define ALIAS(name, of) {.class = CLASS_ALIAS, .flag = (name), .text = (of)},
#define IGNORED(type, name, why) {CLASS_IGNORED, type, name, 0, "", 0, INT64_MAX, why},
#define REFUSED(type, name, harmless, advice) {CLASS_REFUSED, type, name, 0, harmless, 0, INT64_MAX, advice},
#include KS_OPTIONS_TABLE
};
const size_t ks_option_count = sizeof(ks_option_rows) / sizeof(*ks_option_rows);
_Static_assert(sizeof(ks_option_rows) / sizeof(*ks_option_rows) <= KS_OPTIONS_MAX,
	       "more rows than bits to remember them");

const struct option *ks_option_find(const char *name, size_t size)
{
	for (size_t i = 0; i < ks_option_count; i++) {
		const char *flag = ks_option_rows[i].flag;

		if (flag && strlen(flag) == size && memcmp(flag, name, size) == 0)
			return &ks_option_rows[i];
	}
	return NULL;
}

const struct option *ks_option_target(const struct option *option)
{
	if (option->class != CLASS_ALIAS)
		return option;
	option = ks_option_find(option->text, strlen(option->text));
	KS_ASSERT(option && option->class != CLASS_ALIAS);
	return option;
}

void ks_option_variable(const struct option *option, char name[NAME_MAX_SIZE])
{
	size_t i = sizeof(KS_ENV_PREFIX) - 1;

	name[0] = '\0';
	if (!option->flag || ks_option_target(option)->kind == SWITCH)
		return;
	memcpy(name, KS_ENV_PREFIX, i);
	for (const char *c = option->flag; *c && i < NAME_MAX_SIZE - 1; c++)
		name[i++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
	name[i] = '\0';
}

/* How many letters must be changed, left out or put in to get from a to b. */
static size_t distance(const char *a, size_t a_size, const char *b)
{
	size_t row[NAME_MAX_SIZE + 1];
	size_t b_size = strlen(b);

	KS_ASSERT(b_size < NAME_MAX_SIZE);
	for (size_t j = 0; j <= b_size; j++)
		row[j] = j;
	for (size_t i = 1; i <= a_size; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b_size; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_size];
}

const char *ks_option_nearest(const char *name, size_t size)
{
	const char *nearest = NULL;
	size_t least = size < NAME_MAX_SIZE ? size / 2 + 1 : 0;

	for (size_t i = 0; i < ks_option_count && least > 0; i++) {
		const char *flag = ks_option_rows[i].flag;
		size_t away = flag ? distance(name, size, flag) : least;

		if (away < least) {
			least = away;
			nearest = flag;
		}
	}
	return nearest;
}

static bool in_limits(const struct option *option, int64_t value)
{
	return value >= option->least && value <= option->most;
}

static bool parse_value(const struct option *option, const char *text, void *to, const char **expected)
{
	switch (option->kind) {
	case TEXT:
		*(const char **)to = text;
		return true;
	case CHOICE:
		*(const char **)to = text;
		*expected = option->initial;
		return ks_parse_choice(text, option->initial);
	case NUMBER:
		*expected = "a number";
		return ks_parse_number(text, to) && in_limits(option, *(int64_t *)to);
	case BYTES:
		*expected = "a size such as 64MiB";
		return ks_parse_bytes(text, to) && in_limits(option, *(int64_t *)to);
	case TIME:
		*expected = "a duration such as 10m or 500ms";
		return ks_parse_time(text, to) && in_limits(option, *(int64_t *)to);
	case LEVEL:
		*expected = "debug, info, warn or error";
		return ks_diag_parse_level(text, to);
	case FORMAT:
		*expected = "json or console";
		return ks_diag_parse_format(text, to);
	case BOOL:
	case SWITCH:
		*expected = "true or false";
		return ks_parse_bool(text, to);
	}
	return false;
}

static enum ks_status refuse_value(const struct option *option, const char *where, const char *text,
				   const char *expected, struct ks_err *err)
{
	if (option->kind == CHOICE)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: \"%.60s\" is none of %s", where, text, expected);
	if (option->most > 0 && option->most < INT64_MAX / 2)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: \"%.60s\" is not %s from %lld to %lld", where, text,
			       expected, (long long)option->least, (long long)option->most);
	return ks_fail(err, KS_INVALID_ARGUMENT, "%s: \"%.60s\" is not %s", where, text, expected);
}

enum ks_status ks_option_set(struct ks_options *options, const struct option *option, uint8_t from, const char *where,
			     const char *text, struct ks_err *err)
{
	const struct option *target = ks_option_target(option);
	const char *expected = "";
	union { /* for values that nobody wants */
		int64_t number;
		const char *text;
		bool truth;
		enum ks_diag_level level;
		enum ks_diag_format format;
	} scratch = {0};
	void *to = target->class == CLASS_OPTION ? (void *)((char *)options + target->offset) : &scratch;

	if (!parse_value(target, text, to, &expected))
		return refuse_value(target, where, ks_option_masked(options, text), expected, err);
	if (target->class == CLASS_REFUSED && *text && strcmp(text, target->initial) != 0 &&
	    !(target->kind == BOOL && !scratch.truth))
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: %s", where, target->text);
	/* What is switched off has no effect anywhere; nobody needs to be told. */
	if (target->class == CLASS_IGNORED && (!*text || (target->kind == BOOL && !scratch.truth)))
		return KS_OK;
	options->origins[option - ks_option_rows] |= from;
	options->origins[target - ks_option_rows] |= from;
	return KS_OK;
}

void ks_options_set_initial(struct ks_options *options)
{
	for (size_t i = 0; i < ks_option_count; i++) {
		const struct option *option = &ks_option_rows[i];
		const char *initial = option->initial;
		const char *expected;
		bool fine;

		if (option->class != CLASS_OPTION || option->kind == SWITCH)
			continue;
		if (option->kind == CHOICE)
			initial = ks_options_keep(options, initial);
		if (option->kind == CHOICE)
			((char *)(uintptr_t)initial)[strcspn(initial, "|")] = '\0';
		fine = parse_value(option, initial, (char *)options + option->offset, &expected);
		KS_ASSERT(fine);
	}
}

const char *ks_option_masked(struct ks_options *options, const char *text)
{
	const char *copy = ks_options_keep(options, text);

	ks_mask(options->owned[options->owned_count - 1], false);
	return copy;
}

const char *ks_options_keep(struct ks_options *options, const char *text)
{
	char *copy = ks_xstrdup(text);

	options->owned = ks_xrealloc(options->owned, (options->owned_count + 1) * sizeof(*options->owned));
	options->owned[options->owned_count++] = copy;
	return copy;
}
