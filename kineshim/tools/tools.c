/* SPDX-License-Identifier: Apache-2.0 */
/* The table of subcommands, see tools.h. */
#include "tools/tools.h"

#include <stddef.h>

const struct ks_tool ks_tools[] = {
	{"completion", "print the completion script of a shell: bash, zsh or fish", ks_tool_completion},
	{"help", "explain a command: kineshim help COMMAND", ks_tool_help},
	{"import", "fill an empty database from kine or a running etcd, and follow it until the cut-over",
	 ks_tool_import},
	{"pki", "make an internal CA, and certificates of servers and clients", ks_tool_pki},
	{"restore", "fill an empty database with an etcd snapshot", ks_tool_restore},
	{NULL, NULL, NULL},
};
