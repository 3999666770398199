/* SPDX-License-Identifier: Apache-2.0 */
/* The command line and the environment; see options.h and, for the other files, options_priv.h. */
#include "options_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/panic.h"

/* ---- the command line and the environment ---- */

static enum ks_status unknown_flag(const char *name, size_t size, struct ks_err *err)
{
	const char *nearest = ks_option_nearest(name, size);
	int shown = size < NAME_MAX_SIZE ? (int)size : NAME_MAX_SIZE;

	if (nearest)
		return ks_fail(err, KS_INVALID_ARGUMENT, "unknown flag --%.*s; did you mean --%s?", shown, name,
			       nearest);
	return ks_fail(err, KS_INVALID_ARGUMENT, "unknown flag --%.*s; see --help", shown, name);
}

static bool is_switch(const struct option *option)
{
	enum kind kind = ks_option_target(option)->kind;

	return kind == BOOL || kind == SWITCH;
}

/* Takes the flag at argv[*i] and, where it has one, its value. */
static enum ks_status parse_flag(struct ks_options *options, int argc, char *const argv[], int *i, struct ks_err *err)
{
	const char *name = argv[*i] + (argv[*i][1] == '-' ? 2 : 1);
	const char *equals = strchr(name, '=');
	size_t size = equals ? (size_t)(equals - name) : strlen(name);
	const struct option *option = ks_option_find(name, size);
	char where[NAME_MAX_SIZE + 4];

	if (!option && size == 1 && *name == 'h')
		option = ks_option_find("help", 4);
	if (!option)
		return unknown_flag(name, size, err);
	(void)snprintf(where, sizeof(where), "--%s", option->flag);
	if (equals)
		return ks_option_set(options, option, FROM_FLAG, where, equals + 1, err);
	if (is_switch(option))
		return ks_option_set(options, option, FROM_FLAG, where, "true", err);
	if (*i + 1 == argc)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s needs a value", where);
	return ks_option_set(options, option, FROM_FLAG, where, argv[++*i], err);
}

/* Whoever forgets the flag before a URL does not find his password in the journal. */
static enum ks_status refuse_argument(struct ks_options *options, int i, char *const argv[], struct ks_err *err)
{
	if (i > 1 && argv[i - 1][0] == '-' && (strcmp(argv[i], "true") == 0 || strcmp(argv[i], "false") == 0))
		return ks_fail(err, KS_INVALID_ARGUMENT, "\"%s\" is not a flag; write %.60s=%s", argv[i],
			       ks_option_masked(options, argv[i - 1]), argv[i]);
	return ks_fail(err, KS_INVALID_ARGUMENT, "\"%.60s\" is not a flag; see --help",
		       ks_option_masked(options, argv[i]));
}

static enum ks_status parse_arguments(struct ks_options *options, int argc, char *const argv[], struct ks_err *err)
{
	enum ks_status status = KS_OK;

	for (int i = 1; i < argc && status == KS_OK; i++) {
		if (argv[i][0] == '-' && argv[i][1] != '\0' && strcmp(argv[i], "--") != 0)
			status = parse_flag(options, argc, argv, &i, err);
		else
			status = refuse_argument(options, i, argv, err);
	}
	return status;
}

static enum ks_status parse_environment(struct ks_options *options, char *(*getenv_fn)(const char *name),
					struct ks_err *err)
{
	for (size_t i = 0; i < ks_option_count; i++) {
		char name[NAME_MAX_SIZE];
		const char *text;
		enum ks_status status;

		ks_option_variable(&ks_option_rows[i], name);
		text = *name ? getenv_fn(name) : NULL;
		if (!text || !*text)
			continue;
		status = ks_option_set(options, &ks_option_rows[i], FROM_ENVIRONMENT, name, text, err);
		if (status != KS_OK)
			return status;
	}
	return KS_OK;
}

/* ---- what counts ---- */

static uint8_t counting(const struct ks_options *options)
{
	return *options->config_file ? FROM_FILE : FROM_FLAG | FROM_ENVIRONMENT;
}

uint8_t ks_option_given_as(const struct ks_options *options, const char *flag)
{
	const struct option *option = ks_option_find(flag, strlen(flag));
	uint8_t from;

	KS_ASSERT(option);
	from = options->origins[option - ks_option_rows] & counting(options);
	return from & FROM_FLAG ? FROM_FLAG : from;
}

const char *ks_option_list(struct ks_options *options, const char *list)
{
	char *out = ks_xstrdup(list);
	size_t size = 0;

	if (!strpbrk(list, " \t")) {
		free(out);
		return list;
	}
	while (*list) {
		size_t length;

		list += strspn(list, " \t");
		length = strcspn(list, ",");
		memcpy(out + size, list, length);
		size += length;
		while (length-- > 0 && strchr(" \t", out[size - 1]))
			size--;
		list += strcspn(list, ",");
		if (*list == ',')
			out[size++] = *list++;
	}
	out[size] = '\0';
	list = ks_options_keep(options, out);
	free(out);
	return list;
}

/* The file alone counts; what the switches of the command line ask for stays. */
static enum ks_status turn_to_file(struct ks_options *options, struct ks_err *err)
{
	struct ks_options before = *options;

