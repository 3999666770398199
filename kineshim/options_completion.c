/* SPDX-License-Identifier: Apache-2.0 */
/* The completion scripts of three shells, from the rows of the options and the table of subcommands. */
#include "options_priv.h"

#include <string.h>

/* Those that work and what their value is; older names and what has no effect is not worth typing. */
static bool completes(const struct option *option)
{
	return option->class == CLASS_OPTION;
}

static bool is_file(const struct option *option)
{
	return strstr(option->flag, "file") && option->kind == TEXT;
}

/* The values to choose from, separated by blanks; "" when there is no list. */
static const char *choices_of(const struct option *option)
{
	switch (option->kind) {
	case CHOICE:
		return option->initial;
	case LEVEL:
		return "debug|info|warn|error";
	case FORMAT:
		return "json|console";
	case TEXT:
	case NUMBER:
	case BYTES:
	case TIME:
	case BOOL:
	case SWITCH:
		return "";
	}
	return "";
}

/* As the inside of a single-quoted word of a shell, without what stands in brackets, colons and backslashes of zsh. */
static void put_quoted(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\'')
			(void)fputs("'\\''", out);
		else if (!strchr("[]:\\`$\"", *text))
			(void)fputc(*text, out);
		else
			(void)fputc(' ', out);
	}
}

static void complete_bash(FILE *out, const struct ks_tool *tools)
{
	(void)fputs("# bash completion for " KS_PROGRAM "; made by `" KS_PROGRAM " completion bash`\n"
		    "_" KS_PROGRAM "()\n{\n"
		    "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
		    "\tCOMPREPLY=()\n"
		    "\tif [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then prev=${COMP_WORDS[COMP_CWORD - "
		    "2]}; fi\n"
		    "\tcase $prev in\n",
		    out);
	for (size_t i = 0; i < ks_option_count; i++) {
		const struct option *option = &ks_option_rows[i];
		const char *choices = completes(option) ? choices_of(option) : "";

		if (!completes(option))
			continue;
		if (*choices) {
			(void)fprintf(out, "\t--%s) COMPREPLY=($(compgen -W '", option->flag);
			for (; *choices; choices++)
				(void)fputc(*choices == '|' ? ' ' : *choices, out);
			(void)fputs("' -- \"$cur\")); return ;;\n", out);
		} else if (is_file(option)) {
			(void)fprintf(out, "\t--%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", option->flag);
		} else if (strcmp(option->flag, "data-dir") == 0) {
			(void)fprintf(out, "\t--%s) COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n", option->flag);
		} else if (option->kind != BOOL && option->kind != SWITCH) {
			(void)fprintf(out, "\t--%s) return ;;\n", option->flag);
		}
	}
	(void)fputs("\tesac\n\tif [[ $cur == -* ]]; then\n\t\tCOMPREPLY=($(compgen -W '", out);
	for (size_t i = 0; i < ks_option_count; i++)
		if (completes(&ks_option_rows[i]))
			(void)fprintf(out, " --%s", ks_option_rows[i].flag);
	(void)fputs("' -- \"$cur\"))\n\telif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\tCOMPREPLY=($(compgen -W '", out);
	for (; tools->name; tools++)
		(void)fprintf(out, " %s", tools->name);
	(void)fputs("' -- \"$cur\"))\n\telse\n\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\tfi\n}\n"
		    "complete -o filenames -F _" KS_PROGRAM " " KS_PROGRAM "\n",
		    out);
}

static void complete_zsh(FILE *out, const struct ks_tool *tools)
{
	(void)fputs("#compdef " KS_PROGRAM "\n# zsh completion; made by `" KS_PROGRAM
		    " completion zsh`\n_arguments -S \\\n",
		    out);
	for (size_t i = 0; i < ks_option_count; i++) {
		const struct option *option = &ks_option_rows[i];
		const char *choices = completes(option) ? choices_of(option) : "";
		bool plain = option->kind == BOOL || option->kind == SWITCH;

		if (!completes(option))
			continue;
		(void)fprintf(out, "\t'--%s%s[", option->flag, plain ? "" : "=");
		put_quoted(out, option->text);
		(void)fputc(']', out);
		if (*choices) {
			(void)fprintf(out, ":%s:(", option->flag);
			for (; *choices; choices++)
				(void)fputc(*choices == '|' ? ' ' : *choices, out);
			(void)fputc(')', out);
		} else if (is_file(option)) {
			(void)fprintf(out, ":%s:_files", option->flag);
		} else if (!plain) {
			(void)fprintf(out, ":%s: ", option->flag);
		}
		(void)fputs("' \\\n", out);
	}
	(void)fputs("\t'1::command:((", out);
	for (; tools->name; tools++) {
		(void)fprintf(out, "%s\\:\"", tools->name);
		put_quoted(out, tools->summary);
		(void)fputs("\" ", out);
	}
	(void)fputs("))' \\\n\t'*::argument:_files'\n", out);
}

static void complete_fish(FILE *out, const struct ks_tool *tools)
{
	(void)fputs("# fish completion for " KS_PROGRAM "; made by `" KS_PROGRAM " completion fish`\n", out);
	for (; tools->name; tools++) {
		(void)fprintf(out, "complete -c " KS_PROGRAM " -n __fish_use_subcommand -f -a %s -d '", tools->name);
		put_quoted(out, tools->summary);
		(void)fputs("'\n", out);
	}
	for (size_t i = 0; i < ks_option_count; i++) {
		const struct option *option = &ks_option_rows[i];
		const char *choices = completes(option) ? choices_of(option) : "";

		if (!completes(option))
			continue;
		(void)fprintf(out, "complete -c " KS_PROGRAM " -l %s -d '", option->flag);
		put_quoted(out, option->text);
		(void)fputc('\'', out);
		if (*choices) {
			(void)fputs(" -x -a '", out);
			for (; *choices; choices++)
				(void)fputc(*choices == '|' ? ' ' : *choices, out);
			(void)fputc('\'', out);
		} else if (option->kind != BOOL && option->kind != SWITCH) {
			(void)fputs(is_file(option) ? " -r -F" : " -r", out);
		}
		(void)fputc('\n', out);
	}
}

bool ks_options_completion(FILE *out, const char *shell, const struct ks_tool *tools)
{
	static const struct {
		const char *shell;
		void (*complete)(FILE *out, const struct ks_tool *tools);
	} shells[] = {{"bash", complete_bash}, {"zsh", complete_zsh}, {"fish", complete_fish}};

	for (size_t i = 0; i < sizeof(shells) / sizeof(*shells); i++) {
		if (strcmp(shell, shells[i].shell) == 0) {
			shells[i].complete(out, tools);
			return true;
		}
	}
	return false;
}
