/* SPDX-License-Identifier: Apache-2.0 */
/* dpagent's table of subcommands, see kineshim/tools/tools.h. */
#include <stddef.h>

#include "snapshot/tool.h"
#include "status/tool.h"
#include "tools/tools.h"

const struct ks_tool ks_tools[] = {
	{"completion", "print the completion script of a shell: bash, zsh or fish", ks_tool_completion},
	{"help", "explain a command: dpagent help COMMAND", ks_tool_help},
	{"keygen", "make a pair of keys for --sign-key and --verify-key", dpa_keygen_tool},
	{"nodes", "list the agents that are, or were, at an upstream", dpa_nodes_tool},
	{"snapshot", "look into an image of the last known good configuration", dpa_snapshot_tool},
	{"status", "say how the agent on this machine is", dpa_status_tool},
	{NULL, NULL, NULL},
};
