/* SPDX-License-Identifier: Apache-2.0 */
/* PROGRAM completion SHELL: the script that the shell reads, e.g. `source <(kineshim completion bash)`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "tools/tools.h"

int ks_tool_completion(int argc, char *argv[])
{
	static const char usage[] = "Usage: " KS_PROGRAM " completion bash|zsh|fish\n"
				    "\n"
				    "Prints the completion script of that shell. For this session of bash:\n"
				    "  source <(" KS_PROGRAM " completion bash)\n";

	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		(void)fputs(usage, stdout);
	} else if (argc != 2 || !ks_options_completion(stdout, argv[1], ks_tools)) {
		(void)fputs(usage, stderr);
		return 2;
	}
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
