/* SPDX-License-Identifier: Apache-2.0 */
/* Options as data: the table of options.h, its parser and its help. */
#include "config.h"

#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

#define ENV_PREFIX "KINESHIM_"
#define NAME_MAX_SIZE 64

enum kind { TEXT, NUMBER, BYTES, TIME, LEVEL, FORMAT, SWITCH };

struct option {
	enum kind kind;
	size_t offset;
	const char *flag;
	const char *initial;
	int64_t least, most;
	const char *help;
};

static const struct option table[] = {
#define ROW(kind, member, flag, initial, least, most, help) \
	{kind, offsetof(struct ks_options, member), flag, initial, least, most, help},
	KS_OPTIONS(ROW)
#undef ROW
};
#define OPTION_COUNT (sizeof(table) / sizeof(*table))

/* ---- values ---- */

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

bool ks_parse_time(const char *text, int64_t *ms)
{
	static const struct {
		const char *suffix;
		int64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};

	*ms = 0;
	if (strcmp(text, "0") == 0)
		return true;
	if (*text == '\0')
		return false;
	while (*text) {
		size_t unit = 0;
		size_t size;
		int64_t number;

		if (!read_number(&text, &number))
			return false;
		size = strcspn(text, "0123456789");
		while (unit < 4 && (strlen(units[unit].suffix) != size || strncmp(text, units[unit].suffix, size) != 0))
			unit++;
		if (unit == 4 || __builtin_mul_overflow(number, units[unit].ms, &number) ||
		    __builtin_add_overflow(*ms, number, ms))
			return false;
		text += size;
	}
	return true;
}

static bool in_limits(const struct option *option, int64_t value)
{
	return value >= option->least && value <= option->most;
}

static bool parse_value(const struct option *option, const char *text, void *to, const char **expected)
{
	int64_t *number = to;
	bool *flag = to;

	switch (option->kind) {
	case TEXT:
		*(const char **)to = text;
		return true;
	case NUMBER:
		*expected = "a number";
		return read_number(&text, number) && *text == '\0' && in_limits(option, *number);
	case BYTES:
		*expected = "a size such as 64MiB";
		return ks_parse_bytes(text, number) && in_limits(option, *number);
	case TIME:
		*expected = "a duration such as 10m or 500ms";
		return ks_parse_time(text, number) && in_limits(option, *number);
	case LEVEL:
		*expected = "debug, info, warn or error";
		return ks_diag_parse_level(text, to);
	case FORMAT:
		*expected = "json or console";
		return ks_diag_parse_format(text, to);
	case SWITCH:
		*expected = "true or false";
		*flag = strcmp(text, "true") == 0;
		return *flag || strcmp(text, "false") == 0;
	}
	return false;
}

/* 'origin' is how the user wrote the option. */
static enum ks_status set_option(struct ks_options *options, const struct option *option, const char *origin,
				 const char *text, struct ks_err *err)
{
	const char *expected = "";

	if (parse_value(option, text, (char *)options + option->offset, &expected))
		return KS_OK;
	if (option->most > 0 && option->most < INT64_MAX / 2)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s: \"%.60s\" is not %s from %lld to %lld", origin, text,
			       expected, (long long)option->least, (long long)option->most);
	return ks_fail(err, KS_INVALID_ARGUMENT, "%s: \"%.60s\" is not %s", origin, text, expected);
}

/* ---- names ---- */