	ks_options_set_initial(options);
	options->config_file = before.config_file;
	return ks_options_read_file(options, options->config_file, err);
}

enum ks_status ks_options_parse(struct ks_options *options, int argc, char *const argv[],
				char *(*getenv_fn)(const char *name), struct ks_err *err)
{
	enum ks_status status;

	*options = (struct ks_options){0};
	ks_options_set_initial(options);
	status = parse_environment(options, getenv_fn, err);
	if (status == KS_OK)
		status = parse_arguments(options, argc, argv, err);
	if (status != KS_OK || options->help || options->version)
		return status;
	if (*options->config_file)
		status = turn_to_file(options, err);
	return status == KS_OK ? ks_options_settle(options, getenv_fn, err) : status;
}

void ks_options_fini(struct ks_options *options)
{
	for (size_t i = 0; i < options->owned_count; i++)
		free(options->owned[i]);
	free(options->owned);
	options->owned = NULL;
	options->owned_count = 0;
}

/* ---- what was set ---- */

bool ks_options_given(const struct ks_options *options, const char *flag)
{
	return ks_option_given_as(options, flag) != 0;
}

static bool without_effect(const struct ks_options *options, const struct option *option)
{
	return option->class == CLASS_IGNORED && options->origins[option - ks_option_rows] & counting(options);
}

static bool overridden(const struct ks_options *options, const struct option *option)
{
	return *options->config_file && option->flag && option->kind != SWITCH &&
	       strcmp(option->flag, "config-file") != 0 &&
	       options->origins[option - ks_option_rows] & (FROM_FLAG | FROM_ENVIRONMENT);
}

static bool shadowed(const struct ks_options *options, const struct option *option)
{
	const uint8_t both = FROM_FLAG | FROM_ENVIRONMENT;

	return !*options->config_file && (options->origins[option - ks_option_rows] & both) == both;
}

/* One line for all of them. */
static void report_flags(const struct ks_options *options, const char *what,
			 bool (*concerns)(const struct ks_options *options, const struct option *option))
{
	struct ks_buf names;

	ks_buf_init(&names, 8192);
	for (size_t i = 0; i < ks_option_count; i++)
		if (concerns(options, &ks_option_rows[i]))
			ks_buf_printf(&names, " --%s", ks_option_rows[i].flag);
	if (names.size > 0)
		ks_diag(KS_WARN, "main", "%s:%.*s", what, (int)names.size, (const char *)names.data);
	ks_buf_fini(&names);
}

static bool is_variable(const char *name, size_t size)
{
	for (size_t i = 0; i < ks_option_count; i++) {
		char own[NAME_MAX_SIZE];

		ks_option_variable(&ks_option_rows[i], own);
		if (*own && strlen(own) == size && memcmp(own, name, size) == 0)
			return true;
	}
	return false;
}

/* etcd's own variables are a manifest that was copied: its settings would silently not be there. */
static bool is_variable_of_etcd(const char *name, size_t size)
{
	char flag[NAME_MAX_SIZE];
	size_t length = 0;

	if (size <= 5 || size > sizeof(flag) || memcmp(name, "ETCD_", 5) != 0)
		return false;
	for (size_t i = 5; i < size; i++)
		flag[length++] = name[i] == '_' ? '-' : (char)(name[i] | 0x20);
	return ks_option_find(flag, length) && ks_option_target(ks_option_find(flag, length))->kind != SWITCH;
}

/* Set in every pod beside a service that is called like us. */
static bool is_variable_of_kubernetes(const char *name)
{
	return strncmp(name, KS_ENV_PREFIX "SERVICE_", sizeof(KS_ENV_PREFIX "SERVICE_") - 1) == 0 ||
	       strncmp(name, KS_ENV_PREFIX "PORT", sizeof(KS_ENV_PREFIX "PORT") - 1) == 0;
}

static void report_variables(char *const *environment)
{
	for (; *environment; environment++) {
		size_t size = strcspn(*environment, "=");
		int shown = size < NAME_MAX_SIZE ? (int)size : NAME_MAX_SIZE;

		if (strncmp(*environment, KS_ENV_PREFIX, sizeof(KS_ENV_PREFIX) - 1) == 0 &&
		    !is_variable(*environment, size) && !is_variable_of_kubernetes(*environment))
			ks_diag(KS_WARN, "main", "unknown environment variable name=%.*s", shown, *environment);
		else if (is_variable_of_etcd(*environment, size))
			ks_diag(KS_WARN, "main", "environment variable of etcd is not read; use %s%.*s name=%.*s",
				KS_ENV_PREFIX, shown - 5, *environment + 5, shown, *environment);
	}
}

void ks_options_report(const struct ks_options *options, char *const *environment)
{
	report_flags(options, "the configuration file counts, ignored are the flags and variables", overridden);
	report_flags(options, "the flag counts, ignored is the environment variable of", shadowed);
	report_flags(options, "accepted without effect here (docs/configuration.md says why)", without_effect);
	report_variables(environment);
	ks_options_report_own(options);
}
