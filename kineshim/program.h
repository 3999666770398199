/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of a program: a subcommand, or options and a server that runs until a signal. Compiled once for each program, with
 * its options (options_program.h).
 */
#ifndef KS_PROGRAM_H
#define KS_PROGRAM_H

#include "base/status.h"
#include "options.h"

struct ks_program {
	/* Could it start with these, as far as that shows without a database, a port or a file? */
	enum ks_status (*check)(const struct ks_options *options, struct ks_err *err);
	/* NULL with KS_INVALID_ARGUMENT for bad options, other errors for what the machine refuses. */
	void *(*start)(const struct ks_options *options, struct ks_err *err);
	void (*stop)(void *server);
};

/* Gives the exit status: 0, 1 for a failure, 2 for wrong usage. */
int ks_program_run(const struct ks_program *program, int argc, char **argv);

#endif
