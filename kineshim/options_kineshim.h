/* SPDX-License-Identifier: Apache-2.0 */
/* The options of kineshim, see options_program.h. */
#ifndef KS_OPTIONS_KINESHIM_H
#define KS_OPTIONS_KINESHIM_H

#define KS_OPTIONS_TABLE "options_table.h"
#define KS_PROGRAM "kineshim"
#define KS_ENV_PREFIX "KINESHIM_"
#define KS_USAGE                    \
	"Usage: kineshim [flags]\n" \
	"       kineshim COMMAND [arguments]\n"
#define KS_SUMMARY "An etcd v3 server that keeps its data in an SQL database. Without a command it serves.\n"
#define KS_CONFIG_PAGE "kineshim-config(5)"
#define KS_HELP_END "kineshim(8) and kineshim-config(5) say more."

#endif
