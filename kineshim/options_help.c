/* SPDX-License-Identifier: Apache-2.0 */
/* What is told about the options: --help in 80 columns, and --version. */
#include "config.h"

#include "options_priv.h"

#include <string.h>

#include "api/api.h"

#define WIDTH 80
#define INDENT 8

/* ---- text in columns ---- */

struct column {
	FILE *out;
	size_t at, indent;
};

/* Words go on a new line where they would cross the right edge. */
static void put_words(struct column *column, const char *text)
{
	while (*text) {
		size_t size = strcspn(text, " ");

		if (column->at > column->indent && column->at + 1 + size > WIDTH) {
			(void)fputc('\n', column->out);
			column->at = 0;
		} else if (column->at > column->indent) {
			(void)fputc(' ', column->out);
			column->at++;
		}
		if (column->at < column->indent) {
			(void)fprintf(column->out, "%*s", (int)(column->indent - column->at), "");
			column->at = column->indent;
		}
		(void)fwrite(text, 1, size, column->out);
		column->at += size;
		text += size + strspn(text + size, " ");
	}
}

static void end_column(struct column *column)
{
	(void)fputc('\n', column->out);
	column->at = 0;
}

/* ---- help ---- */

static const char *kind_name(enum kind kind)
{
	switch (kind) {
	case TEXT:
	case CHOICE:
		return " text";
	case NUMBER:
		return " number";
	case BYTES:
		return " size";
	case TIME:
		return " duration";
	case LEVEL:
		return " level";
	case FORMAT:
		return " format";
	case BOOL:
	case SWITCH:
		return "";
	}
	return "";
}

static void help_option(FILE *out, const struct option *option)
{
	struct column column = {.out = out, .indent = INDENT};
	char initial[128];

	(void)fprintf(out, "  --%s%s\n", option->flag, kind_name(option->kind));
	put_words(&column, option->text);
	(void)snprintf(initial, sizeof(initial), "[%.*s]", (int)strcspn(option->initial, "|"), option->initial);
	if (*option->initial)
		put_words(&column, initial);
	end_column(&column);
}

static void help_class(FILE *out, const char *title, enum class class, const char *ending)
{
	struct column column = {.out = out, .indent = 2};
	bool found = false;

	for (size_t i = 0; i < ks_option_count; i++)
		found = found || ks_option_rows[i].class == class;
	if (!found)
		return;
	(void)fprintf(out, "\n%s\n", title);
	for (size_t i = 0; i < ks_option_count; i++) {
		char word[NAME_MAX_SIZE + 4];

		(void)snprintf(word, sizeof(word), "--%s",
			       ks_option_rows[i].class == class ? ks_option_rows[i].flag : "");
		if (ks_option_rows[i].class == class)
			put_words(&column, word);
	}
	put_words(&column, ending);
	end_column(&column);
}

static bool has_options(size_t group)
{
	return group + 1 < ks_option_count && ks_option_rows[group + 1].class != CLASS_GROUP;
}

void ks_options_help(FILE *out, const struct ks_tool *tools)
{
	(void)fputs(KS_USAGE "\n" KS_SUMMARY, out);
	if (tools->name)
		(void)fputs("\nCommands:\n", out);
	for (; tools->name; tools++) {
		struct column column = {.out = out, .indent = 14};

		column.at = (size_t)fprintf(out, "  %s", tools->name);
		put_words(&column, tools->summary);
		end_column(&column);
	}
	for (size_t i = 0; i < ks_option_count; i++) {
		if (ks_option_rows[i].class == CLASS_GROUP && has_options(i))
			(void)fprintf(out, "\n%s:\n", ks_option_rows[i].text);
		else if (ks_option_rows[i].class == CLASS_OPTION)
			help_option(out, &ks_option_rows[i]);
	}
	help_class(out, "Older names:", CLASS_ALIAS, "");
	help_class(out, "Accepted without effect:", CLASS_IGNORED, "");
	help_class(out, "Refused:", CLASS_REFUSED, "");
	(void)fputs("\nEach flag but those of \"This program\" can be set in the environment, " KS_ENV_PREFIX
		    "NAME for\n--name, and in a file (--config-file). " KS_HELP_END "\n",
		    out);
}

void ks_options_version(FILE *out, bool verbose)
{
	(void)fprintf(out, KS_PROGRAM " Version: %s\netcd API: %s\n", PACKAGE_VERSION, KS_ETCD_VERSION);
	if (verbose)
		(void)fputs(KS_BUILD_SUMMARY, out);
}
