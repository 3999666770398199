/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subcommands for people: `dpagent status` reads /status of the agent on this machine, `dpagent nodes` what all agents reported
 * upstream. argv[0] is the subcommand's name. `status` gives 0: ready, 1: not ready, 2: unreachable; `nodes` 0, or 1 for a
 * failure; both 2 for wrong usage.
 */
#ifndef DPA_STATUS_TOOL_H
#define DPA_STATUS_TOOL_H

int dpa_status_tool(int argc, char *argv[]);
int dpa_nodes_tool(int argc, char *argv[]);

#endif
