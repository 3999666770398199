/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file's keys are flags without dashes. As in etcd's file, those of TLS may also stand in two sections, with shorter
 * names; a duration may be a number of nanoseconds; a null leaves the default.
 */
#include "options_priv.h"

#include <string.h>
#include <strings.h>

#include "config_file.h"

static const struct {
	const char *section, *key, *flag;
} short_names[] = {
	{"client-transport-security", "crl-file", "client-crl-file"},
	{"client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"},
	{"client-transport-security", "allowed-cn", "client-cert-allowed-cn"},
	{"peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"},
	{"peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"},
};

static const struct {
	const char *section, *prefix;
} sections[] = {
	{"client-transport-security", ""},
	{"peer-transport-security", "peer-"},
};

struct file {
	struct ks_options *options;
	const char *path;
};

/* False when there is no such section. */
static bool flag_of(const struct ks_config_entry *entry, char flag[NAME_MAX_SIZE * 4])
{
	const char *prefix = *entry->section ? NULL : "";

	for (size_t i = 0; i < sizeof(short_names) / sizeof(*short_names); i++) {
		if (strcmp(entry->section, short_names[i].section) == 0 &&
		    strcmp(entry->key, short_names[i].key) == 0) {
			(void)snprintf(flag, NAME_MAX_SIZE * 4, "%s", short_names[i].flag);
			return true;
		}
	}
	for (size_t i = 0; i < sizeof(sections) / sizeof(*sections); i++)
		if (strcmp(entry->section, sections[i].section) == 0)
			prefix = sections[i].prefix;
	if (prefix)
		(void)snprintf(flag, NAME_MAX_SIZE * 4, "%s%s", prefix, entry->key);
	return prefix;
}

static enum ks_status unknown_key(const struct file *file, const struct ks_config_entry *entry, const char *flag,
				  struct ks_err *err)
{
	const char *nearest = ks_option_nearest(flag, strlen(flag));

	if (nearest && ks_option_target(ks_option_find(nearest, strlen(nearest)))->kind != SWITCH)
		return ks_fail(err, KS_INVALID_ARGUMENT, "%s:%u: unknown key \"%s\"; did you mean %s?", file->path,
			       entry->line, entry->key, nearest);
	return ks_fail(err, KS_INVALID_ARGUMENT, "%s:%u: unknown key \"%s\"; see " KS_CONFIG_PAGE, file->path,
		       entry->line, entry->key);
}

/* What YAML writes otherwise than a flag. */
static const char *as_flag_value(const struct option *option, const struct ks_config_entry *entry,
				 char scratch[NAME_MAX_SIZE])
{
	static const char *const truths[] = {"yes", "on", "y"};
	static const char *const lies[] = {"no", "off", "n"};
	size_t size = strlen(entry->value);

	if (option->kind == TIME && !entry->quoted && strspn(entry->value, "0123456789") == size &&
	    size < NAME_MAX_SIZE - 2) {
		(void)snprintf(scratch, NAME_MAX_SIZE, "%sns", entry->value);
		return scratch;
	}
	for (size_t i = 0; option->kind == BOOL && !entry->quoted && i < sizeof(truths) / sizeof(*truths); i++) {
		if (strcasecmp(entry->value, truths[i]) == 0)
			return "true";
		if (strcasecmp(entry->value, lies[i]) == 0)
			return "false";
	}
	return entry->value;
}

static enum ks_status take_entry(void *ctx, const struct ks_config_entry *entry, struct ks_err *err)
{
	const struct file *file = ctx;
	const struct option *option;
	char flag[NAME_MAX_SIZE * 4], where[KS_ERR_TEXT_MAX], scratch[NAME_MAX_SIZE];

	if (!flag_of(entry, flag))
		return ks_fail(err, KS_INVALID_ARGUMENT,
			       "%s:%u: unknown section \"%s\"; there are client-transport-security and "
			       "peer-transport-security",
			       file->path, entry->line, entry->section);
	option = ks_option_find(flag, strlen(flag));
	if (!option || ks_option_target(option)->kind == SWITCH || strcmp(flag, "config-file") == 0)
		return unknown_key(file, entry, flag, err);
	if (!*entry->value && !entry->quoted)
		return KS_OK;
	(void)snprintf(where, sizeof(where), "%s:%u: %s", file->path, entry->line, entry->key);
	return ks_option_set(file->options, option, FROM_FILE, where,
			     ks_options_keep(file->options, as_flag_value(ks_option_target(option), entry, scratch)),
			     err);
}

enum ks_status ks_options_read_text(struct ks_options *options, struct ks_slice text, const char *name,
				    struct ks_err *err)
{
	struct file file = {.options = options, .path = name};

	return ks_config_parse(text, name, take_entry, &file, err);
}

enum ks_status ks_options_read_file(struct ks_options *options, const char *path, struct ks_err *err)
{
	struct file file = {.options = options, .path = path};

	return ks_config_read(path, take_entry, &file, err);
}
