/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subcommands: `kineshim NAME …` does one thing and ends, without a server. Each is one row of the program's table (kineshim's
 * is in tools.c) and a file of its own.
 */
#ifndef KS_TOOLS_TOOLS_H
#define KS_TOOLS_TOOLS_H

struct ks_tool {
	const char *name;
	const char *summary; /* one line of --help */
	/* argv[0] is the subcommand's name. Gives the exit status: 0, 1 for a failure, 2 for wrong usage. */
	int (*run)(int argc, char *argv[]);
};

/* Ends with a row without a name. */
extern const struct ks_tool ks_tools[];
const struct ks_tool *ks_tool_find(const char *name);

int ks_tool_completion(int argc, char *argv[]);
int ks_tool_help(int argc, char *argv[]);
int ks_tool_import(int argc, char *argv[]);
int ks_tool_pki(int argc, char *argv[]);
int ks_tool_restore(int argc, char *argv[]);

#endif
