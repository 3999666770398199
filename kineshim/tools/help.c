/* SPDX-License-Identifier: Apache-2.0 */
/* PROGRAM help [COMMAND]: what --help says of the server, or of a subcommand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "tools/tools.h"

const struct ks_tool *ks_tool_find(const char *name)
{
	for (const struct ks_tool *tool = ks_tools; tool->name; tool++)
		if (strcmp(tool->name, name) == 0)
			return tool;
	return NULL;
}

int ks_tool_help(int argc, char *argv[])
{
	const struct ks_tool *tool = argc > 1 ? ks_tool_find(argv[1]) : NULL;
	char ask[] = "--help";

	if (argc > 2 || (argc == 2 && !tool)) {
		(void)fprintf(stderr, KS_PROGRAM ": no command is called \"%.60s\"; see " KS_PROGRAM " --help\n",
			      argv[argc - 1]);
		return 2;
	}
	if (tool && tool->run != ks_tool_help) {
		char *ask_argv[] = {argv[1], ask, NULL};

		return tool->run(2, ask_argv);
	}
	ks_options_help(stdout, ks_tools);
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
