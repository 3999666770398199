/* SPDX-License-Identifier: Apache-2.0 */
/* The options of dpagent, see kineshim/options_program.h. */
#ifndef DPA_OPTIONS_DPAGENT_H
#define DPA_OPTIONS_DPAGENT_H

#define KS_OPTIONS_TABLE "agent_table.h"
#define KS_PROGRAM "dpagent"
#define KS_ENV_PREFIX "DPAGENT_"
#define KS_USAGE                                           \
	"Usage: dpagent --upstream URL[,URL...] [flags]\n" \
	"       dpagent COMMAND [arguments]\n"
#define KS_SUMMARY                                                                                 \
	"A local etcd beside a data plane: it mirrors the keys under one prefix of an etcd, and\n" \
	"serves them on when that is gone. Without a command it serves.\n"
#define KS_CONFIG_PAGE "dpagent(8)"
#define KS_HELP_END "dpagent(8) says more."

#endif
