/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the options share: the table's rows as data, and how one is found and set.
 *
 *	options_rows.c   names, nearest names, setting one row from a text
 *	options.c        command line, environment, the report on the log
 *	options_own.c    what must fit together in this program
 *	options_file.c   the configuration file
 *	options_help.c   --help, --version; options_completion.c for shells
 */
#ifndef KS_OPTIONS_PRIV_H
#define KS_OPTIONS_PRIV_H

#include <stddef.h>

#include "base/bytes.h"
#include "options.h"

#define NAME_MAX_SIZE 80

enum kind { TEXT, CHOICE, NUMBER, BYTES, TIME, BOOL, SWITCH, LEVEL, FORMAT };
enum class { CLASS_GROUP, CLASS_OPTION, CLASS_ALIAS, CLASS_IGNORED, CLASS_REFUSED };

struct option {
	enum class class;
	enum kind kind;
	const char *flag; /* a group has none */
	size_t offset;    /* in struct ks_options, of a CLASS_OPTION */
	const char *initial;
	int64_t least, most;
	const char *text; /* group: title; option: help; alias: the flag it stands for; others: why */
};

extern const struct option ks_option_rows[];
extern const size_t ks_option_count;

/* Bits of ks_options.origins. */
enum { FROM_ENVIRONMENT = 1, FROM_FLAG = 2, FROM_FILE = 4 };

/* NULL when there is no such flag. An alias is found as itself. */
const struct option *ks_option_find(const char *name, size_t size);
/* The flag that an alias stands for, any other row itself. */
const struct option *ks_option_target(const struct option *option);
/* KINESHIM_… of the flag; "" for those of the command line only. */
void ks_option_variable(const struct option *option, char name[NAME_MAX_SIZE]);
/* The flag nearest to what was written; NULL when nothing comes near: half of the letters must be right. */
const char *ks_option_nearest(const char *name, size_t size);
/*
 * 'where' is how the user wrote the option ("--name", "KINESHIM_NAME", "file.yml:3: name"). 'text' must live as long as the options. An
 * empty one from a file or the environment is the caller's to skip.
 */
enum ks_status ks_option_set(struct ks_options *options, const struct option *option, uint8_t from, const char *where,
			     const char *text, struct ks_err *err) KS_MUST_CHECK;
void ks_options_set_initial(struct ks_options *options);
/* A copy that lives as long as the options. */
const char *ks_options_keep(struct ks_options *options, const char *text);
/* options_own.c of each program, after everything was read: derived values, and what must fit together. */
enum ks_status ks_options_settle(struct ks_options *options, char *(*getenv_fn)(const char *name),
				 struct ks_err *err) KS_MUST_CHECK;
/* What this program has to say of its own on the log. */
void ks_options_report_own(const struct ks_options *options);
/* Where a flag's value comes from, one of the bits above; a flag hides its variable. 0: from its default. */
uint8_t ks_option_given_as(const struct ks_options *options, const char *flag);
/* The list without blanks around its commas, as etcd allows them for URLs. */
const char *ks_option_list(struct ks_options *options, const char *list);
/* A copy without passwords, whole: a text that is cut first may have lost what shows that it has one. */
const char *ks_option_masked(struct ks_options *options, const char *text);
/* Reads the configuration file over the defaults. */
enum ks_status ks_options_read_text(struct ks_options *options, struct ks_slice text, const char *name,
				    struct ks_err *err) KS_MUST_CHECK;
enum ks_status ks_options_read_file(struct ks_options *options, const char *path, struct ks_err *err) KS_MUST_CHECK;

#endif
