/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subcommands for people: `dpagent snapshot status|verify|keys FILE` looks into an image, `dpagent keygen --out=PREFIX` makes a pair of keys.
 * argv[0] is the subcommand's name. They give the exit status: 0, 1 for a failure, 2 for wrong usage.
 */
#ifndef DPA_SNAPSHOT_TOOL_H
#define DPA_SNAPSHOT_TOOL_H

int dpa_snapshot_tool(int argc, char *argv[]);
int dpa_keygen_tool(int argc, char *argv[]);

#endif
