/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of a program: command line, environment and configuration file, all made from the rows of its table
 * (options_program.h; kineshim's is options_table.h).
 *
 * A flag wins over its variable, KINESHIM_ (or DPAGENT_) + the flag in capitals with '_' for '-', which wins over the default. Empty variables
 * count as not set. With --config-file the file alone counts, as with etcd: what other flags and variables set is ignored, and
 * said on the log.
 *
 * Owner: texts in a struct ks_options are borrowed from argv and the environment or belong to it, until ks_options_fini.
 * Errors: KS_INVALID_ARGUMENT with a text for a person, who may be an operator: it names where the value stands.
 */
#ifndef KS_OPTIONS_H
#define KS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/status.h"
#include "options_program.h"
#include "tools/tools.h"

#define KS_OPTION_TYPE_TEXT const char *
#define KS_OPTION_TYPE_CHOICE const char *
#define KS_OPTION_TYPE_NUMBER int64_t
#define KS_OPTION_TYPE_BYTES int64_t
#define KS_OPTION_TYPE_TIME int64_t
#define KS_OPTION_TYPE_BOOL bool
#define KS_OPTION_TYPE_SWITCH bool
#define KS_OPTION_TYPE_LEVEL enum ks_diag_level
#define KS_OPTION_TYPE_FORMAT enum ks_diag_format

#define KS_OPTIONS_MAX 256

struct ks_options {
#define GROUP(title)
#define OPTION(kind, member, flag, initial, least, most, help) KS_OPTION_TYPE_##kind member;
#define ALIAS(flag, of)
#define IGNORED(kind, flag, why)
#define REFUSED(kind, flag, harmless, advice)
#include KS_OPTIONS_TABLE

	/* Of the module: by row of the table, how it was set; and the texts that are not borrowed. */
	uint8_t origins[KS_OPTIONS_MAX];
	bool password_shown; /* it stands on the command line */
	char **owned;
	size_t owned_count;
};

/*
 * Reads the environment, argv, and the configuration file when one is named. 'getenv_fn' is getenv but for tests. To be
 * followed by ks_options_fini, also after an error.
 */
enum ks_status ks_options_parse(struct ks_options *options, int argc, char *const argv[],
				char *(*getenv_fn)(const char *name), struct ks_err *err) KS_MUST_CHECK;
void ks_options_fini(struct ks_options *options);
/* Was that flag set, by whatever counts (not by its default)? 'flag' is one of the table's, without dashes. */
bool ks_options_given(const struct ks_options *options, const char *flag);
/*
 * Says on the log what has no effect, what a configuration file overrides, and which variables look like ours and are not (these
 * are typing errors).
 */
void ks_options_report(const struct ks_options *options, char *const *environment);

/* ---- options_help.c, options_completion.c ---- */

/* 'tools' ends with a row without a name, as ks_tools does. */
void ks_options_help(FILE *out, const struct ks_tool *tools);
void ks_options_version(FILE *out, bool verbose);
/* The completion script of a shell, "bash", "zsh" or "fish"; false when there is none. */
bool ks_options_completion(FILE *out, const char *shell, const struct ks_tool *tools);

#endif
