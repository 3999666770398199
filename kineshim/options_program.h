/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose options these are. The files of the options (and frontend.c, server_tls.c) are compiled once for each program, with
 * KS_OPTIONS_PROGRAM naming a header that defines:
 *
 *	KS_OPTIONS_TABLE   the header with the rows
 *	KS_PROGRAM         the program's name
 *	KS_ENV_PREFIX      of its variables
 *	KS_SUMMARY         what --help says it is, one or more lines
 *	KS_USAGE           how it is called
 *	KS_CONFIG_PAGE     the manual page of the configuration file
 *	KS_HELP_END        where --help says more is to be read
 */
#ifndef KS_OPTIONS_PROGRAM_H
#define KS_OPTIONS_PROGRAM_H

#ifndef KS_OPTIONS_PROGRAM
#define KS_OPTIONS_PROGRAM "options_kineshim.h"
#endif
#include KS_OPTIONS_PROGRAM

#endif