static void env_name(const struct option *option, char name[NAME_MAX_SIZE])
{
	size_t i = sizeof(ENV_PREFIX) - 1;

	memcpy(name, ENV_PREFIX, i);
	for (const char *c = option->flag; *c && i < NAME_MAX_SIZE - 1; c++)
		name[i++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
	name[i] = '\0';
}

static const struct option *find_flag(const char *name, size_t size)
{
	for (size_t i = 0; i < OPTION_COUNT; i++)
		if (strlen(table[i].flag) == size && strncmp(table[i].flag, name, size) == 0)
			return &table[i];
	return size == 1 && *name == 'h' ? find_flag("help", 4) : NULL;
}

/* How many letters must be changed, left out or put in to get from a to b. */
static size_t distance(const char *a, size_t a_size, const char *b)
{
	size_t row[NAME_MAX_SIZE + 1];
	size_t b_size = strlen(b);

	for (size_t j = 0; j <= b_size; j++)
		row[j] = j;
	for (size_t i = 1; i <= a_size; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b_size; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[b_size];
}

/* NULL when nothing comes near: half of the letters must be right. */
static const char *nearest_flag(const char *name, size_t size)
{
	const char *nearest = NULL;
	size_t least = size < NAME_MAX_SIZE ? size / 2 + 1 : 0;

	for (size_t i = 0; i < OPTION_COUNT && least > 0; i++) {
		size_t away = distance(name, size, table[i].flag);

		if (away < least) {
			least = away;
			nearest = table[i].flag;
		}
	}
	return nearest;
}

static enum ks_status unknown_flag(const char *name, size_t size, struct ks_err *err)
{
	const char *nearest = nearest_flag(name, size);
	int shown = size < NAME_MAX_SIZE ? (int)size : NAME_MAX_SIZE;

	if (nearest)
		return ks_fail(err, KS_INVALID_ARGUMENT, "unknown flag --%.*s; did you mean --%s?", shown, name,
			       nearest);
	return ks_fail(err, KS_INVALID_ARGUMENT, "unknown flag --%.*s; see --help", shown, name);
}

/* ---- the command line ---- */

/* Takes the flag at argv[*i] and, where it has one, its value. */
static enum ks_status parse_flag(struct ks_options *options, int argc, char *const argv[], int *i, struct ks_err *err)
{
	const char *name = argv[*i] + (argv[*i][1] == '-' ? 2 : 1);
	const char *equals = strchr(name, '=');
	size_t size = equals ? (size_t)(equals - name) : strlen(name);
	const struct option *option = find_flag(name, size);
	char origin[NAME_MAX_SIZE + 4];

	if (!option)
		return unknown_flag(name, size, err);
	(void)snprintf(origin, sizeof(origin), "--%s", option->flag);
	if (equals)
		return set_option(options, option, origin, equals + 1, err);
	if (option->kind == SWITCH)
		return set_option(options, option, origin, "true", err);
	if (*i + 1 == argc)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s needs a value", origin);
	return set_option(options, option, origin, argv[++*i], err);
}

static enum ks_status parse_environment(struct ks_options *options, char *(*getenv_fn)(const char *name),
					struct ks_err *err)
{
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		char name[NAME_MAX_SIZE];
		const char *text;
		enum ks_status status;

		if (table[i].kind == SWITCH)
			continue;
		env_name(&table[i], name);
		text = getenv_fn(name);
		if (!text || !*text)
			continue;
		status = set_option(options, &table[i], name, text, err);
		if (status != KS_OK)
			return status;
	}
	return KS_OK;
}

enum ks_status ks_options_parse(struct ks_options *options, int argc, char *const argv[],
				char *(*getenv_fn)(const char *name), struct ks_err *err)
{
	enum ks_status status = KS_OK;

	*options = (struct ks_options){0};
	for (size_t i = 0; i < OPTION_COUNT && status == KS_OK; i++)
		if (table[i].kind != SWITCH)
			status = set_option(options, &table[i], table[i].flag, table[i].initial, err);
	if (status == KS_OK)
		status = parse_environment(options, getenv_fn, err);
	for (int i = 1; i < argc && status == KS_OK; i++) {
		if (argv[i][0] == '-' && argv[i][1] != '\0' && strcmp(argv[i], "--") != 0)
			status = parse_flag(options, argc, argv, &i, err);
		else
			status = ks_fail(err, KS_INVALID_ARGUMENT, "\"%.60s\" is not a flag; see --help", argv[i]);
	}
	if (status == KS_OK && !*options->advertise_client_urls)
		options->advertise_client_urls = options->listen_client_urls;
	return status;
}

void ks_options_check_environment(char *const *environment)
{
	for (; *environment; environment++) {
		size_t size = strcspn(*environment, "=");
		size_t i = 0;

		if (strncmp(*environment, ENV_PREFIX, sizeof(ENV_PREFIX) - 1) != 0)
			continue;
		for (; i < OPTION_COUNT; i++) {
			char name[NAME_MAX_SIZE];

			env_name(&table[i], name);
			if (table[i].kind != SWITCH && strlen(name) == size && strncmp(name, *environment, size) == 0)
				break;
		}
		if (i == OPTION_COUNT)
			ks_diag(KS_WARN, "main", "unknown environment variable name=%.*s", (int)size, *environment);
	}
}

/* ---- help and version ---- */

void ks_options_help(FILE *out)
{
	(void)fputs("Usage: kineshim [flags]\n\nAn etcd v3 server that keeps its data in an SQL database.\n\nFlags:\n",
		    out);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		(void)fprintf(out, "  --%s\n      %s", table[i].flag, table[i].help);
		if (*table[i].initial)
			(void)fprintf(out, " [%s]", table[i].initial);
		(void)fputc('\n', out);
	}
	(void)fputs("\nEach flag but the last three can be set in the environment: " ENV_PREFIX
		    "LISTEN_CLIENT_URLS for --listen-client-urls.\n",
		    out);
}

void ks_options_version(FILE *out, bool verbose)
{
	(void)fprintf(out, "kineshim Version: %s\netcd API: %s\n", PACKAGE_VERSION, KS_ETCD_VERSION);
	if (verbose)
		(void)fputs(KS_BUILD_SUMMARY, out);
}
